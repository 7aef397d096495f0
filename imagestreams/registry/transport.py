"""The socket side: one request to one registry, with everything that must hold on the way.

- Addresses: a name is resolved once, what the address rule refuses is dropped, and the connection goes to what is left.
  A pool of connections belongs to one strictness, so that none is reused where it would not have been opened.
- TLS is verified, with the host's own CA where one is set. Only an insecure host goes unverified, or in plain http
  where https does not come about; other hosts that its redirects and realms lead to do not.
- Redirects are followed by hand: five at most, never from https to http, never from a public to a private address, and
  without the Authorization header once host, port or scheme is another.
- What is read has a cap, is not compressed, and comes in time.
"""

from __future__ import annotations

import asyncio
import enum
import errno
import ipaddress
import socket
import ssl
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, Self

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from imagestreams.core.policy import Address, refuse_address
from imagestreams.core.reference import DOCKER_HUB, DOCKER_HUB_ALIASES
from imagestreams.registry.auth import authority_of
from imagestreams.registry.errors import InvalidAnswer, Refused, TooLarge, Unreachable, Untrusted
from imagestreams.registry.messages import Request, Response
from imagestreams.registry.recent import Recent

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from imagestreams.core.policy import Policy, Transport

MANIFEST_CAP: Final = 4 << 20
TOKEN_CAP: Final = 64 << 10
ERROR_CAP: Final = 64 << 10

_MAX_REDIRECTS: Final = 5
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_MAX_LOCATION: Final = 4096
_PLAIN_HTTP_LIFE: Final = timedelta(minutes=10)
_CA_FILE_LIFE: Final = timedelta(minutes=1)  # how long a replaced CA file goes unnoticed
_HOSTS_REMEMBERED: Final = 4096
_RESOLVER_THREADS: Final = 32  # a name server that hangs holds one thread per host for some seconds


class AddressRule(Protocol):
    def __call__(self, address: Address, *, public_origin: bool) -> str | None:
        """Why the address must not be contacted, or None."""


@dataclass(frozen=True, slots=True)
class Reach:
    """Where connections may go.

    Attributes:
        refuse: see `core.policy.refuse_address`.
        listed: whether an administrator named a host, "host" or "host:port"; its addresses are exempt.
    """

    refuse: AddressRule
    listed: Callable[[str], bool]

    @classmethod
    def of(cls, policy: Policy) -> Self:
        def listed(host: str) -> bool:
            rule = policy.hosts.get(DOCKER_HUB if host in DOCKER_HUB_ALIASES else host)
            return rule is not None and rule.listed

        return cls(partial(refuse_address, policy=policy), listed)


@dataclass(frozen=True, slots=True)
class Timeouts:
    """In seconds.

    Attributes:
        connect: until a connection is open, name and TLS included.
        idle: without a byte from the other side.
        request: for one request, redirects included.
        lookup: for all that one lookup takes.
    """

    connect: float = 10.0
    idle: float = 20.0
    request: float = 30.0
    lookup: float = 90.0


class _Strictness(enum.Enum):
    """What the address rule says to the connections of a pool."""

    LISTED = "an administrator named the host: every address is good"
    NAMED = "a user named the host"
    LED = "a public host led here: private addresses are refused as well"


@dataclass(frozen=True, slots=True)
class _Hop:
    """One request on the way, and whether a public address led to it."""

    url: URL
    authorization: str
    from_public: bool
    is_first: bool


