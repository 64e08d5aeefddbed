"""A codec is found by its name from anywhere, or refused."""

from pathlib import Path

import pytest

from hf_moshi_ttt.codec.pretrained_codec import codec_sha256, load_codec


def test_a_codec_is_found_by_its_path(codec_path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(Path(codec_path).parent))
    name = Path(codec_path).name
    assert codec_sha256(load_codec(f"~/{name}")) == codec_sha256(load_codec(codec_path))


def test_a_codec_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{tmp_path}/codec: no such folder"):
        load_codec(str(tmp_path / "codec"))
