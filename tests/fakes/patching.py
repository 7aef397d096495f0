"""Merge and JSON patches, as kube-apiserver applies them."""

from __future__ import annotations

import copy
from typing import Any


class NoPatchError(Exception):
    """It cannot be read: 400."""


class PatchFailedError(Exception):
    """A test in it failed, or a path is not there: 422."""


def merged(target: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value)
    return result


def json_patched(target: dict[str, Any], patch: Any) -> dict[str, Any]:
    """RFC 6902 as kube-apiserver applies it: all or nothing; a test of an absent member against null passes."""
    if not isinstance(patch, list) or not all(map(_is_operation, patch)):
        raise NoPatchError("error decoding patch")
    result = copy.deepcopy(target)
    try:
        for each in patch:
            _apply(result, each)
    except (LookupError, ValueError, TypeError) as error:
        raise PatchFailedError("the server rejected our request due to an error in our request") from error
    return result


def _is_operation(each: Any) -> bool:
    return isinstance(each, dict) and isinstance(each.get("op"), str) and isinstance(each.get("path"), str)


def _apply(document: Any, operation: dict[str, Any]) -> None:
    match operation["op"]:
        case "test":
            try:
                present = _at(document, operation["path"])
            except LookupError:
                present = None
            if present != operation.get("value"):
                raise ValueError("test failed")
        case "add":
            _set(document, operation["path"], operation["value"], insert=True)
        case "replace":
            # kube-apiserver replaces also a member that is not there; of a list's items only those that are.
            _set(document, operation["path"], operation["value"], insert=False)
        case "remove":
            _unset(document, operation["path"])
        case "copy":
            _set(document, operation["path"], copy.deepcopy(_at(document, operation["from"])), insert=True)
        case "move":
            value = _at(document, operation["from"])
            _unset(document, operation["from"])
            _set(document, operation["path"], value, insert=True)
        case other:
            raise NoPatchError(f"unknown operation {other!r} of a JSON patch")


def _steps(path: str) -> list[str]:
    if not path.startswith("/"):
        raise ValueError(path)
    return [step.replace("~1", "/").replace("~0", "~") for step in path[1:].split("/")]


def _walk(document: Any, steps: list[str]) -> Any:
    for step in steps:
        document = document[_index(document, step)] if isinstance(document, list) else document[step]
        if document is None:
            raise LookupError(step)
    return document


def _index(items: list[Any], step: str) -> int:
    if not step.isdecimal() or int(step) >= len(items):
        raise LookupError(step)
    return int(step)


def _at(document: Any, path: str) -> Any:
    *parents, last = _steps(path)
    parent = _walk(document, parents)
    return parent[_index(parent, last)] if isinstance(parent, list) else parent[last]


def _set(document: Any, path: str, value: Any, *, insert: bool) -> None:
    *parents, last = _steps(path)
    parent = _walk(document, parents)
    if not isinstance(parent, list):
        parent[last] = value
    elif not insert:
        parent[_index(parent, last)] = value
    elif last == "-":
        parent.append(value)
    else:
        parent.insert(_index([*parent, None], last), value)


def _unset(document: Any, path: str) -> None:
    *parents, last = _steps(path)
    parent = _walk(document, parents)
    if isinstance(parent, list):
        del parent[_index(parent, last)]
    else:
        del parent[last]
