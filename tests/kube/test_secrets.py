"""A namespace's credentials: read when asked for, kept while nothing changes, and never stale."""

from __future__ import annotations

import asyncio
import base64
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from imagestreams.core.keychain import DOCKER_CFG, DOCKER_CONFIG_JSON
from imagestreams.kube import secrets as secrets_module
from imagestreams.kube.cluster import Cluster, Forbidden
from imagestreams.kube.secrets import NamespaceCredentials
from tests.fakes.apiserver import FakeApiServer, held, status
from tests.fakes.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from dev.control_plane import ControlPlane


def _data(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def config_json(*hosts: str, user: str = "me", password: str = "pw") -> dict[str, Any]:
    auths = {host: {"username": user, "password": password} for host in hosts}
    return {"type": DOCKER_CONFIG_JSON, "data": {".dockerconfigjson": _data(json.dumps({"auths": auths}))}}


def cfg(host: str) -> dict[str, Any]:
    return {"type": DOCKER_CFG, "data": {".dockercfg": _data(json.dumps({host: {"username": "me", "password": "pw"}}))}}


def put(api: FakeApiServer, name: str, secret: dict[str, Any], namespace: str = "acme", **annotations: str) -> None:
    metadata = {"namespace": namespace, "name": name, "annotations": annotations}
    api.put({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, **secret})


class Watching:
    def __init__(self, cluster: Cluster) -> None:
        self.malformed: list[tuple[str, str, str]] = []
        self.changed: list[str] = []
        self.credentials = NamespaceCredentials(
            cluster, on_malformed=lambda *told: self.malformed.append(told), on_change=self.changed.append
        )

    async def hosts(self, namespace: str = "acme") -> list[str]:
        return [entry.host for entry in await self.credentials.entries(namespace)]


@asynccontextmanager
async def watching(cluster: Cluster, *, live: bool = True) -> AsyncIterator[Watching]:
    made = Watching(cluster)
    running = asyncio.create_task(made.credentials.run())
    try:
        if live:
            await until(made.credentials._is_live)
        yield made
    finally:
        running.cancel()
        await asyncio.wait([running])


def reads(api: FakeApiServer) -> int:
    """How often secrets were read with their content."""
    return sum(seen.verb == "list" and "PartialObjectMetadata" not in seen.headers["Accept"] for seen in api.requests)


async def test_both_types_in_the_order_of_names(api: FakeApiServer, cluster: Cluster) -> None:
    put(api, "c", config_json("quay.io"))
    put(api, "b", cfg("ghcr.io"))
    put(api, "a", config_json("docker.io", "example.com"))
    put(api, "opaque", {"type": "Opaque", "data": {".dockerconfigjson": "e30="}})
    put(api, "elsewhere", config_json("other.io"), namespace="other")
    async with watching(cluster) as watched:
        assert await watched.hosts() == ["docker.io", "example.com", "ghcr.io", "quay.io"]
        assert await watched.hosts("other") == ["other.io"]
        assert await watched.hosts("none") == []
        assert (await watched.credentials.entries("acme"))[0].credential.secret == "a"
    assert watched.malformed == []
    assert watched.changed == []


async def test_what_does_not_change_is_read_once(api: FakeApiServer, cluster: Cluster) -> None:
    put(api, "a", config_json("quay.io"))
    async with watching(cluster) as watched:
        for _ in range(5):
            assert await watched.hosts() == ["quay.io"]
            assert await watched.hosts("none") == []
    assert reads(api) == 4  # two types in two namespaces


async def test_changes_are_seen_and_told(api: FakeApiServer, cluster: Cluster) -> None:
    put(api, "a", config_json("quay.io"))
    async with watching(cluster) as watched:
        assert await watched.hosts() == ["quay.io"]
        steps: list[tuple[Any, list[str]]] = [
            (lambda: put(api, "a", config_json("ghcr.io")), ["ghcr.io"]),
            (lambda: put(api, "b", cfg("quay.io")), ["ghcr.io", "quay.io"]),
            (lambda: api.remove("v1", "secrets", "acme", "a"), ["quay.io"]),
        ]
        for step, (change, hosts) in enumerate(steps, start=1):
            change()
            await until(lambda n=step: len(watched.changed) == n)
            assert await watched.hosts() == hosts
            assert await watched.hosts() == hosts
        assert watched.changed == ["acme"] * 3
    assert reads(api) == 8


async def test_a_secret_that_changes_while_it_is_read_is_read_again(api: FakeApiServer, cluster: Cluster) -> None:
    put(api, "a", config_json("quay.io"))
    async with watching(cluster) as watched:
        go_on = asyncio.Event()

        async def late(request, handle):
            answer = await handle()
            await go_on.wait()
            return answer

        api.inject(late, when=lambda seen: "PartialObjectMetadata" not in seen.headers["Accept"])
        reading = asyncio.create_task(watched.hosts())
        await until(lambda: reads(api) == 1)
        put(api, "a", config_json("ghcr.io"))
        await until(lambda: watched.changed)
        go_on.set()
        await reading  # as of before the change: that is what it had asked for
        assert await watched.hosts() == ["ghcr.io"]


async def test_an_answer_that_is_newer_than_the_watch_is_not_kept_until_the_watch_agrees(
    api: FakeApiServer, cluster: Cluster
) -> None:
    async with watching(cluster) as watched:
        go_on = asyncio.Event()
        api.inject(held(go_on), verb="watch", times=2)
        api.end_watches()
        await until(lambda: api.count("watch") == 4)
        put(api, "a", config_json("quay.io"))
        assert await watched.hosts() == ["quay.io"]
        assert await watched.hosts() == ["quay.io"]
        assert reads(api) == 4
        go_on.set()
        await until(lambda: watched.changed and watched.credentials._is_live())
        for _ in range(3):
            assert await watched.hosts() == ["quay.io"]
        assert reads(api) == 6


async def test_without_a_watch_secrets_are_read_each_time(api: FakeApiServer, cluster: Cluster) -> None:
    api.inject(
        status(403, "Forbidden", "no"), when=lambda seen: "PartialObjectMetadata" in seen.headers["Accept"], times=-1
    )
    async with watching(cluster, live=False) as watched:
        await until(lambda: watched.credentials.problem)
        put(api, "a", config_json("quay.io"))
        assert await watched.hosts() == ["quay.io"]
        put(api, "a", config_json("ghcr.io"))
        assert await watched.hosts() == ["ghcr.io"]
        assert watched.credentials.problem
        assert "not allowed" in watched.credentials.problem


async def test_secrets_that_may_not_be_read(api: FakeApiServer, cluster: Cluster) -> None:
    async with watching(cluster) as watched:
        api.inject(status(403, "Forbidden", "no"), resource="secrets", verb="list")
        with pytest.raises(Forbidden):
            await watched.hosts()


async def test_an_excluded_secret(api: FakeApiServer, cluster: Cluster) -> None:
    put(api, "a", config_json("quay.io"), **{"openshift.io/image.excludeSecret": "true"})
    put(api, "b", config_json("ghcr.io"), **{"openshift.io/image.excludeSecret": "false", "x": "y"})
    async with watching(cluster) as watched:
        assert await watched.hosts() == ["ghcr.io"]
        put(api, "a", config_json("quay.io"))
        await until(lambda: watched.changed)
        assert await watched.hosts() == ["quay.io", "ghcr.io"]


@pytest.mark.parametrize(
    "secret",
    [
        pytest.param({"type": DOCKER_CONFIG_JSON, "data": {".dockerconfigjson": _data("s3cret")}}, id="no JSON"),
        pytest.param({"type": DOCKER_CONFIG_JSON, "data": {".dockerconfigjson": "s3cret!"}}, id="no base64"),
        pytest.param({"type": DOCKER_CONFIG_JSON, "data": {".dockercfg": _data("{}")}}, id="the other type's key"),
        pytest.param(
            {"type": DOCKER_CFG, "data": {".dockercfg": _data('{"quay.io":{"auth":"czNjcmV0"}}')}}, id="a bad auth"
        ),
        pytest.param({"type": DOCKER_CONFIG_JSON}, id="empty"),
    ],
)
async def test_a_malformed_secret_is_told_once_and_does_no_harm(
    api: FakeApiServer, cluster: Cluster, secret: dict[str, Any]
) -> None:
    put(api, "bad", secret)
    put(api, "good", config_json("quay.io"))
    async with watching(cluster) as watched:
        assert await watched.hosts() == ["quay.io"]
        put(api, "another", config_json("ghcr.io"))
        await until(lambda: watched.changed)
        assert await watched.hosts() == ["ghcr.io", "quay.io"]
        ((namespace, name, message),) = watched.malformed
        assert (namespace, name) == ("acme", "bad")
        assert "bad" in message
        assert "s3cret" not in message
        put(api, "bad", {**secret, "immutable": False})
        await until(lambda: len(watched.changed) == 2)
        await watched.hosts()
        assert len(watched.malformed) == 2  # it has changed


@pytest.mark.parametrize(("cap", "value"), [("MAX_SECRETS", 3), ("MAX_ENTRIES", 3)])
async def test_a_namespace_with_too_many(
    api: FakeApiServer, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, cap: str, value: int
) -> None:
    monkeypatch.setattr(secrets_module, cap, value)
    for name in "abcdef":
        put(api, name, config_json(f"{name}.io"))
    async with watching(cluster) as watched:
        for _ in range(3):
            assert await watched.hosts() == ["a.io", "b.io", "c.io"]
        assert [told[1] for told in watched.malformed] == ["d"]
        assert "not looked at" in watched.malformed[0][2]
        assert reads(api) == 1
        api.remove("v1", "secrets", "acme", "b")
        await until(lambda: watched.changed)
        assert await watched.hosts() == ["a.io", "c.io", "d.io"]


async def test_only_so_many_namespaces_are_kept(
    api: FakeApiServer, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(secrets_module, "_MAX_NAMESPACES", 2)
    async with watching(cluster) as watched:
        for namespace in ("a", "b", "a", "c", "a", "b"):
            await watched.hosts(namespace)
    assert reads(api) == 2 * 4  # a, b, c, and b again


async def test_the_watch_asks_for_metadata_alone(api: FakeApiServer, cluster: Cluster) -> None:
    put(
        api,
        "a",
        config_json("quay.io", password="s3cret"),
        **{"kubectl.kubernetes.io/last-applied-configuration": "s3cret"},
    )
    async with watching(cluster) as watched:
        assert [seen.query["fieldSelector"] for seen in api.requests] == [
            f"type={kind}" for kind in (DOCKER_CONFIG_JSON, DOCKER_CFG) for _ in range(1)
        ] * 2
        assert all("PartialObjectMetadata" in seen.headers["Accept"] for seen in api.requests)
        await watched.hosts()
        assert "s3cret" not in repr(vars(watched.credentials)) + repr(dict(watched.credentials._kept))
        for watch in watched.credentials._watches.values():
            assert "s3cret" not in repr(dict(watch.store))


async def test_a_real_api_server(control_plane: ControlPlane, namespace: str) -> None:
    def put_real(name: str, secret: dict[str, Any]) -> None:
        control_plane.request("POST", f"/api/v1/namespaces/{namespace}/secrets", {"metadata": {"name": name}, **secret})

    put_real("b", config_json("quay.io"))
    put_real("a", cfg("ghcr.io"))
    async with await Cluster.connect(str(control_plane.kubeconfig)) as cluster, watching(cluster) as watched:
        assert await watched.hosts(namespace) == ["ghcr.io", "quay.io"]
        put_real("c", config_json("docker.io"))
        await until(lambda: namespace in watched.changed)
        assert await watched.hosts(namespace) == ["ghcr.io", "quay.io", "docker.io"]
