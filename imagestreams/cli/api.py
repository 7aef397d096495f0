"""A small synchronous client of the Kubernetes API: one connection, the few calls that a command makes, kubectl's words
for what goes wrong.

It stands on http.client and ssl, so that a command starts in a tenth of a second; the controller has its own client.
"""

from __future__ import annotations

import binascii
import http.client
import os
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
    from collections.abc import Callable, Iterator, Mapping

    from imagestreams.cli.kubeconfig import Access

T = TypeVar("T")

_MAX_ANSWER: Final = 16 << 20  # bytes; etcd takes 1.5 MiB an object
_CONNECT_TIMEOUT: Final = 30.0  # seconds; client-go's
_BUSY_TRIES: Final = 5
_LONGEST_PAUSE: Final = 10.0  # seconds that a busy server may tell us to wait


class ApiError(Exception):
    """A call failed; the text is the whole line to print.

    ApiError
    ├── Refused       the server answered, and said no; see `status` and `reason`
    ├── Unreachable   no answer: DNS, refused, TLS, timeout, broken off    may be tried again
    └── NotInstalled  the server has no ImageStreams
    """


class Refused(ApiError):
    """The server's Status object: HTTP status, machine-readable reason, message for people."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        self.status, self.reason, self.message = status, reason, message
        super().__init__(_refusal(status, reason, message))


class Unreachable(ApiError):
    pass


class NotInstalled(ApiError):
    pass


def _refusal(status: int, reason: str, message: str) -> str:
    if status == http.client.UNAUTHORIZED:
        return f"error: You must be logged in to the server ({message or 'Unauthorized'})"
    return f"Error from server ({reason}): {message}" if reason else f"Error from server: {message}"


class _Status(msgspec.Struct, frozen=True):
    """metav1.Status, as far as people are told of it."""

    kind: str = ""
    reason: str | None = None
    message: str | None = None


class _Event(msgspec.Struct, frozen=True):
    type: str
    object: msgspec.Raw = msgspec.Raw(b"{}")


class _NamedResource(msgspec.Struct, frozen=True):
    name: str


class _ResourceList(msgspec.Struct, frozen=True):
    resources: tuple[_NamedResource, ...] | None = None


@dataclass(frozen=True, slots=True)
class Resource:
    """The imagestreams of one API group."""

    group: str

    def path(self, namespace: str, name: str = "") -> str:
        tail = f"/{quote(name, safe='')}" if name else ""
        return f"/apis/{self.group}/{VERSION}/namespaces/{quote(namespace, safe='')}/imagestreams{tail}"

    def named(self, name: str) -> str:
        """As `-o name` prints it."""
        return f"imagestream.{self.group}/{name}"


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
    """

    def __init__(
        self, access: Access, *, request_timeout: float | None = None, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._access = access
        self._timeout = request_timeout
        self._sleep = sleep
        self._credentials: Credentials | None = None
        self._connection: http.client.HTTPConnection | None = None
        parts = urlsplit(access.server)
        self._prefix = parts.path
        self._host = f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def get(self, path: str, *, timeout: float | None = None) -> bytes:
        """Fetch. `timeout` (seconds) limits the server's silence further than the client's own limit does."""
        return self._call("GET", path, timeout=timeout)

    def patch(self, path: str, body: bytes) -> bytes:
        """A merge patch (RFC 7396); a `metadata.resourceVersion` in it makes the server refuse one that comes late."""
        return self._call("PATCH", path, body, {"Content-Type": "application/merge-patch+json"})

    def image_streams(self) -> Resource:
        """The group that serves ImageStreams here.

        Where both do, ours is the one that only we install: the other is then OpenShift's own.

        Raises:
            NotInstalled: neither does.
        """
        for group in reversed(GROUPS):
            try:
                body = self.get(f"/apis/{group}/{VERSION}")
            except Refused as refused:
                if refused.status != http.client.NOT_FOUND:
                    raise
                continue
            found = _decode(body, _ResourceList)
            if any(resource.name == "imagestreams" for resource in found.resources or ()):
                return Resource(group)
        raise NotInstalled(
            f"error: the server at {self._access.server} has no ImageStreams: their CRDs are not installed "
            f"(kubectl apply -k config/crds), or {self._access.origin} is not the cluster you mean"
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
        busy, is_renewed = 0, False
        while True:
            response = self._send(method, path, body, headers or {}, timeout)
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
                raise _refused(response.status, content)

    def _send(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str], timeout: float | None
    ) -> http.client.HTTPResponse:
        is_reused = self._connection is not None
        try:
            return self._exchange(method, path, body, headers, timeout)
        except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError) as error:
            self.close()
            if not is_reused:
                raise self._unreachable(error) from error
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise self._unreachable(error) from error
        # The server closed a connection that had been idle. Asking again is safe: a patch carries a precondition.
        try:
            return self._exchange(method, path, body, headers, timeout)
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
        connection.putheader("Accept", "application/json")
        connection.putheader("User-Agent", f"imagestreams/{__version__}")
        if self._credentials.authorization:
            connection.putheader("Authorization", self._credentials.authorization)
        for name, value in (*self._access.impersonation, *headers.items()):
            connection.putheader(name, value.encode())
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        return connection.getresponse()

    def _read(self, response: http.client.HTTPResponse) -> bytes:
        content = response.read(_MAX_ANSWER + 1)
        if len(content) > _MAX_ANSWER:
            self.close()
            raise Unreachable(f"error: the server's answer is larger than {_MAX_ANSWER >> 20} MiB")
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
        through = (str(proxy.hostname), proxy.port or 80) if access.proxy else (host, port)
        if server.scheme == "https":
            context = _tls(access, credentials)
            connection: http.client.HTTPConnection = _Https(*through, context, access.server_name)
            if access.proxy:
                connection.set_tunnel(host, port, _proxy_headers(proxy.username, proxy.password))
        else:
            connection = http.client.HTTPConnection(*through, timeout=_CONNECT_TIMEOUT)
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

    def __init__(self, host: str, port: int, context: ssl.SSLContext, server_name: str) -> None:
        super().__init__(host, port, timeout=_CONNECT_TIMEOUT, context=context)
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


def _retry_after(response: http.client.HTTPResponse) -> float | None:
    """Seconds after which a busy server wants to be asked again, or None."""
    text = response.headers.get("Retry-After", "")
    if response.status not in {429, 503, 504} or not text.isdigit():
        return None
    return min(float(text), _LONGEST_PAUSE)


_REASONS: Final = {403: "Forbidden", 404: "NotFound", 409: "Conflict", 410: "Expired", 422: "Invalid"}


def _refused(status: int, content: bytes) -> Refused:
    """The server's Status; for an answer of something else (a proxy's page) what the HTTP status says."""
    try:
        found = msgspec.json.decode(content, type=_Status)
    except msgspec.DecodeError:
        found = _Status()
    if found.kind == "Status":
        return Refused(status, found.reason or _REASONS.get(status, ""), found.message or "")
    if status == http.client.NOT_FOUND:
        return Refused(status, "NotFound", "the server could not find the requested resource")
    words = http.client.responses.get(status, "")
    return Refused(status, _REASONS.get(status, ""), f"the server answered with HTTP {status} {words}".rstrip())


def _decode(body: bytes, shape: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=shape)
    except msgspec.DecodeError as error:
        raise Unreachable("error: the server answered with something that is no Kubernetes API's answer") from error
