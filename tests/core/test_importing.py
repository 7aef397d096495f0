"""Importing, decided: what is due, what is asked, and what an answer makes of the status."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagestreams.core.importing import plan_import, retry_delay, slot_begin
from imagestreams.core.keychain import Credential, Entry
from imagestreams.core.lookup import Deferred, Failed, ImportMode, Outcome, Served
from imagestreams.core.manifest import Platform
from imagestreams.core.merging import TagFailed, TagMoved, TagRecovered, merge_status, record_event
from imagestreams.core.policy import HostRule, Policy, Transport
from imagestreams.core.reference import ImageReference
from imagestreams.core.stream import (
    Condition,
    Handled,
    ImageStream,
    Istag,
    ObjectReference,
    Observed,
    Status,
    StatusTag,
    TagCondition,
    TagEvent,
    TagReference,
    encode,
)
from imagestreams.core.wish import (
    AskRegistry,
    FindImage,
    FollowTag,
    ImportRules,
    RecordReference,
    Refuse,
    Request,
    Wishes,
    interval_of,
    open_refresh,
    parse_request,
    wanted_of,
    wish_of,
)
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
    edited,
    failed,
    follower,
    minutes,
    pinned,
    pushed,
    resolved,
    seconds,
    source,
    stored,
    stream,
    tag,
    why,
)

RULES = ImportRules()
INTERVAL = RULES.interval


# --- what is remembered of what a spec wants ---


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tags whose wishes are worked out from now on."""
    found: list[str] = []

    def noted(present: ImageStream, each: TagReference, rules: ImportRules) -> Any:
        found.append(each.name)
        return wish_of(present, each, rules)

    monkeypatch.setattr("imagestreams.core.wish.wish_of", noted)
    return found


MANY = [tag(f"t{number}", f"quay.io/acme/app:{number}") for number in range(20)]


def test_what_a_tag_wants_is_worked_out_once(monkeypatch: pytest.MonkeyPatch):
    worked = counted(monkeypatch)
    wishes, rules, present = Wishes(), ImportRules(), stream(*MANY)
    first = wanted_of(present, rules, wishes=wishes)
    assert worked == [each.name for each in MANY]
    again = stored(present, Status(observed_generation=1))  # read back, so that no object is the same
    other_budget = replace(rules, status_budget=5)
    assert wanted_of(again, other_budget, wishes=wishes) == first == wanted_of(present, rules)
    assert worked == [each.name for each in MANY] * 2, "once for each that remembers"


def test_what_is_another_is_worked_out_anew(monkeypatch: pytest.MonkeyPatch):
    wishes, rules, present = Wishes(), ImportRules(), stream(*MANY)
    wishes.of(present, rules)
    changed = edited(present, tag("t0", "quay.io/acme/other:1"), *MANY[2:], follower("t1", "t0"))
    worked = counted(monkeypatch)
    assert wishes.of(changed, rules) == Wishes().of(changed, rules)
    assert worked[:2] == ["t0", "t1"]
    assert len(worked) == 2 + len(MANY)
    assert len(wishes._known) == len(MANY), "no more than spec has"
    assert wishes.of(stream(), rules) == {}
    assert wishes._known == {}


@pytest.mark.parametrize(
    "rules",
    [
        pytest.param(ImportRules(policy=Policy(hosts={}, blocked=("quay.io",))), id="policy"),
        pytest.param(ImportRules(import_mode=ImportMode.LEGACY), id="mode"),
    ],
)
def test_other_rules_want_otherwise(rules: ImportRules):
    wishes, present, before = Wishes(), stream(tag()), ImportRules()
    policy_before = replace(rules, policy=before.policy) if rules.import_mode is ImportMode.LEGACY else rules
    first = wishes.of(present, before)
    assert wishes.of(present, policy_before) == Wishes().of(present, policy_before) != first
    assert wishes.of(present, before) == first


def test_another_stream_wants_otherwise():
    """The same spec in another stream names other tags."""
    wishes, spec = Wishes(), [follower("latest", "app:1")]
    wishes.of(stream(*spec), RULES)
    other = stream(*spec, name="web")
    assert wishes.of(other, RULES) == Wishes().of(other, RULES)


# --- what a spec tag wants --------------------------------------------------------------------------------------------

RESTRICTED = ImportRules(policy=Policy(hosts={}, allowed=("quay.io",), blocked=("quay.io/banned",)))


@pytest.mark.parametrize(
    ("wanted", "wish", "reason"),
    [
        pytest.param(tag(), AskRegistry, "", id="an image"),
        pytest.param(tag(image="nginx"), AskRegistry, "", id="a short name"),
        pytest.param(tag(image=pinned("a")), AskRegistry, "", id="by digest"),
        pytest.param(tag(reference=True), RecordReference, "", id="a reference"),
        pytest.param(
            tag(image="quay.io/banned/x", reference=True), RecordReference, "", id="a reference is not asked for"
        ),
        pytest.param(pushed("x"), type(None), "", id="fed by pushes"),
        pytest.param(follower("x", "stable"), FollowTag, "", id="own tag"),
        pytest.param(follower("x", "app:stable"), FollowTag, "", id="own tag, stream named"),
        pytest.param(follower("x", "app:stable", namespace="team"), FollowTag, "", id="own tag, namespace named"),
        pytest.param(follower("x", "web:stable"), FollowTag, "", id="another stream's tag"),
        pytest.param(follower("x", "stable", namespace="other"), FollowTag, "", id="another namespace's tag"),
        pytest.param(follower("x", ":stable"), Refuse, "InvalidSource", id="a nameless stream's tag"),
        pytest.param(follower("x", ""), Refuse, "InvalidSource", id="a nameless tag"),
        pytest.param(follower("x", "web:stable:x"), Refuse, "InvalidSource", id="two colons"),
        pytest.param(follower("x", "team/web:stable"), Refuse, "InvalidSource", id="a namespace in the name"),
        pytest.param(follower("x", "web:no tag"), Refuse, "InvalidSource", id="a tag that is none"),
        pytest.param(tag(image="app@a1b2", kind="ImageStreamImage"), FindImage, "", id="an image by its begin"),
        pytest.param(tag(image="a1b2", kind="ImageStreamImage"), FindImage, "", id="an image of this stream"),
        pytest.param(tag(image=f"app@{digest('a')}", kind="ImageStreamImage"), FindImage, "", id="an image"),
        pytest.param(tag(image="app@sha256:", kind="ImageStreamImage"), Refuse, "InvalidSource", id="no digits"),
        pytest.param(tag(image="app@A1B2", kind="ImageStreamImage"), Refuse, "InvalidSource", id="upper case"),
        pytest.param(tag(image="@a1b2", kind="ImageStreamImage"), Refuse, "InvalidSource", id="a nameless stream"),
        pytest.param(tag(image="a@b@c", kind="ImageStreamImage"), Refuse, "InvalidSource", id="two ats"),
        pytest.param(tag(image="", kind="ImageStreamImage"), Refuse, "InvalidSource", id="a nameless image"),
        pytest.param(tag(kind="ImageTag"), Refuse, "InvalidSource", id="another kind"),
        pytest.param(tag(kind=""), Refuse, "InvalidSource", id="no kind"),
        pytest.param(tag(image="https://quay.io/x"), Refuse, "InvalidImageReference", id="no reference"),
        pytest.param(tag(image="quay.io"), Refuse, "InvalidImageReference", id="a registry"),
        pytest.param(tag(image="quay.io", reference=True), Refuse, "InvalidImageReference", id="a registry, reference"),
        pytest.param(
            tag(mode="Legacy", platform=("linux", "a rm")), Refuse, "InvalidPlatform", id="a platform that is none"
        ),
    ],
)
def test_wish_of(wanted: TagReference, wish: type, reason: str):
    found = wish_of(stream(wanted), wanted, RULES)
    assert type(found) is wish
    assert getattr(found, "reason", "") == reason


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        pytest.param("quay.io/acme/app", "", id="allowed"),
        pytest.param("docker.io/library/nginx", "NotAllowed", id="not allowed"),
        pytest.param("quay.io/banned/app", "Blocked", id="blocked"),
    ],
)
def test_policy_decides_whom_to_ask(image: str, reason: str):
    wanted = tag(image=image)
    assert getattr(wish_of(stream(wanted), wanted, RESTRICTED), "reason", "") == reason


def test_a_tag_that_names_only_its_stream_follows_latest():
    wish = wish_of(stream(), follower("x", "app:"), RULES)
    assert isinstance(wish, FollowTag)
    assert wish.followed == Istag("team", "app", "latest")


def test_what_is_refused_is_quoted_fit_for_a_condition():
    wanted = follower("x", "w:e:b:\x1b[31m" + "x" * 500)
    wish = wish_of(stream(wanted), wanted, RULES)
    assert isinstance(wish, Refuse)
    assert wish.message.isprintable()
    assert len(wish.message) < 300


# --- what an answer makes of a history --------------------------------------------------------------------------------


def event(letter: str = "", repository: str = REPOSITORY, generation: int | None = 1, at: datetime = NOW) -> TagEvent:
    """An item; without a letter that of a reference tag."""
    if not letter:
        return TagEvent(created=at, docker_image_reference=repository, image="", generation=generation)
    return TagEvent(
        created=at, docker_image_reference=pinned(letter, repository), image=digest(letter), generation=generation
    )


LATER = NOW + minutes(5)
MIRROR = "mirror.example/app"
OLDEST = event("0")
TEXT_A = TagEvent(created=NOW, docker_image_reference="quay.io/acme/app:a", image=digest("a"), generation=1)
TEXT_B = TagEvent(created=LATER, docker_image_reference="quay.io/acme/app:a", image=digest("b"), generation=1)


