"""A world for attacks on the whole controller: registries with names and public addresses, servers that must never be
reached at private, metadata and loopback ones, and everything that is said to anybody.

    corp = await world.registry("registry.corp.example", auth="token")
    metadata = await world.server("169.254.169.254")
    stage = await world.play(settings)
    await stage.apply(stream("web", stable="registry.corp.example/acme/web:stable"))
    await stage.settled()

Only the socket is a fake: names are resolved and connections made by a table, so that the rules on addresses, ports and
TLS are those of an installation without any word of an administrator. Loopback stays what it is.
"""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import ssl
from collections.abc import Iterable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import prometheus_client
import pytest
import structlog
import trustme

from tests.fakes.apiserver import Seen as ApiSeen
from tests.fakes.proxy import FakeProxy
from tests.fakes.registry import Auth, FakeRegistry, FakeServer, FakeTokens
from tests.fakes.waiting import until
from tests.storyteller import NAMESPACE, Storyteller

STREAMS = ("image.openshift.io/v1", "imagestreams")
SYSTEM = "imagestreams-system"


class _Named:
    """A server that others know by a name, at the usual port."""

    name: str
    _tls: ssl.SSLContext | None

    @property
    def host(self) -> str:
        return self.name

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://{self.name}"


class NamedServer(_Named, FakeServer):
    def __init__(self, name: str, tls: ssl.SSLContext | None) -> None:
        super().__init__(tls=tls)
        self.name = name


class NamedTokens(_Named, FakeTokens):
    def __init__(self, name: str, users: dict[str, str], tls: ssl.SSLContext | None) -> None:
        super().__init__(users, tls=tls)
        self.name = name


class NamedRegistry(_Named, FakeRegistry):
    def __init__(self, name: str, auth: Auth, users: dict[str, str], tls: ssl.SSLContext | None) -> None:
        super().__init__(auth=auth)
        self.name, self._tls, self.users = name, tls, users
        if self.tokens is not None:
            self.tokens = NamedTokens(f"auth.{name}", users, tls)


