"""Saving and publishing: whole models, only the trained part, the code beside them, and other layouts.

`save_pretrained` and `push_to_hub` are transformers', with safetensors in one or several files, and three additions:
`trainable_only` writes what was trained and names the base; `with_code` puts the package's modules beside the weights,
so that `AutoModel.from_pretrained(..., trust_remote_code=True)` needs no installation; `push_to_hub` adds a model card.
`to_kyutai` and `to_transformers` write what Kyutai's package and transformers' own Moshi load.
"""

import copy
import inspect
import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from huggingface_hub import HfApi
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModel, GenerationConfig

from .kyutai import config_to_kyutai, to_kyutai
from .model_card import PLOT_NAME, ModelCardFacts, model_card
from .offloading import require_weights_in_place
from .published_code import published_modules, stamped
from .repository import BASE_KEY, BASE_REVISION_KEY, Origin, is_ttt_weight
from .transformers_moshi import CODEC_PREFIX, config_to_transformers, to_transformers
from .weight_files import (
    INDEX_NAME,
    PATTERNS,
    TRAINED_PART_NAME,
    WEIGHTS_NAME,
    remove_stale_weights,
    require_other_folder,
    whole_weights,
)

# Where Kyutai's own repositories take the codec that transformers knows as kyutai/mimi from.
_KYUTAI_CODEC = "hf://kyutai/moshiko-pytorch-bf16/tokenizer-e351c8d8-checkpoint125.safetensors"
_AUTO_MAP = {
    "AutoConfig": "configuration_moshi_ttt.MoshiTTTConfig",
    "AutoModel": "modeling_moshi_ttt.MoshiTTTForConditionalGeneration",
    "AutoProcessor": "processing_moshi_ttt.MoshiTTTProcessor",
}


