"""From files: prompts are what was said live, and the user's sound goes on beside the continuation."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from hf_moshi_ttt.codec.audio import Frames
from hf_moshi_ttt.live.from_files import Continuation, Prompt, continue_prompt, read_prompt
from hf_moshi_ttt.live.session import MoshiTTTSession
from hf_moshi_ttt.streaming.generation_moshi_ttt import GREEDY

from ..conftest import chirps_S
from .conftest import voices

OpenSession = Callable[..., MoshiTTTSession]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`own.wav` of 1.6 s, `user.wav` of 2.4 s, `both.wav` of two channels of 1.6 s."""
    folder = tmp_path_factory.mktemp("files")
    own, user = chirps_S(1.6, 1), chirps_S(2.4, 2)
    soundfile.write(folder / "own.wav", own, 24_000, subtype="FLOAT")
    soundfile.write(folder / "user.wav", user, 24_000, subtype="FLOAT")
    soundfile.write(folder / "both.wav", np.stack([own, user[: len(own)]], axis=1), 24_000, subtype="FLOAT")
    return folder


def said_live(session: MoshiTTTSession, prompt: Prompt, frames: int) -> list:
    """The prompt forced into a session step by step, as if it were said live, and the frames after it."""
    assert prompt.codes_BKT is not None and prompt.user_S is not None
    length = prompt.codes_BKT.shape[2]
    user = np.pad(prompt.user_S, (1920, 1920 * (length + frames)))
    steps = []
    for step in range(length + frames + 1):
        known = prompt.codes_BKT[:, :, step] if step < length else torch.full((1, 17), -2)
        sound = user[None, step * 1920 : (step + 1) * 1920]
        steps.append(session.step(sound, forced_text_B=known[:, 0], forced_codes_BQ=known[:, 1:9]))
    return steps[length + 1 :]


@pytest.mark.parametrize("channels", ["two files", "two channels"])
def test_a_prompt_goes_on_as_if_it_had_been_said_live(open_session: OpenSession, files: Path, channels: str) -> None:
    """Greedy codes, text and the codec's state at the end; the user goes on past the prompt, or is silent."""
    at_once, live = open_session(sampling=GREEDY), open_session(sampling=GREEDY)
    two = channels == "two files"
    prompt = read_prompt(
        live.processor, files / ("own.wav" if two else "both.wav"), files / "user.wav" if two else None
    )
    expected = said_live(live, prompt, 12)
    result = continue_prompt(at_once, prompt, 12)
    assert torch.equal(result.codes_BKT[0, 1:9].T, torch.cat([frame.codes_BQ for frame in expected]))
    assert result.codes_BKT[0, 0].tolist() == [int(frame.text_ids_B) for frame in expected]
    assert result.pieces == [frame.text[0] for frame in expected] and (result.codes_BKT[:, 9:] == -1).all()
    for name, tensor in live.codec.tensors().items():
        torch.testing.assert_close(at_once.codec.tensors()[name], tensor, rtol=1e-4, atol=1e-5)
    assert at_once.memory_stats(0)[0]["age_sec"] == live.memory_stats(0)[0]["age_sec"]


def test_a_user_alone_is_heard_from_the_first_sample(open_session: OpenSession, files: Path) -> None:
    live, ours = open_session(sampling=GREEDY), open_session(sampling=GREEDY)
    user = voices(1, 6)
    frames = [live.step(sound) for sound in (torch.zeros(1, 1920), *user.unbind(1))]
    result = continue_prompt(ours, Prompt(None, user.flatten().numpy()), 6)
    assert torch.equal(result.codes_BKT[0, 1:9].T, torch.cat([frame.codes_BQ for frame in frames[1:]]))


@pytest.mark.parametrize("begun_by", ["steps", "a prompt", "a prompt and steps"])
def test_a_stream_that_was_saved_loses_no_frame(
    open_session: OpenSession, files: Path, tmp_path: Path, begun_by: str
) -> None:
    """What it says afterwards is what it would have said, beside the same user."""
    live, user = open_session(sampling=GREEDY), torch.cat([torch.zeros(1, 1, 1920), voices(1, 12)], dim=1)
    if "prompt" in begun_by:
        prompt = read_prompt(live.processor, files / "own.wav", files / "user.wav", Frames(6))
        assert prompt.codes_BKT is not None and prompt.user_S is not None
        live.prefill(prompt.codes_BKT, torch.from_numpy(prompt.user_S[None, : 6 * 1920]))
    if "steps" in begun_by:
        for step in range(4):
            live.step(user[:, step])
    live.save(tmp_path / "stream")
    expected = [live.step(user[:, step]) for step in range(4, 13)]
    again = MoshiTTTSession.load(tmp_path / "stream", live.model, live.processor)
    result = continue_prompt(again, Prompt(None, user[0, 4:].flatten().numpy()), 9, watch=True)
    assert torch.equal(result.codes_BKT[0, 1:9].T, torch.cat([frame.codes_BQ for frame in expected]))
    assert result.pieces == [frame.text[0] for frame in expected]
    assert len(result.frame_ms) == len(result.memory) == 9


