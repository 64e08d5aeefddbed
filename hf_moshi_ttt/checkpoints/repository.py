"""Recognises a checkpoint by its files and opens it under our names, whatever layout it has.

A repository (a folder, or a name on the Hub) is one of
- ours: config.json with `model_type: moshi_ttt` and model.safetensors, in one or several files;
- a trained part of ours: the same config.json and trained_part.safetensors, whose base is named in it;
- Kyutai's: config.json with flat keys, or none at all (the first 7B), weights of either key layout;
- moshi-finetune's LoRA: Kyutai's config.json and lora.safetensors, over a base;
- transformers' MoshiForConditionalGeneration.

Nothing but headers is read here.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from transformers.utils import logging
from transformers.utils.hub import cached_files, extract_commit_hash

from ..codec.hub_files import HUB_SCHEME, folder_or_repository, local_file, repository_file
from ..configuration_moshi_ttt import MoshiTTTConfig
from .kyutai import config_from_kyutai, from_kyutai, is_kyutai_config, merge_lora
from .lazy_weights import PICKLE_SUFFIXES, LazyTensor, open_weights, read_header
from .transformers_moshi import config_from_transformers, from_transformers, is_transformers_config
from .weight_files import LORA_NAME, TRAINED_PART_NAME, WEIGHTS_NAME, require_one_layout

logger = logging.get_logger(__name__)

HUB_OPTIONS = ("cache_dir", "force_download", "proxies", "local_files_only", "token", "revision", "subfolder")
BASE_KEY = "base_model_name_or_path"
BASE_REVISION_KEY = "base_model_revision"
_FINETUNE_NAME = "consolidated.safetensors"  # what moshi-finetune calls whole weights
_LEGACY_TOKENIZER = "tokenizer_spm_32k_3.model"
_KYUTAI_TOKENIZER = f"{HUB_SCHEME}kyutai/moshiko-pytorch-bf16/{_LEGACY_TOKENIZER}"
_KYUTAI_TEXT_VOCAB_SIZE = 32_000
_TTT_WEIGHT = re.compile(r"model\.layers\.\d+\.(ttt|ttt_norm|ttt_gate)\.")


def is_ttt_weight(name: str) -> bool:
    """Whether a weight belongs to a TTT block: its norm, its layer or its gate."""
    return _TTT_WEIGHT.match(name) is not None


class Origin(NamedTuple):
    """Where whole weights come from, for a trained part to name; `revision` is the commit on the Hub."""

    name: str
    revision: str | None


@dataclass(frozen=True)
class Repository:
    """A folder, known by its absolute path, or a repository on the Hub.

    Args:
        hub: transformers' download options (revision, token, ...).

    Raises:
        ValueError: a name that can only be a folder and is not there.
    """

    name: str
    hub: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", folder_or_repository(self.name))

    def file(self, filename: str) -> Path | None:
        """The local path of a file, downloaded if need be, or None if the repository has none of that name.

        Args:
            filename: inside the repository, or Kyutai's form for a file on the Hub (`hf://owner/repository/file`).

        Raises:
            ValueError: a path that leads out of the repository.
            OSError: the repository cannot be reached or does not exist.
        """
        if filename.startswith(HUB_SCHEME):
            return local_file(filename)
        if Path(filename).is_absolute() or ".." in Path(filename).parts:
            raise ValueError(f"{self.name}: {filename} leads out of the repository.")
        return repository_file(self.name, filename, self.hub)

    @property
    def origin(self) -> Origin:
        """Its name and, on the Hub, its commit."""
        path = self.file("config.json") or self.file(WEIGHTS_NAME)
        return Origin(self.name, extract_commit_hash(None if path is None else str(path), None))

    def other(self, name: str, revision: str | None = None) -> "Repository":
        """Another repository, reached in the same way."""
        hub = {key: value for key, value in self.hub.items() if key not in ("revision", "subfolder")}
        return Repository(name, hub if revision is None else {**hub, "revision": revision})

    def read_json(self, filename: str) -> dict[str, Any] | None:
        """A JSON file, or None if there is none.

        Raises:
            ValueError: it holds no JSON object.
        """
        path = self.file(filename)
        if path is None:
            return None
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: not valid JSON ({error}).") from error
        if not isinstance(content, dict):
            raise ValueError(f"{path}: expected a JSON object, got {type(content).__name__}.")
        return content

    def weights(self, *names: str) -> dict[str, LazyTensor]:
        """The weights in the first of these files that there is, in one piece or in several with an index.

        Raises:
            ValueError: none of them exists, or one cannot be read.
        """
        for name in names:
            if (path := self.file(name)) is not None:
                return open_weights([path])
            if (index := self.read_json(f"{name}.index.json")) is not None:
                return self._shards(index, f"{name}.index.json")
        raise self._no_weights(names)

    def require_weights(self, *names: str) -> None:
        """Raises ValueError as `weights` does where none of these files exists; nothing of them is read."""
        if not any(self.file(one) for name in names for one in (name, f"{name}.index.json")):
            raise self._no_weights(names)

    def _no_weights(self, names: tuple[str, ...]) -> ValueError:
        return ValueError(
            f"{self.name}: no weights. Looked for {', '.join(names)}, each also in several files with an index."
            f"{self.what_is_there()}"
        )

    def _shards(self, index: dict[str, Any], filename: str) -> dict[str, LazyTensor]:
        weight_map = index.get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise ValueError(f"{self.name}: {filename} has no weight_map.")
        shards = sorted(set(weight_map.values()))
        if not Path(self.name).is_dir():
            cached_files(self.name, shards, **self.hub)  # side by side
        paths = {shard: self.file(shard) for shard in shards}
        absent = [shard for shard, path in paths.items() if path is None]
        if absent:
            raise ValueError(f"{self.name}: {filename} names {', '.join(absent)}, but there is no such file.")
        weights = open_weights(path for path in paths.values() if path is not None)
        missing = sorted(weight_map.keys() - weights.keys())
        if missing:
            raise ValueError(f"{self.name}: {filename} names {missing[0]}, but {weight_map[missing[0]]} lacks it.")
        return weights

    def what_is_there(self) -> str:
        """A sentence with the names of a folder's files, empty for a repository on the Hub."""
        if not Path(self.name).is_dir():
            return ""
        files = sorted(path.name for path in Path(self.name).iterdir())
        pickled = [name for name in files if name.endswith(PICKLE_SUFFIXES)]
        if pickled:
            return f" {', '.join(pickled)}: pickled weights are not loaded; convert them to safetensors first."
        return f" There is: {', '.join(files) or 'nothing'}."


