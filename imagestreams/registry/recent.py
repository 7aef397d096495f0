"""A memory that cannot grow: the entries used last, each until it expires."""

from __future__ import annotations

from collections import OrderedDict
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

Key = TypeVar("Key", bound="Hashable")
Value = TypeVar("Value")


class Recent(Generic[Key, Value]):
    """At most `limit` entries; the one that was not used for longest makes room.

    Args:
        limit: how many entries are kept.
        clock: the present time, aware.
        life: how long an entry is kept at most; None for as long as there is room.
        weight: of a value; None where all weigh nothing.
        capacity: what all values together may weigh; one that alone weighs more is not kept.
    """

    def __init__(
        self,
        limit: int,
        *,
        clock: Callable[[], datetime],
        life: timedelta | None = None,
        weight: Callable[[Value], int] | None = None,
        capacity: int = 0,
    ) -> None:
        self._limit = limit
        self._clock = clock
        self._life = life
        self._weight = weight or _nothing
        self._capacity = capacity
        self._load = 0
        self._entries: OrderedDict[Key, tuple[Value, datetime | None]] = OrderedDict()

    def get(self, key: Key) -> Value | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        value, until = entry
        if until is not None and until <= self._clock():
            self.forget(key)
            return None
        self._entries.move_to_end(key)
        return value

    def put(self, key: Key, value: Value, *, life: timedelta | None = None) -> None:
        """Remember `value`; `life` counts instead of the one given to all."""
        life = life or self._life
        self.forget(key)
        self._entries[key] = (value, self._clock() + life if life else None)
        self._load += self._weight(value)
        while len(self._entries) > self._limit or self._load > self._capacity:
            self.forget(next(iter(self._entries)))

    def forget(self, key: Key) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._load -= self._weight(entry[0])

    def __len__(self) -> int:
        return len(self._entries)


def _nothing(_value: object) -> int:
    return 0
