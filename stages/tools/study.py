"""Study: runs the experiments of presets/study.yaml and presets/study/, and makes the tables of docs/results.md.

presets/study.yaml is an experiment of the whole pipeline. A preset in presets/study/ changes it further, and runs only what
crossed choice of its `choose.arms` needs; NAME-2 is NAME with another seed, `seed-2` the study itself with another. Each is
`dvc exp run --temp`, so the workspace stays. A killed study goes on when it is started again: DVC's run cache has the stages
that ended, a training its checkpoint, the reply cache the replies.

Reads experiments; writes docs/results/eval.json (the result of the study itself) and docs/results/runs.jsonl. A line of it
is crossed choice of one model of one run, group by group: enough for all tables. Lines of runs on other machines stay.

Run: python -m stages.tools.study [--tables] (--tables: run nothing, print the tables of docs/results/runs.jsonl)
"""

import json
import re
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from stages.core.cli import UserError, parser, run
from stages.core.files import Record, read_lines, write_json, write_jsonl
from stages.core.statistics import holm, rounded
from stages.core.tables import Column, markdown, number, p_value, rows
from stages.core.tables import interval as shown
from stages.evaluation.answer import signed, signed_interval
from stages.evaluation.crossed import MEASURES, gain, mean, pair_accuracy
from stages.tools import preset

OUT = Path("docs/results")
CHOICES = Path("data", "choices")
HERE = "two cores"  # the `machine` of the lines that a run writes
WHOLE = "study"
DRAWS = 10_000, 1  # resamples and their seed
WORDS = "shared words"  # label: the reply is chosen that shares most content words with the history, no model
CONTRASTS = [  # (first, less): what is compared besides base, where a machine has both
    ("dpo", "sft"),
    ("dpo2", "dpo"),
    ("dpo", "dpo, trees"),
    ("dpo, 27 groups", "dpo, trees"),
    ("dpo, 99 groups", "dpo, trees"),
    ("dpo, trees", "sft, trees"),
    ("dpo, 99 groups", "sft, 99 groups"),
    ("dpo, 99 groups", "dpo, 99 groups, no SFT"),
    ("dpo, 99 groups", "dpo, 27 groups"),
]
MODELS: list[Column] = [
    ("model", "label", str), ("seeds", "seeds", str), ("rows", "pairs", str), ("pairs right", "value", number),
    ("95 % interval", "ci", shown), ("against base", "gain.difference", signed),
    ("95 % interval", "gain.ci", signed_interval), ("p Holm", "gain.p_holm", p_value), ("top-1", "top1", number),
    ("no history", "no_history", number), ("held-out pairs", "held_out", number),
]  # fmt: skip
BETWEEN: list[Column] = [
    ("first", "first", str), ("less", "second", str),
    ("pairs right", "pair_accuracy.difference", signed), ("95 % interval", "pair_accuracy.ci", signed_interval),
    ("p", "pair_accuracy.p", p_value), ("top-1", "top1.difference", signed), ("95 % interval", "top1.ci", signed_interval),
    ("p", "top1.p", p_value),
]  # fmt: skip


def experiments() -> Iterator[tuple[str, list[str], list[str]]]:
    """(name, words for `dvc exp run`, arms of crossed choice) of each experiment, the study itself first."""
    whole = preset.words(WHOLE)
    yield WHOLE, whole, preset.load(WHOLE)[1]["choose"]["arms"]
    for path in sorted((preset.FOLDER / WHOLE).glob("*.yaml")):
        name = f"{WHOLE}/{path.stem}"
        yield path.stem, [*whole, *preset.words(name)], preset.load(name)[1]["choose"]["arms"]


def revision(name: str) -> str:
    """The newest experiment of a name. Raises UserError where there is none."""
    which = ["--sort=-committerdate", "--count=1", "--format=%(objectname)", f"refs/exps/*/*/{name}"]
    found = subprocess.run(["git", "for-each-ref", *which], capture_output=True, text=True, check=True).stdout.strip()
    if not found:
        raise UserError(f"no experiment {name!r}; `make study` runs it")
    return found


