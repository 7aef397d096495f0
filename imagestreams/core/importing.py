"""Importing, decided: which tags are due, what a registry is asked for them, and what an answer means for the status.

Every rule of importing is in this file, and nothing in it waits. One round of a stream is

    update = merge_status(stream, answers, ...)     # what has arrived becomes history, conditions, Ready
    plan   = plan_import(update.stream, ...)        # what is to be asked now, and when to look again

Between rounds only the status in the cluster counts. `Progress` is memory that may be lost: a restart asks again what
was under way, and nothing else.

The rules are those of OpenShift's importer where those help its users (tag events: newest first, in-place rewrites,
history kept when `spec` loses a tag), and differ where they hurt: a source is seen to change by content and not by
generation, transient failures are retried, one bad tag never holds up its siblings, and history has a limit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import assert_never

from imagestreams.core import stream as api
from imagestreams.core.duration import parse_duration, show_duration
from imagestreams.core.keychain import Entry, candidates
from imagestreams.core.lookup import Answer, Deferred, Failed, ImportMode, Lookup, Resolved, Served, Source, Ticket
from imagestreams.core.manifest import Platform
from imagestreams.core.policy import BLOCKED, NOT_ALLOWED, Policy, Refused, Transport, transport_for
from imagestreams.core.reference import ImageReference, InvalidReference, is_digest, quoted
from imagestreams.core.stream import ImageStream, TagEvent, TagReference

TRANSIENT_REASONS = frozenset({"TooManyRequests", "Unavailable", "Unreachable", "InvalidAnswer", "InternalError"})
"""Reasons worth a retry that a restarted controller finds in conditions: the `retryable` of the answer itself is gone
by then.
"""

REFUSALS = frozenset(
    {BLOCKED, NOT_ALLOWED, "Refused", "InvalidImageReference", "InvalidPlatform", "InvalidSource", "NotSupported"}
)
"""Reasons that settings or a release give, not a registry. A restart may have brought others: a tag that failed for one
of these and may be asked for now is asked once more.
"""

_WORTH_A_RETRY = TRANSIENT_REASONS | REFUSALS

_NAMED_TAGS = 5  # how many tags a message or the TAGS column names before it counts the rest


@dataclass(frozen=True, slots=True)
class ImportRules:
    """What an administrator decides about importing; see `imagestreams.settings` for the meaning and the defaults."""

    policy: Policy = field(default_factory=lambda: Policy(hosts={}))
    import_mode: ImportMode = ImportMode.PRESERVE_ORIGINAL
    legacy_platform: Platform | None = None
    interval: timedelta = timedelta(minutes=15)
    min_interval: timedelta = timedelta(minutes=1)
    refresh_floor: timedelta = timedelta(seconds=1)
    retry_base: timedelta = timedelta(seconds=10)
    retry_cap: timedelta = timedelta(minutes=15)
    history_limit: int = 10
    status_budget: int = 1 << 20


# --- what a spec tag wants --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AskRegistry:
    """The tag is looked up at a registry."""

    source: Source
    reference: ImageReference
    transport: Transport


@dataclass(frozen=True, slots=True)
class FollowTag:
    """The tag has what another tag of its stream has."""

    source: Source
    tag: str


@dataclass(frozen=True, slots=True)
class RecordReference:
    """The pull spec itself is recorded, unasked (`reference: true`)."""

    source: Source
    pull_spec: str


@dataclass(frozen=True, slots=True)
class Refuse:
    """The tag cannot be imported as it stands; a change of the spec or of the settings is needed."""

    source: Source
    reason: str
    message: str


Wish = AskRegistry | FollowTag | RecordReference | Refuse


def wish_of(stream: ImageStream, tag: TagReference, rules: ImportRules) -> Wish | None:
    """What is to be done for a spec tag, or None for one without a source: such a tag is fed by pushes only."""
    source = tag.source(stream.metadata.namespace, rules.import_mode)
    if source is None:
        return None
    match source.kind:
        case "DockerImage":
            return _wish_for_image(source, rules.policy)
        case "ImageStreamTag" if not source.namespace and (followed := _own_tag(stream, source.name)):
            return FollowTag(source, followed)
        case "ImageStreamTag":
            return Refuse(
                source,
                "NotSupported",
                f"{quoted(source.name)} of another image stream cannot be followed; name its image as a DockerImage",
            )
        case "ImageStreamImage":
            return Refuse(
                source,
                "NotSupported",
                f"the ImageStreamImage {quoted(source.name)} cannot be followed; name it by digest as a DockerImage",
            )
        case _:
            return Refuse(
                source,
                "InvalidSource",
                f"from.kind {quoted(source.kind)} is none of DockerImage, ImageStreamTag and ImageStreamImage",
            )


def _wish_for_image(source: Source, policy: Policy) -> Wish:
    try:
        reference = ImageReference.parse(source.name)
    except InvalidReference as error:
        return Refuse(source, "InvalidImageReference", str(error))
    if not reference.name:
        return Refuse(
            source,
            "InvalidImageReference",
            f"{quoted(source.name)} names a registry, not an image; add a repository, as in {source.name}/app:tag",
        )
    if source.reference:
        return RecordReference(source, source.name)
    try:
        _ = source.platform and Platform.parse(source.platform)
    except ValueError as error:
        return Refuse(source, "InvalidPlatform", str(error))
    transport = transport_for(policy, reference, insecure=source.insecure)
    if isinstance(transport, Refused):
        return Refuse(source, transport.reason, transport.message)
    return AskRegistry(source, reference, transport)


def _own_tag(stream: ImageStream, name: str) -> str | None:
    """The tag of this very stream that an ImageStreamTag source names ("tag" or "stream:tag"), or None when it names
    another stream.
    """
    owner, colon, tag = name.rpartition(":")
    return (tag or "latest") if name and (not colon or owner == stream.metadata.name) else None


# --- requests by annotation -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Request:
    """A wish in an annotation, `"<nonce> [TAG ...]"`; no tags means all. `value` is the annotation's whole text."""

    value: str
    tags: frozenset[str]

    def names(self, tag: str) -> bool:
        return not self.tags or tag in self.tags


