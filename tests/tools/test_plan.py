"""The plan: what is to be asked is known before it is asked."""

import contextlib
import json
import signal
from pathlib import Path

import pytest
from conftest import Project, Server, complains, completion
from repository import as_dvc_sees_it

from stages.core.aio import run_async
from stages.core.files import root
from stages.llm.cache import Cache
from stages.text import encoder
from stages.tools import plan


def prepare(project):
    """The scripted project as a small DVC repository, with one arm more that remembers similar exchanges."""
    as_dvc_sees_it(project)
    similar = {"model": "local", "weights": "base", "prompt": "assistant", "strategy": "reply", "memory": "similar"}
    project.set(
        arms__similar=similar, filter_personas__train=4, filter_personas__eval_profiles=2, roleplay__turns=3,
        converse__turns=3, converse__tokens=20,
    )  # fmt: skip
    return project


@pytest.fixture
def planned(project, monkeypatch):
    """A project of which nothing was run."""
    monkeypatch.chdir(project.folder)
    return prepare(project)


@pytest.fixture(scope="module")
def first_run(tmp_path_factory):
    """(project that grew its trees, its server, the plan before that)."""
    server = Server()
    project = prepare(Project(tmp_path_factory.mktemp("grown"), server.url))
    with contextlib.chdir(project.folder):
        needs = plan.planned(plan.Pipeline())
        for stage in ("seed_personas", "filter_personas", "roleplay"):
            project.run(stage)
    yield project, server, needs
    server.stop()


@pytest.fixture
def grown(first_run, monkeypatch):
    """That project; its params are afterwards what they were."""
    project, server, _ = first_run
    monkeypatch.chdir(project.folder)
    before = project.params.copy()
    yield project, server
    project.params = before
    project.write()


class Line(plan.Pipeline):
    """The pipeline as if DVC took the personas for up to date."""

    def __init__(self):
        super().__init__()
        self.stages["filter_personas"].stale = self.stages["seed_personas"].stale = False


@pytest.mark.slow
def test_the_plan_of_a_first_run_is_what_is_then_asked(first_run):
    _, server, needs = first_run
    wanted = {f"{stage} {role}": need.calls for stage, roles in needs.items() for role, need in roles.items()}
    assert wanted["roleplay user"] == wanted["roleplay rejected"] == 12 and wanted["roleplay verifier"] == 24
    assert wanted["judge@dpo judge"] == 12 and wanted["converse@sft user"] == 0 and wanted["converse@base user"] == 6
    assert wanted["calibrate judge"] == 120 and wanted["converse@critique model under test"] == 3 * 6 - 2
    assert wanted["converse@similar model under test"] == 0  # as long as no more is remembered than it shows
    assert "roleplay" in plan.table(needs) and "unknown" in plan.table(needs)  # no price, no time yet
    made = len(server.requests)
    ahead = sum(n for name, n in wanted.items() if name.startswith(("filter_personas", "roleplay")))
    assert made * 0.85 <= ahead <= made * 1.15, (wanted, made)


@pytest.mark.slow
def test_prices_times_and_lengths_are_those_of_the_same_model(grown, first_run):
    project, _ = grown

    def need(role, **values):
        project.set(**values)
        return plan.planned(plan.Pipeline())["roleplay"][role]

    guessed = first_run[2]["roleplay"]["user"]
    assert guessed.completion == pytest.approx(12 * plan.USED * project.params.user.tokens) and guessed.seconds is None
    prices = {"tiny": {"prompt": 10.0, "completion": 30.0}}
    paid = need("verifier", roleplay__seed=2, llm__endpoints__scripted__prices=prices)
    assert paid.calls and paid.usd == pytest.approx((paid.prompt * 10 + paid.completion * 30) / 1e6)
    assert need("verifier", llm__batch_roles=["verifier"]).usd == pytest.approx(paid.usd / 2)
    measured = need("user")
    assert (
        measured.seconds > 0 and measured.completion != pytest.approx(guessed.completion) and measured.calls == guessed.calls
    )
    other = need("user", user__model="scripted:other", llm__endpoints__scripted__aliases={"other": "tiny"})
    assert other.completion == pytest.approx(guessed.completion) and other.seconds is None


