"""What a model under test is asked beside its conversations: probes and the read-out.

A probe is a message on which nothing that the user told helps, so a reply that brings it up is over-personalised. The
read-out asks what the model knows of its user. Each is asked on its own, after the turns so far; the conversation goes on as
if it had not been. stages/evaluation/probes.py measures what replies bring up, by quotes where they are asked for here.
"""

from pathlib import Path

from stages.core.cli import UserError
from stages.core.files import Record, read_objects, seed_of
from stages.core.prompts import Prompt
from stages.dialogue import transcript
from stages.dialogue.assistant import ModelUnderTest
from stages.dialogue.inducer import asked, mentioned, refusal, shown
from stages.dialogue.quotes import MOST, Quote, stands
from stages.dialogue.settings import Converse
from stages.dialogue.transcript import Exchange
from stages.llm.client import Client
from stages.llm.endpoint import CallFailed
from stages.personas.persona import Persona
from stages.text.ngrams import REVEALED, coverage


def read(path: Path) -> list[Record]:
    """The probes of a file. Raises UserError with file:line for a row without `id` and `message`, and for an id twice."""
    found: dict[str, Record] = {}
    for number, row in read_objects(path):
        if not all(isinstance(row.get(key), str) and row[key].strip() for key in ("id", "message")):
            raise UserError(f"{path}:{number}: a probe needs the texts `id` and `message`")
        if found.setdefault(row["id"], row) is not row:
            raise UserError(f"{path}:{number}: a second probe has the id {row['id']}")
    return [*found.values()]


class Probes:
    """The probes and read-outs of one arm.

    Args:
        probes: rows of `read`.
        read_out, inducer: prompts.
    Raises:
        UserError: fewer probes than are to be asked; quotes from an inducer that gives none.
    """

    def __init__(
        self, c: Converse, client: Client, tested: ModelUnderTest, probes: list[Record], read_out: Prompt, inducer: Prompt
    ):
        self.c, self.client, self.tested, self.probes = c, client, tested, probes
        self.read_out, self.inducer = read_out, inducer
        if c.probes > len(probes):
            raise UserError(f"converse.probes: {c.probes} are asked for, but there are {len(probes)} messages")
        if c.quotes and (why := refusal("converse.quotes:", inducer)):
            raise UserError(why)
        self.quoter = None if c.quotes is None else asked(c.quotes, inducer)

    def drawn(self, persona: Persona) -> list[Record]:
        """The probes of a persona, the same for every arm; more of them keep those that are there."""
        order = sorted(self.probes, key=lambda m: seed_of(self.c.seed, persona.id, "probe", m["id"]))
        return order[: self.c.probes]

    async def ask(self, persona: Persona, conversation: Record) -> list[Record]:
        """A row for each read-out, then for each probe, but where a call fails.

        Returns:
            id, kind, turn (the last one before it), asked and number of a probe, message, reply, outcome, told (items that
            the user had told by then) and, where quotes are asked for, mentions (items of the reply with their quotes).
        """
        past = [Exchange("", t["user"], t["reply"]) for t in conversation["turns"]]
        ask = self.read_out.part("ask")
        wanted: list[Record] = [{"kind": "read_out", "turn": k, "message": ask} for k in self.c.read_out if k <= len(past)]
        for number, m in enumerate(self.drawn(persona) if past else [], 1):
            probe = {"asked": m["id"], "number": number, "message": m["message"]}
            wanted.append({"kind": "probe", "turn": len(past), **probe})
        told = await self._told(persona, past[: max((w["turn"] for w in wanted), default=0)])
        rows: list[Record] = []
        for w in wanted:
            what = f"{w['kind']} {w.get('asked', '')}".strip()
            try:
                answer = await self.tested.answer(persona, past[: w["turn"]], w["message"], (self.c.seed, w["turn"], what))
                row = {"id": persona.id, **w, **answer, "told": told[w["turn"] - 1]}
                rows.append(row | await self._mentions(persona, row, what))
            except CallFailed as e:
                self._failed(persona, f"turn {w['turn']} {what}", e)
        return rows

    def _failed(self, persona: Persona, what: str, error: CallFailed) -> None:
        self.client.ledger.record_failure(f"{persona.id} {what}", "converse", error)

    async def _told(self, persona: Persona, past: list[Exchange]) -> list[list[int]]:
        """Items that the user has told by each turn: by quotes of its words, else where they hold half of an item's."""
        found: list[list[int]] = []
        for k, e in enumerate(past):
            said, before = " ".join(x.message for x in past[: k + 1]), found[-1] if found else []
            if not self.quoter:
                found.append([i for i, item in enumerate(persona.items) if coverage(item, said) >= REVEALED])
                continue
            new: list[Quote] = []
            if len(before) < len(persona.items):
                chat, seed = transcript.messages(past[:k], e.message), seed_of(self.c.seed, persona.id, "quotes", k + 1)
                try:
                    new = await shown(self.client, self.quoter, self.inducer, persona.items, chat, before, seed)
                except CallFailed as error:
                    self._failed(persona, f"turn {k + 1} quotes", error)
            found.append(sorted({*before, *(q["item"] for q in new)}))
        return found

    async def _mentions(self, persona: Persona, row: Record, what: str) -> Record:
        """`mentions` of a reply, where quotes are asked for: items, each with words that the probe does not hold."""
        if not self.quoter or not row["reply"]:
            return {"mentions": []} if self.quoter else {}
        items, seed = persona.items, seed_of(self.c.seed, persona.id, "quotes", row["turn"], what)
        most = len(items) if row["kind"] == "read_out" else MOST
        found = await mentioned(self.client, self.quoter, self.inducer, items, row["reply"], seed, most)
        return {"mentions": [q for q in found if not stands(q["quote"], [row["message"]])]}
