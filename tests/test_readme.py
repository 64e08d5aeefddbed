"""Every block of the README and of the pages of docs/ runs, and what they say about files and wings is true."""

import ast
import json
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hf_moshi_ttt.commands.console import PROGRAM

from .fixtures.checkpoints import save_kyutai
from .fixtures.hub_stand_in import running_hub
from .fixtures.page_blocks import PAGES, ROOT, jobs_of, read_blocks
from .test_architecture import MODULES, WINGS, imported_modules, wing_of

BLOCKS = {page: read_blocks(page) for page in PAGES}
DEMO_FILES = {
    "corpus/corpus.json", "train.jsonl", "codec/model.safetensors", "tokenizer.model",
    "codes/dailytalk/provenance.json",
    "recall/recall.json", "pretrain/model.safetensors", "static/model.safetensors", "finetune/model.safetensors",
    "results/results.json",
    "results/loss_by_position.png", "results/continuation.wav",
}  # fmt: skip
MOST_README_LINES = 150
GROUND = set(WINGS[: WINGS.index("transformer")])


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo at smoke size: every stage with its real code paths."""
    root = tmp_path_factory.mktemp("demo") / "demo"
    command = [sys.executable, "scripts/demo.py", "--size", "smoke", "--root", str(root)]
    first = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert first.returncode == 0, first.stderr[-3000:]
    return root


@pytest.fixture(scope="module")
def hub(lm_model: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a stand-in for the Hub, with a tiny model under the name of Kyutai's."""
    home = tmp_path_factory.mktemp("hub")
    with running_hub() as stand_in:
        stand_in.create("kyutai/moshiko-pytorch-bf16")
        files = save_kyutai(home / "kyutai", lm_model).iterdir()
        stand_in.commit("kyutai/moshiko-pytorch-bf16", {path.name: path.read_bytes() for path in files})
        yield stand_in.environment(home)


@pytest.fixture(scope="module")
def results(demo: Path, hub: dict[str, str]) -> list[dict[str, Any]]:
    """What came of every block of every page, run in order on the demo of this test in place of runs/demo."""
    jobs = [job for page in PAGES for job in jobs_of(BLOCKS[page], demo)]
    command = [sys.executable, "tests/fixtures/page_blocks.py"]
    ran = subprocess.run(command, cwd=ROOT, env=hub, input=json.dumps(jobs), capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-3000:]
    return [json.loads(line) for line in ran.stdout.splitlines()]


def test_demo_leaves_what_it_promises_and_reuses_it(demo: Path) -> None:
    assert {name for name in DEMO_FILES if not (demo / name).is_file()} == set()
    command = [sys.executable, "scripts/demo.py", "--size", "smoke", "--root", str(demo)]
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert again.returncode == 0, again.stderr[-3000:]
    assert again.stdout.count("done before") == 9
    assert re.search(r"stage +time +CPU +key number +file", again.stdout)
    assert re.search(r"evaluate.* \d+ s +\d+ s +long context.*nats .*n=3.*loss_by_position\.png", again.stdout)
    assert re.search(r"(the memory recalls|no recall yet): static .*, ttt .*\n^long context", again.stdout, re.M)


@pytest.mark.parametrize("page", PAGES)
def test_blocks_of_a_page_run(page: str, results: list[dict[str, Any]]) -> None:
    ran = [result for result in results if result["page"] == page]
    failed = [f"{result['text']}\n{result['output'][-3000:]}" for result in ran if result["code"] != 0]
    assert failed == []
    assert len(ran) == sum(1 for _ in jobs_of(BLOCKS[page], Path()))


def test_pages_run_what_they_show(results: list[dict[str, Any]]) -> None:
    kinds = [result["kind"] for result in results]
    assert kinds.count("script") >= 15 and kinds.count("python") >= 5 and kinds.count("parse") >= 3


def test_other_commands_are_targets_of_make_or_pytest() -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
    for block in (block for page in PAGES for block in BLOCKS[page] if block.kind == "bash"):
        for line in block.commands():
            if line.startswith("make "):
                assert line.removeprefix("make ") in targets, line
            elif "pytest" in line:
                assert all((ROOT / word).exists() for word in line.split() if word.startswith("tests/")), line
            else:
                assert re.search(r"\bscripts/\w+\.py\b", line) or line.startswith(f"{PROGRAM} "), line


def test_first_command_is_the_demo_and_second_the_tests() -> None:
    commands = [line for block in BLOCKS["README.md"] if block.kind == "bash" for line in block.commands()]
    assert commands[:2] == ["make demo", "make test"]
    makefile = (ROOT / "Makefile").read_text()
    assert "scripts/demo.py" in makefile and "pytest" in makefile
    assert (ROOT / ".ci" / "run").read_text().rstrip().endswith("make test")


