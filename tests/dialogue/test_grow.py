"""The Grower: tree shapes, notes, verdicts, and that a larger tree asks only what is new."""

import asyncio
import json

import pytest
from fakes import FakeClient, by_role, prompts, section

from stages.dialogue import tree
from stages.dialogue.grow import parse_verdict, whole_tree
from stages.dialogue.settings import Roleplay, UserTalker
from stages.llm.settings import Roles
from stages.personas.persona import Persona

PROMPTS = prompts()
PEOPLE = [
    Persona("I fish at sea. I own two boats. My leg hurts.", "I am shy, loud, and kind."),
    Persona('I bake {bread} "daily". I keep 🐝 bees. אני גר בחיפה.', "I am odd, calm, and <|im_end|>."),
    Persona("I sell old maps. I walk to work. My cat is blind.", "I am vain, dry, and fair."),
]


def grown(client, persona=PEOPLE[0], **changes):
    p = section(Roleplay, "roleplay", **{"turns": 3, "continue_with": "random", **changes})
    return asyncio.run(whole_tree(p, section(UserTalker, "user"), section(Roles, "roles"), client, PROMPTS, persona))


def users(t):
    return [n for n in t["nodes"] if n["role"] == "user"]


@pytest.mark.parametrize("persona", PEOPLE)
def test_a_tree_holds_every_turn_both_replies_and_both_verdicts(persona):
    client = FakeClient()
    t = grown(client, persona)
    nodes = tree.index(t)
    assert len(nodes) == 9 and len([*tree.decisions(t)]) == 3 and t["ended"] == []
    for user, preferred, rejected in tree.decisions(t):
        assert preferred["text"].startswith("Informed") and rejected["text"].startswith("Plain")
        assert [v["first"] for v in user["verdicts"]] == ["preferred", "rejected"]
        assert [v["chosen"] for v in user["verdicts"]] == ["preferred", "preferred"]
        roles = [m["role"] for m in tree.history(nodes, user["id"])]
        assert roles == ["user", "assistant"] * (user["turn"] - 1) + ["user"]
    assert [n["continues"] for n in nodes.values() if n["turn"] == 3 and n["role"] != "user"] == [False, False]
    assert len(client.asked) == 3 * 6  # user, inducer, preferred, rejected, verifier twice


def test_the_note_reaches_the_preferred_responder_only_without_the_item_of_the_message():
    client = FakeClient()
    t = grown(client, turns=4, verify=False)
    shown = dict(chat[-1]["content"].split("\nAbout me: ") for chat in client.chats("preferred"))
    assert all("About me:" not in chat[-1]["content"] for chat in client.chats("rejected"))
    assert len(users(t)) == len(shown) == len(client.chats("rejected")) == 4
    for node in users(t):
        assert node["note"] == [n["item"] for n in tree.path(tree.index(t), node["id"]) if n["role"] == "user"]
        assert shown[node["text"]] == (" ".join(t["items"][i] for i in node["note"][:-1]) or "nothing yet.")
        assert "verdicts" not in node  # nobody was asked


def test_nothing_is_noted_that_the_user_did_not_say():
    """Even an inducer that knows every fact cannot run ahead of the transcript."""
    says = {"user": "Hm, what now?", "inducer": " ".join(PEOPLE[0].items)}
    t = grown(FakeClient(lambda role, chat, seed: says.get(role.name) or by_role(role, chat, seed)))
    assert [node["note"] for node in users(t)] == [[]] * 3


def test_an_inducer_that_fails_adds_nothing_to_the_note():
    client = FakeClient(lambda role, chat, seed: "" if role.name == "inducer" else by_role(role, chat, seed))
    t = grown(client)
    assert [(n["note"], n["inducer"]) for n in users(t)] == [([], {"reason": "empty"})] * 3 and t["ended"] == []


def test_more_turns_and_branches_ask_only_what_is_new():
    small, longer, wider = FakeClient(), FakeClient(), FakeClient()
    t = grown(small)
    texts = {k: n["text"] for k, n in tree.index(t).items()}
    more = tree.index(grown(longer, turns=5))
    assert texts.items() <= {k: n["text"] for k, n in more.items()}.items()
    assert small.calls() < longer.calls() and len(longer.asked) == 5 * 6
    branched = grown(wider, branching=2, branching_depth=1)
    assert sorted(n["turn"] for n in users(branched)) == [1, 2, 2, 3, 3]
    assert small.calls() < wider.calls() and len(wider.asked) == 5 * 6


def test_which_reply_continues():
    t = grown(FakeClient(), continue_with="preferred")
    assert [n["id"] for n in users(t)] == ["u", "u/p/u", "u/p/u/p/u"]
    drawn = [grown(FakeClient(), person, turns=4) for person in PEOPLE]
    assert {n["role"] for t in drawn for n in t["nodes"] if n.get("continues")} == {"preferred", "rejected"}
    assert drawn == [grown(FakeClient(), person, turns=4) for person in PEOPLE]


def test_a_reply_that_fails_ends_its_branch_and_the_other_one_continues():
    client = FakeClient()
    client.reply = lambda role, chat, seed: (
        "" if role.name == "preferred" and len(client.chats("preferred")) == 1 else by_role(role, chat, seed)
    )
    t = grown(client, continue_with="preferred")
    assert t["ended"] == [{"id": "u/p", "role": "preferred", "reason": "empty"}]
    assert client.failed == [(f"{PEOPLE[0].id} u/p", "preferred")]
    assert [n["id"] for n in users(t)] == ["u", "u/r/u", "u/r/u/p/u"] and "verdicts" not in users(t)[0]


