"""The gated delta learner: its equation frame by frame, what it forgets, and what it tells."""

import inspect
import math
import sys
import types
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.integrations.hub_kernels import use_kernel_func_from_hub_with_fallback

from hf_moshi_ttt.configuration_moshi_ttt import TTTConfig
from hf_moshi_ttt.memory import gated_delta
from hf_moshi_ttt.memory.gated_delta import GatedDeltaLearner, qwen3_next

from ..fixtures.ttt_cases import float64_rule

HEADS, WIDTH = 2, 8


def make_learner(**options: object) -> GatedDeltaLearner:
    learner = GatedDeltaLearner(HEADS, WIDTH, TTTConfig(learner="gated_delta", **options)).double()
    torch.nn.init.normal_(learner.output_norm_weight, mean=1, std=0.1)
    return learner


def make_inputs(frames: int, batch: int = 2, seed: int = 0) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    q, k, v = torch.randn(3, batch, HEADS, frames, WIDTH, generator=generator, dtype=torch.float64)
    return q, k, v, torch.randn(batch, HEADS, frames, 2, generator=generator, dtype=torch.float64)


def naive(learner: GatedDeltaLearner, q: Tensor, k: Tensor, v: Tensor, gates: Tensor) -> tuple[Tensor, Tensor]:
    """The equation, one frame at a time."""
    beta, matrix, answers = torch.sigmoid(gates[..., 0]), torch.zeros(*q.shape[:2], WIDTH, WIDTH).double(), []
    retention = torch.ones_like(beta)
    if learner.config.forget == "learned":
        scale = learner.log_decay_scale.exp()[:, None]
        retention = torch.exp(-scale * F.softplus(gates[..., 1] + learner.decay_bias[:, None]))
    for t in range(q.shape[2]):
        unit_q, unit_k = (x[:, :, t] / (x[:, :, t].square().sum(-1, keepdim=True) + 1e-6).sqrt() for x in (q, k))
        matrix = retention[:, :, t, None, None] * matrix
        error = v[:, :, t] - torch.einsum("bhkv,bhk->bhv", matrix, unit_k)
        matrix = matrix + beta[:, :, t, None, None] * unit_k[..., None] * error[:, :, None]
        answers.append(torch.einsum("bhkv,bhk->bhv", matrix, unit_q) / math.sqrt(WIDTH))
    z = F.rms_norm(torch.stack(answers, dim=2), (WIDTH,), eps=1e-6) * learner.output_norm_weight[:, None]
    return z, matrix


@pytest.mark.usefixtures(float64_rule.__name__)
@pytest.mark.parametrize("forget", ["learned", "none"])
@pytest.mark.parametrize("frames", [1, 63, 64, 65, 200])
def test_learner_is_the_equation_with_gradients(forget: str, frames: int) -> None:
    learner, found = make_learner(forget=forget, initial_retention=0.5), []
    inputs = tuple(x.requires_grad_() for x in make_inputs(frames))
    for form in (lambda *x: learner(*x, None, False)[:2], lambda *x: naive(learner, *x)):
        z, state = form(*inputs)
        matrix = state if isinstance(state, Tensor) else state.matrix
        grads = torch.autograd.grad(z.sin().sum() + matrix.sum(), [*inputs, *learner.parameters()])
        found.append([z, matrix, *grads])
    for fast, slow in zip(*found, strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-10, atol=1e-10)


def test_learner_is_the_equation_in_the_librarys_float32() -> None:
    learner, inputs = make_learner(), make_inputs(200)
    torch.testing.assert_close(learner(*inputs, None, False)[0], naive(learner, *inputs)[0], rtol=1e-4, atol=1e-5)


def test_fresh_learner_keeps_the_initial_factor_over_a_mini_batch() -> None:
    learner = GatedDeltaLearner(1, WIDTH, TTTConfig(initial_retention=0.9, mini_batch_size=5, learner="gated_delta"))
    silent = torch.full((1, 1, 5, 2), -100.0)  # nothing is written
    silent[..., 1] = 0
    state = learner.init_state(1)
    state.matrix.fill_(1.0)
    x = torch.randn(1, 1, 5, WIDTH)
    assert learner(x, x, x, silent, state, False)[1].matrix.mean().item() == pytest.approx(0.9, rel=1e-5)


