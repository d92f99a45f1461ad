"""Calibrate: how good each judge's scores are, on replies whose order is known (data/calibration/README.md).

Every context (a person, a conversation, a new message) has five replies: one made for this person (`tailored`) and four that
are not: `generic`, `wrong_person` (made for somebody else), `flattering` (praise that fits anybody), `reciting` (repeats
what the person wrote, no help). Accuracy is how often the tailored one is scored above another one of its context; length
bias is the rank correlation of score and length among replies of one kind, half of which are short and half long. A judge
that does not reach the thresholds has not `passed`, and one that is among the models that made the training data is named.

Run: python -m stages.calibrate (the arguments are in dvc.yaml)
"""

from typing import Any

from stages.core import params, prompts
from stages.core.aio import run_async
from stages.core.cli import parser, run
from stages.core.files import Record, write_json
from stages.core.progress import Progress
from stages.judging.calibration import asked, read, reversed_examples
from stages.judging.judge import judges
from stages.judging.settings import Bound, Calibrate, Judge, Makers
from stages.llm.backend import PaidCalls
from stages.llm.client import Client
from stages.llm.settings import EMBEDDED, Llm


class Params(params.Section):
    """What this stage reads."""

    calibrate: Calibrate
    judge: Judge
    generator: Bound
    user: Bound
    roles: Makers
    llm: Llm


async def work(p: Params, a: Any, items: list[Record]) -> tuple[list[Record], dict[str, Any]]:
    """All judgements, by judge, asking and item, and what is known of the models."""
    prompt = prompts.load(a.judge_prompt)
    who = judges(p.judge, prompt)
    async with Client(PaidCalls("calibrate", p.llm, {EMBEDDED: a.base}), p.judge.resamples) as client:
        jobs = asked(client, p.judge, prompt, items)
        with Progress("calibrate: contexts", len(jobs), client.ledger.numbers) as progress:
            rows = [row for context in await client.in_parallel(jobs, progress, who) for row in context]
        client.ledger.finish("judge", p.judge.max_failed_share)
        makers = {p.generator.model, p.user.model, *p.roles.model_dump().values()}
        names = {*makers, *(r.model for r in who)}
        identity = {name: client.servers.identity(name) for name in sorted(names)}
        made = sorted(makers | {identity[m] for m in makers})
        changed = "examples of the prompt in reverse order" if reversed_examples(prompt) != prompt else "the same prompt"
        seed = "another seed" if p.judge.temp else "greedy, so a seed changes nothing"
        about = {
            "calls": client.ledger.metrics(),
            "made_data": made,
            "self_agreement_between": f"as asked; {changed}, {seed}",
        }
        return rows, {**about, "identities": {r.model: identity[r.model] for r in who}}


def main() -> None:
    a = parser(__doc__, ["items", "base", "judge-prompt"], ["calibration"]).parse_args()
    p = params.load("calibrate", Params)
    from stages.judging.assessment import assessment  # imports numpy, and --help is to answer at once

    items = read(a.items)
    rows, about = run_async(work(p, a, items))
    found = {}
    n = len(items)
    for k, (name, identity) in enumerate(about.pop("identities").items()):
        own = rows[2 * n * k : 2 * n * (k + 1)]
        made = name in about["made_data"] or identity in about["made_data"]
        found[name] = {**assessment(items, own[:n], own[n:], p.calibrate), "identity": identity, "made_data": made}
        print(f"judge {name}: {'passed' if found[name]['passed'] else 'FAILED: ' + '; '.join(found[name]['failed'])}")
        if made:
            print(f"judge {name}: is among the models that made the training data; take another one as judge")
    write_json(a.calibration, {**about, "judges": found, "items": n})


if __name__ == "__main__":
    run(main)
