"""The lanes: who is asked next, who waits, which answers arrive. The registry is a function that tests hold back."""

import asyncio
import contextlib
import contextvars
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagestreams.core.keychain import Credential
from imagestreams.core.lookup import (
    Deferred,
    Described,
    Description,
    Failed,
    ImportMode,
    Listed,
    Listing,
    Lookup,
    Resolved,
    Served,
    Source,
    Ticket,
)
from imagestreams.core.manifest import Platform
from imagestreams.core.policy import HostRule, Policy, Rate, Transport, rule_of
from imagestreams.core.reference import ImageReference
from imagestreams.registry.errors import (
    Exhausted,
    NotFound,
    RateLimited,
    Refused,
    Sign,
    Timeout,
    Unauthorized,
    Unavailable,
    UnknownName,
    Unreachable,
    Untrusted,
)
from imagestreams.registry.lanes import Lanes, Limits, Setback, verdict
from imagestreams.registry.quota import Quota
from tests.fakes.clock import Clock

DIGEST = "sha256:" + "0" * 64
SERVED = Served(DIGEST, DIGEST)
ANSWER = Resolved(SERVED, ImageReference.parse("registry.example/as/asked"))  # each ticket gets its own name instead
WEB = ("team-a", "web")
API = ("team-b", "api")
ALICE = Credential("alice", "pw", "alice-pull")
BOB = Credential("bob", "pw", "bob-pull")


def ticket(name="quay.io/acme/web:latest", *credentials, tag="", uid="u1", request="", slot=0, **changes):
    reference = ImageReference.parse(name)
    lookup = Lookup(
        reference, changes.pop("transport", transport(reference)), credentials, ImportMode.PRESERVE_ORIGINAL
    )
    source = Source("DockerImage", name)
    return Ticket(uid, tag or reference.tag, source, request, slot, replace(lookup, **changes))


def transport(reference):
    return Transport(reference.host, f"https://{reference.host}", False, True, "", False)


def chain(*names, tag="", **changes):
    """A ticket that goes from place to place."""
    return linked([(name,) for name in names], tag=tag or "latest", **changes)


def linked(places, **changes):
    """The same, where each place is a name and its credentials."""
    tickets = [ticket(name, *credentials, **changes) for name, *credentials in places]
    fallback = None
    for each in reversed(tickets):
        fallback = replace(each.question, fallback=fallback)
    return replace(tickets[-1], question=fallback)


class Registries:
    """Lookups as they come in; each waits until it is answered, unless `outcome` says what comes at once."""

    def __init__(self):
        self.outcome = None
        self.asked = []
        self._waiting = []
        self._changed = asyncio.Event()

    async def ask(self, lookup):
        self.asked.append(str(lookup.reference))
        self._changed.set()
        if self.outcome is None:
            waiter = asyncio.get_running_loop().create_future()
            self._waiting.append((lookup, waiter))
            return await waiter
        return self._give(self.outcome)

    def _give(self, outcome):
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def answer(self, outcome=ANSWER, name=""):
        """Answer the first lookup that waits, or the first for `name`."""
        found = next(pair for pair in self._waiting if not name or str(pair[0].reference) == name)
        self._waiting.remove(found)
        if isinstance(outcome, Exception):
            found[1].set_exception(outcome)
        else:
            found[1].set_result(outcome)

    async def until_asked(self, count):
        async with asyncio.timeout(10):
            while len(self.asked) < count:
                self._changed.clear()
                await self._changed.wait()


class Ready:
    """What the lanes reported."""

    def __init__(self):
        self.keys = []
        self._changed = asyncio.Event()

    def __call__(self, key):
        self.keys.append(key)
        self._changed.set()

    async def until(self, count):
        async with asyncio.timeout(10):
            while len(self.keys) < count:
                self._changed.clear()
                await self._changed.wait()


@pytest.fixture
def registries():
    return Registries()


@pytest.fixture
def ready():
    return Ready()


@pytest.fixture
async def start(registries, ready, clock):
    """Starts lanes; they settle only when a test says so."""
    async with contextlib.AsyncExitStack() as stack:

        async def make(**options):
            hooks = {name: options.pop(name, None) for name in ("on_throttle", "quota")}
            limits = Limits(**{"settle": 3600, **options})
            lanes = Lanes(registries.ask, clock=clock, ready=ready, limits=limits, **hooks)
            running = asyncio.create_task(lanes.run())
            stack.push_async_callback(asyncio.wait_for, running, 10)
            stack.push_async_callback(lanes.close)
            await asyncio.sleep(0)
            return lanes

        yield make


async def settled():
    """Let everything run that can."""
    for _ in range(20):
        await asyncio.sleep(0)


def assert_nothing_is_kept(lanes):
    for name in ("_pending", "_arrived", "_timers", "_under_way", "_busy", "_passed_over"):
        assert not getattr(lanes, name), name
    for lane in lanes._lanes.values():
        assert lane.is_idle
        assert not any((lane.flights, lane.tickets, lane.namespaces, lane._turns))


def own(ticket):
    return Resolved(SERVED, ticket.question.reference)


def outcomes(lanes, key):
    """The outcomes by tag. Who asked for what gets its own name, which a test of its own looks at."""
    found = {answer.ticket.tag: answer.outcome for answer in lanes.peek(key)}
    return {tag: ANSWER if getattr(each, "served", None) == SERVED else each for tag, each in found.items()}


# --- the way of an answer ---------------------------------------------------------------------------------------------


async def test_an_answer_waits_until_it_is_acknowledged(start, registries, ready, clock):
    lanes = await start()
    wanted = ticket()
    lanes.submit(WEB, [wanted])
    assert lanes.pending(WEB) == {"latest"}
    await registries.until_asked(1)
    registries.answer()
    await ready.until(1)
    (answer,) = lanes.peek(WEB)
    assert (answer.ticket, answer.outcome, answer.at) == (wanted, own(wanted), clock())
    assert lanes.pending(WEB) == frozenset()
    assert lanes.peek(WEB) == (answer,)
    lanes.acknowledge(WEB, [answer])
    assert lanes.peek(WEB) == ()
    assert ready.keys == [WEB]


async def test_a_registrys_error_is_a_failure(start, registries, ready):
    registries.outcome = NotFound("gone")
    lanes = await start()
    lanes.submit(WEB, [ticket()])
    await ready.until(1)
    assert outcomes(lanes, WEB) == {"latest": Failed("NotFound", "gone", retryable=False)}


async def test_a_bug_is_a_failure_and_the_lane_goes_on(start, registries, ready, capsys):
    registries.outcome = ZeroDivisionError("secret words")
    lanes = await start(concurrency=1)
    lanes.submit(WEB, [ticket()])
    await ready.until(1)
    assert outcomes(lanes, WEB)["latest"].reason == "InternalError"
    assert "secret words" not in outcomes(lanes, WEB)["latest"].message
    assert "ZeroDivisionError" in capsys.readouterr().out
    registries.outcome = ANSWER
    lanes.submit(WEB, [ticket(request="again")])
    await ready.until(2)
    assert outcomes(lanes, WEB) == {"latest": ANSWER}


async def test_a_lookup_has_nothing_of_who_submitted_it(ready, clock):
    """Log fields that a reconcile has bound are not those of the worker, which serves others too."""
    word = contextvars.ContextVar("word", default="none")
    seen = []

    async def look_up(lookup):
        seen.append(word.get())
        return ANSWER

    lanes = Lanes(look_up, clock=clock, ready=ready)
    running = asyncio.create_task(lanes.run())
    await asyncio.sleep(0)
    word.set("team-a")
    lanes.submit(WEB, [ticket()])
    await ready.until(1)
    await lanes.close()
    await running
    assert seen == ["none"]


async def test_a_key_is_reported_once_when_its_lane_has_answered_all(start, registries, ready):
    lanes = await start()
    lanes.submit(WEB, [ticket(f"quay.io/acme/web:{tag}") for tag in "abc"])
    await registries.until_asked(3)
    for _ in range(2):
        registries.answer()
    await settled()
    assert ready.keys == []
    assert len(lanes.peek(WEB)) == 2
    registries.answer()
    await ready.until(1)
    assert len(lanes.peek(WEB)) == 3


async def test_a_slow_host_does_not_keep_the_answers_of_another(start, registries, ready):
    lanes = await start()
    lanes.submit(WEB, [ticket("slow.example/web:a"), ticket("quay.io/acme/web:b"), ticket("quay.io/acme/web:c")])
    await registries.until_asked(3)
    registries.answer(name="quay.io/acme/web:b")
    registries.answer(name="quay.io/acme/web:c")
    await ready.until(1)
    assert set(outcomes(lanes, WEB)) == {"b", "c"}
    assert lanes.pending(WEB) == {"a"}


async def test_what_is_there_is_reported_after_a_while(start, registries, ready):
    lanes = await start(settle=0.01)
    lanes.submit(WEB, [ticket(f"quay.io/acme/web:{tag}") for tag in "ab"])
    await registries.until_asked(2)
    registries.answer()
    await ready.until(1)
    assert set(outcomes(lanes, WEB)) == {"a"}
    registries.answer()
    await ready.until(2)
    assert ready.keys == [WEB, WEB]


async def test_an_acknowledgement_leaves_what_came_later(start, registries, ready):
    lanes = await start()
    registries.outcome = ANSWER
    lanes.submit(WEB, [ticket()])
    await ready.until(1)
    old = lanes.peek(WEB)
    lanes.submit(WEB, [ticket(request="now")])
    await ready.until(2)
    lanes.acknowledge(WEB, old)
    assert [answer.ticket.request for answer in lanes.peek(WEB)] == ["now"]