class World:
    """What there is outside, and what was said; see the module.

    Attributes:
        connections: where connections were opened to, "address:port", loopback apart.
        lines: what was logged, rendered, tracebacks included.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
        self.connections: list[str] = []
        self.lines: list[str] = []
        self.servers: list[FakeServer] = []
        self.proxies: list[FakeProxy] = []
        self._patch, self._directory = monkeypatch, directory
        self._names: dict[str, list[str]] = {}
        self._ports: dict[tuple[str, int], int] = {}
        self._authority, self._stranger = trustme.CA(), trustme.CA()
        self._life = AsyncExitStack()

    async def __aenter__(self) -> Self:
        trusted = self._directory / "system.pem"
        self._authority.cert_pem.write_to_path(trusted)
        self._patch.setenv("SSL_CERT_FILE", str(trusted))
        self._resolve, self._connect = socket.getaddrinfo, asyncio.get_running_loop().sock_connect
        self._patch.setattr(socket, "getaddrinfo", self._getaddrinfo)
        self._patch.setattr(asyncio.get_running_loop(), "sock_connect", self._sock_connect)
        self._life.callback(self._listen())
        return self

    async def __aexit__(self, *_: object) -> None:
        for server in self.servers:
            server.release()
        await self._life.aclose()

    # --- who is there

    async def registry(
        self,
        name: str,
        *addresses: str,
        auth: Auth = "none",
        users: dict[str, str] | None = None,
        trusted: bool = True,
        tls: bool = True,
    ) -> NamedRegistry:
        """A registry at the usual port; where `auth` is "token", with a token service at auth.<name>."""
        context = self._context(name, trusted=trusted) if tls else None
        registry = NamedRegistry(name, auth, users or {}, context)
        await self._life.enter_async_context(registry)
        self._place(name, registry, addresses, 443 if tls else 80)
        if registry.tokens is not None:
            self._place(registry.tokens.host, registry.tokens, (), 443 if tls else 80)
        return registry

    async def server(self, name: str, *addresses: str, tls: bool = True, port: int = 0) -> NamedServer:
        """Anything else that listens; its name may be an address."""
        server = NamedServer(name, self._context(name, trusted=True) if tls else None)
        await self._life.enter_async_context(server)
        self._place(name, server, addresses, port or (443 if tls else 80))
        return server

    async def proxy(self, login: str = "") -> FakeProxy:
        """An HTTP proxy that knows all names; at loopback, as an administrator may name it."""
        proxy = FakeProxy({name: addresses[0] for name, addresses in self._names.items()}, login=login)
        self.proxies.append(await self._life.enter_async_context(proxy))
        return proxy

    def names(self, name: str, *addresses: str) -> None:
        """What a name resolves to."""
        self._names[name] = list(addresses)

    def _place(self, name: str, server: FakeServer, addresses: Iterable[str], port: int) -> None:
        number = len(self.servers) + 1
        self.servers.append(server)
        own = list(addresses) or ([name] if name[0].isdigit() else [f"203.0.113.{number}"])
        self._names[name] = own
        for address in own:
            self._ports[address, port] = server._port

    def _context(self, name: str, *, trusted: bool) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority = self._authority if trusted else self._stranger
        authority.issue_cert(name, f"auth.{name}" if not name[0].isdigit() else name).configure_cert(context)
        return context

    # --- the socket

    def _getaddrinfo(self, host: Any, port: Any, *args: Any, **named: Any) -> list[Any]:
        if host in self._names:
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in self._names[host]]
        named.pop("flags", None)
        if str(host).rpartition(".")[2].isalpha() and host != "localhost":
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return self._resolve(host, port, *args, **named)

    async def _sock_connect(self, sock: socket.socket, address: Any) -> None:
        host, port = address[:2]
        if host.startswith("127.") or host == "::1":
            return await self._connect(sock, address)
        self.connections.append(f"{host}:{port}")
        if (host, port) not in self._ports:
            raise ConnectionRefusedError(111, "refused")
        return await self._connect(sock, ("127.0.0.1", self._ports[host, port]))

    # --- what is said

    def _listen(self) -> Any:
        """Keep what is logged; returns how to stop."""
        processors = structlog.get_config()["processors"]
        before = list(processors)

        def keep(_: object, level: str, event: Any) -> Any:
            self.lines.append(f"{level} " + " ".join(f"{name}={value}" for name, value in event.items()))
            raise structlog.DropEvent

        # In place, as loggers that are in use hold this list.
        processors[:] = [structlog.processors.format_exc_info, keep]

        def stop() -> None:
            processors[:] = before

        return stop

    def heard(self) -> str:
        """All that servers and proxies were told."""
        told = [
            f"{seen.method} {seen.path} {dict(seen.query)} {dict(seen.headers)} {dict(seen.form)}"
            for server in self.servers
            for seen in server.requests
        ]
        told += [f"{asked.method} {asked.target} {asked.headers}" for proxy in self.proxies for asked in proxy.requests]
        return "\n".join(told)

    async def play(self, settings: dict[str, Any] | None = None, **options: Any) -> Stage:
        """The whole controller, in this world."""
        teller = Storyteller(self._directory, settings or {}, **options)
        await self._life.enter_async_context(teller)
        # What it waits for and clears.
        teller._registries |= {
            server.name: server for server in self.servers if isinstance(server, NamedRegistry | NamedTokens)
        }
        return Stage(self, teller)


class _Journal(list[ApiSeen]):
    """The requests to the API server; `ever` keeps what is cleared."""

    def __init__(self) -> None:
        super().__init__()
        self.ever: list[ApiSeen] = []

    def append(self, seen: ApiSeen) -> None:
        super().append(seen)
        self.ever.append(seen)


class Stage:
    """One controller, and what it makes of the world."""

    def __init__(self, world: World, teller: Storyteller) -> None:
        self.world, self.teller, self.api = world, teller, teller.api
        self.journal = self.api.requests = _Journal()

    async def apply(self, *objects: dict[str, Any]) -> None:
        await self.teller.play({"apply": list(objects)})

    async def advance(self, text: str) -> None:
        await self.teller.play({"advance": text})

    async def refresh(self, name: str, nonce: str = "again") -> None:
        """Have all tags of a stream looked up again."""
        await self.teller.play({"annotate": {f"ImageStream/{name}": {"imagestreams.dev/refresh": nonce}}})
        await self.advance("10s")

    async def settled(self, seconds: float = 10) -> None:
        """Wait until nothing is asked, queued or written any more."""
        lanes = self.lanes
        async with asyncio.timeout(seconds):
            await self.quiet()
            while lanes.load() != (0, 0) or lanes._arrived:
                await until(lambda: lanes.load() == (0, 0), seconds=seconds)
                await self.quiet()

    async def quiet(self) -> None:
        """Wait until nothing was asked for a moment; what hangs may hang, and a workload may wait for a right."""
        queue, before = self.teller.controller._stream_queue, -1
        while before != (before := self.teller._activity()) or len(queue):  # noqa: ASYNC110 - of many things at once
            await asyncio.sleep(0.1)

    @property
    def lanes(self) -> Any:
        importer = self.teller.controller._importer
        assert importer is not None
        return importer._lanes

    async def played(self, *objects: dict[str, Any]) -> None:
        await self.apply(*objects)
        await self.settled()

    # --- what came of it

    def stream(self, name: str) -> dict[str, Any]:
        return self.teller._get(f"ImageStream/{name}")

    def tag(self, name: str, tag: str = "stable") -> dict[str, Any]:
        tags = self.stream(name).get("status", {}).get("tags") or []
        return next((each for each in tags if each["tag"] == tag), {})

    def items(self, name: str, tag: str = "stable") -> list[str]:
        """The pull specs of a tag's history, newest first."""
        return [item["dockerImageReference"] for item in self.tag(name, tag).get("items") or []]

    def reason(self, name: str, tag: str = "stable") -> str:
        return next((each["reason"] for each in self.tag(name, tag).get("conditions", [])), "")

    def message(self, name: str, tag: str = "stable") -> str:
        return next((each.get("message", "") for each in self.tag(name, tag).get("conditions", [])), "")

    def deployed(self, name: str, namespace: str = NAMESPACE) -> str:
        """The image of a Deployment's one container."""
        found = self.teller._get(f"Deployment/{namespace}/{name}")
        return str(found["spec"]["template"]["spec"]["containers"][0]["image"])

    def written(self) -> str:
        """All that was ever sent to the API server: status, Events, patches, paths."""
        return "\n".join(f"{seen.path} {dict(seen.query)} {seen.body.decode()}" for seen in self.journal.ever)

    def shown(self) -> str:
        """All that people can see: what was written, logged and measured."""
        metrics = prometheus_client.generate_latest().decode()
        return "\n".join([self.written(), *self.world.lines, metrics])