@pytest.mark.parametrize(
    ("newest", "found", "newest_after", "is_moved"),
    [
        pytest.param(None, event("a"), event("a"), True, id="no history"),
        pytest.param(event("a"), event("a", at=LATER), event("a"), False, id="same ref, image and generation"),
        pytest.param(
            event("a"),
            event("a", generation=3, at=LATER),
            event("a", generation=3),
            False,
            id="older generation: rewritten, the date kept",
        ),
        pytest.param(
            event("a", generation=None),
            event("a", at=LATER),
            event("a"),
            False,
            id="no generation: rewritten, the date kept",
        ),
        pytest.param(
            event("a", generation=7),
            event("a", at=LATER),
            event("a", generation=7),
            False,
            id="newer generation (restored from elsewhere): kept",
        ),
        pytest.param(
            TEXT_A,
            TEXT_B,
            TagEvent(created=NOW, docker_image_reference="quay.io/acme/app:a", image=digest("b"), generation=1),
            False,
            id="same ref, other image: corrected in place",
        ),
        pytest.param(
            event("a"),
            event("a", MIRROR, at=LATER),
            event("a", MIRROR),
            False,
            id="other ref, same image: corrected in place",
        ),
        pytest.param(event("a"), event("b", at=LATER), event("b", at=LATER), True, id="both differ: moved"),
        pytest.param(
            event(), event("", "quay.io/acme/other", at=LATER), event("", "quay.io/acme/other", at=LATER), True,
            id="a reference tag has no image to be the same",
        ),
        pytest.param(event(), event(at=LATER), event(), False, id="the same reference"),
        pytest.param(event(), event("a", at=LATER), event("a", at=LATER), True, id="from a reference to an image"),
    ],
)  # fmt: skip
def test_record_event(newest: TagEvent | None, found: TagEvent, newest_after: TagEvent, is_moved: bool):
    before = () if newest is None else (newest, OLDEST)
    items, moved = record_event(before, found)
    assert items[0] == newest_after
    assert moved == is_moved
    assert items[1:] == (before if is_moved else before[1:])


def test_null_and_empty_image_are_the_same():
    before = (TagEvent(created=NOW, docker_image_reference=REPOSITORY, image=None, generation=1),)
    assert record_event(before, event(at=LATER)) == (before, False)


# --- requests ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "request_"),
    [
        pytest.param(None, None, id="none"),
        pytest.param("", None, id="empty"),
        pytest.param("  ", None, id="blank"),
        pytest.param("n1", Request("n1", frozenset()), id="all"),
        pytest.param("n1 latest", Request("n1 latest", frozenset({"latest"})), id="one"),
        pytest.param(" n1  a\tb a\n", Request(" n1  a\tb a\n", frozenset({"a", "b"})), id="some"),
    ],
)
def test_parse_request(value: str | None, request_: Request | None):
    assert parse_request(value) == request_


@pytest.mark.parametrize(
    ("annotation", "handled", "is_open"),
    [
        pytest.param("n1", None, True, id="never handled"),
        pytest.param("n1", Handled(), True, id="nothing handled"),
        pytest.param("n1", Handled(refresh="n0"), True, id="another handled"),
        pytest.param("n1", Handled(refresh="n1"), False, id="handled"),
        pytest.param("n1 latest", Handled(refresh="n1"), True, id="the whole text counts"),
        pytest.param(None, Handled(refresh="n1"), False, id="withdrawn"),
    ],
)
def test_a_request_is_open_until_it_is_handled(annotation: str | None, handled: Handled | None, is_open: bool):
    assert (open_refresh(stream(refresh=annotation, status=Status(handled=handled))) is not None) == is_open


def test_a_request_names_its_tags_or_all():
    assert Request("n1", frozenset()).names("any")
    assert Request("n1 a", frozenset("a")).names("a")
    assert not Request("n1 a", frozenset("a")).names("b")


# --- time -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "interval"),
    [
        pytest.param(None, INTERVAL, id="not set"),
        pytest.param("", INTERVAL, id="empty"),
        pytest.param("1h30m", timedelta(hours=1, minutes=30), id="hours and minutes"),
        pytest.param("2h5m10s", timedelta(hours=2, minutes=5, seconds=10), id="all"),
        pytest.param("90m", timedelta(minutes=90), id="minutes"),
        pytest.param("1m", timedelta(minutes=1), id="the floor"),
        pytest.param("59s", timedelta(minutes=1), id="below the floor"),
        pytest.param("0s", timedelta(minutes=1), id="nothing"),
        pytest.param("15", INTERVAL, id="no unit"),
        pytest.param("1d", INTERVAL, id="no such unit"),
        pytest.param("-5m", INTERVAL, id="negative"),
        pytest.param("1.5h", timedelta(minutes=90), id="a fraction"),
        pytest.param(" 5m", INTERVAL, id="a space"),
        pytest.param("5m\n", INTERVAL, id="a line break"),
        pytest.param("٥m", INTERVAL, id="digits of another script"),
        pytest.param("30s1h", INTERVAL, id="wrong order"),
        pytest.param("9999999999999999999m", INTERVAL, id="too long"),
        pytest.param("999999999999999999m", INTERVAL, id="more than time can be"),
        pytest.param("99999999h", timedelta(days=365), id="too many hours"),
    ],
)
def test_interval_of(text: str | None, interval: timedelta):
    assert interval_of(stream(interval=text), RULES) == interval


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("1h", "", id="good"),
        pytest.param("daily", '"daily" is no duration; write a number with a unit', id="nonsense"),
        pytest.param("1s", "is below the floor; 1m is used", id="too short"),
    ],
)
def test_an_interval_that_is_not_taken_is_said_in_ready(text: str, words: str):
    update = merge_status(stream(interval=text), (), {}, now=NOW, rules=RULES)
    status = update.stream.status
    assert status is not None
    assert status.ready is not None
    message = status.ready.message
    assert words in message
    assert ("annotation" in message) is bool(words)


@given(st.text(alphabet="0123456789hms.- ", max_size=25))
def test_no_interval_annotation_breaks_a_stream(text: str):
    assert RULES.min_interval <= interval_of(stream(interval=text), RULES) <= timedelta(days=365)