def test_readme_is_short_and_its_tree_names_every_wing() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= MOST_README_LINES
    tree = next(block.text for block in BLOCKS["README.md"] if block.kind == "text")
    named = set(re.findall(r"^ *(\w+)/ ", tree, re.M))
    folders = {path.name for path in (ROOT / "hf_moshi_ttt").iterdir() if (path / "__init__.py").is_file()}
    outside = {"hf_moshi_ttt", "scripts", "configs", "metrics", "benchmarks", "conformance", "docs", "tests"}
    assert folders | outside <= named
    assert {name for name in named - folders if not (ROOT / name).is_dir()} == set()


def test_the_table_of_wings_is_their_order_and_imports() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    rows = re.findall(r"^\| (`[\w`, ]+`) \|[^|]*\| ?([\w, ]*) ?\|$", text[text.index("## The wings") :], re.M)
    names = [re.findall(r"`(\w+)`", cell) for cell, _ in rows]
    assert [name for row in names for name in row] == [wing for wing in WINGS if wing != "__init__"]
    for row, (_, uses) in list(zip(names, rows, strict=True))[1:]:
        modules = [path for path in MODULES if wing_of(path) == row[0]]
        used = {name.split(".")[0] for path in modules for name in imported_modules(path)}
        assert set(filter(None, uses.strip().split(", "))) == used - GROUND - {row[0]}, row


def test_what_is_added_touches_at_most_three_files_and_a_test() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    section = text[text.index("## How to add") : text.index("## Decisions")]
    lists = [re.findall(r"^\d\. (.*)$", part, re.M) for part in section.split("\n### ")[1:]]
    assert len(lists) == 5
    for files in lists:
        assert 2 <= len(files) <= 4 and files[-1].startswith("Test `tests/")
        assert all(line.startswith("`hf_moshi_ttt/") for line in files[:-1])


@pytest.mark.parametrize("page", PAGES)
def test_links_and_files_that_a_page_names_exist(page: str) -> None:
    text = (ROOT / page).read_text()
    outside_blocks = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    links = [link.partition("#") for link in re.findall(r"(?:\]\(|src(?:set)?=\")([^)\"]+)", outside_blocks)]
    for path, _, anchor in links:
        if not path.startswith("http"):
            target = (ROOT / page).parent / path
            assert target.is_file(), path
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.M) if anchor else []
            assert not anchor or anchor in {heading.lower().replace(" ", "-") for heading in headings}
    files = re.findall(r"`((?:hf_moshi_ttt|tests|scripts|configs|benchmarks|docs)/[\w/.]+\.\w+)`", outside_blocks)
    for name in files:
        assert "NAME" in name or (ROOT / name).is_file(), name
    for name, test in re.findall(r"`(tests/[\w/.]+\.py)::(\w+)`", text):
        assert f"def {test}(" in (ROOT / name).read_text(), test


def test_messages_in_troubleshooting_are_those_of_the_code() -> None:
    trees = [ast.parse(path.read_text()) for path in MODULES]
    constants = (node.value for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant))
    texts = "\n".join(value for value in constants if isinstance(value, str))
    symptoms = re.findall(r"^\| ([^|]*) \|", (ROOT / "docs" / "troubleshooting.md").read_text(), re.M)
    messages = [message for symptom in symptoms for message in re.findall(r"`([^`]* [^`]*)`", symptom)]
    assert len(messages) >= 8
    for message in messages:
        for part in re.split(r"\.\.\.|checkpoint-N|\b[NMXY]\b", message):
            assert part.strip(" ,") in texts, message


def test_every_page_is_linked_from_the_readme() -> None:
    text = (ROOT / "README.md").read_text()
    assert [page for page in PAGES[1:] if f"({page})" not in text] == []


def test_every_configuration_parses() -> None:
    from hf_moshi_ttt.settings import read_settings
    from hf_moshi_ttt.training.arguments import parse_settings

    for path in sorted((ROOT / "configs").glob("*.yaml")):
        model, data, args = parse_settings(read_settings(path, ["use_cpu=true"]))
        assert data.train_codes and args.max_steps > 0
        assert model.preset or model.model_name_or_path or args.resume_from


@pytest.mark.parametrize("palette", ["light", "dark"])
def test_the_picture_is_what_its_script_draws(palette: str) -> None:
    drawn = runpy.run_path(str(ROOT / "docs" / "draw_architecture.py"))["picture"](palette)
    assert (ROOT / "docs" / "images" / f"architecture-{palette}.svg").read_text() == drawn
