"""Triton where it is installed: files with kernels load without it, and `delta_kernels.py` does not run them then."""

from typing import Any

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = tl = None


def jit(kernel: Any) -> Any:
    """The kernel as Triton compiles it; as it is, where there is no Triton."""
    return kernel if triton is None else triton.jit(kernel)
