"""The progress line, on a terminal and elsewhere. A whole experiment with DVC Studio: test_studio.py."""

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


def test_an_experiment_posts_its_numbers_and_a_plain_run_none(monkeypatch):
    from dvc.config import Config

    posts = []
    monkeypatch.setattr(Config, "from_cwd", lambda: {"studio": {}})
    monkeypatch.setattr("dvc_studio_client.config.get_studio_config", lambda **_: {"token": "x"})
    monkeypatch.setattr(
        "dvc_studio_client.post_live_metrics.post_live_metrics", lambda *words, **values: posts.append((words, values))
    )

    def step():
        with Progress("judge: base", 2, lambda: {"calls": 3, "acceptance": None}, out=io.StringIO()) as progress:
            progress.step(2)

    step()
    assert not posts
    monkeypatch.setenv("DVC_EXP_NAME", "mine")
    monkeypatch.setenv("DVC_EXP_BASELINE_REV", "abc")
    step()
    assert [words for words, _ in posts] == [("data", "abc", "mine", "dvclive")] * 2
    assert posts[-1][1]["metrics"] == {"results/live/judge_base.json": {"data": {"done": 2, "total": 2, "calls": 3}}}
