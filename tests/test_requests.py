"""Import requests end to end, with real lanes and registries at a socket: what is answered, what comes of it, who waits
for whom, and what users, registries and crowds may try.
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections import Counter
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from dev.images import image
from imagestreams.controllers import imagestreamimport as controller_imports
from imagestreams.core import answering
from imagestreams.core.admission import Allowed, Denied, Requester
from imagestreams.core.stamp import Footprint, seal
from imagestreams.requests import Crowded, Room, Turns
from imagestreams.server import imports as server_imports
from tests.fakes.apiserver import hang, status
from tests.fakes.waiting import until
from tests.requests_world import BOB, CONTROLLER, KEY, OLD_KEY, Object, Refused, World, asked, asking, results

# --- turns ------------------------------------------------------------------------------------------------------------


class Guests:
    """Requests that take turns; `inside` are those that have one, in the order in which they came in."""

    def __init__(self, room: Room) -> None:
        self.turns = Turns(room)
        self.inside: list[str] = []
        self.crowded: list[str] = []
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def come(self, *names: str) -> None:
        """Requests "namespace/user" or "namespace/user/number", with "*images" behind it where there are several."""
        for name in names:
            self._tasks[name] = asyncio.create_task(self._stay(name))
            await asyncio.sleep(0)

    async def go(self, *names: str) -> None:
        for name in names:
            self._tasks[name].cancel()
        await asyncio.gather(*(self._tasks.pop(name) for name in names), return_exceptions=True)
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    async def _stay(self, name: str) -> None:
        who, _, images = name.partition("*")
        namespace, user, *_ = who.split("/")
        try:
            async with self.turns.taken(namespace, user, images=int(images or 1)):
                self.inside.append(name)
                try:
                    await asyncio.Event().wait()
                finally:
                    self.inside.remove(name)
        except Crowded:
            self.crowded.append(name)


SMALL = Room(in_all=4, per_namespace=2, per_user=2, waiting=3, waiting_in_all=5)


async def test_so_many_have_a_turn_at_a_time_and_the_others_wait_for_theirs():
    guests = Guests(SMALL)
    await guests.come("a/x/1", "a/y/2", "a/z/3")
    assert guests.inside == ["a/x/1", "a/y/2"], "so many of a namespace"
    await guests.come("b/u/1", "b/v/2", "c/w/1")
    assert guests.inside == ["a/x/1", "a/y/2", "b/u/1", "b/v/2"], "so many in all"
    assert guests.turns.load == (2, 4)
    await guests.go("b/u/1")
    assert guests.inside == ["a/x/1", "a/y/2", "b/v/2", "c/w/1"]
    await guests.go("a/x/1", "b/v/2")
    assert guests.inside == ["a/y/2", "c/w/1", "a/z/3"]
    await guests.go("a/y/2", "c/w/1", "a/z/3")
    assert (guests.turns.load, guests.turns._waiting, guests.turns._users) == ((0, 0), {}, {})


async def test_a_user_has_no_more_turns_by_using_several_namespaces():
    guests = Guests(SMALL)
    await guests.come("a/x", "b/x", "c/x", "c/y")
    assert guests.inside == ["a/x", "b/x", "c/y"], "nor keeps others of the namespace from theirs"
    await guests.go("a/x")
    assert guests.inside == ["b/x", "c/y", "c/x"]


async def test_so_many_images_have_a_turn_at_a_time():
    guests = Guests(Room(images=500))
    await guests.come("a/x*300", "b/y*201", "c/z*200")
    assert guests.inside == ["a/x*300", "c/z*200"], "one of fewer images may be the first"
    await guests.go("c/z*200")
    assert guests.inside == ["a/x*300"]
    await guests.go("a/x*300")
    assert guests.inside == ["b/y*201"]
    await guests.come("a/x/1*700", "a/x/2*299")
    assert guests.inside == ["b/y*201", "a/x/2*299"]
    await guests.go("b/y*201", "a/x/2*299")
    assert guests.inside == ["a/x/1*700"], "however many it has"
    await guests.come("a/x/3")
    await guests.go("a/x/1*700")
    assert guests.inside == ["a/x/3"]
    await guests.go("a/x/3")
    assert guests.turns._images == 0


async def test_namespaces_take_turns():
    guests = Guests(Room(in_all=1, per_namespace=1, per_user=1))
    await guests.come("a/x", "a/y/1", "a/y/2", "a/y/3", "b/z")
    order = []
    while guests.inside:
        order += guests.inside
        await guests.go(guests.inside[0])
    assert order == ["a/x", "a/y/1", "b/z", "a/y/2", "a/y/3"]


async def test_so_many_wait_and_no_more():
    guests = Guests(SMALL)
    await guests.come("a/x/1", "a/y/2", "a/z/1", "a/z/2", "a/z/3", "a/z/4")
    assert guests.crowded == ["a/z/4"], "of a namespace"
    await guests.come("b/u/1", "b/v/2", "b/w/3", "b/w/4", "b/w/5")
    assert guests.crowded == ["a/z/4", "b/w/5"], "in all"
    assert guests.turns.load == (5, 4)


async def test_who_gives_up_waiting_takes_no_turn():
    guests = Guests(SMALL)
    await guests.come("a/x/1", "a/y/2", "a/z/3", "a/z/4")
    await guests.go("a/z/3")
    assert guests.turns.load == (1, 2)
    await guests.go("a/x/1")
    assert guests.inside == ["a/y/2", "a/z/4"]
    await guests.go("a/z/4", "a/y/2")
    assert (guests.turns.load, guests.turns._waiting) == ((0, 0), {})


@pytest.mark.parametrize("is_admitted_first", [True, False])
async def test_who_gives_up_as_the_turn_comes_gives_it_back(is_admitted_first: bool):
    guests = Guests(Room(in_all=1))
    await guests.come("a/x", "a/y", "a/z")
    guests._tasks["a/x"].cancel()
    if is_admitted_first:
        await asyncio.sleep(0)
        assert (guests.inside, guests.turns.load) == ([], (1, 1)), "it is its turn, and it does not know"
    guests._tasks["a/y"].cancel()
    for _ in range(5):
        await asyncio.sleep(0)
    assert guests.inside == ["a/z"]
    assert guests.turns.load == (0, 1)


# --- what is answered, and what comes of it ---------------------------------------------------------------------------


@pytest.fixture
async def world(tmp_path: Path):
    async with World(tmp_path) as made:
        yield made


@pytest.fixture
async def unguarded(tmp_path: Path):
    """Where there is no webhook."""
    async with World(tmp_path, has_webhook=False) as made:
        yield made


def without_times(status: Object) -> Object:
    """A stream's status, as far as it does not say when."""
    return json.loads(re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "then", json.dumps(status)))


