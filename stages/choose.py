"""Choose: crossed choice, a judge-free measure with exact chance (stages/evaluation/crossed.py, data/crossed/README.md).

Of each group, log p of every user's reply after every user's history and the last message: the chat template of the folder
with its generation prompt, and the reply's tokens as the template writes them, the token that ends the turn included. A
template that writes a system prompt of its own where none is given (that of models/base does) writes it here, too.

Run: python -m stages.choose --weights FOLDER --groups FILE --choices OUT.jsonl --metrics OUT.json
With these four arguments alone no params.yaml is read. dvc.yaml adds those of an arm, and the settings are section `choose`.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from sys import maxsize
from typing import Any

from stages.core import params, prompts
from stages.core.aio import run_async
from stages.core.cli import UserError, parser, run
from stages.core.files import Record, write_json, write_jsonl
from stages.core.progress import Progress
from stages.core.prompts import Message, Prompt
from stages.dialogue.binding import LOCAL, bound
from stages.evaluation.settings import Choose
from stages.judging import choice
from stages.llm.backend import PaidCalls
from stages.llm.client import Client
from stages.llm.settings import Llm, Role
from stages.text import groups

Question = tuple[str, Record, list[list[Message]]]  # name of the reading, group, what each user's replies are chosen after


class Params(params.Section):
    """What this stage reads."""

    choose: Choose
    llm: Llm


def head(prompt: Prompt | None, user: Record, group: Record) -> list[Message]:
    """System prompt of a user. Raises UserError where it wants a persona that the user lacks."""
    if prompt is None:
        return []
    if "persona" not in prompt.variables:
        return prompt.messages()
    if not user.get("persona"):
        raise UserError(f"{prompt.path}: wants a persona, but user {user['id']} of group {group['group']} has none")
    return prompt.messages(persona=user["persona"])


def contexts(group: Record, prompt: Prompt | None, reading: str) -> list[list[Message]]:
    """What each user's replies are chosen after, in a reading (`crossed.seen`)."""
    from stages.evaluation.crossed import seen

    last = {"role": "user", "content": group["message"]}
    return [[*head(prompt, user, group), *seen(user["history"], reading), last] for user in group["users"]]


def readings(a: Namespace, groups: list[Record], exchanges: bool) -> Iterator[tuple[str, Prompt | None, str]]:
    """(name, system prompt, what is seen of the history) of the measure and of its twins."""
    from stages.evaluation.crossed import curve

    prompt = prompts.load(a.system_prompt) if a.system_prompt else None
    yield "history", prompt, "none" if a.memory == "none" else "history"
    yield "no_history", prompt, "none"
    if a.persona_prompt:
        told = prompts.load(a.persona_prompt)
        yield from [("persona", told, "none"), ("persona_and_history", told, "history")]
    if exchanges and a.memory != "none":
        yield from ((name, prompt, name) for name in curve(groups))


def questions(p: Params, a: Namespace) -> list[Question]:
    """What is asked, reading by reading."""
    from stages.evaluation import crossed

    chosen = crossed.most(groups.read(a.groups), p.choose.most)
    return [
        (name, group, contexts(group, prompt, reading))
        for name, prompt, reading in readings(a, chosen, p.choose.exchanges)
        for group in chosen
    ]


def local(a: Namespace, folder: Path, asked: list[Question]) -> list[Any]:
    """L of each question from the weights in `folder`, group by group: a short history is the same in several readings."""
    import numpy as np

    from stages.training.choices import load, matrix, tokens

    model, tokenizer = load(folder)
    room = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    places: dict[str, list[int]] = {}
    for n, (_, group, contexts) in enumerate(asked):
        places.setdefault(group["group"], []).append(n)
        for user, context in zip(group["users"], contexts, strict=True):
            before, after = tokens(tokenizer, context, [u["reply"] for u in group["users"]])
            if room is not None and len(before) + max(map(len, after)) > room:
                who = f"user {user['id']} of group {group['group']}"
                raise UserError(f"{a.groups}: {who}: {folder} cannot read so long a history; shorten it")
    found: dict[int, Any] = {}
    with Progress(f"choose: {a.choices.stem}", len(places)) as progress:
        for at in places.values():
            contexts = [context for n in at for context in asked[n][2]]
            scores = matrix(model, tokenizer, contexts, [user["reply"] for user in asked[at[0]][1]["users"]])
            found |= zip(at, np.split(scores, len(at)), strict=True)
            progress.step()
    return [found[n] for n in range(len(asked))]