async def test_a_forgotten_stream_gets_nothing(start, registries, ready):
    lanes = await start(concurrency=1, settle=0.01)
    lanes.submit(WEB, [ticket(f"quay.io/acme/web:{tag}") for tag in "abc"])
    await registries.until_asked(1)
    lanes.forget(WEB)
    registries.answer()
    lanes.submit(API, [ticket("quay.io/acme/api:d")])
    await registries.until_asked(2)
    registries.answer()
    await ready.until(1)
    assert (lanes.peek(WEB), lanes.pending(WEB), ready.keys) == ((), frozenset(), [API])
    assert registries.asked == ["quay.io/acme/web:a", "quay.io/acme/api:d"]
    assert lanes.load() == (0, 0)


async def test_what_is_submitted_early_waits_for_run(registries, ready, clock):
    registries.outcome = ANSWER
    lanes = Lanes(registries.ask, clock=clock, ready=ready)
    lanes.submit(WEB, [ticket()])
    await settled()
    assert registries.asked == []
    running = asyncio.create_task(lanes.run())
    await ready.until(1)
    await lanes.close()
    await running


@pytest.mark.parametrize("how", ["close", "cancel"])
async def test_the_end_abandons_what_is_under_way(registries, ready, clock, how):
    lanes = Lanes(registries.ask, clock=clock, ready=ready)
    running = asyncio.create_task(lanes.run())
    lanes.submit(WEB, [ticket(f"quay.io/acme/web:v{number}") for number in range(20)])
    await registries.until_asked(8)
    if how == "close":
        await lanes.close()
        await running
    else:
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert all(waiter.cancelled() for _, waiter in registries._waiting)
    lanes.submit(API, [ticket()])
    await settled()
    assert (len(registries.asked), ready.keys) == (8, [])


# --- the newest ticket counts -----------------------------------------------------------------------------------------


async def test_a_newer_ticket_replaces_an_older_one_under_way(start, registries, ready):
    lanes = await start()
    lanes.submit(WEB, [ticket("quay.io/acme/old:1", tag="prod")])
    await registries.until_asked(1)
    lanes.submit(WEB, [ticket("quay.io/acme/new:1", tag="prod")])
    await registries.until_asked(2)
    registries.answer(name="quay.io/acme/old:1")
    await settled()
    assert (lanes.peek(WEB), ready.keys) == ((), [])
    registries.answer(name="quay.io/acme/new:1")
    await ready.until(1)
    assert lanes.peek(WEB)[0].ticket.source.name == "quay.io/acme/new:1"


async def test_a_newer_ticket_takes_an_older_one_out_of_the_queue(start, registries):
    lanes = await start(concurrency=1)
    lanes.submit(WEB, [ticket("quay.io/acme/first:1"), ticket("quay.io/acme/old:1", tag="prod")])
    lanes.submit(WEB, [ticket("quay.io/acme/new:1", tag="prod")])
    for _ in range(2):
        await registries.until_asked(1)
        registries.answer()
        await settled()
    assert registries.asked == ["quay.io/acme/first:1", "quay.io/acme/new:1"]


async def test_a_newer_ticket_drops_the_older_ones_answer(start, registries, ready):
    lanes = await start()
    lanes.submit(WEB, [ticket()])
    await registries.until_asked(1)
    registries.answer()
    await ready.until(1)
    lanes.submit(WEB, [ticket(request="again")])
    assert lanes.peek(WEB) == ()


async def test_what_is_asked_already_is_not_asked_twice(start, registries, ready):
    lanes = await start()
    lanes.submit(WEB, [ticket(slot=900)])
    await registries.until_asked(1)
    lanes.submit(WEB, [ticket(slot=1800)])
    registries.answer()
    await ready.until(1)
    assert registries.asked == ["quay.io/acme/web:latest"]
    (answer,) = lanes.peek(WEB)
    assert answer.ticket.slot == 1800


async def test_what_is_answered_and_not_fetched_is_not_asked_again(start, registries, ready):
    registries.outcome = ANSWER
    lanes = await start()
    lanes.submit(WEB, [ticket(slot=900)])
    await ready.until(1)
    lanes.submit(WEB, [ticket(slot=900)])
    assert lanes.pending(WEB) == frozenset()
    lanes.submit(WEB, [ticket(slot=1800)])
    assert lanes.pending(WEB) == {"latest"}


@pytest.mark.parametrize("changes", [{"uid": "u2"}, {"request": "now"}, {"tag": "prod"}])
async def test_another_stream_request_or_tag_is_another_wish(start, registries, changes):
    lanes = await start()
    lanes.submit(WEB, [ticket(tag="prod")])
    await registries.until_asked(1)
    lanes.submit(WEB, [ticket(tag=changes.pop("tag", "prod"), **changes)])
    await settled()
    assert lanes.pending(WEB) == {"prod"}
    assert len(registries.asked) == (2 if "request" in changes else 1)  # what is under way serves all but requests


# --- sharing ----------------------------------------------------------------------------------------------------------


async def test_equal_questions_are_asked_once_for_all(start, registries, ready):
    lanes = await start()
    lanes.submit(WEB, [ticket()])
    lanes.submit(API, [ticket(tag="prod")])
    await registries.until_asked(1)
    lanes.submit(("team-c", "late"), [ticket()])
    registries.answer()
    await ready.until(3)
    assert len(registries.asked) == 1
    assert outcomes(lanes, API) == {"prod": ANSWER}
    assert ready.keys == [WEB, API, ("team-c", "late")]


async def test_equal_is_by_the_canonical_name(start, registries):
    lanes = await start()
    hub = Transport("docker.io", "https://registry-1.docker.io", False, True, "", False)
    for number, name in enumerate(["nginx", "docker.io/library/nginx:latest", "index.docker.io/nginx:latest"]):
        lanes.submit(("team", str(number)), [ticket(name, tag="x", transport=hub)])
    await settled()
    assert registries.asked == ["nginx"]


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"credentials": (ALICE,)}, id="credential"),
        pytest.param({"mode": ImportMode.LEGACY}, id="mode"),
        pytest.param({"prefer": Platform("linux", "arm64")}, id="platform"),
        pytest.param({"known": Served(DIGEST, DIGEST)}, id="what is known"),
        pytest.param({"transport": Transport("quay.io", "https://quay.io", True, False, "", False)}, id="insecure"),
    ],
)
async def test_what_could_be_answered_otherwise_is_asked_by_itself(start, registries, changes):
    lanes = await start()
    lanes.submit(WEB, [ticket()])
    lanes.submit(API, [ticket(**changes)])
    await settled()
    assert len(registries.asked) == 2


async def test_a_request_is_answered_by_a_lookup_that_begins_after_it(start, registries, ready):
    lanes = await start(concurrency=1)
    lanes.submit(WEB, [ticket()])
    await registries.until_asked(1)
    lanes.submit(API, [ticket(request="now")])
    lanes.submit(("team-c", "other"), [ticket(request="now too")])  # joins the one that has not begun
    registries.answer()
    await registries.until_asked(2)
    await settled()
    assert ready.keys == [WEB]
    registries.answer()
    await ready.until(3)
    assert len(registries.asked) == 2


async def test_a_flight_that_nobody_waits_for_any_more_is_still_joined(start, registries, ready):
    lanes = await start()
    lanes.submit(WEB, [ticket()])
    await registries.until_asked(1)
    lanes.forget(WEB)
    lanes.submit(API, [ticket()])
    registries.answer()
    await ready.until(1)
    assert len(registries.asked) == 1
    assert outcomes(lanes, API) == {"latest": ANSWER}


# --- turns ------------------------------------------------------------------------------------------------------------


async def test_a_lane_asks_a_few_at_a_time(start, registries):
    lanes = await start(concurrency=3)
    lanes.submit(WEB, [ticket(f"quay.io/acme/web:v{number}") for number in range(10)])
    await settled()
    assert len(registries.asked) == 3
    assert lanes.load() == (7, 3)
    registries.answer()
    await settled()
    assert len(registries.asked) == 4


@pytest.mark.parametrize(("other", "is_same"), [("quay.io:443", True), ("quay.io:8443", False), ("qua.io", False)])
async def test_the_port_that_https_has_anyway_is_no_other_lane(start, registries, ready, other, is_same):
    lanes = await start(concurrency=2, failures=1)
    for name in ("quay.io", other):
        lanes.submit(WEB, [ticket(f"{name}/acme/web:{tag}", tag=f"{name}-{tag}") for tag in "abc"])
    await settled()
    assert len(registries.asked) == (2 if is_same else 4)
    registries.outcome = Unreachable("no answer")
    for name in registries.asked[:2]:
        registries.answer(Unreachable("no answer"), name=name)
    await settled()
    deferred = [tag for tag, outcome in outcomes(lanes, WEB).items() if isinstance(outcome, Deferred)]
    assert len(deferred) == (4 if is_same else 1)


async def test_namespaces_take_turns(start, registries):
    lanes = await start(concurrency=1)
    lanes.submit(("big", "one"), [ticket(f"quay.io/big/one:v{number}") for number in range(50)])
    lanes.submit(("big", "two"), [ticket(f"quay.io/big/two:v{number}") for number in range(50)])
    lanes.submit(("small", "web"), [ticket("quay.io/small/web:a"), ticket("quay.io/small/web:b")])
    await registries.until_asked(1)
    for count in range(2, 6):
        registries.answer()
        await registries.until_asked(count)
    names = [name.split("/")[1] for name in registries.asked]
    assert names == ["big", "big", "small", "big", "small"]


