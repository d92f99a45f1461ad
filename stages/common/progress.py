"""Progress of long steps: a bar on a terminal, a line now and then elsewhere."""

import sys
import time
from collections.abc import Callable
from typing import Any, TextIO


def span(seconds: float) -> str:
    """Minutes and seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


class Progress:
    """Items done of `total`, time passed and left, and whatever `extra` adds (calls a second, cost)."""

    def __init__(self, what: str, total: int, extra: Callable[[float], str] | None = None, out: TextIO | None = None):
        self.what, self.total, self.done = what, total, 0
        self._extra, self._out = extra, out or sys.stderr
        self._start = time.monotonic()
        self._tty = self._out.isatty()
        self._next = self._start + (0 if self._tty else 10)

    def step(self, n: int = 1) -> None:
        """`n` more items are done."""
        self.done += n
        self.tick()

    def tick(self) -> None:
        """Print if it is time to."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + (0.2 if self._tty else 15)
            self._print("\r" if self._tty else "", "" if self._tty else "\n")

    def _print(self, start: str, end: str) -> None:
        passed = time.monotonic() - self._start
        left = f", {span(passed / self.done * (self.total - self.done))} left" if 0 < self.done < self.total else ""
        extra = f", {self._extra(passed)}" if self._extra else ""
        share = self.done / self.total if self.total else 1.0
        bar = f"[{'#' * int(24 * share):<24}] " if self._tty else ""
        line = f"{self.what}: {bar}{self.done}/{self.total}, {span(passed)} passed{left}{extra}"
        self._out.write(f"{start}{line[:150]}{'  ' if self._tty else ''}{end}")
        self._out.flush()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: Any) -> None:
        self._print("\r" if self._tty else "", "\n")
