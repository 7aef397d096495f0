"""A small synchronous client of the Kubernetes API: one connection, the few calls that a command makes, kubectl's words
for what goes wrong.

It stands on http.client and ssl, so that a command starts in a tenth of a second; the controller has its own client.
"""

from __future__ import annotations

import binascii
import http.client
import os
import re
import select
import socket
import ssl
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar
from urllib.parse import quote, unquote, urlencode, urlsplit

import msgspec

from imagestreams import __version__
from imagestreams.cli.kubeconfig import Credentials, KubeconfigError
from imagestreams.settings import GROUPS, VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from imagestreams.cli.kubeconfig import Access

T = TypeVar("T")

_MAX_ANSWER: Final = 16 << 20  # bytes; etcd takes 1.5 MiB an object
_CONNECT_TIMEOUT: Final = 30.0  # seconds; client-go's
_BUSY_TRIES: Final = 5
_LONGEST_PAUSE: Final = 10.0  # seconds that a busy server may tell us to wait
_PAGE: Final = 500  # objects of a list at a time, as kubectl asks for them
_MOST_PAGES: Final = 2000
_MOST_WARNINGS: Final = 20  # lines of one command

JSON: Final = "application/json"
MERGE: Final = "application/merge-patch+json"
JSON_PATCH: Final = "application/json-patch+json"
METADATA_LIST: Final = f"{JSON};as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"


class ApiError(Exception):
    """A call failed; the text is the whole line to print.

    ApiError
    ├── Refused       the server answered, and said no; see `status` and `reason`
    ├── Unreachable   no answer: DNS, refused, TLS, timeout, broken off    may be tried again
    │   └── TooLarge  more than is read at once                            less may be asked for
    ├── NotInstalled  the server has no ImageStreams, or none of the API group that was asked for
    └── Ambiguous     it has those of two API groups, and nobody said which are to be written
    """


class Refused(ApiError):
    """The server's Status object: HTTP status, machine-readable reason, message for people.

    `rest` goes on with a collection whose pages have expired (410).
    `was_repeated` says that the request had been sent before, and the answer to that was lost: what is refused may be
    refused because it was done the first time.
    """

    def __init__(self, status: int, reason: str, message: str, *, was_repeated: bool = False, rest: str = "") -> None:
        self.status, self.reason, self.message = status, reason, message
        self.was_repeated, self.rest = was_repeated, rest
        super().__init__(_refusal(status, reason, message))


class Unreachable(ApiError):
    pass


class TooLarge(Unreachable):
    pass


class NotInstalled(ApiError):
    pass


class Ambiguous(ApiError):
    pass


def _refusal(status: int, reason: str, message: str) -> str:
    if status == http.client.UNAUTHORIZED:
        return f"error: You must be logged in to the server ({message or 'Unauthorized'})"
    return f"Error from server ({reason}): {message}" if reason else f"Error from server: {message}"


class _PageMetadata(msgspec.Struct, frozen=True):
    continue_: str = msgspec.field(default="", name="continue")


class _Status(msgspec.Struct, frozen=True):
    """metav1.Status, as far as people are told of it."""

    kind: str = ""
    metadata: _PageMetadata | None = None
    reason: str | None = None
    message: str | None = None


class _Event(msgspec.Struct, frozen=True):
    type: str
    object: msgspec.Raw = msgspec.Raw(b"{}")


class _NamedResource(msgspec.Struct, frozen=True):
    name: str


class _ResourceList(msgspec.Struct, frozen=True):
    resources: tuple[_NamedResource, ...] | None = None


class _Page(msgspec.Struct, frozen=True):
    metadata: _PageMetadata = _PageMetadata()


class _Named(msgspec.Struct, frozen=True):
    metadata: _NamedResource


class _Names(msgspec.Struct, frozen=True):
    items: tuple[_Named, ...] | None = None


class _Items(msgspec.Struct, frozen=True):
    items: tuple[msgspec.Raw, ...] | None = None  # Go writes an empty list as null


