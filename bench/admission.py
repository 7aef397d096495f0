"""What the pinning webhook adds to the time that creating a Deployment takes, at the 99th percentile. The bar is 25 ms.

    python -m bench.admission

The real API server calls the webhooks, a process of their own, 100 times a second for Deployments that follow tags of
1,000 streams, and tells how long it waited for them. Meanwhile a controller is started again and again that loads
10,000 streams. Between them it calls a webhook that does nothing, a process of its own, too: what that takes is the
machine's, and on one that is too slow or busy for 25 ms the bar is 1.5 times that. The time to decide is measured in
this process before, with nothing else going on.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import ssl
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import trustme
from aiohttp import web

from dev.control_plane import ControlPlane
from dev.controller import Controller, install_webhooks, webhook_flags
from dev.process import Server, free_port
from imagestreams.core.admission import Allowed, decode_review, encode_verdict
from imagestreams.core.stream import ImageStream, ObjectKey, decode
from imagestreams.core.trigger import TriggerRules
from imagestreams.kube.cluster import Cluster, api_path
from imagestreams.server.pinning import PinningDoor

_BAR = 0.025  # seconds
_RATE, _EMPTY_RATE = 100, 50  # a second
_SECONDS = 30
_FOLLOWED, _STREAMS = 1_000, 10_000
_DECISIONS = 5_000
_PAUSE = 5.0  # seconds that a controller works when it has loaded
_AT_A_TIME = 32  # requests that prepare the cluster
_API = "image.openshift.io/v1"
_NAMESPACE = "bench"
_PLACEHOLDER = "example/placeholder:1"
_WAITED = "apiserver_admission_webhook_admission_duration_seconds_bucket"
_WRITES, _DONE = 'resource="imagestreams/status"', 'code="200"'
_FOLLOW, _NOTE = "imagestreams.dev/follow", "example.com/note"
_CONFIGURATIONS = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"

Json = dict[str, Any]


def main() -> None:
    """Print what was measured; exit with 1 where it is over the bar."""
    if len(sys.argv) > 1:
        return web.run_app(_empty(), host="127.0.0.1", port=int(sys.argv[1]), ssl_context=_tls(sys.argv[2]), print=None)
    _tell("decide, in this process", asyncio.run(_decisions()))
    with tempfile.TemporaryDirectory() as directory, ControlPlane(workloads=False) as plane:
        empty, pinned = asyncio.run(_creations(plane, Path(directory)))
    bar = max(_BAR, 1.5 * empty)
    print(f"{'added by an empty webhook':<28} p99 {_shown(empty)}")
    print(f"{'added by pinning':<28} p99 {_shown(pinned)}   (bar {_shown(bar)})")
    sys.exit(pinned > bar)


def _tell(name: str, times: Sequence[float]) -> None:
    p50, p99 = (sorted(times)[min(len(times) - 1, len(times) * percent // 100)] for percent in (50, 99))
    print(f"{name:<28} p50 {_shown(p50)}   p99 {_shown(p99)}")


def _shown(seconds: float) -> str:
    return f"{1000 * seconds:8.2f} ms"


def _p99(buckets: dict[float, float]) -> float:
    """Of a histogram (counts up to each bound), as Prometheus reads it: within a bucket times are spread evenly."""
    wanted = 0.99 * max(buckets.values())
    below, count = 0.0, 0.0
    for bound, up_to in sorted(buckets.items()):
        if up_to >= wanted:
            return below + (bound - below) * (wanted - count) / (up_to - count) if bound < float("inf") else bound
        below, count = bound, up_to
    raise ValueError("an empty histogram")


def _stream(number: int) -> Json:
    """A stream that needs no registry: its tag is a reference."""
    source = {"kind": "DockerImage", "name": f"registry.test/acme/app{number}@sha256:{number:064x}"}
    metadata = {"name": f"app{number}", "namespace": _NAMESPACE}
    spec = {"tags": [{"name": "stable", "from": source, "reference": True}]}
    return {"apiVersion": _API, "kind": "ImageStream", "metadata": metadata, "spec": spec}


def _status(number: int) -> Json:
    digest = f"sha256:{number:064x}"
    item = {"created": "2026-03-01T12:00:00Z", "image": digest}
    item["dockerImageReference"] = f"registry.test/acme/app{number}@{digest}"
    return {"status": {"tags": [{"tag": "stable", "items": [item]}]}}


def _deployment(name: str, follow: str) -> Json:
    """A Deployment of some size, whose first container follows a tag or not."""
    variables = [{"name": f"VARIABLE_{number}", "value": "x" * 40} for number in range(20)]
    containers = [{"name": each, "image": _PLACEHOLDER, "env": variables} for each in ("web", "log", "proxy")]
    labels = {"app": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": name,
            "namespace": _NAMESPACE,
            "annotations": {_FOLLOW if follow else _NOTE: f"web={follow or 'app:stable'}"},
        },
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": containers}},
        },
    }


# --- the decision alone -----------------------------------------------------------------------------------------------


async def _decisions() -> list[float]:
    """Seconds from a review's bytes to those of the answer."""
    streams: dict[ObjectKey, ImageStream] = {}
    for number in range(_FOLLOWED):
        stream = decode(json.dumps({**_stream(number), **_status(number)}).encode())
        streams[stream.key] = stream

    async def nobody_may(_consumer: str, _key: ObjectKey) -> bool:
        return False

    rules = TriggerRules()
    door = PinningDoor(
        streams=streams.get,
        synced=lambda: True,
        may_pull=nobody_may,
        rules=lambda: rules,
        excluded=frozenset(),
        is_observing=False,
        clock=lambda: datetime.now(UTC),
    )
    bodies = [_review(number % _FOLLOWED) for number in range(_DECISIONS)]
    times = []
    for body in bodies:
        began = time.perf_counter()
        review = decode_review(body)
        answer = encode_verdict(review.uid, await door(review))
        times.append(time.perf_counter() - began)
        assert b"patch" in answer
    return times


