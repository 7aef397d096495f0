"""Guarding a tag against a registry that is not of one mind.

A stale replica, a lagging mirror or a cache answers with yesterday's digest, the next request with today's, and every
follower would be rolled out back and forth. Somebody who moves a tag back means it, and one who does it twice may; a
tag that returns to digests it had left more often than that, within a window, is kept at the newer one, until the
registry has given one and the same answer for as long as the window.

A digest that the tag never had is newer than all and no stale answer: it is recorded at once, and guarded in turn.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imagestreams.core.stream import TagEvent

FREE_RETURNS: Final = 2
_ONE_MIND: Final = 3  # answers at least that are the same; a tag that is seldom asked for must not be believed at once


@dataclass(frozen=True, slots=True)
class Steady:
    """The digest that the registry has answered with since a moment (aware), without another in between."""

    image: str
    since: datetime
    answers: int = 1

    def after(self, image: str, now: datetime) -> Steady:
        return Steady(image, self.since, self.answers + 1) if image == self.image else Steady(image, now)


@dataclass(frozen=True, slots=True)
class Verdict:
    """`keep`: the newest item stays, whatever was answered. `steady` is to be handed in with the next answer; while
    there is one, the tag is guarded.
    """

    keep: bool
    steady: Steady | None = None


def judge(
    items: Sequence[TagEvent],
    image: str,
    *,
    steady: Steady | None,
    was_flapping: bool,
    now: datetime,
    window: timedelta,
) -> Verdict:
    """Whether an answer may be recorded.

    Args:
        items: the tag's history, newest first.
        image: the digest that was answered.
        steady: of the verdict before, if that is remembered.
        was_flapping: whether the tag is being kept since an earlier answer. It may be guarded without, by `steady`: the
            newest item is believed then, and what is older than it is not.
        now: aware.
        window: how near to each other returns must be to count; zero switches the guard off.
    """
    if not items or window <= timedelta():
        return Verdict(keep=False)
    if not was_flapping and (steady is None or now - steady.since >= window):
        is_return = image != items[0].image and any(item.image == image for item in _recent(items, now, window))
        is_flapping = is_return and _returns(items, now, window) >= FREE_RETURNS and _is_older(items, image)
        return Verdict(keep=True, steady=Steady(image, now)) if is_flapping else Verdict(keep=False)
    if all(item.image != image for item in items):
        return Verdict(keep=False, steady=Steady(image, now))
    steady = steady.after(image, now) if steady else Steady(image, now)
    if steady.answers >= _ONE_MIND and now - steady.since >= window:
        return Verdict(keep=False)
    return Verdict(keep=was_flapping or image != items[0].image, steady=steady)


def _recent(items: Sequence[TagEvent], now: datetime, window: timedelta) -> Sequence[TagEvent]:
    """The items that the tag had within the window: that of its begin was left within it."""
    count = sum(item.created is not None and now - item.created < window for item in items)
    return items[: count + 1]


def _returns(items: Sequence[TagEvent], now: datetime, window: timedelta) -> int:
    """How often within the window the tag came back to what it had had within it."""
    recent = _recent(items, now, window)
    return sum(any(item.image == earlier.image for earlier in recent[n + 1 :]) for n, item in enumerate(recent))


def _is_older(items: Sequence[TagEvent], image: str) -> bool:
    """Whether the answer was first seen before the newest item was, as far back as the history goes."""
    first_seen = {item.image: n for n, item in enumerate(items)}  # the last index of each wins: its first appearance
    return first_seen.get(image, -1) > first_seen[items[0].image]
