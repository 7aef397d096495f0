"""Pins: the annotation, and what a pinned tag has while registries and other tags move on."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagestreams.core.following import no_streams
from imagestreams.core.lookup import Lookup, Served
from imagestreams.core.merging import PinsAmiss, TagMoved, TagPinned, TagRecovered, TagResumed
from imagestreams.core.pins import MAX_PINS, MAX_TEXT, MAX_WORDS, NO_PINS, Pin, encode_pins, parse_pins, signed
from imagestreams.core.stream import ObjectKey, TagCondition, TagImage, latest_image
from imagestreams.core.wish import ImportRules
from tests.core.streams import (
    NOT_FOUND,
    NOW,
    REPOSITORY,
    UNAVAILABLE,
    Rounds,
    digest,
    follower,
    listed,
    minutes,
    pinned,
    pushed,
    resolved,
    seconds,
    stream,
    tag,
    why,
)

# ---- the annotation ----

MOMENT = datetime(2026, 3, 1, 11, 0, tzinfo=UTC)
GOOD = {"digest": digest("a"), "reason": "checkout fails", "by": "jane", "at": "2026-03-01T11:00:00Z"}


@pytest.mark.parametrize(
    ("entry", "pin"),
    [
        pytest.param(GOOD, Pin(digest("a"), "checkout fails", "jane", MOMENT), id="all of it"),
        pytest.param({"digest": digest("a")}, Pin(digest("a")), id="a digest alone"),
        pytest.param({**GOOD, "at": "2026-03-01T13:00:00.7+02:00"}, Pin(*Pin(**GOOD)[:3], MOMENT), id="another zone"),
        pytest.param({**GOOD, "more": [1]}, Pin(*Pin(**GOOD)[:3], MOMENT), id="what we do not know is passed over"),
        pytest.param({"digest": digest("a"), "reason": None}, Pin(digest("a")), id="null is nothing"),
        pytest.param({"digest": digest("a"), "by": "\x1b[2Jjane\n"}, Pin(digest("a"), by="[2Jjane"), id="control"),
        pytest.param({"digest": digest("a"), "by": "j" * 999}, Pin(digest("a"), by="j" * MAX_WORDS), id="long"),
        pytest.param({"digest": "sha512:" + "a" * 128}, Pin("sha512:" + "a" * 128), id="sha512"),
    ],
)
def test_an_entry_is_read(entry: dict[str, Any], pin: Pin):
    found = parse_pins(json.dumps({"stable": entry}))
    assert (dict(found.pins), found.problems, found.unread, found.is_whole) == ({"stable": pin}, (), frozenset(), True)


@pytest.mark.parametrize(
    ("entries", "tags", "unread", "problem"),
    [
        pytest.param({"stable": {"digest": "sha256:12"}}, set(), {"stable"}, 'digest is "sha256:12"', id="short"),
        pytest.param({"stable": {"digest": digest("a").upper()}}, set(), {"stable"}, "its digest is", id="upper case"),
        pytest.param({"stable": {"digest": 5}}, set(), {"stable"}, "its digest is missing", id="number"),
        pytest.param({"stable": {}}, set(), {"stable"}, "its digest is missing", id="none"),
        pytest.param({"stable": digest("a")}, set(), {"stable"}, "it is no object", id="text"),
        pytest.param({"stable": None}, set(), {"stable"}, "it is no object", id="null"),
        pytest.param({"no tag!": GOOD, "ok": GOOD}, {"ok"}, {"no tag!"}, "no tag's name", id="the others count"),
        pytest.param({"s": {**GOOD, "at": "noon"}}, {"s"}, set(), "holds, but its at cannot be read", id="time"),
        pytest.param({"s": {**GOOD, "at": "2026-02-30T00:00:00Z"}}, {"s"}, set(), "its at cannot", id="no such day"),
        pytest.param(
            {"s": {**GOOD, "at": "0001-01-01T00:00:00+14:00"}}, {"s"}, set(), "its at cannot", id="before time"
        ),
        pytest.param({"s": {**GOOD, "by": 1, "reason": []}}, {"s"}, set(), "its reason and by cannot", id="words"),
    ],
)
def test_what_is_wrong_with_an_entry_is_said_and_the_rest_counts(
    entries: dict[str, Any], tags: set[str], unread: set[str], problem: str
):
    found = parse_pins(json.dumps(entries))
    assert (set(found.pins), found.unread, found.is_whole) == (tags, unread, True)
    assert len(found.problems) == 1
    assert problem in found.problems[0]
    assert all(found.is_unclear(name) for name in unread)
    assert not found.is_unclear("other")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param('{"stable": ', "is no JSON", id="broken"),
        pytest.param("[]", "is no JSON object", id="list"),
        pytest.param("null", "is no JSON object", id="null"),
        pytest.param("[" * 10_000, "is n", id="deep"),
        pytest.param('"\ud800"', "is no JSON", id="half a character"),
        pytest.param(" " * MAX_TEXT + "{}", "is longer than 64 KiB", id="long"),
        pytest.param(json.dumps({f"t{n}": 0 for n in range(MAX_PINS + 1)}), "has more than 1000 entries", id="many"),
    ],
)
def test_an_annotation_that_cannot_be_read_leaves_all_unclear(text: str, problem: str):
    found = parse_pins(text)
    assert (dict(found.pins), len(found.problems)) == ({}, 1)
    assert f"the annotation imagestreams.dev/pins {problem}" in found.problems[0]
    assert found.problems[0].isprintable()
    assert found.is_unclear("stable")


def test_no_annotation_is_no_pin():
    assert parse_pins(None) is NO_PINS
    assert parse_pins("{}") == parse_pins(" ") == NO_PINS
    assert not NO_PINS.is_unclear("stable")


words = st.text(st.characters(exclude_categories=["C", "Z"]), max_size=MAX_WORDS)
moments = st.datetimes(datetime(1970, 1, 1), datetime(9000, 1, 1)).map(  # noqa: DTZ001
    lambda at: at.replace(microsecond=0, tzinfo=UTC)
)
pins = st.builds(Pin, st.sampled_from([digest("a"), digest("b")]), words, words, st.none() | moments)
tags = st.from_regex(r"\A[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}\Z")


@given(st.dictionaries(tags, pins, max_size=5))
def test_what_is_written_is_read_back(written: dict[str, Pin]):
    found = parse_pins(encode_pins(written))
    assert (dict(found.pins), found.problems) == (written, ())
    assert encode_pins(dict(reversed(written.items()))) == encode_pins(written)


leaves = st.none() | st.text() | st.integers()
trees = st.recursive(leaves, lambda deeper: st.dictionaries(tags | st.text(), deeper))


@given(st.text() | trees.map(json.dumps))
def test_whatever_is_written_there_can_be_read(text: str):
    found = parse_pins(text)
    assert all(problem.isprintable() for problem in found.problems)
    assert not found.pins.keys() & found.unread


def test_a_time_of_another_zone_is_written_in_utc():
    at = datetime(2026, 3, 1, 13, 0, tzinfo=timezone(timedelta(hours=2)))
    assert json.loads(encode_pins({"stable": Pin(digest("a"), at=at)}))["stable"]["at"] == "2026-03-01T11:00:00Z"


def test_who_writes_a_pin_is_written_down_and_nobody_elses_name_is():
    old = {"kept": Pin(digest("a"), "why", "jane", MOMENT), "changed": Pin(digest("a"), "why", "jane", MOMENT)}
    new = {**old, "changed": Pin(digest("b"), "why", "jane", MOMENT), "new": Pin(digest("c"), by="root")}
    found = signed(old, new, by="joe\n", at=NOW + timedelta(microseconds=5))
    assert found == {
        "kept": old["kept"],
        "changed": Pin(digest("b"), "why", "joe", NOW),
        "new": Pin(digest("c"), "", "joe", NOW),
    }


@pytest.mark.parametrize(
    ("pin", "shown"),
    [
        (Pin("sha256:a"), "sha256:a"),
        (Pin("sha256:a", by="jane", at=MOMENT), "sha256:a by jane since 2026-03-01T11:00:00Z"),
        (Pin("sha256:a", "why"), "sha256:a: why"),
    ],
)
def test_a_pin_in_words(pin: Pin, shown: str):
    assert str(pin) == shown


# ---- what a pinned tag has ----


def pin(**letters: str) -> str:
    return encode_pins({name: Pin(digest(letter)) for name, letter in letters.items()})


def moved(*spec: Any, letters: str = "ab", **kwargs: Any) -> Rounds:
    """Rounds in which each tag that is looked up moved through the images, a minute apart."""
    rounds = Rounds(stream(*(spec or (tag(scheduled=True),))), **kwargs)
    rounds.round()
    for letter in letters:
        rounds.answer_all(resolved(letter))
        rounds.wait(minutes(1))
        names = [each.name for each in rounds.stream.spec_tags]
        rounds.round(hints=names)
    rounds.answer_all(resolved(letters[-1]))
    rounds.take_heard()
    rounds.wait(minutes(1))
    return rounds


def conditions(rounds: Rounds, name: str = "latest") -> list[tuple[str, str]]:
    return [(each.type, each.status) for each in rounds.status_tag(name).conditions or ()]


def says(rounds: Rounds) -> str:
    ready = rounds.stream.status and rounds.stream.status.ready
    return (ready and ready.message) or ""


def test_a_pinned_tag_is_put_back_once_and_keeps_its_history():
    rounds = moved()
    items = rounds.status_tag().items
    rounds.edit(pins=pin(latest="a"))
    rounds.round()
    newest, *rest = rounds.status_tag().items or ()
    assert tuple(rest) == items
    assert (newest.image, newest.docker_image_reference, newest.created) == (digest("a"), pinned("a"), rounds.now)
    assert conditions(rounds) == [("ImportSuccess", "True"), ("Pinned", "True")]
    assert rounds.take_heard() == [TagPinned("latest", f"held at {digest('a')}")]
    rounds.wait(minutes(1))
    with rounds.unwritten():
        rounds.round()
    rounds.restart()
    with rounds.unwritten():
        rounds.round()


def test_a_tag_is_pinned_to_what_it_has():
    rounds = moved()
    rounds.edit(pins=pin(latest="b"))
    rounds.round()
    assert rounds.history() == ["b", "a"]
    assert conditions(rounds)[1:] == [("Pinned", "True")]
    assert rounds.take_heard() == [TagPinned("latest", f"held at {digest('b')}")]
    rounds.edit(pins=None)
    plan = rounds.round()
    assert rounds.take_heard() == [TagResumed("latest")]
    assert why(plan) == {}, "the registry had nothing else, so nobody needs to ask"


def test_another_pin_takes_the_place_of_the_first():
    rounds = moved(letters="abc")
    rounds.edit(pins=pin(latest="a"))
    rounds.round()
    since = rounds.status_tag().pinned
    rounds.wait(minutes(1))
    rounds.edit(pins=pin(latest="b"))
    rounds.round()
    assert rounds.history() == ["b", "a", "c", "b", "a"]
    now = rounds.status_tag().pinned
    assert since is not None
    assert now is not None
    assert (now.message, now.last_transition_time) == (f"held at {digest('b')}", since.last_transition_time)


def test_consumers_get_the_pinned_image_and_its_own_name():
    rounds = moved()
    rounds.edit(pins=pin(latest="a"))
    rounds.round()
    found = latest_image(rounds.stream, "latest", no_streams)
    assert isinstance(found, TagImage)
    assert (found.pull_spec, found.digest) == (pinned("a"), digest("a"))


def test_what_the_registry_serves_is_only_noted():
    rounds = moved()
    rounds.edit(pins=pin(latest="a"))
    rounds.round(hints=["latest"])
    assert rounds.pending["latest"].question.known == Served(digest("b"), digest("b")), "so that a HEAD is enough"  # type: ignore[union-attr]
    rounds.take_heard()
    rounds.round(latest=resolved("c"))
    assert rounds.history() == ["a", "b", "a"]
    observed = rounds.status_tag().observed
    assert observed is not None
    assert observed.digest == digest("c")
    assert rounds.heard == []
    rounds.wait(minutes(1))
    rounds.round(hints=["latest"])
    question = rounds.pending["latest"].question
    assert isinstance(question, Lookup)
    assert question.known == Served(digest("c"), digest("c"))
    with rounds.unwritten():
        rounds.round(latest=resolved("c"))


@pytest.mark.parametrize("is_restarted", [False, True])
def test_a_tag_that_is_let_go_is_asked_for_at_once_and_whole(is_restarted: bool):
    rounds = moved()
    rounds.edit(pins=pin(latest="a"))
    rounds.round()
    rounds.edit(pins=None)
    if is_restarted:
        rounds.merge()
        rounds.restart()
    plan = rounds.round()
    assert conditions(rounds) == [("ImportSuccess", "True")]
    assert why(plan) == {"latest": "source"}
    assert plan.due[0].known is None
    rounds.take_heard()
    rounds.round(latest=resolved("b"))
    assert rounds.history() == ["b", "a", "b", "a"]
    assert rounds.heard == [TagMoved("latest", pinned("a"), pinned("b"))]
    rounds.wait(minutes(1))
    assert why(rounds.round()) == {}


def test_a_tag_that_is_let_go_is_not_kept_waiting_by_an_answer_of_a_moment_ago():
    rounds = moved()
    rounds.edit(pins=pin(latest="a"))
    rounds.round(hints=["latest"])
    rounds.round(latest=resolved("b"))
    rounds.wait(seconds(1))
    rounds.edit(pins=None)
    assert why(rounds.round()) == {"latest": "hint"}


def test_a_tag_that_is_let_go_is_tried_until_it_is_there():
    rounds = moved()
    rounds.edit(pins=pin(latest="a"))
    rounds.round()
    rounds.edit(pins=None)
    rounds.round()
    rounds.round(latest=UNAVAILABLE)
    rounds.wait(minutes(1))
    assert why(rounds.round()) == {"latest": "retry"}
    rounds.round(latest=resolved("b"))
    assert rounds.history() == ["b", "a", "b", "a"]


def test_a_failing_registry_is_told_and_moves_nothing():
    rounds = moved()
    rounds.edit(pins=pin(latest="a"))
    rounds.round(hints=["latest"])
    rounds.round(latest=NOT_FOUND)
    assert conditions(rounds) == [("ImportSuccess", "False"), ("Pinned", "True")]
    rounds.take_heard()
    rounds.wait(minutes(1))
    rounds.round(hints=["latest"])
    rounds.round(latest=resolved("c"))
    assert rounds.history() == ["a", "b", "a"]
    assert rounds.heard == [TagRecovered("latest")]


def test_another_source_is_looked_up_and_moves_nothing():
    rounds = moved()
    rounds.edit(tag(image="quay.io/acme/other:1"), pins=pin(latest="a"))
    rounds.round()
    rounds.round(latest=resolved("d"))
    assert rounds.history() == ["a", "b", "a"]
    assert rounds.ready == ("True", "Imported")
    with rounds.unwritten():
        rounds.round()


def test_another_index_with_a_pinned_image_is_no_other_image():
    """In Legacy mode the digest that is served is an index's."""
    rounds = Rounds(stream(tag(mode="Legacy")))
    rounds.round()
    rounds.round(latest=resolved("1", child="a"))
    rounds.wait(minutes(1))
    rounds.round(hints=["latest"])
    rounds.round(latest=resolved("2", child="b"))
    rounds.edit(pins=pin(latest="a"))
    rounds.wait(minutes(1))
    rounds.round(hints=["latest"])
    question = rounds.pending["latest"].question
    assert isinstance(question, Lookup)
    assert question.known is None, "what is known of the index is that it holds another image"
    rounds.round(latest=resolved("3", child="c"))
    assert rounds.history() == ["a", "b", "a"]
    rounds.wait(minutes(1))
    rounds.round(hints=["latest"])
    question = rounds.pending["latest"].question
    assert isinstance(question, Lookup)
    assert question.known == Served(digest("3"), digest("c"))
    rounds.round(latest=resolved("3", child="c"))
    rounds.wait(minutes(1))
    rounds.edit(pins=None)
    rounds.round()
    rounds.round(latest=resolved("3", child="c"))
    assert rounds.history() == ["c", "a", "b", "a"]


