"""Where the model of a run lies: what `evaluate`, `generate`, `serve` and their neighbours load."""

from pathlib import Path


def model_folder(name: str) -> str:
    """For the folder of a run its final model, or with a warning its newest whole checkpoint where that is later.

    Other names are returned as they are. It is the rule by which a new run takes over the weights of another.

    Raises:
        ValueError: a run whose newest checkpoint holds weights in shards, and that has no later model.
    """
    from ..codec.hub_files import expand_home
    from ..training.checkpoint_folders import CheckpointFolders, what_is_wrong
    from ..training.resumption import weights_of

    folder = expand_home(name)
    checkpoints = CheckpointFolders(folder).present() if Path(folder).is_dir() else []
    return weights_of(folder) if any(what_is_wrong(checkpoint) is None for checkpoint in checkpoints) else name
