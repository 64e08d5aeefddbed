"""Models and the human on the same conversations: paired, once with each seed, whatever the batch."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from hf_moshi_ttt import GREEDY, MoshiTTTProcessor, Sampling
from hf_moshi_ttt.data.codes import load_codes
from hf_moshi_ttt.evaluation import conversation_runs
from hf_moshi_ttt.evaluation.conversation_runs import Corpus, Setup, compare_models, hear_humans, hear_model
from hf_moshi_ttt.evaluation.driven_conversations import drive

from ..fixtures.planted_conversations import write_conversations


@pytest.fixture(scope="module")
def corpus(quiet_codec_path: str, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = write_conversations(tmp_path_factory.mktemp("talks") / "codes", quiet_codec_path, [30, 15])
    rows, provenance = load_codes(folder)
    return Corpus([row["codes"] for row in rows], provenance.silence_codes)


@pytest.fixture
def loaded(make_model: Callable[..., Any], quiet_codec_path: str) -> tuple[Any, MoshiTTTProcessor]:
    model = make_model(codec=quiet_codec_path)
    return model, MoshiTTTProcessor(model.config)


def test_humans_are_heard_in_their_own_place(loaded: tuple[Any, MoshiTTTProcessor], corpus: Corpus) -> None:
    """Of thirds of a conversation the user speaks in the first and the last, the human in the second."""
    heard = hear_humans(loaded[1], corpus, Setup(seeds=(3, 4)))
    assert [one.duration_sec for one in heard] == [2.4, 1.2] * 2
    assert heard[0].model_N2 == pytest.approx(np.array([[0.8, 1.36]]), abs=0.16)
    assert heard[0].user_N2 == pytest.approx(np.array([[0.0, 0.56], [1.6, 2.16]]), abs=0.16)


def test_a_model_is_driven_once_with_each_seed_in_any_batches(
    loaded: tuple[Any, MoshiTTTProcessor], corpus: Corpus
) -> None:
    alone = hear_model(*loaded, corpus, Setup(batch_size=1), GREEDY, progress=False)
    together = hear_model(*loaded, corpus, Setup(seeds=(0, 1)), GREEDY, progress=False)
    assert [one.duration_sec for one in together] == [2.4, 1.2] * 2
    assert all(np.array_equal(one.model_N2, other.model_N2) for one, other in zip(alone, together[:2], strict=True))


def test_draws_follow_from_the_seed(
    loaded: tuple[Any, MoshiTTTProcessor], corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[np.ndarray] = []

    def noted(*given: Any) -> list[np.ndarray]:
        answers.append(drive(*given)[0])
        return answers[-1:]

    monkeypatch.setattr(conversation_runs, "drive", noted)
    short = Corpus([corpus.codes_KT[0][:, :10]], corpus.silence_codes)
    hear_model(*loaded, short, Setup(seeds=(5, 6, 5)), Sampling(), progress=False)
    assert np.array_equal(answers[0], answers[2]) and not np.array_equal(answers[0], answers[1])


def test_models_stand_beside_the_human_and_each_other(loaded: tuple[Any, MoshiTTTProcessor], corpus: Corpus) -> None:
    human = hear_humans(loaded[1], corpus, Setup())
    found = compare_models({"mine": hear_model(*loaded, corpus, Setup(), GREEDY, progress=False), "copy": human}, human)
    assert set(found["models"]["mine"]) == {"numbers", "less_human", "less_copy"}
    assert found["models"]["copy"]["numbers"] == found["human"]["numbers"]
    assert all(value in (0.0, [0.0, 0.0]) for value in found["models"]["copy"]["less_human"].values())
    assert found["models"]["mine"]["less_human"] == found["models"]["mine"]["less_copy"]


@pytest.mark.parametrize("codes", [[], [np.zeros((8, 5), int)]])
def test_recordings_of_one_channel_are_refused(codes: list[np.ndarray]) -> None:
    with pytest.raises(
        ValueError, match=r"The recordings have \[8?\] rows of codes, but conversations have 17 \(text, M"
    ):
        Corpus(codes, [0] * 8)