# ---- who follows ----


def test_tags_that_follow_have_what_is_pinned():
    rounds = moved(tag(scheduled=True), follower("prod", "latest"), follower("live", "prod"))
    rounds.edit(pins=pin(latest="a"))
    rounds.round()
    assert rounds.history("prod") == rounds.history("live") == ["a", "b", "a"]
    assert conditions(rounds, "prod") == [("ImportSuccess", "True")]
    assert rounds.take_heard() == [
        TagMoved("prod", pinned("b"), pinned("a")),
        TagMoved("live", pinned("b"), pinned("a")),
        TagPinned("latest", f"held at {digest('a')}"),
    ]


def test_a_pinned_tag_in_the_middle_of_a_chain_holds_those_behind_it():
    rounds = moved(tag(scheduled=True), follower("prod", "latest"), follower("live", "prod"))
    rounds.edit(pins=pin(prod="a"))
    rounds.round(hints=["latest"])
    rounds.round(latest=resolved("c"))
    assert [rounds.history(name)[0] for name in ("latest", "prod", "live")] == ["c", "a", "a"]
    rounds.edit(pins=None)
    with_rights = rounds.merge()
    assert with_rights.rights == frozenset()
    assert [rounds.history(name)[0] for name in ("latest", "prod", "live")] == ["c", "c", "c"]


