"""What the wiring decides by itself: when the process is ready, and when it must not go on."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from structlog.testing import capture_logs

from dev.images import image
from imagestreams import access
from imagestreams.app import CannotListen, Controller, GroupTaken
from imagestreams.core.policy import refuse_address
from imagestreams.kube import registries, skew
from imagestreams.kube.cluster import Cluster
from imagestreams.rules import base_policy_of
from imagestreams.settings import load
from tests.fakes.apiserver import FakeApiServer, Seen, hang, held, status
from tests.fakes.registry import FakeRegistry
from tests.fakes.waiting import until
from tests.storyteller import Storyteller

SYSTEM, REGISTRIES = "imagestreams-system", "imagestreams-registries"


async def run(api: FakeApiServer, directory: Path, **flags: str) -> None:
    """A controller, until it ends by itself."""
    settings = load(
        {"kubeconfig": str(api.kubeconfig(directory / "kubeconfig")), "http_address": "127.0.0.1:0", **flags},
        {},
        lambda path: Path(path).read_text(),
    )
    async with await Cluster.connect(settings.kubeconfig) as cluster, asyncio.timeout(10):
        await Controller(cluster, settings, clock=lambda: datetime.now(UTC)).run(asyncio.Event())


async def test_an_address_that_is_taken_is_named(tmp_path: Path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        async with FakeApiServer() as api:
            with pytest.raises(CannotListen, match=f"http-address {address}"):
                await run(api, tmp_path, http_address=address)


async def test_a_group_of_another_api_server_is_left_alone(tmp_path: Path):
    async with FakeApiServer() as api:
        api.put(
            {
                "apiVersion": "apiregistration.k8s.io/v1",
                "kind": "APIService",
                "metadata": {"name": "v1.image.openshift.io"},
                "spec": {"group": "image.openshift.io", "version": "v1", "service": {"name": "api", "namespace": "os"}},
            }
        )
        with pytest.raises(GroupTaken, match=r"imagestreams\.dev"):
            await run(api, tmp_path)
        assert api.count("patch") == 0


@pytest.mark.parametrize(
    ("url", "refused"),
    [
        pytest.param("https://10.96.0.1:443", True, id="by address, as in a pod"),
        pytest.param("https://[fd00::1]:6443", False, id="another address"),
        pytest.param("https://kubernetes.example.com", False, id="by name"),
    ],
)
def test_the_api_server_is_no_registry(url: str, refused: bool):
    policy = base_policy_of(load({}, {}, lambda path: Path(path).read_text()), api_server=url)
    assert bool(refuse_address(ip_address("10.96.0.1"), policy)) is refused
    assert refuse_address(ip_address("10.96.0.2"), policy) is None, "its neighbours may be registries"


async def test_an_api_server_that_hangs_ends_readiness(tmp_path: Path):
    async with Storyteller(tmp_path, {"lease_duration": "3s"}) as teller:
        controller = teller.controller
        assert controller.problems() == {}
        teller.api.inject(hang(), resource="leases", times=-1)
        await until(lambda: "api-server" in controller.problems())
        assert "Lease" in controller.problems()["api-server"]
        teller.api.heal()
        await until(lambda: controller.problems() == {})


# --- a controller, its cluster and its registry -----------------------------------------------------------------------


@asynccontextmanager
async def cluster_with(*streams: dict[str, Any]) -> AsyncIterator[FakeApiServer]:
    async with FakeApiServer() as api:
        api.define("image.openshift.io/v1", "imagestreams", "ImageStream", status=True)
        for each in streams:
            api.put(each)
        yield api


@asynccontextmanager
async def controller_at(
    api: FakeApiServer,
    directory: Path,
    *registered: FakeRegistry,
    now: Callable[[], float] = time.time,
    **flags: str,
) -> AsyncIterator[Controller]:
    """A controller that asks the fake registry for what is at registry.test, whether it comes to lead or not; `now` is
    its machine's clock, the API server has another.
    """
    given = {
        "kubeconfig": str(api.kubeconfig(directory / "kubeconfig")),
        "http_address": "127.0.0.1:0",
        "settle": "20ms",
        "registry_endpoint": tuple(f"registry.test={registry.url}" for registry in registered),
        **flags,
    }
    settings = load(given, {}, lambda path: Path(path).read_text())
    async with await Cluster.connect(settings.kubeconfig, now=now) as cluster:
        controller, stop = Controller(cluster, settings, clock=lambda: datetime.now(UTC)), asyncio.Event()
        running = asyncio.create_task(controller.run(stop))
        try:
            yield controller
        finally:
            stop.set()
            await running


def stream(name: str = "web", source: str = "registry.test/acme/web:stable", namespace: str = "acme") -> dict[str, Any]:
    return {
        "apiVersion": "image.openshift.io/v1",
        "kind": "ImageStream",
        "metadata": {"name": name, "namespace": namespace, "generation": 1},
        "spec": {"tags": [{"name": "stable", "from": {"kind": "DockerImage", "name": source}}]},
    }


def pull_secret(host: str, login: str) -> dict[str, Any]:
    user, _, password = login.partition(":")
    config = json.dumps({"auths": {host: {"username": user, "password": password}}})
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "kubernetes.io/dockerconfigjson",
        "metadata": {"name": "pull", "namespace": "acme"},
        "data": {".dockerconfigjson": base64.b64encode(config.encode()).decode()},
    }


def document(text: str) -> dict[str, Any]:
    metadata = {"namespace": SYSTEM, "name": REGISTRIES}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"registries.yaml": text}}


def has_imported(api: FakeApiServer, name: str = "web") -> bool:
    found = api.get("image.openshift.io/v1", "imagestreams", "acme", name)
    return bool(found and any(tag.get("items") for tag in found.get("status", {}).get("tags", [])))


def holder_of_lease(api: FakeApiServer) -> str | None:
    lease = api.get("coordination.k8s.io/v1", "leases", SYSTEM, "imagestreams")
    return lease["spec"].get("holderIdentity") if lease else None


def knows_secret(controller: Controller) -> Callable[[], bool]:
    """Whether the watch has brought a pull secret of the namespace acme."""
    return lambda: bool(controller._access._credentials._source._watched.get("acme"))


def is_secret_list(seen: Seen, *, of_watch: bool) -> bool:
    is_of_watch = "PartialObjectMetadata" in seen.headers["Accept"]
    return (seen.verb, seen.resource, is_of_watch) == ("list", "secrets", of_watch)


async def never(condition: Callable[[], object]) -> None:
    """It does not come to hold, as far as one can wait for that."""
    with pytest.raises(TimeoutError):
        await until(condition, seconds=0.3)


FIELD = "spec.template.spec.containers[0].image"

# --- pull secrets -----------------------------------------------------------------------------------------------------

IMPORTED = {"ImageStream/web": {"tags": {"stable": ["$A"]}, "conditions": {"stable": "True Imported"}}}


async def test_a_pull_secret_that_comes_while_its_tag_is_asked_for_is_used(tmp_path: Path):
    async with Storyteller(tmp_path, {"insecure_registry": "registry.test"}) as teller:
        await teller.play({"push": {"web:stable": "A"}})
        registry = teller._registries["registry.test"]
        await teller.play({"registry": {"registry.test": {"login": {"u": "p"}}}})
        await teller.play({"registry": {"registry.test": "hang"}})
        await teller.play({"apply": [stream()]})
        await registry.arrived(1)
        teller.api.put(pull_secret("registry.test", "u:p"))
        await until(knows_secret(teller.controller))
        registry.release()
        await teller.play({"expect": {"ImageStream/web": {"conditions": {"stable": "False Unauthorized"}}}})
        await teller.play({"advance": "2s"})
        await teller.play({"expect": IMPORTED})


async def test_a_pull_secret_that_comes_while_the_secrets_are_read_is_used(tmp_path: Path):
    async with Storyteller(tmp_path, {"insecure_registry": "registry.test"}) as teller:
        api, go_on = teller.api, asyncio.Event()

        async def late(_, handle):
            answer = await handle()
            await go_on.wait()
            return answer

        await teller.play({"push": {"web:stable": "A"}})
        await teller.play({"registry": {"registry.test": {"login": {"u": "p"}}}})
        api.inject(late, when=lambda seen: is_secret_list(seen, of_watch=False))
        await teller.play({"apply": [stream()]})
        await until(lambda: any(is_secret_list(seen, of_watch=False) for seen in api.requests))
        api.put(pull_secret("registry.test", "u:p"))
        await until(knows_secret(teller.controller))
        go_on.set()
        await teller.play({"expect": {"ImageStream/web": {"conditions": {"stable": "False Unauthorized"}}}})
        await teller.play({"advance": "2s"})
        await teller.play({"expect": IMPORTED})


async def test_what_is_under_way_is_asked_once_more_and_no_oftener(tmp_path: Path):
    async with Storyteller(tmp_path, {}) as teller:
        await teller.play({"push": {"web:stable": "A", "other:stable": "B"}})
        registry = teller._registries["registry.test"]
        await teller.play({"apply": [stream("other", "registry.test/acme/other:stable")]})
        await teller.play({"expect": {"ImageStream/other": {"tags": {"stable": ["$B"]}}}})
        await teller.play({"registry": {"registry.test": "hang"}})
        await teller.play({"apply": [stream()]})
        await registry.arrived(1)
        for login in ("u:p", "u:q", "u:r"):
            teller.api.put(pull_secret("registry.test", login))
        await until(knows_secret(teller.controller))
        registry.release()
        await teller.play({"expect": IMPORTED})
        await teller.play({"advance": "2s"})
        await teller.play({"expect": {"requests": ["HEAD acme/web:stable"], "writes": {}}})
        await teller.play({"advance": "1h"})
        await teller.play({"expect": {"requests": []}})


async def test_the_first_rounds_wait_for_the_pull_secrets_of_all(tmp_path: Path):
    names = [f"web{number}" for number in range(20)]
    async with cluster_with(*map(stream, names)) as api, FakeRegistry() as registry:
        registry.add("acme/web", "stable", image(text="A"))
        go_on = asyncio.Event()
        api.inject(held(go_on), when=lambda seen: is_secret_list(seen, of_watch=True), times=2)
        async with controller_at(api, tmp_path, registry) as controller:
            await until(lambda: holder_of_lease(api))
            await never(lambda: controller._importer)
            go_on.set()
            await until(lambda: all(has_imported(api, name) for name in names))
            assert sum(is_secret_list(seen, of_watch=False) for seen in api.requests) == 2, "once for each type"


async def test_pull_secrets_that_do_not_come_are_not_waited_for_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(access, "_CREDENTIALS_PATIENCE", 0.05)
    async with cluster_with(stream()) as api, FakeRegistry() as registry:
        registry.add("acme/web", "stable", image(text="A"))
        api.inject(hang(), when=lambda seen: is_secret_list(seen, of_watch=True), times=-1)
        with capture_logs() as logs:
            async with controller_at(api, tmp_path, registry):
                await until(lambda: has_imported(api))
        assert "pull secrets are not known yet, and read when needed" in {each["event"] for each in logs}


async def test_secrets_that_may_not_be_read_end_readiness_and_say_so(tmp_path: Path):
    async with cluster_with(stream()) as api:
        api.inject(status(403, "Forbidden", "no right to list secrets"), resource="secrets", times=-1)
        async with controller_at(api, tmp_path) as controller:
            await until(lambda: controller._importer)  # nobody waits for it
            await until(lambda: "pull-secrets" in controller.problems())
            assert controller.problems() == {
                "pull-secrets": "list and watch of /api/v1/secrets are not allowed: no right to list secrets"
            }
            api.heal()
            await until(lambda: controller.problems() == {})


# --- clocks ---


async def test_a_clock_that_is_wrong_is_told_and_takes_nobody_out_of_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(skew, "_RECENT", 0.0)
    ahead = 40.0
    async with cluster_with() as api, aiohttp.ClientSession() as session:
        with capture_logs() as logs:

            def told() -> list[tuple[str, str]]:
                return [(each["log_level"], each["event"]) for each in logs if "clocks" in each["event"]]

            async def shown(page: str) -> str:
                (address,) = (each["address"] for each in logs if each["event"] == "serving")
                async with session.get(f"http://{address}/{page}") as response:
                    assert response.status == 200
                    return await response.text()

            async def measured() -> float:
                (found,) = re.findall(r"^imagestreams_clock_skew_seconds (.*)$", await shown("metrics"), re.MULTILINE)
                return float(found)

            now, flags = lambda: time.time() + ahead, {"lease_duration": "3s"}
            async with controller_at(api, tmp_path, now=now, **flags) as controller:
                await until(lambda: told() and controller.problems() == {})
                warning = r"\[\+\] api-server: ok, but our clock is (39|40) s ahead of the API server's; run NTP"
                assert re.search(warning, await shown("readyz"))
                assert 38 < await measured() <= 40
                assert told() == [("warning", "the clocks differ")]
                ahead = 0.0
                await until(lambda: len(told()) == 2)
                assert "[+] api-server: ok\n" in await shown("readyz")
                assert await measured() == 0
                assert told()[1:] == [("info", "the clocks agree again")]


# --- what an administrator says of registries -------------------------------------------------------------------------


async def test_nothing_is_asked_before_the_administrators_document_is_read(tmp_path: Path):
    async with cluster_with(stream()) as api, FakeRegistry() as registry:
        registry.add("acme/web", "stable", image(text="A"))
        api.put(document("blocked: ["))
        with capture_logs() as logs:
            async with controller_at(api, tmp_path, registry) as controller:
                await until(lambda: any(each["event"] == "nothing is imported yet" for each in logs))
                assert holder_of_lease(api)
                await never(lambda: controller._importer or registry.requests)
                assert controller.problems().keys() == {"registries"}
                assert f"ConfigMap {SYSTEM}/{REGISTRIES}: line 2" in controller.problems()["registries"]
                api.put(document("blocked: [elsewhere.test]"))
                await until(lambda: has_imported(api))
                assert controller.problems() == {}


async def test_a_configmap_that_may_not_be_read_may_block_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(registries, "_LOOK_AGAIN_SOON", 0.02)
    async with cluster_with(stream()) as api, FakeRegistry() as registry:
        registry.add("acme/web", "stable", image(text="A"))
        api.put(document("blocked: [registry.test]"))
        forbidden = status(403, "Forbidden", "cannot list configmaps")
        api.inject(forbidden, when=lambda seen: (seen.resource, seen.namespace) == ("configmaps", SYSTEM), times=-1)
        async with controller_at(api, tmp_path, registry) as controller:
            await until(lambda: holder_of_lease(api))
            await until(lambda: "cannot list configmaps" in controller.problems().get("registries", ""))
            assert "--registries-configmap= (empty)" in controller.problems()["registries"]
            await never(lambda: controller._importer or registry.requests)
            api.heal()
            await until(lambda: controller._importer)
            await until(lambda: api.count("patch", "imagestreams/status"))
            assert registry.requests == [], "it is blocked"


async def test_no_configmap_is_asked_for_where_none_is_wanted(tmp_path: Path):
    async with cluster_with(stream()) as api, FakeRegistry() as registry:
        registry.add("acme/web", "stable", image(text="A"))
        api.inject(status(403, "Forbidden"), resource="configmaps", times=-1)
        async with controller_at(api, tmp_path, registry, registries_configmap="") as controller:
            await until(lambda: has_imported(api))
            assert controller.problems() == {}


async def test_mirror_sets_that_cannot_be_read_do_not_stop_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(registries, "_PATIENCE", 0.3)
    async with cluster_with(stream()) as api, FakeRegistry() as registry:
        registry.add("acme/web", "stable", image(text="A"))
        api.define("config.openshift.io/v1", "imagedigestmirrorsets", "ImageDigestMirrorSet", namespaced=False)
        api.inject(status(503, "ServiceUnavailable"), resource="imagedigestmirrorsets", times=-1)
        async with controller_at(api, tmp_path, registry) as controller:
            await until(lambda: "imagedigestmirrorsets cannot be read" in controller.problems().get("registries", ""))
            await until(lambda: has_imported(api))
            assert controller.problems() == {}


async def test_a_standby_keeps_its_file_fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(registries, "_REREAD", 0.02)
    file = tmp_path / "registries.yaml"
    file.write_text("blocked: [")
    async with Storyteller(tmp_path, {}) as teller:
        flags = {"registries_file": str(file), "identity": "standby"}
        async with controller_at(teller.api, tmp_path, **flags) as standby:
            await until(lambda: str(file) in standby.problems().get("registries", ""))
            for text in ("a.test", "b.test"):
                file.write_text(f"blocked: [{text}]")
                await until(lambda text=text: standby._access.policy.blocked == (text,))
                assert standby.problems() == {}
            assert standby._importer is None


async def test_who_takes_over_goes_by_the_file_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(registries, "_REREAD", 3600.0)
    file = tmp_path / "registries.yaml"
    file.write_text("blocked: []")
    async with cluster_with() as api, FakeRegistry() as registry:
        flags = {"registries_file": str(file)}
        async with controller_at(api, tmp_path, registry, identity="first", **flags):
            await until(lambda: holder_of_lease(api) == "first")
            second = controller_at(api, tmp_path, registry, identity="second", **flags)
            standby = await second.__aenter__()
            await until(standby._access._sources.synced.is_set)
            file.write_text("blocked: [registry.test]")
            api.put(stream())
        try:
            await until(lambda: standby._importer, seconds=20)
            found = lambda: api.get("image.openshift.io/v1", "imagestreams", "acme", "web") or {}  # noqa: E731
            await until(lambda: "Blocked" in json.dumps(found().get("status")))
        finally:
            await second.__aexit__(None, None, None)


async def test_a_blocked_registrys_image_is_not_rolled_out_from_the_edit_on(tmp_path: Path):
    trigger = {"from": {"kind": "ImageStreamTag", "name": "web:stable"}, "fieldPath": FIELD}
    async with Storyteller(tmp_path, {}) as teller:
        await teller.play({"push": {"web:stable": "A"}})
        await teller.play({"apply": [stream()]})
        await teller.play({"expect": IMPORTED})
        await teller.play({"apply": [document("blocked: [registry.test/acme]")]})
        await until(lambda: teller.controller._access.policy.blocked)
        deployment = {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "web", "annotations": {"image.openshift.io/triggers": json.dumps([trigger])}},
            "spec": {"template": {"spec": {"containers": [{"name": "web", "image": "x/web:1"}]}}},
        }
        await teller.play({"apply": [deployment]})
        await teller.play({"expect": {"Deployment/web": {"images": {"web": "x/web:1"}}, "requests": []}})
        await teller.play({"apply": [document("blocked: []")]})
        await teller.play({"expect": {"Deployment/web": {"images": {"web": "registry.test/acme/web@$A"}}}})
