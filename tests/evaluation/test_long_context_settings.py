"""Settings are strict: removed ones say what replaced them, the others have bounds."""

from pathlib import Path

import pytest

from hf_moshi_ttt.evaluation.long_context_settings import (
    REMOVED,
    LongContextSettings,
    RecordingSettings,
    parse_settings,
)
from hf_moshi_ttt.settings import read_settings

CODES = {"librilight_codes": "codes"}


def test_settings_go_to_where_they_belong() -> None:
    which, how = parse_settings({**CODES, "max_sequence_length": 24990, "mode": "stream", "positions_frames": [100]})
    assert which == RecordingSettings(librilight_codes="codes", max_sequence_length=24990)
    assert how == LongContextSettings(mode="stream", positions_frames=[100])
    assert how.bin_frames == 250 and LongContextSettings().positions_frames == [8000, 16000, 24000]


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("use_fixed_streaming", "there is one streaming path"),
        ("verify_loss_computation", "check_frames"),
        ("ttt_verification_enabled", "the preflight reports TTT layers and gates"),
        ("memory_check_enabled", "batch_size and block_frames"),
        ("ttt_optimize_chunk_size", "block_frames changes no loss"),
        ("ttt_prefer_efficiency", "mode=block is the fast one"),
        ("librilight_streaming", "its keys are at the top level, such as max_sequence_length"),
    ],
)
def test_removed_settings_say_what_replaced_them(key: str, words: str) -> None:
    with pytest.raises(ValueError, match=f"{key} was removed: .*{words}.* Take it out of the configuration"):
        parse_settings({**CODES, key: False})
    assert key in REMOVED


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bin_frame": 2}, r"Unknown settings \['bin_frame'\]. Known: .*bin_frames"),
        ({"mode": "fast"}, "mode='fast', but it must be block or stream"),
        ({"memory": "reset"}, "memory='reset', but it must be on, off, static, no_reset"),
        ({"block_frames": 0}, "block_frames=0, but it must be at least 1"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"bin_frames": 0}, "bin_frames=0"),
        ({"bin_frames": "wide"}, "bin_frames"),
        ({"positions_frames": [-1]}, r"positions_frames=\[-1\], but it must be positions in frames"),
        ({"positions_frames": 8000}, "positions_frames"),
        ({"check_frames": -1}, "check_frames=-1, but it must be 0 or more"),
        ({"memory_recordings": -1}, "memory_recordings=-1"),
        ({"training_frames": 0}, "training_frames=0, but it must be at least 1"),
        ({"text_stream": "greedy"}, "text_stream='greedy', but it must be one of zero, pad, none, predicted"),
        ({"user_stream": "predicted"}, "user_stream='predicted', but it must be one of duplicate, silence, none"),
        ({"librilight_audio_dir": "audio"}, "librilight_audio_dir='audio' and librilight_codes='codes': give exactly"),
        ({"librilight_codes": None}, "give exactly one of them"),
        ({"librilight_evaluation_mode": "books"}, "librilight_evaluation_mode='books', but it must be one of multi_b"),
        ({"librilight_num_sequences": 0}, "librilight_num_sequences=0, but it must be at least 1"),
        ({"librilight_max_chapters": 0}, "librilight_max_chapters=0"),
        ({"max_sequence_length": 0}, "max_sequence_length=0"),
        ({"librilight_book_name": "emma"}, "with librilight_evaluation_mode='multi_book': it belongs to 'single_book'"),
        ({"librilight_evaluation_mode": "single_book"}, "librilight_book_name=None with"),
        ({"librilight_evaluation_mode": "list"}, "librilight_recordings=None with"),
        ({"librilight_recordings": ["a"]}, r"librilight_recordings=\['a'\] with .* it belongs to 'list'"),
    ],
)
def test_other_values_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_settings({**CODES, **settings})


def test_every_shipped_configuration_parses() -> None:
    paths = sorted((Path(__file__).parents[2] / "configs" / "evaluation").glob("*.yaml"))
    assert paths
    for path in paths:
        parse_settings(read_settings(path, []))
