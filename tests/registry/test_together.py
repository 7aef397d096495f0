"""Lanes, client and sockets together: the promises that need all of them."""

import asyncio
import contextlib
from collections import Counter
from dataclasses import replace
from datetime import timedelta

import pytest
from aiohttp import web

from dev.images import image
from imagestreams.core.keychain import Credential
from imagestreams.core.lookup import Deferred, Failed, ImportMode, Lookup, Resolved, Served, Source, Ticket
from imagestreams.core.policy import HostRule, Policy, Rate, rule_of
from imagestreams.core.reference import ImageReference
from imagestreams.registry.lanes import Lanes, Limits
from imagestreams.registry.quota import Quota
from tests.fakes.registry import FakeRegistry

WEB = image()
GOOD = Credential("dev", "correct-horse", "good")
OTHER = Credential("other", "pw", "other")


def ticket(registry, name, *credentials, tag="", known=None):
    reference = ImageReference.parse(f"{registry.host}/{name}")
    lookup = Lookup(reference, registry.transport(), credentials, ImportMode.PRESERVE_ORIGINAL, known=known)
    return Ticket("u1", tag or reference.tag, Source("DockerImage", name), "", 0, lookup)


def chain(first, *others):
    """The first ticket, which goes on to the places of the others."""
    question = None
    for each in reversed((first, *others)):
        question = replace(each.question, fallback=question)
    return replace(first, question=question)


def outcome(lanes, key):
    (answer,) = lanes.peek(key)
    return answer.outcome


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

        async def make(hosts=None, **limits):
            policy = Policy(hosts or {})
            quota = Quota(clock, lambda host: rule_of(policy, host))
            lanes = Lanes(
                new_client(quota=quota).answer,
                clock=clock,
                ready=ready,
                limits=Limits(**{"settle": 3600, **limits}),
                quota=quota,
            )
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
                assert answer.outcome.served == known
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


# --- from place to place ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["gone", "has nothing", "fails", "asks to wait", "wants a login", "answers nonsense"])
async def test_a_mirror_that_is_of_no_use_hides_no_source(start, ready, fault):
    async with FakeRegistry() as mirror, FakeRegistry() as source:
        source.add("acme/web", "latest", WEB)
        mirror.add("acme/web", "latest", image(text="never to be served"))
        match fault:
            case "gone":
                await mirror.stop()
            case "has nothing":
                mirror.reply(404)
            case "fails":
                mirror.reply(500)
            case "asks to wait":
                mirror.reply(429, headers={"Retry-After": "600"})
            case "wants a login":
                mirror.reply(401)
            case "answers nonsense":
                mirror.reply(200, b"<html>")
        lanes = await start()
        for name in ("web", "again"):
            wanted = ticket(source, "acme/web:latest")
            lanes.submit(("team-a", name), [chain(ticket(mirror, "acme/web:latest"), wanted)])
            await ready.until(("team-a", name))
            found = outcome(lanes, ("team-a", name))
            assert found == Resolved(Served(WEB.digest, WEB.digest), wanted.question.reference)
        assert source.asked() == ["GET acme/web:latest"] * 2


async def test_a_mirror_that_has_it_keeps_the_source_out(start, ready):
    async with FakeRegistry() as mirror, FakeRegistry() as source:
        mirror.add("mirrored/web", "latest", WEB)
        lanes = await start()
        first = ticket(mirror, "mirrored/web:latest")
        recorded = ImageReference.parse(f"{source.host}/acme/web:latest")
        first = replace(first, question=replace(first.question, recorded=recorded))
        lanes.submit(("team-a", "web"), [chain(first, ticket(source, "acme/web:latest"))])
        await ready.until(("team-a", "web"))
        assert outcome(lanes, ("team-a", "web")) == Resolved(Served(WEB.digest, WEB.digest), recorded)
        assert source.asked() == []


async def test_an_unchanged_tag_is_one_head_at_the_place_that_has_it(start, ready):
    async with FakeRegistry() as mirror, FakeRegistry() as source:
        source.add("acme/web", "latest", WEB)
        lanes = await start()
        known = Served(WEB.digest, WEB.digest)
        places = [ticket(registry, "acme/web:latest", known=known) for registry in (mirror, source)]
        lanes.submit(("team-a", "web"), [chain(*places)])
        await ready.until(("team-a", "web"))
        assert mirror.asked() == source.asked() == ["HEAD acme/web:latest"]


async def test_the_sources_reason_counts_and_mirrors_are_told(start, ready):
    async with FakeRegistry() as mirror, FakeRegistry() as source:
        await mirror.stop()
        lanes = await start()
        lanes.submit(("team-a", "web"), [chain(ticket(mirror, "acme/web:1"), ticket(source, "acme/web:1"))])
        await ready.until(("team-a", "web"))
        found = outcome(lanes, ("team-a", "web"))
        assert (found.reason, found.retryable) == ("NotFound", True)
        assert (
            found.message == f'container image "{source.host}/acme/web:1" not found; mirror {mirror.host}: Unreachable'
        )


