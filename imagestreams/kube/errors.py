"""What an API server's refusals and silences mean to the layer above."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_MESSAGE: Final = 2000

UNDECODABLE: Final = (msgspec.MsgspecError, ValueError, RecursionError)
"""What decoders raise: msgspec's own, the core's, and what deep nesting does to any of them."""

_T = TypeVar("_T")


class ApiError(Exception):
    """The API server did not do what was asked.

    ApiError
    ├── Unreachable         no answer: refused, TLS, timeout, broken off     status 0     retryable
    │   └── Untrusted       its certificate does not verify                  status 0     retryable
    ├── InvalidAnswer       an answer that is not Kubernetes'                status 0     retryable
    │   └── TooLarge        it has more bytes than the caller wants          status 0
    ├── Unauthorized        401, also with renewed credentials                            retryable
    ├── Forbidden           403; the message names the missing right
    ├── NotFound            404; also: the resource is not served
    ├── Conflict            409, the object has changed: read it again
    ├── AlreadyExists       409 to a create
    ├── Gone                410, the resourceVersion or continue token is too old: list again
    ├── Invalid             422; also a JSON patch whose test failed
    ├── TooManyRequests     429; see `retry_after`                                        retryable
    └── Unavailable         5xx; see `retry_after`                                        retryable

    Other statuses are an ApiError itself. Retryable: the same request may succeed later without anything else being
    done.

    Attributes:
        status: the HTTP status, or 0.
        reason: the Status' reason (CamelCase), or the class's name.
        retry_after: seconds that the server asks us to wait, or None.
    """

    retryable = False

    def __init__(self, message: str, *, status: int = 0, reason: str = "", retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason or type(self).__name__
        self.retry_after = retry_after

    @property
    def message(self) -> str:
        return str(self)


class Unreachable(ApiError):
    retryable = True


class InvalidAnswer(ApiError):
    retryable = True


class TooLarge(InvalidAnswer):
    retryable = False


class Unauthorized(ApiError):
    retryable = True


class Forbidden(ApiError):
    pass


class NotFound(ApiError):
    pass


class Conflict(ApiError):
    pass


class AlreadyExists(ApiError):
    pass


class Gone(ApiError):
    pass


class Invalid(ApiError):
    pass


class TooManyRequests(ApiError):
    retryable = True


class Unavailable(ApiError):
    retryable = True


class Untrusted(Unreachable):
    """The server's certificate does not verify; the CA may have been replaced."""


_BY_STATUS: Mapping[int, type[ApiError]] = {
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Gone,
    422: Invalid,
    429: TooManyRequests,
}


class _Details(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    retry_after_seconds: int | None = None


class _Status(msgspec.Struct, frozen=True, gc=False):
    message: str | None = None
    reason: str | None = None
    code: int | None = None
    details: _Details | None = None


_STATUS = msgspec.json.Decoder(_Status)


def error_of(status: int, body: bytes, *, retry_after: str = "", what: str = "the request") -> ApiError:
    """The error for an HTTP status, or (status 0) for a Status object that came in a watch.

    Args:
        body: a Status object if the API server itself answered; a proxy's may be anything.
        retry_after: the header of that name; only its form in seconds is understood.
        what: of which to speak if the body says nothing.
    """
    try:
        said = _STATUS.decode(body)
    except UNDECODABLE:
        said = _Status()
    code = status or said.code or 500
    kind = _BY_STATUS.get(code, Unavailable if code >= 500 else ApiError)
    if code == 409 and said.reason == "AlreadyExists":
        kind = AlreadyExists
    message = said.message or f"{what} was answered with HTTP status {code}"
    wait = float(retry_after) if retry_after.isdecimal() else said.details.retry_after_seconds if said.details else None
    return kind(message[:MAX_MESSAGE], status=code, reason=said.reason or "", retry_after=wait)


def decoded(decoder: msgspec.json.Decoder[_T], body: bytes, what: str) -> _T:
    """What an API server has answered; `what` is for the message.

    Raises:
        InvalidAnswer: it is something else.
    """
    try:
        return decoder.decode(body)
    except UNDECODABLE as error:
        raise InvalidAnswer(f"{what}: not what a Kubernetes API server answers: {error}") from error