async def test_the_answer_is_what_carrying_it_out_makes_of_the_stream(world: World):
    old, new = image(text="old"), image(text="new")
    registry = world.registries["registry.test"]
    for text, made in (("1", old), ("2", new)):
        registry.add("acme/web", text, made)
    world.put_stream(tags=[{"name": "1", "from": {"kind": "DockerImage", "name": "registry.test/acme/web:1"}}])
    await world.settled()
    version = world.stream()["metadata"]["resourceVersion"]
    stored = await world.create(
        asking(
            "web",
            asked("registry.test/acme/web:2", "1"),
            asked("registry.test/acme/web:1", "first"),
            asked("registry.test/acme/web:none", "none"),
            resourceVersion=version,
        )
    )
    assert results(stored) == [new.digest, old.digest, "NotFound"]
    assert world.spec_tags() == {"1": "registry.test/acme/web:1"}, "the webhook writes nothing"
    await world.settled()
    written, foretold = world.stream(), stored["status"]["import"]
    assert foretold["spec"] == written["spec"]
    assert without_times(foretold["status"]) == without_times(written["status"])
    assert world.items("1") == [new.digest, old.digest]
    assert world.spec_tags()["none"] == "registry.test/acme/web:none", "as OpenShift has it: the condition tells"
    assert world.mark(stored["metadata"]["name"]) == "2026-03-01T12:00:00Z"
    assert world.events == []


async def test_a_name_is_used_again_and_again(world: World):
    made = world.registries["registry.test"].add("acme/web", "1", image())
    names = set()
    for _ in range(3):
        stored = await world.create(asking("web", "registry.test/acme/web:1"))
        assert results(stored) == [made]
        names.add(stored["metadata"]["name"])
        await world.settled()
    assert len(names) == 3
    assert all(name.startswith("web-") for name in names)
    assert world.writes().count("create imagestreams") == 1
    assert world.writes().count("patch imagestreams") == 0, "what is there needs no write"
    assert world.items("1") == [made]


async def test_a_tag_whose_source_is_as_it_was_is_looked_at_again(world: World):
    registry = world.registries["registry.test"]
    old = registry.add("acme/web", "1", image(text="old"))
    await world.create(asking("web", "registry.test/acme/web:1"))
    await world.settled()
    new = registry.add("acme/web", "1", image(text="new"))
    world.clock.advance(minutes=1)
    assert world.items("1") == [old]
    stored = await world.create(asking("web", "registry.test/acme/web:1"))
    await world.settled()
    assert (results(stored), world.items("1")) == ([new], [new, old])


async def test_a_look_up_stores_nothing_and_needs_no_right(world: World):
    made = world.registries["registry.test"].add("acme/web", "1", image())
    world.allow(lambda _: False)
    stored = await world.create(asking("web", asked("registry.test/acme/web:1", includeManifest=True), is_import=False))
    await world.settled()
    assert results(stored) == [made]
    assert "import" not in stored["status"]
    assert world.stream() is None
    assert world.writes() == ["create imagestreamimports"]


async def test_a_request_without_a_stream_name_is_looked_up(world: World):
    made = world.registries["registry.test"].add("acme/web", "1", image())
    value = asking("x", "registry.test/acme/web:1", is_import=False)
    value["metadata"] = {"namespace": "shop", "generateName": "look-"}
    assert results(await world.create(value)) == [made]


