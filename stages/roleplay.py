"""Role-play: grow a tree of conversations for every training persona.

Per turn: the user reveals one item of its persona, the inducer notes which of the items so far the user has really told,
the preferred responder answers with that note and the rejected one without it, and the verifier says which reply the user
would like better, asked twice with the replies swapped. A draw picks the reply that continues.

Run: python -m stages.roleplay (the arguments are in dvc.yaml)
"""

import asyncio
import re
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from stages.common import params, prompts, simulator, tree, turns
from stages.common.embed import Encoder, EncoderParams
from stages.common.endpoint import SetAside
from stages.common.errors import UserError, parser, run
from stages.common.llm import EMBEDDED, Client, Llm, Role, asking, role, windowed
from stages.common.personas import Persona, from_record
from stages.common.progress import Progress
from stages.common.prompts import Message
from stages.common.records import Record, read_jsonl, seed_of, write_json, write_jsonl
from stages.common.simulator import Exchange

REPLY_STOPS = ("\n",)
RANKED = 300  # personas that are told apart: thousands would take half an hour of embedding and say no more
_VERDICT = re.compile(r"^\W*(?:reply|message|answer|option)?\W*([12])(?!\w)(?!\W*(?:or|and)?\W*[12](?!\w))", re.I)


@dataclass
class Roleplay:
    """Section `roleplay`.

    `turns` of each conversation; `verify`: whether the verifier is asked about each pair; `continue_with` random (a draw) or
    preferred; `branching` 2 follows both replies down to turn `branching_depth`. `note_evidence`: least share of an item's
    content words that the user's turns and the inducer's line must both contain for the note to hold it. `resamples`: draws
    after an unusable reply. `max_failed_share` of calls.
    """

    seed: int
    turns: int
    verify: bool
    continue_with: str
    branching: int
    branching_depth: int
    note_evidence: float
    resamples: int
    max_failed_share: float

    def __post_init__(self) -> None:
        params.require(
            (self.turns >= 1, f"turns: {self.turns} is not at least 1"),
            (self.continue_with in ("random", "preferred"), f"continue_with: {self.continue_with!r} is unknown"),
            (self.branching in (1, 2), f"branching: {self.branching} is neither 1 nor 2"),
            (self.branching_depth >= 0, f"branching_depth: {self.branching_depth} is below 0"),
            (0 <= self.note_evidence <= 1, f"note_evidence: {self.note_evidence} is outside [0, 1]"),
            (0 <= self.max_failed_share <= 1, f"max_failed_share: {self.max_failed_share} is outside [0, 1]"),
        )  # fmt: skip


@dataclass
class Roles:
    """Keys of section `roles`: model, temperature, top_p, frequency penalty, longest reply, earlier exchanges shown."""

    user_model: str
    user_temp: float
    user_top_p: float
    user_penalty: float
    user_tokens: int
    user_history: int
    inducer_model: str
    inducer_temp: float
    inducer_top_p: float
    inducer_penalty: float
    inducer_tokens: int
    preferred_model: str
    preferred_temp: float
    preferred_top_p: float
    preferred_penalty: float
    preferred_tokens: int
    preferred_history: int
    rejected_model: str
    rejected_temp: float
    rejected_top_p: float
    rejected_penalty: float
    rejected_tokens: int
    rejected_history: int
    verifier_model: str
    verifier_temp: float
    verifier_top_p: float
    verifier_penalty: float
    verifier_tokens: int


@dataclass
class Params:
    """What this stage reads."""

    roleplay: Roleplay
    roles: Roles
    encoder: EncoderParams
    llm: Llm


def parse_verdict(text: str) -> int:
    """1 or 2: the reply a verifier likes better. Raises ValueError when its answer does not start with one."""
    found = _VERDICT.match(text)
    if not found:
        raise ValueError("neither 1 nor 2")
    return int(found[1])


