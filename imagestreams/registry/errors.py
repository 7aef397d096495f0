"""What can be wrong with a registry's answer, in words that may enter a status.

A message names the image, the host, secrets by their names, and codes that the standard knows. It holds nothing that
differs from one attempt to the next (ports of ours, addresses, times), or each retry would be a new status; and nothing
that a registry could have chosen freely.
"""

from __future__ import annotations

import base64
import math
import re
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, ClassVar, Final
from urllib.parse import quote

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from imagestreams.core.keychain import Credential
    from imagestreams.registry.messages import Response

MAX_RETRY_AFTER: Final = 3600.0  # seconds; a registry cannot silence us for longer
_SHOWN: Final = 300

# https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#error-codes and distribution's own
_KNOWN_CODES: Final = frozenset(
    {
        "BLOB_UNKNOWN",
        "BLOB_UPLOAD_INVALID",
        "BLOB_UPLOAD_UNKNOWN",
        "DENIED",
        "DIGEST_INVALID",
        "MANIFEST_BLOB_UNKNOWN",
        "MANIFEST_INVALID",
        "MANIFEST_UNKNOWN",
        "MANIFEST_UNVERIFIED",
        "NAME_INVALID",
        "NAME_UNKNOWN",
        "SIZE_INVALID",
        "TAG_INVALID",
        "TOOMANYREQUESTS",
        "UNAUTHORIZED",
        "UNAVAILABLE",
        "UNKNOWN",
        "UNSUPPORTED",
    }
)


class RegistryError(Exception):
    """A registry gave no usable answer, or must not be asked.

    RegistryError
    ├── NotFound          the repository or the tag is not there                     retryable: no
    ├── Denied
    │   ├── Unauthorized  401 after every credential was tried                       retryable: no
    │   └── Forbidden     403 after every credential was tried                       retryable: no
    ├── NotAnImage        a sound answer that no container runs                      retryable: no
    ├── Refused           an address, redirect or realm that the rules forbid        retryable: no
    ├── TooLarge          an answer over its cap                                     retryable: no
    ├── InvalidAnswer     another digest than its bytes, no manifest, no HTTP        retryable: yes
    ├── TooManyRequests   429; `retry_after`                                         retryable: yes
    ├── Unavailable       5xx; `retry_after`                                         retryable: yes
    └── Unreachable       no answer: name, connection, time                          retryable: yes
        └── Untrusted     the host is there, but not over TLS that can be trusted    retryable: yes

    Attributes:
        message: for people; bounded, and free of secrets.
        retry_after: seconds that the registry asks to wait, at most MAX_RETRY_AFTER; None where it does not say.
        fingerprint: of the credential that was throttled, empty for anonymous.
    """

    reason: ClassVar[str] = "RegistryError"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, retry_after: float | None = None, fingerprint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.retry_after = retry_after
        self.fingerprint = fingerprint


class NotFound(RegistryError):
    reason = "NotFound"


class Denied(RegistryError):
    """See `Unauthorized` and `Forbidden`: which one says the registry's last word."""


class Unauthorized(Denied):
    reason = "Unauthorized"


class Forbidden(Denied):
    reason = "Forbidden"


class NotAnImage(RegistryError):
    reason = "NotAnImage"


class Refused(RegistryError):
    reason = "Refused"


class TooLarge(RegistryError):
    reason = "TooLarge"


class InvalidAnswer(RegistryError):
    reason = "InvalidAnswer"
    retryable = True


class TooManyRequests(RegistryError):
    reason = "TooManyRequests"
    retryable = True


class Unavailable(RegistryError):
    reason = "Unavailable"
    retryable = True


class Unreachable(RegistryError):
    reason = "Unreachable"
    retryable = True


class Untrusted(Unreachable):
    """The same for the user. For others at that host it says nothing: they may have another CA, or need none."""


class _WireError(msgspec.Struct, gc=False):
    code: str = ""


class _WireErrors(msgspec.Struct, gc=False):
    errors: list[_WireError] = []


_ERRORS = msgspec.json.Decoder(_WireErrors)


def known_code(body: bytes) -> str:
    """The first error code of a registry's error body that the standard knows, or empty."""
    try:
        errors = _ERRORS.decode(body).errors
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""  # many registries and every proxy answer errors in words of their own
    return next((error.code for error in errors if error.code in _KNOWN_CODES), "")


def error_of(response: Response, image: str, who: str, *, now: datetime, fingerprint: str = "") -> RegistryError:
    """The error that a response is. 401 and 403 end here only where nothing was left to try.

    Args:
        response: anything but a success.
        image: what was asked for, "host/path:tag".
        who: who answered, "quay.io" or "the token service of quay.io".
        now: aware; a Retry-After may be a date.
        fingerprint: whose credential had spoken.
    """
    status, code = response.status, known_code(response.body)
    shown = f"{status} {code}" if code else f"{status}"
    wait = retry_after(response.headers.get("Retry-After", ""), now)
    # A HEAD has no body: where both are asked, only the status may be told, or the message would depend on the method.
    if status == 429 or code == "TOOMANYREQUESTS":
        return TooManyRequests(f"{who} has had too many requests", retry_after=wait, fingerprint=fingerprint)
    if status >= 500 or status == 408:
        return Unavailable(f"{who} failed ({status})", retry_after=wait, fingerprint=fingerprint)
    if status == 404:
        return NotFound(f'container image "{image}" not found')
    if status == 401:
        return Unauthorized(f'you may not have access to the container image "{image}": {who} answered {shown}')
    if status == 403:
        return Forbidden(f'you may not have access to the container image "{image}": {who} answered {shown}')
    return InvalidAnswer(f'{who} answered {shown} for the container image "{image}"')


def retry_after(value: str, now: datetime) -> float | None:
    """Seconds to wait by a Retry-After header, which holds seconds or a date; None where it holds neither.

    https://www.rfc-editor.org/rfc/rfc9110#name-retry-after
    """
    value = value.strip()[:64]
    if re.fullmatch(r"[0-9]{1,18}(?:\.[0-9]{1,9})?", value):  # a fraction is no HTTP, but some send it
        seconds = math.ceil(float(value))
    else:
        try:
            at = parsedate_to_datetime(value)
        except (ValueError, OverflowError):
            return None
        seconds = math.ceil((at.replace(tzinfo=at.tzinfo or UTC) - now).total_seconds())
    return float(min(max(seconds, 0), MAX_RETRY_AFTER))


def scrubbed(text: str, credentials: Iterable[Credential] = ()) -> str:
    """`text` that a registry had a hand in, fit for a status: printable ASCII, bounded, without the given passwords."""
    for credential in credentials:
        pair = base64.b64encode(f"{credential.username}:{credential.password}".encode()).decode()
        for secret in {credential.password, quote(credential.password, safe=""), pair}:
            text = text.replace(secret, "***") if secret else text
    text = "".join(character if " " <= character <= "~" else "?" for character in text)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
