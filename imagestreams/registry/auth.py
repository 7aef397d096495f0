"""The handshake with a registry that wants to know who asks: no network, no clock, no memory of its own.

`handshake` is a generator: it yields what it needs, a `Request` to be sent or a `Grant` to be had from a token service
(or from a cache), and is sent the `Response`, the `Token` or the service's `Refusal`.

    401 Basic   -> the request again, with each credential in turn
    401 Bearer  -> a token for each credential in turn (or anonymous), and the request with it

A username and password get a token by GET; an identity token gets one by POST, as OAuth 2 has it, and is good for
nothing else: no registry is shown it, only a token service to which a credential may go.

A challenge is a registry's word, so it is read as hostile. The scope is always our own, `repository:<path>:pull`. A
credential goes to a token service only at the registry's own host or registrable domain, or at a host that an
administrator lists; others are asked anonymously.

https://distribution.github.io/distribution/spec/auth/token/
https://distribution.github.io/distribution/spec/auth/oauth/
"""

from __future__ import annotations

import base64
import enum
import ipaddress
import math
import re
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlencode

import msgspec
from yarl import URL

from imagestreams.registry.errors import (
    Forbidden,
    InvalidAnswer,
    Refused,
    RegistryError,
    Unauthorized,
    known_code,
    scrubbed,
)
from imagestreams.registry.messages import FORM, Request, Response

if TYPE_CHECKING:
    from imagestreams.core.keychain import Credential

_MAX_CHALLENGE: Final = 8192  # characters of all WWW-Authenticate headers together
_MAX_CHALLENGES: Final = 16
_MAX_REALM: Final = 2048
_MAX_SERVICE: Final = 512
_MAX_ROUNDS: Final = 2  # a registry may move its token service, but not with every answer

_MIN_LIFE: Final = 60.0  # seconds; the specification's default and minimum
_MAX_LIFE: Final = 3600.0  # what a token service cannot take back should not live long

_CLIENT: Final = "imagestreams"  # what OAuth calls the client_id
_TOKEN_DENIALS: Final = frozenset({400, 401, 403, 404})
_NO_EXCHANGE: Final = frozenset({404, 405})  # so answers who knows no POST

_SCHEME = re.compile(r"[\s,]*([A-Za-z][A-Za-z0-9!#$&^_.+-]{0,63})(?=[\s,]|$)")
_PARAMETER = re.compile(
    r"[\s,]*([A-Za-z0-9!#$%&'*+.^_`|~-]{1,64})[ \t]*=[ \t]*(?:\"((?:[^\"\\]|\\.)*)\"|([^\s,\"]*))(?=[\s,]|$)"
)
_ESCAPED = re.compile(r"\\(.)")
_PRINTABLE = re.compile(r"[\x21-\x7e]*")
_TOKEN = re.compile(r"[\x21-\x7e]+")
_REALM = re.compile(r"https?://[A-Za-z0-9_.\[\]:-]+(?:[/?][\x21-\x7e]*)?", re.IGNORECASE)
_HOST_NAME = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*")

# Second-level labels below country codes that are nobody's own: example.co.uk and other.co.uk are strangers.
_SHARED_LABELS: Final = frozenset(
    {"ac", "co", "com", "edu", "go", "gob", "gov", "gv", "ltd", "mil", "ne", "net", "nom", "or", "org", "plc", "sch"}
)


# --- challenges -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Basic:
    """The registry wants a username and password with each request."""


@dataclass(frozen=True, slots=True)
class Bearer:
    """The registry wants a token of the service at `realm`."""

    realm: URL
    service: str


Challenge = Basic | Bearer


def challenges_of(headers: Sequence[str]) -> tuple[Challenge, ...]:
    """The challenges of WWW-Authenticate headers that we can answer, in their order.

    What is malformed ends the reading of its header; what is incomplete (a Bearer challenge without a usable realm) or
    of another scheme is left out.

    https://www.rfc-editor.org/rfc/rfc9110#name-www-authenticate
    """
    if sum(map(len, headers)) > _MAX_CHALLENGE:
        return ()
    found: list[Challenge] = []
    for header in headers:
        for scheme, parameters in _challenges(header):
            if len(found) == _MAX_CHALLENGES:
                return tuple(found)
            if scheme == "basic":
                found.append(Basic())
            elif scheme == "bearer" and (bearer := _bearer(parameters)):
                found.append(bearer)
    return tuple(found)


