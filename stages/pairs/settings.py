"""Section `extract_pairs` of params.yaml."""

from typing import Literal

from pydantic import Field

from stages.core.params import Section


class Filters(Section):
    """What drops a pair (and, where it is the preferred reply's own fault, the SFT row); null is off.

    Items that a text holds are read off quotes where a tree has them, else off words. `user_unrevealed`, `recalled`,
    `names_inference` and `confused` fit scripted users who write English.
    """

    length_ratio: float | None
    """Most words of the longer reply over those of the shorter."""
    similarity: float | None
    """Greatest overlap of the two replies."""
    recited: int | None
    """Most items of the persona in one reply."""
    unrevealed: int | None
    """Most items in a reply that the user has not shown."""
    user_unrevealed: int | None
    """Most items in the user's turn besides its own that were not shown before."""
    note_unrevealed: int | None
    """Most items in the note that were not shown."""
    repetition: float | None
    """Greatest share of a reply's word 3-grams that occurred before in it."""
    loops: float | None
    """Greatest share of the 3-grams of the reply to be learnt that stand in earlier replies."""
    recalled: int | None
    """Least words of one fact noted at an earlier turn, not in the message itself, that the reply to be learnt must hold
    (trees without notes pass; so do SFT rows of the first turn)."""
    names_inference: bool
    """Drop where a reply speaks of a profile, a persona or notes."""
    confused: bool
    """Drop where the user speaks as an assistant, or anyone in stage directions."""


class Require(Section):
    """What the kept pairs must be for training to make sense; the stage fails where they are not. null is off."""

    min_pairs: int | None
    """Least number of pairs."""
    min_order_agreement: float | None
    """Least share of pairs on which the verifier's two orders agree."""
    min_informed_wins: float | None
    """Least share of agreed pairs that the informed reply wins."""
    max_length_predicts: float | None
    """How often length alone may predict the label."""
    max_context_free: float | None
    """How often a bag of words that never sees the conversation may tell the chosen reply, of either kind of pairs."""
    max_unrevealed: float | None
    """Greatest share of pairs whose informed reply holds what was not shown."""


class ExtractPairs(Section):
    """Section `extract_pairs`."""

    seed: int
    """Of the split and of ties."""
    trees: str
    """File of trees, or folder of such files: role-play's, or trees of your own."""
    more_trees: str
    """Another file or folder, whose trees are added; no two trees have one id."""
    groups: str
    """File or folder of groups of users (pairs/crossed.py), whose rows are added."""
    most_groups: int | None = Field(ge=2)
    """Groups used, drawn by seed; null: all."""
    negatives: list[Literal["uninformed", "misinformed"]] = Field(min_length=1)
    """Replies that the informed one is set against. Against a misinformed one that no verifier judged it is chosen."""
    on_disagreement: Literal["drop", "keep_informed"]
    """What becomes of a pair on which the verifier's two answers differ, cannot be read or are missing."""
    val_share: float = Field(gt=0, lt=1)
    """Share of the personas that is held out."""
    balance_length: float | None = Field(ge=0.5, le=1)
    """Pairs are dropped, the most unequal first, until length alone predicts the label at most so often; null: off."""
    filters: Filters
    """What drops a pair."""
    require: Require
    """What the kept pairs must be."""
