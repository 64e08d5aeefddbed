"""Prompts are split without overlap, joined as planned, marked with their licence, and equal for equal seeds."""

import json
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import soundfile

from hf_moshi_ttt.demo.debian_packages import PROMPTS_PACKAGE
from hf_moshi_ttt.demo.human_speech import (
    PromptChapter,
    build_human_speech,
    decode_prompt,
    human_seconds,
    list_prompts,
    plan_human_speech,
)

from ..fixtures.corpora import unpacked


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return list_prompts(unpacked(tmp_path_factory, PROMPTS_PACKAGE))


def of_split(chapters: list[PromptChapter], split: str) -> list[PromptChapter]:
    return [chapter for chapter in chapters if split in chapter.flac_path.parts]


def contents(chapters: list[PromptChapter]) -> list[str]:
    return [sha256(path.read_bytes()).hexdigest() for chapter in chapters for path in chapter.prompt_paths]


def test_heldout_prompts_are_never_in_training(prompts: list[Path]) -> None:
    chapters = plan_human_speech(prompts, Path("ll"), train_sec=5 * 3600, heldout_sec=3600, seed=0)
    train, heldout = (contents(of_split(chapters, split)) for split in ("train", "heldout"))
    assert not set(train) & set(heldout)
    assert sorted(train + heldout) == sorted(sha256(path.read_bytes()).hexdigest() for path in prompts)
    assert len(set(train + heldout)) == len(prompts)


def test_chapters_have_the_lengths_that_were_wanted(prompts: list[Path]) -> None:
    chapters = plan_human_speech(prompts, Path("ll"), train_sec=5 * 3600, heldout_sec=3600, seed=0)
    train_sec, heldout_sec = (human_seconds(chapters, split) for split in ("train", "heldout"))
    assert train_sec / (train_sec + heldout_sec) == pytest.approx(0.6, abs=0.02)
    assert [str(chapter.flac_path) for chapter in chapters][0] == (
        "ll/train/human_narrator/asterisk_prompts/asterisk_prompts_001.flac"
    )
    for split, shortest_sec in (("train", 240), ("heldout", 480)):
        for chapter in of_split(chapters, split):
            assert human_seconds([chapter], split) > shortest_sec


@pytest.mark.parametrize("train_sec, heldout_sec", [(180, 120), (1200, 60), (60, 0)])
def test_human_share_is_at_most_half_of_what_is_asked(prompts: list[Path], train_sec: int, heldout_sec: int) -> None:
    chapters = plan_human_speech(prompts, Path("ll"), train_sec, heldout_sec, seed=0)
    assert 0.35 * train_sec < human_seconds(chapters, "train") <= 0.5 * train_sec
    assert 0.35 * heldout_sec <= human_seconds(chapters, "heldout") <= 0.5 * heldout_sec


def test_seed_decides_what_is_held_out(prompts: list[Path]) -> None:
    plans = [plan_human_speech(prompts, Path("ll"), 5 * 3600, 3600, seed) for seed in (0, 0, 1)]
    assert plans[0] == plans[1]
    assert set(contents(of_split(plans[0], "heldout"))) != set(contents(of_split(plans[2], "heldout")))


def test_recording_is_the_joined_prompts_and_names_its_licence(prompts: list[Path], tmp_path: Path) -> None:
    builds = []
    for num_proc in (1, 2):
        chapters = plan_human_speech(prompts, tmp_path / str(num_proc), train_sec=40, heldout_sec=40, seed=0)
        build_human_speech(chapters, PROMPTS_PACKAGE, num_proc)
        builds.append([chapter.flac_path.read_bytes() for chapter in chapters])
    assert builds[0] == builds[1] and len(builds[0]) == 2
    samples, rate_hz = soundfile.read(chapters[0].flac_path)
    metadata = json.loads(chapters[0].flac_path.with_suffix(".json").read_text())
    assert (rate_hz, samples.ndim) == (24_000, 1)
    assert len(samples) / rate_hz == pytest.approx(human_seconds(chapters[:1], "train"), abs=0.1)
    assert metadata["source"]["licence"] == "CC-BY-SA-3.0" and metadata["speaker"] == "human_narrator"
    first_sec = len(decode_prompt(chapters[0].prompt_paths[0])) / rate_hz
    pause = samples[int((first_sec + 0.02) * rate_hz) : int((first_sec + 0.28) * rate_hz)]
    assert not pause.any() and np.abs(samples).max() > 0.1


def test_tones_silence_and_second_copies_are_left_out(prompts: list[Path], tmp_path: Path) -> None:
    (tmp_path / "silence").mkdir()
    for name in ("beep", "hello", "hello-again", "silence/1"):
        (tmp_path / f"{name}.g722").write_bytes(b"same" if "hello" in name else name.encode())
    assert [path.stem for path in list_prompts(tmp_path)] == ["hello-again"]
    assert len(prompts) > 450 and not {"beep", "tt-monkeys"} & {path.stem for path in prompts}


def test_decoded_prompt_has_its_length_and_is_speech(prompts: list[Path]) -> None:
    path = max(prompts, key=lambda prompt: prompt.stat().st_size)
    samples = decode_prompt(path)
    assert len(samples) / 24_000 == pytest.approx(path.stat().st_size / 8_000, abs=0.01)
    spectrum = np.abs(np.fft.rfft(samples)) ** 2
    below_8k_hz = spectrum[: int(len(spectrum) * 8 / 12)].sum()
    assert below_8k_hz / spectrum.sum() > 0.999 and np.abs(samples).max() <= 1.5


def test_folder_without_prompts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="unpack asterisk-core-sounds-en-g722 there"):
        list_prompts(tmp_path)
