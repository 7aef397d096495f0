"""The reconciler of workloads that follow tags: reads the object and the streams, lets `core.trigger` decide, and makes
the one write.

Workloads are watched by their metadata alone. An object is fetched whole when it follows a tag and its spec, labels or
annotations changed; the answer to our own patch is kept instead of being fetched, so that a tag with many followers
costs one request for each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
from imagestreams.kube.cluster import ApiError, Forbidden, Invalid
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
    """The cluster refuses our patch of an object that has not changed since: a policy, or a webhook. Retried with
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
        later: has a key reconciled again after a while.
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
        later: Callable[[WorkloadKey], None],
    ) -> None:
        self._workloads, self._watched, self._streams = workloads, watched, streams
        self._announce, self._clock, self._rules, self._is_observing = announce, clock, rules, is_observing
        self._later = later
        self._read: dict[WorkloadKey, tuple[Marks, Workload]] = {}
        self._followers: dict[ObjectKey, set[WorkloadKey]] = {}
        self._followed: dict[WorkloadKey, frozenset[ObjectKey]] = {}
        self._told: dict[WorkloadKey, frozenset[tuple[str, str]]] = {}
        self._held: dict[WorkloadKey, int] = {}

    def use(self, rules: TriggerRules) -> None:
        """Decide by other rules from now on."""
        self._rules = rules

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
        followed = frozenset(each.istag.key for each in parse_triggers(workload).triggers if not each.is_paused)
        self._index(key, followed)
        allowed = frozenset([stream for stream in followed if await self._may_pull(key.namespace, stream)])
        plan = plan_rollout(workload, lambda istag: self._resolve(istag) if istag.key in allowed else None, self._rules)
        self._tell(key, workload, plan)
        if any(
            isinstance(each, Unresolved) and each.trigger.istag.namespace != key.namespace for each in plan.decisions
        ):
            self._later(key)  # nobody tells when a right to pull is given
        if self._is_observing:
            return
        if plan.writes:
            workload = await self._write(key, workload, plan) or workload
        await self._release(key, workload)

    async def _whole(self, key: WorkloadKey, marks: Marks) -> Workload | None:
        known = self._read.get(key)
        if known is not None and known[0] == marks:
            return known[1]
        workload = await self._workloads.get(key.kind, ObjectKey(key.namespace, key.name))
        if workload is not None:
            self._read[key] = (marks_of(workload), workload)
        return workload

    async def _may_pull(self, consumer: str, stream: ObjectKey) -> bool:
        """Whether workloads of the namespace may have the stream's tags; those of its own they always may."""
        return stream.namespace == consumer or await self._workloads.may_pull(consumer, stream)

    def _resolve(self, istag: Istag) -> TagImage | None:
        stream = self._streams.get(istag.key)
        if stream is None:
            return None
        try:
            return latest_image(stream, istag.tag, self._streams.get)
        except InvalidReference as error:
            place = {"namespace": istag.namespace, "imagestream": istag.stream, "tag": istag.tag}
            log.warning("tag has no usable image", **place, reason=str(error))
            return None

    async def _write(self, key: WorkloadKey, workload: Workload, plan: RolloutPlan) -> Workload | None:
        patch = patch_of(workload, plan, self._clock())
        written = await self._patched(key, workload, patch) if patch is not None else None
        if written is not None:
            self._count(workload, plan)
        return written

    async def _release(self, key: WorkloadKey, workload: Workload) -> None:
        """Give up the fields that we took from a server-side applier, now or in an earlier life."""
        release = release_patch_of(workload)
        if release is not None:
            await self._patched(key, workload, release)

    async def _patched(self, key: WorkloadKey, workload: Workload, patch: bytes) -> Workload | None:
        """The object after the patch, which is kept; None when it is gone. Raises Changed or Refused."""
        try:
            written = await self._workloads.patch(workload, patch)
        except (Invalid, Forbidden) as error:
            await self._read_again(key, workload, error)
            return None
        if written is not None:
            self._read[key] = (marks_of(written), written)
        return written

    async def _read_again(self, key: WorkloadKey, workload: Workload, error: ApiError) -> None:
        """A test of the patch failed, or the cluster refused the patch. If the object is as it was, it was refused."""
        self._read.pop(key, None)
        current = await self._workloads.get(key.kind, workload.key)
        if current is None:
            return
        if (marks_of(current), current.manager_entries) != (marks_of(workload), workload.manager_entries):
            metrics.rollouts.labels(key.kind.kind, "conflict").inc()
            self._read[key] = (marks_of(current), current)
            raise Changed(f"{key} was changed by somebody else meanwhile") from error
        metrics.rollouts.labels(key.kind.kind, "refused").inc()
        self._announce(workload, "Warning", "ImageUpdateRefused", f"the cluster refuses the change: {error.message}")
        raise Refused(f"the cluster refuses to change {key}: {error.message}") from error

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
                case Unresolved(why=why):
                    message = f"container {container.name} waits: {istag} {why}"
                    said["TagNotResolved", message] = "Normal"
                case Roll(image=image, why=why) if self._is_observing:
                    change = f"{image.pull_spec} ({why}: {istag}), is {container.image}"
                    message = f"container {container.name}: image would be set to {change}"
                    said["ImageUpdateObserved", message] = "Normal"
                case Roll() | Acknowledge():
                    pass
        self._note_holds(key, sum(isinstance(decision, Hold) for decision in plan.decisions))
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

    def _index(self, key: WorkloadKey, now: frozenset[ObjectKey]) -> None:
        before = self._followed.get(key, frozenset())
        for stream in before - now:
            self._followers[stream].discard(key)
            if not self._followers[stream]:
                del self._followers[stream]
        for stream in now - before:
            self._followers.setdefault(stream, set()).add(key)
        self._followed[key] = now

    def _note_holds(self, key: WorkloadKey, count: int) -> None:
        self._held[key] = count
        if not count:
            del self._held[key]
        metrics.held.labels("by hand").set(sum(self._held.values()))

    def _forget(self, key: WorkloadKey) -> None:
        self._note_holds(key, 0)
        self._index(key, frozenset())
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
