"""A namespace's credentials: read when asked for, kept while nothing changes, and never stale."""

from __future__ import annotations

import asyncio
import base64
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from imagestreams.core.keychain import DOCKER_CFG, DOCKER_CONFIG_JSON, InstallWide, candidates
from imagestreams.core.reference import ImageReference
from imagestreams.kube import secrets as secrets_module
from imagestreams.kube.cluster import ApiError, Cluster, Forbidden
from imagestreams.kube.secrets import MAX_NAMED, Credentials, InstallSecret, LinkedCredentials, NamespaceCredentials
from tests.fakes.apiserver import FakeApiServer, Seen, held, status
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
        assert reads(api) == 4, "what was read is what the watch knows now"


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


def _is_watch(seen: Seen) -> bool:
    return "PartialObjectMetadata" in seen.headers["Accept"]


async def test_what_came_between_a_read_and_the_first_list_is_told(api: FakeApiServer, cluster: Cluster) -> None:
    put(api, "a", config_json("quay.io"))
    put(api, "b", config_json("docker.io"))
    for namespace in ("quiet", "silent"):
        put(api, "x", config_json("quay.io"), namespace=namespace)
    go_on = asyncio.Event()
    api.inject(held(go_on), when=_is_watch, times=2)
    async with watching(cluster, live=False) as watched:
        await until(lambda: api.count("list") == 2)
        assert await watched.hosts() == ["quay.io", "docker.io"]
        assert await watched.hosts("quiet") == ["quay.io"]
        put(api, "c", config_json("ghcr.io"))
        put(api, "d", cfg("example.com"))
        go_on.set()
        await until(watched.credentials._is_live)
        assert watched.changed == ["acme"], "once; what nobody has read, or what is as it was read, is no news"
        assert await watched.hosts() == ["quay.io", "docker.io", "ghcr.io", "example.com"]
        assert watched.credentials._read_early == set()
        before = reads(api)
        assert await watched.hosts("quiet") == ["quay.io"]
        assert reads(api) == before, "what was read is what the watch knows"


async def test_what_came_while_the_first_read_was_under_way_is_told(api: FakeApiServer, cluster: Cluster) -> None:
    listing, reading = asyncio.Event(), asyncio.Event()

    async def late(_, handle):
        answer = await handle()
        await reading.wait()
        return answer

    api.inject(held(listing), when=_is_watch, times=2)
    api.inject(late, when=lambda seen: not _is_watch(seen))
    async with watching(cluster, live=False) as watched:
        early = asyncio.create_task(watched.hosts())
        await until(lambda: reads(api) == 1)
        put(api, "a", config_json("quay.io"))
        listing.set()
        await until(lambda: watched.changed == ["acme"])
        assert await watched.hosts() == ["quay.io"], "who asks now does not wait for the answer of before"
        reading.set()
        assert await early == [], "what it had asked for"
        assert await watched.hosts() == ["quay.io"]


async def test_who_asks_for_a_namespace_meanwhile_gets_the_same_answer(api: FakeApiServer, cluster: Cluster) -> None:
    api.inject(status(403, "Forbidden", "no"), when=_is_watch, times=-1)
    put(api, "a", config_json("quay.io"))
    put(api, "a", config_json("ghcr.io"), namespace="other")
    async with watching(cluster, live=False) as watched:
        await asyncio.wait_for(watched.credentials.synced(), 10)  # nobody waits for a right that is missing
        asked = [watched.hosts(namespace) for _ in range(50) for namespace in ("acme", "other")]
        assert await asyncio.gather(*asked) == [["quay.io"], ["ghcr.io"]] * 50
        assert reads(api) == 4  # two types in two namespaces
        assert await watched.hosts() == ["quay.io"]
        assert reads(api) == 6, "nothing is kept while nothing is watched"
        assert not watched.credentials._reading


async def test_a_read_that_fails_fails_for_all_who_wait_and_leaves_nothing(
    api: FakeApiServer, cluster: Cluster
) -> None:
    async with watching(cluster) as watched:
        put(api, "a", config_json("quay.io"))
        await until(lambda: watched.changed)
        api.inject(status(503, "ServiceUnavailable"), when=lambda seen: not _is_watch(seen))
        results = await asyncio.gather(*(watched.hosts() for _ in range(3)), return_exceptions=True)
        assert [isinstance(result, ApiError) for result in results] == [True] * 3
        assert await watched.hosts() == ["quay.io"]


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


