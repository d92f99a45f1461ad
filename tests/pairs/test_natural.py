"""Natural trees under the filters of preset paper: what is planted is found, in three scripts; the rest is kept."""

import copy

import pytest
from fakes import YAML, section
from repository import ROOT

from stages.core.files import read_jsonl
from stages.core.params import load_yaml
from stages.pairs import quality
from stages.pairs.rows import training_data
from stages.pairs.selection import decide
from stages.pairs.settings import ExtractPairs
from stages.text.ngrams import content

NATURAL = load_yaml(str(ROOT / "presets/paper.yaml"))["extract_pairs"]["filters"]
TREES = {t["language"]: t for t in read_jsonl(ROOT / "data/natural/trees.jsonl")}
LANGUAGES = ("en", "zh", "ar")


def extracting(**values):
    return section(ExtractPairs, "extract_pairs", filters={**YAML["extract_pairs"]["filters"], **NATURAL}, **values)


def last_reasons(t, p=None):
    """Of the decision at the last turn, after all decisions before it were found clean."""
    *before, last = sorted(decide(t, p or extracting()), key=lambda d: len(d.turn.node))
    assert {d.reason for d in before} == {"not_asked"}
    return last.reason


def last_turn(language):
    """A copy of a tree, with the last user node and the replies to it."""
    t = copy.deepcopy(TREES[language])
    user = max((n for n in t["nodes"] if n["role"] == "user"), key=lambda n: len(n["id"]))
    replies = {n["id"][-1]: n for n in t["nodes"] if n["id"].rpartition("/")[0] == user["id"] and n["role"] != "user"}
    return t, user, replies


def untold(t, user):
    return next(i for i, x in enumerate(t["items"]) if i not in user["note"] and len(content(x)) > 2)


@pytest.mark.parametrize("language", TREES)
def test_trees_as_they_are_written_are_kept(language):
    decisions = decide(TREES[language], extracting())
    assert [d.reason for d in decisions] == ["not_asked"] * len(decisions) and len(decisions) > 3


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("who", "pr")
def test_a_leak(language, who):
    t, user, replies = last_turn(language)
    replies[who]["text"] += " " + t["items"][untold(t, user)]
    assert last_reasons(t) == "unrevealed"
    t, user, replies = last_turn(language)
    replies[who]["mentions"] = [{"item": user["note"][0], "quote": "told"}]
    assert last_reasons(t) == "not_asked"
    replies[who]["mentions"] += [{"item": untold(t, user), "quote": "untold"}]
    assert last_reasons(t) == "unrevealed"


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_recital(language):
    t, user, replies = last_turn(language)
    replies["p"]["text"] = " ".join(t["items"][i] for i in user["note"] if len(content(t["items"][i])) > 2)
    assert last_reasons(t) == "recited"
    t, user, replies = last_turn(language)
    replies["p"]["mentions"] = [{"item": i, "quote": "told"} for i in user["note"][:4]]
    assert last_reasons(t) == "recited"


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_swapped_note(language):
    t, user, _ = last_turn(language)
    _, other, _ = last_turn("it")
    user["quotes"] = other["quotes"]  # nobody said that here
    user["note"] = other["note"]
    assert last_reasons(t) == "note_unrevealed"
    t, user, _ = last_turn(language)
    user["note"] = [*user["note"], untold(t, user)]  # noted, but never quoted
    assert last_reasons(t) == "note_unrevealed"


def test_a_swapped_note_of_a_tree_without_quotes():
    """Three facts and more, and not a word of them said."""
    t, _, _ = last_turn("en")
    t["nodes"] = [{k: v for k, v in n.items() if k != "quotes"} for n in t["nodes"]]
    assert last_reasons(t) == "not_asked"
    t["items"] = TREES["pl"]["items"]
    assert {d.reason for d in decide(t, extracting()) if len(d.turn.note) > 7} == {"note_unrevealed"}


def with_misinformed(language, number):
    """A tree whose rejected replies are copied as misinformed ones."""
    t = copy.deepcopy(TREES[language])
    for n in [n for n in t["nodes"] if n["role"] == "rejected"]:
        t["nodes"].append({**n, "id": n["id"][:-1] + "m", "role": "misinformed", "text": f"{n['text']} {number}", "of": "t"})
    return t


def test_kinds_of_pairs_are_told_apart_and_an_informed_reply_is_imitated_once():
    trees = [with_misinformed(language, n) for n, language in enumerate(LANGUAGES)]
    p = extracting(on_disagreement="drop", negatives=["uninformed", "misinformed"])
    found = {t["id"]: decide(t, p) for t in trees}
    decisions = [d for rows in found.values() for d in rows]
    summary = quality.summary(decisions, p.on_disagreement)
    number = len(decisions) // 2
    assert summary["kinds"]["uninformed"]["dropped"] == {"not_asked": number}
    assert summary["kinds"]["misinformed"]["kept"] == {"not_asked_preferred": number}  # no verifier need say so
    data, _ = training_data(trees, found, set(), [], p.filters)
    assert len(data["pairs_train"]) == len(data["sft_train"]) == number
    assert (
        {row["kind"] for row in data["pairs_train"]}
        == {"misinformed"}
        == {d.record()["kind"] for d in decisions if d.chosen}
    )


def test_a_verdict_on_a_misinformed_reply_counts():
    t = with_misinformed("en", 0)
    for n in (n for n in t["nodes"] if n["role"] == "misinformed"):
        n["verdicts"] = [{"first": who, "chosen": "misinformed"} for who in ("preferred", "misinformed")]
    p = extracting(negatives=["misinformed"])
    (first, *_) = decide(t, p)
    assert (first.chosen, first.reason) == ("rejected", "agreed") and first.texts[0].endswith(" 0")
    assert quality.summary([first], "drop")["verifier"]["took_first_shown"] == 0.5