@dataclass(frozen=True, slots=True)
class Resource:
    """One kind of objects of an API group: `imagestreams`, if none is named. The group "" is the core's."""

    group: str
    plural: str = "imagestreams"
    version: str = VERSION

    def of(self, plural: str) -> Resource:
        """Another kind of the same group and version."""
        return Resource(self.group, plural, self.version)

    @property
    def api(self) -> str:
        """The group's URL path, without a slash at the end."""
        return f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"

    @property
    def singular(self) -> str:
        return self.plural.removesuffix("s")

    def path(self, namespace: str, name: str = "") -> str:
        """The URL path of an object, or of the collection. Without a namespace: of a kind that has none, or of all of
        them.
        """
        within = f"/namespaces/{quote(namespace, safe='')}" if namespace else ""
        tail = f"/{quote(name, safe='')}" if name else ""
        return f"{self.api}{within}/{self.plural}{tail}"

    def named(self, name: str) -> str:
        """As `-o name` prints it."""
        return f"{self.singular}.{self.group}/{name}" if self.group else f"{self.singular}/{name}"


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """A change, as the server tells it: `kind` is ADDED, MODIFIED, DELETED, BOOKMARK; `body` the object's JSON."""

    kind: str
    body: bytes


class Client:
    """One server, one identity, one connection; not for threads.

    Args:
        access: from `kubeconfig.load`.
        request_timeout: seconds that the server may be silent; None: as long as it likes.
        sleep: waits some seconds; used when the server is busy and says when to come back.
        group: the API group whose ImageStreams are meant; empty: the one that the server has.
        log: takes a line on each request: method, URL, status, milliseconds; never a header or a body.
        warn: takes each different warning that the server sends with its answers; of strangers, as it came.
    """

    def __init__(
        self,
        access: Access,
        *,
        request_timeout: float | None = None,
        sleep: Callable[[float], None] = time.sleep,
        group: str = "",
        log: Callable[[str], None] | None = None,
        warn: Callable[[str], None] | None = None,
    ) -> None:
        self._access = access
        self._timeout = request_timeout
        self._sleep = sleep
        self._log, self._warn = log, warn
        self._group, self._is_ambiguous = group, False
        self._warned: set[str] = set()
        self._credentials: Credentials | None = None
        self._connection: http.client.HTTPConnection | None = None
        parts = urlsplit(access.server)
        self._prefix = parts.path
        self._host = f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)
        self._shown = f"{parts.scheme}://{self._host}{parts.path}"  # without a password that the URL may hold

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def get(self, path: str, *, timeout: float | None = None, accept: str = JSON) -> bytes:
        """Fetch. `timeout` (seconds) limits the server's silence further than the client's own limit does."""
        return self._call("GET", path, timeout=timeout, headers={"Accept": accept})

    def patch(self, path: str, body: bytes, content_type: str = MERGE) -> bytes:
        """Change parts. Of a merge patch (RFC 7396), a `metadata.resourceVersion` in it makes the server refuse one
        that comes late.
        """
        return self._call("PATCH", path, body, {"Content-Type": content_type})

    def post(self, path: str, body: bytes, *, timeout: float | None = None) -> bytes:
        """Create. It is sent once: what becomes of it after a broken connection, nobody knows."""
        return self._call("POST", path, body, {"Content-Type": JSON}, timeout=timeout)

    def pages(self, path: str, params: Mapping[str, str] | None = None, *, accept: str = JSON) -> Iterator[bytes]:
        """A collection, at most 500 objects at a time: the JSON of each page, a list object. Where so many are too
        large, fewer at a time.

        Of a collection that changes so fast that its pages expire, the rest is as it is by then.

        Raises:
            Refused: also where the server does not say how to go on after that (410 Expired).
        """
        token, limit, asked = "", _PAGE, 0
        for _ in range(_MOST_PAGES):
            try:
                page, limit = self._page(path, params or {}, accept, limit, token)
            except Refused as refused:
                if refused.status != http.client.GONE or not refused.rest:
                    raise
                token = refused.rest
                continue
            asked += limit
            yield page
            token = _decode(page, _Page).metadata.continue_
            if not token:
                return
        raise Unreachable(f"error: {path} has more than {asked} objects")

    def _page(
        self, path: str, params: Mapping[str, str], accept: str, limit: int, token: str = ""
    ) -> tuple[bytes, int]:
        """A page, and how many objects it was asked for: as many as fit into one answer."""
        while True:
            query = {**params, "limit": str(limit), **({"continue": token} if token else {})}
            try:
                return self.get(f"{path}?{urlencode(query)}", accept=accept), limit
            except TooLarge:
                if limit == 1:
                    raise
                limit = max(1, limit // 4)

    def items(self, path: str, params: Mapping[str, str] | None = None, *, accept: str = JSON) -> list[bytes]:
        """All objects of a collection, each one's JSON. One whose pages expire is asked for as a whole, where the
        server knows no other way.
        """
        try:
            pages = list(self.pages(path, params, accept=accept))
        except Refused as refused:
            if refused.status != http.client.GONE:
                raise
            query = f"?{urlencode(params)}" if params else ""
            pages = [self.get(f"{path}{query}", accept=accept)]
        return [bytes(item) for page in pages for item in _decode(page, _Items).items or ()]

    def first_items(self, path: str, most: int) -> list[bytes]:
        """Some objects of a collection, and no second page."""
        page, _ = self._page(path, {}, JSON, most)
        return [bytes(item) for item in _decode(page, _Items).items or ()]

    def first_names(self, path: str, most: int) -> list[str]:
        """The names of some objects of a collection; only metadata is fetched."""
        page, _ = self._page(path, {}, METADATA_LIST, most)
        return [item.metadata.name for item in _decode(page, _Names).items or ()]

    def serves(self, group_version: str, plural: str) -> bool:
        """Whether the server has this kind; `group_version` as in apiVersion."""
        return plural in self.kinds_of(group_version)

    def kinds_of(self, group_version: str) -> frozenset[str]:
        """The plural names of what the server has in a group and version; none where it has no such group."""
        try:
            body = self.get(f"/apis/{group_version}" if "/" in group_version else f"/api/{group_version}")
        except Refused as refused:
            if refused.status != http.client.NOT_FOUND:
                raise
            return frozenset()
        return frozenset(resource.name for resource in _decode(body, _ResourceList).resources or ())

    def image_streams(self) -> Resource:
        """The group that serves ImageStreams here, or the one that was asked for.

        Where both do and nobody said which, ours is read, the one that only we install: the other may be OpenShift's
        own. Nothing can be written to either from then on.

        Raises:
            NotInstalled: neither does.
        """
        wanted = [group for group in reversed(GROUPS) if self._group in {"", group}]
        served = [group for group in wanted if self.serves(f"{group}/{VERSION}", "imagestreams")]
        if not served and self._group:
            raise NotInstalled(
                f"error: the server at {self._access.server} has no ImageStreams of the API group {self._group}: leave "
                "--api-group (IMAGESTREAMS_API_GROUP) out, or name the group that it has"
            )
        if not served:
            raise NotInstalled(
                f"error: the server at {self._access.server} has no ImageStreams: their CRDs are not installed "
                f"(kubectl apply -k crds), or {self._access.origin} is not the cluster you mean"
            )
        if len(served) > 1:
            self._is_ambiguous = True
            self._pass_on(
                f"the server has ImageStreams of two API groups; these are those of {served[0]}, and those of "
                f"{served[1]} are seen with --api-group={served[1]}"
            )
        return Resource(served[0])

    def _refuse_to_guess(self, method: str, path: str) -> None:
        if self._is_ambiguous and method != "GET" and path.startswith(tuple(f"/apis/{group}/" for group in GROUPS)):
            raise Ambiguous(
                f"error: the server has ImageStreams of two API groups, {' and '.join(GROUPS)}, so nothing is written; "
                "say which are meant: --api-group=GROUP, or IMAGESTREAMS_API_GROUP=GROUP in the environment"
            )

    def watch(self, path: str, name: str, version: str, timeout: float | None) -> Iterator[WatchEvent]:
        """The changes of one object of the collection at `path`, after `version`, for at most `timeout` seconds.

        Ends when the server ends it, which it may do at any time, or when the time is up.

        Raises:
            Refused: watching is not allowed, or `version` is too old (410).
        """
        query = {
            "watch": "1",
            "fieldSelector": f"metadata.name={name}",
            "resourceVersion": version,
            "timeoutSeconds": str(max(1, int(timeout)) if timeout is not None else 300),
        }
        response = self._open("GET", f"{path}?{urlencode(query)}", timeout=timeout if timeout is not None else 330.0)
        # The stream has this connection for itself; other calls may be made meanwhile, on another.
        connection, self._connection = self._connection, None
        try:
            while line := response.readline(_MAX_ANSWER):
                event = _decode(line, _Event)
                if event.type == "ERROR":
                    raise _refused(http.client.GONE, bytes(event.object))
                yield WatchEvent(event.type, bytes(event.object))
        except TimeoutError:
            return
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from error
        finally:
            if connection is not None:
                connection.close()

    def _call(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        timeout: float | None = None,
    ) -> bytes:
        response = self._open(method, path, body, headers, timeout=timeout)
        try:
            return self._read(response)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise self._unreachable(error) from error

    def _open(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        timeout: float | None = None,
    ) -> http.client.HTTPResponse:
        """Send, and return the answer's head if it is a success.

        Once more with fresh credentials after 401, and some times more when the server is busy and says until when.
        """
        self._refuse_to_guess(method, path)
        busy, is_renewed, was_repeated = 0, False, False
        while True:
            began = time.monotonic()
            response, is_repeated = self._send(method, path, body, headers or {}, timeout)
            was_repeated = was_repeated or is_repeated
            self._tell(method, path, response, began)
            if response.status < 300:
                return response
            pause = _retry_after(response)
            content = self._read(response)
            if response.status == http.client.UNAUTHORIZED and not is_renewed:
                is_renewed = True
                self.close()
                self._credentials = None
            elif pause is not None and busy < _BUSY_TRIES:
                busy += 1
                self._sleep(pause)
            else:
                raise _refused(response.status, content, was_repeated=was_repeated)

    def _send(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str], timeout: float | None
    ) -> tuple[http.client.HTTPResponse, bool]:
        """The answer's head, and whether it is the answer to a second try."""
        if self._connection is not None and _is_stale(self._connection):
            self.close()
        # Asking again is safe: a patch carries a precondition. What creates something has none.
        may_repeat = self._connection is not None and method != "POST"
        try:
            return self._exchange(method, path, body, headers, timeout), False
        except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError) as error:
            self.close()
            if not may_repeat:
                raise self._unreachable(error) from error
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise self._unreachable(error) from error
        # The server closed a connection that had been idle.
        try:
            return self._exchange(method, path, body, headers, timeout), True
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise self._unreachable(error) from error

    def _exchange(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str], timeout: float | None
    ) -> http.client.HTTPResponse:
        if self._credentials is None:
            self._credentials = self._access.credentials()
        if self._connection is None:
            self._connection = self._connect(self._credentials)
        connection = self._connection
        if connection.sock is None:  # the server said "Connection: close"
            connection.connect()
        connection.sock.settimeout(
            min((limit for limit in (timeout, self._timeout) if limit is not None), default=None)
        )
        connection.putrequest(method, self._prefix + path, skip_accept_encoding=True)
        if "Accept" not in headers:
            connection.putheader("Accept", JSON)
        connection.putheader("User-Agent", f"imagestreams/{__version__}")
        if self._credentials.authorization:
            connection.putheader("Authorization", self._credentials.authorization)
        for name, value in (*self._access.impersonation, *headers.items()):
            connection.putheader(name, value.encode())
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        return connection.getresponse()

    def _tell(self, method: str, path: str, response: http.client.HTTPResponse, began: float) -> None:
        """Log the request, and pass on what the server warns of."""
        if self._log is not None:
            passed = (time.monotonic() - began) * 1000
            code = f"{response.status} {response.reason}".rstrip()
            self._log(f"{method} {self._shown}{path} {code} in {passed:.0f} ms")
        for text in _warnings(response.headers.get_all("Warning") or ()):
            self._pass_on(text)

    def _pass_on(self, warning: str) -> None:
        """Each once."""
        if self._warn is not None and warning not in self._warned and len(self._warned) < _MOST_WARNINGS:
            self._warned.add(warning)
            self._warn(warning)

    def _read(self, response: http.client.HTTPResponse) -> bytes:
        content = response.read(_MAX_ANSWER + 1)
        if len(content) > _MAX_ANSWER:
            self.close()
            raise TooLarge(f"error: the server's answer is larger than {_MAX_ANSWER >> 20} MiB")
        return content

    def _connect(self, credentials: Credentials) -> http.client.HTTPConnection:
        """Connect, through the proxy if there is one, with TLS where the server's URL says so."""
        access = self._access
        server = urlsplit(access.server)
        host, port = str(server.hostname), server.port or (443 if server.scheme == "https" else 80)
        proxy = urlsplit(access.proxy)
        if access.proxy and proxy.scheme != "http":
            raise KubeconfigError(
                f"{access.origin}: the proxy {proxy.scheme}://{proxy.hostname} cannot be used; only http:// proxies can"
            )
        limit = min(_CONNECT_TIMEOUT, self._timeout or _CONNECT_TIMEOUT)
        through = (str(proxy.hostname), proxy.port or 80) if access.proxy else (host, port)
        if server.scheme == "https":
            context = _tls(access, credentials)
            connection: http.client.HTTPConnection = _Https(*through, context, access.server_name, limit)
            if access.proxy:
                connection.set_tunnel(host, port, _proxy_headers(proxy.username, proxy.password))
        else:
            connection = http.client.HTTPConnection(*through, timeout=limit)
            if access.proxy:
                self._prefix = access.server  # a proxy of plain http is asked for the whole URL
        return connection

    def _unreachable(self, error: Exception) -> Unreachable:
        """What kubectl would say; of a certificate, also what OpenSSL has against it."""
        match error:
            case ConnectionRefusedError():
                words = (
                    f"The connection to the server {self._host} was refused - did you specify the right host or port?"
                )
            case ssl.SSLCertVerificationError():
                words = (
                    f"Unable to connect to the server {self._host}: its certificate cannot be trusted: "
                    f"{error.verify_message} (see certificate-authority in {self._access.origin})"
                )
            case socket.gaierror():
                words = f"Unable to connect to the server: the host of {self._access.server} cannot be resolved"
            case TimeoutError():
                words = f"Unable to connect to the server: {self._host} did not answer in time"
            case OSError():
                words = f"Unable to connect to the server {self._host}: {error.strerror or error}"
            case _:
                words = f"Unable to connect to the server {self._host}: it broke off its answer"
        return Unreachable(words)


