"""Grows the conversation tree of a persona: user turns, notes of the inducer, two replies to each turn, verdicts on them."""

import asyncio
import re
from functools import partial

from stages.core.files import Record, seed_of
from stages.core.prompts import Prompt
from stages.dialogue import transcript, tree
from stages.dialogue.settings import Roleplay
from stages.dialogue.transcript import Exchange
from stages.dialogue.user import User
from stages.llm.client import Client
from stages.llm.endpoint import CallFailed
from stages.llm.settings import Role, Roles, Talker, role
from stages.personas.persona import Persona
from stages.text import ngrams

_VERDICT = re.compile(
    r"[\W_]*(?:(?:(?:the|my|final|better|best|preferred|chosen)\s+)*(?:verdict|answer|choice|preference|reply|boxed)(?:\s+is)?[\W_]+)?"
    r"(?:(?:reply|message|answer|option)[\W_]*)?(?<![\d.,−-])([12])[\W_]*(?:</\w+>[\W_]*)?",
    re.I,
)


def parse_verdict(text: str) -> int:
    """1 or 2: the reply that a verifier prefers. Raises ValueError where its answer is more than one of them and a label."""
    found = _VERDICT.fullmatch(text)
    if not found:
        raise ValueError("neither 1 nor 2")
    return int(found[1])