class Connections:
    """HTTP to registries and their token services.

    Args:
        user_agent: the User-Agent header.
        resolver: how names become addresses; the system's resolver when None.
        clock: aware; decides how long is remembered what a host was found to speak.
    """

    def __init__(
        self,
        reach: Reach,
        *,
        clock: Callable[[], datetime],
        timeouts: Timeouts,
        user_agent: str,
        resolver: AbstractResolver | None = None,
    ) -> None:
        self._reach = reach
        self._timeouts = timeouts
        self._headers = {"User-Agent": user_agent, "Accept-Encoding": "identity"}
        self._resolver = resolver or _SystemResolver()
        self._sessions: dict[_Strictness, aiohttp.ClientSession] = {}
        self._certificates = _Certificates(clock)
        self._plain: Recent[str, bool] = Recent(_HOSTS_REMEMBERED, clock=clock, life=_PLAIN_HTTP_LIFE)
        self._public: Recent[str, bool] = Recent(_HOSTS_REMEMBERED, clock=clock)

    async def close(self) -> None:
        for session in self._sessions.values():
            await session.close()
        self._sessions.clear()
        await self._resolver.close()

    async def exchange(self, request: Request, transport: Transport, *, cap: int, seconds: float) -> Response:
        """Send a request to the transport's host, or to its token service, and read the answer.

        Args:
            cap: bytes of a good answer; an error's body has a cap of its own.
            seconds: what is left for it; the timeout of a request holds as well.

        Raises:
            Unreachable: no answer.
            Refused: where it leads must not be contacted.
            TooLarge: a good answer is larger than `cap`.
            InvalidAnswer: what came is no HTTP, compressed, or redirects without end.
        """
        try:
            async with asyncio.timeout(min(seconds, self._timeouts.request)):
                return await self._exchange(request, transport, cap)
        except TimeoutError:
            raise Unreachable(f"{request.url.host} did not answer in time") from None

    async def _exchange(self, request: Request, transport: Transport, cap: int) -> Response:
        home = URL(transport.endpoint)
        is_home = request.url.host == home.host
        led = not is_home and self._is_public(home.host or "")
        hop = _Hop(request.url, request.authorization, led, is_first=True)
        response = await self._first(hop, request, transport, home, cap)
        for _ in range(_MAX_REDIRECTS):
            if response.status not in _REDIRECTS:
                return response
            hop = self._next(hop, response, transport, home)
            response = await self._send(hop, request, transport, home, cap)
        if response.status in _REDIRECTS:
            raise InvalidAnswer(f"{transport.host} redirects more than {_MAX_REDIRECTS} times")
        return response

    def _next(self, hop: _Hop, response: Response, transport: Transport, home: URL) -> _Hop:
        url = redirect_target(response.url, response.headers.get("Location", ""))
        if url.scheme == "http" and url.host != home.host and not self._reach.listed(authority_of(url)):
            raise Refused(f"{transport.host} redirects to another host in plain http")
        return _Hop(
            url,
            hop.authorization if url.origin() == response.url.origin() else "",
            hop.from_public or self._is_public(response.url.host or ""),
            is_first=False,
        )

    async def _first(self, hop: _Hop, request: Request, transport: Transport, home: URL, cap: int) -> Response:
        """The first hop; in plain http for an insecure host with which https does not come about."""
        if not transport.insecure or hop.url.origin() != home.origin() or home.scheme != "https":
            return await self._send(hop, request, transport, home, cap)
        plain = replace(hop, url=hop.url.with_scheme("http"))
        if self._plain.get(transport.endpoint):
            try:
                response = await self._send(plain, request, transport, home, cap)
            except Unreachable:
                self._plain.forget(transport.endpoint)
                raise
            if not _wants_https(response):
                return response
            self._plain.forget(transport.endpoint)
        try:
            return await self._send(hop, request, transport, home, cap)
        except Unreachable as error:
            try:
                response = await self._send(plain, request, transport, home, cap)
            except (Unreachable, InvalidAnswer):
                raise error from None
            if _wants_https(response):
                raise
            self._plain.put(transport.endpoint, value=True)
            return response

    async def _send(self, hop: _Hop, request: Request, transport: Transport, home: URL, cap: int) -> Response:
        strictness = self._strictness(hop, transport, home)
        host = hop.url.host or ""
        # Names are judged when they are resolved; an address in a URL never is.
        if strictness is not _Strictness.LISTED and (address := _address(host)) is not None:
            self._vetted(strictness, host, [address])
        headers = dict(self._headers)
        if request.accept:
            headers["Accept"] = request.accept
        if hop.authorization:
            headers["Authorization"] = hop.authorization
        context: ssl.SSLContext | bool = False
        if hop.url.scheme == "https":
            verified = not transport.insecure or host != home.host
            context = await self._certificates.context(transport.ca_file, verified=verified)
        try:
            async with self._session(strictness).request(
                request.method, hop.url, headers=headers, allow_redirects=False, ssl=context
            ) as answer:
                body = await _read(answer, cap)
                return Response(answer.status, answer.headers, body, hop.url)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            # The library's error holds the request's headers, which are not for a traceback.
            raise _failure(error, authority_of(hop.url)) from None

    def _strictness(self, hop: _Hop, transport: Transport, home: URL) -> _Strictness:
        if hop.url.host == home.host:
            return _Strictness.LISTED if transport.listed else _Strictness.NAMED
        # A registry may send us to a listed host only if it is listed itself, else a stranger could have us read there;
        # a token service that an administrator listed is asked on any registry's behalf.
        if self._reach.listed(authority_of(hop.url)) and (hop.is_first or transport.listed):
            return _Strictness.LISTED
        return _Strictness.LED if hop.from_public else _Strictness.NAMED

    def _session(self, strictness: _Strictness) -> aiohttp.ClientSession:
        session = self._sessions.get(strictness)
        if session is None:
            connector = aiohttp.TCPConnector(
                resolver=_VettingResolver(self._resolver, partial(self._vetted, strictness)),
                limit=0,  # the lanes limit what is under way for each host
                keepalive_timeout=75,
                ttl_dns_cache=300,
            )
            session = self._sessions[strictness] = aiohttp.ClientSession(
                connector=connector,
                connector_owner=True,
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
                auto_decompress=False,
                requote_redirect_url=False,
                timeout=aiohttp.ClientTimeout(
                    total=None, connect=self._timeouts.connect, sock_read=self._timeouts.idle
                ),
            )
        return session

    def _vetted(self, strictness: _Strictness, host: str, addresses: list[Address]) -> frozenset[Address]:
        """Those of a host's addresses that may be contacted.

        Raises:
            Refused: if that is none.
        """
        self._public.put(host, any(self._reach.refuse(address, public_origin=True) is None for address in addresses))
        if strictness is _Strictness.LISTED:
            return frozenset(addresses)
        led = strictness is _Strictness.LED
        verdicts = {address: self._reach.refuse(address, public_origin=led) for address in addresses}
        if verdicts and all(verdicts.values()):
            why = min(verdict for verdict in verdicts.values() if verdict)
            raise Refused(f"{host} is not contacted: it resolves to {why}, and no administrator lists it")
        return frozenset(address for address, verdict in verdicts.items() if verdict is None)

    def _is_public(self, host: str) -> bool:
        """Whether a host that was contacted is one of the internet's; in doubt it is, which is the stricter word."""
        if (address := _address(host)) is not None:
            return self._reach.refuse(address, public_origin=True) is None
        known = self._public.get(host)
        return True if known is None else known


