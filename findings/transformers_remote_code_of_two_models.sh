#!/bin/sh
# Guess: with trust_remote_code each model runs the modeling file of its own folder.
# Is: AutoModel remembers a model's class by the class of its configuration, and that by the folder's last name and the
#   configuration's source. Of two folders of one last name whose configuration files are equal and modeling files are
#   not, the second runs the code of the first.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
${PYTHON:-python3} -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$folder/site" \
    torch==2.13.0 transformers==5.24.0 huggingface_hub==2.4.0 tokenizers==0.23.3 safetensors==0.8.0 numpy==2.4.6
PYTHONPATH="$folder/site" ${PYTHON:-python3} - "$folder" << 'PROGRAM'
import json
import os
import sys
from pathlib import Path

os.environ["HF_MODULES_CACHE"] = f"{sys.argv[1]}/modules"
import torch
import transformers
from safetensors.torch import save_file

transformers.utils.logging.disable_progress_bar()

CONFIGURATION = """
from transformers import PreTrainedConfig
class OwnConfig(PreTrainedConfig):
    model_type = "own"
"""
MODELING = """
import torch
from transformers import PreTrainedModel
from .configuration_own import OwnConfig
class OwnModel(PreTrainedModel):
    config_class = OwnConfig
    def __init__(self, config):
        super().__init__(config)
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.post_init()
    def forward(self):
        return "the code of NAME"
"""
AUTO_MAP = {"AutoConfig": "configuration_own.OwnConfig", "AutoModel": "modeling_own.OwnModel"}
answers = []
for name in ("first", "second"):
    folder = Path(sys.argv[1], name, "model")
    folder.mkdir(parents=True)
    (folder / "configuration_own.py").write_text(CONFIGURATION)
    (folder / "modeling_own.py").write_text(MODELING.replace("NAME", name))
    (folder / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": AUTO_MAP}))
    save_file({"weight": torch.ones(1)}, folder / "model.safetensors", metadata={"format": "pt"})
    answers.append(transformers.AutoModel.from_pretrained(folder, trust_remote_code=True)())
print(f"transformers {transformers.__version__}: the two models run {answers}")
sys.exit(answers != ["the code of first", "the code of first"])
PROGRAM
