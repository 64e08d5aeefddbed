"""Errors of usage name what is nearest to what was given."""

import pytest

from hf_moshi_ttt.commands.parser import Parser, UsageError, device_of, nearest, wrong_settings


@pytest.mark.parametrize(
    ("given", "said"),
    [(["max_step"], " Did you mean max_steps?"), (["max_steps"], ""), (["qqq"], ""), ([], "")],
)
def test_the_nearest_name_of_unknown_ones(given: list[str], said: str) -> None:
    assert nearest(given, ["max_steps", "learning_rate"]) == said


def test_value_errors_become_errors_of_usage() -> None:
    with pytest.raises(UsageError, match=r"^no such key\. Did you mean seed\?$"), wrong_settings(["sed"], ["seed"]):
        raise ValueError("no such key.")
    with pytest.raises(KeyError), wrong_settings():
        raise KeyError("a failure")


def test_a_given_device_is_taken() -> None:
    assert device_of("cpu") == "cpu" and device_of(None) in ("cpu", "cuda")


def test_help_lists_required_options_first_and_examples_indented() -> None:
    parser = Parser(prog="x", description="What it does.\n\nhf-moshi-ttt x a")
    parser.add_argument("--other", help="other")
    parser.add_argument("--must", required=True, help="must")
    text = parser.format_help()
    assert "\n    hf-moshi-ttt x a\n" in text
    assert text.index("required options:\n  --must") < text.index("\noptions:") < text.index("  --other OTHER")
