"""The result of the evaluation (results/eval.json), from scores and what the conversations measure without a judge."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from stages.core.cli import UserError
from stages.core.files import Record, digest
from stages.core.statistics import complete_cases, holm, krippendorff_alpha, rounded
from stages.evaluation import judge_free, metrics
from stages.evaluation.inputs import Calibration
from stages.evaluation.judge_free import JudgeFree
from stages.evaluation.metrics import Inference
from stages.evaluation.scores import BASE, ORACLE, Scale, Scores
from stages.evaluation.settings import Eval


def headline_judges(scores: Scores, calibration: Mapping[str, Record]) -> list[str]:
    """The judges whose mean is the score: of those that judged every model, the ones that passed calibration.

    Where none passed, those that were not calibrated; where there is none either, all. Raises UserError if no judge judged
    every model.
    """
    usable = [j for j in scores.judges if all((m, j, "right") in scores.scores for m in scores.models)]
    if not usable:
        raise UserError(
            f"no judge scored every model: {', '.join(scores.judges)} each lack one of {', '.join(scores.models)}"
        )
    by_outcome: dict[bool | None, list[str]] = {}
    for judge in usable:
        by_outcome.setdefault(calibration[judge]["passed"] if judge in calibration else None, []).append(judge)
    return by_outcome.get(True) or by_outcome.get(None) or usable


def evaluation(scores: Scores, p: Eval, scale: Scale, calibration: Calibration, measured: JudgeFree) -> dict[str, Any]:
    """The whole result but what only the stage knows of its protocol. `measured`: of no model without conversations."""
    infer = Inference(scores.clusters, p.resamples, p.seed)
    judges = headline_judges(scores, calibration.judges)
    models = {m: model_result(scores, judges, m, infer) | judge_free.model_result(measured, m, infer) for m in scores.models}
    others = [m for m in scores.models if m != BASE] if BASE in scores.models else []
    vs_base = {m: gain(scores, judges, m, infer) | judge_free.gain(measured, m, infer) for m in others}
    correct(vs_base.values(), "p")
    correct([g["personalisation"] for g in vs_base.values()], "p")
    return {
        "scale": str(scale),
        "protocol": protocol(scores, judges, p),
        "models": models,
        "vs_base": vs_base,
        "judges": {j: judge_result(scores, j, calibration, infer) for j in scores.judges},
        "agreement": agreement(scores),
    }


def protocol(scores: Scores, judges: list[str], p: Eval) -> dict[str, Any]:
    """What was compared, and how uncertainty is measured."""
    profiles = len(set(scores.clusters))
    return {
        "models": scores.models,
        "turns": scores.turns,
        "cases": len(scores.ids),
        "profiles": profiles,
        "judges": judges,
        "intervals": f"95 % expanded percentile bootstrap over {profiles} profiles, {p.resamples} resamples",
        "p_values": "sign flips by profile, two-sided; p_holm: Holm's correction over the models compared with base",
    }


def correct(entries: Iterable[dict[str, Any]], key: str) -> None:
    """Adds Holm's correction `<key>_holm` of the family of p-values under `key` to the entries."""
    entries = list(entries)
    for entry, corrected in zip(entries, holm([e[key] for e in entries]), strict=True):
        entry[f"{key}_holm"] = corrected


def model_result(scores: Scores, judges: Sequence[str], model: str, infer: Inference) -> dict[str, Any]:
    """What scores say of one model alone."""
    right, wrong = (scores.consensus(model, judges, persona) for persona in ("right", "wrong"))
    own = [n for n, i in enumerate(scores.ids) if i in scores.cases[model]]
    judged = {cell for judge in judges for cell in scores.scores[model, judge, "right"]}
    fit, fit_ci = infer.estimate(metrics.difference, right, wrong)
    exact = metrics.alignment(right)
    return {
        "n_cases": len(own),
        **infer.named("al", metrics.curve, right),
        **infer.named("al_mean", metrics.level, right),
        "area": rounded(metrics.area(exact)),
        **{key: rounded(value, 6) for key, value in metrics.improvement(exact).items()},
        "ir_ci": infer.estimate(metrics.slopes, right, digits=6)[1],
        "unscored": int(np.isnan(right[own]).sum()),
        "no_row": len(own) * scores.turns - len(judged),
        "personalisation": {"value": fit, "ci": fit_ci, "p": infer.p_value(right - wrong)},
    }