class Grower:
    """The tree of one persona as it grows.

    Args:
        prompts: by role: user, inducer, preferred, rejected, verifier.
        later: group in which verdicts are asked for; no tree waits for them, so a tree is whole when the group has ended.
    """

    def __init__(
        self, p: Roleplay, user: Talker, roles: Roles, client: Client, prompts: dict[str, Prompt], later: asyncio.TaskGroup,
        persona: Persona,
    ):  # fmt: skip
        self.p, self.client, self.prompts, self.later, self.persona = p, client, prompts, later, persona
        self.schedule = persona.schedule(p.seed)
        self.nodes: dict[str, tree.Node] = {}
        self.ended: list[Record] = []  # branches that a failed call ended
        self.user = User(client, user, prompts["user"])
        self.history = {"preferred": roles.preferred.history, "rejected": roles.rejected.history}
        stop = {name: prompt.stop(name) for name, prompt in prompts.items()}
        self.inducer = role(roles.inducer, "inducer", accept=("ok", "truncated"), stop=stop["inducer"])
        self.preferred = role(roles.preferred, "preferred", stop=stop["preferred"])
        self.rejected = role(roles.rejected, "rejected", stop=stop["rejected"])
        self.verifier = role(roles.verifier, "verifier", accept=("ok", "truncated"), stop=stop["verifier"])

    def seed(self, node_id: str, who: str) -> int:
        """Seed of a call: from the stage's seed, the persona, the path and the role."""
        return seed_of(self.p.seed, self.persona.id, node_id, who)

    async def grow(self) -> Record:
        """The tree, its nodes in the order of ids, its verdicts aside. A call that fails ends its branch, not the tree."""
        await self._turn("u", [], [])
        nodes, ended = [self.nodes[k] for k in sorted(self.nodes)], sorted(self.ended, key=lambda e: str(e["id"]))
        return {**self.persona.record(), "items": self.persona.items, "nodes": nodes, "ended": ended}

    async def _turn(self, node_id: str, past: list[Exchange], noted: list[int]) -> None:
        """Grow the user turn `node_id`, the replies to it, and what follows them. `noted`: items in the note so far."""
        item = self.schedule[len(past) % len(self.schedule)]
        fact = self.persona.items[item]
        try:
            text = await self.user.write(self.persona, past, fact, (self.p.seed, node_id))
        except CallFailed as e:
            self._end(node_id, "user", e)
            return
        node: tree.Node = {"id": node_id, "turn": len(past) + 1, "role": "user", "text": text, "item": item}
        self.nodes[node_id] = node
        await self._replies(node, past, noted)
        if self.p.verify:
            self.later.create_task(self._verify(node))
        async with asyncio.TaskGroup() as group:  # gather would leave the others running when one of them fails
            for reply in self._continued(node):
                exchange = Exchange(fact, text, reply["text"])
                group.create_task(self._turn(f"{reply['id']}/u", [*past, exchange], node["note"]))

    async def _replies(self, node: tree.Node, past: list[Exchange], noted: list[int]) -> None:
        """Add the note to the user's node, and a node for each reply whose call did not fail."""

        async def informed() -> str:
            node["note"] = await self._note(node, past, noted)
            return await self._reply(self.preferred, node, past)

        results = await asyncio.gather(informed(), self._reply(self.rejected, node, past), return_exceptions=True)
        for (name, who), result in zip(tree.REPLIES.items(), results, strict=True):
            reply_id = f"{node['id']}/{name}"
            if isinstance(result, CallFailed):
                self._end(reply_id, who, result)
            elif isinstance(result, BaseException):
                raise result
            else:
                self.nodes[reply_id] = {"id": reply_id, "turn": node["turn"], "role": who, "text": result}

    def _continued(self, node: tree.Node) -> list[tree.Node]:
        """The replies to a user's node after which the conversation goes on; every reply is marked with whether it does."""
        replies = {name: r for name in tree.REPLIES if (r := self.nodes.get(f"{node['id']}/{name}"))}
        if self.p.branching == 2 and node["turn"] <= self.p.branching_depth:
            drawn = "pr"
        else:
            drawn = "p" if self.p.continue_with == "preferred" else "pr"[self.seed(node["id"], "continues") % 2]
        following = [name for name in replies if name in drawn] or [*replies]  # the other one rather than none
        for name, reply in replies.items():
            reply["continues"] = name in following and node["turn"] < self.p.turns
        return [reply for reply in replies.values() if reply["continues"]]

    def _end(self, node_id: str, who: str, error: CallFailed) -> None:
        self.ended.append({"id": node_id, "role": who, "reason": error.reason})
        self.client.ledger.record_failure(f"{self.persona.id} {node_id}", who, error)

    async def _note(self, node: tree.Node, past: list[Exchange], noted: list[int]) -> list[int]:
        """Items that the user has revealed: those noted before and those that the inducer finds in this message.

        The inducer reads the message alone, so it cannot leak the persona; an item is noted when both the inducer's line and
        the user's own words cover enough of it, so a note never runs ahead of the transcript.
        """
        items = self.persona.items
        open_items = [i for i in self.schedule[: node["turn"]] if i not in noted]
        if not open_items:
            return noted
        chat = self.prompts["inducer"].messages(message=node["text"])
        try:
            line = (await self.client.ask(self.inducer, chat, self.seed(node["id"], "inducer"), str.strip)).value
        except CallFailed as e:
            node["inducer"] = {"reason": e.reason}
            return noted
        node["inducer"] = line
        written = " ".join([*(e.message for e in past), node["text"]])
        evidence = {i: min(ngrams.coverage(items[i], text) for text in (line, written)) for i in open_items}
        return [*noted, *(i for i in open_items if evidence[i] >= self.p.note_evidence)]

    async def _reply(self, who: Role, node: tree.Node, past: list[Exchange]) -> str:
        """One reply. The preferred responder sees the note at the very end, so the chat before it only grows."""
        prompt, history = self.prompts[who.name], self.history[who.name]
        values = {"message": node["text"]}
        if who is self.preferred:
            # without the item of this very message: shown beside it, a small model speaks of that and of nothing earlier
            earlier = [self.persona.items[i] for i in node["note"] if i != node["item"]]
            values["note"] = " ".join(earlier) or "nothing yet."
        shown = past[-history:] if history else []
        chat = [*prompt.messages(), *transcript.messages(shown, prompt.part("last", **values))]
        return (await self.client.ask(who, chat, self.seed(node["id"], who.name), str.strip)).value

    async def _verify(self, node: tree.Node) -> None:
        """Store two verdicts on the user's node, each reply shown first in one of them; none where a reply is missing."""
        replies = [r for name in tree.REPLIES if (r := self.nodes.get(f"{node['id']}/{name}"))]
        if len(replies) == 2:
            asked = [partial(self._verdict, node, *order) for order in (replies, replies[::-1])]
            node["verdicts"] = await self.client.in_order(self.verifier, asked)

    async def _verdict(self, node: tree.Node, first: tree.Node, second: tree.Node) -> Record:
        """Which of two replies the verifier prefers: role of the one shown first, of the one chosen (None: unreadable)."""
        texts = {"message": node["text"], "first": first["text"], "second": second["text"]}
        chat = self.prompts["verifier"].messages(persona=self.persona.text, **texts)
        seed = self.seed(node["id"], f"verifier {first['role']} first")
        try:
            answer = await self.client.ask(self.verifier, chat, seed, parse_verdict)
        except CallFailed as e:
            return {"first": first["role"], "chosen": None, "raw": e.raw, "reason": e.reason}
        return {"first": first["role"], "chosen": (first, second)[answer.value - 1]["role"], "raw": answer.text}


async def whole_tree(
    p: Roleplay, user: Talker, roles: Roles, client: Client, prompts: dict[str, Prompt], persona: Persona
) -> Record:
    """One tree with its verdicts."""
    async with asyncio.TaskGroup() as later:
        return await Grower(p, user, roles, client, prompts, later, persona).grow()
