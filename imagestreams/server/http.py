"""Health and metrics over HTTP.

`/healthz` says that the process lives and its loop turns; `/readyz` that its caches are synced and the API server
answers, with one line for each check, so that `kubectl describe pod` shows which one fails; `/metrics` is Prometheus'
text format.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from aiohttp import web

from imagestreams import metrics

Runner = web.AppRunner


def application(
    checks: Iterable[str], problems: Callable[[], Mapping[str, str]], warnings: Callable[[], Mapping[str, str]] = dict
) -> web.Application:
    """The routes.

    Args:
        checks: the names of what readiness consists of.
        problems: what is wrong at the moment, in words, by check.
        warnings: what will be, and is no reason yet to take this replica out of service.
    """
    names = tuple(checks)

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        found, coming = problems(), warnings()
        good = {name: f"ok, but {coming[name]}" if name in coming else "ok" for name in names}
        lines = [f"[-] {name}: {found[name]}" if name in found else f"[+] {name}: {good[name]}" for name in names]
        return web.Response(text="\n".join(lines) + "\n", status=503 if found else 200)

    async def scrape(_: web.Request) -> web.Response:
        body, content_type = metrics.exposition()
        return web.Response(body=body, headers={"Content-Type": content_type})

    app = web.Application()
    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", scrape)])
    return app


async def serve(app: web.Application, host: str, port: int) -> tuple[web.AppRunner, int]:
    """Listen; returns the runner to clean up and the port, chosen by the system if 0 was asked for. Raises OSError."""
    runner = web.AppRunner(app, access_log=None, handle_signals=False)
    await runner.setup()
    site = web.TCPSite(runner, host or None, port)
    await site.start()
    (_, bound, *_), *_ = runner.addresses
    return runner, bound
