"""Publish: the trained model, and the trees and pairs it learnt from, as a model and a dataset of the Hugging Face Hub.

Writes both folders under results/publish/ and prints what would be sent, and what is missing for that. With `--push` it
sends them, if nothing is missing, with the token of HF_TOKEN in the environment. The cards tell what dvc.lock records.

Run: make publish REPO=owner/name [PUSH=1] (or python -m stages.tools.publish owner/name [--push])
"""

import json
import os
import re
import shlex
import shutil
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from stages.core import params
from stages.core.cli import UserError, one_line, parser, run
from stages.core.files import Record, jsonl_files, read_jsonl, read_text
from stages.core.tables import text
from stages.evaluation.answer import answer
from stages.pairs.crossed import KIND
from stages.tools.against import git
from stages.tools.blocks import cell
from stages.tools.browse import used_trees
from stages.tools.earlier import dvcs_words, earlier
from stages.weights.card import PAPER, about, filled

FOLDER = Path("results/publish")
CARD = Path(__file__).with_name("dataset_card.md.j2")
# of pairs, and whose their two replies are
KINDS = {
    "uninformed": "a responder with a note on the user, and one without",
    "misinformed": "a responder with a note on the user, and one with a note on another user",
    KIND: "chosen: for this user; rejected: for another user of the group, whose last message is the same",
}


class Run:
    """The run that dvc.lock records."""

    def __init__(self) -> None:
        self.stages: Record = params.load_yaml("dvc.lock")["stages"]
        for name in ("filter_personas", "roleplay", "extract_pairs", "dpo"):
            if name not in self.stages:
                raise UserError(f"dvc.lock: stage {name} never ran; run make repro first")

    def params(self, stage: str) -> Record:
        """Parameters that a stage ran with."""
        return dict(self.stages[stage]["params"]["params.yaml"])

    def path(self, stage: str, argument: str) -> Path:
        """The path that `--argument` of a stage named."""
        words = shlex.split(self.stages[stage]["cmd"])
        return Path(words[words.index(f"--{argument}") + 1])

    @property
    def model(self) -> Path:
        """Folder of the trained model."""
        return self.path("dpo", "model")

    @property
    def arms(self) -> dict[Path, list[str]]:
        """Arms that are the trained model as it is, by the file of their system prompt."""
        (md5,) = (out["md5"] for out in self.stages["dpo"]["outs"] if out["path"] == str(self.model))
        found: dict[Path, list[str]] = {}
        for name, stage in self.stages.items():
            if name.startswith("converse@") and (str(self.model), md5) in {(d["path"], d["md5"]) for d in stage["deps"]}:
                found.setdefault(self.path(name, "system-prompt"), []).append(name.removeprefix("converse@"))
        return found

    @property
    def base(self) -> Path:
        """Folder of the model that it was trained from."""
        return self.path("dpo", "base")

    @property
    def measures(self) -> dict[str, Path]:
        """Files of measures of the data, by stage."""
        return {stage: self.path(stage, "metrics") for stage in ("roleplay", "extract_pairs")}

    @property
    def sources(self) -> dict[str, str]:
        """MD5 by path of the files, or folders of files, that the pairs were extracted from."""
        deps = self.stages["extract_pairs"]["deps"]
        return {d["path"]: d["md5"] for d in deps if not d["path"].startswith(("stages", "prompts"))}

    @property
    def trees(self) -> list[Path]:
        """Files of the trees."""
        return jsonl_files(*sorted(used_trees(self.params("extract_pairs"))))

    @property
    def pairs(self) -> dict[str, Path]:
        """Files that dpo trained on, by split."""
        return {"train": self.path("dpo", "train"), "validation": self.path("dpo", "val")}

    @property
    def own(self) -> list[Path]:
        """Files of pairs that extract_pairs did not make."""
        made = {self.path("extract_pairs", f"pairs-{part}") for part in ("train", "val")}
        return [path for path in self.pairs.values() if path not in made]

    @cached_property
    def rows(self) -> dict[str, list[Record]]:
        """The pairs, as far as they are there, by split; `kind` is written out where a row has one."""
        found = {split: read_jsonl(path) if path.exists() else [] for split, path in self.pairs.items()}
        if self.own or not any("kind" in row for rows in found.values() for row in rows):
            return found
        return {split: [{"kind": "uninformed", **row} for row in rows] for split, rows in found.items()}

    @property
    def kinds(self) -> dict[str, list[int]]:
        """Rows of each kind of pairs in every split."""
        unnamed = "-" if self.own else "uninformed"
        counts = [Counter(row.get("kind", unnamed) for row in rows) for rows in self.rows.values()]
        return {kind: [c[kind] for c in counts] for kind in sum(counts, Counter())}

    def origins(self, kind: str) -> list[Path]:
        """Files that pairs of a kind were made from."""
        if len(self.own) == len(self.pairs):
            return self.own
        groups = Path(self.params("extract_pairs")["extract_pairs"]["groups"])
        return self.own + (jsonl_files(groups) if kind == KIND else self.trees)

    @property
    def writers(self) -> dict[str, str]:
        """The model of each role that wrote a text of the data; files that the run did not write by their path."""
        grown = self.path("roleplay", "trees")
        files = dict.fromkeys([*self.trees, *(file for kind in self.kinds for file in self.origins(kind))])
        own = {str(file): "not written by this run" + _card_beside(file) for file in files if file != grown}
        if grown not in self.trees:
            return own
        role_play = self.params("roleplay")
        roles = {k.removesuffix("_model"): v for k, v in role_play["roles"].items() if k.endswith("_model")}
        persons = {"generator": self.params("filter_personas")["generator"]["model"], "user": role_play["user"]["model"]}
        return {**persons, **roles, **own}


