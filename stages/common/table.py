"""The result table as text. `python -m stages.common.table results/eval.json` prints it again without running anything."""

import json
import sys
from pathlib import Path
from typing import Any

from stages.common.errors import UserError, run
from stages.common.records import read_text


def _number(value: float | None, digits: int = 2, sign: bool = False) -> str:
    return "-" if value is None else f"{value:{'+' if sign else ''}.{digits}f}"


def table(result: dict[str, Any]) -> str:
    """One row a model: AL at the first and last turn and on average, slopes, gain over base, recognition."""
    head = ["model", "cases", "AL(1)", f"AL({result['protocol']['turns']})", "mean AL", "AL range", "IR", "N-IR", "R2"]
    rows = [[*head, "vs base", "95 % interval", "unscored", f"MRR({result['protocol']['turns']})"]]
    for name in result["protocol"]["models"]:
        m = result["models"][name]
        known = [v for v in m["al"] if v is not None]
        gain = result["vs_base"].get(name)
        percent = [None, None, None] if gain is None else [gain["relative_improvement"], *gain["ci"]]
        shown = [_number(None if v is None else 100 * v, 1, sign=True) for v in percent]
        rows.append(
            [
                name, str(m["n_cases"]), _number(m["al"][0]), _number(m["al"][-1]), _number(m["al_mean"]),
                _number(max(known) - min(known) if known else None), _number(m["ir"], 3, True),
                _number(m["n_ir"], 3, True), _number(m["r2"], 3),
                "" if gain is None else f"{shown[0]} %", "" if gain is None else f"{shown[1]} to {shown[2]} %",
                str(m["unscored"]), _number(m["recognition"]["mrr"][-1]),
            ]
        )  # fmt: skip
    widths = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(r, widths, strict=True))) for r in rows
    ]
    lines.insert(1, "-" * len(lines[0]))
    r = result["recognition"]
    notes = [
        f"Scores are on a scale of {result['scale']}; intervals: {result['protocol']['intervals']}.",
        f"MRR: reciprocal rank of the right persona among {r['personas']} from the model's replies alone, no judge; chance "
        f"{_number(r['chance_mrr'])}, from the user's own turns {_number(r['from_user_turns']['mrr'][-1])}.",
    ]
    return "\n".join([*lines, *notes])


if __name__ == "__main__":

    def main() -> None:
        path = Path(sys.argv[1] if len(sys.argv) > 1 else "results/eval.json")
        try:
            print(table(json.loads(read_text(path))))
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{path}: is not a result of stages.eval") from None

    run(main)