async def test_what_a_request_says_of_itself_is_not_believed(world: World):
    made = world.registries["registry.test"].add("acme/web", "1", image())
    forged = seal(BOB, namespace="shop", stream="other", spec=b"{}", at=world.clock(), key=b"x" * 32)
    value = asking(
        "web",
        "registry.test/acme/web:1",
        annotations={
            "imagestreams.dev/requested-by": forged,
            "imagestreams.dev/image-stream": "other",
            "imagestreams.dev/carried-out": "2020-01-01T00:00:00Z",
            "theirs": "stays",
        },
    )
    value["status"] = {"images": [{"status": {"status": "Success"}, "image": {"metadata": {"name": "sha256:forged"}}}]}
    stored = await world.create(value)
    assert results(stored) == [made]
    assert stored["metadata"]["annotations"].keys() == {
        "theirs",
        "imagestreams.dev/requested-by",
        "imagestreams.dev/image-stream",
    }
    await world.settled()
    assert world.items("1") == [made]
    assert world.stream("other") is None
    assert {review["user"] for review in world.reviews} == {"jane"}


async def test_another_users_stream_in_the_same_namespace_is_not_edited_without_the_right(world: World):
    """A user who may create requests and nothing else."""
    world.registries["registry.test"].add("acme/web", "1", image())
    world.put_stream()
    world.allow(lambda spec: spec["user"] != "bob")
    with pytest.raises(Refused) as refused:
        await world.create(asking("web", "registry.test/acme/web:1"), user=BOB)
    assert refused.value.verdict == Denied(
        403,
        "Forbidden",
        'imagestreams.image.openshift.io "web" is forbidden: User "bob" cannot update resource "imagestreams" in API '
        'group "image.openshift.io" in the namespace "shop"',
    )
    with pytest.raises(Refused, match='cannot create resource "imagestreams"'):
        await world.create(asking("new", "registry.test/acme/web:1"), user=BOB)
    assert not world.registries["registry.test"].requests, "nothing is asked for who has no right"
    assert world.reviews[0]["groups"] == ["system:authenticated"]
    assert world.requests() == []


async def test_a_right_that_was_taken_since_counts(world: World):
    world.registries["registry.test"].add("acme/web", "1", image())
    world.put_stream()
    seen: list[str] = []
    world.allow(lambda spec: bool(seen.append(spec["user"])) or len(seen) == 1)
    stored = await world.create(asking("web", "registry.test/acme/web:1"))
    await world.settled()
    assert len(seen) == 2
    assert world.spec_tags() == {}
    assert world.mark(stored["metadata"]["name"]).startswith(
        'failed: imagestreams.image.openshift.io "web" is forbidden'
    )
    assert [reason for reason, _ in world.events] == ["ImportRequestFailed"]


@pytest.mark.parametrize(
    ("stream", "version", "verdict"),
    [
        pytest.param(True, "1", (409, "Conflict", 'the image stream was updated from "1" to '), id="another by now"),
        pytest.param(False, "1", (404, "NotFound", '"web" not found'), id="gone"),
    ],
)
async def test_the_stream_was_edited_since_it_was_read(world: World, stream: bool, version: str, verdict: Any):
    if stream:
        world.put_stream()
    with pytest.raises(Refused) as refused:
        await world.create(asking("web", "registry.test/acme/web:1", resourceVersion=version))
    code, reason, words = verdict
    assert (refused.value.verdict.code, refused.value.verdict.reason) == (code, reason)
    assert words in refused.value.verdict.message
    assert not world.registries["registry.test"].requests


async def test_the_stream_is_edited_while_the_request_is_answered(world: World):
    """Others' edits stay, and the request is carried out on what is there then."""
    registry = world.registries["registry.test"]
    registry.add("acme/web", "1", image())
    world.put_stream(lookupPolicy={"local": True})
    registry.hold()
    creating = asyncio.create_task(world.create(asking("web", "registry.test/acme/web:1")))
    await registry.arrived(1)
    other = {"name": "theirs", "from": {"kind": "DockerImage", "name": "registry.test/acme/web:1"}}
    value = world.stream()
    value["spec"]["tags"] = [other]
    world.api.put(value)
    # And twice between our reading and our write.
    world.api.inject(edit_first(world, annotations={"more": "stays"}), verb="patch", resource="imagestreams", times=2)
    registry.release()
    await creating
    await world.settled()
    assert world.spec_tags().keys() == {"theirs", "1"}
    assert world.stream()["metadata"]["annotations"] == {"more": "stays"}
    assert world.stream()["spec"]["lookupPolicy"] == {"local": True}
    assert world.writes().count("patch imagestreams") == 3


def edit_first(world: World, **metadata: Any) -> Any:
    """The stream is another by the time a request is looked at."""

    async def respond(_: Any, handle: Any) -> Any:
        value = world.stream()
        value["metadata"] |= metadata
        world.api.put(value)
        return await handle()

    return respond


async def test_twenty_imports_of_one_stream_at_once(world: World):
    registry = world.registries["registry.test"]
    names = [f"v{number}" for number in range(20)]
    digests = {name: registry.add("acme/web", name, image(text=name)) for name in names}
    made = await asyncio.gather(
        *(world.create(asking("web", asked(f"registry.test/acme/web:{name}", name))) for name in names)
    )
    assert [results(each) for each in made] == [[digests[name]] for name in names]
    await world.settled()
    assert world.spec_tags() == {name: f"registry.test/acme/web:{name}" for name in names}
    assert {name: world.items(name) for name in names} == {name: [digests[name]] for name in names}
    assert {world.mark(each["metadata"]["name"]) for each in made} == {"2026-03-01T12:00:00Z"}
    assert world.events == []


