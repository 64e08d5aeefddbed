"""Plans without text or voices in both splits, lines where the JSON says, frames that return, and equal bytes."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from hf_moshi_ttt.demo.debian_packages import NOVELS_PACKAGE, read_novels
from hf_moshi_ttt.demo.espeak import Espeak
from hf_moshi_ttt.demo.programmes import (
    Delivery,
    Programme,
    ProgrammesRequest,
    build_programmes,
    make_programmes,
    plan_programmes,
    speak_programme,
)
from hf_moshi_ttt.demo.returning_forms import FORMS

from ..fixtures.corpora import package_cache, unpacked


@pytest.fixture(scope="module")
def espeak(tmp_path_factory: pytest.TempPathFactory) -> Espeak:
    return Espeak.unpack(package_cache(tmp_path_factory))


@pytest.fixture(scope="module")
def novels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    return read_novels(unpacked(tmp_path_factory, NOVELS_PACKAGE))


@pytest.fixture(scope="module")
def plan(novels: dict[str, list[str]], espeak: Espeak) -> list[Programme]:
    return plan_programmes(novels, espeak, 5 * 3600, 1800, 0, Delivery())


@pytest.fixture(scope="module")
def short(plan: list[Programme]) -> Programme:
    """A cumulative tale of 25 seconds."""
    return replace(plan[2], length_sec=25.0)


def test_splits_share_no_line_and_no_voice(plan: list[Programme]) -> None:
    parts = [[each for each in plan if each.split == split] for split in ("train", "heldout")]
    lines, variants = ([{value for each in part for value in values(each)} for part in parts] for values in (
        lambda each: each.lines, lambda each: [each.voice.variant],
    ))  # fmt: skip
    assert not lines[0] & lines[1] and not variants[0] & variants[1]
    for part, asked_sec in zip(parts, (5 * 3600, 1800), strict=True):
        assert asked_sec <= sum(each.length_sec for each in part) < asked_sec + 420
        assert {each.form for each in part} == set(FORMS)
        assert len({each.voice for each in part}) == len(part)


def test_a_longer_corpus_begins_with_the_shorter_one(
    plan: list[Programme], novels: dict[str, list[str]], espeak: Espeak
) -> None:
    shorter = plan_programmes(novels, espeak, 3600, 0, 0, Delivery())
    assert plan[: len(shorter)] == shorter and plan_programmes(novels, espeak, 3600, 0, 1, Delivery()) != shorter
    with pytest.raises(ValueError, match="-1 seconds of train programmes"):
        plan_programmes(novels, espeak, -1, 0, 0, Delivery())


def test_lines_lie_where_the_json_says_and_return(short: Programme, espeak: Espeak, tmp_path: Path) -> None:
    dry = replace(short, room=type(short.room)())
    made = speak_programme(dry, tmp_path, espeak, Delivery(on_frames=True))
    path = dry.path(tmp_path)
    assert made == json.loads(path.with_suffix(".json").read_text())
    samples, rate_hz = soundfile.read(path)
    assert rate_hz == 24_000 and 25 <= made["duration_sec"] < 40 and len(samples) == made["duration_sec"] * 24_000
    heard = [hearing for _, _, hearing, _ in made["lines"]]
    assert heard[:6] == [1, 1, 2, 1, 2, 3]
    pieces = [samples[round(start * 24_000) : round(end * 24_000)] for start, end, _, _ in made["lines"]]
    assert np.allclose(pieces[0], pieces[2], atol=1e-4) and all(
        abs(start * 12.5 - round(start * 12.5)) < 2e-3 for start, *_ in made["lines"]
    )
    assert np.abs(samples[round(made["lines"][0][1] * 24_000) + 10 : round(made["lines"][1][0] * 24_000)]).max() == 0


def test_lines_begin_anywhere_and_differ_by_their_spread(short: Programme, espeak: Espeak, tmp_path: Path) -> None:
    alike = speak_programme(short, tmp_path / "alike", espeak, Delivery())
    anew = speak_programme(short, tmp_path / "anew", espeak, Delivery(spread=0.1))
    assert len({round(start * 12.5 % 1, 2) for start, *_ in alike["lines"]}) > 3
    lasts = [[end - start for start, end, _, text in made["lines"] if text == short.lines[0]] for made in (alike, anew)]
    assert np.ptp(lasts[0]) < 1e-3 < 0.02 < np.ptp(lasts[1])
    with pytest.raises(ValueError, match="spread=1.5"):
        Delivery(spread=1.5)


def test_a_second_speaker_says_what_returns(novels: dict[str, list[str]], espeak: Espeak, tmp_path: Path) -> None:
    delivery = Delivery(rooms=False, voices=2)
    tale = replace(plan_programmes(novels, espeak, 1500, 0, 0, delivery)[2], length_sec=10.0)
    lines = speak_programme(tale, tmp_path, espeak, delivery)["lines"]
    samples, _ = soundfile.read(tale.path(tmp_path))
    first, second = (samples[round(start * 24_000) : round(end * 24_000)] for start, end, *_ in (lines[0], lines[2]))
    assert lines[0][3] == lines[2][3] and len(tale.others) == 1 and abs(len(first) - len(second)) > 100
    said = [voice.say(espeak, lines[0][3]) for voice in (tale.voice, *tale.others)]
    assert [len(line) for line in said] == pytest.approx([len(first), len(second)], abs=4)
    with pytest.raises(ValueError, match="voices=0"):
        Delivery(voices=0)


def test_equal_seeds_give_equal_bytes_whatever_the_processes(
    plan: list[Programme], espeak: Espeak, tmp_path: Path
) -> None:
    tiny = [replace(each, length_sec=5.0) for each in plan[:3]]
    for num_proc in (1, 2):
        build_programmes(tiny, tmp_path / str(num_proc), espeak, Delivery(), num_proc)
    first, second = (sorted(filter(Path.is_file, (tmp_path / name).rglob("*"))) for name in "12")
    assert len(first) == 6 and [a.read_bytes() for a in first] == [b.read_bytes() for b in second]


def test_a_whole_corpus(tmp_path_factory: pytest.TempPathFactory, espeak: Espeak, tmp_path: Path) -> None:
    unpacked(tmp_path_factory, NOVELS_PACKAGE)
    (tmp_path / "packages").symlink_to(package_cache(tmp_path_factory))
    made = make_programmes(tmp_path, ProgrammesRequest(0.0, 0.1, 0, Delivery(rooms=False)), 1)
    assert made == json.loads((tmp_path / "corpus.json").read_text())
    assert made["splits"]["train"]["files"] == 0 and made["splits"]["heldout"]["files"] == 1
    with pytest.raises(ValueError, match="holds a corpus made with"):
        make_programmes(tmp_path, ProgrammesRequest(0.0, 0.1, 1, Delivery(rooms=False)), 1)
