"""Sections `seed_personas` and `filter_personas` of params.yaml."""

from typing import Literal, Self

from pydantic import Field, model_validator

from stages.core.params import Section


class SeedPersonas(Section):
    """Section `seed_personas`: which texts may be seeds."""

    min_chars: int = Field(ge=1)
    """Shortest text, in characters."""
    max_chars: int
    """Longest text, in characters."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_chars > self.max_chars:
            raise ValueError(f"min_chars {self.min_chars} is above max_chars {self.max_chars}")
        return self


class Pool(Section):
    """How one pool (profiles or personalities) grows."""

    target: int = Field(ge=1)
    """Texts in the pool."""
    threshold: float = Field(gt=0, le=1)
    """Greatest cosine to a kept text."""
    min_items: int = Field(ge=1)
    """Least facts or traits in a text."""
    items: int
    """Most facts or traits in a text."""
    item_chars: int = Field(ge=1)
    """Longest fact or trait, in characters."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_items > self.items:
            raise ValueError(f"min_items {self.min_items} is above items {self.items}")
        return self


class FilterPersonas(Section):
    """Section `filter_personas`: self-generation, filter and split of the personas."""

    seed: int
    """Of all draws."""
    profiles: Pool
    """The pool of profiles."""
    personalities: Pool
    """The pool of personalities."""
    examples: int = Field(ge=1)
    """Texts of the pool shown in a call."""
    per_call: int = Field(ge=1)
    """Texts asked for in a call."""
    calls: int = Field(ge=1)
    """Calls in a round."""
    min_acceptance: float = Field(ge=0, le=1)
    """A pool is saturated when a round's acceptance stays below this ..."""
    patience: int = Field(ge=1)
    """... for so many rounds."""
    max_rounds: int
    """Most rounds."""
    max_failed_share: float = Field(ge=0, le=1)
    """Share of the generator's calls that may fail."""
    train: int = Field(ge=1)
    """Training personas."""
    eval_profiles: int = Field(ge=1)
    """Profiles of the eval personas, which are all pairs of these ..."""
    eval_personalities: int = Field(ge=1)
    """... and so many personalities; train has none of either."""
    split_threshold: float = Field(gt=0, le=1)
    """Greatest cosine between a text of train and one of eval."""
    language: Literal["en", "any"]
    """Language of the texts."""
    import_profiles: str
    """File of texts of your own, read as seeds are; an empty file for none."""
    import_personalities: str
    """The same for personalities."""
    drop_similar_imports: bool
    """Whether imported texts that are nearer than the threshold to an earlier one are dropped; else they are named alone."""
