"""Waiting for what will come, in real time; and time that passes only when somebody sleeps."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def until(condition: Callable[[], object], *, seconds: float = 10.0) -> None:
    """Return as soon as `condition` holds.

    Raises:
        TimeoutError: it does not come to hold.
    """
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - any condition, not an event of ours
            await asyncio.sleep(0.001)


class Naps:
    """A `sleep` and a `clock` for code that waits between attempts: no time passes, it is only counted.

    After `limit` naps the sleeper stays asleep until `more`, so that a loop without an end can be looked at.
    """

    def __init__(self, limit: int = 1_000_000) -> None:
        self.naps: list[float] = []
        self.now = 1000.0
        self._limit = limit
        self._allowed = asyncio.Event()

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.naps.append(seconds)
        self.now += seconds
        while len(self.naps) > self._limit:
            self._allowed.clear()
            await self._allowed.wait()
        await asyncio.sleep(0)

    def more(self, naps: int) -> None:
        """Let it wake for this many more."""
        self._limit = len(self.naps) + naps - 1
        self._allowed.set()

    @property
    def is_asleep(self) -> bool:
        return len(self.naps) > self._limit


class Time:
    """A clock for several sleepers at once: it moves when a test says so, from one waking to the next.

    Between two moves all `sleepers` tasks must be asleep again, so what they do in real time (requests) is over.
    """

    def __init__(self) -> None:
        self.now = 1000.0
        self._asleep: dict[asyncio.Future[None], float] = {}

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        waking = asyncio.get_running_loop().create_future()
        self._asleep[waking] = self.now + seconds
        try:
            await waking
        finally:
            self._asleep.pop(waking, None)

    async def settle(self, sleepers: int) -> None:
        """Wait until exactly that many are asleep."""
        await until(lambda: sum(not waking.done() for waking in self._asleep) == len(self._asleep) == sleepers)

    async def run(self, seconds: float, *, sleepers: int) -> None:
        """Let so much time pass."""
        end = self.now + seconds
        while True:
            await self.settle(sleepers)
            waking, due = min(self._asleep.items(), key=lambda item: item[1])
            if due > end:
                break
            self.now = max(self.now, due)
            del self._asleep[waking]
            waking.set_result(None)
            await asyncio.sleep(0)
        self.now = end
