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
from dataclasses import dataclass, fields
from pathlib import Path

from stages import calibrate, converse, filter_personas, judge, roleplay, seed_personas
from stages.core import params, prompts
from stages.core.aio import run_async
from stages.core.cli import parser, run
from stages.core.files import Record, read_jsonl, read_text
from stages.core.progress import Progress
from stages.core.prompts import Message
from stages.dialogue import assistant, binding, grow
from stages.dialogue.conversation import conversation
from stages.dialogue.transcript import Exchange
from stages.dialogue.user import User
from stages.judging import calibration
from stages.judging.judge import judgings
from stages.llm.cache import Cache, folder_of
from stages.llm.client import Client
from stages.llm.reply import Reply
from stages.llm.request import Request
from stages.llm.servers import Servers
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


Needs = dict[str, Need]  # by role


class Replies:
    """The replies that a stage will find: those of the cache, and those that a stage before it will have asked for."""

    def __init__(self, cache: Cache):
        self.cache = cache
        self.asked_for: set[str] = set()  # keys
        # by role and model: mean completion tokens, mean seconds, whether the last one had log-probabilities. A local model
        # answers at such length and as fast before its training as after it; a server only as it did itself. Columns beside
        # MAX are those of the latest reply.
        self.means: dict[tuple[str, str], tuple[float | None, float | None, bool]] = {
            (role, model): (tokens, seconds, logprobs is not None)
            for role, model, tokens, seconds, logprobs, _ in cache.db.execute(
                "SELECT role, CASE WHEN model LIKE 'sha256:%' THEN 'local' ELSE model END, AVG(completion_tokens), "
                "AVG(NULLIF(json_extract(reply, '$.seconds'), 0)), json_type(reply, '$.logprobs'), MAX(created) "
                "FROM replies GROUP BY 1, 2"
            )
        }


class PlannedCalls:
    """A backend that asks nobody: a reply that is not stored is counted and stood in for.

    Args:
        folders: local models by the name that a role calls them; None for one that a stage has yet to make.
        missing: raise Unknown instead of standing in for a reply.
    """

    def __init__(self, stage: str, settings: Llm, folders: dict[str, Path | None], replies: Replies, missing: bool = False):
        self.servers = Servers(settings, {name: folder or Path(os.devnull) for name, folder in folders.items()})
        yet_to_make = [name for name, folder in folders.items() if folder is None]
        self.servers.identities.update({n: n if n == EMBEDDED else f"{n} of {stage}" for n in yet_to_make})
        self.needs: Needs = {}
        self._replies, self._missing = replies, missing

    async def reply(self, request: Request) -> tuple[Reply, bool]:
        """The stored reply, else one of the length that such replies have."""
        await asyncio.sleep(0)  # nothing else here waits, and only what waits hears Ctrl-C
        stored = self._replies.cache.get(request.key)
        if stored is None and self._missing:
            raise Unknown
        need = self.needs.setdefault(request.role.name, Need())
        if stored is not None or request.key in self._replies.asked_for:
            need.stored += 1
        else:
            self.add(request.role, request.messages)
        self._replies.asked_for.add(request.key)
        return (stored, True) if stored is not None else (self._stand_in(request), False)

    async def close(self, interrupted: bool) -> None:
        """Nothing is open."""

    def _means(self, role: Role) -> tuple[float, float | None, bool]:
        """Completion tokens and seconds that a reply is expected to take, and whether it will have log-probabilities."""
        model = "local" if role.model in self.servers.folders else role.model
        tokens, seconds, logprobs = self._replies.means.get((role.name, model), (None, None, True))
        return tokens or USED * (role.tokens + self.servers.wire(role.model).thinking), seconds, logprobs

    def _stand_in(self, request: Request) -> Reply:
        """A reply as long as expected; no two are alike."""
        tokens, _, logprobs = self._means(request.role)
        words = int(tokens) - len(STAND_IN.split())
        reply: Reply = {"text": f"{STAND_IN}{request.key[:12]}" + " word" * words, "finish": "stop"}
        if request.role.logprobs and logprobs:
            reply["logprobs"] = [["1", [["1", 0.0]]]]
        return reply

    def add(self, role: Role, messages: list[Message], calls: int = 1) -> None:
        """Count calls with such messages."""
        # an English token has four letters, and a chat template adds marks
        prompt = sum(len(m["content"]) for m in messages) / 4 + 5 * len(messages)
        completion, seconds, _ = self._means(role)
        price, width = self.servers.price(role), self.servers.limits(role.model).concurrency
        usd = price.usd(prompt, 0, completion) if price else None
        need = self.needs.setdefault(role.name, Need())
        need.calls += calls
        need.prompt += calls * prompt
        need.completion += calls * completion
        need.usd = None if usd is None or need.usd is None else need.usd + calls * usd
        need.seconds = None if seconds is None or need.seconds is None else need.seconds + calls * seconds / width


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
        """The handwritten texts of a pool."""
        limits = params.load("seed_personas", seed_personas.Params).seed_personas
        return seeds.read(self.path("seed_personas", pool), limits)


