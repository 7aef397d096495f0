"""Stored import requests: carried out or answered whatever dies on the way, in turn, and gone in time."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from dev.images import image
from imagestreams.controllers import imagestreamimport as module
from imagestreams.controllers.imagestreamimport import ATTEMPTS, KeysUnknown, RequestLimits
from imagestreams.core.stamp import seal
from imagestreams.core.stream import ObjectKey
from tests.fakes.apiserver import Handle, Respond, disconnect, status
from tests.fakes.waiting import until
from tests.requests_world import API, BOB, JANE, KEY, Object, World, asked, asking, results

PULL = "registry.test/acme/web:1"


@pytest.fixture
async def world(tmp_path: Path):
    async with World(tmp_path) as made:
        yield made


@pytest.fixture
async def unguarded(tmp_path: Path):
    """Where there is no webhook."""
    async with World(tmp_path, has_webhook=False) as made:
        yield made


def stamped(world: World, value: Object, *, user: Any = JANE, stream: str = "web", key: bytes = KEY) -> Object:
    """The request as the webhook stamps it, without its answer."""
    spec = json.dumps(value["spec"]).encode()
    stamp = seal(user, namespace="shop", stream=stream, spec=spec, at=world.clock(), key=key)
    marks = {"imagestreams.dev/requested-by": stamp, "imagestreams.dev/image-stream": stream}
    return {**value, "metadata": {**value["metadata"], "annotations": marks}}


# --- whatever dies ----------------------------------------------------------------------------------------------------


def killing(reached: asyncio.Event, *, is_done: bool) -> Respond:
    """A request that the process does not outlive: it dies before the request is carried out, or before the answer."""

    async def respond(_: web.Request, handle: Handle) -> web.StreamResponse:
        if is_done:
            await handle()
        reached.set()
        return await asyncio.Future()

    return respond


@pytest.mark.parametrize("is_done", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(
    ("verb", "resource", "has_stream", "has_webhook"),
    [
        pytest.param("get", "imagestreamimports", True, True, id="reading the request"),
        pytest.param("get", "imagestreams", True, True, id="reading the stream"),
        pytest.param("create", "imagestreams", False, True, id="creating the stream"),
        pytest.param("patch", "imagestreams", True, True, id="writing the stream"),
        pytest.param("patch", "imagestreamimports", True, True, id="marking"),
        pytest.param("patch", "imagestreams/status", True, True, id="in the stream's round"),
        pytest.param("get", "imagestreams", True, False, id="reading the stream for an answer"),
        pytest.param("update", "imagestreamimports", True, False, id="answering"),
    ],
)
async def test_a_request_outlives_whoever_carries_it_out(
    tmp_path: Path, *, verb: str, resource: str, has_stream: bool, has_webhook: bool, is_done: bool
):
    async with World(tmp_path, has_webhook=has_webhook) as world:
        made = world.registries["registry.test"].add("acme/web", "1", image())
        if has_stream:
            tags = [] if has_webhook else [{"name": "1", "from": {"kind": "DockerImage", "name": PULL}}]
            world.put_stream(tags=tags)
        await world.settled()
        value = asking("web", PULL)
        value = await world.admitted(value) if has_webhook else value
        reached = asyncio.Event()
        world.api.inject(killing(reached, is_done=is_done), verb=verb, resource=resource)
        world.has_webhook = False  # it has spoken
        stored = await world.create(value)
        async with asyncio.timeout(10):
            await reached.wait()
        await world.kill()
        await world.start()
        await world.settled()
        name = stored["metadata"]["name"]
        assert results(world.request(name)) == [made]
        assert world.mark(name) == "2026-03-01T12:00:00Z"
        assert world.spec_tags() == {"1": PULL}
        assert world.items("1") == [made]
        assert world.events == []


async def test_a_request_outlives_whoever_waits_for_a_registry(unguarded: World):
    world, registry = unguarded, unguarded.registries["registry.test"]
    made = registry.add("acme/web", "1", image())
    registry.hold()
    await world.create(asking("web", PULL, is_import=False))
    await registry.arrived(1)
    await world.kill()
    assert world.request("web")["status"] == {}
    registry.release()
    await world.start()
    await world.settled()
    assert results(world.request("web")) == [made]


@pytest.mark.parametrize("is_done", [False, True])
@pytest.mark.parametrize(("verb", "resource"), [("patch", "imagestreams"), ("patch", "imagestreamimports")])
async def test_a_connection_that_breaks_is_no_end(world: World, *, verb: str, resource: str, is_done: bool):
    made = world.registries["registry.test"].add("acme/web", "1", image())
    world.put_stream()
    world.api.inject(disconnect(after=is_done), verb=verb, resource=resource, times=2)
    stored = await world.create(asking("web", PULL))
    await until(lambda: world.mark(stored["metadata"]["name"]))
    await until(lambda: world.items("1") == [made])
    assert world.mark(stored["metadata"]["name"]) == "2026-03-01T12:00:00Z"


async def test_a_stamped_request_without_an_answer_gets_one(world: World):
    """As when another webhook takes the status away."""
    made = world.registries["registry.test"].add("acme/web", "1", image())
    value = stamped(world, asking("any", PULL))
    world.has_webhook = False
    await world.create(value)
    await world.settled()
    stored = world.request("any")
    assert results(stored) == [made]
    assert stored["status"]["images"][0]["image"]["dockerImageMetadata"]["Architecture"] == "amd64"
    assert world.items("1") == [made]
    assert world.mark("any") == "2026-03-01T12:00:00Z"


async def test_a_done_request_is_not_begun_anew(world: World):
    """Not by its own mark, nor by a successor, nor by a label."""
    world.registries["registry.test"].add("acme/web", "1", image())
    stored = await world.create(asking("web", PULL))
    await world.settled()
    name = stored["metadata"]["name"]
    tags = [{"name": "mine", "from": {"kind": "DockerImage", "name": PULL}}]
    world.api.put(world.stream() | {"spec": {"tags": tags}})
    labelled = world.request(name)
    labelled["metadata"]["labels"] = {"a": "b"}
    world.api.put(labelled)
    await world.settled()
    await world.kill()
    await world.start()
    await world.settled()
    assert world.spec_tags().keys() == {"mine"}
    assert world.api.count("patch", "imagestreamimports") == 1


async def test_a_mark_alone_is_no_answer(unguarded: World):
    """Anybody may write one where nobody guards requests."""
    made = unguarded.registries["registry.test"].add("acme/web", "1", image())
    marks = {"imagestreams.dev/carried-out": "2020-01-01T00:00:00Z"}
    await unguarded.create(asking("web", PULL, is_import=False, annotations=marks))
    await unguarded.settled()
    assert results(unguarded.request("web")) == [made]


# --- others write, too ------------------------------------------------------------------------------------------------


async def test_who_always_comes_second_gives_up_and_says_so(world: World):
    world.registries["registry.test"].add("acme/web", "1", image())
    world.put_stream()
    world.api.inject(status(409, "Conflict"), verb="patch", resource="imagestreams", times=-1)
    stored = await world.create(asking("web", PULL))
    await world.settled()
    assert world.writes().count("patch imagestreams") == ATTEMPTS
    words = "the image stream web was changed by others again and again; ask again"
    assert world.mark(stored["metadata"]["name"]) == f"failed: {words}"
    assert world.events == [("ImportRequestFailed", words)]


async def test_a_stream_that_comes_or_goes_meanwhile_is_taken_as_it_is(world: World):
    made = world.registries["registry.test"].add("acme/web", "1", image())
    world.allow(lambda _: True)

    async def there_is_one(_: web.Request, handle: Handle) -> web.StreamResponse:
        world.put_stream(lookupPolicy={"local": True})
        return await handle()

    async def there_is_none(_: web.Request, handle: Handle) -> web.StreamResponse:
        world.api.remove(API, "imagestreams", "shop", "web")
        return await handle()

    world.api.inject(there_is_one, verb="create", resource="imagestreams")
    world.api.inject(there_is_none, verb="patch", resource="imagestreams")
    await world.create(asking("web", PULL))
    await world.settled()
    assert world.items("1") == [made]
    verbs = [review["resourceAttributes"]["verb"] for review in world.reviews]
    assert verbs == ["create", "create", "update", "create"], "each time for what is done then"


@pytest.mark.parametrize(
    ("code", "reason"), [(403, "Forbidden"), (422, "Invalid"), (400, "BadRequest")], ids=["right", "schema", "policy"]
)
async def test_a_stream_that_must_not_be_so_is_said(world: World, code: int, reason: str):
    world.registries["registry.test"].add("acme/web", "1", image())
    world.put_stream()
    world.api.inject(status(code, reason, "not\nlike that"), verb="patch", resource="imagestreams", times=-1)
    stored = await world.create(asking("web", PULL))
    await world.settled()
    assert world.mark(stored["metadata"]["name"]) == "failed: the image stream cannot be written: not like that"
    assert world.writes().count("patch imagestreams") == 1


async def test_labels_that_others_write_meanwhile_stay(unguarded: World):
    world, registry = unguarded, unguarded.registries["registry.test"]
    made = registry.add("acme/web", "1", image())
    registry.hold()
    await world.create(asking("web", PULL, is_import=False))
    await registry.arrived(1)
    labelled = world.request("web")
    labelled["metadata"]["labels"] = {"a": "b"}
    world.api.put(labelled)
    registry.release()
    await world.settled()
    stored = world.request("web")
    assert (results(stored), stored["metadata"]["labels"]) == ([made], {"a": "b"})
    assert len(registry.requests) == 1, "it was asked once"


async def test_a_request_that_is_another_by_now_is_answered_as_it_is(unguarded: World):
    world, registry = unguarded, unguarded.registries["registry.test"]
    registry.add("acme/web", "1", image())
    other = registry.add("acme/web", "2", image(text="2"))
    registry.hold()
    await world.create(asking("web", PULL, is_import=False))
    await registry.arrived(1)
    edited = world.request("web")
    edited["spec"] = asking("web", "registry.test/acme/web:2", is_import=False)["spec"]
    world.api.put(edited)
    registry.release()
    await until(lambda: world.mark("web"))
    assert results(world.request("web")) == [other]


async def test_a_request_that_is_deleted_meanwhile_is_over(unguarded: World):
    world, registry = unguarded, unguarded.registries["registry.test"]
    registry.add("acme/web", "1", image())
    registry.hold()
    await world.create(asking("web", PULL, is_import=False))
    await registry.arrived(1)
    world.api.remove(API, "imagestreamimports", "shop", "web")
    registry.release()
    await world.settled()
    assert world.requests() == []
    assert world.process.lanes._pending == {}


# --- stamps -----------------------------------------------------------------------------------------------------------


async def test_the_key_before_counts_for_a_while(world: World):
    made = world.registries["registry.test"].add("acme/web", "1", image())
    stored = await world.create(asking("web", PULL))
    await world.kill()
    world.keys = (b"n" * 32, KEY)
    await world.start()
    await world.settled()
    assert world.items("1") == [made]
    assert not world.mark(stored["metadata"]["name"]).startswith("failed")


async def test_while_the_key_is_not_known_a_stamped_request_waits(world: World):
    """It is neither believed nor called forged."""
    made = world.registries["registry.test"].add("acme/web", "1", image())
    value = await world.admitted(asking("web", PULL))
    world.keys = None
    world.has_webhook = False
    stored = await world.create(value)
    key = ObjectKey("shop", stored["metadata"]["name"])
    await until(lambda: key in world.process.watched.store)
    with pytest.raises(KeysUnknown):
        await world.process.reconciler.reconcile(key)
    assert (world.stream(), world.events, world.mark(stored["metadata"]["name"])) == (None, [], "")
    world.keys = (KEY,)
    await until(lambda: world.items("1") == [made])


async def test_each_is_carried_out_for_whoever_asked(world: World):
    world.registries["registry.test"].add("acme/web", "1", image())
    world.allow(lambda spec: spec["user"] == "jane" or not world.stream())
    mine = stamped(world, asking("mine", asked(PULL, "mine")))
    theirs = stamped(world, asking("theirs", asked(PULL, "theirs")), user=BOB)
    world.has_webhook = False
    await world.create(mine)
    await world.settled()
    await world.create(theirs)
    await world.settled()
    assert world.spec_tags().keys() == {"mine"}
    assert world.mark("theirs").startswith('failed: imagestreams.image.openshift.io "web" is forbidden: User "bob"')


# --- what is no request -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "words"),
    [
        pytest.param(asking("web") | {"spec": {"import": "yes"}}, "not understood", id="another type"),
        pytest.param(asking("web") | {"spec": {"images": [{"from": "x"}]}}, "not understood", id="deep inside"),
        pytest.param(asking("web", PULL, annotations={"x": "y" * 900_000}), "900", id="too large"),
    ],
)
async def test_what_cannot_be_read_is_answered_as_that(unguarded: World, value: Object, words: str):
    await unguarded.create(value)
    await unguarded.settled()
    assert unguarded.request("web")["status"]["summary"] == {"result": "Failure", "images": "0/0"}
    assert words in unguarded.mark("web")
    assert unguarded.mark("web").startswith("failed: ")
    assert [reason for reason, _ in unguarded.events] == ["ImportRequestFailed"]


async def test_what_is_amiss_is_said_image_by_image(unguarded: World):
    made = unguarded.registries["registry.test"].add("acme/web", "1", image())
    await unguarded.create(asking("web", PULL, "Not/An/Image", asked(PULL, "x/y"), is_import=False))
    await unguarded.settled()
    assert results(unguarded.request("web")) == [made, "Invalid", "Invalid"]


# --- turns ------------------------------------------------------------------------------------------------------------


async def test_a_tenant_whose_registry_hangs_holds_up_nobody_else(tmp_path: Path):
    limits = RequestLimits(answered=4, per_namespace=2)
    async with World(tmp_path, has_webhook=False, limits=limits, answering=30.0) as world:
        tarpit, good = world.registries["slow.test"], world.registries["registry.test"]
        made = good.add("acme/web", "1", image())
        late = tarpit.add("evil/x", "1", image(text="late"))
        tarpit.hold()
        for number in range(30):
            image_ = f"slow.test/evil/x:{number or 1}"
            await world.create(asking(f"s{number}", image_, namespace="evil", is_import=False))
        await until(lambda: len(world.process.requests) == 2)
        await world.create(asking("web", PULL, is_import=False))
        await until(lambda: world.mark("web"))
        assert results(world.request("web")) == [made]
        assert len(world.process.requests) == 2
        tarpit.release()
        await world.settled()
        ends = [results(each)[0] for each in world.requests() if each["metadata"]["namespace"] == "evil"]
        assert sorted(set(ends)) == sorted({late, "NotFound"})
        assert len(ends) == 30
        slots = world.process.reconciler._slots
        assert (slots._holders, slots._taken, slots._waiting) == (set(), {}, {})


async def test_what_needs_no_registry_waits_for_none(tmp_path: Path):
    """Requests that the webhook has answered go past those that it has not."""
    async with World(tmp_path, limits=RequestLimits(answered=3, per_namespace=3)) as world:
        world.registries["registry.test"].add("acme/web", "1", image())
        world.registries["slow.test"].hold()
        world.has_webhook = False
        for number in range(20):
            await world.create(asking(f"s{number}", "slow.test/x:1", is_import=False))
        await until(lambda: len(world.process.requests) == 3)
        world.has_webhook = True
        stored = await world.create(asking("web", PULL))
        await until(lambda: world.mark(stored["metadata"]["name"]))
        assert world.spec_tags() == {"1": PULL}


async def test_who_waits_and_is_deleted_keeps_nobody_waiting(tmp_path: Path):
    limits = RequestLimits(answered=1, per_namespace=1)
    async with World(tmp_path, has_webhook=False, limits=limits) as world:
        registry = world.registries["registry.test"]
        made = registry.add("acme/web", "1", image())
        registry.hold()
        for name in ("first", "second", "third"):
            await world.create(asking(name, PULL, is_import=False))
            await until(lambda: len(world.process.queue._waiting) == 0)
        await registry.arrived(1)
        await until(lambda: sum(map(len, world.process.reconciler._slots._waiting.values())) == 2)
        world.api.remove(API, "imagestreamimports", "shop", "second")
        registry.release()
        await until(lambda: world.mark("third"))
        assert results(world.request("third")) == [made]


# --- in time ----------------------------------------------------------------------------------------------------------


async def test_a_request_goes_some_time_after_it_is_done(world: World):
    world.registries["registry.test"].add("acme/web", "1", image())
    for is_import in (True, False):
        await world.create(asking("web", PULL, is_import=is_import))
    await world.settled()
    world.clock.advance(seconds=599)
    await world.process.reconciler.sweep()
    assert len(world.requests()) == 2
    world.clock.advance(seconds=1)
    await world.process.reconciler.sweep()
    assert world.requests() == []
    await world.settled()
    await world.process.reconciler.sweep()
    assert world.process.reconciler._finished == {}
    assert world.items("1"), "what was imported stays"


async def test_a_request_that_is_not_done_stays_for_a_day(world: World):
    value = await world.admitted(asking("web", PULL))
    world.keys, world.has_webhook = None, False
    await world.create(value)
    await until(lambda: len(world.process.watched.store) == 1)
    world.clock.advance(hours=23)
    await world.process.reconciler.sweep()
    assert len(world.requests()) == 1
    world.clock.advance(hours=2)
    await world.process.reconciler.sweep()
    assert world.requests() == []


async def test_a_sweep_deletes_a_few_the_oldest_first_and_no_other_of_that_name(
    unguarded: World, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "_MAX_DELETED", 100)
    world = unguarded
    await world.kill()
    begin = world.clock()
    for number in range(105):
        value = asking(f"r{number:03}", PULL, is_import=False)
        value["metadata"]["annotations"] = {"imagestreams.dev/carried-out": "x"}
        value["status"] = {"images": [{"status": {"status": "Success"}}]}
        created = begin - timedelta(hours=1, seconds=number)
        value["metadata"]["creationTimestamp"] = created.strftime("%Y-%m-%dT%H:%M:%SZ")
        world.api.put(value)
    await world.start()
    await world.settled()
    process = world.process

    def replaced(_: web.Request, handle: Handle) -> Any:
        # The watch does not know yet that the oldest is another's by now.
        world.api.remove(API, "imagestreamimports", "shop", "r104")
        world.api.put(asking("r104", PULL, is_import=False))
        return handle()

    world.api.inject(replaced, verb="delete", resource="imagestreamimports")
    await process.reconciler.sweep()
    left = {each["metadata"]["name"] for each in world.requests()}
    assert left == {"r000", "r001", "r002", "r003", "r004", "r104"}


async def test_one_that_must_not_be_deleted_does_not_hold_up_the_others(world: World):
    world.registries["registry.test"].add("acme/web", "1", image())
    for name in ("first", "second"):
        await world.create(asking(name, PULL, is_import=False))
        world.clock.advance(seconds=1)
    await world.settled()
    world.clock.advance(minutes=11)
    world.api.inject(status(403, "Forbidden", "a policy keeps it"), when=lambda seen: seen.verb == "delete", times=1)
    await world.process.reconciler.sweep()
    (left,) = world.requests()
    await world.process.reconciler.sweep()
    assert world.requests() == [left], "it is not asked for at each sweep"
    world.clock.advance(hours=2)
    await world.process.reconciler.sweep()
    assert world.requests() == []


async def test_an_answer_stays_though_its_stamp_is_of_a_key_that_is_gone(world: World):
    """The Secret was deleted between answer and controller: nothing is carried out, and nobody's answer is lost."""
    made = world.registries["registry.test"].add("acme/web", "1", image())
    value = await world.admitted(asking("web", PULL))
    world.keys = (b"n" * 32,)
    world.has_webhook = False
    stored = await world.create(value)
    name = stored["metadata"]["name"]
    key = ObjectKey("shop", name)
    await until(lambda: key in world.process.watched.store)
    with pytest.raises(KeysUnknown):
        await world.process.reconciler.reconcile(key)
    assert world.mark(name) == "", "another replica may have told us late"
    world.clock.advance(minutes=3)
    await world.process.reconciler.reconcile(key)
    assert world.mark(name).startswith("failed: its stamp is not believed")
    assert results(world.request(name)) == [made]
    assert world.stream() is None


async def test_one_without_room_for_a_mark_is_carried_out_once(world: World):
    made = world.registries["registry.test"].add("acme/web", "1", image())
    value = await world.admitted(asking("web", PULL))
    world.has_webhook = False
    too_long = status(422, "Invalid", "metadata.annotations: Too long")
    world.api.inject(
        too_long, when=lambda seen: (seen.verb, seen.resource) == ("patch", "imagestreamimports"), times=-1
    )
    stored = await world.create(value)
    await until(lambda: world.items("1") == [made])
    await world.settled()
    reviews = len(world.reviews)
    await world.process.reconciler.reconcile(ObjectKey("shop", stored["metadata"]["name"]))
    assert len(world.reviews) == reviews, "it is not begun anew"


async def test_a_sweep_that_fails_is_no_end(world: World):
    world.registries["registry.test"].add("acme/web", "1", image())
    await world.create(asking("web", PULL, is_import=False))
    await world.settled()
    world.clock.advance(minutes=11)
    world.api.inject(status(503, "ServiceUnavailable"), verb="delete")
    await world.process.reconciler.sweep()
    assert len(world.requests()) == 1
    await world.process.reconciler.sweep()
    assert world.requests() == []