# --- mode linked ------------------------------------------------------------------------------------------------------


def link(api: FakeApiServer, *names: str, namespace: str = "acme") -> None:
    metadata = {"namespace": namespace, "name": "default"}
    secrets = [{"name": name} for name in names]
    api.put({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata, "imagePullSecrets": secrets})


class Linked:
    def __init__(self, cluster: Cluster) -> None:
        self.malformed: list[tuple[str, str, str]] = []
        self.credentials = LinkedCredentials(cluster, on_malformed=lambda *told: self.malformed.append(told))

    async def hosts(self, *names: str, namespace: str = "acme") -> list[str]:
        return [entry.host for entry in await self.credentials.entries(namespace, names)]


async def test_only_what_is_named_counts_the_streams_own_first(api: FakeApiServer, cluster: Cluster) -> None:
    for name in ("a", "b", "c", "d"):
        put(api, name, config_json(f"{name}.io"))
    put(api, "b", config_json("elsewhere.io"), namespace="other")
    link(api, "b", "a")
    linked = Linked(cluster)
    assert await linked.hosts() == ["b.io", "a.io"]
    assert await linked.hosts("c", "a") == ["c.io", "a.io", "b.io"]
    assert await linked.hosts(namespace="other") == []
    assert linked.malformed == []
    assert {seen.verb for seen in api.requests} == {"get"}, "the right to get is enough"


async def test_a_rotated_secret_counts_at_the_next_use(api: FakeApiServer, cluster: Cluster) -> None:
    put(api, "a", config_json("quay.io", password="old"))
    link(api, "a")
    linked = Linked(cluster)

    async def passwords() -> list[str]:
        return [entry.credential.password for entry in await linked.credentials.entries("acme")]

    assert await passwords() == ["old"]
    put(api, "a", config_json("quay.io", password="new"))
    assert await passwords() == ["new"]


async def test_who_asks_the_same_meanwhile_gets_the_same_answer(api: FakeApiServer, cluster: Cluster) -> None:
    put(api, "a", config_json("quay.io"))
    put(api, "b", config_json("ghcr.io"))
    link(api, "a")
    linked, go_on = Linked(cluster), asyncio.Event()
    api.inject(held(go_on), resource="serviceaccounts")
    first = asyncio.create_task(linked.hosts())
    await until(lambda: api.count("get") == 1)
    second, third = asyncio.create_task(linked.hosts()), asyncio.create_task(linked.hosts("b"))
    await until(lambda: api.count("get") >= 2)
    # Whoever asked first may go: the answer is still for the others.
    first.cancel()
    go_on.set()
    assert await second == ["quay.io"]
    assert await third == ["ghcr.io", "quay.io"]
    assert api.count("get", "serviceaccounts") == 2
    await until(lambda: not linked.credentials._reading)


async def test_an_api_server_that_fails_is_an_error_and_leaves_nothing(api: FakeApiServer, cluster: Cluster) -> None:
    put(api, "a", config_json("quay.io"))
    link(api, "a")
    linked = Linked(cluster)
    for resource in ("serviceaccounts", "secrets"):
        api.inject(status(503, "ServiceUnavailable", "no"), resource=resource)
        with pytest.raises(ApiError):
            await linked.hosts()
    await until(lambda: not linked.credentials._reading)
    assert await linked.hosts() == ["quay.io"]
    assert linked.malformed == []


@pytest.mark.parametrize(
    ("name", "secret", "words"),
    [
        pytest.param("bad", None, 'secret "bad" is named for pulls, but not there', id="absent"),
        pytest.param(
            "bad", {"type": "Opaque", "data": {".dockercfg": _data("s3cret")}}, 'its type "Opaque" is none', id="type"
        ),
        pytest.param("bad", {"type": DOCKER_CFG, "data": {".dockercfg": _data("s3cret")}}, "it is not JSON", id="JSON"),
        pytest.param(
            "bad",
            {"type": DOCKER_CFG, "data": {".dockercfg": _data('{"quay.io": {"registrytoken": "s3cret"}}')}},
            "the registrytoken of 1 of 1 entries is ignored",
            id="a part is ignored",
        ),
        pytest.param("../other/x", None, '"../other/x" cannot be the name of a secret', id="no name"),
        pytest.param("Bad", None, '"Bad" cannot be the name of a secret', id="upper case"),
    ],
)
async def test_a_secret_that_cannot_be_used_is_told_once_and_does_no_harm(
    api: FakeApiServer, cluster: Cluster, name: str, secret: dict[str, Any] | None, words: str
) -> None:
    if secret:
        put(api, name, secret)
    put(api, "good", config_json("quay.io"))
    linked = Linked(cluster)
    for _ in range(3):
        assert await linked.hosts(name, "good") == ["quay.io"]
    ((namespace, told, message),) = linked.malformed
    assert (namespace, told) == ("acme", name)
    assert words in message
    assert "s3cret" not in message


