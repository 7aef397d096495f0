"""Who is asked next, and who must wait: a lane for each registry host.

    submit -> the lane's queue -> a worker -> the answer, kept until it is acknowledged
              ^                        |   -> ready(key): come and fetch it
              +-- the next place <-----+

A reconcile never waits here. A lane has a few workers, so a host that hangs delays only what is asked of it. Within a
lane namespaces take turns, equal questions are asked once, lookups begin at the host's pace, a credential that was told
to wait waits, and a host that cannot be reached is left alone for a while. What must not be asked now is answered
`Deferred` at once, not queued.

What a lookup or a listing found is remembered for a moment, for tickets that take an answer of late (`Ticket.fresh`):
an import request is answered and then carried out, and the second must not cost another pull.

A question with a fallback goes on to the next place, in the lane of that place's host, when one gives nothing or must
not be asked. Only what all of them together come to is an answer.
"""

from __future__ import annotations

import asyncio
import contextvars
import zlib
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, Generic, TypeVar, assert_never

import structlog

from imagestreams.core.lookup import (
    Answer,
    Deferred,
    Described,
    Description,
    Failed,
    Listed,
    Listing,
    Lookup,
    Question,
    Resolved,
    Ticket,
)
from imagestreams.core.reference import DEFAULT_TAG, HTTPS_PORT
from imagestreams.registry.errors import (
    Exhausted,
    RateLimited,
    RegistryError,
    Sign,
    Unavailable,
)
from imagestreams.registry.recent import Recent

if TYPE_CHECKING:
    from collections.abc import Hashable

    from imagestreams.core.lookup import Served
    from imagestreams.core.policy import Transport
    from imagestreams.registry.quota import Quota

log = structlog.get_logger(__name__)

K = TypeVar("K", bound=tuple[str, ...])
"""A key to report to, such as a stream's; its first part is the namespace."""

Found = Resolved | Listed | Described
OnThrottle = Callable[[str, str], None]

_LONGEST_WAIT: Final = timedelta(minutes=15)
_MAX_WINDOWS: Final = 1024  # of one lane; beyond it the one that ends first is forgotten
_SHORTEST_NAP: Final = 0.001  # seconds between two looks at a host's pace, of which a timer may come early
_LONGEST_NAP: Final = 2.0  # in which a pace that was changed goes unnoticed
_SPREAD: Final = timedelta(seconds=30)
_MIRRORS_TOLD: Final = 4
_MAX_FINDS: Final = 1024
_FIND_LIFE: Final = timedelta(minutes=1)
_FIND_BYTES: Final = 4 << 20  # of listings; the longest that settings allow, of 20,000 tags, has less
_TAG_BYTES: Final = 64  # that a tag takes beside its characters


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is asked at a time, and how long is waited.

    Attributes:
        concurrency: lookups under way at one host.
        per_namespace: lookups under way for one namespace, at all hosts together.
        lanes: how many hosts are known at a time; one namespace may keep a quarter of them busy.
        settle: seconds from the first answer of a key to its report, if the rest of its lane takes longer.
        failures: how many times in a row a host cannot be reached before it is left alone.
        pause: how long it is then left alone at first; each failed attempt doubles that, up to 15 minutes.
        throttle: how long a credential waits that was throttled without a Retry-After; doubled like `pause`.
    """

    concurrency: int = 8
    per_namespace: int = 64
    lanes: int = 1000
    settle: float = 1.0
    failures: int = 5
    pause: timedelta = timedelta(seconds=15)
    throttle: timedelta = timedelta(seconds=30)


@dataclass(slots=True)
class _Wait:
    """Until when something is not asked; `strikes` counts what led there in a row, `reason` is the last one's."""

    until: datetime
    reason: str
    strikes: int = 1


@dataclass(frozen=True, slots=True)
class Setback:
    """A place gave nothing: it was asked in vain, or must not be asked. `reason` is a condition's, also for the latter.

    `is_scarce`: what is lacking comes back bit by bit, so that not all who wait for it can have it at `until`.
    """

    host: str
    reason: str
    outcome: Failed | Deferred
    is_scarce: bool = False