def _challenges(header: str) -> Iterator[tuple[str, dict[str, str]]]:
    position = 0
    while scheme := _SCHEME.match(header, position):
        position = scheme.end()
        parameters: dict[str, str] = {}
        while parameter := _PARAMETER.match(header, position):
            position = parameter.end()
            name, quoted, bare = parameter.groups()
            # The first counts: a second value of one name is nothing that an honest registry sends.
            parameters.setdefault(name.lower(), bare if quoted is None else _ESCAPED.sub(r"\1", quoted))
        yield scheme[1].lower(), parameters


def _bearer(parameters: dict[str, str]) -> Bearer | None:
    realm, service = realm_of(parameters.get("realm", "")), parameters.get("service", "")
    if realm is None or len(service) > _MAX_SERVICE or _PRINTABLE.fullmatch(service.replace(" ", "")) is None:
        return None
    return Bearer(realm, service)


def realm_of(text: str) -> URL | None:
    """The URL of a token service, or None for what is none that can be asked (user info, odd characters, no host)."""
    if len(text) > _MAX_REALM or _REALM.fullmatch(text) is None or "\\" in text:
        return None
    try:
        url = URL(text)
        host, port = url.host, url.port
    except ValueError:
        return None
    if not host or port is None or url.user is not None or url.password is not None:
        return None
    if not _is_address(host) and _HOST_NAME.fullmatch(host) is None:
        return None
    return url.with_fragment(None)


# --- whom a credential is told ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Home:
    """The registry that a handshake is with.

    Attributes:
        name: as references name it, for messages.
        url: scheme, host and port it is asked at.
        insecure: plain http is permitted there.
        credentials: whether a credential may be sent there at all.
        listed: whether an administrator named a host ("host" or "host:port").
    """

    name: str
    url: URL
    insecure: bool
    credentials: bool
    listed: Callable[[str], bool]


class Trust(enum.Enum):
    CREDENTIALS = "a credential may go there"
    ANONYMOUS = "it may be asked, without a credential"
    NONE = "it is not asked"


def trust_in(realm: URL, home: Home) -> Trust:
    """How far a token service is trusted. Plain http is good where the registry may be spoken to so itself, and there
    at its own host or a listed one.
    """
    is_ours = realm.host == home.url.host or home.listed(authority_of(realm))
    if realm.scheme == "http" and not (is_ours and (home.insecure or home.url.scheme == "http")):
        return Trust.NONE
    if home.credentials and (is_ours or _is_same_domain(realm.host or "", home.url.host or "")):
        return Trust.CREDENTIALS
    return Trust.ANONYMOUS


def authority_of(url: URL) -> str:
    """`host` or `host:port` as an administrator lists it."""
    return url.host or "" if url.is_default_port() else f"{url.host}:{url.port}"


def _is_same_domain(one: str, other: str) -> bool:
    """Whether two host names are of one registrable domain; a guess without the public suffix list, on the strict side.

    It is no wall against the registry itself, which could ask for the credential by a Basic challenge, but against
    whoever can only change a challenge, or mistakes in one.
    """
    domain = _domain(one)
    return bool(domain) and domain == _domain(other)


def _domain(host: str) -> str:
    labels = host.rstrip(".").split(".")
    if _is_address(host) or len(labels) < 2:
        return ""
    count = 3 if len(labels[-1]) == 2 and labels[-2] in _SHARED_LABELS else 2
    return ".".join(labels[-count:]) if len(labels) >= count else ""


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


# --- tokens -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Grant:
    """A token is needed.

    Attributes:
        credential: whose, None for an anonymous one.
        rejected: a token that the registry did not take; another one is needed.
    """

    realm: URL
    service: str
    scope: str
    credential: Credential | None
    rejected: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Token:
    """A token that was had, `life` the seconds it is good for; `cached` if it was not made for this request."""

    text: str = field(repr=False)
    life: float
    cached: bool = False


