"""The plan: what is to be asked is known before it is asked."""

import json
import math
import signal
import subprocess
from pathlib import Path

import pytest
from conftest import a_round, complains, completion

from stages import roleplay
from stages.core import params
from stages.core.aio import run_async
from stages.core.files import root
from stages.llm.cache import Cache
from stages.llm.servers import Servers
from stages.llm.settings import EMBEDDED, Role
from stages.text import encoder
from stages.tools import plan

pytestmark = pytest.mark.slow


@pytest.fixture
def planned(project, monkeypatch):
    """The scripted project as a DVC repository."""
    monkeypatch.chdir(project.folder)
    for words in (["git", "init", "-q"], ["dvc", "init", "-q"]):
        subprocess.run(words, check=True)
    project.with_code()
    project.set(
        filter_personas__train=4, filter_personas__eval_profiles=2, roleplay__turns=3, converse__turns=3, converse__tokens=20
    )
    return project


def planned_needs(line=plan.Pipeline):
    with Cache(root()) as cache:
        return run_async(plan.plan(line(), plan.Replies(cache)))


def calls() -> dict[str, int]:
    needs = planned_needs()
    return {f"{stage} {role}": need.calls for stage, roles in needs.items() for role, need in roles.items()}


def test_the_plan_of_a_first_run_is_what_is_then_asked(planned, server):
    planned.set(rounds={"2": a_round()})
    wanted = calls()
    # with the seed of the first round, users that are shown no reply say the same: stored by then
    assert wanted["roleplay_round@2 user"] == wanted["roleplay_round@2 inducer"] == 0
    assert wanted["roleplay_round@2 preferred"] == wanted["roleplay_round@2 rejected"] == 12
    assert wanted["roleplay user"] == wanted["roleplay rejected"] == 12 and wanted["roleplay verifier"] == 24
    assert wanted["judge@dpo judge"] == 12 and wanted["converse@sft user"] == 0 and wanted["converse@base user"] == 6
    assert wanted["calibrate judge"] == 120 and wanted["converse@critique model under test"] == 3 * 6 - 2
    table = plan.table(planned_needs())
    assert "roleplay" in table and "unknown" in table  # no price, no time yet
    for stage in ("seed_personas", "filter_personas", "roleplay"):
        planned.run(stage)
    made = len(server.requests)
    ahead = sum(n for name, n in wanted.items() if name.startswith(("filter_personas ", "roleplay ")))
    assert made * 0.85 <= ahead <= made * 1.15, (wanted, made)


def test_more_calls_for_personas_where_the_last_run_kept_few(planned):
    def wanted(mean):
        found = {"acceptance": {"mean": mean}}
        written = planned.folder / "results/filter_personas.json"
        written.parent.mkdir(parents=True, exist_ok=True)
        written.write_text(json.dumps({"profiles": found, "personalities": found}))
        return planned_needs()["filter_personas"]["generator"].calls

    planned.set(filter_personas__profiles__target=40, filter_personas__personalities__target=40,
                filter_personas__calls=1, filter_personas__max_rounds=100)  # fmt: skip
    assert wanted(1.0) < wanted(None) < wanted(0.2) <= 2 * planned.params.filter_personas.max_rounds


def test_imported_texts_that_reach_the_target_need_no_calls(planned, server):
    for pool, read in (("profiles", "facts"), ("personalities", "traits")):
        texts = [f"I own {n} {read}. I like it. I am {n}. I sing. I run." for n in range(4)]
        Path(f"data/mine_{pool}.jsonl").write_text("".join(json.dumps(text) + "\n" for text in texts))
        planned.set(**{f"filter_personas__import_{pool}": f"data/mine_{pool}.jsonl", f"filter_personas__{pool}__target": 28})
    assert planned_needs()["filter_personas"] == {}
    planned.run("seed_personas")
    planned.run("filter_personas")
    assert not server.requests
    planned.set(filter_personas__drop_similar_imports=True)
    assert planned_needs()["filter_personas"]["generator"].calls


