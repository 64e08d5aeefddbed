"""A corpus becomes codes: encoded once, by several processes, in bounded memory, and resumable after a kill.

The corpus is cut into shards of about an hour. Each becomes a file in datasets' cache, named by a hash of all that its
codes depend on, so a killed run continues with the missing shards, and an identical rebuild, also into another folder,
finds all of them. When all are there they are put together in the output folder in one step. Processes that torchrun
started share the shards out (`ranks.py`).
"""

import hashlib
import json
import platform
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from datasets import Dataset, Features, Value, concatenate_datasets
from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from ..codec.audio import BadAudioError, frames_from_sec, read_blocks
from ..codec.hub_files import lasting_name
from ..codec.pretrained_codec import codec_sha256, load_codec
from ..codec.text_stream import build_text_row, load_text_tokenizer, tokenizer_sha256
from .bad_files import MAX_BAD_FRACTION, BadFiles
from .codes import FEATURES, Provenance, encode_streams, load_codes, silence_codes
from .ranks import Rank, made_once, shared_out
from .word_times import MAIN_SPEAKER
from .workers import run_jobs

ENCODING_VERSION = 2
"""Part of every shard's name; raised when the same input gives other rows than before."""
SHARD_SEC = 3600.0
MOST_SHARDS = 2000
_GPU_BATCH = 16
_SHARD_FEATURES = Features(
    {**FEATURES, "place": Value("int64"), "tokens_beyond_end": Value("int64"), "error": Value("string")}
)
_PACKAGES = ("hf_moshi_ttt", "transformers", "torch", "datasets", "soundfile", "soxr")


@dataclass(frozen=True)
class EncodeOptions:
    """How a corpus is encoded; none of it changes the codes but `device`, whose rounding may.

    Args:
        device: None for a GPU where there is one; each process of torchrun takes its own.
        batch_size: recordings encoded side by side; None for 1 on a CPU and 16 on a GPU.
        cache_dir: where shards are kept, None for datasets' cache.
    """

    device: str | None = None
    num_proc: int = 1
    batch_size: int | None = None
    max_bad_fraction: float = MAX_BAD_FRACTION
    cache_dir: str | Path | None = None

    def chosen_device(self) -> str:
        """The device that is used."""
        if self.device or not torch.cuda.is_available():
            return self.device or "cpu"
        rank = Rank.of_this_process()
        return "cuda" if rank.count == 1 else f"cuda:{rank.local_index % torch.cuda.device_count()}"

    def chosen_batch_size(self) -> int:
        """The batch size that is used."""
        size = self.batch_size or (1 if self.chosen_device() == "cpu" else _GPU_BATCH)
        if size < 1:
            raise ValueError(f"batch_size={self.batch_size}, but it must be at least 1.")
        return size


