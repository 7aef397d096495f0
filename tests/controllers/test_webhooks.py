"""Keys are made, shared and replaced, and API servers are told, without a moment in which a call would fail."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from imagestreams.controllers.webhooks import WebhookKeeper
from imagestreams.core.certificate import (
    InvalidCertificate,
    KeyPair,
    Keys,
    authorities,
    describe,
    is_trusted_by,
    new_authority,
    new_serving,
)
from imagestreams.kube.cluster import Cluster
from imagestreams.kube.webhooks import (
    ADMISSION_GROUP,
    CONFIGURATION_KINDS,
    Configurations,
    KeySecret,
    StoredKeys,
    TlsPair,
    TlsSecret,
)
from tests.fakes.apiserver import FakeApiServer, disconnect, status
from tests.fakes.waiting import Time, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from aiohttp import web

    from imagestreams.kube.events import Involved

NAMESPACE, NAME = "imagestreams-system", "imagestreams-webhook"
NAMES = (f"{NAME}.{NAMESPACE}.svc", f"{NAME}.{NAMESPACE}.svc.cluster.local")
KIND, PLURAL = "MutatingWebhookConfiguration", "mutatingwebhookconfigurations"
BEGAN = datetime.now(UTC).replace(microsecond=0)
HOOK: dict[str, Any] = {
    "name": "imports.imagestreams.dev",
    "clientConfig": {"service": {"namespace": NAMESPACE, "name": NAME}},
}


class Replica:
    """A keeper, what it serves with and what it has announced."""

    def __init__(self, world: World, tls_secret: str = "", **options: Any) -> None:
        self.served: list[KeyPair] = []
        self.announced: list[tuple[Involved, str, str]] = []
        cluster = world.cluster
        self.keeper = WebhookKeeper(
            KeySecret(cluster, NAMESPACE, options.pop("secret", NAME)),
            Configurations(cluster, "imagestreams", namespace=NAMESPACE, service=NAME),
            tls_secret=TlsSecret(cluster, NAMESPACE, tls_secret) if tls_secret else None,
            names=options.pop("names", NAMES),
            use=self.use,
            announce=lambda *event: self.announced.append(event),
            clock=world.clock,
            monotonic=world.time.clock,
            sleep=world.time.sleep,
            chance=lambda: 1.0,
            **options,
        )

    def use(self, pair: KeyPair) -> None:
        if b"unfit" in pair.certificate:
            raise InvalidCertificate("it cannot be served with")
        self.served.append(pair)

    @property
    def certificate(self) -> bytes:
        return self.served[-1].certificate

    @property
    def reasons(self) -> list[str]:
        return [reason for _, reason, _ in self.announced]


class World:
    """The cluster, the time, and replicas that start in it."""

    def __init__(self, api: FakeApiServer, cluster: Cluster) -> None:
        self.api = api
        self.cluster = cluster
        self.time = Time()
        self._tasks: list[asyncio.Task[None]] = []

    def clock(self) -> datetime:
        return BEGAN + timedelta(seconds=self.time.now - 1000)

    async def start(self, tls_secret: str = "", *, rests: bool = True, **options: Any) -> Replica:
        replica = Replica(self, tls_secret, **options)
        self._tasks.append(asyncio.create_task(replica.keeper.run()))
        if rests:
            await self.rest()
        return replica

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self._tasks.clear()

    async def rest(self) -> None:
        """Until all keepers sleep, and all watches are open and have nothing to tell."""
        for _ in range(3):
            await until(lambda: self.api.open_watches >= 3 * len(self._tasks))
            await self.time.settle(len(self._tasks))
            await asyncio.sleep(0.02)

    async def wait(self, **units: float) -> None:
        await self.time.run(timedelta(**units).total_seconds(), sleepers=len(self._tasks))
        await self.rest()

    # --- what is in the cluster

    def secret(self, name: str = NAME) -> dict[str, bytes]:
        found = self.api.get("v1", "secrets", NAMESPACE, name)
        assert found is not None
        return {key: base64.b64decode(value) for key, value in found["data"].items()}

    @property
    def token(self) -> str:
        return self.secret()["token"].decode()

    def apply(self, *hooks: dict[str, Any], kind: str = KIND) -> None:
        metadata = {"name": "imagestreams"}
        webhooks = json.loads(json.dumps(hooks or (HOOK,)))
        self.api.put({"apiVersion": ADMISSION_GROUP, "kind": kind, "metadata": metadata, "webhooks": webhooks})

    def config(self, index: int = 0) -> dict[str, Any]:
        found = self.api.get(ADMISSION_GROUP, PLURAL, "", "imagestreams")
        assert found is not None
        config: dict[str, Any] = found["webhooks"][index]["clientConfig"]
        return config

    @property
    def path(self) -> str:
        path: str = self.config()["service"]["path"]
        return path

    @property
    def bundle(self) -> bytes:
        return base64.b64decode(self.config().get("caBundle", ""))

    def put_tls(self, pair: KeyPair, authority: bytes = b"") -> None:
        values = {"tls.crt": pair.certificate, "tls.key": pair.key, **({"ca.crt": authority} if authority else {})}
        data = {key: base64.b64encode(value).decode() for key, value in values.items()}
        metadata = {"namespace": NAMESPACE, "name": "theirs"}
        self.api.put(
            {"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": metadata, "data": data}
        )

    @property
    def writes(self) -> int:
        return sum(seen.verb in {"create", "update", "patch", "delete"} for seen in self.api.requests)

    def check(self, replica: Replica) -> None:
        """An API server's call would come through."""
        assert self.path == f"/admit/imports/{self.token}"
        assert replica.keeper.tokens().accepts(self.token)
        assert is_trusted_by(replica.certificate, self.bundle)
        assert replica.keeper.problem is None


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with FakeApiServer() as api:
        for kind, plural in CONFIGURATION_KINDS.items():
            api.define(ADMISSION_GROUP, plural, kind, namespaced=False)
        async with await Cluster.connect(str(api.kubeconfig(tmp_path / "kubeconfig"))) as cluster:
            made = World(api, cluster)
            yield made
            await made.stop()


