"""Section `eval` of params.yaml."""

from pydantic import Field

from stages.core.params import Section


class Eval(Section):
    """Section `eval`."""

    seed: int
    """Of the bootstrap and the sign flips."""
    resamples: int = Field(ge=1)
    """Of the bootstrap, and of sign flips where they cannot all be tried."""
