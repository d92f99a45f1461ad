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
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import astuple, dataclass
from functools import cache, partial
from operator import add
from pathlib import Path
from typing import Any

from tqdm import tqdm

from stages import calibrate, choose, converse, filter_personas, judge, roleplay, seed_personas
from stages.core import params, prompts
from stages.core.aio import run_async
from stages.core.cli import parser, run
from stages.core.files import Record, read_jsonl, read_text
from stages.core.progress import Progress
from stages.core.prompts import Message
from stages.core.tables import Column, rows, text
from stages.dialogue import assistant, binding, grow
from stages.dialogue.assistant import conversation
from stages.dialogue.transcript import Exchange
from stages.dialogue.user import User
from stages.judging import calibration
from stages.judging.judge import judgings
from stages.llm.cache import Cache, folder_of
from stages.llm.client import Answer, Client, T
from stages.llm.reply import Reply
from stages.llm.request import Request
from stages.llm.servers import Servers
from stages.llm.settings import EMBEDDED, Llm, Price, Role
from stages.personas import persona, seeds
from stages.personas.persona import Persona
from stages.personas.pool import TextPool, chat
from stages.personas.pool import grow as grow_pool
from stages.tools import check, preset
from stages.tools.earlier import dvcs_words, pipeline

ACCEPTANCE = 0.5  # of generated personas, until a run has measured it
USED = 0.6  # of its token limit a reply takes, until a run has measured it
TRAINED = "sft", "dpo", "dpo_round"  # stages
STAND_IN = "Stands in for x"  # how a reply begins that is not stored
READ = {"judge": "1", "verifier": "1", "choose": "A"}  # replies that must be read as a number or a letter, by role


class Unknown(Exception):
    """The walk cannot go on without a reply that is not stored."""


@dataclass
class Need:
    """What one role of one stage needs: replies that are stored by then, and calls to make. NaN: not known."""

    stored: int = 0
    calls: int = 0
    prompt: float = 0.0  # tokens
    completion: float = 0.0  # tokens
    usd: float = 0.0
    seconds: float = 0.0

    def __add__(self, other: "Need") -> "Need":
        return Need(*map(add, astuple(self), astuple(other)))


Needs = dict[str, Need]  # by role


class Replies:
    """The replies that a stage will find: those of the cache, and those that a stage before it will have asked for."""

    def __init__(self, cache: Cache):
        self.cache = cache
        self.asked_for: set[str] = set()  # keys
        # by role and model: mean completion tokens, whether the last one had log-probabilities. Any local model answers at
        # such length, a server only as it did itself. Columns beside MAX are those of the latest reply.
        self.means: dict[tuple[str, str], tuple[float, bool]] = {
            (role, model): (tokens or 0.0, logprobs is not None)
            for role, model, tokens, logprobs, _ in cache.db.execute(
                "SELECT role, CASE WHEN model LIKE 'sha256:%' THEN 'local' ELSE model END, AVG(completion_tokens), "
                "json_type(reply, '$.logprobs'), MAX(created) FROM replies GROUP BY 1, 2"
            )
        }
        self.seconds: dict[tuple[str, str], float | None] = {  # mean of a call, by role and model
            (role, model): seconds
            for role, model, seconds in cache.db.execute(
                "SELECT role, model, AVG(NULLIF(json_extract(reply, '$.seconds'), 0)) FROM replies GROUP BY 1, 2"
            )
        }


