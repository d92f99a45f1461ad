"""Converse: the simulated user talks to one model for K turns, once for every eval persona.

Who is tested and how is an arm of params.yaml: the model, its system prompt, its strategy (`reply`; `critique`: draft,
critique of it, revision; `reason`: think, then reply) and its memory, which is what it sees of the earlier exchanges (`all`,
`none`, or the `similar` ones). The user is that of role-play (same code, same prompt, same settings) in every arm. The model
under test sees the conversation and its system prompt, nothing of the persona (that of `oracle` holds the persona).

Run: python -m stages.converse (the arguments are in dvc.yaml)
"""

from argparse import Namespace
from functools import partial
from typing import Any

from stages.core import params, prompts
from stages.core.aio import run_async
from stages.core.cli import UserError, parser, run
from stages.core.files import Record, write_json, write_jsonl
from stages.core.progress import Progress
from stages.dialogue.assistant import ModelUnderTest, conversation
from stages.dialogue.binding import UNDER_TEST, bound
from stages.dialogue.settings import Arm, Converse, UserTalker
from stages.dialogue.user import User
from stages.llm.backend import PaidCalls
from stages.llm.client import Client
from stages.llm.settings import EMBEDDED, Llm
from stages.personas import persona
from stages.personas.persona import Persona
from stages.text.settings import EncoderParams


class Params(params.Section):
    """What this stage reads."""

    converse: Converse
    user: UserTalker
    encoder: EncoderParams
    llm: Llm


def check_arm(a: Namespace, c: Converse) -> None:
    """Raise UserError for an arm that cannot be, or whose memory `similar` would show every exchange."""
    arm = f"arms.{a.conversations.stem}"
    values = {"model": a.model, "weights": a.weights.name, "prompt": a.system_prompt.stem}
    if faults := params.checked(Arm, {**values, "strategy": a.strategy, "memory": a.memory})[1]:
        raise UserError("; ".join(f"{arm}.{fault}" for fault in faults))
    if a.memory == "similar" and c.turns - 1 <= c.similar:
        raise UserError(
            f"{arm}.memory: the {c.similar} similar ones of {c.turns - 1} earlier exchanges are all of them, so this arm "
            "would equal one with memory all; raise converse.turns or lower converse.similar"
        )


async def conversations(p: Params, a: Namespace, personas: list[Persona]) -> tuple[list[Record], dict[str, Any]]:
    """The conversation of every persona; the counts of the calls, and which model was tested."""
    c = p.converse
    model, folder = bound(a.model, a.weights, a.base)
    folders = {EMBEDDED: a.base, **({UNDER_TEST: folder} if folder and model == UNDER_TEST else {})}
    async with Client(PaidCalls("converse", p.llm, folders), c.resamples) as client:
        user = User(client, p.user, prompts.load(a.user_prompt), c.user_model)
        tested = ModelUnderTest(c, p.encoder, client, model, prompts.load(a.system_prompt), a.strategy, a.memory)
        jobs = [partial(conversation, client, user, tested, x, c.seed, c.turns) for x in personas]
        with Progress(f"converse: {a.conversations.stem}", len(jobs), client.ledger.numbers) as progress:
            rows = await client.in_parallel(jobs, progress)
        client.ledger.finish("converse", c.max_failed_share, a.failed)
        return rows, {"calls": client.ledger.metrics(), "model": a.model, "identity": client.servers.identity(model)}


def main() -> None:
    inputs = ["personas", "weights", "base", "user-prompt", "system-prompt"]
    arguments = parser(__doc__, inputs, ["conversations", "failed", "metrics"])
    for name in ("model", "strategy", "memory"):
        arguments.add_argument(f"--{name}", required=True, help="of the arm")
    a = arguments.parse_args()
    p = params.load("converse", Params)
    check_arm(a, p.converse)
    rows, counts = run_async(conversations(p, a, persona.read(a.personas)))
    turns = [turn for row in rows for turn in row["turns"]]
    unparsed = sum(turn.get("unparsed", False) for turn in turns)
    write_jsonl(a.conversations, rows)
    left = [row["ended_by_user"] for row in rows if "ended_by_user" in row]
    found = {**counts, "cases": len(rows), "turns": len(turns), "unparsed": unparsed}
    write_json(a.metrics, found | ({"ended_by_user": len(left)} if left else {}))


if __name__ == "__main__":
    run(main)
