"""Sections `train`, `sft` and `dpo` of params.yaml."""

from typing import Literal

from pydantic import Field, field_validator

from stages.core.params import Section
from stages.training import mix


class Train(Section):
    """Section `train`: what both trainings share."""

    lora_rank: int = Field(ge=0)
    """0 trains all weights."""
    lora_alpha: int
    """LoRA's alpha."""
    lora_dropout: float
    """LoRA's dropout."""
    lora_layers: int = Field(ge=0)
    """Adapts the last so many blocks, 0 all."""
    dtype: Literal["bfloat16", "float32"]
    """Of the arithmetic."""
    max_length: int = Field(ge=2)
    """Longest row, in tokens."""
    too_long: Literal["drop", "cut_oldest"]
    """What becomes of longer rows (dataset.py)."""
    rows: Literal["shared", "separate"]
    """shared: tokens that several rows of a batch begin with are computed once."""
    attention: Literal["sdpa", "flex_attention"]
    """flex_attention skips, on a GPU, what a token does not see."""
    gradient_checkpointing: bool
    """Recompute activations, to save memory."""
    save_steps: int = Field(ge=1)
    """Steps between checkpoints."""
    resamples: int = Field(ge=1)
    """Of the bootstrap of held-out measures."""
    launch: str
    """The command that runs the training's module; accelerate's to train on several processes."""
    gguf: Literal["Q8_0", "F16", "BF16", "none"]
    """Quantisation of the served copy, as in base_model."""


class Optimisation(Section):
    """What sections `sft` and `dpo` have in common."""

    seed: int
    """Of the order of rows and of the adapter."""
    train_file: str
    """Training rows: the pipeline's, or rows of your own in TRL's conversational format."""
    val_file: str
    """Held-out rows."""
    epochs: float = Field(gt=0)
    """Passes over the rows."""
    learning_rate: float = Field(gt=0)
    """Greatest learning rate."""
    batch_size: int = Field(ge=1)
    """Rows computed together."""
    accumulation: int = Field(ge=1)
    """Such batches a step."""
    warmup_share: float
    """Share of the steps that warm up."""
    scheduler: str
    """Learning-rate schedule, by transformers' name."""


class Sft(Optimisation):
    """Section `sft`."""

    mix: dict[str, float]
    """Share of the training rows by name of a file in data/mix."""

    @field_validator("mix")
    @classmethod
    def _shares(cls, shares: dict[str, float]) -> dict[str, float]:
        if wrong := mix.faults(shares):
            raise ValueError("; ".join(wrong))
        return shares


class Dpo(Optimisation):
    """Section `dpo`."""

    beta: float = Field(gt=0)
    """Strength of the tie to the reference."""
    loss_type: str
    """By TRL's name."""
    label_smoothing: float
    """Of the losses that take it."""
    discopop_tau: float = Field(gt=0)
    """Of loss discopop."""