async def test_a_shared_question_comes_with_the_earliest_turn(start, registries):
    lanes = await start(concurrency=1)
    lanes.submit(("big", "one"), [ticket(f"quay.io/big/one:v{number}") for number in range(50)])
    lanes.submit(("small", "web"), [ticket("quay.io/big/one:v49")])
    await registries.until_asked(1)
    for count in range(2, 4):
        registries.answer()
        await registries.until_asked(count)
    assert "quay.io/big/one:v49" in registries.asked[:3]


async def test_a_hanging_host_delays_only_its_own(start, registries, ready):
    lanes = await start(concurrency=2)
    lanes.submit(WEB, [ticket(f"hangs.example/web:v{number}") for number in range(20)])
    await registries.until_asked(2)
    registries.outcome = ANSWER
    lanes.submit(API, [ticket(f"quay.io/acme/api:v{number}") for number in range(50)])
    await ready.until(1)
    assert (ready.keys, len(lanes.peek(API))) == ([API], 50)
    assert len(lanes.pending(WEB)) == 20


async def test_a_namespace_has_so_many_under_way_at_all_hosts_together(start, registries):
    lanes = await start(concurrency=2, per_namespace=3)
    for number in range(4):
        lanes.submit(WEB, [ticket(f"h{number}.example/web:{tag}", tag=f"{number}{tag}") for tag in "ab"])
    lanes.submit(API, [ticket("h0.example/api:x")])
    await settled()
    assert registries.asked == ["h0.example/web:a", "h0.example/web:b", "h1.example/web:a"]
    registries.answer(name="h1.example/web:a")
    await settled()
    assert registries.asked[3:] == ["h1.example/web:b"]
    registries.answer(name="h0.example/web:a")
    await settled()
    assert set(registries.asked[4:]) == {"h2.example/web:a", "h0.example/api:x"}
    registries.outcome = ANSWER
    for _ in range(5):
        with contextlib.suppress(StopIteration):
            registries.answer()
        await settled()
    assert lanes.load() == (0, 0)
    assert len(registries.asked) == 9


# --- who must wait ----------------------------------------------------------------------------------------------------


async def test_a_throttled_credential_waits_and_others_do_not(start, registries, ready, clock):
    told = []
    lanes = await start(concurrency=1, on_throttle=lambda *event: told.append(event))
    lanes.submit(WEB, [ticket(f"quay.io/acme/web:{tag}", ALICE) for tag in "ab"])
    await registries.until_asked(1)
    registries.answer(RateLimited("too many", retry_after=60, fingerprint=ALICE.fingerprint))
    await ready.until(1)
    until = clock() + timedelta(seconds=60)
    assert outcomes(lanes, WEB) == {
        "a": Failed("RateLimited", "too many", retryable=True),
        "b": Deferred(until, "quay.io asks to wait"),
    }
    assert told == [("quay.io", "retry-after")]
    registries.outcome = ANSWER
    lanes.submit(API, [ticket("quay.io/acme/api:anonymous"), ticket("quay.io/acme/api:bob", BOB)])
    lanes.submit(("team-c", "x"), [ticket("docker.io/acme/x:1", ALICE)])
    await ready.until(3)
    assert set(outcomes(lanes, API).values()) == {ANSWER}
    assert outcomes(lanes, ("team-c", "x")) == {"1": ANSWER}
    clock.advance(seconds=59)
    lanes.submit(WEB, [ticket("quay.io/acme/web:c", ALICE)])
    assert outcomes(lanes, WEB)["c"] == Deferred(until, "quay.io asks to wait")
    assert ready.keys[3:] == [WEB]
    lanes.submit(WEB, [ticket("quay.io/acme/web:d", ALICE, BOB)])  # the client passes Alice's over
    await ready.until(5)
    assert outcomes(lanes, WEB)["d"] == ANSWER
    clock.advance(seconds=1)
    lanes.submit(WEB, [ticket("quay.io/acme/web:e", ALICE)])
    await ready.until(6)
    assert outcomes(lanes, WEB)["e"] == ANSWER


async def test_anonymous_is_a_credential_of_its_own(start, registries, ready):
    registries.outcome = RateLimited("too many", retry_after=60)
    lanes = await start()
    lanes.submit(WEB, [ticket()])
    await ready.until(1)
    registries.outcome = ANSWER
    lanes.submit(API, [ticket("quay.io/acme/api:1", ALICE)])
    lanes.submit(("team-c", "x"), [ticket()])
    await ready.until(3)
    assert outcomes(lanes, API) == {"1": ANSWER}
    assert isinstance(outcomes(lanes, ("team-c", "x"))["latest"], Deferred)


async def test_who_is_throttled_before_the_login_waits_too(start, registries, ready):
    registries.outcome = RateLimited("too many", retry_after=60)  # anonymous, on the way to the challenge
    lanes = await start()
    lanes.submit(WEB, [ticket("quay.io/acme/web:a", ALICE)])
    await ready.until(1)
    lanes.submit(WEB, [ticket("quay.io/acme/web:b", ALICE)])
    assert isinstance(outcomes(lanes, WEB)["b"], Deferred)


async def test_an_unavailable_registry_that_says_when_is_believed(start, registries, ready, clock):
    registries.outcome = Unavailable("maintenance", retry_after=300)
    lanes = await start()
    lanes.submit(WEB, [ticket("quay.io/acme/web:a")])
    await ready.until(1)
    lanes.submit(WEB, [ticket("quay.io/acme/web:b")])
    assert outcomes(lanes, WEB)["b"].until == clock() + timedelta(seconds=300)


async def test_without_a_retry_after_the_wait_grows(start, registries, ready, clock):
    lanes = await start(throttle=timedelta(seconds=30))
    waits = []
    for number in range(8):
        registries.outcome = RateLimited("too many")
        lanes.submit(WEB, [ticket(f"quay.io/acme/web:a{number}")])
        await ready.until(2 * number + 1)
        lanes.submit(WEB, [ticket(f"quay.io/acme/web:b{number}")])
        waits.append((outcomes(lanes, WEB)[f"b{number}"].until - clock()).total_seconds())
        clock.advance(seconds=waits[-1])
    assert waits == [30, 60, 120, 240, 480, 900, 900, 900]


async def test_a_host_that_cannot_be_reached_is_left_alone_and_then_tried_once(start, registries, ready, clock):
    told = []
    lanes = await start(
        concurrency=1, failures=3, pause=timedelta(seconds=15), on_throttle=lambda *event: told.append(event)
    )
    registries.outcome = Unreachable("no answer")
    lanes.submit(WEB, [ticket(f"dead.example/web:{tag}") for tag in "abcde"])
    await ready.until(1)
    until = clock() + timedelta(seconds=15)
    assert list(outcomes(lanes, WEB).values()) == [
        *[Failed("Unreachable", "no answer", retryable=True)] * 3,
        *[Deferred(until, "dead.example cannot be reached")] * 2,
    ]
    assert told == [("dead.example", "unreachable")] * 2
    registries.outcome = None
    clock.advance(seconds=15)
    lanes.submit(API, [ticket(f"dead.example/api:{tag}") for tag in "abc"])
    await settled()
    assert len(registries.asked) == 4  # one goes ahead
    registries.answer(Unreachable("no answer"))
    await ready.until(2)
    assert (
        list(outcomes(lanes, API).values())[1:]
        == [Deferred(clock() + timedelta(seconds=30), "dead.example cannot be reached")] * 2
    )


async def test_a_host_that_is_there_again_gets_all(start, registries, ready, clock):
    lanes = await start(concurrency=4, failures=2)
    registries.outcome = Unreachable("no answer")
    lanes.submit(WEB, [ticket(f"dead.example/web:{tag}") for tag in "ab"])
    await ready.until(1)
    registries.outcome = None
    clock.advance(seconds=15)
    lanes.submit(API, [ticket(f"dead.example/api:v{number}") for number in range(9)])
    await settled()
    assert len(registries.asked) == 3
    registries.answer()
    await settled()
    assert len(registries.asked) == 7
    assert not any(isinstance(outcome, Deferred) for outcome in outcomes(lanes, API).values())


@pytest.mark.parametrize("silence", [Unreachable, Timeout, UnknownName])
async def test_every_kind_of_silence_is_one(start, registries, ready, clock, silence):
    lanes = await start(concurrency=1, failures=3)
    registries.outcome = silence("no answer")
    lanes.submit(WEB, [ticket(f"dead.example/web:{tag}") for tag in "abcd"])
    await ready.until(1)
    assert [type(outcome) for outcome in outcomes(lanes, WEB).values()] == [Failed, Failed, Failed, Deferred]
    assert outcomes(lanes, WEB)["a"] == Failed(silence.reason, "no answer", retryable=True)
    registries.outcome = NotFound("x")
    lanes.submit(API, [chain("dead.example/api:a", SOURCE)])
    await ready.until(2)
    assert outcomes(lanes, API)["latest"].message == f"x; mirror dead.example: {silence.reason}"


