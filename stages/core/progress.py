"""Progress of long steps: tqdm's bar on a terminal, its line now and then elsewhere, and numbers to DVC Studio."""

import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, TextIO

Numbers = Callable[[], dict[str, float | None]]
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

    def post(self, values: Numbers, last: bool = False) -> None:
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


class _Lines:
    """A file for tqdm that is no terminal: what it draws over and over becomes lines."""

    def __init__(self, out: TextIO):
        self._out = out

    def write(self, text: str) -> None:
        """Write what is more than blanks as a line."""
        if line := text.strip():
            self._out.write(f"{line}\n")

    def flush(self) -> None:
        """Flush the file."""
        self._out.flush()


class Progress:
    """Items done of `total`, as a context manager.

    Args:
        numbers: shown behind the bar and sent to DVC Studio beside the items done; None is left out.
        initial: items done before.
        out: where the bar goes; None: stderr.
    """

    def __init__(self, what: str, total: int, numbers: Numbers | None = None, initial: int = 0, out: TextIO | None = None):
        from tqdm import tqdm

        self._numbers, self._studio = numbers or dict, Studio(what.replace(": ", "_"))
        out = out or sys.stderr
        tty = out.isatty()
        self._bar = tqdm(
            desc=what, total=total, initial=initial, file=out if tty else _Lines(out), leave=tty, dynamic_ncols=tty,
            mininterval=0.2 if tty else 15, delay=0 if tty else 10, miniters=0,  # 0: `tick` may draw
            disable=False,  # cli.run turns off the bars of libraries
        )  # fmt: skip

    def step(self, n: int = 1) -> None:
        """`n` more items are done."""
        self._set_postfix()
        self._bar.update(n)
        self._studio.post(self.values)

    def tick(self) -> None:
        """Show the numbers, if it is time to."""
        self.step(0)

    def values(self) -> dict[str, float | None]:
        """Where the step is, in numbers."""
        return {"done": self._bar.n, "total": self._bar.total, **self._numbers()}

    def _set_postfix(self) -> None:
        self._bar.set_postfix({k: v for k, v in self._numbers().items() if v is not None}, refresh=False)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: Any) -> None:
        self._set_postfix()
        self._bar.refresh()
        self._bar.close()
        self._studio.post(self.values, last=True)
