"""Three hundred streams, three registries: one is sound, one throttles a login, one takes requests and never answers.
What is sound is not held up; what is not is said and left alone; and in the end everything is imported.
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

import pytest
from aiohttp import web

from dev.control_plane import ControlPlane
from dev.controller import Controller
from dev.images import Image, image
from tests.e2e.conftest import World
from tests.e2e.proxy import ApiProxy
from tests.fakes.registry import FakeRegistry, credentials_in, errors_body

T = TypeVar("T")

GOOD, BUSY, SLOW = "good.test", "busy.test", "slow.test"
STREAMS, PAYING = 300, 50  # those that pay are in a namespace of their own, with a login that is not throttled
MOVES = 20
RETRY_AFTER = 8.0  # seconds
CONCURRENCY = 8  # lookups at one host, the setting's default
INTERVAL = 5.0  # seconds
FLAGS = (
    f"--insecure-registry={BUSY}",  # so that its credentials may travel over http
    f"--interval={INTERVAL:g}s",
    "--min-interval=1s",
    "--retry-base=1s",
    "--retry-cap=5s",
    "--connect-timeout=1s",
    "--request-timeout=2s",
)


class Backstage:
    """An event loop in a thread of its own, where servers of this process go on while the test waits for others."""

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="backstage", daemon=True)
        self._thread.start()
        return self

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


@dataclass
class Busy:
    """A registry that wants a login, and for a while has had enough of one."""

    registry: FakeRegistry
    asked: list[float] = field(default_factory=list)  # when that login's namespace asked, its challenge included
    refused: list[float] = field(default_factory=list)  # when it was told to wait

    def begin(self) -> None:
        async def answer(request: web.Request) -> web.StreamResponse:
            if "/free/" in request.path:
                self.asked.append(time.monotonic())
            if credentials_in(request.headers.get("Authorization", ""))[0] != "free":
                return await self.registry.answer(request)
            self.refused.append(time.monotonic())
            body, headers = errors_body("TOOMANYREQUESTS"), {"Retry-After": f"{RETRY_AFTER:g}"}
            return web.Response(status=429, body=body, headers=headers)

        self.registry.script(answer)

    def windows(self) -> list[int]:
        """How many requests there were in each time of waiting. Lookups that were under way when it began may end."""
        found: list[int] = []
        end = 0.0
        for begin in self.refused:
            if begin >= end:
                end = begin + RETRY_AFTER
                found.append(sum(begin < moment < end for moment in self.asked))
        return found


@dataclass
class Slow:
    """A registry that takes requests and, for a while, gives no answer."""

    registry: FakeRegistry
    most: int = 0  # requests that waited at a time
    _waiting: list[web.Request] = field(default_factory=list)

    def begin(self) -> None:
        self._released = asyncio.Event()

        async def answer(request: web.Request) -> web.StreamResponse:
            self._waiting = [each for each in self._waiting if each.transport and not each.transport.is_closing()]
            self._waiting.append(request)
            self.most = max(self.most, len(self._waiting))
            await self._released.wait()
            return await self.registry.answer(request)

        self.registry.script(answer)

    async def end(self) -> None:
        self.registry.behave()
        self._released.set()


@dataclass
class Registries:
    good: FakeRegistry
    busy: Busy
    slow: Slow
    stage: Backstage

    def flags(self) -> tuple[str, ...]:
        served = {GOOD: self.good, BUSY: self.busy.registry, SLOW: self.slow.registry}
        return tuple(f"--registry-endpoint={name}={registry.url}" for name, registry in served.items())


@pytest.fixture
def registries() -> Iterator[Registries]:
    with Backstage() as stage, ExitStack() as stack:
        busy = FakeRegistry(auth="htpasswd")
        busy.users = {"free": "free-password", "paid": "paid-password"}
        served = Registries(FakeRegistry(), Busy(busy), Slow(FakeRegistry()), stage)
        for registry in (served.good, busy, served.slow.registry):
            stage.run(registry.start())
            stack.callback(lambda registry: stage.run(registry.stop()), registry)
        served.busy.begin()
        served.slow.begin()
        stack.callback(lambda: stage.run(served.slow.end()))
        yield served


@dataclass(frozen=True)
class Plan:
    """One stream: a tag from each registry."""

    namespace: str
    name: str
    path: str

    def manifest(self) -> dict[str, Any]:
        tags = [
            {
                "name": host.partition(".")[0],
                "from": {"kind": "DockerImage", "name": f"{host}/{self.path}:1"},
                "importPolicy": {"scheduled": host == GOOD},
            }
            for host in (GOOD, BUSY, SLOW)
        ]
        return {
            "apiVersion": "image.openshift.io/v1",
            "kind": "ImageStream",
            "metadata": {"namespace": self.namespace, "name": self.name},
            "spec": {"tags": tags},
        }

    def content(self, host: str, version: int = 1) -> Image:
        return image(text=f"{host}/{self.path} {version}")


@dataclass(frozen=True)
class Seen:
    """The streams of some namespaces as they are in the cluster."""

    control_plane: ControlPlane
    namespaces: tuple[str, ...]

    def tags(self) -> dict[str, list[dict[str, Any]]]:
        """Status tags by stream."""
        path = "/apis/image.openshift.io/v1/namespaces/{}/imagestreams"
        lists = [self.control_plane.request("GET", path.format(name))["items"] for name in self.namespaces]
        return {each["metadata"]["name"]: each.get("status", {}).get("tags", []) for found in lists for each in found}

    def digests(self, tag: str) -> dict[str, tuple[str, ...]]:
        """The tag's history by stream, newest first."""
        return {
            name: tuple(item["image"] for each in tags if each["tag"] == tag for item in each.get("items", []))
            for name, tags in self.tags().items()
        }

    def reasons(self, tag: str) -> Counter[str]:
        """How often each; empty where nothing is known yet, since the host must not be asked."""
        found: Counter[str] = Counter()
        for tags in self.tags().values():
            [condition] = next((each["conditions"] for each in tags if each["tag"] == tag), [{"reason": ""}])
            found[condition["reason"]] += 1
        return found


