"""The command line's client, against the fake API server at the socket: TLS, identities, faults, watch, proxies."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import select
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from imagestreams.cli.api import JSON_PATCH, Ambiguous, ApiError, Client, NotInstalled, Refused, Resource, Unreachable
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
        f"(kubectl apply -k crds), or context 'fake' of {tmp_path}/config is not the cluster you mean"
    )


@pytest.mark.parametrize("group", ["image.openshift.io", "imagestreams.dev"])
async def test_of_two_groups_the_one_that_was_asked_for(tmp_path, group):
    told: list[str] = []
    async with FakeApiServer() as server:
        for each in ("image.openshift.io", "imagestreams.dev"):
            server.define(f"{each}/v1", "imagestreams", "ImageStream")
        client = client_of(server.kubeconfig(tmp_path / "config"), group=group, warn=told.append)

        def use(client: Client) -> None:
            resource = client.image_streams()
            assert resource == Resource(group)
            client.post(resource.path("shop"), json.dumps({**stream(), "apiVersion": f"{group}/v1"}).encode())

        await call(client, use)
        assert server.get(f"{group}/v1", "imagestreams", "shop", "web")
    assert told == []


async def test_of_two_groups_nobody_guesses_what_is_to_be_written(tmp_path):
    told: list[str] = []
    async with FakeApiServer() as server:
        for each in ("image.openshift.io", "imagestreams.dev"):
            server.define(f"{each}/v1", "imagestreams", "ImageStream")
        client = client_of(server.kubeconfig(tmp_path / "config"), warn=told.append)

        def use(client: Client) -> None:
            for _ in range(2):
                client.image_streams()
            for group in ("image.openshift.io", "imagestreams.dev"):
                path = Resource(group).path("shop")
                client.get(path)
                for write in (client.post, client.patch):
                    with pytest.raises(Ambiguous) as caught:
                        write(path, b"{}")
                    assert "--api-group=GROUP, or IMAGESTREAMS_API_GROUP=GROUP" in str(caught.value)
            deployment = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a", "namespace": "shop"}}
            client.post("/apis/apps/v1/namespaces/shop/deployments", json.dumps(deployment).encode())

        await call(client, use)
        assert {seen.verb for seen in server.requests if seen.resource == "imagestreams"} == {"list"}
    [words] = told
    assert words.endswith(
        "these are those of imagestreams.dev, and those of image.openshift.io are seen with "
        "--api-group=image.openshift.io"
    )


async def test_a_group_that_is_not_there(server, tmp_path):
    client = client_of(server.kubeconfig(tmp_path / "config"), group="imagestreams.dev")
    message = await error_of(client, lambda client: client.image_streams())
    assert "has no ImageStreams of the API group imagestreams.dev" in message
    assert "--api-group" in message


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


@pytest.mark.parametrize(
    ("faults", "was_repeated"),
    [
        pytest.param([disconnect(), status(409, "Conflict")], True, id="an answer was lost"),
        pytest.param([status(409, "Conflict")], False, id="answered at once"),
        pytest.param(
            [disconnect(), status(503, "Unavailable", headers={"Retry-After": "1"}), status(409, "Conflict")],
            True,
            id="lost, busy",
        ),
        pytest.param([disconnect(), html(409)], True, id="answered by a proxy"),
    ],
)
async def test_who_is_refused_learns_that_an_earlier_answer_was_lost(server, tmp_path, faults, was_repeated):
    for fault in faults:
        server.inject(fault, verb="patch")
    client = client_of(server.kubeconfig(tmp_path / "config"), sleep=lambda _: None)

    def use(client: Client) -> None:
        client.get(PATH)
        client.patch(PATH, b"{}")

    with pytest.raises(Refused) as caught:
        await call(client, use)
    assert (caught.value.status, caught.value.was_repeated) == (409, was_repeated)


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


# ---- resources ----


@pytest.mark.parametrize(
    ("resource", "path", "named"),
    [
        (Resource(GROUP), f"/apis/{GROUP}/v1/namespaces/shop/imagestreams/web", f"imagestream.{GROUP}/web"),
        (Resource(GROUP).of("imagestreamimports"), f"/apis/{GROUP}/v1/namespaces/shop/imagestreamimports/web", None),
        (Resource("apps", "deployments"), "/apis/apps/v1/namespaces/shop/deployments/web", "deployment.apps/web"),
        (Resource("", "events"), "/api/v1/namespaces/shop/events/web", "event/web"),
    ],
)
def test_resources(resource, path, named):
    assert resource.path("shop", "web") == path
    assert resource.named("web") == (named or f"imagestreamimport.{GROUP}/web")


def test_collections_and_names_of_strangers():
    assert RESOURCE.path("") == f"/apis/{GROUP}/v1/imagestreams"
    assert RESOURCE.of("images").path("", "sha256-1") == f"/apis/{GROUP}/v1/images/sha256-1"
    assert RESOURCE.path("a/b", "../c") == f"/apis/{GROUP}/v1/namespaces/a%2Fb/imagestreams/..%2Fc"


# ---- writing ----


async def test_writing(server, tmp_path):
    def use(client: Client) -> None:
        made = json.loads(client.post(RESOURCE.path("shop"), json.dumps(stream("new")).encode()))
        assert made["metadata"]["name"] == "new"
        path = RESOURCE.path("shop", "new")
        assert json.loads(client.patch(path, b'{"spec": {"tags": [{"name": "a"}]}}'))["spec"]["tags"]
        assert json.loads(client.patch(path, b'[{"op": "remove", "path": "/spec/tags"}]', JSON_PATCH))["spec"] == {}

    await call(client_of(server.kubeconfig(tmp_path / "config")), use)
    assert [seen.headers["Content-Type"] for seen in server.requests] == [
        *("application/json", "application/merge-patch+json", "application/json-patch+json")
    ]


@pytest.mark.parametrize(
    ("fault", "was_repeated"),
    [
        pytest.param(disconnect(after=True), True, id="the answer is lost"),
        pytest.param(disconnect(), True, id="nobody knows whether it was done"),
        pytest.param(status(409, "Conflict"), False, id="somebody else wrote"),
    ],
)
async def test_what_is_refused_says_whether_it_may_be_done_already(server, tmp_path, fault, was_repeated):
    def use(client: Client) -> None:
        version = json.loads(client.get(PATH))["metadata"]["resourceVersion"]
        metadata = {"resourceVersion": version, "annotations": {"a": "b"}}
        server.inject(fault, verb="patch")
        server.inject(status(409, "Conflict"), verb="patch", times=-1)
        with pytest.raises(Refused) as caught:
            client.patch(PATH, json.dumps({"metadata": metadata}).encode())
        assert (caught.value.status, caught.value.was_repeated) == (409, was_repeated)
        with pytest.raises(Refused) as another:
            client.patch(PATH, json.dumps({"metadata": metadata}).encode())
        assert not another.value.was_repeated, "each call for itself"

    await call(client_of(server.kubeconfig(tmp_path / "config")), use)


async def test_what_creates_is_sent_once(server, tmp_path):
    """Whether it was done before the connection broke, nobody knows."""

    def use(client: Client) -> None:
        client.get(PATH)
        server.inject(disconnect(), verb="create")
        with pytest.raises(Unreachable):
            client.post(RESOURCE.path("shop"), json.dumps(stream("new")).encode())

    await call(client_of(server.kubeconfig(tmp_path / "config")), use)
    assert [seen.verb for seen in server.requests] == ["get", "create"]


async def test_a_connection_that_the_server_hung_up_is_not_used_for_it(tmp_path):
    """As it may be after a while without a call."""
    answered = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal answered
        head = await reader.readuntil(b"\r\n\r\n")
        if b"Content-Length: 2" in head:
            await reader.readexactly(2)
        answered += 1
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    async with listening:
        client = client_of(tmp_path, overrides=Overrides(server=f"http://127.0.0.1:{port}"))

        def use(client: Client) -> None:
            client.get("/one")
            sock = client._connection and client._connection.sock
            assert sock is not None
            select.select([sock], [], [], 10)  # until the server's end of the connection is known here
            client.post("/two", b"{}")

        await call(client, use)
    assert answered == 2


# ---- collections ----


async def test_pages(server, tmp_path, monkeypatch):
    monkeypatch.setattr("imagestreams.cli.api._PAGE", 2)
    for number in range(4):
        server.put(stream(f"n{number}"))

    def use(client: Client) -> None:
        pages = list(client.pages(RESOURCE.path("shop"), {"labelSelector": "!x"}))
        names = [[item["metadata"]["name"] for item in json.loads(page)["items"]] for page in pages]
        assert names == [["n0", "n1"], ["n2", "n3"], ["web"]]
        assert [json.loads(item)["metadata"]["name"] for item in client.items(RESOURCE.path(""))] == [
            *("n0", "n1", "n2", "n3", "web")
        ]
        assert len(client.first_items(RESOURCE.path(""), 3)) == 3
        assert client.first_names(RESOURCE.path(""), 2) == ["n0", "n1"]

    await call(client_of(server.kubeconfig(tmp_path / "config")), use)
    assert server.requests[0].query == {"labelSelector": "!x", "limit": "2"}
    assert "PartialObjectMetadataList" in server.requests[-1].headers["Accept"]


async def test_a_collection_that_changes_too_fast_is_read_as_a_whole(server, tmp_path, monkeypatch):
    monkeypatch.setattr("imagestreams.cli.api._PAGE", 1)
    server.put(stream("other"))
    server.inject(status(410, "Expired", "too old"), when=lambda seen: "continue" in seen.query)

    def use(client: Client) -> None:
        assert len(client.items(RESOURCE.path("shop"), {"labelSelector": "!x"})) == 2

    await call(client_of(server.kubeconfig(tmp_path / "config")), use)
    assert server.requests[-1].query == {"labelSelector": "!x"}


async def test_a_collection_whose_pages_expire_is_read_on_where_the_server_says_so(server, tmp_path, monkeypatch):
    """It says so in the refusal; what is still to come is then as it is by now."""
    monkeypatch.setattr("imagestreams.cli.api._PAGE", 1)
    for number in range(3):
        server.put(stream(f"n{number}"))

    async def expire(request: Any, serve: Any) -> Any:
        from aiohttp import web

        del serve
        body = {"kind": "Status", "reason": "Expired", "metadata": {"continue": request.query["continue"]}}
        return web.json_response(body, status=410)

    server.inject(expire, when=lambda seen: "continue" in seen.query, times=2)
    client = client_of(server.kubeconfig(tmp_path / "config"))
    found = await call(client, lambda client: client.items(RESOURCE.path("shop")))
    assert [json.loads(item)["metadata"]["name"] for item in found] == ["n0", "n1", "n2", "web"]
    assert all("limit" in seen.query for seen in server.requests), "never all at once"


async def test_a_page_that_is_too_large_is_asked_for_in_smaller_ones(server, tmp_path, monkeypatch):
    monkeypatch.setattr("imagestreams.cli.api._MAX_ANSWER", 10_000)
    for number in range(20):
        server.put(stream(f"n{number:02}", annotations={"text": "x" * 3000}))

    def use(client: Client) -> None:
        names = [json.loads(item)["metadata"]["name"] for item in client.items(RESOURCE.path("shop"))]
        assert names == [*(f"n{number:02}" for number in range(20)), "web"]
        assert len(client.first_items(RESOURCE.path("shop"), 20)) == 1

    await call(client_of(server.kubeconfig(tmp_path / "config")), use)
    limits = [int(seen.query["limit"]) for seen in server.requests]
    assert limits[:5] == [500, 125, 31, 7, 1]
    assert "continue" not in server.requests[4].query
    assert set(limits[4:25]) == {1}


async def test_an_object_that_is_too_large(server, tmp_path, monkeypatch):
    monkeypatch.setattr("imagestreams.cli.api._MAX_ANSWER", 5000)
    server.put(stream(annotations={"text": "x" * 10_000}))
    client = client_of(server.kubeconfig(tmp_path / "config"))
    assert "larger than" in await error_of(client, lambda client: client.items(RESOURCE.path("shop")))
    assert server.requests[-1].query["limit"] == "1"


async def test_a_collection_without_end(server, tmp_path, monkeypatch):
    monkeypatch.setattr("imagestreams.cli.api._MOST_PAGES", 3)
    server.inject(raw(b'{"metadata": {"continue": "more"}, "items": []}'), verb="list", times=-1)
    client = client_of(server.kubeconfig(tmp_path / "config"))
    message = await error_of(client, lambda client: list(client.pages(RESOURCE.path("shop"))))
    assert message == f"error: {RESOURCE.path('shop')} has more than 1500 objects"
    assert len(server.requests) == 3


async def test_what_is_served(server, tmp_path):
    def use(client: Client) -> None:
        assert client.serves("image.openshift.io/v1", "imagestreams")
        assert not client.serves("image.openshift.io/v1", "imagestreamtags")
        assert not client.serves("gone.example/v1", "imagestreams")
        assert client.serves("v1", "secrets")

    await call(client_of(server.kubeconfig(tmp_path / "config")), use)


# ---- what is told ----


async def test_requests_are_logged_without_what_is_secret(server, tmp_path):
    lines: list[str] = []
    config = server.kubeconfig(tmp_path / "config")
    client = client_of(tmp_path, overrides=Overrides(kubeconfig=str(config), token="s3cret"), log=lines.append)

    def use(client: Client) -> None:
        client.patch(f"{PATH}?fieldManager=x", b'{"metadata": {"annotations": {"a": "s3cret"}}}')
        with pytest.raises(Refused):
            client.get(RESOURCE.path("shop", "gone"))

    await call(client, use)
    assert [re.sub(r"\d+ ms", "N ms", line) for line in lines] == [
        f"PATCH {server.url}{PATH}?fieldManager=x 200 OK in N ms",
        f"GET {server.url}{RESOURCE.path('shop', 'gone')} 404 Not Found in N ms",
    ]
    assert "s3cret" not in str(lines)


async def test_the_servers_warnings_each_once(server, tmp_path):
    told: list[str] = []
    first = '299 - "old API; use \\"another\\"", 299 - "second"'

    async def warn(_request: Any, serve: Any) -> Any:
        response = await serve()
        response.headers.add("Warning", first)
        response.headers.add("Warning", '199 - "not ours"')
        response.headers.add("Warning", "299 malformed")
        return response

    server.inject(warn, verb="get", times=2)

    def use(client: Client) -> None:
        client.get(PATH)
        client.get(PATH)

    await call(client_of(server.kubeconfig(tmp_path / "config"), warn=told.append), use)
    assert told == ['old API; use "another"', "second"]


async def test_warnings_have_an_end(server, tmp_path):
    told: list[str] = []

    async def warn(_request: Any, serve: Any) -> Any:
        response = await serve()
        for number in range(50):
            response.headers.add("Warning", f'299 - "{number}"')
        return response

    server.inject(warn, verb="get")
    await call(client_of(server.kubeconfig(tmp_path / "config"), warn=told.append), lambda client: client.get(PATH))
    assert len(told) == 20
