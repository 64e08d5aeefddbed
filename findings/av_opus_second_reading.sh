#!/bin/sh
# Guess: after container.seek(0) a file is decoded again to the samples of the first time.
# Is: of Ogg Opus the second reading also has the encoder's delay, which the first leaves out: 312 samples more, so all
#   that follows is 6.5 ms late. WAV and FLAC are the same twice.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
${PYTHON:-python3} -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$folder/site" \
    av==18.1.0 soundfile==0.14.0 numpy==2.4.6
PYTHONPATH="$folder/site" ${PYTHON:-python3} - "$folder" << 'PROGRAM'
import sys

import av
import numpy as np
import soundfile

RATE_HZ, SAMPLES, CLICK = 48_000, 100_000, 50_000
samples = np.zeros(SAMPLES, np.float32)
samples[CLICK : CLICK + 480] = 0.5 * np.hanning(480)
found = {}
for name, container_format, subtype in (("wav", "WAV", "FLOAT"), ("flac", "FLAC", "PCM_16"), ("opus", "OGG", "OPUS")):
    path = f"{sys.argv[1]}/click.{name}"
    soundfile.write(path, samples, RATE_HZ, format=container_format, subtype=subtype)
    with av.open(path) as container:
        (stream,) = container.streams.audio
        first = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(stream)])
        container.seek(0)
        second = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(stream)])
    found[name] = [(len(samples), int(samples.argmax())) for samples in (first, second)]
    print(f"av {av.__version__}, {name}: samples and place of the peak, twice: {found[name]}")
is_same = all(found[name][0] == found[name][1] for name in ("wav", "flac"))
(count, peak), (count_again, peak_again) = found["opus"]
sys.exit(not (is_same and count == SAMPLES and count_again - count == peak_again - peak == 312))
PROGRAM
