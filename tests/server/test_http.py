"""Health, as a probe sees it."""

from __future__ import annotations

import aiohttp
import pytest

from imagestreams.server.http import application, serve


@pytest.mark.parametrize(
    ("problems", "warnings", "status", "text"),
    [
        pytest.param({}, {}, 200, "[+] caches: ok\n[+] webhooks: ok\n", id="all is well"),
        pytest.param(
            {"caches": "not synced yet"}, {}, 503, "[-] caches: not synced yet\n[+] webhooks: ok\n", id="one is not"
        ),
        pytest.param(
            {},
            {"webhooks": "the certificate ends on Friday"},
            200,
            "[+] caches: ok\n[+] webhooks: ok, but the certificate ends on Friday\n",
            id="what will come is told, and takes nobody out of service",
        ),
        pytest.param(
            {"webhooks": "no certificate"},
            {"webhooks": "it ends"},
            503,
            "[+] caches: ok\n[-] webhooks: no certificate\n",
            id="what is there already counts",
        ),
    ],
)
async def test_readiness(problems: dict[str, str], warnings: dict[str, str], status: int, text: str):
    runner, port = await serve(application(("caches", "webhooks"), lambda: problems, lambda: warnings), "127.0.0.1", 0)
    try:
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/readyz") as response:
            assert (response.status, await response.text()) == (status, text)
    finally:
        await runner.cleanup()
