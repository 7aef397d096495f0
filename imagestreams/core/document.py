"""Documents that people write for the program, in YAML: read as texts, lists and mappings, and refused with the place
of the fault.

Nothing is made of a text here: `on`, `1.10` and `2026-01-05` stay what was written. What is ambiguous (a key that comes
twice), or swells or nests without end, is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import yaml

from imagestreams.core.reference import quoted

MAX_TEXT: Final = 256 << 10  # characters; reading them takes a sixth of a second, in which nothing else happens
_MAX_DEPTH = 8  # no document of ours needs more than six; more only costs time
_NULL = frozenset({"", "~", "null", "Null", "NULL"})


class InvalidDocument(ValueError):
    """The text is no document that is taken; says where and why."""


def read_document(text: str) -> object:
    """The value that the document holds: mappings by text, lists, texts, and None for null.

    The events are read rather than objects made by the library: the place of a fault is known, and what swells or nests
    without end is refused before it costs anything.

    Raises:
        InvalidDocument: no YAML, or some that a configuration does not need.
    """
    if len(text) > MAX_TEXT:
        raise InvalidDocument(f"the document: has more than {MAX_TEXT} characters; keep what is needed here")
    events = yaml.parse(text, Loader=yaml.CBaseLoader)
    try:
        return _document(events)
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}" if error.problem_mark else "the document"
        raise InvalidDocument(f"{line}: no valid YAML: {error.problem}") from None
    except yaml.YAMLError:
        raise InvalidDocument("the document: no valid YAML: it holds a character that YAML does not allow") from None


def _document(events: Iterator[yaml.Event]) -> object:
    value: object = {}
    documents = 0
    for event in events:
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1:
                raise _fault(event, "", "a second document begins; keep one")
            value = _value(next(events), events, "", 1)
    # An empty text, or one of comments alone, says nothing.
    return {} if value is None else value


def _value(event: yaml.Event, events: Iterator[yaml.Event], path: str, depth: int) -> object:
    if getattr(event, "anchor", None):  # of an alias, too
        raise _fault(event, path, "anchors and aliases are not taken; write the value out")
    if getattr(event, "tag", None) not in {None, "!"}:
        raise _fault(event, path, "tags are not taken; remove it")
    if depth > _MAX_DEPTH:
        raise _fault(event, "", "is nested too deeply")
    match event:
        case yaml.ScalarEvent():
            return None if not event.style and event.value in _NULL else str(event.value)
        case yaml.SequenceStartEvent():
            items: list[object] = []
            while not isinstance(event := next(events), yaml.SequenceEndEvent):
                items.append(_value(event, events, f"{path}[{len(items)}]", depth + 1))
            return items
        case _:
            found: dict[str, object] = {}
            while not isinstance(event := next(events), yaml.MappingEndEvent):
                if not isinstance(event, yaml.ScalarEvent):
                    raise _fault(event, path, "has a key that is no text")
                key = str(_value(event, events, path, depth + 1) or "")
                if key in found:
                    raise _fault(event, below(path, key), "is given twice; keep one")
                found[key] = _value(next(events), events, below(path, key), depth + 1)
            return found


def _fault(event: yaml.Event, path: str, words: str) -> InvalidDocument:
    line = f" (line {event.start_mark.line + 1})" if event.start_mark else ""
    return InvalidDocument(f"{path or 'the document'}: {words}{line}")


def shown(text: str) -> str:
    """A value as a message may show it: without what may be a password."""
    _, at, rest = text.rpartition("@")
    return quoted(f"***@{rest}" if at else text)


def below(path: str, key: str) -> str:
    """How messages name what is under a key."""
    name = key if re.fullmatch(r"[A-Za-z0-9.:_*-]{1,100}", key) else shown(key)
    return f"{path}.{name}" if path else name
