"""Browse: one HTML page that shows the pipeline's data, without a network: personas, trees, pairs and conversations.

The lists are read by the page as it loads; trees and conversations stay text in blocks of a few and are parsed when one is
opened or searched. What is not there yet leaves its list empty, with a line on which stage makes it.

Run: python -m stages.tools.browse --out results/browse.html
"""

import base64
import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stages.core.cli import parser, run
from stages.core.files import Record, read_jsonl, read_text, replacing
from stages.dialogue import tree

TEMPLATE = Path(__file__).with_name("browse.html")
POOLS = ("profiles", "personalities", "train", "eval")
# file under the data folder -> the stage that makes it; `*` stands for the models
STAGES = {
    **{f"personas/{name}.jsonl": "filter_personas" for name in POOLS},
    "trees.jsonl": "roleplay",
    "pairs/decisions.jsonl": "extract_pairs",
    "conversations/*.jsonl": "converse",
    "judgements/*.jsonl": "judge",
}
PER_BLOCK = 16  # trees or conversations that are parsed together: some 250 kB, about a millisecond
CUT = 140  # characters of a text that a list shows


class Data:
    """The files under one folder; keeps account of what was found and what was not."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.files: list[Record] = []

    def read(self, name: str, model: str = "*") -> list[Record]:
        """Rows of a file of STAGES, none if it is not there; of one that stands for several, that of `model`."""
        path = self.folder / name.replace("*", model)
        rows = read_jsonl(path) if path.exists() else None
        made_by = STAGES[name] if model == "*" else f"{STAGES[name]}@{model}"
        self.files.append({"path": str(path), "stage": made_by, "rows": None if rows is None else len(rows)})
        return rows or []


def _rank(model: str) -> tuple[int, str]:
    """The pipeline's own models in the order in which they are made, others after them."""
    known = ("base", "sft", "dpo", "oracle")
    return (known.index(model) if model in known else len(known)), model


def as_json(value: Any) -> str:
    """JSON that can stand inside a script element: ASCII alone (so no U+2028), and no `<` to end or open anything."""
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")


def block(name: str, value: Any) -> str:
    """A data block of the page: text to the browser until the page's script asks for it."""
    return f'<script type="application/json" id="{name}">{as_json(value)}</script>\n'


def blocks(name: str, rows: list[Record]) -> Iterator[str]:
    """Data blocks `name-0`, `name-1`, ... of PER_BLOCK rows each."""
    for at in range(0, len(rows), PER_BLOCK):
        yield block(f"{name}-{at // PER_BLOCK}", rows[at : at + PER_BLOCK])


def _about(row: Record) -> str:
    return f"{row.get('profile', '')} {row.get('personality', '')}"[:CUT]  # trees of one's own may lack them


def trees_index(trees: list[Record], decisions: list[Record]) -> list[Record]:
    """What the list of trees shows and filters by: size, branches, ends, and what became of the pairs."""
    became: dict[str, Counter[str]] = defaultdict(Counter)
    for d in decisions:
        became[d["tree"]][f"dropped: {d['reason']}" if d["chosen"] is None else "kept"] += 1
    found = []
    for t in trees:
        onward = Counter(tree.parent(n["id"]) for n in t["nodes"] if n.get("continues"))
        found.append(
            {
                "id": t["id"],
                "about": _about(t),
                "turns": max((n["id"].count("u") for n in t["nodes"]), default=0),
                "branches": 1 + sum(n - 1 for n in onward.values()),
                "ended": len(t.get("ended", [])),
                "pairs": became[t["id"]],
            }
        )
    return found


def with_text(decisions: list[Record], trees: list[Record]) -> list[Record]:
    """Decisions with the start of the user turn they were made on, for the list."""
    said = {t["id"]: {n["id"]: n["text"] for n in t["nodes"] if n["role"] == "user"} for t in trees}
    return [{**d, "text": said.get(d["tree"], {}).get(d["node"], "")[:CUT]} for d in decisions]


