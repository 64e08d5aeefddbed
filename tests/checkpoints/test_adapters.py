"""What each preset trains, and adapters that stream, save, load, merge and are refused where they do not fit."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModel

from hf_moshi_ttt.checkpoints.adapters import (
    DEFAULT_PARTS,
    LORA_PARTS,
    PRESETS,
    adapter_settings,
    lora_config,
    lora_targets,
    make_trainable,
    matched_lora_rank,
    merged,
    save_adapter,
    without_adapters,
)
from hf_moshi_ttt.checkpoints.repository import is_ttt_weight
from hf_moshi_ttt.configuration_moshi_ttt import MoshiTTTConfig
from hf_moshi_ttt.modeling_moshi_ttt import MoshiTTTForConditionalGeneration
from hf_moshi_ttt.streaming.generation_moshi_ttt import GREEDY

from ..conftest import random_codes
from ..fixtures.checkpoints import save_kyutai

MakeModel = Callable[..., MoshiTTTForConditionalGeneration]
load = MoshiTTTForConditionalGeneration.from_pretrained
SECTION = {"mini_batch_size": 4, "ttt_mlp_expansion_factor": 2}


def wake(model: Any) -> Any:
    """Moves everything that is trained, so that adapters are not zero."""
    torch.manual_seed(7)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn_like(parameter)
    return model.eval()


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return model(random_codes(model.config, batch=2, frames=40)).text_logits


@torch.no_grad()
def streamed(model: Any) -> torch.Tensor:
    codes, state, steps = random_codes(model.config, batch=2, frames=40), model.init_state(2), []
    for frame in range(40):
        step = model.step_with_logits(codes[:, :, frame], state)
        state = step.state
        steps.append(step.text_logits)
    return torch.stack(steps, 1)


@pytest.mark.parametrize("learner", ["ttt", "in_place"])
@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_moves_what_it_trains_and_nothing_else(make_model: MakeModel, preset: str, learner: str) -> None:
    model = make_trainable(make_model(ttt={"learner": learner}), preset)
    names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    kinds = {"lora" if "lora_" in name else "ttt" if ".ttt" in name else "base" for name in names}
    assert kinds == {
        "frozen": set(), "lora": {"lora"}, "ttt": {"ttt"}, "lora+ttt": {"lora", "ttt"}, "full": {"base", "ttt"},
    }[preset]  # fmt: skip
    if not names:
        return
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    codes = random_codes(model.config, batch=2, frames=40, absent=0)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.01)
    for _ in range(2):  # LoRA's A moves once B has
        optimizer.zero_grad()
        model(codes, labels=codes).loss.backward()
        optimizer.step()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) is (name not in names), name


def test_the_model_below_adapters_is_moshi_itself(make_model: MakeModel) -> None:
    model = make_model()
    adapted = make_trainable(model, "lora")
    assert adapted is not model and without_adapters(adapted) is without_adapters(model) is model


def test_lora_finds_every_linear_of_its_parts_by_name(make_model: MakeModel) -> None:
    model = make_model()
    linears = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    for parts in (LORA_PARTS, DEFAULT_PARTS, ["attention"], ["ffn"], ["depth"]):
        adapted = get_peft_model(make_model(), lora_config(model.config, rank=2, parts=parts))
        found = {
            name.removeprefix("base_model.model.").removesuffix(".lora_A.default")
            for name, _ in adapted.named_modules()
            if name.endswith(".lora_A.default")
        }
        wanted = {
            name for name in linears
            if not is_ttt_weight(f"{name}.")
            and (
                ("attention" in parts and "self_attn" in name)
                or ("ffn" in parts and name.startswith("model.") and "mlp" in name)
                or ("depth" in parts and name.startswith("depth_decoder."))
                or ("text_head" in parts and name == "lm_head")
            )
        }  # fmt: skip
        assert found == wanted and wanted
    everything = {name for name in linears if not is_ttt_weight(f"{name}.")}
    assert len(everything) == 4 * 4 + 2 * 8 * 4 + 8 + 8 + 1  # temporal, depth, projections in, heads out, text head


@pytest.mark.parametrize("learner", ["ttt", "in_place"])
def test_streaming_works_with_adapters_and_after_merging(make_model: MakeModel, learner: str) -> None:
    """With `in_place` an adapter changes the linear whose fast weights are learned."""
    ttt = {"learner": learner}
    model = wake(make_trainable(make_model(ttt=ttt), "lora+ttt"))
    whole = logits(model)
    assert not torch.allclose(whole, logits(make_model(ttt=ttt)), atol=1e-2)
    torch.testing.assert_close(streamed(model), whole, rtol=2e-5, atol=2e-5)
    spoken = model.generate(random_codes(model.config, 1, 20), max_new_frames=5, sampling=GREEDY).codes
    merged = model.merge_and_unload()
    assert type(merged) is MoshiTTTForConditionalGeneration
    torch.testing.assert_close(logits(merged), whole, rtol=2e-5, atol=2e-5)
    torch.testing.assert_close(streamed(merged), whole, rtol=2e-5, atol=2e-5)
    assert torch.equal(
        merged.generate(random_codes(merged.config, 1, 20), max_new_frames=5, sampling=GREEDY).codes, spoken
    )


def test_adapters_are_saved_loaded_and_merged(tmp_path: Path, lm_model: Any) -> None:
    base = save_kyutai(tmp_path / "base", lm_model)
    model = wake(make_trainable(load(base, ttt_config=SECTION), "lora+ttt"))
    save_adapter(model, tmp_path / "adapter")
    files = {"adapter_model.safetensors", "adapter_config.json", "config.json", "generation_config.json", "README.md"}
    assert {path.name for path in (tmp_path / "adapter").iterdir()} == files
    expected = logits(model)
    ours, info = load(tmp_path / "adapter", output_loading_info=True)
    assert (info["layout"], info["new_keys"]) == ("adapter", [])
    theirs = PeftModel.from_pretrained(load(base, ttt_config=SECTION), tmp_path / "adapter").eval()
    for loaded in (ours, theirs):
        assert torch.equal(logits(loaded), expected)
        torch.testing.assert_close(streamed(loaded), expected, rtol=2e-5, atol=2e-5)
    with pytest.raises(ValueError, match="The model holds adapters: merge them first"):
        ours.to_kyutai(tmp_path / "kyutai")
    with pytest.raises(ValueError, match="The model holds adapters: save them with peft's own save_pretrained"):
        ours.save_pretrained(tmp_path / "part", trainable_only=True)
    whole = theirs.merge_and_unload()
    whole.save_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(load(tmp_path / "merged")), expected, rtol=2e-5, atol=2e-5)
    assert merged(whole) is whole
    same = merged(ours).state_dict()
    assert list(same) == list(whole.state_dict())
    assert all(torch.equal(same[name], weight) for name, weight in whole.state_dict().items())


def test_an_adapter_without_ttt_goes_with_auto_model_and_to_kyutai(tmp_path: Path, make_model: MakeModel) -> None:
    make_model(ttt=None).save_pretrained(tmp_path / "base")
    model = wake(make_trainable(load(tmp_path / "base"), "lora"))
    model.save_pretrained(tmp_path / "adapter")
    assert torch.equal(logits(AutoModel.from_pretrained(tmp_path / "adapter")), logits(model))
    merged = model.merge_and_unload()
    merged.to_kyutai(tmp_path / "kyutai")
    assert torch.equal(logits(load(tmp_path / "kyutai")), logits(merged))


def test_adapters_that_do_not_fit_are_refused(tmp_path: Path, lm_model: Any) -> None:
    base, folder = save_kyutai(tmp_path / "base", lm_model), tmp_path / "adapter"
    save_adapter(wake(make_trainable(load(base, ttt_config=SECTION), "lora+ttt")), folder)
    (folder / "config.json").unlink()
    with pytest.raises(ValueError, match="the adapter holds TTT layers, but its base .* has none. Give ttt_config"):
        load(folder)
    assert load(folder, ttt_config=SECTION).config.ttt is not None
    weights = {name: weight.clone() for name, weight in load_file(folder / "adapter_model.safetensors").items()}
    save_file(dict(list(weights.items())[3:]), folder / "adapter_model.safetensors")
    with pytest.raises(ValueError, match="the adapter and its base .*base' do not fit: "):
        load(folder, ttt_config=SECTION)
    (folder / "adapter_model.safetensors").write_bytes(b"\x80\x02 pickled")
    with pytest.raises(ValueError, match="adapter_model.safetensors: pickled weights are not loaded"):
        load(folder, ttt_config=SECTION)
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(ValueError, match="no adapter_model.safetensors. Pickled adapters are not loaded"):
        load(folder)
    described = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**described, "base_model_name_or_path": None}))
    with pytest.raises(ValueError, match="the adapter names no base model. Give base_model_name_or_path"):
        load(folder)


@pytest.mark.parametrize("depth", [1, 2, 5])
@pytest.mark.parametrize("rank", [0, 32])
def test_rank_that_matches_ttt_at_full_size(depth: int, rank: int) -> None:
    """LoRA alone has as many parameters as LoRA and TTT together, to within half a rank."""
    with torch.device("meta"):
        model = MoshiTTTForConditionalGeneration(MoshiTTTConfig.from_preset("moshi-7b", ttt={"ttt_mlp_layers": depth}))
        matched = matched_lora_rank(model, rank=rank)
        ttt = sum(parameter.numel() for name, parameter in model.named_parameters() if is_ttt_weight(name))
        if rank:
            model = get_peft_model(model, lora_config(model.config, rank, ttt=False))
            ttt += sum(parameter.numel() for name, parameter in model.named_parameters() if "lora_" in name)
        baseline = MoshiTTTForConditionalGeneration(MoshiTTTConfig.from_preset("moshi-7b", ttt=None))
        counted = get_peft_model(baseline, lora_config(baseline.config, matched.rank))
    trained = sum(parameter.numel() for parameter in counted.parameters() if parameter.requires_grad)
    assert (trained, ttt) == (matched.lora_parameters, matched.matched_parameters)
    assert abs(matched.lora_parameters - matched.matched_parameters) <= matched.lora_parameters / matched.rank / 2


def test_settings_are_moshi_finetunes(make_model: MakeModel) -> None:
    config = make_model().config
    settings = lora_config(config)
    assert (settings.r, settings.lora_alpha / settings.r) == (64, 2.0)
    assert settings.modules_to_save == ["ttt", "ttt_norm", "ttt_gate"]
    assert lora_config(config, ttt=False).modules_to_save is None
    assert lora_config(MoshiTTTConfig.from_preset("tiny", ttt=None)).modules_to_save is None


def test_requests_that_cannot_be_met_are_refused(make_model: MakeModel) -> None:
    with pytest.raises(ValueError, match="preset='all', but it must be one of frozen, lora, ttt, lora.ttt, full"):
        make_trainable(make_model(), "all")
    with pytest.raises(ValueError, match="preset='lora.ttt', but the model has no TTT layers. Load it with ttt_config"):
        make_trainable(make_model(ttt=None), "lora+ttt")
    with pytest.raises(ValueError, match="preset='ttt' has no LoRA, but settings for it were given"):
        make_trainable(make_model(), "ttt", LoraConfig(target_modules=["mlp.fc1"]))
    with pytest.raises(ValueError, match="The model has adapters already: merge them"):
        make_trainable(make_trainable(make_model(), "lora"), "full")
    with pytest.raises(ValueError, match=r"parts=\['mlp'\], but they must be some of attention, ffn, depth, text_head"):
        lora_targets(make_model().config, ["mlp"])


def test_settings_of_an_adapter_are_read_back(make_model: MakeModel) -> None:
    """Its strength too: 1.2000000000000002 / 12 is 0.1, and rslora divides by the root of the rank."""
    config = MoshiTTTConfig.from_preset("tiny")
    own = adapter_settings(get_peft_model(make_model(), lora_config(config, 12, 0.1, ["ffn", "depth"])))
    assert own == {
        "trainable": "lora+ttt", "lora_rank": 12, "lora_scaling": pytest.approx(0.1, rel=1e-12),
        "lora_parts": ["ffn", "depth"],
    }  # fmt: skip
    rslora = get_peft_model(
        make_model(), LoraConfig(r=4, lora_alpha=4, use_rslora=True, target_modules=["model.layers.0.mlp.fc1"])
    )
    strength = next(module.scaling["default"] for module in rslora.modules() if hasattr(module, "lora_A"))
    assert adapter_settings(rslora) == {
        "trainable": "lora", "lora_rank": 4, "lora_scaling": strength, "lora_parts": None,
    }  # fmt: skip
    for key in ("rank_pattern", "alpha_pattern"):
        settings = LoraConfig(target_modules=["mlp.fc1"], **{key: {"mlp.fc1": 2}})
        with pytest.raises(ValueError, match=f"{key}={{'mlp.fc1': 2}}, but one rank and one strength are needed"):
            adapter_settings(get_peft_model(make_model(), settings))
    ia3 = IA3Config(target_modules=["mlp.fc1"], feedforward_modules=["mlp.fc1"])
    with pytest.raises(ValueError, match="IA3, but adapters that are trained further must be LoRA"):
        adapter_settings(get_peft_model(make_model(), ia3))


def test_what_an_adapter_would_not_hold_is_refused(tmp_path: Path, make_model: MakeModel) -> None:
    """Trained weights beside it, and LoRA on TTT layers (`"all-linear"`) that its base does not have."""
    make_model(ttt=None).save_pretrained(tmp_path / "base")
    model = load(tmp_path / "base", ttt_config=SECTION)
    everywhere = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear"))
    with pytest.raises(ValueError, match=r"TTT layers that are new: neither it nor its base .*lora_targets\(config\)"):
        save_adapter(everywhere, tmp_path / "adapter")
    model = everywhere.unload()
    model.save_pretrained(tmp_path / "with_ttt")
    model = get_peft_model(load(tmp_path / "with_ttt"), LoraConfig(r=2, target_modules="all-linear"))
    save_adapter(wake(model), tmp_path / "adapter")
    assert torch.equal(logits(load(tmp_path / "adapter").eval()), logits(model))
    plain = get_peft_model(load(tmp_path / "with_ttt"), LoraConfig(r=2, target_modules=["fc1"]))
    plain.get_base_model().model.layers[1].ttt_norm.weight.requires_grad_(True)
    with pytest.raises(ValueError, match=r"1 weights are trained, but no adapter holds them \(model.layers.1.ttt_norm"):
        save_adapter(plain, tmp_path / "lost")
    assert not (tmp_path / "lost").exists()


def test_peft_does_not_leave_out_ttt_layers_without_a_word(tmp_path: Path, make_model: MakeModel) -> None:
    make_model(ttt=None).save_pretrained(tmp_path / "base")
    model = wake(make_trainable(load(tmp_path / "base", ttt_config=SECTION), "lora+ttt"))
    save_adapter(model, tmp_path / "adapter")
    with pytest.raises(
        ValueError, match=r"weights of TTT layers have no place in the model .*Load its base with the same"
    ):
        PeftModel.from_pretrained(load(tmp_path / "base"), tmp_path / "adapter")
    again = PeftModel.from_pretrained(load(tmp_path / "base", ttt_config=SECTION), tmp_path / "adapter").eval()
    assert torch.equal(logits(again), logits(model))


def test_dora_is_loaded_by_peft(tmp_path: Path, make_model: MakeModel) -> None:
    make_model().save_pretrained(tmp_path / "base")
    targets = lora_targets(load(tmp_path / "base").config)
    model = get_peft_model(load(tmp_path / "base"), LoraConfig(r=2, target_modules=targets, use_dora=True))
    save_adapter(wake(model), tmp_path / "adapter")
    with pytest.raises(ValueError, match=r"do not fit: .*DoRA, are loaded by peft: PeftModel.from_pretrained\(BASE"):
        load(tmp_path / "adapter")
    again = PeftModel.from_pretrained(load(tmp_path / "base"), tmp_path / "adapter").eval()
    assert torch.equal(logits(again), logits(model))
    assert (logits(again.merge_and_unload()) - logits(model)).abs().max() < 1e-5