# --- from nothing


async def test_from_nothing_to_calls_that_come_through(world: World) -> None:
    world.apply()
    replica = await world.start()
    await replica.keeper.ready()
    world.check(replica)
    assert describe(replica.served[-1]).names == set(NAMES)
    assert replica.keeper.expires == describe(replica.served[-1]).not_after
    assert replica.keeper.warning is None
    assert len(replica.keeper.stamp_key()) == 32
    assert replica.keeper.stamp_keys() == (replica.keeper.stamp_key(),)
    assert replica.announced == []


async def test_all_of_our_webhooks_and_no_others(world: World) -> None:
    foreign = {"name": "a.example.com", "clientConfig": {"service": {"namespace": "a", "name": "b", "path": "/x"}}}
    by_url = {"name": "pins.imagestreams.dev", "clientConfig": {"url": f"https://{NAMES[0]}:9443/admit/pins"}}
    world.apply(foreign, HOOK, by_url)
    world.apply({**HOOK, "name": "pinning.imagestreams.dev"}, kind="ValidatingWebhookConfiguration")
    await world.start()
    assert world.config(0) == foreign["clientConfig"]
    assert world.config(1)["service"]["path"] == f"/admit/imports/{world.token}"
    assert world.config(2)["url"] == f"https://{NAMES[0]}:9443/admit/pins/{world.token}"
    other = world.api.get(ADMISSION_GROUP, CONFIGURATION_KINDS["ValidatingWebhookConfiguration"], "", "imagestreams")
    assert other is not None
    assert other["webhooks"][0]["clientConfig"]["service"]["path"] == f"/admit/pinning/{world.token}"


async def test_nothing_is_written_while_all_is_well(world: World) -> None:
    world.apply()
    replica = await world.start()
    before = world.writes
    await world.wait(minutes=14)
    assert world.writes == before
    assert len(replica.served) == 1
    await world.stop()
    again = await world.start()
    assert world.writes == before + 2, "at a start the token is replaced"
    world.check(again)


async def test_several_replicas_agree(world: World) -> None:
    world.apply()
    replicas = [await world.start(rests=False) for _ in range(4)]
    await world.rest()
    for _ in range(3):
        await world.wait(seconds=1)
    for replica in replicas:
        world.check(replica)
        assert replica.certificate == replicas[0].certificate
        assert replica.keeper.stamp_keys() == replicas[0].keeper.stamp_keys()
    before = world.writes
    await world.wait(minutes=14)
    assert world.writes == before


# --- tokens


