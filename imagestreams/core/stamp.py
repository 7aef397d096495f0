"""The stamp on an ImageStreamImport: who asked, in the words of the API server, sealed by the webhook that heard it.

Whoever carries the request out later acts for that requester, and believes the stamp alone: anybody may write an
annotation, but nobody else has the key. The seal covers the requester, the namespace, the stream that is meant, what is
asked (`spec`), what the webhook saw of the stream and the moment; since that must be the moment at which the object was
created, a stamp that is copied is worth nothing.

What is asked is compared by its meaning. The API server stores a `spec` with its keys in another order, without nulls,
and with `1.0` as `1`.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

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


class StaleStamp(ForgedStamp):
    """The webhook's stamp for such an object, but of another moment than this one."""


class InvalidStamp(ValueError):
    """What cannot be stamped: too much, or nothing that a `spec` could be."""


class Footprint(msgspec.Struct, frozen=True, omit_defaults=True):
    """What of a stream the webhook decided on.

    Attributes:
        stream: its uid, empty where there was none.
        places: a digest of what was there, for each place of the request that may be written, in its order; empty for
            nothing.
    """

    stream: str = ""
    places: tuple[str, ...] = ()


class Stamp(NamedTuple):
    """A stamp that was checked.

    Attributes:
        requester: whoever asked.
        at: when (aware, UTC), by the webhook's clock.
        created: when the object was created, by the API server's.
        seen: of the stream, then.
    """

    requester: Requester
    at: datetime
    created: datetime
    seen: Footprint

    @property
    def order(self) -> tuple[datetime, datetime]:
        """Of two requests the newer one has the greater. Clocks of webhooks differ a little: the API server's, which
        has whole seconds, is asked first.
        """
        return self.created, self.at


_NOTHING: Final = Footprint()


class _Stamp(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    requester: Requester
    at: datetime
    seal: str = ""
    seen: Footprint = _NOTHING


_DECODER = msgspec.json.Decoder(_Stamp)


def seal(
    requester: Requester,
    *,
    namespace: str,
    stream: str,
    spec: bytes,
    at: datetime,
    key: bytes,
    seen: Footprint = _NOTHING,
) -> str:
    """The annotation's value.

    Args:
        requester: as the API server authenticated them.
        namespace: the object's.
        stream: the name of the stream that is meant; the value of IMAGE_STREAM_ANNOTATION, empty for none.
        spec: JSON, as it is sent; empty for none.
        at: now (aware).
        key: the secret, at least LEAST_KEY bytes.
        seen: of the stream.

    Raises:
        InvalidStamp: the stamp would be larger than MAX_STAMP, or `spec` is no JSON that could be stored.
    """
    if len(key) < LEAST_KEY:
        raise InvalidStamp(f"the key of stamps has {len(key)} bytes; {LEAST_KEY} are the least")
    if at.tzinfo is None:
        raise InvalidStamp("the moment of a stamp has no time zone")
    if not requester.username:
        raise InvalidStamp("the request names nobody who asks")
    stamp = _Stamp(requester, at.astimezone(UTC), seen=seen)
    sealed = msgspec.structs.replace(stamp, seal=_mac(key, _covered(stamp, (namespace, stream), canonical(spec))))
    text = _ENCODER.encode(sealed)
    if len(text) > MAX_STAMP:
        words = "the name, groups and other attributes of the requester, and what was seen of the stream,"
        raise InvalidStamp(f"{words} take {len(text)} bytes; {MAX_STAMP} are taken")
    return text.decode()


def unseal(text: str, *, namespace: str, stream: str, spec: bytes, created: datetime, keys: Sequence[bytes]) -> Stamp:
    """What the stamp says.

    Args:
        text: the annotation's value.
        namespace: the object's.
        stream: the value of IMAGE_STREAM_ANNOTATION.
        spec: JSON, as it is stored; empty for none.
        created: the object's creationTimestamp (aware), which the API server sets.
        keys: the secret, and those before it that still count.

    Raises:
        StaleStamp: the stamp is ours, and too far from the moment of the object's creation.
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
        at = stamp.at.astimezone(UTC)
        covered = _covered(stamp, (namespace, stream), canonical(spec))
    except (InvalidStamp, OverflowError) as error:
        raise ForgedStamp(f"the stamp cannot be checked: {error}") from None
    made = [_mac(key, covered) for key in keys if len(key) >= LEAST_KEY]
    if not any(hmac.compare_digest(each.encode(), stamp.seal.encode()) for each in made):
        raise ForgedStamp(
            "the stamp was not made for this object by a webhook that shares our key: it, the spec or the name of the "
            "stream was changed, or copied from another object"
        )
    if abs(created - at) > MAX_AGE:
        gap = abs(created - at) // timedelta(seconds=1)
        raise StaleStamp(
            f"the stamp is of {at:%Y-%m-%dT%H:%M:%SZ}, the object of {created.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}: the "
            f"clocks of webhook and API server differ by {gap} s, or the stamp was copied"
        )
    return Stamp(stamp.requester, at, created, stamp.seen)


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


def _covered(stamp: _Stamp, target: tuple[str, str], spec: bytes) -> bytes:
    """What is sealed: all of a stamp, and what it is for."""
    requester, seen = stamp.requester, stamp.seen
    return _ENCODER.encode(
        [
            _PURPOSE,
            requester.username,
            requester.uid,
            requester.groups,
            requester.extra,
            *target,
            hashlib.sha256(spec).hexdigest(),
            stamp.at.astimezone(UTC).isoformat(timespec="microseconds"),
            seen.stream,
            seen.places,
        ]
    )


def _mac(key: bytes, covered: bytes) -> str:
    return hmac.new(key, covered, hashlib.sha256).hexdigest()
