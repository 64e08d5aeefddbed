"""Sound, text and pictures to the trackers of a run: TensorBoard, W&B and trackio, those that `report_to` names.

transformers' callbacks send numbers alone; what they have opened is used here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import soundfile
import torch
from matplotlib.image import imread
from transformers import Trainer
from transformers.integrations import TensorBoardCallback, TrackioCallback, WandbCallback


@dataclass(frozen=True)
class Exhibit:
    """A file to be shown: a .wav, with what is said in it, or a .png.

    Args:
        tag: under what it is shown, the same at every step.
    """

    tag: str
    path: Path
    text: str = ""

    @property
    def is_sound(self) -> bool:
        """Whether it is a .wav."""
        return self.path.suffix == ".wav"


def show(trainer: Trainer, exhibits: Sequence[Exhibit], step: int) -> None:
    """Hands exhibits to every tracker of a run, in the process that logs."""
    for callback in trainer.callback_handler.callbacks if trainer.is_world_process_zero() else []:
        if isinstance(callback, TensorBoardCallback) and callback.tb_writer is not None:
            _to_tensorboard(callback.tb_writer, exhibits, step)
        elif isinstance(callback, WandbCallback):
            wandb: Any = callback._wandb
            wandb.log({**_media(wandb, exhibits), "train/global_step": step})
        elif isinstance(callback, TrackioCallback):
            trackio: Any = callback._trackio
            trackio.log(_media(trackio, exhibits), step=step)


def _media(package: Any, exhibits: Sequence[Exhibit]) -> dict[str, Any]:
    """The exhibits as W&B and trackio take them, whose classes have the same names."""
    return {
        one.tag: package.Audio(str(one.path), caption=one.text) if one.is_sound else package.Image(str(one.path))
        for one in exhibits
    }


def _to_tensorboard(writer: Any, exhibits: Sequence[Exhibit], step: int) -> None:
    for one in exhibits:
        if one.is_sound:
            samples_S, rate_hz = soundfile.read(one.path, dtype="float32")
            writer.add_audio(one.tag, torch.from_numpy(samples_S)[None], step, sample_rate=rate_hz)
            writer.add_text(one.tag, one.text or "(no text)", step)
        else:
            writer.add_image(one.tag, imread(one.path)[..., :3], step, dataformats="HWC")
    writer.flush()
