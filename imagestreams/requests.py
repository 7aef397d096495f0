"""Import requests (ImageStreamImport) answered: which images they name, and what carrying them out will make of the
stream.

The same routine serves the webhook, while whoever asks waits for the answer of his create call, and the controller,
which answers what the webhook did not. It asks through the lanes, as rounds of importing do, and writes nothing.

A stream of thousands of tags, and hundreds of answers, take long enough to be noticed by whoever else waits for the
event loop. All that looks at so much is done in one thread, for one request after the other: several would only take
the interpreter from each other and from the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import structlog

from imagestreams.core.admission import Requester
from imagestreams.core.answering import MAX_BYTES, Questions, Work, merged, status_of
from imagestreams.core.following import Streams, no_streams
from imagestreams.core.keychain import Entry
from imagestreams.core.lookup import Ticket
from imagestreams.core.stream import ImageStream, ObjectKey
from imagestreams.core.wish import ImportRules

if TYPE_CHECKING:
    from imagestreams.registry.lanes import Lanes

log = structlog.get_logger(__name__)

T = TypeVar("T")


class RequestKey(NamedTuple):
    """A request in the lanes. `id` is of this process only: a request that is being created has no name yet."""

    namespace: str
    id: str
    kind: str = "import"


class ImportRequests:
    """Answers import requests.

    Args:
        lanes: where registries are asked; they call `ready` with keys of ours.
        credentials: what may be used for a stream, decoded.
        rules: the administrator's, as they are now.
        clock: aware, UTC.
        streams: the store, for tags that follow other streams.

    Its thread needs no end: it is idle while nothing is answered, and a process that ends waits for what it is at.
    """

    def __init__(
        self,
        *,
        lanes: Lanes[Any],
        credentials: Callable[[ImageStream], Awaitable[tuple[Entry, ...]]],
        rules: Callable[[], ImportRules],
        clock: Callable[[], datetime],
        streams: Streams = no_streams,
    ) -> None:
        self._lanes, self._credentials, self._rules = lanes, credentials, rules
        self._clock, self._streams = clock, streams
        self._ids = itertools.count(1)
        self._waiting: dict[RequestKey, asyncio.Event] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="import-requests")

    def ready(self, key: RequestKey) -> None:
        """The lanes have answers for the request."""
        if event := self._waiting.get(key):
            event.set()

    def __len__(self) -> int:
        """How many requests are being answered."""
        return len(self._waiting)

    async def answer(self, work: Work, *, deadline: float, late: str, room: int = MAX_BYTES) -> dict[str, object]:
        """The request's status, as JSON.

        Args:
            work: what it asks for.
            deadline: of the event loop's clock. What is not known then is said to have failed, in the words of `late`.
            room: bytes that the status may have.

        Raises:
            ApiError: credentials cannot be read.
        """
        stream = work.stream or work.aside
        key = RequestKey(stream.metadata.namespace, f"import-{next(self._ids)}")
        self._waiting[key] = asyncio.Event()
        try:
            secrets = await self._secrets(stream, deadline)
            questions = Questions(work, secrets, rules=self._rules(), now=self._clock(), request=key.id)
            unanswered = await self._ask(key, questions, await self.worked_out(questions.first), deadline)
            merge = partial(merged, rules=self._rules(), now=self._clock(), streams=self._streams)
            state = await self.worked_out(partial(merge, work, questions.answers))
            if not unanswered:
                left = await self.worked_out(partial(questions.left, state))
                unanswered = await self._ask(key, questions, left, deadline)
            fields = {"answered": len(questions.answers), "unanswered": unanswered}
            log.debug("import request answered", namespace=key.namespace, **fields)
            return await self.worked_out(partial(status_of, work, state, questions.answers, late=late, room=room))
        finally:
            self._lanes.forget(key)
            del self._waiting[key]

    async def worked_out(self, compute: Callable[[], T]) -> T:
        """What a long computation about a request gives, done off the event loop: one such after the other."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, compute)

    async def _secrets(self, stream: ImageStream, deadline: float) -> tuple[Entry, ...]:
        """What may be used for the stream; nothing where that is not known by the deadline, when nothing is asked."""
        limit = asyncio.timeout_at(deadline)
        try:
            async with limit:
                return await self._credentials(stream)
        except TimeoutError:
            if not limit.expired():
                raise
            return ()

    async def _ask(self, key: RequestKey, questions: Questions, tickets: tuple[Ticket, ...], deadline: float) -> int:
        """Ask, and what the answers lead to, unless it is late and until it is; tells how many have no answer then."""
        arrived = self._waiting[key]
        unanswered, is_late = 0, asyncio.get_running_loop().time() >= deadline
        while not is_late:
            self._lanes.submit(key, tickets)
            unanswered += len(tickets)
            if not unanswered:
                break
            try:
                async with asyncio.timeout_at(deadline):
                    await arrived.wait()
            except TimeoutError:
                is_late = True
            arrived.clear()
            answers = self._lanes.peek(key)
            self._lanes.acknowledge(key, answers)
            unanswered -= len(answers)
            tickets = await self.worked_out(partial(questions.after, answers))
        return unanswered


