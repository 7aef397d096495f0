"""A webhook server on loopback, over TLS, and an API server's way of calling it."""

from __future__ import annotations

import io
import json
import ssl
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from imagestreams.core.admission import Allowed, Handler, Review, Tokens, Verdict
from imagestreams.core.certificate import KeyPair, new_authority, new_serving
from imagestreams.server.admission import Admission, Door, ServingCertificate, serve_admission

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TOKEN, PREVIOUS, WRONG = "a" * 64, "b" * 64, "c" * 64
NAMES = ("localhost", "127.0.0.1")


def review_of(**changes: Any) -> dict[str, Any]:
    """An AdmissionReview, with other fields in its request."""
    deployment = {"group": "apps", "version": "v1"}
    request = {
        "uid": "u-1",
        "kind": {**deployment, "kind": "Deployment"},
        "resource": {**deployment, "resource": "deployments"},
        "name": "web",
        "namespace": "shop",
        "operation": "CREATE",
        "userInfo": {"username": "jane"},
        "object": {"kind": "Deployment"},
        "oldObject": None,
        "dryRun": False,
    }
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {**request, **changes}}


@dataclass
class Webhooks:
    """The server's settings, which a test may change before it starts, and its client's side.

    Attributes:
        reviews: what reached a handler.
        calls: door, operation and outcome of each call.
        exposed: how often a path may have been shown.
        late_tokens: what `refresh` finds.
    """

    authority: KeyPair
    doors: dict[str, Door] = field(default_factory=dict)
    tokens: Tokens = field(default_factory=lambda: Tokens(TOKEN, PREVIOUS))
    late_tokens: Tokens | None = None
    client_ca: str = ""
    client_name: str = ""
    reviews: list[Review] = field(default_factory=list)
    calls: list[tuple[str, str, str]] = field(default_factory=list)
    exposed: int = 0
    refreshed: int = 0
    port: int = 0

    def door(
        self,
        name: str,
        verdict: Verdict | Handler | None = None,
        *,
        seconds: float = 10.0,
        in_flight: int = 8,
        fails_open: bool = False,
        **room: int,
    ) -> None:
        """Add a door that says `verdict`."""

        async def handle(review: Review) -> Verdict:
            self.reviews.append(review)
            return await verdict(review) if callable(verdict) else verdict or Allowed()

        self.doors[name] = Door(handle, seconds, in_flight, fails_open, **room)

    async def start(self) -> None:
        async def refresh() -> None:
            self.refreshed += 1
            self.tokens = self.late_tokens or self.tokens

        def expose() -> None:
            self.exposed += 1

        self.certificate = ServingCertificate(self.client_ca)
        self.certificate.use(new_serving(self.authority, NAMES, datetime.now(UTC)))
        self.admission = Admission(
            self.doors,
            lambda: self.tokens,
            refresh=refresh,
            client_name=self.client_name,
            on_review=lambda door, operation, said, seconds: self.calls.append((door, operation, said)),
            on_exposed=expose,
        )
        self.listener, self.port = await serve_admission(self.admission, "127.0.0.1", 0, self.certificate)

    def trusting(self, *authorities: KeyPair) -> ssl.SSLContext:
        pem = b"".join(each.certificate for each in authorities or (self.authority,))
        context = ssl.create_default_context(cadata=pem.decode())
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    async def post(
        self,
        path: str,
        body: Any = None,
        *,
        method: str = "POST",
        tls: ssl.SSLContext | None = None,
        **options: Any,
    ) -> tuple[int, bytes]:
        content = body if isinstance(body, bytes) else json.dumps(review_of() if body is None else body).encode()
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls or self.trusting())) as session,
            session.request(
                method, f"https://127.0.0.1:{self.port}{path}", data=io.BytesIO(content), **options
            ) as response,
        ):
            return response.status, await response.read()

    async def ask(self, path: str, body: Any = None, **options: Any) -> dict[str, Any]:
        """The response within the AdmissionReview that was answered."""
        status, answer = await self.post(path, body, **options)
        assert status == 200, answer
        response: dict[str, Any] = json.loads(answer)["response"]
        assert response.pop("uid") == "u-1"
        return response


@pytest.fixture(scope="session")
def authority() -> KeyPair:
    return new_authority(datetime.now(UTC))


@pytest.fixture
async def webhooks(authority: KeyPair) -> AsyncIterator[Webhooks]:
    made = Webhooks(authority)
    yield made
    if made.port:
        await made.listener.cleanup()
