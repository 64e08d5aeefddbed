"""transformers' Mimi as Kyutai's: the same codes and sound, from the same weights."""

from typing import Any

import pytest
import torch
from moshi.models.loaders import _mimi_config
from transformers import MimiConfig, MimiModel

from hf_moshi_ttt.checkpoints.kyutai_mimi import kyutai_mimi, kyutai_weights, mimi_config, without_compiling
from hf_moshi_ttt.codec.pretrained_codec import load_codec

from ..conftest import chirps_S


@pytest.fixture(scope="module")
def mimi(mimi_path: str) -> MimiModel:
    return load_codec(mimi_path)


@torch.no_grad()
def test_codes_and_sound_are_those_of_transformers(mimi: MimiModel) -> None:
    """Over 25 frames, more than the window of 20 half frames."""
    theirs = kyutai_mimi(mimi)
    sound = torch.stack([torch.from_numpy(chirps_S(2.0, seed)) for seed in range(2)])[:, None]
    codes = mimi.encode(sound, num_quantizers=8).audio_codes
    with without_compiling():
        assert torch.equal(theirs.encode(sound), codes)
        expected = mimi.decode(codes).audio_values
        torch.testing.assert_close(theirs.decode(codes), expected, rtol=1e-4, atol=1e-5 * expected.std().item())
    assert all(codes[0, codebook].unique().numel() > 4 for codebook in range(8))


def test_weights_are_shared_but_for_the_projections(mimi: MimiModel) -> None:
    own = {tensor.data_ptr() for tensor in mimi.state_dict().values()}
    copies = [name for name, tensor in kyutai_mimi(mimi).state_dict().items() if tensor.data_ptr() not in own]
    assert copies and all(name.endswith("in_projs.0.weight") for name in copies)


def test_the_published_mimi_is_kyutais() -> None:
    """transformers' defaults are the published model's: every name and shape is, and every size of Kyutai's own."""
    with torch.device("meta"):
        mimi = MimiModel(MimiConfig())
    ours = mimi_config(mimi.config)
    assert {key: ours[key] for key in ("sample_rate", "frame_rate", "channels")} == {
        key: _mimi_config[key] for key in ("sample_rate", "frame_rate", "channels")
    }
    for part in ("seanet", "quantizer", "transformer"):
        assert {key: list(v) if isinstance(v, list | tuple) else v for key, v in ours[part].items()} == _mimi_config[
            part
        ]
    assert kyutai_mimi(mimi).state_dict().keys() == kyutai_weights(mimi).keys()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_conv_shortcut": True}, "use_conv_shortcut=True, but Kyutai's Mimi has False"),
        ({"pad_mode": "replicate"}, "pad_mode='replicate', but Kyutai's Mimi has 'constant'"),
        ({"num_key_value_heads": 4}, "num_key_value_heads=4, but Kyutai's Mimi has 8"),
        (
            {"vector_quantization_hidden_dimension": 8},
            "vector_quantization_hidden_dimension=8, but Kyutai's Mimi has 256",
        ),
    ],
)
def test_other_configurations_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mimi_config(MimiConfig(**changes))
