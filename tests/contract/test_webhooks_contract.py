"""The real API server calls the webhook server over TLS: what reaches the handler, what reaches the user, and that keys
and certificates are replaced without a call that fails.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import subprocess
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import yaml

from imagestreams.controllers.webhooks import WebhookKeeper
from imagestreams.core.admission import Allowed, Denied, Handler, Review, Tokens, Verdict
from imagestreams.core.certificate import KeyPair, authorities, is_trusted_by, new_authority, new_serving
from imagestreams.kube.cluster import ApiError, Cluster, Conflict, Forbidden, Invalid, TooManyRequests, api_path
from imagestreams.kube.webhooks import ADMISSION_GROUP, Configurations, KeySecret, TlsSecret
from imagestreams.server.admission import (
    Admission,
    Door,
    Listener,
    ServingCertificate,
    deny_image_stream_tags,
    serve_admission,
)
from tests.config.kustomize import ROOT
from tests.config.test_renderings import overlaid
from tests.server.conftest import review_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from dev.control_plane import ControlPlane
    from tests.conftest import Kubectl

pytestmark = pytest.mark.cluster

MUTATING = "mutatingwebhookconfigurations"


@dataclass
class World:
    """A webhook server with its keeper beside a real API server, called for ConfigMaps of one namespace.

    Attributes:
        handle: what the door decides; a test may replace it at any time.
        ahead: seconds by which the keeper's clocks are ahead.
    """

    plane: ControlPlane
    cluster: Cluster
    namespace: str
    handle: Handler
    reviews: list[Review] = field(default_factory=list)
    calls: list[tuple[str, str, str]] = field(default_factory=list)
    announced: list[tuple[str, str]] = field(default_factory=list)
    used: list[KeyPair] = field(default_factory=list)
    ahead: float = 0.0
    listener: Listener | None = None
    port: int = 0

    def __post_init__(self) -> None:
        self.certificate = ServingCertificate()

    def keep(self, cluster: Cluster | None = None, *, tls_secret: str = "", service: str = "none") -> WebhookKeeper:
        cluster = cluster or self.cluster
        self.keeper = WebhookKeeper(
            KeySecret(cluster, self.namespace, "webhook"),
            Configurations(cluster, self.namespace, namespace=self.namespace, service=service),
            tls_secret=TlsSecret(cluster, self.namespace, tls_secret) if tls_secret else None,
            names=("127.0.0.1",),
            use=self.use,
            announce=lambda involved, reason, message: self.announced.append((reason, message)),
            clock=lambda: datetime.now(UTC) + timedelta(seconds=self.ahead),
            monotonic=lambda: time.monotonic() + self.ahead,
        )
        return self.keeper

    async def listen(self, tokens: Callable[[], Tokens] | None = None, *, fails_open: bool = False) -> None:
        async def handle(review: Review) -> Verdict:
            self.reviews.append(review)
            return await self.handle(review)

        doors = {
            "pinning": Door(handle, 20.0, 64, fails_open=fails_open),
            "imagestreamtags": Door(deny_image_stream_tags, 2.0, 64, fails_open=False),
        }
        self.admission = Admission(
            doors,
            tokens or self.keeper.tokens,
            refresh=self.refresh,
            on_review=lambda *call: self.calls.append(call[:3]),
        )
        self.listener, self.port = await serve_admission(self.admission, "127.0.0.1", self.port, self.certificate)

    async def refresh(self) -> None:
        await self.keeper.refresh()

    def use(self, pair: KeyPair) -> None:
        self.certificate.use(pair)
        self.used.append(pair)

    async def die(self) -> None:
        """As a process that is killed: nobody answers, and connections break."""
        assert self.listener is not None
        runner = self.listener._runner
        assert runner.server is not None
        for connection in runner.server.connections:
            if connection.transport is not None:
                connection.transport.abort()
        await self.listener.cleanup()
        self.listener = None

    async def configure(self, **changes: Any) -> None:
        """Have the API server call us for ConfigMaps; returns when it does."""
        webhook = {
            "name": "a.contract.imagestreams.dev",
            "clientConfig": {"url": f"https://127.0.0.1:{self.port}/admit/pinning"},
            "admissionReviewVersions": ["v1"],
            "sideEffects": "None",
            "timeoutSeconds": 5,
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": self.namespace}},
            # A controller makes one in every new namespace.
            "matchConditions": [
                {"name": "of-ours", "expression": "!has(request.name) || request.name != 'kube-root-ca.crt'"}
            ],
            "rules": [
                {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["*"], "resources": ["configmaps"]},
            ],
            **changes,
        }
        await self.cluster.post(
            api_path(ADMISSION_GROUP, MUTATING),
            _json({"metadata": {"name": self.namespace}, "webhooks": [webhook]}),
        )

    async def configured_as(self, condition: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        """The clientConfig, as soon as it is so."""
        async with asyncio.timeout(20):
            while not condition(found := await self.configured()):  # noqa: ASYNC110 - asked of another process
                await asyncio.sleep(0.02)
        return found

    async def configured(self) -> dict[str, Any]:
        body = await self.cluster.get(api_path(ADMISSION_GROUP, MUTATING, name=self.namespace))
        config: dict[str, Any] = json.loads(body)["webhooks"][0]["clientConfig"]
        return config

    async def called(self) -> None:
        """Return when the API server has heard of the configuration, and its calls come through."""
        before = len(self.reviews)
        async with asyncio.timeout(20):
            while len(self.reviews) == before:
                with contextlib.suppress(ApiError):
                    await self.create("probe", dry=True)
                await asyncio.sleep(0.02)
        self.reviews.clear()
        self.calls.clear()

    async def create(self, name: str = "a", *, dry: bool = False, **fields: Any) -> dict[str, Any]:
        body = _json({"metadata": {"name": name}, **fields})
        params = {"dryRun": "All"} if dry else {}
        path = api_path("v1", "configmaps", self.namespace)
        return json.loads(await self.cluster.post(path, body, params=params))

    async def fails(self, name: str = "a") -> str:
        """Why an object cannot be created."""
        with pytest.raises(ApiError) as caught:
            await self.create(name)
        return caught.value.message

    async def post(self, path: str, *, ca: bytes) -> int:
        """A review straight to the server, from whoever can reach it."""
        import ssl

        tls = ssl.create_default_context(cadata=ca.decode())
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls)) as session,
            session.post(f"https://127.0.0.1:{self.port}{path}", json=review_of()) as response,
        ):
            return response.status

    async def kubectl(self, *args: str, input: str | None = None) -> subprocess.CompletedProcess[str]:  # noqa: A002
        return await asyncio.to_thread(
            self.plane.kubectl, f"--namespace={self.namespace}", *args, input=input, check=False
        )

    @contextlib.asynccontextmanager
    async def under_load(self) -> AsyncIterator[list[str]]:
        """Calls without a pause; yields the errors of those that failed."""
        errors: list[str] = []
        done = [0]
        stop = asyncio.Event()

        async def ask(number: int) -> None:
            while not stop.is_set():
                try:
                    await self.create(f"load-{number}", dry=True)
                    done[0] += 1
                except ApiError as error:
                    errors.append(error.message)

        tasks = [asyncio.create_task(ask(number)) for number in range(4)]
        await _until(lambda: done[0] > 20)
        try:
            yield errors
            before = done[0]
            await _until(lambda: done[0] > before + 100 or bool(errors))
        finally:
            stop.set()
            await asyncio.gather(*tasks)


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


async def _until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - any condition
            await asyncio.sleep(0.01)


async def allow(review: Review) -> Verdict:
    return Allowed()


def says(verdict: Verdict) -> Handler:
    async def handle(review: Review) -> Verdict:
        return verdict

    return handle


@pytest.fixture
async def world(control_plane: ControlPlane, namespace: str) -> AsyncIterator[World]:
    async with await Cluster.connect(str(control_plane.kubeconfig)) as cluster:
        made = World(control_plane, cluster, namespace, allow)
        yield made
        with contextlib.suppress(ApiError):
            await cluster.delete(api_path(ADMISSION_GROUP, MUTATING, name=namespace))
        if made.listener:
            await made.listener.cleanup()


@contextlib.asynccontextmanager
async def running(keeper: WebhookKeeper) -> AsyncIterator[WebhookKeeper]:
    task = asyncio.create_task(keeper.run())
    try:
        yield keeper
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.fixture
async def kept(world: World) -> AsyncIterator[World]:
    """Everything runs, and the API server's calls come through."""
    keeper = world.keep()
    await world.listen()
    await world.configure()
    async with running(keeper):
        await world.called()
        yield world


