"""Real registries on loopback, for tests and for developers.

    with Registry(auth="token", tls=True) as registry:
        push(registry, "acme/web", "latest", image())

Two kinds: distribution v3, built by dev.binaries, and Debian's docker-registry 2.8 where it is installed. They differ
where clients notice (deletion by tag, token rules, paging), so what speaks to a registry is tested with both.
"""

from __future__ import annotations

import json
import shutil
import ssl
import tempfile
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import trustme

from dev import binaries
from dev.process import Server, free_port
from dev.token_server import ISSUER, SERVICE, TokenServer

if TYPE_CHECKING:
    from collections.abc import Mapping

Flavour = Literal["distribution-v3", "docker-registry-2.8"]
Auth = Literal["none", "htpasswd", "token"]

_PASSWORD = "correct-horse"  # noqa: S105 (of registries that live for a test)
# bcrypt of that password, at the lowest cost, since each request pays it.
_BCRYPT = "$2b$04$unGj6hgLKFR7EUQEbttnGOK/cyAgiGRCWgUu5HWNSc1YC.IrUJyvC"


def available(flavour: Flavour) -> bool:
    """Whether `Registry` can start this flavour; distribution v3 is built where it is missing."""
    return flavour == "distribution-v3" or shutil.which("docker-registry") is not None


class Registry:
    """A registry with its own storage, certificate and user.

    Args:
        tls: https with a certificate for localhost and 127.0.0.1, signed by `ca_pem`.
        auth: with "token", a token service of its own (`tokens`) at another port, https when the registry is.
        delete: whether manifests and blobs can be deleted.
        notify: URL that gets an event for each push, pull and deletion; empty for none.
        notify_headers: sent with the events, e.g. Authorization.
        say: told what is built, where something must be built.

    Attributes:
        host: "127.0.0.1:<port>"; the same port answers for localhost.
        url: https://<host>, or http.
        ca_pem: None for plain http.
        username: empty without auth.
        tokens: the token service, None without token auth; `tokens.requests` is what it was asked.
        directory: configuration, log and storage.
    """

    def __init__(
        self,
        flavour: Flavour = "distribution-v3",
        *,
        tls: bool = False,
        auth: Auth = "none",
        delete: bool = True,
        notify: str = "",
        notify_headers: Mapping[str, str] | None = None,
        say: binaries.Say = binaries.tell,
    ) -> None:
        self.flavour = flavour
        self._program = _program(flavour, say)
        self._port = free_port()
        self.host = f"127.0.0.1:{self._port}"
        self.url = f"{'https' if tls else 'http'}://{self.host}"
        self.username, self.password = ("dev", _PASSWORD) if auth != "none" else ("", "")
        self.directory = Path(tempfile.mkdtemp(prefix="imagestreams-registry-"))
        self.ca_pem: bytes | None = None
        self.ca_file: Path | None = None
        self._server: Server | None = None
        context = self._certify() if tls else None
        self.tokens = TokenServer(self.username, self.password, tls=context) if auth == "token" else None
        headers = {name: [value] for name, value in (notify_headers or {}).items()}
        endpoint = {
            "name": "events",
            "url": notify,
            "headers": headers,
            "timeout": "2s",
            "threshold": 3,
            "backoff": "100ms",
        }
        self._config: dict[str, Any] = {
            "version": "0.1",
            "log": {"level": "warn", "accesslog": {"disabled": True}},
            "storage": {
                "filesystem": {"rootdirectory": str(self.directory / "storage")},
                "delete": {"enabled": delete},
                "maintenance": {"uploadpurging": {"enabled": False}},
            },
            "http": {"addr": self.host, "secret": "shared by one", "tls": self._tls_files() if tls else {}},
            "auth": self._auth(auth),
            "notifications": {"endpoints": [endpoint]} if notify else {},
        }

    def start(self) -> Self:
        """Start it, and return when it answers.

        Raises:
            StartError: it did not; quotes the end of its log.
        """
        try:
            if self.tokens:
                self.tokens.start()
            self.start_server()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop it and remove what it stored."""
        self.stop_server()
        if self.tokens:
            self.tokens.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def start_server(self) -> None:
        """Start the registry alone, on the same port and storage each time."""
        config = self.directory / "config.yml"
        config.write_text(json.dumps({key: value for key, value in self._config.items() if value}))  # JSON is YAML
        # distribution v3 would send traces to a collector on this machine.
        quiet = {"OTEL_TRACES_EXPORTER": "none"}
        self._server = Server("registry", [self._program, "serve", config], self.directory, quiet)
        self._server.wait_until(self._answers, "answer")

    def stop_server(self) -> None:
        """Stop the registry alone: connections are refused, what it stored stays, its token service serves on."""
        if self._server:
            self._server.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _answers(self) -> bool:
        context = ssl.create_default_context(cafile=self.ca_file) if self.ca_file else None
        handlers = (urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
        with urllib.request.build_opener(*handlers).open(self.url + "/", timeout=5) as response:
            return bool(response.status == 200)  # "/" asks for no credentials

    def _certify(self) -> ssl.SSLContext:
        authority = trustme.CA()
        leaf = authority.issue_cert("localhost", "127.0.0.1")
        self.ca_pem, self.ca_file = authority.cert_pem.bytes(), self.directory / "ca.pem"
        authority.cert_pem.write_to_path(self.ca_file)
        leaf.cert_chain_pems[0].write_to_path(self.directory / "server.pem")
        leaf.private_key_pem.write_to_path(self.directory / "server.key")
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        leaf.configure_cert(context)
        return context

    def _tls_files(self) -> dict[str, str]:
        return {"certificate": str(self.directory / "server.pem"), "key": str(self.directory / "server.key")}

    def _auth(self, auth: Auth) -> dict[str, Any]:
        if auth == "htpasswd":
            path = self.directory / "htpasswd"
            path.write_text(f"{self.username}:{_BCRYPT}\n")
            return {"htpasswd": {"realm": "imagestreams", "path": str(path)}}
        if self.tokens:
            path = self.directory / "tokens.pem"
            path.write_bytes(self.tokens.bundle)
            rules = {"signingalgorithms": ["ES256"]} if self.flavour == "distribution-v3" else {}
            names = {"realm": self.tokens.realm, "service": SERVICE, "issuer": ISSUER}
            return {"token": {**names, "rootcertbundle": str(path), **rules}}
        return {}


def _program(flavour: Flavour, say: binaries.Say) -> Path:
    if flavour == "distribution-v3":
        return binaries.ensure(["registry"], say=say)["registry"]
    if found := shutil.which("docker-registry"):
        return Path(found)
    raise FileNotFoundError("docker-registry is not on PATH; Debian's package docker-registry has it")
