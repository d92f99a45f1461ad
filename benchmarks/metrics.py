"""What the evaluation's statistics cost, and whether its intervals cover the truth.

Cost: everything that is said of the scores of 5 models, 100 cases (20 profiles x 5 personalities) and 10 turns, judged
against the right and a wrong persona, with 10,000 resamples and sign flips.

Coverage: clustered cases are drawn again and again from a known population (profiles differ in level, in what each model
makes of them and in slope; ratings are whole numbers from 1 to 5); counted is how often the 95 % interval holds the
population's value, for the plain percentiles and for the expanded ones that are used.

Run: python -m benchmarks.metrics [--draws 2000]
"""

import argparse
import time

import numpy as np

from stages.core import statistics
from stages.evaluation import metrics
from stages.evaluation.inputs import Calibration
from stages.evaluation.judge_free import JudgeFree
from stages.evaluation.result import evaluation
from stages.evaluation.scores import Judgement, Scale, Scores
from stages.evaluation.settings import Eval

TURNS, PERSONALITIES = 10, 5
MEANS = {"base": (2.6, 0.0), "dpo": (2.7, 0.05), "oracle": (3.6, 0.0)}  # level and slope by turn
MEASURES = {
    "AL(1)": lambda base, dpo, oracle: dpo[..., 0],
    "mean AL": lambda base, dpo, oracle: metrics.level(dpo),
    "IR": lambda base, dpo, oracle: metrics.slopes(dpo),
    "difference": lambda base, dpo, oracle: metrics.difference(dpo, base),
    "relative improvement": lambda base, dpo, oracle: metrics.relative(dpo, base),
    "share of gain": lambda base, dpo, oracle: metrics.share_of_gain(dpo, base, oracle),
}


def population(rng: np.random.Generator, profiles: int) -> list[np.ndarray]:
    """Scores of the three models for so many profiles, [profiles x PERSONALITIES, TURNS] each."""
    k = np.arange(1, TURNS + 1)
    personality = np.array([-0.3, -0.1, 0.0, 0.1, 0.3])[None, :, None]
    profile = rng.normal(0, 0.5, (profiles, 1, 1))
    drawn = []
    for level, slope in MEANS.values():
        own = rng.normal(0, 0.3, (profiles, 1, 1)) + rng.normal(0, 0.04, (profiles, 1, 1)) * k
        case = rng.normal(0, 0.3, (profiles, PERSONALITIES, 1))
        noise = rng.normal(0, 0.7, (profiles, PERSONALITIES, TURNS))
        exact = level + slope * k + profile + personality + own + case + noise
        drawn.append(np.clip(np.round(exact), 1, 5).reshape(-1, TURNS))
    return drawn


def coverage(profiles: int, draws: int, resamples: int = 1000, seed: int = 1) -> dict[str, tuple[float, float]]:
    """Share of `draws` samples whose interval holds the truth: measure -> (plain percentiles, expanded percentiles)."""
    rng = np.random.default_rng(seed)
    whole = [metrics.alignment(scores) for scores in population(rng, 20_000)]
    clusters = [str(n // PERSONALITIES) for n in range(profiles * PERSONALITIES)]
    hits = {name: np.zeros(2) for name in MEASURES}
    for draw in range(draws):
        curves = [metrics.resampled_alignment(scores, clusters, resamples, draw) for scores in population(rng, profiles)]
        for name, measure in MEASURES.items():
            values, truth = measure(*curves), float(measure(*whole))
            for i, (low, high) in enumerate([np.percentile(values, [2.5, 97.5]), statistics.interval(values, profiles, 12)]):
                hits[name][i] += low <= truth <= high
    return {name: (float(h[0] / draws), float(h[1] / draws)) for name, h in hits.items()}


def judged(models: int, profiles: int) -> Scores:
    """Scores of so many models against the right and a wrong persona."""
    rng = np.random.default_rng(1)
    scores = Scores()
    for model in ("base", "oracle", *(f"m{n}" for n in range(models - 2))):
        for persona in ("right", "wrong"):
            values = population(rng, profiles)[2 if model == "oracle" and persona == "right" else 0]
            for case, row in enumerate(values):
                for turn, value in enumerate(row, 1):
                    profile = str(case // PERSONALITIES)
                    cell = Judgement(
                        model=model, persona=persona, case=str(case), turn=turn, score=float(value), profile=profile
                    )
                    scores.add(cell, f"{model}:{persona}:{case}:{turn}")
    scores.finish("benchmark")
    return scores


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--draws", type=int, default=2000, help="samples for the coverage (2000)")
    a = p.parse_args()
    scores = judged(5, 20)
    seconds, cpu = [], []
    for seed in range(4):
        start, busy = time.monotonic(), time.process_time()
        evaluation(scores, Eval(seed=seed, resamples=10_000), Scale(1, 5), Calibration(), JudgeFree())
        seconds.append(time.monotonic() - start)
        cpu.append(time.process_time() - busy)
    print(f"5 models x 100 cases x 10 turns, 10,000 resamples: {min(seconds):.2f} s (CPU {min(cpu):.2f} s)")
    print(f"coverage of 95 % intervals over {a.draws} draws: plain percentiles -> expanded")
    for profiles in (5, 10, 20):
        shares = coverage(profiles, a.draws)
        print(f"{profiles:3} profiles: " + ", ".join(f"{n} {x:.1%} -> {y:.1%}" for n, (x, y) in shares.items()))


if __name__ == "__main__":
    main()
