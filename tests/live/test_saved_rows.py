"""A row of a session as a file: it goes on bit for bit, and its memory moves alone."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from hf_moshi_ttt.live.memory_file import read_manifest, write_memory_file
from hf_moshi_ttt.live.saved_rows import saved_sampling
from hf_moshi_ttt.live.session import MoshiTTTSession
from hf_moshi_ttt.streaming.generation_moshi_ttt import GREEDY, Sampling

from .conftest import assert_same_speech, awake_model, played, voices

OpenSession = Callable[..., MoshiTTTSession]


@pytest.mark.parametrize(("seed", "ttt"), [(0, {}), (1, {"preset": "mini_batch", "mini_batch_size": 4})], ids=str)
def test_a_saved_stream_goes_on_as_if_it_had_never_stopped(
    live_processor: Any, tmp_path: Path, seed: int, ttt: dict
) -> None:
    """Saved at a random frame of 36 (the window is 16), out of a batch, into a session of its own and into a row."""
    config = live_processor.config
    model = awake_model(
        codec=config.codec, text_tokenizer=config.text_tokenizer, text_vocab_size=config.text_vocab_size, ttt=ttt
    )
    stop = int(torch.randint(17, 35, (), generator=torch.Generator().manual_seed(seed)))
    sound, sampling = voices(2, 36), Sampling(temperature=1.5)
    session = MoshiTTTSession(model, live_processor, batch_size=2, sampling=sampling)
    played(session, sound[:, :stop])
    session.set_memory_on(1, False)
    session.save(tmp_path / "row", row=1)
    rest = [session.step(sound[:, frame]) for frame in range(stop, 36)]
    loaded = MoshiTTTSession.load(tmp_path / "row", model, live_processor)
    assert loaded.sampling == sampling and loaded.num_rows == 1
    again = MoshiTTTSession(model, live_processor, batch_size=2, sampling=sampling)
    played(again, sound[:, :9])
    again.restore(tmp_path / "row", row=1)
    for frame, expected in zip(range(stop, 36), rest, strict=True):
        alone, in_row = loaded.step(sound[1:, frame]), again.step(sound[:, frame])
        assert torch.equal(alone.codes_BQ[0], expected.codes_BQ[1]) and alone.text[0] == expected.text[1]
        assert torch.equal(in_row.samples_BN[1], expected.samples_BN[1])
        assert torch.equal(in_row.codes_BQ[1], expected.codes_BQ[1])
    assert again.memory_stats(1) == session.memory_stats(1)


@pytest.mark.parametrize("user_stream", ["silence", "none"])
def test_a_stream_without_a_user_goes_on_without_him(
    open_session: OpenSession, tmp_path: Path, user_stream: Any
) -> None:
    """`load` takes the codes that stood for him; a session of others refuses the stream unless told."""
    session = open_session(user_stream=user_stream, sampling=GREEDY)
    for _ in range(5):
        session.step(None)
    session.save(tmp_path / "stream")
    expected = [session.step(None) for _ in range(20)]
    same = MoshiTTTSession.load(tmp_path / "stream", session.model, session.processor)
    assert_same_speech([same.step(None) for _ in range(20)], expected)
    other = open_session(sampling=GREEDY)
    with pytest.raises(ValueError, match=f"its stream has user_stream='{user_stream}', but this session 'duplicate'"):
        other.restore(tmp_path / "stream")
    other.restore(tmp_path / "stream", other_sampling=True)
    options: Any = dict(user_stream="duplicate")
    chosen = MoshiTTTSession.load(tmp_path / "stream", session.model, session.processor, **options)
    assert chosen.user_stream == other.user_stream == "duplicate" and chosen.memory_frames == [5]


def test_a_file_that_does_not_know_the_users_codes_is_read(open_session: OpenSession, tmp_path: Path) -> None:
    session = open_session()
    played(session, voices(1, 5))
    manifest = replace(session._manifest(0, False), user_stream=None)
    write_memory_file(tmp_path / "stream", {name: x[:1] for name, x in session._tensors().items()}, manifest)
    with safe_open(tmp_path / "stream", framework="pt") as file:
        assert "user_stream" not in json.loads(file.metadata()["manifest"])
    open_session(user_stream="none").restore(tmp_path / "stream")


def test_a_file_of_the_same_stream_is_the_same(open_session: OpenSession, saved: Path, tmp_path: Path) -> None:
    loaded = MoshiTTTSession.load(saved / "session", open_session().model, open_session().processor)
    loaded.save(tmp_path / "again")
    assert read_manifest(tmp_path / "again") == read_manifest(saved / "session")
    again, first = (load_file(path) for path in (tmp_path / "again", saved / "session"))
    assert again.keys() == first.keys() and all(torch.equal(again[name], first[name]) for name in first)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again"]


def test_memory_alone_comes_into_a_fresh_conversation(open_session: OpenSession, saved: Path) -> None:
    """It is a reset that keeps the memory; nothing else of the conversation is in the file."""
    kept, restored, sound = open_session(batch_size=2), open_session(batch_size=2), voices(2, 12)
    played(kept, voices(2, 5)), played(restored, sound)
    kept.reset(0, keep_memory=True)
    restored.restore(saved / "memory")
    kept.reset(1), restored.reset(1)
    assert_same_speech(played(kept, sound), played(restored, sound))
    assert restored.memory_stats(0)[0]["age_sec"] == (5 + 12) * 0.08
    with safe_open(saved / "memory", framework="pt") as file:
        assert all(name.startswith("state.memory.") for name in file.keys())  # noqa: SIM118  not a dict


def test_memory_alone_fits_the_model_in_another_dtype(open_session: OpenSession, saved: Path) -> None:
    session = open_session()
    other = MoshiTTTSession(awake_model(**_keys(session)).to(torch.bfloat16), session.processor)
    other.restore(saved / "memory")
    assert other.memory_stats(0)[0]["norm"] == read_manifest(saved / "memory").layers[0]["norm"]
    assert other.step(voices(1, 1)[:, 0]).samples_BN.shape == (1, 1920)
    with pytest.raises(ValueError, match=r"belongs to another model .* Load the model that .*, in the same dtype"):
        other.restore(saved / "session")


def _keys(session: MoshiTTTSession) -> dict[str, Any]:
    config = session.model.config
    return {key: getattr(config, key) for key in ("codec", "text_tokenizer", "text_vocab_size")}


def test_a_stream_goes_on_with_the_sampling_it_was_drawn_with(open_session: OpenSession, tmp_path: Path) -> None:
    """`load` takes it; a session that draws otherwise refuses the stream unless told, and takes memories."""
    session = open_session(sampling=Sampling(temperature=1.5))
    played(session, voices(1, 5))
    session.save(tmp_path / "stream"), session.save(tmp_path / "memory", memory_only=True)
    same = MoshiTTTSession.load(tmp_path / "stream", session.model, session.processor, sampling=None)
    assert (
        same.sampling == session.sampling
        and saved_sampling(tmp_path / "stream", read_manifest(tmp_path / "stream")) == session.sampling
    )
    assert MoshiTTTSession.load(tmp_path / "memory", session.model, session.processor).sampling == Sampling()
    other = open_session()
    with pytest.raises(ValueError, match=r"drawn with .*temperature=1\.5.* draws with .*temperature=0\.8"):
        other.restore(tmp_path / "stream")
    assert other.memory_frames == [0]
    other.restore(tmp_path / "memory")
    other.restore(tmp_path / "stream", other_sampling=True)
    assert other.sampling == Sampling() and other.memory_frames == [5]
    chosen = MoshiTTTSession.load(tmp_path / "stream", session.model, session.processor, sampling=Sampling(top_k=3))
    assert chosen.sampling.top_k == 3 and chosen.memory_frames == [5]
