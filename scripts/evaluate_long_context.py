"""Loss by position of models on the same long recordings; writes results.json and loss_by_position.png."""

import argparse
import json
from pathlib import Path
from typing import Any

from hf_moshi_ttt.data.codes import load_codes
from hf_moshi_ttt.evaluation import describe_model, headline, losses_by_position
from hf_moshi_ttt.loss_curve import difference, summarize
from hf_moshi_ttt.modeling_moshi_ttt import MoshiTTTForConditionalGeneration
from hf_moshi_ttt.plots import plot_loss_by_position


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", metavar="NAME=PATH", help="models to compare; the last is the baseline")
    parser.add_argument("--codes", required=True, help="folder of encoded recordings (scripts/prepare_data.py)")
    parser.add_argument("--output", required=True, help="folder for the results")
    parser.add_argument("--bin-frames", type=int, default=250, help="width of a bin of positions (%(default)s)")
    parser.add_argument("--positions", type=int, nargs="+", default=[8000, 16000, 24000], help="%(default)s")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    codes, provenance = load_codes(arguments.codes)
    recordings = [row["codes"] for row in codes]
    losses, results = {}, {}
    for named in arguments.models:
        name, _, path = named.partition("=")
        model = MoshiTTTForConditionalGeneration.from_pretrained(path)
        window = model.config.sliding_window
        losses[name] = [headline(x) for x in losses_by_position(model, recordings, provenance.silence_codes)]
        summary = summarize(losses[name], window, arguments.bin_frames, arguments.positions)
        results[name] = {"path": path, **describe_model(model), **summary}
    baseline = list(results)[-1]
    report: dict[str, Any] = {
        "schema": 1,
        "codes": arguments.codes,
        "codec": provenance.codec,
        "recordings": len(recordings),
        "sliding_window": window,
        "baseline": baseline,
        "models": results,
        "differences": {
            name: difference(losses[name], losses[baseline], window, arguments.bin_frames)
            for name in results
            if name != baseline
        },
    }
    output = Path(arguments.output)
    output.mkdir(parents=True, exist_ok=True)
    (output / "results.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    plot_loss_by_position(report, output / "loss_by_position.png")
    for name, paired in report["differences"].items():
        print(f"{name} beyond the window of {window} frames: {paired['verdict']}")


if __name__ == "__main__":
    main()