@pytest.mark.parametrize("how", ["forgotten", "not asked"])
async def test_a_host_is_tried_by_one_until_it_is_known_to_be_there(start, registries, ready, clock, how):
    lanes = await start(concurrency=4, failures=1)
    registries.outcome = Unreachable("no answer")
    lanes.submit(WEB, [ticket("dead.example/web:a")])
    await ready.until(1)
    registries.outcome = None
    clock.advance(seconds=15)
    lanes.submit(WEB, [ticket("dead.example/web:b")])
    lanes.submit(API, [ticket(f"dead.example/api:v{number}") for number in range(9)])
    await registries.until_asked(2)
    if how == "forgotten":
        lanes.forget(WEB)
        await settled()
        assert len(registries.asked) == 2
    registries.answer(Exhausted("none left", clock() + MINUTE) if how == "not asked" else Unreachable("no answer"))
    await settled()
    if how == "not asked":
        assert len(registries.asked) == 3  # another one goes ahead, alone
        registries.answer(Unreachable("no answer"))
        await settled()
    assert {type(outcome) for outcome in outcomes(lanes, API).values()} <= {Deferred, Failed}
    assert len(registries.asked) == (3 if how == "not asked" else 2)


async def test_who_waits_for_a_silent_mirror_goes_on_when_it_stays_silent(start, registries, ready, clock):
    lanes = await start(concurrency=4, failures=1)
    registries.outcome = Unreachable("no answer")
    lanes.submit(WEB, [ticket("mirror.example/web:a")])
    await ready.until(1)
    registries.outcome = None
    clock.advance(seconds=15)
    names = [f"v{number}" for number in range(9)]
    lanes.submit(API, [chain(f"mirror.example/api:{tag}", f"{SOURCE}:{tag}", tag=tag) for tag in names])
    await registries.until_asked(2)
    registries.outcome = ANSWER
    registries.answer(Unreachable("no answer"))
    await ready.until(2)
    assert outcomes(lanes, API) == dict.fromkeys(names, ANSWER)
    assert len(registries.asked) == 2 + 9


async def test_any_answer_shows_that_a_host_is_there(start, registries, ready):
    lanes = await start(concurrency=1, failures=3)
    others = [NotFound("x"), Untrusted("x"), ANSWER]
    for number, outcome in enumerate(each for other in others for each in (Unreachable("x"), Unreachable("x"), other)):
        registries.outcome = outcome
        lanes.submit(WEB, [ticket(f"flaky.example/web:v{number}")])
        await ready.until(number + 1)
    assert not any(isinstance(outcome, Deferred) for outcome in outcomes(lanes, WEB).values())


@pytest.mark.parametrize(
    "error",
    [
        NotFound("write the digest in lower case", sign=Sign.NONE),
        Refused("h is not contacted", sign=Sign.NONE),
        Timeout("no time left", sign=Sign.NONE),
    ],
)
async def test_who_never_asked_a_host_says_nothing_of_it(start, registries, ready, clock, error):
    lanes = await start(concurrency=1, failures=2)
    asked = 0

    async def ask(outcome):
        nonlocal asked
        asked, registries.outcome = asked + 1, outcome
        lanes.submit(WEB, [ticket(f"dead.example/web:v{asked}")])
        await ready.until(asked)
        return outcomes(lanes, WEB)[f"v{asked}"]

    for outcome in (error, error, Unreachable("x"), error, Unreachable("x")):
        assert isinstance(await ask(outcome), Failed)
    assert isinstance(await ask(ANSWER), Deferred), "two in a row were silent"
    clock.advance(seconds=15)
    assert isinstance(await ask(error), Failed)
    lanes.submit(API, [ticket(f"dead.example/api:v{number}") for number in range(2)])
    registries.outcome = None
    await registries.until_asked(len(registries.asked) + 1)
    registries.answer(Unreachable("x"))
    await ready.until(asked + 1)
    assert {type(outcome) for outcome in outcomes(lanes, API).values()} == {Failed, Deferred}, "it is still silent"


async def test_lookups_that_fail_together_open_the_breaker_once(start, registries, ready, clock):
    lanes = await start(concurrency=8, failures=2)
    lanes.submit(WEB, [ticket(f"dead.example/web:v{number}") for number in range(8)])
    await registries.until_asked(8)
    for _ in range(8):
        registries.answer(Unreachable("no answer"))
    await ready.until(1)
    lanes.submit(WEB, [ticket("dead.example/web:next")])
    assert outcomes(lanes, WEB)["next"].until == clock() + timedelta(seconds=15)


# --- from place to place ----------------------------------------------------------------------------------------------

MIRROR, SECOND, SOURCE = "mirror.example/acme/web", "second.example/acme/web", "quay.io/acme/web"
MINUTE = timedelta(minutes=1)


async def hold(lanes, registries, ready, host, minutes):
    """Have a host ask to wait for so many minutes."""
    registries.outcome = RateLimited("too many", retry_after=60 * minutes)
    lanes.submit(("team-z", "hold"), [ticket(f"{host}/any/thing:x", tag=host)])
    await ready.until(len(ready.keys) + 1)
    registries.outcome = None
    registries.asked.clear()


@pytest.mark.parametrize(
    ("came", "asked", "expected"),
    [
        pytest.param([ANSWER], [MIRROR], ANSWER, id="the mirror has it"),
        pytest.param([NotFound("a"), ANSWER], [MIRROR, SOURCE], ANSWER, id="the source has it"),
        pytest.param([Timeout("a"), ANSWER], [MIRROR, SOURCE], ANSWER, id="the mirror is silent"),
        pytest.param([Untrusted("a"), ANSWER], [MIRROR, SOURCE], ANSWER, id="the mirror's certificate is not trusted"),
        pytest.param([ZeroDivisionError(), ANSWER], [MIRROR, SOURCE], ANSWER, id="a bug at the mirror"),
        pytest.param([3, ANSWER], [SOURCE], ANSWER, id="the mirror must not be asked"),
        pytest.param(
            [NotFound("a"), Unauthorized("b")],
            [MIRROR, SOURCE],
            Failed("Unauthorized", "b; mirror mirror.example: NotFound", retryable=False),
            id="both fail: the source's reason",
        ),
        pytest.param(
            [UnknownName("a"), NotFound("b")],
            [MIRROR, SOURCE],
            Failed("NotFound", "b; mirror mirror.example: DNS", retryable=True),
            id="the mirror may come back",
        ),
        pytest.param(
            [NotFound("a"), Timeout("b")],
            [MIRROR, SOURCE],
            Failed("Timeout", "b; mirror mirror.example: NotFound", retryable=True),
            id="the source may come back",
        ),
        pytest.param(
            [3, Timeout("b")],
            [SOURCE],
            Failed("Timeout", "b; mirror mirror.example: RateLimited", retryable=True),
            id="the source is silent, and that is said",
        ),
        pytest.param(
            [3, NotFound("b")],
            [SOURCE],
            Failed("NotFound", "b; mirror mirror.example: RateLimited", retryable=True),
            id="the source's word is final",
        ),
        pytest.param([Timeout("a"), 5], [MIRROR], 5, id="the source must not be asked"),
        pytest.param([7, 3], [], 3, id="neither may be asked: the first that may"),
        pytest.param([3, 7], [], 3, id="neither, the other way round"),
        pytest.param([3, NotFound("b"), 7], [SECOND], 3, id="three places, one deferred twice"),
        pytest.param(
            [NotFound("a"), Timeout("b"), NotFound("c")],
            [MIRROR, SECOND, SOURCE],
            Failed("NotFound", "c; mirror mirror.example: NotFound; mirror second.example: Timeout", retryable=True),
            id="three fail",
        ),
        pytest.param([NotFound("a"), NotFound("b"), ANSWER], [MIRROR, SECOND, SOURCE], ANSWER, id="the third has it"),
    ],
)
async def test_a_place_that_gives_nothing_is_followed_by_the_next(  # noqa: PLR0917
    start, registries, ready, clock, came, asked, expected
):
    lanes = await start()
    places = [MIRROR, SOURCE] if len(came) < 3 else [MIRROR, SECOND, SOURCE]
    for place, each in zip(places, came, strict=False):
        if isinstance(each, int):
            await hold(lanes, registries, ready, place.partition("/")[0], each)
    until = {minutes: clock() + timedelta(minutes=minutes) for minutes in (3, 5, 7)}
    before = len(ready.keys)
    wanted = chain(*places)
    lanes.submit(WEB, [wanted])
    for each in came:
        if not isinstance(each, int):
            await settled()
            registries.answer(each)
    await ready.until(before + 1)
    (answer,) = lanes.peek(WEB)
    assert answer.ticket == wanted
    outcome = outcomes(lanes, WEB)["latest"]
    assert (outcome.until == until[expected]) if isinstance(expected, int) else (outcome == expected)
    assert registries.asked == asked
    assert lanes.pending(WEB) == frozenset()


async def test_a_source_that_must_not_be_contacted_is_in_no_chain(start, registries, ready):
    registries.outcome = NotFound("gone")
    lanes = await start()
    lanes.submit(WEB, [chain(MIRROR, SECOND)])
    await ready.until(1)
    assert registries.asked == [MIRROR, SECOND]
    assert outcomes(lanes, WEB)["latest"].message == "gone; mirror mirror.example: NotFound"


