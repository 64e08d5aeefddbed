"""A training run from its settings: the model, what of it is trained, the data, and where the run starts."""

import math
import os
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from peft import PeftConfig, PeftModel
from transformers import set_seed
from transformers.utils import logging

from ..checkpoints.adapters import adapter_settings, lora_config, make_trainable
from ..checkpoints.weight_files import ADAPTER_CONFIG_NAME, require_one_layout, require_other_folder
from ..codec.audio import frames_from_sec
from ..codec.hub_files import lasting_name
from ..configuration_moshi_ttt import MoshiTTTConfig
from ..data.codes import Provenance, data_fingerprint, load_codes, recordings_of, require_same_codec
from ..data.collator import MoshiTTTCollator
from ..data.compatibility import HOLD_OUT, require_codes_of_model
from ..data.segments import SegmentDataset
from ..evaluation.training_metrics import LongContextCallback
from ..modeling_moshi_ttt import MoshiTTTForConditionalGeneration
from .arguments import DataArguments, ModelArguments, MoshiTTTTrainingArguments, parse_settings
from .curve_pictures import write_curve
from .dry_run import describe_model, describe_steps, describe_time, measure, static_memory, write_first_batch
from .length_stages import StagedSegments
from .parameter_groups import count_parameters, parameter_groups
from .resumption import Start, course_settings, plan_start, require_parts, require_same_course, weights_of
from .run_files import MetricsFile, write_run
from .samples import SampleCallback, SampleOptions
from .trainer import MoshiTTTTrainer

logger = logging.get_logger(__name__)

_TEACH_ANOTHER = (
    " To teach the model the codec and tokenizer of the data instead, set config.codec_sha256=null and "
    "config.text_tokenizer_sha256=null."
)


def run(settings: dict[str, Any]) -> int:
    """Trains as the settings say; returns the exit code of the process.

    Raises:
        ValueError: settings that are wrong or do not fit the model, the data or the checkpoint.
    """
    trainer, start = prepare(settings)
    if start.is_finished:
        return 0
    if trainer.is_world_process_zero():
        _write_run(trainer, settings, start)
    trainer.train(resume_from_checkpoint=str(start.checkpoint) if start.checkpoint else None)
    trainer.save_state()
    if trainer.state.global_step >= trainer.state.max_steps:
        trainer.save_final_model()
    return trainer.exit_code


def _write_run(trainer: MoshiTTTTrainer, settings: dict[str, Any], start: Start) -> None:
    checkpoint = start.checkpoint and str(start.checkpoint)
    begins = {"checkpoint": checkpoint, "processes": trainer.args.world_size}
    stages = trainer.stages()
    data = {
        "codes": settings["train_codes"],
        "fingerprint": trainer.course["data_fingerprint"],
        "segments": [len(stage) for stage in stages],
        "dropped_frames": [stage.dropped_frames for stage in stages],
    }
    groups = {
        group["name"]: sum(p.numel() for p in group["params"])
        for group in parameter_groups(trainer.model, trainer.args)
    }
    parameters = {"trained": groups, "all": count_parameters(trainer.model)}
    facts = {"data": data, "parameters": parameters, "config": trainer.model.config.own_values()}
    write_run(Path(str(trainer.args.output_dir)), settings, begins, facts)


def dry_run(settings: dict[str, Any], say: Callable[[str, str], None]) -> int:
    """Reports what `run` would do, after three steps of it; returns 1 where memory does not suffice.

    Args:
        say: takes a title and a line.

    Raises:
        ValueError: as `run`.
    """
    model_args, data_args, args = parse_settings(settings)
    say = say if args.process_index == 0 else lambda *_: None
    start = plan_start(args)
    if start.checkpoint is not None:
        require_parts(start)
    say("start", start.describe())
    set_seed(args.seed)
    model = build_model(model_args, args)
    for line in describe_model(model, args):
        say("model", line)
    is_sharded = bool(args.fsdp) or os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    memory = static_memory(model, args, args.world_size if is_sharded else 1, args.carry_window)
    say("memory", memory.describe())
    if not memory.fits:
        return 1
    with tempfile.TemporaryDirectory() as folder:
        unsaved = {
            "output_dir": folder,
            "save_strategy": "no",
            "report_to": "none",
            "stop_at_step": None,
            "push_to_hub": False,
            "load_best_model_at_end": False,
        }
        trainer = build_trainer(model, model_args, data_args, parse_settings({**settings, **unsaved})[2])
        for line in describe_steps(trainer.stages(), [steps for _, steps in data_args.stages()], args):
            say("data", line)
        batch = next(iter(trainer.get_train_dataloader()))
        path = Path(str(args.output_dir), "dry_run", "first_batch.wav")
        codes, config = batch["codes"][0].cpu().numpy(), model.config
        say("sound", write_first_batch(codes, config.num_codebooks, config.codec, path))
        measured = measure(trainer)
    memory.parts["activations"] = measured.activations
    say("memory", memory.describe())
    frames = trainer.stages()[0].segment_frames * trainer.course["rows_per_step"]
    say("time", describe_time(measured, frames, trainer.state.max_steps))
    return 0 if memory.fits else 1


