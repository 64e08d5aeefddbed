"""`from_pretrained`: parity with Kyutai's model through files on disk in every layout, strictness, memory."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from hf_moshi_ttt.checkpoints.kyutai import config_to_kyutai, to_kyutai
from hf_moshi_ttt.configuration_moshi_ttt import MoshiTTTConfig, TTTConfig
from hf_moshi_ttt.modeling_moshi_ttt import MoshiTTTForConditionalGeneration

from ..conftest import random_codes
from ..fixtures.checkpoints import TINY, lora_weights, save_kyutai, save_shards
from ..fixtures.written_over import write_zeros_over

TOLERANCE = dict(rtol=2e-5, atol=2e-5)
load = MoshiTTTForConditionalGeneration.from_pretrained


def logits(model: Any) -> list[torch.Tensor]:
    """Text and audio logits of our model or of Kyutai's for the same codes."""
    codes = random_codes(TINY, batch=2, frames=40)
    with torch.no_grad():
        output = model(codes)
    if isinstance(model, MoshiTTTForConditionalGeneration):
        return [output.text_logits, output.audio_logits]
    return [output.text_logits[:, 0], output.logits]


def assert_same(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, equal_nan=True, **TOLERANCE)


@pytest.mark.parametrize("layout", ["old", "new"])
@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("ttt", [None, {}, {"layers": "all", "ttt_mlp_layers": 5}], ids=str)
def test_logits_equal_kyutai_in_every_layout(
    tmp_path: Path, lm_model: Any, layout: str, shards: int, ttt: dict | None
) -> None:
    save_kyutai(tmp_path, lm_model, layout, shards)
    model, info = load(tmp_path, ttt_config=ttt, output_loading_info=True)
    assert_same(logits(model), logits(lm_model))
    assert model.config.ttt_layer_indices == {None: [], 0: [1], 2: [0, 1, 2, 3]}[None if ttt is None else len(ttt)]
    assert (info["layout"], info["unexpected_keys"], info["mismatched_keys"]) == ("kyutai", set(), set())
    assert set(info["new_keys"]) == info["missing_keys"] == {name for name in model.state_dict() if ".ttt" in name}
    assert model.config.name_or_path == model.name_or_path == str(tmp_path)


@pytest.mark.parametrize("embeddings", [False, True])
def test_lora_of_moshi_finetune_gives_equal_logits(tmp_path: Path, lm_model: Any, embeddings: bool) -> None:
    """Against Kyutai's own loader, with the adapters beside the weights and merged into them."""
    from moshi.models.loaders import get_moshi_lm

    base = save_kyutai(tmp_path / "base", lm_model)
    folder = tmp_path / "checkpoint" / "consolidated"
    folder.mkdir(parents=True)
    described = {**config_to_kyutai(TINY), "lora": True, "lora_rank": 4, "lora_scaling": 1.5}
    (folder / "config.json").write_text(json.dumps(described))
    save_file(lora_weights(rank=4, embeddings=embeddings), folder / "lora.safetensors")
    model, info = load(folder, base_model_name_or_path=str(base), output_loading_info=True)
    assert (info["layout"], info["missing_keys"]) == ("kyutai lora", set())
    files = dict(lm_kwargs=described, dtype=torch.float32, lora_weights=folder / "lora.safetensors")
    for fuse in (False, True):
        theirs = get_moshi_lm(base / "model.safetensors", fuse_lora=fuse, **files)
        assert_same(logits(model), logits(theirs))
    assert not torch.allclose(logits(model)[0], logits(lm_model)[0], atol=1e-2)
    fused = {name: weight for name, weight in theirs.state_dict().items()}
    assert all(torch.equal(fused[name], weight) for name, weight in to_kyutai(model.state_dict()).items())


