"""A clock that is set by hand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


class Clock:
    """Gives the same time, aware, until it is moved."""

    def __init__(self) -> None:
        self.now = datetime(2026, 3, 1, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, **units: float) -> None:
        """Move on by `timedelta(**units)`."""
        self.now += timedelta(**units)
