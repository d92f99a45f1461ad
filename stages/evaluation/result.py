"""The result of the evaluation, from scores and conversations."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.core.cli import UserError
from stages.core.files import Record, digest, read_lines, read_text
from stages.evaluation.scores import Scale, Scores
from stages.evaluation.settings import Eval

if TYPE_CHECKING:
    from stages.core.statistics import Array

BASE, ORACLE = "base", "oracle"
SCALE = "1-5"  # prompts/judge.txt asks for it
NO_MEMORY = "_no_memory"  # NAME_no_memory is the model NAME that sees the last message only
VERSIONS = ("numpy", "sentence-transformers", "torch", "transformers", "trl", "xllamacpp")


@dataclass(frozen=True)
class Draws:
    """How uncertainty is measured: the profile of each case, and how often and from which seed profiles are drawn."""

    clusters: Sequence[str]
    p: Eval

    def __call__(self, measure: Callable[..., "Array"], *scores: "Array", digits: int = 4) -> tuple[Any, list[Any]]:
        """(value, interval) of a measure of the scores' AL curves; see metrics.estimate."""
        from stages.evaluation.metrics import estimate

        return estimate(measure, scores, self.clusters, self.p.resamples, self.p.seed, digits)

    def p_value(self, differences: "Array") -> float | None:
        """Two-sided, by sign flips; see metrics.sign_flip."""
        from stages.core.statistics import sign_flip

        p = sign_flip(differences, self.clusters, self.p.resamples, self.p.seed)
        return None if p is None else round(p, 6)


def curve(al: "Array") -> "Array":
    """The measure that is AL itself."""
    return al


def read_conversations(paths: Sequence[Path], scores: Scores) -> dict[str, dict[str, Record]]:
    """Conversations by model (the file's name) and case; their cases are added to `scores`.

    Raises:
        UserError: a row that is no conversation, an id twice or with another profile, a model without judgements.
    """
    found: dict[str, dict[str, Record]] = {}
    for path in paths:
        if path.stem not in scores.cases:
            raise UserError(f"{path}: there are no judgements of {path.stem}; give them with --judgements or leave it out")
        if path.stem in found:
            raise UserError(f"{path}: a second file for the model {path.stem}")
        cases = found[path.stem] = {}
        for number, row in read_lines(path):
            where = f"{path}:{number}"
            try:
                texts = [row["id"], row["profile"], row["personality"]]
                texts += [t[k] for t in row["turns"] for k in ("user", "reply")]
                turns = [t["turn"] for t in row["turns"]]
                fits = all(isinstance(t, str) for t in texts) and all(type(t) is int and t >= 1 for t in turns)
            except (TypeError, KeyError):
                fits = False
            if not fits or turns != sorted(set(turns)):
                raise UserError(f"{where}: not a conversation (id, profile, personality, turns with turn, user and reply)")
            if row["id"] in cases:
                raise UserError(f"{where}: a second conversation of case {row['id']}")
            scores.add_case(path.stem, row["id"], row["profile"], where)
            cases[row["id"]] = row
        if not cases:
            raise UserError(f"{path}: holds no conversation")
    return found


def read_calibration(path: Path | None) -> tuple[dict[str, Record], set[str]]:
    """(what calibration found of each judge, models that made the training data); nothing without a file."""
    if path is None:
        return {}, set()
    try:
        value = json.loads(read_text(path))
        judges, made = dict(value["judges"]), set(value.get("made_data", []))
        passed = [j["passed"] for j in judges.values()]
    except (ValueError, KeyError, TypeError, AttributeError):
        passed = [None]
    if not all(isinstance(p, bool) for p in passed):
        raise UserError(
            f"{path}: is not a calibration: {{'judges': {{NAME: {{'passed': true or false}}}}, 'made_data': []}}"
        )
    return judges, made


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
    by_worth: dict[Any, list[str]] = {}
    for judge in usable:
        by_worth.setdefault(calibration[judge]["passed"] if judge in calibration else None, []).append(judge)
    return by_worth.get(True) or by_worth.get(None) or usable


