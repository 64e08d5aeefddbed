"""The depth transformer: steps equal the parallel pass, codebooks see only those before them, absent codes are zero."""

import pytest
import torch

from hf_moshi_ttt.configuration_moshi_ttt import MoshiTTTConfig
from hf_moshi_ttt.transformer import attention, depth_transformer
from hf_moshi_ttt.transformer.depth_transformer import CodeEmbedding, DepthTransformer


@pytest.fixture
def decoder() -> DepthTransformer:
    torch.manual_seed(0)
    return DepthTransformer(MoshiTTTConfig.from_preset("tiny")).double()


def logits_of(decoder: DepthTransformer, hidden: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    return torch.stack(decoder(hidden, codes).logits, dim=1)


@torch.no_grad()
@pytest.mark.parametrize("batch", [1, 3])
def test_steps_equal_the_parallel_pass(decoder: DepthTransformer, batch: int) -> None:
    hidden, codes = torch.randn(batch, 1, 32, dtype=torch.float64), torch.randint(32, (batch, 9, 1))
    codes[-1, 4] = -1
    whole = logits_of(decoder, hidden, codes[:, :8])[:, :, 0]
    given = codes[:, :, 0]
    logits, chosen = decoder.step(hidden[:, 0], torch.zeros(batch, dtype=torch.int64), given, lambda x: x.argmax(-1))
    torch.testing.assert_close(logits, whole, rtol=1e-12, atol=1e-12)
    assert torch.equal(chosen, given)


@torch.no_grad()
@pytest.mark.parametrize("hooked", [None, "layers.0.qkv_proj.2", "layers.1.mlp.3", "layers.1.mlp.3.fc2"])
def test_a_step_that_writes_into_its_own_tensors_is_the_same(
    decoder: DepthTransformer, hooked: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if hooked:
        decoder.get_submodule(hooked).register_forward_hook(lambda module, inputs, output: 2 * output)
    hidden, given = torch.randn(3, 32, dtype=torch.float64), torch.full((3, 9), -2)
    given[0, 2], given[1, 4] = 5, -1
    text, kept = torch.tensor([1, 2, 3]), hidden.clone()
    plain = decoder.step(hidden, text, given, lambda x: x.argmax(-1))
    for module in (attention, depth_transformer):
        monkeypatch.setattr(module, "may_write", lambda _: True)
    with monkeypatch.context() as patched:  # nothing is put together of parts
        patched.setattr(torch, "cat", None)
        found = decoder.step(hidden, text, given, lambda x: x.argmax(-1))
    torch.testing.assert_close(found[0], plain[0], rtol=1e-12, atol=1e-12)
    assert torch.equal(found[1], plain[1]) and torch.equal(hidden, kept)


@torch.no_grad()
@pytest.mark.parametrize("hooked", ["layers.0", "layers.1.mlp.3", "layers.0.qkv_proj.2", "lm_heads.5"])
def test_a_step_of_one_row_calls_what_is_hooked(decoder: DepthTransformer, hooked: str) -> None:
    hidden, given, text = torch.randn(1, 32, dtype=torch.float64), torch.full((1, 9), -2), torch.tensor([3])
    calls: list[object] = []
    decoder.get_submodule(hooked).register_forward_hook(lambda *_: calls.append(_))
    decoder.step(hidden, text, given, lambda x: x.argmax(-1))
    assert len(calls) == (8 if hooked == "layers.0" else 1)


@torch.no_grad()
@pytest.mark.parametrize("changed", range(8))
def test_a_codebook_sees_only_those_before_it(decoder: DepthTransformer, changed: int) -> None:
    hidden, codes = torch.randn(1, 2, 32, dtype=torch.float64), torch.randint(32, (1, 8, 2))
    other = codes.clone()
    other[:, changed] = (other[:, changed] + 1) % 32
    before, after = logits_of(decoder, hidden, codes), logits_of(decoder, hidden, other)
    assert torch.equal(before[:, :changed], after[:, :changed])
    assert all(not torch.equal(before[:, i], after[:, i]) for i in range(changed, 8))


def test_absent_codes_have_a_zero_embedding_and_the_initial_id_one_of_its_own() -> None:
    embed = CodeEmbedding(4, 3)
    rows = embed(torch.tensor([-1, 0, 4]))
    assert torch.equal(rows[0], torch.zeros(3)) and torch.equal(rows[1:], embed.weight[[0, 4]])
