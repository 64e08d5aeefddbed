"""Long-context numbers of losses by position, as a module of `evaluate`."""

import datasets
import evaluate

from hf_moshi_ttt.evaluation.loss_curve import long_context_numbers

_DESCRIPTION = """
Loss as a function of position in long recordings: a least-squares slope beyond the attention window, and losses around
positions, with 95% intervals over recordings.
"""
_INPUTS = """
Args:
    losses: one array of losses by position for each recording, in nats; NaN where there is no prediction.
    window: frames of 80 ms that the model's attention sees.
    bin_frames: width in frames of what every loss is a mean over.
    positions_frames: positions in frames whose losses are wanted.
Returns:
    librilight_slope: nats per 1,000 frames beyond the window, with librilight_slope_interval for several recordings.
    librilight_loss_<position>, librilight_loss_beyond_window: the same; 8k is frame 8,000.
    librilight_samples: recordings. What no recording reaches is absent.
"""


class LibriLightLongContext(evaluate.Metric):
    """`compute(losses=[array per recording], window=...)`."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features({"losses": datasets.Sequence(datasets.Value("float32"))}),
        )

    def _compute(self, losses, window, bin_frames=250, positions_frames=(8000, 16000, 24000)):
        return long_context_numbers(losses, window, bin_frames, positions_frames)
