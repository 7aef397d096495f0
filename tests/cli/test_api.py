"""The command line's client, against the fake API server at the socket: TLS, identities, faults, watch, proxies."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from imagestreams.cli.api import ApiError, Client, NotInstalled, Refused, Resource, Unreachable
from imagestreams.cli.kubeconfig import KubeconfigError, Overrides, load
from tests.fakes.apiserver import FakeApiServer, disconnect, hang, html, raw, status

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

GROUP = "image.openshift.io"
RESOURCE = Resource(GROUP)
PATH = RESOURCE.path("shop", "web")


def stream(name: str = "web", **metadata: Any) -> dict[str, Any]:
    return {
        "apiVersion": f"{GROUP}/v1",
        "kind": "ImageStream",
        "metadata": {"name": name, "namespace": "shop", **metadata},
        "spec": {},
    }


@contextlib.asynccontextmanager
async def serving(**options: Any) -> AsyncIterator[FakeApiServer]:
    async with FakeApiServer(**options) as server:
        server.define(f"{GROUP}/v1", "imagestreams", "ImageStream", status=True)
        server.put(stream())
        yield server


@pytest.fixture
async def server() -> AsyncIterator[FakeApiServer]:
    async with serving() as found:
        yield found


def client_of(path: Path, *, environ: dict[str, str] | None = None, **options: Any) -> Client:
    overrides = options.pop("overrides", Overrides(kubeconfig=str(path)))
    return Client(load(overrides, environ or {}), **options)


async def call(client: Client, function: Callable[[Client], Any]) -> Any:
    """Run blocking calls beside the server's event loop, and hang up."""
    with contextlib.closing(client):
        return await asyncio.to_thread(function, client)


async def error_of(client: Client, function: Callable[[Client], Any] = lambda client: client.get(PATH)) -> str:
    with pytest.raises((ApiError, KubeconfigError)) as caught:
        await call(client, function)
    return str(caught.value)


# ---- calls ----


async def test_get_and_patch(server, tmp_path):
    def use(client: Client) -> None:
        found = json.loads(client.get(PATH))
        metadata = {"resourceVersion": found["metadata"]["resourceVersion"], "annotations": {"a": "b"}}
        changed = json.loads(client.patch(PATH, json.dumps({"metadata": metadata}).encode()))
        assert changed["metadata"]["annotations"] == {"a": "b"}
        with pytest.raises(Refused) as late:
            client.patch(PATH, json.dumps({"metadata": metadata}).encode())
        assert (late.value.status, late.value.reason) == (409, "Conflict")

    await call(client_of(server.kubeconfig(tmp_path / "config")), use)
    assert [seen.verb for seen in server.requests] == ["get", "patch", "patch"]
    assert server.requests[1].headers["Content-Type"] == "application/merge-patch+json"
    assert server.requests[0].headers["User-Agent"].startswith("imagestreams/")


async def test_not_found_in_kubectls_words(server, tmp_path):
    client = client_of(server.kubeconfig(tmp_path / "config"))
    message = await error_of(client, lambda client: client.get(RESOURCE.path("shop", "gone")))
    assert message == 'Error from server (NotFound): imagestreams.image.openshift.io "gone" not found'


async def test_a_server_with_a_path(server, tmp_path):
    config = server.kubeconfig(tmp_path / "config", cluster={"server": f"{server.url}/k8s/clusters/c-1"})
    await error_of(client_of(config))
    assert server.requests[0].path == f"/k8s/clusters/c-1{PATH}"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (status(403, "Forbidden", "no"), "Error from server (Forbidden): no"),
        (status(401, "Unauthorized", "Unauthorized"), "error: You must be logged in to the server (Unauthorized)"),
        (status(500, "InternalError", "etcd"), "Error from server (InternalError): etcd"),
        (status(500, "", "etcd"), "Error from server: etcd"),
        (html(502), "Error from server: the server answered with HTTP 502 Bad Gateway"),
        (html(404), "Error from server (NotFound): the server could not find the requested resource"),
        (html(307), "Error from server: the server answered with HTTP 307 Temporary Redirect"),
    ],
)
async def test_refusals(server, tmp_path, answer, message):
    server.inject(answer, times=-1)
    assert await error_of(client_of(server.kubeconfig(tmp_path / "config"))) == message


