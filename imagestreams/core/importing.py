"""Importing, decided: when a tag is asked for, and what a registry is asked then.

Importing is decided in three places, and nothing in them waits: `core.wish` says what a stream asks for, this module
when a registry is asked, and `core.merging` what an answer means for the status. One round of a stream is

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
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import assert_never

from imagestreams.core import stream as api
from imagestreams.core.flap import Steady
from imagestreams.core.keychain import Entry, candidates
from imagestreams.core.lookup import (
    Answer,
    Deferred,
    Described,
    Failed,
    ImportMode,
    Listed,
    Listing,
    Lookup,
    Question,
    Resolved,
    Served,
    Source,
    Ticket,
    in_turn,
)
from imagestreams.core.manifest import Platform
from imagestreams.core.policy import BLOCKED, NOT_ALLOWED, Place
from imagestreams.core.reference import is_digest
from imagestreams.core.stream import ImageStream
from imagestreams.core.wish import (
    AskRegistry,
    ImportRules,
    ListRepository,
    Refuse,
    Wanted,
    Wishes,
    asked_for,
    interval_of,
    open_refresh,
    repository_of,
    wanted_of,
)

REPOSITORY = ""
"""Stands for the stream's repository where else a tag does: in tickets, plans and progress."""

FLAPPING = "Flapping"
IMPORTING = "Importing"

TRANSIENT_REASONS = frozenset(
    {"RateLimited", "Unavailable", "Timeout", "DNS", "TLS", "Unreachable", "InvalidAnswer", "InternalError"}
)
"""Reasons worth a retry that a restarted controller finds in conditions: the `retryable` of the answer itself is gone
by then.
"""

REFUSALS = frozenset({BLOCKED, NOT_ALLOWED, "Refused", "InvalidImageReference", "InvalidPlatform", "InvalidSource"})
"""Reasons that settings or a release give, not a registry. Others may be in force by now: a tag that failed for one of
these and may be asked for is asked once more.
"""

DENIALS = frozenset({"Unauthorized", "Forbidden"})
"""Reasons that other credentials may do away with, or another way to the registry."""

_WORTH_A_RETRY = TRANSIENT_REASONS | REFUSALS | {FLAPPING}

_PORTION = 200  # questions about tags of a stream's repository that are under way at a time


# --- time -------------------------------------------------------------------------------------------------------------


def slot_begin(now: datetime, repository: str, interval: timedelta) -> int:
    """The first second (Unix time) of the polling slot that `now` falls in.

    Time is cut into slots of one interval, shifted by a stable hash of "host/path": all tags of a repository in all
    streams are due together, and repositories spread evenly over the interval. The first instant of a slot belongs to
    it.
    """
    length = _length(interval)
    phase = _stable_hash(repository) % length
    return (int(now.timestamp()) - phase) // length * length + phase


def _length(interval: timedelta) -> int:
    return max(1, int(interval.total_seconds()))


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
class Selection:
    """What was chosen of a listing and is being imported: `tags`, the best first.

    `found` is how many tags the registry named, `left_out` how many of them the stream does not get, so far as is
    known; `limit` the one that was in force; `is_complete` is False where the registry named more than was read, and
    `is_crowded` says that the status has no room for more.
    """

    tags: tuple[str, ...]
    found: int
    left_out: int
    limit: int
    is_complete: bool = True
    is_crowded: bool = False


