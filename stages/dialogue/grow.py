"""Grows the conversation tree of a persona: user turns, notes of the inducer, replies to each turn, verdicts on them."""

import asyncio
import re
from functools import partial

from stages.core.files import Record, seed_of
from stages.core.prompts import Message, Prompt
from stages.dialogue import inducer, transcript, tree
from stages.dialogue.quotes import Quote
from stages.dialogue.settings import Roleplay, UserTalker
from stages.dialogue.transcript import Exchange
from stages.dialogue.user import User, told
from stages.llm.client import Client
from stages.llm.endpoint import CallFailed
from stages.llm.settings import Roles, role
from stages.personas.persona import Persona
from stages.text import ngrams

_VERDICT = re.compile(
    r"[\W_]*(?:(?:(?:the|my|final|better|best|preferred|chosen)\s+)*(?:verdict|answer|choice|preference|reply|boxed)(?:\s+is)?[\W_]+)?"
    r"(?:(?:reply|message|answer|option)[\W_]*)?(?<![\d.,−-])([12])[\W_]*(?:</\w+>[\W_]*)?",
    re.I,
)
MADE = {"preferred": "informed", "rejected": "uninformed", "misinformed": "misinformed"}  # role: as roleplay.replies has it


def parse_verdict(text: str) -> int:
    """1 or 2: the reply that a verifier prefers. Raises ValueError where its answer is more than one of them and a label."""
    found = _VERDICT.fullmatch(text)
    if not found:
        raise ValueError("neither 1 nor 2")
    return int(found[1])


