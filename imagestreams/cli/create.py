"""`imagestreams create`: a stream, or a tag of one, as `oc create imagestream` and `oc create imagestreamtag`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from imagestreams.cli.options import (
    Command,
    Failure,
    Misuse,
    connected,
    connection_options,
    dry_run_option,
    output_option,
    switch,
)
from imagestreams.cli.tag_options import filled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imagestreams.cli.api import Resource
    from imagestreams.cli.tag_plan import Source

Object = dict[str, Any]


class _Kinds(click.Group):
    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if found := super().get_command(ctx, cmd_name):
            return found
        from imagestreams.cli.naming import STREAM, TAG, kind_of  # noqa: PLC0415  # `--help` needs none

        kind = kind_of(cmd_name, (STREAM, TAG))
        return super().get_command(ctx, kind.words[-1]) if kind else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and not ctx.resilient_parsing and not self.get_command(ctx, args[0]):
            ctx.fail(f"{args[0]!r} cannot be created here; write imagestream or imagestreamtag")
        return super().resolve_command(ctx, args)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        from imagestreams.cli.main import command_first  # noqa: PLC0415  # which imports us

        return super().parse_args(ctx, command_first(args))


@click.group("create", cls=_Kinds)
def command() -> None:
    """Create an image stream, or a tag of one.

    \b
    Examples:
      imagestreams create imagestream web
      imagestreams create imagestreamtag web:stable --from-image=quay.io/acme/web:1.2 --scheduled

    Exit code: 0 done, 1 it is there already or the server refused, 2 called wrongly.
    """  # noqa: D301  # \b is click's mark for lines to keep


@command.command("imagestream", cls=Command)
@click.argument("name", metavar="NAME")
@switch("--lookup-local", default=False, words="Let pods of the namespace name the stream's tags as their image.")
@dry_run_option
@output_option()
@connection_options
def imagestream(name: str, *, lookup_local: bool, dry_run: str, output: str | None, **connection: Any) -> int:
    """Create an empty image stream.

    \b
    Examples:
      imagestreams create imagestream web
      imagestreams create is web --lookup-local -n shop
      imagestreams create is web --dry-run=client -o yaml

    Exit code: 0 done, 1 it is there already or the server refused, 2 called wrongly.
    """  # noqa: D301  # \b is click's mark for lines to keep
    from imagestreams.cli.editing import decoded, encoded, query_of  # noqa: PLC0415  # `--help` needs none
    from imagestreams.cli.naming import split_tag  # noqa: PLC0415

    stream, tag = split_tag(name)
    if tag:
        raise Misuse(f"error: {name!r} is a tag; write: imagestreams create imagestreamtag {name}")
    with connected(**connection) as (client, access):
        resource = client.image_streams()
        made = _stream(resource, access.namespace, stream)
        if lookup_local:
            made["spec"] = {"lookupPolicy": {"local": True}}
        if dry_run != "client":
            body = client.post(resource.path(access.namespace) + query_of(dry_run), encoded(made))
            made = decoded(body, resource.named(stream))
        _tell(resource.named(stream), made, dry_run, output)
    return 0


@command.command("imagestreamtag", cls=Command, short_help="Create a tag of an image stream.")
@click.argument("name", metavar="STREAM:TAG")
@click.option(
    "--from-image", type=filled, default=None, metavar="IMAGE", help="Where it comes from: an image of a registry."
)
@click.option(
    *("--from", "source"),
    type=filled,
    default=None,
    metavar="[NAMESPACE/]STREAM[:TAG|@DIGEST]",
    help="Where it comes from: a tag that it follows, or an image of a stream's history.",
)
@switch("--scheduled", default=False, words="Look the image up again and again.")
@switch("--insecure", default=False, words="Allow plain http and unverified TLS, without a login.")
@switch("--reference", default=False, words="Record the image as it is written, and never look it up.")
@click.option(
    "--reference-policy",
    type=click.Choice(["source", "local"], case_sensitive=False),
    default="source",
    show_default=True,
    help="What followers are given: the source's own name, or the cluster's registry's.",
)
@click.option("--annotation", multiple=True, metavar="KEY=VALUE", help="An annotation of the tag; may be repeated.")
@dry_run_option
@output_option()
@connection_options
def imagestreamtag(
    name: str,
    *,
    from_image: str | None,
    source: str | None,
    scheduled: bool,
    insecure: bool,
    reference: bool,
    reference_policy: str,
    annotation: tuple[str, ...],
    dry_run: str,
    output: str | None,
    **connection: Any,
) -> int:
    """Create a tag of an image stream; the stream as well, if there is none.

    Without --from-image or --from the tag has no source: only pushes move it. A tag that is there already is not
    changed; that is what `imagestreams tag` is for.

    \b
    Examples:
      imagestreams create imagestreamtag web:stable --from-image=quay.io/acme/web:1.2 --scheduled
      imagestreams create istag web:prod --from=web:stable
      imagestreams create istag web:frozen --from=images/base@sha256:4f9a

    Exit code: 0 done, 1 it is there already or the server refused, 2 called wrongly.
    """  # noqa: D301  # \b is click's mark for lines to keep
    from imagestreams.cli.editing import edit, encoded  # noqa: PLC0415  # `--help` needs none
    from imagestreams.cli.listing import Stream, tag_object, tags_of  # noqa: PLC0415
    from imagestreams.cli.naming import split_tag  # noqa: PLC0415
    from imagestreams.cli.revisions import read_stream  # noqa: PLC0415
    from imagestreams.cli.tag_plan import ID, Destination, reference_to, refuse_circle  # noqa: PLC0415
    from imagestreams.cli.tagging import Tagging  # noqa: PLC0415

    stream, tag = split_tag(name)
    if not tag:
        raise Misuse(f"error: {name!r} has no tag; write STREAM:TAG, such as {stream}:latest")
    if from_image and source:
        raise Misuse("error: --from and --from-image contradict each other; leave one out")
    other = _other(source) if source else None
    made: Object = {
        "name": tag,
        **({"annotations": _annotations(annotation)} if annotation else {}),
        **({"from": _image(from_image)} if from_image else {}),
        **({"reference": True} if reference else {}),
        "importPolicy": {**({"insecure": True} if insecure else {}), **({"scheduled": True} if scheduled else {})},
        "referencePolicy": {"type": reference_policy.capitalize()},
    }
    with connected(**connection) as (client, access):
        resource = client.image_streams()
        place = Destination(access.namespace, stream, tag)
        if other is not None and other.kind == ID:
            other = Tagging(client, resource, access.namespace, dry_run).frozen(other)
        if other is not None:
            made["from"] = reference_to(other, place, access.namespace)

        def add(value: Object) -> Object:
            spec = value["spec"] = value.get("spec") or {}
            tags = spec["tags"] = spec.get("tags") or []
            recorded = (value.get("status") or {}).get("tags") or ()
            if any(each.get("name") == tag for each in tags) or any(each.get("tag") == tag for each in recorded):
                raise Failure(
                    f'Error from server (AlreadyExists): imagestreamtags.{resource.group} "{stream}:{tag}" already '
                    f"exists; to change it: imagestreams tag SOURCE {stream}:{tag}"
                )
            tags.append(made)
            refuse_circle(value, place)
            return value

        path, collection = resource.path(access.namespace, stream), resource.path(access.namespace)
        empty = _stream(resource, access.namespace, stream)
        edited = edit(client, path, resource.named(stream), add, create=empty, collection=collection, dry_run=dry_run)
        after = Stream(edited.after, read_stream(encoded(edited.after)))
        shown = next(tag_object(each) for each in tags_of(after) if each.name == tag)
        _tell(f"imagestreamtag.{resource.group}/{stream}:{tag}", shown, dry_run, output)
    return 0


def _stream(resource: Resource, namespace: str, name: str) -> Object:
    api_version = f"{resource.group}/{resource.version}"
    return {"apiVersion": api_version, "kind": "ImageStream", "metadata": {"name": name, "namespace": namespace}}


def _annotations(given: Sequence[str]) -> dict[str, str]:
    found = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise Misuse(f"error: --annotation {text!r} is no annotation; write KEY=VALUE")
        found[key] = value
    return found


def _image(text: str) -> Object:
    from imagestreams.core.reference import ImageReference, InvalidReference  # noqa: PLC0415

    try:
        parsed = ImageReference.parse(text)
    except InvalidReference as error:
        raise Misuse(f"error: --from-image: {error}") from None
    if not parsed.name:
        raise Misuse(f"error: --from-image: {text} names a registry, not an image; add a repository, as in {text}/app")
    return {"kind": "DockerImage", "name": text}


def _other(text: str) -> Source:
    """A tag or image of a stream."""
    from imagestreams.cli.tag_plan import ID, TAG, of_stream  # noqa: PLC0415

    if "@" in text:
        return of_stream(text, ID)
    return of_stream(text if ":" in text else f"{text}:latest", TAG)


def _tell(named: str, made: Object, dry_run: str, output: str | None) -> None:
    if output:
        from imagestreams.cli.output import show  # noqa: PLC0415

        show([made], output)
    else:
        from imagestreams.cli.editing import DRY_RUN  # noqa: PLC0415

        click.echo(f"{named} created{DRY_RUN[dry_run]}")
