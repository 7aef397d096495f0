"""What is not asked again: a manifest that was just read, and an image that was just found.

An import request is answered first and carried out then, by one process; together they cost one pull for each tag.
Each test counts requests at the socket. What is remembered must not reach anybody who could not have asked for it.
"""

import asyncio
import contextlib
from dataclasses import replace

import pytest

from dev.images import image, index
from imagestreams.core.imagestreamimport import MAX_IMAGES
from imagestreams.core.keychain import Credential
from imagestreams.core.lookup import Description, ImportMode, Listed, Listing, Lookup, Resolved, Served, Source, Ticket
from imagestreams.core.manifest import Platform
from imagestreams.core.reference import ImageReference
from imagestreams.registry import client as client_module
from imagestreams.registry.errors import RegistryError
from imagestreams.registry.lanes import Lanes, Limits
from tests.fakes.registry import FakeRegistry

WEB = image()
ARM = image(architecture="arm64", text="arm")
BOTH = index([WEB, ARM])
MOVED = image(text="moved")
GOOD = Credential("dev", "correct-horse", "good")
SAME = replace(GOOD, secret="elsewhere")  # the same login in another secret
OTHER = Credential("other", "pw", "other")
REQUEST, STREAM = ("shop", "request-1", "import"), ("shop", "web", "stream")


@pytest.fixture
async def registry():
    async with FakeRegistry() as started:
        started.add("acme/web", "latest", WEB)
        started.add("acme/other", "latest", WEB)
        yield started


@pytest.fixture
async def elsewhere():
    async with FakeRegistry() as started:
        started.add("acme/web", "latest", WEB)
        yield started


@pytest.fixture
async def guarded():
    async with FakeRegistry(auth="token") as started:
        started.users["other"] = started.tokens.users["other"] = "pw"
        started.add("acme/web", "latest", WEB)
        yield started


def lookup(registry, *credentials, name="acme/web:latest", mode=ImportMode.PRESERVE_ORIGINAL, **changes):
    transport = changes.pop("transport", registry.transport())
    return Lookup(ImageReference.parse(f"{registry.host}/{name}"), transport, credentials, mode, **changes)


def description(registry, *credentials, digest=WEB.digest, path="acme/web", **changes):
    transport = changes.pop("transport", registry.transport())
    return Description(ImageReference.parse(f"{registry.host}/{path}@{digest}"), transport, credentials)


def pulls(registry):
    """The manifests that were read so far."""
    return [request for request in registry.asked() if request.startswith("GET acme/") and "blobs" not in request]


# --- a description after a lookup -------------------------------------------------------------------------------------


async def test_what_was_looked_up_is_described_without_another_pull(registry, client):
    looked_up = await client.look_up(lookup(registry))
    described = await client.describe(description(registry))
    assert looked_up.served.digest.encode() in described.body
    assert pulls(registry) == ["GET acme/web:latest"]
    assert len(registry.asked()) == 2, "the second is the config"


async def test_the_image_that_an_index_stands_for_is_described_without_another_pull(registry, client):
    registry.add("acme/web", "latest", BOTH)
    looked_up = await client.look_up(lookup(registry, mode=ImportMode.LEGACY, prefer=Platform("linux", "arm64")))
    assert looked_up.served == Served(BOTH.digest, ARM.digest)
    await client.describe(description(registry, digest=ARM.digest))
    await client.describe(description(registry, digest=BOTH.digest))
    assert pulls(registry) == ["GET acme/web:latest", f"GET acme/web@{ARM.digest}"]


async def test_the_same_login_of_another_secret_is_the_same(guarded, client):
    await client.look_up(lookup(guarded, GOOD))
    await client.describe(description(guarded, SAME))
    assert f"GET acme/web@{WEB.digest}" not in pulls(guarded)


@pytest.mark.parametrize("credentials", [(), (OTHER,), (OTHER, GOOD), (GOOD, OTHER)])
async def test_who_has_other_logins_asks(guarded, client, credentials):
    await client.look_up(lookup(guarded, GOOD))
    with contextlib.suppress(RegistryError):
        await client.describe(description(guarded, *credentials))
    assert f"GET acme/web@{WEB.digest}" in pulls(guarded)


