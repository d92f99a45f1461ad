"""The split: distinct pairs, nothing and nothing near it in both parts, pronouns that agree."""

import numpy as np
import pytest
from fakes import section

from stages.core.cli import UserError
from stages.personas.settings import FilterPersonas
from stages.personas.split import greatest_cosine, split

PROFILES, PERSONALITIES = [f"p{i}" for i in range(6)], [f"q{i}" for i in range(5)]


def settings(**changes):
    values = {"seed": 1, "train": 6, "eval_profiles": 2, "eval_personalities": 2, "split_threshold": 0.75}
    return section(FilterPersonas, "filter_personas", **{**values, **changes})


def spots(texts):
    """An encoder for texts like `p3`: each its own axis, `p3x` near `p3`."""
    axes = np.eye(64, dtype=np.float32)
    near = 0.9 * axes + np.sqrt(1 - 0.81) * axes[::-1]
    return np.stack([(near if t.endswith("x") else axes)[int(t.strip("pqx")) + 20 * (t[0] == "q")] for t in texts])


def test_split_shares_nothing_and_repeats_no_pair():
    train, held = split(PROFILES, PERSONALITIES, settings(train=12), spots)
    assert len(train) == 12 and len({x.id for x in train}) == 12 and len(held) == 4
    assert not {x.profile for x in train} & {x.profile for x in held}
    assert not {x.personality for x in train} & {x.personality for x in held}
    assert split(PROFILES, PERSONALITIES, settings(train=5), spots)[0] == train[:5]
    with pytest.raises(UserError, match=r"4 eval pairs and 12 training pairs .*; 1 and train = 13 are needed"):
        split(PROFILES, PERSONALITIES, settings(train=13), spots)


def test_no_near_duplicate_of_an_eval_text_is_trained_on():
    _, held = split(PROFILES, PERSONALITIES, settings(train=1), spots)
    near = f"{held[0].profile}x"
    assert greatest_cosine([near], PROFILES, spots) == 0.9
    train, again = split([*PROFILES, near], PERSONALITIES, settings(train=9), spots)
    assert near not in {x.profile for x in train} or held[0].profile not in {x.profile for x in again}
    assert greatest_cosine([x.profile for x in train], [x.profile for x in again], spots) <= 0.75
    train, again = split([*PROFILES, near], PERSONALITIES, settings(train=9, split_threshold=1.0), spots)
    assert near in {x.profile for x in [*train, *again]}


def test_pronouns_agree_in_every_pair():
    profiles = ["He mends nets.", "She farms.", "I bake bread.", "He drives a tram.", "She sings.", "He paints."]
    personalities = ["She is shy, bold, and kind.", "He is vain, dry, and warm.", "I am slow, calm, and fair.",
                     "Shy, bold, and calm.", "He is loud, rude, and sly."]  # fmt: skip
    encode = lambda texts: np.eye(64, dtype=np.float32)[[(profiles + personalities).index(t) for t in texts]]  # noqa: E731
    train, held = split(profiles, personalities, settings(train=5), encode)
    assert train and held
    for x in [*train, *held]:
        assert {x.profile.split()[0], x.personality.split()[0]} in (
            {"He"}, {"She"}, {"I"}, {"He", "Shy,"}, {"She", "Shy,"}, {"I", "Shy,"}
        )  # fmt: skip
