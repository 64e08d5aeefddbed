"""Losses by position: equal to the forward pass in any chunks and batches, and nothing of the model changes."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from hf_moshi_ttt.data.collator import MoshiTTTCollator
from hf_moshi_ttt.evaluation import headline, losses_by_position
from hf_moshi_ttt.modeling_moshi_ttt import MoshiTTTForConditionalGeneration

MakeModel = Callable[..., MoshiTTTForConditionalGeneration]
RECORDINGS = [
    np.random.default_rng(i).integers(0, 32, (8, length)).astype(np.int16) for i, length in enumerate((70, 33, 101))
]


@torch.no_grad()
def losses_of_forward(model: MoshiTTTForConditionalGeneration, codes: np.ndarray) -> np.ndarray:
    frames, labels = MoshiTTTCollator(model.config, [1] * 8).frame_codes(codes.astype(np.int64))
    logits = model(torch.from_numpy(frames)[None]).audio_logits[0]
    log_probabilities = logits.log_softmax(-1)
    return -log_probabilities.gather(-1, torch.from_numpy(labels[1:9])[..., None])[..., 0].numpy()


@pytest.mark.parametrize("streams", [{}, {"text_stream": "none", "user_stream": "silence"}], ids=str)
@pytest.mark.parametrize(("chunk_frames", "batch_size"), [(500, 3), (7, 2), (1, 1)])
def test_losses_equal_forward(make_model: MakeModel, streams: dict, chunk_frames: int, batch_size: int) -> None:
    model = make_model(**streams)
    found = losses_by_position(model, RECORDINGS, [1] * 8, chunk_frames, batch_size)
    for codes, losses in zip(RECORDINGS, found, strict=True):
        assert losses.shape == codes.shape and losses.dtype == np.float32
        np.testing.assert_allclose(losses, losses_of_forward(model, codes), rtol=1e-4, atol=1e-4)
        assert np.isnan(losses[1:, -1]).all() and np.isfinite(losses[:, :-1]).all() and np.isfinite(losses[0]).all()


def test_headline_is_the_mean_of_all_codebooks() -> None:
    losses = np.arange(16, dtype=np.float32).reshape(8, 2)
    losses[3, 1] = np.nan
    np.testing.assert_array_equal(headline(losses), [7.0, np.nan])


def test_evaluation_changes_nothing(make_model: MakeModel) -> None:
    model = make_model().train()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    random_state = torch.get_rng_state()
    losses_by_position(model, RECORDINGS[:1])
    assert model.training and torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def test_a_model_that_copies_scores_near_zero_only_when_aligned(make_model: MakeModel) -> None:
    """Depth heads that answer with their own input codebook: right exactly where codebook i equals codebook i - 1."""
    model = make_model(ttt=None)
    decoder = model.depth_decoder
    with torch.no_grad():
        for parameter in [*decoder.input_projections.parameters(), *decoder.layers.parameters()]:
            parameter.zero_()
        embedding = torch.randn(33, 16)
        for embed in decoder.embed_audio:
            embed.weight.copy_(embedding)
        for head in decoder.lm_heads:
            head.weight.copy_(50 * embedding[:32] / embedding[:32].square().sum(-1, keepdim=True).sqrt())
    row = RECORDINGS[2][:1]
    scores = losses_by_position(model, [np.repeat(row, 8, axis=0)])[0]
    assert np.nanmax(scores[2:, :-1]) < 0.1
    assert np.nanmean(losses_by_position(model, [RECORDINGS[2]])[0][2:]) > 5