def parse_request(value: str | None) -> Request | None:
    words = (value or "").split()
    return Request(value or "", frozenset(words[1:])) if words else None


def open_refresh(stream: ImageStream) -> Request | None:
    """The refresh request that is not handled yet."""
    return _open(stream.annotations.refresh, _handled(stream).refresh)


def _asked_for(request: Request | None, wishes: Mapping[str, Wish | None]) -> frozenset[str]:
    """The tags that a request has looked up at a registry. A tag that follows another means the one at the end."""
    asked = set()
    for tag in wishes if request else ():
        name, wish, passed = tag, wishes[tag], {tag}
        while isinstance(wish, FollowTag) and wish.tag not in passed:
            name = wish.tag
            passed.add(name)
            wish = wishes.get(name)
        if request and request.names(tag) and isinstance(wish, AskRegistry):
            asked.add(name)
    return frozenset(asked)


def _open_forget(stream: ImageStream) -> Request | None:
    request = _open(stream.annotations.forget, _handled(stream).forget)
    return request if request and request.tags else None


def _open(value: str | None, handled: str | None) -> Request | None:
    request = parse_request(value)
    return request if request and request.value != handled else None


def _handled(stream: ImageStream) -> api.Handled:
    return (stream.status and stream.status.handled) or api.Handled()


# --- time -------------------------------------------------------------------------------------------------------------


_LONGEST = timedelta(days=365)  # beyond it an interval is the same as none, and too much of it is no time at all


def interval_of(stream: ImageStream, rules: ImportRules) -> timedelta:
    """The stream's own polling interval (annotation), not below the floor; the installation's where none is set, or
    none that can be read.
    """
    try:
        wanted = parse_duration(stream.annotations.interval or "")
    except ValueError:
        return rules.interval
    return min(max(wanted, rules.min_interval), max(_LONGEST, rules.min_interval))


def _interval_problem(stream: ImageStream, rules: ImportRules) -> str:
    """What is to be said of the annotation, or nothing."""
    text = stream.annotations.interval
    if text is None:
        return ""
    used = show_duration(interval_of(stream, rules))
    try:
        is_short = parse_duration(text) < rules.min_interval
    except ValueError as error:
        return f"; the annotation {api.INTERVAL_ANNOTATION} {quoted(text)} {error}; {used} is used"
    return f"; the annotation {api.INTERVAL_ANNOTATION} is below the floor; {used} is used" if is_short else ""


def slot_begin(now: datetime, repository: str, interval: timedelta) -> int:
    """The first second (Unix time) of the polling slot that `now` falls in.

    Time is cut into slots of one interval, shifted by a stable hash of "host/path": all tags of a repository in all
    streams are due together, and repositories spread evenly over the interval. The first instant of a slot belongs to
    it.
    """
    length = max(1, int(interval.total_seconds()))
    phase = _stable_hash(repository) % length
    return (int(now.timestamp()) - phase) // length * length + phase


