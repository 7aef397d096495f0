"""Tags that have what another stream has: followed live, by right across namespaces, never in a circle; and images of a
history, by the begin of their digests.
"""

from __future__ import annotations

import random
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagestreams.core.following import Chains, ImageIndex
from imagestreams.core.merging import LOOK_AGAIN, TagFailed, TagMoved, TagRecovered, merge_status
from imagestreams.core.stream import (
    MAX_HOPS,
    ImageStream,
    Istag,
    ObjectKey,
    Status,
    StatusTag,
    TagCondition,
    TagEvent,
    TagReference,
    latest_image,
)
from imagestreams.core.wish import ImportRules, followed_streams
from tests.core.streams import NOW, Rounds, digest, follower, minutes, pinned, resolved, stored, stream, tag, why

RULES = ImportRules()
SHARED = ObjectKey("shared", "base")


def item(letter: str, repository: str = "quay.io/acme/base") -> TagEvent:
    return TagEvent(created=NOW, docker_image_reference=f"{repository}@{digest(letter)}", image=digest(letter))


def base(*letters: str, namespace: str = "team", name: str = "base", spec: TagReference | None = None) -> ImageStream:
    """Another stream, whose tag 1 has had these images, the newest first."""
    recorded = StatusTag(tag="1", items=tuple(item(letter) for letter in letters))
    return stream(
        spec or tag("1", "quay.io/acme/base:1"),
        namespace=namespace,
        name=name,
        uid=f"uid-{name}",
        status=Status(tags=(recorded,)),
    )


def shared(*letters: str) -> ImageStream:
    """The stream of another namespace."""
    return base(*letters, namespace="shared")


FOREIGN = follower("latest", "base:1", namespace="shared")


def outcome(rounds: Rounds, name: str = "latest") -> TagCondition:
    found = rounds.status_tag(name).outcome
    assert found is not None
    return found


# --- streams of the same namespace ------------------------------------------------------------------------------------


def test_a_tag_has_what_the_tag_of_another_stream_has():
    rounds = Rounds(stream(follower("latest", "base:1")), others=[base("a")])
    assert why(rounds.round()) == {}
    assert rounds.take_heard() == [TagMoved("latest", "", pinned("a", "quay.io/acme/base"))]
    assert (rounds.ready, rounds.writes) == (("True", "Imported"), 1)
    with rounds.unwritten():
        rounds.round()
    rounds.others[ObjectKey("team", "base")] = base("b", "a")
    rounds.round()
    assert rounds.history() == ["b", "a"]
    assert rounds.heard == [TagMoved("latest", *(pinned(letter, "quay.io/acme/base") for letter in "ab"))]


def test_what_is_copied_is_pinned_by_its_own_digest():
    forged = TagEvent(created=NOW, docker_image_reference="quay.io/acme/base:latest", image=digest("a"))
    other = base().with_status(Status(tags=(StatusTag(tag="1", items=(forged,)),)))
    rounds = Rounds(stream(follower("latest", "base:1")), others=[other])
    rounds.round()
    newest = rounds.status_tag().newest
    assert newest is not None
    assert newest.docker_image_reference == pinned("a", "quay.io/acme/base")


@pytest.mark.parametrize(
    "event",
    [
        pytest.param(TagEvent(docker_image_reference="no reference::", image=digest("a")), id="no reference"),
        pytest.param(TagEvent(docker_image_reference="quay.io/acme/x", image="sha256:abc"), id="no digest"),
        pytest.param(TagEvent(docker_image_reference="quay.io", image=digest("a")), id="a registry"),
        pytest.param(TagEvent(docker_image_reference="evil.test/x:1", image=""), id="a forged reference"),
    ],
)
def test_what_is_no_image_there_is_not_copied(event: TagEvent):
    other = base().with_status(Status(tags=(StatusTag(tag="1", items=(event,)),)))
    rounds = Rounds(stream(follower("latest", "base:1")), others=[other])
    rounds.round()
    assert "latest" not in {name.tag for name in (rounds.stream.status or Status()).tags or () if name.items}