def test_a_user_turn_that_fails_ends_the_tree():
    client = FakeClient()
    client.reply = lambda role, chat, seed: (
        "" if role.name == "user" and len(client.chats("user")) == 2 else by_role(role, chat, seed)
    )
    t = grown(client, continue_with="preferred")
    assert t["ended"] == [{"id": "u/p/u", "role": "user", "reason": "empty"}] and len(t["nodes"]) == 3


def test_an_unreadable_verdict_is_kept_as_it_is():
    client = FakeClient(lambda role, chat, seed: "both" if role.name == "verifier" else by_role(role, chat, seed))
    verdicts = [v for n in users(grown(client)) for v in n["verdicts"]]
    assert len(verdicts) == 6
    assert all((v["chosen"], v["raw"], v["reason"]) == (None, "both", "unreadable") for v in verdicts)


@pytest.mark.parametrize(
    "text, value",
    [("1", 1), ("2", 2), ("2.", 2), ("Reply 1", 1), ("**2**", 2), ("message 1.", 1), (" 1\n", 1), ("Answer: Reply 2", 2),
     ("The better reply is 2.", 2), ("Reply #2", 2), ("<answer>2</answer>", 2), ("\\boxed{1}", 1), ('{"answer": 1}', 1)],
)  # fmt: skip
def test_verdicts_are_read(text, value):
    assert parse_verdict(text) == value


@pytest.mark.parametrize(
    "text",
    ["", "first", "12", "neither", "I like 1", "3", "1 or 2", "1, 2", "Reply 1 and 2", "Reply 1 is worse than reply 2",
     "1 is better", "2 because it fits", "Reply 1: Bake a cake", "1st", "1.5", "-1", "2/2", "two replies"],
)  # fmt: skip
def test_other_verdicts_are_unreadable(text):
    with pytest.raises(ValueError):
        parse_verdict(text)


def test_a_misinformed_reply_has_as_much_of_a_note_on_another_one():
    client = FakeClient()
    p = section(Roleplay, "roleplay", turns=4, replies=["informed", "misinformed"])
    talker, roles = section(UserTalker, "user"), section(Roles, "roles")
    t = asyncio.run(whole_tree(p, talker, roles, client, PROMPTS, PEOPLE[0], PEOPLE[2]))
    asked = dict(zip(("p", "m"), (client.chats("preferred"), client.chats("misinformed")), strict=True))
    for k, node in enumerate(users(t)):
        wrong, shown = tree.index(t)[f"{node['id']}/m"], [i for i in node["note"] if i != node["item"]]
        assert (wrong["role"], wrong["of"]) == ("misinformed", PEOPLE[2].id) and not wrong["continues"]
        assert sorted(i < 3 for i in wrong["note"]) == sorted(i < 3 for i in shown)
        told = " ".join(PEOPLE[2].items[i] for i in wrong["note"]) or "nothing yet."
        assert asked["m"][k][-1]["content"] == asked["p"][k][-1]["content"].partition("About me:")[0] + f"About me: {told}"
        assert "verdicts" not in node and {v["first"] for v in wrong["verdicts"]} == {"preferred", "misinformed"}
    assert client.chats("rejected") == [] and not any(n["role"] == "rejected" for n in t["nodes"])


@pytest.mark.parametrize("said", ["", "nothing", '{"shown": [{"item": 1, "quote": "I never said this"}]}'])
def test_what_an_inducer_cannot_quote_is_not_noted(said):
    says = {"inducer": said, "user": "I have two. Which one?"}
    client = FakeClient(
        lambda role, chat, seed: says.get(role.name) or ("" if role.name in says else by_role(role, chat, seed))
    )
    p, talker, roles = section(Roleplay, "roleplay"), section(UserTalker, "user"), section(Roles, "roles")
    t = asyncio.run(whole_tree(p, talker, roles, client, prompts("natural"), PEOPLE[0]))
    assert [node["note"] for node in users(t)] == [[]] * 4
    assert all(node.get("quotes") == [] if "I never" in said else "reason" in node["inducer"] for node in users(t))


def test_a_user_who_leaves_without_a_word_ends_the_branch_at_the_reply():
    says = {"inducer": '{"shown": []}'}
    client = FakeClient()

    def reply(role, chat, seed):
        if role.name == "user":
            return "Bye.\n\nAll." if len(client.chats("user")) < 4 else "[end]"
        return says.get(role.name) or by_role(role, chat, seed)

    client.reply = reply
    p, talker, roles = section(Roleplay, "roleplay", turns=9), section(UserTalker, "user"), section(Roles, "roles")
    t = asyncio.run(whole_tree(p, talker, roles, client, prompts("natural"), PEOPLE[0]))
    assert [n["text"] for n in users(t)] == ["Bye.\n\nAll."] * 3 and t["ended_by_user"] == [users(t)[-1]["id"]]
    assert not any(n["continues"] for n in t["nodes"] if n["turn"] == 3 and n["role"] != "user") and client.failed == []


def test_what_a_reply_brings_up_is_asked_for_where_a_param_says_so():
    client = FakeClient()

    def reply(role, chat, seed):
        if role.name != "inducer":
            return by_role(role, chat, seed)
        said = chat[-1]["content"].rpartition("Reply: " if "not the user" in chat[-1]["content"].lower() else "User: ")[2]
        return json.dumps({"shown": [{"quote": said, "item": 2}, {"quote": "never said", "item": 1}]})

    client.reply = reply
    p, talker, roles = section(Roleplay, "roleplay", mentions=True), section(UserTalker, "user"), section(Roles, "roles")
    t = asyncio.run(whole_tree(p, talker, roles, client, prompts("natural"), PEOPLE[0]))
    replies = [n for n in t["nodes"] if n["role"] != "user"]
    assert replies and all(n["mentions"] == [{"item": 1, "quote": n["text"]}] for n in replies)
