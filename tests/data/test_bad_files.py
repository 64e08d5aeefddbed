"""Few bad files pass, many stop with their reasons; nothing outside of the data folder is read."""

import json
from pathlib import Path

import pytest

from hf_moshi_ttt.data.bad_files import BadFiles, require_inside


def test_few_bad_files_pass_and_many_stop_with_their_reasons() -> None:
    bad = BadFiles()
    bad.require_few(0)
    bad.add("a.flac", "damaged")
    bad.require_few(100)
    with pytest.raises(
        ValueError, match=r"1 of 99 files cannot be used, more than the 1\.0% allowed(.|\n)*a\.flac: damaged"
    ):
        bad.require_few(99)
    bad.require_few(2, max_bad_fraction=0.5)
    bad.add("a.flac", "still damaged")
    assert bad.reasons == {"a.flac": "still damaged"}


def test_a_long_list_is_cut_in_the_message_and_whole_in_the_report(tmp_path: Path) -> None:
    bad = BadFiles({f"{number:02}.flac": "damaged" for number in range(25)})
    with pytest.raises(ValueError, match=r"19\.flac: damaged\n  and 5 more$"):
        bad.require_few(25)
    bad.write_report(tmp_path / "bad.json")
    assert json.loads((tmp_path / "bad.json").read_text()) == bad.reasons
    BadFiles().write_report(tmp_path / "bad.json")
    assert not (tmp_path / "bad.json").exists()


@pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan")])
def test_a_bound_that_is_no_share_is_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match="max_bad_fraction=.* must lie between 0 and 1"):
        BadFiles().require_few(1, fraction)


def test_paths_that_lead_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "secret.wav").write_bytes(b"")
    (tmp_path / "data" / "link.wav").symlink_to(tmp_path / "secret.wav")
    (tmp_path / "linked").symlink_to(tmp_path / "data")
    require_inside(tmp_path / "data" / "a" / "b.wav", tmp_path / "data")
    require_inside(tmp_path / "data" / "a.wav", tmp_path / "linked")
    for path in (tmp_path / "data" / ".." / "secret.wav", tmp_path / "data" / "link.wav", tmp_path / "database.wav"):
        with pytest.raises(ValueError, match=r"outside of .*data; if that is meant, give data_dir"):
            require_inside(path, tmp_path / "data")
    require_inside(tmp_path / "data" / "link.wav", tmp_path)
