"""Published layouts are read pair by pair, and what is no such layout is refused."""

from pathlib import Path

import pytest

from hf_moshi_ttt.evaluation.paired_items import Pair, draw_items, read_pairs


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def lexical(folder: Path, lines: list[str]) -> Path:
    """ZeroSpeech 2021's lexical/dev."""
    header = "filename,id,voice,frequency,word,phones,length,correct"
    folder.mkdir(parents=True)
    (folder / "gold.csv").write_text("\n".join([header, *lines]) + "\n")
    touch(folder, *(line.split(",")[0] + ".wav" for line in lines))
    return folder


WORDS = [
    "aa,1,A,12,brick,b r i k,4,1",
    "ab,1,A,,blick,b l i k,4,0",
    "ac,1,B,12,brick,b r i k,4,1",
    "ad,1,B,,blick,b l i k,4,0",
    "ba,2,A,0,zorp,z o r p,4,1",
    "bb,2,A,,zurp,z u r p,4,0",
]


def test_zerospeech_words_in_several_voices_are_one_item(tmp_path: Path) -> None:
    assert read_pairs("swuggy", lexical(tmp_path / "dev", WORDS)) == [
        Pair("1", "aa.wav", "ab.wav", ("in_vocabulary",)),
        Pair("1", "ac.wav", "ad.wav", ("in_vocabulary",)),
        Pair("2", "ba.wav", "bb.wav", ("out_of_vocabulary",)),
    ]


def test_zerospeech_sentences_have_types(tmp_path: Path) -> None:
    header = "filename,id,voice,type,subtype,transcription,correct"
    lines = ["x,7,A,agreement,plural,these dogs,1", "y,7,A,agreement,plural,this dogs,0"]
    (tmp_path / "gold.csv").write_text("\n".join([header, *lines]))
    touch(tmp_path, "x.wav", "y.wav")
    assert read_pairs("sblimp", tmp_path) == [Pair("agreement/plural/7", "x.wav", "y.wav", ("agreement",))]


@pytest.mark.parametrize("separator", ["_", "+"])
def test_numbered_files_alternate_in_order_of_their_numbers(tmp_path: Path, separator: str) -> None:
    touch(tmp_path, *(f"{number}{separator}{kind}.wav" for number, kind in ((10, "r"), (11, "w"), (2, "r"), (3, "w"))))
    names = [f"{number}{separator}{kind}.wav" for number, kind in ((2, "r"), (3, "w"), (10, "r"), (11, "w"))]
    assert read_pairs("tstorycloze", tmp_path) == [Pair(names[0], *names[:2]), Pair(names[2], *names[2:])]


def test_numbered_files_in_subfolders_are_groups(tmp_path: Path) -> None:
    touch(tmp_path, "b/0_r.wav", "b/1_w.wav", "a/0_r.wav", "a/1_w.wav")
    assert [(pair.right, pair.groups) for pair in read_pairs("sblimp", tmp_path)] == [
        ("a/0_r.wav", ("a",)), ("b/0_r.wav", ("b",)),
    ]  # fmt: skip


def test_salmon_has_a_folder_a_part(tmp_path: Path) -> None:
    touch(tmp_path, *(f"rir_consistency/sample_{i}_{side}.wav" for i in (2, 10) for side in (0, 1)))
    touch(tmp_path, "rir_consistency/metadata.json", "bg_alignment/sample_0_0.wav", "bg_alignment/sample_0_1.wav")
    assert read_pairs("salmon", tmp_path) == [
        Pair(f"{part}/sample_{i}_0.wav", f"{part}/sample_{i}_0.wav", f"{part}/sample_{i}_1.wav", (part,))
        for part, i in (("bg_alignment", 0), ("rir_consistency", 2), ("rir_consistency", 10))
    ]


def test_a_subset_of_items_is_drawn_by_seed() -> None:
    pairs = [Pair(str(n // 2), f"{n}r", f"{n}w") for n in range(20)]
    assert draw_items(pairs, None, 0) == pairs
    drawn = draw_items(pairs, 3, 0)
    assert drawn == draw_items(pairs, 3, 0) != draw_items(pairs, 3, 1)
    assert len(drawn) == 6 and [pair for pair in pairs if pair in drawn] == drawn
    with pytest.raises(ValueError, match="11 items were asked for, but there are 10"):
        draw_items(pairs, 11, 0)


def test_other_layouts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="task='wuggy', but it must be one of swuggy, sblimp"):
        read_pairs("wuggy", tmp_path)
    with pytest.raises(ValueError, match="none: no such folder of sblimp"):
        read_pairs("sblimp", tmp_path / "none")
    with pytest.raises(ValueError, match="no pairs of salmon; expected gold.csv, numbered wavs, or SALMon's parts"):
        read_pairs("salmon", tmp_path)
    touch(tmp_path / "names", "word.wav")
    with pytest.raises(ValueError, match=r"word.wav: its name must begin with a number of its own, as in 12_word.wav"):
        read_pairs("swuggy", tmp_path / "names")
    touch(tmp_path / "twice", "1_a.wav", "1_b.wav")
    with pytest.raises(ValueError, match="a number of its own"):
        read_pairs("swuggy", tmp_path / "twice")
    touch(tmp_path / "odd", "1_a.wav")
    with pytest.raises(ValueError, match="odd: 1 files are no pairs"):
        read_pairs("swuggy", tmp_path / "odd")
    touch(tmp_path / "half", "part/sample_0_0.wav")
    with pytest.raises(ValueError, match=r"half: 1 files of salmon are missing, such as part/sample_0_1.wav"):
        read_pairs("salmon", tmp_path / "half")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (WORDS[:3], "2 right lines, but 1 wrong ones"),
        ([WORDS[0], WORDS[3]], "aa and ad are no pair"),
        ([WORDS[0], WORDS[5]], "aa and bb are no pair"),
    ],
)
def test_a_gold_csv_that_does_not_pair_is_refused(tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_pairs("swuggy", lexical(tmp_path / "dev", lines))


def test_a_gold_csv_without_columns_is_refused(tmp_path: Path) -> None:
    (tmp_path / "gold.csv").write_text("filename,id\na,1\n")
    with pytest.raises(ValueError, match=r"no columns \['correct', 'voice'\]"):
        read_pairs("swuggy", tmp_path)
