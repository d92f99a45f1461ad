"""Compare two revisions or experiments on one page of Markdown: params, prompts, code, data, metrics with their intervals.

Run: python -m stages.common.compare A [B] > page.md (B is the workspace where it is left out)
Everything is read from git: results/, prompts/ and params.yaml at each revision. Nothing is checked out or run.
"""

import difflib
import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.common.errors import UserError, parser, run
from stages.common.records import Record, read_text

WORKSPACE = "workspace"
# what there is of data, by stage: the leaves of its metrics that are counts
COUNTS = ("pool", "train", "eval", "trees", "user_turns", "decisions", "pairs_train", "pairs_val", "sft_train", "sft_val",
          "cases", "turns", "unscored")  # fmt: skip
# neither counts nor worth a line of their own: calls are one table, eval another
SKIPPED = ("calls", "by_turn", "scores")


def git(*words: str) -> str:
    """What git prints. Raises UserError with its first line where it fails."""
    done = subprocess.run(["git", *words], capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"git {words[0]}: {done.stderr.strip().splitlines()[0]}")
    return done.stdout


@dataclass(frozen=True)
class Version:
    """The repository at a revision, an experiment by name, or the workspace."""

    name: str
    commit: str  # empty: the workspace

    def files(self, folder: str, ending: str) -> list[str]:
        """Paths below a folder."""
        listed = git("ls-tree", "-r", "--name-only", self.commit, "--", folder) if self.commit else "\n".join(
            str(p) for p in Path(folder).rglob("*") if p.is_file()
        )  # fmt: skip
        return sorted(path for path in listed.splitlines() if path.endswith(ending))

    def text(self, path: str) -> str:
        """Text of a file, empty where there is none."""
        if self.commit:
            return git("show", f"{self.commit}:{path}") if self.files(path, "") else ""
        return read_text(Path(path)) if Path(path).exists() else ""

    def params(self) -> dict[str, Any]:
        """Every value of params.yaml by dotted key."""
        from omegaconf import OmegaConf

        return dict(flat(OmegaConf.to_container(OmegaConf.create(self.text("params.yaml")), resolve=False)))

    def results(self) -> dict[str, Any]:
        """results/**.json but for plots and curves, parsed, by name of the stage (`converse@base`)."""
        found = {}
        for path in self.files("results", ".json"):
            parts = Path(path).relative_to("results").with_suffix("").parts
            if not parts[0].endswith(("plots", "_live")):
                try:
                    found["@".join(parts)] = json.loads(self.text(path))
                except ValueError as e:
                    raise UserError(f"{path} of {self.name}: not JSON ({e})") from None
        return found

    @property
    def title(self) -> str:
        """Name, commit and subject."""
        return f"{self.name} ({git('log', '-1', '--format=%h %s', self.commit).strip()})" if self.commit else self.name


def version(name: str) -> Version:
    """A version by its name. Raises UserError for one that is neither a revision nor an experiment."""
    if name == WORKSPACE:
        return Version(name, "")
    done = subprocess.run(
        ["git", "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}"], capture_output=True, text=True
    )  # fmt: skip
    if done.returncode == 0:
        return Version(name, done.stdout.strip())
    found = [line.split() for line in git("for-each-ref", "--format=%(objectname) %(refname)", "refs/exps").splitlines()]
    commits = {commit for commit, ref in found if ref.split("/")[2:3] != ["exec"] and ref.rpartition("/")[2] == name}
    if len(commits) != 1:
        known = "of no revision and no experiment" if not commits else f"of {len(commits)} experiments; give a revision"
        raise UserError(f"{name!r} is the name {known}; `dvc exp list --all-commits` lists experiments")
    return Version(name, commits.pop())


def flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, leaf) of nested mappings; a list is a leaf."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from flat(inner, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value


def shown(value: Any) -> str:
    """A value for a cell."""
    text = f"{value:.6g}" if isinstance(value, float) else "" if value is None else str(value)
    return text.replace("|", "\\|").replace("\n", " ")


def table(head: list[str], rows: list[list[Any]]) -> str:
    """A Markdown table, or a line that there is nothing to show."""
    if not rows:
        return "No difference.\n"
    lines = [head, ["---", *("---:" for _ in head[1:])], *rows]
    return "".join(f"| {' | '.join(map(shown, line))} |\n" for line in lines)


def changed(a: dict[str, Any], b: dict[str, Any]) -> list[list[Any]]:
    """[key, value in a, value in b] wherever they differ; `absent` where one has no such key."""
    return [[k, a.get(k, "absent"), b.get(k, "absent")] for k in sorted(a | b) if (k in a, a.get(k)) != (k in b, b.get(k))]


def prompts(a: Version, b: Version) -> str:
    """Unified diffs of the prompts that differ."""
    parts = []
    for path in sorted({*a.files("prompts", ".txt"), *b.files("prompts", ".txt")}):
        old, new = (v.text(path).splitlines() for v in (a, b))
        diff = "\n".join(difflib.unified_diff(old, new, f"{a.name}/{path}", f"{b.name}/{path}", n=2, lineterm=""))
        if diff:
            parts.append(f"~~~~diff\n{diff}\n~~~~\n")
    return "\n".join(parts) or "No difference.\n"


