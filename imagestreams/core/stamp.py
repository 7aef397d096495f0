"""The stamp on an ImageStreamImport: who asked, in the words of the API server, sealed by the webhook that heard it.

Whoever carries the request out later acts for that requester, and believes the stamp alone: anybody may write an
annotation, but nobody else has the key. The seal covers the requester, the namespace, the stream that is meant, what is
asked (`spec`) and the moment; since that must be the moment at which the object was created, a stamp that is copied is
worth nothing.

What is asked is compared by its meaning. The API server stores a `spec` with its keys in another order, without nulls,
and with `1.0` as `1`.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

from imagestreams.core.admission import Requester

REQUESTED_BY_ANNOTATION: Final = "imagestreams.dev/requested-by"
IMAGE_STREAM_ANNOTATION: Final = "imagestreams.dev/image-stream"
"""The stream that is meant. The object itself has a name that the API server made."""

MAX_STAMP: Final = 64 << 10  # bytes; a requester may be in thousands of groups, and annotations have room for 256 KiB
MAX_AGE: Final = timedelta(seconds=60)
"""How far the stamp may be from the object's creation: its answer takes some time, and clocks differ a little."""

LEAST_KEY: Final = 16  # bytes
_PURPOSE = "imagestreams.dev/requested-by v1"
_MAX_DEPTH = 32
_MAX_INT64 = 1 << 63

_ENCODER = msgspec.json.Encoder(order="deterministic")


class ForgedStamp(Exception):
    """The stamp is not the webhook's, or not for this object. Says why, for people; holds nothing of keys."""


class InvalidStamp(ValueError):
    """What cannot be stamped: too much, or nothing that a `spec` could be."""


class _Stamp(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    requester: Requester
    at: datetime
    seal: str


_DECODER = msgspec.json.Decoder(_Stamp)


def seal(requester: Requester, *, namespace: str, stream: str, spec: bytes, at: datetime, key: bytes) -> str:
    """The annotation's value.

    Args:
        requester: as the API server authenticated them.
        namespace: the object's.
        stream: the name of the stream that is meant; the value of IMAGE_STREAM_ANNOTATION, empty for none.
        spec: JSON, as it is sent; empty for none.
        at: now (aware).
        key: the secret, at least LEAST_KEY bytes.

    Raises:
        InvalidStamp: the stamp would be larger than MAX_STAMP, or `spec` is no JSON that could be stored.
    """
    if len(key) < LEAST_KEY:
        raise InvalidStamp(f"the key of stamps has {len(key)} bytes; {LEAST_KEY} are the least")
    if at.tzinfo is None:
        raise InvalidStamp("the moment of a stamp has no time zone")
    if not requester.username:
        raise InvalidStamp("the request names nobody who asks")
    at = at.astimezone(UTC)
    stamp = _Stamp(requester, at, _mac(key, requester, (namespace, stream), canonical(spec), at))
    text = _ENCODER.encode(stamp)
    if len(text) > MAX_STAMP:
        raise InvalidStamp(
            f"the name, groups and other attributes of the requester take {len(text)} bytes; {MAX_STAMP} are taken"
        )
    return text.decode()


def unseal(
    text: str, *, namespace: str, stream: str, spec: bytes, created: datetime, keys: Sequence[bytes]
) -> Requester:
    """Whom the stamp names.

    Args:
        text: the annotation's value.
        namespace: the object's.
        stream: the value of IMAGE_STREAM_ANNOTATION.
        spec: JSON, as it is stored; empty for none.
        created: the object's creationTimestamp (aware), which the API server sets.
        keys: the secret, and those before it that still count.

    Raises:
        ForgedStamp: the stamp is not ours, or not for this object.
    """
    if len(text) > MAX_STAMP:
        raise ForgedStamp(f"the stamp has {len(text)} characters; {MAX_STAMP} are the most")
    try:
        stamp = _DECODER.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError, OverflowError):
        raise ForgedStamp("the stamp is not of the form that the webhook writes") from None
    if stamp.at.tzinfo is None:
        raise ForgedStamp("the stamp's moment has no time zone")
    try:
        content = canonical(spec)
        at = stamp.at.astimezone(UTC)
        made = [_mac(key, stamp.requester, (namespace, stream), content, at) for key in keys if len(key) >= LEAST_KEY]
    except (InvalidStamp, OverflowError) as error:
        raise ForgedStamp(f"the stamp cannot be checked: {error}") from None
    if not any(hmac.compare_digest(each.encode(), stamp.seal.encode()) for each in made):
        raise ForgedStamp(
            "the stamp was not made for this object by a webhook that shares our key: it, the spec or the name of the "
            "stream was changed, or copied from another object"
        )
    if abs(created - at) > MAX_AGE:
        raise ForgedStamp(
            f"the stamp is of {at:%Y-%m-%dT%H:%M:%SZ}, the object of {created.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}; "
            "one of them was copied"
        )
    return stamp.requester


def moment_of(text: str) -> datetime:
    """When whoever is named in a stamp asked (aware); of one that was unsealed, else it means nothing."""
    return _DECODER.decode(text).at


def canonical(spec: bytes) -> bytes:
    """The same bytes for what means the same to an API server: keys sorted, nulls in objects left out, numbers as they
    are stored. Nothing (`b""`) is as null is.

    Raises:
        InvalidStamp: no JSON, or none that could be stored.
    """
    try:
        return _ENCODER.encode(_normal(msgspec.json.decode(spec or b"null"), 0))
    except (msgspec.DecodeError, UnicodeError, RecursionError, OverflowError) as error:
        raise InvalidStamp(f"spec is no JSON that can be stored: {error}") from None


def _normal(value: object, depth: int) -> object:
    if depth > _MAX_DEPTH:
        raise InvalidStamp(f"spec is nested more than {_MAX_DEPTH} deep")
    match value:
        case dict():
            return {key: _normal(each, depth + 1) for key, each in value.items() if each is not None}
        case list():
            return [_normal(each, depth + 1) for each in value]
        case bool():
            return value
        case int() if not -_MAX_INT64 <= value < _MAX_INT64:
            return int(float(value))  # stored as a floating-point number
        case float() if value.is_integer():
            return int(value)
        case _:
            return value


def _mac(key: bytes, requester: Requester, target: tuple[str, str], spec: bytes, at: datetime) -> str:
    covered = _ENCODER.encode(
        [
            _PURPOSE,
            requester.username,
            requester.uid,
            requester.groups,
            requester.extra,
            *target,
            hashlib.sha256(spec).hexdigest(),
            at.isoformat(timespec="microseconds"),
        ]
    )
    return hmac.new(key, covered, hashlib.sha256).hexdigest()
