"""Converse: the simulated user talks to one model for K turns, once for every eval persona.

The user is the one of role-play (same code, same prompt, same settings). The model under test sees the conversation and its
system prompt, nothing about the persona (`oracle` is told it in the system prompt).

Run: python -m stages.converse (the arguments are in dvc.yaml)
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from stages.common import params, prompts, simulator
from stages.common.endpoint import SetAside
from stages.common.errors import UserError, parser, run
from stages.common.llm import EMBEDDED, Client, Llm, Role, asking, role, windowed
from stages.common.personas import Persona, from_record
from stages.common.progress import Progress
from stages.common.records import Record, read_jsonl, seed_of, write_json, write_jsonl
from stages.common.simulator import Exchange

UNDER_TEST = "model under test"


@dataclass
class Converse:
    """Section `converse`: `turns` K, and how the model under test is sampled."""

    seed: int
    turns: int
    temp: float
    top_p: float
    penalty: float
    tokens: int
    resamples: int
    max_failed_share: float

    def __post_init__(self) -> None:
        params.require(
            (self.turns >= 1, f"turns: {self.turns} is not at least 1"),
            (self.tokens >= 1, f"tokens: {self.tokens} is not at least 1"),
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
    roles: Roles
    llm: Llm


async def conversation(
    p: Params, client: Client, tested: Role, persona: Persona, user_prompt: prompts.Prompt, system: prompts.Prompt
) -> Record:
    """One whole conversation. A turn that cannot be had ends it; what was said before stays."""
    user = role(p.roles, "user", stop=simulator.USER_TURN_STOPS)
    told = {"persona": persona.text} if "persona" in system.variables else {}
    chat = system.messages(**told)
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
            chat.append({"role": "user", "content": message.value})
            answer = await client.ask(tested, chat, seed_of(*where, persona.id, "reply"), str.strip)
        except SetAside as e:
            client.put_aside(f"{persona.id} turn {turn}", "converse", e)
            ended = {"turn": turn, "reason": e.reason}
            break
        chat.append({"role": "assistant", "content": answer.value})
        past.append(Exchange(persona.items[item], message.value, answer.value))
        said.append({"turn": turn, "item": item, "user": message.value, "reply": answer.value, "outcome": answer.outcome})
    return {**persona.record(), "items": persona.items, "turns": said, "ended": ended}


def under_test(c: Converse, same: bool) -> Role:
    """The model under test, a role; `same`: it is the embedded one."""
    # a cut or empty reply is the model's own doing and is judged as it is
    taken = ("ok", "truncated", "empty", "refused", "filtered")
    return Role(UNDER_TEST, EMBEDDED if same else UNDER_TEST, c.temp, c.top_p, c.penalty, c.tokens, ("\n",), accept=taken)


async def work(p: Params, a: Any, personas: list[Persona]) -> tuple[list[Record], dict[str, Any]]:
    """All conversations with the calls' counts."""
    c = p.converse
    user_prompt, system = prompts.load(a.user_prompt), prompts.load(a.system_prompt)
    same = Path(a.model).resolve() == Path(a.base).resolve()  # then one server is enough
    tested = under_test(c, same)
    folders = {EMBEDDED: a.base, UNDER_TEST: a.model}
    async with Client("converse", p.llm, folders, c.resamples) as client:
        with Progress(f"converse: {a.conversations.stem}", len(personas), client.rate, numbers=client.numbers) as progress:
            jobs = [partial(conversation, p, client, tested, x, user_prompt, system) for x in personas]
            rows = await windowed(jobs, p.llm.conversations_in_flight, progress)
        client.finish(a.set_aside, len(personas) * c.turns, c.max_failed_share)
        return rows, client.metrics()


def main() -> None:
    a = parser(
        __doc__,
        ["personas", "model", "base", "user-prompt", "system-prompt"],
        ["conversations", "set-aside", "metrics"],
    ).parse_args()
    p = params.load("converse", Params)
    personas = [from_record(r, f"{a.personas}:{n}") for n, r in enumerate(read_jsonl(a.personas), 1)]
    if not personas:
        raise UserError(f"{a.personas}: holds no persona")
    rows, calls = asking(work(p, a, personas))
    write_jsonl(a.conversations, rows)
    write_json(a.metrics, {"calls": calls, "cases": len(rows), "turns": sum(len(r["turns"]) for r in rows)})


if __name__ == "__main__":
    run(main)
