"""Plans that share no text between the splits, the layout on disk, equal bytes for equal seeds, and refusals."""

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from hf_moshi_ttt.demo.books import (
    SAMPLE_RATE_HZ,
    TRAIN_VOICES,
    UNSEEN_VOICES,
    Chapter,
    build_books,
    even_loudness,
    plan_books,
)
from hf_moshi_ttt.demo.debian_packages import NOVELS_PACKAGE, read_novels

from ..fixtures.corpora import unpacked

Novels = dict[str, list[str]]


@pytest.fixture(scope="module")
def novels(tmp_path_factory: pytest.TempPathFactory) -> Novels:
    return read_novels(unpacked(tmp_path_factory, NOVELS_PACKAGE))


@pytest.fixture(scope="module")
def tiny_plan(novels: Novels) -> list[Chapter]:
    return plan_books(novels, train_sec=30, heldout_sec=20, seed=0)


@pytest.fixture(scope="module")
def tiny_books(tiny_plan: list[Chapter], tmp_path_factory: pytest.TempPathFactory) -> Path:
    librilight_dir = tmp_path_factory.mktemp("books")
    build_books(tiny_plan, librilight_dir, NOVELS_PACKAGE, num_proc=2)
    return librilight_dir


def audio_bytes(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.flac"))}


def planned_sec(chapter: Chapter) -> float:
    return sum(map(len, chapter.paragraphs)) / chapter.voice.chars_per_sec


def runs_of_words(chapters: list[Chapter], count: int) -> set[str]:
    runs: set[str] = set()
    for chapter in chapters:
        words = re.findall(r"[a-z']+", " ".join(chapter.paragraphs).lower())
        runs.update(" ".join(words[place : place + count]) for place in range(len(words) - count + 1))
    return runs


def of_split(plan: list[Chapter], split: str) -> list[Chapter]:
    return [chapter for chapter in plan if chapter.split == split]


def test_heldout_text_is_in_no_training_chapter_of_any_voice(novels: Novels) -> None:
    plan = plan_books(novels, train_sec=40 * 3600, heldout_sec=8 * 3600, seed=0)
    train, heldout = (runs_of_words(of_split(plan, split), 12) for split in ("train", "heldout"))
    assert min(len(train), len(heldout)) > 50_000
    assert not train & heldout


def test_no_passage_is_read_twice(novels: Novels) -> None:
    plan = plan_books(novels, train_sec=40 * 3600, heldout_sec=8 * 3600, seed=0)
    long_ones = Counter(text for chapter in plan for text in chapter.paragraphs if len(text) > 120)
    assert long_ones.most_common(1)[0][1] == 1
    paths = [chapter.path(Path("x")) for chapter in plan]
    assert len(set(paths)) == len(paths)


def test_default_sizes_give_long_heldout_chapters_by_seen_and_unseen_speakers(novels: Novels) -> None:
    plan = plan_books(novels, train_sec=5 * 3600, heldout_sec=49 * 60, seed=0)
    train, heldout = of_split(plan, "train"), of_split(plan, "heldout")
    assert len(heldout) >= 7 and min(map(planned_sec, heldout)) > 6.5 * 60
    assert {chapter.voice for chapter in train} == set(TRAIN_VOICES)
    assert [chapter.voice in UNSEEN_VOICES for chapter in heldout] == [bool(place % 2) for place in range(len(heldout))]
    assert sum(map(planned_sec, train)) == pytest.approx(5 * 3600, rel=0.06)
    assert min(map(planned_sec, train)) > 4 * 60 and max(map(planned_sec, train)) < 14.5 * 60


def test_more_hours_than_the_novels_hold_are_refused(novels: Novels) -> None:
    with pytest.raises(ValueError, match=r"200\.00 hours of train books .* end after \d+\.\d+; ask for fewer"):
        plan_books(novels, train_sec=200 * 3600, heldout_sec=60, seed=0)


@pytest.mark.parametrize("length_sec", [-1.0, float("nan"), float("inf")])
def test_impossible_lengths_are_refused(novels: Novels, length_sec: float) -> None:
    with pytest.raises(ValueError, match=f"heldout_sec is {length_sec}, but 0 or more seconds"):
        plan_books(novels, train_sec=60, heldout_sec=length_sec, seed=0)


def test_nothing_asked_for_gives_nothing(novels: Novels) -> None:
    assert plan_books(novels, train_sec=0, heldout_sec=0, seed=0) == []


def test_layout_format_and_metadata(tiny_plan: list[Chapter], tiny_books: Path) -> None:
    for chapter in tiny_plan:
        path = chapter.path(tiny_books)
        assert path.relative_to(tiny_books).parts[:3] == (chapter.split, chapter.voice.name, chapter.novel)
        audio = soundfile.info(path)
        assert (audio.samplerate, audio.channels, audio.subtype) == (24_000, 1, "PCM_16")
        metadata = json.loads(path.with_suffix(".json").read_text())
        assert metadata["speaker"] == chapter.voice.name
        assert set(metadata["book_meta"]) == {"id", "title", "author", "language"}
        assert metadata["duration_sec"] == pytest.approx(audio.duration)
        assert metadata["duration_sec"] == pytest.approx(planned_sec(chapter), rel=0.25)
        assert tuple(metadata["paragraphs"]) == chapter.paragraphs
    assert not list(tiny_books.rglob("*.part"))


def test_bytes_do_not_depend_on_the_number_of_processes(
    tiny_plan: list[Chapter], tiny_books: Path, tmp_path: Path
) -> None:
    build_books(tiny_plan, tmp_path, NOVELS_PACKAGE, num_proc=1)
    assert audio_bytes(tmp_path) == audio_bytes(tiny_books)


def test_second_run_only_makes_what_is_missing(
    tiny_plan: list[Chapter], tiny_books: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = audio_bytes(tiny_books)
    changed_ns = {path: path.stat().st_mtime_ns for path in tiny_books.rglob("*.flac")}
    killed = tiny_plan[-1].path(tiny_books)
    killed.with_suffix(".json").unlink()
    records = build_books(tiny_plan, tiny_books, NOVELS_PACKAGE, num_proc=1)
    assert len(records) == len(tiny_plan) and audio_bytes(tiny_books) == before
    rewritten = {path for path, time_ns in changed_ns.items() if path.stat().st_mtime_ns != time_ns}
    assert rewritten == {killed}


def test_seed_changes_the_audio(novels: Novels, tiny_plan: list[Chapter]) -> None:
    other_plan = plan_books(novels, train_sec=30, heldout_sec=20, seed=1)
    assert not {chapter.seed for chapter in tiny_plan} & {chapter.seed for chapter in other_plan}
    voice = TRAIN_VOICES[0]
    assert np.array_equal(voice.say("Good day.", 1), voice.say("Good day.", 1))
    assert not np.array_equal(voice.say("Good day.", 1), voice.say("Good day.", 2))


def test_voices_differ_in_pitch() -> None:
    ordered = sorted(TRAIN_VOICES, key=lambda voice: voice.pitch_ratio)
    lowest, highest = (
        lowest_harmonic_hz(voice.say("Oh no, oh no, we all know.", 0)) for voice in ordered[:: len(ordered) - 1]
    )
    assert highest > 1.3 * lowest


def lowest_harmonic_hz(samples: np.ndarray) -> float:
    """The strongest frequency between 80 and 300 Hz."""
    power = np.abs(np.fft.rfft(samples)) ** 2
    frequency_hz = np.fft.rfftfreq(len(samples), 1 / SAMPLE_RATE_HZ)
    band = (frequency_hz > 80) & (frequency_hz < 300)
    return float((power[band] * frequency_hz[band]).sum() / power[band].sum())


def test_loudness_is_made_even_and_peaks_are_kept() -> None:
    speech = np.random.default_rng(0).standard_normal(48_000).astype(np.float32)
    pauses = np.concatenate([0.001 * speech, np.zeros(96_000, np.float32)])
    quiet, loud = even_loudness(pauses), even_loudness(0.5 * speech)
    assert np.sqrt(np.mean(quiet[:48_000] ** 2)) == pytest.approx(np.sqrt(np.mean(loud**2)), rel=0.02)
    click = np.zeros(48_000, np.float32)
    click[100] = 0.01
    assert 0.9 < np.abs(even_loudness(click)).max() <= 0.981
    assert not even_loudness(np.zeros(10, np.float32)).any()


def test_no_processes_are_refused(tiny_plan: list[Chapter], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="num_proc is 0, but at least 1"):
        build_books(tiny_plan, tmp_path, NOVELS_PACKAGE, num_proc=0)
