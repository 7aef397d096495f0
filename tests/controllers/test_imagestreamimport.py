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
from imagestreams import metrics
from imagestreams.controllers import imagestreamimport as module
from imagestreams.controllers.imagestreamimport import ATTEMPTS, KeysUnknown, RequestLimits
from imagestreams.core.footprint import footprint_of
from imagestreams.core.imagestreamimport import Stored, decode_request
from imagestreams.core.stamp import seal
from imagestreams.core.stream import ObjectKey
from tests.fakes.apiserver import Handle, Respond, disconnect, raw, status
from tests.fakes.waiting import until
from tests.requests_world import API, BOB, JANE, KEY, Object, Refused, World, asked, asking, results

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
    spec, present = json.dumps(value["spec"]).encode(), world.stream(stream)
    stored = Stored.parse(json.dumps(present).encode()) if present else None
    seen = footprint_of(decode_request(json.dumps(value).encode()), stored)
    stamp = seal(user, namespace="shop", stream=stream, spec=spec, at=world.clock(), key=key, seen=seen)
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


# --- what was changed since -------------------------------------------------------------------------------------------


async def hung(world: World, value: Object) -> str:
    """Jane's request is answered, and cannot be carried out before `heal`, as nobody says what she may; its name."""
    value, tried = await world.admitted(value), asyncio.Event()

    async def nobody_says(request: web.Request, handle: Handle) -> web.StreamResponse:
        tried.set()
        return await status(503, "ServiceUnavailable")(request, handle)

    world.api.inject(
        nobody_says,
        when=lambda seen: seen.path.endswith("/subjectaccessreviews") and b'"jane"' in seen.body,
        times=-1,
    )
    name: str = (await without_webhook(world, value))["metadata"]["name"]
    async with asyncio.timeout(10):
        await tried.wait()
    return name


async def without_webhook(world: World, value: Object) -> Object:
    """Store what the webhook has let pass."""
    before, world.has_webhook = world.has_webhook, False
    try:
        return await world.create(value)
    finally:
        world.has_webhook = before


def pulls(world: World, *tags: str) -> dict[str, str]:
    """Images in the registry, by tag."""
    registry = world.registries["registry.test"]
    return {tag: registry.add("acme/web", tag, image(text=tag)) for tag in tags}


def pull(tag: str) -> str:
    return f"registry.test/acme/web:{tag}"


NOT_WRITTEN = 'failed: tag "prod" was changed since this was asked, by somebody else or by a newer request: it stays'


async def test_an_older_request_that_comes_late_does_not_overwrite_a_newer_one(world: World):
    made = pulls(world, "1", "2", "3")
    world.put_stream(tags=[{"name": "prod", "from": {"kind": "DockerImage", "name": pull("1")}}])
    await world.settled()
    older = await hung(world, asking("web", asked(pull("2"), "prod")))
    world.clock.advance(seconds=5)
    newer = await world.create(asking("web", asked(pull("3"), "prod")), user=BOB)
    await until(lambda: world.mark(newer["metadata"]["name"]))
    world.api.heal()
    await until(lambda: world.mark(older))
    await world.settled()
    assert world.spec_tags() == {"prod": pull("3")}
    assert world.items("prod")[0] == made["3"]
    assert world.mark(older).startswith(NOT_WRITTEN)
    assert world.mark(older).endswith(f"imagestreams tag {pull('2')} web:prod")
    assert not world.mark(newer["metadata"]["name"]).startswith("failed")
    assert world.events == [("ImportRequestFailed", world.mark(older).removeprefix("failed: "))]


async def test_nor_one_that_left_all_as_it_was(world: World):
    pulls(world, "1", "2")
    world.put_stream(tags=[{"name": "prod", "from": {"kind": "DockerImage", "name": pull("1")}}])
    await world.settled()
    older = await hung(world, asking("web", asked(pull("2"), "prod")))
    world.clock.advance(seconds=5)
    newer = await world.create(asking("web", asked(pull("1"), "prod")), user=BOB)
    await until(lambda: world.mark(newer["metadata"]["name"]))
    world.api.heal()
    await until(lambda: world.mark(older))
    assert world.spec_tags() == {"prod": pull("1")}
    assert world.mark(older).startswith(NOT_WRITTEN)


