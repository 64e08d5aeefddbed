"""Continue a recording frame by frame, live with a user's voice or alone, and write the continuation as a wav.

hf-moshi-ttt generate runs/mine prompt.wav --new-sec 10 --output continuation.wav
hf-moshi-ttt generate runs/mine prompt.wav --user user.wav --save-memory heard.safetensors --output continuation.wav
hf-moshi-ttt generate runs/mine --codes codes/heldout --prompt-sec 60 --new-sec 10 --output continuation.wav
"""

import argparse
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from .model_folder import model_folder
from .parser import SEED, UsageError, add_device, add_json, device_of, number, whole

USER_STREAMS = ("duplicate", "silence", "none")
_CODES_PROMPT_SEC = 60.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument("model", help="name or path of a TTT-Moshi checkpoint")
    parser.add_argument(
        "prompt", nargs="?", type=Path, help="audio of Moshi's voice to continue; a second channel is the user's"
    )
    parser.add_argument("--user", type=Path, help="audio of the user's voice; it goes on beside the continuation")
    parser.add_argument(
        "--user-stream", choices=USER_STREAMS, help="what the user's rows hold where no user is heard (the model's own)"
    )
    parser.add_argument("--codes", help="folder of encoded recordings (hf-moshi-ttt prepare) in place of audio")
    parser.add_argument("--recording", type=whole(0), default=0, help="which of them to continue (%(default)s)")
    parser.add_argument(
        "--prompt-sec", type=float, help=f"how much is the prompt (all of a file, {_CODES_PROMPT_SEC} s of --codes)"
    )
    parser.add_argument("--new-sec", type=float, default=10.0, help="how much is generated (%(default)s)")
    parser.add_argument(
        "--temperature", type=number(0), help="of the audio codes (the saved stream's or the model's own)"
    )
    parser.add_argument("--seed", type=SEED, help="of the draws (0; a saved stream's go on)")
    parser.add_argument("--memory", type=Path, help="a file to go on from: a memory, or a whole stream")
    parser.add_argument("--save-memory", type=Path, help="where to write what the memory has learned")
    parser.add_argument("--without-memory", action="store_true", help="silence the memory, to hear the difference")
    parser.add_argument("--plot", type=Path, help="a picture of frame times and memory to write")
    parser.add_argument(
        "--output", type=Path, required=True, help="the wav to write; beside it a .json and a .txt of words with times"
    )
    add_device(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Generates, and writes the wav, its words and its report; returns the report, without the time of each frame."""
    new_frames = _checked(arguments)
    from ..live.memory_file import read_manifest

    manifest = None if arguments.memory is None else read_manifest(arguments.memory)
    saved = _saved_stream(arguments, manifest)
    from ..live.from_files import continue_prompt
    from ..live.session import MoshiTTTSession
    from ..modeling_moshi_ttt import MoshiTTTForConditionalGeneration
    from ..processing_moshi_ttt import MoshiTTTProcessor
    from ..streaming.generation_moshi_ttt import Sampling

    device = device_of(arguments.device)
    path = model_folder(arguments.model)
    model: Any = MoshiTTTForConditionalGeneration.from_pretrained(path).eval().to(device)
    processor = MoshiTTTProcessor.from_pretrained(path)
    if arguments.user_stream is not None:
        model.config.user_stream = processor.config.user_stream = arguments.user_stream
    processor.codec.to(device)
    sampling = saved or Sampling.from_generation_config(model.generation_config)
    if arguments.temperature is not None:
        sampling = replace(sampling, temperature=arguments.temperature)
    prompt, name, user_stream = _prompt(arguments, model, processor)
    if manifest is not None and arguments.user_stream is None:
        user_stream = manifest.user_stream or user_stream
    seeds = [arguments.seed or 0]
    session = MoshiTTTSession(model, processor, sampling=sampling, seeds=seeds, user_stream=user_stream)
    if arguments.memory is not None:
        others = (arguments.temperature, arguments.user_stream)
        session.restore(arguments.memory, other_sampling=any(given is not None for given in others))
    if arguments.without_memory:
        session.set_memory_on(0, False)
    result = continue_prompt(session, prompt, new_frames, watch=arguments.plot is not None, progress=True)
    facts = {"model": path, "prompt": name, "seed": session.seeds[0], "memory_at_end": session.memory_stats(0)}
    report = _write(arguments, processor, result, facts)
    if arguments.save_memory is not None:
        arguments.save_memory.parent.mkdir(parents=True, exist_ok=True)
        session.save(arguments.save_memory, memory_only=True)
    if arguments.plot is not None:
        from ..live.session_plot import plot_session

        arguments.plot.parent.mkdir(parents=True, exist_ok=True)
        plot_session(arguments.plot, result.frame_ms, result.memory)
    return {key: value for key, value in report.items() if key != "frame_ms"}


def _saved_stream(arguments: argparse.Namespace, manifest: Any) -> Any:
    """The `Sampling` of a whole stream that goes on; None for a memory alone, or none.

    Raises:
        UsageError: a prompt or a seed for a stream that has both.
    """
    from ..live.saved_rows import saved_sampling

    saved = None if manifest is None else saved_sampling(arguments.memory, manifest)
    given = {"a prompt": arguments.prompt or arguments.codes, "--seed": arguments.seed}
    for name, value in given.items():
        if saved is not None and value is not None:
            raise UsageError(
                f"{name} ({value}): {arguments.memory} holds a whole stream, which goes on where it stopped with its "
                "own draws. Leave it out, or begin a new conversation with a file saved by --save-memory."
            )
    return saved


def _checked(arguments: argparse.Namespace) -> int:
    """The number of frames to generate.

    Raises:
        UsageError: nothing to generate, nothing to go on from, or two things.
        BadAudioError: a file that is missing or holds no sound.
    """
    from ..codec.audio import frames_from_sec, read_header

    for name, sec in (("--new-sec", arguments.new_sec), ("--prompt-sec", arguments.prompt_sec)):
        if sec is not None and not 0 < sec < math.inf:
            raise UsageError(f"{name} {sec}: must be above 0 seconds")
    if arguments.codes is not None and (arguments.prompt is not None or arguments.user is not None):
        raise UsageError("--codes holds a prompt with both voices: give either it or audio files")
    if not any(given is not None for given in (arguments.codes, arguments.prompt, arguments.user, arguments.memory)):
        raise UsageError("there is nothing to go on from: give an audio file, --user, --codes or --memory")
    _check_files(arguments)
    for path in filter(None, (arguments.prompt, arguments.user)):
        read_header(path)  # before a model is loaded
    return frames_from_sec(arguments.new_sec)


def _check_files(arguments: argparse.Namespace) -> None:
    """Raises UsageError for files that could not be written, or would replace one that is read."""
    output = arguments.output
    if output.suffix.lower() != ".wav":
        raise UsageError(f"--output {output}: its name must end in .wav")
    written = [output, output.with_suffix(".json"), output.with_suffix(".txt"), arguments.save_memory, arguments.plot]
    paths = [path.resolve() for path in written if path is not None]
    read = [path.resolve() for path in (arguments.prompt, arguments.user, arguments.memory) if path is not None]
    for index, path in enumerate(paths):
        if path.is_dir():
            raise UsageError(f"{path} is a folder, but a file is to be written there")
        if path in read or path in paths[:index]:
            raise UsageError(f"{path} would be replaced by another file of this command: choose another name")


def _prompt(arguments: argparse.Namespace, model: Any, processor: Any) -> tuple[Any, str | None, Any]:
    """The prompt, its name (None where there is none), and what the user's rows hold where no user is heard.

    That is what `--user-stream` says; else what mono recordings have in training, and silence after a prompt of two
    speakers.
    """
    from ..codec.audio import frames_from_sec
    from ..live.from_files import Prompt, read_prompt

    if arguments.codes is None:
        frames = None if arguments.prompt_sec is None else frames_from_sec(arguments.prompt_sec)
        name = None if arguments.prompt is None else str(arguments.prompt)
        return read_prompt(processor, arguments.prompt, arguments.user, frames), name, model.config.user_stream
    import torch

    from ..data.codes import load_codes
    from ..data.collator import MoshiTTTCollator
    from ..data.compatibility import warn_where_unknown

    codes, provenance = load_codes(arguments.codes)
    warn_where_unknown(model.config, provenance, arguments.codes)
    if not 0 <= arguments.recording < len(codes):
        raise UsageError(f"--recording {arguments.recording}: {arguments.codes} has recordings 0 to {len(codes) - 1}")
    row = codes[arguments.recording]
    prompt_sec = _CODES_PROMPT_SEC if arguments.prompt_sec is None else arguments.prompt_sec
    prompt = row["codes"][:, : frames_from_sec(prompt_sec)].astype("int64")
    frames_KT, _ = MoshiTTTCollator(model.config, provenance.silence_codes).frame_codes(prompt)
    is_mono = len(prompt) == model.config.num_codebooks
    user_stream = arguments.user_stream or (model.config.user_stream if is_mono else "silence")
    return Prompt(torch.from_numpy(frames_KT)[None], None), row["path"], user_stream


def _write(arguments: argparse.Namespace, processor: Any, result: Any, facts: dict[str, Any]) -> dict[str, Any]:
    """Writes the wav, the words and the report, which is also printed in two lines and returned."""
    import numpy as np
    import soundfile

    from ..codec.audio import FRAME_RATE_HZ

    output = arguments.output
    output.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(output, processor.decode_audio(result.codes_BKT)[0], processor.codec.config.sampling_rate)
    rate = 1e3 * len(result.frame_ms) / sum(result.frame_ms)
    median, late = np.percentile(result.frame_ms, [50, 99]).tolist()
    speed = {"frames_per_second": rate, "real_time": rate / FRAME_RATE_HZ, "median_ms": median, "p99_ms": late}
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(arguments).items()}
    report = {**settings, **facts, **speed, "frame_ms": result.frame_ms, "words": result.words}
    if processor.config.text_tokenizer is not None:
        report["text"] = processor.decode_text(result.codes_BKT)[0]
        lines = [f"{word['start_sec']:8.2f} {word['word']}\n" for word in result.words]
        output.with_suffix(".txt").write_text("".join(lines), encoding="utf-8")
    output.with_suffix(".json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    print(f"text: {report.get('text', 'none, the model was trained without text')!r}")
    print(
        f"{arguments.new_sec} s at {rate:.1f} frames/s, {rate / FRAME_RATE_HZ:.2f} times real time "
        f"(a frame: median {median:.1f} ms, p99 {late:.1f} ms), in {output}"
    )
    return report
