"""Plans that travel with the package parse and suit their tasks; what is wrong is refused by name."""

import shlex
from pathlib import Path
from typing import Any

import pytest
import torch

from hf_moshi_ttt.commands.console import parse
from hf_moshi_ttt.commands.train import settings_of
from hf_moshi_ttt.configuration_moshi_ttt import MoshiTTTConfig
from hf_moshi_ttt.memory.line_tasks import SaidRecording
from hf_moshi_ttt.memory.variant_tasks import RenderedRecording, Rendering
from hf_moshi_ttt.proof.corpora import TEST_FORMS
from hf_moshi_ttt.proof.plan import Criterion, Plan, Rung, read_plan
from hf_moshi_ttt.shipped_files import configuration_file, configuration_names
from hf_moshi_ttt.training.recall_setup import Speech, arm_config, make_setup
from hf_moshi_ttt.training.recall_size import SPEECH_TASKS

GOOD = """
title: t
rungs:
  - {name: a, question: q, task: motif, arms: [full, static, ttt], criteria: [{test: motif, least: 0.5}]}
  - {name: b, question: q, task: control, arms: [static, ttt], criteria: [{test: control, rule: equal}], seeds: 1}
"""


def write(folder: Path, text: str) -> str:
    (folder / "plan.yaml").write_text(text)
    return str(folder / "plan.yaml")


def test_a_plan_is_read(tmp_path: Path) -> None:
    plan = read_plan(write(tmp_path, GOOD))
    assert plan.rungs[0].criteria == [Criterion("motif", least=0.5)] and plan.seeds == [0]
    assert [rung.name for rung in plan.select([])] == ["a", "b"] and plan.select(["b"]) == plan.rungs[1:]
    assert plan.rungs[1].take_seeds([4, 5]) == [4] and plan.rungs[0].count_runs([4, 5]) == 6
    with pytest.raises(ValueError, match=r"rungs=\['c'\], but the plan has a, b"):
        plan.select(["c"])


@pytest.mark.parametrize("name", configuration_names("proof"))
def test_every_plan_names_arms_and_tests_that_exist(name: str) -> None:
    plan = read_plan(configuration_file(name, "proof"))
    assert plan.rungs or plan.recipe
    for rung in plan.rungs:
        recordings = [torch.zeros(1, 1600).long()] * 2
        heard = RenderedRecording(recordings[0], [Rendering(recordings[0], int)])
        forms = {form: [heard] for form in TEST_FORMS.split(",")}
        said = [SaidRecording(recordings[0], torch.zeros(1600).long(), torch.zeros(1).long())] * 2
        apart = {speaker: recordings for speaker in rung.apart}
        given = (recordings, recordings, forms)
        speech = Speech(rung.num_ids, *given, said=said, apart=apart) if rung.task in SPEECH_TASKS else None
        setup = make_setup(rung.task, rung.size, speech, rung.also)
        for arm in [*rung.arms, *rung.first_seed_arms]:
            arm_config(setup, arm)
        named = {criterion.test for criterion in rung.criteria} | set(rung.ceilings) | set(rung.ceilings.values())
        assert named <= set(setup.tests)
        assert rung.run_sec > 0


