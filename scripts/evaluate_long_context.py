r"""Loss by position in long recordings, of a model and its baselines; writes results.json, pictures and report.html.

python scripts/evaluate_long_context.py configs/evaluation/librilight.yaml --model runs/my_model --output DIR \
    --compare frozen=kyutai/moshiko-pytorch-bf16,static,window_only,gated_delta=PATH,no_reset [key=value ...]

Several processes share the recordings: torchrun --nproc-per-node 8 scripts/evaluate_long_context.py ... A run that was
stopped continues in its output folder.
"""

import argparse
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from hf_moshi_ttt.evaluation.baselines import Comparison, parse_baselines, split_name
from hf_moshi_ttt.evaluation.long_context_settings import (
    KINDS,
    LongContextSettings,
    RecordingSettings,
    parse_settings,
)
from hf_moshi_ttt.evaluation.recordings import load_recordings
from hf_moshi_ttt.evaluation.report import write_report
from hf_moshi_ttt.evaluation.results_file import SCHEMA_VERSION, made_with, write_results
from hf_moshi_ttt.evaluation.results_plot import draw_pictures
from hf_moshi_ttt.modeling_moshi_ttt import MoshiTTTForConditionalGeneration
from hf_moshi_ttt.processing_moshi_ttt import MoshiTTTProcessor
from hf_moshi_ttt.settings import read_settings, split_words
from hf_moshi_ttt.training.arguments import describe_settings


def parse_arguments() -> tuple[argparse.Namespace, RecordingSettings, LongContextSettings]:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=describe_settings(KINDS), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("settings", nargs="+", metavar="CONFIG.yaml|key=value", help="settings, see below")
    parser.add_argument("--model", required=True, metavar="[NAME=]MODEL", help="the model: name or path")
    parser.add_argument(
        "--compare",
        default="",
        metavar="BASELINES",
        help="with commas: frozen=MODEL (before training), gated_delta=MODEL, static[=MODEL] (no inner steps), "
        "window_only (no TTT branch), no_reset (memory continues across recordings), NAME=MODEL",
    )
    parser.add_argument("--output", type=Path, required=True, help="folder for results")
    parser.add_argument("--dtype", default="auto", help="of the weights, such as float32 (as saved)")
    parser.add_argument("--device", help="where the model runs (a GPU where there is one)")
    arguments = parser.parse_intermixed_args()
    return arguments, *parse_settings(read_settings(*split_words(arguments.settings)))


def main() -> None:
    arguments, which, settings = parse_arguments()
    device = torch.device(arguments.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    process = PartialState(cpu=device.type == "cpu", timeout=timedelta(days=1))  # the others wait for the slowest
    device = process.device if process.num_processes > 1 else device
    name, path = split_name(arguments.model)
    name = name or Path(path).name

    def load(checkpoint: str) -> Any:
        model = MoshiTTTForConditionalGeneration.from_pretrained(checkpoint, dtype=arguments.dtype)
        return model.to(device).eval()

    codec = MoshiTTTProcessor.from_pretrained(path).config.codec
    arguments.output.mkdir(parents=True, exist_ok=True)
    with process.main_process_first():
        recordings, provenance = load_recordings(which, codec, arguments.output / "codes")
    keep_in = arguments.output / "losses"
    comparison = Comparison(load, recordings, settings, provenance, keep_in, process.print)
    found = comparison.run(name, path, parse_baselines(arguments.compare))
    results: dict[str, Any] = {
        "schema": SCHEMA_VERSION,
        "made_with": made_with(device),
        "settings": {**asdict(which), **asdict(settings)},
        "codes": str(which.librilight_codes or which.librilight_audio_dir),
        "codec": provenance.codec,
        "recordings": [recording.description() for recording in recordings],
        **found,
    }
    if process.is_main_process:
        write_results(results, arguments.output / "results.json")
        pictures = draw_pictures(results, arguments.output)
        write_report(results, pictures, arguments.output / "report.html")
        for key, value in results["models"][name].items():
            if key.startswith("librilight_") and not key.endswith(("_interval", "_recordings")):
                print(f"{key} {value:.4f}" if isinstance(value, float) else f"{key} {value}")
        print(f"{arguments.output / 'report.html'}")


if __name__ == "__main__":
    main()
