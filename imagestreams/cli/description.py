"""What `describe` says of a stream, a tag, an image or a workload, made from what was read.

Nothing is asked here. What could not be read is `Unseen`, with the reason, and is said where it would stand.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple, assert_never

from imagestreams.cli.following import Found, progress_of
from imagestreams.cli.listing import Unseen, state_of, tags_of
from imagestreams.cli.revisions import history_of, short
from imagestreams.cli.table import NONE, age, printable, table
from imagestreams.core.lookup import ImportMode
from imagestreams.core.pins import parse_pins
from imagestreams.core.reference import ImageReference, InvalidReference
from imagestreams.core.stream import Istag
from imagestreams.core.trigger import Acknowledge, Hold, Roll, Unresolved, read_record

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from imagestreams.cli.following import Comparison
    from imagestreams.cli.listing import Image, Stream, Tag
    from imagestreams.cli.revisions import Revision
    from imagestreams.core.trigger import Container, Rollout

Object = dict[str, Any]

_INDENT: Final = "  "
_MANY: Final = 50  # rows of one table
_MANY_LABELS: Final = 20
_SOON: Final = 15.0  # seconds within which the controller acts, if it runs
_LONG: Final = 1000  # characters of one value


class Event(NamedTuple):
    """An Event; `first` and `last` are aware."""

    type: str
    reason: str
    message: str
    source: str
    first: datetime | None
    last: datetime | None
    times: int


Events = tuple[Event, ...] | Unseen | None
"""None: nobody asked for them."""


Deployments = tuple[Found, ...] | Unseen


# ---- lines ----


Rows = list[tuple[str, str]]


def _fields(rows: Sequence[tuple[str, str]], indent: str = "") -> list[str]:
    """`Name:  value`, the values below each other; a value's further lines as well."""
    width = max(len(name) for name, _ in rows) + 3
    lines = []
    for name, value in rows:
        first, *more = [printable(line[:_LONG]) for line in value.split("\n")]
        lines.append(f"{indent}{f'{name}:' if name else '':<{width}}{first}".rstrip())
        lines += [f"{indent}{'':<{width}}{line}".rstrip() for line in more]
    return lines


