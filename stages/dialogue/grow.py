"""Grows the conversation tree of a persona."""

import asyncio
import re
from collections.abc import Coroutine
from functools import partial
from typing import Any

from stages.core import prompts
from stages.core.files import Record, seed_of
from stages.core.prompts import Message
from stages.dialogue import tree
from stages.dialogue.settings import Roleplay
from stages.dialogue.transcript import Exchange
from stages.dialogue.user import USER_TURN_STOPS, user_turn
from stages.llm.client import Client
from stages.llm.endpoint import CallFailed
from stages.llm.settings import Role, Roles, Talker, role
from stages.personas.persona import Persona
from stages.text import ngrams

REPLY_STOPS = ("\n",)
_VERDICT = re.compile(r"^\W*(?:reply|message|answer|option)?\W*([12])(?!\w)(?!\W*(?:or|and)?\W*[12](?!\w))", re.I)


def parse_verdict(text: str) -> int:
    """1 or 2: the reply a verifier likes better. Raises ValueError when its answer does not start with one."""
    found = _VERDICT.match(text)
    if not found:
        raise ValueError("neither 1 nor 2")
    return int(found[1])


class Grower:
    """Grows trees: everything the calls of one tree share. Verdicts are asked for in `later`; nothing waits for them."""

    def __init__(
        self,
        p: Roleplay,
        user: Talker,
        roles: Roles,
        client: Client,
        texts: dict[str, prompts.Prompt],
        later: asyncio.TaskGroup,
    ):
        self.p, self.roles, self.client, self.texts, self.later = p, roles, client, texts, later
        self.user_history = user.history
        reply = {"stop": REPLY_STOPS}
        self.user = role(user, "user", stop=USER_TURN_STOPS)
        self.inducer = role(roles.inducer, "inducer", stop=("\n",), accept=("ok", "truncated"))
        self.preferred = role(roles.preferred, "preferred", **reply)
        self.rejected = role(roles.rejected, "rejected", **reply)
        self.verifier = role(roles.verifier, "verifier", stop=("\n",), accept=("ok", "truncated"))

    def seed(self, persona: Persona, node_id: str, who: str) -> int:
        """Seed of a call: from the stage's seed, the persona, the path and the role."""
        return seed_of(self.p.seed, persona.id, node_id, who)

    async def grow(self, persona: Persona) -> Record:
        """One whole tree but for its verdicts. Calls that cannot be had end their branch; what was said before stays."""
        nodes: dict[str, tree.Node] = {}
        ended: list[Record] = []
        await self._turn(persona, "u", [], [], nodes, ended)
        return {
            **persona.record(),
            "items": persona.items,
            "nodes": [nodes[k] for k in sorted(nodes)],
            "ended": sorted(ended, key=lambda e: str(e["id"])),
        }

    async def _turn(
        self,
        persona: Persona,
        node_id: str,
        past: list[Exchange],
        told: list[int],
        nodes: dict[str, tree.Node],
        ended: list[Record],
    ) -> None:
        """Grow the user turn `node_id`, both replies to it, and what follows them. `told`: items noted so far."""
        turn = len(past) + 1
        schedule = persona.schedule(self.p.seed)
        shown, item = schedule[:turn], schedule[(turn - 1) % len(schedule)]
        fact = persona.items[item]
        try:
            said = await user_turn(
                self.client, self.user, self.texts["user"], persona, past, fact,
                history=self.user_history, seed=(self.p.seed, node_id),
            )  # fmt: skip
        except CallFailed as e:
            self._end(persona, node_id, "user", e, ended)
            return
        node: tree.Node = {"id": node_id, "turn": turn, "role": "user", "text": said.text.strip(), "item": item}
        nodes[node_id] = node

        async def informed() -> str:
            node["note"] = await self._note(persona, node, past, told, shown)
            return await self._reply(self.preferred, persona, node, past)

        replies = await asyncio.gather(informed(), self._reply(self.rejected, persona, node, past), return_exceptions=True)
        for name, made in zip(tree.REPLIES, replies, strict=True):
            if isinstance(made, CallFailed):
                self._end(persona, f"{node_id}/{name}", tree.REPLIES[name], made, ended)
            elif isinstance(made, BaseException):
                raise made
            else:
                nodes[f"{node_id}/{name}"] = {
                    "id": f"{node_id}/{name}", "turn": turn, "role": tree.REPLIES[name], "text": made
                }  # fmt: skip
        onward: list[Coroutine[Any, Any, None]] = []
        had = [name for name in tree.REPLIES if f"{node_id}/{name}" in nodes]
        drawn = self._following(persona, node_id, turn)
        following = [name for name in had if name in drawn] or had  # the other one rather than none
        for name in had:
            reply = nodes[f"{node_id}/{name}"]
            reply["continues"] = name in following and turn < self.p.turns
            if reply["continues"]:
                exchange = Exchange(fact, node["text"], reply["text"])
                onward.append(self._turn(persona, f"{node_id}/{name}/u", [*past, exchange], node["note"], nodes, ended))
        if self.p.verify:
            self.later.create_task(self._verify(persona, node, nodes))  # decides nothing about how the tree goes on
        async with asyncio.TaskGroup() as group:  # gather would leave the others running when one of them fails
            for job in onward:
                group.create_task(job)

    def _end(self, persona: Persona, node_id: str, who: str, error: CallFailed, ended: list[Record]) -> None:
        ended.append({"id": node_id, "role": who, "reason": error.reason})
        self.client.ledger.record_failure(f"{persona.id} {node_id}", who, error)

    def _following(self, persona: Persona, node_id: str, turn: int) -> str:
        """Names of the replies that continue the conversation."""
        r = self.p
        if r.branching == 2 and turn <= r.branching_depth:
            return "pr"
        if r.continue_with == "preferred":
            return "p"
        return "pr"[self.seed(persona, node_id, "continues") % 2]

    async def _note(
        self, persona: Persona, node: tree.Node, past: list[Exchange], told: list[int], shown: list[int]
    ) -> list[int]:
        """Items the user has told so far: those noted before and those in what the inducer writes down of this message.

        The inducer reads the message alone, so it cannot leak the persona; an item is noted when both its line and the
        user's own words hold enough of it, so a note never runs ahead of the transcript.
        """
        open_items = [i for i in shown if i not in told]
        if not open_items:
            return told
        chat = self.texts["inducer"].messages(message=node["text"])
        try:
            seed = self.seed(persona, node["id"], "inducer")
            line = (await self.client.ask(self.inducer, chat, seed, str.strip)).value
        except CallFailed as e:
            node["inducer"] = {"reason": e.reason}
            return told
        node["inducer"] = line
        said = " ".join([*(e.said for e in past), node["text"]])
        least = self.p.note_evidence
        new = [i for i in open_items if min(ngrams.revealed(persona.items[i], t) for t in (line, said)) >= least]
        return [*told, *new]

    async def _reply(self, who: Role, persona: Persona, node: tree.Node, past: list[Exchange]) -> str:
        """One reply. The preferred responder sees the note at the very end, so the chat before it only grows."""
        prompt = self.texts[who.name]
        history = getattr(self.roles, who.name).history
        chat: list[Message] = prompt.messages()
        for e in past[-history:] if history else []:
            chat += [{"role": "user", "content": e.said}, {"role": "assistant", "content": e.reply}]
        values = {"message": node["text"]}
        if who is self.preferred:
            # without what this very message told: shown beside it, a small model speaks of that and of nothing earlier
            earlier = [persona.items[i] for i in node["note"] if i != node["item"]]
            values["note"] = " ".join(earlier) or "nothing yet."
        chat.append({"role": "user", "content": prompt.part("last", **values)})
        answer = await self.client.ask(who, chat, self.seed(persona, node["id"], who.name), str.strip)
        return answer.value

    async def _verify(self, persona: Persona, node: tree.Node, nodes: dict[str, tree.Node]) -> None:
        """Store the verifier's two answers on the user node: which reply it took, with each of them shown first."""
        preferred, rejected = (nodes.get(f"{node['id']}/{name}") for name in tree.REPLIES)
        if not preferred or not rejected:
            return

        async def verdict(first: tree.Node, second: tree.Node) -> Record:
            chat = self.texts["verifier"].messages(
                persona=persona.text, message=node["text"], first=first["text"], second=second["text"]
            )
            seed = self.seed(persona, node["id"], f"verifier {first['role']} first")
            shown = {"first": first["role"]}
            try:
                answer = await self.client.ask(self.verifier, chat, seed, parse_verdict)
            except CallFailed as e:
                return {**shown, "chosen": None, "raw": e.raw, "reason": e.reason}
            return {**shown, "chosen": (first, second)[answer.value - 1]["role"], "raw": answer.text}

        asked = [partial(verdict, preferred, rejected), partial(verdict, rejected, preferred)]
        node["verdicts"] = await self.client.in_order(self.verifier, asked)


async def whole_tree(
    p: Roleplay, user: Talker, roles: Roles, client: Client, texts: dict[str, prompts.Prompt], persona: Persona
) -> Record:
    """One tree with its verdicts."""
    async with asyncio.TaskGroup() as later:
        return await Grower(p, user, roles, client, texts, later).grow(persona)
