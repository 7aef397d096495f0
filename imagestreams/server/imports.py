"""The webhook of import requests: whoever creates one is answered with what it found in the answer to the create call
itself, as OpenShift's own server does.

It writes nothing. It says who asked, in a stamp that only we can make, and the controller carries the stored request
out for them, by their rights. So a review that somebody else than an API server posts changes nothing.

What it does to a request on its way, so that clients made for OpenShift are served: the resourceVersion, by which they
mean that of the stream, is taken as that and removed; the name, which they use again and again, becomes the begin of
one; and status is filled in.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

import msgspec
import structlog

from imagestreams.core.admission import Allowed, Denied, Review, Verdict
from imagestreams.core.answering import MAX_BYTES, MAX_DESCRIBED, work_of
from imagestreams.core.footprint import footprint_of
from imagestreams.core.imagestreamimport import (
    MAX_REQUEST,
    ImageStreamImport,
    conflict_of,
    decode_request,
    edit_of,
    generate_name,
    invalid_message,
    problems_of,
    spec_of,
    tampering,
    target_of,
)
from imagestreams.core.stamp import (
    IMAGE_STREAM_ANNOTATION,
    MAX_STAMP,
    REQUESTED_BY_ANNOTATION,
    Footprint,
    InvalidStamp,
    seal,
)
from imagestreams.core.stream import MalformedObject, ObjectKey
from imagestreams.kube.errors import ApiError
from imagestreams.kube.imports import CARRIED_OUT_ANNOTATION, ImageStreamImports
from imagestreams.requests import Crowded, ImportRequests, Turns, forbidden

log = structlog.get_logger(__name__)

SECONDS: Final = 25.0
"""What an answer may take, of the 30 s that an API server waits for a webhook at most."""

# Seconds.
_MARGIN = 1.5  # at most, in which an answer is put together; see `Room`
_LEAST = 0.1

_PATIENCE = 0.6  # of that may be spent waiting for a turn: the rest is for the answer
_AGAIN = 5  # seconds after which whoever found no turn may ask again

_MAX_ANNOTATIONS = (256 << 10) - 2048  # bytes of all; what is left is for the mark and our annotations' names

_Operation = dict[str, object]


class _Manager(msgspec.Struct, frozen=True):
    operation: str = ""


class _Metadata(msgspec.Struct, frozen=True, rename="camel"):
    """What of a request's metadata is replaced, undecoded; absent is not null."""

    name: msgspec.Raw = msgspec.Raw()
    generate_name: str | None = None
    resource_version: msgspec.Raw = msgspec.Raw()
    annotations: dict[str, Any] | None = None
    managed_fields: tuple[_Manager, ...] | None = None


class _Object(msgspec.Struct, frozen=True):
    metadata: _Metadata


_OBJECT = msgspec.json.Decoder(_Object)


