"""Whether pods may name a stream's tags as their image: what is changed for that, listed and said."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from imagestreams.cli.api import Refused, Resource
from imagestreams.cli.editing import DRY_RUN, decoded, edit
from imagestreams.cli.naming import STREAM, split_tag, target
from imagestreams.cli.options import Failure, Misuse, shown
from imagestreams.cli.output import show
from imagestreams.cli.table import printable, table
from imagestreams.cli.workloads import LOOKED_UP, PodKind, Workload, fetched, workload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from imagestreams.cli.api import Client

Object = dict[str, Any]

RESOLVE_NAMES: Final = "alpha.image.policy.openshift.io/resolve-names"
"""Annotation of a pod template, or of an object: with "*" all of its images are looked up as tags of streams."""

OPT_IN: Final = "imagestreams.dev/resolve-names"
"""Label of a namespace: with "enabled" names are looked up there."""


# ---- what is changed ----


def set_stream(value: Object, *, enabled: bool) -> Object:
    """The stream with its spec.lookupPolicy.local so."""
    spec = value.get("spec") or {}
    policy = spec.get("lookupPolicy") or {}
    if bool(policy.get("local")) != enabled:
        value["spec"] = {**spec, "lookupPolicy": {**policy, "local": enabled}}
    return value


def is_stream_local(value: Object) -> bool:
    return bool(((value.get("spec") or {}).get("lookupPolicy") or {}).get("local"))


def set_workload(kind: PodKind, value: Object, *, enabled: bool) -> Object:
    """The workload with the annotation on its pod template, as `oc` has it, or on none of its parts."""
    if not enabled:
        for part in (value, kind.pod(value)):
            ((part.get("metadata") or {}).get("annotations") or {}).pop(RESOLVE_NAMES, None)
        return value
    if is_workload_local(kind, value):
        return value
    pod = kind.pod(value)
    metadata = pod["metadata"] = {**(pod.get("metadata") or {})}
    metadata["annotations"] = {**(metadata.get("annotations") or {}), RESOLVE_NAMES: "*"}
    return value


def is_workload_local(kind: PodKind, value: Object) -> bool:
    parts = (value, kind.pod(value))
    return any(((part.get("metadata") or {}).get("annotations") or {}).get(RESOLVE_NAMES) == "*" for part in parts)


# ---- a whole call ----


def named(text: str) -> str | Workload:
    """A stream's name, or a workload; raises Misuse."""
    kind, name = target(text, (STREAM, *LOOKED_UP))
    if isinstance(kind, PodKind):
        return workload(kind, name)
    if ":" in name:
        raise Misuse(f"error: {name!r} is no name of an image stream; write NAME, or KIND/NAME of a workload")
    return split_tag(name)[0]


class Job:
    """One call. What goes wrong with one object is said, and the others go on."""

    def __init__(self, client: Client, namespace: str, *, output: str | None, dry_run: str) -> None:
        self._client, self._namespace = client, namespace
        self._output, self._dry_run = output, dry_run
        self._resource: Resource | None = None
        self._code = 0

    @property
    def _streams(self) -> Resource:
        if self._resource is None:
            self._resource = self._client.image_streams()
        return self._resource

    def list(self, wanted: Sequence[str | Workload], labels: str) -> int:
        lines: list[tuple[str, str]] = []
        found: list[Object] = []
        for each, value in self._found(wanted, labels):
            found.append(value)
            if isinstance(each, Workload):
                lines.append((each.listed, str(is_workload_local(each.kind, value)).lower()))
            else:
                lines.append((each, str(is_stream_local(value)).lower()))
        if self._output:
            if found or not self._code:
                show(found, self._output, many=len(wanted) != 1)
        elif lines:
            click.echo(table(("NAME", "LOCAL"), lines))
        elif not self._code:
            click.echo(f"No resources found in {self._namespace} namespace.", err=True)
        return self._code

    def change(self, wanted: Sequence[str | Workload], labels: str, *, enabled: bool) -> int:
        named = list(wanted) or [each for each, _ in self._found((), labels)]
        if not named and not self._code:
            click.echo(f"No resources found in {self._namespace} namespace.", err=True)
        done: list[Object] = []
        for each in named:
            try:
                done.append(self._change(each, enabled=enabled))
            except Refused as refused:
                self._fail(shown(refused))
            except Failure as failure:
                self._fail(failure.message)
        if self._output and done:
            show(done, self._output, many=len(wanted) != 1)
        if done and enabled and self._dry_run == "none":
            self._tell_of_namespace()
        return self._code

    def _found(self, wanted: Sequence[str | Workload], labels: str) -> Iterator[tuple[str | Workload, Object]]:
        """Those that are named, or all streams."""
        if not wanted:
            for body in self._client.items(
                self._streams.path(self._namespace), {"labelSelector": labels} if labels else {}
            ):
                value = decoded(body, self._streams.plural)
                yield value["metadata"]["name"], value
        for each in wanted:
            try:
                if isinstance(each, Workload):
                    yield from fetched(self._client, self._namespace, each)
                else:
                    path = self._streams.path(self._namespace, each)
                    yield each, decoded(self._client.get(path), self._streams.named(each))
            except Refused as refused:
                self._fail(shown(refused))

    def _change(self, each: str | Workload, *, enabled: bool) -> Object:
        change: Callable[[Object], Object]
        if isinstance(each, Workload):
            kind, named = each.kind, each.named
            path = kind.resource.path(self._namespace, each.name)

            def change(value: Object) -> Object:
                return set_workload(kind, value, enabled=enabled)
        else:
            path, named = self._streams.path(self._namespace, each), self._streams.named(each)

            def change(value: Object) -> Object:
                return set_stream(value, enabled=enabled)

        edited = edit(self._client, path, named, change, dry_run=self._dry_run)
        if not self._output:
            verb = "updated" if edited.is_changed else "unchanged"
            click.echo(f"{named} image lookup {verb}{DRY_RUN[self._dry_run]}")
        return edited.after

    def _tell_of_namespace(self) -> None:
        """Say so where names are not looked up at all; who may not read the namespace is told nothing."""
        try:
            body = self._client.get(Resource("", "namespaces", "v1").path("", self._namespace))
        except Refused:
            return
        labels = decoded(body, f"namespace/{self._namespace}")["metadata"].get("labels") or {}
        if labels.get(OPT_IN) != "enabled":
            click.echo(
                f"Warning: names are not looked up in {printable(self._namespace)} until it asks for that: "
                f"kubectl label namespace {printable(self._namespace)} {OPT_IN}=enabled",
                err=True,
            )

    def _fail(self, words: str) -> None:
        click.echo(words, err=True)
        self._code = 1
