"""`imagestreams import-image`: have a tag looked up now, wait for it, and print what was found.

The command edits the stream where its flags ask for it, with the caller's rights, and in the same write asks by an
annotation, `imagestreams.dev/refresh`; the controller looks up. So the command needs no registry and no credentials:
those stay in the cluster.
"""

from __future__ import annotations

from typing import Any

import click

from imagestreams.cli.options import (
    Command,
    Switch,
    boolean,
    connected,
    connection_options,
    output_option,
    seconds,
    switch,
)
from imagestreams.cli.tag_options import filled, import_mode_option, reference_policy_option


@click.command("import-image", cls=Command)
@click.argument("name", metavar="NAME[:TAG]")
@click.option(
    *("--from", "source"),
    type=filled,
    default=None,
    metavar="IMAGE",
    help="Where the tag's image comes from, if it is new.",
)
@switch("--confirm", default=False, words="Create the stream if there is none; change the repository that it imports.")
@switch("--all", default=False, words="Import all tags of the stream; with --from, all of a repository.")
@click.option(
    "--dry-run",
    cls=Switch,
    type=boolean,
    default="false",
    metavar="",
    help="Only tell what would be found; nothing is written.",
)
@switch("--scheduled", default=False, words="Have it looked up again and again from now on.")
@click.option(
    "--insecure",
    cls=Switch,
    type=boolean,
    default=None,
    metavar="",
    help="Allow plain http and certificates that cannot be verified.",
)
@reference_policy_option
@import_mode_option
@switch("--wait", default=True, words="Wait until the controller has done it (--wait=false: only ask for it).")
@click.option(
    "--timeout",
    type=seconds,
    default="60s",
    show_default=True,
    metavar="DURATION",
    help="How long to wait; 0: forever.",
)
@output_option()
@connection_options
def command(
    name: str,
    *,
    source: str | None,
    confirm: bool,
    all: bool,  # noqa: A002  # the flag's name
    dry_run: bool,
    scheduled: bool,
    insecure: bool | None,
    reference_policy: str | None,
    import_mode: str | None,
    wait: bool,
    timeout: float | None,
    output: str | None,
    **connection: Any,
) -> int:
    """Look up the image that a tag of an image stream points to, now.

    The controller asks the registry and writes what it finds into the stream's status; workloads that follow the tag
    are rolled out as if it had moved by itself. The tag is "latest" if none is named. A tag that follows another of its
    stream stands for that one. A kind before the name is understood (istag/web:1.2); a namespace is named by -n.

    A stream that does not exist is created with --confirm, a tag that does not exist is made with --from. What a tag
    has stays: its source (the `tag` command changes that), its reference policy, and its import mode unless the flag is
    given; --scheduled and --insecure are added to it.

    \b
    Examples:
      imagestreams import-image web
      imagestreams import-image web:1.2 -n shop
      imagestreams import-image web --all -o json
      imagestreams import-image web:1.2 --from=quay.io/acme/web:1.2 --scheduled --confirm
      imagestreams import-image web --all --from=quay.io/acme/web --confirm
      imagestreams import-image web:1.2 --dry-run

    Exit code: 0 all imported, 1 a tag failed, the time ran out or the server refused, 2 called wrongly.
    """  # noqa: D301  # \b is click's mark for lines to keep
    from imagestreams.cli.import_plan import Flags, checked, parse_target  # noqa: PLC0415  # `--help` needs none
    from imagestreams.cli.importing import carry_out, carry_out_dry  # noqa: PLC0415

    target = parse_target(name, all_tags=all, confirm=confirm)
    flags = Flags(source or "", confirm, scheduled, insecure, reference_policy or "", import_mode or "")
    flags = checked(flags, target)
    with connected(**connection) as (client, access):
        if dry_run:
            return carry_out_dry(client, access.namespace, target, flags, timeout=timeout, output=output)
        return carry_out(client, access.namespace, target, flags, wait=wait, timeout=timeout, output=output)
