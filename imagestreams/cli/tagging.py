"""One call of `tag`: each stream read, changed and written, and what is said of it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import click

from imagestreams.cli.api import Refused
from imagestreams.cli.editing import DRY_RUN, edit, encoded
from imagestreams.cli.options import Failure, shown
from imagestreams.cli.request import nonce
from imagestreams.cli.revisions import read_stream
from imagestreams.cli.table import printable
from imagestreams.cli.tag_plan import (
    IMAGE,
    delete_tag,
    frozen,
    is_whole,
    parse_destination,
    set_tag,
)
from imagestreams.settings import VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from imagestreams.cli.api import Client, Resource
    from imagestreams.cli.editing import Edited
    from imagestreams.cli.tag_plan import Destination, Entry, Source

Object = dict[str, Any]


class Tagging:
    """One call. What goes wrong with one tag is said, and the others go on."""

    def __init__(self, client: Client, resource: Resource, namespace: str, dry_run: str) -> None:
        self._client, self._resource, self._namespace, self._dry_run = client, resource, namespace, dry_run

    def each(self, texts: Sequence[str], act: Callable[[Destination], None]) -> int:
        code = 0
        for text in texts:
            try:
                act(parse_destination(text, self._namespace))
            except Refused as refused:
                click.echo(shown(refused), err=True)
                code = 1
            except Failure as failure:
                failure.show()
                code = 1
        return code

    def frozen(self, source: Source) -> Source:
        """What the new tags get: of a tag, the image that it has now; of the begin of a digest, all of it."""
        if source.kind == IMAGE or is_whole(source):
            return source
        path = self._resource.path(source.namespace or self._namespace, re.split("[:@]", source.name)[0])
        return frozen(source, read_stream(self._client.get(path)))

    def set(self, place: Destination, source: Source, entry: Entry, *, is_alias: bool) -> None:
        said: tuple[str, ...] = ()

        def change(value: Object) -> Object:
            nonlocal said
            said = set_tag(value, place, source, entry, self._namespace)
            return value

        done = self._edit(place, change, may_create=True)
        name = self._shown(place)
        if is_alias:
            words = f"Tag {name} set up to track {source}."
        elif entry.is_scheduled:
            words = f"Tag {name} set to import {source} periodically."
        else:
            words = f"Tag {name} set to {source}."
        click.echo(words + DRY_RUN[self._dry_run])
        owner = source.namespace or self._namespace
        if done.is_changed and self._dry_run == "none" and source.kind != IMAGE and owner != place.namespace:
            said = (*said, f"it gets the image if the service accounts of {place.namespace} may pull from {owner}")
        self._tell(place, said)
        if done.is_changed and self._dry_run == "none":
            self._tell(place, (self._what_waits(done.after, place),))

    def delete(self, place: Destination) -> None:
        said: tuple[str, ...] = ()

        def change(value: Object) -> Object:
            nonlocal said
            said = delete_tag(value, read_stream(encoded(value)), place, nonce())
            return value

        self._edit(place, change, may_create=False)
        click.echo(f"Deleted tag {place.namespace}/{place.text}.{DRY_RUN[self._dry_run]}")
        self._tell(place, said if self._dry_run == "none" else ())

    def _edit(self, place: Destination, change: Callable[[Object], Object], *, may_create: bool) -> Edited:
        metadata = {"name": place.stream, "namespace": place.namespace}
        new = {"apiVersion": f"{self._resource.group}/{VERSION}", "kind": "ImageStream", "metadata": metadata}
        return edit(
            self._client,
            self._resource.path(place.namespace, place.stream),
            self._resource.named(place.stream),
            change,
            create=new if may_create else None,
            collection=self._resource.path(place.namespace),
            dry_run=self._dry_run,
        )

    def _tell(self, place: Destination, said: tuple[str, ...]) -> None:
        for words in said:
            click.echo(f"{self._shown(place)}: {printable(words)}", err=True)

    def _shown(self, place: Destination) -> str:
        return place.text if place.namespace == self._namespace else f"{place.namespace}/{place.text}"

    def _what_waits(self, value: Object, place: Destination) -> str:
        """What has to happen yet until the tag has its image."""
        stream = read_stream(encoded(value))
        recorded, entry = stream.status_tag(place.tag), stream.spec_tag(place.tag)
        named = place.text if place.namespace == self._namespace else f"{place.text} -n {place.namespace}"
        if recorded is not None and recorded.pinned is not None:
            return f"it is held where it is; to let it go: imagestreams resume {named}"
        if entry is not None and entry.reference and entry.from_ is not None and entry.from_.kind == IMAGE:
            return "it is recorded as it is written, and no registry is asked for it"
        if stream.is_suspended:
            return "imports are suspended (annotation imagestreams.dev/suspend), so it gets its image when they are not"
        return f"the controller gets the image now; see: imagestreams describe tag {named}"