# --- what reaches the handler, and what comes of it


async def test_a_review_of_each_operation(kept: World) -> None:
    kept.handle = says(Allowed(({"op": "add", "path": "/data", "value": {"patched": "yes"}},)))
    made = await kept.create(data={"n": "1"}, metadata={"name": "a", "labels": {"x": "y"}})
    assert made["data"] == {"patched": "yes"}
    kept.handle = allow
    path = api_path("v1", "configmaps", kept.namespace, "a")
    await kept.cluster.patch(path, _json({"data": {"n": "2"}}))
    await kept.cluster.delete(path)
    created, updated, deleted = kept.reviews
    assert [each.operation for each in kept.reviews] == ["CREATE", "UPDATE", "DELETE"]
    for review in kept.reviews:
        assert (review.namespace, review.name) == (kept.namespace, "a")
        assert (review.group, review.version, review.resource, review.kind) == ("", "v1", "configmaps", "ConfigMap")
        assert review.requester.username == "admin"
        assert set(review.requester.groups) == {"system:masters", "system:authenticated"}
        assert not review.is_dry_run
    assert (json.loads(created.object)["data"], created.old) == ({"n": "1"}, b"")
    assert json.loads(updated.old)["data"] == {"patched": "yes"}
    assert json.loads(updated.object)["data"] == {"patched": "yes", "n": "2"}
    assert (deleted.object, json.loads(deleted.old)["data"]) == (b"", {"patched": "yes", "n": "2"})
    assert [call[2] for call in kept.calls] == ["patched", "allowed", "allowed"]


