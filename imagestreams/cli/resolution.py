"""Streams imported without a cluster: the controller's own rounds, lanes and client, around a store in memory.

Every tag is asked for once, and once more where the failure may pass. What a registry puts off is waited for as long as
there is time. Nothing is polled, and nothing is remembered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from imagestreams.cli.manifests import PAST
from imagestreams.core.duration import show_duration
from imagestreams.core.keychain import Entry, candidates
from imagestreams.core.lookup import (
    Answer,
    Deferred,
    Described,
    Failed,
    Listed,
    Question,
    Resolved,
)
from imagestreams.core.stream import (
    REPOSITORY_IMPORTED,
    ImageStream,
    Istag,
    ObjectKey,
    Status,
    StatusTag,
    TagReference,
    followed_tag,
)
from imagestreams.imports import Importer
from imagestreams.registry.errors import RegistryError
from imagestreams.registry.lanes import Lanes, Limits

if TYPE_CHECKING:
    from imagestreams.core.wish import ImportRules
    from imagestreams.registry.quota import Quota

Ask = Callable[[Question], Awaitable[Resolved | Listed | Described]]

RATE_LIMITED: Final = "RateLimited"
TIMEOUT: Final = "Timeout"
NO_SOURCE: Final = "NoSource"

_TRIES: Final = 2  # of one question
_RETRY: Final = timedelta(seconds=2)
_NEVER: Final = timedelta(days=365)
_NO_LIMIT: Final = 1 << 40
_MANY: Final = 1 << 16

_Tag = tuple[ObjectKey, str]


@dataclass(frozen=True, slots=True)
class Found:
    """What became of a tag.

    Attributes:
        tag: empty for the repository that a stream imports.
        image: the pull spec, pinned by digest except for a reference; empty where there is none.
        reason: the condition's, or one of this module's.
        is_failed: there should be an image and is none.
    """

    namespace: str
    stream: str
    tag: str
    source: str
    image: str
    digest: str
    reason: str
    message: str
    is_failed: bool


class Resolution:
    """One call of `imagestreams resolve`.

    Args:
        streams: those given, each with its own key and uid.
        ask: asks registries; `RegistryClient.answer`. quota: the client's own.
        rules: the administrator's.
        entries: the logins, for all namespaces.
        may_send_insecurely: send them also to hosts that a tag calls insecure.
        timeout: seconds for all; None: as long as it takes.
        retry: how long to wait before a question is asked once more.
        clock: aware, UTC.
        on_progress: told how many tags there are, and how many of them are done.
    """

    def __init__(
        self,
        streams: Iterable[ImageStream],
        *,
        ask: Ask,
        quota: Quota | None = None,
        rules: ImportRules,
        entries: tuple[Entry, ...] = (),
        may_send_insecurely: bool = False,
        timeout: float | None = None,
        concurrency: int = 8,
        retry: timedelta = _RETRY,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        on_progress: Callable[[int, int], None] = lambda _done, _all: None,
    ) -> None:
        self._streams = {stream.key: stream for stream in streams}
        self._ask_registry, self._entries, self._may_send_insecurely = ask, entries, may_send_insecurely
        self._timeout, self._clock, self._on_progress = timeout, clock, on_progress
        self._deadline = clock() + timedelta(seconds=timeout) if timeout else None
        self._wake = asyncio.Event()
        self._dirty: dict[ObjectKey, None] = dict.fromkeys(self._streams)
        self._again: dict[ObjectKey, datetime | None] = {}
        self._failures: dict[Question, tuple[int, RegistryError]] = {}
        self._causes: dict[str, str] = {}  # why a host was not asked, by host
        self._waiting: dict[_Tag, None] = {}  # to be asked again
        self._given_up: dict[_Tag, tuple[str, str]] = {}  # reason and message
        self._tries: dict[_Tag, int] = {}  # that failed
        self._answered: set[_Tag] = set()
        self._pending: dict[ObjectKey, int] = {}  # how many tags of a stream are being asked for
        self._lanes: Lanes[ObjectKey] = Lanes(
            self._ask,
            clock=clock,
            ready=self._ready,
            limits=Limits(concurrency=concurrency, lanes=_MANY, settle=0),
            on_throttle=self._causes.__setitem__,
            quota=quota,
        )
        self._importer = Importer(
            lanes=self._lanes,
            credentials=self._credentials,
            publish=self._publish,
            announce=lambda _stream, _transition: None,
            clock=clock,
            # Polling and trimming are not for a single pass.
            rules=replace(
                rules,
                interval=_NEVER,
                refresh_floor=timedelta(),
                retry_base=retry,
                retry_cap=max(retry, rules.retry_cap),
                flap_window=timedelta(),
                status_budget=_NO_LIMIT,
            ),
            watermark=None,
            streams=self._streams.get,
            may_pull=self._may_pull,
        )

    async def run(self) -> None:
        """Ask, until everything is answered or the time is up."""
        working = asyncio.create_task(self._lanes.run())
        try:
            await self._rounds()
        finally:
            await self._lanes.close()
            await working

    def found(self) -> tuple[Found, ...]:
        """What is known by now: tags in the order of streams and spec, then those of a stream's repository."""
        return tuple(row for stream in self._streams.values() for row in self._rows(stream))

    # --- rounds

    async def _rounds(self) -> None:
        while True:
            while self._dirty and not self._is_over():
                await self._round(next(iter(self._dirty)))
            if self._is_over() or not self._is_open():
                return
            await self._until_something()

    async def _round(self, key: ObjectKey) -> None:
        del self._dirty[key]
        for answer in self._lanes.peek(key):
            self._note(key, answer)
        self._again[key] = await self._importer.round(self._streams[key])
        if under_way := len(self._lanes.pending(key)):
            self._pending[key] = under_way
        else:
            self._pending.pop(key, None)
        done = len(self._answered | self._given_up.keys())
        self._on_progress(done, done + len(self._waiting) + sum(self._pending.values()))
        await asyncio.sleep(0)  # a round waits for nothing, and the lanes have work to do

    def _is_open(self) -> bool:
        return bool(self._waiting or self._pending)

    def _is_over(self) -> bool:
        return self._deadline is not None and self._clock() >= self._deadline

    async def _until_something(self) -> None:
        """Wait for an answer, or for the time at which a tag may be asked for again."""
        keys = {key for key, _ in self._waiting}
        moments = [moment for key in keys if (moment := self._again.get(key)) is not None]
        soonest = min([*moments, *([self._deadline] if self._deadline else [])], default=None)
        seconds = None if soonest is None else max(0.0, (soonest - self._clock()).total_seconds())
        self._wake.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            now = self._clock()
            for key in keys:
                moment = self._again.get(key)
                if moment is not None and moment <= now:
                    self._dirty[key] = None

    def _ready(self, key: ObjectKey) -> None:
        self._dirty[key] = None
        self._wake.set()

    def _note(self, key: ObjectKey, answer: Answer) -> None:
        """Decide whether a tag's answer is its last."""
        tag, question = (key, answer.ticket.tag), answer.ticket.question
        self._waiting.pop(tag, None)
        if isinstance(answer.outcome, Failed):
            self._tries[tag] = self._tries.get(tag, 0) + 1
        match answer.outcome:
            case Failed(retryable=True) if self._tries[tag] < _TRIES:
                self._waiting[tag] = None
            case Deferred(until=until, why=why):
                hosts = _hosts(question)
                if any(self._causes.get(host) == "unreachable" for host in hosts):
                    self._given_up[tag] = "Unreachable", why
                elif self._deadline is not None and until > self._deadline:
                    again = show_duration(timedelta(seconds=round((until - self._clock()).total_seconds())))
                    self._given_up[tag] = RATE_LIMITED, f"{why}, for {again}, which is longer than there is time"
                else:
                    self._waiting[tag] = None
            case _:
                self._answered.add(tag)

    # --- what the importer needs

    async def _credentials(self, _stream: ImageStream) -> tuple[Entry, ...]:
        return self._entries

    async def _publish(self, stream: ImageStream, status: Status) -> ImageStream:
        written = self._streams[stream.key] = stream.with_status(status)
        for follower in self._importer.followers(stream.key):
            if follower in self._streams:
                self._dirty[follower] = None
        return written

    async def _may_pull(self, _namespace: str, _key: ObjectKey) -> bool:
        return True  # nobody here could be asked; the caller says so

    async def _ask(self, question: Question) -> Resolved | Listed | Described:
        failures, last = self._failures.get(question, (0, None))
        if last is not None and failures >= _TRIES:
            raise last
        asked = self._with_login(question) if self._may_send_insecurely else question
        try:
            return await self._ask_registry(asked)
        except RegistryError as error:
            self._failures[question] = failures + 1, error
            raise

    def _with_login(self, question: Question) -> Question:
        """The question as it is asked of an insecure host that may have our logins."""
        if question.transport.credentials:
            return question
        transport = replace(question.transport, credentials=True)
        return replace(question, transport=transport, credentials=candidates(self._entries, question.reference))

    # --- rows

    def _rows(self, stream: ImageStream) -> Iterable[Found]:
        recorded = {tag.tag: tag for tag in (stream.status and stream.status.tags) or ()}
        for tag in stream.spec_tags:
            yield self._row(stream, tag.name, _source(tag), recorded.get(tag.name), tag)
        if not stream.repository:
            return
        names = recorded.keys() - {tag.name for tag in stream.spec_tags} - {PAST}
        for name in (name for name in recorded if name in names and recorded[name].observed):
            yield self._row(stream, name, f"{stream.repository}:{name}", recorded[name], None)
        if failure := self._repository_failure(stream):
            yield Found(*stream.key, "", stream.repository, "", "", *failure, is_failed=True)

    def _row(
        self, stream: ImageStream, name: str, source: str, recorded: StatusTag | None, tag: TagReference | None
    ) -> Found:
        newest = recorded.newest if recorded else None
        outcome = recorded.outcome if recorded and recorded.observed else None
        if tag is not None and tag.from_ is None:
            words = "it has no source: only pushes move it"
            image, digest = (newest.docker_image_reference, newest.image or "") if newest else ("", "")
            return Found(*stream.key, name, source, image, digest, NO_SOURCE, words, is_failed=False)
        if newest is not None and outcome is not None and outcome.status == "True":
            image, digest = newest.docker_image_reference, newest.image or ""
            return Found(*stream.key, name, source, image, digest, outcome.reason or "", "", is_failed=False)
        if outcome is not None:
            reason = outcome.reason or "Failed"
            message = (tag and self._missing(stream, tag)) or outcome.message or ""
        else:
            reason, message = self._given_up.get((stream.key, name)) or self._unanswered()
        return Found(*stream.key, name, source, "", "", reason, message, is_failed=True)

    def _missing(self, stream: ImageStream, tag: TagReference) -> str:
        """That the stream of a tag's source is none of those given, where it is so."""
        key = followed_stream(stream.key, tag)
        if key is None or key in self._streams:
            return ""
        return f"the stream {key}, which it follows, is not among the manifests"

    def _repository_failure(self, stream: ImageStream) -> tuple[str, str] | None:
        condition = stream.status.condition(REPOSITORY_IMPORTED) if stream.status else None
        given_up = self._given_up.get((stream.key, ""))
        if condition is not None and condition.status == "True":
            return None
        if condition is not None and condition.reason not in {None, "Importing"}:
            return condition.reason or "", condition.message or ""
        return given_up or self._unanswered()

    def _unanswered(self) -> tuple[str, str]:
        if self._is_over() and self._timeout:
            return TIMEOUT, f"there was no answer within {show_duration(timedelta(seconds=self._timeout))}"
        return "Unresolved", "what it follows was not resolved"


