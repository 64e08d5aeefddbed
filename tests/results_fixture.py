"""A small results.json that the schema allows."""

from typing import Any

import numpy as np

from hf_moshi_ttt.evaluation.comparisons import compare
from hf_moshi_ttt.evaluation.loss_curve import bin_losses, codebook_curves, curve, long_context_numbers

BIN_FRAMES = 100
WINDOW_FRAMES = 250
LENGTHS = (1000, 1000, 700)


def planted_losses(shift: float = 0.0, seed: int = 0) -> list[np.ndarray]:
    """`[8, T]` each, around 5 nats."""
    rng = np.random.default_rng(seed)
    return [5 + shift + 0.1 * rng.standard_normal((8, length)) for length in LENGTHS]


def model_results(losses: list[np.ndarray], **changes: Any) -> dict[str, Any]:
    headlines = [one.mean(0) for one in losses]
    numbers = long_context_numbers(headlines, WINDOW_FRAMES, BIN_FRAMES, [500, 900])
    description = {
        "codec": "a codec", "text_stream": "zero", "user_stream": "duplicate", "sliding_window": WINDOW_FRAMES,
        "dtype": "float32", "ttt": None, "num_parameters": 10,
    }  # fmt: skip
    run = {
        "mode": "block", "memory": "on", "processes": 1, "kept_recordings": 0, "frames_read": 2700, "seconds": 1.5,
        "passes": 6, "block_check": {"first_frame": 900, "frames": 64, "max_difference_nats": 1e-6},
    }  # fmt: skip
    return {
        "path": "runs/ttt", "description": description, **numbers, "librilight_frames": 2700, "bin_frames": BIN_FRAMES,
        "curve": curve(bin_losses(headlines, BIN_FRAMES), BIN_FRAMES),
        "with_training_weights": {"weights": [1.0] * 8, **numbers}, "by_codebook": [numbers] * 8,
        "codebook_curves": codebook_curves(losses, BIN_FRAMES), "run": run,
        "findings": [{"what": "All is well", "remedy": None}, {"what": "<b>Not</b> quite", "remedy": "Mend it"}],
        **changes,
    }  # fmt: skip


def example_results(**changes: Any) -> dict[str, Any]:
    """A model `ttt` and its baselines `plain` and `window_only`."""
    losses = {"ttt": planted_losses(), "plain": planted_losses(0.05), "window_only": planted_losses(0.01, seed=1)}
    headlines = {name: [one.mean(0) for one in both] for name, both in losses.items()}
    return {
        "schema": 2,
        "made_with": {"torch": "2", "device": "cpu"},
        "settings": {"bin_frames": BIN_FRAMES, "training_frames": 600},
        "codes": "runs/codes",
        "codec": "a codec",
        "recordings": [
            {"name": f"book {i}", "frames": length, "chapters": [{"path": f"{i}.flac", "first_frame": 0}]}
            for i, length in enumerate(LENGTHS)
        ],
        "model": "ttt",
        "models": {name: model_results(both) for name, both in losses.items()},
        "comparisons": {
            name: compare(headlines["ttt"], headlines[name], WINDOW_FRAMES, BIN_FRAMES)
            for name in ("plain", "window_only")
        },
        "memory": {
            "schema": 1, "x_label": "position", "x": [50, 150], "layers": [1], "recordings": [2, 2],
            "curves": {"loss_before": [[1.5, 0.75]], "gate": [[0.1, None]]},
        },
        **changes,
    }  # fmt: skip
