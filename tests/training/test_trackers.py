"""TensorBoard, W&B and trackio get sound, text and pictures, TensorBoard in its own event files."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
from matplotlib.image import imsave
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers.integrations import TensorBoardCallback, TrackioCallback, WandbCallback

from hf_moshi_ttt.training.trackers import Exhibit, show


@pytest.fixture
def exhibits(tmp_path: Path) -> list[Exhibit]:
    soundfile.write(tmp_path / "a.wav", np.linspace(-0.5, 0.5, 2400), 24_000)
    imsave(tmp_path / "b.png", np.zeros((4, 6, 3)))
    return [Exhibit("samples/0", tmp_path / "a.wav", "hello"), Exhibit("curve", tmp_path / "b.png")]


def trainer_with(*callbacks: Any, is_first: bool = True) -> Any:
    return SimpleNamespace(
        callback_handler=SimpleNamespace(callbacks=callbacks), is_world_process_zero=lambda: is_first
    )


def test_tensorboards_event_files_hold_them(exhibits: list[Exhibit], tmp_path: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path / "events")) as writer:
        show(trainer_with(TensorBoardCallback(writer)), exhibits, step=7)
        show(trainer_with(TensorBoardCallback(writer), is_first=False), exhibits, step=8)
    events = EventAccumulator(str(tmp_path / "events")).Reload()
    (sound,), (picture,) = events.Audio("samples/0"), events.Images("curve")
    assert (sound.step, sound.sample_rate, round(sound.length_frames)) == (7, 24_000.0, 2400)
    assert (picture.step, picture.width, picture.height) == (7, 6, 4)
    (text,) = events.Tensors("samples/0/text_summary")
    assert text.tensor_proto.string_val == [b"hello"]


@pytest.mark.parametrize(("kind", "name"), [(WandbCallback, "_wandb"), (TrackioCallback, "_trackio")])
def test_others_get_files_with_captions(exhibits: list[Exhibit], kind: Any, name: str) -> None:
    logged: list[Any] = []
    package = SimpleNamespace(
        Audio=lambda path, caption: ("sound", Path(path).name, caption),
        Image=lambda path: ("picture", Path(path).name),
        log=lambda values, **options: logged.append((values, options)),
    )
    callback = kind.__new__(kind)
    setattr(callback, name, package)
    show(trainer_with(callback), exhibits, step=7)
    media = {"samples/0": ("sound", "a.wav", "hello"), "curve": ("picture", "b.png")}
    expected = ({**media, "train/global_step": 7}, {}) if kind is WandbCallback else (media, {"step": 7})
    assert logged == [expected]
