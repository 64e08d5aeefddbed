"""Settings of the long-context evaluation, in a YAML file and as `key=value`; unknown and removed keys are refused.

Positions and lengths are frames of 80 ms: 8,000 frames are 10.7 minutes, 24,990 are 33.3 minutes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError

from ..settings import typed_values

MODES = ("block", "stream")
TEXT_STREAMS = ("zero", "pad", "none", "predicted")
MEMORIES = ("on", "off", "static", "no_reset")
EVALUATION_MODES = ("multi_book", "single_book", "list", "chapters")
REMOVED = {
    "use_fixed_streaming": "there is one streaming path and it is exact: choose mode=block or mode=stream",
    "verify_loss_computation": "every run compares blocks with single frames (check_frames) and reports block_check",
    "ttt_verification_enabled": "the preflight reports TTT layers and gates, memory_recordings their inner losses",
    "memory_check_enabled": "memory does not grow with length: it follows from batch_size and block_frames",
    "ttt_optimize_chunk_size": "block_frames changes no loss, and ttt.mini_batch_size belongs to the checkpoint",
    "ttt_prefer_efficiency": "mode=block is the fast one, with the losses of mode=stream",
    "librilight_streaming": "its keys are at the top level, such as max_sequence_length",
}


def _require(key: str, value: object, condition: bool, allowed: str) -> None:
    if not condition:
        raise ValueError(f"{key}={value!r}, but it must be {allowed}.")


@strict
@dataclass
class LongContextSettings:
    """How loss by position is measured."""

    mode: str = field(
        default="block",
        metadata={"help": "'block': many frames at once; 'stream': frame by frame, the same losses, slow."},
    )
    block_frames: int = field(default=512, metadata={"help": "Longest block; losses do not depend on it."})
    batch_size: int = field(default=4, metadata={"help": "Recordings read side by side."})
    positions_frames: list[int] = field(
        default_factory=lambda: [8000, 16000, 24000],
        metadata={"help": "Positions in frames of 80 ms whose losses get keys; 8000 frames are 10.7 minutes."},
    )
    bin_frames: int = field(default=250, metadata={"help": "Width in frames of what losses are means over."})
    text_stream: str | None = field(
        default=None,
        metadata={
            "help": "Text row: 'zero', 'pad', 'none', or 'predicted' (the model's own greedy choice is fed back). "
            "By default mono recordings get the model's own text_stream, and conversations keep their text."
        },
    )
    user_stream: str | None = field(
        default=None,
        metadata={"help": "User rows of mono recordings: 'duplicate', 'silence', 'none'; the model's own by default."},
    )
    memory: str = field(
        default="on",
        metadata={
            "help": "'on'; 'off': the TTT branch adds nothing, so that the attention window is all there is; "
            "'static': the inner networks answer from their start weights and take no steps; "
            "'no_reset': the memory continues from each recording to the next."
        },
    )
    check_frames: int = field(
        default=64,
        metadata={"help": "Frames late in the longest recording that are read again one by one; 0: none."},
    )
    memory_recordings: int = field(
        default=2, metadata={"help": "Recordings of which the report shows what the memories do; 0 for none."}
    )
    training_frames: int | None = field(
        default=None,
        metadata={"help": "Length of a training segment in frames, to be marked in the report."},
    )

    def __post_init__(self) -> None:
        from ..codec.stream_rows import USER_STREAMS

        _require("mode", self.mode, self.mode in MODES, " or ".join(MODES))
        _require("memory", self.memory, self.memory in MEMORIES, ", ".join(MEMORIES))
        for key in ("block_frames", "batch_size", "bin_frames"):
            _require(key, getattr(self, key), getattr(self, key) >= 1, "at least 1")
        positions = self.positions_frames
        _require("positions_frames", positions, all(at >= 0 for at in positions), "positions in frames, 0 or more")
        for key in ("check_frames", "memory_recordings"):
            _require(key, getattr(self, key), getattr(self, key) >= 0, "0 or more")
        length = self.training_frames
        _require("training_frames", length, length is None or length >= 1, "at least 1")
        for key, allowed in (("text_stream", TEXT_STREAMS), ("user_stream", USER_STREAMS)):
            value = getattr(self, key)
            _require(key, value, value is None or value in allowed, f"one of {', '.join(allowed)}")


@strict
@dataclass
class RecordingSettings:
    """Which recordings are evaluated, by the established keys."""

    librilight_audio_dir: str | None = field(
        default=None,
        metadata={"help": "Folder of audio (speaker/book/chapter.flac) or its index; only what is used is encoded."},
    )
    librilight_data_dir: str | None = field(
        default=None,
        metadata={"help": "Folder that all of that audio must lie in, links followed; by default the index's own."},
    )
    librilight_codes: str | None = field(
        default=None, metadata={"help": "Folder of encoded recordings (hf-moshi-ttt prepare), or such a dataset."}
    )
    librilight_evaluation_mode: str = field(
        default="multi_book",
        metadata={
            "help": "'multi_book': each book is a recording, its chapters joined in order; 'single_book': the one that "
            "librilight_book_name names; 'list': those of librilight_recordings; 'chapters': each file by itself."
        },
    )
    librilight_speaker_id: str | None = field(default=None, metadata={"help": "Keep only the books of this speaker."})
    librilight_book_name: str | None = field(default=None, metadata={"help": "The book of 'single_book'."})
    librilight_recordings: list[str] | None = field(
        default=None, metadata={"help": "Of 'list', in order: 'speaker/book', or paths of single files."}
    )
    librilight_num_sequences: int | None = field(
        default=None, metadata={"help": "How many recordings, drawn by seed; all by default."}
    )
    librilight_max_chapters: int | None = field(
        default=None, metadata={"help": "How many chapters of a book, from the first; all by default."}
    )
    max_sequence_length: int | None = field(
        default=None, metadata={"help": "Longest recording in frames of 80 ms; the rest is left out."}
    )
    seed: int = field(default=0, metadata={"help": "Of the draw of recordings."})

    def __post_init__(self) -> None:
        sources = (self.librilight_audio_dir, self.librilight_codes)
        if sum(source is not None for source in sources) != 1:
            raise ValueError(
                f"librilight_audio_dir={sources[0]!r} and librilight_codes={sources[1]!r}: give exactly one of them."
            )
        mode = self.librilight_evaluation_mode
        _require("librilight_evaluation_mode", mode, mode in EVALUATION_MODES, f"one of {', '.join(EVALUATION_MODES)}")
        for key in ("librilight_num_sequences", "librilight_max_chapters", "max_sequence_length"):
            _require(key, getattr(self, key), getattr(self, key) is None or getattr(self, key) >= 1, "at least 1")
        for key, needing in (("librilight_book_name", "single_book"), ("librilight_recordings", "list")):
            if (getattr(self, key) is not None) != (mode == needing):
                raise ValueError(
                    f"{key}={getattr(self, key)!r} with librilight_evaluation_mode={mode!r}: it belongs to {needing!r}."
                )


KINDS: tuple[Any, ...] = (RecordingSettings, LongContextSettings)


def parse_settings(settings: Mapping[str, Any]) -> tuple[RecordingSettings, LongContextSettings]:
    """Settings by their keys.

    Raises:
        ValueError: a removed key (with what replaced it), an unknown one, a wrong type or a value out of bounds.
    """
    which, how = _parsed(settings, KINDS)
    return which, how


def parse_long_context_settings(settings: Mapping[str, Any]) -> LongContextSettings:
    """The same where recordings are named otherwise."""
    (how,) = _parsed(settings, (LongContextSettings,))
    return how


def _parsed(settings: Mapping[str, Any], kinds: tuple[Any, ...]) -> list[Any]:
    for key in settings:
        if key in REMOVED:
            raise ValueError(f"{key} was removed: {REMOVED[key]}. Take it out of the configuration.")
    names = {kind: [item.name for item in fields(kind)] for kind in kinds}
    known = [name for kind in kinds for name in names[kind]]
    unknown = sorted(set(settings) - set(known))
    if unknown:
        raise ValueError(f"Unknown settings {unknown}. Known: {', '.join(known)}.")
    parts = [{key: value for key, value in settings.items() if key in names[kind]} for kind in kinds]
    try:
        return [kind(**typed_values(kind, chosen)) for kind, chosen in zip(kinds, parts, strict=True)]
    except StrictDataclassError as error:
        raise ValueError(str(error)) from error
