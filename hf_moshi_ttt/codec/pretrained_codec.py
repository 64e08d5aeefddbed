"""A codec of Mimi's interface by its name or path, and the hash by which it is known."""

import hashlib
from typing import Any

import torch
from transformers import AutoModel

from .audio import FRAME_SAMPLES, SAMPLE_RATE_HZ
from .hub_files import folder_or_repository
from .log_mel_codec import LogMelCodecModel  # noqa: F401  registered with AutoModel


def load_codec(name_or_path: str, device: str = "cpu") -> Any:
    """A codec of Mimi's interface by name (`kyutai/mimi`) or path.

    Raises:
        ValueError: no such folder, or another sample rate or frame rate than Moshi's.
        OSError: a name that cannot be reached.
    """
    codec: Any = AutoModel.from_pretrained(folder_or_repository(name_or_path)).to(device).eval()
    rates = (codec.config.sampling_rate, codec.config.frame_rate)
    if rates != (SAMPLE_RATE_HZ, SAMPLE_RATE_HZ / FRAME_SAMPLES):
        raise ValueError(f"{name_or_path}: (samples/s, frames/s) = {rates}, but Moshi needs (24000, 12.5).")
    return codec


def codec_sha256(codec: Any) -> str:
    """A hash of a codec's weights, whatever their names and wherever they were loaded from."""
    tensors = (tensor.detach().cpu().contiguous().flatten() for tensor in codec.state_dict().values())
    hashes = sorted(hashlib.sha256(tensor.view(torch.uint8).numpy()).hexdigest() for tensor in tensors)
    return hashlib.sha256("".join(hashes).encode()).hexdigest()
