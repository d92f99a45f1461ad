"""Converse: the simulated user talks to one model for K turns, once for every eval persona.

Who is tested and how is an arm of params.yaml: the model, its system prompt, its strategy (`reply`; `critique`: draft,
critique of it, revision; `reason`: think, then reply) and its memory, which is what it sees of the earlier exchanges (`all`,
`none`, or the `similar` ones). The user is that of role-play (same code, same prompt, same settings) in every arm. The model
under test sees what was said and its system prompt, nothing about the persona (`oracle` is told it in the system prompt).

Run: python -m stages.converse (the arguments are in dvc.yaml)
"""

import re
from collections.abc import Awaitable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.common import params, prompts, simulator
from stages.common.embed import EncoderParams
from stages.common.endpoint import SetAside
from stages.common.errors import UserError, one_line, parser, run
from stages.common.llm import EMBEDDED, Client, Llm, Role, asking, role, windowed
from stages.common.personas import Persona, from_record
from stages.common.progress import Progress
from stages.common.prompts import Message
from stages.common.records import Record, read_jsonl, seed_of, write_json, write_jsonl
from stages.common.simulator import Exchange

if TYPE_CHECKING:
    from stages.common.embed import Encoder

UNDER_TEST = "model under test"
LOCAL = "local"
PARTS = {"reply": (), "critique": ("critique", "revise"), "reason": ("last",)}  # strategy: parts its prompt must have
MEMORIES = ("all", "none", "similar")
WEIGHTS = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]  # of a Hub repository, what is needed to serve it
_REPLY = re.compile(r"(?is).*\breply\W*?:\W*?(?P<reply>\w.*)")


@dataclass
class Arm:
    """One line of section `arms`: `model` is `local` (models/`weights`), `<endpoint>:<model>` or a Hub id (`@revision`)."""

    model: str
    weights: str
    prompt: str
    strategy: str
    memory: str

    def __post_init__(self) -> None:
        params.require(
            (re.fullmatch(r"[\w./:@-]+", self.model) is not None, f"model: {self.model!r} is no name of a model"),
            (self.strategy in PARTS, f"strategy: {self.strategy!r} is none of {', '.join(PARTS)}"),
            (self.memory in MEMORIES, f"memory: {self.memory!r} is none of {', '.join(MEMORIES)}"),
        )


@dataclass
class Converse:
    """Section `converse`: `turns` K, and how the model under test is sampled.

    `thought_tokens` are what strategy `reason` may think beside its reply; `similar` is the number of earlier exchanges that
    memory `similar` shows.
    """

    seed: int
    turns: int
    temp: float
    top_p: float
    penalty: float
    tokens: int
    thought_tokens: int
    similar: int
    resamples: int
    max_failed_share: float

    def __post_init__(self) -> None:
        params.require(
            (self.turns >= 1, f"turns: {self.turns} is not at least 1"),
            (self.tokens >= 1, f"tokens: {self.tokens} is not at least 1"),
            (self.thought_tokens >= 0, f"thought_tokens: {self.thought_tokens} is below 0"),
            (self.similar >= 1, f"similar: {self.similar} is not at least 1"),
            (0 <= self.max_failed_share <= 1, f"max_failed_share: {self.max_failed_share} is outside [0, 1]"),
        )


@dataclass
class Roles:
    """Keys of section `roles`."""

    user_model: str
    user_temp: float
    user_top_p: float
    user_penalty: float
    user_tokens: int
    user_history: int


