"""Publishes a trained model on the Hub, with its code and a card: base, data, settings, losses, long-context slope."""

import argparse
import json
from pathlib import Path
from typing import Any

from hf_moshi_ttt.checkpoints.model_card import PLOT_NAME, ModelCardFacts
from hf_moshi_ttt.evaluation.results_file import read_results
from hf_moshi_ttt.modeling_moshi_ttt import MoshiTTTForConditionalGeneration


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="folder of the trained model")
    parser.add_argument("repo_id", help="name on the Hub, owner/name")
    parser.add_argument("--base", help="name of the model that training started from")
    parser.add_argument("--data", help="what it was trained on, in words")
    parser.add_argument("--dataset", action="append", default=[], help="name of a dataset on the Hub; may be repeated")
    parser.add_argument("--license", help="licence of the weights; CC-BY-4.0 if they start from Kyutai's")
    parser.add_argument("--results", type=Path, help="folder that scripts/evaluate_long_context.py wrote")
    parser.add_argument("--private", action="store_true", help="nobody else sees the repository")
    parser.add_argument("--trainable-only", action="store_true", help="only the trained part, with its base by name")
    parser.add_argument("--max-shard-size", default="5GB", help="largest file of weights (%(default)s)")
    return parser.parse_args()


def results_of(folder: Path, model: Path) -> dict[str, Any]:
    """The part of results.json that is about this model.

    Raises:
        ValueError: the model is not among those that were evaluated.
    """
    models = read_results(folder / "results.json")["models"]
    for result in models.values():
        if Path(result["path"]).resolve() == model.resolve() and result["run"]["memory"] == "on":
            return result
    raise ValueError(f"{folder}: {model} was not evaluated; {', '.join(one['path'] for one in models.values())} were.")


def main() -> None:
    arguments = parse_arguments()
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
    model = MoshiTTTForConditionalGeneration.from_pretrained(arguments.model)
    commit = model.push_to_hub(
        arguments.repo_id,
        card=facts,
        private=arguments.private or None,
        trainable_only=arguments.trainable_only,
        max_shard_size=arguments.max_shard_size,
    )
    print(f"{arguments.repo_id}: {commit.commit_url}")


if __name__ == "__main__":
    main()
