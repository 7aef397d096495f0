"""The reconciler of stored import requests: carries out what a webhook has answered, and answers what none has.

A request that the webhook has stamped is carried out for whoever asked, by their rights as they are now: the stream's
spec is written, and the stream's own round does the rest. Where there is no stamp nobody knows who asks. Then nothing
is written but the answer, which says little, and tags are looked up again whose source is the very one already.

The order keeps a crash harmless. What is written is the same when it is written again; the request is marked last, and
one without its mark is begun anew. A status and the mark that goes with it are one write.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
import structlog

from imagestreams import metrics
from imagestreams.core.admission import Requester
from imagestreams.core.answering import MAX_BYTES, work_of
from imagestreams.core.imagestreamimport import (
    MAX_REQUEST,
    ImageStreamImport,
    decode_request,
    edit_of,
    spec_of,
    target_of,
    write_of,
)
from imagestreams.core.stamp import MAX_STAMP, ForgedStamp, moment_of, unseal
from imagestreams.core.stream import ImageStream, MalformedObject, ObjectKey, whole_seconds
from imagestreams.kube.errors import AlreadyExists, ApiError, Conflict, Invalid, NotFound
from imagestreams.kube.events import EventType
from imagestreams.kube.imagestreams import ObjectTooLarge
from imagestreams.kube.imports import (
    CARRIED_OUT_ANNOTATION,
    ImageStreamImports,
    ImportRequest,
    RequestMetadata,
    WholeRequest,
)
from imagestreams.requests import ImportRequests, forbidden

log = structlog.get_logger(__name__)

ATTEMPTS: Final = 10  # to write a stream that others write, too
_MAX_WORDS = 500  # of a mark
_MAX_DELETED = 1000  # in one sweep
_KEPT_FOR = timedelta(hours=1)
_MOST = MAX_REQUEST + MAX_STAMP + (32 << 10)  # bytes of a request as it is stored, with our annotations
_NEWS = timedelta(minutes=2)  # in which every replica hears of a new key
_GIVEN_UP = timedelta(days=1)  # after which a request goes that could never be answered
_SECONDS = 60.0  # that an answer may take


class KeysUnknown(Exception):
    """Stamps cannot be checked yet: their key was not read."""


class Disturbed(Exception):
    """The request was changed by somebody else meanwhile; it is looked at anew."""


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """How many requests wait for registries at a time. What needs none is not held up by them, if there are more
    workers than `answered`.
    """

    answered: int = 12
    per_namespace: int = 4


class ImageStreamImportReconciler:
    """Reconciles import requests.

    Args:
        watched: the store of requests.
        api: reads and writes them, and the streams that they name.
        requests: answers them.
        keys: of stamps, all that still count; empty where there is no webhook, None while they are not known.
        adopt: is given a stream that was written.
        hint: has a stream looked at, and these of its tags (and REPOSITORY) asked for. What a registry was asked since
            the moment that it is told was asked for this request.
        announce: records an Event on a request; must not wait.
        enqueue: has a request reconciled.
        group: the API group.
        clock: aware, UTC.
        ttl: how long a request stays that is done.
    """

    def __init__(
        self,
        *,
        watched: Mapping[tuple[str, str], ImportRequest],
        api: ImageStreamImports,
        requests: ImportRequests,
        keys: Callable[[], Sequence[bytes] | None],
        adopt: Callable[[ImageStream], object],
        hint: Callable[[ObjectKey, frozenset[str], datetime], None],
        announce: Callable[[RequestMetadata, EventType, str, str], None],
        enqueue: Callable[[ObjectKey], None],
        group: str,
        clock: Callable[[], datetime],
        ttl: timedelta,
        limits: RequestLimits = RequestLimits(),
        seconds: float = _SECONDS,
    ) -> None:
        self._watched, self._api, self._requests, self._keys = watched, api, requests, keys
        self._adopt, self._hint, self._announce = adopt, hint, announce
        self._group, self._clock, self._ttl, self._seconds = group, clock, ttl, seconds
        self._slots = _Slots(limits, enqueue)
        self._alone = _Alone()
        self._finished: dict[ObjectKey, str] = {}  # uid by key: nothing is left to be done
        self._kept: dict[ObjectKey, datetime] = {}  # what cannot be deleted, and until when that is not tried again

    async def reconcile(self, key: ObjectKey, _hints: frozenset[str] = frozenset()) -> None:
        """Carry the request on as far as it goes now; one whose turn to be answered has not come comes back."""
        with self._slots.called(key) as has_slot:
            request = self._watched.get(key)
            if request is None or request.metadata.deletion_timestamp or self._is_finished(request.metadata):
                return
            whole = await self._api.get(key)
            if whole is None or whole.metadata.deletion_timestamp:
                return
            if await self._carried_on(whole, has_slot=has_slot):
                self._finished[key] = whole.metadata.uid

    async def sweep(self) -> None:
        """Delete requests that were done long enough ago; to be called about once a minute. Never raises ApiError."""
        now = self._clock()
        requests = [request.metadata for request in self._watched.values()]
        old = [
            (meta.creation_timestamp, meta)
            for meta in requests
            if meta.creation_timestamp is not None
            and not meta.deletion_timestamp
            and self._kept.get(meta.key, now) <= now
            and now - meta.creation_timestamp >= (self._ttl if self._is_finished(meta) else max(_GIVEN_UP, self._ttl))
        ]
        deleted = 0
        for _, meta in sorted(old, key=lambda each: each[0])[:_MAX_DELETED]:
            try:
                deleted += await self._api.delete(meta)
            except ApiError as error:
                log.warning("import request cannot be deleted", **_fields(meta.key), reason=error.message)
                if error.retryable:
                    break
                self._kept[meta.key] = now + _KEPT_FOR  # a policy wants it to stay; the others are not to wait for it
        if deleted:
            log.info("import requests deleted that were done", requests=deleted)
        present = {request.metadata.key: request.metadata.uid for request in self._watched.values()}
        self._finished = {key: uid for key, uid in self._finished.items() if present.get(key) == uid}
        self._kept = {key: until for key, until in self._kept.items() if key in present}

    def _is_finished(self, meta: RequestMetadata) -> bool:
        return self._finished.get(meta.key) == meta.uid

    async def _carried_on(self, whole: WholeRequest, *, has_slot: bool) -> bool:
        """Do what is left to be done; returns whether that was all."""
        try:
            request = decode_request(whole.body)
        except MalformedObject as error:
            return await self._refuse(whole, str(error))
        if whole.is_carried_out and request.is_answered:
            return True
        if (size := _size(whole.body)) > _MOST:
            return await self._refuse(whole, f"it has {size} bytes; {MAX_REQUEST} are the most")
        requester = self._requester(whole, request)
        words = ""
        if requester is not None and request.is_import:
            words = await self._carry_out(request, requester, moment_of(request.requested_by))
            self._told(whole.metadata, words)
            if request.is_answered:
                return await self._marked(whole, words)
        if requester is None and request.is_answered and request.requested_by and self._keys():
            # What a webhook has answered stays, even if its key is known to nobody any more.
            return await self._marked(whole, "its stamp is not believed: ask again")
        if requester is not None and request.is_answered:
            return True
        if not (has_slot or self._slots.take(whole.metadata.key)):
            return False
        return await self._answer(whole, request, requester, words)

    # --- who asks

    def _requester(self, whole: WholeRequest, request: ImageStreamImport) -> Requester | None:
        """Whom the stamp names; None where there is none that is ours."""
        if not request.requested_by:
            return None
        keys, meta = self._keys(), whole.metadata
        if keys is None:
            raise KeysUnknown(f"whether the stamp of import request {meta.key} is ours cannot be told yet")
        if meta.creation_timestamp is None:
            return None
        try:
            return unseal(
                request.requested_by,
                namespace=meta.namespace,
                stream=request.image_stream,
                spec=spec_of(whole.body),
                created=meta.creation_timestamp,
                keys=keys,
            )
        except ForgedStamp as error:
            if keys and request.is_answered and self._clock() - meta.creation_timestamp < _NEWS:
                raise KeysUnknown(
                    f"the stamp of import request {meta.key} may be of a key that is not known yet"
                ) from None
            log.warning("import request with a false stamp", **_fields(meta.key), reason=str(error))
            self._announce(meta, "Warning", "ForgedStamp", f"nobody knows who asks: {error}")
            return None

    # --- the stream

    async def _carry_out(self, request: ImageStreamImport, requester: Requester, since: datetime) -> str:
        """Have the stream's spec say what is asked, and its tags asked for; returns why it could not be, or nothing."""
        target = target_of(request, is_stamped=True)
        async with self._alone.at(target):
            for _ in range(ATTEMPTS):
                try:
                    return await self._written(request, requester, target, since)
                except (AlreadyExists, Conflict, NotFound):
                    continue  # it is another by now
                except (MalformedObject, ObjectTooLarge) as error:
                    return f"the image stream cannot be written: {error}"
                except ApiError as error:
                    if error.retryable:
                        raise
                    return f"the image stream cannot be written: {error.message}"
        return f"the image stream {target.name} was changed by others again and again; ask again"

    async def _written(
        self, request: ImageStreamImport, requester: Requester, target: ObjectKey, since: datetime
    ) -> str:
        api_version = f"{self._group}/v1"
        stored = await self._api.stream(target)
        verb = "update" if stored else "create"
        if not await self._api.may_write(requester, verb, target):
            return forbidden(requester, verb, target, group=self._group)
        edit = edit_of(request, stored)
        body = write_of(edit, stored, key=target, api_version=api_version)
        if body is not None:
            if stored is None:
                written = await self._api.create_stream(target.namespace, body)
            else:
                written = await self._api.patch_stream(target, body)
            self._adopt(written.stream)
        hints = work_of(request, stored, edit, key=target, api_version=api_version).hints
        if hints:
            self._hint(target, hints, since)
        log.info(
            "import request carried out",
            **_fields(request.key),
            imagestream=target.name,
            tags=len(hints),
            written=body is not None,
        )
        refusals = [*edit.refused.values(), *filter(None, (edit.repository_refused,))]
        return refusals[0].message if refusals and not hints else ""

    # --- the answer

    async def _answer(
        self, whole: WholeRequest, request: ImageStreamImport, requester: Requester | None, words: str
    ) -> bool:
        target, api_version = target_of(request, is_stamped=requester is not None), f"{self._group}/v1"
        stored = await self._api.stream(target) if target.name else None
        edit = edit_of(request, stored, may_edit=requester is not None)
        work = work_of(request, stored, edit, key=target, api_version=api_version, is_bare=requester is None)
        since = self._clock()
        status = await self._requests.answer(
            work,
            deadline=asyncio.get_running_loop().time() + self._seconds,
            late=f"the registry did not answer within {self._seconds:g}s",
            room=MAX_BYTES - _size(whole.body),
        )
        if requester is None and work.hints:
            self._hint(target, work.hints, since)
        metrics.import_requests.labels("answered").inc()
        return await self._write(whole, status, words)

    async def _refuse(self, whole: WholeRequest, words: str) -> bool:
        """A request that cannot be carried out, nor answered image by image."""
        words = f"not understood: {words}"
        self._told(whole.metadata, words)
        return await self._write(whole, {"summary": {"result": "Failure", "images": "0/0"}}, words)

    async def _write(self, whole: WholeRequest, status: dict[str, object], words: str) -> bool:
        """Write status and mark at once; labels and the like that others change meanwhile stay theirs."""
        meta, mark, spec = whole.metadata, self._mark(words), spec_of(whole.body)
        for _ in range(ATTEMPTS):
            try:
                await self._api.replace(meta.key, _answered(whole.body, status, mark))
            except NotFound:
                return True
            except Conflict:
                present = await self._api.get(meta.key)
                if present is None or present.metadata.uid != meta.uid or spec_of(present.body) != spec:
                    raise Disturbed(f"import request {meta.key} was changed meanwhile") from None
                whole = present
            else:
                return True
        raise Disturbed(f"import request {meta.key} is changed all the time")

    async def _marked(self, whole: WholeRequest, words: str) -> bool:
        """Say on an answered request that it is done with."""
        try:
            await self._api.mark(whole.metadata.key, whole.metadata.uid, self._mark(words))
        except Invalid as error:  # another has its name by now, or its annotations have no room for ours
            log.warning("import request cannot be marked", **_fields(whole.metadata.key), reason=error.message)
        return True

    def _mark(self, words: str) -> str:
        if words:
            return f"failed: {_line(words)}"
        return whole_seconds(self._clock()).isoformat().replace("+00:00", "Z")

    def _told(self, meta: RequestMetadata, words: str) -> None:
        """Count the request, and say why it could not be carried out, if so."""
        metrics.import_requests.labels("failed" if words else "carried_out").inc()
        if words:
            log.info("import request not carried out", **_fields(meta.key), reason=words)
            self._announce(meta, "Warning", "ImportRequestFailed", words)