async def test_an_endless_answer(server, tmp_path):
    server.inject(raw(b" " * ((16 << 20) + 1)))
    message = await error_of(client_of(server.kubeconfig(tmp_path / "config")))
    assert message == "error: the server's answer is larger than 16 MiB"


async def test_a_busy_server_says_when_to_come_back(server, tmp_path):
    server.inject(status(429, "TooManyRequests", "busy", headers={"Retry-After": "3"}), times=2)
    server.inject(status(503, "ServiceUnavailable", "busy", headers={"Retry-After": "9999"}))
    pauses: list[float] = []
    await call(client_of(server.kubeconfig(tmp_path / "config"), sleep=pauses.append), lambda c: c.get(PATH))
    assert pauses == [3, 3, 10]


async def test_a_server_that_stays_busy(server, tmp_path):
    server.inject(status(429, "TooManyRequests", "busy", headers={"Retry-After": "1"}), times=-1)
    pauses: list[float] = []
    message = await error_of(client_of(server.kubeconfig(tmp_path / "config"), sleep=pauses.append))
    assert message == "Error from server (TooManyRequests): busy"
    assert pauses == [1] * 5


# ---- discovery ----


@pytest.mark.parametrize(
    ("groups", "found"),
    [
        (["image.openshift.io"], "image.openshift.io"),
        (["imagestreams.dev"], "imagestreams.dev"),
        (["image.openshift.io", "imagestreams.dev"], "imagestreams.dev"),
    ],
)
async def test_the_group_is_found_out(tmp_path, groups, found):
    async with FakeApiServer() as server:
        for group in groups:
            server.define(f"{group}/v1", "imagestreams", "ImageStream")
        client = client_of(server.kubeconfig(tmp_path / "config"))
        assert await call(client, lambda client: client.image_streams()) == Resource(found)


async def test_a_cluster_without_image_streams(tmp_path):
    async with FakeApiServer() as server:
        server.define("image.openshift.io/v1", "images", "Image")
        client = client_of(server.kubeconfig(tmp_path / "config"))
        with pytest.raises(NotInstalled) as caught:
            await call(client, lambda client: client.image_streams())
    assert str(caught.value) == (
        f"error: the server at {server.url} has no ImageStreams: their CRDs are not installed "
        f"(kubectl apply -k config/crds), or context 'fake' of {tmp_path}/config is not the cluster you mean"
    )


async def test_discovery_that_is_refused_is_not_taken_for_absence(server, tmp_path):
    server.inject(status(403, "Forbidden", "no"))
    client = client_of(server.kubeconfig(tmp_path / "config"))
    assert await error_of(client, lambda client: client.image_streams()) == "Error from server (Forbidden): no"


async def test_something_that_is_no_api_server(server, tmp_path):
    server.inject(raw(b"<html>"))
    client = client_of(server.kubeconfig(tmp_path / "config"))
    assert await error_of(client, lambda client: client.image_streams()) == (
        "error: the server answered with something that is no Kubernetes API's answer"
    )


# ---- watch ----


async def test_a_watch_tells_of_one_object(server, tmp_path):
    version = server.get(f"{GROUP}/v1", "imagestreams", "shop", "web")["metadata"]["resourceVersion"]
    server.put(stream("other"))
    server.put(stream(labels={"n": "1"}))
    loop = asyncio.get_running_loop()

    def use(client: Client) -> list[tuple[str, Any]]:
        found = []
        for event in client.watch(RESOURCE.path("shop"), "web", version, 30):
            found.append((event.kind, json.loads(event.body)["metadata"].get("labels")))
            if len(found) == 1:
                assert client.get(PATH), "other calls are possible meanwhile"
                loop.call_soon_threadsafe(server.remove, f"{GROUP}/v1", "imagestreams", "shop", "web")
            else:
                break
        return found

    found = await call(client_of(server.kubeconfig(tmp_path / "config")), use)
    assert found == [("MODIFIED", {"n": "1"}), ("DELETED", {"n": "1"})]


