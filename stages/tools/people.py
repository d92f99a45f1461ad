"""People's answers to a survey: what they prefer, and whether they agree with one another and with verifier or judge."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stages.core import tables
from stages.core.cli import UserError
from stages.core.files import Record, read_text
from stages.core.statistics import Array, interval, known_mean, krippendorff_alpha, resampled_means, rounded
from stages.core.tables import Column, number
from stages.core.tables import interval as interval_text
from stages.evaluation.answer import CI
from stages.evaluation.settings import Eval

T = TypeVar("T", bound=BaseModel)
KEYS = Path("results/survey")


class _Read(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True)


class Machine(_Read):
    """What the verifier or the judge chose."""

    name: str
    choice: float | None


class Asked(_Read):
    """A pair, as the key describes it."""

    names: tuple[str, str]
    left: str
    profile: str
    machine: Machine


class Key(_Read):
    """What tools.survey keeps beside its page."""

    id: str
    persona: bool
    pairs: dict[str, Asked]


class Answers(_Read):
    """The file that the page gives a rater."""

    survey: str
    rater: str = Field(min_length=1)
    answers: dict[str, int]
    """By pair: 1 the left reply, 2 the right one, 0 no difference."""


def _read(path: Path, schema: type[T], what: str) -> T:
    try:
        return schema.model_validate_json(read_text(path))
    except ValidationError as e:
        fault = e.errors()[0]
        at = ".".join(map(str, fault["loc"]))
        raise UserError(f"{path}: not {what}: {at + ': ' if at else ''}{fault['msg']}") from None


def read(key: Path | None, files: Sequence[Path]) -> tuple[Key, list[Answers]]:
    """The key and everybody's answers.

    Args:
        key: file of the key; None: the one that make survey kept for the survey of the first answers.
    Raises:
        UserError: a file that is none, of another survey, with a pair or an answer that there is not; two of one rater.
    """
    answers = [_read(path, Answers, "a file of answers that the survey's page saves") for path in files]
    key = key or KEYS / f"key-{answers[0].survey}.json"
    if not key.exists():
        raise UserError(f"{key}: no such file, the key of survey {answers[0].survey} ({files[0]}); give --key")
    known, found = _read(key, Key, "the key that make survey writes"), dict[str, Path]()
    for path, one in zip(files, answers, strict=True):
        if one.survey != known.id:
            raise UserError(f"{path}: answers of survey {one.survey}, and {key} is of {known.id}; give --key")
        if one.rater in found:
            raise UserError(f"{path}: answers of {one.rater}, as {found[one.rater]}; give the later file alone")
        for pair, choice in one.answers.items():
            if pair not in known.pairs or choice not in (0, 1, 2):
                raise UserError(f"{path}: answer {choice} to pair {pair}; the survey has no such pair or answer")
        found[one.rater] = path
    return known, answers


def preferences(key: Key, several: Sequence[Answers], pairs: Sequence[str]) -> Array:
    """[pairs, raters]: 1 where the first of the pair's names was chosen, 0 the other, 0.5 no difference, NaN no answer."""

    def value(pair: str, choice: int | None) -> float:
        if not choice:
            return np.nan if choice is None else 0.5
        return float((choice == 1) == (key.pairs[pair].left == key.pairs[pair].names[0]))

    return np.array([[value(pair, one.answers.get(pair)) for one in several] for pair in pairs])


def share(values: Array, profiles: Sequence[str], p: Eval) -> Record:
    """Mean of what is known of values [pairs, raters], and its 95 % interval by bootstrap over profiles."""
    names, member = np.unique(np.asarray(profiles), return_inverse=True)
    known = ~np.isnan(values)
    of_pair = np.where(known, values, 0.0).sum(1), known.sum(1)
    sums, counts = (np.bincount(member, x, len(names)).astype(float) for x in of_pair)
    sums, counts = sums[counts > 0], counts[counts > 0]
    if not len(counts):
        return {"value": None, "ci": [None, None]}
    found = resampled_means(sums, counts, p.resamples, p.seed)
    return {"value": rounded(float(sums.sum() / counts.sum())), "ci": interval(found, len(sums))}


def agreement(values: Array, choices: Array) -> Array:
    """[pairs, 1]: 1 where the machine chose as most raters did, 0 where not, 0.5 where it chose neither.

    NaN where the raters are undecided or the machine was not asked; so an arbitrary chooser is at 0.5.
    """
    people, machine = (np.sign(x - 0.5) for x in (known_mean(values, 1), choices))
    same = 0.5 + people * machine / 2
    return np.asarray(np.where(people == 0, np.nan, same)[:, None])


def comparison(key: Key, several: Sequence[Answers], pairs: Sequence[str], p: Eval) -> Record:
    """The measures of one comparison."""
    asked = [key.pairs[pair] for pair in pairs]
    profiles = [a.profile for a in asked]
    values = preferences(key, several, pairs)
    answered = (~np.isnan(values)).any(1)
    choices = np.array([np.nan if a.machine.choice is None else a.machine.choice for a in asked])
    same = agreement(values, choices)
    return {
        "names": list(asked[0].names),
        "pairs": int(answered.sum()),
        "profiles": len(set(np.array(profiles)[answered])),
        "answers": int((~np.isnan(values)).sum()),
        "preferred": share(values, profiles, p),
        "no_difference": rounded(float((values == 0.5).sum() / max(1, (~np.isnan(values)).sum()))),
        "alpha": rounded(krippendorff_alpha(values)),
        "machine": {"name": asked[0].machine.name, "pairs": int((~np.isnan(same)).sum()), **share(same, profiles, p)},
    }


def result(key: Key, several: Sequence[Answers], p: Eval) -> Record:
    """All measures, for JSON."""
    by_names: dict[tuple[str, str], list[str]] = {}
    for pair, asked in key.pairs.items():
        by_names.setdefault(asked.names, []).append(pair)

    def rater(one: Answers) -> Record:
        sides = [choice for choice in one.answers.values() if choice]
        left = rounded(sides.count(1) / len(sides)) if sides else None
        return {"name": one.rater, "answers": len(one.answers), "left": left}

    return {
        "survey": key.id,
        "persona": key.persona,
        "comparisons": [comparison(key, several, by_names[names], p) for names in sorted(by_names)],
        "raters": [rater(one) for one in several],
    }


COMPARISONS: list[Column] = [
    ("preferred - other", "names", " - ".join), ("pairs", "pairs", str), ("profiles", "profiles", str),
    ("answers", "answers", str), ("prefer the first", "preferred.value", number), (CI, "preferred.ci", interval_text),
    ("no difference", "no_difference", number), ("alpha", "alpha", number), ("machine", "machine.name", str),
    ("pairs", "machine.pairs", str), ("agrees", "machine.value", number), (CI, "machine.ci", interval_text),
]  # fmt: skip
RATERS: list[Column] = [("rater", "name", str), ("answers", "answers", str), ("left", "left", number)]


def table(result: Mapping[str, Any]) -> str:
    """The measures for a terminal."""
    shown = "shown" if result["persona"] else "not shown"
    return "\n\n".join([
        f"Survey {result['survey']}, persona {shown}. No difference counts half, so 0.5 is no preference. The machine\n"
        f"agrees where it chooses as most raters do, 0.5 by chance. {CI}: by bootstrap over profiles, not over raters.",
        tables.text(tables.rows(COMPARISONS, result["comparisons"])),
        tables.text(tables.rows(RATERS, result["raters"])),
    ])  # fmt: skip
