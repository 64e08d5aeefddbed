#!/bin/sh
# Guess: Mimi of Kyutai's package encodes a stream frame by frame as it encodes the whole recording, however long it is.
# Is: up to its window of 10 s it does. From frame 125 on latents differ by 0.003 of their spread: a frame is two steps of its
#   transformer over a ring of as many keys as the window, so the second step's key replaces one that the first still
#   sees. A ring of one key more is exact.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
${PYTHON:-python3} -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$folder/site" \
    torch==2.13.0 numpy==2.4.6 safetensors==0.8.0 huggingface_hub==2.4.0 einops sentencepiece sphn
${PYTHON:-python3} -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$folder/site" \
    --no-deps moshi==0.2.13
NO_TORCH_COMPILE=1 OMP_NUM_THREADS=1 PYTHONPATH="$folder/site" ${PYTHON:-python3} - << 'PROGRAM'
import sys

import torch
from moshi.models import loaders

torch.manual_seed(0)
config = dict(loaders._mimi_config)
config["seanet"] = {**config["seanet"], "n_filters": 2, "dimension": 16}
config["transformer"] = {
    **config["transformer"], "d_model": 16, "num_heads": 2, "num_layers": 1, "layer_scale": 1.0, "dim_feedforward": 16,
    "input_dimension": 16, "output_dimensions": [16],
}
config["quantizer"] = {**config["quantizer"], "dimension": 8, "input_dimension": 16, "output_dimension": 16}
mimi = loaders.get_mimi(None, config)
sound = torch.randn(1, 1, 150 * 1920)
with torch.no_grad():
    whole = mimi.encode_to_latent(sound, quantize=False)


def differences(keys_more: int) -> list[float]:
    with torch.no_grad(), mimi.streaming(1):
        for state in mimi.get_streaming_state().values():
            if getattr(state, "kv_cache", None) is not None:
                ring = state.kv_cache
                _, batch, heads, keys, width = ring.cache.shape
                state.kv_cache = type(ring)(batch, heads, width, keys + keys_more, device="cpu", dtype=torch.float32)
        frames = [mimi.encode_to_latent(frame, quantize=False) for frame in sound.split(1920, dim=2)]
    return ((torch.cat(frames, dim=2) - whole).abs().amax((0, 1)) / whole.std()).tolist()


as_it_is, longer = differences(0), differences(1)
print(f"moshi 0.2.13: largest difference of a latent, in standard deviations: {max(as_it_is[:125]):.1e} in the first 125 "
      f"frames, {max(as_it_is[125:]):.1e} from then on; {max(longer):.1e} with a ring of one key more")
sys.exit(not (max(as_it_is[:125]) < 1e-5 < 1e-3 < max(as_it_is[125:]) and max(longer) < 1e-5))
PROGRAM
