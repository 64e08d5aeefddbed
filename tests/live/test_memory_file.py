"""A stream as a file: it goes on bit for bit, its memory moves alone, and no foreign file comes in."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from hf_moshi_ttt.live.memory_file import FORMAT, Manifest, diff, inspect, read_manifest, write_memory_file
from hf_moshi_ttt.live.session import MoshiTTTSession

from .conftest import assert_same_speech, played, voices

OpenSession = Callable[..., MoshiTTTSession]


def test_a_file_says_what_it_holds(open_session: OpenSession, saved: Path) -> None:
    session = open_session()
    played(session, voices(1, 5))
    found = inspect(saved / "session")
    assert found["layers"] == session.memory_stats(0) and found["kind"] == "session" and found["age_sec"] == 0.4
    assert found["num_bytes"] == (saved / "session").stat().st_size
    assert inspect(saved / "memory")["kind"] == "memory"
    assert found["codec_sha256"] == session.identity[1] and found["model_exact"] == session.identity[0].exact


def test_memories_are_compared_by_layer(open_session: OpenSession, saved: Path, tmp_path: Path) -> None:
    assert diff(saved / "session", saved / "memory")[0]["distance"] == 0
    session = open_session()
    session.restore(saved / "memory")
    session.state.memory[0].fast_weights.mul_(2)
    session.save(tmp_path / "double", memory_only=True)
    layer = diff(saved / "memory", tmp_path / "double")[0]
    assert layer["layer"] == 1 and layer["other_norm"] == pytest.approx(2 * layer["norm"])
    assert layer["distance"] == pytest.approx(layer["norm"]) and layer["cosine"] == pytest.approx(1)
    session.reset(0)
    session.save(tmp_path / "fresh", memory_only=True)
    assert math.isnan(diff(saved / "memory", tmp_path / "fresh")[0]["cosine"])


def test_memories_of_different_models_are_not_compared(saved: Path, tmp_path: Path) -> None:
    manifest = replace(read_manifest(saved / "memory"), model_portable="0" * 64)
    write_memory_file(tmp_path / "foreign", {}, manifest)
    with pytest.raises(ValueError, match="are memories of different models: there is nothing to compare"):
        diff(saved / "memory", tmp_path / "foreign")
    write_memory_file(tmp_path / "empty", {}, read_manifest(saved / "memory"))
    with pytest.raises(ValueError, match="hold other tensors than their manifests say. Take other copies"):
        diff(saved / "memory", tmp_path / "empty")


def test_damaged_memories_are_not_compared(saved: Path, tmp_path: Path) -> None:
    whole = (saved / "memory").read_bytes()
    (tmp_path / "damaged").write_bytes(whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:])
    for pair in ((saved / "memory", tmp_path / "damaged"), (tmp_path / "damaged", saved / "memory")):
        with pytest.raises(ValueError, match="damaged: damaged, its content does not have the hash in its manifest"):
            diff(*pair)


def test_a_file_that_cannot_be_written_leaves_nothing(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(tensors: Any, path: Path, metadata: Any) -> None:
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr("hf_moshi_ttt.live.memory_file.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        write_memory_file(tmp_path / "memory", {}, read_manifest(saved / "memory"))
    assert list(tmp_path.iterdir()) == []


def rewritten(path: Path, output: Path, change: Callable[[dict, dict], None], honest: bool = True) -> Path:
    """A file with other tensors or another manifest; its hash is true to them if `honest`."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
        values = json.loads(file.metadata()["manifest"])
    change(tensors, values)
    if honest:
        write_memory_file(output, tensors, Manifest(**values))
    else:
        save_file(tensors, output, {"format": FORMAT, "manifest": json.dumps(values)})
    return output


def setting(name: str, value: Any) -> Callable[[dict, dict], None]:
    return lambda tensors, values: values.update({name: value})


def moving(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[dict, dict], None]:
    return lambda tensors, values: tensors.update({name: change(tensors[name]).contiguous()})