@dataclass(frozen=True, slots=True)
class Refusal:
    """A credential (None: anonymous) that a registry, or its token service, did not take.

    `status` is 0 where none was asked, and `why` then says what speaks against it.
    """

    credential: Credential | None
    status: int
    code: str = ""
    by_service: bool = False
    why: str = ""

    def __str__(self) -> str:
        if self.credential is None:
            who = "anonymous access"
        else:
            what = "identity token" if self.credential.identity_token else "credential"
            who = f'the {what} of secret "{self.credential.secret}"'
        shown = f"{self.status} {self.code}" if self.code else f"{self.status}" if self.status else ""
        shown = f"{shown} from the token service" if self.by_service else shown
        return f"{who} ({': '.join(filter(None, (shown, self.why)))})"


class _WireToken(msgspec.Struct, gc=False):
    token: str | None = None
    access_token: str | None = None
    expires_in: float | None = None


_TOKENS = msgspec.json.Decoder(_WireToken, strict=False)  # some services send expires_in as text


def token_request(grant: Grant) -> Request:
    """The request for a token. What the realm's own query says of service and scope does not count."""
    credential = grant.credential
    if credential and credential.identity_token:
        return _exchange_request(grant, credential)
    ours = {"service": grant.service, "scope": grant.scope} if grant.service else {"scope": grant.scope}
    kept = [(name, value) for name, value in grant.realm.query.items() if name.lower() not in {"service", "scope"}]
    return Request(
        "GET",
        grant.realm.with_query([*kept, *ours.items()]),
        accept="application/json",
        authorization=basic_authorization(credential) if credential else "",
        fingerprint=credential.fingerprint if credential else "",
        secret=credential.secret if credential else "",
    )


def _exchange_request(grant: Grant, credential: Credential) -> Request:
    form = {
        "grant_type": "refresh_token",
        "service": grant.service,
        "client_id": _CLIENT,
        "scope": grant.scope,
        "refresh_token": credential.identity_token,
    }
    kept = [(name, value) for name, value in grant.realm.query.items() if name.lower() not in form]
    return Request(
        "POST",
        grant.realm.with_query(kept or None),
        accept="application/json",
        body=urlencode(form).encode(),
        content_type=FORM,
        fingerprint=credential.fingerprint,
        secret=credential.secret,
    )


def token_refusal(grant: Grant, response: Response) -> Refusal | None:
    """What a token service's answer says of the credential; None where it is no word about that."""
    if response.status in _NO_EXCHANGE and grant.credential and grant.credential.identity_token:
        why = "it takes no identity tokens, give the secret a username and password"
        return Refusal(grant.credential, response.status, by_service=True, why=why)
    if response.status in _TOKEN_DENIALS:
        return Refusal(grant.credential, response.status, known_code(response.body), by_service=True)
    return None


