"""External: benchmarks of others, over a folder that the user brings (docs/external.md says where to get them).

A model reads a conversation and a question with options. Two readings: its letter, by the log-probabilities of all letters
over all rotations of the options; and, of local weights, the log-probability of each option as the reply, a token, less that
without the conversation. Beside every accuracy: chance, the same items without their conversation, with another item's, and
the longest option (stages/evaluation/external.py).
The arms are those of params.yaml that differ in weights or model. What local weights made of the items is kept in .cache.

Run: python -m stages.external --benchmark prefeval --folder DIR --weights models/base --items OUT.jsonl --metrics OUT.json
With --weights no params.yaml is read; of several folders of weights the first is the base.
"""

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from stages.core import params
from stages.core.aio import run_async
from stages.core.cli import UserError, parser, run
from stages.core.files import digest, root, write_json, write_jsonl
from stages.core.progress import Progress
from stages.core.prompts import Message
from stages.dialogue.binding import bound
from stages.dialogue.settings import Arm
from stages.evaluation import personamem, prefeval
from stages.evaluation.items import ASK, CONTEXTS, Item
from stages.evaluation.settings import External
from stages.judging import choice
from stages.llm.backend import PaidCalls
from stages.llm.client import Client
from stages.llm.settings import Llm, Role
from stages.weights.digest import of_files

Contexts = dict[str, list[Message]]  # what comes before the question: conversation, none, other
Scores = dict[str, dict[str, list[float]]]  # of each option, by reading (letters, likelihood) and context


class Params(params.Section):
    """What this stage reads."""

    external: External
    arms: dict[str, Arm]
    llm: Llm


def read(benchmark: str, folder: Path, p: External) -> list[Item]:
    """The items of a benchmark that are drawn; a question without a choice is left out. Raises UserError for none."""
    from stages.evaluation.external import drawn

    items = {"prefeval": prefeval.read, "personamem": personamem.read}[benchmark](folder, p.forms, p.fillers)
    if not items:
        raise UserError(f"external.forms: {', '.join(p.forms)}: none of them is a form of {benchmark}")
    chosen = [item for item in items if len(item.options) > 1]
    if left := len(items) - len(chosen):
        print(f"external: {folder}: {left} items with a single option are left out")
    return drawn(chosen, p.limit, p.seed)


class Reader:
    """What local weights make of items."""

    def __init__(self, folder: Path):
        from stages.training import choices

        self.choices = choices
        self.model, self.tokenizer = choices.load(folder)
        self.alone: dict[str, tuple[list[float], list[float]]] = {}
        self.room = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)

    def fits(self, item: Item, before: Contexts) -> bool:
        """Whether conversation, question and options are within what the model can read."""
        _, last = next(choice.rotations(ASK, item.question, item.options))
        asked = [self.choices.tokens(self.tokenizer, [*head, last], item.options) for head in before.values()]
        return self.room is None or all(len(chat) + max(map(len, said)) <= self.room for chat, said in asked)

    def after(self, item: Item, head: list[Message]) -> tuple[list[float], list[float]]:
        """log p of each option, by its letter, and as the reply."""
        turns = [(order, [*head, last]) for order, last in choice.rotations(ASK, item.question, item.options)]
        chat = [*head, {"role": "user", "content": item.question}]
        sums = self.choices.matrix(self.model, self.tokenizer, [chat], item.options)[0]
        return self.choices.letters(self.model, self.tokenizer, turns).tolist(), sums.tolist()

    def scores(self, item: Item, before: Contexts) -> Scores:
        """Both readings; what all forms of an item have in common is computed once."""
        from stages.evaluation.external import likelihood

        if item.id not in self.alone:
            self.alone[item.id] = self.after(item, before["none"])
        found = {name: self.alone[item.id] if name == "none" else self.after(item, head) for name, head in before.items()}
        tokens = self.choices.tokens(self.tokenizer, [{"role": "user", "content": item.question}], item.options)[1]
        return {
            "letters": {name: letters for name, (letters, _) in found.items()},
            "likelihood": likelihood({name: sums for name, (_, sums) in found.items()}, [len(ids) for ids in tokens]),
        }


def local(folder: Path, name: str, items: Sequence[Item]) -> list[Scores | None]:
    """Scores of each item from the weights in `folder`, None for one that they cannot read as a whole."""
    from stages.evaluation.external import contexts

    before = contexts(items)
    files = sorted(path for path in folder.glob("*") if path.suffix in (".safetensors", ".json", ".jinja"))
    asked = [[head, item.question, item.options] for item, head in zip(items, before, strict=True)]
    kept = root() / "external" / f"{digest(of_files(files), ASK.parts, asked)}.json"
    if not kept.exists():
        reader, found = Reader(folder), []
        with Progress(f"external: {name}", len(items)) as progress:
            for item, head in zip(items, before, strict=True):
                found.append(reader.scores(item, head) if reader.fits(item, head) else None)
                progress.step()
        write_json(kept, found)
    return list(json.loads(kept.read_text()))


