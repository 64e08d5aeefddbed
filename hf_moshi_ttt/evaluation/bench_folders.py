"""Full-Duplex-Bench over a whole tree: `ID/input.wav` in, `ID/output.wav` out, then scores.

The output is mono at 24 kHz, as long as the input and synchronous with it. A model that has text also leaves
`ID/output_words.json`, in the form of the benchmark's transcripts but never in their place. v1.5's `clean_input.wav`
becomes `clean_output.wav`. Inputs go in batches of neighbours that do not depend on what is done already, with seeds
from their names, so a run that continues gives what a whole one gives. A file that cannot be read is reported and
skipped.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import soundfile
from tqdm.auto import tqdm

from ..codec.audio import (
    FRAME_SAMPLES,
    SAMPLE_RATE_HZ,
    BadAudioError,
    read_audio,
    read_blocks,
    read_header,
    samples_at_24_khz,
)
from ..data.bad_files import BadFiles
from ..data.codes import encode_streams, silence_codes
from ..data.text_files import read_json
from ..streaming.generation_moshi_ttt import Sampling
from ..whole_files import replacing
from .driven_conversations import drive, heard_sound, heard_words, seeded
from .full_duplex_bench import BenchItem, ItemScore, read_item, score_item
from .kept_losses import model_sha256
from .speech_times import Word
from .spoken_words import read_transcript, write_transcript
from .voice_activity import find_speech

if TYPE_CHECKING:
    from ..modeling_moshi_ttt import MoshiTTTForConditionalGeneration
    from ..processing_moshi_ttt import MoshiTTTProcessor

INPUTS = ("input.wav", "clean_input.wav")
WORDS = ("text", "transcript", "none")
MADE_BY = "outputs.json"
"""At the root of a tree: what made its outputs."""


@dataclass
class BenchRun:
    """What a run over a tree did: outputs written and found there before, and inputs that could not be used."""

    written: int = 0
    found: int = 0
    bad: BadFiles = field(default_factory=BadFiles)


def find_inputs(root: Path) -> list[Path]:
    """Every input of a tree, in order.

    Raises:
        ValueError: there is none.
    """
    inputs = sorted(path for name in INPUTS for path in root.rglob(name))
    if not inputs:
        raise ValueError(f"{root}: no {' or '.join(INPUTS)} below it; expected the folders of Full-Duplex-Bench.")
    return inputs


def output_of(path: Path) -> Path:
    """The output that belongs to an input."""
    return path.with_name(path.name.replace("input", "output"))


def run_tree(
    model: "MoshiTTTForConditionalGeneration",
    processor: "MoshiTTTProcessor",
    root: Path,
    sampling: Sampling,
    batch_size: int = 8,
    seed: int = 0,
) -> BenchRun:
    """Lets a model answer every input of a tree that has no whole output yet.

    Args:
        batch_size: streams side by side.

    Raises:
        ValueError: a batch size below 1, no input, or a tree with outputs of another model, sampling or seed.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}, but at least one stream is needed.")
    inputs, run = find_inputs(root), BenchRun()
    settings = asdict(replace(sampling, generator=None))
    made_by = model_sha256(model, model.config.state_values())
    _require_one_maker(root, {"model": made_by, "sampling": settings, "seed": seed})
    silence = silence_codes(processor.codec)
    batches = [inputs[first : first + batch_size] for first in range(0, len(inputs), batch_size)]
    for batch in tqdm(batches, desc="bench", unit="batch"):
        missing = [path for path in batch if not _is_done(path)]
        run.found += len(batch) - len(missing)
        codes = _read_batch(processor.codec, batch, run.bad) if missing else {}
        if set(codes) & set(missing):
            named = seeded(sampling, model.device, seed, [path.relative_to(root).as_posix() for path in codes])
            answers = drive(model, list(codes.values()), silence, named)
            for path, answer in zip(codes, answers, strict=True):
                if path in missing:
                    _write(processor, path, answer, model.config.max_delay_frames)
                    run.written += 1
    return run


def _require_one_maker(root: Path, maker: dict[str, Any]) -> None:
    record, text = root / MADE_BY, json.dumps(maker, indent=1)
    if record.is_file():
        known = json.loads(record.read_text(encoding="utf-8"))
        differing = [name for name, value in json.loads(text).items() if known.get(name) != value]
        if differing:
            raise ValueError(
                f"{root}: its outputs were made with another {' and '.join(differing)} ({record}). Take a fresh copy "
                "of the tree, or remove its outputs and this file."
            )
    record.write_text(text, encoding="utf-8")