def retry_delay(failures: int, rules: ImportRules, seed: str) -> timedelta:
    """How long to wait after so many failures in a row: doubling, capped, and spread by up to a fifth so that streams
    do not march in step.
    """
    doubled = rules.retry_base * (1 << min(max(failures, 1) - 1, 16))
    return min(doubled, rules.retry_cap) * (0.8 + 0.2 * _fraction(f"{seed}#{failures}"))


def _fraction(text: str) -> float:
    """A stable number from 0 to below 1, evenly spread over texts."""
    return _stable_hash(text) % 1000 / 1000


def _stable_hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


# --- what is remembered between rounds --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TagProgress:
    """What this process knows of a tag beyond its status. Lost at a restart, without harm.

    `asked` is the ticket that is under way; `slot` the begin of the last slot served, `owed` that of one whose question
    was deferred; `answered` the last refresh request that got its answer; `is_hinted` says that somebody saw the tag
    move since it was last asked for; `no_room` that its answer did not fit into the status.
    """

    source: Source
    asked: Ticket | None = None
    slot: int = 0
    owed: int = 0
    answered: str = ""
    answered_at: datetime | None = None
    failures: int = 0
    retry_at: datetime | None = None
    deferred_until: datetime | None = None
    is_hinted: bool = False
    no_room: bool = False

    def after(self, answer: Answer, rules: ImportRules) -> TagProgress:
        """This, once the answer to its ticket has been written into the status."""
        ticket = answer.ticket
        settled = replace(
            self,
            asked=None,
            slot=max(self.slot, ticket.slot, self.owed),
            owed=0,
            answered=ticket.request or self.answered,
            answered_at=answer.at,
            failures=0,
            retry_at=None,
            deferred_until=None,
            no_room=False,
        )
        match answer.outcome:
            case Resolved():
                return settled
            case Failed(retryable=retryable):
                failures = self.failures + 1
                delay = retry_delay(failures, rules, f"{ticket.uid}/{ticket.tag}")
                return replace(settled, failures=failures, retry_at=answer.at + delay if retryable else None)
            case Deferred(until=until):
                # Whatever it was asked for, it is still wanted. A time that has passed already must not spin.
                again = max(until, answer.at + rules.refresh_floor)
                return replace(self, asked=None, retry_at=again, deferred_until=again, owed=max(self.owed, ticket.slot))
            case _:
                assert_never(answer.outcome)

    @property
    def unserved(self) -> int:
        """The begin (Unix time) of the polling slot that is still to be served, 0 when none is."""
        asked = self.asked.slot if self.asked else 0
        return min((slot for slot in (asked, self.owed) if slot > self.slot), default=0)


Progress = Mapping[str, TagProgress]
"""By spec tag."""


# --- plan -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Due:
    """A tag to be asked for now, and why: "request", "hint", "source", "retry" or "slot"."""

    tag: str
    wish: AskRegistry
    why: str
    request: str
    slot: int
    known: Served | None


@dataclass(frozen=True, slots=True)
class Plan:
    """What to ask now; `look_again` is when the next tag falls due (aware), or None when only a change or an answer can
    make one due.
    """

    due: tuple[Due, ...]
    progress: Progress
    look_again: datetime | None


def plan_import(
    stream: ImageStream,
    progress: Progress,
    *,
    now: datetime,
    rules: ImportRules,
    hints: frozenset[str] = frozenset(),
    watermark: datetime | None = None,
) -> Plan:
    """Decide which tags are asked for at `now`.

    Args:
        stream: as it is in the cluster, status included.
        progress: what earlier rounds of this process left.
        now: aware.
        rules: the administrator's.
        hints: tags that somebody says have moved; asked for once more.
        watermark: slots that began before it were served by an earlier process. None: all up to now were.
    """
    request, interval = open_refresh(stream), interval_of(stream, rules)
    wishes = {tag.name: wish_of(stream, tag, rules) for tag in stream.spec_tags}
    requested = _asked_for(request, wishes)
    recorded = {tag.tag: tag for tag in (stream.status and stream.status.tags) or ()}
    due: list[Due] = []
    kept: dict[str, TagProgress] = {}
    moments: list[datetime] = []
    for tag in stream.spec_tags:
        wish = wishes[tag.name]
        if not isinstance(wish, AskRegistry):
            continue
        wanted = request if tag.name in requested else None
        question = _Question(stream.metadata.uid, tag, wish, wanted, recorded.get(tag.name))
        memory = progress.get(tag.name)
        if memory is None or memory.source != wish.source:
            memory = question.first_memory(memory, now, interval, rules, watermark)
        if tag.name in hints:
            memory = replace(memory, is_hinted=True)
        kept[tag.name] = memory
        why, at = question.next_time(memory, now, interval, rules)
        if why and at <= now:
            due.append(question.due(memory, why, now, interval))
        elif why:
            moments.append(at)
    return Plan(tuple(due), kept, min(moments, default=None))


