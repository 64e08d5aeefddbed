"""Which implementation of the delta rule on features runs: torch, fla's kernels, or the Triton kernels of this package.

All of them compute the recurrence of `online.py`. The choice is made when the model runs and is never part of a
checkpoint: the environment variable HF_MOSHI_TTT_KERNEL, or `use_memory_kernel`.

| name | what | where |
| --- | --- | --- |
| `auto` | the first of fla, triton, torch that fits; torch with float64 and on CPUs | everywhere |
| `torch` | `delta_rule.py` | everywhere |
| `fla` | flash-linear-attention | CUDA, float32, I up to 256, where installed |
| `triton` | `triton_delta_rule.py` | CUDA, float32, I up to 512; on CPUs with TRITON_INTERPRET=1 |

Under `auto` a kernel is compared once, per device and widths, with torch on a few frames, gradients included; if it
does not compile or differs, a warning gives the reason and the next one is taken. A kernel that was named raises.
Implementations are imported when they first run.

Legend: B batch, H heads, T frames, F head width, I width of the features.
"""

import functools
import importlib
import importlib.util
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from .online import OnlineTokens, SlowLayer, unit_features

_VARIABLE = "HF_MOSHI_TTT_KERNEL"
_PACKAGES = {"fla": ("fla", "flash-linear-attention"), "triton": ("triton", "triton")}  # module, name to install
_WIDEST_FEATURES = {"fla": 256, "triton": 512}
_TRIAL_FRAMES = 70
_TRIAL_TOLERANCE = 2e-2  # the products of fla's kernels have the 10 bits of TF32
_names = [os.environ.get(_VARIABLE, "auto")]
_verdicts: dict[tuple[Any, ...], bool] = {}

Answered = tuple[Tensor, Tensor]


@contextmanager
def use_memory_kernel(name: str) -> Iterator[None]:
    """Inside the block, the delta rule of TTT layers runs as `name` says: auto, torch, fla or triton.

    Raises:
        ValueError: another name.
    """
    _require_name(name, "use_memory_kernel")
    _names.append(name)
    try:
        yield
    finally:
        _names.pop()


def learn(slow_layers: Sequence[SlowLayer], tokens: OnlineTokens, fast_weights: Tensor) -> Answered:
    """Learns from all frames and answers to them: z `[B, H, T, F]`, and the fast weights after them.

    Args:
        fast_weights: S before the first frame, `[B, H, I, F]`. It is not changed.

    Raises:
        ValueError: the kernel that was asked for by name cannot run here.
    """
    return _RULES[chosen_kernel(fast_weights)](slow_layers, tokens, fast_weights)


def chosen_kernel(fast_weights: Tensor) -> str:
    """The name of what computes the rule for S `[B, H, I, F]`: torch, fla or triton.

    Raises:
        ValueError: the kernel that was asked for by name cannot run here.
    """
    name = _names[-1]
    _require_name(name, _VARIABLE)
    if name == "torch":
        return name
    if name != "auto":
        reason = why_not(name, fast_weights)
        if reason:
            raise ValueError(f"Memory kernel {name!r}: {reason}. Use auto or torch.")
        return name
    if not fast_weights.is_cuda:
        return "torch"
    device, widths = str(fast_weights.device), tuple(fast_weights.shape[-2:])
    fitting = (x for x in ("fla", "triton") if not why_not(x, fast_weights) and _is_sound(x, device, widths))
    return next(fitting, "torch")


def why_not(name: str, fast_weights: Tensor) -> str:
    """Why fla or triton cannot run on S `[B, H, I, F]`; empty if it can."""
    width, widest, package = fast_weights.shape[-2], _WIDEST_FEATURES[name], _PACKAGES[name][1]
    if not _is_installed(name):
        return f"{package} is not installed (pip install {package})"
    if width > widest:
        return f"features are {width} wide, and it takes at most {widest}"
    if fast_weights.dtype != torch.float32:
        return f"the memory is {fast_weights.dtype}, and it takes torch.float32"
    interpreted = name == "triton" and os.environ.get("TRITON_INTERPRET") == "1"
    if not fast_weights.is_cuda and not interpreted:
        return f"it runs on CUDA, and the memory is on {fast_weights.device.type}"
    return ""


def _require_name(name: str, source: str) -> None:
    if name not in {"auto", *_RULES}:
        raise ValueError(f"{source}: {name!r} is no memory kernel; choose from auto, {', '.join(_RULES)}.")


def _is_installed(name: str) -> bool:
    return importlib.util.find_spec(_PACKAGES[name][0]) is not None


@functools.cache
def _is_sound(name: str, device: str, widths: tuple[int, int]) -> bool:
    """Whether a kernel gives the answers and gradients of torch; a warning says why not."""
    return passes_trial(f"Memory kernel {name!r}", device, lambda: _trial_difference(name, device, widths))


def is_chosen_by_trial() -> bool:
    """Whether kernels are compared with torch before they are taken, as none was named."""
    return _names[-1] == "auto"