def at(revision: str, path: str) -> str:
    """The text of a file of an experiment, from git or from DVC's cache."""
    from dvc.api import read

    return str(read(path, rev=revision))


def lines_of(name: str, arms: Sequence[str], counts: Record, held_out: Record, found: str) -> Iterator[Record]:
    """The lines of an experiment (`runs.jsonl`); `found` is its revision.

    Args:
        counts: training rows by arm.
        held_out: share of its own kind of held-out pairs that an arm's rewards have right.
    Raises:
        UserError: an arm that crossed choice skipped.
    """
    stem, _, seed = re.fullmatch(r"(.*?)(-(\d+))?", name).groups()  # type: ignore[union-attr]
    for arm in arms:
        chosen = [json.loads(row) for row in at(found, str(CHOICES / f"{arm}.jsonl")).splitlines()]
        if not chosen:
            raise UserError(f"experiment {experiment(name)}: arm {arm} chose nothing; take it out of choose.arms")
        label = arm if stem in (WHOLE, "seed", "curve") else f"{arm}, {stem}"
        line = {"machine": HERE, "run": name, "label": label, "seed": int(seed or 1)}
        accuracy = {
            reading: {row["group"]: rounded(pair_accuracy(np.array(row["log_probs"][reading])), 6) for row in chosen}
            for reading in chosen[0]["log_probs"]
        }
        if stem == "curve":
            yield {**line, "readings": accuracy}
            continue
        alone = accuracy["no_history"]
        groups = {r["group"]: {**{m: r[m] for m in MEASURES}, "no_history": alone[r["group"]]} for r in chosen}
        yield {**line, "pairs": counts.get(arm), "held_out": held_out.get(arm), "groups": groups}
        if name == WHOLE and arm == "base":
            words = {r["group"]: {**r["overlap"], "no_history": 0.5} for r in chosen}
            yield {**line, "label": WORDS, "pairs": None, "held_out": None, "groups": words}


def collected() -> Iterator[Record]:
    """The lines of all experiments."""
    for name, _, arms in experiments():
        found = revision(experiment(name))
        extracted = json.loads(at(found, "results/extract_pairs.json"))["rows"]
        counts = {"dpo": extracted["pairs_train"], "sft": extracted["sft_train"]}
        if "dpo2" in arms:
            counts["dpo2"] = json.loads(at(found, "results/rounds/2/extract_pairs.json"))["rows"]["pairs_train"]
        accuracy = json.loads(at(found, "results/dpo.json"))["val"]["reward"]["accuracy"]
        yield from lines_of(name, arms, counts, {"dpo": accuracy["dpo"]["value"]}, found)


def experiment(name: str) -> str:
    """What DVC calls an experiment of the study."""
    return name if name == WHOLE else f"{WHOLE}-{name}"


def means(lines: Sequence[Record], measure: str) -> dict[str, float]:
    """By group, the mean over runs, on the groups that all have."""
    both = set.intersection(*(set(line["groups"]) for line in lines))
    return {g: float(np.mean([line["groups"][g][measure] for line in lines])) for g in sorted(both)}


def by_label(lines: Sequence[Record], machine: str) -> dict[str, list[Record]]:
    """The lines of a machine that hold groups, by their label."""
    found: dict[str, list[Record]] = {}
    for line in lines:
        if line["machine"] == machine and "groups" in line:
            found.setdefault(line["label"], []).append(line)
    return found