class Grower:
    """Grows trees: everything the calls of one tree share. Verdicts are asked for in `later`; nothing waits for them."""

    def __init__(self, p: Params, client: Client, texts: dict[str, prompts.Prompt], later: asyncio.TaskGroup):
        self.p, self.client, self.texts, self.later = p, client, texts, later
        reply = {"stop": REPLY_STOPS}
        self.user = role(p.roles, "user", stop=simulator.USER_TURN_STOPS)
        self.inducer = role(p.roles, "inducer", stop=("\n",), accept=("ok", "truncated"))
        self.preferred = role(p.roles, "preferred", **reply)
        self.rejected = role(p.roles, "rejected", **reply)
        self.verifier = role(p.roles, "verifier", stop=("\n",), accept=("ok", "truncated"))

    def seed(self, persona: Persona, node_id: str, who: str) -> int:
        """Seed of a call: from the stage's seed, the persona, the path and the role."""
        return seed_of(self.p.roleplay.seed, persona.id, node_id, who)

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
        schedule = persona.schedule(self.p.roleplay.seed)
        shown, item = schedule[:turn], schedule[(turn - 1) % len(schedule)]
        fact = persona.items[item]
        try:
            said = await simulator.user_turn(
                self.client, self.user, self.texts["user"], persona, past, fact,
                history=self.p.roles.user_history, seed=(self.p.roleplay.seed, node_id),
            )  # fmt: skip
        except SetAside as e:
            self._end(persona, node_id, "user", e, ended)
            return
        node: tree.Node = {"id": node_id, "turn": turn, "role": "user", "text": said.text.strip(), "item": item}
        nodes[node_id] = node

        async def informed() -> str:
            node["note"] = await self._note(persona, node, past, told, shown)
            return await self._reply(self.preferred, persona, node, past)

        replies = await asyncio.gather(informed(), self._reply(self.rejected, persona, node, past), return_exceptions=True)
        for name, made in zip(tree.REPLIES, replies, strict=True):
            if isinstance(made, SetAside):
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
            reply["continues"] = name in following and turn < self.p.roleplay.turns
            if reply["continues"]:
                exchange = Exchange(fact, node["text"], reply["text"])
                onward.append(self._turn(persona, f"{node_id}/{name}/u", [*past, exchange], node["note"], nodes, ended))
        if self.p.roleplay.verify:
            self.later.create_task(self._verify(persona, node, nodes))  # decides nothing about how the tree goes on
        async with asyncio.TaskGroup() as group:  # gather would leave the others running when one of them fails
            for job in onward:
                group.create_task(job)

    def _end(self, persona: Persona, node_id: str, who: str, error: SetAside, ended: list[Record]) -> None:
        ended.append({"id": node_id, "role": who, "reason": error.reason})
        self.client.put_aside(f"{persona.id} {node_id}", who, error)

    def _following(self, persona: Persona, node_id: str, turn: int) -> str:
        """Names of the replies that continue the conversation."""
        r = self.p.roleplay
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
        except SetAside as e:
            node["inducer"] = {"reason": e.reason}
            return told
        node["inducer"] = line
        said = " ".join([*(e.said for e in past), node["text"]])
        least = self.p.roleplay.note_evidence
        new = [i for i in open_items if min(turns.revealed(persona.items[i], t) for t in (line, said)) >= least]
        return [*told, *new]

    async def _reply(self, who: Role, persona: Persona, node: tree.Node, past: list[Exchange]) -> str:
        """One reply. The preferred responder sees the note at the very end, so the chat before it only grows."""
        prompt = self.texts[who.name]
        history = getattr(self.p.roles, f"{who.name}_history")
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
            except SetAside as e:
                return {**shown, "chosen": None, "raw": e.raw, "reason": e.reason}
            return {**shown, "chosen": (first, second)[answer.value - 1]["role"], "raw": answer.text}

        asked = [partial(verdict, preferred, rejected), partial(verdict, rejected, preferred)]
        # one after the other: the second finds all but the replies in the server's prefix cache
        node["verdicts"] = await windowed(asked, 2 if self.client.batched(self.verifier) else 1)


async def whole_tree(p: Params, client: Client, texts: dict[str, prompts.Prompt], persona: Persona) -> Record:
    """One tree with its verdicts."""
    async with asyncio.TaskGroup() as later:
        return await Grower(p, client, texts, later).grow(persona)


