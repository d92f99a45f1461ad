"""A whole repository that DVC runs in seconds: two of the stages, one of which asks the scripted model."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from conftest import ROOT, Done, Project
from omegaconf import OmegaConf

STAGES = ("seed_personas", "judge")


def small(folder: Path, url: str, **endpoint) -> Project:
    """seed_personas and judge@base with their code, the conversations as given data, under git and DVC.

    `endpoint`: more settings of the scripted endpoint.
    """
    folder.mkdir(parents=True)
    project = Project(folder, url)
    shutil.copytree(ROOT / "stages", folder / "stages", ignore=shutil.ignore_patterns("__pycache__"))
    for name in (".gitignore", ".dvcignore"):
        shutil.copy(ROOT / name, folder)
    project.set(**{f"llm__endpoints__scripted__{key}": value for key, value in endpoint.items()})
    pipeline = OmegaConf.to_container(OmegaConf.load(folder / "dvc.yaml"), resolve=False)["stages"]
    kept = {name: pipeline[name] for name in STAGES}
    project.params.arms = {"base": project.params.arms.base}
    project.write()
    OmegaConf.save(OmegaConf.create({"stages": kept}), folder / "dvc.yaml")
    (folder / "data/conversations").mkdir()
    turns = [{"turn": n, "item": n, "user": f"I fish {n}.", "reply": f"Good {n}."} for n in range(1, 4)]
    case = {"id": "case", "profile": "I fish.", "personality": "I am shy.", "turns": turns, "ended": None}
    (folder / "data/conversations/base.jsonl").write_text(json.dumps(case) + "\n")
    (folder / "models/base").mkdir(parents=True)  # read by nobody here
    (folder / "models/base/config.json").write_text("{}\n")
    for line in ("git init -q", "dvc init -q", "git add -A", "git commit -qm start"):
        assert shell(folder, line).returncode == 0, line
    return project


def environment(folder: Path, **more: str) -> dict[str, str]:
    """Of a user at `folder` who has nothing of this machine's but its programs: own home, no keys, no DVC settings."""
    home = folder.parent / "home"
    (home / "tmp").mkdir(parents=True, exist_ok=True)
    person = {f"GIT_{who}_{what}": f"{who}@x" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    return {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(home),
        "TMPDIR": str(home / "tmp"),
        "DVC_SITE_CACHE_DIR": str(home / "site"),
        "DVC_NO_ANALYTICS": "1",
        "AWS_EC2_METADATA_DISABLED": "true",
        **person,
        **more,
    }


def shell(folder: Path, line: str, **more: str) -> Done:
    """Run a line in a shell."""
    env = environment(folder, **more)
    done = subprocess.run(["bash", "-c", line], cwd=folder, env=env, capture_output=True, text=True, errors="replace")
    return Done(done.returncode, done.stdout, done.stderr)


def ran(done: Done) -> list[str]:
    """Stages that `dvc repro` really ran."""
    return [line.split("'")[1] for line in done.stdout.splitlines() if line.startswith("Running stage")]
