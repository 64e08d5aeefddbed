"""Losses of many recordings: checked, resumed, shared by processes, and with a remedy where memory runs out."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from hf_moshi_ttt.evaluation.kept_losses import KeptLosses
from hf_moshi_ttt.evaluation.long_context import evaluate_long_context
from hf_moshi_ttt.evaluation.long_context_settings import LongContextSettings, RecordingSettings
from hf_moshi_ttt.evaluation.recording_losses import RecordingReader
from hf_moshi_ttt.evaluation.recordings import load_recordings
from hf_moshi_ttt.evaluation.results_file import read_results
from hf_moshi_ttt.modeling_moshi_ttt import MoshiTTTForConditionalGeneration

from ..conftest import chirps_S
from .test_long_context import RECORDINGS, SILENCE, SMALL, assert_close, losses

MakeModel = Callable[..., MoshiTTTForConditionalGeneration]


@pytest.mark.parametrize("text", [None, "predicted"])
def test_blocks_are_checked_against_single_frames(make_model: MakeModel, text: str | None) -> None:
    settings = replace(SMALL, check_frames=20, text_stream=text, batch_size=2)
    check = evaluate_long_context(make_model(), RECORDINGS, settings, progress=False).results["run"]["block_check"]
    assert check["frames"] == 20 and 65 <= check["first_frame"] <= 81
    assert 0 < check["max_difference_nats"] < 1e-4


def test_the_check_sees_a_wrong_block(make_model: MakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks that forget the window at their start, as a ring that is too short would."""
    model = make_model()
    whole = type(model.model.layers[0].self_attn).forward

    def forgetful(self: Any, x: Any, cache: Any = None, frames: Any = None, *rest: Any) -> Any:
        if cache is not None and x.dim() > 1 and x.shape[1] > 1:
            cache = replace(cache, keys=torch.zeros_like(cache.keys))
        return whole(self, x, cache, frames, *rest)

    monkeypatch.setattr(type(model.model.layers[0].self_attn), "forward", forgetful)
    settings = replace(SMALL, check_frames=20)
    check = evaluate_long_context(model, RECORDINGS, settings, progress=False).results["run"]["block_check"]
    assert check["max_difference_nats"] > 1e-3