async def test_a_token_is_replaced_all_the_time_and_the_old_one_lasts_for_two_minutes(world: World) -> None:
    world.apply()
    one, other = await world.start(), await world.start()
    old = world.token
    await world.wait(minutes=14)
    assert world.token == old
    while world.token == old:
        await world.wait(minutes=1)  # so that not all of the two minutes are over
    assert timedelta(minutes=15) <= world.clock() - BEGAN <= timedelta(minutes=25)
    for replica in (one, other):
        world.check(replica)
        assert replica.keeper.tokens().accepts(old), "calls on their way"
    await world.wait(minutes=2)
    for replica in (one, other):
        world.check(replica)
        assert not replica.keeper.tokens().accepts(old)


async def test_a_token_that_was_shown_is_replaced_while_the_one_before_still_counts_for_none(world: World) -> None:
    """One former token is accepted, for two minutes: a token that were replaced sooner would cut that short."""
    world.apply()
    replica = await world.start()
    first = world.token
    replica.keeper.exposed()
    await world.wait(seconds=119)
    assert world.token == first, "it is not two minutes old"
    await world.wait(seconds=2)
    second = world.token
    assert second != first
    world.check(replica)
    assert replica.keeper.tokens().accepts(first), "calls on their way"
    await world.wait(minutes=5)
    assert world.token == second, "nothing was shown since"
    assert not replica.keeper.tokens().accepts(first)
    replica.keeper.exposed()
    replica.keeper.exposed()
    await world.rest()
    third = world.token
    assert third not in {first, second}
    for _ in range(11):
        replica.keeper.exposed()
        await world.wait(seconds=10)
        assert replica.keeper.tokens().accepts(second), "each former one has its two minutes"
    assert world.token == third
    await world.wait(seconds=15)
    assert world.token not in {second, third}


@pytest.mark.parametrize("minutes", [3, 61])
async def test_at_a_start_the_token_is_taken_for_shown(world: World, minutes) -> None:
    """By calls that the end of the process before has cut off, or that nobody was there to take."""
    world.apply()
    await world.start()
    before = world.token
    await world.stop()
    world.time.now += minutes * 60
    replica = await world.start()
    assert world.token != before
    world.check(replica)
    assert replica.keeper.tokens().accepts(before), "calls on their way"


async def test_at_a_start_soon_after_another_the_token_is_replaced_as_soon_as_it_may_be(world: World) -> None:
    world.apply()
    await world.start()
    before = world.token
    await world.stop()
    world.time.now += 30
    await world.start()
    await world.wait(seconds=88)
    assert world.token == before
    await world.wait(seconds=3)
    assert world.token != before


async def test_a_token_that_was_made_since_the_start_was_not_shown_before(world: World) -> None:
    world.apply()
    one, _other = await world.start(), await world.start()
    before = world.token
    await world.wait(minutes=14)
    assert world.token == before
    world.check(one)


async def test_at_a_start_the_token_is_replaced_though_api_servers_must_be_told_the_present_one_first(world) -> None:
    world.apply()
    await world.start()
    before = world.token
    await world.stop()
    world.time.now += 600
    world.apply()
    replica = await world.start()
    await until(lambda: world.token != before)
    await world.rest()
    world.check(replica)


async def test_a_token_is_not_replaced_while_api_servers_cannot_be_told(world: World) -> None:
    world.apply()
    world.api.inject(status(403, "Forbidden", "may not patch"), verb="patch", resource=PLURAL, times=-1)
    replica = await world.start()
    before = world.token
    replica.keeper.exposed()
    await world.wait(hours=2)
    assert world.token == before
    assert "may not patch" in (replica.keeper.problem or "")
    assert replica.reasons == ["WebhookConfigurationNotKept"]
    involved, _, message = replica.announced[0]
    assert (involved.kind, involved.name) == (KIND, "imagestreams")
    assert involved.uid
    assert "may not patch" in message
    world.api.heal()
    await world.wait(minutes=1)
    world.check(replica)
    assert world.token != before, "now it is"