class Walked(assistant.ModelUnderTest):
    """A model under test that nobody asks."""

    def sees(self, past: list[Exchange], message: str) -> list[Exchange]:
        """As many as the model would see; what stands in for replies is not embedded to find the nearest."""
        if self.memory == "similar" and any(e.message.startswith(STAND_IN) or e.reply.startswith(STAND_IN) for e in past):
            return past[-self.similar :]
        return super().sees(past, message)


async def plan_personas(line: Pipeline, replies: Replies) -> Needs:
    """filter_personas: its stored rounds, and as many more calls as the last run's acceptance needs."""
    from stages.text.encoder import Encoder

    name = "filter_personas"
    p = params.load(name, filter_personas.Params)
    f, speaker = p.filter_personas, filter_personas.generator(p)
    metrics = line.path(name, "metrics")
    last = json.loads(read_text(metrics)) if metrics.exists() else {}
    calls = PlannedCalls(name, p.llm, {EMBEDDED: line.made(name, "base")}, replies, missing=True)
    async with Client(calls, 0) as client:
        for pool, prompt in zip(
            ("profiles", "personalities"), line.prompts(name, "profile", "personality").values(), strict=True
        ):
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
                calls.add(speaker, chat(kind, [t["text"] for t in seeds[: f.examples]], f.per_call), likely * f.calls)
    return calls.needs


async def plan_roleplay(line: Pipeline, replies: Replies, progress: Progress) -> Needs:
    """roleplay, walked through."""
    p = params.load("roleplay", roleplay.Params)
    texts = line.prompts("roleplay", "user", "inducer", "preferred", "rejected", "verifier")
    number = params.load("filter_personas", filter_personas.Params).filter_personas.train
    calls = PlannedCalls("roleplay", p.llm, {EMBEDDED: line.made("roleplay", "base")}, replies)
    async with Client(calls, p.roleplay.resamples) as client:
        for person in line.personas("roleplay", number):
            await grow.whole_tree(p.roleplay, p.user, p.roles, client, texts, person)
            progress.step()
    return calls.needs


async def plan_converse(line: Pipeline, name: str, replies: Replies, progress: Progress) -> tuple[Needs, list[Record]]:
    """converse with one model, walked through, and what it gives the judge."""
    p = params.load("converse", converse.Params)
    texts, arm = line.prompts(name, "user", "system"), line.stages[name].arguments
    f = params.load("filter_personas", filter_personas.Params).filter_personas
    model, folder = binding.bound(arm["model"], line.path(name, "weights"), line.path(name, "base"), fetch=False)
    if arm["model"] == binding.LOCAL:
        folder = line.made(name, "weights")
    folders = {EMBEDDED: line.made(name, "base"), binding.UNDER_TEST: folder}
    calls = PlannedCalls(name, p.llm, folders, replies)
    async with Client(calls, p.converse.resamples) as client:
        tested = Walked(p.converse, p.encoder, client, model, texts["system"], arm["strategy"], arm["memory"])
        user, c = User(client, p.user, texts["user"]), p.converse
        talks = []
        for person in line.personas(name, f.eval_profiles * f.eval_personalities):
            talks.append(await conversation(client, user, tested, person, c.seed, c.turns))
            progress.step()
    return calls.needs, talks


