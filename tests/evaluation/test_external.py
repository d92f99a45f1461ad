"""Benchmarks of others: what the adapters read, and that the twins of an accuracy are what they say."""

import json

import foreign
import numpy as np
import pytest

from stages.core.cli import UserError
from stages.evaluation import external, personamem, prefeval
from stages.evaluation.items import Item

FORMS = ["choice-based", "persona-driven", "32k", "128k", "snippet"]


def item(name="a", keys=("k",), options=("right", "no", "no way"), **more) -> Item:
    values = {"form": "f", "fillers": 0, "history": [{"role": "user", "content": name}], "question": "?"}
    return Item(id=name, keys=frozenset(keys), options=options, **{**values, **more})


def test_prefeval_is_read_in_both_forms_with_its_fillers(tmp_path):
    found = prefeval.read(foreign.prefeval(tmp_path), FORMS, [0, 3])
    assert len(found) == 2 * 3 * 2 * 2 and len({i.id for i in found}) == 6, "the stray copy is no topic"
    by = {(i.id, i.form, i.fillers): i for i in found}
    choice, talk = by["pets/1", "choice-based", 0], by["pets/1", "persona-driven", 0]
    assert [m["content"] for m in choice.history] == ["Which?", "1. It. 2. That.", "chess it is.", "Understood."]
    assert [m["role"] for m in choice.history] == ["user", "assistant"] * 2
    assert len(talk.history) == 22 and talk.history[-2]["content"] == "Turn 10: chess", "turns are in order of their number"
    assert choice.options[0] == "All of chess." and choice.question == "What of pets 1?"
    filled = by["pets/1", "choice-based", 3].history
    assert filled[:4] == choice.history and [m["content"] for m in filled[4:]] == [
        "user 0", "assistant 0", "user 1", "assistant 1", "user 0", "assistant 0"
    ]  # fmt: skip
    assert prefeval.read(tmp_path / "benchmark_dataset", FORMS, [0]) == prefeval.read(tmp_path, FORMS, [0])


def changed(path, change):
    rows = json.loads(path.read_text())
    change(rows)
    path.write_text(json.dumps(rows))


@pytest.mark.parametrize(
    ("file", "change", "line"),
    [
        ("explicit_preference/pets", lambda r: r[1].update(question="Else?"), "row 1: `question` is not that of"),
        ("implicit_preference/choice-based/trips", lambda r: r.pop(), "holds 2 rows"),
        ("implicit_preference/choice-based/trips", lambda r: r[0]["conversation"].pop("user_selection"),
         "trips, row 0: lacks 'user_selection'"),
        ("mcq_options/pets", lambda r: r[2].pop("classification_task_options"), "pets, row 2: lacks 'classif"),
        ("filtered_inter_turns", lambda r: r.pop(), "holds 2 exchanges; lower external.fillers from 3"),
        ("filtered_inter_turns", lambda r: r[0].pop("conversation"), r"turns\.json: lacks 'conversation'"),
    ],
)  # fmt: skip
def test_what_prefeval_lacks_is_said_in_one_line(tmp_path, file, change, line):
    foreign.prefeval(tmp_path)
    changed(tmp_path / "benchmark_dataset" / f"{file}.json", change)
    with pytest.raises(UserError, match=line):
        prefeval.read(tmp_path, FORMS, [0, 3])


def test_a_folder_that_is_not_prefeval_and_a_file_that_lacks(tmp_path):
    with pytest.raises(UserError, match=r"holds no mcq_options/TOPIC.json; clone"):
        prefeval.read(tmp_path, FORMS, [0])
    foreign.prefeval(tmp_path)
    (tmp_path / "benchmark_dataset/implicit_preference/choice-based/pets.json").unlink()
    with pytest.raises(UserError, match=r"choice-based/pets.json: no such file"):
        prefeval.read(tmp_path, FORMS, [0])


def test_personamem_is_read_without_the_message_that_tells_the_persona(tmp_path):
    found = personamem.read(foreign.personamem(tmp_path), FORMS, [0, 5])
    assert len(found) == 4 * 3 and {i.form for i in found} == {"32k", "128k", "snippet"}
    assert [len(i.history) for i in found[:3]] == [2, 8, 2] and found[0].history == found[2].history
    assert not any(m["role"] == "system" for i in found for m in i.history)
    assert [i.question for i in found[::3]] == ["What's best, 0?", "What's best, 1?"] * 2, "JSON and Python are both read"
    assert found[0].options == ("tea, of course.", "No.", "It's one.", "Maybe.")
    assert external.clusters(found[::3]) == [0, 0, 1, 1], "questions about one persona are not independent"
    (tmp_path / "data/chat_history_32k/chat_history_32k_persona1.json").unlink()
    with pytest.raises(UserError, match=r"persona1.json: no such file"):
        personamem.read(tmp_path, ["32k"], [0])
    assert len(personamem.read(tmp_path, ["snippet"], [0])) == 4
    table = tmp_path / personamem.TABLE
    table.write_text(table.read_text().replace("correct_answer,", "answer,", 1))
    with pytest.raises(UserError, match=r"benchmark.csv: lacks correct_answer"):
        personamem.read(tmp_path, ["snippet"], [0])


