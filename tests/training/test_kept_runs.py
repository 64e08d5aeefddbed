"""A run is kept under a name that stands for all that its result depends on."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hf_moshi_ttt.memory.line_tasks import SaidRecording
from hf_moshi_ttt.memory.variant_tasks import RenderedRecording, Rendering
from hf_moshi_ttt.training.kept_runs import describe, keep_run, kept_run, run_path, speech_sha256
from hf_moshi_ttt.training.recall_setup import Speech, make_setup


def make_speech() -> Speech:
    codes = torch.arange(900)[None] % 64
    form = RenderedRecording(codes, [Rendering(codes, int)])
    said = SaidRecording(codes, torch.arange(900) // 20, torch.arange(45) % 5)
    return Speech(64, [codes], [codes + 1], {"same": [form]}, [form], [said], {"ann": [codes]})


def test_a_hash_of_speech_sees_all_of_it() -> None:
    speech, other = make_speech(), torch.zeros(1, 900).long()
    form = RenderedRecording(other, [Rendering(other, int)])
    changed = [
        replace(speech, num_ids=32), replace(speech, train=[other]), replace(speech, heldout=[*speech.heldout, other]),
        replace(speech, variants={"same": [form]}), replace(speech, variants={"phase_0.5": speech.variants["same"]}),
        replace(speech, train_variants=[form]), replace(speech, apart={"ben": speech.apart["ann"]}),
        replace(speech, said=[replace(speech.said[0], saying_T=other[0])]),
    ]  # fmt: skip
    assert speech_sha256(make_speech()) == speech_sha256(speech)
    assert len({speech_sha256(each) for each in (speech, *changed)}) == 1 + len(changed)


def test_what_is_described_changes_with_arm_size_and_what_was_asked() -> None:
    setup = make_setup("motif", {})
    plain = describe(setup, "ttt", None, {"task": "motif"})
    others = [
        describe(setup, "static", None, {"task": "motif"}),
        describe(make_setup("motif", {"steps": 3}), "ttt", None, {"task": "motif"}),
        describe(setup, "ttt", make_speech(), {"task": "motif"}),
        describe(setup, "ttt", None, {"task": "another"}),
    ]
    assert describe(setup, "ttt", None, {"task": "motif"}) == plain and plain not in others
    paths = {run_path(Path(), "ttt", 0, settings) for settings in (plain, *others)}
    assert len(paths) == 5 and run_path(Path(), "ttt", 1, plain) not in paths
    assert plain["code_sha256"] and plain["made_with"]["torch"] == torch.__version__


def test_a_run_is_read_as_it_was_kept(tmp_path: Path) -> None:
    path, settings = tmp_path / "a.json", {"steps": 3}
    assert kept_run(path, settings) is None
    keep_run(path, {"arm": "ttt"}, settings)
    assert kept_run(path, settings) == {"arm": "ttt", "settings": settings}
    with pytest.raises(ValueError, match="not JSON compliant"):
        keep_run(path, {"loss": float("nan")}, settings)
    assert kept_run(path, settings) == {"arm": "ttt", "settings": settings}


@pytest.mark.parametrize("content", ["", '{"arm": "ttt", "set', "[]", '{"arm": "ttt"}', '{"settings": {"steps": 4}}'])
def test_a_file_that_is_no_run_is_named_with_its_remedy(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"a.json: no run .* Remove it, and it is made again\."):
        kept_run(path, {"steps": 3})
