"""Runs transformers' own model tests (ModelTesterMixin) on TTT-Moshi and says why each skipped one is skipped.

The tests come from the source distribution of the installed transformers version on PyPI; nothing of it is committed.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tarfile
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

import transformers
import yaml

ROOT = Path(__file__).parent.parent
# Modules that the common tests import, but that the source distribution leaves out.
STUBS = {
    "__init__.py": "",
    "models/__init__.py": "",
    "models/moshi_ttt/__init__.py": "",
    "exporters/__init__.py": "",
    "exporters/test_export.py": "class ExportTesterMixin: ...\n",
    "generation/__init__.py": "",
    "generation/test_utils.py": "class GenerationTesterMixin: ...\n",
}


def pip(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", *arguments, "--quiet"], check=True)


def fetch_tests(folder: Path) -> None:
    """transformers' tests of the installed version, and the one package they need beside it."""
    requirement = f"transformers=={transformers.__version__}"
    sources = folder / "sources"
    pip("download", "--no-deps", "--no-build-isolation", "--no-binary", "transformers", requirement, "-d", str(sources))
    pip("install", "--no-deps", "--target", str(folder / "site"), "parameterized")
    with tarfile.open(next(sources.glob("transformers-*.tar.gz"))) as archive:
        for member in archive.getmembers():
            if re.fullmatch(r"transformers-[^/]+/tests/[^/]+\.py", member.name):
                member.name = f"tests/{Path(member.name).name}"
                archive.extract(member, folder, filter="data")


def place_ours(folder: Path) -> None:
    """Our test among theirs, and a pytest.ini that keeps this repository's settings away."""
    (folder / "pytest.ini").write_text("[pytest]\n")
    for name, content in STUBS.items():
        path = folder / "tests" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    test = ROOT / "conformance" / "test_modeling_moshi_ttt.py"
    shutil.copyfile(test, folder / "tests" / "models" / "moshi_ttt" / test.name)


def run_tests(folder: Path) -> ElementTree.Element:
    """pytest's report."""
    environment = {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{folder / 'site'}"}
    command = [sys.executable, "-m", "pytest", "-q", "-W", "ignore", "--junitxml=report.xml", "tests/models/moshi_ttt"]
    subprocess.run(command, cwd=folder, env=environment, check=False)
    return ElementTree.parse(folder / "report.xml").getroot()


def summarize(report: ElementTree.Element) -> bool:
    """Prints the counts and the reason of each skip; whether nothing failed and every reason is known."""
    known = yaml.safe_load((ROOT / "conformance" / "skips.yaml").read_text(encoding="utf-8"))
    cases = list(report.iter("testcase"))
    failed = [case.get("name") for case in cases if case.find("failure") is not None or case.find("error") is not None]
    reasons = [skip.get("message") or "" for case in cases if (skip := case.find("skipped")) is not None]
    counted, unknown = Counter[str](), []
    for reason in reasons:
        why = next((f"{why} ({reason})" for pattern, why in known.items() if re.search(pattern, reason)), None)
        counted[why or f"NOT KNOWN: {reason}"] += 1
        unknown += [] if why else [reason]
    print(f"\ntransformers {transformers.__version__}: {len(cases) - len(failed) - len(reasons)} passed, ", end="")
    print(f"{len(failed)} failed, {len(reasons)} skipped")
    for why, count in counted.most_common():
        print(f"  {count:3} skipped: {why}")
    for name in failed:
        print(f"  FAILED: {name}")
    return not failed and not unknown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--folder", type=Path, default=Path("runs/conformance"), help="for what is fetched (%(default)s)"
    )
    folder = (parser.parse_args().folder / transformers.__version__).resolve()
    if not (folder / "tests" / "test_modeling_common.py").is_file():
        fetch_tests(folder)
    place_ours(folder)
    sys.exit(0 if summarize(run_tests(folder)) else 1)


if __name__ == "__main__":
    main()
