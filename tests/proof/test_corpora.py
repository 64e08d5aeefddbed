"""The stages are command lines that the console parses, into the files that rungs look for."""

import json
from pathlib import Path

import pytest

from hf_moshi_ttt.commands.console import parse
from hf_moshi_ttt.proof.corpora import PROGRAMMES, programme_stages, variant_stage, variants_file


def test_programmes_are_spoken_and_encoded(tmp_path: Path) -> None:
    spoken, encoded = programme_stages(tmp_path, "a/codec", "programmes", 0.5, 3)
    asked = parse(spoken.commands[0][0], spoken.commands[0][1:])
    assert (asked.out_dir, asked.train_hours, asked.eval_minutes) == (tmp_path / "programmes", 0.5, 3)
    for split, command in zip(("train", "heldout"), encoded.commands, strict=True):
        asked = parse(command[0], command[1:])
        assert asked.source == str(tmp_path / "programmes" / "librilight" / split) and asked.codec == "a/codec"
        assert asked.output == str(tmp_path / "codes" / f"programmes_{split}")
    (tmp_path / "programmes").mkdir()
    (tmp_path / "programmes" / "corpus.json").write_text(json.dumps({"splits": {"train": {"hours": 0.5}}}))
    assert spoken.key_number() == "train 0.50 h"


@pytest.mark.parametrize("corpus", PROGRAMMES)
def test_every_corpus_is_made_by_options_that_exist(corpus: str, tmp_path: Path) -> None:
    spoken, encoded = programme_stages(tmp_path, "a/codec", corpus, 0.5, 3)
    asked = parse(spoken.commands[0][0], spoken.commands[0][1:])
    assert asked.on_frames == (corpus == "programmes_on_frames") and asked.no_rooms == (corpus != "programmes")
    assert encoded.commands[1][-1] == str(tmp_path / "codes" / f"{corpus}_heldout")


def test_recordings_of_both_splits_are_encoded_in_other_forms(tmp_path: Path) -> None:
    for corpus, folder in (("librilight", "corpus"), ("programmes", "programmes")):
        stage = variant_stage(tmp_path, "a/codec", corpus)
        for split, command in zip(("train", "heldout"), stage.commands, strict=True):
            asked = parse(command[0], command[1:])
            assert asked.audio_dir == tmp_path / folder / "librilight" / split and asked.most == 8
            assert asked.output == variants_file(tmp_path / "codes", corpus, split)
