"""Files with kernels load where Triton is not installed."""

import subprocess
import sys

WITHOUT_TRITON = """
import sys
sys.modules["triton"] = None  # importing it fails
from hf_moshi_ttt.memory import optional_triton, triton_answers, triton_chunks, triton_chunks_back, triton_features
from hf_moshi_ttt.memory import triton_delta_rule, triton_frame, triton_front_end
assert optional_triton.triton is None and optional_triton.jit(len) is len
assert callable(triton_answers._backward_kernel) and callable(triton_chunks_back.backward_kernel)
assert callable(triton_features.gelu)
assert callable(triton_frame._frame_kernel) and callable(triton_front_end._forward_kernel)
"""


def test_kernels_load_without_triton_as_plain_functions() -> None:
    run = subprocess.run([sys.executable, "-c", WITHOUT_TRITON], capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")
