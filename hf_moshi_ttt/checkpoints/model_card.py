"""The model card: base, data, TTT settings, losses, the long-context slope with its plot, and a block that runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ..configuration_moshi_ttt import MoshiTTTConfig

PLOT_NAME = "loss_by_position.png"
_USAGE = """\
import torch
from transformers import AutoModel

model = AutoModel.from_pretrained("{repo_id}", trust_remote_code=True).eval()
codes = torch.full((1, {streams}, 25), -1)  # two seconds of absent codes
result = model.generate(codes=codes, max_new_frames=25)  # and the two that follow, frame by frame
state = result.state  # the memory and the window, for the next call
print(result.codes.shape)  # [1, {streams}, 25]: text, {codebooks} codebooks of Moshi, {codebooks} of the user
"""


@dataclass(frozen=True)
class ModelCardFacts:
    """What a card says beside the configuration; what is not known is left out, and the card says so.

    Args:
        base_model: name of the model that training started from.
        data: what the model was trained on, in words.
        datasets: names of datasets on the Hub, for the card's metadata.
        license: identifier of the licence of the weights. Kyutai's weights are CC-BY-4.0, and so is what starts from
            them.
        log_history: the log of transformers' Trainer (`trainer_state.json`).
        results: one model's part of `results.json` (hf-moshi-ttt evaluate).
        plot: the picture of loss by position.
        tags: further tags.
    """

    base_model: str | None = None
    data: str | None = None
    datasets: Sequence[str] = ()
    license: str | None = None
    log_history: Sequence[Mapping[str, Any]] = ()
    results: Mapping[str, Any] = field(default_factory=dict)
    plot: Path | None = None
    tags: Sequence[str] = ()


def model_card(config: MoshiTTTConfig, repo_id: str, facts: ModelCardFacts) -> ModelCard:
    """The card of a model."""
    base = facts.base_model
    is_kyutais = base is not None and base.startswith(("kyutai/", "kmhf/"))
    name, results = repo_id.rpartition("/")[2], _eval_results(facts)
    data = ModelCardData(
        base_model=base if base is not None and not Path(base).exists() else None,
        datasets=list(facts.datasets) or None,
        eval_results=results or None,
        library_name="transformers",
        license=facts.license or ("cc-by-4.0" if is_kyutais else None),
        model_name=name if results else None,
        pipeline_tag="audio-to-audio",
        tags=["moshi", "speech", "full-duplex", *(["test-time-training"] if config.ttt else []), *facts.tags],
    )
    parts = [
        f"---\n{data.to_yaml()}\n---",
        f"# {name}",
        _opening(config, facts),
        "## Use",
        f"```python\n{usage(config, repo_id)}```",
        _rows("Settings", _settings(config)),
        _rows("Training", _losses(facts.log_history)),
        _long_context(facts),
    ]
    return ModelCard("\n\n".join(parts) + "\n")


def usage(config: MoshiTTTConfig, repo_id: str) -> str:
    """Python that loads the model from the Hub and lets it speak; the package need not be installed."""
    return _USAGE.format(repo_id=repo_id, streams=config.num_streams, codebooks=config.num_codebooks)


def _opening(config: MoshiTTTConfig, facts: ModelCardFacts) -> str:
    kind = "Moshi with test-time-training layers" if config.ttt else "Moshi"
    start = f"It starts from `{facts.base_model}`." if facts.base_model else "Its base is not recorded."
    data = f"It was trained on {facts.data}." if facts.data else "Its training data is not recorded."
    unpublished = " (a folder that is not on the Hub)" if Path(config.codec).exists() else ""
    return (
        f"{kind}: a full-duplex speech language model, 12.5 frames of 80 ms a second. {start} {data} Audio goes in and "
        f"out as codes of `{config.codec}`{unpublished}."
    )


def _settings(config: MoshiTTTConfig) -> dict[str, Any]:
    settings: dict[str, Any] = {"attention window": f"{config.sliding_window} frames"}
    for key in ("text_stream", "user_stream", "text_tokenizer"):
        settings[key] = getattr(config, key)
    if config.ttt is not None:
        settings["TTT layers"] = f"{config.ttt_layer_indices} of {config.num_hidden_layers}"
        settings.update({f"ttt.{key}": value for key, value in sorted(config.ttt.own_values().items())})
    return settings


def _losses(log_history: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """First and last value of each loss that was logged, with its step; a loss of 0 throughout had nothing to learn."""
    rows = {}
    for name in ("loss", "audio_loss", "text_loss", "eval_loss"):
        logged = [(entry["step"], entry[name]) for entry in log_history if name in entry]
        if any(value for _, value in logged):
            (first_step, first), (last_step, last) = logged[0], logged[-1]
            rows[name] = f"{first:.4f} at step {first_step}, {last:.4f} at step {last_step}"
    return rows


def _long_context(facts: ModelCardFacts) -> str:
    rows = {_title(key): _estimate(facts.results, key) for key in _keys(facts)}
    text = _rows("Long context", rows)
    if rows:
        text += (
            "\n\nLosses are nats, means over the codebooks around that position in frames; the slope is nats per 1,000 "
            "frames beyond the attention window. Intervals hold 95% over n recordings."
        )
    return text + (f"\n\n![Loss by position]({PLOT_NAME})" if facts.plot is not None else "")


def _keys(facts: ModelCardFacts) -> list[str]:
    """The long-context numbers that are estimates."""
    return [key for key, value in facts.results.items() if key.startswith("librilight_") and isinstance(value, float)]


def _eval_results(facts: ModelCardFacts) -> list[EvalResult]:
    """The same for the card's metadata (`model-index`), from which the Hub shows them."""
    dataset = facts.datasets[0] if facts.datasets else "held-out recordings"
    return [
        EvalResult(
            "audio-to-audio",
            dataset,
            dataset,
            metric_type=key,
            metric_value=facts.results[key],
            metric_name=_title(key),
        )
        for key in _keys(facts)
    ]


def _title(key: str) -> str:
    words = key.removeprefix("librilight_").split("_")
    return f"loss at {words[1]} frames" if words[0] == "loss" and words[1][0].isdigit() else " ".join(words)


def _estimate(results: Mapping[str, Any], key: str) -> str:
    low_high = results.get(f"{key}_interval")
    interval = "" if low_high is None else f" [{low_high[0]:.4f}, {low_high[1]:.4f}]"
    return f"{results[key]:.4f}{interval}, n={results[f'{key}_recordings']}"


def _rows(title: str, rows: Mapping[str, Any]) -> str:
    if not rows:
        return f"## {title}\n\nNot recorded."
    lines = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    return f"## {title}\n\n| what | value |\n| --- | --- |\n{lines}"
