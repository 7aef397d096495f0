"""`imagestreams import-image`: ask the controller to look a tag up now, wait for it, and print what it found.

The request is an annotation on the stream, `imagestreams.dev/refresh: "<nonce> [TAG ...]"` (no tags: all), handled when
`status.handled.refresh` has the annotation's whole value. So the command needs no registry and no credentials: those
stay in the cluster. A request of somebody else that is not handled yet is taken into ours.
"""

from __future__ import annotations

import json
import os
import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click
import yaml

from imagestreams.cli.api import Refused, Unreachable
from imagestreams.cli.options import Command, Failure, connected, connection_options, progress, seconds, switch
from imagestreams.core.stream import REFRESH_ANNOTATION, MalformedObject, decode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from imagestreams.cli.api import Client, Resource
    from imagestreams.core.stream import ImageStream, TagReference

_CONFLICTS: Final = 10  # tries to write the request while others write the stream
_LOSSES: Final = 5  # requests that others may take away until we give up
_FIRST_PAUSE: Final = 0.1  # seconds; doubles
_LONGEST_PAUSE: Final = 2.0


# ---- what is asked for ----


class Target(NamedTuple):
    """A stream, and a tag of it; None means all its tags."""

    stream: str
    tag: str | None


_KINDS: Final = re.compile(r"(?:is|imagestreams?)(?:\.[a-z0-9.-]+)?/")
_STREAM: Final = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?")
_TAG: Final = re.compile(r"\w[\w.-]{0,127}", re.ASCII)


def parse_target(text: str, *, all_tags: bool) -> Target:
    """Read NAME or NAME:TAG; raises click.UsageError with what to write instead."""
    kind = _KINDS.match(text)
    name = text[kind.end() :] if kind else text
    if "@" in name:
        raise click.UsageError(f"{text!r} names a digest, and a digest never changes; name a tag, such as web:latest")
    if "/" in name:
        namespace, _, rest = name.rpartition("/")
        raise click.UsageError(f"{text!r} names a namespace; write it as: import-image {rest} -n {namespace}")
    stream, colon, tag = name.partition(":")
    if _STREAM.fullmatch(stream) is None:
        raise click.UsageError(f"{stream!r} is no name of an image stream; write NAME or NAME:TAG, such as web:latest")
    if colon and all_tags:
        raise click.UsageError(f"--all and the tag {tag!r} contradict each other; leave one out")
    if colon and _TAG.fullmatch(tag) is None:
        raise click.UsageError(f"{tag!r} is no tag; write letters, digits, '_', '.' and '-', at most 128")
    return Target(stream, None if all_tags else tag or "latest")


@dataclass(frozen=True, slots=True)
class Request:
    """The annotation's value, taken apart. No tags means all."""

    value: str
    tags: frozenset[str]

    @classmethod
    def parse(cls, value: str | None) -> Request | None:
        words = (value or "").split()
        return cls(value or "", frozenset(words[1:])) if words else None

    def covers(self, tags: frozenset[str]) -> bool:
        return not self.tags or (bool(tags) and tags <= self.tags)


@dataclass(frozen=True, slots=True)
class Asked:
    """Our request, once it is on the stream.

    Attributes:
        tags: that we want; empty means all. The request may name more, somebody else's.
        earlier: values that were asked for before ours; that one of them is handled says nothing of ours.
    """

    request: Request
    tags: frozenset[str]
    earlier: frozenset[str]

    def is_handled(self, stream: ImageStream) -> bool:
        """Whether the controller carried it out, or a later request that somebody merged it into."""
        handled = Request.parse(stream.status.handled.refresh if stream.status and stream.status.handled else None)
        if handled is None or handled.value in self.earlier:
            return False
        return handled.value == self.request.value or handled.covers(self.tags)

    def is_lost(self, stream: ImageStream) -> bool:
        """Whether somebody replaced or removed it, without taking it over."""
        present = Request.parse(stream.annotations.refresh)
        return present is None or not present.covers(self.tags)


def tags_to_report(stream: ImageStream, target: Target) -> tuple[str, ...]:
    """The tags whose outcome is printed: all that have a source, or the one asked for and the tags that it follows, the
    last of which is looked up.

    Raises:
        Failure: there is nothing that could be imported.
    """
    if target.tag is None:
        tags = tuple(tag.name for tag in stream.spec_tags if tag.from_ is not None)
        if not tags:
            raise Failure(f"error: the image stream {target.stream} has no tag with a source to import from")
        return tags
    chain: list[str] = []
    followed: str | None = target.tag
    while followed is not None:
        if followed in chain:
            raise Failure(f'error: tag "{target.tag}" follows itself ({" -> ".join([*chain, followed])})')
        tag = stream.spec_tag(followed)
        if tag is None:
            raise Failure(_unknown_tag(stream, followed, chain))
        chain.append(followed)
        followed = _followed(stream, tag)
    return tuple(chain)


