"""Errors of usage name what is nearest to what was given."""

import pytest

from hf_moshi_ttt.commands.console import main
from hf_moshi_ttt.commands.parser import Parser, UsageError, device_of, nearest, number, whole, wrong_settings


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


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("serve m --port 70000", "--port: '70000', but it must be a whole number from 0 to 65535"),
        ("serve m --rows 0", "--rows: '0', but it must be a whole number, 1 or more"),
        ("serve m --queue -1", "--queue: '-1', but it must be a whole number, 0 or more"),
        ("serve m --session-min 0", "--session-min: '0', but it must be a number above 0"),
        ("serve m --session-min nan", "--session-min: 'nan', but it must be a number above 0"),
        ("serve m --text-temperature inf", "--text-temperature: 'inf', but it must be a number, 0 or more"),
        ("serve m --seed 9223372036854775808", "--seed: '9223372036854775808', but it must be a whole number from 0"),
        ("turn-taking --wav a --output o --conversations 0", "--conversations: '0', but it must be a whole number, 1"),
        ("turn-taking --wav a --output o --batch-size 2.5", "--batch-size: '2.5', but it must be a whole number, 1"),
        ("turn-taking --wav a --output o --user-channel 2", "'2', but it must be a whole number from 0 to 1"),
        ("prepare s --output o --num-proc x", "--num-proc: 'x', but it must be a whole number, 1 or more"),
        (
            "prepare s --output o --max-bad-fraction 1.5",
            "'1.5', but it must be a number from 0 to 1",
        ),
    ],
)
def test_options_out_of_bounds_end_before_anything_runs(
    words: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(words.split())
    error = capsys.readouterr().err
    assert end.value.code == 2 and message in error and len(error.splitlines()) == 1


def test_options_at_their_bounds_are_taken() -> None:
    assert (whole(0, 65535)("65535"), whole(0)("0"), whole()("10")) == (65535, 0, 10)
    assert (number()("0"), number(0, 1)("1"), number(0, is_open=True)("1e-9")) == (0.0, 1.0, 1e-9)