@pytest.mark.slow
def test_what_the_cache_holds_is_not_to_be_asked(grown):
    project, server = grown
    asked = len(server.requests)

    def calls():
        return {name: need.calls for name, need in plan.planned(Line())["roleplay"].items()}

    assert not any(calls().values())
    project.set(roleplay__turns=5)
    more = calls()
    assert more["user"] == 2 * 4 and more["verifier"] == 2 * 8
    project.run("roleplay")
    assert len(server.requests) - asked == sum(more.values())


def test_more_calls_for_personas_where_the_last_run_kept_few(planned):
    def wanted(mean):
        found = {"acceptance": {"mean": mean}}
        written = planned.folder / "results/filter_personas.json"
        written.parent.mkdir(parents=True, exist_ok=True)
        written.write_text(json.dumps({"profiles": found, "personalities": found}))
        with Cache(root()) as cache:
            need = run_async(plan.plan_personas(plan.Pipeline(), plan.Replies(cache)))
        return need["generator"].calls

    planned.set(filter_personas__profiles__target=40, filter_personas__personalities__target=40,
                filter_personas__calls=1, filter_personas__max_rounds=100)  # fmt: skip
    assert wanted(1.0) < wanted(None) < wanted(0.2) <= 2 * planned.params.filter_personas.max_rounds


@pytest.mark.slow
@pytest.mark.parametrize("tells", [True, False])
def test_the_plan_of_an_evaluation_is_exactly_what_is_then_asked(planned, server, monkeypatch, tells):
    """Every arm, every judge and the calibration, stage by stage; all models are served."""
    for arm in planned.params.arms.values():
        arm.model = f"scripted:{arm.weights}"
    planned.set(judge__models=["scripted:a", "scripted:b"], judge__samples=2, judge__temp=0.5, converse__similar=1)
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

    with monkeypatch.context() as without:  # what stands in for replies is not worth an embedding
        without.delattr(encoder.Encoder, "__call__")
        needs = plan.planned(Line())
    looked = 0
    for stage in ("calibrate", *(f"{kind}@{arm}" for kind in ("converse", "judge") for arm in planned.params.arms)):
        before = len(server.requests)
        planned.run(*stage.split("@"))
        assert len(server.requests) - before == sum(need.calls for need in needs[stage].values()), stage
        looked += len(server.requests) - before
    assert looked > 250


def test_a_fault_of_the_params_is_one_line(planned):
    planned.set(roleplay__turns=0)
    complains(planned._run(["stages.tools.plan"], check=False), "roleplay.turns")


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
        plan.planned(plan.Pipeline())
    assert 50 <= len(looked_up) < 60


def test_the_plan_of_a_change(planned):
    def row(*words):
        done = planned._run(["stages.tools.plan", *words], check=True)
        return next(line.split() for line in done.stdout.splitlines() if line.startswith("roleplay") and " user " in line)

    before = Path("params.yaml").read_bytes()
    assert row()[3] == "12" and row("-S", "roleplay.turns=5", "-S", "dpo.beta=0.3")[3] == "20"
    assert Path("params.yaml").read_bytes() == before
    for word, told in (
        ("roleplay.trns=5", "roleplay.trns"), ("roleplay.turns=0", "roleplay.turns"), ("roleplay.turns", "roleplay.turns"),
    ):  # fmt: skip
        complains(planned._run(["stages.tools.plan", "-S", word], check=False), told)


def test_a_key_that_is_not_there_is_told(planned):
    planned.set(llm__endpoints__scripted__key_env="NO_SUCH_KEY")
    for module in ("stages.tools.plan", "stages.tools.check"):
        (told,) = (x for x in planned._run([module], check=True).stdout.splitlines() if "NO_SUCH_KEY" in x)
        assert told.startswith("endpoint scripted: NO_SUCH_KEY is neither")
        (planned.folder / ".env").write_text("NO_SUCH_KEY=sk-1\n")
        said = planned._run([module], check=True)
        assert "NO_SUCH_KEY" not in said.stdout + said.stderr and "sk-1" not in said.stdout + said.stderr
        (planned.folder / ".env").unlink()
