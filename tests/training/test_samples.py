"""Held-out recordings are continued while a model trains, for ears and trackers; the training does not change."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import soundfile

from hf_moshi_ttt.training.run import prepare
from hf_moshi_ttt.training.samples import SampleCallback, SampleOptions

from ..conftest import save_codes
from ..fixtures.training_runs import tiny_settings


def codes_of(folder: Path, codec: str) -> Path:
    """Random recordings, said to be of a codec."""
    save_codes(folder, [60, 50])
    provenance = json.loads((folder / "provenance.json").read_text())
    (folder / "provenance.json").write_text(json.dumps({**provenance, "codec": codec}))
    return folder


@pytest.fixture(scope="module")
def codes(tmp_path_factory: pytest.TempPathFactory, codec_path: str) -> Path:
    return codes_of(tmp_path_factory.mktemp("codes") / "codes", codec_path)


def settings(folder: Path, codes: Path, **changes: Any) -> dict[str, Any]:
    own: dict[str, Any] = dict(eval_codes=str(codes), resume_from_checkpoint=None)
    own |= dict(max_steps=3, save_strategy="no", sample_steps=2, sample_prompt_sec=0.8, sample_new_sec=0.4)
    return tiny_settings(folder, codes, **{**own, **changes})


def test_recordings_are_continued_and_training_is_the_same(
    tmp_path: Path, codes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, _ = prepare(settings(tmp_path / "run", codes, sample_recordings=1))
    (callback,) = (one for one in trainer.callback_handler.callbacks if isinstance(one, SampleCallback))
    monkeypatch.setattr(callback.processor, "decode_text", lambda codes_BKT: [f"{codes_BKT.shape[2]} frames"])
    callback.processor.config = SimpleNamespace(**{**vars(trainer.model.config), "text_tokenizer": "some.model"})
    trainer.train()
    folder = tmp_path / "run" / "samples"
    assert [path.name for path in folder.iterdir()] == ["step-2"]
    (sample,) = json.loads((folder / "step-2" / "samples.json").read_text())
    assert sample == {"wav": "0.wav", "prompt_frames": 10, "new_sec": 0.4, "text": "5 frames"}
    assert soundfile.info(folder / "step-2" / "0.wav").frames == 15 * 1920
    quiet, _ = prepare(settings(tmp_path / "quiet", codes, sample_steps=None, eval_codes=None))
    quiet.train()
    losses = [[entry["loss"] for entry in one.state.log_history if "loss" in entry] for one in (trainer, quiet)]
    assert losses[0] == losses[1] and len(losses[0]) == 3


def test_a_model_without_text_says_the_text_row_of_its_training(tmp_path: Path, codes: Path) -> None:
    trainer, _ = prepare(settings(tmp_path / "run", codes))
    (callback,) = (one for one in trainer.callback_handler.callbacks if isinstance(one, SampleCallback))
    zero = trainer.model.config.end_pad_token_id
    made_KT = callback._continued(callback.recordings[0], seed=0)[0]
    assert made_KT[0].eq(zero).all() and len(made_KT[1].unique()) > 1
    callback.collator.config.text_tokenizer = "some.model"
    assert not callback._continued(callback.recordings[0], seed=0)[0, 0].eq(zero).all()


def test_a_codec_that_is_not_there_is_missed_before_the_first_step(tmp_path: Path) -> None:
    codes = codes_of(tmp_path / "codes", str(tmp_path / "nowhere"))
    with pytest.raises((ValueError, OSError), match="nowhere"):
        prepare(settings(tmp_path / "run", codes))


def test_samples_need_held_out_recordings_and_lengths(tmp_path: Path, codes: Path) -> None:
    with pytest.raises(ValueError, match=r"eval_codes=None, .* and sample_steps=2: held-out data is read where"):
        prepare(settings(tmp_path / "run", codes) | {"eval_codes": None})
    with pytest.raises(ValueError, match="sample_new_sec=0, but it must be above 0"):
        prepare(settings(tmp_path / "run", codes, sample_new_sec=0))
    with pytest.raises(ValueError, match="sample_steps=0, but it must be at least 1"):
        prepare(settings(tmp_path / "run", codes, sample_steps=0))


def test_options_are_those_of_the_settings() -> None:
    from hf_moshi_ttt.training.arguments import MoshiTTTTrainingArguments

    defaults = {item.name: item.default for item in dataclasses.fields(MoshiTTTTrainingArguments)}
    own = dataclasses.asdict(SampleOptions(every_steps=1))
    assert {f"sample_{name}": value for name, value in own.items() if name != "every_steps"}.items() <= defaults.items()
