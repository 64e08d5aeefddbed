"""What the memory of each TTT layer does, over the position in a stream or over the steps of a training run.

Both give the same JSON, which `memory_plot.plot_memory` draws:

    {"schema": 1, "x_label": str, "x": [...], "layers": [index of each TTT layer], "recordings": [how many at each x],
     "curves": {quantity: [[a value or null at each x] of each layer]}}

The quantities are those of `memory/diagnostics.py`.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor
from tqdm.auto import tqdm

from ..data.collator import MoshiTTTCollator
from ..memory.diagnostics import LOG_PREFIX, QUANTITIES, log_key, means_by_layer
from .figures import POSITION_LABEL
from .long_context import evaluation_mode

if TYPE_CHECKING:
    from ..modeling_moshi_ttt import MoshiTTTForConditionalGeneration


def memory_by_position(
    model: "MoshiTTTForConditionalGeneration",
    recordings: Sequence[np.ndarray],
    silence_codes: Sequence[int] | None = None,
    bin_frames: int = 250,
) -> dict[str, Any]:
    """Streams recordings through the model and gathers what its memories do, in bins of positions.

    Args:
        recordings: codes `[Q, T]` of one speaker each.

    Raises:
        ValueError: a model without TTT layers, or no recording as long as a bin.
    """
    layers = model.config.ttt_layer_indices
    if not layers:
        raise ValueError("The model has no TTT layers (ttt=None): it has no memory to look at.")
    bins = max(codes.shape[1] for codes in recordings) // bin_frames
    if bins == 0:
        raise ValueError(f"No recording has {bin_frames} frames. Use a smaller bin_frames.")
    found = np.full((len(recordings), bins, len(layers), len(QUANTITIES)), np.nan)
    collator = MoshiTTTCollator(model.config, silence_codes)
    with evaluation_mode(model):
        for row, codes in enumerate(tqdm(recordings, desc="memory", unit="recording")):
            batch = collator([{"codes": codes, "recording": row, "start_frame": 0}])["codes"].to(model.device)
            _follow(model, batch, bin_frames, found[row])
    centres = [(index + 0.5) * bin_frames for index in range(bins)]
    reached = np.array([codes.shape[1] // bin_frames for codes in recordings])
    counts = [int((reached > index).sum()) for index in range(bins)]
    means = np.stack([np.nansum(found[:, index], 0) / counts[index] for index in range(bins)])
    means[np.isnan(found).all(0)] = np.nan
    return _curves(POSITION_LABEL, centres, layers, counts, means)


def _follow(
    model: "MoshiTTTForConditionalGeneration", codes_1KT: Tensor, bin_frames: int, found_NLQ: np.ndarray
) -> None:
    """Writes what each layer's memory does in each whole bin of a recording: bin, layer, quantity."""
    state = model.init_state(1)
    for index in range(codes_1KT.shape[2] // bin_frames):
        chunk = codes_1KT[:, :, index * bin_frames : (index + 1) * bin_frames]
        output: Any = model(codes=chunk, state=state, diagnostics=True)
        state = output.state
        for layer, name, value in means_by_layer(range(found_NLQ.shape[1]), output.diagnostics, chunk):
            found_NLQ[index, layer, QUANTITIES.index(name)] = value.item()


def memory_by_step(log_history: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The same over the steps of a run, from what it has logged (`run_files.read_metrics`).

    Raises:
        ValueError: nothing of a memory was logged.
    """
    logged = [entry for entry in log_history if any(key.startswith(LOG_PREFIX) for key in entry)]
    if not logged:
        raise ValueError(f"No {LOG_PREFIX}* is in the log: the model has no TTT layers, or no step was logged.")
    layers = sorted(
        {int(key.removeprefix(LOG_PREFIX).split("/")[0]) for key in logged[0] if key.startswith(LOG_PREFIX)}
    )
    values = np.array(
        [[[entry.get(log_key(layer, name), np.nan) for name in QUANTITIES] for layer in layers] for entry in logged]
    )
    return _curves("training step", [entry["step"] for entry in logged], layers, [], values)


def _curves(x_label: str, x: Sequence[float], layers: Sequence[int], counts: Sequence[int], values_XLQ: Any) -> Any:
    curves = {
        name: [[None if np.isnan(v) else float(v) for v in values_XLQ[:, place, q]] for place in range(len(layers))]
        for q, name in enumerate(QUANTITIES)
        if not np.isnan(values_XLQ[:, :, q]).all()
    }
    return {
        "schema": 1, "x_label": x_label, "x": list(x), "layers": list(layers), "recordings": list(counts),
        "curves": curves,
    }  # fmt: skip
