"""The table says what is there, what was tested, and the command that gets what is missing."""

import json
import re
from importlib.metadata import requires
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import HTTPError
from packaging.requirements import Requirement

from hf_moshi_ttt.commands import doctor
from hf_moshi_ttt.commands.console import main
from hf_moshi_ttt.data.index import write_index


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda repository, filename: None)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", refuse)


def test_the_tested_versions_are_required_ones() -> None:
    required = {item.name: item for item in map(Requirement, requires("hf_moshi_ttt") or [])}
    for package, version in doctor.TESTED.items():
        assert version in required[package].specifier, package


def test_absent_and_untested_versions_name_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"torch": "2.13.0+cpu", "transformers": "5.99.0"}
    monkeypatch.setattr(doctor, "installed", found.get)
    rows = {row.what: row for row in [*doctor.versions(), *doctor.optional()]}
    assert rows["torch"].state == "ok" and rows["torch"].remedy == ""
    assert rows["transformers"][1:] == (
        "untested", "5.99.0", "pip install transformers==5.24.0 (the version that was tested)",
    )  # fmt: skip
    assert rows["peft"].state == "absent"
    assert rows["moshi"].remedy.startswith("pip install --no-deps moshi==0.2.13 (without --no-deps it would replace")
    assert doctor.next_step(list(rows.values())).startswith("pip install accelerate datasets")


def test_the_table_and_its_json(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["doctor"]) == 0
    table = capsys.readouterr().out
    assert re.search(r"^codec +unreachable +kyutai/mimi: ConnectionError +--codec FOLDER, or", table, re.M)
    assert "\nnext: hf-moshi-ttt demo (offline), or " in table
    assert main(["doctor", "--codec", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    (codec,) = [row for row in found["rows"] if row["what"] == "codec"]
    assert codec["state"] == "ok" and found["next"].startswith("hf-moshi-ttt prepare RECORDINGS")


def test_the_disk_must_hold_a_corpus(tmp_path: Path) -> None:
    for duration_sec, state in ((3600.0, "ok"), (1e15, "short")):
        write_index([{"path": "a.wav", "duration": duration_sec}], tmp_path / "i.jsonl", tmp_path)
        (tmp_path / "a.wav").touch()
        assert doctor.disk(tmp_path / "not" / "there", str(tmp_path / "i.jsonl")).state == state
    assert "codes of" in doctor.disk(tmp_path, None).found


def test_a_corpus_of_links_needs_the_folder_that_holds_both(tmp_path: Path) -> None:
    index = tmp_path / "index" / "i.jsonl"
    index.parent.mkdir()
    (tmp_path / "a.wav").touch()
    write_index([{"path": "a.wav", "duration": 3600.0}], index, tmp_path)
    with pytest.raises(ValueError, match="1 of 1 files cannot be used.*\\n.*outside of .*give data_dir"):
        doctor.disk(tmp_path, str(index))
    assert "for 1.0 hours" in doctor.disk(tmp_path, str(index), str(tmp_path)).found


def test_no_network_is_an_answer_whatever_the_library_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise type("ConnectError", (HTTPError,), {})("Name or service not known")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", refuse)
    assert doctor.tokenizer(doctor.KYUTAI_TOKENIZER).found == "kyutai/moshiko-pytorch-bf16: ConnectError"


def test_files_on_this_machine_are_found(tmp_path: Path) -> None:
    (tmp_path / "t.model").touch()
    assert doctor.tokenizer(str(tmp_path / "t.model")).state == "ok"
    assert doctor.tokenizer(doctor.KYUTAI_TOKENIZER).found == "kyutai/moshiko-pytorch-bf16: ConnectionError"
