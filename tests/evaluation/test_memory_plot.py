"""The picture of memories has a panel a layer, and says what is drawn."""

from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from hf_moshi_ttt.evaluation.memory_plot import plot_memory


def memory(num_layers: int, **changes: Any) -> dict[str, Any]:
    """What memory_curves.py makes."""
    losses = ("loss_initial", "loss_before", "loss_after", "key_dependent_share", "gate", "branch_to_residual")
    return {
        "x_label": "training step", "x": [10, 20], "layers": list(range(3, 3 + num_layers)), "recordings": [],
        "curves": {name: [[1.0 + layer, None] for layer in range(num_layers)] for name in losses}, **changes,
    }  # fmt: skip


@pytest.mark.parametrize("num_layers", [1, 4, 5])
def test_every_layer_has_a_panel_and_every_quantity_its_lines(
    tmp_path: Path, kept: list[Figure], num_layers: int
) -> None:
    plot_memory(memory(num_layers), tmp_path / "memory.png")
    assert (tmp_path / "memory.png").stat().st_size > 10_000
    panels = {axes.get_title(): axes for axes in kept[0].axes}
    assert [title for title in panels if title.startswith("layer")] == [
        f"layer {index}: inner loss" for index in range(3, 3 + num_layers)
    ]
    own = {line.get_label(): list(line.get_ydata())[:1] for line in panels["layer 3: inner loss"].lines[:3]}
    assert own == {"W_0 (no learning)": [1.0], "before the frame's step": [1.0], "after the frame's step": [1.0]}
    assert len(panels["mean size of the gate"].lines) == num_layers
    assert len(panels["norm of what was learned / of W_0"].lines) == 0  # not in the report
    assert all(axes.get_xlabel() == "training step" and axes.get_ylim()[0] == 0 for axes in kept[0].axes)
    assert "1 = a constant answer, 2 = a random one" in kept[0].get_suptitle()
