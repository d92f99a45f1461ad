"""Eval: alignment by turn for every model, with intervals, what each gained over base, and judge-free measures.

Asks nothing. Reads the judgements and, for the judge-free measures, the conversations (degeneration), the choices (crossed
choice) and the replies to probes and read-outs; writes the result, every case's scores and the plot by turn, and prints the
answer, unless ANSWER_LATER is in the environment (`make repro` prints it last). The models are the arms of params.yaml.

Run: python -m stages.eval (the arguments are in dvc.yaml)
Somebody else's scores in the same table: python -m stages.tools.recompute --help
"""

import os
from collections.abc import Iterable
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

from stages.core import params
from stages.core.cli import UserError, parser, run
from stages.core.files import read_text, write_json, write_jsonl
from stages.evaluation.settings import Eval

VERSIONS = ("numpy", "sentence-transformers", "torch", "transformers", "trl", "xllamacpp")


class Params(params.Section):
    """What this stage reads. Of the other sections that it declares, the result's protocol names the values."""

    arms: dict[str, Any]
    eval: Eval


def files(folder: Path, arms: Iterable[str]) -> list[Path]:
    """The file of each arm in a folder. Raises UserError for an arm without one and for a file of no arm."""
    found = {path.stem: path for path in sorted(folder.glob("*.jsonl"))}
    if missing := [name for name in arms if name not in found]:
        raise UserError(f"{folder / missing[0]}.jsonl: no such file, but params.yaml has an arm {missing[0]}")
    if strange := sorted(set(found) - set(arms)):
        every = f"{folder.parent}/*/{strange[0]}.jsonl"
        raise UserError(f"{found[strange[0]]}: params.yaml has no arm {strange[0]}; rm {every}, or bring the arm back")
    return [found[name] for name in arms]


def made_with(prompts: Path) -> dict[str, Any]:
    """What else the numbers depend on: every section of params.yaml, prompts, library versions."""
    return {
        "params": params.declared_values("eval"),
        "prompts_sha256": {f.stem: sha256(read_text(f).encode()).hexdigest() for f in sorted(prompts.rglob("*.txt"))},
        "versions": {name: version(name) for name in VERSIONS},
    }


def main() -> None:
    inputs = ["judgements", "conversations", "choices", "probe-replies", "calibration", "prompts"]
    a = parser(__doc__, inputs, ["result", "cases", "curve"]).parse_args()
    p = params.load("eval", Params)
    # here and not above, as they import numpy, and --help is to answer at once
    from stages.evaluation import crossed, probes
    from stages.evaluation.answer import answer
    from stages.evaluation.inputs import read_calibration, read_conversations, read_judgements, read_probes
    from stages.evaluation.judge_free import measured
    from stages.evaluation.metrics import Inference
    from stages.evaluation.result import al_rows, case_rows, evaluation
    from stages.evaluation.scores import BASE, Scale

    scale = Scale(1, 5)  # prompts/judge.txt asks for it
    scores = read_judgements(files(a.judgements, p.arms), scale)
    conversations = read_conversations(files(a.conversations, p.arms), scores)
    words = measured(conversations, scores.ids, scores.turns)
    result = evaluation(scores, p.eval, scale, read_calibration(a.calibration), words)
    choices = {path.stem: crossed.read_rows(path) for path in files(a.choices, p.arms)}
    chosen = crossed.compared(choices, BASE, p.eval.resamples, p.eval.seed)
    items = {model: {case: c.get("items", []) for case, c in cases.items()} for model, cases in conversations.items()}
    infer = Inference(scores.clusters, p.eval.resamples, p.eval.seed)
    probed = probes.compared(read_probes(files(a.probe_replies, p.arms), conversations), items, scores.ids, infer)
    for part in ("models", "vs_base"):
        for model, entry in result[part].items():
            entry |= {"choose": chosen[part].get(model), **probed[part].get(model, {})}
    result["choose"] = chosen["about"]
    result["protocol"] |= made_with(a.prompts)
    write_json(a.result, result)
    write_jsonl(a.cases, case_rows(scores, result["protocol"]["judges"]))
    write_json(a.curve, al_rows(result))
    if "ANSWER_LATER" not in os.environ:
        print("\n".join(answer(result)))


if __name__ == "__main__":
    run(main)