class MoshiTTTSavingMixin:
    """Saving for `MoshiTTTForConditionalGeneration`."""

    if TYPE_CHECKING:  # what the model has
        config: Any
        dtype: Any
        generation_config: GenerationConfig
        model: Any
        named_parameters: Any
        origin: Origin | None
        state_dict: Any

    def save_pretrained(
        self, save_directory: Any, *args: Any, trainable_only: bool = False, with_code: bool = False, **kwargs: Any
    ) -> None:
        """transformers' `save_pretrained`.

        Args:
            trainable_only: whether to write only the trained part (what requires a gradient, and all TTT weights) and
                the name of the base it belongs to. `from_pretrained` puts both together.
            with_code: whether to put beside the weights what other machines lack: the code (`auto_map`, for
                `trust_remote_code`) and the tokenizer's file.

        Raises:
            ValueError: `trainable_only` for a model without a named base, with every weight trained, or into the folder
                of the base; a model that was offloaded after loading, or quantized.
        """
        if trainable_only or not hasattr(self, "hf_device_map"):  # else transformers fetches offloaded weights
            require_weights_in_place(self, "save_pretrained")
        folder = Path(save_directory)
        own_config = self.config
        if with_code:
            self.config = self._published_config(folder)
        try:
            if trainable_only:
                if kwargs.get("is_main_process", True):
                    self._save_trained_part(folder, kwargs.get("state_dict") or self.state_dict())
            else:
                self._save_whole(folder, *args, **kwargs)
        finally:
            self.config = own_config

    def _save_whole(self, folder: Path, *args: Any, **kwargs: Any) -> None:
        if getattr(self, "_hf_peft_config_loaded", False):
            raise ValueError(
                "The model holds adapters: load its base and put them on it with peft (PeftModel.from_pretrained) to "
                "save them (adapters.save_adapter), or merge them into it to save the whole (adapters.merged)."
            )
        if getattr(self, "is_quantized", False):
            raise ValueError(
                "The model was quantized when it was loaded, and its folder could not be loaded again. Save what was "
                "trained alone (trainable_only=True, adapters.save_adapter), and quantize the base at each loading."
            )
        if is_main := kwargs.get("is_main_process", True):
            (folder / INDEX_NAME).unlink(missing_ok=True)
        super().save_pretrained(folder, *args, **kwargs)  # type: ignore[misc]
        if is_main:
            remove_stale_weights(folder, whole_weights(folder))

    def _published_config(self, folder: Path) -> Any:
        """Copies the code and the tokenizer's file, and returns a configuration that points to them."""
        folder.mkdir(parents=True, exist_ok=True)
        config = copy.deepcopy(self.config)
        config.auto_map = {}
        root = Path(inspect.getfile(type(config))).parent
        files: dict[str, str] = {}
        for auto_class, name in _AUTO_MAP.items():
            entry = name.partition(".")[0]
            if (root / f"{entry}.py").is_file():  # code that came from the Hub holds what was used of it
                config.auto_map[auto_class] = name
                files |= published_modules(root, entry)
        for file_name, source in stamped(files, "configuration_moshi_ttt").items():
            (folder / file_name).write_text(source, encoding="utf-8")
        if config.text_tokenizer is not None and Path(config.text_tokenizer).is_file():
            shutil.copyfile(config.text_tokenizer, folder / Path(config.text_tokenizer).name)
            config.text_tokenizer = Path(config.text_tokenizer).name
        return config

    def _save_trained_part(self, folder: Path, weights: dict[str, Tensor]) -> None:
        if self.origin is None:
            raise ValueError("trainable_only=True, but the model was not loaded from a base that could be named.")
        _refuse_adapters(weights, "save them with peft's own save_pretrained")
        trained = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        part = {name: weight.contiguous() for name, weight in weights.items() if name in trained or is_ttt_weight(name)}
        if len(part) == len(weights):
            raise ValueError(
                "trainable_only=True, but every weight requires a gradient: freeze the base or save it all."
            )
        require_other_folder(folder, self.origin.name)
        folder.mkdir(parents=True, exist_ok=True)
        self.config.architectures, self.config.dtype = [type(self).__name__], str(self.dtype).removeprefix("torch.")
        self.config.save_pretrained(folder)
        self.generation_config.save_pretrained(folder)
        metadata = {"format": "pt", BASE_KEY: self.origin.name}
        if self.origin.revision is not None:
            metadata[BASE_REVISION_KEY] = self.origin.revision
        save_file(part, folder / TRAINED_PART_NAME, metadata=metadata)
        remove_stale_weights(folder, [TRAINED_PART_NAME])

    def push_to_hub(
        self,
        repo_id: str,
        *,
        card: ModelCardFacts | None = None,
        private: bool | None = None,
        token: bool | str | None = None,
        max_shard_size: int | str = "50GB",
        trainable_only: bool = False,
        with_code: bool = True,
        **commit: Any,
    ) -> Any:
        """Uploads the model with its code and a model card, in place of other weights; returns the Hub's `CommitInfo`.

        Args:
            card: what the card says beside the configuration. Without it, a card that is there is left as it is.
            max_shard_size: transformers' limit for one file of weights.
            trainable_only, with_code: as in `save_pretrained`.
            commit: `HfApi.upload_folder`'s options (`commit_message`, `revision`, `create_pr`, ...).
        """
        api = HfApi(token=token)
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if commit.get("revision") is not None and not commit.get("create_pr"):
            api.create_branch(repo_id, branch=commit["revision"], exist_ok=True)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            self.save_pretrained(
                folder, max_shard_size=max_shard_size, trainable_only=trainable_only, with_code=with_code
            )
            if card is not None or not api.file_exists(repo_id, "README.md", revision=commit.get("revision")):
                self.save_model_card(folder, repo_id, card or ModelCardFacts())
            commit.setdefault("commit_message", "Upload TTT-Moshi")
            return api.upload_folder(repo_id=repo_id, folder_path=folder, delete_patterns=list(PATTERNS), **commit)

    def save_model_card(self, folder: str | Path, repo_id: str, facts: ModelCardFacts) -> None:
        """Writes README.md, and the plot beside it; the base is the repository on the Hub that the model came from."""
        if facts.base_model is None and self.origin is not None and not Path(self.origin.name).exists():
            facts = replace(facts, base_model=self.origin.name)
        model_card(self.config, repo_id, facts).save(Path(folder, "README.md"))
        if facts.plot is not None:
            shutil.copyfile(facts.plot, Path(folder, PLOT_NAME))

    def to_kyutai(self, path: str | Path, layout: Literal["old", "new"] = "new") -> None:
        """Writes a checkpoint for Kyutai's package: config.json and model.safetensors, the tokenizer if it is a file.

        Args:
            layout: names of the current package, or those of the first published checkpoints.

        Raises:
            ValueError: a TTT branch that is not zero, adapters that are not merged, or a configuration that Kyutai's
                package has no keys for.
        """
        folder = Path(path)
        weights = to_kyutai(self._plain_weights("Kyutai's"), layout)
        described = {**config_to_kyutai(self.config), "model_type": "moshi", "moshi_name": WEIGHTS_NAME}
        if self.config.codec == "kyutai/mimi":
            described["mimi_name"] = _KYUTAI_CODEC
        folder.mkdir(parents=True, exist_ok=True)
        tokenizer = self.config.text_tokenizer
        if tokenizer is not None:
            is_file = Path(tokenizer).is_file()
            described["tokenizer_name"] = Path(tokenizer).name if is_file else tokenizer
            if is_file:
                shutil.copyfile(tokenizer, folder / Path(tokenizer).name)
        (folder / "config.json").write_text(json.dumps(described, indent=2), encoding="utf-8")
        save_file(weights, folder / WEIGHTS_NAME)
        remove_stale_weights(folder, [WEIGHTS_NAME])

    def to_transformers(self, path: str | Path) -> None:
        """Writes a checkpoint for transformers' `MoshiForConditionalGeneration`, with the codec's weights in it.

        Raises:
            ValueError: as `to_kyutai`, or a codec that is no Mimi.
        """
        weights = to_transformers(self._plain_weights("transformers'"), self.config)
        codec: Any = AutoModel.from_pretrained(self.config.codec, dtype=self.dtype)
        if codec.config.model_type != "mimi":
            kind = codec.config.model_type
            raise ValueError(f"codec={self.config.codec!r} is {kind}, but transformers' Moshi holds a Mimi.")
        config = config_to_transformers(self.config, codec.config)
        config.architectures, config.dtype = ["MoshiForConditionalGeneration"], str(self.dtype).removeprefix("torch.")
        weights.update({CODEC_PREFIX + name: weight.contiguous() for name, weight in codec.state_dict().items()})
        config.save_pretrained(path)
        _generation_config(config).save_pretrained(path)
        save_file(weights, Path(path, WEIGHTS_NAME), metadata={"format": "pt"})
        remove_stale_weights(path, [WEIGHTS_NAME])

    def _plain_weights(self, whose: str) -> dict[str, Tensor]:
        """The weights of the Moshi in this model, where its TTT layers add nothing to it."""
        require_weights_in_place(self, f"an export to {whose} Moshi")
        weights = self.state_dict()
        _refuse_adapters(weights, "merge them first (merge_and_unload)")
        for index, layer in enumerate(self.model.layers):
            if layer.has_ttt:
                gate, rows = layer.ttt_gate.weight, layer.ttt.output_sizes()
                if ((gate != 0) & (rows != 0)).any():
                    raise ValueError(
                        f"model.layers.{index}: the TTT branch is not zero (gate up to {gate.abs().max():.3g}, "
                        f"weights up to {rows.max():.3g}), and {whose} Moshi has no place for it."
                    )
        return {name: weight for name, weight in weights.items() if not is_ttt_weight(name)}


def _refuse_adapters(weights: dict[str, Tensor], remedy: str) -> None:
    if any(".base_layer." in name or ".original_module." in name for name in weights):
        raise ValueError(f"The model holds adapters: {remedy}.")


def _generation_config(config: Any) -> GenerationConfig:
    """Kyutai's sampling, as transformers' conversions of its checkpoints have it."""
    length = config.num_codebooks + 1
    depth = GenerationConfig(do_sample=True, temperature=0.8, top_k=250, min_length=length, max_length=length)
    start = config.vocab_size
    whole: Any = GenerationConfig(do_sample=True, temperature=0.7, top_k=25, pad_token_id=start, bos_token_id=start)
    whole.depth_decoder_config = depth.to_diff_dict()
    return whole