async def test_a_token_replaced_elsewhere_is_found_by_asking(world: World) -> None:
    world.apply()
    one = await world.start()
    stored = world.api.get("v1", "secrets", NAMESPACE, NAME)
    assert stored is not None
    world.api.inject(disconnect(), verb="watch", times=-1)
    world.api.end_watches()
    await until(lambda: world.api.open_watches == 0)
    new = "9" * 64
    stored["data"]["token"] = base64.b64encode(new.encode()).decode()
    world.api.put(stored)
    assert not one.keeper.tokens().accepts(new)
    before = world.api.count("get", "secrets")
    await asyncio.gather(*(one.keeper.refresh() for _ in range(50)))
    assert one.keeper.tokens().accepts(new)
    assert world.api.count("get", "secrets") == before + 1
    world.api.inject(status(500, "InternalError"), verb="get", resource="secrets")
    asking = asyncio.gather(*(one.keeper.refresh() for _ in range(50)))
    await world.time.settle(2)
    assert world.api.count("get", "secrets") == before + 1, "not twice within a second"
    advancing = asyncio.ensure_future(world.time.run(1, sleepers=2))
    await asking
    advancing.cancel()
    assert world.api.count("get", "secrets") == before + 2
    assert one.keeper.tokens().accepts(new), "an answer that is none changes nothing"


async def test_who_asks_while_the_keys_are_being_read_gets_a_later_reading(world: World) -> None:
    """What is on its way may be from before the token was replaced."""
    world.apply()
    replica = await world.start()
    go_on, is_held = asyncio.Event(), asyncio.Event()

    async def late(request: web.Request, handle: Callable[[], Awaitable[web.StreamResponse]]) -> web.StreamResponse:
        answer = await handle()
        is_held.set()
        await go_on.wait()
        return answer

    world.api.inject(late, verb="get", resource="secrets")
    first = asyncio.ensure_future(replica.keeper.refresh())
    await is_held.wait()
    second = asyncio.ensure_future(replica.keeper.refresh())
    go_on.set()
    await first
    assert not second.done()
    before = world.api.count("get", "secrets")
    await world.time.settle(2)
    advancing = asyncio.ensure_future(world.time.run(1, sleepers=2))
    await second
    assert world.api.count("get", "secrets") == before + 1
    advancing.cancel()


async def test_an_older_answer_that_comes_later_changes_nothing(world: World) -> None:
    world.apply()
    replica = await world.start()
    go_on, is_held = asyncio.Event(), asyncio.Event()

    async def late(request: web.Request, handle: Callable[[], Awaitable[web.StreamResponse]]) -> web.StreamResponse:
        answer = await handle()
        is_held.set()
        await go_on.wait()
        return answer

    world.api.inject(late, verb="get", resource="secrets")
    world.time.now += 1
    asking = asyncio.ensure_future(replica.keeper.refresh())
    await is_held.wait()
    stored = world.api.get("v1", "secrets", NAMESPACE, NAME)
    assert stored is not None
    stored["data"]["token"] = base64.b64encode(b"9" * 64).decode()
    world.api.put(stored)
    await world.rest()
    world.check(replica)
    go_on.set()
    await asking
    world.check(replica)
    assert replica.keeper.tokens().current == world.token


async def test_a_stale_replica_does_not_take_a_token_back(world: World) -> None:
    """Whatever it reads first, another replica has written both by the time it reads the second."""
    world.apply()
    replica = await world.start()
    done: list[str] = []

    async def meanwhile(request: web.Request, handle: Callable[[], Awaitable[web.StreamResponse]]) -> Any:
        answer = await handle()
        if not done:
            done.append(request.path)
            stored = world.api.get("v1", "secrets", NAMESPACE, NAME)
            configuration = world.api.get(ADMISSION_GROUP, PLURAL, "", "imagestreams")
            assert stored is not None
            assert configuration is not None
            stored["data"]["token"] = base64.b64encode(b"9" * 64).decode()
            configuration["webhooks"][0]["clientConfig"]["service"]["path"] = "/admit/imports/" + "9" * 64
            world.api.put(stored)
            world.api.put(configuration)
        return answer

    seen: list[str] = []
    world.api.inject(meanwhile, when=lambda each: each.verb == "get", times=1)
    before = len(world.api.requests)
    await world.wait(minutes=11)
    assert done
    seen = [each.body.decode() for each in world.api.requests[before:] if each.verb == "patch"]
    assert world.path == "/admit/imports/" + "9" * 64
    assert world.token == "9" * 64
    refused = [body for body in seen if "9" * 64 not in body]
    assert not refused, "it would have written the old one"
    world.check(replica)


# --- the keys of stamps


