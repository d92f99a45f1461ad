"""A chat-completions server for the benchmarks: one canned answer after a given time, faults where asked for.

It speaks just enough HTTP/1.1 on an asyncio protocol to cost a few hundredths of a millisecond a call, so that a client's
own speed is what is measured. `Server` runs it in a process of its own; `stats` says what it saw and the CPU it took.
"""

import asyncio
import json
import re
import subprocess
import sys
import time
import urllib.request
from collections import Counter

TEXT = "1 I mend nets on the quay and my knee hurts on the stairs, so what can I do about it before the boats go out? "
ANSWER = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "tiny",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": TEXT * 2}}],
    "usage": {"prompt_tokens": 70, "completion_tokens": 60, "total_tokens": 130},
}
POISON = "poison"  # a request with this word in it is answered 400, always


class Faults:
    """How long an answer takes and which requests get none; what was seen so far."""

    def __init__(self, latency=0.05, spread=0.0, slow_every=0, limit_every=0, down_from=0.0, down_for=0.0):
        self.latency, self.spread = latency, spread  # spread: added by the request's seed, see `latency_of`
        self.slow_every, self.limit_every = slow_every, limit_every  # every so many requests one takes 1 s / gets 429
        self.down_from, self.down_for = down_from, down_for  # seconds after the first request: 503 for all
        self.start = None
        self.requests = self.in_flight = self.peak = 0
        self.bodies = Counter()

    def answer(self, body):
        """(seconds to wait, status line, further headers, body) for a request."""
        now = time.monotonic()
        self.start = self.start or now
        self.requests += 1
        if self.down_from <= now - self.start < self.down_from + self.down_for:
            return 0.0, "503 Service Unavailable", "", {"error": {"message": "down"}}
        if self.limit_every and self.requests % self.limit_every == 0:
            return 0.0, "429 Too Many Requests", "Retry-After: 1\r\n", {"error": {"message": "rate limit"}}
        if POISON.encode() in body:
            return self.latency, "400 Bad Request", "", {"error": {"message": "cannot be answered"}}
        self.bodies[hash(body)] += 1
        if self.slow_every and self.requests % self.slow_every == 0:
            return 1.0, "200 OK", "", ANSWER
        seed = re.search(rb'"seed": ?(\d+)', body)
        return latency_of(int(seed[1]) if seed else 0, self.latency, self.spread), "200 OK", "", ANSWER

    def stats(self):
        """What was seen; `paid_twice`: requests answered 200 (or on the way to it) that had been before."""
        paid_twice = sum(self.bodies.values()) - len(self.bodies)
        seen = {"requests": self.requests, "in_flight": self.in_flight, "peak": self.peak, "paid_twice": paid_twice}
        return {**seen, "cpu_s": time.process_time()}


def latency_of(seed, latency, spread):
    """Seconds the server takes for a request with this seed: evenly spread, and known to who plans a run."""
    return latency + seed % 1000 / 1000 * spread


class Connection(asyncio.Protocol):
    """One keep-alive connection."""

    def __init__(self, faults):
        self.faults, self.buffer = faults, b""

    def connection_made(self, transport):
        """Keep the transport to answer on."""
        self.transport = transport

    def data_received(self, data):
        """Answer when a request is complete."""
        self.buffer += data
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        length = re.search(rb"content-length: *(\d+)", self.buffer[:end], re.I)
        total = end + 4 + (int(length[1]) if length else 0)
        if len(self.buffer) < total:
            return
        head, body, self.buffer = self.buffer[:end], self.buffer[end + 4 : total], self.buffer[total:]
        if head.startswith(b"GET"):
            return self.send("200 OK", "", self.faults.stats())
        wait, status, headers, answer = self.faults.answer(body)
        self.faults.in_flight += 1
        self.faults.peak = max(self.faults.peak, self.faults.in_flight)
        asyncio.get_running_loop().call_later(wait, self.reply, status, headers, answer)

    def reply(self, *answer):
        """Send a delayed answer."""
        self.faults.in_flight -= 1
        self.send(*answer)

    def send(self, status, headers, answer):
        """Write one response."""
        data = json.dumps(answer)
        head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n{headers}Content-Length: {len(data)}\r\n\r\n"
        self.transport.write((head + data).encode())


class Server:
    """The server in a process of its own, as a context manager; its arguments are those of `Faults`."""

    def __init__(self, **faults):
        command = [sys.executable, "-m", "benchmarks.server", json.dumps(faults)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.url = f"http://127.0.0.1:{int(self.process.stdout.readline())}/v1"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def stats(self):
        """What the server saw so far."""
        with urllib.request.urlopen(self.url) as answer:
            return json.load(answer)


async def main():
    """Serve until killed; the port is the first line of output."""
    faults = Faults(**json.loads(sys.argv[1]))
    server = await asyncio.get_running_loop().create_server(lambda: Connection(faults), "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