@pytest.mark.parametrize("is_reference", [True, False])
def test_a_reference_is_copied_where_spec_there_says_that_it_is_one(is_reference: bool):
    written = TagEvent(created=NOW, docker_image_reference="quay.io/acme/base:1", image="")
    spec = tag("1", "quay.io/acme/base:1", reference=is_reference)
    other = base(spec=spec).with_status(Status(tags=(StatusTag(tag="1", items=(written,)),)))
    rounds = Rounds(stream(follower("latest", "base:1"), follower("x", "latest")), others=[other])
    rounds.round()
    recorded = (rounds.stream.status or Status()).tag("x")
    assert bool(recorded and recorded.items) == is_reference


def test_a_stream_that_is_not_there_is_said_and_found_later():
    rounds = Rounds(stream(follower("latest", "base:1")))
    assert rounds.round().look_again is None
    assert (outcome(rounds).reason, outcome(rounds).message) == (
        "TagNotFound",
        'ImageStreamTag "base:1" is not there yet',
    )
    rounds.others[ObjectKey("team", "base")] = base("a")
    rounds.round()
    assert rounds.ready == ("True", "Imported")


def test_an_import_that_is_under_way_there_is_awaited():
    other = stream(tag("1"), name="base")
    rounds = Rounds(stream(follower("latest", "base:1")), others=[other])
    with rounds.unwritten():
        rounds.round()


def test_a_tag_that_goes_there_leaves_what_it_gave():
    rounds = Rounds(stream(follower("latest", "base:1")), others=[base("a")])
    rounds.round()
    rounds.others.clear()
    rounds.round()
    assert rounds.history() == ["a"]
    assert outcome(rounds).reason == "TagNotFound"
    rounds.others[ObjectKey("team", "base")] = base("a")
    rounds.take_heard()
    rounds.round()
    assert rounds.heard == [TagRecovered("latest")]


def test_the_streams_that_are_followed_are_named():
    spec = stream(
        tag("a"),
        follower("b", "a"),
        follower("c", "app:a"),
        follower("d", "base:1"),
        follower("e", "base:1", namespace="shared"),
        tag("f", "tools@a1", kind="ImageStreamImage"),
        tag("g", "a1", kind="ImageStreamImage"),
        follower("h", "::"),
    )
    assert followed_streams(spec) == {ObjectKey("team", "base"), SHARED, ObjectKey("team", "tools")}


def test_a_consumer_of_a_tag_that_follows_a_reference_of_its_stream_gets_it():
    rounds = Rounds(stream(follower("latest", "1"), tag("1", reference=True)))
    rounds.round()
    image = latest_image(rounds.stream, "latest", rounds.others.get)
    assert image is not None
    assert (image.pull_spec, image.digest) == ("quay.io/acme/app:latest", "")


@pytest.mark.parametrize("namespace", ["team", "shared"])
def test_a_consumer_of_a_tag_that_follows_a_reference_of_another_stream_gets_it(namespace: str):
    """What is imported is what rolls out: both go by one rule."""
    base = Rounds(
        stream(tag("1", "quay.io/acme/app:1", reference=True), follower("2", "1"), name="base", namespace=namespace)
    )
    base.round()
    others = [base.stream]
    rounds = Rounds(stream(follower("latest", "base:2", namespace=namespace)), others=others, may_pull=[SHARED])
    rounds.round()
    assert rounds.ready == ("True", "Imported")
    image = latest_image(rounds.stream, "latest", rounds.others.get)
    assert image is not None
    assert (image.pull_spec, image.digest) == ("quay.io/acme/app:1", "")


# --- streams of other namespaces --------------------------------------------------------------------------------------


def test_another_namespaces_tag_needs_the_right():
    rounds = Rounds(stream(FOREIGN), others=[shared("a")], may_pull=[SHARED])
    update = rounds.merge()
    assert (rounds.history(), update.rights, update.look_again) == (["a"], {SHARED}, None)