async def test_that_a_secret_is_absent_again_is_news(api: FakeApiServer, cluster: Cluster) -> None:
    linked = Linked(cluster)
    assert await linked.hosts("a") == []
    put(api, "a", config_json("quay.io"))
    assert await linked.hosts("a") == ["quay.io"]
    api.remove("v1", "secrets", "acme", "a")
    assert await linked.hosts("a") == []
    assert len(linked.malformed) == 2


async def test_what_may_not_be_read_is_told_once_and_left_out(api: FakeApiServer, cluster: Cluster) -> None:
    put(api, "a", config_json("quay.io"))
    put(api, "b", config_json("ghcr.io"))
    linked = Linked(cluster)
    api.inject(status(403, "Forbidden", "cannot get it"), resource="serviceaccounts", times=-1)
    api.inject(status(403, "Forbidden", "cannot get it"), when=lambda seen: seen.name == "a", times=-1)
    with capture_logs() as logs:
        for _ in range(3):
            assert await linked.hosts("a", "b") == ["ghcr.io"]
    ((_, name, message),) = linked.malformed
    assert name == "a"
    assert 'secret "a" is named for pulls, but the controller may not read it: cannot get it' in message
    ((said, reason),) = [(each["event"], each["reason"]) for each in logs]
    assert said == "service accounts cannot be read; only secrets that streams name are used"
    assert reason == "cannot get it"


async def test_a_stream_that_names_too_many(
    api: FakeApiServer, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"s{n:02}" for n in range(MAX_NAMED + 5)]
    for name in (*names, "linked"):
        put(api, name, config_json(f"{name}.io"))
    link(api, "linked")
    linked = Linked(cluster)
    for _ in range(2):
        assert await linked.hosts(*names) == [f"{name}.io" for name in (*names[:MAX_NAMED], "linked")]
    assert [told[1] for told in linked.malformed] == [names[MAX_NAMED]]
    assert "are not looked at" in linked.malformed[0][2]
    monkeypatch.setattr(secrets_module, "MAX_LINKED", 2)
    assert await linked.hosts("s00") == ["s00.io", "linked.io"]
    assert await linked.hosts("s00", "s01") == ["s00.io", "s01.io"]
    monkeypatch.setattr(secrets_module, "MAX_ENTRIES", 1)
    assert await linked.hosts("s00") == ["s00.io"]
    assert len(linked.malformed) == 3


# --- the front, and the installation's secret -------------------------------------------------------------------------


WHOM = InstallWide(("acme", "shop-*"), ("quay.io/acme",))
both_modes = pytest.mark.parametrize("is_linked", [False, True], ids=["namespace", "linked"])


class Installed:
    def __init__(self, cluster: Cluster, *, is_linked: bool, whom: InstallWide = WHOM) -> None:
        self.malformed: list[tuple[str, str, str]] = []
        self.changed: list[str | None] = []
        self.credentials = Credentials(
            cluster,
            is_linked=is_linked,
            install=InstallSecret("system", "install", whom),
            on_malformed=lambda *told: self.malformed.append(told),
            on_change=self.changed.append,
        )

    async def users(self, namespace: str = "acme", image: str = "quay.io/acme/web") -> list[tuple[str, str]]:
        found = candidates(await self.credentials.entries(namespace), ImageReference.parse(image))
        return [(credential.username, credential.secret) for credential in found]


@asynccontextmanager
async def installed(cluster: Cluster, *, is_linked: bool, whom: InstallWide = WHOM) -> AsyncIterator[Installed]:
    made = Installed(cluster, is_linked=is_linked, whom=whom)
    running = asyncio.create_task(made.credentials.run())
    try:
        await asyncio.wait_for(made.credentials.synced(), 10)
        yield made
        assert not running.done(), "the controller takes the end of what runs for a failure"
    finally:
        running.cancel()
        await asyncio.wait([running])


