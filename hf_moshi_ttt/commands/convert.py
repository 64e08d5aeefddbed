"""Convert a checkpoint of any layout: to TTT-Moshi's own, to Kyutai's package, or to transformers' own Moshi.

hf-moshi-ttt convert kyutai/moshiko-pytorch-bf16 moshi_7b --to moshi_ttt
"""

import argparse
from typing import Any

from .model_folder import model_folder
from .parser import add_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument(
        "source", help="name or folder: TTT-Moshi, Kyutai, moshi-finetune, transformers or an adapter, which is merged"
    )
    parser.add_argument("output", help="folder to write")
    parser.add_argument(
        "--to",
        required=True,
        choices=["moshi_ttt", "kyutai", "kyutai-old", "transformers"],
        help="layout to write; kyutai-old is that of the published 7B",
    )
    parser.add_argument("--base", help="the base of LoRA weights or a trained part, where they do not name it")
    parser.add_argument("--dtype", default="auto", help="of the weights (%(default)s: as they are)")
    parser.add_argument("--max-shard-size", default="50GB", help="largest file of moshi_ttt (%(default)s)")
    add_json(parser)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Loads and writes the checkpoint; returns what it is."""
    from ..checkpoints.adapters import merged
    from ..modeling_moshi_ttt import MoshiTTTForConditionalGeneration

    loaded = MoshiTTTForConditionalGeneration.from_pretrained(
        model_folder(arguments.source), base_model_name_or_path=arguments.base, dtype=arguments.dtype
    )
    model = merged(loaded)
    if arguments.to == "moshi_ttt":
        model.save_pretrained(arguments.output, max_shard_size=arguments.max_shard_size)
    elif arguments.to == "transformers":
        model.to_transformers(arguments.output)
    else:
        model.to_kyutai(arguments.output, "old" if arguments.to == "kyutai-old" else "new")
    print(f"{arguments.output}: {model.num_parameters():,} parameters, {model.dtype}, for {arguments.to}")
    facts = {"output": arguments.output, "parameters": model.num_parameters(), "dtype": str(model.dtype)}
    return {**facts, "layout": arguments.to}