def test_denied_and_absent_look_the_same():
    def seen(*others: ImageStream) -> Any:
        rounds = Rounds(stream(FOREIGN), others=others)
        update = rounds.merge()
        return update.stream, update.look_again, update.transitions

    denied = seen(shared("a"))
    assert denied == seen() == seen(shared()) == seen(base("a", namespace="shared", name="other"))
    found, look_again, transitions = denied
    assert look_again == NOW + LOOK_AGAIN
    assert [type(step) for step in transitions] == [TagFailed]
    assert found.status.tags[0].conditions[0].reason == "TagNotFound"
    assert '"base:1" of namespace "shared"' in found.status.tags[0].conditions[0].message


def test_an_image_that_is_denied_or_absent_looks_the_same():
    wanted = tag("latest", "base@aaaa", kind="ImageStreamImage", namespace="shared")

    def seen(*others: ImageStream) -> Any:
        return Rounds(stream(wanted), others=others).merge().stream

    ambiguous = TagEvent(docker_image_reference="quay.io/x", image=f"sha256:{'a' * 63}b")
    two = shared("a").with_status(Status(tags=(StatusTag(tag="1", items=(item("a"), ambiguous)),)))
    assert seen() == seen(shared("a")) == seen(shared("b")) == seen(two)
    assert seen().status.tags[0].conditions[0].reason == "ImageNotFound"


def test_no_right_is_asked_for_while_nothing_changes():
    rounds = Rounds(stream(FOREIGN), others=[shared("a")], may_pull=[SHARED])
    rounds.round()
    rounds.may_pull = frozenset()
    with rounds.unwritten():
        update = rounds.merge()
        assert (update.rights, update.look_again) == (frozenset(), None)


def test_a_move_needs_the_right_again_and_without_it_what_was_there_stays():
    rounds = Rounds(stream(FOREIGN), others=[shared("a")], may_pull=[SHARED])
    rounds.round()
    rounds.may_pull = frozenset()
    rounds.others[SHARED] = shared("b", "a")
    update = rounds.merge()
    assert (update.rights, update.look_again) == ({SHARED}, NOW + LOOK_AGAIN)
    assert (rounds.history(), outcome(rounds).reason) == (["a"], "TagNotFound")
    with rounds.unwritten():
        rounds.wait(minutes(1))
        assert rounds.merge().rights == {SHARED}
    rounds.may_pull = frozenset({SHARED})
    rounds.round()
    assert (rounds.history(), outcome(rounds).status) == (["b", "a"], "True")


def test_recovery_needs_the_right_too():
    rounds = Rounds(stream(FOREIGN), others=[shared("a")], may_pull=[SHARED])
    rounds.round()
    rounds.others.clear()
    rounds.round()
    rounds.others[SHARED] = shared("a")
    rounds.may_pull = frozenset()
    with rounds.unwritten():
        assert rounds.merge().rights == {SHARED}


def test_a_circle_through_another_namespace_is_told_by_right_only():
    def back() -> ImageStream:
        return base(namespace="shared", spec=follower("1", "app:latest", namespace="team"))

    denied = Rounds(stream(FOREIGN), others=[back()])
    denied.round()
    absent = Rounds(stream(FOREIGN))
    absent.round()
    assert denied.stream == absent.stream
    had = Rounds(stream(FOREIGN), others=[shared("a")], may_pull=[SHARED])
    had.round()
    had.may_pull = frozenset()
    had.others[SHARED] = back().with_status(shared("a").status or Status())
    with had.unwritten():
        had.round()
    allowed = Rounds(stream(FOREIGN), others=[back()], may_pull=[SHARED])
    allowed.round()
    assert outcome(allowed).reason == "CircularReference"
    assert outcome(allowed).message == 'tag "latest" follows itself through "base:1" of namespace "shared"'
    allowed.may_pull = frozenset()
    with allowed.unwritten():
        assert not allowed.merge().rights, "it was told by right, and nothing changes"


# --- circles and chains -----------------------------------------------------------------------------------------------