def prepare(settings: dict[str, Any]) -> tuple[MoshiTTTTrainer, Start]:
    """The trainer of a run, before its first step, and how it starts.

    Raises:
        ValueError: as `run`.
    """
    model_args, data_args, args = parse_settings(settings)
    if args.n_gpu > 1:
        raise ValueError(
            f"{args.n_gpu} GPUs are visible, but one process was started. Use accelerate launch --num_processes "
            f"{args.n_gpu}, or choose one of them with CUDA_VISIBLE_DEVICES=0."
        )
    start = plan_start(args)
    if start.checkpoint is not None:
        require_parts(start)
    set_seed(args.seed)
    model = build_model(model_args, args)
    if isinstance(model, PeftModel):
        base: Any = model.get_base_model()
        require_other_folder(str(args.output_dir), base.name_or_path)
    trainer = build_trainer(model, model_args, data_args, args)
    if start.checkpoint is not None:
        require_same_course(start, trainer.course, trainer.config_values())
        trainer.fresh_optimizer = start.fresh_optimizer
        logger.warning(f"Start: {start.describe()}.")
    return trainer, start


def build_model(model_args: ModelArguments, args: MoshiTTTTrainingArguments) -> Any:
    """The model with its trained part chosen; a `PeftModel` with LoRA. What is trained is kept in float32.

    Raises:
        ValueError: a checkpoint that does not fit what is asked for.
    """
    if args.reset_step:
        assert args.resume_from is not None
        source = weights_of(args.resume_from)
    elif model_args.model_name_or_path is not None:
        source = model_args.model_name_or_path
    else:
        assert model_args.preset is not None
        config = MoshiTTTConfig.from_preset(model_args.preset, **model_args.config)
        return _with_trained_part(MoshiTTTForConditionalGeneration(config), model_args)
    require_one_layout(source)
    if Path(source, ADAPTER_CONFIG_NAME).is_file():
        return _with_adapter(Path(source), model_args)
    return _with_trained_part(MoshiTTTForConditionalGeneration.from_pretrained(source, **model_args.config), model_args)


def _with_trained_part(model: MoshiTTTForConditionalGeneration, model_args: ModelArguments) -> Any:
    lora = None
    if "lora" in model_args.trainable:
        has_ttt = "ttt" in model_args.trainable
        lora = lora_config(
            model.config, model_args.lora_rank, model_args.lora_scaling, model_args.lora_parts, ttt=has_ttt
        )
    return _trained_in_float32(make_trainable(model, model_args.trainable, lora))


def _with_adapter(folder: Path, model_args: ModelArguments) -> PeftModel:
    """An adapter over the base that it names, to be trained further.

    Raises:
        ValueError: it is to be trained with other settings than it has, or names no base.
    """
    described: Any = PeftConfig.from_pretrained(str(folder))
    base = described.base_model_name_or_path
    if not base:
        raise ValueError(f"{folder}: the adapter names no base model.")
    config = MoshiTTTConfig.from_pretrained(folder)
    base_model = MoshiTTTForConditionalGeneration.from_pretrained(base, config=config, **model_args.config)
    model = PeftModel.from_pretrained(base_model, str(folder), is_trainable=True)
    _require_settings_of(model, folder, model_args)
    return _trained_in_float32(model)


def _require_settings_of(model: PeftModel, folder: Path, asked: ModelArguments) -> None:
    try:
        found = adapter_settings(model)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error
    for key, value in found.items():
        wanted = getattr(asked, key)
        if not _is_same_setting(key, value, wanted):
            raise ValueError(
                f"{folder}: an adapter with {key}={value!r}, but {wanted!r} is asked for. Set {key} to what it has, or "
                "start from the merged model (merge_and_unload, then save_pretrained)."
            )


def _is_same_setting(key: str, found: Any, asked: Any) -> bool:
    if key == "lora_scaling":
        return math.isclose(found, asked, rel_tol=1e-9)  # the file holds strength * rank, divided by the rank again
    return set(found or ()) == set(asked) if key == "lora_parts" else found == asked


