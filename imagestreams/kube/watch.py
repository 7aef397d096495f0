"""What a resource's objects are at this moment: one list, then a watch, for as long as the process lives.

A `Store` holds the objects by key; a `Reflector` keeps it equal to the API server's state and tells of each change.
No end of a watch is an error to anybody: each is followed by another watch after a delay, or by a new list where the
server no longer has what we have missed. What lasts is named in `Reflector.problem`.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic, TypeVar, overload

import msgspec
import structlog

from imagestreams.kube.cluster import JSON, METADATA, METADATA_LIST, ListMetadata, Pager, split_page
from imagestreams.kube.errors import UNDECODABLE, ApiError, Forbidden, Gone, InvalidAnswer, NotFound, decoded, error_of

if TYPE_CHECKING:
    from imagestreams.kube.cluster import Cluster

log = structlog.get_logger(__name__)

T = TypeVar("T")
D = TypeVar("D")
Key = tuple[str, str]
"""Namespace (empty for cluster-wide objects) and name."""

OnChange = Callable[[Key, T | None, T | None], None]
"""Told key, old and new object after the store has changed; None where there was, or is, none. Must not wait."""

METADATA_ONLY: Final = METADATA
"""For `accept`: objects are PartialObjectMetadata."""

_WATCH_SECONDS = 290.0
_READ_MARGIN = 30.0  # over the watch's own timeout, so that a healthy server always ends it first
_HEALTHY_SECONDS = 5.0  # a watch that lived as long is no failure, however it ended
_SETTLE_SECONDS = 1.0
_FIRST_DELAY = 0.5
_MAX_DELAY = 30.0
_MAX_RETRY_AFTER = 300.0
_FAILURES_BEFORE_LIST = 5


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page of a list. `continue_` is empty on the last."""

    items: Sequence[T]
    resource_version: str
    continue_: str


class _ListOf(msgspec.Struct, Generic[T], frozen=True):
    metadata: ListMetadata
    items: tuple[T, ...] | None = None  # Go writes an empty list as null


def page_decoder(kind: type[T], *, whole: str = "") -> Callable[[bytes], Page[T]]:
    """What reads pages of objects of the kind, for a `Reflector`.

    Args:
        whole: where a page counts as a whole or not at all, the name of its resource for the `InvalidAnswer` that is
            raised then. Empty: msgspec's errors are raised, on which a Reflector reads the page object by object.
    """
    decoder: msgspec.json.Decoder[_ListOf[T]] = msgspec.json.Decoder(_ListOf[kind])  # type: ignore[valid-type]

    def decode(body: bytes) -> Page[T]:
        listed = decoded(decoder, body, whole) if whole else decoder.decode(body)
        return Page(listed.items or (), listed.metadata.resource_version, listed.metadata.continue_)

    return decode


