"""The Batch API: one submission for many calls, found again after a crash, every answer stored once."""

import asyncio
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import calls
import pytest
from calls import PRICE
from conftest import Project, completion, reply_to, respond

from stages.core.cli import UserError
from stages.llm import batch
from stages.llm.cache import Cache
from stages.llm.endpoint import CallFailed

USER = calls.ROLE
JUDGE = calls.changed(USER, name="judge")


class BatchServer:
    """The Batch API as OpenAI documents it, over files; `looks` retrievals until a batch is done."""

    def __init__(self):
        self.files: dict[str, str] = {}
        self.batches: list[dict] = []
        self.online: list[dict] = []
        self.looks = 2
        self.ends = "completed"
        self.refuses: set[str] = set()  # texts whose request fails
        self.unknown = "-"  # part of the paths that are answered by 404
        self.lose_create = False  # the batch is made, but its maker never hears of it
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                data = self.rfile.read(int(self.headers["Content-Length"]))
                if outer.unknown in self.path:
                    respond(self, {"error": {"message": "no such path"}}, 404)
                elif self.path.endswith("/files"):
                    name = f"file-{len(outer.files)}"
                    outer.files[name] = re.search(rb'(\{"custom_id".*\})\r?\n', data, re.S)[1].decode()
                    respond(self, {"id": name, "object": "file", "bytes": 1, "created_at": 1, "filename": "f",
                                 "purpose": "batch", "status": "processed"})  # fmt: skip
                elif self.path.endswith("/batches"):
                    asked = json.loads(data)
                    assert asked["endpoint"] == "/v1/chat/completions" and asked["completion_window"] == "24h"
                    made = {**asked, "id": f"batch-{len(outer.batches)}", "object": "batch", "created_at": 1,
                            "status": "in_progress", "looks": 0}  # fmt: skip
                    outer.batches.append(made)
                    if outer.lose_create:
                        self.close_connection = True
                        return
                    respond(self, made)
                else:
                    body = json.loads(data)
                    outer.online.append(body)
                    respond(self, completion(reply_to(body), body))

            def do_GET(self):
                if self.path.endswith("/content"):
                    respond(self, outer.files[self.path.split("/")[-2]])
                elif "/batches/" in self.path:
                    respond(self, outer.look(self.path.split("/")[-1]))
                elif self.path.endswith("/models"):
                    respond(self, {"object": "list", "data": [{"id": "tiny"}]})
                else:
                    respond(self, {"object": "list", "data": outer.batches, "has_more": False})

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def look(self, name: str) -> dict:
        made = next(b for b in self.batches if b["id"] == name)
        made["looks"] += 1
        if made["looks"] >= self.looks and made["status"] == "in_progress":
            made["status"] = self.ends
            if self.ends == "failed":
                made["errors"] = {"object": "list", "data": [{"code": "x", "message": "the file is too large", "line": 1}]}
            good, bad = [], []
            for line in self.files[made["input_file_id"]].splitlines():
                row = json.loads(line)
                body, said = row["body"], row["body"]["messages"][-1]["content"]
                answer = {"custom_id": row["custom_id"], "error": None}
                if said in self.refuses:
                    refused = {"error": {"message": "context length exceeded"}}
                    bad.append({**answer, "response": {"status_code": 400, "body": refused}})
                elif self.ends == "completed":
                    text = reply_to(body) if body["messages"][0]["role"] == "system" else f"about {said}"
                    good.append({**answer, "response": {"status_code": 200, "body": completion(text, body)}})
            for kind, rows in (("output", good[::-1]), ("error", bad)):  # the API promises no order
                if rows:
                    self.files[f"{name}-{kind}"] = "\n".join(map(json.dumps, rows))
                    made[f"{kind}_file_id"] = f"{name}-{kind}"
        return made


@pytest.fixture
def batches():
    server = BatchServer()
    yield server
    server.http.shutdown()
    server.http.server_close()


def run(server, work, **llm):
    return calls.run(server, work, llm={"batch_roles": ["judge"], "batch_poll_s": 0.05, **llm}, prices={"tiny": PRICE})


def asks(*texts, role=JUDGE):
    async def work(client):
        asked = (client.ask(role, [{"role": "user", "content": t}], 7, str.strip) for t in texts)
        answers = await asyncio.gather(*asked, return_exceptions=True)
        return [
            a.reason if isinstance(a, CallFailed) else a if isinstance(a, Exception) else a.value for a in answers
        ], client

    return work


def test_independent_calls_go_in_one_batch_at_half_the_price(batches):
    async def work(client):
        await asks("first", role=USER)(client)
        mixed = await asyncio.gather(asks("a", "b", "c")(client), asks("online", role=USER)(client))
        return mixed[0][0], client.ledger.metrics(), client.backend.budget.paid

    values, metrics, paid = run(batches, work)
    assert values == ["about a", "about b", "about c"]
    assert len(batches.batches) == 1 and len(batches.online) == 2
    each = (7 * 1000 + 3 * 2000) / 1e6
    assert metrics["judge"]["cost_usd"] == pytest.approx(3 * each / 2) and metrics["user"]["cost_usd"] == 2 * each
    assert paid == pytest.approx(3.5 * each)
    assert run(batches, asks("a", "b", "c"))[0] == values and len(batches.batches) == 1


def interrupted(batches, *texts, until):
    """Ask, and be gone as soon as `until()` holds."""

    async def work(client):
        task = asyncio.create_task(asks(*texts)(client))
        while not until():
            await asyncio.sleep(0.01)
        task.cancel()

    run(batches, work)


