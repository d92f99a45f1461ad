"""Role-play: grow a tree of conversations for every training persona.

Per turn: the user reveals one item of its persona, the inducer notes which of the items so far the user has really told,
the preferred responder answers with that note and the rejected one without it, and the verifier says which reply the user
would like better, asked twice with the replies swapped. A draw picks the reply that continues.

Run: python -m stages.roleplay (the arguments are in dvc.yaml)
"""

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

from stages.core import params, prompts
from stages.core.aio import run_async
from stages.core.cli import UserError, parser, run
from stages.core.files import read_jsonl, write_json, write_jsonl
from stages.core.progress import Progress
from stages.dialogue.grow import Grower
from stages.dialogue.measures import measure
from stages.dialogue.settings import Roleplay
from stages.llm.backend import PaidCalls
from stages.llm.client import Client
from stages.llm.settings import EMBEDDED, Llm, Roles, Talker
from stages.personas.persona import Persona, from_record
from stages.text.encoder import Encoder
from stages.text.settings import EncoderParams


class Params(params.Section):
    """What this stage reads."""

    roleplay: Roleplay
    user: Talker
    roles: Roles
    encoder: EncoderParams
    llm: Llm


async def work(p: Params, personas: list[Persona], texts: dict[str, prompts.Prompt], base: Path, aside: Path) -> Any:
    """Grow all trees; returns them with the calls' counts."""
    async with Client(PaidCalls("roleplay", p.llm, {EMBEDDED: base}), p.roleplay.resamples) as client:
        with Progress("roleplay: trees", len(personas), client.ledger.numbers) as progress:
            async with asyncio.TaskGroup() as later:
                grower = Grower(p.roleplay, p.user, p.roles, client, texts, later)
                trees = await client.in_parallel([partial(grower.grow, x) for x in personas], progress)
        turns_wanted = sum(len(t["nodes"]) + len(t["ended"]) for t in trees)
        client.ledger.finish(aside, turns_wanted, p.roleplay.max_failed_share)
        return trees, client.ledger.metrics()


def main() -> None:
    names = ("user", "inducer", "preferred", "rejected", "verifier")
    a = parser(__doc__, ["personas", "base", *(f"{n}-prompt" for n in names)], ["trees", "failed", "metrics"]).parse_args()
    p = params.load("roleplay", Params)
    texts = {n: prompts.load(getattr(a, f"{n}_prompt")) for n in names}
    personas = [from_record(r, f"{a.personas}:{n}") for n, r in enumerate(read_jsonl(a.personas), 1)]
    if not personas:
        raise UserError(f"{a.personas}: holds no persona")
    trees, calls = run_async(work(p, personas, texts, a.base, a.failed))
    write_jsonl(a.trees, trees)
    examples = [m["content"] for m in texts["user"].messages() if m["role"] == "assistant"]
    write_json(a.metrics, {"calls": calls, "trees": len(trees), **measure(trees, examples, Encoder(p.encoder))})


if __name__ == "__main__":
    run(main)
