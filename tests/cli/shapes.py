"""What is in a JSON output, as a table: each path and the types that are there.

    assert shape(json.loads(out)) == {"items[].name": {"str"}, ...}

A program that reads the output breaks when a row goes, or changes its type. `null` is a type of its own. A map whose
keys are data is named by `maps`: its keys are `*`.
"""

from __future__ import annotations

from typing import Any

_NAMES = {dict: "object", list: "array", str: "string", bool: "boolean", int: "integer", float: "number"}


def shape(value: Any, *, maps: tuple[str, ...] = ()) -> dict[str, set[str]]:
    """The types by path, of all but the objects and arrays that have something in them."""
    found: dict[str, set[str]] = {}
    _add(value, "", found, maps)
    return found


def _add(value: Any, path: str, found: dict[str, set[str]], maps: tuple[str, ...]) -> None:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            name = "*" if path in maps else key
            _add(inner, f"{path}.{name}" if path else name, found, maps)
    elif isinstance(value, list) and value:
        for inner in value:
            _add(inner, f"{path}[]", found, maps)
    else:
        found.setdefault(path, set()).add("null" if value is None else _NAMES[type(value)])
