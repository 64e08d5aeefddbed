"""TTT-Moshi for HuggingFace: a full-duplex speech language model whose layers keep learning from the stream.

The installed package answers to transformers' Auto classes. The code that travels with a published model does not
register itself: transformers would prefer it to the code of every model that is loaded after it.
"""

from transformers import AutoConfig, AutoModel, AutoProcessor

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

AutoConfig.register(MoshiTTTConfig.model_type, MoshiTTTConfig)
AutoModel.register(MoshiTTTConfig, MoshiTTTForConditionalGeneration)
AutoProcessor.register(MoshiTTTConfig, MoshiTTTProcessor)
