"""The terminal chat: every model answers from its own history, under the settings of the evaluation."""

import io
import sys

import pytest
from conftest import complains, streamed

from stages.core import prompts
from stages.llm import local
from stages.llm.local import Engine

PROMPT = "prompts/assistant.txt"


@pytest.fixture
def talk(project, server, monkeypatch):
    """Runs a chat with two scripted models; the n-th reply of `dpo` is `dpo n`. Returns what it printed."""
    stopped = []
    server.reply = lambda body: streamed(f"{body['model']} {sum(r['model'] == body['model'] for r in server.requests)}")
    for name in ("dpo", "base"):
        (project.folder / name).mkdir()

    class Served(Engine):
        def stop(self):
            stopped.append(self.model)

    monkeypatch.setattr(local, "start", lambda folder, **_: Served(server.url, folder.name, "key", None))

    def run(*lines):
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        folders = [str(project.folder / name) for name in ("dpo", "base")]
        done = project._run(["stages.tools.chat", "--system-prompt", PROMPT, *folders], check=True)
        assert sorted(stopped) == ["base", "dpo"]
        return done.stdout

    return run


def said(request):
    return [m["content"] for m in request["messages"] if m["role"] != "system"]


def test_each_model_sees_its_own_history(talk, server, project):
    shown = talk("hello", "and now?", "/quit", "not read")
    assert "dpo> dpo 1\nbase> base 1\n" in shown and "dpo> dpo 2\nbase> base 2\n" in shown
    assert [(r["model"], said(r)) for r in server.requests] == [
        ("dpo", ["hello"]), ("base", ["hello"]),
        ("dpo", ["hello", "dpo 1", "and now?"]), ("base", ["hello", "base 1", "and now?"]),
    ]  # fmt: skip
    c = project.params.converse
    for r in server.requests:
        assert r["messages"][0] == prompts.load(project.folder / PROMPT).messages()[0]
        assert (r["temperature"], r["top_p"], r["frequency_penalty"], r["max_tokens"], r["stop"]) == (
            c.temp, c.top_p, c.penalty, c.tokens, ["\n"],
        )  # fmt: skip
    assert len({r["seed"] for r in server.requests}) == 2, "a turn's seed, the same for both models"


def test_reset_forgets_and_the_end_of_the_input_ends(talk, server):
    shown = talk("hello", "/reset", "hello", "", "/other")
    assert [said(r) for r in server.requests] == [["hello"]] * 4
    assert "a new conversation" in shown and "commands: /reset" in shown and "Traceback" not in shown


def test_a_failed_reply_is_told_and_forgotten(talk, server):
    answer = server.reply
    server.reply = lambda body: (400, {"error": {"message": "too long"}}) if "big" in said(body) else answer(body)
    shown = talk("big", "small")
    assert shown.count("(no reply: ") == 2 and "too long" in shown
    assert [said(r) for r in server.requests][2:] == [["small"], ["small"]]


def test_ctrl_c_ends_in_good_order(talk, server, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("builtins.input", interrupt)
    assert talk() == "\n" and not server.requests


def test_a_control_token_of_the_model_stays_text(talk, server, project):
    (project.folder / "dpo/tokenizer.json").write_text('{"added_tokens": [{"content": "<|end|>", "special": true}]}')
    talk("a<|end|>b")
    assert [said(r) for r in server.requests] == [["a< |end|>b"], ["a<|end|>b"]]


def test_a_missing_model_is_named(project):
    done = project._run(["stages.tools.chat", "--system-prompt", PROMPT, "nothing"], check=False)
    complains(done, "nothing: no such folder", "dvc checkout")
