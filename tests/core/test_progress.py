"""The progress line, on a terminal and elsewhere. What is posted to DVC Studio: test_studio.py."""

import io
import re

from stages.core.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_log_gets_one_line_at_the_end_of_a_short_step(monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "1")  # as the stages set it for libraries
    out = io.StringIO()
    with Progress("judge: base", 20, lambda: {"calls": 24, "cost_usd": 0.0125, "acceptance": None}, out=out) as progress:
        for _ in range(9):
            progress.step()
    assert re.fullmatch(r"judge: base: +45%\|.*\| 9/20 \[.*calls=24, cost_usd=0.0125\]\n", out.getvalue())


def test_a_log_gets_a_line_now_and_then(monkeypatch):
    now = 0.0
    monkeypatch.setattr("tqdm.std.time", lambda: now)
    out = io.StringIO()
    with Progress("x", 100, out=out, initial=10) as progress:
        for n in range(1, 61):
            now = float(n)
            progress.step()
    done = [int(n) for n in re.findall(r"(\d+)/100", out.getvalue())]
    assert done == [25, 40, 55, 70, 70] and "\r" not in out.getvalue()


def test_a_terminal_gets_a_bar_that_is_drawn_over():
    out = Terminal()
    with Progress("x", 2, out=out) as progress:
        progress.step(2)
    assert out.getvalue().startswith("\rx:   0%") and "100%" in out.getvalue() and out.getvalue().endswith("\n")
    assert out.getvalue().count("\n") == 1