def gain(scores: Scores, judges: Sequence[str], model: str, infer: Inference) -> dict[str, Any]:
    """What a model gained over base on the replies that both have scored."""
    right, wrong, base, base_wrong = (
        scores.consensus(m, judges, persona) for m in (model, BASE) for persona in ("right", "wrong")
    )
    relative, ci = infer.estimate(metrics.relative, right, base)
    fit, fit_ci = infer.estimate(metrics.gain_of_personalisation, right, wrong, base, base_wrong)
    fit_p = infer.p_value((right - wrong) - (base - base_wrong))
    return {
        "n_cases": int((~np.isnan(right - base)).any(1).sum()),
        **infer.named("difference", metrics.difference, right, base),
        "relative_improvement": relative,
        "ci": ci,
        "p": infer.p_value(right - base),
        "share_of_gain": share_of_gain(scores, judges, model, infer),
        "personalisation": {"difference": fit, "ci": fit_ci, "p": fit_p},
    }


def share_of_gain(scores: Scores, judges: Sequence[str], model: str, infer: Inference) -> dict[str, Any]:
    """(AL - base) / (oracle - base); None, with the reason, unless the interval of oracle - base lies above 0."""
    none = {"value": None, "ci": [None, None]}
    if ORACLE not in scores.models or model == ORACLE:
        return {**none, "why": "no oracle" if model != ORACLE else "is the oracle"}
    own, base, oracle = complete_cases(*(scores.consensus(m, judges) for m in (model, BASE, ORACLE)))
    _, (low, _) = infer.estimate(metrics.difference, oracle, base)
    if low is None or low <= 0:
        return {**none, "why": "the interval of oracle - base is not above 0"}
    value, ci = infer.estimate(metrics.share_of_gain, own, base, oracle)
    return {"value": value, "ci": ci, "why": None}


def judge_result(scores: Scores, judge: str, calibration: Calibration, infer: Inference) -> Record:
    """What is known of a judge, and the means it gives."""
    models = {}
    for model in scores.models if len(scores.judges) > 1 else []:  # of one judge they are the headline
        right = scores.array(model, judge)
        models[model] = infer.named("al_mean", metrics.level, right)
        if BASE in scores.models and model != BASE:
            base = scores.array(BASE, judge)
            models[model] |= infer.named("difference", metrics.difference, right, base) | {"p": infer.p_value(right - base)}
    about = calibration.judges.get(judge, {})
    spread = scores.spreads.get(judge)
    cells = [s for (_, j, _), found in scores.scores.items() if j == judge for s in found.values()]
    return {
        **{key: about.get(key) for key in ("passed", "accuracy", "length_bias")},
        "made_data": bool(about.get("made_data")) or judge in calibration.made_data if calibration.judges else None,
        "scored": sum(s is not None for s in cells),
        "unscored": sum(s is None for s in cells),
        "spread": round(sum(spread) / len(spread), 4) if spread else None,
        "models": models,
    }


def agreement(scores: Scores) -> dict[str, Any]:
    """Krippendorff's alpha between the judges, over every reply that two of them scored."""
    units = sorted({(m, persona) for m, _, persona in scores.scores})
    ratings = np.concatenate(
        [np.stack([scores.array(m, j, persona).ravel() for j in scores.judges], 1) for m, persona in units]
    )
    both = int(((~np.isnan(ratings)).sum(1) > 1).sum())
    return {"alpha": rounded(krippendorff_alpha(ratings)), "replies": both}


def case_rows(scores: Scores, judges: Sequence[str]) -> list[Record]:
    """Every case of every model: its scores by turn, their mean and slope."""
    rows = []
    for model in scores.models:
        right, wrong = (scores.consensus(model, judges, persona) for persona in ("right", "wrong"))
        means, slopes = metrics.trajectories(right)
        rows += [
            {
                "model": model,
                "id": case,
                "profile": digest(scores.clusters[n])[:8],
                "scores": rounded(right[n]),
                "wrong": rounded(wrong[n]),
                "mean": rounded(means[n]),
                "slope": rounded(slopes[n], 6),
            }
            for n, case in enumerate(scores.ids)
            if case in scores.cases[model]
        ]
    return rows


def al_rows(result: Mapping[str, Any]) -> list[Record]:
    """Rows of the plot of AL(k), one a turn."""
    turns = range(result["protocol"]["turns"])
    return [{"turn": k + 1, **{name: m["al"][k] for name, m in result["models"].items()}} for k in turns]
