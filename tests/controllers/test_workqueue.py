"""The queue of keys: one worker for one key, nothing lost, failures put off."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from structlog.testing import capture_logs

from imagestreams.controllers.workqueue import WorkQueue

NONE: frozenset[str] = frozenset()


class Reconciler:
    """Notes what it is given. A key in `held` waits for `release`, one in `broken` fails as often as it says."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, frozenset[str]]] = []
        self.running: set[str] = set()
        self.most = 0
        self.held: set[str] = set()
        self.broken: dict[str, int] = {}
        self.error: Exception = RuntimeError("broken")
        self._release = asyncio.Event()
        self._changed = asyncio.Condition()

    async def __call__(self, key: str, hints: frozenset[str]) -> None:
        assert key not in self.running, "one worker for one key"
        self.running.add(key)
        self.most = max(self.most, len(self.running))
        try:
            await self._note(key, hints)
            if key in self.held:
                await self._release.wait()
            if self.broken.get(key, 0) > 0:
                self.broken[key] -= 1
                raise self.error
        finally:
            self.running.discard(key)

    async def _note(self, key: str, hints: frozenset[str]) -> None:
        async with self._changed:
            self.calls.append((key, hints))
            self._changed.notify_all()

    def release(self) -> None:
        self.held.clear()
        self._release.set()

    async def reached(self, count: int) -> list[tuple[str, frozenset[str]]]:
        """The calls, once there are so many."""
        async with asyncio.timeout(5), self._changed:
            await self._changed.wait_for(lambda: len(self.calls) >= count)
        return self.calls


@asynccontextmanager
async def working(queue: WorkQueue[str], reconciler: Reconciler, workers: int = 2) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(queue.work(reconciler)) for _ in range(workers)]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(end, asyncio.CancelledError) for end in ended), "a worker outlives every failure"
        queue.clear()


async def settled() -> None:
    """Let the workers come to rest; nothing they do here takes time, except delays."""
    for _ in range(50):
        await asyncio.sleep(0)


async def idle(queue: WorkQueue[str]) -> None:
    await settled()
    assert len(queue) == 0


def hints(*names: str) -> frozenset[str]:
    return frozenset(names)


async def test_keys_are_worked_on_in_the_order_of_their_arrival():
    queue, reconciler = WorkQueue[str]("test"), Reconciler()
    for key in "abc":
        queue.add(key)
    async with working(queue, reconciler, workers=1):
        assert [key for key, _ in await reconciler.reached(3)] == ["a", "b", "c"]
        await idle(queue)


async def test_a_key_for_later_comes_by_itself_or_before_if_it_is_added():
    queue, reconciler = WorkQueue[str]("test"), Reconciler()
    queue.add_later("soon", 0.01)
    queue.add_later("late", 3600)
    queue.add_later("late", 0.01)  # it has its time already
    async with working(queue, reconciler):
        assert await reconciler.reached(1) == [("soon", NONE)]
        queue.add("late")
        assert await reconciler.reached(2) == [("soon", NONE), ("late", NONE)]
        await idle(queue)


async def test_a_key_that_waits_is_worked_on_once_with_all_hints():
    queue, reconciler = WorkQueue[str]("test"), Reconciler()
    queue.add("a", hints("x"))
    queue.add("b")
    queue.add("a", hints("y"))
    queue.add("a")
    assert len(queue) == 2
    async with working(queue, reconciler):
        await reconciler.reached(2)
        await idle(queue)
    assert reconciler.calls == [("a", hints("x", "y")), ("b", NONE)]


async def test_a_key_that_is_added_while_it_is_worked_on_is_worked_on_once_more():
    queue, reconciler = WorkQueue[str]("test"), Reconciler()
    reconciler.held.add("a")
    async with working(queue, reconciler, workers=3):
        queue.add("a")
        await reconciler.reached(1)
        queue.add("a", hints("x"))
        queue.add("a", hints("y"))
        queue.add("b")
        await reconciler.reached(2)
        reconciler.release()
        await reconciler.reached(3)
        await idle(queue)
    assert reconciler.calls == [("a", NONE), ("b", NONE), ("a", hints("x", "y"))]


async def test_a_slow_key_holds_up_one_worker_only():
    queue, reconciler = WorkQueue[str]("test"), Reconciler()
    reconciler.held |= {"slow"}
    async with working(queue, reconciler):
        queue.add("slow")
        for number in range(20):
            queue.add(f"k{number}")
        await reconciler.reached(21)
        reconciler.release()
        await idle(queue)


async def test_all_workers_work():
    queue, reconciler = WorkQueue[str]("test"), Reconciler()
    reconciler.held |= set("abcd")
    async with working(queue, reconciler, workers=3):
        for key in "abcd":
            queue.add(key)
        await reconciler.reached(3)
        assert reconciler.most == 3
        reconciler.release()
        await reconciler.reached(4)
        await idle(queue)


async def test_a_key_whose_work_failed_comes_back_with_its_hints():
    queue, reconciler = WorkQueue[str]("test", retry_base=0.001), Reconciler()
    reconciler.broken["a"] = 2
    async with working(queue, reconciler):
        queue.add("a", hints("x"))
        assert await reconciler.reached(3) == [("a", hints("x"))] * 3
        await idle(queue)


