"""Paths, errors and limits of requests. How the API server itself behaves is in tests/contract."""

from __future__ import annotations

import time
from itertools import count
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from imagestreams.kube import cluster as cluster_module
from imagestreams.kube.cluster import (
    AlreadyExists,
    ApiError,
    Cluster,
    Conflict,
    Forbidden,
    Gone,
    Invalid,
    InvalidAnswer,
    NotFound,
    TooLarge,
    TooManyRequests,
    Unauthorized,
    Unavailable,
    Unreachable,
    api_path,
)
from imagestreams.kube.skew import Skew
from tests.fakes.apiserver import disconnect, hang, html, raw, status
from tests.fakes.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

    from dev.control_plane import ControlPlane
    from tests.fakes.apiserver import FakeApiServer

SECRETS = api_path("v1", "secrets")


@pytest.mark.parametrize(
    ("parts", "path"),
    [
        pytest.param(("v1", "secrets"), "/api/v1/secrets", id="core, all namespaces"),
        pytest.param(("v1", "secrets", "ns", "a.b-c"), "/api/v1/namespaces/ns/secrets/a.b-c", id="core, object"),
        pytest.param(
            ("apps/v1", "deployments", "ns"), "/apis/apps/v1/namespaces/ns/deployments", id="group, namespace"
        ),
        pytest.param(
            ("image.openshift.io/v1", "imagestreams", "ns", "web", "status"),
            "/apis/image.openshift.io/v1/namespaces/ns/imagestreams/web/status",
            id="subresource",
        ),
        pytest.param(("v1", "namespaces", "", "ns"), "/api/v1/namespaces/ns", id="cluster-wide object"),
    ],
)
def test_paths(parts: tuple[str, ...], path: str) -> None:
    assert api_path(*parts) == path


