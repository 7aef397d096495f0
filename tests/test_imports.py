"""Rounds end to end, with real lanes: what others own is asked for by right, rules change while questions are under
way, and what etcd does not take is made smaller, and said.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from imagestreams.core.importing import REPOSITORY
from imagestreams.core.keychain import Entry
from imagestreams.core.lookup import Listed, Listing, Lookup, Question, Resolved, Served
from imagestreams.core.merging import LOOK_AGAIN, TagMoved, Transition
from imagestreams.core.policy import HostRule, Policy
from imagestreams.core.stream import ImageStream, ObjectKey, Status, StatusTag, TagEvent, encode
from imagestreams.core.wish import ImportRules
from imagestreams.imports import Importer
from imagestreams.kube.imagestreams import ObjectTooLarge
from imagestreams.registry.errors import Exhausted, Unauthorized, Unavailable
from imagestreams.registry.lanes import Lanes, Limits
from tests.core.streams import digest, edited, follower, pinned, stored, stream, tag

NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)
ROOM = 100_000
BASE = ObjectKey("shared", "base")
FLOOR = timedelta(seconds=10)

Answered = Resolved | Listed


class Installation:
    """Streams, an importer and a registry that answers by a function; keys that became ready are reconciled."""

    def __init__(self, registry: Callable[[Question], Awaitable[Answered]], rules: ImportRules | None = None) -> None:
        self.streams: dict[ObjectKey, ImageStream] = {}
        self.asked: list[Question] = []
        self.reviews: list[tuple[str, ObjectKey]] = []
        self.rights: set[tuple[str, ObjectKey]] = set()
        self.credentials_of: list[str] = []
        self.heard: list[Transition] = []
        self.writes = 0
        self.now = NOW
        self.review_error: Exception | None = None
        self._registry, self._ready, self._begun = registry, asyncio.Event(), asyncio.Event()
        self.lanes: Lanes[ObjectKey] = Lanes(
            self._ask, clock=lambda: self.now, ready=lambda _: self._ready.set(), limits=Limits(settle=0)
        )
        self.importer = Importer(
            lanes=self.lanes,
            credentials=self._credentials,
            publish=self._publish,
            announce=lambda _, transition: self.heard.append(transition),
            clock=lambda: self.now,
            rules=rules or ImportRules(),
            watermark=None,
            streams=self.streams.get,
            may_pull=self._may_pull,
        )

    def add(self, *streams: ImageStream) -> None:
        self.streams.update({each.key: each for each in streams})

    async def round(self, key: ObjectKey, hints: Iterable[str] = ()) -> datetime | None:
        return await self.importer.round(self.streams[key], frozenset(hints))

    async def looked_up(self, present: ImageStream) -> None:
        """Have its tags, and its repository's, asked for once more, as an import request does."""
        other = stream(*present.spec_tags, repository=present.repository or None, name="request", uid="request")
        self.add(other)
        await self.settled(other.key)
        self.importer.forget(other.key)

    async def settled(self, key: ObjectKey, hints: Iterable[str] = ()) -> None:
        """Rounds until nothing is asked any more."""
        await self.round(key, hints)
        while self.importer.under_way(key):
            await self.answered(key)
            await self.round(key)

    async def answered(self, key: ObjectKey, count: int = 1) -> None:
        """Until so many answers have come."""
        async with asyncio.timeout(10):
            while len(self.lanes.peek(key)) < count:
                await self._ready.wait()
                self._ready.clear()

    async def begun(self) -> None:
        """Until a registry is being asked."""
        async with asyncio.timeout(10):
            await self._begun.wait()

    async def _ask(self, question: Question) -> Answered:
        self.asked.append(question)
        self._begun.set()
        return await self._registry(question)

    async def _credentials(self, present: ImageStream) -> tuple[Entry, ...]:
        self.credentials_of.append(present.metadata.name)
        return ()

    async def _publish(self, old: ImageStream, status: Status) -> ImageStream:
        self.writes += 1
        written = self.streams[old.key] = stored(old, status)
        return written

    async def _may_pull(self, consumer: str, key: ObjectKey) -> bool:
        self.reviews.append((consumer, key))
        if self.review_error:
            raise self.review_error
        return (consumer, key) in self.rights


