"""Builders for tests of the core: streams, tags, answers, and `Rounds`, which carries a stream through rounds of
importing as `imagestreams.imports` does, with an API server that is one merge patch long.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from imagestreams.core.importing import REPOSITORY as LISTING
from imagestreams.core.importing import Plan, Progress, plan_import, revised, tickets_of, unwelcome_tags, withdrawn
from imagestreams.core.keychain import Entry
from imagestreams.core.lookup import (
    Answer,
    Deferred,
    Failed,
    ImportMode,
    Listed,
    Lookup,
    Outcome,
    Resolved,
    Served,
    Source,
    Ticket,
)
from imagestreams.core.merging import Transition, Update, merge_status
from imagestreams.core.reference import ImageReference
from imagestreams.core.stream import (
    Annotations,
    ImageStream,
    ImportPolicy,
    Metadata,
    ObjectKey,
    ObjectReference,
    ReferencePolicy,
    Spec,
    Status,
    StatusTag,
    TagAnnotations,
    TagReference,
    decode,
    encode,
    encode_status_patch,
)
from imagestreams.core.wish import ImportRules, Wishes
from tests.fakes.patching import merged

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
IMAGE = "quay.io/acme/app:latest"
REPOSITORY = "quay.io/acme/app"


def seconds(count: float) -> timedelta:
    return timedelta(seconds=count)


def minutes(count: float) -> timedelta:
    return timedelta(minutes=count)


def digest(letter: str) -> str:
    """A digest of one repeated hexadecimal digit."""
    return f"sha256:{letter * 64}"


def pinned(letter: str, repository: str = REPOSITORY) -> str:
    return f"{repository}@{digest(letter)}"


def tag(
    name: str = "latest",
    image: str = IMAGE,
    *,
    kind: str = "DockerImage",
    namespace: str | None = None,
    scheduled: bool = False,
    insecure: bool = False,
    mode: str | None = None,
    reference: bool = False,
    local: bool = False,
    platform: tuple[str, str] | None = None,
) -> TagReference:
    """One entry of spec.tags; `platform` is (os, architecture)."""
    return TagReference(
        name=name,
        from_=ObjectReference(kind=kind, name=image, namespace=namespace),
        reference=reference or None,
        annotations=TagAnnotations(prefer_os=platform[0], prefer_arch=platform[1]) if platform else None,
        import_policy=ImportPolicy(insecure=insecure or None, scheduled=scheduled or None, import_mode=mode),
        reference_policy=ReferencePolicy("Local") if local else None,
    )


def follower(name: str, followed: str, *, namespace: str | None = None) -> TagReference:
    """A tag that follows another."""
    return tag(name, followed, kind="ImageStreamTag", namespace=namespace)


def pushed(name: str) -> TagReference:
    """A tag without a source."""
    return TagReference(name=name)


def stream(
    *tags: TagReference,
    status: Status | None = None,
    refresh: str | None = None,
    forget: str | None = None,
    repository: str | None = None,
    generation: int = 1,
    uid: str = "uid-1",
    name: str = "app",
    namespace: str = "team",
    **annotations: str | None,
) -> ImageStream:
    """A stream; further arguments are annotations, as `Annotations` names them."""
    return ImageStream(
        metadata=Metadata(
            name=name,
            namespace=namespace,
            uid=uid,
            resource_version="100",
            generation=generation,
            annotations=Annotations(refresh=refresh, forget=forget, **annotations),
        ),
        spec=Spec(docker_image_repository=repository, tags=tags),
        status=status,
    )


def edited(
    before: ImageStream,
    *tags: TagReference,
    repository: str | None = None,
    **annotations: str | None,
) -> ImageStream:
    """The stream after a user replaced its tags and repository (neither given: they stay) and annotations."""
    is_same = not tags and repository is None
    return stream(
        *(tags or before.spec_tags),
        status=before.status,
        repository=before.repository or None if repository is None else repository or None,
        generation=before.metadata.generation + (not is_same),
        uid=before.metadata.uid,
        name=before.metadata.name,
        namespace=before.metadata.namespace,
        **annotations,
    )


def source(image: str = IMAGE, *, mode: ImportMode = ImportMode.PRESERVE_ORIGINAL, insecure: bool = False) -> Source:
    return Source("DockerImage", image, mode=mode, insecure=insecure)


def resolved(letter: str, *, child: str = "", recorded: str = "") -> Resolved:
    """The tag serves the digest of `letter`; in Legacy mode the image is `child` of it. It is recorded by the name that
    the ticket says, as by the lanes, or as `recorded`.
    """
    return Resolved(Served(digest(letter), digest(child or letter)), ImageReference.parse(recorded or "by.ticket/x"))


def listed(*tags: str, found: int | None = None, is_complete: bool = True) -> Listed:
    """The tags of a repository, the best first."""
    return Listed(tags, len(tags) if found is None else found, is_complete)


def failed(reason: str = "Unavailable", message: str = "quay.io failed (503)", *, retryable: bool = True) -> Failed:
    return Failed(reason, message, retryable)


NOT_FOUND = failed("NotFound", 'container image "quay.io/acme/app:latest" not found', retryable=False)
UNAVAILABLE = failed()


def deferred(until: datetime) -> Deferred:
    return Deferred(until, "quay.io asked us to wait")


def answer(ticket: Ticket, outcome: Outcome, at: datetime = NOW) -> Answer:
    """The answer as the lanes give it, under the name that the ticket says."""
    question = ticket.question
    if isinstance(outcome, Resolved) and outcome.recorded.registry == "by.ticket" and isinstance(question, Lookup):
        outcome = Resolved(outcome.served, question.recorded or question.reference)
    return Answer(ticket, outcome, at)


def stored(before: ImageStream, status: Status) -> ImageStream:
    """The stream as the API server gives it back after the status was written."""
    patch = json.loads(encode_status_patch(before, status))
    assert patch["metadata"] == {
        "resourceVersion": before.metadata.resource_version,
        "uid": before.metadata.uid,
    }
    whole = merged(json.loads(encode(before)), {"status": patch["status"]})
    whole["metadata"]["resourceVersion"] = str(int(before.metadata.resource_version) + 1)
    return decode(json.dumps(whole).encode())


class Rounds:
    """A stream on its way through rounds.

    `pending` are the tickets under way, `heard` the transitions announced, `writes` how many statuses were written.
    Each round goes as in `imagestreams.imports`, except that the answers are the test's.
    """

    def __init__(
        self,
        stream: ImageStream,
        *,
        rules: ImportRules | None = None,
        now: datetime = NOW,
        watermark: datetime | None = None,
        entries: Iterable[Entry] = (),
        others: Iterable[ImageStream] = (),
        may_pull: Iterable[ObjectKey] = (),
    ) -> None:
        self.stream, self.rules, self.now, self.watermark = stream, rules or ImportRules(), now, watermark
        self.entries = tuple(entries)
        self.others = {other.key: other for other in others}
        self.may_pull = frozenset(may_pull)
        self.progress: Progress = {}
        self.pending: dict[str, Ticket] = {}
        self.heard: list[Transition] = []
        self.writes = 0
        self.hints: frozenset[str] = frozenset()
        self.wishes = Wishes()

    def round(self, hints: Iterable[str] = (), **outcomes: Outcome) -> Plan:
        """One round, with the answers to tickets that are under way (by tag; `_` stands for `-`, and `listing` for the
        repository's).
        """
        answers = []
        for name, outcome in outcomes.items():
            ticket = self.pending.pop(LISTING if name == "listing" else name.replace("_", "-"))
            answers.append(answer(ticket, outcome, self.now))
        self.merge(*answers)
        return self.plan(hints)

    def merge(self, *answers: Answer) -> Update:
        update = merge_status(
            self.stream,
            answers,
            self.progress,
            now=self.now,
            rules=self.rules,
            streams=self.others.get,
            may_pull=self.may_pull,
            wishes=self.wishes,
        )
        if update.is_changed:
            assert update.stream.status is not None
            self.stream = stored(self.stream, update.stream.status)
            assert self.stream.status == update.stream.status, "the API server gives back what was written"
            self.heard += update.transitions
            self.writes += 1
        self.progress = update.progress
        return update

    def plan(self, hints: Iterable[str] = ()) -> Plan:
        plan = plan_import(
            self.stream,
            self.progress,
            now=self.now,
            rules=self.rules,
            hints=frozenset(hints) | self.hints,
            watermark=self.watermark,
            wishes=self.wishes,
        )
        if not self.stream.is_suspended:
            self.hints = frozenset()
        tickets, self.progress = tickets_of(self.stream, plan, self.entries, self.rules)
        for ticket in tickets:
            before = self.pending.get(ticket.tag)
            assert before is None or (before.source, before.request) != (ticket.source, ticket.request), (
                f"{ticket.tag} is under way already"
            )
            self.pending[ticket.tag] = ticket
        return plan

    def wait(self, time: timedelta | datetime) -> None:
        self.now = self.now + time if isinstance(time, timedelta) else time

    def edit(self, *tags: TagReference, repository: str | None = None, **annotations: str | None) -> None:
        """A user changes the stream."""
        self.stream = edited(self.stream, *tags, repository=repository, **annotations)

    def use(self, rules: ImportRules) -> None:
        """The rules are replaced at run time."""
        self.rules, self.progress, self.pending = rules, revised(self.progress), {}
        self.hints |= unwelcome_tags(self.stream, self.progress)

    def suspend(self) -> None:
        """A user suspends the imports of the stream, and it comes to rest."""
        self.edit(suspend="true")
        self.progress, self.pending = withdrawn(self.progress), {}
        self.round()

    def answer_all(self, outcome: Outcome) -> None:
        """Rounds with this answer to each tag that is asked for, until none is."""
        while names := [name for name in self.pending if name != LISTING]:
            tickets = [self.pending.pop(name) for name in names]
            self.merge(*(answer(ticket, outcome, self.now) for ticket in tickets))
            self.plan()

    def restart(self) -> None:
        """The process is replaced by another."""
        self.progress, self.pending, self.wishes = {}, {}, Wishes()

    def status_tag(self, name: str = "latest") -> StatusTag:
        found = self.stream.status_tag(name)
        assert found is not None
        return found

    def history(self, name: str = "latest") -> list[str]:
        """The digests' letters, newest first."""
        return [(item.image or "").removeprefix("sha256:")[:1] for item in self.status_tag(name).items or ()]

    @property
    def ready(self) -> tuple[str, str | None]:
        assert self.stream.status is not None
        ready = self.stream.status.ready
        assert ready is not None
        return ready.status, ready.reason

    def take_heard(self) -> list[Transition]:
        heard, self.heard = self.heard, []
        return heard

    @contextmanager
    def unwritten(self) -> Iterator[None]:
        """Nothing is written and nobody hears of anything in the block."""
        before = self.writes, list(self.heard), self.stream
        yield
        assert (self.writes, self.heard, self.stream) == before


def why(plan: Plan) -> dict[str, str]:
    """What a plan asks for, and why."""
    return {due.tag: due.why for due in plan.due}
