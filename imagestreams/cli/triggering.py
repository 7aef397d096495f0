"""One call of `set-triggers`: the objects read, listed or changed, and what is said of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from imagestreams.cli.api import NotInstalled, Refused
from imagestreams.cli.editing import DRY_RUN, edit
from imagestreams.cli.options import Failure, shown
from imagestreams.cli.output import show
from imagestreams.cli.table import printable, table
from imagestreams.cli.trigger_plan import Wanted, is_followed, rows, set_triggers
from imagestreams.cli.workloads import Workload, fetched
from imagestreams.core.stream import MalformedObject, decode

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from imagestreams.cli.api import Client

Object = dict[str, Any]


class Job:
    """One call. What goes wrong with one object is said, and the others go on."""

    def __init__(
        self, client: Client, namespace: str, wanted: Wanted, *, labels: str, output: str | None, dry_run: str
    ) -> None:
        self._client, self._namespace, self._wanted = client, namespace, wanted
        self._labels, self._output, self._dry_run = labels, output, dry_run
        self._code = 0
        self._warned: set[str] = set()

    def list(self, objects: Sequence[Workload]) -> int:
        found = list(self._found(objects))
        if self._output:
            if found or not self._code:
                show([value for _, value in found], self._output, many=not (len(objects) == 1 and objects[0].name))
            return self._code
        lines: list[tuple[str, str, str, str]] = []
        for workload, value in found:
            listed, problems = rows(workload.kind, value)
            lines += [(workload.listed, row.kind, row.value, str(row.is_auto).lower()) for row in listed]
            for words in problems:
                self._warn(f"{workload.named}: {words}")
            if len(listed) > 1 and not is_followed(workload.kind):
                self._warn_of_kind(workload)
        if lines:
            click.echo(table(("NAME", "TYPE", "VALUE", "AUTO"), lines))
        elif not self._code:
            click.echo(f"No resources found in {self._namespace} namespace.", err=True)
        return self._code

    def change(self, objects: Sequence[Workload]) -> int:
        done: list[Object] = []
        if objects[0].name:
            named: Sequence[Workload] = objects
        else:
            named = [workload for workload, _ in self._found(objects)]
        if not named and not self._code:
            click.echo(f"No resources found in {self._namespace} namespace.", err=True)
        self._check_source()
        for workload in named:
            try:
                done.append(self._change(workload))
            except Refused as refused:
                self._fail(shown(refused))
            except Failure as failure:
                self._fail(failure.message)
        if self._output and done:
            show(done, self._output, many=not (len(objects) == 1 and objects[0].name))
        return self._code

    def _change(self, workload: Workload) -> Object:
        said: tuple[str, ...] = ()

        def change(value: Object) -> Object:
            nonlocal said
            said = set_triggers(workload.kind, value, self._wanted)
            return value

        path = workload.kind.resource.path(self._namespace, workload.name)
        edited = edit(self._client, path, workload.named, change, dry_run=self._dry_run)
        if not self._output:
            verb = "updated" if edited.is_changed else "unchanged"
            click.echo(f"{workload.named} triggers {verb}{DRY_RUN[self._dry_run]}")
        for words in said:
            click.echo(f"{workload.named}: {printable(words)}", err=True)
        if self._wanted.tag and not self._wanted.removes and not is_followed(workload.kind):
            self._warn_of_kind(workload)
        return edited.after

    def _found(self, objects: Sequence[Workload]) -> Iterator[tuple[Workload, Object]]:
        for wanted in objects:
            try:
                yield from fetched(self._client, self._namespace, wanted, self._labels)
            except Refused as refused:
                self._fail(shown(refused))

    def _check_source(self) -> None:
        """Say so where the tag that is to be followed is not there yet; the annotation may come first."""
        wanted = self._wanted
        if not wanted.tag or wanted.removes:
            return
        stream, _, tag = wanted.tag.partition(":")
        namespace = wanted.namespace or self._namespace
        try:
            found = decode(self._client.get(self._client.image_streams().path(namespace, stream)))
        except NotInstalled:
            self._warn("the server has no ImageStreams yet; nothing moves until it has")
            return
        except Refused as refused:
            if refused.status == 404:
                self._warn(f"there is no image stream {stream} in {namespace} yet; nothing moves until there is")
            return
        except MalformedObject:
            return
        if found.spec_tag(tag) is None and found.status_tag(tag) is None and not found.repository:
            self._warn(f"the image stream {stream} in {namespace} has no tag {tag} yet; nothing moves until it has")
        if namespace != self._namespace:
            self._warn(
                f"{namespace}/{wanted.tag} is followed if the service accounts of {self._namespace} may pull there"
            )

    def _warn_of_kind(self, workload: Workload) -> None:
        kind = workload.kind.name
        self._warn(f"triggers of a {kind} are kept, but the controller does not follow those of this kind yet")

    def _warn(self, words: str) -> None:
        if words not in self._warned:
            self._warned.add(words)
            click.echo(f"Warning: {printable(words)}", err=True)

    def _fail(self, words: str) -> None:
        click.echo(words, err=True)
        self._code = 1
