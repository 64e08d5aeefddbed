"""Audio encoded once: recordings as rows of int16 codes in an Arrow dataset on disk or in parquet on the Hub.

A row of the dataset is a recording: `codes` `[K, T]` with K = 8 (mono: one speaker's codebooks) or K = 17 (text,
Moshi's and the user's codebooks), its `frames` T, and where it comes from: `path`, `start_sec`, `duration_sec`,
`source_sha256`. Beside it is `provenance.json`: the codec, the tokenizer, the codes of digital silence, and the files
that were left out. `encoding.py` makes such datasets.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, Features, IterableDataset, Value, load_dataset, load_from_disk
from datasets import List as ListFeature
from huggingface_hub import HfApi, hf_hub_download

from ..codec.audio import FRAME_RATE_HZ, FRAME_SAMPLES, SAMPLE_RATE_HZ, BadAudioError
from ..codec.hub_files import expand_home
from .mixture import mix

NUM_CODEBOOKS = 8
PROVENANCE_FILE = "provenance.json"
FEATURES = Features(
    {
        "codes": ListFeature(ListFeature(Value("int16"))),
        "frames": Value("int32"),
        "path": Value("string"),
        "start_sec": Value("float64"),
        "duration_sec": Value("float64"),
        "speaker": Value("string"),
        "book": Value("string"),
        "source_sha256": Value("string"),
    }
)
_AGAIN = "Take another copy, or encode again with hf-moshi-ttt prepare."
_SILENCE_SEC = 20  # Mimi looks back 10 s


@dataclass
class Provenance:
    """Where codes come from.

    Args:
        codec: name or path as given; `codec_type` its transformers model type.
        silence_codes: `[8]`, one frame of digital silence, far from its start.
        text_tokenizer: path as given, or None for audio without words.
        tokens_beyond_end: text tokens that did not fit into their recordings.
        left_out: path -> reason.
        frame_rate_hz: frames per second of the codes.
        codec_sha256: hash of the codec's weights; `tokenizer_sha256` of the tokenizer's file.
        versions: of the packages that took part.
        source: the index as given.
        fingerprint: hash of all that the codes depend on: files, parts, words, codec and tokenizer.
    """

    codec: str
    codec_type: str
    codebook_size: int
    silence_codes: list[int]
    text_tokenizer: str | None
    tokens_beyond_end: int
    left_out: dict[str, str]
    frame_rate_hz: float = FRAME_RATE_HZ
    codec_sha256: str | None = None
    tokenizer_sha256: str | None = None
    versions: dict[str, str] = field(default_factory=dict)
    source: str | None = None
    fingerprint: str | None = None

    def save(self, folder: str | Path) -> None:
        """Writes provenance.json."""
        text = json.dumps(asdict(self), indent=1, ensure_ascii=False)
        Path(folder, PROVENANCE_FILE).write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> "Provenance":
        """Reads a provenance.json.

        Raises:
            ValueError: no whole JSON object, or unknown or missing keys.
        """
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path}: no whole JSON ({error}). {_AGAIN}") from error
        if not isinstance(values, dict):
            raise ValueError(f"{path}: expected an object, got {type(values).__name__}. {_AGAIN}")
        known = {item.name for item in fields(cls)}
        if set(values) - known:
            raise ValueError(f"{path}: unknown keys {sorted(set(values) - known)}; was it written by a newer version?")
        try:
            return cls(**values)
        except TypeError as error:
            raise ValueError(f"{path}: {error}.") from error


def encode_waveform(codec: Any, samples_CS: np.ndarray) -> np.ndarray:
    """Codes of each channel, int16 `[C, 8, T]` with T = ceil(S / 1920)."""
    (codes,) = encode_streams(codec, [iter([samples_CS])])
    if isinstance(codes, BadAudioError):
        raise codes
    return codes


@torch.no_grad()
def encode_streams(codec: Any, streams: Sequence[Iterator[np.ndarray]]) -> list[np.ndarray | BadAudioError]:
    """Codes int16 `[C, 8, T]` of recordings that come in blocks `[C, S]`, all of them encoded side by side.

    The codec's state is carried from block to block, so memory does not grow with length and the codes are those of the
    whole. All blocks but a stream's last must have the same whole number of frames. A stream that raises
    `BadAudioError` gives that error in place of its codes.
    """
    readers = [_StreamReader(stream) for stream in streams]
    caches: dict[str, Any] = {"encoder_cache": None, "padding_cache": None}
    while True:
        blocks = [reader.next_block() for reader in readers]
        if all(reader.is_done for reader in readers):
            return [reader.result() for reader in readers]
        length = max(block.shape[1] for block in blocks)
        length += -length % FRAME_SAMPLES
        padded = np.concatenate([np.pad(block, ((0, 0), (0, length - block.shape[1]))) for block in blocks])
        values = torch.from_numpy(padded)[:, None].to(codec.device)
        output = codec.encode(values, num_quantizers=NUM_CODEBOOKS, use_streaming=True, **caches)
        caches = {"encoder_cache": output.encoder_cache, "padding_cache": output.padding_cache}
        codes = output.audio_codes.cpu().numpy().astype(np.int16)
        edges = np.cumsum([len(block) for block in blocks])[:-1]
        for reader, part in zip(readers, np.split(codes, edges), strict=True):
            reader.keep(part)


class _StreamReader:
    """One recording of several that are encoded side by side; it gives silence once it has ended."""

    def __init__(self, stream: Iterator[np.ndarray]) -> None:
        self.stream = stream
        self.channels = 1
        self.frames = 0
        self.is_done = False
        self.error: BadAudioError | None = None
        self.codes: list[np.ndarray] = []

    def next_block(self) -> np.ndarray:
        """The next samples `[C, S]`, or none of them as `[C, 0]`."""
        try:
            block = next(self.stream, None)
        except BadAudioError as error:
            self.error, block = error, None
        if block is None:
            self.is_done, self.stream = True, iter(())
            return np.zeros((self.channels, 0), np.float32)
        self.channels = len(block)
        self.frames += -(-block.shape[1] // FRAME_SAMPLES)
        return block

    def keep(self, codes_CQT: np.ndarray) -> None:
        """Takes the codes of the last block, those of padding included."""
        if not self.is_done:
            self.codes.append(codes_CQT)

    def result(self) -> np.ndarray | BadAudioError:
        """Codes `[C, 8, T]` without those of padding."""
        if self.error is None and not self.codes:
            self.error = BadAudioError("holds no samples")
        return self.error or np.concatenate(self.codes, axis=2)[:, :, : self.frames]


@torch.no_grad()
def decode_codes(codec: Any, codes_QT: np.ndarray) -> np.ndarray:
    """Samples `[S]` of one speaker's codes `[8, T]`."""
    codes = torch.from_numpy(codes_QT.astype(np.int64))[None].to(codec.device)
    return codec.decode(codes).audio_values[0, 0].float().cpu().numpy()