def test_no_right_is_asked_for_what_would_not_be_taken():
    other = moved().stream
    key = ObjectKey("far", "app")
    there = msgspec.structs.replace(other, metadata=msgspec.structs.replace(other.metadata, namespace="far"))
    rounds = Rounds(stream(follower("web", "app:latest", namespace="far")), others=[there], may_pull=[key])
    rounds.round()
    assert rounds.history("web") == ["b"]
    rounds.edit(pins=pin(web="b"))
    rounds.round()
    newer = moved(letters="abc").stream
    rounds.others[key] = msgspec.structs.replace(newer, metadata=there.metadata)
    assert rounds.merge().rights == frozenset()
    assert rounds.history("web") == ["b"]
    rounds.edit(pins=None)
    assert rounds.merge().rights == {key}
    assert rounds.history("web") == ["c", "b"]


def test_a_tag_that_names_an_image_by_its_id_goes_back_to_it():
    rounds = moved(tag(scheduled=True), tag("fixed", f"app@{digest('b')}", kind="ImageStreamImage"))
    assert rounds.history("fixed") == ["b"]
    rounds.edit(tag(), tag("fixed", f"app@{digest('a')}", kind="ImageStreamImage"))
    rounds.round()
    assert rounds.history("fixed") == ["a", "b"]
    rounds.edit(pins=pin(fixed="b"))
    rounds.round()
    assert rounds.history("fixed") == ["b", "a", "b"]
    with rounds.unwritten():
        rounds.round()
    rounds.edit(pins=None)
    rounds.round()
    assert rounds.history("fixed") == ["a", "b", "a", "b"]
    with rounds.unwritten():
        rounds.round()


