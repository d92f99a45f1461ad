"""What faults of a server cost our client, and how near role-play comes to the shortest time possible.

Each row is one run of the client against a local server (benchmarks/server.py: 50 ms a call, 64 in flight) beside the better
of two clean runs in the same invocation. `ideal` is the least that any client can take with 64 places: 2 % of calls at 1 s
are 38 % more work whoever makes them, and one of the last calls is slow or told to wait a second; so the first two rows are
to stay within 1.3 times the larger of the clean run and the ideal. `s / clean` is the plain ratio.
  2 % of calls take 1 s
  1 % of requests are answered 429 with Retry-After 1
  15 s of 503 for everything, from half a second after the beginning
  1 % of requests are answered 400, always: exactly they fail
  SIGKILL at about 1,300 of 2,000 calls, then again from the beginning: calls the server saw twice
Role-play: the real Grower of stages/dialogue/grow.py with answers that take 20-200 ms (by the seed of the call, so that it
is known how long each will take), against the larger of the longest chain of calls that wait for each other and
all work / places.

Run from the root of the repository: python -m benchmarks.faults
"""

import asyncio
import heapq
import multiprocessing
import os
import random
import tempfile
import time
from pathlib import Path

from benchmarks.engine import IN_FLIGHT, LATENCY, ask_all, chat, verdict
from benchmarks.server import POISON, Server, latency_of

CALLS, MANY = 2000, 10000  # MANY: where a second at the very end would otherwise be what is measured
FASTEST, SPREAD = 0.02, 0.18


def run(chats, **faults):
    """Seconds of one run on a new cache, how many calls failed, and what the server saw."""
    with Server(latency=LATENCY, **faults) as server, tempfile.TemporaryDirectory() as new:
        os.environ["DVC_ROOT"] = new
        start = time.perf_counter()
        failed = asyncio.run(ask_all(server.url, chats))
        return time.perf_counter() - start, failed, server.stats()


def shortest(seconds):
    """Least time for calls of these lengths in this order: each takes the place that is free first."""
    places = [0.0] * IN_FLIGHT
    for s in seconds:
        heapq.heapreplace(places, places[0] + s)
    return max(places)


def row(name, chats, clean, ideal, met, **faults):
    """Run and print one row; `met` says of seconds and failed calls whether they will do."""
    seconds, failed, _ = run(chats, **faults)
    print(
        f"| {name} | {len(chats)} | {seconds:.2f} | {clean:.2f} | {seconds / clean:.2f} | {ideal:.2f} "
        f"| {seconds / ideal:.2f} | {failed} | {verdict(met(seconds, failed))} |",
        flush=True,
    )


def within(seconds):
    """The target of 1.3 times `seconds` with no call lost."""
    return lambda s, failed: not failed and s <= 1.3 * seconds


def drive(url, folder):
    """The process that is killed and started again. Its window is what is in flight."""
    os.environ["DVC_ROOT"] = folder
    asyncio.run(ask_all(url, [chat(n, 1) for n in range(CALLS)], window=IN_FLIGHT))


def kill():
    """Calls in flight at the kill, calls paid twice, calls the server saw in all."""
    spawn = multiprocessing.get_context("spawn")
    with Server(latency=LATENCY) as server, tempfile.TemporaryDirectory() as folder:
        first = spawn.Process(target=drive, args=(server.url, folder))
        first.start()
        while server.stats()["requests"] < 1300:
            time.sleep(0.001)
        first.kill()
        in_flight = server.stats()["in_flight"]
        first.join()
        again = spawn.Process(target=drive, args=(server.url, folder))
        again.start()
        again.join()
        assert again.exitcode == 0
        seen = server.stats()
        return in_flight, seen["paid_twice"], seen["requests"]


def params(turns, window, url):
    """Parameters of role-play with every role on the local server and whole histories."""
    from stages.core.params import load
    from stages.llm.settings import Embedded, Limits, Llm
    from stages.roleplay import Params

    p = load("roleplay", Params)
    local = {"model": "local:tiny"}
    talks = {**local, "history": turns}
    changes = {"inducer": local, "preferred": talks, "rejected": talks, "verifier": local}
    roles = {name: getattr(p.roles, name).model_copy(update=change) for name, change in changes.items()}
    server = Limits(base_url=url, concurrency=IN_FLIGHT)
    return Params(
        roleplay=p.roleplay.model_copy(update={"turns": turns}),
        user=p.user.model_copy(update=talks),
        roles=p.roles.model_copy(update=roles),
        encoder=p.encoder,
        llm=Llm(conversations_in_flight=window, embedded=Embedded(), endpoints={"local": server}),
    )


