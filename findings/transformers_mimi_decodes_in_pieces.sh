#!/bin/sh
# Guess: transformers' Mimi decodes frame by frame, its decoder_cache handed on, to the sound of decoding at once, as it
#   encodes frame by frame, with padding_cache, to the codes of encoding at once.
# Is: encoding is exact; decoding keeps the transformer's keys only. Its convolutions begin anew with each call: of
#   single frames the difference is as large as the sound, of ten frames half of it.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
${PYTHON:-python3} -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$folder/site" \
    torch==2.13.0 transformers==5.24.0 huggingface_hub==2.4.0 tokenizers==0.23.3 safetensors==0.8.0 numpy==2.4.6
OMP_NUM_THREADS=1 PYTHONPATH="$folder/site" ${PYTHON:-python3} - << 'PROGRAM'
import sys

import torch
import transformers
from transformers import MimiConfig, MimiModel

torch.manual_seed(0)
model = MimiModel(MimiConfig(
    num_hidden_layers=2, hidden_size=64, num_attention_heads=4, num_key_value_heads=4, head_dim=16, upsample_groups=64,
    intermediate_size=128, num_filters=4, codebook_size=64, codebook_dim=16, vector_quantization_hidden_dimension=16,
    use_cache=True,
)).eval()  # fmt: skip
for name, values in model.named_buffers():
    if "embed_sum" in name:
        values.normal_()
FRAMES, SAMPLES = 100, 1_920
sound = 0.3 * torch.randn(1, 1, FRAMES * SAMPLES)
with torch.no_grad():
    codes = model.encode(sound, num_quantizers=8).audio_codes
    whole = model.decode(codes).audio_values
    encoder_cache = padding_cache = None
    streamed = []
    for part in sound.split(SAMPLES, dim=-1):
        output = model.encode(part, None, 8, encoder_cache, padding_cache, use_streaming=True)
        encoder_cache, padding_cache = output.encoder_cache, output.padding_cache
        streamed.append(output.audio_codes)
    errors = {}
    for frames in (1, 10):
        decoder_cache, pieces = None, []
        for part in codes.split(frames, dim=-1):
            output = model.decode(part, decoder_cache=decoder_cache)
            decoder_cache = output.decoder_cache
            pieces.append(output.audio_values)
        errors[frames] = ((torch.cat(pieces, -1) - whole).norm() / whole.norm()).item()
has_cache, is_exact = decoder_cache is not None, torch.equal(torch.cat(streamed, -1), codes)
print(f"transformers {transformers.__version__}: codes of a stream equal those of the whole: {is_exact}; sound of "
      f"pieces differs by {', '.join(f'{error:.2f} (of {frames})' for frames, error in errors.items())} of its size")
sys.exit(not (has_cache and is_exact and errors[1] > 0.5 and errors[10] > 0.2))
PROGRAM
