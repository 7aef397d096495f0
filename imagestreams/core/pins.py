"""Pins: tags that somebody holds at an image of their history, whatever a registry serves meanwhile.

They are written by people, in one annotation of the stream, and act in `core.merging`:

    imagestreams.dev/pins: {"stable": {"digest": "sha256:...", "reason": "checkout fails", "by": "jane", "at": "..."}}

What cannot be read releases nothing: a tag that is held stays held as long as nobody can tell what is wanted of it.
Who pinned and when are claims of the writer, for people, unless the webhook wrote them (`signed`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Final, NamedTuple

import msgspec

from imagestreams.core.reference import is_digest, is_tag, quoted
from imagestreams.core.stream import PINS_ANNOTATION, UNREADABLE, whole_seconds

MAX_PINS: Final = 1000
MAX_TEXT: Final = 64 << 10  # characters of the annotation
MAX_WORDS: Final = 256  # characters of a reason, or of a name

_EXAMPLE = '{"stable": {"digest": "sha256:...", "reason": "why"}}'
_MOMENT = re.compile(r"\d{4}-\d{2}-\d{2}[Tt]\d{2}:\d{2}:\d{2}(?:\.\d+)?(?:[Zz]|[+-]\d{2}:\d{2})", re.ASCII)


class Pin(NamedTuple):
    """The image that a tag is held at, and who holds it since when (aware, whole seconds) and why; printable text."""

    digest: str
    reason: str = ""
    by: str = ""
    at: datetime | None = None

    def __str__(self) -> str:
        by = f" by {self.by}" if self.by else ""
        since = f" since {self.at:%Y-%m-%dT%H:%M:%SZ}" if self.at else ""
        return f"{self.digest}{by}{since}" + (f": {self.reason}" if self.reason else "")


@dataclass(frozen=True, slots=True)
class Pins:
    """What the annotation says.

    `pins` are by tag; `problems` are sentences for the stream's owner. Of the tags in `unread` the entry cannot be
    read; where `is_whole` is False that is so of the whole annotation.
    """

    pins: Mapping[str, Pin] = field(default_factory=lambda: MappingProxyType({}))
    problems: tuple[str, ...] = ()
    unread: frozenset[str] = frozenset()
    is_whole: bool = True

    def is_unclear(self, tag: str) -> bool:
        """Whether nobody can tell if the tag is to be held."""
        return not self.is_whole or tag in self.unread


NO_PINS: Final = Pins()


def parse_pins(text: str | None) -> Pins:
    """Read the annotation. What is wrong is a problem, and the entry is left out; what is wrong in the words for people
    leaves only those out.
    """
    if text is None or not text.strip():
        return NO_PINS
    fault = ""
    entries: object = None
    if len(text) > MAX_TEXT:
        fault = f"is longer than {MAX_TEXT >> 10} KiB"
    else:
        try:
            entries = msgspec.json.decode(text)
        except (*UNREADABLE, UnicodeEncodeError) as error:
            fault = "is nested too deeply" if isinstance(error, RecursionError) else f"is no JSON ({error})"
    if not fault and not isinstance(entries, dict):
        fault = "is no JSON object"
    elif isinstance(entries, dict) and len(entries) > MAX_PINS:
        fault = f"has more than {MAX_PINS} entries"
    if fault or not isinstance(entries, dict):
        words = f"the annotation {PINS_ANNOTATION} {fault}; write {_EXAMPLE}; what is held stays held"
        return Pins(problems=(words,), is_whole=False)
    pins: dict[str, Pin] = {}
    problems: list[str] = []
    for tag, entry in entries.items():
        pin, problem = _read(tag, entry)
        if pin is not None:
            pins[tag] = pin
        if problem:
            problems.append(f"the pin of tag {quoted(tag)} {problem}")
    return Pins(MappingProxyType(pins), tuple(problems), frozenset(entries.keys() - pins.keys()))


def _read(tag: str, entry: object) -> tuple[Pin | None, str]:
    """The pin, if there is one, and what is wrong."""
    if not is_tag(tag):
        return None, "is ignored: that is no tag's name"
    if not isinstance(entry, dict):
        return None, f"is ignored: it is no object; write {_EXAMPLE}"
    digest = entry.get("digest")
    if not isinstance(digest, str) or not is_digest(digest):
        found = quoted(digest) if isinstance(digest, str) else "missing"
        return None, f"is ignored: its digest is {found}; write one of the tag's history, such as sha256:..."
    faults = [name for name in ("reason", "by", "at") if not isinstance(entry.get(name, ""), str | None)]
    reason, by, at = (words if isinstance(words := entry.get(name), str) else "" for name in ("reason", "by", "at"))
    moment = _moment(at)
    if at and moment is None:
        faults.append("at")
    problem = f"holds, but its {' and '.join(faults)} cannot be read" if faults else ""
    return Pin(digest, _printable(reason), _printable(by), moment), problem


def _moment(text: str) -> datetime | None:
    try:
        return whole_seconds(datetime.fromisoformat(text.upper())) if _MOMENT.fullmatch(text) else None
    except (ValueError, OverflowError):
        return None


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text[:MAX_WORDS]).strip()


def encode_pins(pins: Mapping[str, Pin]) -> str:
    """The annotation's text, always the same for the same pins; what `parse_pins` reads back is equal."""
    written = {tag: _fields(pin) for tag, pin in sorted(pins.items())}
    return msgspec.json.encode(written).decode()


def _fields(pin: Pin) -> dict[str, str]:
    at = f"{pin.at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}" if pin.at else ""
    words = {"digest": pin.digest, "reason": _printable(pin.reason), "by": _printable(pin.by), "at": at}
    return {name: text for name, text in words.items() if text}


def signed(old: Mapping[str, Pin], new: Mapping[str, Pin], *, by: str, at: datetime) -> dict[str, Pin]:
    """The new pins, with who wrote them when in those that are not as they were; `at` is aware."""
    author = _printable(by)
    return {
        tag: pin if old.get(tag) == pin else pin._replace(by=author, at=whole_seconds(at)) for tag, pin in new.items()
    }