async def test_a_new_stamp_key_is_used_when_all_must_know_it(world: World) -> None:
    world.apply()
    replica = await world.start()
    old = replica.keeper.stamp_key()
    await world.wait(hours=24, minutes=15)
    new, previous = replica.keeper.stamp_keys()
    assert (previous, new == old) == (old, False)
    await world.stop()
    stored = world.api.get("v1", "secrets", NAMESPACE, NAME)
    assert stored is not None
    at = datetime.fromisoformat(stored["metadata"]["annotations"]["imagestreams.dev/stamp-key-rotated"])
    world.time.now = 1000 + (at - BEGAN).total_seconds() + 60
    again = await world.start()
    assert again.keeper.stamp_key() == old, "others may not have heard of the new one"
    world.time.now += 61
    assert again.keeper.stamp_key() == new
    assert again.keeper.stamp_keys() == (new, old)


# --- configurations


async def test_a_manifest_that_is_applied_again(world: World) -> None:
    world.apply()
    replica = await world.start()
    world.apply({"name": "pins.imagestreams.dev", "clientConfig": HOOK["clientConfig"]}, HOOK)
    await until(lambda: "caBundle" in world.config(1))
    assert world.config(0)["service"]["path"] == f"/admit/pins/{world.token}"
    assert world.config(1)["service"]["path"] == f"/admit/imports/{world.token}"
    await world.rest()
    assert replica.keeper.problem is None


async def test_a_configuration_that_is_not_there_yet(world: World) -> None:
    replica = await world.start()
    assert "is not there; apply config/webhook" in (replica.keeper.problem or "")
    assert replica.reasons == ["WebhookConfigurationNotKept"]
    assert replica.served, "it is ready to be called"
    world.apply()
    await until(lambda: "caBundle" in world.config())
    await world.rest()
    world.check(replica)
    world.api.remove(ADMISSION_GROUP, PLURAL, "", "imagestreams")
    await world.rest()
    assert "is not there" in (replica.keeper.problem or "")


async def test_a_configuration_that_cannot_be_read_is_no_fault_of_the_keys(world: World) -> None:
    world.apply()
    world.api.inject(status(403, "Forbidden", "may not read"), verb="get", resource=PLURAL, times=-1)
    replica = await world.start()
    problem = replica.keeper.problem or ""
    assert problem.startswith(f"{KIND} imagestreams cannot be read: ")
    assert "may not read" in problem
    assert replica.reasons == ["WebhookConfigurationNotKept"]
    assert (replica.announced[0][0].kind, replica.announced[0][0].name) == (KIND, "imagestreams")
    assert replica.certificate == world.secret()["tls.crt"]
    assert replica.keeper.tokens().accepts(world.token)
    assert replica.keeper.stamp_keys()
    before = world.token
    replica.keeper.exposed()
    await world.wait(hours=1)
    assert world.token == before, "nobody could be told another"
    assert len(replica.announced) == 1
    world.api.heal()
    await world.wait(minutes=1)
    world.check(replica)


async def test_a_configuration_that_cannot_be_read_stops_no_repair_and_no_authority_is_served_unknown(world) -> None:
    world.apply()
    replica = await world.start()
    served = replica.certificate
    world.api.inject(status(500, "InternalError"), verb="get", resource=PLURAL, times=-1)
    world.api.remove("v1", "secrets", NAMESPACE, NAME)
    await until(lambda: world.api.get("v1", "secrets", NAMESPACE, NAME) is not None)
    await world.rest()
    await world.wait(minutes=1)
    assert world.secret()["tls.crt"] != served
    assert replica.certificate == served, "API servers could not verify another"
    assert replica.keeper.tokens().accepts(world.token)
    assert world.api.count("get", PLURAL) < 40, "it is not asked all the time"
    world.api.heal()
    await world.wait(minutes=1)
    assert replica.certificate == world.secret()["tls.crt"]
    world.check(replica)


@pytest.mark.parametrize(
    ("hooks", "words"),
    [
        pytest.param(
            ({"name": "a.example.com", "clientConfig": {"url": "https://a/x"}},),
            "no webhook that leads here",
            id="none",
        ),
        pytest.param(
            (
                HOOK,
                {"name": "pins.imagestreams.dev", "clientConfig": {"service": {"namespace": "a", "name": "other"}}},
            ),
            "pins.imagestreams.dev would call another Service than ours; see --webhook-service",
            id="another Service",
        ),
        pytest.param(
            ({"name": "imports.imagestreams.dev", "clientConfig": {"url": "https://elsewhere.example:9443"}},),
            "not made out to elsewhere.example",
            id="a URL that the certificate does not have",
        ),
    ],
)
async def test_what_is_wrong_with_a_configuration_is_said(world: World, hooks, words) -> None:
    world.apply(*hooks)
    replica = await world.start()
    assert words in (replica.keeper.problem or "")
    assert len(replica.announced) == 1
    await world.wait(hours=1)
    assert len(replica.announced) == 1, "once, while it stays so"


