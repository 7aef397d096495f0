"""Kubeconfigs and service accounts as they come, and credentials that change while we run."""

from __future__ import annotations

import base64
import json
import ssl
import stat
import sys
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import trustme
import yaml
from aiohttp import web

from imagestreams.kube.access import Access, InCluster
from imagestreams.kube.cluster import Cluster, ConfigurationError, Unauthorized, Unreachable, api_path
from imagestreams.kube.lazy import configuration_loader
from tests.fakes.apiserver import FakeApiServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from dev.control_plane import ControlPlane

SECRETS = api_path("v1", "secrets")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def shown(api: FakeApiServer) -> list[str]:
    """The Authorization values that the server was shown."""
    return [seen.headers.get("Authorization", "") for seen in api.requests]


@asynccontextmanager
async def connected(kubeconfig: Path, clock: Clock | None = None, context: str | None = None) -> AsyncIterator[Cluster]:
    async with await Cluster.connect(str(kubeconfig), context, clock=clock or Clock()) as cluster:
        yield cluster


# --- what a kubeconfig can say of a user
# ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("user", "header"),
    [
        pytest.param({"token": "sesame"}, "Bearer sesame", id="token"),
        pytest.param({"username": "me", "password": "pw"}, "Basic bWU6cHc=", id="password"),
        pytest.param({}, "", id="anonymous"),
    ],
)
async def test_users(api: FakeApiServer, tmp_path: Path, user: dict[str, str], header: str) -> None:
    async with connected(api.kubeconfig(tmp_path / "config", user=user)) as cluster:
        await cluster.get(SECRETS)
    assert shown(api) == [header]
    assert api.requests[0].headers["User-Agent"].startswith("imagestreams/")


async def test_another_context(api: FakeApiServer, tmp_path: Path) -> None:
    config = json.loads(api.kubeconfig(tmp_path / "config").read_text())
    config["users"].append({"name": "other", "user": {"token": "other"}})
    config["contexts"].append({"name": "other", "context": {"cluster": "fake", "user": "other"}})
    path = tmp_path / "config"
    path.write_text(yaml.safe_dump(config))
    async with connected(path, context="other") as cluster:
        await cluster.get(SECRETS)
    assert shown(api) == ["Bearer other"]


async def test_several_files_are_one_kubeconfig(api: FakeApiServer, tmp_path: Path) -> None:
    config = json.loads(api.kubeconfig(tmp_path / "config", user={"token": "t"}).read_text())
    users = {"users": config.pop("users")}
    (tmp_path / "config").write_text(json.dumps(config))
    (tmp_path / "users").write_text(json.dumps(users))
    environ = {"KUBECONFIG": f"{tmp_path / 'config'}:{tmp_path / 'users'}:{tmp_path / 'absent'}"}
    async with await Cluster.connect(environ=environ) as cluster:
        await cluster.get(SECRETS)
    assert shown(api) == ["Bearer t"]


CONTEXT = "current-context: x\ncontexts: [{name: x, context: {cluster: c, user: u}}]\n"


# --- configurations that are none
# -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("just text", id="text"),
        pytest.param("a: [s3cret", id="no YAML"),
        pytest.param("current-context: x\nclusters: []\nusers: []\n", id="no contexts"),
        pytest.param(
            CONTEXT + "clusters: [{name: c}]\nusers: [{name: u, token: s3cret}]\n",
            id="a user that is laid out wrongly",
        ),
        pytest.param(
            CONTEXT + "clusters: [{name: c, s3cret: {}}]\nusers: [{name: u, user: {token: s3cret}}]\n",
            id="a cluster without an address",
        ),
        pytest.param(
            CONTEXT + "clusters: [{name: c, cluster: {server: 'https://c', certificate-authority: /absent}}]\n"
            "users: [{name: u, user: {}}]\n",
            id="a CA that is not there",
        ),
        pytest.param(
            CONTEXT + "clusters: [{name: c, cluster: {server: 'https://c', certificate-authority-data: bm8gQ0E=}}]\n"
            "users: [{name: u, user: {}}]\n",
            id="a CA that is none",
        ),
        pytest.param(
            CONTEXT + "clusters: [{name: c, cluster: {server: 'https://c'}}]\n"
            "users: [{name: u, user: {exec: {apiVersion: v1, command: /absent-plugin}}}]\n",
            id="a plugin that is not there",
        ),
    ],
)
async def test_bad_kubeconfigs(tmp_path: Path, text: str) -> None:
    (tmp_path / "config").write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        await Cluster.connect(str(tmp_path / "config"))
    assert "s3cret" not in str(caught.value)
    assert caught.value.__suppress_context__ or "s3cret" not in repr(caught.value.__cause__)


async def test_no_kubeconfig(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"there is no kubeconfig at .*absent"):
        await Cluster.connect(environ={"KUBECONFIG": str(tmp_path / "absent")})


