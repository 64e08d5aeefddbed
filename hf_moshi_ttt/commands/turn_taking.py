"""Measure turn-taking: does a model answer in time, wait in pauses, yield, say "mhm"? Also runs Full-Duplex-Bench.

One of three sources:

--codes   encoded two-channel conversations; the model hears each user from the start. Numbers of the model, of
          --compare models and of the human on the same conversations, with a picture; --pad-bias 0,1,2 sweeps a bias.
--bench   a tree of Full-Duplex-Bench: with --model, ID/output.wav is written for every ID/input.wav (a run that was
          stopped continues); then all outputs are scored.
--wav     recorded conversations of two channels, without a model.

    hf-moshi-ttt turn-taking --codes codes/heldout --model runs/mine --compare base=runs/base --output DIR
    hf-moshi-ttt turn-taking --bench v1_0 --model runs/mine --output DIR
"""

import argparse
import json
from pathlib import Path
from typing import Any

from .model_folder import model_folder
from .parser import SEED, UsageError, add_device, add_json, device_of, number, whole

_MEASURES = (
    "pause_takeover_rate", "response_rate", "response_delay_median_sec", "response_delay_p90_sec",
    "interruption_yield_rate", "stop_delay_median_sec", "interruption_response_rate", "backchannel_hold_rate",
    "backchannels_per_min", "model_speaking_share", "gap_median_sec", "overlap_sec_per_min",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--codes", help="folder of encoded two-channel conversations (hf-moshi-ttt prepare)")
    source.add_argument("--bench", type=Path, help="folder of Full-Duplex-Bench, or any part of it")
    source.add_argument("--wav", type=Path, nargs="+", help="files of two channels, the model's first")
    parser.add_argument("--model", help="[NAME=]MODEL, name or path")
    parser.add_argument("--compare", default="", help="NAME=MODEL,... on the same conversations (with --codes)")
    parser.add_argument("--output", type=Path, required=True, help="folder for turn_taking.json and pictures")
    parser.add_argument("--conversations", type=whole(1), help="the first N of --codes (all)")
    parser.add_argument("--length-sec", type=number(0, is_open=True), help="how much of each, from its start (all)")
    parser.add_argument("--seeds", type=whole(1), default=1, help="how often each conversation is driven (%(default)s)")
    parser.add_argument("--pad-bias", default="", help="added to PAD's logit; with --codes several, 0,1,2, are a sweep")
    parser.add_argument("--batch-size", type=whole(1), default=8, help="streams side by side (%(default)s)")
    parser.add_argument("--seed", type=SEED, default=0, help="of the draws (%(default)s)")
    parser.add_argument("--vad", default="energy", help="energy or silero (%(default)s)")
    parser.add_argument(
        "--words", default="text", help="of --bench: text (the model's own), transcript (output.json) or none"
    )
    parser.add_argument("--listeners", type=Path, help="icc_gt_distribution.json, for the distance of backchannels")
    parser.add_argument("--user-channel", type=whole(0, 1), default=1, help="of --wav (%(default)s)")
    add_device(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measures; writes and returns what is in turn_taking.json."""
    from ..evaluation.results_file import made_with
    from ..evaluation.voice_activity import METHODS

    if arguments.vad not in METHODS:
        raise UsageError(f"--vad {arguments.vad}, but it must be one of {', '.join(METHODS)}")
    if arguments.codes is not None and arguments.model is None:
        raise UsageError("--codes needs --model: the conversations are driven by it")
    biases, models = _biases(arguments), _models(arguments)
    if arguments.bench is not None and len(biases) > 1:
        raise UsageError(f"--pad-bias {arguments.pad_bias}: a sweep needs --codes; --bench takes one bias")
    arguments.output.mkdir(parents=True, exist_ok=True)
    measure = _of_codes if arguments.codes else _of_bench if arguments.bench else _of_files
    import torch

    results = {
        "made_with": made_with(torch.device(device_of(arguments.device))),
        "settings": {key: str(value) for key, value in vars(arguments).items()},
        **measure(arguments, models, biases),
    }
    text = json.dumps(results, indent=1, ensure_ascii=False)
    (arguments.output / "turn_taking.json").write_text(text, encoding="utf-8")
    return results


def _biases(arguments: argparse.Namespace) -> list[float]:
    try:
        return [float(part) for part in arguments.pad_bias.split(",") if part]
    except ValueError as error:
        raise UsageError(f"--pad-bias {arguments.pad_bias}: numbers with commas between them are expected") from error


def _load(path: str, device: str) -> tuple[Any, Any]:
    from ..modeling_moshi_ttt import MoshiTTTForConditionalGeneration
    from ..processing_moshi_ttt import MoshiTTTProcessor

    model: Any = MoshiTTTForConditionalGeneration.from_pretrained(path)
    return model.to(device).eval(), MoshiTTTProcessor.from_pretrained(path)


def _sampling(model: Any, bias: float | None) -> Any:
    from ..streaming.generation_moshi_ttt import Sampling

    changes: dict[str, Any] = {} if bias is None else {"text_pad_bias": bias}
    return Sampling.from_generation_config(model.generation_config, **changes)


def _models(arguments: argparse.Namespace) -> dict[str, str]:
    """Paths by name, the main model first."""
    if arguments.compare and not (arguments.codes and arguments.model):
        raise UsageError("--compare needs --codes and --model: others are compared with that model")
    from ..evaluation.baselines import split_name

    named = [split_name(text) for text in filter(None, [arguments.model, *arguments.compare.split(",")])]
    models = {name or ("model" if not place else path): model_folder(path) for place, (name, path) in enumerate(named)}
    if len(models) < len(named) or "human" in models:
        raise UsageError(f"--model and --compare need names of their own, other than human; got {list(models)}")
    return models


def _of_codes(arguments: argparse.Namespace, models: dict[str, str], biases: list[float]) -> dict[str, Any]:
    from ..codec.audio import frames_from_sec
    from ..data.codes import data_fingerprint, load_codes
    from ..data.compatibility import warn_where_trained_on, warn_where_unknown
    from ..evaluation.conversation_runs import Corpus, Setup, compare_models, hear_humans, hear_model
    from ..evaluation.turn_taking_plot import plot_conversation

    rows, provenance = load_codes(arguments.codes)
    fingerprint = data_fingerprint(rows, provenance)
    count = len(rows) if arguments.conversations is None else min(arguments.conversations, len(rows))
    frames = None if arguments.length_sec is None else frames_from_sec(arguments.length_sec)
    corpus = Corpus([rows[place]["codes"][:, :frames] for place in range(count)], provenance.silence_codes)
    seeds = [arguments.seed + place for place in range(arguments.seeds)]
    setup = Setup(seeds, arguments.batch_size, arguments.vad)
    heard: dict[str, Any] = {}
    human: list[Any] = []
    sweep: list[dict[str, Any]] = []
    for name, path in models.items():
        model, processor = _load(path, device_of(arguments.device))
        warn_where_unknown(model.config, provenance, arguments.codes)
        warn_where_trained_on(path, fingerprint, arguments.codes)
        human = human or hear_humans(processor, corpus, setup)
        if not heard and len(biases) > 1:
            sweep = _sweep(
                lambda bias, m=model, p=processor: hear_model(m, p, corpus, setup, _sampling(m, bias)), biases
            )
        heard[name] = hear_model(
            model, processor, corpus, setup, _sampling(model, biases[0] if len(biases) == 1 else None)
        )
    results = {"conversations": [rows[place]["path"] for place in range(count)], **compare_models(heard, human)}
    first = {"human": human[0], **{name: one[0] for name, one in heard.items()}}
    plot_conversation(first, arguments.output / "conversation.png", f"{rows[0]['path']}: the same user for everybody")
    if sweep:
        from ..evaluation.turn_taking_plot import plot_sweep

        plot_sweep(sweep, arguments.output / "pad_bias.png", results["human"]["numbers"])
        results["sweep"] = sweep
    _print_table({"human": results["human"]["numbers"], **{n: m["numbers"] for n, m in results["models"].items()}})
    return results


def _sweep(hear_with: Any, biases: list[float]) -> list[dict[str, Any]]:
    from ..evaluation.turn_taking import turn_taking_numbers

    return [{"text_pad_bias": bias, "numbers": turn_taking_numbers(hear_with(bias))} for bias in sorted(biases)]


def _of_bench(arguments: argparse.Namespace, models: dict[str, str], biases: list[float]) -> dict[str, Any]:
    from ..evaluation.bench_folders import read_listeners, run_tree, score_tree
    from ..evaluation.full_duplex_bench import summarize

    ran: dict[str, Any] = {}
    if models:
        model, processor = _load(next(iter(models.values())), device_of(arguments.device))
        sampling = _sampling(model, biases[0] if biases else None)
        done = run_tree(model, processor, arguments.bench, sampling, arguments.batch_size, arguments.seed)
        ran = {"written": done.written, "found": done.found, "unusable_inputs": done.bad.reasons}
        print(f"{done.written} outputs written, {done.found} were there, {len(done.bad.reasons)} inputs unusable")
        print(done.bad.listing().lstrip("\n"))
    listeners = read_listeners(arguments.listeners) if arguments.listeners else None
    scores, bad = score_tree(arguments.bench, arguments.vad, arguments.words, listeners)
    subsets = summarize(scores)
    for name, numbers in subsets.items():
        told = ", ".join(f"{key} {value:.3f}" for key, value in numbers.items() if isinstance(value, float))
        print(f"{name}: n={numbers['items']}, {told}")
    unscored = sum(item.task is None for item, _ in scores)
    return {**ran, "unusable_outputs": bad.reasons, "without_a_task": unscored, "subsets": subsets}


def _of_files(arguments: argparse.Namespace, models: dict[str, str], biases: list[float]) -> dict[str, Any]:
    from ..codec.audio import BadAudioError
    from ..data.bad_files import BadFiles
    from ..evaluation.turn_taking import hear, turn_taking_numbers
    from ..evaluation.turn_taking_plot import plot_conversation

    heard, bad = {}, BadFiles()
    for path in arguments.wav:
        try:
            heard[str(path)] = hear(path, vad=arguments.vad, user_channel=arguments.user_channel)
        except (BadAudioError, ValueError) as error:
            bad.add(path, error)
    print(f"{len(bad.reasons)} of {len(arguments.wav)} files cannot be used{bad.listing()}")
    numbers = turn_taking_numbers(list(heard.values()))
    name, first = next(iter(heard.items()))
    plot_conversation({"model": first}, arguments.output / "conversation.png", name)
    _print_table({"files": numbers})
    return {"numbers": numbers, "unusable": bad.reasons}


def _print_table(numbers: dict[str, dict[str, Any]]) -> None:
    print(f"{'':<30}" + "".join(f"{name:>14}" for name in numbers))
    for measure in _MEASURES:
        values = [one.get(measure) for one in numbers.values()]
        print(f"{measure:<30}" + "".join(f"{'-' if value is None else f'{value:.3f}':>14}" for value in values))
