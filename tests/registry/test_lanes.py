"""The lanes: who is asked next, who waits, which answers arrive. The registry is a function that tests hold back."""

import asyncio
import contextlib
import contextvars
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagestreams.core.keychain import Credential
from imagestreams.core.lookup import (
    Deferred,
    Failed,
    ImportMode,
    Lookup,
    Resolved,
    Served,
    Source,
    Ticket,
)
from imagestreams.core.manifest import Platform
from imagestreams.core.policy import Transport
from imagestreams.core.reference import ImageReference
from imagestreams.registry.errors import NotFound, TooManyRequests, Unavailable, Unreachable, Untrusted
from imagestreams.registry.lanes import Lanes, Limits
from tests.fakes.clock import Clock

DIGEST = "sha256:" + "0" * 64
ANSWER = Resolved(Served(DIGEST, DIGEST))
WEB = ("team-a", "web")
API = ("team-b", "api")
ALICE = Credential("alice", "pw", "alice-pull")
BOB = Credential("bob", "pw", "bob-pull")


def ticket(name="quay.io/acme/web:latest", *credentials, tag="", uid="u1", request="", slot=0, **changes):
    reference = ImageReference.parse(name)
    transport = Transport(reference.host, f"https://{reference.host}", False, True, "", False)
    lookup = Lookup(reference, changes.pop("transport", transport), credentials, ImportMode.PRESERVE_ORIGINAL)
    source = Source("DockerImage", name)
    return Ticket(uid, tag or reference.tag, source, request, slot, replace(lookup, **changes))


class Registries:
    """Lookups as they come in; each waits until it is answered, unless `outcome` says what comes at once."""

    def __init__(self):
        self.outcome = None
        self.asked = []
        self._waiting = []
        self._changed = asyncio.Event()

    async def look_up(self, lookup):
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
            hooks = {"on_throttle": options.pop("on_throttle", None)}
            limits = Limits(**{"settle": 3600, **options})
            lanes = Lanes(registries.look_up, clock=clock, ready=ready, limits=limits, **hooks)
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


def outcomes(lanes, key):
    return {answer.ticket.tag: answer.outcome for answer in lanes.peek(key)}


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
    assert (answer.ticket, answer.outcome, answer.at) == (wanted, ANSWER, clock())
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
    lanes = Lanes(registries.look_up, clock=clock, ready=ready)
    lanes.submit(WEB, [ticket()])
    await settled()
    assert registries.asked == []
    running = asyncio.create_task(lanes.run())
    await ready.until(1)
    await lanes.close()
    await running


@pytest.mark.parametrize("how", ["close", "cancel"])
async def test_the_end_abandons_what_is_under_way(registries, ready, clock, how):
    lanes = Lanes(registries.look_up, clock=clock, ready=ready)
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
    registries.answer(TooManyRequests("too many", retry_after=60, fingerprint=ALICE.fingerprint))
    await ready.until(1)
    until = clock() + timedelta(seconds=60)
    assert outcomes(lanes, WEB) == {
        "a": Failed("TooManyRequests", "too many", retryable=True),
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
    lanes.submit(WEB, [ticket("quay.io/acme/web:c", BOB, ALICE)])  # might come to use Alice's
    assert outcomes(lanes, WEB)["c"] == Deferred(until, "quay.io asks to wait")
    assert ready.keys[3:] == [WEB]
    clock.advance(seconds=1)
    lanes.submit(WEB, [ticket("quay.io/acme/web:d", ALICE)])
    await ready.until(5)
    assert outcomes(lanes, WEB)["d"] == ANSWER


async def test_anonymous_is_a_credential_of_its_own(start, registries, ready):
    registries.outcome = TooManyRequests("too many", retry_after=60)
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
    registries.outcome = TooManyRequests("too many", retry_after=60)  # anonymous, on the way to the challenge
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
        registries.outcome = TooManyRequests("too many")
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


async def test_any_answer_shows_that_a_host_is_there(start, registries, ready):
    lanes = await start(concurrency=1, failures=3)
    others = [NotFound("x"), Untrusted("x"), ANSWER]
    for number, outcome in enumerate(each for other in others for each in (Unreachable("x"), Unreachable("x"), other)):
        registries.outcome = outcome
        lanes.submit(WEB, [ticket(f"flaky.example/web:v{number}")])
        await ready.until(number + 1)
    assert not any(isinstance(outcome, Deferred) for outcome in outcomes(lanes, WEB).values())


async def test_lookups_that_fail_together_open_the_breaker_once(start, registries, ready, clock):
    lanes = await start(concurrency=8, failures=2)
    lanes.submit(WEB, [ticket(f"dead.example/web:v{number}") for number in range(8)])
    await registries.until_asked(8)
    for _ in range(8):
        registries.answer(Unreachable("no answer"))
    await ready.until(1)
    lanes.submit(WEB, [ticket("dead.example/web:next")])
    assert outcomes(lanes, WEB)["next"].until == clock() + timedelta(seconds=15)


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
    registries.outcome = TooManyRequests("too many", retry_after=60)
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
    for name in ("_pending", "_arrived", "_timers", "_under_way", "_busy", "_passed_over"):
        assert not getattr(lanes, name), name
    for lane in lanes._lanes.values():
        assert lane.is_idle
        assert not any((lane.flights, lane.tickets, lane.namespaces, lane._turns, lane.windows))
    assert len(lanes._workers) == 0


# --- whatever happens -------------------------------------------------------------------------------------------------

KEYS = [WEB, API, ("team-a", "other"), ("team-c", "x")]
RESULTS = [ANSWER, NotFound("x"), Unreachable("x"), TooManyRequests("x", retry_after=60), Unavailable("x")]

operations = st.one_of(
    st.tuples(
        st.just("submit"),
        st.sampled_from(KEYS),
        st.lists(
            st.tuples(st.integers(0, 4), st.integers(0, 3), st.sampled_from(["", "now", "again"])),
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
    lanes = Lanes(registries.look_up, clock=clock, ready=ready, limits=limits)
    running = asyncio.create_task(lanes.run())
    await asyncio.sleep(0)
    wanted = {key: {} for key in KEYS}
    for name, *arguments in script:
        if name == "submit":
            key, pairs = arguments
            tickets = [
                ticket(f"h{host}.example/web:t{tag}", tag=f"t{tag}", request=request) for host, tag, request in pairs
            ]
            lanes.submit(key, tickets)
            wanted[key].update({each.tag: each for each in tickets})
        elif name == "answer" and registries._waiting:
            number, result = arguments
            _, waiter = registries._waiting.pop(number % len(registries._waiting))
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
    for name in ("_pending", "_arrived", "_timers", "_under_way", "_busy", "_passed_over"):
        assert not getattr(lanes, name), name
    await lanes.close()
    await running


def take(lanes, key, wanted):
    """Fetch and acknowledge: each answer is for the newest ticket of its tag."""
    answers = lanes.peek(key)
    lanes.acknowledge(key, answers)
    for answer in answers:
        asked = wanted[key].pop(answer.ticket.tag)
        assert (answer.ticket.source, answer.ticket.request) == (asked.source, asked.request)


def check_limits(registries, lanes):
    hosts = [lookup.transport.host for lookup, _ in registries._waiting]
    assert all(hosts.count(host) <= 2 for host in hosts)
    assert all(count <= 3 for count in lanes._under_way.values())
    queued, under_way = lanes.load()
    assert under_way == len(registries._waiting)
    # Nothing waits for a turn that could have it.
    if queued:
        assert under_way