@asynccontextmanager
async def running(
    registry: Callable[[Question], Awaitable[Answered]], rules: ImportRules | None = None
) -> AsyncIterator[Installation]:
    installation = Installation(registry, rules)
    working = asyncio.create_task(installation.lanes.run())
    try:
        yield installation
    finally:
        await installation.lanes.close()
        await working


def served(letter: str) -> Callable[[Question], Awaitable[Answered]]:
    async def answer(question: Question) -> Answered:
        if isinstance(question, Listing):
            return Listed(("1", "2"), 2, True)
        assert isinstance(question, Lookup)
        return Resolved(Served(digest(letter), digest(letter)), question.reference)

    return answer


def base(*letters: str, version: str = "1") -> ImageStream:
    items = tuple(
        TagEvent(created=NOW, docker_image_reference=pinned(letter), image=digest(letter)) for letter in letters
    )
    found = stream(namespace="shared", name="base", uid="base", status=Status(tags=(StatusTag(tag="1", items=items),)))
    return msgspec.structs.replace(found, metadata=msgspec.structs.replace(found.metadata, resource_version=version))


CONSUMER = stream(follower("latest", "base:1", namespace="shared"))


def newest(installation: Installation, key: ObjectKey = CONSUMER.key, name: str = "latest") -> str | None:
    found = installation.streams[key].status_tag(name)
    return found.newest.image if found and found.newest else None


# --- rights -----------------------------------------------------------------------------------------------------------


async def test_a_right_is_asked_for_when_something_would_change_and_only_then():
    async with running(served("a")) as installation:
        installation.add(CONSUMER, base("a"))
        installation.rights.add(("team", BASE))
        assert await installation.round(CONSUMER.key) is None
        assert (newest(installation), installation.reviews) == (digest("a"), [("team", BASE)])
        for _ in range(3):
            await installation.round(CONSUMER.key)
        assert (len(installation.reviews), installation.writes) == (1, 1)
        installation.add(base("b", "a", version="2"))
        await installation.round(CONSUMER.key)
        assert (newest(installation), len(installation.reviews)) == (digest("b"), 2)


async def test_a_denial_is_asked_about_again_after_a_while_or_when_something_changes():
    async with running(served("a")) as installation:
        installation.add(CONSUMER, base("a"))
        assert await installation.round(CONSUMER.key) == NOW + LOOK_AGAIN
        await installation.round(CONSUMER.key)
        assert (newest(installation), len(installation.reviews), installation.writes) == (None, 1, 1)
        installation.now += LOOK_AGAIN
        await installation.round(CONSUMER.key)
        assert len(installation.reviews) == 2
        installation.add(base("b", "a", version="2"))
        assert await installation.round(CONSUMER.key) == installation.now + FLOOR, "not at once again"
        installation.now += FLOOR
        await installation.round(CONSUMER.key)
        assert len(installation.reviews) == 3
        installation.now += FLOOR
        installation.add(edited(installation.streams[CONSUMER.key], refresh="n1"))
        installation.rights.add(("team", BASE))
        await installation.round(CONSUMER.key)
        assert (newest(installation), len(installation.reviews)) == (digest("b"), 4)


async def test_a_denial_that_is_repeated_is_asked_about_ever_less_often():
    async with running(served("a")) as installation:
        installation.add(CONSUMER, base("a"))
        waits, last = [], installation.now
        await installation.round(CONSUMER.key)
        while len(installation.reviews) < 8:
            before = len(installation.reviews)
            installation.now += LOOK_AGAIN
            assert await installation.round(CONSUMER.key) == installation.now + LOOK_AGAIN
            if len(installation.reviews) > before:
                waits.append((installation.now - last) / LOOK_AGAIN)
                last = installation.now
        assert waits == [1, 2, 4, 8, 15, 15, 15]
        installation.add(base("b", "a", version="2"))
        await installation.round(CONSUMER.key)
        installation.now += FLOOR
        await installation.round(CONSUMER.key)
        assert len(installation.reviews) == 9, "a change ends the wait"
        installation.now += LOOK_AGAIN
        await installation.round(CONSUMER.key)
        assert len(installation.reviews) == 10, "and it begins anew"