def test_one_registry_throttles_and_one_hangs(
    world: World, control_plane: ControlPlane, rights: Path, registries: Registries, tmp_path: Path
):
    paying = f"{world.namespace}-paying"
    plans = [
        Plan(paying, f"app-{n:03}", f"paid/app-{n:03}")
        if n < PAYING
        else Plan(world.namespace, f"app-{n:03}", f"free/app-{n:03}")
        for n in range(STREAMS)
    ]
    good, busy, slow = registries.good, registries.busy, registries.slow
    for plan in plans:
        for host, registry in ((GOOD, good), (BUSY, busy.registry), (SLOW, slow.registry)):
            registry.add(plan.path, "1", plan.content(host))
    control_plane.kubectl("create", "namespace", paying)
    seen = Seen(control_plane, (world.namespace, paying))
    for namespace, user in ((world.namespace, "free"), (paying, "paid")):
        login = (f"--docker-server={BUSY}", f"--docker-username={user}", f"--docker-password={user}-password")
        control_plane.kubectl("-n", namespace, "create", "secret", "docker-registry", "busy", *login)

    with (
        _deleted_at_end(control_plane, paying),
        ApiProxy(control_plane) as proxy,
        Controller(proxy.kubeconfig(rights), tmp_path, *FLAGS, *registries.flags()) as controller,
    ):
        began = time.monotonic()
        control_plane.kubectl("apply", "-f", "-", input=json.dumps(_listed(plan.manifest() for plan in plans)))

        # The sound registry's tags are imported although each stream also waits for the others ...
        wanted = {plan.name: (plan.content(GOOD).digest,) for plan in plans}
        world.until(lambda: seen.digests("good") == wanted, seconds=40)
        # ... and so are those of a login that is not throttled, at a host that throttles another.
        world.until(lambda: seen.reasons("busy")["Imported"] == PAYING, seconds=20)
        world.until(lambda: seen.reasons("busy")["RateLimited"] and seen.reasons("slow")["Timeout"], seconds=20)

        moved = [plans[n * (STREAMS // MOVES)] for n in range(MOVES)]
        for plan in moved:
            good.add(plan.path, "1", plan.content(GOOD, 2))
        wanted |= {plan.name: (plan.content(GOOD, 2).digest, *wanted[plan.name]) for plan in moved}
        world.until(lambda: seen.digests("good") == wanted, seconds=INTERVAL + 7)

        world.until(lambda: len(busy.windows()) >= 3, seconds=4 * RETRY_AFTER)
        assert set(seen.reasons("busy")) <= {"Imported", "RateLimited", ""}
        assert seen.reasons("busy")["Imported"] == PAYING
        assert set(seen.reasons("slow")) <= {"Timeout", ""}
        assert max(busy.windows()) <= 2 * CONCURRENCY, busy.windows()
        assert slow.most <= CONCURRENCY
        assert len(slow.registry.requests) <= 6 * CONCURRENCY, "a host that never answers is left alone"
        slots = (time.monotonic() - began) / INTERVAL + 2
        assert len(good.requests) <= STREAMS * (1 + slots) + 2 * MOVES, "one request a slot"

        busy.registry.behave()
        registries.stage.run(slow.end())
        for tag, host in (("busy", BUSY), ("slow", SLOW)):
            world.until(lambda: set(seen.reasons(tag)) == {"Imported"}, seconds=70)  # noqa: B023 (called in this round)
            assert seen.digests(tag) == {plan.name: (plan.content(host).digest,) for plan in plans}
        assert seen.digests("good") == wanted

        writes = _status_writes(proxy)
        # The sound tag and its move, and for each of the two others a failure and what came in the end.
        assert max(writes.values()) <= 6, writes.most_common(5)
        assert controller.metrics()["process_resident_memory_bytes"] < 110e6


@contextmanager
def _deleted_at_end(control_plane: ControlPlane, namespace: str) -> Iterator[None]:
    try:
        yield
    finally:
        control_plane.kubectl("delete", "namespace", namespace, "--wait=false")


def _listed(manifests: Iterator[dict[str, Any]]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "List", "items": list(manifests)}


def _status_writes(proxy: ApiProxy) -> Counter[str]:
    paths = (path for method, path in list(proxy.requests) if method == "PATCH")
    return Counter(path for path in paths if re.search(r"/imagestreams/[^/]+/status$", path))
