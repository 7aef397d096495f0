"""What `get` lists: streams, their tags and the images of their histories, as objects and as rows of a table.

Tags and images are no objects on a cluster whose ImageStreams are custom resources. What is printed of them is made
here, from the streams and with OpenShift's fields: a tag is an ImageStreamTag, an image an ImageStreamImage.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click

from imagestreams.cli.api import Refused
from imagestreams.cli.naming import STREAM, TAG, is_image, may_be_image, split_image, split_tag
from imagestreams.cli.options import Failure, Misuse
from imagestreams.cli.output import show
from imagestreams.cli.table import NONE, age, table
from imagestreams.core.reference import InvalidReference
from imagestreams.core.stream import MalformedObject, ObjectKey, decode, latest_image

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from imagestreams.cli.api import Client, Resource
    from imagestreams.cli.naming import Kind, Target
    from imagestreams.core.stream import ImageStream, Istag, StatusTag, TagImage, TagReference

Object = dict[str, Any]

_SHORT: Final = 12  # hexadecimal digits of a digest, in tables
_MANY_TAGS: Final = 5  # names of tags in one cell


class Stream(NamedTuple):
    """A stream: its JSON, and what we read in it."""

    raw: Object
    value: ImageStream


class Tag(NamedTuple):
    """A tag of a stream, as spec has it and as status has it, if they do; and the JSON of both."""

    stream: Stream
    name: str
    spec: TagReference | None
    status: StatusTag | None
    raw_spec: Object | None
    raw_status: Object

    @property
    def full_name(self) -> str:
        return f"{self.stream.value.metadata.name}:{self.name}"


class Image(NamedTuple):
    """A digest of a stream's history: where it is pulled from, which tags have it now, which had it, since when."""

    stream: Stream
    digest: str
    pull_spec: str
    now: tuple[str, ...]
    earlier: tuple[str, ...]
    first: datetime | None

    @property
    def full_name(self) -> str:
        return f"{self.stream.value.metadata.name}@{self.digest}"


# ---- reading ----


def decoded(body: bytes) -> Stream:
    """A stream as the server gives it; raises Failure where that is none."""
    try:
        return Stream(json.loads(body), decode(body))
    except (MalformedObject, ValueError, RecursionError) as error:
        raise Failure(f"error: the server's image stream is malformed: {error}") from error


def tags_of(stream: Stream) -> tuple[Tag, ...]:
    """Those of spec in its order, then those that only status has."""
    value, raw = stream.value, stream.raw
    specs = {tag.name: tag for tag in value.spec_tags}
    statuses = {tag.tag: tag for tag in (value.status and value.status.tags) or ()}
    raw_specs = {tag["name"]: tag for tag in (raw.get("spec") or {}).get("tags") or ()}
    raw_statuses = {tag["tag"]: tag for tag in (raw.get("status") or {}).get("tags") or ()}
    return tuple(
        Tag(stream, name, specs.get(name), statuses.get(name), raw_specs.get(name), raw_statuses.get(name) or {})
        for name in dict.fromkeys([*specs, *statuses])
    )


def images_of(stream: Stream) -> tuple[Image, ...]:
    """What its tags have and had, the latest first."""
    found: dict[str, list[tuple[str, int, Any]]] = {}
    for tag in (stream.value.status and stream.value.status.tags) or ():
        for place, event in enumerate(tag.items or ()):
            if event.image:
                found.setdefault(event.image, []).append((tag.tag, place, event))
    images = [
        Image(
            stream,
            digest,
            uses[0][2].docker_image_reference,
            now=tuple(tag for tag, place, _ in uses if place == 0),
            earlier=tuple(dict.fromkeys(tag for tag, place, _ in uses if place > 0)),
            first=min((event.created for _, _, event in uses if event.created), default=None),
        )
        for digest, uses in found.items()
    ]
    return tuple(sorted(images, key=lambda image: image.first.timestamp() if image.first else 0.0, reverse=True))


class Unseen(NamedTuple):
    """Something that could not be read; `why` ends a sentence, and `problem` is the server's line."""

    why: str
    problem: str = ""


Look = Callable[[ObjectKey], Stream | Unseen]
"""How streams are had."""


