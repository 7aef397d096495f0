"""ImageStreamImports at the API server, and what carrying one out needs: the stream as it is, its spec to be, and
whether whoever asked has the right to that.

Requests can be as large as an object may be, and anybody who may create them can create many. So they are watched by
their metadata alone, and read whole one by one.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from imagestreams.core.imagestreamimport import Stored
from imagestreams.core.stream import UNREADABLE, MalformedObject, ObjectKey
from imagestreams.kube.cluster import JSON_PATCH, MERGE_PATCH, ApiError, Cluster, Conflict, NotFound, api_path
from imagestreams.kube.errors import decoded
from imagestreams.kube.imagestreams import ObjectTooLarge, is_too_large
from imagestreams.kube.watch import METADATA_ONLY, OnChange, Reflector, page_decoder

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from imagestreams.core.admission import Requester

FIELD_MANAGER: Final = "imagestreams"
CARRIED_OUT_ANNOTATION: Final = "imagestreams.dev/carried-out"
"""On a request that the controller is done with: when that was, or "failed: " and why it could not."""


class RequestMetadata(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """What is watched of a request: nothing that its author writes, however much that is."""

    name: str
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    creation_timestamp: datetime | None = None
    deletion_timestamp: str | None = None

    @property
    def key(self) -> ObjectKey:
        return ObjectKey(self.namespace, self.name)


class ImportRequest(msgspec.Struct, frozen=True, gc=False):
    """A PartialObjectMetadata."""

    metadata: RequestMetadata


class WholeRequest(NamedTuple):
    """A request as it is stored: the bytes, and what is watched of it.

    `is_carried_out` is whether it says so of itself; where nobody guards requests that is its author's claim.
    """

    body: bytes
    metadata: RequestMetadata
    is_carried_out: bool


class _Annotations(msgspec.Struct, frozen=True):
    carried_out: str | None = msgspec.field(default=None, name=CARRIED_OUT_ANNOTATION)


class _WholeMetadata(RequestMetadata, frozen=True, gc=False, rename="camel"):
    annotations: _Annotations | None = None


class _Whole(msgspec.Struct, frozen=True):
    metadata: _WholeMetadata


class _ReviewStatus(msgspec.Struct, frozen=True):
    allowed: bool = False
    denied: bool = False


class _Review(msgspec.Struct, frozen=True):
    status: _ReviewStatus = _ReviewStatus()


_decode_object = msgspec.json.Decoder(ImportRequest)
_page = page_decoder(ImportRequest)
_WHOLE = msgspec.json.Decoder(_Whole)
_REVIEW = msgspec.json.Decoder(_Review)
_encode = msgspec.json.encode


class ImageStreamImports:
    """The resource `imagestreamimports` of one API group, and the streams that requests name."""

    def __init__(self, cluster: Cluster, group: str) -> None:
        self._cluster, self._group = cluster, group

    def reflector(self, on_change: OnChange[ImportRequest]) -> Reflector[ImportRequest]:
        """Watches the metadata of all requests of the cluster."""
        return Reflector(
            self._cluster,
            api_path(f"{self._group}/v1", "imagestreamimports"),
            decode_list=_page,
            decode_object=_decode,
            key=lambda request: (request.metadata.namespace, request.metadata.name),
            resource_version=lambda request: request.metadata.resource_version,
            accept=METADATA_ONLY,
            on_change=on_change,
        )

    # --- requests

    async def get(self, key: ObjectKey) -> WholeRequest | None:
        """The request whole, or None when it is gone. Raises `MalformedObject`."""
        try:
            body = await self._cluster.get(self._import(key))
        except NotFound:
            return None
        try:
            metadata = _WHOLE.decode(body).metadata
        except UNREADABLE as error:
            raise MalformedObject(f"ImageStreamImport {key}: {error}") from error
        return WholeRequest(body, metadata, bool(metadata.annotations and metadata.annotations.carried_out))

    async def replace(self, key: ObjectKey, body: bytes) -> None:
        """Write the request whole, as it was read and with more in it; a status cannot be replaced by a patch.

        Raises:
            Conflict: it is another by now.
            NotFound: it is gone.
        """
        await self._cluster.put(self._import(key), body, field_manager=FIELD_MANAGER)

    async def mark(self, key: ObjectKey, uid: str, words: str) -> None:
        """Say on the request that we are done with it. Nothing happens where it is gone.

        Raises:
            Invalid: another has its name by now.
        """
        patch = {"metadata": {"uid": uid, "annotations": {CARRIED_OUT_ANNOTATION: words}}}
        try:
            await self._cluster.patch(self._import(key), _encode(patch), MERGE_PATCH, field_manager=FIELD_MANAGER)
        except NotFound:
            return

    async def refuse(self, key: ObjectKey, uid: str, status: dict[str, object], words: str) -> None:
        """Answer a request that cannot be read, and say that we are done with it. Nothing happens where it is gone.

        These are two writes: without a look at the object nobody knows whether it has annotations to add one to. One
        that has the first alone is refused again.

        Raises:
            Invalid: another has its name by now.
        """
        patch = [
            {"op": "test", "path": "/metadata/uid", "value": uid},
            {"op": "add", "path": "/status", "value": status},
        ]
        try:
            await self._cluster.patch(self._import(key), _encode(patch), JSON_PATCH, field_manager=FIELD_MANAGER)
        except NotFound:
            return
        await self.mark(key, uid, words)

    async def delete(self, request: RequestMetadata) -> bool:
        """Delete the request if it is still the very one; returns whether it was."""
        options = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": request.uid}}
        try:
            await self._cluster.delete(self._import(request.key), body=_encode(options))
        except (Conflict, NotFound):
            return False
        return True

    def _import(self, key: ObjectKey) -> str:
        return api_path(f"{self._group}/v1", "imagestreamimports", key.namespace, key.name)

    # --- streams

    async def stream(self, key: ObjectKey) -> Stored | None:
        """A stream as it is at this moment, or None where there is none. Raises `MalformedObject`."""
        try:
            raw = await self._cluster.get(api_path(f"{self._group}/v1", "imagestreams", key.namespace, key.name))
        except NotFound:
            return None
        return Stored.parse(raw)

    async def create_stream(self, namespace: str, body: bytes) -> Stored:
        """Create a stream.

        Raises:
            AlreadyExists: there is one of that name.
            ObjectTooLarge: it would not fit.
        """
        path = api_path(f"{self._group}/v1", "imagestreams", namespace)
        return await _written(self._cluster.post(path, body, field_manager=FIELD_MANAGER))

    async def patch_stream(self, key: ObjectKey, patch: bytes) -> Stored:
        """Apply a merge patch to a stream; it must name the uid and resourceVersion that it was made for.

        Raises:
            Conflict: the stream is another by now.
            NotFound: it is gone.
            ObjectTooLarge: it would not fit.
        """
        path = api_path(f"{self._group}/v1", "imagestreams", key.namespace, key.name)
        return await _written(self._cluster.patch(path, patch, MERGE_PATCH, field_manager=FIELD_MANAGER))

    async def may_write(self, requester: Requester, verb: str, key: ObjectKey) -> bool:
        """Whether somebody has the right to write a stream by their own hand.

        Args:
            requester: as the API server authenticated them; all of it counts.
            verb: "create" or "update".
        """
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {
                "user": requester.username,
                "uid": requester.uid,
                "groups": requester.groups,
                "extra": requester.extra,
                "resourceAttributes": {
                    "verb": verb,
                    "group": self._group,
                    "version": "v1",
                    "resource": "imagestreams",
                    "namespace": key.namespace,
                    "name": key.name,
                },
            },
        }
        body = await self._cluster.post(api_path("authorization.k8s.io/v1", "subjectaccessreviews"), _encode(review))
        status = decoded(_REVIEW, body, "subjectaccessreviews").status
        return status.allowed and not status.denied


async def _written(writing: Awaitable[bytes]) -> Stored:
    try:
        return Stored.parse(await writing)
    except ApiError as error:
        if is_too_large(error):
            raise ObjectTooLarge(error.message) from error
        raise


def _decode(body: bytes) -> ImportRequest:
    try:
        return _decode_object.decode(body)
    except msgspec.DecodeError as error:
        raise MalformedObject(f"ImageStreamImport metadata: {error}") from error
