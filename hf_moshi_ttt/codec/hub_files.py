"""One rule for every name of a file, a folder or a repository on the Hub.

- `~` is the home folder (`expand_home`).
- What exists on this machine is meant, and is known by its absolute path from then on (`folder_or_repository`).
- Otherwise a name of the form `name` or `owner/name` is a repository on the Hub, `hf://owner/repository/file` is a file
  there, and everything else is a path that does not exist.
- A Hub that cannot be reached raises; it is never taken for a file that is absent (`repository_file`).
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import constants, hf_hub_download
from huggingface_hub.file_download import repo_folder_name
from transformers.utils.hub import cached_file

HUB_SCHEME = "hf://"
_REPOSITORY = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", re.ASCII)


def expand_home(name: str | Path) -> str:
    """A name with a leading `~` or `~user` as that home folder; other names as they are.

    Raises:
        ValueError: a user without a home folder.
    """
    if not str(name).startswith("~"):
        return str(name)
    try:
        return str(Path(name).expanduser())
    except RuntimeError as error:
        raise ValueError(f"{name}: {error} Write the path without ~.") from error


def is_repository_name(name: str) -> bool:
    """Whether a name has the form of a repository on the Hub: `name` or `owner/name`."""
    return _REPOSITORY.fullmatch(name) is not None


def folder_or_repository(name: str | Path) -> str:
    """The absolute path of a folder that exists, or else the name of a repository on the Hub as it is.

    Raises:
        ValueError: a file, or a name that can only be a path and is not there.
    """
    expanded = expand_home(name)
    if expanded and Path(expanded).is_dir():
        return str(Path(expanded).absolute())
    if expanded and Path(expanded).exists():
        raise ValueError(f"{name}: a file, but a folder or the name of a repository on the Hub is expected.")
    if not is_repository_name(expanded):
        raise ValueError(f"{name}: no such folder.")
    return expanded


def lasting_name(name: str | Path) -> str:
    """A name under which something is found again from anywhere: the absolute path of what exists on this machine."""
    expanded = expand_home(name)
    return str(Path(expanded).absolute()) if expanded and Path(expanded).exists() else str(name)


def repository_file(repository: str, filename: str, hub: Mapping[str, Any] | None = None) -> Path | None:
    """The local path of a file of a folder or of a repository on the Hub, downloaded if need be; None if there is none.

    Args:
        repository: as `folder_or_repository` returns it.
        hub: transformers' download options.

    Raises:
        OSError: no such repository, or the Hub cannot be reached and nothing of the repository was downloaded before.
    """
    options = dict(hub or {})
    found = cached_file(repository, filename, _raise_exceptions_for_missing_entries=False, **options)
    if found is not None:
        return Path(found)
    if not Path(repository).is_dir() and not _is_known(repository, options.get("cache_dir")):
        raise OSError(
            f"{repository}: no such folder here, and the Hub cannot be reached to look for a repository of that name "
            f"({_why_unreachable(options)})."
        )
    return None


def _is_known(repository: str, cache_dir: str | Path | None) -> bool:
    """Whether the Hub has answered for a repository, now or earlier: its cache then has a folder."""
    folder = repo_folder_name(repo_id=repository, repo_type="model")
    return Path(cache_dir or constants.HF_HUB_CACHE, folder).is_dir()


def _why_unreachable(options: Mapping[str, Any]) -> str:
    if options.get("local_files_only"):
        return "local_files_only=True"
    return "HF_HUB_OFFLINE=1" if constants.is_offline_mode() else f"no connection to {constants.ENDPOINT}"


def local_file(name: str | Path, repository: str | None = None, hub: Mapping[str, Any] | None = None) -> Path:
    """The local path of a file, downloaded if need be.

    Args:
        name: a path; `hf://owner/repository/file`, as in Kyutai's configurations; or the name of a file in
            `repository`.
        hub: transformers' download options for `repository`.

    Raises:
        ValueError: there is no such file.
        OSError: the Hub cannot be reached or has no such file.
    """
    text = expand_home(name)
    if text.startswith(HUB_SCHEME):
        owner, _, rest = text.removeprefix(HUB_SCHEME).partition("/")
        title, _, filename = rest.partition("/")
        if not filename:
            raise ValueError(f"{text}: expected hf://owner/repository/file.")
        return Path(hf_hub_download(f"{owner}/{title}", filename))
    if Path(text).is_file():
        return Path(text)
    found = None
    if repository is not None and not Path(text).is_absolute():
        found = repository_file(folder_or_repository(repository), text, hub)
    if found is None:
        raise ValueError(f"{text}: no such file" + (f" here or in {repository}." if repository else "."))
    return found
