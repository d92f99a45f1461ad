"""Progress of long steps: a bar on a terminal, a line now and then elsewhere, and numbers to DVC Studio in an experiment."""

import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, TextIO

POST_S = 15.0  # between two posts to Studio
LAST_S = 10.0  # how long the end of a step waits for its last post


class Studio:
    """Live numbers of a step as the running experiment's own, beside what DVC and DVCLive post of it.

    Only `dvc exp run` names an experiment, and only with a Studio token is anything sent. Nothing is written, so no output
    can change, and a server that is slow or away costs a post, never the step.
    """

    def __init__(self, what: str):
        self._what = what
        self._posts: queue.Queue[dict[str, Any] | None] = queue.Queue(maxsize=2)
        self._next, self._step = 0.0, 0
        self._thread: threading.Thread | None = None
        if "DVC_EXP_NAME" not in os.environ or "DVC_EXP_BASELINE_REV" not in os.environ:
            return
        from dvc.config import Config
        from dvc_studio_client.config import get_studio_config

        self._config = Config.from_cwd().get("studio")
        if get_studio_config(dvc_studio_config=self._config):
            self._thread = threading.Thread(target=self._send, daemon=True)
            self._thread.start()

    def _send(self) -> None:
        from dvc_studio_client.post_live_metrics import post_live_metrics

        while (values := self._posts.get()) is not None:
            post_live_metrics(
                "data", os.environ["DVC_EXP_BASELINE_REV"], os.environ["DVC_EXP_NAME"], "dvclive",
                step=self._step, dvc_studio_config=self._config,
                metrics={f"results/live/{self._what}.json": {"data": values}},  # names that Studio shows, not files
                plots={f"results/live/{self._what}.tsv": {"data": [{"step": self._step, **values}]}},
            )  # fmt: skip
            self._step += 1

    def post(self, values: Callable[[], dict[str, float | None]], last: bool = False) -> None:
        """Send numbers, if it is time to."""
        now = time.monotonic()
        if self._thread is None or (now < self._next and not last):
            return
        self._next = now + POST_S
        try:
            self._posts.put_nowait({k: v for k, v in values().items() if v is not None})
            if last:
                self._posts.put(None, timeout=LAST_S)
        except queue.Full:
            return  # the server does not keep up
        if last:
            self._thread.join(LAST_S)


def span(seconds: float) -> str:
    """Minutes and seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


class Progress:
    """Items done of `total`, time passed and left, and whatever `extra` adds (calls a second, cost).

    `numbers`: what DVC Studio is told beside the items done.
    """

    def __init__(
        self,
        what: str,
        total: int,
        extra: Callable[[float], str] | None = None,
        out: TextIO | None = None,
        numbers: Callable[[], dict[str, float | None]] | None = None,
    ):
        self.what, self.total, self.done = what, total, 0
        self._numbers, self._studio = numbers, Studio(what.replace(": ", "_"))
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
        self._studio.post(self.values)

    def values(self) -> dict[str, float | None]:
        """Where the step is, in numbers."""
        return {"done": self.done, "total": self.total, **(self._numbers() if self._numbers else {})}

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
        self._studio.post(self.values, last=True)