async def served(p: Params, model: str, name: str, items: Sequence[Item]) -> tuple[list[Scores | None], dict[str, Any]]:
    """Scores of each item from the letters that an API model answers with; the counts of its calls."""
    from stages.evaluation import external

    role = Role(name="external", model=model, temp=1.0 if p.external.samples > 1 else 0.0, top_p=1.0, penalty=0.0, tokens=8,
                stop=("\n",), accept=("ok", "truncated"), logprobs=20)  # fmt: skip
    async with Client(PaidCalls("external", p.llm, {}), 0) as client:
        jobs = [
            partial(choice.chosen, client, role, ASK, p.external.seed, p.external.samples,
                    external.seeds(item, context), head, item.question, item.options)
            for item, before in zip(items, external.contexts(items), strict=True)
            for context, head in before.items()
        ]  # fmt: skip
        with Progress(f"external: {name}", len(jobs), client.ledger.numbers) as progress:
            rows = iter(await client.in_parallel(jobs, progress))
        unread, found = 0, list[Scores | None]()
        for _ in items:
            three = {name: next(rows) for name in CONTEXTS}
            unread += sum(n for _, n in three.values())
            found.append({"letters": {name: row for name, (row, _) in three.items()}})
        return found, {"calls": client.ledger.metrics(), "unread": unread, "identity": client.servers.identity(model)}


def measured_arms(p: Params, a: Namespace) -> Iterator[tuple[str, str, Path]]:
    """(name, model, folder of weights) of the arms that the benchmark can tell apart."""
    if a.weights:
        folders = list(dict.fromkeys(a.weights))
        names = [folder.name for folder in folders]  # models/dpo of two runs have one name
        yield from ((f.name if names.count(f.name) == 1 else str(f), "local", f) for f in folders)
        return
    seen = set()
    for name, arm in p.arms.items():
        which = (arm.model, arm.weights if arm.model == "local" else "")
        if arm.strategy == "reply" and arm.memory == "all" and which not in seen:
            seen.add(which)
            yield name, arm.model, a.models / arm.weights


def arguments() -> ArgumentParser:
    """The command line."""
    made = parser(__doc__, ["folder"], ["items", "metrics"])
    made.add_argument("--benchmark", required=True, choices=["prefeval", "personamem"])
    weights = made.add_mutually_exclusive_group(required=True)
    weights.add_argument("--weights", type=Path, nargs="+", metavar="PATH", help="without params.yaml; the first is base")
    weights.add_argument("--models", type=Path, metavar="PATH", help="of the arms; params.yaml is read")
    for name, what in (("forms", str), ("fillers", int)):
        made.add_argument(f"--{name}", type=what, nargs="+", help=f"as external.{name}, with --weights")
    made.add_argument("--limit", type=int, help="items drawn, with --weights; all without")
    return made


def main() -> None:
    a = arguments().parse_args()
    if a.weights:
        given = {name: value for name in ("forms", "fillers", "limit") if (value := getattr(a, name)) is not None}
        section, faults = params.checked(External, given)
        if section is None:
            raise UserError("; ".join(faults))
        p = Params.model_construct(external=section, arms={})
    else:
        p = params.load("external", Params)
    from stages.evaluation import external

    items = read(a.benchmark, a.folder, p.external)
    of, rows, about = external.clusters(items), [], dict[str, Any]()
    names = list(measured_arms(p, a))
    for name, model, weights in names:
        called, folder = bound(model, weights, weights)
        found, about[name] = (local(folder, name, items), {}) if folder else run_async(served(p, called, name, items))
        about[name] |= {"fit": sum(s is not None for s in found), "of": len(items)}
        for n, scores in enumerate(found):
            rows += [external.row(name, items[n], of[n], reading, by) for reading, by in (scores or {}).items()]
    result = external.summary(rows, names[0][0], p.external.resamples, p.external.seed)
    write_jsonl(a.items, rows)
    write_json(a.metrics, {"benchmark": a.benchmark, "base": names[0][0], "arms": about, "results": result})
    fit = ", ".join(f"{name} {arm['fit']}" for name, arm in about.items())
    questions = len({item.id for item in items})
    print(f"external: {a.benchmark}: {questions} items, {len(items)} with their forms; a model can read: {fit}")
    print(external.table(result))


if __name__ == "__main__":
    run(main)