async def test_a_name_that_is_still_to_be_made(kept: World) -> None:
    await kept.create(metadata={"generateName": "b-"})
    (review,) = kept.reviews
    assert (review.name, json.loads(review.object)["metadata"]["generateName"]) == ("", "b-")


async def test_who_asks_in_the_name_of_another(kept: World) -> None:
    await kept.kubectl(
        "create", "configmap", "a", "--as=jane", "--as-group=system:masters", "--as-group=dev", "--as-uid=u-1"
    )
    (review,) = kept.reviews
    requester = review.requester
    assert (requester.username, requester.uid) == ("jane", "u-1")
    assert {"dev", "system:masters"} <= set(requester.groups)


async def test_a_dry_run(kept: World) -> None:
    kept.handle = says(Allowed(({"op": "add", "path": "/data", "value": {"patched": "yes"}},)))
    assert (await kept.create(dry=True))["data"] == {"patched": "yes"}
    assert [each.is_dry_run for each in kept.reviews] == [True]
    with pytest.raises(ApiError):
        await kept.cluster.get(api_path("v1", "configmaps", kept.namespace, "a"))


async def test_warnings_reach_the_user(kept: World) -> None:
    kept.handle = says(Allowed(warnings=("the tag is pinned", "second")))
    done = await kept.kubectl("create", "configmap", "a")
    assert done.returncode == 0
    assert "Warning: the tag is pinned" in done.stderr
    assert "Warning: second" in done.stderr