def models(lines: Sequence[Record], machine: str) -> list[Record]:
    """Crossed choice of each label: seeds are averaged group by group, p is corrected over the labels (Holm)."""
    of = by_label(lines, machine)
    made = []
    for label, runs in of.items():
        accuracy = means(runs, "pair_accuracy")
        entry = {
            "label": label, "seeds": len(runs), "pairs": runs[0]["pairs"] or "",
            **mean(np.array(list(accuracy.values())), *DRAWS),
            **{m: rounded(float(np.mean(list(means(runs, m).values())))) for m in ("top1", "no_history")},
        }  # fmt: skip
        if runs[0]["held_out"] is not None:
            entry["held_out"] = rounded(float(np.mean([line["held_out"] for line in runs])))
        if label not in ("base", WORDS):
            entry["gain"] = gain(accuracy, means(of["base"], "pair_accuracy"), *DRAWS)
        made.append(entry)
    gains = [entry["gain"] for entry in made if "gain" in entry]
    for entry, corrected in zip(gains, holm([entry["p"] for entry in gains]), strict=True):
        entry["p_holm"] = corrected
    return made


def between(lines: Sequence[Record], machine: str) -> list[Record]:
    """The differences of CONTRASTS, of those whose labels the machine has."""
    of = by_label(lines, machine)
    return [
        {"first": a, "second": b, **{m: gain(means(of[a], m), means(of[b], m), *DRAWS) for m in MEASURES}}
        for a, b in CONTRASTS
        if a in of and b in of
    ]


def curves(lines: Sequence[Record], machine: str) -> list[Record]:
    """Pair accuracy by the number of exchanges seen, the first so many of a history, for each label that has readings."""
    of = {line["label"]: line["readings"] for line in lines if line["machine"] == machine and "readings" in line}
    if not of:
        return []
    counts = sorted(int(r.removeprefix("first_")) for r in next(iter(of.values())) if r.startswith("first_"))
    steps = [("no_history", "0"), *((f"first_{n}", str(n)) for n in counts), ("history", "all")]
    both = sorted(set.intersection(*(set(readings["history"]) for readings in of.values())))
    made = []
    for reading, seen in steps:
        values = {label: {g: readings[reading][g] for g in both} for label, readings in of.items()}
        averages = {label: rounded(np.mean(list(accuracy.values()))) for label, accuracy in values.items()}
        entry: Record = {"seen": seen, **averages}
        if {"base", "dpo"} <= set(values):
            entry["gain"] = gain(values["dpo"], values["base"], *DRAWS)
        made.append(entry)
    return made


def tables(lines: Sequence[Record]) -> list[str]:
    """All tables of the lines, in Markdown."""
    made = []
    for machine in dict.fromkeys(line["machine"] for line in lines):
        of = by_label(lines, machine)
        if of:
            made.append(markdown(rows(MODELS, models(lines, machine))))
        if found := between(lines, machine):
            made.append(markdown(rows(BETWEEN, found)))
        if found := curves(lines, machine):
            columns: list[Column] = [("exchanges seen", "seen", str)]
            columns += [(label, label, number) for label in found[0] if label not in ("seen", "gain")]
            if "gain" in found[0]:
                columns += [("dpo less base", "gain.difference", signed), ("95 % interval", "gain.ci", signed_interval)]
            made.append(markdown(rows(columns, found)))
    return made


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--tables", action="store_true", help="run nothing; print the tables of docs/results/runs.jsonl")
    kept = [line for _, line in read_lines(OUT / "runs.jsonl")] if (OUT / "runs.jsonl").exists() else []
    if not p.parse_args().tables:
        for name, words, arms in experiments():
            called, stages = experiment(name), [] if name == WHOLE else [f"choose@{arm}" for arm in arms]
            subprocess.run(["dvc", "exp", "remove", "--quiet", called], capture_output=True)
            if subprocess.run(["dvc", "exp", "run", "--temp", "--name", called, *words, *stages]).returncode:
                raise UserError(f"experiment {called} failed, see above; `make study` goes on where it was")
        OUT.mkdir(parents=True, exist_ok=True)
        write_json(OUT / "eval.json", json.loads(at(revision(WHOLE), "results/eval.json")))
        kept = [*collected(), *(line for line in kept if line["machine"] != HERE)]
        write_jsonl(OUT / "runs.jsonl", kept)
    print("\n\n".join(tables(kept)))


if __name__ == "__main__":
    run(main)
