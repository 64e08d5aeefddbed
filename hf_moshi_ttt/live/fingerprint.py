"""By which hashes a model is known again, exactly or whatever the dtype it was loaded in."""

import hashlib
import json
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Fingerprint(NamedTuple):
    """Hashes of a model's weights, and of the values of its configuration that a state depends on.

    Args:
        exact: of every weight as it is; what continues bit for bit needs it.
        portable: of every weight rounded to bfloat16: the same for a model in float32 and its copy in bfloat16.
    """

    exact: str
    portable: str


def fingerprint(model: Any) -> Fingerprint:
    """The hashes of a model; reads all of its weights once (about 1 s a GB)."""
    values = json.dumps(model.config.state_values(), sort_keys=True).encode()
    exact, portable = hashlib.sha256(values), hashlib.sha256(values)
    for name, tensor in sorted(model.state_dict().items()):
        own = _digest(tensor)
        rounded = tensor.dtype.is_floating_point and tensor.dtype != torch.bfloat16
        exact.update(f"{name} {tensor.dtype} {list(tensor.shape)} {own}\n".encode())
        short = _digest(tensor.to(torch.bfloat16)) if rounded else own
        portable.update(f"{name} {list(tensor.shape)} {short}\n".encode())
    return Fingerprint(exact.hexdigest(), portable.hexdigest())


def _digest(tensor: Tensor) -> str:
    values = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
    return hashlib.sha256(values).hexdigest()
