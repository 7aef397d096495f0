"""When keys fall due again: one heap of moments, drained by a tick.

A reconcile says when its stream is to be looked at next (a polling slot, a retry, the end of a registry's Retry-After).
The tick comes at each full second, as slots begin on full seconds. APScheduler drives it, and the other coarse clocks;
never one job per stream or tag.

The watermark is the begin of the oldest polling slot that is not served yet. It travels in the Lease, so that a
successor asks for the slots that were missed, and for no others.
"""

from __future__ import annotations

import heapq
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Generic, TypeVar

from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.cron import CronTrigger
from apscheduler.triggers.interval import IntervalTrigger

K = TypeVar("K")


class Schedule(Generic[K]):
    """Which keys fall due when. `enqueue` is called with each that does; a key has at most one moment.

    A key that fell due counts as not served until it is set or forgotten again, that is until its reconcile has said
    what comes next.
    """

    def __init__(self, enqueue: Callable[[K], None], *, clock: Callable[[], datetime]) -> None:
        self._enqueue, self._clock = enqueue, clock
        self._due: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._sequence = 0
        self._fired: dict[K, float] = {}

    def set(self, key: K, moment: datetime | None) -> None:
        """The key is due at `moment` (aware) next, or never by time."""
        self._fired.pop(key, None)
        if moment is None:
            self._due.pop(key, None)
            return
        at = moment.timestamp()
        if self._due.get(key) == at:
            return
        self._due[key] = at
        self._sequence += 1
        heapq.heappush(self._heap, (at, self._sequence, key))
        if len(self._heap) > 4 * len(self._due) + 64:
            self._heap = [(at, number, key) for number, (key, at) in enumerate(self._due.items())]
            self._sequence = len(self._heap)
            heapq.heapify(self._heap)

    def forget(self, key: K) -> None:
        self._fired.pop(key, None)
        self._due.pop(key, None)

    def clear(self) -> None:
        """Forget everything."""
        self._fired.clear()
        self._due.clear()
        self._heap.clear()

    async def tick(self) -> None:
        """Enqueue what is due now."""
        now = self._clock().timestamp()
        while self._heap and self._heap[0][0] <= now:
            at, _, key = heapq.heappop(self._heap)
            if self._due.get(key) == at:
                del self._due[key]
                self._fired[key] = at
                self._enqueue(key)

    def oldest_unserved(self) -> datetime | None:
        """The earliest moment that has come and whose key has not been reconciled since; None when there is none."""
        now = self._clock().timestamp()
        moments = list(self._fired.values())
        if self._heap and self._heap[0][0] <= now:
            moments.append(self._heap[0][0])
        return datetime.fromtimestamp(min(moments), UTC) if moments else None


Chore = Callable[[], Awaitable[None]]


def start_clock(schedule: Schedule[K], chores: Mapping[Chore, int] = MappingProxyType({})) -> AsyncIOScheduler:
    """Have the schedule ticked at each full second, and each chore done again after so many seconds, by the running
    loop; `shutdown(wait=False)` of what is returned ends it.

    A late tick is still run, and late ones are run once: nothing is dropped when the loop was busy.
    """
    clock = AsyncIOScheduler(
        timezone=UTC, job_defaults={"coalesce": True, "misfire_grace_time": None, "max_instances": 1}
    )
    first = datetime.now(UTC) + timedelta(milliseconds=10)
    clock.add_job(schedule.tick, CronTrigger(second="*", timezone=UTC), next_run_time=first)
    for chore, seconds in chores.items():
        clock.add_job(chore, IntervalTrigger(seconds=seconds, timezone=UTC), next_run_time=first)
    clock.start()
    return clock
