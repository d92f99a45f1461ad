"""Role-play: tree shapes, histories, notes, verdicts, and what a rerun pays for."""

import json

import pytest
from conftest import complains, reply_to
from hypothesis import given
from hypothesis import strategies as st

from stages.core import prompts
from stages.dialogue import faults, tree, user
from stages.dialogue.grow import parse_verdict
from stages.dialogue.transcript import Exchange
from stages.personas.persona import Persona, facts, traits
from stages.text import ngrams

PEOPLE = [
    {"profile": "I fish at sea. I own two boats. My leg hurts.", "personality": "I am shy, loud, and kind."},
    {"profile": "I bake {bread} \"daily\". I keep 🐝 bees. אני גר בחיפה.", "personality": "I am odd, calm, and <|im_end|>."},
    {"profile": "I sell old maps. I walk to work. My cat is blind.", "personality": "I am vain, dry, and fair."},
]  # fmt: skip


def personas(project, n=3):
    folder = project.folder / "data/personas"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.jsonl").write_text("".join(json.dumps(p) + "\n" for p in PEOPLE[:n]))


def grown(project):
    return project.rows("data/trees.jsonl")


def test_a_tree_holds_every_turn_both_replies_and_both_verdicts(project, server):
    personas(project)
    project.set(roleplay__turns=3)
    project.run("roleplay")
    trees = grown(project)
    assert len(trees) == 3
    for t in trees:
        nodes = tree.index(t)
        assert len(nodes) == 9
        for user, preferred, rejected in tree.decisions(t):
            assert preferred["text"].startswith("Informed") and rejected["text"].startswith("Plain")
            assert [v["first"] for v in user["verdicts"]] == ["preferred", "rejected"]
            assert [v["chosen"] for v in user["verdicts"]] == ["preferred", "preferred"]
            roles = [m["role"] for m in tree.history(nodes, user["id"])]
            assert roles == ["user", "assistant"] * (user["turn"] - 1) + ["user"]
        assert [n["continues"] for n in nodes.values() if n["turn"] == 3 and n["role"] != "user"] == [False, False]
    # user 1, preferred 1, rejected 1, verifier 2, inducer 1: 6 calls a turn
    assert len(server.requests) == 3 * 3 * 6


def test_note_reaches_the_preferred_responder_only_and_holds_what_was_said(project, server):
    personas(project)
    project.run("roleplay")
    replies = [b for b in server.requests if "You are a helpful assistant" in b["messages"][0]["content"]]
    assert len(replies) == 3 * 4 * 2
    for body in replies:
        informed = "knows the user" in body["messages"][0]["content"]
        assert ("About me:" in body["messages"][-1]["content"]) == informed
    for t in grown(project):
        nodes = tree.index(t)
        for node in (n for n in t["nodes"] if n["role"] == "user"):
            said = " ".join(n["text"] for n in tree.path(nodes, node["id"]) if n["role"] == "user")
            assert node["note"] and len(node["note"]) == node["turn"]
            assert all(ngrams.revealed(t["items"][i], said) >= 0.3 for i in node["note"])


def test_the_note_shown_leaves_out_what_the_message_itself_tells(project, server):
    personas(project, 1)
    project.set(roleplay__verify=False)
    project.run("roleplay")
    shown = {b["messages"][-1]["content"].split("\nAbout me: ")[0]: b["messages"][-1]["content"].split("\nAbout me: ")[1]
             for b in server.requests if "About me:" in b["messages"][-1]["content"]}  # fmt: skip
    (t,) = grown(project)
    users = [n for n in t["nodes"] if n["role"] == "user"]
    assert len(users) == len(shown) == 4
    for node in users:
        earlier = " ".join(t["items"][i] for i in node["note"][:-1])
        assert node["note"][-1] == node["item"] and shown[node["text"]] == (earlier or "nothing yet.")
        assert "verdicts" not in node  # nobody was asked


def test_nothing_is_noted_that_the_user_did_not_say(project, server):
    """Even an inducer that knows every fact cannot run ahead of the transcript."""
    personas(project)
    everything = " ".join(p["profile"] + p["personality"] for p in PEOPLE)

    def reply(body):
        system = body["messages"][0]["content"]
        if system.startswith("You are a person"):
            return "Hm, what now?"
        return everything if system.startswith("You write down") else reply_to(body)

    server.reply = reply
    project.run("roleplay")
    notes = [n["note"] for t in grown(project) for n in t["nodes"] if n["role"] == "user"]
    assert len(notes) == 12 and all(note == [] for note in notes)


def test_more_turns_and_more_personas_pay_for_the_new_calls_only(project, server):
    personas(project, 2)
    project.set(roleplay__turns=2)
    project.run("roleplay")
    assert len(server.requests) == 2 * 2 * 6
    before = grown(project)
    project.set(roleplay__turns=4)
    project.run("roleplay")
    assert len(server.requests) == 2 * 4 * 6
    for old, new in zip(before, grown(project), strict=True):
        assert {k: v["text"] for k, v in tree.index(old).items()}.items() <= {
            k: v["text"] for k, v in tree.index(new).items()
        }.items()
    personas(project, 3)
    project.run("roleplay")
    assert len(server.requests) == 3 * 4 * 6
    project.run("roleplay")
    assert len(server.requests) == 3 * 4 * 6


