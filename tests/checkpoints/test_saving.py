"""Saving: the trained part over its base, Kyutai's layout bit for bit, and the Hub, through a stand-in of its API."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hf_moshi_ttt.checkpoints.model_card import ModelCardFacts
from hf_moshi_ttt.checkpoints.published_code import stamped
from hf_moshi_ttt.codec.text_stream import train_text_tokenizer
from hf_moshi_ttt.modeling_moshi_ttt import MoshiTTTForConditionalGeneration

from ..conftest import random_codes
from ..fixtures.checkpoints import in_layout, save_kyutai
from ..fixtures.hub_stand_in import HubStandIn, running_hub

MakeModel = Callable[..., MoshiTTTForConditionalGeneration]
load = MoshiTTTForConditionalGeneration.from_pretrained


@torch.no_grad()
def text_logits(model: Any) -> torch.Tensor:
    return model(random_codes(model.config, batch=1, frames=30)).text_logits


def with_trained_ttt(folder: Path, **options: Any) -> MoshiTTTForConditionalGeneration:
    """A base with new TTT layers, of which all but the base has moved."""
    model = load(folder, ttt_config={"mini_batch_size": 4}, **options)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".ttt" in name)
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn_like(parameter)
    return model


def test_the_trained_part_is_put_back_over_its_base(tmp_path: Path, lm_model: Any) -> None:
    base, part = save_kyutai(tmp_path / "base", lm_model), tmp_path / "part"
    model = with_trained_ttt(base)
    model.save_pretrained(part, trainable_only=True)
    files = {"config.json", "generation_config.json", "trained_part.safetensors"}
    assert {path.name for path in part.iterdir()} == files
    assert set(load_file(part / "trained_part.safetensors")) == {n for n in model.state_dict() if ".ttt" in n}
    again, info = load(part, output_loading_info=True)
    assert (info["layout"], info["missing_keys"], again.origin.name) == ("trained part", set(), str(base))
    assert torch.equal(text_logits(again), text_logits(model))
    for parameter in again.parameters():
        parameter.requires_grad_(False)
    again.lm_head.requires_grad_(True)
    again.lm_head.weight.data += 1
    again.save_pretrained(tmp_path / "next", trainable_only=True)  # over the same base, with the TTT weights too
    assert torch.equal(text_logits(load(tmp_path / "next")), text_logits(again))
    (base / "model.safetensors").unlink()
    with pytest.raises(
        ValueError, match="holds only the trained part of a model, and its base .*base' cannot be opened"
    ):
        load(part)
    moved = save_kyutai(tmp_path / "moved", lm_model)
    assert torch.equal(text_logits(load(part, base_model_name_or_path=str(moved))), text_logits(model))


def test_a_folder_holds_the_last_thing_that_was_saved(tmp_path: Path, lm_model: Any) -> None:
    model = with_trained_ttt(save_kyutai(tmp_path / "base", lm_model))
    for trainable_only in (False, True, False):
        model.save_pretrained(tmp_path / "out", trainable_only=trainable_only, max_shard_size="100KB")
        _, info = load(tmp_path / "out", output_loading_info=True)
        assert info["layout"] == ("trained part" if trainable_only else "moshi_ttt")


def test_a_quantized_model_is_not_saved_whole(tmp_path: Path, lm_model: Any) -> None:
    model = with_trained_ttt(save_kyutai(tmp_path / "base", lm_model))
    model.is_quantized = True  # as transformers marks it
    with pytest.raises(ValueError, match=r"quantized when it was loaded.*Save what was trained alone \(trainable_only"):
        model.save_pretrained(tmp_path / "whole")
    assert not (tmp_path / "whole").exists()
    model.save_pretrained(tmp_path / "part", trainable_only=True)


def test_a_trained_part_needs_a_base_and_something_frozen(tmp_path: Path, lm_model: Any, make_model: MakeModel) -> None:
    with pytest.raises(ValueError, match="the model was not loaded from a base that could be named"):
        make_model().save_pretrained(tmp_path, trainable_only=True)
    model = load(save_kyutai(tmp_path / "base", lm_model))
    with pytest.raises(ValueError, match="every weight requires a gradient: freeze the base or save it all"):
        model.save_pretrained(tmp_path / "out", trainable_only=True)


@pytest.mark.parametrize("layout", ["old", "new"])
def test_kyutai_to_ours_to_kyutai_is_bit_equal(tmp_path: Path, lm_model: Any, layout: Any) -> None:
    """Read again by Kyutai's own loader, and file for file the same weights."""
    from moshi.models.loaders import CheckpointInfo

    source = save_kyutai(tmp_path / "source", lm_model, layout)
    load(source, ttt_config={}).to_kyutai(tmp_path / "out", layout)
    before, after = load_file(source / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    files = {name: tmp_path / "none" for name in ("mimi_weights", "tokenizer")}
    info = CheckpointInfo.from_hf_repo(
        "any/name",
        moshi_weights=tmp_path / "out" / "model.safetensors",
        config_path=tmp_path / "out" / "config.json",
        **files,
    )
    theirs = info.get_moshi(dtype=torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(lm_model.parameters(), theirs.parameters(), strict=True))
    assert (theirs.context, theirs.delays, theirs.end_of_text_padding_id) == (lm_model.context, lm_model.delays, 0)


def test_only_a_ttt_branch_of_zero_can_be_left_out(tmp_path: Path, lm_model: Any, make_model: MakeModel) -> None:
    model = make_model()
    match = r"model.layers.1: the TTT branch is not zero \(gate up to 1, weights up to .*Kyutai's Moshi has no place"
    with pytest.raises(ValueError, match=match):
        model.to_kyutai(tmp_path)
    with pytest.raises(ValueError, match="transformers' Moshi has no place for it"):
        model.to_transformers(tmp_path)
    assert list(tmp_path.iterdir()) == []
    model.model.layers[1].ttt_gate.weight.data[1:] = 0
    model.model.layers[1].ttt.o_proj.weight.data[0] = 0
    model.to_kyutai(tmp_path)
    assert torch.allclose(text_logits(load(tmp_path)), text_logits(model), atol=1e-6)
    model.model.layers[1].ttt.o_proj.weight.data[0, 0] = 1e-3
    with pytest.raises(ValueError, match="the TTT branch is not zero"):
        model.to_kyutai(tmp_path)


def test_the_tokenizer_and_the_codec_are_named_or_copied(tmp_path: Path, make_model: MakeModel) -> None:
    (tmp_path / "words.model").write_bytes(b"pieces")
    for index, (tokenizer, codec, named) in enumerate(
        [
            (str(tmp_path / "words.model"), "kyutai/mimi", {"tokenizer_name": "words.model"}),
            ("hf://kyutai/x/y.model", "runs/codec", {"tokenizer_name": "hf://kyutai/x/y.model"}),
            (None, "kyutai/mimi", {}),
        ]
    ):
        folder = tmp_path / str(index)
        make_model(ttt=None, text_tokenizer=tokenizer, codec=codec).to_kyutai(folder)
        config = json.loads((folder / "config.json").read_text())
        assert {key: value for key, value in config.items() if key == "tokenizer_name"} == named
        assert ("mimi_name" in config) is (codec == "kyutai/mimi")
        assert (folder / "words.model").exists() is (index == 0)


def test_transformers_layout_needs_a_mimi(tmp_path: Path, make_model: MakeModel) -> None:
    from hf_moshi_ttt.codec.configuration_log_mel_codec import LogMelCodecConfig
    from hf_moshi_ttt.codec.log_mel_codec import LogMelCodecModel

    codec = LogMelCodecConfig(codebook_size=4, pca_dim=8, num_quantizers=8)
    LogMelCodecModel(codec).save_pretrained(tmp_path / "codec")
    with pytest.raises(ValueError, match="codec=.*codec' is log_mel_codec, but transformers' Moshi holds a Mimi"):
        make_model(ttt=None, codec=str(tmp_path / "codec")).to_transformers(tmp_path / "out")


# -- the Hub

_HIDE = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("hf_moshi_ttt", "moshi"):
            raise ModuleNotFoundError(f"{name} is hidden")
sys.meta_path.insert(0, Hidden())
"""
_PUSH = """
import sys, torch
from pathlib import Path
from hf_moshi_ttt import MoshiTTTForConditionalGeneration
from hf_moshi_ttt.checkpoints.adapters import make_trainable
from hf_moshi_ttt.checkpoints.model_card import ModelCardFacts
from huggingface_hub import HfApi
folder = Path(sys.argv[1])
model = MoshiTTTForConditionalGeneration.from_pretrained(folder / "trained")
facts = ModelCardFacts(base_model="user/base", data="silence", plot=folder / "plot.png")
model.push_to_hub("user/whole", max_shard_size="200KB", card=facts, commit_message="Whole")
base = MoshiTTTForConditionalGeneration.from_pretrained("user/base", ttt_config={"mini_batch_size": 4})
for name, parameter in base.named_parameters():
    parameter.requires_grad_(".ttt" in name)
base.load_state_dict(model.state_dict())
base.push_to_hub("user/part", trainable_only=True, with_code=False)
adapter = make_trainable(base, "lora+ttt")
adapter.push_to_hub("user/adapter")
base.config.push_to_hub("user/adapter")
MoshiTTTForConditionalGeneration.from_pretrained("user/base").to_kyutai(folder / "kyutai")
HfApi().create_repo("user/exported")
HfApi().upload_folder(repo_id="user/exported", folder_path=folder / "kyutai")
"""
_LOAD = """
import sys, torch
from hf_moshi_ttt import MoshiTTTForConditionalGeneration
from moshi.models.loaders import CheckpointInfo
part, info = MoshiTTTForConditionalGeneration.from_pretrained("user/part", output_loading_info=True)
whole = MoshiTTTForConditionalGeneration.from_pretrained("user/whole")
assert info["layout"] == "trained part" and part.origin.revision == sys.argv[1], part.origin
assert all(torch.equal(a, b) for a, b in zip(part.state_dict().values(), whole.state_dict().values(), strict=True))
adapted, info = MoshiTTTForConditionalGeneration.from_pretrained(
    "user/adapter", base_model_name_or_path="user/copy", output_loading_info=True
)
assert info["layout"] == "adapter" and not info["new_keys"], info
codes = torch.randint(32, (1, 17, 20))
assert torch.equal(adapted(codes).text_logits, whole(codes).text_logits)  # fresh LoRA adds nothing, TTT is in it
named = MoshiTTTForConditionalGeneration.from_pretrained("user/named")
assert torch.equal(named.model.embed_text.weight, part.model.embed_text.weight)
assert named.config.text_tokenizer == "hf://user/named/tokenizer_spm_32k_3.model"
theirs = CheckpointInfo.from_hf_repo("user/exported").get_moshi(dtype=torch.float32)
assert torch.equal(theirs.text_emb.weight, part.model.embed_text.weight)
try:
    MoshiTTTForConditionalGeneration.from_pretrained("user/nothing")
except OSError as error:
    print("refused:", str(error).splitlines()[0])
"""
_PROCESS = """
import torch
from transformers import AutoProcessor
processor = AutoProcessor.from_pretrained("user/whole", trust_remote_code=True)
codes = processor(torch.zeros(24000).numpy(), sampling_rate=24000)["codes"]
assert codes.shape == (1, 17, 13), codes.shape
assert processor.decode_text(torch.tensor([[processor.tokenizer.encode("hello")]])) == ["hello"]
assert processor.decode_audio(codes)[0].shape == (13 * 1920,)
"""


_ANOTHER = """
import sys
another = AutoModel.from_pretrained("another/local", trust_remote_code=True)
print([getattr(sys.modules[type(m).__module__], "VERSION", None) for m in (model, another)])
"""


def run(code: str, hub: HubStandIn, home: Path, *arguments: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=hub.environment(home), cwd=home, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


@pytest.fixture(scope="module")
def pushed(lm_model: Any, tiny_mimi: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A Hub to which a whole model, a trained part and an export to Kyutai were pushed, and their folder."""
    folder = tmp_path_factory.mktemp("pushed")
    (folder / "text.txt").write_text("hello world\n" * 50)
    train_text_tokenizer(folder / "text.txt", folder / "words.model", 269)
    (folder / "plot.png").write_bytes(b"a picture")
    base = save_kyutai(folder / "base", lm_model)
    model = with_trained_ttt(base, codec=str(tiny_mimi), text_tokenizer=str(folder / "words.model"))
    model.save_pretrained(folder / "trained")
    with running_hub() as hub:
        for name, files in {
            "user/base": base.iterdir(),
            "user/copy": base.iterdir(),
            "kyutai/moshiko-pytorch-bf16": [],
        }.items():
            hub.create(name)
            hub.commit(name, {path.name: path.read_bytes() for path in files})
        elsewhere = json.loads((base / "config.json").read_text())
        elsewhere["moshi_name"] = "hf://user/copy/model.safetensors"
        hub.create("user/named")
        hub.commit("user/named", {"config.json": json.dumps(elsewhere).encode()})
        names = ["tokenizer-e351c8d8-checkpoint125.safetensors", "tokenizer_spm_32k_3.model"]
        hub.commit("kyutai/moshiko-pytorch-bf16", dict.fromkeys(names, b"Kyutai's"))
        hub.commit("user/base", {"tokenizer_spm_32k_3.model": b"Kyutai's"})
        run(_PUSH, hub, folder, str(folder))
        yield hub, folder


def test_pushed_files_are_those_that_are_saved_byte_for_byte(pushed: tuple[HubStandIn, Path], tmp_path: Path) -> None:
    hub, folder = pushed
    model = load(folder / "trained")
    model.save_pretrained(tmp_path, max_shard_size="200KB", with_code=True)
    facts = ModelCardFacts(base_model="user/base", data="silence", plot=folder / "plot.png")
    model.save_model_card(tmp_path, "user/whole", facts)
    files = hub.repos["user/whole"]
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files
    assert len([name for name in files if re.fullmatch(r"model-\d+-of-\d+\.safetensors", name)]) == 3
    config = json.loads(files["config.json"])
    assert (config["text_tokenizer"], config["ttt"]["mini_batch_size"]) == ("words.model", 4)
    assert model.config.text_tokenizer == str(folder / "words.model") and not hasattr(model.config, "auto_map")
    exported = {path.name: path.read_bytes() for path in (folder / "kyutai").iterdir()}
    assert hub.repos["user/exported"] == exported
    assert set(hub.repos["user/part"]) == {
        "config.json",
        "generation_config.json",
        "trained_part.safetensors",
        "README.md",
    }
    assert "base_model: user/base" in hub.repos["user/part"]["README.md"].decode()
    model.save_model_card(tmp_path, "user/whole", ModelCardFacts())
    assert "Its base is not recorded." in (tmp_path / "README.md").read_text()  # a folder is not what it started from


def test_what_was_pushed_loads_in_one_line(pushed: tuple[HubStandIn, Path], tmp_path: Path) -> None:
    """Also after the base has changed: a trained part names the commit it was trained over."""
    hub, _ = pushed
    trained_over = hub.commits["user/base"][-1]
    hub.commit("user/base", {"model.safetensors": b"something else"})
    assert "refused: user/nothing is not" in run(_LOAD, hub, tmp_path, trained_over)


def test_the_cards_block_runs_where_the_package_is_not_installed(
    pushed: tuple[HubStandIn, Path], tmp_path: Path
) -> None:
    hub, folder = pushed
    card = hub.repos["user/whole"]["README.md"].decode()
    block = re.findall(r"```python\n(.*?)```", card, re.DOTALL)[0]
    assert run(_HIDE + block + _PROCESS, hub, tmp_path) == "torch.Size([1, 17, 25])\n"
    load(folder / "trained").save_pretrained(tmp_path / "local", with_code=True)
    local = block.replace('"user/whole"', repr(str(tmp_path / "local")))
    of_another_version = {path.name: path.read_text() for path in (tmp_path / "local").glob("*.py")}
    of_another_version["modeling_moshi_ttt.py"] += "VERSION = 2\n"
    shutil.copytree(tmp_path / "local", tmp_path / "another" / "local")
    for name, source in stamped(of_another_version, "configuration_moshi_ttt").items():
        (tmp_path / "another" / "local" / name).write_text(source)
    assert run(_HIDE + local + _ANOTHER, hub, tmp_path) == "torch.Size([1, 17, 25])\n[None, 2]\n"
    with pytest.raises(AssertionError, match="hf_moshi_ttt is hidden"):
        run(_HIDE + "import hf_moshi_ttt", hub, tmp_path)


def test_a_push_replaces_the_weights_of_other_layouts_and_keeps_a_card_unless_another_is_given(
    pushed: tuple[HubStandIn, Path], tmp_path: Path
) -> None:
    hub, folder = pushed
    outdated = ["adapter_config.json", "adapter_model.safetensors", "model-00001-of-00002.safetensors"]
    outdated.append("model.safetensors.index.json")
    hub.commit("user/part", {"README.md": b"mine", "notes.txt": b"mine", **dict.fromkeys(outdated, b"{}")})
    assert "trained_part.safetensors" in hub.repos["user/part"]
    push = """
import sys
from hf_moshi_ttt import MoshiTTTForConditionalGeneration
from hf_moshi_ttt.checkpoints.model_card import ModelCardFacts
model = MoshiTTTForConditionalGeneration.from_pretrained(sys.argv[1])
model.push_to_hub("user/part", with_code=False)
"""
    run(push, hub, tmp_path, str(folder / "trained"))
    saved = {"config.json", "generation_config.json", "model.safetensors"}
    assert set(hub.repos["user/part"]) == {"README.md", "notes.txt", *saved}
    assert hub.repos["user/part"]["README.md"] == b"mine"
    run(
        push.replace("with_code=False", "with_code=False, card=ModelCardFacts()"),
        hub,
        tmp_path,
        str(folder / "trained"),
    )
    assert hub.repos["user/part"]["README.md"].startswith(b"---\n")


def test_in_layout_is_what_kyutai_reads(lm_model: Any) -> None:
    """The fixture's old layout is read by Kyutai's own hooks."""
    from hf_moshi_ttt.checkpoints.kyutai import build_lm_model

    from ..fixtures.checkpoints import TINY

    torch.manual_seed(8)
    other = build_lm_model(TINY)
    other.load_state_dict(in_layout(lm_model.state_dict(), "old"))
    assert all(torch.equal(a, b) for a, b in zip(lm_model.parameters(), other.parameters(), strict=True))