def encode_corpus(
    corpus: Dataset,
    codec_name: str,
    output: str | Path,
    text_tokenizer: str | None = None,
    options: EncodeOptions | None = None,
    source: str | None = None,
    left_out: Mapping[str, str] | None = None,
) -> Dataset:
    """Encodes every row of a corpus and saves the codes; rows with `alignments` get a text row.

    Args:
        text_tokenizer: path of a SentencePiece model; needed for a corpus with alignments.
        source: what the provenance names as the source.
        left_out: files that `corpus` lacks, with their reasons; the provenance names them beside those that cannot be
            encoded.

    Raises:
        ValueError: a corpus that streams, no recordings, no tokenizer where one is needed, too many recordings that
            cannot be read, an output folder with other codes, or another process at work on the same.
    """
    options = options or EncodeOptions()
    if not isinstance(corpus, Dataset):
        raise ValueError(
            f"corpus is {type(corpus).__name__}, but it is cut into shards: load it without streaming, or take one "
            "split of a DatasetDict."
        )
    if len(corpus) == 0:
        raise ValueError("The corpus holds no recordings.")
    if Path(output).is_file():
        raise ValueError(f"{output}: a file, but the codes are written into a folder. Give another name.")
    if text_tokenizer is None and corpus.data.column("alignments").null_count < len(corpus.data):
        raise ValueError("A corpus with alignments needs text_tokenizer, the path of a SentencePiece model.")
    codec = load_codec(codec_name, options.chosen_device())
    recipe = _recipe(codec, text_tokenizer, options)
    shards = [(shard, _fingerprint(shard, recipe)) for shard in _shards(corpus)]
    whole = hashlib.sha256("".join(name for _, name in shards).encode()).hexdigest()
    if Path(output).exists() and any(Path(output).iterdir()):
        return _existing(output, whole)
    folder = Path(options.cache_dir or datasets.config.HF_DATASETS_CACHE) / "hf_moshi_ttt" / whole
    folder.mkdir(parents=True, exist_ok=True)
    rank = Rank.of_this_process()
    if rank.count > 1:
        _encode_shared_out(shards, folder, codec_name, text_tokenizer, options, rank)
    try:
        with FileLock(folder / ".lock", timeout=0 if rank.count == 1 else -1):
            if Path(output).exists() and any(Path(output).iterdir()):
                return _existing(output, whole)  # another rank was first
            rows, bad = _encode_shards(shards, folder, codec_name, text_tokenizer, options, len(corpus))
            provenance = Provenance(
                codec=lasting_name(codec_name),
                codec_type=codec.config.model_type,
                codebook_size=codec.config.codebook_size,
                silence_codes=silence_codes(codec),
                text_tokenizer=None if text_tokenizer is None else lasting_name(text_tokenizer),
                tokens_beyond_end=sum(rows["tokens_beyond_end"]),
                left_out={**(left_out or {}), **bad.reasons},
                frame_rate_hz=codec.config.frame_rate,
                codec_sha256=recipe["codec"],
                tokenizer_sha256=recipe["tokenizer"],
                versions={"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}},
                source=source,
                fingerprint=whole,
            )
            return _save(rows.select_columns(list(FEATURES)), provenance, Path(output))
    except Timeout as error:
        raise ValueError(f"Another process encodes the same corpus (lock {folder / '.lock'}).") from error


def _recipe(codec: Any, text_tokenizer: str | None, options: EncodeOptions) -> dict[str, Any]:
    """What the codes of every row depend on."""
    config = {key: value for key, value in codec.config.to_dict().items() if not key.startswith(("_", "transformers"))}
    return {
        "version": ENCODING_VERSION,
        "codec": codec_sha256(codec),
        "codec_config": config,
        "tokenizer": None if text_tokenizer is None else tokenizer_sha256(text_tokenizer),
        "device": torch.device(options.chosen_device()).type,
    }


def _shards(corpus: Dataset) -> list[Dataset]:
    """Consecutive pieces of about `SHARD_SEC`, at most `MOST_SHARDS`; `place` is a row's number in the corpus.

    They are without a format, in which times would be float32.
    """
    corpus = corpus.with_format(None).add_column("place", np.arange(len(corpus)))
    ends_sec = np.cumsum(corpus["duration_sec"][:])
    shard_sec = max(SHARD_SEC, float(ends_sec[-1]) / MOST_SHARDS)
    numbers = ((ends_sec - 1e-9) // shard_sec).astype(int)
    edges = [0, *(np.flatnonzero(np.diff(numbers)) + 1), len(corpus)]
    return [corpus.select(range(first, last)) for first, last in zip(edges[:-1], edges[1:], strict=True)]


def _fingerprint(shard: Dataset, recipe: dict[str, Any]) -> str:
    """A name for all that a shard's rows depend on; files count by size and time of their last change, or content."""
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True, default=str).encode())
    for row in shard:
        audio, path = row.pop("audio"), Path(row["path"])
        if audio.content is not None:
            stamp: Any = hashlib.sha256(audio.content).hexdigest()
        else:
            stamp = [path.stat().st_size, path.stat().st_mtime_ns] if path.is_file() else None
        digest.update(json.dumps([stamp, row], sort_keys=True).encode())
    return digest.hexdigest()


