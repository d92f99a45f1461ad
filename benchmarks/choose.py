"""Crossed choice and its twin without history: time and log-probabilities of three ways to compute them, in one run.

rows: a row for every history and reply, all logits (as one writes it down first); forest: the rows of a user as a forest of
tokens (training/shared_prefix.py); cache: what the stage does, replies behind the keys and values of their history, what
readings have in common computed once.

Run: python -m benchmarks.choose --weights models/base --groups data/crossed/groups.jsonl [--number 60]
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stages.choose import contexts
from stages.evaluation import crossed
from stages.text import groups
from stages.training import choices, shared_prefix

Rows = list[tuple[list[int], list[list[int]]]]  # context, replies


def rows(model: Any, asked: Rows) -> list[float]:
    """Sums of log p, a forward pass for each."""
    found = []
    for before, replies in asked:
        for reply in replies:
            logs = model(torch.tensor([before + reply])).logits[0, len(before) - 1 : -1].float().log_softmax(-1)
            found.append(float(logs.gather(1, torch.tensor(reply)[:, None]).double().sum()))
    return found


def forest(model: Any, asked: Rows) -> list[float]:
    """Sums of log p, a forest for each context. `model` is changed by `shared_prefix.share`."""
    found = []
    collate = shared_prefix.Collator(0)
    for before, replies in asked:
        batch, mask = collate._batch([(before, reply) for reply in replies])
        kept = mask[:, 1:] == 1
        logits = model.get_output_embeddings()(model.base_model(**batch).last_hidden_state[:, :-1][kept]).float()
        values = logits.gather(1, batch["input_ids"][:, 1:][kept][:, None])[:, 0] - logits.logsumexp(1)
        found += [float(part.double().sum()) for part in values.split([len(reply) for reply in replies])]
    return found


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--weights", type=Path, required=True)
    p.add_argument("--groups", type=Path, required=True)
    p.add_argument("--number", type=int, default=60, help="groups")
    a = p.parse_args()
    chosen = crossed.most(groups.read(a.groups), a.number)
    model, tokenizer = choices.load(a.weights)
    shared, _ = choices.load(a.weights)
    shared_prefix.share(shared)
    by_group = [
        ([c for reading in ("history", "none") for c in contexts(g, None, reading)], [user["reply"] for user in g["users"]])
        for g in chosen
    ]
    asked: Rows = [choices.tokens(tokenizer, context, replies) for before, replies in by_group for context in before]
    naive = sum(len(before) + len(reply) for before, replies in asked for reply in replies)
    unique = {(tuple(before), str(replies)): len(before) + sum(map(len, replies)) for before, replies in asked}
    once = sum(unique.values())
    print(
        f"{len(chosen)} groups, {torch.get_num_threads()} threads; tokens: rows {naive}, once {once} ({naive / once:.2f}x)"
    )
    ways = {
        "rows": lambda: rows(model, asked),
        "forest": lambda: forest(shared, asked),
        "cache": lambda: [value for group in by_group for value in choices.matrix(model, tokenizer, *group).ravel()],
    }
    first: tuple[float, float, list[float]] | None = None
    for name, way in ways.items():
        wall, cpu = time.perf_counter(), time.process_time()
        with torch.inference_mode():
            found = way()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        first = first or (wall, cpu, found)
        apart = float(np.abs(np.array(found) - first[2]).max())
        faster = f"{first[0] / wall:.2f}x faster ({first[1] / cpu:.2f}x of CPU time)"
        print(f"{name:7} {wall:8.1f} s, CPU {cpu:8.1f} s, {faster}, greatest difference {apart:.1e} nats", flush=True)


if __name__ == "__main__":
    main()
