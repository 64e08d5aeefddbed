"""The console command and the scripts are the same; help is light; errors are one line with their exit codes."""

import importlib
import inspect
import json
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hf_moshi_ttt.commands import console
from hf_moshi_ttt.commands.console import PROGRAM, VERBS, main, module_of, parser_of

from ..test_auto_classes import HEAVY

ROOT = Path(__file__).parents[2]
NOT_A_VERB = {"run_conformance.py"}  # it needs the repository
PROGRAM_OF_HELP = """
import contextlib, io, json, sys
from hf_moshi_ttt.commands.console import VERBS, main
loaded = {}
for words in [["--help"], *([verb, "--help"] for verb in VERBS)]:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        main(words)
    loaded[words[0]] = [name for name in json.load(open(sys.argv[1])) if name in sys.modules]
print(json.dumps(loaded))
"""


def help_of(verb: str) -> str:
    return " ".join(parser_of(verb).format_help().split())


def test_help_of_no_verb_imports_anything_heavy(tmp_path: Path) -> None:
    (tmp_path / "heavy.json").write_text(json.dumps(HEAVY))
    command = [sys.executable, "-c", PROGRAM_OF_HELP, str(tmp_path / "heavy.json")]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(ran.stdout) == {verb: [] for verb in ("--help", *VERBS)}


def test_every_script_is_a_verb_and_every_verb_is_in_the_overview(capsys: pytest.CaptureFixture[str]) -> None:
    scripts = {path.name for path in (ROOT / "scripts").glob("*.py")} - NOT_A_VERB
    assert scripts == {script for script in VERBS.values() if script is not None}
    assert main(["--help"]) == 0
    listed = re.findall(r"^  ([\w-]+) +[A-Z].*\.$", capsys.readouterr().out, re.M)
    assert listed == list(VERBS)


@pytest.mark.parametrize("verb", [verb for verb, script in VERBS.items() if script is not None])
def test_a_script_has_the_command_line_of_its_verb(
    verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = ROOT / "scripts" / str(VERBS[verb])
    monkeypatch.setattr(sys, "argv", [str(path), "--help"])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_path(str(path), run_name="__main__")
    assert " ".join(capsys.readouterr().out.split()) == help_of(verb)


@pytest.mark.parametrize("verb", VERBS)
def test_help_has_an_example_and_explains_every_option(verb: str) -> None:
    parser = parser_of(verb)
    assert f"{PROGRAM} {verb}" in str(parser.description)
    assert [action.dest for action in parser._actions if not action.help and not action.choices] == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian"], "hf-moshi-ttt: error: there is no verb 'trian'. Did you mean train?"),
        (["zzz"], "hf-moshi-ttt: error: there is no verb 'zzz'. Verbs: doctor, demo, "),
        (["convert", "a", "b", "--to", "c"], "hf-moshi-ttt convert: error: argument --to: invalid choice: 'c' "),
        (
            ["index", "a"],
            "hf-moshi-ttt index: error: the following arguments are required: --output. (see hf-moshi",
        ),
        (
            ["index", "a", "--output", "b", "--min-duration", "3"],
            "hf-moshi-ttt index: error: unrecognized arguments: --min-duration 3. Did you mean --min-duration-sec? (",
        ),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, list) else "",
)
def test_a_wrong_command_line_is_one_line_and_code_2(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code: Any = main(words)
    except SystemExit as stop:
        code = stop.code
    said = capsys.readouterr().err
    assert code == 2 and said.startswith(message) and said.count("\n") == 1


def test_a_failed_run_is_code_1_without_a_traceback_unless_debug(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["index", str(tmp_path / "nowhere"), "--output", str(tmp_path / "i.jsonl")]
    assert main(words) == 1
    said = capsys.readouterr().err
    assert said.startswith("hf-moshi-ttt index: error: ") and "nowhere" in said and "Traceback" not in said
    with pytest.raises((ValueError, OSError), match="nowhere"):
        main([*words, "--debug"])


def test_an_unexpected_error_is_named_by_its_type(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = importlib.import_module("hf_moshi_ttt.commands.plot")
    monkeypatch.setattr(module, "run", lambda arguments: {}["missing"])
    assert main(["plot", "somewhere"]) == 1
    assert capsys.readouterr().err == "hf-moshi-ttt plot: error: KeyError: 'missing' (--debug shows where)\n"


def test_a_missing_optional_package_is_named_with_the_command_that_gets_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(arguments: Any) -> None:
        try:
            raise ModuleNotFoundError("No module named 'moshi'", name="moshi")
        except ImportError as error:
            raise ImportError("Kyutai's package is missing") from error

    module = importlib.import_module("hf_moshi_ttt.commands.plot")
    monkeypatch.setattr(module, "run", run)
    assert main(["plot", "somewhere"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("hf-moshi-ttt plot: error: moshi is not installed, ") and "--no-deps moshi==" in said


def test_json_is_all_that_stdout_holds(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def run(arguments: Any) -> dict[str, Any]:
        print("for people")
        return {"path": Path("a")}

    monkeypatch.setattr(importlib.import_module("hf_moshi_ttt.commands.plot"), "run", run)
    assert main(["plot", "somewhere", "--json"]) == 0
    assert capsys.readouterr() == ('{\n "path": "a"\n}\n', "for people\n")
    assert main(["plot", "somewhere"]) == 0
    assert capsys.readouterr() == ("for people\n", "")


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_with_facts_has_json(verb: str) -> None:
    """`--json` and what `run` returns belong together."""
    found = inspect.signature(module_of(verb).run).return_annotation
    assert ("--json" in parser_of(verb).format_help()) == ("dict[str, typing.Any]" in str(found)), found


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert re.fullmatch(r"hf-moshi-ttt \d+\.\d+\.\d+\n", capsys.readouterr().out)


@pytest.mark.parametrize("where", ["parser_of", "module_of"])
def test_ctrl_c_ends_with_one_line(
    where: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also while a verb's module is imported."""

    def interrupted(verb: str) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(console, where, interrupted)
    assert main(["doctor"]) == 130
    assert capsys.readouterr().err == "hf-moshi-ttt doctor: interrupted\n"
    with pytest.raises(KeyboardInterrupt):
        main(["doctor", "--debug"])
