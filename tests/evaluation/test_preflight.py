"""Every planted fault is found before or after the run and comes with its remedy; a sound evaluation has none."""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from hf_moshi_ttt.data.codes import Provenance
from hf_moshi_ttt.evaluation.long_context_settings import LongContextSettings
from hf_moshi_ttt.evaluation.preflight import Finding, afterthoughts, preflight

MakeModel = Callable[..., Any]
SETTINGS = LongContextSettings(positions_frames=[50], bin_frames=10, batch_size=2, block_frames=16)
PROVENANCE = Provenance("kyutai/mimi", "mimi", 32, [1] * 8, None, 0, {})


def recordings(frames: int = 100, count: int = 2) -> list[np.ndarray]:
    return [np.random.default_rng(i).integers(0, 32, (8, frames)) for i in range(count)]


def warnings(findings: list[Finding]) -> str:
    return "\n".join(str(finding) for finding in findings if finding.remedy is not None)


def test_a_sound_evaluation_has_no_warnings_but_says_what_it_is(make_model: MakeModel) -> None:
    findings = preflight(make_model(), recordings(), replace(SETTINGS, training_frames=60), PROVENANCE)
    assert warnings(findings) == ""
    told = "\n".join(map(str, findings))
    for words in (
        "2 recordings of [8] rows and 100 to 100 frames, 0.00 h in all; codes 0..31 of 0..31.",
        "% of frames have the first code of digital silence",
        "TTT (ttt) in layers [1], mean gate 0.7616 to 0.7616, memory=on.",
        "Attention sees 16 frames, 1 s.",
        "Positions beyond 60 frames are longer than the model's training segments.",
        "GB and logits 0.00 GB beside the model.",
    ):
        assert words in told, words


def test_findings_without_provenance_say_nothing_of_silence(make_model: MakeModel) -> None:
    told = "\n".join(map(str, preflight(make_model(), recordings(), SETTINGS)))
    assert "silence" not in told and "codes come from" not in told


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda codes: codes % 12, "No code is above 11, but the model has 32 ids.*another codec; encode with"),
        (lambda codes: np.where(np.arange(8)[:, None] == 3, codes % 4, codes), "One codebook has 4 different ids"),
        (lambda codes: np.where(np.arange(100) < 70, 1, codes), "7.% of frames .* Look at that recording: silence"),
        (lambda codes: codes[:, :30], "The longest recording has 30 frames, less than .*librilight_max_chapters"),
        (lambda codes: codes[:, :54], r"No recording reaches positions \[50\].* positions_frames up to 44"),
    ],
)
def test_faults_of_the_codes_are_found(make_model: MakeModel, change: Callable, message: str) -> None:
    found = preflight(make_model(), [change(codes) for codes in recordings()], SETTINGS, PROVENANCE)
    assert _matches(message, warnings(found)), warnings(found)


def _matches(message: str, text: str) -> bool:
    return re.search(message, text.replace("\n", " ")) is not None


def test_conversations_are_judged_by_moshis_rows(make_model: MakeModel) -> None:
    codes = np.random.default_rng(0).integers(0, 32, (17, 100))
    codes[0] = 60
    assert warnings(preflight(make_model(), [codes], SETTINGS, PROVENANCE)) == ""
    codes[1:9] = 1
    assert "One codebook has 1 different ids" in warnings(preflight(make_model(), [codes], SETTINGS, PROVENANCE))


def test_another_codec_is_found(make_model: MakeModel) -> None:
    found = warnings(preflight(make_model(codec="runs/codec"), recordings(), SETTINGS, PROVENANCE))
    assert "the model's codec is not known, the model does not record its hash; the names are kyutai/mimi and " in found
    known = replace(PROVENANCE, codec_sha256="a" * 64)
    with pytest.raises(ValueError, match="its codec is kyutai/mimi .sha256 aaaaaaaa., but the model's is runs/codec"):
        preflight(make_model(codec="runs/codec", codec_sha256="b" * 64), recordings(), SETTINGS, known)
    assert warnings(preflight(make_model(codec_sha256="a" * 64), recordings(), SETTINGS, known)) == ""


def test_a_memory_that_does_nothing_is_found(make_model: MakeModel) -> None:
    assert "The TTT layers were never trained" in warnings(preflight(make_model(fresh=True), recordings(), SETTINGS))
    shut = make_model(ttt={"initial_gating_alpha": 1e-4})
    assert "The gates of the TTT layers are shut" in warnings(preflight(shut, recordings(), SETTINGS))
    told = "\n".join(map(str, preflight(make_model(ttt=None), recordings(), SETTINGS)))
    assert "The model has no TTT layers: what it remembers is its attention window." in told


def results(losses: list[float], difference: float = 1e-6) -> dict[str, Any]:
    check = {"first_frame": 0, "frames": 64, "max_difference_nats": difference}
    return {"curve": [{"value": loss} for loss in losses], "run": {"block_check": check}}


def test_results_that_look_right_are_left_alone() -> None:
    assert afterthoughts(results([7.0, 5.5, 5.4, 5.6]), 2048, "float32") == []
    assert afterthoughts({"curve": [], "run": {}}, 2048, "float32") == []


@pytest.mark.parametrize(
    ("found", "dtype", "message"),
    [
        (results([8.5, 8.6, 8.5]), "float32", r"The loss reaches 8.60 nats; drawing codes at random costs 7.62.*codec"),
        (results([5, 5, 7.5, 5]), "float32", r"The loss is erratic: it jumps by 2.50 nats.*lower ttt.base_lr"),
        (results([5, 5], 1e-3), "float32", r"differ by up to 1.0e-03 nats in float32.*use mode=stream and report it"),
        (results([5, 5], 1e-2), "bfloat16", r"differ by up to 1.0e-02 nats in bfloat16. Evaluate in float32"),
    ],
)
def test_results_that_look_wrong_are_found(found: dict[str, Any], dtype: str, message: str) -> None:
    assert _matches(message, warnings(afterthoughts(found, 2048, dtype)))


def test_room_is_told_for_the_dtype(make_model: MakeModel) -> None:
    model = make_model()
    big = replace(SETTINGS, batch_size=1000, block_frames=1000)
    (single,) = [str(one) for one in preflight(model, recordings(), big) if "beside the model" in one.what]
    (half,) = [str(one) for one in preflight(model.to(torch.bfloat16), recordings(), big) if "beside" in one.what]
    assert "logits 2.56 GB" in single and "logits 1.92 GB" in half
