"""Role-play: grow a tree of conversations for every training persona.

Per turn: the user reveals one item of its persona, the inducer notes which of the items so far the user has really revealed,
the preferred responder answers with that note and the rejected one without it, and the verifier says which reply the user
would prefer, asked twice with the replies swapped. A draw picks the reply that continues.

Run: python -m stages.roleplay (the arguments are in dvc.yaml)
"""

import asyncio
from pathlib import Path
from typing import Any

from stages.core import params, prompts
from stages.core.aio import run_async
from stages.core.cli import parser, run
from stages.core.files import Record, write_json, write_jsonl
from stages.core.progress import Progress
from stages.core.prompts import Prompt
from stages.dialogue.grow import Grower
from stages.dialogue.measures import measure
from stages.dialogue.settings import Roleplay
from stages.dialogue.transcript import texts
from stages.llm.backend import PaidCalls
from stages.llm.client import Client
from stages.llm.settings import EMBEDDED, Llm, Roles, Talker
from stages.personas import persona
from stages.personas.persona import Persona
from stages.text.encoder import Encoder
from stages.text.settings import EncoderParams

ROLES = ("user", "inducer", "preferred", "rejected", "verifier")


class Params(params.Section):
    """What this stage reads."""

    roleplay: Roleplay
    user: Talker
    roles: Roles
    encoder: EncoderParams
    llm: Llm


async def grown(
    p: Params, personas: list[Persona], prompt: dict[str, Prompt], base: Path, failed: Path
) -> tuple[list[Record], dict[str, Any]]:
    """The trees of all personas, and the counts of the calls. Failed calls are written to `failed`."""
    async with Client(PaidCalls("roleplay", p.llm, {EMBEDDED: base}), p.roleplay.resamples) as client:
        with Progress("roleplay: trees", len(personas), client.ledger.numbers) as progress:
            async with asyncio.TaskGroup() as later:
                jobs = [Grower(p.roleplay, p.user, p.roles, client, prompt, later, x).grow for x in personas]
                trees = await client.in_parallel(jobs, progress)
        client.ledger.finish("roleplay", p.roleplay.max_failed_share, failed)
        return trees, client.ledger.metrics()


def main() -> None:
    inputs = ["personas", "base", *(f"{name}-prompt" for name in ROLES)]
    a = parser(__doc__, inputs, ["trees", "failed", "metrics"]).parse_args()
    p = params.load("roleplay", Params)
    prompt = {name: prompts.load(getattr(a, f"{name}_prompt")) for name in ROLES}
    trees, calls = run_async(grown(p, persona.read(a.personas), prompt, a.base, a.failed))
    examples = texts(prompt["user"].messages(), "assistant")
    write_jsonl(a.trees, trees)
    write_json(a.metrics, {"calls": calls, "trees": len(trees), **measure(trees, examples, Encoder(p.encoder))})


if __name__ == "__main__":
    run(main)
