"""A question to a registry and the few things that can come back.

The import loop is `plan -> look up -> merge -> write`. This module holds the words that the steps pass to each other: a
`Ticket` says which tag of which stream asks what; the lanes of `imagestreams.registry` turn it into an `Answer`, whose
outcome is what was asked for, `Failed` or `Deferred`, never a pair of optional values.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from imagestreams.core.keychain import Credential
    from imagestreams.core.manifest import Platform
    from imagestreams.core.policy import Place, Transport
    from imagestreams.core.reference import ImageReference


class ImportMode(enum.StrEnum):
    """What a tag that serves an index resolves to."""

    LEGACY = "Legacy"  # the manifest of one platform
    PRESERVE_ORIGINAL = "PreserveOriginal"  # the index itself: the digest that the tag serves


@dataclass(frozen=True, slots=True)
class Source:
    """Where a spec tag comes from. Two equal sources need no new import: a change is seen by content, not by
    generation.

    `name` is as the user wrote it; `namespace` is empty for the stream's own; `platform` is "os/architecture" where the
    tag's annotations prefer one.
    """

    kind: str
    name: str
    namespace: str = ""
    reference: bool = False
    mode: ImportMode = ImportMode.PRESERVE_ORIGINAL
    insecure: bool = False
    platform: str = ""


@dataclass(frozen=True, slots=True)
class Served:
    """What a tag served when it was last asked: the digest of the tag, and the image that was made of it (a child of it
    in Legacy mode).
    """

    digest: str
    image: str


@dataclass(frozen=True, slots=True)
class Lookup:
    """Which image a tag or digest is, asked at one place. Equal lookups have equal answers and are asked once for all
    streams that wait.

    `credentials` are the candidates in the order to try them; where the transport allows none, a refusal only names
    them. `known` lets an unchanged tag be answered by one HEAD; without it the manifest is read at once. `recorded` is
    the name under which the image is recorded if this place answers; None for that of `reference`. `fallback` is the
    same question at the next place, asked when this one gives no image: mirrors come first, their source last.
    """

    reference: ImageReference
    transport: Transport
    credentials: tuple[Credential, ...]
    mode: ImportMode
    prefer: Platform | None = None
    known: Served | None = None
    recorded: ImageReference | None = None
    fallback: Lookup | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """Which tags a repository has; the best `limit` of them, in the order of `core.selection`."""

    reference: ImageReference
    transport: Transport
    credentials: tuple[Credential, ...]
    limit: int
    fallback: Listing | None = None


@dataclass(frozen=True, slots=True)
class Description:
    """What an Image object says of an image. `reference` is pinned by digest, and named as at this place; the object
    gets the name that the stream's history has.
    """

    reference: ImageReference
    transport: Transport
    credentials: tuple[Credential, ...]
    fallback: Description | None = None


Question = Lookup | Listing | Description

Q = TypeVar("Q", Lookup, Listing, Description)


def in_turn(places: Sequence[Place], ask: Callable[[Place, Q | None], Q]) -> Q:
    """The question at the first place, with that at each next one as what is asked when it gives nothing.

    Args:
        places: in the order to be asked, at least one.
        ask: makes the question at a place, given its fallback.

    Raises:
        ValueError: there is no place.
    """
    question: Q | None = None
    for place in reversed(places):
        question = ask(place, question)
    if question is None:
        raise ValueError("what is asked for has at least one place")
    return question


@dataclass(frozen=True, slots=True)
class Resolved:
    """The registry answered: the tag serves `served.digest`, and `served.image` is what is recorded, under the name of
    `recorded`.
    """

    served: Served
    recorded: ImageReference


@dataclass(frozen=True, slots=True)
class Listed:
    """The tags of a repository, best first.

    `found` is how many the registry named; `is_complete` is False where it named more than we were ready to read.
    """

    tags: tuple[str, ...]
    found: int
    is_complete: bool


@dataclass(frozen=True, slots=True)
class Described:
    """An Image object as JSON, see `core.image`."""

    body: bytes


@dataclass(frozen=True, slots=True)
class Failed:
    """The registry's answer, or its silence, gives no image. `reason` is CamelCase and becomes the condition's;
    `message` is for people.

    The message holds no secret, and nothing that differs from one attempt to the next (ports, times, counters), or each
    retry would be a new status.
    """

    reason: str
    message: str
    retryable: bool


@dataclass(frozen=True, slots=True)
class Deferred:
    """The host must not be asked before `until` (aware); nothing is known yet."""

    until: datetime
    why: str


Outcome = Resolved | Listed | Described | Failed | Deferred


@dataclass(frozen=True, slots=True)
class Ticket:
    """One tag's wish to be looked up: for the stream with this uid, as its source was when the plan was made.

    `tag` is empty for the stream's repository, and a digest for an image to be described. `request` is the refresh
    annotation that asked for it, or empty; `slot` the first second (Unix time) of the polling slot that it serves, or
    0. `fresh` lets what an equal lookup or listing found in this process be the answer, if that began at most so many
    seconds ago; with 0 the registry is asked.
    """

    uid: str
    tag: str
    source: Source
    request: str
    slot: int
    question: Question
    fresh: float = 0.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back for a ticket, and when (aware, UTC)."""

    ticket: Ticket
    outcome: Outcome
    at: datetime
