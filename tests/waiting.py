"""Waiting for what becomes true in another process, where nothing can be watched."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def until(condition: Callable[[], object], *, seconds: float = 15) -> None:
    """Return as soon as `condition` gives something true; after `seconds` the test fails."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s"
        time.sleep(0.05)
