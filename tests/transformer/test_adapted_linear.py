"""Linears with plain LoRA adapters equal peft's own, with gradients; whatever is more than that is called."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from hf_moshi_ttt.transformer import adapted_linear, codebook_linears
from hf_moshi_ttt.transformer.adapted_linear import linear_of, plain_adapter, plain_adapters
from hf_moshi_ttt.transformer.codebook_linears import linear_per_codebook

WIDTH, OUT = 4, 6
MakeModel = Callable[..., Any]


class OneLinear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, OUT, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Through the linear."""
        return self.linear(x)


def adapted(dtype: torch.dtype = torch.float32, **options: Any) -> Any:
    """A linear of a dtype with an adapter in float32 whose every weight does something, scaled by 1.5."""
    torch.manual_seed(0)
    model: Any = get_peft_model(OneLinear(), LoraConfig(r=2, lora_alpha=3, target_modules=["linear"], **options))
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    linear_in(model).base_layer.to(dtype)
    return model


def linear_in(model: Any) -> Any:
    return model.base_model.model.linear


@pytest.fixture
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapted_linear, "_counts_kernels", lambda _: True)


def results(module: Any, form: Callable[[Any, Tensor], Tensor], x: Tensor) -> list[Tensor]:
    """The output, and the gradients of what is trained."""
    x = x.detach().requires_grad_()
    output = form(module, x)
    leaves = [x, *(parameter for parameter in module.parameters() if parameter.requires_grad)]
    loss = (output.float() * torch.linspace(-1, 2, output.numel()).view(output.shape)).sum()
    return [output, *torch.autograd.grad(loss, leaves)]


def calls_of(monkeypatch: pytest.MonkeyPatch, module: Any) -> list[int]:
    """Grows whenever peft's own forward runs."""
    calls: list[int] = []
    own = type(module).forward

    def forward(self: Any, *args: Any, **options: Any) -> Tensor:
        calls.append(1)
        return own(self, *args, **options)

    monkeypatch.setattr(type(module), "forward", forward)
    return calls


