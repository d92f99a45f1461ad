"""Eval: alignment by turn for every model, with intervals, and what each gained over base. Asks nothing.

Reads the judgements and, for the measure that needs no judge (recognition.py), the conversations; writes results/eval.json
and the plots by turn, and prints the table.

Run: python -m stages.eval (the arguments are in dvc.yaml)
"""

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.common import params
from stages.common.embed import EncoderParams
from stages.common.errors import UserError, parser, run
from stages.common.records import read_jsonl, read_text, write_json
from stages.common.table import table

if TYPE_CHECKING:
    from stages.common.metrics import Array

SCALE = "1-5"
BASE = "base"


@dataclass
class Eval:
    """Section `eval`: bootstrap seed and number of resamples."""

    seed: int
    resamples: int

    def __post_init__(self) -> None:
        params.require((self.resamples >= 1, f"resamples: {self.resamples} is not at least 1"))


@dataclass
class Params:
    """What this stage reads."""

    eval: Eval
    encoder: EncoderParams


@dataclass
class Scores:
    """Scores of one model: [cases, K] with NaN for unscored, the case ids and their profiles."""

    values: "Array"
    ids: list[str]
    profiles: list[str]


def read(path: Path) -> Scores:
    """Judgements of one model. Raises UserError for an empty file."""
    import numpy as np

    rows = read_jsonl(path)
    if not rows:
        raise UserError(f"{path}: holds no judgement")
    ids = sorted({r["id"] for r in rows})
    profile = {r["id"]: r["profile"] for r in rows}
    values = np.full((len(ids), max(r["turn"] for r in rows)), np.nan)
    for r in rows:
        if r["score"] is not None:
            values[ids.index(r["id"]), r["turn"] - 1] = r["score"]
    return Scores(values, ids, [profile[i] for i in ids])


def recognised(path: Path, turns: int, speaker: str, encode: Any) -> Scores:
    """Reciprocal ranks of the right persona in the conversations of one model."""
    from stages.common.recognition import reciprocal_ranks

    cases = sorted(read_jsonl(path), key=lambda c: str(c["id"]))
    if not cases:
        raise UserError(f"{path}: holds no conversation")
    values = reciprocal_ranks(cases, speaker, turns, encode)
    return Scores(values, [c["id"] for c in cases], [c["profile"] for c in cases])


def recognition(scores: Scores, p: Eval) -> dict[str, Any]:
    """By turn: how often the right persona is the nearest of all, and the mean reciprocal rank, with its interval."""
    import numpy as np

    from stages.common import metrics

    drawn = metrics.resampled_alignment(scores.values, metrics.resamples(scores.profiles, p.resamples, p.seed))
    first = np.where(np.isnan(scores.values), np.nan, scores.values == 1)
    return {
        "mrr": numbers(metrics.alignment(scores.values)),
        "mrr_ci": metrics.interval(drawn),
        "top1": numbers(metrics.alignment(first)),
    }


def numbers(values: "Array") -> list[float | None]:
    """Rounded for JSON, None for NaN."""
    return [None if v != v else round(float(v), 4) for v in values]


def mean_score(values: "Array") -> float | None:
    """Mean over turns of AL(k)."""
    import numpy as np

    from stages.common.metrics import alignment

    al = alignment(values)
    return round(float(np.nanmean(al)), 4) if not np.isnan(al).all() else None


def model_result(scores: Scores, p: Eval) -> dict[str, Any]:
    """Everything reported of one model."""
    import numpy as np

    from stages.common import metrics

    al = metrics.alignment(scores.values)
    drawn = metrics.resampled_alignment(scores.values, metrics.resamples(scores.profiles, p.resamples, p.seed))
    trend = {k: None if v is None else round(v, 6) for k, v in metrics.improvement(al).items()}
    return {
        "n_cases": len(scores.ids),
        "al": numbers(al),
        "al_ci": metrics.interval(drawn),
        "al_mean": mean_score(scores.values),
        **trend,
        "unscored": int(np.isnan(scores.values).sum()),
    }