@dataclass
class Checkpoint:
    """A checkpoint that was recognised: `weights` by our names, still on disk, and the `config` they were saved with.

    Args:
        layout: `"moshi_ttt"`, `"trained part"`, `"kyutai"`, `"kyutai lora"` or `"transformers"`.
        origin: the repository that holds the whole weights; None if they come from several.
    """

    layout: str
    config: MoshiTTTConfig
    weights: dict[str, LazyTensor]
    origin: Origin | None


def open_checkpoint(repository: Repository, base: str | None = None, known: tuple[str, ...] = ()) -> Checkpoint:
    """Recognises a repository and opens its weights.

    Args:
        base: name of the model that LoRA weights or a trained part belong to, where the repository does not hold or
            name it.
        known: the repositories that led here, each the base of the one before.

    Raises:
        ValueError: not a checkpoint, an incomplete one, or one that our model cannot follow.
        OSError: a name that cannot be reached.
    """
    require_one_layout(repository.name)
    raw, config = _read_config(repository)
    if raw is None or is_kyutai_config(raw):
        return _open_kyutai(repository, raw or {}, config, base)
    if is_transformers_config(raw):
        weights = from_transformers(_whole_weights(repository, base, WEIGHTS_NAME), config.num_attention_heads)
        return Checkpoint("transformers", config, weights, repository.origin)
    if (trained := repository.file(TRAINED_PART_NAME)) is not None:
        return _with_trained_part(repository, config, trained, base, known)
    return Checkpoint("moshi_ttt", config, _whole_weights(repository, base, WEIGHTS_NAME), repository.origin)


def read_config(repository: Repository) -> MoshiTTTConfig:
    """The configuration of a repository of any layout; its weights are not read.

    Raises:
        ValueError, OSError: as `open_checkpoint`; a folder with neither config.json nor weights, too.
    """
    raw, config = _read_config(repository)
    if raw is None and Path(repository.name).is_dir() and not any(Path(repository.name).glob("*.safetensors*")):
        raise ValueError(
            f"{repository.name}: no checkpoint, it holds neither config.json nor weights (.safetensors)."
            f"{repository.what_is_there()} Give the folder of a model, such as that of a run."
        )
    if raw is None and Path(repository.name).is_dir():
        repository.require_weights(WEIGHTS_NAME, _FINETUNE_NAME)
    return config


def _read_config(repository: Repository) -> tuple[dict[str, Any] | None, MoshiTTTConfig]:
    """config.json as it is, None if there is none, and what it means."""
    raw = repository.read_json("config.json")
    if raw is not None and raw.get("model_type") == MoshiTTTConfig.model_type:
        return raw, MoshiTTTConfig.from_dict(raw)
    if raw is None or is_kyutai_config(raw):
        config = MoshiTTTConfig.from_dict({} if raw is None else config_from_kyutai(raw))
        tokenizer = _tokenizer_name(repository, (raw or {}).get("tokenizer_name", _LEGACY_TOKENIZER))
    elif is_transformers_config(raw):
        config = MoshiTTTConfig.from_dict(config_from_transformers(raw))
        tokenizer = _file_in(repository, _LEGACY_TOKENIZER)
    else:
        raise ValueError(
            f"{repository.name}: config.json is none of Moshi's (model_type={raw.get('model_type')!r}). It must be "
            "that of TTT-Moshi (moshi_ttt), Kyutai's (dim, n_q, ...) or transformers' MoshiForConditionalGeneration."
        )
    config.text_tokenizer = tokenizer or _kyutais_tokenizer(config)
    return raw, config


