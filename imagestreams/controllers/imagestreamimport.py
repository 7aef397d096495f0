"""The reconciler of stored import requests: carries out what a webhook has answered, and answers what none has.

A request that the webhook has stamped is carried out for whoever asked, by their rights as they are now: the stream's
spec is written, and the stream's own round does the rest. What was changed since they asked stays as it is
(`core.footprint`). Where there is no stamp nobody knows who asks. Then nothing is written but the answer, which says
little, and tags are looked up again whose source is the very one already.

The order keeps a crash harmless. What is written is the same when it is written again; the request is marked last, and
one without its mark is begun anew. A status and the mark that goes with it are one write. What was carried out for whom
is in memory alone: where that is lost, more is refused; only that a newer request left a tag as it was is forgotten.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final, NamedTuple

import msgspec
import structlog

from imagestreams import metrics
from imagestreams.core.answering import MAX_BYTES, work_of
from imagestreams.core.footprint import Carried, overtaken_of, places_of
from imagestreams.core.imagestreamimport import (
    MAX_REQUEST,
    Edit,
    ImageStreamImport,
    Refusal,
    Stored,
    decode_request,
    edit_of,
    hints_of,
    refused_whole,
    spec_of,
    target_of,
    undone_of,
    write_of,
)
from imagestreams.core.stamp import MAX_STAMP, ForgedStamp, StaleStamp, Stamp, unseal
from imagestreams.core.stream import UNREADABLE, ImageStream, MalformedObject, ObjectKey, whole_seconds
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
_MAX_FOUND = 16  # states of a place from which requests led to what is there
_MAX_REMEMBERED = 10_000  # places at which a request was carried out


class KeysUnknown(Exception):
    """Stamps cannot be checked yet: their key was not read."""


class Disturbed(Exception):
    """The request was changed by somebody else meanwhile; it is looked at anew."""


class _Done(NamedTuple):
    """A request that was carried out: what of it could not be, for people, and why, if that is all of it."""

    words: str = ""
    refusal: Refusal | None = None

    @classmethod
    def refused(cls, reason: str, words: str, code: int) -> _Done:
        return cls(words, Refusal(reason, words, code))


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
        self._past = _Past()
        self._done: dict[ObjectKey, tuple[str, _Done]] = {}  # with its uid, by key: carried out, and not finished yet
        self._finished: dict[ObjectKey, str] = {}  # uid by key: nothing is left to be done
        self._kept: dict[ObjectKey, datetime] = {}  # what cannot be deleted, and until when that is not tried again

    async def reconcile(self, key: ObjectKey, _hints: frozenset[str] = frozenset()) -> None:
        """Carry the request on as far as it goes now; one whose turn to be answered has not come comes back."""
        with self._slots.called(key) as has_slot:
            request = self._watched.get(key)
            if request is None or request.metadata.deletion_timestamp or self._is_finished(request.metadata):
                return
            meta = request.metadata
            try:
                whole = await self._api.get(key)
                if whole is None or whole.metadata.deletion_timestamp:
                    return
                meta = whole.metadata
                is_done = await self._carried_on(whole, has_slot=has_slot)
            except MalformedObject as error:
                is_done = await self._refuse(meta, str(error))
            if is_done:
                self._finished[key] = meta.uid
                self._done.pop(key, None)

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
        self._done = {key: each for key, each in self._done.items() if present.get(key) == each[0]}
        self._kept = {key: until for key, until in self._kept.items() if key in present}
        self._past.forget(now - max(_GIVEN_UP, self._ttl))  # no older request is left

    def _is_finished(self, meta: RequestMetadata) -> bool:
        return self._finished.get(meta.key) == meta.uid

    async def _carried_on(self, whole: WholeRequest, *, has_slot: bool) -> bool:
        """Do what is left to be done; returns whether that was all. Raises `MalformedObject` of the request."""
        request = decode_request(whole.body)
        if whole.is_carried_out and request.is_answered:
            return True
        if (size := _size(whole.body)) > _MOST:
            return await self._refuse(whole.metadata, f"it has {size} bytes; {MAX_REQUEST} are the most")
        asker = self._asker(whole, request)
        done = _Done()
        if isinstance(asker, Stamp) and request.is_import:
            done = await self._carried_out(whole.metadata, request, asker)
            if request.is_answered:
                return await self._marked(whole, done.words)
        if isinstance(asker, str) and request.is_answered and request.requested_by and self._keys():
            # What a webhook has answered stays, even if its key is known to nobody any more.
            return await self._marked(whole, f"{asker}; ask again")
        if isinstance(asker, Stamp) and request.is_answered:
            return True
        if not (has_slot or self._slots.take(whole.metadata.key)):
            return False
        return await self._answer(whole, request, asker, done)

    # --- who asks

    def _asker(self, whole: WholeRequest, request: ImageStreamImport) -> Stamp | str:
        """What the stamp says; where there is none that is ours, why nobody knows who asks."""
        keys, meta = self._keys(), whole.metadata
        if not request.requested_by:
            is_installed = keys is None or bool(keys)
            return f"the webhook for import requests {'has not seen it' if is_installed else 'is not installed'}"
        if keys is None:
            raise KeysUnknown(f"whether the stamp of import request {meta.key} is ours cannot be told yet")
        if not keys:
            return "its stamp cannot be checked, as the webhook for import requests is not installed"
        if meta.creation_timestamp is None:
            return "nobody knows when it was created"
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
            is_stale = isinstance(error, StaleStamp)
            if not is_stale and request.is_answered and self._clock() - meta.creation_timestamp < _NEWS:
                raise KeysUnknown(
                    f"the stamp of import request {meta.key} may be of a key that is not known yet"
                ) from None
            log.warning("import request with a false stamp", **_fields(meta.key), reason=str(error))
            reason = "StaleStamp" if is_stale else "ForgedStamp"
            self._announce(meta, "Warning", reason, f"nobody knows who asks: {error}")
            return f"its stamp is not believed: {error}"

    # --- the stream

    async def _carried_out(self, meta: RequestMetadata, request: ImageStreamImport, stamp: Stamp) -> _Done:
        """Carry the request out, and say so, once: while its mark cannot be written, others may change its tags."""
        uid, done = self._done.get(meta.key, ("", _Done()))
        if uid != meta.uid:
            done = await self._carry_out(request, stamp)
            self._told(meta, done.words)
            self._done[meta.key] = meta.uid, done
        return done

    async def _carry_out(self, request: ImageStreamImport, stamp: Stamp) -> _Done:
        """Have the stream's spec say what is asked, and its tags asked for."""
        target = target_of(request, is_stamped=True)
        async with self._alone.at(target):
            for _ in range(ATTEMPTS):
                try:
                    return await self._written(request, stamp, target)
                except (AlreadyExists, Conflict, NotFound):
                    continue  # it is another by now
                except MalformedObject as error:
                    return _unreadable(target, error)
                except ObjectTooLarge as error:
                    words = f"the image stream cannot be written: {error}"
                    return _Done.refused("RequestEntityTooLarge", words, 413)
                except ApiError as error:
                    if error.retryable:
                        raise
                    words = f"the image stream cannot be written: {error.message}"
                    return _Done.refused(error.reason, words, error.status or 500)
        words = f"the image stream {target.name} was changed by others again and again; ask again"
        return _Done.refused("Conflict", words, 409)

    async def _written(self, request: ImageStreamImport, stamp: Stamp, target: ObjectKey) -> _Done:
        api_version = f"{self._group}/v1"
        stored = await self._api.stream(target)
        verb = "update" if stored else "create"
        if not await self._api.may_write(stamp.requester, verb, target):
            return _Done.refused("Forbidden", forbidden(stamp.requester, verb, target, group=self._group), 403)
        edit = await self._requests.worked_out(partial(self._edit, request, stamp, stored, target))
        body = write_of(edit, stored, key=target, api_version=api_version)
        hints, found = hints_of(request, edit), places_of(request, stored)
        if body is not None:
            if stored is None:
                stored = await self._api.create_stream(target.namespace, body)
            else:
                stored = await self._api.patch_stream(target, body)
            self._adopt(stored.stream)
        if hints and stored is not None:
            left = places_of(request, stored)
            places = {place: (found[place], left[place]) for place in found if place in hints}
            self._past.remember(target, stored.stream.metadata.uid, stamp, places)
            self._hint(target, hints, stamp.at)
        log.info(
            "import request carried out",
            **_fields(request.key),
            imagestream=target.name,
            tags=len(hints),
            written=body is not None,
        )
        return _Done(undone_of(request, edit))

    def _edit(self, request: ImageStreamImport, asker: Stamp | str, stored: Stored | None, target: ObjectKey) -> Edit:
        if isinstance(asker, str):
            return edit_of(request, stored, nobody=asker)
        overtaken = overtaken_of(request, stored, stamp=asker, carried=lambda place: self._past.at(target, place))
        return edit_of(request, stored, overtaken=overtaken)

    # --- the answer

    async def _answer(self, whole: WholeRequest, request: ImageStreamImport, asker: Stamp | str, done: _Done) -> bool:
        is_stamped, api_version = isinstance(asker, Stamp), f"{self._group}/v1"
        target = target_of(request, is_stamped=is_stamped)
        stored, edit = None, Edit()
        if done.refusal is None:
            try:
                stored = await self._api.stream(target) if target.name else None
                edit = await self._requests.worked_out(partial(self._edit, request, asker, stored, target))
            except MalformedObject as error:
                done = _unreadable(target, error)
                self._told(whole.metadata, done.words)
        if done.refusal is not None:
            stored, edit = None, refused_whole(request, done.refusal)
        work = await self._requests.worked_out(
            partial(work_of, request, stored, edit, key=target, api_version=api_version, is_bare=not is_stamped)
        )
        since = self._clock()
        status = await self._requests.answer(
            work,
            deadline=asyncio.get_running_loop().time() + self._seconds,
            late=f"the registry did not answer within {self._seconds:g}s",
            room=MAX_BYTES - _size(whole.body),
        )
        if not is_stamped and (hints := hints_of(request, edit)):
            self._hint(target, hints, since)
        metrics.import_requests.labels("answered").inc()
        return await self._write(whole, status, done.words)

    async def _refuse(self, meta: RequestMetadata, words: str) -> bool:
        """A request that cannot be carried out, nor answered image by image."""
        words = f"not understood: {words}"
        self._told(meta, words)
        status: dict[str, object] = {"summary": {"result": "Failure", "images": "0/0"}}
        try:
            await self._api.refuse(meta.key, meta.uid, status, self._mark(words))
        except Invalid as error:
            _unmarked(meta, error)
        return True

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
        except Invalid as error:
            _unmarked(whole.metadata, error)
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


