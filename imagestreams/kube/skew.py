"""How far our clock and the API server's are apart, by the Date of its answers.

The moment of a stamp is by a webhook's clock, the creation that it is held against by the API server's: where they are
too far apart, no stamp is worth anything.

An answer was begun after it was asked for and before it came, in the second that its Date says. So it proves that the
clocks differ by so much at least, and never more than they do; of recent answers that which proves the most counts. An
address may lead to several API servers, and then it is the worst of their clocks.
"""

from __future__ import annotations

from calendar import timegm
from email.utils import parsedate_to_datetime
from typing import Final

# In seconds.
LARGE: Final = 15.0  # apart: something is wrong with a clock
MAX_FLIGHT: Final = 2.0  # an answer that took as long proves little; and a clock may have been set meanwhile
_SMALL = 10.0  # apart: it is over; less than LARGE, so that a clock at the border is no news each minute
# What was proven counts as long, at most twice as long. Longer than a watch lives: its renewal may be all that one of
# several API servers is asked.
_RECENT = 600.0


class Skew:
    """The difference of the two clocks.

    Attributes:
        seconds: by which ours is ahead, at least; negative: behind.
        is_large: whether it is so large that people must be told.
    """

    __slots__ = ("_before", "_date", "_present", "_since", "is_large", "seconds")

    def __init__(self) -> None:
        self.seconds, self.is_large = 0.0, False
        self._present = self._before = 0.0  # the most that was proven since `_since`, and in the time before it
        self._since, self._date = 0.0, ""

    def note(self, date: str, sent: float, arrived: float) -> bool:
        """Take an answer into account.

        Args:
            date: as its header has it.
            sent: when it was asked for, by our clock (Unix time).
            arrived: when it came.

        Returns:
            whether `is_large` is another now.
        """
        # Of the answers of one second the first will do. So nothing is parsed more than once a second.
        if date == self._date or not 0 <= arrived - sent < MAX_FLIGHT:
            return False
        self._date = date
        try:
            second = timegm(parsedate_to_datetime(date).utctimetuple())
        except (ValueError, OverflowError):
            return False
        self._count(max(sent - second - 1, min(arrived - second, 0.0)), arrived)
        was_large, self.is_large = self.is_large, abs(self.seconds) > (_SMALL if self.is_large else LARGE)
        return self.is_large != was_large

    @property
    def warning(self) -> str | None:
        """What is wrong, if it is large, and what to do."""
        if not self.is_large:
            return None
        words = f"{abs(self.seconds):.0f} s {'ahead of' if self.seconds > 0 else 'behind'} the API server's"
        return (
            f"our clock is {words}; run NTP, for instance chrony, on both machines: beyond 35 s import requests that "
            "were answered may not be carried out"
        )

    def _count(self, proven: float, now: float) -> None:
        age = now - self._since
        if not 0 <= age < _RECENT:
            self._before, self._present, self._since = self._present if 0 <= age < 2 * _RECENT else 0.0, 0.0, now
        self._present = max(self._present, proven, key=abs)
        self.seconds = max(self._before, self._present, key=abs)
