"""Running a stage's calls: jobs side by side, each driven to its end, and one error that comes out as itself."""

import asyncio
import signal
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, TypeVar

from stages.core.progress import Progress

R = TypeVar("R")


async def _tick(progress: Progress) -> None:
    """Tick until cancelled: with a slow model a job takes minutes, and its calls are shown before its end."""
    while True:
        await asyncio.sleep(1)
        progress.tick()


async def bounded_gather(
    jobs: Iterable[Callable[[], Awaitable[R]]], limit: int, progress: Progress | None = None
) -> list[R]:
    """Results of `jobs` in their order, at most `limit` running: each is driven to its end before a new one starts."""
    waiting = list(enumerate(jobs))[::-1]
    results: dict[int, R] = {}

    async def worker() -> None:
        while waiting:
            index, job = waiting.pop()
            results[index] = await job()
            if progress:
                progress.step()

    ticking = asyncio.create_task(_tick(progress)) if progress else None
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(limit, len(waiting))):
                group.create_task(worker())
    finally:
        if ticking:
            ticking.cancel()
    return [results[i] for i in sorted(results)]


def run_async(work: Coroutine[Any, Any, R]) -> R:
    """Run a stage's asynchronous part; what is raised in a task group comes out as itself."""
    # a shell starts background jobs with SIGINT ignored; SIGTERM, which is turned into it, must still end them in good order
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return asyncio.run(work)
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from None
    except asyncio.CancelledError:  # a second Ctrl-C, while the first was being obeyed
        raise KeyboardInterrupt from None