async def test_a_right_that_nothing_needs_any_more_is_forgotten():
    async with running(served("a")) as installation:
        installation.add(CONSUMER, base("a"))
        await installation.round(CONSUMER.key)
        assert installation.importer._memory[CONSUMER.key].denied.keys() == {BASE}
        installation.add(edited(installation.streams[CONSUMER.key], tag()))
        await installation.round(CONSUMER.key)
        assert installation.importer._memory[CONSUMER.key].denied == {}


def many(count: int, *letters: str, version: str = "1") -> list[ImageStream]:
    """Streams of another namespace."""
    found = []
    for number in range(count):
        one = base(*letters)
        meta = msgspec.structs.replace(one.metadata, name=f"s{number:03}", resource_version=version)
        found.append(msgspec.structs.replace(one, metadata=meta))
    return found


async def test_of_a_stream_that_names_many_a_few_are_asked_about_at_a_time():
    count = 150
    async with running(served("a")) as installation:
        consumer = stream(
            *(follower(f"t{number:03}", f"s{number:03}:1", namespace="shared") for number in range(count))
        )
        installation.add(consumer, *many(count, "a"))
        installation.rights |= {("team", other.key) for other in many(count)}

        def imported(letter: str) -> int:
            return sum(newest(installation, consumer.key, f"t{n:03}") == digest(letter) for n in range(count))

        for _ in range(3):  # others change the stream all the time
            assert await installation.round(consumer.key) == installation.now + LOOK_AGAIN
            assert (len(installation.reviews), imported("a")) == (64, 64)
        said = installation.streams[consumer.key].status_tag("t149")
        assert said is not None
        assert said.outcome is not None
        assert said.outcome.reason == "TagNotFound", "in the words for what is absent"
        for expected in (128, 150):
            installation.now += LOOK_AGAIN
            await installation.round(consumer.key)
            assert (len(installation.reviews), imported("a")) == (expected, expected)
        # All move: those that had to wait keep what they have, and nothing is said of them.
        installation.now += LOOK_AGAIN
        installation.add(*many(count, "b", "a", version="2"))
        installation.heard.clear()
        await installation.round(consumer.key)
        assert (imported("b"), imported("a")) == (64, 86)
        assert {type(step) for step in installation.heard} == {TagMoved}
        for _ in range(2):
            installation.now += LOOK_AGAIN
            await installation.round(consumer.key)
        assert imported("b") == count
        assert await installation.round(consumer.key) is None


async def test_who_was_never_asked_about_comes_first():
    """Denials do not keep those behind them from being asked about."""
    count = 100
    async with running(served("a")) as installation:
        consumer = stream(
            *(follower(f"t{number:03}", f"s{number:03}:1", namespace="shared") for number in range(count))
        )
        installation.add(consumer, *many(count, "a"))
        for _ in range(2):
            await installation.round(consumer.key)
            installation.now += LOOK_AGAIN
        asked = [key.name for _, key in installation.reviews]
        assert len(set(asked)) == count
        assert len(asked) == 128


async def test_the_streams_own_namespace_is_never_asked_about():
    async with running(served("a")) as installation:
        installation.add(stream(follower("latest", "app:1", namespace="shared"), namespace="shared", name="web"))
        installation.add(stream(tag("1"), namespace="shared", name="app"))
        await installation.round(ObjectKey("shared", "web"))
        assert installation.reviews == []


async def test_a_right_that_cannot_be_asked_for_leaves_everything_as_it_is():
    async with running(served("a")) as installation:
        installation.add(CONSUMER, base("a"))
        installation.review_error = ConnectionError("the API server is away")
        with pytest.raises(ConnectionError):
            await installation.round(CONSUMER.key)
        assert (installation.writes, installation.heard) == (0, [])
        installation.review_error = None
        installation.rights.add(("team", BASE))
        await installation.round(CONSUMER.key)
        assert newest(installation) == digest("a")


