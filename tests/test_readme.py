"""Every block of the README runs, and what it says about files and keys is true."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .fixtures.checkpoints import save_kyutai
from .fixtures.hub_stand_in import running_hub

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)
DEMO_FILES = {
    "corpus/corpus.json", "train.jsonl", "codec/model.safetensors", "tokenizer.model",
    "codes/dailytalk/provenance.json",
    "pretrain/model.safetensors", "no_ttt/model.safetensors", "finetune/model.safetensors", "results/results.json",
    "results/loss_by_position.png", "results/continuation.wav",
}  # fmt: skip


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo at smoke size: every stage with its real code paths."""
    root = tmp_path_factory.mktemp("demo") / "demo"
    command = [sys.executable, "scripts/demo.py", "--size", "smoke", "--root", str(root)]
    first = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert first.returncode == 0, first.stderr[-3000:]
    return root


def test_first_command_is_the_demo_and_second_the_tests() -> None:
    assert [command for kind, block in BLOCKS if kind == "bash" for command in block.split("\n")][:2] == [
        "make demo",
        "make test",
    ]
    makefile = (ROOT / "Makefile").read_text()
    assert "scripts/demo.py" in makefile and "pytest" in makefile
    assert (ROOT / ".ci" / "run").read_text().rstrip().endswith("make test")


def test_demo_leaves_what_it_promises_and_reuses_it(demo: Path) -> None:
    assert {name for name in DEMO_FILES if not (demo / name).is_file()} == set()
    command = [sys.executable, "scripts/demo.py", "--size", "smoke", "--root", str(demo)]
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert again.returncode == 0, again.stderr[-3000:]
    assert again.stdout.count("done before") == 9
    assert re.search(r"stage +time +key number +file", again.stdout)
    assert re.search(r"evaluate +\d+ s +.*nats .*n=3.*loss_by_position\.png", again.stdout)


@pytest.fixture(scope="module")
def hub(lm_model: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a stand-in for the Hub, with a tiny model under the name of Kyutai's."""
    home = tmp_path_factory.mktemp("hub")
    with running_hub() as stand_in:
        stand_in.create("kyutai/moshiko-pytorch-bf16")
        files = save_kyutai(home / "kyutai", lm_model).iterdir()
        stand_in.commit("kyutai/moshiko-pytorch-bf16", {path.name: path.read_bytes() for path in files})
        yield stand_in.environment(home)


def test_bash_blocks_run(demo: Path, hub: dict[str, str]) -> None:
    """Every line but the make commands, on the demo of this test in place of runs/demo."""
    ran = 0
    for kind, block in BLOCKS:
        if kind != "bash":
            continue
        for line in block.replace("\\\n", " ").splitlines():
            if not line.startswith("python "):
                assert re.fullmatch(r"make (demo|test|demo-clean|check)", line), line
                continue
            command = line.replace("runs/demo", str(demo)).replace("python ", f"{sys.executable} ", 1)
            result = subprocess.run(command, shell=True, cwd=ROOT, env=hub, capture_output=True, text=True)
            assert result.returncode == 0, f"{line}\n{result.stderr[-3000:]}"
            ran += 1
    assert ran >= 3


def test_python_blocks_run(demo: Path, hub: dict[str, str]) -> None:
    blocks = [block.replace("runs/demo", str(demo)) for kind, block in BLOCKS if kind == "python"]
    assert blocks
    for block in blocks:
        result = subprocess.run([sys.executable, "-c", block], cwd=ROOT, env=hub, capture_output=True, text=True)
        assert result.returncode == 0, f"{block}\n{result.stderr[-3000:]}"


def test_file_tree_names_every_file_and_no_other() -> None:
    tree = next(block for kind, block in BLOCKS if kind == "text" and "hf_moshi_ttt/" in block)
    named = set(re.findall(r"([\w]+\.(?:py|yaml))", tree))
    folders = ("hf_moshi_ttt", "metrics", "scripts", "configs", "benchmarks")
    existing = {
        path.name for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".yaml")
    }
    assert named == existing - {"__init__.py"}


def test_every_configuration_parses() -> None:
    from hf_moshi_ttt.settings import read_settings
    from hf_moshi_ttt.training.arguments import parse_settings

    for path in sorted((ROOT / "configs").glob("*.yaml")):
        model, data, args = parse_settings(read_settings(path, ["use_cpu=true"]))
        assert data.train_codes and args.max_steps > 0
        assert model.preset or model.model_name_or_path or args.resume_from