def _card_beside(file: Path) -> str:
    card = file.with_name("README.md")
    return f" (see {card})" if card.exists() else ""


def missing(run: Run, model_licence: str | None, data_licence: str | None) -> Iterator[str]:
    """What has to be there or known before anything is published."""
    from dvc.repo import Repo

    with dvcs_words(), Repo(config={"core": {"no_scm": True}}) as repo:
        changed = repo.status(targets=["dpo"], with_deps=True)
    if changed:
        yield f"files that dvc.lock describes ({', '.join(sorted(changed))} differ): run dvc repro dpo, or dvc pull"
    if git("status", "--porcelain", "--", "dvc.lock", "params.yaml", "prompts").strip():
        yield "a commit of dvc.lock, params.yaml and prompts, which the cards name: run git commit"
    if not model_licence:
        yield f"the licence of the model ({run.base} does not name its own): give LICENSE=..., as its makers name it"
    if not data_licence:
        others = ", ".join(f"{role} {model}" for role, model in run.writers.items() if model != "embedded")
        yield f"the licence of the data (its texts are of {others or 'a model without a licence'}): give DATA_LICENSE=..."


def measured(run: Run) -> str:
    """What the evaluation found, and the system prompt of the model in it, as Markdown; or why that is not told."""
    path = Path("results/eval.json")
    if not path.exists():
        return f"Not told: {path} is missing."
    if not run.arms:
        return f"Not told: {path} is not of this model."
    if line := earlier("eval"):
        return f"Not told: {path} may not be of this model. {line}"
    try:
        parts = ["\n".join(answer(json.loads(read_text(path))))]
    except (ValueError, KeyError, TypeError):
        return f"Not told: {path} is not a result of stages.eval as it is now."
    for prompt, arms in run.arms.items():
        parts += [f"This model is {', '.join(arms)} there, with the system prompt {prompt}:", read_text(prompt).strip()]
    return "\n\n".join(part if n % 2 else f"~~~~text\n{part}\n~~~~" for n, part in enumerate(parts))


def write_model(repo: str, run: Run, licence: str | None, revision: str) -> Path:
    """A folder of links to the model's files, and its card, which also names the dataset. Returns the folder."""
    from huggingface_hub import ModelCard

    folder = FOLDER / "model"
    shutil.copytree(run.model, folder, copy_function=lambda source, target: Path(target).symlink_to(Path(source).resolve()))
    (folder / "README.md").unlink(missing_ok=True)
    card = ModelCard(read_text(run.model / "README.md"))
    card.data["license"], card.data["datasets"] = licence, [repo]
    before, mark, after = str(card).rstrip().partition("## Data\n")
    text = f"{before.rstrip()}\n\n## What this run measured\n\n{measured(run)}\n\n{mark}{after}".rstrip()
    (folder / "README.md").write_text(f"{text} That of this folder is `{revision}`.\n", encoding="utf-8")
    return folder


def write_split(rows: list[Record], path: Path) -> Record:
    """Rows as Parquet, whose schema holds what only some rows have. Returns the split as a card counts it."""
    from datasets import Dataset

    columns = {key: [row.get(key) for row in rows] for key in sorted({key for row in rows for key in row})}
    path.parent.mkdir(parents=True, exist_ok=True)
    Dataset.from_dict(columns).to_parquet(path)
    return {"config": path.parent.name, "split": path.stem, "path": f"{path.parent.name}/{path.name}", "rows": len(rows)}


def write_data(repo: str, run: Run, licence: str | None, revision: str) -> Path:
    """The dataset: configurations `pairs` (the default) and `trees`, and a card. Returns the folder."""
    folder = FOLDER / "dataset"
    parts = {f"pairs/{split}": rows for split, rows in run.rows.items()}
    parts["trees/train"] = [tree for file in run.trees for tree in read_jsonl(file)]
    splits = [write_split(rows, folder / f"{name}.parquet") for name, rows in parts.items() if rows]
    (folder / "README.md").write_text(data_card(repo, run, splits, licence, revision), encoding="utf-8")
    return folder


