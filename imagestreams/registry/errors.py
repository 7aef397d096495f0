"""What can be wrong with a registry's answer, in words that may enter a status.

A message names the image, the host, secrets by their names, and codes that the standard knows. It holds nothing that
differs from one attempt to the next (ports of ours, addresses, times), or each retry would be a new status; and nothing
that a registry could have chosen freely.
"""

from __future__ import annotations

import base64
import enum
import math
import re
from dataclasses import dataclass
from datetime import UTC, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, ClassVar, Final
from urllib.parse import quote

import msgspec

from imagestreams.core.reference import DOCKER_HUB

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from imagestreams.core.keychain import Credential
    from imagestreams.registry.messages import Response

MAX_RETRY_AFTER: Final = 3600.0  # seconds; a registry cannot silence us for longer
_SHOWN: Final = 300
_DAY: Final = 86_400

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


class Sign(enum.Enum):
    """What it tells of a host that a question to it has failed."""

    ANSWER = "it is there"
    SILENCE = "it may not be"
    NONE = "nothing: it was not asked, or not given its time"


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
    ├── RateLimited       429; `retry_after`                                         retryable: yes
    ├── Exhausted         not asked: a quota is used up until `until`                no failure: put off
    ├── Unavailable       5xx; `retry_after`                                         retryable: yes
    └── Unreachable       no answer: the connection                                  retryable: yes
        ├── Timeout       no answer in time                                          retryable: yes
        ├── UnknownName   the name service does not know the host, or says nothing   retryable: yes
        └── Untrusted     the host is there, but not over TLS that can be trusted    retryable: yes

    Attributes:
        message: for people; bounded, and free of secrets.
        retry_after: seconds that the registry asks to wait, at most MAX_RETRY_AFTER; None where it does not say.
        fingerprint: of the credential that was throttled, empty for anonymous.
        sign: what it tells of the host; mostly the class says.
    """

    reason: ClassVar[str] = "RegistryError"
    retryable: ClassVar[bool] = False
    usual_sign: ClassVar[Sign] = Sign.ANSWER

    def __init__(
        self, message: str, *, retry_after: float | None = None, fingerprint: str = "", sign: Sign | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after = retry_after
        self.fingerprint = fingerprint
        self.sign = sign or self.usual_sign


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


class RateLimited(RegistryError):
    """`is_pull_limit`: only reading manifests is over its limit; a HEAD is still answered."""

    reason = "RateLimited"
    retryable = True

    def __init__(
        self, message: str, *, retry_after: float | None = None, fingerprint: str = "", is_pull_limit: bool = False
    ) -> None:
        super().__init__(message, retry_after=retry_after, fingerprint=fingerprint)
        self.is_pull_limit = is_pull_limit


class Exhausted(RegistryError):
    """A request that was not sent. It says nothing of the image, so it becomes `Deferred`, never `Failed`.

    Attributes:
        until: aware; before it nothing is left.
    """

    reason = "RateLimited"
    retryable = True
    usual_sign = Sign.NONE

    def __init__(self, message: str, until: datetime, *, fingerprint: str = "") -> None:
        super().__init__(message, fingerprint=fingerprint)
        self.until = until


class Unavailable(RegistryError):
    reason = "Unavailable"
    retryable = True


class Unreachable(RegistryError):
    reason = "Unreachable"
    retryable = True
    usual_sign = Sign.SILENCE


class Timeout(Unreachable):
    reason = "Timeout"


class UnknownName(Unreachable):
    reason = "DNS"


class Untrusted(Unreachable):
    """For others at that host it says nothing: they may have another CA, or need none."""

    reason = "TLS"
    usual_sign = Sign.ANSWER


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


def error_of(
    response: Response,
    image: str,
    who: str,
    *,
    now: datetime,
    fingerprint: str = "",
    what: str = "container image",
    is_pull: bool = False,
) -> RegistryError:
    """The error that a response is. 401 and 403 end here only where nothing was left to try.

    Args:
        response: anything but a success.
        image: what was asked for, "host/path:tag".
        who: who answered, "quay.io" or "the token service of quay.io".
        now: aware; a Retry-After may be a date.
        fingerprint: whose credential had spoken.
        what: the word for what was asked for.
        is_pull: a manifest was read; then a 429 that says that no pulls are left is about pulls only.
    """
    status, code = response.status, known_code(response.body)
    shown = f"{status} {code}" if code else f"{status}"
    wait = retry_after(response.headers.get("Retry-After", ""), now)
    # A HEAD has no body: where both are asked, only the status may be told, or the message would depend on the method.
    if status == 429 or code == "TOOMANYREQUESTS":
        told = quota_in(response.headers, now)
        is_used_up = told is not None and told.is_of_pulls and not told.left
        # Docker Hub's limit on pulls has a body that names a code; its limit on all requests has not.
        # https://docs.docker.com/docker-hub/usage/
        is_hub = who == DOCKER_HUB and code == "TOOMANYREQUESTS"
        return RateLimited(
            f"{who} has had too many requests",
            retry_after=wait,
            fingerprint=fingerprint,
            is_pull_limit=is_pull and (is_used_up or is_hub),
        )
    if status >= 500 or status == 408:
        # Which number it is may change with each attempt, behind a load balancer.
        return Unavailable(f"{who} failed with an error of its own", retry_after=wait, fingerprint=fingerprint)
    if status == 404:
        return NotFound(f'{what} "{image}" not found')
    if status == 401:
        return Unauthorized(f'you may not have access to the {what} "{image}": {who} answered {shown}')
    if status == 403:
        return Forbidden(f'you may not have access to the {what} "{image}": {who} answered {shown}')
    return InvalidAnswer(f'{who} answered {shown} for the {what} "{image}"')


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


@dataclass(frozen=True, slots=True)
class ToldQuota:
    """What a registry says of its own limit for the one who asked.

    Attributes:
        left: how many more.
        is_of_pulls: it counts pulls, as Docker Hub's does; else every request.
        limit: how many in `window`, where it says both.
        reset: until the full limit is there again, at most MAX_RETRY_AFTER; None where it does not say.
    """

    left: int
    is_of_pulls: bool = False
    limit: int | None = None
    window: timedelta | None = None
    reset: timedelta | None = None


_MAX_COUNT: Final = 1_000_000
_COUNT: Final = re.compile(r"[0-9]{1,12}")
_DOCKER: Final = re.compile(r"([0-9]{1,12}) *; *w *= *([0-9]{1,12})")
_SEVENTH_DRAFT: Final = re.compile(r"(limit|remaining|reset) *= *([0-9]{1,12})")
_QUOTA: Final = re.compile(r'"[^"]{0,64}"((?: *; *[a-z*][a-z0-9_.*-]{0,30}(?: *= *[^;,"]{1,30}| *= *"[^"]{0,64}")?)*)')
_PARAMETER: Final = re.compile(r"; *([rt]) *= *([0-9]{1,12})(?![0-9.])")
_EPOCH: Final = 1_000_000_000  # a larger reset is a point in time, as some write it
_HEADER: Final = 1024


def quota_in(headers: Mapping[str, str], now: datetime) -> ToldQuota | None:
    """What a response says of the registry's limit, in any of the spellings in use; None where nothing that is clear.

    Docker Hub says `RateLimit-Limit: 100;w=21600` and `RateLimit-Remaining: 76;w=21600`, and means pulls: a HEAD says
    so too, and does not count. https://docs.docker.com/docker-hub/usage/pulls/
    The drafts of a standard have RateLimit-Limit, -Remaining and -Reset at first, then one field RateLimit.
    https://datatracker.ietf.org/doc/draft-ietf-httpapi-ratelimit-headers/

    Args:
        headers: names in any case.
        now: aware.
    """
    remaining = headers.get("RateLimit-Remaining", "").strip()[:_HEADER]
    if not remaining:
        return _of_one_field(headers.get("RateLimit", "").strip()[:_HEADER], now)
    if told := _DOCKER.fullmatch(remaining):
        limit = _DOCKER.fullmatch(headers.get("RateLimit-Limit", "").strip()[:_HEADER])
        count, seconds = (_count(limit[1]), int(limit[2])) if limit else (0, 0)
        if count and seconds:
            return ToldQuota(_count(told[1]), True, count, timedelta(seconds=min(seconds, _DAY)))
        return ToldQuota(_count(told[1]), is_of_pulls=True)
    if _COUNT.fullmatch(remaining):
        reset = headers.get("RateLimit-Reset", "").strip()[:_HEADER]
        return ToldQuota(_count(remaining), reset=_until(reset, now))
    return None


def _of_one_field(field: str, now: datetime) -> ToldQuota | None:
    named = dict(_SEVENTH_DRAFT.findall(field))
    if "remaining" in named:
        return ToldQuota(_count(named["remaining"]), reset=_until(named.get("reset", ""), now))
    quotas = []
    for match in _QUOTA.finditer(field):
        parameters = dict(_PARAMETER.findall(match[1]))
        if "r" in parameters:
            quotas.append(ToldQuota(_count(parameters["r"]), reset=_until(parameters.get("t", ""), now)))
    # Each of them must allow it; of those that are used up the one that is so for longest.
    return min(quotas, key=lambda told: (told.left, -(told.reset or timedelta()))) if quotas else None


def _count(digits: str) -> int:
    return min(int(digits), _MAX_COUNT)


def _until(text: str, now: datetime) -> timedelta | None:
    if not _COUNT.fullmatch(text):
        return None
    seconds = int(text)
    if seconds > _EPOCH:
        seconds -= int(now.timestamp())
    return timedelta(seconds=min(max(seconds, 0), MAX_RETRY_AFTER))


def scrubbed(text: str, credentials: Iterable[Credential] = ()) -> str:
    """`text` that a registry had a hand in, fit for a status: printable ASCII, bounded, without the given passwords."""
    for credential in credentials:
        pair = base64.b64encode(f"{credential.username}:{credential.password}".encode()).decode()
        for secret in {credential.password, quote(credential.password, safe=""), pair}:
            text = text.replace(secret, "***") if secret else text
    text = "".join(character if " " <= character <= "~" else "?" for character in text)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