async def test_a_watch_ends_with_its_time(server, tmp_path):
    client = client_of(server.kubeconfig(tmp_path / "config"))
    version = server.get(f"{GROUP}/v1", "imagestreams", "shop", "web")["metadata"]["resourceVersion"]
    path = RESOURCE.path("shop")
    assert await call(client, lambda client: list(client.watch(path, "web", version, 0.05))) == []


@pytest.mark.parametrize("by_status", [False, True])
async def test_a_watch_from_too_long_ago(server, tmp_path, by_status):
    server.gone_by_status = by_status
    server.put(stream(labels={"a": "b"}))
    server.compact()
    client = client_of(server.kubeconfig(tmp_path / "config"))
    with pytest.raises(Refused) as caught:
        await call(client, lambda client: list(client.watch(RESOURCE.path("shop"), "web", "1", 5)))
    assert (caught.value.status, caught.value.reason) == (410, "Expired")


# ---- connections ----


async def test_nobody_listens(tmp_path):
    async with FakeApiServer() as server:
        config = server.kubeconfig(tmp_path / "config")
    assert await error_of(client_of(config)) == (
        f"The connection to the server 127.0.0.1:{server.port} was refused - did you specify the right host or port?"
    )


async def test_an_unknown_host(server, tmp_path):
    config = server.kubeconfig(tmp_path / "config", cluster={"server": "https://api.invalid"})
    assert await error_of(client_of(config)) == (
        "Unable to connect to the server: the host of https://api.invalid cannot be resolved"
    )


async def test_a_server_that_does_not_answer(server, tmp_path):
    server.inject(hang())
    message = await error_of(client_of(server.kubeconfig(tmp_path / "config"), request_timeout=0.05))
    assert message == f"Unable to connect to the server: 127.0.0.1:{server.port} did not answer in time"


async def test_a_server_that_hangs_up(server, tmp_path):
    server.inject(disconnect())
    message = await error_of(client_of(server.kubeconfig(tmp_path / "config")))
    assert message.startswith(f"Unable to connect to the server 127.0.0.1:{server.port}: ")


async def test_a_connection_that_went_idle_is_replaced(server, tmp_path):
    """The server may close an idle connection at any time; the next call must not fail for it."""

    def use(client: Client) -> None:
        client.get(PATH)
        client.get(PATH)

    async def hang_up(request, handle):
        request.transport.abort()
        return await handle()

    server.inject(hang_up, when=lambda _: len(server.requests) == 2)
    await call(client_of(server.kubeconfig(tmp_path / "config")), use)
    assert len(server.requests) == 3


async def test_a_server_that_keeps_no_connection(server, tmp_path):
    async def close(_request, handle):
        response = await handle()
        response.force_close()
        return response

    server.inject(close, times=-1)
    client = client_of(server.kubeconfig(tmp_path / "config"), request_timeout=5)
    await call(client, lambda client: [client.get(PATH), client.get(PATH)])
    assert len(server.requests) == 2


# ---- identities ----


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def tls_of(authority: trustme.CA, name: str = "127.0.0.1", *, clients: bool = False) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    if clients:
        authority.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def trusting(tmp_path: Path, authority: trustme.CA, **more: Any) -> dict[str, Any]:
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    return {"certificate-authority": "ca.pem", **more}


async def test_a_token(authority, tmp_path):
    async with serving(tls=tls_of(authority), tokens=["right"]) as server:
        cluster = trusting(tmp_path, authority)
        config = server.kubeconfig(tmp_path / "config", user={"token": "right"}, cluster=cluster)
        await call(client_of(config), lambda client: client.get(PATH))
        server.kubeconfig(config, user={"token": "wrong"}, cluster=cluster)
        assert await error_of(client_of(config)) == "error: You must be logged in to the server (Unauthorized)"


