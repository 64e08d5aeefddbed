"""What is known of the frames that `generate` makes, before the model chooses the others.

A frame is begun in one step and complete `max_delay` steps later. So the last frames of a stream may have been begun
and not be complete: they are the first of the new ones, in each row its own number.

Axes: B rows, K streams, Q codebooks, T frames from each row's first that is not complete.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from ..special_ids import FREE_ID, NO_INPUT_ID
from .state import MoshiTTTState


def begun_frames(state: MoshiTTTState) -> list[int]:
    """How many frames of each row are begun and not complete."""
    is_free_BT = (state.history == FREE_ID).any(1)
    back_T = torch.arange(is_free_BT.shape[1], 0, -1, device=is_free_BT.device)
    return (is_free_BT * back_T).amax(1).tolist()


def known_codes(
    config: Any,
    state: MoshiTTTState,
    new_frames: int,
    user_codes: Tensor | Literal["duplicate"] | None,
    text_codes: Tensor | None,
) -> Tensor:
    """`[B, K, new_frames + max_delay]`, -2 where the model chooses; user and text as `generate` takes them.

    Raises:
        ValueError: codes of another shape, or no such `user_codes`.
    """
    if isinstance(user_codes, str) and user_codes != "duplicate":
        raise ValueError(f'user_codes={user_codes!r}, but it must be codes, "duplicate" or None.')
    own = 1 + config.num_codebooks
    shape = (state.batch_size, config.num_streams, new_frames + config.max_delay_frames)
    known_BKT = state.history.new_full(shape, FREE_ID)
    known_BKT[:, own:] = NO_INPUT_ID
    if user_codes is not None and not isinstance(user_codes, str):
        known_BKT[:, own:] = _of_new_frames("user_codes", user_codes, known_BKT[:, own:])
    if text_codes is not None:
        known_BKT[:, 0] = _of_new_frames("text_codes", text_codes, known_BKT[:, 0])
    return known_BKT


def _of_new_frames(name: str, codes: Any, like: Tensor) -> Tensor:
    """The first frames of given codes, as many as `like` has.

    Raises:
        ValueError: another type or shape, or fewer frames.
    """
    frames = like.shape[-1]
    if not isinstance(codes, Tensor) or codes.dtype != torch.int64:
        found = codes.dtype if isinstance(codes, Tensor) else type(codes).__name__
        raise ValueError(f"{name} must be an int64 tensor; got {found}.")
    if codes.dim() != like.dim() or codes.shape[:-1] != like.shape[:-1] or codes.shape[-1] < frames:
        axes = "[B, Q, T]" if like.dim() == 3 else "[B, T]"
        raise ValueError(f"{name} must be {axes} = {list(like.shape)} or longer; got {list(codes.shape)}.")
    return codes[..., :frames]


def with_begun_frames(state: MoshiTTTState, begun: Sequence[int], known_BKT: Tensor, has_user: bool) -> MoshiTTTState:
    """The state with the user's known codes in the last frame that each row has begun: no step has read them yet.

    Args:
        has_user: whether the user's codes are given.

    Raises:
        ValueError: other codes than the stream has, where they were chosen or read.
    """
    num_codebooks = (known_BKT.shape[1] - 1) // 2
    for row, count in enumerate(begun):
        if count == 0:
            continue
        given_KT, had_KT = known_BKT[row, :, :count], state.history[row, :, -count:]
        differs_KT = (given_KT != FREE_ID) & (given_KT != had_KT)
        differs_KT[-num_codebooks:, -1 if has_user else 0 :] = False
        for stream in differs_KT.any(1).nonzero()[:, 0].tolist():
            name, given, had = "user_codes" if stream else "text_codes", given_KT[stream], had_KT[stream]
            raise ValueError(
                f"{name}: row {row} has begun its first {count} new frames, in stream {stream} with {had.tolist()}; "
                f"got {given.tolist()}. Begin with the end of state.history."
            )
        if has_user:
            this_B = torch.arange(state.batch_size, device=known_BKT.device) == row
            state = state.with_user_codes(known_BKT[:, -num_codebooks:, count - 1], this_B)
    return state