def model_result(scores: Scores, judges: Sequence[str], model: str, draw: Draws) -> dict[str, Any]:
    """Everything that scores say of one model alone."""
    import numpy as np

    from stages.evaluation import metrics

    right, wrong = (scores.consensus(model, judges, persona) for persona in ("right", "wrong"))
    own = [n for n, i in enumerate(scores.ids) if i in scores.cases[model]]
    seen = {cell for judge in judges for cell in scores.scores[model, judge, "right"]}
    al, al_ci = draw(curve, right)
    al_mean, al_mean_ci = draw(metrics.level, right)
    _, ir_ci = draw(metrics.slopes, right, digits=6)
    trend = {k: None if v is None else round(v, 6) for k, v in metrics.improvement(metrics.alignment(right)).items()}
    own_fit, own_fit_ci = draw(metrics.difference, right, wrong)
    under = metrics.area(metrics.alignment(right))
    return {
        "n_cases": len(own),
        "al": al,
        "al_ci": al_ci,
        "al_mean": al_mean,
        "al_mean_ci": al_mean_ci,
        "area": None if under is None else round(under, 4),
        **trend,
        "ir_ci": ir_ci,
        "unscored": int(np.isnan(right[own]).sum()),
        "no_row": len(own) * scores.turns - len(seen),
        "personalisation": {"value": own_fit, "ci": own_fit_ci, "p": draw.p_value(right - wrong)},
    }


def gain(scores: Scores, judges: Sequence[str], model: str, draw: Draws) -> dict[str, Any]:
    """What a model gained over base on the replies that both have scored."""
    import numpy as np

    from stages.evaluation import metrics

    right, wrong, base, base_wrong = (
        scores.consensus(m, judges, persona) for m in (model, BASE) for persona in ("right", "wrong")
    )
    difference, difference_ci = draw(metrics.difference, right, base)
    relative, ci = draw(metrics.relative, right, base)
    own_fit, own_fit_ci = draw(metrics.gain_of_personalisation, right, wrong, base, base_wrong)
    return {
        "n_cases": int((~np.isnan(right - base)).any(1).sum()),
        "difference": difference,
        "difference_ci": difference_ci,
        "relative_improvement": relative,
        "ci": ci,
        "p": draw.p_value(right - base),
        "share_of_gain": share_of_gain(scores, judges, model, draw),
        "personalisation": {
            "difference": own_fit,
            "ci": own_fit_ci,
            "p": draw.p_value((right - wrong) - (base - base_wrong)),
        },
    }


def share_of_gain(scores: Scores, judges: Sequence[str], model: str, draw: Draws) -> dict[str, Any]:
    """(AL - base) / (oracle - base); None, with the reason, unless the interval of oracle - base lies above 0."""
    from stages.core import statistics
    from stages.evaluation import metrics

    none = {"value": None, "ci": [None, None]}
    if ORACLE not in scores.models or model == ORACLE:
        return {**none, "why": "no oracle" if model != ORACLE else "is the oracle"}
    three = statistics.shared(*(scores.consensus(m, judges) for m in (model, BASE, ORACLE)))
    _, (low, _) = draw(metrics.difference, three[2], three[1])
    if low is None or low <= 0:
        return {**none, "why": "the interval of oracle - base is not above 0"}
    value, ci = draw(metrics.share_of_gain, *three)
    return {"value": value, "ci": ci, "why": None}


def judge_result(scores: Scores, judge: str, calibration: Mapping[str, Record], made: set[str], draw: Draws) -> Record:
    """What is known of a judge, and the means it gives."""
    from stages.evaluation import metrics

    models = {}
    for model in scores.models if len(scores.judges) > 1 else []:  # of one judge they are the headline
        right = scores.array(model, judge)
        mean, mean_ci = draw(metrics.level, right)
        models[model] = {"al_mean": mean, "al_mean_ci": mean_ci}
        if BASE in scores.models and model != BASE:
            base = scores.array(BASE, judge)
            difference, ci = draw(metrics.difference, right, base)
            models[model] |= {"difference": difference, "difference_ci": ci, "p": draw.p_value(right - base)}
    about = calibration.get(judge, {})
    spread = scores.spreads.get(judge)
    cells = [s for (_, j, _), found in scores.scores.items() if j == judge for s in found.values()]
    return {
        **{key: about.get(key) for key in ("passed", "accuracy", "length_bias")},
        "made_data": bool(about.get("made_data")) or judge in made if calibration else None,
        "scored": sum(s is not None for s in cells),
        "unscored": sum(s is None for s in cells),
        "spread": round(sum(spread) / len(spread), 4) if spread else None,
        "models": models,
    }