class World:
    """Streams that follow each other, each merged when one that it follows has changed, as the controller does."""

    def __init__(self, *streams: ImageStream, seed: int = 0) -> None:
        self.streams = {each.key: each for each in streams}
        self.random = random.Random(seed)
        self.writes = 0

    def settle(self, *first: ObjectKey) -> None:
        queue = list(first or self.streams)
        while queue:
            key = queue.pop(self.random.randrange(len(queue)))
            update = merge_status(
                self.streams[key],
                (),
                {},
                now=NOW,
                rules=RULES,
                streams=self.streams.get,
                may_pull=frozenset(self.streams),
            )
            if not update.is_changed:
                continue
            assert update.stream.status is not None
            self.streams[key] = stored(self.streams[key], update.stream.status)
            self.writes += 1
            assert self.writes < 500, "ping-pong"
            queue += [
                other
                for other, each in self.streams.items()
                if key in followed_streams(each) and other not in queue
            ]  # fmt: skip

    def image(self, name: str, tag_name: str = "t") -> str:
        found = self.streams[ObjectKey("team", name)].status_tag(tag_name)
        return (found and found.newest and found.newest.image) or ""

    def reason(self, name: str, tag_name: str = "t") -> str | None:
        found = self.streams[ObjectKey("team", name)].status_tag(tag_name)
        return found.outcome.reason if found and found.outcome else None


def named(name: str, *tags: TagReference, letter: str = "") -> ImageStream:
    items = (StatusTag(tag="t", items=(item(letter),)),) if letter else ()
    return stream(*tags, name=name, uid=f"uid-{name}", status=Status(tags=items))


@pytest.mark.parametrize("seed", range(20))
def test_a_chain_over_streams_comes_to_a_fixpoint(seed: int):
    chain = [named(str(n), follower("t", f"{n + 1}:t")) for n in range(6)]
    world = World(*chain, named("6", TagReference(name="t"), letter="a"), seed=seed)
    world.settle()
    assert {world.image(str(n)) for n in range(7)} == {digest("a")}
    end = ObjectKey("team", "6")
    world.streams[end] = named("6", TagReference(name="t"), letter="b")
    before = world.writes
    world.settle(*(key for key, each in world.streams.items() if end in followed_streams(each)))
    assert {world.image(str(n)) for n in range(7)} == {digest("b")}
    assert world.writes - before == 6


@pytest.mark.parametrize("seed", range(20))
def test_streams_that_follow_each_other_in_a_circle_say_so_and_keep_what_they_had(seed: int):
    circle = [named(str(n), follower("t", f"{(n + 1) % 3}:t"), letter="abc"[n]) for n in range(3)]
    world = World(*circle, named("lead", follower("t", "0:t")), seed=seed)
    world.settle()
    assert [world.image(str(n)) for n in range(3)] == [digest(letter) for letter in "abc"]
    assert {world.reason(str(n)) for n in range(3)} == {"CircularReference"}
    assert (world.image("lead"), world.reason("lead")) == (digest("a"), "Imported")
    assert world.writes <= 5
    world.streams[ObjectKey("team", "2")] = named("2", TagReference(name="t"), letter="d")
    world.settle(ObjectKey("team", "1"))
    assert [world.image(str(n)) for n in range(3)] == [digest("d")] * 3


@pytest.mark.parametrize("length", [MAX_HOPS - 1, MAX_HOPS, MAX_HOPS + 1, 3 * MAX_HOPS])
def test_a_long_circle_never_goes_round(length: int):
    circle = [named(str(n), follower("t", f"{(n + 1) % length}:t"), letter="ab"[n % 2]) for n in range(length)]
    world = World(*circle)
    world.settle()
    assert {world.reason(str(n)) for n in range(length)} == {"CircularReference"}
    assert world.writes <= 2 * length


def test_what_is_looked_at_has_a_bound():
    seen: list[ObjectKey] = []

    def endless(key: ObjectKey) -> ImageStream:
        seen.append(key)
        return named(key.name, follower("t", f"{int(key.name) + 1}:t"))

    assert Chains(stream(follower("latest", "0:t")), endless).is_circular("latest")
    assert len(seen) <= MAX_HOPS + 1


