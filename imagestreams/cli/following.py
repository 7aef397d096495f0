"""Who follows which tag: workloads as the server has them, and how each container compares with its tag.

What is said here is what the controller would decide, with the rights of whoever asks: a stream that he must not see is
one without images, and the installation's own rules are not known.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, NamedTuple, assert_never

from imagestreams.cli.api import Resource
from imagestreams.cli.listing import Unseen, image_of
from imagestreams.cli.revisions import short
from imagestreams.core.stream import Istag, MalformedObject, followed_tag
from imagestreams.core.trigger import (
    KINDS,
    Acknowledge,
    Hold,
    Roll,
    TriggerRules,
    Unresolved,
    decode_workload,
    is_same_image,
    parse_triggers,
    plan_rollout,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from imagestreams.cli.api import Client
    from imagestreams.cli.listing import Look, Stream
    from imagestreams.core.stream import ImageStream, TagImage
    from imagestreams.core.trigger import Decision, Trigger, Workload, WorkloadKind

Object = dict[str, Any]

_DEADLINE: Final = "ProgressDeadlineExceeded"


# ---- workloads ----


def resource_of(kind: WorkloadKind) -> Resource:
    """Where the server has workloads of the kind."""
    group, _, version = kind.api_version.rpartition("/")
    return Resource(group, kind.resource, version)


def named(workload: Workload) -> str:
    """As `-o name` prints it."""
    return resource_of(workload.kind).named(workload.key.name)


class Found(NamedTuple):
    """A workload: its JSON, what we read in it, what it follows, and what is wrong in what it says of that."""

    raw: Object
    workload: Workload
    triggers: tuple[Trigger, ...]
    problems: tuple[str, ...]


def read(kind: WorkloadKind, body: bytes) -> Found:
    """A workload as the server gives it; raises MalformedObject."""
    workload = decode_workload(kind, body)
    raw: Object = json.loads(body)
    return Found(raw, workload, *parse_triggers(workload))


def all_workloads(
    client: Client, namespace: str, labels: str = "", problems: list[str] | None = None
) -> tuple[Found, ...]:
    """The workloads of a namespace, or of all for an empty one, of the kinds that can follow tags. What cannot be read
    is one of `problems`.
    """
    found: list[Found] = []
    params = {"labelSelector": labels} if labels else {}
    for kind in KINDS:
        for body in client.items(resource_of(kind).path(namespace), params):
            try:
                found.append(read(kind, body))
            except MalformedObject as error:
                if problems is not None:
                    problems.append(f"a {kind.kind} cannot be read: {error}")
    return tuple(sorted(found, key=lambda each: (each.workload.key, each.workload.kind.kind)))


def workloads(client: Client, namespace: str, labels: str = "", problems: list[str] | None = None) -> tuple[Found, ...]:
    """Those of `all_workloads` that follow tags."""
    return tuple(each for each in all_workloads(client, namespace, labels, problems) if each.triggers)


class Progress(NamedTuple):
    """How far pods have what their workload says: `state` is "done", "rolling out", "paused" or "the rollout fails"."""

    state: str
    why: str

    @property
    def is_done(self) -> bool:
        return self.state == "done"


def progress_of(value: Object) -> Progress:
    """Of a Deployment, as `kubectl rollout status` has it."""
    spec, status, metadata = value.get("spec") or {}, value.get("status") or {}, value["metadata"]
    if status.get("observedGeneration", 0) < metadata.get("generation", 0):
        return Progress("rolling out", "the cluster has not seen the last change yet")
    conditions = [each for each in status.get("conditions") or () if each.get("type") == "Progressing"]
    failed: Object = next(
        (each for each in conditions if each.get("status") == "False" or each.get("reason") == _DEADLINE), {}
    )
    wanted, updated = spec.get("replicas", 1), status.get("updatedReplicas", 0)
    available = status.get("availableReplicas", 0)
    why = ""
    if updated < wanted:
        why = f"{updated} of {wanted} pods have it"
    elif status.get("replicas", 0) > updated:
        why = "old pods are left"
    elif available < updated:
        why = f"{available} of {updated} pods are available"
    if not why:
        return Progress("done", f"{available} of {wanted} pods available{', and paused' if spec.get('paused') else ''}")
    if spec.get("paused"):
        return Progress("paused", f"{why}; to go on: kubectl rollout resume deployment/{metadata['name']}")
    if failed:
        return Progress("the rollout fails", failed.get("message") or failed.get("reason") or "no reason given")
    return Progress("rolling out", why)


# ---- tags ----


def led_by(streams: Iterable[Stream], istag: Istag) -> frozenset[Istag]:
    """The tags of the streams that follow a tag, directly or through others, and the tag itself. One that is pinned
    itself follows nobody.
    """
    found, before = frozenset([istag]), frozenset[Istag]()
    followed = {
        Istag(*stream.key, tag.name): target
        for _, stream in streams
        for tag in stream.spec_tags
        if (target := followed_tag(tag, stream.key)) and not _is_held(stream, tag.name)
    }
    while found != before:
        before, found = found, found | {tag for tag, target in followed.items() if target in found}
    return found


def _is_held(stream: ImageStream, tag: str) -> bool:
    status = stream.status_tag(tag)
    return status is not None and status.pinned is not None


def shown(istag: Istag, namespace: str) -> str:
    """A tag as somebody in the namespace names it."""
    return f"{istag.stream}:{istag.tag}" if istag.namespace == namespace else str(istag)


# ---- how a container and its tag compare ----


class Comparison(NamedTuple):
    """A container and the tag that it follows.

    `stream` has the tag, `image` is what followers of the tag get, and `decision` what the controller would do now;
    None: nothing. `state` is empty where container and tag are equal and all pods have it, else "held", "behind",
    "waiting", "paused", "rolling out" or "the rollout fails".
    """

    workload: Workload
    trigger: Trigger
    stream: Stream | Unseen
    image: TagImage | None
    decision: Decision | None
    state: str
    why: str

    @property
    def is_equal(self) -> bool:
        """Whether the container is set to what the tag has, wherever its pods are."""
        return self.image is not None and is_same_image(self.trigger.container.image, self.image)

    def document(self) -> Object:
        """For programs."""
        istag = self.trigger.istag
        return {
            "namespace": self.workload.key.namespace,
            "kind": self.workload.kind.kind,
            "name": self.workload.key.name,
            "container": self.trigger.container.name,
            "tag": {"namespace": istag.namespace, "stream": istag.stream, "tag": istag.tag},
            "running": self.trigger.container.image,
            "tagHas": self.image.pull_spec if self.image else None,
            "state": self.state,
            "why": self.why or None,
        }

    def row(self, *, is_wide: bool) -> tuple[str, ...]:
        running, has = self.trigger.container.image, self.image.pull_spec if self.image else ""
        cells = (running, has) if is_wide else (short(running), short(has))
        why = f"{self.state}: {self.why}" if self.why else self.state
        tag = shown(self.trigger.istag, self.workload.key.namespace)
        return named(self.workload), self.trigger.container.name, tag, cells[0], cells[1] or "<none>", why


def compare(found: Found, look: Look) -> Iterator[Comparison]:
    """How the workload's containers and their tags compare, in the order of its annotations."""
    workload, progress = found.workload, progress_of(found.raw)
    plan = plan_rollout(workload, lambda istag: image_of(istag, look), TriggerRules())
    decisions = {decision.trigger: decision for decision in plan.decisions}
    for trigger in found.triggers:
        decision = decisions.get(trigger)
        compared = Comparison(
            workload, trigger, look(trigger.istag.key), image_of(trigger.istag, look), decision, "", ""
        )
        state, why = _state(compared)
        if not state and not progress.is_done:
            state, why = progress
        yield compared._replace(state=state, why=why)


def _state(compared: Comparison) -> tuple[str, str]:
    trigger, stream, decision = compared.trigger, compared.stream, compared.decision
    if trigger.is_paused:
        return ("", "") if compared.is_equal else ("paused", "")
    if isinstance(stream, Unseen):
        return "waiting", f"not seen: {stream.why}"
    match decision:
        case None | Acknowledge():
            return "", ""
        case Hold(writer=writer):
            return "held", f"set by hand ({writer})"
        case Roll(why=why):
            is_far = trigger.istag.namespace != compared.workload.key.namespace
            return "behind", f"{why}, or may not be pulled from there" if is_far else why
        case Unresolved(why=why):
            return "waiting", why
        case _:
            assert_never(decision)
