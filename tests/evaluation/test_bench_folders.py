"""A whole tree: outputs as long as their inputs, the same when resumed; bad files skipped; what lies there scored."""

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from hf_moshi_ttt import GREEDY, MoshiTTTProcessor, Sampling
from hf_moshi_ttt.evaluation.bench_folders import find_inputs, output_of, read_listeners, run_tree, score_tree
from hf_moshi_ttt.evaluation.full_duplex_bench import summarize
from hf_moshi_ttt.evaluation.speech_times import Word
from hf_moshi_ttt.evaluation.spoken_words import write_transcript

from ..fixtures.planted_conversations import bursts, write_bench


@pytest.fixture
def loaded(make_model: Callable[..., Any], codec_path: str, tokenizer_path: str) -> tuple[Any, MoshiTTTProcessor]:
    model = make_model(codec=codec_path, text_tokenizer=tokenizer_path, text_vocab_size=265)
    return model, MoshiTTTProcessor(model.config)


def contents(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*output*.*")
        if path.name != "outputs.json"
    }


def test_outputs_are_as_long_as_their_inputs_and_the_same_when_resumed(
    loaded: tuple[Any, MoshiTTTProcessor], tmp_path: Path
) -> None:
    folders = write_bench(tmp_path)
    shutil.copyfile(folders["user_backchannel"] / "input.wav", folders["user_backchannel"] / "clean_input.wav")
    shutil.copyfile(folders["icc_backchannel"] / "input.wav", folders["icc_backchannel"].parent / "notes.wav")
    bad = folders["icc_backchannel"].parent / "77" / "input.wav"
    bad.parent.mkdir()
    bad.write_bytes(b"RIFF, but no sound")
    first = run_tree(*loaded, tmp_path, Sampling(), batch_size=3)
    assert (first.written, first.found, list(first.bad.reasons)) == (6, 0, [str(bad)])
    for path in set(find_inputs(tmp_path)) - {bad}:
        given, made = soundfile.info(path), soundfile.info(output_of(path))
        assert (made.samplerate, made.channels) == (24_000, 1) and made.frames == round(given.duration * 24_000)
    whole = contents(tmp_path)
    assert len(whole) == 12 and "user_backchannel/5/clean_output.wav" in whole
    said = json.loads(whole["icc_backchannel/4/output_words.json"])
    assert set(said) == {"text", "chunks"}
    for name in ("icc_backchannel/4/output.wav", "candor_turn_taking/2/output.wav"):
        (tmp_path / name).unlink()
    cut = tmp_path / "candor_pause_handling/1/output.wav"
    cut.write_bytes(cut.read_bytes()[:2000])
    again = run_tree(*loaded, tmp_path, Sampling(), batch_size=3)
    assert (again.written, again.found, len(again.bad.reasons)) == (3, 3, 1)
    assert contents(tmp_path) == whole
    with pytest.raises(ValueError, match=r"its outputs were made with another sampling and seed \(.*outputs\.json\)"):
        run_tree(*loaded, tmp_path, GREEDY, batch_size=3, seed=1)
    model, processor = loaded
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.lm_head.weight += 1
    with pytest.raises(ValueError, match="its outputs were made with another model"):
        run_tree(other, processor, tmp_path, Sampling(), batch_size=3)


def test_trees_without_inputs_and_empty_batches_are_refused(
    loaded: tuple[Any, MoshiTTTProcessor], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"no input.wav or clean_input.wav below it; expected the folders of Full-Dup"):
        run_tree(*loaded, tmp_path, GREEDY)
    with pytest.raises(ValueError, match="batch_size=0, but at least one stream is needed"):
        run_tree(*loaded, tmp_path, GREEDY, batch_size=0)
    with pytest.raises(ValueError, match="no output.wav below it. Give --model, which writes them"):
        score_tree(tmp_path)


