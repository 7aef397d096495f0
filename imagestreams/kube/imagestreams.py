"""ImageStreams at the API server: how they are watched, and the one write that is made to them."""

from __future__ import annotations

from imagestreams.core.stream import ImageStream, Status, decode, decode_list, encode_status_patch
from imagestreams.kube.cluster import MERGE_PATCH, Cluster
from imagestreams.kube.watch import OnChange, Page, Reflector


class ImageStreams:
    """The resource `imagestreams` of one API group."""

    def __init__(self, cluster: Cluster, group: str) -> None:
        self._cluster, self._group = cluster, group

    def reflector(self, on_change: OnChange[ImageStream]) -> Reflector[ImageStream]:
        """Watches all streams of the cluster."""
        return Reflector(
            self._cluster,
            f"/apis/{self._group}/v1/imagestreams",
            decode_list=_page,
            decode_object=decode,
            key=lambda stream: stream.key,
            resource_version=lambda stream: stream.metadata.resource_version,
            on_change=on_change,
        )

    async def write_status(self, stream: ImageStream, status: Status) -> ImageStream:
        """Make `status` the stream's, if it is still as it was read; raises `Conflict` otherwise, and `NotFound` when
        it is gone.
        """
        path = (
            f"/apis/{self._group}/v1/namespaces/{stream.metadata.namespace}/imagestreams/{stream.metadata.name}/status"
        )
        body = encode_status_patch(stream, status)
        return decode(await self._cluster.patch(path, body, MERGE_PATCH))


def _page(body: bytes) -> Page[ImageStream]:
    listed = decode_list(body)
    return Page(listed.items, listed.metadata.resource_version, listed.metadata.continue_)
