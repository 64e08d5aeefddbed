"""Recordings encoded a second time in another form: off the frame grid, with noise, at another pitch and rate.

A recording is changed as sound, whole, and encoded whole, so every frame of the second form has its own surroundings
behind it, as it would if it were heard in that form; nothing begins or ends where a passage is cut later on. A form is
written as changes joined by "+":

- `same`: no change.
- `phase_X`: the first X of a frame is left out, 0 < X < 1, so every sound lies elsewhere on the codec's grid of frames.
- `noise_Ndb`: white noise, N dB below the recording's mean power.
- `rate_X`: resampled, so that pitch, vocal tract and rate are X times the recording's, as those of the demo's speakers.

The file is safetensors: `original.N` and `FORM.N`, int16 `[8, T]`, for recording N; its metadata is `VariantsOrigin`.
"""

import json
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import soxr
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm.auto import tqdm

from ..codec.audio import BLOCK_FRAMES, FRAME_SAMPLES, SAMPLE_RATE_HZ, BadAudioError, read_audio
from ..codec.hub_files import lasting_name
from ..codec.pretrained_codec import codec_sha256, load_codec
from ..codec.samples import with_white_noise
from ..whole_files import replacing
from .codes import encode_streams

ORIGINAL = "original"
_FORM = re.compile(r"same|phase_(?P<phase>0?\.\d+)|noise_(?P<noise>\d+)db|rate_(?P<rate>\d*\.?\d+)")
_RATES = (0.5, 2.0)
_PACKAGES = ("hf_moshi_ttt", "torch", "soundfile", "soxr")


@dataclass(frozen=True)
class VariantsOrigin:
    """Where a file of variants comes from.

    Args:
        paths: of the recordings, as given, in the order of their numbers; `durations_sec` how long they are.
        codec: as `Provenance` has it, with its hash and number of ids.
        versions: of the packages that took part.
    """

    forms: list[str]
    paths: list[str]
    durations_sec: list[float]
    codec: str
    codec_sha256: str
    codebook_size: int
    seed: int
    versions: dict[str, str]


@dataclass(frozen=True)
class Form:
    """A way to change a recording: `phase` in frames, `snr_db`, and `rate` relative to the recording's."""

    phase: float = 0.0
    snr_db: float | None = None
    rate: float = 1.0

    @classmethod
    def parse(cls, text: str) -> "Form":
        """A form by its name.

        Raises:
            ValueError: an unknown change, one that is named twice, or a value out of bounds.
        """
        values: dict[str, float] = {}
        for part in text.split("+"):
            found = _FORM.fullmatch(part)
            if found is None:
                raise ValueError(
                    f"form {text!r}: {part!r} is not known; allowed are same, phase_X (0 < X < 1, such as phase_0.5), "
                    "noise_Ndb and rate_X, joined by +."
                )
            for name, value in found.groupdict().items():
                if value is not None and name in values:
                    raise ValueError(f"form {text!r} has two changes of {name}; give one.")
                if value is not None:
                    values[name] = float(value)
        phase, rate = values.get("phase", 0.0), values.get("rate", 1.0)
        if ("phase" in values and phase == 0) or not _RATES[0] <= rate <= _RATES[1]:
            low, high = _RATES
            raise ValueError(f"form {text!r}: phases are above 0 and below 1, rates {low} to {high}.")
        return cls(phase, values.get("noise"), rate)

    def changed(self, samples_S: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
        """A recording `[S]` at 24,000 Hz in this form, as long as it then is."""
        samples_S = samples_S[round(self.phase * FRAME_SAMPLES) :]
        if self.rate != 1.0:
            samples_S = soxr.resample(samples_S, SAMPLE_RATE_HZ * self.rate, SAMPLE_RATE_HZ)
        return samples_S if self.snr_db is None else with_white_noise(samples_S, self.snr_db, seed)

    def frame_of(self, frame: int) -> int:
        """The frame of this form that begins nearest to the beginning of the recording's own frame."""
        return max(0, int(np.floor((frame - self.phase) / self.rate + 0.5)))


def make_variants(
    paths: Sequence[str | Path], codec_name: str, output: Path, forms: Sequence[str], seed: int = 0
) -> VariantsOrigin:
    """Encodes recordings as they are and in every form, and writes the file.

    Args:
        paths: mono recordings, or of several channels, which are mixed.
        seed: of the noise.

    Raises:
        ValueError: no recording, an unknown form, or a form that is named twice.
        BadAudioError: a recording that cannot be read.
    """
    parsed = {name: Form.parse(name) for name in forms}
    if not paths or not parsed or len(parsed) < len(forms):
        raise ValueError(f"{len(paths)} recordings and forms={list(forms)}: give one or more of each, every form once.")
    codec = load_codec(codec_name)
    tensors: dict[str, Tensor] = {}
    durations_sec = []
    for number, path in enumerate(tqdm(paths, unit="recording")):
        samples_S = read_audio(path).mean(axis=0)
        durations_sec.append(len(samples_S) / SAMPLE_RATE_HZ)
        tensors[f"{ORIGINAL}.{number}"] = _encoded(codec, samples_S, str(path))
        for name, form in parsed.items():
            noise_seed = zlib.crc32(f"{seed}/{number}/{name}".encode())
            tensors[f"{name}.{number}"] = _encoded(codec, form.changed(samples_S, noise_seed), str(path))
    origin = VariantsOrigin(
        list(forms), [str(path) for path in paths], durations_sec, lasting_name(codec_name), codec_sha256(codec),
        codec.config.codebook_size, seed, {name: version(name) for name in _PACKAGES},
    )  # fmt: skip
    output.parent.mkdir(parents=True, exist_ok=True)
    with replacing(output) as beside:
        save_file(tensors, beside, metadata={"origin": json.dumps(asdict(origin))})
    return origin


def load_variants(path: str | Path) -> tuple[dict[str, list[Tensor]], VariantsOrigin]:
    """The codes int16 `[8, T]` of every recording, by form, `ORIGINAL` among them, and where they come from.

    Raises:
        ValueError: no file of variants, or one that is not whole.
    """
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such file; hf-moshi-ttt make-variants writes one.")
    try:
        return _read_variants(path)
    except (SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: damaged or no file of variants ({error}). Make it again.") from error


def _read_variants(path: str | Path) -> tuple[dict[str, list[Tensor]], VariantsOrigin]:
    with safe_open(path, "pt") as file:
        text = (file.metadata() or {}).get("origin")
        if text is None:
            raise ValueError(f"{path}: no variants; hf-moshi-ttt make-variants writes them.")
        values = json.loads(text)
        if set(values) != {field.name for field in fields(VariantsOrigin)}:
            raise ValueError(f"{path}: keys {sorted(values)}; was it written by another version? Make it again.")
        origin = VariantsOrigin(**values)
        names = [ORIGINAL, *origin.forms]
        return {name: [file.get_tensor(f"{name}.{n}") for n in range(len(origin.paths))] for name in names}, origin


def _encoded(codec: Any, samples_S: NDArray[np.float32], name: str) -> Tensor:
    (codes_CQT,) = encode_streams(codec, [_blocks(samples_S)])
    if isinstance(codes_CQT, BadAudioError):
        raise BadAudioError(f"{name}: {codes_CQT}")
    return torch.from_numpy(codes_CQT[0].copy())


def _blocks(samples_S: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    step = BLOCK_FRAMES * FRAME_SAMPLES
    for start in range(0, len(samples_S), step):
        yield samples_S[None, start : start + step]