def test_a_stopped_evaluation_goes_on(make_model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, settings = make_model(), replace(SMALL, batch_size=1)
    whole = losses(model, settings)
    forward, calls = model.forward, []

    def stopping(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 10:  # in the second recording: the first, of 101 frames, has 7 blocks
            raise KeyboardInterrupt
        return forward(*arguments, **options)

    monkeypatch.setattr(model, "forward", stopping)
    with pytest.raises(KeyboardInterrupt):
        losses(model, settings, keep_in=tmp_path)
    assert [path.suffix for path in tmp_path.iterdir()] == [".npy"]
    output = evaluate_long_context(model, RECORDINGS, settings, silence_codes=SILENCE, keep_in=tmp_path, progress=False)
    assert output.results["run"]["kept_recordings"] == 1
    for one, other in zip(output.losses, whole, strict=True):
        np.testing.assert_array_equal(one, other)
    calls.clear()
    assert_close(losses(model, settings, keep_in=tmp_path), whole)
    assert calls == []


def test_the_check_is_kept_with_the_losses(make_model: MakeModel, tmp_path: Path) -> None:
    def check(**changes: Any) -> Any:
        settings = replace(SMALL, check_frames=20, **changes)
        output = evaluate_long_context(make_model(), RECORDINGS, settings, keep_in=tmp_path, progress=False)
        assert output.results["run"]["kept_recordings"] == kept
        return output.results["run"].get("block_check")

    kept = 0
    first = check(batch_size=1)
    assert first is not None
    kept = 3
    assert check() == first
    kept = 0
    assert check(mode="stream") is None and check(text_stream="pad") != first


def test_the_worst_check_of_all_processes_is_told(make_model: MakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    checks = [None, *({"first_frame": 0, "frames": 1, "max_difference_nats": worst} for worst in (1e-6, 1e-3, 1e-5))]
    monkeypatch.setattr("hf_moshi_ttt.evaluation.recording_losses.gather_object", lambda own: checks)
    reader = RecordingReader(make_model(), SMALL, progress=False)
    reader._agree_on_check(KeptLosses(None, ""), [])
    assert reader.record()["block_check"]["max_difference_nats"] == 1e-3


def test_kept_losses_belong_to_their_model_and_settings(make_model: MakeModel, tmp_path: Path) -> None:
    def kept(model: Any, settings: LongContextSettings = SMALL) -> int:
        output = evaluate_long_context(
            model, RECORDINGS, settings, silence_codes=SILENCE, keep_in=tmp_path, progress=False
        )
        return output.results["run"]["kept_recordings"]

    model = make_model()
    assert kept(model) == 0 and kept(model) == 3
    assert kept(model, replace(SMALL, batch_size=1, bin_frames=5)) == 3  # losses do not depend on these
    for change in ({"memory": "off"}, {"mode": "stream"}, {"text_stream": "pad"}, {"user_stream": "none"}):
        assert kept(model, replace(SMALL, **change)) == 0, change
    with torch.no_grad():
        model.model.layers[1].ttt_gate.weight.add_(1e-3)
    assert kept(model) == 0
    assert kept(make_model(ttt={"base_lr": 0.5})) == 0
    assert kept(model, replace(SMALL, memory="no_reset")) == 0
    assert kept(model, replace(SMALL, memory="no_reset")) == 3


def test_a_chain_that_was_stopped_starts_anew(make_model: MakeModel, tmp_path: Path) -> None:
    """A memory that went on through recordings is not kept with their losses."""
    model, settings = make_model(), replace(SMALL, memory="no_reset")
    whole = losses(model, settings, keep_in=tmp_path)
    min(tmp_path.glob("*.npy"), key=lambda path: np.load(path).shape[1]).unlink()  # of the second recording
    assert_close(losses(model, settings, keep_in=tmp_path), whole)


def test_out_of_memory_tells_the_remedy(make_model: MakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model()

    def full(*arguments: Any, **options: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(model, "forward", full)
    with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory\n.*halve batch_size, then block_frames"):
        losses(model)


TWO_PROCESSES = """
import json
import sys
from pathlib import Path
import numpy as np
import torch
from accelerate import PartialState
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from hf_moshi_ttt.configuration_moshi_ttt import MoshiTTTConfig
from hf_moshi_ttt.evaluation.long_context import evaluate_long_context
from hf_moshi_ttt.evaluation.long_context_settings import LongContextSettings
from hf_moshi_ttt.modeling_moshi_ttt import MoshiTTTForConditionalGeneration

torch.set_num_threads(1)
process = PartialState(cpu=True)
torch.manual_seed(0)
model = MoshiTTTForConditionalGeneration(MoshiTTTConfig.from_preset("tiny")).eval()
recordings = [np.random.default_rng(i).integers(0, 32, (8, n)) for i, n in enumerate((70, 33, 101))]
for memory in ("on", "no_reset"):
    settings = LongContextSettings(bin_frames=10, block_frames=16, check_frames=8, batch_size=1, memory=memory)
    output = evaluate_long_context(model, recordings, settings, progress=False)
    np.savez(f"{sys.argv[1]}/{memory}_{process.num_processes}_{process.process_index}.npz", *output.losses)
    told = Path(f"{sys.argv[1]}/{memory}_{process.num_processes}_{process.process_index}.json")
    told.write_text(json.dumps(output.results["run"]))
if process.num_processes == 2:
    for layer in model.model.layers:
        fully_shard(layer, mesh=init_device_mesh("cpu", (2,)))
    fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
    assert all(isinstance(weight, DTensor) for weight in model.parameters())
    settings = LongContextSettings(bin_frames=10, block_frames=16, check_frames=0, batch_size=1)
    for kept in (0, 3):
        output = evaluate_long_context(model, recordings, settings, keep_in=sys.argv[1] + "/kept", progress=False)
        assert output.results["run"]["kept_recordings"] == kept, output.results["run"]
        np.savez(f"{sys.argv[1]}/sharded_{kept}_{process.process_index}.npz", *output.losses)
"""


def test_two_processes_share_the_recordings(tmp_path: Path) -> None:
    """Each reads its part; with memory over recordings, or weights sharded by FSDP, both read all."""
    script = tmp_path / "evaluate.py"
    script.write_text(TWO_PROCESSES)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    shared, alone = (
        subprocess.run([*command, str(script), str(tmp_path)], capture_output=True, text=True, timeout=300)
        for command in (launch, [sys.executable])
    )
    assert shared.returncode == 0 == alone.returncode, (shared.stderr + alone.stderr)[-3000:]
    for memory, frames in (("on", [134, 70]), ("no_reset", [204, 204])):
        told = [json.loads((tmp_path / f"{memory}_2_{process}.json").read_text()) for process in (0, 1)]
        assert [run["frames_read"] for run in told] == frames
        worst = [run["block_check"]["max_difference_nats"] for run in told]
        assert worst[0] == worst[1] and 0 < worst[0] < 1e-4
    for memory in ("on", "no_reset"):
        expected, *found = (np.load(tmp_path / f"{memory}_{part}.npz") for part in ("1_0", "2_0", "2_1"))
        for one in found:
            assert_close(list(one.values()), list(expected.values()))
    whole = list(np.load(tmp_path / "on_1_0.npz").values())
    for part in ("0_0", "0_1", "3_0", "3_1"):
        assert_close(list(np.load(tmp_path / f"sharded_{part}.npz").values()), whole)


def test_the_script_shares_recordings_and_their_encoding(
    make_model: MakeModel, tmp_path: Path, codec_path: str
) -> None:
    """From a folder of audio to results.json, by two processes."""
    for place, name in enumerate(("7/emma/emma_1.flac", "7/emma/emma_2.flac", "9/oz/oz_1.flac")):
        (tmp_path / "books" / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / "books" / name, chirps_S(4.0, place), 24_000)
    model = make_model(codec=codec_path)
    model.save_pretrained(tmp_path / "model")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["scripts/evaluate_long_context.py", "configs/evaluation/librilight.yaml", "--output", str(tmp_path)]
    command += [f"librilight_audio_dir={tmp_path / 'books'}", "bin_frames=5", "positions_frames=[20]", "batch_size=1"]
    command += ["--model", str(tmp_path / "model"), "--compare", "static,window_only"]
    done = subprocess.run([*command, "--device", "cpu"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("librilight_slope ") == 1 and (tmp_path / "report.html").is_file()
    found = read_results(tmp_path / "results.json")["models"]["model"]
    assert (found["run"]["processes"], found["run"]["frames_read"]) == (2, 100)
    which = RecordingSettings(librilight_audio_dir=str(tmp_path / "books"))
    recordings, _ = load_recordings(which, codec_path, tmp_path / "codes")
    settings = LongContextSettings(bin_frames=5, positions_frames=[20])
    alone = evaluate_long_context(model, [one.codes for one in recordings], settings, progress=False).results
    for key in ("librilight_loss_20", "librilight_slope"):
        assert found[key] == pytest.approx(alone[key], abs=1e-5)
