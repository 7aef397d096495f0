"""One round of importing for one stream, end to end: merge what has arrived, write it, plan, ask.

This is the path of every door: a watch event, a polling slot, a request or a push each only put the stream's key in a
queue, and the key comes here. The round never waits for a registry: it hands its questions to the lanes and returns;
their answers bring the key back.

The order keeps a crash harmless. Answers stay with the lanes until the status that holds them is written; a slot counts
as served only then, too. Killed in between, a successor asks again and writes the same.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import structlog

from imagestreams import metrics
from imagestreams.core.following import Streams, no_streams
from imagestreams.core.importing import (
    REPOSITORY,
    Due,
    Plan,
    Progress,
    overdue,
    plan_import,
    revised,
    tickets_of,
    unwelcome_tags,
    withdrawn,
)
from imagestreams.core.keychain import Entry
from imagestreams.core.lookup import Answer, Deferred, Failed, Lookup, Resolved, Ticket
from imagestreams.core.merging import LOOK_AGAIN, TagFailed, TagMoved, Transition, Update, merge_status
from imagestreams.core.stream import ImageStream, ObjectKey, Status, encode
from imagestreams.core.wish import ImportRules, Wishes, followed_streams, interval_of
from imagestreams.kube.imagestreams import ObjectTooLarge
from imagestreams.registry.lanes import Lanes

log = structlog.get_logger(__name__)

_LEAST_BUDGET = 16 << 10
_SMALL_FOR = timedelta(hours=1)  # how long a budget stays small that the API server asked for
_SLOT_COUNTS = timedelta(hours=1)
_REVIEWS = 8  # rights asked for at a time
_MOST_REVIEWS = 64  # of one stream in LOOK_AGAIN: whoever names thousands of streams must not occupy the API server
_REVIEW_FLOOR = timedelta(seconds=10)  # between two questions for one right, whatever changes
_REVIEW_CAP = timedelta(minutes=15)
_FRESH = 60.0  # seconds that an import request's answer may be old: as long as it may take, and some
_INSTANT = 0.001  # seconds: what was asked at the very moment counts


@dataclass(frozen=True, slots=True)
class _Small:
    """A budget (bytes of status) below the settings': the spec takes much of what etcd has for the stream. It counts
    for a while, or until the spec is smaller than it was.
    """

    budget: int
    since: datetime
    spec: int  # bytes


@dataclass(frozen=True, slots=True)
class _Denial:
    """A right that was not given: when that was, until when it is not asked for again unless something here is another
    by then, and how many times in a row so.
    """

    since: datetime
    until: datetime
    here: tuple[str, ...]
    times: int = 1

    def again(self, here: tuple[str, ...]) -> datetime:
        """When to ask again."""
        return self.until if here == self.here else self.since + _REVIEW_FLOOR


@dataclass(slots=True)
class _Reviews:
    """How many rights were asked for since a moment, and when to ask for those that had to wait."""

    since: datetime | None = None
    count: int = 0
    again: datetime | None = None


@dataclass(slots=True)
class _Memory:
    """What is known of a stream beyond its status; see `core.importing.TagProgress`."""

    uid: str
    interval: timedelta
    small: _Small | None = None
    progress: Progress = field(default_factory=dict)
    wishes: Wishes = field(default_factory=Wishes)
    denied: dict[ObjectKey, _Denial] = field(default_factory=dict)
    reviews: _Reviews = field(default_factory=_Reviews)
    hints: frozenset[str] = frozenset()  # tags to be asked for once more, by the rules that are new
    is_outdated: bool = False  # what is under way was asked by other rules
    asking: frozenset[str] = frozenset()  # tags for which credentials are being read
    foreseen: dict[str, datetime] = field(default_factory=dict)  # since when an import request had a tag looked up
    listed: datetime | None = None  # the same of the repository's tags, once its list was asked for
    hinted: dict[str, datetime] = field(default_factory=dict)  # when somebody else saw a tag move


class Importer:
    """Carries streams through their rounds.

    Args:
        lanes: where registries are asked. credentials: what may be used for a stream, decoded. publish: writes a
            status under the stream's resourceVersion and returns the stream as it is then; raises when the stream has
            changed meanwhile. announce: tells people of a transition (Kubernetes Events); must not wait. clock: aware,
            UTC. rules: the administrator's. watermark: polling slots that began before it were served by an earlier
            process. streams: the store, for tags that follow other streams. may_pull: whether a namespace has the right
            to pull from a stream of another one; raises where that cannot be asked.
    """

    def __init__(
        self,
        *,
        lanes: Lanes[ObjectKey],
        credentials: Callable[[ImageStream], Awaitable[tuple[Entry, ...]]],
        publish: Callable[[ImageStream, Status], Awaitable[ImageStream]],
        announce: Callable[[ImageStream, Transition], None],
        clock: Callable[[], datetime],
        rules: ImportRules,
        watermark: datetime | None,
        streams: Streams = no_streams,
        may_pull: Callable[[str, ObjectKey], Awaitable[bool]] | None = None,
    ) -> None:
        self._lanes, self._credentials, self._publish, self._announce = lanes, credentials, publish, announce
        self._clock, self._rules, self._watermark = clock, rules, watermark
        self._streams, self._may_pull = streams, may_pull or _no_right
        self._memory: dict[ObjectKey, _Memory] = {}
        self._followed: dict[ObjectKey, frozenset[ObjectKey]] = {}
        self._followers: dict[ObjectKey, set[ObjectKey]] = {}
        self._foreseen: dict[ObjectKey, dict[str, datetime]] = {}

    def foresee(self, key: ObjectKey, tags: frozenset[str], since: datetime) -> None:
        """Have these tags of the stream asked for in its next round. They were looked up since that moment, by an
        import request: an equal answer to a question of that time will do, and no older one, unless somebody else hints
        at the tag after that moment.
        """
        self._foreseen[key] = _later(self._foreseen.get(key, {}), dict.fromkeys(tags, since))

    async def round(self, stream: ImageStream, hints: frozenset[str] = frozenset()) -> datetime | None:
        """Carry the stream one round on; returns when to look at it again (aware), or None when only an event can make
        something due.

        `hints` are tags that have moved since they were asked for, by somebody's word, and REPOSITORY.

        Raises what `publish`, `credentials` and `may_pull` raise: the answers stay, and the key is to be tried again.
        """
        self._index(stream.key, followed_streams(stream))
        memory = self._remembered(stream)
        self._heed(stream.key, memory, hints)
        answers = self._lanes.peek(stream.key)
        update = await self._merged(stream, answers, memory)
        if update.is_changed and update.stream.status is not None:
            try:
                stream = await self._publish(stream, update.stream.status)
            except ObjectTooLarge:
                budget = max(self._budget(stream, memory) * 2 // 3, _LEAST_BUDGET)
                memory.small = _Small(budget, self._clock(), _spec_size(stream))
                raise
        self._lanes.acknowledge(stream.key, answers)
        memory.progress = update.progress
        self._tell(stream, answers, update)
        moments = (await self._ask(stream, memory, hints), update.look_again, memory.reviews.again)
        return min((moment for moment in moments if moment is not None), default=None)

    def _remembered(self, stream: ImageStream) -> _Memory:
        """The memory of the stream, without what is under way where that is not wanted any more."""
        memory, interval = self._memory.get(stream.key), interval_of(stream, self._rules)
        if memory is None or memory.uid != stream.metadata.uid:
            self._lanes.forget(stream.key)
            memory = self._memory[stream.key] = _Memory(stream.metadata.uid, interval)
        memory.interval = interval
        if memory.is_outdated:
            self._lanes.forget(stream.key)
            memory.progress, memory.is_outdated = revised(memory.progress), False
            memory.hints |= unwelcome_tags(stream, memory.progress)
        elif stream.is_suspended:
            self._lanes.forget(stream.key)
            memory.progress = withdrawn(memory.progress)
        return memory

    def _heed(self, key: ObjectKey, memory: _Memory, hints: frozenset[str]) -> None:
        """Take over what was foreseen until now: what comes while this round waits is of a stream that it does not see.
        A hint is remembered for as long as an answer from before it could be taken.
        """
        now = self._clock()
        memory.foreseen = _later(memory.foreseen, self._foreseen.pop(key, {}))
        memory.hinted = _recent(memory.hinted, now) | dict.fromkeys(hints, now)

    def _budget(self, stream: ImageStream, memory: _Memory) -> int:
        """How many bytes the status may have."""
        small = memory.small
        if small is not None and (self._clock() - small.since >= _SMALL_FOR or _spec_size(stream) < small.spec):
            small = memory.small = None
        return min(self._rules.status_budget, small.budget) if small else self._rules.status_budget

    async def _merged(self, stream: ImageStream, answers: tuple[Answer, ...], memory: _Memory) -> Update:
        rules, now = replace(self._rules, status_budget=self._budget(stream, memory)), self._clock()
        asked: frozenset[ObjectKey] = frozenset()
        allowed: frozenset[ObjectKey] = frozenset()
        unasked: frozenset[ObjectKey] = frozenset()
        memory.reviews.again = None
        while True:
            update = merge_status(
                stream,
                answers,
                memory.progress,
                now=now,
                rules=rules,
                streams=self._streams,
                may_pull=allowed,
                unasked=unasked,
                wishes=memory.wishes,
            )
            # What the others have may change while we ask.
            missing = update.rights - asked
            if not missing:
                memory.denied = {key: denial for key, denial in memory.denied.items() if key in update.rights}
                return update
            asked |= missing
            some, put_off = await self._allowed(stream, memory, missing, now)
            allowed, unasked = allowed | some, unasked | put_off

    async def _allowed(
        self, stream: ImageStream, memory: _Memory, keys: frozenset[ObjectKey], now: datetime
    ) -> tuple[frozenset[ObjectKey], frozenset[ObjectKey]]:
        """Those of the streams that the stream's namespace may pull from, and those of which that could not be asked
        yet. A denial counts for a while, each time a longer one, or until something changes in one of the two.
        """
        meta, reviews, denied = stream.metadata, memory.reviews, memory.denied
        here = {
            key: (
                str(meta.generation),
                stream.annotations.refresh or "",
                (other.metadata.resource_version if (other := self._streams(key)) else ""),
            )
            for key in keys
        }
        moments = {key: denied[key].again(here[key]) if key in denied else now for key in keys}
        # First what was never asked for, then what waits for longest.
        due = sorted((key for key in keys if moments[key] <= now), key=lambda key: (key in denied, moments[key], key))
        if reviews.since is None or now - reviews.since >= LOOK_AGAIN:
            reviews.since, reviews.count = now, 0
        asked = due[: max(0, _MOST_REVIEWS - reviews.count)]
        unasked = frozenset(due[len(asked) :])
        waiting = [moment for key, moment in moments.items() if moment > now and denied[key].here != here[key]]
        reviews.again = min(
            filter(None, (reviews.again, *waiting, reviews.since + LOOK_AGAIN if unasked else None)), default=None
        )
        allowed = await self._reviewed(meta.namespace, asked)
        reviews.count += len(asked)
        for key in asked:
            before = denied.pop(key, None)
            if key not in allowed:
                times = before.times + 1 if before is not None and before.here == here[key] else 1
                wait = min(LOOK_AGAIN * (1 << min(times - 1, 16)), _REVIEW_CAP)
                denied[key] = _Denial(now, now + wait, here[key], times)
        return allowed, unasked

    async def _reviewed(self, namespace: str, keys: list[ObjectKey]) -> frozenset[ObjectKey]:
        """Those of the streams that the namespace may pull from."""
        allowed: set[ObjectKey] = set()
        for begin in range(0, len(keys), _REVIEWS):
            some = keys[begin : begin + _REVIEWS]
            rights = await asyncio.gather(*(self._may_pull(namespace, key) for key in some))
            allowed |= {key for key, has_right in zip(some, rights, strict=True) if has_right}
        return frozenset(allowed)

    async def _ask(self, stream: ImageStream, memory: _Memory, hints: frozenset[str]) -> datetime | None:
        plan = plan_import(
            stream,
            memory.progress,
            now=self._clock(),
            rules=self._rules,
            hints=hints | memory.hints | memory.foreseen.keys(),
            watermark=self._watermark,
            wishes=memory.wishes,
        )
        memory.progress = plan.progress
        memory.foreseen = _recent(memory.foreseen, self._clock())
        if not stream.is_suspended:
            memory.hints = frozenset()
        if plan.due:
            await self._submit(stream, memory, plan)
        return plan.look_again

    async def _submit(self, stream: ImageStream, memory: _Memory, plan: Plan) -> None:
        # Also where none may be sent: a denial then says that there was one.
        memory.asking = frozenset(due.tag for due in plan.due)
        try:
            entries = await self._credentials(stream)
        finally:
            memory.asking = frozenset()
        tickets, memory.progress = tickets_of(stream, plan, entries, self._rules)
        named = {REPOSITORY, *(tag.name for tag in stream.spec_tags)}
        eased = [
            self._eased(memory, due, each, is_virtual=due.tag not in named)
            for due, each in zip(plan.due, tickets, strict=True)
        ]
        self._lanes.submit(stream.key, eased)
        log.debug("asked", namespace=stream.metadata.namespace, imagestream=stream.metadata.name, tags=len(tickets))

    def _eased(self, memory: _Memory, due: Due, ticket: Ticket, *, is_virtual: bool) -> Ticket:
        """The ticket, content with what an import request was answered, if there was one. Who asked for the repository
        was told of its tags, too: of those that only it gives, and that were never tried since.
        """
        since = memory.foreseen.pop(due.tag, None)
        if is_virtual and due.why == "source":
            since = since or memory.listed
        hinted = memory.hinted.get(due.tag)
        # Whoever asks by name, or at a polling slot, means the registry as it is now; so does who saw it move since.
        if ticket.request or ticket.slot or (since and hinted and hinted >= since):
            since = None
        if due.tag == REPOSITORY:
            memory.listed = since
        age = (self._clock() - since).total_seconds() if since else _FRESH + 1
        return replace(ticket, fresh=max(age, _INSTANT)) if age <= _FRESH else ticket

    def forget(self, key: ObjectKey) -> None:
        """The stream is gone."""
        self._memory.pop(key, None)
        self._foreseen.pop(key, None)
        self._index(key, frozenset())
        self._lanes.forget(key)

    def close(self) -> None:
        """Nothing is to be imported by this any more: what is under way is withdrawn."""
        for key in self._memory:
            self._lanes.forget(key)
        self._memory.clear()
        self._foreseen.clear()

    def use(self, rules: ImportRules) -> None:
        """Go by other rules from the next round of each stream on; what is under way by the old ones is withdrawn then.

        Every stream is to be enqueued after this.
        """
        for memory in self._memory.values():
            memory.is_outdated = memory.is_outdated or rules != self._rules
            if rules.status_budget != self._rules.status_budget:
                memory.small = None
        self._rules = rules

    def under_way(self, key: ObjectKey) -> frozenset[str]:
        """The stream's tags (or REPOSITORY) that are being asked for, or whose answer is not in its status yet."""
        memory = self._memory.get(key)
        if memory is None:
            return frozenset()
        return memory.asking | {tag for tag, each in memory.progress.items() if each.asked}

    def followers(self, key: ObjectKey) -> frozenset[ObjectKey]:
        """The streams that follow a tag of this one, or have an image of it; to be enqueued when it changes."""
        return frozenset(self._followers.get(key, ()))

    def overdue(self) -> Mapping[str, int]:
        """How many tags are overdue at each host: their polling slot began more than an interval ago."""
        now, found = self._clock(), Counter[str]()
        for memory in self._memory.values():
            found += overdue(memory.progress, memory.interval, now)
        return found

    def _index(self, key: ObjectKey, followed: frozenset[ObjectKey]) -> None:
        before = self._followed.pop(key, frozenset())
        if followed:
            self._followed[key] = followed
        for gone in before - followed:
            self._followers[gone].discard(key)
            if not self._followers[gone]:
                del self._followers[gone]
        for new in followed - before:
            self._followers.setdefault(new, set()).add(key)

    def oldest_unserved(self) -> datetime | None:
        """The begin of the oldest polling slot that is still to be served; None when none is.

        A slot counts for an hour, or for the stream's interval if that is longer: a stream that cannot be written, or a
        registry that stays away, must not make a successor ask for everything that was served since.
        """
        now, unserved = self._clock(), list[int]()
        for memory in self._memory.values():
            since = (now - max(_SLOT_COUNTS, memory.interval)).timestamp()
            unserved += [slot for tag in memory.progress.values() if (slot := tag.unserved) >= since]
        return datetime.fromtimestamp(min(unserved), UTC) if unserved else None

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