async def test_a_pinned_image_is_described_though_another_was_found(world: World):
    registry = world.registries["registry.test"]
    old = registry.add("acme/web", "1", image(text="old"))
    await world.create(asking("web", "registry.test/acme/web:1"))
    await world.settled()
    registry.add("acme/web", "1", image(text="new"))
    pins = {"1": {"digest": old, "reason": "checkout fails", "by": "jane", "at": "2026-03-01T12:00:00Z"}}
    stream = world.stream()
    stream["metadata"]["annotations"] = {"imagestreams.dev/pins": json.dumps(pins)}
    world.api.put(stream)
    await world.settled()
    stored = await world.create(asking("web", "registry.test/acme/web:1"))
    assert results(stored) == [old]
    assert stored["status"]["images"][0]["image"]["dockerImageLayers"]


# --- what it costs ----------------------------------------------------------------------------------------------------


LONG = ("merge_status", "plan_import", "description_of", "kept", "_fitted", "_imported_stream")


async def test_what_takes_long_is_done_off_the_loop_and_for_one_request_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Also where requests are late."""
    under_way, seen, gate = 0, Counter[tuple[str, bool, int]](), threading.Event()

    def noticing(name: str, function: Any) -> Any:
        def notice(*args: Any, **more: Any) -> Any:
            nonlocal under_way
            is_main = threading.current_thread() is threading.main_thread()
            under_way += 1
            seen[name, is_main, under_way] += 1
            try:
                if not is_main:
                    gate.wait(10)
                return function(*args, **more)
            finally:
                under_way -= 1

        return notice

    for name in LONG:
        monkeypatch.setattr(answering, name, noticing(name, getattr(answering, name)))
    for module in (server_imports, controller_imports):
        for name in ("edit_of", "work_of"):
            monkeypatch.setattr(module, name, noticing(name, getattr(module, name)))
    async with World(tmp_path, seconds=1.0) as world:
        good, slow = world.registries["registry.test"], world.registries["slow.test"]
        for number in range(5):
            good.add("acme/web", f"v{number}", image(text=str(number)))
        slow.hold()
        values = [
            asking(
                f"web-{number}",
                *(asked(f"registry.test/acme/web:v{each}", f"v{each}") for each in range(5)),
                *(["slow.test/acme/web:1"] if number % 2 else []),
            )
            for number in range(6)
        ]
        calls = [asyncio.create_task(world.create(value)) for value in values]
        await until(lambda: len(world.reviews) == len(values) and bool(seen))
        assert seen.total() == 1, "the others wait, and the loop goes on"
        gate.set()
        await asyncio.gather(*calls)
    assert {name for name, _, _ in seen} == {*LONG, "edit_of", "work_of"}
    assert {(is_main, count) for _, is_main, count in seen} == {(False, 1)}


async def test_answering_and_carrying_out_are_one_pull(world: World):
    registry = world.registries["registry.test"]
    made = registry.add("acme/web", "1", image())
    await world.create(asking("web", "registry.test/acme/web:1"))
    await world.settled()
    assert world.items("1") == [made]
    assert [each for each in registry.asked() if "/blobs/" not in each] == ["GET acme/web:1"]


async def test_what_was_known_before_the_request_is_no_answer_to_it(world: World):
    """The round that carries it out takes what the request was told, or younger, however short ago the last one was; as
    does a request while an earlier one is under way.
    """
    registry = world.registries["registry.test"]
    old = registry.add("acme/web", "1", image(text="old"))
    value = asking("web", "registry.test/acme/web:1")
    await world.create(value)
    await world.settled()
    assert world.items("1") == [old]
    new = registry.add("acme/web", "1", image(text="new"))
    world.clock.advance(seconds=5)
    # Answered by a process of its own: the controller was told nothing.
    known = world.process.lanes._finds
    world.process.lanes._finds = type(known)(16, clock=world.clock)
    made = await world.admitted(value)
    world.process.lanes._finds = known
    assert results(made) == [new]
    world.has_webhook = False
    world.clock.advance(seconds=2)
    await world.create(made)
    await world.settled()
    assert world.items("1") == [new, old]


async def test_a_refresh_long_after_an_import_that_asked_nothing_asks(world: World):
    """A suspended stream does not use what was foreseen; hours later it must not be taken for news."""
    registry = world.registries["registry.test"]
    registry.add("acme/web", "1", image(text="old"))
    world.put_stream()
    stream = world.stream()
    stream["metadata"]["annotations"] = {"imagestreams.dev/suspend": "true"}
    world.api.put(stream)
    await world.settled()
    await world.create(asking("web", "registry.test/acme/web:1"))
    await world.settled()
    world.clock.advance(hours=2)
    await world.create(asking("other", "registry.test/acme/web:1"))
    await world.settled()
    new = registry.add("acme/web", "1", image(text="new"))
    stream = world.stream()
    stream["metadata"]["annotations"] = {}
    world.api.put(stream)
    await world.settled()
    assert world.items("1") == [new]


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        pytest.param(
            {"managedFields": [{"operation": "Update"}, {"operation": "Apply"}]},
            422,
            "use kubectl create -f",
            id="server-side apply",
        ),
        pytest.param({"annotations": {"x": "y" * 262_000}}, 422, "Too long", id="no room for our annotations"),
        pytest.param({"name": "foo_bar"}, 422, "single dots or dashes", id="a name that no object can have"),
    ],
)
async def test_what_could_not_be_stored_is_refused_in_words(
    world: World, change: dict[str, Any], code: int, words: str
):
    world.registries["registry.test"].add("acme/web", "1", image())
    value = asking(change.pop("name", "web"), "registry.test/acme/web:1", **change)
    verdict = await world.process.door(world.review(value))
    assert isinstance(verdict, Denied)
    assert verdict.code == code
    assert words in verdict.message


async def test_who_waits_for_less_is_told_of_each_image_all_the_same(world: World):
    registry = world.registries["registry.test"]
    good = registry.add("acme/web", "1", image())
    registry.add("acme/slow", "1", image(text="slow"))
    registry.hold(path="acme/slow")
    value = asking("web", "registry.test/acme/web:1", asked("registry.test/acme/slow:1", "slow"), is_import=False)
    verdict = await world.process.door(replace(world.review(value), seconds=1.5))
    assert isinstance(verdict, Allowed)
    (status_,) = (each["value"] for each in verdict.patch if each["path"] == "/status")
    assert results({"status": status_}) == [good, "Timeout"]


@pytest.mark.parametrize(
    ("waits", "seconds"),
    [(0, 25), (0.1, 0.1), (1.5, 1), (3, 2), (4.5, 3), (5, 3.5), (10, 8.5), (26.4, 24.9), (26.5, 25), (30, 25)],
)
def test_of_the_time_that_is_left_some_is_for_the_answer_itself(waits: float, seconds: float):
    assert server_imports.answering_time(waits, 25) == pytest.approx(seconds)


async def test_a_repository_counts_as_all_its_tags_that_are_asked_for(tmp_path: Path):
    async with World(tmp_path, room=Room(images=50), seconds=0.5) as world:
        registry = world.registries["slow.test"]
        registry.add("acme/web", "1", image())
        registry.hold()
        first = asyncio.create_task(world.create(asking("web", "slow.test/acme/web:1", is_import=False)))
        await registry.arrived(1)
        value = asking("web", is_import=False)
        value["spec"]["repository"] = asked("slow.test/acme/web")
        with pytest.raises(Refused, match="429 TooManyRequests"):
            await world.create(value)
        await first


@pytest.mark.parametrize("is_asked_for", [True, False])
async def test_a_mode_that_is_none_holds_up_no_other_tag(world: World, *, is_asked_for: bool):
    """A stream of before its schema, or of another's."""
    made = world.registries["registry.test"].add("acme/web", "1", image())
    source = {"kind": "DockerImage", "name": "registry.test/acme/web:1"}
    tags: list[Object] = [
        {"name": "bad", "from": source, "importPolicy": {"importMode": "All"}},
        {"name": "good", "from": source},
    ]
    world.put_stream(tags=[tags[0]] if is_asked_for else tags)
    words = 'importPolicy.importMode "All" is neither Legacy nor PreserveOriginal'
    if is_asked_for:
        stored = await world.create(asking("web", *(asked(source["name"], each) for each in ("bad", "good"))))
        assert results(stored) == ["Invalid", made]
        assert stored["status"]["images"][0]["status"]["message"] == words
    await until(lambda: world.items("good") == [made])
    await world.settled()
    (bad,) = (each for each in world.stream()["status"]["tags"] if each["tag"] == "bad")
    (condition,) = bad["conditions"]
    assert (condition["reason"], condition["message"]) == ("InvalidSource", words)
    tags[0]["importPolicy"]["importMode"] = "PreserveOriginal"
    world.put_stream(tags=tags)
    await until(lambda: world.items("bad") == [made])


