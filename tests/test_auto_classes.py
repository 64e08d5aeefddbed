"""The package is light to import, and transformers' auto classes know the model whichever is imported first."""

import json
import subprocess
import sys
from typing import Any

import pytest

import hf_moshi_ttt

HEAVY = ["accelerate", "datasets", "evaluate", "huggingface_hub", "matplotlib", "numpy", "peft", "scipy", "sklearn"]
HEAVY += ["torch", "tqdm", "transformers", "yaml"]
ORDERS = {
    "ours first": "import hf_moshi_ttt; import transformers",
    "transformers first": "import transformers; import hf_moshi_ttt",
    "only a module of ours": "from hf_moshi_ttt.configuration_moshi_ttt import MoshiTTTConfig",
    "a module with an auto class": "from hf_moshi_ttt.codec import log_mel_codec",
    "a library that imports transformers": "import hf_moshi_ttt; import peft",
}
PROGRAM = """
import json, os, sys
import hf_moshi_ttt
heavy, orders = json.load(sys.stdin)
loaded = [name for name in heavy if name in sys.modules]
names = dir(hf_moshi_ttt)
for name in [name for name in sys.modules if name.startswith("hf_moshi_ttt")]:
    del sys.modules[name]
sys.meta_path[:] = [finder for finder in sys.meta_path if not type(finder).__module__.startswith("hf_moshi_ttt")]
import torch  # once for all orders
found = {}
for order, statement in orders.items():
    reader, writer = os.pipe()
    if os.fork() == 0:
        exec(statement)
        from transformers import AutoConfig, AutoModel, AutoProcessor
        from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_MAPPING
        from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
        config = AutoConfig.for_model("moshi_ttt")
        mappings = [MODEL_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, PROCESSOR_MAPPING]
        classes = [type(config), *(mapping[type(config)] for mapping in mappings)]
        os.write(writer, json.dumps([known.__name__ for known in classes]).encode())
        os._exit(0)
    os.close(writer)
    found[order] = json.loads(os.fdopen(reader).read() or "[]")
print(json.dumps({"loaded": loaded, "names": names, "found": found}))
"""


@pytest.fixture(scope="module")
def fresh() -> dict[str, Any]:
    """What a fresh process finds."""
    command = [sys.executable, "-c", PROGRAM]
    ran = subprocess.run(command, input=json.dumps([HEAVY, ORDERS]), capture_output=True, text=True, check=True)
    return json.loads(ran.stdout)


def test_the_package_imports_nothing_heavy(fresh: dict[str, Any]) -> None:
    assert fresh["loaded"] == []


def test_every_public_name_is_listed_before_it_is_imported(fresh: dict[str, Any]) -> None:
    assert set(hf_moshi_ttt.__all__) <= set(fresh["names"])


@pytest.mark.parametrize("order", ORDERS)
def test_auto_classes_know_the_model(order: str, fresh: dict[str, Any]) -> None:
    model = "MoshiTTTForConditionalGeneration"
    assert fresh["found"][order] == ["MoshiTTTConfig", model, model, "MoshiTTTProcessor"]


def test_public_names_are_what_their_modules_define() -> None:
    from hf_moshi_ttt.modeling_moshi_ttt import MoshiTTTForConditionalGeneration

    assert hf_moshi_ttt.MoshiTTTForConditionalGeneration is MoshiTTTForConditionalGeneration
    assert all(getattr(hf_moshi_ttt, name) is not None for name in hf_moshi_ttt.__all__)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="module 'hf_moshi_ttt' has no attribute 'MoshiTTT'"):
        _ = hf_moshi_ttt.MoshiTTT
