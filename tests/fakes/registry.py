"""A registry in this process, at a real socket: it speaks the protocol as distribution does, records what it was asked,
and misbehaves as told.

    async with FakeRegistry(auth="token") as registry:
        registry.add("acme/web", "latest", image())
        registry.reply(429, headers={"Retry-After": "30"}, method="HEAD", times=1)
        ...
        assert registry.asked() == ["HEAD acme/web:latest"]

It has the attributes of dev.registries.Registry that a pusher and a test need (`host`, `url`, `ca_pem`, `ca_file`,
`username`, `password`, `tokens`), so the contract tests run against both.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import secrets
import ssl
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Self
from urllib.parse import parse_qsl, urlencode

import trustme
from aiohttp import web

from dev.images import Image, Index, digest_of
from imagestreams.core.policy import Transport

Auth = Literal["none", "htpasswd", "token"]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

SERVICE = "fake-registry"
_MANIFESTS = re.compile(r"/v2/(?P<path>.+)/manifests/(?P<target>[^/]+)")
_BLOBS = re.compile(r"/v2/(?P<path>.+)/blobs/(?P<digest>sha256:[0-9a-f]{64})")
_UPLOADS = re.compile(r"/v2/(?P<path>.+)/blobs/uploads/(?P<id>[^/]*)")
_TAGS = re.compile(r"/v2/(?P<path>.+)/tags/list")
_FORM = "application/x-www-form-urlencoded"


@dataclass(frozen=True, slots=True)
class Seen:
    """A request as it came in."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    form: Mapping[str, str] = field(default_factory=dict)

    @property
    def authorization(self) -> str:
        return self.headers.get("Authorization", "")

    def __str__(self) -> str:
        match = _MANIFESTS.fullmatch(self.path)
        if match is None:
            return f"{self.method} {self.path}"
        colon = "@" if match["target"].startswith("sha") else ":"
        return f"{self.method} {match['path']}{colon}{match['target']}"


@dataclass(slots=True)
class _Rule:
    """A scripted answer; `times` is how often it is still given."""

    handler: Handler
    method: str
    path: re.Pattern[str]
    times: int


class FakeServer:
    """An HTTP server on loopback with scripted answers before its own ones.

    Attributes:
        requests: what was asked so far, oldest first; clear it at will.
        aborted: how many requests were given up by the other side while they were held.
    """

    def __init__(self, *, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[Seen] = []
        self.aborted = 0
        self._rules: list[_Rule] = []
        self._address = host
        self._tls = tls
        self._port = 0
        self._runner: web.ServerRunner | None = None
        self._released = asyncio.Event()
        self._arrivals = asyncio.Condition()

    @property
    def host(self) -> str:
        return f"{self._address}:{self._port}"

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://{self.host}"

    async def start(self) -> Self:
        """Listen; on the same port when it is started again."""
        self._runner = web.ServerRunner(web.Server(self._handle, access_log=None), shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._address, self._port, ssl_context=self._tls, reuse_address=True)
        await site.start()
        self._port = self._runner.addresses[0][1]
        return self

    async def stop(self) -> None:
        self._released.set()
        if self._runner:
            await self._runner.cleanup()
        self._runner = None

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    # --- script

    def script(self, handler: Handler, *, method: str = "", path: str = "", times: int = 1 << 30) -> None:
        """Have requests answered by `handler`: those of a method (any), whose path has the regular expression."""
        self._rules.append(_Rule(handler, method, re.compile(path), times))

    def reply(
        self,
        status: int,
        body: bytes | str = b"",
        headers: Mapping[str, str] | None = None,
        *,
        method: str = "",
        path: str = "",
        times: int = 1 << 30,
    ) -> None:
        """Have requests answered so."""

        async def handler(_: web.Request) -> web.StreamResponse:
            content = body.encode() if isinstance(body, str) else body
            return web.Response(status=status, body=content, headers=dict(headers or {}))

        self.script(handler, method=method, path=path, times=times)

    def hold(self, *, method: str = "", path: str = "") -> None:
        """Leave requests unanswered until `release`; then they are answered as if nothing had been."""

        async def handler(request: web.Request) -> web.StreamResponse:
            try:
                await self._released.wait()
            except asyncio.CancelledError:
                self.aborted += 1
                raise
            return await self.answer(request)

        self._released.clear()
        self.script(handler, method=method, path=path)

    def release(self) -> None:
        self._rules.clear()
        self._released.set()

    def behave(self) -> None:
        """Forget the script."""
        self._rules.clear()

    def asked(self) -> list[str]:
        """The requests as "HEAD acme/web:latest", "GET acme/web@sha256:...", "GET /token"."""
        return [str(request) for request in self.requests]

    async def arrived(self, count: int) -> None:
        """Wait until that many requests have come in, in all."""
        async with asyncio.timeout(10), self._arrivals:
            await self._arrivals.wait_for(lambda: len(self.requests) >= count)

    # --- serving

    async def answer(self, request: web.Request) -> web.StreamResponse:
        return web.Response(status=404)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        headers = {name: request.headers[name] for name in request.headers}
        form = dict(parse_qsl((await request.read()).decode())) if headers.get("Content-Type") == _FORM else {}
        self.requests.append(Seen(request.method, request.path, dict(request.query), headers, form))
        async with self._arrivals:
            self._arrivals.notify_all()
        for rule in self._rules:
            if rule.times and rule.method in {"", request.method} and rule.path.search(request.path):
                rule.times -= 1
                return await rule.handler(request)
        return await self.answer(request)


@dataclass
class Repository:
    """What is stored: manifests by digest (media type and bytes), digests by tag, blobs by digest."""

    manifests: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)