def test_a_chain_that_is_too_long_is_looked_at_again():
    chain = [named(str(n), follower("t", f"{n + 1}:t")) for n in range(MAX_HOPS + 5)]
    rounds = Rounds(stream(follower("latest", "0:t")), others=chain)
    update = rounds.merge()
    assert outcome(rounds).reason == "CircularReference"
    assert update.look_again == NOW + LOOK_AGAIN


@pytest.mark.parametrize("order", list(permutations("abc")))
def test_a_circle_that_leaves_the_stream_and_comes_back(order: tuple[str, ...]):
    tags = {"a": follower("a", "b"), "b": follower("b", "web:x"), "c": follower("c", "a")}
    web = stream(follower("x", "app:a"), name="web")
    rounds = Rounds(stream(*(tags[name] for name in order)), others=[web])
    rounds.round()
    assert {name: outcome(rounds, name).reason for name in "abc"} == {
        "a": "CircularReference",
        "b": "CircularReference",
        "c": "TagNotFound",
    }


_graphs = st.dictionaries(
    st.tuples(st.sampled_from("pqr"), st.sampled_from("abc")),
    st.tuples(st.sampled_from("pqr"), st.sampled_from("abc")),
)


@settings(max_examples=300, deadline=None)
@given(_graphs)
def test_a_tag_is_circular_just_if_it_leads_to_itself(graph: dict[tuple[str, str], tuple[str, str]]):
    def leads_to_itself(node: tuple[str, str]) -> bool:
        at: tuple[str, str] | None = node
        for _ in range(10):
            at = graph.get(at) if at else None
            if at == node:
                return True
        return False

    streams = {
        ObjectKey("team", name): stream(
            *(follower(tag_, ":".join(target)) for (owner, tag_), target in graph.items() if owner == name), name=name
        )
        for name in "pqr"
    }
    for key, each in streams.items():
        chains = Chains(each, streams.get)
        assert {t: chains.is_circular(t) for t in "abc"} == {t: leads_to_itself((key.name, t)) for t in "abc"}


def test_chains_are_walked_once():
    """Thousands of tags, one behind the other, must not stop the loop."""
    count = 3000
    tags = [follower(f"t{n}", f"t{n + 1}") for n in range(count)]
    asked = 0

    def counted(_: ObjectKey) -> None:
        nonlocal asked
        asked += 1

    chains = Chains(stream(*tags, follower(f"t{count}", "web:x")), counted)
    steps = 0
    original = chains._next

    def stepping(node: Istag) -> Istag | None:
        nonlocal steps
        steps += 1
        return original(node)

    chains._next = stepping  # type: ignore[method-assign]
    assert not any(chains.is_circular(f"t{n}") for n in range(count))
    assert (steps, asked) == (count + 2, 1)


# --- images of a history ----------------------------------------------------------------------------------------------

LONG = f"sha256:{'ab' * 16}{'c' * 32}"
LIKE = f"sha256:{'ab' * 16}{'d' * 32}"
IMAGES = ImageIndex(
    [
        StatusTag(
            tag="1",
            items=tuple(
                TagEvent(created=NOW, docker_image_reference=f"quay.io/x@{image}", image=image)
                for image in (LONG, LIKE, digest("e"), LONG)
            ),
        ),
        StatusTag(tag="2", items=(TagEvent(created=NOW, docker_image_reference="quay.io/x:1", image=""), item("e"))),
    ]
)


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        pytest.param(LONG, [LONG], id="the whole digest"),
        pytest.param(LONG.removeprefix("sha256:"), [LONG], id="its digits"),
        pytest.param("sha256:e", [digest("e")], id="the begin of the digest"),
        pytest.param("e", [digest("e")], id="one digit"),
        pytest.param("ab" * 16 + "c", [LONG], id="just enough"),
        pytest.param("ab" * 16, [LONG, LIKE], id="not enough"),
        pytest.param("sha256:ab", [LONG, LIKE], id="not enough of the digest"),
        pytest.param("sha256:", [LONG, LIKE], id="all"),
        pytest.param("f", [], id="none"),
        pytest.param(f"{LONG}0", [], id="too long"),
    ],
)
def test_an_image_is_found_by_its_begin(wanted: str, found: list[str]):
    assert [each.image for each in IMAGES.find(wanted)] == found