def passes_trial(what: str, device: str, trial: Callable[[], float]) -> bool:
    """Whether a trial runs and finds a small difference from torch; a warning says why not.

    Args:
        trial: the largest difference of answers and gradients, each by the largest value of torch's.
    """
    try:
        difference = trial()
    except Exception as error:  # whatever a compiler or a driver raises is a reason to take the next one
        reason = f"{type(error).__name__}: {error}"
    else:
        if difference <= _TRIAL_TOLERANCE:
            return True
        reason = f"answers or gradients differ from torch's by {difference:.1e}, at most {_TRIAL_TOLERANCE} is allowed"
    warnings.warn(f"{what} is not used on {device}: {reason}", stacklevel=2)
    return False


def passes_one_trial(what: str, device: str, case: tuple[Any, ...], trial: Callable[[], float]) -> bool:
    """As `passes_trial`, which is asked once for each device and case."""
    key = (what, device, *case)
    if key not in _verdicts:
        _verdicts[key] = passes_trial(what, device, trial)
    return _verdicts[key]


def _trial_difference(name: str, device: str, widths: tuple[int, int]) -> float:
    """The largest difference of answers, fast weights and gradients, each by the largest value of torch's."""
    width, head_dim = widths
    generator = torch.Generator(device).manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(1, 2, *shape, generator=generator, device=device)

    q, k, v = (random(_TRIAL_FRAMES, head_dim) for _ in range(3))
    slow = [SlowLayer(random(head_dim, width)[0] / head_dim**0.5, random(1, width)[0])]
    tokens = OnlineTokens(q, k, v, -random(_TRIAL_FRAMES).abs() * 0.1, random(_TRIAL_FRAMES).sigmoid())
    fast = random(width, head_dim)
    own, true = (_with_gradients(_RULES[x], slow, tokens, fast) for x in (name, "torch"))
    return largest_difference(own, true)


def largest_difference(own: Iterable[Tensor], true: Iterable[Tensor]) -> float:
    """Of pairs of tensors, each by the largest value of the true one."""
    pairs = zip(own, true, strict=True)
    return max(((a - b).abs().max() / b.abs().max().clamp_min(1e-20)).item() for a, b in pairs)


def with_gradients(tensors: Iterable[Tensor | None], leaves: Iterable[Tensor]) -> list[Tensor]:
    """The tensors that are there and not empty, and the gradients of all of them together by `leaves`."""
    given = [x for x in tensors if x is not None and x.numel()]
    total = torch.stack([x.sin().sum() for x in given]).sum()
    used = [x for x in leaves if x.numel()]
    grads = torch.autograd.grad(total, used, allow_unused=True, materialize_grads=True)
    return [x.detach() for x in (*given, *grads)]


def _with_gradients(rule: Any, slow: Sequence[SlowLayer], tokens: OnlineTokens, fast: Tensor) -> list[Tensor]:
    with torch.enable_grad():
        leaves = [x.detach().requires_grad_() for x in (*tokens, *slow[0], fast)]
        answers, after = rule([SlowLayer(*leaves[5:7])], OnlineTokens(*leaves[:5]), leaves[7])
        grads = torch.autograd.grad(answers.sin().sum() + after.square().sum(), leaves)
    return [answers.detach(), after.detach(), *grads]


def _torch_rule(slow_layers: Sequence[SlowLayer], tokens: OnlineTokens, fast_weights: Tensor) -> Answered:
    from .delta_rule import delta_rule

    learned = delta_rule(slow_layers, tokens, fast_weights)
    return learned.answers, learned.fast_weights


def _fla_rule(slow_layers: Sequence[SlowLayer], tokens: OnlineTokens, fast_weights: Tensor) -> Answered:
    """fla's chunk kernel; its recurrent one, which has no backward pass, for a single frame without gradients."""
    rules = importlib.import_module("fla.ops.gated_delta_rule")
    is_single = tokens.v.shape[2] == 1 and not torch.is_grad_enabled()
    rule = rules.fused_recurrent_gated_delta_rule if is_single else rules.chunk_gated_delta_rule
    q, k = (unit_features(x, slow_layers) for x in (tokens.q, tokens.k))
    frames = (x.transpose(1, 2).contiguous() for x in (q, k, tokens.v, tokens.log_retention, tokens.write))
    answers, after = rule(*frames, scale=1.0, initial_state=fast_weights, output_final_state=True)
    return answers.transpose(1, 2), after


def _triton_rule(slow_layers: Sequence[SlowLayer], tokens: OnlineTokens, fast_weights: Tensor) -> Answered:
    from .triton_delta_rule import triton_chunks, triton_single_frame

    is_single = tokens.v.shape[2] == 1 and not torch.is_grad_enabled()
    return (triton_single_frame if is_single else triton_chunks)(slow_layers, tokens, fast_weights)


_RULES: dict[str, Callable[..., Answered]] = {"torch": _torch_rule, "fla": _fla_rule, "triton": _triton_rule}
