"""Browse: one HTML page that shows the pipeline's data, without a network: personas, trees, pairs, conversations, groups.

The lists are read by the page as it loads; trees, conversations and groups stay text in blocks of a few and are parsed when
one is opened or searched. What is not there yet leaves its list empty, with a line on which stage makes it.

Run: python -m stages.tools.browse --out results/browse.html [--trees FILE ...]
"""

import base64
import hashlib
import json
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from stages.core.cli import UserError, parser, run
from stages.core.files import Record, jsonl_files, read_jsonl, read_text, replacing
from stages.core.params import load_yaml
from stages.dialogue import tree
from stages.evaluation.crossed import best
from stages.text import groups
from stages.tools.earlier import earlier

TEMPLATE = Path(__file__).with_name("browse.html")
POOLS = ("profiles", "personalities", "train", "eval")
# file under the data folder -> the stage that makes it; `*` stands for the models, or for a later round
STAGES = {
    **{f"personas/{name}.jsonl": "filter_personas" for name in POOLS},
    "trees.jsonl": "roleplay",
    "pairs/decisions.jsonl": "extract_pairs",
    "conversations/*.jsonl": "converse",
    "judgements/*.jsonl": "judge",
    "choices/*.jsonl": "choose",
    "rounds/*/trees.jsonl": "roleplay_round",
    "rounds/*/decisions.jsonl": "extract_pairs_round",
}
PER_BLOCK = 16  # trees, conversations or groups that are parsed together: some 250 kB, about a millisecond
CUT = 140  # characters of a text that a list shows


class Data:
    """The files under one folder; keeps account of what was found and what was not."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.files: list[Record] = []

    def read(self, tab: str, name: str, one: str = "*") -> list[Record]:
        """Rows of a file of STAGES for a tab, none if it is not there; of one that stands for several, that of `one`."""
        return self.other(tab, self.folder / name.replace("*", one), STAGES[name] + ("" if one == "*" else f"@{one}"))

    def other(self, tab: str, path: Path, made_by: str | None = None) -> list[Record]:
        """The same of any file, which a stage need not make."""
        rows = read_jsonl(path) if path.exists() else None
        self.files.append({"path": str(path), "tab": tab, "stage": made_by, "rows": None if rows is None else len(rows)})
        return rows or []

    def names(self, several: str) -> list[str]:
        """What `*` of a file of STAGES stands for here: models in order, or rounds."""
        before, after = several.split("*")
        found = (str(p.relative_to(self.folder)) for p in self.folder.glob(several))
        return sorted((name.removeprefix(before).removesuffix(after) for name in found), key=_rank)


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


def used_trees(params: Record) -> list[Path]:
    """Files and folders of trees that params.yaml names, in the first round or in a later one."""
    rounds = [params.get("extract_pairs") or {}, *(r["extract_pairs"] for r in (params.get("rounds") or {}).values())]
    return [Path(r[key]) for r in rounds for key in ("trees", "more_trees") if r.get(key)]


def all_trees(data: Data, others: list[Path]) -> list[Record]:
    """Trees of the first round, of later ones and of `others`, files or folders.

    Returns:
        The trees with `id`, unique on the page: `prefix` and the tree's own; `source`: empty, a round, or a file.
    """
    found = [{**t, "prefix": "", "source": ""} for t in data.read("trees", "trees.jsonl")]
    for name in data.names("rounds/*/trees.jsonl"):
        rows = data.read("trees", "rounds/*/trees.jsonl", name)
        found += [{**t, "id": f"{name}:{t['id']}", "prefix": f"{name}:", "source": f"round {name}"} for t in rows]
    for file in dict.fromkeys(jsonl_files(*others)):
        if file == data.folder / "trees.jsonl":
            continue
        taken = {t["id"] for t in found}
        for number, t in enumerate(data.other("trees", file), 1):
            if not {"id", "nodes"} <= t.keys():
                raise UserError(f"{file}:{number}: not a tree: needs `id` and `nodes`")
            prefix = f"{file}:".replace("/", ".") if t["id"] in taken else ""
            found.append({**t, "id": prefix + t["id"], "prefix": prefix, "source": str(file)})
    return found


def all_decisions(data: Data, trees: list[Record]) -> list[Record]:
    """Decisions of every round with `tree` as it is unique on the page, `round` of a later one, and the start of the `text`
    of the user's turn, for the list."""
    said = {t["id"]: {n["id"]: n["text"] for n in t["nodes"] if n["role"] == "user"} for t in trees}
    rounds = [("", data.read("pairs", "pairs/decisions.jsonl"))]
    names = data.names("rounds/*/decisions.jsonl")
    rounds += [(name, data.read("pairs", "rounds/*/decisions.jsonl", name)) for name in names]
    found = []
    for name, rows in rounds:
        for d in rows:
            own = f"{name}:{d['tree']}" if name else d["tree"]
            at = own if own in said else d["tree"]  # else of a file that the round adds to its own trees
            found.append({**d, "tree": at, "round": name, "text": said.get(at, {}).get(d["node"], "")[:CUT]})
    return found


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
                "source": t["source"],
                "about": _about(t),
                "turns": max((n["id"].count("u") for n in t["nodes"]), default=0),
                "branches": 1 + sum(n - 1 for n in onward.values()),
                "ended": len(t.get("ended", [])),
                "pairs": became[t["id"]],
            }
        )
    return found


