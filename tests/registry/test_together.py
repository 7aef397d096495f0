"""Lanes, client and sockets together: the promises that need all of them."""

import asyncio
import contextlib

import pytest

from dev.images import image
from imagestreams.core.keychain import Credential
from imagestreams.core.lookup import Deferred, Failed, ImportMode, Lookup, Resolved, Served, Source, Ticket
from imagestreams.core.reference import ImageReference
from imagestreams.registry.lanes import Lanes, Limits
from tests.fakes.registry import FakeRegistry

WEB = image()
GOOD = Credential("dev", "correct-horse", "good")
OTHER = Credential("other", "pw", "other")


def ticket(registry, name, *credentials, tag="", known=None):
    reference = ImageReference.parse(f"{registry.host}/{name}")
    lookup = Lookup(reference, registry.transport(), credentials, ImportMode.PRESERVE_ORIGINAL, known=known)
    return Ticket("u1", tag or reference.tag, Source("DockerImage", name), "", 0, lookup)


class Keys:
    """The keys that the lanes reported."""

    def __init__(self):
        self.seen = set()
        self._changed = asyncio.Event()

    def __call__(self, key):
        self.seen.add(key)
        self._changed.set()

    async def until(self, *keys):
        async with asyncio.timeout(10):
            while not self.seen.issuperset(keys):
                self._changed.clear()
                await self._changed.wait()


@pytest.fixture
def ready():
    return Keys()


@pytest.fixture
async def start(new_client, ready, clock):
    async with contextlib.AsyncExitStack() as stack:

        async def make(**limits):
            lanes = Lanes(new_client().look_up, clock=clock, ready=ready, limits=Limits(**{"settle": 3600, **limits}))
            running = asyncio.create_task(lanes.run())
            stack.push_async_callback(asyncio.wait_for, running, 10)
            stack.push_async_callback(lanes.close)
            return lanes

        yield make


async def test_the_steady_state_of_many_streams_is_one_head(start, ready):
    async with FakeRegistry(auth="token") as registry:
        registry.add("acme/web", "latest", WEB)
        lanes = await start()
        keys = [(f"team-{number}", "web") for number in range(50)]
        known = Served(WEB.digest, WEB.digest)
        for _ in range(2):
            registry.requests.clear()
            ready.seen.clear()
            for key in keys:
                lanes.submit(key, [ticket(registry, "acme/web:latest", GOOD, known=known)])
            await ready.until(*keys)
            for key in keys:
                (answer,) = lanes.peek(key)
                assert answer.outcome == Resolved(known)
                lanes.acknowledge(key, [answer])
        assert registry.asked() == ["HEAD acme/web:latest"]
        assert len(registry.tokens.requests) == 1


async def test_no_request_of_a_throttled_credential_is_sent_before_its_time(start, ready, clock):
    """Not even by lookups that were under way: those between a HEAD and its GET stop as well."""
    async with FakeRegistry(auth="token") as registry:
        registry.users["other"] = registry.tokens.users["other"] = "pw"
        for number in range(40):
            registry.add("acme/web", f"v{number}", image(text=f"{number}"))
        lanes = await start(concurrency=4)
        lanes.submit(("team-a", "warm"), [ticket(registry, "acme/web:v0", GOOD)])
        await ready.until(("team-a", "warm"))
        gone = Served("sha256:" + "1" * 64, "sha256:" + "1" * 64)
        registry.requests.clear()
        registry.reply(429, headers={"Retry-After": "30"}, method="GET", times=1)
        tickets = [ticket(registry, f"acme/web:v{number}", GOOD, known=gone) for number in range(40)]
        lanes.submit(("team-a", "web"), tickets)
        await ready.until(("team-a", "web"))
        sent = registry.asked()
        assert len(sent) < 12
        outcomes = [answer.outcome for answer in lanes.peek(("team-a", "web"))]
        assert {type(outcome) for outcome in outcomes} <= {Failed, Deferred, Resolved}
        assert sum(isinstance(outcome, Deferred) for outcome in outcomes) >= 30
        clock.advance(seconds=29)
        lanes.submit(("team-a", "more"), [ticket(registry, "acme/web:v1", GOOD, known=gone)])
        await ready.until(("team-a", "more"))
        assert registry.asked() == sent
        lanes.submit(("team-b", "web"), [ticket(registry, "acme/web:v1", OTHER)])
        await ready.until(("team-b", "web"))
        assert isinstance(lanes.peek(("team-b", "web"))[0].outcome, Resolved)
        clock.advance(seconds=1)
        ready.seen.clear()
        lanes.acknowledge(("team-a", "more"), lanes.peek(("team-a", "more")))
        lanes.submit(("team-a", "more"), [ticket(registry, "acme/web:v1", GOOD, known=gone)])
        await ready.until(("team-a", "more"))
        assert isinstance(lanes.peek(("team-a", "more"))[0].outcome, Resolved)


async def test_a_hanging_registry_beside_a_healthy_one(start, ready):
    async with FakeRegistry() as hanging, FakeRegistry() as healthy:
        hanging.hold()
        lanes = await start(concurrency=4)
        lanes.submit(("team-a", "stuck"), [ticket(hanging, f"acme/web:v{number}") for number in range(30)])
        await hanging.arrived(4)
        for number in range(30):
            healthy.add("acme/web", f"v{number}", WEB)
        lanes.submit(("team-a", "mixed"), [ticket(hanging, "acme/web:v0", tag="stuck")])
        lanes.submit(("team-b", "fine"), [ticket(healthy, f"acme/web:v{number}") for number in range(30)])
        await ready.until(("team-b", "fine"))
        assert ready.seen == {("team-b", "fine")}
        assert len(hanging.requests) == 4
        await lanes.close()
        hanging.release()


async def test_a_registry_that_is_gone_is_left_alone_after_a_few_attempts(start, ready, clock):
    async with FakeRegistry() as registry:
        await registry.stop()
        lanes = await start(concurrency=1, failures=3)
        lanes.submit(("team-a", "web"), [ticket(registry, f"acme/web:v{number}") for number in range(10)])
        await ready.until(("team-a", "web"))
        outcomes = [answer.outcome for answer in lanes.peek(("team-a", "web"))]
        failed = Failed("Unreachable", f"{registry.host} refused the connection", retryable=True)
        assert outcomes[:3] == [failed] * 3
        assert all(isinstance(outcome, Deferred) for outcome in outcomes[3:])
        await registry.start()
        registry.add("acme/web", "v9", WEB)
        clock.advance(seconds=15)
        lanes.submit(("team-b", "web"), [ticket(registry, "acme/web:v9")])
        await ready.until(("team-b", "web"))
        assert isinstance(lanes.peek(("team-b", "web"))[0].outcome, Resolved)
