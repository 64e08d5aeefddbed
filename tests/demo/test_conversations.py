"""Each line once and in one split, two channels that speak when the times say so, lists, and equal bytes."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from hf_moshi_ttt.data.forced_alignment import unknown_words
from hf_moshi_ttt.demo.conversations import (
    MAIN,
    USER,
    Conversation,
    build_conversations,
    line_key,
    load_exchanges,
    plan_conversations,
)


@pytest.fixture(scope="module")
def exchanges() -> list[list[str]]:
    return load_exchanges()


@pytest.fixture(scope="module")
def plan(exchanges: list[list[str]]) -> list[Conversation]:
    return plan_conversations(exchanges, count=2, seed=0)


@pytest.fixture(scope="module")
def dailytalk(plan: list[Conversation], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dailytalk")
    build_conversations(plan, folder, num_proc=2)
    return folder


def test_no_line_is_used_twice_and_a_tenth_is_held_out(exchanges: list[list[str]]) -> None:
    plan = plan_conversations(exchanges, count=60, seed=0)
    keys = [line_key(turn.text) for conversation in plan for turn in conversation.turns]
    repeats = len(keys) - len(set(keys))
    within = sum(len(lines) - len({line_key(line) for line in lines}) for lines in exchanges)
    assert repeats <= within
    train, heldout = (
        {line_key(turn.text) for conversation in plan if conversation.heldout == part for turn in conversation.turns}
        for part in (False, True)
    )
    assert not train & heldout
    assert sum(conversation.heldout for conversation in plan) == 6


def test_speakers_take_turns_and_every_word_can_be_aligned(exchanges: list[list[str]]) -> None:
    for conversation in plan_conversations(exchanges, count=60, seed=3):
        speakers = [turn.speaker for turn in conversation.turns]
        assert all(one != other for one, other in zip(speakers, speakers[1:], strict=False))
        assert set(speakers) == {MAIN, USER}
        assert not [word for turn in conversation.turns for word in unknown_words(turn.text)]


def test_too_many_conversations_name_the_limit(exchanges: list[list[str]]) -> None:
    with pytest.raises(ValueError, match=r"5 conversations are asked for, .* lines for 1; ask for at most 1"):
        plan_conversations([["Well, hello" * 14] * 4], count=5, seed=0)
    with pytest.raises(ValueError, match="count is -1, but 0 or more"):
        plan_conversations(exchanges, count=-1, seed=0)


def test_lists_name_every_conversation_once_with_its_length(plan: list[Conversation], dailytalk: Path) -> None:
    lines = [
        [json.loads(line) for line in (dailytalk / name).read_text().splitlines()]
        for name in ("dailytalk.jsonl", "dailytalk_heldout.jsonl")
    ]
    assert [entry["path"] for entry in lines[0]] == ["data_stereo/1.wav"]
    assert [entry["path"] for entry in lines[1]] == ["data_stereo/2.wav"]
    for entry in lines[0] + lines[1]:
        audio = soundfile.info(dailytalk / entry["path"])
        assert (audio.samplerate, audio.channels, audio.subtype) == (24_000, 2, "PCM_16")
        assert entry["duration"] == pytest.approx(audio.duration) and 20 <= audio.duration <= 60


def test_alignments_hold_every_word_in_order(plan: list[Conversation], dailytalk: Path) -> None:
    for conversation in plan:
        record = json.loads((dailytalk / conversation.path).with_suffix(".json").read_text())
        starts_sec = [times_sec[0] for _, times_sec, _ in record["alignments"]]
        assert starts_sec == sorted(starts_sec)
        for speaker in (MAIN, USER):
            said = [word for turn in conversation.turns if turn.speaker == speaker for word in turn.text.split()]
            found = [word for word, _, who in record["alignments"] if who == speaker]
            assert found == [word for word in said if any(letter.isalpha() for letter in word)]


def test_the_channel_of_the_speaker_sounds_during_a_word(plan: list[Conversation], dailytalk: Path) -> None:
    for conversation in plan:
        samples, rate_hz = soundfile.read(dailytalk / conversation.path)
        record = json.loads((dailytalk / conversation.path).with_suffix(".json").read_text())
        louder = []
        for _, (start_sec, end_sec), speaker in record["alignments"]:
            assert 0 <= start_sec < end_sec <= record["duration_sec"]
            left, right = np.square(samples[int(start_sec * rate_hz) : int(end_sec * rate_hz)]).mean(axis=0)
            louder.append((left > right) == (speaker == MAIN))
        assert np.mean(louder) > 0.97


def test_audio_between_words_is_quiet(plan: list[Conversation], dailytalk: Path) -> None:
    samples, rate_hz = soundfile.read(dailytalk / plan[0].path)
    record = json.loads((dailytalk / plan[0].path).with_suffix(".json").read_text())
    for channel, speaker in enumerate((MAIN, USER)):
        is_spoken = np.zeros(len(samples), bool)
        for _, (start_sec, end_sec), who in record["alignments"]:
            if who == speaker:
                is_spoken[int((start_sec - 0.05) * rate_hz) : int((end_sec + 0.05) * rate_hz)] = True
        power = np.square(samples[:, channel])
        assert power[~is_spoken].sum() < 0.02 * power.sum()


def test_bytes_do_not_depend_on_the_number_of_processes(
    plan: list[Conversation], dailytalk: Path, tmp_path: Path
) -> None:
    build_conversations(plan, tmp_path, num_proc=1)
    names = sorted(path.name for path in (dailytalk / "data_stereo").iterdir())
    assert names == ["1.json", "1.wav", "2.json", "2.wav"]
    for name in names:
        assert (tmp_path / "data_stereo" / name).read_bytes() == (dailytalk / "data_stereo" / name).read_bytes()


def test_second_run_keeps_what_is_there(plan: list[Conversation], dailytalk: Path) -> None:
    changed_ns = {path: path.stat().st_mtime_ns for path in dailytalk.rglob("data_stereo/*")}
    build_conversations(plan, dailytalk, num_proc=1)
    assert {path: path.stat().st_mtime_ns for path in dailytalk.rglob("data_stereo/*")} == changed_ns