def agreement(scores: Scores) -> dict[str, Any]:
    """Krippendorff's alpha between the judges, over every reply that two of them scored."""
    import numpy as np

    from stages.core import statistics

    units = sorted({(m, persona) for m, _, persona in scores.scores})
    ratings = np.concatenate(
        [np.stack([scores.array(m, j, persona).ravel() for j in scores.judges], 1) for m, persona in units]
    )
    alpha = statistics.agreement(ratings)
    both = int(((~np.isnan(ratings)).sum(1) > 1).sum())
    return {"alpha": None if alpha is None else round(alpha, 4), "replies": both}


def score_results(
    scores: Scores, p: Eval, calibration: Mapping[str, Record], made: set[str], scale: Scale
) -> tuple[dict[str, Any], list[str], Draws]:
    """(the result as far as scores go, the judges it is the mean of, how its uncertainty was measured)."""
    from stages.core import statistics

    draw = Draws(scores.clusters, p)
    judges = headline_judges(scores, calibration)
    others = [m for m in scores.models if m != BASE] if BASE in scores.models else []
    vs_base = {m: gain(scores, judges, m, draw) for m in others}
    for about in (list(vs_base.values()), [v["personalisation"] for v in vs_base.values()]):
        for entry, p_holm in zip(about, statistics.holm([e["p"] for e in about]), strict=True):
            entry["p_holm"] = p_holm
    profiles = len(set(scores.clusters))
    result: dict[str, Any] = {
        "scale": str(scale),
        "protocol": {
            "models": scores.models,
            "turns": scores.turns,
            "cases": len(scores.ids),
            "profiles": profiles,
            "judges": judges,
            "intervals": f"95 % expanded percentile bootstrap over {profiles} profiles, {p.resamples} resamples",
            "p_values": "sign flips by profile, two-sided; p_holm: Holm's correction over the models compared with base",
        },
        "models": {
            m: {**model_result(scores, judges, m, draw), "recognition": None, "degeneration": None} for m in scores.models
        },
        "vs_base": vs_base,
        "judges": {j: judge_result(scores, j, calibration, made, draw) for j in scores.judges},
        "agreement": agreement(scores),
        "recognition": None,
    }
    return result, judges, draw


def cases(scores: Scores, judges: Sequence[str], ranks: Mapping[str, "Array"]) -> list[Record]:
    """Every case of every model: its scores by turn, their mean and slope, and the reciprocal ranks."""
    from stages.core import statistics
    from stages.evaluation import metrics

    rows = []
    for model in scores.models:
        right, wrong = (scores.consensus(model, judges, persona) for persona in ("right", "wrong"))
        means, slopes = metrics.trajectories(right)
        for n, case in enumerate(scores.ids):
            if case in scores.cases[model]:
                rows.append(
                    {
                        "model": model,
                        "id": case,
                        "profile": digest(scores.clusters[n])[:8],
                        "scores": statistics.rounded(right[n]),
                        "wrong": statistics.rounded(wrong[n]),
                        "mean": statistics.rounded(means[n]),
                        "slope": statistics.rounded(slopes[n], 6),
                        "recognition": statistics.rounded(ranks[model][n]) if model in ranks else None,
                    }
                )
    return rows


def recognition(values: "Array", draw: Draws) -> dict[str, Any]:
    """Of reciprocal ranks [cases, turns]: their mean, and how often the right persona is first, by turn and over turns."""
    import numpy as np

    from stages.evaluation import metrics

    found = {}
    for name, scored in (("mrr", values), ("top1", np.where(np.isnan(values), np.nan, values == 1))):
        found[name], found[f"{name}_ci"] = draw(curve, scored)
        found[f"{name}_mean"], found[f"{name}_mean_ci"] = draw(metrics.level, scored)
    return found


def in_short(values: "Array", draw: Draws) -> dict[str, Any]:
    """The same without what a second look does not need."""
    whole = recognition(values, draw)
    return {key: whole[key] for key in ("mrr", "mrr_mean", "mrr_mean_ci", "top1", "top1_mean", "top1_mean_ci")}


def level(values: "Array", draw: Draws) -> dict[str, Any]:
    """Mean over the turns given, with its interval."""
    from stages.evaluation import metrics

    mean, ci = draw(metrics.level, values)
    return {"mean": mean, "ci": ci}