class Following(Request):
    """A call whose chat holds a stand-in, so that no reply to it is stored: its key and body are made up."""


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
        self.needs: Needs = defaultdict(Need)
        self._replies, self._missing = replies, missing
        self._roles: dict[tuple[str, str, int], tuple[float, float, bool, Price | None]] = {}  # `_expected`

    async def reply(self, request: Request) -> tuple[Reply, bool]:
        """The stored reply, else one of the length that such replies have."""
        await asyncio.sleep(0)  # nothing else here waits, and only what waits hears Ctrl-C
        stored = None if isinstance(request, Following) else self._replies.cache.get(request.key)
        if stored is None and self._missing:
            raise Unknown
        if stored is not None or request.key in self._replies.asked_for:
            self.needs[request.role.name].stored += 1
        else:
            self.add(request.role, request.messages)
        self._replies.asked_for.add(request.key)
        return (stored, True) if stored is not None else (self._stand_in(request), False)

    async def close(self, interrupted: bool) -> None:
        """Nothing is open."""

    def _expected(self, role: Role) -> tuple[float, float, bool, Price | None]:
        """Of a reply of `role`: completion tokens, seconds, whether it will have log-probabilities; the tokens' price."""
        if (asked := (role.name, role.model, role.tokens)) not in self._roles:
            local = role.model in self.servers.folders
            # trained weights are as fast as the base model, another base model is not
            timed = self.servers.identity(EMBEDDED) if local else role.model
            tokens, logprobs = self._replies.means.get((role.name, "local" if local else role.model), (0.0, True))
            seconds = self._replies.seconds.get((role.name, timed)) or math.nan
            tokens = tokens or USED * (role.tokens + self.servers.wire(role.model).thinking)
            limits = self.servers.limits(role.model)
            width = limits.concurrency * len(limits.urls)
            self._roles[asked] = tokens, seconds / width, logprobs, self.servers.price(role)
        return self._roles[asked]

    def _stand_in(self, request: Request) -> Reply:
        """A reply as long as expected; no two are alike but for numbers."""
        tokens, _, logprobs, _ = self._expected(request.role)
        words = int(tokens) - len(STAND_IN.split())
        text = READ.get(request.role.name) or f"{STAND_IN}{request.key[:12]}" + " word" * words
        if request.role.name == "inducer" and request.role.logprobs:  # a letter, not always the same: no item would gain
            text = "AB"[int(request.key, 16) % 2]
        elif request.role.name == "inducer" and "response_format" in request.body:  # quotes: one more item each turn
            text = json.dumps({"item": (request.messages[-1]["content"].count(STAND_IN) + 1) // 2, "quote": STAND_IN})
        reply: Reply = {"text": text, "finish": "stop"}
        if request.role.logprobs and logprobs:
            reply["logprobs"] = [[text, [[text, 0.0]]]]
        return reply

    def add(self, role: Role, messages: list[Message], calls: int = 1) -> None:
        """Count calls with such messages."""
        # an English token has four letters, and a chat template adds marks
        prompt = sum(len(m["content"]) for m in messages) / 4 + 5 * len(messages)
        completion, seconds, _, price = self._expected(role)
        need = self.needs[role.name]
        need.calls += calls
        need.prompt += calls * prompt
        need.completion += calls * completion
        need.usd += calls * price.usd(prompt, 0, completion) if price else math.nan
        need.seconds += calls * seconds


class Planner(Client):
    """A client whose calls are counted (PlannedCalls)."""

    async def ask(
        self, role: Role, messages: list[Message], seed: int, parse: Callable[[str], T], schema: dict[str, Any] | None = None
    ) -> Answer[T]:
        """An answer; what stands in for a reply is no thought, nor cut, nor drawn again."""
        call = self.request(role, messages, seed, schema)
        if not isinstance(call, Following):
            return await super().ask(role, messages, seed, parse, schema)
        reply, _ = await self.backend.reply(call)
        return Answer(parse(reply["text"]), reply["text"], "ok", 0, reply)

    def request(self, role: Role, messages: list[Message], seed: int, schema: dict[str, Any] | None = None) -> Request:
        """The call. After a stand-in a quick key will do: JSON and SHA-256 of the histories took half of the plan's time."""
        texts = [m["content"] for m in messages]
        if not any(STAND_IN in text for text in reversed(texts)):
            return super().request(role, messages, seed, schema)
        key = hash((self.servers.identity(role.model), role.tokens, seed, *texts))
        return Following(f"{key & (1 << 64) - 1:016x}", "response_format" if schema else "", role, messages, {}, role.tokens)


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

        self.load: Callable[..., Any] = cache(params.load)  # once a stage, not once an arm
        self.stages: dict[str, Stage] = {}
        with dvcs_words(), pipeline() as (repo, status):
            changed = {s for s in repo.index.stages if s.addressing in status}
            stale = changed | {a for s in changed for a in networkx.ancestors(repo.index.graph, s)}
            for s in repo.index.stages:
                words = shlex.split(s.cmd or "")  # none of a .dvc file
                given = {w.removeprefix("--"): v for w, v in itertools.pairwise(words) if w.startswith("--")}
                self.stages[s.addressing] = Stage(given, {str(o) for o in s.outs}, s in stale)

    def stale(self, kind: str) -> list[str]:
        """The stages of a name, or of a foreach, that would run; none of one that dvc.yaml lacks."""
        return [name for name, stage in self.stages.items() if stage.stale and name.partition("@")[0] == kind]

    def path(self, stage: str, argument: str) -> Path:
        """The path that `--argument` of a stage names."""
        return Path(self.stages[stage].arguments[argument])

    def made(self, stage: str, argument: str) -> Path | None:
        """The same, None where a stage has yet to make it."""
        path = self.path(stage, argument)
        return None if any(str(path) in s.outs and s.stale for s in self.stages.values()) else path

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
        limits = self.load("seed_personas", seed_personas.Params).seed_personas
        return seeds.read(self.path("seed_personas", pool), limits)


class Walked(assistant.ModelUnderTest):
    """A model under test that nobody asks."""

    def sees(self, past: list[Exchange], message: str) -> list[Exchange]:
        """As many as the model would see; what stands in for replies is not embedded to find the nearest."""
        if self.memory == "similar" and any(e.message.startswith(STAND_IN) or e.reply.startswith(STAND_IN) for e in past):
            return past[-self.similar :]
        return super().sees(past, message)


class Walk:
    """Goes through the stages of `line` that would run and notes what each needs."""

    def __init__(self, line: Pipeline, replies: Replies):
        self.line, self.replies = line, replies
        self.needs: dict[str, Needs] = {}  # by stage

    def client(
        self, stage: str, p: Any, resamples: int, missing: bool = False, models: dict[str, Path | None] | None = None
    ) -> Client:
        """A client whose calls are counted. `p`: with section llm; `models`: local ones beside the base model."""
        folders = {EMBEDDED: self.line.made(stage, "base"), **(models or {})}
        calls = PlannedCalls(stage, p.llm, folders, self.replies, missing)
        self.needs[stage] = calls.needs
        return Planner(calls, resamples)

    async def personas(self, name: str) -> None:
        """filter_personas: its stored rounds, and as many more calls as the last run's acceptance needs."""
        from stages.text.encoder import Encoder

        p = self.line.load(name, filter_personas.Params)
        f, speaker, metrics = p.filter_personas, filter_personas.generator(p), self.line.path(name, "metrics")
        last = json.loads(read_text(metrics)) if metrics.exists() else {}
        texts = self.line.prompts(name, "profile", "personality")
        async with self.client(name, p, 0, missing=True) as client:
            for pool, prompt in zip(("profiles", "personalities"), texts.values(), strict=True):
                own = seeds.read(self.line.path(name, f"import-{pool}"), p.seed_personas, least=0)
                kind = TextPool(pool, getattr(f, pool), prompt, self.line.seeds(pool), own)
                try:
                    with contextlib.redirect_stderr(io.StringIO()):  # its progress line
                        await grow_pool(kind, f, client, speaker, lambda texts: Encoder(p.encoder)(texts))
                except* Unknown:
                    measured = last.get(pool, {}).get("acceptance", {}).get("mean")
                    share = max(ACCEPTANCE if measured is None else measured, 0.01)
                    left = (kind.settings.target - len(kind.texts)) / (f.calls * f.per_call * share)
                    likely = min(math.ceil(left), f.max_rounds - len(kind.rounds)) * f.calls
                    asked = chat(kind, [t["text"] for t in kind.texts[: f.examples]], f.per_call)
                    assert isinstance(client.backend, PlannedCalls)
                    client.backend.add(speaker, asked, likely)

    async def roleplay(self, name: str, number: int, progress: Progress) -> None:
        """roleplay, of the first round or a later one, of so many personas."""
        given, base = self.line.stages[name].arguments, self.line.path(name, "base")
        policy = Path(given["policy"]) if "policy" in given else None
        p = self.line.load("roleplay", roleplay.Params, given.get("round"))
        p, folders = roleplay.answered_by(policy, p, base)
        models = {model: self.line.made(name, "policy") for model in folders if model != EMBEDDED}
        texts = roleplay.read_prompts(partial(self.line.path, name))
        async with self.client(name, p, p.roleplay.resamples, models=models) as client:
            people = self.line.personas(name, number)
            others = roleplay.strangers(p, people)
            for person in people:
                await grow.whole_tree(p.roleplay, p.user, p.roles, client, texts, person, others.get(person.id))
                progress.step()

    async def converse(self, name: str, number: int, progress: Progress) -> list[Record]:
        """converse of one arm with so many personas; the conversations, for the judge."""
        p, line = self.line.load("converse", converse.Params), self.line
        texts, arm, c = line.prompts(name, "user", "system"), line.stages[name].arguments, p.converse
        model, folder = binding.bound(arm["model"], line.path(name, "weights"), line.path(name, "base"), fetch=False)
        if arm["model"] == binding.LOCAL:
            folder = line.made(name, "weights")
        async with self.client(name, p, c.resamples, models={binding.UNDER_TEST: folder}) as client:
            tested = Walked(c, p.encoder, client, model, texts["system"], arm["strategy"], arm["memory"])
            user, talks = User(client, p.user, texts["user"], c.user_model), []
            beside = converse.questions(c, client, tested, partial(line.path, name))
            for person in line.personas(name, number):
                talks.append(await conversation(client, user, tested, person, c.seed, c.turns))
                await beside.ask(person, talks[-1])
                progress.step()
        return talks

    async def choose(self, name: str) -> None:
        """choose of one arm; weights ask nobody."""
        p, given = self.line.load("choose", choose.Params), self.line.stages[name].arguments
        a = choose.arguments().parse_args([word for key, value in given.items() for word in (f"--{key}", value)])
        if ":" not in a.model or choose.skipped(a, p.choose.arms):
            return
        calls = PlannedCalls(name, p.llm, {}, self.replies)
        self.needs[name] = calls.needs
        async with Planner(calls, 0) as client:
            for job in choose.by_letters(client, p, a, a.model, choose.questions(p, a)):
                await job()

    async def judged(self, name: str, schema: type[calibrate.Params | judge.Params], jobs: Callable[..., Any]) -> None:
        """calibrate, or judge of one arm. `jobs`: what is asked, of a client, section judge and a prompt."""
        p = self.line.load(name.partition("@")[0], schema)
        async with self.client(name, p, p.judge.resamples) as client:
            for job in jobs(client, p.judge, self.line.prompts(name, "judge")["judge"]):
                await job()


async def plan(line: Pipeline, replies: Replies) -> dict[str, Needs]:
    """What each stage that asks models needs. A stage that would not run needs nothing."""
    walk = Walk(line, replies)
    for name in line.stale("filter_personas"):
        await walk.personas(name)
    f = line.load("filter_personas", filter_personas.Params).filter_personas
    rounds, cases = line.stale("roleplay") + line.stale("roleplay_round"), f.eval_profiles * f.eval_personalities
    talks: dict[str, list[Record]] = {}
    with Progress("plan: conversations", f.train * len(rounds) + cases * len(line.stale("converse"))) as progress:
        for name in rounds:
            await walk.roleplay(name, f.train, progress)
        for name in line.stale("calibrate"):
            items = calibration.read(line.path(name, "items"))
            await walk.judged(name, calibrate.Params, partial(calibration.asked, items=items))
        for name in line.stale("converse"):
            talks[name] = await walk.converse(name, cases, progress)
    for name in line.stale("choose"):
        await walk.choose(name)
    for name in line.stale("judge"):
        made = talks.get(name.replace("judge", "converse"))
        of = read_jsonl(line.path(name, "conversations")) if made is None else made
        await walk.judged(name, judge.Params, partial(judgings, cases=of))
    return walk.needs


COLUMNS: list[Column] = [
    ("stage", "stage", str), ("role", "role", str), ("stored", "stored", str), ("to ask", "calls", str),
    ("prompt tokens", "prompt", "{:.0f}".format), ("completion tokens", "completion", "{:.0f}".format),
    ("USD", "usd", lambda usd: "unknown" if math.isnan(usd) else f"{usd:.2f}"),
    ("time", "seconds", lambda seconds: "unknown" if math.isnan(seconds) else tqdm.format_interval(seconds)),
]  # fmt: skip


def table(needs: dict[str, Needs]) -> str:
    """The plan as text, the sum last."""
    named = [(stage, role, need) for stage, roles in needs.items() for role, need in roles.items()]
    every = [*named, ("all", "", sum((need for _, _, need in named), Need()))]
    return text(rows(COLUMNS, [{"stage": stage, "role": role, **vars(need)} for stage, role, need in every]), left=2)


def silent(line: Pipeline, needs: dict[str, Needs]) -> str:
    """The stages that would run and ask nobody, trainings left out: `choose (9), eval`."""
    count = Counter(
        name.partition("@")[0]
        for name, stage in line.stages.items()
        if stage.stale and not name.endswith(".dvc") and not any(need.calls for need in needs.get(name, {}).values())
    )
    return ", ".join(name + (f" ({n})" if n > 1 else "") for name, n in count.items() if name not in TRAINED) or "none"


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--preset", metavar="NAME", help="with the params of presets/NAME.yaml")
    arguments.add_argument("-S", dest="words", metavar="KEY=VALUE", action="append", default=[], help="as of dvc exp run")
    given = arguments.parse_args()
    with preset.applied(given.preset, given.words) if given.preset or given.words else contextlib.nullcontext():
        line = Pipeline()
        with Cache(folder_of(line.load("roleplay", roleplay.Params).llm.cache)) as cache:
            print(table(needs := run_async(plan(line, Replies(cache)))))
        trained = ", ".join(name for kind in TRAINED for name in line.stale(kind)) or "none"
        print(f"Stages to run without calls: {silent(line, needs)}; their time is not foreseen.")
        print(f"Training to run: {trained}. USD: at the prices in llm.endpoints, nothing for local models;")
        print("time: calls only, from stored replies of the same role and model, else unknown. Redraws are not foreseen.")
        print("stored: in the cache by then, also what a line above it will have asked for.")
        values = params.load_yaml("params.yaml")
        for note in [*check.unsent(values), *check.keyless(values)]:
            print(note)


if __name__ == "__main__":
    run(main)