def by_letters(client: Client, p: Params, a: Namespace, model: str, asked: list[Question]) -> list[partial[Any]]:
    """One job for each question, for a model behind an API."""
    temp = 1.0 if p.choose.samples > 1 else 0.0
    role = Role(name="choose", model=model, temp=temp, top_p=1.0, penalty=0.0, tokens=8, stop=("\n",),
                accept=("ok", "truncated"), logprobs=20)  # fmt: skip
    prompt, c = prompts.load(a.choice_prompt), p.choose
    return [partial(choice.matrix, client, role, prompt, c.seed, c.samples, group, before) for _, group, before in asked]


async def served(p: Params, a: Namespace, model: str, asked: list[Question]) -> tuple[list[Any], dict[str, Any]]:
    """L of each question from the letters that an API model answers with; the counts of its calls."""
    import numpy as np

    async with Client(PaidCalls("choose", p.llm, {}), 0) as client:
        jobs = by_letters(client, p, a, model, asked)
        with Progress(f"choose: {a.choices.stem}", len(jobs), client.ledger.numbers) as progress:
            rows = await client.in_parallel(jobs, progress)
        counts = {"calls": client.ledger.metrics(), "unread": sum(row["unread"] for row in rows)}
        return [np.array(row["scores"]) for row in rows], {**counts, "identity": client.servers.identity(model)}


def skipped(a: Namespace, arms: list[str]) -> str | None:
    """Why an arm is not measured, None where it is. `arms`: those that are to be, [] for all."""
    if arms and a.choices.stem not in arms:
        return "the arm is not among choose.arms"
    if a.strategy != "reply":
        return f"strategy {a.strategy} changes what a model writes, not what it makes of a reply that is there"
    return "memory similar: histories this short are seen as a whole" if a.memory == "similar" else None


def measured(p: Params, a: Namespace) -> tuple[list[Record], dict[str, Any]]:
    """Rows and metrics of an arm, or of weights alone."""
    from stages.evaluation import crossed

    asked = questions(p, a)
    chosen = [group for name, group, _ in asked if name == "history"]
    model, folder = bound(a.model, a.weights, a.weights)
    found, counts = (local(a, folder, asked), {}) if folder else run_async(served(p, a, model, asked))
    scores: dict[str, list[Any]] = {}
    for (name, _, _), matrix in zip(asked, found, strict=True):
        scores.setdefault(name, []).append(matrix)
    return crossed.rows(chosen, scores), {**crossed.summary(chosen, scores, p.choose.resamples, p.choose.seed), **counts}


def arguments() -> ArgumentParser:
    """The command line."""
    made = parser(__doc__, ["weights", "groups"], ["choices", "metrics"])
    made.add_argument("--model", help="of the arm; params.yaml is read where it is given")
    made.add_argument("--strategy", default="reply", choices=["reply", "critique", "reason"], help="of the arm")
    made.add_argument("--memory", default="all", choices=["all", "none", "similar"], help="of the arm; none: no history")
    for name, what in (
        ("system", "of the arm; may hold {persona}"),
        ("choice", "for models behind an API"),
        ("persona", "with {persona}: adds the twins persona (in place of the history) and persona_and_history"),
    ):
        made.add_argument(f"--{name}-prompt", type=Path, metavar="PATH", help=f"prompt file {what}")
    made.add_argument("--exchanges", action="store_true", help="add the curve over the exchanges seen")
    made.add_argument("--most", type=int, help="groups used, alike by kind; all without")
    return made


def main() -> None:
    a = arguments().parse_args()
    if a.model:
        p = params.load("choose", Params)
    else:
        a.model = LOCAL
        most = maxsize if a.most is None else a.most
        alone = {"groups": str(a.groups), "most": most, "exchanges": a.exchanges, "samples": 1, "arms": [], "seed": 1}
        section, faults = params.checked(Choose, {**alone, "resamples": 10000})
        if section is None:
            raise UserError(f"--{faults[0]}")
        p = Params.model_construct(choose=section)
    why = skipped(a, p.choose.arms)
    rows, metrics = ([], {"skipped": why}) if why else measured(p, a)
    write_jsonl(a.choices, rows)
    write_json(a.metrics, metrics)
    found = why or f"{len(rows)} groups, pair accuracy {metrics['pair_accuracy']}, top-1 {metrics['top1']}"
    print(f"choose: {a.choices.stem}: {found}")


if __name__ == "__main__":
    run(main)