async def test_what_was_edited_by_hand_meanwhile_stays(world: World):
    pulls(world, "1", "2", "3")
    world.put_stream(tags=[{"name": "prod", "from": {"kind": "DockerImage", "name": pull("1")}}])
    older = await hung(world, asking("web", asked(pull("2"), "prod"), asked(pull("2"), "test")))
    world.put_stream(tags=[{"name": "prod", "from": {"kind": "DockerImage", "name": pull("3")}}])
    world.api.heal()
    await until(lambda: world.mark(older))
    assert world.spec_tags() == {"prod": pull("3"), "test": pull("2")}, "the other is carried out"
    words = NOT_WRITTEN.replace("failed: ", "failed: 1 of 2 images was not imported: ")
    assert world.mark(older).startswith(words)
    assert [reason for reason, _ in world.events] == ["ImportRequestFailed"]
    await world.settled()
    assert world.items("test")


@pytest.mark.parametrize("is_made_again", [False, True])
async def test_a_stream_that_was_deleted_meanwhile_is_not_made_again(world: World, *, is_made_again: bool):
    pulls(world, "1", "2")
    tags = [{"name": "prod", "from": {"kind": "DockerImage", "name": pull("1")}}]
    world.put_stream(tags=tags)
    older = await hung(world, asking("web", asked(pull("2"), "prod"), asked(pull("2"), "test")))
    world.api.remove(API, "imagestreams", "shop", "web")
    if is_made_again:
        world.put_stream(tags=tags)
    world.api.heal()
    await until(lambda: world.mark(older))
    assert world.spec_tags() == ({"prod": pull("1")} if is_made_again else {})
    words = "the image stream was deleted, or made anew, since this was asked; ask again"
    assert world.mark(older) == f"failed: 2 of 2 images were not imported: {words}"


@pytest.mark.parametrize("has_stream", [True, False])
async def test_two_in_quick_succession_are_both_carried_out(world: World, *, has_stream: bool):
    """The webhook saw the stream of the second as it was before the first."""
    pulls(world, "1", "2")
    if has_stream:
        world.put_stream(tags=[{"name": "prod", "from": {"kind": "DockerImage", "name": pull("1")}}])
    first = await world.admitted(asking("web", asked(pull("1"), "prod", importPolicy={"scheduled": True})))
    world.clock.advance(seconds=0.1)
    second = await world.admitted(asking("web", asked(pull("2"), "prod")))
    names = []
    for value in (first, second):
        names.append((await without_webhook(world, value))["metadata"]["name"])
        await until(lambda: world.mark(names[-1]))
    assert [world.mark(name)[:6] for name in names] == ["2026-0", "2026-0"]
    assert world.spec_tags() == {"prod": pull("2")}
    assert world.events == []


async def test_after_a_restart_more_is_refused_and_nothing_overwritten(world: World):
    """Nobody remembers whose the change was."""
    pulls(world, "1", "2", "3")
    world.put_stream(tags=[{"name": "prod", "from": {"kind": "DockerImage", "name": pull("1")}}])
    values = []
    for tag in ("2", "3"):
        values.append(await world.admitted(asking("web", asked(pull(tag), "prod"))))
        world.clock.advance(seconds=1)
    first = (await without_webhook(world, values[0]))["metadata"]["name"]
    await until(lambda: world.mark(first))
    await world.kill()
    await world.start()
    second = (await without_webhook(world, values[1]))["metadata"]["name"]
    await until(lambda: world.mark(second))
    assert world.spec_tags() == {"prod": pull("2")}
    assert world.mark(second).startswith(NOT_WRITTEN)
    again = await world.create(asking("web", asked(pull("3"), "prod")))
    await until(lambda: world.mark(again["metadata"]["name"]))
    assert world.spec_tags() == {"prod": pull("3")}, "the way out works"


