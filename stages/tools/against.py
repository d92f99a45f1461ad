"""What differs between the workspace's result and that of a revision or an experiment: params, prompts, metrics.

Everything is read from git (params.yaml, prompts/ and results/ at that revision); nothing is checked out or run.
"""

import difflib
import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from stages.core import params
from stages.core.cli import UserError
from stages.core.files import read_text
from stages.core.tables import Rows
from stages.tools.blocks import Block, cell

READ = re.compile(r"params\.yaml|prompts/.*\.txt|results/(?!plots/|\w+_live/).*\.json")
# by these parts of the protocol two scores are measured; the rest (what was trained on, and how) is what is compared
MEASUREMENT = (
    "scale", "turns", "cases", "profiles", "judges", "prompts_sha256.judge", "prompts_sha256.user", "params.judge.",
    "params.user.", "params.converse.", "params.encoder.", "params.eval.", "params.roles.user_", "params.roles.judge_",
)  # fmt: skip
BARE = ("value", "mean", "difference", "relative_improvement")  # their interval is `ci`; that of KEY is `KEY_ci`


def git(*words: str) -> str:
    """What git prints. Raises UserError with its first line where it fails."""
    done = subprocess.run(["git", *words], capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"git {words[0]}: {done.stderr.strip().splitlines()[0]}")
    return done.stdout


def commit_of(name: str) -> str:
    """The commit of a revision or of an experiment's name. Raises UserError for a name of neither, or of several."""
    known = subprocess.run(["git", "rev-parse", "-q", "--verify", f"{name}^{{commit}}"], capture_output=True, text=True)
    if known.returncode == 0:
        return known.stdout.strip()
    refs = (line.split() for line in git("for-each-ref", "--format=%(objectname) %(refname)", "refs/exps").splitlines())
    commits = {commit for commit, ref in refs if not ref.startswith("refs/exps/exec/") and ref.split("/")[-1] == name}
    if len(commits) != 1:
        found = f"{len(commits)} experiments; give a revision" if commits else "no revision and no experiment"
        raise UserError(f"{name!r} is the name of {found}; `dvc exp list --all-commits` lists experiments")
    return commits.pop()


def texts(commit: str | None) -> dict[str, str]:
    """Text of params.yaml, the prompts and the stages' metrics by path, at a commit or (None) in the workspace."""
    if commit:
        names = git("ls-tree", "-r", "--name-only", commit).splitlines()
        return {name: git("show", f"{commit}:./{name}") for name in names if READ.fullmatch(name)}
    paths = [Path("params.yaml"), *Path("prompts").rglob("*"), *Path("results").rglob("*")]
    return {str(p): read_text(p) for p in paths if READ.fullmatch(str(p)) and p.is_file()}


def changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> Rows:
    """[key, old value, new value] wherever they differ; `absent` where one has no such key."""
    keys = [k for k in sorted({*old, *new}) if (k in old, old.get(k)) != (k in new, new.get(k))]
    return [[k, *(cell(side[k]) if k in side else "absent" for side in (old, new))] for k in keys]


def leaves(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any, Any]]:
    """(dotted key, value, its interval or None) of a stage's metrics; of a curve with intervals the first and last turn."""
    for key, value in tree.items():
        name, ci = f"{prefix}{key}", tree.get(f"{key}_ci", tree.get("ci") if key in BARE else None)
        if isinstance(value, dict):
            yield from leaves(value, f"{name}.")
        elif isinstance(value, list) and key.removesuffix("_ci") == key and f"{key}_ci" in tree:
            yield from ((f"{name}({k % len(value) + 1})", value[k], ci[k]) for k in (0, -1))
        elif not isinstance(value, list):
            yield name, value, ci