@dataclass(eq=False, slots=True)
class _Flight(Generic[K]):
    """One question at one place, queued or under way, and the (key, tag) pairs that wait for its answer."""

    asks: Question
    identity: Hashable
    waiting: dict[tuple[K, str], None] = field(default_factory=dict)
    queues: dict[str, None] = field(default_factory=dict)  # the namespaces in whose turns it may be started
    namespace: str = ""  # in whose turn it was started
    begun: datetime | None = None

    @property
    def is_started(self) -> bool:
        return self.begun is not None


@dataclass(eq=False, slots=True)
class _Pending(Generic[K]):
    """A ticket without an answer: the question at the place that is asked, and what came of the places before."""

    ticket: Ticket
    asks: Question
    setbacks: tuple[Setback, ...]
    flight: _Flight[K]
    lane: _Lane[K]


@dataclass(frozen=True, slots=True)
class _Find:
    """What a lookup or a listing and its fallbacks found: at which place of them, begun and answered when.

    `claim` is set where the registry only confirmed a digest, and which image that stands for is the asker's word.
    """

    found: Resolved | Listed
    place: int
    claim: Served | None
    begun: datetime
    at: datetime

    @property
    def weight(self) -> int:
        """Bytes, of what may have many; of an image there is little to remember."""
        return sum(len(tag) + _TAG_BYTES for tag in self.found.tags) if isinstance(self.found, Listed) else 0


class _Lane(Generic[K]):
    """The queue of one host, and what is known about the host."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.under_way = 0
        self.flights: dict[Hashable, _Flight[K]] = {}  # the youngest of each question, queued or under way
        self.tickets: Counter[K] = Counter()  # unanswered ones
        self.namespaces: Counter[str] = Counter()  # of these
        self.windows: dict[str, _Wait] = {}  # by the credential's fingerprint
        self.breaker: _Wait | None = None
        self.failures = 0
        self.has_new_hold = False  # the queue may hold what must wait by now
        self.exhausted: dict[str, datetime] = {}  # by the fingerprint, until when the queue needs no other look
        self.timer: asyncio.TimerHandle | None = None  # until the host's pace lets the next one begin
        self._queued: dict[_Flight[K], None] = {}
        self._turns: OrderedDict[str, OrderedDict[_Flight[K], None]] = OrderedDict()

    @property
    def length(self) -> int:
        return len(self._queued)

    @property
    def is_idle(self) -> bool:
        return not self._queued and not self.under_way

    def put(self, flight: _Flight[K], namespace: str) -> None:
        """Queue a flight in a namespace's turn. One that several namespaces wait for stands in all their queues."""
        self._queued[flight] = None
        turn = self._turns.get(namespace)
        if turn is None:
            turn = self._turns[namespace] = OrderedDict()
        turn[flight] = None
        flight.queues[namespace] = None

    def drop(self, flight: _Flight[K]) -> None:
        """Take a queued flight out of the queue."""
        del self._queued[flight]
        for namespace in flight.queues:
            turn = self._turns[namespace]
            del turn[flight]
            if not turn:
                del self._turns[namespace]
        flight.queues = {}

    def forget(self, flight: _Flight[K]) -> None:
        """No ticket joins the flight any more."""
        if self.flights.get(flight.identity) is flight:
            del self.flights[flight.identity]

    def take(self, may_fly: Callable[[str], bool], now: datetime) -> _Flight[K] | None:
        """The next flight, begun now; namespaces take turns, and those that may not fly now are passed over."""
        for _ in range(len(self._turns)):
            namespace, turn = next(iter(self._turns.items()))
            self._turns.move_to_end(namespace)
            if may_fly(namespace):
                flight = next(iter(turn))
                self.drop(flight)
                flight.namespace, flight.begun = namespace, now
                return flight
        return None

    def queued(self) -> tuple[_Flight[K], ...]:
        return tuple(self._queued)