def _existing(output: str | Path, fingerprint: str) -> Dataset:
    """The dataset in `output` if it is the one asked for."""
    rows, provenance = load_codes(output)
    if provenance.fingerprint != fingerprint:
        raise ValueError(
            f"{output}: holds other codes (codec {provenance.codec}, source {provenance.source}). "
            "Delete the folder or give another."
        )
    return rows


def _encode_shards(
    shards: list[tuple[Dataset, str]],
    folder: Path,
    codec_name: str,
    text_tokenizer: str | None,
    options: EncodeOptions,
    total: int,
) -> tuple[Dataset, BadFiles]:
    """Encodes what the cache lacks and returns all good rows in the corpus's order."""
    for leftover in folder.glob("tmp*"):
        leftover.unlink()  # the unfinished shard of a killed run
    bad = BadFiles()
    files = [folder / f"{name}.arrow" for _, name in shards]
    for file in filter(Path.is_file, files):
        _count_bad(file, bad)
    missing = [(shard, name, file) for (shard, name), file in zip(shards, files, strict=True) if not file.is_file()]
    num_proc = min(options.num_proc, max(1, len(missing)))
    initargs = (codec_name, text_tokenizer, options)
    with tqdm(desc="encode", unit="shard", total=len(shards), initial=len(shards) - len(missing)) as bar:
        for file in run_jobs(_encode_shard, missing, num_proc, bar, _start, initargs):
            _count_bad(file, bad)
            bad.require_few(total, options.max_bad_fraction)
    bad.require_few(total, options.max_bad_fraction)
    rows = concatenate_datasets([Dataset.from_file(str(file)) for file in files])
    good = [index for index, error in enumerate(rows["error"]) if error is None]
    if not good:
        raise ValueError(f"None of {total} recordings can be encoded: {bad.reasons}")
    places = list(rows["place"])
    return rows.select(sorted(good, key=lambda index: places[index])), bad


def _encode_shared_out(
    shards: list[tuple[Dataset, str]],
    folder: Path,
    codec_name: str,
    text_tokenizer: str | None,
    options: EncodeOptions,
    rank: Rank,
) -> None:
    """Encodes what no other rank does, until the cache has all shards; bad files are counted when they are put
    together."""
    jobs = [(shard, name, folder / f"{name}.arrow") for shard, name in shards]
    initargs = (codec_name, text_tokenizer, options)
    with tqdm(desc=f"encode, rank {rank.index}", unit="shard") as bar:
        for _ in shared_out(
            jobs, rank, lambda some: run_jobs(_encode_shard_once, some, options.num_proc, bar, _start, initargs)
        ):
            pass


def _encode_shard_once(shard: Dataset, name: str, file: Path) -> None:
    made_once(file, lambda own: _encode_shard(shard, name, own))


def _count_bad(file: Path, bad: BadFiles) -> None:
    shard = Dataset.from_file(str(file)).select_columns(["path", "error"])
    for row in shard:
        if row["error"] is not None:
            bad.add(row["path"], row["error"])