@pytest.mark.parametrize("user_stream", ["duplicate", "silence", "none"])
def test_without_a_user_the_rows_are_those_of_mono_recordings(
    open_session: OpenSession, files: Path, user_stream: Any
) -> None:
    """As `model.generate` continues a prompt; the model's own rule is the default."""
    session = open_session(sampling=GREEDY, user_stream=user_stream)
    assert open_session().user_stream == session.model.config.user_stream == "duplicate"
    prompt = read_prompt(session.processor, files / "own.wav", prompt_frames=Frames(7))
    assert prompt.codes_BKT is not None and prompt.codes_BKT.shape == (1, 17, 7) and prompt.user_S is None
    result = continue_prompt(session, prompt, 10, watch=True)
    silence = torch.tensor(session.processor.silence_codes())[None, :, None].expand(-1, -1, 11)
    user = {"duplicate": "duplicate", "silence": silence, "none": None}[user_stream]
    generated = session.model.generate(prompt.codes_BKT, max_new_frames=10, user_codes=user, sampling=GREEDY).codes
    assert torch.equal(result.codes_BKT[:, :9], generated[:, :9]) and (result.codes_BKT[:, 9:] == -1).all()
    assert len(result.frame_ms) == 10 and [stats[0]["layer"] for stats in result.memory] == [1] * 10
    assert result.memory[-1][0]["age_sec"] == pytest.approx((7 + 11) * 0.08)


def test_user_streams_differ_and_others_are_refused(open_session: OpenSession, files: Path) -> None:
    said = []
    for user_stream in ("duplicate", "silence", "none"):
        session = open_session(sampling=GREEDY, user_stream=user_stream)
        said.append(continue_prompt(session, read_prompt(session.processor, files / "own.wav"), 20).codes_BKT)
    assert not torch.equal(said[0], said[1]) and not torch.equal(said[0], said[2]) and not torch.equal(said[1], said[2])
    with pytest.raises(ValueError, match="user_stream='echo', but it must be one of duplicate, silence, none"):
        open_session(user_stream="echo")


def test_words_have_the_time_of_their_first_token() -> None:
    pieces = ["", " he", "", "llo", " ", "you", "", " a", "!"]
    words = Continuation(torch.zeros(1, 17, 9), pieces, [], []).words
    assert words == [
        {"word": "hello", "start_sec": 0.08}, {"word": "you", "start_sec": 0.32}, {"word": "a!", "start_sec": 0.56}
    ]  # fmt: skip
    assert Continuation(torch.zeros(1, 17, 2), ["", ""], [], []).words == []


@pytest.mark.parametrize(
    ("own", "user", "message"),
    [
        ("both.wav", "user.wav", "has the user in its second channel, and .*user.wav has one too: leave one out"),
        ("own.wav", "both.wav", "both.wav: has 2 channels, but one user has one"),
    ],
)
def test_two_users_are_refused(open_session: OpenSession, files: Path, own: str, user: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_prompt(open_session().processor, files / own, files / user)


def test_a_third_channel_is_refused(open_session: OpenSession, files: Path) -> None:
    soundfile.write(files / "three.wav", np.zeros((1920, 3), np.float32), 24_000)
    with pytest.raises(ValueError, match=r"three\.wav: has 3 channels; it may have Moshi's, and the user's"):
        read_prompt(open_session().processor, files / "three.wav")


def test_a_model_without_text_goes_on_with_the_text_row_of_its_training(
    open_session: OpenSession, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = open_session(sampling=GREEDY)
    prompt = read_prompt(session.processor, files / "own.wav")
    assert session.model.config.text_tokenizer is not None
    assert set(continue_prompt(session, prompt, 6).codes_BKT[0, 0].tolist()) != {session.model.config.end_pad_token_id}
    monkeypatch.setattr(session.model.config, "text_tokenizer", None)
    silent = open_session(sampling=GREEDY)
    assert set(continue_prompt(silent, prompt, 6).codes_BKT[0, 0].tolist()) == {silent.model.config.end_pad_token_id}
