"""How many operations a frame, a step and a layer may start; `benchmarks/launches.py` prints what they start."""

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch

LAUNCHES = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "launches.py"), run_name="imported")
# Preset small on a CPU, where an RMS norm is four operations and the depth transformer's linears of a training step are
# a product each: calls, kernels and MiB of results at most. A change that needs more than these has to say why.
BOUNDS = {
    "live frame, plain": (453, 363, 1),
    "live frame, with TTT": (562, 436, 1),
    "training step 2 x 250, plain": (2063, 967, 149),
    "training step 2 x 250, with TTT": (4845, 2694, 154),
    "TTT layer 2 x 250, forward + backward": (2753, 1708, 36),
}


def test_no_case_starts_more_than_its_bound() -> None:
    counts = {name: LAUNCHES["count"](case) for name, case in LAUNCHES["cases"](meta=False)}
    found = {name: (one.calls, one.kernels, one.peak_mib) for name, one in counts.items()}
    assert found.keys() == BOUNDS.keys()
    over = {name: one for name, one in found.items() if any(x > y for x, y in zip(one, BOUNDS[name], strict=True))}
    assert not over


def test_views_are_calls_and_no_kernels_and_freed_results_are_not_held() -> None:
    x = torch.ones(2**18)  # 1 MiB

    def case() -> Any:
        for _ in range(3):
            y = x + 1
        return y.view(2, -1)

    counts = LAUNCHES["count"](case)
    assert (counts.calls, counts.kernels) == (4, 3)
    assert counts.peak_mib == pytest.approx(2)  # the next result is made before the last is freed
