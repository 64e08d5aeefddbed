"""Draws what the TTT layers' memories do: over the steps of a training run, or over the position in recordings.

python scripts/plot_memory.py RUN --output DIR                    # the steps logged in RUN/metrics.jsonl
python scripts/plot_memory.py MODEL --codes CODES --output DIR    # held-out recordings, streamed
"""

import argparse
import json
from pathlib import Path
from typing import Any

from hf_moshi_ttt.data.codes import load_codes
from hf_moshi_ttt.data.compatibility import warn_where_unknown
from hf_moshi_ttt.evaluation.memory_curves import memory_by_position, memory_by_step
from hf_moshi_ttt.evaluation.memory_plot import plot_memory
from hf_moshi_ttt.modeling_moshi_ttt import MoshiTTTForConditionalGeneration
from hf_moshi_ttt.training.run_files import read_metrics


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a run's folder; with --codes, name or path of a TTT-Moshi checkpoint")
    parser.add_argument("--codes", help="folder of encoded recordings (scripts/prepare_data.py)")
    parser.add_argument("--recordings", type=int, default=8, help="how many of them, from the first (%(default)s)")
    parser.add_argument("--bin-frames", type=int, default=250, help="width of a bin of positions (%(default)s)")
    parser.add_argument("--output", required=True, help="folder for memory.json and memory.png")
    return parser.parse_args()


def curves(arguments: argparse.Namespace) -> dict[str, Any]:
    if arguments.codes is None:
        return memory_by_step(read_metrics(arguments.model))
    model = MoshiTTTForConditionalGeneration.from_pretrained(arguments.model)
    codes, provenance = load_codes(arguments.codes)
    warn_where_unknown(model.config, provenance, arguments.codes)
    recordings = [row["codes"] for row in codes.select(range(min(arguments.recordings, len(codes))))]
    return memory_by_position(model, recordings, provenance.silence_codes, arguments.bin_frames)


def main() -> None:
    arguments = parse_arguments()
    report, output = curves(arguments), Path(arguments.output)
    output.mkdir(parents=True, exist_ok=True)
    (output / "memory.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    plot_memory(report, output / "memory.png")
    print(f"{len(report['layers'])} layers at {len(report['x'])} points in {output / 'memory.png'}")


if __name__ == "__main__":
    main()