async def test_what_changes_while_a_right_is_asked_for_needs_its_own():
    second = ObjectKey("shared", "other")
    async with running(served("a")) as installation:
        consumer = stream(
            follower("latest", "base:1", namespace="shared"), follower("x", "other:1", namespace="shared")
        )
        installation.add(consumer, base("a"))
        installation.rights |= {("team", BASE), ("team", second)}
        may_pull = installation._may_pull

        async def meanwhile(namespace: str, key: ObjectKey) -> bool:
            found = base("c")
            meta = msgspec.structs.replace(found.metadata, name="other")
            installation.add(msgspec.structs.replace(found, metadata=meta))
            return await may_pull(namespace, key)

        installation.importer._may_pull = meanwhile
        await installation.round(consumer.key)
        assert (newest(installation), newest(installation, name="x")) == (digest("a"), digest("c"))
        assert installation.reviews == [("team", BASE), ("team", second)]


# --- who follows whom -------------------------------------------------------------------------------------------------


async def test_followers_are_known_while_they_follow():
    async with running(served("a")) as installation:
        importer, key = installation.importer, CONSUMER.key
        installation.add(CONSUMER)
        await installation.round(key)
        assert importer.followers(BASE) == {key}
        assert importer.followers(key) == frozenset()
        installation.add(edited(CONSUMER, follower("latest", "other:1")))
        await installation.round(key)
        assert (importer.followers(BASE), importer.followers(ObjectKey("team", "other"))) == (frozenset(), {key})
        importer.forget(key)
        assert importer.followers(ObjectKey("team", "other")) == frozenset()
        assert (importer._followed, importer._followers) == ({}, {})


# --- what is under way ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_seen_gone", [True, False])
async def test_a_namespace_that_was_created_again_under_a_lookup_gets_nothing_of_it(is_seen_gone: bool):
    gate = asyncio.Event()

    async def slow(question: Question) -> Answered:
        await gate.wait()
        assert isinstance(question, Lookup)
        letter = "b" if question.reference.tag == "other" else "a"
        return Resolved(Served(digest(letter), digest(letter)), question.reference)

    async with running(slow) as installation:
        first = stream(tag())
        installation.add(first)
        await installation.round(first.key)
        await installation.begun()
        again = stream(tag(image="quay.io/acme/app:other"), uid="uid-2")
        if is_seen_gone:
            installation.importer.forget(first.key)
        installation.add(again)
        await installation.round(again.key)
        gate.set()
        await installation.answered(again.key)
        await installation.round(again.key)
        assert newest(installation, again.key) == digest("b")
        assert installation.writes == 1
        assert installation.lanes.peek(again.key) == ()


async def test_other_rules_withdraw_what_was_asked_by_the_old_ones():
    gate = asyncio.Event()

    async def slow(question: Question) -> Answered:
        await gate.wait()
        return await served("a")(question)

    async with running(slow) as installation:
        present = stream(tag("a"), tag("b", "ghcr.io/x:1"))
        installation.add(present)
        await installation.round(present.key)
        assert installation.lanes.pending(present.key) == {"a", "b"}
        policy = Policy(hosts={"ghcr.io": HostRule(endpoint="https://mirror.example")}, blocked=("quay.io",))
        installation.importer.use(ImportRules(policy=policy))
        await installation.round(present.key)
        assert installation.lanes.pending(present.key) == {"b"}
        gate.set()
        await installation.answered(present.key)
        await installation.round(present.key)
        assert newest(installation, present.key, "b") == digest("a")
        assert newest(installation, present.key, "a") is None
        assert installation.asked[-1].transport.endpoint == "https://mirror.example"