class Store(Mapping[Key, T]):
    """The objects of one resource, by key. Only its Reflector writes.

    resourceVersions are compared as numbers, so that an answer to our own write and the watch's older news of the
    same object can come in any order.

    Attributes:
        synced: set once the first list is complete.
    """

    def __init__(self, key: Callable[[T], Key], resource_version: Callable[[T], str], on_change: OnChange[T]) -> None:
        self._key = key
        self._resource_version = resource_version
        self._on_change = on_change
        self._objects: dict[Key, T] = {}
        self._adopted: dict[Key, T] | None = None  # while a list is being read
        self._seen = 0
        self.synced = asyncio.Event()

    def __getitem__(self, key: Key) -> T:
        return self._objects[key]

    def __iter__(self) -> Iterator[Key]:
        return iter(self._objects)

    def __len__(self) -> int:
        return len(self._objects)

    def __contains__(self, key: object) -> bool:
        return key in self._objects

    @overload
    def get(self, key: Key, /) -> T | None: ...
    @overload
    def get(self, key: Key, /, default: T | D) -> T | D: ...
    def get(self, key: Key, /, default: T | D | None = None) -> T | D | None:
        return self._objects.get(key, default)

    def adopt(self, new: T) -> bool:
        """Take in the answer to our own write, if it is newer than all we know; returns whether it was."""
        key, version = self._key(new), self._version(new)
        old = self._objects.get(key)
        # Not held although the watch is further than this version: it has been deleted since.
        if version <= (self._seen if old is None else self._version(old)):
            return False
        if self._adopted is not None:
            self._adopted[key] = new
        self._set(key, old, new)
        return True

    def apply(self, new: T) -> None:
        """Take in what the watch, or the first list, says of an object."""
        key, version = self._key(new), self._version(new)
        old = self._objects.get(key)
        self.seen(version)
        if old is None or not 0 < version <= self._version(old):
            self._set(key, old, new)

    def drop(self, key: Key, version: int) -> None:
        """The object was deleted at `version`. A newer one of that name stays."""
        self.seen(version)
        old = self._objects.get(key)
        if old is not None and not 0 < version < self._version(old):
            del self._objects[key]
            self._on_change(key, old, None)

    def seen(self, version: int) -> None:
        """The watch has told everything up to `version`."""
        self._seen = max(self._seen, version)

    def begin(self) -> None:
        """A list is being read: what is adopted from now on may be missing in it."""
        self._adopted = {}

    def replace(self, listed: dict[Key, T], version: int, *, keep: Container[Key] = ()) -> None:
        """Make a complete list the state, at once; then tell the differences.

        Args:
            version: of the list.
            keep: keys whose objects are there but could not be decoded: what we have of them stays.
        """
        adopted = (self._adopted or {}).items()
        listed.update((key, item) for key, item in adopted if self._version(item) > version)
        self._adopted = None
        before, self._objects = self._objects, listed
        for key, old in before.items():
            if key not in listed and key in keep:
                listed[key] = old
        self._seen = version
        for key, new in listed.items():
            known = before.get(key)
            if known is None or self._resource_version(known) != self._resource_version(new):
                self._on_change(key, known, new)
        for key, old in before.items():
            if key not in listed:
                self._on_change(key, old, None)

    def _set(self, key: Key, old: T | None, new: T) -> None:
        self._objects[key] = new
        self._on_change(key, old, new)

    def _version(self, item: T) -> int:
        return number(self._resource_version(item))


def number(resource_version: str) -> int:
    """A resourceVersion for comparison; 0 if it is none that can be compared."""
    return int(resource_version) if resource_version.isdecimal() else 0


