"""Turn-taking is logged every N steps, and the training does not change by it."""

from pathlib import Path

import pytest
import torch

from hf_moshi_ttt.data.codes import load_codes
from hf_moshi_ttt.evaluation.conversation_runs import Corpus
from hf_moshi_ttt.training.run import _add_callbacks
from hf_moshi_ttt.training.turn_taking_callback import LOGGED, TurnTakingCallback

from ..fixtures.planted_conversations import write_conversations
from .test_trainer import make_trainer


@pytest.fixture(scope="module")
def talks(quiet_codec_path: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_conversations(tmp_path_factory.mktemp("talks") / "codes", quiet_codec_path, [22, 22, 22])


def test_a_run_logs_turn_taking_and_trains_the_same(tmp_path: Path, talks: Path) -> None:
    options = {"eval_codes": str(talks), "eval_turn_taking_steps": 2, "eval_turn_taking_conversations": 1}
    plain = make_trainer(tmp_path / "plain", talks, max_steps=4)
    watched = make_trainer(tmp_path / "watched", talks, max_steps=4, **options)
    plain.train()
    watched.train()
    assert all(
        torch.equal(weight, watched.model.state_dict()[name]) for name, weight in plain.model.state_dict().items()
    )
    logged = [entry for entry in watched.state.log_history if "eval_model_speaking_share" in entry]
    assert [entry["step"] for entry in logged] == [2, 4]
    known = {f"eval_{name}" for name in LOGGED}
    assert all("eval_backchannels_per_min" in entry and set(entry) - known == {"epoch", "step"} for entry in logged)
    losses = [[entry["loss"] for entry in run.state.log_history if "loss" in entry] for run in (plain, watched)]
    assert losses[0] == losses[1] and len(losses[0]) == 4


def test_a_callback_needs_a_step_and_the_models_codec(tmp_path: Path, talks: Path) -> None:
    trainer = make_trainer(tmp_path, talks)
    rows, provenance = load_codes(talks)
    corpus = Corpus([rows[0]["codes"]], provenance.silence_codes)
    with pytest.raises(ValueError, match="every_steps=0, but it must be at least 1"):
        TurnTakingCallback(trainer, corpus, every_steps=0)
    trainer.model.config.codec = str(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="nowhere"):
        TurnTakingCallback(trainer, corpus, every_steps=1)


def test_the_settings_are_bounded(tmp_path: Path, talks: Path) -> None:
    with pytest.raises(ValueError, match="eval_turn_taking_conversations=0, but it must be at least 1"):
        make_trainer(tmp_path, talks, eval_turn_taking_conversations=0)
    with pytest.raises(
        ValueError, match="eval_codes=None, .* eval_turn_taking_steps=5 and .*: held-out data is read where"
    ):
        make_trainer(tmp_path, talks, eval_turn_taking_steps=5)


def test_sharded_models_are_refused(tmp_path: Path, talks: Path) -> None:
    trainer = make_trainer(tmp_path, talks, eval_codes=str(talks), eval_turn_taking_steps=5)
    trainer.is_fsdp_enabled = True
    rows, provenance = load_codes(talks)
    with pytest.raises(ValueError, match="eval_turn_taking_steps=5 needs the whole model in every process, which FSDP"):
        _add_callbacks(trainer, rows, provenance.silence_codes)
