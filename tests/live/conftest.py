"""Sessions of tiny seeded models with the small log-mel codec."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hf_moshi_ttt.configuration_moshi_ttt import MoshiTTTConfig
from hf_moshi_ttt.live.session import MoshiTTTSession, SessionFrame
from hf_moshi_ttt.modeling_moshi_ttt import MoshiTTTForConditionalGeneration
from hf_moshi_ttt.processing_moshi_ttt import MoshiTTTProcessor

from ..conftest import chirps_S

FRAME = 1920


def awake_model(**config: Any) -> MoshiTTTForConditionalGeneration:
    """A seeded tiny model whose memories answer aloud."""
    torch.manual_seed(0)
    model = MoshiTTTForConditionalGeneration(MoshiTTTConfig.from_preset("tiny", **config)).eval()
    for layer in model.model.layers:
        if layer.has_ttt and layer.is_in_place:
            torch.nn.init.normal_(layer.ttt.learner.convolutions[0], std=0.03)
        elif layer.has_ttt:
            torch.nn.init.normal_(layer.ttt.o_proj.weight, std=0.3 / layer.ttt_gate.factor()[0].item())
    return model


@pytest.fixture(scope="session")
def live_model(codec_path: str, tokenizer_path: str) -> MoshiTTTForConditionalGeneration:
    """A model with memory, text and the small codec; not to be changed."""
    return awake_model(codec=codec_path, text_tokenizer=tokenizer_path, text_vocab_size=265)


@pytest.fixture(scope="session")
def live_processor(live_model: MoshiTTTForConditionalGeneration) -> MoshiTTTProcessor:
    """Its processor."""
    return MoshiTTTProcessor(live_model.config)


@pytest.fixture
def open_session(
    live_model: MoshiTTTForConditionalGeneration, live_processor: MoshiTTTProcessor
) -> Callable[..., MoshiTTTSession]:
    """Makes a session of the shared model."""
    return lambda **options: MoshiTTTSession(live_model, live_processor, **options)


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory, live_model: Any, live_processor: Any) -> Path:
    """A whole stream after 5 frames as `session`, its memory as `memory`, in one folder."""
    folder = tmp_path_factory.mktemp("saved")
    session = MoshiTTTSession(live_model, live_processor)
    played(session, voices(1, 5))
    session.save(folder / "session")
    session.save(folder / "memory", memory_only=True)
    return folder


def voices(rows: int, frames: int, seed: int = 0) -> torch.Tensor:
    """Sound of `rows` users, `[B, frames, 1920]`."""
    sound = [chirps_S(frames * FRAME / 24_000, seed + row) for row in range(rows)]
    return torch.from_numpy(np.stack(sound)).reshape(rows, frames, FRAME)


def played(session: MoshiTTTSession, sound_BTN: torch.Tensor) -> list[SessionFrame]:
    """The session's frames for sound `[B, T, 1920]`."""
    return [session.step(sound_BTN[:, frame]) for frame in range(sound_BTN.shape[1])]


def assert_same_speech(ours: list[SessionFrame], other: list[SessionFrame]) -> None:
    """The same codes, text and readiness, and sound within float32 rounding."""
    for frame, (a, b) in enumerate(zip(ours, other, strict=True)):
        assert torch.equal(a.codes_BQ, b.codes_BQ), f"codes of frame {frame}"
        assert torch.equal(a.text_ids_B, b.text_ids_B) and a.text == b.text, f"text of frame {frame}"
        assert torch.equal(a.ready_B, b.ready_B)
        torch.testing.assert_close(a.samples_BN, b.samples_BN, rtol=1e-3, atol=1e-4)
