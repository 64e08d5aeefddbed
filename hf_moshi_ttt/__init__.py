"""TTT-Moshi for HuggingFace: a full-duplex speech language model whose layers keep learning from the stream."""

from .configuration_moshi_ttt import MoshiTTTConfig, TTTConfig
from .memory.layer import TTTLayer
from .modeling_moshi_ttt import MoshiTTTForConditionalGeneration, MoshiTTTOutput
from .processing_moshi_ttt import MoshiTTTProcessor
from .streaming.generation_moshi_ttt import GREEDY, Sampling
from .streaming.state import MoshiTTTState

__all__ = [
    "GREEDY",
    "MoshiTTTConfig",
    "MoshiTTTForConditionalGeneration",
    "MoshiTTTOutput",
    "MoshiTTTProcessor",
    "MoshiTTTState",
    "Sampling",
    "TTTConfig",
    "TTTLayer",
]
