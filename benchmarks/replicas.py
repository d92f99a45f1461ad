"""Calls a second through 1, 2 and 4 replicas of one endpoint, beside what they could answer.

Each replica is a local server (benchmarks/server.py) that answers a call after 500 ms and gets at most 16 at once, ideally
32 calls/s. Conversations have 5 calls, one after the other; twice as many are under way as the replicas take. Timed is the
whole run after a warm-up, the writes to the reply cache included; three rounds, replicas in turn, medians.

Run from the root of the repository: python -m benchmarks.replicas
"""

import asyncio
import os
import statistics
import tempfile
import time
from collections import defaultdict
from contextlib import ExitStack
from functools import partial

from benchmarks.engine import FILLER
from benchmarks.server import Server

REPLICAS, PLACES, LATENCY, CALLS, SECONDS, ROUNDS = (1, 2, 4), 16, 0.5, 5, 15, 3


async def rate(urls, number):
    """Calls a second of so many conversations, and the client's CPU a call in ms."""
    from stages.llm.backend import PaidCalls
    from stages.llm.client import Client
    from stages.llm.settings import Embedded, Limits, Llm, Role

    role = Role(name="user", model="local:tiny", temp=0.5, top_p=0.9, penalty=0.0, tokens=60)
    limits = Limits(base_url=urls, concurrency=PLACES)
    settings = Llm(conversations_in_flight=2 * PLACES * len(urls), embedded=Embedded(), endpoints={"local": limits})

    async with Client(PaidCalls("benchmark", settings, {})) as client:

        async def talk(name):
            for seed in range(CALLS):
                await client.ask(role, [{"role": "user", "content": f"{name}: {FILLER}"}], seed, str.strip)

        await client.in_parallel([partial(talk, f"warm {n}") for n in range(2 * len(urls))])
        begun, used = time.perf_counter(), time.process_time()
        await client.in_parallel([partial(talk, n) for n in range(number)])
        calls = number * CALLS
        return calls / (time.perf_counter() - begun), 1000 * (time.process_time() - used) / calls


def main():
    """Print a line for each number of replicas."""
    found, shares = defaultdict(list), {}
    for replicas in REPLICAS * ROUNDS:
        with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
            os.environ["DVC_ROOT"] = folder
            servers = [stack.enter_context(Server(latency=LATENCY)) for _ in range(replicas)]
            number = int(replicas * PLACES / LATENCY * SECONDS / CALLS)
            found[replicas].append(asyncio.run(rate([s.url for s in servers], number)))
            shares[replicas] = ", ".join(str(s.stats()["requests"]) for s in servers)
    print("replicas  calls/s  of ideal  CPU ms a call  calls of each replica")
    for replicas, rounds in found.items():
        calls, cpu = map(statistics.median, zip(*rounds, strict=True))
        print(f"{replicas:8}  {calls:7.0f}  {calls * LATENCY / PLACES / replicas:8.2f}  {cpu:13.1f}  {shares[replicas]}")


if __name__ == "__main__":
    main()
