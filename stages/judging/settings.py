"""Sections `judge` and `calibrate` of params.yaml."""

from pydantic import Field, field_validator

from stages.core.params import Section
from stages.llm.settings import Speaker


class Judge(Speaker):
    """Section `judge`: the judge's role and how scores are asked for."""

    seed: int
    """Of all draws."""
    resamples: int = Field(ge=0)
    """Draws after an unreadable score."""
    models: list[str]
    """Judges side by side, with the same sampling; []: `model` alone."""
    samples: int = Field(ge=1)
    """Scores drawn where the server gives no log-probabilities (one from a greedy judge: it says the same again)."""
    logprobs: bool
    """Whether log-probabilities are asked for; false for a server that refuses the question."""
    max_failed_share: float = Field(ge=0, le=1)
    """Share of a judge's calls that may fail, in stages judge and calibrate."""
    wrong_persona: bool
    """Also judge every reply by the persona of another case."""

    @field_validator("models")
    @classmethod
    def _different(cls, models: list[str]) -> list[str]:
        if len(set(models)) < len(models):
            raise ValueError(f"{', '.join(models)} names one twice")
        return models


class Calibrate(Section):
    """Section `calibrate`: bootstrap, and what a judge must reach to pass."""

    seed: int
    """Of the bootstrap."""
    resamples: int = Field(ge=1)
    """Of the bootstrap."""
    min_accuracy: float = Field(ge=0, le=1)
    """How often the tailored reply must be scored above another one; 0.5 is chance."""
    max_length_bias: float = Field(ge=0, le=1)
    """Greatest rank correlation of score and length, either way, among replies of one kind."""
    min_scored: float = Field(ge=0, le=1)
    """Least share of the replies that must get a score."""


class Bound(Section):
    """Of a role, which model it is bound to."""

    model: str
    """See `Speaker`."""


class Makers(Section):
    """Of section `roles`, which models make the training data."""

    inducer_model: str
    """See `Speaker`."""
    preferred_model: str
    """See `Speaker`."""
    rejected_model: str
    """See `Speaker`."""
    verifier_model: str
    """See `Speaker`."""
