"""A model that knows what is right gets 1, one that does not about a half; order and company do not count."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from hf_moshi_ttt.evaluation.long_context import evaluate_long_context
from hf_moshi_ttt.evaluation.long_context_settings import LongContextSettings
from hf_moshi_ttt.evaluation.paired_items import Pair
from hf_moshi_ttt.evaluation.paired_likelihood import accuracy, evaluate_pairs

from ..conftest import copying

MakeModel = Callable[..., Any]
SETTINGS = LongContextSettings(batch_size=5, check_frames=0)


def items(count: int, seed: int = 0) -> tuple[list[Pair], dict[str, np.ndarray]]:
    """Right recordings repeat the codebook above in every row; wrong ones are the same codes, rows shuffled in time."""
    rng = np.random.default_rng(seed)
    pairs, codes = [], {}
    for n in range(count):
        row = rng.integers(0, 32, (1, rng.integers(8, 20)))
        codes[f"{n}r"] = np.repeat(row, 8, axis=0)
        codes[f"{n}w"] = rng.permuted(codes[f"{n}r"], axis=1)
        pairs.append(Pair(str(n), f"{n}r", f"{n}w", ("even" if n % 2 == 0 else "odd",)))
    return pairs, codes


def test_a_model_that_knows_wins_every_pair(make_model: MakeModel) -> None:
    pairs, codes = items(12)
    found = evaluate_pairs(copying(make_model(ttt=None)), pairs, codes, SETTINGS)
    assert found["accuracy"] == {"value": 1.0, "low": pytest.approx(12 / (12 + 1.96**2), abs=1e-4), "high": 1.0,
                                 "recordings": 12}  # fmt: skip
    assert found["items"] == found["pairs"] == 12
    assert set(found["by_group"]) == {"even", "odd"} and found["by_group"]["odd"]["recordings"] == 6
    swapped = [Pair(pair.item, pair.wrong, pair.right) for pair in pairs]
    assert evaluate_pairs(copying(make_model(ttt=None)), swapped, codes, SETTINGS)["accuracy"]["value"] == 0.0


def test_a_model_that_does_not_know_guesses(make_model: MakeModel) -> None:
    pairs, codes = items(60)
    found = evaluate_pairs(make_model(), pairs, codes, SETTINGS)
    assert found["accuracy"]["low"] < 0.5 < found["accuracy"]["high"]
    assert {"accuracy", "accuracy_codebook_0", "accuracy_training_weights"} <= set(found)
    assert found["accuracy_codebook_0"] != found["accuracy"]


def test_every_recording_has_a_state_of_its_own(make_model: MakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A recording's score is that of evaluating it by itself, whatever else is in the batch."""
    model, (pairs, codes) = make_model(), items(6)
    scores: dict[str, float] = {}
    monkeypatch.setattr(
        "hf_moshi_ttt.evaluation.paired_likelihood.accuracy",
        lambda pairs, losses: scores.update(losses) or accuracy(pairs, losses),
    )
    evaluate_pairs(model, pairs, codes, SETTINGS)
    for name, own in codes.items():
        (alone,) = evaluate_long_context(model, [own], SETTINGS, progress=False).losses
        weights = [100.0] + [1.0] * 7
        expected = np.nanmean(np.average(alone, axis=0, weights=weights))
        assert scores[name] == pytest.approx(float(expected), rel=1e-4)  # the last of the three scores


def test_voices_of_one_item_are_averaged_and_ties_are_halves() -> None:
    pairs = [Pair("a", "1", "2"), Pair("a", "3", "4"), Pair("b", "5", "6"), Pair("c", "7", "8")]
    losses = {"1": 1.0, "2": 2.0, "3": 4.0, "4": 3.0, "5": 1.0, "6": 1.0, "7": 1.0, "8": 2.0}
    estimate = accuracy(pairs, losses)
    assert estimate.value == pytest.approx((0.5 + 0.5 + 1.0) / 3) and estimate.recordings == 3
    with pytest.raises(ValueError, match="8 and 0 more have no loss: they are too short"):
        accuracy(pairs, {**losses, "8": float("nan")})


@pytest.mark.parametrize(("right", "count"), [(0, 1), (3, 3), (4, 5), (17, 40), (500, 1000)])
def test_intervals_are_wilsons(right: int, count: int) -> None:
    pairs = [Pair(str(n), f"{n}r", f"{n}w") for n in range(count)]
    losses = {f"{n}{side}": float((side == "w") == (n < right)) for n in range(count) for side in "rw"}
    found, expected = accuracy(pairs, losses), stats.binomtest(right, count).proportion_ci(method="wilson")
    assert (found.value, found.recordings) == (right / count, count)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_a_memory_that_goes_on_is_refused(make_model: MakeModel) -> None:
    with pytest.raises(ValueError, match="memory='no_reset', but every recording of a pair is read from a fresh state"):
        evaluate_pairs(make_model(), *items(2), replace(SETTINGS, memory="no_reset"))


def test_length_is_no_disadvantage(make_model: MakeModel) -> None:
    codes = {"long": np.tile(np.arange(8)[:, None], 40), "short": np.tile(np.arange(8)[:, None], 8)}
    model = make_model(ttt=None)
    with torch.no_grad():
        for head in model.depth_decoder.lm_heads:
            head.weight.zero_()
    found = evaluate_pairs(model, [Pair("a", "long", "short")], codes, SETTINGS)
    assert found["accuracy"]["value"] == 0.5


def test_finished_recordings_are_kept(make_model: MakeModel, tmp_path: Path) -> None:
    pairs, codes = items(4)
    model = make_model()
    first = evaluate_pairs(model, pairs, codes, SETTINGS, keep_in=str(tmp_path))
    assert len(list(tmp_path.glob("*.npy"))) == 8
    assert evaluate_pairs(model, pairs, codes, SETTINGS, keep_in=str(tmp_path)) == first