def data_card(repo: str, run: Run, splits: list[Record], licence: str | None, revision: str) -> str:
    """README.md of the dataset."""
    from huggingface_hub import DatasetCardData

    configs = [
        {
            "config_name": name,
            **({"default": True} if name == "pairs" else {}),
            "data_files": [{"split": s["split"], "path": s["path"]} for s in splits if s["config"] == name],
        }
        for name in dict.fromkeys(s["config"] for s in splits)
    ]
    language = run.params("filter_personas")["filter_personas"].get("language")
    head = DatasetCardData(
        configs=configs,
        language=None if language == "any" else language,
        license=licence,
        tags=["interaction-to-align", "personalization", "preference", "dpo", "synthetic", f"arxiv:{PAPER}"],
        task_categories=["text-generation"],
    )
    return filled(
        CARD,
        head=head.to_yaml(),
        repo=repo,
        paper=PAPER,
        licence=licence,
        splits=splits,
        kinds=[(kind, *n, ", ".join(map(str, run.origins(kind))), KINDS.get(kind, "-")) for kind, n in run.kinds.items()],
        writers=run.writers,
        base=run.params("dpo")["base_model.source"],
        quality=[leaf for stage, path in run.measures.items() for leaf in _figures(stage, path)],
        settings=[(k, "none" if v in ("", None) else v) for s in run.measures for k, v in params.flat(run.params(s))],
        inputs=run.sources.items(),
        revision=revision,
    )


def _figures(stage: str, path: Path) -> list[tuple[str, str]]:
    """(key, value) of a stage's measures, what the calls cost aside."""
    found: Any = params.load_yaml(str(path))
    return [(f"{stage}.{key}", cell(value)) for key, value in params.flat(found) if not key.startswith("calls.")]


def folders(repo: str, run: Run, model_licence: str | None, data_licence: str | None) -> tuple[dict[str, Path], list[str]]:
    """Writes anew what there are files for. Returns the folders by the Hub's kind of repository, and the files that lack."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    revision = git("rev-parse", "HEAD").strip() or "unknown"
    lacking = {
        "model": [str(p) for p in (run.model / "README.md",) if not p.exists()],
        "dataset": [str(p) for p in (*run.pairs.values(), *run.trees, *run.measures.values()) if not p.exists()],
    }
    made = {}
    if not lacking["model"]:
        made["model"] = write_model(repo, run, model_licence, revision)
    if not lacking["dataset"]:
        made["dataset"] = write_data(repo, run, data_licence, revision)
    return made, [path for paths in lacking.values() for path in paths]


def send(repo: str, folders: dict[str, Path], private: bool) -> None:
    """Uploads every folder in one commit. Raises UserError without a token, and for what the Hub refuses."""
    from huggingface_hub import HfApi

    token = os.environ.get("HF_TOKEN")
    if not token:
        raise UserError("HF_TOKEN: not in the environment; set it to a token that may write to your repositories")
    api = HfApi(token=token)
    for kind, folder in folders.items():
        try:
            api.create_repo(repo, repo_type=kind, private=private, exist_ok=True)
            commit = api.upload_folder(
                repo_id=repo, repo_type=kind, folder_path=folder, commit_message="Published by interaction-to-align"
            )
        except Exception as e:  # of the Hub's client: HTTP, network and checks of its own, which share no class
            raise UserError(f"{kind} {repo}: {one_line(e).replace(token, 'HF_TOKEN')}; run it again when mended") from None
        print(f"sent: {commit.commit_url}")


def listed(repo: str, folders: dict[str, Path]) -> str:
    """Every file that would be sent, with its size."""
    rows = [["goes to", "file", "MB"]]
    for kind, folder in folders.items():
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            rows.append([f"{kind} {repo}", str(path), f"{path.stat().st_size / 1e6:.2f}"])
    return text(rows, left=2)


def main() -> None:
    p = parser(__doc__)
    p.add_argument("repo", metavar="OWNER/NAME", help="of the model and of the dataset")
    p.add_argument("--push", action="store_true", help="send it; without it nothing leaves this machine")
    p.add_argument("--private", action="store_true", help="for a repository that is new")
    p.add_argument("--license", metavar="ID", help="of the model (its base's), as the Hub spells it: apache-2.0")
    p.add_argument("--data-license", metavar="ID", help="of trees and pairs (the base's, if it alone wrote them)")
    a = p.parse_args()
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", a.repo):
        raise UserError(f"{a.repo}: not a repository; give REPO=owner/name")
    run = Run()
    own = about(run.base)[1]
    model_licence = a.license or own
    data_licence = a.data_license or (own if set(run.writers.values()) == {"embedded"} else None)
    made, lacking = folders(a.repo, run, model_licence, data_licence)
    print(listed(a.repo, made))
    found = [*lacking, *missing(run, model_licence, data_licence)]
    for what in found:
        print(f"missing: {what}")
    if not a.push:
        print("Nothing was sent. With PUSH=1 it is, with the token of HF_TOKEN in the environment.")
        return
    if found:
        raise UserError(f"{a.repo}: not published, {len(found)} missing (above): {found[0]}")
    send(a.repo, made, a.private)


if __name__ == "__main__":
    run(main)
