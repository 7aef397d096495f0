"""Image objects between a fake API server and registries that are functions: what is asked, made and deleted."""

from __future__ import annotations

import asyncio
import json
import random
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from imagestreams.app import Controller
from imagestreams.controllers.images import AGAIN, ImageKey, ImageLimits, ImageReconciler
from imagestreams.controllers.workqueue import WorkQueue
from imagestreams.core.image import NAMESPACE_LABEL, image_object, object_name
from imagestreams.core.keychain import Credential, Entry
from imagestreams.core.lookup import Described
from imagestreams.core.manifest import DOCKER_MANIFEST, digest_of
from imagestreams.core.policy import Place, Refused, Transport
from imagestreams.core.reference import ImageReference
from imagestreams.core.stream import decode
from imagestreams.kube.cluster import ApiError, Cluster
from imagestreams.kube.images import ImageObjects
from imagestreams.kube.imagestreams import ImageStreams
from imagestreams.registry.errors import NotFound, RateLimited, RegistryError, TooLarge, Unauthorized, Unavailable
from imagestreams.registry.lanes import Lanes, Limits
from imagestreams.settings import load
from tests.fakes.apiserver import FakeApiServer, disconnect, status
from tests.fakes.clock import Clock
from tests.fakes.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from imagestreams.core.stream import ImageStream

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
    answers: dict[int | str, Exception] = field(default_factory=dict)  # by image, host, both, or user
    refused: set[str] = field(default_factory=set)
    mirrors: tuple[str, ...] = ()  # repositories that are asked first
    entries: tuple[Entry, ...] = ()  # of a namespace that has none of its own
    logins: dict[str, tuple[Entry, ...]] = field(default_factory=dict)  # by namespace
    credential_errors: list[Exception] = field(default_factory=list)
    held: bool = False  # answers wait for `answer`
    _waiting: dict[int, list[asyncio.Future[None]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.queue: WorkQueue[ImageKey] = WorkQueue("image", expected=(ApiError,), retry_base=0.01, retry_cap=0.02)
        self.streams = ImageStreams(self.cluster, "image.openshift.io").reflector(self.changed)
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

    def changed(self, key: tuple[str, str], _: ImageStream | None, new: ImageStream | None) -> None:
        """As the controller does it."""
        if new is not None:
            self.reconciler.note(new)
        self.queue.add(ImageKey.of(key))

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
        mirrors = (ImageReference.parse(mirror).pinned(reference.digest) for mirror in self.mirrors)
        return tuple(
            Place(
                asked,
                Transport(asked.host, f"https://{asked.host}", insecure, not insecure, "", False),
                recorded=reference,
            )
            for asked in (*mirrors, reference)
        )

    async def credentials(self, stream: ImageStream) -> tuple[Entry, ...]:
        if self.credential_errors:
            raise self.credential_errors.pop()
        return self.logins.get(stream.metadata.namespace, self.entries)

    async def ask(self, question: Any) -> Described:
        self.asked.append(question)
        number = number_of(question.reference.digest)
        if self.held:
            answered = asyncio.get_running_loop().create_future()
            self._waiting.setdefault(number, []).append(answered)
            await answered
        host, users = question.reference.host, [each.username for each in question.credentials]
        for what in (number, host, f"{number} at {host}", *users):
            if what in self.answers:
                raise self.answers[what]
        body = {"metadata": {"name": name(number)}, "digest": digest(number), "dockerImageReference": "?"}
        return Described(json.dumps(body).encode())

    def answer(self, *numbers: int) -> None:
        for number in numbers:
            for answered in self._waiting.pop(number):
                answered.set_result(None)

    # --- what came of it

    @property
    def numbers(self) -> list[int]:
        """The images that were asked for."""
        return [number_of(question.reference.digest) for question in self.asked]

    @property
    def under_way(self) -> set[int]:
        return set(self._waiting)

    @property
    def held_answers(self) -> int:
        return sum(map(len, self._waiting.values()))

    @property
    def made(self) -> set[int]:
        return {number_of(each["metadata"]["name"]) for each in self.api.all(API, "images")}

    async def idle(self) -> None:
        """Until nothing is queued, and nothing asked that is not held."""
        for _ in range(3):
            await until(lambda: not len(self.queue) and self.lanes.load() == (0, self.held_answers))
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


@pytest.mark.parametrize("recorded", ["quay.io/acme/web", "mirror.example/cache/other/web"])
async def test_an_object_has_the_name_of_the_history_wherever_it_was_read(world: World, recorded: str) -> None:
    config = b"{}"
    blob = {"mediaType": "application/vnd.docker.container.image.v1+json", "digest": digest_of(config), "size": 2}
    manifest = {"schemaVersion": 2, "mediaType": DOCKER_MANIFEST, "config": blob, "layers": []}
    body = json.dumps(manifest).encode()
    own = digest_of(body)

    async def ask(question: Any) -> Described:
        """As the client does it."""
        world.asked.append(question)
        return Described(image_object(question.reference, own, body, DOCKER_MANIFEST, config))

    world.lanes._ask = ask
    world.mirrors = ("mirror.example/cache/other/web",)
    moved = tag("stable")
    moved["items"] = [{"dockerImageReference": f"{recorded}@{own}", "image": own}]
    world.put("web", moved)
    async with running(world):
        await until(lambda: world.made)
    assert [question.reference.repository for question in world.asked] == ["mirror.example/cache/other/web"]
    (made,) = world.api.all(API, "images")
    assert made["dockerImageReference"] == f"{recorded}@{own}"


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


def login(name: str, host: str = HOST) -> Entry:
    return Entry(host, "", Credential(name, f"password of {name}", f"secret of {name}"))


async def test_a_login_that_is_throttled_stops_its_own_namespace_alone(world: World) -> None:
    slow, fine = login("slow"), login("fine")
    world.logins = {"team-a": (slow,), "team-b": (fine,)}
    world.answers["slow"] = RateLimited("slow down", retry_after=3600, fingerprint=slow.credential.fingerprint)
    async with running(world):
        key = world.put("web", tag("stable", 1))
        await until(lambda: world.numbers == [1])
        await world.sweep(minutes=2)  # now it is the lane that has it wait
        await world.sweep(minutes=2)
        assert world.numbers == [1]
        assert world.later[key] > 3000
        world.put("more", tag("stable", 3))
        world.put("other", tag("stable", 2), namespace="team-b")
        await until(lambda: world.made == {2})
        await world.idle()
    assert world.numbers == [1, 2]


async def test_a_source_that_is_throttled_does_not_stop_its_mirror(world: World) -> None:
    world.mirrors = ("mirror.example/cache/web",)
    world.answers["1 at mirror.example"] = NotFound("not here")
    world.answers[HOST] = Unavailable("quay.io asks to wait", retry_after=3600)
    async with running(world):
        key = world.put("web", tag("stable", 1))
        await until(lambda: len(world.asked) == 2)  # at the mirror, then at the source
        await world.idle()
        await world.sweep(minutes=2)
        assert len(world.asked) == 3, "the mirror again, and the source must wait"
        world.put("web", tag("stable", 2, 1))
        await until(lambda: world.made == {2})  # which the mirror has
        await world.idle()
        await world.sweep(minutes=2)
        assert world.numbers == [1, 1, 1, 2], "the one that is put off is left alone"
        del world.answers[HOST]
        world.clock.advance(hours=1)
        world.queue.add(key)
        await until(lambda: world.made == {1, 2})


@pytest.mark.parametrize(
    ("account", "waits", "goes_on"), [("anonymous", "team-a", "team-b"), ("authenticated", "team-b", "team-a")]
)
async def test_the_last_pulls_are_not_for_images(world: World, account: str, waits: str, goes_on: str) -> None:
    other = {"anonymous": "authenticated", "authenticated": "anonymous"}[account]
    world.logins = {"team-b": (login("me"),)}
    async with running(world):
        world.reconciler.heed(HOST, account, 49)
        key = world.put("web", tag("stable", 1), tag("other", 2, host="ghcr.io"), namespace=waits)
        world.put("web", tag("stable", 3), namespace=goes_on)
        await until(lambda: world.made == {2, 3})
        await world.idle()
        assert world.later[key] == 3600
        world.reconciler.heed(HOST, other, 150)
        world.queue.add(key)
        await world.idle()
        assert world.made == {2, 3}, "what others have left does not matter"
        world.reconciler.heed(HOST, account, 50)
        world.queue.add(key)
        await until(lambda: world.made == {1, 2, 3})


async def test_where_no_login_may_be_sent_the_last_pulls_are_those_of_all(world: World) -> None:
    world.entries = (login("me"),)
    insecure = tag("stable", 1)
    insecure["observed"]["insecure"] = True
    async with running(world):
        world.reconciler.heed(HOST, "anonymous", 49)
        world.put("web", insecure, tag("next", 2))
        await until(lambda: world.made == {2})
        await world.idle()
        assert world.numbers == [2]


async def test_what_many_hosts_have_left_is_kept_for_so_many(world: World) -> None:
    for number in range(5000):
        world.reconciler.heed(f"r{number}.example", "anonymous", 0)
    assert len(world.reconciler._short) == 2048
    world.entries = ()
    async with running(world):
        world.put("web", tag("stable", 1, host="r4999.example"), tag("next", 2, host="r0.example"))
        await until(lambda: world.made == {2})
    assert world.numbers == [2], "the latest words count"


async def test_hosts_that_put_a_namespace_off_are_remembered_for_so_many(world: World) -> None:
    hosts = [f"r{number}.example" for number in range(300)]
    world.answers |= {host: Unavailable("busy", retry_after=3600) for host in hosts}
    world.put("web", *(tag(f"t{number}", number, host=host) for number, host in enumerate(hosts, 1)))
    async with running(world):
        for _ in range(3):
            await world.sweep(minutes=2)
        assert len(world.reconciler._paused["team-a"]) == 256
        assert len(world.asked) == 300, "and the others are left alone as well"
        world.reconciler.heed(HOST, "anonymous", 0)
        world.answers.clear()
        await world.sweep(hours=2)
        await until(lambda: len(world.made) == 300)
        await world.sweep(minutes=1)
        assert (world.reconciler._paused, world.reconciler._short) == ({}, {}), "nothing is kept that is over"


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


async def test_questions_of_other_rules_are_withdrawn_and_asked_by_the_new_ones(world: World) -> None:
    world.mirrors = ("old.example/web",)
    world.held = True
    async with running(world):
        key = world.put("web", tag("stable", 1))
        await until(lambda: world.under_way == {1})
        world.mirrors = ("new.example/web",)
        world.queue.add(key)
        await world.idle()
        assert len(world.asked) == 1, "not for any reason"
        world.queue.add(key, AGAIN)
        await until(lambda: len(world.asked) == 2)
        assert [question.reference.host for question in world.asked] == ["old.example", "new.example"]
        world.answers = {"old.example": NotFound("gone")}
        world.answer(1)
        await until(lambda: world.made == {1})
    assert len(world.asked) == 2, "what the old place says does not count"


async def test_an_answer_to_an_old_login_is_not_the_last_word(world: World) -> None:
    world.entries = (login("old"),)
    world.answers["old"] = Unauthorized("no")
    world.held = True
    async with running(world):
        key = world.put("web", tag("stable", 1, 2))
        await until(lambda: world.under_way == {1, 2})
        world.entries = (login("new"),)
        world.queue.add(key, AGAIN)
        await until(lambda: len(world.asked) == 4)
        world.answer(1, 2)
        await until(lambda: world.made == {1, 2})


async def test_a_new_login_does_not_wait_for_what_the_old_one_was_told(world: World) -> None:
    slow = login("slow")
    world.entries = (slow,)
    world.answers["slow"] = RateLimited("slow down", retry_after=3600, fingerprint=slow.credential.fingerprint)
    async with running(world):
        key = world.put("web", tag("stable", 1))
        await until(lambda: world.asked)
        await world.idle()
        await world.sweep(minutes=2)
        world.entries = (login("fine"),)
        world.put("web", tag("stable", 2))
        await world.seen()
        assert world.numbers == [1]
        world.queue.add(key, AGAIN)
        await until(lambda: world.made == {2})


async def test_what_was_put_off_by_other_rules_is_asked_at_once_by_the_new_ones(world: World) -> None:
    world.answers[HOST] = Unavailable("quay.io asks to wait", retry_after=3600)
    async with running(world):
        key = world.put("web", tag("stable", 1))
        await until(lambda: world.numbers == [1])
        await world.sweep(minutes=2)
        world.mirrors = ("mirror.example/cache/web",)
        world.queue.add(key, AGAIN)
        await until(lambda: world.made == {1})
        world.answers["mirror.example"] = NotFound("not here")
        world.put("web", tag("stable", 2, 1))
        await world.seen()
        assert 2 in world.numbers
        world.mirrors = ("second.example/cache/web",)
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


async def test_what_comes_into_use_during_a_sweep_stays_though_all_workers_are_busy(world: World) -> None:
    world.put("web", tag("stable", 9))
    for number in (1, 2):
        world.put_image(number, "team-a")
    async with running(world):
        for _ in range(6):
            await world.sweep(minutes=10)
        busy, finish, delete = [], asyncio.Event(), world.images.delete

        async def hang(_: object) -> tuple[Entry, ...]:
            busy.append(1)
            await finish.wait()
            return ()

        async def delete_while_a_stream_comes(image: Any) -> bool:
            done = await delete(image)
            world.put("late", tag("stable", 2))
            await until(lambda: ("team-a", "late") in world.streams.store)
            return done

        world.reconciler._credentials = hang
        for number in (20, 21):  # as many as there are workers
            world.put(f"busy-{number}", tag("stable", number))
        await until(lambda: len(busy) == 2)
        world.images.delete = delete_while_a_stream_comes
        world.clock.advance(minutes=10)
        await world.reconciler.sweep()
        assert world.made == {2, 9}
        finish.set()
        await world.idle()


async def test_the_controller_tells_of_what_a_stream_has_before_any_worker_sees_it(
    api: FakeApiServer, cluster: Cluster, world: World, tmp_path: Path
) -> None:
    given = load({"kubeconfig": str(api.kubeconfig(tmp_path / "kubeconfig"))}, {}, lambda path: Path(path).read_text())
    controller = Controller(cluster, given, clock=world.clock)
    nobody = SimpleNamespace(followers=lambda _: ())
    controller._importer = controller._triggers = nobody
    noted: list[ImageStream] = []
    controller._describer = SimpleNamespace(note=noted.append)
    stream = decode(json.dumps({"metadata": {"namespace": "team-a", "name": "web"}, "status": {"tags": [tag("a", 1)]}}))
    empty = decode(json.dumps({"metadata": {"namespace": "team-a", "name": "web"}}))
    controller._stream_changed(stream.key, None, stream)
    controller._stream_changed(stream.key, stream, empty)
    controller._stream_changed(stream.key, empty, stream)
    controller._stream_changed(stream.key, stream, None)
    assert noted == [stream, empty, stream]


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


@pytest.mark.parametrize("is_first", [True, False])
async def test_nothing_is_deleted_while_a_stream_cannot_be_read(world: World, *, is_first: bool) -> None:
    def unreadable() -> None:
        world.put(
            "odd", {"tag": 5, "items": [{"dockerImageReference": f"{HOST}/acme/web@{digest(1)}", "image": digest(1)}]}
        )

    world.put("web", tag("stable", 9))
    world.put_image(1, "team-a")
    if is_first:
        unreadable()
    async with running(world):
        if not is_first:
            world.put("odd", tag("stable", 9))
            await world.seen()
            unreadable()
            await until(lambda: world.streams.unread == {("team-a", "odd")})
        for _ in range(30):
            await world.sweep(minutes=10)
        assert world.made == {1, 9}
        world.put("new", tag("stable", 20))
        await until(lambda: world.made == {1, 9, 20})
        world.put("odd", tag("stable", 9))
        await until(lambda: not world.streams.unread)
        for _ in range(6):
            await world.sweep(minutes=10)
        assert world.made == {1, 9, 20}, "nobody knows what was referred to meanwhile: the grace begins again"
        await world.sweep(minutes=10)
        assert world.made == {9, 20}


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
