"""The check for GPUs runs at tiny size on a CPU, stops at its limits, and goes on where it was stopped."""

import json
import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

CHECK = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "device_check.py")))
EXPECTED = {
    "equality": ["cpu_against_device_torch.float32", "frames_against_whole_torch.bfloat16"],
    "layers": [
        "moshi_layer_ms",
        "online_torch_ms",
        "online_triton_ms",
        "gated_delta_torch_ms",
        "mini_batch_2_torch_ms",
        "mini_batch_5_torch_ms",
    ],
    "training": ["plain_frames_per_sec", "ttt_mfu", "ttt_predicted_gib", "share_of_ttt"],
    "live": ["eager_p50_ms", "eager_frame_45000_p99_ms", "largest_batch_within_80_ms", "graphed"],
    "evaluation": ["positions", "seconds"],
}


@pytest.mark.parametrize("part", EXPECTED)
def test_every_part_runs_at_tiny_size(part: str) -> None:
    figures = dict(CHECK.PARTS[part][0](CHECK.Setup(CHECK.SIZES["tiny"], "cpu")))
    assert set(EXPECTED[part]) <= set(figures)
    assert all(
        value >= 0 for name, value in figures.items() if name.endswith(("_ms", "_sec")) and not isinstance(value, str)
    )
    if part == "training":
        assert figures["ttt_predicted_gib"] > figures["plain_predicted_gib"] > 0
    if part == "equality":
        assert figures["cpu_against_device_torch.float32"] < 1e-5
        assert figures["frames_against_whole_torch.float32"] < 1e-4


def test_the_parts_fit_into_eight_minutes_and_a_dry_run_lists_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert sum(limit_sec for _, limit_sec in CHECK.PARTS.values()) <= 480
    CHECK.main(["--dry-run", "--device", "cpu"])
    shown = capsys.readouterr().out
    assert all(part in shown for part in EXPECTED) and "480 s at most on cpu" in shown


def test_the_7b_needs_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        CHECK.main(["--device", "cpu"])
    assert "no CUDA device: give --size tiny" in capsys.readouterr().err


def test_a_stopped_check_goes_on(tmp_path: Path) -> None:
    """Figures are in the file as soon as they are there; what failed is run again, what is done is not."""
    path, started = tmp_path / "device_check.json", []

    def start(broken: str) -> Callable[[str, int], Iterator[tuple[str, Any]]]:
        def figures(name: str, limit_sec: int) -> Iterator[tuple[str, Any]]:
            started.append(name)
            yield "first", 1.0
            if name == broken:
                assert json.loads(path.read_text())["parts"][name]["figures"] == {"first": 1.0}
                raise TimeoutError("more than 90 s")
            yield "second", "not measured"

        return figures

    report = CHECK.run_all(path, {"device": "CPU"}, start("layers"))
    assert report["parts"]["layers"]["state"] == "TimeoutError: more than 90 s"
    assert [part["state"] for name, part in report["parts"].items() if name != "layers"] == ["done"] * 4
    started.clear()
    report = CHECK.run_all(path, {}, start("none"))
    assert started == ["layers"] and report["device"] == "CPU"
    assert json.loads(path.read_text())["parts"]["layers"]["figures"] == {"first": 1.0, "second": "not measured"}


def test_a_process_that_takes_too_long_is_killed() -> None:
    program = "import time\nprint('[\"first\", 1]', flush=True)\nprint('noise', flush=True)\ntime.sleep(60)"
    figures = CHECK.in_a_process([sys.executable, "-c", program], 0.5)
    assert next(figures) == ("first", 1)
    with pytest.raises(TimeoutError, match=r"more than 0.5 s"):
        next(figures)


def test_a_process_that_fails_says_why() -> None:
    with pytest.raises(RuntimeError, match="exit code 1: .*ValueError: no memory left"):
        list(CHECK.in_a_process([sys.executable, "-c", "raise ValueError('no memory left')"], 60))