def silence_codes(codec: Any) -> list[int]:
    """The codes of digital silence, `[8]`: the last frame of 20 seconds of zeros."""
    silence = np.zeros((1, _SILENCE_SEC * SAMPLE_RATE_HZ), dtype=np.float32)
    return encode_waveform(codec, silence)[0, :, -1].tolist()


def load_codes(
    source: str | Path | Mapping[str, float], streaming: bool = False, seed: int = 0
) -> tuple[Any, Provenance]:
    """A dataset of codes (its rows give numpy arrays) and where they come from.

    Seconds are float64 in a single row and float32 where several are read at once; `with_format(None)` gives floats.

    Args:
        source: a folder, a dataset repository on the Hub (`user/name`), or a mixture `{source: fraction of the time}`.
        streaming: whether the rows are fetched from the Hub as they are read (an `IterableDataset`).
        seed: of a mixture's draws.

    Raises:
        ValueError: `source` holds none, or damaged ones, or is a mixture of different codecs or tokenizers.
    """
    if isinstance(source, Mapping):
        return _load_mixture({expand_home(name): weight for name, weight in source.items()}, seed)
    source = expand_home(source)
    if Path(source, PROVENANCE_FILE).is_file():
        provenance = Provenance.load(Path(source, PROVENANCE_FILE))
        dataset: Dataset | IterableDataset = _on_disk(str(source))
        return (dataset.to_iterable_dataset() if streaming else dataset).with_format("numpy"), provenance
    if Path(source).exists() or str(source).count("/") != 1:
        raise ValueError(f"{source}: no encoded corpus. Make one with hf-moshi-ttt prepare.")
    try:
        path = hf_hub_download(str(source), PROVENANCE_FILE, repo_type="dataset")
    except OSError as error:
        raise ValueError(f"{source}: no encoded corpus there, nor on the Hub under this name ({error}).") from error
    return load_dataset(str(source), split="train", streaming=streaming).with_format("numpy"), Provenance.load(path)


