"""What a frame writes over: views of one memory, in the layouts that attention takes."""

import pytest
import torch

from hf_moshi_ttt.transformer.rope import apply_rope, rope_phases, rotate_
from hf_moshi_ttt.transformer.row_buffers import row_codebooks, row_heads, row_hidden

WIDTH, HEADS, CODEBOOKS = 12, 3, 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_heads_are_views_of_what_was_projected_and_turn_in_place(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    row, projected = row_heads(torch.empty(1, 1, WIDTH, dtype=dtype), HEADS), torch.randn(3 * WIDTH).to(dtype)
    row.projected.copy_(projected)
    q, k, v = projected.view(3, 1, HEADS, 1, WIDTH // HEADS)
    assert torch.equal(row.q, q) and torch.equal(row.k, k) and torch.equal(row.v, v)
    phases = rope_phases(torch.tensor([[7]]), WIDTH // HEADS, 10000.0)
    rotate_(row.turning, phases)
    assert torch.equal(row.q, apply_rope(q, phases)) and torch.equal(row.k, apply_rope(k, phases))
    assert torch.equal(row.v, v)


def test_codebooks_are_written_in_order_and_see_those_before_them() -> None:
    hidden = row_hidden(torch.empty(WIDTH), 10)
    row, projected = row_codebooks(torch.zeros(CODEBOOKS, 3 * WIDTH), HEADS, hidden), torch.randn(CODEBOOKS, 3 * WIDTH)
    heads = projected.view(CODEBOOKS, 3, 1, HEADS, WIDTH // HEADS)
    for codebook, one in enumerate(row.projected):
        one.copy_(projected[codebook])
        assert torch.equal(row.queries[codebook][:, :, 0], heads[codebook, 0])
        for found, index in ((row.keys, 1), (row.values, 2)):
            assert torch.equal(found[:, :, codebook], heads[codebook, index]) and not found[:, :, codebook + 1 :].any()
        seen = row.seen[codebook].flatten().tolist()
        assert seen == [0.0] * (codebook + 1) + [-torch.inf] * (CODEBOOKS - codebook - 1)
    assert row.hidden is hidden


def test_halves_of_a_feed_forward() -> None:
    hidden = row_hidden(torch.empty(3, dtype=torch.float64), 10)
    hidden.whole.copy_(torch.arange(10))
    assert hidden.gate.tolist() == [0, 1, 2, 3, 4] and hidden.value.tolist() == [5, 6, 7, 8, 9]
    assert hidden.whole.dtype == torch.float64


def test_masks_that_are_kept_are_the_cpus_whoever_asks_first() -> None:
    hidden = row_hidden(torch.empty(WIDTH), 8)
    with torch.device("meta"):
        found = row_codebooks(torch.zeros(11, 3 * WIDTH, device="cpu"), HEADS, hidden)
    assert {mask.device.type for mask in found.seen} == {"cpu"}
