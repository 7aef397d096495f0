"""Columns, ages and words for a terminal."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagestreams.cli.table import age, printable, table

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("passed", "text"),
    [  # k8s.io/apimachinery/pkg/util/duration, HumanDuration
        (timedelta(seconds=-5), "<invalid>"),
        (timedelta(seconds=-1), "0s"),
        (timedelta(), "0s"),
        (timedelta(seconds=119), "119s"),
        (timedelta(minutes=2), "2m"),
        (timedelta(minutes=2, seconds=1), "2m1s"),
        (timedelta(minutes=9, seconds=59), "9m59s"),
        (timedelta(minutes=10, seconds=59), "10m"),
        (timedelta(minutes=179), "179m"),
        (timedelta(hours=3), "3h"),
        (timedelta(hours=7, minutes=59), "7h59m"),
        (timedelta(hours=8, minutes=59), "8h"),
        (timedelta(hours=47), "47h"),
        (timedelta(days=2), "2d"),
        (timedelta(days=2, hours=4), "2d4h"),
        (timedelta(days=7, hours=23), "7d23h"),
        (timedelta(days=8, hours=5), "8d"),
        (timedelta(days=729), "729d"),
        (timedelta(days=730), "2y"),
        (timedelta(days=735), "2y5d"),
        (timedelta(days=8 * 365 + 3), "8y"),
    ],
)
def test_ages_are_kubectls(passed, text):
    assert age(NOW - passed, NOW) == text


def test_an_unknown_age():
    assert age(None, NOW) == "<unknown>"


def test_a_table():
    assert table(("NAME", "AGE"), [("web", "1s"), ("longer", "")]) == "NAME     AGE\nweb      1s\nlonger"
    assert table((), [("web", "1s")]) == "web   1s"
    assert table(("A",), [("\x1b[31mred\nline\u202e",)]) == "A\n [31mred line"


@given(st.text(max_size=50))
def test_nothing_steers_a_terminal(text):
    assert printable(text).isprintable()
    assert len(printable(text)) == len(text)
