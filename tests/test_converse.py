"""Converse: the same user for every model, histories, and the oracle's knowledge."""

import json

from conftest import Project  # noqa: F401

PERSON = {"profile": "I fish at sea. I own two boats. My leg hurts. I nap.", "personality": "I am shy, loud, and kind."}


def ready(project):
    folder = project.folder / "data/personas"
    folder.mkdir(parents=True)
    (folder / "eval.jsonl").write_text(json.dumps(PERSON) + "\n")


def test_user_of_converse_is_the_user_of_roleplay(project, server):
    """Same prompt, same settings: where nothing of the conversation is shown, the calls are word for word the same."""
    ready(project)
    spec = project.params
    assert spec.roles.user_history == 0
    (project.folder / "data/personas/train.jsonl").write_text(json.dumps(PERSON) + "\n")
    project.run("roleplay")
    users = [b["messages"] for b in server.requests if b["messages"][0]["content"].startswith("You are a person")]
    assert len(users) == 4


def test_conversation_grows_by_exact_messages(project, server):
    """The model under test is served by the scripted server here: converse's own client code is what is tested."""
    import asyncio

    from stages import converse
    from stages.common import params, prompts
    from stages.common.llm import Client, Role
    from stages.common.personas import Persona

    ready(project)
    import os

    here = os.getcwd()
    os.chdir(project.folder)
    try:
        p = params.load("converse", converse.Params)

        async def talk(system):
            async with Client("converse", p.llm, {}, 0) as client:
                tested = Role("model under test", "scripted:tested", 0.5, 0.9, 0.0, 64, ("\n",))
                return await converse.conversation(
                    p, client, tested, Persona(**PERSON), prompts.load(project.folder / "prompts/user.txt"),
                    prompts.load(project.folder / f"prompts/{system}.txt"),
                )  # fmt: skip

        blind, told = asyncio.run(talk("assistant")), asyncio.run(talk("oracle"))
    finally:
        os.chdir(here)
    assert [t["user"] for t in blind["turns"]] == [t["user"] for t in told["turns"]]
    assert len(blind["turns"]) == 4 and blind["ended"] is None
    tested = [b["messages"] for b in server.requests if b["model"] == "tested"]
    assert len(tested) == 8
    assert [m["content"] for m in tested[3][1:]] == [x for t in blind["turns"][:3] for x in (t["user"], t["reply"])] + [
        blind["turns"][3]["user"]
    ]
    assert all("I own two boats" not in m[0]["content"] for m in tested[:4])
    assert all(PERSON["profile"] in m[0]["content"] for m in tested[4:])
