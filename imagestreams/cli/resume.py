"""`imagestreams resume`: let what is held follow again, a tag that was rolled back its source, or a container whose
image was set by hand its tag.
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
    from imagestreams.core.stream import ImageStream
    from imagestreams.core.trigger import Hold, Workload, WorkloadKind

Object = dict[str, Any]


class _Flags(NamedTuple):
    """How it is to be done."""

    is_waited: bool
    timeout: float | None
    dry_run: str
    output: str | None


@click.command("resume", cls=Command)
@click.argument("name", metavar="NAME[:TAG]|deploy/NAME")
@click.option("-c", "--container", type=filled, default=None, metavar="NAME", help="Of a workload only this container.")
@switch("--wait", default=True, words="Wait until it follows again (--wait=false: only ask for it).")
@click.option(
    "--timeout",
    type=seconds,
    default="60s",
    show_default=True,
    metavar="DURATION",
    help="How long to wait for the controller; 0: forever.",
)
@dry_run_option
@output_option()
@connection_options
def command(
    name: str,
    *,
    container: str | None,
    wait: bool,
    timeout: float | None,
    dry_run: str,
    output: str | None,
    **connection: Any,
) -> int:
    """Let a tag that is held follow its source again, or a workload's containers the tags that they follow.

    A tag is held since `imagestreams rollback`. What its source has by now comes at once, and all that follow the tag
    get it. A container is held when somebody set its image by hand, as `kubectl rollout undo` and `kubectl set image`
    do; it gets what its tag points to.

    The tag is "latest" if none is named. What stands before a slash is a kind (istag/web:stable, deploy/web); another
    namespace is named by -n.

    \b
    Examples:
      imagestreams resume web:stable
      imagestreams resume deploy/web
      imagestreams resume deploy/web -c web --dry-run=client

    Exit code: 0 done, or nothing was held; 1 not found, refused, or the time ran out; 2 called wrongly.
    """  # noqa: D301  # \b is click's mark for lines to keep
    from imagestreams.cli.naming import STREAM, TAG, target  # noqa: PLC0415
    from imagestreams.cli.revisions import named_tag  # noqa: PLC0415
    from imagestreams.cli.workloads import WORKLOAD, PodKind, Workload, workload  # noqa: PLC0415
    from imagestreams.core.trigger import DEPLOYMENT  # noqa: PLC0415

    kind, plain = target(name, (TAG, STREAM, WORKLOAD))
    found = workload(kind, plain) if isinstance(kind, PodKind) else named_tag(plain)
    if container and not isinstance(found, Workload):
        raise Misuse(f"error: --container is for workloads, and {name!r} is a tag")
    flags = _Flags(wait and dry_run == "none", timeout, dry_run, output)
    with connected(**connection) as (client, access):
        where = Where(client, client.image_streams(), access.namespace)
        if isinstance(found, Workload):
            _resume_workload(where, DEPLOYMENT, found.name, container or "", flags)
        else:
            _resume_tag(where, *found, flags)
    return 0


# ---- tags ----


def _resume_tag(where: Where, stream: str, tag: str, flags: _Flags) -> None:
    from imagestreams.cli.editing import DRY_RUN, edit, encoded  # noqa: PLC0415
    from imagestreams.cli.output import show  # noqa: PLC0415
    from imagestreams.cli.pinning import pin_of, unpinned  # noqa: PLC0415
    from imagestreams.cli.revisions import history_of, read_stream  # noqa: PLC0415
    from imagestreams.cli.waiting import explained  # noqa: PLC0415

    named = where.resource.named(stream)

    def change(value: Object) -> Object | None:
        if pin_of(value, tag) is None and not _has_entry(value, tag):
            history_of(read_stream(encoded(value)), tag)  # a tag that there is not is told
            return None
        return unpinned(value, tag)

    edited = edit(where.client, where.resource.path(where.namespace, stream), named, change, dry_run=flags.dry_run)
    value = edited.after
    if flags.is_waited and edited.is_changed:
        gone = f"{stream}:{tag} is not pinned any more; the controller has it follow its source when it can."
        with explained(gone), progress(f"{stream}: waiting for the controller to look {tag} up ..."):
            value = _wait_for_tag(where, stream, tag, value, flags.timeout)
    if flags.output:
        show([value], flags.output)
        return
    if not edited.is_changed or edited.before is None:
        click.echo(f"{named} tag {tag} is not pinned")
        return
    after, dry = read_stream(encoded(value)), DRY_RUN[flags.dry_run]
    lines = [f"{named} tag {tag} {'resumed' if flags.is_waited or dry else 'will resume'}{dry}"]
    if (pin := pin_of(edited.before, tag)) is not None:
        lines.append(f"  was held at  {pin}")
    if flags.is_waited:
        lines += _now(after, tag)
    elif source := _source(after, tag):
        lines.append(f"  follows      {source}")
    _print(lines)


def _has_entry(value: Object, tag: str) -> bool:
    """Whether there is an entry for the tag that cannot be read."""
    from imagestreams.core.pins import parse_pins  # noqa: PLC0415
    from imagestreams.core.stream import PINS_ANNOTATION  # noqa: PLC0415

    return tag in parse_pins((value["metadata"].get("annotations") or {}).get(PINS_ANNOTATION)).unread


def _source(stream: ImageStream, tag: str) -> str:
    """What moves the tag, in the spec's words."""
    spec_tag = stream.spec_tag(tag)
    source = spec_tag.from_ if spec_tag else None
    status = stream.status_tag(tag)
    if source is None and status is not None and status.observed is not None and stream.repository:
        source = status.observed.from_
    if source is None or not source.name:
        return ""
    return source.name if source.kind == "DockerImage" else f"{source.kind} {source.name}"


