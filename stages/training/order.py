"""The order of training rows: by draw, but so that a batch is cheap."""

import random
from collections.abc import Sequence


def by_conversation(conversations: Sequence[str], size: int, seed: int, epoch: int) -> list[int]:
    """Row numbers for batches of `size` whose rows share prefixes.

    The rows of a conversation come one after another, and in one batch where they fit. `conversations`: of each row.
    """
    rng = random.Random(f"{seed} {epoch}")
    groups: dict[str, list[int]] = {}
    for i, conversation in enumerate(conversations):
        groups.setdefault(conversation, []).append(i)
    waiting = rng.sample(list(groups.values()), len(groups))
    found: list[int] = []
    while waiting:
        room = size - len(found) % size
        found += waiting.pop(next((i for i, group in enumerate(waiting) if len(group) <= room), 0))
    return found


def by_length(lengths: Sequence[int], size: int, seed: int, epoch: int) -> list[int]:
    """Row numbers for batches of `size` with little padding: like lengths together. `lengths`: of each row, in tokens."""
    rng = random.Random(f"{seed} {epoch}")
    drawn = rng.sample(range(len(lengths)), len(lengths))
    spans = [sorted(drawn[i : i + 50 * size], key=lambda i: -lengths[i]) for i in range(0, len(drawn), 50 * size)]
    batches = [span[i : i + size] for span in spans for i in range(0, len(span), size)]
    last = batches.pop() if len(batches[-1]) < size else []
    return [i for batch in [*rng.sample(batches, len(batches)), last] for i in batch]
