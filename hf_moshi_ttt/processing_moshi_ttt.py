"""`MoshiTTTProcessor`: waveforms and words to frames of codes, and back, with the model's own codec and tokenizer.

It needs only the model's config.json: the codec and the text tokenizer are loaded by the names in it, when they are
first used.

Axes: B batch, K streams, Q codebooks, T frames of 80 ms, S samples.
"""

import logging
import shutil
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
import torch
from transformers import BatchFeature, ProcessorMixin

from .checkpoints.repository import HUB_OPTIONS, Repository, read_config
from .codec.audio import SAMPLE_RATE_HZ, Frames, sec_from_frames, whole_frames
from .codec.hub_files import folder_or_repository, local_file
from .codec.pretrained_codec import codec_sha256, load_codec
from .codec.samples import float_samples, samples_and_rate
from .codec.stream_rows import text_row, user_rows
from .codec.text_stream import build_text_row, load_text_tokenizer, tokenizer_sha256
from .configuration_moshi_ttt import MoshiTTTConfig
from .data.word_times import main_speakers_words, within_audio

logger = logging.getLogger(__name__)

_SILENCE_SEC = 20  # Mimi looks back 10 s


class MoshiTTTProcessor(ProcessorMixin):
    """Audio in and out of a model's codes.

    Args:
        config: the model's configuration.
        hub: transformers' download options for the model's repository.
    """

    def __init__(self, config: MoshiTTTConfig, hub: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.config = config
        self.hub = hub or {}

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path: Any, **kwargs: Any
    ) -> "MoshiTTTProcessor":
        """The processor of a model, of any layout that the model loads from.

        Raises:
            ValueError: no checkpoint of Moshi.
            OSError: a name that cannot be reached.
        """
        hub = {key: kwargs[key] for key in HUB_OPTIONS if key in kwargs}
        config = kwargs.get("config") or read_config(Repository(str(pretrained_model_name_or_path), hub))
        config.name_or_path = folder_or_repository(pretrained_model_name_or_path)
        return cls(config, hub)

    def save_pretrained(self, save_directory: Any, **kwargs: Any) -> None:  # type: ignore[override]
        """Writes the configuration, where the folder has none, and the tokenizer's file."""
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "config.json").exists():
            self.config.save_pretrained(folder)
        if self.config.text_tokenizer is not None:
            source = self._tokenizer_file()
            if source.parent.resolve() != folder.resolve():
                shutil.copyfile(source, folder / source.name)

    def push_to_hub(self, *args: Any, **kwargs: Any) -> None:  # type: ignore[override]
        """Not needed: the model's `push_to_hub` uploads all that its processor is made of.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            "A processor has nothing of its own to upload: push the model, whose config.json it is made of."
        )

    @cached_property
    def codec(self) -> Any:
        """The codec, on the CPU; `processor.codec.to(device)` moves it.

        Raises:
            ValueError: no such codec, one of other rates than Moshi's, or another than the model was trained on.
            OSError: a name that cannot be reached.
        """
        if Path(self.config.codec).is_absolute() and not Path(self.config.codec).is_dir():
            raise ValueError(
                f"{self.config.codec}: the codec that the model was trained with is a folder, which is not on this "
                "machine. Copy it here, and set processor.config.codec to its path."
            )
        codec = load_codec(self.config.codec)
        self._require_hash("codec", self.config.codec_sha256, codec_sha256, codec)
        return codec

    def _require_hash(self, key: str, expected: str | None, sha256: Callable[[Any], str], part: Any) -> None:
        if expected is not None and (found := sha256(part)) != expected:
            raise ValueError(
                f"{getattr(self.config, key)}: not the {key} that the model was trained on (sha256 {found[:8]}, but "
                f"config.json has {key}_sha256={expected[:8]}...). Put that one there, or its path into config.json."
            )

    @cached_property
    def tokenizer(self) -> sentencepiece.SentencePieceProcessor:
        """The text tokenizer.

        Raises:
            ValueError: the model has none, or another than it was trained on.
        """
        path = self._tokenizer_file()
        self._require_hash("text_tokenizer", self.config.text_tokenizer_sha256, tokenizer_sha256, path)
        return load_text_tokenizer(path)

    def _tokenizer_file(self) -> Path:
        if self.config.text_tokenizer is None:
            raise ValueError("The model was trained on audio alone: its configuration names no text_tokenizer.")
        return local_file(self.config.text_tokenizer, self.config.name_or_path or None, self.hub)

    def __call__(
        self,
        audio: Any,
        sampling_rate: int = SAMPLE_RATE_HZ,
        user_audio: Any = None,
        words: Sequence[dict[str, Any]] | None = None,
    ) -> BatchFeature:
        """`codes` `[1, K, T]` int64 of one recording, T = ceil(S / 1920).

        Args:
            audio: `[S]` samples of Moshi's voice, floats in [-1, 1] or int16 or int32, which are scaled; or a value of
                a dataset's audio column, which brings its rate. An unfinished last frame is filled with silence, as in
                corpora.
            user_audio: `[S]` samples of the user's; without it the rows are those of mono recordings in training.
            words: `{word, start_sec, end_sec}` of Moshi's voice in any order; without them the text row is that of
                audio-only recordings. A few that start after the audio's end are left out with a warning.

        Raises:
            ValueError: another rate, more than one channel, channels of different lengths, samples of another type or
                scale, or words of another form, before the audio's start or, too many of them, after its end.
        """
        own = self._encode(audio, sampling_rate)
        if user_audio is None:
            user = user_rows(self.config, own, self._silence_if_needed())
        else:
            user = self._encode(user_audio, sampling_rate)
        if user.shape != own.shape:
            raise ValueError(f"audio has {own.shape[1]} frames, but user_audio {user.shape[1]}.")
        text = text_row(self.config, own.shape[1])
        if words is not None:
            text = self._text_row(words, Frames(own.shape[1]))
        return BatchFeature({"codes": torch.from_numpy(np.concatenate([text, own, user]))[None]})

    def _text_row(self, words: Sequence[dict[str, Any]], frames: Frames) -> np.ndarray:
        times = within_audio("words", main_speakers_words(words), sec_from_frames(frames))
        if times.beyond_end:
            logger.warning("words: %d left out, e.g. %s", len(times.beyond_end), times.beyond_end[0])
        return build_text_row(times.words, frames, self.tokenizer).ids[None].astype(np.int64)

    def _encode(self, audio: Any, sampling_rate: int = SAMPLE_RATE_HZ) -> np.ndarray:
        given, rate_hz = samples_and_rate(audio, sampling_rate)
        if rate_hz != SAMPLE_RATE_HZ:
            raise ValueError(f"sampling_rate={rate_hz}, but the codec takes {SAMPLE_RATE_HZ} Hz: resample first.")
        samples = float_samples(given)
        if samples.ndim != 1 or samples.size == 0:
            raise ValueError(f"audio must be one channel of samples [S]; got shape {list(samples.shape)}.")
        values = torch.from_numpy(whole_frames(samples))[None, None].to(self.codec.device)
        with torch.no_grad():
            codes = self.codec.encode(values, num_quantizers=self.config.num_codebooks).audio_codes[0]
        return codes.cpu().numpy()

    def _silence_if_needed(self) -> list[int] | None:
        return self.silence_codes() if self.config.user_stream == "silence" else None

    def silence_codes(self) -> list[int]:
        """`[Q]`, one frame of digital silence."""
        return self._encode(np.zeros(_SILENCE_SEC * SAMPLE_RATE_HZ, dtype=np.float32))[:, -1].tolist()

    def decode_audio(self, codes: torch.Tensor, user: bool = False) -> list[np.ndarray]:
        """Samples `[S]` of Moshi's (or the user's) voice for each row of `codes` `[B, K, T]`.

        Raises:
            ValueError: codes that are absent.
        """
        first = 1 + (self.config.num_codebooks if user else 0)
        rows = codes[:, first : first + self.config.num_codebooks].to(self.codec.device)
        if bool((rows < 0).any() or (rows >= self.config.codebook_size).any()):
            raise ValueError("Some of the codes are absent or initial tokens: there is no sound to decode there.")
        with torch.no_grad():
            return [self.codec.decode(row[None]).audio_values[0, 0].float().cpu().numpy() for row in rows]

    def decode_text(self, codes: torch.Tensor) -> list[str]:
        """What Moshi says in each row of `codes` `[B, K, T]`; PAD, EPAD and absent codes say nothing."""
        silent = {self.config.pad_token_id, self.config.end_pad_token_id}
        tokens = [[token for token in row if token >= 0 and token not in silent] for row in codes[:, 0].tolist()]
        return [self.tokenizer.decode(row) for row in tokens]