def test_a_tag_of_the_repository_can_be_pinned_and_comes_back_after_a_restart():
    rounds = Rounds(stream(repository=REPOSITORY))
    rounds.round()
    rounds.round(listing=listed("x"))
    rounds.answer_all(resolved("a"))
    rounds.wait(minutes(1))
    rounds.round(hints=["x"])
    rounds.answer_all(resolved("b"))
    rounds.wait(minutes(1))
    rounds.edit(pins=pin(x="a"))
    rounds.round()
    assert rounds.history("x") == ["a", "b", "a"]
    assert rounds.ready == ("True", "Imported")
    rounds.edit(pins=None)
    rounds.merge()
    rounds.restart()
    assert why(rounds.round()) == {"x": "source"}
    rounds.answer_all(resolved("b"))
    assert rounds.history("x") == ["b", "a", "b", "a"]


def test_a_tag_that_nothing_feeds_any_more_can_be_rolled_back():
    rounds = moved()
    rounds.edit(pushed("other"), pins=pin(latest="a"))
    rounds.round()
    assert rounds.history() == ["a", "b", "a"]
    rounds.edit(pins=None)
    rounds.round()
    assert (rounds.history(), conditions(rounds)) == (["a", "b", "a"], [("ImportSuccess", "True")])


# ---- what is wrong ----