async def test_who_may_not_see_an_image_is_not_told_of_it(guarded, client):
    await client.look_up(lookup(guarded, GOOD))
    with pytest.raises(RegistryError):
        await client.describe(description(guarded))
    del guarded.users["other"], guarded.tokens.users["other"]
    with pytest.raises(RegistryError):
        await client.describe(description(guarded, OTHER))


async def test_what_one_repository_has_another_is_asked_for(registry, client):
    await client.look_up(lookup(registry))
    await client.describe(description(registry, path="acme/other"))
    assert pulls(registry) == ["GET acme/web:latest", f"GET acme/other@{WEB.digest}"]


async def test_what_one_registry_has_another_is_asked_for(registry, elsewhere, client):
    await client.look_up(lookup(registry))
    await client.describe(description(elsewhere))
    assert pulls(elsewhere) == [f"GET acme/web@{WEB.digest}"]


@pytest.mark.parametrize("changes", [{"insecure": True}, {"host": "other.example"}])
async def test_what_came_another_way_is_read_again(registry, client, changes):
    """What came without a verified certificate is nothing for those who ask for one."""
    await client.look_up(lookup(registry))
    await client.describe(description(registry, transport=replace(registry.transport(), **changes)))
    assert pulls(registry) == ["GET acme/web:latest", f"GET acme/web@{WEB.digest}"]


async def test_who_may_not_go_there_gets_nothing_that_came_from_there(registry, client):
    await client.look_up(lookup(registry))
    with pytest.raises(RegistryError):
        await client.describe(description(registry, transport=replace(registry.transport(), listed=False)))


async def test_after_a_minute_it_is_read_again(registry, client, clock):
    await client.look_up(lookup(registry))
    clock.advance(seconds=60)
    await client.describe(description(registry))
    assert pulls(registry) == ["GET acme/web:latest", f"GET acme/web@{WEB.digest}"]


async def test_a_lookup_asks_whatever_is_remembered(registry, client):
    await client.look_up(lookup(registry))
    registry.add("acme/web", "latest", MOVED)
    assert (await client.look_up(lookup(registry))).served.digest == MOVED.digest


async def test_so_many_manifests_are_kept(registry, new_client, monkeypatch):
    monkeypatch.setattr(client_module, "_KEPT", 4)
    client = new_client()
    many = [image(text=f"{number}") for number in range(5)]
    for number, each in enumerate(many):
        registry.add("acme/web", f"v{number}", each)
        await client.look_up(lookup(registry, name=f"acme/web:v{number}"))
    registry.requests.clear()
    for each in many[1:]:
        await client.describe(description(registry, digest=each.digest))
    assert pulls(registry) == []
    await client.describe(description(registry, digest=many[0].digest))
    assert pulls(registry) == [f"GET acme/web@{many[0].digest}"]


def test_the_largest_import_request_has_room():
    """Each of its images may stand in an index."""
    assert client_module._KEPT >= 2 * MAX_IMAGES
    assert client_module._KEPT_BYTES >= MAX_IMAGES * (13 << 10)


async def test_few_bytes_are_kept(registry, client):
    """Eight manifests of a good megabyte each are too much."""
    many = []
    for number in range(8):
        small = image(text=f"{number}")
        padding = b'{"annotations":{"padding":"' + b"x" * (1 << 20) + b'"},'
        large = replace(small, manifest=padding + small.manifest[1:])
        registry.add("acme/web", f"v{number}", large)
        many.append(large)
        await client.look_up(lookup(registry, name=f"acme/web:v{number}"))
    registry.requests.clear()
    for each in reversed(many):
        await client.describe(description(registry, digest=each.digest))
    assert pulls(registry) == [f"GET acme/web@{many[0].digest}"]


# --- a ticket that takes an answer of late ----------------------------------------------------------------------------


def ticket(asks, *, tag="latest", fresh=0.0, request=""):
    return Ticket("u1", tag, Source("DockerImage", str(asks.reference)), request, 0, asks, fresh)


class Keys:
    """Hears of keys with answers."""

    def __init__(self):
        self.reported = []
        self._changed = asyncio.Event()

    def __call__(self, key):
        self.reported.append(key)
        self._changed.set()

    async def until(self, key):
        async with asyncio.timeout(10):
            while key not in self.reported:
                self._changed.clear()
                await self._changed.wait()


