#!/bin/sh
# Guess: sphn's OpusStreamReader decodes a stream the same in one call as page by page, however long it is.
# Is: a call on more than 5 s of the writer's own stream fails, and so does every call after it.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
${PYTHON:-python3} -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$folder/site" \
    sphn==0.2.1 numpy==2.4.6
PYTHONPATH="$folder/site" ${PYTHON:-python3} - << 'PROGRAM'
import sys
from importlib.metadata import version

import numpy as np
import sphn


def decoded(frames: int, at_once: bool) -> list[int | str]:
    """Samples of some frames of 80 ms, and of the page after them, or the errors."""
    writer, reader = sphn.OpusStreamWriter(24_000), sphn.OpusStreamReader(24_000)
    pages = [writer.append_pcm(np.zeros(1920, dtype=np.float32)) for _ in range(frames + 1)]
    found: list[int | str] = []
    for parts in ([b"".join(pages[:-1])] if at_once else pages[:-1], pages[-1:]):
        try:
            found.append(sum(len(reader.append_bytes(part)) for part in parts))
        except ValueError as error:
            found.append(str(error))
    return found


found = {(frames, at_once): decoded(frames, at_once) for frames in (62, 63) for at_once in (False, True)}
for (frames, at_once), result in found.items():
    print(f"sphn {version('sphn')}: {frames * 0.08:.2f} s {'at once' if at_once else 'page by page'}: {result}")
error = "opus_decode_float: invalid argument"
sys.exit(list(found.values()) != [[119_040, 1920], [119_040, 1920], [120_960, 1920], [error, error]])
PROGRAM
