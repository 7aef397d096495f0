"""One round of importing for one stream, end to end: merge what has arrived, write it, plan, ask.

This is the path of every door: a watch event, a polling slot, a request or a push each only put the stream's key in a
queue, and the key comes here. The round never waits for a registry: it hands its questions to the lanes and returns;
their answers bring the key back.

The order keeps a crash harmless. Answers stay with the lanes until the status that holds them is written; a slot counts
as served only then, too. Killed in between, a successor asks again and writes the same.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import structlog

from imagestreams import metrics
from imagestreams.core.importing import (
    ImportRules,
    Plan,
    Progress,
    TagFailed,
    TagMoved,
    Transition,
    Update,
    merge_status,
    plan_import,
    tickets_of,
)
from imagestreams.core.keychain import Entry
from imagestreams.core.lookup import Answer, Deferred, Failed, Resolved, Ticket
from imagestreams.core.stream import ImageStream, ObjectKey, Status
from imagestreams.kube.imagestreams import ObjectTooLarge
from imagestreams.registry.lanes import Lanes

log = structlog.get_logger(__name__)

_LEAST_BUDGET = 16 << 10
_SLOT_COUNTS = 3600.0  # seconds


@dataclass(slots=True)
class _Memory:
    """What is known of a stream beyond its status; see `core.importing.TagProgress`."""

    uid: str
    budget: int  # bytes of status; less than the settings' for a stream whose spec takes much of what etcd has for it
    progress: Progress = field(default_factory=dict)


class Importer:
    """Carries streams through their rounds.

    Args:
        lanes: where registries are asked. credentials: the pull secrets of a namespace, decoded. publish: writes a
            status under the stream's resourceVersion and returns the stream as it is then; raises when the stream has
            changed meanwhile. announce: tells people of a transition (Kubernetes Events); must not wait. clock: aware,
            UTC. rules: the administrator's. watermark: polling slots that began before it were served by an earlier
            process.
    """

    def __init__(
        self,
        *,
        lanes: Lanes[ObjectKey],
        credentials: Callable[[str], Awaitable[tuple[Entry, ...]]],
        publish: Callable[[ImageStream, Status], Awaitable[ImageStream]],
        announce: Callable[[ImageStream, Transition], None],
        clock: Callable[[], datetime],
        rules: ImportRules,
        watermark: datetime | None,
    ) -> None:
        self._lanes, self._credentials, self._publish, self._announce = lanes, credentials, publish, announce
        self._clock, self._rules, self._watermark = clock, rules, watermark
        self._memory: dict[ObjectKey, _Memory] = {}

    async def round(self, stream: ImageStream, hints: frozenset[str] = frozenset()) -> datetime | None:
        """Carry the stream one round on; returns when to look at it again (aware), or None when only an event can make
        something due.

        Raises what `publish` and `credentials` raise: the answers stay, and the key is to be tried again.
        """
        memory = self._memory.get(stream.key)
        if memory is None or memory.uid != stream.metadata.uid:
            self._lanes.forget(stream.key)
            memory = self._memory[stream.key] = _Memory(stream.metadata.uid, self._rules.status_budget)
        answers = self._lanes.peek(stream.key)
        update = self._merged(stream, answers, memory)
        if update.is_changed and update.stream.status is not None:
            try:
                stream = await self._publish(stream, update.stream.status)
            except ObjectTooLarge:
                memory.budget = max(memory.budget * 2 // 3, _LEAST_BUDGET)
                raise
        self._lanes.acknowledge(stream.key, answers)
        memory.progress = update.progress
        self._tell(stream, answers, update)
        return await self._ask(stream, memory, hints)

    def _merged(self, stream: ImageStream, answers: tuple[Answer, ...], memory: _Memory) -> Update:
        rules = replace(self._rules, status_budget=memory.budget)
        return merge_status(stream, answers, memory.progress, now=self._clock(), rules=rules)

    async def _ask(self, stream: ImageStream, memory: _Memory, hints: frozenset[str]) -> datetime | None:
        plan = plan_import(
            stream, memory.progress, now=self._clock(), rules=self._rules, hints=hints, watermark=self._watermark
        )
        memory.progress = plan.progress
        if plan.due:
            await self._submit(stream, memory, plan)
        return plan.look_again

    async def _submit(self, stream: ImageStream, memory: _Memory, plan: Plan) -> None:
        entries: tuple[Entry, ...] = ()
        if any(due.wish.transport.credentials for due in plan.due):
            entries = await self._credentials(stream.metadata.namespace)
        tickets, memory.progress = tickets_of(stream, plan, entries, self._rules)
        self._lanes.submit(stream.key, tickets)
        log.debug("asked", namespace=stream.metadata.namespace, imagestream=stream.metadata.name, tags=len(tickets))

    def forget(self, key: ObjectKey) -> None:
        """The stream is gone."""
        self._memory.pop(key, None)
        self._lanes.forget(key)

    def oldest_unserved(self) -> datetime | None:
        """The begin of the oldest polling slot that is still to be served; None when none is.

        A slot counts for an hour: a stream that cannot be written, or a registry that stays away, must not make a
        successor ask for everything that was served since.
        """
        since = self._clock().timestamp() - _SLOT_COUNTS
        unserved = (tag.unserved for memory in self._memory.values() for tag in memory.progress.values())
        oldest = min((slot for slot in unserved if slot >= since), default=None)
        return datetime.fromtimestamp(oldest, UTC) if oldest is not None else None

    def _tell(self, stream: ImageStream, answers: tuple[Answer, ...], update: Update) -> None:
        tickets = {answer.ticket.tag: answer.ticket for answer in answers}
        for transition in update.transitions if update.is_changed else ():
            self._announce(stream, transition)
            if isinstance(transition, TagMoved):
                metrics.tag_moves.labels(_noticed_by(tickets.get(transition.tag))).inc()
        _count(answers)
        if answers or update.is_changed:
            log.info(
                "import finished",
                namespace=stream.metadata.namespace,
                imagestream=stream.metadata.name,
                resolved=sum(isinstance(answer.outcome, Resolved) for answer in answers),
                failed=sum(isinstance(answer.outcome, Failed) for answer in answers),
                deferred=sum(isinstance(answer.outcome, Deferred) for answer in answers),
                moved=[transition.tag for transition in update.transitions if isinstance(transition, TagMoved)][:5],
                reasons=sorted({step.reason for step in update.transitions if isinstance(step, TagFailed)}),
                written=update.is_changed,
            )


def _noticed_by(ticket: Ticket | None) -> str:
    if ticket is None or not (ticket.request or ticket.lookup.known):
        return "spec"
    return "request" if ticket.request else "poll"


def _count(answers: Iterable[Answer]) -> None:
    for answer in answers:
        outcome, ticket = answer.outcome, answer.ticket
        metrics.imports.labels(type(outcome).__name__.lower()).inc()
        host = metrics.registry_label(ticket.lookup.reference.host)
        if isinstance(outcome, Failed):
            metrics.import_errors.labels(host, outcome.reason).inc()
        if ticket.slot and not isinstance(outcome, Deferred):
            metrics.due_lag.labels(host).observe(max(0.0, answer.at.timestamp() - ticket.slot))