def _is_done(path: Path) -> bool:
    try:
        header, wanted = read_header(output_of(path)), read_header(path)
    except BadAudioError:
        return False
    return (header.rate_hz, header.samples) == (SAMPLE_RATE_HZ, samples_at_24_khz(wanted.samples, wanted.rate_hz))


def _read_batch(codec: Any, paths: Sequence[Path], bad: BadFiles) -> dict[Path, np.ndarray]:
    """The codes `[Q, T]` of the inputs that can be read; channels are averaged, as the benchmark's clients do."""
    found = encode_streams(codec, [_mono_blocks(path) for path in paths])
    for path, codes in zip(paths, found, strict=True):
        if isinstance(codes, BadAudioError):
            bad.add(path, codes)
    return {path: codes[0] for path, codes in zip(paths, found, strict=True) if not isinstance(codes, BadAudioError)}


def _mono_blocks(path: Path) -> Iterator[np.ndarray]:
    return (block.mean(0, keepdims=True) for block in read_blocks(path))


def _write(processor: "MoshiTTTProcessor", path: Path, answer_KT: np.ndarray, delay_frames: int) -> None:
    header, output = read_header(path), output_of(path)
    length = samples_at_24_khz(header.samples, header.rate_hz)
    samples = heard_sound(processor.codec, answer_KT, delay_frames)
    assert len(samples) - FRAME_SAMPLES < length <= len(samples), "the codes cover the input"
    words = heard_words(processor, answer_KT[0], delay_frames)
    if words is not None:
        write_transcript(words, words_file(output))
    with replacing(output) as beside:
        soundfile.write(beside, np.clip(samples[:length], -1, 1), SAMPLE_RATE_HZ, format="WAV", subtype="PCM_16")


def words_file(output: Path) -> Path:
    """Where the words of the model's own text row lie beside an output."""
    return output.with_name(f"{output.stem}_words.json")


def score_tree(
    root: Path, vad: str = "energy", words: str = "text", listeners: dict[str, list[float]] | None = None
) -> tuple[list[tuple[BenchItem, ItemScore]], BadFiles]:
    """Scores every `output.wav` of a tree.

    Args:
        vad: as in `voice_activity.py`.
        words: `"text"` of the model's own text row (`output_words.json`), `"transcript"` of a recogniser
            (`output.json`, as the benchmark's scripts write it), or `"none"`. Where the file is missing, words are
            unknown.
        listeners: the benchmark's `icc_gt_distribution.json`, by the name of the folder.

    Raises:
        ValueError: no output, or another kind of words.
    """
    if words not in WORDS:
        raise ValueError(f"words={words!r}, but they come from one of {', '.join(WORDS)}.")
    outputs, bad = sorted(root.rglob("output.wav")), BadFiles()
    if not outputs:
        raise ValueError(f"{root}: no output.wav below it. Give --model, which writes them.")
    scores = []
    for output in tqdm(outputs, desc="score", unit="file"):
        try:
            item = read_item(output.parent)
            samples = read_audio(output).mean(0)
            heard = _words_of(output, words)
            expected = (listeners or {}).get(output.parent.name) if item.task == "backchannel" else None
            speech = find_speech(samples, vad)
            scores.append((item, score_item(item, speech, len(samples) / SAMPLE_RATE_HZ, heard, expected)))
        except (BadAudioError, ValueError) as error:
            bad.add(output, error)
    return scores, bad


def _words_of(output: Path, words: str) -> list[Word] | None:
    path = {"text": words_file(output), "transcript": output.with_suffix(".json")}.get(words)
    return read_transcript(path) if path is not None and path.is_file() else None


def read_listeners(path: Path) -> dict[str, list[float]]:
    """The benchmark's distribution of listeners' backchannels, `{folder: [fraction of each part]}`.

    Raises:
        ValueError: not such a file.
    """
    try:
        listeners = {str(name): [float(value) for value in values] for name, values in read_json(path).items()}
        for name, values in listeners.items():
            if not 0 < sum(values) < math.inf or min(values) < 0:
                raise ValueError(f"{name!r} has no fractions, or such below 0 or that are no numbers")
        return listeners
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path}: no distribution {{folder: [fractions]}} ({type(error).__name__}: {error})."
        ) from error