def against(scores: Scores, base: Scores, p: Eval) -> dict[str, Any]:
    """Gain over base on the cases both have: difference and relative improvement of the mean AL, paired bootstrap."""
    import numpy as np

    from stages.common import metrics

    shared = sorted(set(scores.ids) & set(base.ids))
    turns = min(scores.values.shape[1], base.values.shape[1])
    a = scores.values[[scores.ids.index(i) for i in shared], :turns]
    b = base.values[[base.ids.index(i) for i in shared], :turns]
    weights = metrics.resamples([base.profiles[base.ids.index(i)] for i in shared], p.resamples, p.seed)
    with np.errstate(invalid="ignore"):
        means = [np.nanmean(metrics.resampled_alignment(x, weights), axis=1) for x in (a, b)]
    ma, mb = mean_score(a), mean_score(b)
    relative = None if ma is None or not mb else round((ma - mb) / mb, 4)
    return {
        "n_cases": len(shared),
        "difference": None if ma is None or mb is None else round(ma - mb, 4),
        "difference_ci": metrics.interval(means[0] - means[1]),
        "relative_improvement": relative,
        "ci": metrics.interval(means[0] / means[1] - 1),
    }


def recognition_gain(seen: dict[str, Scores], name: str, p: Eval) -> dict[str, Any]:
    """Difference to base of the mean reciprocal rank over all turns, on the same cases."""
    gain = against(seen[name], seen[BASE], p)
    return {"recognition_difference": gain["difference"], "recognition_difference_ci": gain["difference_ci"]}


def main() -> None:
    p = parser(
        __doc__, ["judge-prompt", "user-prompt", "assistant-prompt", "oracle-prompt"], ["result", "curve", "recognition"]
    )
    for name in ("judgements", "conversations"):
        p.add_argument(f"--{name}", type=Path, nargs="+", required=True, metavar="PATH", help="read; NAME.jsonl each")
    a = p.parse_args()
    read_params = params.load("eval", Params)
    settings = read_params.eval
    from stages.common.embed import Encoder

    encode = Encoder(read_params.encoder)
    scores = {path.stem: read(path) for path in a.judgements}
    models = {name: model_result(s, settings) for name, s in scores.items()}
    turns = max(s.values.shape[1] for s in scores.values())
    seen = {path.stem: recognised(path, turns, "reply", encode) for path in a.conversations}
    for name, s in seen.items():
        models[name]["recognition"] = recognition(s, settings)
    told = recognition(recognised(a.conversations[0], turns, "user", encode), settings)
    cases = len(seen[a.conversations[0].stem].ids)
    chance = round(sum(1 / rank for rank in range(1, cases + 1)) / cases, 4)
    prompts = {n: getattr(a, f"{n}_prompt") for n in ("judge", "user", "assistant", "oracle")}
    result: dict[str, Any] = {
        "scale": SCALE,
        "protocol": {
            "params": params.declared_values("eval"),
            "prompts_sha256": {k: sha256(read_text(v).encode()).hexdigest() for k, v in prompts.items()},
            "models": list(models),
            "turns": turns,
            "intervals": f"95 % percentile bootstrap over profiles, {settings.resamples} resamples",
        },
        "models": models,
        "vs_base": {
            name: {**against(s, scores[BASE], settings), **recognition_gain(seen, name, settings)}
            for name, s in scores.items()
            if name != BASE and BASE in scores
        },
        "recognition": {
            "personas": cases,
            "chance_mrr": chance,
            "chance_top1": round(1 / cases, 4),
            "from_user_turns": told,
        },
    }
    write_json(a.result, result)
    write_json(
        a.curve,
        [{"turn": k + 1, **{n: m["al"][k] if k < len(m["al"]) else None for n, m in models.items()}} for k in range(turns)],
    )
    known = {**{n: m["recognition"] for n, m in models.items()}, "user": told}
    write_json(
        a.recognition,
        [{"turn": k + 1, **{n: r["mrr"][k] for n, r in known.items()}, "chance": chance} for k in range(turns)],
    )
    print(table(result))


if __name__ == "__main__":
    run(main)