@pytest.mark.parametrize(
    ("verdict", "error", "said"),
    [
        pytest.param(Denied(403, "Forbidden", "may not"), Forbidden, "Error from server (Forbidden)", id="403"),
        pytest.param(Denied(409, "Conflict", "has moved"), Conflict, "Error from server (Conflict)", id="409"),
        pytest.param(Denied(422, "Invalid", "is wrong"), Invalid, "is wrong", id="422"),
        pytest.param(
            Denied(429, "TooManyRequests", "too busy"), TooManyRequests, "Error from server (TooManyRequests)", id="429"
        ),
    ],
)
async def test_a_refusal_reaches_the_user_with_its_code(kept: World, verdict, error, said) -> None:
    kept.handle = says(verdict)
    with pytest.raises(error) as caught:
        await kept.create()
    assert (caught.value.status, caught.value.reason) == (verdict.code, verdict.reason)
    webhook = 'admission webhook "a.contract.imagestreams.dev" denied the request: '
    assert caught.value.message == webhook + verdict.message
    manifest = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}}
    done = await kept.kubectl("create", "-f", "-", input=json.dumps(manifest))
    assert done.returncode == 1
    assert said in done.stderr
    assert verdict.message in done.stderr


async def test_when_to_come_back_reaches_the_client(kept: World) -> None:
    kept.handle = says(Denied(429, "TooManyRequests", "too busy", 7))
    with pytest.raises(TooManyRequests) as caught:
        await kept.create()
    assert caught.value.retry_after == 7


# --- failures


async def never(review: Review) -> Verdict:
    await asyncio.Event().wait()
    return Allowed()


async def bug(review: Review) -> Verdict:
    raise RuntimeError("a bug")


async def test_a_handler_that_is_too_slow_is_answered_before_the_api_server_gives_up(kept: World) -> None:
    kept.handle = never
    began = time.monotonic()
    message = await kept.fails()
    assert "could not be answered in time" in message
    assert 3.5 < time.monotonic() - began < 5
    assert kept.keeper.tokens().current not in message


async def test_a_bug_is_left_to_the_failure_policy_and_shows_no_token(kept: World) -> None:
    kept.handle = bug
    message = await kept.fails()
    assert 'failed calling webhook "a.contract.imagestreams.dev"' in message
    assert kept.keeper.tokens().current not in message


@pytest.mark.parametrize("handler", [never, bug])
async def test_a_door_that_fails_open(world: World, handler) -> None:
    keeper = world.keep()
    await world.listen(fails_open=True)
    await world.configure(timeoutSeconds=1, failurePolicy="Fail")
    async with running(keeper):
        await world.called()
        world.handle = handler
        done = await world.kubectl("create", "configmap", "a")
        assert done.returncode == 0
        assert "it is taken as it is" in done.stderr


@pytest.mark.parametrize(("policy", "passes"), [("Fail", False), ("Ignore", True)])
async def test_nobody_answers(world: World, policy, passes) -> None:
    keeper = world.keep()
    await world.listen()
    await world.configure(failurePolicy=policy)
    async with running(keeper):
        await world.called()
        await world.die()
        if passes:
            await world.create()
        else:
            message = await world.fails()
            assert "failed calling webhook" in message
            assert keeper.tokens().current in message, "this is why a token is replaced after failed calls"
        await world.listen()
        world.reviews.clear()
        await world.create("b")
        assert len(world.reviews) == 1, "and it is called again as soon as it is there"


async def test_another_authority_is_not_trusted(world: World) -> None:
    mine, other = new_authority(datetime.now(UTC)), new_authority(datetime.now(UTC))
    world.certificate.use(new_serving(mine, ["127.0.0.1"], datetime.now(UTC)))
    await world.listen(lambda: Tokens("a" * 64))
    bundle = base64.b64encode(other.certificate).decode()
    await world.configure(
        clientConfig={"url": f"https://127.0.0.1:{world.port}/admit/pinning/{'a' * 64}", "caBundle": bundle}
    )
    message = ""
    async with asyncio.timeout(10):
        while "x509" not in message:  # until the configuration is known
            with contextlib.suppress(ApiError):
                await world.create("probe", dry=True)
            try:
                await world.create("probe", dry=True)
            except ApiError as error:
                message = error.message
    assert "certificate" in message
    assert world.reviews == []