def test_an_image_that_the_tag_never_had_changes_nothing_and_is_said_once():
    rounds = moved()
    rounds.edit(pins=pin(latest="c", gone="a"))
    rounds.round()
    assert rounds.history() == ["b", "a"]
    assert conditions(rounds) == [("ImportSuccess", "True"), ("Pinned", "False")]
    never_had = f'tag "latest" is pinned, but {digest("c")} is not in its history; it stays as it is'
    unknown = 'tag "gone" is pinned, but the stream does not have it'
    assert says(rounds).endswith(f"; {unknown}; {never_had}")
    assert rounds.take_heard() == [PinsAmiss(f"{unknown}; {never_had}")]
    with rounds.unwritten():
        rounds.round(hints=["latest"])
        rounds.round(latest=resolved("b"))
    rounds.wait(minutes(1))
    rounds.round(hints=["latest"])
    rounds.round(latest=resolved("d"))
    assert (rounds.history(), rounds.heard) == (["b", "a"], [])


def test_an_image_that_comes_later_is_taken():
    rounds = moved()
    rounds.edit(pins=pin(latest="c"))
    rounds.round(hints=["latest"])
    rounds.take_heard()
    rounds.round(latest=resolved("c"))
    assert rounds.history() == ["c", "b", "a"]
    assert conditions(rounds)[1:] == [("Pinned", "True")]
    assert rounds.heard == [TagMoved("latest", pinned("b"), pinned("c")), TagPinned("latest", f"held at {digest('c')}")]