def _now(stream: ImageStream, tag: str) -> list[str]:
    """What the tag has, and why nothing else."""
    from imagestreams.cli.revisions import history_of  # noqa: PLC0415

    found = history_of(stream, tag)
    lines = [f"  now          {found.current.pull_spec} ({found.current.words})"] if found.current else []
    if stream.is_suspended:
        lines.append("  The stream's imports are suspended: its source is asked when they go on.")
    elif found.failure:
        lines.append(f"  Its source does not answer with an image: {found.failure}")
    elif not _source(stream, tag):
        lines.append("  Nothing but pushes move this tag: it has no source.")
    return lines


def _wait_for_tag(where: Where, stream: str, tag: str, value: Object, timeout: float | None) -> Object:
    """The stream once the tag was let go and looked up."""
    from imagestreams.cli.editing import decoded, encoded  # noqa: PLC0415
    from imagestreams.cli.pinning import pin_of  # noqa: PLC0415
    from imagestreams.cli.revisions import read_stream  # noqa: PLC0415
    from imagestreams.cli.waiting import NO_CONTROLLER, states  # noqa: PLC0415

    named, uid = where.resource.named(stream), value["metadata"].get("uid", "")
    for body in states(where.client, where.resource, where.namespace, stream, timeout, uid=uid):
        value = decoded(body, named)
        if pin_of(value, tag) is not None:
            raise Failure(f"error: somebody pinned {stream}:{tag} again meanwhile")
        if _is_let_go(read_stream(encoded(value)), tag):
            return value
    raise Failure(
        f"error: the pin is gone, but the status of {named} does not show it after {timeout:g}s, or the registry has "
        f"not answered\n{NO_CONTROLLER}"
    )


def _is_let_go(stream: ImageStream, tag: str) -> bool:
    """Whether the controller has let the tag go, and has looked it up since where a registry is asked for it."""
    status = stream.status_tag(tag)
    if status is None or stream.is_suspended:
        return status is None or status.pinned is None
    observed, outcome = status.observed, status.outcome
    is_asked = observed is not None and observed.from_ is not None and observed.from_.kind == "DockerImage"
    is_awaited = (
        is_asked
        and observed is not None
        and not (observed.digest or observed.reference)
        and (outcome is None or outcome.status == "True")
    )
    return status.pinned is None and not is_awaited


# ---- workloads ----


def _resume_workload(where: Where, kind: WorkloadKind, name: str, container: str, flags: _Flags) -> None:
    from imagestreams.cli.editing import DRY_RUN, decoded  # noqa: PLC0415
    from imagestreams.cli.following import resource_of  # noqa: PLC0415
    from imagestreams.cli.output import show  # noqa: PLC0415
    from imagestreams.cli.waiting import explained  # noqa: PLC0415

    resource = resource_of(kind)
    named = resource.named(name)
    held, words, body = _let_go(where, kind, name, container, flags.dry_run)
    value = decoded(body, named)
    if held and flags.is_waited:
        gone = f"{named} is not held any more; the controller sets its image when it can."
        with explained(gone), progress(f"{name}: waiting for the controller to set the image ..."):
            value = _wait_for_workload(where, kind, value, held, flags.timeout)
    if flags.output:
        show([value], flags.output)
        return
    dry = DRY_RUN[flags.dry_run]
    _print([f"{named} resumed{dry}" if held else f"{named} has no container that is held", *words])


def _let_go(
    where: Where, kind: WorkloadKind, name: str, container: str, dry_run: str
) -> tuple[tuple[Hold, ...], list[str], bytes]:
    """Release what is held: that, a line on each container, and the object's JSON then."""
    from imagestreams.cli.api import JSON_PATCH, Refused  # noqa: PLC0415
    from imagestreams.cli.editing import CONFLICTS, encoded, pause, query_of  # noqa: PLC0415
    from imagestreams.cli.following import resource_of  # noqa: PLC0415
    from imagestreams.cli.options import shown  # noqa: PLC0415

    resource = resource_of(kind)
    path, named = resource.path(where.namespace, name), resource.named(name)
    late: tuple[Refused, Workload, tuple[Hold, ...], list[str]] | None = None
    for attempt in range(CONFLICTS):
        pause(attempt)
        body = where.client.get(path)
        workload = _read(kind, body)
        held, words = _holds(where, workload, named, container)
        if late is not None:
            refused, before, sent, said = late
            is_held = {hold.trigger.container for hold in held}
            if (
                refused.was_repeated
                and workload.uid == before.uid
                and not any(hold.trigger.container in is_held for hold in sent)
            ):
                return sent, said, body  # it was done, and the answer was lost
            # A test of the patch failed if somebody changed the labels; else it is the cluster that says no.
            if refused.status != 409 and (workload.uid, workload.labels) == (before.uid, before.labels):
                raise refused
        if not held or dry_run == "client":
            return held, words, body
        try:
            operations = encoded(_release(workload, held))
            return held, words, where.client.patch(path + query_of(dry_run), operations, JSON_PATCH)
        except Refused as error:
            if error.status not in {409, 422}:
                raise
            late = error, workload, held, words
    last = f"\n  The server said last: {shown(late[0])}" if late else ""
    raise Failure(
        f"error: others wrote {named} each of the {CONFLICTS} times that it was to be resumed; try again{last}"
    )


