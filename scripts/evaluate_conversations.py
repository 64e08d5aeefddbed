"""Lets a model continue held-out conversations and measures whether its speech collapses; writes JSON and a picture.

The user's side continues as recorded, with silence after its end. The real conversations are the reference.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from hf_moshi_ttt import MoshiTTTForConditionalGeneration, Sampling
from hf_moshi_ttt.codec.audio import frames_from_sec
from hf_moshi_ttt.data.codes import decode_codes, load_codes
from hf_moshi_ttt.data.compatibility import warn_where_unknown
from hf_moshi_ttt.evaluation.conversation_measures import (
    continue_conversation,
    measures_by_window,
    summarize_measures,
)
from hf_moshi_ttt.evaluation.results_file import made_with
from hf_moshi_ttt.evaluation.results_plot import plot_conversations
from hf_moshi_ttt.processing_moshi_ttt import MoshiTTTProcessor


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="name or path")
    parser.add_argument("--codes", required=True, help="folder of encoded conversations (scripts/prepare_data.py)")
    parser.add_argument("--output", type=Path, required=True, help="folder for conversations.json and .png")
    parser.add_argument("--conversations", type=int, default=8, help="how many, drawn by seed (%(default)s)")
    parser.add_argument("--prompt-sec", type=float, default=10.0, help="what is given of each (%(default)s)")
    parser.add_argument("--new-sec", type=float, default=120.0, help="what the model adds (%(default)s)")
    parser.add_argument("--window-sec", type=float, default=20.0, help="of the measures (%(default)s)")
    parser.add_argument("--temperature", type=float, default=0.8, help="of audio; text has 0.7 (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(%(default)s)")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    model: Any = MoshiTTTForConditionalGeneration.from_pretrained(arguments.model).to(arguments.device).eval()
    rows, provenance = load_codes(arguments.codes)
    warn_where_unknown(model.config, provenance, arguments.codes)
    codec, config = MoshiTTTProcessor.from_pretrained(arguments.model).codec, model.config
    lengths_sec = (arguments.prompt_sec, arguments.new_sec, arguments.window_sec)
    prompt, new, window = (frames_from_sec(length_sec) for length_sec in lengths_sec)
    generator = torch.Generator(model.device)
    long_enough = [place for place, frames in enumerate(rows["frames"][:]) if frames >= prompt + window]
    if len(long_enough) < arguments.conversations:
        raise ValueError(
            f"{len(long_enough)} conversations have a prompt and a window, {arguments.conversations} wanted."
        )
    drawn = np.random.default_rng(arguments.seed).choice(long_enough, arguments.conversations, replace=False)
    values: dict[str, list[dict[str, list[float]]]] = {"generated": [], "reference": []}
    for place in tqdm(drawn.tolist(), desc="converse", unit="conversation"):
        codes = np.asarray(rows[place]["codes"])
        sampling = Sampling(arguments.temperature, generator=generator.manual_seed(arguments.seed))
        generated = continue_conversation(model, codes, prompt, new, provenance.silence_codes, sampling)
        parts = {"generated": generated, "reference": codes[:, prompt:]}
        for name, part in parts.items():
            own = part[1 : 1 + config.num_codebooks]
            silent_ids = [config.pad_token_id, config.end_pad_token_id]
            values[name].append(measures_by_window(own, part[0], decode_codes(codec, own), silent_ids, window))
    results = {
        "model": arguments.model,
        "made_with": made_with(model.device),
        "settings": {key: str(value) for key, value in vars(arguments).items()},
        "conversations": [rows[place]["path"] for place in drawn.tolist()],
        **{name: summarize_measures(found, window) for name, found in values.items()},
    }
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "conversations.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    plot_conversations(results, arguments.output / "conversations.png")
    for name, points in results["generated"].items():
        print(f"{name}: {points[0]['value']:.3f} at first, {points[-1]['value']:.3f} at last")


if __name__ == "__main__":
    main()