RETRY, FINAL = Failed("Timeout", "t", retryable=True), Failed("NotFound", "n", retryable=False)
SOON, LATE = Deferred(datetime(2026, 3, 1, tzinfo=UTC), "soon"), Deferred(datetime(2026, 3, 2, tzinfo=UTC), "late")


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ([RETRY], RETRY),
        ([FINAL], FINAL),
        ([SOON], SOON),
        ([LATE, SOON], SOON),
        ([SOON, LATE], SOON),
        ([RETRY, LATE], LATE),
        ([FINAL, LATE], LATE),
        ([LATE, RETRY], Failed("Timeout", "t; mirror m0: R", retryable=True)),
        ([SOON, LATE, RETRY], Failed("Timeout", "t; mirror m0: R; mirror m1: R", retryable=True)),
        ([RETRY, SOON, LATE], SOON),
        ([LATE, FINAL], Failed("NotFound", "n; mirror m0: R", retryable=True)),
        ([RETRY, FINAL], Failed("NotFound", "n; mirror m0: R", retryable=True)),
        ([FINAL, RETRY], Failed("Timeout", "t; mirror m0: R", retryable=True)),
        ([FINAL, FINAL], Failed("NotFound", "n; mirror m0: R", retryable=False)),
    ],
)
def test_what_all_places_come_to(places, expected):
    assert verdict(tuple(Setback(f"m{number}", "R", place) for number, place in enumerate(places))) == expected


def test_many_mirrors_are_not_all_told():
    setbacks = tuple(Setback(f"m{number}", "R", FINAL) for number in range(16))
    told = "n; mirror m0: R; mirror m1: R; mirror m2: R; and 12 more mirrors"
    assert verdict(setbacks) == Failed("NotFound", told, retryable=False)
    same = tuple(Setback("m", "R", FINAL) for _ in range(16))
    assert verdict(same) == Failed("NotFound", "n; mirror m: R", retryable=False)


async def test_each_ticket_gets_the_name_that_it_records(start, registries, ready):
    lanes = await start()
    mirror, other, source = (ImageReference.parse(name) for name in (MIRROR, "other.example/x", SOURCE))
    first = ticket(MIRROR, tag="a", recorded=source)
    second = ticket(MIRROR, tag="b", recorded=other)
    third = ticket(MIRROR, tag="c")
    lanes.submit(WEB, [first, second, third])
    await registries.until_asked(1)
    registries.answer()
    await ready.until(1)
    assert {answer.ticket.tag: answer.outcome.recorded for answer in lanes.peek(WEB)} == {
        "a": source,
        "b": other,
        "c": mirror,
    }
    assert len(registries.asked) == 1


async def test_the_place_that_answers_gives_the_name(start, registries, ready):
    lanes = await start()
    wanted = chain(MIRROR, SOURCE)
    wanted = replace(
        wanted, question=replace(wanted.question, recorded=ImageReference.parse("mirror.example/recorded"))
    )
    lanes.submit(WEB, [wanted])
    await registries.until_asked(1)
    registries.answer(NotFound("x"))
    await registries.until_asked(2)
    registries.answer()
    await ready.until(1)
    assert lanes.peek(WEB)[0].outcome.recorded == ImageReference.parse(SOURCE)


async def test_a_place_is_shared_by_those_who_come_to_it_another_way(start, registries, ready):
    lanes = await start()
    lanes.submit(WEB, [chain(MIRROR, SOURCE)])
    lanes.submit(API, [chain(SECOND, SOURCE)])
    lanes.submit(("team-c", "x"), [chain(SOURCE)])
    await registries.until_asked(3)
    registries.answer(NotFound("x"), name=MIRROR)
    registries.answer(NotFound("x"), name=SECOND)
    await settled()
    registries.answer()
    await ready.until(3)
    assert registries.asked == [MIRROR, SECOND, SOURCE]
    assert outcomes(lanes, WEB) == outcomes(lanes, API) == {"latest": ANSWER}


async def test_a_request_is_answered_by_later_lookups_at_every_place(start, registries, ready):
    lanes = await start()
    lanes.submit(API, [chain(SOURCE)])
    await registries.until_asked(1)
    lanes.submit(WEB, [chain(MIRROR, SOURCE, request="now")])
    await registries.until_asked(2)
    registries.answer(NotFound("x"), name=MIRROR)
    await registries.until_asked(3)
    assert registries.asked == [SOURCE, MIRROR, SOURCE]


def from_mirror(number):
    """A mirror and its source on one host, where they want other logins."""
    places = [(f"quay.io/mirror/a{number}:latest", ALICE), (f"quay.io/acme/a{number}:latest", BOB)]
    return linked(places, tag=f"a{number}")


@pytest.mark.parametrize("concurrency", [1, 8])
async def test_who_must_wait_at_a_mirror_goes_on_to_the_source_on_the_same_host(start, registries, ready, concurrency):
    lanes = await start(concurrency=concurrency)
    lanes.submit(API, [ticket(f"quay.io/acme/plain{n}:latest", ALICE, tag=f"p{n}") for n in range(concurrency)])
    lanes.submit(WEB, [from_mirror(number) for number in range(20)])
    await registries.until_asked(concurrency)
    registries.outcome = ANSWER
    registries.answer(RateLimited("too many", retry_after=60, fingerprint=ALICE.fingerprint))
    for _ in range(concurrency - 1):
        registries.answer()
    await ready.until(2)
    assert outcomes(lanes, WEB) == {f"a{number}": ANSWER for number in range(20)}
    assert not [name for name in registries.asked if "/mirror/" in name], "ALICE was told to wait"


async def test_a_next_place_in_the_same_lane_does_not_let_those_go_who_must_wait(start, registries, ready):
    lanes = await start(concurrency=1)
    lanes.submit(WEB, [from_mirror(number) for number in range(3)])
    await registries.until_asked(1)
    registries.outcome = ANSWER
    registries.answer(RateLimited("too many", retry_after=60, fingerprint=ALICE.fingerprint))
    await ready.until(1)
    assert outcomes(lanes, WEB) == {f"a{number}": ANSWER for number in range(3)}
    assert [name for name in registries.asked if "/mirror/" in name] == ["quay.io/mirror/a0:latest"]


@pytest.mark.parametrize("how", ["forget", "submit"])
async def test_who_is_told_in_the_midst_of_it_may_change_their_mind(registries, clock, how):
    """The keys that wait for a host that must not be asked any more are told one after the other."""
    keys = [("team-a", f"s{number}") for number in range(6)]

    def ready(key):
        for other in keys if key != keys[0] else ():
            lanes.forget(other) if how == "forget" else lanes.submit(other, [ticket("h.example/other:b", tag="a")])

    lanes = Lanes(registries.ask, clock=clock, ready=ready, limits=Limits(concurrency=1, settle=3600))
    running = asyncio.create_task(lanes.run())
    for key in keys:
        lanes.submit(key, [ticket(f"quay.io/acme/{key[1]}:a")])
    await registries.until_asked(1)
    registries.outcome = ANSWER
    registries.answer(RateLimited("too many", retry_after=60))
    await settled()
    assert not running.done()
    for key in keys:
        lanes.forget(key)
    await settled()
    assert_nothing_is_kept(lanes)
    await lanes.close()
    await running


async def test_a_slow_mirror_delays_only_those_who_ask_it(start, registries, ready):
    lanes = await start(concurrency=1)
    lanes.submit(WEB, [chain(f"{MIRROR}:v{number}", f"{SOURCE}:v{number}", tag=f"v{number}") for number in range(20)])
    lanes.submit(API, [ticket(f"{SOURCE}:latest")])
    await registries.until_asked(2)
    registries.answer(name=f"{SOURCE}:latest")
    await ready.until(1)
    assert (ready.keys, len(lanes.pending(WEB))) == ([API], 20)


async def test_a_mirror_that_is_gone_costs_a_few_attempts(start, registries, ready, clock):
    lanes = await start(concurrency=1, failures=3)
    lanes.submit(WEB, [chain(f"{MIRROR}:v{number}", f"{SOURCE}:v{number}", tag=f"v{number}") for number in range(20)])
    for _ in range(3):
        await settled()
        registries.answer(
            Unreachable("gone"),
            name=next(str(q.reference) for q, _ in registries._waiting if "mirror" in str(q.reference)),
        )
    registries.outcome = ANSWER
    await settled()
    while registries._waiting:
        registries.answer()
        await settled()
    assert set(outcomes(lanes, WEB).values()) == {ANSWER}
    assert len(outcomes(lanes, WEB)) == 20
    assert Counter(name.partition("/")[0] for name in registries.asked) == {"mirror.example": 3, "quay.io": 20}


async def test_a_key_is_reported_when_a_lane_has_nothing_more_for_it(start, registries, ready):
    lanes = await start()
    lanes.submit(WEB, [chain(MIRROR, SOURCE, tag="a"), ticket(f"{MIRROR}:other", tag="b")])
    await registries.until_asked(2)
    registries.answer(name=f"{MIRROR}:other")
    await settled()
    assert ready.keys == []
    registries.answer(NotFound("x"))  # goes on elsewhere, and what is there is told
    await ready.until(1)
    assert set(outcomes(lanes, WEB)) == {"b"}
    lanes.acknowledge(WEB, lanes.peek(WEB))
    await settled()
    registries.answer()
    await ready.until(2)
    assert (ready.keys, set(outcomes(lanes, WEB))) == ([WEB, WEB], {"a"})


async def test_a_move_to_the_next_place_is_no_report(start, registries, ready):
    lanes = await start()
    lanes.submit(WEB, [chain(MIRROR, SOURCE)])
    await registries.until_asked(1)
    registries.answer(NotFound("x"))
    await registries.until_asked(2)
    assert (ready.keys, lanes.pending(WEB)) == ([], {"latest"})


