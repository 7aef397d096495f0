"""`imagestreams rollback`: have a tag point to an image that it had, and hold it there until `imagestreams resume`.

It is an annotation that the controller carries out (`core.pins`), so that one write of the caller's moves the tag and
all that follow it, and no registry moves it on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import click

from imagestreams.cli.options import (
    Command,
    Failure,
    Misuse,
    connected,
    connection_options,
    dry_run_option,
    output_option,
    progress,
    seconds,
    switch,
)
from imagestreams.cli.tag_options import Where, filled

if TYPE_CHECKING:
    from imagestreams.cli.revisions import History, Revision

Object = dict[str, Any]


class _Wanted(NamedTuple):
    """What is asked for: the tag, and to which of its revisions it is to go."""

    stream: str
    tag: str
    to: str | None
    revision: int | None
    reason: str


class _Done(NamedTuple):
    """The stream as it is then, the revision that was current, and the one that the tag goes back to."""

    value: Object
    before: Revision | None
    target: Revision
    is_changed: bool


@click.command("rollback", cls=Command)
@click.argument("name", metavar="NAME[:TAG]")
@click.option(
    "--to",
    type=filled,
    default=None,
    metavar="DIGEST",
    help="The image to go back to; the begin of its digest will do.",
)
@click.option("--revision", type=int, metavar="NUMBER", help="The revision to go back to; `history` lists them.")
@click.option("--reason", default="", metavar="TEXT", help="Why, for those who wonder why the tag does not move.")
@switch("--unchecked", default=False, words="Do not ask whether the registry still has the image.")
@switch("--wait", default=True, words="Wait until the tag points to it (--wait=false: only ask for it).")
@click.option(
    "--timeout",
    type=seconds,
    default="60s",
    show_default=True,
    metavar="DURATION",
    help="How long to wait for an answer from the registry, and for the controller; 0: forever.",
)
@dry_run_option
@output_option()
@connection_options
def command(
    name: str,
    *,
    to: str | None,
    revision: int | None,
    reason: str,
    unchecked: bool,
    wait: bool,
    timeout: float | None,
    dry_run: str,
    output: str | None,
    **connection: Any,
) -> int:
    """Have a tag of an image stream point to an image that it had before, and hold it there.

    By default that is the image before the present one; going back twice goes back by two. All that follow the tag go
    back with it, once. Whatever its source does, the tag stays until `imagestreams resume`, which brings the newest
    image at once. Before, the registry is asked whether it still has the image, but not with --dry-run=client.

    The tag is "latest" if none is named. What stands before a slash is a kind (istag/web:stable); another namespace is
    named by -n.

    \b
    Examples:
      imagestreams rollback web:stable --reason "checkout fails"
      imagestreams rollback web:stable --revision 4
      imagestreams rollback web:stable --to sha256:4f9a3c --dry-run=client

    Exit code: 0 done, 1 refused, not found, or the time ran out, 2 called wrongly.
    """  # noqa: D301  # \b is click's mark for lines to keep
    from imagestreams.cli.output import show  # noqa: PLC0415
    from imagestreams.cli.revisions import named_tag  # noqa: PLC0415
    from imagestreams.cli.waiting import explained  # noqa: PLC0415

    if to is not None and revision is not None:
        raise Misuse("error: --to and --revision both say where to go back to; leave one out")
    wanted = _Wanted(*named_tag(name), to, revision, reason)
    with connected(**connection) as (client, access):
        where = Where(client, client.image_streams(), access.namespace)
        done = _pin(where, wanted, is_checked=not unchecked, dry_run=dry_run, timeout=timeout)
        is_waited = wait and dry_run == "none"
        if is_waited:
            with (
                explained(_taken_back(wanted)),
                progress(f"{wanted.stream}: waiting for the controller to roll {wanted.tag} back ..."),
            ):
                done = done._replace(value=_wait(where, wanted, done, timeout))
        if output:
            try:
                show([done.value], output)
            except Failure as failure:
                words = f"  {_taken_back(wanted)}" if dry_run == "none" else ""
                raise Failure("\n".join(filter(None, (failure.message, words)))) from failure
            return 0
        _tell(done, where.resource.named(wanted.stream), wanted, dry_run, is_waited=is_waited)
        _tell_followers(where, wanted)
    return 0


def _taken_back(wanted: _Wanted) -> str:
    return f"The pin is written; to take it back: imagestreams resume {wanted.stream}:{wanted.tag}"


def _pin(where: Where, wanted: _Wanted, *, is_checked: bool, dry_run: str, timeout: float | None) -> _Done:
    """Choose the revision, have it checked, and write the pin."""
    from datetime import UTC, datetime  # noqa: PLC0415

    from imagestreams.cli.editing import decoded, edit, encoded  # noqa: PLC0415
    from imagestreams.cli.pinning import author, pin_of, pinned  # noqa: PLC0415
    from imagestreams.cli.revisions import chosen, history_of, read_stream  # noqa: PLC0415
    from imagestreams.core.pins import Pin  # noqa: PLC0415

    named, path = where.resource.named(wanted.stream), where.resource.path(where.namespace, wanted.stream)
    first = decoded(where.client.get(path), named)
    seen = history_of(read_stream(encoded(first)), wanted.tag)
    target = chosen(seen, to=wanted.to, number=wanted.revision)
    pin_of(first, wanted.tag)  # an annotation that cannot be read is told before anybody is asked
    if is_checked and dry_run == "client":
        click.echo("warning: a client's dry run does not ask whether the registry still has the image", err=True)
    elif is_checked:
        with progress(f"{wanted.stream}: asking the registry for {target.image} ..."):
            _check(where, first, seen, target, timeout)
    else:
        click.echo("warning: it was not checked whether the registry still has the image", err=True)
    pin = Pin(target.image, wanted.reason, author(where.client), datetime.now(UTC).replace(microsecond=0))

    def change(value: Object) -> Object | None:
        if value["metadata"].get("uid") != first["metadata"].get("uid"):
            raise Failure(f"error: {named} was deleted and created anew meanwhile")
        present = pin_of(value, wanted.tag)
        now = history_of(read_stream(encoded(value)), wanted.tag)
        chosen(now, to=target.image, number=None)  # others may have forgotten it meanwhile
        is_there = present is not None and present.digest == pin.digest
        if present is not None and is_there and wanted.reason in {"", present.reason}:
            return None
        return pinned(value, wanted.tag, pin)

    edited = edit(where.client, path, named, change, dry_run=dry_run)
    return _Done(edited.after, seen.current, target, edited.is_changed)


def _check(where: Where, value: Object, history: History, target: Revision, timeout: float | None) -> None:
    """Refuse what the registry does not have any more, or where that cannot be found out."""
    from imagestreams.cli.api import Refused  # noqa: PLC0415
    from imagestreams.cli.lookups import Ask, look_up  # noqa: PLC0415

    spec_tags = (value.get("spec") or {}).get("tags") or ()
    spec_tag: Object = next((each for each in spec_tags if each.get("name") == history.tag), {})
    policy = spec_tag.get("importPolicy") or {}
    # An index must be found as the index that it is, whatever is imported of it.
    ask = Ask(target.pull_spec, is_insecure=bool(policy.get("insecure")), import_mode="PreserveOriginal")
    way_out = "  To roll back without asking: --unchecked"
    try:
        found = look_up(where.client, where.resource, where.namespace, history.stream, [ask], timeout=timeout)[0]
    except Refused as refused:
        raise Failure(f"{refused}\n{_uncheckable(target)}\n{way_out}") from refused
    except Failure as failure:
        raise Failure(f"{failure.message}\n{_uncheckable(target)}\n{way_out}") from failure
    if found.is_absent:
        raise Failure(
            f"error: the registry does not have {target.pull_spec} any more ({found.message}); choose another one: "
            f"imagestreams history {history.name}\n"
            "  If all nodes still have the image: --unchecked"
        )
    if found.failure:
        raise Failure(f"error: {found.failure}\n{_uncheckable(target)}\n{way_out}")
    if found.digest != target.image:
        raise Failure(f"error: the registry has {found.digest} under the name {target.pull_spec}\n{way_out}")


def _uncheckable(target: Revision) -> str:
    return f"  So it cannot be said whether the registry still has {target.pull_spec}."


def _wait(where: Where, wanted: _Wanted, done: _Done, timeout: float | None) -> Object:
    """The stream once the controller has carried the pin out."""
    from imagestreams.cli.editing import decoded, encoded  # noqa: PLC0415
    from imagestreams.cli.pinning import pin_of  # noqa: PLC0415
    from imagestreams.cli.revisions import read_stream  # noqa: PLC0415
    from imagestreams.cli.waiting import NO_CONTROLLER, states  # noqa: PLC0415

    named, image = where.resource.named(wanted.stream), done.target.image
    uid = done.value["metadata"].get("uid", "")
    for body in states(where.client, where.resource, where.namespace, wanted.stream, timeout, uid=uid):
        value = decoded(body, named)
        pin = pin_of(value, wanted.tag)
        if pin is None or pin.digest != image:
            raise Failure(f"error: somebody changed the pin of {wanted.stream}:{wanted.tag} meanwhile")
        status = read_stream(encoded(value)).status_tag(wanted.tag)
        held = status.pinned if status else None
        if held is None or status is None:
            continue
        if held.status == "True" and status.newest is not None and status.newest.image == image:
            return value
        if held.status != "True" and image in (held.message or ""):
            raise Failure(f"error: {wanted.stream}:{wanted.tag} was not rolled back: {held.message}")
    raise Failure(
        f"error: the pin is written, but {named} does not have it in its status after {timeout:g}s\n{NO_CONTROLLER}\n"
        f"  To take it back: imagestreams resume {wanted.stream}:{wanted.tag}"
    )


def _tell(done: _Done, named: str, wanted: _Wanted, dry_run: str, *, is_waited: bool) -> None:
    from imagestreams.cli.editing import DRY_RUN  # noqa: PLC0415
    from imagestreams.cli.table import printable  # noqa: PLC0415

    name, target, before = f"{wanted.stream}:{wanted.tag}", done.target, done.before
    is_same = before is not None and before.image == target.image
    verb = "is held" if is_same else "rolled back" if is_waited else "will be rolled back"
    if not done.is_changed:
        verb = "was pinned already" if is_same else verb
    lines = [f"{named} tag {wanted.tag} {verb}{DRY_RUN[dry_run]}", f"  to    {target.pull_spec} ({target.words})"]
    if before is not None and not is_same:
        lines.append(f"  from  {before.pull_spec} ({before.words})")
    lines.append(f"It stays there until: imagestreams resume {name}")
    click.echo("\n".join(map(printable, lines)))


def _tell_followers(where: Where, wanted: _Wanted) -> None:
    """Say who goes with the tag, as far as that can be found out. What was done stays done if it cannot."""
    from imagestreams.cli import options  # noqa: PLC0415
    from imagestreams.cli.api import ApiError  # noqa: PLC0415
    from imagestreams.cli.following import led_by, named, shown, workloads  # noqa: PLC0415
    from imagestreams.cli.kubeconfig import KubeconfigError  # noqa: PLC0415
    from imagestreams.cli.listing import Streams  # noqa: PLC0415
    from imagestreams.cli.table import table  # noqa: PLC0415
    from imagestreams.core.stream import Istag  # noqa: PLC0415

    client, namespace = where.client, where.namespace
    tag = Istag(namespace, wanted.stream, wanted.tag)
    try:
        tags = led_by(Streams(client, where.resource).read_all(namespace), tag)
        found = [
            (named(workload.workload), trigger.container.name, shown(trigger.istag, namespace))
            for workload in workloads(client, namespace)
            for trigger in workload.triggers
            if trigger.istag in tags and not trigger.is_paused
        ]
    except (ApiError, KubeconfigError, Failure) as error:
        click.echo(f"Which workloads follow it cannot be said: {options.shown(error)}", err=True)
        return
    if found:
        click.echo(f"\n{table(('WORKLOAD', 'CONTAINER', 'FOLLOWS'), found)}")
    else:
        click.echo(f"\nNo workload of namespace {namespace} follows it.")
