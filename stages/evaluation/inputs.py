"""What the evaluation reads: judgements, conversations, the judges' calibration, and anybody's per-turn scores.

Whatever is wrong with a row is named by file and line.
"""

import csv
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stages.core.cli import UserError
from stages.core.files import Record, read_lines, read_text
from stages.evaluation.scores import Judgement, Scale, Scores

PERSONAS = ("right", "wrong")  # see Judgement.persona
COLUMNS = ("model", "case", "turn", "score")
UNNAMED = "judge"  # the judge of rows that name none
UNSCORED = ("", "null", "none", "nan", "na")  # what stands for no score in a CSV file
MOST_TURNS = 1000

Conversations = dict[str, dict[str, Record]]  # by model and case


def read_judgements(paths: Sequence[Path], scale: Scale) -> Scores:
    """Judgements of this pipeline: the model of a row is the name of its file.

    Raises:
        UserError: a bad row, a second judgement of a reply, one id with two profiles, a file without a row.
    """
    scores = Scores()
    for path in paths:
        for number, row in _objects(path):
            where = f"{path}:{number}"
            scores.add(_judgement({**row, "model": path.stem}, scale, where, case="id"), where)
        if path.stem not in scores.cases:
            raise UserError(f"{path}: holds no judgement")
    scores.finish("judgements")
    return scores


def read_scores(path: Path, scale: Scale) -> Scores:
    """Anybody's per-turn scores, CSV (by its ending) or JSONL: model, case, turn, score; profile, judge, persona if known.

    Raises:
        UserError: as `read_judgements`.
    """
    scores = Scores()
    for number, row in _cells(path) if path.suffix.lower() == ".csv" else _objects(path):
        where = f"{path}:{number}"
        scores.add(_judgement(row, scale, where), where)
    scores.finish(str(path))
    return scores


def read_conversations(paths: Sequence[Path], scores: Scores) -> Conversations:
    """Conversations by model (the file's name) and case; their cases are added to `scores`.

    Raises:
        UserError: a row that is no conversation, an id twice or with another profile, a file without a row.
    """
    conversations: Conversations = {}
    for path in paths:
        cases = conversations[path.stem] = {}
        for number, row in read_lines(path):
            where = f"{path}:{number}"
            if not _is_conversation(row):
                raise UserError(f"{where}: not a conversation (id, profile, personality, turns with turn, user and reply)")
            if row["id"] in cases:
                raise UserError(f"{where}: a second conversation of case {row['id']}")
            scores.add_case(path.stem, row["id"], row["profile"], where)
            cases[row["id"]] = row
        if not cases:
            raise UserError(f"{path}: holds no conversation")
    return conversations


@dataclass(frozen=True)
class Calibration:
    """What stage calibrate found."""

    judges: dict[str, Record] = field(default_factory=dict)
    """Of each judge that was calibrated: `passed`, `accuracy`, `length_bias`, `made_data`."""
    made_data: frozenset[str] = frozenset()
    """Models that made the training data."""


def read_calibration(path: Path) -> Calibration:
    """The file of stage calibrate. Raises UserError for one that is not."""
    try:
        value = json.loads(read_text(path))
        calibration = Calibration(dict(value["judges"]), frozenset(value.get("made_data", [])))
        fits = all(isinstance(j["passed"], bool) for j in calibration.judges.values())
    except (ValueError, KeyError, TypeError, AttributeError):
        fits = False
    if not fits:
        raise UserError(
            f"{path}: is not a calibration: {{'judges': {{NAME: {{'passed': true or false}}}}, 'made_data': []}}"
        )
    return calibration


def _is_conversation(row: Any) -> bool:
    """Whether a row has the texts of a conversation, and turns that are numbered upwards from 1."""
    try:
        texts = [row["id"], row["profile"], row["personality"]]
        texts += [t[k] for t in row["turns"] for k in ("user", "reply")]
        turns = [t["turn"] for t in row["turns"]]
        fits = all(isinstance(t, str) for t in texts) and all(type(t) is int and t >= 1 for t in turns)
    except (TypeError, KeyError):
        return False
    return fits and turns == sorted(set(turns))


def _objects(path: Path) -> Iterator[tuple[int, Record]]:
    for number, value in read_lines(path):
        if not isinstance(value, dict):
            raise UserError(f"{path}:{number}: expected a JSON object, found {type(value).__name__}")
        yield number, value


def _cells(path: Path) -> Iterator[tuple[int, Record]]:
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
            if len(values) != len(head):
                raise UserError(f"{path}:{reader.line_num}: {len(values)} values under {len(head)} columns")
            row: Record = {name: v.strip() for name, v in zip(head, values, strict=True)}
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


def _judgement(row: Record, scale: Scale, where: str, case: str = "case") -> Judgement:
    """A row as a judgement. `case`: what the file calls the case. Raises UserError for a value that is none."""
    turn, score, spread = row.get("turn"), row.get("score"), row.get("spread")
    if isinstance(turn, bool) or not isinstance(turn, int) or not 1 <= turn <= MOST_TURNS:
        raise UserError(f"{where}: turn must be a whole number from 1 to {MOST_TURNS}, found {turn!r}")
    if "score" not in row:
        raise UserError(f"{where}: has no score; null stands for a reply that could not be scored")
    if score is not None and (isinstance(score, bool) or not isinstance(score, int | float)):
        raise UserError(f"{where}: score must be a number or null, found {score!r}")
    if score is not None and not scale.low <= score <= scale.high:  # also turns NaN away
        raise UserError(f"{where}: score {score:g} is outside the scale {scale}")
    persona = _text(row, "persona", where, PERSONAS[0])
    if persona not in PERSONAS:
        raise UserError(f"{where}: persona must be right or wrong, found {persona!r}")
    return Judgement(
        _text(row, "model", where), _text(row, "judge", where, UNNAMED), persona, _text(row, case, where), turn, score,
        _text(row, "profile", where) if row.get("profile") is not None else None,
        float(spread) if isinstance(spread, int | float) and math.isfinite(spread) else None,
    )  # fmt: skip


def _text(row: Record, name: str, where: str, default: str | None = None) -> str:
    """A value that must be a text; whole numbers serve as names, too."""
    value = row.get(name, default)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{where}: {name} must be a text, found {value!r}")
    return value
