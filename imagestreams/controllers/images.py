"""The reconciler of Image objects: for each image in a stream's history one object, and none for what is in no history
any more.

It comes after the status and nothing waits for it: what it asks goes through the lanes like everything else, but never
more than a little at a time of one host, and nothing of a host whose pulls run short. An object that cannot be made is
tried again for some hours and then left out.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, NamedTuple

import structlog

from imagestreams import metrics
from imagestreams.core.image import (
    Places,
    Setback,
    Unreferenced,
    WantedImage,
    after_sweep,
    description_of,
    digests_of,
    images_of,
    object_name,
    places_of,
    put_off_until,
    setback_after,
)
from imagestreams.core.keychain import Entry, candidates
from imagestreams.core.lookup import Answer, Deferred, Described, Failed, Listed, Resolved, Source, Ticket
from imagestreams.core.policy import Place, Refused
from imagestreams.core.stream import ImageStream, ObjectKey
from imagestreams.kube.errors import ApiError, Forbidden, NotFound, Unavailable
from imagestreams.kube.events import EventType
from imagestreams.kube.images import ImageObjects

if TYPE_CHECKING:
    from imagestreams.kube.watch import Reflector
    from imagestreams.registry.lanes import Lanes

log = structlog.get_logger(__name__)

AGAIN: Final = frozenset({"again"})
"""Hints for the queue: credentials or the policy have changed. What is being asked is asked anew by them, and what was
given up or put off is tried once more.
"""

_MAX_DELETED = 100  # in one sweep
_CHUNK = 200  # streams that a sweep looks at before the loop has its turn
_RESERVE = 50  # pulls that are left to imports
_QUOTA_COUNTS = timedelta(hours=1)
_MAX_SHORT = 2048  # hosts and kinds of account whose pulls run short; the latest words count
_MAX_PAUSED = 256  # hosts that put a namespace off; beyond them each image is put off by itself
_SETTLE = timedelta(minutes=1)  # until the watch must have brought an object that is said to be there


class ImageKey(NamedTuple):
    """A stream in the queue of images, and in the lanes, where it must differ from the stream's own key."""

    namespace: str
    stream: str
    kind: str = "images"

    @classmethod
    def of(cls, stream: tuple[str, str]) -> ImageKey:
        return cls(*stream)

    @property
    def key(self) -> ObjectKey:
        """The stream."""
        return ObjectKey(self.namespace, self.stream)

    def __str__(self) -> str:
        return f"{self.namespace}/{self.stream}"


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """How much is done.

    Attributes:
        budget: objects that are there on behalf of one namespace.
        grace: how long an object stays that no stream refers to.
        per_namespace: images of one namespace that are asked for at a time.
        per_host: the same for one registry. It is less than a lane has workers, so that a lookup finds one free.
    """

    budget: int = 500
    grace: timedelta = timedelta(hours=24)
    per_namespace: int = 8
    per_host: int = 2


@dataclass(frozen=True, slots=True, eq=False)
class _Route:
    """Where the images of one repository are asked for; one object for all of them."""

    places: tuple[Place, ...]

    @property
    def host(self) -> str:
        """The one that is asked first."""
        return self.places[0].transport.host

    @property
    def takes_logins(self) -> bool:
        return any(place.transport.credentials for place in self.places)

    def account(self, entries: Iterable[Entry]) -> str:
        """The kind of account whose pulls are used, in the words of `ImageReconciler.heed`."""
        place = self.places[0]
        is_known = place.transport.credentials and candidates(entries, place.reference)
        return "authenticated" if is_known else "anonymous"


@dataclass(frozen=True, slots=True)
class _Asked:
    """A question under way."""

    wanted: WantedImage
    route: _Route


