"""The answer of an evaluation: which arms infer their user better than base, whether from the conversation, at what cost.

The same lines end `make repro` and `dvc repro eval`, and open the report. Again, without running anything:
python -m stages.evaluation.answer results/eval.json
"""

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from textwrap import shorten, wrap
from typing import Any

from stages.core.cli import UserError, run
from stages.core.files import read_text
from stages.core.tables import Column, interval, number, p_value, rows, text
from stages.evaluation.scores import BASE, NO_MEMORY

Result = Mapping[str, Any]  # results/eval.json
LINES = 22  # of an answer at most; `make repro` ends with three more
WIDTH = 125
FEW = 10  # profiles below which the bootstrap's intervals are known to be too narrow
CI = "95 % interval"
signed, signed_interval = partial(number, sign=True), partial(interval, sign=True)
MODEL: Column = ("model", "name", str)
# of the records that `models` gives
CHOICE: list[Column] = [
    MODEL, ("pairs right", "choose.pair_accuracy.value", number), (CI, "choose.pair_accuracy.ci", interval),
    ("vs base", "gain.choose.difference", signed), (CI, "gain.choose.ci", signed_interval),
    ("p Holm", "gain.choose.p_holm", p_value), ("no history", "choose.no_history.pair_accuracy.value", number),
    ("no memory", "twin.pair_accuracy.value", number), ("top-1", "choose.top1.value", number),
]  # fmt: skip
COSTS = {
    "over_personalisation": "bringing up the user where it does not help",
    "repetition": "repeating itself within a reply",
    "loops": "repeating earlier replies",
}


def models(result: Result) -> list[dict[str, Any]]:
    """What the result has of each model, in the order of the arms: with `name`, its `gain` over base, and its `twin`, the
    crossed choice of NAME_no_memory."""
    return [
        {
            "name": name, **result["models"][name], "gain": result["vs_base"].get(name, {}),
            "twin": result["models"].get(f"{name}{NO_MEMORY}", {}).get("choose"),
        }
        for name in result["protocol"]["models"]
    ]  # fmt: skip


def chosen(result: Result) -> list[dict[str, Any]]:
    """The models of which crossed choice was measured, without those that are a twin of another."""
    names = set(result["models"])
    return [m for m in models(result) if m.get("choose") and m["name"].removesuffix(NO_MEMORY) not in names - {m["name"]}]


def verdict(value: float | None, ci: Sequence[float | None], p: float | None) -> str:
    """What may be said of a difference to base, from its interval and its corrected p-value."""
    low, high = ci
    if value is None or low is None or high is None:
        return "not measured"
    if low <= 0 <= high or p is None or p >= 0.05:
        return "cannot be told from base"
    return "above base" if value > 0 else "below base"


def of_choice(model: Mapping[str, Any]) -> str:
    """The verdict on the pairs that a model has right. A model that tells users apart without their histories was told them
    elsewhere: it is `told`."""
    gain, (low, _) = model["gain"].get("choose"), model["choose"]["no_history"]["pair_accuracy"]["ci"]
    found = verdict(gain["difference"], gain["ci"], gain["p_holm"]) if gain else "not measured"
    return "told" if found == "above base" and low is not None and low > 0.5 else found


def named(arms: Iterable[Mapping[str, Any]], says: Callable[[Mapping[str, Any]], str], found: str) -> str:
    """The names of the arms of which `says` says `found`, with commas."""
    return ", ".join(str(m["name"]) for m in arms if says(m) == found)


def headline(arms: Sequence[Mapping[str, Any]]) -> str:
    """The finding in one line."""
    if not arms:
        return "Not measured: whether a model infers its user. The result has no crossed choice (stage choose)."
    others, base = [m for m in arms if m["name"] != BASE], [m for m in arms if m["name"] == BASE]
    if not base or not others:
        return f"Nothing to compare: crossed choice was measured of {', '.join(m['name'] for m in arms)} only."
    better, worse = named(others, of_choice, "above base"), named(others, of_choice, "below base")
    found = f"Better than base at inferring their user: {better}." if better else "No arm infers its user better than base."
    low, high = base[0]["choose"]["pair_accuracy"]["ci"]
    known = "unknown" if low is None else "below" if high < 0.5 else "at" if low <= 0.5 else "above"
    return f"{found}{f' Worse than base: {worse}.' if worse else ''} Base itself is {known} chance."


def measure(result: Result) -> str:
    """What crossed choice is, and what it is to be read against."""
    about = result["choose"]
    return (
        "Crossed choice, no judge: of two users and the replies written for them, is each reply more probable after its own "
        f"user's history? {about['groups']} groups; chance 0.50 of pairs, {number(about['top1_chance'])} of top-1; by words "
        f"that history and reply share {number(about['overlap']['pair_accuracy']['value'])}. Better is: the {CI} of the "
        "difference lies above 0 and p after Holm is below 0.05."
    )