def _on_disk(folder: str) -> Dataset:
    try:
        return load_from_disk(folder)
    except (OSError, ValueError) as error:  # ValueErrors are those of Arrow and of JSON
        raise ValueError(f"{folder}: damaged codes ({error}). {_AGAIN}") from error


def require_same_codec(first_name: str, first: Provenance, second_name: str, second: Provenance) -> None:
    """Raises a `ValueError` that names the difference where two corpora come from different codecs."""
    for key in ("codec_type", "codebook_size", "silence_codes", "codec_sha256", "frame_rate_hz"):
        if getattr(second, key) != getattr(first, key):
            raise ValueError(
                f"{first_name} and {second_name} do not go together: {key} is {getattr(first, key)!r} in the first and "
                f"{getattr(second, key)!r} in the second. Encode both with one codec (hf-moshi-ttt prepare)."
            )


def _load_mixture(sources: Mapping[str, float], seed: int) -> tuple[Dataset, Provenance]:
    parts = {source: load_codes(source) for source in sources}
    (first_name, (_, first)), *others = parts.items()
    for name, (_, provenance) in others:
        require_same_codec(first_name, first, name, provenance)
    tokenizers = {p.tokenizer_sha256: p.text_tokenizer for _, p in parts.values() if p.text_tokenizer is not None}
    if len(tokenizers) > 1:
        raise ValueError(f"{list(parts)} cannot be mixed: their text tokenizers {list(tokenizers.values())} differ.")
    ((tokenizer_sha256, text_tokenizer),) = tokenizers.items() or [(None, None)]
    columns = sorted(set.intersection(*(set(dataset.column_names) for dataset, _ in parts.values())))
    mixture = mix([dataset.select_columns(columns) for dataset, _ in parts.values()], list(sources.values()), seed)
    fingerprints = repr([(provenance.fingerprint, sources[name]) for name, (_, provenance) in parts.items()])
    values = {**asdict(first), "text_tokenizer": text_tokenizer, "tokenizer_sha256": tokenizer_sha256}
    values |= {
        "tokens_beyond_end": sum(provenance.tokens_beyond_end for _, provenance in parts.values()),
        "left_out": {path: reason for _, p in parts.values() for path, reason in p.left_out.items()},
        "source": json.dumps({str(source): weight for source, weight in sources.items()}),
        "fingerprint": hashlib.sha256(fingerprints.encode()).hexdigest(),
    }
    return mixture.with_format("numpy"), Provenance(**values)


def recordings_of(rows: Any) -> set[tuple[str, float]]:
    """What was encoded, by the hash of its file and where it starts there; nothing where the codes do not say."""
    if not {"source_sha256", "start_sec"} <= set(rows.column_names):
        return set()
    pairs = zip(rows["source_sha256"][:], rows["start_sec"][:], strict=True)
    return {(str(source), float(start_sec or 0)) for source, start_sec in pairs if source}


def data_fingerprint(codes: Any, provenance: Provenance) -> str:
    """A hash of what was encoded and how: equal for equal data in equal order, in any folder."""
    described = {**asdict(provenance), "versions": None, "source": None, "codec": None, "text_tokenizer": None}
    described["frames"] = [int(frames) for frames in codes["frames"][:]]
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def push_codes(folder: str | Path, repo_id: str, private: bool = False) -> None:
    """Publishes a folder of codes as parquet on the Hub; `load_codes(repo_id)` reads or streams it.

    Raises:
        ValueError: `folder` holds no codes.
    """
    dataset, _ = load_codes(folder)
    dataset.with_format(None).push_to_hub(repo_id, split="train", private=private)
    HfApi().upload_file(
        path_or_fileobj=Path(folder, PROVENANCE_FILE),
        path_in_repo=PROVENANCE_FILE,
        repo_id=repo_id,
        repo_type="dataset",
    )
