"""Converse: the simulated user talks to one model for K turns, once for every eval persona.

Who is tested and how is an arm of params.yaml: the model, its system prompt, its strategy (`reply`; `critique`: draft,
critique of it, revision; `reason`: think, then reply) and its memory, which is what it sees of the earlier exchanges (`all`,
`none`, or the `similar` ones). The user is that of role-play (same code, same prompt, same settings) in every arm. The model
under test sees what was said and its system prompt, nothing about the persona (`oracle` is told it in the system prompt).

Run: python -m stages.converse (the arguments are in dvc.yaml)
"""

from collections.abc import Awaitable
from functools import partial
from typing import Any

from stages.core import params, prompts
from stages.core.aio import run_async
from stages.core.cli import UserError, parser, run
from stages.core.files import Record, read_jsonl, write_json, write_jsonl
from stages.core.progress import Progress
from stages.dialogue.assistant import UNDER_TEST, Tested, bound, conversation
from stages.dialogue.settings import Arm, Converse
from stages.llm.backend import PaidCalls
from stages.llm.client import Client
from stages.llm.settings import EMBEDDED, Llm, Talker
from stages.personas.persona import Persona, from_record
from stages.text.settings import EncoderParams


class Params(params.Section):
    """What this stage reads."""

    converse: Converse
    user: Talker
    encoder: EncoderParams
    llm: Llm


async def work(p: Params, a: Any, personas: list[Persona]) -> tuple[list[Record], dict[str, Any]]:
    """All conversations with the calls' counts and what was tested."""
    c = p.converse
    user_prompt, system = prompts.load(a.user_prompt), prompts.load(a.system_prompt)
    model, folder = bound(a.model, a.weights, a.base)
    folders = {EMBEDDED: a.base, **({UNDER_TEST: folder} if folder and model == UNDER_TEST else {})}
    async with Client(PaidCalls("converse", p.llm, folders), c.resamples) as client:
        strategy, memory = a.strategy, a.memory

        def talk(client: Client, x: Persona) -> Awaitable[Record]:
            tested = Tested(c, p.encoder, client, model, system, strategy, memory)
            return conversation(c, p.user, client, tested, x, user_prompt)

        with Progress(f"converse: {a.conversations.stem}", len(personas), client.ledger.numbers) as progress:
            rows = await client.in_parallel([partial(talk, client, x) for x in personas], progress)
        client.ledger.finish(a.failed, len(personas) * c.turns, c.max_failed_share)
        return rows, {"calls": client.ledger.metrics(), "model": a.model, "identity": client.servers.identity(model)}


def main() -> None:
    inputs = ["personas", "weights", "base", "user-prompt", "system-prompt"]
    p = parser(__doc__, inputs, ["conversations", "failed", "metrics"])
    for name in ("model", "strategy", "memory"):
        p.add_argument(f"--{name}", required=True, help="of the arm")
    a = p.parse_args()
    arm = {"model": a.model, "weights": a.weights.name, "prompt": a.system_prompt.stem}
    if faults := params.checked(Arm, {**arm, "strategy": a.strategy, "memory": a.memory})[1]:
        raise UserError("; ".join(f"arms.{a.conversations.stem}.{fault}" for fault in faults))
    read = params.load("converse", Params)
    if a.memory == "similar" and read.converse.turns - 1 <= read.converse.similar:
        raise UserError(
            f"arms.{a.conversations.stem}.memory: the {read.converse.similar} similar ones of {read.converse.turns - 1} earlier "
            "exchanges are all of them, so this arm would equal one with memory all; raise converse.turns or lower converse.similar"
        )
    personas = [from_record(r, f"{a.personas}:{n}") for n, r in enumerate(read_jsonl(a.personas), 1)]
    if not personas:
        raise UserError(f"{a.personas}: holds no persona")
    rows, counted = run_async(work(read, a, personas))
    write_jsonl(a.conversations, rows)
    said = [t for r in rows for t in r["turns"]]
    unparsed = sum(t.get("unparsed", False) for t in said)
    write_json(a.metrics, {**counted, "cases": len(rows), "turns": len(said), "unparsed": unparsed})


if __name__ == "__main__":
    run(main)