class Grower:
    """The tree of one persona as it grows.

    Args:
        prompts: by role: user, inducer, preferred, rejected, misinformed, verifier.
        later: group in which verdicts are asked for; no tree waits for them, so a tree is whole when the group has ended.
        stranger: whose items the note of the misinformed reply has.
    """

    def __init__(
        self, p: Roleplay, user: UserTalker, roles: Roles, client: Client, prompts: dict[str, Prompt],
        later: asyncio.TaskGroup, persona: Persona, stranger: Persona | None = None,
    ):  # fmt: skip
        self.p, self.client, self.prompts, self.later, self.persona = p, client, prompts, later, persona
        self.stranger = stranger
        self.schedule = persona.schedule(p.seed)
        self.nodes: dict[str, tree.Node] = {}
        self.ended: list[Record] = []  # branches that a failed call ended
        self.left: list[str] = []  # last user turns of branches that the user ended
        self.user = User(client, user, prompts["user"])
        settings = {"preferred": roles.preferred, "rejected": roles.rejected, "misinformed": roles.preferred}
        self.history = {name: talker.history for name, talker in settings.items()}
        self.responders = {name: role(x, name, stop=prompts[name].stop(name)) for name, x in settings.items()}
        self.made = {letter: who for letter, who in tree.REPLIES.items() if MADE[who] in p.replies}
        self.inducer = inducer.asked(roles.inducer, prompts["inducer"])
        self.noter = inducer.noter(roles.inducer, prompts["inducer"])
        brief = ("ok", "truncated")
        self.verifier = role(roles.verifier, "verifier", accept=brief, stop=prompts["verifier"].stop("verifier"))

    def seed(self, node_id: str, who: str) -> int:
        """Seed of a call: from the stage's seed, the persona, the path and the role."""
        return seed_of(self.p.seed, self.persona.id, node_id, who)

    async def grow(self) -> Record:
        """The tree, its nodes in the order of ids, its verdicts aside. A call that fails ends its branch, not the tree."""
        await self._turn("u", [], [])
        nodes, ended = [self.nodes[k] for k in sorted(self.nodes)], sorted(self.ended, key=lambda e: str(e["id"]))
        left = {"ended_by_user": sorted(self.left)} if self.user.prompt.talk.user == "natural" else {}
        return {**self.persona.record(), "items": self.persona.items, "nodes": nodes, "ended": ended, **left}

    async def _turn(self, node_id: str, past: list[Exchange], noted: list[int]) -> None:
        """Grow the user turn `node_id`, the replies to it, and what follows them. `noted`: items in the note so far."""
        kept, words = told(self.user.prompt, self.persona, self.p.seed, len(past) + 1)
        try:
            text, ends = await self.user.write(self.persona, past, words, (self.p.seed, node_id))
        except CallFailed as e:
            self._end(node_id, "user", e)
            return
        if ends:
            self.left.append(node_id if text else node_id.rpartition("/")[0].rpartition("/")[0])
        if not text:
            self.nodes[node_id.rpartition("/")[0]]["continues"] = False
            return
        node: tree.Node = {"id": node_id, "turn": len(past) + 1, "role": "user", "text": text, **kept}
        self.nodes[node_id] = node
        await self._replies(node, past, noted)
        if self.p.verify:
            for letter in self.made:
                if letter != "p":
                    self.later.create_task(self._verify(node, letter, past))
        async with asyncio.TaskGroup() as group:  # gather would leave the others running when one of them fails
            for reply in self._continued(node, ends):
                exchange = Exchange(words, text, reply["text"])
                group.create_task(self._turn(f"{reply['id']}/u", [*past, exchange], node["note"]))

    async def _replies(self, node: tree.Node, past: list[Exchange], noted: list[int]) -> None:
        """Add the note to the user's node, and a node for each reply whose call did not fail."""
        noting = asyncio.ensure_future(self._note(node, past, noted))

        async def made(who: str) -> tree.Node:
            if who != "rejected":
                node["note"] = await noting
            return await self._reply(who, node, past)

        results = await asyncio.gather(*map(made, self.made.values()), return_exceptions=True)
        for (name, who), result in zip(self.made.items(), results, strict=True):
            reply_id = f"{node['id']}/{name}"
            if isinstance(result, CallFailed):
                self._end(reply_id, who, result)
            elif isinstance(result, BaseException):
                raise result
            else:
                self.nodes[reply_id] = {"id": reply_id, "turn": node["turn"], "role": who, **result}

    def _continued(self, node: tree.Node, ends: bool) -> list[tree.Node]:
        """The replies to a user's node after which the conversation goes on; every reply is marked with whether it does.

        A misinformed reply never carries on. `ends`: nothing follows.
        """
        replies = {name: r for name in self.made if (r := self.nodes.get(f"{node['id']}/{name}"))}
        able = [name for name in replies if name != "m"]
        if self.p.branching == 2 and node["turn"] <= self.p.branching_depth:
            drawn = "pr"
        else:
            drawn = "p" if self.p.continue_with == "preferred" else "pr"[self.seed(node["id"], "continues") % 2]
        following = [name for name in able if name in drawn] or able  # the other one rather than none
        for name, reply in replies.items():
            reply["continues"] = name in following and node["turn"] < self.p.turns and not ends
        return [reply for reply in replies.values() if reply["continues"]]

    def _end(self, node_id: str, who: str, error: CallFailed) -> None:
        self.ended.append({"id": node_id, "role": who, "reason": error.reason})
        self.client.ledger.record_failure(f"{self.persona.id} {node_id}", who, error)

    async def _note(self, node: tree.Node, past: list[Exchange], noted: list[int]) -> list[int]:
        """Items that the user has shown: those noted before and those that the inducer finds now."""
        find = self._overlapping if self.user.prompt.talk.inducer == "overlap" else self._quoted
        try:
            return await find(node, past, noted)
        except CallFailed as e:
            node["inducer"] = {"reason": e.reason}
            return noted

    async def _overlapping(self, node: tree.Node, past: list[Exchange], noted: list[int]) -> list[int]:
        """By shared words.

        The inducer reads the message alone, so it cannot leak the persona; an item is noted when both the inducer's line and
        the user's own words cover enough of it, so a note never runs ahead of the transcript.
        """
        items = self.persona.items
        open_items = [i for i in self.schedule[: node["turn"]] if i not in noted]
        if not open_items:
            return noted
        chat = self.prompts["inducer"].messages(message=node["text"])
        line = (await self.client.ask(self.inducer, chat, self.seed(node["id"], "inducer"), str.strip)).value
        node["inducer"] = line
        written = " ".join([*(e.message for e in past), node["text"]])
        evidence = {i: min(ngrams.coverage(items[i], text) for text in (line, written)) for i in open_items}
        return [*noted, *(i for i in open_items if evidence[i] >= self.p.note_evidence)]

    async def _quoted(self, node: tree.Node, past: list[Exchange], noted: list[int]) -> list[int]:
        """By quotes of the user's own words, which are kept on its node."""
        items = self.persona.items
        if len(noted) == len(items):
            return noted
        history = transcript.messages(past, node["text"])
        asked, seed = self.prompts["inducer"], self.seed(node["id"], "inducer")
        node["quotes"] = await inducer.shown(self.client, self.noter, asked, items, history, noted, seed)
        return sorted({*noted, *(q["item"] for q in node["quotes"])})

    def _wrong(self, shown: list[int]) -> list[int]:
        """Items of the stranger, as many facts and as many traits as those `shown` by the user."""
        other, facts = self.stranger, sum(i < self.persona.facts for i in shown)
        assert other is not None
        order = other.schedule(self.p.seed)
        return [i for i in order if i < other.facts][:facts] + [i for i in order if i >= other.facts][: len(shown) - facts]

    async def _reply(self, who: str, node: tree.Node, past: list[Exchange]) -> Record:
        """One reply. The note stands at the very end, so the chat before it only grows.

        Returns:
            `text`; of a misinformed reply also `of` and `note`, whose items, and which, it was told; `mentions`, if asked.
        """
        items, about = self.persona.items, Record()
        # without the item of this very message: shown beside it, a small model speaks of that and of nothing earlier
        shown = [] if who == "rejected" else [i for i in node["note"] if i != node.get("item")]
        if who == "misinformed":
            assert self.stranger is not None
            items, shown = self.stranger.items, self._wrong(shown)
            about = {"of": self.stranger.id, "note": shown}
        told = None if who == "rejected" else [items[i] for i in shown]
        chat = informed(self.prompts[who], past[-self.history[who] :] if self.history[who] else [], node["text"], told)
        reply = (await self.client.ask(self.responders[who], chat, self.seed(node["id"], who), str.strip)).value
        if self.p.mentions and self.user.prompt.talk.inducer == "quotes":
            about["mentions"] = await self._mentioned(reply, self.seed(node["id"], f"{who} mentions"))
        return {"text": reply, **about}

    async def _mentioned(self, reply: str, seed: int) -> list[Quote] | None:
        """Items of the user's own persona that a reply brings up, each with a quote of it; None where the call failed."""
        try:
            return await inducer.mentioned(
                self.client, self.inducer, self.prompts["inducer"], self.persona.items, reply, seed
            )
        except CallFailed as e:
            self.client.ledger.record_failure(self.persona.id, "inducer", e)
            return None

    async def _verify(self, node: tree.Node, letter: str, past: list[Exchange]) -> None:
        """Store two verdicts on the preferred reply and another one, each shown first in one of them; none where one is
        missing. Those on the misinformed reply are kept on its own node, those on the rejected one on the user's."""
        replies = [r for name in ("p", letter) if (r := self.nodes.get(f"{node['id']}/{name}"))]
        if len(replies) == 2:
            asked = [partial(self._verdict, node, past, *order) for order in (replies, replies[::-1])]
            (node if letter == "r" else replies[1])["verdicts"] = await self.client.in_order(self.verifier, asked)

    async def _verdict(self, node: tree.Node, past: list[Exchange], first: tree.Node, second: tree.Node) -> Record:
        """Which of two replies the verifier prefers: role of the one shown first, of the one chosen (None: unreadable)."""
        prompt = self.prompts["verifier"]
        lines = f"{transcript.lines(past, 'Assistant')}\nUser: {node['text']}"
        context = {k: v for k, v in (("message", node["text"]), ("conversation", lines)) if k in prompt.variables}
        chat = prompt.messages(persona=self.persona.text, first=first["text"], second=second["text"], **context)
        seed = self.seed(node["id"], f"verifier {first['role']} first")
        try:
            answer = await self.client.ask(self.verifier, chat, seed, parse_verdict)
        except CallFailed as e:
            return {"first": first["role"], "chosen": None, "raw": e.raw, "reason": e.reason}
        return {"first": first["role"], "chosen": (first, second)[answer.value - 1]["role"], "raw": answer.text}


def informed(prompt: Prompt, past: list[Exchange], message: str, note: list[str] | None) -> list[Message]:
    """Chat that asks a responder for its reply to `message`. `note`: items it is told; None: it has no note.

    Where the prompt has a part [note], that is added to the message if there is anything to tell; else [last] holds {note}.
    """
    if "note" in dict(prompt.parts):
        last = prompt.part("last", message=message)
        if note:
            last += "\n\n" + prompt.part("note", note="\n".join(f"- {item}" for item in note))
    else:
        last = prompt.part("last", message=message, **({} if note is None else {"note": " ".join(note) or "nothing yet."}))
    return [*prompt.messages(), *transcript.messages(past, last)]


async def whole_tree(
    p: Roleplay, user: UserTalker, roles: Roles, client: Client, prompts: dict[str, Prompt], persona: Persona,
    stranger: Persona | None = None,
) -> Record:  # fmt: skip
    """One tree with its verdicts."""
    async with asyncio.TaskGroup() as later:
        return await Grower(p, user, roles, client, prompts, later, persona, stranger).grow()
