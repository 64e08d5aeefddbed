"""What is prepared for chunks, walked one after the other, gives the recurrence."""

import pytest
import torch

from hf_moshi_ttt.memory.chunks import CHUNK_FRAMES, prepared_chunks
from hf_moshi_ttt.memory.online import naive_online

from ..fixtures.online_cases import make_rule_case


@pytest.mark.parametrize("frames", [1, CHUNK_FRAMES, 2 * CHUNK_FRAMES + 3])
def test_chunks_walked_equal_the_recurrence(frames: int) -> None:
    slow, tokens, fast = make_rule_case(frames, dtype=torch.float64)
    answers, after = naive_online(slow, tokens, fast)
    chunks, memory, found = prepared_chunks(slow, tokens), fast.flatten(0, 1), []
    for values, readers, queries, keys, mixing, kept in zip(*(x.unbind(1) for x in chunks), strict=True):
        errors = values - readers @ memory
        found.append(queries @ memory + mixing @ errors)
        memory = kept[:, None, None] * memory + keys.mT @ errors
    torch.testing.assert_close(torch.cat(found, dim=1)[:, :frames].view_as(answers), answers)
    torch.testing.assert_close(memory.view_as(after), after)