class _Https(http.client.HTTPSConnection):
    """Checks the certificate against another name than the URL's where the kubeconfig says so."""

    def __init__(self, host: str, port: int, context: ssl.SSLContext, server_name: str, timeout: float) -> None:
        super().__init__(host, port, timeout=timeout, context=context)
        self._tls = context
        self._server_name = server_name
        self._origin = host

    def set_tunnel(self, host: str, port: int | None = None, headers: Mapping[str, str] | None = None) -> None:
        self._origin = host
        super().set_tunnel(host, port, dict(headers or {}))

    def connect(self) -> None:
        http.client.HTTPConnection.connect(self)
        self.sock = self._tls.wrap_socket(self.sock, server_hostname=self._server_name or self._origin)


def _tls(access: Access, credentials: Credentials) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if access.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif access.authorities:
        try:
            context.load_verify_locations(cadata=access.authorities.decode("ascii"))
        except (ssl.SSLError, UnicodeDecodeError) as error:
            raise KubeconfigError(f"{access.origin}: the certificate-authority is no PEM certificate") from error
    else:
        context.load_default_certs()
    if credentials.certificate:
        _load_pair(context, access, credentials)
    return context


def _load_pair(context: ssl.SSLContext, access: Access, credentials: Credentials) -> None:
    """Give OpenSSL the client's certificate and key. It reads them from a file only: ours alone, and gone at once."""
    folder = Path(os.environ.get("TMPDIR") or "/tmp")  # noqa: S108  # O_EXCL and a random name: nobody can be there first
    path = folder / f".imagestreams-{os.urandom(16).hex()}"
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_NOFOLLOW", 0), 0o600)
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123  # of a descriptor
            file.write(credentials.certificate + b"\n" + credentials.key)
        # Without a password given, OpenSSL would ask for one at the terminal.
        context.load_cert_chain(path, password=b"")
    except ssl.SSLError as error:
        raise KubeconfigError(
            f"{access.origin}: the client certificate and key are no matching pair of PEM files without password"
        ) from error
    finally:
        path.unlink()


