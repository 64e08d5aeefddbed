"""The demo's command knows its sizes; tests/test_readme.py runs it."""

from hf_moshi_ttt.commands.console import parser_of
from hf_moshi_ttt.demo.stages import SIZES


def test_the_sizes_are_those_of_the_stages() -> None:
    (size,) = [action for action in parser_of("demo")._actions if action.dest == "size"]
    assert tuple(size.choices or ()) == tuple(SIZES) and size.default == "full"
