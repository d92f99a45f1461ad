"""Sections `roleplay`, `converse` and `arms` of params.yaml."""

from typing import Literal

from pydantic import Field, field_validator

from stages.core.params import Section
from stages.llm.settings import Sampling, Talker

PARTS = {"reply": (), "critique": ("critique", "revise"), "reason": ("last",)}  # strategy: parts its prompt must have


class Roleplay(Section):
    """Section `roleplay`."""

    seed: int
    """Of all draws."""
    turns: int = Field(ge=1)
    """Of each conversation."""
    replies: list[Literal["informed", "uninformed", "misinformed"]]
    """Which replies each turn gets: with the note on this user, without a note, with the note on somebody else."""
    verify: bool
    """Whether the verifier is asked about each pair."""
    mentions: bool
    """Whether an inducer that quotes is also asked which items each reply brings up, for the filters."""
    continue_with: Literal["random", "preferred"]
    """Which reply carries on: drawn, or the preferred one."""
    branching: Literal[1, 2]
    """2 follows both replies down to turn `branching_depth`."""
    branching_depth: int = Field(ge=0)
    """Last turn at which both replies are followed."""
    note_evidence: float = Field(ge=0, le=1)
    """Least share of an item's content words that the user's turns and the inducer's line must both hold."""
    resamples: int = Field(ge=0)
    """Draws after an unusable reply."""
    max_failed_share: float = Field(ge=0, le=1)
    """Share of a role's calls that may fail."""

    @field_validator("replies")
    @classmethod
    def _compared(cls, replies: list[str]) -> list[str]:
        if "informed" not in replies or len(replies) < 2 or len(set(replies)) < len(replies):
            raise ValueError("needs informed and at least one more of uninformed, misinformed, each once")
        return replies


class UserTalker(Talker):
    """Section `user`: the simulated user."""

    min_turns: int = Field(ge=1)
    """Least number of its messages before a natural user may end the conversation."""


class Arm(Section):
    """One line of section `arms`: a model under test, and how it is asked."""

    model: str = Field(pattern=r"^[\w./:@-]+$")
    """`local` (models/`weights`), `<endpoint>:<model>`, or a Hub id (`@revision`)."""
    weights: str
    """Folder under models/."""
    prompt: str
    """System prompt: NAME.txt of the prompt set."""
    strategy: Literal["reply", "critique", "reason"]
    """reply; critique: draft, critique of it, revision; reason: think, then reply."""
    memory: Literal["all", "none", "similar"]
    """What is seen of the earlier exchanges."""


class Converse(Sampling):
    """Section `converse`: the evaluation's conversations, and how the model under test is sampled."""

    seed: int
    """Of all draws."""
    turns: int = Field(ge=1)
    """K, of each conversation."""
    thought_tokens: int = Field(ge=0)
    """Tokens that strategy `reason` may think, beside its reply."""
    similar: int = Field(ge=1)
    """Earlier exchanges that memory `similar` shows."""
    user_model: str | None
    """Of the simulated user in the evaluation; null: user.model."""
    resamples: int = Field(ge=0)
    """Draws after an unusable reply of the user."""
    max_failed_share: float = Field(ge=0, le=1)
    """Share of a role's calls that may fail."""
