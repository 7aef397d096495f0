"""What `set-triggers` makes of a workload's annotation `image.openshift.io/triggers`, and how the triggers are listed.

Pure. The annotation is written as `oc set triggers` writes it, a container by its name; entries that are not asked for
stay as they are. The short form, `imagestreams.dev/follow`, is read and respected, and never changed here.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from imagestreams.cli.options import Failure
from imagestreams.core import trigger as core
from imagestreams.core.stream import Istag, MalformedObject

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from imagestreams.cli.workloads import PodKind

Object = dict[str, Any]

_TRIGGERS: Final = core.TRIGGERS_ANNOTATION
_FOLLOW: Final = core.FOLLOW_ANNOTATION


class Wanted(NamedTuple):
    """What the flags say. `tag` is "stream:tag" in `namespace` (empty: the object's); `containers` are named, or none;
    `is_auto` is None where neither --auto nor --manual is given.
    """

    tag: str = ""
    namespace: str = ""
    containers: tuple[str, ...] = ()
    is_auto: bool | None = None
    removes: bool = False
    removes_all: bool = False


class Row(NamedTuple):
    """A trigger as it is listed."""

    kind: str
    value: str
    is_auto: bool


def is_followed(kind: PodKind) -> bool:
    """Whether the controller follows the triggers of such objects."""
    return any(known.resource == kind.resource.plural for known in core.KINDS)


def read(kind: PodKind, value: Object) -> core.Workload:
    """The workload as triggers see it; raises Failure."""
    known = core.WorkloadKind(kind.api_version, kind.name, kind.resource.plural, (*kind.template, "spec"))
    try:
        return core.decode_workload(known, json.dumps(value).encode())
    except MalformedObject as error:
        raise Failure(f"error: the server's {kind.resource.singular} is malformed: {error}") from error


def rows(kind: PodKind, value: Object) -> tuple[tuple[Row, ...], tuple[str, ...]]:
    """What to list of an object, one row for each tag that is followed; and what is wrong in its annotations."""
    workload = read(kind, value)
    found = core.parse_triggers(workload)
    grouped: dict[tuple[Istag, bool], list[str]] = {}
    for trigger in found.triggers:
        grouped.setdefault((trigger.istag, trigger.is_paused), []).append(trigger.container.name)
    listed = [
        Row("image", f"{_shown(istag, workload)} ({', '.join(names)})", not is_paused)
        for (istag, is_paused), names in grouped.items()
    ]
    is_rolled = not (value.get("spec") or {}).get("paused", False)
    return (Row("config", "", is_rolled), *listed), found.problems


def _shown(istag: Istag, workload: core.Workload) -> str:
    name = f"{istag.stream}:{istag.tag}"
    return name if istag.namespace == workload.key.namespace else f"{istag.namespace}/{name}"


def set_triggers(kind: PodKind, value: Object, wanted: Wanted) -> tuple[str, ...]:
    """Change the annotation in the object's JSON; gives what the user should be told.

    Raises:
        Failure: it cannot be done as the object is.
    """
    editing = _Editing(kind, value, wanted)
    if wanted.removes_all:
        editing.remove_all()
    elif wanted.removes:
        editing.remove()
    elif wanted.tag:
        editing.add()
    else:
        editing.switch()
    return tuple(editing.said)


class _Editing:
    def __init__(self, kind: PodKind, value: Object, wanted: Wanted) -> None:
        self._kind, self._value, self._wanted = kind, value, wanted
        self._workload = read(kind, value)
        self._named = kind.resource.named(self._workload.key.name)
        self.said: list[str] = []
        unknown = set(wanted.containers) - {container.name for container in self._workload.containers}
        if unknown:
            raise Failure(
                f"error: {self._named} has no container {', '.join(sorted(unknown))}; it has {self._known_containers()}"
            )

    def remove_all(self) -> None:
        (self._value["metadata"].get("annotations") or {}).pop(_TRIGGERS, None)
        for container, istag in self._short_form().items():
            self._say_short(container, istag)

    def remove(self) -> None:
        entries = self._entries()
        left = [entry for entry in entries if not self._is_meant(entry)]
        for container, istag in self._short_form().items():
            if self._names(container) and (not self._wanted.tag or istag == self._istag()):
                self._say_short(container, istag)
        if len(left) == len(entries) and not self.said:
            raise Failure(f"error: {self._named} has no such trigger; see: imagestreams set-triggers {self._path()}")
        self._write(left)

    def switch(self) -> None:
        """Pause, or go on with, the triggers that there are."""
        entries = self._entries()
        for entry in entries:
            if self._is_meant(entry):
                self._set_paused(entry)
        if not self._wanted.is_auto:
            for container, istag in self._short_form().items():
                if self._names(container):
                    self._say_short(container, istag)
        if not any(map(self._is_meant, entries)) and not self._short_form():
            raise Failure(f"error: {self._named} has no trigger; give it one with --from-image and -c")
        self._write(entries)

    def add(self) -> None:
        entries, short = self._entries(), self._short_form()
        for container in self._wanted.containers or (self._only_container(),):
            if container in short:
                self._respect(container, short[container])
                continue
            same = [entry for entry in entries if self._follows(entry) == (container, self._istag())]
            other = [
                entry for entry in entries if entry not in same and (self._follows(entry) or ("",))[0] == container
            ]
            for entry in (*other, *same[1:]):
                entries.remove(entry)
            for istag in dict.fromkeys(found[1] for entry in other if (found := self._follows(entry))):
                self.said.append(f"container {container} does not follow {_shown(istag, self._workload)} any more")
            if not same:
                entries.append(self._entry(container))
            else:
                self._set_paused(same[0])
        self._write(entries)

    # --- what is there

    def _entries(self) -> list[Object]:
        text = self._workload.annotations.get(_TRIGGERS)
        try:
            entries = json.loads(text) if text else []
        except (ValueError, RecursionError) as error:
            raise Failure(self._unreadable(f"is not JSON ({error})")) from error
        entries = entries or []
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise Failure(self._unreadable("is no list of objects"))
        return entries

    def _unreadable(self, words: str) -> str:
        return (
            f"error: the annotation {_TRIGGERS} of {self._named} {words}, so that nothing can be added to it\n"
            f"  To begin anew: imagestreams set-triggers {self._path()} --remove-all"
        )

    def _follows(self, entry: Object) -> tuple[str, Istag] | None:
        """The container that an entry is about, and the tag that it follows; None for one that cannot be read."""
        found = self._parsed({_TRIGGERS: json.dumps([entry])})
        return next(iter(found.items()), None)

    def _short_form(self) -> Mapping[str, Istag]:
        """Containers with the tags that they follow by the other annotation."""
        text = self._workload.annotations.get(_FOLLOW)
        return {} if text is None else self._parsed({_FOLLOW: text})

    def _parsed(self, annotations: dict[str, str]) -> dict[str, Istag]:
        found = core.parse_triggers(replace(self._workload, annotations=annotations))
        return {trigger.container.name: trigger.istag for trigger in found.triggers}

    def _istag(self) -> Istag:
        stream, _, tag = self._wanted.tag.partition(":")
        return Istag(self._wanted.namespace or self._workload.key.namespace, stream, tag)

    def _is_meant(self, entry: Object) -> bool:
        """Whether the flags are about an entry; one that cannot be read is meant by those that name nothing."""
        found = self._follows(entry)
        if found is None:
            return not self._wanted.tag and not self._wanted.containers
        return self._names(found[0]) and (not self._wanted.tag or found[1] == self._istag())

    def _names(self, container: str) -> bool:
        return not self._wanted.containers or container in self._wanted.containers

    def _only_container(self) -> str:
        names = [each.name for each in self._workload.containers if each.list_name == "containers"]
        if len(names) != 1:
            raise Failure(
                f"error: {self._named} has {len(names)} containers; say with -c which of them are to follow "
                f"{self._wanted.tag}: {self._known_containers()}"
            )
        return names[0]

    def _known_containers(self) -> str:
        return ", ".join(each.name for each in self._workload.containers) or "none"

    def _path(self) -> str:
        return f"{self._kind.words[1]}/{self._workload.key.name}"

    # --- what becomes of it

    def _entry(self, container: str) -> Object:
        source: Object = {"kind": "ImageStreamTag", "name": self._wanted.tag}
        if self._wanted.namespace not in {"", self._workload.key.namespace}:
            source["namespace"] = self._wanted.namespace
        # By name the list's word does not count, and `oc` always writes this one.
        path = f'{".".join(self._kind.template)}.spec.containers[?(@.name=="{container}")].image'
        return {
            "from": source,
            "fieldPath": path,
            **({"paused": True} if self._wanted.is_auto is False else {}),
        }

    def _set_paused(self, entry: Object) -> None:
        for name in [name for name in entry if name.lower() == "paused"]:
            del entry[name]
        if self._wanted.is_auto is False:
            entry["paused"] = True

    def _respect(self, container: str, istag: Istag) -> None:
        if istag == self._istag() and self._wanted.is_auto is not False:
            self.said.append(f"container {container} follows it already, by the annotation {_FOLLOW}")
            return
        raise Failure(
            f"error: container {container} of {self._named} follows {_shown(istag, self._workload)} by the annotation "
            f"{_FOLLOW}, which is for you to change\n"
            f"  To have it here instead: kubectl annotate {self._path()} {_FOLLOW}-"
        )

    def _say_short(self, container: str, istag: Istag) -> None:
        self.said.append(
            f"container {container} still follows {_shown(istag, self._workload)} by the annotation {_FOLLOW}; to end "
            f"that: kubectl annotate {self._path()} {_FOLLOW}-"
        )

    def _write(self, entries: Iterable[Object]) -> None:
        listed = list(entries)
        annotations = {**(self._value["metadata"].get("annotations") or {})}
        text = json.dumps(listed, separators=(",", ":"), ensure_ascii=False) if listed else None
        if not listed:
            annotations.pop(_TRIGGERS, None)
        elif _same(annotations.get(_TRIGGERS), listed):
            return
        else:
            annotations[_TRIGGERS] = text or ""
        if annotations or self._value["metadata"].get("annotations"):
            self._value["metadata"]["annotations"] = annotations


def _same(text: str | None, entries: list[Object]) -> bool:
    """Whether the annotation says so already, however it is written."""
    try:
        return bool(json.loads(text or "") == entries)
    except ValueError:
        return False
