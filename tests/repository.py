"""A small DVC repository of its own for tests that run real `dvc` commands: some stages of dvc.yaml, the committed code."""

import json
import os
import shutil
import subprocess
from pathlib import Path

from conftest import ROOT, Project
from omegaconf import OmegaConf

PEOPLE = [
    {"id": f"p{n}", "profile": f"I mend boat {n}. I keep {n} hens. My knee {n} hurts. I cook soup {n}.", "personality": t}
    for n, t in enumerate(("I am shy, and blunt.", "I am vain, and loud.", "I am calm, and slow.", "I am odd, and warm."))
]


def sh(folder: Path, *words: str, check: bool = True, **env: str) -> str:
    """What a command prints, errors too. No DVC variable of the outer run gets in."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("DVC", "STUDIO"))}
    done = subprocess.run(words, cwd=folder, env=kept | env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert not check or done.returncode == 0, done.stdout[-4000:]
    return done.stdout


def commit(folder: Path, message: str) -> None:
    """Commit everything."""
    sh(folder, "git", "add", "-A")
    sh(folder, "git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", message)


def jsonl(path: Path, rows: list[dict]) -> None:
    """Write rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))


def repository(folder: Path, url: str, *stages: str, **values: object) -> Project:
    """A committed DVC repository with these stages, every role on the scripted server, weights that nobody looks into."""
    folder.mkdir()
    project = Project(folder, url)
    spec = OmegaConf.load(folder / "dvc.yaml")
    spec.stages = {name: stage for name, stage in spec.stages.items() if name in stages}
    OmegaConf.save(spec, folder / "dvc.yaml")
    shutil.copytree(ROOT / "stages", folder / "stages", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / ".gitignore", folder)
    (folder / "models/base").mkdir(parents=True)
    (folder / "models/base/model.safetensors").write_text("weights")
    jsonl(folder / "data/personas/train.jsonl", PEOPLE)
    project.set(**values)
    sh(folder, "git", "init", "-q", "-b", "main")
    sh(folder, "dvc", "init", "-q")
    sh(folder, "dvc", "config", "core.analytics", "false")
    sh(folder, "git", "config", "user.name", "t")
    sh(folder, "git", "config", "user.email", "t@t")
    commit(folder, "base")
    return project
