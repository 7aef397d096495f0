"""Import requests (ImageStreamImport) answered: which images they name, and what carrying them out will make of the
stream.

The same routine serves the webhook, while whoever asks waits for the answer of his create call, and the controller,
which answers what the webhook did not. It asks through the lanes, as rounds of importing do, and writes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import structlog

from imagestreams.core.admission import Requester
from imagestreams.core.answering import MAX_BYTES, Work, kept, questions_of, status_of
from imagestreams.core.following import Streams, no_streams
from imagestreams.core.keychain import Entry
from imagestreams.core.lookup import Answer
from imagestreams.core.stream import ImageStream, ObjectKey
from imagestreams.core.wish import ImportRules

if TYPE_CHECKING:
    from imagestreams.registry.lanes import Lanes

log = structlog.get_logger(__name__)


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
        answers = await self._answers(work, deadline)
        return status_of(
            work, answers, rules=self._rules(), now=self._clock(), late=late, streams=self._streams, room=room
        )

    async def _answers(self, work: Work, deadline: float) -> tuple[Answer, ...]:
        """What registries say until the deadline."""
        stream = work.stream or work.aside
        key = RequestKey(stream.metadata.namespace, f"import-{next(self._ids)}")
        arrived = self._waiting[key] = asyncio.Event()
        answers: list[Answer] = []
        asked: set[str] = set()
        limit = asyncio.timeout_at(deadline)
        try:
            async with limit:
                secrets = await self._credentials(stream)
                while True:
                    arrived.clear()
                    tickets = questions_of(
                        work,
                        tuple(answers),
                        secrets,
                        asked=asked,
                        rules=self._rules(),
                        now=self._clock(),
                        request=key.id,
                    )
                    asked.update(ticket.tag for ticket in tickets)
                    self._lanes.submit(key, tickets)
                    if len(answers) == len(asked):
                        break
                    await arrived.wait()
                    self._take(key, work, answers)
        except TimeoutError:
            if not limit.expired():
                raise
            self._take(key, work, answers)
        finally:
            self._lanes.forget(key)
            del self._waiting[key]
        log.debug("import request answered", namespace=key.namespace, asked=len(asked), answered=len(answers))
        return tuple(answers)

    def _take(self, key: RequestKey, work: Work, answers: list[Answer]) -> None:
        """Take what has arrived out of the lanes."""
        arrived = self._lanes.peek(key)
        self._lanes.acknowledge(key, arrived)
        answers += (kept(answer, work) for answer in arrived)


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
    """How many requests are answered at a time, and how many of a namespace may wait for that."""

    in_all: int = 64
    per_namespace: int = 16
    per_user: int = 16
    waiting: int = 64
    waiting_in_all: int = 1024


@dataclass(eq=False, slots=True)
class _Waiting:
    user: str
    admitted: asyncio.Future[None]


class Turns:
    """Lets so many in at a time; of those who wait namespaces take turns, and a user has no more by using several."""

    def __init__(self, room: Room = Room()) -> None:
        self._room = room
        self._namespaces: Counter[str] = Counter()
        self._users: Counter[str] = Counter()
        self._waiting: OrderedDict[str, dict[_Waiting, None]] = OrderedDict()

    @contextlib.asynccontextmanager
    async def taken(self, namespace: str, user: str) -> AsyncIterator[None]:
        """Wait for a turn, and have it.

        Raises:
            Crowded: too many wait already.
        """
        await self._enter(namespace, user)
        try:
            yield
        finally:
            self._leave(namespace, user)

    @property
    def load(self) -> tuple[int, int]:
        """How many wait, and how many are in."""
        return sum(map(len, self._waiting.values())), self._namespaces.total()

    def _fits(self, namespace: str, user: str) -> bool:
        room = self._room
        return (
            self._namespaces.total() < room.in_all
            and self._namespaces[namespace] < room.per_namespace
            and self._users[user] < room.per_user
        )

    async def _enter(self, namespace: str, user: str) -> None:
        # Whoever waits does not fit now, so that nobody is overtaken here.
        if self._fits(namespace, user):
            self._count(namespace, user)
            return
        queue = self._waiting.get(namespace, {})
        if len(queue) >= self._room.waiting or self.load[0] >= self._room.waiting_in_all:
            raise Crowded(f"{len(queue)} import requests of this namespace wait already")
        queue = self._waiting.setdefault(namespace, queue)
        waiting = _Waiting(user, asyncio.get_running_loop().create_future())
        queue[waiting] = None
        try:
            await waiting.admitted
        except asyncio.CancelledError:
            if waiting.admitted.cancelled():
                self._drop(namespace, waiting)
            else:  # the turn came at the same moment
                self._leave(namespace, user)
            raise

    def _count(self, namespace: str, user: str) -> None:
        self._namespaces[namespace] += 1
        self._users[user] += 1

    def _leave(self, namespace: str, user: str) -> None:
        for counter, name in ((self._namespaces, namespace), (self._users, user)):
            counter[name] -= 1
            if not counter[name]:
                del counter[name]
        while self._admit_one():
            pass

    def _admit_one(self) -> bool:
        for namespace, queue in self._waiting.items():
            for waiting in queue:
                if not waiting.admitted.done() and self._fits(namespace, waiting.user):
                    self._waiting.move_to_end(namespace)
                    self._drop(namespace, waiting)
                    self._count(namespace, waiting.user)
                    waiting.admitted.set_result(None)
                    return True
        return False

    def _drop(self, namespace: str, waiting: _Waiting) -> None:
        queue = self._waiting[namespace]
        del queue[waiting]
        if not queue:
            del self._waiting[namespace]
