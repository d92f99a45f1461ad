"""Recorded voices: a scripted server that plays capable roles with the texts of data/natural/trees.jsonl."""

import json

from conftest import ROOT

from stages.dialogue import tree
from stages.personas.persona import Persona

LIST = "\n\n- first this\n- then that"  # what every preferred reply ends with: a list, in a paragraph of its own


class Voices:
    """The people of the first `number` trees: `reply` is what a `conftest.Server` says.

    Each user says its recorded turns and then takes its leave, the inducer knows the quotes, responders are told apart by
    their notes, verifier and judge by the texts.
    """

    def __init__(self, number):
        trees = [json.loads(line) for line in (ROOT / "data/natural/trees.jsonl").read_text().splitlines()]
        self.trees = [t for t in trees if Persona(t["profile"], t["personality"]).items == t["items"]][:number]
        self.people = [Persona(t["profile"], t["personality"]) for t in self.trees]
        self.turns = [[n for n in self.path(t) if n["role"] == "user"] for t in self.trees]

    @staticmethod
    def path(t):
        """The nodes of the conversation as it was recorded."""
        return tree.path(tree.index(t), max((n["id"] for n in t["nodes"] if n["role"] == "user"), key=len))

    def place(self, text):
        """(tree, turn from 0) of a user's words."""
        return next((i, k) for i, turns in enumerate(self.turns) for k, n in enumerate(turns) if n["text"] == text)

    def replies(self, i, k):
        """By letter, the replies recorded for a turn."""
        nodes, at = tree.index(self.trees[i]), self.turns[i][k]["id"]
        return {"p": nodes[f"{at}/p"]["text"] + LIST, "r": nodes[f"{at}/r"]["text"]}

    def reply(self, body):
        messages = body["messages"]
        last = messages[-1]["content"]
        system = messages[0]["content"] if messages[0]["role"] == "system" else ""
        if system.startswith("You play a person"):
            i = next(i for i, p in enumerate(self.people) if p.text in system)
            k = sum(m["role"] == "assistant" for m in messages)
            return self.turns[i][k]["text"] + ("\n[end]" if k + 1 == len(self.turns[i]) else "")
        if system.startswith("You read what a user writes"):
            turns = last.split("\n\nThings:")[0].split("User: ")
            i, k = next(
                (i, k) for i, turns_ in enumerate(self.turns) for k, n in enumerate(turns_)
                if " ".join(n["text"].split()) == turns[-1].strip()
            )  # fmt: skip
            return json.dumps({"shown": [{**q, "item": q["item"] + 1} for q in self.turns[i][k]["quotes"]]})
        if system.startswith("You talk with somebody in a chat. Answer"):
            message, _, note = last.partition("\n\n(A note for you alone")
            i, k = self.place(message)
            if not note:
                return self.replies(i, k)["r"]
            told = [line[2:] for line in note.split("\n") if line.startswith("- ")]
            return (
                self.replies(i, k)["p"] if told[0].rstrip(")") in self.people[i].items else f"For another one than {i}, {k}."
            )
        if system.startswith("You read about a person"):
            return "1" if LIST in last.rpartition("Reply 1:")[2].split("Reply 2:")[0] else "2"
        if system.startswith("You rate how well the last reply"):
            return "4"
        return f"One paragraph.\n\nAnother one to {len(messages)}."
