#!/bin/sh
# Guess: save_pretrained over a checkpoint in several files leaves nothing of it.
# Is: the shards are removed, their index model.safetensors.index.json stays beside the single file and names files
#   that are gone.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
${PYTHON:-python3} -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$folder/site" \
    torch==2.13.0 transformers==5.24.0 huggingface_hub==2.4.0 tokenizers==0.23.3 safetensors==0.8.0 numpy==2.4.6
PYTHONPATH="$folder/site" ${PYTHON:-python3} - "$folder" << 'PROGRAM'
import json
import sys
from pathlib import Path

import transformers

folder = Path(sys.argv[1], "model")
transformers.utils.logging.disable_progress_bar()
config = transformers.BertConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=2)
model = transformers.BertModel(config)
model.save_pretrained(folder, max_shard_size="50KB")
shards = len(list(folder.glob("model-*.safetensors")))
model.save_pretrained(folder)
index = folder / "model.safetensors.index.json"
named = set(json.loads(index.read_text())["weight_map"].values()) if index.is_file() else set()
present = sorted(path.name for path in folder.glob("*.safetensors"))
print(f"transformers {transformers.__version__}: {shards} shards, then {present}; the index names {len(named)} files")
sys.exit(not (shards > 1 and present == ["model.safetensors"] and len(named) == shards))
PROGRAM
