"""An HTTP proxy at a real socket: it opens tunnels, passes plain requests on, and records what it was asked.

    async with FakeProxy({"registry.example": "127.0.0.1"}, login="user:pw") as proxy:
        ...
        assert proxy.asked() == ["CONNECT registry.example:5000"]

Names are looked up in its table, as only a proxy can that knows more of the world than we do.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self
from urllib.parse import quote, urlsplit


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it came in; `target` as it is written in its first line."""

    method: str
    target: str
    headers: Mapping[str, str]


class FakeProxy:
    """An HTTP proxy; see the module.

    Args:
        names: the address of each name.
        login: "user:password" without which nothing is done.
        tls: how it is spoken to, where it is an https:// proxy.

    Attributes:
        requests: what was asked so far, oldest first.
        status: what everything is answered with; None does what is asked.
        is_silent: nothing is answered.
    """

    def __init__(
        self, names: Mapping[str, str] | None = None, *, login: str = "", tls: ssl.SSLContext | None = None
    ) -> None:
        self.requests: list[Asked] = []
        self.status: int | None = None
        self.is_silent = False
        self._names = dict(names or {})
        self._login = login
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._port = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._port}"

    @property
    def url(self) -> str:
        login = f"{quote(self._login, safe=':')}@" if self._login else ""
        return f"{'https' if self._tls else 'http'}://{login}{self.host}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._port, ssl=self._tls)
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server
        self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def asked(self) -> list[str]:
        return [f"{request.method} {request.target}" for request in self.requests]

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError), contextlib.closing(writer):
            head = await reader.readexactly(1)
            if not head.isalpha():  # TLS, where it should be HTTP
                writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
                await writer.drain()
                return
            head += await reader.readuntil(b"\r\n\r\n")
            first, *lines = head.decode("latin-1").rstrip().split("\r\n")
            method, target, _ = first.split(" ")
            headers = {name.title(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            self.requests.append(Asked(method, target, headers))
            if self.is_silent:
                await reader.read()
                return
            status = self.status or (407 if not self._is_welcome(headers) else None)
            if status is not None:
                writer.write(f"HTTP/1.1 {status} No\r\nContent-Length: 0\r\n\r\n".encode())
                await writer.drain()
                return
            if method == "CONNECT":
                await self._tunnel(target, reader, writer)
            else:
                await self._pass_on(method, target, headers, reader, writer)

    def _is_welcome(self, headers: Mapping[str, str]) -> bool:
        wanted = f"Basic {base64.b64encode(self._login.encode()).decode()}" if self._login else ""
        return headers.get("Proxy-Authorization", "") == wanted

    async def _open(self, host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(self._names.get(host, host), port)

    async def _tunnel(self, target: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = target.rpartition(":")
        try:
            there, back = await self._open(host, int(port))
        except OSError:
            writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
            return
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        with contextlib.closing(back):
            await _first(_pump(reader, back), _pump(there, writer))

    async def _pass_on(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        url = urlsplit(target)
        there, back = await self._open(url.hostname or "", url.port or 80)
        kept = {name: value for name, value in headers.items() if not name.startswith("Proxy-")}
        lines = [f"{name}: {value}" for name, value in {**kept, "Connection": "close"}.items()]
        path = f"{url.path}?{url.query}" if url.query else url.path
        with contextlib.closing(back):
            back.write("\r\n".join([f"{method} {path} HTTP/1.1", *lines, "", ""]).encode("latin-1"))
            await _first(_pump(reader, back), _pump(there, writer))


async def _first(*coroutines: object) -> None:
    """Run all until one has ended."""
    tasks = [asyncio.ensure_future(each) for each in coroutines]  # type: ignore[call-overload]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(65536):
        writer.write(chunk)
        await writer.drain()
