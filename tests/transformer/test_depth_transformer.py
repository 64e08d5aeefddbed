"""The depth transformer: steps equal the parallel pass, codebooks see only those before them, absent codes are zero."""

import pytest
import torch

from hf_moshi_ttt.configuration_moshi_ttt import MoshiTTTConfig
from hf_moshi_ttt.transformer.depth_transformer import CodeEmbedding, DepthTransformer


@pytest.fixture
def decoder() -> DepthTransformer:
    torch.manual_seed(0)
    return DepthTransformer(MoshiTTTConfig.from_preset("tiny")).double()


@torch.no_grad()
def test_steps_equal_the_parallel_pass(decoder: DepthTransformer) -> None:
    hidden, codes = torch.randn(3, 1, 32, dtype=torch.float64), torch.randint(32, (3, 9, 1))
    codes[1, 4] = -1
    whole = decoder(hidden, codes[:, :8])[:, :, 0]
    logits, chosen = decoder.step(hidden[:, 0], codes[:, 0, 0], lambda i, _: codes[:, 1 + i, 0])
    torch.testing.assert_close(logits, whole, rtol=1e-12, atol=1e-12)
    assert torch.equal(chosen, codes[:, 1:, 0])


@torch.no_grad()
@pytest.mark.parametrize("changed", range(8))
def test_a_codebook_sees_only_those_before_it(decoder: DepthTransformer, changed: int) -> None:
    hidden, codes = torch.randn(1, 2, 32, dtype=torch.float64), torch.randint(32, (1, 8, 2))
    other = codes.clone()
    other[:, changed] = (other[:, changed] + 1) % 32
    before, after = decoder(hidden, codes), decoder(hidden, other)
    assert torch.equal(before[:, :changed], after[:, :changed])
    assert all(not torch.equal(before[:, i], after[:, i]) for i in range(changed, 8))


def test_absent_codes_have_a_zero_embedding_and_the_initial_id_one_of_its_own() -> None:
    embed = CodeEmbedding(4, 3)
    rows = embed(torch.tensor([-1, 0, 4]))
    assert torch.equal(rows[0], torch.zeros(3)) and torch.equal(rows[1:], embed.weight[[0, 4]])
