"""Changes of objects as a command makes them: read, change, write what differs, and again when somebody else wrote
meanwhile.

What is written is a merge patch (RFC 7396) under the resourceVersion that was read, so that nobody's edit is lost, and
fields that we do not know stay as they are.
"""

from __future__ import annotations

import copy
import json
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from imagestreams.cli.api import Refused
from imagestreams.cli.options import Failure

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from imagestreams.cli.api import Client

Object = dict[str, Any]

CONFLICTS: Final = 10
"""Tries to write while others write the same object."""

DRY_RUN: Final = {"none": "", "client": " (dry run)", "server": " (server dry run)"}
"""What is added to a line that says what was done, by the value of --dry-run."""

_FIRST_PAUSE: Final = 0.1  # seconds; doubles
_LONGEST_PAUSE: Final = 2.0

MANAGER: Final = "imagestreams-cli"
"""Who writes: not the controller's name, which has rules about what is its own."""


class Edited(NamedTuple):
    """An object before and after; `before` is None for one that was created. `is_written` is False where there was
    nothing to change, or the dry run was the client's.
    """

    before: Object | None
    after: Object
    is_written: bool

    @property
    def is_changed(self) -> bool:
        """Whether the edit makes a difference."""
        return self.before is None or self.is_written or self.before != self.after


def edit(
    client: Client,
    path: str,
    named: str,
    change: Callable[[Object], Object | None],
    *,
    create: Object | None = None,
    collection: str = "",
    dry_run: str = "none",
    sleep: Callable[[float], None] = time.sleep,
) -> Edited:
    """Edit the object at `path`.

    Args:
        client: of the cluster.
        path: the object's.
        named: the object in messages, such as `deployment.apps/web`.
        change: gives the object as it should be, from a copy that it may change; None: it stays as it is. Called anew
            with what somebody else has made of it, so it must decide from what it is given.
        create: what `change` begins with where there is no such object; None: that is an error.
        collection: where it is then created.
        dry_run: "none", "client" (nothing is sent) or "server" (it is checked, and not kept).
        sleep: waits some seconds.

    Raises:
        Failure: others write the object without end.
        Refused: the server says no.
    """
    lost: Edited | None = None  # what was sent, and may have been done without our hearing of it
    for attempt in range(CONFLICTS):
        pause(attempt, sleep)
        try:
            before: Object | None = decoded(client.get(path), named)
        except Refused as refused:
            if refused.status != 404 or create is None:
                raise
            before = None
        if lost is not None and lost.before is not None and before is not None and _has(before, lost):
            return Edited(lost.before, before, is_written=True)
        wanted = change(copy.deepcopy(before if before is not None else create or {}))
        if wanted is None or wanted == before:
            return Edited(before, before if before is not None else wanted or {}, is_written=False)
        if dry_run == "client":
            return Edited(before, wanted, is_written=False)
        try:
            query = query_of(dry_run)
            if before is None:
                body = client.post(collection + query, encoded(wanted))
            else:
                body = client.patch(path + query, encoded(_under_version(before, wanted)))
        except Refused as refused:
            if refused.status != 409:
                raise
            lost = Edited(before, wanted, is_written=False) if refused.was_repeated else None
            continue
        return Edited(before, decoded(body, named), is_written=True)
    raise Failure(f"error: others wrote {named} each of the {CONFLICTS} times that it was to be changed; try again")


def pause(attempt: int, sleep: Callable[[float], None] = time.sleep) -> None:
    """Wait before a try, longer each time; not before the first, which is 0."""
    if attempt:
        sleep(min(_FIRST_PAUSE * 2 ** (attempt - 1), _LONGEST_PAUSE))


def query_of(dry_run: str) -> str:
    """What is added to the path of a write."""
    return f"?fieldManager={MANAGER}" + ("&dryRun=All" if dry_run == "server" else "")


def _has(present: Object, sent: Edited) -> bool:
    """Whether an object is what an edit of it would make, so that nothing of it is left to do."""
    assert sent.before is not None  # noqa: S101  # what is created is sent once
    is_same = present["metadata"].get("uid") == sent.before["metadata"].get("uid")
    return is_same and _holds(present, merge_patch(sent.before, sent.after))


def _holds(value: Object, patch: Object) -> bool:
    """Whether a merge patch would change nothing."""
    for name, wanted in patch.items():
        if wanted is None:
            if name in value:
                return False
        elif isinstance(wanted, dict) and isinstance(value.get(name), dict):
            if not _holds(value[name], wanted):
                return False
        elif name not in value or value[name] != wanted:
            return False
    return True


def _under_version(before: Object, wanted: Object) -> Object:
    patch = merge_patch(before, wanted)
    patch.setdefault("metadata", {})["resourceVersion"] = before["metadata"].get("resourceVersion", "")
    return patch


def merge_patch(old: Mapping[str, Any], new: Mapping[str, Any]) -> Object:
    """The merge patch that makes `new` of `old`. Lists are replaced whole. A null in `new` is the same as nothing."""
    patch: Object = {name: None for name in old if name not in new}
    for name, value in new.items():
        if isinstance(value, dict) and isinstance(old.get(name), dict):
            if inner := merge_patch(old[name], value):
                patch[name] = inner
        elif name not in old or value != old[name]:
            patch[name] = value
    return patch


def decoded(body: bytes, named: str) -> Object:
    """The server's object, raw; raises Failure where it is none."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Failure(f"error: the server's {named} is malformed: {error}") from error
    if not isinstance(value, dict) or not isinstance(value.get("metadata"), dict):
        raise Failure(f"error: the server's {named} is malformed: it is no object with metadata")
    return value


def encoded(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
