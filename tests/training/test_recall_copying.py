"""Copies are what followed the longest match, and a mixture with them gains where things return and nowhere else."""

import pytest
import torch
from torch import Tensor

from hf_moshi_ttt.memory.recall_tasks import MotifTask, RecallBatch
from hf_moshi_ttt.modeling_moshi_ttt import MoshiTTTForConditionalGeneration
from hf_moshi_ttt.training.recall_copying import MOST_FRAMES, find_copies, mix_with_copies
from hf_moshi_ttt.training.recall_run import draw_test, run_arm, score
from hf_moshi_ttt.training.recall_setup import RecallSetup, arm_config
from hf_moshi_ttt.training.recall_size import RecallSize


def copies_by_hand(codes_QT: Tensor) -> tuple[list[int], list[list[float]]]:
    """The definition, frame by frame, over all earlier places."""
    frames = [tuple(frame) for frame in codes_QT.T.tolist()]
    lengths, shares = [], []
    for t, frame in enumerate(frames):
        matches = {}
        for place in range(t):
            length = 0
            while length < min(place, MOST_FRAMES) and frames[place - 1 - length] == frames[t - 1 - length]:
                length += 1
            matches[place] = length
        best = max(matches.values(), default=0)
        followed = [frames[place] for place, length in matches.items() if length == best > 0]
        lengths.append(best)
        shares.append([sum(f[q] == code for f in followed) / max(1, len(followed)) for q, code in enumerate(frame)])
    return lengths, shares


@pytest.mark.parametrize(("ids", "codebooks"), [(2, 1), (5, 1), (3, 2), (100, 1)])
def test_copies_follow_the_longest_match(ids: int, codebooks: int) -> None:
    codes = torch.randint(ids, (3, codebooks, 40), generator=torch.Generator().manual_seed(ids))
    codes[0, :, 20:] = codes[0, :, :20]
    matched, share = find_copies(codes)
    for row, codes_QT in enumerate(codes):
        lengths, shares = copies_by_hand(codes_QT)
        assert matched[row].tolist() == lengths and share[row].T.tolist() == shares


def test_what_returns_is_foreseen_and_what_does_not_keeps_its_loss() -> None:
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(1000, (64, 1, 60), generator=generator)
    losses, counted = torch.full((64, 1, 60), 3.0), torch.ones(64, 60, dtype=torch.bool)
    assert torch.allclose(mix_with_copies(losses, codes, counted), losses, atol=0.05)
    codes[:, :, 30:] = codes[:, :, :30]
    mixed = mix_with_copies(losses, codes, counted)
    assert (mixed[:, :, :31] - 3).mean() < 0.05 and mixed[:, :, 34:].max() < 0.2


def test_a_half_is_fitted_on_the_other_alone() -> None:
    codes = torch.randint(1000, (64, 1, 60), generator=torch.Generator().manual_seed(0))
    codes[1::2, :, 30:] = codes[1::2, :, :30]  # returns in every second sequence
    losses, counted = torch.full((64, 1, 60), 3.0), torch.ones(64, 60, dtype=torch.bool)
    mixed = mix_with_copies(losses, codes, counted)
    assert (mixed[1::2, :, 34:] - 3).abs().max() < 0.05  # what the others did not need is not known here
    counted[0] = False
    assert torch.equal(mix_with_copies(losses, codes, counted)[::2], mixed[::2])


def test_frames_without_a_prediction_stay_so_and_one_sequence_is_refused() -> None:
    losses, counted = torch.full((2, 1, 5), 3.0), torch.ones(2, 5, dtype=torch.bool)
    losses[:, :, -1] = torch.nan
    mixed = mix_with_copies(losses, torch.zeros(2, 1, 5, dtype=torch.long), counted)
    assert mixed[..., -1].isnan().all() and mixed[..., :-1].isfinite().all()
    with pytest.raises(ValueError, match="1 sequence, but what copies weigh is fitted on others"):
        mix_with_copies(losses[:1], torch.zeros(1, 1, 5, dtype=torch.long), counted[:1])


def make_setup(task: MotifTask) -> RecallSetup:
    size = RecallSize(steps=2, hidden_size=32, window_frames=4, warmup_steps=1, test_rows=16)
    depth = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "ffn_dim": 32}
    return RecallSetup("motif", size, [task], {"motif": task}, depth)


@pytest.mark.parametrize("codebooks", [1, 8])
def test_the_arm_is_the_controls_model_with_copies_in_its_test(codebooks: int) -> None:
    task = MotifTask(num_ids=16, num_codebooks=codebooks, motif_frames=12, hearings=3)
    setup = make_setup(task)
    static, copy = (run_arm(setup, arm, 0) for arm in ("static", "copy"))
    assert static["train_losses"] == copy["train_losses"] and static["parameters"] == copy["parameters"]
    first, second, third = (hearing["value"] for hearing in copy["tests"]["motif"]["hearings"])
    own = [hearing["value"] for hearing in static["tests"]["motif"]["hearings"]]
    assert abs(first - own[0]) < 0.3 and second < 0.6 < third + 0.6 < own[2]


def test_nothing_is_mixed_where_it_is_not_asked_for() -> None:
    task = MotifTask(num_ids=16, motif_frames=12, hearings=3)
    setup = make_setup(task)
    model, batch = MoshiTTTForConditionalGeneration(arm_config(setup, "static")).eval(), draw_test(task, 4)
    with torch.no_grad():
        losses = model(codes=batch.codes_BKT, labels=batch.codes_BKT).losses[:, 1]
    found = score(model, RecallBatch(batch.codes_BKT, batch.hearing_BT), 3)
    expected = losses[:, 12:24].mean(1)
    torch.testing.assert_close(torch.tensor(found["hearing_rows"][1]), expected, rtol=0, atol=1e-5)