def test_a_batch_is_found_again_and_nothing_is_submitted_twice(batches):
    batches.looks = 10**9
    interrupted(batches, "a", "b", "c", until=lambda: batches.batches and batches.batches[0]["looks"] > 1)
    batches.looks = 1
    assert run(batches, asks("b", "d"))[0] == ["about b", "about d"]
    submitted = [
        json.loads(line) for f, text in batches.files.items() if f.startswith("file-") for line in text.splitlines()
    ]
    assert sorted(s["body"]["messages"][0]["content"] for s in submitted) == ["a", "b", "c", "d"]
    assert run(batches, asks("a", "c"), budget_calls=0)[0] == ["about a", "about c"]  # paid for, so stored


def test_the_list_of_a_large_batch_is_read_once_a_round_and_not_for_every_call(batches, monkeypatch):
    texts = [f"text {n}" for n in range(300)]
    batches.looks = 10**9
    interrupted(batches, *texts, until=lambda: batches.batches and batches.batches[0]["looks"] > 0)
    batches.looks, rounds = 1, []
    submitted = batch.Batches._submitted
    monkeypatch.setattr(batch.Batches, "_submitted", lambda self: rounds.append(1) or submitted(self))
    assert run(batches, asks(*texts))[0] == [f"about {text}" for text in texts]
    assert len(batches.batches) == 1 and len(rounds) < 30


def test_a_batch_whose_making_was_cut_short_is_found_at_the_server(batches, monkeypatch):
    monkeypatch.setattr(Cache, "alive", lambda self, owner: owner == self.owner)
    batches.lose_create = True
    interrupted(batches, "a", "b", until=lambda: batches.batches)
    assert len(batches.batches) == 1
    batches.lose_create = False
    assert run(batches, asks("a", "b"))[0] == ["about a", "about b"]
    assert len(batches.batches) == 1


def test_a_batch_that_never_reached_the_server_is_submitted(batches, monkeypatch):
    async def dies(self):
        if self._new:
            row = ("lost", "scripted", "somebody dead", None, json.dumps({key: {} for key in self._new}))
            self._cache.db.execute("INSERT INTO batches VALUES(?,?,?,?,?)", row)
            raise UserError("killed")

    with monkeypatch.context() as m:
        m.setattr(batch.Batches, "_submit", dies)
        assert "killed" in str(run(batches, asks("a"))[0][0])
    assert run(batches, asks("a"))[0] == ["about a"] and len(batches.batches) == 1


def test_a_request_that_fails_inside_a_batch_is_failed_alone(batches):
    batches.refuses = {"b"}
    assert run(batches, asks("a", "b"))[0] == ["about a", "status_400"]


def test_an_expired_batch_leaves_its_calls_to_the_next_run(batches):
    batches.ends = "expired"
    assert run(batches, asks("a"))[0] == ["batch_expired"]
    batches.ends = "completed"
    assert run(batches, asks("a"))[0] == ["about a"]


def test_a_batch_that_fails_stops_the_run_with_its_reason(batches):
    batches.ends = "failed"
    values = run(batches, asks("a"))[0]
    assert isinstance(values[0], UserError) and "batch-0 failed: the file is too large" in str(values[0])


@pytest.mark.slow
def test_verdicts_and_scores_from_a_batch_are_those_asked_for_online(batches, tmp_path, monkeypatch):
    found = {}
    for name, roles in (("online", []), ("batch", ["verifier", "judge"])):
        folder = tmp_path / name
        folder.mkdir()
        monkeypatch.setenv("DVC_ROOT", str(folder))
        project = Project(folder, batches.url)
        project.set(filter_personas__train=3, roleplay__turns=2, converse__turns=2, converse__tokens=20)
        project.set(llm__batch_roles=roles, llm__batch_poll_s=0.05)
        project.run("seed_personas")
        people = project.rows("data/personas/seed_profiles.jsonl"), project.rows("data/personas/seed_personalities.jsonl")
        rows = [{"profile": f["text"], "personality": t["text"]} for f, t in zip(*people, strict=False)][:3]
        (folder / "data/personas/train.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
        project.run("roleplay")
        turns = [
            {"turn": 1, "item": 0, "user": "I fish.", "reply": "Good."},
            {"turn": 2, "item": 1, "user": "x", "reply": "y"},
        ]
        case = {**rows[0], "id": "case", "turns": turns, "ended": None}
        (folder / "data/conversations").mkdir()
        (folder / "data/conversations/base.jsonl").write_text(json.dumps(case) + "\n")
        project.run("judge", "base")
        found[name] = [(folder / f).read_bytes() for f in ("data/trees.jsonl", "data/judgements/base.jsonl")]
    assert found["online"] == found["batch"] and found["batch"][0].count(b"verdicts") == 6
    sizes = [len(text.splitlines()) for name, text in batches.files.items() if name.startswith("file-")]
    assert sizes == [12, 2]  # one batch of all verdicts, one of all scores


def test_a_server_without_a_batch_api_is_named(batches):
    batches.unknown = "/files"
    assert "endpoint scripted: batch: no such path" in str(run(batches, asks("a"))[0][0])


def test_another_model_behind_a_batch_is_not_paid_for_again(batches, monkeypatch):
    honest = completion
    monkeypatch.setitem(globals(), "completion", lambda text, body: {**honest(text, body), "model": "cheaper"})
    refused = run(batches, asks("a", "b"))[0]
    assert all("serves cheaper, not tiny" in str(error) for error in refused)
    again = run(batches, asks("a", "b"), budget_calls=0)[0]
    assert all("serves cheaper, not tiny" in str(error) for error in again) and len(batches.batches) == 1