def _unknown_tag(stream: ImageStream, tag: str, chain: Sequence[str]) -> str:
    if chain:
        return f'error: tag "{chain[-1]}" points to the tag "{tag}", which does not exist on the image stream'
    known = ", ".join(sorted(tag.name for tag in stream.spec_tags))
    remedy = f"choose one of: {known}" if known else "it has none in its spec"
    recorded = " any more; its history stays in status" if stream.status_tag(tag) else ""
    return f'error: the tag "{tag}" does not exist on the image stream{recorded} - {remedy}'


def _followed(stream: ImageStream, tag: TagReference) -> str | None:
    """The tag of the same stream that `tag` points to, or None for one that is looked up itself."""
    source = tag.from_
    if source is None or not source.name:
        raise Failure(f'error: tag "{tag.name}" has no source (from): only pushes move it')
    if source.kind == "DockerImage":
        if tag.reference:
            raise Failure(
                f'error: tag "{tag.name}" is a reference (reference: true): "{source.name}" is never looked up'
            )
        return None
    if source.kind != "ImageStreamTag":
        raise Failure(
            f'error: tag "{tag.name}" points to existing {source.kind} "{source.name}", it cannot be re-imported'
        )
    owner, colon, name = source.name.rpartition(":")
    is_own = not source.namespace or source.namespace == stream.metadata.namespace
    if not is_own or (colon and owner != stream.metadata.name):
        place = f"{source.namespace}/{source.name}" if source.namespace else source.name
        raise Failure(f'error: tag "{tag.name}" points to an imagestreamtag from another ImageStream, "{place}"')
    return name or "latest"


# ---- asking and waiting ----