async def test_a_request_does_not_join_what_was_asked_before_it(world: World):
    registry, answer = world.registries["registry.test"], asyncio.Event()
    old = registry.add("acme/web", "1", image(text="old"))

    async def lagging(asked_: web.Request) -> web.StreamResponse:
        response = await registry.answer(asked_)
        await answer.wait()
        return response

    registry.script(lagging, times=1)
    value = asking("web", "registry.test/acme/web:1", is_import=False)
    first = asyncio.create_task(world.create(value))
    await registry.arrived(1)
    new = registry.add("acme/web", "1", image(text="new"))
    assert results(await world.create(value)) == [new]
    answer.set()
    assert results(await first) == [old]


# --- registries that do not answer ------------------------------------------------------------------------------------


async def test_of_a_dry_run_that_is_late_nobody_goes_on(tmp_path: Path):
    async with World(tmp_path, seconds=0.3) as world:
        world.registries["slow.test"].hold()
        review = world.review(asking("web", "slow.test/acme/web:1"))
        verdict = await world.process.door(replace(review, is_dry_run=True))
        assert isinstance(verdict, Allowed)
        (answered,) = (each["value"] for each in verdict.patch if each["path"] == "/status")
        assert answered["images"][0]["status"]["message"] == "the registry did not answer within 0.3s; ask again"
        assert world.writes() == []


