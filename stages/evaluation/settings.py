"""Section `eval` of params.yaml."""

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
    most: int = Field(ge=2)
    """Groups used, alike by kind; more than the file has: all."""
    exchanges: bool
    """Whether the curve over the exchanges seen is measured, too: about eight times the work."""
    samples: int = Field(ge=1)
    """Draws of each rotation from an API model whose server tells no log-probabilities."""
    seed: int
    """Of all draws and of the bootstrap."""
    resamples: int = Field(ge=1)
    """Of the bootstrap."""
