"""The choice among torch, fla and Triton: what runs where, what is refused, and what falls back with a reason."""

import sys
import types
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from typing import Any

import pytest
import torch
from torch import Tensor

from hf_moshi_ttt.memory import delta_kernels
from hf_moshi_ttt.memory.delta_kernels import chosen_kernel, learn, use_memory_kernel
from hf_moshi_ttt.memory.online import naive_online

from ..fixtures.online_cases import make_input, make_layer, make_rule_case

SMALL = torch.zeros(1, 1, 8, 4)


def naive_fla(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    """fla's rule and its layout `[B, T, H, ...]`, frame by frame; its default of the scale is not 1."""
    matrix, answers = options["initial_state"], []
    for t in range(v.shape[1]):
        matrix = matrix * g[:, t, :, None, None].exp()
        error = v[:, t] - torch.einsum("bhkv,bhk->bhv", matrix, k[:, t])
        matrix = matrix + torch.einsum("bhk,bhv->bhkv", beta[:, t, :, None] * k[:, t], error)
        answers.append(torch.einsum("bhkv,bhk->bhv", matrix, q[:, t]) * options.get("scale", k.shape[-1] ** -0.5))
    return torch.stack(answers, dim=1), matrix if options["output_final_state"] else None


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A stand-in of fla, and the names of its rules that were called."""
    names: list[str] = []
    rules = types.ModuleType("fla.ops.gated_delta_rule")
    for name in ("chunk_gated_delta_rule", "fused_recurrent_gated_delta_rule"):

        def rule(*frames: Tensor, name: str = name, **options: Any) -> Any:
            assert all(x.is_contiguous() for x in frames)
            names.append(name)
            return naive_fla(*frames, **options)

        setattr(rules, name, rule)
    for name, module in (("fla", types.ModuleType("fla")), ("fla.ops.gated_delta_rule", rules)):
        module.__spec__ = ModuleSpec(name, None)
        monkeypatch.setitem(sys.modules, name, module)
    return names


class _OnCuda(torch.Tensor):
    """A tensor of CPUs that says it is on a GPU."""

    is_cuda = True


@pytest.fixture
def on_cuda() -> Iterator[Any]:
    forget = delta_kernels._is_sound.cache_clear
    forget()
    yield lambda x: x.as_subclass(_OnCuda)
    forget()


def plain(*tensors: Tensor) -> list[Tensor]:
    return [x.as_subclass(torch.Tensor) for x in tensors]


def without(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    installed = delta_kernels._is_installed
    monkeypatch.setattr(delta_kernels, "_is_installed", lambda name: name != package and installed(name))


def test_cpus_run_torch_under_auto(called: list[str]) -> None:
    case = make_rule_case(5)
    for own, true in zip(learn(*case), naive_online(*case), strict=True):
        torch.testing.assert_close(own, true)
    assert called == [] and chosen_kernel(SMALL) == "torch"


@pytest.mark.parametrize(
    ("frames", "grad", "expected"),
    [(1, True, "chunk"), (1, False, "fused_recurrent"), (9, True, "chunk"), (9, False, "chunk")],
)
def test_fla_is_given_the_rule_with_a_backward_pass_where_it_is_needed(
    called: list[str], monkeypatch: pytest.MonkeyPatch, on_cuda: Any, frames: int, grad: bool, expected: str
) -> None:
    monkeypatch.setattr(delta_kernels, "_is_sound", lambda *_: True)
    slow, tokens, fast = make_rule_case(frames)
    with torch.set_grad_enabled(grad):
        found = plain(*learn(slow, tokens, on_cuda(fast)))
    assert called == [f"{expected}_gated_delta_rule"]
    for own, true in zip(found, naive_online(slow, tokens, fast), strict=True):
        torch.testing.assert_close(own, true)


def test_auto_takes_fla_then_triton_then_torch(
    called: list[str], monkeypatch: pytest.MonkeyPatch, on_cuda: Any
) -> None:
    monkeypatch.setattr(delta_kernels, "_is_sound", lambda *_: True)
    monkeypatch.setattr(delta_kernels, "_is_installed", lambda _: True)
    fitting = {256: "fla", 257: "triton", 512: "triton", 513: "torch"}
    assert {width: chosen_kernel(on_cuda(torch.zeros(1, 1, width, 4))) for width in fitting} == fitting
    assert chosen_kernel(on_cuda(SMALL.double())) == "torch"
    without(monkeypatch, "fla")
    assert chosen_kernel(on_cuda(SMALL)) == "triton"


def test_auto_tries_a_kernel_once_before_it_takes_it(called: list[str], on_cuda: Any) -> None:
    with use_memory_kernel("auto"):
        assert [chosen_kernel(on_cuda(SMALL)) for _ in range(2)] == ["fla"] * 2
    assert called == ["chunk_gated_delta_rule"]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [(lambda found: 1.1 * found, "differ from torch's by"), (lambda found: found.no_such_thing, "AttributeError: ")],
)
def test_auto_says_why_it_falls_back(
    called: list[str], monkeypatch: pytest.MonkeyPatch, on_cuda: Any, answer: Any, reason: str
) -> None:
    without(monkeypatch, "triton")
    rules = sys.modules["fla.ops.gated_delta_rule"]

    def broken(*frames: Tensor, **options: Any) -> Any:
        found, after = naive_fla(*frames, **options)
        return answer(found), after

    monkeypatch.setattr(rules, "chunk_gated_delta_rule", broken)
    with pytest.warns(UserWarning, match=rf"Memory kernel 'fla' is not used on cpu: .*{reason}"):
        assert chosen_kernel(on_cuda(SMALL)) == "torch"
    assert chosen_kernel(on_cuda(SMALL)) == "torch"  # without a second warning


@pytest.mark.parametrize(
    ("name", "fast", "reason"),
    [
        ("fla", SMALL, "'fla': it runs on CUDA, and the memory is on cpu. Use auto or torch."),
        ("fla", torch.zeros(1, 1, 257, 4), "features are 257 wide, and it takes at most 256"),
        ("fla", SMALL.double(), "the memory is torch.float64, and it takes torch.float32"),
        ("triton", torch.zeros(1, 1, 513, 4), "features are 513 wide, and it takes at most 512"),
    ],
)
def test_a_named_kernel_that_cannot_run_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, fast: Tensor, reason: str
) -> None:
    monkeypatch.setattr(delta_kernels, "_is_installed", lambda _: True)
    with use_memory_kernel(name), pytest.raises(ValueError, match=reason):
        chosen_kernel(fast)


@pytest.mark.parametrize(("name", "package"), [("fla", "flash-linear-attention"), ("triton", "triton")])
def test_an_absent_package_is_named(monkeypatch: pytest.MonkeyPatch, name: str, package: str) -> None:
    without(monkeypatch, name)
    with use_memory_kernel(name), pytest.raises(ValueError, match=rf"{package} is not installed \(pip install"):
        chosen_kernel(SMALL)


def test_triton_needs_cuda_or_its_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delta_kernels, "_is_installed", lambda _: True)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with use_memory_kernel("triton"), pytest.raises(ValueError, match="it runs on CUDA"):
        chosen_kernel(SMALL)


def test_unknown_names_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="'cuda' is no memory kernel; choose from auto, torch, fla, triton"):
        use_memory_kernel("cuda").__enter__()
    monkeypatch.setattr(delta_kernels, "_names", ["cuda"])  # as from the environment
    with pytest.raises(ValueError, match="HF_MOSHI_TTT_KERNEL: 'cuda' is no memory kernel"):
        chosen_kernel(SMALL)


def test_a_layer_runs_the_kernel_of_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    monkeypatch.setattr(delta_kernels, "why_not", lambda *_: "")
    monkeypatch.setitem(delta_kernels._RULES, "fla", lambda *case: ran.append("fla") or naive_online(*case))
    layer, x = make_layer(), make_input(3)
    with use_memory_kernel("fla"):
        own = layer(x).output
    assert ran == ["fla"]
    torch.testing.assert_close(own, layer(x).output)
    assert ran == ["fla"]
