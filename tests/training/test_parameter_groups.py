"""Every trainable parameter is in one group, at its own rate, with weight decay where it belongs."""

from collections.abc import Callable
from typing import Any

import pytest

from hf_moshi_ttt.checkpoints.adapters import make_trainable
from hf_moshi_ttt.modeling_moshi_ttt import MoshiTTTForConditionalGeneration
from hf_moshi_ttt.training.arguments import MoshiTTTTrainingArguments
from hf_moshi_ttt.training.parameter_groups import parameter_groups

MakeModel = Callable[..., MoshiTTTForConditionalGeneration]
ARGS = MoshiTTTTrainingArguments(output_dir="unused", learning_rate=1e-3, weight_decay=0.1, use_cpu=True)


def named_groups(model: Any) -> dict[str, set[str]]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {group["name"]: {names[id(p)] for p in group["params"]} for group in parameter_groups(model, ARGS)}


@pytest.mark.parametrize("trainable", ["lora", "ttt", "lora+ttt", "full"])
@pytest.mark.parametrize("learner", ["ttt", "gated_delta", "in_place"])
def test_groups_hold_every_trainable_parameter_once(make_model: MakeModel, trainable: str, learner: str) -> None:
    model = make_trainable(make_model(ttt={"learner": learner}), trainable)
    grouped = [id(p) for group in parameter_groups(model, ARGS) for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters() if p.requires_grad)


def test_rates_are_multiples_of_the_learning_rate(make_model: MakeModel) -> None:
    groups = {group["name"]: group for group in parameter_groups(make_model(), ARGS)}
    assert {name: (round(group["lr"], 9), group["weight_decay"]) for name, group in groups.items()} == {
        "base": (1e-3, 0.1), "base_no_decay": (1e-3, 0), "ttt": (1e-2, 0.1), "ttt_no_decay": (1e-2, 0),
        "gate_no_decay": (0.1, 0),
    }  # fmt: skip


@pytest.mark.parametrize("trainable", ["full", "lora+ttt"])
def test_norms_gates_and_rates_do_not_decay(make_model: MakeModel, trainable: str) -> None:
    groups = named_groups(make_trainable(make_model(), trainable))
    ends = {name.replace(".modules_to_save.default", "").split(".layers.1.")[-1] for name in groups["ttt"]}
    assert ends == {
        *(f"ttt.{name}_proj.weight" for name in "qkvo"), "ttt.learner.slow_weights.0",
    }  # fmt: skip
    undecayed = " ".join(groups["ttt_no_decay"])
    for part in (
        "rate_proj.weight",
        "log_decay_scale",
        "write_bias",
        "answer_scale",
        "answer_gate.scale",
        "mean_scale",
        "slow_biases.0",
        "convolutions.1",
        "ttt_norm",
    ):
        assert part in undecayed.replace(".modules_to_save.default", ""), part
    assert all("ttt_gate" in name for name in groups["gate_no_decay"])
    assert not any("norm" in name for name in groups["base"])


def test_nothing_to_train_is_refused(make_model: MakeModel) -> None:
    with pytest.raises(ValueError, match="No parameter is trainable: choose another preset than trainable='frozen'"):
        parameter_groups(make_trainable(make_model(), "frozen"), ARGS)
