"""Image objects at the API server: watched by their names and labels alone, created once, deleted when nobody refers to
them.

They are large, many and never read by us, so nothing of their content is kept here.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from imagestreams.core.image import NAMESPACE_LABEL, encode_for_creation, object_name
from imagestreams.core.reference import ImageReference
from imagestreams.core.stream import MalformedObject
from imagestreams.kube.cluster import AlreadyExists, Cluster, Conflict, NotFound, api_path
from imagestreams.kube.watch import METADATA_ONLY, Key, Reflector, page_decoder

FIELD_MANAGER: Final = "imagestreams"


class _Labels(msgspec.Struct, frozen=True, gc=False):
    namespace: str | None = msgspec.field(default=None, name=NAMESPACE_LABEL)


class ImageMetadata(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """What is kept of an Image object."""

    name: str
    uid: str = ""
    resource_version: str = ""
    deletion_timestamp: str | None = None
    labels: _Labels | None = None

    @property
    def namespace(self) -> str | None:
        """Whose stream referred to the image first; None for an object that is not ours."""
        return self.labels.namespace if self.labels else None


class Image(msgspec.Struct, frozen=True, gc=False):
    """A PartialObjectMetadata."""

    metadata: ImageMetadata


_decode_object = msgspec.json.Decoder(Image)
_page = page_decoder(Image)


class ImageObjects:
    """The resource `images` of one API group, as it is at this moment while `run` runs.

    Args:
        on_count: told how many objects there are, ours and others', when that changes.
    """

    def __init__(self, cluster: Cluster, group: str, *, on_count: Callable[[int], None] | None = None) -> None:
        self._cluster, self._api_version, self._on_count = cluster, f"{group}/v1", on_count
        self._of_namespace: Counter[str] = Counter()
        self._reflector: Reflector[Image] = Reflector(
            cluster,
            api_path(self._api_version, "images"),
            decode_list=_page,
            decode_object=_decode,
            key=lambda image: ("", image.metadata.name),
            resource_version=lambda image: image.metadata.resource_version,
            accept=METADATA_ONLY,
            on_change=self._changed,
        )

    async def run(self) -> None:
        """Watch until cancelled."""
        await self._reflector.run()

    @property
    def synced(self) -> asyncio.Event:
        """Set once all that there is is known."""
        return self._reflector.store.synced

    @property
    def live(self) -> bool:
        """Whether a watch is open, so that what is known is what there is."""
        return self._reflector.live

    @property
    def problem(self) -> str | None:
        """Why what is known may be out of date, for people; None while all is well."""
        return self._reflector.problem

    def has(self, digest: str) -> bool:
        """Whether there is an object for the image, whoever made it."""
        return ("", object_name(digest)) in self._reflector.store

    def count(self, namespace: str) -> int:
        """How many objects were created for the namespace."""
        return self._of_namespace[namespace]

    def ours(self) -> Iterator[ImageMetadata]:
        """The objects that carry our label and are not being deleted; there may be no change meanwhile."""
        for image in self._reflector.store.values():
            if image.metadata.namespace is not None and image.metadata.deletion_timestamp is None:
                yield image.metadata

    def find(self, name: str) -> ImageMetadata | None:
        image = self._reflector.store.get(("", name))
        return image.metadata if image else None

    def __len__(self) -> int:
        return len(self._reflector.store)

    async def create(self, body: bytes, *, namespace: str, reference: ImageReference) -> bool:
        """Create the object of an image; returns whether it was: False where there is one already, whose it may be.

        Args:
            body: of `core.image.image_object`.
            namespace: the one to which it is counted.
            reference: the image as the stream's history has it.
        """
        made = encode_for_creation(body, api_version=self._api_version, namespace=namespace, reference=reference)
        path = api_path(self._api_version, "images")
        try:
            answer = await self._cluster.post(path, made, field_manager=FIELD_MANAGER)
        except AlreadyExists:
            return False
        self._reflector.adopt(_decode(answer))
        return True

    async def delete(self, image: ImageMetadata) -> bool:
        """Delete the object if it is still the very one; returns whether it was."""
        conditions = {"uid": image.uid, "resourceVersion": image.resource_version}
        options = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": conditions}
        path = api_path(self._api_version, "images", name=image.name)
        try:
            await self._cluster.delete(path, body=msgspec.json.encode(options))
        except (Conflict, NotFound):
            return False
        return True

    def _changed(self, _: Key, old: Image | None, new: Image | None) -> None:
        for image, step in ((old, -1), (new, 1)):
            if image is not None and (namespace := image.metadata.namespace) is not None:
                self._of_namespace[namespace] += step
                if not self._of_namespace[namespace]:
                    del self._of_namespace[namespace]
        if self._on_count and (old is None) is not (new is None):
            self._on_count(len(self._reflector.store))


def _decode(body: bytes) -> Image:
    try:
        return _decode_object.decode(body)
    except msgspec.DecodeError as error:
        raise MalformedObject(f"Image: {error}") from error
