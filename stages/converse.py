"""Converse: the simulated user talks to one model for K turns, once for every eval persona.

Who is tested and how is an arm of params.yaml: the model, its system prompt, its strategy (`reply`; `critique`: draft,
critique of it, revision; `reason`: think, then reply) and its memory, which is what it sees of the earlier exchanges (`all`,
`none`, or the `similar` ones). The user is that of role-play (same code, same prompt, same settings) in every arm. The model
under test sees the conversation and its system prompt, nothing of the persona (that of `oracle` holds the persona).
Beside it, each on its own: probes, on which nothing told helps, and read-outs, what the model knows of its user.

Run: python -m stages.converse (the arguments are in dvc.yaml)
"""

from argparse import Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from stages.core import params, prompts
from stages.core.aio import run_async
from stages.core.cli import UserError, parser, run
from stages.core.files import Record, write_json, write_jsonl
from stages.core.progress import Progress
from stages.dialogue.assistant import ModelUnderTest, conversation
from stages.dialogue.binding import UNDER_TEST, bound
from stages.dialogue.probes import Probes, read
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


def questions(c: Converse, client: Client, tested: ModelUnderTest, path: Callable[[str], Path]) -> Probes:
    """What is asked beside the conversations. `path`: of an argument of this stage."""
    texts = {name: prompts.load(path(f"{name}-prompt")) for name in ("read-out", "inducer")}
    return Probes(c, client, tested, read(path("probes")) if c.probes else [], texts["read-out"], texts["inducer"])


async def conversations(
    p: Params, a: Namespace, personas: list[Persona]
) -> tuple[list[Record], list[Record], dict[str, Any]]:
    """Conversations of all personas; replies to probes and read-outs; counts of the calls, and which model was tested."""
    c = p.converse
    model, folder = bound(a.model, a.weights, a.base)
    folders = {EMBEDDED: a.base, **({UNDER_TEST: folder} if folder and model == UNDER_TEST else {})}
    async with Client(PaidCalls("converse", p.llm, folders), c.resamples) as client:
        user = User(client, p.user, prompts.load(a.user_prompt), c.user_model)
        tested = ModelUnderTest(c, p.encoder, client, model, prompts.load(a.system_prompt), a.strategy, a.memory)
        beside = questions(c, client, tested, lambda name: Path(getattr(a, name.replace("-", "_"))))

        async def talk(persona: Persona) -> tuple[Record, list[Record]]:
            row = await conversation(client, user, tested, persona, c.seed, c.turns)
            return row, await beside.ask(persona, row)

        jobs = [partial(talk, x) for x in personas]
        with Progress(f"converse: {a.conversations.stem}", len(jobs), client.ledger.numbers) as progress:
            talks = await client.in_parallel(jobs, progress)
        client.ledger.finish("converse", c.max_failed_share, a.failed)
        about = {"calls": client.ledger.metrics(), "model": a.model, "identity": client.servers.identity(model)}
        return [row for row, _ in talks], [row for _, found in talks for row in found], about


def main() -> None:
    inputs = ["personas", "weights", "base", "user-prompt", "system-prompt", "read-out-prompt", "inducer-prompt", "probes"]
    arguments = parser(__doc__, inputs, ["conversations", "probe-replies", "failed", "metrics"])
    for name in ("model", "strategy", "memory"):
        arguments.add_argument(f"--{name}", required=True, help="of the arm")
    a = arguments.parse_args()
    p = params.load("converse", Params)
    check_arm(a, p.converse)
    rows, replies, counts = run_async(conversations(p, a, persona.read(a.personas)))
    turns = [turn for row in rows for turn in row["turns"]]
    unparsed = sum(turn.get("unparsed", False) for turn in turns)
    write_jsonl(a.conversations, rows)
    write_jsonl(a.probe_replies, replies)
    left = [row["ended_by_user"] for row in rows if "ended_by_user" in row]
    found = {**counts, "cases": len(rows), "turns": len(turns), "unparsed": unparsed}
    write_json(a.metrics, found | ({"ended_by_user": len(left)} if left else {}))


if __name__ == "__main__":
    run(main)