@pytest.mark.parametrize("has_stream", [True, False])
async def test_many_at_once_for_tags_of_one_stream_are_all_carried_out(world: World, *, has_stream: bool):
    tags = [f"t{number}" for number in range(20)]
    pulls(world, *tags)
    if has_stream:
        world.put_stream(tags=[{"name": "t0", "from": {"kind": "DockerImage", "name": pull("old")}}])
    values = await asyncio.gather(*(world.admitted(asking("web", asked(pull(tag), tag))) for tag in tags))
    stored = await asyncio.gather(*(without_webhook(world, value) for value in values))
    await until(lambda: all(world.mark(each["metadata"]["name"]) for each in stored))
    assert world.spec_tags() == {tag: pull(tag) for tag in tags}
    assert world.events == []


async def test_what_was_not_written_is_no_success_either_where_the_controller_answers(world: World):
    """As when another webhook takes the status away."""
    made = pulls(world, "1", "2", "3")
    value = await world.admitted(asking("web", asked(pull("2"), "prod"), asked(pull("2"), "test")))
    del value["status"]
    world.put_stream(tags=[{"name": "prod", "from": {"kind": "DockerImage", "name": pull("3")}}])
    name = (await without_webhook(world, value))["metadata"]["name"]
    await until(lambda: world.mark(name))
    assert results(world.request(name)) == ["Conflict", made["2"]]
    assert world.spec_tags() == {"prod": pull("3"), "test": pull("2")}


@pytest.mark.parametrize(
    ("fault", "reason", "words"),
    [
        pytest.param("right", "Forbidden", "is forbidden: User", id="the right is gone"),
        pytest.param(status(409, "Conflict"), "Conflict", "changed by others again and again", id="changed all along"),
        pytest.param(status(422, "Invalid", "no"), "Invalid", "cannot be written: no", id="a policy"),
        pytest.param(
            status(413, "RequestEntityTooLarge"), "RequestEntityTooLarge", "cannot be written", id="too large"
        ),
    ],
)
async def test_what_could_not_be_written_at_all_is_no_success_either(
    world: World, fault: str | Respond, reason: str, words: str
):
    pulls(world, "1", "2")
    world.put_stream(tags=[{"name": "prod", "from": {"kind": "DockerImage", "name": pull("1")}}])
    await world.settled()
    value = await world.admitted(asking("web", asked(pull("2"), "prod"), asked(pull("2"), "test")))
    del value["status"]
    if isinstance(fault, str):
        world.allow(lambda _: False)
    else:
        world.api.inject(fault, verb="patch", resource="imagestreams", times=-1)
    name = (await without_webhook(world, value))["metadata"]["name"]
    await until(lambda: world.mark(name))
    stored = world.request(name)
    assert results(stored) == [reason, reason]
    assert words in stored["status"]["images"][0]["status"]["message"]
    assert stored["status"]["summary"] == {"result": "Failure", "images": "0/2"}
    assert "import" not in stored["status"]
    assert words in world.mark(name)
    assert [reason for reason, _ in world.events] == ["ImportRequestFailed"]


async def test_a_rollback_by_hand_to_what_a_request_once_wrote_stays(world: World):
    pulls(world, "good", "bad", "bob")
    first = await world.create(asking("web", asked(pull("good"), "prod")))
    await until(lambda: world.mark(first["metadata"]["name"]))
    world.put_stream(tags=[{"name": "prod", "from": {"kind": "DockerImage", "name": pull("bad")}}])
    await world.settled()
    world.clock.advance(seconds=5)
    older = await hung(world, asking("web", asked(pull("bob"), "prod")))
    world.clock.advance(seconds=60)
    world.put_stream(tags=[{"name": "prod", "from": {"kind": "DockerImage", "name": pull("good")}}])
    world.api.heal()
    await until(lambda: world.mark(older))
    assert world.spec_tags() == {"prod": pull("good")}
    assert world.mark(older).startswith(NOT_WRITTEN)