@pytest.mark.usefixtures("on_a_gpu")
@pytest.mark.parametrize("shape", [(WIDTH,), (1, WIDTH), (2, 5, WIDTH)])
def test_outputs_and_gradients_are_those_of_peft(monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...]) -> None:
    module = linear_in(adapted())
    x, calls = torch.randn(shape), calls_of(monkeypatch, module)
    found = results(module, linear_of, x)
    assert not calls
    for own, true in zip(found, results(module, lambda linear, y: linear(y), x), strict=True):
        assert own.dtype == true.dtype
        torch.testing.assert_close(own, true, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("on_a_gpu")
def test_in_bfloat16_it_is_no_farther_from_the_truth_than_peft() -> None:
    module, x = linear_in(adapted(torch.bfloat16)), torch.randn(7, 5, WIDTH).bfloat16()
    found, of_peft = (results(module, form, x) for form in (linear_of, lambda linear, y: linear(y)))
    truth = results(module.double(), lambda linear, y: linear(y), x.double())
    for own, other, true in zip(found, of_peft, truth, strict=True):
        assert own.dtype == other.dtype
        errors = [(y.double() - true).abs().max() / true.abs().max() for y in (own, other)]
        assert errors[0] <= max(1.01 * errors[1], 1e-6)


@pytest.mark.usefixtures("on_a_gpu")
def test_an_adapter_may_be_narrower_than_its_input() -> None:
    module, x = linear_in(adapted()), torch.randn(3, WIDTH)
    for part in (module.lora_A, module.lora_B):
        part.bfloat16()
    found, of_peft = (results(module, form, x) for form in (linear_of, lambda linear, y: linear(y)))
    for own, true in zip(found, of_peft, strict=True):
        assert own.dtype == true.dtype
        torch.testing.assert_close(own, true, rtol=3e-2, atol=3e-2)


@pytest.mark.usefixtures("on_a_gpu")
def test_autocast_computes_the_adapter_in_its_own_dtype() -> None:
    module, x = linear_in(adapted()), torch.randn(7, WIDTH)
    with torch.autocast("cpu", torch.bfloat16):
        found, of_peft = (results(module, form, x) for form in (linear_of, lambda linear, y: linear(y)))
    exact = results(module, linear_of, x)[0]
    assert found[0].dtype == torch.bfloat16 and not torch.equal(found[0].float(), exact)
    for own, true in zip(found, of_peft, strict=True):
        assert own.dtype == true.dtype
        torch.testing.assert_close(own, true, rtol=3e-2, atol=3e-2)


@pytest.mark.usefixtures("on_a_gpu")
@pytest.mark.parametrize("frozen", ["input", "down", "up", "adapter"])
def test_only_what_is_trained_has_a_gradient(frozen: str) -> None:
    module, x = linear_in(adapted()), torch.randn(3, WIDTH, requires_grad=frozen != "input")
    parts = {"down": [module.lora_A], "up": [module.lora_B], "adapter": [module.lora_A, module.lora_B]}
    for part in parts.get(frozen, []):
        part.requires_grad_(False)
    leaves = [y for y in (x, *module.parameters()) if y.requires_grad]
    found, expected = (torch.autograd.grad(y.sin().sum(), leaves) for y in (linear_of(module, x), module(x)))
    for own, true in zip(found, expected, strict=True):
        torch.testing.assert_close(own, true)


@pytest.mark.usefixtures("on_a_gpu")
def test_a_second_derivative_is_refused() -> None:
    module, x = linear_in(adapted()), torch.randn(3, WIDTH, requires_grad=True)
    (grad,) = torch.autograd.grad(linear_of(module, x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def add_an_adapter(model: Any) -> None:
    model.add_adapter("other", LoraConfig(r=2, target_modules=["linear"]))
    model.base_model.set_adapter(["default", "other"])


TOUCHED: dict[str, tuple[dict[str, Any], Callable[[Any], object]]] = {
    "disabled": ({}, lambda model: model.base_model.disable_adapter_layers()),
    "merged": ({}, lambda model: model.merge_adapter()),
    "dropout": ({"lora_dropout": 0.5}, lambda model: model.train()),
    "a variant": ({"use_dora": True}, lambda model: None),
    "a bias": ({"lora_bias": True}, lambda model: None),
    "another adapter": ({}, add_an_adapter),
    "a base that is trained": ({}, lambda model: linear_in(model).base_layer.requires_grad_()),
    "a hook": ({}, lambda model: linear_in(model).register_forward_hook(lambda *found: -found[2])),
    "a hook of a part": ({}, lambda model: linear_in(model).lora_A.default.register_forward_hook(lambda *_: None)),
    "no cast": ({}, lambda model: setattr(linear_in(model), "cast_input_dtype_enabled", False)),
}


@pytest.mark.usefixtures("on_a_gpu")
@pytest.mark.parametrize("touched", TOUCHED)
def test_what_is_more_than_a_plain_adapter_is_called(monkeypatch: pytest.MonkeyPatch, touched: str) -> None:
    options, touch = TOUCHED[touched]
    model = adapted(**options)
    touch(model)
    module, x = linear_in(model), torch.randn(3, WIDTH)
    assert plain_adapter(module) is None
    calls = calls_of(monkeypatch, module)
    torch.manual_seed(1)
    found = linear_of(module, x)
    assert calls
    torch.manual_seed(1)
    torch.testing.assert_close(found, module(x), rtol=0, atol=0)


class Quantized(Tensor):
    """A weight that is more than its numbers."""


def test_a_quantized_base_is_no_plain_linear() -> None:
    module = linear_in(adapted())
    weight = nn.Parameter(torch.randn(OUT, WIDTH).as_subclass(Quantized), requires_grad=False)  # type: ignore[arg-type]
    module.base_layer.weight = weight
    assert plain_adapter(module) is None


def test_dropout_that_rests_is_plain() -> None:
    assert plain_adapter(linear_in(adapted(lora_dropout=0.5).eval())) is not None


def test_a_cpu_calls_peft(monkeypatch: pytest.MonkeyPatch) -> None:
    module = linear_in(adapted())
    calls = calls_of(monkeypatch, module)
    linear_of(module, torch.randn(3, WIDTH))
    assert calls


class Codebooks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linears = nn.ModuleList(nn.Linear(WIDTH, OUT, bias=False) for _ in range(3))


def adapted_codebooks(dtype: torch.dtype = torch.float32) -> nn.ModuleList:
    torch.manual_seed(0)
    targets = [f"linears.{i}" for i in range(3)]
    model: Any = get_peft_model(Codebooks(), LoraConfig(r=2, lora_alpha=3, target_modules=targets))
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    linears: nn.ModuleList = model.base_model.model.linears
    for linear in linears:
        linear.base_layer.to(dtype)  # type: ignore[union-attr, operator]
    return linears


def one_by_one(modules: Any, x_QNI: Tensor) -> Tensor:
    return torch.stack([module(x) for module, x in zip(modules, x_QNI, strict=True)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_codebooks_at_once_equal_each_on_its_row(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    monkeypatch.setattr(codebook_linears, "_products_one_by_one", lambda _: False)
    modules, x = adapted_codebooks(dtype), torch.randn(3, 5, WIDTH, dtype=dtype)
    calls = calls_of(monkeypatch, modules[0])
    found = results(modules, linear_per_codebook, x)
    assert not calls
    tolerance = 1e-5 if dtype == torch.float32 else 3e-2
    for own, true in zip(found, results(modules, one_by_one, x), strict=True):
        assert own.dtype == true.dtype
        torch.testing.assert_close(own, true, rtol=tolerance, atol=tolerance)


def test_gradients_of_codebooks_are_taken_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gradient in another layout than its parameter would be copied, a kernel for each."""
    monkeypatch.setattr(codebook_linears, "_products_one_by_one", lambda _: False)
    modules = adapted_codebooks()
    linear_per_codebook(modules, torch.randn(3, 5, WIDTH)).sum().backward()
    for made in ("lora_A", "lora_B"):
        grads = [getattr(module, made).default.weight.grad for module in modules]
        assert len({grad.untyped_storage().data_ptr() for grad in grads}) == 1


def test_codebooks_with_adapters_of_two_kinds_are_called() -> None:
    modules = adapted_codebooks()
    assert plain_adapters(modules) is not None
    modules[2].scale_layer(2.0)  # type: ignore[operator]
    assert plain_adapters(modules) is None
    modules[1].merge()  # type: ignore[operator]
    assert plain_adapters(modules[:2]) is None