def _whole_weights(repository: Repository, base: str | None, *names: str) -> dict[str, LazyTensor]:
    weights = repository.weights(*names)
    if base is not None:
        raise ValueError(f"{BASE_KEY}={base!r}, but {repository.name} holds whole weights: it needs no base.")
    return weights


def _open_kyutai(repository: Repository, raw: dict[str, Any], config: MoshiTTTConfig, base: str | None) -> Checkpoint:
    names = (raw.get("moshi_name") or WEIGHTS_NAME, _FINETUNE_NAME)
    lora_path = repository.file(raw.get("lora_name") or LORA_NAME)
    if lora_path is None:
        weights = _from_kyutai(repository, _whole_weights(repository, base, *names), config)
        return Checkpoint("kyutai", config, weights, repository.origin)
    if raw.get("lora") is not True:
        raise ValueError(f"{repository.name}: there are LoRA weights, but config.json has lora={raw.get('lora')!r}.")
    scaling = raw.get("lora_scaling", 2.0)
    merged = merge_lora(_lora_base(repository, names, base), open_weights([lora_path]), scaling, config.num_codebooks)
    origin = repository.origin if base is None else None
    return Checkpoint("kyutai lora", config, _from_kyutai(repository, merged, config), origin)


def _from_kyutai(
    repository: Repository, weights: Mapping[str, LazyTensor], config: MoshiTTTConfig
) -> dict[str, LazyTensor]:
    if not any(key.startswith(("text_emb.", "transformer.")) for key in weights):
        raise ValueError(
            f"{repository.name}: the weights are not Kyutai's Moshi (the first is {min(weights, default='absent')!r}). "
            "Other layouts are recognised by their config.json."
        )
    return from_kyutai(weights, config.num_codebooks)


def _lora_base(repository: Repository, names: tuple[str, ...], base: str | None) -> dict[str, LazyTensor]:
    if base is None:
        try:
            return repository.weights(*names)
        except ValueError as error:
            raise ValueError(
                f"{repository.name}: LoRA weights of moshi-finetune, but their base cannot be opened there: {error} "
                f'Give {BASE_KEY}="kyutai/moshiko-pytorch-bf16", or the checkpoint they were trained on.'
            ) from error
    owner = repository.other(base)
    raw = owner.read_json("config.json") or {}
    return owner.weights(raw.get("moshi_name") or WEIGHTS_NAME, _FINETUNE_NAME)


def _tokenizer_name(repository: Repository, filename: str) -> str | None:
    """A path, or Kyutai's form for a file on the Hub (`hf://owner/name/file`), which is not downloaded here."""
    if filename.startswith(HUB_SCHEME):
        return filename
    if not Path(repository.name).is_dir():
        return f"{HUB_SCHEME}{repository.name}/{filename}"
    return _file_in(repository, filename)


def _file_in(repository: Repository, filename: str) -> str | None:
    path = Path(repository.name, filename)
    return str(path) if path.is_file() else None


def _kyutais_tokenizer(config: MoshiTTTConfig) -> str | None:
    """The name on the Hub of the tokenizer that Kyutai's Moshis have learned, or None for another number of text ids.

    Without one a model would be taken for one of audio alone, and never speak.
    """
    if config.text_vocab_size != _KYUTAI_TEXT_VOCAB_SIZE:
        return None
    logger.warning_once(
        f"The checkpoint has no file of a text tokenizer: Kyutai's is taken, {_KYUTAI_TOKENIZER}. Where it has learned "
        "another, set config.text_tokenizer to its path."
    )
    return _KYUTAI_TOKENIZER


def _with_trained_part(
    repository: Repository, config: MoshiTTTConfig, path: Path, base: str | None, known: tuple[str, ...]
) -> Checkpoint:
    """The base's weights with the trained ones in their place."""
    metadata = read_header(path).get("__metadata__", {})
    named = base or metadata.get(BASE_KEY)
    if not named:
        raise ValueError(f"{path}: the trained part names no base model. Give {BASE_KEY}.")
    try:
        owner = repository.other(named, metadata.get(BASE_REVISION_KEY) if base is None else None)
        if owner.name in (*known, repository.name):
            raise ValueError(f"{named} is built on this trained part itself.")
        opened = open_checkpoint(owner, None, (*known, repository.name))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{repository.name} holds only the trained part of a model, and its base {named!r} cannot be opened: "
            f"{error} Give the place of the base as {BASE_KEY}."
        ) from error
    return Checkpoint("trained part", config, {**opened.weights, **open_weights([path])}, opened.origin)
