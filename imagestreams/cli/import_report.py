"""What `import-image` prints: an outcome for each tag, of an import that was done, and of one that would be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from imagestreams.cli.table import NONE, age, printable
from imagestreams.cli.table import table as _table

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from imagestreams.cli.lookups import Found
    from imagestreams.core.stream import ImageStream, StatusTag, TagEvent

_HEADER: Final = ("TAG", "SOURCE", "DIGEST", "UPDATED", "RESULT")


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
    source = tag.from_ if tag else recorded.observed.from_ if recorded and recorded.observed else None
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
    if recorded is not None and recorded.pinned is not None:
        result = _held(recorded, result)
    kind = "" if source is None or source.kind == "DockerImage" else f" ({source.kind})"
    return Row(
        tag=name,
        source=printable(f"{source.name or ''}{kind}" if source else NONE),
        digest=printable((newest.image or newest.docker_image_reference) if newest else "") or NONE,
        updated=_updated(newest, now),
        result=printable(failure) or result,
        failure=printable(failure),
    )


def _held(tag: StatusTag, result: str) -> str:
    """What became of a tag that moves only to what it is pinned to, and what the registry has meanwhile."""
    words = "pinned" if result == "unchanged" else f"{result}, pinned"
    if tag.pinned is not None and tag.pinned.status != "True":
        words = f"{result}; held, since its pin cannot be carried out"
    observed, newest = tag.observed, tag.newest
    if observed is None or not observed.digest or observed.from_ is None or observed.from_.kind != "DockerImage":
        return words
    if newest is not None and newest.image == observed.digest:
        return f"{words}; the registry has the same"
    # In Legacy mode the tag's image may be one of an index, and the registry has the index.
    note = " (the image, or an index of it)" if observed.import_mode == "Legacy" else ""
    return f"{words}; the registry has {observed.digest}{note}"


def _updated(newest: TagEvent | None, now: datetime) -> str:
    if newest is None or newest.created is None:
        return "<never>"
    return f"{age(min(newest.created, now), now)} ago"  # the controller's clock may be ahead of ours


def table(found: Sequence[Row]) -> str:
    return _table(_HEADER, [row[:5] for row in found])


def repository_failure(stream: ImageStream) -> str:
    """Why the stream's repository could not be listed; empty where it was, or there is none."""
    condition = stream.status.condition("RepositoryImported") if stream.repository and stream.status else None
    if condition is None or condition.status != "False" or condition.reason == "Importing":
        return ""
    return printable(f"{condition.reason or 'Failed'}: {condition.message or 'the controller gave no message'}")


def dry_rows(before: ImageStream | None, found: Sequence[Found], now: datetime) -> tuple[Row, ...]:
    """What would become of the tags; `before` is the stream, if there is one."""
    made: list[Row] = []
    for answer in found:
        recorded = before.status_tag(answer.ask.tag) if before else None
        newest = recorded.newest if recorded else None
        if newest is None:
            result = "would be imported"
        elif newest.image == answer.digest:
            result = "unchanged"
        elif recorded is not None and recorded.pinned is not None:
            result = f"pinned; would stay at {newest.image or newest.docker_image_reference}"
        else:
            result = "would be updated"
        updated = f"{age(newest.created, now)} ago" if newest and newest.created else "<never>"
        failure = printable(answer.failure)
        made.append(Row(answer.ask.tag, answer.ask.source, answer.digest or NONE, updated, failure or result, failure))
    return tuple(made)