@dataclass(frozen=True, slots=True)
class _Question:
    """One tag in a plan; `recorded` is what the status says of it."""

    uid: str
    tag: TagReference
    wish: AskRegistry
    request: Request | None
    recorded: api.StatusTag | None

    @property
    def is_polled(self) -> bool:
        """A digest never changes, so a source by digest is imported once, scheduled or not."""
        return self.tag.is_scheduled and not self.wish.reference.digest

    @property
    def observed(self) -> api.Observed | None:
        """The last attempt, if it was made at the tag's present source."""
        return self.recorded.observed_at(self.wish.source) if self.recorded else None

    def first_memory(
        self,
        old: TagProgress | None,
        now: datetime,
        interval: timedelta,
        rules: ImportRules,
        watermark: datetime | None,
    ) -> TagProgress:
        """Memory for a tag that this process has not seen with this source. After a restart, retries are spread and
        served slots stay served.
        """
        begin = slot_begin(now, self.wish.reference.repository, interval)
        unserved = old is None and watermark is not None and begin >= watermark.timestamp()
        memory = TagProgress(
            self.wish.source, slot=begin - 1 if unserved else begin, answered=old.answered if old else ""
        )
        outcome = self.recorded.outcome if self.recorded and self.observed else None
        if outcome is None or outcome.status != "False" or outcome.reason not in _WORTH_A_RETRY:
            return memory
        # Retries double their distance, so the next would have come about as long from now as the tag has failed for.
        window = rules.retry_base
        if outcome.reason in TRANSIENT_REASONS and outcome.last_transition_time:
            window = min(max(now - outcome.last_transition_time, window), max(rules.retry_cap, window))
        failures = int(window / rules.retry_base).bit_length() if rules.retry_base else 1
        return replace(
            memory, failures=failures, retry_at=now + window * _fraction(f"{self.uid}/{self.tag.name}#restart")
        )

    def next_time(
        self, memory: TagProgress, now: datetime, interval: timedelta, rules: ImportRules
    ) -> tuple[str, datetime]:
        """Why and when the tag is to be asked for next; ("", now) while an equal question is under way or nothing will
        make it due.
        """
        moments: list[tuple[datetime, str]] = []
        under_way = memory.asked
        soonest = max(memory.answered_at + rules.refresh_floor, now) if memory.answered_at else now
        if (
            self.request
            and memory.answered != self.request.value
            and not (under_way and under_way.request == self.request.value)
        ):
            moments.append((soonest, "request"))
        if under_way is None:
            if memory.is_hinted:
                moments.append((soonest, "hint"))
            if self.observed is None:
                moments.append((self._next_first(memory, now, interval, rules), "source"))
            if memory.retry_at:
                moments.append((memory.retry_at, "retry"))
            if self.is_polled:
                length = max(1, int(interval.total_seconds()))
                begin = slot_begin(now, self.wish.reference.repository, interval)
                moments.append((datetime.fromtimestamp(begin if begin > memory.slot else begin + length, UTC), "slot"))
        if not moments:
            return "", now
        at, why = min(moments)
        return why, max(at, memory.deferred_until) if memory.deferred_until else at

    def _next_first(self, memory: TagProgress, now: datetime, interval: timedelta, rules: ImportRules) -> datetime:
        """When to ask for a tag whose present source the status does not know: now, unless it was asked for already and
        the answer found no room, or was removed by somebody. Asking at once would then never end.
        """
        if memory.answered_at is None:
            return now
        return max(now, memory.answered_at + (interval if memory.no_room else rules.retry_base))

    def due(self, memory: TagProgress, why: str, now: datetime, interval: timedelta) -> Due:
        request = self.request.value if self.request and memory.answered != self.request.value else ""
        begin = slot_begin(now, self.wish.reference.repository, interval) if self.is_polled else 0
        # A question in the middle of a slot that was served is not a late poll.
        return Due(self.tag.name, self.wish, why, request, begin if begin > memory.slot else 0, self._known())

    def _known(self) -> Served | None:
        """What an unchanged tag is answered with by one HEAD: only what the newest item still says counts, since others
        may write items too.
        """
        newest = self.recorded.newest if self.recorded else None
        served, image = (self.observed and self.observed.digest) or "", (newest and newest.image) or ""
        if newest is None or not is_digest(served) or not is_digest(image):
            return None
        if self.wish.source.mode is ImportMode.PRESERVE_ORIGINAL and image != served:
            return None
        if newest.docker_image_reference != str(self.wish.reference.pinned(image)):
            return None
        return Served(served, image)