# --- objects ----------------------------------------------------------------------------------------------------------


def stream(name: str, namespace: str = NAMESPACE, *, policy: Any = None, **tags: str) -> dict[str, Any]:
    """A stream whose tags are images; `policy` is the import policy of all."""
    return {
        "apiVersion": STREAMS[0],
        "kind": "ImageStream",
        "metadata": {"namespace": namespace, "name": name},
        "spec": {
            "tags": [
                {
                    "name": tag.replace("_", "-"),
                    "from": {"kind": "DockerImage", "name": image},
                    "importPolicy": policy or {},
                }
                for tag, image in tags.items()
            ]
        },
    }


def follower(name: str, namespace: str = NAMESPACE, *, of: str = NAMESPACE, **tags: str) -> dict[str, Any]:
    """A stream whose tags are those of other streams of the namespace `of`."""
    made = stream(name, namespace, **tags)
    for tag in made["spec"]["tags"]:
        tag["from"] |= {"kind": "ImageStreamTag", "namespace": of}
    return made


def secret(name: str, namespace: str = NAMESPACE, **logins: str) -> dict[str, Any]:
    """A pull secret; `**{"host/path": "user:password"}`."""
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"namespace": namespace, "name": name}, "login": logins}


def config_map(name: str, namespace: str, **data: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"namespace": namespace, "name": name},
        "data": data,
    }


def registries(text: str) -> dict[str, Any]:
    """The administrator's document."""
    return config_map("imagestreams-registries", SYSTEM, **{"registries.yaml": text})


def deployment(name: str, follow: str, namespace: str = NAMESPACE) -> dict[str, Any]:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"namespace": namespace, "name": name, "annotations": {"imagestreams.dev/follow": f"web={follow}"}},
        "spec": {"template": {"spec": {"containers": [{"name": "web", "image": "harmless/web"}]}}},
    }


# --- secrets ----------------------------------------------------------------------------------------------------------


def spellings(secret: str) -> frozenset[str]:
    """How a secret may be written: plain, in a URL, in JSON, in hex, in base64 wherever in a text it begins."""
    raw = secret.encode()
    found = {secret, quote(secret, safe=""), quote(secret), json.dumps(secret)[1:-1], raw.hex()}
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        for before in range(3):
            # What shares a character with its neighbours is left off.
            text = encode(b"\0" * before + raw).decode().rstrip("=")
            found.add(text[(0, 2, 3)[before] : len(text) - ((before + len(raw)) % 3 != 0)])
    return frozenset(found)


def told(secret: str, text: str) -> list[str]:
    """The spellings of a secret that are in a text, each with what stands around it."""
    return [
        f"{spelling}: ...{text[max(0, at - 200) : at + 200]}..."
        for spelling in spellings(secret)
        if (at := text.find(spelling)) >= 0
    ]
