#!/bin/sh
# Guess: sphn.read(path, sample_rate=24000) has what is heard at 1 s of a file at sample 24,000, as other resamplers do.
# Is: it comes late by the delay of the resampler's filter: 64 ms in a file at 8 kHz, 32 ms at 16 kHz, 11.7 ms at 44.1
#   kHz, and as much where reading starts in the middle.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
${PYTHON:-python3} -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$folder/site" \
    sphn==0.2.1 soundfile==0.14.0 soxr==1.1.0 numpy==2.4.6
PYTHONPATH="$folder/site" ${PYTHON:-python3} - "$folder/click.wav" << 'PROGRAM'
import sys
from importlib.metadata import version

import numpy as np
import soundfile
import soxr
import sphn

WANTED_HZ = 24_000
late, part_late, of_soxr = {}, {}, {}
for rate_hz in (8_000, 16_000, 24_000, 44_100, 48_000):
    samples = np.zeros(2 * rate_hz, np.float32)
    samples[rate_hz] = 0.9  # a click at 1 s
    soundfile.write(sys.argv[1], samples, rate_hz)
    whole = sphn.read(sys.argv[1], sample_rate=WANTED_HZ)[0][0]
    part = sphn.read(sys.argv[1], start_sec=0.5, duration_sec=1, sample_rate=WANTED_HZ)[0][0]
    late[rate_hz] = int(np.abs(whole).argmax()) - WANTED_HZ
    part_late[rate_hz] = int(np.abs(part).argmax()) - WANTED_HZ // 2
    of_soxr[rate_hz] = int(np.abs(soxr.resample(samples, rate_hz, WANTED_HZ)).argmax()) - WANTED_HZ
print(f"sphn {version('sphn')}: a click at 1 s is late by these samples at 24 kHz, by the file's rate: {late}")
print(f"the same from the middle on: {part_late}; soxr {soxr.__version__}: {of_soxr}")
expected = {8_000: 1536, 16_000: 768, 24_000: 0, 44_100: 280, 48_000: 256}
sys.exit(not (late == expected == part_late and not any(of_soxr.values())))
PROGRAM
