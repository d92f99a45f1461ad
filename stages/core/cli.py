"""What the user can mend: one line, exit code 1, no traceback."""

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path


class UserError(Exception):
    """A fault of input, parameters, files or servers. The message says where, what and what to do."""


def one_line(error: object, limit: int = 300) -> str:
    """First line of an error's text (its type where it has none), cut to `limit` characters."""
    text = str(error).strip()
    return (text.splitlines()[0] if text else type(error).__name__)[:limit]


def parser(
    doc: str | None, inputs: Sequence[str] = (), outputs: Sequence[str] = (), rounds: bool = False
) -> argparse.ArgumentParser:
    """Command line of a stage: every input and output is a required `--name PATH`, so dvc.yaml alone names files.

    `rounds`: the stage has later rounds (params.Round), and takes `--round NAME` in them.
    """
    p = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in inputs:
        p.add_argument(f"--{name}", type=Path, required=True, metavar="PATH", help="read")
    for name in outputs:
        p.add_argument(f"--{name}", type=Path, required=True, metavar="PATH", help="written")
    if rounds:
        p.add_argument("--round", metavar="NAME", help="line of params.yaml's rounds, whose changes hold; none in the first")
    return p


def run(main: Callable[[], None]) -> None:
    """Run a stage's `main`; a UserError ends it with one line on stderr and exit code 1, Ctrl-C with 130."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    for library in ("TQDM_DISABLE", "HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS"):
        os.environ.setdefault(library, "1")  # the stages show their own progress
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))  # also ends in good order
    try:
        main()
    except UserError as e:
        sys.exit(f"error: {e}")
    except KeyboardInterrupt:
        print("interrupted; replies already paid for are kept, run again to continue", file=sys.stderr)
        sys.exit(130)