class Import:
    """One call, from request to outcome.

    Args:
        client: of the cluster.
        resource: the group's imagestreams.
        namespace: the stream's.
        target: what to import.
        clock: seconds that only go forward.
        sleep: waits some seconds.
        nonce: a text without spaces that nobody else uses.
    """

    def __init__(
        self,
        client: Client,
        resource: Resource,
        namespace: str,
        target: Target,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        nonce: Callable[[], str] = lambda: os.urandom(8).hex(),  # what secrets.token_hex does, 5 ms of imports away
    ) -> None:
        self._client, self._resource, self._target = client, resource, target
        self._collection, self._path = resource.path(namespace), resource.path(namespace, target.stream)
        self._clock, self._sleep, self._nonce = clock, sleep, nonce
        self.before: ImageStream | None = None
        self.body = b""  # the stream's JSON as the server gave it last

    def ask(self, earlier: frozenset[str] = frozenset()) -> tuple[Asked, ImageStream]:
        """Write the request; gives the stream with it.

        Raises:
            Failure: nothing to import, or others write the stream without end.
        """
        for attempt in range(_CONFLICTS):
            stream = self._decode(self._client.get(self._path))
            tags = frozenset(tags_to_report(stream, self._target)[-1:]) if self._target.tag else frozenset()
            handled = stream.status.handled.refresh if stream.status and stream.status.handled else None
            present = Request.parse(stream.annotations.refresh)
            request = self._merged(tags, present if present and present.value != handled else None)
            version = stream.metadata.resource_version
            patch = {"metadata": {"resourceVersion": version, "annotations": {REFRESH_ANNOTATION: request.value}}}
            try:
                asked_of = self._decode(self._client.patch(self._path, json.dumps(patch).encode()))
            except Refused as refused:
                if refused.status != 409:
                    raise
                self._sleep(min(_FIRST_PAUSE * 2**attempt, _LONGEST_PAUSE))
                continue
            self.before = self.before or stream
            former = {value for value in (handled, present and present.value) if value}
            return Asked(request, tags, earlier | former), asked_of
        raise Failure(
            f"error: others wrote {self._resource.named(self._target.stream)} each of the {_CONFLICTS} times that the "
            "request was to be set; try again"
        )

    def _merged(self, tags: frozenset[str], pending: Request | None) -> Request:
        """A request for our tags and for those that somebody still waits for."""
        wanted = tags if pending is None else tags | pending.tags if tags and pending.tags else frozenset()
        return Request(" ".join([self._nonce(), *sorted(wanted)]), wanted)

    def wait(self, asked: Asked, stream: ImageStream, timeout: float | None) -> ImageStream:
        """The stream once the request is handled.

        Args:
            asked: from `ask`.
            stream: from `ask`.
            timeout: seconds; None: forever.

        Raises:
            Failure: the time is up, or the stream is gone.
        """
        uid = stream.metadata.uid
        deadline = None if timeout is None else self._clock() + timeout
        for _ in range(_LOSSES):
            for state in self._states(stream, deadline):
                stream = state
                if state.metadata.uid != uid:
                    raise Failure(f"error: {self._resource.named(self._target.stream)} was deleted and created anew")
                if asked.is_handled(state):
                    return state
                if asked.is_lost(state):
                    break
            else:
                raise Failure(self._timed_out(stream, timeout or 0))
            asked, stream = self.ask(asked.earlier | {asked.request.value})
        raise Failure("error: somebody keeps removing the request (annotation imagestreams.dev/refresh)")

    def _states(self, stream: ImageStream, deadline: float | None) -> Iterator[ImageStream]:
        """The stream as it is and as it changes, until the time is up.

        By watch; by asking again where watching is not allowed, and after a watch or the server broke off.
        """
        pause, may_watch = _FIRST_PAUSE, True
        yield stream
        while (left := self._left(deadline)) is None or left > 0:
            try:
                if may_watch:
                    for change in self._watch(stream.metadata.resource_version, left):
                        pause, stream = _FIRST_PAUSE, change
                        yield change
            except Refused as refused:
                may_watch = refused.status not in {403, 405}
            except Unreachable:
                pass  # the server may be restarting: asked again below, as long as there is time
            left = self._left(deadline)
            if left is not None and left <= 0:
                return
            self._sleep(pause if left is None else min(pause, left))
            pause = min(pause * 2, _LONGEST_PAUSE)
            try:
                stream = self._decode(self._client.get(self._path, timeout=left))
            except Refused as refused:
                if refused.status < 500:
                    raise
            except Unreachable:
                pass
            else:
                yield stream

    def _left(self, deadline: float | None) -> float | None:
        return None if deadline is None else deadline - self._clock()

    def _watch(self, version: str, timeout: float | None) -> Iterator[ImageStream]:
        for event in self._client.watch(self._collection, self._target.stream, version, timeout):
            if event.kind == "DELETED":
                raise Failure(f"error: {self._resource.named(self._target.stream)} was deleted meanwhile")
            if event.kind in {"ADDED", "MODIFIED"}:
                yield self._decode(event.body)

    def _decode(self, body: bytes) -> ImageStream:
        try:
            stream = decode(body)
        except MalformedObject as error:
            raise Failure(
                f"error: the server's {self._resource.named(self._target.stream)} is malformed: {error}"
            ) from error
        self.body = body
        return stream

    def _timed_out(self, stream: ImageStream, timeout: float) -> str:
        what = f'tag "{self._target.tag}"' if self._target.tag else "all tags"
        name = self._resource.named(self._target.stream)
        status = stream.status
        if status is None or status.observed_generation is None:
            why = (
                "no controller has ever written the status of this image stream: is imagestreams installed and running?"
            )
        elif status.observed_generation < stream.metadata.generation:
            why = "the controller has not seen the stream's last change: is it running?"
        else:
            why = (
                "the controller has seen the stream, so it is down now, or a registry is slow or has told it to wait; "
                f"see: kubectl describe {name}"
            )
        return (
            f"error: timed out after {timeout:g}s waiting for the import of {what} of {name}\n"
            f"  {why}\n"
            "  Who leads: kubectl get leases,deployments --all-namespaces | grep imagestreams\n"
            "  The request stays on the stream and is carried out when the controller can."
        )


# ---- what is printed ----


class Row(NamedTuple):
    """A tag's outcome, in words; `failure` is empty or the reason and message."""

    tag: str
    source: str
    digest: str
    updated: str
    result: str
    failure: str


def rows(before: ImageStream | None, after: ImageStream, tags: Sequence[str], now: datetime) -> tuple[Row, ...]:
    """One row for each tag, in their order. `now` is aware."""
    return tuple(_row(before, after, tag, now) for tag in tags)