@given(st.lists(st.text("ab0", min_size=64, max_size=64), max_size=5), st.text("ab0", min_size=1, max_size=64))
def test_an_image_is_found_as_by_looking_at_each(digits: list[str], wanted: str):
    events = tuple(TagEvent(docker_image_reference="quay.io/x", image=f"sha256:{each}") for each in digits)
    found = ImageIndex([StatusTag(tag="t", items=events)]).find(wanted)
    matching = {f"sha256:{each}" for each in digits if each.startswith(wanted)}
    assert {each.image for each in found} <= matching
    assert len(found) == min(len(matching), 2)
    assert all(each.pull_spec == f"quay.io/x@{each.image}" for each in found)


@pytest.mark.parametrize("name", ["base@aaa", f"base@{digest('a')}", "base@sha256:aaaa"])
def test_an_image_of_another_streams_history(name: str):
    rounds = Rounds(stream(tag(image=name, kind="ImageStreamImage")), others=[base("b", "a")])
    rounds.round()
    assert (rounds.history(), rounds.ready) == (["a"], ("True", "Imported"))


def test_an_image_that_was_found_is_never_looked_for_again():
    rounds = Rounds(stream(tag(image="base@aaa", kind="ImageStreamImage")), others=[base("b", "a")])
    rounds.round()
    like = TagEvent(created=NOW, docker_image_reference="quay.io/x", image=f"sha256:{'a' * 63}0")
    for others in (
        [base("b")],
        [],
        [base().with_status(Status(tags=(StatusTag(tag="1", items=(item("a"), like)),)))],
    ):
        rounds.others = {other.key: other for other in others}
        with rounds.unwritten():
            rounds.round()


def test_an_ambiguous_begin_is_said():
    like = TagEvent(created=NOW, docker_image_reference="quay.io/x", image=f"sha256:{'a' * 63}0")
    other = base().with_status(Status(tags=(StatusTag(tag="1", items=(item("a"), like)),)))
    rounds = Rounds(stream(tag(image="base@aaa", kind="ImageStreamImage")), others=[other])
    rounds.round()
    assert outcome(rounds).reason == "AmbiguousImage"
    assert rounds.history() == []
    with rounds.unwritten():
        rounds.round()


def test_an_image_that_is_not_there_yet():
    rounds = Rounds(stream(tag(image="base@bbb", kind="ImageStreamImage")), others=[base("a")])
    rounds.round()
    assert (outcome(rounds).reason, outcome(rounds).message) == (
        "ImageNotFound",
        'ImageStreamImage "base@bbb" is not there',
    )
    rounds.others[ObjectKey("team", "base")] = base("b", "a")
    rounds.round()
    assert rounds.history() == ["b"]


@pytest.mark.parametrize("order", list(permutations(["pin", "latest", "follows", "stable"])))
def test_images_of_the_own_stream_come_in_one_round_with_what_brings_them(order: tuple[str, ...]):
    tags = {
        "pin": tag("pin", "aaa", kind="ImageStreamImage"),
        "latest": tag("latest"),
        "follows": follower("follows", "pin"),
        "stable": follower("stable", "base:1"),
    }
    rounds = Rounds(stream(*(tags[name] for name in order)), others=[base("b")])
    rounds.round()
    rounds.round(latest=resolved("a"))
    assert {name: rounds.history(name) for name in tags} == {
        "pin": ["a"],
        "latest": ["a"],
        "follows": ["a"],
        "stable": ["b"],
    }
    with rounds.unwritten():
        rounds.round()


def test_another_image_is_looked_for_when_spec_names_one():
    rounds = Rounds(stream(tag(image="base@aaa", kind="ImageStreamImage")), others=[base("b", "a")])
    rounds.round()
    rounds.edit(tag(image="base@bbb", kind="ImageStreamImage"))
    rounds.round()
    assert rounds.history() == ["b", "a"]