async def test_the_same_rules_again_withdraw_nothing():
    gate = asyncio.Event()

    async def never(question: Question) -> Answered:
        await gate.wait()
        return await served("a")(question)

    async with running(never) as installation:
        present = stream(tag())
        installation.add(present)
        await installation.round(present.key)
        await installation.begun()
        installation.importer.use(ImportRules())
        await installation.round(present.key)
        assert (len(installation.asked), installation.lanes.load()) == (1, (0, 1))


async def test_a_suspension_withdraws_what_is_under_way():
    gate = asyncio.Event()

    async def slow(question: Question) -> Answered:
        await gate.wait()
        return await served("a")(question)

    async with running(slow) as installation:
        present = stream(tag())
        installation.add(present)
        await installation.round(present.key)
        installation.add(edited(present, suspend="true"))
        await installation.round(present.key)
        assert installation.lanes.pending(present.key) == frozenset()
        gate.set()
        installation.add(edited(installation.streams[present.key]))
        await installation.round(present.key)
        await installation.answered(present.key)
        await installation.round(present.key)
        assert newest(installation, present.key) == digest("a")


async def test_a_repository_goes_through_the_lanes():
    async with running(served("a")) as installation:
        present = stream(repository="quay.io/acme/app")
        installation.add(present)
        await installation.round(present.key)
        await installation.answered(present.key)
        await installation.round(present.key)
        await installation.answered(present.key, 2)
        assert await installation.round(present.key) is None
        found = installation.streams[present.key].status
        assert found is not None
        assert [each.tag for each in found.tags or ()] == ["1", "2"]
        assert found.ready is not None
        assert (found.ready.status, installation.writes) == ("True", 1)
        assert installation.credentials_of == ["app", "app"], "asked by stream, once for each portion"


# --- what an import request was answered ------------------------------------------------------------------------------

WEB = stream(tag("latest"), name="web")
APP = stream(repository="quay.io/acme/app", name="web")


def serving(letters: list[str]) -> Callable[[Question], Awaitable[Answered]]:
    """A registry that serves the last of these, to which the test adds what is pushed; after "!" it cannot."""

    async def answer(question: Question) -> Answered:
        if letters[-1] == "!":
            raise Unavailable("quay.io failed (503)")
        return await served(letters[-1])(question)

    return answer


@pytest.mark.parametrize(
    ("since", "refresh", "expected"),
    [
        pytest.param([10], None, "a", id="it was answered"),
        pytest.param([10], "n1 latest", "b", id="and is asked for by name"),
        pytest.param([61], None, "b", id="it was answered long ago"),
        pytest.param([8, 20], None, "b", id="it was answered, and a later request found nothing"),
    ],
)
async def test_what_a_request_was_answered_serves_a_new_tag(since: list[int], refresh: str | None, expected: str):
    """The tag was looked up ten seconds ago; requests were answered so many seconds ago, in another order."""
    letters = ["a"]
    async with running(serving(letters)) as installation:
        await installation.looked_up(WEB)
        letters.append("b")
        installation.now += timedelta(seconds=10)
        for seconds in since:
            installation.importer.foresee(WEB.key, frozenset({"latest"}), installation.now - timedelta(seconds=seconds))
        installation.add(stream(tag("latest"), name="web", refresh=refresh))
        await installation.settled(WEB.key)
        assert newest(installation, WEB.key) == digest(expected)


async def test_a_polling_slot_is_not_served_by_what_a_request_was_answered():
    letters = ["a"]
    async with running(serving(letters)) as installation:
        installation.add(stream(tag("latest", scheduled=True), name="web"))
        await installation.settled(WEB.key)
        installation.now += ImportRules().interval
        await installation.looked_up(WEB)
        letters.append("b")
        installation.importer.foresee(WEB.key, frozenset({"latest"}), installation.now)
        await installation.settled(WEB.key)
        assert newest(installation, WEB.key) == digest("b")


async def carried_out(installation: Installation) -> None:
    """A request for the whole repository was answered, and is carried out two seconds later."""
    since = installation.now
    await installation.looked_up(APP)
    installation.add(APP)
    installation.asked.clear()
    installation.now += timedelta(seconds=2)
    installation.importer.foresee(APP.key, frozenset({REPOSITORY}), since)
    await installation.settled(APP.key)
    assert installation.asked == []
    assert [newest(installation, APP.key, name) for name in ("1", "2")] == [digest("a")] * 2