async def test_no_service_account() -> None:
    environ = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": "1"}
    with pytest.raises(ConfigurationError, match="the pod's service account is not usable"):
        await Cluster.connect(environ=environ)


async def test_an_unknown_context(api: FakeApiServer, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="nowhere"):
        await Cluster.connect(str(api.kubeconfig(tmp_path / "config")), "nowhere")


# --- credentials that change
# ----------------------------------------------------------------------------------------------


async def test_a_refused_token_is_read_again_once(tmp_path: Path) -> None:
    async with FakeApiServer(tokens={"old"}) as api:
        path = api.kubeconfig(tmp_path / "config", user={"token": "old"})
        async with connected(path) as cluster:
            await cluster.get(SECRETS)
            api.tokens = {"new"}
            api.kubeconfig(path, user={"token": "new"})
            await cluster.get(SECRETS)
        assert shown(api) == ["Bearer old", "Bearer old", "Bearer new"]


async def test_a_token_that_stays_refused_is_not_read_again_for_each_request(tmp_path: Path) -> None:
    clock = Clock()
    async with (
        FakeApiServer(tokens={"other"}) as api,
        connected(api.kubeconfig(tmp_path / "config", user={"token": "bad"}), clock) as cluster,
    ):
        for _ in range(5):
            with pytest.raises(Unauthorized):
                await cluster.get(SECRETS)
        assert len(api.requests) == 6
        clock.now += 11
        with pytest.raises(Unauthorized):
            await cluster.get(SECRETS)
        assert len(api.requests) == 8


async def test_a_configuration_that_breaks_does_not_hide_the_refusal(tmp_path: Path) -> None:
    async with FakeApiServer(tokens={"other"}) as api:
        path = api.kubeconfig(tmp_path / "config", user={"token": "bad"})
        async with connected(path) as cluster:
            path.write_text("")
            with pytest.raises(Unauthorized):
                await cluster.get(SECRETS)


async def test_a_token_file_is_read_again(api: FakeApiServer, tmp_path: Path) -> None:
    token, clock = tmp_path / "token", Clock()
    token.write_text("first\n")
    async with connected(api.kubeconfig(tmp_path / "config", user={"tokenFile": str(token)}), clock) as cluster:
        await cluster.get(SECRETS)
        token.write_text("second\n")
        await cluster.get(SECRETS)
        clock.now += 61
        await cluster.get(SECRETS)
    assert shown(api) == ["Bearer first", "Bearer first", "Bearer second"]


