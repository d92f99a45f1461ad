"""The reply cache as people use it: its size, what is shared, what is dropped."""

import gzip
import json
import sys

import pytest
from calls import CHAT, PRICE, ROLE, run

from stages.core import cli
from stages.tools.replies import main


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))


def asks(n):
    async def work(client):
        for seed in range(n):
            await client.ask(ROLE, CHAT, seed, str.strip)

    return work


@pytest.fixture
def replies(monkeypatch, capsys):
    """Runs the tool for a repository: what it prints, its error if it ends with one."""

    def tool(folder, *words):
        monkeypatch.setenv("DVC_ROOT", str(folder))
        monkeypatch.setattr(sys, "argv", ["replies", *map(str, words)])
        try:
            cli.run(main)
        except SystemExit as e:
            return str(e.code)
        return capsys.readouterr().out

    return tool


@pytest.mark.slow
def test_the_cache_is_seen_shared_and_pruned(server, tmp_path, replies):
    run(server, asks(3), prices={"tiny": PRICE})
    shown = replies(tmp_path, "size")
    assert "3 replies" in shown and "scripted:tiny" in shown and f"{3 * (7000 + 6000) / 1e6:.4f} USD" in shown
    file, back, other = tmp_path / "share.jsonl.gz", tmp_path / "back.jsonl.gz", tmp_path / "other"
    assert "3 replies written" in replies(tmp_path, "export", file)
    assert "3 new replies" in replies(other, "import", file)
    assert "0 new replies" in replies(other, "import", file)
    replies(other, "export", back)
    assert back.read_bytes() == file.read_bytes()
    assert "--days -30: must be 0 or more" in replies(tmp_path, "prune", "--days", "-30")
    assert "0 replies dropped" in replies(tmp_path, "prune", "--days", "1")
    assert "3 replies dropped" in replies(tmp_path, "prune", "--days", "0")
    run(server, asks(3))
    assert len(server.requests) == 6


@pytest.mark.parametrize("content", [b"plain text", None])
def test_a_broken_export_is_named_and_changes_nothing(tmp_path, replies, content):
    file = tmp_path / "bad.jsonl.gz"
    row = {"key": "k", "reply": json.dumps({"text": "x"}), "stage": "s", "role": "r", "model": "m", "created": 1.0,
           "prompt_tokens": 1, "cached_tokens": 0, "completion_tokens": 1, "cost_usd": 0.0}  # fmt: skip
    file.write_bytes(content or gzip.compress(json.dumps(row).encode() + b"\n{broken\n"))
    assert replies(tmp_path, "import", file).startswith(f"error: {file}:{1 if content else 2}: not a row")
    assert "0 replies" in replies(tmp_path, "size")