async def test_what_is_late_is_said_image_by_image_and_the_controller_goes_on(tmp_path: Path):
    async with World(tmp_path, seconds=0.3) as world:
        fast = world.registries["registry.test"].add("acme/web", "1", image())
        slow = world.registries["slow.test"].add("acme/web", "1", image(text="slow"))
        world.registries["slow.test"].hold()
        stored = await world.create(
            asking("web", asked("slow.test/acme/web:1", "slow"), asked("registry.test/acme/web:1", "fast"))
        )
        assert results(stored) == ["Timeout", fast]
        said = stored["status"]["images"][0]["status"]
        assert said["code"] == 504
        assert said["message"] == "the registry did not answer within 0.3s; the controller goes on"
        assert (len(world.process.requests), world.process.turns.load) == (0, (0, 0))
        await until(lambda: world.items("fast") == [fast])
        assert world.spec_tags().keys() == {"slow", "fast"}
        world.registries["slow.test"].release()
        await until(lambda: world.items("slow") == [slow])


async def test_what_has_come_by_then_counts(tmp_path: Path):
    async with World(tmp_path, seconds=0.3, settle=60) as world:
        registry = world.registries["registry.test"]
        made = registry.add("acme/web", "1", image())
        registry.hold(path="/other/")
        stored = await world.create(asking("web", asked("registry.test/other:2"), asked("registry.test/acme/web:1")))
        assert results(stored) == ["Timeout", made]


async def test_without_credentials_in_time_nothing_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    async with World(tmp_path, seconds=0.3) as world:
        monkeypatch.setattr(world.process.requests, "_credentials", lambda _: asyncio.Event().wait())
        stored = await world.create(asking("web", "registry.test/acme/web:1", is_import=False))
        assert results(stored) == ["Timeout"]
        assert not world.registries["registry.test"].requests


async def test_a_description_that_is_late_leaves_the_digest(tmp_path: Path):
    async with World(tmp_path, seconds=0.3) as world:
        registry = world.registries["registry.test"]
        made = registry.add("acme/web", "1", image())
        registry.hold(path="/blobs/")
        stored = await world.create(asking("web", "registry.test/acme/web:1"))
        assert results(stored) == [made]
        assert stored["status"]["images"][0]["image"]["dockerImageMetadata"]["kind"] == "DockerImage"


@pytest.mark.parametrize("phase", ["waiting for a registry", "waiting for a turn", "reading the stream"])
async def test_a_call_that_is_given_up_leaves_nothing(tmp_path: Path, phase: str):
    async with World(tmp_path, room=Room(in_all=1)) as world:
        registry = world.registries["slow.test"]
        registry.add("acme/web", "1", image())
        registry.hold()
        if phase == "reading the stream":
            world.api.inject(hang(), verb="get", resource="imagestreams")
        calls = [asyncio.create_task(world.create(asking("web", "slow.test/acme/web:1")))]
        if phase != "reading the stream":
            await registry.arrived(1)
        if phase == "waiting for a turn":
            calls.insert(0, asyncio.create_task(world.create(asking("web", "slow.test/acme/web:1"))))
            await until(lambda: world.process.turns.load == (1, 1))
        await until(lambda: world.process.turns.load[1] == 1)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        process = world.process
        assert (len(process.requests), process.turns.load) == (0, (0, 0))
        assert (process.lanes._pending, process.lanes._arrived, process.lanes._timers) == ({}, {}, {})
        assert world.requests() == []


async def test_a_tarpit_and_a_hundred_imports_of_one_tenant_hold_up_nobody_else(tmp_path: Path):
    async with World(tmp_path, seconds=2.0) as world:
        tarpit, good = world.registries["slow.test"], world.registries["registry.test"]
        made = good.add("acme/web", "1", image())
        tarpit.hold()
        calls = [
            asyncio.create_task(world.create(asking(f"s{number}", "slow.test/evil/x:1", namespace="evil"), user=BOB))
            for number in range(100)
        ]
        await until(lambda: world.process.turns.load == (64, 16))
        began = asyncio.get_running_loop().time()
        for _ in range(3):
            stored = await world.create(asking("web", "registry.test/acme/web:1"))
            assert results(stored) == [made]
        assert asyncio.get_running_loop().time() - began < 1.0
        await until(lambda: world.items("1") == [made])
        assert asyncio.get_running_loop().time() - began < 1.5
        ends = await asyncio.gather(*calls, return_exceptions=True)
        codes = Counter(end.verdict.code if isinstance(end, Refused) else results(end)[0] for end in ends)
        # Sixteen were answered that theirs was late, those behind them that they may try again.
        assert codes == {"Timeout": codes["Timeout"], 429: 100 - codes["Timeout"]}
        assert codes["Timeout"] >= 16
        denied = next(end.verdict for end in ends if isinstance(end, Refused))
        assert (denied.reason, denied.retry_after) == ("TooManyRequests", 5)
        assert world.process.turns.load == (0, 0)


# --- size -------------------------------------------------------------------------------------------------------------


async def test_three_hundred_images_in_one_request(world: World):
    registry = world.registries["registry.test"]
    env = [f"PADDING={'x' * 4_000}"]
    digests = [
        registry.add("acme/web", f"v{number}", image(text=str(number), config={"Env": env})) for number in range(300)
    ]
    value = asking("web", *(asked(f"registry.test/acme/web:v{number}", f"v{number}") for number in range(300)))
    stored = await world.create(value)
    assert results(stored) == digests
    assert len(json.dumps(stored)) < 1 << 20
    await world.settled()
    assert [world.items(f"v{number}") for number in range(300)] == [[digest] for digest in digests]


