"""What the Date of answers proves about two clocks."""

from __future__ import annotations

from email.utils import formatdate, parsedate_to_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagestreams.kube import skew
from imagestreams.kube.skew import LARGE, MAX_FLIGHT, Skew

NOON = 1_793_534_400.0  # the API server's clock, Unix time


class Clocks:
    """Two clocks, ours `ahead` of the API server's, and what was made of its answers."""

    def __init__(self, ahead: float = 0.0) -> None:
        self.now, self.ahead, self.skew = NOON, ahead, Skew()

    def answered(self, *, after: float = 1.0, out: float = 0.0, back: float = 0.0) -> bool:
        """An answer that was so many seconds on its way; whether it changed what there is to say."""
        self.now += after
        sent = self.now + self.ahead
        self.now += out
        date = formatdate(self.now, usegmt=True)
        self.now += back
        return self.skew.note(date, sent, self.now + self.ahead)


@pytest.mark.parametrize(
    ("ahead", "out", "back", "at_least", "at_most"),
    [
        pytest.param(0, 0.01, 0.01, 0, 0, id="equal"),
        pytest.param(0.9, 0.01, 0.01, 0, 0.9, id="a Date has no fractions"),
        pytest.param(-0.9, 0.01, 0.01, -0.9, 0, id="a Date has no fractions, behind"),
        pytest.param(0, 1.9, 0, 0, 0, id="long on its way there"),
        pytest.param(0, 0, 1.9, 0, 0, id="long on its way back"),
        pytest.param(40, 0.01, 0.01, 38.9, 40, id="ahead"),
        pytest.param(-40, 0.01, 0.01, -40, -38.9, id="behind"),
        pytest.param(40, 0, 1.9, 37, 40, id="ahead, long on its way"),
        pytest.param(-40, 1.9, 0, -40, -37, id="behind, long on its way"),
        pytest.param(40, 2.0, 0, 0, 0, id="too long on its way"),
        pytest.param(40, 0, 3600, 0, 0, id="the machine slept"),
        pytest.param(40, 0, -5, 0, 0, id="our clock was set back"),
    ],
)
def test_an_answer_proves_so_much(ahead: float, out: float, back: float, at_least: float, at_most: float) -> None:
    clocks = Clocks(ahead)
    clocks.answered(out=out, back=back)
    assert at_least <= clocks.skew.seconds <= at_most


@given(
    ahead=st.floats(-1e6, 1e6),
    moment=st.floats(0, 10),
    out=st.floats(0, MAX_FLIGHT / 2),
    back=st.floats(0, MAX_FLIGHT / 2 - 0.01),
)
def test_never_more_than_is_so_and_little_less(ahead: float, moment: float, out: float, back: float) -> None:
    clocks = Clocks(ahead)
    clocks.answered(after=moment, out=out, back=back)
    found = clocks.skew.seconds
    assert abs(found) <= abs(ahead) + 1e-6
    assert found * ahead >= 0 or abs(found) < 1e-6, "never the wrong way round, but for the rounding of a Date"
    assert abs(found) >= abs(ahead) - 1 - out - back - 1e-6


def test_the_most_that_recent_answers_prove_counts() -> None:
    clocks = Clocks(40)
    for back in (1.5, 0.01, 1.5):
        clocks.answered(back=back)
    assert 38.9 <= clocks.skew.seconds <= 40
    clocks.ahead = 0
    for _ in range(24):
        clocks.answered(after=60)
    assert clocks.skew.seconds == 0, "not for ever"


def test_many_answers_of_one_second_are_parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[str] = []
    monkeypatch.setattr(skew, "parsedate_to_datetime", lambda date: parsed.append(date) or parsedate_to_datetime(date))
    clocks = Clocks(40)
    for _ in range(1000):
        clocks.answered(after=0.002)
    assert len(parsed) == 3
    assert clocks.skew.is_large


def test_of_several_api_servers_the_worst_counts() -> None:
    """Behind one address, each with a clock of its own."""
    clocks, told = Clocks(), []
    for _ in range(200):
        for clocks.ahead in (0, -40, 1):
            told.append(clocks.answered(after=0.5))
    assert -40 <= clocks.skew.seconds < -38
    assert told.count(True) == 1


def test_one_that_is_asked_only_when_a_watch_is_renewed_is_not_forgotten_meanwhile() -> None:
    clocks, told = Clocks(), []
    for step in range(3600):
        clocks.ahead = 0 if step % 150 else -40
        told.append(clocks.answered(after=2))
    assert told.count(True) == 1


def test_it_is_told_once_when_it_begins_and_once_when_it_is_over() -> None:
    clocks, told = Clocks(), []
    for clocks.ahead in (0.0, 14.0, 17.5, 17.0, 40.0, -40.0, 15.5, 14.5, 14.0, 12.0, 8.0, 0.0):
        told += [(clocks.ahead, clocks.skew.is_large) for _ in range(10) if clocks.answered(after=200)]
    assert told == [(17.5, True), (8.0, False)]


def test_a_clock_at_the_border_is_no_news_each_time() -> None:
    clocks, told = Clocks(), []
    for step in range(2000):
        clocks.ahead = LARGE + (1 if step % 20 < 10 else -1)
        told.append(clocks.answered(after=140, back=step % 3 / 2))
    assert told.count(True) == 1


@pytest.mark.parametrize("backwards", [True, False])
def test_our_clock_may_be_set_at_any_moment(backwards: bool) -> None:
    """Of what it said before nothing is left for long, by whatever it was wrong."""
    clocks = Clocks(86_400 if backwards else -86_400)
    clocks.answered()
    assert clocks.skew.is_large
    clocks.ahead = 0
    clocks.answered(after=60)
    clocks.answered(after=60)
    assert (clocks.skew.seconds, clocks.skew.is_large) == (0, False)


def test_what_is_known_stays_while_nobody_answers() -> None:
    clocks = Clocks(40)
    clocks.answered()
    clocks.answered(after=3600, back=10)
    assert clocks.skew.is_large, "that answer says nothing"


@pytest.mark.parametrize(
    "date", ["", "x", "Tue, 99 Nov 2026 03:08:49 GMT", "Tue, 24 Nov 99999999999999999999 03:08:49 GMT", "0"]
)
def test_what_is_no_date_says_nothing(date: str) -> None:
    found = Skew()
    assert not found.note(date, NOON, NOON)
    assert found.seconds == 0


@pytest.mark.parametrize(
    ("ahead", "warning"),
    [
        pytest.param(14, None, id="a little"),
        pytest.param(40.5, "our clock is 40 s ahead of the API server's", id="ahead"),
        pytest.param(-40.5, "our clock is 40 s behind the API server's", id="behind"),
    ],
)
def test_the_warning_names_both_clocks_and_the_way_out(ahead: float, warning: str | None) -> None:
    clocks = Clocks(ahead)
    clocks.answered(after=0.75)
    said = clocks.skew.warning
    assert (said is None) == (warning is None)
    if warning:
        assert warning in (said or "")
        assert "NTP" in (said or "")
