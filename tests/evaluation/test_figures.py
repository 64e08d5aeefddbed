"""Pictures are saved and closed in one place, also where drawing fails."""

from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import pytest

from hf_moshi_ttt.evaluation.figures import remove_panels, saved_figure


@pytest.fixture(autouse=True)
def no_figures_of_other_tests() -> None:
    """Tests of pictures keep figures open to look at them."""
    plt.close("all")


def test_a_figure_is_saved_in_its_size_and_closed(tmp_path: Path) -> None:
    with saved_figure(tmp_path / "a.png", 2, 3, (2, 1.5)) as (figure, panels):
        assert panels.shape == (2, 3) and list(figure.get_size_inches()) == [6, 3]
        remove_panels(panels, 4)
        assert len(figure.axes) == 4
    assert plt.imread(tmp_path / "a.png").shape[:2] == (360, 720)
    assert plt.get_fignums() == []


def test_a_figure_that_cannot_be_drawn_leaves_no_file_and_no_style(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    with pytest.raises(ZeroDivisionError), saved_figure(tmp_path / "a.png", 1, 1, (2, 2)):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == [] and plt.get_fignums() == []
    assert dict(matplotlib.rcParams) == before
