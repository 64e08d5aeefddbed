"""Linears with plain LoRA adapters equal peft's own, with gradients; whatever is more than that is called."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from hf_moshi_ttt.checkpoints.adapters import make_trainable
from hf_moshi_ttt.memory import recomputation
from hf_moshi_ttt.transformer import adapted_linear, codebook_linears, depth_transformer, rope
from hf_moshi_ttt.transformer.adapted_linear import linear_of, plain_adapter, plain_adapters
from hf_moshi_ttt.transformer.codebook_linears import each_linear, linear_per_codebook

from ..conftest import random_codes

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
    for module in (adapted_linear, codebook_linears, depth_transformer, recomputation, rope):
        monkeypatch.setattr(module, "counts_kernels", lambda _: True)
    monkeypatch.setattr(codebook_linears, "_products_one_by_one", lambda _: False)


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
@pytest.mark.parametrize("shape", [(WIDTH,), (1, WIDTH), (2, 5, WIDTH), (2, 0, WIDTH)])
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
@pytest.mark.parametrize("form", [linear_of, linear_per_codebook, each_linear])
def test_a_second_derivative_is_refused(form: Any) -> None:
    """Also where `torch.autograd.grad` finds another way to what it is asked for."""
    modules, x = adapted_codebooks(), torch.randn(3, 5, WIDTH, requires_grad=True)
    output = form(modules[0] if form is linear_of else modules, x)
    with pytest.raises(RuntimeError, match="create_graph=True asks for a second derivative"):
        torch.autograd.grad(output.square().sum() + x.pow(3).sum(), x, create_graph=True)


class _Products(TorchDispatchMode):
    """Counts products with matrices of a shape."""

    def __init__(self, *shapes: tuple[int, int]) -> None:
        super().__init__()
        self.shapes, self.count = shapes, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        is_product = func.overloadpacket.__name__ in ("mm", "addmm")
        self.count += is_product and tuple(args[-1].shape) in self.shapes
        return func(*args, **(kwargs or {}))


@pytest.mark.usefixtures("on_a_gpu")
def test_a_checkpointed_layer_that_ends_with_it_makes_no_second_product_with_the_base() -> None:
    module, x = linear_in(adapted()), torch.randn(9, WIDTH, requires_grad=True)
    with _Products((WIDTH, OUT), (OUT, WIDTH)) as products:
        output = checkpoint(linear_of, module, x, use_reentrant=False)
        output.square().sum().backward()
    assert products.count == 2  # forward, and for the gradient of x
    expected = torch.autograd.grad(module(x).square().sum(), x)[0]
    torch.testing.assert_close(x.grad, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_training_step_on_a_gpu_is_that_on_a_cpu(
    request: pytest.FixtureRequest, make_model: MakeModel, dtype: torch.dtype
) -> None:
    """Of the whole model, checkpointed, with adapters of which every weight does something."""
    model = make_trainable(make_model(), "lora+ttt").train()
    for parameter in model.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.to(dtype)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.manual_seed(len(name))
            nn.init.normal_(parameter.data, std=0.1)
    model.get_base_model().gradient_checkpointing_enable({"use_reentrant": False})
    codes = random_codes(model.get_base_model().config, 2, 11)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    found = []
    for on_a_gpu in (False, True):
        if on_a_gpu:
            request.getfixturevalue("on_a_gpu")
        output = model(codes=codes, labels=codes, return_logits=False)
        found.append([output.losses, *torch.autograd.grad(output.loss, trained)])
    tolerance = 1e-5 if dtype == torch.float32 else 5e-2
    for cpu, gpu in zip(*found, strict=True):
        assert (cpu - gpu).norm() <= tolerance * max(cpu.norm(), 1e-3)


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


@pytest.mark.usefixtures("on_a_gpu")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("form", ["one", "each its row", "one row"])
def test_selective_checkpointing_may_keep_products(form: str, dtype: torch.dtype) -> None:
    def policy(context: Any, operation: Any, *args: Any, **options: Any) -> CheckpointPolicy:
        keeps = operation in (torch.ops.aten.mm.default, torch.ops.aten.bmm.default)
        return CheckpointPolicy.MUST_SAVE if keeps else CheckpointPolicy.PREFER_RECOMPUTE

    modules, x = adapted_codebooks(dtype), torch.randn(3, 5, WIDTH).to(dtype).requires_grad_()
    forms: dict[str, Any] = {"one": linear_of, "each its row": linear_per_codebook, "one row": each_linear}
    module: Any = modules[0] if form == "one" else modules

    def layer(y: Tensor) -> Tensor:
        return forms[form](module, y).float().sin()

    kept = partial(create_selective_checkpoint_contexts, policy)
    output = checkpoint(layer, x, use_reentrant=False, context_fn=kept)
    torch.testing.assert_close(*(torch.autograd.grad(y.sum(), x)[0] for y in (output, layer(x))))


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


def of_one(modules: Any, x: Tensor) -> Tensor:
    return torch.stack([module(x) for module in modules])


FORMS = [(linear_per_codebook, one_by_one, (3, 5)), (each_linear, of_one, (2, 5))]


@pytest.mark.usefixtures("on_a_gpu")
@pytest.mark.parametrize(("form", "plain", "rows"), FORMS, ids=["each its row", "one row"])
def test_codebooks_at_once_equal_each_by_itself(
    monkeypatch: pytest.MonkeyPatch, form: Any, plain: Any, rows: tuple[int, ...]
) -> None:
    modules, x = adapted_codebooks(), torch.randn(*rows, WIDTH)
    calls = calls_of(monkeypatch, modules[0])
    found = results(modules, form, x)
    assert not calls
    assert found[0].is_contiguous()
    for own, true in zip(found, results(modules, plain, x), strict=True):
        assert own.dtype == true.dtype
        torch.testing.assert_close(own, true, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("on_a_gpu")
@pytest.mark.parametrize(("form", "plain", "rows"), FORMS, ids=["each its row", "one row"])
def test_codebooks_in_bfloat16_are_no_farther_from_the_truth(form: Any, plain: Any, rows: tuple[int, ...]) -> None:
    modules, x = adapted_codebooks(torch.bfloat16), torch.randn(*rows, WIDTH).bfloat16()
    found, of_peft = (results(modules, each, x) for each in (form, plain))
    truth = results(modules.double(), plain, x.double())
    for own, other, true in zip(found, of_peft, truth, strict=True):
        assert own.dtype == other.dtype
        errors = [(y.double() - true).abs().max() / true.abs().max() for y in (own, other)]
        assert errors[0] <= max(1.01 * errors[1], 1e-6)


@pytest.mark.usefixtures("on_a_gpu")
@pytest.mark.parametrize(("form", "plain", "rows"), FORMS, ids=["each its row", "one row"])
def test_codebooks_under_autocast(form: Any, plain: Any, rows: tuple[int, ...]) -> None:
    modules, x = adapted_codebooks(), torch.randn(*rows, WIDTH)
    with torch.autocast("cpu", torch.bfloat16):
        found, of_peft = (results(modules, each, x) for each in (form, plain))
    truth = results(modules.double(), plain, x.double())
    for own, other, true in zip(found, of_peft, truth, strict=True):
        assert own.dtype == other.dtype
        errors = [float((y.double() - true).norm() / true.norm()) for y in (own, other)]
        assert 1e-4 < errors[0] < max(1e-2, 1.5 * errors[1])


@pytest.mark.usefixtures("on_a_gpu")
@pytest.mark.parametrize(("form", "plain", "rows"), FORMS, ids=["each its row", "one row"])
def test_codebooks_that_are_not_trained_pass_gradients_on(form: Any, plain: Any, rows: tuple[int, ...]) -> None:
    modules, x = adapted_codebooks().requires_grad_(False), torch.randn(*rows, WIDTH, requires_grad=True)
    found, expected = (torch.autograd.grad(y(modules, x).sin().sum(), x)[0] for y in (form, plain))
    torch.testing.assert_close(found, expected)


@pytest.mark.usefixtures("on_a_gpu")
def test_gradients_of_codebooks_are_taken_as_they_are() -> None:
    """A gradient in another layout than its parameter would be copied, a kernel for each."""
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