@both_modes
async def test_the_installations_secret_serves_whom_it_is_for(
    api: FakeApiServer, cluster: Cluster, is_linked: bool
) -> None:
    put(api, "install", config_json("quay.io", "ghcr.io", user="install"), namespace="system")
    put(api, "another", config_json("quay.io", user="another"), namespace="system")
    for namespace in ("acme", "other"):
        put(api, "own", config_json("quay.io", user="own"), namespace=namespace)
        link(api, "own", namespace=namespace)
    async with installed(cluster, is_linked=is_linked) as made:
        assert await made.users() == [("own", "own"), ("install", "system/install")]
        assert await made.users("shop-1") == [("install", "system/install")]
        assert await made.users(image="quay.io/acmecorp/web") == [("own", "own")]
        assert await made.users(image="ghcr.io/acme/web") == []
        before = len(api.requests)
        assert await made.users("other") == [("own", "own")]
        assert not any(seen.namespace == "system" for seen in api.requests[before:])
        assert made.malformed == []


@both_modes
async def test_nobody_is_served_by_default(api: FakeApiServer, cluster: Cluster, is_linked: bool) -> None:
    put(api, "install", config_json("quay.io", user="install"), namespace="system")
    async with installed(cluster, is_linked=is_linked, whom=InstallWide()) as made:
        assert await made.users() == []
    assert not any(seen.namespace == "system" for seen in api.requests)


@both_modes
async def test_without_an_installations_secret(api: FakeApiServer, cluster: Cluster, is_linked: bool) -> None:
    put(api, "own", config_json("quay.io"))
    credentials = Credentials(cluster, is_linked=is_linked)
    assert [entry.host for entry in await credentials.entries("acme", ("own",))] == ["quay.io"]


@both_modes
async def test_a_change_of_the_installations_secret_is_told_to_all(
    api: FakeApiServer, cluster: Cluster, is_linked: bool
) -> None:
    put(api, "install", config_json("quay.io", user="old"), namespace="system")
    async with installed(cluster, is_linked=is_linked) as made:
        assert await made.users() == [("old", "system/install")]
        assert await made.users() == [("old", "system/install")]
        assert made.changed == []
        put(api, "install", config_json("quay.io", user="new"), namespace="system")
        if not is_linked:  # there the next use tells
            await until(lambda: made.changed)
        assert await made.users() == [("new", "system/install")]
        assert made.changed == ([None] if is_linked else ["system", None])
        put(api, "own", config_json("quay.io"))
        if not is_linked:
            await until(lambda: len(made.changed) == 3)
            assert made.changed[2] == "acme"


@both_modes
async def test_an_installations_secret_that_is_absent_is_told_once(
    api: FakeApiServer, cluster: Cluster, is_linked: bool
) -> None:
    put(api, "own", config_json("quay.io", user="own"))
    link(api, "own")
    async with installed(cluster, is_linked=is_linked) as made:
        for _ in range(3):
            assert await made.users() == [("own", "own")]
        ((namespace, name, message),) = made.malformed
        assert (namespace, name) == ("system", "install")
        assert "not there" in message
        put(api, "install", config_json("quay.io", user="install"), namespace="system")
        if not is_linked:
            await until(lambda: made.changed)
        assert ("install", "system/install") in await made.users()
        api.remove("v1", "secrets", "system", "install")
        if not is_linked:
            await until(lambda: len(made.changed) == 4)
        assert await made.users() == [("own", "own")]
        assert len(made.malformed) == 2


@both_modes
async def test_an_installations_secret_that_is_malformed_is_told_once(
    api: FakeApiServer, cluster: Cluster, is_linked: bool
) -> None:
    put(api, "install", {"type": DOCKER_CFG, "data": {".dockercfg": _data("s3cret")}}, namespace="system")
    async with installed(cluster, is_linked=is_linked) as made:
        for namespace in ("acme", "shop-1", "acme"):
            assert await made.users(namespace) == []
        ((_, _, message),) = made.malformed
        assert 'secret "install" is not usable' in message
        assert "s3cret" not in message


async def test_no_password_is_in_what_the_front_holds(api: FakeApiServer, cluster: Cluster) -> None:
    put(api, "install", config_json("quay.io", password="s3cret"), namespace="system")
    async with installed(cluster, is_linked=True) as made:
        await made.users()
        assert "s3cret" not in repr(vars(made.credentials)) + repr(vars(made.credentials._source))


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
