"""Configurations that refuse unknown keys, which transformers would keep silently."""

from dataclasses import fields
from typing import Any, ClassVar

from transformers import PreTrainedConfig

# Keys that transformers itself writes into a config.json or passes to a configuration.
_LIBRARY_KEYS = frozenset(
    {
        "model_type",
        "auto_map",
        "name_or_path",
        "_name_or_path",
        "_commit_hash",
        "attn_implementation",
        "experts_implementation",
        "torch_dtype",
        "num_labels",
        "output_attentions",
        "use_cache",  # Trainer sets it
        "_attn_implementation_internal",
        "_experts_implementation_internal",
    }
)


class StrictConfig(PreTrainedConfig):
    """A transformers configuration with known keys and checked bounds; subclasses say them in `validate_bounds`."""

    # Keys of `own_values` that a stream's state does not depend on.
    state_free_keys: ClassVar[frozenset[str]] = frozenset()
    # Former names of keys: stored configurations load with them, callers get an error with the new name.
    renamed_keys: ClassVar[dict[str, str]] = {}

    def __post_init__(self, **kwargs: Any) -> None:
        if kwargs.pop("tie_word_embeddings", False):
            raise ValueError("tie_word_embeddings=True, but Moshi's embeddings and heads are not tied: leave it out.")
        for former in sorted(set(kwargs) & set(self.renamed_keys)):
            raise ValueError(f"{type(self).__name__}: {former} is now called {self.renamed_keys[former]}.")
        unknown = sorted(set(kwargs) - _LIBRARY_KEYS)
        if unknown:
            raise ValueError(
                f"{type(self).__name__} does not know {unknown}. Known keys: {', '.join(sorted(self.own_keys()))}."
            )
        super().__post_init__(**kwargs)
        self.validate_bounds()

    @classmethod
    def own_keys(cls) -> set[str]:
        """The keys that this configuration adds to transformers' own."""
        return {field.name for field in fields(cls)} - set(PreTrainedConfig.__dataclass_fields__)

    def own_values(self) -> dict[str, Any]:
        """Those keys with their values; keys of a section by `section.key`."""
        values: dict[str, Any] = {}
        for key in self.own_keys():
            value = getattr(self, key)
            if isinstance(value, StrictConfig):
                values.update({f"{key}.{name}": inner for name, inner in value.own_values().items()})
            else:
                values[key] = value
        return values

    def state_values(self) -> dict[str, Any]:
        """The values that a saved state depends on: it may be loaded only where all of them are the same."""
        return {key: value for key, value in self.own_values().items() if key not in self.state_free_keys}

    @classmethod
    def current_state_values(cls, stored: dict[str, Any]) -> dict[str, Any]:
        """`state_values` as they were stored with a state, with the keys and values of today."""
        return cls.with_current_names(stored)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As transformers' `from_dict`; keys of this configuration in `kwargs` are checked like those of the dict."""
        own = cls.own_keys()
        changes = {key: kwargs.pop(key) for key in list(kwargs) if key in own}
        return super().from_dict(merged(cls.with_current_names(config_dict), changes), **kwargs)

    @classmethod
    def with_current_names(cls, stored: dict[str, Any]) -> dict[str, Any]:
        """A stored configuration, and its sections, with former keys under their current names."""
        current = {cls.renamed_keys.get(key, key): value for key, value in stored.items()}
        for section, spec in getattr(cls, "sub_configs_defaults", {}).items():
            if isinstance(current.get(section), dict):
                section_class = getattr(spec, "config_class", spec)
                current[section] = section_class.with_current_names(current[section])
        return current

    def validate_bounds(self) -> None:
        """Raises ValueError for a value out of bounds."""

    def require(self, key: str, condition: bool, allowed: str) -> None:
        """Raises ValueError that names the key, its value and what is allowed."""
        if not condition:
            raise ValueError(f"{type(self).__name__}: {key}={getattr(self, key)!r}, but {key} must be {allowed}.")


def merged(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A copy of `values` with `changes`; where both hold a dict, its single keys are changed."""
    result = dict(values)
    for key, value in changes.items():
        nested = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = {**result[key], **value} if nested else value
    return result