@pytest.mark.parametrize("name", ["..", ".", "a/b", "a%2fb", "a?b", "a#b", "a b", "a\\b", "ä", "a\n", "../secrets/x"])
def test_a_name_cannot_lead_elsewhere(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be part of an API path"):
        api_path("v1", "configmaps", "ns", name)
    with pytest.raises(ValueError, match="cannot be part of an API path"):
        api_path("v1", "configmaps", name, "x")


@pytest.mark.parametrize(
    ("code", "reason", "kind", "retryable"),
    [
        (400, "BadRequest", ApiError, False),
        (403, "Forbidden", Forbidden, False),
        (404, "NotFound", NotFound, False),
        (409, "Conflict", Conflict, False),
        (409, "AlreadyExists", AlreadyExists, False),
        (410, "Expired", Gone, False),
        (415, "UnsupportedMediaType", ApiError, False),
        (422, "Invalid", Invalid, False),
        (429, "TooManyRequests", TooManyRequests, True),
        (500, "InternalError", Unavailable, True),
        (503, "ServiceUnavailable", Unavailable, True),
        (504, "Timeout", Unavailable, True),
        (302, "", ApiError, False),
    ],
)
async def test_refusals(
    api: FakeApiServer, cluster: Cluster, code: int, reason: str, kind: type[ApiError], *, retryable: bool
) -> None:
    api.inject(status(code, reason, "because"))
    with pytest.raises(ApiError, match="because") as caught:
        await cluster.get(SECRETS)
    error = caught.value
    assert type(error) is kind
    assert (error.status, error.reason, error.retryable) == (code, reason or "ApiError", retryable)
    assert error.retry_after is None


async def test_retry_after(api: FakeApiServer, cluster: Cluster) -> None:
    api.inject(status(429, "TooManyRequests", headers={"Retry-After": "7"}))
    api.inject(status(503, "ServiceUnavailable", retryAfterSeconds=3))
    api.inject(status(503, "ServiceUnavailable", headers={"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}))
    waits = []
    for _ in range(3):
        with pytest.raises(ApiError) as caught:
            await cluster.get(SECRETS)
        waits.append(caught.value.retry_after)
    assert waits == [7.0, 3.0, None]


async def test_a_refusal_that_is_not_the_api_servers_own(api: FakeApiServer, cluster: Cluster) -> None:
    api.inject(html(502))
    with pytest.raises(Unavailable, match="GET /api/v1/secrets was answered with HTTP status 502"):
        await cluster.get(SECRETS)
    api.inject(raw(b"x" * 200_000, code=503))
    with pytest.raises(Unavailable) as caught:
        await cluster.get(SECRETS)
    assert len(caught.value.message) < 2001


async def test_a_redirect_is_not_followed(api: FakeApiServer, cluster: Cluster) -> None:
    api.inject(status(307, "", headers={"Location": "/api/v1/configmaps"}))
    with pytest.raises(ApiError) as caught:
        await cluster.get(SECRETS)
    assert caught.value.status == 307
    assert len(api.requests) == 1


async def test_no_answer(api: FakeApiServer, cluster: Cluster, tmp_path: Path) -> None:
    api.inject(hang())
    with pytest.raises(Unreachable, match="GET /api/v1/secrets: timed out"):
        await cluster.request("GET", SECRETS, timeout=0.05)
    api.inject(disconnect())
    with pytest.raises(Unreachable):
        await cluster.post(SECRETS, b"{}")
    path = api.kubeconfig(tmp_path / "closed", cluster={"server": "http://127.0.0.1:1"})
    async with await Cluster.connect(str(path)) as nowhere:
        with pytest.raises(Unreachable) as caught:
            await nowhere.get(SECRETS)
    assert caught.value.status == 0
    assert caught.value.reason == "Unreachable"


async def test_an_answer_that_is_too_large(api: FakeApiServer, cluster: Cluster) -> None:
    api.inject(raw(b"x" * 1001))
    with pytest.raises(TooLarge):
        await cluster.get(SECRETS, limit=1000)
    api.inject(raw(b"x" * 1000))
    assert len(await cluster.get(SECRETS, limit=1000)) == 1000


async def test_every_request_is_counted_by_verb_and_resource(api: FakeApiServer, tmp_path: Path) -> None:
    told = []
    path = api.kubeconfig(tmp_path / "counted")
    async with await Cluster.connect(str(path), on_request=lambda *labels: told.append(labels)) as cluster:
        await cluster.get(SECRETS)
        api.put({"apiVersion": "v1", "kind": "Secret", "metadata": {"namespace": "a", "name": "b"}})
        await cluster.get(api_path("v1", "secrets", "a", "b"))
        with pytest.raises(NotFound):
            await cluster.patch(api_path("image.openshift.io/v1", "imagestreams", "a", "b", "status"), b"{}")
        with pytest.raises(NotFound):
            await cluster.delete(api_path("v1", "namespaces", name="a"))
        with pytest.raises(NotFound):
            await cluster.get(api_path("v1", "namespaces", name="a", subresource="status"))
        assert await cluster.serves("v1", "secrets")
        assert await cluster.serves("image.openshift.io/v1", "imagestreams")
        async with cluster.open_watch(api_path("apps/v1", "deployments"), params={}, read_timeout=5):
            pass
        api.inject(disconnect())
        with pytest.raises(Unreachable):
            await cluster.post(api_path("v1", "events", "a"), b"{}")
    assert told == [
        ("list", "secrets", 200),
        ("get", "secrets", 200),
        ("patch", "imagestreams/status", 404),
        ("delete", "namespaces", 404),
        ("get", "namespaces/status", 404),
        ("get", "", 200),
        ("get", "", 200),
        ("watch", "deployments", 200),
        ("create", "events", 0),
    ]


async def test_a_group_that_another_api_server_serves(api: FakeApiServer, cluster: Cluster) -> None:
    name = "v1.image.openshift.io"
    assert not await cluster.aggregated("image.openshift.io")
    spec = {
        "group": "image.openshift.io",
        "version": "v1",
        "service": {"name": "api", "namespace": "openshift-apiserver"},
    }
    service = {"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": name}}
    api.put({**service, "spec": spec})
    assert await cluster.aggregated("image.openshift.io")
    api.put({**service, "spec": {**spec, "service": None}})
    assert not await cluster.aggregated("image.openshift.io")


# --- lists ------------------------------------------------------------------------------------------------------------


def fill(api: FakeApiServer, count: int, size: int) -> None:
    for number in range(count):
        metadata = {"namespace": "a", "name": f"s{number:04}"}
        api.put({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": {"x": "y" * size}})


async def test_a_list_comes_in_pages(api: FakeApiServer, cluster: Cluster) -> None:
    fill(api, 1200, 10)
    assert len([body async for body in cluster.objects(SECRETS)]) == 1200
    assert [seen.query["limit"] for seen in api.requests] == ["500"] * 3


async def test_pages_shrink_when_objects_are_large(
    api: FakeApiServer, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_module, "_PAGE_GOAL", 20_000)
    monkeypatch.setattr(cluster_module, "MAX_PAGE", 100_000)
    fill(api, 200, 1000)
    assert len([body async for body in cluster.objects(SECRETS)]) == 200
    limits = [int(seen.query["limit"]) for seen in api.requests]
    assert limits[:2] == [500, 62]  # the first answer was too large
    assert all(10 <= limit <= 20 for limit in limits[2:])


async def test_an_object_that_is_too_large_alone(
    api: FakeApiServer, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_module, "MAX_PAGE", 1000)
    fill(api, 1, 1000)
    with pytest.raises(TooLarge):
        [body async for body in cluster.objects(SECRETS)]
    assert [seen.query["limit"] for seen in api.requests] == ["500", "62", "7", "1"]


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"{}", b'{"metadata":{},"items":{}}', b"[" * 100_000])
async def test_what_is_no_list(api: FakeApiServer, cluster: Cluster, body: bytes) -> None:
    api.inject(raw(body))
    with pytest.raises(InvalidAnswer):
        [each async for each in cluster.objects(SECRETS)]


# --- watches ----------------------------------------------------------------------------------------------------------


async def test_the_lines_of_a_watch_however_they_are_cut(api: FakeApiServer, cluster: Cluster) -> None:
    big = b"x" * 3_000_000
    api.inject(raw(b'{"a":1}\n{"b":2}\n\n' + big + b"\n{" + b'"c":3}\nrest'))
    async with cluster.open_watch(SECRETS, params={}, read_timeout=5) as batches:
        lines = [line async for batch in batches for line in batch]
    assert lines == [b'{"a":1}', b'{"b":2}', big, b'{"c":3}']


async def read_watch(cluster: Cluster, lines: list[bytes], *, read_timeout: float = 5) -> None:
    async with cluster.open_watch(SECRETS, params={}, read_timeout=read_timeout) as batches:
        async for batch in batches:
            lines += batch


async def test_a_line_without_end(api: FakeApiServer, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_module, "MAX_LINE", 1000)
    api.inject(raw(b"x" * 5000))
    with pytest.raises(TooLarge):
        await read_watch(cluster, [])


async def test_a_silent_watch_is_given_up(api: FakeApiServer, cluster: Cluster) -> None:
    with pytest.raises(Unreachable, match="timed out"):
        await read_watch(cluster, [], read_timeout=0.05)


async def test_a_watch_that_breaks_off(api: FakeApiServer, cluster: Cluster) -> None:
    async def broken(request: web.Request, _: object) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b'{"a":1}\n')
        request.transport.abort()
        return response

    api.inject(broken)
    lines: list[bytes] = []
    with pytest.raises(Unreachable):
        await read_watch(cluster, lines)
    assert lines in ([], [b'{"a":1}'])


async def test_a_watch_that_is_left_ends_at_the_server(api: FakeApiServer, cluster: Cluster) -> None:
    async with cluster.open_watch(SECRETS, params={"allowWatchBookmarks": "true"}, read_timeout=5) as batches:
        api.send_bookmarks()
        async for _ in batches:
            break
        assert api.open_watches == 1
    await until(lambda: api.open_watches == 0)


async def test_a_refused_watch(api: FakeApiServer, cluster: Cluster) -> None:
    api.inject(status(401, "Unauthorized"), times=-1)
    with pytest.raises(Unauthorized):
        async with cluster.open_watch(SECRETS, params={}, read_timeout=5):
            pass
    assert api.count("watch") == 2


async def test_the_date_of_every_answer_is_told_with_the_moments_around_it(api: FakeApiServer, tmp_path: Path) -> None:
    """Each reading of the clock is one second later than the one before."""
    told, date = [], "Sun, 01 Nov 2026 12:00:00 GMT"
    path = api.kubeconfig(tmp_path / "dated")

    async def dated(_: web.Request, __: object) -> web.StreamResponse:
        return web.Response(body=b"{}", headers={"Date": date})

    async def kept(_: web.Request, __: object) -> web.StreamResponse:
        return web.Response(body=b"{}", headers={"Date": date, "Age": "30"})

    async with await Cluster.connect(str(path), now=count(1.0).__next__) as cluster:
        await cluster.get(SECRETS)
        cluster.on_date = lambda *answer: told.append(answer)
        api.inject(dated, times=2)
        await cluster.get(SECRETS)
        async with cluster.open_watch(SECRETS, params={}, read_timeout=5):
            pass
        api.inject(status(503, "ServiceUnavailable"))
        with pytest.raises(Unavailable):
            await cluster.get(SECRETS)
        api.inject(kept)
        await cluster.get(SECRETS)
    assert told == [(date, 2.0, 3.0), (date, 4.0, 5.0)]


async def test_a_real_api_server_dates_its_answers(control_plane: ControlPlane) -> None:
    """Those to watches, too, which begin at once and not with the first event."""
    for watches in (False, True):
        skew = Skew()
        async with await Cluster.connect(str(control_plane.kubeconfig), now=lambda: time.time() + 40) as cluster:
            cluster.on_date = skew.note
            if watches:
                async with cluster.open_watch(SECRETS, params={"fieldSelector": "metadata.name=none"}, read_timeout=5):
                    pass
            else:
                await cluster.get(SECRETS)
        assert 38 < skew.seconds <= 40


async def test_a_session_shows_no_credential(api: FakeApiServer, tmp_path: Path) -> None:
    path = api.kubeconfig(tmp_path / "secret", user={"token": "s3cret"})
    async with await Cluster.connect(str(path)) as cluster:
        assert repr(cluster) == f"Cluster({api.url})"
        api.inject(status(403, "Forbidden"))
        with pytest.raises(Forbidden) as caught:
            await cluster.get(SECRETS)
    assert "s3cret" not in repr(caught.value)