class Plugin:
    """An exec plugin that prints what is in its file, and counts."""

    def __init__(self, folder: Path) -> None:
        self._answer, self._runs, script = folder / "answer", folder / "runs", folder / "plugin"
        script.write_text(
            f"#!{sys.executable}\nimport pathlib\npathlib.Path({str(self._runs)!r}).open('a').write('x')\n"
            f"print(pathlib.Path({str(self._answer)!r}).read_text())\n"
        )
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        self.user = {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": str(script), "args": ["--x"]}}

    def answers(self, **status: str) -> None:
        credential = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": status}
        self._answer.write_text(json.dumps(credential))

    @property
    def runs(self) -> int:
        return len(self._runs.read_text())


async def test_a_plugins_token_is_kept_until_it_is_refused(tmp_path: Path) -> None:
    plugin, clock = Plugin(tmp_path), Clock()
    plugin.answers(token="one")
    async with (
        FakeApiServer(tokens={"one"}) as api,
        connected(api.kubeconfig(tmp_path / "c", user=plugin.user), clock) as cluster,
    ):
        for _ in range(3):
            await cluster.get(SECRETS)
            clock.now += 100
        assert plugin.runs == 1
        api.tokens = {"two"}
        plugin.answers(token="two")
        await cluster.get(SECRETS)
        assert plugin.runs == 2
        assert shown(api)[-1] == "Bearer two"


async def test_a_plugins_token_is_renewed_before_it_expires(api: FakeApiServer, tmp_path: Path) -> None:
    plugin, clock = Plugin(tmp_path), Clock()
    soon = (datetime.now(UTC) + timedelta(minutes=2)).strftime("%Y-%m-%dT%H:%M:%SZ")
    late = (datetime.now(UTC) + timedelta(hours=2)).strftime("%Y-%m-%dT%H:%M:%SZ")
    plugin.answers(token="soon", expirationTimestamp=soon)
    async with connected(api.kubeconfig(tmp_path / "c", user=plugin.user), clock) as cluster:
        await cluster.get(SECRETS)
        plugin.answers(token="late", expirationTimestamp=late)
        for _ in range(3):
            clock.now += 61
            await cluster.get(SECRETS)
    assert shown(api) == ["Bearer soon", "Bearer late", "Bearer late", "Bearer late"]
    assert plugin.runs == 2


async def test_a_plugin_that_fails_later_leaves_the_present_token(api: FakeApiServer, tmp_path: Path) -> None:
    plugin, clock = Plugin(tmp_path), Clock()
    plugin.answers(token="soon", expirationTimestamp="2020-01-01T00:00:00Z")
    async with connected(api.kubeconfig(tmp_path / "c", user=plugin.user), clock) as cluster:
        plugin.answers()
        (tmp_path / "answer").write_text("no JSON")
        clock.now += 61
        await cluster.get(SECRETS)
    assert shown(api) == ["Bearer soon"]


# --- TLS
# ------------------------------------------------------------------------------------------------------------------


class Tls:
    """An authority, and a server's context with a certificate for 127.0.0.1."""

    def __init__(self, name: str = "127.0.0.1", *, client_ca: trustme.CA | None = None) -> None:
        self.ca = trustme.CA()
        self.server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.ca.issue_cert(name).configure_cert(self.server)
        if client_ca:
            client_ca.configure_trust(self.server)
            self.server.verify_mode = ssl.CERT_REQUIRED

    @property
    def ca_data(self) -> str:
        return base64.b64encode(self.ca.cert_pem.bytes()).decode()

    @property
    def cluster(self) -> dict[str, Any]:
        return {"certificate-authority-data": self.ca_data}


async def test_a_server_is_verified(tmp_path: Path) -> None:
    tls, other = Tls(), Tls()
    async with FakeApiServer(tls=tls.server) as api:
        for number, cluster_entry in enumerate((other.cluster, {})):
            async with connected(api.kubeconfig(tmp_path / str(number), cluster=cluster_entry)) as cluster:
                with pytest.raises(Unreachable, match="certificate verify failed"):
                    await cluster.get(SECRETS)
        for number, cluster_entry in enumerate((tls.cluster, {"insecure-skip-tls-verify": True})):
            async with connected(api.kubeconfig(tmp_path / str(number), cluster=cluster_entry)) as cluster:
                await cluster.get(SECRETS)
        assert len(api.requests) == 2


async def test_a_servers_other_name(tmp_path: Path) -> None:
    tls = Tls("api.example.com")
    async with FakeApiServer(tls=tls.server) as api:
        async with connected(api.kubeconfig(tmp_path / "a", cluster=tls.cluster)) as cluster:
            with pytest.raises(Unreachable):
                await cluster.get(SECRETS)
        named = {**tls.cluster, "tls-server-name": "api.example.com"}
        async with connected(api.kubeconfig(tmp_path / "b", cluster=named)) as cluster:
            await cluster.get(SECRETS)


async def test_a_replaced_authority_needs_no_restart(tmp_path: Path) -> None:
    tls, other = Tls(), Tls()
    async with FakeApiServer(tls=tls.server) as api:
        ca_file = tmp_path / "ca.pem"
        other.ca.cert_pem.write_to_path(ca_file)
        path = api.kubeconfig(tmp_path / "config", cluster={"certificate-authority": str(ca_file)})
        async with connected(path) as cluster:
            tls.ca.cert_pem.write_to_path(ca_file)
            await cluster.get(SECRETS)


async def test_client_certificates(tmp_path: Path) -> None:
    clients = trustme.CA()
    tls = Tls(client_ca=clients)
    issued = clients.issue_cert("me@example.com")
    issued.private_key_pem.write_to_path(tmp_path / "key")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "cert")
    data = {
        "client-certificate-data": base64.b64encode(issued.cert_chain_pems[0].bytes()).decode(),
        "client-key-data": base64.b64encode(issued.private_key_pem.bytes()).decode(),
    }
    files = {"client-certificate": str(tmp_path / "cert"), "client-key": str(tmp_path / "key")}
    plugin = Plugin(tmp_path)
    plugin.answers(
        clientCertificateData=issued.cert_chain_pems[0].bytes().decode(),
        clientKeyData=issued.private_key_pem.bytes().decode(),
    )
    async with FakeApiServer(tls=tls.server) as api:
        for user in (data, files, plugin.user):
            async with connected(api.kubeconfig(tmp_path / "config", user=user, cluster=tls.cluster)) as cluster:
                await cluster.get(SECRETS)
        async with connected(api.kubeconfig(tmp_path / "config", cluster=tls.cluster)) as cluster:
            with pytest.raises(Unreachable):
                await cluster.get(SECRETS)