def test_the_commands_of_a_recipe_are_those_of_its_arms() -> None:
    recipe = read_plan(configuration_file("7b", "proof")).recipe
    assert recipe is not None
    *training, evaluation = map(shlex.split, recipe.commands)
    assert parse("evaluate", evaluation[2:]).compare
    for words, (arm, changes) in zip(training, recipe.arms.items(), strict=True):
        settings = settings_of([*words[2:], "use_cpu=true"])
        asked = MoshiTTTConfig.from_preset(recipe.preset, **{**recipe.config, **changes})
        config = MoshiTTTConfig.from_preset(recipe.preset, **settings["config"])
        assert config.sliding_window == asked.sliding_window and settings["output_dir"].endswith(f"/{arm}-0")
        assert settings["duration_sec"] * 12.5 == recipe.segment_frames
        assert (config.ttt is None) == (asked.ttt is None)
        if config.ttt is not None and asked.ttt is not None:
            keys = ("learner", "layers", "ttt_mlp_layers", "ttt_mlp_expansion_factor")
            assert [getattr(config.ttt, key) for key in keys] == [getattr(asked.ttt, key) for key in keys]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("least: 0.5", "most: 0.5"), r"rung 'a': criteria: most is no key; the keys are test, at, rule"),
        (("test: motif, ", ""), "rung 'a': criteria: .* missing 1 required positional argument: 'test'"),
        (("rule: equal", "rule: same"), "rule='same' of test 'control', but the rules are gap, ahead, equal, harmless"),
        (
            ("least: 0.5", "at: third"),
            "at='third' of test 'motif', but it is last, other, hearings or a hearing's number",
        ),
        (("full, ", ""), r"arms=\['static', 'ttt'\] of rung 'a': full must be among them"),
        (("seeds: 1", "seeds: 0"), "seeds=0 of rung 'b', but it must be at least 1"),
        (("least: 0.5", "at: hearings"), "at='hearings' of test 'motif', but rule='gap' is of one hearing"),
        (("least: 0.5", "least: 85"), "least=85 of test 'motif', but it is a share of the gap, from 0 to 1"),
        (("least: 0.5", "low_above: .nan"), "low_above=nan of test 'motif', but it is a share"),
        (("rule: equal", "rule: equal, least: 0.5"), "least=0.5 of test 'control', but rule='equal' reads it not"),
        (("task: motif", "task: mootif"), "rung 'a': task='mootif', but the tasks are motif"),
        (("full, static, ttt", "full, static, ttt, tt"), "rung 'a': arm 'tt', but the arms are full"),
        (("full, static, ttt", "full, static, ttt, ttt"), "arm 'ttt' is named twice in rung 'a'"),
        (("arms: [full, static, ttt]", "arms: full static ttt"), "arms='full static ttt', but it must be a list"),
        (("seeds: 1", "size: {steps: 0}"), "rung 'b': steps=0, but it must be 1 or more"),
        (("seeds: 1", "size: [1]"), r"size=\[1\], but it must be a dict"),
        (("seeds: 1", "also: [tune]"), "also='tune' of rung 'b', but further tests are motif"),
        (("seeds: 1", "memory: static"), "memory='static' of rung 'b', but it is compared with static"),
        (("seeds: 1", "memory: full"), "memory='full' of rung 'b', but it is compared with static"),
        (("seeds: 1", "num_ids: 1"), "num_ids=1, .* of rung 'b', but these are at least 2"),
        (("seeds: 1", "run_sec: -1"), "run_sec=-1 of rung 'b', but these are at least 2, 1 and 0"),
        (("seeds: 1", "corpus: programmes"), "corpus of rung 'b', but task='control' reads no recordings"),
        (("name: b", "name: ../b"), "name='../b' of a rung, but it is that of a folder"),
        (("title: t", "title: t\nseeds: [1, 1]"), r"seeds=\[1, 1\], but they are one or more different numbers"),
        (("title: t", "title: t\nseeds: [-30]"), r"seeds=\[-30\], but they are"),
        (("title: t", "title: t\nseeds: 3"), "seeds=3, but it must be a list"),
        (("title: t", "title: t\nheadroom_nats: .nan"), "headroom_nats=nan, but it must be 0 or more"),
        (("title: t", "title: t\ncorpus: {train_hours: 0}"), "corpus.train_hours=0, but it must be above 0"),
        (("title: t", "title: t\ncorpus: [1]"), r"corpus=\[1\], but it must be a mapping"),
        (
            ("[{test: motif, least: 0.5}]", "{test: motif}"),
            "rung 'a': criteria={'test': 'motif'}, but it must be a list",
        ),
        (("[{test: motif, least: 0.5}]", "[motif]"), "rung 'a': criteria='motif', but it must be a mapping"),
        (("name: b", "name: a"), r"rungs are called \['a', 'a'\]"),
        (("title: t", "headroom: 1"), "headroom is no key"),
    ],
)
def test_what_is_wrong_is_refused(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_plan(write(tmp_path, GOOD.replace(*change)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("title: t", "plan.yaml: 0 rungs and no recipe, but a plan has either rungs or a recipe"),
        ("title: t\nrungs: null", "rungs=None, but it must be a list"),
        ("title: t\nrungs: [a]", "rungs: 'a', but a rung is a mapping with a name"),
    ],
)
def test_a_plan_of_nothing_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_plan(write(tmp_path, text))


def test_only_a_gap_needs_full_attention() -> None:
    given: dict[str, Any] = dict(name="a", question="q", task="control", arms=["static", "ttt"])
    assert Plan("t", [Rung(**given, criteria=[Criterion("control", rule="equal")])])
    with pytest.raises(ValueError, match="full must be among them"):
        Rung(**given, criteria=[Criterion("control")])