def test_nothing_is_said_of_a_tag_before_it_was_looked_up():
    rounds = Rounds(stream(tag(), pins=pin(latest="a")))
    rounds.round()
    assert rounds.heard == []
    rounds.round(latest=resolved("a"))
    assert (rounds.history(), [type(step) for step in rounds.heard]) == (["a"], [TagMoved, TagPinned])


def test_nothing_is_said_of_a_tag_that_the_repository_may_still_bring():
    rounds = Rounds(stream(tag(), repository=REPOSITORY, pins=pin(x="a")))
    rounds.round()
    rounds.round(latest=resolved("a"))
    assert rounds.writes == 1
    rounds.round(listing=listed("x", "y"))
    assert not [step for step in rounds.heard if isinstance(step, PinsAmiss)]
    rounds.answer_all(resolved("a"))
    assert rounds.history("x") == ["a"]
    assert conditions(rounds, "x")[1:] == [("Pinned", "True")]
    assert not [step for step in rounds.heard if isinstance(step, PinsAmiss)]


def test_a_reference_has_no_digest_that_it_could_be_pinned_to():
    rounds = Rounds(stream(tag(reference=True), pins=pin(latest="a")))
    rounds.round()
    assert (rounds.status_tag().items, conditions(rounds)[1:]) == ((), [("Pinned", "False")])