@dataclass
class Params:
    """What this stage reads."""

    converse: Converse
    encoder: EncoderParams
    roles: Roles
    llm: Llm


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

    def __init__(self, p: Params, client: Client, model: str, prompt: prompts.Prompt, strategy: str, memory: str):
        c = p.converse
        # a cut or empty reply is the model's own doing and is judged as it is
        taken = ("ok", "truncated", "empty", "refused", "filtered")
        self.role = Role(UNDER_TEST, model, c.temp, c.top_p, c.penalty, c.tokens, ("\n",), accept=taken)
        self.thinker = replace(self.role, tokens=c.tokens + c.thought_tokens)
        self.p, self.client, self.prompt, self.strategy, self.memory = p, client, prompt, strategy, memory
        lacking = [part for part in PARTS[strategy] if part not in dict(prompt.parts)]
        if lacking:
            raise UserError(f"{prompt.path}: has no part [{lacking[0]}], which strategy {strategy} needs")

    def sees(self, past: list[Exchange], message: str) -> list[Exchange]:
        """What it remembers of `past`."""
        if self.memory == "none":
            return []
        if self.memory == "all" or len(past) <= self.p.converse.similar:
            return past
        from stages.common.embed import Encoder

        return most_similar(Encoder(self.p.encoder), past, message, self.p.converse.similar)

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


async def conversation(p: Params, client: Client, tested: Tested, persona: Persona, user_prompt: prompts.Prompt) -> Record:
    """One whole conversation. A turn that cannot be had ends it; what was said before stays."""
    user = role(p.roles, "user", stop=simulator.USER_TURN_STOPS)
    schedule = persona.schedule(p.converse.seed)
    past: list[Exchange] = []
    said: list[Record] = []
    ended = None
    for turn in range(1, p.converse.turns + 1):
        item = schedule[(turn - 1) % len(schedule)]
        where = (p.converse.seed, turn)
        try:
            message = await simulator.user_turn(
                client, user, user_prompt, persona, past, persona.items[item],
                history=p.roles.user_history, seed=where,
            )  # fmt: skip
            answer = await tested.answer(persona, past, message.value, where)
        except SetAside as e:
            client.put_aside(f"{persona.id} turn {turn}", "converse", e)
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


async def work(p: Params, a: Any, personas: list[Persona]) -> tuple[list[Record], dict[str, Any]]:
    """All conversations with the calls' counts and what was tested."""
    c = p.converse
    user_prompt, system = prompts.load(a.user_prompt), prompts.load(a.system_prompt)
    model, folder = bound(a.model, a.weights, a.base)
    folders = {EMBEDDED: a.base, **({UNDER_TEST: folder} if folder and model == UNDER_TEST else {})}
    async with Client("converse", p.llm, folders, c.resamples) as client:
        strategy, memory = a.strategy, a.memory

        def talk(client: Client, x: Persona) -> Awaitable[Record]:
            return conversation(p, client, Tested(p, client, model, system, strategy, memory), x, user_prompt)

        with Progress(f"converse: {a.conversations.stem}", len(personas), client.rate, numbers=client.numbers) as progress:
            rows = await windowed([partial(talk, client, x) for x in personas], p.llm.conversations_in_flight, progress)
        client.finish(a.set_aside, len(personas) * c.turns, c.max_failed_share)
        return rows, {"calls": client.metrics(), "model": a.model, "identity": client.model_identity(model)}


def main() -> None:
    inputs = ["personas", "weights", "base", "user-prompt", "system-prompt"]
    p = parser(__doc__, inputs, ["conversations", "set-aside", "metrics"])
    for name in ("model", "strategy", "memory"):
        p.add_argument(f"--{name}", required=True, help="of the arm")
    a = p.parse_args()
    try:
        Arm(a.model, a.weights.name, a.system_prompt.stem, a.strategy, a.memory)
    except ValueError as e:
        raise UserError(f"arms.{a.conversations.stem}: {e}") from None
    read = params.load("converse", Params)
    personas = [from_record(r, f"{a.personas}:{n}") for n, r in enumerate(read_jsonl(a.personas), 1)]
    if not personas:
        raise UserError(f"{a.personas}: holds no persona")
    rows, counted = asking(work(read, a, personas))
    write_jsonl(a.conversations, rows)
    said = [t for r in rows for t in r["turns"]]
    unparsed = sum(t.get("unparsed", False) for t in said)
    write_json(a.metrics, {**counted, "cases": len(rows), "turns": len(said), "unparsed": unparsed})


if __name__ == "__main__":
    run(main)