# --- proof


async def test_a_review_posted_by_anybody_else_runs_nothing(kept: World) -> None:
    ca = base64.b64decode((await kept.configured())["caBundle"])
    token = kept.keeper.tokens().current
    for path in (
        "/admit/pinning",
        f"/admit/pinning/{'0' * 64}",
        f"/admit/pinning/{token[:-1]}",
        f"/admit/x/{token}",
        "/",
    ):
        assert await kept.post(path, ca=ca) == 404
    assert kept.reviews == []
    assert {call[2] for call in kept.calls} == {"refused"}
    assert await kept.post(f"/admit/pinning/{token}", ca=ca) == 200


# --- keys and certificates are replaced


async def test_a_certificate_is_replaced_and_no_call_fails(kept: World) -> None:
    """Of the same authority, and then of another, after the Secret is deleted."""
    secret = api_path("v1", "secrets", kept.namespace, "webhook")
    async with kept.under_load() as errors:
        before = json.loads(await kept.cluster.get(secret))["data"]
        await kept.cluster.patch(secret, _json({"data": {"tls.crt": ""}}))
        await _until(lambda: len(kept.used) == 2)
        repaired = json.loads(await kept.cluster.get(secret))["data"]
        assert repaired["ca.crt"] == before["ca.crt"]
        await kept.cluster.delete(secret)
        await _until(lambda: len(kept.used) == 3)
        made = json.loads(await kept.cluster.get(secret))["data"]
        assert not {made[name] for name in made if made[name]} & {before[name] for name in before if before[name]}
        kept.reviews.clear()
        await _until(lambda: len(kept.reviews) > 20)
    assert errors == []
    bundle = base64.b64decode((await kept.configured())["caBundle"])
    assert is_trusted_by(base64.b64decode(made["tls.crt"]), bundle)
    assert kept.keeper.problem is None


async def test_a_token_is_replaced_and_no_call_fails(kept: World) -> None:
    old = kept.keeper.tokens().current
    ca = base64.b64decode((await kept.configured())["caBundle"])
    async with kept.under_load() as errors:
        kept.ahead = 121
        kept.keeper.exposed()
        await _until(lambda: kept.keeper.tokens().current != old)
        new = kept.keeper.tokens().current
        await kept.configured_as(lambda config: config["url"].endswith(f"/admit/pinning/{new}"))
        assert await kept.post(f"/admit/pinning/{old}", ca=ca) == 200, "calls on their way"
        assert await kept.post(f"/admit/pinning/{new}", ca=ca) == 200
        kept.reviews.clear()
        await _until(lambda: len(kept.reviews) > 20)
        kept.ahead += 121
        assert await kept.post(f"/admit/pinning/{old}", ca=ca) == 404
    assert errors == []


async def test_another_process_replaces_the_token_and_no_call_fails(kept: World) -> None:
    """A second replica, as it starts; its watch tells ours a moment later, or a call that ours does not know yet."""
    ours = kept.keeper
    old = ours.tokens().current
    theirs = kept.keep()
    kept.keeper = ours
    async with kept.under_load() as errors:
        kept.ahead = 121
        async with running(theirs):
            await _until(lambda: ours.tokens().current != old)
            await theirs.ready()
            assert ours.tokens().current == theirs.tokens().current
            kept.reviews.clear()
            await _until(lambda: len(kept.reviews) > 20)
    assert errors == []