class _Answer(msgspec.Struct, frozen=True):
    status: msgspec.Raw = msgspec.Raw()


_ANSWER = msgspec.json.Decoder(_Answer)


def _size(body: bytes) -> int:
    """How many bytes of a request are not its answer."""
    return len(body) - len(bytes(_ANSWER.decode(body).status))


def _answered(body: bytes, status: dict[str, object], mark: str) -> bytes:
    """The request as it was read, with its answer."""
    value: dict[str, Any] = msgspec.json.decode(body)
    metadata = value["metadata"]
    annotations = {**(metadata.get("annotations") or {}), CARRIED_OUT_ANNOTATION: mark}
    return msgspec.json.encode({**value, "metadata": {**metadata, "annotations": annotations}, "status": status})


def _line(words: str) -> str:
    text = "".join(sign if sign.isprintable() else " " for sign in words)
    return text if len(text) <= _MAX_WORDS else f"{text[: _MAX_WORDS - 1]}…"


def _fields(key: ObjectKey) -> dict[str, str]:
    return {"namespace": key.namespace, "request": key.name}


class _Slots:
    """Who may wait for registries now. Who finds no slot is called when one is free, namespaces in turn; the slot is
    kept until then, so that nobody else takes it.
    """

    def __init__(self, limits: RequestLimits, enqueue: Callable[[ObjectKey], None]) -> None:
        self._limits, self._enqueue = limits, enqueue
        self._taken: Counter[str] = Counter()  # by namespace
        self._holders: set[ObjectKey] = set()
        self._waiting: OrderedDict[str, dict[ObjectKey, None]] = OrderedDict()

    @contextlib.contextmanager
    def called(self, key: ObjectKey) -> Iterator[bool]:
        """While a key is reconciled; tells whether it was called, and has a slot. What it has is free afterwards."""
        try:
            yield key in self._holders
        finally:
            if key in self._holders:
                self._holders.discard(key)
                self._uncount(key.namespace)
                self._call()

    def take(self, key: ObjectKey) -> bool:
        """Take a slot; False where there is none, and the key waits for one."""
        if self._waiting.get(key.namespace) or not self._has_room(key.namespace):
            self._waiting.setdefault(key.namespace, {})[key] = None
            return False
        self._hold(key)
        return True

    def _has_room(self, namespace: str) -> bool:
        limits = self._limits
        return len(self._holders) < limits.answered and self._taken[namespace] < limits.per_namespace

    def _hold(self, key: ObjectKey) -> None:
        self._holders.add(key)
        self._taken[key.namespace] += 1

    def _uncount(self, namespace: str) -> None:
        self._taken[namespace] -= 1
        if not self._taken[namespace]:
            del self._taken[namespace]

    def _call(self) -> None:
        while (namespace := next(filter(self._has_room, self._waiting), None)) is not None:
            keys = self._waiting[namespace]
            key = next(iter(keys))
            del keys[key]
            self._waiting.move_to_end(namespace)
            if not keys:
                del self._waiting[namespace]
            self._hold(key)
            self._enqueue(key)


class _Alone:
    """One at a time for each stream: requests for the same one do not get into each other's way."""

    def __init__(self) -> None:
        self._locks: dict[ObjectKey, asyncio.Lock] = {}
        self._users: Counter[ObjectKey] = Counter()

    @contextlib.asynccontextmanager
    async def at(self, key: ObjectKey) -> AsyncIterator[None]:
        lock = self._locks.setdefault(key, asyncio.Lock())
        self._users[key] += 1
        try:
            async with lock:
                yield
        finally:
            self._users[key] -= 1
            if not self._users[key]:
                del self._users[key], self._locks[key]
