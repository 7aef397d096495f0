"""`imagestreams tag`: point tags to images or to other tags, and remove tags."""

from __future__ import annotations

from typing import Any

import click

from imagestreams.cli.options import Command, Misuse, connected, connection_options, dry_run_option, switch
from imagestreams.cli.tag_options import filled, import_mode_option, reference_policy_option


@click.command("tag", cls=Command)
@click.argument("arguments", nargs=-1, metavar="SRC DST... | -d TAG...")
@click.option(
    *("--source", "kind"),
    type=filled,
    default=None,
    metavar="istag|isimage|docker",
    help="What SRC is: a tag, an image of a stream's history, or an image in a registry; guessed if not given.",
)
@switch("-d", "--delete", default=False, words="Remove the tags that are named, with their history.")
@switch("--alias", default=False, words="DST follows the tag SRC as it moves, instead of the image that SRC has now.")
@switch("--reference", default=False, words="Record the image as it is written; the registry is never asked.")
@switch("--scheduled", default=False, words="Have SRC looked up again and again; only for an image in a registry.")
@switch("--insecure", default=False, words="Allow plain http and certificates that cannot be verified.")
@reference_policy_option
@import_mode_option
@dry_run_option
@connection_options
def command(
    arguments: tuple[str, ...],
    *,
    kind: str | None,
    delete: bool,
    alias: bool,
    reference: bool,
    scheduled: bool,
    insecure: bool,
    reference_policy: str | None,
    import_mode: str | None,
    dry_run: str,
    **connection: Any,
) -> int:
    """Point tags of image streams to an image or to another tag, or remove tags.

    DST and TAG are [NAMESPACE/]STREAM:TAG. A stream that does not exist is created. SRC is an image in a registry
    (quay.io/acme/web:1.0), a tag ([NAMESPACE/]STREAM:TAG) or an image of a stream's history
    ([NAMESPACE/]STREAM@DIGEST). What names a registry, or has no tag, is taken for an image. Where the word before the
    slash is a kind as well (tag/web:1.0), say which is meant: web:1.0, or istag/tag/web:1.0 for the namespace `tag`.

    A tag that is given another tag gets the image which that one has now, and stays there; with --alias it follows.
    With -d a tag goes with its history; those who follow it keep what they have.

    \b
    Examples:
      imagestreams tag quay.io/acme/web:1.0 web:1.0
      imagestreams tag web:1.0 web:prod shop-eu/web:prod
      imagestreams tag --alias web:stable web:latest
      imagestreams tag --source=docker --scheduled nginx:stable nginx:stable
      imagestreams tag web@sha256:4f9a web:prod
      imagestreams tag -d web:old

    Exit code: 0 done, 1 a tag was not there or the server refused, 2 called wrongly.
    """  # noqa: D301  # \b is click's mark for lines to keep
    from imagestreams.cli.tag_plan import (  # noqa: PLC0415  # `--help` needs none
        Entry,
        check,
        parse_destination,
        parse_source,
        refuse_itself,
    )
    from imagestreams.cli.tagging import Tagging  # noqa: PLC0415

    given = {"--source": kind, "--alias": alias, "--reference": reference, "--scheduled": scheduled}
    given |= {"--insecure": insecure, "--reference-policy": reference_policy, "--import-mode": import_mode}
    if delete and any(given.values()):
        extra = ", ".join(name for name, value in given.items() if value)
        raise Misuse(f"error: -d removes tags, and has no use for {extra}")
    if len(arguments) < (1 if delete else 2):
        raise Misuse("error: you must specify a source and at least one destination, or -d and one or more tags")
    source = None if delete else parse_source(arguments[0], kind or "")
    for text in arguments if delete else arguments[1:]:
        parse_destination(text, "default")  # before anything is asked
    if source is not None:
        check(source, is_alias=alias, is_scheduled=scheduled)
    entry = Entry(reference, scheduled, insecure, reference_policy or "", import_mode or "")
    with connected(**connection) as (client, access):
        tagging = Tagging(client, client.image_streams(), access.namespace, dry_run)
        if source is None:
            return tagging.each(arguments, tagging.delete)
        for text in arguments[1:]:
            refuse_itself(source, parse_destination(text, access.namespace), access.namespace)
        present = source if alias else tagging.frozen(source)
        return tagging.each(arguments[1:], lambda place: tagging.set(place, present, entry, is_alias=alias))
