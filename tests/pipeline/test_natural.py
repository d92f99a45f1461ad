"""Prompt set natural from beginning to end: recorded voices play the roles, and their texts go through as they are."""

import json
from itertools import pairwise

import pytest
from conftest import Project, Server
from fakes import encode
from voices import LIST, Voices

from stages import roleplay
from stages.dialogue import tree

pytestmark = pytest.mark.slow
PEOPLE = 3
NONE = dict.fromkeys(("min_pairs", "min_order_agreement", "min_informed_wins", "max_length_predicts", "max_unrevealed"))
OFF = ("length_ratio", "similarity", "recited", "unrevealed", "user_unrevealed", "note_unrevealed", "repetition", "loops")


@pytest.fixture(scope="module")
def voices():
    return Voices(PEOPLE)


@pytest.fixture(scope="module")
def made(voices, tmp_path_factory):
    """(the project after role-play and pairs, the requests of both)."""
    server = Server()
    server.reply = voices.reply
    project = Project(tmp_path_factory.mktemp("natural"), server.url)
    folder = project.folder / "data/personas"
    folder.mkdir(parents=True)
    for part in ("train", "eval"):
        (folder / f"{part}.jsonl").write_text("".join(json.dumps(p.record()) + "\n" for p in voices.people))
    project.set(
        prompts="natural", user__history=10, user__min_turns=2, roles__inducer_tokens=400, roles__preferred_history=10,
        roles__rejected_history=10, roleplay__turns=8, roleplay__replies=["informed", "uninformed", "misinformed"],
        converse__turns=8, converse__user_model="scripted:other", extract_pairs__balance_length=None,
        extract_pairs__on_disagreement="drop", extract_pairs__require=NONE,
        extract_pairs__filters={**dict.fromkeys(OFF), "recalled": None, "names_inference": False, "confused": False},
        **{f"arms__{arm}__model": "scripted:tested" for arm in ("base", "oracle", "fewshot")},
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(roleplay, "Encoder", lambda params: encode)
        project.run("roleplay")
    project.run("extract_pairs")
    yield project, server
    server.stop()


def metrics(project, name):
    return json.loads((project.folder / f"results/{name}.json").read_text())


def test_trees_hold_what_was_said_noted_and_answered(made, voices):
    project, server = made
    for i, t in enumerate(project.rows("data/trees.jsonl")):
        nodes, recorded = tree.index(t), voices.turns[i]
        users = [n for n in t["nodes"] if n["role"] == "user"]
        users.sort(key=lambda n: n["turn"])
        assert [n["text"] for n in users] == [n["text"] for n in recorded], "up to the turn at which the user leaves"
        assert [n["note"] for n in users] == [n["note"] for n in recorded], "a perfect inducer gives exactly the notes"
        assert t["ended_by_user"] == [users[-1]["id"]] and t["ended"] == []
        for k, n in enumerate(users):
            assert "item" not in n and {*n["agenda"]} <= {*range(len(t["items"]))}
            wrong = nodes[f"{n['id']}/m"]
            assert {x: nodes[f"{n['id']}/{x}"]["text"] for x in "pr"} == voices.replies(i, k) and not wrong["continues"]
            stranger = next(p for p in voices.people if p.id == wrong["of"])
            facts, cut = voices.people[i].facts, stranger.facts
            assert wrong["of"] != t["id"] and len(wrong["note"]) == len(n["note"])
            assert sum(x < cut for x in wrong["note"]) == sum(x < facts for x in n["note"])
            for verdicts in (n["verdicts"], wrong["verdicts"]):
                assert [v["chosen"] for v in verdicts] == ["preferred", "preferred"]
    assert metrics(project, "roleplay")["ended_by_user"] == PEOPLE
    assert not any("stop" in body for body in server.requests)


def test_users_may_touch_on_an_agenda_and_are_told_no_sentence(made, voices):
    """The chat only grows, so that a prefix cache holds; the persona is in its head, the agenda at its end."""
    chats = [b["messages"] for b in made[1].requests if b["messages"][0]["content"].startswith("You play a person")]
    mine = sorted((c for c in chats if voices.people[0].text in c[0]["content"]), key=len)
    for shorter, longer in pairwise(mine):
        assert longer[: len(shorter)] == shorter and longer[-1]["content"].endswith(")")
    nodes = [n for n in made[0].rows("data/trees.jsonl")[0]["nodes"] if n["role"] == "user"]
    for n, chat in zip(sorted(nodes, key=lambda n: n["turn"]), mine, strict=True):
        assert all(voices.people[0].items[i] in chat[-1]["content"] for i in n["agenda"])
        assert n["agenda"] or "Nothing new" in chat[-1]["content"]


def test_responders_are_told_apart_by_the_note_alone(made, voices):
    asked = [b for b in made[1].requests if b["messages"][0]["content"].startswith("You talk with somebody")]
    by_message: dict[str, list] = {}
    for b in asked:
        *before, last = b["messages"]
        message, _, note = last["content"].partition("\n\n(A note for you alone")
        by_message.setdefault(message, []).append((before, {k: b[k] for k in ("temperature", "top_p")}, bool(note)))
    assert len(by_message) == sum(map(len, voices.turns))
    for three in by_message.values():
        assert [x[:2] for x in three] == [three[0][:2]] * 3 and sorted(x[2] for x in three) == [False, True, True]


def test_rows_hold_paragraphs_and_lists_and_no_system_prompt(made, voices):
    project, _ = made
    pairs = [*project.rows("data/pairs/train.jsonl"), *project.rows("data/pairs/val.jsonl")]
    assert len(pairs) == sum(map(len, voices.turns))
    assert all(p["chosen"][0]["content"].endswith(LIST) and p["prompt"][0]["role"] == "user" for p in pairs)
    sft = [*project.rows("data/sft/train.jsonl"), *project.rows("data/sft/val.jsonl")]
    assert len(sft) == len(pairs) and all(row["completion"][0]["content"].endswith(LIST) for row in sft)


@pytest.mark.parametrize("arm", ["base", "oracle", "fewshot"])
def test_conversations_end_when_the_user_leaves_and_are_judged_as_they_are(made, voices, arm):
    project, server = made
    before = len(server.requests)
    project.run("converse", arm)
    rows = project.rows(f"data/conversations/{arm}.jsonl")
    for row, turns in zip(rows, voices.turns, strict=True):
        assert [t["user"] for t in row["turns"]] == [n["text"] for n in turns] and row["ended_by_user"] == len(turns)
        assert all(t["reply"].startswith("One paragraph.\n\nAnother one") and "agenda" in t for t in row["turns"])
    assert metrics(project, f"converse/{arm}")["ended_by_user"] == PEOPLE
    asked = server.requests[before:]
    assert {b["model"] for b in asked} <= {"other", "tested"}, "the evaluation's user is another model"
    tested = [b["messages"][0] for b in asked if b["model"] == "tested"]
    assert {m["role"] for m in tested} == ({"user"} if arm == "base" else {"system"}), "an empty prompt is no message"
    before = len(server.requests)
    project.run("judge", arm)
    judged = [b["messages"][-1]["content"] for b in server.requests[before:]]
    assert all("Reply: One paragraph.\n\nAnother one" in text for text in judged)
    assert {r["score"] for r in project.rows(f"data/judgements/{arm}.jsonl")} == {4}
