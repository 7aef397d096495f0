"""`imagestreams get`: streams, their tags, and the images of their histories, as `kubectl get` shows objects."""

from __future__ import annotations

from typing import Any

import click

from imagestreams.cli.options import (
    FORMS,
    Command,
    Misuse,
    all_namespaces,
    connected,
    connection_options,
    no_headers,
    output_option,
    selector,
    shown,
)


@click.command("get", cls=Command)
@click.argument("what", nargs=-1, metavar="streams|tags|images [NAME]...")
@all_namespaces
@selector
@output_option("wide", *FORMS)
@no_headers
@connection_options
def command(
    what: tuple[str, ...],
    *,
    all_namespaces: bool,
    selector: str,
    output: str | None,
    no_headers: bool,
    **connection: Any,
) -> int:
    """List image streams, their tags, or the images that their tags have and had.

    Streams: streams, stream, is. Tags: tags, tag, istag. Images: images, image, isimage. KIND/NAME is understood, too.
    A tag is named STREAM:TAG; STREAM alone means all of its tags. An image is named STREAM@DIGEST or DIGEST, of which
    the begin will do; STREAM or STREAM:TAG means those in their history. Images are those of the namespace's streams,
    whether or not the cluster keeps Image objects, for which there is `kubectl get images`.

    With -o json or yaml tags are ImageStreamTags and images are ImageStreamImages, with OpenShift's fields.

    \b
    Examples:
      imagestreams get streams
      imagestreams get tags web -o wide
      imagestreams get tag web:latest -o jsonpath='{.image.dockerImageReference}'
      imagestreams get images web:latest
      imagestreams get tags -A -l team=shop

    Exit code: 0 done, 1 something named was not found or the server refused, 2 called wrongly.
    """  # noqa: D301  # \b is click's mark for lines to keep
    from imagestreams.cli.listing import Reader, Streams, found_by, print_found  # noqa: PLC0415  # `--help` needs none
    from imagestreams.cli.naming import LISTED, targets  # noqa: PLC0415

    if not what:
        raise Misuse("error: say what to get: streams, tags or images")
    wanted = targets(what, LISTED)
    is_named = bool(wanted[0].name)
    if is_named and all_namespaces:
        raise Misuse("error: a name cannot be looked for in all namespaces; leave out -A, or the name")
    if is_named and selector:
        raise Misuse("error: a name and a selector (-l) cannot be given together")
    with connected(**connection) as (client, access):
        resource = client.image_streams()
        namespace = "" if all_namespaces else access.namespace
        reader = Reader(Streams(client, resource), resource, namespace, selector)
        found = list(found_by(reader, wanted))
        is_one = is_named and len(wanted) == 1 and len(found) < 2
        print_found(found, output, namespace, is_one=is_one, headers=not no_headers, problems=reader.problems)
    if reader.problems:
        click.echo("\n".join(map(shown, reader.problems)), err=True)
    return 1 if reader.problems else 0