def _trained_in_float32(model: Any) -> Any:
    """In bfloat16, steps smaller than its rounding would be lost."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return model


def build_trainer(
    model: Any, model_args: ModelArguments, data: DataArguments, args: MoshiTTTTrainingArguments
) -> MoshiTTTTrainer:
    """A trainer on the encoded recordings that the arguments name; the model's config says which codec made them.

    Raises:
        ValueError: codes of another codec than the model's.
    """
    codes, provenance = load_codes(data.train_codes)
    adopt_provenance(model, provenance, str(data.train_codes))
    stages, overlap = data.stages(), frames_from_sec(data.overlap_sec)
    segments = [
        SegmentDataset(codes, frames_from_sec(sec), overlap_frames=overlap, frame_rate_hz=provenance.frame_rate_hz)
        for sec, _ in stages
    ]
    held_out = None if data.eval_codes is None else _held_out_codes(data, codes, provenance, model.config)
    collator = MoshiTTTCollator(model.config, provenance.silence_codes)
    course = course_settings(model_args, data, args, data_fingerprint(codes, provenance))
    dataset = StagedSegments(segments) if len(segments) > 1 else segments[0]
    steps = [count for _, count in stages]
    options: dict[str, Any] = {"callbacks": [MetricsFile()]}
    if held_out is not None:
        frames = segments[-1].segment_frames
        options["eval_dataset"] = SegmentDataset(held_out, frames, frame_rate_hz=provenance.frame_rate_hz)
    trainer = MoshiTTTTrainer(model, args, dataset, collator, data.order, steps, course, **options)
    if held_out is not None:
        _add_callbacks(trainer, held_out, provenance.silence_codes)
    return trainer


def _add_callbacks(trainer: MoshiTTTTrainer, held_out: Any, silence_codes: Sequence[int]) -> None:
    """What is measured and made of whole held-out recordings while the model trains.

    Raises:
        ValueError: samples or turn-taking under FSDP, or a codec that cannot be opened.
    """
    args: Any = trainer.args
    if (every_steps := args.eval_long_context_steps) is not None:
        recordings, report = list(held_out["codes"]), partial(write_curve, training_frames=_segment_frames(trainer))
        trainer.add_callback(
            LongContextCallback(trainer, recordings, every_steps, silence_codes=silence_codes, report=report)
        )
    if args.eval_turn_taking_steps is not None:
        _watch_turn_taking(trainer, held_out, silence_codes)
    if args.sample_steps is not None:
        if trainer.is_fsdp_enabled:
            raise ValueError(
                f"sample_steps={args.sample_steps} needs the whole model in every process, which FSDP shares out: "
                "leave it out, and let hf-moshi-ttt generate continue recordings from a checkpoint."
            )
        options = SampleOptions(args.sample_steps, args.sample_recordings, args.sample_prompt_sec, args.sample_new_sec)
        chosen = [row["codes"] for row in held_out.select(range(min(options.recordings, len(held_out))))]
        trainer.add_callback(SampleCallback(trainer, chosen, options, silence_codes))


def _watch_turn_taking(trainer: MoshiTTTTrainer, held_out: Any, silence_codes: Sequence[int]) -> None:
    from ..evaluation.conversation_runs import Corpus
    from .turn_taking_callback import TurnTakingCallback

    args: Any = trainer.args
    if trainer.is_fsdp_enabled:
        raise ValueError(
            f"eval_turn_taking_steps={args.eval_turn_taking_steps} needs the whole model in every process, which FSDP "
            "shares out: leave it out, and measure a checkpoint with hf-moshi-ttt turn-taking."
        )
    count = min(args.eval_turn_taking_conversations, len(held_out))
    corpus = Corpus([held_out[place]["codes"] for place in range(count)], silence_codes)
    trainer.add_callback(TurnTakingCallback(trainer, corpus, args.eval_turn_taking_steps))


def _segment_frames(trainer: MoshiTTTTrainer) -> int:
    return trainer.stages()[-1].segment_frames


def _held_out_codes(data: DataArguments, trained_on: Any, train_origin: Provenance, config: MoshiTTTConfig) -> Any:
    codes, provenance = load_codes(str(data.eval_codes))
    require_same_codec(str(data.train_codes), train_origin, str(data.eval_codes), provenance)
    require_codes_of_model(config, provenance, data.eval_codes)
    if common := recordings_of(codes) & recordings_of(trained_on):
        logger.warning(
            f"eval_codes={data.eval_codes!r} and train_codes={data.train_codes!r} have {len(common)} recordings in "
            f"common. {HOLD_OUT}."
        )
    return codes


def adopt_provenance(model: Any, provenance: Provenance, source: str) -> None:
    """Writes the codec and tokenizer of the data into the model's configuration, with their hashes.

    Args:
        source: what the data is called in errors.

    Raises:
        ValueError: a model that was trained on another codec or tokenizer.
    """
    config = model.config
    unknown = require_codes_of_model(config, provenance, source, _TEACH_ANOTHER)
    if config.name_or_path:  # it was trained before
        for sentence in unknown:
            logger.warning(f"{sentence}.")
    if provenance.codec_sha256 is not None or config.codec_sha256 is None:
        config.codec, config.codec_sha256 = lasting_name(provenance.codec), provenance.codec_sha256
    tokenizer, sha256 = provenance.text_tokenizer, provenance.tokenizer_sha256
    if tokenizer is not None and (sha256 is not None or config.text_tokenizer_sha256 is None):
        config.text_tokenizer, config.text_tokenizer_sha256 = lasting_name(tokenizer), sha256
