"""What a tag has and had: its revisions, and which of them somebody means who wants to go back."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from imagestreams.cli.naming import STREAM, TAG, is_image, split_tag, target
from imagestreams.cli.options import Failure, Misuse
from imagestreams.core.pins import Pin, parse_pins
from imagestreams.core.stream import MalformedObject, decode

if TYPE_CHECKING:
    from datetime import datetime

    from imagestreams.core.stream import ImageStream, StatusTag

Object = dict[str, Any]

_SHORT: Final = 12  # hexadecimal digits of a digest, in tables
_NAMED: Final = 10  # tags that a message names
_DIGEST: Final = re.compile(r"(?:.*@)?((?:sha(?:256|384|512):)?[0-9a-f]{4,128})", re.ASCII)


class Revision(NamedTuple):
    """One item of a tag's history. `image` is its digest, or empty for a pull spec that is all that is known."""

    number: int
    image: str
    pull_spec: str
    created: datetime | None

    @property
    def words(self) -> str:
        return f"revision {self.number}"


class History(NamedTuple):
    """A tag's revisions, the oldest first, and what holds it.

    `pin` is what the status says that it is pinned to, with the words that the stream's annotation has on it; `served`
    the digest that its source has meanwhile, where that is another one; `failure` why the last import failed.
    """

    namespace: str
    stream: str
    tag: str
    revisions: tuple[Revision, ...]
    pin: Pin | None
    is_moved: bool  # the newest revision was made by the pin
    served: str
    failure: str

    @property
    def name(self) -> str:
        return f"{self.stream}:{self.tag}"

    @property
    def current(self) -> Revision | None:
        return self.revisions[-1] if self.revisions else None

    def document(self) -> Object:
        """For programs."""
        pin = self.pin
        return {
            "namespace": self.namespace,
            "stream": self.stream,
            "tag": self.tag,
            "pin": None if pin is None else _pinned(pin),
            "served": self.served or None,
            "failure": self.failure or None,
            "revisions": [
                {
                    "revision": revision.number,
                    "image": revision.image or None,
                    "pullSpec": revision.pull_spec,
                    "created": _written(revision.created),
                    "isCurrent": revision is self.current,
                }
                for revision in self.revisions
            ],
        }


def _pinned(pin: Pin) -> Object:
    return {"digest": pin.digest, "reason": pin.reason or None, "by": pin.by or None, "at": _written(pin.at)}


def _written(moment: datetime | None) -> str | None:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ") if moment else None


def named_tag(text: str) -> tuple[str, str]:
    """Stream and tag of NAME or NAME:TAG, with or without a kind before it; the tag is "latest" if none is named.

    Raises:
        Misuse: it is no such name.
    """
    stream, tag = split_tag(target(text, (TAG, STREAM)).name)
    return stream, tag or "latest"


def read_stream(body: bytes) -> ImageStream:
    """A stream as the server gives it; raises Failure."""
    try:
        return decode(body)
    except MalformedObject as error:
        raise Failure(f"error: the server's image stream is malformed: {error}") from error


def history_of(stream: ImageStream, tag: str) -> History:
    """The history of a tag; raises Failure where the stream has no such tag."""
    status = stream.status_tag(tag)
    if status is None and stream.spec_tag(tag) is None:
        raise Failure(f'error: the image stream {stream.metadata.name} has no tag "{tag}"; {_known(stream)}')
    items = (status.items if status else None) or ()
    newest = status.newest_revision if status else 0
    revisions = tuple(
        Revision(newest - place, item.image or "", item.docker_image_reference, item.created)
        for place, item in enumerate(items)
    )
    held = status.pinned if status else None
    pin = None
    if held is not None and held.status == "True" and revisions:
        found = parse_pins(stream.annotations.pins).pins.get(tag)
        pin = found if found is not None and found.digest == revisions[0].image else Pin(revisions[0].image)
    since = held.last_transition_time if held else None
    outcome = status.outcome if status else None
    is_failed = outcome is not None and outcome.status != "True"
    return History(
        namespace=stream.metadata.namespace,
        stream=stream.metadata.name,
        tag=tag,
        revisions=revisions[::-1],
        pin=pin,
        is_moved=bool(pin and since and (created := revisions[0].created) and created >= since),
        served=_served(status) if pin is not None and status is not None else "",
        failure=f"{outcome.reason or 'Failed'}: {outcome.message or ''}" if outcome and is_failed else "",
    )