def code(a: Version, b: Version) -> str:
    """Names of the code files that differ."""
    ends = [v.commit for v in (a, b) if v.commit]
    names = git("diff", "--name-only", *ends, "--", "stages", "dvc.yaml").split() if ends else []
    return f"Changed: {', '.join(names)}.\n" if names else "No difference.\n"


def reported(results: dict[str, Any], *, sizes: bool) -> dict[str, Any]:
    """What the stages report of their data, by stage and key: its sizes, or all other numbers."""
    return {
        f"{stage}: {key}": value
        for stage, values in results.items()
        if stage != "eval"
        for key, value in flat(values)
        if (key.rpartition(".")[2] in COUNTS) == sizes and not set(key.split(".")) & {*SKIPPED}
    }


def spent(results: dict[str, Any]) -> dict[str, Any]:
    """Calls and USD of each stage that asks models."""
    found = {}
    for stage, values in results.items():
        for key in ("calls", "cost_usd"):
            if isinstance(values, dict) and isinstance(values.get("calls"), dict):
                found[f"{stage}: {key}"] = values["calls"].get("all", {}).get(key)
    return found


def with_interval(value: Any, interval: Any, percent: bool = False) -> str:
    """`1.75 (1.5 to 2)`; empty for None."""
    if value is None:
        return ""

    def form(x: float) -> str:
        return f"{100 * x:+.1f} %" if percent else f"{x:.3g}"

    ends = [form(x) for x in interval or [] if x is not None]
    return f"{form(value)} ({' to '.join(ends)})" if len(ends) == 2 else form(value)


def evaluation(a: Record, b: Record) -> str:
    """The models' scores in both, with their 95 % intervals."""
    rows = []
    for model in dict.fromkeys([*a.get("models", {}), *b.get("models", {})]):
        cells: dict[str, list[str]] = {}
        for result in (a, b):
            m = result.get("models", {}).get(model, {})
            al, ci = m.get("al") or [None], m.get("al_ci") or [None]
            gain, seen = result.get("vs_base", {}).get(model, {}), m.get("recognition") or {}
            possible, fit = gain.get("share_of_gain") or {}, m.get("personalisation") or {}
            found = {
                "cases": shown(m.get("n_cases")),
                "AL(1)": with_interval(al[0], ci[0]),
                f"AL({'K' if len(al) < 2 else len(al)})": with_interval(al[-1], ci[-1]),
                "mean AL": with_interval(m.get("al_mean"), m.get("al_mean_ci")),
                "IR": with_interval(m.get("ir"), m.get("ir_ci")),
                "mean AL against base": with_interval(gain.get("relative_improvement"), gain.get("ci"), percent=True),
                "share of possible gain": with_interval(possible.get("value"), possible.get("ci"), percent=True),
                "personalisation": with_interval(fit.get("value"), fit.get("ci")),
                "mean MRR": with_interval(seen.get("mrr_mean"), seen.get("mrr_mean_ci")),
                "unscored": shown(m.get("unscored")),
            }
            for name, value in found.items():
                cells.setdefault(name, ["", ""])[0 if result is a else 1] = value
        rows += [[model, name, *values] for name, values in cells.items() if any(values)]
    return table(["model", "measure", "A", "B"], rows) if rows else "Neither has results/eval.json.\n"


def warning(a: Record, b: Record) -> str:
    """Why the scores of the two cannot be set side by side, or empty."""
    differ = [f"scale ({x} and {y})" for x, y in [(a.get("scale"), b.get("scale"))] if x != y]
    old, new = (dict(flat(r.get("protocol", {}))) for r in (a, b))
    differ += [
        key for key, *_ in changed(old, new) if key.startswith(("params.roles.", "prompts_sha256", "turns", "judges"))
    ]
    return f"Not measured in the same way: {', '.join(differ)} differ.\n\n" if a and b and differ else ""


def page(a: Version, b: Version) -> str:
    """The whole page."""
    first, second = a.results(), b.results()
    result_a, result_b = first.get("eval", {}), second.get("eval", {})
    heads = ["", "A", "B"]
    parts = [
        f"# {a.name} and {b.name}\n",
        f"A: {a.title}\n\nB: {b.title}\n",
        f"## Params\n\n{table(['param', 'A', 'B'], changed(a.params(), b.params()))}",
        f"## Prompts\n\n{prompts(a, b)}",
        f"## Code\n\n{code(a, b)}",
        f"## Evaluation\n\n{warning(result_a, result_b)}{evaluation(result_a, result_b)}",
        f"## Data\n\n{table(heads, changed(reported(first, sizes=True), reported(second, sizes=True)))}",
        f"## Measures of the data\n\n{table(heads, changed(reported(first, sizes=False), reported(second, sizes=False)))}",
        f"## Calls and cost\n\n{table(heads, changed(spent(first), spent(second)))}",
    ]
    return "\n".join(parts)


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("a", metavar="A", help="a revision, or the name of an experiment")
    arguments.add_argument("b", metavar="B", nargs="?", default=WORKSPACE, help="the same; without it, the workspace")
    a = arguments.parse_args()
    print(page(version(a.a), version(a.b)), end="")


if __name__ == "__main__":
    run(main)
