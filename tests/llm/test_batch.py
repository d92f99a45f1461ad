"""The Batch API: one submission for many calls, found again after a crash, every answer stored once."""

import asyncio
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import calls
import pytest
from calls import PRICE
from conftest import Project, complains, completion, reply_to, respond

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
        self.times = 10**9  # that a batch ends so; later ones are completed
        self.lists_expired = False  # calls that expired are in the file of errors
        self.refuses: set[str] = set()  # texts whose request fails
        self.refusal = "context length exceeded"
        self.queue = 10**9  # calls of a batch that it has room for
        self.says = lambda said: f"about {said}"
        self.spell = json.dumps  # a row of a result file
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
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def look(self, name: str) -> dict:
        made = next(b for b in self.batches if b["id"] == name)
        made["looks"] += 1
        if made["looks"] >= self.looks and made["status"] == "in_progress":
            ends, self.times = self.ends if self.times else "completed", self.times - 1
            lines = self.files[made["input_file_id"]].split("\n")
            error = {"code": "x", "message": "the file is too large", "line": 1}
            if len(lines) > self.queue:
                ends, error = "failed", {"code": "token_limit_exceeded", "message": "too many queued tokens"}
            made["status"] = ends
            if ends == "failed":
                made["errors"] = {"object": "list", "data": [error]}
                return made
            good, bad = [], []
            for line in lines:
                row = json.loads(line)
                body, said = row["body"], row["body"]["messages"][-1]["content"]
                answer = {"custom_id": row["custom_id"], "error": None}
                if said in self.refuses:
                    refused = {"error": {"message": self.refusal}}
                    bad.append({**answer, "response": {"status_code": 400, "body": refused}})
                elif ends == "expired" and self.lists_expired:
                    bad.append({**answer, "response": None, "error": {"code": "batch_expired", "message": "too late"}})
                elif ends == "completed":
                    text = reply_to(body) if body["messages"][0]["role"] == "system" else self.says(said)
                    good.append({**answer, "response": {"status_code": 200, "body": completion(text, body)}})
            for kind, rows in (("output", good[::-1]), ("error", bad)):  # the API promises no order
                if rows:
                    self.files[f"{name}-{kind}"] = "\n".join(map(self.spell, rows))
                    made[f"{kind}_file_id"] = f"{name}-{kind}"
        return made


@pytest.fixture
def batches():
    server = BatchServer()
    yield server
    server.http.shutdown()
    server.http.server_close()


def run(server, work, **llm):
    llm = {"batch_roles": ["judge"], "batch_poll_s": 0.05, **llm}
    return calls.run(server, work, llm=llm, prices={"tiny": PRICE}, deadline_s=5.0)


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


@pytest.mark.parametrize("last", [JUDGE, USER])
def test_a_batch_does_not_wait_for_calls_that_wait_for_the_budget(batches, last):
    async def work(client):
        found = await asyncio.wait_for(asyncio.gather(asks("a", "b")(client), asks("c", role=last)(client)), 5)
        return [value for values, _ in found for value in values]

    *values, error = run(batches, work, budget_calls=2)
    assert values == ["about a", "about b"] and "llm.budget_calls: 2 calls are made" in str(error)


def test_a_batch_does_not_wait_for_a_call_that_is_in_it(batches):
    assert run(batches, lambda client: asyncio.wait_for(asks("a", "a")(client), 5))[0] == ["about a", "about a"]


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
    assert run(batches, asks("a", "b"))[0] == ["about a", "context_overflow"]


@pytest.mark.parametrize("row", [True, False])
def test_calls_of_an_expired_batch_are_asked_again(batches, row):
    """Whether the server lists them among the errors or not at all."""
    batches.ends, batches.times, batches.lists_expired = "expired", 1, row
    assert run(batches, asks("a", "b"))[0] == ["about a", "about b"] and len(batches.batches) == 2


@pytest.mark.slow
def test_calls_that_expire_every_time_fail_and_are_left_to_the_next_run(batches):
    batches.ends = "expired"
    assert run(batches, asks("a"))[0] == ["batch_expired"] and len(batches.batches) == batch.ATTEMPTS
    batches.ends = "completed"
    assert run(batches, asks("a"))[0] == ["about a"]


def test_a_batch_cancelled_at_the_server_stops_the_run(batches):
    batches.ends = "cancelled"
    (error,) = run(batches, asks("a"))[0]
    assert isinstance(error, UserError) and "batch-0 was cancelled at the server" in str(error)
    batches.ends = "completed"
    assert run(batches, asks("a"))[0] == ["about a"]


def test_a_line_break_of_another_kind_in_an_answer_breaks_no_line(batches):
    odd = "about \u2028 \x85 \x0b \x1c it"
    batches.spell = lambda row: json.dumps(row, ensure_ascii=False)
    batches.says = lambda said: odd
    assert run(batches, asks("a", "b"))[0] == [odd, odd]


