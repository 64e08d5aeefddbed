"""Let a model continue held-out conversations and measure whether its speech collapses; writes JSON and a picture.

The user's side continues as recorded, with silence after its end. The real conversations are the reference.

    hf-moshi-ttt conversations --model runs/mine --codes codes/talks --output DIR
"""

import argparse
import json
from pathlib import Path
from typing import Any

from .model_folder import model_folder
from .parser import SEED, add_device, add_json, device_of, number, whole

Measures = dict[str, list[dict[str, list[float]]]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument("--model", required=True, help="name or path of a model")
    parser.add_argument("--codes", required=True, help="folder of encoded conversations (hf-moshi-ttt prepare)")
    parser.add_argument("--output", type=Path, required=True, help="folder for conversations.json and .png")
    parser.add_argument("--conversations", type=whole(1), default=8, help="how many, drawn by seed (%(default)s)")
    parser.add_argument(
        "--prompt-sec", type=number(0, is_open=True), default=10.0, help="how much of each is given (%(default)s)"
    )
    parser.add_argument(
        "--new-sec", type=number(0, is_open=True), default=120.0, help="how much the model adds (%(default)s)"
    )
    parser.add_argument(
        "--window-sec", type=number(0, is_open=True), default=20.0, help="width of what is measured (%(default)s)"
    )
    parser.add_argument("--temperature", type=number(0), help="of the audio codes (the model's own)")
    parser.add_argument("--seed", type=SEED, default=0, help="of the draws (%(default)s)")
    add_device(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Continues conversations, and writes, draws and returns what was measured."""
    from ..codec.audio import frames_from_sec
    from ..data.codes import data_fingerprint, load_codes
    from ..data.compatibility import warn_where_trained_on, warn_where_unknown
    from ..evaluation.conversation_measures import summarize_measures
    from ..evaluation.results_file import made_with
    from ..evaluation.results_plot import plot_conversations
    from ..modeling_moshi_ttt import MoshiTTTForConditionalGeneration

    arguments.model = model_folder(arguments.model)
    loaded: Any = MoshiTTTForConditionalGeneration.from_pretrained(arguments.model)
    model = loaded.to(device_of(arguments.device)).eval()
    rows, provenance = load_codes(arguments.codes)
    warn_where_unknown(model.config, provenance, arguments.codes)
    warn_where_trained_on(arguments.model, data_fingerprint(rows, provenance), arguments.codes)
    prompt, window = frames_from_sec(arguments.prompt_sec), frames_from_sec(arguments.window_sec)
    drawn = _drawn(rows["frames"][:], prompt + window, arguments)
    chosen = [rows[place] for place in drawn]
    values = _measured(model, [row["codes"] for row in chosen], provenance.silence_codes, arguments)
    results = {
        "model": arguments.model,
        "made_with": made_with(model.device),
        "settings": {key: str(value) for key, value in vars(arguments).items()},
        "conversations": [row["path"] for row in chosen],
        **{name: summarize_measures(found, window) for name, found in values.items()},
    }
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "conversations.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    plot_conversations(results, arguments.output / "conversations.png")
    for name, points in results["generated"].items():
        print(f"{name}: {points[0]['value']:.3f} at first, {points[-1]['value']:.3f} at last")
    return results


def _drawn(lengths_frames: list[int], least_frames: int, arguments: argparse.Namespace) -> list[int]:
    import numpy as np

    long_enough = [place for place, frames in enumerate(lengths_frames) if frames >= least_frames]
    if len(long_enough) < arguments.conversations:
        raise ValueError(
            f"{len(long_enough)} conversations have a prompt and a window, {arguments.conversations} wanted."
        )
    return np.random.default_rng(arguments.seed).choice(long_enough, arguments.conversations, replace=False).tolist()


def _measured(model: Any, conversations: list[Any], silence_codes: Any, arguments: argparse.Namespace) -> Measures:
    import numpy as np
    import torch
    from tqdm.auto import tqdm

    from ..codec.audio import frames_from_sec
    from ..data.codes import decode_codes
    from ..evaluation.conversation_measures import continue_conversation, measures_by_window
    from ..processing_moshi_ttt import MoshiTTTProcessor
    from ..streaming.generation_moshi_ttt import Sampling

    config, codec = model.config, MoshiTTTProcessor.from_pretrained(arguments.model).codec
    lengths_sec = (arguments.prompt_sec, arguments.new_sec, arguments.window_sec)
    prompt, new, window = (frames_from_sec(length_sec) for length_sec in lengths_sec)
    silent_ids = [config.pad_token_id, config.end_pad_token_id]
    generator = torch.Generator(model.device)
    changes: dict[str, Any] = {} if arguments.temperature is None else {"temperature": arguments.temperature}
    values: Measures = {"generated": [], "reference": []}
    for codes in map(np.asarray, tqdm(conversations, desc="converse", unit="conversation")):
        seeded = generator.manual_seed(arguments.seed)
        sampling = Sampling.from_generation_config(model.generation_config, seeded, **changes)
        generated = continue_conversation(model, codes, prompt, new, silence_codes, sampling)
        for name, part in {"generated": generated, "reference": codes[:, prompt:]}.items():
            own = part[1 : 1 + config.num_codebooks]
            values[name].append(measures_by_window(own, part[0], decode_codes(codec, own), silent_ids, window))
    return values
