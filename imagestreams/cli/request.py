"""Requests to the controller by annotation, `"<nonce> [TAG ...]"`, as the commands write and follow them.

A request is carried out when `status.handled` has the annotation's whole text. One that somebody else made, and that is
not carried out yet, is taken into ours, so that none is lost.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from imagestreams.core.stream import ImageStream


@dataclass(frozen=True, slots=True)
class Request:
    """The annotation's value, taken apart. No tags means all, where that can be asked for."""

    value: str
    tags: frozenset[str]

    @classmethod
    def parse(cls, value: str | None) -> Request | None:
        words = (value or "").split()
        return cls(value or "", frozenset(words[1:])) if words else None

    def covers(self, tags: frozenset[str]) -> bool:
        return not self.tags or (bool(tags) and tags <= self.tags)


def nonce() -> str:
    """What tells a request from others like it."""
    return os.urandom(8).hex()  # what secrets.token_hex does, 5 ms of imports away


def refresh(stream: ImageStream, tags: frozenset[str], mark: str) -> Request:
    """A request to look up our tags (none: all), and those that somebody still waits for."""
    pending = _pending(stream.annotations.refresh, handled_refresh(stream))
    wanted = tags if pending is None else tags | pending.tags if tags and pending.tags else frozenset()
    return Request(" ".join([mark, *sorted(wanted)]), wanted)


def forget(stream: ImageStream, tags: frozenset[str], mark: str) -> Request:
    """A request to drop the history of our tags, and of those that somebody asked it for."""
    handled = stream.status.handled.forget if stream.status and stream.status.handled else None
    pending = _pending(stream.annotations.forget, handled)
    wanted = tags | pending.tags if pending else tags
    return Request(" ".join([mark, *sorted(wanted)]), wanted)


def handled_refresh(stream: ImageStream) -> str | None:
    """The last refresh that was carried out."""
    return stream.status.handled.refresh if stream.status and stream.status.handled else None


def _pending(value: str | None, handled: str | None) -> Request | None:
    request = Request.parse(value)
    return request if request and request.value != handled else None


@dataclass(frozen=True, slots=True)
class Asked:
    """Our refresh request, once it is on the stream.

    Attributes:
        tags: that we want; empty means all. The request may name more, somebody else's.
        earlier: values that were asked for before ours; that one of them is handled says nothing of ours.
    """

    request: Request
    tags: frozenset[str]
    earlier: frozenset[str]

    def is_handled(self, stream: ImageStream) -> bool:
        """Whether the controller carried it out, or a later request that somebody merged it into."""
        handled = Request.parse(handled_refresh(stream))
        if handled is None or handled.value in self.earlier:
            return False
        return handled.value == self.request.value or handled.covers(self.tags)

    def is_lost(self, stream: ImageStream) -> bool:
        """Whether somebody replaced or removed it, without taking it over."""
        present = Request.parse(stream.annotations.refresh)
        return present is None or not present.covers(self.tags)
