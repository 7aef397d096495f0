"""The webhook of pins: who pinned a tag, and when, is what the API server knows, and not what is written there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

import msgspec

from imagestreams.core.admission import Allowed, Denied, Review, Verdict
from imagestreams.core.pins import MAX_TEXT, Pin, Pins, encode_pins, parse_pins, signed
from imagestreams.core.stream import PINS_ANNOTATION, UNREADABLE
from imagestreams.core.trigger import pointer


class _Metadata(msgspec.Struct, frozen=True):
    annotations: dict[str, str] | None = None


class _Object(msgspec.Struct, frozen=True):
    metadata: _Metadata = _Metadata()


_MOST_TOLD = 3

_decode = msgspec.json.Decoder(_Object)
_decode_entries = msgspec.json.Decoder(dict[str, object]).decode
_encode = msgspec.json.Encoder().encode


class PinsDoor:
    """Reviews image streams; the handler of their webhook.

    Args:
        group: the API group.
        clock: aware, UTC.
    """

    def __init__(self, *, group: str, clock: Callable[[], datetime]) -> None:
        self._group, self._clock = group, clock

    async def __call__(self, review: Review) -> Verdict:
        """The pins, signed; or a refusal where they cannot be read, or could not be once they are signed."""
        if (review.group, review.resource, review.subresource) != (self._group, "imagestreams", ""):
            return Allowed()
        try:
            text, before = _text(review.object), _text(review.old)
        except UNREADABLE:
            return Allowed()
        if text is None or text == before:
            return Allowed()
        new, old = parse_pins(text), parse_pins(before)
        if not new.is_whole:
            return _invalid(new.problems)
        entries, known = _entries(text, new), _entries(before, old)
        # What was there before is in nobody's way; it is told, and kept.
        broken = {tag: entries[tag] for tag in new.unread if tag not in known or known[tag] != entries[tag]}
        if broken:
            return _invalid(parse_pins(_encode(broken).decode()).problems)
        unchanged = {tag: old.pins[tag] for tag, pin in new.pins.items() if _is_same(pin, old.pins.get(tag))}
        pins = signed(old.pins, {**new.pins, **unchanged}, by=review.requester.username, at=self._clock())
        if pins == new.pins:
            return Allowed(warnings=new.problems)
        unread = {tag: entries[tag] for tag in new.unread}
        written = sorted({**_decode_entries(encode_pins(pins)), **unread}.items())
        signed_text = _encode(dict(written)).decode()
        if len(signed_text) > MAX_TEXT:
            words = f"is longer than {MAX_TEXT >> 10} KiB with the names of who pinned, and could not be read any more"
            return _invalid([f"the annotation {PINS_ANNOTATION} {words}; pin fewer tags, or give shorter reasons"])
        path = pointer("metadata", "annotations", PINS_ANNOTATION)
        return Allowed(({"op": "add", "path": path, "value": signed_text},), new.problems)


def _invalid(problems: Sequence[str]) -> Denied:
    return Denied(422, "Invalid", "; ".join(problems[:_MOST_TOLD]))


def _entries(text: str | None, pins: Pins) -> dict[str, object]:
    """As they are written, whatever that means."""
    return _decode_entries(text) if text and text.strip() and pins.is_whole else {}


def _text(body: bytes) -> str | None:
    return (_decode.decode(body).metadata.annotations or {}).get(PINS_ANNOTATION) if body else None


def _is_same(pin: Pin, old: Pin | None) -> bool:
    """Whether nothing new is wanted. A manifest that is applied again does not say who applied it first."""
    return old is not None and (pin.digest, pin.reason) == (old.digest, old.reason)
