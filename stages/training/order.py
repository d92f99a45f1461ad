"""The order of training rows: by draw, but so that a batch is cheap."""

import random
from collections.abc import Sequence


def by_conversation(conversations: Sequence[str], size: int, seed: int, epoch: int) -> list[int]:
    """Row numbers for batches (or steps of several) of `size` whose rows share prefixes.

    The rows of a conversation are in one batch where they fit, and beside others that leave least room; what fills no batch
    comes in batches of its own. `conversations`: of each row.
    """
    rng = random.Random(f"{seed} {epoch}")
    groups: dict[str, list[int]] = {}
    for i, conversation in enumerate(conversations):
        groups.setdefault(conversation, []).append(i)
    batches: list[list[int]] = []
    begun: dict[int, list[list[int]]] = {room: [] for room in range(1, size)}  # by the room that is left
    for group in rng.sample(list(groups.values()), len(groups)):
        whole = len(group) // size * size
        batches += [group[i : i + size] for i in range(0, whole, size)]
        if rows := group[whole:]:
            room = next((r for r in range(len(rows), size) if begun[r]), size)
            batch = [*(begun[room].pop() if room < size else []), *rows]
            (begun[size - len(batch)] if len(batch) < size else batches).append(batch)
    rest = [i for room in begun.values() for batch in room for i in batch]
    batches += [rest[i : i + size] for i in range(0, len(rest), size)]
    return drawn(batches, size, rng)


def by_length(lengths: Sequence[int], size: int, seed: int, epoch: int) -> list[int]:
    """Row numbers for batches of `size` with little padding: like lengths together. `lengths`: of each row, in tokens."""
    rng = random.Random(f"{seed} {epoch}")
    rows = rng.sample(range(len(lengths)), len(lengths))
    spans = [sorted(rows[i : i + 50 * size], key=lambda i: -lengths[i]) for i in range(0, len(rows), 50 * size)]
    return drawn([span[i : i + size] for span in spans for i in range(0, len(span), size)], size, rng)


def drawn(batches: list[list[int]], size: int, rng: random.Random) -> list[int]:
    """The rows of the batches in an order drawn by `rng`; a last one that is short stays the last."""
    last = batches.pop() if len(batches[-1]) < size else []
    return [i for batch in [*rng.sample(batches, len(batches)), last] for i in batch]
