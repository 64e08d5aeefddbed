"""A recording is continued into a wav with a report beside it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from hf_moshi_ttt.codec import stream_rows
from hf_moshi_ttt.commands.console import main
from hf_moshi_ttt.commands.generate import USER_STREAMS
from hf_moshi_ttt.live import from_files
from hf_moshi_ttt.live.memory_file import inspect
from hf_moshi_ttt.live.session import MoshiTTTSession
from hf_moshi_ttt.modeling_moshi_ttt import MoshiTTTForConditionalGeneration
from hf_moshi_ttt.processing_moshi_ttt import MoshiTTTProcessor
from hf_moshi_ttt.special_ids import NO_INPUT_ID
from hf_moshi_ttt.streaming.generation_moshi_ttt import Sampling

from ..conftest import chirps_S, save_codes


@pytest.fixture
def model(make_model: Callable[..., Any], codec_path: str, tmp_path: Path) -> str:
    make_model(codec=codec_path).save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def test_encoded_recordings(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    codes, output = save_codes(tmp_path / "codes", [30, 40]), tmp_path / "deep" / "out.wav"
    words = ["generate", model, "--codes", str(codes), "--recording", "1", "--output", str(output)]
    assert main([*words, "--prompt-sec", "1.6", "--new-sec", "0.4"]) == 0
    samples, rate = soundfile.read(output)
    assert rate == 24_000 and len(samples) == 5 * 1920
    report = json.loads(output.with_suffix(".json").read_text())
    assert report["prompt"] == "1.flac" and report["frames_per_second"] > 0
    assert "the model was trained without text" in capsys.readouterr().out


def test_audio_files_with_memory_from_one_run_to_the_next(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own, user, output, memory = (tmp_path / name for name in ("own.wav", "user.wav", "out.wav", "heard.safetensors"))
    for path, seed in ((own, 0), (user, 1)):
        soundfile.write(path, chirps_S(1.0, seed), 24_000)
    words = ["generate", model, str(own), "--user", str(user), "--new-sec", "0.4", "--output", str(output)]
    assert main([*words, "--save-memory", str(memory), "--plot", str(tmp_path / "picture.png")]) == 0
    report = json.loads(output.with_suffix(".json").read_text())
    assert len(soundfile.read(output)[0]) == 5 * 1920 and len(report["frame_ms"]) == 5
    assert report["prompt"] == str(own) and report["p99_ms"] >= report["median_ms"] > 0
    assert inspect(memory)["kind"] == "memory" and (tmp_path / "picture.png").stat().st_size > 0
    assert inspect(memory)["layers"] == report["memory_at_end"]
    assert main([*words, "--memory", str(memory)]) == 0
    again = json.loads(output.with_suffix(".json").read_text())
    assert again["memory_at_end"][0]["age_sec"] == pytest.approx(2 * report["memory_at_end"][0]["age_sec"])
    assert main(["generate", model, "--memory", str(own), "--output", str(output)]) == 1
    assert "own.wav: damaged or not a memory file" in capsys.readouterr().err


def test_what_is_heard_without_memory(model: str, tmp_path: Path) -> None:
    """The options reach the session: other codes from the same seed."""
    codes, sounds = save_codes(tmp_path / "codes", [30]), []
    words = ["generate", model, "--codes", str(codes), "--prompt-sec", "1.6", "--new-sec", "1.2", "--temperature", "0"]
    for option in ([], ["--without-memory"]):
        assert main([*words, *option, "--output", str(tmp_path / "out.wav")]) == 0
        sounds.append(soundfile.read(tmp_path / "out.wav")[0])
    assert (sounds[0] != sounds[1]).any()


def test_the_report_for_programs(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As the file beside the wav, without the time of every frame."""
    soundfile.write(tmp_path / "own.wav", chirps_S(0.8, 0), 24_000)
    words = ["generate", model, str(tmp_path / "own.wav"), "--new-sec", "0.24", "--output", str(tmp_path / "out.wav")]
    assert main([*words, "--json"]) == 0
    printed, written = json.loads(capsys.readouterr().out), json.loads((tmp_path / "out.json").read_text())
    assert len(written.pop("frame_ms")) == 3 and printed == written
    assert (printed["model"], printed["prompt"], printed["seed"]) == (model, str(tmp_path / "own.wav"), 0)