def _known(stream: ImageStream) -> str:
    recorded = [tag.tag for tag in (stream.status and stream.status.tags) or ()]
    names = sorted({*(tag.name for tag in stream.spec_tags), *recorded})
    if not names:
        return "it has none"
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"it has: {', '.join(names[:_NAMED])}{more}"


def _served(tag: StatusTag) -> str:
    """What the registry has where that is known to be another image. In Legacy mode it is an index's digest, which says
    nothing of the image.
    """
    observed, newest = tag.observed, tag.newest
    if observed is None or newest is None or not observed.digest or observed.import_mode == "Legacy":
        return ""
    is_looked_up = observed.from_ is not None and observed.from_.kind == "DockerImage"
    return observed.digest if is_looked_up and observed.digest != newest.image else ""


def chosen(history: History, *, to: str | None, number: int | None) -> Revision:
    """The revision to go back to: of a digest (or its begin), of a number, or the one before the present.

    Before a revision that a pin made comes what the tag had before it first had that image: whoever goes back twice
    goes back by two.

    Raises:
        Failure: there is no such one, or it has no digest.
    """
    if to is not None:
        return _of_digest(history, to)
    found = _before(history) if number is None else _of_number(history, number)
    if not found.image:
        raise Failure(
            f"error: {found.words} of {history.name}, {found.pull_spec}, has no digest that it could be held at; "
            f"{_see(history)}"
        )
    return found


def _see(history: History) -> str:
    return f"see: imagestreams history {history.name}"


def _of_number(history: History, number: int) -> Revision:
    for revision in history.revisions:
        if revision.number == number:
            return revision
    if not history.revisions:
        raise Failure(_without_images(history))
    first, last = history.revisions[0].number, history.revisions[-1].number
    raise Failure(f"error: {history.name} has no revision {number}, it has {first} to {last}; {_see(history)}")


def _of_digest(history: History, to: str) -> Revision:
    read = _DIGEST.fullmatch(to)
    if read is None:
        raise Misuse(f"error: {to!r} is no digest; write sha256:..., or four or more of its hexadecimal digits")
    fitting = {revision.image: revision for revision in history.revisions if is_image(revision.image, read[1])}
    match list(fitting.values()):
        case [revision]:
            return revision
        case []:
            raise Failure(
                f"error: {read[1]} is not in the history of {history.name}, and a tag can only be held at what it had; "
                f"{_see(history)}"
            )
        case several:
            images = ", ".join(short(revision.image) for revision in several)
            raise Failure(f"error: {read[1]} begins several images of {history.name}: {images}; write more digits")


def _before(history: History) -> Revision:
    current = history.current
    if current is None:
        raise Failure(_without_images(history))
    earlier = history.revisions[:-1]
    if history.is_moved:
        # Its first time: those between may be pins, too, and what they were made to get away from.
        origin = next((place for place, revision in enumerate(earlier) if revision.image == current.image), None)
        if origin is None:
            raise Failure(
                f"error: {history.name} is pinned, and what it had before that image is not in its history any more; "
                f"choose by --to or --revision; {_see(history)}"
            )
        earlier = earlier[:origin]
    for revision in reversed(earlier):
        if revision.image != current.image:
            return revision
    raise Failure(f"error: {history.name} has no other image before {short(current.pull_spec)}; {_see(history)}")


def _without_images(history: History) -> str:
    why = f" ({history.failure})" if history.failure else ""
    return f"error: {history.name} has never had an image{why}"


def short(pull_spec: str) -> str:
    """A digest, also one of a pull spec, cut for a table; another text as it is."""
    algorithm, colon, value = pull_spec.rpartition("@")[2].partition(":")
    is_digest = colon and algorithm.startswith("sha") and len(value) >= 64
    return f"{algorithm}:{value[:_SHORT]}" if is_digest else pull_spec
