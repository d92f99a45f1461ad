"""Calls a second and CPU per call of our client beside others, and how long a stage takes that is all in the cache.

A local server (benchmarks/server.py) answers every call after 50 ms; 64 calls are in flight, so 1,280 calls/s would be
ideal. Every client makes 2,000 calls, in a process of its own, with one message and with 20 messages of 300 characters;
three rounds, clients in turn, medians. Timed is the whole job after a warm-up of 64 calls: for ours including the writes to
the reply cache, for curator including its own files. The clients:
  ours     stages.llm.client.Client
  bare     openai.AsyncOpenAI, typed calls, a semaphore, nothing stored
  curator  bespokelabs-curator, in an environment that this script makes on first use (.cache/bench-curator)

Run from the root of the repository: python -m benchmarks.engine
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.server import TEXT, Server

CALLS, WARM_UP, IN_FLIGHT, LATENCY, ROUNDS, REPLAYED = 2000, 64, 64, 0.05, 3, 20000
CURATOR = "bespokelabs-curator==0.1.31"
ENVIRONMENT = Path(".cache/bench-curator")
FILLER = (TEXT * 3)[:290]


def chat(n, length):
    """Messages of call `n`: `length` of them, about 300 characters each, unlike those of any other call."""
    said = [{"role": "assistant" if i % 2 else "user", "content": FILLER} for i in range(length)]
    said[0] = {"role": "user", "content": f"{n:08d}: {FILLER}"}
    return said


async def ask_all(url, chats, in_flight=IN_FLIGHT, window=2 * IN_FLIGHT, deadline_s=120.0):
    """Ask for `chats` through our client; returns how many failed. Replies go to the cache under $DVC_ROOT.

    The endpoint holds the calls in flight to `in_flight`; `window` is what a stage keeps going at once.
    """
    from functools import partial

    from stages.core.aio import bounded_gather
    from stages.llm.backend import PaidCalls
    from stages.llm.client import Client
    from stages.llm.endpoint import CallFailed
    from stages.llm.settings import Embedded, Limits, Llm, Role

    limits = Limits(base_url=url, concurrency=in_flight, deadline_s=deadline_s)
    role = Role(name="user", model="local:tiny", temp=0.5, top_p=0.9, penalty=0.0, tokens=60)
    settings = Llm(conversations_in_flight=window, embedded=Embedded(), endpoints={"local": limits})
    async with Client(PaidCalls("benchmark", settings, {})) as client:

        async def one(messages):
            try:
                await client.ask(role, messages, 7, str.strip)
            except CallFailed as e:
                return e.reason

        return sum(x is not None for x in await bounded_gather([partial(one, c) for c in chats], window))


def ours(url, length):
    """Returns the function that asks for calls start..stop."""
    import openai  # noqa: F401  (what the client imports at its first call)

    return lambda start, stop: asyncio.run(ask_all(url, [chat(n, length) for n in range(start, stop)]))


def bare(url, length):
    """The loop everybody writes first."""
    import openai

    async def run(start, stop):
        async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
            places = asyncio.Semaphore(IN_FLIGHT)

            async def one(n):
                async with places:
                    answer = await client.chat.completions.create(
                        model="tiny", messages=chat(n, length), temperature=0.5, top_p=0.9, max_tokens=60, seed=7
                    )
                return answer.choices[0].message.content

            await asyncio.gather(*(one(n) for n in range(start, stop)))

    return lambda start, stop: asyncio.run(run(start, stop))


def curator(url, length):
    """As its manual says, with its limits a minute out of the way."""
    import litellm.litellm_core_utils.default_encoding  # noqa: F401  (lets tiktoken find the vocabulary litellm brings along)
    from bespokelabs import curator as library

    class Asker(library.LLM):
        """Asks what the row holds."""

        def prompt(self, row):
            """Messages of a row."""
            return row["messages"]

        def parse(self, row, response):
            """Result row."""
            return {"text": response}

    limits = {"max_requests_per_minute": 10**7, "max_tokens_per_minute": 10**10, "max_concurrent_requests": IN_FLIGHT}
    asker = Asker(
        model_name="tiny",
        backend="openai",
        backend_params={"base_url": url, "api_key": "none", **limits},
        generation_params={"temperature": 0.5, "top_p": 0.9, "max_tokens": 60, "seed": 7},
    )
    return lambda start, stop: asker([{"messages": chat(n, length)} for n in range(start, stop)])


def client_process(name, url, length):
    """What the process of one client does: warm up, make the calls, print seconds and CPU seconds."""
    run = {"ours": ours, "bare": bare, "curator": curator}[name](url, length)
    run(0, WARM_UP)
    start, cpu = time.perf_counter(), time.process_time()
    run(WARM_UP, WARM_UP + CALLS)
    print(json.dumps([time.perf_counter() - start, time.process_time() - cpu]))


def measure(name, length):
    """One round of one client: seconds, CPU seconds, the server's peak of calls at once and its CPU seconds."""
    python = ENVIRONMENT / "bin/python" if name == "curator" else sys.executable
    with Server(latency=LATENCY) as server, tempfile.TemporaryDirectory() as folder:
        # nothing of it may outlive the run or leave the machine: no shared caches, no telemetry, no price list from the net
        closed = {"HOME": folder, "TELEMETRY_ENABLED": "false", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
        files = {"DVC_ROOT": folder, "CURATOR_CACHE_DIR": folder, "CURATOR_DISABLE_RICH_DISPLAY": "1"}
        env = {**os.environ, **closed, **files}
        command = [python, "-m", "benchmarks.engine", "--client", name, "--url", server.url, "--length", str(length)]
        done = subprocess.run(command, env=env, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{name}: {done.stderr[-2000:]}")
        seen = server.stats()
        return [*json.loads(done.stdout.splitlines()[-1]), seen["peak"], seen["cpu_s"]]


def install():
    """Make curator's environment; returns why there is none, or nothing."""
    if (ENVIRONMENT / ".done").exists():
        return ""
    try:
        subprocess.run([sys.executable, "-m", "venv", ENVIRONMENT], check=True, capture_output=True, text=True)
        command = [ENVIRONMENT / "bin/python", "-m", "pip", "install", "-q", CURATOR]
        subprocess.run(command, check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as e:
        return ([""] + [line for line in e.stderr.splitlines() if "ERROR" in line])[-1] or "pip failed"
    (ENVIRONMENT / ".done").touch()
    return ""


def replay(length):
    """Seconds to go through a stage of 20,000 calls whose replies are all stored."""
    chats = [chat(n, length) for n in range(REPLAYED)]
    with tempfile.TemporaryDirectory() as folder, Server(latency=0.0) as server:
        os.environ["DVC_ROOT"] = folder
        asyncio.run(ask_all(server.url, chats))
        start = time.perf_counter()
        asyncio.run(ask_all(server.url, chats))
        seconds = time.perf_counter() - start
        assert server.stats()["requests"] == REPLAYED, "the replay asked the server"
    return seconds


def verdict(met):
    """Word for a target."""
    return "met" if met else "MISSED"


def main():
    """Print the table, the ratios and the replay."""
    missing = install()
    clients = ["ours", "bare"] + ([] if missing else ["curator"])
    ideal = IN_FLIGHT / LATENCY
    print(f"{CALLS} calls, {IN_FLIGHT} in flight, {LATENCY * 1000:.0f} ms each: ideal {ideal:.0f} calls/s\n")
    print("| messages | client | calls/s | of ideal | CPU ms/call | most at once | server's CPU, of the time |")
    print("|---|---|---|---|---|---|---|")
    for length in (1, 20):
        rounds = {c: [] for c in clients}
        for _ in range(ROUNDS):
            for c in clients:
                rounds[c].append(measure(c, length))
        speed = {}
        for c in clients:
            wall, cpu, peak, server = (statistics.median(column) for column in zip(*rounds[c], strict=True))
            speed[c] = CALLS / wall
            print(
                f"| {length} | {c} | {speed[c]:.0f} | {speed[c] / ideal:.0%} | {cpu / CALLS * 1000:.2f} | {peak:.0f} "
                f"| {server / (CALLS + WARM_UP) * CALLS / wall:.0%} |"
            )
        if missing:
            print(f"| {length} | curator | could not be installed: {missing} | | | | |")
        share, ratios = speed["ours"] / ideal, {c: speed["ours"] / speed[c] for c in clients[1:]}
        print(f"\nours / ideal {share:.0%} (target 80 %: {verdict(share >= 0.8)}), ours / bare {ratios['bare']:.2f}", end="")
        if not missing:
            print(f", ours / curator {ratios['curator']:.2f} (target 1.5: {verdict(ratios['curator'] >= 1.5)})", end="")
        print("\n", flush=True)
    for length in (1, 20):
        seconds = replay(length)
        met = verdict(seconds <= 10)
        print(f"replay of {REPLAYED} stored calls, {length} messages: {seconds:.1f} s (target 10 s: {met})", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--client", help="what the script starts itself with")
    parser.add_argument("--url")
    parser.add_argument("--length", type=int)
    arguments = parser.parse_args()
    if arguments.client:
        client_process(arguments.client, arguments.url, arguments.length)
    else:
        main()
