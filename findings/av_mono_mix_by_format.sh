#!/bin/sh
# Guess: PyAV's AudioResampler mixes stereo to mono by the same factors whatever sample format is asked for, so that a
#   voice that is in both channels keeps its level.
# Is: with integer samples the factors are 0.5, with floating-point ones 0.707: 0.8 in both channels is 1.13, beyond full
#   scale, and 3 dB louder than the same file read as int16. From mono to stereo each channel gets 0.707.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
${PYTHON:-python3} -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$folder/site" \
    av==18.1.0 numpy==2.4.6
PYTHONPATH="$folder/site" ${PYTHON:-python3} - << 'PROGRAM'
import sys

import av
import numpy as np

FULL_SCALE = {"s16p": 2**15, "s32p": 2**31, "fltp": 1, "dblp": 1}


def level(layout: str, wanted: str, sample_format: str) -> float:
    """What 0.8 in every channel becomes."""
    samples = np.full((1 if layout == "mono" else 2, 4_800), 0.8, np.float32)
    frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=layout)
    frame.rate = 24_000
    resampler = av.AudioResampler(sample_format, wanted, 24_000)
    parts = [part.to_ndarray() for part in [*resampler.resample(frame), *resampler.resample(None)]]
    return round(float(np.concatenate(parts, axis=1)[0, 2_000]) / FULL_SCALE[sample_format], 3)


to_mono = {name: level("stereo", "mono", name) for name in FULL_SCALE}
to_stereo = {name: level("mono", "stereo", name) for name in FULL_SCALE}
print(f"av {av.__version__}: 0.8 in both channels is in mono {to_mono}")
print(f"0.8 in mono is in each of two channels {to_stereo}")
expected = {"s16p": 0.8, "s32p": 0.8, "fltp": 1.131, "dblp": 1.131}
sys.exit(to_mono != expected or set(to_stereo.values()) != {0.566})
PROGRAM