@pytest.mark.parametrize("broken", ["{", '{"latest": 1}', '{"latest": {"digest": "x"}}'])
def test_what_cannot_be_read_releases_nothing_and_holds_nothing_new(broken: str):
    rounds = moved(tag(scheduled=True), tag("other", scheduled=True))
    rounds.edit(pins=pin(latest="a"))
    rounds.round()
    before = rounds.status_tag().pinned
    rounds.take_heard()
    rounds.edit(pins=broken)
    rounds.round(hints=["latest", "other"])
    assert [type(step) for step in rounds.take_heard()] == [PinsAmiss]
    rounds.round(latest=resolved("c"), other=resolved("c"))
    assert (rounds.history()[0], rounds.history("other")[0]) == ("a", "c")
    assert rounds.status_tag().pinned == before
    assert rounds.heard == [TagMoved("other", pinned("b"), pinned("c"))]
    rounds.restart()
    with rounds.unwritten():
        rounds.round()


def test_many_faults_are_counted():
    rounds = moved()
    rounds.edit(pins=pin(**{f"t{n}": "a" for n in range(400)}))
    rounds.round()
    assert says(rounds).count("the stream does not have it") == 5
    assert says(rounds).endswith("; 395 more pins are amiss")


# ---- history and room ----


def test_the_oldest_image_is_pinned_in_the_round_that_would_have_dropped_it():
    rounds = moved(letters="abc", rules=ImportRules(history_limit=3))
    rounds.round(hints=["latest"])
    rounds.edit(pins=pin(latest="a"))
    rounds.round(latest=resolved("d"))
    assert rounds.history() == ["a", "c", "b"]


def test_the_pinned_image_is_kept_when_room_is_scarce():
    rounds = moved(tag(scheduled=True), tag("other", scheduled=True), letters="abcdef")
    rounds.edit(pins=pin(latest="a"))
    rounds.rules = ImportRules(status_budget=700)
    rounds.round(hints=["latest", "other"])
    rounds.round(latest=resolved("1"), other=resolved("1"))
    assert (rounds.history(), rounds.history("other")) == (["a"], ["1"])
    assert conditions(rounds)[1:] == [("Pinned", "True")]


def test_a_forgotten_tag_is_pinned_no_more():
    rounds = moved(tag(), tag("old"))
    rounds.edit(tag(), pins=pin(old="a"))
    rounds.round()
    assert rounds.history("old")[0] == "a"
    rounds.edit(pins=pin(old="a"), forget="n1 old")
    rounds.round()
    assert rounds.stream.status_tag("old") is None
    assert 'tag "old" is pinned, but the stream does not have it' in says(rounds)


# ---- the flap guard ----


def test_pins_are_no_flapping():
    rounds = moved(rules=ImportRules(flap_window=minutes(600)))
    for _ in range(3):
        rounds.edit(pins=pin(latest="a"))
        rounds.round()
        rounds.wait(minutes(1))
        rounds.edit(pins=None)
        rounds.round()
        rounds.round(latest=resolved("b"))
        rounds.wait(minutes(1))
    assert rounds.history()[:4] == ["b", "a", "b", "a"]
    rounds.round(hints=["latest"])
    rounds.round(latest=resolved("a"))
    assert rounds.history()[0] == "a", "somebody moved the tag back"


def test_what_the_registry_says_is_believed_also_by_a_process_that_has_just_begun():
    rounds = moved(rules=ImportRules(flap_window=minutes(600)))
    for letter in "aba":
        rounds.edit(pins=pin(latest=letter))
        rounds.round()
        rounds.wait(minutes(1))
    rounds.edit(pins=pin(latest="b"))
    rounds.round(hints=["latest"])
    rounds.round(latest=resolved("a"))
    rounds.edit(pins=None)
    rounds.merge()
    rounds.restart()
    rounds.round()
    rounds.round(latest=resolved("a"))
    assert "".join(rounds.history())[:4] == "abab"


