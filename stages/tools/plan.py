"""What the current params would cost: calls, tokens, USD and time by stage and role, before anything is spent.

The stages' own code walks through their conversations; a reply that is stored is taken, one that is not is counted and
stood in for. So the number of calls is exact but for redraws, and for new personas, whose acceptance is the last run's.

Run: python -m stages.tools.plan [--preset NAME] [-S KEY=VALUE ...] (nothing is asked, nothing is written)
"""

import asyncio
import contextlib
import io
import itertools
import json
import math
import os
import shlex
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from stages import calibrate, converse, filter_personas, judge, roleplay, seed_personas
from stages.core import params, prompts
from stages.core.aio import asking
from stages.core.cli import parser, run
from stages.core.files import Record, read_jsonl, read_text
from stages.core.progress import Progress, span
from stages.core.prompts import Message
from stages.dialogue import assistant, binding, grow
from stages.dialogue.conversation import conversation
from stages.dialogue.transcript import Exchange
from stages.dialogue.user import User
from stages.judging import calibration
from stages.judging.judge import judgings
from stages.llm.batch import DISCOUNT
from stages.llm.client import Client
from stages.llm.settings import EMBEDDED, Llm, Role
from stages.personas import persona, seeds
from stages.personas.persona import Persona
from stages.personas.pool import TextPool, chat
from stages.personas.pool import grow as grow_pool
from stages.tools import check, preset

ACCEPTANCE = 0.5  # of generated personas, until a run has measured it
USED = 0.6  # of its token limit a reply takes, until a run has measured it
STAND_IN = "1 stands in for x"  # how a reply begins that is not stored; a verdict and a score can be read from it


class Unknown(Exception):
    """The walk cannot go on without a reply that is not stored."""


@dataclass
class Need:
    """What one role of one stage needs: replies that are stored by then, and calls to make with their tokens and seconds."""

    stored: int = 0
    calls: int = 0
    prompt: float = 0.0
    completion: float = 0.0
    usd: float | None = 0.0
    seconds: float | None = 0.0


@dataclass
class Means:
    """Mean completion tokens and seconds of the stored replies, by role and model, and if the last told probabilities."""

    completion: dict[tuple[str, str], float] = field(default_factory=dict)
    seconds: dict[tuple[str, str], float] = field(default_factory=dict)
    tells: dict[tuple[str, str], bool] = field(default_factory=dict)


