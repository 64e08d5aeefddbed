"""Word times of real speech are found from its text alone, whisper's output is taken, and damage is reported."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from hf_moshi_ttt.data.annotation import annotate, annotate_corpus, read_whisper
from hf_moshi_ttt.data.corpora import load_dailytalk
from hf_moshi_ttt.data.word_times import read_word_times
from hf_moshi_ttt.demo.debian_packages import PROMPTS_PACKAGE

from ..fixtures.corpora import unpacked
from ..fixtures.speech import Conversation, real_conversation


@pytest.fixture(scope="module")
def conversation(tmp_path_factory: pytest.TempPathFactory) -> Conversation:
    return real_conversation(unpacked(tmp_path_factory, PROMPTS_PACKAGE), turns=6, seed=0)


@pytest.fixture
def talks(tmp_path: Path, conversation: Conversation) -> Path:
    """A folder with the conversation and its transcript."""
    soundfile.write(tmp_path / "talk.wav", conversation.samples_CS.T, 24_000)
    (tmp_path / "talk.txt").write_text(conversation.transcript())
    return tmp_path


@pytest.fixture
def heard(tmp_path: Path) -> Path:
    """A folder with a conversation and what whisper-timestamped heard on its left channel."""
    soundfile.write(tmp_path / "talk.wav", np.zeros((24_000, 2)), 24_000)
    write_whisper(tmp_path / "talk.wav.words.json", (" Hello", 0.1, 0.5), ("[*]", 0.5, 0.6), (" there.", 0.45, 0.9))
    return tmp_path


def write_whisper(path: Path, *words: tuple[str, float | None, float | None]) -> Path:
    listed = [{"text": word, "start": start, "end": end, "confidence": 0.9} for word, start, end in words]
    segments = [{"id": 0, "text": "", "words": listed[:2]}, {"id": 1, "text": "", "words": listed[2:]}, {"id": 2}]
    path.write_text(json.dumps({"text": "", "segments": segments, "language": "en"}))
    return path


def test_words_of_real_speech_are_found_where_they_are(talks: Path, conversation: Conversation) -> None:
    """Twenty-odd words of a person; a word's true bounds are those of its loud samples."""
    summary = annotate_corpus(talks)
    assert (summary.annotated, summary.kept, summary.estimated_words, summary.bad.reasons) == (1, 0, 0, {})
    times = read_word_times(talks / "talk.json")
    truth = sorted(conversation.truth, key=lambda item: item[2])
    assert [(word["speaker"], word["word"]) for word in times.words] == [(speaker, word) for speaker, word, *_ in truth]
    error_sec = np.abs([word["start_sec"] - true[2] for word, true in zip(times.words, truth, strict=True)])
    assert np.median(error_sec) < 0.08 and error_sec.max() < 0.3
    assert times.labelled_until_sec == conversation.duration_sec
    assert json.loads((talks / "talk.json").read_text())["aligner"].startswith("pocketsphinx ")
    (row,) = load_dailytalk(talks)
    assert len(row["alignments"]) == len(truth)


def test_known_times_of_turns_are_kept_to(talks: Path, conversation: Conversation) -> None:
    lines, first = [], 0
    for speaker, text in conversation.turns:
        words = conversation.truth[first : first + len(text.split())]
        first += len(words)
        lines.append(f"[{words[0][2] - 0.1:.2f} {words[-1][3] + 0.1:.2f}] {speaker}: {text}\n")
    (talks / "talk.txt").write_text("".join(lines))
    found = annotate(talks / "talk.wav", talks)["alignments"]
    assert len(found) == len(conversation.truth)
    for (word, (start, end), speaker), (true_speaker, true_word, true_start, true_end) in zip(
        found, sorted(conversation.truth, key=lambda item: item[2]), strict=True
    ):
        assert (word, speaker) == (true_word, true_speaker)
        assert start == pytest.approx(true_start, abs=0.3) and end == pytest.approx(true_end, abs=0.4)


def test_unknown_words_stand_between_their_neighbours(talks: Path, conversation: Conversation) -> None:
    speaker, text = conversation.turns[2]
    first, *others = text.split()
    (talks / "talk.txt").write_text(conversation.transcript().replace(text, " ".join([first, "xyzzyq", *others]), 1))
    content = annotate(talks / "talk.wav", talks)
    assert content["estimated_words"] == ["xyzzyq"]
    own = [item for item in content["alignments"] if item[2] == speaker]
    place = [word for word, *_ in own].index("xyzzyq")
    assert own[place][1] == pytest.approx([own[place - 1][1][1], own[place + 1][1][0]], abs=2e-3)
    assert own[place][1][0] < own[place][1][1]
    (talks / "talk.json").write_text(json.dumps(content))
    assert len(read_word_times(talks / "talk.json").words) == len(conversation.truth) + 1