def origin(result: Result, arms: Sequence[Mapping[str, Any]]) -> str:
    """Whether what an arm can tell comes from the conversation."""
    words = result["choose"]["overlap"]["pair_accuracy"]["value"]
    of = [m for m in arms if of_choice(m) == "above base"] or [m for m in arms if m["name"] == BASE] or arms[:1]
    found = []
    for m in of:
        (low, _), alone = m["choose"]["pair_accuracy"]["ci"], m["choose"]["no_history"]["pair_accuracy"]
        twin = f", {m['name']}{NO_MEMORY} {number(m['twin']['pair_accuracy']['value'])}" if m["twin"] else ""
        elsewhere = alone["ci"][0] is not None and alone["ci"][0] > 0.5
        nothing = low is None or low <= 0.5
        says = "not only" if elsewhere else "nothing shown" if nothing else "yes" if low > words else "shared words would do"
        found.append(f"{m['name']}: {says} (without the history {number(alone['value'])}{twin})")
    told = named(arms, of_choice, "told")
    last = f" Told its user without it, which is no inference: {told}." if told else ""
    return f"From the conversation? {'; '.join(found)}.{last}"


def measured(model: Mapping[str, Any], key: str) -> float | None:
    """A measure of COSTS of a model."""
    found = model.get("over_personalisation") if key == "over_personalisation" else model["degeneration"]
    value = (found or {}).get("value" if key == "over_personalisation" else key)
    return None if value is None else float(value)


def worse(model: Mapping[str, Any], key: str) -> bool:
    """Whether the interval of a model's difference to base in a measure of COSTS lies above 0."""
    gain = model["gain"]
    ci = (gain.get(key) or {}).get("ci") if key == "over_personalisation" else (gain.get("degeneration_ci") or {}).get(key)
    return ci is not None and (ci[0] or 0) > 0


def cost(result: Result, arms: Sequence[Mapping[str, Any]]) -> str:
    """What the arms that infer better paid for it; where there is none, what any arm did."""
    every = [m for m in models(result) if m["gain"]]
    of = [m for m in arms if of_choice(m) == "above base"] or [m for m in every if NO_MEMORY not in m["name"]]
    found, missing = [], []
    for key, what in COSTS.items():
        values = {m["name"]: measured(m, key) for m in models(result)}
        if all(value is None for value in values.values()):
            missing.append(what)
        elif more := ", ".join(f"{m['name']} {number(values[m['name']])}" for m in of if worse(m, key)):
            found.append(f"{what} (base {number(values[BASE])}): {more}")
    people = result["protocol"]["profiles"]
    said = ["At what cost?", *([f"More than base: {'; '.join(found)}."] if found else [])]
    said += ["None is shown."] if not found and len(missing) < len(COSTS) else []
    said += [f"Not measured: {', '.join(missing)}."] if missing else []
    said += [f"With {people} users the intervals are too narrow."] if people < FEW else []
    return " ".join(said)


def believed(result: Result) -> bool:
    """Whether the judges whose scores count did not fail their calibration."""
    return all(result["judges"][name]["passed"] is not False for name in result["protocol"]["judges"])


def judged(result: Result) -> str:
    """What the judges say, and whether they are to be believed."""
    names = result["protocol"]["judges"]
    about = [result["judges"][name] for name in names]
    who = " and ".join(
        f"{n} (accuracy {number(a['accuracy'])})" if a["accuracy"] else n for n, a in zip(names, about, strict=True)
    )
    made = " It made the training data, too." if any(a["made_data"] for a in about) else ""
    if not believed(result):
        return (
            f"The judge? Not to be believed: {who} failed calibration, where 0.50 is chance. Its scores say nothing.{made}"
        )
    others = [m for m in models(result) if m["gain"]]

    def says(m: Mapping[str, Any]) -> str:
        return verdict(m["gain"]["difference"], m["gain"]["difference_ci"], m["gain"]["p_holm"])

    found = [f"{side}: {of}" for side in ("above base", "below base") if (of := named(others, says, side))]
    known = "passed its calibration" if all(a["passed"] for a in about) else "was not calibrated, so doubt it"
    return f"The judge? {who} {known}. {'; '.join(found) or 'It tells no arm from base'}.{made}"


def answer(result: Result) -> list[str]:
    """The answer as lines of at most WIDTH characters: the finding, how it was measured, a row an arm, cost and judge.

    At most LINES; arms for which there is no room are counted.
    """
    arms = chosen(result)
    wide = partial(wrap, width=WIDTH, subsequent_indent="  ", max_lines=3)
    first = [shorten(headline(arms), WIDTH, placeholder=" ..."), *(wide(measure(result)) if arms else [])]
    last = [line for says in ([origin(result, arms)] if arms else []) for line in wide(says)]
    last += [*wide(cost(result, arms)), *wide(judged(result))]
    columns = [c for c in CHOICE if c[0] != "no memory" or any(m["twin"] for m in arms)]
    table = text(rows(columns, arms)).splitlines() if arms else []
    room = LINES - len(first) - len(last) - 2
    if len(table) > room:
        table = [*table[: room - 1], f"... and {len(table) - room + 1} more arms: python -m stages.evaluation.table"]
    return [*first, "", *table, *([""] if table else []), *last]


def show(what: Callable[[Result], str]) -> None:
    """Prints `what` says of the result whose file is the only argument (results/eval.json)."""
    path = Path(sys.argv[1] if len(sys.argv) > 1 else "results/eval.json")
    try:
        print(what(json.loads(read_text(path))))
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path}: is not a result of stages.eval") from None


if __name__ == "__main__":
    run(lambda: show(lambda result: "\n".join(answer(result))))
