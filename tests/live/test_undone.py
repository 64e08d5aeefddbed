"""What a block has changed is put back where it fails, and kept where it does not."""

import pytest
import torch

from hf_moshi_ttt.codec.text_pieces import TextPieces
from hf_moshi_ttt.codec.text_stream import load_text_tokenizer
from hf_moshi_ttt.live.undone import Undone


@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
def test_tensors_draws_and_texts_are_put_back(error: type[BaseException] | None, tokenizer_path: str) -> None:
    tensors = {"a": torch.ones(2, 3), "b": torch.zeros(2, dtype=torch.int64), "c": torch.ones(2, dtype=torch.bool)}
    generator, text = torch.Generator().manual_seed(0), TextPieces(load_text_tokenizer(tokenizer_path), {3})
    undone, expected = Undone(), torch.rand(3, generator=torch.Generator().manual_seed(0))

    def step() -> None:
        with undone.on_failure(tensors, [generator], [text]):
            for tensor in tensors.values():
                tensor[0] = 0 if tensor[0].any() else 1
            torch.rand(3, generator=generator)
            text.piece(text.tokenizer.encode("\u00e9")[-2])
            if error is not None:
                raise error

    if error is None:
        step()
        assert not tensors["a"][0].any() and tensors["b"][0] == 1 and not tensors["c"][0] and text.unfinished
        assert not torch.equal(torch.rand(3, generator=generator), expected)
        return
    for _ in range(2):
        with pytest.raises(error):
            step()
    assert tensors["a"].all() and not tensors["b"].any() and tensors["c"].all() and not text.unfinished
    assert torch.equal(torch.rand(3, generator=generator), expected)


def test_a_codec_that_remembers_nothing_is_left_as_it_is() -> None:
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    with pytest.raises(RuntimeError, match="failed"), Undone().on_failure({}, [generator], []):
        torch.rand(3, generator=generator)
        raise RuntimeError("failed")
    assert torch.equal(generator.get_state(), before)
