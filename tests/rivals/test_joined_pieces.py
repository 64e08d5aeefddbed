"""Pieces of a plain stream, joined, are the whole; with delays longer than a piece too."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from hf_moshi_ttt.rivals.joined_pieces import JoinedPieces

from ..conftest import random_codes

LONGER = [0, 0, 2, 1, 2, 1, 1, 1, 1, 0, 1, 1, 1, 2, 1, 1, 1]


@torch.no_grad()
@pytest.mark.parametrize("delays", [None, LONGER, [0] * 17], ids=["usual", "longer", "none"])
@pytest.mark.parametrize("lengths", [[20], [1] * 20, [3, 1, 16]], ids=str)
def test_joined_pieces_are_the_whole(
    make_model: Callable[..., Any], delays: list[int] | None, lengths: list[int]
) -> None:
    model = make_model(ttt=None, **({} if delays is None else {"delays": delays}))
    codes = random_codes(model.config, batch=2, frames=23)
    before = model(codes[:, :, :3], state=model.init_state(2)).state
    whole = model(codes[:, :, 3:], state=before.clone())
    pieces, state = JoinedPieces(model.config.max_delay_frames), before
    for part in codes[:, :, 3:].split(lengths, dim=2):
        output = model(part, state=state)
        pieces.add(output)
        state = output.state
    close = {"rtol": 2e-5, "atol": 2e-5, "equal_nan": True}
    for found, expected in zip(
        pieces.joined(), (whole.text_logits, whole.audio_logits, whole.late_audio_logits), strict=True
    ):
        torch.testing.assert_close(found, expected, **close)
