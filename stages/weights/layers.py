"""The linear layers of a model's transformer blocks, which adapters are put on."""

from typing import Any

from stages.core.cli import UserError, one_line


def targets(model: Any) -> tuple[list[str], list[str], int]:
    """What LoRA adapts in a causal language model, as PEFT's configuration wants it.

    Returns:
        last parts of the names of the text blocks' linear layers; full names of layers elsewhere (in a vision tower) that
        have such names too; the number of text blocks.
    """
    import torch
    from transformers.pytorch_utils import Conv1D

    text = model.get_decoder()
    linear = {name: m for name, m in model.named_modules() if isinstance(m, torch.nn.Linear | Conv1D)}
    own = {id(m) for m in text.modules()}
    names = {name.rpartition(".")[2] for name, m in linear.items() if id(m) in own} - {"lm_head"}
    others = [name for name, m in linear.items() if id(m) not in own and name.rpartition(".")[2] in names]
    return sorted(names), others, model.config.get_text_config().num_hidden_layers


def check_adapter(model: Any, source: str) -> None:
    """Put an adapter on the last block of `model`, which is changed. Raises UserError where that cannot be."""
    from peft import LoraConfig, get_peft_model

    try:
        names, others, blocks = targets(model)
        last = [blocks - 1]
        get_peft_model(model, LoraConfig(r=1, target_modules=names, exclude_modules=others, layers_to_transform=last))
    except (ValueError, AttributeError) as e:
        raise UserError(
            f"base_model.source: no LoRA adapter can be put on {source}: {one_line(e)}; take another model"
        ) from None
