"""Kubernetes Events: what people see in `kubectl describe`. Best effort; no reconcile waits for one or fails for one.

`record` puts an Event in a bounded queue and a task of its own writes it. An Event's name follows from the object,
the reason and the words, so the same thing happening again, also after a restart, counts up one Event instead of
making another; and it is written again no more than once a minute.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final, Literal

import msgspec
import structlog

from imagestreams.kube.cluster import api_path
from imagestreams.kube.errors import AlreadyExists, ApiError, NotFound, decoded

if TYPE_CHECKING:
    from imagestreams.kube.cluster import Cluster

log = structlog.get_logger(__name__)

EventType = Literal["Normal", "Warning"]

MAX_MESSAGE: Final = 1024  # bytes, the API's own limit
_MAX_REASON = 128
_QUEUE = 1000
_REMEMBERED = 4096
_REPEAT_SECONDS = 60.0
_FIRST_DELAY = 1.0
_MAX_DELAY = 60.0
_TIMEOUT = 10.0
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Involved:
    """The object that an Event is about. `namespace` is empty for cluster-wide ones."""

    api_version: str
    kind: str
    namespace: str
    name: str
    uid: str
    resource_version: str = ""


@dataclass(slots=True)
class _Pending:
    """An Event to be written: how often it happened since it was last written, and when."""

    regarding: Involved
    kind: EventType
    reason: str
    message: str
    first: datetime
    last: datetime
    count: int = 1

    def again(self, last: datetime, count: int = 1) -> None:
        self.last = last
        self.count += count


@dataclass(slots=True)
class _Written:
    """An Event that is there: its count, and when (monotonic) it was last written."""

    count: int
    at: float
    since: int = 0  # how often it happened since


class _Present(msgspec.Struct, frozen=True):
    count: int | None = None


_PRESENT = msgspec.json.Decoder(_Present)
_encode = msgspec.json.Encoder().encode


class EventRecorder:
    """Records Events; `run` writes them.

    Args:
        component: the reporting component's name.
        clock: aware, UTC.
        instance: the reporting instance, for instance the pod's name.
        on_drop: told of each Event that is given up: because the queue is full (the oldest goes), or refused.
        monotonic: seconds.
    """

    def __init__(
        self,
        cluster: Cluster,
        *,
        clock: Callable[[], datetime],
        component: str = "imagestreams",
        instance: str = "",
        on_drop: Callable[[], object] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._cluster = cluster
        self._clock = clock
        self._component = component
        self._instance = instance
        self._on_drop = on_drop
        self._monotonic = monotonic
        self._sleep = sleep
        self._pending: OrderedDict[str, _Pending] = OrderedDict()
        self._written: OrderedDict[str, _Written] = OrderedDict()
        self._failures_told: set[tuple[str, str]] = set()
        self._is_overflowing = False
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def record(self, regarding: Involved, kind: EventType, reason: str, message: str) -> None:
        """Note that something happened to an object. Never waits, never raises for what the API server says.

        Args:
            reason: CamelCase, from a closed set.
            message: for people; control characters are replaced and it is cut to 1 KiB. It must hold no secret.
        """
        now = self._clock()
        message = scrubbed(message)
        name = _name(regarding, reason, message)
        if waiting := self._pending.get(name):
            waiting.again(now)
            return
        event = _Pending(regarding, kind, reason[:_MAX_REASON], message, now, now)
        if written := self._written.get(name):
            if self._monotonic() - written.at < _REPEAT_SECONDS:
                written.since += 1
                return
            event.count += written.since
        self._enqueue(name, event)

    async def run(self) -> None:
        """Write what was recorded, until cancelled."""
        failures = 0
        while True:
            if not self._pending:
                self._is_overflowing = False
                self._idle.set()
                self._wake.clear()
                await self._wake.wait()
            name, event = self._pending.popitem(last=False)
            try:
                await self._write(name, event)
                failures = 0
            except ApiError as error:
                self._tell(error)
                if not error.retryable:
                    self._drop()
                    continue
                failures += 1
                self._put_back(name, event)
                await self._sleep(
                    max(error.retry_after or 0.0, min(_MAX_DELAY, _FIRST_DELAY * 2 ** min(failures - 1, 10)))
                )

    async def flush(self) -> None:
        """Wait until all that is recorded is written or given up. `run` must be running."""
        await self._idle.wait()

    def _enqueue(self, name: str, event: _Pending) -> None:
        self._pending[name] = event
        if len(self._pending) > _QUEUE:
            self._pending.popitem(last=False)
            self._drop()
            if not self._is_overflowing:
                self._is_overflowing = True
                log.warning("events come faster than they can be written; the oldest are given up", waiting=_QUEUE)
        self._idle.clear()
        self._wake.set()

    def _put_back(self, name: str, event: _Pending) -> None:
        if waiting := self._pending.get(name):
            waiting.count += event.count
            waiting.first = event.first
        elif len(self._pending) < _QUEUE:
            self._pending[name] = event
            self._pending.move_to_end(name, last=False)
        else:
            self._drop()

    def _drop(self) -> None:
        if self._on_drop:
            self._on_drop()

    def _tell(self, error: ApiError) -> None:
        """Log a failure, once for each kind: a missing right would fail for every Event."""
        kind = (type(error).__name__, error.reason)
        if kind not in self._failures_told:
            self._failures_told.add(kind)
            log.warning("events cannot be written", error=error.message)

    async def _write(self, name: str, event: _Pending) -> None:
        # An Event must be in its object's namespace; those of cluster-wide objects are kept in "default".
        namespace = event.regarding.namespace or "default"
        if known := self._written.get(name):
            try:
                return await self._count_up(namespace, name, event, known.count)
            except NotFound:  # they live for an hour
                del self._written[name]
        try:
            await self._post(api_path("v1", "events", namespace), self._object(namespace, name, event))
            self._remember(name, event.count)
        except AlreadyExists:
            present = decoded(
                _PRESENT, await self._cluster.get(api_path("v1", "events", namespace, name)), f"Event {name}"
            )
            await self._count_up(namespace, name, event, present.count or 1)

    async def _post(self, path: str, body: bytes) -> None:
        await self._cluster.request("POST", path, body=body, timeout=_TIMEOUT)

    async def _count_up(self, namespace: str, name: str, event: _Pending, count: int) -> None:
        count += event.count
        patch = {"count": count, "lastTimestamp": _time(event.last)}
        await self._cluster.patch(api_path("v1", "events", namespace, name), _encode(patch), timeout=_TIMEOUT)
        self._remember(name, count)

    def _remember(self, name: str, count: int) -> None:
        self._written[name] = _Written(count, self._monotonic())
        self._written.move_to_end(name)
        if len(self._written) > _REMEMBERED:
            self._written.popitem(last=False)

    def _object(self, namespace: str, name: str, event: _Pending) -> bytes:
        involved = event.regarding
        return _encode(
            {
                "apiVersion": "v1",
                "kind": "Event",
                "metadata": {"name": name, "namespace": namespace},
                "involvedObject": {
                    "apiVersion": involved.api_version,
                    "kind": involved.kind,
                    "namespace": involved.namespace,
                    "name": involved.name,
                    "uid": involved.uid,
                    "resourceVersion": involved.resource_version,
                },
                "type": event.kind,
                "reason": event.reason,
                "message": event.message,
                "count": event.count,
                "firstTimestamp": _time(event.first),
                "lastTimestamp": _time(event.last),
                "source": {"component": self._component},
                "reportingComponent": self._component,
                "reportingInstance": self._instance,
            }
        )


def scrubbed(message: str) -> str:
    """One line of at most 1 KiB, without control characters."""
    line = "".join(sign if sign.isprintable() else " " for sign in message)
    encoded = line.encode()
    if len(encoded) <= MAX_MESSAGE:
        return line
    return encoded[: MAX_MESSAGE - 3].decode(errors="ignore") + "…"


def _name(regarding: Involved, reason: str, message: str) -> str:
    """The same for the same event of the same object, and only for that."""
    identity = (regarding.uid, regarding.kind, regarding.namespace, regarding.name, reason, message)
    digest = hashlib.sha256(repr(identity).encode()).hexdigest()[:20]
    # The object's name in front is for people; not all names are fit to be an Event's.
    readable = regarding.name if _SUBDOMAIN.fullmatch(regarding.name) else regarding.kind.lower()
    return f"{readable[:200].rstrip('-.')}.{digest}"


def _time(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