@pytest.mark.usefixtures(float64_rule.__name__)
@pytest.mark.parametrize("write_logit", [None, 100.0])  # 100: a write strength of exactly 1
def test_diagnostics_are_errors_of_reconstruction(write_logit: float | None) -> None:
    learner, (q, k, v, gates) = make_learner(initial_retention=0.5), make_inputs(20)
    if write_logit is not None:
        gates[..., 0] = write_logit
    found = learner(q, k, v, gates, None, True)[2]
    torch.testing.assert_close(found.loss_initial, v.square().mean(-1))
    unit_k = F.normalize(k, dim=-1)
    retention = torch.exp(-F.softplus(gates[..., 1] + learner.decay_bias[:, None]))
    for t in (1, 7, 19):
        before, after = (naive(learner, *(x[:, :, :end] for x in (q, k, v, gates)))[1] for end in (t, t + 1))
        seen = torch.einsum("bhkv,bhk->bhv", before * retention[:, :, t, None, None], unit_k[:, :, t])
        torch.testing.assert_close(
            found.loss_before[:, :, t], (v[:, :, t] - seen).square().mean(-1), rtol=1e-4, atol=1e-6
        )
        seen = torch.einsum("bhkv,bhk->bhv", after, unit_k[:, :, t])
        torch.testing.assert_close(
            found.loss_after[:, :, t], (v[:, :, t] - seen).square().mean(-1), rtol=1e-4, atol=1e-6
        )
    assert found.delta_ratio is None
    assert ((found.key_dependent_share > 0.5) & (found.key_dependent_share < 1.2)).all()


KERNELS = {"torch_chunk_gated_delta_rule": "chunk_gated_delta_rule",
           "torch_recurrent_gated_delta_rule": "fused_recurrent_gated_delta_rule"}  # fmt: skip


@pytest.fixture
def called_kernels(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """transformers' functions as they are with fla installed; the names of the kernels that are called."""
    fla, called = types.ModuleType("fla"), []
    fla.ops = types.SimpleNamespace(gated_delta_rule=types.SimpleNamespace())  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fla", fla)
    for name, kernel in KERNELS.items():
        rule = inspect.unwrap(getattr(qwen3_next, name))

        def of_fla(q: Tensor, k: Tensor, v: Tensor, *, kernel: str = kernel, rule: Any = rule, **options: Any) -> Any:
            called.append(kernel)
            return rule(q, k, v, **options)

        of_fla.__signature__ = inspect.signature(rule)  # type: ignore[attr-defined]
        setattr(fla.ops.gated_delta_rule, kernel, of_fla)
        monkeypatch.setattr(qwen3_next, name, use_kernel_func_from_hub_with_fallback(kernel, "fla")(rule))
    return called


@pytest.mark.parametrize("frames", [1, 70])
def test_fla_is_left_alone_on_cpus(called_kernels: list[str], frames: int) -> None:
    learner = make_learner()
    q, k, v, gates = (x.float() for x in make_inputs(frames))
    qwen3_next.torch_chunk_gated_delta_rule(q, k, v, g=-gates[..., 0].abs(), beta=gates[..., 1].sigmoid())
    assert called_kernels == ["chunk_gated_delta_rule"]  # the stand-in is bound
    learner(q, k, v, gates, None, True)
    with torch.no_grad():
        learner(q, k, v, gates, None, False)
    assert called_kernels == ["chunk_gated_delta_rule"]


@pytest.mark.parametrize(
    ("frames", "grad", "expected"),
    [(1, True, "chunk_gated_delta_rule"), (1, False, "fused_recurrent_gated_delta_rule"),
     (70, True, "chunk_gated_delta_rule"), (70, False, "chunk_gated_delta_rule")],
)  # fmt: skip
def test_fla_is_used_on_gpus_with_a_backward_pass_where_it_is_needed(
    called_kernels: list[str], monkeypatch: pytest.MonkeyPatch, frames: int, grad: bool, expected: str
) -> None:
    monkeypatch.setattr(gated_delta, "_is_on_gpu", lambda _: True)
    with torch.set_grad_enabled(grad):
        make_learner()(*make_inputs(frames), None, False)
    assert called_kernels == [expected]
