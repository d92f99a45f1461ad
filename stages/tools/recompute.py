"""Recompute: the table of `eval` from somebody else's per-turn scores, or what people answered to a survey, without models.

Of scores it reads one CSV (by its ending, comma-separated) or JSONL file with `model`, `case`, `turn` (from 1) and `score`.
Optional: `profile` (cases that share one are not independent; without it every case stands for itself), `judge`, and
`persona`: `right`, or `wrong` where the reply was judged against another persona. In JSONL null, in CSV an empty score (also
null, none, nan, NA) is a reply that could not be scored. The models called `base` and `oracle` are what the others are
measured against.

Of a survey it reads the .json files that raters saved, and the key that `make survey` kept (stages/tools/people.py).

Seed and number of resamples are those of section `eval` in params.yaml.

Run: python -m stages.tools.recompute scores.csv [--scale 0-100] [--result eval.json] [--cases cases.jsonl]
     python -m stages.tools.recompute survey-ANN.json survey-BEN.json [--key KEY] [--result people.json]
"""

from pathlib import Path

from stages.core import params
from stages.core.cli import UserError, parser, run
from stages.core.files import write_json, write_jsonl
from stages.evaluation.inputs import Calibration, read_scores
from stages.evaluation.judge_free import JudgeFree
from stages.evaluation.result import case_rows, evaluation
from stages.evaluation.scores import Scale
from stages.evaluation.settings import Eval
from stages.evaluation.table import table
from stages.tools import people


class Params(params.Section):
    """The part of stage eval's parameters that is needed."""

    eval: Eval


def main() -> None:
    p = parser(__doc__)
    p.add_argument("files", type=Path, nargs="+", help="read: scores (.csv, or else JSON Lines), or answers (.json)")
    p.add_argument("--scale", default="1-5", metavar="LOW-HIGH", help="lowest and highest score (1-5)")
    p.add_argument("--key", type=Path, metavar="PATH", help=f"read: of the survey ({people.KEYS}/key-ID.json)")
    p.add_argument("--result", type=Path, metavar="PATH", help="written: the measures (of scores as eval writes them)")
    p.add_argument("--cases", type=Path, metavar="PATH", help="written: every case of the scores")
    a = p.parse_args()
    settings = params.load("eval", Params).eval
    if all(path.suffix == ".json" for path in a.files):
        result = people.result(*people.read(a.key, a.files), settings)
        shown = people.table(result)
    elif len(a.files) > 1:
        raise UserError(f"{a.files[1]}: a second file; give one of scores (.csv, .jsonl), or several of answers (.json)")
    else:
        scale = Scale.read(a.scale)
        scores = read_scores(a.files[0], scale)
        result = evaluation(scores, settings, scale, Calibration(), JudgeFree())
        shown = table(result)
        if a.cases:
            write_jsonl(a.cases, case_rows(scores, result["protocol"]["judges"]))
    if a.result:
        write_json(a.result, result)
    print(shown)


if __name__ == "__main__":
    run(main)
