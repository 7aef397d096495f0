"""`imagestreams resolve`: what the tags of ImageStream manifests are now, without a cluster.

The registries are asked as the controller asks them: the same plan, lanes and client, with a store in memory in place
of the API server.
"""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any, Final

import click

from imagestreams.cli.manifests import InvalidManifests, read_manifests
from imagestreams.cli.options import Misuse, progress, seconds, switch
from imagestreams.cli.registries import RegistryCommand, chosen, quiet, registry_options
from imagestreams.cli.table import printable, table

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from imagestreams.cli.manifests import Manifests
    from imagestreams.cli.registries import Chosen
    from imagestreams.cli.resolution import Found


@click.command("resolve", cls=RegistryCommand)
@click.option(
    "-f",
    "--filename",
    "names",
    multiple=True,
    required=True,
    metavar="FILE|DIR|-",
    help="Manifests: YAML or JSON, streams and lists of them; - is the standard input. May be repeated.",
)
@switch("-R", "--recursive", default=False, words="Read directories within directories, too.")
@click.option(
    "-n", "--namespace", default="default", show_default=True, metavar="NAMESPACE", help="Of streams that name none."
)
@click.option(
    "-o",
    "--output",
    type=click.Choice(["table", "yaml", "json"]),
    default="table",
    show_default=True,
    help="How to print what was found.",
)
@click.option(
    "--timeout",
    type=seconds,
    default="2m",
    show_default=True,
    metavar="DURATION",
    help="How long to wait for all answers, and for a registry that asks to wait; 0: as long as it takes.",
)
@switch(
    "--allow-insecure-credentials",
    default=False,
    words="Send logins also over plain http or unverified TLS, where a tag's importPolicy is insecure.",
)
@registry_options("import_mode", "legacy_platform", "repository_tags")
def command(
    names: tuple[str, ...],
    *,
    recursive: bool,
    namespace: str,
    output: str,
    timeout: float | None,
    allow_insecure_credentials: bool,
    credentials: str | None,
    **flags: Any,
) -> int:
    """Say which image each tag of ImageStream manifests is now. No cluster is needed, and nothing is written.

    Every tag is looked up in its registry as the controller would do it, once, and once more where a failure may pass.
    A tag that follows another stream is resolved if that stream is among the manifests.

    \b
    Examples:
      imagestreams resolve -f imagestream.yaml
      imagestreams resolve -f deploy/ -R -o yaml
      kustomize build . | imagestreams resolve -f - --credentials ~/.docker/config.json

    Exit code: 0 all resolved, 1 a tag failed, 2 called wrongly or a manifest that cannot be used.
    """  # noqa: D301  # \b is click's mark for lines to keep
    try:
        manifests = read_manifests(names, recursive=recursive, namespace=namespace)
    except InvalidManifests as error:
        raise Misuse("\n".join(f"error: {line}" for line in str(error).splitlines())) from None
    given = chosen(flags, credentials)
    _say(manifests, given)
    with progress("resolving ...") as show:

        def told(done: int, whole: int) -> None:
            show(f"resolving: {done} of {whole} tags ...")

        found = _resolved(manifests, given, timeout, told, may_send_insecurely=allow_insecure_credentials)
    return _print(found, output)


def _say(manifests: Manifests, given: Chosen) -> None:
    """What people should know before they read the result."""
    from imagestreams.cli.resolution import borrowed  # noqa: PLC0415

    lines = [*manifests.skipped, *(f"note: {note}" for note in given.notes)]
    lines += [
        f"note: {manifest.stream.key}: a controller would not import it ({_SUSPENDED}); it is resolved all the same"
        for manifest in manifests.streams
        if manifest.is_suspended
    ]
    for tag, followed in borrowed([manifest.stream for manifest in manifests.streams]).items():
        lines.append(
            f"note: {tag} takes its image from {followed}: a cluster asks whether {tag.namespace} may pull from "
            f"{followed.namespace}, here nobody does"
        )
    for line in lines:
        click.echo(printable(line), err=True)


_SUSPENDED = 'imagestreams.dev/suspend: "true"'


def _resolved(
    manifests: Manifests,
    given: Chosen,
    timeout: float | None,
    told: Callable[[int, int], None],
    *,
    may_send_insecurely: bool,
) -> tuple[Found, ...]:
    import asyncio  # noqa: PLC0415  # the heavy half, from here on

    from imagestreams.cli.resolution import Resolution  # noqa: PLC0415

    async def resolve() -> tuple[Found, ...]:
        quota = given.quota()
        async with given.client(quota) as client:
            resolution = Resolution(
                (manifest.stream for manifest in manifests.streams),
                ask=client.answer,
                quota=quota,
                rules=given.rules,
                entries=given.entries,
                may_send_insecurely=may_send_insecurely,
                timeout=timeout,
                concurrency=given.settings.lane_concurrency,
                on_progress=told,
            )
            await resolution.run()
            return resolution.found()

    quiet()
    gc.enable()  # see main()
    return asyncio.run(resolve())


# ---- what is printed ----


def _print(found: Sequence[Found], output: str) -> int:
    failed = [row for row in found if row.is_failed]
    if output == "table":
        click.echo(_table(found) if found else "no tags")
    else:
        click.echo(_document([_record(row) for row in found], output))
        for row in failed:
            click.echo(printable(f"error: {_name(row)}: {row.reason}: {row.message}"), err=True)
    if failed:
        click.echo(f"error: {len(failed)} of {len(found)} tags could not be resolved", err=True)
    if asked := [row.source for row in failed if row.reason not in _NOT_ASKED and row.source]:
        click.echo(printable(f"Step by step: imagestreams explain {asked[0]}"), err=True)
    return 1 if failed else 0


# Failures of the manifest or of another tag, of which a registry knows nothing.
_NOT_ASKED: Final = frozenset(
    {
        "AmbiguousImage",
        "CircularReference",
        "ImageNotFound",
        "InvalidImageReference",
        "InvalidPlatform",
        "InvalidSource",
        "TagNotFound",
        "Unresolved",
    }
)


def _table(found: Sequence[Found]) -> str:
    """The namespace is shown where there are several. The last column is an image, or why there is none."""
    namespaces = {row.namespace for row in found}
    rows = [
        (row.namespace, row.stream, row.tag or "<repository>", row.reason, row.image or row.message) for row in found
    ]
    header = ("NAMESPACE", "STREAM", "TAG", "REASON", "IMAGE / MESSAGE")
    first = 0 if len(namespaces) > 1 else 1
    return table(header[first:], [row[first:] for row in rows])


def _record(row: Found) -> dict[str, str]:
    """Every field is there, empty where there is nothing to say."""
    return {
        "stream": row.stream,
        "namespace": row.namespace,
        "tag": row.tag,
        "image": row.image,
        "digest": row.digest,
        "reason": row.reason,
        "message": row.message,
        "from": row.source,
    }


def _name(row: Found) -> str:
    return f"{row.namespace}/{row.stream}{f':{row.tag}' if row.tag else ''}"


def _document(records: list[dict[str, str]], output: str) -> str:
    if output == "json":
        import json  # noqa: PLC0415

        return json.dumps(records, indent=4, ensure_ascii=False)
    import yaml  # noqa: PLC0415

    text: str = yaml.dump(records, Dumper=yaml.CSafeDumper, sort_keys=False, allow_unicode=True, width=1 << 16)
    return text.rstrip("\n")