async def test_what_is_edited_after_the_import_of_a_repository_is_asked_for():
    letters = ["a"]
    async with running(serving(letters)) as installation:
        await carried_out(installation)
        letters.append("b")
        installation.add(edited(installation.streams[APP.key], tag("named", "quay.io/acme/app:1")))
        await installation.settled(APP.key)
        assert newest(installation, APP.key, "named") == digest("b")


async def test_a_repository_that_is_left_and_taken_again_is_listed_anew():
    letters = ["a"]
    async with running(serving(letters)) as installation:
        await carried_out(installation)
        letters.append("b")
        for repository in ("quay.io/acme/other", "quay.io/acme/app"):
            installation.asked.clear()
            installation.add(edited(installation.streams[APP.key], repository=repository))
            await installation.settled(APP.key)
            assert [each.reference.tag or REPOSITORY for each in installation.asked] == [REPOSITORY, "1", "2"]


async def test_a_retry_is_not_served_by_what_a_request_was_answered():
    """Or who asks by name, in vain at first, would be given what is older."""
    letters = ["a"]
    async with running(serving(letters)) as installation:
        await carried_out(installation)
        letters.append("!")
        installation.now += FLOOR
        installation.add(edited(installation.streams[APP.key], refresh="n1 1"))
        await installation.settled(APP.key)
        letters.append("b")
        installation.now += timedelta(seconds=30)
        await installation.settled(APP.key)
        assert newest(installation, APP.key, "1") == digest("b")


@pytest.mark.parametrize(
    ("earlier", "later", "now", "expected"),
    [
        pytest.param((), (), (), "a", id="nobody has seen it move"),
        pytest.param(("latest",), (), (), "a", id="somebody did before the request"),
        pytest.param((), ("latest",), (), "b", id="somebody did since"),
        pytest.param((), (), ("latest",), "b", id="somebody did, at the moment it is carried out"),
        pytest.param((), ("other",), ("other",), "a", id="somebody saw another move"),
    ],
)
async def test_what_a_request_was_answered_counts(
    earlier: tuple[str, ...], later: tuple[str, ...], now: tuple[str, ...], expected: str
):
    letters = ["a"]
    async with running(serving(letters), ImportRules(refresh_floor=FLOOR)) as installation:
        installation.add(WEB)
        await installation.settled(WEB.key)
        await installation.round(WEB.key, earlier)
        installation.now += timedelta(seconds=1)
        since = installation.now
        await installation.looked_up(WEB)
        letters.append("b")
        installation.now += timedelta(seconds=1)
        await installation.round(WEB.key, later)
        installation.now += timedelta(seconds=1)
        installation.importer.foresee(WEB.key, frozenset({"latest"}), since)
        await installation.round(WEB.key, now)
        installation.now += FLOOR  # so long it is not asked again
        await installation.settled(WEB.key)
        assert newest(installation, WEB.key) == digest(expected)


@pytest.mark.parametrize(
    ("hints", "asked"),
    [
        pytest.param((), [], id="nobody has seen any move"),
        pytest.param(("1",), ["1"], id="a tag that nobody here knows yet"),
        pytest.param((REPOSITORY,), [REPOSITORY, "1", "2"], id="the list"),
    ],
)
async def test_what_a_request_was_answered_of_a_repository_counts(hints: tuple[str, ...], asked: list[str]):
    async with running(served("a")) as installation:
        present = stream(repository="quay.io/acme/app")
        since = installation.now
        await installation.looked_up(present)
        installation.asked.clear()
        installation.add(present)
        installation.now += timedelta(seconds=2)
        installation.importer.foresee(present.key, frozenset({REPOSITORY}), since)
        await installation.settled(present.key, hints)
        assert [newest(installation, present.key, name) for name in ("1", "2")] == [digest("a")] * 2
        assert [each.reference.tag or REPOSITORY for each in installation.asked] == asked