async def test_the_same_wish_is_not_asked_again_at_the_next_place(start, registries, ready):
    lanes = await start()
    lanes.submit(WEB, [chain(MIRROR, SOURCE, slot=900)])
    await registries.until_asked(1)
    registries.answer(NotFound("x"))
    await registries.until_asked(2)
    lanes.submit(WEB, [chain(MIRROR, SOURCE, slot=1800)])
    registries.answer()
    await ready.until(1)
    assert registries.asked == [MIRROR, SOURCE]
    assert lanes.peek(WEB)[0].ticket.slot == 1800


@pytest.mark.parametrize("how", ["forget", "replace"])
@pytest.mark.parametrize("place", [1, 2])
async def test_who_wants_no_answer_any_more_is_not_asked_for_elsewhere(start, registries, ready, place, how):
    lanes = await start()
    lanes.submit(WEB, [chain(MIRROR, SECOND, SOURCE)])
    await registries.until_asked(1)
    if place == 2:
        registries.answer(NotFound("x"))
        await registries.until_asked(2)
    if how == "forget":
        lanes.forget(WEB)
    else:
        lanes.submit(WEB, [ticket("new.example/acme/web", tag="latest")])
        await registries.until_asked(place + 1)
        registries.answer(name="new.example/acme/web")
        await settled()
    registries.answer(NotFound("x"))
    await settled()
    assert SOURCE not in registries.asked
    assert outcomes(lanes, WEB) == ({} if how == "forget" else {"latest": ANSWER})
    lanes.acknowledge(WEB, lanes.peek(WEB))
    assert_nothing_is_kept(lanes)


async def test_who_is_forgotten_while_queued_at_the_next_place_is_not_asked_for(start, registries, ready):
    lanes = await start(concurrency=1)
    lanes.submit(API, [ticket(f"{SOURCE}:busy")])
    lanes.submit(WEB, [chain(MIRROR, SOURCE)])
    await registries.until_asked(2)
    registries.answer(NotFound("x"), name=MIRROR)
    await settled()
    assert lanes.load() == (1, 1)
    lanes.forget(WEB)
    registries.answer(name=f"{SOURCE}:busy")
    await ready.until(1)
    assert registries.asked == [f"{SOURCE}:busy", MIRROR]
    lanes.acknowledge(API, lanes.peek(API))
    assert_nothing_is_kept(lanes)


async def test_the_end_comes_on_the_way_from_place_to_place(registries, ready, clock):
    lanes = Lanes(registries.ask, clock=clock, ready=ready)
    running = asyncio.create_task(lanes.run())
    lanes.submit(WEB, [chain(f"{MIRROR}:v{number}", f"{SOURCE}:v{number}", tag=f"v{number}") for number in range(20)])
    await registries.until_asked(8)
    for _ in range(4):
        registries.answer(NotFound("x"))
    await settled()
    await lanes.close()
    await running
    assert all(waiter.cancelled() for _, waiter in registries._waiting)
    assert not lanes._workers
    assert ready.keys == []


async def test_a_place_beyond_the_number_of_lanes_is_passed(start, registries, ready):
    registries.outcome = None
    lanes = await start(lanes=4)
    lanes.submit(WEB, [ticket(SOURCE, tag="busy")])  # a namespace may keep one lane of four busy
    lanes.submit(WEB, [chain(MIRROR, SOURCE)])
    await settled()
    assert registries.asked == [SOURCE]
    registries.answer()
    await ready.until(1)
    assert outcomes(lanes, WEB) == {"busy": ANSWER, "latest": ANSWER}


@pytest.mark.parametrize("kind", ["listing", "description"])
async def test_other_questions_go_the_same_way(start, registries, ready, kind):
    lanes = await start()
    digest = f"{SOURCE}@{DIGEST}"
    if kind == "listing":
        places = [ImageReference.parse(name) for name in (MIRROR, SOURCE)]
        questions = [Listing(place, transport(place), (), 50) for place in places]
        found = Listed(("a", "b"), 2, is_complete=True)
    else:
        places = [ImageReference.parse(name) for name in (f"{MIRROR}@{DIGEST}", digest)]
        questions = [Description(place, transport(place), ()) for place in places]
        found = Described(b"{}")
    question = replace(questions[0], fallback=questions[1])
    one = Ticket("u1", "", Source("DockerImage", SOURCE), "", 0, question)
    lanes.submit(WEB, [one])
    lanes.submit(API, [replace(one, uid="u2")])
    lanes.submit(("team-c", "x"), [ticket(MIRROR), ticket(f"{MIRROR}@{DIGEST}", tag="d")])  # not the same question
    await registries.until_asked(3)
    registries.answer(NotFound("x"), name=str(places[0]))
    await registries.until_asked(4)
    registries.answer(found, name=str(places[1]))
    await ready.until(2)
    assert lanes.peek(WEB)[0].outcome == lanes.peek(API)[0].outcome == found


async def test_equal_means_more_for_some_questions(start, registries):
    lanes = await start()
    reference = ImageReference.parse(SOURCE)
    for number, limit in enumerate([50, 50, 60]):
        question = Listing(reference, transport(reference), (), limit)
        lanes.submit(("team", str(number)), [Ticket("u", "", Source("DockerImage", SOURCE), "", 0, question)])
    for number, name in enumerate([f"nginx@{DIGEST}", f"nginx@{DIGEST}", f"docker.io/library/nginx@{DIGEST}"]):
        reference = ImageReference.parse(name)
        question = Description(reference, transport(reference), ())
        lanes.submit(("images", str(number)), [Ticket("u", DIGEST, Source("DockerImage", name), "", 0, question)])
    await settled()
    assert len(registries.asked) == 4


# --- quotas -----------------------------------------------------------------------------------------------------------

HUB = "docker.io/acme/web"
USED_UP = {"RateLimit-Limit": "100;w=21600", "RateLimit-Remaining": "0;w=21600"}
KNOWN = Served("sha256:" + "1" * 64, "sha256:" + "1" * 64)


class Metered(Registries):
    """A registry that is asked as the client asks it: a HEAD where something is known, and a pull for the rest."""

    def __init__(self, quota):
        super().__init__()
        self.quota = quota
        self.outcome = ANSWER
        self.heads = self.pulls = 0
        self.told = []
        self.changed = False  # whether a HEAD says so

    async def ask(self, lookup):
        host = lookup.reference.host
        fingerprint = lookup.credentials[0].fingerprint if lookup.credentials else ""
        if lookup.known is not None:
            self.quota.check(host, fingerprint, is_pull=False)
            self.heads += 1
            if not self.changed:
                return await super().ask(lookup)
        self.quota.check(host, fingerprint, is_pull=True)
        self.pulls += 1
        return await super().ask(lookup)


class Rules:
    def __init__(self, **hosts):
        self.policy = Policy(hosts)

    def __call__(self, host):
        return rule_of(self.policy, host)


@pytest.fixture
async def metered(start, ready, clock):
    """Lanes and a registry with one quota, and no pace: the clock stands still."""
    rules = Rules(**{"docker.io": HostRule(requests=Rate(1_000_000, timedelta(seconds=1)))})
    registry = Metered(Quota(clock, rules))
    lanes = await start(quota=registry.quota, on_throttle=lambda *event: registry.told.append(event))
    lanes._ask = registry.ask
    return lanes, registry


async def test_without_pulls_only_what_needs_one_is_put_off(metered, ready, clock):
    lanes, registry = metered
    registry.quota.learn(
        "docker.io", "", is_pull=False, status=200, headers={**USED_UP, "RateLimit-Remaining": "5;w=21600"}
    )
    lanes.submit(WEB, [ticket(f"{HUB}:v{number}") for number in range(30)])
    lanes.submit(API, [ticket(f"{HUB}:old{number}", known=KNOWN) for number in range(30)])
    lanes.submit(("team-c", "x"), [ticket(f"{HUB}:v1", ALICE, tag="x")])
    await ready.until(3)
    await settled()
    found = Counter(type(outcome) for outcome in outcomes(lanes, WEB).values())
    assert found == {Resolved: 5, Deferred: 25}
    assert set(outcomes(lanes, API).values()) == {ANSWER}
    assert outcomes(lanes, ("team-c", "x")) == {"x": ANSWER}
    assert (registry.pulls, registry.heads) == (6, 30)
    assert set(registry.told) == {("docker.io", "quota")}
    untils = {outcome.until for outcome in outcomes(lanes, WEB).values() if isinstance(outcome, Deferred)}
    assert all(216 <= (until - clock()).total_seconds() <= 216 + 30 for until in untils)
    assert {outcome.why for outcome in outcomes(lanes, WEB).values() if isinstance(outcome, Deferred)} == {
        "docker.io allows no more for now"
    }
    clock.advance(seconds=246)
    lanes.submit(WEB, [ticket(f"{HUB}:next", request="now")])
    await settled()
    assert outcomes(lanes, WEB)["next"] == ANSWER


async def test_a_tag_that_moved_waits_for_a_pull(metered, ready):
    lanes, registry = metered
    registry.quota.learn("docker.io", "", is_pull=False, status=200, headers=USED_UP)
    registry.changed = True
    lanes.submit(WEB, [ticket(f"{HUB}:latest", known=KNOWN)])
    await ready.until(1)
    assert isinstance(outcomes(lanes, WEB)["latest"], Deferred)
    assert (registry.pulls, registry.heads) == (0, 1)


async def test_the_queue_is_looked_at_once_for_a_quota_that_is_used_up(metered, ready):
    lanes, registry = metered
    registry.quota.learn("docker.io", "", is_pull=False, status=200, headers=USED_UP)
    registry.changed = True
    looks = Counter()
    held_until = registry.quota.held_until

    def counted(*arguments, **words):
        looks["held_until"] += 1
        return held_until(*arguments, **words)

    registry.quota.held_until = counted
    lanes.submit(WEB, [ticket(f"{HUB}:v{number}", known=KNOWN) for number in range(2000)])
    await ready.until(1)
    assert len(outcomes(lanes, WEB)) == 2000
    assert looks["held_until"] < 20_000


