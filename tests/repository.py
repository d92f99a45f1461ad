"""A small DVC repository of its own for tests that run real commands in it, as a user would: some stages of dvc.yaml."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from conftest import ROOT, Done, Project
from omegaconf import OmegaConf

PEOPLE = [
    {"id": f"p{n}", "profile": f"I mend boat {n}. I keep {n} hens. My knee {n} hurts. I cook soup {n}.", "personality": t}
    for n, t in enumerate(("I am shy, and blunt.", "I am vain, and loud.", "I am calm, and slow.", "I am odd, and warm."))
]


def environment(folder: Path, **more: str) -> dict[str, str]:
    """Of a user at `folder` who has nothing of this machine's but its programs: own home, no keys, no DVC settings.

    The sentence encoder is a stand-in.
    """
    home = folder.parent / "home"
    (home / "tmp").mkdir(parents=True, exist_ok=True)
    person = {f"GIT_{who}_{what}": f"{who}@x" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    return {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT / "tests/stand_ins"),
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


def sh(folder: Path, *words: str, check: bool = True, **more: str) -> str:
    """What a command prints, errors too."""
    done = shell(folder, shlex.join(words), **more)
    text = done.stdout + done.stderr
    assert not check or done.returncode == 0, text[-4000:]
    return text


def ran(done: Done) -> list[str]:
    """Stages that `dvc repro` really ran."""
    return [line.split("'")[1] for line in done.stdout.splitlines() if line.startswith("Running stage")]


def commit(folder: Path, message: str) -> None:
    """Commit everything."""
    sh(folder, "git", "add", "-A")
    sh(folder, "git", "commit", "-qm", message)


def jsonl(path: Path, rows: Sequence[dict]) -> None:
    """Write rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))


def conversation(person: dict) -> dict:
    """A conversation of three turns, as stage converse writes it."""
    turns = [{"turn": n, "item": n, "user": f"I fish {n}.", "reply": f"Good {n}.", "outcome": "ok"} for n in range(1, 4)]
    return {**person, "items": ["x"], "turns": turns, "ended": None}


def repository(
    folder: Path, url: str, *stages: str, people: Sequence[dict] = PEOPLE, arms: Sequence[str] = ("base",), **values: object
) -> Project:
    """A committed DVC repository with these stages and arms, every role on the scripted server.

    What other stages make is given: personas, conversations (of `people`), weights that nobody looks into. `values`: params
    to change, as for `Project.set`.
    """
    folder.mkdir(parents=True)
    project = Project(folder, url)
    project.params.arms = {name: project.params.arms[name] for name in arms}
    project.params.choose.arms = [name for name in project.params.choose.arms if name in arms]
    project.set(**values)
    spec = OmegaConf.load(folder / "dvc.yaml")
    spec.stages = {name: stage for name, stage in spec.stages.items() if name in stages}
    OmegaConf.save(spec, folder / "dvc.yaml")
    shutil.copytree(ROOT / "stages", folder / "stages", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / ".dvcignore", folder)
    # what other stages make is an input here, and git holds it
    (folder / ".gitignore").write_text((ROOT / ".gitignore").read_text().partition("# outputs of the pipeline")[0])
    weights = {"base"} | ({project.params.arms[a].weights for a in arms} - set(stages))
    for name in weights - {"base"} if "base_model" in stages else weights:
        (folder / "models" / name).mkdir(parents=True)
        (folder / "models" / name / "model.safetensors").write_text("weights")
    for name in () if "filter_personas" in stages else ("train", "eval"):
        jsonl(folder / f"data/personas/{name}.jsonl", people)
    for name in () if "converse" in stages else arms:
        jsonl(folder / f"data/conversations/{name}.jsonl", [conversation(p) for p in people])
    for name in () if "choose" in stages else arms:
        jsonl(folder / f"data/choices/{name}.jsonl", [])
    for name in () if "converse" in stages else arms:
        jsonl(folder / f"data/probe_replies/{name}.jsonl", [])
    for words in (["git", "init", "-q", "-b", "main"], ["dvc", "init", "-q"]):
        sh(folder, *words)
    commit(folder, "start")
    return project


def as_dvc_sees_it(project: Project) -> None:
    """Make the scripted project a repository whose code dependencies are there, as far as DVC asks for them: for plans."""
    for words in (["git", "init", "-q"], ["dvc", "init", "-q"]):
        subprocess.run(words, cwd=project.folder, check=True)
    project.with_code()


def judged(folder: Path, url: str, **values: object) -> Project:
    """The smallest of use: two stages, one of which asks the scripted model three questions."""
    return repository(folder, url, "seed_personas", "judge", people=PEOPLE[:1], **values)
