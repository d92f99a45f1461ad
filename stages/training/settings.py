"""Sections `train`, `sft` and `dpo` of params.yaml.

What TRL knows has TRL's name here (SFTConfig, DPOConfig, ModelConfig) and need not be listed: every other key of a section
goes to TRL as it stands, provided that the installed TRL has it. Ours are the names that TRL has not.
"""

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from stages.core.params import Section, near

# TRL's settings that the stages decide themselves, as they make the tokens, their order, the masks and the evaluation
_OWN = """
output_dir resume_from_checkpoint save_strategy disable_tqdm logging_nan_inf_filter local_rank data_seed bf16
max_length truncation_mode packing packing_strategy padding_free pad_to_multiple_of eos_token pad_token chat_template_path
dataset_text_field dataset_kwargs dataset_num_proc shuffle_dataset train_sampling_strategy length_column_name
auto_find_batch_size completion_only_loss assistant_only_loss model_init_kwargs trust_remote_code
precompute_ref_log_probs precompute_ref_batch_size per_device_eval_batch_size do_train do_eval do_predict
eval_packing eval_strategy eval_steps eval_delay eval_on_start eval_accumulation_steps
load_best_model_at_end metric_for_best_model greater_is_better
"""
OWN = frozenset(_OWN.split())
# losses of DPO that read these settings; the others pass them over without a word
READ_BY = {"label_smoothing": {"robust", "exo_pair", "aot", "aot_unpaired"}, "discopop_tau": {"discopop"}}
BY_BATCH = {"aot", "aot_unpaired"}  # they sort within a batch; in a batch of one both are the plain sigmoid


class TrlSection(Section):
    """A section whose further keys are TRL's."""

    model_config = ConfigDict(extra="allow")

    @model_validator(mode="after")
    def _no_fault(self) -> Self:
        if details := [
            InitErrorDetails(type=PydanticCustomError("value_error", text), loc=(key,), input=None)
            for key, text in self.faults()
        ]:
            raise ValidationError.from_exception_data(type(self).__name__, details)
        return self

    def faults(self) -> Iterator[tuple[str, str]]:
        """(key, what is wrong with it)."""
        if extra := self.model_extra:
            known = trl_names(type(self).__name__) - OWN
            listed = sorted({*known, *type(self).model_fields})
            for key in (key for key in extra if key not in known):
                yield key, "the stage sees to it itself" if key in OWN else f"unknown{near(key, listed)}"


def trl_names(section: str) -> set[str]:
    """Names of TRL's settings that section Sft, Dpo or Train may hold."""
    from trl import DPOConfig, ModelConfig, SFTConfig

    sft, dpo, model = ({field.name for field in fields(kind)} for kind in (SFTConfig, DPOConfig, ModelConfig))
    lora = {name for name in model if name.startswith("lora_")} | {"use_rslora", "use_dora"}
    return {"Sft": sft, "Dpo": dpo, "Train": (sft & dpo) - set(Optimisation.model_fields) | lora}[section]


class Train(TrlSection):
    """Section `train`: what both trainings share."""

    lora_r: int = Field(ge=0)
    """LoRA's rank; 0 trains all weights."""
    lora_alpha: int
    """LoRA's alpha."""
    lora_dropout: float = Field(ge=0, lt=1)
    """LoRA's dropout."""
    lora_layers: int = Field(ge=0)
    """Ours: adapters are on the last so many blocks, on all for 0."""
    dtype: Literal["bfloat16", "float32"]
    """Of the arithmetic. bfloat16 is autocast: weights that are trained stay float32."""
    max_length: int = Field(ge=2)
    """Longest row, in tokens."""
    too_long: Literal["drop", "cut_oldest"]
    """Ours: what becomes of longer rows (dataset.py)."""
    rows: Literal["shared", "separate"]
    """Ours. shared: tokens that several rows of a batch begin with are computed once (shared_prefix.py)."""
    attn_implementation: Literal["sdpa", "flex_attention"]
    """flex_attention skips, on a GPU, what a token does not see."""
    gradient_checkpointing: bool
    """Recompute activations, to save memory."""
    save_steps: int = Field(ge=1)
    """Steps between checkpoints."""
    resamples: int = Field(ge=1)
    """Ours: of the bootstrap of held-out measures."""
    launch: str
    """Ours: the command that runs the training's module; accelerate's to train on several processes."""
    gguf: Literal["Q8_0", "F16", "BF16", "none"]
    """Ours: quantisation of the served copy, as in base_model."""


class Optimisation(TrlSection):
    """What sections `sft` and `dpo` have in common."""

    seed: int
    """Of the order of rows and of the adapter."""
    train_file: str
    """Ours: training rows, the pipeline's or rows of your own in TRL's conversational format."""
    val_file: str
    """Ours: held-out rows."""
    num_train_epochs: float = Field(gt=0)
    """Passes over the rows."""
    learning_rate: float = Field(gt=0)
    """Greatest learning rate."""
    per_device_train_batch_size: int = Field(ge=1)
    """Rows computed together."""
    gradient_accumulation_steps: int = Field(ge=1)
    """Such batches a step, of all processes together: with N processes each computes an N-th of them."""
    warmup_steps: float = Field(ge=0)
    """Steps that warm up, or below 1 their share of all steps."""
    lr_scheduler_type: str
    """Learning-rate schedule."""


class Sft(Optimisation):
    """Section `sft`."""

    mix: dict[str, float]
    """Ours: share of the training rows by name of a file in data/mix."""

    @field_validator("mix")
    @classmethod
    def _shares(cls, shares: dict[str, float]) -> dict[str, float]:
        total = sum(shares.values())
        wrong = [
            *(f"{name}: must be the plain name of a file, without a folder" for name in shares if Path(name).name != name),
            *(f"{name}: {share} is outside [0, 1)" for name, share in shares.items() if not 0 <= share < 1),
            *([f"the shares sum to {total:g}, which leaves no room for the pipeline's own rows"] if total >= 1 else []),
        ]
        if wrong:
            raise ValueError("; ".join(wrong))
        return shares


class Dpo(Optimisation):
    """Section `dpo`."""

    start: str = Field(pattern=r"^[\w.-]+$")
    """Ours: the model that is trained, a folder under models/; it is the reference, too."""
    beta: float = Field(gt=0)
    """Strength of the tie to the reference."""
    loss_type: list[str] = Field(min_length=1)
    """A loss of TRL's, or several, which are summed with `loss_weights`."""
    label_smoothing: float = Field(ge=0, lt=0.5)
    """Of losses robust (share of labels believed to be flipped, arXiv 2403.00409), exo_pair (2402.00856) and aot."""

    @field_validator("loss_type", mode="before")
    @classmethod
    def _one_is_a_list_too(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    def faults(self) -> Iterator[tuple[str, str]]:
        """(key, what is wrong with it), of settings that TRL would pass over too."""
        yield from super().faults()
        losses, names = set(self.loss_type), " and ".join(self.loss_type)
        for key, readers in READ_BY.items():
            if getattr(self, key, None) and not readers & losses:
                yield key, f"{names} does not read it, only {', '.join(sorted(readers))}"
        if self.per_device_train_batch_size < 2 and losses & BY_BATCH:
            text = f"{min(losses & BY_BATCH)} compares the pairs of a batch, so it must be at least 2"
            yield "per_device_train_batch_size", text
        if losses == {"sft"}:
            yield "loss_type", "sft alone never reads the rejected reply; that is the stage sft"