def test_lora_weights_of_the_old_layout(tmp_path: Path, lm_model: Any) -> None:
    """Kyutai's hooks read stacked LoRA weights; they are the same ones here."""
    folder = save_kyutai(tmp_path, lm_model, lora=True, lora_scaling=2.0)
    new = lora_weights()
    save_file(new, folder / "lora.safetensors")
    expected = logits(load(folder))
    old, stacked = {}, {}
    for name, weight in new.items():
        prefix, projs, rest = name.partition("_projs.")
        if projs:
            stacked.setdefault(f"{prefix}_proj.{rest.partition('.')[2]}", []).append(weight)
        else:
            old[name] = weight
    old.update({name: torch.cat(parts) for name, parts in stacked.items()})
    assert len(old) < len(new)
    save_file(old, folder / "lora.safetensors")
    assert_same(logits(load(folder)), expected)


def test_new_layers_start_in_float32_and_each_with_its_own_numbers(tmp_path: Path, lm_model: Any) -> None:
    save_kyutai(tmp_path, lm_model)
    section = {"layers": "all", "mini_batch_size": 4}
    torch.manual_seed(1)
    model = load(tmp_path, ttt_config=section, dtype=torch.bfloat16)
    outside = torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(3), outside)  # the sequence of random numbers outside is as without new layers
    torch.manual_seed(1)
    again = load(tmp_path, ttt_config=section, dtype=torch.bfloat16)
    reference = MoshiTTTForConditionalGeneration(model.config).model.layers
    for index, layer in enumerate(model.model.layers):
        assert not layer.ttt.o_proj.weight.any() and layer.ttt_gate.weight.eq(1.0).all()
        assert layer.ttt.learner.slow_weights[0].dtype == layer.ttt_gate.weight.dtype == torch.float32
        assert not torch.equal(layer.ttt.q_proj.weight, model.model.layers[index - 1].ttt.q_proj.weight)
        for name, weight in layer.state_dict().items():
            assert torch.equal(weight, again.model.layers[index].state_dict()[name])
            if "ttt" in name and weight.numel() > 200:
                wanted = reference[index].state_dict()[name]
                torch.testing.assert_close(weight.float().std(), wanted.std(), rtol=0.15, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_memorys_start_is_never_rounded(tmp_path: Path, make_model: Any, dtype: torch.dtype) -> None:
    model = make_model()
    model.double().save_pretrained(tmp_path)
    kept = torch.promote_types(dtype, torch.float32)
    for name, weight in load(tmp_path, dtype=dtype).state_dict().items():
        is_exact = ".learner." in name or "ttt_gate" in name
        assert torch.equal(weight, model.state_dict()[name].to(kept if is_exact else dtype)), name


def test_a_model_in_float64_computes_in_it(tmp_path: Path, make_model: Any) -> None:
    model = make_model()
    model.save_pretrained(tmp_path)
    codes, again = random_codes(model.config, batch=1, frames=10), load(tmp_path, dtype="float64")
    assert torch.equal(again(codes).text_logits, model.double()(codes).text_logits)


def test_dtype_and_device_map(tmp_path: Path, lm_model: Any) -> None:
    save_kyutai(tmp_path, lm_model)
    assert load(tmp_path).dtype == torch.float32
    model = load(tmp_path, dtype="bfloat16", ttt_config={})
    assert model.lm_head.weight.dtype == torch.bfloat16
    assert model.model.layers[1].ttt.learner.slow_weights[0].dtype == torch.float32  # a memory's start stays exact
    model.save_pretrained(tmp_path / "ours")
    assert load(tmp_path / "ours").lm_head.weight.dtype == torch.bfloat16
    expected = logits(lm_model)
    for device_map in ("cpu", "auto", {"": "cpu"}):
        assert_same(logits(load(tmp_path, device_map=device_map)), expected)
    offloaded = load(
        tmp_path,
        device_map={"model": "cpu", "lm_head": "cpu", "depth_decoder": "disk"},
        offload_folder=tmp_path / "disk",
    )
    assert_same(logits(offloaded), expected)


def test_ttt_section_of_a_checkpoint_changes_key_by_key(tmp_path: Path, make_model: Any) -> None:
    model = make_model()
    model.save_pretrained(tmp_path)
    same, info = load(tmp_path, output_loading_info=True)
    assert_same(logits(same), logits(model))
    assert (info["layout"], info["config_changes"], info["new_keys"]) == ("moshi_ttt", {}, [])
    for asked in ({"base_lr": 0.5}, TTTConfig(**{**model.config.ttt.own_values(), "base_lr": 0.5})):
        changed, info = load(tmp_path, ttt_config=asked, output_loading_info=True)
        assert info["config_changes"] == {"ttt.base_lr": (model.config.ttt.base_lr, 0.5)}
        assert (changed.config.ttt.base_lr, changed.model.layers[1].ttt.config.base_lr) == (0.5, 0.5)
        assert not torch.equal(logits(changed)[0], logits(model)[0])
    gated = load(tmp_path, ttt={"initial_gating_alpha": 0.3})
    assert gated.model.layers[1].ttt_gate.weight.eq(0.3).all()


def test_changes_are_logged(tmp_path: Path, make_model: Any, caplog: pytest.LogCaptureFixture) -> None:
    make_model(ttt=None).save_pretrained(tmp_path)
    with caplog.at_level("WARNING", logger="hf_moshi_ttt"):
        load(tmp_path, ttt_config={}, sliding_window=8)
    assert "sliding_window: 16 -> 8 (frames that attention sees)" in caplog.text
    assert "19 weights of TTT layers are new. Their output is zero until they are trained" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ttt_config": {"mini_batch_size": 8}}, "ttt.mini_batch_size is 4, asked for 8"),
        ({"ttt_config": None}, "ttt is 'present', asked for None"),
        ({"ttt_config": TTTConfig()}, "ttt.mini_batch_size is 4, asked for 16; .*expansion_factor is 2, asked for 4"),
        ({"config": MoshiTTTConfig.from_preset("tiny", rope_theta=5.0)}, "rope_theta is 10000.0, asked for 5.0"),
        ({"hidden_size": 64}, "hidden_size is 32, asked for 64"),
        ({"ttt": {}, "ttt_config": {}}, "ttt and ttt_config are the same section: give one of them"),
        ({"ttt_config": {"layer": 1}}, r"TTTConfig does not know \['layer'\]"),
        ({"use_safetensors": False}, "use_safetensors=False, but TTT-Moshi is loaded from safetensors files only"),
        ({"variant": "fp16"}, "variant is not supported"),
        ({"dtype": "half precision"}, "dtype='half precision', but it must be a torch dtype such as torch.bfloat16"),
        ({"dtype": "float8_e4m3fn"}, "dtype='float8_e4m3fn', but it must be .*: float32, bfloat16, float16 or"),
        ({"base_model_name_or_path": "x"}, "holds whole weights: it needs no base"),
    ],
)
def test_requests_that_the_weights_do_not_allow(
    tmp_path: Path, make_model: Any, options: dict[str, Any], message: str
) -> None:
    make_model().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        load(tmp_path, **options)