async def test_a_certificate_that_cert_manager_keeps(world: World) -> None:
    authority = new_authority(datetime.now(UTC))

    async def issue(authority: KeyPair, method: Callable[[bytes], Awaitable[bytes]]) -> None:
        pair = new_serving(authority, ["127.0.0.1"], datetime.now(UTC))
        values = {"tls.crt": pair.certificate, "tls.key": pair.key, "ca.crt": authority.certificate}
        data = {name: base64.b64encode(value).decode() for name, value in values.items()}
        await method(_json({"metadata": {"name": "serving"}, "type": "kubernetes.io/tls", "data": data}))

    secrets = api_path("v1", "secrets", world.namespace)
    await issue(authority, lambda body: world.cluster.post(secrets, body))
    keeper = world.keep(tls_secret="serving")
    await world.listen()
    await world.configure()
    async with running(keeper):
        await world.called()
        assert base64.b64decode((await world.configured())["caBundle"]) == authority.certificate
        async with world.under_load() as errors:
            for count, each in enumerate((authority, new_authority(datetime.now(UTC))), start=2):
                await issue(each, lambda body: world.cluster.patch(f"{secrets}/serving", body))
                await _until(lambda wanted=count: len(world.used) == wanted)
        assert errors == []
        bundle = base64.b64decode((await world.configured())["caBundle"])
        assert len(authorities(bundle)) == 2, "a replica may still serve under the one before"


# --- the configuration and its rights, as they are installed


def webhook_objects(tmp_path: Path, *components: str) -> list[dict[str, Any]]:
    return overlaid(tmp_path, *components)


async def test_the_real_api_server_takes_what_is_installed(world: World, tmp_path: Path) -> None:
    """Expressions compile, fields are known, and nothing is warned of."""
    every = ("webhook", "webhook/network-policy", "webhook-process", "imagestreamtags")
    kinds = {"MutatingWebhookConfiguration", "ClusterRole", "CustomResourceDefinition"}
    objects = [each for each in webhook_objects(tmp_path, *every) if each["kind"] in kinds]
    objects += [
        {**each, "metadata": {**each["metadata"], "namespace": world.namespace}}
        for each in webhook_objects(tmp_path / "again", *every)
        if each["kind"] in {"Deployment", "Service", "Role", "NetworkPolicy", "PodDisruptionBudget"}
        and each["metadata"].get("namespace") == "imagestreams-system"
    ]
    assert len(objects) > 12
    done = await world.kubectl(
        "apply", "--server-side", "--dry-run=server", "-f", "-", input=yaml.safe_dump_all(objects)
    )
    assert (done.returncode, done.stderr) == (0, "")


def manifest(world: World) -> dict[str, Any]:
    """config/webhook's configuration, for nobody's objects, under another name."""
    found: dict[str, Any] = yaml.safe_load((ROOT / "config" / "webhook" / "configuration.yaml").read_text())
    found["metadata"]["name"] = world.namespace
    for webhook in found["webhooks"]:
        webhook["namespaceSelector"] = {"matchLabels": {"nobody": "has-this"}}
        webhook["clientConfig"]["service"]["namespace"] = world.namespace
    return found


@pytest.mark.parametrize("how", [["--server-side"], []])
async def test_a_manifest_applied_again_takes_nothing_away(world: World, how) -> None:
    text = json.dumps(manifest(world))
    assert (await world.kubectl("apply", *how, "-f", "-", input=text)).returncode == 0
    keeper = world.keep(service="imagestreams-webhook")
    async with running(keeper):
        before = await world.configured_as(lambda config: "caBundle" in config)
        assert before["service"]["path"] == f"/admit/imports/{keeper.tokens().current}"
        changed = json.loads(text)
        changed["webhooks"][0]["timeoutSeconds"] = 29
        done = await world.kubectl("apply", *how, "-f", "-", input=json.dumps(changed))
        assert (done.returncode, done.stderr) == (0, "")
        assert await world.configured() == before


