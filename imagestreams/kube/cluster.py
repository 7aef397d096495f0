"""Requests to one API server: bytes in, bytes out, and an error tree.

One aiohttp session of our own (the library's costs five times as much per call and never times out). Every answer is
read up to a limit and every request but a watch has a total timeout. Nothing is retried here except once after a 401
with renewed credentials: whoever asks knows whether the question still matters.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

import aiohttp
import msgspec
from yarl import URL

import imagestreams
from imagestreams.kube.access import Access, ConfigurationError, read_at_most, source_of
from imagestreams.kube.errors import (
    MAX_MESSAGE,
    AlreadyExists,
    ApiError,
    Conflict,
    Forbidden,
    Gone,
    Invalid,
    InvalidAnswer,
    NotFound,
    TooLarge,
    TooManyRequests,
    Unauthorized,
    Unavailable,
    Unreachable,
    Untrusted,
    decoded,
    error_of,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping

    from imagestreams.kube.access import Endpoint

__all__ = [
    "JSON",
    "JSON_PATCH",
    "MERGE_PATCH",
    "METADATA",
    "METADATA_LIST",
    "AlreadyExists",
    "ApiError",
    "Cluster",
    "ConfigurationError",
    "Conflict",
    "Forbidden",
    "Gone",
    "Invalid",
    "InvalidAnswer",
    "NotFound",
    "Pager",
    "RawPage",
    "TooLarge",
    "TooManyRequests",
    "Unauthorized",
    "Unavailable",
    "Unreachable",
    "api_path",
    "decoded",
    "error_of",
    "split_page",
]

JSON: Final = "application/json"
MERGE_PATCH: Final = "application/merge-patch+json"
JSON_PATCH: Final = "application/json-patch+json"
METADATA: Final = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
METADATA_LIST: Final = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"

REQUEST_TIMEOUT: Final = 30.0
CONNECT_TIMEOUT: Final = 10.0
MAX_BODY: Final = 8 << 20
MAX_PAGE: Final = 32 << 20
MAX_LINE: Final = 16 << 20
PAGE_ITEMS: Final = 500
_PART = re.compile(r"[A-Za-z0-9._:@~+-]+")  # all that a name can need, and nothing at which a path is split
_PAGE_GOAL = 4 << 20  # bytes
_MAX_ERROR_BODY = 64 << 10


def api_path(group_version: str, resource: str, namespace: str = "", name: str = "", subresource: str = "") -> str:
    """The path of a collection, an object or a subresource.

    Args:
        group_version: "v1" or "apps/v1".
        namespace: empty for cluster-wide.

    Raises:
        ValueError: a part could lead elsewhere. Names can come from tenants, and the API server decodes a path before
            it splits it.
    """
    group, _, version = group_version.rpartition("/")
    parts = ["apis", group, version] if group else ["api", version]
    parts += ["namespaces", namespace] if namespace else []
    parts += [part for part in (resource, name, subresource) if part]
    for part in parts:
        if part in {".", ".."} or not _PART.fullmatch(part):
            raise ValueError(f"{part!r} cannot be part of an API path")
    return "/" + "/".join(parts)


class ListMetadata(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """What a page says of itself; `continue_` is empty on the last."""

    resource_version: str = ""
    continue_: str = msgspec.field(name="continue", default="")


class RawPage(msgspec.Struct, frozen=True):
    """One page of a list, its objects not decoded."""

    metadata: ListMetadata
    items: list[msgspec.Raw] | None = None  # Go may write an empty list as null


_LIST = msgspec.json.Decoder(RawPage)


def split_page(body: bytes, what: str) -> RawPage:
    """The objects of a page, still as bytes.

    Raises:
        InvalidAnswer: it is no list.
    """
    return decoded(_LIST, body, what)


class _Named(msgspec.Struct, frozen=True, gc=False):
    name: str


class _Resources(msgspec.Struct, frozen=True):
    resources: list[_Named] | None = None


class _ApiServiceSpec(msgspec.Struct, frozen=True):
    service: dict[str, object] | None = None


class _ApiService(msgspec.Struct, frozen=True):
    spec: _ApiServiceSpec


class _UserInfo(msgspec.Struct, frozen=True):
    username: str


class _SelfStatus(msgspec.Struct, frozen=True, rename="camel"):
    user_info: _UserInfo


class _SelfReview(msgspec.Struct, frozen=True):
    status: _SelfStatus


_SELF = msgspec.json.Decoder(_SelfReview)


class Cluster:
    """One API server. Make it with `connect`, end it with `close`.

    Args:
        access: loaded.
        on_request: told after each request: verb (get, list, watch, create, update, patch, delete), resource ("pods",
            "pods/status", or "" for discovery) and HTTP status, 0 where there was no answer. Verbs and resources are
            our own words: a closed set of labels.
        now: Unix time, by our clock.

    Attributes:
        on_date: told the Date of each answer that is no error, and when it was asked for and came, by `now`. Errors may
            be of somebody between us and the API server.
    """

    def __init__(
        self,
        access: Access,
        *,
        on_request: Callable[[str, str, int], None] | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._access = access
        self._on_request = on_request
        self._now = now
        self.on_date: Callable[[str, float, float], object] | None = None
        self._session = aiohttp.ClientSession(
            # No limit of connections: workers are few, and a lease's renewal must not queue behind them.
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=60, socket_factory=_watched_socket),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,  # it would send every request through a thread to look for proxies
            auto_decompress=False,
            read_bufsize=1 << 20,
            # Identity: inside a cluster bytes are cheaper than the CPU of both sides, and nothing can swell.
            headers={"User-Agent": f"imagestreams/{imagestreams.__version__}", "Accept-Encoding": "identity"},
        )

    @classmethod
    async def connect(
        cls,
        kubeconfig: str | None = None,
        context: str | None = None,
        *,
        environ: Mapping[str, str] = os.environ,
        clock: Callable[[], float] = time.monotonic,
        on_request: Callable[[str, str, int], None] | None = None,
        now: Callable[[], float] = time.time,
    ) -> Self:
        """Read the configuration; nothing is asked of the API server yet.

        Args:
            kubeconfig: a path, or several joined as in KUBECONFIG. If neither it nor `context` is given, the pod's
                service account is used in a pod.

        Raises:
            ConfigurationError: there is none, or it is not usable.
        """
        access = Access(source_of(kubeconfig, context, environ=environ, clock=clock), clock=clock)
        await access.load()
        return cls(access, on_request=on_request, now=now)

    @property
    def url(self) -> str:
        """The API server's address, as its configuration names it."""
        return self._access.endpoint.url

    async def close(self) -> None:
        await self._session.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"Cluster({self.url})"

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: bytes | None = None,
        content_type: str = JSON,
        accept: str = JSON,
        timeout: float = REQUEST_TIMEOUT,
        limit: int = MAX_BODY,
    ) -> bytes:
        """The body of a 2xx answer.

        Args:
            path: as `api_path` makes it.
            timeout: seconds for all of it.
            limit: bytes of the answer.

        Raises:
            ApiError: anything else.
        """
        limits = aiohttp.ClientTimeout(total=timeout, sock_connect=CONNECT_TIMEOUT)
        request = _Request(_verb(method, path), method, path, params, limits, accept, body, content_type)
        async with self._answer(request) as response:
            try:
                return await read_at_most(response, limit)
            except (aiohttp.ClientError, OSError) as error:
                raise _unreachable(error, request) from error
            except ValueError as error:
                raise TooLarge(f"{request}: {error}") from error

    async def get(
        self, path: str, params: Mapping[str, str] | None = None, *, accept: str = JSON, limit: int = MAX_BODY
    ) -> bytes:
        return await self.request("GET", path, params=params, accept=accept, limit=limit)

    async def post(
        self, path: str, body: bytes, *, params: Mapping[str, str] | None = None, field_manager: str = ""
    ) -> bytes:
        return await self.request("POST", path, params=_managed(params, field_manager), body=body)

    async def put(
        self, path: str, body: bytes, *, params: Mapping[str, str] | None = None, field_manager: str = ""
    ) -> bytes:
        return await self.request("PUT", path, params=_managed(params, field_manager), body=body)

    async def patch(
        self,
        path: str,
        body: bytes,
        content_type: str = MERGE_PATCH,
        *,
        field_manager: str = "",
        params: Mapping[str, str] | None = None,
        timeout: float = REQUEST_TIMEOUT,
    ) -> bytes:
        return await self.request(
            "PATCH", path, params=_managed(params, field_manager), body=body, content_type=content_type, timeout=timeout
        )

    async def delete(self, path: str, *, body: bytes | None = None, params: Mapping[str, str] | None = None) -> bytes:
        """Delete an object. `body` is a DeleteOptions, for instance with preconditions."""
        return await self.request("DELETE", path, params=params, body=body)

    async def objects(
        self, path: str, *, params: Mapping[str, str] | None = None, accept: str = JSON
    ) -> AsyncGenerator[bytes]:
        """The objects of a list, fetched page by page.

        Raises:
            Gone: it has taken so long that the server no longer has the list's snapshot; start again.
        """
        pager = Pager(self, path, params=params, accept=accept)
        continue_ = ""
        while True:
            page = split_page(await pager.fetch(continue_), path)
            for item in page.items or ():
                yield bytes(item)
            continue_ = page.metadata.continue_
            if not continue_:
                return

    @contextlib.asynccontextmanager
    async def open_watch(
        self, path: str, *, params: Mapping[str, str], accept: str = JSON, read_timeout: float
    ) -> AsyncIterator[AsyncIterator[list[bytes]]]:
        """A watch's lines, in batches as they arrive; the iterator ends when the server ends the watch.

        Args:
            params: resourceVersion, selectors and so on; `watch` is added.
            read_timeout: seconds without a byte after which the connection is given up.

        Raises:
            ApiError: on opening, or from the iterator.
        """
        limits = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT, sock_read=read_timeout)
        request = _Request("watch", "GET", path, {**params, "watch": "true"}, limits, accept)
        async with self._answer(request) as response, contextlib.aclosing(_lines(response, request)) as lines:
            yield lines

    async def serves(self, group_version: str, resource: str) -> bool:
        """Does the API server serve this resource ("imagestreams") in this group and version?"""
        try:
            body = await self.get(api_path(group_version, "") if "/" in group_version else f"/api/{group_version}")
        except NotFound:
            return False
        found = decoded(msgspec.json.Decoder(_Resources), body, group_version)
        return any(each.name == resource for each in found.resources or ())

    async def aggregated(self, group: str, version: str = "v1") -> bool:
        """Is the group served by another API server behind this one (on OpenShift image.openshift.io is), and not by
        CRDs?
        """
        try:
            body = await self.get(api_path("apiregistration.k8s.io/v1", "apiservices", name=f"{version}.{group}"))
        except NotFound:
            return False
        return decoded(msgspec.json.Decoder(_ApiService), body, "apiservices").spec.service is not None

    async def whoami(self) -> str:
        """The user name by which the API server knows us."""
        review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
        path = api_path("authentication.k8s.io/v1", "selfsubjectreviews")
        answer = decoded(_SELF, await self.post(path, msgspec.json.encode(review)), "selfsubjectreviews")
        return answer.status.user_info.username

    @contextlib.asynccontextmanager
    async def _answer(self, request: _Request) -> AsyncIterator[aiohttp.ClientResponse]:
        """A 2xx answer whose body is still to be read."""
        generation = self._access.generation
        try:
            response = await self._send(request)
        except (Unauthorized, Untrusted):
            if not await self._access.renew(generation):
                raise
            response = await self._send(request)
        try:
            yield response
        finally:
            # With bytes left unread, as of a watch, the connection is of no more use; closing it politely would wait
            # for the other side, and outlive us. Else it is used again.
            connection = response.connection
            if connection is not None and connection.transport is not None:
                connection.transport.abort()
            response.release()

    async def _send(self, request: _Request) -> aiohttp.ClientResponse:
        endpoint = self._access.endpoint
        headers = {"Accept": request.accept}
        if request.body is not None:
            headers["Content-Type"] = request.content_type
        if credential := await self._access.authorization():
            headers["Authorization"] = credential
        status, sent = 0, self._now()
        try:
            response = await self._session.request(
                request.method,
                _url(endpoint, request),
                data=request.body,
                headers=headers,
                timeout=request.timeout,
                allow_redirects=False,  # a credential goes nowhere else
                ssl=endpoint.tls or True,
                server_hostname=endpoint.server_name,
                proxy=endpoint.proxy,
            )
            status = response.status
            if 200 <= status < 300:
                if self.on_date and "Age" not in response.headers:  # else it is the date of something kept
                    self.on_date(response.headers.get("Date", ""), sent, self._now())
                return response
            async with response:
                raise await _error(response, request)
        except (aiohttp.ClientError, OSError) as error:
            raise _unreachable(error, request) from error
        finally:
            if self._on_request:
                self._on_request(request.verb, _resource(request.path), status)


