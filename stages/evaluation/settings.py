"""Sections `eval`, `choose` and `external` of params.yaml."""

from typing import Annotated, Literal

from pydantic import Field

from stages.core.params import Section


class Eval(Section):
    """Section `eval`."""

    seed: int
    """Of the bootstrap and the sign flips."""
    resamples: int = Field(ge=1)
    """Of the bootstrap, and of sign flips where they cannot all be tried."""


class Choose(Section):
    """Section `choose`: the groups of crossed choice, and what is measured on them."""

    groups: str
    """File of the groups."""
    arms: list[str]
    """Arms that are measured; []: all."""
    most: int = Field(ge=2)
    """Groups used, alike by kind; more than the file has: all."""
    exchanges: bool
    """Whether the curve over the exchanges seen is measured, too: about five times the work."""
    samples: int = Field(ge=1)
    """Draws of each rotation from an API model whose server tells no log-probabilities."""
    seed: int
    """Of all draws and of the bootstrap."""
    resamples: int = Field(ge=1)
    """Of the bootstrap."""


class External(Section):
    """Section `external`: which benchmarks of others are run, and what of them."""

    folders: dict[Literal["prefeval", "personamem"], str] = {}
    """Folder of each benchmark; a stage for each. They are not part of the repository."""
    forms: list[Literal["choice-based", "persona-driven", "32k", "128k", "snippet"]] = [
        "choice-based", "persona-driven", "32k"
    ]  # fmt: skip
    """Forms of the conversation: two of PrefEval; of PersonaMem the history's length, or the related messages alone."""
    fillers: list[Annotated[int, Field(ge=0)]] = Field(default=[0], min_length=1)
    """Exchanges between conversation and question, in PrefEval."""
    limit: int | None = Field(default=None, ge=2)
    """Items drawn, each in all its forms; null: all."""
    samples: int = Field(default=1, ge=1)
    """Draws of each rotation from an API model whose server tells no log-probabilities."""
    seed: int = 1
    """Of all draws and of the bootstrap."""
    resamples: int = Field(default=2000, ge=1)
    """Of the bootstrap over clusters, and of sign flips where they cannot all be tried."""