async def test_one_registrys_ban_is_not_anothers(start, ready):
    async with FakeRegistry() as banning, FakeRegistry() as healthy:
        banning.reply(429, headers={"Retry-After": "3600"})
        for number in range(30):
            healthy.add("acme/web", f"v{number}", WEB)
        lanes = await start(concurrency=2)
        lanes.submit(("team-a", "banned"), [ticket(banning, f"acme/web:v{number}") for number in range(30)])
        lanes.submit(("team-a", "fine"), [ticket(healthy, f"acme/web:v{number}") for number in range(30)])
        await ready.until(("team-a", "banned"), ("team-a", "fine"))
        assert all(isinstance(answer.outcome, Resolved) for answer in lanes.peek(("team-a", "fine")))
        assert len(banning.requests) <= 2


# --- quotas -----------------------------------------------------------------------------------------------------------


def metered(registry, limit):
    """Have a registry count pulls as Docker Hub does: a HEAD tells what is left and does not count."""
    used = Counter()

    async def handler(request):
        who = request.headers.get("Authorization", "")
        if request.method == "GET":
            used[who] += 1
        count = max(limit - used[who], 0)
        headers = {"RateLimit-Limit": f"{limit};w=21600", "RateLimit-Remaining": f"{count};w=21600"}
        if used[who] > limit and request.method == "GET":
            return web.Response(status=429, headers=headers)
        response = await registry.answer(request)
        if response.status == 200:
            response.headers.update(headers)
        return response

    registry.script(handler, path="/manifests/")
    return used


@pytest.mark.parametrize(
    "hosts", [pytest.param({}, id="nothing is known"), pytest.param(None, id="of a preset's kind")]
)
async def test_no_more_is_pulled_than_the_registry_says_is_left(start, ready, hosts):
    async with FakeRegistry() as registry:
        for number in range(60):
            registry.add("acme/web", f"v{number}", image(text=f"{number}"))
        used = metered(registry, 20)
        rule = HostRule(insecure=True, pulls=Rate(1000, timedelta(hours=6)))
        lanes = await start({registry.host: rule} if hosts is None else hosts, concurrency=4)
        lanes.submit(("team-a", "web"), [ticket(registry, f"acme/web:v{number}") for number in range(60)])
        await ready.until(("team-a", "web"))
        found = Counter(type(answer.outcome) for answer in lanes.peek(("team-a", "web")))
        assert found == {Resolved: 20, Deferred: 40}
        assert sum(used.values()) == 20
        registry.requests.clear()
        for number in range(60):
            known = Served(image(text=f"{number}").digest, image(text=f"{number}").digest)
            lanes.submit(("team-b", f"{number}"), [ticket(registry, f"acme/web:v{number}", known=known)])
        keys = [("team-b", f"{number}") for number in range(60)]
        await ready.until(*keys)
        assert all(isinstance(outcome(lanes, key), Resolved) for key in keys)
        assert {request.method for request in registry.requests} == {"HEAD"}


async def test_each_credential_has_its_own_quota(start, ready):
    async with FakeRegistry(auth="htpasswd") as registry:
        registry.users["other"] = "pw"
        for number in range(20):
            registry.add("acme/web", f"v{number}", image(text=f"{number}"))
        lanes = await start(concurrency=1)
        used = metered(registry, 10)
        for name, credential in (("one", GOOD), ("two", OTHER)):
            lanes.submit(("team", name), [ticket(registry, f"acme/web:v{number}", credential) for number in range(20)])
        await ready.until(("team", "one"), ("team", "two"))
        for name in ("one", "two"):
            found = Counter(type(answer.outcome) for answer in lanes.peek(("team", name)))
            assert found == {Resolved: 10, Deferred: 10}
        assert sorted(count for who, count in used.items() if who) == [10, 10]


async def test_an_administrators_pace_is_kept_at_the_socket(start, ready, clock):
    """The clock stands still: no more than the rate's count is asked."""
    async with FakeRegistry() as registry, FakeRegistry() as healthy:
        healthy.add("acme/web", "latest", WEB)
        for number in range(20):
            registry.add("acme/web", f"v{number}", WEB)
        lanes = await start({registry.host: HostRule(requests=Rate(5, timedelta(seconds=1)))})
        lanes.submit(("team-a", "web"), [ticket(registry, f"acme/web:v{number}") for number in range(20)])
        lanes.submit(("team-b", "web"), [ticket(healthy, "acme/web:latest")])
        await registry.arrived(5)
        await ready.until(("team-b", "web"))
        assert lanes.load()[0] == 15
        for turn in range(1, 4):
            clock.advance(seconds=1)
            await registry.arrived(5 * turn + 5)
            assert len(registry.requests) == 5 * turn + 5
        await ready.until(("team-a", "web"))
