"""Per-turn scores of several models by one or more judges, laid on one grid of cases and turns."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from stages.core.cli import UserError
from stages.core.statistics import Array

BASE, ORACLE = "base", "oracle"  # models that the others are measured against
NO_MEMORY = "_no_memory"  # NAME_no_memory is the model NAME that sees the last message only


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


def _name(value: Any) -> Any:
    """Whole numbers serve as names, too."""
    return str(value) if type(value) is int else value


Name = Annotated[str, BeforeValidator(_name), Field(pattern=r"\S")]


class Judgement(BaseModel):
    """One score of one reply, a row of a file of scores."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    model: Name
    judge: Name = "judge"
    persona: Literal["right", "wrong"] = "right"
    """Whose persona the reply was judged against: `right`, its own user's, or `wrong`, another one's."""
    case: Name
    turn: int = Field(ge=1, le=1000)
    score: float | None
    """None where the judge gave none."""
    profile: Name | None = None
    spread: float | None = None
    """Standard deviation of the scores that were sampled for it."""


@dataclass
class Scores:
    """All judgements, by model, judge and persona."""

    scores: dict[tuple[str, str, str], dict[tuple[str, int], float | None]] = field(default_factory=dict)
    """(model, judge, persona) -> {(case, turn): score or None}."""
    profiles: dict[str, str] = field(default_factory=dict)
    """Case -> its profile (the case itself where no row names one)."""
    cases: dict[str, set[str]] = field(default_factory=dict)
    """Model -> its cases."""
    spreads: dict[str, list[float]] = field(default_factory=dict)
    """Judge -> its spreads."""
    turns: int = 0
    """K, the last turn that anything was judged at."""
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

    def add(self, row: Judgement, where: str) -> None:
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

    def array(self, model: str, judge: str, persona: str = "right") -> Array:
        """[cases, turns] over all cases and turns; NaN where there is no score."""
        row = {case: n for n, case in enumerate(self.ids)}
        values = np.full((len(row), self.turns), np.nan)
        for (case, turn), score in self.scores.get((model, judge, persona), {}).items():
            if score is not None:
                values[row[case], turn - 1] = score
        return values

    def consensus(self, model: str, judges: Sequence[str], persona: str = "right") -> Array:
        """Mean of the judges; NaN where one of them gave no score, as judges differ in their level."""
        return np.asarray(np.stack([self.array(model, j, persona) for j in judges]).mean(0))