def chains(grower, nodes):
    """(seconds of the longest chain of calls, seconds of all calls) of one grown tree."""
    from stages.core.files import seed_of

    turn_ends, longest, total = 0.0, 0.0, 0.0
    for node in (n for n in nodes if n["role"] == "user"):  # one path: each turn follows the one before
        seeds = {who: grower.seed(node["id"], who) for who in ("inducer", "preferred", "rejected")}
        seeds["user"] = seed_of(grower.p.seed, node["id"], grower.persona.id, "user")
        verdicts = [grower.seed(node["id"], f"verifier {who} first") for who in ("preferred", "rejected")]
        takes = {who: latency_of(seed, FASTEST, SPREAD) for who, seed in seeds.items()}
        judged = sum(latency_of(seed, FASTEST, SPREAD) for seed in verdicts)
        turn_ends += takes["user"] + max(takes["inducer"] + takes["preferred"], takes["rejected"])
        longest = max(longest, turn_ends + judged)
        total += sum(takes.values()) + judged
    return longest, total


def roleplay(people, turns, window):
    """Grow `people` trees; prints the wall time beside its bounds."""
    from stages.dialogue.grow import Grower
    from stages.llm.backend import PaidCalls
    from stages.llm.client import Client
    from stages.personas.persona import Persona
    from stages.roleplay import read_prompts

    files = {"responder-prompts": "responders"}
    prompts = read_prompts(lambda name: Path("prompts/small", files.get(name, name.replace("-prompt", ".txt"))))
    personas = [Persona(" ".join(f"Fact {i} of {n}." for i in range(8)), "I am shy, loud, and odd.") for n in range(people)]

    async def grow(p):
        async with Client(PaidCalls("roleplay", p.llm, {})) as client:
            start = time.perf_counter()
            async with asyncio.TaskGroup() as later:
                growers = [Grower(p.roleplay, p.user, p.roles, client, prompts, later, x) for x in personas]
                trees = await client.in_parallel([grower.grow for grower in growers])
            return (
                time.perf_counter() - start,
                client.ledger.calls,
                [chains(grower, t["nodes"]) for grower, t in zip(growers, trees, strict=True)],
            )

    import openai  # noqa: F401  (what the client imports at its first call)

    with Server(latency=FASTEST, spread=SPREAD) as server, tempfile.TemporaryDirectory() as folder:
        os.environ["DVC_ROOT"] = folder
        seconds, calls, found = asyncio.run(grow(params(turns, window, server.url)))
        assert calls == people * turns * 6 == server.stats()["requests"]
    longest, work = max(x for x, _ in found), sum(x for _, x in found)
    bound = max(longest, work / IN_FLIGHT)
    met = verdict(seconds <= 1.1 * bound)
    print(
        f"| {people} x {turns} turns, {window} at once | {calls} | {seconds:.2f} | {longest:.2f} | {work / IN_FLIGHT:.2f} "
        f"| {seconds / bound:.2f} | {met} |",
        flush=True,
    )


def main():
    """Print both tables."""
    few, many = ([chat(n, 1) for n in range(calls)] for calls in (CALLS, MANY))
    poisoned = set(random.Random(1).sample(range(CALLS), CALLS // 100))
    poison = [
        [{"role": "user", "content": f"{c[0]['content']} {POISON}"}] if n in poisoned else c for n, c in enumerate(few)
    ]
    run(few[:IN_FLIGHT])  # imports
    print("| fault | calls | s | clean run, s | s / clean | ideal, s | s / ideal | failed | target |")
    print("|---|---|---|---|---|---|---|---|---|")
    for chats in (few, many):
        clean = min(run(chats)[0] for _ in range(2))
        usual = shortest([LATENCY] * len(chats))
        slow, limited = shortest(([LATENCY] * 49 + [1.0]) * (len(chats) // 50)), usual + 1
        row("2 % take 1 s", chats, clean, slow, within(max(clean, slow)), slow_every=50)
        row("1 % answer 429", chats, clean, limited, within(max(clean, limited)), limit_every=100)
        if chats is few:
            row("15 s of 503", few, clean, usual + 15, lambda s, n: not n and s <= 19, down_from=0.5, down_for=15.0)
            row("1 % always 400", poison, clean, usual, lambda s, n: n == len(poisoned))
    in_flight, twice, requests = kill()
    met = verdict(twice <= IN_FLIGHT)
    print(
        f"\nSIGKILL with {in_flight} calls at the server: {twice} of {CALLS} paid twice, {requests} requests in all: {met}\n"
    )

    print("| role-play | calls | s | longest chain, s | work / places, s | ratio to the larger | target 1.1 |")
    print("|---|---|---|---|---|---|---|")
    roleplay(people=16, turns=10, window=16)
    roleplay(people=192, turns=10, window=64)


if __name__ == "__main__":
    main()