def measure(trees: list[Record], examples: list[str], encode: Encoder) -> dict[str, Any]:
    """What the user turns are worth: share of faulty ones, what they reveal, how soon they name their persona."""
    import numpy as np

    from stages.common.embed import nearest_rank, so_far

    found: Counter[str] = Counter()
    turns_seen = faulty = 0
    told: list[float] = []
    noted: list[float] = []
    queries: dict[int, list[tuple[list[str], int]]] = {}
    for number, t in enumerate(trees):
        nodes = tree.index(t)
        for node in (n for n in t["nodes"] if n["role"] == "user"):
            before = tree.path(nodes, tree.parent(node["id"]))
            wrong = turns.faults(node["text"], [n["text"] for n in before], examples)
            found.update(wrong)
            turns_seen += 1
            faulty += bool(wrong)
            told.append(turns.revealed(t["items"][node["item"]], node["text"]))
            noted.append(len(node["note"]) / node["turn"])
            if number < RANKED:
                said = [*(n["text"] for n in before if n["role"] == "user"), node["text"]]
                queries.setdefault(node["turn"], []).append((said, number))
    pool = encode([f"{t['profile']} {t['personality']}" for t in trees[:RANKED]])
    encode([said[-1] for asked in queries.values() for said, _ in asked])  # in one go; below it is looked up
    top1 = {}
    for turn, asked in sorted(queries.items()):
        ranks = nearest_rank(np.stack([so_far(encode(said))[-1] for said, _ in asked]), pool, [n for _, n in asked])
        top1[turn] = round(sum(r == 1 for r in ranks) / len(ranks), 4)
    return {
        "user_turns": turns_seen,
        "faulty_user_turns": round(faulty / turns_seen, 4),
        "faults": dict(sorted(found.items())),
        "item_revealed": round(sum(x >= 0.5 for x in told) / len(told), 4),
        "item_words_said": round(sum(told) / len(told), 4),
        "items_noted_per_turn": round(sum(noted) / len(noted), 4),
        "persona_top1_from_user_turns": {"chance": round(1 / len(pool), 4), "last": top1[max(top1)], "by_turn": top1},
    }


async def work(p: Params, personas: list[Persona], texts: dict[str, prompts.Prompt], base: Path, aside: Path) -> Any:
    """Grow all trees; returns them with the calls' counts."""
    async with Client("roleplay", p.llm, {EMBEDDED: base}, p.roleplay.resamples) as client:
        with Progress("roleplay: trees", len(personas), client.rate, numbers=client.numbers) as progress:
            async with asyncio.TaskGroup() as later:
                grower = Grower(p, client, texts, later)
                jobs = [partial(grower.grow, x) for x in personas]
                trees = await windowed(jobs, p.llm.conversations_in_flight, progress)
        turns_wanted = sum(len(t["nodes"]) + len(t["ended"]) for t in trees)
        client.finish(aside, turns_wanted, p.roleplay.max_failed_share)
        return trees, client.metrics()


def main() -> None:
    names = ("user", "inducer", "preferred", "rejected", "verifier")
    a = parser(
        __doc__, ["personas", "base", *(f"{n}-prompt" for n in names)], ["trees", "set-aside", "metrics"]
    ).parse_args()
    p = params.load("roleplay", Params)
    texts = {n: prompts.load(getattr(a, f"{n}_prompt")) for n in names}
    personas = [from_record(r, f"{a.personas}:{n}") for n, r in enumerate(read_jsonl(a.personas), 1)]
    if not personas:
        raise UserError(f"{a.personas}: holds no persona")
    trees, calls = asking(work(p, personas, texts, a.base, a.set_aside))
    write_jsonl(a.trees, trees)
    examples = [m["content"] for m in texts["user"].messages() if m["role"] == "assistant"]
    write_json(a.metrics, {"calls": calls, "trees": len(trees), **measure(trees, examples, Encoder(p.encoder))})


if __name__ == "__main__":
    run(main)