@dataclass(frozen=True, slots=True)
class TagProgress:
    """What this process knows of a tag beyond its status. Lost at a restart, without harm.

    `asked` is the ticket that is under way; `slot` the begin of the last slot served, `owed` that of one whose question
    was deferred, `late` since when the tag waits for an answer of a slot, `polled` since when it is polled, and `host`
    where it is asked for; `answered` the last refresh request that got its answer; `is_hinted` says that somebody saw
    the tag move since it was last asked for; `no_room` that its answer did not fit into the status; `steady` is the
    flap guard's; `reindexed` is when another index with the image that is recorded was written down; `beside` is what
    the registry served last while the tag was pinned, and `resumed` when that ended. `selected` is the repository's
    alone: what of its listing is still to be imported.
    """

    source: Source
    asked: Ticket | None = None
    slot: int = 0
    owed: int = 0
    late: int = 0
    polled: int = 0
    host: str = ""
    answered: str = ""
    answered_at: datetime | None = None
    failures: int = 0
    retry_at: datetime | None = None
    deferred_until: datetime | None = None
    is_hinted: bool = False
    no_room: bool = False
    steady: Steady | None = None
    reindexed: datetime | None = None
    beside: Served | None = None
    resumed: datetime | None = None
    selected: Selection | None = None

    def after(self, answer: Answer, rules: ImportRules) -> TagProgress:
        """This, once the answer to its ticket has been written into the status."""
        ticket = answer.ticket
        settled = replace(
            self,
            asked=None,
            slot=max(self.slot, ticket.slot, self.owed),
            owed=0,
            late=0,
            answered=ticket.request or self.answered,
            answered_at=answer.at,
            failures=0,
            retry_at=None,
            deferred_until=None,
            no_room=False,
        )
        match answer.outcome:
            case Resolved() | Listed() | Described():
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

    def withdrawn(self) -> TagProgress:
        """This, once nothing is asked any more. What was being asked is still wanted: it may have been a retry, or
        asked for by a hint, which nothing else remembers.
        """
        return replace(self, asked=None, owed=0, late=0, polled=0, is_hinted=self.is_hinted or self.asked is not None)

    def revised(self) -> TagProgress:
        """This, once other rules are in force: nothing is asked by the old ones, and nothing put off by them."""
        memory = self.withdrawn()
        is_put_off = self.deferred_until is not None
        return replace(memory, retry_at=None, deferred_until=None, is_hinted=True) if is_put_off else memory

    def is_overdue(self, now: datetime, interval: timedelta) -> bool:
        """Whether a slot is unserved for more than one interval, which counts from when polling began."""
        return bool(self.late) and now.timestamp() > self.late + _length(interval)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is lost when this is forgotten, of a tag that is not polled."""
        return not (self.asked or self.retry_at or self.is_hinted or self.steady or self.failures)


Progress = Mapping[str, TagProgress]
"""By spec tag, and that of the repository under REPOSITORY. A tag that only the repository gives has an entry while
something is to be remembered of it.
"""


def overdue(progress: Progress, interval: timedelta, now: datetime) -> Counter[str]:
    """How many tags are overdue at each host."""
    return Counter(memory.host for memory in progress.values() if memory.is_overdue(now, interval))


def withdrawn(progress: Progress) -> Progress:
    """The progress of a stream whose questions have all been withdrawn."""
    return {tag: memory.withdrawn() for tag, memory in progress.items()}


def revised(progress: Progress) -> Progress:
    """The progress of a stream once other rules are in force. See also `unwelcome_tags`."""
    return {tag: memory.revised() for tag, memory in progress.items()}


def unwelcome_tags(stream: ImageStream, progress: Progress) -> frozenset[str]:
    """The tags that a registry denied, or that were refused when they were asked for, and REPOSITORY where its listing
    was: hints for when other rules are in force. What was refused unasked has no memory, and is retried, spread, as
    soon as it may be asked for.
    """
    return failed_tags(stream, DENIALS) | (failed_tags(stream, REFUSALS) & progress.keys())


def failed_tags(stream: ImageStream, reasons: frozenset[str]) -> frozenset[str]:
    """The tags whose last attempt ended for one of the reasons, and REPOSITORY where that of its listing did."""
    status = stream.status or api.Status()
    found = {tag.tag for tag in status.tags or () if tag.outcome and tag.outcome.reason in reasons}
    listing = status.condition(api.REPOSITORY_IMPORTED)
    return frozenset(found | ({REPOSITORY} if listing and listing.reason in reasons else set()))


def selection_of(progress: Progress, repository: ListRepository | Refuse | None) -> Selection | None:
    """What is being imported of the stream's repository."""
    memory = progress.get(REPOSITORY)
    if memory is None or repository is None or memory.source != repository.source:
        return None
    return memory.selected


# --- plan -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Due:
    """A tag to be asked for now, or the repository to be listed, and why: "request", "hint", "source", "retry" or
    "slot".
    """

    tag: str
    wish: AskRegistry | ListRepository
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
    wishes: Wishes | None = None,
) -> Plan:
    """Decide which tags are asked for at `now`.

    Args:
        stream: as it is in the cluster, status included.
        progress: what earlier rounds of this process left.
        now: aware.
        rules: the administrator's.
        hints: tags that somebody says have moved; asked for once more.
        watermark: slots that began before it were served by an earlier process. None: all up to now were.
        wishes: the stream's, of earlier rounds.
    """
    if stream.is_suspended:
        # What is seen to move now is asked for when the suspension ends.
        hinted = {tag: replace(progress[tag], is_hinted=True) for tag in hints & progress.keys()}
        return Plan((), withdrawn({**progress, **hinted}), None)
    planning = _Planning(stream, progress, now, rules, watermark, wishes=wishes)
    planning.repository(hints)
    for tag in stream.spec_tags:
        planning.tag(tag.name, hints, is_scheduled=tag.is_scheduled)
    for name in planning.wanted.tags:
        if name in planning.wanted.virtual:
            planning.virtual(name, hints)
    return Plan(tuple(planning.due), planning.kept, min(planning.moments, default=None))


