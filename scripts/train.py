"""Trains TTT-Moshi: `python scripts/train.py CONFIG.yaml [key=value ...]`, also under `accelerate launch`."""

import argparse

from transformers import set_seed

from hf_moshi_ttt.arguments import ModelArguments, parse_settings, read_settings
from hf_moshi_ttt.configuration_moshi_ttt import MoshiTTTConfig
from hf_moshi_ttt.modeling_moshi_ttt import MoshiTTTForConditionalGeneration
from hf_moshi_ttt.trainer import build_trainer


def build_model(args: ModelArguments) -> MoshiTTTForConditionalGeneration:
    if args.preset is not None:
        return MoshiTTTForConditionalGeneration(MoshiTTTConfig.from_preset(args.preset, **args.config))
    return MoshiTTTForConditionalGeneration.from_pretrained(args.model_name_or_path, **args.config)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", help="YAML file of settings (see configs/)")
    parser.add_argument("changes", nargs="*", metavar="key=value", help="settings to change, e.g. max_steps=100")
    arguments = parser.parse_args()
    model_args, data_args, training_args = parse_settings(read_settings(arguments.config, arguments.changes))
    set_seed(training_args.seed)
    trainer = build_trainer(build_model(model_args), data_args, training_args)
    segments = trainer.segments
    print(f"{len(segments)} segments; {segments.dropped_frames} frames left out in pieces too short to train on")
    trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)
    trainer.save_state()
    if trainer.state.global_step >= trainer.state.max_steps:
        trainer.save_model()


if __name__ == "__main__":
    main()
