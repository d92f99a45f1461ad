"""Roles that never answer, in every stage that asks them: one line, and no stage is done."""

import json

import pytest
from conftest import complains, reply_to
from fakes import encode

from stages import filter_personas, roleplay

pytestmark = pytest.mark.slow

ROLES = {
    "filter_personas": ["generator"],
    "roleplay": ["user", "inducer", "preferred", "rejected", "verifier"],
    "converse": ["user", "tested"],
    "judge": ["judge"],
    "calibrate": ["judge"],
}
CASES = [(stage, role) for stage, roles in ROLES.items() for role in roles]
SECTION = {stage: "judge" if stage == "calibrate" else stage for stage in ROLES}  # that has max_failed_share
METRICS = {"converse": "converse/base", "judge": "judge/base", "calibrate": "judge/calibration"}
NAMES = {"tested": "model under test"}
PERSON = {"profile": "I fish at sea. I own two boats. My leg hurts. I nap.", "personality": "I am shy, loud, and kind."}
CASE = {**PERSON, "id": "c", "turns": [{"turn": k, "user": f"U{k}", "reply": f"R{k}"} for k in range(1, 11)]}


@pytest.fixture
def ready(project, monkeypatch):
    """The inputs of every stage, as small as they may be; each role is a model of its own name."""
    for stage in (filter_personas, roleplay):
        monkeypatch.setattr(stage, "Encoder", lambda params: encode)
    for role in ROLES["roleplay"][1:]:
        project.params.roles[f"{role}_model"] = f"scripted:{role}"
    for role in ("generator", "user", "judge"):
        project.params[role].model = f"scripted:{role}"
    project.params.arms.base.model = "scripted:tested"
    project.set(filter_personas__profiles__target=26, filter_personas__personalities__target=26, filter_personas__calls=4,
                filter_personas__train=6, filter_personas__eval_profiles=2, roleplay__turns=2,
                converse__turns=2)  # fmt: skip
    (project.folder / "data/conversations").mkdir(parents=True)
    (project.folder / "data/conversations/base.jsonl").write_text(json.dumps(CASE) + "\n")
    project.run("seed_personas")
    for part in ("train", "eval"):
        people = [{**PERSON, "profile": f"I am {n}. {PERSON['profile']}"} for n in range(3)]
        (project.folder / f"data/personas/{part}.jsonl").write_text("".join(json.dumps(p) + "\n" for p in people))
    items = (project.folder / "data/calibration/items.jsonl").read_text().splitlines(keepends=True)
    (project.folder / "data/calibration/items.jsonl").write_text("".join(items[:10]))
    return project


def words(stage):
    return [stage, *(["base"] if stage in ("converse", "judge") else [])]


def spoken(body):
    """What each role says, whatever the request carries besides."""
    return reply_to({"messages": body["messages"], "model": "tiny", "seed": body["seed"]})


def refusing(server, role, answer, which=lambda n: True):
    """A server that refuses those of the calls of `role` whose number `which` picks. Returns the list of its calls."""
    asked = []

    def reply(body):
        if body["model"] == role:
            asked.append(body)
            if which(len(asked)):
                return answer
        return spoken(body)

    server.reply = reply
    return asked


@pytest.mark.parametrize("stage, role", CASES)
def test_a_role_whose_every_call_is_refused_fails_its_stage(ready, server, stage, role):
    asked = refusing(server, role, (400, {"error": {"message": "not today"}}))
    line = ready.run(*words(stage), check=False)
    name = NAMES.get(role, role)
    complains(line, f"{name} (scripted:{role}): {len(asked)} of {len(asked)} calls failed", "status_400", "not today",
              f"{SECTION[stage]}.max_failed_share")  # fmt: skip
    assert asked and not (ready.folder / f"results/{METRICS.get(stage, stage)}.json").exists()


OF_EVERY_CALL = [
    ((401, {"error": {"message": "wrong key"}}), "answers 401: wrong key"),
    ((402, {}), "out of quota or balance"),
    ((404, {"error": {"message": "model not found"}}), "answers 404: model not found"),
    ((429, {"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}}), "out of quota or balance"),
    ((400, {"error": {"message": "Unsupported parameter: 'top_p'"}}), "llm.endpoints.scripted.omit to [top_p]"),
]


@pytest.mark.parametrize("stage, role", CASES)
def test_a_fault_of_every_call_stops_a_stage_at_once(ready, server, stage, role):
    for answer, says in OF_EVERY_CALL:
        asked = refusing(server, role, answer)
        complains(ready.run(*words(stage), check=False), "endpoint scripted", says)
        assert 1 <= len(asked) <= 8  # those under way


@pytest.mark.parametrize("stage, role", [("filter_personas", "generator"), ("roleplay", "verifier"), ("converse", "tested"),
                                         ("judge", "judge"), ("calibrate", "judge")])  # fmt: skip
def test_calls_are_counted_by_role_and_outcome(ready, server, stage, role):
    asked = refusing(server, role, (400, {"error": {"message": "not today"}}), lambda n: n % 4 == 2)
    ready.set(**{f"{SECTION[stage]}__max_failed_share": 0.5})
    ready.run(*words(stage))
    calls = json.loads((ready.folder / f"results/{METRICS.get(stage, stage)}.json").read_text())["calls"]
    counts = {name: (of["asked"], of["answered"], of["failed"]) for name, of in calls.items() if name != "all"}
    assert set(counts) == {NAMES.get(r, r) for r in ROLES[stage]}
    failed = (len(asked) + 2) // 4
    assert failed and counts.pop(NAMES.get(role, role)) == (len(asked), len(asked) - failed, {"status_400": failed})
    assert all(n and n == answered and not failed for n, answered, failed in counts.values())
    ready.set(**{f"{SECTION[stage]}__max_failed_share": 0.0, "llm__cache": "elsewhere"})
    asked.clear()
    complains(ready.run(*words(stage), check=False), f"of {len(asked)} calls failed", f"{SECTION[stage]}.max_failed_share")


def test_one_judge_of_several_that_never_answers_fails_the_stage(ready, server):
    refusing(server, "dead", (400, {"error": {"message": "not today"}}))
    ready.set(judge__models=[*(f"scripted:{n}" for n in range(9)), "scripted:dead"])
    complains(ready.run("judge", "base", check=False), "judge (scripted:dead): 10 of 10 calls failed")


def test_an_answer_that_is_never_a_score_fails_the_stage(ready, server):
    server.reply = lambda body: "between 3 and 4"
    complains(ready.run("judge", "base", check=False), "judge (scripted:judge): 10 of 10 calls failed", "unreadable (10)")