class _Planning:
    """One plan in the making."""

    def __init__(
        self,
        stream: ImageStream,
        progress: Progress,
        now: datetime,
        rules: ImportRules,
        watermark: datetime | None,
        *,
        wishes: Wishes | None,
    ) -> None:
        self._stream, self._progress, self._now, self._rules, self._watermark = stream, progress, now, rules, watermark
        self._status = stream.status or api.Status()
        self._recorded = {tag.tag: tag for tag in self._status.tags or ()}
        self._interval = interval_of(stream, rules)
        repository = repository_of(stream, rules)
        selected = selection_of(progress, repository)
        listed = selected.tags if selected else ()
        self.wanted: Wanted = wanted_of(stream, rules, repository, self._recorded, listed, wishes=wishes)
        self._request = open_refresh(stream)
        self._requested = asked_for(self._request, self.wanted)
        scheduled = self._status.condition(api.ON_SCHEDULE)
        self._is_overdue = scheduled is not None and scheduled.status == "False"
        self._under_way = sum(
            bool((memory := progress.get(name)) and memory.asked) for name in self.wanted.virtual & progress.keys()
        )
        self.due: list[Due] = []
        self.kept: dict[str, TagProgress] = {}
        self.moments: list[datetime] = []

    def tag(self, name: str, hints: frozenset[str], *, is_scheduled: bool) -> None:
        """Plan a tag of spec."""
        wish, recorded = self.wanted.tags[name], self._recorded.get(name)
        if isinstance(wish, AskRegistry):
            # A digest never changes, so a source by digest is imported once, scheduled or not.
            is_polled = is_scheduled and not wish.reference.digest
            self._plan(name, hints, _Question(wish, is_polled, recorded, _attempt(recorded, wish)))

    def virtual(self, name: str, hints: frozenset[str]) -> None:
        """Plan a tag that only the repository gives."""
        wish, recorded, memory = self.wanted.tags[name], self._recorded.get(name), self._progress.get(name)
        assert isinstance(wish, AskRegistry)  # noqa: S101 - as `wanted_of` makes them
        attempt = _attempt(recorded, wish)
        if attempt and attempt.is_good and memory is None and name not in hints and name not in self._requested:
            return  # nothing to do and nothing to remember, as it is with most of them
        count = len(self.due)
        self._plan(name, hints, _Question(wish, False, recorded, attempt), may_ask=self._under_way < _PORTION)
        self._under_way += len(self.due) - count
        memory = self.kept[name]
        is_fresh = memory.answered_at is not None and memory.answered_at + self._rules.refresh_floor > self._now
        was_lost = attempt is None and memory.answered_at is not None  # somebody removed what we wrote
        is_needed = is_fresh or was_lost or name in self._requested or len(self.due) > count
        if memory.is_idle and not is_needed:
            del self.kept[name]

    def repository(self, hints: frozenset[str]) -> None:
        """Plan the listing of the repository."""
        wish = self.wanted.repository
        if isinstance(wish, ListRepository):
            memory = self._progress.get(REPOSITORY)
            attempt = listing_attempt(self._stream, memory, wish, self._rules)
            self._plan(REPOSITORY, hints, _Question(wish, False, None, attempt))

    def _plan(self, name: str, hints: frozenset[str], question: _Question, *, may_ask: bool = True) -> None:
        memory = self._progress.get(name)
        if memory is None or memory.source != question.wish.source:
            memory = self._first_memory(name, question, memory)
        if name in hints:
            memory = replace(memory, is_hinted=True)
        begin = 0
        if question.is_polled:
            memory, begin = self._with_slot(memory, question)
        elif memory.polled:
            memory = replace(memory, late=0, polled=0)
        self.kept[name] = memory
        why, at = self._next_time(name, memory, question, begin)
        if not why:
            return
        if at > self._now:
            self.moments.append(at)
        elif may_ask:
            is_requested = name in self._requested and self._request and memory.answered != self._request.value
            request = self._request.value if self._request and is_requested else ""
            # A question in the middle of a slot that was served is not a late poll.
            slot = begin if begin > memory.slot else 0
            self.due.append(Due(name, question.wish, why, request, slot, question.known(memory.beside)))

    def _with_slot(self, memory: TagProgress, question: _Question) -> tuple[TagProgress, int]:
        """The memory of a tag that is polled, once the present slot is noticed, and that slot's begin."""
        begin, length = (
            slot_begin(self._now, question.wish.reference.repository, self._interval),
            _length(self._interval),
        )
        if not memory.polled:
            memory = replace(memory, polled=int(self._now.timestamp()), host=question.wish.reference.host)
        if begin > memory.slot and not memory.late:
            memory = replace(memory, late=max(begin, memory.polled))
        if memory.late:
            # The first moment after a whole interval, to say that the tag is overdue.
            self.moments += [at for at in (_at(memory.late + length + 1),) if at > self._now]
        else:
            # Also while it is asked for: the next slot may come before the answer.
            self.moments.append(_at(begin + length))
        return memory, begin

    def _first_memory(self, name: str, question: _Question, old: TagProgress | None) -> TagProgress:
        """Memory for a tag that this process has not seen with this source. After a restart, retries are spread and
        served slots stay served.
        """
        rules, now, attempt = self._rules, self._now, question.attempt
        begin = slot_begin(now, question.wish.reference.repository, self._interval)
        is_unserved = self._is_overdue or (self._watermark is not None and begin >= self._watermark.timestamp())
        slot = begin - _length(self._interval) if old is None and is_unserved else begin
        # What was imported was polled by an earlier process: what that left undone is as late as its slot is.
        polled = begin if slot < begin and attempt is not None and question.is_polled else 0
        host = question.wish.reference.host if polled else ""
        memory = TagProgress(
            question.wish.source, slot=slot, polled=polled, host=host, answered=old.answered if old else ""
        )
        if attempt is None or attempt.is_good or attempt.reason not in _WORTH_A_RETRY:
            return memory
        # Retries double their distance, so the next would have come about as long from now as the tag has failed for.
        window = rules.flap_window / 4 if attempt.reason == FLAPPING else rules.retry_base
        if attempt.reason in TRANSIENT_REASONS and attempt.since:
            window = min(max(now - attempt.since, window), max(rules.retry_cap, window))
        failures = int(window / rules.retry_base).bit_length() if rules.retry_base else 1
        spread = _fraction(f"{self._stream.metadata.uid}/{name}#restart")
        return replace(memory, failures=0 if attempt.reason == FLAPPING else failures, retry_at=now + window * spread)

    def _next_time(self, name: str, memory: TagProgress, question: _Question, begin: int) -> tuple[str, datetime]:
        """Why and when it is to be asked for next; ("", now) while an equal question is under way or nothing will make
        it due. `begin` is that of the present slot, for what is polled.
        """
        moments: list[tuple[datetime, str]] = []
        now, under_way = self._now, memory.asked
        soonest = max(memory.answered_at + self._rules.refresh_floor, now) if memory.answered_at else now
        request = self._request.value if self._request and name in self._requested else ""
        if request and memory.answered != request and not (under_way and under_way.request == request):
            moments.append((soonest, "request"))
        if under_way is None:
            if question.attempt is None:
                moments.append((self._next_first(memory), "source"))
            if question.is_polled:
                moments.append((_at(begin if begin > memory.slot else begin + _length(self._interval)), "slot"))
            if memory.is_hinted:
                moments.append((soonest, "hint"))
            if memory.retry_at:
                moments.append((memory.retry_at, "retry"))
        if not moments:
            return "", now
        at, why = min(moments, key=lambda moment: moment[0])
        return why, max(at, memory.deferred_until) if memory.deferred_until else at

    def _next_first(self, memory: TagProgress) -> datetime:
        """When to ask for what was never tried at its present source, as far as the status says: now, unless it was
        asked for already and the answer found no room, or was removed by somebody. Asking at once would then never end.
        """
        if memory.answered_at is None:
            return self._now
        return max(self._now, memory.answered_at + (self._interval if memory.no_room else self._rules.retry_base))


