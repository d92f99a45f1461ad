"""The result of a revision or an experiment: its answer, and what differs from the workspace in protocol, params, prompts.

Everything is read from git; nothing is checked out or run. `dvc metrics diff REVISION` has every metric of every stage.
"""

import json
import subprocess
from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import OmegaConf

from stages.core import params
from stages.core.cli import UserError, one_line
from stages.core.tables import Rows
from stages.evaluation.answer import answer
from stages.tools.blocks import Block, cell

# by these parts of the protocol two scores are measured; the rest (what was trained on, and how) is what is compared, and
# params.eval moves intervals and p-values alone
MEASUREMENT = (
    "scale", "turns", "cases", "profiles", "judges", "prompts_sha256.judge", "prompts_sha256.user", "params.judge.",
    "params.user.", "params.converse.",
)  # fmt: skip


def commit_of(name: str) -> str:
    """The commit of a revision or of an experiment's name. Raises UserError for a name of neither, or of several."""
    from dvc.scm import Git, RevError, resolve_rev

    try:
        return str(resolve_rev(Git(), name))
    except RevError as e:
        raise UserError(f"{one_line(e)}; `dvc exp list --all-commits` lists experiments") from None


def git(*words: str) -> str:
    """What git prints, empty where it fails."""
    return subprocess.run(["git", *words], capture_output=True, text=True, check=False).stdout


def changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> Rows:
    """[key, old value, new value] wherever they differ; `absent` where one has no such key."""
    keys = [k for k in sorted({*old, *new}) if (k in old, old.get(k)) != (k in new, new.get(k))]
    return [[k, *(cell(side[k]) if k in side else "absent" for side in (old, new))] for k in keys]


def protocol(result: Mapping[str, Any]) -> dict[str, Any]:
    """How the scores of a result are measured, by dotted key."""
    values = params.flat({**result["protocol"], "scale": result["scale"]})
    return {key: value for key, value in values if key.startswith(MEASUREMENT)}


def section(name: str, now: Mapping[str, Any]) -> Iterator[Block]:
    """The part of the report that compares the result `now` with that of the revision or experiment `name`."""
    commit = commit_of(name)
    none = Block("p", "No difference.")
    yield Block("h2", f"Against {name}")
    yield Block("p", f"{name} is {git('log', '-1', '--format=%h %s', commit).strip()}; now is the workspace.")
    try:
        old = json.loads(git("show", f"{commit}:./results/eval.json"))
        if differ := changed(protocol(old), protocol(now)):
            yield Block("p", "Not measured in the same way, so the scores cannot be set side by side.")
            yield Block("words", rows=[["protocol", name, "now"], *differ])
        yield Block("h3", f"What was found in {name}")
        yield Block("text", "\n".join(answer(old)))
    except (ValueError, KeyError, TypeError):
        yield Block("p", f"{name} has no results/eval.json as stage eval writes it now.")
    before = OmegaConf.to_container(OmegaConf.create(git("show", f"{commit}:./params.yaml")), resolve=False)
    rows = changed(dict(params.flat(before)), dict(params.flat(params.load_yaml("params.yaml"))))
    yield Block("h3", "Params")
    yield Block("words", rows=[["param", name, "now"], *rows]) if rows else none
    prompts = git("diff", commit, "--", "prompts")
    yield Block("h3", "Prompts")
    yield Block("diff", prompts.strip()) if prompts else none