@dataclass(slots=True)
class _Memory:
    """What is known of a stream's images beyond what is in the cluster."""

    uid: str
    asked: dict[str, _Asked] = field(default_factory=dict)  # by digest
    setbacks: dict[str, Setback] = field(default_factory=dict)  # by digest
    waits: bool = False  # for a slot, or the end of a host's pause: it comes back by itself
    until: datetime | None = None  # when the first of its pauses and setbacks ends
    is_told: bool = False  # that the budget is spent


@dataclass(slots=True)
class _Slots:
    """Slots for questions, so many of each name (a host, a namespace).

    A key that finds none free waits, and is called in its turn; a slot is kept for it until it was reconciled. So
    whoever frees slots does not take them again while others wait.
    """

    limit: int
    taken: Counter[str] = field(default_factory=Counter)
    _waiting: dict[str, dict[ImageKey, None]] = field(default_factory=dict)
    _called: dict[str, set[ImageKey]] = field(default_factory=dict)
    _names: dict[ImageKey, set[str]] = field(default_factory=dict)  # where a key waits or was called

    @property
    def waited_for(self) -> tuple[str, ...]:
        return tuple(self._waiting)

    def take(self, name: str) -> None:
        self.taken[name] += 1

    def free(self, name: str) -> None:
        self.taken[name] -= 1
        if not self.taken[name]:
            del self.taken[name]

    def room(self, name: str, key: ImageKey | None = None) -> int:
        """How many slots the key can take now."""
        return self.limit - self.taken[name] - len(self._called.get(name, set()) - {key})

    def wait(self, name: str, key: ImageKey) -> None:
        self._waiting.setdefault(name, {})[key] = None
        self._names.setdefault(key, set()).add(name)

    def call(self, name: str) -> list[ImageKey]:
        """The keys whose turn it is; each must be reconciled."""
        waiting = self._waiting.get(name, {})
        keys = list(waiting)[: max(0, self.room(name))]
        for key in keys:
            self._drop_waiting(name, key)
            self._called.setdefault(name, set()).add(key)
        return keys

    def begin(self, key: ImageKey) -> set[str]:
        """The key is being reconciled and waits no longer; returns the names that it thought of."""
        names = self._names.pop(key, set())
        for name in names:
            self._drop_waiting(name, key)
        return names

    def end(self, key: ImageKey, names: Iterable[str]) -> None:
        """What was kept for the key is free again, if it did not take it."""
        for name in names:
            called = self._called.get(name, set())
            called.discard(key)
            if not called:
                self._called.pop(name, None)

    def _drop_waiting(self, name: str, key: ImageKey) -> None:
        waiting = self._waiting.get(name, {})
        waiting.pop(key, None)
        if not waiting:
            self._waiting.pop(name, None)