def read_all(path: Path) -> dict[str, torch.Tensor]:
    """The weights in memory of their own: those that safetensors maps die with the file that is written over."""
    return {name: weight.clone() for name, weight in load_file(path).items()}


@pytest.mark.parametrize("layout", ["moshi_ttt", "kyutai"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("half", r"\d+ of \d+ weights are missing: depth_decoder.* The checkpoint is not complete"),
        ("shape", r"lm_head.weight has shape \[64, 31\], but the configuration gives \[64, 32\] \(1 weights differ\)"),
        ("extra", "1 weights have no place in "),
        ("truncated", r"truncated, \d+ bytes of at least"),
        ("corrupted", "corrupted safetensors header"),
        ("pickled", "pickled weights are not loaded"),
        ("no file", "no weights. Looked for model.safetensors"),
    ],
)
def test_damaged_checkpoints_each_give_their_own_error(
    tmp_path: Path, make_model: Any, lm_model: Any, layout: str, damage: str, message: str
) -> None:
    if layout == "kyutai":
        save_kyutai(tmp_path, lm_model)
    else:
        make_model().save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    weights = read_all(path)
    head = "text_linear.weight" if layout == "kyutai" else "lm_head.weight"
    if damage == "half":
        save_file({name: weight for name, weight in weights.items() if "dep" not in name}, path)
    elif damage == "shape":
        save_file({**weights, head: weights[head][:, 1:].contiguous()}, path)
    elif damage == "extra":
        save_file({**weights, "extra.weight": torch.ones(1)}, path)
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[:-64])
    elif damage == "corrupted":
        path.write_bytes(path.read_bytes()[:12] + b"\xff" * 8 + path.read_bytes()[20:])
    elif damage == "pickled":
        torch.save(weights, path)
    elif damage == "no file":
        path.unlink()
    with pytest.raises(ValueError, match=message):
        load(tmp_path)


