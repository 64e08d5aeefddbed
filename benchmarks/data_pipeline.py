"""Throughput of the data pipeline, from files to batches, each beside a named baseline of the same run.

    OMP_NUM_THREADS=1 python benchmarks/data_pipeline.py

Everything is made in a temporary folder: hard-linked tiny FLAC files for the index, an hour of noise for reading and
encoding, random codes for batches. The codec is the log-mel codec at full size with random tables, which costs what a
fitted one does; `--codec` takes another, e.g. kyutai/mimi.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from datasets import Dataset, disable_progress_bars

from hf_moshi_ttt.codec.audio import read_audio
from hf_moshi_ttt.codec.log_mel_codec import LogMelCodecConfig, LogMelCodecModel
from hf_moshi_ttt.configuration_moshi_ttt import MoshiTTTConfig
from hf_moshi_ttt.data.codes import FEATURES, Provenance
from hf_moshi_ttt.data.collator import MoshiTTTCollator
from hf_moshi_ttt.data.index import build_index
from hf_moshi_ttt.data.segments import SegmentDataset, ShuffledSampler
from hf_moshi_ttt.training.run import prepare
from hf_moshi_ttt.training.trainer import MoshiTTTTrainer

LIBRILIGHT_FILES = 18_739
ENCODE = """
import resource, sys, time
from hf_moshi_ttt.data.corpora import load_librilight
from hf_moshi_ttt.data.encoding import EncodeOptions, encode_corpus
folder, codec, output, num_proc = sys.argv[1:]
options = EncodeOptions(num_proc=int(num_proc), cache_dir=output + "_cache")
start = time.perf_counter()
encode_corpus(load_librilight(folder), codec, output, options=options)
print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def row(what: str, value: str, baseline: str = "") -> None:
    print(f"{what:58}{value:>22}   {baseline}", flush=True)


def seconds(function: Callable[[], Any], repeats: int = 1) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        function()
    return (time.perf_counter() - start) / repeats


def noise(path: Path, minutes: int, rate_hz: int = 16_000) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    with soundfile.SoundFile(path, "w", rate_hz, 1) as file:
        for _ in range(minutes):
            file.write(rng.uniform(-0.1, 0.1, 60 * rate_hz))


def bench_index(folder: Path) -> None:
    noise(folder / "tiny.flac", 1)
    sidecar = json.dumps({"speaker": "1", "book_meta": {"id": "1", "title": "T"}, "snr": 9.5, "voice_activity": []})
    for number in range(LIBRILIGHT_FILES):
        book = folder / "books" / f"{number // 200}" / f"{number // 20}"
        book.mkdir(parents=True, exist_ok=True)
        os.link(folder / "tiny.flac", book / f"{number}.flac")
        (book / f"{number}.json").write_text(sidecar)
    index = folder / "index.jsonl"
    spent = seconds(lambda: build_index(folder / "books", index, progress=False))
    alone = seconds(lambda: soundfile.info(str(folder / "tiny.flac")), 500) * LIBRILIGHT_FILES
    rate = f"{LIBRILIGHT_FILES / spent:.0f} files/s"
    row(f"index of {LIBRILIGHT_FILES} files", rate, f"{spent:.1f} s; soundfile.info alone {alone:.1f} s")


def bench_seek(folder: Path) -> None:
    path = folder / "hour" / "a" / "b" / "hour.flac"
    noise(path, 60)
    part = seconds(lambda: read_audio(path, 3000.0, 20.0), 10)
    whole = seconds(lambda: soundfile.read(path))
    row("20 s at minute 50 of an hour of FLAC", f"{1000 * part:.1f} ms", f"decoding all of it {1000 * whole:.0f} ms")


def bench_encode(folder: Path, codec: str) -> None:
    for name, files, minutes in (("short", 1, 5), ("long", 1, 60), ("many", 12, 5)):
        for number in range(files):
            noise(folder / name / "a" / "b" / f"{number}.flac", minutes)
    for name, minutes, num_proc in (("short", 5, 1), ("long", 60, 1), ("many", 60, 1), ("many", 60, 2)):
        output = str(folder / f"codes_{name}_{num_proc}")
        command = [sys.executable, "-c", ENCODE, str(folder / name), codec, output, str(num_proc)]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        spent, peak = map(float, printed.split())
        note = f"peak of the main process {peak:.0f} MiB"
        row(f"encode, {name}: {minutes} min, {num_proc} process(es)", f"{60 * minutes / spent:.0f} x real time", note)


