"""What all pictures share: drawn without a screen, in one style, and saved and closed in one place."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

POSITION_LABEL = "position in the recording (frames of 80 ms)"
_DPI = 120
_STYLE: Any = {"legend.frameon": False, "legend.fontsize": "small", "grid.alpha": 0.25, "figure.titlesize": "medium"}


@contextmanager
def saved_figure(
    path: str | Path, rows: int, columns: int, panel_inches: tuple[float, float], **options: Any
) -> Iterator[tuple[Figure, np.ndarray]]:
    """A figure with panels `[rows, columns]` to draw in; it is saved to `path` and closed at the end.

    Args:
        panel_inches: width and height of a panel.
        options: of `plt.subplots`, such as `sharex`.
    """
    size = (panel_inches[0] * columns, panel_inches[1] * rows)
    with plt.rc_context(_STYLE):
        figure, panels = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False, **options)
        try:
            yield figure, panels
            figure.savefig(path, dpi=_DPI)
        finally:
            plt.close(figure)


def remove_panels(panels: np.ndarray, used: int) -> None:
    """Takes away the panels after the first `used`."""
    for axes in panels.flat[used:]:
        axes.remove()