async def test_a_token_that_expired_is_asked_for_once_more(authority, tmp_path):
    counter = tmp_path / "count"
    plugin = tmp_path / "plugin"
    answer = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential"}
    plugin.write_text(
        f"#!/bin/sh\necho run >> {counter}\n"
        f"echo '{json.dumps({**answer, 'status': {'token': 'TOKEN'}})}' | sed s/TOKEN/token-$(wc -l < {counter})/\n"
    )
    plugin.chmod(0o700)
    user = {"exec": {"apiVersion": answer["apiVersion"], "command": "./plugin", "interactiveMode": "Never"}}
    async with serving(tls=tls_of(authority), tokens=["token-1"]) as server:
        config = server.kubeconfig(tmp_path / "config", user=user, cluster=trusting(tmp_path, authority))

        def use(client: Client) -> None:
            client.get(PATH)
            client.get(PATH)
            server.tokens = {"token-2"}
            client.get(PATH)

        await call(client_of(config, environ=dict(os.environ)), use)
        assert counter.read_text().count("run") == 2, "kept for the process, renewed after 401"
        server.tokens = {"never"}
        message = await error_of(client_of(config, environ=dict(os.environ)))
        assert message == "error: You must be logged in to the server (Unauthorized)"
        assert counter.read_text().count("run") == 4


@pytest.mark.parametrize("as_data", [False, True])
async def test_a_client_certificate(authority, tmp_path, monkeypatch, as_data):
    import base64

    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    mine = authority.issue_cert("jane@example.com")
    certificate, key = mine.cert_chain_pems[0].bytes(), mine.private_key_pem.bytes()
    if as_data:
        user = {
            "client-certificate-data": base64.b64encode(certificate).decode(),
            "client-key-data": base64.b64encode(key).decode(),
        }
    else:
        (tmp_path / "crt").write_bytes(certificate)
        (tmp_path / "key").write_bytes(key)
        user = {"client-certificate": "crt", "client-key": "key"}
    shown: list[Any] = []

    async def look(request, handle):
        shown.append(request.transport.get_extra_info("peercert"))
        return await handle()

    async with serving(tls=tls_of(authority, clients=True)) as server:
        server.inject(look)
        config = server.kubeconfig(tmp_path / "config", user=user, cluster=trusting(tmp_path, authority))
        await call(client_of(config), lambda client: client.get(PATH))
    assert ("email", "jane@example.com") in shown[0]["subjectAltName"]
    assert list(scratch.iterdir()) == [], "the key is not left behind"


async def test_a_certificate_and_key_that_do_not_match(authority, tmp_path):
    one, other = authority.issue_cert("a.example"), authority.issue_cert("b.example")
    (tmp_path / "crt").write_bytes(one.cert_chain_pems[0].bytes())
    (tmp_path / "key").write_bytes(other.private_key_pem.bytes())
    async with serving(tls=tls_of(authority)) as server:
        user = {"client-certificate": "crt", "client-key": "key"}
        config = server.kubeconfig(tmp_path / "config", user=user, cluster=trusting(tmp_path, authority))
        assert await error_of(client_of(config)) == (
            f"context 'fake' of {config}: the client certificate and key are no matching pair of PEM files "
            "without password"
        )


async def test_a_stranger(authority, tmp_path):
    async with serving(tls=tls_of(trustme.CA())) as server:
        config = server.kubeconfig(tmp_path / "config", cluster=trusting(tmp_path, authority))
        message = await error_of(client_of(config))
        assert message == (
            f"Unable to connect to the server 127.0.0.1:{server.port}: its certificate cannot be trusted: "
            f"unable to get local issuer certificate (see certificate-authority in context 'fake' of {config})"
        )
        server.kubeconfig(config, cluster={"insecure-skip-tls-verify": True})
        await call(client_of(config), lambda client: client.get(PATH))


async def test_the_certificates_name(authority, tmp_path):
    async with serving(tls=tls_of(authority, "api.example")) as server:
        config = server.kubeconfig(tmp_path / "config", cluster=trusting(tmp_path, authority))
        assert "IP address mismatch" in await error_of(client_of(config))
        named = trusting(tmp_path, authority, **{"tls-server-name": "api.example"})
        await call(client_of(server.kubeconfig(config, cluster=named)), lambda client: client.get(PATH))


