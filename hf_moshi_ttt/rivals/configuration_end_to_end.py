"""`EndToEndConfig`: a plain Moshi whose last feed-forwards learn at test time (`end_to_end.py`)."""

from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict

from ..configuration_moshi_ttt import MoshiTTTConfig


@strict
class EndToEndConfig(MoshiTTTConfig):
    r"""The keys of `MoshiTTTConfig`, with `ttt=None`, and those of the inner loop.

    Args:
        chunk_frames: Frames whose mean loss gives one inner step. Part of the function that the model computes.
        inner_lr: Learning rate of that step. 0 for none: the control with the same parameters.
        max_inner_norm: Norm to which the gradient of one row's step is cut, over all its fast weights together.
        second_order: Whether training follows the gradients of the inner steps; without, they are constants to it.
        fast_layers: How many temporal layers, counted from the last, have fast weights; None for a quarter of them.
    """

    model_type = "moshi_ttt_end_to_end"
    state_free_keys: ClassVar[frozenset[str]] = MoshiTTTConfig.state_free_keys | {"second_order"}

    chunk_frames: int = 64
    inner_lr: float | int = 1.0
    max_inner_norm: float | int = 1.0
    second_order: bool = True
    fast_layers: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if self.fast_layers is None:
            self.fast_layers = max(1, round(self.num_hidden_layers / 4))
        super().__post_init__(**kwargs)

    @property
    def fast_layer_indices(self) -> list[int]:
        """The temporal layers with fast weights."""
        assert self.fast_layers is not None, "set when the configuration is made"
        return list(range(self.num_hidden_layers - self.fast_layers, self.num_hidden_layers))

    def validate_bounds(self) -> None:
        """Part of `@strict` validation."""
        super().validate_bounds()
        self.require("ttt", self.ttt is None, "None: a model that learns end to end has no TTT layers")
        least = self.max_delay_frames + 1
        self.require("chunk_frames", self.chunk_frames >= least, f"at least {least} frames, one more than any delay")
        self.require("inner_lr", 0 <= self.inner_lr < float("inf"), "a number, 0 or more")
        self.require("max_inner_norm", self.max_inner_norm > 0, "above 0")
        layers = self.num_hidden_layers
        inside = self.fast_layers is not None and 1 <= self.fast_layers <= layers
        self.require("fast_layers", inside, f"from 1 to the {layers} layers")
