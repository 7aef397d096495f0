"""ImageStreams at the API server: how they are watched, and the one write that is made to them."""

from __future__ import annotations

from imagestreams.core.stream import ImageStream, Status, decode, decode_list, encode_status_patch
from imagestreams.kube.cluster import MERGE_PATCH, ApiError, Cluster, api_path
from imagestreams.kube.watch import OnChange, Page, Reflector


class ObjectTooLarge(Exception):
    """The stream with this status is larger than the API server, or etcd behind it, takes (about 1.5 MiB)."""


# No status code of its own: etcd's limits come as 500 with these words, the API server's as 413.
_TOO_LARGE = ("etcdserver: request is too large", "message larger than max")
_OF_A_POLICY = ("admission ", "webhook")  # they refuse in words and with a code of their own


class ImageStreams:
    """The resource `imagestreams` of one API group."""

    def __init__(self, cluster: Cluster, group: str) -> None:
        self._cluster, self._group = cluster, group

    def reflector(self, on_change: OnChange[ImageStream]) -> Reflector[ImageStream]:
        """Watches all streams of the cluster."""
        return Reflector(
            self._cluster,
            api_path(f"{self._group}/v1", "imagestreams"),
            decode_list=_page,
            decode_object=decode,
            key=lambda stream: stream.key,
            resource_version=lambda stream: stream.metadata.resource_version,
            on_change=on_change,
        )

    async def write_status(self, stream: ImageStream, status: Status) -> ImageStream:
        """Make `status` the stream's, if it is still as it was read.

        Raises:
            Conflict: it is not.
            NotFound: it is gone.
            ObjectTooLarge: it would not fit.
        """
        meta = stream.metadata
        path = api_path(f"{self._group}/v1", "imagestreams", meta.namespace, meta.name, "status")
        body = encode_status_patch(stream, status)
        try:
            return decode(await self._cluster.patch(path, body, MERGE_PATCH))
        except ApiError as error:
            if is_too_large(error):
                raise ObjectTooLarge(error.message) from error
            raise


def is_too_large(error: ApiError) -> bool:
    """Whether the API server, or etcd behind it, does not take an object of this size."""
    message = error.message.lower()
    if any(words in message for words in _OF_A_POLICY):
        return False
    return error.status == 413 or (error.status == 500 and any(words in message for words in _TOO_LARGE))


def _page(body: bytes) -> Page[ImageStream]:
    listed = decode_list(body)
    return Page(listed.items or (), listed.metadata.resource_version, listed.metadata.continue_)