class Lanes(Generic[K]):
    """Answers tickets. One event loop only; no method waits, except `run` and `close`.

    Args:
        ask: asks a registry; `RegistryClient.answer`.
        clock: aware, UTC.
        ready: told a key when answers for it can be fetched by `peek`; it must not block.
        on_throttle: told the host and the cause ("retry-after", "quota", "unreachable" or "lanes") of each deferral.
        quota: the client's own; without it nothing is paced.
    """

    def __init__(
        self,
        ask: Callable[[Question], Awaitable[Found]],
        *,
        clock: Callable[[], datetime],
        ready: Callable[[K], None],
        limits: Limits = Limits(),
        on_throttle: OnThrottle | None = None,
        quota: Quota | None = None,
    ) -> None:
        self._ask = ask
        self._clock = clock
        self._ready = ready
        self._limits = limits
        self._on_throttle = on_throttle
        self._quota = quota
        self._lanes: OrderedDict[tuple[str, str], _Lane[K]] = OrderedDict()
        self._pending: dict[K, dict[str, _Pending[K]]] = {}
        self._arrived: dict[K, dict[str, Answer]] = {}
        self._timers: dict[K, asyncio.TimerHandle] = {}
        self._under_way: Counter[str] = Counter()  # by namespace
        self._busy: Counter[str] = Counter()  # by namespace, the lanes with tickets of it
        self._passed_over: dict[str, OrderedDict[_Lane[K], None]] = {}  # lanes where a namespace was not let fly
        self._finds: Recent[Hashable, _Find] = Recent(
            _MAX_FINDS, clock=clock, life=_FIND_LIFE, weight=lambda find: find.weight, capacity=_FIND_BYTES
        )
        self._tasks: asyncio.TaskGroup | None = None
        self._workers: set[asyncio.Task[None]] = set()
        self._closing = asyncio.Event()
        self._ended = asyncio.Event()

    # --- lifecycle

    async def run(self) -> None:
        """Work until `close`, or until cancelled. What was submitted before waits for this."""
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                for lane in tuple(self._lanes.values()):
                    self._pump(lane)
                await self._closing.wait()
                self._tasks = None
                for worker in self._workers:
                    worker.cancel()
        finally:
            self._tasks = None
            self._ended.set()
            for timer in self._timers.values():
                timer.cancel()
            for lane in self._lanes.values():
                if lane.timer:
                    lane.timer.cancel()

    async def close(self) -> None:
        """Abandon what is queued and under way; returns when no worker is left."""
        was_running = self._tasks is not None
        self._closing.set()
        if was_running:
            await self._ended.wait()

    # --- for reconcilers

    def submit(self, key: K, tickets: Iterable[Ticket]) -> None:
        """Have tags looked up. A newer ticket for a tag replaces an older one, whose answer is then dropped.

        A ticket that asks what is being asked already (same stream, source and request) changes nothing, except that
        the answer then counts for its slot.
        """
        if self._closing.is_set():
            return
        queued: dict[_Lane[K], None] = {}
        answered: dict[_Lane[K] | None, None] = {}
        is_recalled = False
        for ticket in tickets:
            if self._is_asked(key, ticket):
                continue
            self._withdraw(key, ticket.tag)
            self._drop_arrived(key, ticket.tag)
            if recalled := self._recall(ticket):
                self._arrive(key, recalled)
                is_recalled = True
                continue
            lane, is_queued = self._seek(key, ticket, ticket.question, ())
            if lane is not None and is_queued:
                queued[lane] = None
            else:
                answered[lane] = None
        for lane in queued:
            self._pump(lane)
        is_done = is_recalled and key not in self._pending
        if is_done or any(lane is None or key not in lane.tickets for lane in answered):
            self._report(key)

    def peek(self, key: K) -> tuple[Answer, ...]:
        """The answers that have arrived and are not acknowledged, in the order of arrival."""
        return tuple(self._arrived.get(key, {}).values())

    def acknowledge(self, key: K, answers: Iterable[Answer]) -> None:
        """Forget answers that have been written; one that has been replaced since stays."""
        arrived = self._arrived.get(key)
        if arrived is None:
            return
        for answer in answers:
            if arrived.get(answer.ticket.tag) is answer:
                del arrived[answer.ticket.tag]
        if not arrived:
            del self._arrived[key]
            self._cancel_timer(key)

    def forget(self, key: K) -> None:
        """The stream is gone: its questions are withdrawn and its answers dropped."""
        for tag in tuple(self._pending.get(key, ())):
            self._withdraw(key, tag)
        self._arrived.pop(key, None)
        self._cancel_timer(key)

    def pending(self, key: K) -> frozenset[str]:
        """The tags that are still being asked for."""
        return frozenset(self._pending.get(key, ()))

    def load(self) -> tuple[int, int]:
        """How many lookups are queued, and how many under way, at all hosts."""
        return sum(lane.length for lane in self._lanes.values()), self._under_way.total()

    # --- tickets

    def _is_asked(self, key: K, ticket: Ticket) -> bool:
        pending = self._pending.get(key, {}).get(ticket.tag)
        if pending is not None and _is_same_wish(pending.ticket, ticket):
            if pending.ticket.question == ticket.question:
                pending.ticket = replace(ticket, slot=max(ticket.slot, pending.ticket.slot))
            return True
        arrived = self._arrived.get(key, {}).get(ticket.tag)
        return arrived is not None and _is_same_wish(arrived.ticket, ticket) and ticket.slot <= arrived.ticket.slot

    def _withdraw(self, key: K, tag: str) -> None:
        tags = self._pending.get(key, {})
        pending = tags.pop(tag, None)
        if pending is None:
            return
        if not tags:
            del self._pending[key]
        self._answered(pending.lane, key)
        flight = pending.flight
        del flight.waiting[key, tag]
        # One that is under way goes on: it is bounded in time, and its answer may serve others that join it.
        if not flight.waiting and flight.queues:
            pending.lane.drop(flight)
            pending.lane.forget(flight)

    def _seek(
        self, key: K, ticket: Ticket, asks: Question, setbacks: tuple[Setback, ...]
    ) -> tuple[_Lane[K] | None, bool]:
        """Queue a ticket at the first place that may be asked; if there is none it is answered.

        Gives the lane of the last place that was considered, and whether the ticket is queued there.
        """
        lane: _Lane[K] | None = None
        following: Question | None = asks
        while following is not None:
            asks = following
            lane = self._lane(key, asks.transport)
            hold = self._crowded(asks.transport.host) if lane is None else self._hold(lane, asks)
            if lane is not None and hold is None:
                self._enqueue(lane, key, ticket, asks, setbacks)
                return lane, True
            if hold is not None:
                setbacks = (*setbacks, hold)
            following = asks.fallback
        self._arrive(key, Answer(ticket, self._in_turn(key, setbacks), self._clock()))
        return lane, False

    def _enqueue(self, lane: _Lane[K], key: K, ticket: Ticket, asks: Question, setbacks: tuple[Setback, ...]) -> None:
        identity = _identity(asks)
        flight = lane.flights.get(identity)
        # A request is answered by a lookup that begins after it; anybody else by what is under way.
        if flight is None or (flight.is_started and ticket.request):
            flight = lane.flights[identity] = _Flight(asks, identity)
        if not flight.is_started:
            lane.put(flight, key[0])
        flight.waiting[key, ticket.tag] = None
        lane.tickets[key] += 1
        lane.namespaces[key[0]] += 1
        if lane.namespaces[key[0]] == 1:
            self._busy[key[0]] += 1
        self._pending.setdefault(key, {})[ticket.tag] = _Pending(ticket, asks, setbacks, flight, lane)

    def _answered(self, lane: _Lane[K], key: K) -> None:
        """Count one ticket less."""
        _uncount(lane.tickets, key)
        if not _uncount(lane.namespaces, key[0]):
            _uncount(self._busy, key[0])

    def _land(self, lane: _Lane[K], flight: _Flight[K], came: Found | Setback) -> None:
        """Hand what came to all that wait for it, or have them go on to their next place; then report those keys for
        which the lane has nothing more.
        """
        at = self._clock()
        keys: dict[K, None] = {}
        moved: dict[_Lane[K], None] = {}
        waiting, flight.waiting = flight.waiting, {}
        for key, tag in waiting:
            tags = self._pending[key]
            pending = tags.pop(tag)
            if not tags:
                del self._pending[key]
            self._answered(lane, key)
            keys[key] = None
            if not isinstance(came, Setback):
                self._remember(pending, came, at)
                self._arrive(key, Answer(pending.ticket, _own(came, pending.asks), at))
                continue
            setbacks = (*pending.setbacks, came)
            if pending.asks.fallback is None:
                self._arrive(key, Answer(pending.ticket, self._in_turn(key, setbacks), at))
                continue
            following, is_queued = self._seek(key, pending.ticket, pending.asks.fallback, setbacks)
            if following is not None and is_queued:
                moved[following] = None
        for other in moved:
            self._pump(other)
        for key in keys:
            if key not in lane.tickets and key in self._arrived:
                self._report(key)

    def _in_turn(self, key: K, setbacks: tuple[Setback, ...]) -> Failed | Deferred:
        """What the places come to. Namespaces that wait for the same few come back at different times, and not in the
        same order each time, or the first would have them all.
        """
        outcome = verdict(setbacks)
        if not isinstance(outcome, Deferred) or not any(setback.is_scarce for setback in setbacks):
            return outcome
        spread = max(min(_SPREAD, outcome.until - self._clock()), timedelta())
        share = zlib.crc32(f"{key[0]} {outcome.until.isoformat()}".encode()) / (1 << 32)
        return replace(outcome, until=outcome.until + spread * share)

    # --- answers

    def _remember(self, pending: _Pending[K], came: Found, at: datetime) -> None:
        asked, asks, begun = pending.ticket.question, pending.asks, pending.flight.begun
        if isinstance(asked, Description) or isinstance(came, Described) or begun is None:
            return
        known = asks.known if isinstance(asks, Lookup) else None
        claim = known if isinstance(came, Resolved) and came.served == known else None
        find = _Find(came, len(pending.setbacks), claim, begun, at)
        whole = _whole(asked)
        before = self._finds.get(whole)
        if before is None or before.begun <= begun:
            self._finds.put(whole, find)

    def _recall(self, ticket: Ticket) -> Answer | None:
        """What was found of late, for a ticket that takes it, as its own question would have come out."""
        asks = ticket.question
        if not ticket.fresh > 0 or isinstance(asks, Description):
            return None
        find = self._finds.get(_whole(asks))
        if find is None or not 0 <= (self._clock() - find.begun).total_seconds() <= ticket.fresh:
            return None
        found = _recalled(find, asks)
        return Answer(ticket, found, find.at) if found is not None else None

    def _arrive(self, key: K, answer: Answer) -> None:
        self._drop_arrived(key, answer.ticket.tag)
        self._arrived.setdefault(key, {})[answer.ticket.tag] = answer
        if key not in self._timers:
            loop = asyncio.get_running_loop()
            self._timers[key] = loop.call_later(self._limits.settle, self._report, key)

    def _drop_arrived(self, key: K, tag: str) -> None:
        arrived = self._arrived.get(key)
        if arrived is None:
            return
        arrived.pop(tag, None)
        if not arrived:
            del self._arrived[key]
            self._cancel_timer(key)

    def _report(self, key: K) -> None:
        self._cancel_timer(key)
        self._ready(key)

    def _cancel_timer(self, key: K) -> None:
        if timer := self._timers.pop(key, None):
            timer.cancel()

    # --- lanes

    def _lane(self, key: K, transport: Transport) -> _Lane[K] | None:
        """The lane of a host; None where there would be too many."""
        # With the port that https has anyway it is the same host, though not for credentials.
        port = HTTPS_PORT if transport.endpoint.startswith("https:") else ""
        name = (transport.host.removesuffix(port), transport.endpoint.removesuffix(port))
        if lane := self._lanes.get(name):
            self._lanes.move_to_end(name)
            return lane
        limit = self._limits.lanes
        if self._busy[key[0]] >= max(1, limit // 4):
            return None
        if len(self._lanes) >= limit and not self._evict():
            return None
        lane = self._lanes[name] = _Lane(transport.host)
        return lane

    def _evict(self) -> bool:
        """Forget the lane that was idle for longest, one that nothing is waited for if there is such."""
        now = self._clock()
        idle = [name for name, lane in self._lanes.items() if lane.is_idle]
        calm = [name for name in idle if not _is_waited_for(self._lanes[name], now)]
        for name in (calm or idle)[:1]:
            del self._lanes[name]
        return bool(idle)

    def _hold(self, lane: _Lane[K], asks: Question) -> Setback | None:
        """Why a question must not be asked now, if so."""
        now, host = self._clock(), lane.host
        if lane.breaker is not None and lane.breaker.until > now:
            why = f"{host} cannot be reached"
            return self._defer(host, "unreachable", lane.breaker.until, why, lane.breaker.reason)
        # A login that must wait does not stop those beside it: the client passes it over.
        holds = [self._hold_of(lane, asks, fingerprint, now) for fingerprint in _fingerprints(asks)]
        waiting = [hold for hold in holds if hold is not None]
        if len(waiting) < len(holds):
            return None
        until, window = min(waiting, key=lambda hold: hold[0])
        if window is None:
            return self._exhausted(host, until)
        return self._defer(host, "retry-after", until, f"{host} asks to wait", window.reason)

    def _hold_of(
        self, lane: _Lane[K], asks: Question, fingerprint: str, now: datetime
    ) -> tuple[datetime, _Wait | None] | None:
        """Until when a credential must wait, and the window if that is why; None where it need not."""
        window = lane.windows.get(fingerprint)
        if window is not None and window.until <= now:
            window = None
        # Whether a tag has moved is still asked when no pulls are left: that is a HEAD.
        is_pull = isinstance(asks, Description) or (isinstance(asks, Lookup) and asks.known is None)
        scarce = self._quota.held_until(lane.host, fingerprint, is_pull=is_pull) if self._quota else None
        if window is not None and (scarce is None or window.until >= scarce):
            return window.until, window
        return (scarce, None) if scarce is not None else None

    def _crowded(self, host: str) -> Setback:
        until = self._clock() + self._limits.pause
        return self._defer(host, "lanes", until, "too many different registries are being asked", "Deferred")

    def _exhausted(self, host: str, until: datetime) -> Setback:
        setback = self._defer(host, "quota", until, f"{host} allows no more for now", RateLimited.reason)
        return replace(setback, is_scarce=True)

    def _defer(self, host: str, cause: str, until: datetime, why: str, reason: str) -> Setback:
        if self._on_throttle:
            self._on_throttle(host, cause)
        return Setback(host, reason, Deferred(until, why))

    def _defer_queued(self, lane: _Lane[K]) -> None:
        """Answer what is queued and must wait from now on."""
        lane.has_new_hold = False
        held = [(flight, hold) for flight in lane.queued() if (hold := self._hold(lane, flight.asks))]
        # None of them is in the queue when the first one lands: its next place may be in this lane, which then goes on.
        for flight, _ in held:
            lane.drop(flight)
            lane.forget(flight)
        for flight, hold in held:
            self._land(lane, flight, hold)

    # --- workers

    def _pump(self, lane: _Lane[K]) -> None:
        """Let as many workers run as there is work for."""
        while self._tasks is not None and (flight := self._next(lane)):
            # Not in the context of whoever submits: its log fields are not the worker's.
            worker = self._tasks.create_task(self._work(lane, flight), context=contextvars.Context())
            self._workers.add(worker)
            worker.add_done_callback(self._workers.discard)

    def _next(self, lane: _Lane[K]) -> _Flight[K] | None:
        """Start the lane's next flight, if it may have one more under way."""
        # Here, and not where that is learned: a next place in this very lane lets the queue go on before.
        if lane.has_new_hold:
            self._defer_queued(lane)
        # After failures one lookup goes first, to see whether the host is there again.
        limit = 1 if lane.breaker is not None else self._limits.concurrency
        if lane.under_way >= limit or not lane.length or self._is_early(lane):
            return None

        def may_fly(namespace: str) -> bool:
            if self._under_way[namespace] < self._limits.per_namespace:
                return True
            self._passed_over.setdefault(namespace, OrderedDict())[lane] = None
            return False

        flight = lane.take(may_fly, self._clock())
        if flight is not None:
            lane.under_way += 1
            self._under_way[flight.namespace] += 1
            if self._quota is not None:
                self._quota.begin(lane.host)
        return flight

    def _is_early(self, lane: _Lane[K]) -> bool:
        """Whether the host's pace lets none begin now; then the lane is looked at again in time."""
        at = self._quota.ready_at(lane.host) if self._quota is not None else None
        if at is None:
            return False
        if lane.timer is None:
            seconds = min(max((at - self._clock()).total_seconds(), _SHORTEST_NAP), _LONGEST_NAP)
            lane.timer = asyncio.get_running_loop().call_later(seconds, self._wake, lane, context=contextvars.Context())
        return True

    def _wake(self, lane: _Lane[K]) -> None:
        lane.timer = None
        self._pump(lane)

    async def _work(self, lane: _Lane[K], flight: _Flight[K] | None) -> None:
        while flight is not None:
            came = await self._came(lane, flight.asks)
            lane.under_way -= 1
            lane.forget(flight)
            _uncount(self._under_way, flight.namespace)
            self._land(lane, flight, came)
            self._hand_on(flight.namespace)
            flight = self._next(lane)
            self._pump(lane)

    def _hand_on(self, namespace: str) -> None:
        """Let another lane have what a namespace may have under way now; lanes take turns."""
        lanes = self._passed_over.get(namespace)
        while lanes and self._under_way[namespace] < self._limits.per_namespace:
            lane, _ = lanes.popitem(last=False)
            self._pump(lane)
        if not lanes:
            self._passed_over.pop(namespace, None)

    async def _came(self, lane: _Lane[K], asks: Question) -> Found | Setback:
        try:
            found = await self._ask(asks)
        except Exhausted as error:  # nothing was sent, so nothing is known of the host
            self._look_once(lane, error.fingerprint, error.until)
            return self._exhausted(lane.host, error.until)
        except RegistryError as error:
            self._learn(lane, asks, error)
            return Setback(lane.host, error.reason, Failed(error.reason, error.message, error.retryable))
        except Exception:  # a worker must outlive a bug
            log.exception("lookup failed", registry=lane.host)
            words = "the lookup failed inside the controller; its log has more"
            return Setback(lane.host, "InternalError", Failed("InternalError", words, retryable=True))
        self._learn(lane, asks, None)
        return found

    # --- what answers say about the host

    def _look_once(self, lane: _Lane[K], fingerprint: str, until: datetime) -> None:
        """Have the queue looked at for what the quota holds back now: once, and not for each that finds out."""
        now = self._clock()
        seen = lane.exhausted.get(fingerprint)
        if seen is not None and seen > now:
            return
        if len(lane.exhausted) >= _MAX_WINDOWS:
            lane.exhausted.clear()
        lane.exhausted[fingerprint] = until
        lane.has_new_hold = True

    def _learn(self, lane: _Lane[K], asks: Question, error: RegistryError | None) -> None:
        if error is not None and error.sign is not Sign.ANSWER:
            if error.sign is Sign.SILENCE:
                self._learn_silence(lane, error.reason)
            return
        lane.failures, lane.breaker = 0, None
        if isinstance(error, RateLimited) and error.is_pull_limit and self._quota is not None:
            until = self._quota.held_until(lane.host, error.fingerprint, is_pull=True)
            if until is not None:
                self._look_once(lane, error.fingerprint, until)
                return
        throttled = isinstance(error, RateLimited) or (isinstance(error, Unavailable) and error.retry_after is not None)
        if error is not None and throttled:
            self._learn_throttling(lane, asks, error)
        elif error is None:
            for fingerprint in _fingerprints(asks):
                window = lane.windows.get(fingerprint)
                if window is not None and window.until <= self._clock():
                    del lane.windows[fingerprint]

    def _learn_silence(self, lane: _Lane[K], reason: str) -> None:
        lane.failures += 1
        now = self._clock()
        if lane.failures < self._limits.failures or (lane.breaker is not None and lane.breaker.until > now):
            return
        strikes = lane.breaker.strikes + 1 if lane.breaker else 1
        lane.breaker = _Wait(now + _doubled(self._limits.pause, strikes), reason, strikes)
        lane.has_new_hold = True

    def _learn_throttling(self, lane: _Lane[K], asks: Question, error: RegistryError) -> None:
        now = self._clock()
        lane.has_new_hold = True
        fingerprints = _fingerprints(asks)
        throttled = {error.fingerprint}
        # Without a login the registry refused to say how to log in: then whoever wants to is kept out as well.
        if error.fingerprint not in fingerprints:
            throttled.add(fingerprints[0])
        for fingerprint in throttled:
            old = lane.windows.pop(fingerprint, None)
            strikes = old.strikes + (old.until <= now) if old else 1
            wait = (
                _doubled(self._limits.throttle, strikes)
                if error.retry_after is None
                else timedelta(seconds=error.retry_after)
            )
            until = max(now + wait, old.until) if old else now + wait
            if len(lane.windows) >= _MAX_WINDOWS:
                del lane.windows[min(lane.windows, key=lambda name: lane.windows[name].until)]
            lane.windows[fingerprint] = _Wait(until, error.reason, strikes)


def _is_same_wish(one: Ticket, other: Ticket) -> bool:
    return one.uid == other.uid and one.source == other.source and one.request == other.request


def verdict(setbacks: tuple[Setback, ...]) -> Failed | Deferred:
    """What it comes to that no place gave anything; they are in the order of the places.

    The last place's word counts: it is the source's own, where that may be asked. Only where it must not be asked now
    nothing is known; what failed there is said, also while a mirror is yet to be asked.
    """
    last = setbacks[-1].outcome
    deferred = [setback.outcome for setback in setbacks if isinstance(setback.outcome, Deferred)]
    if isinstance(last, Deferred):
        return min(deferred, key=lambda outcome: outcome.until)
    failed = [setback.outcome for setback in setbacks if isinstance(setback.outcome, Failed)]
    earlier = list(dict.fromkeys(f"; mirror {setback.host}: {setback.reason}" for setback in setbacks[:-1]))
    if len(earlier) > _MIRRORS_TOLD:
        earlier[_MIRRORS_TOLD - 1 :] = [f"; and {len(earlier) - _MIRRORS_TOLD + 1} more mirrors"]
    return Failed(
        last.reason,
        last.message + "".join(earlier),
        retryable=bool(deferred) or any(outcome.retryable for outcome in failed),
    )


def _own(found: Found, asks: Question) -> Found:
    """What a flight found, for a ticket of its own: the name to record is not shared with others who asked."""
    if isinstance(found, Resolved) and isinstance(asks, Lookup):
        return Resolved(found.served, asks.recorded or asks.reference)
    return found


def _recalled(find: _Find, asks: Lookup | Listing) -> Resolved | Listed | None:
    """What was found, as an equal question would have come out; None where that is the word of another asker."""
    if not isinstance(asks, Lookup) or not isinstance(find.found, Resolved):
        return find.found
    place = asks
    for _ in range(find.place):
        assert place.fallback is not None  # noqa: S101  # a part of what the find is remembered by
        place = place.fallback
    if find.claim is not None and find.claim != place.known:
        return None
    served = find.found.served
    if place.known is not None and place.known.digest == served.digest:
        served = place.known
    return Resolved(served, place.recorded or place.reference)


def _identity(asks: Question) -> Hashable:
    """Equal for questions that have equal answers at their place; what is asked elsewhere afterwards does not count.

    For a lookup that is by the canonical name, since an answer holds digests only. What is known counts too: in Legacy
    mode it is given back as it came, and another stream's status is no authority for ours. So do the secrets' names, as
    a refusal names them. A description holds the name as it was written.
    """
    reference = asks.reference
    place = (type(asks), asks.transport, reference.path, asks.credentials)
    match asks:
        case Lookup():
            target = reference.digest or reference.tag or DEFAULT_TAG
            return (*place, target, asks.mode, asks.prefer, asks.known)
        case Listing():
            return (*place, asks.limit)
        case Description():
            return (*place, str(reference))
        case _:
            assert_never(asks)


def _whole(asks: Lookup | Listing) -> Hashable:
    """Equal for questions that find the same, at whichever of their places. Unlike for `_identity` nothing counts that
    is said in a refusal only, nor what the asker knows; and it holds no password.
    """
    places: list[Hashable] = []
    place: Lookup | Listing | None = asks
    while place is not None:
        reference = place.reference
        where = (place.transport, reference.path, _fingerprints(place))
        if isinstance(place, Lookup):
            target = reference.digest or reference.tag or DEFAULT_TAG
            places.append((*where, target, place.mode, place.prefer))
        else:
            places.append((*where, place.limit))
        place = place.fallback
    return tuple(places)


def _fingerprints(asks: Question) -> tuple[str, ...]:
    """Whose credentials a question may use; the empty one is anonymous."""
    if not asks.credentials or not asks.transport.credentials:
        return ("",)
    return tuple(credential.fingerprint for credential in asks.credentials)


def _doubled(first: timedelta, times: int) -> timedelta:
    return min(first * (1 << min(times - 1, 16)), _LONGEST_WAIT)


def _is_waited_for(lane: _Lane[K], now: datetime) -> bool:
    waits = [*lane.windows.values(), *([lane.breaker] if lane.breaker else [])]
    return any(wait.until > now for wait in waits)


Counted = TypeVar("Counted")


def _uncount(counter: Counter[Counted], what: Counted) -> int:
    """Count one less; how many are left. A counter holds nothing that it counts zero of."""
    counter[what] -= 1
    left = counter[what]
    if not left:
        del counter[what]
    return left
