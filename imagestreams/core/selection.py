"""Which tags of a repository matter most, where not all can be had.

The order is OpenShift's: `latest`; then what people follow, minor versions (`8.4`, `v8.4`, `8.4-alpine`), the newest
first; then full versions, the newest first; then all else by name. Versions compare as https://semver.org says.
"""

from __future__ import annotations

import functools
import heapq
import re
from typing import TYPE_CHECKING, Any

from imagestreams.core.reference import DEFAULT_TAG

if TYPE_CHECKING:
    from collections.abc import Iterable

_NUMBER = r"(0|[1-9][0-9]{0,17})"
_MINOR = re.compile(rf"v?{_NUMBER}\.{_NUMBER}(?:-([0-9A-Za-z]+))?")
_FULL = re.compile(rf"v?{_NUMBER}\.{_NUMBER}\.{_NUMBER}(?:-([0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?")

_LATEST, _MINORS, _FULLS, _OTHERS = range(4)


def best(tags: Iterable[str], limit: int) -> list[str]:
    """The `limit` tags that come first, in order, each once.

    What this gives for a part of a list can be put before the next part: best(best(a) + b) is best(a + b).
    """
    return heapq.nsmallest(limit, set(tags), key=_rank)


def _rank(tag: str) -> tuple[Any, ...]:
    if tag == DEFAULT_TAG:
        return (_LATEST,)
    for kind, pattern in ((_MINORS, _MINOR), (_FULLS, _FULL)):
        if match := pattern.fullmatch(tag):
            *numbers, suffix = match.groups()
            precedence = _precedence(suffix)
            if precedence is not None:
                # Of one version, that without a `v` comes first.
                return (kind, _Descending((tuple(map(int, numbers)), precedence)), tag.startswith("v"), tag)
    return (_OTHERS, tag)


def _precedence(suffix: str | None) -> tuple[Any, ...] | None:
    """What stands behind the numbers as something that sorts, a release last; None where it makes no version."""
    if suffix is None:
        return (1,)
    identifiers = suffix.split(".")
    if any(word.isdigit() and (len(word) > 18 or (word[0] == "0" and word != "0")) for word in identifiers):
        return None
    return (0, tuple((0, int(word), "") if word.isdigit() else (1, 0, word) for word in identifiers))


@functools.total_ordering
class _Descending:
    """Sorts the other way round."""

    __slots__ = ("value",)

    def __init__(self, value: tuple[Any, ...]) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Descending) and self.value == other.value

    def __lt__(self, other: _Descending) -> bool:
        return other.value < self.value

    __hash__ = None  # type: ignore[assignment]  # a key to sort by, and nothing else
