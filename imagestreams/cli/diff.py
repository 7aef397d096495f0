"""`imagestreams diff`: what workloads run, against what the tags that they follow point to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from imagestreams.cli.options import (
    Command,
    all_namespaces,
    connected,
    connection_options,
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
@connection_options
def command(*, all_namespaces: bool, selector: str, output: str | None, **connection: Any) -> int:
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
    _show(different, len(compared), output, where=where, is_everywhere=all_namespaces)
    for problem in problems:
        click.echo(_printable(f"warning: {problem}"), err=True)
    return 1 if different else 0


def _show(different: Sequence[Comparison], count: int, output: str | None, *, where: str, is_everywhere: bool) -> None:
    from imagestreams.cli.output import rendered  # noqa: PLC0415
    from imagestreams.cli.table import table  # noqa: PLC0415

    if output not in {None, "wide"}:
        document = {"differences": [each.document() for each in different], "equal": count - len(different)}
        click.echo(rendered([document], str(output)), nl=False)
        return
    if different:
        header: tuple[str, ...] = ("WORKLOAD", "CONTAINER", "TAG", "RUNNING", "TAG HAS", "WHY")
        rows = [each.row(is_wide=output == "wide") for each in different]
        if is_everywhere:
            header = ("NAMESPACE", *header)
            rows = [(each.workload.key.namespace, *row) for each, row in zip(different, rows, strict=True)]
        click.echo(table(header, rows))
    elif count:
        click.echo(f"No differences: of {count} containers each has what the tag that it follows points to.", err=True)
    else:
        click.echo(f"No workload of {where} follows a tag.", err=True)


def _printable(text: str) -> str:
    from imagestreams.cli.table import printable  # noqa: PLC0415

    return printable(text)
