"""Jobs side by side."""

import asyncio
from functools import partial

import pytest

from stages.core.aio import bounded_gather
from stages.core.progress import Progress


def test_results_are_in_order_and_no_more_jobs_run_than_allowed():
    running = peak = 0

    async def job(n):
        nonlocal running, peak
        running += 1
        peak = max(peak, running)
        await asyncio.sleep(0.001 * (7 - n % 7))
        running -= 1
        return n

    assert asyncio.run(bounded_gather([partial(job, n) for n in range(30)], 5)) == list(range(30))
    assert peak == 5


@pytest.mark.slow
def test_progress_is_shown_while_a_job_takes_its_time():
    class Shown(Progress):
        def tick(self):
            ticked.set()

    async def job():
        await asyncio.wait_for(ticked.wait(), 30)

    async def work():
        nonlocal ticked
        ticked = asyncio.Event()
        await bounded_gather([job], 1, Shown("x", 1))
        assert len(asyncio.all_tasks()) == 1 or all(t.cancelling() for t in asyncio.all_tasks() - {asyncio.current_task()})

    ticked: asyncio.Event
    asyncio.run(work())
