"""Quality of sets of decisions, on sets whose measures are known."""

import pytest
from trees import extracting, planted, two_turns

from stages.pairs import quality
from stages.pairs.selection import decide
from stages.pairs.settings import Require

P = extracting("keep_informed")
NONE = dict.fromkeys(Require.model_fields)


def decided(*trees):
    return [d for t in trees for d in decide(t, P)]


@pytest.mark.parametrize("first", [0.0, 0.3, 0.5, 1.0])
def test_position_bias_and_order_agreement_are_recovered(first):
    """A verifier that takes the first reply shown in a share of the pairs, and is right in the others."""
    answers = [("preferred", "rejected") if n < first * 100 else ("preferred", "preferred") for n in range(100)]
    found = quality.verdict_measures([d.turn for d in decided(*(planted(n, verdicts=a) for n, a in enumerate(answers)))])
    assert found["order_agreement"] == pytest.approx(1 - first)
    assert found["took_first_shown"] == pytest.approx(first + (1 - first) / 2)
    assert found["informed_wins"] == (None if first == 1.0 else 1.0) and found["unreadable"] == 0


def test_unreadable_verdicts_are_a_share_of_the_answers():
    found = quality.verdict_measures([d.turn for d in decided(planted(verdicts=(None, "rejected")), planted(1))])
    assert found["unreadable"] == 0.25 and found["order_agreement"] == 1.0


@pytest.mark.parametrize(
    "lengths, share", [([(9, 5), (9, 5), (5, 9), (5, 9)], 0.5), ([(5, 9)], 1.0), ([(5, 5), (9, 5)], 0.75), ([], None)]
)
def test_how_well_length_predicts_the_label(lengths, share):
    assert quality.length_predicts(lengths) == share


def test_measures_of_pairs_are_those_of_the_chosen_and_the_other_reply():
    t = two_turns("Mend the fishing nets on the beach.", "Mend a fishing net while your ducks sleep.", [0, 2])
    (_, second) = decided(t)
    for chosen, sides in (("preferred", (1.0, 0.0)), ("rejected", (0.0, 1.0))):
        found = quality.pair_measures([(second.measures, chosen)])
        assert (found["recalls"]["chosen"], found["recalls"]["other"]) == sides
        words = [second.measures[f"{who}_words"] for who in ("preferred", "rejected")]
        assert found["length_ratio"] == round((words[0] / words[1]) ** (1 if chosen == "preferred" else -1), 4)
    assert quality.pair_measures([]) == {"pairs": 0}


def test_the_summary_counts_what_became_of_the_decisions():
    trees = [planted(n, verdicts=("preferred", "rejected") if n % 2 else ("preferred", "preferred")) for n in range(6)]
    decisions = decided(*trees)
    decisions[0].chosen, decisions[0].reason = None, "loops"
    found = quality.summary(decisions, "keep_informed")
    assert found["decisions"] == 6 and found["dropped"] == {"loops": 1}
    assert found["kept"] == {"agreed_preferred": 2, "disagreement_preferred": 3}
    assert found["quality"]["pairs"] == 5 and found["quality_before_filters"]["pairs"] == 6


@pytest.mark.parametrize(
    "name, bound, fault",
    [
        ("min_pairs", 2, "min_pairs is 2, the data has 1, 1 short"),
        ("min_order_agreement", 0.9, "min_order_agreement is 0.9, the data has 0.0, 0.9 short"),
        ("min_informed_wins", 0.5, "min_informed_wins is 0.5, the data has None"),
        ("max_length_predicts", 0.7, "max_length_predicts is 0.7, the data has 1.0, 0.3 over"),
        ("max_unrevealed", -0.5, "max_unrevealed is -0.5, the data has 0.0, 0.5 over"),
    ],
)
def test_what_is_not_met_is_named_with_by_how_much(name, bound, fault):
    t = planted(verdicts=("preferred", "rejected"))
    found = quality.summary(decide(t, P), "keep_informed")
    assert quality.unmet(found, Require(**{**NONE, name: bound})) == [fault]
    assert quality.unmet(found, Require(**NONE)) == []