def tickets_of(
    stream: ImageStream, plan: Plan, entries: Iterable[Entry], rules: ImportRules
) -> tuple[tuple[Ticket, ...], Progress]:
    """The plan as questions for the lanes, with the credentials that the namespace's `entries` give, and the progress
    once they are asked.
    """
    secrets = tuple(entries)
    tickets = []
    progress = dict(plan.progress)
    for due in plan.due:
        source, reference = due.wish.source, due.wish.reference
        prefer = Platform.parse(source.platform) if source.platform else rules.legacy_platform
        lookup = Lookup(
            reference=reference,
            transport=due.wish.transport,
            credentials=candidates(secrets, reference) if due.wish.transport.credentials else (),
            mode=source.mode,
            prefer=prefer if source.mode is ImportMode.LEGACY else None,
            known=due.known,
        )
        ticket = Ticket(stream.metadata.uid, due.tag, source, due.request, due.slot, lookup)
        tickets.append(ticket)
        progress[due.tag] = replace(
            progress[due.tag], asked=ticket, retry_at=None, deferred_until=None, is_hinted=False
        )
    return tuple(tickets), progress


# --- merge ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TagMoved:
    """A tag points to a new image; `old` is empty at its first import. Both are pull specs."""

    tag: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class TagFailed:
    """A tag began to fail, or fails for another reason than before."""

    tag: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class TagRecovered:
    """A tag that failed is imported again, unchanged."""

    tag: str


Transition = TagMoved | TagFailed | TagRecovered


@dataclass(frozen=True, slots=True)
class Update:
    """What a round makes of a stream: its status to be, whether that must be written, what people should hear of, and
    the memory after the write.
    """

    stream: ImageStream
    is_changed: bool
    transitions: tuple[Transition, ...]
    progress: Progress


def merge_status(
    stream: ImageStream, answers: Iterable[Answer], progress: Progress, *, now: datetime, rules: ImportRules
) -> Update:
    """Decide what the answers, and the tags that need none, make of the stream's status.

    An answer counts only for the stream (uid) and the source that it was asked for: for another one it is dropped.
    `now` (aware) dates events and conditions; the status keeps whole seconds. Nothing is changed when nothing happened,
    so that an idle poll writes nothing.
    """
    merge = _Merge(stream, dict(progress), api.whole_seconds(now), rules)
    merge.forget()
    merge.take(answers)
    merge.settle_unasked()
    status = merge.status()
    return Update(stream.with_status(status), merge.is_worth_writing(status), tuple(merge.transitions), merge.progress)


