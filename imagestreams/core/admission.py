"""Admission reviews: what an API server asks before it stores an object, and what it is answered.

Types and their JSON (admission.k8s.io/v1); who decides, and how, is elsewhere. A patch is a list of RFC 6902
operations on the object that was sent.

https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/
"""

from __future__ import annotations

import base64
import hmac
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, assert_never

import msgspec

API_VERSION: Final = "admission.k8s.io/v1"
PATH_PREFIX: Final = "/admit/"
"""Of all webhooks: door and token are behind it."""

MAX_WARNINGS: Final = 2
MAX_WARNING: Final = 256  # characters; API servers cut longer ones
MAX_MESSAGE: Final = 4096  # characters
_MAX_UID = 256
_TOKEN = re.compile(r"[0-9a-f]{64}", re.ASCII)


class DoorName(StrEnum):
    """The webhooks' names, in paths and in front of `.imagestreams.dev`."""

    IMPORTS = "imports"
    PINNING = "pinning"
    RESOLVING = "resolving"
    PINS = "pins"
    IMAGE_STREAM_TAGS = "imagestreamtags"


DOORS: Final = tuple(DoorName)


class MalformedReview(ValueError):
    """What was posted is no review of a request."""


class Requester(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who asks, as the API server authenticated them."""

    username: str
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: dict[str, tuple[str, ...]] = {}


@dataclass(frozen=True, slots=True)
class Review:
    """One request under review.

    Attributes:
        operation: CREATE, UPDATE, DELETE or CONNECT.
        group: of the object as it is sent to us, as are `version`, `resource` and `kind`: with matchPolicy Equivalent
            the user may have asked in another version.
        name: may be empty, where the API server has still to make it from generateName.
        object: JSON, as it would be stored; empty where there is none (DELETE).
        old: JSON, as it is stored; empty where there is none (CREATE).
        seconds: until the API server gives up, less a moment to answer; 0 where that is not known.
    """

    uid: str
    operation: str
    group: str
    version: str
    resource: str
    subresource: str
    kind: str
    namespace: str
    name: str
    requester: Requester
    object: bytes
    old: bytes
    is_dry_run: bool
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Allowed:
    """Let it pass.

    Attributes:
        patch: RFC 6902 operations, in order; none leaves the object as it is.
        warnings: for people; kubectl prints them.
    """

    patch: tuple[dict[str, object], ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Denied:
    """Refuse it. The API server sends this to the user, with the webhook's name in front of the message.

    Attributes:
        code: HTTP status, 400 or above; an API server makes 400 of anything below.
        reason: of metav1.Status, for instance "Forbidden".
        retry_after: seconds; 0 for none. Clients in Go wait and ask again by themselves if it is set, with 429 or 5xx.
    """

    code: int
    reason: str
    message: str
    retry_after: int = 0


Verdict = Allowed | Denied
Handler = Callable[[Review], Awaitable[Verdict]]


@dataclass(frozen=True, slots=True, repr=False)
class Tokens:
    """By which of its words in the path a caller is known to be an API server; empty ones are nobody's."""

    current: str = ""
    previous: str = ""

    def accepts(self, token: str) -> bool:
        """Is it one of ours? Takes as long whatever it is."""
        given = token.encode(errors="replace")
        matches = [bool(mine) & hmac.compare_digest(mine.encode(), given) for mine in (self.current, self.previous)]
        return any(matches)


def is_token(text: str) -> bool:
    """Is it a word of the kind by which API servers prove themselves, 32 bytes in hexadecimal digits?"""
    return _TOKEN.fullmatch(text) is not None


class _Kind(msgspec.Struct, frozen=True):
    group: str
    version: str
    kind: str


class _Resource(msgspec.Struct, frozen=True):
    group: str
    version: str
    resource: str


class _User(msgspec.Struct, frozen=True):
    username: str = ""
    uid: str = ""
    # Go writes an empty list or map as null as well as not at all.
    groups: tuple[str, ...] | None = None
    extra: dict[str, tuple[str, ...] | None] | None = None


class _Request(msgspec.Struct, frozen=True, rename="camel"):
    uid: str
    kind: _Kind
    resource: _Resource
    operation: str
    user_info: _User
    sub_resource: str = ""
    name: str = ""
    namespace: str = ""
    object: msgspec.Raw = msgspec.Raw()
    old_object: msgspec.Raw = msgspec.Raw()
    dry_run: bool | None = None


class _Review(msgspec.Struct, frozen=True, rename="camel"):
    api_version: str
    kind: str
    request: _Request


_DECODER = msgspec.json.Decoder(_Review)
_encode = msgspec.json.Encoder().encode


def decode_review(body: bytes) -> Review:
    """The request in an AdmissionReview.

    Raises:
        MalformedReview: it is none, or of another version.
    """
    try:
        review = _DECODER.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedReview(f"not an AdmissionReview: {error}") from None
    if (review.api_version, review.kind) != (API_VERSION, "AdmissionReview"):
        raise MalformedReview(f"not an AdmissionReview of {API_VERSION}")
    request = review.request
    if not 0 < len(request.uid) <= _MAX_UID:
        raise MalformedReview("not an AdmissionReview: the request has no uid, or one that is too long")
    user = request.user_info
    return Review(
        uid=request.uid,
        operation=request.operation,
        group=request.resource.group,
        version=request.resource.version,
        resource=request.resource.resource,
        subresource=request.sub_resource,
        kind=request.kind.kind,
        namespace=request.namespace,
        name=request.name,
        requester=Requester(
            username=user.username,
            uid=user.uid,
            groups=user.groups or (),
            extra={key: values or () for key, values in (user.extra or {}).items()},
        ),
        object=_present(request.object),
        old=_present(request.old_object),
        is_dry_run=bool(request.dry_run),
    )


def encode_verdict(uid: str, verdict: Verdict) -> bytes:
    """The AdmissionReview that answers the request `uid`.

    Text is cut to what an API server passes on, to one line, without control characters.
    """
    match verdict:
        case Allowed(patch=patch, warnings=warnings):
            response: dict[str, object] = {"uid": uid, "allowed": True}
            if patch:
                response |= {"patchType": "JSONPatch", "patch": base64.b64encode(_encode(patch)).decode()}
            if warnings:
                response["warnings"] = [_line(warning, MAX_WARNING) for warning in warnings[:MAX_WARNINGS]]
        case Denied(code=code, reason=reason, message=message, retry_after=retry_after):
            status: dict[str, object] = {
                "status": "Failure",
                "code": code,
                "reason": reason,
                "message": _line(message, MAX_MESSAGE),
            }
            if retry_after > 0:
                status["details"] = {"retryAfterSeconds": retry_after}
            response = {"uid": uid, "allowed": False, "status": status}
        case _:
            assert_never(verdict)
    return _encode({"apiVersion": API_VERSION, "kind": "AdmissionReview", "response": response})


def _present(raw: msgspec.Raw) -> bytes:
    content = bytes(raw)
    return b"" if content == b"null" else content


def _line(text: str, limit: int) -> str:
    line = "".join(sign if sign.isprintable() else " " for sign in text[: limit + 1])
    return line if len(line) <= limit else line[: limit - 1] + "…"
