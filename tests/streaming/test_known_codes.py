"""Generation of rows that stand anywhere: each goes on, as if alone, with its first frame that is not complete."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from hf_moshi_ttt.modeling_moshi_ttt import MoshiTTTForConditionalGeneration
from hf_moshi_ttt.streaming.generation_moshi_ttt import GREEDY, Sampling
from hf_moshi_ttt.streaming.known_codes import begun_frames
from hf_moshi_ttt.streaming.state import MoshiTTTState

from ..conftest import random_codes

MakeModel = Callable[..., MoshiTTTForConditionalGeneration]
ONE_LATE = [0] + 2 * ([0] + [1] * 7)
TWO_LATE = [0] + 2 * ([0, 1] + [2] * 6)
DELAYS = pytest.mark.parametrize("delays", [[0] * 17, ONE_LATE, TWO_LATE], ids=["none", "one", "two"])


def stepped(model: Any, state: MoshiTTTState, user_BQT: Tensor) -> MoshiTTTState:
    """The state after a free step for each frame of the user."""
    free = torch.full((state.batch_size, 9), -2)
    for user_BQ in user_BQT.unbind(2):
        state = model.step_with_logits(torch.cat([free, user_BQ], dim=1), state).state
    return state


@DELAYS
@pytest.mark.parametrize("steps", [0, 1, 2, 3])
@pytest.mark.parametrize("prompt_frames", [0, 20])
def test_single_steps_and_generation_make_one_stream(
    make_model: MakeModel, delays: list[int], steps: int, prompt_frames: int
) -> None:
    """Whole generation past the window, beside a user and given text, equals that from any step on with the rest."""
    model = make_model(delays=delays)
    user = random_codes(model.config, 1, 16, seed=5)[:, 9:]
    start = model.init_state(1)
    if prompt_frames:
        start = model(random_codes(model.config, 1, prompt_frames, absent=0), state=start).state
    whole = model.generate(state=start, max_new_frames=14, user_codes=user, sampling=GREEDY).codes
    state = stepped(model, start.clone(), user[:, :, :steps])
    told = max(0, steps - max(delays))  # frames that the steps have completed
    assert begun_frames(state) == [min(steps, max(delays))]
    text = torch.cat([whole[:, 0], torch.full((1, 2), -2)], dim=1)[:, told:]
    rest = model.generate(
        state=state, max_new_frames=14 - told, user_codes=user[:, :, told:], text_codes=text, sampling=GREEDY
    )
    assert torch.equal(rest.codes, whole[:, :, told:])


@DELAYS
@pytest.mark.parametrize("sampling", ["greedy", "drawn"])
def test_rows_that_stand_elsewhere_go_on_as_if_alone(make_model: MakeModel, delays: list[int], sampling: str) -> None:
    """A row with frames that are begun, a fresh one and one after a prompt, and their states afterwards."""
    model = make_model(delays=delays)
    prompt, user = random_codes(model.config, 3, 20, absent=0), random_codes(model.config, 3, 40, seed=5)[:, 9:]
    prompted = model(prompt, state=model.init_state(3)).state
    begun = stepped(model, prompted.clone(), user[:, :, :3])
    named = [each.named_tensors() for each in (begun, model.init_state(3), prompted)]
    state = begun.map(lambda name, _: torch.stack([named[row][name][row] for row in range(3)]))
    assert begun_frames(state) == [max(delays), 0, 0]

    def sampling_of(rows: list[int]) -> Sampling:
        return GREEDY if sampling == "greedy" else Sampling(generator=[torch.Generator().manual_seed(r) for r in rows])

    new_user = torch.cat([user[:, :, 3 - max(delays) :][:1], user[1:, :, : 37 + max(delays)]])
    together = model.generate(state=state, max_new_frames=12, user_codes=new_user, sampling=sampling_of([0, 1, 2]))
    for row in range(3):
        alone = model.generate(
            state=state.map(lambda _, tensor, row=row: tensor[row : row + 1]),  # type: ignore[misc]
            max_new_frames=12,
            user_codes=new_user[row : row + 1],
            sampling=sampling_of([row]),
        )
        assert torch.equal(together.codes[row : row + 1], alone.codes)
        assert together.codes.max() < 64 and together.codes[row, 1:].max() < 32
        assert together.state.frames[row] == alone.state.frames[0]
        assert torch.equal(together.state.history[row], alone.state.history[0])


def test_given_codes_begin_with_the_frames_that_are_begun(make_model: MakeModel) -> None:
    """The user's are heard, as nothing has read them; text that was chosen must be what was chosen, or left free."""
    model = make_model()
    user = random_codes(model.config, 1, 30, seed=5)[:, 9:]
    state = stepped(model, model.init_state(1), torch.full_like(user, -1)[:, :, :5])
    heard = stepped(model, model.init_state(1), torch.cat([torch.full_like(user[:, :, :4], -1), user[:, :, :1]], dim=2))
    result = model.generate(state=state, max_new_frames=20, user_codes=user, sampling=GREEDY).codes
    assert torch.equal(result[:, 9:], user[:, :, :20])
    assert torch.equal(result, model.generate(state=heard, max_new_frames=20, user_codes=user, sampling=GREEDY).codes)
    text = torch.full((1, 21), -2)
    text[0, 0] = chosen = int(state.history[0, 0, -1])
    assert torch.equal(
        result, model.generate(state=state, max_new_frames=20, user_codes=user, text_codes=text, sampling=GREEDY).codes
    )
    text[0, 0] = chosen + 1
    with pytest.raises(ValueError, match=rf"text_codes: row 0 has begun its first 1 new .* with \[{chosen}\]; got"):
        model.generate(state=state, max_new_frames=20, text_codes=text)
    with pytest.raises(ValueError, match="codes_frame must hold ids"):
        model.generate(state=state, max_new_frames=20, user_codes=user + 32)


def test_what_was_read_of_the_user_is_not_changed(make_model: MakeModel) -> None:
    model = make_model(delays=TWO_LATE)
    user = random_codes(model.config, 1, 30, seed=5, absent=0)[:, 9:]
    state = stepped(model, model.init_state(1), user[:, :, :5])
    with pytest.raises(ValueError, match=r"user_codes: row 0 has begun its first 2 new frames, in stream 9 with \["):
        model.generate(state=state, max_new_frames=4, user_codes=(user[:, :, 3:] + 1) % 32)


@pytest.mark.parametrize(
    ("name", "codes", "found"),
    [
        ("user_codes", torch.zeros(1, 8, 20), "torch.float32"),
        ("text_codes", torch.zeros(1, 20, dtype=torch.int32), "torch.int32"),
        ("text_codes", [[0] * 20], "list"),
    ],
)
def test_codes_of_another_type_are_refused(make_model: MakeModel, name: str, codes: Any, found: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be an int64 tensor; got {found}"):
        make_model().generate(max_new_frames=4, **{name: codes})
