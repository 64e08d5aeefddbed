"""Where there is no GPU, Triton's kernels are interpreted; triton reads that when it is imported, which torch does."""

import os
from pathlib import Path

if not Path("/dev/nvidiactl").exists():
    os.environ["TRITON_INTERPRET"] = "1"