class Planner(Client):
    """A client that asks nobody. `missing`: raise Unknown instead of standing in for a reply."""

    def __init__(
        self,
        stage: str,
        settings: Llm,
        folders: dict[str, Path | None],
        resamples: int,
        seen: set[str],
        missing: bool = False,
    ):
        known = {name: folder or Path(os.devnull) for name, folder in folders.items()}
        super().__init__(stage, settings, known, resamples)
        self.needs: dict[str, Need] = {}
        self._missing, self._seen = missing, seen
        self.means = Means()
        # a local model answers at such length and as fast before its training as after it; a server only as it did itself.
        # Columns beside MAX are those of the latest reply.
        for name, model, tokens, seconds, told, _ in self.cache.db.execute(
            "SELECT role, CASE WHEN model LIKE 'sha256:%' THEN 'local' ELSE model END, AVG(completion_tokens), "
            "AVG(NULLIF(json_extract(reply, '$.seconds'), 0)), json_type(reply, '$.logprobs'), MAX(created) "
            "FROM replies GROUP BY 1, 2"
        ):
            self.means.completion[name, model], self.means.seconds[name, model] = tokens, seconds
            self.means.tells[name, model] = told is not None

    def model_identity(self, model: str) -> str:
        """As of the client; None for a local model stands for one that a stage has yet to make."""
        yet_to_make = self.folders.get(model) == Path(os.devnull)
        if not yet_to_make:
            return super().model_identity(model)
        return model if model == EMBEDDED else f"{model} of {self.stage}"

    async def _reply(self, role: Role, messages: list[Message], seed: int, schema: dict[str, Any] | None) -> dict[str, Any]:
        await asyncio.sleep(0)  # nothing else here waits, and only what waits hears Ctrl-C
        key, _ = self.request(role, messages, seed, schema)
        need = self.needs.setdefault(role.name, Need())
        stored = self.cache.get(key)
        if stored is None and self._missing:
            raise Unknown
        if stored is not None or key in self._seen:
            need.stored += 1
        else:
            chars = sum(len(m["content"]) for m in messages)
            self._add(need, role, chars / 4 + 5 * len(messages))  # an English token, and a chat template's marks
        self._seen.add(key)
        # no two are alike, and each is as long as such replies are
        words = int(self._length(role)) - len(STAND_IN.split())
        stand_in: dict[str, Any] = {"text": f"{STAND_IN}{key[:12]}" + " word" * words, "finish": "stop"}
        if self._tells(role):
            stand_in["logprobs"] = [["1", [["1", 0.0]]]]
        return stored or stand_in

    def _tells(self, role: Role) -> bool:
        """Whether the server tells the log-probabilities that `role` asks for: as its last reply to it did, else yes."""
        if not role.logprobs:
            return False
        return self.means.tells.get((role.name, self._bucket(role)), True)

    def _bucket(self, role: Role) -> str:
        """What the means of a role's model are kept under."""
        return "local" if role.model in self.folders else role.model

    def _length(self, role: Role) -> float:
        """Completion tokens that a reply is expected to have."""
        return self.means.completion.get((role.name, self._bucket(role))) or USED * role.tokens

    def _add(self, need: Need, role: Role, prompt: float) -> None:
        completion = self._length(role)
        need.calls += 1
        need.prompt += prompt
        need.completion += completion
        if role.model in self.folders:
            usd: float | None = 0.0
            width = self.settings.embedded.concurrency
        else:
            endpoint, served = role.model.split(":", 1)
            limits = self.settings.limits(endpoint)
            price, width = limits.prices.get(served), limits.concurrency
            usd = price.usd(prompt, 0, completion) * (DISCOUNT if self.batched(role) else 1) if price else None
        need.usd = None if usd is None or need.usd is None else need.usd + usd
        seconds = self.means.seconds.get((role.name, self._bucket(role)))
        need.seconds = None if seconds is None or need.seconds is None else need.seconds + seconds / width

    def more(self, role: Role, calls: int, like: list[Message]) -> None:
        """Count `calls` calls whose messages are not known yet but about as long as `like`."""
        need = self.needs.setdefault(role.name, Need())
        for _ in range(calls):
            self._add(need, role, sum(len(m["content"]) for m in like) / 4 + 5 * len(like))


@dataclass
class Stage:
    """A stage of dvc.yaml: its arguments by name, its outputs, and whether DVC would run it."""

    arguments: dict[str, str]
    outs: set[str]
    stale: bool


class Pipeline:
    """dvc.yaml as DVC sees it now."""

    def __init__(self) -> None:
        import networkx
        from dvc.repo import Repo

        self.stages: dict[str, Stage] = {}
        with Repo(config={"core": {"no_scm": True}}) as repo:
            status = repo.status()
            changed = {s for s in repo.index.stages if s.addressing in status}
            stale = changed | {a for s in changed for a in networkx.ancestors(repo.index.graph, s)}
            for s in repo.index.stages:
                words = shlex.split(s.cmd)
                given = {w.removeprefix("--"): v for w, v in itertools.pairwise(words) if w.startswith("--")}
                self.stages[s.addressing] = Stage(given, {str(o) for o in s.outs}, s in stale)

    def stale(self, name: str) -> bool:
        """Whether stage `name` would run; one that dvc.yaml lacks would not."""
        return name in self.stages and self.stages[name].stale

    def path(self, stage: str, argument: str) -> Path:
        """The path that `--argument` of a stage names."""
        return Path(self.stages[stage].arguments[argument])

    def made(self, stage: str, argument: str) -> Path | None:
        """The same, None where a stage has yet to make it."""
        path = self.path(stage, argument)
        return None if any(str(path) in s.outs and s.stale for s in self.stages.values()) else path

    def named(self, kind: str) -> list[str]:
        """Stages of a foreach."""
        return [name for name in self.stages if name.partition("@")[0] == kind]

    def prompts(self, stage: str, *names: str) -> dict[str, prompts.Prompt]:
        """Prompt files of a stage by role."""
        return {n: prompts.load(self.path(stage, f"{n}-prompt")) for n in names}

    def personas(self, stage: str, number: int) -> list[Persona]:
        """Personas that a stage reads, or `number` stand-ins as long as the seeds where they are yet to be made."""
        path = self.made(stage, "personas")
        if path is not None:
            return persona.read(path)
        people, characters = self.seeds("profiles"), self.seeds("personalities")
        pairs = [(people[n % len(people)]["text"], characters[n % len(characters)]["text"]) for n in range(number)]
        return [Persona(f"{profile} My number is {n}.", traits) for n, (profile, traits) in enumerate(pairs)]

    def seeds(self, pool: str) -> list[Record]:
        """The seed texts of a pool."""
        limits = params.load("seed_personas", seed_personas.Params).seed_personas
        return seeds.read(self.path("seed_personas", pool), limits)


