"""The loss by position while a model trains: a picture of each evaluation of long recordings, also for the trackers."""

from pathlib import Path

from transformers import Trainer

from ..checkpoints.adapters import without_adapters
from ..evaluation.long_context import LongContextOutput, describe_model
from ..evaluation.long_context_settings import LongContextSettings
from ..evaluation.results_plot import plot_loss_by_position
from .trackers import Exhibit, show

FOLDER = "long_context"


def write_curve(
    trainer: Trainer, output: LongContextOutput, settings: LongContextSettings, training_frames: int | None = None
) -> Path | None:
    """Draws `RUN/long_context/step-N.png`; returns its path, None in processes that do not log.

    Args:
        training_frames: length of a training segment, to be marked.
    """
    step = trainer.state.global_step
    if not trainer.is_world_process_zero():
        return None
    model = without_adapters(trainer.model)
    name = f"step {step}"
    path = Path(str(trainer.args.output_dir), FOLDER, f"step-{step}.png")
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn = {
        "model": name,
        "models": {name: {**output.results, "description": describe_model(model, settings)}},
        "recordings": output.losses,
        "codec": model.config.codec,
        "settings": {"training_frames": training_frames},
    }
    plot_loss_by_position(drawn, path)
    show(trainer, [Exhibit("loss_by_position", path)], step)
    return path