async def test_other_rules_lose_neither_a_retry_nor_what_the_old_ones_refused():
    """An administrator's edit of another host comes while the retry is being asked."""
    gate, failing = asyncio.Event(), [True]

    async def shaky(question: Question) -> Answered:
        if failing:
            raise Unavailable("quay.io failed (503)")
        await gate.wait()
        return await served("a")(question)

    async with running(shaky) as installation:
        present = stream(tag("a"), tag("b", "ghcr.io/x:1"))
        installation.add(present)
        installation.importer.use(ImportRules(policy=Policy(hosts={}, blocked=("ghcr.io",))))
        await installation.round(present.key)
        await installation.answered(present.key)
        again = await installation.round(present.key)
        assert again is not None
        failing.clear()
        installation.now = again
        await installation.round(present.key)
        assert installation.lanes.pending(present.key) == {"a"}
        installation.importer.use(ImportRules())
        await installation.round(present.key)
        if "b" not in installation.lanes.pending(present.key):
            installation.now += timedelta(seconds=10)
            await installation.round(present.key)
        assert installation.lanes.pending(present.key) == {"a", "b"}
        gate.set()
        await installation.answered(present.key, 2)
        await installation.round(present.key)
        assert [newest(installation, present.key, name) for name in "ab"] == [digest("a")] * 2


async def test_what_other_rules_may_allow_is_asked_for_although_a_write_fails():
    async def denying(_: Question) -> Answered:
        raise Unauthorized("quay.io wants a login")

    async with running(denying) as installation:
        present = stream(tag(), follower("x", "latest"))
        installation.add(present)
        await installation.round(present.key)
        await installation.answered(present.key)
        assert await installation.round(present.key) is None
        publish = installation.importer._publish

        async def away(_: ImageStream, __: Status) -> ImageStream:
            raise ConnectionError("the API server is away")

        installation.importer._publish = away
        installation.now += timedelta(minutes=1)
        installation.importer.use(ImportRules(interval=timedelta(minutes=5)))
        installation.add(edited(installation.streams[present.key], tag(), tag("x", "no image::")))
        with pytest.raises(ConnectionError):
            await installation.round(present.key)
        installation.importer._publish = publish
        await installation.round(present.key)
        assert installation.lanes.pending(present.key) == {"latest"}


@pytest.mark.parametrize(
    ("interval", "hours", "counts"),
    [("15m", 0.5, True), ("15m", 2, False), ("24h", 2, True), ("24h", 23, True), ("24h", 25, False)],
)
async def test_a_slot_that_is_put_off_counts_for_its_interval(interval: str, hours: float, counts: bool):
    async with running(served("a")) as installation:
        present = stream(tag(scheduled=True), interval=interval)
        installation.add(present)
        await installation.round(present.key)
        await installation.answered(present.key)
        again = await installation.round(present.key)
        assert again is not None
        installation.now = begin = again
        assert installation.importer.oldest_unserved() is None

        async def away(_: Question) -> Answered:
            raise Exhausted("quay.io", begin + timedelta(days=3))

        installation._registry = away
        await installation.round(present.key)
        await installation.answered(present.key)
        await installation.round(present.key)
        installation.now = begin + timedelta(hours=hours)
        assert (installation.importer.oldest_unserved() == begin) == counts


async def test_overdue_tags_are_counted_by_host():
    gate = asyncio.Event()

    async def slow(question: Question) -> Answered:
        await gate.wait()
        return await served("a")(question)

    async with running(served("a")) as installation:
        installation._registry = slow
        tags = [
            tag(f"t{n}", f"{host}/x:{n}", scheduled=True) for n, host in enumerate(["quay.io", "quay.io", "ghcr.io"])
        ]
        present = stream(*tags)
        installation.add(present)
        await installation.round(present.key)
        assert installation.importer.overdue() == {}
        for _ in range(2):
            installation.now += timedelta(minutes=16)
            await installation.round(present.key)
        installation.now += timedelta(minutes=16)
        assert installation.importer.overdue() == {"quay.io": 2, "ghcr.io": 1}
        installation.importer.forget(present.key)
        assert installation.importer.overdue() == {}
        gate.set()