@pytest.fixture
def ready():
    return Keys()


@pytest.fixture
async def lanes(client, clock, ready):
    lanes = Lanes(client.answer, clock=clock, ready=ready, limits=Limits(settle=3600))
    running = asyncio.create_task(lanes.run())
    yield lanes
    await lanes.close()
    await asyncio.wait_for(running, 10)


@pytest.fixture
def ask(lanes, ready):
    """Submits tickets and gives their answers."""

    async def ask(key, *tickets):
        ready.reported.clear()
        lanes.forget(key)
        lanes.submit(key, tickets)
        while lanes.pending(key):
            ready.reported.clear()
            await ready.until(key)
        await ready.until(key)
        return lanes.peek(key)

    return ask


async def test_a_request_and_its_carrying_out_cost_one_pull(registry, ask, clock):
    """The webhook asks and describes, then the controller asks: for an image that was new to the stream."""
    [first] = await ask(REQUEST, ticket(lookup(registry), request="import"))
    await ask(REQUEST, ticket(description(registry), tag=WEB.digest, request="import"))
    then = clock()
    clock.advance(seconds=2)
    [second] = await ask(STREAM, ticket(lookup(registry), fresh=5))
    assert second.outcome == first.outcome
    assert second.at == then, "when the registry said it"
    assert pulls(registry) == ["GET acme/web:latest"]


@pytest.mark.parametrize("fresh", [0.0, -1.0, 1.9, float("nan")])
async def test_who_does_not_say_so_or_takes_younger_ones_only_asks(registry, ask, clock, fresh):
    await ask(REQUEST, ticket(lookup(registry)))
    clock.advance(seconds=2)
    registry.add("acme/web", "latest", MOVED)
    [answer] = await ask(STREAM, ticket(lookup(registry), fresh=fresh))
    assert answer.outcome.served.digest == MOVED.digest


async def test_at_the_same_instant_it_must_be_said_too(registry, ask):
    await ask(REQUEST, ticket(lookup(registry)))
    await ask(STREAM, ticket(lookup(registry)))
    assert len(pulls(registry)) == 2


async def test_what_counts_is_when_the_lookup_began(registry, lanes, ready, ask, clock):
    """Or a push that came while a slow registry answered would be missed."""
    registry.hold(method="GET")
    lanes.submit(REQUEST, [ticket(lookup(registry))])
    await registry.arrived(1)
    clock.advance(seconds=5)
    registry.release()
    await ready.until(REQUEST)
    [answer] = await ask(STREAM, ticket(lookup(registry), fresh=4))
    assert isinstance(answer.outcome, Resolved)
    assert pulls(registry) == ["GET acme/web:latest"] * 2


async def test_after_a_minute_nothing_is_of_late(registry, ask, clock):
    await ask(REQUEST, ticket(lookup(registry)))
    clock.advance(seconds=60)
    await ask(STREAM, ticket(lookup(registry), fresh=3600))
    assert len(pulls(registry)) == 2


async def test_a_clock_that_was_set_back_makes_nothing_fresh(registry, ask, clock):
    await ask(REQUEST, ticket(lookup(registry)))
    clock.advance(seconds=-10)
    await ask(STREAM, ticket(lookup(registry), fresh=30))
    assert len(pulls(registry)) == 2


async def test_a_failure_is_asked_again(registry, ask):
    [failed] = await ask(REQUEST, ticket(lookup(registry, name="acme/web:gone")))
    registry.add("acme/web", "gone", WEB)
    [answer] = await ask(STREAM, ticket(lookup(registry, name="acme/web:gone"), fresh=30))
    assert answer.outcome.served.digest == WEB.digest, failed


@pytest.mark.parametrize("credentials", [(), (OTHER,), (OTHER, GOOD)])
async def test_an_answer_is_for_who_has_the_same_logins(guarded, ask, credentials):
    await ask(REQUEST, ticket(lookup(guarded, GOOD)))
    asked = len(guarded.asked())
    await ask(STREAM, ticket(lookup(guarded, *credentials), fresh=30))
    assert len(guarded.asked()) > asked
    await ask(STREAM, ticket(lookup(guarded, SAME), fresh=30, tag="again"))