def cases(data: Data) -> tuple[list[str], list[Record]]:
    """(models, one record a persona: every model's conversation with its judgements)."""
    models = sorted((p.stem for p in data.folder.glob("conversations/*.jsonl")), key=_rank)
    found: dict[str, Record] = {}
    for model in models or ["*"]:  # that there is none is an account of its own
        said, rows = data.read("conversations/*.jsonl", model), data.read("judgements/*.jsonl", model)
        judged = {
            (j["id"], j["turn"]): {k: j.get(k) for k in ("score", "raw", "reason")}
            for j in rows  # of several judges the first, and by the right persona
            if j.get("persona", "right") == "right" and j.get("judge") == rows[0].get("judge")
        }
        for c in said:
            case = found.setdefault(c["id"], {k: c[k] for k in ("id", "profile", "personality", "items")} | {"models": {}})
            turns = [{**t, "judged": judged.get((c["id"], t["turn"]))} for t in c["turns"]]
            left = {"turn": c["ended_by_user"], "reason": "by the user"} if "ended_by_user" in c else None
            case["models"][model] = {"turns": turns, "ended": c.get("ended") or left}
    return models, list(found.values())


def cases_index(rows: list[Record]) -> list[Record]:
    """What the list of conversations shows: every model's scores by turn, None where unscored."""
    return [
        {
            "id": c["id"],
            "about": _about(c),
            "scores": {m: [t["judged"] and t["judged"]["score"] for t in x["turns"]] for m, x in c["models"].items()},
            "unscored": any(t["judged"] and t["judged"]["score"] is None for x in c["models"].values() for t in x["turns"]),
            "ended": any(x["ended"] for x in c["models"].values()),
        }
        for c in rows
    ]


def policy(template: str) -> str:
    """The page's Content-Security-Policy: nothing but its one script and one style, each by its hash."""

    def digest(tag: str) -> str:
        inline = re.findall(rf"<{tag}>(.*?)</{tag}>", template, re.S)
        assert len(inline) == 1, f"the template must hold one <{tag}>"
        return base64.b64encode(hashlib.sha256(inline[0].encode()).digest()).decode()

    rules = (
        "default-src 'none'", f"script-src 'sha256-{digest('script')}'", f"style-src 'sha256-{digest('style')}'",
        "base-uri 'none'", "form-action 'none'", "require-trusted-types-for 'script'", "trusted-types 'none'",
    )  # fmt: skip
    return f'<meta http-equiv="Content-Security-Policy" content="{"; ".join(rules)}">'


def page(folder: Path) -> Iterator[str]:
    """The page for the data under `folder`, in pieces. The script comes before the bulk of the data and need not wait."""
    data = Data(folder)
    pools = {name: data.read(f"personas/{name}.jsonl") for name in POOLS}
    trees, decisions = data.read("trees.jsonl"), data.read("pairs/decisions.jsonl")
    models, conversations = cases(data)
    index = {
        "files": data.files,
        "personas": pools,
        "trees": trees_index(trees, decisions),
        "pairs": len(decisions),
        "cases": cases_index(conversations),
        "models": models,
        "per_block": PER_BLOCK,
    }
    template = read_text(TEMPLATE)
    head, rest = template.split("<!--POLICY-->")
    body, rest = rest.split("<!--INDEX-->")
    script, end = rest.split("<!--BLOCKS-->")
    yield from (head, policy(template), body, block("index", index), script, block("pairs", with_text(decisions, trees)))
    yield from blocks("trees", trees)
    yield from blocks("cases", conversations)
    yield end


def main() -> None:
    p = parser(__doc__, outputs=["out"])
    p.add_argument("--data", type=Path, default=Path("data"), metavar="FOLDER", help="read (data)")
    a = p.parse_args()
    with replacing(a.out) as f:
        f.writelines(page(a.data))
    print(f"{a.out}: {a.out.stat().st_size / 1e6:.1f} MB; open it in a browser")


if __name__ == "__main__":
    run(main)