class _Metadata(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    name: str = ""
    namespace: str = ""
    resource_version: str = ""

    @property
    def key(self) -> Key:
        return self.namespace, self.name


class _Named(msgspec.Struct, frozen=True, gc=False):
    metadata: _Metadata


class _Event(msgspec.Struct, frozen=True, gc=False):
    type: str
    object: msgspec.Raw


_EVENT = msgspec.json.Decoder(_Event)
_NAMED = msgspec.json.Decoder(_Named)


class Reflector(Generic[T]):
    """Keeps `store` equal to one collection, while `run` runs.

    Args:
        path: of the collection, as `api_path` makes it.
        decode_list, decode_object: raise ValueError (or msgspec's) for what they cannot read. If a page fails, its
        objects are decoded one by one. key, resource_version: of a decoded object. params: `labelSelector`,
        `fieldSelector`. accept: METADATA_ONLY, or nothing. on_undecodable: told key and error of an object that
        cannot be decoded; what the store had of it stays. It is logged in any case. on_problem: told `problem` when
        it changes. It is logged in any case. clock: monotonic seconds. chance: a number in [0, 1) each time.

    Attributes:
        problem: why the store may be out of date, for people; None while all is well.
        unread: keys of objects that are there but cannot be decoded: the store has an older state of them, or none.
    """

    def __init__(
        self,
        cluster: Cluster,
        path: str,
        *,
        decode_list: Callable[[bytes], Page[T]],
        decode_object: Callable[[bytes], T],
        key: Callable[[T], Key],
        resource_version: Callable[[T], str],
        on_change: OnChange[T],
        params: Mapping[str, str] | None = None,
        accept: str = JSON,
        on_undecodable: Callable[[Key, Exception], None] | None = None,
        on_problem: Callable[[str | None], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self.store: Store[T] = Store(key, resource_version, on_change)
        self.problem: str | None = None
        self.unread: set[Key] = set()
        self._cluster = cluster
        self._path = path
        self._decode_list = decode_list
        self._decode_object = decode_object
        self._key = key
        self._resource_version = resource_version
        self._params = dict(params or {})
        self._accept = accept
        self._on_undecodable = on_undecodable
        self._on_problem = on_problem
        self._clock = clock
        self._chance = chance
        self._sleep = sleep
        self._position = ""  # the resourceVersion up to which we know everything; empty: a list is due
        self._open = False
        self._lived = 0.0  # seconds that the last watch was open
        self._failures = 0  # watches and lists without success in a row
        self._relist_asked = asyncio.Event()
        self._relisted: list[asyncio.Future[None]] = []  # who waits for a list that began after they asked

    @property
    def live(self) -> bool:
        """Is a watch open, so that the store lags behind the API server by no more than the watch does?"""
        return self._open and self.problem is None

    def adopt(self, item: T) -> bool:
        """Take in the API server's answer to our own write, so that it can be read before the watch brings it."""
        return self.store.adopt(item)

    async def relist(self) -> None:
        """List anew; returns when the store has all that was written before this was called, however far a watch lags
        behind.
        """
        done = asyncio.get_running_loop().create_future()
        self._relisted.append(done)
        self._relist_asked.set()
        await done

    async def run(self) -> None:
        """List and watch until cancelled."""
        while True:
            wait: float | None = None
            self._lived = 0.0
            if self._relist_asked.is_set():
                self._relist_asked.clear()
                self._position = ""
            try:
                if not self._position:
                    await self._list_for_all()
                await self._unless_relist(self._watch())
            except Gone:
                self._position = ""  # nothing is wrong: we were away for too long
            except ApiError as error:
                wait = error.retry_after
                self._failed(error)
            self._failures = 0 if self._lived >= _HEALTHY_SECONDS else self._failures + 1
            if self._failures and self._failures % _FAILURES_BEFORE_LIST == 0:
                # A server restored from a backup knows nothing of our position, and need not say so.
                self._position = ""
            await self._unless_relist(self._sleep(self._delay(wait)))

    async def _unless_relist(self, doing: Awaitable[object]) -> None:
        """Do it, or give it up when somebody asks for a list."""
        task, asked = asyncio.ensure_future(doing), asyncio.ensure_future(self._relist_asked.wait())
        try:
            await asyncio.wait((task, asked), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in (task, asked):
                each.cancel()
            await asyncio.wait((task, asked))
        if not task.cancelled():
            task.result()

    async def _list_for_all(self) -> None:
        """List, and tell those who asked before it began."""
        waiting, self._relisted = self._relisted, []
        try:
            await self._list()
        except BaseException:
            self._relisted = waiting + self._relisted
            raise
        for each in waiting:
            if not each.done():
                each.set_result(None)

    def _failed(self, error: ApiError) -> None:
        # What is temporary leaves our position good; anything else may have taken it away.
        is_temporary = error.retryable and not isinstance(error, InvalidAnswer)
        if not is_temporary:
            self._position = ""
        self._say(_explained(error, self._path))

    def _delay(self, wait: float | None) -> float:
        """Seconds until the next attempt: short after a watch that ended as it should, growing with failures in a
        row.
        """
        growth = 2 ** min(self._failures - 1, 10)
        longest = min(_MAX_DELAY, _FIRST_DELAY * growth) if self._failures else _FIRST_DELAY / 2
        return longest * (0.5 + self._chance() / 2) + min(wait or 0.0, _MAX_RETRY_AFTER)

    async def _list(self) -> None:
        pager = Pager(
            self._cluster,
            self._path,
            params=self._params,
            accept=METADATA_LIST if self._accept == METADATA else self._accept,
        )
        listed: dict[Key, T] = {}
        undecodable: set[Key] = set()
        self.store.begin()
        page = self._page(await pager.fetch(), undecodable)
        version = page.resource_version  # all pages are as of this
        while True:
            listed.update((self._key(item), item) for item in page.items)
            if not self.store.synced.is_set():
                self._load(page.items)
            if not page.continue_:
                break
            page = self._page(await pager.fetch(page.continue_), undecodable)
        self.unread = undecodable
        self.store.replace(listed, number(version), keep=undecodable)
        self.store.synced.set()
        self._position = version

    def _load(self, items: Iterable[T]) -> None:
        """The first list goes in page by page: nobody relies on it yet, and 10k changes told at once would hold up
        the loop.
        """
        for item in items:
            self.store.apply(item)

    def _page(self, body: bytes, undecodable: set[Key]) -> Page[T]:
        try:
            return self._decode_list(body)
        except UNDECODABLE:
            raw = split_page(body, self._path)
        items = []
        for each in raw.items or ():
            item = self._decoded(bytes(each))
            if isinstance(item, _Metadata):
                undecodable.add(item.key)
            else:
                items.append(item)
        return Page(items, raw.metadata.resource_version, raw.metadata.continue_)

    async def _watch(self) -> None:
        seconds = round(_WATCH_SECONDS * (0.9 + self._chance() / 5))
        params = {
            **self._params,
            "resourceVersion": self._position,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(seconds),
        }
        opening = self._cluster.open_watch(
            self._path, params=params, accept=self._accept, read_timeout=seconds + _READ_MARGIN
        )
        async with opening as batches:
            opened, self._open = self._clock(), True
            # That a watch was opened proves little: it must bring something, or last.
            settled = asyncio.get_running_loop().call_later(_SETTLE_SECONDS, self._say, None)
            try:
                async for lines in batches:
                    for line in lines:
                        self._event(line)
                    self._say(None)
            finally:
                settled.cancel()
                self._lived, self._open = self._clock() - opened, False

    def _event(self, line: bytes) -> None:
        event = decoded(_EVENT, line, f"watch {self._path}")
        body = bytes(event.object)
        match event.type:
            case "ADDED" | "MODIFIED":
                item = self._decoded(body)
                if isinstance(item, _Metadata):
                    self.unread.add(item.key)
                    self._position = item.resource_version
                else:
                    self.unread.discard(self._key(item))
                    self.store.apply(item)
                    self._position = self._resource_version(item)
            case "DELETED":
                metadata = _metadata(body, self._path)
                self.unread.discard(metadata.key)
                self.store.drop(metadata.key, number(metadata.resource_version))
                self._position = metadata.resource_version
            case "BOOKMARK":
                self._position = _metadata(body, self._path).resource_version
                self.store.seen(number(self._position))
            case "ERROR":
                raise error_of(0, body, what=f"watch {self._path}")
            case other:
                raise InvalidAnswer(f"watch {self._path}: an event of type {other!r}")

    def _decoded(self, body: bytes) -> T | _Metadata:
        """The object, or what can be said of one that is not understood."""
        try:
            return self._decode_object(body)
        except UNDECODABLE as error:
            metadata = _metadata(body, self._path)
            log.warning(
                "object not understood",
                resource=self._path,
                namespace=metadata.namespace,
                name=metadata.name,
                error=str(error),
            )
            if self._on_undecodable:
                self._on_undecodable(metadata.key, error)
            return metadata

    def _say(self, problem: str | None) -> None:
        if problem == self.problem:
            return
        if problem:
            log.warning("not watching", resource=self._path, problem=problem)
        else:
            log.info("watching again", resource=self._path)
        self.problem = problem
        if self._on_problem:
            self._on_problem(problem)


def _metadata(body: bytes, path: str) -> _Metadata:
    return decoded(_NAMED, body, path).metadata


def _explained(error: ApiError, path: str) -> str:
    match error:
        case NotFound():
            return f"{path} is not served by this cluster; are its CRDs installed?"
        case Forbidden():
            return f"list and watch of {path} are not allowed: {error.message}"
        case _:
            return f"list and watch of {path} fail: {error.message}"