async def test_who_may_not_see_an_image_does_not_get_its_answer(guarded, ask):
    await ask(REQUEST, ticket(lookup(guarded, GOOD)))
    [answer] = await ask(STREAM, ticket(lookup(guarded), fresh=30))
    assert answer.outcome.reason == "Unauthorized"
    asked = len(guarded.asked())
    [answer] = await ask(STREAM, ticket(lookup(guarded, SAME), fresh=30))
    assert isinstance(answer.outcome, Resolved)
    assert len(guarded.asked()) == asked


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "acme/other:latest"},
        {"name": f"acme/web@{WEB.digest}"},
        {"mode": ImportMode.LEGACY},
        {"prefer": Platform("linux", "arm64")},
    ],
)
async def test_an_answer_is_for_an_equal_question(registry, ask, changes):
    await ask(REQUEST, ticket(lookup(registry)))
    await ask(STREAM, ticket(lookup(registry, **changes), fresh=30))
    assert len(pulls(registry)) == 2


@pytest.mark.parametrize("changes", [{"insecure": True}, {"host": "other.example"}])
async def test_an_answer_is_for_the_same_way_to_the_registry(registry, ask, changes):
    await ask(REQUEST, ticket(lookup(registry)))
    transport = replace(registry.transport(), **changes)
    await ask(STREAM, ticket(lookup(registry, transport=transport), fresh=30))
    assert len(pulls(registry)) == 2


async def test_who_may_not_go_to_a_registry_gets_no_answer_of_it(registry, ask):
    await ask(REQUEST, ticket(lookup(registry)))
    unlisted = replace(registry.transport(), listed=False)
    [answer] = await ask(STREAM, ticket(lookup(registry, transport=unlisted), fresh=30))
    assert not isinstance(answer.outcome, Resolved)


async def test_an_answer_is_for_the_same_registry(registry, elsewhere, ask):
    await ask(REQUEST, ticket(lookup(registry)))
    await ask(STREAM, ticket(lookup(elsewhere), fresh=30))
    assert pulls(elsewhere) == ["GET acme/web:latest"]


async def test_everybody_gets_the_name_that_is_recorded_for_him(registry, ask):
    await ask(REQUEST, ticket(lookup(registry, recorded=ImageReference.parse("quay.io/acme/web:latest"))))
    [answer] = await ask(STREAM, ticket(lookup(registry), fresh=30))
    assert str(answer.outcome.recorded) == f"{registry.host}/acme/web:latest"


# What a stream knows of its tag is its own word, and no other stream's.
CHILD = Served(BOTH.digest, ARM.digest)
FORGED = Served(BOTH.digest, "sha256:" + "6" * 64)


async def test_what_a_stream_has_already_stays_as_it_is(registry, ask):
    """An unchanged tag keeps its image, as a registry's word on the digest alone would have it."""
    registry.add("acme/web", "latest", BOTH)
    await ask(REQUEST, ticket(lookup(registry, mode=ImportMode.LEGACY)))
    asked = len(registry.asked())
    [answer] = await ask(STREAM, ticket(lookup(registry, mode=ImportMode.LEGACY, known=CHILD), fresh=30))
    assert answer.outcome.served == CHILD
    assert len(registry.asked()) == asked


async def test_what_a_stream_says_of_an_unchanged_tag_reaches_nobody_else(registry, ask):
    registry.add("acme/web", "latest", BOTH)
    legacy = {"mode": ImportMode.LEGACY}
    [told] = await ask(REQUEST, ticket(lookup(registry, known=FORGED, **legacy)))
    assert told.outcome.served == FORGED, "its own status says so"
    [answer] = await ask(STREAM, ticket(lookup(registry, **legacy), fresh=30))
    assert answer.outcome.served == Served(BOTH.digest, WEB.digest)
    await ask(REQUEST, ticket(lookup(registry, known=FORGED, **legacy)))
    [answer] = await ask(STREAM, ticket(lookup(registry, known=CHILD, **legacy), fresh=30))
    assert answer.outcome.served == CHILD


async def test_an_unchanged_tag_is_not_asked_again_for_who_knows_the_same(registry, ask):
    known = Served(WEB.digest, WEB.digest)
    await ask(REQUEST, ticket(lookup(registry, known=known)))
    [answer] = await ask(STREAM, ticket(lookup(registry, known=known), fresh=30))
    assert answer.outcome.served == known
    assert registry.asked() == ["HEAD acme/web:latest"]


