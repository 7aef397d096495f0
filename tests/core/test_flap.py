from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagestreams.core.flap import Steady, judge
from imagestreams.core.stream import TagEvent

NOW = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)
WINDOW = timedelta(hours=1)
MINUTE = timedelta(minutes=1)


class Tag:
    """A tag that is asked for again and again, and records what the guard lets through."""

    def __init__(self, history: str = "") -> None:
        self.now, self.items, self.steady, self.is_kept = NOW, (), None, False
        for image in history:
            self.answered(image, after=10 * WINDOW)

    def answered(self, image: str, *, after: timedelta = MINUTE) -> str:
        """The newest item once the registry has answered."""
        self.now += after
        verdict = judge(self.items, image, steady=self.steady, was_flapping=self.is_kept, now=self.now, window=WINDOW)
        self.is_kept, self.steady = verdict.keep, verdict.steady
        if not verdict.keep and (not self.items or self.items[0].image != image):
            self.items = (TagEvent(created=self.now, docker_image_reference=image, image=image), *self.items)
        return self.items[0].image or ""

    def answers(self, images: str, *, after: timedelta = MINUTE) -> str:
        return "".join(self.answered(image, after=after) for image in images)


@pytest.mark.parametrize(
    ("history", "answers", "recorded"),
    [
        pytest.param("", "ABCD", "ABCD", id="a tag that moves on"),
        pytest.param("A", "BA", "BA", id="moved back once"),
        pytest.param("A", "BAB", "BAB", id="and forth again"),
        pytest.param("A", "BABA", "BABB", id="more than twice: the newer stays"),
        pytest.param("A", "BABABABA", "BABBBBBB", id="however long it goes on"),
        pytest.param("", "ABABAB", "ABABBB", id="from its first moment on"),
        pytest.param("A", "BABAC", "BABBC", id="what is new is recorded at once"),
        pytest.param("A", "BABACAB", "BABBCCC", id="and guarded against stale answers"),
        pytest.param("A", "BABACCACBC", "BABBCCCCCC", id="also while it is answered in turn with them"),
        pytest.param("A", "BABACADBDC", "BABBCCDDDD", id="until something newer comes"),
        pytest.param("ABABABAB", "A", "A", id="returns of long ago do not count"),
        pytest.param("A", "BCABC", "BCABC", id="three digests in a circle: the newest of them may come back"),
        pytest.param("A", "BCABCA", "BCABCC", id="but not the older"),
    ],
)
def test_what_is_recorded(history: str, answers: str, recorded: str) -> None:
    assert Tag(history).answers(answers) == recorded


def flapping() -> Tag:
    tag = Tag("A")
    tag.answers("BABA")
    assert tag.is_kept
    return tag


def test_it_follows_again_when_the_registry_is_of_one_mind() -> None:
    tag = flapping()
    assert tag.answers("AAA", after=20 * MINUTE) == "BBA"
    assert not tag.is_kept


def test_the_kept_digest_is_trusted_again_in_the_same_way() -> None:
    tag = flapping()
    assert tag.answers("BBB", after=20 * MINUTE) == "BBB"
    assert tag.is_kept
    tag.answered("B", after=20 * MINUTE)
    assert not tag.is_kept


def test_one_other_answer_begins_the_wait_anew() -> None:
    tag = flapping()
    assert tag.answers("AABAAA", after=20 * MINUTE) == "BBBBBB"
    assert tag.answers("A", after=20 * MINUTE) == "A"


def test_what_is_new_is_well_and_guarded_as_long_as_the_rest() -> None:
    tag = flapping()
    assert tag.answers("CCC", after=20 * MINUTE) == "CCC"
    assert not tag.is_kept
    assert tag.steady is not None
    assert tag.answered("C", after=20 * MINUTE) == "C"
    assert tag.steady is None, "of one mind"


def test_what_was_new_a_window_ago_may_be_moved_back() -> None:
    tag = flapping()
    assert tag.answered("C") == "C"
    assert tag.answered("B", after=WINDOW) == "B", "a tag that is seldom asked for is not guarded for ever"


def test_a_stale_answer_after_what_is_new_begins_the_wait_anew() -> None:
    tag = flapping()
    assert tag.answers("CA", after=20 * MINUTE) == "CC"
    assert tag.is_kept
    assert tag.answers("CCCC", after=20 * MINUTE) == "CCCC"
    assert not tag.is_kept
    assert tag.answers("A", after=MINUTE) == "A", "the window is over"


def test_few_answers_are_not_one_mind_however_late_they_come() -> None:
    tag = flapping()
    tag.steady = None  # a restart forgets it
    assert tag.answers("AAA", after=WINDOW) == "BBA"


def test_the_guard_can_be_switched_off() -> None:
    items = tuple(TagEvent(created=NOW, image=image) for image in "BABAB")
    assert not judge(items, "A", steady=None, was_flapping=True, now=NOW, window=timedelta()).keep


def test_a_restart_in_the_middle_keeps_what_is_kept() -> None:
    items = tuple(TagEvent(created=NOW - n * MINUTE, image=image) for n, image in enumerate("BABA"))
    verdict = judge(items, "A", steady=None, was_flapping=True, now=NOW, window=WINDOW)
    assert verdict.keep
    assert verdict.steady == Steady("A", NOW)


@given(st.text(alphabet="ABC", max_size=60))
def test_returns_within_a_window_are_few(answers: str) -> None:
    tag = Tag()
    tag.answers(answers, after=timedelta(seconds=1))
    images = [item.image for item in reversed(tag.items)]
    returns = sum(image in images[:n] for n, image in enumerate(images))
    # A third return is let through only to a digest that is newer than the present one, and there are but three.
    assert returns <= 4


@given(st.text(alphabet="AB", min_size=1, max_size=20), st.sampled_from("ABC"))
def test_whatever_was_answered_the_registry_is_followed_in_the_end(answers: str, last: str) -> None:
    tag = Tag()
    tag.answers(answers)
    assert tag.answers(last * 6, after=WINDOW / 2)[-1] == last
