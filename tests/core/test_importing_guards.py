"""What holds an import back, or says that it is late: suspension, the flap guard, overdue slots; and the places that an
image may be asked for at.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagestreams.core.importing import overdue, slot_begin, withdrawn
from imagestreams.core.keychain import Credential, Entry
from imagestreams.core.lookup import Listing, Lookup, Served
from imagestreams.core.merging import TagFailed, TagMoved, TagRecovered, merge_status
from imagestreams.core.policy import HostRule, Mirror, MirrorRule, Policy
from imagestreams.core.stream import (
    Condition,
    ImageStream,
    ObjectKey,
    ObjectReference,
    Observed,
    Status,
    StatusTag,
    TagCondition,
    TagEvent,
    decode,
    encode,
    encode_status_patch,
)
from imagestreams.core.wish import ImportRules, interval_of
from tests.core.streams import (
    IMAGE,
    NOT_FOUND,
    NOW,
    REPOSITORY,
    UNAVAILABLE,
    Rounds,
    answer,
    deferred,
    digest,
    failed,
    follower,
    listed,
    minutes,
    pinned,
    resolved,
    seconds,
    stream,
    tag,
    why,
)

RULES = ImportRules()
INTERVAL = RULES.interval


def imported(*tags: Any, **kwargs: Any) -> Rounds:
    rounds = Rounds(stream(*(tags or (tag(scheduled=True),))), **kwargs)
    rounds.round()
    rounds.round(**{name: resolved("a") for name in list(rounds.pending)})
    assert rounds.ready[0] == "True"
    rounds.take_heard()
    return rounds


def ready(rounds: Rounds) -> Condition:
    found = (rounds.stream.status or Status()).ready
    assert found is not None
    return found


def poll(rounds: Rounds, outcome: Any) -> None:
    """Answer the next question that is due by itself."""
    plan = rounds.round()
    while not plan.due:
        assert plan.look_again is not None
        rounds.wait(plan.look_again)
        plan = rounds.round()
    rounds.round(latest=outcome)


# --- suspension -------------------------------------------------------------------------------------------------------

SUSPENDED = {"suspend": "true"}


def test_nothing_of_a_suspended_stream_is_asked():
    rounds = Rounds(stream(tag("a", scheduled=True), tag("b"), repository=REPOSITORY, refresh="n1", **SUSPENDED))
    plan = rounds.round(hints=["a"])
    assert (plan.due, plan.look_again) == ((), None)
    assert rounds.ready == ("False", "Suspended")
    assert "imports are suspended; not imported: a, b, spec.dockerImageRepository" in (ready(rounds).message or "")
    assert rounds.stream.status is not None
    assert rounds.stream.status.handled is None, "the request stays open"
    assert rounds.stream.status.summary is not None
    assert rounds.stream.status.summary.scheduled == "suspended"
    with rounds.unwritten():
        rounds.wait(timedelta(days=1))
        assert rounds.round().look_again is None


def test_a_suspended_stream_that_is_imported_is_ready_and_says_so():
    rounds = imported()
    rounds.edit(**SUSPENDED)
    rounds.round()
    assert (rounds.ready, ready(rounds).message) == (
        ("True", "Imported"),
        "all tags with a source are imported: latest; imports are suspended",
    )


def test_an_answer_that_comes_after_the_suspension_does_not_count():
    rounds = imported()
    poll(rounds, resolved("a"))
    rounds.wait(INTERVAL)
    rounds.round()
    rounds.edit(**SUSPENDED)
    rounds.round()
    with rounds.unwritten():
        rounds.round(latest=resolved("b"))
    assert rounds.history() == ["a"]
    rounds.edit()
    assert why(rounds.round()) == {"latest": "slot"}, "the slot was not served"
    rounds.round(latest=resolved("b"))
    assert rounds.history() == ["b", "a"]


def test_a_request_that_was_open_is_carried_out_on_resumption():
    rounds = imported()
    rounds.wait(minutes(1))
    rounds.edit(refresh="n1")
    rounds.round()
    rounds.edit(refresh="n1", **SUSPENDED)
    rounds.round(latest=resolved("b"))
    rounds.edit(refresh="n1")
    assert why(rounds.round()) == {"latest": "request"}
    rounds.round(latest=resolved("b"))
    assert rounds.stream.status is not None
    assert rounds.stream.status.handled is not None
    assert rounds.stream.status.handled.refresh == "n1"


def test_tags_that_follow_do_not_move_while_they_are_suspended():
    def other(letter: str) -> ImageStream:
        item = TagEvent(created=NOW, docker_image_reference=pinned(letter), image=digest(letter))
        return stream(name="base", status=Status(tags=(StatusTag(tag="1", items=(item,)),)))

    rounds = Rounds(stream(follower("latest", "base:1")), others=[other("a")])
    rounds.round()
    rounds.edit(**SUSPENDED)
    rounds.round()
    rounds.others[ObjectKey("team", "base")] = other("b")
    with rounds.unwritten():
        rounds.round()
    rounds.edit()
    rounds.round()
    assert rounds.history() == ["b", "a"]


def test_forgetting_goes_on():
    rounds = imported(tag("a"), tag("b"))
    rounds.edit(tag("a"), forget="n1 b", **SUSPENDED)
    rounds.round()
    assert rounds.stream.status_tag("b") is None


@pytest.mark.parametrize("value", [None, "", "false"])
def test_not_suspended(value: str | None):
    rounds = Rounds(stream(tag(), suspend=value))
    assert why(rounds.round()) == {"latest": "source"}
    rounds.round(latest=resolved("a"))
    assert "suspend" not in (ready(rounds).message or "")


@pytest.mark.parametrize("value", ["True", "yes", "1", " true", "\x1b[31m"])
def test_another_word_does_not_suspend_and_is_said(value: str):
    rounds = Rounds(stream(tag(), suspend=value))
    assert why(rounds.round()) == {"latest": "source"}
    rounds.round(latest=resolved("a"))
    message = ready(rounds).message or ""
    assert 'is neither "true" nor "false"; imports are not suspended' in message
    assert message.isprintable()
    assert rounds.ready == ("True", "Imported")


DENIED = failed("Unauthorized", "quay.io wants a login", retryable=False)


def retried() -> Rounds:
    """A tag whose retry is under way."""
    rounds = Rounds(stream(tag()))
    rounds.round()
    again = rounds.round(latest=UNAVAILABLE).look_again
    assert again is not None
    rounds.wait(again)
    assert why(rounds.round()) == {"latest": "retry"}
    return rounds


def test_a_retry_that_was_under_way_is_made_when_the_suspension_ends():
    rounds = retried()
    rounds.suspend()
    rounds.wait(minutes(1))
    rounds.edit()
    assert why(rounds.round()) == {"latest": "hint"}
    rounds.round(latest=resolved("a"))
    assert rounds.ready == ("True", "Imported")


def test_a_hint_that_comes_during_a_suspension_is_kept():
    rounds = Rounds(stream(tag()))
    rounds.round()
    rounds.round(latest=DENIED)
    rounds.suspend()
    rounds.wait(minutes(1))
    assert why(rounds.round(hints=["latest", "unknown"])) == {}
    rounds.edit()
    assert why(rounds.round()) == {"latest": "hint"}


def test_what_was_put_off_when_imports_were_suspended_is_owed_no_more():
    rounds = imported()
    rounds.wait(INTERVAL)
    rounds.round()
    rounds.round(latest=deferred(rounds.now + 10 * INTERVAL))
    assert rounds.progress["latest"].unserved
    assert rounds.progress["latest"].late
    memory = withdrawn(rounds.progress)["latest"]
    assert (memory.unserved, memory.late) == (0, 0), "nobody waits for it: it must not look overdue, nor be asked again"


# --- a registry that is not of one mind -------------------------------------------------------------------------------


def flapping(*, scheduled: bool = False) -> Rounds:
    """A tag that went a, b, a, b, a and would go to b again, of which it went from last."""
    rounds = imported(tag(scheduled=scheduled), rules=ImportRules(interval=minutes(2)))
    for letter in "baba":
        rounds.wait(minutes(3))
        rounds.round(hints=["latest"])
        rounds.round(latest=resolved(letter))
    return rounds


def kept(rounds: Rounds) -> bool:
    outcome = rounds.status_tag().outcome
    return outcome is not None and outcome.reason == "Flapping"


def flap() -> Rounds:
    rounds = imported(tag())
    for letter in "bababababa":
        rounds.wait(minutes(1))
        rounds.round(hints=["latest"])
        rounds.round(latest=resolved(letter))
        if kept(rounds):
            return rounds
    pytest.fail("never kept")


def test_a_tag_that_returns_again_and_again_is_kept_at_what_it_has():
    rounds = flap()
    history = rounds.history()
    assert rounds.history() == ["b", "a", "b", "a"]
    assert rounds.ready == ("False", "ImportFailed")
    failures = [step for step in rounds.heard if isinstance(step, TagFailed)]
    assert [step.reason for step in failures] == ["Flapping"]
    assert digest("b") in failures[0].message
    assert "quay.io" in failures[0].message
    with rounds.unwritten():
        for letter in "aabbab":
            rounds.wait(minutes(1))
            rounds.round(hints=["latest"])
            rounds.round(latest=resolved(letter))
    assert rounds.history() == history


def test_a_tag_that_is_kept_is_asked_for_by_itself_and_follows_when_all_is_one():
    rounds = flap()
    rounds.take_heard()
    begin = rounds.now
    asked = 0
    while kept(rounds):
        again = rounds.round().look_again
        assert again is not None
        assert again - rounds.now == RULES.flap_window / 4
        poll(rounds, resolved("a"))
        asked += 1
        assert asked < 10
    assert rounds.now - begin >= RULES.flap_window
    assert rounds.history()[0] == "a"
    assert rounds.heard == [TagMoved("latest", pinned("b"), pinned("a"))]


def test_a_tag_that_settles_at_what_it_has_recovers():
    rounds = flap()
    rounds.take_heard()
    while kept(rounds):
        poll(rounds, resolved("b"))
    assert rounds.heard == [TagRecovered("latest")]


def test_a_restart_does_not_end_the_watch():
    rounds = flap()
    rounds.restart()
    again = rounds.round().look_again
    assert again is not None
    assert again - rounds.now <= RULES.flap_window / 4
    with rounds.unwritten():
        poll(rounds, resolved("a"))


def test_who_names_the_tag_in_a_request_gets_what_the_registry_has():
    rounds = flap()
    rounds.wait(minutes(1))
    rounds.edit(refresh="n1")
    rounds.round()
    rounds.round(latest=resolved("a"))
    assert kept(rounds), "a request for all means no tag in particular"
    rounds.wait(minutes(1))
    rounds.edit(refresh="n2 latest")
    rounds.round()
    rounds.round(latest=resolved("a"))
    assert (kept(rounds), rounds.history()[0]) == (False, "a")


def test_another_source_is_not_judged_by_the_history():
    rounds = flap()
    rounds.edit(tag(image=f"{REPOSITORY}:other"))
    rounds.round()
    rounds.round(latest=resolved("a"))
    assert (kept(rounds), rounds.history()[0]) == (False, "a")


def test_the_guard_can_be_switched_off():
    rounds = imported(tag(), rules=ImportRules(flap_window=timedelta()))
    for letter in "bababababa":
        rounds.wait(minutes(1))
        rounds.round(hints=["latest"])
        rounds.round(latest=resolved(letter))
    assert rounds.history()[0] == "a"


def test_what_is_new_is_never_kept_back():
    rounds = flap()
    rounds.take_heard()
    before = rounds.history()
    poll(rounds, resolved("c"))
    assert (rounds.history(), rounds.ready) == (["c", *before], ("True", "Imported"))
    assert rounds.take_heard() == [TagMoved("latest", pinned("b"), pinned("c"))]
    with rounds.unwritten():
        rounds.wait(minutes(1))
        rounds.round(hints=["latest"])
        rounds.round(latest=resolved("c"))
    for letter in "abca":
        rounds.wait(minutes(1))
        rounds.round(hints=["latest"])
        rounds.round(latest=resolved(letter))
        assert rounds.history()[0] == "c", "the stale ones go on"
    assert kept(rounds)
    assert [type(step) for step in rounds.heard] == [TagFailed], "said once"


def test_a_failure_in_between_does_not_end_the_watch():
    rounds = flap()
    history = rounds.history()
    for letter in "abababababab":  # longer than the window, so that the history alone would be forgotten
        rounds.wait(minutes(6))
        rounds.round(hints=["latest"])
        rounds.round(latest=resolved(letter))
    rounds.take_heard()
    rounds.wait(minutes(1))
    rounds.round(hints=["latest"])
    rounds.round(latest=UNAVAILABLE)
    for letter in "baba":
        rounds.wait(minutes(1))
        rounds.round(hints=["latest"])
        rounds.round(latest=resolved(letter))
        assert (rounds.history(), kept(rounds)) == (history, True)
    assert [step.reason for step in rounds.heard if isinstance(step, TagFailed)] == ["Unavailable", "Flapping"]
    assert len(rounds.heard) == 2


def test_who_names_the_tag_ends_the_watch():
    rounds = flap()
    rounds.wait(minutes(1))
    rounds.edit(refresh="n1 latest")
    rounds.round()
    rounds.round(latest=resolved("b"))
    assert (kept(rounds), rounds.progress["latest"].steady) == (False, None)


@pytest.mark.parametrize("indexes", ["ba", "bda", "bdea"])
def test_an_index_that_is_not_of_one_mind_is_not_written_each_time(indexes: str):
    rounds = Rounds(stream(tag(mode="Legacy", scheduled=True)))
    rounds.round()
    rounds.round(latest=resolved("a", child="c"))
    before, begin = rounds.writes, rounds.now
    for letter in indexes * 8:
        rounds.wait(minutes(5))
        rounds.round(hints=["latest"])
        rounds.round(latest=resolved(letter, child="c"))
    hours = (rounds.now - begin) / timedelta(hours=1)
    assert 1 <= rounds.writes - before <= hours + 1
    assert rounds.history() == ["c"]


def test_another_index_with_the_same_image_is_known_from_then_on():
    rounds = Rounds(stream(tag(mode="Legacy")))
    rounds.round()
    rounds.round(latest=resolved("a", child="c"))
    rounds.wait(minutes(1))
    rounds.round(hints=["latest"])
    rounds.round(latest=resolved("b", child="c"))
    rounds.wait(minutes(1))
    assert rounds.round(hints=["latest"]).due[0].known == Served(digest("b"), digest("c"))
    rounds.round(latest=resolved("a", child="d"))
    rounds.wait(minutes(1))
    assert rounds.round(hints=["latest"]).due[0].known == Served(digest("a"), digest("d")), "a move is always written"


# --- late -------------------------------------------------------------------------------------------------------------


def schedule(rounds: Rounds) -> tuple[str, str | None, str | None] | None:
    found = (rounds.stream.status or Status()).condition("OnSchedule")
    return (found.status, found.reason, found.message) if found else None


def late(rounds: Rounds) -> dict[str, int]:
    return overdue(rounds.progress, interval_of(rounds.stream, rounds.rules), rounds.now)


def run_to(rounds: Rounds, end: datetime, outcome: Any) -> None:
    """Rounds whenever the plan asks for one, with the same kind of answer to everything."""
    while True:
        names = list(rounds.pending)
        plan = rounds.round(**{name: outcome(rounds.now) for name in names})
        if rounds.pending:
            continue
        if plan.look_again is None or plan.look_again > end:
            return
        rounds.wait(plan.look_again)


def put_off_all(rounds: Rounds) -> None:
    """All hosts answer that they must not be asked for ten intervals, of which two pass."""
    rounds.wait(INTERVAL)
    rounds.round()
    rounds.round(**dict.fromkeys(list(rounds.pending), deferred(rounds.now + 10 * INTERVAL)))
    rounds.wait(2 * INTERVAL)
    rounds.round()


def test_a_host_that_puts_everything_off_is_overdue_after_a_whole_interval():
    rounds = imported()
    begin = slot_begin(NOW, REPOSITORY, INTERVAL) + int(INTERVAL.total_seconds())
    first = datetime.fromtimestamp(begin, UTC)
    put_off = lambda now: deferred(now + minutes(4))  # noqa: E731
    run_to(rounds, first + INTERVAL, put_off)
    assert (rounds.writes, schedule(rounds), late(rounds)) == (1, None, {})
    run_to(rounds, first + INTERVAL + seconds(2), put_off)
    assert schedule(rounds) == (
        "False",
        "Overdue",
        "tags at quay.io could not be looked up in time; their slot began more than an interval ago",
    )
    assert rounds.now <= first + INTERVAL + seconds(2)
    assert (rounds.writes, late(rounds)) == (2, {"quay.io": 1})
    with rounds.unwritten():
        run_to(rounds, first + 5 * INTERVAL, put_off)
    run_to(rounds, rounds.now + 2 * INTERVAL, lambda _: resolved("a"))
    assert schedule(rounds) == ("True", "OnTime", "all scheduled tags are looked up in time")
    assert (rounds.writes, late(rounds)) == (3, {})
    with rounds.unwritten():
        run_to(rounds, rounds.now + 3 * INTERVAL, lambda _: resolved("a"))


def test_a_question_that_is_never_answered_is_overdue_too():
    rounds = imported()
    rounds.wait(datetime.fromtimestamp(slot_begin(NOW, REPOSITORY, INTERVAL), UTC) + INTERVAL)
    assert why(rounds.round()) == {"latest": "slot"}
    plan = rounds.round()
    assert plan.look_again is not None
    rounds.wait(plan.look_again)
    rounds.round()
    assert schedule(rounds) is not None


def test_a_first_question_that_hangs_is_noticed_when_its_slots_pass():
    rounds = Rounds(stream(tag(scheduled=True)))
    for _ in range(4):
        plan = rounds.round()
        if schedule(rounds):
            break
        assert plan.look_again is not None
        rounds.wait(plan.look_again)
    assert schedule(rounds) is not None
    assert rounds.now - NOW <= 3 * INTERVAL


def test_a_slot_that_was_put_off_is_served_by_whatever_is_answered_next():
    rounds = imported()
    rounds.wait(slot_end(rounds))
    assert why(rounds.round()) == {"latest": "slot"}
    rounds.round(latest=deferred(rounds.now + minutes(1)))
    rounds.edit(interval="24h")  # in whose slots the present moment belongs to one that was served
    rounds.wait(minutes(1))
    assert why(rounds.round()) == {"latest": "retry"}
    assert rounds.pending["latest"].slot == 0
    rounds.round(latest=resolved("a"))
    assert rounds.progress["latest"].unserved == 0
    rounds.edit()
    assert why(rounds.round()) == {}, "it is not asked for twice in its slot"


def test_a_failed_answer_is_in_time():
    rounds = imported()
    run_to(rounds, rounds.now + 4 * INTERVAL, lambda _: NOT_FOUND)
    assert schedule(rounds) is None


def test_it_is_in_time_again_when_all_is():
    rounds = imported(tag("a", "quay.io/x:1", scheduled=True), tag("b", "ghcr.io/x:1", scheduled=True))
    put_off_all(rounds)
    assert (schedule(rounds) or ())[:2] == ("False", "Overdue")
    assert "ghcr.io, quay.io" in str(schedule(rounds))
    rounds.wait(10 * INTERVAL)
    assert set(why(rounds.round())) == {"a", "b"}
    rounds.round(a=resolved("a"))
    assert (schedule(rounds) or ())[:2] == ("False", "Overdue")
    rounds.round(b=resolved("a"))
    assert (schedule(rounds) or ())[:2] == ("True", "OnTime")


def test_a_restart_does_not_make_it_look_in_time():
    rounds = imported()
    run_to(rounds, rounds.now + 4 * INTERVAL, lambda now: deferred(now + minutes(4)))
    rounds.restart()
    with rounds.unwritten():
        assert why(rounds.round()) == {"latest": "slot"}
        rounds.round()
    rounds.round(latest=resolved("a"))
    assert (schedule(rounds) or ())[:2] == ("True", "OnTime")


def slot_end(rounds: Rounds) -> datetime:
    return datetime.fromtimestamp(slot_begin(rounds.now, REPOSITORY, INTERVAL), UTC) + INTERVAL


@pytest.mark.parametrize("is_new", [False, True])
@pytest.mark.parametrize("watermark", [None, NOW - INTERVAL])
def test_a_tag_is_not_late_for_what_was_before_it_was_polled(is_new: bool, watermark: datetime | None):
    rounds = imported(tag(), watermark=watermark)
    rounds.wait(slot_end(rounds) + INTERVAL - seconds(2))
    if is_new:
        rounds = Rounds(stream(tag(scheduled=True)), now=rounds.now, watermark=rounds.now - INTERVAL)
    else:
        rounds.edit(tag(scheduled=True))
    assert "latest" in why(rounds.round())
    begin = rounds.now
    rounds.wait(seconds(5))
    rounds.round()
    assert (schedule(rounds), late(rounds)) == (None, {})
    rounds.wait(begin + INTERVAL)
    rounds.round()
    assert schedule(rounds) is None
    rounds.wait(seconds(2))
    rounds.round()
    assert (schedule(rounds) or ())[:2] == ("False", "Overdue")


def test_a_tag_is_not_late_for_what_was_while_it_was_suspended():
    rounds = imported()
    rounds.suspend()
    rounds.wait(slot_end(rounds) + 5 * INTERVAL - seconds(2))
    rounds.edit()
    assert why(rounds.round()) == {"latest": "slot"}
    rounds.wait(seconds(5))
    rounds.round()
    assert (schedule(rounds), late(rounds)) == (None, {})


def test_what_an_earlier_process_left_undone_is_as_late_as_its_slot():
    rounds = imported(tag(scheduled=True))
    end = slot_end(rounds)
    rounds.wait(end + INTERVAL - seconds(2))
    rounds.restart()
    rounds.watermark = end
    assert why(rounds.round()) == {"latest": "slot"}
    rounds.wait(seconds(5))
    rounds.round()
    assert (schedule(rounds) or ())[:2] == ("False", "Overdue")


def test_it_is_in_time_again_although_there_is_always_somebody_who_waits():
    """Of two repositories each is answered in time, and never both are at rest."""
    minute = minutes(1)

    def phase(repository: str) -> int:
        return slot_begin(NOW, repository, minute) % 60

    repositories = [f"h{number}.example/x" for number in range(200)]
    first = min(repositories, key=phase)
    second = min(repositories, key=lambda each: abs(phase(each) - phase(first) - 30))
    tags = [tag("a", f"{first}:1", scheduled=True), tag("b", f"{second}:1", scheduled=True)]
    rounds = imported(*tags, rules=ImportRules(interval=minute))
    begun: dict[str, datetime] = {}

    def run(time: timedelta, latency: timedelta) -> None:
        end = rounds.now + time
        while rounds.now < end:
            ripe = [name for name in rounds.pending if rounds.now - begun.setdefault(name, rounds.now) >= latency]
            rounds.round(**{name: resolved("a") for name in ripe if begun.pop(name)})
            rounds.wait(seconds(1))

    run(minutes(4), latency=seconds(150))
    assert (schedule(rounds) or ())[:2] == ("False", "Overdue")
    run(minutes(4), latency=seconds(35))
    assert (schedule(rounds) or ())[:2] == ("True", "OnTime")


def test_a_tag_that_is_not_polled_any_more_is_not_late():
    rounds = imported()
    run_to(rounds, rounds.now + 4 * INTERVAL, lambda now: deferred(now + minutes(4)))
    rounds.edit(tag())
    rounds.round()
    rounds.round()
    assert (late(rounds), (schedule(rounds) or ())[:2]) == ({}, ("True", "OnTime"))


def test_the_hosts_that_are_named_are_few():
    tags = [tag(f"t{n}", f"host{n}.example/x:1", scheduled=True) for n in range(9)]
    rounds = imported(*tags)
    put_off_all(rounds)
    assert "host0.example, host1.example, host2.example, host3.example, host4.example and others" in str(
        schedule(rounds)
    )


# --- places -----------------------------------------------------------------------------------------------------------

MINE = Credential("mine", "secret", "mirror-secret")
THEIRS = Credential("theirs", "secret", "quay-secret")
ENTRIES = (Entry("mirror.example", "", MINE), Entry("quay.io", "", THEIRS))


def mirrored(**fields: Any) -> ImportRules:
    rule = MirrorRule("quay.io/acme", (Mirror("mirror.example/quay/acme"),), **fields)
    return ImportRules(policy=Policy(hosts={}, mirrors=(rule,)))


def places(question: Any) -> list[Any]:
    found = []
    while question is not None:
        found.append(question)
        question = question.fallback
    return found


def test_each_place_is_asked_with_its_own_credentials():
    rounds = Rounds(stream(tag(insecure=True), repository=REPOSITORY), rules=mirrored(), entries=ENTRIES)
    rounds.round()
    mirror, origin = places(rounds.pending["latest"].question)
    assert isinstance(mirror, Lookup)
    assert (str(mirror.reference), mirror.credentials, mirror.transport.insecure) == (
        "mirror.example/quay/acme/app:latest",
        (MINE,),
        False,
    )
    assert mirror.transport.credentials
    assert (str(origin.reference), origin.transport.credentials) == (IMAGE, False), "a tag's own insecure carries none"
    assert {str(place.recorded) for place in (mirror, origin)} == {IMAGE}
    listing, fallback = places(rounds.pending[""].question)
    assert isinstance(listing, Listing)
    assert (listing.reference.host, listing.credentials) == ("mirror.example", (MINE,))
    assert (fallback.reference.host, fallback.credentials) == ("quay.io", (THEIRS,))
    rounds.round(listing=listed("1"))
    assert [str(place.reference) for place in places(rounds.pending["1"].question)] == [
        "mirror.example/quay/acme/app:1",
        f"{REPOSITORY}:1",
    ]


def test_an_image_is_recorded_by_the_name_that_the_place_says():
    rounds = Rounds(stream(tag()), rules=mirrored(records_mirror=True))
    rounds.round()
    rounds.round(latest=resolved("a", recorded="mirror.example/quay/acme/app:latest"))
    assert rounds.heard == [TagMoved("latest", "", pinned("a", "mirror.example/quay/acme/app"))]


@pytest.mark.parametrize("name", ["mirror.example/quay/acme/app", REPOSITORY])
def test_an_item_that_any_place_wrote_is_known_and_another_name_for_it_is_no_move(name: str):
    rounds = Rounds(stream(tag()), rules=mirrored(records_mirror=True))
    rounds.round()
    rounds.round(latest=resolved("a", recorded=name))
    created = rounds.status_tag().newest.created  # type: ignore[union-attr]
    rounds.take_heard()
    rounds.wait(minutes(1))
    plan = rounds.round(hints=["latest"])
    assert plan.due[0].known == Served(digest("a"), digest("a"))
    other = REPOSITORY if name != REPOSITORY else "mirror.example/quay/acme/app"
    rounds.round(latest=resolved("a", recorded=other))
    newest = rounds.status_tag().newest
    assert newest is not None
    assert (newest.docker_image_reference, newest.created) == (pinned("a", other), created)
    assert (rounds.heard, rounds.history()) == ([], ["a"])


def test_a_name_that_no_place_writes_is_not_known():
    rounds = Rounds(stream(tag()), rules=mirrored(records_mirror=True))
    rounds.round()
    rounds.round(latest=resolved("a", recorded="elsewhere.example/app"))
    rounds.wait(minutes(1))
    assert rounds.round(hints=["latest"]).due[0].known is None


# --- other rules at run time ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("image", ["docker.io/library/nginx", "quay.io/banned/x"])
def test_what_the_rules_allow_by_now_is_asked_for_without_a_restart(image: str):
    refusing = ImportRules(policy=Policy(hosts={}, allowed=("quay.io",), blocked=("quay.io/banned",)))
    rounds = Rounds(stream(tag("x", image), tag()), rules=refusing)
    rounds.round()
    rounds.round(latest=resolved("a"))
    rounds.wait(minutes(60))
    rounds.use(RULES)
    again = rounds.round().look_again
    assert again is not None
    assert again - rounds.now <= RULES.retry_base
    rounds.wait(again)
    assert why(rounds.round()) == {"x": "retry"}
    rounds.round(x=resolved("a"))
    assert rounds.ready == ("True", "Imported")


def test_what_the_rules_forbid_by_now_is_said_and_keeps_its_image():
    rounds = imported()
    rounds.rules = ImportRules(policy=Policy(hosts={}, blocked=("quay.io",)))
    rounds.round()
    assert [step.reason for step in rounds.heard if isinstance(step, TagFailed)] == ["Blocked"]
    assert rounds.history() == ["a"]
    rounds.wait(INTERVAL * 2)
    assert why(rounds.round()) == {}


def test_a_retry_under_way_is_made_by_the_new_rules():
    rounds = retried()
    rounds.use(ImportRules(policy=Policy(hosts={"ghcr.io": HostRule(insecure=True)})))
    assert why(rounds.round()) == {"latest": "hint"}


def test_a_listing_under_way_is_retried_by_the_new_rules():
    rounds = Rounds(stream(repository=REPOSITORY))
    rounds.round()
    again = rounds.round(listing=UNAVAILABLE).look_again
    assert again is not None
    rounds.wait(again)
    rounds.round()
    rounds.use(ImportRules(policy=Policy(hosts={"ghcr.io": HostRule(insecure=True)})))
    assert why(rounds.round()) == {"": "hint"}


@pytest.mark.parametrize("is_repository", [False, True])
@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize(
    ("outcome", "is_asked"),
    [
        pytest.param(failed("Refused", "quay.io is at a loopback address", retryable=False), True, id="by its address"),
        pytest.param(failed("Blocked", "blocked", retryable=False), True, id="by a policy"),
        pytest.param(DENIED, True, id="denied"),
        pytest.param(failed("Forbidden", "no", retryable=False), True, id="forbidden"),
        pytest.param(NOT_FOUND, False, id="not found"),
        pytest.param(resolved("a"), False, id="imported"),
    ],
)
def test_new_rules_ask_again_for_what_the_old_ones_may_have_refused(
    outcome: Any, is_asked: bool, restarts: bool, is_repository: bool
):
    name = "1" if is_repository else "latest"
    rounds = Rounds(stream(repository=REPOSITORY) if is_repository else stream(tag()))
    rounds.round()
    if is_repository:
        rounds.round(listing=listed("1"))
    rounds.round(**{name: outcome})
    if restarts:
        rounds.restart()
        rounds.round()
    rounds.wait(minutes(1))
    rounds.use(ImportRules(policy=Policy(hosts={"quay.io": HostRule(internal=True)})))
    assert (name in why(rounds.round())) == is_asked


def test_new_rules_list_again_what_the_old_ones_may_have_refused():
    rounds = Rounds(stream(repository=REPOSITORY))
    rounds.round()
    rounds.round(listing=DENIED)
    rounds.wait(minutes(1))
    rounds.use(RULES)
    assert why(rounds.round()) == {"": "hint"}


def test_new_rules_end_what_was_put_off_by_the_old_ones():
    rounds = Rounds(stream(tag()))
    rounds.round()
    rounds.round(latest=deferred(rounds.now + minutes(360)))
    rounds.use(RULES)
    assert "latest" in why(rounds.round())


# --- size, and the order of answers -----------------------------------------------------------------------------------


def test_six_hundred_tags_with_full_histories_fit_the_budget():
    letters = "0123456789"
    tags = [tag(f"tag-{n:03}", f"registry.example.com/some/team/application-{n:03}:stable") for n in range(600)]

    def recorded(each: Any) -> StatusTag:
        repository = each.from_.name.removesuffix(":stable")
        items = tuple(
            TagEvent(
                created=NOW - minutes(position),
                docker_image_reference=pinned(letter, repository),
                image=digest(letter),
                generation=position,
            )
            for position, letter in enumerate(letters)
        )
        reference = ObjectReference(kind="DockerImage", name=each.from_.name)
        return StatusTag(
            tag=each.name,
            items=items,
            conditions=(
                TagCondition(type="ImportSuccess", status="True", reason="Imported", last_transition_time=NOW),
            ),
            observed=Observed(from_=reference, import_mode="PreserveOriginal", generation=1, digest=digest("0")),
        )

    full = stream(*tags, status=Status(tags=tuple(recorded(each) for each in tags)))
    assert len(encode(full)) > 1_500_000, "as it is, etcd would not take it"
    update = merge_status(full, (), {}, now=NOW, rules=RULES)
    assert update.stream.status is not None
    assert len(encode_status_patch(full, update.stream.status)) < RULES.status_budget + 4096
    kept = update.stream.status.tags or ()
    assert [each.tag for each in kept] == [each.name for each in tags]
    assert [each.newest for each in kept] == [recorded(each).newest for each in tags]
    assert not merge_status(update.stream, (), {}, now=NOW + minutes(5), rules=RULES).is_changed


@pytest.mark.parametrize("order", list(permutations("abcd")))
def test_the_order_in_which_answers_arrive_does_not_matter(order: tuple[str, ...]):
    def begun() -> Rounds:
        rounds = Rounds(
            stream(
                tag("a"),
                tag("b", "nginx"),
                tag("c", mode="Legacy"),
                tag("d", "quay.io/x:1", scheduled=True),
                follower("e", "a"),
                follower("f", "e"),
                tag("g", "aaa", kind="ImageStreamImage"),
                refresh="n1",
            )
        )
        rounds.round()
        return rounds

    outcomes = {"a": resolved("a"), "b": UNAVAILABLE, "c": resolved("c", child="d"), "d": NOT_FOUND}
    at_once, one_by_one = begun(), begun()
    at_once.round(**outcomes)
    for name in order:
        one_by_one.round(**{name: outcomes[name]})
    assert one_by_one.stream.status == at_once.stream.status


_answers = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from([resolved("a"), resolved("b"), UNAVAILABLE, NOT_FOUND])),
    max_size=12,
)


@settings(max_examples=150, deadline=None)
@given(_answers, st.integers(0, 100_000))
def test_history_never_repeats_its_head_and_is_never_lost(answers: list[Any], between: int):
    rounds = Rounds(stream(*(tag(name, f"{REPOSITORY}:{name}") for name in "abc")))
    for name, outcome in answers:
        rounds.round(hints="abc")
        before = rounds.stream.status_tag(name)
        if name in rounds.pending:
            rounds.round(**{name: outcome})
        found = rounds.stream.status_tag(name)
        for newer, older in zip((found and found.items) or (), ((found and found.items) or ())[1:], strict=False):
            assert newer.image != older.image
        if before and before.items and found:
            assert (found.items or ())[-len(before.items) :] == before.items[: RULES.history_limit]
        rounds.wait(seconds(between))


def test_a_stream_that_was_created_again_gets_no_answer_of_the_first():
    rounds = Rounds(stream(tag(), repository=REPOSITORY))
    rounds.round()
    arrived = [answer(rounds.pending["latest"], resolved("a")), answer(rounds.pending[""], listed("1"))]
    again = stream(tag(), repository=REPOSITORY, uid="uid-2")
    update = merge_status(again, arrived, {}, now=NOW, rules=RULES)
    assert (update.is_changed, update.progress, update.transitions) == (False, {}, ())


def test_a_status_with_everything_is_read_back():
    rounds = Rounds(stream(tag(scheduled=True), repository=REPOSITORY))
    rounds.round()
    rounds.round(latest=resolved("a"), listing=listed("1", found=3))
    rounds.answer_all(resolved("a"))
    assert decode(encode(rounds.stream)) == rounds.stream
