"""What `hf-moshi-ttt recall` can run: the tasks with the size and the schedule of their models, and the arms.

An arm is written `NAME` or `NAME+key=value+key=value`, where the keys are those of the configuration's `ttt` section:
`ttt+key_lag_frames=0` is the arm `ttt` with one of its parts switched back. Those of `e2e` are the keys that
`EndToEndConfig` adds: `e2e+chunk_frames=24`. `copy` is `static`, tested with copies of what it heard mixed in.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..configuration_moshi_ttt import MoshiTTTConfig, TTTConfig
from ..memory.line_tasks import LinesTask, LongLinesTask, SaidRecording
from ..memory.recall_tasks import (
    LoopTask,
    MotifTask,
    NaturalTask,
    PairsTask,
    PassageTask,
    RecallTask,
    ScatteredPassageTask,
    SplicedTask,
    shuffle_frames,
)
from ..memory.variant_tasks import RenderedRecording, VariantPassageTask
from ..rivals.configuration_end_to_end import EndToEndConfig
from ..settings import read_settings, typed_values
from .recall_size import SPEECH_TASKS, TASKS, RecallSize, size_of

ARMS: dict[str, dict[str, Any] | None] = {
    "full": None,
    "window": None,
    "static": {"learner": "static"},
    "ttt": {"learner": "ttt"},
    "ttt_all": {"learner": "ttt", "preset": "mini_batch"},
    "gated_delta": {"learner": "gated_delta"},
    "in_place": {"learner": "in_place"},
    "e2e": None,
    "copy": {"learner": "static"},
}
END_TO_END = "e2e"  # a model of its own, without a ttt section
_END_TO_END = {"chunk_frames": 24}  # the sequences of the tasks are short
CONTROL = "static"
COPY = "copy"  # the control's model, its predictions mixed with copies of what was heard
TEST_SETS = ("speech_controls", "long_pieces")
GAPS_WINDOWS = (2, 4, 8, 30, 62.5)
_PIECES_BEFORE = 3
_OPEN_GATE = 1.0
_RANDOM_DEPTH = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "ffn_dim": 64}
_SPEECH_DEPTH = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "ffn_dim": 256}


@dataclass(frozen=True)
class Speech:
    """Recordings `[Q, T]` in `num_ids` ids, to train on and held out.

    Args:
        variants: held-out recordings in another form, by form; `train_variants` those to train on, in all their forms.
        said: held-out recordings with what is said in them.
        apart: held-out recordings of single speakers, by speaker, which are tested apart too.
    """

    num_ids: int
    train: Sequence[Tensor]
    heldout: Sequence[Tensor]
    variants: Mapping[str, Sequence[RenderedRecording]] = field(default_factory=dict)
    train_variants: Sequence[RenderedRecording] = ()
    said: Sequence[SaidRecording] = ()
    apart: Mapping[str, Sequence[Tensor]] = field(default_factory=dict)


@dataclass(frozen=True)
class RecallSetup:
    """A task that is ready to run.

    Args:
        stages: what is trained on, each for an equal share of the steps.
        tests: what is measured, by name.
        device: where the models are trained.
    """

    task: str
    size: RecallSize
    stages: Sequence[RecallTask]
    tests: dict[str, RecallTask]
    depth_decoder_config: dict[str, int]
    device: str = "cpu"

    @property
    def chance_nats(self) -> float | None:
        """The loss at the first hearing that nothing can be better than, where it is known."""
        return getattr(self.stages[0], "chance_nats", None)


def make_setup(
    task: str,
    changes: dict[str, Any],
    speech: Speech | None = None,
    also: Sequence[str] = (),
    device: str = "cpu",
) -> RecallSetup:
    """A task by name.

    Args:
        changes: keys of `RecallSize` with other values.
        speech: for the `SPEECH_TASKS`.
        also: further tests of the same models: tasks whose tests they are, or `TEST_SETS`.
        device: where the models are trained.

    Raises:
        ValueError: an unknown task, test set or key, a key of other tasks, a task of speech without it, or tests of
            other ids.
    """
    size = size_of(task, changes)
    stages, tests = _made(task, speech, size)
    if size.steps < len(stages):
        raise ValueError(f"steps={size.steps}, but {task!r} is trained in {len(stages)} stages of at least one step.")
    for name in also:
        tests = tests | _tests(name, speech, size)
    for speaker, recordings in ({} if speech is None else speech.apart).items():
        tests = tests | _tests_of(speaker, recordings, _required(task, speech).num_ids, size)
    kinds = {(made.num_ids, made.num_codebooks) for made in [*stages, *tests.values()]}
    if len(kinds) > 1:
        raise ValueError(f"also={list(also)}, but only tests with the ids and codebooks of {task!r} suit its models.")
    depth = _SPEECH_DEPTH if task in SPEECH_TASKS else _RANDOM_DEPTH
    return RecallSetup(task, size, stages, tests, depth, device)


def _made(task: str, speech: Speech | None, size: RecallSize) -> tuple[list[RecallTask], dict[str, RecallTask]]:
    if task not in SPEECH_TASKS:
        made = _random_task(task)
        return [made], {task: made}
    return _speech_task(task, _required(task, speech), size)


def _tests(name: str, speech: Speech | None, size: RecallSize) -> dict[str, RecallTask]:
    """The tests of a task or of one of the `TEST_SETS`."""
    if name in TASKS:
        return _made(name, speech, size)[1]
    if name not in TEST_SETS:
        raise ValueError(f"also={name!r}, but further tests are those of {', '.join((*TASKS, *TEST_SETS))}.")
    speech = _required(name, speech)
    if name == "long_pieces":
        return _long_pieces(speech, size)
    return {
        "nothing returns": PassageTask(speech.heldout, speech.num_ids, repeats=False),
        "spliced": SplicedTask(speech.heldout, speech.num_ids, size.piece_frames),
    }


def _long_pieces(speech: Speech, size: RecallSize) -> dict[str, RecallTask]:
    """The same frames after nothing, after what came before them, and after as much of another recording."""
    frames = _PIECES_BEFORE * size.piece_frames
    names = {"nothing": "heard nothing", "own": f"heard {frames} frames", "other": f"heard {frames} of another"}
    return {
        name: LongLinesTask(_with_lines("long_pieces", speech), speech.num_ids, size.piece_frames, frames, before)
        for before, name in names.items()
    }


def _tests_of(speaker: str, recordings: Sequence[Tensor], num_ids: int, size: RecallSize) -> dict[str, RecallTask]:
    """A passage that returns, and pieces as they are, in the recordings of one speaker."""
    return {
        f"{speaker}: refrain": PassageTask(recordings, num_ids),
        f"{speaker}: pieces": NaturalTask(recordings, num_ids, size.piece_frames),
    }


def _with_lines(task: str, speech: Speech) -> Sequence[SaidRecording]:
    if not speech.said:
        raise ValueError(f"task={task!r} needs recordings whose lines are known: encode those of make-programmes.")
    return speech.said


def _required(task: str, speech: Speech | None) -> Speech:
    if speech is None:
        raise ValueError(f"task={task!r} is drawn from encoded speech: give --train-codes and --test-codes.")
    return speech


def _random_task(task: str) -> RecallTask:
    if task == "pairs":
        return PairsTask()
    if task == "loops":
        return LoopTask(num_ids=32, frames=128, shortest_frames=6, longest_frames=40)
    if task == "motif8":
        return MotifTask(num_codebooks=8)
    return MotifTask(repeats=task == "motif")


def _speech_task(task: str, speech: Speech, size: RecallSize) -> tuple[list[RecallTask], dict[str, RecallTask]]:
    if task in ("natural", "shuffled"):
        change = shuffle_frames if task == "shuffled" else list
        train, heldout = (_natural(change(part), speech, size) for part in (speech.train, speech.heldout))
        return [train], {task: heldout}
    if task == "lines":
        test = LinesTask(_with_lines(task, speech), speech.num_ids, size.piece_frames)
        natural = _natural(speech.train, speech, size)
        return [*(_returns(speech) if size.recall_first else []), natural], {task: test}
    dense = PassageTask(speech.train, speech.num_ids)
    if task == "variants":
        return [_returning_forms(speech) if speech.train_variants else dense], _variant_tests(speech)
    if task == "refrain":
        return [dense], {task: PassageTask(speech.heldout, speech.num_ids)}
    gaps_frames = [int(windows * size.window_frames) for windows in GAPS_WINDOWS]
    once: dict[str, RecallTask] = {
        f"after {gap} frames": PassageTask(speech.heldout, speech.num_ids, gap_frames=gap, hearings=2)
        for gap in gaps_frames
    }
    return _returns(speech), once


def _returns(speech: Speech) -> list[RecallTask]:
    """Passages that return, at one distance and at any."""
    train, num_ids = speech.train, speech.num_ids
    return [PassageTask(train, num_ids), ScatteredPassageTask(train, num_ids)]


def _natural(recordings: Sequence[Tensor], speech: Speech, size: RecallSize) -> NaturalTask:
    return NaturalTask(recordings, speech.num_ids, size.piece_frames)


def _returning_forms(speech: Speech) -> RecallTask:
    return VariantPassageTask(speech.train_variants, speech.num_ids, hearings=4, recordings=speech.train)


def _variant_tests(speech: Speech) -> dict[str, RecallTask]:
    if not speech.variants:
        raise ValueError("task='variants' needs held-out recordings in other forms: give --variants FILE.")
    return {
        form: VariantPassageTask(rendered, speech.num_ids, recordings=speech.heldout)
        for form, rendered in speech.variants.items()
    }


def parse_arm(arm: str) -> tuple[str, dict[str, Any]]:
    """The name of an arm and the keys of the `ttt` section that it changes.

    Raises:
        ValueError: an unknown arm, a change that is no `key=value`, one of an arm without memory, a key that is given
            twice, or a value that cannot be meant for its key.
    """
    name, *changes = arm.split("+")
    if name not in ARMS:
        raise ValueError(f"arm {name!r}, but the arms are {', '.join(ARMS)}.")
    for change in changes:
        if "=" not in change or (ARMS[name] is None and name != END_TO_END):
            raise ValueError(
                f"arm {arm!r}: {change!r} must be a key=value of the ttt section, or of EndToEndConfig, of an arm with "
                "memory."
            )
    keys = [change.partition("=")[0] for change in changes]
    twice = [key for key in keys if keys.count(key) > 1]
    if twice:
        raise ValueError(f"arm {arm!r}: {twice[0]} is given twice; give it once.")
    kind = EndToEndConfig if name == END_TO_END else TTTConfig
    return name, typed_values(kind, read_settings([], changes), f"arm {arm!r}: ")


def arm_config(setup: RecallSetup, arm: str) -> MoshiTTTConfig:
    """The configuration of an arm's model. Its memories are in all layers, with their gates open.

    Raises:
        ValueError: an unknown arm or key, a value out of bounds, or memory that is carried from piece to piece where
            pieces are drawn at random.
    """
    name, changes = parse_arm(arm)
    size, task = setup.size, setup.stages[0]
    section = ARMS[name]
    frames = max(task.frames for task in [*setup.stages, *setup.tests.values()])
    shape = {
        "hidden_size": size.hidden_size,
        "num_attention_heads": size.num_attention_heads,
        "num_hidden_layers": size.num_hidden_layers,
        "ffn_dim": 4 * size.hidden_size,
        "sliding_window": frames if name == "full" else size.window_frames,
        "num_codebooks": task.num_codebooks,
        "codebook_size": task.num_ids,
        "first_codebook_weight_multiplier": 1.0,
        "text_loss_weight": 0.0,
        "depth_decoder_config": setup.depth_decoder_config,
        "ttt": None if section is None else _memory(section, changes),
    }
    if name == END_TO_END:
        return _end_to_end(shape, changes)
    config = MoshiTTTConfig.from_preset("tiny", **shape)
    if config.ttt is not None and config.ttt.persistent_states and not size.lanes:
        raise ValueError(
            f"arm {arm!r} carries its memory from piece to piece, but lanes=False: set lanes=true, or leave out "
            "persistent_states."
        )
    return config


def _end_to_end(shape: dict[str, Any], changes: dict[str, Any]) -> MoshiTTTConfig:
    keys = EndToEndConfig.own_keys() - MoshiTTTConfig.own_keys()
    for key in sorted(changes.keys() - keys):
        raise ValueError(f"{key} is no key that EndToEndConfig adds; those are {', '.join(sorted(keys))}.")
    return EndToEndConfig.from_preset("tiny", **shape, **{**_END_TO_END, **changes})


def _memory(section: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    own = {"layers": "all", "mini_batch_size": 16, "ttt_mlp_expansion_factor": 4, "initial_gating_alpha": _OPEN_GATE}
    return {**own, **section, **changes}
