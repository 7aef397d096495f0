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
    setback_after,
)
from imagestreams.core.keychain import Entry
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
"""Hints for the queue: what was given up is tried once more, as credentials or the policy have changed."""

_MAX_DELETED = 100  # in one sweep
_CHUNK = 200  # streams that a sweep looks at before the loop has its turn
_RESERVE = 50  # pulls that are left to imports
_QUOTA_COUNTS = timedelta(hours=1)
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


@dataclass(slots=True)
class _Memory:
    """What is known of a stream's images beyond what is in the cluster."""

    uid: str
    asked: dict[str, tuple[WantedImage, str]] = field(default_factory=dict)  # by digest, with the host
    setbacks: dict[str, Setback] = field(default_factory=dict)  # by digest
    waits: bool = False  # for a slot, or the end of a host's pause: it comes back by itself
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
        self._paused: dict[str, datetime] = {}  # hosts that are not asked for images now
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
        self._unreferenced = self._unreferenced.without({object_name(each.digest) for each in wanted})
        self._release_lost(key, memory)
        digests = {each.digest for each in wanted}
        for answer in self._lanes.peek(key):
            if answer.ticket.tag in digests:
                await self._take_in(key, memory, answer)
            self._release(key, memory, [answer.ticket.tag])
            self._lanes.acknowledge(key, (answer,))
        if self._images.synced.is_set():
            await self._ask(key, stream, memory, wanted, is_again=bool(hints))

    def forget(self, key: ImageKey) -> None:
        """The stream is gone."""
        self._lanes.forget(key)
        memory = self._memory.pop(key, None)
        if memory is not None:
            self._release(key, memory, tuple(memory.asked))

    def heed(self, host: str, account: str, remaining: int) -> None:
        """A registry has said how many pulls are left to an account: the last ones are not for images."""
        name = f"{host} {account}"
        if remaining < _RESERVE:
            self._paused[name] = self._clock() + _QUOTA_COUNTS
        else:
            self._paused.pop(name, None)

    # --- answers ----------------------------------------------------------------------------------------------------

    async def _take_in(self, key: ImageKey, memory: _Memory, answer: Answer) -> None:
        digest, outcome = answer.ticket.tag, answer.outcome
        match outcome:
            case Described(body=body) if digest in memory.asked:
                await self._create(key, memory, memory.asked[digest][0], body)
            case Failed(reason=reason, message=message, retryable=retryable):
                self._fail(key, memory, digest, f"{reason}: {message}", retryable=retryable)
            case Deferred(until=until):
                if digest in memory.asked:
                    self._paused[memory.asked[digest][1]] = until
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

    # --- questions --------------------------------------------------------------------------------------------------

    async def _ask(
        self, key: ImageKey, stream: ImageStream, memory: _Memory, wanted: tuple[WantedImage, ...], *, is_again: bool
    ) -> None:
        """Ask for what is missing, as far as there is room."""
        now = self._clock()
        missing = [each for each in wanted if not self._images.has(each.digest)]
        digests = {each.digest for each in missing}
        memory.setbacks = {
            digest: setback
            for digest, setback in memory.setbacks.items()
            if digest in digests and not (is_again and setback.is_final)
        }
        open_ = [each for each in missing if each.digest not in memory.asked and not _is_held(memory, each.digest, now)]
        chosen, hosts = self._choose(key, stream, memory, open_)
        if chosen:
            await self._submit(key, stream, memory, chosen)
        moments = [setback.again for setback in memory.setbacks.values() if setback.again and setback.again > now]
        moments += [until for host in hosts if (until := self._paused_until(host)) is not None]
        if moments:
            self._later(key, max(1.0, (min(moments) - now).total_seconds()))

    def _choose(
        self, key: ImageKey, stream: ImageStream, memory: _Memory, missing: Iterable[WantedImage]
    ) -> tuple[list[tuple[WantedImage, tuple[Place, ...]]], set[str]]:
        """What is asked now, with its slots taken, and the hosts that were thought of."""
        chosen: list[tuple[WantedImage, tuple[Place, ...]]] = []
        known: dict[object, tuple[Place, ...] | Refused] = {}  # where to ask follows from the repository
        hosts: set[str] = set()
        memory.waits = False
        for each in missing:
            if not self._has_budget(key, stream, memory):
                break
            repository = each.recorded.repository, each.source and each.source.repository, each.insecure
            if repository not in known:
                known[repository] = places_of(each, self._places)
            places = known[repository]
            if isinstance(places, Refused):
                self._fail(key, memory, each.digest, f"{places.reason}: {places.message}", retryable=False)
                continue
            host = places[0].transport.host
            hosts.add(host)
            if self._paused_until(host) is not None:
                memory.waits = True
                continue
            if self._namespaces.room(key.namespace, key) <= 0:
                memory.waits = True
                self._namespaces.wait(key.namespace, key)
                break
            if self._hosts.room(host, key) <= 0:
                memory.waits = True
                self._hosts.wait(host, key)
                continue
            self._hosts.take(host)
            self._namespaces.take(key.namespace)
            memory.asked[each.digest] = each, host
            chosen.append((each, places))
        return chosen, hosts

    async def _submit(
        self,
        key: ImageKey,
        stream: ImageStream,
        memory: _Memory,
        chosen: list[tuple[WantedImage, tuple[Place, ...]]],
    ) -> None:
        entries: tuple[Entry, ...] = ()
        if any(place.transport.credentials for _, places in chosen for place in places):
            try:
                entries = await self._credentials(stream)
            except BaseException:
                self._release(key, memory, [each.digest for each, _ in chosen])
                raise
        self._lanes.submit(
            key,
            [
                Ticket(
                    uid=stream.metadata.uid,
                    tag=each.digest,
                    source=Source("DockerImage", str(each.recorded)),
                    request="",
                    slot=0,
                    question=description_of(each.digest, places, entries),
                )
                for each, places in chosen
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

    def _paused_until(self, host: str) -> datetime | None:
        """Until when nothing is asked of a host, if so."""
        now = self._clock()
        names = (host, f"{host} anonymous", f"{host} authenticated")
        return max((until for name in names if (until := self._paused.get(name, now)) > now), default=None)

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
                self._hosts.free(asked[1])
                self._namespaces.free(key.namespace)
                hosts.add(asked[1])
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
        self._paused = {name: until for name, until in self._paused.items() if until > now}
        unreferenced = {image.name for image in self._images.ours()}
        for number, name in enumerate(tuple(self._streams.store)):
            if number % _CHUNK == 0:
                await asyncio.sleep(0)
            if (stream := self._streams.store.get(name)) is not None:
                self._look_at(ImageKey.of(name), stream, unreferenced, now)
        self._call(self._namespaces.waited_for, self._hosts.waited_for)
        if self._is_certain():
            await self._delete(unreferenced, now)

    def _is_certain(self) -> bool:
        """Whether both caches are whole and fresh: what they do not show is not there."""
        return (
            self._streams.store.synced.is_set()
            and self._images.synced.is_set()
            and self._streams.live
            and self._images.live
        )

    def _look_at(self, key: ImageKey, stream: ImageStream, unreferenced: set[str], now: datetime) -> None:
        has_missing = False
        for digest in digests_of(stream):
            unreferenced.discard(object_name(digest))
            has_missing = has_missing or not self._images.has(digest)
        memory = self._memory.get(key)
        waits = memory is not None and memory.waits
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
            if image is None or name not in self._unreferenced.since or not self._is_certain():
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
