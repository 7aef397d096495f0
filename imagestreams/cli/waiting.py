"""Waiting for the controller: an object as it is and as it changes."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Final

import click

from imagestreams.cli.api import Refused, Unreachable
from imagestreams.cli.editing import decoded
from imagestreams.cli.options import Failure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from imagestreams.cli.api import Client, Resource

_FIRST_PAUSE: Final = 0.1  # seconds; doubles
_LONGEST_PAUSE: Final = 2.0

NO_LEADER: Final = "  Who leads: kubectl get leases,deployments --all-namespaces | grep imagestreams"
"""Where to look for the controller."""

NO_CONTROLLER: Final = f"  Is the controller running, and has it the right to write this?\n{NO_LEADER}"
"""What to say when nothing happens."""


def states(
    client: Client,
    resource: Resource,
    namespace: str,
    name: str,
    timeout: float | None,
    *,
    uid: str = "",
    seen: bytes = b"",
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[bytes]:
    """The object's JSON as it is and after each change, until the time (seconds; None: never) is up.

    By watch; by asking again where watching is not allowed, and after a watch or the server broke off.

    Args:
        client: of the cluster.
        resource: the object's kind.
        namespace: the object's.
        name: the object's.
        timeout: seconds.
        uid: the object's, if it is known.
        seen: its JSON as it was just read or written: it is the first state, and not asked for.
        clock: seconds that only go forward.
        sleep: waits some seconds.

    Raises:
        Failure: it is gone, or is another one by now.
        Refused: the server says no.
    """
    body, named, pause, may_watch = seen, resource.named(name), _FIRST_PAUSE, True
    deadline = None if timeout is None else clock() + timeout
    while True:
        left = None if deadline is None else deadline - clock()
        if left is not None and left <= 0:
            return
        version = ""
        try:
            body = body or client.get(resource.path(namespace, name), timeout=left)
            version = _version(body, named, uid)
            yield body
            left = None if deadline is None else deadline - clock()
            if may_watch and (left is None or left > 0):
                for event in client.watch(resource.path(namespace), name, version, left):
                    if event.kind == "DELETED":
                        raise Failure(f"error: {named} was deleted meanwhile")
                    if event.kind in {"ADDED", "MODIFIED"}:
                        _version(event.body, named, uid)
                        pause = _FIRST_PAUSE
                        yield event.body
        except Refused as refused:
            if version and refused.status in {403, 405}:
                may_watch = False
            elif refused.status != 410 and refused.status < 500:
                raise
        except Unreachable:
            pass  # the server may be restarting
        body = b""
        left = None if deadline is None else deadline - clock()
        if left is None or left > 0:
            sleep(pause if left is None else min(pause, left))
        pause = min(pause * 2, _LONGEST_PAUSE)


@contextlib.contextmanager
def explained(words: str) -> Iterator[None]:
    """Say to who interrupts the waiting what was done already, and stays."""
    try:
        yield
    except KeyboardInterrupt:
        click.echo(words, err=True)
        raise


def _version(body: bytes, named: str, uid: str) -> str:
    """The object's resourceVersion; raises Failure for another object than the one of the uid."""
    metadata = decoded(body, named)["metadata"]
    if uid and metadata.get("uid") != uid:
        raise Failure(f"error: {named} was deleted and created anew meanwhile")
    return str(metadata.get("resourceVersion", ""))
