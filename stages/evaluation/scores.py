"""Per-turn scores of several models by one or more judges, read from files and laid on one grid of cases and turns.

Two kinds of file: judgements of this pipeline (JSONL, one file a model) and anybody's scores (CSV or JSONL with model, case,
turn, score and optionally profile, judge, persona). Whatever is wrong with a row is named by file and line.
"""

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.core.cli import UserError
from stages.core.files import read_lines, read_text

if TYPE_CHECKING:
    from stages.core.statistics import Array

PERSONAS = ("right", "wrong")  # whom the reply was judged against: its own user, or another eval persona
COLUMNS = ("model", "case", "turn", "score")
UNNAMED = "judge"  # the judge of rows that name none
UNSCORED = ("", "null", "none", "nan", "na")  # what stands for no score in a CSV file
MOST_TURNS = 1000


@dataclass(frozen=True)
class Scale:
    """Lowest and highest score, as in `1-5`."""

    low: float
    high: float

    @classmethod
    def read(cls, text: str) -> "Scale":
        """From `LOW-HIGH`. Raises UserError for anything else."""
        low, _, high = text.partition("-")
        try:
            scale = cls(float(low), float(high))
        except ValueError:
            raise UserError(f"scale {text}: write LOW-HIGH, as in 1-5 or 0-100") from None
        if not scale.low < scale.high < math.inf:
            raise UserError(f"scale {text}: the first number must be below the second")
        return scale

    def __str__(self) -> str:
        return f"{self.low:g}-{self.high:g}"


@dataclass(frozen=True)
class Judged:
    """One judgement. `score` is None where the judge gave none."""

    model: str
    judge: str
    persona: str
    case: str
    turn: int
    score: float | None
    profile: str | None
    spread: float | None


@dataclass
class Scores:
    """All judgements, by model, judge and persona.

    `scores` maps (model, judge, persona) to {(case, turn): score or None}; `profiles` a case to its profile (the case itself
    where no row names one), `cases` a model to its own; `turns` is K, the last turn that anything was judged at.
    """

    scores: dict[tuple[str, str, str], dict[tuple[str, int], float | None]] = field(default_factory=dict)
    profiles: dict[str, str] = field(default_factory=dict)
    cases: dict[str, set[str]] = field(default_factory=dict)
    spreads: dict[str, list[float]] = field(default_factory=dict)
    turns: int = 0
    _where: dict[object, str] = field(default_factory=dict)

    @property
    def models(self) -> list[str]:
        """Names, in the order in which they came."""
        return list(self.cases)

    @property
    def judges(self) -> list[str]:
        """Names of all judges, sorted."""
        return sorted({judge for _, judge, _ in self.scores})

    @property
    def ids(self) -> list[str]:
        """All cases, sorted: the rows of every array."""
        return sorted(self.profiles)

    @property
    def clusters(self) -> list[str]:
        """Profile of each case of `ids`."""
        return [self.profiles[i] for i in self.ids]

    def add_case(self, model: str, case: str, profile: str | None, where: str) -> None:
        """A case of a model. Raises UserError where it has another profile than elsewhere."""
        self.cases.setdefault(model, set()).add(case)
        if profile is not None:
            first = self._where.setdefault(("profile", case), where)
            if self.profiles.get(case, profile) != profile:
                raise UserError(f"{where}: case {case} has another profile than at {first}; one id, one persona")
            self.profiles[case] = profile

    def add(self, row: Judged, where: str) -> None:
        """One judgement. Raises UserError where the same reply already has one by this judge."""
        self.add_case(row.model, row.case, row.profile, where)
        cells = self.scores.setdefault((row.model, row.judge, row.persona), {})
        key = (row.model, row.judge, row.persona, row.case, row.turn)
        if (row.case, row.turn) in cells:
            raise UserError(
                f"{where}: a second score of {row.model}, case {row.case}, turn {row.turn} by {row.judge} "
                f"({row.persona} persona); the first is at {self._where[key]}"
            )
        self._where[key] = where
        cells[row.case, row.turn] = row.score
        self.turns = max(self.turns, row.turn)
        if row.spread is not None:
            self.spreads.setdefault(row.judge, []).append(row.spread)

    def finish(self, where: str) -> None:
        """After the last row: a case without a profile is a cluster of its own. Raises UserError if there is none."""
        if not self.scores:
            raise UserError(f"{where}: holds no score")
        for case in set().union(*self.cases.values()):
            self.profiles.setdefault(case, case)

    def array(self, model: str, judge: str, persona: str = "right") -> "Array":
        """[cases, turns] over all cases and turns; NaN where there is no score."""
        import numpy as np

        row = {case: n for n, case in enumerate(self.ids)}
        values = np.full((len(row), self.turns), np.nan)
        for (case, turn), score in self.scores.get((model, judge, persona), {}).items():
            if score is not None:
                values[row[case], turn - 1] = score
        return values

    def consensus(self, model: str, judges: Sequence[str], persona: str = "right") -> "Array":
        """Mean of the judges; NaN where one of them gave no score, as judges differ in their level."""
        import numpy as np

        return np.asarray(np.stack([self.array(model, j, persona) for j in judges]).mean(0))


