"""The losses of configs/debug.yaml stay what they were: a change that should not alter results shows it here.

`python -m tests.training.test_debug_trajectory` writes the file anew, for a change that should.
"""

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset

from hf_moshi_ttt.settings import read_settings
from hf_moshi_ttt.training.run import run
from hf_moshi_ttt.training.run_files import read_metrics

from ..conftest import save_codes

EXPECTED = Path(__file__).with_name("debug_trajectory.json")
CONFIG = Path(__file__).parents[2] / "configs" / "debug.yaml"
# Other vector instructions of the processor change the losses by 1e-6 of their size.
RELATIVE_ERROR = 1e-4


def trajectory(folder: Path, ttt_preset: str) -> dict[str, list[float]]:
    """Losses by stream of the twelve steps, on recordings that repeat themselves every 25 frames."""
    codes = save_codes(folder / "codes", [200, 150, 130], codebook_size=2048)
    cycles = np.random.default_rng(0).integers(0, 2048, (3, 8, 25))
    rows = [
        {"codes": np.tile(cycle, (1, 8))[:, :frames].tolist(), "frames": frames, "path": "", "duration_sec": 1.0}
        for cycle, frames in zip(cycles, (200, 150, 130), strict=True)
    ]
    Dataset.from_list(rows).save_to_disk(str(codes))
    changes = [f"config.ttt.preset={ttt_preset}", f"train_codes={codes}", f"output_dir={folder / 'run'}"]
    changes.append("disable_tqdm=true")
    assert run(read_settings(CONFIG, changes)) == 0
    entries = [entry for entry in read_metrics(folder / "run") if "loss" in entry]
    names = ("loss", "codebook_0_loss", "codebooks_1_7_loss", "grad_norm")
    return {name: [round(entry[name], 6) for entry in entries] for name in names}


@pytest.mark.parametrize("ttt_preset", ["default", "mini_batch"])
def test_debug_yaml_gives_the_losses_it_gave(tmp_path: Path, ttt_preset: str) -> None:
    found, expected = trajectory(tmp_path, ttt_preset), json.loads(EXPECTED.read_text())[ttt_preset]
    assert found.keys() == expected.keys() and len(found["loss"]) == 12
    for name, values in expected.items():
        tolerance = RELATIVE_ERROR if name != "grad_norm" else 10 * RELATIVE_ERROR
        assert found[name] == pytest.approx(values, rel=tolerance), name
    assert found["loss"][-1] < 0.7 * found["loss"][0]


if __name__ == "__main__":
    presets = []
    for ttt_preset in ("default", "mini_batch"):
        with tempfile.TemporaryDirectory() as folder:
            found = trajectory(Path(folder), ttt_preset)
        lines = ",\n".join(f'  "{name}": {values}' for name, values in found.items())
        presets.append(f' "{ttt_preset}": {{\n{lines}\n }}')
    EXPECTED.write_text("{\n" + ",\n".join(presets) + "\n}\n")
