"""Role-play: grow a tree of conversations for every training persona.

Per turn: the user reveals something of its persona, the inducer notes which items it has really revealed up to now, the
preferred responder answers with that note, the rejected one without it and, where params say so, a misinformed one with the
note on another persona. The verifier says which of two replies the user would prefer, asked twice with the replies swapped.
A draw between preferred and rejected picks the reply that continues. How user and inducer work is said by the prompt set.
From the second round on a trained model, the policy, writes all replies; the other roles stay.

Run: python -m stages.roleplay (the arguments are in dvc.yaml)
"""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stages.core import params, prompts
from stages.core.aio import run_async
from stages.core.cli import UserError, parser, run
from stages.core.files import Record, write_json, write_jsonl
from stages.core.progress import Progress
from stages.core.prompts import Prompt
from stages.dialogue.binding import LOCAL, bound
from stages.dialogue.grow import Grower
from stages.dialogue.inducer import refusal
from stages.dialogue.measures import measure
from stages.dialogue.settings import Roleplay, UserTalker
from stages.llm.backend import PaidCalls
from stages.llm.client import Client
from stages.llm.settings import EMBEDDED, Llm, Roles
from stages.personas import persona
from stages.personas.persona import Persona
from stages.text.encoder import Encoder
from stages.text.settings import EncoderParams

# whose prompt a responder has: the first of these files that the set holds
RESPONDERS = {
    "preferred": ("preferred", "responder"),
    "rejected": ("rejected", "responder"),
    "misinformed": ("misinformed", "preferred", "responder"),
}


class Params(params.Section):
    """What this stage reads."""

    roleplay: Roleplay
    user: UserTalker
    roles: Roles
    encoder: EncoderParams
    llm: Llm


def strangers(p: Params, personas: list[Persona]) -> dict[str, Persona]:
    """Whose note the misinformed reply of each persona's tree has, by id; none where no such reply is made."""
    if "misinformed" not in p.roleplay.replies:
        return {}
    found = persona.strangers(personas, p.roleplay.seed)
    if lacking := [x.id for x in personas if x.id not in found]:
        raise UserError(f"roleplay.replies: misinformed needs another profile and personality than {lacking[0]} has")
    return found


def answered_by(policy: Path | None, p: Params, base: Path) -> tuple[Params, dict[str, Path]]:
    """Params whose responders are all `policy` (None: those of section roles), and the local models by name."""
    if policy is None:
        return p, {EMBEDDED: base}
    model, folder = bound(LOCAL, policy, base)
    responders = {name: getattr(p.roles, name).model_copy(update={"model": model}) for name in ("preferred", "rejected")}
    roles = p.roles.model_copy(update=responders)
    return p.model_copy(update={"roles": roles}), {EMBEDDED: base, model: folder or base}


async def grown(
    p: Params, personas: list[Persona], prompt: dict[str, Prompt], folders: dict[str, Path], failed: Path
) -> tuple[list[Record], dict[str, Any]]:
    """The trees of all personas, and the counts of the calls. Failed calls are written to `failed`."""
    if p.roles.inducer.form == "letters" and (why := refusal("roles.inducer_form: letters", prompt["inducer"])):
        raise UserError(why)
    async with Client(PaidCalls("roleplay", p.llm, folders), p.roleplay.resamples) as client:
        with Progress("roleplay: trees", len(personas), client.ledger.numbers) as progress:
            async with asyncio.TaskGroup() as later:
                others = strangers(p, personas)
                jobs = [
                    Grower(p.roleplay, p.user, p.roles, client, prompt, later, x, others.get(x.id)).grow for x in personas
                ]
                trees = await client.in_parallel(jobs, progress)
        client.ledger.finish("roleplay", p.roleplay.max_failed_share, failed)
        return trees, client.ledger.metrics()


def read_prompts(path: Callable[[str], Path]) -> dict[str, Prompt]:
    """Prompts by role. `path`: of an argument of this stage. Raises UserError for a responder that has none."""
    folder = path("responder-prompts")
    own = {file.stem: prompts.load(file) for file in sorted(folder.glob("*.txt"))}
    found = {name: prompts.load(path(f"{name}-prompt")) for name in ("user", "inducer", "verifier")}
    for who, names in RESPONDERS.items():
        name = next((n for n in names if n in own), None)
        if name is None:
            raise UserError(f"{folder}: has neither {names[0]}.txt nor {names[-1]}.txt")
        found[who] = own[name]
    return found


def main() -> None:
    inputs = ["personas", "base", "user-prompt", "inducer-prompt", "responder-prompts", "verifier-prompt"]
    arguments = parser(__doc__, inputs, ["trees", "failed", "metrics"], rounds=True)
    arguments.add_argument("--policy", type=Path, metavar="PATH", help="model that writes all replies")
    a = arguments.parse_args()
    p, folders = answered_by(a.policy, params.load("roleplay", Params, a.round), a.base)
    prompt = read_prompts(lambda name: Path(getattr(a, name.replace("-", "_"))))
    trees, calls = run_async(grown(p, persona.read(a.personas), prompt, folders, a.failed))
    examples = [text for name, text in prompt["user"].parts if name == "assistant"]
    write_jsonl(a.trees, trees)
    write_json(a.metrics, {"calls": calls, "trees": len(trees), **measure(trees, examples, Encoder(p.encoder))})


if __name__ == "__main__":
    run(main)
