"""What is to be evaluated is checked before the model is loaded; pairs in published layouts are read and scored."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile

from hf_moshi_ttt.commands.console import main
from hf_moshi_ttt.commands.tasks import TASKS
from hf_moshi_ttt.evaluation import paired_items

from ..conftest import chirps_S


def test_folders_of_pairs_are_scored(make_model: Callable[..., Any], tmp_path: Path, codec_path: str) -> None:
    """SALMon's and ZeroSpeech's layouts, files of different rates and under a second long."""
    layouts = (("salmon/rir/sample_{}_{}", 24_000), ("dev/{}_{}", 16_000))
    for n, side, (name, rate) in itertools.product(range(3), (0, 1), layouts):
        path = tmp_path / f"{name.format(n, side)}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, chirps_S(0.5, 2 * n + side), rate)
    lines = [f"{n}_{side},{n},A,,w,p,4,{1 - side}" for n in range(3) for side in (0, 1)]
    (tmp_path / "dev" / "gold.csv").write_text(
        "\n".join(["filename,id,voice,frequency,word,phones,length,correct", *lines])
    )
    make_model(codec=codec_path).save_pretrained(tmp_path / "model")
    words = ["tasks", "--model", str(tmp_path / "model"), "--device", "cpu", "--output", str(tmp_path / "out")]
    folders = [f"salmon={tmp_path / 'salmon'}", f"swuggy={tmp_path / 'dev'}"]
    assert main([*words, "--task", folders[0], "--task", folders[1], "--items", "2"]) == 0
    found = json.loads((tmp_path / "out" / "tasks.json").read_text())
    assert list(found["tasks"]) == ["salmon", "swuggy"] and found["settings"]["items"] == 2
    assert all(task["pairs"] == 2 and 0 <= task["accuracy"]["value"] <= 1 for task in found["tasks"].values())
    assert list(found["tasks"]["salmon"]["by_group"]) == ["rir"]


def test_the_names_of_tasks_are_those_that_are_read() -> None:
    assert TASKS == paired_items.TASKS


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "nothing to evaluate: give --task or --dailytalk"),
        (["--task", "salmo=x"], "--task salmo: no such task; one of swuggy, sblimp, .* Did you mean salmon?"),
        (["--task", "salmon"], "give each task once, as TASK=FOLDER"),
        (["--task", "salmon=a", "--task", "salmon=b"], "give each task once, as TASK=FOLDER"),
        (["--dailytalk", "a", "mode=fast"], "mode='fast', but it must be block or stream"),
    ],
)
def test_wrong_requests(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tasks", "--model", "m", "--output", "o", *words]) == 2
    parts = message.split(".*")
    said = capsys.readouterr().err
    assert all(part.strip() in said for part in parts)