def test_planted_outputs_get_the_scores_they_must(tmp_path: Path) -> None:
    """Silent everywhere but after the turn's end, where it answers in 0.3 s."""
    folders = write_bench(tmp_path, 3.0)
    answers = {
        "candor_turn_taking": (1.1, 2.5),
        "synthetic_user_interruption": (1.1, 2.5),
        "user_backchannel": (0.1, 0.6),
    }
    for subset, folder in folders.items():
        spans = [answers[subset]] if subset in answers else []
        soundfile.write(folder / "output.wav", bursts(3.0, spans), 24_000)
    spoilt = tmp_path / "icc_backchannel" / "9"
    spoilt.mkdir()
    (spoilt / "output.wav").write_bytes(b"")
    scores, bad = score_tree(tmp_path, listeners={"4": [1.0] * 10})
    found = summarize(scores)
    assert list(bad.reasons) == [str(spoilt / "output.wav")]
    rates = {subset: numbers.get("takeover_rate") for subset, numbers in found.items()}
    assert rates == {
        "candor_pause_handling": 0.0, "candor_turn_taking": 1.0, "synthetic_user_interruption": 1.0,
        "icc_backchannel": 0.0, "user_backchannel": None,
    }  # fmt: skip
    assert found["candor_turn_taking"]["delay_mean_sec"] == pytest.approx(0.3, abs=0.08)
    assert found["synthetic_user_interruption"]["delay_mean_sec"] == pytest.approx(0.3, abs=0.08)
    overlap = found["user_backchannel"]
    assert (overlap["stop_rate"], overlap["response_rate"]) == (1.0, 0.0)
    assert overlap["stop_delay_median_sec"] == pytest.approx(0.2, abs=0.08)
    assert (found["icc_backchannel"]["backchannels_per_sec"], found["icc_backchannel"]["backchannel_distance"]) == (
        0,
        1,
    )


def test_words_come_from_where_they_are_asked_for(tmp_path: Path) -> None:
    folder = write_bench(tmp_path)["candor_pause_handling"]
    soundfile.write(folder / "output.wav", bursts(1.6, [(0.2, 0.7)]), 24_000)
    four = [Word("a", 0.2 + 0.1 * place, 0.25 + 0.1 * place) for place in range(4)]
    write_transcript(four, folder / "output_words.json")
    write_transcript(four[:1], folder / "output.json")
    taken = {kind: score_tree(tmp_path, words=kind)[0][0][1].takeover for kind in ("text", "transcript", "none")}
    assert taken == {"text": True, "transcript": False, "none": False}
    with pytest.raises(ValueError, match="words='asr', but they come from one of text, transcript, none"):
        score_tree(tmp_path, words="asr")
    (folder / "output_words.json").write_text("{}")
    assert "not a transcript with times" in score_tree(tmp_path)[1].reasons[str(folder / "output.wav")]


def test_listeners_are_read(tmp_path: Path) -> None:
    (tmp_path / "icc.json").write_text(json.dumps({"0": [0.5, 0.5]}))
    assert read_listeners(tmp_path / "icc.json") == {"0": [0.5, 0.5]}
    for text in ("[1]", '{"0": []}', '{"0": [NaN, 1]}', '{"0": [0, 0]}', '{"0": [2, -1]}'):
        (tmp_path / "icc.json").write_text(text)
        with pytest.raises(ValueError, match=r"icc.json: no distribution \{folder: \[fractions\]\}"):
            read_listeners(tmp_path / "icc.json")


def test_channels_are_averaged(loaded: tuple[Any, MoshiTTTProcessor], tmp_path: Path) -> None:
    mono = bursts(0.8, [(0.1, 0.5)])
    for name, samples in (("a", mono), ("b", np.stack([mono, mono], axis=1))):
        (tmp_path / name).mkdir()
        soundfile.write(tmp_path / name / "input.wav", samples, 24_000)
    run_tree(*loaded, tmp_path, GREEDY)
    assert (tmp_path / "a/output.wav").read_bytes() == (tmp_path / "b/output.wav").read_bytes()