class Walked(assistant.ModelUnderTest):
    """A model under test that nobody asks."""

    def sees(self, past: list[Exchange], message: str) -> list[Exchange]:
        """As many as the model would see; what stands in for replies is not embedded to find the nearest."""
        if self.memory == "similar" and any(e.message.startswith(STAND_IN) or e.reply.startswith(STAND_IN) for e in past):
            return past[-self.similar :]
        return super().sees(past, message)


async def plan_personas(line: Pipeline, seen: set[str]) -> dict[str, Need]:
    """filter_personas: its stored rounds, and as many more calls as the last run's acceptance needs."""
    from stages.text.encoder import Encoder

    name = "filter_personas"
    p = params.load(name, filter_personas.Params)
    f, speaker = p.filter_personas, filter_personas.generator(p)
    metrics = line.path(name, "metrics")
    last = json.loads(read_text(metrics)) if metrics.exists() else {}
    texts = line.prompts(name, "profile", "personality")
    async with Planner(name, p.llm, {EMBEDDED: line.made(name, "base")}, 0, seen, missing=True) as client:
        for pool, prompt in zip(("profiles", "personalities"), texts.values(), strict=True):
            settings = getattr(f, pool)
            seeds = line.seeds(pool)
            kind = TextPool(pool, settings, prompt, seeds)
            try:
                with contextlib.redirect_stderr(io.StringIO()):  # its progress line
                    await grow_pool(kind, f, client, speaker, lambda texts: Encoder(p.encoder)(texts))
            except* Unknown:
                measured = last.get(pool, {}).get("acceptance", {}).get("mean")
                share = ACCEPTANCE if measured is None else measured
                left = (settings.target - len(kind.texts)) / (f.calls * f.per_call * max(share, 0.01))
                likely = min(math.ceil(left), f.max_rounds - len(kind.rounds))
                client.more(
                    speaker,
                    likely * f.calls,
                    chat(kind, [t["text"] for t in seeds[: f.examples]], f.per_call),
                )
    return client.needs


async def plan_roleplay(line: Pipeline, seen: set[str], progress: Progress) -> dict[str, Need]:
    """roleplay, walked through."""
    p = params.load("roleplay", roleplay.Params)
    texts = line.prompts("roleplay", "user", "inducer", "preferred", "rejected", "verifier")
    number = params.load("filter_personas", filter_personas.Params).filter_personas.train
    folders = {EMBEDDED: line.made("roleplay", "base")}
    async with Planner("roleplay", p.llm, folders, p.roleplay.resamples, seen) as client:
        for person in line.personas("roleplay", number):
            await grow.whole_tree(p.roleplay, p.user, p.roles, client, texts, person)
            progress.step()
    return client.needs


async def plan_converse(
    line: Pipeline, name: str, seen: set[str], progress: Progress
) -> tuple[dict[str, Need], list[Record]]:
    """converse with one model, walked through, and what it gives the judge."""
    p = params.load("converse", converse.Params)
    texts, arm = line.prompts(name, "user", "system"), line.stages[name].arguments
    f = params.load("filter_personas", filter_personas.Params).filter_personas
    model, folder = binding.bound(arm["model"], line.path(name, "weights"), line.path(name, "base"), fetch=False)
    if arm["model"] == binding.LOCAL:
        folder = line.made(name, "weights")
    folders = {EMBEDDED: line.made(name, "base"), binding.UNDER_TEST: folder}
    async with Planner(name, p.llm, folders, p.converse.resamples, seen) as client:
        tested = Walked(p.converse, p.encoder, client, model, texts["system"], arm["strategy"], arm["memory"])
        people, c = line.personas(name, f.eval_profiles * f.eval_personalities), p.converse
        user = User(client, p.user, texts["user"])
        talks = []
        for person in people:
            talks.append(await conversation(client, user, tested, person, c.seed, c.turns))
            progress.step()
        return client.needs, talks


