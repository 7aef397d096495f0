"""What `describe` reads, with the caller's own rights: what they do not reach is not seen, and that is said."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

import msgspec

from imagestreams.cli.api import Refused, Resource
from imagestreams.cli.description import (
    Event,
    image_text,
    stream_text,
    tag_text,
    workload_text,
)
from imagestreams.cli.following import all_workloads, compare, read, resource_of
from imagestreams.cli.listing import Reader, Streams, Unseen, images_of, tags_of
from imagestreams.cli.naming import IMAGE, LISTED, STREAM, TAG, Target, targets
from imagestreams.cli.options import Failure
from imagestreams.cli.workloads import WORKLOAD
from imagestreams.core.stream import Istag, MalformedObject, followed_tag
from imagestreams.core.trigger import DEPLOYMENT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from imagestreams.cli.api import Client
    from imagestreams.cli.description import Deployments, Events
    from imagestreams.cli.following import Found
    from imagestreams.cli.listing import Image, Stream, Tag
    from imagestreams.cli.naming import Kind

_DESCRIBED: Final[tuple[Kind, ...]] = (*LISTED, WORKLOAD)
_DEPLOYMENTS: Final = resource_of(DEPLOYMENT)
_EVENTS: Final = Resource("", "events", "v1")
_MANY: Final = 500  # Events of one object


def wanted_by(words: Sequence[str]) -> tuple[Target[Kind], ...]:
    """As `get` reads its words, and STREAM:TAG or STREAM@DIGEST alone; raises Misuse."""
    if all(":" in word and "/" not in word and _DIGEST.match(word) is None for word in words):
        return tuple(Target(IMAGE if "@" in word else TAG, word) for word in words)
    return targets(words, _DESCRIBED)


_DIGEST: Final = re.compile(r"sha(?:256|384|512):")


class _Source(msgspec.Struct, frozen=True):
    component: str | None = None


class _Series(msgspec.Struct, frozen=True, rename="camel"):
    count: int = 0
    last_observed_time: datetime | None = None


class _Metadata(msgspec.Struct, frozen=True, rename="camel"):
    creation_timestamp: datetime | None = None


class _Event(msgspec.Struct, frozen=True, rename="camel"):
    """A core/v1 Event, of old and new makers."""

    metadata: _Metadata = _Metadata()
    type: str | None = None
    reason: str | None = None
    message: str | None = None
    source: _Source | None = None
    reporting_component: str | None = None
    first_timestamp: datetime | None = None
    last_timestamp: datetime | None = None
    event_time: datetime | None = None
    series: _Series | None = None
    count: int | None = None


class Inspector:
    """One call.

    Args:
        client: of the cluster.
        resource: the group's imagestreams.
        namespace: that the call is about.
        with_events: whether Events are asked for.
    """

    def __init__(self, client: Client, resource: Resource, namespace: str, *, with_events: bool) -> None:
        self._client, self._resource, self._namespace = client, resource, namespace
        self._with_events = with_events
        self._streams = Streams(client, resource)
        self._reader = Reader(self._streams, resource, namespace)
        self._deployments: Deployments | None = None
        self._all_streams: tuple[Stream, ...] | Unseen | None = None
        self._seen_events: dict[tuple[str, str, str], Events] = {}
        self._absent: list[str] = []

    @property
    def problems(self) -> list[str]:
        """What was named and is not there."""
        return [*self._reader.problems, *self._absent]

    def texts(self, target: Target[Kind]) -> Iterator[str]:
        """The description of what is named; without a name, of all."""
        now = datetime.now(UTC)
        kind, name = target
        if kind is WORKLOAD:
            yield from self._workloads(name, now)
            return
        streams = () if name else self._reader.all()
        if kind is STREAM:
            for stream in self._reader.streams(name) if name else streams:
                events = self._events("ImageStream", stream.value.metadata.name, stream.value.metadata.uid)
                yield stream_text(stream, self._all_deployments(), events, now)
        elif kind is TAG:
            for tag in self._reader.tags(name) if name else (tag for stream in streams for tag in tags_of(stream)):
                metadata = tag.stream.value.metadata
                events = self._events("ImageStream", metadata.name, metadata.uid)
                yield tag_text(tag, self._all_deployments(), self._aliases(tag), events, now)
        else:
            found = self._reader.images(name) if name else (each for stream in streams for each in images_of(stream))
            for image in found:
                yield image_text(image, self._details(image), self._all_deployments(), now)

    def _workloads(self, name: str, now: datetime) -> Iterator[str]:
        if not name:
            every = all_workloads(self._client, self._namespace, problems=self._absent)
            found = tuple(each for each in every if each.triggers or each.problems)
        elif one := self._workload(name):
            found = (one,)
        else:
            return
        for each in found:
            workload = each.workload
            events = self._events("Deployment", workload.key.name, workload.uid)
            yield workload_text(each, tuple(compare(each, self._streams.look)), events, now)

    def _workload(self, name: str) -> Found | None:
        """None, and a problem, where there is none."""
        try:
            return read(DEPLOYMENT, self._client.get(_DEPLOYMENTS.path(self._namespace, name)))
        except Refused as refused:
            if refused.status != 404:
                raise
            self._absent.append(str(refused))
            return None
        except MalformedObject as error:
            raise Failure(f"error: the server's deployment is malformed: {error}") from error

    def _all_deployments(self) -> Deployments:
        if self._deployments is None:
            try:
                self._deployments = all_workloads(self._client, self._namespace, problems=self._absent)
            except Refused as refused:
                self._deployments = Unseen(_why(refused))
        return self._deployments

    def _aliases(self, tag: Tag) -> list[str]:
        """The namespace's tags that follow it; of those that cannot be listed, its own stream's."""
        if self._all_streams is None:
            try:
                self._all_streams = self._reader.all()
            except Refused as refused:
                self._all_streams = Unseen(_why(refused))
        streams = (tag.stream,) if isinstance(self._all_streams, Unseen) else self._all_streams
        wanted = Istag(*tag.stream.value.key, tag.name)
        return [
            f"{stream.value.metadata.name}:{each.name}"
            for stream in streams
            for each in stream.value.spec_tags
            if followed_tag(each, stream.value.key) == wanted
        ]

    def _details(self, image: Image) -> dict[str, Any] | Unseen:
        """The Image object, if the cluster keeps them and they may be read."""
        images = self._resource.of("images")
        try:
            found = msgspec.json.decode(self._client.get(images.path("", image.digest.replace(":", "-"))))
        except Refused as refused:
            if refused.status == 404:
                return Unseen("the cluster keeps no Image object of it (the controller's --image-objects)")
            if refused.status == 403:
                return Unseen("you may not read Image objects (images.image.openshift.io), if the cluster keeps any")
            return Unseen(_why(refused))
        except msgspec.DecodeError:
            return Unseen("the server's Image object is malformed")
        return found if isinstance(found, dict) else Unseen("the server's Image object is malformed")

    def _events(self, kind: str, name: str, uid: str) -> Events:
        if not self._with_events:
            return None
        key = (kind, name, uid)
        if key not in self._seen_events:
            self._seen_events[key] = self._fetch_events(*key)
        return self._seen_events[key]

    def _fetch_events(self, kind: str, name: str, uid: str) -> Events:
        selector = f"involvedObject.kind={kind},involvedObject.name={name}"
        selector += f",involvedObject.uid={uid}" if uid else ""
        query = urlencode({"fieldSelector": selector, "limit": str(_MANY)})
        try:
            bodies = self._client.get(f"{_EVENTS.path(self._namespace)}?{query}")
            found = msgspec.json.decode(bodies, type=_Events)
        except Refused as refused:
            return Unseen(_why(refused))
        except msgspec.DecodeError:
            return Unseen("the server's Events are malformed")
        return tuple(map(_event, found.items or ()))


class _Events(msgspec.Struct, frozen=True):
    items: tuple[_Event, ...] | None = None


def _event(event: _Event) -> Event:
    series = event.series or _Series()
    first = event.first_timestamp or event.event_time or event.metadata.creation_timestamp
    last = series.last_observed_time or event.last_timestamp or first
    return Event(
        type=event.type or "",
        reason=event.reason or "",
        message=" ".join((event.message or "").split()),
        source=(event.source and event.source.component) or event.reporting_component or "",
        first=first,
        last=last,
        times=max(series.count, event.count or 1),
    )


def _why(refused: Refused) -> str:
    return f"{refused.reason or refused.status}: {refused.message}"