class _Merge:
    """The working copy of one merge; `merge_status` tells the order of its steps."""

    def __init__(
        self, stream: ImageStream, progress: dict[str, TagProgress], now: datetime, rules: ImportRules
    ) -> None:
        self._stream, self._now, self._rules = stream, now, rules
        self._old = stream.status or api.Status()
        self._tags: dict[str, api.StatusTag] = {tag.tag: tag for tag in self._old.tags or ()}
        self._wishes = {tag.name: wish_of(stream, tag, rules) for tag in stream.spec_tags}
        self._forgotten: str | None = None
        self._crowded: set[str] = set()
        self._awaited: set[str] = set()  # tags that follow one whose first answer has not come
        self.progress = progress
        self.transitions: list[Transition] = []

    def forget(self) -> None:
        """Drop the history of tags that a forget request names and spec no longer has."""
        request = _open_forget(self._stream)
        if request is None:
            return
        for tag in request.tags - self._wishes.keys():
            self._tags.pop(tag, None)
        self._forgotten = request.value

    def take(self, answers: Iterable[Answer]) -> None:
        for answer in answers:
            tag, wish = answer.ticket.tag, self._wishes.get(answer.ticket.tag)
            if not isinstance(wish, AskRegistry) or wish.source != answer.ticket.source:
                continue
            if answer.ticket.uid != self._stream.metadata.uid:
                continue
            memory = self.progress.get(tag) or TagProgress(wish.source)
            self.progress[tag] = memory.after(answer, self._rules)
            match answer.outcome:
                case Resolved(served=served):
                    pull_spec = str(wish.reference.pinned(served.image))
                    self._succeed(tag, wish.source, served.digest, pull_spec, served.image)
                case Failed(reason=reason, message=message):
                    self._fail(tag, wish.source, reason, message)
                case Deferred():
                    pass  # nothing is known yet: the status stays
                case _:
                    assert_never(answer.outcome)

    def settle_unasked(self) -> None:
        """Decide the tags that no registry is asked for; those that follow others last, each after the one that it
        follows.
        """
        for tag, wish in self._wishes.items():
            match wish:
                case RecordReference(source=source, pull_spec=pull_spec):
                    self._succeed(tag, source, "", pull_spec, "")
                case Refuse(source=source, reason=reason, message=message):
                    self._fail(tag, source, reason, message)
                case _:
                    pass
        settled: set[str] = set()
        for tag, wish in self._wishes.items():
            if isinstance(wish, FollowTag):
                self._follow(tag, wish, settled)

    def _follow(self, tag: str, wish: FollowTag, settled: set[str]) -> None:
        """Settle the chain of tags that starts here, from its far end. Tags that follow each other in a circle fail;
        one that only leads to them has what the tag that it follows had before.
        """
        chain: dict[str, FollowTag] = {}
        current: Wish | None = wish
        while isinstance(current, FollowTag) and tag not in settled:
            chain[tag] = current
            settled.add(tag)
            tag = current.tag
            current = self._wishes.get(tag)
        members = list(chain)
        circle = members[members.index(tag) :] if tag in chain else []
        for member in circle:
            through = f"tag {quoted(member)} follows itself through {quoted(chain[member].tag)}"
            self._fail(member, chain[member].source, "CircularReference", through)
        for member in reversed(members[: len(members) - len(circle)]):
            self._copy(member, chain[member])

    def _copy(self, tag: str, wish: FollowTag) -> None:
        followed = self._tags.get(wish.tag)
        newest = followed.newest if followed else None
        if newest is not None:
            self._succeed(tag, wish.source, newest.image or "", newest.docker_image_reference, newest.image or "")
        elif self._is_awaited(wish.tag):
            self._awaited.add(tag)
        else:
            self._fail(tag, wish.source, "TagNotFound", f"tag {quoted(wish.tag)} of this stream has no image yet")

    def _is_awaited(self, tag: str) -> bool:
        """Whether an answer for the tag's present source, or for that of the tag that it follows, is still to come."""
        wish, recorded = self._wishes.get(tag), self._tags.get(tag)
        if isinstance(wish, AskRegistry):
            return recorded is None or recorded.observed_at(wish.source) is None
        return tag in self._awaited

    def _succeed(self, tag: str, source: Source, digest: str, pull_spec: str, image: str) -> None:
        old = self._tags.get(tag) or api.StatusTag(tag=tag)
        newest = old.newest
        event = TagEvent(
            created=self._now,
            docker_image_reference=pull_spec,
            image=image,
            generation=self._stream.metadata.generation,
        )
        # That a spec has a new generation says nothing of a tag whose source is as it was: polling it writes nothing.
        is_same = newest is not None and old.observed_at(source) is not None and _is_same(newest, event)
        items, moved = (old.items or (), False) if is_same else record_event(old.items or (), event)
        if moved:
            self.transitions.append(TagMoved(tag, newest.docker_image_reference if newest else "", pull_spec))
        elif old.outcome and old.outcome.status == "False":
            self.transitions.append(TagRecovered(tag))
        self._tags[tag] = api.StatusTag(
            tag=tag,
            items=items[: self._rules.history_limit],
            conditions=(self._condition(old, source, "True", "Imported", None),),
            observed=self._observed(old, source, digest),
        )

    def _fail(self, tag: str, source: Source, reason: str, message: str) -> None:
        old = self._tags.get(tag) or api.StatusTag(tag=tag)
        before = old.outcome
        if before is None or before.status != "False" or before.reason != reason or old.observed_at(source) is None:
            self.transitions.append(TagFailed(tag, reason, message))
        self._tags[tag] = api.StatusTag(
            tag=tag,
            items=old.items,
            conditions=(self._condition(old, source, "False", reason, message),),
            observed=old.observed_at(source) or self._observed(old, source, ""),
        )

    def _observed(self, old: api.StatusTag, source: Source, digest: str) -> api.Observed:
        before = old.observed_at(source)
        generation = before.generation if before else self._stream.metadata.generation
        return api.Observed.of(source, generation=generation, digest=digest)

    def _condition(
        self, old: api.StatusTag, source: Source, status: str, reason: str, message: str | None
    ) -> api.TagCondition:
        before = old.outcome
        if (
            before
            and old.observed_at(source) is not None
            and (before.status, before.reason, before.message) == (status, reason, message)
        ):
            return before
        since = before.last_transition_time if before and before.status == status else self._now
        return api.TagCondition(
            type=api.IMPORT_SUCCESS,
            status=status,
            reason=reason,
            message=message,
            last_transition_time=since or self._now,
            generation=self._stream.metadata.generation,
        )

    def status(self) -> api.Status:
        """The whole status; entries sorted by tag, those with neither items nor conditions dropped."""
        tags = self._within_budget(
            tuple(
                self._tags[name] for name in sorted(self._tags) if self._tags[name].items or self._tags[name].conditions
            )
        )
        forgotten = self._forgotten or _handled(self._stream).forget
        handled = api.Handled(refresh=self._handled_refresh(), forget=forgotten)
        return api.Status(
            docker_image_repository=self._old.docker_image_repository,
            public_docker_image_repository=self._old.public_docker_image_repository,
            observed_generation=self._stream.metadata.generation,
            conditions=self._conditions(tags),
            tags=tags,
            handled=handled if handled != api.Handled() else None,
            summary=self._summary(tags),
        )

    def _handled_refresh(self) -> str | None:
        """The present request, once every tag that it names and that can be asked for has its answer; else the one
        handled before.
        """
        handled = _handled(self._stream).refresh
        request = open_refresh(self._stream)
        if request is None:
            return handled
        is_answered = all(
            (memory := self.progress.get(tag)) is not None and memory.answered == request.value
            for tag in _asked_for(request, self._wishes)
        )
        return request.value if is_answered else handled

    def _within_budget(self, tags: tuple[api.StatusTag, ...]) -> tuple[api.StatusTag, ...]:
        """Trim the oldest history, then refuse the tags that are new, until the object fits etcd. The newest item of a
        recorded tag is never dropped.
        """
        size = sum(len(api.encode(tag)) + 1 for tag in tags)
        if size <= self._rules.status_budget:
            return tags
        kept = {tag.tag: tag for tag in tags}
        epoch = datetime.fromtimestamp(0, UTC)
        history = sorted(
            ((tag.items or ())[depth].created or epoch, tag.tag, depth)
            for tag in tags
            for depth in range(1, len(tag.items or ()))
        )
        # Items are newest first and sorted by age here, so that those of one tag come off its end.
        for _, name, _ in history:
            if size <= self._rules.status_budget:
                break
            tag = kept[name]
            items = tag.items or ()
            size -= len(api.encode(items[-1])) + 1
            kept[name] = _with_items(tag, items[:-1])
        known = {tag.tag for tag in self._old.tags or ()}
        for name in sorted(kept.keys() - known, reverse=True):
            if size <= self._rules.status_budget:
                break
            size -= len(api.encode(kept.pop(name))) + 1
            self._refuse_room(name)
        return tuple(kept[name] for name in sorted(kept))

    def _refuse_room(self, tag: str) -> None:
        """What is not recorded has not happened: nobody hears of it, and it is asked for again later."""
        self._crowded.add(tag)
        self.transitions = [transition for transition in self.transitions if transition.tag != tag]
        if tag in self.progress:
            self.progress[tag] = replace(self.progress[tag], no_room=True)

    def _conditions(self, tags: tuple[api.StatusTag, ...]) -> tuple[api.Condition, ...]:
        status, reason, message = self._readiness({tag.tag: tag for tag in tags})
        message += _interval_problem(self._stream, self._rules)
        before = self._old.ready
        generation = self._stream.metadata.generation
        since = before.last_transition_time if before and before.status == status else self._now
        ready = api.Condition(
            type=api.READY,
            status=status,
            reason=reason,
            message=message,
            last_transition_time=since,
            observed_generation=generation,
        )
        others = tuple(condition for condition in self._old.conditions or () if condition.type != api.READY)
        return (ready, *others)

    def _readiness(self, tags: Mapping[str, api.StatusTag]) -> tuple[str, str, str]:
        wishes = {name: wish for name, wish in self._wishes.items() if wish is not None}
        failing: list[str] = []
        waiting: list[str] = []
        for name, wish in wishes.items():
            tag = tags.get(name)
            if tag is None or tag.observed_at(wish.source) is None:
                waiting.append(name)
            elif tag.outcome is None or tag.outcome.status != "True":
                failing.append(name)
        crowded = [name for name in waiting if self._has_no_room(name)]
        if crowded:
            return (
                "False",
                "StatusTooLarge",
                f"no room is left to record {_listed(crowded)}; remove tags or split the stream",
            )
        if failing:
            return "False", "ImportFailed", f"not imported: {_listed(failing)}; the conditions of status.tags say why"
        if waiting:
            return "False", "Importing", f"being imported: {_listed(waiting)}"
        if self._stream.spec and self._stream.spec.docker_image_repository:
            return (
                "False",
                "NotSupported",
                "spec.dockerImageRepository is not imported; name the tags that you need in spec.tags",
            )
        if not wishes:
            return "True", "NothingToImport", "no tag of this stream has a source"
        return "True", "Imported", f"all tags with a source are imported: {_listed(wishes)}"

    def _has_no_room(self, tag: str) -> bool:
        """Whether the tag's answer was refused for want of room, in this merge or in one before."""
        wish, memory = self._wishes[tag], self.progress.get(tag)
        return tag in self._crowded or bool(wish and memory and memory.no_room and memory.source == wish.source)

    def _summary(self, tags: tuple[api.StatusTag, ...]) -> api.Summary:
        names = {tag.tag for tag in tags if tag.items} | self._wishes.keys()
        created = [tag.newest.created for tag in tags if tag.newest and tag.newest.created]
        sourced = [tag for tag in self._stream.spec_tags if self._wishes[tag.name] is not None]
        scheduled = sum(tag.is_scheduled for tag in sourced)
        return api.Summary(
            tags=_listed(names) or None,
            updated=max(created, default=None),
            scheduled=f"{scheduled}/{len(sourced)}",
        )

    def is_worth_writing(self, status: api.Status) -> bool:
        """Whether anything happened. That a first answer is still awaited is not news: it is written with the answer,
        which saves a write for each stream.
        """
        old = self._old
        if status == old:
            return False
        only_waiting = (
            status.ready is not None
            and status.ready.reason == "Importing"
            and not (old.ready and old.ready.reason == "Importing")
        )
        return not only_waiting or (status.tags or (), status.handled) != (old.tags or (), old.handled)