def forbidden(requester: Requester, verb: str, stream: ObjectKey, *, group: str) -> str:
    """That somebody has not the right to write a stream, in Kubernetes' words."""
    return (
        f'imagestreams.{group} "{stream.name}" is forbidden: User "{requester.username}" cannot {verb} resource '
        f'"imagestreams" in API group "{group}" in the namespace "{stream.namespace}"'
    )


# --- turns ------------------------------------------------------------------------------------------------------------


class Crowded(Exception):
    """There are so many requests already that one more may not even wait."""


@dataclass(frozen=True, slots=True)
class Room:
    """How many requests are answered at a time, and of how many images; how many of a namespace may wait for that.

    Answers are put together one after the other, and the deadline may be the same for all. Those of eight thousand
    images take about 1.1 s on two cores, of the 5 s that the API server waits on.
    """

    in_all: int = 64
    images: int = 8_000
    per_namespace: int = 16
    per_user: int = 16
    waiting: int = 64
    waiting_in_all: int = 1024


@dataclass(eq=False, slots=True)
class _Waiting:
    user: str
    images: int
    admitted: asyncio.Future[None]


class Turns:
    """Lets so many in at a time; of those who wait namespaces take turns, and a user has no more by using several."""

    def __init__(self, room: Room = Room()) -> None:
        self._room = room
        self._namespaces: Counter[str] = Counter()
        self._users: Counter[str] = Counter()
        self._images = 0
        self._waiting: OrderedDict[str, dict[_Waiting, None]] = OrderedDict()

    @contextlib.asynccontextmanager
    async def taken(self, namespace: str, user: str, images: int) -> AsyncIterator[None]:
        """Wait for a turn, and have it. One of more images than there is room for has it when no other has.

        Raises:
            Crowded: too many wait already.
        """
        await self._enter(namespace, user, images)
        try:
            yield
        finally:
            self._leave(namespace, user, images)

    @property
    def load(self) -> tuple[int, int]:
        """How many wait, and how many are in."""
        return sum(map(len, self._waiting.values())), self._namespaces.total()

    def _fits(self, namespace: str, user: str, images: int) -> bool:
        room = self._room
        return (
            self._namespaces.total() < room.in_all
            and (self._images + images <= room.images or not self._images)
            and self._namespaces[namespace] < room.per_namespace
            and self._users[user] < room.per_user
        )

    async def _enter(self, namespace: str, user: str, images: int) -> None:
        # Whoever waits does not fit now, so that nobody is overtaken here, but by one of fewer images.
        if self._fits(namespace, user, images):
            self._count(namespace, user, images)
            return
        queue = self._waiting.get(namespace, {})
        if len(queue) >= self._room.waiting or self.load[0] >= self._room.waiting_in_all:
            raise Crowded(f"{len(queue)} import requests of this namespace wait already")
        queue = self._waiting.setdefault(namespace, queue)
        waiting = _Waiting(user, images, asyncio.get_running_loop().create_future())
        queue[waiting] = None
        try:
            await waiting.admitted
        except asyncio.CancelledError:
            if waiting.admitted.cancelled():
                self._drop(namespace, waiting)
            else:  # the turn came at the same moment
                self._leave(namespace, user, images)
            raise

    def _count(self, namespace: str, user: str, images: int) -> None:
        self._namespaces[namespace] += 1
        self._users[user] += 1
        self._images += images

    def _leave(self, namespace: str, user: str, images: int) -> None:
        self._images -= images
        for counter, name in ((self._namespaces, namespace), (self._users, user)):
            counter[name] -= 1
            if not counter[name]:
                del counter[name]
        while self._admit_one():
            pass

    def _admit_one(self) -> bool:
        for namespace, queue in self._waiting.items():
            for waiting in queue:
                if not waiting.admitted.done() and self._fits(namespace, waiting.user, waiting.images):
                    self._waiting.move_to_end(namespace)
                    self._drop(namespace, waiting)
                    self._count(namespace, waiting.user, waiting.images)
                    waiting.admitted.set_result(None)
                    return True
        return False

    def _drop(self, namespace: str, waiting: _Waiting) -> None:
        queue = self._waiting[namespace]
        del queue[waiting]
        if not queue:
            del self._waiting[namespace]