async def plan_calibrate(line: Pipeline, replies: Replies) -> Needs:
    """calibrate, walked through."""
    name = "calibrate"
    p = params.load(name, calibrate.Params)
    prompt = line.prompts(name, "judge")["judge"]
    calls = PlannedCalls(name, p.llm, {EMBEDDED: line.made(name, "base")}, replies)
    async with Client(calls, p.judge.resamples) as client:
        for job in calibration.asked(client, p.judge, prompt, calibration.read(line.path(name, "items"))):
            await job()
    return calls.needs


async def plan_judge(line: Pipeline, name: str, cases: list[Record], replies: Replies) -> Needs:
    """judge of one model, walked through."""
    p = params.load("judge", judge.Params)
    prompt = line.prompts(name, "judge")["judge"]
    calls = PlannedCalls(name, p.llm, {EMBEDDED: line.made(name, "base")}, replies)
    async with Client(calls, p.judge.resamples) as client:
        for job in judgings(client, p.judge, prompt, cases):
            await job()
    return calls.needs


async def plan(line: Pipeline, replies: Replies) -> dict[str, Needs]:
    """What each stage that asks models needs. A stage that would not run needs nothing."""
    needs: dict[str, Needs] = {}
    if line.stale("filter_personas"):
        needs["filter_personas"] = await plan_personas(line, replies)
    f = params.load("filter_personas", filter_personas.Params).filter_personas
    arms = [name for name in line.named("converse") if line.stale(name)]
    number = f.train * line.stale("roleplay") + f.eval_profiles * f.eval_personalities * len(arms)
    talks: dict[str, list[Record]] = {}
    with Progress("plan: conversations", number) as progress:
        if line.stale("roleplay"):
            needs["roleplay"] = await plan_roleplay(line, replies, progress)
        if line.stale("calibrate"):
            needs["calibrate"] = await plan_calibrate(line, replies)
        for name in arms:
            needs[name], talks[name] = await plan_converse(line, name, replies, progress)
    for name in line.named("judge"):
        if line.stale(name):
            talk = name.replace("judge", "converse")
            cases = talks[talk] if talk in talks else read_jsonl(line.path(name, "conversations"))
            needs[name] = await plan_judge(line, name, cases, replies)
    return needs


def planned(line: Pipeline) -> dict[str, Needs]:
    """The plan of the current params; nothing is asked, nothing is stored."""
    settings = params.load("roleplay", roleplay.Params).llm
    with Cache(folder_of(settings.cache)) as cache:
        return run_async(plan(line, Replies(cache)))


def table(needs: dict[str, Needs]) -> str:
    """The plan as text."""
    from tqdm import tqdm

    head = ["stage", "role", "stored", "to ask", "prompt tokens", "completion tokens", "USD", "time"]
    rows = [head]
    every = [need for roles in needs.values() for need in roles.values()]
    named = [(stage, name, need) for stage, roles in needs.items() for name, need in roles.items()]
    for stage, name, need in [*named, ("all", "", total(every))]:
        rows.append(
            [
                stage, name, str(need.stored), str(need.calls), f"{need.prompt:.0f}", f"{need.completion:.0f}",
                "unknown" if need.usd is None else f"{need.usd:.2f}",
                "unknown" if need.seconds is None else tqdm.format_interval(need.seconds),
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
    print(table(planned(line)))
    trained = [name for name in ("sft", "dpo") if line.stale(name)]
    print(f"Training to run: {', '.join(trained) or 'none'}. USD: at the prices in llm.endpoints, nothing for local models;")
    print("time: calls only, from the stored replies' own, unknown for a role that has none. Redraws are not foreseen.")
    print("stored: in the cache by then, also what a line above it will have asked for.")
    values = params.load_yaml("params.yaml")
    for note in [*check.unsent(values), *check.keyless(values)]:
        print(note)


if __name__ == "__main__":
    run(main)