def _read(kind: WorkloadKind, body: bytes) -> Workload:
    from imagestreams.core.stream import MalformedObject  # noqa: PLC0415
    from imagestreams.core.trigger import decode_workload  # noqa: PLC0415

    try:
        return decode_workload(kind, body)
    except MalformedObject as error:
        raise Failure(f"error: the server's object is malformed: {error}") from error


def _holds(where: Where, workload: Workload, named: str, container: str) -> tuple[tuple[Hold, ...], list[str]]:
    """What is held, and a line on each container; raises Failure where none follows a tag."""
    from imagestreams.cli.following import shown  # noqa: PLC0415
    from imagestreams.cli.listing import Streams  # noqa: PLC0415
    from imagestreams.core.trigger import (  # noqa: PLC0415
        Acknowledge,
        Hold,
        Roll,
        TriggerRules,
        Unresolved,
        parse_triggers,
        plan_rollout,
    )

    triggers = parse_triggers(workload).triggers
    chosen = [trigger for trigger in triggers if container in {"", trigger.container.name}]
    if not chosen:
        of_it = f"no container {container!r} that follows" if container else "no container that follows"
        following = ", ".join(trigger.container.name for trigger in triggers)
        more = f"; those that do: {following}" if following else ""
        raise Failure(f"error: {named} has {of_it} a tag{more}")
    plan = plan_rollout(workload, Streams(where.client, where.resource).image, TriggerRules())
    decisions = {decision.trigger: decision for decision in plan.decisions}
    words, held = list[str](), list[Hold]()
    for trigger in chosen:
        begin = f"  container {trigger.container.name}: "
        tag = shown(trigger.istag, workload.key.namespace)
        match decisions.get(trigger):
            case Hold() as hold:
                held.append(hold)
                words += [f"{begin}from  {trigger.container.image}", f"{' ' * len(begin)}to    {hold.image.pull_spec}"]
            case Unresolved(why=why):
                words.append(f"{begin}{tag} {why}")
            case Roll(why=why):
                words.append(f"{begin}the controller is about to set it ({why}: {tag})")
            case Acknowledge() | None:
                is_paused = "paused in the workload's annotation" if trigger.is_paused else f"has what {tag} points to"
                words.append(f"{begin}{is_paused}")
    return tuple(held), words


def _release(workload: Workload, held: tuple[Hold, ...]) -> list[Object]:
    """A JSON patch that takes the labels away by which the controller knows that the containers were served."""
    from imagestreams.core.trigger import SERVED_LABEL  # noqa: PLC0415

    operations: list[Object] = [{"op": "test", "path": "/metadata/uid", "value": workload.uid}]
    for hold in held:
        label = SERVED_LABEL + hold.trigger.container.name
        path = f"/metadata/labels/{label.replace('~', '~0').replace('/', '~1')}"
        operations += [
            {"op": "test", "path": path, "value": (workload.labels or {}).get(label)},
            {"op": "remove", "path": path},
        ]
    return operations


def _wait_for_workload(
    where: Where, kind: WorkloadKind, value: Object, held: tuple[Hold, ...], timeout: float | None
) -> Object:
    """The object once the controller has served the containers again."""
    from imagestreams.cli.editing import decoded  # noqa: PLC0415
    from imagestreams.cli.following import resource_of  # noqa: PLC0415
    from imagestreams.cli.waiting import NO_CONTROLLER, states  # noqa: PLC0415
    from imagestreams.core.trigger import SERVED_LABEL  # noqa: PLC0415

    resource, name = resource_of(kind), value["metadata"]["name"]
    labels = {SERVED_LABEL + hold.trigger.container.name for hold in held}
    uid = value["metadata"].get("uid", "")
    for body in states(where.client, resource, where.namespace, name, timeout, uid=uid):
        if labels <= (_read(kind, body).labels or {}).keys():
            return decoded(body, resource.named(name))
    raise Failure(
        f"error: {resource.named(name)} is not held any more, but its image was not set within {timeout:g}s\n"
        f"{NO_CONTROLLER}\n  Why not: kubectl describe {resource.named(name)}"
    )


def _print(lines: list[str]) -> None:
    from imagestreams.cli.table import printable  # noqa: PLC0415

    click.echo("\n".join(map(printable, lines)))