async def test_a_pull_that_is_denied_stops_no_head(metered, ready, clock):
    lanes, registry = metered

    async def denied(lookup):
        if lookup.known is None:
            registry.quota.check("docker.io", "", is_pull=True)
            registry.asked.append(str(lookup.reference))
            registry.quota.learn("docker.io", "", is_pull=True, status=429, headers={})
            raise RateLimited("too many", is_pull_limit=True)
        return ANSWER

    lanes._ask = denied
    lanes.submit(WEB, [ticket(f"{HUB}:v{number}") for number in range(30)])
    await ready.until(1)
    assert len(registry.asked) <= 8
    assert Counter(type(outcome) for outcome in outcomes(lanes, WEB).values())[Deferred] >= 22
    lanes.submit(API, [ticket(f"{HUB}:old", known=KNOWN)])
    await ready.until(2)
    assert outcomes(lanes, API) == {"old": ANSWER}


async def test_a_registry_without_requests_left_is_not_even_asked_with_a_head(metered, ready, clock):
    lanes, registry = metered
    none_left = {"RateLimit-Remaining": "0", "RateLimit-Reset": "60"}
    registry.quota.learn("quay.io", "", is_pull=False, status=200, headers=none_left)
    lanes.submit(WEB, [ticket(known=KNOWN)])
    lanes.submit(API, [ticket("quay.io/acme/api", ALICE, tag="latest", known=KNOWN)])
    await ready.until(2)
    assert isinstance(outcomes(lanes, WEB)["latest"], Deferred)
    assert outcomes(lanes, API) == {"latest": ANSWER}
    assert registry.heads == 1


async def test_what_was_not_asked_says_nothing_of_the_host(start, registries, ready, clock):
    """Also without a quota of their own the lanes put off what the client does not ask."""
    lanes = await start(concurrency=1, failures=2)
    until = clock() + MINUTE
    for number, outcome in enumerate([Unreachable("x"), Exhausted("none left", until), Unreachable("x")]):
        registries.outcome = outcome
        lanes.submit(WEB, [ticket(f"quay.io/acme/web:v{number}")])
        await ready.until(number + 1)
    assert isinstance(outcomes(lanes, WEB)["v1"], Deferred)
    lanes.submit(WEB, [ticket("quay.io/acme/web:next")])
    assert outcomes(lanes, WEB)["next"].why == "quay.io cannot be reached"


async def test_a_second_login_is_reason_enough_to_ask(metered, ready):
    lanes, registry = metered
    for fingerprint in ("", ALICE.fingerprint):
        registry.quota.learn("docker.io", fingerprint, is_pull=False, status=200, headers=USED_UP)
    lanes.submit(WEB, [ticket(f"{HUB}:both", ALICE, BOB, tag="both"), ticket(f"{HUB}:one", BOB, ALICE, tag="one")])
    await ready.until(1)
    assert isinstance(outcomes(lanes, WEB)["both"], Deferred)  # the registry would be asked with Alice's first
    assert outcomes(lanes, WEB)["one"] == ANSWER


async def test_a_mirror_without_quota_is_passed(metered, ready):
    lanes, registry = metered
    registry.quota.learn("docker.io", "", is_pull=False, status=200, headers=USED_UP)
    lanes.submit(WEB, [chain(HUB, SOURCE)])
    await ready.until(1)
    assert outcomes(lanes, WEB) == {"latest": ANSWER}
    assert registry.asked == [SOURCE]


# --- pace, in a time of its own ---------------------------------------------------------------------------------------


class Instant(asyncio.SelectorEventLoop):
    """An event loop whose time passes when nothing else is to do."""

    def __init__(self):
        super().__init__()
        self._now = 0.0
        select = self._selector.select

        def instant(timeout):
            assert timeout is not None, "nothing will happen any more"
            self._now += max(timeout, 0)
            return select(0)

        self._selector.select = instant

    def time(self):
        return self._now


def in_no_time(story, **hosts):
    """Run `story(world)` with lanes in an instant loop."""

    async def run():
        loop = asyncio.get_running_loop()
        world = World(loop, Rules(**hosts))
        running = asyncio.create_task(world.lanes.run())
        await asyncio.sleep(0)
        try:
            await story(world)
        finally:
            await world.lanes.close()
            await running

    with asyncio.Runner(loop_factory=Instant) as runner:
        runner.run(run())


class World:
    """Lanes, a quota and registries that take their time."""

    def __init__(self, loop, rules):
        self.loop = loop
        self.rules = rules
        self.quota = Quota(self.clock, rules)
        self.begun = []  # when, and which
        self.answered = {}  # when a key's last answer came
        self.looks = 0
        self.takes = lambda lookup: 0.2
        ready_at = self.quota.ready_at

        def counted(host):
            self.looks += 1
            return ready_at(host)

        self.quota.ready_at = counted
        self.ready = asyncio.Event()
        limits = Limits(settle=1e9)
        self.lanes = Lanes(self.ask, clock=self.clock, ready=self.on_ready, quota=self.quota, limits=limits)

    def clock(self):
        return datetime(2026, 3, 1, 12, tzinfo=UTC) + timedelta(seconds=self.loop.time())

    async def ask(self, lookup):
        self.quota.check(lookup.reference.host, "", is_pull=lookup.known is None)
        self.begun.append((self.loop.time(), str(lookup.reference)))
        await asyncio.sleep(self.takes(lookup))
        return ANSWER

    def on_ready(self, key):
        self.answered[key] = self.loop.time()
        self.ready.set()

    async def until(self, done):
        while not done():
            self.ready.clear()
            await self.ready.wait()

    def times(self, host):
        return [at for at, name in self.begun if name.startswith(host)]


def check_rate(times, rate):
    """In no window more than the rate's count and what came back meanwhile."""
    cost = (rate.per / rate.count).total_seconds()
    least = 0.0
    for number, at in enumerate(times):
        least = min(least, number - at / cost)
        assert number + 1 - at / cost - least <= rate.count + 1e-6


def test_no_window_has_more_lookups_than_the_hosts_rate():
    async def story(world):
        for number in range(100):
            names = [f"{HUB}{number}:v{tag}" for tag in range(100)]
            world.lanes.submit((f"team-{number}", "web"), [ticket(name, known=KNOWN) for name in names])
        await world.until(lambda: world.lanes.load() == (0, 0))
        times = world.times("docker.io")
        assert len(times) == 10_000
        check_rate(times, Rate(40, timedelta(seconds=4)))
        assert 996 <= times[-1] <= 1000  # and it is not slower than it has to be
        assert world.looks < 40_000  # nor does it look all the time

    in_no_time(story)


def test_one_hosts_pace_is_not_anothers():
    async def story(world):
        world.lanes.submit(WEB, [ticket(f"slow.example/web:v{number}", known=KNOWN) for number in range(50)])
        world.lanes.submit(API, [ticket(f"{SOURCE}:v{number}") for number in range(50)])
        await world.until(lambda: API in world.answered)
        assert len(world.times("quay.io")) == 50
        assert world.answered[API] < 2
        assert len(world.times("slow.example")) == 1

    in_no_time(story, **{"slow.example": HostRule(requests=Rate(1, MINUTE))})


def test_a_flood_does_not_starve_another_namespace():
    async def story(world):
        world.lanes.submit(("flood", "web"), [ticket(f"{HUB}/flood:v{number}", known=KNOWN) for number in range(5000)])
        await asyncio.sleep(60)
        begin = world.loop.time()
        world.lanes.submit(("small", "web"), [ticket(f"{HUB}/small:v{number}", known=KNOWN) for number in range(10)])
        await world.until(lambda: ("small", "web") in world.answered)
        assert world.answered["small", "web"] - begin < 3  # ten of twenty, at ten in a second
        check_rate(world.times("docker.io"), Rate(40, timedelta(seconds=4)))

    in_no_time(story)


def test_another_rate_takes_effect_at_once():
    async def story(world):
        world.lanes.submit(WEB, [ticket(f"{SOURCE}:v{number}", known=KNOWN) for number in range(300)])
        await asyncio.sleep(600)
        assert len(world.begun) == 1
        world.rules.policy = Policy({"quay.io": HostRule(requests=Rate(100, timedelta(seconds=1)))})
        await world.until(lambda: WEB in world.answered)
        assert len(world.begun) == 300
        # Eight at a time, a fifth of a second each: from here on the host's own time is what counts.
        assert world.loop.time() - 600 < 12

    in_no_time(story, **{"quay.io": HostRule(requests=Rate(1, timedelta(hours=1)))})


def test_who_waits_for_a_pace_is_not_kept_by_the_end():
    async def story(world):
        world.lanes.submit(WEB, [ticket(f"{SOURCE}:v{number}", known=KNOWN) for number in range(5)])
        await asyncio.sleep(1)
        world.lanes.forget(WEB)
        assert world.lanes.load() == (0, 0)
        await asyncio.sleep(3600)
        assert len(world.begun) == 1

    in_no_time(story, **{"quay.io": HostRule(requests=Rate(1, timedelta(days=1)))})


