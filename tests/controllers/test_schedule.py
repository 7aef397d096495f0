"""When keys fall due, and what a successor is told of those that were not served."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagestreams.controllers.schedule import Schedule, start_clock

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


class Day:
    """A schedule and the time of day; `enqueued` are the keys that fell due."""

    def __init__(self) -> None:
        self.now = NOON
        self.enqueued: list[str] = []
        self.schedule: Schedule[str] = Schedule(self.enqueued.append, clock=lambda: self.now)

    async def until(self, seconds: float) -> list[str]:
        """What falls due by then."""
        self.now = at(seconds)
        self.enqueued.clear()
        await self.schedule.tick()
        return list(self.enqueued)

    @property
    def unserved(self) -> float | None:
        """The watermark, in seconds from noon."""
        moment = self.schedule.oldest_unserved()
        return None if moment is None else (moment - NOON).total_seconds()


async def test_keys_fall_due_in_the_order_of_their_moments():
    day = Day()
    for key, seconds in (("c", 30), ("a", 10), ("b", 20), ("later", 99)):
        day.schedule.set(key, at(seconds))
    assert await day.until(9.999) == []
    assert await day.until(10) == ["a"]
    assert await day.until(10) == [], "once"
    assert await day.until(60) == ["b", "c"]


async def test_equal_moments_fall_due_in_the_order_in_which_they_were_set():
    day = Day()
    for key in "bca":
        day.schedule.set(key, at(10))
    assert await day.until(10) == ["b", "c", "a"]


@pytest.mark.parametrize(
    ("moments", "falls_due"),
    [
        pytest.param([10, 20], 20, id="put off"),
        pytest.param([20, 10], 10, id="brought forward"),
        pytest.param([10, 10], 10, id="set again"),
        pytest.param([10, 20, 10], 10, id="there and back"),
        pytest.param([10, None], None, id="never"),
        pytest.param([10, None, 30], 30, id="never, then later"),
        pytest.param([-60], 0, id="past already"),
    ],
)
async def test_a_key_has_one_moment_the_last(moments: list[int | None], falls_due: int | None):
    day = Day()
    for moment in moments:
        day.schedule.set("a", None if moment is None else at(moment))
    seen = [second for second in range(40) for _ in await day.until(second)]
    assert seen == ([] if falls_due is None else [falls_due])


async def test_a_forgotten_key_does_not_fall_due():
    day = Day()
    day.schedule.set("a", at(10))
    day.schedule.forget("a")
    day.schedule.forget("unknown")
    assert await day.until(20) == []
    assert day.unserved is None


async def test_nothing_falls_due_after_clearing():
    day = Day()
    day.schedule.set("fired", at(0))
    await day.until(5)
    day.schedule.set("a", at(10))
    day.schedule.clear()
    assert day.unserved is None
    assert await day.until(20) == []
    day.schedule.set("a", at(10))
    assert await day.until(20) == ["a"], "it begins anew"


async def test_a_key_may_be_set_anew_while_it_falls_due():
    day = Day()
    schedule: Schedule[str] = Schedule(lambda key: schedule.set(key, at(100)), clock=lambda: day.now)
    schedule.set("a", at(10))
    day.now = at(50)
    await schedule.tick()
    assert schedule.oldest_unserved() is None


# --- the watermark ----------------------------------------------------------------------------------------------------


async def test_a_moment_that_has_come_is_unserved_until_the_key_is_set_again():
    day = Day()
    day.schedule.set("a", at(10))
    assert day.unserved is None
    day.now = at(10)
    assert day.unserved == 10, "the tick has not come yet"
    assert await day.until(12) == ["a"]
    assert day.unserved == 10, "it waits, or is worked on"
    day.schedule.set("a", at(100))
    assert day.unserved is None


@pytest.mark.parametrize("never", [True, False])
async def test_a_key_that_is_gone_holds_nothing_up(never: bool):
    day = Day()
    day.schedule.set("a", at(10))
    await day.until(12)
    if never:
        day.schedule.set("a", None)
    else:
        day.schedule.forget("a")
    assert day.unserved is None


async def test_the_oldest_unserved_moment_counts():
    day = Day()
    for key, seconds in (("a", 10), ("b", 20), ("c", 30)):
        day.schedule.set(key, at(seconds))
    await day.until(25)
    day.now = at(31)
    assert day.unserved == 10
    day.schedule.set("a", at(100))
    assert day.unserved == 20
    day.schedule.set("b", at(100))
    assert day.unserved == 30


async def test_a_moment_that_comes_while_its_key_is_worked_on_is_not_lost():
    day = Day()
    day.schedule.set("a", at(10))
    await day.until(10)
    day.now = at(15)
    day.schedule.set("a", at(12))  # the reconcile took until after what it found to be next
    assert day.unserved == 12
    assert await day.until(16) == ["a"]


# --- size and model ---------------------------------------------------------------------------------------------------


async def test_the_heap_is_bounded_by_the_keys():
    day = Day()
    for number in range(20_000):
        day.schedule.set(f"k{number % 10}", at(1000 + number * 7919 % 6007))
    assert len(day.schedule._heap) <= 4 * 10 + 65
    last = {f"k{number % 10}": number * 7919 % 6007 for number in range(19_990, 20_000)}
    assert await day.until(100_000) == sorted(last, key=last.__getitem__)


_steps = st.lists(
    st.one_of(
        st.tuples(st.just("set"), st.sampled_from("abc"), st.none() | st.integers(0, 30)),
        st.tuples(st.just("forget"), st.sampled_from("abc"), st.none()),
        st.tuples(st.just("tick"), st.just(""), st.integers(0, 5)),
    )
)


@given(_steps)
async def test_it_is_a_map_from_keys_to_moments(steps: list[tuple[str, str, int | None]]):
    day, model, fired, now = Day(), dict[str, int](), dict[str, int](), 0
    for step, key, number in steps:
        if step == "tick":
            now += number or 0
            due = {key: moment for key, moment in model.items() if moment <= now}
            assert sorted(await day.until(now)) == sorted(due)
            fired |= due
            model = {key: moment for key, moment in model.items() if moment > now}
            assert day.unserved == min(fired.values(), default=None)
            continue
        fired.pop(key, None)
        if step == "set" and number is not None:
            day.schedule.set(key, at(number))
            model[key] = number
        else:
            day.schedule.set(key, None) if step == "set" else day.schedule.forget(key)
            model.pop(key, None)


# --- the clock --------------------------------------------------------------------------------------------------------


async def test_the_clock_ticks_at_once_and_at_each_full_second():
    fallen: asyncio.Queue[str] = asyncio.Queue()
    schedule: Schedule[str] = Schedule(fallen.put_nowait, clock=lambda: datetime.now(UTC))
    schedule.set("past", NOON)
    clock = start_clock(schedule)
    try:
        async with asyncio.timeout(30):
            assert await fallen.get() == "past"
            schedule.set("soon", datetime.now(UTC) + timedelta(seconds=0.5))
            assert await fallen.get() == "soon"
            next_run = clock.get_jobs()[0].next_run_time
    finally:
        clock.shutdown(wait=False)
    assert next_run.microsecond == 0
