"""Every named configuration is a configuration, with TTT layers that follow the section's defaults."""

import pytest

from hf_moshi_ttt.configuration_moshi_ttt import MoshiTTTConfig, TTTConfig
from hf_moshi_ttt.model_presets import MODEL_PRESETS


@pytest.mark.parametrize("name", MODEL_PRESETS)
def test_presets_differ_from_the_defaults_in_the_keys_they_name(name: str) -> None:
    config, values = MoshiTTTConfig.from_preset(name), MODEL_PRESETS[name]
    assert {key: config.own_values()[key] for key in values if not isinstance(values[key], dict)} == {
        key: value for key, value in values.items() if not isinstance(value, dict)
    }
    assert config.ttt.own_values() == TTTConfig(**values["ttt"]).own_values()
