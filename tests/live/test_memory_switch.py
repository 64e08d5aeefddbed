"""Memories are silenced by row, and the model is left as it was."""

import pytest
import torch

from hf_moshi_ttt.evaluation.long_context import evaluation_mode
from hf_moshi_ttt.live.memory_switch import silenced_rows

from ..conftest import random_codes
from .conftest import awake_model


@torch.no_grad()
@pytest.mark.parametrize("learner", ["ttt", "in_place"])
def test_silenced_rows_are_those_of_the_evaluation_without_memory(learner: str) -> None:
    """Their logits are those with `memory="off"`, the other rows' as ever, and diagnostics are not disturbed."""
    model = awake_model(ttt={"learner": learner})
    codes = random_codes(model.config, 2, 12)
    loud = model(codes, diagnostics=True)
    with evaluation_mode(model, "off"):
        off = model(codes)
    with silenced_rows(model, torch.tensor([False, True])):
        both = model(codes, diagnostics=True)
    assert torch.equal(both.text_logits[0], loud.text_logits[0])
    assert torch.equal(both.text_logits[1], off.text_logits[1])
    assert not torch.equal(both.text_logits[1], loud.text_logits[1])
    assert torch.equal(both.diagnostics[0].gate, loud.diagnostics[0].gate)


def test_hooks_are_gone_after_an_error() -> None:
    model = awake_model()
    with pytest.raises(KeyError), silenced_rows(model, torch.tensor([True])):
        raise KeyError
    assert not any(module._forward_hooks for module in model.modules())