async def plan_calibrate(line: Pipeline, seen: set[str]) -> dict[str, Need]:
    """calibrate, walked through."""
    name = "calibrate"
    p = params.load(name, calibrate.Params)
    prompt = line.prompts(name, "judge")["judge"]
    async with Planner(name, p.llm, {EMBEDDED: line.made(name, "base")}, p.judge.resamples, seen) as client:
        for job in calibration.asked(client, p.judge, prompt, calibration.read(line.path(name, "items"))):
            await job()
    return client.needs


async def plan_judge(line: Pipeline, name: str, cases: list[Record], seen: set[str]) -> dict[str, Need]:
    """judge of one model, walked through."""
    p = params.load("judge", judge.Params)
    prompt = line.prompts(name, "judge")["judge"]
    async with Planner(name, p.llm, {EMBEDDED: line.made(name, "base")}, p.judge.resamples, seen) as client:
        for job in judgings(client, p.judge, prompt, cases):
            await job()
    return client.needs


async def plan(line: Pipeline) -> dict[str, dict[str, Need]]:
    """What each stage that asks models needs, by role. A stage that would not run needs nothing."""
    needs: dict[str, dict[str, Need]] = {}
    seen: set[str] = set()  # a reply that an earlier stage of the plan asks for is there when a later one needs it
    if line.stale("filter_personas"):
        needs["filter_personas"] = await plan_personas(line, seen)
    f = params.load("filter_personas", filter_personas.Params).filter_personas
    arms = [name for name in line.named("converse") if line.stale(name)]
    number = f.train * line.stale("roleplay") + f.eval_profiles * f.eval_personalities * len(arms)
    talks: dict[str, list[Record]] = {}
    with Progress("plan: conversations", number) as progress:
        if line.stale("roleplay"):
            needs["roleplay"] = await plan_roleplay(line, seen, progress)
        if line.stale("calibrate"):
            needs["calibrate"] = await plan_calibrate(line, seen)
        for name in arms:
            needs[name], talks[name] = await plan_converse(line, name, seen, progress)
    for name in line.named("judge"):
        if line.stale(name):
            talk = name.replace("judge", "converse")
            cases = talks[talk] if talk in talks else read_jsonl(line.path(name, "conversations"))
            needs[name] = await plan_judge(line, name, cases, seen)
    return needs


def table(needs: dict[str, dict[str, Need]]) -> str:
    """The plan as text."""
    head = ["stage", "role", "stored", "to ask", "prompt tokens", "completion tokens", "USD", "time"]
    rows = [head]
    every = [need for roles in needs.values() for need in roles.values()]
    named = [(stage, name, need) for stage, roles in needs.items() for name, need in roles.items()]
    for stage, name, need in [*named, ("all", "", total(every))]:
        rows.append(
            [
                stage, name, str(need.stored), str(need.calls), f"{need.prompt:.0f}", f"{need.completion:.0f}",
                "unknown" if need.usd is None else f"{need.usd:.2f}",
                "unknown" if need.seconds is None else span(need.seconds),
            ]
        )  # fmt: skip
    widths = [max(len(r[i]) for r in rows) for i in range(len(head))]
    return "\n".join(
        "  ".join(c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(r, widths, strict=True))) for r in rows
    )


def total(needs: list[Need]) -> Need:
    """Sum; None where a part is unknown."""
    sums = Need()
    for f in fields(Need):
        values = [getattr(n, f.name) for n in needs]
        setattr(sums, f.name, None if None in values else sum(values))
    return sums


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--preset", metavar="NAME", help="with the params of presets/NAME.yaml")
    arguments.add_argument("-S", dest="words", metavar="KEY=VALUE", action="append", default=[], help="as of dvc exp run")
    given = arguments.parse_args()
    with preset.applied(given.preset, given.words) if given.preset or given.words else contextlib.nullcontext():
        show()


def show() -> None:
    """Print the plan of the current params."""
    line = Pipeline()
    needs = asking(plan(line))
    print(table(needs))
    trained = [name for name in ("sft", "dpo") if line.stale(name)]
    print(f"Training to run: {', '.join(trained) or 'none'}. USD: at the prices in llm.endpoints, nothing for local models;")
    print("time: calls only, from the stored replies' own, unknown for a role that has none. Redraws are not foreseen.")
    print("stored: in the cache by then, also what a line above it will have asked for.")
    for note in check.keyless(params.load_yaml("params.yaml")):
        print(note)


if __name__ == "__main__":
    run(main)
