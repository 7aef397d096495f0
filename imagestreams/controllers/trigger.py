"""The reconciler of workloads that follow tags: reads the object and the streams, lets `core.trigger` decide, and makes
the one write.

Workloads are watched by their metadata alone. An object is fetched whole when it follows a tag and its spec, labels or
annotations changed; the answer to our own patch is kept instead of being fetched, so that a tag with many followers
costs one request for each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import NamedTuple

import structlog

from imagestreams import metrics
from imagestreams.core.reference import InvalidReference
from imagestreams.core.stream import ImageStream, Istag, ObjectKey, TagImage, latest_image
from imagestreams.core.trigger import (
    SERVED_LABEL,
    Acknowledge,
    Hold,
    Roll,
    RolloutPlan,
    TriggerRules,
    Unresolved,
    Workload,
    WorkloadKind,
    parse_triggers,
    patch_of,
    plan_rollout,
    release_patch_of,
)
from imagestreams.kube.events import EventType
from imagestreams.kube.workloads import Marks, WorkloadObject, Workloads, marks_of

log = structlog.get_logger(__name__)


class WorkloadKey(NamedTuple):
    """A workload in the queue."""

    kind: WorkloadKind
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind.kind} {self.namespace}/{self.name}"


class Refused(Exception):
    """The API server refuses our patch of an object that has not changed since: a policy, or a webhook. Retried with
    backoff.
    """


class Changed(Exception):
    """The object changed between our reading and our patch; the key is tried again."""


Announce = Callable[[Workload, EventType, str, str], None]
"""Tells people: the object, and the type, reason and message of an Event."""


class TriggerReconciler:
    """Reconciles workloads with the tags that they follow.

    Args:
        workloads: reads and writes them.
        watched: the metadata store of each kind.
        streams: the store of streams.
        announce: records an Event on a workload; must not wait.
        clock: aware, UTC.
        rules: the administrator's.
        is_observing: decide and tell, write nothing.
    """

    def __init__(
        self,
        *,
        workloads: Workloads,
        watched: Mapping[WorkloadKind, Mapping[tuple[str, str], WorkloadObject]],
        streams: Mapping[tuple[str, str], ImageStream],
        announce: Announce,
        clock: Callable[[], datetime],
        rules: TriggerRules,
        is_observing: bool,
    ) -> None:
        self._workloads, self._watched, self._streams = workloads, watched, streams
        self._announce, self._clock, self._rules, self._is_observing = announce, clock, rules, is_observing
        self._read: dict[WorkloadKey, tuple[Marks, Workload]] = {}
        self._followers: dict[ObjectKey, set[WorkloadKey]] = {}
        self._followed: dict[WorkloadKey, frozenset[ObjectKey]] = {}
        self._told: dict[WorkloadKey, frozenset[tuple[str, str]]] = {}

    def followers(self, stream: ObjectKey) -> tuple[WorkloadKey, ...]:
        """The workloads that follow a tag of the stream."""
        return tuple(self._followers.get(stream, ()))

    def knows(self, key: WorkloadKey) -> bool:
        """Whether the workload was seen following a tag: it must hear, too, of its triggers' end."""
        return key in self._followed

    async def reconcile(self, key: WorkloadKey, _hints: frozenset[str] = frozenset()) -> None:
        watched = self._watched[key.kind].get((key.namespace, key.name))
        if watched is None or not watched.metadata.has_triggers:
            self._forget(key)
            return
        workload = await self._whole(key, watched.metadata.marks)
        if workload is None:
            self._forget(key)
            return
        self._index(key, (trigger.istag.key for trigger in parse_triggers(workload).triggers if not trigger.is_paused))
        allowed = await self._allowed(workload)
        plan = plan_rollout(workload, lambda istag: self._resolve(istag) if istag.key in allowed else None, self._rules)
        self._tell(key, workload, plan)
        if plan.writes and not self._is_observing:
            await self._write(key, workload, plan)

    async def _whole(self, key: WorkloadKey, marks: Marks) -> Workload | None:
        known = self._read.get(key)
        if known is not None and known[0] == marks:
            return known[1]
        workload = await self._workloads.get(key.kind, ObjectKey(key.namespace, key.name))
        if workload is not None:
            self._read[key] = (marks_of(workload), workload)
        return workload

    async def _allowed(self, workload: Workload) -> frozenset[ObjectKey]:
        """The streams whose tags the workload may have: those of its own namespace, and others where its namespace has
        the right to pull.
        """
        streams = {trigger.istag.key for trigger in parse_triggers(workload).triggers}
        own = workload.key.namespace
        return frozenset([key for key in streams if key.namespace == own or await self._workloads.may_pull(own, key)])

    def _resolve(self, istag: Istag) -> TagImage | None:
        stream = self._streams.get(istag.key)
        if stream is None:
            return None
        try:
            return latest_image(stream, istag.tag)
        except InvalidReference as error:
            place = {"namespace": istag.namespace, "imagestream": istag.stream, "tag": istag.tag}
            log.warning("tag has no usable image", **place, reason=str(error))
            return None

    async def _write(self, key: WorkloadKey, workload: Workload, plan: RolloutPlan) -> None:
        patch = patch_of(workload, plan, self._clock())
        if patch is None:
            return
        written = await self._workloads.patch(workload, patch)
        if written is None:
            await self._read_again(key, workload)
            return
        self._read[key] = (marks_of(written), written)
        self._count(workload, plan)
        release = release_patch_of(written)
        if release is not None:
            released = await self._workloads.patch(written, release)
            if released is not None:
                self._read[key] = (marks_of(released), released)

    async def _read_again(self, key: WorkloadKey, workload: Workload) -> None:
        """A test of the patch failed, or the API server refused the patch: the answer is 422 for both. If the object is
        as it was, it was refused.
        """
        metrics.rollouts.labels(key.kind.kind, "conflict").inc()
        self._read.pop(key, None)
        current = await self._workloads.get(key.kind, workload.key)
        if current is None:
            return
        if marks_of(current) == marks_of(workload):
            metrics.rollouts.labels(key.kind.kind, "refused").inc()
            raise Refused(f"the API server refuses to change {key}; a policy or webhook of the cluster may forbid it")
        self._read[key] = (marks_of(current), current)
        raise Changed(f"{key} was changed by somebody else meanwhile")

    def _count(self, workload: Workload, plan: RolloutPlan) -> None:
        kind = workload.kind.kind
        for write in plan.writes:
            if isinstance(write, Acknowledge):
                metrics.rollouts.labels(kind, "acknowledged").inc()
                continue
            metrics.rollouts.labels(kind, "applied").inc()
            self._observe_latency(kind, write)
            container = write.trigger.container
            change = f"{write.image.pull_spec} ({write.why}: {write.trigger.istag}), was {container.image}"
            self._announce(workload, "Normal", "ImageUpdated", f"container {container.name}: image set to {change}")
            log.info(
                "image set",
                namespace=workload.key.namespace,
                workload=workload.key.name,
                kind=kind,
                container=container.name,
                imagestream=write.trigger.istag.stream,
                tag=write.trigger.istag.tag,
                digest=write.image.digest,
                reason=write.why,
            )

    def _observe_latency(self, kind: str, write: Roll) -> None:
        stream = self._streams.get(write.trigger.istag.key)
        recorded = stream.status_tag(write.trigger.istag.tag) if stream else None
        if write.why == "tag moved" and recorded and recorded.newest and recorded.newest.created:
            metrics.move_to_patch.labels(kind).observe(
                max(0.0, (self._clock() - recorded.newest.created).total_seconds())
            )

    def _tell(self, key: WorkloadKey, workload: Workload, plan: RolloutPlan) -> None:
        """Say what is wrong, held, or only observed: once for as long as it lasts."""
        said: dict[tuple[str, str], EventType] = {("TriggerInvalid", problem): "Warning" for problem in plan.problems}
        for decision in plan.decisions:
            container, istag = decision.trigger.container, decision.trigger.istag
            match decision:
                case Hold(image=image, writer=writer):
                    said["ImageHeld", _held(decision, image, writer)] = "Warning"
                case Unresolved():
                    message = (
                        f"container {container.name} waits: {istag} has no image, or this namespace may not pull it"
                    )
                    said["TagNotResolved", message] = "Normal"
                case Roll(image=image, why=why) if self._is_observing:
                    change = f"{image.pull_spec} ({why}: {istag}), is {container.image}"
                    message = f"container {container.name}: image would be set to {change}"
                    said["ImageUpdateObserved", message] = "Normal"
                case Roll() | Acknowledge():
                    pass
        before = self._told.get(key, frozenset())
        for (reason, message), type_ in said.items():
            if (reason, message) in before:
                continue
            self._announce(workload, type_, reason, message)
            log.info(
                "workload left as it is",
                namespace=key.namespace,
                workload=key.name,
                kind=key.kind.kind,
                reason=reason,
                message=message,
            )
            if reason in _COUNTED:
                metrics.rollouts.labels(key.kind.kind, _COUNTED[reason]).inc()
        if said:
            self._told[key] = frozenset(said)
        else:
            self._told.pop(key, None)

    def _index(self, key: WorkloadKey, streams: Iterable[ObjectKey]) -> None:
        now, before = frozenset(streams), self._followed.get(key, frozenset())
        for stream in before - now:
            self._followers[stream].discard(key)
            if not self._followers[stream]:
                del self._followers[stream]
        for stream in now - before:
            self._followers.setdefault(stream, set()).add(key)
        self._followed[key] = now

    def _forget(self, key: WorkloadKey) -> None:
        self._index(key, ())
        del self._followed[key]
        self._read.pop(key, None)
        self._told.pop(key, None)


_COUNTED = {"ImageHeld": "held", "ImageUpdateObserved": "observed"}


def _held(hold: Hold, image: TagImage, writer: str) -> str:
    container = hold.trigger.container
    return (
        f"container {container.name}: {container.image} was set by hand ({writer}) and is kept; "
        f"{hold.trigger.istag} has {image.pull_spec}. The container follows again when the tag moves, "
        f"or when the label {SERVED_LABEL}{container.name} is removed"
    )