def test_few_pulls_are_shared_by_all_who_wait_for_them():
    """One comes back in 216 seconds, and two hundred tags of one namespace wait for it beside one of another."""

    async def story(world):
        world.quota.learn("docker.io", "", is_pull=False, status=200, headers=USED_UP)
        wanted = {("flood", "web"): 200, ("small", "web"): 1}
        got = Counter()
        for turn in range(60):
            # Both are told when to come back, and whoever comes first takes what there is.
            untils = {}
            for key, count in wanted.items():
                world.lanes.submit(key, [ticket(f"{HUB}/{key[0]}:v{number}") for number in range(count)])
                untils[key] = min(answer.outcome.until for answer in world.lanes.peek(key))
                world.lanes.forget(key)
            first = min(untils, key=untils.get)
            await asyncio.sleep((untils[first] - world.clock()).total_seconds())
            world.lanes.submit(first, [ticket(f"{HUB}/{first[0]}:got{turn}")])
            await world.until(lambda first=first: not world.lanes.pending(first))
            world.lanes.forget(first)
            got[first] += 1
        assert len(world.begun) == 60
        assert min(got[key] for key in wanted) > 10

    in_no_time(story)


# --- caps -------------------------------------------------------------------------------------------------------------


async def test_the_number_of_lanes_is_capped(start, registries, ready, clock):
    told = []
    lanes = await start(lanes=8, pause=timedelta(seconds=15), on_throttle=lambda *event: told.append(event))
    for number in range(8):
        lanes.submit((f"team-{number}", "web"), [ticket(f"h{number}.example/web:1")])
    lanes.submit(("late", "web"), [ticket("one-more.example/web:1")])
    assert outcomes(lanes, ("late", "web")) == {
        "1": Deferred(clock() + timedelta(seconds=15), "too many different registries are being asked")
    }
    assert told == [("one-more.example", "lanes")]
    assert ready.keys == [("late", "web")]
    await registries.until_asked(8)
    registries.answer()
    await ready.until(2)
    lanes.submit(("late", "web"), [ticket("one-more.example/web:1", request="again")])
    assert lanes.pending(("late", "web")) == {"1"}


async def test_one_namespace_does_not_take_all_lanes(start, registries):
    lanes = await start(lanes=8)
    for number in range(8):
        lanes.submit(WEB, [ticket(f"h{number}.example/web:1", tag=f"v{number}")])
    assert lanes.pending(WEB) == {"v0", "v1"}
    lanes.submit(API, [ticket("h7.example/api:1")])
    assert lanes.pending(API) == {"1"}


async def test_a_lane_that_is_waited_for_is_forgotten_last(start, registries, ready):
    lanes = await start(lanes=2)
    registries.outcome = RateLimited("too many", retry_after=60)
    lanes.submit(WEB, [ticket("limited.example/web:1")])
    await settled()
    registries.outcome = ANSWER
    for number in range(5):
        lanes.submit(API, [ticket(f"h{number}.example/api:1")])
        await settled()
    lanes.submit(API, [ticket("limited.example/api:1")])
    assert isinstance(outcomes(lanes, API)["1"], Deferred)


async def test_nothing_is_kept_of_what_is_done(start, registries, ready):
    registries.outcome = ANSWER
    lanes = await start(per_namespace=1)
    for number in range(50):
        key = (f"team-{number % 5}", str(number))
        lanes.submit(key, [ticket(f"quay.io/acme/web:v{number}"), ticket(f"h{number % 3}.example/web:x")])
        await ready.until(2 * number + 1)
        await settled()
        lanes.acknowledge(key, lanes.peek(key))
        lanes.forget(key)
    assert_nothing_is_kept(lanes)
    assert not any(lane.windows for lane in lanes._lanes.values())
    assert len(lanes._workers) == 0


# --- whatever happens -------------------------------------------------------------------------------------------------

KEYS = [WEB, API, ("team-a", "other"), ("team-c", "x")]
RESULTS = [
    ANSWER,
    NotFound("x"),
    Unreachable("x"),
    lambda who: RateLimited("x", retry_after=60, fingerprint=who),
    Unavailable("x"),
    lambda who: Exhausted("x", datetime(2026, 3, 1, 12, 1, tzinfo=UTC), fingerprint=who),
]

operations = st.one_of(
    st.tuples(
        st.just("submit"),
        st.sampled_from(KEYS),
        st.lists(
            st.tuples(
                st.lists(st.integers(0, 4), min_size=1, max_size=4),
                st.integers(0, 3),
                st.sampled_from(["", "now", "again"]),
            ),
            max_size=6,
        ),
    ),
    st.tuples(st.just("answer"), st.integers(0, 20), st.sampled_from(RESULTS)),
    st.tuples(st.just("forget"), st.sampled_from(KEYS)),
    st.tuples(st.just("acknowledge"), st.sampled_from(KEYS)),
    st.tuples(st.just("advance"), st.integers(1, 100)),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(operations, max_size=40))
def test_every_ticket_is_answered_or_replaced_and_nothing_is_left(script):
    asyncio.run(play(script))


async def play(script):
    clock, registries, ready = Clock(), Registries(), Ready()
    limits = Limits(concurrency=2, per_namespace=3, lanes=12, settle=3600, failures=2)
    lanes = Lanes(registries.ask, clock=clock, ready=ready, limits=limits)
    running = asyncio.create_task(lanes.run())
    await asyncio.sleep(0)
    wanted = {key: {} for key in KEYS}
    for name, *arguments in script:
        if name == "submit":
            key, pairs = arguments
            tickets = [
                chain(*(f"h{host}.example/web:t{tag}" for host in hosts), tag=f"t{tag}", request=request)
                for hosts, tag, request in pairs
            ]
            lanes.submit(key, tickets)
            wanted[key].update({each.tag: each for each in tickets})
        elif name == "answer" and registries._waiting:
            number, result = arguments
            asked, waiter = registries._waiting.pop(number % len(registries._waiting))
            if callable(result):
                result = result(asked.credentials[0].fingerprint if asked.credentials else "")
            waiter.set_exception(result) if isinstance(result, Exception) else waiter.set_result(result)
        elif name == "forget":
            lanes.forget(arguments[0])
            wanted[arguments[0]].clear()
        elif name == "acknowledge":
            take(lanes, arguments[0], wanted)
        elif name == "advance":
            clock.advance(seconds=arguments[0])
        await settled()
        check_limits(registries, lanes)
    registries.outcome = ANSWER
    while registries._waiting:
        registries.answer()
        await settled()
    assert not any(lanes.pending(key) for key in KEYS)
    for key in KEYS:
        assert not lanes.peek(key) or key in ready.keys
        take(lanes, key, wanted)
    assert not any(wanted.values())
    assert_nothing_is_kept(lanes)
    await lanes.close()
    await running


def take(lanes, key, wanted):
    """Fetch and acknowledge: each answer is for the newest ticket of its tag."""
    answers = lanes.peek(key)
    lanes.acknowledge(key, answers)
    for answer in answers:
        asked = wanted[key].pop(answer.ticket.tag)
        assert (answer.ticket.source, answer.ticket.request) == (asked.source, asked.request)
        if isinstance(answer.outcome, Resolved):
            assert answer.outcome.recorded in places(answer.ticket.question)


def places(question):
    return [question.reference, *places(question.fallback)] if question else []


def check_limits(registries, lanes):
    hosts = [lookup.transport.host for lookup, _ in registries._waiting]
    assert all(hosts.count(host) <= 2 for host in hosts)
    assert all(count <= 3 for count in lanes._under_way.values())
    queued, under_way = lanes.load()
    assert under_way == len(registries._waiting)
    # Nothing waits for a turn that could have it.
    if queued:
        assert under_way


LOGINS = [(), (ALICE,), (BOB,)]
of_one_host = st.lists(st.sampled_from(LOGINS), min_size=1, max_size=4)


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 3), st.lists(of_one_host, min_size=1, max_size=16), st.lists(st.sampled_from(RESULTS)))
def test_places_on_one_host_are_asked_in_turn_and_none_with_a_login_that_must_wait(concurrency, chains, results):
    asyncio.run(crowd(concurrency, chains, results))


async def crowd(concurrency, chains, results):
    registries, ready = Registries(), Ready()
    limits = Limits(concurrency=concurrency, settle=3600, failures=2)
    lanes = Lanes(registries.ask, clock=Clock(), ready=ready, limits=limits)
    running = asyncio.create_task(lanes.run())
    keys = [(f"team-{number % 3}", str(number)) for number in range(len(chains))]
    for key, logins in zip(keys, chains, strict=True):
        places = [(f"h.example/m{place}/s{key[1]}:t", *login) for place, login in enumerate(logins)]
        lanes.submit(key, [linked(places, tag="t")])
    told, results = set(), iter(results)
    await settled()
    while registries._waiting:
        asked, waiter = registries._waiting.pop(0)
        before = [question for question, _ in registries._waiting]
        who, result = asked.credentials, next(results, ANSWER)
        if callable(result):
            result = result(who[0].fingerprint if who else "")
        if isinstance(result, RateLimited):
            told.add(who)
        waiter.set_exception(result) if isinstance(result, Exception) else waiter.set_result(result)
        await settled()
        begun = [question for question, _ in registries._waiting if question not in before]
        assert not any(question.credentials in told for question in begun)
        assert not running.done()
        assert len(registries._waiting) <= concurrency
    assert all(lanes.peek(key) for key in keys)
    for key in keys:
        lanes.acknowledge(key, lanes.peek(key))
    assert set(ready.keys) == set(keys)
    assert_nothing_is_kept(lanes)
    await lanes.close()
    await running
