"""Columns for people, ages in kubectl's way, and words of strangers made fit for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

NONE: Final = "<none>"
"""What a cell says where there is nothing."""


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lines as kubectl has them: each column as wide as its widest cell, the last one as it is. An empty header is left
    out.
    """
    lines = [*([tuple(header)] if header else []), *(tuple(map(printable, row)) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "   ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def printable(text: str) -> str:
    """Registries' and manifests' words, without what would steer a terminal or end a line."""
    return "".join(character if character.isprintable() else " " for character in text)


def age(moment: datetime | None, now: datetime) -> str:
    """How long ago, as kubectl writes it: 42s, 3m20s, 5h, 2d4h."""
    if moment is None:
        return "<unknown>"
    seconds = int((now - moment).total_seconds())
    if seconds < -1:
        return "<invalid>"
    seconds = max(0, seconds)
    minutes, hours = seconds // 60, seconds // 3600
    days = hours // 24
    for limit, is_below, whole, unit, part, small in (
        (seconds, 120, seconds, "s", 0, ""),
        (minutes, 10, minutes, "m", seconds % 60, "s"),
        (minutes, 180, minutes, "m", 0, ""),
        (hours, 8, hours, "h", minutes % 60, "m"),
        (hours, 48, hours, "h", 0, ""),
        (hours, 192, days, "d", hours % 24, "h"),
        (days, 730, days, "d", 0, ""),
        (days, 2920, days // 365, "y", days % 365, "d"),
    ):
        if limit < is_below:
            return f"{whole}{unit}{part}{small}" if part else f"{whole}{unit}"
    return f"{days // 365}y"
