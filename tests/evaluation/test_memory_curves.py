"""What memories did, gathered over positions and over training steps: the right means at the right place."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from hf_moshi_ttt.data.collator import MoshiTTTCollator
from hf_moshi_ttt.evaluation.memory_curves import memory_by_position, memory_by_step
from hf_moshi_ttt.memory.diagnostics import log_key
from hf_moshi_ttt.modeling_moshi_ttt import MoshiTTTForConditionalGeneration

MakeModel = Callable[..., MoshiTTTForConditionalGeneration]
RECORDINGS = [
    np.random.default_rng(i).integers(0, 32, (8, length)).astype(np.int16) for i, length in enumerate((64, 41))
]


@torch.no_grad()
@pytest.mark.parametrize("learner", ["ttt", "static", "gated_delta", "in_place"])
def test_positions_hold_the_means_of_a_stream(make_model: MakeModel, learner: str) -> None:
    model = make_model(ttt={"layers": [1, 2], "learner": learner})
    report = memory_by_position(model, RECORDINGS, bin_frames=20)
    assert report["x"] == [10, 30, 50] and report["layers"] == [1, 2] and report["recordings"] == [2, 2, 1]
    codes = [torch.from_numpy(MoshiTTTCollator(model.config).frame_codes(r.astype(np.int64))[0]) for r in RECORDINGS]
    for layer in (0, 1):
        whole = [model(codes=c[None], diagnostics=True).diagnostics[layer] for c in codes]
        losses = () if learner == "in_place" else ("loss_initial", "loss_before", "loss_after")
        assert set(losses) == {name for name in report["curves"] if name.startswith("loss_")}
        for name in (*losses, "branch_to_residual"):
            bins = [[getattr(w, name)[..., 20 * i : 20 * i + 20].mean().item() for i in range(3)] for w in whole]
            expected = [(a + b) / 2 for a, b in zip(bins[0][:2], bins[1][:2], strict=True)] + [bins[0][2]]
            assert report["curves"][name][layer] == pytest.approx(expected, rel=1e-4, abs=1e-5)
        assert report["curves"]["gate"][layer] == pytest.approx([np.tanh(1.0)] * 3, rel=1e-4)
    assert ("delta_ratio" in report["curves"]) == (learner == "static")


def test_gathering_changes_nothing(make_model: MakeModel) -> None:
    model = make_model().train()
    before, random_state = {n: w.clone() for n, w in model.state_dict().items()}, torch.get_rng_state()
    memory_by_position(model, RECORDINGS[:1], bin_frames=20)
    assert model.training and torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(w, before[n]) for n, w in model.state_dict().items())


def test_steps_hold_what_was_logged() -> None:
    log = [
        {"step": 2, "loss": 1.0, log_key(3, "gate"): 0.1, log_key(10, "gate"): 0.2, log_key(3, "loss_before"): 0.9},
        {"step": 3, "eval_loss": 1.0},
        {"step": 4, "loss": 1.0, log_key(3, "gate"): 0.3, log_key(10, "gate"): 0.4},
    ]
    report = memory_by_step(log)
    assert report["x"] == [2, 4] and report["layers"] == [3, 10]
    assert report["curves"] == {"gate": [[0.1, 0.3], [0.2, 0.4]], "loss_before": [[0.9, None], [None, None]]}


def test_what_has_no_memory_is_refused(make_model: MakeModel) -> None:
    with pytest.raises(ValueError, match=r"The model has no TTT layers \(ttt=None\)"):
        memory_by_position(make_model(ttt=None), RECORDINGS)
    with pytest.raises(ValueError, match="No recording has 250 frames. Use a smaller bin_frames"):
        memory_by_position(make_model(), RECORDINGS)
    with pytest.raises(ValueError, match="No ttt/layer_. is in the log: the model has no TTT layers"):
        memory_by_step([{"step": 1, "loss": 2.0}])
