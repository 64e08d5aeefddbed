r"""Measure the loss by position in long recordings, of a model and its baselines.

Writes results.json, pictures and report.html. A run that was stopped continues in its output folder. Several processes
share the recordings: torchrun --nproc-per-node 8 -m hf_moshi_ttt.commands.console evaluate ...

    hf-moshi-ttt evaluate librilight --model runs/mine --output DIR librilight_audio_dir=RECORDINGS
    hf-moshi-ttt evaluate --model runs/mine --output DIR librilight_audio_dir=RECORDINGS \
        --compare frozen=kyutai/moshiko-pytorch-bf16,static,window_only,gated_delta=PATH,no_reset
"""

import argparse
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from ..shipped_files import configuration_file
from .model_folder import model_folder
from .parser import add_device, add_json, device_of, wrong_settings
from .settings_help import settings_help, settings_names


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.epilog = settings_help("evaluate")
    parser.add_argument("settings", nargs="+", metavar="CONFIG|key=value", help="settings, see below")
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
    add_device(parser)
    add_json(parser)


def settings_of(words: list[str]) -> Any:
    """Which recordings, and how they are read, from the words of a command line.

    Raises:
        UsageError: settings that are wrong by themselves.
    """
    from ..evaluation.long_context_settings import KINDS, parse_settings
    from ..settings import read_settings, split_words

    with wrong_settings():
        settings = read_settings(*split_words(configuration_file(word, "evaluation") for word in words))
    with wrong_settings(settings, settings_names(KINDS)):
        return parse_settings(settings)


def run(arguments: argparse.Namespace) -> dict[str, Any] | None:
    """Evaluates, and in the first process writes and returns what was found."""
    import torch
    from accelerate import PartialState

    from ..data.codes import data_fingerprint, load_codes
    from ..evaluation.baselines import Comparison, parse_baselines, split_name
    from ..evaluation.recordings import load_recordings
    from ..modeling_moshi_ttt import MoshiTTTForConditionalGeneration
    from ..processing_moshi_ttt import MoshiTTTProcessor

    which, settings = settings_of(arguments.settings)
    with wrong_settings():
        baselines = parse_baselines(arguments.compare)
    device = torch.device(device_of(arguments.device))
    process = PartialState(cpu=device.type == "cpu", timeout=timedelta(days=1))  # the others wait for the slowest
    device = process.device if process.num_processes > 1 else device
    name, path = split_name(arguments.model)
    name, path = name or Path(path).name, model_folder(path)

    def load(checkpoint: str) -> Any:
        model = MoshiTTTForConditionalGeneration.from_pretrained(checkpoint, dtype=arguments.dtype)
        return model.to(device).eval()

    codec = MoshiTTTProcessor.from_pretrained(path).config.codec
    arguments.output.mkdir(parents=True, exist_ok=True)
    with process.main_process_first():
        recordings, provenance = load_recordings(which, codec, arguments.output / "codes")
    keep_in = arguments.output / "losses"
    fingerprint = None if which.librilight_codes is None else data_fingerprint(*load_codes(which.librilight_codes))
    comparison = Comparison(load, recordings, settings, provenance, keep_in, process.print, fingerprint)
    baselines = [replace(one, path=one.path and model_folder(one.path)) for one in baselines]
    found = comparison.run(name, path, baselines)
    described = {
        "settings": {**asdict(which), **asdict(settings)},
        "codes": str(which.librilight_codes or which.librilight_audio_dir),
        "codec": provenance.codec,
        "recordings": [recording.description() for recording in recordings],
    }
    if not process.is_main_process:
        return None
    return _write({**described, **found}, name, device, arguments.output)


def _write(found: dict[str, Any], name: str, device: Any, output: Path) -> dict[str, Any]:
    from ..evaluation.report import write_report
    from ..evaluation.results_file import SCHEMA_VERSION, made_with, write_results
    from ..evaluation.results_plot import draw_pictures

    results = {"schema": SCHEMA_VERSION, "made_with": made_with(device), **found}
    write_results(results, output / "results.json")
    pictures = draw_pictures(results, output)
    write_report(results, pictures, output / "report.html")
    for key, value in results["models"][name].items():
        if key.startswith("librilight_") and not key.endswith(("_interval", "_recordings")):
            print(f"{key} {value:.4f}" if isinstance(value, float) else f"{key} {value}")
    print(f"{output / 'report.html'}")
    return results