async def test_an_older_request_that_found_a_hand_edit_does_not_make_it_its_own(world: World):
    """It left the tag as it found it: whoever saw it as it was before has not seen the edit."""
    pulls(world, "0", "1", "2")
    world.put_stream(tags=[{"name": "prod", "from": {"kind": "DockerImage", "name": pull("0")}}])
    await world.settled()
    first = await world.admitted(asking("web", asked(pull("2"), "prod")))
    world.clock.advance(seconds=5)
    second = await world.admitted(asking("web", asked(pull("1"), "prod")), user=BOB)
    world.put_stream(tags=[{"name": "prod", "from": {"kind": "DockerImage", "name": pull("2")}}])
    await world.settled()
    names = []
    for value in (first, second):
        names.append((await without_webhook(world, value))["metadata"]["name"])
        await until(lambda: world.mark(names[-1]))
    assert not world.mark(names[0]).startswith("failed"), "there is nothing to write"
    assert world.mark(names[1]).startswith(NOT_WRITTEN)
    assert world.spec_tags() == {"prod": pull("2")}


async def test_what_saw_an_earlier_ones_work_is_newer_though_the_clocks_differ(world: World):
    """And is the newest then, for those that come after."""
    pulls(world, "1", "2", "3", "4")
    world.put_stream(tags=[{"name": "prod", "from": {"kind": "DockerImage", "name": pull("0")}}])
    await world.settled()
    world.clock.advance(seconds=1.5)
    before = await hung(world, asking("web", asked(pull("1"), "prod")))
    world.clock.advance(seconds=0.5)
    first = await world.create(asking("web", asked(pull("2"), "prod")), user=BOB)
    names = [first["metadata"]["name"]]
    await until(lambda: world.mark(names[0]))
    world.clock.advance(seconds=0.5)
    after = await world.admitted(asking("web", asked(pull("4"), "prod")), user=BOB)
    world.clock.advance(seconds=-1.5)  # it is answered elsewhere
    names.append((await world.create(asking("web", asked(pull("3"), "prod")), user=BOB))["metadata"]["name"])
    await until(lambda: world.mark(names[1]))
    world.api.heal()
    await until(lambda: world.mark(before))
    assert world.spec_tags() == {"prod": pull("3")}
    world.clock.advance(seconds=1.5)
    names.append((await without_webhook(world, after))["metadata"]["name"])
    await until(lambda: world.mark(names[2]))
    assert [world.mark(name).startswith("failed") for name in (*names, before)] == [False, False, False, True]
    assert world.spec_tags() == {"prod": pull("4")}


@pytest.mark.parametrize("is_made_anew", [False, True])
async def test_what_was_changed_between_two_requests_is_known_to_nobody_before(world: World, *, is_made_anew: bool):
    pulls(world, "1", "2", "3")
    if not is_made_anew:
        late = await world.admitted(asking("web", asked(pull("3"), "prod")))
    first = await world.create(asking("web", asked(pull("1"), "prod")), user=BOB)
    await until(lambda: world.mark(first["metadata"]["name"]))
    if is_made_anew:
        world.api.remove(API, "imagestreams", "shop", "web")
        late = await world.admitted(asking("web", asked(pull("3"), "prod")))
    by_hand = pull("1" if is_made_anew else "0")
    world.put_stream(tags=[{"name": "prod", "from": {"kind": "DockerImage", "name": by_hand}}])
    await world.settled()
    world.clock.advance(seconds=5)
    second = await world.create(asking("web", asked(pull("2"), "prod")), user=BOB)
    await until(lambda: world.mark(second["metadata"]["name"]))
    world.clock.advance(seconds=5)
    late["metadata"]["creationTimestamp"] = world.clock().strftime("%Y-%m-%dT%H:%M:%SZ")  # by another clock
    late["metadata"]["name"] = "late"
    world.api.put(late)
    await until(lambda: world.mark("late"))
    assert world.mark("late").startswith(NOT_WRITTEN)
    assert world.spec_tags() == {"prod": pull("2")}


