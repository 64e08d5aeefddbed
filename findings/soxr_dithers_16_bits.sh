#!/bin/sh
# Guess: int16 samples are resampled as floats are, and rounded; in pieces or whole, silence stays silence.
# Is: noise (dither) is added before they are rounded, which no option turns off: a constant 7 gives 6, 7 and 8, at
#   equal rates too; silence has samples of 1; two in five samples of a stream in pieces differ from the whole. int32
#   and floats have none.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
${PYTHON:-python3} -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$folder/site" \
    soxr==1.1.0 numpy==2.4.6
PYTHONPATH="$folder/site" ${PYTHON:-python3} - << 'PROGRAM'
import sys

import numpy as np
import soxr


def middle(value: int, dtype: str, rate_hz: int = 24_000) -> list[float]:
    """The values that a second of one value at 48 kHz has after resampling, without the ends."""
    resampled = soxr.resample(np.full(48_000, value, dtype), 48_000, rate_hz)[2_000:-2_000]
    return np.unique(np.rint(resampled)).tolist()


def in_pieces(samples: np.ndarray) -> float:
    """The share of samples of a stream, fed 80 ms at a time, that differ from the whole."""
    stream = soxr.ResampleStream(48_000, 24_000, 1, dtype=samples.dtype)
    starts = range(0, len(samples), 3_840)
    pieces = [stream.resample_chunk(samples[s : s + 3_840], last=s == starts[-1]) for s in starts]
    return float((np.concatenate(pieces) != soxr.resample(samples, 48_000, 24_000)).mean())


tone = np.rint(3_000 * np.sin(np.arange(48_000) / 7)).astype(np.int16)
sevens, silence = middle(7, "int16"), middle(0, "int16")
others = [middle(7, "int16", 48_000), middle(7, "int32"), middle(7, "float32")]
shares = [in_pieces(tone), in_pieces(tone.astype(np.int32))]
print(f"soxr {soxr.__version__}: int16 of 7 gives {sevens}, of 0 {silence}; at the same rate {others[0]}; int32 gives "
      f"{others[1]}, float32 {others[2]}; differing in pieces: int16 {shares[0]:.0%}, int32 {shares[1]:.0%}")
sys.exit(not (sevens == others[0] == [6, 7, 8] and 1 in silence and others[1:] == [[7], [7]]
              and shares[0] > 0.2 and shares[1] == 0))
PROGRAM