async def test_what_a_later_place_answered_is_for_the_same_places(registry, elsewhere, ask):
    source = lookup(registry)
    mirrored = lookup(elsewhere, name="acme/nothing:latest", fallback=source)
    await ask(REQUEST, ticket(mirrored))
    asked = (len(elsewhere.asked()), len(registry.asked()))
    [answer] = await ask(STREAM, ticket(mirrored, fresh=30))
    assert str(answer.outcome.recorded) == f"{registry.host}/acme/web:latest"
    assert (len(elsewhere.asked()), len(registry.asked())) == asked
    await ask(STREAM, ticket(source, fresh=30))
    assert len(registry.asked()) == asked[1] + 1, "without the mirror it is another question"
    another = replace(mirrored, fallback=lookup(registry, name="acme/other:latest"))
    [answer] = await ask(STREAM, ticket(another, fresh=30))
    assert str(answer.outcome.recorded) == f"{registry.host}/acme/other:latest"
    assert registry.asked()[-1] == "GET acme/other:latest"


async def test_what_is_at_hand_waits_for_the_rest_of_its_stream(registry, lanes, ready, ask):
    """So that a stream is written once."""
    registry.add("acme/web", "next", MOVED)
    await ask(REQUEST, ticket(lookup(registry)))
    registry.hold(method="GET")
    ready.reported.clear()
    lanes.submit(
        STREAM, [ticket(lookup(registry), fresh=30), ticket(lookup(registry, name="acme/web:next"), tag="next")]
    )
    await registry.arrived(2)
    assert ready.reported == []
    assert [answer.ticket.tag for answer in lanes.peek(STREAM)] == ["latest"]
    registry.release()
    await ready.until(STREAM)
    assert {answer.ticket.tag for answer in lanes.peek(STREAM)} == {"latest", "next"}


async def test_an_older_lookup_that_ends_later_says_nothing_new(registry, lanes, ready, ask, clock):
    """Two under way for one question: a request never joins a lookup that began before it."""
    released = asyncio.Event()

    async def slow(request):
        answer = await registry.answer(request)
        await released.wait()
        return answer

    registry.script(slow, times=1)
    lanes.submit(REQUEST, [ticket(lookup(registry))])
    await registry.arrived(1)
    clock.advance(seconds=1)
    registry.add("acme/web", "latest", MOVED)
    [younger] = await ask(STREAM, ticket(lookup(registry), request="now"))
    released.set()
    await ready.until(REQUEST)
    [older] = lanes.peek(REQUEST)
    assert older.outcome.served.digest == WEB.digest
    [again] = await ask(STREAM, ticket(lookup(registry), fresh=30, tag="again"))
    assert again.outcome == younger.outcome
    assert again.outcome.served.digest == MOVED.digest


async def test_few_answers_are_remembered(new_client, registry, clock, ready, monkeypatch):
    monkeypatch.setattr("imagestreams.registry.lanes._MAX_FINDS", 4)
    lanes = Lanes(new_client().answer, clock=clock, ready=ready, limits=Limits(settle=3600))
    running = asyncio.create_task(lanes.run())
    for number in range(6):
        registry.add("acme/web", f"v{number}", WEB)
        lanes.submit(("shop", f"{number}"), [ticket(lookup(registry, name=f"acme/web:v{number}"))])
        await ready.until(("shop", f"{number}"))
    assert len(lanes._finds) == 4
    await lanes.close()
    await running


# --- a list of tags of late -------------------------------------------------------------------------------------------


def listing(registry, *credentials, path="acme/web", limit=10, **changes):
    transport = changes.pop("transport", registry.transport())
    return Listing(ImageReference.parse(f"{registry.host}/{path}"), transport, credentials, limit, **changes)


def lists(registry):
    """The lists of tags that were read so far."""
    return [request for request in registry.asked() if "/tags/list" in request]


async def test_a_list_of_late_is_not_read_again(registry, ask, clock):
    [first] = await ask(REQUEST, ticket(listing(registry), request="import"))
    then = clock()
    clock.advance(seconds=2)
    [second] = await ask(STREAM, ticket(listing(registry), fresh=5))
    assert second.outcome == first.outcome == Listed(("latest",), 1, True)
    assert second.at == then
    assert len(lists(registry)) == 1