@pytest.mark.parametrize(("count", "is_known"), [(4, True), (5, False)])
async def test_so_many_states_lead_to_what_is_there(
    world: World, monkeypatch: pytest.MonkeyPatch, *, count: int, is_known: bool
):
    monkeypatch.setattr(module, "_MAX_FOUND", 3)
    tags = [str(number) for number in range(count)]
    pulls(world, *tags)
    values = []
    for tag in tags:
        values.append(await world.admitted(asking("web", asked(pull(tag), "prod"))))
        world.clock.advance(seconds=0.1)
    for value in values:
        name = (await without_webhook(world, value))["metadata"]["name"]
        await until(lambda: world.mark(name))  # noqa: B023
    assert world.mark(name).startswith("failed") is not is_known
    assert world.spec_tags() == {"prod": pull(tags[-1] if is_known else tags[-2])}


async def test_while_only_its_mark_is_missing_a_request_is_not_begun_anew(world: World):
    """What is made of its tag meanwhile is no failure of it."""
    pulls(world, "1", "2")
    before = metrics.import_requests.labels("carried_out")._value.get()
    value = await world.admitted(asking("web", asked(pull("1"), "prod")))
    tried = asyncio.Event()

    async def no_mark(request: web.Request, handle: Handle) -> web.StreamResponse:
        tried.set()
        return await status(503, "ServiceUnavailable")(request, handle)

    world.api.inject(no_mark, verb="patch", resource="imagestreamimports", times=-1)
    name = (await without_webhook(world, value))["metadata"]["name"]
    async with asyncio.timeout(10):
        await tried.wait()
    world.put_stream(tags=[{"name": "prod", "from": {"kind": "DockerImage", "name": pull("2")}}])
    count = world.api.count("patch", "imagestreamimports")
    await until(lambda: world.api.count("patch", "imagestreamimports") > count + 1)
    world.api.heal()
    await until(lambda: world.mark(name))
    assert world.mark(name) == "2026-03-01T12:00:00Z"
    assert world.spec_tags() == {"prod": pull("2")}
    assert metrics.import_requests.labels("carried_out")._value.get() == before + 1
    assert world.events == []
    assert world.process.reconciler._done == {}


async def test_nor_is_what_could_not_be_carried_out_said_twice(world: World):
    value = await world.admitted(asking("web", asked(pull("1"), "prod")))
    world.allow(lambda _: False)
    world.api.inject(status(503, "ServiceUnavailable"), verb="patch", resource="imagestreamimports", times=3)
    name = (await without_webhook(world, value))["metadata"]["name"]
    await until(lambda: world.mark(name))
    assert world.mark(name).startswith("failed: imagestreams.image.openshift.io")
    assert [reason for reason, _ in world.events] == ["ImportRequestFailed"]


async def test_another_of_the_name_of_one_that_was_not_marked_is_carried_out(world: World):
    values = [await world.admitted(asking("web", asked(pull(tag), tag))) for tag in ("1", "2")]
    world.api.inject(status(503, "ServiceUnavailable"), verb="patch", resource="imagestreamimports", times=-1)
    created = world.clock().strftime("%Y-%m-%dT%H:%M:%SZ")
    for value in values:
        value["metadata"] |= {"name": "web-x7k2p", "creationTimestamp": created}
        if world.requests():
            world.api.remove(API, "imagestreamimports", "shop", "web-x7k2p")
        world.api.put(value)
        await until(lambda: world.process.reconciler._done)
    world.api.heal()
    await until(lambda: world.mark("web-x7k2p"))
    assert world.spec_tags().keys() == {"1", "2"}


async def test_one_that_is_deleted_before_it_is_marked_is_forgotten(world: World):
    value = await world.admitted(asking("web", asked(pull("1"), "prod")))
    world.api.inject(status(503, "ServiceUnavailable"), verb="patch", resource="imagestreamimports", times=-1)
    name = (await without_webhook(world, value))["metadata"]["name"]
    reconciler = world.process.reconciler
    await until(lambda: reconciler._done)
    await reconciler.sweep()
    assert len(reconciler._done) == 1
    world.api.remove(API, "imagestreamimports", "shop", name)
    await until(lambda: not world.process.watched.store)
    await reconciler.sweep()
    assert reconciler._done == {}