class ImageReconciler:
    """Makes Image objects for streams' history, and deletes those that nobody refers to.

    Args:
        streams: all streams. images: all Image objects.
        lanes: where registries are asked; its `ready` must bring an `ImageKey` back to the queue.
        places: where to ask for a reference. credentials: the pull secrets that a stream may use, decoded.
        announce: tells people of something about a stream (a Kubernetes Event); must not wait.
        enqueue: puts a key into the queue. later: does so after so many seconds.
        clock: aware, UTC.
    """

    def __init__(
        self,
        *,
        streams: Reflector[ImageStream],
        images: ImageObjects,
        lanes: Lanes[ImageKey],
        places: Places,
        credentials: Callable[[ImageStream], Awaitable[tuple[Entry, ...]]],
        announce: Callable[[ImageStream, EventType, str, str], None],
        enqueue: Callable[[ImageKey], None],
        later: Callable[[ImageKey, float], None],
        clock: Callable[[], datetime],
        limits: ImageLimits = ImageLimits(),
    ) -> None:
        self._streams, self._images, self._lanes = streams, images, lanes
        self._places, self._credentials, self._announce = places, credentials, announce
        self._enqueue, self._later, self._clock, self._limits = enqueue, later, clock, limits
        self._memory: dict[ImageKey, _Memory] = {}
        self._hosts = _Slots(limits.per_host)
        self._namespaces = _Slots(limits.per_namespace)
        # Until when a host is not asked: by namespace, and by host and kind of account.
        self._paused: dict[str, dict[str, datetime]] = {}
        self._short: dict[tuple[str, str], datetime] = {}
        self._unreferenced = Unreferenced()

    # --- one stream -------------------------------------------------------------------------------------------------

    async def reconcile(self, key: ImageKey, hints: frozenset[str] = frozenset()) -> None:
        """Take in what was answered for the stream, and ask for what is missing.

        Raises ApiError when the API server cannot be asked: the answers stay, and the key is to be tried again.
        """
        hosts, namespaces = self._hosts.begin(key), self._namespaces.begin(key)
        try:
            await self._carry_on(key, hints)
        finally:
            self._hosts.end(key, hosts)
            self._namespaces.end(key, namespaces)
            self._call({*namespaces, key.namespace}, hosts)

    async def _carry_on(self, key: ImageKey, hints: frozenset[str]) -> None:
        stream = self._streams.store.get(key.key)
        if stream is None:
            self.forget(key)
            return
        memory = self._memory.get(key)
        if memory is None or memory.uid != stream.metadata.uid:
            self.forget(key)
            memory = self._memory[key] = _Memory(stream.metadata.uid)
        wanted = images_of(stream)
        self._release_lost(key, memory)
        digests = {each.digest for each in wanted}
        for answer in self._lanes.peek(key):
            if answer.ticket.tag in digests:
                await self._take_in(key, memory, answer)
            self._release(key, memory, [answer.ticket.tag])
            self._lanes.acknowledge(key, (answer,))
        if hints:
            self._begin_anew(key, memory)
        if self._images.synced.is_set():
            await self._ask(key, stream, memory, wanted)

    def _begin_anew(self, key: ImageKey, memory: _Memory) -> None:
        """Drop what was asked by rules and credentials of before, and what they gave up or put off."""
        self._lanes.forget(key)
        self._release(key, memory, tuple(memory.asked))
        self._paused.pop(key.namespace, None)
        memory.setbacks = {
            digest: setback
            for digest, setback in memory.setbacks.items()
            if not (setback.is_final or setback.is_put_off)
        }

    def forget(self, key: ImageKey) -> None:
        """The stream is gone."""
        self._lanes.forget(key)
        memory = self._memory.pop(key, None)
        if memory is not None:
            self._release(key, memory, tuple(memory.asked))

    def close(self) -> None:
        """No image is to be described by this any more: what is under way is withdrawn."""
        for key in self._memory:
            self._lanes.forget(key)
        self._memory.clear()

    def note(self, stream: ImageStream) -> None:
        """What the stream refers to is in use. To be told of each stream that is new or has changed, at once: while a
        sweep deletes, a reconcile may come too late.
        """
        self._unreferenced = self._unreferenced.without({object_name(digest) for digest in digests_of(stream)})

    def heed(self, host: str, account: str, remaining: int) -> None:
        """A registry has said how many pulls are left to an account ("anonymous" or "authenticated"): the last ones are
        not for images. Who asks with the other kind of account has pulls of his own.
        """
        self._short.pop((host, account), None)
        if remaining < _RESERVE:
            if len(self._short) >= _MAX_SHORT:
                del self._short[next(iter(self._short))]
            self._short[host, account] = self._clock() + _QUOTA_COUNTS

    # --- answers ----------------------------------------------------------------------------------------------------

    async def _take_in(self, key: ImageKey, memory: _Memory, answer: Answer) -> None:
        digest, outcome = answer.ticket.tag, answer.outcome
        match outcome:
            case Described(body=body) if digest in memory.asked:
                await self._create(key, memory, memory.asked[digest].wanted, body)
            case Failed(reason=reason, message=message, retryable=retryable):
                self._fail(key, memory, digest, f"{reason}: {message}", retryable=retryable)
            case Deferred(until=until):
                if asked := memory.asked.get(digest):
                    self._put_off(key, memory, asked, until)
            case Described() | Resolved() | Listed():
                pass  # of a stream that was created anew meanwhile; or nothing that was asked here

    async def _create(self, key: ImageKey, memory: _Memory, wanted: WantedImage, body: bytes) -> None:
        try:
            is_new = await self._images.create(body, namespace=key.namespace, reference=wanted.recorded)
        except ApiError as error:
            # A right or CRD that is missing may come; a 5xx may be about this very object, so it is not waited for with
            # the answer in hand.
            may_pass = isinstance(error, Forbidden | NotFound | Unavailable)
            if error.retryable and not may_pass:
                raise
            self._fail(key, memory, wanted.digest, f"{error.reason}: {error.message}", retryable=may_pass)
            return
        memory.setbacks.pop(wanted.digest, None)
        if is_new:
            metrics.image_objects.labels("created").inc()
        elif not self._images.has(wanted.digest):
            memory.setbacks[wanted.digest] = Setback(0, self._clock() + _SETTLE)
        log.debug("image object is there", **_fields(key), digest=wanted.digest, is_new=is_new)

    def _fail(self, key: ImageKey, memory: _Memory, digest: str, why: str, *, retryable: bool) -> None:
        setback = setback_after(memory.setbacks.get(digest), retryable=retryable, now=self._clock())
        memory.setbacks[digest] = setback
        metrics.image_objects.labels("failed").inc()
        log.info(
            "image object is not made",
            **_fields(key),
            digest=digest,
            reason=why,
            again=setback.again.isoformat() if setback.again else "never",
        )

    def _put_off(self, key: ImageKey, memory: _Memory, asked: _Asked, until: datetime) -> None:
        """Somebody must not be asked before `until` with the credentials of the namespace; others may have their own.

        Where there are several places nobody knows which of them it is: another image may be had at the first.
        """
        paused = self._paused.setdefault(key.namespace, {})
        host = asked.route.host
        if len(asked.route.places) == 1 and (host in paused or len(paused) < _MAX_PAUSED):
            paused[host] = until
        else:
            digest = asked.wanted.digest
            memory.setbacks[digest] = put_off_until(memory.setbacks.get(digest), until)

    # --- questions --------------------------------------------------------------------------------------------------

    async def _ask(self, key: ImageKey, stream: ImageStream, memory: _Memory, wanted: tuple[WantedImage, ...]) -> None:
        """Ask for what is missing, as far as there is room."""
        now = self._clock()
        missing = [each for each in wanted if not self._images.has(each.digest)]
        digests = {each.digest for each in missing}
        memory.setbacks = {digest: setback for digest, setback in memory.setbacks.items() if digest in digests}
        open_ = [each for each in missing if each.digest not in memory.asked and not _is_held(memory, each.digest, now)]
        memory.waits = False
        moments: list[datetime] = []
        if open_ and self._has_budget(key, stream, memory):
            routed = self._routed(key, memory, open_)
            # Whose pulls would be used is known by the credentials.
            has_logins = any(route.takes_logins for _, route in routed)
            entries = await self._credentials(stream) if has_logins else ()
            chosen, moments = self._choose(key, stream, memory, routed, entries)
            self._submit(key, stream, chosen, entries)
        moments += [setback.again for setback in memory.setbacks.values() if setback.again and setback.again > now]
        memory.until = min(moments, default=None)
        if memory.until is not None:
            self._later(key, max(1.0, (memory.until - now).total_seconds()))

    def _routed(
        self, key: ImageKey, memory: _Memory, missing: Iterable[WantedImage]
    ) -> list[tuple[WantedImage, _Route]]:
        """Where each image is asked for; those that must not be are given up."""
        known: dict[object, _Route | Refused] = {}  # it follows from the repository
        routed: list[tuple[WantedImage, _Route]] = []
        for each in missing:
            repository = each.recorded.repository, each.source and each.source.repository, each.insecure
            if repository not in known:
                places = places_of(each, self._places)
                known[repository] = places if isinstance(places, Refused) else _Route(places)
            route = known[repository]
            if isinstance(route, Refused):
                self._fail(key, memory, each.digest, f"{route.reason}: {route.message}", retryable=False)
            else:
                routed.append((each, route))
        return routed

    def _choose(
        self,
        key: ImageKey,
        stream: ImageStream,
        memory: _Memory,
        routed: Iterable[tuple[WantedImage, _Route]],
        entries: tuple[Entry, ...],
    ) -> tuple[list[_Asked], list[datetime]]:
        """What is asked now, with its slots taken, and the moments at which more can be."""
        chosen: list[_Asked] = []
        pauses: dict[_Route, datetime | None] = {}
        for each, route in routed:
            if not self._has_budget(key, stream, memory):
                break
            if route not in pauses:
                pauses[route] = self._paused_until(key.namespace, route, entries)
            if pauses[route] is not None:
                memory.waits = True
                continue
            if self._namespaces.room(key.namespace, key) <= 0:
                memory.waits = True
                self._namespaces.wait(key.namespace, key)
                break
            if self._hosts.room(route.host, key) <= 0:
                memory.waits = True
                self._hosts.wait(route.host, key)
                continue
            self._hosts.take(route.host)
            self._namespaces.take(key.namespace)
            asked = memory.asked[each.digest] = _Asked(each, route)
            chosen.append(asked)
        return chosen, [until for until in pauses.values() if until is not None]

    def _submit(self, key: ImageKey, stream: ImageStream, chosen: Iterable[_Asked], entries: tuple[Entry, ...]) -> None:
        self._lanes.submit(
            key,
            [
                Ticket(
                    uid=stream.metadata.uid,
                    tag=asked.wanted.digest,
                    source=Source("DockerImage", str(asked.wanted.recorded)),
                    request="",
                    slot=0,
                    question=description_of(asked.wanted.digest, asked.route.places, entries),
                )
                for asked in chosen
            ],
        )

    def _has_budget(self, key: ImageKey, stream: ImageStream, memory: _Memory) -> bool:
        """Whether the namespace may have one object more; said once to those who look at the stream when it may not."""
        if self._images.count(key.namespace) + self._namespaces.taken[key.namespace] < self._limits.budget:
            memory.is_told = False
            return True
        if self._images.count(key.namespace) >= self._limits.budget and not memory.is_told:
            memory.is_told = True
            metrics.image_objects.labels("over_budget").inc()
            self._announce(
                stream,
                "Warning",
                "ImageBudgetSpent",
                f"there are {self._limits.budget} Image objects for images that this namespace was the first to use, "
                "and no more are made: keep less history or fewer tags, or ask an administrator "
                "for a larger --image-object-budget. Imports and rollouts go on",
            )
        return False

    def _paused_until(self, namespace: str, route: _Route, entries: tuple[Entry, ...]) -> datetime | None:
        """Until when a namespace asks nothing of a host, if so."""
        now, host = self._clock(), route.host
        moments = [self._paused.get(namespace, {}).get(host, now)]
        if self._short:
            moments.append(self._short.get((host, route.account(entries)), now))
        return max((until for until in moments if until > now), default=None)

    # --- slots ------------------------------------------------------------------------------------------------------

    def _release_lost(self, key: ImageKey, memory: _Memory) -> None:
        """Free what is held for questions that the lanes do not know (any more)."""
        there = self._lanes.pending(key) | {answer.ticket.tag for answer in self._lanes.peek(key)}
        self._release(key, memory, [digest for digest in memory.asked if digest not in there])

    def _release(self, key: ImageKey, memory: _Memory, digests: Iterable[str]) -> None:
        """Free the slots of questions that are answered or given up, for those who wait for one."""
        hosts = set()
        for digest in digests:
            if asked := memory.asked.pop(digest, None):
                self._hosts.free(asked.route.host)
                self._namespaces.free(key.namespace)
                hosts.add(asked.route.host)
        if hosts:
            self._call({key.namespace}, hosts)

    def _call(self, namespaces: Iterable[str], hosts: Iterable[str]) -> None:
        """Let those who wait have what is free now."""
        for slots, names in ((self._namespaces, namespaces), (self._hosts, hosts)):
            for name in names:
                for key in slots.call(name):
                    self._enqueue(key)

    # --- all streams ------------------------------------------------------------------------------------------------

    async def sweep(self) -> None:
        """Look at all streams once: enqueue those with images that have no object, and delete the objects that none has
        referred to for the grace time.

        To be called about once a minute, and not again before it has returned. It does nothing while it cannot be sure
        what there is, and never raises ApiError.
        """
        if not self._is_certain():
            return
        now = self._clock()
        self._end_pauses(now)
        unreferenced = {image.name for image in self._images.ours()}
        for number, name in enumerate(tuple(self._streams.store)):
            if number % _CHUNK == 0:
                await asyncio.sleep(0)
            if (stream := self._streams.store.get(name)) is not None:
                self._look_at(ImageKey.of(name), stream, unreferenced, now)
        self._call(self._namespaces.waited_for, self._hosts.waited_for)
        if self._knows_all_references():
            await self._delete(unreferenced, now)

    def _end_pauses(self, now: datetime) -> None:
        self._short = {name: until for name, until in self._short.items() if until > now}
        for namespace, paused in tuple(self._paused.items()):
            lasting = {host: until for host, until in paused.items() if until > now}
            if lasting:
                self._paused[namespace] = lasting
            else:
                del self._paused[namespace]

    def _is_certain(self) -> bool:
        """Whether both caches are whole and fresh: what they do not show is not there."""
        return (
            self._streams.store.synced.is_set()
            and self._images.synced.is_set()
            and self._streams.live
            and self._images.live
        )

    def _knows_all_references(self) -> bool:
        """Whether what no stream seems to have is in use nowhere: a stream that cannot be read may have any image."""
        return self._is_certain() and not self._streams.unread

    def _look_at(self, key: ImageKey, stream: ImageStream, unreferenced: set[str], now: datetime) -> None:
        has_missing = False
        for digest in digests_of(stream):
            unreferenced.discard(object_name(digest))
            has_missing = has_missing or not self._images.has(digest)
        memory = self._memory.get(key)
        # The queue keeps the first delay that a key was given, though a shorter one may have come since.
        waits = memory is not None and memory.waits and not (memory.until and memory.until <= now)
        if has_missing and not waits and self._images.count(key.namespace) < self._limits.budget:
            wanted = (each.digest for each in images_of(stream) if not self._images.has(each.digest))
            if any(memory is None or not (each in memory.asked or _is_held(memory, each, now)) for each in wanted):
                self._enqueue(key)

    async def _delete(self, unreferenced: set[str], now: datetime) -> None:
        self._unreferenced, expired = after_sweep(
            self._unreferenced, unreferenced, now=now, grace=self._limits.grace, has_streams=bool(self._streams.store)
        )
        deleted = 0
        for name in expired[:_MAX_DELETED]:
            image = self._images.find(name)
            # A stream may have come to refer to it, or a watch have ended, while others were deleted.
            if image is None or name not in self._unreferenced.since or not self._knows_all_references():
                continue
            try:
                deleted += await self._images.delete(image)
            except ApiError as error:
                log.warning("image object cannot be deleted", image=name, reason=error.message)
                break
        if deleted:
            metrics.image_objects.labels("deleted").inc(deleted)
            log.info("image objects deleted that no stream refers to", objects=deleted)


def _is_held(memory: _Memory, digest: str, now: datetime) -> bool:
    setback = memory.setbacks.get(digest)
    return setback is not None and setback.holds(now)


def _fields(key: ImageKey) -> dict[str, str]:
    return {"namespace": key.namespace, "imagestream": key.stream}
