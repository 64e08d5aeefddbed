"""Configuration of the log-mel codec: its sizes, in the names of transformers' `MimiConfig` where that has them."""

from typing import ClassVar

from huggingface_hub.dataclasses import strict

from ..strict_config import StrictConfig


def require(condition: bool, found: str, allowed: str, remedy: str) -> None:
    """Raises ValueError that says what was found, what is allowed and the remedy."""
    if not condition:
        raise ValueError(f"{found}; allowed: {allowed}; {remedy}.")


@strict
class LogMelCodecConfig(StrictConfig):
    """Sizes of the codec; the names that Mimi's configuration has mean the same here.

    Args:
        sampling_rate: samples per second of the audio, in Hz.
        frame_rate: frames per second; must divide `sampling_rate`.
        subframes_per_frame: log-mel columns per frame; must divide the frame's samples.
        window_samples: length of the Hann window, which ends where its sub-frame ends; even, at least two sub-frames.
        num_mels: mel bands from 0 Hz to half the sampling rate.
        mel_floor: mel magnitudes below it read as silence. A full-scale sine has `window_samples / 4`.
        pca_dim: width of the centroids, at most `subframes_per_frame * num_mels`.
        num_quantizers: residual codebooks, coarse to fine.
        codebook_size: centroids per codebook.
        griffin_lim_iterations: rounds of phase search in `decode`; 0 keeps the random start phases.
        use_streaming: what `encode` does when its own `use_streaming` is None and no cache is given.

    Raises:
        ValueError: for an unknown keyword or a value out of bounds.
    """

    model_type: ClassVar[str] = "log_mel_codec"

    sampling_rate: int = 24_000
    frame_rate: float | int = 12.5
    subframes_per_frame: int = 8
    window_samples: int = 1024
    num_mels: int = 80
    mel_floor: float = 1e-3
    pca_dim: int = 96
    num_quantizers: int = 8
    codebook_size: int = 2048
    griffin_lim_iterations: int = 32
    use_streaming: bool = False

    def validate_bounds(self) -> None:
        """Raises ValueError for a value out of bounds."""
        self._check_frame_sizes()
        self._check_table_sizes()

    def _check_range(self, name: str, low: int, high: int, remedy: str) -> None:
        value = getattr(self, name)
        require(low <= value <= high, f"{name}={value}", f"{low} to {high}", remedy)

    def _check_frame_sizes(self) -> None:
        self._check_range("sampling_rate", 1, 1_000_000, "give it in Hz")
        divides = self.frame_rate > 0 and float(self.sampling_rate / self.frame_rate).is_integer()
        found = f"frame_rate={self.frame_rate}"
        require(divides, found, f"above 0, dividing sampling_rate={self.sampling_rate}", "12.5 divides 24000")
        divides = self.subframes_per_frame > 0 and self.frame_size % self.subframes_per_frame == 0
        found = f"subframes_per_frame={self.subframes_per_frame}"
        require(divides, found, f"divisors of the frame's {self.frame_size} samples", "8 divides 1920")
        fits = self.window_samples % 2 == 0 and 2 * self.subframe_samples <= self.window_samples <= 1 << 16
        found = f"window_samples={self.window_samples}"
        require(fits, found, f"even, {2 * self.subframe_samples} (two sub-frames) to 65536", "1024 suits speech")

    def _check_table_sizes(self) -> None:
        self._check_range("num_mels", 1, self.window_samples // 2, "lower it or raise window_samples")
        self._check_range("pca_dim", 1, self.feature_dim, "at most subframes_per_frame * num_mels")
        self._check_range("num_quantizers", 1, 64, "Mimi has 8 to 32")
        self._check_range("codebook_size", 2, 1 << 16, "Mimi has 2048")
        self._check_range("griffin_lim_iterations", 0, 1000, "32 suits speech")
        loudest = self.window_samples / 4
        fits = 0.0 < self.mel_floor < loudest
        require(fits, f"mel_floor={self.mel_floor}", f"above 0, below {loudest:g}", "0.001 suits 16-bit audio")

    @property
    def frame_size(self) -> int:
        """Samples per frame."""
        return int(self.sampling_rate / self.frame_rate)

    @property
    def subframe_samples(self) -> int:
        """Samples per sub-frame: the hop of the windows."""
        return self.frame_size // self.subframes_per_frame

    @property
    def context_samples(self) -> int:
        """Samples before a frame that its first window reaches back to."""
        return self.window_samples - self.subframe_samples

    @property
    def feature_dim(self) -> int:
        """Log-mel values per frame."""
        return self.subframes_per_frame * self.num_mels
