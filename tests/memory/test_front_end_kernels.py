"""Which form of the front end runs: torch on CPUs, kernels that were named, and those a trial found equal to torch."""

from typing import Any
from unittest import mock

import pytest
import torch

from hf_moshi_ttt.memory import front_end_kernels, triton_front_end
from hf_moshi_ttt.memory.delta_kernels import use_memory_kernel
from hf_moshi_ttt.memory.front_end import Span
from hf_moshi_ttt.memory.front_end_kernels import span_frames

from ..fixtures.kernel_trials import one_trial
from .test_triton_front_end import make_case

pytestmark = pytest.mark.skipif(triton_front_end.triton is None, reason="triton is not installed")
CASE = make_case(3, 4, Span(2, 1, 5, 0), True)
MEMORY = torch.zeros(2, 2, 8, 4)


@pytest.mark.parametrize(("kernel", "launches"), [("auto", 0), ("torch", 0), ("triton", 1)])
def test_a_cpu_runs_torch_unless_kernels_are_named(kernel: str, launches: int) -> None:
    with (
        mock.patch.object(triton_front_end, "launch", wraps=triton_front_end.launch) as launched,
        use_memory_kernel(kernel),
    ):
        span_frames(*CASE, MEMORY)
    assert launched.call_count == launches


@pytest.mark.parametrize("is_broken", [False, True])
def test_auto_compares_the_kernels_once(monkeypatch: pytest.MonkeyPatch, is_broken: bool) -> None:
    true = front_end_kernels._triton_form

    def form(*case: Any) -> Any:
        found = true(*case)
        return found._replace(k=1.1 * found.k) if is_broken else found

    monkeypatch.setattr(front_end_kernels, "_triton_form", form)
    monkeypatch.setattr(front_end_kernels, "_TRIAL_FRAMES", 5)
    with one_trial(monkeypatch, front_end_kernels, "the front end", is_broken):
        found = span_frames(*CASE, MEMORY)
        assert torch.equal(span_frames(*CASE, MEMORY).k, found.k)
    expected = front_end_kernels._torch_form if is_broken else true
    assert torch.equal(found.k, expected(*CASE).k)