FAST = "state.memory.0.fast_weights"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (setting("model_exact", "0" * 64), r"belongs to another model \(hash 00000000, but this one has"),
        (setting("codec_sha256", "0" * 64), r"belongs to another codec \(sha256 00000000, but this one has"),
        (setting("kind", "pickle"), "its manifest has kind=pickle, which none can be"),
        (setting("memory_frames", -1), "its manifest has memory_frames=-1, which none can be"),
        (setting("memory_on", 3), "its manifest has memory_on=3"),
        (setting("generator", "zz"), "its manifest has generator=zz"),
        (setting("text_bytes", "abc"), "its manifest has text_bytes=abc"),
        (setting("layers", [{"layer": 1}]), "its manifest has layers="),
        (setting("layers", []), "lists other layers than the model has memories in"),
        (setting("generator", "00"), "the state of its draws is none of cpu's"),
        (lambda tensors, values: tensors.pop(FAST), f"lacks the tensor {FAST}, which this model needs"),
        (lambda tensors, values: tensors.update(x=torch.ones(1)), "has the tensor x, which this model has not"),
        (moving(FAST, lambda x: x[:, :1]), rf"{FAST} is \[1, 1, .*\], but \[1, 2, .*\] in this model"),
        (moving(FAST, lambda x: x.half()), f"{FAST} is F16, but it must be F32 or F64"),
        (moving("state.window.0.keys", lambda x: x.double()), "state.window.0.keys is F64, but it must be F32"),
        (moving(FAST, lambda x: x / 0), f"{FAST} holds values that no stream has"),
        (moving("state.history", lambda x: x + 999), "state.history holds values that no stream has"),
        (moving("state.frames", lambda x: x - 99), "state.frames holds values that no stream has"),
        (lambda tensors, values: tensors.update(x=torch.ones(1 << 19)), r"\d+ bytes, but such a file .* has at most"),
    ],
)
def test_foreign_files_are_refused_and_change_nothing(
    open_session: OpenSession, saved: Path, tmp_path: Path, change: Callable, message: str
) -> None:
    session, expected, sound = open_session(), open_session(), voices(1, 4)
    played(session, sound[:, :2]), played(expected, sound[:, :2])
    with pytest.raises(ValueError, match=message):
        session.restore(rewritten(saved / "session", tmp_path / "foreign", change))
    assert_same_speech(played(session, sound[:, 2:]), played(expected, sound[:, 2:]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda whole: whole[: len(whole) // 2], "damaged or not a memory file"),
        (lambda whole: b"", "damaged or not a memory file"),
        (lambda whole: b"\x80\x04K*." + whole, "damaged or not a memory file"),
        (lambda whole: whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:], "damaged, its content does not have the hash"),
    ],
    ids=["half", "empty", "pickle", "bit"],
)
def test_damaged_files_are_refused(
    open_session: OpenSession, saved: Path, tmp_path: Path, content: Callable, message: str
) -> None:
    (tmp_path / "damaged").write_bytes(content((saved / "session").read_bytes()))
    with pytest.raises(ValueError, match=message):
        open_session().restore(tmp_path / "damaged")


def test_a_changed_manifest_is_damage(open_session: OpenSession, saved: Path, tmp_path: Path) -> None:
    path = rewritten(saved / "session", tmp_path / "changed", setting("memory_frames", 7), honest=False)
    with pytest.raises(ValueError, match="damaged, its content does not have the hash in its manifest"):
        open_session().restore(path)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({}, "format None, but the memory of a live stream is 'moshi_ttt_live_v1'"),
        ({"format": FORMAT, "manifest": "{"}, "its manifest is no JSON"),
        ({"format": FORMAT}, "its manifest is no JSON"),
        ({"format": FORMAT, "manifest": "[]"}, "its manifest must have exactly the keys kind, model_exact"),
    ],
)
def test_other_safetensors_files_are_refused(tmp_path: Path, metadata: dict, message: str) -> None:
    save_file({"x": torch.ones(1)}, tmp_path / "other", metadata)
    with pytest.raises(ValueError, match=message):
        inspect(tmp_path / "other")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere: no such file. `session.save\(path\)` writes one"):
        inspect(tmp_path / "nowhere")


def test_sampling_that_is_none_is_refused(open_session: OpenSession, saved: Path, tmp_path: Path) -> None:
    path = rewritten(saved / "session", tmp_path / "changed", setting("sampling", {"heat": 1}))
    with pytest.raises(ValueError, match="its manifest has sampling={'heat': 1}, which none can be"):
        MoshiTTTSession.load(path, open_session().model, open_session().processor)
    assert asdict(read_manifest(saved / "session"))["sampling"]["temperature"] == 0.8
