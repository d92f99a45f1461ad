"""The ledger of a stage's calls: what was asked, what came of it, what it used and what failed."""

import math
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stages.core.cli import UserError, one_line
from stages.core.files import write_jsonl
from stages.llm.endpoint import CallFailed
from stages.llm.reply import COUNTS, Reply
from stages.llm.settings import Role


@dataclass
class Calls:
    """Calls of one role: each asks for an answer, which may take several replies."""

    asked: Counter[str] = field(default_factory=Counter)
    """By model."""
    failed: list[tuple[str, CallFailed]] = field(default_factory=list)
    """With the model."""
    usage: list[tuple[float | None, ...]] = field(default_factory=list)
    """COUNTS of each reply."""
    outcomes: Counter[str] = field(default_factory=Counter)
    """Of the replies."""
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
        self.roles: defaultdict[str, Calls] = defaultdict(Calls)
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
        calls = self.roles[role]
        calls.usage.append(tuple(reply.get(name) for name in COUNTS))
        calls.outcomes[outcome] += 1
        calls.served[served] += 1
        calls.unsent.update(unsent)
        calls.cut += cut
        calls.thinking += reply.get("thinking_tokens", 0)
        self.calls += 1
        self.stored += stored
        self.paid += 0.0 if stored else reply.get("cost_usd") or 0.0

    def settle(self, role: Role, error: CallFailed | None = None) -> None:
        """Count a call that was answered, or failed with `error`."""
        calls = self.roles[role.name]
        calls.asked[role.model] += 1
        if error is not None:
            calls.failed.append((role.model, error))

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
            "failed": sum(len(calls.failed) for calls in self.roles.values()),
            "cost_usd": round(self.paid, 6),
        }

    def metrics(self) -> dict[str, Any]:
        """Replies, tokens, cost (as paid when the reply came) and outcomes, of all roles and by role; calls by role.

        The same whether the replies were paid for now or before. A sum is None where one of its parts is unknown.
        """
        roles = {
            name: {
                **totals(calls.usage),
                "asked": calls.asked.total(),
                "answered": calls.asked.total() - len(calls.failed),
                "failed": dict(Counter(error.reason for _, error in calls.failed)),
                "outcomes": dict(calls.outcomes),
                "served": listed(calls.served),
                **({"not_sent": ", ".join(sorted(calls.unsent))} if calls.unsent else {}),
                **({"thinking_tokens": calls.thinking} if calls.thinking else {}),
                **({"cut": calls.cut} if calls.cut else {}),
            }
            for name, calls in self.roles.items()
        }
        return {"all": totals([row for calls in self.roles.values() for row in calls.usage]), **roles}

    def finish(self, section: str, max_failed_share: float, failed: Path | None = None) -> None:
        """The stage has asked all.

        Args:
            section: of params.yaml, whose `max_failed_share` is the greatest share of a role's calls that may fail, in
                whole calls, rounded up. A role that never answers fails the stage at any share below 1.
            failed: file for the failures that were recorded.
        Raises:
            UserError: more calls of a role failed.
        """
        if failed:
            write_jsonl(failed, sorted(self.failed, key=lambda r: str(r["item"])))
        for role, model, asked in ((r, m, n) for r, calls in self.roles.items() for m, n in calls.asked.items()):
            errors = [error for of, error in self.roles[role].failed if of == model]
            allowed = math.ceil(round(max_failed_share * asked, 6))
            if len(errors) > allowed or (len(errors) == asked and max_failed_share < 1):
                why = ", ".join(f"{reason} ({n})" for reason, n in Counter(e.reason for e in errors).most_common())
                raise UserError(
                    f"{role} ({model}): {len(errors)} of {asked} calls failed, more than {section}.max_failed_share "
                    f"({max_failed_share}) allows: {why}; {f'see {failed}; ' if failed else ''}"
                    f"the first: {one_line(errors[0].raw)}"
                )


def listed(names: Counter[str]) -> str:
    """The one name, or all of them with their numbers."""
    return ", ".join(sorted(names) if len(names) == 1 else (f"{name} ({n})" for name, n in sorted(names.items())))


def totals(rows: list[tuple[float | None, ...]]) -> dict[str, float | None]:
    """Number of rows and sums of COUNTS."""
    sums = {name: [row[i] for row in rows] for i, name in enumerate(COUNTS)}
    return {"calls": len(rows), **{k: None if None in v else round(sum(v), 6) for k, v in sums.items()}}  # type: ignore[arg-type]
