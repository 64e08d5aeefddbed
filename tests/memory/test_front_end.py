"""The front end by its definition: running means, convolution, lag, and what of it is learned."""

import pytest
import torch

from hf_moshi_ttt.configuration_moshi_ttt import TTTConfig
from hf_moshi_ttt.memory.front_end import FrontEnd, naive_front_end, running_mean

HEADS, WIDTH = 2, 6


def make_front_end(**options: object) -> FrontEnd:
    torch.manual_seed(0)
    front_end = FrontEnd(HEADS, WIDTH, TTTConfig(**options)).double()
    for parameter in front_end.parameters():
        torch.nn.init.normal_(parameter)
    return front_end


def make_inputs(frames: int) -> tuple[torch.Tensor, torch.Tensor]:
    q, k = torch.randn(2, 2, HEADS, frames, WIDTH, generator=torch.Generator().manual_seed(1)).double()
    return q, k + 2  # with a mean


@pytest.mark.parametrize(
    "options",
    [
        dict(centering_horizon_frames=7),
        dict(centering_horizon_frames=1500, key_convolution_width=8, same_frame_heads=1),
        dict(centering_horizon_frames=0, key_convolution_width=1),
        dict(centering_horizon_frames=2, key_convolution_width=1, key_lag_frames=0),
        dict(centering_horizon_frames=0, key_convolution_width=3, key_lag_frames=0, same_frame_heads=2),
    ],
    ids=str,
)
@pytest.mark.parametrize("frames", [1, 2, 64, 65, 150])
def test_fast_equals_naive(options: dict, frames: int) -> None:
    front_end, (q, k) = make_front_end(**options), make_inputs(frames)
    for own, truth in zip(front_end(q, k, None), naive_front_end(front_end, q, k), strict=False):
        torch.testing.assert_close(own, truth, rtol=1e-12, atol=1e-12)


def test_the_mean_is_cumulative_up_to_its_horizon_and_exponential_beyond() -> None:
    x = torch.randn(1, 1, 300, 3, dtype=torch.float64)
    found = running_mean(x, torch.zeros(1, 1, 3).double(), torch.zeros(1, dtype=torch.int64), 100)
    torch.testing.assert_close(found[:, :, 99], x[:, :, :100].mean(2))
    torch.testing.assert_close(found[:, :, 100], 0.99 * found[:, :, 99] + 0.01 * x[:, :, 100])
    assert torch.equal(found[:, :, 0], x[:, :, 0])


def test_a_fresh_query_asks_for_what_was_written_after_the_same_frames() -> None:
    """Queries and keys of one projection: q_t equals k_{t+1}, and the first key is exactly zero."""
    q, _ = make_inputs(80)
    for init in ("random", "identity"):
        front_end = FrontEnd(HEADS, WIDTH, TTTConfig(key_convolution_init=init)).double()
        queries, keys, _ = front_end(q, q, None)
        assert torch.equal(queries[:, :, :-1], keys[:, :, 1:]) and not keys[:, :, 0].any()
        torch.testing.assert_close(front_end.convolutions[0].norm(dim=-1), torch.ones(HEADS, WIDTH).double())
    torch.testing.assert_close(front_end.convolutions[1][..., -1], torch.ones(HEADS, WIDTH).double())


def test_the_size_of_a_frame_does_not_count() -> None:
    front_end, (q, k) = make_front_end(), make_inputs(30)
    scale = torch.rand(2, 1, 30, 1).double() * 1000 + 1
    for a, b in zip(front_end(q, k, None)[:2], front_end(scale * q, scale * k, None)[:2], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_a_state_is_small_and_copies_nothing_of_long_calls() -> None:
    front_end, (q, k) = make_front_end(), make_inputs(500)
    state = front_end(q, k, None)[2]
    assert state.queries.shape == (2, HEADS, 3, WIDTH) and state.keys.shape == (2, HEADS, 4, WIDTH)
    assert state.frames.tolist() == [front_end.span.horizon_frames] * 2
    for name, tensor in state.named_tensors().items():
        assert tensor.untyped_storage().nbytes() == tensor.nbytes, name
