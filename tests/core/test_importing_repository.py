"""Importing a whole repository: what is listed when, what becomes of its tags, and what is said of those left out."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagestreams.core.importing import REPOSITORY as LISTING
from imagestreams.core.importing import Plan
from imagestreams.core.keychain import Credential, Entry
from imagestreams.core.lookup import Listing, Lookup, Outcome
from imagestreams.core.merging import RepositoryFailed, RepositoryImported, TagFailed, TagMoved
from imagestreams.core.policy import Policy
from imagestreams.core.stream import Condition, Observed, Repository, Status, StatusTag, TagReference, encode
from imagestreams.core.wish import ImportRules
from tests.core.streams import (
    NOT_FOUND,
    REPOSITORY,
    UNAVAILABLE,
    Rounds,
    answer,
    deferred,
    failed,
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

RULES = ImportRules()
CREDENTIAL = Credential("robot", "secret", "pull-secret")


def rounds_of(
    *tags: TagReference, repository: str = REPOSITORY, rules: ImportRules = RULES, **annotations: str | None
) -> Rounds:
    """A stream of a repository, whose listing is under way."""
    rounds = Rounds(stream(*tags, repository=repository, **annotations), rules=rules)
    rounds.round()
    return rounds


def imported(*names: str, found: int | None = None, rules: ImportRules = RULES) -> Rounds:
    """A stream whose repository has been imported."""
    rounds = rounds_of(rules=rules)
    rounds.round(listing=listed(*names, found=found))
    rounds.answer_all(resolved("a"))
    rounds.take_heard()
    rounds.wait(minutes(1))
    return rounds


def condition(rounds: Rounds) -> Condition:
    found = (rounds.stream.status or Status()).condition("RepositoryImported")
    assert found is not None
    return found


def said(rounds: Rounds) -> tuple[str, str | None]:
    return condition(rounds).status, condition(rounds).reason


def recorded(rounds: Rounds) -> Repository | None:
    return (rounds.stream.status or Status()).repository


def tags_of(rounds: Rounds) -> set[str]:
    return {each.tag for each in (rounds.stream.status or Status()).tags or ()}


def handled(rounds: Rounds) -> str | None:
    status = rounds.stream.status
    return status.handled.refresh if status and status.handled else None


# --- the way of an import ---------------------------------------------------------------------------------------------


def test_a_repository_is_listed_its_tags_looked_up_and_the_end_said():
    rounds = Rounds(stream(repository=REPOSITORY))
    with rounds.unwritten():
        assert why(rounds.round()) == {LISTING: "source"}
        assert why(rounds.round(listing=listed("1.0", "latest"))) == {"1.0": "source", "latest": "source"}
    rounds.answer_all(resolved("a"))
    assert rounds.writes == 1
    assert (rounds.history("1.0"), rounds.history("latest")) == (["a"], ["a"])
    assert recorded(rounds) == Repository(REPOSITORY, insecure=False, found=2, left_out=0, limit=1000)
    assert (rounds.ready, said(rounds)) == (("True", "Imported"), ("True", "Imported"))
    message = f'all tags of "{REPOSITORY}" are imported: 2'
    assert condition(rounds).message == message
    assert rounds.heard == [RepositoryImported(REPOSITORY, message)], "not a word for each tag"
    with rounds.unwritten():
        rounds.wait(timedelta(days=30))
        assert rounds.round().look_again is None
    assert rounds.progress.keys() == {LISTING}, "nothing is remembered of tags that are done"


def test_the_floor_between_refreshes_holds_for_tags_of_a_repository():
    rounds = rounds_of()
    rounds.round(listing=listed("1"))
    rounds.answer_all(resolved("a"))
    rounds.edit(refresh="n1 1")
    plan = rounds.round()
    assert (why(plan), plan.look_again) == ({}, rounds.now + RULES.refresh_floor)


def test_the_questions_say_how_to_ask():
    rounds = Rounds(
        stream(repository="quay.io/acme/app"),
        entries=[Entry("quay.io", "", CREDENTIAL)],
        rules=ImportRules(repository_tags=7),
    )
    rounds.round()
    listing = rounds.pending[LISTING].question
    assert isinstance(listing, Listing)
    assert (str(listing.reference), listing.limit, listing.credentials) == (REPOSITORY, 7, (CREDENTIAL,))
    rounds.round(listing=listed("1"))
    lookup = rounds.pending["1"].question
    assert isinstance(lookup, Lookup)
    assert (str(lookup.reference), lookup.credentials, lookup.known) == (f"{REPOSITORY}:1", (CREDENTIAL,), None)
    rounds.answer_all(resolved("a"))
    assert rounds.status_tag("1").observed == Observed(
        from_=rounds.status_tag("1").observed.from_,  # type: ignore[union-attr]
        import_mode="PreserveOriginal",
        generation=1,
        digest=resolved("a").served.digest,
    )


def test_an_insecure_repository_is_asked_insecurely_and_without_credentials():
    rounds = Rounds(
        stream(repository=REPOSITORY, insecure_repository="true"), entries=[Entry("quay.io", "", CREDENTIAL)]
    )
    rounds.round()
    rounds.round(listing=listed("1"))
    question = rounds.pending["1"].question
    assert (question.transport.insecure, question.transport.credentials) == (True, False)
    rounds.answer_all(resolved("a"))
    assert recorded(rounds) == Repository(REPOSITORY, insecure=True, found=1, limit=1000)
    rounds.edit()
    assert why(rounds.round()) == {LISTING: "source", "1": "source"}, "securely from now on"
    rounds.round(listing=listed("1"))
    rounds.answer_all(resolved("a"))
    assert recorded(rounds) == Repository(REPOSITORY, insecure=False, found=1, limit=1000)


def test_a_spec_tag_of_the_same_name_wins():
    rounds = rounds_of(tag("1", "quay.io/acme/other:1"), pushed("2"))
    rounds.round(listing=listed("1", "2", "3"))
    assert set(rounds.pending) == {"1", "3"}
    rounds.answer_all(resolved("a"))
    assert rounds.status_tag("1").newest.docker_image_reference == pinned("a", "quay.io/acme/other")  # type: ignore[union-attr]
    assert rounds.stream.status_tag("2") is None
    assert recorded(rounds) == Repository(REPOSITORY, found=3, left_out=0, limit=1000)


def test_what_cannot_be_a_tag_is_counted():
    rounds = rounds_of()
    rounds.round(listing=listed("ok", "no tag", "x" * 129, "", "ok", found=5))
    rounds.answer_all(resolved("a"))
    assert tags_of(rounds) == {"ok"}
    assert (recorded(rounds), said(rounds)) == (
        Repository(REPOSITORY, found=5, left_out=4, limit=1000),
        ("True", "LeftOut"),
    )
    assert rounds.ready == ("True", "Imported")


def test_an_empty_repository_is_imported():
    rounds = rounds_of()
    rounds.round(listing=listed())
    assert (rounds.writes, rounds.ready, said(rounds)) == (1, ("True", "Imported"), ("True", "Imported"))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param("quay.io/acme/app:1", "InvalidImageReference", id="a tag"),
        pytest.param(pinned("a"), "InvalidImageReference", id="a digest"),
        pytest.param("quay.io", "InvalidImageReference", id="a registry"),
        pytest.param("https://quay.io/x", "InvalidImageReference", id="a scheme"),
        pytest.param("docker.io/library/x", "NotAllowed", id="not allowed"),
    ],
)
def test_what_is_no_repository_is_refused(text: str, reason: str):
    rules = ImportRules(policy=Policy(hosts={}, allowed=("quay.io",)))
    rounds = rounds_of(tag(), repository=text, rules=rules)
    rounds.round(latest=resolved("a"))
    assert (said(rounds), rounds.ready) == (("False", reason), ("False", "ImportFailed"))
    assert [step for step in rounds.heard if isinstance(step, RepositoryFailed)] == [
        RepositoryFailed(text, reason, condition(rounds).message or "")
    ]
    with rounds.unwritten():
        assert rounds.round().look_again is None


ALIAS = follower("alias", "1")


def test_an_alias_of_a_repositorys_tag_waits_for_the_listing():
    rounds = Rounds(stream(ALIAS, follower("second", "alias"), repository=REPOSITORY))
    with rounds.unwritten():
        rounds.round()
        rounds.round(listing=listed("1"))
    rounds.answer_all(resolved("a"))
    assert rounds.writes == 1
    assert (rounds.history("alias"), rounds.history("second")) == (["a"], ["a"])
    assert not [step for step in rounds.heard if isinstance(step, TagFailed)]


def test_so_does_one_of_another_stream():
    base = Rounds(stream(repository=REPOSITORY, name="base"))
    rounds = Rounds(stream(follower("latest", "base:1")), others=[base.stream])
    with rounds.unwritten():
        rounds.round()
        base.round()
        base.round(listing=listed("1", "2"))
        base.round(**{"2": resolved("b")})
        rounds.others[base.stream.key] = base.stream
        rounds.round()
    base.round(**{"1": resolved("a")})
    rounds.others[base.stream.key] = base.stream
    rounds.round()
    assert rounds.history() == ["a"]


@pytest.mark.parametrize(
    "outcome", [listed("2"), UNAVAILABLE, NOT_FOUND], ids=["not in it", "not listed", "no repository"]
)
@pytest.mark.parametrize("is_other", [False, True])
def test_an_alias_of_what_a_repository_does_not_give_is_told_so(outcome: Outcome, is_other: bool):
    base = Rounds(stream(*([] if is_other else [ALIAS]), repository=REPOSITORY, name="base"))
    base.round()
    base.round(listing=outcome)
    base.answer_all(resolved("a"))
    rounds = base
    if is_other:
        rounds = Rounds(stream(follower("alias", "base:1")), others=[base.stream])
        rounds.round()
    found = rounds.status_tag("alias").outcome
    assert found is not None
    assert found.reason == "TagNotFound"


def test_an_alias_of_a_tag_that_only_pushes_feed_does_not_wait_for_the_listing():
    rounds = rounds_of(pushed("1"), ALIAS)
    found = rounds.status_tag("alias").outcome
    assert found is not None
    assert found.reason == "TagNotFound"


def test_an_alias_is_not_awaited_of_a_repository_that_is_refused_or_suspended():
    for base in (stream(repository="quay.io", name="base"), stream(repository=REPOSITORY, name="base", suspend="true")):
        rounds = Rounds(stream(follower("latest", "base:1")), others=[base])
        rounds.round()
        found = rounds.status_tag().outcome
        assert found is not None
        assert found.reason == "TagNotFound"


# --- failures ---------------------------------------------------------------------------------------------------------


def test_a_listing_that_fails_for_a_while_is_retried():
    rounds = rounds_of()
    plan = rounds.round(listing=UNAVAILABLE)
    assert (said(rounds), rounds.ready) == (("False", "Unavailable"), ("False", "ImportFailed"))
    assert rounds.take_heard() == [RepositoryFailed(REPOSITORY, "Unavailable", UNAVAILABLE.message)]
    for _ in range(4):
        assert plan.look_again is not None
        rounds.wait(plan.look_again)
        assert why(rounds.round()) == {LISTING: "retry"}
        with rounds.unwritten():
            plan = rounds.round(listing=UNAVAILABLE)
    assert plan.look_again is not None
    rounds.wait(plan.look_again)
    rounds.round()
    rounds.round(listing=listed("1"))
    rounds.answer_all(resolved("a"))
    assert said(rounds) == ("True", "Imported")


@pytest.mark.parametrize("restarts", [False, True])
def test_a_listing_that_fails_for_good_is_not_retried(restarts: bool):
    rounds = rounds_of()
    assert rounds.round(listing=NOT_FOUND).look_again is None
    for _ in range(3):
        if restarts:
            rounds.restart()
        rounds.wait(minutes(60))
        with rounds.unwritten():
            assert why(rounds.round()) == {}
    rounds.edit(repository="quay.io/acme/other")
    if restarts:
        rounds.restart()
    assert why(rounds.round()) == {LISTING: "source"}
    assert rounds.round(listing=listed("1")).due[0].tag == "1"


def test_another_repository_is_not_judged_by_the_failure_of_the_first():
    rounds = rounds_of()
    rounds.round(listing=NOT_FOUND)
    rounds.edit(tag(), repository="quay.io/acme/other")
    rounds.round()
    rounds.round(latest=resolved("a"))
    assert said(rounds) == ("False", "Importing")


def test_what_settings_allow_by_now_is_listed():
    refusing = ImportRules(policy=Policy(hosts={}, allowed=("docker.io",)))
    rounds = rounds_of(rules=refusing)
    assert said(rounds) == ("False", "NotAllowed")
    rounds.use(RULES)
    plan = rounds.round()
    if not plan.due:
        assert plan.look_again is not None
        assert plan.look_again <= rounds.now + RULES.retry_base
        rounds.wait(plan.look_again)
        plan = rounds.round()
    assert why(plan) == {LISTING: "retry"}


def test_a_tag_that_fails_has_its_own_condition_and_its_siblings_go_on():
    rounds = rounds_of()
    rounds.round(listing=listed("1", "2"))
    rounds.round(**{"1": UNAVAILABLE, "2": resolved("a")})
    assert (said(rounds), rounds.ready) == (("True", "Imported"), ("False", "ImportFailed"))
    assert rounds.history("2") == ["a"]
    again = rounds.round().look_again
    assert again is not None
    rounds.wait(again)
    assert why(rounds.round()) == {"1": "retry"}
    rounds.round(**{"1": resolved("a")})
    assert rounds.ready == ("True", "Imported")


@pytest.mark.parametrize("reason", ["NotAnImage", "NotFound"])
def test_a_tag_that_nobody_named_and_that_is_no_image_is_no_failure_of_the_stream(reason: str):
    rounds = rounds_of()
    rounds.round(listing=listed("1", "sha256-x.sig"))
    rounds.round(**{"1": resolved("a"), "sha256_x.sig": failed(reason, "no image", retryable=False)})
    assert rounds.ready == ("True", "Imported")
    outcome = rounds.status_tag("sha256-x.sig").outcome
    assert outcome is not None
    assert outcome.reason == reason
    assert rounds.round().look_again is None


def test_a_deferred_listing_is_waited_for():
    rounds = rounds_of()
    until = rounds.now + minutes(5)
    with rounds.unwritten():
        assert rounds.round(listing=deferred(until)).look_again == until
    rounds.wait(until)
    assert list(why(rounds.round())) == [LISTING]


@pytest.mark.parametrize("outcome", [UNAVAILABLE, NOT_FOUND])
@pytest.mark.parametrize("is_answered_with_it", [False, True])
def test_what_is_imported_is_said_again_when_a_change_that_failed_is_taken_back(
    outcome: Outcome, is_answered_with_it: bool
):
    rounds = imported("1")
    rounds.edit(insecure_repository="true")
    rounds.round()
    tags = {"1": resolved("a")} if is_answered_with_it else {}
    rounds.round(listing=outcome, **tags)
    assert said(rounds)[0] == "False"
    rounds.edit()
    rounds.round()
    assert (said(rounds), condition(rounds).message) == (
        ("True", "Imported"),
        f'all tags of "{REPOSITORY}" are imported: 1',
    )
    rounds.answer_all(resolved("a"))
    assert rounds.ready == ("True", "Imported")


def test_a_failure_is_not_said_of_what_was_never_tried():
    rounds = rounds_of()
    rounds.round(listing=NOT_FOUND)
    rounds.edit(insecure_repository="true")
    rounds.round()
    assert said(rounds) == ("False", "Importing")
    rounds.restart()
    assert why(rounds.round()) == {LISTING: "source"}, "the failure is not taken for one of the new source"


def waiting_behind_a_failed_listing() -> Rounds:
    """A selection waits for its host, a listing that a request wanted fails, and a tag of spec is not found."""
    rounds = rounds_of(tag())
    rounds.round(listing=listed("1", "2"), latest=NOT_FOUND)
    rounds.round(**dict.fromkeys(("1", "2"), deferred(rounds.now + minutes(20))))
    rounds.take_heard()
    rounds.wait(minutes(1))
    rounds.edit(refresh="n1")
    rounds.round()
    rounds.round(listing=UNAVAILABLE, latest=NOT_FOUND)
    assert said(rounds) == ("False", "Unavailable")
    assert rounds.take_heard() == [RepositoryFailed(REPOSITORY, "Unavailable", UNAVAILABLE.message)]
    return rounds


def test_a_listing_that_fails_again_and_again_is_said_once_while_a_selection_waits():
    rounds = waiting_behind_a_failed_listing()
    failures = 0
    with rounds.unwritten():
        while failures < 4:
            again = rounds.round().look_again
            assert again is not None
            rounds.wait(again)
            rounds.round()
            if LISTING in rounds.pending:
                rounds.round(listing=UNAVAILABLE)
                failures += 1


def test_a_selection_that_is_complete_does_not_hide_the_failure_of_the_next_listing():
    rounds = waiting_behind_a_failed_listing()
    rounds.wait(minutes(20))
    rounds.round()
    assert {"1", "2"} <= rounds.pending.keys()
    rounds.answer_all(resolved("a"))
    assert (tags_of(rounds), recorded(rounds)) == (
        {"latest", "1", "2"},
        Repository(REPOSITORY, found=2, limit=1000),
    )
    assert said(rounds) == ("False", "Unavailable")
    assert not [step for step in rounds.heard if isinstance(step, RepositoryImported)]
    rounds.round(listing=listed("1", "2"))
    assert said(rounds) == ("True", "Imported")


def test_a_request_for_all_is_open_until_what_is_listed_is_imported_as_spec_says_now():
    """The tag was answered for the request already, but as spec was before."""
    rounds = imported("1")
    rounds.edit(refresh="n1")
    rounds.round()
    rounds.round(**{"1": resolved("a")})
    rounds.edit(refresh="n1", insecure_repository="true")
    rounds.round()
    rounds.round(listing=listed("1"))
    assert "1" in rounds.pending
    assert handled(rounds) is None
    rounds.answer_all(resolved("a"))
    assert handled(rounds) == "n1"


# --- portions and restarts --------------------------------------------------------------------------------------------


def test_at_most_two_hundred_questions_are_under_way_the_best_first():
    names = [f"t{number:03}" for number in range(450)]
    rounds = rounds_of()
    rounds.round(listing=listed(*names))
    assert sorted(rounds.pending) == names[:200]
    rounds.round(**dict.fromkeys(names[:50], resolved("a")))
    assert sorted(rounds.pending) == names[50:250]
    assert recorded(rounds) is None, "not complete"
    assert len(tags_of(rounds)) == 50, "what has come is written"
    assert said(rounds) == ("False", "Importing")
    most = 0
    while rounds.pending:
        most = max(most, len(rounds.pending))
        rounds.round(**dict.fromkeys(list(rounds.pending)[:70], resolved("a")))
    assert most == 200
    assert len(tags_of(rounds)) == 450
    assert recorded(rounds) == Repository(REPOSITORY, found=450, limit=1000)


def test_what_was_interrupted_goes_on_with_what_is_missing():
    names = [f"t{number}" for number in range(10)]
    rounds = rounds_of()
    rounds.round(listing=listed(*names))
    rounds.round(**dict.fromkeys(names[:4], resolved("a")))
    rounds.restart()
    assert why(rounds.round()) == {LISTING: "source"}
    assert sorted(why(rounds.round(listing=listed(*names)))) == names[4:]
    rounds.answer_all(resolved("a"))
    assert said(rounds) == ("True", "Imported")


def test_deferred_tags_do_not_hold_a_place():
    names = [f"t{number:03}" for number in range(300)]
    rounds = rounds_of()
    rounds.round(listing=listed(*names))
    until = rounds.now + minutes(5)
    rounds.round(**dict.fromkeys(list(rounds.pending), deferred(until)))
    assert len(rounds.pending) == 100
    rounds.round(**dict.fromkeys(list(rounds.pending), deferred(until)))
    assert (len(rounds.pending), rounds.writes) == (0, 0)
    rounds.wait(until)
    assert len(rounds.round().due) == 200


# --- refreshing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("restarts", [False, True])
def test_a_request_for_all_lists_again_and_looks_everything_up(restarts: bool):
    rounds = imported("1", "2")
    if restarts:
        rounds.restart()
    rounds.edit(refresh="n1")
    assert why(rounds.round()) == {LISTING: "request", "1": "request", "2": "request"}
    rounds.round(listing=listed("1", "2", "3"))
    assert set(rounds.pending) == {"1", "2", "3"}
    rounds.round(**{"1": resolved("b"), "2": resolved("a")})
    assert handled(rounds) is None
    rounds.round(**{"3": resolved("c")})
    assert handled(rounds) == "n1"
    assert (rounds.history("1"), rounds.history("3")) == (["b", "a"], ["c"])
    assert [step for step in rounds.heard if isinstance(step, TagMoved)] == [TagMoved("1", pinned("a"), pinned("b"))]
    rounds.wait(minutes(1))
    assert rounds.round().look_again is None
    assert rounds.progress.keys() == {LISTING}


def test_a_request_that_names_tags_refreshes_those():
    rounds = imported("1", "2")
    rounds.edit(refresh="n1 2")
    plan = rounds.round()
    assert why(plan) == {"2": "request"}
    assert plan.due[0].known is not None, "an unchanged tag costs one HEAD"
    rounds.round(**{"2": resolved("a")})
    assert handled(rounds) == "n1 2"


def test_a_hint_asks_for_a_tag_of_a_repository():
    rounds = imported("1", "2")
    assert why(rounds.round(hints=["1", "nowhere"])) == {"1": "hint"}


def test_a_request_waits_until_what_is_new_has_come():
    rounds = imported("1")
    rounds.edit(refresh="n1")
    rounds.round()
    rounds.round(listing=listed("1", "2"), **{"1": resolved("a")})
    assert handled(rounds) is None
    rounds.round(**{"2": UNAVAILABLE})
    assert handled(rounds) == "n1"


def test_a_failed_refresh_is_said_and_what_there_is_stays():
    rounds = imported("1")
    rounds.edit(refresh="n1")
    rounds.round()
    rounds.round(listing=NOT_FOUND, **{"1": resolved("a")})
    assert (handled(rounds), said(rounds), rounds.history("1")) == ("n1", ("False", "NotFound"), ["a"])
    with rounds.unwritten():
        assert rounds.round().look_again is None
    rounds.wait(minutes(1))
    rounds.edit(refresh="n2")
    rounds.round()
    rounds.round(listing=listed("1"), **{"1": resolved("a")})
    assert (handled(rounds), said(rounds)) == ("n2", ("True", "Imported"))


def test_nothing_is_polled():
    rounds = imported("1")
    rounds.wait(timedelta(days=365))
    assert (why(rounds.round()), rounds.round().look_again) == ({}, None)


# --- what is left out -------------------------------------------------------------------------------------------------


def test_more_than_the_limit_is_left_out_and_said():
    rounds = imported("latest", "2.0", found=5000, rules=ImportRules(repository_tags=2))
    assert recorded(rounds) == Repository(REPOSITORY, found=5000, left_out=4998, limit=2)
    assert (rounds.ready, said(rounds)) == (("True", "Imported"), ("True", "LeftOut"))
    assert condition(rounds).message == (
        f'4998 of the 5000 tags of "{REPOSITORY}" are left out; the limit of one repository is 2 tags, the most '
        "important ones"
    )
    with rounds.unwritten():
        rounds.restart()
        assert rounds.round().look_again is None
    rounds.rules = ImportRules(repository_tags=3)
    assert why(rounds.round()) == {LISTING: "source"}
    rounds.round(listing=listed("latest", "2.0", "1.0", found=5000))
    assert set(rounds.pending) == {"1.0"}
    rounds.answer_all(resolved("a"))
    assert recorded(rounds) == Repository(REPOSITORY, found=5000, left_out=4997, limit=3)
    assert rounds.round().look_again is None


def test_a_higher_limit_means_nothing_where_nothing_was_left_out():
    rounds = imported("1", rules=ImportRules(repository_tags=2))
    rounds.rules = ImportRules(repository_tags=3)
    assert why(rounds.round()) == {}


def test_a_listing_that_was_cut_off_is_said():
    rounds = rounds_of()
    rounds.round(listing=listed("1", found=200_000, is_complete=False))
    rounds.answer_all(resolved("a"))
    assert said(rounds) == ("True", "LeftOut")
    assert "the registry has more than are read" in (condition(rounds).message or "")


def _size(rounds: Rounds) -> int:
    return sum(len(encode(each)) + 1 for each in (rounds.stream.status or Status()).tags or ())


def test_tags_for_which_the_status_has_no_room_are_left_out_the_best_stay():
    names = [f"t{999 - number}" for number in range(300)]  # the best have the last names
    rounds = rounds_of(tag(), rules=ImportRules(status_budget=40_000))
    rounds.round(listing=listed(*names), latest=resolved("a"))
    asked = set(rounds.pending)
    rounds.answer_all(resolved("a"))
    kept = tags_of(rounds) - {"latest"}
    assert _size(rounds) <= 40_000
    assert kept == set(names[: len(kept)])
    assert 50 < len(kept) < 200
    assert recorded(rounds) == Repository(REPOSITORY, found=300, left_out=300 - len(kept), limit=1000)
    assert (rounds.ready, said(rounds)) == (("True", "Imported"), ("True", "LeftOut"))
    assert "the status of the stream has no room for more" in (condition(rounds).message or "")
    assert asked == set(names[:200]), "what would find no room either is not asked for"
    with rounds.unwritten():
        assert rounds.round().look_again is None
        rounds.restart()
        rounds.wait(minutes(60))
        assert rounds.round().look_again is None


LETTERS = "abcdef"


def with_history(rounds: Rounds, name: str) -> None:
    for letter in LETTERS:
        rounds.wait(minutes(1))
        rounds.round(hints=[name])
        rounds.round(**{name: resolved(letter)})
    assert "".join(rounds.history(name)) == LETTERS[::-1]


def test_a_repository_does_not_cost_the_other_tags_their_history():
    rounds = Rounds(stream(tag("prod", "quay.io/acme/prod:1")), rules=ImportRules(status_budget=20_000))
    with_history(rounds, "prod")
    rounds.edit(repository=REPOSITORY)
    rounds.round()
    names = [f"t{number:03}" for number in range(100)]
    rounds.round(listing=listed(*names))
    rounds.answer_all(resolved("a"))
    assert "".join(rounds.history("prod")) == LETTERS[::-1]
    got = tags_of(rounds) - {"prod"}
    assert got == set(names[: len(got)]), "the best"
    assert said(rounds) == ("True", "LeftOut")
    # And when they all move, theirs goes first.
    rounds.wait(minutes(1))
    rounds.edit(refresh="n1")
    rounds.round()
    rounds.round(listing=listed(*names))
    rounds.answer_all(resolved("b"))
    assert rounds.history("prod")[0] == "b"
    assert "".join(rounds.history("prod"))[1:] == LETTERS[::-1]
    assert tags_of(rounds) - {"prod"} == got, "what is recorded is never dropped"
    assert any(rounds.history(name) == ["b"] for name in got)
    with rounds.unwritten():
        rounds.round()


def test_history_gives_way_to_new_tags_of_spec():
    rounds = Rounds(stream(tag("prod", "quay.io/acme/prod:1")), rules=ImportRules(status_budget=2_400))
    with_history(rounds, "prod")
    rounds.edit(tag("prod", "quay.io/acme/prod:1"), tag("new"))
    rounds.round()
    rounds.round(new=resolved("a"))
    assert rounds.history("new") == ["a"]
    assert 0 < len(rounds.history("prod")) < len(LETTERS)


def test_the_rest_of_a_selection_for_which_there_is_no_room_is_not_asked_for():
    rules = ImportRules(status_budget=20_000)
    rounds = rounds_of(rules=rules)
    rounds.round(listing=listed(*(f"t{number:04}" for number in range(1000))))
    asked = 0
    while rounds.pending:
        asked += len(rounds.pending)
        rounds.round(**dict.fromkeys(list(rounds.pending), resolved("a")))
    assert asked <= 200, "one portion shows that there is no room"
    assert (recorded(rounds) or Repository("")).left_out == 1000 - len(tags_of(rounds))


def test_a_listing_that_was_asked_for_otherwise_is_dropped():
    rounds = rounds_of()
    late = answer(rounds.pending.pop(LISTING), listed("x"), rounds.now)
    rounds.edit(repository=REPOSITORY, insecure_repository="true")
    rounds.round()
    rounds.merge(late)
    rounds.plan()
    assert list(rounds.pending) == [LISTING], "a tag of an insecure registry is not what is wanted securely"
    assert rounds.progress[LISTING].selected is None


def test_a_tag_that_somebody_removed_is_not_asked_for_again_and_again():
    """Somebody writes a status without it, each time that it was imported."""
    rounds = rounds_of()
    rounds.round(listing=listed("1", "2"))
    first = resolved("a")
    rounds.round(**{"1": first})
    for _ in range(3):
        status = rounds.stream.status
        assert status is not None
        rounds.stream = rounds.stream.with_status(Status(conditions=status.conditions))
        answered = rounds.now
        rounds.wait(seconds(2))
        for _ in range(2):
            plan = rounds.round()
            assert "1" not in why(plan), "not at once"
        assert plan.look_again == answered + RULES.retry_base
        rounds.wait(plan.look_again)
        assert why(rounds.round()) == {"1": "source"}
        rounds.round(**{"1": first})


def test_a_request_ends_where_there_is_no_room():
    names = [f"t{number:03}" for number in range(300)]
    rounds = rounds_of(rules=ImportRules(status_budget=40_000))
    rounds.edit(refresh="n1")
    rounds.round()
    rounds.round(listing=listed(*names))
    rounds.answer_all(resolved("a"))
    assert handled(rounds) == "n1"


def test_five_thousand_tags():
    """Only what is selected is remembered, and when it is done not even that."""
    names = [f"v{number}.0" for number in range(1000)]
    rounds = rounds_of()
    rounds.round(listing=listed(*names, found=5000))
    most = 0
    while rounds.pending:
        most = max(most, len(rounds.progress))
        rounds.round(**dict.fromkeys([name.replace("-", "_") for name in rounds.pending], resolved("a")))
    rounds.wait(minutes(1))
    rounds.round()
    assert most <= 1001
    assert len(rounds.progress) == 1
    assert len(tags_of(rounds)) == 1000
    assert recorded(rounds) == Repository(REPOSITORY, found=5000, left_out=4000, limit=1000)
    assert rounds.writes <= 6


# --- what leaves ------------------------------------------------------------------------------------------------------


def test_a_repository_that_leaves_spec_leaves_its_history():
    rounds = imported("1", "2")
    rounds.edit(repository="")
    rounds.round()
    assert rounds.history("1") == ["a"]
    status = rounds.stream.status
    assert status is not None
    assert (status.repository, status.condition("RepositoryImported")) == (None, None)
    assert rounds.ready == ("True", "NothingToImport")
    assert rounds.progress == {}
    with rounds.unwritten():
        rounds.round()


def test_another_repository_leaves_the_tags_of_the_first():
    rounds = imported("1", "2")
    rounds.edit(repository="quay.io/acme/other")
    assert why(rounds.round()) == {LISTING: "source"}
    rounds.round(listing=listed("2"))
    assert set(rounds.pending) == {"2"}
    rounds.round(**{"2": resolved("b")})
    assert (rounds.history("1"), rounds.history("2")) == (["a"], ["b", "a"])
    rounds.wait(minutes(1))
    rounds.edit(refresh="n1")
    assert set(why(rounds.round())) == {LISTING, "2"}


def test_what_was_selected_of_another_repository_is_not_asked_for():
    rounds = rounds_of()
    rounds.round(listing=listed("1", "2"))
    rounds.edit(repository="quay.io/acme/other")
    rounds.pending.clear()
    assert why(rounds.round()) == {LISTING: "source"}


def test_the_listing_of_another_repository_is_dropped():
    rounds = rounds_of()
    rounds.edit(repository="quay.io/acme/other")
    with rounds.unwritten():
        assert why(rounds.round(listing=listed("1"))) == {LISTING: "source"}
    rounds.round(listing=listed("2"))
    assert set(rounds.pending) == {"2"}


def test_a_listing_that_comes_after_a_suspension_is_dropped():
    rounds = rounds_of()
    rounds.edit(suspend="true")
    rounds.round(listing=listed())
    assert (recorded(rounds), rounds.ready) == (None, ("False", "Suspended"))
    rounds.edit()
    assert why(rounds.round()) == {LISTING: "source"}


def test_a_tag_of_a_repository_can_be_forgotten():
    rounds = imported("1", "2")
    rounds.edit(forget="n1 1")
    rounds.round()
    assert tags_of(rounds) == {"2"}
    assert why(rounds.round()) == {}


def test_a_tag_that_spec_takes_over_is_specs_and_that_it_gives_back_the_repositorys():
    rounds = imported("1")
    rounds.edit(tag("1", "quay.io/acme/other:1", scheduled=True))
    assert why(rounds.round()) == {"1": "source"}
    rounds.round(**{"1": resolved("b")})
    rounds.edit(pushed("x"))
    rounds.wait(minutes(60))
    assert why(rounds.round()) == {}
    assert rounds.history("1") == ["b", "a"]


# --- whatever happens -------------------------------------------------------------------------------------------------

_names = st.lists(st.sampled_from(["1", "2", "3", "4", "no tag"]), unique=True)
_steps = st.lists(
    st.one_of(
        st.tuples(st.just("list"), _names, st.integers(0, 3)),
        st.tuples(st.just("fail"), st.sampled_from([UNAVAILABLE, NOT_FOUND])),
        st.tuples(st.just("defer"), st.sampled_from(["listing", "1", "2"])),
        st.tuples(st.just("answer"), st.sampled_from("1234"), st.sampled_from("abc")),
        st.tuples(st.just("lose"), st.sampled_from("1234"), st.sampled_from([UNAVAILABLE, NOT_FOUND])),
        st.tuples(st.just("wait"), st.sampled_from([0.0, 1.0, 20.0, 1000.0])),
        st.tuples(st.just("spec"), st.sampled_from([(), ("1",), ("1", "5")])),
        st.tuples(st.just("repository"), st.sampled_from([REPOSITORY, "quay.io/acme/other", ""])),
        st.tuples(st.just("request"), st.sampled_from(["n1", "n2 1 2", None])),
        st.tuples(st.just("limit"), st.sampled_from([1, 3, 1000])),
        st.tuples(st.just("forget"), st.sampled_from("123")),
        st.tuples(st.just("restart")),
    ),
    max_size=20,
)


def _step(rounds: Rounds, number: int, step: tuple) -> Plan:  # type: ignore[type-arg]
    _drop_unwanted(rounds)
    outcomes = {}
    request = rounds.stream.annotations.refresh
    match step:
        case ("list", names, more) if LISTING in rounds.pending:
            outcomes = {"listing": listed(*names, found=len(names) + more)}
        case ("fail", outcome) if LISTING in rounds.pending:
            outcomes = {"listing": outcome}
        case ("defer", name) if (LISTING if name == "listing" else name) in rounds.pending:
            outcomes = {name: deferred(rounds.now + minutes(1))}
        case ("answer", name, letter) if name in rounds.pending:
            outcomes = {name: resolved(letter)}
        case ("lose", name, outcome) if name in rounds.pending:
            outcomes = {name: outcome}
        case ("wait", time):
            rounds.wait(seconds(time))
        case ("spec", names):
            rounds.edit(*(tag(name, f"quay.io/x:{name}") for name in names) if names else [pushed("x")])
        case ("repository", name):
            rounds.edit(repository=name, refresh=request)
        case ("request", value):
            rounds.edit(refresh=value)
        case ("limit", limit):
            rounds.rules = ImportRules(repository_tags=limit)
        case ("forget", name):
            rounds.edit(forget=f"f{number} {name}", refresh=request)
        case ("restart",):
            rounds.restart()
    _drop_unwanted(rounds)
    return rounds.round(**outcomes)


def _drop_unwanted(rounds: Rounds) -> None:
    """The lanes drop a ticket when a newer one comes; those of tags that nobody wants any more are dropped here."""
    current = {name for name, memory in rounds.progress.items() if memory.asked}
    rounds.pending = {name: ticket for name, ticket in rounds.pending.items() if name in current}


def _heads(found: Iterable[StatusTag]) -> list[str]:
    return [
        each.tag
        for each in found
        if len(each.items or ()) > 1 and each.items and each.items[0].image == each.items[1].image
    ]


@settings(max_examples=200, deadline=None)
@given(_steps)
def test_everything_comes_to_rest_with_the_whole_repository(steps: list[tuple]):  # type: ignore[type-arg]
    rounds = Rounds(stream(tag("1", "quay.io/x:1"), repository=REPOSITORY), rules=ImportRules(flap_window=timedelta()))
    rounds.round()
    for number, step in enumerate(steps):
        _step(rounds, number, step)
        assert not _heads((rounds.stream.status or Status()).tags or ()), "history repeats its head"
        with rounds.unwritten():
            rounds.merge()
    rounds.edit(repository=REPOSITORY, refresh="end")
    for _ in range(100):
        _drop_unwanted(rounds)
        outcomes = {
            "listing" if name == LISTING else name: listed("2", "3", "4") if name == LISTING else resolved("f")
            for name in rounds.pending
        }
        plan = rounds.round(**outcomes)
        if not plan.due and not rounds.pending and plan.look_again is None:
            break
        if not plan.due and plan.look_again and not rounds.pending:
            rounds.wait(plan.look_again)
    else:
        pytest.fail("it never comes to rest")
    assert handled(rounds) == "end"
    spec = {each.name for each in rounds.stream.spec_tags}
    left = min(3, rounds.rules.repository_tags)
    assert len({"2", "3", "4"} & tags_of(rounds) - spec) >= left
    assert condition(rounds).status == "True"
    assert rounds.ready[0] == "True"
    with rounds.unwritten():
        assert not rounds.round().due


def test_transitions_of_first_failures_are_not_told_one_by_one():
    rounds = rounds_of()
    rounds.round(listing=listed("1", "2"))
    rounds.round(**{"1": UNAVAILABLE, "2": UNAVAILABLE})
    assert not [step for step in rounds.heard if isinstance(step, TagFailed)]