async def test_the_rights_that_are_installed_are_enough(world: World, tmp_path: Path) -> None:
    """Also to watch what is named, and nothing that is not."""
    for each in yaml.safe_load_all((ROOT / "config" / "webhook" / "role.yaml").read_text()):
        is_role = each["kind"] in {"Role", "RoleBinding"}
        each["metadata"] = {"name": world.namespace, **({"namespace": world.namespace} if is_role else {})}
        for rule in each.get("rules", ()):
            if "resourceNames" in rule:
                rule["resourceNames"] = ["webhook" if rule["resources"] == ["secrets"] else world.namespace]
        if "roleRef" in each:
            each["roleRef"]["name"] = world.namespace
            each["subjects"][0] |= {"name": "default", "namespace": world.namespace}
        done = await world.kubectl("apply", "-f", "-", input=json.dumps(each))
        assert done.returncode == 0, done.stderr
    try:
        kubeconfig = await asyncio.to_thread(_default_account, world)
        async with await Cluster.connect(str(kubeconfig)) as cluster:
            keeper = world.keep(cluster)
            await world.listen()
            await world.configure()
            async with running(keeper):
                await world.called()
                old = keeper.tokens().current
                await world.cluster.delete(api_path("v1", "secrets", world.namespace, "webhook"))
                await _until(lambda: keeper.tokens().current != old)
                await world.configured_as(lambda config: config["url"].endswith(keeper.tokens().current))
                assert keeper.problem is None
                with pytest.raises(Forbidden):
                    await cluster.get(api_path("v1", "secrets", world.namespace))
                with pytest.raises(Forbidden):
                    await cluster.get(api_path(ADMISSION_GROUP, MUTATING))
    finally:
        await world.kubectl("delete", "clusterrole,clusterrolebinding", world.namespace)


def _default_account(world: World) -> Path:
    from tests.waiting import until

    until(lambda: world.plane.kubectl("-n", world.namespace, "get", "serviceaccount", "default", check=False).stdout)
    return world.plane.service_account_kubeconfig(world.namespace, "default")


# --- image stream tags


async def test_image_stream_tags_are_forbidden_before_their_name_is_looked_at(kept: World, kubectl: Kubectl) -> None:
    """What `oc tag` goes by: PUT is answered 404, POST 403; then it edits the stream itself."""
    crd = str(ROOT / "config" / "imagestreamtags" / "crd.yaml")
    kept.plane.kubectl("apply", "--server-side", "-f", crd)
    try:
        kept.plane.kubectl(
            "wait", "--for=condition=Established", "--timeout=30s", "crd/imagestreamtags.image.openshift.io"
        )
        added = {
            "name": "imagestreamtags.imagestreams.dev",
            "clientConfig": {"url": f"https://127.0.0.1:{kept.port}"},
            "admissionReviewVersions": ["v1"],
            "sideEffects": "None",
            "timeoutSeconds": 5,
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": kept.namespace}},
            "rules": [
                {
                    "apiGroups": ["image.openshift.io"],
                    "apiVersions": ["v1"],
                    "operations": ["CREATE"],
                    "resources": ["imagestreamtags"],
                }
            ],
        }
        await kept.cluster.patch(
            api_path(ADMISSION_GROUP, MUTATING, name=kept.namespace),
            _json([{"op": "add", "path": "/webhooks/-", "value": added}]),
            "application/json-patch+json",
        )
        tag = {"apiVersion": "image.openshift.io/v1", "kind": "ImageStreamTag", "metadata": {"name": "app:latest"}}
        path = api_path("image.openshift.io/v1", "imagestreamtags", kept.namespace)
        found: ApiError | None = None
        async with asyncio.timeout(20):
            while not isinstance(found, Forbidden):  # until the configuration is known
                try:
                    await kept.cluster.post(path, _json(tag))
                except ApiError as error:
                    found = error
        assert found.reason == "Forbidden"
        assert "imagestreams tag" in found.message
        with pytest.raises(ApiError) as caught:
            await kept.cluster.put(f"{path}/app:latest", _json(tag))
        assert caught.value.status == 404
        listed = json.loads(await kept.cluster.get(path))
        assert listed["items"] == []
    finally:
        await asyncio.to_thread(kept.plane.kubectl, "delete", "-f", crd)