class Streams:
    """Streams of any namespace, each read once, with the rights of whoever asks."""

    def __init__(self, client: Client, resource: Resource) -> None:
        self._client, self._resource = client, resource
        self._known: dict[ObjectKey, Stream | Unseen] = {}
        self._whole: set[str] = set()

    def read_all(self, namespace: str, labels: str = "") -> tuple[Stream, ...]:
        """Those of a namespace, or of all for an empty one, that have the labels, in one call."""
        params = {"labelSelector": labels} if labels else {}
        found = tuple(map(decoded, self._client.items(self._resource.path(namespace), params)))
        self._known.update({stream.value.key: stream for stream in found})
        self._whole |= set() if labels else {namespace}
        return found

    def look(self, key: ObjectKey) -> Stream | Unseen:
        if key not in self._known:
            self._known[key] = Unseen(f"there is no image stream {key}") if self._is_listed(key) else self._fetch(key)
        return self._known[key]

    def image(self, istag: Istag) -> TagImage | None:
        """What followers of the tag get."""
        return image_of(istag, self.look)

    def _is_listed(self, key: ObjectKey) -> bool:
        return bool(self._whole & {"", key.namespace})

    def _fetch(self, key: ObjectKey) -> Stream | Unseen:
        try:
            return decoded(self._client.get(self._resource.path(key.namespace, key.name)))
        except Refused as refused:
            if refused.status == 404:
                return Unseen(f"there is no image stream {key}", str(refused))
            if refused.status == 403:
                return Unseen(f"{refused.reason}: {refused.message}", str(refused))
            raise


def image_of(istag: Istag, look: Look) -> TagImage | None:
    """What followers of the tag get; None where that is nothing, or is not seen."""

    def other(key: ObjectKey) -> ImageStream | None:
        found = look(key)
        return None if isinstance(found, Unseen) else found.value

    stream = other(istag.key)
    try:
        return latest_image(stream, istag.tag, other) if stream else None
    except InvalidReference:
        return None


class Reader:
    """What a call names in a namespace, and what of it could not be had."""

    def __init__(self, streams: Streams, resource: Resource, namespace: str, labels: str = "") -> None:
        self._streams, self._resource, self._namespace, self._labels = streams, resource, namespace, labels
        self.problems: list[str] = []

    def all(self) -> tuple[Stream, ...]:
        return self._streams.read_all(self._namespace, self._labels)

    def stream(self, name: str) -> Stream | None:
        """None, and a problem, where it is not seen."""
        found = self._streams.look(ObjectKey(self._namespace, name))
        if not isinstance(found, Unseen):
            return found
        problem = found.problem or self._absent("imagestreams", name)
        if problem not in self.problems:
            self.problems.append(problem)
        return None

    def named(self, kind: Kind, name: str) -> Iterator[Stream | Tag | Image]:
        """What a name means for a kind; of what there is not, nothing, and a problem."""
        if kind is STREAM:
            yield from self.streams(name)
        else:
            yield from self.tags(name) if kind is TAG else self.images(name)

    def streams(self, name: str) -> Iterator[Stream]:
        stream, tag = split_tag(name)
        if tag:
            raise Misuse(f"error: {name!r} is a tag; write: get tags {name}")
        if found := self.stream(stream):
            yield found

    def tags(self, name: str) -> Iterator[Tag]:
        """Of STREAM:TAG that one, of STREAM all of them."""
        stream, tag = split_tag(name)
        found = self.stream(stream)
        if found is None:
            return
        fitting = [each for each in tags_of(found) if tag in {"", each.name}]
        if tag and not fitting:
            self.problems.append(self._absent("imagestreamtags", name))
        yield from fitting

    def images(self, name: str) -> Iterator[Image]:
        """Of a digest, or its begin, those that are it; of STREAM or STREAM:TAG all of its history."""
        is_digest = "@" in name or may_be_image(name)
        # A stream may have a name that could be the begin of a digest: cafe.
        if not is_digest or (name.isalnum() and self._has(name)):
            stream, tag = split_tag(name)
            if found := self.stream(stream):
                if tag and all(tag != each.name for each in tags_of(found)):
                    self.problems.append(self._absent("imagestreamtags", name))
                yield from (image for image in images_of(found) if tag in {"", *image.now, *image.earlier})
            return
        stream, digest = split_image(name)
        found_in = [self.stream(stream)] if stream else self.all()
        fitting = [image for each in found_in if each for image in images_of(each) if is_image(image.digest, digest)]
        if not fitting and all(found_in):
            self.problems.append(self._absent("imagestreamimages", name))
        yield from fitting

    def _has(self, name: str) -> bool:
        return not isinstance(self._streams.look(ObjectKey(self._namespace, name)), Unseen)

    def _absent(self, plural: str, name: str) -> str:
        return f'Error from server (NotFound): {plural}.{self._resource.group} "{name}" not found'


