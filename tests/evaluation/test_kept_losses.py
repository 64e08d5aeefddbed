"""Losses on disk belong to a model and to codes, and damaged ones are refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hf_moshi_ttt.evaluation.kept_losses import KeptLosses, model_sha256

CODES = np.arange(12, dtype=np.int64).reshape(3, 4)
LOSSES = np.full((2, 4), 1.5, dtype=np.float32)


def test_losses_come_back_for_the_same_codes_and_recipe_alone(tmp_path: Path) -> None:
    KeptLosses(tmp_path, "a").write(CODES, LOSSES)
    np.testing.assert_array_equal(KeptLosses(tmp_path, "a").read(CODES), LOSSES)
    assert KeptLosses(tmp_path, "b").read(CODES) is None
    assert KeptLosses(tmp_path, "a").read(CODES + 1) is None
    assert KeptLosses(tmp_path, "a").read(CODES.reshape(4, 3)) is None
    assert [path.suffix for path in tmp_path.iterdir()] == [".npy"]


def test_a_check_comes_back_for_the_same_recordings_in_any_order(tmp_path: Path) -> None:
    kept, check = KeptLosses(tmp_path, "a"), {"first_frame": 3, "frames": 2, "max_difference_nats": 1e-6}
    kept.write_check([CODES, CODES + 1], check)
    assert kept.read_check([CODES + 1, CODES]) == check
    assert kept.read_check([CODES]) is None and KeptLosses(tmp_path, "b").read_check([CODES, CODES + 1]) is None
    (path,) = tmp_path.iterdir()
    for content in ("{", "[]", '{"first_frame": 3}'):
        path.write_text(content)
        with pytest.raises(ValueError, match="check.json: damaged .* Delete it and the losses beside it"):
            kept.read_check([CODES, CODES + 1])


def test_without_a_folder_nothing_is_kept(tmp_path: Path) -> None:
    kept = KeptLosses(None, "a")
    kept.write(CODES, LOSSES)
    assert kept.read(CODES) is None
    kept.write_check([CODES], {})
    assert kept.read_check([CODES]) is None


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    kept = KeptLosses(tmp_path, "a")
    kept.write(CODES, LOSSES)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    for content in (b"", whole[:-4], b"nonsense"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"{path.name}: damaged .* Delete it"):
            kept.read(CODES)
    np.save(path, LOSSES.astype(np.float64))
    with pytest.raises(ValueError, match=r"holds float64 \[2, 4\], not float32 \[Q, 4\]. Delete it"):
        kept.read(CODES)


def test_every_weight_and_setting_counts() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)).to(torch.bfloat16)
    first = model_sha256(model, {"a": 1})
    assert model_sha256(model, {"a": 1}) == first != model_sha256(model, {"a": 2})
    with torch.no_grad():
        model[1].bias[3] += 1
    changed = model_sha256(model, {"a": 1})
    assert changed != first
    with torch.no_grad():
        model[0].weight.copy_(model[0].weight.flip(0))
    assert model_sha256(model, {"a": 1}) != changed
    assert model_sha256(model.float(), {"a": 1}) != model_sha256(model.half(), {"a": 1})