def test_local_weights_are_as_fast_as_replies_of_the_same_base_model_were(planned, base):
    llm = roleplay.Params.model_validate({k: params.load_yaml("params.yaml")[k] for k in roleplay.Params.model_fields}).llm

    def seconds(folder: Path | None) -> float:
        calls = plan.PlannedCalls("roleplay", llm, {EMBEDDED: folder, "trained": None}, plan.Replies(cache))
        calls.add(Role(name="user", model="trained", temp=0.0, top_p=1.0, penalty=0.0, tokens=9), [])
        return calls.needs["user"].seconds

    with Cache(root()) as cache:
        assert math.isnan(seconds(base))
        insert = "INSERT INTO replies(key, reply, role, model) VALUES(?, ?, 'user', ?)"
        for model, took in ((Servers(llm, {EMBEDDED: base}).identity(EMBEDDED), 8.0), ("sha256:other", 800.0)):
            cache.db.execute(insert, (model, json.dumps({"seconds": took}), model))
        assert seconds(base) == 8.0 / llm.embedded.concurrency
        assert math.isnan(seconds(None))  # the stage base_model is yet to fetch another one


@pytest.mark.parametrize("tells", [True, False])
def test_the_plan_of_an_evaluation_is_exactly_what_is_then_asked(planned, server, monkeypatch, tells):
    """Every arm, every judge and the calibration, stage by stage; all models are served."""
    for arm in planned.params.arms.values():
        arm.model = f"scripted:{arm.weights}"
    planned.set(
        judge__models=["scripted:a", "scripted:b"],
        judge__samples=2,
        judge__temp=0.5,
        converse__similar=1,
        choose__most=2,
        converse__probes=1,
        converse__read_out=[2],
    )
    scripted = server.reply

    def reply(body):
        answer = completion(scripted(body), body)
        if tells and "logprobs" in body:
            token = answer["choices"][0]["message"]["content"]
            answer["choices"][0]["logprobs"] = {
                "content": [{"token": token, "top_logprobs": [{"token": token, "logprob": 0}]}]
            }
        return 200, answer

    server.reply = reply
    planned.run("seed_personas")
    planned.run("filter_personas")
    if not tells:  # that a server tells no probabilities is known from its first reply on
        planned.run("calibrate")

    class Line(plan.Pipeline):
        """The same, as if DVC took the personas for up to date."""

        def __init__(self):
            super().__init__()
            self.stages["filter_personas"].stale = self.stages["seed_personas"].stale = False

    with monkeypatch.context() as without:  # what stands in for replies is not worth an embedding
        without.delattr(encoder.Encoder, "__call__")
        needs = planned_needs(Line)
    looked = 0
    for stage in (
        "calibrate",
        *(f"{kind}@{arm}" for kind in ("converse", "choose", "judge") for arm in planned.params.arms),
    ):
        before = len(server.requests)
        planned.run(*stage.split("@"))
        assert len(server.requests) - before == sum(need.calls for need in needs.get(stage, {}).values()), stage
        looked += len(server.requests) - before
    assert looked > 250


def test_what_the_cache_holds_is_not_to_be_asked(planned, server):
    for stage in ("seed_personas", "filter_personas", "roleplay"):
        planned.run(stage)
    asked = len(server.requests)

    class Line(plan.Pipeline):
        """The same, as if DVC took the personas for up to date."""

        def __init__(self):
            super().__init__()
            self.stages["filter_personas"].stale = self.stages["seed_personas"].stale = False

    def calls():
        needs = planned_needs(Line)
        return {name: need.calls for name, need in needs["roleplay"].items()}

    assert not any(calls().values())
    planned.set(roleplay__turns=5)
    more = calls()
    assert more["user"] == 2 * 4 and more["verifier"] == 2 * 8
    planned.run("roleplay")
    assert len(server.requests) - asked == sum(more.values())


def test_prices_and_times(planned, server):
    planned.set(llm__endpoints__scripted__prices={"tiny": {"prompt": 10.0, "completion": 30.0}})
    need = planned_needs()["roleplay"]["verifier"]
    assert need.usd == pytest.approx((need.prompt * 10 + need.completion * 30) / 1e6) and math.isnan(need.seconds)
    planned.set(llm__batch_roles=["verifier"])
    half = planned_needs()["roleplay"]["verifier"]
    assert half.usd == pytest.approx(need.usd / 2)
    planned.set(llm__batch_roles=[])
    for stage in ("seed_personas", "filter_personas", "roleplay"):
        planned.run(stage)
    planned.set(roleplay__seed=2)
    assert planned_needs()["roleplay"]["user"].seconds > 0