class Pager:
    """Fetches the pages of one list; whoever decodes them says where the next one begins.

    A page has at most 500 objects, and fewer where objects are large: decoding it must not hold up the loop, and
    whoever may write large objects must not fill our memory.
    """

    def __init__(
        self, cluster: Cluster, path: str, *, params: Mapping[str, str] | None = None, accept: str = JSON
    ) -> None:
        self._cluster = cluster
        self._path = path
        self._params = params or {}
        self._accept = accept
        self._limit = PAGE_ITEMS

    async def fetch(self, continue_: str = "") -> bytes:
        """A page's bytes.

        Args:
            continue_: of the page before; empty for the first.
        """
        while True:
            params = {**self._params, "limit": str(self._limit)} | ({"continue": continue_} if continue_ else {})
            try:
                body = await self._cluster.get(self._path, params, accept=self._accept, limit=MAX_PAGE)
            except TooLarge:
                if self._limit == 1:
                    raise
                self._limit = max(1, self._limit // 8)
            else:
                self._limit = max(1, min(PAGE_ITEMS, self._limit * _PAGE_GOAL // max(1, len(body))))
                return body


@dataclass(frozen=True, slots=True)
class _Request:
    verb: str
    method: str
    path: str
    params: Mapping[str, str] | None
    timeout: aiohttp.ClientTimeout
    accept: str = JSON
    body: bytes | None = None
    content_type: str = JSON

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


def _url(endpoint: Endpoint, request: _Request) -> URL:
    url = URL(endpoint.url + request.path, encoded=True)
    return url.with_query(request.params) if request.params else url


def _managed(params: Mapping[str, str] | None, field_manager: str) -> Mapping[str, str] | None:
    return {**(params or {}), "fieldManager": field_manager} if field_manager else params


async def _error(response: aiohttp.ClientResponse, request: _Request) -> ApiError:
    try:
        body = await read_at_most(response, _MAX_ERROR_BODY)
    except ValueError:
        body = b""
    return error_of(response.status, body, retry_after=response.headers.get("Retry-After", ""), what=str(request))


def _unreachable(error: Exception, request: _Request) -> Unreachable:
    words = "timed out" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
    untrusted = isinstance(error, aiohttp.ClientConnectorCertificateError)
    return (Untrusted if untrusted else Unreachable)(f"{request}: {words}"[:MAX_MESSAGE], reason="Unreachable")


async def _lines(response: aiohttp.ClientResponse, request: _Request) -> AsyncGenerator[list[bytes]]:
    partial: list[bytes] = []
    size = 0
    while chunk := await _chunk(response, request):
        *complete, rest = chunk.split(b"\n")
        if complete:
            complete[0] = b"".join((*partial, complete[0]))
            partial.clear()
            size = 0
            yield [line for line in complete if line]
            # Where the server is faster than we are, reading never waits.
            await asyncio.sleep(0)
        if rest:
            partial.append(rest)
            size += len(rest)
        if size > MAX_LINE:
            raise TooLarge(f"{request}: a line has more than {MAX_LINE} bytes")
    # What is left of a line is no loss: its event comes again when the watch goes on from the last one seen.


async def _chunk(response: aiohttp.ClientResponse, request: _Request) -> bytes:
    try:
        return await response.content.readany()
    except (aiohttp.ClientError, OSError) as error:  # TimeoutError is an OSError
        raise _unreachable(error, request) from error


def _verb(method: str, path: str) -> str:
    verb = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}.get(method, "get")
    return "list" if verb == "get" and _resource(path) and not _is_object(path) else verb


def _split(path: str) -> list[str]:
    """Resource, name and subresource of a path, as far as it has them."""
    parts = path.split("/")[1:]
    parts = parts[2:] if parts[0] == "api" else parts[3:]
    is_within_namespace = len(parts) > 2 and parts[0] == "namespaces" and parts[2] not in {"status", "finalize"}
    return parts[2:] if is_within_namespace else parts


def _resource(path: str) -> str:
    parts = _split(path)
    return "/".join((parts[0], *parts[2:3])) if parts else ""


def _is_object(path: str) -> bool:
    return len(_split(path)) > 1


def _watched_socket(address: tuple[int, int, int, str, tuple[Any, ...]]) -> socket.socket:
    """A socket that notices within half a minute that its peer is gone: a watch may be silent for minutes, and a lost
    node sends no FIN.
    """
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3), ("TCP_USER_TIMEOUT", 30_000)):
        if option := getattr(socket, name, None):  # not everywhere outside Linux
            made.setsockopt(socket.IPPROTO_TCP, option, value)
    return made