def token_in(response: Response, who: str) -> Token:
    """The token of a service's answer; `who` answered, for messages.

    Raises:
        InvalidAnswer: if there is none that can be sent.
    """
    try:
        wire = _TOKENS.decode(response.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise InvalidAnswer(f"{who} does not answer with the JSON of a token") from None
    # The service may send `token`, `access_token` or both; when both, they are the same.
    text = wire.token or wire.access_token or ""
    if _TOKEN.fullmatch(text) is None:
        raise InvalidAnswer(f"{who} answers with no token that can be sent")
    life = wire.expires_in if wire.expires_in is not None and math.isfinite(wire.expires_in) else _MIN_LIFE
    return Token(text, min(max(life, _MIN_LIFE), _MAX_LIFE))


def basic_authorization(credential: Credential) -> str:
    return "Basic " + base64.b64encode(f"{credential.username}:{credential.password}".encode()).decode()


# --- the handshake ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Approach:
    """What a registry took for a repository: the challenge and, where one was used, the credential's fingerprint."""

    challenge: Challenge
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Authorised:
    """The registry's answer to the request itself: anything but 401 and 403, or 403 to one who needed no login.

    `approach` is worth remembering; None where no login was wanted.
    """

    response: Response
    approach: Approach | None
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Errand:
    """What is asked, and on whose behalf.

    Attributes:
        image: for messages, "host/path:tag".
        scope: what a token is asked for.
        candidates: credentials in the order to try them; none means anonymous.
        what: the word for `image`.
    """

    image: str
    scope: str
    candidates: tuple[Credential, ...]
    home: Home
    what: str = "container image"

    @property
    def denial(self) -> str:
        return f'you may not have access to the {self.what} "{self.image}"'


Talk = Generator[Request | Grant, Response | Token | Refusal, Authorised]


def handshake(request: Request, errand: Errand, recalled: Approach | None = None) -> Talk:
    """Ask, and answer the registry's challenge if there is one.

    Args:
        recalled: what the registry took before, from the same home; it is tried at once, which saves the 401.

    Raises:
        Unauthorized: every credential was refused; names the secrets tried. There is no other way in: anonymous access
            is tried only where there is no credential for the host, or none that may be sent there.
        Forbidden: the same, with nothing but 403.
        Refused: the realm is one that must not be asked.
    """
    refusals: list[Refusal] = []
    tried: list[Challenge] = []
    challenge = recalled.challenge if recalled else None
    confirmed = False
    while len(tried) < _MAX_ROUNDS:
        if challenge is None:
            response = yield from _answered(request)
            if response.status != 401:
                return Authorised(response, None, "")
            challenge, confirmed = _challenge(response, errand), True
        if challenge in tried:
            break
        tried.append(challenge)
        refusals.clear()
        outcome, seen = yield from _try(request, errand, challenge, recalled, refusals)
        if outcome:
            return outcome
        # Only what the registry itself has just said can be believed to be its way in: a remembered service that is
        # gone is no reason to say that the credentials are bad.
        if seen is None and confirmed:
            break
        challenge, confirmed, recalled = seen, seen is not None, None
    raise _denied(errand, tried[-1], refusals)


def _try(
    request: Request, errand: Errand, challenge: Challenge, recalled: Approach | None, refusals: list[Refusal]
) -> Generator[Request | Grant, Response | Token | Refusal, tuple[Authorised | None, Challenge | None]]:
    """Try the credentials against one challenge: the answer, if one was good, and the challenge last seen, if any."""
    seen: Challenge | None = None
    for credential in _order(errand, challenge, recalled):
        if isinstance(challenge, Bearer):
            result = yield from _with_token(request, errand, challenge, credential)
        elif credential is not None and credential.identity_token and not credential.password:
            result = Refusal(credential, 0, why="the registry wants a username and password")
        else:
            result = yield from _answered(_with_basic(request, credential))
        if isinstance(result, Refusal):
            refusals.append(result)
            continue
        fingerprint = credential.fingerprint if credential else ""
        if result.status not in {401, 403}:
            return Authorised(result, Approach(challenge, fingerprint), fingerprint), seen
        refusals.append(Refusal(credential, result.status, known_code(result.body)))
        if result.status == 401:
            seen = _best_challenge(result) or seen
    return None, seen


def _order(errand: Errand, challenge: Challenge, recalled: Approach | None) -> Sequence[Credential | None]:
    home = errand.home
    allowed = home.credentials
    if isinstance(challenge, Bearer):
        trust = trust_in(challenge.realm, home)
        if trust is Trust.NONE:
            shown = _shown(challenge.realm, errand)
            raise Refused(f"{home.name} names a token service that must not be asked: {shown} is plain http")
        allowed = trust is Trust.CREDENTIALS
    if not allowed or not errand.candidates:
        return () if isinstance(challenge, Basic) else (None,)
    if recalled is None:
        return errand.candidates
    return sorted(errand.candidates, key=lambda candidate: candidate.fingerprint != recalled.fingerprint)


def _with_basic(request: Request, credential: Credential | None) -> Request:
    if credential is None:
        return request
    return replace(
        request,
        authorization=basic_authorization(credential),
        fingerprint=credential.fingerprint,
        secret=credential.secret,
    )


def _with_token(
    request: Request, errand: Errand, bearer: Bearer, credential: Credential | None
) -> Generator[Request | Grant, Response | Token | Refusal, Response | Refusal]:
    grant = Grant(bearer.realm, bearer.service, errand.scope, credential)
    while True:
        token = yield grant
        if isinstance(token, Refusal):
            return token
        if not isinstance(token, Token):
            raise TypeError(f"a grant is answered by a token or a refusal, not by {type(token)}")
        authorised = replace(request, authorization=f"Bearer {token.text}")
        if credential:
            authorised = replace(authorised, fingerprint=credential.fingerprint, secret=credential.secret)
        response = yield from _answered(authorised)
        # A cached token may have been revoked, which is worth another one; after that the refusal is an answer.
        if response.status != 401 or not token.cached or grant.rejected:
            return response
        grant = replace(grant, rejected=token.text)


def _answered(request: Request) -> Generator[Request | Grant, Response | Token | Refusal, Response]:
    response = yield request
    if not isinstance(response, Response):
        raise TypeError(f"a request is answered by a response, not by {type(response)}")
    return response


def _challenge(response: Response, errand: Errand) -> Challenge:
    """The challenge to answer, a Bearer before a Basic one.

    Raises:
        Unauthorized: if there is none that we can answer, or it is not the registry that asks.
    """
    if response.url.host != errand.home.url.host:
        # Where a redirect led wants a login. It gets none of ours, and we do not follow it to a third place.
        raise Unauthorized(f"{errand.denial}: {errand.home.name} redirects to a host that wants a login")
    challenge = _best_challenge(response)
    if challenge is None:
        raise Unauthorized(f"{errand.denial}: {errand.home.name} answered 401 and names no way to log in that is known")
    return challenge


def _best_challenge(response: Response) -> Challenge | None:
    challenges = challenges_of(response.headers.getall("WWW-Authenticate", []))
    bearers = (challenge for challenge in challenges if isinstance(challenge, Bearer))
    return next(bearers, challenges[0] if challenges else None)


def _denied(errand: Errand, challenge: Challenge, refusals: Sequence[Refusal]) -> RegistryError:
    home = errand.home
    said = [f"{home.name} refuses {', '.join(map(str, refusals))}"] if refusals else [f"{home.name} wants a login"]
    if not errand.candidates:
        said.append("there is no credential for it")
    elif not home.credentials:
        said.append(withheld(errand.candidates))
    elif refusals and refusals[0].credential is None:
        owned = _owned(errand.candidates)
        said.append(f"{owned} not sent to a token service of another domain, unless an administrator lists it")
    if isinstance(challenge, Bearer):
        said.append(f"asked {_shown(challenge.realm, errand)} for {errand.scope}")
    message = f"{errand.denial}: {'; '.join(said)}"
    only_forbidden = refusals and all(refusal.status == 403 for refusal in refusals)
    return Forbidden(message) if only_forbidden else Unauthorized(message)


def withheld(candidates: Sequence[Credential]) -> str:
    """What to say of credentials that are there and may not be sent."""
    return f"{_owned(candidates)} not sent to an insecure host, unless an administrator lists it as insecure"


def _owned(candidates: Sequence[Credential]) -> str:
    names = list(dict.fromkeys(candidate.secret for candidate in candidates))
    shown = ", ".join(f'"{name}"' for name in names)
    return f"the credential of secret {shown} is" if len(names) == 1 else f"the credentials of secrets {shown} are"


def _shown(realm: URL, errand: Errand) -> str:
    return without_secrets(str(realm.with_query(None)), errand.candidates)


def without_secrets(text: str, candidates: Sequence[Credential], tokens: Sequence[str] = ()) -> str:
    """`text` that a registry had a hand in, fit for a message, however it has spelt in a URL what it was sent."""
    words = (word for candidate in candidates for word in (candidate.identity_token, candidate.password))
    secrets = {*words, *tokens} - {""}
    for _ in range(3):
        for secret in secrets:
            text = text.replace(secret, "***")
        plain = unquote(text)
        if any(secret in plain or secret in unquote(plain) for secret in secrets):
            text = plain
    return scrubbed(text, candidates)
