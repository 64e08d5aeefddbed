"""Publish a trained model on the Hub, with its code and a card: base, data, settings, losses, long-context slope.

hf-moshi-ttt push runs/mine me/my-moshi --data "100 h of audiobooks" --results runs/mine_evaluation
"""

import argparse
import json
from pathlib import Path
from typing import Any

from .model_folder import model_folder
from .parser import add_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument("model", type=Path, help="folder of the trained model")
    parser.add_argument("repo_id", help="name on the Hub, owner/name")
    parser.add_argument("--base", help="name of the model that training started from")
    parser.add_argument("--data", help="what it was trained on, in words")
    parser.add_argument("--dataset", action="append", default=[], help="name of a dataset on the Hub; may be repeated")
    parser.add_argument("--license", help="licence of the weights; CC-BY-4.0 if they start from Kyutai's")
    parser.add_argument("--results", type=Path, help="folder that hf-moshi-ttt evaluate wrote")
    parser.add_argument("--private", action="store_true", help="nobody else sees the repository")
    parser.add_argument("--trainable-only", action="store_true", help="only the trained part, with its base by name")
    parser.add_argument("--max-shard-size", default="5GB", help="largest file of weights (%(default)s)")
    add_json(parser)


def results_of(folder: Path, model: Path) -> dict[str, Any]:
    """The part of results.json that is about this model.

    Raises:
        ValueError: the model is not among those that were evaluated.
    """
    from ..evaluation.results_file import read_results

    models = read_results(folder / "results.json")["models"]
    for result in models.values():
        if Path(result["path"]).resolve() == model.resolve() and result["run"]["memory"] == "on":
            return result
    raise ValueError(f"{folder}: {model} was not evaluated; {', '.join(one['path'] for one in models.values())} were.")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Uploads the model; prints and returns the address of the commit."""
    from ..checkpoints.adapters import merged
    from ..checkpoints.model_card import PLOT_NAME, ModelCardFacts
    from ..modeling_moshi_ttt import MoshiTTTForConditionalGeneration

    arguments.model = Path(model_folder(str(arguments.model)))
    log = arguments.model / "trainer_state.json"
    facts = ModelCardFacts(
        base_model=arguments.base,
        data=arguments.data,
        datasets=arguments.dataset,
        license=arguments.license,
        log_history=json.loads(log.read_text(encoding="utf-8"))["log_history"] if log.is_file() else [],
        results=results_of(arguments.results, arguments.model) if arguments.results else {},
        plot=arguments.results / PLOT_NAME if arguments.results else None,
    )
    loaded, info = MoshiTTTForConditionalGeneration.from_pretrained(arguments.model, output_loading_info=True)
    if arguments.trainable_only and info["layout"] == "adapter":
        raise ValueError(
            f"--trainable-only: {arguments.model} holds an adapter, which is pushed merged into its base. Leave it "
            "out, or upload the folder itself (hf upload)."
        )
    model = merged(loaded)
    commit = model.push_to_hub(
        arguments.repo_id,
        card=facts,
        private=arguments.private or None,
        trainable_only=arguments.trainable_only,
        max_shard_size=arguments.max_shard_size,
    )
    print(f"{arguments.repo_id}: {commit.commit_url}")
    return {"repo_id": arguments.repo_id, "commit_url": commit.commit_url}