def _unmarked(meta: RequestMetadata, error: Invalid) -> None:
    """Another has its name by now, or its annotations have no room for ours."""
    log.warning("import request cannot be marked", **_fields(meta.key), reason=error.message)


def _unreadable(stream: ObjectKey, error: MalformedObject) -> _Done:
    return _Done.refused("InternalError", f"the image stream {stream.name} cannot be read: {error}", 500)


class _Answer(msgspec.Struct, frozen=True):
    status: msgspec.Raw = msgspec.Raw()


_ANSWER = msgspec.json.Decoder(_Answer)


def _size(body: bytes) -> int:
    """How many bytes of a request are not its answer."""
    return len(body) - len(bytes(_ANSWER.decode(body).status))


def _answered(body: bytes, status: dict[str, object], mark: str) -> bytes:
    """The request as it was read, with its answer. Raises `MalformedObject`."""
    try:
        value: dict[str, Any] = msgspec.json.decode(body)
        metadata = value["metadata"]
        annotations = {**(metadata.get("annotations") or {}), CARRIED_OUT_ANNOTATION: mark}
        return msgspec.json.encode({**value, "metadata": {**metadata, "annotations": annotations}, "status": status})
    except UNREADABLE as error:
        raise MalformedObject(f"ImageStreamImport: {error}") from error


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