def _review(number: int) -> bytes:
    request = {
        "uid": "1",
        "kind": {"group": "apps", "version": "v1", "kind": "Deployment"},
        "resource": {"group": "apps", "version": "v1", "resource": "deployments"},
        "operation": "CREATE",
        "namespace": _NAMESPACE,
        "name": "web",
        "userInfo": {"username": "jane"},
        "object": _deployment("web", f"app{number}:stable"),
    }
    return json.dumps({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}).encode()


# --- at the API server ------------------------------------------------------------------------------------------------


async def _creations(plane: ControlPlane, directory: Path) -> tuple[float, float]:
    """Seconds that the API server waits for an empty webhook and for ours, at the 99th percentile."""
    port, empty_port = free_port(), free_port()
    rights = install_webhooks(plane, port=port)
    plane.request("POST", "/api/v1/namespaces", {"metadata": {"name": _NAMESPACE}})
    plane.request("POST", _CONFIGURATIONS, _empty_configuration(directory, empty_port))
    controller = Controller(rights, directory)
    async with await Cluster.connect(str(plane.kubeconfig), None) as cluster:
        await asyncio.to_thread(controller.start)
        await _each(lambda number: _post(cluster, "imagestreams", _API, _stream(number)), range(_STREAMS))
        await _until(lambda: _has_written(controller), seconds=300, what="all statuses written")
        await asyncio.to_thread(controller.stop)
        command = [sys.executable, "-m", "bench.admission", str(empty_port), str(directory / "empty.pem")]
        empty = Server("empty", command, directory)
        try:
            with Controller(rights, directory, *webhook_flags(port), "--webhooks-only", name="webhooks"):
                await _until(lambda: _are_called(cluster), seconds=60, what="both webhooks called")
                before = await _waited(cluster)
                restarting = asyncio.create_task(_restart(controller))
                try:
                    await _create_all(cluster)
                finally:
                    restarting.cancel()
                    await asyncio.gather(restarting, return_exceptions=True)
                    await asyncio.to_thread(controller.stop)
                after = await _waited(cluster)
        finally:
            empty.stop()
    waited = [
        {bound: count - before[name].get(bound, 0.0) for bound, count in after[name].items()}
        for name in ("empty", "pinning")
    ]
    return _p99(waited[0]), _p99(waited[1])


def _empty_configuration(directory: Path, port: int) -> Json:
    """Of a webhook that does nothing, for Deployments that follow nothing; its key is written to the directory."""
    authority = trustme.CA()
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(directory / "empty.pem")
    ca = base64.b64encode(authority.cert_pem.bytes()).decode()
    hook = {
        "name": "empty.example.com",
        "clientConfig": {"url": f"https://127.0.0.1:{port}/", "caBundle": ca},
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "failurePolicy": "Ignore",
        "timeoutSeconds": 2,
        "matchConditions": [{"name": "noted", "expression": f"'{_NOTE}' in object.metadata.annotations"}],
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": _NAMESPACE}},
        "rules": [{"apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments"], "operations": ["*"]}],
    }
    return {"metadata": {"name": "empty"}, "webhooks": [hook]}


