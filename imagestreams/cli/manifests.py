"""ImageStreams read from files, as `kubectl apply` would take them: YAML with any number of documents or JSON, single
objects or lists, in either API group.

What the API server would refuse is refused here, with the file, the document, the line where it is known, and the way
out; all faults at once. A file may come from somebody whose change is only being checked, so nothing in it can make us
run on: nesting, aliases and sizes have limits.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from imagestreams.cli.options import NAMESPACE
from imagestreams.cli.table import printable
from imagestreams.core.reference import quoted
from imagestreams.core.stream import (
    FORGET_ANNOTATION,
    INTERVAL_ANNOTATION,
    REFRESH_ANNOTATION,
    ImageStream,
    MalformedObject,
    ObjectKey,
    decode,
)
from imagestreams.settings import GROUPS, VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

STDIN: Final = "-"

_SUFFIXES: Final = frozenset({".yaml", ".yml", ".json"})  # what kubectl takes from a directory
_MAX_FILE: Final = 64 << 20  # bytes; an export of all streams of a large cluster
_MAX_FILES: Final = 10_000
_MAX_DEPTH: Final = 100  # of nesting; libyaml's composer overruns the stack at some ten thousand
_MAX_VALUES: Final = 200_000  # of one object, aliases followed; etcd takes no such object
_MAX_STREAMS: Final = 50_000
_MAX_LISTS: Final = 4  # of lists in lists
_MAX_PROBLEMS: Final = 20  # that are said


@dataclass(frozen=True, slots=True)
class Manifest:
    """A stream, and where it was read. `is_suspended`: the manifest tells a controller not to import it."""

    stream: ImageStream
    origin: str
    is_suspended: bool = False


@dataclass(frozen=True, slots=True)
class Manifests:
    """What the files hold: the streams in their order, and a line on each file that holds something else as well."""

    streams: tuple[Manifest, ...]
    skipped: tuple[str, ...]


class InvalidManifests(ValueError):
    """The input cannot be used as it is; one line for each fault."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        more = len(self.problems) - _MAX_PROBLEMS
        shown = [*self.problems[:_MAX_PROBLEMS], *([f"... and {more} more faults"] if more > 0 else [])]
        super().__init__("\n".join(map(printable, shown)))


def read_manifests(
    names: Sequence[str], *, recursive: bool, namespace: str, read_stdin: Callable[[int], bytes] | None = None
) -> Manifests:
    """Read files, directories and, where "-" is named, the standard input.

    Args:
        names: of files and directories.
        recursive: directories within directories as well.
        namespace: of the streams that name none.
        read_stdin: gives at most so many bytes; the standard input when None.

    Raises:
        InvalidManifests: with every fault that was found.
    """
    read_stdin = read_stdin or sys.stdin.buffer.read
    reading = _Reading(namespace)
    for origin, path in _files(names, recursive=recursive, problems=reading.problems):
        try:
            content = read_stdin(_MAX_FILE + 1) if path is None else _content(path)
        except OSError as error:
            reading.problems.append(f"{origin}: cannot be read: {error.strerror or error}")
            continue
        reading.take(content, origin)
    return reading.done()


def parse_manifests(text: str, *, origin: str, namespace: str) -> Manifests:
    """The same for a text; `origin` stands in messages.

    Raises:
        InvalidManifests: with every fault that was found.
    """
    reading = _Reading(namespace)
    reading.take(text.encode(), origin)
    return reading.done()


# ---- files ----


def _files(names: Sequence[str], *, recursive: bool, problems: list[str]) -> Iterator[tuple[str, Path | None]]:
    """What to read, with its name for messages; None stands for the standard input."""
    count = 0
    if names.count(STDIN) > 1:
        problems.append("-: the standard input can be read only once")
    for name in dict.fromkeys(names):
        if name == STDIN:
            yield "standard input", None
        elif re.match(r"https?://", name):
            problems.append(f"{name}: is no file; fetch it first, as in: curl -fsSL {name} | imagestreams resolve -f -")
        elif Path(name).is_dir():
            found = False
            for path in _walk(Path(name), recursive=recursive):
                count, found = count + 1, True
                if count > _MAX_FILES:
                    problems.append(f"{name}: holds more than {_MAX_FILES} files; name fewer")
                    return
                yield str(path), path
            if not found:
                kinds = ", ".join(sorted(_SUFFIXES))
                hint = "" if recursive else "; -R looks into its directories as well"
                problems.append(f"{name}: holds no file that ends in {kinds}{hint}")
        else:
            yield name, Path(name)