_moments = st.datetimes(min_value=datetime(2020, 1, 1), max_value=datetime(2040, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
_intervals = st.integers(60, 90_000).map(seconds)


@given(_moments, st.text(max_size=20), _intervals)
def test_a_moment_lies_in_its_slot(now: datetime, repository: str, interval: timedelta):
    begin = slot_begin(now, repository, interval)
    assert begin <= now.timestamp() < begin + interval.total_seconds()


@given(_moments, st.text(max_size=20), _intervals)
def test_the_first_instant_of_a_slot_belongs_to_it(now: datetime, repository: str, interval: timedelta):
    begin = slot_begin(now, repository, interval)
    first = datetime.fromtimestamp(begin, UTC)
    assert slot_begin(first, repository, interval) == begin
    assert slot_begin(first - seconds(0.001), repository, interval) == begin - int(interval.total_seconds())
    assert slot_begin(first + interval, repository, interval) == begin + int(interval.total_seconds())


def test_slots_are_the_same_in_every_process():
    assert slot_begin(NOW, REPOSITORY, INTERVAL) == 1772366212


def test_repositories_spread_over_the_interval():
    quarters = Counter(
        int((NOW.timestamp() - slot_begin(NOW, f"quay.io/acme/app-{number}", INTERVAL)) // 225)
        for number in range(1000)
    )
    assert sum(quarters.values()) == 1000
    assert all(quarters[quarter] > 200 for quarter in range(4))


@pytest.mark.parametrize(
    ("failures", "at_most"),
    [(0, 10), (1, 10), (2, 20), (3, 40), (6, 320), (7, 640), (8, 900), (9, 900), (1000, 900)],
)
def test_retries_double_up_to_the_cap(failures: int, at_most: int):
    delays = [retry_delay(failures, RULES, f"uid/{number}") for number in range(100)]
    assert max(delays) <= seconds(at_most)
    assert min(delays) >= seconds(at_most * 0.8)
    assert len(set(delays)) > 50, "spread, so that streams do not march in step"


# --- a stream's first round -------------------------------------------------------------------------------------------


def test_a_new_stream_is_asked_for_at_once_and_nothing_is_written():
    rounds = Rounds(stream(tag("a"), tag("b", "nginx"), pushed("c")))
    plan = rounds.round()
    assert why(plan) == {"a": "source", "b": "source"}
    assert plan.look_again is None
    assert rounds.writes == 0


def test_the_first_image():
    rounds = Rounds(stream(tag(scheduled=True), generation=4))
    rounds.round()
    rounds.round(latest=resolved("a"))
    assert rounds.stream.status == Status(
        observed_generation=4,
        conditions=(
            Condition(
                type="Ready",
                status="True",
                reason="Imported",
                message="all tags with a source are imported: latest",
                last_transition_time=NOW,
                observed_generation=4,
            ),
        ),
        tags=(
            StatusTag(
                tag="latest",
                items=(TagEvent(created=NOW, docker_image_reference=pinned("a"), image=digest("a"), generation=4),),
                conditions=(
                    TagCondition(
                        type="ImportSuccess", status="True", reason="Imported", last_transition_time=NOW, generation=4
                    ),
                ),
                observed=Observed(
                    from_=ObjectReference(kind="DockerImage", name=IMAGE),
                    import_mode="PreserveOriginal",
                    generation=4,
                    digest=digest("a"),
                ),
            ),
        ),
        summary=rounds.stream.status.summary if rounds.stream.status else None,
    )
    assert rounds.heard == [TagMoved("latest", "", pinned("a"))]
    assert (rounds.writes, rounds.ready) == (1, ("True", "Imported"))


def test_the_users_spelling_is_kept():
    rounds = Rounds(stream(tag(image="nginx:1.27")))
    rounds.round()
    rounds.round(latest=resolved("a"))
    assert rounds.heard == [TagMoved("latest", "", f"nginx@{digest('a')}")]


def test_what_has_arrived_is_written_while_others_are_awaited():
    rounds = Rounds(stream(tag("a"), tag("b")))
    rounds.round()
    rounds.round(a=resolved("a"))
    assert (rounds.writes, rounds.ready) == (1, ("False", "Importing"))
    rounds.round(b=resolved("b"))
    assert (rounds.writes, rounds.ready) == (2, ("True", "Imported"))


def test_one_bad_tag_never_holds_up_its_siblings():
    bad = tag("bad", mode="Legacy", platform=("no", "such platform"))
    rounds = Rounds(stream(bad, tag("worse", "::"), tag("good")))
    assert why(rounds.round()) == {"good": "source"}
    rounds.round(good=resolved("a"))
    assert rounds.history("good") == ["a"]
    assert {transition.reason for transition in rounds.heard if isinstance(transition, TagFailed)} == {
        "InvalidPlatform",
        "InvalidImageReference",
    }


# --- nothing happens --------------------------------------------------------------------------------------------------


def imported(*tags: TagReference, **kwargs: Any) -> Rounds:
    """A stream whose tags were all imported as `a`."""
    rounds = Rounds(stream(*(tags or (tag(scheduled=True),))), **kwargs)
    rounds.round()
    rounds.round(**{name.replace("-", "_"): resolved("a") for name in list(rounds.pending)})
    assert rounds.ready[0] == "True"
    rounds.take_heard()
    return rounds


def poll(rounds: Rounds) -> None:
    """Ask for the present slot, if that was not done, or go to the next."""
    plan = rounds.round()
    if not plan.due:
        assert plan.look_again is not None
        rounds.wait(plan.look_again)
        plan = rounds.round()
    assert "slot" in why(plan).values()


def test_an_unchanged_tag_writes_nothing():
    rounds = imported()
    with rounds.unwritten():
        for _ in range(3):
            poll(rounds)
            assert why(rounds.round(latest=resolved("a"))) == {}


def test_a_new_generation_alone_writes_no_tag():
    rounds = imported()
    before = rounds.status_tag()
    rounds.edit(tag(scheduled=True), pushed("unrelated"))
    assert why(rounds.round()) == {}
    assert rounds.writes == 2, "the generation is observed"
    assert rounds.status_tag() == before
    with rounds.unwritten():
        poll(rounds)
        rounds.round(latest=resolved("a"))


@pytest.mark.parametrize(
    "empty",
    [
        pytest.param(stream(), id="no tags"),
        pytest.param(stream(pushed("x")), id="no sources"),
        pytest.param(stream(status=Status(tags=())), id="an empty list in status"),
        pytest.param(stream(refresh="n1", forget="n1 gone"), id="requests"),
    ],
)
def test_a_stream_without_sources_is_written_once(empty: ImageStream):
    rounds = Rounds(empty)
    rounds.round()
    assert (rounds.writes, rounds.ready) == (1, ("True", "NothingToImport"))
    with rounds.unwritten():
        assert rounds.round().look_again is None


def test_what_is_settled_without_a_registry_is_settled_once():
    rounds = Rounds(
        stream(
            tag("a", reference=True),
            follower("b", "a"),
            follower("c", "nowhere"),
            follower("d", "d"),
            tag("e", kind="ImageStreamImage"),
            tag("f", "a1b2", kind="ImageStreamImage"),
            follower("g", "web:1"),
            repository="quay.io/acme/app:1",
        )
    )
    rounds.round()
    assert (rounds.writes, len(rounds.heard), rounds.ready) == (1, 8, ("False", "ImportFailed"))
    with rounds.unwritten():
        rounds.wait(minutes(60))
        assert rounds.round().look_again is None


# --- a tag moves ------------------------------------------------------------------------------------------------------


def test_a_moved_tag_keeps_its_history():
    rounds = imported()
    poll(rounds)
    rounds.round(latest=resolved("b"))
    assert rounds.history() == ["b", "a"]
    assert rounds.take_heard() == [TagMoved("latest", pinned("a"), pinned("b"))]
    poll(rounds)
    rounds.round(latest=resolved("a"))
    assert rounds.history() == ["a", "b", "a"]
    assert rounds.take_heard() == [TagMoved("latest", pinned("b"), pinned("a"))]


def test_a_move_is_of_the_generation_in_which_it_was_found():
    rounds = imported()
    rounds.edit(tag(scheduled=True), pushed("unrelated"))
    poll(rounds)
    rounds.round(latest=resolved("b"))
    assert [item.generation for item in rounds.status_tag().items or ()] == [2, 1]


def test_a_move_says_when():
    rounds = imported()
    poll(rounds)
    rounds.wait(seconds(0.7))
    rounds.round(latest=resolved("b"))
    newest = rounds.status_tag().newest
    assert newest is not None
    assert newest.created == rounds.now.replace(microsecond=0)
    assert rounds.stream.status is not None
    assert rounds.stream.status.summary is not None
    assert rounds.stream.status.summary.updated == newest.created


def test_history_has_a_limit():
    rounds = imported(rules=ImportRules(history_limit=3))
    for letter in "bcde":
        poll(rounds)
        rounds.round(latest=resolved(letter))
    assert rounds.history() == ["e", "d", "c"]


def test_a_lower_limit_trims_at_the_next_answer():
    rounds = imported()
    for letter in "bcd":
        poll(rounds)
        rounds.round(latest=resolved(letter))
    rounds.rules = ImportRules(history_limit=2)
    poll(rounds)
    rounds.round(latest=resolved("d"))
    assert rounds.history() == ["d", "c"]


def test_another_name_for_the_same_image_is_no_move():
    rounds = imported()
    rounds.edit(tag(image="mirror.example/app:latest", scheduled=True))
    assert why(rounds.round()) == {"latest": "source"}
    rounds.round(latest=resolved("a"))
    assert rounds.history() == ["a"]
    assert rounds.heard == []
    newest = rounds.status_tag().newest
    assert newest is not None
    assert (newest.docker_image_reference, newest.created) == (pinned("a", "mirror.example/app"), NOW)


# --- a tag fails ------------------------------------------------------------------------------------------------------


def test_a_failure_keeps_the_items():
    rounds = imported()
    observed = rounds.status_tag().observed
    poll(rounds)
    rounds.round(latest=UNAVAILABLE)
    assert rounds.history() == ["a"]
    assert rounds.status_tag().observed == observed
    assert rounds.status_tag().outcome == TagCondition(
        type="ImportSuccess",
        status="False",
        reason="Unavailable",
        message="quay.io failed (503)",
        last_transition_time=rounds.now.replace(microsecond=0),
        generation=1,
    )
    assert rounds.take_heard() == [TagFailed("latest", "Unavailable", "quay.io failed (503)")]
    assert rounds.ready == ("False", "ImportFailed")


def test_the_same_failure_again_is_no_news():
    rounds = imported()
    poll(rounds)
    rounds.round(latest=UNAVAILABLE)
    with rounds.unwritten():
        for _ in range(5):
            again = rounds.round().look_again
            assert again is not None
            rounds.wait(again)
            rounds.round()
            rounds.round(latest=UNAVAILABLE)


@pytest.mark.parametrize(
    ("second", "is_news", "is_written"),
    [
        pytest.param(failed("NotFound", "gone"), True, True, id="another reason"),
        pytest.param(failed("Unavailable", "quay.io failed (502)"), False, True, id="another message"),
        pytest.param(UNAVAILABLE, False, False, id="the same"),
    ],
)
def test_people_hear_of_another_reason(second: Failed, is_news: bool, is_written: bool):
    rounds = imported()
    poll(rounds)
    rounds.round(latest=UNAVAILABLE)
    since = rounds.now.replace(microsecond=0)
    rounds.take_heard()
    writes = rounds.writes
    rounds.wait(minutes(1))
    rounds.round()
    rounds.round(latest=second)
    assert bool(rounds.heard) == is_news
    assert (rounds.writes > writes) == is_written
    outcome = rounds.status_tag().outcome
    assert outcome is not None
    assert outcome.last_transition_time == since, "it has failed since then"


def test_recovery():
    rounds = imported()
    poll(rounds)
    rounds.round(latest=UNAVAILABLE)
    rounds.take_heard()
    rounds.wait(minutes(1))
    rounds.round()
    rounds.round(latest=resolved("a"))
    assert rounds.heard == [TagRecovered("latest")]
    assert rounds.ready == ("True", "Imported")
    assert rounds.history() == ["a"]


def test_recovery_with_another_image_is_a_move():
    rounds = imported()
    poll(rounds)
    rounds.round(latest=UNAVAILABLE)
    rounds.take_heard()
    rounds.wait(minutes(1))
    rounds.round()
    rounds.round(latest=resolved("b"))
    assert rounds.heard == [TagMoved("latest", pinned("a"), pinned("b"))]


def test_a_first_import_may_fail():
    rounds = Rounds(stream(tag()))
    rounds.round()
    rounds.round(latest=NOT_FOUND)
    assert rounds.history() == []
    assert rounds.heard == [TagFailed("latest", "NotFound", NOT_FOUND.message)]


# --- answers that no longer count -------------------------------------------------------------------------------------


def test_an_answer_for_another_source_is_dropped():
    rounds = Rounds(stream(tag()))
    rounds.round()
    rounds.edit(tag(image="quay.io/acme/other"))
    with rounds.unwritten():
        plan = rounds.round(latest=resolved("a"))
    assert why(plan) == {"latest": "source"}
    rounds.round(latest=resolved("b"))
    assert rounds.heard == [TagMoved("latest", "", pinned("b", "quay.io/acme/other"))]


def test_an_answer_for_another_stream_of_the_same_name_is_dropped():
    rounds = Rounds(stream(tag()))
    rounds.round()
    update = merge_status(
        stream(tag(), uid="uid-2"), [answer(rounds.pending["latest"], resolved("a"))], {}, now=NOW, rules=RULES
    )
    assert not update.is_changed


@pytest.mark.parametrize(
    "now_is",
    [
        pytest.param(pushed("latest"), id="fed by pushes"),
        pytest.param(tag("other"), id="gone"),
    ],
)
def test_an_answer_for_a_tag_that_is_not_asked_for_is_dropped(now_is: TagReference):
    rounds = Rounds(stream(tag()))
    rounds.round()
    ticket = rounds.pending["latest"]
    update = merge_status(stream(now_is), [answer(ticket, resolved("a"))], rounds.progress, now=NOW, rules=RULES)
    assert not any(isinstance(transition, TagMoved) for transition in update.transitions)
    assert not (update.stream.status and update.stream.status.tags)


def test_deferred_changes_nothing():
    rounds = imported()
    poll(rounds)
    with rounds.unwritten():
        rounds.round(latest=deferred(rounds.now + minutes(5)))


# --- when to ask again ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "now_is",
    [
        pytest.param(tag(image="quay.io/acme/other"), id="name"),
        pytest.param(tag(insecure=True), id="insecure"),
        pytest.param(tag(mode="Legacy"), id="mode"),
    ],
)
def test_an_edited_source_is_asked_for_at_once(now_is: TagReference):
    rounds = imported(tag())
    rounds.edit(now_is)
    plan = rounds.round()
    assert why(plan) == {"latest": "source"}
    assert plan.due[0].known is None, "what another source served proves nothing"
    assert rounds.writes == 1, "being imported is no news"


@pytest.mark.parametrize(
    "now_is",
    [
        pytest.param(tag(), id="replaced by an identical one"),
        pytest.param(tag(mode="PreserveOriginal"), id="the default written out"),
        pytest.param(tag(local=True), id="reference policy"),
        pytest.param(tag(namespace="team"), id="own namespace written out"),
        pytest.param(tag(scheduled=True), id="scheduled"),
        pytest.param(tag(platform=("linux", "arm64")), id="a platform that plays no part"),
    ],
)
def test_an_edit_that_changes_no_source_asks_nothing(now_is: TagReference):
    rounds = imported(tag())
    rounds.edit(now_is)
    assert why(rounds.round()) == {}


def test_an_edit_while_a_lookup_is_under_way_replaces_it():
    rounds = Rounds(stream(tag()))
    rounds.round()
    rounds.edit(tag(insecure=True))
    assert why(rounds.round()) == {"latest": "source"}
    assert rounds.pending["latest"].source.insecure


def test_there_and_back_while_a_lookup_is_under_way():
    rounds = Rounds(stream(tag()))
    rounds.round()
    rounds.edit(tag(insecure=True))
    rounds.round()
    rounds.edit(tag())
    assert why(rounds.round()) == {"latest": "source"}
    rounds.round(latest=resolved("a"))
    assert rounds.history() == ["a"]


def test_a_failure_that_is_no_ones_moment_is_not_retried():
    rounds = Rounds(stream(tag()))
    rounds.round()
    assert rounds.round(latest=NOT_FOUND).look_again is None
    rounds.wait(timedelta(days=30))
    assert why(rounds.round()) == {}


def test_a_scheduled_tag_that_is_not_found_is_looked_for_at_each_slot():
    rounds = Rounds(stream(tag(scheduled=True)))
    rounds.round()
    rounds.round(latest=NOT_FOUND)
    poll(rounds)
    poll_again = rounds.round(latest=NOT_FOUND).look_again
    assert poll_again is not None
    assert timedelta(0) < poll_again - rounds.now <= INTERVAL


def test_transient_failures_are_retried_ever_more_rarely():
    rounds = Rounds(stream(tag()))
    rounds.round()
    delays = []
    for _ in range(10):
        again = rounds.round(latest=UNAVAILABLE).look_again
        assert again is not None
        delays.append((again - rounds.now).total_seconds())
        rounds.wait(again - seconds(0.001))
        assert why(rounds.round()) == {}
        rounds.wait(again)
        assert why(rounds.round()) == {"latest": "retry"}
    bounds = [10, 20, 40, 80, 160, 320, 640, 900, 900, 900]
    assert all(bound * 0.8 <= delay <= bound for delay, bound in zip(delays, bounds, strict=True))
    rounds.round(latest=resolved("a"))
    rounds.edit(tag(scheduled=True))
    poll(rounds)
    again = rounds.round(latest=UNAVAILABLE).look_again
    assert again is not None
    assert again - rounds.now <= seconds(10), "a success starts the count anew"


def test_the_slots_of_a_failing_tag_go_on():
    rounds = imported()
    asked = []
    for _ in range(12):
        again = rounds.round().look_again
        assert again is not None
        rounds.wait(again)
        asked += why(rounds.round()).values()
        rounds.round(latest=UNAVAILABLE)
    assert asked.count("slot") >= 3
    assert asked.count("retry") >= 6


def test_a_failure_of_another_source_does_not_slow_down_a_new_one():
    rounds = Rounds(stream(tag()))
    rounds.round()
    for _ in range(5):
        again = rounds.round(latest=UNAVAILABLE).look_again
        assert again is not None
        rounds.wait(again)
        rounds.round()
    rounds.edit(tag(image="quay.io/acme/other"))
    rounds.round()
    again = rounds.round(latest=UNAVAILABLE).look_again
    assert again is not None
    assert again - rounds.now <= seconds(10)


# --- the schedule -----------------------------------------------------------------------------------------------------


def slot(now: datetime, repository: str = REPOSITORY) -> datetime:
    return datetime.fromtimestamp(slot_begin(now, repository, INTERVAL), UTC)


def test_a_scheduled_tag_is_due_once_in_each_slot():
    rounds = imported()
    next_slot = slot(NOW) + INTERVAL
    assert rounds.round().look_again == next_slot
    rounds.wait(next_slot - seconds(0.001))
    assert why(rounds.round()) == {}
    rounds.wait(next_slot)
    plan = rounds.round()
    assert why(plan) == {"latest": "slot"}
    assert plan.due[0].slot == next_slot.timestamp()
    assert why(rounds.round()) == {}, "it is under way"
    rounds.wait(minutes(3))
    assert rounds.round(latest=resolved("a")).look_again == next_slot + INTERVAL


def test_slots_missed_while_busy_are_made_up_by_one_question():
    rounds = imported()
    rounds.wait(4 * INTERVAL)
    assert why(rounds.round()) == {"latest": "slot"}
    plan = rounds.round(latest=resolved("a"))
    assert why(plan) == {}
    assert plan.look_again == slot(rounds.now) + INTERVAL


@pytest.mark.parametrize(
    "never",
    [
        pytest.param(tag(), id="not scheduled"),
        pytest.param(tag(image=pinned("a"), scheduled=True), id="by digest"),
    ],
)
def test_never_polled(never: TagReference):
    rounds = imported(never)
    assert rounds.round().look_again is None
    rounds.wait(timedelta(days=1))
    assert why(rounds.round()) == {}


def test_tags_of_one_repository_are_due_together():
    rounds = imported(tag("a", f"{REPOSITORY}:1", scheduled=True), tag("b", f"{REPOSITORY}:2", scheduled=True))
    again = rounds.round().look_again
    assert again is not None
    rounds.wait(again)
    assert why(rounds.round()) == {"a": "slot", "b": "slot"}


def test_a_stream_has_its_own_interval():
    rounds = imported()
    rounds.edit(interval="1h")
    again = rounds.round().look_again
    assert again is not None
    length = timedelta(hours=1)
    assert again == datetime.fromtimestamp(slot_begin(rounds.now, REPOSITORY, length), UTC) + length


def test_a_request_serves_the_slot_too():
    rounds = imported()
    rounds.wait(slot(NOW) + INTERVAL)
    rounds.edit(refresh="n1")
    assert why(rounds.round()) == {"latest": "request"}
    assert rounds.pending["latest"].slot == rounds.now.timestamp()
    plan = rounds.round(latest=resolved("a"))
    assert why(plan) == {}
    assert plan.look_again == slot(rounds.now) + INTERVAL


# --- requests ---------------------------------------------------------------------------------------------------------


def handled(rounds: Rounds) -> str | None:
    status = rounds.stream.status
    return status.handled.refresh if status and status.handled else None


def test_a_request_asks_for_all_tags_and_is_handled_when_all_have_answered():
    rounds = imported(tag("a"), tag("b"), pushed("c"), follower("d", "a"))
    rounds.wait(minutes(1))
    rounds.edit(refresh="n1")
    assert why(rounds.round()) == {"a": "request", "b": "request"}
    with rounds.unwritten():
        assert why(rounds.round(a=resolved("a"))) == {}
    rounds.round(b=UNAVAILABLE)
    assert handled(rounds) == "n1"
    assert why(rounds.round()) == {}


def test_a_request_for_one_tag():
    rounds = imported(tag("a"), tag("b"))
    rounds.wait(minutes(1))
    rounds.edit(refresh="n1 a")
    assert why(rounds.round()) == {"a": "request"}
    rounds.round(a=resolved("a"))
    assert handled(rounds) == "n1 a"


@pytest.mark.parametrize("request_", ["n1 nowhere", "n1 pushed"])
def test_a_request_for_what_no_registry_has_is_handled_at_once(request_: str):
    rounds = imported(tag("a"), pushed("pushed"), follower("followed", "a"))
    rounds.edit(refresh=request_)
    assert why(rounds.round()) == {}
    assert handled(rounds) == request_


def test_a_request_for_a_tag_that_follows_asks_for_the_one_at_the_end():
    rounds = imported(tag("a"), tag("b"), follower("one", "a"), follower("two", "one"))
    rounds.wait(minutes(1))
    rounds.edit(refresh="n1 two")
    assert why(rounds.round()) == {"a": "request"}
    rounds.round(a=resolved("e"))
    assert handled(rounds) == "n1 two"
    assert [item.image for item in (rounds.status_tag("two").items or ())][:1] == [digest("e")]


def test_a_request_while_a_lookup_is_under_way_is_asked_anew():
    rounds = imported()
    poll(rounds)
    rounds.edit(refresh="n1")
    assert why(rounds.round()) == {"latest": "request"}, "the answer under way may be older than the request"
    assert why(rounds.round()) == {}
    rounds.edit(refresh="n2")
    assert why(rounds.round()) == {"latest": "request"}
    rounds.round(latest=resolved("a"))
    assert handled(rounds) == "n2"


def test_a_request_that_follows_at_once_waits_for_the_floor():
    rounds = imported(tag())
    rounds.wait(seconds(0.4))
    rounds.edit(refresh="n1")
    plan = rounds.round()
    assert (why(plan), plan.look_again) == ({}, NOW + RULES.refresh_floor)
    rounds.wait(NOW + RULES.refresh_floor)
    assert why(rounds.round()) == {"latest": "request"}


def test_a_deferred_request_is_not_handled():
    rounds = imported(tag())
    rounds.wait(minutes(1))
    rounds.edit(refresh="n1")
    rounds.round()
    until = rounds.now + minutes(5)
    with rounds.unwritten():
        plan = rounds.round(latest=deferred(until))
    assert plan.look_again == until
    rounds.wait(until)
    rounds.round()
    assert rounds.pending["latest"].request == "n1"
    rounds.round(latest=resolved("a"))
    assert handled(rounds) == "n1"


def test_a_request_survives_a_restart():
    rounds = imported(tag("a"), tag("b"))
    rounds.wait(minutes(1))
    rounds.edit(refresh="n1")
    rounds.round()
    rounds.round(a=resolved("a"))
    rounds.restart()
    assert why(rounds.round()) == {"a": "request", "b": "request"}


def test_a_handled_request_stays_handled_when_it_is_withdrawn():
    rounds = imported(tag())
    rounds.wait(minutes(1))
    rounds.edit(refresh="n1")
    rounds.round()
    rounds.round(latest=resolved("a"))
    rounds.edit()
    with rounds.unwritten():
        assert why(rounds.round()) == {}
    assert handled(rounds) == "n1"


# --- hints ------------------------------------------------------------------------------------------------------------


def test_a_hint_asks_once_more():
    rounds = imported(tag("a"), tag("b"))
    rounds.wait(minutes(1))
    assert why(rounds.round(hints=["a", "nowhere"])) == {"a": "hint"}
    assert why(rounds.round()) == {}
    assert why(rounds.round(a=resolved("a"))) == {}


def test_a_hint_during_a_lookup_waits_for_its_answer():
    rounds = imported(tag())
    rounds.wait(minutes(1))
    rounds.round(hints=["latest"])
    assert why(rounds.round(hints=["latest"])) == {}
    assert rounds.round(latest=resolved("a")).look_again == rounds.now + RULES.refresh_floor
    rounds.wait(RULES.refresh_floor)
    assert why(rounds.round()) == {"latest": "hint"}, "the first answer may be older than the second hint"
    rounds.round(latest=resolved("b"))
    rounds.wait(minutes(5))
    assert why(rounds.round()) == {}


def test_a_hint_while_the_host_must_not_be_asked_is_kept():
    rounds = imported()
    poll(rounds)
    until = rounds.now + minutes(5)
    rounds.round(latest=deferred(until))
    assert why(rounds.round(hints=["latest"])) == {}
    assert rounds.round().look_again == until
    rounds.wait(until)
    assert list(why(rounds.round())) == ["latest"]


# --- hosts that must not be asked now ---------------------------------------------------------------------------------


@pytest.mark.parametrize("asked_by", ["source", "slot", "retry", "request", "hint"])
def test_whatever_was_deferred_is_asked_when_its_time_has_come(asked_by: str):
    rounds = Rounds(stream(tag(scheduled=asked_by == "slot")))
    rounds.round()
    hints = []
    if asked_by != "source":
        rounds.round(latest=UNAVAILABLE if asked_by == "retry" else resolved("a"))
        rounds.wait(minutes(1) if asked_by != "slot" else slot(NOW) + INTERVAL)
        hints = ["latest"] if asked_by == "hint" else []
        if asked_by == "request":
            rounds.edit(refresh="n1")
        assert why(rounds.round(hints)) == {"latest": asked_by}
    until = rounds.now + minutes(2)
    plan = rounds.round(latest=deferred(until))
    assert (why(plan), plan.look_again) == ({}, until)
    rounds.wait(until - seconds(1))
    assert why(rounds.round()) == {}
    rounds.wait(until)
    assert list(why(rounds.round())) == ["latest"]
    rounds.round(latest=resolved("b"))
    assert rounds.history()[0] == "b"


def test_a_wait_that_is_over_already_does_not_spin():
    rounds = Rounds(stream(tag()))
    rounds.round()
    plan = rounds.round(latest=deferred(rounds.now - minutes(1)))
    assert (why(plan), plan.look_again) == ({}, rounds.now + RULES.refresh_floor)


def test_failures_are_counted_through_a_wait():
    rounds = Rounds(stream(tag()))
    rounds.round()
    for _ in range(3):
        again = rounds.round(latest=UNAVAILABLE).look_again
        assert again is not None
        rounds.wait(again)
        rounds.round()
    rounds.round(latest=deferred(rounds.now + minutes(1)))
    rounds.wait(minutes(1))
    rounds.round()
    again = rounds.round(latest=UNAVAILABLE).look_again
    assert again is not None
    assert again - rounds.now >= seconds(80 * 0.8)


# --- restart ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("watermark", "is_due"),
    [
        pytest.param(None, False, id="no watermark: all was served"),
        pytest.param(seconds(1), False, id="the slot began before the watermark: served"),
        pytest.param(seconds(0), True, id="the slot began with the watermark: not served"),
        pytest.param(-seconds(1), True, id="the slot began after the watermark"),
        pytest.param(-timedelta(days=1), True, id="down for a day"),
    ],
)
def test_after_a_restart_only_slots_from_the_watermark_on_are_due(watermark: timedelta | None, is_due: bool):
    rounds = imported()
    rounds.wait(slot(NOW) + INTERVAL + minutes(2))
    rounds.restart()
    rounds.watermark = None if watermark is None else slot(rounds.now) + watermark
    plan = rounds.round()
    assert why(plan) == ({"latest": "slot"} if is_due else {})
    if not is_due:
        assert plan.look_again == slot(rounds.now) + INTERVAL
        return
    assert rounds.round(latest=resolved("a")).look_again == slot(rounds.now) + INTERVAL


def test_a_restart_asks_again_for_what_was_never_answered():
    rounds = Rounds(stream(tag()))
    rounds.round()
    rounds.restart()
    assert why(rounds.round()) == {"latest": "source"}


def _failing(count: int, outcome: Failed) -> Rounds:
    rounds = Rounds(stream(*(tag(f"t{number}", f"{REPOSITORY}:{number}") for number in range(count))))
    rounds.round()
    rounds.round(**dict.fromkeys(list(rounds.pending), outcome))
    return rounds


def _retries_after_restart(rounds: Rounds) -> list[float]:
    """Seconds from the restart until each tag is asked for."""
    rounds.restart()
    begin, found = rounds.now, []
    while (again := (plan := rounds.round()).look_again) is not None:
        found += [(rounds.now - begin).total_seconds()] * len(plan.due)
        rounds.wait(again)
    return found + [(rounds.now - begin).total_seconds()] * len(plan.due)


@pytest.mark.parametrize(
    ("age", "window"),
    [
        pytest.param(seconds(5), 10, id="began to fail just now"),
        pytest.param(minutes(2), 120, id="for two minutes"),
        pytest.param(timedelta(days=1), 900, id="for a day"),
    ],
)
def test_after_a_restart_transient_failures_are_retried_spread_out(age: timedelta, window: int):
    rounds = _failing(200, UNAVAILABLE)
    rounds.wait(age)
    retries = _retries_after_restart(rounds)
    assert len(retries) == 200
    assert max(retries) <= window
    quarters = Counter(int(4 * retry / window) for retry in retries)
    assert all(quarters[quarter] > 25 for quarter in range(4))


def test_a_restart_does_not_make_retries_frequent_again():
    rounds = _failing(1, UNAVAILABLE)
    rounds.wait(timedelta(days=1))
    rounds.restart()
    again = rounds.round().look_again
    assert again is not None
    rounds.wait(again)
    rounds.round()
    again = rounds.round(t0=UNAVAILABLE).look_again
    assert again is not None
    assert again - rounds.now >= 0.8 * RULES.retry_cap


def test_after_a_restart_what_a_registry_denied_is_not_retried():
    assert _retries_after_restart(_failing(5, NOT_FOUND)) == []


def test_after_a_restart_what_settings_allow_by_now_is_asked_for():
    rounds = Rounds(stream(tag(image="docker.io/library/nginx")), rules=RESTRICTED)
    rounds.round()
    assert rounds.ready == ("False", "ImportFailed")
    assert rounds.round().look_again is None
    rounds.restart()
    rounds.rules = RULES
    rounds.wait(timedelta(days=1))
    again = rounds.round().look_again
    assert again is not None
    assert again - rounds.now <= RULES.retry_base
    rounds.wait(again)
    assert why(rounds.round()) == {"latest": "retry"}
    rounds.round(latest=resolved("a"))
    assert rounds.ready == ("True", "Imported")


# --- what the registry is told that we know ---------------------------------------------------------------------------


def known(rounds: Rounds) -> Served | None:
    rounds.wait(minutes(1))
    plan = rounds.round(hints=["latest"])
    assert list(why(plan)) == ["latest"]
    return plan.due[0].known


def test_an_unchanged_tag_costs_one_head():
    assert known(imported()) == Served(digest("a"), digest("a"))


def test_in_legacy_mode_the_digest_of_the_tag_is_known_and_the_image_made_of_it():
    rounds = Rounds(stream(tag(mode="Legacy")))
    rounds.round()
    rounds.round(latest=resolved("a", child="c"))
    assert rounds.history() == ["c"]
    assert known(rounds) == Served(digest("a"), digest("c"))


def test_after_a_move_the_new_digest_is_known():
    rounds = imported()
    poll(rounds)
    rounds.round(latest=resolved("b"))
    assert known(rounds) == Served(digest("b"), digest("b"))


def test_a_failure_in_between_forgets_nothing():
    rounds = imported()
    poll(rounds)
    rounds.round(latest=UNAVAILABLE)
    assert known(rounds) == Served(digest("a"), digest("a"))


def _rewritten(rounds: Rounds, **fields: Any) -> None:
    """Another writer changes the tag's status."""
    status, recorded = rounds.stream.status, rounds.status_tag()
    assert status is not None
    changed = msgspec.structs.replace(recorded, **fields)
    rounds.stream = rounds.stream.with_status(msgspec.structs.replace(status, tags=(changed,)))


@pytest.mark.parametrize(
    "items",
    [
        pytest.param((), id="the items are gone"),
        pytest.param((event("b"), event("a")), id="another image was written on top"),
        pytest.param((event("a", MIRROR),), id="the image has another name"),
        pytest.param((event(),), id="the newest is no image"),
    ],
)
def test_what_others_wrote_is_not_known(items: tuple[TagEvent, ...]):
    rounds = imported()
    _rewritten(rounds, items=items)
    assert known(rounds) is None


@pytest.mark.parametrize("mode", ["Legacy", "PreserveOriginal"])
@pytest.mark.parametrize(("served", "image"), [("x", "x"), (digest("a"), "x"), ("x", digest("a")), (None, None)])
def test_texts_in_a_status_that_are_no_digests_break_nothing(mode: str, served: str | None, image: str | None):
    rounds = Rounds(stream(tag(mode=mode)))
    rounds.round()
    rounds.round(latest=resolved("a"))
    forged = TagEvent(created=NOW, docker_image_reference=pinned("a"), image=image)
    observed = rounds.status_tag().observed
    assert observed is not None
    _rewritten(rounds, items=(forged,), observed=msgspec.structs.replace(observed, digest=served))
    assert known(rounds) is None
    rounds.round(latest=resolved("b"))
    assert rounds.history()[0] == "b"


def test_a_status_that_lost_our_fields_is_looked_up_again_without_a_false_move():
    rounds = imported()
    rounds.wait(minutes(30))
    poll(rounds)
    rounds.round(latest=resolved("a"))
    _rewritten(rounds, observed=None, conditions=None)
    rounds.wait(minutes(1))
    plan = rounds.round()
    assert why(plan) == {"latest": "source"}
    rounds.round(latest=resolved("a"))
    assert rounds.history() == ["a"]
    assert rounds.heard == []
    assert rounds.ready == ("True", "Imported")


def test_a_writer_that_removes_our_fields_each_time_does_not_make_us_spin():
    rounds = imported(tag())
    asked = 0
    for _ in range(300):
        _rewritten(rounds, observed=None)
        rounds.wait(seconds(1))
        asked += len(rounds.round(**dict.fromkeys(list(rounds.pending), resolved("a"))).due)
    assert asked <= 30


# --- questions for the lanes ------------------------------------------------------------------------------------------

CREDENTIAL = Credential("robot", "secret", "pull-secret")
ENTRIES = (Entry("quay.io", "", CREDENTIAL), Entry("docker.io", "", Credential("other", "secret", "hub")))


def test_a_ticket_says_all_that_the_answer_is_for():
    rounds = Rounds(stream(tag(scheduled=True), refresh="n1"), entries=ENTRIES)
    rounds.round()
    ticket = rounds.pending["latest"]
    assert (ticket.uid, ticket.tag, ticket.source, ticket.request) == ("uid-1", "latest", source(), "n1")
    assert ticket.slot == 0, "a first import in the middle of a slot is no late poll"
    lookup = ticket.question
    assert lookup.reference == ImageReference.parse(IMAGE)
    assert lookup.transport == Transport("quay.io", "https://quay.io", False, True, "", False)
    assert (lookup.mode, lookup.prefer, lookup.known) == (ImportMode.PRESERVE_ORIGINAL, None, None)
    assert lookup.credentials == (CREDENTIAL,)


def test_a_poll_serves_its_slot():
    rounds = imported()
    poll(rounds)
    assert rounds.pending["latest"].slot == slot_begin(rounds.now, REPOSITORY, INTERVAL)


def test_a_poll_that_is_deferred_is_owed_until_it_is_answered():
    rounds = imported()
    poll(rounds)
    begin = rounds.pending["latest"].slot
    rounds.round(latest=Deferred(rounds.now + minutes(1), "asks to wait"))
    assert rounds.progress["latest"].unserved == begin
    rounds.wait(minutes(1))
    rounds.round()
    rounds.round(latest=resolved("a"))
    assert rounds.progress["latest"].unserved == 0
    assert rounds.progress["latest"].slot == begin


def test_a_tags_own_insecure_never_carries_a_credential():
    rounds = Rounds(stream(tag(insecure=True)), entries=ENTRIES)
    rounds.round()
    question = rounds.pending["latest"].question
    assert not question.transport.credentials
    assert question.credentials == (CREDENTIAL,), "a denial must say that there was one"


def test_a_host_that_is_listed_as_insecure_gets_its_credential():
    rules = ImportRules(policy=Policy(hosts={"quay.io": HostRule(insecure=True)}))
    rounds = Rounds(stream(tag()), rules=rules, entries=ENTRIES)
    rounds.round()
    assert rounds.pending["latest"].question.credentials == (CREDENTIAL,)


@pytest.mark.parametrize(
    ("wanted", "prefer"),
    [
        pytest.param(tag(), None, id="PreserveOriginal"),
        pytest.param(tag(mode="Legacy"), Platform("linux", "amd64"), id="Legacy: the installation's"),
        pytest.param(
            tag(mode="Legacy", platform=("linux", "arm64")), Platform("linux", "arm64"), id="Legacy: the tag's own"
        ),
        pytest.param(tag(platform=("linux", "arm64")), None, id="PreserveOriginal, though preferred"),
    ],
)
def test_the_platform_that_is_preferred(wanted: TagReference, prefer: Platform | None):
    rounds = Rounds(stream(wanted), rules=ImportRules(legacy_platform=Platform("linux", "amd64")))
    rounds.round()
    assert rounds.pending["latest"].question.prefer == prefer


# --- tags that no registry is asked for -------------------------------------------------------------------------------


def test_a_reference_tag_is_recorded_as_it_is_written():
    rounds = Rounds(stream(tag(reference=True)))
    assert why(rounds.round()) == {}
    assert rounds.status_tag().newest == TagEvent(created=NOW, docker_image_reference=IMAGE, image="", generation=1)
    assert rounds.heard == [TagMoved("latest", "", IMAGE)]
    assert rounds.ready == ("True", "Imported")
    rounds.edit(tag(image="quay.io/acme/app:stable", reference=True))
    rounds.round()
    assert rounds.heard[-1] == TagMoved("latest", IMAGE, "quay.io/acme/app:stable")


def test_a_reference_that_becomes_an_image_is_imported():
    rounds = Rounds(stream(tag(reference=True)))
    rounds.round()
    rounds.edit(tag())
    assert why(rounds.round()) == {"latest": "source"}
    rounds.round(latest=resolved("a"))
    assert rounds.history() == ["a", ""]


@pytest.mark.parametrize("order", [("a", "b", "c", "x"), ("x", "c", "b", "a"), ("b", "x", "a", "c")])
def test_followers_have_what_the_tag_at_the_end_has(order: tuple[str, ...]):
    tags = {
        "a": follower("a", "b"),
        "b": follower("b", "app:c"),
        "c": follower("c", "x"),
        "x": tag("x", scheduled=True),
    }
    rounds = Rounds(stream(*(tags[name] for name in order)))
    with rounds.unwritten():
        assert why(rounds.round()) == {"x": "source"}
    rounds.round(x=resolved("a"))
    assert rounds.writes == 1
    assert {name: rounds.history(name) for name in tags} == {name: ["a"] for name in tags}
    assert sorted(transition.tag for transition in rounds.take_heard()) == ["a", "b", "c", "x"]
    poll(rounds)
    rounds.round(x=resolved("b"))
    assert {name: rounds.history(name) for name in tags} == {name: ["b", "a"] for name in tags}
    assert rounds.writes == 2
    assert [type(transition) for transition in rounds.heard] == [TagMoved] * 4


def test_a_follower_of_a_failing_tag_keeps_what_that_had():
    rounds = imported(tag("x", scheduled=True), follower("a", "x"))
    poll(rounds)
    rounds.round(x=UNAVAILABLE)
    assert rounds.history("a") == ["a"]
    outcome = rounds.status_tag("a").outcome
    assert outcome is not None
    assert outcome.status == "True"


def test_a_follower_of_a_tag_that_was_pushed():
    recorded = StatusTag(tag="pushed", items=(event("a"),))
    rounds = Rounds(stream(follower("a", "pushed"), status=Status(tags=(recorded,))))
    rounds.round()
    assert rounds.history("a") == ["a"]
    assert rounds.status_tag("pushed") == recorded


def test_a_follower_of_a_reference_tag():
    rounds = Rounds(stream(follower("a", "x"), tag("x", reference=True)))
    rounds.round()
    newest = rounds.status_tag("a").newest
    assert newest is not None
    assert (newest.docker_image_reference, newest.image) == (IMAGE, "")


def test_a_follower_fails_with_a_first_import():
    rounds = Rounds(stream(follower("a", "b"), follower("b", "x"), tag("x")))
    rounds.round()
    rounds.round(x=NOT_FOUND)
    outcomes = {name: rounds.status_tag(name).outcome for name in "abx"}
    assert {name: outcome and outcome.reason for name, outcome in outcomes.items()} == {
        "a": "TagNotFound",
        "b": "TagNotFound",
        "x": "NotFound",
    }


@pytest.mark.parametrize("order", [("a", "b", "c", "d"), ("d", "c", "b", "a"), ("c", "a", "d", "b")])
def test_circles_fail_and_what_leads_to_them_has_nothing_to_follow(order: tuple[str, ...]):
    tags = {"a": follower("a", "b"), "b": follower("b", "c"), "c": follower("c", "b"), "d": follower("d", "d")}
    rounds = Rounds(stream(*(tags[name] for name in order)))
    rounds.round()
    outcomes = {name: rounds.status_tag(name).outcome for name in tags}
    assert {name: outcome and (outcome.reason, outcome.message) for name, outcome in outcomes.items()} == {
        "a": ("TagNotFound", 'tag "b" of this stream has no image yet'),
        "b": ("CircularReference", 'tag "b" follows itself through "c"'),
        "c": ("CircularReference", 'tag "c" follows itself through "b"'),
        "d": ("CircularReference", 'tag "d" follows itself through "d"'),
    }


@pytest.mark.parametrize("order", [("a", "b", "c"), ("c", "b", "a")])
def test_a_new_circle_keeps_what_its_tags_had(order: tuple[str, ...]):
    rounds = imported(follower("a", "b"), tag("b"), follower("c", "a"))
    tags = {"a": follower("a", "b"), "b": follower("b", "a"), "c": follower("c", "a")}
    rounds.edit(*(tags[name] for name in order))
    rounds.round()
    assert {name: rounds.history(name) for name in tags} == {name: ["a"] for name in tags}
    outcomes = {name: rounds.status_tag(name).outcome for name in tags}
    assert {name: outcome and outcome.status for name, outcome in outcomes.items()} == {
        "a": "False",
        "b": "False",
        "c": "True",
    }


# --- what leaves spec -------------------------------------------------------------------------------------------------


def test_a_tag_that_leaves_spec_keeps_its_history():
    rounds = imported(tag("a", scheduled=True), tag("b", scheduled=True))
    rounds.edit(tag("a", scheduled=True))
    rounds.round()
    assert rounds.history("b") == ["a"]
    poll(rounds)
    assert list(rounds.pending) == ["a"]
    assert rounds.progress.keys() == {"a"}, "nothing is remembered of it"


def test_a_tag_that_comes_back_is_not_asked_for():
    rounds = imported(tag("a"), tag("b"))
    rounds.edit(tag("a"))
    rounds.round()
    rounds.edit(tag("a"), tag("b"))
    assert why(rounds.round()) == {}


def test_forgetting_drops_the_history_of_tags_that_spec_does_not_have():
    rounds = imported(tag("a"), tag("b"), tag("c"))
    rounds.edit(tag("a"), forget="n1 a b nowhere")
    rounds.round()
    assert rounds.stream.status is not None
    assert rounds.stream.status.handled == Handled(forget="n1 a b nowhere")
    assert [recorded.tag for recorded in rounds.stream.status.tags or ()] == ["a", "c"]
    with rounds.unwritten():
        rounds.round()


def test_a_request_to_forget_acts_once():
    rounds = imported(tag("a"), tag("b"))
    rounds.edit(tag("a"), forget="n1 b")
    rounds.round()
    rounds.edit(tag("a"), tag("b"), forget="n1 b")
    rounds.round()
    rounds.round(b=resolved("a"))
    rounds.edit(tag("a"), forget="n1 b")
    rounds.round()
    assert rounds.history("b") == ["a"]


def test_requests_do_not_undo_each_other():
    rounds = imported(tag("a"), tag("b"))
    rounds.wait(minutes(1))
    rounds.edit(tag("a"), forget="n1 b", refresh="r1")
    rounds.round()
    rounds.round(a=resolved("a"))
    assert rounds.stream.status is not None
    assert rounds.stream.status.handled == Handled(refresh="r1", forget="n1 b")


# --- size -------------------------------------------------------------------------------------------------------------


def _size(rounds: Rounds) -> int:
    status = rounds.stream.status
    assert status is not None
    return sum(len(encode(recorded)) + 1 for recorded in status.tags or ())


def test_the_oldest_history_goes_first_and_the_newest_items_stay():
    rounds = imported(tag("a", f"{REPOSITORY}:a", scheduled=True), tag("b", f"{REPOSITORY}:b", scheduled=True))
    for name, letter in (("a", "b"), ("a", "c"), ("b", "d"), ("b", "e")):
        rounds.wait(minutes(20))
        rounds.round()
        others = {other: resolved((rounds.history(other))[0]) for other in rounds.pending if other != name}
        rounds.round(**{name: resolved(letter)}, **others)
    assert (rounds.history("a"), rounds.history("b")) == (["c", "b", "a"], ["e", "d", "a"])
    one_item = len(encode(rounds.status_tag("a").items[0])) + 1  # type: ignore[index]
    rounds.rules = ImportRules(status_budget=_size(rounds) - one_item)
    rounds.round()
    assert (rounds.history("a"), rounds.history("b")) == (["c", "b"], ["e", "d", "a"])
    assert _size(rounds) <= rounds.rules.status_budget
    rounds.rules = ImportRules(status_budget=1)
    rounds.round()
    assert (rounds.history("a"), rounds.history("b")) == (["c"], ["e"])
    with rounds.unwritten():
        rounds.round()


def test_history_goes_by_age_whatever_tag_it_is_of():
    ages = {"a": (9, 8, 2), "b": (7, 4, 3, 1), "c": (6, 5)}  # minutes after noon, the newest first
    recorded = {
        name: StatusTag(
            tag=name, items=tuple(event("a", f"{REPOSITORY}-{age}", at=NOW + minutes(age)) for age in items)
        )
        for name, items in ages.items()
    }

    def kept(budget: int) -> dict[str, list[int]]:
        status = Status(tags=tuple(recorded.values()))
        update = merge_status(stream(status=status), (), {}, now=NOW, rules=ImportRules(status_budget=budget))
        assert update.stream.status is not None
        return {
            found.tag: [int((item.created - NOW).total_seconds() // 60) for item in found.items or () if item.created]
            for found in update.stream.status.tags or ()
        }

    whole = sum(len(encode(found)) + 1 for found in recorded.values())
    item = len(encode(event("a", f"{REPOSITORY}-1"))) + 1
    assert kept(whole) == {"a": [9, 8, 2], "b": [7, 4, 3, 1], "c": [6, 5]}
    assert kept(whole - 1) == {"a": [9, 8, 2], "b": [7, 4, 3], "c": [6, 5]}
    assert kept(whole - item - 1) == {"a": [9, 8], "b": [7, 4, 3], "c": [6, 5]}
    assert kept(whole - 4 * item) == {"a": [9, 8], "b": [7], "c": [6, 5]}
    assert kept(whole - 5 * item) == {"a": [9, 8], "b": [7], "c": [6]}
    assert kept(1) == {"a": [9], "b": [7], "c": [6]}


def crowded() -> Rounds:
    """A stream with room for the tags t0 and t1 only, which names t2 and a follower of it as well."""
    rounds = imported(tag("t0", f"{REPOSITORY}:0"), tag("t1", f"{REPOSITORY}:1"))
    rounds.rules = ImportRules(status_budget=_size(rounds) + 20)
    rounds.edit(*rounds.stream.spec_tags, tag("t2", f"{REPOSITORY}:2"))
    rounds.round()
    return rounds


def test_tags_beyond_the_budget_are_refused():
    rounds = crowded()
    rounds.round(t2=resolved("b"))
    assert rounds.stream.status_tag("t2") is None
    assert rounds.ready == ("False", "StatusTooLarge")
    ready = rounds.stream.status.ready if rounds.stream.status else None
    assert ready is not None
    assert ready.message == "no room is left to record t2; remove tags or split the stream"
    assert rounds.heard == [], "what is not recorded has not moved"


def test_a_tag_that_found_no_room_is_asked_for_once_in_an_interval():
    rounds = crowded()
    plan = rounds.round(t2=resolved("b"))
    assert (why(plan), plan.look_again) == ({}, rounds.now + INTERVAL)
    for _ in range(3):
        with rounds.unwritten():
            rounds.wait(INTERVAL)
            assert why(rounds.round()) == {"t2": "source"}
            assert why(rounds.round(t2=resolved("b"))) == {}


def test_a_crowded_stream_says_the_same_while_its_other_tags_move():
    rounds = crowded()
    rounds.round(t2=resolved("b"))
    rounds.wait(minutes(1))
    rounds.round(hints=["t0"])
    rounds.round(t0=resolved("c"))
    assert rounds.ready == ("False", "StatusTooLarge")
    assert rounds.heard == [TagMoved("t0", pinned("a"), pinned("c"))]


def test_a_tag_that_finds_room_later_is_recorded():
    rounds = crowded()
    rounds.round(t2=resolved("b"))
    rounds.rules = RULES
    rounds.wait(INTERVAL)
    rounds.round()
    rounds.round(t2=resolved("b"))
    assert rounds.history("t2") == ["b"]
    assert rounds.ready == ("True", "Imported")


def test_tags_that_no_registry_is_asked_for_are_refused_quietly_too():
    rounds = imported(tag("a"))
    rounds.rules = ImportRules(status_budget=_size(rounds) + 20)
    rounds.edit(tag("a"), tag("b", reference=True), follower("c", "a"), tag("d", "::"))
    rounds.round()
    assert rounds.heard == []
    assert rounds.ready == ("False", "StatusTooLarge")
    with rounds.unwritten():
        rounds.round()


# --- conditions and summary -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tags", "outcomes", "ready"),
    [
        pytest.param((), {}, ("True", "NothingToImport"), id="nothing"),
        pytest.param((pushed("a"),), {}, ("True", "NothingToImport"), id="fed by pushes"),
        pytest.param((tag("a"),), {"a": resolved("a")}, ("True", "Imported"), id="imported"),
        pytest.param((tag("a"), pushed("b")), {"a": resolved("a")}, ("True", "Imported"), id="imported and pushed"),
        pytest.param((tag("a"), tag("b")), {"a": resolved("a")}, ("False", "Importing"), id="one awaited"),
        pytest.param((tag("a"), tag("b")), {"a": UNAVAILABLE}, ("False", "ImportFailed"), id="one failed, one awaited"),
        pytest.param((tag("a", "::"),), {}, ("False", "ImportFailed"), id="refused"),
        pytest.param((tag("a", reference=True),), {}, ("True", "Imported"), id="a reference"),
    ],
)
def test_ready(tags: tuple[TagReference, ...], outcomes: dict[str, Outcome], ready: tuple[str, str]):
    rounds = Rounds(stream(*tags))
    rounds.round()
    rounds.round(**outcomes)
    assert rounds.ready == ready


def test_ready_names_the_tags_but_not_all_of_many():
    rounds = Rounds(stream(*(tag(f"t{number}", "::") for number in range(8))))
    rounds.round()
    ready = rounds.stream.status.ready if rounds.stream.status else None
    assert ready is not None
    assert ready.message is not None
    assert "not imported: t0, t1, t2, t3, t4 and 3 more;" in ready.message


def test_a_condition_is_as_old_as_its_status():
    rounds = imported()
    poll(rounds)
    failed_at = rounds.now.replace(microsecond=0)
    rounds.round(latest=UNAVAILABLE)
    rounds.wait(minutes(5))
    rounds.edit(tag(image="quay.io/acme/other:1", scheduled=True))
    rounds.round()
    rounds.round(latest=NOT_FOUND)
    ready, outcome = (rounds.stream.status and rounds.stream.status.ready), rounds.status_tag().outcome
    assert ready is not None
    assert outcome is not None
    assert (ready.last_transition_time, outcome.last_transition_time) == (failed_at, failed_at)
    assert (ready.observed_generation, outcome.generation, outcome.reason) == (2, 2, "NotFound")


def test_conditions_of_other_writers_stay():
    theirs = Condition(type="Paused", status="True", reason="", message="", last_transition_time=NOW)
    rounds = Rounds(stream(tag(), status=Status(conditions=(theirs,))))
    rounds.round()
    rounds.round(latest=resolved("a"))
    assert rounds.stream.status is not None
    assert theirs in (rounds.stream.status.conditions or ())


def test_the_summary_fits_a_line():
    rounds = Rounds(
        stream(
            tag("a", scheduled=True),
            tag("b"),
            tag("c", "::", scheduled=True),
            pushed("d"),
            status=Status(tags=(StatusTag(tag="gone", items=(event("a", at=NOW - minutes(9)),)),)),
        )
    )
    rounds.round()
    rounds.round(a=resolved("a"))
    summary = rounds.stream.status and rounds.stream.status.summary
    assert summary is not None
    assert (summary.tags, summary.scheduled, summary.updated) == ("a, b, c, d, gone", "2/3", NOW)


def test_the_repositories_that_others_wrote_stay():
    rounds = Rounds(stream(tag(), status=Status(docker_image_repository="r/x", public_docker_image_repository="p/x")))
    rounds.round()
    rounds.round(latest=resolved("a"))
    assert rounds.stream.status is not None
    assert rounds.stream.status.docker_image_repository == "r/x"
    assert rounds.stream.status.public_docker_image_repository == "p/x"


# --- whatever happens -------------------------------------------------------------------------------------------------

_specs = st.lists(
    st.tuples(st.sampled_from("abcd"), st.integers(0, 8)).map(
        lambda drawn: (
            tag(drawn[0]),
            tag(drawn[0], scheduled=True),
            tag(drawn[0], mode="Legacy", insecure=True),
            tag(drawn[0], reference=True),
            follower(drawn[0], "a"),
            follower(drawn[0], "d"),
            pushed(drawn[0]),
            follower(drawn[0], "web:a"),
            tag(drawn[0], "f", kind="ImageStreamImage"),
        )[drawn[1]]
    ),
    min_size=1,
    max_size=4,
    unique_by=lambda tag: tag.name,
)
_outcomes: st.SearchStrategy[Any] = st.one_of(
    st.sampled_from("abc").map(resolved),
    st.just(UNAVAILABLE),
    st.just(NOT_FOUND),
    st.sampled_from([-5, 0, 30, 600]),  # seconds to be deferred for
)
_steps = st.lists(
    st.one_of(
        st.tuples(st.just("answer"), st.sampled_from("abcd"), _outcomes),
        st.tuples(st.just("wait"), st.sampled_from([0.0, 0.3, 1.0, 20.0, 400.0, 5000.0])),
        st.tuples(st.just("spec"), _specs),
        st.tuples(st.just("request"), st.sampled_from(["n1", "n2 a", "n3 b d", None])),
        st.tuples(st.just("hint"), st.sets(st.sampled_from("abcd"))),
        st.tuples(st.just("restart")),
        st.tuples(st.just("forget"), st.sampled_from("abcd")),
    ),
    max_size=25,
)


def _played(rounds: Rounds, steps: list[Any]) -> None:
    """Carry the stream through the steps; `Rounds.plan` fails for what is asked twice. A ticket of a tag that has come
    to need no registry is forgotten here; the lanes ignore it when it is asked again.
    """
    for number, step in enumerate(steps):
        hints: frozenset[str] = frozenset()
        outcomes: dict[str, Outcome] = {}
        match step:
            case ("answer", name, outcome) if name in rounds.pending:
                is_wait = isinstance(outcome, int)
                outcomes = {name: Deferred(rounds.now + seconds(outcome), "wait") if is_wait else outcome}
            case ("wait", time):
                rounds.wait(seconds(time))
            case ("spec", tags):
                rounds.edit(*tags)
            case ("request", value):
                rounds.edit(refresh=value)
            case ("forget", name):
                rounds.edit(forget=f"f{number} {name}")
            case ("hint", names):
                hints = frozenset(names)
            case ("restart",):
                rounds.restart()
            case _:
                pass
        asked = {
            tag.name for tag in rounds.stream.spec_tags if isinstance(wish_of(rounds.stream, tag, RULES), AskRegistry)
        }
        rounds.pending = {name: ticket for name, ticket in rounds.pending.items() if name in asked}
        plan = rounds.round(hints, **outcomes)
        assert plan.look_again is None or plan.look_again > rounds.now
        assert rounds.progress.keys() <= {tag.name for tag in rounds.stream.spec_tags}


@settings(max_examples=150, deadline=None)
@given(_specs, _steps)
def test_nothing_is_asked_twice_and_everything_comes_to_rest(spec: list[TagReference], steps: list[Any]):
    rounds = Rounds(stream(*spec))
    _played(rounds, steps)
    # The registry answers everything from now on: what was due, deferred or failing is asked for, and then it is quiet.
    end = rounds.now + 3 * INTERVAL
    for _ in range(60):
        plan = rounds.round(**{name: resolved("f") for name in list(rounds.pending)})
        if not plan.due and (plan.look_again is None or rounds.now > end):
            break
        if not plan.due and plan.look_again:
            rounds.wait(plan.look_again)
    else:
        pytest.fail("it never comes to rest")
    assert not rounds.pending
    assert open_refresh(rounds.stream) is None
    for spec_tag in rounds.stream.spec_tags:
        wish = wish_of(rounds.stream, spec_tag, RULES)
        if isinstance(wish, AskRegistry):
            recorded = rounds.status_tag(spec_tag.name)
            assert recorded.observed is not None
            assert recorded.observed.is_of(wish.source)
            assert recorded.outcome is not None
            assert recorded.outcome.status == "True" or recorded.outcome.reason == NOT_FOUND.reason
    with rounds.unwritten():
        assert not rounds.round().due


@settings(max_examples=150, deadline=None)
@given(_specs, _steps)
def test_the_same_answers_again_change_nothing(spec: list[TagReference], steps: list[Any]):
    rounds = Rounds(stream(*spec))
    _played(rounds, steps)
    answers = [answer(ticket, resolved("e"), rounds.now) for ticket in rounds.pending.values()]
    rounds.merge(*answers)
    rounds.wait(seconds(90))
    with rounds.unwritten():
        again = rounds.merge(*answers)
    assert not again.is_changed
    assert not again.transitions


@settings(max_examples=80, deadline=None)
@given(st.permutations(["a", "b", "c", "d"]), st.dictionaries(st.sampled_from("abcd"), st.sampled_from("abcde")))
def test_the_order_of_tags_does_not_matter(order: list[str], follows: dict[str, str]):
    def settled(names: list[str]) -> Any:
        tags = [follower(name, follows[name]) if name in follows else tag(name) for name in names]
        rounds = Rounds(stream(*tags))
        rounds.round()
        rounds.round(**{name: resolved(name) for name in rounds.pending})
        return rounds.stream.status

    assert settled(order) == settled(sorted(order))


def test_planning_is_linear_in_the_tags():
    """A stream with many tags must not stop the loop: each tag's status is found in one step."""
    many = Rounds(
        stream(*(tag(f"t{number}", f"{REPOSITORY}:{number}", scheduled=True) for number in range(300))),
        rules=ImportRules(status_budget=1 << 24),
    )
    many.round()
    many.round(**{name: resolved("a") for name in many.pending})

    class Counting(Status, frozen=True):
        def tag(self, name: str) -> StatusTag | None:
            pytest.fail("a scan of all tags for one of them")

    assert many.stream.status is not None
    fields = {name: getattr(many.stream.status, name) for name in Status.__struct_fields__}
    plan_import(many.stream.with_status(Counting(**fields)), many.progress, now=many.now, rules=many.rules)
