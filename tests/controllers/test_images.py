"""Image objects between a fake API server and registries that are functions: what is asked, made and deleted."""

from __future__ import annotations

import asyncio
import json
import random
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from imagestreams.controllers.images import AGAIN, ImageKey, ImageLimits, ImageReconciler
from imagestreams.controllers.workqueue import WorkQueue
from imagestreams.core.image import NAMESPACE_LABEL, object_name
from imagestreams.core.keychain import Credential, Entry
from imagestreams.core.lookup import Described
from imagestreams.core.policy import Place, Refused, Transport
from imagestreams.kube.cluster import ApiError, Cluster
from imagestreams.kube.images import ImageObjects
from imagestreams.kube.imagestreams import ImageStreams
from imagestreams.registry.errors import NotFound, RegistryError, TooLarge, Unavailable
from imagestreams.registry.lanes import Lanes, Limits
from tests.fakes.apiserver import FakeApiServer, disconnect, status
from tests.fakes.clock import Clock
from tests.fakes.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

API = "image.openshift.io/v1"
HOST = "quay.io"


def digest(number: int) -> str:
    return f"sha256:{number:064x}"


def name(number: int) -> str:
    return object_name(digest(number))


def number_of(text: str) -> int:
    return int(text.rpartition(":")[2].rpartition("-")[2], 16)


def tag(tag_name: str, *numbers: int, host: str = HOST, source: str = "") -> dict[str, Any]:
    """A tag with a history, newest first."""
    items = [
        {
            "created": f"2026-01-{28 - age:02d}T00:00:00Z",
            "dockerImageReference": f"{host}/acme/web@{digest(number)}",
            "image": digest(number),
        }
        for age, number in enumerate(numbers)
    ]
    observed = {"from": {"kind": "DockerImage", "name": source or f"{host}/acme/web:{tag_name}"}}
    return {"tag": tag_name, "items": items, "observed": observed}


