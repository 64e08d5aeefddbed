"""The conformance script's verdict: failures and skips without a known reason fail. The run itself needs PyPI."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest
import yaml

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("run_conformance", ROOT / "scripts" / "run_conformance.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("cases", "verdict", "said"),
    [
        ("<testcase name='a'/>", True, "1 passed, 0 failed, 0 skipped"),
        ("<testcase name='a'><failure/></testcase>", False, "FAILED: a"),
        ("<testcase name='a'><error/></testcase>", False, "0 passed, 1 failed"),
        (
            "<testcase name='a'><skipped message='test requires MPS'/></testcase>",
            True,
            "1 skipped: this machine has no",
        ),
        ("<testcase name='a'><skipped message='no idea'/></testcase>", False, "1 skipped: NOT KNOWN: no idea"),
    ],
)
def test_verdict(script: ModuleType, capsys: pytest.CaptureFixture[str], cases: str, verdict: bool, said: str) -> None:
    report = ElementTree.fromstring(f"<testsuites><testsuite>{cases}</testsuite></testsuites>")
    assert script.summarize(report) is verdict
    assert said in capsys.readouterr().out


def test_every_reason_is_a_pattern_with_an_explanation() -> None:
    known = yaml.safe_load((ROOT / "conformance" / "skips.yaml").read_text())
    for pattern, why in known.items():
        re.compile(pattern)
        assert len(why) > 5