def gained(mine: Mapping[str, "Array"], other: Mapping[str, "Array"], draw: Draws) -> dict[str, Any]:
    """Differences of two models, with interval and p, for each look."""
    from stages.evaluation import metrics

    found = {}
    for look, values in mine.items():
        difference, ci = draw(metrics.difference, values, other[look])
        found[look] = {"difference": difference, "ci": ci, "p": draw.p_value(values - other[look])}
    return found


def witnesses(
    result: dict[str, Any], said: Mapping[str, Mapping[str, Record]], scores: Scores, draw: Draws, encode: Any
) -> dict[str, "Array"]:
    """Adds to `result` what needs no judge: recognition and degeneration. Returns the reciprocal ranks by model."""
    from stages.core import statistics
    from stages.evaluation import degeneration, metrics
    from stages.evaluation.recognition import LOOKS, chance, recalls, reciprocal_ranks

    personas = {i: f"{c['profile']} {c['personality']}" for cases in said.values() for i, c in cases.items()}
    personas = dict(sorted(personas.items()))
    ids, turns = scores.ids, scores.turns
    ranks = {
        model: {look: reciprocal_ranks(cases, personas, ids, turns, look, encode) for look in LOOKS}
        for model, cases in said.items()
    }
    replies = {model: degeneration.by_reply(cases, ids, turns) for model, cases in said.items()}
    later = {  # where there is a past
        m: {**{look: ranks[m][look][:, 1:] for look in ("reply", "new")}, "recalls": recalls(cases, ids, turns)[:, 1:]}
        for m, cases in said.items()
    }
    for model, cases in said.items():
        seen = ranks[model]
        above, above_ci = draw(metrics.difference, seen["reply"], seen["message"])
        result["models"][model]["recognition"] = {
            **recognition(seen["reply"], draw),
            "above_message": above,
            "above_message_ci": above_ci,
            "above_message_p": draw.p_value(seen["reply"] - seen["message"]),
            "so_far": in_short(seen["replies"], draw),
            "new_mrr": draw(curve, seen["new"])[0],
            "later": {look: level(values, draw) for look, values in later[model].items()},
            "over_no_memory": gained(later[model], later[alone], draw) if (alone := f"{model}{NO_MEMORY}") in said else None,
        }
        result["models"][model]["degeneration"] = {
            **{name: draw(metrics.level, values)[0] for name, values in replies[model].items()},
            **degeneration.distinct_shares(cases),
        }
    compared = [m for m in result["vs_base"] if m in said and BASE in said]
    for model in compared:
        entry = result["vs_base"][model]
        mine, base = ranks[model]["reply"], ranks[BASE]["reply"]
        entry["recognition_difference"], entry["recognition_difference_ci"] = draw(metrics.difference, mine, base)
        entry["recognition_p"] = draw.p_value(mine - base)
        entry["recognition_later"] = gained(later[model], later[BASE], draw)
        entry["degeneration_ci"] = {
            name: draw(metrics.difference, values, replies[BASE][name])[1] for name, values in replies[model].items()
        }
    for model, p_holm in zip(
        compared, statistics.holm([result["vs_base"][m]["recognition_p"] for m in compared]), strict=True
    ):
        result["vs_base"][model]["recognition_p_holm"] = p_holm
    of = BASE if BASE in ranks else next(iter(ranks))
    result["recognition"] = {
        "personas": len(personas),
        "chance_mrr": round(chance(len(personas)), 4),
        "chance_top1": round(1 / len(personas), 4),
        "user_of": of,
        "from_user_message": in_short(ranks[of]["message"], draw),
        "from_user_turns": in_short(ranks[of]["messages"], draw),
    }
    return {model: seen["reply"] for model, seen in ranks.items()}


def by_turn(result: dict[str, Any], said: Sequence[str]) -> tuple[list[Record], list[Record]]:
    """Rows of the two plots: AL(k), and the mean reciprocal rank beside what it is to be read against."""
    turns, models = range(result["protocol"]["turns"]), result["models"]
    witness = result["recognition"]
    al = [{"turn": k + 1, **{n: m["al"][k] for n, m in models.items()}} for k in turns]
    seen = [
        {
            "turn": k + 1,
            **{n: models[n]["recognition"]["mrr"][k] for n in said},
            "message": witness["from_user_message"]["mrr"][k],
            "user": witness["from_user_turns"]["mrr"][k],
            "chance": witness["chance_mrr"],
        }
        for k in turns
    ]
    return al, seen