@pytest.mark.parametrize(
    ("seconds", "fresh"),
    [
        pytest.param(2, 0.0, id="who does not say so"),
        pytest.param(2, 1.9, id="who takes a younger one only"),
        pytest.param(60, 3600.0, id="after a minute"),
        pytest.param(-1, 3600.0, id="a clock that was set back"),
    ],
)
async def test_a_list_is_read_for(registry, ask, clock, seconds, fresh):
    await ask(REQUEST, ticket(listing(registry)))
    clock.advance(seconds=seconds)
    registry.add("acme/web", "new", MOVED)
    [answer] = await ask(STREAM, ticket(listing(registry), fresh=fresh))
    assert set(answer.outcome.tags) == {"latest", "new"}


@pytest.mark.parametrize("changes", [{"limit": 9}, {"path": "acme/other"}])
async def test_a_list_is_for_an_equal_question(registry, ask, changes):
    await ask(REQUEST, ticket(listing(registry)))
    await ask(STREAM, ticket(listing(registry, **changes), fresh=30))
    assert len(lists(registry)) == 2


@pytest.mark.parametrize("changes", [{"insecure": True}, {"host": "other.example"}])
async def test_a_list_is_for_the_same_way_to_the_registry(registry, ask, changes):
    await ask(REQUEST, ticket(listing(registry)))
    await ask(STREAM, ticket(listing(registry, transport=replace(registry.transport(), **changes)), fresh=30))
    assert len(lists(registry)) == 2


async def test_who_may_not_see_a_repository_does_not_get_its_list(guarded, ask):
    await ask(REQUEST, ticket(listing(guarded, GOOD)))
    for credentials in ((), (OTHER, GOOD)):
        asked = len(guarded.asked())
        await ask(STREAM, ticket(listing(guarded, *credentials), fresh=30))
        assert len(guarded.asked()) > asked
    asked = len(guarded.asked())
    [answer] = await ask(STREAM, ticket(listing(guarded, SAME), fresh=30))
    assert (answer.outcome.tags, len(guarded.asked())) == (("latest",), asked)


async def test_a_list_that_a_later_place_gave_is_for_the_same_places(registry, elsewhere, ask):
    source = listing(registry)
    mirrored = listing(elsewhere, path="acme/nothing", fallback=source)
    await ask(REQUEST, ticket(mirrored))
    await ask(STREAM, ticket(mirrored, fresh=30))
    assert (len(lists(elsewhere)), len(lists(registry))) == (1, 1)
    await ask(STREAM, ticket(source, fresh=30))
    await ask(STREAM, ticket(replace(mirrored, fallback=listing(registry, path="acme/other")), fresh=30))
    assert (len(lists(elsewhere)), len(lists(registry))) == (2, 3)


async def test_a_list_is_no_answer_to_a_lookup_nor_a_failure_to_anybody(registry, ask):
    await ask(REQUEST, ticket(listing(registry)))
    [answer] = await ask(STREAM, ticket(lookup(registry), fresh=30))
    assert isinstance(answer.outcome, Resolved)
    await ask(REQUEST, ticket(listing(registry, path="acme/new")))
    registry.add("acme/new", "1", WEB)
    [answer] = await ask(STREAM, ticket(listing(registry, path="acme/new"), fresh=30))
    assert answer.outcome.tags == ("1",)


async def test_few_bytes_of_lists_are_remembered(registry, ask):
    """The longest that settings allow has room, and two of them do not."""
    for path in ("acme/one", "acme/two"):
        registry.put(path, "v", WEB.media_type, WEB.manifest)
        registry.repositories[path].tags = {f"{'v' * 123}{number:05}": WEB.digest for number in range(20_000)}
        [answer] = await ask(REQUEST, ticket(listing(registry, path=path, limit=20_000)))
        assert len(answer.outcome.tags) == 20_000
        read = len(lists(registry))
        await ask(STREAM, ticket(listing(registry, path=path, limit=20_000), fresh=30))
        assert len(lists(registry)) == read
    await ask(STREAM, ticket(listing(registry, path="acme/one", limit=20_000), fresh=30))
    assert len(lists(registry)) > read
