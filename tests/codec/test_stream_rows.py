"""The text row and the user's rows of mono recordings."""

import numpy as np
import pytest

from hf_moshi_ttt.codec import stream_rows
from hf_moshi_ttt.codec.stream_rows import text_codes_without_words, text_row, user_rows
from hf_moshi_ttt.configuration_moshi_ttt import MoshiTTTConfig

CODES = np.arange(24).reshape(8, 3)


@pytest.mark.parametrize(("stream", "fill"), [("zero", 0), ("pad", 3), ("none", -1)])
def test_text_row(stream: str, fill: int) -> None:
    row = text_row(MoshiTTTConfig.from_preset("tiny", text_stream=stream), 5)
    assert (row.shape, row.dtype, set(row.flat)) == ((1, 5), np.int64, {fill})


def test_text_of_models_without_it_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(stream_rows.logger, "warning_once", told.append)
    config = MoshiTTTConfig.from_preset("tiny", text_stream="pad")
    assert text_codes_without_words(config, 2, 3).tolist() == [[3, 3, 3]] * 2  # type: ignore[union-attr]
    config.text_tokenizer = "words.model"
    assert text_codes_without_words(config, 2, 3) is None
    assert len(told) == 1 and "taken for one of audio alone" in told[0] and "text_stream='pad'" in told[0]


def test_user_rows() -> None:
    silence = list(range(8))
    rows = {
        stream: user_rows(MoshiTTTConfig.from_preset("tiny", user_stream=stream), CODES, silence)
        for stream in ("duplicate", "silence", "none")
    }
    assert (rows["duplicate"] == CODES).all() and (rows["none"] == -1).all()
    assert (rows["silence"] == np.array(silence)[:, None]).all() and rows["silence"].shape == CODES.shape
    with pytest.raises(ValueError, match="needs silence_codes; the provenance of the codes"):
        user_rows(MoshiTTTConfig.from_preset("tiny", user_stream="silence"), CODES, None)
