"""A model and its baselines on the same recordings, in one results dict.

| baseline        | what it is                                                                                |
| --------------- | ----------------------------------------------------------------------------------------- |
| window_only     | the same model, its TTT branch silent: what the attention window gives by itself          |
| no_reset        | the same model, its memory continuing from each recording to the next                       |
| static          | the same model, its inner networks taking no steps                                        |
| static=PATH     | trained with `ttt.learner=static`: as many parameters, used without inner steps           |
| frozen=PATH     | the model that training started from, without TTT                                         |
| gated_delta=PATH | trained with `ttt.learner=gated_delta`: the linear memory                                |
| NAME=PATH       | any other model                                                                           |
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..codec.hub_files import expand_home
from ..data.codes import Provenance
from ..data.compatibility import HOLD_OUT, trained_on
from .comparisons import compare
from .long_context import LongContextOutput, describe_model, evaluate_long_context
from .long_context_settings import LongContextSettings
from .memory_curves import memory_by_position
from .preflight import Finding, afterthoughts, preflight

if TYPE_CHECKING:
    from ..modeling_moshi_ttt import MoshiTTTForConditionalGeneration
    from .recordings import Recording

WAYS = {"window_only": "off", "no_reset": "no_reset", "static": "static"}
TRAINED = {"frozen": None, "static": "static", "gated_delta": "gated_delta"}
_SUBJECTS = {
    "no_reset": "a fresh memory for each recording",
    "frozen": "what was trained",
    "static": "learning while listening",
    "gated_delta": "this learner instead of gated_delta",
}


@dataclass(frozen=True)
class Baseline:
    """One to compare with; `path` is None for a way of running the model itself."""

    name: str
    path: str | None = None

    @property
    def subject(self) -> str:
        """What the model has and the baseline has not."""
        return _SUBJECTS.get(self.name, "memory" if self.path is None else f"this model instead of {self.name}")


def split_name(text: str) -> tuple[str | None, str]:
    """The name and the path of `[NAME=]PATH`; a path may hold `=`, a name neither `/` nor `,`."""
    name, given, path = text.partition("=")
    is_path = not given or {"/", ","} & set(name) or Path(expand_home(text)).exists()
    return (None, text) if is_path else (name, path)


def parse_baselines(text: str) -> list[Baseline]:
    """Baselines from `frozen=PATH,window_only,...`; a path of a folder that exists may hold commas.

    Raises:
        ValueError: an unknown name, a path missing or too many, or a name twice.
    """
    baselines = []
    for part in _split_at_commas(text):
        name, given, path = part.partition("=")
        if "/" in name:
            raise ValueError(f"compare {part!r}: give the model a name, as in NAME={part}.")
        if name in WAYS and name not in TRAINED and given:
            raise ValueError(f"compare {part!r}: {name} is a way of running the model itself and takes no path.")
        if not path and (given or name not in WAYS):
            raise ValueError(
                f"compare {part!r}: it needs the path of a checkpoint, {name}=PATH. "
                f"Without one there are {', '.join(WAYS)}."
            )
        baselines.append(Baseline(name, path or None))
    names = [baseline.name for baseline in baselines]
    if len(set(names)) < len(names):
        raise ValueError(f"compare {text!r}: a name stands there twice.")
    return baselines


def _split_at_commas(text: str) -> list[str]:
    """The parts between commas, those of one path that exists left together."""
    pieces, parts = [piece for piece in text.split(",") if piece], []
    while pieces:
        joined = (",".join(pieces[:count]) for count in range(len(pieces), 1, -1))
        part = next((one for one in joined if Path(expand_home(split_name(one)[1])).exists()), pieces[0])
        parts.append(part)
        pieces = pieces[part.count(",") + 1 :]
    return parts


class Comparison:
    """Evaluates a model and its baselines on the same recordings, one model in memory at a time.

    Args:
        load: from a checkpoint's path to its model, on its device.
        keep_in: folder of losses of finished recordings, or None.
        say: takes each finding to print.
        fingerprint: of the recordings' codes (`data_fingerprint`), to tell those of a model's training.
    """

    def __init__(
        self,
        load: "Callable[[str], MoshiTTTForConditionalGeneration]",
        recordings: "Sequence[Recording]",
        settings: LongContextSettings,
        provenance: Provenance,
        keep_in: str | Path | None = None,
        say: Callable[[str], object] = print,
        fingerprint: str | None = None,
    ) -> None:
        self.load = load
        self.recordings = recordings
        self.settings = settings
        self.provenance = provenance
        self.keep_in = keep_in
        self.say = say
        self.fingerprint = fingerprint
        self._printed: set[Finding] = set()

    def run(self, name: str, path: str, baselines: Sequence[Baseline]) -> dict[str, Any]:
        """`models`, `comparisons` and, for a model with TTT layers, `memory` of results.json.

        Raises:
            ValueError: a baseline that is not what its name says, or is called like the model.
        """
        if name in [baseline.name for baseline in baselines]:
            raise ValueError(f"The model and a baseline are both called {name!r}.")
        model = self.load(path)
        outputs = {name: self._evaluate(name, path, model, self.settings)}
        windows = {name: model.config.sliding_window}
        parts = self._memory(model)
        for baseline in sorted(baselines, key=lambda one: one.path is not None):  # ways first
            if baseline.path is not None:
                del model
                model = self.load(baseline.path)
                _require_kind(baseline, model)
            way = WAYS[baseline.name] if baseline.path is None else self.settings.memory
            settings = replace(self.settings, memory=way)
            outputs[baseline.name] = self._evaluate(baseline.name, baseline.path or path, model, settings)
            windows[baseline.name] = model.config.sliding_window
        comparisons = {}
        for baseline in baselines:
            window = max(windows[name], windows[baseline.name])
            both = outputs[name].headlines, outputs[baseline.name].headlines
            comparisons[baseline.name] = compare(*both, window, self.settings.bin_frames, baseline.subject)
            self.say(f"{name} against {baseline.name}: {comparisons[baseline.name]['verdict']}")
        models = {key: output.results for key, output in outputs.items()}
        return {"model": name, "models": models, "comparisons": comparisons, **parts}

    def _evaluate(
        self, name: str, path: str, model: "MoshiTTTForConditionalGeneration", settings: LongContextSettings
    ) -> LongContextOutput:
        codes = [recording.codes for recording in self.recordings]
        findings = [*preflight(model, codes, settings, self.provenance), *self._training_data(path)]
        self._print_once(name, findings)
        silence = self.provenance.silence_codes
        output = evaluate_long_context(model, codes, settings, silence_codes=silence, keep_in=self.keep_in)
        description = describe_model(model, settings)
        after = afterthoughts(output.results, model.config.codebook_size, description["dtype"])
        self._print_once(name, after)
        found = [asdict(finding) for finding in [*findings, *after]]
        output.results = {"path": path, "description": description, **output.results, "findings": found}
        return output

    def _training_data(self, path: str) -> list[Finding]:
        sentence = None if self.fingerprint is None else trained_on(path, self.fingerprint, "These")
        return [] if sentence is None else [Finding(sentence, HOLD_OUT)]

    def _print_once(self, name: str, findings: Sequence[Finding]) -> None:
        """Prints findings that were not printed before, of this model or another."""
        for finding in findings:
            if finding not in self._printed:
                self._printed.add(finding)
                self.say(f"{name}: {finding}")

    def _memory(self, model: "MoshiTTTForConditionalGeneration") -> dict[str, Any]:
        """The longest recordings are looked into, in bins as wide as those of the losses."""
        count = self.settings.memory_recordings
        longest = sorted(self.recordings, key=lambda recording: -recording.frames)[:count]
        codes = [recording.codes for recording in longest if recording.frames >= self.settings.bin_frames]
        if not codes or not model.config.ttt_layer_indices:
            return {}
        silence = self.provenance.silence_codes
        return {"memory": memory_by_position(model, codes, silence, self.settings.bin_frames)}


def _require_kind(baseline: Baseline, model: "MoshiTTTForConditionalGeneration") -> None:
    if baseline.name not in TRAINED:
        return
    expected = TRAINED[baseline.name]
    found = None if model.config.ttt is None else model.config.ttt.learner
    if found != expected:
        wanted = "no TTT layers" if expected is None else f"ttt.learner={expected!r}"
        raise ValueError(f"{baseline.name}={baseline.path}: it must have {wanted}, but it has ttt.learner={found!r}.")