# --- size -------------------------------------------------------------------------------------------------------------


async def test_a_status_that_does_not_fit_is_made_smaller_until_it_does():
    """The spec may take what the budget of the settings counts on, and only the API server knows how much is left."""
    present = stream(*(tag(f"t{number:03}") for number in range(400)))
    sizes: list[int] = []

    async def publish(old: ImageStream, status: Status) -> ImageStream:
        sizes.append(len(encode(status)))
        if sizes[-1] > ROOM:
            raise ObjectTooLarge("etcdserver: request is too large")
        return msgspec.structs.replace(old, status=status)

    async with running(served("a")) as installation:
        installation.importer._publish = publish
        installation.add(present)
        await installation.round(present.key)
        await installation.answered(present.key, 400)
        for _ in range(10):  # what the work queue does with a key that failed
            try:
                await installation.round(present.key)
                break
            except ObjectTooLarge:
                continue
        else:
            pytest.fail(f"never small enough: {sizes}")

    assert sizes[0] > ROOM >= sizes[-1]


class Etcd:
    """Takes a stream of so many bytes, and keeps it."""

    def __init__(self, installation: Installation, room: int) -> None:
        self.installation, self.room, self.refused = installation, room, 0

    async def publish(self, old: ImageStream, status: Status) -> ImageStream:
        if len(encode(old.spec)) + len(encode(status)) > self.room:  # type: ignore[arg-type]
            self.refused += 1
            raise ObjectTooLarge("etcdserver: request is too large")
        written = self.installation.streams[old.key] = stored(old, status)
        return written

    async def settle(self, key: ObjectKey) -> int:
        """Rounds until one is written; returns how many tags the status has."""
        installation = self.installation
        async with asyncio.timeout(10):
            while True:
                try:
                    await installation.round(key)
                except ObjectTooLarge:
                    continue
                if not installation.lanes.pending(key):
                    status = installation.streams[key].status
                    return len((status and status.tags) or ())
                await installation.answered(key)


@pytest.mark.parametrize("how", ["time", "a smaller spec", "settings", "nothing"])
async def test_a_status_that_was_made_smaller_grows_again(how: str):
    tags = [tag(f"t{number:03}", f"quay.io/acme/app-{number}:1") for number in range(200)]
    async with running(served("a")) as installation:
        etcd = Etcd(installation, ROOM)
        installation.importer._publish = etcd.publish
        installation.add(stream(*tags))
        key = ObjectKey("team", "app")
        recorded = await etcd.settle(key)
        assert 0 < recorded < len(tags)
        assert etcd.refused > 0
        etcd.room, etcd.refused = 10 * ROOM, 0
        match how:
            case "time":
                installation.now += timedelta(hours=1)
            case "a smaller spec":
                installation.now += timedelta(minutes=20)
                installation.add(edited(installation.streams[key], *tags[:-1]))
            case "settings":
                installation.now += timedelta(minutes=20)
                installation.importer.use(ImportRules(status_budget=2 << 20))
            case _:
                installation.now += timedelta(minutes=20)
                installation.importer.use(ImportRules(interval=timedelta(minutes=10)))
        grown = await etcd.settle(key)
        assert etcd.refused == 0
        assert grown == (recorded if how == "nothing" else len(tags) - (how == "a smaller spec"))


async def test_settings_may_make_a_small_status_smaller_still():
    async with running(served("a")) as installation:
        etcd = Etcd(installation, ROOM)
        installation.importer._publish = etcd.publish
        installation.add(stream(*(tag(f"t{number:03}", f"quay.io/acme/app-{number}:1") for number in range(200))))
        key = ObjectKey("team", "app")
        recorded = await etcd.settle(key)
        memory = installation.importer._memory[key]
        installation.importer.use(ImportRules(status_budget=20_000))
        assert installation.importer._budget(installation.streams[key], memory) == 20_000
        assert await etcd.settle(key) == recorded, "what is recorded is never dropped"