BAD_LINES = ['{"custom_id": "', "null", "[]", '{"custom_id": 3}', '{"custom_id": "KEY", "response": 5}', "{}",
             '{"custom_id": "KEY", "response": {"status_code": 200, "body": {"choices": []}}}',
             '{"custom_id": "KEY", "response": {"status_code": 200, "body": {"choices": [{"message": {"content": 5}}]}}}',
             '{"custom_id": "KEY", "response": {"status_code": 200, "body": "text"}}']  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("bad", BAD_LINES)
def test_one_bad_line_loses_one_call(batches, bad):
    def spell(row):
        broken = row["response"]["body"]["choices"][0]["message"]["content"] == "about b"
        return bad.replace("KEY", row["custom_id"]) if broken else json.dumps(row)

    batches.spell = spell
    values, _ = run(batches, asks("a", "b", "c"))
    assert values[0] == "about a" and values[2] == "about c"
    assert values[1] in ("malformed", "status_400", "batch_completed")
    batches.spell = json.dumps
    assert run(batches, asks("a", "b", "c"))[0] == ["about a", "about b", "about c"]


def test_half_a_character_in_an_answer_is_replaced(batches):
    batches.says = lambda said: "half \ud83d"
    assert run(batches, asks("a"))[0] == ["half \ufffd"] == run(batches, asks("a"), budget_calls=0)[0]


def sizes(batches):
    """Calls of each file that was submitted."""
    return [text.count("\n") + 1 for name, text in batches.files.items() if name.startswith("file-")]


@pytest.mark.slow
@pytest.mark.parametrize(
    "limit, expected",
    [({"batch_calls": 2}, [2, 2, 1]), ({"batch_mb": 0.0007}, [2, 2, 1]), ({"batch_tokens": 45}, [2, 2, 1])],
)
def test_files_are_bounded_by_calls_bytes_and_tokens(batches, limit, expected):
    texts = [f"text {n}" for n in range(5)]
    assert run(batches, asks(*texts), **limit)[0] == [f"about {text}" for text in texts]
    assert sizes(batches) == expected
    for name, text in batches.files.items():
        assert not name.startswith("file-") or "batch_mb" not in limit or len(text) <= 700


def test_a_call_that_is_larger_than_a_file_may_be_goes_alone(batches):
    assert run(batches, asks("x" * 3000, "b"), batch_mb=0.001)[0][1] == "about b" and sizes(batches) == [1, 1]


@pytest.mark.slow
def test_a_batch_refused_for_queued_tokens_is_submitted_again_in_smaller_ones(batches):
    batches.queue = 2  # calls that it takes at once
    texts = [f"text {n}" for n in range(5)]
    assert run(batches, asks(*texts))[0] == [f"about {text}" for text in texts]
    assert sizes(batches)[0] == 5 and max(sizes(batches)[-3:]) <= 2


def test_a_single_call_that_the_queue_is_too_small_for_stops_the_run(batches):
    batches.queue = 0
    (error,) = run(batches, asks("a"))[0]
    assert "queued tokens" in str(error) and "llm.batch_tokens" in str(error) and len(batches.batches) == 1


def test_a_parameter_refused_in_a_batch_stops_the_run_with_the_setting(batches):
    batches.refuses, batches.refusal = {"a"}, "Unsupported parameter: 'max_tokens' is not supported with this model."
    values = run(batches, asks("a", "b"))[0]
    assert all("llm.endpoints.scripted.omit to [max_tokens]" in str(v) for v in values)
    assert run(batches, asks("b"), budget_calls=0)[0] == ["about b"]  # what came is kept


def test_a_batch_that_fails_stops_the_run_with_its_reason(batches):
    batches.ends = "failed"
    values = run(batches, asks("a"))[0]
    assert isinstance(values[0], UserError) and "batch-0 failed: the file is too large" in str(values[0])


@pytest.mark.slow
def test_a_judge_whose_batch_expired_is_asked_again_and_its_stage_fails_where_all_expire(batches, tmp_path):
    project = Project(tmp_path, batches.url)
    project.set(llm__batch_roles=["judge"], llm__batch_poll_s=0.05)
    case = {"id": "c", "profile": "I fish.", "personality": "I am shy.", "turns": [{"turn": 1, "user": "U", "reply": "R"}]}
    (tmp_path / "data/conversations").mkdir()
    (tmp_path / "data/conversations/base.jsonl").write_text(json.dumps(case) + "\n")
    batches.ends = "expired"
    complains(project.run("judge", "base", check=False), "judge (scripted:tiny): 1 of 1 calls failed", "batch_expired (1)")
    assert len(batches.batches) == batch.ATTEMPTS and not (tmp_path / "results/judge/base.json").exists()
    batches.times = 1
    project.run("judge", "base")
    assert [row["score"] is None for row in project.rows("data/judgements/base.jsonl")] == [False]
    assert len(batches.batches) == batch.ATTEMPTS + 2


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
