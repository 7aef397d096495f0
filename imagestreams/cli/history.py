"""`imagestreams history`: what a tag points to and pointed to, as `kubectl rollout history` has it for a workload."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from imagestreams.cli.options import Command, connected, connection_options, no_headers, output_option

if TYPE_CHECKING:
    from imagestreams.cli.revisions import History, Revision


@click.command("history", cls=Command)
@click.argument("name", metavar="NAME[:TAG]")
@output_option("wide", "json", "yaml", "jsonpath", "jsonpath-file")
@no_headers
@connection_options
def command(name: str, *, output: str | None, no_headers: bool, **connection: Any) -> int:
    """List what a tag of an image stream points to and pointed to, the oldest first, and when.

    A revision keeps its number when older ones are dropped. A rollback makes a new revision, as with `kubectl rollout`.
    The tag is "latest" if none is named; a tag that is no longer in the stream's spec still has its history. What
    stands before a slash is a kind (istag/web:stable); another namespace is named by -n.

    \b
    Examples:
      imagestreams history web:stable
      imagestreams history web:stable -o wide
      imagestreams history web:stable -o jsonpath='{.revisions[-1].image}'

    Exit code: 0 done, 1 there is no such tag, or the server refused, 2 called wrongly.
    """  # noqa: D301  # \b is click's mark for lines to keep
    from imagestreams.cli.output import show  # noqa: PLC0415
    from imagestreams.cli.revisions import history_of, named_tag, read_stream  # noqa: PLC0415

    stream, tag = named_tag(name)
    with connected(**connection) as (client, access):
        resource = client.image_streams()
        found = history_of(read_stream(client.get(resource.path(access.namespace, stream))), tag)
        if output not in {None, "wide"}:
            show([found.document()], str(output))
            return 0
    if found.revisions:
        click.echo(_table(found, is_wide=output == "wide", has_header=not no_headers))
    else:
        why = f" ({found.failure})" if found.failure else ""
        click.echo(_printable(f"{found.name} has never had an image{why}"), err=True)
    if found.pin is not None:
        click.echo("\n" + "\n".join(map(_printable, _held(found))))
    return 0


def _table(history: History, *, is_wide: bool, has_header: bool) -> str:
    from datetime import UTC, datetime  # noqa: PLC0415

    from imagestreams.cli.revisions import short  # noqa: PLC0415
    from imagestreams.cli.table import age, table  # noqa: PLC0415

    now = datetime.now(UTC)

    def marks(revision: Revision) -> str:
        if revision is not history.current:
            return ""
        return "current, pinned" if history.pin is not None else "current"

    def row(revision: Revision) -> tuple[str, ...]:
        when = age(revision.created, now)
        if is_wide:
            return str(revision.number), when, revision.pull_spec, marks(revision)
        source = revision.pull_spec.partition("@")[0] if revision.image else ""
        return str(revision.number), when, short(revision.image or revision.pull_spec), source, marks(revision)

    header = ("REVISION", "AGE", "IMAGE", "NOTE") if is_wide else ("REVISION", "AGE", "IMAGE", "SOURCE", "NOTE")
    return table(header if has_header else (), [row(revision) for revision in history.revisions])


def _held(history: History) -> list[str]:
    served = [f"Its source has {history.served} now."] if history.served else []
    return [f"Held at {history.pin}", *served, f"To let it go: imagestreams resume {history.name}"]


def _printable(text: str) -> str:
    from imagestreams.cli.table import printable  # noqa: PLC0415

    return printable(text)