def test_items_that_share_a_key_through_others_are_one_cluster():
    of = external.clusters(
        [item("a", ["1"]), item("b", ["2"]), item("c", ["1", "3"]), item("d", ["3"]), item("e", ["2", "4"])]
    )
    assert of[0] == of[2] == of[3] and of[1] == of[4] != of[0]


def test_another_items_conversation_is_of_another_cluster_and_the_same_form():
    items = [item(str(n), [str(n // 2)], form=form) for form in "fg" for n in range(6)]
    for own, other in zip(items, external.others(items), strict=True):
        assert own.form == other.form and not own.keys & other.keys
    before = external.contexts(items)[0]
    assert [m["content"] for m in before["conversation"][1:]] == ["0"] and before["none"] == before["other"][:1]
    with pytest.raises(UserError, match="form f share a preference"):
        external.others([item("a"), item("b")])


def test_a_sample_is_the_same_in_all_forms_and_by_seed():
    items = [item(str(n), form=form) for n in range(20) for form in "fg"]
    found = external.drawn(items, 5, 1)
    assert len(found) == 10 and {i.id for i in found if i.form == "f"} == {i.id for i in found if i.form == "g"}
    assert found != external.drawn(items, 5, 2) and external.drawn(items, None, 1) == items


def test_equals_share_and_likelihood_is_a_token_and_less_that_without():
    assert external.right([1.0, 1.0, 0.0]) == 0.5 and external.right([0.0, 0.0, 1.0]) == 0.0
    sums = {"conversation": [-2.0, -9.0], "none": [-4.0, -6.0], "other": [-4.0, -6.0]}
    found = external.likelihood(sums, [2, 3])
    assert found == {"conversation": [1.0, -1.0], "none": [-2.0, -2.0], "other": [0.0, 0.0]}


def rows(arm, reads, number=40):
    """Rows of items with options of one length; `reads(n)`: the scores after the conversation of item n."""
    made = [item(str(n), [str(n // 2)], ("right", "a" * (3 + n % 4), "no", "no")) for n in range(number)]
    flat = [0.0, 0.0, 0.0, 0.0]
    scores = [{"conversation": reads(n), "none": flat, "other": [*flat[:3], 1.0]} for n in range(number)]
    of = external.clusters(made)
    return [external.row(arm, i, c, "letters", s) for i, c, s in zip(made, of, scores, strict=True)]


def test_an_accuracy_stands_beside_its_twins_and_is_compared_on_the_same_items():
    knows, guesses = rows("dpo", lambda n: [1.0, 0, 0, 0]), rows("base", lambda n: [0, float(n % 2), 0.5, 0])
    found = external.summary([*guesses, *knows[:30]], "base", 200, 1)
    base, dpo = found["base"]["letters"]["f/0"], found["dpo"]["letters"]["f/0"]
    assert (dpo["accuracy"]["value"], dpo["chance"], dpo["none"], dpo["other"]) == (1.0, 0.25, 0.25, 0.0)
    assert base["accuracy"]["value"] == 0.0 and base["longest"] == pytest.approx((10 + 10 + 5) / 40)
    assert dpo["items"] == 30 and dpo["clusters"] == 15 and "vs_base" not in base
    assert dpo["vs_base"]["value"] == 1.0 and dpo["vs_base"]["rows"] == 30 and dpo["vs_base"]["p"] < 0.01
    assert "1.00 to 1.00" in (text := external.table(found)) and "longest" in text
    assert external.summary([], "base", 10, 1) == {}


def test_the_length_matched_rows_tell_nothing_by_length():
    generator = np.random.default_rng(1)
    made = []
    for n in range(400):
        lengths = np.sort(generator.permutation(50)[:4] + 1)[:: generator.choice([1, -1, -1])]
        made.append(item(str(n), [str(n)], tuple("x" * k for k in lengths)))
    scores = {"conversation": [1.0, 0, 0, 0], "none": [0.0] * 4, "other": [0.0] * 4}
    all_rows = [external.row("a", i, n, "letters", scores) for n, i in enumerate(made)]
    assert np.mean([r["longest"] for r in all_rows]) > 0.5
    assert external.length_matched(all_rows, 1) == [], "here the right option is never of middle length"
    mixed = [
        {**r, "longer": n % 4 if n < 100 else 0, "longest": float(n % 4 == 0 or n >= 100)} for n, r in enumerate(all_rows)
    ]
    matched = external.length_matched(mixed, 1)
    assert len(matched) == 100 and np.mean([r["longest"] for r in matched]) == 0.25