def _save(rows: Dataset, provenance: Provenance, output: Path) -> Dataset:
    """Writes the output folder in one step."""
    partial = output.with_name(output.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    rows.save_to_disk(str(partial))
    provenance.save(partial)
    partial.replace(output)
    return load_codes(output)[0]


_WORKER: dict[str, Any] = {}


def _start(codec_name: str, text_tokenizer: str | None, options: EncodeOptions) -> None:
    """Loads what a process needs for all its shards."""
    if options.num_proc > 1:
        torch.set_num_threads(max(1, torch.get_num_threads() // options.num_proc))
        datasets.disable_progress_bars()
    tokenizer = load_text_tokenizer(text_tokenizer) if text_tokenizer else None
    codec = load_codec(codec_name, options.chosen_device())
    _WORKER["encoder"] = _RowEncoder(codec, tokenizer)
    _WORKER["batch_size"] = options.chosen_batch_size()


def _encode_shard(shard: Dataset, name: str, file: Path) -> Path:
    """Writes one shard of the cache; datasets moves it to its name when it is whole."""
    batch_size = _WORKER["batch_size"]
    if batch_size > 1:
        shard = shard.sort("duration_sec")  # so that recordings encoded side by side end together
    shard.map(
        _WORKER["encoder"].encode_batch,
        batched=True,
        batch_size=batch_size,
        remove_columns=shard.column_names,
        features=_SHARD_FEATURES,
        new_fingerprint=name,
        cache_file_name=str(file),
        writer_batch_size=8,
        desc="shard",
    )
    return file


class _RowEncoder:
    def __init__(self, codec: Any, tokenizer: Any) -> None:
        self.codec = codec
        self.tokenizer = tokenizer

    def encode_batch(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """Rows of a shard for rows of a corpus; one that cannot be read has an `error` and no codes."""
        rows = [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
        encoded = encode_streams(self.codec, [_channels_of(row) for row in rows])
        made = [self._row(row, codes) for row, codes in zip(rows, encoded, strict=True)]
        return {key: [row[key] for row in made] for key in _SHARD_FEATURES}

    def _row(self, row: dict[str, Any], codes_CQT: np.ndarray | BadAudioError) -> dict[str, Any]:
        kept = {key: row[key] for key in ("start_sec", "duration_sec", "speaker", "book", "place")}
        if isinstance(codes_CQT, BadAudioError):
            empty = {"codes": np.empty((0, 0), np.int16), "frames": 0, "source_sha256": None, "tokens_beyond_end": 0}
            return {**kept, **empty, "path": row["path"], "error": str(codes_CQT)}
        beyond = 0
        codes = codes_CQT[0]
        if row["alignments"] is not None:
            words = [word for word in row["alignments"] if word["speaker"] == MAIN_SPEAKER]
            labelled = frames_from_sec(row["labelled_until_sec"])
            text = build_text_row(words, codes_CQT.shape[2], self.tokenizer, labelled)
            codes, beyond = np.concatenate([text.ids[None], *codes_CQT]), text.tokens_beyond_end
        return {
            **kept,
            "codes": codes,
            "frames": codes.shape[1],
            "path": row["name"],
            "source_sha256": _sha256_of(row),
            "tokens_beyond_end": beyond,
            "error": None,
        }


def _channels_of(row: dict[str, Any]) -> Iterator[np.ndarray]:
    """Yields blocks of the channels that are encoded: Moshi's and the user's, or the mix of an audiobook's."""
    content = row["audio"].content
    for block_CS in read_blocks(row["path"] if content is None else content, row["start_sec"], row["duration_sec"]):
        if row["main_channel"] is None:
            if len(block_CS) > 2:
                raise BadAudioError(f"{row['path']}: {len(block_CS)} channels, but 1 or 2 are understood.")
            yield block_CS.mean(0, keepdims=True)
        elif len(block_CS) == 2:
            yield block_CS[[row["main_channel"], 1 - row["main_channel"]]]
        else:
            raise BadAudioError(f"{row['path']}: {len(block_CS)} channels, but a conversation has 2.")


def _sha256_of(row: dict[str, Any]) -> str:
    """The hash of a row's audio file, or of its content where the corpus holds it."""
    if row["audio"].content is not None:
        return hashlib.sha256(row["audio"].content).hexdigest()
    return _source_sha256(row["path"], Path(row["path"]).stat().st_mtime_ns)


@lru_cache(maxsize=64)
def _source_sha256(path: str, mtime_ns: int) -> str:
    """The hash of an audio file, which is asked for once for each of its windows."""
    return _file_sha256(path)


def _file_sha256(path: str | Path) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
