"""Events that count up instead of piling up, and never stand in anybody's way."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagestreams.kube import events as events_module
from imagestreams.kube.events import EventRecorder, Involved, scrubbed
from tests.fakes.apiserver import FakeApiServer, disconnect, raw, status
from tests.fakes.waiting import Naps, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from dev.control_plane import ControlPlane
    from imagestreams.kube.cluster import Cluster

WEB = Involved("image.openshift.io/v1", "ImageStream", "acme", "web", "uid-1", "42")
NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)


class Recording:
    def __init__(self, cluster: Cluster) -> None:
        self.time = Naps()
        self.dropped = 0
        self.recorder = EventRecorder(
            cluster,
            clock=lambda: NOW + timedelta(seconds=self.time.now - 1000),
            instance="pod-1",
            on_drop=self._drop,
            monotonic=self.time.clock,
            sleep=self.time.sleep,
        )

    def _drop(self) -> None:
        self.dropped += 1

    def record(self, message: str = "tag latest: not found", regarding: Involved = WEB) -> None:
        self.recorder.record(regarding, "Warning", "ImportFailed", message)


@asynccontextmanager
async def recording(cluster: Cluster) -> AsyncIterator[Recording]:
    made = Recording(cluster)
    running = asyncio.create_task(made.recorder.run())
    try:
        yield made
    finally:
        assert not running.done()
        running.cancel()
        await asyncio.wait([running])


def events(api: FakeApiServer) -> list[dict[str, Any]]:
    return api.all("v1", "events")


async def test_an_event(api: FakeApiServer, cluster: Cluster) -> None:
    async with recording(cluster) as recorder:
        recorder.record()
        await recorder.recorder.flush()
    (event,) = events(api)
    assert event["metadata"]["namespace"] == "acme"
    assert event["metadata"]["name"].startswith("web.")
    for part in ("metadata", "apiVersion", "kind"):
        event.pop(part)
    assert event == {
        "involvedObject": {
            "apiVersion": "image.openshift.io/v1",
            "kind": "ImageStream",
            "namespace": "acme",
            "name": "web",
            "uid": "uid-1",
            "resourceVersion": "42",
        },
        "type": "Warning",
        "reason": "ImportFailed",
        "message": "tag latest: not found",
        "count": 1,
        "firstTimestamp": "2026-11-01T12:00:00Z",
        "lastTimestamp": "2026-11-01T12:00:00Z",
        "source": {"component": "imagestreams"},
        "reportingComponent": "imagestreams",
        "reportingInstance": "pod-1",
    }


async def test_the_same_again_counts_up_once_a_minute(api: FakeApiServer, cluster: Cluster) -> None:
    async with recording(cluster) as recorder:
        for _ in range(10):
            recorder.record()
            await recorder.recorder.flush()
            recorder.time.now += 7
        (event,) = events(api)
        assert event["count"] == 10  # the tenth came after more than a minute, and brings those in between
        assert event["lastTimestamp"] == "2026-11-01T12:01:03Z"
    assert api.counts == {("create", "events"): 1, ("patch", "events"): 1}


async def test_what_waits_is_counted_together(api: FakeApiServer, cluster: Cluster) -> None:
    made = Recording(cluster)
    for _ in range(5):
        made.record()
    made.record("another")
    running = asyncio.create_task(made.recorder.run())
    await made.recorder.flush()
    running.cancel()
    assert sorted(event["count"] for event in events(api)) == [1, 5]
    assert api.count() == 2


async def test_after_a_restart_the_same_event_goes_on(api: FakeApiServer, cluster: Cluster) -> None:
    for _ in range(3):
        async with recording(cluster) as recorder:
            recorder.record()
            await recorder.recorder.flush()
    (event,) = events(api)
    assert event["count"] == 3
    assert event["firstTimestamp"] == "2026-11-01T12:00:00Z"


async def test_an_event_that_has_expired_is_made_again(api: FakeApiServer, cluster: Cluster) -> None:
    async with recording(cluster) as recorder:
        recorder.record()
        await recorder.recorder.flush()
        api.remove("v1", "events", "acme", events(api)[0]["metadata"]["name"])
        recorder.time.now += 3600
        recorder.record()
        await recorder.recorder.flush()
    (event,) = events(api)
    assert event["count"] == 1


async def test_each_object_reason_and_message_is_its_own(api: FakeApiServer, cluster: Cluster) -> None:
    async with recording(cluster) as recorder:
        recorder.record()
        recorder.record("other words")
        recorder.record(regarding=Involved("image.openshift.io/v1", "ImageStream", "acme", "web", "uid-2"))
        recorder.recorder.record(WEB, "Normal", "Imported", "tag latest: not found")
        await recorder.recorder.flush()
    assert len(events(api)) == 4


async def test_objects_without_namespace_and_names_that_no_event_can_have(api: FakeApiServer, cluster: Cluster) -> None:
    async with recording(cluster) as recorder:
        recorder.record(regarding=Involved("rbac.authorization.k8s.io/v1", "ClusterRole", "", "system:Thing", "uid-3"))
        recorder.record(regarding=Involved("v1", "Secret", "acme", "a" * 250 + ".b", "uid-4"))
        await recorder.recorder.flush()
    role, secret = sorted(events(api), key=lambda event: event["involvedObject"]["kind"])
    assert role["metadata"]["namespace"] == "default"
    assert role["metadata"]["name"].startswith("clusterrole.")
    assert len(secret["metadata"]["name"]) <= 253


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(status(503, "ServiceUnavailable"), id="unavailable"),
        pytest.param(status(429, "TooManyRequests", headers={"Retry-After": "90"}), id="throttled"),
        pytest.param(disconnect(), id="unreachable"),
        pytest.param(raw(b"<html>", code=502), id="a proxy"),
    ],
)
async def test_a_failure_that_passes_is_waited_for(api: FakeApiServer, cluster: Cluster, fault: Any) -> None:
    async with recording(cluster) as recorder:
        api.inject(fault, resource="events", times=8)
        recorder.record()
        await recorder.recorder.flush()
        naps = recorder.time.naps
        assert naps[:3] == [90] * 3 if naps[0] == 90 else naps == [1, 2, 4, 8, 16, 32, 60, 60]
    assert len(events(api)) == 1
    assert recorder.dropped == 0


async def test_an_event_that_is_refused_is_given_up_and_said_once(
    api: FakeApiServer, cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    async with recording(cluster) as recorder:
        api.inject(status(403, "Forbidden", "namespace is terminating"), resource="events", times=3)
        for number in range(4):
            recorder.record(f"event {number}")
        await recorder.recorder.flush()
        assert recorder.time.naps == []
    assert [event["message"] for event in events(api)] == ["event 3"]
    assert recorder.dropped == 3
    assert capsys.readouterr().out.count("namespace is terminating") == 1


async def test_a_full_queue_gives_up_the_oldest(
    api: FakeApiServer, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(events_module, "_QUEUE", 3)
    made = Recording(cluster)
    for number in range(10):
        made.record(f"event {number}")
    assert made.dropped == 7
    running = asyncio.create_task(made.recorder.run())
    await made.recorder.flush()
    running.cancel()
    assert sorted(event["message"] for event in events(api)) == ["event 7", "event 8", "event 9"]
    assert capsys.readouterr().out.count("the oldest are given up") == 1


async def test_a_lost_answer_does_not_double_an_event(api: FakeApiServer, cluster: Cluster) -> None:
    async with recording(cluster) as recorder:
        api.inject(disconnect(after=True), verb="create")
        recorder.record()
        await recorder.recorder.flush()
    assert len(events(api)) == 1


async def test_recording_never_waits(api: FakeApiServer, cluster: Cluster) -> None:
    api.inject(status(503, "ServiceUnavailable"), times=-1)
    async with recording(cluster) as recorder:
        recorder.time._limit = 0
        recorder.record("a")
        await until(lambda: recorder.time.is_asleep)
        recorder.record("b")
        recorder.record("a")
    assert list(recorder.recorder._pending) != []


@given(st.text())
def test_messages_are_scrubbed(text: str) -> None:
    line = scrubbed(text)
    assert len(line.encode()) <= 1024
    assert line.isprintable()
    if text.isprintable() and len(text.encode()) <= 1024:
        assert line == text


def test_a_long_message_is_cut_between_signs() -> None:
    assert scrubbed("ä" * 1000).endswith("ä…")
    assert scrubbed("a\nb\x00c\u202ed\x1b[31m") == "a b c d [31m"
    assert scrubbed("a\ud800b") == "a b"


async def test_a_real_api_server_takes_them(control_plane: ControlPlane, namespace: str) -> None:
    from imagestreams.kube.cluster import Cluster

    about = Involved("v1", "Namespace", namespace, namespace, "uid-1")
    async with await Cluster.connect(str(control_plane.kubeconfig)) as cluster:
        for _ in range(2):
            async with recording(cluster) as recorder:
                recorder.record("x" * 2000, about)
                await recorder.recorder.flush()
                assert recorder.dropped == 0
    (event,) = control_plane.request("GET", f"/api/v1/namespaces/{namespace}/events")["items"]
    assert event["count"] == 2
    assert event["reportingComponent"] == "imagestreams"
