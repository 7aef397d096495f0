"""What one tag can have from others: whom it leads to through what streams, and which image an id means.

Streams are read as they are now, by a function. Of another namespace nothing may be said here that its owner did not
allow: that is up to `core.merging`, which asks for the right wherever an answer from here would show.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from imagestreams.core.reference import ImageReference, InvalidReference
from imagestreams.core.stream import (
    MAX_HOPS,
    ImageStream,
    Istag,
    ObjectKey,
    StatusTag,
    TagEvent,
    TagReference,
    followed_tag,
    is_reference,
)

Streams = Callable[[ObjectKey], ImageStream | None]
"""The store of streams."""

_EPOCH = datetime.fromtimestamp(0, UTC)


def no_streams(_key: ObjectKey) -> ImageStream | None:
    """The store of somebody who has but one stream."""
    return None


class Chains:
    """Where the tags of one stream lead to; good as long as no stream changes.

    Args:
        stream: whose tags are asked about.
        streams: the others.
    """

    def __init__(self, stream: ImageStream, streams: Streams) -> None:
        self._stream, self._streams = stream, streams
        self._specs: dict[ObjectKey, dict[str, TagReference]] = {}
        self._seen: set[ObjectKey] = set()
        self._circular: dict[Istag, bool] = {}
        self._too_far: set[Istag] = set()

    def is_circular(self, tag: str) -> bool:
        """Whether the tag of this stream follows itself, or leads through more than MAX_HOPS tags of other streams."""
        start = Istag(*self._stream.key, tag)
        if start not in self._circular:
            self._walk(start)
        return self._circular[start]

    def is_too_far(self, tag: str) -> bool:
        """Whether the tag counts as circular since it leads farther than is looked; nobody tells when that changes."""
        return self.is_circular(tag) and Istag(*self._stream.key, tag) in self._too_far

    def _walk(self, start: Istag) -> None:
        path: dict[Istag, int] = {}
        node: Istag | None = start
        hops = 0
        while node is not None and node not in path and node not in self._circular and hops <= MAX_HOPS:
            path[node] = len(path)
            node = self._next(node)
            hops += node is not None and node.key != self._stream.key
        if hops > MAX_HOPS:
            # Nothing is known of those behind, and those of our own in front are as far away.
            members = list(path)
            crossing = next(number for number, member in enumerate(members) if member.key != self._stream.key)
            self._circular.update(dict.fromkeys(members[:crossing], True))
            self._too_far.update(members[:crossing])
            return
        begin = path[node] if node in path else len(path)
        self._circular.update({member: number >= begin for member, number in path.items()})

    def is_reference(self, tag: str) -> bool:
        """Whether spec says of the tag of this stream that it is a pull spec and no more."""
        return is_reference(Istag(*self._stream.key, tag), self._spec)

    def _next(self, node: Istag) -> Istag | None:
        found = self._spec(node)
        return followed_tag(found, node.key) if found is not None else None

    def _spec(self, node: Istag) -> TagReference | None:
        tags = self._specs.get(node.key)
        if tags is not None:
            return tags.get(node.tag)
        stream = self._stream if node.key == self._stream.key else self._streams(node.key)
        if stream is not self._stream and node.key not in self._seen:
            self._seen.add(node.key)  # who leads to one tag of it is not worth an index of them all
            return stream.spec_tag(node.tag) if stream else None
        self._specs[node.key] = {tag.name: tag for tag in stream.spec_tags} if stream else {}
        return self._specs[node.key].get(node.tag)


@dataclass(frozen=True, slots=True)
class Recorded:
    """An image that another tag has, as it is to be copied: the pull spec, and the digest or an empty text."""

    pull_spec: str
    image: str


def copy_of(event: TagEvent, *, is_reference: bool) -> Recorded | None:
    """What a tag that follows gets of an item, or None where there is nothing that can be trusted.

    The pull spec is pinned by the item's own digest. An item without one is taken as it is written, and only where
    spec says that it is a reference.
    """
    try:
        reference = ImageReference.parse(event.docker_image_reference)
        if event.image:
            return Recorded(str(reference.pinned(event.image)), event.image)
    except InvalidReference:
        return None
    return Recorded(event.docker_image_reference, "") if is_reference and reference.name else None


class ImageIndex:
    """The images of a stream's history, to be found by the begin of their digests."""

    def __init__(self, tags: Iterable[StatusTag]) -> None:
        newest: dict[str, tuple[datetime, str, TagEvent]] = {}
        for tag in tags:
            for item in tag.items or ():
                found = (item.created or _EPOCH, tag.tag, item)
                # Where tags name one image differently, any is right; it must only be the same each time.
                if item.image and (item.image not in newest or found[:2] > newest[item.image][:2]):
                    newest[item.image] = found
        self._events = {image: event for image, (_, _, event) in newest.items()}
        self._names = sorted(
            (name, image) for image in self._events for name in {image, image.rpartition(":")[2]} if name
        )

    def find(self, wanted: str) -> tuple[Recorded, ...]:
        """The images whose digest, or its hexadecimal digits, begin so; at most two, since one is meant."""
        found: dict[str, Recorded] = {}
        if exact := self._events.get(wanted):
            return tuple(filter(None, (copy_of(exact, is_reference=False),)))
        for position in range(bisect_left(self._names, (wanted, "")), len(self._names)):
            name, image = self._names[position]
            if not name.startswith(wanted) or len(found) > 1:
                break
            if image not in found and (copied := copy_of(self._events[image], is_reference=False)):
                found[image] = copied
        return tuple(found.values())