async def test_a_failure_of_one_key_delays_no_other():
    queue, reconciler = WorkQueue[str]("test", retry_base=60), Reconciler()
    reconciler.broken["a"] = 1
    async with working(queue, reconciler, workers=1):
        queue.add("a")
        queue.add("b")
        await reconciler.reached(2)
        await settled()
        assert len(queue) == 1, "a waits"


async def test_adding_a_key_ends_its_delay_and_loses_no_hint():
    queue, reconciler = WorkQueue[str]("test", retry_base=60), Reconciler()
    reconciler.broken["a"] = 2
    async with working(queue, reconciler):
        queue.add("a", hints("x"))
        await reconciler.reached(1)
        queue.add("a", hints("y"))
        await reconciler.reached(2)
        queue.add("a")
        await reconciler.reached(3)
        await idle(queue)
    assert reconciler.calls == [("a", hints("x")), ("a", hints("x", "y")), ("a", hints("x", "y"))]


async def test_a_key_that_is_added_while_its_work_fails_loses_no_hint():
    queue, reconciler = WorkQueue[str]("test", retry_base=60), Reconciler()
    reconciler.held.add("a")
    reconciler.broken["a"] = 1
    async with working(queue, reconciler):
        queue.add("a", hints("x"))
        await reconciler.reached(1)
        queue.add("a", hints("y"))
        reconciler.release()
        assert await reconciler.reached(2) == [("a", hints("x")), ("a", hints("x", "y"))]
        await idle(queue)


def delays(logs: list[dict[str, object]]) -> list[object]:
    return [entry["seconds"] for entry in logs if entry["event"] == "reconcile failed, will be tried again"]


async def test_delays_double_up_to_the_cap_and_a_success_ends_the_count():
    queue, reconciler = WorkQueue[str]("test", retry_base=0.001, retry_cap=0.004), Reconciler()
    reconciler.broken["a"] = 5
    with capture_logs() as logs:
        async with working(queue, reconciler):
            queue.add("a")
            await reconciler.reached(6)
            await idle(queue)
            reconciler.broken["a"] = 1
            queue.add("a")
            await reconciler.reached(8)
            await idle(queue)
    assert delays(logs) == [0.001, 0.002, 0.004, 0.004, 0.004, 0.001]


async def test_forgetting_ends_the_count_and_the_delay():
    queue, reconciler = WorkQueue[str]("test", retry_base=60), Reconciler()
    reconciler.broken["a"] = 2
    with capture_logs() as logs:
        async with working(queue, reconciler):
            queue.add("a", hints("x"))
            await reconciler.reached(1)
            await settled()
            queue.forget("a")
            await idle(queue)
            queue.add("a")
            assert (await reconciler.reached(2))[1] == ("a", NONE)
    assert delays(logs) == [60, 60]


@pytest.mark.parametrize(
    ("error", "has_traceback"),
    [
        pytest.param(ConnectionError("the API server is away"), False, id="expected"),
        pytest.param(RuntimeError("a bug"), True, id="a bug"),
    ],
)
async def test_a_bug_is_logged_with_its_traceback_and_the_expected_without(error: Exception, has_traceback: bool):
    queue, reconciler = WorkQueue[str]("test", expected=(ConnectionError,), retry_base=0.001), Reconciler()
    reconciler.error, reconciler.broken["a"] = error, 1
    with capture_logs() as logs:
        async with working(queue, reconciler):
            queue.add("a")
            await reconciler.reached(2)
            await idle(queue)
    entry = next(entry for entry in logs if entry["event"] == "reconcile failed, will be tried again")
    assert (entry["queue"], entry["key"], entry["reason"]) == ("test", "a", f"{type(error).__name__}: {error}")
    assert bool(entry["exc_info"]) == has_traceback


async def test_a_cancelled_worker_leaves_the_queue_usable():
    queue, reconciler = WorkQueue[str]("test"), Reconciler()
    reconciler.held.add("a")
    worker = asyncio.create_task(queue.work(reconciler))
    queue.add("a")
    await reconciler.reached(1)
    queue.add("a", hints("x"))
    worker.cancel()
    with pytest.raises(asyncio.CancelledError):
        await worker
    reconciler.release()
    async with working(queue, reconciler):
        assert (await reconciler.reached(2))[1] == ("a", hints("x"))
        await idle(queue)


async def test_clearing_forgets_everything():
    queue, reconciler = WorkQueue[str]("test", retry_base=60), Reconciler()
    reconciler.broken["a"] = 1
    async with working(queue, reconciler):
        queue.add("a")
        await reconciler.reached(1)
        await settled()
        assert len(queue) == 1
    queue.add("b")
    queue.clear()
    assert len(queue) == 0
    async with working(queue, reconciler):
        queue.add("c")
        await reconciler.reached(2)
        await idle(queue)
    assert [key for key, _ in reconciler.calls] == ["a", "c"]


async def test_nothing_is_remembered_of_keys_that_are_done():
    queue, reconciler = WorkQueue[str]("test", retry_base=0.001), Reconciler()
    keys = [f"k{number}" for number in range(50)]
    reconciler.broken |= dict.fromkeys(keys, 1)
    with capture_logs():
        async with working(queue, reconciler, workers=4):
            for key in keys:
                queue.add(key)
            await reconciler.reached(100)
            await idle(queue)
            for memory in (queue._failures, queue._again, queue._later, queue._working, queue._waiting):
                assert not memory
