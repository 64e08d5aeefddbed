"""The configuration's defaults are Kyutai's 7B, sections change key by key, and whatever is not allowed is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from hf_moshi_ttt.configuration_moshi_ttt import MoshiTTTConfig, MoshiTTTDepthConfig, TTTConfig
from hf_moshi_ttt.modeling_moshi_ttt import MoshiTTTForConditionalGeneration

KYUTAI_7B = {
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "ffn_dim": 22528,
    "sliding_window": 3000,
    "rope_theta": 10000.0,
    "rms_norm_eps": 1e-8,
    "num_codebooks": 8,
    "codebook_size": 2048,
    "text_vocab_size": 32000,
    "delays": [0, 0, 1, 1, 1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1, 1, 1],
    "pad_token_id": 3,
    "end_pad_token_id": 0,
    "codec": "kyutai/mimi",
}
KYUTAI_DEPTH = {"hidden_size": 1024, "num_hidden_layers": 6, "num_attention_heads": 16, "ffn_dim": 5632}


def tiny(**changes: Any) -> MoshiTTTConfig:
    return MoshiTTTConfig.from_preset("tiny", **changes)


@pytest.mark.parametrize("config", [MoshiTTTConfig(), MoshiTTTConfig.from_preset("moshi-7b")], ids=["defaults", "7b"])
def test_the_defaults_are_kyutais_7b(config: MoshiTTTConfig) -> None:
    values = config.to_dict()
    assert {key: values[key] for key in KYUTAI_7B} == KYUTAI_7B
    assert {key: values["depth_decoder_config"][key] for key in KYUTAI_DEPTH} == KYUTAI_DEPTH
    assert (config.num_streams, config.max_delay_frames) == (17, 1)
    assert (config.text_stream, config.user_stream) == ("zero", "duplicate")
    assert isinstance(config.depth_decoder_config, MoshiTTTDepthConfig)


def test_ttt_is_absent_by_default_and_there_in_every_preset() -> None:
    assert MoshiTTTConfig().ttt is None
    assert MoshiTTTConfig().ttt_layer_indices == []
    layers = {preset: MoshiTTTConfig.from_preset(preset).ttt_layer_indices for preset in ("tiny", "small", "moshi-7b")}
    assert layers == {"tiny": [1], "small": [1], "moshi-7b": [12, 13, 14, 15, 16, 17, 18, 19]}


def test_an_empty_ttt_section_is_the_usual_ttt_mlp() -> None:
    ttt = MoshiTTTConfig(ttt={}).ttt
    assert (ttt.layers, ttt.preset, ttt.ttt_mlp_layers, ttt.ttt_mlp_expansion_factor) == ("middle", "default", 2, 4)
    assert (ttt.mini_batch_size, ttt.base_lr, ttt.step, ttt.forget) == (16, 1.0, "online", "learned")
    assert (ttt.learner, ttt.update) == ("ttt", "last")
    assert (ttt.initial_gating_alpha, ttt.initial_retention) == (1.0, 0.998)
    assert (ttt.output_bias, ttt.persistent_states) == (True, False)


@pytest.mark.parametrize(("depth", "base_lr"), [(1, 1.0), (2, 0.1), (5, 0.1)])
def test_the_papers_preset_has_the_papers_rates_and_does_not_forget(depth: int, base_lr: float) -> None:
    paper = TTTConfig(preset="paper", ttt_mlp_layers=depth)
    assert (paper.base_lr, paper.forget) == (base_lr, "none")
    changed = TTTConfig(preset="paper", base_lr=0.5, forget="learned")
    assert (changed.base_lr, changed.forget) == (0.5, "learned")
    assert TTTConfig.from_dict(paper.to_dict()).to_dict() == paper.to_dict()


def test_a_state_depends_on_what_the_function_depends_on() -> None:
    config = MoshiTTTConfig.from_preset("tiny")
    values = config.state_values()
    assert values["ttt.mini_batch_size"] == 4 and values["ttt.base_lr"] == 1.0 and values["sliding_window"] == 16
    assert not {"codec", "text_loss_weight", "ttt.initial_gating_alpha", "ttt.persistent_states"} & set(values)
    assert "ttt.layers" in values and "layers" not in config.ttt.state_values()  # a layer alone does not know its index
    assert set(values) < set(config.own_values())


def test_an_unknown_preset_is_refused() -> None:
    with pytest.raises(ValueError, match="preset='large', but the presets are tiny, small, moshi-7b"):
        MoshiTTTConfig.from_preset("large")


def test_changes_of_a_section_leave_its_other_keys() -> None:
    config = tiny(ttt={"layers": "all"}, depth_decoder_config={"num_hidden_layers": 1}, sliding_window=8)
    assert (config.ttt.layers, config.ttt.mini_batch_size, config.ttt.ttt_mlp_expansion_factor) == ("all", 4, 2)
    assert (config.depth_decoder_config.num_hidden_layers, config.depth_decoder_config.hidden_size) == (1, 16)
    assert config.sliding_window == 8
    assert (tiny().ttt.layers, tiny().depth_decoder_config.num_hidden_layers) == ("middle", 2)


def test_ttt_none_is_plain_moshi() -> None:
    assert tiny(ttt=None).ttt is None
    assert tiny(ttt=None).ttt_layer_indices == []


@pytest.mark.parametrize(
    ("layers", "count", "indices"),
    [
        ("middle", 1, [0]), ("middle", 4, [1]), ("middle", 8, [3, 4]), ("middle", 12, [4, 5, 6]),
        ("all", 1, [0]), ("all", 4, [0, 1, 2, 3]), ([0], 4, [0]), ([1, 3], 4, [1, 3]),
    ],
)  # fmt: skip
def test_layers(layers: str | list[int], count: int, indices: list[int]) -> None:
    assert tiny(ttt={"layers": layers}, num_hidden_layers=count).ttt_layer_indices == indices
    assert TTTConfig(layers=layers).layer_indices(count) == indices


def test_delays_follow_the_number_of_codebooks() -> None:
    config = tiny(num_codebooks=2)
    assert (config.delays, config.num_streams) == ([0, 0, 1, 0, 1], 5)
    assert tiny(num_codebooks=1, delays=[0, 2, 3]).max_delay_frames == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"hiden_size": 32},
            r"MoshiTTTConfig does not know \['hiden_size'\]\. Known keys: codebook_size, codec, codec_sha256, delays",
        ),
        ({"mini_batch_size": 4}, r"MoshiTTTConfig does not know \['mini_batch_size'\]"),
        (
            {"ttt": {"layer": "all"}},
            r"TTTConfig does not know \['layer'\]\. Known keys: answer_gate, base_lr, .*layers",
        ),
        (
            {"depth_decoder_config": {"heads": 2}},
            r"MoshiTTTDepthConfig does not know \['heads'\]\. Known keys: ffn_dim",
        ),
    ],
)
def test_unknown_keys_are_refused_with_the_known_ones(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": "32"}, "Field 'hidden_size' expected int, got str"),
        ({"hidden_size": True}, "Field 'hidden_size' expected int, got bool"),
        ({"sliding_window": 8.5}, "Field 'sliding_window' expected int, got float"),
        ({"codec": 5}, "Field 'codec' expected str, got int"),
        ({"delays": "none"}, "Field 'delays' expected a list, got str"),
        ({"text_stream": "silence"}, r"Field 'text_stream' expected one of \('zero', 'pad', 'none'\), got silence"),
        ({"user_stream": "zero"}, r"Field 'user_stream' expected one of \('duplicate', 'silence', 'none'\), got zero"),
        ({"ttt": "middle"}, "Field 'ttt' expected dict, got str"),
        (
            {"ttt": {"preset": "video"}},
            r"Field 'preset' expected one of \('default', 'mini_batch', 'paper'\), got video",
        ),
        ({"ttt": {"step": "sum"}}, r"Field 'step' expected one of \('mean', 'constant', 'online'\), got sum"),
        ({"ttt": {"forget": "all"}}, r"Field 'forget' expected one of \('none', 'learned'\), got all"),
        ({"ttt": {"mini_batch_size": 4.0}}, "Field 'mini_batch_size' expected int, got float"),
        ({"ttt": {"persistent_states": 1}}, "Field 'persistent_states' expected bool, got int"),
        ({"ttt": {"layers": ["a"]}}, "Invalid item at index 0 in list 'layers'"),
        ({"ttt": {"layers": 3}}, "Field 'layers' expected str, got int"),
    ],
)
def test_wrong_types_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(Exception, match=message):  # transformers' own error, no ValueError
        tiny(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 33}, "hidden_size=33, but hidden_size must be a multiple of num_attention_heads=2"),
        ({"num_attention_heads": 32}, "num_attention_heads must be such that the head width 1 is even"),
        ({"num_hidden_layers": 0}, "num_hidden_layers=0, but num_hidden_layers must be at least 1"),
        ({"ffn_dim": 7}, r"ffn_dim=7, but ffn_dim must be even \(it holds the gate and the value\)"),
        ({"depth_decoder_config": {"ffn_dim": 7}}, "MoshiTTTDepthConfig: ffn_dim=7, but ffn_dim must be even"),
        ({"depth_decoder_config": {"hidden_size": 15}}, "MoshiTTTDepthConfig: hidden_size=15, but .* a multiple of"),
        ({"sliding_window": 0}, "sliding_window=0, but sliding_window must be at least 1"),
        ({"num_codebooks": 0}, "num_codebooks=0, but num_codebooks must be at least 1"),
        ({"codebook_size": 0}, "codebook_size=0, but codebook_size must be at least 1"),
        ({"text_vocab_size": 3}, r"text_vocab_size=3, but .* at least 4 \(EPAD, bos, eos, PAD\)"),
        ({"pad_token_id": 64}, r"pad_token_id=64, but pad_token_id must be in 0\.\.63"),
        ({"end_pad_token_id": -1}, r"end_pad_token_id=-1, but end_pad_token_id must be in 0\.\.63"),
        ({"rope_theta": 0}, "rope_theta=0, but rope_theta must be above 0"),
        ({"rms_norm_eps": -1e-8}, "rms_norm_eps=-1e-08, but rms_norm_eps must be above 0"),
        ({"text_loss_weight": -1}, "text_loss_weight=-1, but text_loss_weight must be 0 or more"),
        ({"text_padding_weight": float("nan")}, "text_padding_weight=nan, but text_padding_weight must be 0 or more"),
        ({"first_codebook_weight_multiplier": -0.5}, "first_codebook_weight_multiplier must be 0 or more"),
        ({"delays": [0, 1]}, r"delays=\[0, 1\], but delays must be a list of 17 frames, one a stream"),
        ({"delays": [1] * 17}, "delays must be 0 or more, and 0 for text"),
        ({"delays": [0] + [-1] * 16}, "delays must be 0 or more, and 0 for text"),
        ({"ttt": {"ttt_mlp_layers": 0}}, "TTTConfig: ttt_mlp_layers=0, but ttt_mlp_layers must be at least 1"),
        ({"ttt": {"ttt_mlp_expansion_factor": 0}}, "ttt_mlp_expansion_factor must be at least 1"),
        ({"ttt": {"mini_batch_size": 0}}, "mini_batch_size=0, but mini_batch_size must be at least 1 frame"),
        ({"ttt": {"base_lr": 0}}, r"base_lr=0, but .* be above 0 \(for no inner steps use learner='static'\)"),
        ({"ttt": {"initial_retention": 1}}, "initial_retention=1, but .* between 0 and 1, both excluded"),
        ({"ttt": {"initial_retention": 0.0}}, "initial_retention=0.0, but .* between 0 and 1, both excluded"),
        ({"ttt": {"layers": "odd"}}, "layers='odd', but layers must be \"middle\", \"all\" or a list of layer indices"),
        ({"ttt": {"layers": []}}, r"layers=\[\], but layers must be a non-empty list of increasing indices"),
        ({"ttt": {"layers": [2, 1]}}, r"layers=\[2, 1\], but layers must be a non-empty list of increasing indices"),
        ({"ttt": {"layers": [1, 1]}}, r"layers=\[1, 1\], but layers must be a non-empty list of increasing indices"),
        ({"ttt": {"layers": [0, 4]}}, r"layers=\[0, 4\], but layers must be made of indices from 0 to 3"),
        ({"ttt": {"layers": [-1]}}, r"layers=\[-1\], but layers must be made of indices from 0 to 3"),
    ],
)  # fmt: skip
def test_values_out_of_bounds_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny(**changes)


@pytest.mark.parametrize("ttt", [None, {"layers": [1, 3], "base_lr": 0.5, "step": "constant"}], ids=str)
def test_saved_and_loaded_configurations_are_equal(tmp_path: Path, ttt: dict[str, Any] | None) -> None:
    config = tiny(ttt=ttt, codec="runs/codec", user_stream="none", text_padding_weight=0.25)
    config.save_pretrained(tmp_path)
    stored = (tmp_path / "config.json").read_text()
    assert (json.loads(stored)["model_type"], json.loads(stored)["ttt"] is None) == ("moshi_ttt", ttt is None)
    for loaded in (MoshiTTTConfig.from_pretrained(tmp_path), AutoConfig.from_pretrained(tmp_path)):
        assert type(loaded) is MoshiTTTConfig
        assert (loaded.codec, loaded.user_stream, loaded.text_padding_weight) == ("runs/codec", "none", 0.25)
        assert loaded.ttt_layer_indices == ([] if ttt is None else [1, 3])
        loaded.save_pretrained(tmp_path / "again")
        assert (tmp_path / "again" / "config.json").read_text() == stored


def test_changes_on_loading_leave_the_other_keys_of_a_section(tmp_path: Path) -> None:
    tiny(ttt={"layers": [1, 3]}).save_pretrained(tmp_path)
    loaded = MoshiTTTConfig.from_pretrained(tmp_path, ttt={"base_lr": 0.5}, sliding_window=5)
    assert (loaded.ttt.base_lr, loaded.ttt.layers, loaded.ttt.mini_batch_size) == (0.5, [1, 3], 4)
    assert loaded.sliding_window == 5
    assert MoshiTTTConfig.from_pretrained(tmp_path, ttt=None).ttt_layer_indices == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 33}, "hidden_size=33, but hidden_size must be a multiple of num_attention_heads=2"),
        ({"hidden_size": "big"}, "Field 'hidden_size' expected int, got str"),
        ({"ttt": {"layer": "all"}}, r"TTTConfig does not know \['layer'\]"),
        ({"ttt": {"layers": [9]}}, r"layers=\[9\], but layers must be made of indices from 0 to 3"),
        ({"num_codebooks": 4}, "delays must be a list of 9 frames, one a stream"),
    ],
)
def test_bad_changes_on_loading_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    MoshiTTTForConditionalGeneration(tiny()).save_pretrained(tmp_path)
    for kind in (MoshiTTTConfig, MoshiTTTForConditionalGeneration):
        with pytest.raises(Exception, match=message):
            kind.from_pretrained(tmp_path, **changes)


def test_tied_embeddings_are_refused() -> None:
    assert tiny(tie_word_embeddings=False).to_dict() == tiny().to_dict()
    with pytest.raises(ValueError, match="tie_word_embeddings=True, but Moshi's embeddings and heads are not tied"):
        tiny(tie_word_embeddings=True)


def test_unknown_keys_of_a_file_are_refused(tmp_path: Path) -> None:
    tiny().save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**stored, "ttt_layers": [1]}))
    with pytest.raises(ValueError, match=r"MoshiTTTConfig does not know \['ttt_layers'\]"):
        MoshiTTTConfig.from_pretrained(tmp_path)


def test_former_keys_load_from_files_and_are_refused_elsewhere(tmp_path: Path) -> None:
    tiny(ttt={"initial_retention": 0.9}).save_pretrained(tmp_path)
    stored = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(stored.replace("initial_retention", "initial_keep_factor"))
    assert MoshiTTTConfig.from_pretrained(tmp_path).ttt.initial_retention == 0.9
    assert MoshiTTTConfig.from_pretrained(tmp_path, ttt={"initial_retention": 0.8}).ttt.initial_retention == 0.8
    with pytest.raises(ValueError, match="TTTConfig: initial_keep_factor is now called initial_retention"):
        tiny(ttt={"initial_keep_factor": 0.9})
