"""The ledger of a stage's calls: what was asked, what came of it, what it used and what failed."""

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stages.core.cli import UserError
from stages.core.files import write_jsonl
from stages.llm.endpoint import CallFailed
from stages.llm.reply import COUNTS, Reply


@dataclass
class Calls:
    """Calls of one role."""

    usage: list[tuple[float | None, ...]] = field(default_factory=list)
    """COUNTS of each reply."""
    outcomes: Counter[str] = field(default_factory=Counter)
    served: Counter[str] = field(default_factory=Counter)
    """What the servers call the model."""
    unsent: set[str] = field(default_factory=set)
    """Parameters that were not sent as params.yaml has them."""
    thinking: int = 0
    """Tokens of thoughts, as far as servers count them."""
    cut: int = 0
    """Replies that went on after the text that ends them."""


class Ledger:
    """Counts of one stage run."""

    def __init__(self) -> None:
        self.roles: dict[str, Calls] = {}
        self.calls = self.stored = 0
        self.paid = 0.0  # USD, for replies that were not stored; where the cost is unknown, nothing
        self.failed: list[dict[str, Any]] = []
        self._start = time.monotonic()

    def record(
        self, role: str, reply: Reply, outcome: str, *, stored: bool, served: str, unsent: Iterable[str] = (),
        cut: bool = False,
    ) -> None:  # fmt: skip
        """Count a reply and what came of it.

        Args:
            stored: it was in the cache.
            served: what its server calls the model.
            unsent: parameters that its request did not carry as params.yaml has them.
            cut: what it said after a stop text was cut off here.
        """
        calls = self.roles.setdefault(role, Calls())
        calls.usage.append(tuple(reply.get(name) for name in COUNTS))
        calls.outcomes[outcome] += 1
        calls.served[served] += 1
        calls.unsent.update(unsent)
        calls.cut += cut
        calls.thinking += reply.get("thinking_tokens", 0)
        self.calls += 1
        self.stored += stored
        self.paid += 0.0 if stored else reply.get("cost_usd") or 0.0

    def record_failure(self, item: str, role: str, error: CallFailed) -> None:
        """Keep a call that failed, and the item it was for; `finish` writes them."""
        self.failed.append({"item": item, "role": role, "reason": error.reason, "raw": error.raw})

    def numbers(self) -> dict[str, float | None]:
        """Of the run so far: calls, calls a second, calls that were stored, calls that failed, what the others cost."""
        seconds = max(time.monotonic() - self._start, 1e-9)
        return {
            "calls": self.calls,
            "calls_per_s": round(self.calls / seconds, 1),
            "stored": self.stored,
            "failed": len(self.failed),
            "cost_usd": round(self.paid, 6),
        }

    def metrics(self) -> dict[str, Any]:
        """Calls, tokens, cost (as paid when the reply came) and outcomes, of all roles and by role.

        The same whether the replies were paid for now or before. A sum is None where one of its parts is unknown.
        """
        roles = {
            name: {
                **totals(calls.usage),
                "outcomes": dict(calls.outcomes),
                "served": listed(calls.served),
                **({"not_sent": ", ".join(sorted(calls.unsent))} if calls.unsent else {}),
                **({"thinking_tokens": calls.thinking} if calls.thinking else {}),
                **({"cut": calls.cut} if calls.cut else {}),
            }
            for name, calls in self.roles.items()
        }
        return {"all": totals([row for calls in self.roles.values() for row in calls.usage]), **roles}

    def finish(self, path: Path, items: int, max_failed_share: float) -> None:
        """Write the failed calls to `path`. Raises UserError if they are more than `max_failed_share` of `items`."""
        write_jsonl(path, sorted(self.failed, key=lambda r: str(r["item"])))
        if len(self.failed) > max_failed_share * items:
            first = self.failed[0]
            raise UserError(
                f"{len(self.failed)} of {items} items failed, more than the allowed share of {max_failed_share}; "
                f"see {path}; the first: {first['item']}: {first['reason']}: {first['raw'][:120]}"
            )


def listed(names: Counter[str]) -> str:
    """The one name, or all of them with their numbers."""
    return ", ".join(sorted(names) if len(names) == 1 else (f"{name} ({n})" for name, n in sorted(names.items())))


def totals(rows: list[tuple[float | None, ...]]) -> dict[str, float | None]:
    """Number of rows and sums of COUNTS."""
    sums = {name: [row[i] for row in rows] for i, name in enumerate(COUNTS)}
    return {"calls": len(rows), **{k: None if None in v else round(sum(v), 6) for k, v in sums.items()}}  # type: ignore[arg-type]
