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
from stages.core.cli import UserError, one_line
from stages.core.files import read_text
from stages.core.tables import Rows
from stages.tools.blocks import Block, cell

READ = re.compile(r"params\.yaml|prompts/.*\.txt|results/(?!plots/|\w+_live/).*\.json")
# by these parts of the protocol two scores are measured; the rest (what was trained on, and how) is what is compared
MEASUREMENT = (
    "scale", "turns", "cases", "profiles", "judges", "prompts_sha256.judge", "prompts_sha256.user", "params.judge.",
    "params.user.", "params.converse.", "params.encoder.", "params.eval.",
)  # fmt: skip
BARE = ("value", "mean", "difference", "relative_improvement")  # their interval is `ci`; that of KEY is `KEY_ci`


def commit_of(name: str) -> str:
    """The commit of a revision or of an experiment's name. Raises UserError for a name of neither, or of several."""
    from dvc.scm import Git, RevError, resolve_rev

    try:
        return resolve_rev(Git(), name)
    except RevError as e:
        raise UserError(f"{one_line(e)}; `dvc exp list --all-commits` lists experiments") from None


def git(*words: str) -> str:
    """What git prints."""
    return subprocess.run(["git", *words], capture_output=True, text=True, check=True).stdout


def texts(commit: str | None) -> dict[str, str]:
    """Text of params.yaml, the prompts and the stages' metrics by path, at a commit or (None) in the workspace."""
    if commit:
        names = git("ls-tree", "-r", "--name-only", commit).splitlines()
        return {name: git("show", f"{commit}:./{name}") for name in names if READ.fullmatch(name)}
    paths = [Path("params.yaml"), *Path("prompts").rglob("*"), *Path("results").rglob("*")]
    return {str(p): read_text(p) for p in paths if READ.fullmatch(str(p)) and p.is_file()}


def changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> Rows:
    """[key, old value, new value] wherever they differ; `absent` where one has no such key."""
    keys = [k for k in dict.fromkeys([*new, *old]) if (k in old, old.get(k)) != (k in new, new.get(k))]
    return [[k, *(cell(side[k]) if k in side else "absent" for side in (old, new))] for k in keys]


def protocol(files: Mapping[str, str]) -> dict[str, Any]:
    """How the evaluation's scores are measured, by dotted key; empty without a result."""
    result = json.loads(files.get("results/eval.json", "{}"))
    values = params.flat({**result.get("protocol", {}), "scale": result.get("scale")})
    return {key: value for key, value in values if key.startswith(MEASUREMENT)}


def metrics(files: Mapping[str, str]) -> dict[str, str]:
    """Every number of the stages' metrics but curves, by `stage: key`, with its interval; those that have one come first."""
    with_interval, others = dict[str, str](), dict[str, str]()
    for path in sorted((p for p in files if p.startswith("results/")), key=lambda p: (p != "results/eval.json", p)):
        stage = "@".join(Path(path).relative_to("results").with_suffix("").parts)
        tree = json.loads(files[path])
        leaves = dict(params.flat(tree)) if isinstance(tree, dict) else {}
        for key, value in leaves.items():
            before, dot, last = key.rpartition(".")
            ci = leaves.get(f"{key}_ci", leaves.get(f"{before}{dot}ci") if last in BARE else None)
            if ci and ci[0] is not None:
                with_interval[f"{stage}: {key}"] = f"{cell(value)} ({' to '.join(map(cell, ci))})"
            elif not isinstance(value, list) and not key.startswith("protocol."):
                others[f"{stage}: {key}"] = cell(value)
    return with_interval | others


def prompt_diffs(old: Mapping[str, str], new: Mapping[str, str]) -> Iterator[Block]:
    """Unified diffs of the prompts that differ."""
    for path in sorted(p for p in {*old, *new} if p.startswith("prompts/")):
        sides = (old.get(path, "").splitlines(), new.get(path, "").splitlines())
        if lines := list(difflib.unified_diff(*sides, path, path, n=2, lineterm="")):
            yield Block("diff", "\n".join(lines))


def section(name: str) -> Iterator[Block]:
    """The part of the report that compares with the revision or experiment `name`."""
    commit = commit_of(name)
    old, new = texts(commit), texts(None)
    yield Block("h2", f"Against {name}")
    yield Block("p", f"{name} is {git('log', '-1', '--format=%h %s', commit).strip()}; now is the workspace.")
    if "results/eval.json" not in old:
        yield Block("p", f"{name} has no results/eval.json.")
    elif differ := changed(protocol(old), protocol(new)):
        yield Block("p", "Not measured in the same way, so the scores cannot be set side by side.")
        yield Block("words", rows=[["protocol", name, "now"], *differ])
    values = [dict(params.flat(OmegaConf.to_container(OmegaConf.create(side.get("params.yaml", "")), resolve=False)))
              for side in (old, new)]  # fmt: skip
    tables = {"Metrics, with their 95 % intervals": (metrics(old), metrics(new)), "Params": values}
    for title, sides in tables.items():
        rows = changed(*sides)
        yield Block("h3", title)
        yield Block("words", rows=[["key", name, "now"], *rows]) if rows else Block("p", "No difference.")
    yield Block("h3", "Prompts")
    yield from list(prompt_diffs(old, new)) or [Block("p", "No difference.")]
