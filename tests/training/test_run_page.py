"""The page of a run holds its newest curve, its first and last samples, and escapes what it is given."""

import base64
import json
from pathlib import Path

from hf_moshi_ttt.evaluation.preflight import Finding
from hf_moshi_ttt.training.run_page import write_run_page


def test_a_page_holds_all_it_shows(tmp_path: Path) -> None:
    for step in (2, 10, 4):
        folder = tmp_path / "samples" / f"step-{step}"
        folder.mkdir(parents=True)
        (folder / "0.wav").write_bytes(f"sound {step}".encode())
        sample = {"wav": "0.wav", "prompt_frames": 10, "new_sec": 5.0, "text": f"said <{step}>"}
        (folder / "samples.json").write_text(json.dumps([sample]))
        (tmp_path / "long_context").mkdir(exist_ok=True)
        (tmp_path / "long_context" / f"step-{step}.png").write_bytes(f"curve {step}".encode())
    entries = [{"step": 1, "loss": 3.0, "ttt/layer_1/gate": 0.5}]
    findings = [Finding("fine"), Finding("bad", "Do this")]
    write_run_page(tmp_path, entries, findings, {"settings": {"max_steps": 3}}, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    held = [base64.b64encode(f"{kind} {step}".encode()).decode() for kind in ("sound", "curve") for step in (2, 4, 10)]
    assert [data in page for data in held] == [True, False, True, False, False, True]
    assert (
        "said &lt;10&gt;" in page
        and '<li class="remedy">bad. <b>Do this.</b></li>' in page
        and "<li>fine.</li>" in page
    )
    assert page.count("data:image/png;base64,") == 3 and "<td>3</td>" in page


def test_a_run_that_has_logged_nothing(tmp_path: Path) -> None:
    write_run_page(tmp_path, [], [], {}, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "<img" not in page and "<audio" not in page