def cases(data: Data) -> tuple[list[str], list[Record]]:
    """(models, one record a persona: every model's conversation with its judgements)."""
    models = data.names("conversations/*.jsonl")
    found: dict[str, Record] = {}
    for model in models or ["*"]:  # that there is none is an account of its own
        said = data.read("conversations", "conversations/*.jsonl", model)
        rows = data.read("conversations", "judgements/*.jsonl", model)
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


def crossed(data: Data, path: Path) -> tuple[list[str], list[Record]]:
    """(arms, the groups of crossed choice at `path`, each with `arms`: what each arm that was asked of it chose)."""
    found = [groups.checked(g, f"{path}:{n}") for n, g in enumerate(data.other("groups", path), 1)]
    of: dict[str, Record] = {g["group"]: {} for g in found}
    arms = data.names("choices/*.jsonl")
    for arm in arms or ["*"]:
        for row in data.read("groups", "choices/*.jsonl", arm):
            if row["group"] in of:
                kept = {k: row[k] for k in ("pair_accuracy", "top1", "overlap")}
                chosen = [np.flatnonzero(of_user).tolist() for of_user in best(np.array(row["log_probs"]["history"]))]
                of[row["group"]][arm] = {**kept, "chosen": chosen}
    return [arm for arm in arms if any(arm in x for x in of.values())], [{**g, "arms": of[g["group"]]} for g in found]


def groups_index(rows: list[Record]) -> list[Record]:
    """What the list of groups shows: the pairs that each arm has right."""
    return [
        {
            "id": g["group"],
            "kind": g["kind"],
            "about": g["message"][:CUT],
            "right": {arm: of["pair_accuracy"] for arm, of in g["arms"].items()},
        }
        for g in rows
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


def page(folder: Path, trees: list[Path], groups_file: Path) -> Iterator[str]:
    """The page in pieces. The script comes before the bulk of the data and need not wait.

    Args:
        folder: of the pipeline's data.
        trees: files and folders of trees beside the pipeline's own.
        groups_file: of crossed choice.
    """
    data = Data(folder)
    pools = {name: data.read("personas", f"personas/{name}.jsonl") for name in POOLS}
    grown = all_trees(data, trees)
    decisions = all_decisions(data, grown)
    models, conversations = cases(data)
    arms, asked = crossed(data, groups_file)
    index = {
        "files": data.files,
        "personas": pools,
        "trees": trees_index(grown, decisions),
        "rounds": data.names("rounds/*/trees.jsonl"),
        "pairs": len(decisions),
        "cases": cases_index(conversations),
        "models": models,
        "groups": groups_index(asked),
        "arms": arms,
        "per_block": PER_BLOCK,
    }
    template = read_text(TEMPLATE)
    head, rest = template.split("<!--POLICY-->")
    body, rest = rest.split("<!--INDEX-->")
    script, end = rest.split("<!--BLOCKS-->")
    yield from (head, policy(template), body, block("index", index), script, block("pairs", decisions))
    yield from blocks("trees", grown)
    yield from blocks("cases", conversations)
    yield from blocks("groups", asked)
    yield end


def main() -> None:
    p = parser(__doc__, outputs=["out"])
    p.add_argument("--data", type=Path, default=Path("data"), metavar="FOLDER", help="read (data)")
    p.add_argument("--trees", type=Path, nargs="+", default=[], metavar="FILE", help="also show these trees")
    a = p.parse_args()
    params = load_yaml("params.yaml")
    if missing := [path for path in a.trees if not path.exists()]:
        raise UserError(f"{missing[0]}: no such file; name a file or folder of trees")
    with replacing(a.out) as f:
        f.writelines(page(a.data, [*used_trees(params), *a.trees], Path(params["choose"]["groups"])))
    print(f"{a.out}: {a.out.stat().st_size / 1e6:.1f} MB; open it in a browser")
    if line := earlier(*STAGES.values()):
        print(line, file=sys.stderr)


if __name__ == "__main__":
    run(main)
