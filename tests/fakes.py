"""Stand-ins for a client of models and for an encoder, and sections of the repository's params, for tests of packages."""

import hashlib
import json

import numpy as np
from conftest import ROOT

from stages.core.params import load_yaml
from stages.core.prompts import load
from stages.llm.client import Answer
from stages.llm.endpoint import CallFailed
from stages.roleplay import read_prompts

YAML = load_yaml(str(ROOT / "params.yaml"))


def section(schema, name, **changes):
    """A section of the repository's params, with changes."""
    return schema(**{**YAML[name], **changes})


def prompt(name):
    """A prompt of the repository's smaller set."""
    (path,) = (ROOT / "prompts/small").rglob(f"{name}.txt")
    return load(path)


def prompts(of="small"):
    """The prompts of role-play in a set of the repository, by role."""

    def path(argument):
        name = {"responder-prompts": "responders"}.get(argument, argument.replace("-prompt", ".txt"))
        return ROOT / "prompts" / of / name

    return read_prompts(path)


def by_role(role, messages, seed):
    """What each role of the role-play says; other words for another call."""
    last = messages[-1]["content"]
    mark = hashlib.sha256(json.dumps([messages, seed]).encode()).hexdigest()[:6]
    said = {
        "user": f"{last.rpartition('Fact: ')[2]} What about {mark}?",
        "inducer": last,
        "preferred": f"Informed {mark}",
        "rejected": f"Plain {mark}",
        "verifier": "1" if "Informed" in last.split("Reply 2:")[0] else "2",
    }
    return said.get(role.name, f"Reply {mark}")


class FakeClient:
    """Answers with `reply(role, messages, seed)`; an empty reply fails unless the role accepts it. Keeps every call."""

    def __init__(self, reply=by_role):
        self.reply = reply
        self.asked = []  # (role, messages, seed)
        self.failed = []  # (item, role)

    def chats(self, name):
        """The messages of each call of a role."""
        return [messages for role, messages, _ in self.asked if role.name == name]

    def calls(self):
        """What a reply depends on, of every call."""
        return {(role, json.dumps(messages), seed) for role, messages, seed in self.asked}

    @property
    def ledger(self):
        return self

    def numbers(self):
        return {}

    def record_failure(self, item, role, error):
        self.failed.append((item, role))

    async def in_order(self, role, jobs):
        return [await job() for job in jobs]

    async def ask(self, role, messages, seed, parse, schema=None):
        self.asked.append((role, [dict(m) for m in messages], seed))
        text = self.reply(role, messages, seed)
        outcome = "ok" if text else "empty"
        if outcome not in role.accept:
            raise CallFailed(outcome, text)
        try:
            return Answer(parse(text), text, outcome, 0, {})
        except ValueError as e:
            raise CallFailed("unreadable", text) from e


def unit(rows):
    """Rows of length 1."""
    x = np.asarray(rows, dtype=np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def encode(texts, dim=64):
    """Unit vectors: the same for the same text, nearly orthogonal for others."""
    seeds = [int(hashlib.sha256(t.encode()).hexdigest()[:8], 16) for t in texts]
    return unit([np.random.default_rng(s).standard_normal(dim) for s in seeds]) if texts else np.zeros((0, dim), np.float32)
