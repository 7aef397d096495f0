"""A proxy in front of the API server that can hold a request: before it is sent on, or after it was answered.

Crash tests kill the controller while its request is held, so that it dies at a known point. The product has no hooks
for that.

    with ApiProxy(control_plane) as proxy:
        kubeconfig = proxy.kubeconfig(service_account_kubeconfig)
        held = proxy.hold("PATCH", r"/status$", when="after")     # the API server has it, the controller never learns
        ...
        held.wait()
        controller.kill()
        held.release()
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

import aiohttp
import yaml
from aiohttp import web

if TYPE_CHECKING:
    from dev.control_plane import ControlPlane

_HOP_HEADERS = {"host", "connection", "transfer-encoding", "content-length", "keep-alive", "upgrade"}


class Hold:
    """A request that will be held, once: the first that matches."""

    def __init__(
        self, method: str, path: str, when: Literal["before", "after"], loop: asyncio.AbstractEventLoop, skip: int
    ) -> None:
        self.method, self.path, self.when = method, re.compile(path), when
        self._loop, self._skip = loop, skip
        self._reached = threading.Event()
        self._released = asyncio.Event()
        self.is_taken = False

    def matches(self, request: web.Request) -> bool:
        if self.is_taken or request.method != self.method or not self.path.search(request.path):
            return False
        self._skip -= 1
        return self._skip < 0

    async def pause(self) -> None:
        self._reached.set()
        await self._released.wait()

    def wait(self, seconds: float = 20) -> None:
        """Until the request is held."""
        if not self._reached.wait(seconds):
            raise TimeoutError(f"no {self.method} {self.path.pattern} within {seconds} s")

    def release(self) -> None:
        self._loop.call_soon_threadsafe(self._released.set)


class ApiProxy:
    """Plain HTTP on loopback, in a thread of its own; forwards to the control plane's API server."""

    def __init__(self, plane: ControlPlane, port: int = 0) -> None:
        self._plane, self.port = plane, port
        self._holds: list[Hold] = []
        self._frozen: list[re.Pattern[str]] = []
        self._over = asyncio.Event()
        self.requests: list[tuple[str, str]] = []  # method and path, watches included
        self._loop = asyncio.new_event_loop()
        self._started: Future[int] = Future()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="api-proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self.port = self._started.result(10)
        return self

    def __exit__(self, *_: object) -> None:
        for hold in self._holds:
            hold.release()
        self._loop.call_soon_threadsafe(self._over.set)
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    def hold(self, method: str, path: str, *, when: Literal["before", "after"], skip: int = 0) -> Hold:
        """Hold a request of that method whose path matches the regular expression: the next, or one after `skip`."""
        hold = Hold(method, path, when, self._loop, skip)
        self._holds.append(hold)
        return hold

    def freeze(self, path: str) -> None:
        """From now on watches of paths that match bring nothing more; they stay open."""
        self._frozen.append(re.compile(path))

    def kubeconfig(self, original: Path) -> Path:
        """The kubeconfig, leading through this proxy."""
        config = yaml.safe_load(original.read_text())
        for cluster in config["clusters"]:
            cluster["cluster"] = {"server": f"http://127.0.0.1:{self.port}"}
        path = original.with_name(f"proxied-{self.port}.kubeconfig")
        path.write_text(yaml.safe_dump(config))
        return path

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:  # at its end cancels what is still held
            runner.run(self._serve())

    async def _serve(self) -> None:
        tls = ssl.create_default_context(cafile=str(self._plane.ca_file))
        connector = aiohttp.TCPConnector(ssl=tls, limit=0)
        async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as session:

            async def forward(request: web.Request) -> web.StreamResponse:
                return await self._forward(session, request)

            app = web.Application(client_max_size=16 << 20)
            app.router.add_route("*", "/{path:.*}", forward)
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", self.port)
            await site.start()
            self._started.set_result(runner.addresses[0][1])
            await self._stop.wait()
            await runner.cleanup()

    async def _forward(self, session: aiohttp.ClientSession, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.method, request.path))
        hold = next((hold for hold in self._holds if hold.matches(request)), None)
        if hold is not None:
            hold.is_taken = True
        body = await request.read()
        if hold is not None and hold.when == "before":
            await hold.pause()
            return web.Response(status=503)  # it never reaches the API server
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP_HEADERS}
        url = f"{self._plane.url}{request.path_qs}"
        async with session.request(
            request.method, url, data=body or None, headers=headers, timeout=aiohttp.ClientTimeout(total=None)
        ) as answer:
            if hold is not None:
                await answer.read()
                await hold.pause()
                return web.Response(status=503)
            response = web.StreamResponse(status=answer.status)
            for name, value in answer.headers.items():
                if name.lower() not in _HOP_HEADERS:
                    response.headers[name] = value
            with contextlib.suppress(ConnectionError):
                await response.prepare(request)
                async for chunk in answer.content.iter_any():
                    if "watch" in request.query and any(frozen.search(request.path) for frozen in self._frozen):
                        await self._over.wait()
                    await response.write(chunk)
                await response.write_eof()
            return response
