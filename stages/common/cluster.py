"""`llm.engine: ray`: conversations and embeddings as Ray Data jobs, on one machine or many (docs/cluster.md).

Each actor runs conversations with a client and, where a role is bound to a folder, an engine of its own. One more actor, the
desk (desk.py), holds the reply cache and the budget on the driver's node. What an actor was doing when its node died is done
again by the one that Ray starts in its place, from stored replies but for the calls that were under way.
"""

import asyncio
import contextlib
import itertools
import json
import logging
import os
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from stages.common.desk import Desk, Member, add
from stages.common.embed import Encoder, EncoderParams
from stages.common.errors import UserError, one_line
from stages.common.llm import GRACE_S, Client, Cluster, Llm, first_error, windowed
from stages.common.personas import Persona
from stages.common.progress import Progress
from stages.common.records import Record, root

STORE_BYTES = 100 * 2**20  # of a cluster of our own: conversations are short
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}
Row = tuple[int, bytes, str]
Job = Callable[[Client, Persona], Awaitable[Record]]


@contextlib.contextmanager
def hushed() -> Iterator[None]:
    """Nothing is written to stderr, by C++ code neither."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def reach(host: str, port: str) -> None:
    """Raise OSError unless somebody listens there: Ray itself would try for a minute, or for ever."""
    socket.create_connection((host, int(port)), timeout=20).close()


def joined(where: Cluster) -> Any:
    """The ray module, connected. Raises UserError when it is not installed, nobody is there, or the cluster is too small."""
    os.environ.update(QUIET)
    if where.address is None:  # the ports Ray opens can be reached from outside, so whoever comes must know a token
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=os.environ.get("RAY_AUTH_TOKEN") or secrets.token_hex(32))
    try:
        import ray
        import ray.data
    except ImportError:
        raise UserError("llm.engine: ray is not installed; run pip install 'ray[data]'") from None
    if not ray.is_initialized():
        options: dict[str, Any] = {"address": where.address}
        if where.address is None:
            options = {"address": "local", "include_dashboard": False, "object_store_memory": STORE_BYTES}
            options["_node_ip_address"] = "127.0.0.1"
        kept = signal.getsignal(signal.SIGTERM)
        try:
            if where.address not in (None, "auto"):
                host, _, port = str(where.address).rpartition(":")
                if host in ("127.0.0.1", "localhost"):  # as Ray reads it
                    host = ray.util.get_node_ip_address()
                reach(host, port)
            with hushed():
                ray.init(log_to_driver=False, logging_level=logging.CRITICAL, **options)
        except Exception as e:
            which = where.address or "a cluster of its own"
            raise UserError(f"llm.ray.address: {which} cannot be joined: {one_line(e)}") from None
        finally:
            signal.signal(signal.SIGTERM, kept)  # Ray puts its own there
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    there = ray.cluster_resources()
    for name, each in (("CPU", where.cpus), ("GPU", where.gpus)):
        if where.actors * each > there.get(name, 0):
            has = f"the cluster has {there.get(name, 0):g}"
            raise UserError(f"llm.ray: {where.actors} actors with {each:g} {name} each do not fit: {has}")
    return ray


class Place:
    """What makes another process like the driver: its working folder, and where its repository's .cache and .env are."""

    def __init__(self) -> None:
        self.folder, self.root = Path.cwd(), root().parent.resolve()

    def enter(self) -> None:
        """Go there. Raises UserError where this node lacks the folder."""
        try:
            os.chdir(self.folder)
        except OSError:
            raise UserError(f"{self.folder}: no such folder; share the driver's with every node") from None
        os.environ["DVC_ROOT"] = str(self.root)


