"""Batched LoRA equals peft's adapters one by one, with gradients; whatever is more than a plain adapter is called."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from hf_moshi_ttt.transformer import codebook_linears
from hf_moshi_ttt.transformer.codebook_linears import linear_per_codebook
from hf_moshi_ttt.transformer.codebook_lora import plain_adapters


class Linears(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linears = nn.ModuleList(nn.Linear(4, 6, bias=False) for _ in range(3))


def adapted(**options: Any) -> Any:
    """Linears with adapters whose every weight does something."""
    torch.manual_seed(0)
    targets = [f"linears.{i}" for i in range(3)]
    model: Any = get_peft_model(Linears(), LoraConfig(r=2, lora_alpha=3, target_modules=targets, **options))
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model


def one_by_one(modules: Any, x_QNI: Tensor) -> Tensor:
    return torch.stack([module(x) for module, x in zip(modules, x_QNI, strict=True)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_adapters_at_once_equal_each_on_its_row(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    monkeypatch.setattr(codebook_linears, "_products_one_by_one", lambda _: False)
    model, x = adapted(), torch.randn(3, 5, 4, dtype=dtype, requires_grad=True)
    modules = model.base_model.model.linears
    for module in modules:
        module.base_layer.to(dtype)
    called: list[int] = []
    handle = torch.nn.modules.module.register_module_forward_hook(lambda *_: called.append(1))
    found = linear_per_codebook(modules, x)
    handle.remove()
    expected = one_by_one(modules, x)
    assert not called and found.dtype == expected.dtype == dtype
    leaves = [x, *(p for name, p in model.named_parameters() if "lora" in name)]
    grads = [torch.autograd.grad(y.float().square().sum(), leaves) for y in (found, expected)]
    tolerance = 1e-5 if dtype == torch.float32 else 3e-2
    for own, true in zip((found, *grads[0]), (expected, *grads[1]), strict=True):
        torch.testing.assert_close(own, true, rtol=tolerance, atol=tolerance)


def hook_one(model: Any) -> None:
    model.base_model.model.linears[1].lora_A["default"].register_forward_hook(lambda *_: None)


TOUCHED: dict[str, tuple[dict[str, Any], Callable[[Any], object]]] = {
    "disabled": ({}, lambda model: model.base_model.disable_adapter_layers()),
    "merged": ({}, lambda model: model.merge_adapter()),
    "dropout": ({"lora_dropout": 0.5}, lambda model: model.train()),
    "a variant": ({"use_dora": True}, lambda model: None),
    "a bias": ({"lora_bias": True}, lambda model: None),
    "a hook": ({}, hook_one),
    "another factor": ({}, lambda model: model.base_model.model.linears[2].scale_layer(2.0)),
}


@pytest.mark.parametrize("touched", TOUCHED)
def test_what_is_more_than_a_plain_adapter_is_called(touched: str) -> None:
    options, touch = TOUCHED[touched]
    model = adapted(**options)
    touch(model)
    assert plain_adapters(model.base_model.model.linears) is None


def test_dropout_that_rests_is_plain() -> None:
    model = adapted(lora_dropout=0.5).eval()
    assert plain_adapters(model.base_model.model.linears) is not None
