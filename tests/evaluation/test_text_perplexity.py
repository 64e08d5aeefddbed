"""Text perplexity is that of the forward pass over word pieces, with padding apart, and planted values are found."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from hf_moshi_ttt.evaluation.text_perplexity import evaluate_text_perplexity

MakeModel = Callable[..., Any]


def conversation(seed: int, frames: int) -> np.ndarray:
    """Half of the frames are PAD or EPAD, some are unlabelled."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 32, (17, frames))
    codes[0] = np.where(rng.random(frames) < 0.5, rng.integers(4, 64, frames), rng.choice([0, 3], frames))
    codes[0, -5:] = -1
    return codes


TALKS = [conversation(seed, frames) for seed, frames in enumerate((50, 80, 33))]


@torch.no_grad()
@pytest.mark.parametrize("block_frames", [7, 500])
def test_perplexity_is_that_of_the_forward_pass(make_model: MakeModel, block_frames: int) -> None:
    model = make_model()
    found = evaluate_text_perplexity(model, TALKS, block_frames, progress=False)
    words, everything = [], []
    for codes in TALKS:
        logits = model(torch.from_numpy(codes)[None]).text_logits[0].log_softmax(-1)
        losses = -logits.gather(-1, torch.from_numpy(codes[0]).clamp_min(0)[:, None])[:, 0].numpy()
        words.append(losses[codes[0] > 3])
        everything.append(losses[codes[0] >= 0])
    assert found["dailytalk_text_perplexity"] == pytest.approx(np.exp(np.concatenate(words).mean()), rel=1e-4)
    assert found["dailytalk_text_perplexity_with_padding"] == pytest.approx(
        np.exp(np.concatenate(everything).mean()), rel=1e-4
    )
    assert found["dailytalk_text_perplexity_tokens"] == sum(map(len, words)) and found["conversations"] == 3
    low, high = found["dailytalk_text_perplexity_interval"]
    assert found["dailytalk_text_perplexity"] / 10 < low < found["dailytalk_text_perplexity"] < high


def test_a_model_without_knowledge_has_the_vocabulary_as_perplexity(make_model: MakeModel) -> None:
    model = make_model().train()
    with torch.no_grad():
        model.lm_head.weight.zero_()
    found = evaluate_text_perplexity(model, TALKS, progress=False)
    assert found["dailytalk_text_perplexity"] == pytest.approx(64, rel=1e-5) and model.training
    single = evaluate_text_perplexity(model, TALKS[:1], progress=False)
    assert "dailytalk_text_perplexity_interval" not in single


def test_recordings_without_words_are_refused(make_model: MakeModel) -> None:
    with pytest.raises(ValueError, match=r"Conversation 1 is \[8, 33\]: only \[17, T\] has text"):
        evaluate_text_perplexity(make_model(), [TALKS[0], TALKS[2][:8]], progress=False)
    silent = TALKS[0].copy()
    silent[0] = 3
    with pytest.raises(ValueError, match="The conversations hold no word: encode them with a text tokenizer"):
        evaluate_text_perplexity(make_model(), [silent], progress=False)