def _spec_size(stream: ImageStream) -> int:
    """How many bytes the spec has."""
    return len(encode(stream.spec)) if stream.spec else 0


def _later(one: Mapping[str, datetime], other: Mapping[str, datetime]) -> dict[str, datetime]:
    """The moments of both, by tag: the later where both have one. Requests are not carried out in their order."""
    return {**one, **{tag: max(moment, one.get(tag, moment)) for tag, moment in other.items()}}


def _recent(moments: Mapping[str, datetime], now: datetime) -> dict[str, datetime]:
    """Those by which an answer may still be taken."""
    return {tag: moment for tag, moment in moments.items() if moment > now - timedelta(seconds=_FRESH)}


def _noticed_by(ticket: Ticket | None) -> str:
    if ticket is not None and ticket.request:
        return "request"
    is_poll = ticket is not None and isinstance(ticket.question, Lookup) and ticket.question.known is not None
    return "poll" if is_poll else "spec"


async def _no_right(_namespace: str, _key: ObjectKey) -> bool:
    """Nobody can say who may pull what: then nobody may."""
    return False


def _count(answers: Iterable[Answer]) -> None:
    for answer in answers:
        outcome, ticket = answer.outcome, answer.ticket
        metrics.imports.labels(type(outcome).__name__.lower()).inc()
        host = metrics.registry_label(ticket.question.reference.host)
        if isinstance(outcome, Failed):
            metrics.import_errors.labels(host, outcome.reason).inc()
        if ticket.slot and not isinstance(outcome, Deferred):
            metrics.due_lag.labels(host).observe(max(0.0, answer.at.timestamp() - ticket.slot))