def test_half_of_the_ttt_weights_is_not_taken_for_new(tmp_path: Path, make_model: Any) -> None:
    make_model().save_pretrained(tmp_path)
    weights = read_all(tmp_path / "model.safetensors")
    save_file({n: w for n, w in weights.items() if ".ttt.q_proj" not in n}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"1 of \d+ weights are missing: model.layers.1.ttt.q_proj.weight"):
        load(tmp_path)


def test_shards_of_ours_and_auto_model(tmp_path: Path, make_model: Any) -> None:
    model = make_model()
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    assert_same(logits(load(tmp_path)), logits(model))
    assert_same(logits(AutoModel.from_pretrained(tmp_path, ttt_config={})), logits(model))
    (tmp_path / "model-00002-of-00003.safetensors").unlink(missing_ok=True)
    next(tmp_path.glob("model-00001*")).unlink()
    with pytest.raises(
        ValueError, match="model.safetensors.index.json names model-00001-of.* but there is no such file"
    ):
        load(tmp_path)


def test_no_name_is_transformers_own_way(make_model: Any) -> None:
    model = make_model()
    again = load(None, config=model.config, state_dict=model.state_dict())
    assert_same(logits(again), logits(model))
    with pytest.raises(
        ValueError, match="ttt_config and base_model_name_or_path belong to a checkpoint, but none is na"
    ):
        load(None, config=model.config, state_dict=model.state_dict(), ttt_config={})


_MEMORY = """
import sys, torch
from hf_moshi_ttt import MoshiTTTForConditionalGeneration
def status(key):
    line = next(line for line in open("/proc/self/status") if line.startswith(key))
    return 1024 * int(line.split()[1])
before = status("VmRSS:")
model = MoshiTTTForConditionalGeneration.from_pretrained(sys.argv[1], ttt_config={})
weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
print((status("VmHWM:") - before) / weights)
"""


def test_a_loaded_model_does_not_change_with_its_file(tmp_path: Path, lm_model: Any) -> None:
    model = load(save_kyutai(tmp_path, lm_model))
    model.save_pretrained(tmp_path / "own")
    for loaded, path in ((model, tmp_path), (load(tmp_path / "own"), tmp_path / "own")):
        before = logits(loaded)
        for file in path.glob("*.safetensors"):
            write_zeros_over(file)
        assert all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(before, logits(loaded), strict=True))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's account of memory")
def test_loading_makes_no_second_copy(tmp_path: Path) -> None:
    """Peak memory over the weights, on 150M parameters; benchmarks/checkpoint_memory.py has it for 1B."""
    config = MoshiTTTConfig.from_preset("small", hidden_size=768, num_hidden_layers=20, ffn_dim=4096, ttt=None)
    with torch.device("meta"):
        shapes = MoshiTTTForConditionalGeneration(config).state_dict()
    weights = {name: torch.zeros(weight.shape, dtype=torch.bfloat16) for name, weight in shapes.items()}
    save_shards(tmp_path, to_kyutai(weights, "old"), 2)
    (tmp_path / "config.json").write_text(json.dumps(config_to_kyutai(config)))
    result = subprocess.run([sys.executable, "-c", _MEMORY, str(tmp_path)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    assert 0.9 < float(result.stdout) <= 1.1
