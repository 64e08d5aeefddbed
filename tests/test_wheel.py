"""The wheel alone, installed outside the checkout, does what a user needs: help, training, evaluation, the metric."""

import configparser
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from .conftest import save_codes

ROOT = Path(__file__).parents[1]
JOURNEY = """
import contextlib, io, json, sys
import hf_moshi_ttt
from hf_moshi_ttt.commands.console import VERBS, main

codes, report = sys.argv[1], {"package": hf_moshi_ttt.__file__}
helps = io.StringIO()
with contextlib.redirect_stdout(helps):
    for verb in VERBS:
        with contextlib.suppress(SystemExit):
            main([verb, "--help"])
    main(["train", "--list"])
report["help"] = helps.getvalue()
small = ["preset=tiny", "config={}", f"train_codes={codes}", "duration_sec=0.88", "max_steps=4", "output_dir=run"]
report["train"] = main(["train", "debug", *small, "gradient_accumulation_steps=1", "disable_tqdm=true"])
words = ["bin_frames=5", "positions_frames=[20]", "librilight_evaluation_mode=chapters", "check_frames=4"]
report["evaluate"] = main(
    ["evaluate", "--model", "run", "--output", "results", "--device", "cpu", f"librilight_codes={codes}", *words]
)
import evaluate
metric = evaluate.load(hf_moshi_ttt.METRIC_LIBRILIGHT, cache_dir="cache")
report["metric"] = metric.compute(losses=[[1.0, 2.0, 3.0]], window=0, bin_frames=1, positions_frames=[2])
json.dump(report, open("report.json", "w"))
"""


def files_of(*folders: str) -> list[str]:
    """The files of the repository, committed or not yet."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *folders]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository, since a build leaves files in it."""
    folder = tmp_path_factory.mktemp("source")
    for name in files_of():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", str(source)]
    subprocess.run([*command, "-w", str(folder)], check=True)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def site(wheel: Path) -> Path:
    folder = wheel.parent / "site"
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-compile", "--target", str(folder)]
    subprocess.run([*command, str(wheel)], check=True)
    return folder


def environment(site: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(site), "HF_EVALUATE_OFFLINE": "1"}


@pytest.fixture(scope="module")
def report(site: Path) -> dict[str, Any]:
    """What a process in an empty directory did with the wheel alone."""
    outside = site.parent / "outside"
    outside.mkdir()
    codes = save_codes(site.parent / "codes", [60, 50])
    command = [sys.executable, "-c", JOURNEY, str(codes)]
    env = {**environment(site), "HF_MODULES_CACHE": str(site.parent / "modules")}
    ran = subprocess.run(command, cwd=outside, env=env, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-3000:]
    return json.loads((outside / "report.json").read_text())


def test_all_files_of_the_package_are_in_the_wheel(wheel: Path) -> None:
    shipped = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("hf_moshi_ttt/")}
    inside = {name.removeprefix("hf_moshi_ttt/") for name in files_of("hf_moshi_ttt", "configs", "metrics")}
    assert shipped == {f"hf_moshi_ttt/{name}" for name in inside}


def test_all_files_of_the_repository_are_in_the_source_distribution(source: Path) -> None:
    program = "from setuptools.build_meta import build_sdist; print(build_sdist('dist'))"
    ran = subprocess.run([sys.executable, "-c", program], cwd=source, capture_output=True, text=True, check=True)
    with tarfile.open(source / "dist" / ran.stdout.splitlines()[-1]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert set(files_of()) - names <= {".gitattributes", ".gitignore"}


def test_every_wing_is_named_in_setup_cfg() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    wings = {f"hf_moshi_ttt.{path.parent.name}" for path in (ROOT / "hf_moshi_ttt").glob("*/__init__.py")}
    named = set(setup["options"]["packages"].split())
    assert named == wings | {"hf_moshi_ttt", "hf_moshi_ttt.configs", "hf_moshi_ttt.metrics"}


def test_the_console_command_runs(site: Path) -> None:
    command = [sys.executable, str(site / "bin" / "hf-moshi-ttt"), "trian"]
    ran = subprocess.run(command, cwd=site.parent, env=environment(site), capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (2, "hf-moshi-ttt: error: there is no verb 'trian'. Did you mean train?\n")


def other_python(minor: int) -> str | None:
    """Python 3.`minor`, where the machine has it; it has none of the libraries."""
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    found = sorted(versions.glob(f"3.{minor}.*/bin/python3.{minor}"))
    return str(found[-1]) if found else shutil.which(f"python3.{minor}")


@pytest.mark.parametrize("minor", [12, 13])
def test_help_and_doctor_run_under_other_pythons_without_any_library(site: Path, minor: int) -> None:
    python = other_python(minor)
    if python is None:
        pytest.skip(f"needs Python 3.{minor}")
    program = """
import compileall, contextlib, sys
from hf_moshi_ttt.commands.console import VERBS, main
for verb in VERBS:
    with contextlib.suppress(SystemExit):
        main([verb, "--help"])
assert main(["doctor", "--json"]) == 0
assert compileall.compile_dir(sys.argv[1], quiet=1)
"""
    program = f"import sys; sys.path.insert(0, {str(site)!r})\n{program}"
    command = [python, "-I", "-c", program, str(site / "hf_moshi_ttt")]
    ran = subprocess.run(command, cwd=site.parent, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert '"next": "pip install torch ' in ran.stdout and "usage: hf-moshi-ttt serve" in ran.stdout


def test_the_wheel_alone_trains_evaluates_and_has_the_metric(report: dict[str, Any], site: Path) -> None:
    assert report["package"].startswith(str(site)) and (report["train"], report["evaluate"]) == (0, 0)
    assert "gate_lr_multiplier (100.0)" in report["help"] and "librilight_pretrain\n" in report["help"]
    assert report["metric"]["librilight_loss_2"] == 3.0
    steps = [
        json.loads(line).get("step") for line in (site.parent / "outside/run/metrics.jsonl").read_text().splitlines()
    ]
    assert max(steps) == 4
    assert (site.parent / "outside" / "results" / "report.html").is_file()
