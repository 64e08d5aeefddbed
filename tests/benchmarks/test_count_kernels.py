"""How many kernels a TTT layer and a live frame may start on a GPU, counted on the meta device at tiny sizes.

A layer's count does not depend on its widths, only on frames and depth.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "count_kernels.py"
# Kernels at most. A change that needs more than these has to say why.
BOUNDS = {"ttt-triton": 122, "moshi": 60, "live-triton": 362, "train-plain": 780, "train-triton": 940}


@pytest.fixture(scope="module")
def counts() -> dict[str, dict[str, float]]:
    command = [sys.executable, str(PROGRAM), *BOUNDS, "--size", "tiny", "--json"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return {found["subject"]: found for found in map(json.loads, lines)}


@pytest.mark.parametrize("subject", BOUNDS)
def test_no_subject_starts_more_than_its_bound(counts: dict[str, dict[str, float]], subject: str) -> None:
    assert 0 < counts[subject]["kernels"] <= BOUNDS[subject]


def test_a_live_frame_reads_nothing_back(counts: dict[str, dict[str, float]]) -> None:
    assert counts["live-triton"]["reads_by_host"] == 0