def _at(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


@dataclass(frozen=True, slots=True)
class Attempt:
    """How the last attempt at the present source ended: its reason, and since when it ends so."""

    is_good: bool
    reason: str = ""
    since: datetime | None = None


def _attempt(recorded: api.StatusTag | None, wish: AskRegistry) -> Attempt | None:
    """The last attempt to import a tag, if it was made at its present source. What was imported while the tag was
    pinned does not count once it is not.
    """
    observed = recorded.observed_at(wish.source) if recorded else None
    if recorded is None or observed is None:
        return None
    outcome = recorded.outcome
    if outcome is None or outcome.status != "False":
        return Attempt(is_good=True) if observed.digest else None
    return Attempt(False, outcome.reason or "", outcome.last_transition_time)


def listing_attempt(
    stream: ImageStream, memory: TagProgress | None, wish: ListRepository, rules: ImportRules
) -> Attempt | None:
    """The last attempt to list the stream's repository, if it was made for what spec and the settings say now.

    A failure is in a condition only, which does not name its source. It counts for the present one where this process
    saw it, or, after a restart, where the spec is as it was.
    """
    status = stream.status or api.Status()
    is_ours = memory is None or memory.source == wish.source
    if memory is not None and is_ours and memory.selected is not None and not memory.failures:
        return Attempt(is_good=True)
    said = status.condition(api.REPOSITORY_IMPORTED)
    if said is not None and said.status == "False" and said.reason != IMPORTING:
        is_of_spec = said.observed_generation == stream.metadata.generation
        if is_ours and (is_of_spec or (memory is not None and memory.answered_at is not None)):
            return Attempt(False, said.reason or "", said.last_transition_time)
    listed = status.repository
    if listed is None or (listed.name, listed.insecure) != (wish.source.name, wish.source.insecure):
        return None
    is_enough = not listed.left_out or listed.limit >= rules.repository_tags
    return Attempt(is_good=True) if is_enough else None


@dataclass(frozen=True, slots=True)
class _Question:
    """What may be asked, in a plan; `recorded` is what the status says of the tag, `attempt` how the last attempt at
    the present source ended, None where there was none.
    """

    wish: AskRegistry | ListRepository
    is_polled: bool
    recorded: api.StatusTag | None
    attempt: Attempt | None

    def known(self, beside: Served | None) -> Served | None:
        """What an unchanged tag is answered with by one HEAD: only what the newest item still says counts, since others
        may write items too. That of a pinned tag says nothing of what is served; `beside` is that, as far as is known.
        """
        wish, recorded = self.wish, self.recorded
        if not isinstance(wish, AskRegistry) or recorded is None:
            return None
        observed, newest = recorded.observed_at(wish.source), recorded.newest
        served, image = (observed and observed.digest) or "", (newest and newest.image) or ""
        if recorded.pinned is not None and is_digest(served):
            if wish.source.mode is ImportMode.PRESERVE_ORIGINAL:
                return Served(served, served)
            return beside if beside is not None and beside.digest == served else None
        if newest is None or not is_digest(served) or not is_digest(image):
            return None
        if wish.source.mode is ImportMode.PRESERVE_ORIGINAL and image != served:
            return None
        if newest.docker_image_reference not in {str(name.pinned(image)) for name in wish.recorded_names}:
            return None
        return Served(served, image)


# --- tickets ----------------------------------------------------------------------------------------------------------


def tickets_of(
    stream: ImageStream, plan: Plan, entries: Iterable[Entry], rules: ImportRules
) -> tuple[tuple[Ticket, ...], Progress]:
    """The plan as questions for the lanes, with the credentials that `entries` give, and the progress once they are
    asked.
    """
    secrets = tuple(entries)
    tickets = []
    progress = dict(plan.progress)
    for due in plan.due:
        if isinstance(due.wish, ListRepository):
            question: Question = _listing(due.wish, secrets, rules)
        else:
            question = _lookup(due.wish, due.known, secrets, rules)
        ticket = Ticket(stream.metadata.uid, due.tag, due.wish.source, due.request, due.slot, question)
        tickets.append(ticket)
        progress[due.tag] = replace(
            progress[due.tag], asked=ticket, retry_at=None, deferred_until=None, is_hinted=False
        )
    return tuple(tickets), progress


def _lookup(wish: AskRegistry, known: Served | None, secrets: tuple[Entry, ...], rules: ImportRules) -> Lookup:
    source = wish.source
    prefer = Platform.parse(source.platform) if source.platform else rules.legacy_platform

    def ask(place: Place, fallback: Lookup | None) -> Lookup:
        return Lookup(
            reference=place.reference.tagged(wish.tag) if wish.tag else place.reference,
            transport=place.transport,
            credentials=candidates(secrets, place.reference),
            mode=source.mode,
            prefer=prefer if source.mode is ImportMode.LEGACY else None,
            known=known,
            recorded=place.recorded.tagged(wish.tag) if wish.tag else place.recorded,
            fallback=fallback,
        )

    return in_turn(wish.places, ask)


def _listing(wish: ListRepository, secrets: tuple[Entry, ...], rules: ImportRules) -> Listing:
    def ask(place: Place, fallback: Listing | None) -> Listing:
        credentials = candidates(secrets, place.reference)
        return Listing(place.reference, place.transport, credentials, rules.repository_tags, fallback)

    return in_turn(wish.places, ask)
