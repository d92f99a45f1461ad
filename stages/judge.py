"""Judge: score each reply of the conversations 1-5 for how well it fits the whole persona, given the history.

Where the server tells log-probabilities, the score is the expected one over the tokens 1-5; else the mean of sampled ones.
The same replies are also judged against the persona of another case (`persona` is `wrong`): what a reply scores there is
style, not fit. An answer that cannot be read is `unscored`, with its reason and raw text; it is never given a score.

Run: python -m stages.judge (the arguments are in dvc.yaml)
"""

from typing import Any

from stages.core import params, prompts
from stages.core.aio import run_async
from stages.core.cli import UserError, parser, run
from stages.core.files import Record, read_jsonl, write_json, write_jsonl
from stages.core.progress import Progress
from stages.judging.judge import judges, judgings, summary
from stages.judging.settings import Judge
from stages.llm.backend import PaidCalls
from stages.llm.client import Client
from stages.llm.settings import EMBEDDED, Llm


class Params(params.Section):
    """What this stage reads."""

    judge: Judge
    llm: Llm


async def work(p: Params, a: Any, cases: list[Record]) -> tuple[list[Record], dict[str, Any]]:
    """All judgements with the calls' counts."""
    prompt = prompts.load(a.judge_prompt)
    if not any(case["turns"] for case in cases):
        raise UserError(f"{a.conversations}: holds no reply to judge")
    async with Client(PaidCalls("judge", p.llm, {EMBEDDED: a.base}), p.judge.resamples) as client:
        jobs = judgings(client, p.judge, prompt, cases)
        asked = judges(p.judge, prompt)
        with Progress(f"judge: {a.judgements.stem}", len(jobs), client.ledger.numbers) as progress:
            rows = await client.in_parallel(jobs, progress, asked)
        client.ledger.finish("judge", p.judge.max_failed_share)
        identities = {judge.model: client.servers.identity(judge.model) for judge in asked}
        return [row for case in rows for row in case], {"calls": client.ledger.metrics(), "identities": identities}


def main() -> None:
    a = parser(__doc__, ["conversations", "base", "judge-prompt"], ["judgements", "metrics"]).parse_args()
    p = params.load("judge", Params)
    cases = read_jsonl(a.conversations)
    rows, counted = run_async(work(p, a, cases))
    write_jsonl(a.judgements, rows)
    found: dict[str, Any] = {}
    for judge in dict.fromkeys(r["judge"] for r in rows):
        for persona in ("right", "wrong"):
            of = [r for r in rows if (r["judge"], r["persona"]) == (judge, persona)]
            found.setdefault(judge, {})[persona] = summary(of) if of else None
    if p.judge.wrong_persona and not any(r["persona"] == "wrong" for r in rows):
        print(f"judge: {a.conversations}: all cases have one profile, so there is no wrong persona to judge by")
    write_json(a.metrics, {**counted, "judges": found})


if __name__ == "__main__":
    run(main)