def followed_stream(key: ObjectKey, tag: TagReference) -> ObjectKey | None:
    """The stream that a tag of the stream `key` takes its image from, or None for one that is looked up."""
    if followed := followed_tag(tag, key):
        return followed.key
    if tag.from_ is None or tag.from_.kind != "ImageStreamImage":
        return None
    owner, _, _ = (tag.from_.name or "").rpartition("@")
    return ObjectKey(tag.from_.namespace or key.namespace, owner or key.name)


def borrowed(streams: Sequence[ImageStream]) -> Mapping[Istag, ObjectKey]:
    """The tags that take their image from one of the streams that is of another namespace."""
    keys = {stream.key for stream in streams}
    return {
        Istag(*stream.key, tag.name): followed
        for stream in streams
        for tag in stream.spec_tags
        if (followed := followed_stream(stream.key, tag)) and followed in keys and followed.namespace != stream.key[0]
    }


def _source(tag: TagReference) -> str:
    source = tag.from_
    if source is None:
        return ""
    name = f"{source.namespace}/{source.name}" if source.namespace and source.kind != "DockerImage" else source.name
    return name or ""


def _hosts(question: Question) -> list[str]:
    hosts = []
    place: Question | None = question
    while place is not None:
        hosts.append(place.transport.host)
        place = place.fallback
    return hosts