class FakeTokens(FakeServer):
    """A token service. The users may do everything; anybody may pull from repositories under `public/`.

    Attributes:
        life: seconds that a token is said to be good for; None says nothing.
        identities: who is meant by an identity token, exchanged by POST; with None it knows no POST.
    """

    def __init__(self, users: Mapping[str, str], *, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> None:
        super().__init__(host=host, tls=tls)
        self.users = dict(users)
        self.life: float | None = 300
        self.identities: dict[str, str] | None = {}
        self._granted: dict[str, frozenset[tuple[str, str]]] = {}

    @property
    def realm(self) -> str:
        return f"{self.url}/token"

    def revoke(self) -> None:
        """No token that was granted so far is good any more."""
        self._granted.clear()

    def allows(self, token: str, path: str, action: str) -> bool:
        return (path, action) in self._granted.get(token, ())

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if request.method == "POST":
            return await self._exchange(request)
        name, password = credentials_in(request.headers.get("Authorization", ""))
        if name and self.users.get(name) != password:
            return error(401, "UNAUTHORIZED")
        token = self._grant(name, request.query.getall("scope", []))
        life = {"expires_in": self.life} if self.life is not None else {}
        return web.json_response({"token": token, **life})

    async def _exchange(self, request: web.Request) -> web.Response:
        """OAuth 2: an identity token for one of requests, and perhaps another identity token."""
        if self.identities is None:
            return error(405, "UNSUPPORTED")
        form = await request.post()
        name = self.identities.get(str(form.get("refresh_token", "")))
        if form.get("grant_type") != "refresh_token" or name is None:
            return web.json_response({"error": "invalid_grant"}, status=401)
        token = self._grant(name, str(form.get("scope", "")).split(" "))
        return web.json_response({"access_token": token, "refresh_token": "rotated", "expires_in": self.life or 60})

    def _grant(self, name: str, scopes: list[str]) -> str:
        granted: set[tuple[str, str]] = set()
        for scope in scopes:
            kind, _, rest = scope.partition(":")
            path, _, actions = rest.rpartition(":")
            for action in actions.split(","):
                if kind == "repository" and (name or (path.startswith("public/") and action == "pull")):
                    granted.add((path, action))
        token = secrets.token_urlsafe(32)
        self._granted[token] = frozenset(granted)
        return token


class FakeRegistry(FakeServer):
    """A registry; see the module.

    Args:
        auth: "none", "htpasswd" (Basic) or "token", with a token service of its own at another port.
        tls: https, with a certificate for localhost, registry.example and the address, signed by `ca_pem`.

    Attributes:
        users: name and password of those who may come in.
        service: what the challenge names.
    """

    def __init__(self, *, auth: Auth = "none", tls: bool = False, host: str = "127.0.0.1") -> None:
        self.ca_pem: bytes | None = None
        self.ca_file: Path | None = None
        self._directory = tempfile.TemporaryDirectory(prefix="imagestreams-fake-") if tls else None
        context = self._certify(host) if tls else None
        super().__init__(host=host, tls=context)
        self.auth = auth
        self.username, self.password = ("dev", "correct-horse") if auth != "none" else ("", "")
        self.users = {self.username: self.password} if self.username else {}
        self.tokens = FakeTokens(self.users, host=host, tls=context) if auth == "token" else None
        self.service = SERVICE
        self.repositories: dict[str, Repository] = {}
        self._uploads: dict[str, bytes] = {}

    def _certify(self, host: str) -> ssl.SSLContext:
        assert self._directory
        authority = trustme.CA()
        self.ca_pem, self.ca_file = authority.cert_pem.bytes(), Path(self._directory.name) / "ca.pem"
        self.ca_file.write_bytes(self.ca_pem)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("localhost", "registry.example", host).configure_cert(context)
        return context

    async def start(self) -> Self:
        if self.tokens:
            await self.tokens.start()
        return await super().start()

    async def stop(self) -> None:
        await super().stop()
        if self.tokens:
            await self.tokens.stop()

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
        if self._directory:
            self._directory.cleanup()

    def transport(self, **changes: object) -> Transport:
        """How to reach it, as an administrator who lists it would have it."""
        known: dict[str, object] = {
            "host": self.host,
            "endpoint": self.url,
            "insecure": False,
            "credentials": True,
            "ca_file": str(self.ca_file or ""),
            "listed": True,
        }
        return Transport(**{**known, **changes})  # type: ignore[arg-type]

    def add(self, path: str, tag: str | None, content: Image | Index) -> str:
        """Store an image, or an index with its images; what the tag named before stays, by digest."""
        if isinstance(content, Index):
            for child in content.images:
                self.add(path, None, child)
        else:
            self.repositories.setdefault(path, Repository()).blobs[digest_of(content.config)] = content.config
        return self.put(path, tag, content.media_type, content.manifest)

    def put(self, path: str, tag: str | None, media_type: str, manifest: bytes) -> str:
        """Store any bytes as a manifest."""
        repository = self.repositories.setdefault(path, Repository())
        digest = digest_of(manifest)
        repository.manifests[digest] = (media_type, manifest)
        if tag:
            repository.tags[tag] = digest
        return digest

    async def answer(self, request: web.Request) -> web.StreamResponse:
        path = next((m["path"] for p in (_UPLOADS, _MANIFESTS, _BLOBS, _TAGS) if (m := p.fullmatch(request.path))), "")
        action = "pull" if request.method in {"GET", "HEAD"} else "push"
        if denial := self._deny(request, path, action):
            return denial
        if match := _UPLOADS.fullmatch(request.path):
            return await self._upload(request, match["path"], match["id"])
        if match := _MANIFESTS.fullmatch(request.path):
            return await self._manifest(request, match["path"], match["target"])
        if match := _BLOBS.fullmatch(request.path):
            blob = self.repositories.get(match["path"], Repository()).blobs.get(match["digest"])
            return error(404, "BLOB_UNKNOWN") if blob is None else web.Response(body=blob)
        if match := _TAGS.fullmatch(request.path):
            return self._list(request, match["path"])
        return web.Response(headers={"Docker-Distribution-Api-Version": "registry/2.0"})

    def _list(self, request: web.Request, path: str) -> web.Response:
        """The tags in order, `n` at a time, with a link to the rest."""
        if path not in self.repositories:
            return error(404, "NAME_UNKNOWN")
        tags = [tag for tag in sorted(self.repositories[path].tags) if tag > request.query.get("last", "")]
        count = int(request.query.get("n", len(tags)))
        headers = {}
        if tags[count:]:
            query = urlencode({"last": tags[count - 1], "n": count})
            headers["Link"] = f'<{request.path}?{query}>; rel="next"'
        return web.json_response({"name": path, "tags": tags[:count]}, headers=headers)

    def _deny(self, request: web.Request, path: str, action: str) -> web.Response | None:
        authorization = request.headers.get("Authorization", "")
        if self.auth == "htpasswd":
            name, password = credentials_in(authorization)
            if not name or self.users.get(name) != password:
                return error(401, "UNAUTHORIZED", {"WWW-Authenticate": 'Basic realm="fake"'})
        if self.tokens and not self.tokens.allows(authorization.removeprefix("Bearer "), path, action):
            scope = f"repository:{path}:{action}"
            challenge = f'Bearer realm="{self.tokens.realm}",service="{self.service}",scope="{scope}"'
            return error(401, "UNAUTHORIZED", {"WWW-Authenticate": challenge})
        return None

    async def _manifest(self, request: web.Request, path: str, target: str) -> web.StreamResponse:
        if request.method == "PUT":
            body = await request.read()
            tag = None if target.startswith("sha256:") else target
            digest = self.put(path, tag, request.headers.get("Content-Type", ""), body)
            return web.Response(status=201, headers={"Docker-Content-Digest": digest})
        repository = self.repositories.get(path, Repository())
        digest = repository.tags.get(target, target)
        if digest not in repository.manifests:
            return error(404, "MANIFEST_UNKNOWN")
        media_type, body = repository.manifests[digest]
        headers = {"Content-Type": media_type, "Docker-Content-Digest": digest, "Etag": f'"{digest}"'}
        return web.Response(body=body, headers={name: value for name, value in headers.items() if value})

    async def _upload(self, request: web.Request, path: str, upload: str) -> web.StreamResponse:
        if request.method == "POST":
            upload = secrets.token_hex(8)
            self._uploads[upload] = b""
            return web.Response(status=202, headers={"Location": f"/v2/{path}/blobs/uploads/{upload}"})
        blob = await request.read()
        del self._uploads[upload]
        self.repositories.setdefault(path, Repository()).blobs[request.query["digest"]] = blob
        return web.Response(status=201)


def error(status: int, code: str, headers: Mapping[str, str] | None = None) -> web.Response:
    """An answer as the distribution specification has errors."""
    return web.json_response(
        {"errors": [{"code": code, "message": code.lower().replace("_", " ")}]},
        status=status,
        headers=dict(headers or {}),
    )


def credentials_in(authorization: str) -> tuple[str, str]:
    """Name and password of a Basic header; empty where there is none."""
    scheme, _, encoded = authorization.partition(" ")
    if scheme != "Basic":
        return "", ""
    name, _, password = base64.b64decode(encoded).decode().partition(":")
    return name, password


def errors_body(*codes: str) -> bytes:
    return json.dumps({"errors": [{"code": code} for code in codes]}).encode()