def _block(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table below its title, or `<none>`."""
    if not rows:
        return [f"{title}:  {NONE}"]
    more = len(rows) - _MANY
    lines = [f"{_INDENT}{line}" for line in table(header, rows[:_MANY]).split("\n")]
    return [f"{title}:", *lines, *([f"{_INDENT}... and {more} more"] if more > 0 else [])]


def _moment(moment: datetime | None, now: datetime) -> str:
    """As kubectl describes times, and how long ago."""
    if moment is None:
        return "<unknown>"
    return f"{moment.astimezone(UTC):%a, %d %b %Y %H:%M:%S +0000} ({age(moment, now)} ago)"


def _parsed(text: object) -> datetime | None:
    try:
        found = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return found if found.tzinfo else None


def _pairs(values: Mapping[str, object] | None) -> str:
    shown = [f"{key}={str(value)[:200]}" for key, value in sorted((values or {}).items())]
    more = [f"... and {len(shown) - _MANY_LABELS} more"] if len(shown) > _MANY_LABELS else []
    return "\n".join(line.replace("\n", " ") for line in [*shown[:_MANY_LABELS], *more]) or NONE


def _events(events: Events, now: datetime) -> list[str]:
    """As kubectl describes them, the latest last."""
    if events is None:
        return []
    if isinstance(events, Unseen):
        return [f"Events:  not seen: {printable(events.why)}"]
    if not events:
        return [f"Events:  {NONE}"]
    ordered = sorted(events, key=lambda event: event.last.timestamp() if event.last else 0.0)[-_MANY:]
    rows = [(event.type, event.reason, _frequency(event, now), event.source, event.message) for event in ordered]
    header = ("Type", "Reason", "Age", "From", "Message")
    lines = table(header, [tuple("-" * len(title) for title in header), *rows]).split("\n")
    return ["Events:", *(f"{_INDENT}{line}" for line in lines)]


def _frequency(event: Event, now: datetime) -> str:
    if event.times > 1:
        return f"{age(event.last, now)} (x{event.times} over {age(event.first, now)})"
    return age(event.last or event.first, now)


class _Hold(NamedTuple):
    """What holds a tag, and what else is to hold it: an annotation that anybody may write, until the controller has
    carried it out. Empty: nothing.
    """

    at: str
    asked: str


def _hold(stream: Stream, tag: str) -> _Hold:
    pin = history_of(stream.value, tag).pin if stream.value.status_tag(tag) else None
    asked = parse_pins(stream.value.annotations.pins).pins.get(tag)
    is_done = asked is None or (pin is not None and pin.digest == asked.digest)
    return _Hold(str(pin) if pin else "", "" if is_done else str(asked))


# ---- followers ----


def _follower_block(deployments: Deployments, wanted: Callable[[Istag], bool]) -> list[str]:
    """The workloads of the namespace that follow these tags."""
    if isinstance(deployments, Unseen):
        return [f"Followed by:  not seen: {printable(deployments.why)}"]
    rows = []
    for each in deployments:
        for trigger in each.triggers:
            if wanted(trigger.istag):
                name, container = f"deployment/{each.workload.key.name}", trigger.container
                note = "paused" if trigger.is_paused else ""
                rows.append((name, container.name, str(trigger.istag), short(container.image), note))
    return _block("Followed by", ("WORKLOAD", "CONTAINER", "TAG", "RUNS", ""), rows)


# ---- a stream ----


def stream_text(stream: Stream, deployments: Deployments, events: Events, now: datetime) -> str:
    value, metadata = stream.value, stream.raw["metadata"]
    status, ready = value.status, value.status.ready if value.status else None
    rows: Rows = [
        ("Name", value.metadata.name),
        ("Namespace", value.metadata.namespace),
        ("Created", _moment(_parsed(metadata.get("creationTimestamp")), now)),
        ("Labels", _pairs(metadata.get("labels"))),
        ("Annotations", _pairs(metadata.get("annotations"))),
        ("Ready", _ready(ready.status, ready.reason, ready.message) if ready else _never_seen(stream)),
    ]
    if status and (behind := _behind(stream)):
        rows.append(("", behind))
    if value.repository:
        rows.append(("Repository", _repository(stream)))
    if status and status.docker_image_repository:
        rows.append(("Pulled From", status.docker_image_repository))
    rows.append(("Local Lookup", "yes" if value.is_looked_up_locally else "no"))
    rows.append(("Interval", _interval(stream)))
    if value.is_suspended:
        rows.append(("Suspended", "yes: nothing of it is looked up (annotation imagestreams.dev/suspend)"))
    for condition in (status and status.conditions) or ():
        if condition.type != "Ready":
            rows.append((condition.type, _ready(condition.status, condition.reason, condition.message)))
    tags = []
    for tag in tags_of(stream):
        newest = tag.status.newest if tag.status else None
        image = short(newest.docker_image_reference) if newest else NONE
        moved = age(newest.created, now) if newest else NONE
        tags.append((tag.name, image, moved, state_of(tag), _source(tag)))
    key = value.key
    return "\n".join(
        [
            *_fields(rows),
            *_block("Tags", ("TAG", "IMAGE", "UPDATED", "STATE", "FROM"), tags),
            *_follower_block(deployments, lambda istag: istag.key == key),
            *_events(events, now),
        ]
    )


def _ready(status: str, reason: str | None, message: str | None) -> str:
    words = f"{status} ({reason})" if reason else status
    return f"{words}: {message}" if message else words


def _never_seen(stream: Stream) -> str:
    if stream.value.is_suspended:
        return "Unknown: imports are suspended"
    return "Unknown: no controller has written its status yet; is imagestreams installed and running?"


def _behind(stream: Stream) -> str:
    """What to say where the controller has not seen the stream as it is."""
    seen = stream.value.status.observed_generation if stream.value.status else None
    if seen is not None and seen >= stream.value.metadata.generation:
        return ""
    return "the controller has not seen the stream's last change yet"


def _repository(stream: Stream) -> str:
    listed = stream.value.status.repository if stream.value.status else None
    if listed is None or listed.name != stream.value.repository:
        return f"{stream.value.repository} (not listed yet)"
    left_out = f", {listed.left_out} of them left out at the limit of {listed.limit}" if listed.left_out else ""
    return f"{stream.value.repository} ({listed.found} tags{left_out})"


def _interval(stream: Stream) -> str:
    own = stream.value.annotations.interval
    return f"{own} (annotation imagestreams.dev/interval)" if own else "the controller's (15m by default)"


def _source(tag: Tag) -> str:
    """Where a tag comes from, in a few words."""
    source = tag.spec.from_ if tag.spec else None
    if tag.spec is None:
        return "<not in spec>"
    if source is None or not source.name:
        return "<pushes>"
    place = f"{source.namespace}/" if source.namespace else ""
    kind = "" if source.kind == "DockerImage" else f" ({source.kind})"
    return f"{place}{source.name}{kind}"


# ---- a tag ----


def tag_text(tag: Tag, deployments: Deployments, aliases: Sequence[str], events: Events, now: datetime) -> str:
    """`aliases` are the tags of the namespace that follow it, as STREAM:TAG."""
    value, status, spec = tag.stream.value, tag.status, tag.spec
    newest = status.newest if status else None
    rows: Rows = [
        ("Name", tag.full_name),
        ("Namespace", value.metadata.namespace),
        ("Image", newest.docker_image_reference if newest else NONE),
        ("Updated", _moment(newest.created, now) if newest else "never"),
        ("From", _source_words(tag)),
    ]
    if spec is not None and spec.from_ is not None:
        rows += [("Looked Up", _schedule(tag)), ("Last Attempt", _attempt(tag, now))]
    held, asked = _hold(tag.stream, tag.name)
    observed = status.observed.digest if status and status.observed else None
    if held:
        rows.append(("Held At", held))
        rows.append(("", f"it follows its source again with: imagestreams resume {tag.full_name}"))
    if asked:
        rows.append(("To Be Held At", f"{asked}; not done"))
        rows += [] if held else [("", f"to take that back: imagestreams resume {tag.full_name}")]
    if observed and newest and observed != newest.image and (held or state_of(tag) == "Flapping"):
        rows.append(("Served Now", observed))
    if status and status.pinned and status.pinned.status == "False":
        rows.append(("Not Held", status.pinned.message or "the image that it is pinned to is not in its history"))
    if (spec is not None and spec.annotations is not None) or (tag.raw_spec or {}).get("annotations"):
        rows.append(("Annotations", _pairs((tag.raw_spec or {}).get("annotations"))))
    for condition in (status and status.conditions) or ():
        if condition.type not in {"ImportSuccess", "Pinned"}:
            rows.append((condition.type, _ready(condition.status, condition.reason, condition.message)))
    found = history_of(value, tag.name)
    history = [
        (str(each.number), each.image or each.pull_spec, age(each.created, now), _is_current(each, found.current))
        for each in found.revisions
    ]
    istag = Istag(value.metadata.namespace, value.metadata.name, tag.name)
    return "\n".join(
        [
            *_fields(rows),
            *_block("History", ("REVISION", "IMAGE", "AGE", ""), history),
            *_follower_block(deployments, lambda each: each == istag),
            *_block("Aliases", ("TAG",), [(alias,) for alias in aliases]),
            *_events(_about(events, tag.name), now),
        ]
    )


def _is_current(revision: Revision, current: Revision | None) -> str:
    return "current" if revision is current else ""


def _about(events: Events, tag: str) -> Events:
    """Those of a stream's Events that speak of the tag."""
    if events is None or isinstance(events, Unseen):
        return events
    return tuple(event for event in events if f"tag {tag} " in f"{event.message} ".replace(":", " ").replace('"', ""))


def _source_words(tag: Tag) -> str:
    spec = tag.spec
    if spec is None:
        return "nothing: spec has no such tag (any more); its history stays until it is forgotten"
    source = spec.from_
    if source is None or not source.name:
        return "nothing: only pushes move it"
    place = f"{source.namespace}/" if source.namespace else ""
    reference = "; the pull spec itself is recorded, and never looked up" if spec.reference else ""
    return f"{source.kind} {place}{source.name}{reference}"


def _schedule(tag: Tag) -> str:
    spec = tag.spec
    if spec is None or spec.from_ is None:
        return "never"
    if tag.stream.value.is_suspended:
        return "not at all: imports of the stream are suspended (annotation imagestreams.dev/suspend)"
    if spec.from_.kind == "ImageStreamTag":
        return "not by itself: it moves with the tag that it follows"
    if spec.is_scheduled:
        return f"on schedule, interval: {_interval(tag.stream)}"
    return f"when its source changes, and on request (imagestreams import-image {tag.full_name})"


def _attempt(tag: Tag, now: datetime) -> str:
    status, spec = tag.status, tag.spec
    outcome = status.outcome if status else None
    if outcome is None or status is None or spec is None:
        return "none yet"
    since = f", since {_moment(outcome.last_transition_time, now)}" if outcome.last_transition_time else ""
    if outcome.status == "True":
        words = f"succeeded{since}"
    else:
        words = f"failed ({outcome.reason or 'no reason given'}){since}"
        words += f"\n{outcome.message or 'the controller gave no message'}"
    namespace = tag.stream.value.metadata.namespace
    sources = {spec.source(namespace, mode) for mode in ImportMode}
    if not any(source and status.observed_at(source) for source in sources):
        words += "\nit was of another source; the present one was not looked up yet"
    return words


# ---- an image ----


def image_text(image: Image, details: Object | Unseen, deployments: Deployments, now: datetime) -> str:
    """`details` is the cluster's Image object."""
    rows: Rows = [
        ("Name", image.full_name),
        ("Namespace", image.stream.value.metadata.namespace),
        ("Image", image.pull_spec),
        ("Tags", ", ".join(image.now) or NONE),
        ("Earlier Of", ", ".join(image.earlier) or NONE),
        ("First Seen", _moment(image.first, now)),
    ]
    if isinstance(details, Unseen):
        rows.append(("Details", f"not seen: {details.why}"))
    else:
        rows += _details(details)
    return "\n".join([*_fields(rows), *_users(deployments, image.digest)])


def _details(details: Object) -> Rows:
    metadata = details.get("dockerImageMetadata")
    found = metadata if isinstance(metadata, dict) else {}
    config = found.get("Config") if isinstance(found.get("Config"), dict) else {}
    rows: Rows = []
    if created := _parsed(found.get("Created")):
        rows.append(("Built", f"{created.astimezone(UTC):%a, %d %b %Y %H:%M:%S +0000}"))
    platform = "/".join(str(found[key]) for key in ("Os", "Architecture") if found.get(key))
    rows += [("Platform", platform)] if platform else []
    size = found.get("Size")
    if isinstance(size, int) and size > 0:
        layers = details.get("dockerImageLayers")
        rows.append(("Size", f"{_bytes(size)} in {len(layers) if isinstance(layers, list) else 0} layers"))
    for title, key in (("Author", "Author"),):
        rows += [(title, str(found[key]))] if found.get(key) else []
    for title, key in (("User", "User"), ("Entrypoint", "Entrypoint"), ("Command", "Cmd"), ("Labels", "Labels")):
        if given := config.get(key) if config else None:
            rows.append((title, _given(given)))
    platforms = details.get("dockerImageManifests")
    if isinstance(platforms, list) and platforms:
        rows.append(("Platforms", "\n".join(_platform(each) for each in platforms[:_MANY])))
    return rows


def _given(value: object) -> str:
    match value:
        case dict():
            return _pairs(value)
        case list():
            return " ".join(map(str, value))
        case _:
            return str(value)


def _platform(each: object) -> str:
    if not isinstance(each, dict):
        return NONE
    names = [str(each[key]) for key in ("os", "architecture", "variant") if each.get(key)]
    return f"{'/'.join(names) or 'unknown'}  {each.get('digest', '')}"


def _bytes(count: int) -> str:
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            break
        size /= 1024
    return f"{count} B" if unit == "B" else f"{size:.1f} {unit}"


def _users(deployments: Deployments, digest: str) -> list[str]:
    """The containers of the namespace that are to run the digest."""
    if isinstance(deployments, Unseen):
        return [f"Used by:  not seen: {printable(deployments.why)}"]
    rows = [
        (f"deployment/{each.workload.key.name}", container.name)
        for each in deployments
        for container in each.workload.containers
        if _digest_of(container.image) == digest
    ]
    return _block("Used by", ("WORKLOAD", "CONTAINER"), rows)


def _digest_of(image: str) -> str:
    try:
        return ImageReference.parse(image).digest or ""
    except InvalidReference:
        return ""


# ---- a workload ----


class Verdict(NamedTuple):
    """Whether a container has what it follows, in a sentence, and what to do about it; empty: nothing."""

    words: str
    next: str = ""


def workload_text(found: Found, compared: Sequence[Comparison], events: Events, now: datetime) -> str:
    """`compared` are its containers that follow tags."""
    workload = found.workload
    followed = {each.trigger.container: each for each in compared}
    record = read_record(workload)
    lines = _fields(
        [
            ("Name", workload.key.name),
            ("Namespace", workload.key.namespace),
            ("Kind", workload.kind.kind),
            ("Rollout", ": ".join(progress_of(found.raw))),
        ]
    )
    lines.append("Containers:")
    for container in workload.containers:
        lines.append(f"{_INDENT}{printable(container.name)}{' (init)' if _is_init(container) else ''}:")
        follower = followed.get(container)
        rows: Rows = [("Runs", container.image or NONE)]
        if follower is None:
            rows.append(("Follows", "no tag"))
        else:
            rows += _followed(follower, record.get(container.path), now)
            verdict = verdict_of(follower, events, now)
            rows.append(("State", verdict.words))
            rows += [("Next", verdict.next)] if verdict.next else []
        lines += _fields(rows, _INDENT * 2)
    if found.problems:
        lines += ["Problems:", *(f"{_INDENT}{printable(problem)}" for problem in found.problems)]
    return "\n".join([*lines, *_events(events, now)])


def _is_init(container: Container) -> bool:
    return container.list_name == "initContainers"


def _followed(follower: Comparison, rollout: Rollout | None, now: datetime) -> Rows:
    trigger, stream = follower.trigger, follower.stream
    rows: Rows = [("Follows", f"{trigger.istag}{' (paused)' if trigger.is_paused else ''}")]
    if isinstance(stream, Unseen):
        rows.append(("Tag Has", f"not seen: {stream.why}"))
    else:
        recorded = stream.value.status_tag(trigger.istag.tag)
        newest = recorded.newest if recorded else None
        since = f"\nsince {_moment(newest.created, now)}" if newest and newest.created else ""
        rows.append(("Tag Has", f"{newest.docker_image_reference}{since}" if newest else "no image"))
        if held := _hold(stream, trigger.istag.tag).at:
            rows.append(("Tag Held At", held))
    if rollout is not None and rollout.image:
        at = _parsed(rollout.at)
        rows.append(("Last Set", f"{rollout.image}\n{rollout.why or 'for a reason not recorded'}, {_moment(at, now)}"))
    return rows


def verdict_of(follower: Comparison, events: Events, now: datetime) -> Verdict:
    """Why a container runs what it runs. `events` are the workload's, `now` is aware."""
    trigger, stream = follower.trigger, follower.stream
    istag, named = trigger.istag, f"deployment/{follower.workload.key.name}"
    if trigger.is_paused:
        words = (
            f"up to date, and kept whatever {istag} has" if follower.is_equal else f"not updated, whatever {istag} has"
        )
        return Verdict(f"{words}: its trigger is paused", f"imagestreams set-triggers {named} --auto")
    if isinstance(stream, Unseen):
        return Verdict(f"unknown, since {istag} could not be seen: {stream.why}")
    match follower.decision:
        case None | Acknowledge():
            return _up_to_date(stream, istag)
        case Unresolved():
            return _unresolved(stream, istag)
        case Hold(writer=writer):
            return Verdict(
                f"not updated: {short(trigger.container.image)} was set by hand ({writer}) after the tag's image had "
                "been rolled out, and is kept until the tag moves",
                f"to follow again at once: imagestreams resume {named}",
            )
        case Roll(why=why):
            return _awaited(follower, stream, why, events, now)
        case _:
            assert_never(follower.decision)


def _up_to_date(stream: Stream, istag: Istag) -> Verdict:
    held, asked = _hold(stream, istag.tag)
    if asked:
        return Verdict(
            f"up to date with the tag, which is to be held at {asked}; that is not done",
            f"imagestreams describe tag {istag.stream}:{istag.tag}",
        )
    if held:
        return Verdict(
            f"up to date: it has the image that the tag is held at ({held})",
            f"to let the tag follow its source again: imagestreams resume {istag.stream}:{istag.tag}",
        )
    if stream.value.is_suspended:
        return Verdict("up to date with the tag, of which nothing is looked up: the stream is suspended")
    recorded = stream.value.status_tag(istag.tag)
    outcome = recorded.outcome if recorded else None
    if outcome is not None and outcome.status == "False":
        return Verdict(
            f"up to date with the tag, whose last import failed ({outcome.reason}): {outcome.message}",
            f"imagestreams describe tag {istag.stream}:{istag.tag}",
        )
    return Verdict("up to date")


def _unresolved(stream: Stream, istag: Istag) -> Verdict:
    spec, recorded = stream.value.spec_tag(istag.tag), stream.value.status_tag(istag.tag)
    name = f"{istag.stream}:{istag.tag}"
    where = f" -n {istag.namespace}"
    if spec is None and recorded is None:
        return Verdict(
            f"not updated: the stream {istag.namespace}/{istag.stream} has no tag {istag.tag}",
            f"imagestreams tag IMAGE {name}{where}",
        )
    outcome = recorded.outcome if recorded else None
    if outcome is not None and outcome.status == "False":
        return Verdict(
            f"not updated: {istag} has no image, since its import failed ({outcome.reason}): {outcome.message}",
            f"imagestreams describe tag {name}{where}",
        )
    if stream.value.is_suspended:
        return Verdict(
            f"not updated: {istag} has no image, and nothing is looked up: the stream is suspended",
            f"kubectl annotate imagestream {istag.stream}{where} imagestreams.dev/suspend-",
        )
    if recorded is not None and recorded.newest is not None:
        return Verdict(
            f"not updated: what {istag} has is no image that could be trusted: "
            f"{recorded.newest.docker_image_reference}",
            f"imagestreams import-image {name}{where}",
        )
    if _behind(stream):
        return Verdict(f"not updated: {istag} has no image yet, and {_behind(stream)}", _IS_IT_RUNNING)
    if spec is not None and spec.from_ is None:
        return Verdict(f"not updated: nothing was pushed to {istag} yet, and it has no source")
    return Verdict(f"not updated: {istag} has no image yet", f"imagestreams import-image {name}{where}")


_IS_IT_RUNNING: Final = (
    "see whether the controller runs: kubectl get leases,deployments --all-namespaces | grep imagestreams"
)


def _awaited(follower: Comparison, stream: Stream, why: str, events: Events, now: datetime) -> Verdict:
    """The container should have been given the image by now. What the controller last said of it tells why not."""
    workload, trigger = follower.workload, follower.trigger
    about, recorded = f"container {trigger.container.name}", stream.value.status_tag(trigger.istag.tag)
    moved = recorded.newest.created if recorded and recorded.newest else None
    said = () if events is None or isinstance(events, Unseen) else events
    for event in sorted(said, key=_when, reverse=True):
        is_of_this_move = moved is None or _when(event) >= moved.timestamp()
        if event.reason == "ImageUpdateRefused" and is_of_this_move:
            return Verdict(f"not updated: {event.message}", "change the policy or webhook that refuses it")
        if not event.message.startswith(about):
            continue
        if event.reason == "ImageUpdateObserved" and is_of_this_move:
            return Verdict("not updated: the controller only observes (--observe) and changes nothing")
        if event.reason == "TagNotResolved":
            return Verdict(f"not updated: {event.message}", _right_to_pull(follower, event))
        if event.reason == "ImageUpdated":
            break
    if workload.key.namespace == "kube-system":
        return Verdict(
            "not updated: workloads in kube-system are left alone, unless the controller's settings say else"
        )
    if moved and (now - moved).total_seconds() < _SOON:
        return Verdict(f"about to be updated ({why})")
    return Verdict(f"not updated yet ({why}), and the controller has not said why", _IS_IT_RUNNING)


def _when(event: Event) -> float:
    return event.last.timestamp() if event.last else 0.0


def _right_to_pull(follower: Comparison, event: Event) -> str:
    if "may not pull" not in event.message:
        return "see the controller's rules on registries"
    other, own = follower.trigger.istag.namespace, follower.workload.key.namespace
    return (
        f"if {own} may not pull from {other}, the owner of {other} gives the right: kubectl create rolebinding "
        f"{own}-may-pull -n {other} --clusterrole=system:image-puller --group=system:serviceaccounts:{own}"
    )