def _checked(row: dict[str, Any], scale: Scale, where: str, case: str = "case") -> Judged:
    """A row as a judgement. `case`: what the file calls the case."""

    def text(name: str, default: str | None = None) -> str:
        value = row.get(name, default)
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)  # numbers as names of cases
        if not isinstance(value, str) or not value.strip():
            raise UserError(f"{where}: {name} must be a text, found {value!r}")
        return value

    turn, score = row.get("turn"), row.get("score")
    if isinstance(turn, bool) or not isinstance(turn, int) or not 1 <= turn <= MOST_TURNS:
        raise UserError(f"{where}: turn must be a whole number from 1 to {MOST_TURNS}, found {turn!r}")
    if "score" not in row:
        raise UserError(f"{where}: has no score; null stands for a reply that could not be scored")
    if score is not None and (isinstance(score, bool) or not isinstance(score, int | float)):
        raise UserError(f"{where}: score must be a number or null, found {score!r}")
    if score is not None and not scale.low <= score <= scale.high:  # also turns NaN away
        raise UserError(f"{where}: score {score:g} is outside the scale {scale}")
    persona = text("persona", PERSONAS[0])
    if persona not in PERSONAS:
        raise UserError(f"{where}: persona must be right or wrong, found {persona!r}")
    spread = row.get("spread")
    return Judged(
        text("model"), text("judge", UNNAMED), persona, text(case), turn, score,
        text("profile") if row.get("profile") is not None else None,
        float(spread) if isinstance(spread, int | float) and math.isfinite(spread) else None,
    )  # fmt: skip


def _objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, value in read_lines(path):
        if not isinstance(value, dict):
            raise UserError(f"{path}:{number}: expected a JSON object, found {type(value).__name__}")
        yield number, value


def _cells(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows of a CSV file, with turn and score as numbers where they are such."""
    reader = csv.reader(read_text(path).splitlines(keepends=True), strict=True)
    try:
        head = [name.strip().lower() for name in next(reader, [])]
        missing = [name for name in COLUMNS if name not in head]
        if missing or len(set(head)) != len(head):
            raise UserError(f"{path}:1: columns {', '.join(missing) or 'twice'}: needs {', '.join(COLUMNS)}, found {head}")
        for values in reader:
            if not any(v.strip() for v in values):
                continue
            where = f"{path}:{reader.line_num}"
            if len(values) != len(head):
                raise UserError(f"{where}: {len(values)} values under {len(head)} columns")
            row: dict[str, Any] = {name: v.strip() for name, v in zip(head, values, strict=True)}
            row = {name: v for name, v in row.items() if v or name in COLUMNS}  # an empty optional value is not given
            row["turn"] = int(row["turn"]) if row["turn"].isascii() and row["turn"].isdigit() else row["turn"]
            row["score"] = _number(row["score"])
            row.pop("spread", None)
            yield reader.line_num, row
    except csv.Error as e:
        raise UserError(f"{path}:{reader.line_num}: not CSV ({e})") from None


def _number(text: str) -> float | str | None:
    if text.lower() in UNSCORED:
        return None
    try:
        return float(text)
    except ValueError:
        return text  # named as a bad score by the check that follows


def read_judgements(paths: Sequence[Path], scale: Scale) -> Scores:
    """Judgements of this pipeline: the model of a row is the name of its file.

    Raises:
        UserError: a bad row, a second judgement of a reply, one id with two profiles, a file without a row.
    """
    found = Scores()
    for path in paths:
        if path.stem in found.cases:
            raise UserError(f"{path}: a second file for the model {path.stem}")
        for number, row in _objects(path):
            where = f"{path}:{number}"
            found.add(_checked({**row, "model": path.stem}, scale, where, case="id"), where)
        if path.stem not in found.cases:
            raise UserError(f"{path}: holds no judgement")
    found.finish("judgements")
    return found


def read_foreign(path: Path, scale: Scale) -> Scores:
    """Somebody's per-turn scores, CSV (by its ending) or JSONL: model, case, turn, score; profile, judge, persona if known.

    Raises:
        UserError: as `read_judgements`.
    """
    found = Scores()
    for number, row in _cells(path) if path.suffix.lower() == ".csv" else _objects(path):
        where = f"{path}:{number}"
        found.add(_checked(row, scale, where), where)
    found.finish(str(path))
    return found