async def test_a_pods_service_account(tmp_path: Path) -> None:
    tls = Tls()
    tls.ca.cert_pem.write_to_path(tmp_path / "ca.crt")
    (tmp_path / "token").write_text("first\n")
    async with FakeApiServer(tls=tls.server, tokens={"first"}) as api:
        environ = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(api.port)}
        source = InCluster(
            configuration_loader(),
            environ,
            token_filename=str(tmp_path / "token"),
            cert_filename=str(tmp_path / "ca.crt"),
        )
        access = Access(source, clock=Clock())
        await access.load()
        async with Cluster(access) as cluster:
            await cluster.get(SECRETS)
            api.tokens = {"second"}
            (tmp_path / "token").write_text("second")
            await cluster.get(SECRETS)
    assert shown(api) == ["Bearer first", "Bearer first", "Bearer second"]


# --- OIDC
# -----------------------------------------------------------------------------------------------------------------


def jwt(expires: datetime) -> str:
    part = base64.urlsafe_b64encode(json.dumps({"exp": int(expires.timestamp())}).encode()).decode().rstrip("=")
    return f"e30.{part}.c2ln"


@asynccontextmanager
async def issuer(tls: Tls, id_token: str, seen: list[dict[str, str]]) -> AsyncIterator[str]:
    """An OIDC provider that trades any refresh token for `id_token`."""

    async def known(request: web.Request) -> web.Response:
        return web.json_response({"token_endpoint": f"https://{request.host}/token"})

    async def token(request: web.Request) -> web.Response:
        seen.append({key: str(value) for key, value in (await request.post()).items()})
        return web.json_response({"id_token": id_token, "refresh_token": "next"})

    app = web.Application()
    app.add_routes([web.get("/.well-known/openid-configuration", known), web.post("/token", token)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls.server).start()
    try:
        yield f"https://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def oidc_user(url: str, **config: str) -> dict[str, Any]:
    expired = jwt(datetime.now(UTC) - timedelta(hours=1))
    settings = {
        "idp-issuer-url": url,
        "client-id": "id",
        "client-secret": "cs",
        "refresh-token": "r3fresh",
        "id-token": expired,
    }
    return {"auth-provider": {"name": "oidc", "config": settings | config}}


async def test_an_expired_id_token_is_traded_and_the_new_refresh_token_kept(api: FakeApiServer, tmp_path: Path) -> None:
    fresh, tls, seen = jwt(datetime.now(UTC) + timedelta(hours=1)), Tls(), []
    async with issuer(tls, fresh, seen) as url:
        user = oidc_user(url, **{"idp-certificate-authority-data": tls.ca_data})
        path = api.kubeconfig(tmp_path / "config", user=user)
        async with connected(path) as cluster:
            await cluster.get(SECRETS)
    assert shown(api) == [f"Bearer {fresh}"]
    assert seen == [{"grant_type": "refresh_token", "refresh_token": "r3fresh"}]
    kept = yaml.safe_load(path.read_text())["users"][0]["user"]["auth-provider"]["config"]
    assert kept["refresh-token"] == "next"
    assert kept["id-token"] == fresh


@pytest.mark.parametrize("scheme", ["https", "http"])
async def test_a_refresh_token_goes_to_no_unverified_issuer(api: FakeApiServer, tmp_path: Path, scheme: str) -> None:
    seen: list[dict[str, str]] = []
    async with issuer(Tls(), "x", seen) as url:
        path = api.kubeconfig(tmp_path / "config", user=oidc_user(url.replace("https", scheme)))
        with pytest.raises(ConfigurationError) as caught:
            await Cluster.connect(str(path))
    assert not seen
    assert "r3fresh" not in str(caught.value)


# --- the real one
# ---------------------------------------------------------------------------------------------------------


async def test_ways_in_to_a_real_api_server(control_plane: ControlPlane, namespace: str, tmp_path: Path) -> None:
    control_plane.kubectl("create", "serviceaccount", "me", f"--namespace={namespace}")
    token = control_plane.kubectl("create", "token", "me", f"--namespace={namespace}").stdout.strip()
    plugin = Plugin(tmp_path)
    plugin.answers(token=token)
    review = json.dumps({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}).encode()

    async def name_with(user: dict[str, Any]) -> str:
        config = {
            "current-context": "c",
            "clusters": [
                {
                    "name": "c",
                    "cluster": {"server": control_plane.url, "certificate-authority": str(control_plane.ca_file)},
                }
            ],
            "users": [{"name": "u", "user": user}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        }
        (tmp_path / "config").write_text(json.dumps(config))
        async with connected(tmp_path / "config") as cluster:
            answer = await cluster.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", review)
        return str(json.loads(answer)["status"]["userInfo"]["username"])

    account = f"system:serviceaccount:{namespace}:me"
    assert await name_with({"token": token}) == account
    assert await name_with(plugin.user) == account
    admin = yaml.safe_load(control_plane.kubeconfig.read_text())["users"][0]["user"]
    assert admin.keys() & {"client-certificate", "client-certificate-data"}
    assert await name_with(admin) not in {account, "system:anonymous"}