@pytest.mark.parametrize(
    ("value", "code", "words"),
    [
        pytest.param(asking("web", *["registry.test/acme/web:1"] * 501), 422, "at most 500", id="too many images"),
        pytest.param(asking("web"), 422, "name at least one image", id="none"),
        pytest.param(asking("web", asked("registry.test/acme/web:1", "")), 422, "spec.images[0].to.name", id="no tag"),
        pytest.param(asking("web", "a:1", annotations={"x": "y" * 800_000}), 413, "at most 786432 bytes", id="padding"),
        pytest.param(asking("web", "a:1") | {"spec": {"images": "x"}}, 422, "not understood", id="another type"),
    ],
)
async def test_what_is_no_request_is_refused_in_words(world: World, value: Object, code: int, words: str):
    with pytest.raises(Refused) as refused:
        await world.create(value)
    assert refused.value.verdict.code == code
    assert words in refused.value.verdict.message
    assert not world.registries["registry.test"].requests


async def test_a_stream_that_etcd_does_not_take_is_said(world: World):
    world.registries["registry.test"].add("acme/web", "1", image())
    world.put_stream()
    world.api.inject(
        status(500, "InternalError", "etcdserver: request is too large"),
        verb="patch",
        resource="imagestreams",
        times=-1,
    )
    stored = await world.create(asking("web", "registry.test/acme/web:1"))
    await world.settled()
    mark = world.mark(stored["metadata"]["name"])
    assert mark == "failed: the image stream cannot be written: etcdserver: request is too large"
    assert world.events == [("ImportRequestFailed", mark.removeprefix("failed: "))]


# --- the webhook's guard ----------------------------------------------------------------------------------------------

ANSWERED = {
    **asking("web-x", "registry.test/acme/web:1", annotations={"imagestreams.dev/requested-by": "s", "theirs": "1"}),
    "status": {"images": [{"status": {"status": "Success"}}]},
}


def changed(**parts: Any) -> Object:
    metadata = {**ANSWERED["metadata"], **parts.pop("metadata", {})}
    return {**ANSWERED, **parts, "metadata": metadata}


@pytest.mark.parametrize(
    ("new", "words"),
    [
        pytest.param(changed(), "", id="nothing"),
        pytest.param(changed(metadata={"labels": {"a": "b"}, "finalizers": ["x/y"]}), "", id="labels, finalizers"),
        pytest.param(
            changed(metadata={"annotations": {"imagestreams.dev/requested-by": "s", "theirs": "2"}}),
            "",
            id="others' marks",
        ),
        pytest.param(changed(spec={**ANSWERED["spec"], "import": False}), "spec", id="what is asked"),
        pytest.param(changed(status={}), "status", id="the answer"),
        pytest.param(changed(metadata={"annotations": {"theirs": "1"}}), "requested-by", id="the stamp, removed"),
        pytest.param(
            changed(
                metadata={"annotations": {**ANSWERED["metadata"]["annotations"], "imagestreams.dev/carried-out": "x"}}
            ),
            "carried-out",
            id="a mark",
        ),
        pytest.param(
            changed(
                metadata={"annotations": {**ANSWERED["metadata"]["annotations"], "imagestreams.dev/image-stream": "x"}}
            ),
            "image-stream",
            id="the stream",
        ),
    ],
)
async def test_what_was_asked_and_answered_is_not_changed(world: World, new: Object, words: str):
    verdict = await world.process.door(world.review(new, operation="UPDATE", old=ANSWERED))
    if not words:
        assert verdict == Allowed()
    else:
        assert isinstance(verdict, Denied)
        assert (verdict.code, verdict.reason) == (403, "Forbidden")
        assert words in verdict.message
        assert "create another" in verdict.message
    ours = Requester(CONTROLLER)
    assert await world.process.door(world.review(new, operation="UPDATE", old=ANSWERED, user=ours)) == Allowed()


async def test_other_reviews_pass_untouched(world: World):
    create = world.review(asking("web", "registry.test/acme/web:1"))
    for other in (
        replace(create, operation="DELETE", object=b"", old=create.object),
        replace(create, operation="CONNECT"),
        replace(create, resource="imagestreams"),
        replace(create, group="other.example"),
        replace(create, subresource="status"),
    ):
        assert await world.process.door(other) == Allowed()
    assert world.api.count("get", "imagestreams") == 0


async def test_a_review_that_contradicts_itself_is_refused(world: World):
    """The rights that are asked for are those in the namespace where the object will be."""
    create = world.review(asking("web", "registry.test/acme/web:1", namespace="shop"))
    verdict = await world.process.door(replace(create, namespace="other"))
    assert isinstance(verdict, Denied)
    assert verdict.code == 400
    assert world.reviews == []


# --- what must be known and is not ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(
            lambda api: api.inject(status(500, "InternalError"), verb="get", resource="imagestreams"), id="stream"
        ),
        pytest.param(
            lambda api: api.inject(
                status(503, "ServiceUnavailable"), when=lambda seen: seen.path.endswith("/subjectaccessreviews")
            ),
            id="rights",
        ),
        pytest.param(lambda api: api.inject(hang(), verb="get", resource="imagestreams"), id="in time"),
    ],
)
async def test_an_api_server_that_does_not_tell_is_no_right(tmp_path: Path, fault: Any):
    async with World(tmp_path, seconds=0.3) as world:
        fault(world.api)
        with pytest.raises(Refused) as refused:
            await world.create(asking("web", "registry.test/acme/web:1"))
        assert (refused.value.verdict.code, refused.value.verdict.reason) == (503, "ServiceUnavailable")
        assert not world.registries["registry.test"].requests


