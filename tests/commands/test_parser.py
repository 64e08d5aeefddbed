"""Errors of usage name what is nearest to what was given."""

import pytest

from hf_moshi_ttt.commands.parser import UsageError, device_of, nearest, wrong_settings


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
