"""The model under test: an arm of the evaluation answers a message."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from stages.core import prompts
from stages.core.cli import UserError, one_line
from stages.core.files import Record, seed_of
from stages.core.prompts import Message
from stages.dialogue.settings import PARTS, Converse
from stages.dialogue.transcript import Exchange
from stages.dialogue.user import USER_TURN_STOPS, user_turn
from stages.llm.client import Client
from stages.llm.endpoint import CallFailed
from stages.llm.settings import EMBEDDED, Role, Talker, role
from stages.personas.persona import Persona
from stages.text.settings import EncoderParams

if TYPE_CHECKING:
    from stages.text.encoder import Encoder

UNDER_TEST = "model under test"
LOCAL = "local"
WEIGHTS = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]  # of a Hub repository, what is needed to serve it
_REPLY = re.compile(r"(?is).*\breply\W*?:\W*?(?P<reply>\w.*)")


def parse_reply(text: str) -> str:
    """The reply in what was thought and said: all after the last `Reply:`. Raises ValueError where there is none."""
    found = _REPLY.match(text)
    if not found:
        raise ValueError("no reply")
    return found["reply"].strip().strip('"')


def most_similar(encode: "Encoder", past: list[Exchange], message: str, number: int) -> list[Exchange]:
    """The `number` exchanges nearest to `message` by cosine of their embeddings, in the order in which they were said."""
    vectors = encode([message, *(f"{e.said} {e.reply}" for e in past)])
    cosines = vectors[1:] @ vectors[0]
    nearest = sorted(range(len(past)), key=lambda i: (-float(cosines[i]), i))[:number]
    return [past[i] for i in sorted(nearest)]


class Tested:
    """The model under test in its arm: answers a message after what it may see of the exchanges before."""

    def __init__(
        self,
        c: Converse,
        encoder: EncoderParams,
        client: Client,
        model: str,
        prompt: prompts.Prompt,
        strategy: str,
        memory: str,
    ):
        # a cut or empty reply is the model's own doing and is judged as it is
        taken = ("ok", "truncated", "empty", "refused", "filtered")
        self.role = role(c, UNDER_TEST, model=model, stop=("\n",), accept=taken)
        self.thinker = self.role.model_copy(update={"tokens": c.tokens + c.thought_tokens})
        self.client, self.prompt, self.strategy, self.memory = client, prompt, strategy, memory
        self.similar, self.encoder = c.similar, encoder
        lacking = [part for part in PARTS[strategy] if part not in dict(prompt.parts)]
        if lacking:
            raise UserError(f"{prompt.path}: has no part [{lacking[0]}], which strategy {strategy} needs")

    def sees(self, past: list[Exchange], message: str) -> list[Exchange]:
        """What it remembers of `past`."""
        if self.memory == "none":
            return []
        if self.memory == "all" or len(past) <= self.similar:
            return past
        from stages.text.encoder import Encoder

        return most_similar(Encoder(self.encoder), past, message, self.similar)

    async def answer(self, persona: Persona, past: list[Exchange], message: str, where: tuple[object, ...]) -> Record:
        """`reply` and its `outcome`, with what the strategy said on the way. `where` seeds the calls."""
        chat = self.prompt.messages(**({"persona": persona.text} if "persona" in self.prompt.variables else {}))
        seen = self.sees(past, message)
        if self.strategy == "reason":
            return await self._reasoned(persona, chat, seen, message, where)
        for e in seen:
            chat += [{"role": "user", "content": e.said}, {"role": "assistant", "content": e.reply}]
        chat.append({"role": "user", "content": message})
        said = await self._say(self.role, chat, persona, where, "reply")
        if self.strategy == "reply":
            return said
        draft = said["reply"]
        chat += [{"role": "assistant", "content": draft}, {"role": "user", "content": self.prompt.part("critique")}]
        critique = (await self._say(self.role, chat, persona, where, "critique"))["reply"]
        chat += [{"role": "assistant", "content": critique}, {"role": "user", "content": self.prompt.part("revise")}]
        return {**await self._say(self.role, chat, persona, where, "revision"), "draft": draft, "critique": critique}

    async def _reasoned(
        self, persona: Persona, chat: list[Message], seen: list[Exchange], message: str, where: tuple[object, ...]
    ) -> Record:
        """A reply after a thought; what cannot be told apart is marked `unparsed` and said as it is."""
        lines = "".join(f"\nUser: {e.said}\nYou: {e.reply}" for e in seen) or " nothing."
        chat.append({"role": "user", "content": self.prompt.part("last", conversation=lines, message=message)})
        said = await self._say(self.thinker, chat, persona, where, "reply")
        try:
            return {**said, "reply": parse_reply(said["reply"]), "raw": said["reply"], "unparsed": False}
        except ValueError:
            return {**said, "raw": said["reply"], "unparsed": True}

    async def _say(self, who: Role, chat: list[Message], persona: Persona, where: tuple[object, ...], what: str) -> Record:
        answer = await self.client.ask(who, list(chat), seed_of(*where, persona.id, what), str.strip)
        return {"reply": answer.value, "outcome": answer.outcome}


async def conversation(
    c: Converse, talker: Talker, client: Client, tested: Tested, persona: Persona, user_prompt: prompts.Prompt
) -> Record:
    """One whole conversation. A turn that cannot be had ends it; what was said before stays."""
    speaker = role(talker, "user", stop=USER_TURN_STOPS)
    schedule = persona.schedule(c.seed)
    past: list[Exchange] = []
    said: list[Record] = []
    ended = None
    for turn in range(1, c.turns + 1):
        item = schedule[(turn - 1) % len(schedule)]
        where = (c.seed, turn)
        try:
            message = await user_turn(
                client, speaker, user_prompt, persona, past, persona.items[item],
                history=talker.history, seed=where,
            )  # fmt: skip
            answer = await tested.answer(persona, past, message.value, where)
        except CallFailed as e:
            client.ledger.record_failure(f"{persona.id} turn {turn}", "converse", e)
            ended = {"turn": turn, "reason": e.reason}
            break
        past.append(Exchange(persona.items[item], message.value, answer["reply"]))
        said.append({"turn": turn, "item": item, "user": message.value, **answer})
    return {**persona.record(), "items": persona.items, "turns": said, "ended": ended}


def snapshot(model: str, fetch: bool) -> Path | None:
    """Folder of a Hub model (`owner/name` or `owner/name@revision`) in the Hub client's cache.

    `fetch`: download what is not there; without, None. Raises UserError when it cannot be had.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    name, _, revision = model.partition("@")
    try:
        found = snapshot_download(name, revision=revision or None, allow_patterns=WEIGHTS, local_files_only=not fetch)
    except Exception as e:
        if not fetch and isinstance(e, LocalEntryNotFoundError):
            return None
        raise UserError(f"arms: model {model} cannot be had from the Hub: {one_line(e)}") from None
    return Path(found)


def bound(model: str, weights: Path, base: Path, fetch: bool = True) -> tuple[str, Path | None]:
    """(name of the model under test for a role, its folder; None where it is served, or not there and not to be fetched)."""
    if model != LOCAL:
        return (model, None) if ":" in model else (UNDER_TEST, snapshot(model, fetch))
    return (EMBEDDED, base) if weights == base else (UNDER_TEST, weights)  # the user's: one server is enough
