"""`imagestreams set-triggers`: which containers of a workload follow which tags."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
from imagestreams.cli.tag_options import filled

if TYPE_CHECKING:
    from collections.abc import Sequence


def _names(text: str) -> tuple[str, ...]:
    """The type of -c. Without a name it would mean all containers, and who gives it does not mean them."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise click.BadParameter("it names no container; leave the flag out, or give it names")
    return names


@click.command("set-triggers", cls=Command)
@click.argument("what", nargs=-1, metavar="KIND/NAME...")
@click.option(
    *("--from-image", "tag"),
    type=filled,
    default=None,
    metavar="[NAMESPACE/]STREAM:TAG",
    help="The tag that is followed.",
)
@click.option(
    *("-c", "--containers"),
    type=_names,
    default=None,
    metavar="NAMES",
    help="The containers that follow it, joined by commas; the only one of an object needs no name.",
)
@switch("--auto", default=False, words="The triggers act when their tags move; so they do unless --manual was given.")
@switch("--manual", default=False, words="The triggers are kept, and do not act until --auto.")
@switch("--remove", default=False, words="Remove the triggers of --from-image, of -c, or of both.")
@switch("--remove-all", default=False, words="Remove all triggers.")
@switch("--all", default=False, words="All objects of the kind.")
@selector
@output_option(*FORMS)
@dry_run_option
@connection_options
def command(
    what: tuple[str, ...],
    *,
    tag: str | None,
    containers: tuple[str, ...] | None,
    auto: bool,
    manual: bool,
    remove: bool,
    remove_all: bool,
    all: bool,  # noqa: A002  # the flag's name
    selector: str,
    output: str | None,
    dry_run: str,
    **connection: Any,
) -> int:
    """Say which containers of a workload follow which tags, or list that.

    Kinds: deployment, statefulset, daemonset, cronjob. KIND NAME... and KIND with --all or -l are understood, too.
    Without further flags the triggers are listed. They are kept in the object's annotation image.openshift.io/triggers,
    as `oc set triggers` writes it. A container follows one tag: a new one takes the place of the old. What the short
    annotation imagestreams.dev/follow says is respected and not changed. An object's own rollouts (spec.paused), which
    are listed as "config", are left alone.

    \b
    Examples:
      imagestreams set-triggers deploy/web
      imagestreams set-triggers deploy/web --from-image=web:stable
      imagestreams set-triggers deploy/web --from-image=base/fluent:2 -c log
      imagestreams set-triggers deploy/web --manual
      imagestreams set-triggers deploy/web --remove --from-image=web:stable
      imagestreams set-triggers deploy --all --remove-all --dry-run=server

    Exit code: 0 done, 1 an object was not there, could not be changed, or the server refused, 2 called wrongly.
    """  # noqa: D301  # \b is click's mark for lines to keep
    from imagestreams.cli.trigger_plan import Wanted  # noqa: PLC0415  # `--help` needs none
    from imagestreams.cli.triggering import Job  # noqa: PLC0415
    from imagestreams.cli.workloads import TRIGGERED, workloads_of  # noqa: PLC0415

    _check(what, tag=tag, containers=containers, auto=auto, manual=manual, remove=remove, remove_all=remove_all)
    objects = workloads_of(what, TRIGGERED)
    if objects[0].name and (all or selector):
        raise Misuse("error: a name, and --all or -l, cannot be given together")
    if not objects[0].name and not (all or selector):
        raise Misuse(f"error: name the {objects[0].kind.resource.plural}, or say which with --all or -l")
    stream, namespace = _istag(tag) if tag else ("", "")
    is_auto = True if auto else False if manual else None
    wanted = Wanted(stream, namespace, containers or (), is_auto, remove, remove_all)
    with connected(**connection) as (client, access):
        job = Job(client, access.namespace, wanted, labels=selector, output=output, dry_run=dry_run)
        return job.list(objects) if wanted == Wanted() else job.change(objects)


def _check(
    what: Sequence[str],
    *,
    tag: str | None,
    containers: tuple[str, ...] | None,
    auto: bool,
    manual: bool,
    remove: bool,
    remove_all: bool,
) -> None:
    if not what:
        raise Misuse("error: one or more resources must be specified as KIND/NAME, such as deployment/web")
    if auto and manual:
        raise Misuse("error: --auto and --manual contradict each other")
    if (remove or remove_all) and (auto or manual):
        raise Misuse("error: --auto and --manual are of no use to triggers that are removed")
    if remove_all and (tag or containers or remove):
        raise Misuse("error: --remove-all removes all triggers; to remove some: --remove, with --from-image or -c")
    if remove and not (tag or containers):
        raise Misuse("error: --remove needs --from-image or -c, to say which; --remove-all removes all triggers")
    if containers and not (tag or auto or manual or remove):
        raise Misuse("error: -c needs --from-image, to say what the containers follow, or --auto, --manual or --remove")


def _istag(text: str) -> tuple[str, str]:
    """The tag and its namespace; raises Misuse."""
    from imagestreams.cli.tag_plan import parse_destination  # noqa: PLC0415

    place = parse_destination(text if ":" in text.rpartition("/")[2] else f"{text}:latest", "")
    return place.text, place.namespace