def _walk(directory: Path, *, recursive: bool) -> Iterator[Path]:
    """The manifests of a directory by name; links to directories are not followed, so that no circle is walked."""
    for path in sorted(directory.iterdir()):
        if path.is_dir():
            if recursive and not path.is_symlink():
                yield from _walk(path, recursive=True)
        elif path.suffix in _SUFFIXES:
            yield path


def _content(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_MAX_FILE + 1)


# ---- documents ----


class _Broken(Exception):
    """A document cannot be read; `line` counts from 1, 0 where it is not known."""

    def __init__(self, words: str, line: int = 0) -> None:
        super().__init__(words)
        self.line = line


@dataclass(slots=True)
class _Document:
    """A parsed document. Lines are those of the members of each mapping and list, by the container's id()."""

    value: Any
    lines: dict[int, dict[Any, int]] = field(default_factory=dict)

    def line(self, path: Sequence[str | int]) -> int:
        """Where the member at a path stands, or what holds it; 0 where that is not known."""
        value, found = self.value, 0
        for step in path:
            line = self.lines.get(id(value), {}).get(step)
            if line is None:
                break
            found = line
            value = value[step]
        return found


_LIKE_JSON: Final = re.compile(r"\s*\{\s*[\"}]")


def _documents(text: str) -> Iterator[_Document]:
    """The documents of a file; raises `_Broken`. Those without content are there too, as None."""
    if text.lstrip().startswith("{"):
        try:
            yield from list(_json(text))
        except _Broken as broken:
            # What starts like JSON may be YAML in its short form, which need not quote its keys.
            try:
                found = list(_yaml(text))
            except _Broken as other:
                raise (broken if _LIKE_JSON.match(text) else other) from None
            yield from found
        return
    yield from _yaml(text)


def _json(text: str) -> Iterator[_Document]:
    """JSON objects, one after the other."""

    def mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in pairs:
            if name in found:
                raise _Broken(f"the field {quoted(name)} is given twice")
            found[name] = value
        return found

    def constant(name: str) -> None:
        raise _Broken(f"no valid JSON: {name} is no value")

    decoder = json.JSONDecoder(object_pairs_hook=mapping, parse_constant=constant)
    position = 0
    while position < len(text):
        try:
            value, end = decoder.raw_decode(text, position)
        except json.JSONDecodeError as error:
            raise _Broken(f"no valid JSON: {error.msg}", error.lineno) from None
        except RecursionError:
            raise _Broken(f"nested more than {_MAX_DEPTH} deep") from None
        except ValueError:  # a number of thousands of digits
            raise _Broken("no valid JSON: a number that is too long") from None
        if _depth(value) > _MAX_DEPTH:
            raise _Broken(f"nested more than {_MAX_DEPTH} deep")
        yield _Document(value)
        position = end + len(text[end:]) - len(text[end:].lstrip())


def _depth(value: Any) -> int:
    level, depth = [value], 0
    while level := [
        child
        for parent in level
        if isinstance(parent, dict | list)
        for child in (parent.values() if isinstance(parent, dict) else parent)
    ]:
        depth += 1
    return depth


class _Open(NamedTuple):
    """A mapping or list that is being read."""

    value: dict[str, Any] | list[Any]
    anchor: str | None
    lines: dict[Any, int]
    keys: list[str | None]  # the key whose value comes next; None for a merge
    merged: list[Any]  # mappings whose fields it takes over (`<<`)