def test_a_whole_stream_goes_on_as_it_was_drawn(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its sampling and its seed; another temperature may be asked for, a prompt or another seed may not."""
    loaded = MoshiTTTForConditionalGeneration.from_pretrained(model).eval()
    session = MoshiTTTSession(
        loaded, MoshiTTTProcessor.from_pretrained(model), sampling=Sampling(temperature=1.5, top_k=7), seeds=[5]
    )
    session.step(np.zeros((1, 1920), np.float32))
    session.save(tmp_path / "stream")
    drawn: list[Sampling] = []
    original = MoshiTTTSession.step

    def step(own: MoshiTTTSession, *given: Any, **more: Any) -> Any:
        drawn.append(own.sampling)
        return original(own, *given, **more)

    monkeypatch.setattr(MoshiTTTSession, "step", step)
    words = ["generate", model, "--memory", str(tmp_path / "stream"), "--new-sec", "0.16"]
    words += ["--output", str(tmp_path / "out.wav")]
    assert main(words) == 0
    assert drawn[-1] == session.sampling and json.loads((tmp_path / "out.json").read_text())["seed"] == 5
    assert main([*words, "--temperature", "0.5"]) == 0
    assert drawn[-1] == Sampling(temperature=0.5, top_k=7)
    own = tmp_path / "own.wav"
    soundfile.write(own, chirps_S(0.8, 0), 24_000)
    for more, message in ((["--seed", "1"], "--seed (1)"), ([str(own)], f"a prompt ({own})")):
        assert main([*words, *more]) == 2
        assert f"{message}: {tmp_path / 'stream'} holds a whole stream, which goes on" in capsys.readouterr().err


@pytest.mark.parametrize("is_on", [True, False])
def test_a_whole_stream_keeps_its_switch_and_its_absent_user(model: str, tmp_path: Path, is_on: bool) -> None:
    """What was saved with a silent memory goes on so, and so does what was saved without a user."""
    loaded = MoshiTTTForConditionalGeneration.from_pretrained(model).eval()
    session = MoshiTTTSession(loaded, MoshiTTTProcessor.from_pretrained(model), user_stream="none")
    session.set_memory_on(0, is_on)
    text_B = torch.tensor([loaded.config.end_pad_token_id])
    for _ in range(5):
        session.step(None, forced_text_B=text_B)
    session.save(tmp_path / "stream")
    expected = torch.cat([session.step(None, forced_text_B=text_B).codes_BQ for _ in range(20)]).T[None]
    words = ["generate", model, "--memory", str(tmp_path / "stream"), "--new-sec", "1.6"]
    assert main([*words, "--output", str(tmp_path / "out.wav")]) == 0
    codes = torch.cat([torch.zeros(1, 1, 20, dtype=torch.int64), expected, torch.full((1, 8, 20), -1)], dim=1)
    soundfile.write(tmp_path / "expected.wav", session.processor.decode_audio(codes)[0], 24_000)
    assert (tmp_path / "out.wav").read_bytes() == (tmp_path / "expected.wav").read_bytes()


@pytest.mark.parametrize(
    ("rows", "option", "user_stream"),
    [(8, [], "duplicate"), (17, [], "silence"), *((17, ["--user-stream", name], name) for name in USER_STREAMS)],
)
def test_who_is_heard_where_nobody_is(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int, option: list[str], user_stream: str
) -> None:
    """As the option says; else mono prompts go on with the model's own, prompts of two speakers with silence."""
    sessions: list[Any] = []
    real = from_files.continue_prompt

    def spy(session: MoshiTTTSession, *rest: Any, **more: Any) -> Any:
        sessions.append(session)
        return real(session, *rest, **more)

    monkeypatch.setattr(from_files, "continue_prompt", spy)
    words = ["--codes", str(save_codes(tmp_path / "codes", [30], rows)), "--prompt-sec", "1.6", "--new-sec", "0.16"]
    assert main(["generate", model, *words, *option, "--output", str(tmp_path / "out.wav")]) == 0
    assert [session.user_stream for session in sessions] == [user_stream]


def test_the_user_streams_are_those_of_training(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The option has all names, and the user's rows of a mono prompt follow it too."""
    assert USER_STREAMS == stream_rows.USER_STREAMS
    prompts: list[Any] = []
    real = from_files.continue_prompt

    def spy(session: MoshiTTTSession, prompt: from_files.Prompt, *rest: Any, **more: Any) -> Any:
        prompts.append(prompt)
        return real(session, prompt, *rest, **more)

    monkeypatch.setattr(from_files, "continue_prompt", spy)
    words = ["--codes", str(save_codes(tmp_path / "codes", [30], 8)), "--prompt-sec", "1.6", "--new-sec", "0.16"]
    assert main(["generate", model, *words, "--user-stream", "none", "--output", str(tmp_path / "out.wav")]) == 0
    soundfile.write(tmp_path / "own.wav", chirps_S(1.6, 0), 24_000)
    words = [str(tmp_path / "own.wav"), "--new-sec", "0.16"]
    assert main(["generate", model, *words, "--user-stream", "none", "--output", str(tmp_path / "out.wav")]) == 0
    assert all((prompt.codes_BKT[:, 9:] == NO_INPUT_ID).all() for prompt in prompts) and len(prompts) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--codes", "codes", "--user", "user.wav"],
            "--codes holds a prompt with both voices: give either it or audio",
        ),
        ([], "there is nothing to go on from: give an audio file, --user, --codes or --memory"),
        (["own.wav", "--new-sec", "0"], "--new-sec 0.0: must be above 0 seconds"),
        (["own.wav", "--new-sec", "inf"], "--new-sec inf: must be above 0 seconds"),
        (["own.wav", "--prompt-sec", "-1"], "--prompt-sec -1.0: must be above 0 seconds"),
        (["out.wav"], "out.wav would be replaced by another file of this command: choose another name"),
        (["own.wav", "--plot", "out.json"], "out.json would be replaced by another file of this command"),
        (["own.wav", "--save-memory", "."], "is a folder, but a file is to be written there"),
        (["own.wav", "--output", "out.xyz"], "--output out.xyz: its name must end in .wav"),
    ],
)
def test_wrong_usage(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "model", "--output", "out.wav", *words]) == 2
    assert message in capsys.readouterr().err


def test_files_that_cannot_be_read_are_named_before_a_model_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "zero.mp3").touch()
    words = ["generate", "no/model", "--output", str(tmp_path / "out.wav")]
    for given, message in (
        (["zero.mp3"], "zero.mp3: empty, it has 0 bytes"),
        (["--user", "gone.wav"], "gone.wav: missing"),
    ):
        assert main([*words, *given[:-1], str(tmp_path / given[-1])]) == 1
        assert message in capsys.readouterr().err