def test_whisper_timestamped_output_is_taken(heard: Path) -> None:
    main = [["Hello", [0.1, 0.45], "SPEAKER_MAIN"], ["there.", [0.45, 0.9], "SPEAKER_MAIN"]]
    assert annotate(heard / "talk.wav", heard)["alignments"] == main
    write_whisper(heard / "talk.user.words.json", ("Hi", 0.3, 0.6))
    content = annotate(heard / "talk.wav", heard)
    assert content["alignments"] == [main[0], ["Hi", [0.3, 0.6], "SPEAKER_USER"], main[1]]
    assert content["aligner"] == "whisper-timestamped"
    assert annotate_corpus(heard).annotated == 1 and len(read_word_times(heard / "talk.json").words) == 3


@pytest.mark.parametrize("content", ["{}", '{"segments": [{"words": [{"text": "a"}]}]}', '{"segments": [5]}'])
def test_other_json_is_not_taken_for_whispers(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.words.json").write_text(content)
    with pytest.raises(ValueError, match=r"a\.words\.json: not whisper-timestamped's output"):
        read_whisper(tmp_path / "a.words.json")


def test_words_of_whisper_itself_and_its_relatives_are_taken(tmp_path: Path) -> None:
    words = [{"word": " Hi", "start": 0.1, "end": 0.5, "probability": 0.9}]
    (tmp_path / "a.words.json").write_text(json.dumps({"segments": [{"words": words}]}))
    assert read_whisper(tmp_path / "a.words.json") == ([("Hi", 0.1, 0.5)], [])


def test_word_times_of_other_forms_are_taken_as_they_are(heard: Path) -> None:
    (heard / "talk.wav.words.json").unlink()
    (heard / "talk.ctm").write_text("talk A 0.10 0.20 Hi 0.9\ntalk B 0.15 0.10 you\ntalk A 0.25 0.30 there\n")
    content = annotate(heard / "talk.wav", heard)
    main = [["Hi", [0.1, 0.25], "SPEAKER_MAIN"], ["there", [0.25, 0.55], "SPEAKER_MAIN"]]
    assert content["alignments"] == [main[0], ["you", [0.15, 0.25], "SPEAKER_USER"], main[1]]
    assert (content["aligner"], content["estimated_words"]) == ("ctm", [])


def test_cues_are_aligned_within_their_times(talks: Path, conversation: Conversation) -> None:
    """One file a channel, as speech recognition writes them: they need no labels, and come before the text file."""
    first = 0
    cues: dict[str, list[str]] = {"SPEAKER_MAIN": [], "SPEAKER_USER": []}
    for speaker, text in conversation.turns:
        words = conversation.truth[first : first + len(text.split())]
        first += len(words)
        span = f"00:00:{words[0][2] - 0.1:06.3f} --> 00:00:{words[-1][3] + 0.1:06.3f}".replace(".", ",")
        cues[speaker].append(f"{len(cues[speaker]) + 1}\n{span}\n{text}\n")
    (talks / "talk.srt").write_text("\n".join(cues["SPEAKER_MAIN"]))
    (talks / "talk.user.srt").write_text("\n".join(cues["SPEAKER_USER"]))
    content = annotate(talks / "talk.wav", talks)
    truth = sorted(conversation.truth, key=lambda item: item[2])
    assert [(word, speaker) for word, _, speaker in content["alignments"]] == [(word, who) for who, word, *_ in truth]
    starts = [start for _, (start, _), _ in content["alignments"]]
    assert starts == pytest.approx([item[2] for item in truth], abs=0.3)
    assert content["aligner"].startswith("pocketsphinx ")


def test_one_odd_word_of_whisper_is_left_out_and_listed(heard: Path) -> None:
    """Without a start, or before the recording; an end before the start is the start."""
    odd = write_whisper(heard / "talk.wav.words.json", ("a", 1.0, 0.6), ("b", -1.0, 0.5), ("c", 0.2, None))
    assert read_whisper(odd) == ([("c", 0.2, 0.2), ("a", 1.0, 1.0)], ["'b' from -1.0 s to 0.5 s is no span of time."])
    summary = annotate_corpus(heard)
    assert (summary.annotated, summary.left_out_words) == (1, 1)
    assert json.loads((heard / "talk.json").read_text())["left_out_words"][0].startswith("'b' from -1.0 s")


def test_word_times_that_are_there_are_kept(heard: Path) -> None:
    (heard / "talk.json").write_text(json.dumps({"alignments": []}))
    assert annotate_corpus(heard).kept == 1
    assert read_word_times(heard / "talk.json").words == []
    assert annotate_corpus(heard, overwrite=True).annotated == 1
    assert read_word_times(heard / "talk.json").words != []


def test_transcripts_may_lie_in_a_folder_of_their_own(heard: Path, tmp_path: Path) -> None:
    (heard / "deep").mkdir()
    (heard / "talk.wav").rename(heard / "deep" / "talk.wav")
    (tmp_path / "texts" / "deep").mkdir(parents=True)
    (heard / "talk.wav.words.json").rename(tmp_path / "texts" / "deep" / "talk.words.json")
    assert annotate_corpus(heard, tmp_path / "texts").annotated == 1
    assert (heard / "deep" / "talk.json").is_file()


def test_what_would_be_refused_later_is_not_written(heard: Path) -> None:
    write_whisper(heard / "talk.wav.words.json", ("a", -1.0, 0.5))
    summary = annotate_corpus(heard, max_bad_fraction=1.0)
    assert "is no span of time" in summary.bad.reasons[str(heard / "talk.wav")]
    assert [path.name for path in heard.glob("*.json*")] == ["talk.wav.words.json"]


def damage(folder: Path) -> dict[str, Any]:
    """Files beside a good one, and what is wrong with each."""
    soundfile.write(folder / "mono.wav", np.zeros(2400), 24_000)
    soundfile.write(folder / "silent.wav", np.zeros((2400, 2)), 24_000)
    (folder / "silent.txt").write_text("SPEAKER_MAIN: one two three four five six seven eight nine ten eleven\n")
    soundfile.write(folder / "bare.wav", np.zeros((2400, 2)), 24_000)
    soundfile.write(folder / "latin.wav", np.zeros((2400, 2)), 24_000)
    (folder / "latin.txt").write_bytes(b"SPEAKER_MAIN: caf\xe9\n")
    return {
        "mono.wav": "1 channels, but a conversation has 2", "silent.wav": "words were to be aligned in",
        "bare.wav": "bare with one of .words.json, .ctm, .TextGrid, .vtt, .srt, .txt.",
        "latin.wav": "codec can't decode byte",
    }  # fmt: skip


def test_files_that_cannot_be_annotated_are_reported_and_bounded(heard: Path) -> None:
    wrong = damage(heard)
    with pytest.raises(ValueError, match=r"4 of 5 files cannot be used"):
        annotate_corpus(heard)
    summary = annotate_corpus(heard, max_bad_fraction=0.8)
    assert (summary.kept, summary.annotated) == (1, 0)
    for name, reason in wrong.items():
        assert reason in summary.bad.reasons[str(heard / name)]
    assert sorted(path.name for path in heard.glob("*.json*")) == ["talk.json", "talk.wav.words.json"]


def test_audio_may_lie_outside_the_folder_of_the_index_if_that_is_meant(tmp_path: Path) -> None:
    for name in ("audio", "meta"):
        (tmp_path / name).mkdir()
    samples = np.zeros((24_000, 2))
    soundfile.write(tmp_path / "audio" / "a.wav", samples, 24_000)
    words = {"segments": [{"words": [{"text": "hi", "start": 0.1, "end": 0.4}]}]}
    (tmp_path / "audio" / "a.words.json").write_text(json.dumps(words))
    index = tmp_path / "meta" / "data.jsonl"
    index.write_text(json.dumps({"path": str(tmp_path / "audio" / "a.wav"), "duration": 1.0}) + "\n")
    with pytest.raises(ValueError, match="outside of .*meta; if that is meant, give data_dir"):
        annotate_corpus(index)
    assert annotate_corpus(index, data_dir=tmp_path).annotated == 1


CTM_END = "talk A 7.5 0.30 never 0.9\n"
TIER = '"IntervalTier"\n"{}"\n0\n9\n2\n0\n7\n""\n7\n9\n"{}"\n'
GRID = 'File type = "ooTextFile"\nObject class = "TextGrid"\n0\n9\n<exists>\n2\n' + TIER.format("A", "one")


@pytest.mark.parametrize(
    ("ending", "text", "message"),
    [
        (".ctm", CTM_END, r"'never' from 7.5 s to 7.8 s begins after the .* end at 1.000 s \(1 of 1 words"),
        (".ctm", 2 * CTM_END + 2 * "talk A 0.1 0.1 Hi\n", r"talk\.ctm: .*1\.000 s \(2 of 4 words cannot be used\)"),
        (".txt", "[7 9] A: one two\n", r"talk\.txt: 'one two' from 7.0 s to 9.0 s begins after .*1 of 1 turns"),
        (".TextGrid", GRID + TIER.format("B", ""), r"talk\.TextGrid: 'one' from 7.0 s to 9.0 s begins after"),
    ],
)
def test_what_is_said_after_the_recordings_end_is_refused(heard: Path, ending: str, text: str, message: str) -> None:
    (heard / "talk.wav.words.json").unlink()
    (heard / f"talk{ending}").write_text(text)
    with pytest.raises(ValueError, match=message):
        annotate(heard / "talk.wav", heard)


def test_one_word_after_the_end_is_left_out_and_none_ends_there(heard: Path) -> None:
    (heard / "talk.wav.words.json").unlink()
    (heard / "talk.ctm").write_text("talk A 0.10 0.20 Hi\ntalk A 0.9 0.9 there\n" + CTM_END)
    content = annotate(heard / "talk.wav", heard)
    assert content["alignments"][1] == ["there", [0.9, 1.0], "SPEAKER_MAIN"]
    assert content["left_out_words"] == ["'never' from 7.5 s to 7.8 s begins after the recording's end at 1.000 s."]
    (heard / "talk.ctm").unlink()
    write_whisper(heard / "talk.wav.words.json", ("a", 0.1, 0.2), ("b", 3.0, 4.0))
    assert "'b' from 3.0 s to 4.0 s begins after" in annotate(heard / "talk.wav", heard)["left_out_words"][0]
