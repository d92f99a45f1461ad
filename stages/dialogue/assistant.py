"""The model under test, which is an arm of the evaluation, and its conversation with the simulated user."""

import re
from typing import TYPE_CHECKING

from stages.core.cli import UserError
from stages.core.files import Record, seed_of
from stages.core.prompts import Message, Prompt
from stages.dialogue import transcript
from stages.dialogue.binding import UNDER_TEST
from stages.dialogue.settings import PARTS, Converse
from stages.dialogue.transcript import Exchange
from stages.dialogue.user import User, told
from stages.llm.client import Client
from stages.llm.endpoint import CallFailed
from stages.llm.settings import Role, role
from stages.personas.persona import Persona
from stages.text.settings import EncoderParams

if TYPE_CHECKING:
    from stages.text.encoder import Encode

# a cut or empty reply is the model's own doing and is judged as it is
ACCEPTED = ("ok", "truncated", "empty", "refused", "filtered")
REPLY = re.compile(r"(?is).*\breply\W*?[:：][\s*_]*(?P<reply>.*\w.*)")


def most_similar(encode: "Encode", past: list[Exchange], message: str, number: int) -> list[Exchange]:
    """The `number` exchanges nearest to `message` by cosine of their embeddings, in the order of the conversation."""
    vectors = encode([message, *(f"{e.message} {e.reply}" for e in past)])
    cosines = vectors[1:] @ vectors[0]
    nearest = sorted(range(len(past)), key=lambda i: (-float(cosines[i]), i))[:number]
    return [past[i] for i in sorted(nearest)]


class ModelUnderTest:
    """The model under test in its arm: answers a message after what its memory keeps of the exchanges before.

    Raises:
        UserError: the prompt lacks a part that the strategy needs.
    """

    def __init__(
        self, c: Converse, encoder: EncoderParams, client: Client, model: str, prompt: Prompt, strategy: str, memory: str
    ):
        self.role = role(c, UNDER_TEST, model=model, stop=prompt.stop(UNDER_TEST), accept=ACCEPTED)
        self.thinker = self.role.model_copy(update={"tokens": c.tokens + c.thought_tokens})
        self.client, self.prompt, self.strategy, self.memory = client, prompt, strategy, memory
        self.similar, self.encoder = c.similar, encoder
        if lacking := [part for part in PARTS[strategy] if part not in dict(prompt.parts)]:
            raise UserError(f"{prompt.path}: has no part [{lacking[0]}], which strategy {strategy} needs")

    def sees(self, past: list[Exchange], message: str) -> list[Exchange]:
        """The exchanges of `past` that its memory keeps."""
        if self.memory == "none":
            return []
        if self.memory == "all" or len(past) <= self.similar:
            return past
        from stages.text.encoder import Encoder

        return most_similar(Encoder(self.encoder), past, message, self.similar)

    async def answer(self, persona: Persona, past: list[Exchange], message: str, where: tuple[object, ...]) -> Record:
        """`reply` and its `outcome`, with the drafts, critiques or thoughts of the strategy. `where` seeds the calls.

        Raises:
            CallFailed: a call gave no accepted reply.
        """
        head = self.prompt.messages(**({"persona": persona.text} if "persona" in self.prompt.variables else {}))
        seen = self.sees(past, message)
        seed = (*where, persona.id)
        if self.strategy == "reason":
            return await self._reason(head, seen, message, seed)
        if self.strategy == "critique":
            return await self._critique(head, seen, message, seed)
        return await self._say(self.role, [*head, *transcript.messages(seen, message)], seed, "reply")

    async def _critique(self, head: list[Message], seen: list[Exchange], message: str, seed: tuple[object, ...]) -> Record:
        """A draft, a critique of it, and the revision, which is the reply."""

        async def say(what: str, *following: str) -> Record:
            return await self._say(self.role, [*head, *transcript.messages(seen, *following)], seed, what)

        ask, again = self.prompt.part("critique"), self.prompt.part("revise")
        draft = (await say("reply", message))["reply"]
        critique = (await say("critique", message, draft, ask))["reply"]
        revision = await say("revision", message, draft, ask, critique, again)
        return {**revision, "draft": draft, "critique": critique}

    async def _reason(self, head: list[Message], seen: list[Exchange], message: str, seed: tuple[object, ...]) -> Record:
        """A reply after a thought; a text without a mark between the two is `unparsed` and is the reply as a whole."""
        asked = self.prompt.part("last", conversation=transcript.lines(seen) or " nothing.", message=message)
        whole = await self._say(self.thinker, [*head, *transcript.messages([], asked)], seed, "reply")
        found = REPLY.match(raw := whole["reply"])
        reply = found["reply"].strip().strip('"') if found else raw
        return {**whole, "reply": reply, "raw": raw, "unparsed": not found}

    async def _say(self, role: Role, chat: list[Message], seed: tuple[object, ...], what: str) -> Record:
        answer = await self.client.ask(role, chat, seed_of(*seed, what), str.strip)
        return {"reply": answer.value, "outcome": answer.outcome}


async def conversation(
    client: Client, user: User, tested: ModelUnderTest, persona: Persona, seed: int, turns: int
) -> Record:
    """The conversation of `turns` turns. A turn whose call fails ends it; the turns before stay.

    Returns:
        The persona, its items, `turns` (turn, item or agenda, user, reply, outcome, ...), `ended` (turn and reason, or
        None), and `ended_by_user`, the user's last turn, where it ended the conversation.
    """
    past: list[Exchange] = []
    rows: list[Record] = []
    ended, left = None, {}
    for turn in range(1, turns + 1):
        where = (seed, turn)
        kept, words = told(user.prompt, persona, seed, turn)
        try:
            message, ends = await user.write(persona, past, words, where)
            if ends:
                left = {"ended_by_user": turn if message else turn - 1}
            if not message:
                break
            answer = await tested.answer(persona, past, message, where)
        except CallFailed as e:
            client.ledger.record_failure(f"{persona.id} turn {turn}", "converse", e)
            ended = {"turn": turn, "reason": e.reason}
            break
        past.append(Exchange(words, message, answer["reply"]))
        rows.append({"turn": turn, **kept, "user": message, **answer})
        if ends:
            break
    return {**persona.record(), "items": persona.items, "turns": rows, "ended": ended, **left}
