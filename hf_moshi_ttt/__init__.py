"""TTT-Moshi for HuggingFace: a full-duplex speech language model whose layers keep learning from the stream.

Names are imported when they are first used: the import of the package alone imports neither torch nor transformers.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .auto_classes import register_with_transformers
from .shipped_files import shipped_folder

if TYPE_CHECKING:
    from .configuration_moshi_ttt import MoshiTTTConfig, TTTConfig
    from .live.session import MoshiTTTSession
    from .memory.layer import TTTLayer
    from .modeling_moshi_ttt import MoshiTTTForConditionalGeneration, MoshiTTTOutput
    from .processing_moshi_ttt import MoshiTTTProcessor
    from .streaming.generation_moshi_ttt import GREEDY, Sampling
    from .streaming.state import MoshiTTTState

METRIC_LIBRILIGHT = str(shipped_folder("metrics") / "librilight_long_context")  # for evaluate.load
METRIC_TURN_TAKING = str(shipped_folder("metrics") / "turn_taking")

__all__ = [
    "GREEDY",
    "METRIC_LIBRILIGHT",
    "METRIC_TURN_TAKING",
    "MoshiTTTConfig",
    "MoshiTTTForConditionalGeneration",
    "MoshiTTTOutput",
    "MoshiTTTProcessor",
    "MoshiTTTSession",
    "MoshiTTTState",
    "Sampling",
    "TTTConfig",
    "TTTLayer",
]

_MODULES = {
    "GREEDY": "streaming.generation_moshi_ttt",
    "MoshiTTTConfig": "configuration_moshi_ttt",
    "MoshiTTTForConditionalGeneration": "modeling_moshi_ttt",
    "MoshiTTTOutput": "modeling_moshi_ttt",
    "MoshiTTTProcessor": "processing_moshi_ttt",
    "MoshiTTTSession": "live.session",
    "MoshiTTTState": "streaming.state",
    "Sampling": "streaming.generation_moshi_ttt",
    "TTTConfig": "configuration_moshi_ttt",
    "TTTLayer": "memory.layer",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f".{_MODULES[name]}", __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


register_with_transformers()