class _Past:
    """What was carried out last, by stream and place: of the newest request, whatever came when. Bounded: the place at
    which one was carried out the longest ago goes first.
    """

    def __init__(self) -> None:
        self._carried: OrderedDict[tuple[ObjectKey, str], Carried] = OrderedDict()

    def at(self, stream: ObjectKey, place: str) -> Carried | None:
        return self._carried.get((stream, place))

    def remember(self, stream: ObjectKey, uid: str, stamp: Stamp, places: Mapping[str, tuple[str, str]]) -> None:
        """Note what a request found and left at its places, in the stream of that uid. Who changed a place was the
        newest (`overtaken_of`), whatever its order.
        """
        for place, (found, left) in places.items():
            known = self._carried.pop((stream, place), None)
            if known is None:
                known = Carried(stamp.order, left, uid, (found,))
            elif known.order < stamp.order or found != left:
                earlier = known.found if (known.left, known.stream) == (found, uid) else ()
                states = tuple(dict.fromkeys((*earlier, found)))[-_MAX_FOUND:]
                known = Carried(max(known.order, stamp.order), left, uid, states)
            self._carried[stream, place] = known
        while len(self._carried) > _MAX_REMEMBERED:
            self._carried.popitem(last=False)

    def forget(self, before: datetime) -> None:
        """Forget requests that were created before."""
        for key in [key for key, carried in self._carried.items() if carried.order[0] < before]:
            del self._carried[key]


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
