"""The socket side: one request to one registry, with everything that must hold on the way.

- Addresses: a name is resolved once, what the address rule refuses is dropped, and the connection goes to what is left.
  A pool of connections belongs to one strictness, so that none is reused where it would not have been opened.
- TLS is verified, with the CA that is set for the very host. Only an insecure host goes unverified, or in plain http
  where https does not come about; other hosts that its redirects and realms lead to do not.
- Redirects are followed by hand: five at most, never from https to http, never from a public to a private address, and
  without the Authorization header once host, port or scheme is another.
- What is read has a cap, is not compressed, and comes in time.
- A proxy resolves names itself, so behind one the address rule judges only what needs no name service. TLS goes through
  it unopened, and is verified as always; that to the proxy itself always is.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import enum
import errno
import ipaddress
import re
import socket
import ssl
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from imagestreams.core.policy import Address, HostRule, Policy, refuse_address, refuse_port
from imagestreams.core.policy import proxy_for as policy_proxy_for
from imagestreams.core.reference import host_named
from imagestreams.registry.auth import authority_of
from imagestreams.registry.errors import (
    InvalidAnswer,
    Refused,
    RegistryError,
    Sign,
    Timeout,
    TooLarge,
    UnknownName,
    Unreachable,
    Untrusted,
)
from imagestreams.registry.messages import Redirect, Request, Response
from imagestreams.registry.recent import Recent

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from datetime import datetime

    from aiohttp import ClientRequest

    from imagestreams.core.policy import Transport

MANIFEST_CAP: Final = 4 << 20
BLOB_CAP: Final = 4 << 20
TOKEN_CAP: Final = 64 << 10
ERROR_CAP: Final = 64 << 10

_MAX_REDIRECTS: Final = 5
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_MAX_LOCATION: Final = 4096
_PLAIN_HTTP_LIFE: Final = timedelta(minutes=10)
_CA_FILE_LIFE: Final = timedelta(minutes=1)  # how long a replaced CA file goes unnoticed
_HOSTS_REMEMBERED: Final = 4096
_LOST: Final = (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError)
_RESOLVER_THREADS = 256  # started as they are needed; a name server that hangs holds one per host for some seconds
SITE_THREADS: Final = 16  # of them for the hosts of one domain, which are likely to have one name server

_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*", re.IGNORECASE)
_LOCAL_NAMES: Final = frozenset({"localhost", "localhost.localdomain", "localhost6", "ip6-localhost", "ip6-loopback"})


class AddressRule(Protocol):
    def __call__(self, address: Address, *, public_origin: bool) -> str | None:
        """Why the address must not be contacted, or None."""


@dataclass(frozen=True, slots=True)
class Reach:
    """Where connections may go.

    Attributes:
        refuse: see `core.policy.refuse_address`.
        listed: whether an administrator named a host, "host" or "host:port"; its addresses are exempt.
        proxy_for: the proxy for a URL at a host to which a registry leads, its token service or where it redirects to,
            empty for none; the registry's own is its transport's.
        rules: what the others go by; another object once that has changed. Connections that were opened under other
            rules are not used again.
        authorities: the CA file and certificates of a host to which a registry leads, "host" or "host:port", either of
            them empty for none.
    """

    refuse: AddressRule
    listed: Callable[[str], bool]
    proxy_for: Callable[[URL], str] = lambda _: ""
    rules: Callable[[], object] = lambda: None
    authorities: Callable[[str], tuple[str, str]] = lambda _: ("", "")

    @classmethod
    def of(cls, policy: Policy | Callable[[], Policy], *, proxy_for: Callable[[URL], str] | None = None) -> Self:
        """What a policy says, or the present one where it is replaced; of proxies what `proxy_for` says, if given."""

        def present() -> Policy:
            return policy if isinstance(policy, Policy) else policy()

        def rule_of(host: str) -> HostRule:
            return present().hosts.get(host_named(host), HostRule())

        def listed(host: str) -> bool:
            return rule_of(host).listed

        def authorities(host: str) -> tuple[str, str]:
            rule = rule_of(host)
            return (rule.ca_file, rule.ca)

        def refuse(address: Address, *, public_origin: bool) -> str | None:
            return refuse_address(address, present(), public_origin=public_origin)

        def proxy(url: URL) -> str:
            return policy_proxy_for(present(), url.scheme, url.host or "", url.port or 0)

        return cls(refuse, listed, proxy_for or proxy, present, authorities)


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
    PROXIED = "a proxy opens the connection: only its own address is ever resolved here"


@dataclass(frozen=True, slots=True)
class _Proxy:
    """Where the connections of a host begin; `name` is for messages, `authorization` the login that its URL held."""

    url: URL
    name: str
    authorization: str = field(repr=False)


@dataclass(eq=False, slots=True)
class _Pool:
    """Connections of one strictness. Once `is_retired` it takes no more requests, and closes with its last one."""

    session: aiohttp.ClientSession
    busy: int = 0
    is_retired: bool = False


@dataclass(frozen=True, slots=True)
class _Hop:
    """One request on the way, and whether a public address led to it.

    `name` is what messages call a host that a registry has chosen: its own name could be another each time, or hold
    what the registry was sent. Empty for a host that was known before.
    """

    url: URL
    authorization: str = field(repr=False)
    from_public: bool
    is_first: bool
    name: str = ""

    @property
    def who(self) -> str:
        """The host, for messages."""
        return self.name or self.url.host or ""

    @property
    def where(self) -> str:
        """Host and port, for messages."""
        return self.name or authority_of(self.url)


class _Unfit(Exception):
    """None of a host's addresses may be contacted; `why` is the address rule's word."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class _Crowded(OSError):
    """A name was not looked up: no thread was free for it."""


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
        self._resolver = resolver or _SystemResolver(timeouts.connect / 2)
        self._pools: dict[_Strictness, _Pool] = {}
        self._rules = reach.rules()
        self._certificates = _Certificates(clock)
        self._clock = clock
        self._plain: Recent[str, bool] = Recent(_HOSTS_REMEMBERED, clock=clock, life=_PLAIN_HTTP_LIFE)
        self._public: Recent[str, bool] = Recent(_HOSTS_REMEMBERED, clock=clock)

    async def close(self) -> None:
        for pool in self._pools.values():
            await pool.session.close()
        self._pools.clear()
        await self._resolver.close()

    async def exchange(self, request: Request, transport: Transport, *, cap: int, seconds: float) -> Response:
        """Send a request to the transport's host, or to its token service, and read the answer.

        Args:
            cap: bytes of a good answer; an error's body has a cap of its own.
            seconds: what is left for it; the timeout of a request holds as well.

        Raises:
            Unreachable: no answer; or one of its kinds, Timeout, UnknownName and Untrusted.
            Refused: where it leads must not be contacted.
            TooLarge: a good answer is larger than `cap`.
            InvalidAnswer: what came is no HTTP, compressed, or redirects without end.
        """
        try:
            async with asyncio.timeout(min(seconds, self._timeouts.request)):
                return await self._exchange(request, transport, cap)
        except TimeoutError:
            proxy = self._proxy(request.url, transport, URL(transport.endpoint), request.url.host or "")
            raise Timeout(_late(request.url.host or "", proxy)) from None

    async def _exchange(self, request: Request, transport: Transport, cap: int) -> Response:
        home = URL(transport.endpoint)
        is_home = request.url.host == home.host
        led = not is_home and self._is_public(home.host or "")
        hop = _Hop(request.url, request.authorization, led, is_first=True)
        response = await self._first(hop, request, transport, home, cap)
        way: list[Redirect] = []
        # What a POST holds is for the one it was sent to.
        while response.status in _REDIRECTS and request.method != "POST":
            if len(way) == _MAX_REDIRECTS:
                raise InvalidAnswer(f"{transport.host} redirects more than {_MAX_REDIRECTS} times")
            way.append(Redirect(response.status, response.headers, response.url))
            try:
                hop = self._next(hop, request, response, transport, home)
                response = await self._send(hop, request, transport, home, cap)
            except RegistryError as error:
                if error.sign is Sign.NONE and is_home:
                    error.sign = Sign.ANSWER
                raise
        return replace(response, way=tuple(way)) if way else response

    def _next(self, hop: _Hop, request: Request, response: Response, transport: Transport, home: URL) -> _Hop:
        url = redirect_target(response.url, response.headers.get("Location", ""), hop.who)
        if url.scheme == "http" and url.host != home.host and not self._reach.listed(authority_of(url)):
            raise Refused(f"{transport.host} redirects to another host in plain http")
        return _Hop(
            url,
            hop.authorization if url.origin() == response.url.origin() else "",
            hop.from_public or self._is_public(response.url.host or ""),
            is_first=False,
            name=""
            if authority_of(url) in map(authority_of, (home, request.url))
            else _led_by(request, transport, home),
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
        try:
            return await self._sent(hop, request, transport, home, cap)
        except _Unfit as unfit:
            words = f"{hop.who} is not contacted: it resolves to {unfit.why}, and no administrator lists it"
            raise Refused(words, sign=Sign.NONE) from None

    async def _sent(self, hop: _Hop, request: Request, transport: Transport, home: URL, cap: int) -> Response:
        strictness = self._strictness(hop, transport, home)
        host = hop.url.host or ""
        is_home = host == home.host
        proxy = self._proxy(hop.url, transport, home, hop.who)
        if strictness is not _Strictness.LISTED:
            self._vet(strictness, hop, is_proxied=proxy is not None)
        headers = dict(self._headers)
        if request.accept:
            headers["Accept"] = request.accept
        if request.content_type:
            headers["Content-Type"] = request.content_type
        if hop.authorization:
            headers["Authorization"] = hop.authorization
        context: ssl.SSLContext | bool = False
        if hop.url.scheme == "https":
            authorities = (
                (transport.ca_file, transport.ca) if is_home else self._reach.authorities(authority_of(hop.url))
            )
            verified = not transport.insecure or not is_home
            context = await self._certificates.context(*authorities, verified=verified)
        through: dict[str, str] | None = None
        if proxy is not None:
            strictness, through = _Strictness.PROXIED, {"User-Agent": self._headers["User-Agent"]}
            if proxy.authorization:
                # What is tunnelled is none of the proxy's business, and its login none of the registry's.
                side = through if hop.url.scheme == "https" else headers
                side["Proxy-Authorization"] = proxy.authorization
        attempts = 2 if request.method == "POST" else 1
        while True:
            attempts -= 1
            try:
                async with (
                    self._session(strictness) as session,
                    session.request(
                        request.method,
                        hop.url,
                        headers=headers,
                        data=request.body or None,
                        allow_redirects=False,
                        ssl=context,
                        proxy=proxy.url if proxy else None,
                        proxy_headers=through,
                    ) as answer,
                ):
                    if proxy is not None and answer.status == 407:
                        raise Unreachable(_proxy_answered(proxy, 407, hop.where))
                    body = await _read(answer, cap, hop.who)
                    return Response(answer.status, answer.headers, body, hop.url)
            except (aiohttp.ClientError, TimeoutError, OSError, UnicodeError) as error:
                # An idle connection that the other side has closed meanwhile: the library sends all but a POST again.
                if attempts and isinstance(error, _LOST) and not isinstance(error, aiohttp.ClientConnectorError):
                    continue
                # The library's error holds the request's headers, which are not for a traceback.
                raise _failure(error, hop.where, proxy) from None

    def _proxy(self, url: URL, transport: Transport, home: URL, who: str) -> _Proxy | None:
        text = transport.proxy if url.host == home.host else self._reach.proxy_for(url)
        if not text:
            return None
        proxy = _proxy_of(text)
        if proxy is None:
            raise Refused(
                f"{who} is not contacted: the proxy that is configured for it is not http://host[:port] "
                "or https://host[:port], with or without user:password@",
                sign=Sign.NONE,
            )
        return proxy

    def _vet(self, strictness: _Strictness, hop: _Hop, *, is_proxied: bool) -> None:
        """Judge what a URL itself says. Names are judged when they are resolved; an address never is.

        Raises:
            Refused: it must not be contacted.
            _Unfit: the same, for its address.
        """
        host = hop.url.host or ""
        if why := refuse_port(hop.url.port or 0):
            port = "that port" if hop.name else why
            raise Refused(f"{hop.who} is not contacted at {port}, and no administrator lists it", sign=Sign.NONE)
        if (address := _address(host)) is not None:
            self._vetted(strictness, host, [address])
        elif is_proxied:
            self._vet_name(strictness, host, hop.who)

    def _vet_name(self, strictness: _Strictness, host: str, who: str) -> None:
        """Judge those names of which it is known, without asking a name service, what a proxy would make of them."""
        name = host.rstrip(".").lower()
        if name in _LOCAL_NAMES or name.endswith(".localhost"):
            self._vetted(strictness, host, [ipaddress.IPv4Address("127.0.0.1")])
        elif name == "metadata.google.internal":
            self._vetted(strictness, host, [ipaddress.IPv4Address("169.254.169.254")])
        elif _NUMBER.fullmatch(name.rpartition(".")[2]):
            try:
                address = _address(name) or ipaddress.IPv4Address(socket.inet_aton(name))  # 127.1, 0x7f.1, 2130706433
            except OSError:
                words = f"{who} is not contacted: it is neither a name nor an address"
                raise Refused(words, sign=Sign.NONE) from None
            self._vetted(strictness, host, [address])

    def _strictness(self, hop: _Hop, transport: Transport, home: URL) -> _Strictness:
        if hop.url.host == home.host:
            return _Strictness.LISTED if transport.listed else _Strictness.NAMED
        # A registry may send us to a listed host only if it is listed itself, else a stranger could have us read there;
        # a token service that an administrator listed is asked on any registry's behalf.
        if self._reach.listed(authority_of(hop.url)) and (hop.is_first or transport.listed):
            return _Strictness.LISTED
        return _Strictness.LED if hop.from_public else _Strictness.NAMED

    @contextlib.asynccontextmanager
    async def _session(self, strictness: _Strictness) -> AsyncIterator[aiohttp.ClientSession]:
        if self._reach.rules() is not self._rules:
            await self._retire()
        pool = self._pools.get(strictness)
        if pool is None:
            trusted = await self._certificates.context("", "", verified=True)
            # Another request may have made it meanwhile.
            pool = self._pools.get(strictness) or _Pool(self._new_session(strictness, trusted))
            self._pools[strictness] = pool
        pool.busy += 1
        try:
            yield pool.session
        finally:
            pool.busy -= 1
            if pool.is_retired and not pool.busy:
                await pool.session.close()

    async def _retire(self) -> None:
        """Use no connection again, and no memory of a name: the rules by which they were judged have changed."""
        self._rules = self._reach.rules()
        self._public = Recent(_HOSTS_REMEMBERED, clock=self._clock)
        pools, self._pools = self._pools, {}
        for pool in pools.values():
            pool.is_retired = True
            if not pool.busy:
                await pool.session.close()

    def _new_session(self, strictness: _Strictness, trusted: ssl.SSLContext) -> aiohttp.ClientSession:
        is_proxied = strictness is _Strictness.PROXIED
        connector = (partial(_ProxyConnector, trusted) if is_proxied else aiohttp.TCPConnector)(
            resolver=_VettingResolver(self._resolver, partial(self._vetted, strictness)),
            limit=0,  # the lanes limit what is under way for each host
            keepalive_timeout=75,
            ttl_dns_cache=300,
        )
        return aiohttp.ClientSession(
            connector=connector,
            connector_owner=True,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,
            requote_redirect_url=False,
            timeout=aiohttp.ClientTimeout(total=None, connect=self._timeouts.connect, sock_read=self._timeouts.idle),
        )

    def _vetted(self, strictness: _Strictness, host: str, addresses: list[Address]) -> frozenset[Address]:
        """Those of a host's addresses that may be contacted.

        Raises:
            _Unfit: if that is none.
        """
        self._public.put(host, any(self._reach.refuse(address, public_origin=True) is None for address in addresses))
        if strictness in {_Strictness.LISTED, _Strictness.PROXIED}:
            return frozenset(addresses)
        led = strictness is _Strictness.LED
        verdicts = {address: self._reach.refuse(address, public_origin=led) for address in addresses}
        if verdicts and all(verdicts.values()):
            raise _Unfit(min(verdict for verdict in verdicts.values() if verdict))
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


def _led_by(request: Request, transport: Transport, home: URL) -> str:
    leader = transport.host if request.url.host == home.host else f"the token service of {transport.host}"
    return f"a host that {leader} redirects to"


def redirect_target(url: URL, location: str, who: str) -> URL:
    """Where a Location header leads from `url`; `who` is its host, for messages.

    Raises:
        Refused: it leads from https to plain http.
        InvalidAnswer: it leads nowhere.
    """
    if not location or len(location) > _MAX_LOCATION or any(not "!" <= character <= "~" for character in location):
        raise InvalidAnswer(f"{who} redirects to no usable URL")
    try:
        target = url.join(URL(location, encoded=True))
        host, port = target.host, target.port
    except ValueError:
        raise InvalidAnswer(f"{who} redirects to no usable URL") from None
    is_plain = target.user is None and target.password is None
    if target.scheme not in {"http", "https"} or not host or not port or not is_plain or "\\" in location:
        raise InvalidAnswer(f"{who} redirects to no usable URL")
    if url.scheme == "https" and target.scheme == "http":
        raise Refused(f"{who} redirects from https to plain http")
    return target.with_fragment(None)


async def _read(answer: aiohttp.ClientResponse, cap: int, who: str) -> bytes:
    """The body of what a host sends; empty for an error whose body is larger than errors need."""
    if answer.method == "HEAD":
        return b""
    if answer.headers.get("Content-Encoding", "identity").strip().lower() not in {"", "identity"}:
        answer.close()
        raise InvalidAnswer(f"{who} sends compressed content, which was not asked for")
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
        raise TooLarge(f"{who} sends more than {cap} bytes")
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


def _failure(error: Exception, host: str, proxy: _Proxy | None) -> Unreachable | InvalidAnswer:
    """The library's error in our words, which do not differ from one attempt to the next."""
    if proxy is not None and (failure := _proxy_failure(error, host, proxy)):
        return failure
    match error:
        case TimeoutError():
            return Timeout(_late(host, proxy))
        case aiohttp.ClientConnectorDNSError(os_error=_Crowded()):
            return UnknownName(f"{host} was not looked up: too many other names are", sign=Sign.NONE)
        case (
            aiohttp.ClientConnectorDNSError() | UnicodeError()
        ):  # no name has a label of 64 characters, or an empty one
            return UnknownName(f"{host} is not known to the name service")
        case aiohttp.ClientConnectorCertificateError():
            return Untrusted(_distrust(host, error))
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


def _proxy_failure(error: Exception, host: str, proxy: _Proxy) -> Unreachable | None:
    """The failure of a proxy; None where it is that of the host behind it."""
    who = f"the proxy {proxy.name}"
    match error:
        case aiohttp.ClientHttpProxyError(status=status):
            return Unreachable(_proxy_answered(proxy, status, host))
        case aiohttp.ClientConnectorDNSError(os_error=_Crowded()):
            return Unreachable(f"{who} was not looked up: too many other names are", sign=Sign.NONE)
        case aiohttp.ClientConnectorDNSError():
            return Unreachable(f"{who} is not known to the name service")
        case aiohttp.ClientConnectorCertificateError(host=name, port=port) if _is_at(proxy, name, port):
            return Unreachable(_distrust(who, error))
        case aiohttp.ClientConnectorSSLError(host=name, port=port) if _is_at(proxy, name, port):
            return Unreachable(f"{who} does not speak TLS; write http:// for a proxy in plain http")
        case aiohttp.ClientProxyConnectionError(errno=number):
            return Unreachable(f"{who} {_SOCKET_FAULTS.get(number or 0, 'cannot be connected to')}")
        case _:
            return None


def _is_at(proxy: _Proxy, host: str, port: int | None) -> bool:
    return (proxy.url.host, proxy.url.port) == (host, port)


def _proxy_answered(proxy: _Proxy, status: int, host: str) -> str:
    if status == 407:
        return f"the proxy {proxy.name} wants another login (407); it belongs into the URL of the proxy"
    return f"the proxy {proxy.name} answered {status} when it was asked for {host}"


def _late(host: str, proxy: _Proxy | None) -> str:
    # Whose silence it is cannot always be told.
    return f"{host} did not answer in time" + (f" through the proxy {proxy.name}" if proxy else "")


def _distrust(who: str, error: Exception) -> str:
    code = getattr(getattr(error, "certificate_error", None), "verify_code", 0)
    return f"the certificate of {who} is not trusted: {_CERTIFICATE_FAULTS.get(code, 'it cannot be verified')}"


@lru_cache(maxsize=64)
def _proxy_of(text: str) -> _Proxy | None:
    try:
        url = URL(text)
        host, port = url.host, url.port
    except ValueError:
        return None
    user, password = url.user or "", url.password or ""
    if url.scheme not in {"http", "https"} or not host or not port or ":" in user:
        return None
    bare = url.origin()
    login = base64.b64encode(f"{user}:{password}".encode()).decode() if user or password else ""
    return _Proxy(bare, authority_of(bare), f"Basic {login}" if login else "")


def _address(host: str) -> Address | None:
    # Only the last label of a name can tell it from an IPv4 address, and most hosts are names.
    if not host or not (host[-1].isdigit() or ":" in host):
        return None
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


class _ProxyConnector(aiohttp.TCPConnector):
    """Verifies a proxy's own certificate also where that of the host behind it does not count: a login may go there."""

    def __init__(self, trusted: ssl.SSLContext, **options: Any) -> None:
        super().__init__(**options)
        self._trusted = trusted

    def _get_ssl_context(self, req: ClientRequest) -> ssl.SSLContext | None:
        context = super()._get_ssl_context(req)
        # The request that opens the connection to a proxy is the one without a proxy of its own.
        if req.proxy is None and context is not None and context.verify_mode is ssl.CERT_NONE:
            return self._trusted
        return context


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
    A thread is taken until the name service has answered, also where nobody waits for that any more.

    Args:
        patience: seconds to wait for a thread. It is shorter than the time for a connection: then it is not the host
            that is late.
    """

    def __init__(self, patience: float) -> None:
        self._threads = ThreadPoolExecutor(_RESOLVER_THREADS, thread_name_prefix="resolver")
        self._patience = patience
        self._free = _RESOLVER_THREADS
        self._taken: Counter[str] = Counter()  # by site
        self._waiting: dict[asyncio.Future[None], str] = {}  # whom to give a thread, and for which site, oldest first

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        site = _site(host)
        await self._take(site)
        flags = socket.AI_ADDRCONFIG
        asked = self._threads.submit(socket.getaddrinfo, host, port, family, socket.SOCK_STREAM, flags=flags)
        asked.add_done_callback(partial(self._answered, asyncio.get_running_loop(), site))
        found = await asyncio.wrap_future(asked)
        flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        return [
            ResolveResult(hostname=host, host=str(address[0]), port=port, family=kind, proto=protocol, flags=flags)
            for kind, _, protocol, _, address in found
        ]

    async def _take(self, site: str) -> None:
        """Take a thread.

        Raises:
            _Crowded: none is free in time.
        """
        if self._has_room(site):
            self._free -= 1
            self._taken[site] += 1
            return
        given: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[given] = site
        try:
            async with asyncio.timeout(self._patience):
                await given
        except BaseException as error:
            if self._waiting.pop(given, None) is None:  # it was given, and nobody is there to use it
                self._give_back(site)
            if isinstance(error, TimeoutError):
                raise _Crowded from None
            raise

    def _has_room(self, site: str) -> bool:
        return self._free > 0 and self._taken[site] < SITE_THREADS

    def _answered(self, loop: asyncio.AbstractEventLoop, site: str, _: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed, and with it the need
            loop.call_soon_threadsafe(self._give_back, site)

    def _give_back(self, site: str) -> None:
        self._free += 1
        self._taken[site] -= 1
        if not self._taken[site]:
            del self._taken[site]
        for given, wanted in tuple(self._waiting.items()):
            if self._has_room(wanted):
                self._free -= 1
                self._taken[wanted] += 1
                del self._waiting[given]
                given.set_result(None)
                return

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def _site(host: str) -> str:
    """Whose name server is asked: a guess by the last two labels."""
    return ".".join(host.lower().rstrip(".").split(".")[-2:])


_Authorities = tuple[str, str]  # a file and a PEM text


class _Certificates:
    """TLS contexts, made once for each CA file and again when the file has changed.

    Making one takes tens of milliseconds, so it happens in a thread; requests that wait for the same one share it.
    """

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._contexts: Recent[_Authorities, tuple[tuple[int, int], ssl.SSLContext]] = Recent(1024, clock=clock)
        self._checked: Recent[_Authorities, ssl.SSLContext] = Recent(1024, clock=clock, life=_CA_FILE_LIFE)
        self._unverified: ssl.SSLContext | None = None
        self._lock = asyncio.Lock()

    async def context(self, ca_file: str, ca: str, *, verified: bool) -> ssl.SSLContext:
        """For the system's authorities and those of a file and of a PEM text, both of which may be empty.

        Raises:
            Untrusted: they cannot be read.
        """
        if not verified:
            self._unverified = self._unverified or _unverified_context()
            return self._unverified
        key = (ca_file, ca)
        context = self._checked.get(key)
        if context is None:
            async with self._lock:
                context = self._checked.get(key) or await self._fresh(key)
                self._checked.put(key, context)
        return context

    async def _fresh(self, key: _Authorities) -> ssl.SSLContext:
        ca_file, ca = key
        try:
            stamp = await asyncio.to_thread(_stamp, ca_file)
            known = self._contexts.get(key)
            if known and known[0] == stamp:
                return known[1]
            context = await asyncio.to_thread(_verified_context, ca_file, ca)
        except (OSError, ValueError, TypeError):
            what = "CA file that is" if ca_file else "CA certificates that are"
            raise Untrusted(f"the {what} configured for the host cannot be read", sign=Sign.NONE) from None
        self._contexts.put(key, (stamp, context))
        return context


def _stamp(ca_file: str) -> tuple[int, int]:
    if not ca_file:
        return (0, 0)
    status = Path(ca_file).stat()
    return (status.st_mtime_ns, status.st_size)


def _verified_context(ca_file: str, ca: str) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if ca_file:
        context.load_verify_locations(ca_file)
    if ca:
        context.load_verify_locations(cadata=ca)
    context.set_alpn_protocols(["http/1.1"])
    return context


def _unverified_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    return context
