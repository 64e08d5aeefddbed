"""The picture of a session shows its frames and each layer's memory."""

from pathlib import Path

from matplotlib.image import imread

from hf_moshi_ttt.live.session_plot import plot_session


def test_pictures_are_drawn_with_and_without_memory(tmp_path: Path) -> None:
    layer = {"layer": 1, "norm": 2.0, "write_strength": None, "num_bytes": 4, "age_sec": 0.08}
    memory = [[{**layer, "write_strength": strength, "norm": strength or 0.0}] for strength in (None, 0.5, 0.7)]
    plot_session(tmp_path / "with.png", [20.0, 30.0, 25.0], memory)
    plot_session(tmp_path / "without.png", [20.0, 30.0, 25.0], [])
    drawn, empty = imread(tmp_path / "with.png"), imread(tmp_path / "without.png")
    assert drawn.shape == empty.shape and (drawn != empty).any()
