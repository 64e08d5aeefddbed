"""Which form of an output runs: torch on CPUs, kernels that were named, and those a trial found equal to torch."""

from typing import Any
from unittest import mock

import pytest
import torch

from hf_moshi_ttt.memory import answer_kernels, triton_answers
from hf_moshi_ttt.memory.answer_kernels import outputs
from hf_moshi_ttt.memory.delta_kernels import use_memory_kernel

from ..fixtures.kernel_trials import one_trial
from .test_triton_answers import make_parts

pytestmark = pytest.mark.skipif(triton_answers.triton is None, reason="triton is not installed")
PARTS = make_parts(2, 4, True, True)
MEMORY = torch.zeros(2, 3, 8, 4)


@pytest.mark.parametrize(("kernel", "launches"), [("auto", 0), ("torch", 0), ("triton", 1)])
def test_a_cpu_runs_torch_unless_kernels_are_named(kernel: str, launches: int) -> None:
    wrapped = mock.patch.object(triton_answers, "launch", wraps=triton_answers.launch)
    with wrapped as launched, use_memory_kernel(kernel):
        outputs(PARTS, 0, MEMORY)
    assert launched.call_count == launches


@pytest.mark.parametrize("is_broken", [False, True])
def test_auto_compares_the_kernels_once(monkeypatch: pytest.MonkeyPatch, is_broken: bool) -> None:
    true = answer_kernels.triton_outputs

    def form(*case: Any) -> Any:
        z, last = true(*case)
        return (1.1 * z if is_broken else z), last

    monkeypatch.setattr(answer_kernels, "triton_outputs", form)
    monkeypatch.setattr(answer_kernels, "_TRIAL_FRAMES", 3)
    with one_trial(monkeypatch, answer_kernels, "the answers", is_broken):
        found, _ = outputs(PARTS, 0, MEMORY)
        assert torch.equal(outputs(PARTS, 0, MEMORY)[0], found)
    assert torch.equal(found, (answer_kernels._torch_form if is_broken else true)(PARTS, 0)[0])
