"""A registry token service for tests: JSON web tokens that distribution 2.8 and 3 both take, and a record of requests.

The user may do everything; nobody else may do anything, except pull from repositories under `public/`.
https://distribution.github.io/distribution/spec/auth/token/
"""

from __future__ import annotations

import base64
import binascii
import json
import secrets
import threading
import time
import urllib.parse
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

if TYPE_CHECKING:
    import ssl
    from collections.abc import Sequence

ISSUER = "imagestreams-dev"
SERVICE = "imagestreams-dev-registry"


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """One answered request for a token.

    Attributes:
        username: empty when anonymous.
        scopes: as asked, in order, e.g. "repository:acme/web:pull".
        status: 200, or 401 for wrong credentials.
    """

    method: str
    service: str
    scopes: tuple[str, ...]
    username: str
    status: int


class TokenServer:
    """Serves tokens at `realm` from a thread, from `start` to `stop`.

    Args:
        tls: the server's context for https; None for plain http.
        lifetime: of a token, in seconds; registries allow 60 more.

    Attributes:
        requests: what was asked so far, oldest first; clear it at will.
        bundle: PEM certificates that a registry needs to verify the tokens (`rootcertbundle`).
    """

    def __init__(self, username: str, password: str, *, tls: ssl.SSLContext | None = None, lifetime: int = 300) -> None:
        self.requests: list[TokenRequest] = []
        self.lifetime = lifetime
        self._credentials = (username, password)
        authority = trustme.CA()
        leaf = authority.issue_cert("tokens.imagestreams.dev")
        self.bundle = authority.cert_pem.bytes()
        key = load_pem_private_key(leaf.private_key_pem.bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)  # noqa: S101 (trustme's default)
        self._key = key
        self._certificate = x509.load_pem_x509_certificate(leaf.cert_chain_pems[0].bytes()).public_bytes(Encoding.DER)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        if tls:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.realm = f"{'https' if tls else 'http'}://127.0.0.1:{self._server.server_port}/token"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, name="token server", daemon=True
        )

    def start(self) -> Self:
        """Begin to serve; can be done once."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """Stop serving and free the port; its thread has ended on return."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def token(self, username: str, scopes: Sequence[str]) -> str:
        """A token for what of `scopes` the user may do; anonymous when the name is empty."""
        now = int(time.time())
        claims = {
            "iss": ISSUER,
            "sub": username,
            "aud": SERVICE,  # 2.8 refuses a list, and floats below
            "exp": now + self.lifetime,
            "nbf": now - 10,
            "iat": now,
            "jti": secrets.token_hex(8),
            "access": [access for scope in scopes if (access := _granted(username, scope))],
        }
        header = {"typ": "JWT", "alg": "ES256", "x5c": [base64.b64encode(self._certificate).decode()]}
        signed = f"{_base64url(json.dumps(header).encode())}.{_base64url(json.dumps(claims).encode())}"
        r, s = decode_dss_signature(self._key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{signed}.{_base64url(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"

    def answer(self, method: str, query: dict[str, list[str]], given: tuple[str, str]) -> tuple[int, dict[str, Any]]:
        """Status and body for one request; `given` is name and password, empty when anonymous."""
        scopes = tuple(scope for value in query.get("scope", []) for scope in value.split())
        status = 200 if given in {self._credentials, ("", "")} else 401
        self.requests.append(TokenRequest(method, query.get("service", [""])[0], scopes, given[0], status))
        if status == 401:
            return 401, {"errors": [{"code": "UNAUTHORIZED", "message": "incorrect username or password"}]}
        token = self.token(given[0], scopes)
        issued = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        return 200, {"token": token, "access_token": token, "expires_in": self.lifetime, "issued_at": issued}


def _granted(username: str, scope: str) -> dict[str, Any] | None:
    """What is granted of one scope, type:name:actions, in the form of a token's `access`."""
    kind, _, rest = scope.partition(":")
    name, _, asked = rest.rpartition(":")
    actions = asked.split(",")
    if not username:
        actions = ["pull"] if kind == "repository" and name.startswith("public/") and "pull" in actions else []
    return {"type": kind, "name": name, "actions": actions} if actions else None


def _handler(tokens: TokenServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 10

        def do_GET(self) -> None:
            self._respond(urllib.parse.urlsplit(self.path).query, _basic(self.headers.get("Authorization", "")))

        def do_POST(self) -> None:
            # The OAuth2 form, which Docker and containerd try first: credentials are in the body.
            form = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            fields = dict(urllib.parse.parse_qsl(form))
            self._respond(form, (fields.get("username", ""), fields.get("password", "")))

        def _respond(self, query: str, given: tuple[str, str]) -> None:
            if urllib.parse.urlsplit(self.path).path != "/token":
                status, answer = 404, {"errors": [{"code": "NOT_FOUND"}]}
            else:
                status, answer = tokens.answer(self.command, urllib.parse.parse_qs(query), given)
            body = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class's name)
            pass

    return Handler


def _basic(authorization: str) -> tuple[str, str]:
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        return "", ""
    try:
        name, _, password = base64.b64decode(encoded, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return "?", ""
    return name, password


def _base64url(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()
