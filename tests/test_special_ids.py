"""What is no code is taken where it means something and refused elsewhere."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from hf_moshi_ttt.special_ids import FREE_ID, IGNORE_ID, NO_INPUT_ID


@torch.no_grad()
def test_ids_are_taken_where_they_mean_something(make_model: Callable[..., Any]) -> None:
    model, codes = make_model().eval(), torch.randint(0, 32, (1, 17, 3))
    for id in (NO_INPUT_ID, FREE_ID):
        model.step_with_logits(codes[:, :, 0].index_fill(1, torch.tensor(0), id), model.init_state(1))
    absent, free, ignored = (codes.index_fill(1, torch.tensor(0), id) for id in (NO_INPUT_ID, FREE_ID, IGNORE_ID))
    assert model(absent).text_logits.isfinite().all()
    for wrong in (free, ignored):
        with pytest.raises(ValueError, match=r"codes must lie in -1\.\.64"):
            model(wrong)
    assert model(codes, labels=torch.full_like(codes, IGNORE_ID)).loss == 0
