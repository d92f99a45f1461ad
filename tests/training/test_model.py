"""Models in training: what is adapted, and folders that hold no model."""

import pytest
import tiny

from stages.core.cli import UserError
from stages.training import model

pytestmark = pytest.mark.slow


def adapter(**changes):
    """LoRA of a tiny model of two blocks by section `train`, with `changes`."""
    return model.adapter(tiny.params("sft", **{f"train__{k}": v for k, v in changes.items()}).train, tiny.model(WORDS))


WORDS = tiny.tokenizer()
LINEAR = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def test_adapters_are_on_the_linear_layers_of_the_last_blocks():
    lora = adapter(lora_layers=1, lora_r=3, lora_alpha=5, lora_dropout=0.5)
    assert lora.target_modules == LINEAR and lora.layers_to_transform == [1]
    assert (lora.r, lora.lora_alpha, lora.lora_dropout, lora.task_type) == (3, 5, 0.5, "CAUSAL_LM")
    assert adapter(lora_layers=0).layers_to_transform is None
    assert adapter(lora_r=0) is None


def test_other_settings_of_lora_may_be_added():
    lora = adapter(lora_target_modules=["q_proj", "v_proj"], use_rslora=True)
    assert lora.target_modules == {"q_proj", "v_proj"} and lora.use_rslora


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(UserError, match="cannot be loaded as a model"):
        model.load(tmp_path, tiny.params("sft").train)
