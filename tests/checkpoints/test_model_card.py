"""The card says what is known, and says so where nothing is; its block is run by test_saving.py."""

from pathlib import Path

import yaml
from huggingface_hub import ModelCard

from hf_moshi_ttt.checkpoints.model_card import ModelCardFacts, model_card, usage
from hf_moshi_ttt.configuration_moshi_ttt import MoshiTTTConfig

CONFIG = MoshiTTTConfig.from_preset("tiny", ttt={"base_lr": 0.25})
LOG = [
    {"step": 1, "loss": 9.0, "audio_loss": 8.0, "text_loss": 0.0},
    {"step": 5, "loss": 3.0, "audio_loss": 2.5},
    {"step": 5, "train_runtime": 3.0},
]
RESULTS = {
    "librilight_loss_8k": 4.5,
    "librilight_loss_8k_interval": [4.4, 4.6],
    "librilight_loss_8k_recordings": 7,
    "librilight_slope": -0.0123,
    "librilight_slope_interval": [-0.02, -0.001],
    "librilight_slope_recordings": 7,
    "librilight_loss_16k": 4.25,
    "librilight_loss_16k_recordings": 1,
    "librilight_samples": 7,
    "curve": [{"value": 1.0}],
}


def card(**facts: object) -> ModelCard:
    return model_card(CONFIG, "user/my-moshi", ModelCardFacts(**facts))  # type: ignore[arg-type]


def test_a_full_card(tmp_path: Path) -> None:
    text = card(
        base_model="kyutai/moshiko-pytorch-bf16", data="10 hours of audiobooks", datasets=["user/books"],
        log_history=LOG, results=RESULTS, plot=tmp_path / "x.png", tags=["mine"],
    ).content  # fmt: skip
    metadata = yaml.safe_load(text.split("---\n")[1])
    (index,) = metadata.pop("model-index")
    assert index["name"] == "my-moshi" and index["results"][0]["dataset"]["type"] == "user/books"
    listed = {one["type"]: one["value"] for one in index["results"][0]["metrics"]}
    assert listed == {key: RESULTS[key] for key in ("librilight_loss_8k", "librilight_slope", "librilight_loss_16k")}
    assert metadata == {
        "base_model": "kyutai/moshiko-pytorch-bf16", "datasets": ["user/books"], "library_name": "transformers",
        "license": "cc-by-4.0", "pipeline_tag": "audio-to-audio",
        "tags": ["moshi", "speech", "full-duplex", "test-time-training", "mine"],
    }  # fmt: skip
    for line in (
        "# my-moshi",
        "It starts from `kyutai/moshiko-pytorch-bf16`. It was trained on 10 hours of audiobooks.",
        "| TTT layers | [1] of 4 |",
        "| ttt.base_lr | 0.25 |",
        "| ttt.mini_batch_size | 4 |",
        "| attention window | 16 frames |",
        "| audio_loss | 8.0000 at step 1, 2.5000 at step 5 |",
        "| loss at 8k frames | 4.5000 [4.4000, 4.6000], n=7 |",
        "| slope | -0.0123 [-0.0200, -0.0010], n=7 |",
        "| loss at 16k frames | 4.2500, n=1 |",
        "![Loss by position](loss_by_position.png)",
    ):
        assert line in text.splitlines() or line in text, line
    assert usage(CONFIG, "user/my-moshi") in text
    assert "text_loss" not in text  # 0 throughout: there was no text


def test_what_is_not_known_is_not_made_up() -> None:
    text = card().content
    assert "Its base is not recorded. Its training data is not recorded." in text
    assert text.count("\nNot recorded.") == 2 and "![" not in text
    assert "license" not in yaml.safe_load(text.split("---\n")[1])


def test_a_base_on_this_machine_is_no_base_of_the_hub(tmp_path: Path) -> None:
    metadata = yaml.safe_load(card(base_model=str(tmp_path), license="mit").content.split("---\n")[1])
    assert "base_model" not in metadata and metadata["license"] == "mit"
    here = model_card(MoshiTTTConfig.from_preset("tiny", codec=str(tmp_path)), "user/x", ModelCardFacts()).content
    assert f"codes of `{tmp_path}` (a folder that is not on the Hub)." in here
    plain = model_card(MoshiTTTConfig.from_preset("tiny", ttt=None), "user/x", ModelCardFacts())
    assert "test-time-training" not in plain.content
