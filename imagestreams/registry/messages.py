"""What travels between the rules of this package and the socket: a request, a response, nothing that waits."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from multidict import MultiMapping
    from yarl import URL

FORM: Final = "application/x-www-form-urlencoded"


@dataclass(frozen=True, slots=True)
class Request:
    """One request, before redirects.

    Attributes:
        accept: the Accept header, or empty.
        authorization: the Authorization header, or empty.
        body: of a POST, whose redirects are not followed.
        content_type: of the body.
        fingerprint: whose credential speaks (see `Credential.fingerprint`), empty for nobody's; throttling goes by it.
        secret: the name of the Secret that holds that credential, for `Step`.
    """

    method: str
    url: URL
    accept: str = ""
    authorization: str = field(default="", repr=False)
    body: bytes = field(default=b"", repr=False)
    content_type: str = ""
    fingerprint: str = field(default="", repr=False)
    secret: str = ""


@dataclass(frozen=True, slots=True)
class Redirect:
    """An answer on the way that led elsewhere."""

    status: int
    headers: MultiMapping[str]
    url: URL


@dataclass(frozen=True, slots=True)
class Response:
    """One response, read to its end.

    Attributes:
        url: who answered, after redirects.
        body: empty for HEAD, and for an error whose body was too large to be worth reading.
        way: the redirects that led there, in order; the first was the answer of whom the request was for.
    """

    status: int
    headers: MultiMapping[str]
    body: bytes
    url: URL
    way: tuple[Redirect, ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """One request as people are told of it, and what came of it. It holds nothing secret.

    Attributes:
        url: without user info; of the query only what we have put there.
        outcome: a status, or the reason of the error.
        note: what matters in the answer, or the error's message; may be empty.
        authorization: empty for none; "Basic secret NAME", "identity token secret NAME" (to a token service), "Bearer
            secret NAME" for a token that it gave, "Bearer" for one that it gives to anybody.
    """

    method: str
    url: str
    outcome: str
    note: str = ""
    authorization: str = ""
