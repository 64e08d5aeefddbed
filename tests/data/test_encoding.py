"""Corpora become codes once: by several processes, again after a kill, and never twice."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from datasets import Dataset
from filelock import FileLock

from hf_moshi_ttt.codec.pretrained_codec import load_codec
from hf_moshi_ttt.codec.text_stream import load_text_tokenizer, train_text_tokenizer
from hf_moshi_ttt.data import encoding
from hf_moshi_ttt.data.codes import load_codes
from hf_moshi_ttt.data.corpora import load_corpus, load_dailytalk, load_librilight, windows
from hf_moshi_ttt.data.encoding import EncodeOptions, encode_corpus

from ..conftest import chirps_S

ROOT = Path(__file__).parents[2]


def write_corpus(folder: Path, recordings: dict[str, np.ndarray]) -> Path:
    """An index of wav files `[S, C]`."""
    lines = []
    for name, samples in recordings.items():
        soundfile.write(folder / f"{name}.wav", samples, 24_000, subtype="FLOAT")
        lines.append(json.dumps({"path": f"{name}.wav", "duration": len(samples) / 24_000}) + "\n")
    (folder / "index.jsonl").write_text("".join(lines))
    return folder / "index.jsonl"


def write_words(folder: Path, name: str, words: list[tuple[str, float, str]], **keys: float) -> None:
    alignments = [[word, [start_sec, start_sec + 0.05], speaker] for word, start_sec, speaker in words]
    (folder / f"{name}.json").write_text(json.dumps({"alignments": alignments, **keys}))


@pytest.fixture
def options(tmp_path: Path) -> EncodeOptions:
    return EncodeOptions(device="cpu", cache_dir=tmp_path / "cache")


def encoded(corpus: Dataset, codec: str, output: Path, tokenizer: str | None = None) -> list[np.ndarray]:
    encode_corpus(corpus, codec, output, tokenizer, EncodeOptions(device="cpu", cache_dir=output.parent / "cache"))
    return [np.stack(row["codes"]) for row in load_codes(output)[0]]


def pieces_of(row_T: np.ndarray, tokenizer_path: str) -> str:
    pieces = load_text_tokenizer(tokenizer_path).id_to_piece
    return " ".join({0: "E", 3: "-", -1: "x"}.get(int(i)) or pieces(int(i)) for i in row_T)


def test_mono_recordings_become_8_rows(tmp_path: Path, codec_path: str) -> None:
    first, second = chirps_S(1.3, 1), chirps_S(2.0, 2)
    corpus = load_librilight(write_corpus(tmp_path, {"first": first, "second": second}))
    codes = encoded(corpus, codec_path, tmp_path / "codes")
    assert [item.shape for item in codes] == [(8, 17), (8, 25)]
    expected = load_codec(codec_path).encode(torch.from_numpy(second)[None, None]).audio_codes[0]
    assert np.array_equal(codes[1], expected.numpy())
    rows = load_codes(tmp_path / "codes")[0]
    assert (list(rows["path"]), list(rows["duration_sec"])) == (["first.wav", "second.wav"], [1.3, 2.0])
    assert str(rows.features["codes"]) == "List(List(Value('int16')))"


def test_stereo_audiobooks_are_mixed_to_mono(tmp_path: Path, codec_path: str) -> None:
    left = chirps_S(1.0, 1)
    recordings = {
        "opposite": np.stack([left, -left], axis=1),
        "mono": left,
        "double": np.stack([2 * left, 0 * left], 1),
    }
    corpus = load_librilight(write_corpus(tmp_path, recordings))
    opposite, mono, double = encoded(corpus, codec_path, tmp_path / "codes")
    assert np.array_equal(double, mono)
    silence = load_codes(tmp_path / "codes")[1].silence_codes
    assert opposite.tolist() == [[code] * 13 for code in silence]


def test_conversations_become_text_own_and_user_rows(tmp_path: Path, codec_path: str, tokenizer_path: str) -> None:
    left, right = chirps_S(1.0, 1), chirps_S(1.0, 2)
    index = write_corpus(tmp_path, {"talk": np.stack([left, right], axis=1), "left": left, "right": right})
    words = [("a", 0.25, "SPEAKER_MAIN"), ("b", 0.5, "OTHER"), ("cd", 0.93, "SPEAKER_MAIN")]
    write_words(tmp_path, "talk", words)
    mono = encoded(load_librilight(index), codec_path, tmp_path / "mono")[1:]
    index.write_text(index.read_text().splitlines()[0])
    (talk,) = encoded(load_dailytalk(index), codec_path, tmp_path / "talk", tokenizer_path)
    assert talk.shape == (17, 13)
    assert np.array_equal(talk[1:9], mono[0])
    assert np.array_equal(talk[9:], mono[1])
    assert pieces_of(talk[0], tokenizer_path) == "- - E ▁ a - - - - - E ▁ c"
    assert load_codes(tmp_path / "talk")[1].tokens_beyond_end == 1
    (swapped,) = encoded(load_dailytalk(index, swap=True), codec_path, tmp_path / "swapped", tokenizer_path)
    assert np.array_equal(swapped[1:9], mono[1]) and np.array_equal(swapped[9:], mono[0])
    assert pieces_of(swapped[0], tokenizer_path) == "- - - - - E ▁ b - - - - -"


@pytest.mark.parametrize(
    ("keys", "expected"),
    [({}, "- - E ▁ a x x x x x x x x"), ({"labelled_until_sec": 0.7}, "- - E ▁ a - - - - x x x x")],
    ids=["unknown", "known"],
)
def test_what_was_not_transcribed_is_not_pad(
    tmp_path: Path, codec_path: str, tokenizer_path: str, keys: dict, expected: str
) -> None:
    index = write_corpus(tmp_path, {"talk": np.zeros((24_000, 2))})
    write_words(tmp_path, "talk", [("a", 0.25, "SPEAKER_MAIN")], **keys)
    (talk,) = encoded(load_dailytalk(index), codec_path, tmp_path / "codes", tokenizer_path)
    assert pieces_of(talk[0], tokenizer_path) == expected
    (swapped,) = encoded(load_dailytalk(index, swap=True), codec_path, tmp_path / "swapped", tokenizer_path)
    assert pieces_of(swapped[0], tokenizer_path) == " ".join("x" * 13)


def test_windows_name_their_offset_and_keep_tokens(tmp_path: Path, codec_path: str, tokenizer_path: str) -> None:
    index = write_corpus(tmp_path, {"talk": np.stack([chirps_S(2.0, 1), chirps_S(2.0, 2)], axis=1)})
    write_words(tmp_path, "talk", [("abcd", 0.9, "SPEAKER_MAIN")], labelled_until_sec=2.0)
    parts = encoded(windows(load_dailytalk(index), 0.96), codec_path, tmp_path / "codes", tokenizer_path)
    rows = load_codes(tmp_path / "codes")[0]
    assert [(row["path"], row["start_sec"], int(row["frames"])) for row in rows] == [
        ("talk.wav", 0.0, 12), ("talk.wav", 0.96, 12), ("talk.wav", 1.92, 1),
    ]  # fmt: skip
    text = [pieces_of(part[0], tokenizer_path) for part in parts]
    assert text == ["- - - - - - - - - - E ▁", "a b c d - - - - - - - -", "-"]


@pytest.mark.parametrize("format_name", ["numpy", "torch"])
def test_codes_do_not_depend_on_the_format(
    format_name: str, tmp_path: Path, codec_path: str, tokenizer_path: str
) -> None:
    talk = np.stack([chirps_S(2.0, 1), chirps_S(2.0, 2)], axis=1)
    index = write_corpus(tmp_path, {"talk": talk})
    write_words(tmp_path, "talk", [("hello", 0.35, "SPEAKER_MAIN"), ("there", 1.2, "SPEAKER_MAIN")])
    corpus = windows(load_dailytalk(index), 0.7)
    rows = []
    for name, one in (("plain", corpus), ("formatted", corpus.with_format(format_name))):
        encoded(one, codec_path, tmp_path / name / "codes", tokenizer_path)
        rows.append(load_codes(tmp_path / name / "codes")[0].with_format(None)[:])
    assert rows[0] == rows[1] and rows[0]["start_sec"][1] == 0.7


def test_the_provenance_says_where_codes_come_from(tmp_path: Path, codec_path: str, tokenizer_path: str) -> None:
    index = write_corpus(tmp_path, {"talk": np.zeros((24_000, 2))})
    write_words(tmp_path, "talk", [("a", 0.1, "SPEAKER_MAIN")])
    options = EncodeOptions(device="cpu", cache_dir=tmp_path / "cache")
    encode_corpus(load_dailytalk(index), codec_path, tmp_path / "codes", tokenizer_path, options, source="here")
    rows, provenance = load_codes(tmp_path / "codes")
    assert (provenance.codec, provenance.codec_type) == (codec_path, "log_mel_codec")
    assert (provenance.codebook_size, provenance.text_tokenizer) == (32, tokenizer_path)
    assert (provenance.tokens_beyond_end, provenance.left_out) == (0, {})
    assert (provenance.frame_rate_hz, provenance.source) == (12.5, "here")
    assert provenance.silence_codes == rows[0]["codes"][9:, -1].tolist()
    for key, path in (("tokenizer_sha256", tokenizer_path), ("source_sha256", tmp_path / "talk.wav")):
        said = rows[0][key] if key in rows.column_names else getattr(provenance, key)
        assert said == subprocess.run(["sha256sum", path], capture_output=True, text=True).stdout.split()[0]
    assert set(provenance.versions) >= {"python", "torch", "transformers", "hf_moshi_ttt"}


def test_one_bad_recording_in_a_hundred_is_left_out_and_named(tmp_path: Path, codec_path: str) -> None:
    index = write_corpus(tmp_path, {f"{number:03}": chirps_S(0.1, number) for number in range(100)})
    (tmp_path / "042.wav").write_bytes(b"no audio")
    codes = encoded(load_librilight(index), codec_path, tmp_path / "codes")
    assert [item.shape for item in codes] == [(8, 2)] * 99
    ((path, reason),) = load_codes(tmp_path / "codes")[1].left_out.items()
    assert path == str(tmp_path / "042.wav")
    assert "damaged or not an audio file" in reason


def test_too_many_bad_recordings_leave_nothing_behind(tmp_path: Path, codec_path: str, options: EncodeOptions) -> None:
    index = write_corpus(tmp_path, {"bad": np.full(24_000, np.nan), "good": chirps_S(1.0, 0)})
    for _ in range(2):  # the second time from the cache
        with pytest.raises(ValueError, match=r"1 of 2 files cannot be used(.|\n)*bad\.wav: holds samples that are NaN"):
            encode_corpus(load_librilight(index), codec_path, tmp_path / "codes", options=options)
        assert not (tmp_path / "codes").exists()
    allowed = EncodeOptions(device="cpu", cache_dir=tmp_path / "cache", max_bad_fraction=0.5)
    assert len(encode_corpus(load_librilight(index), codec_path, tmp_path / "codes", options=allowed)) == 1


@pytest.mark.parametrize("channels", [1, 3])
def test_a_conversation_needs_two_channels(
    tmp_path: Path, codec_path: str, tokenizer_path: str, channels: int, options: EncodeOptions
) -> None:
    index = write_corpus(tmp_path, {"talk": np.zeros((24_000, channels)), "stereo": np.zeros((24_000, 2))})
    for name in ("talk", "stereo"):
        write_words(tmp_path, name, [])
    with pytest.raises(
        ValueError, match=rf"1 of 2 files cannot be used(.|\n)*talk\.wav: {channels} channels, but a conversation has 2"
    ):
        encode_corpus(load_dailytalk(index), codec_path, tmp_path / "codes", tokenizer_path, options)


def test_an_audiobook_has_one_or_two_channels(tmp_path: Path, codec_path: str, options: EncodeOptions) -> None:
    index = write_corpus(tmp_path, {"three": np.zeros((24_000, 3))})
    with pytest.raises(ValueError, match=r"three\.wav: 3 channels, but 1 or 2 are understood"):
        encode_corpus(load_librilight(index), codec_path, tmp_path / "codes", options=options)


def test_a_conversation_needs_a_tokenizer(tmp_path: Path, codec_path: str) -> None:
    index = write_corpus(tmp_path, {"talk": np.zeros((24_000, 2))})
    write_words(tmp_path, "talk", [])
    with pytest.raises(ValueError, match="A corpus with alignments needs text_tokenizer, the path of a SentencePiece"):
        encode_corpus(load_dailytalk(index), codec_path, tmp_path / "codes")


def test_nothing_to_encode_is_refused(tmp_path: Path, codec_path: str) -> None:
    corpus = load_librilight(write_corpus(tmp_path, {"nan": np.full(2400, np.nan)}))
    with pytest.raises(ValueError, match="corpus is IterableDataset, but it is cut into shards: load it without"):
        encode_corpus(corpus.to_iterable_dataset(), codec_path, tmp_path / "codes")
    with pytest.raises(ValueError, match="The corpus holds no recordings"):
        encode_corpus(corpus.select([]), codec_path, tmp_path / "codes")
    allowed = EncodeOptions("cpu", cache_dir=tmp_path / "cache", max_bad_fraction=1.0)
    with pytest.raises(ValueError, match="None of 1 recordings can be encoded: .*NaN"):
        encode_corpus(corpus, codec_path, tmp_path / "codes", options=allowed)


def test_another_tokenizer_under_the_same_name_is_not_taken_for_the_first(
    tmp_path: Path, codec_path: str, tokenizer_path: str, options: EncodeOptions
) -> None:
    index = write_corpus(tmp_path, {"talk": np.zeros((24_000, 2))})
    write_words(tmp_path, "talk", [("a", 0.1, "SPEAKER_MAIN")])
    (tmp_path / "t.model").write_bytes(Path(tokenizer_path).read_bytes())
    first = encode_corpus(load_dailytalk(index), codec_path, tmp_path / "a", str(tmp_path / "t.model"), options)
    (tmp_path / "other.txt").write_text("zz aa zz yy\n" * 5)
    train_text_tokenizer(tmp_path / "other.txt", tmp_path / "t.model", vocab_size=256 + 9)
    second = encode_corpus(load_dailytalk(index), codec_path, tmp_path / "b", str(tmp_path / "t.model"), options)
    assert first[0]["codes"][0].tolist() != second[0]["codes"][0].tolist()


@pytest.mark.gpu
def test_a_gpu_gives_the_codes_of_the_cpu(tmp_path: Path, books: Path, codec_path: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    made = [
        encode_corpus(
            load_corpus(books), codec_path, tmp_path / device, options=EncodeOptions(device, cache_dir=tmp_path)
        )
        for device in ("cpu", "cuda")
    ]
    for one, two in zip(*made, strict=True):
        assert (one["codes"] == two["codes"]).mean() > 0.999


def test_batch_sizes_below_one_are_refused(tmp_path: Path, codec_path: str) -> None:
    index = write_corpus(tmp_path, {"a": chirps_S(0.1, 1)})
    with pytest.raises(ValueError, match="batch_size=-1, but it must be at least 1"):
        encode_corpus(load_librilight(index), codec_path, tmp_path / "codes", options=EncodeOptions(batch_size=-1))


def test_a_mimi_is_called_alike(tmp_path: Path, mimi_path: str) -> None:
    index = write_corpus(tmp_path, {"a": chirps_S(1.3, 1), "b": chirps_S(1.0, 2)})
    codes = encoded(load_librilight(index), mimi_path, tmp_path / "codes")
    assert [item.shape for item in codes] == [(8, 17), (8, 13)]
    assert all(item.min() >= 0 and item.max() < 32 for item in codes)
    assert len(np.unique(codes[0])) > 10
    provenance = load_codes(tmp_path / "codes")[1]
    assert (provenance.codec_type, provenance.codebook_size) == ("mimi", 32)


@pytest.fixture
def books(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The index of ten recordings of different lengths, cut into shards of about two seconds."""
    monkeypatch.setattr(encoding, "SHARD_SEC", 2.0)
    return write_corpus(tmp_path, {f"{n}": chirps_S(0.3 + 0.37 * ((n * 7) % 5), n) for n in range(10)})


