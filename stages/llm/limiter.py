"""When the callers of one server may call: places, limits a minute, and a breaker that is open for all of them."""

import asyncio
import email.utils
import math
import random
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from stages.llm.settings import Limits


@dataclass
class Window:
    """At most `limit` units a minute, by the sliding window that the servers use themselves; 0: no limit."""

    limit: int
    spent: deque[tuple[float, int]] = field(default_factory=deque)
    total: int = 0

    def delay(self, units: int, now: float) -> float:
        """Seconds until `units` more may be spent; 0 spends them."""
        while self.spent and self.spent[0][0] <= now - 60:
            self.total -= self.spent.popleft()[1]
        if not self.limit or not self.spent or self.total + units <= self.limit:
            self.spent.append((now, units))
            self.total += units
            return 0.0
        return self.spent[0][0] + 60 - now


class Limiter:
    """The state that the callers of one server share.

    The number of calls at once is cut once an episode of refusals, by the share of calls refused, and grows back slowly.
    Faults in a row open the breaker: then one caller at a time probes the server and the others wait.
    """

    TRIP = 3  # faults in a row that open the breaker

    def __init__(self, limits: Limits):
        self._most = limits.concurrency
        self._width = float(limits.concurrency)  # calls allowed at once just now
        self._busy = 0
        self._queue: deque[asyncio.Future[None]] = deque()
        self._faults = 0
        self._open_until = 0.0  # breaker: nobody calls before this moment
        self._probing = False
        self._cut_at = 0.0
        self._served = self._refused = 0  # since the last cut: answers and 429s
        self._requests, self._tokens = Window(limits.requests_per_minute), Window(limits.tokens_per_minute)
        self._draining = False

    def drain(self) -> None:
        """From now on nobody may call, not even again."""
        self._draining = True

    def down(self) -> bool:
        """Whether the breaker is open and lets nobody in just now."""
        return self._faults >= self.TRIP and (self._probing or time.monotonic() < self._open_until)

    async def enter(self, tokens: int, elsewhere: Callable[[], bool] = lambda: False) -> bool | None:
        """Wait for a place; True if this call is the probe of an open breaker, None if it is not to wait for its end.

        Args:
            tokens: estimate of the tokens that the call will use, for the limit of tokens a minute.
            elsewhere: whether another server may take the call.
        """
        while True:
            if self._draining:
                raise asyncio.CancelledError
            now = time.monotonic()
            if self._faults >= self.TRIP:
                if not self._probing and now >= self._open_until:
                    self._probing = True
                    self._busy += 1
                    return True
                if elsewhere():
                    return None
                await asyncio.sleep(max(0.02, min(0.1, self._open_until - now)))
                continue
            if self._busy >= int(self._width):
                future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self._queue.append(future)
                await future
                continue
            delay = self._requests.delay(1, now) or (self._tokens.delay(tokens, now) if tokens else 0.0)
            if delay:
                await asyncio.sleep(delay)
                continue
            self._busy += 1
            return False

    def leave(self, probe: bool) -> None:
        """Give the place back. `probe`: as `enter` returned it."""
        self._busy -= 1
        if probe:
            self._probing = False
        # where the breaker is open none of them gets a place here, but all may have one elsewhere
        free = len(self._queue) if self._faults >= self.TRIP else int(self._width) - self._busy
        while free > 0 and self._queue:
            future = self._queue.popleft()
            if not future.done():
                future.set_result(None)
                free -= 1

    def rejected(self) -> None:
        """The server is there, though it rejected the request."""
        self._faults = 0

    def answered(self) -> None:
        """The server answered a call."""
        self._faults = 0
        self._served += 1
        if self._width < self._most:
            self._width = min(self._most, self._width + 1 / self._width)

    def fault(self, tries: int, retry_after: float | None = None) -> float:
        """The server failed; seconds until the caller, who has tried `tries` times before, may try again."""
        self._faults += 1
        if self._faults >= self.TRIP:
            pause = max(retry_after or 0.0, min(2.0, 0.25 * 2.0 ** min(self._faults - self.TRIP, 10)))
            self._open_until = time.monotonic() + pause
            return 0.0  # the breaker's own clock decides
        return max(retry_after or 0.0, random.uniform(0, min(2.0, 0.1 * 2.0 ** min(tries, 10))))

    def refused(self, retry_after: float | None, tries: int) -> float:
        """The server answered 429; seconds until the caller may try again: Retry-After, and at least a pause that grows."""
        now = time.monotonic()
        self._refused += 1
        if now - self._cut_at > 1.0:  # one cut an episode, however many calls it hits: a fifth, if none is served
            share = self._refused / (self._refused + self._served)
            self._cut_at, self._width = now, max(1.0, self._width * (1 - share / 5))
            self._served = self._refused = 0
        least = random.uniform(0.5, 1.0) * min(30.0, 0.25 * 2.0 ** min(tries, 10))
        return max(retry_after or 0.0, least)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the headers of a refusal ask to wait (a number or a date); None where they do not, or make no sense."""
    text, unit = headers.get("retry-after-ms", ""), 1000.0
    if not text:
        text, unit = headers.get("retry-after", ""), 1.0
    try:
        found = float(text) / unit
    except ValueError:
        try:
            found = email.utils.parsedate_to_datetime(text).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return found if math.isfinite(found) and found >= 0 else None
