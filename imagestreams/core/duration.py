"""Durations as people write them, in settings, flags and annotations alike: 15m, 90s, 1h30m, 200ms."""

from __future__ import annotations

import re
from datetime import timedelta

_DURATION = re.compile(
    r"(?:(?P<h>\d+(?:\.\d+)?)h)?(?:(?P<m>\d+(?:\.\d+)?)m)?(?:(?P<s>\d+(?:\.\d+)?)s)?(?:(?P<ms>\d+)ms)?", re.ASCII
)


def parse_duration(text: str) -> timedelta:
    """Read "15m", "90s", "1h30m", "200ms" or "0". Units fall from left to right; other numbers need a unit.

    Raises:
        ValueError: with what to write instead.
    """
    if text == "0":
        return timedelta()
    match = _DURATION.fullmatch(text)
    if match is None or not text:
        raise ValueError("is no duration; write a number with a unit, such as 15m, 90s, 1h30m or 200ms")
    hours, minutes, seconds, millis = (float(match[unit] or 0) for unit in ("h", "m", "s", "ms"))
    try:
        return timedelta(hours=hours, minutes=minutes, seconds=seconds, milliseconds=millis)
    except OverflowError as error:
        raise ValueError("is too long") from error


def show_duration(value: timedelta) -> str:
    """Write what `parse_duration` reads, to the millisecond: "1h30m", "0"."""
    rest, millis = divmod(value // timedelta(milliseconds=1), 1000)
    rest, seconds = divmod(rest, 60)
    hours, minutes = divmod(rest, 60)
    parts = ((hours, "h"), (minutes, "m"), (seconds, "s"), (millis, "ms"))
    return "".join(f"{count}{unit}" for count, unit in parts if count) or "0"
