"""What the evaluation reads: judgements, conversations, the judges' calibration, and anybody's per-turn scores.

Whatever is wrong with a row is named by file and line.
"""

import contextlib
import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from stages.core.cli import UserError
from stages.core.files import Record, read_lines, read_objects, read_text
from stages.core.params import checked
from stages.evaluation.scores import Judgement, Scale, Scores

COLUMNS = ("model", "case", "turn", "score")
UNSCORED = ("", "null", "none", "nan", "na")  # what stands for no score in a CSV file

Conversations = dict[str, dict[str, Record]]  # by model and case


def read_judgements(paths: Sequence[Path], scale: Scale) -> Scores:
    """Judgements of this pipeline: the model of a row is the name of its file.

    Raises:
        UserError: a bad row, a second judgement of a reply, one id with two profiles, a file without a row.
    """
    scores = Scores()
    for path in paths:
        for number, row in read_objects(path):
            where = f"{path}:{number}"
            scores.add(_judgement({**row, "model": path.stem, "case": row.get("id")}, scale, where), where)
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
    for number, row in _cells(path) if path.suffix.lower() == ".csv" else read_objects(path):
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


class Probed(BaseModel):
    """A reply to a probe or a read-out, as stage converse writes it."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    id: str
    kind: Literal["probe", "read_out"]
    turn: int = Field(ge=1)
    number: int = Field(default=1, ge=1)
    """Of a probe: 1 for the first that its case was asked."""
    message: str
    reply: str
    told: list[Annotated[int, Field(ge=0)]]
    mentions: list[dict[str, Any]] = []


def read_probes(paths: Sequence[Path], conversations: Conversations) -> dict[str, list[Record]]:
    """Replies to probes and read-outs by model (the file's name).

    Raises:
        UserError: a bad row, or one of a case or an item that the model's conversations lack.
    """
    found: dict[str, list[Record]] = {}
    for path in paths:
        rows = found[path.stem] = []
        for number, row in read_objects(path):
            probed, faults = checked(Probed, row)
            items = conversations[path.stem].get(str(row.get("id")), {}).get("items", [])
            if probed is None or max(probed.told, default=-1) >= len(items):
                raise UserError(f"{path}:{number}: {'; '.join(faults) or 'of no conversation'}; run stage converse again")
            rows.append(row)
    return found


class Calibration(BaseModel):
    """What stage calibrate found."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    judges: dict[str, dict[str, Any]] = {}
    """Of each judge that was calibrated: `passed`, `accuracy`, `length_bias`, `made_data`."""
    made_data: list[str] = []
    """Models that made the training data."""


def read_calibration(path: Path) -> Calibration:
    """The file of stage calibrate. Raises UserError for one that is not."""
    with contextlib.suppress(ValueError):
        calibration = Calibration.model_validate_json(read_text(path))
        if "judges" in calibration.model_fields_set and all(
            isinstance(j.get("passed"), bool) for j in calibration.judges.values()
        ):
            return calibration
    raise UserError(f"{path}: is not a calibration: {{'judges': {{NAME: {{'passed': true or false}}}}, 'made_data': []}}")


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


def _cells(path: Path) -> Iterator[tuple[int, Record]]:
    """Rows of a CSV file, with turn and score as numbers where they are such (the check of the row names others)."""
    reader = csv.reader(read_text(path).splitlines(keepends=True), strict=True)
    try:
        head = [name.strip().lower() for name in next(reader, [])]
        missing = [name for name in COLUMNS if name not in head]
        if missing or len(set(head)) != len(head):
            raise UserError(f"{path}:1: columns {', '.join(missing) or 'twice'}: needs {', '.join(COLUMNS)}, found {head}")
        for values in (row for row in reader if any(v.strip() for v in row)):
            if len(values) != len(head):
                raise UserError(f"{path}:{reader.line_num}: {len(values)} values under {len(head)} columns")
            row: Record = {name: v.strip() for name, v in zip(head, values, strict=True)}
            row = {name: v for name, v in row.items() if name in COLUMNS or (v and name != "spread")}
            row["turn"] = int(row["turn"]) if row["turn"].isascii() and row["turn"].isdigit() else row["turn"]
            with contextlib.suppress(ValueError):
                row["score"] = None if row["score"].lower() in UNSCORED else float(row["score"])
            yield reader.line_num, row
    except csv.Error as e:
        raise UserError(f"{path}:{reader.line_num}: not CSV ({e})") from None


def _judgement(row: Record, scale: Scale, where: str) -> Judgement:
    """A row as a judgement. Raises UserError for a value that is none."""
    judgement, faults = checked(Judgement, row)
    if judgement is None:
        raise UserError(f"{where}: {'; '.join(faults)}")
    if judgement.score is not None and not scale.low <= judgement.score <= scale.high:  # also turns NaN away
        raise UserError(f"{where}: score {judgement.score:g} is outside the scale {scale}")
    return judgement