async def test_an_older_request_that_finds_all_as_it_wants_is_not_taken_for_the_newest(world: World):
    """Else one between the two would overwrite the newest."""
    pulls(world, "2", "3")
    oldest = await hung(world, asking("web", asked(pull("3"), "prod")))
    world.clock.advance(seconds=5)
    between = await world.admitted(asking("web", asked(pull("2"), "prod")), user=BOB)
    between["metadata"]["creationTimestamp"] = world.clock().strftime("%Y-%m-%dT%H:%M:%SZ")
    world.clock.advance(seconds=5)
    newest = await world.create(asking("web", asked(pull("3"), "prod")), user=BOB)
    await until(lambda: world.mark(newest["metadata"]["name"]))
    world.api.heal()
    await until(lambda: world.mark(oldest))
    assert not world.mark(oldest).startswith("failed"), "there is nothing to write"
    between["metadata"]["name"] = "between"  # its watch event comes late
    world.api.put(between)
    await until(lambda: world.mark("between"))
    assert world.spec_tags() == {"prod": pull("3")}
    assert world.mark("between").startswith(NOT_WRITTEN)


async def test_what_is_remembered_is_bounded_and_forgotten_in_time(world: World, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_MAX_REMEMBERED", 3)
    pulls(world, "1")
    await world.create(asking("web", *(asked(pull("1"), f"t{number}") for number in range(5))))
    await world.settled()
    carried = world.process.reconciler._past._carried
    assert [place for _, place in carried] == ["t2", "t3", "t4"]
    world.clock.advance(hours=23)
    await world.create(asking("web", asked(pull("1"), "t4")))
    await world.settled()
    world.clock.advance(hours=2)
    await world.process.reconciler.sweep()
    assert [place for _, place in carried] == ["t4"]


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


DEEP = b"[" * 2000 + b"]" * 2000


def nested(stored: Object, part: str) -> bytes:
    """The object with a part that is nested deeper than we can read."""
    return json.dumps({**stored, part: "DEEP"}).encode().replace(b'"DEEP"', DEEP)


@pytest.mark.parametrize("part", ["spec", "status"])
@pytest.mark.parametrize("metadata", [{}, {"annotations": {"theirs": "stays"}}])
async def test_what_is_nested_too_deep_to_be_read_is_answered_as_that(
    unguarded: World, part: str, metadata: dict[str, Any]
):
    world, path = unguarded, f"/apis/{API}/namespaces/shop/imagestreamimports/web"

    async def deep(_: web.Request, __: Handle) -> web.StreamResponse:
        stored = world.request("web")
        assert stored is not None
        return web.Response(body=nested(stored, part), content_type="application/json")

    world.api.inject(deep, when=lambda seen: (seen.verb, seen.path) == ("get", path), times=-1)
    stored = await world.create(asking("web", PULL, **metadata))
    await until(lambda: world.mark("web"))
    await world.settled()
    assert world.request("web")["status"] == {"summary": {"result": "Failure", "images": "0/0"}}
    assert world.mark("web").startswith("failed: not understood: ImageStreamImport")
    assert [reason for reason, _ in world.events] == ["ImportRequestFailed"]
    annotations = world.request("web")["metadata"]["annotations"]
    assert annotations.items() >= metadata.get("annotations", {}).items()
    assert world.request("web")["spec"] == stored["spec"]
    assert world.api.count("get", "imagestreamimports") == 1, "it is looked at once"


async def test_one_that_cannot_be_read_and_is_another_by_now_is_left_alone(unguarded: World):
    world = unguarded

    async def replaced(_: web.Request, handle: Handle) -> web.StreamResponse:
        world.api.remove(API, "imagestreamimports", "shop", "web")
        world.api.put(asking("web", PULL, is_import=False))
        return await handle()

    made = world.registries["registry.test"].add("acme/web", "1", image())
    world.api.inject(replaced, verb="patch", resource="imagestreamimports")
    await world.create(asking("web") | {"spec": {"import": "yes"}})
    await until(lambda: world.mark("web"))
    assert results(world.request("web")) == [made]


@pytest.mark.parametrize("is_import", [True, False])
@pytest.mark.parametrize("is_stamped", [True, False])
async def test_a_stream_that_cannot_be_read_is_said(world: World, *, is_stamped: bool, is_import: bool):
    path = f"/apis/{API}/namespaces/shop/imagestreams/web"
    world.put_stream()
    value = asking("web", PULL, asked(PULL, "2"), is_import=is_import)
    value = stamped(world, value) if is_stamped else value
    body = nested({"metadata": {"name": "web", "namespace": "shop", "uid": "1"}}, "more")
    world.api.inject(raw(body), when=lambda seen: (seen.verb, seen.path) == ("get", path), times=-1)
    await without_webhook(world, value)
    await world.settled()
    stored = world.request("web")
    assert results(stored) == ["InternalError", "InternalError"]
    words = "the image stream web cannot be read: ImageStream: "
    assert stored["status"]["images"][0]["status"]["message"].startswith(words)
    assert world.mark("web").startswith(f"failed: {words}")
    assert [reason for reason, _ in world.events] == ["ImportRequestFailed"], "said once"
    assert not world.registries["registry.test"].requests


async def test_nor_is_a_request_for_it_taken_by_the_webhook(world: World):
    path = f"/apis/{API}/namespaces/shop/imagestreams/web"
    world.api.inject(raw(nested({"metadata": {"name": "web"}}, "more")), when=lambda seen: seen.path == path)
    with pytest.raises(Refused, match="500 InternalError: the image stream web cannot be read: ImageStream: "):
        await world.create(asking("web", PULL))


# --- why nobody knows who asks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stamp", "keys", "reason", "words"),
    [
        pytest.param(None, (), None, "the webhook for import requests is not installed", id="no webhook"),
        pytest.param(None, (KEY,), None, "the webhook for import requests has not seen it", id="passed by"),
        pytest.param(None, None, None, "the webhook for import requests has not seen it", id="passed by, key unknown"),
        pytest.param({}, (), None, "its stamp cannot be checked, as the webhook", id="stamped, no webhook"),
        pytest.param(
            {"key": b"x" * 32}, (KEY,), "ForgedStamp", "its stamp is not believed: the stamp was", id="forged"
        ),
        pytest.param(
            {"stream": "a"}, (KEY,), "ForgedStamp", "its stamp is not believed: the stamp was", id="of another"
        ),
        pytest.param({"late": 70}, (KEY,), "StaleStamp", "clocks of webhook and API server differ by 70 s", id="late"),
    ],
)
async def test_the_true_cause_is_said(
    world: World, stamp: dict[str, Any] | None, keys: Any, reason: str | None, words: str
):
    value = asking("web-x7k2p", asked(PULL, "prod"))
    world.put_stream()
    await world.settled()
    if stamp is not None:
        sealed = {"namespace": "shop", "stream": "web", "spec": json.dumps(value["spec"]).encode(), "key": KEY, **stamp}
        at = world.clock() - timedelta(seconds=sealed.pop("late", 0))
        marks = {"imagestreams.dev/requested-by": seal(JANE, at=at, **sealed), "imagestreams.dev/image-stream": "web"}
        value["metadata"]["annotations"] = marks
    world.keys = keys
    await without_webhook(world, value)
    await until(lambda: world.mark("web-x7k2p"))
    stored = world.request("web-x7k2p")
    assert results(stored) == ["Forbidden"]
    message = stored["status"]["images"][0]["status"]["message"]
    assert words in message
    assert message.endswith(f"imagestreams tag {PULL} {'web' if stamp is not None else 'web-x7k2p'}:prod")
    assert [each for each, _ in world.events] == ([reason] if reason else [])
    assert world.spec_tags() == {}


async def test_an_answer_whose_stamp_is_stale_stays_and_says_why(world: World):
    made = world.registries["registry.test"].add("acme/web", "1", image())
    value = await world.admitted(asking("web", PULL))
    world.clock.advance(seconds=75)
    name = (await without_webhook(world, value))["metadata"]["name"]
    await until(lambda: world.mark(name))
    assert world.mark(name).startswith("failed: its stamp is not believed: ")
    assert "differ by 75 s" in world.mark(name)
    assert results(world.request(name)) == [made]
    assert [reason for reason, _ in world.events] == ["StaleStamp"]
    assert world.stream() is None


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
