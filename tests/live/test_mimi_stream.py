"""Kyutai's Mimi on streams: whole recordings frame by frame, past its window, and row by row."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import MimiModel

from hf_moshi_ttt.codec.pretrained_codec import load_codec
from hf_moshi_ttt.live.mimi_stream import MimiStream
from hf_moshi_ttt.live.session import MoshiTTTSession
from hf_moshi_ttt.processing_moshi_ttt import MoshiTTTProcessor

from ..conftest import chirps_S
from .conftest import awake_model, played, voices

EVERYONE = torch.tensor([True, True])
FRAMES = 25  # two and a half windows


@pytest.fixture(scope="module")
def mimi(mimi_path: str) -> MimiModel:
    return load_codec(mimi_path)


@pytest.fixture(scope="module")
def sound() -> torch.Tensor:
    """`[2, 25 * 1920]`."""
    return torch.stack([torch.from_numpy(chirps_S(FRAMES * 0.08, seed)) for seed in range(2)])


@torch.no_grad()
def test_frame_by_frame_equals_the_whole_past_the_window(mimi: MimiModel, sound: torch.Tensor) -> None:
    stream, codes = MimiStream(mimi, 2, 5), mimi.encode(sound[:, None], num_quantizers=5).audio_codes
    whole = mimi.decode(codes).audio_values[:, 0]
    for frame in range(FRAMES):
        samples = slice(frame * 1920, (frame + 1) * 1920)
        assert torch.equal(stream.encode(sound[:, samples], EVERYONE)[:, :, 0], codes[:, :, frame]), frame
        spoken = stream.decode(codes[:, :, frame : frame + 1], EVERYONE)
        torch.testing.assert_close(spoken, whole[:, samples], rtol=1e-4, atol=1e-5 * whole.std().item())


def test_several_frames_at_once_are_the_same(mimi: MimiModel, sound: torch.Tensor) -> None:
    one, many = MimiStream(mimi, 2, 8), MimiStream(mimi, 2, 8)
    codes = torch.cat([one.encode(piece, EVERYONE) for piece in sound.split(1920, dim=1)], dim=2)
    assert torch.equal(torch.cat([many.encode(piece, EVERYONE) for piece in sound.split(7 * 1920, dim=1)], 2), codes)
    spoken = torch.cat([one.decode(piece, EVERYONE) for piece in codes.split(1, dim=2)], dim=1)
    assert torch.equal(many.decode(codes, EVERYONE), spoken)


@torch.no_grad()
def test_resting_and_fresh_rows_do_not_touch_the_others(mimi: MimiModel, sound: torch.Tensor) -> None:
    """Past the window row 0 rests for three frames, and later starts again; both rows say what they say alone."""
    frames, loudness = sound.reshape(2, FRAMES, 1920), mimi.decode(mimi.encode(sound[:, None])[0]).audio_values.std()
    stream, alone = MimiStream(mimi, 2, 8), [MimiStream(mimi, 1, 8) for _ in range(2)]
    position = [0, 0]
    for step in range(FRAMES):
        active = torch.tensor([step not in (13, 14, 15), True])
        if step == 20:
            stream.reset(0)
            alone[0], position[0] = MimiStream(mimi, 1, 8), 0
        heard = stream.encode(torch.stack([frames[row, position[row]] for row in range(2)]), active)
        spoken = stream.decode(heard, active)
        for row in range(2):
            if active[row]:
                expected = alone[row].encode(frames[row : row + 1, position[row]], EVERYONE[:1])
                assert torch.equal(heard[row : row + 1], expected)
                sound_alone = alone[row].decode(expected, EVERYONE[:1])
                torch.testing.assert_close(spoken[row : row + 1], sound_alone, rtol=1e-4, atol=1e-5 * loudness.item())
                position[row] += 1
            else:
                assert not spoken[row].any()


def test_a_session_with_mimi_goes_on_from_its_file(mimi_path: str, tmp_path: Path) -> None:
    """Saved past Mimi's window out of a batch; the codes of both voices and the sound go on bit for bit."""
    model: Any = awake_model(codec=mimi_path)
    processor, sound = MoshiTTTProcessor(model.config), voices(1, 20)
    session = MoshiTTTSession(model, processor)
    played(session, sound[:, :15])
    session.save(tmp_path / "stream")
    rest, loaded = played(session, sound[:, 15:]), MoshiTTTSession.load(tmp_path / "stream", model, processor)
    for ours, expected in zip(played(loaded, sound[:, 15:]), rest, strict=True):
        assert torch.equal(ours.codes_BQ, expected.codes_BQ) and torch.equal(ours.samples_BN, expected.samples_BN)
    assert {len(tensor) for tensor in loaded.codec.tensors().values()} == {1}