async def test_a_token_is_in_no_message(world: World) -> None:
    world.apply()
    replica = await world.start()

    async def quoting(request: web.Request, handle: Any) -> web.StreamResponse:
        body = (await request.read()).decode()
        return await status(422, "Invalid", f"a policy refuses {body}")(request, handle)

    world.api.inject(quoting, verb="patch", resource=PLURAL, times=-1)
    world.apply()
    await world.rest()
    assert "a policy refuses" in (replica.keeper.problem or "")
    assert world.token not in (replica.keeper.problem or "")
    assert world.token not in str(replica.announced)


# --- certificates


async def test_a_secret_that_is_deleted_means_new_keys_and_no_call_fails(world: World) -> None:
    world.apply()
    one, other = await world.start(), await world.start()
    old_token, old, old_bundle = world.token, one.certificate, world.bundle
    stamp_key = one.keeper.stamp_key()
    world.api.remove("v1", "secrets", NAMESPACE, NAME)
    await world.wait(seconds=1)
    assert world.token != old_token
    for replica in (one, other):
        assert replica.keeper.stamp_key() == stamp_key, "the others may not have heard of the new one yet"
        assert stamp_key in replica.keeper.stamp_keys(), "requests that are stamped with it are on their way"
    assert world.path == f"/admit/imports/{world.token}"
    for replica in (one, other):
        assert replica.certificate == old, "API servers may not have heard of the new authority yet"
        assert replica.keeper.tokens().accepts(old_token), "nor of the new token"
    assert is_trusted_by(old, world.bundle)
    assert is_trusted_by(world.secret()["tls.crt"], world.bundle)
    await world.wait(seconds=7)
    for replica in (one, other):
        assert replica.certificate == world.secret()["tls.crt"]
        world.check(replica)
    assert is_trusted_by(old, world.bundle), "a replica may still serve with it"
    await world.wait(minutes=21)
    assert not is_trusted_by(old, world.bundle)
    assert authorities(world.bundle) == authorities(world.secret()["ca.crt"])
    assert old_bundle not in world.bundle
    world.check(one)


async def test_what_is_broken_in_the_secret_is_repaired(world: World) -> None:
    world.apply()
    replica = await world.start()
    stored = world.api.get("v1", "secrets", NAMESPACE, NAME)
    assert stored is not None
    stored["data"]["tls.key"] = stored["data"]["token"] = "%%%"
    world.api.put(stored)
    await world.rest()
    world.check(replica)
    assert describe(replica.served[-1])


async def test_a_secret_made_for_something_else_is_left_alone(world: World) -> None:
    world.apply()
    world.put_tls(new_authority(BEGAN))
    replica = await world.start(secret="theirs")
    assert "kubernetes.io/tls" in (replica.keeper.problem or "")
    assert replica.reasons == ["WebhookKeysNotKept"]
    assert world.writes == 0


@pytest.mark.parametrize(
    "fault", [disconnect(), status(500, "InternalError"), status(403, "Forbidden", "may not get secrets")]
)
async def test_an_api_server_that_does_not_answer_at_first(world: World, fault) -> None:
    world.apply()
    world.api.inject(fault, verb="get", resource="secrets", times=3)
    replica = await world.start(rests=False)
    await until(lambda: bool(replica.announced))
    assert replica.reasons == ["WebhookKeysNotKept"]
    assert replica.keeper.problem
    assert replica.served == []
    await world.wait(seconds=30)
    world.check(replica)


async def test_before_the_first_round(world: World) -> None:
    replica = Replica(world)
    assert replica.keeper.problem == "the webhooks' keys are not read yet"
    assert not replica.keeper.tokens().accepts("")
    assert replica.keeper.stamp_keys() == ()
    assert replica.keeper.expires is None


# --- a certificate that others keep