class ImportDoor:
    """Reviews ImageStreamImports; the handler of their webhook.

    Args:
        api: reads streams, and asks for rights.
        requests: answers them.
        turns: whose turn it is to be answered.
        key: to seal stamps with; empty while it is not known.
        group: the API group.
        controller: the user name by which the API server knows the controller: it alone may change requests.
        clock: aware, UTC.
        seconds: that an answer may take.
    """

    def __init__(
        self,
        *,
        api: ImageStreamImports,
        requests: ImportRequests,
        turns: Turns,
        key: Callable[[], bytes],
        group: str,
        controller: str,
        clock: Callable[[], datetime],
        seconds: float = SECONDS,
    ) -> None:
        self._api, self._requests, self._turns, self._key = api, requests, turns, key
        self._group, self._controller, self._clock, self._seconds = group, controller, clock, seconds

    async def __call__(self, review: Review) -> Verdict:
        """What is to be done about the review."""
        if (review.group, review.resource, review.subresource) != (self._group, "imagestreamimports", ""):
            return Allowed()
        match review.operation:
            case "CREATE":
                return await self._create(review)
            case "UPDATE":
                return self._guard(review)
            case _:
                return Allowed()

    def _guard(self, review: Review) -> Verdict:
        """What was asked and answered stays as it is; its answer rests on nothing else."""
        if review.requester.username == self._controller:
            return Allowed()
        try:
            words = tampering(review.old, review.object)
        except (MalformedObject, RecursionError) as error:
            return _unreadable(error)
        return Denied(403, "Forbidden", words) if words else Allowed()

    async def _create(self, review: Review) -> Verdict:
        if _is_applied(review.object):
            words = "an ImageStreamImport is a question, and cannot be applied server-side: use kubectl create -f"
            return Denied(422, "Invalid", words)
        if len(review.object) > MAX_REQUEST:
            return Denied(413, "RequestEntityTooLarge", f"an import request has at most {MAX_REQUEST} bytes")
        try:
            request = decode_request(review.object)
        except MalformedObject as error:
            return _unreadable(error)
        if request.namespace != review.namespace:
            return Denied(400, "BadRequest", "the namespaces of the object and of the request differ")
        if problems := problems_of(request):
            return Denied(422, "Invalid", invalid_message(request, problems, group=self._group))
        images = len(request.images) + (MAX_DESCRIBED if request.repository is not None else 0)
        seconds = answering_time(review.seconds, self._seconds)
        at, begin = self._clock(), asyncio.get_running_loop().time()
        async with contextlib.AsyncExitStack() as turn:
            try:
                async with asyncio.timeout_at(begin + seconds * _PATIENCE):
                    await turn.enter_async_context(
                        self._turns.taken(review.namespace, review.requester.username, images)
                    )
            except (Crowded, TimeoutError):
                whose = f"of namespace {review.namespace}, or of {review.requester.username},"
                words = f"too many import requests {whose} are being answered; try again in a few seconds"
                return Denied(429, "TooManyRequests", words, retry_after=_AGAIN)
            return await self._answer(review, request, at, begin + seconds, f"{seconds:.2g}s")

    async def _answer(
        self, review: Review, request: ImageStreamImport, at: datetime, deadline: float, budget: str
    ) -> Verdict:
        key, api_version = target_of(request, is_stamped=False), f"{self._group}/v1"
        try:
            async with asyncio.timeout_at(deadline):
                stored = await self._api.stream(key) if key.name else None
                verb = "update" if stored else "create"
                if request.is_import and not await self._api.may_write(review.requester, verb, key):
                    return Denied(403, "Forbidden", forbidden(review.requester, verb, key, group=self._group))
            if refusal := conflict_of(request, stored, group=self._group):
                return Denied(refusal.code, refusal.reason, refusal.message)
            work = await self._requests.worked_out(
                lambda: work_of(request, stored, edit_of(request, stored), key=key, api_version=api_version)
            )
            goes_on = request.is_import and not review.is_dry_run
            then = "the controller goes on" if goes_on else "ask again"
            status = await self._requests.answer(
                work,
                deadline=deadline,
                late=f"the registry did not answer within {budget}; {then}",
                room=MAX_BYTES - MAX_STAMP - len(review.object),
            )
        except MalformedObject as error:
            return Denied(500, "InternalError", f"the image stream {key.name} cannot be read: {error}")
        except ApiError as error:
            log.warning("import request not answered", namespace=review.namespace, reason=str(error))
            return _unavailable(f"the API server does not tell what must be known: {error}")
        except TimeoutError:
            return _unavailable(f"the API server did not tell what must be known within {budget}")
        return self._stamped(review, key, at, footprint_of(request, stored), status)

    def _stamped(
        self, review: Review, key: ObjectKey, at: datetime, seen: Footprint, status: dict[str, object]
    ) -> Verdict:
        """The request with its answer, and with whom it is from. The moment is that at which it came: whoever carries
        it out takes no answer of a registry that is older, and nothing away that was written after it.
        """
        key_of_stamps = self._key()
        if not key_of_stamps:
            return _unavailable("the key by which requests are stamped is not known yet")
        try:
            stamp = seal(
                review.requester,
                namespace=review.namespace,
                stream=key.name,
                spec=spec_of(review.object),
                at=at,
                key=key_of_stamps,
                seen=seen,
            )
            metadata = _OBJECT.decode(review.object).metadata
        except (InvalidStamp, msgspec.DecodeError) as error:
            return Denied(422, "Invalid", str(error))
        if _size_of(metadata.annotations) + len(stamp) > _MAX_ANNOTATIONS:
            return Denied(422, "Invalid", "metadata.annotations: Too long: they leave no room for those of the webhook")
        return Allowed(patch=tuple(_patch(metadata, key.name, stamp, status)))


def answering_time(waits: float, most: float) -> float:
    """Seconds that registries have to answer, of those that the API server waits (0 where it does not say)."""
    return max(_LEAST, min(most, waits - min(_MARGIN, waits / 3))) if waits else most


def _is_applied(body: bytes) -> bool:
    """Whether it is created by a server-side apply: that is for the name in its path, which can be no other then."""
    try:
        managers = _OBJECT.decode(body).metadata.managed_fields or ()
    except msgspec.DecodeError:
        return False  # what is wrong with it is said of the whole
    return any(manager.operation == "Apply" for manager in managers)


def _size_of(annotations: dict[str, Any] | None) -> int:
    """Bytes, as the API server counts them."""
    return sum(len(name.encode()) + len(str(text).encode()) for name, text in (annotations or {}).items())


def _patch(metadata: _Metadata, stream: str, stamp: str, status: dict[str, object]) -> list[_Operation]:
    operations: list[_Operation] = []
    if bytes(metadata.resource_version):
        operations.append({"op": "remove", "path": "/metadata/resourceVersion"})
    if bytes(metadata.name):
        operations.append({"op": "remove", "path": "/metadata/name"})
    if stream:
        operations.append({"op": "add", "path": "/metadata/generateName", "value": generate_name(stream)})
    marks = {REQUESTED_BY_ANNOTATION: stamp, IMAGE_STREAM_ANNOTATION: stream}
    if metadata.annotations is None:
        operations.append({"op": "add", "path": "/metadata/annotations", "value": marks})
    else:
        operations += [{"op": "add", "path": _annotation(name), "value": text} for name, text in marks.items()]
        if CARRIED_OUT_ANNOTATION in metadata.annotations:
            operations.append({"op": "remove", "path": _annotation(CARRIED_OUT_ANNOTATION)})
    operations.append({"op": "add", "path": "/status", "value": status})
    return operations


def _annotation(name: str) -> str:
    return f"/metadata/annotations/{name.replace('/', '~1')}"


def _unreadable(error: Exception) -> Denied:
    return Denied(422, "Invalid", f"not understood: {error}")


def _unavailable(words: str) -> Denied:
    return Denied(503, "ServiceUnavailable", f"{words}; try again")