def _wants_https(response: Response) -> bool:
    """Whether this is what a server for https says to plain http."""
    return response.status == 400 or response.status in _REDIRECTS


def redirect_target(url: URL, location: str) -> URL:
    """Where a Location header leads from `url`.

    Raises:
        Refused: it leads from https to plain http.
        InvalidAnswer: it leads nowhere.
    """
    if not location or len(location) > _MAX_LOCATION or any(not "!" <= character <= "~" for character in location):
        raise InvalidAnswer(f"{url.host} redirects to no usable URL")
    try:
        target = url.join(URL(location, encoded=True))
        host, port = target.host, target.port
    except ValueError:
        raise InvalidAnswer(f"{url.host} redirects to no usable URL") from None
    is_plain = target.user is None and target.password is None
    if target.scheme not in {"http", "https"} or not host or not port or not is_plain or "\\" in location:
        raise InvalidAnswer(f"{url.host} redirects to no usable URL")
    if url.scheme == "https" and target.scheme == "http":
        raise Refused(f"{url.host} redirects from https to plain http")
    return target.with_fragment(None)


async def _read(answer: aiohttp.ClientResponse, cap: int) -> bytes:
    """The body; empty for an error whose body is larger than errors need."""
    if answer.method == "HEAD":
        return b""
    if answer.headers.get("Content-Encoding", "identity").strip().lower() not in {"", "identity"}:
        answer.close()
        raise InvalidAnswer(f"{answer.url.host} sends compressed content, which was not asked for")
    is_good = answer.status < 300
    limit = cap if is_good else ERROR_CAP
    chunks: list[bytes] = []
    size = answer.content_length or 0
    if size <= limit:
        size = 0
        async for chunk in answer.content.iter_any():
            chunks.append(chunk)
            size += len(chunk)
            if size > limit:
                break
    if size <= limit:
        return b"".join(chunks)
    answer.close()  # the rest is not read, so the connection cannot be used again
    if is_good:
        raise TooLarge(f"{answer.url.host} sends more than {cap} bytes")
    return b""


_CERTIFICATE_FAULTS: Final = {
    9: "it is not yet valid",
    10: "it has expired",
    18: "it is self-signed",
    19: "its authority is not known",
    20: "its authority is not known",
    21: "its authority is not known",
    62: "it is for another host",
    64: "it is for another address",
}
_SOCKET_FAULTS: Final = {
    errno.ECONNREFUSED: "refused the connection",
    errno.EHOSTUNREACH: "cannot be reached",
    errno.ENETUNREACH: "cannot be reached",
    errno.ETIMEDOUT: "did not answer in time",
}


