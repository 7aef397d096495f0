"""The Secrets and webhook configurations, read and written as they are."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from imagestreams.core.certificate import KeyPair, Keys
from imagestreams.kube.errors import AlreadyExists, Conflict, Forbidden, Invalid, InvalidAnswer
from imagestreams.kube.webhooks import (
    ADMISSION_GROUP,
    CONFIGURATION_KINDS,
    Configurations,
    KeySecret,
    NotOurs,
    TlsSecret,
    path_of,
)
from tests.fakes.apiserver import raw, status

if TYPE_CHECKING:
    from imagestreams.kube.cluster import Cluster
    from tests.fakes.apiserver import FakeApiServer

NAMESPACE, NAME = "imagestreams-system", "imagestreams-webhook"
MUTATING = "MutatingWebhookConfiguration"
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
KEYS = Keys(
    authorities=b"authorities",
    authority_key=b"authority key",
    serving=KeyPair(b"certificate", b"key"),
    token="a" * 64,
    token_previous="b" * 64,
    token_at=NOW,
    stamp_key=b"\x00\xff" * 16,
    stamp_key_previous=b"",
    stamp_key_at=NOW,
)


@pytest.fixture
def key_secret(cluster: Cluster) -> KeySecret:
    return KeySecret(cluster, NAMESPACE, NAME)


@pytest.fixture
def configurations(api: FakeApiServer, cluster: Cluster) -> Configurations:
    for kind, plural in CONFIGURATION_KINDS.items():
        api.define(ADMISSION_GROUP, plural, kind, namespaced=False)
    return Configurations(cluster, "imagestreams", namespace=NAMESPACE, service=NAME)


# --- our Secret


async def test_what_is_written_is_read(key_secret: KeySecret) -> None:
    absent = await key_secret.read()
    assert (absent.keys, absent.resource_version) == (Keys(), "")
    made = await key_secret.write(KEYS, absent)
    assert made.keys == KEYS
    assert await key_secret.read() == made
    changed = await key_secret.write(replace(KEYS, token="c" * 64, stamp_key_at=None), made)
    assert (changed.keys.token, changed.keys.stamp_key_at) == ("c" * 64, NOW)
    assert await key_secret.read() == changed


async def test_what_others_keep_there_stays(api: FakeApiServer, key_secret: KeySecret) -> None:
    made = await key_secret.write(KEYS, await key_secret.read())
    there = api.get("v1", "secrets", NAMESPACE, NAME)
    assert there is not None
    assert there["type"] == "Opaque"
    there["metadata"]["labels"] = there["metadata"]["annotations"] = {"theirs": "1"}
    there["data"]["theirs"] = "eA=="
    api.put(there)
    await key_secret.write(KEYS, replace(await key_secret.read(), keys=made.keys))
    kept = api.get("v1", "secrets", NAMESPACE, NAME)
    assert kept is not None
    assert kept["data"]["theirs"] == "eA=="
    assert kept["metadata"]["annotations"].keys() == {
        "theirs",
        "imagestreams.dev/token-rotated",
        "imagestreams.dev/stamp-key-rotated",
    }


async def test_only_one_of_two_writers_wins(api: FakeApiServer, key_secret: KeySecret) -> None:
    absent = await key_secret.read()
    made = await key_secret.write(KEYS, absent)
    with pytest.raises(AlreadyExists):
        await key_secret.write(KEYS, absent)
    await key_secret.write(replace(KEYS, token="c" * 64), made)
    with pytest.raises(Conflict):
        await key_secret.write(replace(KEYS, token="d" * 64), made)
    assert (await key_secret.read()).keys.token == "c" * 64
    api.remove("v1", "secrets", NAMESPACE, NAME)
    with pytest.raises(Conflict):
        await key_secret.write(KEYS, made)


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {"data": None},
        {"data": {"token": None, "tls.crt": None}},
        {"data": {"token": "no base64!", "tls.crt": "no base64!", "stamp.key": "%"}},
        {"metadata": {"annotations": {"imagestreams.dev/token-rotated": "yesterday"}}},
        {"metadata": {"annotations": {"imagestreams.dev/token-rotated": "2026-03-01T12:00:00"}}},
        {"metadata": {"annotations": None}},
    ],
)
async def test_what_is_broken_is_as_if_it_were_not_there(api: FakeApiServer, key_secret: KeySecret, broken) -> None:
    metadata = {"namespace": NAMESPACE, "name": NAME, **broken.get("metadata", {})}
    api.put({"apiVersion": "v1", "kind": "Secret", **broken, "metadata": metadata})
    stored = await key_secret.read()
    assert stored.keys == Keys()
    assert stored.resource_version
    assert (await key_secret.write(KEYS, stored)).keys == KEYS


async def test_a_secret_of_another_type_is_left_alone(api: FakeApiServer, key_secret: KeySecret) -> None:
    metadata = {"namespace": NAMESPACE, "name": NAME}
    api.put({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": metadata})
    with pytest.raises(NotOurs, match="--webhook-tls-secret"):
        await key_secret.read()


async def test_a_secret_without_meaning(api: FakeApiServer, key_secret: KeySecret) -> None:
    api.inject(raw(b"[]"), verb="get")
    with pytest.raises(InvalidAnswer):
        await key_secret.read()


async def test_a_tls_secret(api: FakeApiServer, cluster: Cluster) -> None:
    secret = TlsSecret(cluster, NAMESPACE, "serving-cert")
    assert await secret.read() is None

    def put(**data: str) -> None:
        encoded = {name.replace("_", "."): base64.b64encode(value.encode()).decode() for name, value in data.items()}
        metadata = {"namespace": NAMESPACE, "name": "serving-cert"}
        api.put(
            {"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": metadata, "data": encoded}
        )

    put(tls_crt="certificate", tls_key="key", ca_crt="authority")
    found = await secret.read()
    assert found is not None
    assert (found.pair, found.authorities) == (KeyPair(b"certificate", b"key"), b"authority")
    put(tls_crt="certificate", tls_key="key")
    found = await secret.read()
    assert found is not None
    assert found.authorities == b""


# --- configurations


def webhook(name: str, *, path: str | None = None, url: str = "", service: str = NAME, ca: str = "") -> dict[str, Any]:
    config: dict[str, Any] = {"url": url} if url else {"service": {"namespace": NAMESPACE, "name": service}}
    if path is not None:
        config["service"]["path"] = path
    if ca:
        config["caBundle"] = base64.b64encode(ca.encode()).decode()
    return {"name": name, "clientConfig": config, "sideEffects": "None", "matchConditions": [{"name": "x"}]}


def put(api: FakeApiServer, *webhooks: dict[str, Any], kind: str = MUTATING) -> None:
    value = {"apiVersion": ADMISSION_GROUP, "kind": kind, "metadata": {"name": "imagestreams"}}
    api.put({**value, "webhooks": list(webhooks)})


def stored(api: FakeApiServer) -> list[dict[str, Any]]:
    found = api.get(ADMISSION_GROUP, CONFIGURATION_KINDS[MUTATING], "", "imagestreams")
    assert found is not None
    webhooks: list[dict[str, Any]] = found["webhooks"]
    return webhooks


@pytest.mark.parametrize(
    ("given", "door", "token"),
    [
        pytest.param(webhook("a.b.c", path="/admit/imports"), "imports", "", id="by its path"),
        pytest.param(webhook("a.b.c", path="/admit/imports/abc"), "imports", "abc", id="with a token"),
        pytest.param(webhook("pinning.imagestreams.dev"), "pinning", "", id="by its name"),
        pytest.param(webhook("pinning.imagestreams.dev", path="/"), "pinning", "", id="by its name, defaulted"),
        pytest.param(
            webhook("a.b.c", url="https://127.0.0.1:9443/admit/pins/abc"), "pins", "abc", id="by the path of its URL"
        ),
        pytest.param(webhook("pins.imagestreams.dev", url="https://h:1"), "pins", "", id="a URL without a path"),
        pytest.param(webhook("a.b.c", path="/other"), None, "", id="another path"),
        pytest.param(webhook("a.b.c"), None, "", id="neither path nor name"),
        pytest.param(webhook("pinning.imagestreams.dev", path="/other"), None, "", id="our name, another path"),
        pytest.param(webhook("a.b.c", path="/admit/other"), None, "", id="no door"),
        pytest.param(webhook("other.imagestreams.dev"), None, "", id="no door by its name"),
        pytest.param(webhook("a.b.c", path="/admit/"), None, "", id="no door at all"),
        pytest.param(webhook("a.b.c", path="/x/admit/imports"), None, "", id="somewhere in the path"),
    ],
)
async def test_which_webhooks_are_ours(api, configurations: Configurations, given, door, token) -> None:
    put(api, webhook("other.example.com", path="/mutate"), given)
    found = await configurations.read(MUTATING)
    assert found is not None
    assert found.elsewhere == ()
    if door is None:
        assert found.hooks == ()
    else:
        (hook,) = found.hooks
        assert (hook.index, hook.name, hook.door, hook.token) == (1, given["name"], door, token)


async def test_a_webhook_that_leads_elsewhere_is_not_ours_to_keep(api, configurations: Configurations) -> None:
    put(api, webhook("imports.imagestreams.dev", service="other"), webhook("pins.imagestreams.dev"))
    found = await configurations.read(MUTATING)
    assert found is not None
    assert [hook.name for hook in found.hooks] == ["pins.imagestreams.dev"]
    assert found.elsewhere == ("imports.imagestreams.dev",)


async def test_only_authority_and_path_are_written(api, configurations: Configurations) -> None:
    given = (
        webhook("other.example.com", path="/mutate", ca="theirs"),
        webhook("imports.imagestreams.dev"),
        webhook("a.b.c", url="https://127.0.0.1:9443/admit/pins?x", ca="old"),
    )
    put(api, *given)
    found = await configurations.read(MUTATING)
    assert found is not None
    changed = [replace(hook, authorities=b"new", path=path_of(hook.door, "token")) for hook in found.hooks]
    await configurations.write(found, changed)
    expected = [
        given[0],
        webhook("imports.imagestreams.dev", path="/admit/imports/token", ca="new"),
        webhook("a.b.c", url="https://127.0.0.1:9443/admit/pins/token", ca="new"),
    ]
    assert stored(api) == expected
    found = await configurations.read(MUTATING)
    assert found is not None
    await configurations.write(found, [replace(found.hooks[0], authorities=b"", path="/admit/imports/t")])
    expected[1]["clientConfig"]["service"]["path"] = "/admit/imports/t"
    assert stored(api) == expected, "without an authority to write, the present one stays"


async def test_a_configuration_that_has_changed_is_not_written(api, configurations: Configurations) -> None:
    put(api, webhook("imports.imagestreams.dev"))
    found = await configurations.read(MUTATING)
    assert found is not None
    for others in ([webhook("other.example.com"), webhook("imports.imagestreams.dev")], [webhook(found.hooks[0].name)]):
        put(api, *others)
        before = json.dumps(stored(api))
        with pytest.raises(Conflict):
            await configurations.write(found, found.hooks)
        assert json.dumps(stored(api)) == before
    api.remove(ADMISSION_GROUP, CONFIGURATION_KINDS[MUTATING], "", "imagestreams")
    with pytest.raises(Conflict):
        await configurations.write(found, found.hooks)
    assert await configurations.read(MUTATING) is None


@pytest.mark.parametrize(("code", "error"), [(422, Invalid), (403, Forbidden)])
async def test_a_write_that_is_refused_is_no_conflict(api, configurations: Configurations, code, error) -> None:
    put(api, webhook("imports.imagestreams.dev"))
    found = await configurations.read(MUTATING)
    assert found is not None
    api.inject(status(code, "Refused", "by policy"), verb="patch")
    with pytest.raises(error, match="by policy"):
        await configurations.write(found, found.hooks)
