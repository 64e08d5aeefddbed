"""The log-mel codec on streams: any whole frames in, as many out, each row of the batch at its own place.

Encoding gives the codes of `LogMelCodecModel.encode` on the whole recording. `LogMelCodecModel.decode` searches phases
over a whole recording and cannot stream, so decoding here is another algorithm: each sub-frame takes the phases of what
the sub-frames before it have left in its window, and improves them in a few rounds (real-time iterative spectrogram
inversion, Beauregard, Zhu and Wyse 2005). Its sound depends on no later code, nor on how a stream is cut into pieces.
It comes `delay_samples` late: only then have all windows that cover a sample been heard.

Axes: B batch, K codebooks, T frames, S samples, W window, F frequency bins, M mel bands.
"""

import torch
from torch import Tensor
from torch.nn import functional

from .log_mel_codec import LogMelCodecModel

_PHASE_ROUNDS = 4
# Where nothing was heard before, phases are those of a click in the middle of the window, which its edges do not mute.
_CLICK = 1e-6


class LogMelStream:
    """B streams of the log-mel codec.

    Args:
        codec: the codec; its tables are read, never written.
        batch_size: number of streams.
        num_quantizers: K, the coarsest codebooks, that are encoded.
    """

    def __init__(self, codec: LogMelCodecModel, batch_size: int, num_quantizers: int) -> None:
        self.codec, self.batch_size = codec, batch_size
        config, window_W = codec.config, codec.window
        self.frame_samples, self.delay_samples = config.frame_size, config.context_samples
        self._tables = codec.encoding_tables(num_quantizers)
        self._hop = config.subframe_samples
        self._filters_MF = torch.linalg.pinv(codec.mel_filters.double()).float()
        self._click_W = torch.zeros_like(window_W)
        self._click_W[config.window_samples // 2] = _CLICK
        self._earlier_W = _sum_of_later(window_W.square(), self._hop)
        self._all_W = self._earlier_W + window_W.square()
        self._context_BS = window_W.new_zeros(batch_size, config.context_samples)
        self._overlap_BW = window_W.new_zeros(batch_size, config.window_samples)

    def tensors(self) -> dict[str, Tensor]:
        """What the streams remember, by name, a row a stream; written in place by `encode`, `decode` and `reset`."""
        return {"encoder.context": self._context_BS, "decoder.overlap": self._overlap_BW}

    def reset(self, row: int) -> None:
        """Makes a row a fresh stream."""
        for tensor in self.tensors().values():
            tensor[row] = 0

    @torch.no_grad()
    def encode(self, samples_BS: Tensor, active_B: Tensor) -> Tensor:
        """Codes `[B, K, T]` int64 of the next whole frames; those of rows that are not active mean nothing.

        Args:
            samples_BS: float in [-1, 1], S a multiple of the frame's.
            active_B: bool, False for rows whose stream does not advance.
        """
        both_BS = torch.cat([self._context_BS, samples_BS.to(self._context_BS)], dim=1)
        self._context_BS.copy_(torch.where(active_B[:, None], both_BS[:, -self.delay_samples :], self._context_BS))
        return self.codec.codes_of_padded(both_BS, self._tables)

    @torch.no_grad()
    def decode(self, codes_BKT: Tensor, active_B: Tensor) -> Tensor:
        """Samples `[B, T * frame_samples]` float32, `delay_samples` late; rows that are not active are silent."""
        before_BW = self._overlap_BW.clone()
        codes_BKT = codes_BKT.masked_fill(~active_B[:, None, None], 0)
        pieces = [self._synthesize(codes_BKT[:, :, t : t + 1]) for t in range(codes_BKT.shape[2])]
        self._overlap_BW.copy_(torch.where(active_B[:, None], self._overlap_BW, before_BW))
        return torch.cat(pieces, dim=1) * active_B[:, None]

    def _synthesize(self, codes_BK1: Tensor) -> Tensor:
        """One frame, sub-frame by sub-frame."""
        mels_BNM = self.codec.log_mels_of_codes(codes_BK1).exp().unflatten(-1, (-1, self.codec.config.num_mels))[:, 0]
        magnitudes_BNF = (mels_BNM @ self._filters_MF).clamp(min=0.0)
        return torch.cat([self._next_hop(magnitudes_BF) for magnitudes_BF in magnitudes_BNF.unbind(1)], dim=1)

    def _next_hop(self, magnitudes_BF: Tensor) -> Tensor:
        """Adds one window to what overlaps, and takes away the hop that no later window reaches."""
        window_W, overlap_BW = self.codec.window, self._overlap_BW
        guess_BW = overlap_BW / self._earlier_W.clamp(min=1e-3) + self._click_W
        for _ in range(_PHASE_ROUNDS):
            spectrum_BF = torch.fft.rfft(guess_BW * window_W)
            phase_BF = spectrum_BF / spectrum_BF.abs().clamp(min=1e-16)
            added_BW = torch.fft.irfft(magnitudes_BF * phase_BF) * window_W
            guess_BW = (overlap_BW + added_BW) / self._all_W.clamp(min=1e-3)
        both_BW = overlap_BW + added_BW
        overlap_BW.copy_(functional.pad(both_BW[:, self._hop :], (0, self._hop)))
        return both_BW[:, : self._hop] / self._all_W[: self._hop]


def _sum_of_later(weights_W: Tensor, hop: int) -> Tensor:
    """`[W]`: at each sample the sum of the weights one, two, ... hops later."""
    total = torch.zeros_like(weights_W)
    for start in range(hop, len(weights_W), hop):
        total[: len(weights_W) - start] += weights_W[start:]
    return total
