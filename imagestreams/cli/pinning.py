"""Pinning a tag and letting it go: the annotation that says so, as commands write it.

Only the entry of the tag is touched. An annotation that cannot be read is not written over: it holds tags, too.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from imagestreams.cli.api import Refused
from imagestreams.cli.options import Failure
from imagestreams.core.pins import MAX_PINS, MAX_TEXT, Pin, encode_pins, parse_pins
from imagestreams.core.stream import PINS_ANNOTATION

if TYPE_CHECKING:
    from imagestreams.cli.api import Client

Object = dict[str, Any]

_REVIEWS: Final = "/apis/authentication.k8s.io/v1/selfsubjectreviews"


def pin_of(value: Object, tag: str) -> Pin | None:
    """The pin of a tag in the stream's annotation, done or not; raises Failure where that cannot be read at all."""
    found = parse_pins(_text(value))
    if not found.is_whole:
        raise Failure(f"error: {found.problems[0]}\n  Mend it: kubectl edit imagestream {_name(value)}")
    return found.pins.get(tag)


def pinned(value: Object, tag: str, pin: Pin) -> Object:
    """The stream with the pin; raises Failure where there is no room for it."""
    entries = _entries(value)
    entries[tag] = json.loads(encode_pins({tag: pin}))[tag]
    return _with(value, entries)


def unpinned(value: Object, tag: str) -> Object:
    """The stream without the tag's pin; as it is where there is none, or the annotation cannot be read."""
    if not parse_pins(_text(value)).is_whole or tag not in (entries := _entries(value)):
        return value
    del entries[tag]
    return _with(value, entries)


def _name(value: Object) -> str:
    return str(value["metadata"].get("name", ""))


def _text(value: Object) -> str | None:
    text = (value["metadata"].get("annotations") or {}).get(PINS_ANNOTATION)
    return text if isinstance(text, str) and text.strip() else None


def _entries(value: Object) -> Object:
    """The entries as they are: those of others that we cannot read stay, and hold."""
    text = _text(value)
    entries = json.loads(text) if text else {}
    assert isinstance(entries, dict)  # noqa: S101  # `pin_of` has read it
    return entries


def _with(value: Object, entries: Object) -> Object:
    annotations = dict(value["metadata"].get("annotations") or {})
    annotations.pop(PINS_ANNOTATION, None)
    if entries:
        text = json.dumps(entries, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
        if len(entries) > MAX_PINS or len(text) > MAX_TEXT:
            raise Failure(
                f"error: the image stream {_name(value)} has as many pins as it can hold; let some tags go "
                "(imagestreams resume)"
            )
        annotations[PINS_ANNOTATION] = text
    return {**value, "metadata": {**value["metadata"], "annotations": annotations}}


def author(client: Client) -> str:
    """Who we are to the server, or nothing where it does not say."""
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    try:
        answer = json.loads(client.post(_REVIEWS, json.dumps(review).encode()))
        name = answer["status"]["userInfo"]["username"]
    except (Refused, ValueError, KeyError, TypeError):
        return ""
    return name if isinstance(name, str) else ""