async def test_without_a_key_nothing_is_let_pass(world: World):
    world.registries["registry.test"].add("acme/web", "1", image())
    world.keys = None
    with pytest.raises(Refused, match="503 ServiceUnavailable"):
        await world.create(asking("web", "registry.test/acme/web:1"))
    assert world.requests() == []


# --- nobody knows who asks --------------------------------------------------------------------------------------------


async def test_without_a_webhook_only_what_is_there_is_looked_at_again(unguarded: World):
    world, registry = unguarded, unguarded.registries["registry.test"]
    old = registry.add("acme/web", "1", image(text="old"))
    sources = {"1": "registry.test/acme/web:1", "2": "registry.test/acme/web:2"}
    world.put_stream(
        tags=[{"name": name, "from": {"kind": "DockerImage", "name": source}} for name, source in sources.items()]
    )
    await until(lambda: world.items("1") == [old])
    new = registry.add("acme/web", "1", image(text="new"))
    world.clock.advance(minutes=1)
    await world.create(
        asking("web", "registry.test/acme/web:1", asked("registry.test/acme/web:1", "more"), "registry.test/other:2")
    )
    await world.settled()
    stored = world.request("web")
    assert results(stored) == [new, "Forbidden", "Forbidden"]
    assert world.items("1") == [new, old], "its source is the very one: it is looked at again"
    assert world.spec_tags() == sources
    assert "imagestreams tag" in stored["status"]["images"][1]["status"]["message"]
    assert "import" not in stored["status"]
    told = stored["status"]["images"][0]["image"]
    assert told["dockerImageMetadata"].keys() <= {"kind", "apiVersion", "Id", "Config"}
    assert not [asked_ for asked_ in registry.asked() if "/blobs/" in asked_]
    assert world.reviews == [], "whose right should be asked for?"
    assert world.mark("web")


async def test_without_a_webhook_a_stream_is_not_made(unguarded: World):
    unguarded.registries["registry.test"].add("acme/web", "1", image())
    await unguarded.create(asking("web", "registry.test/acme/web:1"))
    await unguarded.settled()
    assert results(unguarded.request("web")) == ["Forbidden"]
    assert unguarded.stream() is None
    assert not unguarded.registries["registry.test"].requests


async def test_without_a_webhook_a_status_is_not_believed(unguarded: World):
    made = unguarded.registries["registry.test"].add("acme/web", "1", image())
    value = asking("web", "registry.test/acme/web:1", is_import=False)
    value["status"] = {"images": [{"status": {"status": "Success"}, "image": {"metadata": {"name": "sha256:forged"}}}]}
    await unguarded.create(value)
    await unguarded.settled()
    assert results(unguarded.request("web")) == [made]


SPEC = json.dumps(asking("web", "registry.test/acme/web:1")["spec"]).encode()


@pytest.mark.parametrize(
    "forged",
    [
        pytest.param({"key": b"x" * 32}, id="another key"),
        pytest.param({"key": OLD_KEY}, id="a key that no longer counts"),
        pytest.param({"spec": b'{"images": []}'}, id="of another request"),
        pytest.param({"stream": "other"}, id="for another stream"),
        pytest.param({"namespace": "other"}, id="of another namespace"),
        pytest.param({"at": timedelta(minutes=-2)}, id="a copy of an old one"),
        pytest.param({"at": timedelta(minutes=2)}, id="one for later"),
    ],
)
async def test_a_stamp_that_is_not_ours_edits_nothing(world: World, forged: dict[str, Any]):
    """Written by a user where the webhook was passed by."""
    world.registries["registry.test"].add("acme/web", "1", image())
    world.put_stream()
    await world.settled()
    reason = "StaleStamp" if "at" in forged else "ForgedStamp"
    at = world.clock() + forged.pop("at", timedelta())
    made = {"namespace": "shop", "stream": "web", "spec": SPEC, "key": KEY, **forged}
    stamp = seal(BOB, at=at, **made)
    marks = {"imagestreams.dev/requested-by": stamp, "imagestreams.dev/image-stream": "web"}
    world.has_webhook = False
    await world.create(asking("web", "registry.test/acme/web:1", annotations=marks))
    await world.settled()
    assert world.spec_tags() == {}
    assert results(world.request("web")) == ["Forbidden"]
    assert [said for said, _ in world.events] == [reason]
    assert "k" * 16 not in str(world.events)
    assert world.reviews == []


async def test_the_stamp_above_is_good_but_for_that(world: World):
    """Else the table above would prove nothing."""
    made = world.registries["registry.test"].add("acme/web", "1", image())
    sealed = {"namespace": "shop", "stream": "web", "spec": SPEC, "key": KEY, "seen": Footprint(places=("",))}
    stamp = seal(BOB, at=world.clock(), **sealed)
    marks = {"imagestreams.dev/requested-by": stamp, "imagestreams.dev/image-stream": "web"}
    world.has_webhook = False
    await world.create(asking("any", "registry.test/acme/web:1", annotations=marks))
    await world.settled()
    assert world.items("1") == [made]
    assert {review["user"] for review in world.reviews} == {"bob"}
