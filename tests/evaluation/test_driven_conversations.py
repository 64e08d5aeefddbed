"""A model that hears a user from the start: same length, same answer in any batch, deaf to what comes later."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from hf_moshi_ttt import GREEDY, MoshiTTTProcessor, Sampling
from hf_moshi_ttt.data.codes import decode_codes
from hf_moshi_ttt.evaluation.driven_conversations import drive, heard_sound, heard_words, seeded
from hf_moshi_ttt.evaluation.spoken_words import words_of_text_row

from ..conftest import random_codes

SILENCE = [0] * 8


@pytest.fixture
def model(make_model: Callable[..., Any], codec_path: str, tokenizer_path: str) -> Any:
    return make_model(codec=codec_path, text_tokenizer=tokenizer_path, text_vocab_size=265)


def users(model: Any, lengths: list[int]) -> list[np.ndarray]:
    codes = random_codes(model.config, len(lengths), max(lengths), absent=0.0)[:, 9:].numpy()
    return [row[:, :length] for row, length in zip(codes, lengths, strict=True)]


def test_answers_are_as_long_as_their_users_and_those_of_a_stream_alone(model: Any) -> None:
    heard = users(model, [12, 7, 9])
    together = drive(model, heard, SILENCE, GREEDY)
    assert [answer.shape for answer in together] == [(9, 12), (9, 7), (9, 9)]
    alone = [drive(model, [user], SILENCE, GREEDY)[0] for user in heard]
    assert all(np.array_equal(*both) for both in zip(together, alone, strict=True))


def test_a_frame_depends_on_what_was_said_before_it_alone(model: Any) -> None:
    (user,) = users(model, [12])
    changed = user.copy()
    changed[:, 6:] = (changed[:, 6:] + 5) % 32
    before, after = drive(model, [user, changed], SILENCE, GREEDY)
    assert np.array_equal(before[:2, :7], after[:2, :7]) and not np.array_equal(before, after)


def test_seeds_follow_from_their_words(model: Any) -> None:
    heard = users(model, [10])
    drawn = [drive(model, heard, SILENCE, seeded(Sampling(), model.device, 0, ["a"]))[0] for _ in range(2)]
    assert np.array_equal(*drawn)
    for seed, name in ((1, "a"), (0, "b")):
        other = drive(model, heard, SILENCE, seeded(Sampling(), model.device, seed, [name]))[0]
        assert not np.array_equal(drawn[0], other)
    biased = seeded(Sampling(0.5, 3, text_pad_bias=2.0), model.device, 0, range(3))
    assert biased == Sampling(0.5, 3, text_pad_bias=2.0) and isinstance(biased.generator, list)
    assert len({generator.initial_seed() for generator in biased.generator}) == 3


def test_draws_of_a_stream_are_the_same_in_any_batch(model: Any) -> None:
    heard = users(model, [12, 9, 12])
    together = drive(model, heard, SILENCE, seeded(Sampling(), model.device, 0, "abc"))
    pair = drive(model, heard[:2], SILENCE, seeded(Sampling(), model.device, 0, "ab"))
    (alone,) = drive(model, heard[2:], SILENCE, seeded(Sampling(), model.device, 0, "c"))
    assert all(np.array_equal(*both) for both in zip([*pair, alone], together, strict=True))


def test_what_is_heard_lies_a_delay_after_the_codes(model: Any) -> None:
    processor = MoshiTTTProcessor(model.config)
    (answer,) = drive(model, users(model, [10]), SILENCE, GREEDY)
    sound, at_once = heard_sound(processor.codec, answer, 1), decode_codes(processor.codec, answer[1:])
    assert len(sound) == len(at_once) == 19_200 and not sound[:1920].any()
    assert np.array_equal(sound[1920:], at_once[:-1920])
    text = np.array([3, 0, *processor.tokenizer.encode("ab c"), 3])
    words = heard_words(processor, text, 1)
    plain = words_of_text_row(text, processor.tokenizer, [0, 3])
    assert words is not None and [word.text for word in words] == ["ab", "c"]
    assert [word.start_sec - 0.08 for word in words] == pytest.approx([word.start_sec for word in plain])


def test_a_model_without_text_has_no_words(make_model: Callable[..., Any]) -> None:
    model = make_model()
    assert heard_words(MoshiTTTProcessor(model.config), np.array([5, 6]), 1) is None
    for answer in drive(model, users(model, [12, 7]), SILENCE, GREEDY):
        assert set(answer[0]) == {model.config.end_pad_token_id}


@pytest.mark.parametrize("given", [[], [np.zeros((7, 4), int)], [np.zeros(8, int)]])
def test_codes_that_are_no_users_are_refused(model: Any, given: list[np.ndarray]) -> None:
    with pytest.raises(ValueError, match=r"The users' codes must be \[8, T\] each, at least one; got"):
        drive(model, given, SILENCE, GREEDY)


def test_a_bias_towards_pad_silences_the_text(model: Any) -> None:
    torch.manual_seed(0)
    (answer,) = drive(model, users(model, [8]), SILENCE, Sampling(text_pad_bias=1e4))
    assert set(answer[0].tolist()) == {model.config.pad_token_id}