def _proxy_headers(user: str | None, password: str | None) -> dict[str, str]:
    if not user:
        return {}
    pair = f"{unquote(user)}:{unquote(password or '')}".encode()
    return {"Proxy-Authorization": f"Basic {binascii.b2a_base64(pair, newline=False).decode()}"}


def _is_stale(connection: http.client.HTTPConnection) -> bool:
    """Whether the server has hung up, or said something unasked: nothing can be sent on such a connection."""
    sock = connection.sock
    return sock is not None and bool(select.select([sock], [], [], 0)[0])


_WARNING: Final = re.compile(r'299 \S+ "((?:[^"\\]|\\.)*)"')


def _warnings(headers: Sequence[str]) -> Iterator[str]:
    """The texts of Warning headers (RFC 7234 5.5, code 299), as the API server sends them: in UTF-8."""
    for header in headers:
        for text in _WARNING.findall(header.encode("latin-1", "replace").decode(errors="replace")):
            yield re.sub(r"\\(.)", r"\1", text)


def _retry_after(response: http.client.HTTPResponse) -> float | None:
    """Seconds after which a busy server wants to be asked again, or None."""
    text = response.headers.get("Retry-After", "")
    if response.status not in {429, 503, 504} or not text.isdigit():
        return None
    return min(float(text), _LONGEST_PAUSE)


_REASONS: Final = {403: "Forbidden", 404: "NotFound", 409: "Conflict", 410: "Expired", 422: "Invalid"}


def _refused(status: int, content: bytes, *, was_repeated: bool = False) -> Refused:
    """The server's Status; for an answer of something else (a proxy's page) what the HTTP status says."""
    try:
        found = msgspec.json.decode(content, type=_Status)
    except msgspec.DecodeError:
        found = _Status()
    if found.kind == "Status":
        reason, rest = found.reason or _REASONS.get(status, ""), found.metadata.continue_ if found.metadata else ""
        return Refused(status, reason, found.message or "", was_repeated=was_repeated, rest=rest)
    if status == http.client.NOT_FOUND:
        message = "the server could not find the requested resource"
        return Refused(status, "NotFound", message, was_repeated=was_repeated)
    message = f"the server answered with HTTP {status} {http.client.responses.get(status, '')}".rstrip()
    return Refused(status, _REASONS.get(status, ""), message, was_repeated=was_repeated)


def _decode(body: bytes, shape: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=shape)
    except msgspec.DecodeError as error:
        raise Unreachable("error: the server answered with something that is no Kubernetes API's answer") from error
