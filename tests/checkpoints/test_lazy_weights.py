"""Lazy tensors read what they say, and damaged files each give their own error."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from hf_moshi_ttt.checkpoints.lazy_weights import LazyTensor, combined, concatenated, open_weights, renamed


@pytest.fixture
def weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {
        "a": torch.randn(6, 4),
        "b": torch.randn(3, 4).to(torch.bfloat16),
        "c": torch.randn(5).double(),
        "scalar": torch.tensor(2.5),
    }


def test_tensors_of_several_files_are_read_when_asked_for(tmp_path: Path, weights: dict[str, torch.Tensor]) -> None:
    save_file({"a": weights["a"]}, tmp_path / "1.safetensors")
    save_file({name: weights[name] for name in ("b", "c", "scalar")}, tmp_path / "2.safetensors")
    lazy = open_weights([tmp_path / "1.safetensors", tmp_path / "2.safetensors"])
    for name, weight in weights.items():
        assert (lazy[name].shape, lazy[name].dtype) == (tuple(weight.shape), weight.dtype)
        assert torch.equal(lazy[name][...], weight)


def test_a_tensor_that_was_read_does_not_depend_on_its_file(tmp_path: Path) -> None:
    save_file({"a": torch.ones(1000)}, tmp_path / "x.safetensors")
    read = open_weights([tmp_path / "x.safetensors"])["a"][...]
    with (tmp_path / "x.safetensors").open("r+b") as file:
        file.seek(-4000, 2)
        file.write(bytes(4000))
    assert open_weights([tmp_path / "x.safetensors"])["a"][...].sum() == 0
    assert read.sum() == 1000


def test_parts_joins_and_shapes(weights: dict[str, torch.Tensor]) -> None:
    lazy = LazyTensor.of(weights["a"])
    assert [torch.equal(x[...], y) for x, y in zip(lazy.chunk(3), weights["a"].chunk(3), strict=True)] == [True] * 3
    assert torch.equal(lazy.chunk(3)[1].chunk(2)[1][...], weights["a"][3:4])
    assert torch.equal(concatenated(lazy.chunk(2))[...], weights["a"])
    assert torch.equal(concatenated(lazy.chunk(2)).chunk(3)[2][...], weights["a"][4:])
    assert torch.equal(lazy.reshape(2, 12)[...], weights["a"].reshape(2, 12))
    assert torch.equal(combined([lazy, lazy], lambda x: x[0] + x[1], lazy.shape)[...], 2 * weights["a"])
    with pytest.raises(ValueError, match=r"shape \[6, 4\] cannot be divided into 4 equal parts"):
        lazy.chunk(4)


def test_names_are_changed_by_a_table() -> None:
    table = {"x.N.y.N.weight": "N.z.N", "emb.weight": "e", "in_projs.0.weight": "qkv"}
    assert renamed("x.12.y.3.weight", table) == "12.z.3"
    assert renamed("emb.weight", table) == "e"
    assert renamed("in_projs.0.weight", table) == "qkv"
    assert [renamed(name, table) for name in ("in_projs.1.weight", "x.1.y.weight", "emb")] == [None, None, None]


def damaged(path: Path, kind: str) -> None:
    save_file({"weight": torch.ones(64, 64)}, path)
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    if kind == "truncated":
        path.write_bytes(content[:-100])
    elif kind == "header only in part":
        path.write_bytes(content[: 8 + length // 2])
    elif kind == "bad header":
        path.write_bytes(content[:20] + b"\x00\xff" + content[22:])
    elif kind == "bad offsets":
        header["weight"]["data_offsets"] = [0, 8]
        text = json.dumps(header).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
    elif kind == "pickled":
        torch.save({"weight": torch.ones(2)}, path)
    elif kind == "old pickle":
        torch.save({"weight": torch.ones(2)}, path, _use_new_zipfile_serialization=False)
    elif kind == "quantized":
        save_file({"weight": torch.ones(4, dtype=torch.int8)}, path)
    elif kind == "text":
        path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    elif kind == "missing":
        path.unlink()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("truncated", r"truncated, \d+ bytes of at least \d+ are there"),
        ("header only in part", r"truncated, \d+ bytes of at least \d+ are there"),
        ("bad header", "corrupted safetensors header"),
        ("bad offsets", "corrupted safetensors header"),
        ("pickled", "pickled weights are not loaded. Convert them to safetensors"),
        ("old pickle", "pickled weights are not loaded. Convert them to safetensors"),
        ("quantized", "weight has dtype I8, but weights must be one of F64, F32, F16, BF16. Quantized"),
        ("text", "no safetensors file .it begins with b'version "),
        ("missing", "no such file; the checkpoint is not complete"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, kind: str, message: str) -> None:
    damaged(tmp_path / "x.safetensors", kind)
    with pytest.raises(ValueError, match=f"x.safetensors: {message}"):
        open_weights([tmp_path / "x.safetensors"])


def test_pickles_are_known_by_their_suffix_and_doubles_refused(tmp_path: Path) -> None:
    save_file({"weight": torch.ones(2)}, tmp_path / "a.safetensors")
    (tmp_path / "b.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes())
    (tmp_path / "pytorch_model.bin").write_bytes((tmp_path / "a.safetensors").read_bytes())
    with pytest.raises(ValueError, match="pytorch_model.bin: pickled weights are not loaded"):
        open_weights([tmp_path / "pytorch_model.bin"])
    with pytest.raises(ValueError, match=r"b.safetensors: weight is in another file of the checkpoint too"):
        open_weights([tmp_path / "a.safetensors", tmp_path / "b.safetensors"])
