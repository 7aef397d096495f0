"""`imagestreams set-lookup`: whether pods may name a stream's tags as their image."""

from __future__ import annotations

from typing import Any

import click

from imagestreams.cli.options import (
    FORMS,
    Command,
    Misuse,
    connected,
    connection_options,
    dry_run_option,
    output_option,
    selector,
    switch,
)


@click.command("set-lookup", cls=Command)
@click.argument("names", nargs=-1, metavar="[STREAM|KIND/NAME]...")
@switch("--enabled", default=True, words="Allow it; --enabled=false: do not.")
@switch("--all", default=False, words="All streams of the namespace.")
@switch("--list", default=False, words="Change nothing, and list what is allowed.")
@selector
@output_option(*FORMS)
@dry_run_option
@connection_options
def command(
    names: tuple[str, ...],
    *,
    enabled: bool,
    all: bool,  # noqa: A002  # the flag's name
    list: bool,  # noqa: A002
    selector: str,
    output: str | None,
    dry_run: str,
    **connection: Any,
) -> int:
    """Let pods name the tags of image streams as their image: `web:stable` instead of a registry's address.

    A stream's tags can be named in the pods of its namespace once it is allowed (spec.lookupPolicy.local). A workload
    (deployment, statefulset, daemonset, cronjob, replicaset, replicationcontroller, job, pod) that is marked has all of
    its images looked up so, whatever streams allow. Names are looked up when an object is written, in namespaces that
    ask for it: kubectl label namespace NAMESPACE imagestreams.dev/resolve-names=enabled

    Without names, or with --list, what is allowed is listed.

    \b
    Examples:
      imagestreams set-lookup
      imagestreams set-lookup web db
      imagestreams set-lookup web --enabled=false
      imagestreams set-lookup --all -l team=shop
      imagestreams set-lookup deploy/web
      imagestreams set-lookup deploy/web --list

    Exit code: 0 done, 1 an object was not there or the server refused, 2 called wrongly.
    """  # noqa: D301  # \b is click's mark for lines to keep
    from imagestreams.cli.lookup_policy import Job, named  # noqa: PLC0415  # `--help` needs none

    if names and (all or selector):
        raise Misuse("error: names, and --all or -l, cannot be given together")
    wanted = [named(name) for name in names]
    with connected(**connection) as (client, access):
        job = Job(client, access.namespace, output=output, dry_run=dry_run)
        if list or not (names or all or selector):
            return job.list(wanted, selector)
        return job.change(wanted, selector, enabled=enabled)