def _row(before: ImageStream | None, after: ImageStream, name: str, now: datetime) -> Row:
    tag, recorded = after.spec_tag(name), after.status_tag(name)
    source = tag.from_ if tag else None
    newest = recorded.newest if recorded else None
    outcome = recorded.outcome if recorded else None
    old = before.status_tag(name) if before else None
    failure = ""
    if outcome is not None and outcome.status != "True":
        failure = f"{outcome.reason or 'Failed'}: {outcome.message or 'the controller gave no message'}"
    elif newest is None:
        failure = "Unknown: the controller wrote no outcome; was the tag removed meanwhile?"
    known = old.newest if old else None
    result = "imported" if known is None else "unchanged" if known == newest else "updated"
    kind = "" if source is None or source.kind == "DockerImage" else f" ({source.kind})"
    return Row(
        tag=name,
        source=_printable(f"{source.name or ''}{kind}" if source else "<none>"),
        digest=_printable((newest.image or newest.docker_image_reference) if newest else "") or "<none>",
        updated=_ago(newest.created, now) if newest and newest.created else "<never>",
        result=_printable(failure) or result,
        failure=_printable(failure),
    )


def _printable(text: str) -> str:
    """Registries' and other tenants' words, without what would steer a terminal."""
    return "".join(char if char.isprintable() else " " for char in text)


def _ago(moment: datetime, now: datetime) -> str:
    passed = max(0, int((now - moment).total_seconds()))
    for limit, length, unit in ((120, 1, "s"), (7200, 60, "m"), (172_800, 3600, "h")):
        if passed < limit:
            return f"{passed // length}{unit} ago"
    return f"{passed // 86_400}d ago"


def table(found: Sequence[Row]) -> str:
    lines = [("TAG", "SOURCE", "DIGEST", "UPDATED", "RESULT"), *(row[:5] for row in found)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "   ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def document(body: bytes, form: str) -> str:
    """The server's object as kubectl prints it: without managedFields, keys sorted in YAML."""
    content: dict[str, Any] = json.loads(body)
    content.get("metadata", {}).pop("managedFields", None)
    if form == "json":
        return json.dumps(content, indent=4, ensure_ascii=False)
    text: str = yaml.dump(content, Dumper=yaml.CSafeDumper, default_flow_style=False, allow_unicode=True)
    return text.rstrip("\n")


# ---- the command ----


@click.command("import-image", cls=Command)
@click.argument("name", metavar="NAME[:TAG]")
@switch("--all", default=False, words="Import all tags of the stream.")
@switch("--wait", default=True, words="Wait until the controller has done it (--wait=false: only ask for it).")
@click.option(
    "--timeout",
    type=seconds,
    default="60s",
    show_default=True,
    metavar="DURATION",
    help="How long to wait; 0: forever.",
)
@click.option(
    "-o", "--output", type=click.Choice(["name", "json", "yaml"]), help="Print the name, or the stream, and no table."
)
@connection_options
def command(
    name: str,
    *,
    all: bool,  # noqa: A002  # the flag's name
    wait: bool,
    timeout: float | None,
    output: str | None,
    **connection: Any,
) -> int:
    """Look up the image that a tag of an image stream points to, now.

    The controller asks the registry and writes what it finds into the stream's status; workloads that follow the tag
    are rolled out as if it had moved by itself. The tag is "latest" if none is named.

    \b
    Examples:
      imagestreams import-image web
      imagestreams import-image web:1.2 -n shop
      imagestreams import-image web --all -o json

    Exit code: 0 all imported, 1 a tag failed, the time ran out or the server refused, 2 called wrongly.
    """  # noqa: D301  # \b is click's mark for lines to keep
    target = parse_target(name, all_tags=all)
    with connected(**connection) as (client, access):
        resource = client.image_streams()
        job = Import(client, resource, access.namespace, target)
        asked, stream = job.ask()
        if wait:
            with progress(f"{target.stream}: waiting for the controller to look up {target.tag or 'all tags'} ..."):
                stream = job.wait(asked, stream, timeout)
        return _print(job, resource, target, stream, output, is_done=wait)


def _print(
    job: Import, resource: Resource, target: Target, stream: ImageStream, output: str | None, *, is_done: bool
) -> int:
    found = rows(job.before, stream, tags_to_report(stream, target), datetime.now(UTC)) if is_done else ()
    failed = [row for row in found if row.failure]
    named = resource.named(target.stream)
    if output == "name":
        click.echo(named)
    elif output:
        click.echo(document(job.body, output))
    elif not is_done:
        click.echo(f"{named} import requested")
    else:
        click.echo(f"{named} imported{' with errors' if failed else ''}\n\n{table(found)}")
    if failed and output:
        click.echo("\n".join(f'error: tag "{row.tag}" failed: {row.failure}' for row in failed), err=True)
    elif failed:
        click.echo(f"error: {len(failed)} of {len(found)} tags could not be imported", err=True)
    return 1 if failed else 0