def _empty() -> web.Application:
    """What any webhook in Python must do, and no more."""

    async def allow(request: web.Request) -> web.Response:
        return web.Response(body=encode_verdict(decode_review(await request.read()).uid, Allowed()))

    app = web.Application(client_max_size=8 << 20)
    app.router.add_post("/", allow)
    return app


def _tls(file: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context


async def _has_written(controller: Controller) -> bool:
    written = await asyncio.to_thread(controller.metrics)
    return sum(count for name, count in written.items() if _WRITES in name and _DONE in name) >= _STREAMS


async def _are_called(cluster: Cluster) -> bool:
    await _create(cluster, "probe", "", is_rehearsed=True)
    await _create(cluster, "probe", "app0:stable", is_rehearsed=True)
    return set(await _waited(cluster)) == {"empty", "pinning"}


async def _restart(controller: Controller) -> None:
    """Have the streams loaded again and again."""
    while True:
        await asyncio.to_thread(controller.start)
        await asyncio.sleep(_PAUSE)
        await asyncio.to_thread(controller.kill)


async def _waited(cluster: Cluster) -> dict[str, dict[float, float]]:
    """How often the API server has waited for each webhook at most so long, without those that failed."""
    found: dict[str, dict[float, float]] = {}
    for line in (await cluster.get("/metrics")).decode().splitlines():
        if line.startswith(_WAITED) and 'operation="CREATE"' in line:
            labels = dict(re.findall(r'(\w+)="([^"]*)"', line))
            buckets = found.setdefault(labels["name"].partition(".")[0], {})
            buckets[float(labels["le"])] = float(line.rpartition(" ")[2])
    return found


async def _until(condition: Callable[[], Awaitable[bool]], *, seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not await condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:g} s: {what}")
        await asyncio.sleep(0.2)


async def _post(cluster: Cluster, resource: str, api_version: str, body: Json) -> None:
    await cluster.post(api_path(api_version, resource, _NAMESPACE), json.dumps(body).encode())


async def _each(do: Callable[[int], Awaitable[None]], numbers: Iterable[int]) -> None:
    turns = asyncio.Semaphore(_AT_A_TIME)

    async def one(number: int) -> None:
        async with turns:
            await do(number)

    await asyncio.gather(*(one(number) for number in numbers))


async def _create_all(cluster: Cluster) -> None:
    """Each creation begins at its time, whatever became of those before."""
    plans = [(number / _RATE, f"app{number % _FOLLOWED}:stable") for number in range(_RATE * _SECONDS)]
    plans += [(number / _EMPTY_RATE, "") for number in range(_EMPTY_RATE * _SECONDS)]
    loop = asyncio.get_running_loop()
    made: dict[bool, list[asyncio.Task[tuple[float, bool]]]] = {False: [], True: []}
    begin = loop.time()
    for number, (at, follow) in enumerate(sorted(plans)):
        await asyncio.sleep(begin + at - loop.time())
        made[bool(follow)].append(asyncio.create_task(_create(cluster, f"d{number}", follow)))
    empty, pinned = [await asyncio.gather(*made[follows]) for follows in (False, True)]
    _tell("create, empty webhook", [seconds for seconds, _ in empty])
    _tell("create, pinned", [seconds for seconds, _ in pinned])
    missed = sum(not is_pinned for _, is_pinned in pinned)
    if missed:
        print(f"{missed} of {len(pinned)} were not pinned: the webhook did not answer in time")


async def _create(cluster: Cluster, name: str, follow: str, *, is_rehearsed: bool = False) -> tuple[float, bool]:
    """Seconds, and whether the Deployment has a tag's image."""
    body = json.dumps(_deployment(name, follow)).encode()
    path = api_path("apps/v1", "deployments", _NAMESPACE)
    began = time.perf_counter()
    answer = await cluster.post(f"{path}?dryRun=All" if is_rehearsed else path, body)
    return time.perf_counter() - began, b"@sha256:" in answer


if __name__ == "__main__":
    main()