async def test_a_certificate_of_others(world: World) -> None:
    authority = new_authority(BEGAN)
    first, second = (new_serving(authority, NAMES, BEGAN) for _ in range(2))
    world.apply()
    world.put_tls(first, authority.certificate)
    replica = await world.start("theirs")
    assert replica.certificate == first.certificate
    assert world.bundle == authority.certificate
    world.check(replica)
    assert world.secret()["tls.crt"] == b"", "none of our own is made"
    world.put_tls(second, authority.certificate)
    await until(lambda: replica.certificate == second.certificate)
    await world.rest()
    world.check(replica)


async def test_a_certificate_of_others_under_another_authority(world: World) -> None:
    world.apply()
    one, other = new_authority(BEGAN), new_authority(BEGAN)
    old, new = new_serving(one, NAMES, BEGAN), new_serving(other, NAMES, BEGAN)
    world.put_tls(old, one.certificate)
    replica = await world.start("theirs")
    world.put_tls(new, other.certificate)
    await until(lambda: is_trusted_by(new.certificate, world.bundle))
    await world.rest()
    assert replica.certificate == old.certificate
    assert is_trusted_by(old.certificate, world.bundle)
    await world.wait(seconds=7)
    assert replica.certificate == new.certificate
    await world.wait(minutes=21)
    assert world.bundle == other.certificate


async def test_a_certificate_of_others_without_its_authority(world: World) -> None:
    authority = new_authority(BEGAN)
    world.apply({**HOOK, "clientConfig": {**HOOK["clientConfig"], "caBundle": "c29tZWJvZHkncw=="}})
    world.put_tls(new_serving(authority, NAMES, BEGAN))
    replica = await world.start("theirs")
    assert world.bundle == b"somebody's", "whoever vouches for it has said so"
    assert world.path == f"/admit/imports/{world.token}"
    assert replica.keeper.problem is None


@pytest.mark.parametrize(
    ("pair", "reason"),
    [
        pytest.param(None, "WebhookCertificateMissing", id="absent"),
        pytest.param(KeyPair(b"garbage", b"garbage"), "WebhookCertificateUnusable", id="garbage"),
        pytest.param(
            KeyPair(new_authority(BEGAN).certificate, new_authority(BEGAN).key), "WebhookCertificateUnusable", id="key"
        ),
    ],
)
async def test_a_certificate_of_others_that_is_of_no_use(world: World, pair, reason) -> None:
    world.apply()
    if pair is not None:
        world.put_tls(pair)
    replica = await world.start("theirs")
    assert replica.reasons == [reason]
    assert replica.announced[0][0].name == "theirs"
    assert "theirs" in (replica.keeper.problem or "")
    assert replica.served == []
    authority = new_authority(BEGAN)
    world.put_tls(new_serving(authority, NAMES, BEGAN), authority.certificate)
    await until(lambda: bool(replica.served))
    await world.rest()
    world.check(replica)
    good = replica.certificate
    world.put_tls(KeyPair(b"garbage", b""))
    await world.rest()
    assert replica.certificate == good, "what is served goes on"
    assert replica.keeper.problem


async def test_a_certificate_that_ends_soon_is_a_warning_and_then_a_problem(world: World) -> None:
    authority = new_authority(BEGAN)
    world.apply()
    world.put_tls(new_serving(authority, NAMES, BEGAN - timedelta(days=350)), authority.certificate)
    replica = await world.start("theirs")
    assert (replica.keeper.warning, replica.announced) == (None, [])
    await world.wait(days=2)
    assert "was not renewed" in (replica.keeper.warning or "")
    assert replica.keeper.problem is None, "it still serves"
    assert replica.reasons == ["WebhookCertificateExpiring"]
    await world.wait(days=14)
    assert "has expired" in (replica.keeper.problem or "")
    assert replica.reasons == ["WebhookCertificateExpiring", "WebhookCertificateUnusable"]
    world.put_tls(new_serving(authority, NAMES, world.clock()), authority.certificate)
    await until(lambda: len(replica.served) == 2)
    await world.rest()
    assert (replica.keeper.problem, replica.keeper.warning) == (None, None)


def test_nothing_that_is_secret_is_shown() -> None:
    pair = KeyPair(b"PUBLIC", b"PRIVATE")
    keys = Keys(authority_key=b"PRIVATE", serving=pair, token="PRIVATE", stamp_key=b"PRIVATE")
    assert "PRIVATE" not in repr(StoredKeys(keys)) + repr(TlsPair(pair, b""))
