"""Eval: alignment by turn for every model, with intervals, what each gained over base, and two witnesses. Asks nothing.

Reads the judgements and, for what needs no judge (recognition.py, degeneration.py), the conversations; writes the result,
every case's scores and the plots by turn, and prints the table. The models are the arms of params.yaml.

Run: python -m stages.eval (the arguments are in dvc.yaml)
Somebody else's scores in the same table: python -m stages.tools.recompute --help
"""

from collections.abc import Iterable
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

from stages.core import params
from stages.core.cli import UserError, parser, run
from stages.core.files import read_text, write_json, write_jsonl
from stages.evaluation.result import (
    SCALE,
    VERSIONS,
    by_turn,
    cases,
    read_calibration,
    read_conversations,
    score_results,
    witnesses,
)
from stages.evaluation.scores import Scale, read_judgements
from stages.evaluation.settings import Eval
from stages.evaluation.table import table
from stages.text.settings import EncoderParams


class Params(params.Section):
    """What this stage reads. Of the other sections it declares it names the values in the result's protocol."""

    arms: dict[str, Any]
    eval: Eval
    encoder: EncoderParams


def files(folder: Path, arms: Iterable[str]) -> list[Path]:
    """The file of each arm in a folder. Raises UserError for an arm without one and for a file of no arm."""
    found = {path.stem: path for path in sorted(folder.glob("*.jsonl"))}
    if missing := [name for name in arms if name not in found]:
        raise UserError(f"{folder / missing[0]}.jsonl: no such file, but params.yaml has an arm {missing[0]}")
    if strange := sorted(set(found) - set(arms)):
        raise UserError(f"{found[strange[0]]}: params.yaml has no arm {strange[0]}; remove the file or bring the arm back")
    return [found[name] for name in arms]


def main() -> None:
    inputs = ["judgements", "conversations", "calibration", "prompts"]
    a = parser(__doc__, inputs, ["result", "cases", "curve", "recognition"]).parse_args()
    p = params.load("eval", Params)
    scale = Scale.read(SCALE)
    scores = read_judgements(files(a.judgements, p.arms), scale)
    said = read_conversations(files(a.conversations, p.arms), scores)
    calibration, made = read_calibration(a.calibration)
    result, judges, draw = score_results(scores, p.eval, calibration, made, scale)
    from stages.text.encoder import Encoder

    ranks = witnesses(result, said, scores, draw, Encoder(p.encoder))
    result["protocol"] |= {
        "params": params.declared_values("eval"),
        "prompts_sha256": {f.stem: sha256(read_text(f).encode()).hexdigest() for f in sorted(a.prompts.glob("*.txt"))},
        "versions": {name: version(name) for name in VERSIONS},
    }
    al, seen = by_turn(result, list(said))
    write_json(a.result, result)
    write_jsonl(a.cases, cases(scores, judges, ranks))
    write_json(a.curve, al)
    write_json(a.recognition, seen)
    print(table(result))


if __name__ == "__main__":
    run(main)