def record_event(items: tuple[TagEvent, ...], event: TagEvent) -> tuple[tuple[TagEvent, ...], bool]:
    """Put a tag event on top of a history (newest first), and say whether the tag moved.

    Only an event that differs from the newest in both pull spec and image is a new one; a difference in one of them
    corrects the newest in place and keeps its date, and an equal one of a later generation takes that generation.
    """
    if not items:
        return (event,), True
    newest, rest = items[0], items[1:]
    if _is_same(newest, event):
        if (newest.generation or 0) >= (event.generation or 0):
            return items, False
        return (_corrected(newest, event), *rest), False
    same_reference = newest.docker_image_reference == event.docker_image_reference
    if same_reference or (event.image and newest.image == event.image):
        return (_corrected(newest, event), *rest), False
    return (event, *items), True


def _is_same(newest: TagEvent, event: TagEvent) -> bool:
    return (newest.docker_image_reference, newest.image or "") == (event.docker_image_reference, event.image or "")


def _corrected(newest: TagEvent, event: TagEvent) -> TagEvent:
    return TagEvent(
        created=newest.created,
        docker_image_reference=event.docker_image_reference,
        image=event.image,
        generation=event.generation,
    )


def _with_items(tag: api.StatusTag, items: tuple[TagEvent, ...]) -> api.StatusTag:
    return api.StatusTag(tag=tag.tag, items=items, conditions=tag.conditions, observed=tag.observed)


def _listed(names: Iterable[str]) -> str:
    ordered = sorted(names)
    shown = ", ".join(ordered[:_NAMED_TAGS])
    return f"{shown} and {len(ordered) - _NAMED_TAGS} more" if len(ordered) > _NAMED_TAGS else shown