@dataclass
class World:
    """What a test sees and sets; `asked` are the questions that came to a registry, in order."""

    api: FakeApiServer
    cluster: Cluster
    limits: ImageLimits
    clock: Clock = field(default_factory=Clock)
    events: list[tuple[str, str, str]] = field(default_factory=list)
    later: dict[ImageKey, float] = field(default_factory=dict)
    asked: list[Any] = field(default_factory=list)
    answers: dict[int, Exception] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    entries: tuple[Entry, ...] = ()
    credential_errors: list[Exception] = field(default_factory=list)
    held: bool = False  # answers wait for `answer`
    _waiting: dict[int, asyncio.Future[None]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.queue: WorkQueue[ImageKey] = WorkQueue("image", expected=(ApiError,), retry_base=0.01, retry_cap=0.02)
        self.streams = ImageStreams(self.cluster, "image.openshift.io").reflector(
            lambda key, _, __: self.queue.add(ImageKey.of(key))
        )
        self.images = ImageObjects(self.cluster, "image.openshift.io")
        self.lanes: Lanes[ImageKey] = Lanes(
            self.ask, clock=self.clock, ready=self.queue.add, limits=Limits(settle=0.001)
        )
        self.reconciler = ImageReconciler(
            streams=self.streams,
            images=self.images,
            lanes=self.lanes,
            places=self.places,
            credentials=self.credentials,
            announce=lambda stream, _, reason, message: self.events.append((str(stream.key), reason, message)),
            enqueue=self.queue.add,
            later=self.later.__setitem__,
            clock=self.clock,
            limits=self.limits,
        )

    # --- the world

    def put(self, stream: str, *tags: dict[str, Any], namespace: str = "team-a") -> ImageKey:
        value = {"apiVersion": API, "kind": "ImageStream", "metadata": {"namespace": namespace, "name": stream}}
        self.api.put(value | {"status": {"tags": list(tags)}})
        return ImageKey(namespace, stream)

    def put_image(self, number: int, namespace: str | None = None) -> None:
        labels = {NAMESPACE_LABEL: namespace} if namespace else {}
        self.api.put({"apiVersion": API, "kind": "Image", "metadata": {"name": name(number), "labels": labels}})

    def places(self, reference: Any, insecure: bool) -> tuple[Place, ...] | Refused:
        if reference.host in self.refused:
            return Refused("Blocked", "not this one")
        transport = Transport(reference.host, f"https://{reference.host}", insecure, not insecure, "", False)
        return (Place(reference, transport, reference),)

    async def credentials(self, _: object) -> tuple[Entry, ...]:
        if self.credential_errors:
            raise self.credential_errors.pop()
        return self.entries

    async def ask(self, question: Any) -> Described:
        self.asked.append(question)
        number = number_of(question.reference.digest)
        if self.held:
            self._waiting[number] = asyncio.get_running_loop().create_future()
            await self._waiting[number]
        if number in self.answers:
            raise self.answers[number]
        body = {"metadata": {"name": name(number)}, "digest": digest(number), "dockerImageReference": "?"}
        return Described(json.dumps(body).encode())

    def answer(self, *numbers: int) -> None:
        for number in numbers:
            self._waiting.pop(number).set_result(None)

    # --- what came of it

    @property
    def numbers(self) -> list[int]:
        """The images that were asked for."""
        return [number_of(question.reference.digest) for question in self.asked]

    @property
    def under_way(self) -> set[int]:
        return set(self._waiting)

    @property
    def made(self) -> set[int]:
        return {number_of(each["metadata"]["name"]) for each in self.api.all(API, "images")}

    async def idle(self) -> None:
        """Until nothing is queued, and nothing asked that is not held."""
        for _ in range(3):
            await until(lambda: not len(self.queue) and self.lanes.load() == (0, len(self._waiting)))
            await asyncio.sleep(0.005)  # beyond the lanes' settle time

    async def sweep(self, **passed: float) -> None:
        """Let time pass, and sweep."""
        self.clock.advance(**passed)
        await until(lambda: self.streams.live and self.images.live)
        await self.reconciler.sweep()
        await self.idle()

    async def seen(self) -> None:
        """Until the caches have what is in the API server."""
        await until(
            lambda: (
                len(self.images) == len(self.api.all(API, "images"))
                and len(self.streams.store) == len(self.api.all(API, "imagestreams"))
            )
        )
        await self.idle()


@pytest.fixture
async def api() -> AsyncIterator[FakeApiServer]:
    async with FakeApiServer() as server:
        server.define(API, "imagestreams", "ImageStream", status=True)
        server.define(API, "images", "Image", namespaced=False)
        yield server


@pytest.fixture
async def cluster(api: FakeApiServer, tmp_path: Path) -> AsyncIterator[Cluster]:
    async with await Cluster.connect(str(api.kubeconfig(tmp_path / "kubeconfig"))) as connected:
        yield connected


@asynccontextmanager
async def running(world: World, *, images: bool = True) -> AsyncIterator[World]:
    """The parts of the controller that matter here; at the end no slot may be held for nothing."""
    tasks = [asyncio.create_task(world.lanes.run())]
    tasks += [asyncio.create_task(world.images.run())] if images else []
    if images:
        await until(lambda: world.images.live)
    tasks.append(asyncio.create_task(world.streams.run()))
    tasks += [asyncio.create_task(world.queue.work(world.reconciler.reconcile)) for _ in range(2)]
    try:
        await until(lambda: world.streams.live)
        await world.idle()
        yield world
        await world.idle()
        held = sum(world.reconciler._hosts.taken.values())
        assert held == sum(world.reconciler._namespaces.taken.values()) == len(world.under_way)
    finally:
        world.queue.clear()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


@pytest.fixture
def world(api: FakeApiServer, cluster: Cluster) -> World:
    return World(api, cluster, ImageLimits(grace=timedelta(hours=1)))


def limited(world: World, **limits: Any) -> World:
    return World(world.api, world.cluster, ImageLimits(**limits))


# --- what is made -----------------------------------------------------------------------------------------------------


async def test_each_image_of_the_history_has_an_object(world: World) -> None:
    world.entries = (Entry(HOST, "", Credential("me", "pw", "mine")),)
    world.put("web", tag("stable", 1, 3), tag("next", 2, 1))
    async with running(world):
        pass
    assert world.numbers == [1, 2, 3], "the newest of each tag first"
    assert world.made == {1, 2, 3}
    (first, *_) = world.api.all(API, "images")
    assert first["metadata"]["labels"] == {NAMESPACE_LABEL: "team-a"}
    assert first["dockerImageReference"] == f"{HOST}/acme/web@{digest(1)}"
    question = world.asked[0]
    assert str(question.reference) == f"{HOST}/acme/web@{digest(1)}"
    assert [each.secret for each in question.credentials] == ["mine"]


async def test_a_tag_that_moves_brings_one_more(world: World) -> None:
    world.put("web", tag("stable", 1))
    async with running(world):
        world.put("web", tag("stable", 2, 1))
        await until(lambda: world.made == {1, 2})
    assert world.numbers == [1, 2]


async def test_an_image_of_two_streams_is_one_object_of_the_first(world: World) -> None:
    world.put("web", tag("stable", 1))
    async with running(world):
        world.put("copy", tag("stable", 1), namespace="team-b")
        await world.seen()
    assert world.numbers == [1]
    assert world.images.count("team-a") == 1
    assert world.images.count("team-b") == 0


async def test_what_is_there_already_is_not_asked_for(world: World) -> None:
    world.put_image(1)
    world.put("web", tag("stable", 1))
    async with running(world):
        pass
    assert world.asked == []


async def test_one_that_somebody_else_makes_meanwhile_is_success(world: World) -> None:
    world.held = True
    async with running(world):
        world.put("web", tag("stable", 1))
        await until(lambda: world.under_way)
        world.api.inject(status(409, "AlreadyExists"), verb="create")
        world.answer(1)
        await world.idle()
        await world.sweep(seconds=30)
        assert world.numbers == [1], "the watch has some time to bring it"
        await world.sweep(seconds=60)
        assert world.numbers == [1, 1], "it was deleted again"
        world.answer(1)
        await world.idle()
    assert world.made == {1}


async def test_nothing_is_asked_before_it_is_known_what_there_is(world: World) -> None:
    world.put_image(1)
    world.put("web", tag("stable", 1, 2))
    async with running(world, images=False):
        assert world.asked == []
        await world.reconciler.sweep()
        await world.idle()
        assert world.asked == []
        watching = asyncio.create_task(world.images.run())
        await world.sweep()
        watching.cancel()
        await asyncio.wait([watching])
    assert world.numbers == [2]


# --- never much at a time ---------------------------------------------------------------------------------------------


async def test_one_host_is_asked_for_two_at_a_time_and_holds_up_no_other(world: World) -> None:
    world.held = True
    world.put("web", tag("stable", *range(1, 8)), tag("other", 20, host="ghcr.io"))
    async with running(world):
        assert world.under_way == {1, 2, 20}
        world.answer(20)
        await until(lambda: world.made == {20})
        await world.idle()
        assert world.under_way == {1, 2}
        world.answer(1)
        await until(lambda: world.under_way == {2, 3})
        world.held = False
        world.answer(2, 3)
        await until(lambda: world.made == {20, *range(1, 8)})


async def test_streams_take_turns_at_a_host(world: World) -> None:
    world.held = True
    async with running(world):
        world.put("a", tag("stable", 1, 2, 3))
        await until(lambda: world.under_way == {1, 2})
        world.put("b", tag("stable", 11), namespace="team-b")
        world.put("c", tag("stable", 21), namespace="team-c")
        await world.seen()
        assert world.under_way == {1, 2}
        world.answer(1, 2)
        await until(lambda: world.under_way == {11, 21})  # who has had its turn does not take the next one too
        world.held = False
        world.answer(*world.under_way)
        await until(lambda: world.made == {1, 2, 3, 11, 21})


async def test_a_namespace_has_so_many_under_way_and_no_more(world: World) -> None:
    world = limited(world, per_namespace=3)
    world.held = True
    async with running(world):
        for number in range(1, 6):
            world.put(f"web-{number}", tag("stable", number, host=f"r{number}.example"))
        world.put("other", tag("stable", 9, host="r1.example"), namespace="team-b")
        await world.seen()
        await until(lambda: 9 in world.under_way)
        assert len(world.under_way) == 4
        world.held = False
        world.answer(*world.under_way)
        await until(lambda: world.made == {1, 2, 3, 4, 5, 9})


async def test_who_needs_its_turn_no_longer_passes_it_on(world: World) -> None:
    world.held = True
    async with running(world):
        for stream, *numbers in (("a", 1, 2), ("b", 11), ("c", 21)):
            world.put(stream, tag("stable", *numbers))
            await world.seen()
        world.put_image(11)
        await until(lambda: world.images.has(digest(11)))
        world.answer(1)
        await until(lambda: world.under_way == {2, 21})
        world.answer(2, 21)


async def test_nobody_is_forgotten_in_a_crowd(world: World) -> None:
    chance = random.Random(7)
    answer = world.ask

    async def ask(question: Any) -> Described:
        for _ in range(chance.randrange(20)):
            await asyncio.sleep(0)
        return await answer(question)

    world.lanes._ask = ask
    wanted, gone = set(), []
    async with running(world):
        for stream in range(60):
            numbers = [100 * stream + each for each in range(chance.randrange(1, 6))]
            tags = [tag(f"t{each}", each, host=f"r{chance.randrange(4)}.example") for each in numbers]
            key = world.put(f"web-{stream}", *tags, namespace=f"team-{stream % 5}")
            if chance.random() < 0.2:
                gone.append(key)
            else:
                wanted |= set(numbers)
            await asyncio.sleep(0)
        for key in gone:
            world.api.remove(API, "imagestreams", key.namespace, key.stream)
            await asyncio.sleep(0)
        await until(lambda: world.made >= wanted)  # without a sweep, which would find what was forgotten
        await world.idle()
        assert world.reconciler._hosts.waited_for == world.reconciler._namespaces.waited_for == ()
    assert len(world.asked) == len(set(world.numbers))


async def test_a_stream_that_goes_away_gives_its_place_to_another(world: World) -> None:
    world.held = True
    async with running(world):
        world.put("a", tag("stable", 1, 2))
        await until(lambda: world.under_way == {1, 2})
        world.put("b", tag("stable", 3))
        await world.seen()
        world.api.remove(API, "imagestreams", "team-a", "a")
        await until(lambda: world.under_way == {1, 2, 3})
        world.answer(1, 2, 3)
        await until(lambda: world.made == {3})
        await world.idle()
    assert world.made == {3}, "nobody wants what the other had asked for"


async def test_a_stream_that_is_created_anew_gets_no_answer_of_its_predecessor(world: World) -> None:
    world.held = True
    async with running(world):
        world.put("web", tag("stable", 1))
        await until(lambda: world.under_way == {1})
        world.api.remove(API, "imagestreams", "team-a", "web")
        world.put("web", tag("stable", 2))
        await until(lambda: world.under_way == {1, 2})
        world.answer(1, 2)
        await until(lambda: world.made)
        await world.idle()
    assert world.made == {2}


async def test_a_stream_that_is_created_anew_does_not_inherit_failures(world: World) -> None:
    world.answers[1] = NotFound("gone")
    async with running(world):
        world.put("web", tag("stable", 1))
        await until(lambda: world.asked)
        await world.idle()
        world.answers.clear()
        world.api.remove(API, "imagestreams", "team-a", "web")
        world.put("web", tag("stable", 1))  # both are seen at once: nobody has looked in between
        await until(lambda: world.made == {1})


async def test_what_has_left_the_history_while_it_was_asked_for_is_not_made(world: World) -> None:
    world.held = True
    async with running(world):
        world.put("web", tag("stable", 1))
        await until(lambda: world.under_way == {1})
        world.put("web", tag("stable", 2))
        await until(lambda: world.under_way == {1, 2})
        world.answer(1, 2)
        await until(lambda: world.made)
        await world.idle()
    assert world.made == {2}


# --- the budget -------------------------------------------------------------------------------------------------------


async def test_a_namespace_has_so_many_objects_and_no_more(world: World) -> None:
    world = limited(world, budget=3)
    world.put_image(9, "team-a")
    world.put("web", tag("stable", *range(1, 6)))
    world.put("other", tag("stable", 11, 12), namespace="team-b")
    async with running(world):
        await world.seen()
        assert world.made == {9, 1, 2, 11, 12}
        ((stream, reason, message),) = world.events
        assert (stream, reason) == ("team-a/web", "ImageBudgetSpent")
        assert "3 Image objects" in message
        assert "--image-object-budget" in message
        for _ in range(3):
            world.queue.add(ImageKey("team-a", "web"))
            await world.sweep(minutes=1)
        assert len(world.events) == 1, "said once"
        assert world.numbers.count(3) == 0
        world.api.remove(API, "images", "", name(9))
        await until(lambda: world.images.count("team-a") == 2)
        await world.sweep(minutes=1)
        assert world.made == {1, 2, 3, 11, 12}
    assert len(world.events) == 2, "and again after there was room"


async def test_what_is_asked_for_counts_too(world: World) -> None:
    world = limited(world, budget=2)
    world.held = True
    async with running(world):
        world.put("a", tag("stable", 1, host="a.example"))
        world.put("b", tag("stable", 2, host="b.example"))
        world.put("c", tag("stable", 3, host="c.example"))
        await world.seen()
        await until(lambda: len(world.under_way) == 2)
        await world.idle()
        assert len(world.asked) == 2
        world.answer(*world.under_way)
        await world.idle()
        await world.sweep(minutes=1)
    assert len(world.made) == len(world.asked) == 2


# --- failures ---------------------------------------------------------------------------------------------------------


async def test_a_registry_that_fails_is_asked_again_later_and_not_for_ever(world: World) -> None:
    world.answers[1] = Unavailable("quay.io answers 500")
    async with running(world):
        key = world.put("web", tag("stable", 1, 2))
        await until(lambda: world.made == {2})
        await world.idle()
        waits = []
        while key in world.later:
            waits.append(world.later.pop(key))
            world.queue.add(key)
            await world.idle()
            assert len(world.asked) == len(waits) + 1, "not before its time"
            world.clock.advance(seconds=waits[-1])
            world.later.clear()
            world.queue.add(key)
            await world.idle()
        assert waits == [60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]
        await world.sweep(hours=24)
        assert world.numbers.count(1) == 10
        del world.answers[1]
        world.queue.add(key, AGAIN)
        await world.idle()
    assert world.made == {1, 2}


@pytest.mark.parametrize("error", [NotFound("gone"), TooLarge("too large")])
async def test_an_answer_that_will_not_change_is_taken_for_one(world: World, error: RegistryError) -> None:
    world.answers[1] = error
    async with running(world):
        key = world.put("web", tag("stable", 1))
        await until(lambda: world.asked)
        await world.idle()
        await world.sweep(hours=2)
        world.queue.add(key)
        await world.idle()
    assert world.numbers == [1]
    assert world.later == {}


async def test_a_host_that_asks_to_wait_is_left_alone_and_others_are_not(world: World) -> None:
    world.answers[1] = Unavailable("quay.io asks to wait", retry_after=600)
    world.put("web", tag("stable", 1, 2, 3, 4))
    world.put("other", tag("stable", 11, host="ghcr.io"), namespace="team-b")
    key = ImageKey("team-a", "web")
    async with running(world):
        await world.sweep(minutes=1)
        await world.sweep(minutes=1)
        before = list(world.numbers)
        assert 11 in before
        assert set(before) <= {1, 2, 11}, "what was under way already was asked, and nothing after"
        assert 0 < world.later[key] <= 600
        del world.answers[1]
        world.clock.advance(minutes=10)
        world.queue.add(key)
        await world.idle()
        world.clock.advance(minutes=10)
        world.queue.add(key)
        await until(lambda: world.made == {1, 2, 3, 4, 11})


async def test_the_last_pulls_are_not_for_images(world: World) -> None:
    async with running(world):
        world.reconciler.heed(HOST, "anonymous", 49)
        key = world.put("web", tag("stable", 1), tag("other", 2, host="ghcr.io"))
        await until(lambda: world.made == {2})
        await world.idle()
        assert world.later[key] == 3600
        world.reconciler.heed(HOST, "authenticated", 150)
        world.queue.add(key)
        await world.idle()
        assert world.made == {2}, "the least of all accounts counts"
        world.reconciler.heed(HOST, "anonymous", 50)
        world.queue.add(key)
        await until(lambda: world.made == {1, 2})


async def test_a_refused_registry_is_not_asked_until_the_policy_changes(world: World) -> None:
    world.refused = {HOST}
    async with running(world):
        key = world.put("web", tag("stable", 1), tag("other", 2, host="ghcr.io"))
        await until(lambda: world.made == {2})
        world.refused = set()
        await world.sweep(minutes=1)
        assert world.numbers == [2]
        world.queue.add(key, AGAIN)
        await until(lambda: world.made == {1, 2})


async def test_credentials_that_cannot_be_read_are_read_again(world: World) -> None:
    world.credential_errors = [ApiError("the API server is busy")]
    world.put("web", tag("stable", 1, 2))
    async with running(world):
        await until(lambda: world.made == {1, 2})
    assert world.numbers == [1, 2]


class TestTheApiServersRefusals:
    async def test_an_answer_is_kept_while_nobody_can_be_told(self, world: World) -> None:
        world.api.inject(disconnect(), verb="create", times=3)
        world.put("web", tag("stable", 1))
        async with running(world):
            await until(lambda: world.made == {1})
        assert world.numbers == [1]

    @pytest.mark.parametrize(
        ("code", "reason", "is_tried_again"),
        [(403, "Forbidden", True), (404, "NotFound", True), (500, "InternalError", True), (422, "Invalid", False)],
    )
    async def test_other_images_go_on(self, world: World, code: int, reason: str, *, is_tried_again: bool) -> None:
        of_first = digest(1).encode()
        world.api.inject(status(code, reason), verb="create", when=lambda seen: of_first in seen.body, times=-1)
        async with running(world):
            key = world.put("web", tag("stable", 1, 2))
            await until(lambda: world.made == {2})
            await world.idle()
            assert (key in world.later) is is_tried_again
            world.api.heal()
            world.clock.advance(minutes=1)
            world.queue.add(key)
            await world.idle()
        assert (world.made == {1, 2}) is is_tried_again


# --- sweeps -----------------------------------------------------------------------------------------------------------


async def test_what_nobody_refers_to_is_deleted_after_the_grace_time(world: World) -> None:
    world.put("web", tag("stable", 2, 1))
    async with running(world):
        world.put("web", tag("stable", 2))
        await world.seen()
        for _ in range(7):
            assert world.made == {1, 2}
            await world.sweep(minutes=10)
        assert world.made == {2}
        await until(lambda: world.images.count("team-a") == 1)


async def test_only_what_carries_our_label_is_deleted(world: World) -> None:
    world.put("web", tag("stable", 9))
    world.put_image(1)
    world.put_image(2, "team-gone")
    async with running(world):
        for _ in range(30):
            await world.sweep(minutes=10)
    assert world.made == {1, 9}


async def test_what_is_referred_to_again_stays(world: World) -> None:
    world.put("web", tag("stable", 2))
    world.put_image(1, "team-a")
    async with running(world):
        for _ in range(6):
            await world.sweep(minutes=10)
        world.put("web", tag("stable", 1, 2))
        await world.seen()
        world.put("web", tag("stable", 2))
        await world.seen()
        await world.sweep(minutes=10)
        assert world.made == {1, 2}, "no sweep has seen it, but the reconcile has: the grace begins again"


async def test_a_stream_that_comes_while_others_are_deleted_saves_its_image(world: World) -> None:
    world.put("web", tag("stable", 9))
    for number in (1, 2):
        world.put_image(number, "team-a")
    async with running(world):
        for _ in range(6):
            await world.sweep(minutes=10)
        pause, deleting = asyncio.Event(), asyncio.Event()

        async def hold(_: Any, handle: Any) -> Any:
            deleting.set()
            await pause.wait()
            return await handle()

        world.api.inject(hold, verb="delete")
        world.clock.advance(minutes=10)
        sweep = asyncio.create_task(world.reconciler.sweep())
        await deleting.wait()
        world.put("late", tag("stable", 2))
        await world.seen()
        pause.set()
        await sweep
        assert world.made == {2, 9}


async def test_no_streams_at_all_is_doubted(world: World) -> None:
    world.put_image(1, "team-a")
    async with running(world):
        for _ in range(12):
            await world.sweep(minutes=10)
            assert world.made == {1}
        await world.sweep(minutes=10)
        assert world.made == set()


async def test_nothing_is_deleted_while_a_cache_may_be_stale(world: World) -> None:
    world.put("web", tag("stable", 9))
    world.put_image(1, "team-a")
    async with running(world):
        for _ in range(6):
            await world.sweep(minutes=10)
        world.api.inject(status(403, "Forbidden"), resource="imagestreams", times=-1)
        world.api.end_watches()
        await until(lambda: not world.streams.live)
        world.clock.advance(minutes=10)
        await world.reconciler.sweep()
        assert world.made == {1, 9}
        world.api.heal()
        await until(lambda: world.streams.live)
        await world.sweep(minutes=5)
        assert world.made == {1, 9}, "nobody knows what was referred to meanwhile: the grace begins again"


async def test_an_object_that_was_deleted_by_hand_comes_back(world: World) -> None:
    world.put("web", tag("stable", 1))
    async with running(world):
        world.api.remove(API, "images", "", name(1))
        await world.seen()
        assert world.made == set()
        await world.sweep(minutes=1)
        await until(lambda: world.made == {1})


async def test_a_delete_that_fails_is_for_the_next_sweep(world: World) -> None:
    world.put("web", tag("stable", 9))
    for number in (1, 2):
        world.put_image(number, "team-a")
    async with running(world):
        world.api.inject(status(500, "InternalError"), verb="delete")
        for _ in range(7):
            await world.sweep(minutes=10)
        assert world.made == {1, 2, 9}
        await world.sweep(minutes=1)
        assert world.made == {9}


async def test_a_sweep_deletes_so_many_and_no_more(world: World) -> None:
    world.put("web", tag("stable", 900))
    for number in range(120):
        world.put_image(number, "team-a")
    async with running(world):
        for _ in range(7):
            await world.sweep(minutes=10)
        assert len(world.made) == 21
        await world.sweep(minutes=1)
        assert world.made == {900}


async def test_sweeps_of_a_quiet_cluster_ask_nothing_and_queue_nothing(world: World) -> None:
    world.answers[3] = NotFound("gone")
    world.refused = {"blocked.example"}
    odd = {"tag": "odd", "items": [{"dockerImageReference": "NO", "image": digest(5)}, {"image": "no digest"}]}
    world.put("web", tag("a", 1, 2, 3), tag("b", 4, host="blocked.example"), odd)
    async with running(world):
        await until(lambda: world.made == {1, 2})
        await world.idle()
        requests, asked = len(world.api.requests), len(world.asked)
        enqueued = []
        world.reconciler._enqueue = enqueued.append
        for _ in range(3):
            await world.sweep(minutes=1)
        assert (len(world.api.requests), len(world.asked), enqueued) == (requests, asked, [])
