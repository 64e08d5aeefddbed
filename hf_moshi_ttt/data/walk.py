"""The audio files below a folder, and why others are left out."""

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from ..codec.audio import AUDIO_SUFFIXES
from .bad_files import BadFiles, is_utf8
from .text_files import composed

OTHER_AUDIO_SUFFIXES = {
    ".mp4", ".aac", ".wma", ".webm", ".mka", ".amr", ".ape", ".wv", ".mp2", ".spx", ".shn",
    ".g722", ".gsm", ".ra", ".dsf",
}  # fmt: skip
_APPLE_DOUBLE = "._"


def walk_audio(root: Path, bad: BadFiles, left_out: Counter[str]) -> list[str]:
    """Paths of the audio files below `root`, relative to it and in order.

    Linked folders are not entered, names that are not UTF-8 cannot be written, and of files whose names differ only in
    their ending it is unknown whose the words beside them are: these are reported in `bad`. Audio of formats that are
    not read and macOS' metadata are counted in `left_out`.
    """
    paths = []
    for folder, subfolders, files in os.walk(root):
        for name in list(subfolders):
            if Path(folder, name).is_symlink():
                subfolders.remove(name)
                bad.add(Path(folder, name), "a linked folder, which is not entered: index its target")
        paths += [Path(folder, name) for name in files if _is_audio(name, left_out)]
    names = []
    for path in paths:
        if is_utf8(str(path)):
            names.append(path.relative_to(root).as_posix())
        else:
            bad.add(path, "its name is not UTF-8: rename it")
    twins = shared_names(names)
    for name, other in twins.items():
        bad.add(root / name, shared_name(other))
    return sorted(name for name in names if name not in twins)


def shared_names(names: Iterable[str]) -> dict[str, str]:
    """For each name that differs from another only in its ending or Unicode form: that other one."""
    groups: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        groups.setdefault(composed(name.rpartition(".")[0]), []).append(name)
    return {name: group[group[0] == name] for group in groups.values() if len(group) > 1 for name in group}


def shared_name(other: str) -> str:
    """Why a file is left out that shares its name with another one."""
    return (
        f"its name differs from {other} in the ending only: is it the same recording twice, and whose is the JSON "
        "beside them? Keep one, or rename one"
    )


def _is_audio(name: str, left_out: Counter[str]) -> bool:
    suffix = name[name.rfind(".") :].lower()
    if suffix in OTHER_AUDIO_SUFFIXES:
        left_out[f"{suffix} is not read: convert it to FLAC (ffmpeg -i NAME{suffix} NAME.flac)"] += 1
    elif suffix in AUDIO_SUFFIXES and name.startswith(_APPLE_DOUBLE):
        left_out[f"macOS' metadata ({_APPLE_DOUBLE}*), not audio"] += 1
    else:
        return suffix in AUDIO_SUFFIXES
    return False
