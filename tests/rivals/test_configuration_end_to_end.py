"""What can be set of a model that learns end to end, and what is refused."""

from typing import Any

import pytest

from hf_moshi_ttt.configuration_moshi_ttt import MoshiTTTConfig
from hf_moshi_ttt.rivals.configuration_end_to_end import EndToEndConfig


def make_config(**changes: Any) -> EndToEndConfig:
    made: EndToEndConfig = EndToEndConfig.from_preset("tiny", **{"ttt": None, **changes})  # type: ignore[assignment]
    return made


@pytest.mark.parametrize(("layers", "fast"), [(1, [0]), (2, [1]), (4, [3]), (8, [6, 7]), (32, list(range(24, 32)))])
def test_the_last_quarter_is_fast(layers: int, fast: list[int]) -> None:
    assert make_config(num_hidden_layers=layers).fast_layer_indices == fast


def test_layers_are_counted_from_the_last() -> None:
    assert make_config(fast_layers=3).fast_layer_indices == [1, 2, 3]


def test_a_state_depends_on_the_inner_loop() -> None:
    values = make_config(chunk_frames=24).state_values()
    assert values["chunk_frames"] == 24 and {"inner_lr", "max_inner_norm", "fast_layers"} <= values.keys()
    assert "second_order" not in values and "codec" not in values


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ttt": {}}, "must be None: a model that learns end to end has no TTT layers"),
        ({"chunk_frames": 1}, "chunk_frames=1, but chunk_frames must be at least 2 frames"),
        ({"inner_lr": -0.5}, "inner_lr=-0.5, but inner_lr must be a number, 0 or more"),
        ({"inner_lr": float("inf")}, "inner_lr=inf, but inner_lr must be a number, 0 or more"),
        ({"max_inner_norm": 0}, "max_inner_norm=0, but max_inner_norm must be above 0"),
        ({"fast_layers": 5}, "fast_layers=5, but fast_layers must be from 1 to the 4 layers"),
        ({"fast_layers": 0}, "fast_layers=0"),
        ({"chunk_size": 8}, r"does not know \['chunk_size'\]"),
        ({"hidden_size": 33}, "hidden_size=33"),
    ],
)
def test_what_is_out_of_bounds_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_config(**changes)


def test_a_plain_model_does_not_take_it() -> None:
    with pytest.raises(ValueError, match="does not know .*chunk_frames"):
        MoshiTTTConfig.from_dict(make_config().to_dict())
