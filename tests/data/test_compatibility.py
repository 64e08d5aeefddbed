"""Codes meet a model only with the codec and tokenizer that it was trained on, or it is said that nobody knows."""

import json
from pathlib import Path
from typing import Any

import pytest

from hf_moshi_ttt.configuration_moshi_ttt import MoshiTTTConfig
from hf_moshi_ttt.data.codes import Provenance
from hf_moshi_ttt.data.compatibility import (
    require_codes_of_model,
    trained_on,
    warn_where_trained_on,
    warn_where_unknown,
)
from hf_moshi_ttt.training.run_files import RUN_FILE

A, B = "a" * 64, "b" * 64


def config(codec: str | None = A, tokenizer: str | None = A, name: str | None = "a.model") -> MoshiTTTConfig:
    own: dict[str, Any] = {"codec": "a/codec", "codec_sha256": codec}
    return MoshiTTTConfig.from_preset("tiny", text_tokenizer=name, text_tokenizer_sha256=tokenizer, **own)


def codes(codec: str | None = A, tokenizer: str | None = A, name: str | None = "b.model", size: int = 32) -> Provenance:
    hashes: dict[str, Any] = {"codec_sha256": codec, "tokenizer_sha256": tokenizer}
    return Provenance("b/codec", "random", size, [0] * 8, name, 0, {}, **hashes)


def test_equal_hashes_agree_whatever_the_names() -> None:
    assert require_codes_of_model(config(), codes(), "talks") == []
    assert require_codes_of_model(config(), codes(tokenizer=B, name=None), "talks") == []  # audio alone
    assert require_codes_of_model(config(tokenizer=None, name=None), codes(), "talks") == []  # the model without text


def test_another_codec_or_tokenizer_of_the_same_size_is_refused() -> None:
    match = r"talks: its codec is b/codec \(sha256 bbbbbbbb\), but the model's is a/codec \(sha256 aaaaaaaa\). Encode"
    with pytest.raises(ValueError, match=match):
        require_codes_of_model(config(), codes(codec=B), "talks")
    with pytest.raises(ValueError, match=r"talks: its text tokenizer is b.model .*hf-moshi-ttt prepare\). Or else.$"):
        require_codes_of_model(config(), codes(tokenizer=B), "talks", " Or else.")
    with pytest.raises(ValueError, match="talks: encoded by b/codec with 64 ids a codebook, but the model has"):
        require_codes_of_model(config(codec=None), codes(size=64), "talks")


def test_what_is_not_recorded_is_said_to_be_unknown(caplog: pytest.LogCaptureFixture) -> None:
    (codec,) = require_codes_of_model(config(codec=None), codes(codec=B), "talks")
    assert codec == (
        "Whether talks has the model's codec is not known, the model does not record its hash; the names are b/codec "
        "and a/codec"
    )
    (tokenizer,) = require_codes_of_model(config(), codes(tokenizer=None), "talks")
    assert tokenizer.startswith("Whether talks has the model's text tokenizer is not known, talks does not record its")
    warn_where_unknown(config(codec=None), codes(), "talks")
    assert "Whether talks has the model's codec is not known" in caplog.text


def test_codes_of_the_training_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = tmp_path / "run"
    model.mkdir()
    (model / RUN_FILE).write_text(json.dumps({"data": {"fingerprint": A}}))
    expected = f"talks are the recordings that {model} was trained on"
    assert trained_on(model, A, "talks") == expected and trained_on(model, B, "talks") is None
    assert trained_on(model / "checkpoint-5", A, "talks") == expected.replace("run was", "run/checkpoint-5 was")
    assert trained_on(model / "adapter", A, "talks") is None and trained_on("kyutai/moshiko", A, "talks") is None
    warn_where_trained_on(model, B, "talks")
    assert not caplog.text
    warn_where_trained_on(model, A, "talks")
    assert f"{expected}. The numbers say nothing about new recordings: encode some" in caplog.text
    (model / RUN_FILE).write_text("[]")
    assert trained_on(model, A, "talks") is None
