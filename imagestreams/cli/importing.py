"""One call of `import-image`: asking the controller by the stream, waiting for it, and printing what came of it."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import click

from imagestreams.cli import lookups
from imagestreams.cli.api import Refused
from imagestreams.cli.editing import decoded, edit, encoded
from imagestreams.cli.import_plan import plan_import, tags_to_report
from imagestreams.cli.import_report import dry_rows, repository_failure, rows, table
from imagestreams.cli.options import Failure, progress
from imagestreams.cli.output import show
from imagestreams.cli.request import Asked, handled_refresh, nonce, refresh
from imagestreams.cli.table import printable
from imagestreams.cli.waiting import NO_LEADER, explained, states
from imagestreams.core.stream import REFRESH_ANNOTATION, MalformedObject, decode
from imagestreams.settings import VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from imagestreams.cli.api import Client, Resource
    from imagestreams.cli.import_plan import Flags, Target
    from imagestreams.cli.import_report import Row
    from imagestreams.cli.lookups import Found
    from imagestreams.core.stream import ImageStream

Object = dict[str, Any]

_LOSSES: Final = 5  # requests that others may take away until we give up
_STAYS: Final = "The request stays on the stream and is carried out when the controller can."
_PORTION: Final = 50  # images that one look-up without storing asks for


# ---- asking and waiting ----


class Import:
    """One call, from request to outcome.

    Args:
        client: of the cluster.
        resource: the group's imagestreams.
        namespace: the stream's.
        target: what to import.
        flags: what to change in the stream.
        clock: seconds that only go forward.
        sleep: waits some seconds.
        mark: a text without spaces that nobody else uses.
    """

    def __init__(
        self,
        client: Client,
        resource: Resource,
        namespace: str,
        target: Target,
        flags: Flags,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        mark: Callable[[], str] = nonce,
    ) -> None:
        self._client, self._resource, self._namespace = client, resource, namespace
        self._target, self._flags = target, flags
        self._path = resource.path(namespace, target.stream)
        self._clock, self._sleep, self._mark = clock, sleep, mark
        self.named = resource.named(target.stream)
        self.before: ImageStream | None = None
        self.body = b""  # the stream's JSON as the server gave it last
        self.warnings: tuple[str, ...] = ()

    def ask(self, earlier: frozenset[str] = frozenset()) -> tuple[Asked, ImageStream]:
        """Write the request, and what the flags change; gives the stream with it.

        Raises:
            Failure: nothing to import, or others write the stream without end.
        """
        asked: Asked | None = None

        def change(value: Object) -> Object:
            nonlocal asked
            stream = self._decode(encoded(value))
            plan = plan_import(value, stream, self._target, self._flags)
            request = refresh(stream, plan.asked, self._mark())
            former = {each for each in (handled_refresh(stream), stream.annotations.refresh) if each}
            asked = Asked(request, plan.asked, earlier | former)
            self.before, self.warnings = self.before or stream, plan.warnings
            metadata = plan.edited["metadata"]
            metadata["annotations"] = {**(metadata.get("annotations") or {}), REFRESH_ANNOTATION: request.value}
            return plan.edited

        done = edit(
            self._client,
            self._path,
            self.named,
            change,
            create=self._new(),
            collection=self._resource.path(self._namespace),
            sleep=self._sleep,
        )
        assert asked is not None  # noqa: S101  # `edit` calls `change`
        return asked, self._decode(encoded(done.after))

    def look_up(self, timeout: float | None) -> tuple[tuple[Found, ...], list[Object]]:
        """What would be found, and the requests that found it; nothing is written."""
        try:
            value = decoded(self._client.get(self._path), self.named)
        except Refused as refused:
            if refused.status != 404:
                raise
            value = self._new()
        stream = self._decode(encoded(value))
        plan = plan_import(value, stream, self._target, self._flags)
        self.before, self.warnings = stream, plan.warnings
        found: list[Found] = []
        answers: list[Object] = []
        for start in range(0, len(plan.images), _PORTION):
            images = plan.images[start : start + _PORTION]
            answers.append(self._answer(lookups.spec_of(images), timeout))
            found += lookups.read_images(images, answers[-1])
        if plan.repository is not None:
            answers.append(self._answer(lookups.spec_of_repository(plan.repository), timeout))
            found += lookups.read_repository(plan.repository, answers[-1])
        return tuple(found), answers

    def _answer(self, spec: Object, timeout: float | None) -> Object:
        name = self._target.stream
        return lookups.ask_server(self._client, self._resource, self._namespace, name, spec, timeout=timeout)

    def _new(self) -> Object:
        """A stream to begin with where there is none."""
        metadata = {"name": self._target.stream, "namespace": self._namespace}
        return {"apiVersion": f"{self._resource.group}/{VERSION}", "kind": "ImageStream", "metadata": metadata}

    def wait(self, asked: Asked, stream: ImageStream, timeout: float | None) -> ImageStream:
        """The stream once the request is handled.

        Args:
            asked: from `ask`.
            stream: from `ask`.
            timeout: seconds; None: forever.

        Raises:
            Failure: the time is up, or the stream is gone.
        """
        uid = stream.metadata.uid
        deadline = None if timeout is None else self._clock() + timeout
        for _ in range(_LOSSES):
            left = None if deadline is None else deadline - self._clock()
            for body in states(
                self._client,
                self._resource,
                self._namespace,
                self._target.stream,
                left,
                uid=uid,
                seen=self.body,
                clock=self._clock,
                sleep=self._sleep,
            ):
                stream = self._decode(body)
                if asked.is_handled(stream):
                    return stream
                if asked.is_lost(stream):
                    break
            else:
                raise Failure(self._timed_out(stream, timeout or 0))
            asked, stream = self.ask(asked.earlier | {asked.request.value})
        raise Failure("error: somebody keeps removing the request (annotation imagestreams.dev/refresh)")

    def _decode(self, body: bytes) -> ImageStream:
        try:
            stream = decode(body)
        except MalformedObject as error:
            raise Failure(f"error: the server's {self.named} is malformed: {error}") from error
        self.body = body
        return stream

    def _timed_out(self, stream: ImageStream, timeout: float) -> str:
        what = f'tag "{self._target.tag}"' if self._target.tag else "all tags"
        status = stream.status
        if stream.is_suspended:
            why = "its imports are suspended: annotation imagestreams.dev/suspend"
        elif status is None or status.observed_generation is None:
            why = (
                "no controller has ever written the status of this image stream: is imagestreams installed and running?"
            )
        elif status.observed_generation < stream.metadata.generation:
            why = "the controller has not seen the stream's last change: is it running?"
        else:
            why = (
                "the controller has seen the stream, so it is down now, or a registry is slow or has told it to wait; "
                f"see: kubectl describe {self.named}"
            )
        return (
            f"error: timed out after {timeout:g}s waiting for the import of {what} of {self.named}\n"
            f"  {why}\n"
            f"{NO_LEADER}\n"
            f"  {_STAYS}"
        )


# ---- a whole call ----


def carry_out(
    client: Client,
    namespace: str,
    target: Target,
    flags: Flags,
    *,
    wait: bool,
    timeout: float | None,
    output: str | None,
) -> int:
    """Import, and print what came of it; gives the exit code."""
    job = Import(client, client.image_streams(), namespace, target, flags)
    asked, stream = job.ask()
    _warn(job)
    if wait:
        with (
            explained(f"{job.named}: {_STAYS}"),
            progress(f"{target.stream}: waiting for the controller to look up {target.tag or 'all tags'} ..."),
        ):
            stream = job.wait(asked, stream, timeout)
    return _print(job, target, stream, output, is_done=wait)


def carry_out_dry(
    client: Client, namespace: str, target: Target, flags: Flags, *, timeout: float | None, output: str | None
) -> int:
    """Print what an import would find; gives the exit code."""
    job = Import(client, client.image_streams(), namespace, target, flags)
    with progress(f"{target.stream}: waiting for registries' answers ..."):
        found, answers = job.look_up(timeout)
    _warn(job)
    made = dry_rows(job.before, found, datetime.now(UTC))
    failed = [row for row in made if row.failure]
    if output == "name":
        click.echo(job.named)
    elif output:
        show(answers, output)
    else:
        click.echo(f"{job.named} imported{' with errors' if failed else ''} (dry run)\n\n{table(made)}")
    _tell(failed, len(made), is_table=not output)
    return 1 if failed else 0


def _warn(job: Import) -> None:
    for words in job.warnings:
        click.echo(f"Warning: {printable(words)}", err=True)


def _print(job: Import, target: Target, stream: ImageStream, output: str | None, *, is_done: bool) -> int:
    found = rows(job.before, stream, tags_to_report(stream, target), datetime.now(UTC)) if is_done else ()
    listing = repository_failure(stream) if is_done and target.tag is None else ""
    failed = [row for row in found if row.failure]
    if output == "name":
        click.echo(job.named)
    elif output:
        show([decoded(job.body, job.named)], output)
    elif not is_done:
        click.echo(f"{job.named} import requested")
    else:
        words = f"{job.named} imported{' with errors' if failed or listing else ''}"
        click.echo(f"{words}\n\n{table(found)}" if found else words)
    _tell(failed, len(found), is_table=not output)
    if listing:
        click.echo(f"error: the repository {printable(stream.repository)} could not be listed: {listing}", err=True)
    return 1 if failed or listing else 0


def _tell(failed: Sequence[Row], count: int, *, is_table: bool) -> None:
    if failed and is_table:
        click.echo(f"error: {len(failed)} of {count} tags could not be imported", err=True)
    for row in () if is_table else failed:
        click.echo(f'error: tag "{row.tag}" failed: {row.failure}', err=True)
