"""What travels between the rules of this package and the socket: a request, a response, nothing that waits."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from multidict import MultiMapping
    from yarl import URL


@dataclass(frozen=True, slots=True)
class Request:
    """One request, before redirects.

    Attributes:
        accept: the Accept header, or empty.
        authorization: the Authorization header, or empty.
        fingerprint: whose credential speaks (see `Credential.fingerprint`), empty for nobody's; throttling goes by it.
    """

    method: str
    url: URL
    accept: str = ""
    authorization: str = field(default="", repr=False)
    fingerprint: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Response:
    """One response, read to its end.

    Attributes:
        url: who answered, after redirects.
        body: empty for HEAD, and for an error whose body was too large to be worth reading.
    """

    status: int
    headers: MultiMapping[str]
    body: bytes
    url: URL