def _failure(error: Exception, host: str) -> Unreachable | InvalidAnswer:
    """The library's error in our words, which do not differ from one attempt to the next."""
    match error:
        case TimeoutError():
            return Unreachable(f"{host} did not answer in time")
        case aiohttp.ClientConnectorDNSError():
            return Unreachable(f"{host} is not known to the name service")
        case aiohttp.ClientConnectorCertificateError(certificate_error=cause):
            code = getattr(cause, "verify_code", 0)
            why = _CERTIFICATE_FAULTS.get(code, "it cannot be verified")
            return Untrusted(f"the certificate of {host} is not trusted: {why}")
        case aiohttp.ClientSSLError():
            return Untrusted(f"{host} does not speak TLS; for plain http alone the import policy must be insecure")
        case aiohttp.ClientResponseError() | aiohttp.InvalidURL():
            return InvalidAnswer(f"{host} does not answer in HTTP")
        case OSError(errno=number) if number in _SOCKET_FAULTS:
            return Unreachable(f"{host} {_SOCKET_FAULTS[number]}")
        case aiohttp.ClientConnectorError():
            return Unreachable(f"{host} cannot be connected to")
        case _:
            return Unreachable(f"{host} broke the connection off")


def _address(host: str) -> Address | None:
    # Only the last label of a name can tell it from an IPv4 address, and most hosts are names.
    if not host or not (host[-1].isdigit() or ":" in host):
        return None
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


class _VettingResolver(AbstractResolver):
    """Passes on those addresses of a name that may be contacted."""

    def __init__(self, resolver: AbstractResolver, vetted: Callable[[str, list[Address]], frozenset[Address]]) -> None:
        self._resolver = resolver
        self._vetted = vetted

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        results = await self._resolver.resolve(host, port, family)
        good = self._vetted(host, [ipaddress.ip_address(result["host"]) for result in results])
        return [result for result in results if ipaddress.ip_address(result["host"]) in good]

    async def close(self) -> None:
        """The resolver itself is shared, and not ours to close."""


class _SystemResolver(AbstractResolver):
    """getaddrinfo in threads of its own.

    The event loop's few threads would all wait for one name server that hangs, and then so would every other host.
    """

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_RESOLVER_THREADS, thread_name_prefix="resolver")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(
            self._threads,
            partial(socket.getaddrinfo, host, port, family, socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG),
        )
        flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        return [
            ResolveResult(hostname=host, host=str(address[0]), port=port, family=kind, proto=protocol, flags=flags)
            for kind, _, protocol, _, address in found
        ]

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


class _Certificates:
    """TLS contexts, made once for each CA file and again when the file has changed.

    Making one takes tens of milliseconds, so it happens in a thread; requests that wait for the same one share it.
    """

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._contexts: Recent[str, tuple[tuple[int, int], ssl.SSLContext]] = Recent(1024, clock=clock)
        self._checked: Recent[str, ssl.SSLContext] = Recent(1024, clock=clock, life=_CA_FILE_LIFE)
        self._unverified: ssl.SSLContext | None = None
        self._lock = asyncio.Lock()

    async def context(self, ca_file: str, *, verified: bool) -> ssl.SSLContext:
        """Raises Untrusted if the CA file cannot be read."""
        if not verified:
            self._unverified = self._unverified or _unverified_context()
            return self._unverified
        context = self._checked.get(ca_file)
        if context is None:
            async with self._lock:
                context = self._checked.get(ca_file) or await self._fresh(ca_file)
                self._checked.put(ca_file, context)
        return context

    async def _fresh(self, ca_file: str) -> ssl.SSLContext:
        try:
            stamp = await asyncio.to_thread(_stamp, ca_file)
            known = self._contexts.get(ca_file)
            if known and known[0] == stamp:
                return known[1]
            context = await asyncio.to_thread(_verified_context, ca_file)
        except (OSError, ssl.SSLError):
            raise Untrusted("the CA file that is configured for the host cannot be read") from None
        self._contexts.put(ca_file, (stamp, context))
        return context


def _stamp(ca_file: str) -> tuple[int, int]:
    if not ca_file:
        return (0, 0)
    status = Path(ca_file).stat()
    return (status.st_mtime_ns, status.st_size)


def _verified_context(ca_file: str) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if ca_file:
        context.load_verify_locations(ca_file)
    context.set_alpn_protocols(["http/1.1"])
    return context


def _unverified_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    return context
