"""Names mean what exists here, or a repository on the Hub, or are refused; the Hub is tried in test_saving.py."""

from pathlib import Path

import pytest
from huggingface_hub import constants

from hf_moshi_ttt.codec.hub_files import expand_home, folder_or_repository, local_file, repository_file


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Hub that cannot be reached, and the empty cache beside it."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_files_on_this_machine(home: Path) -> None:
    (home / "words.model").write_bytes(b"")
    assert local_file(home / "words.model") == home / "words.model"
    assert local_file("words.model", str(home)) == home / "words.model"
    assert local_file("~/words.model") == local_file("words.model", "~") == home / "words.model"


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere.model: no such file.$"):
        local_file("nowhere.model")
    with pytest.raises(ValueError, match=f"nowhere.model: no such file here or in {tmp_path}."):
        local_file("nowhere.model", str(tmp_path))
    with pytest.raises(ValueError, match="/nowhere/words.model: no such file here or in user/name."):
        local_file("/nowhere/words.model", "user/name")
    with pytest.raises(ValueError, match="hf://owner/name: expected hf://owner/repository/file"):
        local_file("hf://owner/name")


def test_a_leading_tilde_is_the_home_folder(home: Path) -> None:
    assert expand_home("~/a=~b") == f"{home}/a=~b" and expand_home("~") == str(home)
    for name in ("./a", "a/~", "hf://owner/name/file", ""):
        assert expand_home(name) == name
    with pytest.raises(ValueError, match="~nobody_of_this_name/a: .* Write the path without ~"):
        expand_home("~nobody_of_this_name/a")


def test_folders_are_known_by_their_absolute_path(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "runs" / "model").mkdir(parents=True)
    monkeypatch.chdir(home)
    for name in ("runs/model", "./runs/model", "~/runs/model", Path("runs", "model")):
        assert folder_or_repository(name) == str(home / "runs" / "model")
    for name in ("user/name", "gpt2", "Kyutai_1/a.b-c", "user/-name"):
        assert folder_or_repository(name) == name
    for name in ("./typo", "/no/such", "~/typo", "runs/a/typo", "gone/", "lr=1e-3", "../typo", ""):
        with pytest.raises(ValueError, match=f"^{name}: no such folder.$"):
            folder_or_repository(name)
    (home / "file").touch()
    with pytest.raises(ValueError, match="~/file: a file, but a folder or the name of a repository on the Hub is"):
        folder_or_repository("~/file")


def test_a_hub_that_cannot_be_reached_is_not_taken_for_a_file_that_is_absent(offline: Path) -> None:
    with pytest.raises(OSError, match=r"runs/typo: no such folder here, and the Hub cannot be .* \(HF_HUB_OFFLINE=1\)"):
        repository_file("runs/typo", "config.json")
    with pytest.raises(OSError, match=r"that name \(local_files_only=True\)"):
        repository_file("runs/typo", "config.json", {"local_files_only": True})
    (offline / "models--runs--typo").mkdir(parents=True)  # the Hub has answered earlier
    assert repository_file("runs/typo", "config.json") is None
    assert repository_file(str(offline), "config.json") is None
