#!/bin/sh
# Gathers what benchmarks/device_check.py needs on a machine with Python 3.12, torch, triton, accelerate, safetensors and
# pyarrow and without a network: about 40 MiB of wheels for Linux on x86-64.
#
#   sh benchmarks/gather_wheels.sh wheels                                       where there is a network
#   pip install --no-index --no-deps wheels/*.whl && pip install --no-deps -e . on the machine
set -eu
folder=${1:?the folder for the wheels}
python=${PYTHON:-python3}
mkdir -p "$folder"
"$python" -m pip download --quiet --no-deps --only-binary=:all: --dest "$folder" \
    --python-version 3.12 --implementation cp --abi cp312 --abi abi3 --abi none \
    --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 --platform any \
    transformers==5.24.0 huggingface_hub==2.4.0 tokenizers datasets==5.2.0 evaluate==0.4.6 peft==0.21.2 sphn soxr \
    soundfile einops sentencepiece moshi==0.2.13 dill multiprocess xxhash pytest pytest-timeout pytest-xdist execnet \
    iniconfig pluggy jsonschema jsonschema-specifications referencing rpds-py
du -sh "$folder"