# ---- objects ----


def tag_object(tag: Tag) -> Object:
    """The tag as OpenShift's ImageStreamTag; what no server here fills in (Docker's metadata) is left out."""
    raw, value, spec = tag.stream.raw, tag.stream.value, tag.raw_spec
    items: list[Object] = tag.raw_status.get("items") or [{}]
    newest = items[0]
    metadata = {
        **_metadata(tag.stream, tag.full_name),
        "creationTimestamp": newest.get("created") or raw["metadata"].get("creationTimestamp"),
    }
    if annotations := (spec or {}).get("annotations"):
        metadata["annotations"] = annotations
    image: Object = {"metadata": {"name": newest["image"]}} if newest.get("image") else {"metadata": {}}
    if newest.get("dockerImageReference"):
        image["dockerImageReference"] = newest["dockerImageReference"]
    return {
        "apiVersion": raw.get("apiVersion", ""),
        "kind": "ImageStreamTag",
        "metadata": metadata,
        "tag": spec,
        "generation": newest.get("generation") or 0,
        "lookupPolicy": {"local": value.is_looked_up_locally},
        "conditions": tag.raw_status.get("conditions") or [],
        "image": image,
    }


def image_object(image: Image) -> Object:
    """The image as OpenShift's ImageStreamImage."""
    raw = image.stream.raw
    created = image.first.strftime("%Y-%m-%dT%H:%M:%SZ") if image.first else None
    return {
        "apiVersion": raw.get("apiVersion", ""),
        "kind": "ImageStreamImage",
        "metadata": {**_metadata(image.stream, image.full_name), "creationTimestamp": created},
        "image": {"metadata": {"name": image.digest}, "dockerImageReference": image.pull_spec},
    }


def _metadata(stream: Stream, name: str) -> Object:
    """As OpenShift's server has it: all but the name is the stream's."""
    metadata = stream.raw["metadata"]
    kept = {key: metadata[key] for key in ("namespace", "uid", "resourceVersion", "labels") if metadata.get(key)}
    return {"name": name, **kept}


# ---- tables ----


def _stream_row(stream: Stream, now: datetime, *, wide: bool) -> tuple[str, ...]:
    status = stream.value.status
    ready = status.ready if status else None
    summary = status.summary if status else None
    cells = (
        stream.value.metadata.name,
        _named([tag.name for tag in tags_of(stream)]),
        age(summary.updated, now) if summary and summary.updated else NONE,
        ready.status if ready else "Unknown",
    )
    if not wide:
        return cells
    return (
        *cells,
        (ready.reason if ready else "") or NONE,
        (summary.scheduled if summary else "") or NONE,
        (status.docker_image_repository if status else "") or NONE,
        _age_of(stream.raw, now),
    )


def _tag_row(tag: Tag, now: datetime, *, wide: bool) -> tuple[str, ...]:
    status = tag.status
    newest = status.newest if status else None
    image = newest.docker_image_reference if newest else ""
    cells = (
        tag.full_name,
        (image if wide else _shortened(image)) or NONE,
        age(newest.created, now) if newest else NONE,
        state_of(tag),
    )
    if not wide:
        return cells
    spec, history = tag.spec, len(status.items or ()) if status else 0
    source = spec.from_ if spec else None
    return (
        *cells,
        (source.name if source else "") or NONE,
        str(bool(spec and spec.is_scheduled)).lower(),
        str(history),
    )


