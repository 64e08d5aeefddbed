"""Peak memory and time of loading a random checkpoint of 1.1B parameters, against transformers' own loader.

    python benchmarks/checkpoint_memory.py [--folder FOLDER]

Each case loads in a process of its own. The peak is that of all resident memory (VmHWM, mapped files included) above
what was there before loading, over the weights of the loaded model.
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel

from hf_moshi_ttt import MoshiTTTConfig, MoshiTTTForConditionalGeneration
from hf_moshi_ttt.checkpoints.kyutai import config_to_kyutai, to_kyutai

SHAPE = {
    "hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 16, "ffn_dim": 11264, "ttt": None,
    "depth_decoder_config": {"hidden_size": 512, "num_hidden_layers": 2, "num_attention_heads": 8, "ffn_dim": 2816},
}  # fmt: skip
# name -> folder, whether transformers' own loader is used, options
CASES: dict[str, tuple[str, bool, dict[str, Any]]] = {
    "transformers' own loader, our layout": ("ours", True, {}),
    "transformers' own loader, to float32": ("ours", True, {"dtype": "float32"}),
    "our layout": ("ours", False, {}),
    "our layout, to float32": ("ours", False, {"dtype": "float32"}),
    "Kyutai's old layout": ("kyutai", False, {}),
    "Kyutai's old layout, to float32": ("kyutai", False, {"dtype": "float32"}),
    "Kyutai's old layout with new TTT": ("kyutai", False, {"ttt_config": {}}),
    "the same, TTT of depth 5 everywhere": ("kyutai", False, {"ttt_config": {"layers": "all", "ttt_mlp_layers": 5}}),
}


def write_checkpoints(folder: Path) -> None:
    """The same random weights in bfloat16, in Kyutai's old layout and in ours."""
    config = MoshiTTTConfig.from_preset("moshi-7b", **SHAPE)
    with torch.device("meta"):
        shapes = {name: weight.shape for name, weight in MoshiTTTForConditionalGeneration(config).state_dict().items()}
    weights = {name: torch.empty(shape, dtype=torch.bfloat16).normal_(std=0.02) for name, shape in shapes.items()}
    for name in ("kyutai", "ours"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    save_file(to_kyutai(weights, "old"), folder / "kyutai" / "model.safetensors")
    (folder / "kyutai" / "config.json").write_text(json.dumps(config_to_kyutai(config)))
    save_file(weights, folder / "ours" / "model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(folder / "ours")


def status_bytes(key: str) -> int:
    """A line of Linux's account of this process's memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


def load(folder: Path, case: str) -> None:
    """Loads one case in this process and prints what it took."""
    name, is_baseline, options = CASES[case]
    cls: Any = MoshiTTTForConditionalGeneration
    loader = PreTrainedModel.from_pretrained.__func__ if is_baseline else cls.from_pretrained.__func__  # type: ignore[attr-defined]
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before, start = status_bytes("VmRSS"), time.monotonic()
    model = loader(cls, folder / name, **options)
    took, peak = time.monotonic() - start, status_bytes("VmHWM") - before
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    print(json.dumps({"parameters": model.num_parameters(), "weights": weights, "peak": peak, "sec": took}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="keeps the checkpoints here; a temporary folder without it")
    parser.add_argument("--case", choices=list(CASES), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        load(arguments.folder, arguments.case)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        write_checkpoints(folder)
        print(f"{platform.machine()}, torch {torch.__version__}, {torch.get_num_threads()} threads")
        print(f"{'case':38} {'parameters':>13} {'weights MiB':>12} {'peak MiB':>9} {'peak/weights':>12} {'sec':>6}")
        for case in CASES:
            command = [sys.executable, __file__, "--folder", str(folder), "--case", case]
            result = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            row = json.loads(result.stdout.splitlines()[-1])
            sizes = f"{row['weights'] / 2**20:12.0f} {row['peak'] / 2**20:9.0f} {row['peak'] / row['weights']:12.3f}"
            print(f"{case:38} {row['parameters']:13,} {sizes} {row['sec']:6.1f}", flush=True)


if __name__ == "__main__":
    main()