_MERGE: Final = "<<"
_SCALAR_TAGS: Final = frozenset(f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float"))


def _yaml(text: str) -> Iterator[_Document]:
    """YAML documents, with the values that kubectl sees in them.

    They are built from the parser's events: its composer calls itself for each level, and overruns the C stack on a
    text that is made for it.
    """
    import yaml  # noqa: PLC0415  # `--help` needs none

    building = _Building()
    try:
        for event in yaml.parse(text, Loader=yaml.CSafeLoader):
            line = event.start_mark.line + 1 if event.start_mark else 0
            match event:
                case yaml.DocumentStartEvent():
                    building = _Building()
                case yaml.DocumentEndEvent():
                    yield building.document
                case yaml.ScalarEvent():
                    is_plain = (event.implicit[0] and not event.style) or event.tag in _SCALAR_TAGS
                    building.scalar(event.value, event.anchor, line, is_plain=is_plain)
                case yaml.AliasEvent():
                    building.alias(event.anchor or "", line)
                case yaml.MappingStartEvent():
                    building.begin({}, event.anchor, line)
                case yaml.SequenceStartEvent():
                    building.begin([], event.anchor, line)
                case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                    building.end(line)
                case _:
                    pass
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = min(mark.line, text.count("\n")) + 1 if mark else 0  # the end may be said to be on a line of its own
        raise _Broken(f"no valid YAML: {error.problem or error.context}", line) from None
    except yaml.YAMLError as error:
        line = text.count("\n", 0, getattr(error, "position", 0)) + 1
        raise _Broken("no valid YAML: a character that is not allowed in it", line) from None


class _Building:
    """A document while its events come in. An alias stands for the same value, which is not copied."""

    def __init__(self) -> None:
        self.document = _Document(None)
        self._open: list[_Open] = []
        self._anchors: dict[str, Any] = {}

    def begin(self, value: dict[str, Any] | list[Any], anchor: str | None, line: int) -> None:
        if len(self._open) >= _MAX_DEPTH:
            raise _Broken(f"nested more than {_MAX_DEPTH} deep", line)
        self._open.append(_Open(value, anchor, {}, [], []))

    def end(self, line: int) -> None:
        top = self._open.pop()
        for other in top.merged:
            if not isinstance(other, dict) or not isinstance(top.value, dict):
                raise _Broken("<< takes a mapping, or a list of mappings", line)
            for name, value in other.items():
                top.value.setdefault(name, value)
                top.lines.setdefault(name, line)
        self.document.lines[id(top.value)] = top.lines
        self._remember(top.anchor, top.value)
        self._add(top.value, line)

    def scalar(self, text: str, anchor: str | None, line: int, *, is_plain: bool) -> None:
        top = self._open[-1] if self._open else None
        if top is None or isinstance(top.value, list) or top.keys:
            value = _scalar(text) if is_plain else text
            self._remember(anchor, value)
            self._add(value, line)
            return
        if text in top.value:
            raise _Broken(f"the field {quoted(text)} is given twice", line)
        self._remember(anchor, text)
        if is_plain and text == _MERGE:
            top.keys.append(None)
        else:
            top.lines[text] = line
            top.keys.append(text)

    def alias(self, anchor: str, line: int) -> None:
        # An anchor is known once its value is complete, so that nothing can hold itself.
        if anchor not in self._anchors:
            raise _Broken(f"*{anchor[:60]} stands for nothing that is complete there", line)
        self._add(self._anchors[anchor], line)

    def _remember(self, anchor: str | None, value: Any) -> None:
        if anchor:
            self._anchors[anchor] = value

    def _add(self, value: Any, line: int) -> None:
        if not self._open:
            self.document.value = value
            return
        top = self._open[-1]
        if isinstance(top.value, list):
            top.lines[len(top.value)] = line
            top.value.append(value)
        elif not top.keys:
            raise _Broken("a field's name must be a text", line)
        elif (name := top.keys.pop()) is None:
            top.merged.extend(value if isinstance(value, list) else [value])
        else:
            top.value[name] = value


_NULLS: Final = frozenset({"", "~", "null", "Null", "NULL"})
_TRUE: Final = frozenset({"y", "Y", "yes", "Yes", "YES", "on", "On", "ON", "true", "True", "TRUE"})
_FALSE: Final = frozenset({"n", "N", "no", "No", "NO", "off", "Off", "OFF", "false", "False", "FALSE"})
_INTEGER: Final = re.compile(r"[-+]?(?:[0-9][0-9_]*|0x[0-9a-fA-F_]+|0b[01_]+|0o[0-7_]+)", re.ASCII)
_FLOAT: Final = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", re.ASCII)


def _scalar(text: str) -> Any:
    """What kubectl makes of a plain scalar (YAML 1.1 as Go reads it): `1.20`, `1e10` and `on` are no texts."""
    if text in _NULLS:
        return None
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    if len(text) > 40:
        return text
    if _INTEGER.fullmatch(text):
        with contextlib.suppress(ValueError):
            plain = text.replace("_", "")
            return int(plain, 8) if re.fullmatch(r"[-+]?0[0-7]+", plain) else int(plain, 0)
    return float(text) if _FLOAT.fullmatch(text) else text


# ---- objects ----


class _Reading:
    """What was read so far of all files."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self._streams: dict[ObjectKey, Manifest] = {}
        self._skipped: list[str] = []
        self._passed_over: Counter[str] = Counter()
        self._origins: list[str] = []
        self.problems: list[str] = []

    def take(self, content: bytes, origin: str) -> None:
        """Read one file."""
        self._origins.append(origin)
        self._passed_over = Counter()
        number = 0
        try:
            if len(content) > _MAX_FILE:
                raise _Broken(f"larger than {_MAX_FILE >> 20} MiB")
            try:
                text = content.decode("utf-8-sig")
            except UnicodeDecodeError as error:
                raise _Broken("no text in UTF-8", content.count(b"\n", 0, error.start) + 1) from None
            for number, document in enumerate(_documents(text), start=1):
                self._object(document, (), f"{origin}: document {number}", {}, 0)
                if len(self.problems) > _MAX_PROBLEMS:
                    break
        except _Broken as broken:
            where = f", line {broken.line}" if broken.line else ""
            self.problems.append(f"{origin}: document {number + 1}{where}: {broken}")
        if self._passed_over:
            kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self._passed_over.items()))
            self._skipped.append(printable(f"{origin}: skipped {kinds}: only ImageStreams are resolved"))

    def done(self) -> Manifests:
        if not self.problems and not self._streams:
            for line in self._skipped:
                self.problems.append(line)
            self.problems.append(f"no ImageStream was found in: {', '.join(self._origins) or 'nothing'}")
        if self.problems:
            raise InvalidManifests(self.problems)
        return Manifests(tuple(self._streams.values()), tuple(self._skipped))

    def _object(
        self, document: _Document, path: tuple[str | int, ...], origin: str, list_type: Mapping[str, str], depth: int
    ) -> None:
        """Take the object at a path of a document, and those in it if it is a list."""
        value = document.value
        for step in path:
            value = value[step]
        if value is None:
            return
        if not isinstance(value, dict):
            where = _place(origin, document.line(path))
            self.problems.append(f"{where}: {_shown(value)} is no object; write apiVersion, kind, metadata and spec")
            return
        api_version, kind = (value.get(name, list_type.get(name)) for name in ("apiVersion", "kind"))
        if not isinstance(api_version, str) or not isinstance(kind, str) or not kind:
            self._passed_over["object without apiVersion and kind"] += 1
        elif kind == "List" or (kind == "ImageStreamList" and api_version in _API_VERSIONS):
            members = {} if kind == "List" else {"apiVersion": api_version, "kind": "ImageStream"}
            self._list(document, path, origin, members, depth)
        elif kind == "ImageStream" and api_version in _API_VERSIONS:
            self._stream(document, path, origin, value)
        elif kind == "ImageStream":
            self._passed_over[f"ImageStream of {api_version[:80]}, which is not {' or '.join(_API_VERSIONS)}"] += 1
        else:
            self._passed_over[kind[:63]] += 1

    def _list(
        self, document: _Document, path: tuple[str | int, ...], origin: str, members: Mapping[str, str], depth: int
    ) -> None:
        value = document.value
        for step in (*path, "items"):
            value = value.get(step) if isinstance(value, dict) else value[step]
        if value is None:
            return
        if not isinstance(value, list) or depth >= _MAX_LISTS:
            fault = (
                "lists are nested too deeply" if isinstance(value, list) else f"items is {_shown(value)}, not a list"
            )
            self.problems.append(f"{_place(origin, document.line((*path, 'items')))}: {fault}")
            return
        for number in range(len(value)):
            if len(self.problems) > _MAX_PROBLEMS:
                return
            self._object(document, (*path, "items", number), origin, members, depth + 1)

    def _stream(self, document: _Document, path: tuple[str | int, ...], origin: str, value: dict[str, Any]) -> None:
        where, name = _place(origin, document.line(path)), _named(value)
        faults = list(_faults(value))
        for at, words in faults:
            self.problems.append(f"{_place(origin, document.line((*path, *at)))}: ImageStream {name}: {words}")
        if faults:
            return
        try:
            stream = _decoded(value, self._namespace, number=len(self._streams) + 1)
        except MalformedObject as error:
            self.problems.append(f"{where}: ImageStream {name}: {error}")
            return
        if (other := self._streams.get(stream.key)) is not None:
            self.problems.append(
                f"{where}: ImageStream {name} of namespace {stream.metadata.namespace} is given twice, "
                f"first in {other.origin}; keep one of the two"
            )
        elif len(self._streams) >= _MAX_STREAMS:
            self.problems.append(f"{where}: more than {_MAX_STREAMS} streams; give fewer at a time")
        else:
            suspend = (value["metadata"].get("annotations") or {}).get(_SUSPEND)
            self._streams[stream.key] = Manifest(stream, where, is_suspended=suspend == "true")


def _place(origin: str, line: int) -> str:
    return f"{origin}, line {line}" if line else origin


_API_VERSIONS: Final = tuple(f"{group}/{VERSION}" for group in GROUPS)

# Requests, polling and brakes are the controller's business; of what is recorded only history counts (see `_decoded`).
_SUSPEND: Final = "imagestreams.dev/suspend"
_NOT_OURS: Final = frozenset({REFRESH_ANNOTATION, FORGET_ANNOTATION, INTERVAL_ANNOTATION, _SUSPEND})


def _decoded(value: Mapping[str, Any], namespace: str, *, number: int) -> ImageStream:
    """The stream as the cluster would have it when it is new. Raises MalformedObject.

    Its status counts only as history: for tags that nobody asks a registry for, and for `ImageStreamImage`, which names
    an image that a stream once had. No tag passes for resolved by it.
    """
    metadata = value["metadata"]
    annotations = {name: text for name, text in (metadata.get("annotations") or {}).items() if name not in _NOT_OURS}
    kept = {
        "metadata": {
            "name": metadata["name"],
            "namespace": metadata.get("namespace") or namespace,
            "uid": f"manifest-{number}",
            "generation": 1,
            "annotations": annotations,
        },
        "spec": value.get("spec"),
        "status": {"tags": _history(value)},
    }
    return decode(json.dumps(kept).encode())


PAST: Final = "~history"
"""The status tag under which an export's history of looked-up tags is kept; no spec tag can be named so."""


def _history(value: Mapping[str, Any]) -> list[dict[str, Any]]:
    status = value.get("status")
    recorded = status.get("tags") if isinstance(status, dict) else None
    asked = {tag["name"] for tag in (value.get("spec") or {}).get("tags") or () if tag.get("from")}
    kept: list[dict[str, Any]] = []
    past: list[Any] = []
    for tag in recorded if isinstance(recorded, list) else ():
        if not isinstance(tag, dict) or not isinstance(tag.get("items"), list):
            continue
        if tag.get("tag") in asked:
            past += tag["items"]
        else:
            kept.append({"tag": tag.get("tag"), "items": tag["items"]})
    return [*kept, *([{"tag": PAST, "items": past}] if past else [])]


def _named(value: Mapping[str, Any]) -> str:
    metadata = value.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    return str(name)[:80] if name else "without a name"


# ---- what the API server refuses: crds/imagestreams.yaml in words of ours ----


@dataclass(frozen=True, slots=True)
class Field:
    """One field of the schema; `kind` is OpenAPI's type."""

    kind: str
    nullable: bool = False
    longest: int = 0
    pattern: str = ""
    options: tuple[str, ...] = ()
    fields: Mapping[str, Field] | None = None  # of an object; None: any names
    items: Field | None = None  # of an array, or what a map holds


_TEXT: Final = Field("string")
_SWITCH: Final = Field("boolean")
_TAG_NAME: Final = "^[A-Za-z0-9_][A-Za-z0-9_.-]*$"

NAME: Final = Field("string", longest=253, pattern="^[a-z0-9]+([._-][a-z0-9]+)*$")

SPEC: Final = Field(
    "object",
    nullable=True,
    fields={
        "lookupPolicy": Field("object", nullable=True, fields={"local": _SWITCH}),
        "dockerImageRepository": Field("string", longest=512),
        "tags": Field(
            "array",
            nullable=True,
            longest=2500,
            items=Field(
                "object",
                fields={
                    "name": Field("string", longest=128, pattern=_TAG_NAME),
                    "annotations": Field("object", nullable=True, items=_TEXT),
                    "from": Field(
                        "object",
                        nullable=True,
                        fields={
                            "kind": Field("string", longest=64),
                            "name": Field("string", longest=600),
                            "namespace": Field("string", longest=63),
                            **dict.fromkeys(("apiVersion", "uid", "resourceVersion", "fieldPath"), _TEXT),
                        },
                    ),
                    "reference": _SWITCH,
                    "generation": Field("integer", nullable=True),
                    "importPolicy": Field(
                        "object",
                        nullable=True,
                        fields={
                            "insecure": _SWITCH,
                            "scheduled": _SWITCH,
                            "importMode": Field("string", options=("", "Legacy", "PreserveOriginal")),
                        },
                    ),
                    "referencePolicy": Field(
                        "object",
                        nullable=True,
                        fields={"type": Field("string", options=("", "Source", "Local"))},
                    ),
                },
            ),
        ),
    },
)

_Path = tuple[str | int, ...]
_Fault = tuple[_Path, str]

_KINDS: Final[Mapping[str, tuple[type, ...]]] = {
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "object": (dict,),
    "array": (list,),
}
_WORDS: Final = {
    "string": "a text",
    "boolean": "true or false",
    "integer": "a whole number",
    "object": "a mapping",
    "array": "a list",
}
_TOP: Final = ("apiVersion", "kind", "metadata", "spec", "status")
_FROM_KINDS: Final = ("DockerImage", "ImageStreamTag", "ImageStreamImage")


def _faults(value: Mapping[str, Any]) -> Iterator[_Fault]:
    """What is wrong with an ImageStream: the path to it, and words that name it."""
    yield from _metadata_faults(value.get("metadata"))
    for name in value:
        if name not in _TOP:
            yield (name,), f"unknown field {quoted(name)}{_nearest(name, _TOP)}"
    spec = value.get("spec")
    shape = list(_shape_faults(("spec",), spec, SPEC, [0]))
    yield from shape
    if not shape and spec:
        yield from _rule_faults(spec)


def _metadata_faults(metadata: Any) -> Iterator[_Fault]:
    if not isinstance(metadata, dict):
        yield ("metadata",), "metadata is missing; it holds the name"
        return
    name = metadata.get("name")
    if name is None or name == "":
        yield ("metadata", "name"), "metadata.name is missing"
    elif not isinstance(name, str):
        yield ("metadata", "name"), f"metadata.name is {_shown(name)}, not a text; write it in quotes"
    elif not _has(NAME.pattern, name) or len(name) > NAME.longest:
        words = "is no name of a stream; write lower-case letters and digits, joined by one of . _ -"
        yield ("metadata", "name"), f"metadata.name {quoted(name)} {words}"
    namespace = metadata.get("namespace")
    if namespace is not None and not (isinstance(namespace, str) and (not namespace or NAMESPACE.fullmatch(namespace))):
        yield ("metadata", "namespace"), f"metadata.namespace is {_shown(namespace)}, which is no name of a namespace"
    yield from _shape_faults(
        ("metadata", "annotations"), metadata.get("annotations"), Field("object", nullable=True, items=_TEXT), [0]
    )


def _shape_faults(path: _Path, value: Any, field: Field, count: list[int]) -> Iterator[_Fault]:
    """Whether a value has the fields, types and bounds of the schema; `count` is of what was looked at so far."""
    count[0] += 1
    if count[0] > _MAX_VALUES:
        if count[0] == _MAX_VALUES + 1:
            yield path[:1], f"has more than {_MAX_VALUES} values; no API server takes that"
        return
    at = _dotted(path)
    if value is None:
        if not field.nullable:
            yield path, f"{at} is null, not {_WORDS[field.kind]}; leave it out or give it a value"
        return
    if not isinstance(value, _KINDS[field.kind]) or (field.kind == "integer" and isinstance(value, bool)):
        remedy = "; write it in quotes" if field.kind == "string" and not isinstance(value, dict | list) else ""
        yield path, f"{at} is {_shown(value)}, not {_WORDS[field.kind]}{remedy}"
    elif isinstance(value, str):
        yield from _text_faults(path, at, value, field)
    elif isinstance(value, dict):
        yield from _member_faults(path, value, field, count)
    elif isinstance(value, list) and field.items is not None:
        if field.longest and len(value) > field.longest:
            yield path, f"{at} has {len(value)} entries, {field.longest} are allowed"
        else:
            for number, child in enumerate(value):
                yield from _shape_faults((*path, number), child, field.items, count)


def _member_faults(path: _Path, value: Mapping[str, Any], field: Field, count: list[int]) -> Iterator[_Fault]:
    for name, child in value.items():
        inner = field.items if field.fields is None else field.fields.get(name)
        if inner is None:
            near = _nearest(name, tuple(field.fields or ()))
            yield (*path, name), f"unknown field {quoted(f'{_dotted(path)}.{name}')}{near}"
        else:
            yield from _shape_faults((*path, name), child, inner, count)


def _text_faults(path: _Path, at: str, value: str, field: Field) -> Iterator[_Fault]:
    if field.longest and len(value) > field.longest:
        yield path, f"{at} has {len(value)} characters, {field.longest} are allowed"
    elif field.options and value not in field.options:
        yield path, f"{at} is {quoted(value)}; write {' or '.join(option for option in field.options if option)}"
    elif field.pattern and not _has(field.pattern, value):
        words = "is no tag; write letters, digits, '_', '.' and '-', the first a letter, a digit or '_'"
        yield path, f"{at} {quoted(value)} {words}"


def _rule_faults(spec: Mapping[str, Any]) -> Iterator[_Fault]:
    """What the schema's rules refuse, once every field has its type."""
    repository = spec.get("dockerImageRepository") or ""
    if words := _broken(_REPOSITORY_RULES, repository):
        yield ("spec", "dockerImageRepository"), f"spec.dockerImageRepository {quoted(repository)} {words}"
    seen: dict[str, int] = {}
    for number, tag in enumerate(spec.get("tags") or ()):
        path: _Path = ("spec", "tags", number)
        name = tag.get("name")
        if not name:
            yield path, f"spec.tags[{number}].name is missing"
        elif name in seen:
            yield (*path, "name"), f"spec.tags[{number}].name {quoted(name)} is that of spec.tags[{seen[name]}] too"
        else:
            seen[name] = number
        yield from _source_faults((*path, "from"), tag)


def _source_faults(path: _Path, tag: Mapping[str, Any]) -> Iterator[_Fault]:
    source, at = tag.get("from"), _dotted(path)
    if source is None:
        return
    kind, name = source.get("kind") or "", source.get("name") or ""
    if kind not in _FROM_KINDS:
        given = f"is {quoted(kind)}" if kind else "is missing"
        yield (*path, "kind"), f"{at}.kind {given}; write DockerImage, ImageStreamTag or ImageStreamImage"
        return
    if not name:
        yield (*path, "name"), f"{at}.name is missing; name the source, such as quay.io/team/app:1.2 for a DockerImage"
        return
    if words := _broken(_NAME_RULES[kind], name):
        yield (*path, "name"), f"{at}.name {quoted(name)} {words}"
        return
    if kind != "DockerImage" and (tag.get("importPolicy") or {}).get("scheduled"):
        words = "only a tag with from.kind DockerImage is looked up on schedule; leave `scheduled` out here"
        yield (*path[:-1], "importPolicy"), f"{_dotted(path[:-1])}.importPolicy.scheduled: {words}"


class _Rule(NamedTuple):
    """A pattern that is to be found in a name, or not; what is said of a name that breaks the rule."""

    pattern: str
    is_wanted: bool
    words: str


_IMAGE: Final = "write [HOST[:PORT]/]REPOSITORY[:TAG][@DIGEST], as in quay.io/team/app:1.2"
_PLAIN: Final = (
    _Rule(r"\s", False, "must not hold spaces or line breaks"),
    _Rule(r"://", False, "must be an image without a scheme, such as registry.example.com/team/app:1.2"),
)
_NAME_RULES: Final[Mapping[str, tuple[_Rule, ...]]] = {
    "DockerImage": (
        *_PLAIN,
        _Rule(
            r"/[^:@]*[A-Z]|^[^:@/]*[A-Z][^/]*$",
            False,
            "is no image: a repository is written in lower case, as in quay.io/team/app:1.2",
        ),
        _Rule(r"^[^A-Za-z0-9\s]|[^A-Za-z0-9._:/@+\s-]|[/:@+]$", False, f"is no image: {_IMAGE}"),
        _Rule(r"[/._:@-]/|/[._:@-]", False, f"is no image: {_IMAGE}"),
    ),
    "ImageStreamTag": (
        *_PLAIN,
        _Rule(
            r"^([^:@/]+:)?[A-Za-z0-9_][A-Za-z0-9_.-]*$",
            True,
            "is no ImageStreamTag; write TAG (stable) or STREAM:TAG (app:stable); an image is of kind DockerImage",
        ),
    ),
    "ImageStreamImage": (
        *_PLAIN,
        _Rule(
            r"^([^:@/]+@)?(sha[0-9]+:)?[0-9a-f]+$",
            True,
            "is no ImageStreamImage; write STREAM@DIGEST (app@sha256:...); an image is of kind DockerImage",
        ),
    ),
}
_REPOSITORY_RULES: Final = (
    _Rule(r"\s", False, "must not hold spaces or line breaks"),
    _Rule(r"://", False, "must be a repository without a scheme, such as registry.example.com/team/app"),
    _Rule(
        r"@|:[^/]*$",
        False,
        "must be a repository without tag and digest: all of its tags are imported; for a single one write an entry "
        "of spec.tags",
    ),
)


def _broken(rules: Iterable[_Rule], text: str) -> str:
    """What is to be said of a text: the first rule that it breaks, or nothing."""
    return next((rule.words for rule in rules if _has(rule.pattern, text) != rule.is_wanted), "")


def _has(pattern: str, text: str) -> bool:
    """Whether a pattern of the schema is in a text as the API server finds it: the end is all that `$` is in Go."""
    return re.search(pattern.replace("$", r"\Z"), text) is not None


def _dotted(path: Iterable[str | int]) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).lstrip(".")


def _shown(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case None:
            return "null"
        case int() | float():
            return f"the number {value!r:.40}"
        case str():
            return quoted(value)
        case list():
            return "a list"
        case _:
            return "a mapping"


def _nearest(name: str, known: Sequence[str]) -> str:
    import difflib  # noqa: PLC0415  # only for a mistake's message

    near = difflib.get_close_matches(name[:64], known, n=1, cutoff=0.6)
    return f" (did you mean {near[0]}?)" if near else ""
