"""`imagestreams diff`: what workloads run, against what the tags that they follow point to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from imagestreams.cli.options import (
    Command,
    all_namespaces,
    connected,
    connection_options,
    no_headers,
    output_option,
    selector,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imagestreams.cli.following import Comparison


@click.command("diff", cls=Command)
@all_namespaces
@selector
@output_option("wide", "json", "yaml", "jsonpath", "jsonpath-file")
@no_headers
@connection_options
def command(*, all_namespaces: bool, selector: str, output: str | None, no_headers: bool, **connection: Any) -> int:
    """Compare what workloads run with what the tags that they follow point to, and say why they differ.

    \b
    held         somebody set the image by hand; until the tag moves, or `imagestreams resume deploy/NAME`
    behind       the controller has not set it yet: it is down, only observes, or was refused
    waiting      the tag has no image, or must not be seen or pulled from there
    paused       the trigger is paused in the workload's annotation, or the rollout in the workload
    rolling out  the image is set, and not all pods have it yet

    \b
    Examples:
      imagestreams diff
      imagestreams diff --all-namespaces
      imagestreams diff -l app=web -o json

    Exit code: 0 no differences, 1 differences, 2 failed or called wrongly. (As with `kubectl diff`.)
    """  # noqa: D301  # \b is click's mark for lines to keep
    with connected(**connection) as (client, access):
        from imagestreams.cli.following import compare, workloads  # noqa: PLC0415
        from imagestreams.cli.listing import Streams  # noqa: PLC0415

        namespace = "" if all_namespaces else access.namespace
        problems: list[str] = []
        found = workloads(client, namespace, selector, problems)
        streams = Streams(client, client.image_streams())
        if found:
            streams.read_all(namespace)
        compared = [each for workload in found for each in compare(workload, streams.look)]
    different = [each for each in compared if each.state]
    where = "any namespace" if all_namespaces else f"namespace {access.namespace}"
    if output not in {None, "wide"}:
        from imagestreams.cli.output import show  # noqa: PLC0415

        document = {"differences": [each.document() for each in different], "equal": len(compared) - len(different)}
        show([document], str(output))
    elif different:
        click.echo(_table(different, is_wide=output == "wide", is_everywhere=all_namespaces, has_header=not no_headers))
    elif compared:
        words = f"of {len(compared)} containers each has what the tag that it follows points to."
        click.echo(f"No differences: {words}", err=True)
    else:
        click.echo(f"No workload of {where} follows a tag.", err=True)
    for problem in problems:
        click.echo(_printable(f"warning: {problem}"), err=True)
    return 1 if different else 0


def _table(different: Sequence[Comparison], *, is_wide: bool, is_everywhere: bool, has_header: bool) -> str:
    from imagestreams.cli.table import table  # noqa: PLC0415

    header: tuple[str, ...] = ("WORKLOAD", "CONTAINER", "TAG", "RUNNING", "TAG HAS", "WHY")
    rows = [each.row(is_wide=is_wide) for each in different]
    if is_everywhere:
        header = ("NAMESPACE", *header)
        rows = [(each.workload.key.namespace, *row) for each, row in zip(different, rows, strict=True)]
    return table(header if has_header else (), rows)


def _printable(text: str) -> str:
    from imagestreams.cli.table import printable  # noqa: PLC0415

    return printable(text)
