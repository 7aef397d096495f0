"""What an import request finds of its stream, twice: when it is answered, and when it is carried out.

Between the two lies a moment, or a night in which no controller ran. Whatever was made of a tag meanwhile, by hand or
by a newer request, is not overwritten: in doubt nothing is done. So a tag (or the repository) is written if it is as
the webhook saw it, or as older requests have left it since, the first of which found it as the webhook saw it. What was
changed and changed back counts as not changed.

A request whose tag is as it wants it already needs no leave (`edit_of`).
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import NamedTuple

import msgspec

from imagestreams.core.imagestreamimport import ImageStreamImport, Refusal, Stored, way_of
from imagestreams.core.importing import REPOSITORY
from imagestreams.core.reference import is_tag, quoted
from imagestreams.core.stamp import Footprint, Stamp
from imagestreams.core.stream import ImageStream, TagReference

_DIGEST = 9  # bytes: 12 characters; it is to tell changes, and whoever could forge one may edit the stream as well
_SKEW = timedelta(seconds=2)  # by which clocks of API servers may differ, with their whole seconds
_encode = msgspec.json.encode


class Carried(NamedTuple):
    """The newest request that was carried out at a place.

    Attributes:
        order: its own.
        left: the digest of what it left there.
        stream: the uid of the stream that it left.
        found: digests of what it found there, and before it those that requests right after each other found.
    """

    order: tuple[datetime, datetime]
    left: str
    stream: str
    found: tuple[str, ...]

    def leads_from(self, seen: str, present: str, stream: str) -> bool:
        """Whether a place is as requests have left it, and was as it was seen before they came."""
        return self.stream == stream and self.left == present and seen in self.found

    def is_before(self, stamp: Stamp, seen: str) -> bool:
        """Whether a request is newer than this one. It is also where clocks differ a little, and its webhook saw what
        this one left and none before it had.
        """
        is_seen = seen == self.left and seen not in self.found
        return self.order < stamp.order or (is_seen and self.order[0] - stamp.created <= _SKEW)


def footprint_of(request: ImageStreamImport, stored: Stored | None) -> Footprint:
    """What a request that is answered now rests on."""
    return Footprint(_uid(stored), tuple(places_of(request, stored).values()))


def places_of(request: ImageStreamImport, stored: Stored | None) -> dict[str, str]:
    """A digest of what the request would overwrite, by place: the tags that its images are for, in that order, and
    REPOSITORY. Empty for what is not there. A look-up has no places.
    """
    if not request.is_import:
        return {}
    stream = stored.stream if stored else None
    present = {tag.name: tag for tag in stream.spec_tags} if stream else {}
    found = {tag: _entry(present.get(tag)) for tag, _ in _images(request)}
    return found | ({REPOSITORY: _repository(stream)} if request.repository is not None else {})


def overtaken_of(
    request: ImageStreamImport, stored: Stored | None, *, stamp: Stamp, carried: Callable[[str], Carried | None]
) -> dict[str, Refusal]:
    """Why places of a request that is carried out now are not to be changed, for those that are not.

    Args:
        request: what is asked.
        stored: the stream as it is.
        stamp: the request's.
        carried: what was carried out at a place of this stream last, as far as is remembered.
    """
    places = places_of(request, stored)
    uid, sources = _uid(stored), dict(_images(request))
    if stamp.seen.stream and stamp.seen.stream != uid:
        return dict.fromkeys(places, _gone())
    # Digests of other places say nothing of these: then nothing is as it was seen.
    known = stamp.seen.places if len(stamp.seen.places) == len(places) else ("?",) * len(places)
    found: dict[str, Refusal] = {}
    for (place, present), seen in zip(places.items(), known, strict=True):
        last = carried(place)
        is_kept = present == seen or (last is not None and last.leads_from(seen, present, uid))
        # Not this one either: what it has written, and is there no more, somebody else has taken away.
        is_newest = last is None or last.is_before(stamp, seen)
        if not (is_kept and is_newest):
            found[place] = _changed(request, place, sources.get(place, ""))
    return found


def _images(request: ImageStreamImport) -> Iterator[tuple[str, str]]:
    """The tags that images are for, and their sources."""
    for image in request.images:
        if is_tag(image.target):
            yield image.target, image.name


def _uid(stored: Stored | None) -> str:
    return stored.stream.metadata.uid if stored else ""


def _entry(tag: TagReference | None) -> str:
    """What a request replaces of a tag; import mode, reference policy and all else stay (`ensured`)."""
    if tag is None:
        return ""
    source, policy = tag.from_, tag.import_policy
    return _digest(
        (source and source.kind) or "",
        (source and source.name) or "",
        (source and source.namespace) or "",
        bool(tag.reference),
        bool(policy and policy.insecure),
        bool(policy and policy.scheduled),
    )


def _repository(stream: ImageStream | None) -> str:
    if stream is None or not (stream.repository or stream.is_repository_insecure):
        return ""
    return _digest(stream.repository, stream.is_repository_insecure)


def _digest(*parts: str | bool) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(_encode(parts)).digest()[:_DIGEST]).decode()


def _gone() -> Refusal:
    words = "the image stream was deleted, or made anew, since this was asked; ask again"
    return Refusal("Conflict", words, 409)


def _changed(request: ImageStreamImport, place: str, source: str) -> Refusal:
    what, asked = f"tag {quoted(place)}", source
    if place == REPOSITORY:
        what, asked = "the repository of the image stream", request.repository.name if request.repository else ""
    words = (
        f"{what} was changed since this was asked, by somebody else or by a newer request: it stays as it is; ask "
        f"again, for instance: {way_of(request, place, asked)}"
    )
    return Refusal("Conflict", words, 409)
