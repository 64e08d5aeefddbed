"""Draw what the TTT layers' memories do: over the steps of a training run, or over the position in recordings.

hf-moshi-ttt plot-memory RUN --output DIR                    # the steps logged in RUN/metrics.jsonl
hf-moshi-ttt plot-memory MODEL --codes CODES --output DIR    # held-out recordings, streamed
"""

import argparse
import json
from pathlib import Path
from typing import Any

from .model_folder import model_folder
from .parser import add_json, whole


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument("model", help="a run's folder; with --codes, name or path of a TTT-Moshi checkpoint")
    parser.add_argument("--codes", help="folder of encoded recordings (hf-moshi-ttt prepare)")
    parser.add_argument("--recordings", type=whole(1), default=8, help="how many of them, from the first (%(default)s)")
    parser.add_argument("--bin-frames", type=whole(1), default=250, help="width of a bin of positions (%(default)s)")
    parser.add_argument("--output", type=Path, required=True, help="folder for memory.json and memory.png")
    add_json(parser)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Writes memory.json, draws it and returns what is in it."""
    from ..evaluation.memory_plot import plot_memory

    report, output = _curves(arguments), arguments.output
    output.mkdir(parents=True, exist_ok=True)
    (output / "memory.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    plot_memory(report, output / "memory.png")
    print(f"{len(report['layers'])} layers at {len(report['x'])} points in {output / 'memory.png'}")
    return report


def _curves(arguments: argparse.Namespace) -> dict[str, Any]:
    from ..data.codes import load_codes
    from ..data.compatibility import warn_where_unknown
    from ..evaluation.memory_curves import memory_by_position, memory_by_step
    from ..modeling_moshi_ttt import MoshiTTTForConditionalGeneration
    from ..training.run_files import read_metrics

    if arguments.codes is None:
        return memory_by_step(read_metrics(arguments.model))
    model = MoshiTTTForConditionalGeneration.from_pretrained(model_folder(arguments.model))
    codes, provenance = load_codes(arguments.codes)
    warn_where_unknown(model.config, provenance, arguments.codes)
    recordings = [row["codes"] for row in codes.select(range(min(arguments.recordings, len(codes))))]
    return memory_by_position(model, recordings, provenance.silence_codes, arguments.bin_frames)