@pytest.mark.parametrize("changes", [{"num_proc": 2}, {"batch_size": 3}], ids=str)
def test_codes_depend_on_neither_processes_nor_batches(
    tmp_path: Path, books: Path, codec_path: str, changes: dict[str, int]
) -> None:
    alone = encode_corpus(
        load_corpus(books), codec_path, tmp_path / "a", options=EncodeOptions("cpu", cache_dir=tmp_path / "one")
    )
    options = EncodeOptions("cpu", cache_dir=tmp_path / "two", **changes)
    together = encode_corpus(load_corpus(books), codec_path, tmp_path / "b", options=options)
    assert list(alone["path"]) == list(together["path"]) == [f"{number}.wav" for number in range(10)]
    assert len(list((tmp_path / "two").rglob("*.arrow"))) > 3
    for one, two in zip(alone, together, strict=True):
        assert np.array_equal(one["codes"], two["codes"])


def test_an_identical_rebuild_encodes_nothing(
    tmp_path: Path, books: Path, codec_path: str, options: EncodeOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = encode_corpus(load_corpus(books), codec_path, tmp_path / "a", options=options)
    load_codec(codec_path).save_pretrained(tmp_path / "same_codec")
    monkeypatch.setattr(encoding, "encode_streams", None)
    again = encode_corpus(load_corpus(books), str(tmp_path / "same_codec"), tmp_path / "b", options=options)
    assert [row["codes"].tolist() for row in again] == [row["codes"].tolist() for row in first]
    assert len(encode_corpus(load_corpus(books), codec_path, tmp_path / "a", options=options)) == 10
    os.utime(tmp_path / "3.wav")
    with pytest.raises(ValueError, match=r"a: holds other codes .*Delete the folder or give another"):
        encode_corpus(load_corpus(books), codec_path, tmp_path / "a", options=options)
    with pytest.raises(TypeError, match="'NoneType' object is not callable"):  # a changed file is encoded again
        encode_corpus(load_corpus(books), codec_path, tmp_path / "c", options=options)


def test_a_killed_run_goes_on_and_gives_what_one_never_killed_does(
    tmp_path: Path, books: Path, codec_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two workers, one of which hangs on recording 9 until all are killed; the finished shards are not made again."""
    whole = encode_corpus(
        load_corpus(books), codec_path, tmp_path / "a", options=EncodeOptions("cpu", cache_dir=tmp_path / "whole")
    )
    program = (
        "import sys, time\nfrom hf_moshi_ttt.data import encoding\nfrom hf_moshi_ttt.data.corpora import load_corpus\n"
        "encoding.SHARD_SEC = 2.0\nreal = encoding._channels_of\n"
        "def slow(row):\n    time.sleep(60 if row['name'] == '9.wav' else 0)\n    yield from real(row)\n"
        "encoding._channels_of = slow\n"
        "if __name__ == '__main__':\n"
        "    options = encoding.EncodeOptions('cpu', 2, cache_dir=sys.argv[3])\n"
        "    encoding.encode_corpus(load_corpus(sys.argv[1]), sys.argv[2], sys.argv[4], options=options)\n"
    )
    (tmp_path / "killed.py").write_text(program)
    command = [sys.executable, str(tmp_path / "killed.py"), str(books), codec_path, str(tmp_path / "cut")]
    run = subprocess.Popen([*command, str(tmp_path / "b")], stderr=subprocess.DEVNULL, cwd=ROOT)
    count = len(list((tmp_path / "whole").rglob("*.arrow")))
    deadline = time.monotonic() + 100
    while len(list((tmp_path / "cut").rglob("*[0-9a-f].arrow"))) < count - 1:
        assert time.monotonic() < deadline and run.poll() is None
        time.sleep(0.1)
    run.send_signal(signal.SIGKILL)
    run.wait()
    time.sleep(1)  # for the workers to see that the run is gone
    assert not (tmp_path / "b").exists()
    (next((tmp_path / "cut").rglob("*.arrow")).parent / "tmp1234").write_bytes(b"what a killed writer leaves")
    made = []
    real = encoding._channels_of
    monkeypatch.setattr(encoding, "_channels_of", lambda row: made.append(row["name"]) or real(row))
    options = EncodeOptions("cpu", cache_dir=tmp_path / "cut")
    resumed = encode_corpus(load_corpus(books), codec_path, tmp_path / "b", options=options)
    assert "9.wav" in made and len(made) <= 3
    assert [row["codes"].tolist() for row in resumed] == [row["codes"].tolist() for row in whole]
    assert not list((tmp_path / "cut").rglob("tmp*"))


def encode_as_rank(rank: int, books: Path, codec_path: str, output: Path, sender: Any) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank))
    names, real = [], encoding._channels_of
    encoding._channels_of = lambda row: names.append(row["name"]) or real(row)
    options = EncodeOptions("cpu", cache_dir=output.parent / "shared")
    codes = encode_corpus(load_corpus(books), codec_path, output, options=options)
    sender.send((names, list(codes["path"])))


def test_two_ranks_give_the_dataset_of_one_process(
    tmp_path: Path, books: Path, codec_path: str, options: EncodeOptions
) -> None:
    """Both return it, and no recording is encoded twice."""
    context, ends = multiprocessing.get_context("fork"), [multiprocessing.Pipe() for _ in range(2)]
    ranks = [
        context.Process(target=encode_as_rank, args=(rank, books, codec_path, tmp_path / "both", sender))
        for rank, (_, sender) in enumerate(ends)
    ]
    for process in ranks:
        process.start()
    found = [receiver.recv() for receiver, _ in ends]
    for process in ranks:
        process.join()
    names = [f"{number}.wav" for number in range(10)]
    assert sorted(found[0][0] + found[1][0]) == names and [paths for _, paths in found] == [names] * 2
    alone = encode_corpus(load_corpus(books), codec_path, tmp_path / "alone", options=options)
    both = load_codes(tmp_path / "both")[0].with_format(None)
    assert both[:] == alone.with_format(None)[:]
    provenances = [(tmp_path / folder / "provenance.json").read_text() for folder in ("both", "alone")]
    assert provenances[0] == provenances[1]


def test_each_rank_takes_a_gpu_of_its_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    assert EncodeOptions().chosen_device() == "cuda"
    for name, value in {"RANK": "11", "WORLD_SIZE": "16", "LOCAL_RANK": "3"}.items():
        monkeypatch.setenv(name, value)
    assert EncodeOptions().chosen_device() == "cuda:3" and EncodeOptions("cpu").chosen_device() == "cpu"


def test_two_runs_do_not_encode_the_same_at_once(
    tmp_path: Path, books: Path, codec_path: str, options: EncodeOptions
) -> None:
    encode_corpus(load_corpus(books), codec_path, tmp_path / "a", options=options)
    (lock,) = (tmp_path / "cache").rglob(".lock")
    with FileLock(lock), pytest.raises(ValueError, match="Another process encodes the same corpus"):
        encode_corpus(load_corpus(books), codec_path, tmp_path / "b", options=options)


def test_a_long_recording_is_encoded_in_blocks(
    tmp_path: Path, codec_path: str, options: EncodeOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory does not grow with length: no call of the codec gets more than a minute."""
    index = write_corpus(tmp_path, {"long": np.tile(chirps_S(30.0, 1), 5)})
    lengths = []
    real = type(load_codec(codec_path)).encode

    def spy(self: object, values: torch.Tensor, **kwargs: object) -> object:
        lengths.append(values.shape[-1])
        return real(self, values, **kwargs)

    monkeypatch.setattr(type(load_codec(codec_path)), "encode", spy)
    (row,) = encode_corpus(load_librilight(index), codec_path, tmp_path / "codes", options=options)
    assert int(row["frames"]) == 1875 and max(lengths) == 60 * 24_000