def test_a_fault_of_the_params_is_one_line(planned):
    planned.set(roleplay__turns=0)
    complains(planned._run(["stages.tools.plan"], check=False), "roleplay.turns")


def test_what_dvc_refuses_is_one_line(planned):
    planned.set(dpo__start="dpo")
    complains(planned._run(["stages.tools.plan"], check=False), "a dependency and an output in stage: dpo", "tools.check")


def test_an_endpoint_that_is_not_named_is_one_line(planned):
    planned.set(user__model="nowhere:x")
    complains(planned._run(["stages.tools.plan"], check=False), "endpoint 'nowhere': not among llm.endpoints")


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_ends_the_plan_at_once(planned, monkeypatch, times):
    looked_up = []
    reply = plan.PlannedCalls.reply

    async def interrupted(*args):
        looked_up.append(1)
        if 50 <= len(looked_up) < 50 + times:
            signal.raise_signal(signal.SIGINT)
        return await reply(*args)

    monkeypatch.setattr(plan.PlannedCalls, "reply", interrupted)
    with pytest.raises(KeyboardInterrupt):
        planned_needs()
    assert 50 <= len(looked_up) < 60


def test_the_plan_of_a_change(planned):
    def row(*words):
        done = planned._run(["stages.tools.plan", *words], check=True)
        return next(line.split() for line in done.stdout.splitlines() if line.startswith("roleplay") and " user " in line)

    Path("data/note.txt.dvc").write_text(f"outs: [{{path: note.txt, md5: {'a' * 32}}}]")  # a stage without a command
    before = Path("params.yaml").read_bytes()
    said = planned._run(["stages.tools.plan"], check=True).stdout
    assert "\nStages to run without calls: base_model, seed_personas, extract_pairs, choose (8), eval; their time" in said
    assert row()[3] == "12" and row("-S", "roleplay.turns=5", "-S", "dpo.beta=0.3")[3] == "20"
    assert Path("params.yaml").read_bytes() == before
    for word, told in (
        ("roleplay.trns=5", "'roleplay.trns'. (did you mean roleplay.turns?)"),
        ("roleplay.turns=0", "roleplay.turns"), ("roleplay.turns", "roleplay.turns"),
    ):  # fmt: skip
        complains(planned._run(["stages.tools.plan", "-S", word], check=False), told)


def test_an_inducer_that_is_asked_piece_by_piece(planned):
    planned.set(prompts="natural", roles__inducer_form="letters")
    letters = 4 * 3 * 2 * (2 + 1)  # a stand-in has two pieces
    assert letters < calls()["roleplay inducer"] <= letters + 4 * 3 * 2  # each of which may show its item


def test_a_key_that_is_not_there_is_told(planned):
    planned.set(llm__endpoints__scripted__key_env="NO_SUCH_KEY")
    for module in ("stages.tools.plan", "stages.tools.check"):
        (told,) = (x for x in planned._run([module], check=True).stdout.splitlines() if "NO_SUCH_KEY" in x)
        assert told.startswith("endpoint scripted: NO_SUCH_KEY is neither")
        (planned.folder / ".env").write_text("NO_SUCH_KEY=sk-1\n")
        said = planned._run([module], check=True)
        assert "NO_SUCH_KEY" not in said.stdout + said.stderr and "sk-1" not in said.stdout + said.stderr
        (planned.folder / ".env").unlink()


def test_lengths_are_those_of_the_same_model(planned):
    def tokens():
        return planned_needs()["roleplay"]["user"].completion / 12

    guessed = tokens()
    for stage in ("seed_personas", "filter_personas", "roleplay"):
        planned.run(stage)
    planned.set(roleplay__seed=2)
    measured = tokens()
    assert measured != guessed == plan.USED * planned.params.user.tokens
    planned.set(user__model="scripted:other", llm__endpoints__scripted__aliases={"other": "tiny"})
    assert tokens() == guessed