def metrics(files: Mapping[str, str]) -> dict[str, tuple[Any, Any]]:
    """(value, interval or None) of every stage's metrics but the protocol of eval, by `stage: key`; eval first."""
    found: dict[str, tuple[Any, Any]] = {}
    for path in sorted((p for p in files if p.startswith("results/")), key=lambda p: (p != "results/eval.json", p)):
        stage = "@".join(Path(path).relative_to("results").with_suffix("").parts)
        tree = json.loads(files[path])
        if isinstance(tree, dict):
            tree.pop("protocol", None)
            found |= {key: (value, ci) for key, value, ci in leaves(tree, f"{stage}: ")}
    return found


def moved(old: Mapping[str, tuple[Any, Any]], new: Mapping[str, tuple[Any, Any]]) -> Iterator[tuple[str, list[str]]]:
    """(kind, [key, old, new, change]) of every metric that differs. Kinds: measures, other metrics, calls."""
    for key in dict.fromkeys([*new, *old]):
        (a, ci_a), (b, ci_b) = (side.get(key, ("absent", None)) for side in (old, new))
        if a == b:
            continue
        both = all(isinstance(v, int | float) and not isinstance(v, bool) for v in (a, b))
        cells = [
            cell(value) + (f" ({' to '.join(map(cell, ci))})" if ci and ci[0] is not None else "")
            for value, ci in ((a, ci_a), (b, ci_b))
        ]
        kind = "Measures, with their 95 % intervals" if ci_a or ci_b else "Other metrics"
        kind = "Calls and cost" if ".calls." in key or ": calls." in key else kind
        yield kind, [key, *cells, f"{b - a:+.4g}" if both else ""]


def protocol(files: Mapping[str, str]) -> dict[str, Any]:
    """The protocol of the evaluation as far as it says how scores are measured, by dotted key; empty without a result."""
    result = json.loads(files.get("results/eval.json", "{}"))
    flat = dict(params.flat({**result.get("protocol", {}), "scale": result.get("scale")}))
    return {key: value for key, value in flat.items() if key.startswith(MEASUREMENT)}


def prompt_diffs(old: Mapping[str, str], new: Mapping[str, str]) -> Iterator[Block]:
    """Unified diffs of the prompts that differ."""
    for path in sorted(p for p in {*old, *new} if Path(p).parts[0] == "prompts"):
        sides = (old.get(path, "").splitlines(), new.get(path, "").splitlines())
        if lines := list(difflib.unified_diff(*sides, path, path, n=2, lineterm="")):
            yield Block("diff", "\n".join(lines))


def section(name: str) -> Iterator[Block]:
    """The part of the report that compares with the revision or experiment `name`."""
    commit = commit_of(name)
    old, new = texts(commit), texts(None)
    none = Block("p", "No difference.")
    yield Block("h2", f"Against {name}")
    yield Block("p", f"{name} is {git('log', '-1', '--format=%h %s', commit).strip()}; now is the workspace.")
    if "results/eval.json" not in old:
        yield Block("p", f"{name} has no results/eval.json.")
    elif differ := changed(protocol(old), protocol(new)):
        yield Block("p", "Not measured in the same way, so the scores cannot be set side by side.")
        yield Block("words", rows=[["protocol", name, "now"], *differ])
    kinds: dict[str, Rows] = {}
    for kind, row in moved(metrics(old), metrics(new)):
        kinds.setdefault(kind, []).append(row)
    for kind in sorted(kinds, key=["Measures, with their 95 % intervals", "Other metrics", "Calls and cost"].index):
        yield Block("h3", kind)
        yield Block("table", rows=[["metric", name, "now", "change"], *kinds[kind]])
    if not kinds:
        yield from (Block("h3", "Metrics"), none)
    values = [dict(params.flat(OmegaConf.to_container(OmegaConf.create(side.get("params.yaml", "")), resolve=False)))
              for side in (old, new)]  # fmt: skip
    rows = changed(*values)
    yield Block("h3", "Params")
    yield Block("words", rows=[["param", name, "now"], *rows]) if rows else none
    yield Block("h3", "Prompts")
    yield from list(prompt_diffs(old, new)) or [none]
