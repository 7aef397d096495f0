"""A queue of keys, each worked on by one worker at a time.

Adding a key that waits already changes nothing but its hints, which are merged; adding one that is being worked on has
it worked on once more afterwards. A key whose work raised comes back, with its hints, after a delay that doubles with
each failure in a row, or as soon as it is added again. The queue holds at most one entry per key, so it is bounded by
what is in the cluster.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

import structlog

from imagestreams import metrics

K = TypeVar("K", bound=Hashable)

log = structlog.get_logger(__name__)

Reconcile = Callable[[K, frozenset[str]], Awaitable[None]]


class WorkQueue(Generic[K]):
    """Keys on their way to a reconcile.

    Args:
        name: a label of metrics and logs.
        expected: errors that say all in their text (the API server's); of others the traceback is logged.
        retry_base: seconds before the first retry of a key.
        retry_cap: seconds that no retry waits longer than.
    """

    def __init__(
        self,
        name: str,
        *,
        expected: tuple[type[Exception], ...] = (),
        retry_base: float = 0.2,
        retry_cap: float = 60.0,
    ) -> None:
        self._name, self._expected = name, expected
        self._retry_base, self._retry_cap = retry_base, retry_cap
        self._waiting: dict[K, frozenset[str]] = {}  # in order of arrival
        self._working: set[K] = set()
        self._again: dict[K, frozenset[str]] = {}
        self._failures: dict[K, int] = {}
        self._later: dict[K, tuple[asyncio.TimerHandle, frozenset[str]]] = {}  # with the hints of work that failed
        self._since: dict[K, float] = {}  # when each that waits began to
        self._wake = asyncio.Event()
        self._depth = metrics.queue_depth.labels(name)
        metrics.queue_oldest.labels(name).set_function(self._oldest)

    def add(self, key: K, hints: frozenset[str] = frozenset()) -> None:
        """Have the key reconciled; `hints` reach the reconcile, merged with those that wait."""
        if key in self._working:
            self._again[key] = self._again.get(key, frozenset()) | hints
            return
        self._waiting[key] = self._waiting.get(key, frozenset()) | hints | self._end_delay(key)
        self._since.setdefault(key, time.monotonic())
        self._depth.set(len(self._waiting))
        self._wake.set()

    def add_later(self, key: K, seconds: float) -> None:
        """Have the key reconciled again after a while, or before if somebody adds it."""
        if key not in self._later:
            self._later[key] = asyncio.get_running_loop().call_later(seconds, self.add, key), frozenset()

    def _oldest(self) -> float:
        """How many seconds the first key has waited."""
        return time.monotonic() - min(self._since.values()) if self._since else 0.0

    def __len__(self) -> int:
        return len(self._waiting) + len(self._working) + len(self._later)

    async def work(self, reconcile: Reconcile[K]) -> None:
        """Reconcile keys, one after the other, until cancelled. Run as many of these as there are to be workers."""
        while True:
            key, hints = await self._take()
            started = time.perf_counter()
            try:
                await reconcile(key, hints)
            except Exception as error:  # noqa: BLE001 - a worker outlives a bug in one key's work; it is said and tried again
                self._put_back(key, hints, error)
            else:
                self._failures.pop(key, None)
            finally:
                metrics.reconcile_duration.labels(self._name).observe(time.perf_counter() - started)
                self._done(key)

    async def _take(self) -> tuple[K, frozenset[str]]:
        while not self._waiting:
            self._wake.clear()
            await self._wake.wait()
        key = next(iter(self._waiting))
        hints = self._waiting.pop(key)
        self._since.pop(key, None)
        self._working.add(key)
        self._depth.set(len(self._waiting))
        return key, hints

    def _done(self, key: K) -> None:
        self._working.discard(key)
        if key in self._again:
            self.add(key, self._again.pop(key))

    def _put_back(self, key: K, hints: frozenset[str], error: Exception) -> None:
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        delay = min(self._retry_base * 2 ** min(failures - 1, 16), self._retry_cap)
        metrics.queue_retries.labels(self._name).inc()
        log.warning(
            "reconcile failed, will be tried again",
            queue=self._name,
            key=str(key),
            reason=f"{type(error).__name__}: {error}",
            seconds=delay,
            exc_info=None if isinstance(error, self._expected) else error,
        )
        hints |= self._end_delay(key)
        self._later[key] = asyncio.get_running_loop().call_later(delay, self.add, key), hints

    def _end_delay(self, key: K) -> frozenset[str]:
        """End the delay of a key that failed; returns the hints that wait with it."""
        if key not in self._later:
            return frozenset()
        timer, hints = self._later.pop(key)
        timer.cancel()
        return hints

    def forget(self, key: K) -> None:
        """The object is gone: so is the memory of its failures."""
        self._failures.pop(key, None)
        self._end_delay(key)

    def clear(self) -> None:
        """Forget everything: what is to be done is found anew when the work begins again."""
        for key in list(self._later):
            self._end_delay(key)
        self._waiting.clear()
        self._since.clear()
        self._again.clear()
        self._failures.clear()
        self._depth.set(0)
