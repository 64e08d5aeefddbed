"""Files by name: on this machine, in a model's repository, or anywhere on the Hub (`hf://owner/repository/file`)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from transformers.utils.hub import cached_file

HUB_SCHEME = "hf://"


def local_file(name: str | Path, repository: str | None = None, hub: Mapping[str, Any] | None = None) -> Path:
    """Where a file lies on this machine, downloaded if need be.

    Args:
        name: a path; `hf://owner/repository/file`, as in Kyutai's configurations; or the name of a file in
            `repository`.
        hub: transformers' download options for `repository`.

    Raises:
        ValueError: there is no such file.
        OSError: the Hub cannot be reached or has no such file.
    """
    text = str(name)
    if text.startswith(HUB_SCHEME):
        owner, _, rest = text.removeprefix(HUB_SCHEME).partition("/")
        title, _, filename = rest.partition("/")
        if not filename:
            raise ValueError(f"{text}: expected hf://owner/repository/file.")
        return Path(hf_hub_download(f"{owner}/{title}", filename))
    if Path(text).is_file():
        return Path(text)
    found = None
    if repository is not None:
        found = cached_file(repository, text, _raise_exceptions_for_missing_entries=False, **(hub or {}))
    if found is None:
        raise ValueError(f"{text}: no such file" + (f" here or in {repository}." if repository else "."))
    return Path(found)
