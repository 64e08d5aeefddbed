"""transformers' own tests of models, run on ours by scripts/run_conformance.py, which puts this file among them."""

import unittest
from typing import Any

import torch
from transformers.testing_utils import torch_device

from hf_moshi_ttt import MoshiTTTConfig, MoshiTTTForConditionalGeneration

from ...test_modeling_common import ModelTesterMixin


class MoshiTTTModelTester:
    """A tiny model and its inputs, by the names that the tests ask for."""

    def __init__(self) -> None:
        self.batch_size, self.seq_length, self.is_training = 3, 7, True
        self.hidden_size, self.num_hidden_layers = 32, 2

    def get_config(self, **changes: Any) -> MoshiTTTConfig:
        return MoshiTTTConfig.from_preset("tiny", num_hidden_layers=self.num_hidden_layers, **changes)

    def prepare_config_and_inputs_for_common(self) -> tuple[MoshiTTTConfig, dict[str, torch.Tensor]]:
        config = self.get_config()
        codes = torch.randint(32, (self.batch_size, config.num_streams, self.seq_length), device=torch_device)
        return config, {"codes": codes}

    def prepare_config_and_inputs_for_model_class(self, model_class: type) -> tuple[MoshiTTTConfig, dict]:
        """For the test that compares batches, in which no logits may be NaN: a delay leaves the last frames without."""
        _, inputs = self.prepare_config_and_inputs_for_common()
        return self.get_config(delays=[0] * 17), inputs


class MoshiTTTModelTest(ModelTesterMixin, unittest.TestCase):
    all_model_classes = (MoshiTTTForConditionalGeneration,)
    has_attentions = False
    test_resize_embeddings = False
    test_missing_keys = False
    test_can_init_all_missing_weights_before_2023 = True

    def setUp(self) -> None:
        self.model_tester = MoshiTTTModelTester()

    def _prepare_for_class(self, inputs_dict: dict, model_class: type, return_labels: bool = False) -> dict:
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels)
        return {**inputs, "labels": inputs["codes"].clone()} if return_labels else inputs

    def test_model_weights_reload_no_missing_tied_weights(self) -> None:
        self.skipTest("TTT-Moshi refuses a checkpoint without its weights")

    def test_generation_tester_mixin_inheritance(self) -> None:
        self.skipTest("TTT-Moshi generates frames of 17 codes with a method of its own")
