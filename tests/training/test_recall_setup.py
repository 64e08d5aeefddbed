"""Tasks and arms by name: what each trains, what it changes, and what is refused."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from hf_moshi_ttt.memory.line_tasks import LinesTask, LongLinesTask, SaidRecording
from hf_moshi_ttt.memory.recall_tasks import (
    LoopTask,
    MotifTask,
    NaturalTask,
    PairsTask,
    PassageTask,
    ScatteredPassageTask,
    SplicedTask,
)
from hf_moshi_ttt.memory.variant_tasks import RenderedRecording, Rendering, VariantPassageTask
from hf_moshi_ttt.modeling_moshi_ttt import MoshiTTTForConditionalGeneration
from hf_moshi_ttt.rivals.configuration_end_to_end import EndToEndConfig
from hf_moshi_ttt.training.recall_setup import ARMS, Speech, arm_config, make_setup, parse_arm
from hf_moshi_ttt.training.recall_size import SPEECH_TASKS, TASKS

LENGTH = 1200


def make_speech(**changes: Any) -> Speech:
    train, heldout = torch.zeros(1, LENGTH).long(), torch.ones(1, LENGTH).long()
    given = {
        "variants": {form: [RenderedRecording(heldout, [Rendering(heldout, int)])] for form in ("same", "phase_0.5")},
        "said": [SaidRecording(heldout, torch.arange(LENGTH) // 20, torch.arange(LENGTH // 20) % 5)],
    }
    return Speech(64, [train], [heldout] * 2, **{**given, **changes})


@pytest.mark.parametrize("task", TASKS)
def test_every_task_trains_and_tests_on_the_same_ids(task: str) -> None:
    setup = make_setup(task, {"steps": 7}, make_speech() if task in SPEECH_TASKS else None)
    assert setup.size.steps == 7
    made = [*setup.stages, *setup.tests.values()]
    assert len({(each.num_ids, each.num_codebooks) for each in made}) == 1
    assert (setup.chance_nats is None) == (task in SPEECH_TASKS)


def test_tasks_are_what_their_names_say() -> None:
    assert make_setup("motif", {}).stages == [MotifTask()]
    assert make_setup("motif8", {}).stages == [MotifTask(num_codebooks=8)]
    assert make_setup("control", {}).stages == [MotifTask(repeats=False)]
    assert isinstance(make_setup("pairs", {}).stages[0], PairsTask)
    assert isinstance(make_setup("loops", {}).stages[0], LoopTask)
    speech = make_speech()
    refrain, distance = (make_setup(task, {}, speech) for task in ("refrain", "distance"))
    assert [type(stage) for stage in distance.stages] == [PassageTask, ScatteredPassageTask]
    assert list(distance.tests) == [f"after {gap} frames" for gap in (16, 32, 64, 240, 500)]
    assert refrain.stages[0].recordings is speech.train and refrain.tests["refrain"].recordings is speech.heldout


def test_models_are_asked_further_tests() -> None:
    setup = make_setup("refrain", {}, make_speech(), also=["distance", "speech_controls"], device="cuda")
    assert list(setup.tests) == ["refrain", *(f"after {gap} frames" for gap in (16, 32, 64, 240, 500)),
                                 "nothing returns", "spliced"]  # fmt: skip
    returns, spliced = setup.tests["nothing returns"], setup.tests["spliced"]
    assert isinstance(returns, PassageTask) and not returns.repeats and isinstance(spliced, SplicedTask)
    assert len(setup.stages) == 1 and setup.device == "cuda"


def test_variants_are_trained_on_what_is_given_and_tested_by_form() -> None:
    plain = make_setup("variants", {}, make_speech())
    assert isinstance(plain.stages[0], PassageTask) and list(plain.tests) == ["same", "phase_0.5"]
    test = plain.tests["phase_0.5"]
    assert isinstance(test, VariantPassageTask) and test.recordings is not None and len(test.recordings) == 2
    (trained,) = make_setup("variants", {}, make_speech(train_variants=make_speech().variants["same"])).stages
    assert isinstance(trained, VariantPassageTask) and trained.hearings == 4 and test.hearings == 2
    with pytest.raises(ValueError, match="give --variants FILE"):
        make_setup("variants", {}, make_speech(variants={}))


def test_lines_are_tested_in_pieces_of_the_length_that_is_trained_on() -> None:
    setup = make_setup("lines", {"piece_frames": 200}, make_speech())
    stage, test = setup.stages[0], setup.tests["lines"]
    assert isinstance(stage, NaturalTask) and isinstance(test, LinesTask) and stage.frames == test.frames == 200
    staged = make_setup("lines", {"recall_first": True}, make_speech()).stages
    assert [type(stage) for stage in staged] == [PassageTask, ScatteredPassageTask, NaturalTask]
    with pytest.raises(ValueError, match="needs recordings whose lines are known"):
        make_setup("lines", {}, make_speech(said=[]))


def test_long_pieces_differ_in_what_is_heard_before_them() -> None:
    speech = make_speech(said=[*make_speech().said] * 2)
    tests = make_setup("lines", {"piece_frames": 200}, speech, also=["long_pieces"]).tests
    assert list(tests) == ["lines", "heard nothing", "heard 600 frames", "heard 600 of another"]
    long = [task for task in tests.values() if isinstance(task, LongLinesTask)]
    assert [(task.before, task.piece_frames, task.frames) for task in long] == [
        ("nothing", 200, 200), ("own", 200, 800), ("other", 200, 800)
    ]  # fmt: skip
    with pytest.raises(ValueError, match="'long_pieces' needs recordings whose lines are known"):
        make_setup("natural", {}, make_speech(said=[]), also=["long_pieces"])


def test_a_speaker_is_tested_apart_on_recordings_of_theirs() -> None:
    speech = make_speech()
    apart = {"narrator": list(speech.heldout)[:1]}
    tests = make_setup("refrain", {"piece_frames": 100}, replace(speech, apart=apart)).tests
    assert list(tests) == ["refrain", "narrator: refrain", "narrator: pieces"]
    for task in list(tests.values())[1:]:
        assert isinstance(task, (PassageTask, NaturalTask)) and list(task.recordings) == apart["narrator"]


@pytest.mark.parametrize("arm", ARMS)
def test_arms_differ_in_what_reaches_back(arm: str) -> None:
    setup = make_setup("motif", {})
    config = arm_config(setup, arm)
    assert config.sliding_window == (96 if arm == "full" else 8)
    assert (config.ttt is None) == (arm in ("full", "window", "e2e"))
    assert isinstance(config, EndToEndConfig) == (arm == "e2e")
    if config.ttt is not None:
        assert config.ttt_layer_indices == [0, 1] and config.ttt.initial_gating_alpha == 1
        assert config.ttt.learner == {"ttt_all": "ttt", "copy": "static"}.get(arm, arm)


def test_the_control_has_as_many_parameters_as_the_arm_that_remembers() -> None:
    setup = make_setup("motif", {"hidden_size": 32, "weight_decay": 0})
    counts = {
        arm: sum(p.numel() for p in MoshiTTTForConditionalGeneration(arm_config(setup, arm)).parameters())
        for arm in ("static", "ttt")
    }
    assert counts["static"] >= counts["ttt"]


def test_an_arm_changes_keys_of_the_ttt_section() -> None:
    assert parse_arm("ttt+base_lr=0.5+forget=none") == ("ttt", {"base_lr": 0.5, "forget": "none"})
    config = arm_config(make_setup("motif", {"hidden_size": 128}), "ttt+base_lr=5e-1+ttt_mlp_layers=1+output_bias=no")
    assert (config.ttt.base_lr, config.ttt.ttt_mlp_layers, config.hidden_size) == (0.5, 1, 128)
    assert not config.ttt.output_bias


def test_an_arm_that_learns_end_to_end_changes_its_own_keys() -> None:
    config = arm_config(make_setup("motif", {}), "e2e+inner_lr=0.5+second_order=false")
    assert isinstance(config, EndToEndConfig)
    assert (config.inner_lr, config.second_order, config.fast_layer_indices) == (0.5, False, [1])
    assert (config.chunk_frames, config.hidden_size) == (24, 64)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make_setup("tune", {}), "task='tune', but the tasks are motif, motif8"),
        (lambda: make_setup("refrain", {}), "drawn from encoded speech: give --train-codes and --test-codes"),
        (lambda: make_setup("motif", {"lanes": True}), "lanes=True of task='motif', but only lines and natural can"),
        (
            lambda: make_setup("refrain", {"recall_first": True}, make_speech()),
            "recall_first=True .* but only lines can",
        ),
        (
            lambda: arm_config(make_setup("natural", {}, make_speech()), "ttt+persistent_states=true"),
            "carries its memory from piece to piece, but lanes=False: set lanes=true",
        ),
        (lambda: make_setup("motif", {}, also=["tune"]), "also='tune', but further tests are those of motif, "),
        (lambda: make_setup("motif", {}, also=["speech_controls"]), "'speech_controls' is drawn from encoded speech"),
        (
            lambda: make_setup("motif", {}, make_speech(), ["refrain"]),
            "only tests with the ids and codebooks of 'motif'",
        ),
        (
            lambda: make_setup("lines", {"recall_first": True, "steps": 2}, make_speech()),
            "steps=2, but 'lines' is trained in 3 stages",
        ),
        (lambda: parse_arm("lstm"), "arm 'lstm', but the arms are full, window, static"),
        (lambda: parse_arm("ttt+fast"), "'fast' must be a key=value of the ttt section"),
        (lambda: parse_arm("full+base_lr=1"), "of an arm with memory"),
        (lambda: parse_arm("ttt+base_lr=0.5+base_lr=0.1"), "base_lr is given twice"),
        (lambda: parse_arm("ttt+base_lr=fast"), r"arm 'ttt\+base_lr=fast': base_lr='fast', but it must be a number"),
        (lambda: parse_arm("ttt+layers=["), r"layers=\[: not valid YAML"),
        (lambda: parse_arm("e2e+fast"), "'fast' must be a key=value of the ttt section, or of EndToEndConfig"),
        (lambda: arm_config(make_setup("motif", {}), "e2e+hidden_size=8"), "hidden_size is no key that EndToEndConfig"),
        (lambda: arm_config(make_setup("motif", {}), "ttt+speed=1"), r"does not know \['speed'\]"),
    ],
)
def test_what_is_unknown_is_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
