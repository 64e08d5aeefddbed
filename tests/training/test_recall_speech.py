"""Recordings as material for tasks: first codebooks, in groups of ids whose centroids lie close together."""

import json
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, load_from_disk
from transformers import MimiModel

from hf_moshi_ttt.codec.log_mel_codec import LogMelCodecModel
from hf_moshi_ttt.training.recall_speech import centroids, group_ids, load_recordings, require_apart

from ..conftest import save_codes


@pytest.mark.parametrize(("rows", "first_row"), [(8, 0), (17, 1)])
@pytest.mark.parametrize("num_codebooks", [1, 3, 8])
def test_codebooks_are_moshis_own(tmp_path: Path, rows: int, first_row: int, num_codebooks: int) -> None:
    folder = save_codes(tmp_path / "codes", [30, 20], rows=rows)
    recordings = load_recordings(str(folder), 32, num_codebooks=num_codebooks)
    generator = torch.Generator().manual_seed(0)
    expected = [torch.randint(32, (rows, length), generator=generator)[first_row:] for length in (30, 20)]
    assert [each.tolist() for each in recordings] == [each[:num_codebooks].tolist() for each in expected]


def test_ids_become_the_groups_of_their_centroids(tmp_path: Path, codec_path: str) -> None:
    folder = save_codes(tmp_path / "codes", [50])
    groups = group_ids(centroids(LogMelCodecModel.from_pretrained(codec_path)), 5)
    (whole,), (coarse,) = load_recordings(str(folder), 32), load_recordings(str(folder), 5, codec_path)
    assert torch.equal(coarse, groups[whole]) and set(groups.tolist()) == set(range(5))


def test_each_codebook_has_groups_of_its_own(tmp_path: Path, codec_path: str) -> None:
    folder, codec = save_codes(tmp_path / "codes", [50]), LogMelCodecModel.from_pretrained(codec_path)
    (whole,), (coarse,) = (load_recordings(str(folder), ids, codec_path, 2) for ids in (32, 5))
    for codebook in range(2):
        assert torch.equal(coarse[codebook], group_ids(centroids(codec, codebook), 5)[whole[codebook]])
    assert not torch.equal(centroids(codec, 0), centroids(codec, 1))


def save_named(folder: Path, sources: list[str], start_sec: float = 0.0, **changes: Any) -> str:
    """An encoded corpus of these files, and what is changed of its provenance."""
    save_codes(folder / "plain", [50] * len(sources))
    rows = zip(load_from_disk(str(folder / "plain")), sources, strict=True)
    named = [{**row, "source_sha256": source, "start_sec": start_sec} for row, source in rows]
    Dataset.from_list(named).save_to_disk(str(folder / "named"))
    provenance = json.loads((folder / "plain" / "provenance.json").read_text())
    (folder / "named" / "provenance.json").write_text(json.dumps(provenance | changes))
    return str(folder / "named")


def test_what_is_held_out_is_not_trained_on(tmp_path: Path) -> None:
    train = save_named(tmp_path / "train", ["a", "b"])
    require_apart(train, save_named(tmp_path / "other", ["c"]))
    require_apart(train, save_named(tmp_path / "rest", ["a"], start_sec=60.0))
    with pytest.raises(ValueError, match="train/named' and test_codes=.* hold 1 recordings in common: hold others out"):
        require_apart(train, save_named(tmp_path / "test", ["b", "c"]))
    unnamed = str(save_codes(tmp_path / "unnamed", [50]))
    with pytest.raises(ValueError, match="unnamed/' are one: hold others out"):
        require_apart(unnamed, unnamed + "/")


def test_codes_of_other_codecs_are_refused(tmp_path: Path, codec_path: str) -> None:
    train = save_named(tmp_path / "train", ["a"], codec_sha256="another")
    with pytest.raises(ValueError, match="do not go together: codec_sha256 is 'another' in the first"):
        require_apart(train, save_named(tmp_path / "test", ["b"]))
    with pytest.raises(ValueError, match="was made with a codec of other weights than"):
        load_recordings(train, 5, codec_path)


def test_close_centroids_are_one_id() -> None:
    places = torch.tensor([[0.0, 0], [5, 5], [0.1, 0], [5, 5.1], [9, 0]])
    groups = group_ids(places, 3).tolist()
    assert groups[0] == groups[2] and groups[1] == groups[3] and len({groups[0], groups[1], groups[4]}) == 3


def test_mimis_table_is_found(mimi_path: str) -> None:
    mimi = MimiModel.from_pretrained(mimi_path)
    assert centroids(mimi).shape == (32, 8)
    tables = {centroids(mimi, codebook).sum().item() for codebook in range(8)}
    acoustic = mimi.quantizer.acoustic_residual_vector_quantizer.layers
    assert torch.equal(centroids(mimi, 7), acoustic[6].codebook.embed) and len(tables) == 8


def test_other_codecs_and_numbers_are_refused(tmp_path: Path) -> None:
    other = types.SimpleNamespace(config=types.SimpleNamespace(model_type="encodec"))
    with pytest.raises(ValueError, match="A codec of type 'encodec', but the known tables are"):
        centroids(other)
    folder = save_codes(tmp_path / "codes", [50])
    with pytest.raises(ValueError, match="num_ids=64, but .* has 32 ids"):
        load_recordings(str(folder), 64)
    with pytest.raises(ValueError, match="num_codebooks=9, but there are 8: give 1 to that many"):
        load_recordings(str(folder), 32, num_codebooks=9)