async def test_an_authority_that_is_no_certificate(authority, tmp_path):
    (tmp_path / "ca.pem").write_text("nonsense")
    async with serving(tls=tls_of(authority)) as server:
        config = server.kubeconfig(tmp_path / "config", cluster={"certificate-authority": "ca.pem"})
        assert await error_of(client_of(config)) == (
            f"context 'fake' of {config}: the certificate-authority is no PEM certificate"
        )


async def test_impersonation(server, tmp_path):
    config = server.kubeconfig(tmp_path / "config", user={"as": "jane", "as-groups": ["a", "b"]})
    await call(client_of(config), lambda client: client.get(PATH))
    headers = server.requests[0].headers
    assert headers["Impersonate-User"] == "jane"


async def test_a_pod(authority, tmp_path):
    """In a cluster: the service account's token, authority and namespace."""
    folder = tmp_path / "serviceaccount"
    folder.mkdir()
    (folder / "token").write_text("right")
    (folder / "namespace").write_text("shop")
    authority.cert_pem.write_to_path(folder / "ca.crt")
    async with serving(tls=tls_of(authority), tokens=["right"]) as server:
        environ = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(server.port)}
        access = load(Overrides(), environ, service_account=folder)
        assert access.namespace == "shop"
        await call(Client(access), lambda client: client.get(PATH))


# ---- proxies ----


@contextlib.asynccontextmanager
async def proxy(lines: list[str], answer: bytes = b"200 OK") -> AsyncIterator[int]:
    """An HTTP proxy that tunnels; `lines` gets the head of each request."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
        writer.close()

    async def tunnel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        lines.extend(head.splitlines())
        writer.write(b"HTTP/1.1 " + answer + b"\r\n\r\n")
        if answer.startswith(b"200"):
            host, _, port = head.split()[1].rpartition(":")
            onward = await asyncio.open_connection(host, int(port))
            await asyncio.gather(pump(reader, onward[1]), pump(onward[0], writer))
        writer.close()

    listening = await asyncio.start_server(tunnel, "127.0.0.1", 0)
    async with listening:
        yield listening.sockets[0].getsockname()[1]


async def test_a_proxy(authority, tmp_path):
    lines: list[str] = []
    async with serving(tls=tls_of(authority)) as server, proxy(lines) as port:
        cluster = trusting(tmp_path, authority, **{"proxy-url": f"http://me:pass%20word@127.0.0.1:{port}"})
        config = server.kubeconfig(tmp_path / "config", cluster=cluster)
        await call(client_of(config), lambda client: client.get(PATH))
    assert lines[0].startswith(f"CONNECT 127.0.0.1:{server.port} ")
    assert "Proxy-Authorization: Basic bWU6cGFzcyB3b3Jk" in lines
    assert server.requests[0].path == PATH


async def test_a_proxy_that_refuses(authority, tmp_path):
    async with serving(tls=tls_of(authority)) as server, proxy([], b"403 Forbidden") as port:
        cluster = trusting(tmp_path, authority, **{"proxy-url": f"http://127.0.0.1:{port}"})
        config = server.kubeconfig(tmp_path / "config", cluster=cluster)
        assert await error_of(client_of(config)) == (
            f"Unable to connect to the server 127.0.0.1:{server.port}: Tunnel connection failed: 403 Forbidden"
        )


async def test_a_proxy_of_another_kind(server, tmp_path):
    config = server.kubeconfig(tmp_path / "config", cluster={"proxy-url": "socks5://me:secret@proxy:1080"})
    assert await error_of(client_of(config)) == (
        f"context 'fake' of {config}: the proxy socks5://proxy cannot be used; only http:// proxies can"
    )


def test_a_resources_names():
    assert RESOURCE.named("web") == "imagestream.image.openshift.io/web"
    assert RESOURCE.path("a/b", "c d") == "/apis/image.openshift.io/v1/namespaces/a%2Fb/imagestreams/c%20d"
    assert issubclass(Unreachable, ApiError)