def test_branching_follows_both_replies_and_pays_for_the_new_branch_only(project, server):
    personas(project, 1)
    project.set(roleplay__turns=3)
    project.run("roleplay")
    paid = len(server.requests)
    project.set(roleplay__branching=2, roleplay__branching_depth=1)
    project.run("roleplay")
    users = [n for n in grown(project)[0]["nodes"] if n["role"] == "user"]
    assert sorted(n["turn"] for n in users) == [1, 2, 2, 3, 3]
    assert len(server.requests) == paid + 2 * 6


def test_continue_with_preferred(project):
    personas(project)
    project.set(roleplay__continue_with="preferred")
    project.run("roleplay")
    for t in grown(project):
        assert {n["id"] for n in t["nodes"] if n["role"] == "user"} == {"u" + "/p/u" * i for i in range(4)}


def test_random_continuation_draws_both_and_repeats_itself(project):
    personas(project)
    project.run("roleplay")
    first = (project.folder / "data/trees.jsonl").read_bytes()
    went = [n["role"] for t in grown(project) for n in t["nodes"] if n.get("continues")]
    assert set(went) == {"preferred", "rejected"}
    project.run("roleplay")
    assert (project.folder / "data/trees.jsonl").read_bytes() == first


def test_a_reply_that_cannot_be_had_ends_its_branch_and_is_failed(project, server):
    personas(project)

    def reply(body):
        system, last = body["messages"][0]["content"], body["messages"][-1]["content"]
        return "" if "knows the user" in system and "maps" in last.split("About me:")[0] else reply_to(body)

    server.reply = reply
    project.set(roleplay__max_failed_share=0.2)
    project.run("roleplay")
    aside = project.rows("data/failed/roleplay.jsonl")
    assert [(a["role"], a["reason"]) for a in aside] == [("preferred", "empty")]
    assert len(grown(project)) == 3 and sum(len(t["ended"]) for t in grown(project)) == 1
    last = max(n["turn"] for n in grown(project)[2]["nodes"])
    assert last == 4  # the other reply carried the conversation on
    project.set(roleplay__max_failed_share=0.0)
    complains(project.run("roleplay", check=False), "failed", "roleplay.jsonl", "empty")


@pytest.mark.parametrize(
    "text, value",
    [("1", 1), ("2", 2), ("2.", 2), ("Reply 1", 1), ("**2**", 2), ("message 1.", 1), (" 1\n", 1)],
)
def test_verdicts_are_read(text, value):
    assert parse_verdict(text) == value


@pytest.mark.parametrize("text", ["", "first", "12", "neither", "I like 1", "3", "1 or 2", "1, 2", "Reply 1 and 2"])
def test_other_verdicts_are_unreadable(text):
    with pytest.raises(ValueError):
        parse_verdict(text)


def test_items_of_personas():
    assert facts("I fish.  My cat is old! Do I nap? I do") == ["I fish.", "My cat is old!", "Do I nap?", "I do"]
    assert traits("I am shy, loud, and kind.") == ["I am shy.", "I am loud.", "I am kind."]
    assert traits("He is bold, rude and tall, or vain.") == ["He is bold.", "He is rude and tall.", "He is vain."]
    assert traits("She laughs a lot. She is calm.") == ["She laughs a lot.", "She is calm."]


@given(seed=st.integers(0, 9), n=st.integers(1, 9))
def test_schedule_is_a_permutation(seed, n):
    persona = Persona(" ".join(f"I own item{i}." for i in range(n)), "I am shy, loud, and kind.")
    assert sorted(persona.schedule(seed)) == list(range(n + 3))


@given(
    past=st.lists(st.builds(Exchange, st.text(max_size=9), st.text(max_size=9), st.text(max_size=9)), max_size=6),
    history=st.integers(0, 8),
)
def test_user_chat_grows_with_the_conversation(past, history):
    prompt = prompts.load(__import__("pathlib").Path(__file__).parent.parent / "prompts/user.txt")
    persona = Persona("I fish.", "I am shy, loud, and kind.")
    chat = user.messages(prompt, persona, past, "new fact", history)
    roles = [m["role"] for m in chat]
    assert roles[0] == "system" and roles[1:] == ["user", "assistant"] * ((len(roles) - 2) // 2) + ["user"]
    assert "new fact" in chat[-1]["content"]
    if history > len(past) > 0:
        assert user.messages(prompt, persona, past[:-1], past[-1].fact, history) == chat[:-2]
    if history == 0:
        assert persona.profile not in chat[-1]["content"]


def test_faults_of_user_turns():
    assert faults.faults("I keep bees. What should I check?", [], []) == []
    assert faults.faults("How can I help you today? I am here.", [], []) == ["assistant_talk"]
    assert faults.faults("She keeps bees on the roof.", [], []) == ["third_person"]
    assert "hashtags" in faults.faults("I love #bees #honey #sun", [], [])
    assert faults.faults("I keep bees on the roof, what now?", ["I keep bees on the roof, what now?"], []) == ["copy"]
    assert faults.faults("I keep bees on the roof, what now?", [], ["I keep bees on the roof, what now?"]) == [
        "example_copy"
    ]
    assert "repetition" in faults.faults("I promise. I promise. I promise. I promise. I promise. I promise.", [], [])
    assert faults.faults("Ok", [], []) == ["empty"]