def state_of(tag: Tag) -> str:
    """One word on the tag: Pinned, Suspended, the reason of the last failure, Imported, Pending, or, for one that
    nothing but pushes move, Recorded.
    """
    status, spec = tag.status, tag.spec
    outcome = status.outcome if status else None
    if status and status.pinned and status.pinned.status == "True":
        return "Pinned"
    if outcome is not None and outcome.status == "False":
        return outcome.reason or "Failed"
    if status is not None and status.items:
        return "Imported" if spec is not None and spec.from_ is not None else "Recorded"
    if tag.stream.value.is_suspended:
        return "Suspended"
    return "Pending" if spec is not None and spec.from_ is not None else "Empty"


def _image_row(image: Image, now: datetime, *, wide: bool) -> tuple[str, ...]:
    name = image.full_name if wide else _shortened(image.full_name)
    cells = (name, _named(image.now), _named(image.earlier), age(image.first, now))
    return (*cells, image.pull_spec) if wide else cells


def _shortened(reference: str) -> str:
    """A pull spec, or a name, with the begin of its digest."""
    name, at, digest = reference.rpartition("@")
    algorithm, colon, value = digest.partition(":")
    return f"{name}@{algorithm}:{value[:_SHORT]}" if at and colon else reference


def _named(tags: Sequence[str]) -> str:
    shown = ",".join(tags[:_MANY_TAGS]) or NONE
    return f"{shown},+{len(tags) - _MANY_TAGS}" if len(tags) > _MANY_TAGS else shown


def _age_of(raw: Object, now: datetime) -> str:
    try:
        created = datetime.fromisoformat(str(raw["metadata"].get("creationTimestamp")))
    except ValueError:
        return age(None, now)
    return age(created, now) if created.tzinfo else age(None, now)


# ---- a whole call ----


def found_by(reader: Reader, wanted: Iterable[Target[Kind]]) -> Iterator[Stream | Tag | Image]:
    for kind, name in wanted:
        if name:
            yield from reader.named(kind, name)
            continue
        for stream in reader.all():
            if kind is STREAM:
                yield stream
            else:
                yield from tags_of(stream) if kind is TAG else images_of(stream)


def print_found(
    found: Sequence[Stream | Tag | Image],
    output: str | None,
    namespace: str,
    *,
    is_one: bool,
    headers: bool,
    problems: Sequence[str],
) -> None:
    if output not in {None, "wide"}:
        if found or not problems:
            show([_object(each) for each in found], output or "", many=not is_one)
        return
    if not found:
        if not problems:
            where = f" in {namespace} namespace" if namespace else ""
            click.echo(f"No resources found{where}.", err=True)
        return
    _print_tables(found, wide=output == "wide", with_namespace=not namespace, headers=headers)


def _object(each: Stream | Tag | Image) -> Object:
    match each:
        case Stream():
            return each.raw
        case Tag():
            return tag_object(each)
        case Image():
            return image_object(each)


_HEADERS: Final = {
    "Stream": (("NAME", "TAGS", "UPDATED", "READY"), ("REASON", "SCHEDULED", "REPOSITORY", "AGE")),
    "Tag": (("NAME", "IMAGE", "UPDATED", "STATE"), ("FROM", "SCHEDULED", "HISTORY")),
    "Image": (("NAME", "TAGS", "EARLIER", "AGE"), ("IMAGE",)),
}


def _print_tables(found: Sequence[Stream | Tag | Image], *, wide: bool, with_namespace: bool, headers: bool) -> None:
    """A table for each kind, as kubectl prints different ones."""
    now = datetime.now(UTC)
    tables = []
    for kind in dict.fromkeys(type(each) for each in found):
        narrow, more = _HEADERS[kind.__name__]
        header = (*(("NAMESPACE",) if with_namespace else ()), *narrow, *(more if wide else ()))
        rows = []
        for each in found:
            if type(each) is not kind:
                continue
            stream = each if isinstance(each, Stream) else each.stream
            place = (stream.value.metadata.namespace,) if with_namespace else ()
            rows.append((*place, *_row(each, now, wide=wide)))
        tables.append(table(header if headers else (), rows))
    click.echo("\n\n".join(tables))


def _row(each: Stream | Tag | Image, now: datetime, *, wide: bool) -> tuple[str, ...]:
    match each:
        case Stream():
            return _stream_row(each, now, wide=wide)
        case Tag():
            return _tag_row(each, now, wide=wide)
        case Image():
            return _image_row(each, now, wide=wide)