def test_a_tag_that_flaps_can_be_pinned_and_is_believed_when_it_is_let_go():
    rounds = moved(letters="ababab", rules=ImportRules(flap_window=minutes(600)))
    outcome = rounds.status_tag().outcome
    assert isinstance(outcome, TagCondition)
    assert outcome.reason == "Flapping"
    kept = rounds.history()[0]
    other = "a" if kept == "b" else "b"
    rounds.edit(pins=pin(latest=other))
    rounds.round(hints=["latest"])
    rounds.round(latest=resolved(kept))
    assert rounds.history()[0] == other
    assert conditions(rounds) == [("ImportSuccess", "True"), ("Pinned", "True")]
    rounds.wait(seconds(90))
    rounds.edit(pins=None)
    rounds.round()
    rounds.answer_all(resolved(kept))
    assert rounds.history()[0] == kept


# ---- suspension ----


def test_a_suspended_stream_can_be_rolled_back_and_asks_when_it_goes_on():
    rounds = moved()
    rounds.suspend()
    rounds.edit(pins=pin(latest="a"), suspend="true")
    rounds.round()
    assert rounds.history() == ["a", "b", "a"]
    rounds.edit(suspend="true")
    assert why(rounds.round()) == {}
    rounds.edit()
    assert why(rounds.round()) == {"latest": "source"}


# ---- revisions ----


def revisions(rounds: Rounds) -> tuple[int, int | None]:
    found = rounds.status_tag()
    return found.newest_revision, found.revision


def test_revisions_count_on_when_history_is_trimmed():
    rounds = Rounds(stream(tag()), rules=ImportRules(history_limit=3))
    rounds.round()
    for number, letter in enumerate("abcde", start=1):
        rounds.answer_all(resolved(letter))
        assert revisions(rounds) == (number, number if number > 3 else None)
        rounds.wait(minutes(1))
        rounds.round(hints=["latest"])
    rounds.round(latest=UNAVAILABLE)
    assert revisions(rounds) == (5, 5), "a failure is no revision"
    rounds.edit(pins=pin(latest="c"))
    rounds.round()
    assert (rounds.history(), revisions(rounds)) == (["c", "e", "d"], (6, 6))
    rounds.restart()
    with rounds.unwritten():
        rounds.round()


def test_a_correction_in_place_is_no_revision():
    rounds = moved(letters="ab", rules=ImportRules(history_limit=1))
    assert revisions(rounds) == (2, 2)
    rounds.edit(tag(image="quay.io/acme/mirror:1"))
    rounds.round()
    rounds.answer_all(resolved("b"))
    assert rounds.status_tag().newest.docker_image_reference == pinned("b", "quay.io/acme/mirror")  # type: ignore[union-attr]
    assert revisions(rounds) == (2, 2)


def test_a_tag_without_conditions_is_pinned_once_and_released():
    rounds = moved()
    rounds.edit()
    bare = tuple(msgspec.structs.replace(each, conditions=None, observed=None) for each in rounds.stream.status.tags)
    rounds.stream = rounds.stream.with_status(msgspec.structs.replace(rounds.stream.status, tags=bare))  # OpenShift's
    rounds.restart()
    rounds.round()
    rounds.take_heard()
    rounds.edit(pins=pin(latest="a"))
    rounds.round()
    writes = rounds.writes
    for _ in range(3):
        rounds.wait(minutes(1))
        rounds.round()
    assert rounds.writes == writes, "nothing happens, nothing is written"
    rounds.edit(pins="{garbage")
    rounds.round()
    assert rounds.stream.status_tag("latest").pinned is not None, "what is held stays held"
    rounds.edit(pins=None)
    rounds.round()
    assert rounds.stream.status_tag("latest").pinned is None
