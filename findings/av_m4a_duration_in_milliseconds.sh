#!/bin/sh
# Guess: the duration of an M4A file's stream, in units of 1 / rate, is the number of samples that were encoded.
# Is: it comes from the edit list, whose clock ticks in milliseconds: 99,975 of 100,000 samples at 44.1 kHz, and decoding
#   gives 100,352, whole packets. Neither is the number that was written.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
${PYTHON:-python3} -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$folder/site" \
    av==18.1.0 numpy==2.4.6
PYTHONPATH="$folder/site" ${PYTHON:-python3} - "$folder/a.m4a" << 'PROGRAM'
import sys
from fractions import Fraction

import av
import numpy as np

RATE, SAMPLES = 44_100, 100_000
samples = (0.3 * np.sin(2 * np.pi * 440 * np.arange(SAMPLES) / RATE)).astype(np.float32)[None]
with av.open(sys.argv[1], "w", format="ipod") as container:
    stream = container.add_stream("aac", rate=RATE, layout="mono")
    stream.codec_context.open()
    cut = av.AudioResampler("fltp", "mono", RATE, frame_size=stream.codec_context.frame_size)
    frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
    frame.rate, frame.pts, frame.time_base = RATE, 0, Fraction(1, RATE)
    for piece in [*cut.resample(frame), *cut.resample(None)]:
        container.mux(stream.encode(piece))
    container.mux(stream.encode(None))
with av.open(sys.argv[1]) as container:
    (stream,) = container.streams.audio
    unit, duration = stream.time_base, stream.duration
    decoded = sum(frame.samples for frame in container.decode(stream))
print(f"av {av.__version__}: {SAMPLES} samples encoded, duration {duration} of {unit} s, {decoded} decoded")
sys.exit((unit, duration, decoded) != (Fraction(1, RATE), 99_975, 100_352))
PROGRAM
