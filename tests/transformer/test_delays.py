"""Delays applied and undone are an explicit loop over frames, also for fewer frames than the longest delay."""

import math

import pytest
import torch

from hf_moshi_ttt.transformer.delays import delayed, delayed_after, late_logits, undelayed, undelayed_logits

DELAYS = [0, 2, 1]


def frames(length: int) -> torch.Tensor:
    return torch.arange(1, 1 + 2 * 3 * length).view(2, 3, length)


@pytest.mark.parametrize("length", [1, 2, 5])
def test_a_step_holds_the_frame_of_its_delay_before(length: int) -> None:
    x = frames(length)
    steps, back = delayed(x, DELAYS, absent=-1), undelayed(delayed(x, DELAYS, absent=-1), DELAYS)
    for row, delay in enumerate(DELAYS):
        for t in range(length):
            expected = x[:, row, t - delay] if t >= delay else torch.full((2,), -1)
            assert torch.equal(steps[:, row, t], expected)
            assert torch.equal(back[:, row, t], x[:, row, t] if t + delay < length else torch.zeros(2))


def test_steps_after_frames_that_are_known() -> None:
    x = frames(6)
    steps = delayed_after(x, DELAYS, length=4)
    for row, delay in enumerate(DELAYS):
        assert torch.equal(steps[:, row], x[:, row, 2 - delay : 6 - delay])


@pytest.mark.parametrize("length", [1, 2, 5])
def test_logits_of_steps_are_those_of_frames(length: int) -> None:
    steps = [torch.randn(2, length, 4) for _ in DELAYS]
    started = torch.tensor([9, 1])  # row 1 has one frame before these steps
    here, late = undelayed_logits(steps, DELAYS), late_logits(steps, DELAYS, 2, started)
    assert here.shape == (2, 3, length, 4) and late.shape == (2, 3, 2, 4)
    unknown = torch.full((4,), math.nan)
    for row, delay in enumerate(DELAYS):
        for batch in range(2):
            for frame in range(-2, length):
                is_known = 0 <= frame + delay < length and frame >= -int(started[batch])
                expected = steps[row][batch, frame + delay] if is_known else unknown
                found = here[batch, row, frame] if frame >= 0 else late[batch, row, frame + 2]
                torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
