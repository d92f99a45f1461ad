"""Recompute: the table of `eval` from somebody else's per-turn scores, without models or conversations.

Reads one CSV file (by its ending, comma-separated) or JSONL file with `model`, `case`, `turn` (from 1) and `score`.
Optional: `profile` (cases that share one are not independent; without it every case stands for itself), `judge`, and
`persona`: `right`, or `wrong` where the reply was judged against another persona. In JSONL null, in CSV an empty score (also
null, none, nan, NA) is a reply that could not be scored. The models called `base` and `oracle` are what the others are
measured against. Seed and number of resamples are those of section `eval` in params.yaml.

Run: python -m stages.tools.recompute scores.csv [--scale 0-100] [--result eval.json] [--cases cases.jsonl]
"""

from pathlib import Path

from stages.core import params
from stages.core.cli import parser, run
from stages.core.files import write_json, write_jsonl
from stages.evaluation.inputs import Calibration, read_scores
from stages.evaluation.judge_free import JudgeFree
from stages.evaluation.result import case_rows, evaluation
from stages.evaluation.scores import Scale
from stages.evaluation.settings import Eval
from stages.evaluation.table import table


class Params(params.Section):
    """The part of stage eval's parameters that is needed."""

    eval: Eval


def main() -> None:
    p = parser(__doc__)
    p.add_argument("scores", type=Path, help="read: .csv, or else JSON Lines")
    p.add_argument("--scale", default="1-5", metavar="LOW-HIGH", help="lowest and highest score (1-5)")
    p.add_argument("--result", type=Path, metavar="PATH", help="written: what eval writes of the scores")
    p.add_argument("--cases", type=Path, metavar="PATH", help="written: every case")
    a = p.parse_args()
    scale = Scale.read(a.scale)
    scores = read_scores(a.scores, scale)
    result = evaluation(scores, params.load("eval", Params).eval, scale, Calibration(), JudgeFree())
    if a.result:
        write_json(a.result, result)
    if a.cases:
        write_jsonl(a.cases, case_rows(scores, result["protocol"]["judges"]))
    print(table(result))


if __name__ == "__main__":
    run(main)
