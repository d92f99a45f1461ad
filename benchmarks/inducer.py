"""The quoting inducer against the notes that trees were given, with word overlap as its baseline.

A model that llama.cpp serves is asked at each user turn which items the conversation shows, as role-play asks (prompt set
natural). What it finds at the turns so far is compared with the turn's given note: precision and recall over all turns, of
facts and of traits. Word overlap notes an item whose content words the user's turns hold by half. Replies are stored in
.cache, so a second run asks nothing. What is found goes to stderr, with whether the given note has it.

Run from the root of the repository: python -m benchmarks.inducer --gguf model.gguf --trees data/natural/trees.jsonl
With --form letters the model is asked piece by piece (dialogue/pieces.py) in place of for a list.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path

from stages.core import prompts
from stages.core.files import read_jsonl, seed_of
from stages.dialogue import inducer, tree
from stages.dialogue.measures import agreement
from stages.dialogue.transcript import texts
from stages.llm.backend import PaidCalls
from stages.llm.client import Client
from stages.llm.endpoint import CallFailed
from stages.llm.settings import EMBEDDED, Embedded, Inducer, Llm
from stages.text.ngrams import REVEALED, coverage


def users(t):
    """(user node, chat up to it) of each user turn of a tree."""
    nodes = tree.index(t)
    return [(n, tree.history(nodes, n["id"])) for n in t["nodes"] if n["role"] == "user"]


def by_overlap(t):
    """The tree with the quotes that word overlap gives: the user's words so far, for items that they hold by half."""
    for node, chat in users(t):
        written = " ".join(texts(chat, "user"))
        node["quotes"] = [
            {"item": i, "quote": written} for i, x in enumerate(t["items"]) if coverage(x, written) >= REVEALED
        ]


async def by_model(client, who, prompt, t):
    """The tree with the quotes of the model, and how many calls failed, each of which gives no quote."""
    failed, found = 0, {}
    for node, chat in users(t):
        noted = found.get(tree.parent(tree.parent(node["id"]) or ""), set())
        try:
            seed = seed_of(1, t["id"], node["id"], "inducer")
            node["quotes"] = await inducer.shown(client, who, prompt, t["items"], chat, noted, seed)
        except CallFailed as e:
            failed += 1
            node["quotes"] = []
            print(f"{t['id']} {node['id']}: {e.reason} {e.raw[-200:]}", file=sys.stderr)
        found[node["id"]] = noted | {q["item"] for q in node["quotes"]}
        rows = [(t["items"][q["item"]], q["quote"], q["item"] in (node["note"] or [])) for q in node["quotes"]]
        print(f"{t['id']} {node['id']}: {rows}", file=sys.stderr)
    return failed


async def measured(a, trees):
    """Ask the model about all trees."""
    asked = Inducer(model=EMBEDDED, temp=0.0, top_p=1.0, penalty=0.0, tokens=a.tokens, form=a.form)
    # tree by tree: calls of two trees in turn would throw each other's beginnings out of the one slot
    embedded = Embedded(concurrency=1, slots=2, context=3072, threads=a.threads)
    settings = Llm(conversations_in_flight=1, embedded=embedded, endpoints={})
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "model.gguf").symlink_to(a.gguf.resolve())
        async with Client(PaidCalls("inducer", settings, {EMBEDDED: Path(folder)}), 0) as client:
            prompt = prompts.load(a.prompt)
            who = inducer.noter(asked, prompt)
            return sum(await client.in_parallel([lambda t=t: by_model(client, who, prompt, t) for t in trees]))


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--gguf", type=Path, required=True)
    a.add_argument("--trees", type=Path, required=True)
    a.add_argument("--prompt", type=Path, default=Path("prompts/natural/inducer.txt"))
    a.add_argument("--form", choices=["list", "letters"], default="list")
    a.add_argument("--every", type=int, default=1, help="ask about every so many-th tree")
    a.add_argument("--threads", type=int, default=2)
    a.add_argument("--tokens", type=int, default=256)
    a = a.parse_args()
    trees = read_jsonl(a.trees)[:: a.every]
    for t in trees:
        by_overlap(t)
    print("overlap", json.dumps(agreement(trees)))
    start = time.time()
    failed = asyncio.run(measured(a, trees))
    print("model", json.dumps(agreement(trees)), f"failed {failed}, {time.time() - start:.0f} s")


if __name__ == "__main__":
    main()