def make_codes(folder: Path, hours: int) -> Path:
    """Recordings of half an hour of random codes."""
    rng = np.random.default_rng(0)

    def rows() -> Iterator[dict[str, Any]]:
        for number in range(2 * hours):
            codes = rng.integers(0, 2048, (8, 22_500), dtype=np.int16)
            place = {"path": f"{number}.flac", "start_sec": 0.0, "duration_sec": 1800.0}
            yield {**dict.fromkeys(FEATURES), "codes": codes, "frames": 22_500, **place}

    path = folder / "codes"
    Dataset.from_generator(rows, features=FEATURES, cache_dir=str(folder / "cache")).save_to_disk(str(path))
    Provenance("random", "random", 2048, [0] * 8, None, 0, {}).save(path)
    return path


def bench_batches(codes_path: Path) -> None:
    codes = Dataset.load_from_disk(str(codes_path)).with_format("numpy")
    collator = MoshiTTTCollator(MoshiTTTConfig.from_preset("small"))
    segments = SegmentDataset(codes, segment_frames=750)
    plain = seconds(lambda: np.stack(codes[3]["codes"])[:, 750:1500], 5)
    spent = seconds(lambda: segments[35], 200)
    row("read a segment of 60 s", f"{1000 * spent:.2f} ms", f"row as numpy, then sliced {1000 * plain:.1f} ms")
    for workers in (0, 2):
        sampler = ShuffledSampler(segments, 16, seed=0)
        loader = torch.utils.data.DataLoader(segments, 16, sampler=sampler, collate_fn=collator, num_workers=workers)
        memory: list[int] = []
        start = time.perf_counter()
        for number, _ in enumerate(loader):
            if number % (len(loader) // 8) == 0:
                memory.append(anonymous_kib())
        rate = len(loader) / (time.perf_counter() - start)
        growth = (max(memory[2:]) - memory[1]) / 1024
        note = f"{rate * 16 * 60:.0f} x real time; memory grows by {growth:.1f} MiB over an epoch"
        row(f"batches of 16 x 60 s, {workers} workers", f"{rate:.1f} batches/s", note)


def anonymous_kib() -> int:
    """Memory of this process without mapped files."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon")]
    return int(line.split()[1])


def bench_training(codes_path: Path, folder: Path, steps: int) -> None:
    for order in ("shuffled", "lanes"):
        settings = dict(
            preset="small", config={"ttt": {"persistent_states": order == "lanes"}}, train_codes=str(codes_path),
            output_dir=str(folder / "run"), order=order, duration_sec=20, per_device_train_batch_size=4,
            max_steps=steps, use_cpu=True, save_strategy="no", disable_tqdm=True,
        )  # fmt: skip
        trainer, _ = prepare(settings)
        waited = wait_for_batches(trainer)
        spent = seconds(trainer.train)
        note = f"of {1000 * spent / steps:.0f} ms a step, preset small, 4 x 20 s, no workers (2 % are allowed)"
        row(f"waiting for data in a training step, {order}", f"{100 * sum(waited) / spent:.2f} %", note)


def wait_for_batches(trainer: MoshiTTTTrainer) -> list[float]:
    """A list that the seconds spent on fetching each step's batch are put into."""
    waited: list[float] = []
    fetch = trainer.get_batch_samples

    def timed(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        batches = fetch(*args, **kwargs)
        waited.append(time.perf_counter() - start)
        return batches

    trainer.get_batch_samples = timed  # type: ignore[method-assign]
    return waited


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--codec", help="name or path of a codec; a log-mel codec with random tables by default")
    parser.add_argument("--hours", type=int, default=100, help="of random codes (%(default)s)")
    parser.add_argument("--steps", type=int, default=10, help="of training (%(default)s)")
    arguments = parser.parse_args()
    disable_progress_bars()
    threads = f"torch {torch.__version__} with {torch.get_num_threads()} thread(s)"
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {threads}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if arguments.codec is None:
            LogMelCodecModel(LogMelCodecConfig()).save_pretrained(folder / "codec")
        bench_index(folder)
        bench_seek(folder)
        bench_encode(folder, arguments.codec or str(folder / "codec"))
        codes_path = make_codes(folder, arguments.hours)
        bench_batches(codes_path)
        bench_training(codes_path, folder, arguments.steps)


if __name__ == "__main__":
    main()