def answered(table: Any, work: Callable[[list[Any]], list[bytes]]) -> Any:
    """Rows of `number` and `made` for rows of `number` and `given` (JSON); what is made beyond them has number -1.

    A UserError becomes a row with `error`: the driver lets calls under way end before it stops.
    """
    import pyarrow as pa

    numbers: list[int] = table["number"].to_pylist()
    try:
        made = work([json.loads(text) for text in table["given"].to_pylist()])
        rows = [{"number": n, "made": m, "error": ""} for n, m in itertools.zip_longest(numbers, made, fillvalue=-1)]
    except UserError as e:
        told = e.cause if hasattr(e, "cause") else f"node {socket.gethostname()}: {e}"  # with a cause: the desk's
        rows = [{"number": -1, "made": b"", "error": str(told)}]
    return pa.Table.from_pylist(rows, pa.schema([("number", pa.int64()), ("made", pa.binary()), ("error", pa.string())]))


def mapped(where: Cluster, work: type, args: tuple[Any, ...], given: list[Any], size: int) -> Iterator[Row]:
    """(number, made, error) of the rows that `work(*args)` makes on `where.actors` actors, as they come.

    Args:
        work: a class whose instances are called with tables, see `answered`.
        given: what JSON can hold, one a row.
        size: rows in a table.
    """
    ray = joined(where)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    context.execution_no_progress_timeout_s = context.wait_for_min_actors_s = -1  # a batch may take hours
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    rows = [{"number": n, "given": json.dumps(g)} for n, g in enumerate(given)]
    data = ray.data.from_items(rows, override_num_blocks=-(-len(rows) // size)).map_batches(
        work, fn_constructor_args=args, batch_size=None, batch_format="pyarrow", num_cpus=where.cpus, num_gpus=where.gpus,
        compute=ray.data.ActorPoolStrategy(size=where.actors, max_tasks_in_flight_per_actor=1),
    )  # fmt: skip
    try:
        for table in data.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            yield from ((row["number"], row["made"], row["error"]) for row in table.to_pylist())
    except ray.exceptions.RayActorError as e:  # which could not start: another Python, no code at this path
        raise UserError(f"llm.ray: an actor could not start: {str(e).strip().splitlines()[-1][:300]}") from None


class Talks:
    """An actor that runs conversations, `settings.conversations_in_flight` at a time, with one client for all of them."""

    def __init__(self, place: Place, make: Callable[..., Member], job: Job, desk: Any):
        import ray

        self._place, self._job = place, job
        self._actor = ray.get_runtime_context().get_actor_id()
        self._make = partial(make, desk=desk, actor=self._actor)
        self._client: Member | None = None
        self._loop = asyncio.new_event_loop()  # one for all batches: connections belong to theirs
        ray.get(desk.opened.remote(self._actor))

    def __call__(self, table: Any) -> Any:
        """A row for each conversation and one for what was counted meanwhile."""
        return answered(table, lambda given: self._loop.run_until_complete(self._talk([Persona(**g) for g in given])))

    def __del__(self) -> None:
        self._loop.run_until_complete(self._leave())

    async def _leave(self) -> None:
        client, self._client = self._client, None
        if client:
            await client.__aexit__(None, None, None)

    async def _talk(self, personas: list[Persona]) -> list[bytes]:
        self._place.enter()
        client = self._client = self._client or self._make()
        try:
            with first_error():
                jobs = [partial(self._job, client, x) for x in personas]
                rows = await windowed(jobs, client.settings.conversations_in_flight)
        except BaseException:
            await self._leave()  # answers under way are stored
            raise
        return [json.dumps(row).encode() for row in (*rows, client.taken())]


class Embeds:
    """An actor that embeds texts."""

    def __init__(self, place: Place, params: EncoderParams):
        self._place, self._params = place, params
        self._encoder: Encoder | None = None

    def __call__(self, table: Any) -> Any:
        """A row of float32 bytes for each list of texts."""
        return answered(table, self._embed)

    def _embed(self, given: list[list[str]]) -> list[bytes]:
        self._place.enter()
        self._encoder = self._encoder or Encoder(self._params)
        return [self._encoder.encoded(texts).tobytes() for texts in given]


def encoder(params: EncoderParams, settings: Llm) -> Encoder:
    """The sentence encoder; with engine ray, many texts at once are embedded on the actors."""

    def spread(chunks: list[list[str]]) -> list[Any]:
        import numpy as np

        vectors: dict[int, Any] = {}
        for number, made, error in mapped(settings.ray, Embeds, (Place(), params), chunks, 1):
            if error:
                raise UserError(error)
            vectors[number] = np.frombuffer(made, dtype=np.float32).reshape(len(chunks[number]), -1)
        return [vectors[n] for n in range(len(chunks))]

    return Encoder(params, spread if settings.engine == "ray" else None)


def shared(settings: Llm) -> Llm:
    """What each actor may do: its share of what the endpoints may be asked, at least 1 of each limit that is set."""
    n = settings.ray.actors

    def part(limit: int) -> int:
        return max(1, limit // n) if limit else 0

    endpoints = {
        name: replace(
            e, concurrency=part(e.concurrency), requests_per_minute=part(e.requests_per_minute),
            tokens_per_minute=part(e.tokens_per_minute),
        )
        for name, e in settings.endpoints.items()
    }  # fmt: skip
    embedded = replace(settings.embedded, threads=settings.embedded.threads or max(1, int(settings.ray.cpus)))
    return replace(settings, endpoints=endpoints, embedded=embedded)


async def conversations(client: Client, job: Job, personas: list[Persona], progress: Progress) -> list[Record]:
    """What `job` makes of each persona, in their order, made on the actors; their calls are counted on `client`.

    Raises:
        UserError: of an actor or the desk, after all calls under way have been stored.
    """
    settings, where = client.settings, client.settings.ray
    ray = joined(where)
    here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), False)
    pinned = ray.remote(Desk).options(num_cpus=0, max_concurrency=100_000, scheduling_strategy=here)
    desk = pinned.remote(root().resolve(), client.budget, {name: f.absolute() for name, f in client.folders.items()})
    make = partial(Member, client.stage, shared(settings), client.folders, client.resamples)
    size = min(-(-len(personas) // where.actors), max(settings.conversations_in_flight, len(personas) // (8 * where.actors)))
    loop, came = asyncio.get_running_loop(), asyncio.Queue[Any]()

    def feed() -> None:
        end: BaseException | None = None
        try:
            for row in mapped(where, Talks, (Place(), make, job, desk), [asdict(x) for x in personas], size):
                loop.call_soon_threadsafe(came.put_nowait, row)
        except BaseException as e:
            end = e
        with contextlib.suppress(RuntimeError):  # nobody waits any more
            loop.call_soon_threadsafe(came.put_nowait, end)

    # a thread, so that Ctrl-C finds the loop waiting, and actors at work until their calls are stored
    threading.Thread(target=feed, daemon=True).start()
    found: dict[int, Record] = {}
    patience: float | None = None
    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    headed = True
    try:
        while True:
            try:
                row = await asyncio.wait_for(came.get(), 15)
            except TimeoutError:
                progress.tick()  # a cluster that has no room for the actors is waited for, which is to be seen
                try:
                    await asyncio.to_thread(reach, host, port)
                except OSError:
                    headed = False
                    gone = f"llm.ray: head node {host}:{port} is gone; start it and run again, replies are kept"
                    raise UserError(gone) from None
                continue
            if row is None:
                break
            if isinstance(row, BaseException):
                raise row
            number, made, error = row
            if error:
                raise UserError(error)
            if number < 0:
                add(client, json.loads(made))
            else:
                found[number] = json.loads(made)
                progress.step()
    except asyncio.CancelledError:
        patience = GRACE_S
        raise
    finally:
        if headed:
            await desk.close.remote(patience)
    return [found[n] for n in range(len(personas))]
