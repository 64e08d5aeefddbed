"""Audio encoded once: recordings as rows of int16 codes in an Arrow dataset on disk.

A row of the dataset is a recording: `codes` `[K, T]` with K = 8 (mono: one speaker's codebooks) or K = 17 (text,
Moshi's and the user's codebooks), its `frames` T, `path` and `duration_sec`. Beside it lies `provenance.json`: the
codec, the tokenizer, the codes of digital silence, and the files that were left out.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, Features, Value, load_from_disk
from datasets import List as ListFeature
from tqdm.auto import tqdm
from transformers import AutoModel

from .. import log_mel_codec  # noqa: F401  registers the codec with AutoModel
from ..audio import FRAME_SAMPLES, SAMPLE_RATE_HZ, BadAudioError, read_audio
from ..text_stream import build_text_row, load_text_tokenizer
from .manifests import MAIN_SPEAKER, BadFiles

NUM_CODEBOOKS = 8
_FEATURES = Features(
    {
        "codes": ListFeature(ListFeature(Value("int16"))),
        "frames": Value("int32"),
        "path": Value("string"),
        "duration_sec": Value("float64"),
    }
)


@dataclass
class Provenance:
    """Where codes come from.

    Args:
        codec: name or path as given; `codec_type` its transformers model type.
        silence_codes: `[8]`, one frame of digital silence, far from its start.
        text_tokenizer: path as given, or None for audio alone.
        tokens_beyond_end: text tokens that did not fit into their recordings.
        left_out: path -> reason.
    """

    codec: str
    codec_type: str
    codebook_size: int
    silence_codes: list[int]
    text_tokenizer: str | None
    tokens_beyond_end: int
    left_out: dict[str, str]


def load_codec(name_or_path: str, device: str = "cpu") -> Any:
    """A codec of Mimi's interface by name (`kyutai/mimi`) or path.

    Raises:
        ValueError: another sample rate or frame rate than Moshi's.
    """
    codec: Any = AutoModel.from_pretrained(name_or_path).to(device).eval()
    rates = (codec.config.sampling_rate, codec.config.frame_rate)
    if rates != (SAMPLE_RATE_HZ, SAMPLE_RATE_HZ / FRAME_SAMPLES):
        raise ValueError(f"{name_or_path}: (samples/s, frames/s) = {rates}, but Moshi needs (24000, 12.5).")
    return codec


@torch.no_grad()
def encode_waveform(codec: Any, samples_CS: np.ndarray) -> np.ndarray:
    """Codes of each channel, int16 `[C, 8, T]` with T = ceil(S / 1920)."""
    values = torch.from_numpy(samples_CS)[:, None].to(codec.device)
    codes = codec.encode(values, num_quantizers=NUM_CODEBOOKS).audio_codes
    return codes.cpu().numpy().astype(np.int16)


@torch.no_grad()
def decode_codes(codec: Any, codes_QT: np.ndarray) -> np.ndarray:
    """Samples `[S]` of one speaker's codes `[8, T]`."""
    codes = torch.from_numpy(codes_QT.astype(np.int64))[None].to(codec.device)
    return codec.decode(codes).audio_values[0, 0].float().cpu().numpy()


def silence_codes(codec: Any) -> list[int]:
    """The codes of digital silence, `[8]`: the last frame of two seconds of zeros."""
    return encode_waveform(codec, np.zeros((1, 2 * SAMPLE_RATE_HZ), dtype=np.float32))[0, :, -1].tolist()


def encode_corpus(
    corpus: Dataset, codec_name: str, output: str | Path, text_tokenizer: str | None = None, device: str = "cpu"
) -> Dataset:
    """Encodes every recording of a corpus and saves the codes; a corpus with `alignments` gets a text row.

    Args:
        text_tokenizer: path of a SentencePiece model; needed for a corpus with alignments.

    Raises:
        ValueError: no tokenizer where one is needed, or too many recordings that cannot be read.
    """
    if "alignments" in corpus.column_names and text_tokenizer is None:
        raise ValueError("A corpus with alignments needs text_tokenizer, the path of a SentencePiece model.")
    codec = load_codec(codec_name, device)
    encoder = _CorpusEncoder(codec, text_tokenizer)
    rows = list(encoder.rows(corpus))
    encoder.bad.require_few(len(corpus))
    dataset = Dataset.from_list(rows, features=_FEATURES)
    provenance = Provenance(
        codec=codec_name,
        codec_type=codec.config.model_type,
        codebook_size=codec.config.codebook_size,
        silence_codes=silence_codes(codec),
        text_tokenizer=text_tokenizer,
        tokens_beyond_end=encoder.tokens_beyond_end,
        left_out=encoder.bad.reasons,
    )
    dataset.save_to_disk(str(output))
    Path(output, "provenance.json").write_text(json.dumps(asdict(provenance), indent=1), encoding="utf-8")
    return dataset


class _CorpusEncoder:
    def __init__(self, codec: Any, text_tokenizer: str | None) -> None:
        self.codec = codec
        self.tokenizer: Any = load_text_tokenizer(text_tokenizer) if text_tokenizer else None
        self.bad = BadFiles()
        self.tokens_beyond_end = 0

    def rows(self, corpus: Dataset) -> Iterator[dict[str, Any]]:
        for item in tqdm(corpus, desc="encode", unit="file"):
            try:
                samples_CS = read_audio(item["path"])
                codes = self._conversation(item, samples_CS) if "alignments" in item else self._mono(samples_CS)
            except BadAudioError as error:
                self.bad.add(item["path"], error)
            else:
                duration_sec = samples_CS.shape[1] / SAMPLE_RATE_HZ
                yield {"codes": codes, "frames": codes.shape[1], "path": item["path"], "duration_sec": duration_sec}

    def _mono(self, samples_CS: np.ndarray) -> np.ndarray:
        return encode_waveform(self.codec, samples_CS.mean(0, keepdims=True))[0]

    def _conversation(self, item: dict[str, Any], samples_CS: np.ndarray) -> np.ndarray:
        if samples_CS.shape[0] != 2:
            raise BadAudioError(f"{item['path']}: {samples_CS.shape[0]} channels, but a conversation has 2.")
        own, user = encode_waveform(self.codec, samples_CS)
        words = [word for word in item["alignments"] if word["speaker"] == MAIN_SPEAKER]
        text = build_text_row(words, samples_CS.shape[1] / SAMPLE_RATE_HZ, self.tokenizer)
        self.tokens_beyond_end += text.tokens_beyond_end
        return np.concatenate([text.ids[None], own, user])


def load_codes(path: str | Path) -> tuple[Dataset, Provenance]:
    """A dataset of codes (its rows give numpy arrays) and where they come from.

    Raises:
        ValueError: `path` holds none.
    """
    if not Path(path, "provenance.json").is_file():
        raise ValueError(f"{path}: no encoded corpus. Make one with scripts/prepare_data.py.")
    provenance = Provenance(**json.loads(Path(path, "provenance.json").read_text(encoding="utf-8")))
    return load_from_disk(str(path)).with_format("numpy"), provenance
