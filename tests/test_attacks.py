"""Attacks on importing, each on the whole controller: what tenants, registries, token services and whoever writes a
status or a ConfigMap may try. `tests/attacks_world.py` is the world in which they try it.
"""

from __future__ import annotations

import asyncio
import base64
import gc
import itertools
import json
import re
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import pytest
from aiohttp import web

from dev.images import OCI_INDEX, OCI_MANIFEST, image, index
from tests.attacks_world import (
    SYSTEM,
    NamedRegistry,
    Stage,
    World,
    config_map,
    deployment,
    follower,
    registries,
    secret,
    stream,
    told,
)
from tests.fakes.registry import Auth, FakeServer, credentials_in
from tests.fakes.waiting import until

PASSWORD = "hunter2/p@ss:w%rd+42"
OTHER = "0ther~pass-word/43"
A, B, C = image(text="A"), image(text="B"), image(text="C")
METADATA = "169.254.169.254"


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch, tmp_path: Any, caplog: pytest.LogCaptureFixture):
    caplog.set_level("DEBUG")
    async with World(monkeypatch, tmp_path) as made:
        yield made


def serve(registry: FakeServer, content: bytes, media_type: str = OCI_MANIFEST, claim: str = "", **script: Any) -> None:
    """Have a registry answer with any bytes, and the digest that it likes to claim."""
    headers = {"Content-Type": media_type, **({"Docker-Content-Digest": claim} if claim else {})}
    registry.reply(200, content, headers, **script)


def redirect(server: FakeServer, location: str, **script: Any) -> None:
    server.reply(307, headers={"Location": location}, **script)


def challenge(registry: FakeServer, realm: str, service: str = "x") -> None:
    registry.reply(401, headers={"WWW-Authenticate": f'Bearer realm="{realm}",service="{service}"'})


# --- another's image --------------------------------------------------------------------------------------------------


async def test_a_registry_claims_the_digest_of_anothers_image(world: World):
    """Not when a tag is read first, and not by a HEAD either, although the image was read before, elsewhere."""
    good, evil = await world.registry("good.example"), await world.registry("evil.example")
    good.add("acme/web", "stable", A)
    stage = await world.play()
    await stage.played(stream("web", stable="good.example/acme/web:stable"))
    serve(evil, B.manifest, claim=A.digest)
    await stage.played(stream("web", "evil", stable="evil.example/acme/web:stable"))
    assert stage.reason("evil/web") == "InvalidAnswer"
    evil.behave()
    evil.add("acme/web", "stable", B)
    await stage.refresh("evil/web", "1")
    await stage.settled()
    assert stage.items("evil/web") == [f"evil.example/acme/web@{B.digest}"]
    serve(evil, b"", claim=A.digest, method="HEAD")
    for nonce, body in (("2", None), ("3", B.manifest)):
        if body is not None:
            serve(evil, body, path=A.digest)
        await stage.refresh("evil/web", nonce)
        await stage.settled()
        assert stage.items("evil/web") == [f"evil.example/acme/web@{B.digest}"]
        assert stage.reason("evil/web") in {"NotFound", "InvalidAnswer"}
        assert f"GET acme/web@{A.digest}" in evil.asked()


async def test_an_index_borrows_a_child_from_another_repository(world: World):
    shared = await world.registry("shared.example", auth="token", users={"victim": PASSWORD, "evil": OTHER})
    shared.add("victim/secret", "stable", A)
    borrowed = index([A])
    shared.put("evil/app", "stable", OCI_INDEX, borrowed.manifest)  # without the image itself
    stage = await world.play()
    legacy = {"importMode": "Legacy"}
    await stage.played(
        secret("pull", "victim", **{"shared.example": f"victim:{PASSWORD}"}),
        secret("pull", "evil", **{"shared.example": f"evil:{OTHER}"}),
        stream("web", "victim", policy=legacy, stable="shared.example/victim/secret:stable"),
    )
    assert stage.items("victim/web") == [f"shared.example/victim/secret@{A.digest}"]
    shared.requests.clear()
    await stage.played(stream("web", "evil", policy=legacy, stable="shared.example/evil/app:stable"))
    assert (stage.items("evil/web"), stage.reason("evil/web")) == ([], "NotFound")
    assert f"GET evil/app@{A.digest}" in shared.asked()
    assert not [asked for asked in shared.asked() if "victim" in asked]


async def test_a_mirror_answers_with_other_bytes_for_a_digest(world: World):
    good, mirror = await world.registry("good.example"), await world.registry("mirror.example")
    good.add("acme/web", "stable", A)
    stage = await world.play({"mirror": ["good.example/acme=mirror.example/acme"]})
    for number, claim in enumerate(("", A.digest, B.digest)):
        mirror.behave()
        serve(mirror, B.manifest, claim=claim)
        await stage.played(stream(f"web{number}", stable=f"good.example/acme/web@{A.digest}"))
        assert stage.items(f"web{number}") == [f"good.example/acme/web@{A.digest}"]
        assert good.asked() == [f"GET acme/web@{A.digest}"]
        good.requests.clear()
    good.reply(503)
    await stage.played(stream("alone", stable=f"good.example/acme/web@{A.digest}"))
    assert stage.items("alone") == []
    assert "mirror mirror.example: InvalidAnswer" in stage.message("alone")
    assert B.digest not in stage.written()


async def test_what_anothers_login_has_read_is_read_without_one(world: World):
    corp = await world.registry("registry.corp.example", auth="token", users={"dev": PASSWORD})
    corp.add("acme/web", "stable", A)
    stage = await world.play()
    name = "registry.corp.example/acme/web"
    await stage.played(
        secret("pull", "owner", **{"registry.corp.example": f"dev:{PASSWORD}"}),
        stream("web", "owner", stable=f"{name}:stable"),
    )
    assert stage.reason("owner/web") == "Imported"
    await stage.played(stream("web", "thief", stable=f"{name}:stable", pinned=f"{name}@{A.digest}"))
    for tag in ("stable", "pinned"):
        assert (stage.items("thief/web", tag), stage.reason("thief/web", tag)) == ([], "Unauthorized")
    assert "the credential of secret" not in stage.message("thief/web")


# --- a tag's own `insecure` -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["unverified TLS", "plain http", "redirect", "realm", "mirror", "proxy"])
async def test_a_tag_asks_insecurely_for_a_host_that_has_a_credential(world: World, way: str):
    users = {"dev": PASSWORD}
    auth = "token" if way == "realm" else "htpasswd"
    is_plain = way in {"plain http", "proxy"}
    corp = await world.registry("registry.corp.example", auth=auth, users=users, trusted=False, tls=not is_plain)
    corp.add("acme/web", "stable", A)
    store = await world.registry("store.corp.example", auth="htpasswd", users=users, trusted=way != "mirror")
    store.add("acme/web", "stable", A)
    settings: dict[str, Any] = {}
    if way == "redirect":
        redirect(corp, "https://store.corp.example/v2/acme/web/manifests/stable")
    if way == "realm":
        assert corp.tokens is not None
        challenge(corp, "https://store.corp.example/token")
    if way == "mirror":
        settings["mirror"] = ["registry.corp.example/acme=store.corp.example/acme"]
    if way == "proxy":
        settings["registry_proxy"] = [f"registry.corp.example={(await world.proxy('p:proxy-login')).url}"]
    stage = await world.play(settings)
    await stage.played(
        secret("pull", **{"registry.corp.example": f"dev:{PASSWORD}", "store.corp.example": f"dev:{PASSWORD}"}),
        stream("web", policy={"insecure": True}, stable="registry.corp.example/acme/web:stable"),
    )
    assert corp.requests, "it was never asked"
    assert stage.items("web") == []
    assert told(PASSWORD, world.heard()) == []
    assert [seen for server in world.servers for seen in server.requests if seen.authorization] == []
    # The same without `insecure` may have it, or the test would not see what it looks for.
    if way in {"redirect", "realm"}:
        await stage.played(stream("safe", stable="store.corp.example/acme/web:stable"))
        assert told(PASSWORD, world.heard()) != []


# --- two credentials --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("auth", ["htpasswd", "token"])
async def test_a_stale_secret_stands_before_a_good_one(world: World, auth: Any):
    corp = await world.registry("registry.corp.example", auth=auth, users={"dev": PASSWORD})
    corp.add("acme/web", "stable", A)
    stage = await world.play()
    await stage.played(
        secret("a-stale", **{"registry.corp.example/acme/web": f"old:{OTHER}"}),
        secret("b-good", **{"registry.corp.example": f"dev:{PASSWORD}"}),
        stream("web", stable="registry.corp.example/acme/web:stable"),
    )
    assert stage.items("web") == [f"registry.corp.example/acme/web@{A.digest}"]
    asked = corp.tokens.requests if corp.tokens else corp.requests
    shown = [login for seen in asked if (login := credentials_in(seen.authorization)) != ("", "")]
    assert shown[:2] == [("old", OTHER), ("dev", PASSWORD)]


async def test_a_registry_names_the_token_service_of_another(world: World):
    """It is asked, for nobody: neither the login for the registry nor the one for the other's is shown to it."""
    evil = await world.registry("registry.evil.example")
    corp = await world.registry("registry.corp.example", auth="token", users={"dev": PASSWORD, "mal": OTHER})
    assert corp.tokens is not None
    challenge(evil, corp.tokens.realm, corp.service)
    corp.add("acme/web", "stable", A)
    stage = await world.play()
    await stage.played(
        secret("evil", **{"registry.evil.example": f"mal:{OTHER}"}),
        secret("good", **{"registry.corp.example": f"dev:{PASSWORD}"}),
        stream("web", stable="registry.evil.example/acme/web:stable"),
    )
    assert stage.reason("web") == "Unauthorized"
    assert [seen.authorization for seen in corp.tokens.requests] == [""]
    assert corp.tokens.requests[0].query["scope"] == "repository:acme/web:pull"
    assert told(PASSWORD, world.heard()) == told(OTHER, world.heard()) == []
    await stage.played(stream("good", stable="registry.corp.example/acme/web:stable"))
    assert stage.reason("good") == "Imported"
    assert told(PASSWORD, "".join(str(seen) for seen in evil.requests)) == []


async def test_two_registries_share_a_token_service(world: World):
    """Each credential is shown for its own registry only, and a token of one is not used at the other."""
    one = await world.registry("one.corp.example", auth="token", users={"one": PASSWORD})
    two = await world.registry("two.corp.example", auth="token", users={"two": OTHER})
    assert one.tokens is not None
    assert two.tokens is not None
    await two.tokens.stop()
    one.tokens.users["two"] = OTHER
    two.tokens = one.tokens
    for registry in (one, two):
        registry.add("acme/web", "stable", A)
    stage = await world.play()
    await stage.played(
        secret("one", **{"one.corp.example": f"one:{PASSWORD}"}),
        secret("two", **{"two.corp.example": f"two:{OTHER}"}),
        stream("web", one="one.corp.example/acme/web:stable", two="two.corp.example/acme/web:stable"),
    )
    assert (stage.reason("web", "one"), stage.reason("web", "two")) == ("Imported", "Imported")
    assert sorted(credentials_in(seen.authorization) for seen in one.tokens.requests) == [
        ("one", PASSWORD),
        ("two", OTHER),
    ]
    tokens = [{seen.authorization for seen in registry.requests if seen.authorization} for registry in (one, two)]
    assert tokens[0].isdisjoint(tokens[1])


async def test_a_throttled_credential_stops_another_namespace(world: World):
    corp = await world.registry("registry.corp.example", auth="htpasswd", users={"greedy": OTHER, "dev": PASSWORD})
    for name in ("web", "app"):
        corp.add(f"acme/{name}", "stable", A)

    async def throttle(request: web.Request) -> web.StreamResponse:
        if credentials_in(request.headers.get("Authorization", ""))[0] == "greedy":
            return web.Response(status=429, headers={"Retry-After": "3600"})
        return await corp.answer(request)

    corp.script(throttle)
    stage = await world.play()
    await stage.played(
        secret("pull", "greedy", **{"registry.corp.example": f"greedy:{OTHER}"}),
        stream("web", "greedy", stable="registry.corp.example/acme/web:stable"),
    )
    assert stage.reason("greedy/web") == "RateLimited"
    await stage.played(
        secret("pull", "calm", **{"registry.corp.example": f"dev:{PASSWORD}"}),
        stream("web", "calm", stable="registry.corp.example/acme/web:stable"),
    )
    assert stage.items("calm/web") == [f"registry.corp.example/acme/web@{A.digest}"]
    corp.requests.clear()
    await stage.played(stream("app", "greedy", stable="registry.corp.example/acme/app:stable"))
    assert corp.requests == []


async def test_a_stale_secret_is_throttled_before_a_good_one(world: World):
    """A token service that has had enough of a bad login says so with 429; the good secret is still to be tried."""
    corp = await world.registry("registry.corp.example", auth="token", users={"dev": PASSWORD})
    assert corp.tokens is not None
    corp.add("acme/web", "stable", A)
    tokens = corp.tokens

    async def throttle(request: web.Request) -> web.StreamResponse:
        if credentials_in(request.headers.get("Authorization", ""))[0] == "old":
            return web.Response(status=429, headers={"Retry-After": "600"})
        return await tokens.answer(request)

    tokens.script(throttle)
    stage = await world.play()
    await stage.played(
        secret("a-stale", **{"registry.corp.example/acme/web": f"old:{OTHER}"}),
        secret("b-good", **{"registry.corp.example": f"dev:{PASSWORD}"}),
        stream("web", stable="registry.corp.example/acme/web:stable"),
    )
    await stage.advance("2m")
    await stage.settled()
    assert stage.items("web") == [f"registry.corp.example/acme/web@{A.digest}"]


# --- namespaces -------------------------------------------------------------------------------------------------------


async def test_a_namespace_made_again_gets_what_the_old_ones_login_was_asking_for(world: World):
    corp = await world.registry("registry.corp.example", auth="token", users={"dev": PASSWORD})
    corp.add("acme/web", "stable", A)
    corp.hold(path=r"manifests/stable")
    stage = await world.play()
    theirs = stream("web", stable="registry.corp.example/acme/web:stable")
    await stage.apply(secret("pull", **{"registry.corp.example": f"dev:{PASSWORD}"}), theirs)
    await corp.arrived(1)
    await stage.teller.play({"delete": "Namespace/acme"})
    await stage.apply(theirs)  # by somebody else, without the secret
    await stage.quiet()
    corp.release()
    await stage.settled()
    assert (stage.items("web"), stage.reason("web")) == ([], "Unauthorized")
    assert A.digest not in stage.written()


async def test_a_flood_of_tags_keeps_another_namespace_waiting(world: World):
    shared = await world.registry("shared.example")
    for number in range(600):
        shared.add("evil/web", f"v{number}", A)
    shared.add("good/web", "stable", B)
    shared.hold()
    stage = await world.play({"lane_concurrency": 4})
    tags = {f"v{number}": f"shared.example/evil/web:v{number}" for number in range(300)}
    again = {f"v{number}": f"shared.example/evil/web:v{number}" for number in range(300, 600)}
    await stage.apply(stream("one", "evil", **tags), stream("two", "evil", **again))
    lanes = stage.lanes
    await until(lambda: lanes.load() == (596, 4))
    await stage.apply(stream("web", "good", stable="shared.example/good/web:stable"))
    await until(lambda: lanes.load() == (597, 4))
    shared.release()
    await until(lambda: stage.reason("good/web") == "Imported")
    assert shared.asked().index("GET good/web:stable") <= 8
    await stage.settled(30)


async def test_a_flood_of_hosts_leaves_no_lane_for_another_namespace(world: World):
    """Each host of the attacker keeps a lane busy; there are only so many."""
    evil = await world.registry("evil.example")
    good = await world.registry("good.example")
    good.add("acme/web", "stable", A)
    evil.hold()
    address = world._names["evil.example"][0]
    for number in range(60):
        world.names(f"h{number}.evil.example", address)
    stage = await world.play({"max_lanes": 16})
    hosts = {f"t{number}": f"h{number}.evil.example/acme/web:stable" for number in range(60)}
    await stage.apply(stream("flood", "evil", policy={"insecure": True}, **hosts))
    await stage.quiet()
    await stage.apply(stream("web", "good", stable="good.example/acme/web:stable"))
    await until(lambda: stage.reason("good/web") == "Imported")
    assert len(stage.lanes._lanes) <= 16
    evil.release()
    await stage.settled(30)


# --- lookalikes -------------------------------------------------------------------------------------------------------

LOOKALIKES = (
    "corp.example",
    "xcorp.example",
    "registry.corp.example.evil.test",
    "registry-corp.example",
    "a.b.corp.example",
    "registry.corp.example.test",
    "registry.corp.exampl",
)


async def test_a_lookalike_is_served_by_a_wildcard_secret(world: World):
    corp = await world.registry("registry.corp.example", auth="htpasswd", users={"dev": PASSWORD})
    corp.add("acme/web", "stable", A)
    for name in LOOKALIKES:
        await world.registry(name, auth="htpasswd", users={"dev": PASSWORD})
    other_port = await world.server("registry.corp.example", port=8443)
    other_port.reply(401, headers={"WWW-Authenticate": 'Basic realm="x"'})
    world.names("registry.corp.example", *(world._names["registry.corp.example"]), "203.0.113.1")
    stage = await world.play()
    names = {f"t{number}": f"{name}/acme/web:stable" for number, name in enumerate(LOOKALIKES)}
    await world.registry("registry.path.example", auth="htpasswd", users={"dev": PASSWORD})
    names["path"] = "registry.path.example/acme/web:stable"
    wildcards = (
        "*.corp.example",
        "registry.corp.e?ample",
        "registry.*.example/acme/we",
        "registry.path.example/acme/w",
    )
    keys = dict.fromkeys(wildcards, f"dev:{PASSWORD}")
    await stage.played(
        secret("pull", **keys), stream("web", port="registry.corp.example:8443/acme/web:stable", **names)
    )
    assert {stage.reason("web", tag) for tag in (*names, "port")} == {"Unauthorized"}
    assert all(server.requests for server in world.servers if server != corp)
    assert told(PASSWORD, world.heard()) == []
    await stage.played(stream("good", stable="registry.corp.example/acme/web:stable"))
    assert stage.reason("good") == "Imported"


async def test_a_lookalike_is_let_in_by_a_pattern_of_the_policy(world: World):
    """`*` stands for any part of a host's name, as in the documentation, but a pattern is for the whole of it."""
    names = [name for name in LOOKALIKES if name != "a.b.corp.example"]
    for name in names:
        (await world.registry(name)).add("acme/web", "stable", A)
    stage = await world.play({"allowed_registry": ["*.corp.example", "quay.example/acme"]})
    for name in ("quay.example", "quay.example.evil.test"):
        (await world.registry(name)).add("acme-evil/web", "stable", A)
    asked = [*(f"{name}/acme/web:stable" for name in names), "quay.example/acme-evil/web:stable"]
    asked += ["quay.example.evil.test/acme/web:stable", "registry.corp.example:8443/acme/web:stable"]
    tags = {f"t{number}": name for number, name in enumerate(asked)}
    for is_insecure in (False, True):
        await stage.played(stream(f"web{is_insecure}".lower(), policy={"insecure": is_insecure}, **tags))
        assert {stage.reason(f"web{is_insecure}".lower(), tag) for tag in tags} == {"NotAllowed"}
    assert world.connections == []


async def test_a_blocked_registry_is_asked_by_another_of_its_names(world: World):
    for name in ("registry-1.docker.io", "index.docker.io", "docker.io", "bad.example"):
        (await world.registry(name)).add("acme/web", "stable", A)
    stage = await world.play({"blocked_registry": ["docker.io/acme", "bad.example"]})
    names = ("acme/web", "docker.io/acme/web", "index.docker.io/acme/web", "registry-1.docker.io/acme/web")
    more = ("INDEX.Docker.io/acme/web", "BAD.example/acme/web", "bad.example:443/acme/web", "bad.example:8443/acme/web")
    tags = {f"t{number}": f"{name}:stable" for number, name in enumerate((*names, *more))}
    await stage.played(stream("web", **tags))
    reasons = {name: stage.reason("web", tag) for tag, name in tags.items()}
    assert set(reasons.values()) == {"Blocked"}, reasons
    assert world.connections == []


# --- into the house ---------------------------------------------------------------------------------------------------


async def house(world: World) -> list[FakeServer]:
    """What nobody outside may have us ask: each would answer, and remember that it was asked."""
    servers: list[FakeServer] = [await world.server(METADATA, tls=False), await world.server(METADATA)]
    servers += [await world.server("10.0.0.5"), await world.server("10.0.0.5", tls=False)]
    loopback = FakeServer(host="127.0.0.9")
    servers.append(await world._life.enter_async_context(loopback))
    for server in servers:
        serve(server, A.manifest, claim=A.digest, path="manifests")
        server.reply(200, json.dumps({"token": "a-token-of-the-house"}), path="token|latest")
    world.names("inside.evil.example", "10.0.0.5")
    world.names("rebound.evil.example", METADATA)
    world.names("metadata.google.internal", METADATA)
    return servers


INSIDE = (
    f"https://{METADATA}/v2/acme/web/manifests/token",
    f"http://{METADATA}/latest/meta-data/token",
    "https://metadata.google.internal/token",
    "https://rebound.evil.example/token",
    "https://10.0.0.5/token",
    "https://inside.evil.example/token",
    "http://10.0.0.5/token",
    "https://[::ffff:169.254.169.254]/token",
    "https://2852039166/token",
    "https://0xa9.0xfe.0xa9.0xfe/token",
    "{loopback}/token",
    "{loopback_tls}/token",
    "http://localhost:{port}/token",
    "https://localhost:{port}/token",
)


def inside(where: str, servers: list[FakeServer]) -> str:
    port = servers[-1].host.rpartition(":")[2]
    return where.format(loopback=f"http://127.0.0.9:{port}", loopback_tls=f"https://127.0.0.9:{port}", port=port)


def visits(world: World, servers: list[FakeServer]) -> list[str]:
    """Who was reached that must not be, by a connection or a request."""
    reached = [each for each in world.connections if each.startswith(("169.", "10.", "::ffff"))]
    return reached + [str(seen) for server in servers for seen in server.requests]


async def lured(world: World, auth: Auth, lure: Callable[[NamedRegistry, str], None]) -> None:
    """Import from one registry for each place INSIDE, to which it tries to lead us; none is reached, with whatever."""
    servers = await house(world)
    registries = [await world.registry(f"r{n}.evil.example", auth=auth) for n in range(len(INSIDE))]
    for registry, where in zip(registries, INSIDE, strict=True):
        lure(registry, inside(where, servers))
    stage = await world.play()
    tags = {f"t{number}": f"{registry.name}/acme/web:stable" for number, registry in enumerate(registries)}
    await stage.played(
        secret("pull", **{"*.evil.example": f"dev:{PASSWORD}"}),
        stream("web", **tags),
        stream("insecure", policy={"insecure": True}, **tags),
    )
    assert visits(world, servers) == []
    assert all(registry.requests for registry in registries)
    assert [stage.items(name, tag) for name in ("web", "insecure") for tag in tags] == [[]] * 2 * len(tags)
    assert all(stage.reason(name, tag) for name in ("web", "insecure") for tag in tags)


async def test_a_challenge_points_into_the_house(world: World):
    await lured(world, "none", challenge)
    assert told(PASSWORD, world.heard()) == []


async def test_a_redirect_leads_into_the_house(world: World):
    await lured(world, "none", redirect)


async def test_a_token_service_redirects_into_the_house(world: World):
    def lure(registry: NamedRegistry, where: str) -> None:
        assert registry.tokens is not None
        redirect(registry.tokens, where)

    await lured(world, "token", lure)


async def test_a_challenge_points_to_plain_http(world: World):
    """A login would be read by anybody on the way; not even without one is it asked, where https was wanted."""
    evil = await world.registry("registry.evil.example")
    plain = await world.server("auth.evil.example", tls=False)
    challenge(evil, "http://auth.evil.example/token")
    stage = await world.play()
    await stage.played(
        secret("pull", **{"registry.evil.example": f"dev:{PASSWORD}"}),
        stream("web", stable="registry.evil.example/acme/web:stable"),
    )
    assert (stage.reason("web"), plain.requests) == ("Refused", [])


async def test_a_token_service_redirects_a_login_to_a_stranger(world: World):
    corp = await world.registry("registry.corp.example", auth="token", users={"dev": PASSWORD})
    assert corp.tokens is not None
    stranger = await world.registry("stranger.example", auth="htpasswd", users={"dev": PASSWORD})
    redirect(corp.tokens, "https://stranger.example/token")
    stage = await world.play()
    await stage.played(
        secret("pull", **{"registry.corp.example": f"dev:{PASSWORD}"}),
        stream("web", stable="registry.corp.example/acme/web:stable"),
    )
    assert [seen.authorization for seen in stranger.requests] == [""]
    assert stage.items("web") == []


async def test_a_tag_names_the_house_as_its_registry(world: World):
    servers = await house(world)
    mixed = await world.registry("mixed.evil.example")
    mixed.reply(404)
    world.names("mixed.evil.example", METADATA, *world._names["mixed.evil.example"])
    hosts = (
        METADATA,
        f"{METADATA}:80",
        "127.0.0.9:{port}",
        "localhost:{port}",
        "127.1:{port}",
        "0x7f.0.0.9:{port}",
        "0251.0376.0251.0376",
        "2852039166:443",
        "rebound.evil.example",
        "metadata.google.internal",
        "mixed.evil.example",
    )
    tags = {f"t{number}": f"{inside(host, servers)}/acme/web:stable" for number, host in enumerate(hosts)}
    stage = await world.play()
    await stage.played(stream("web", **tags), stream("insecure", policy={"insecure": True}, **tags))
    assert visits(world, servers) == []
    for name in ("web", "insecure"):
        reasons = {image: stage.reason(name, tag) for tag, image in tags.items()}
        assert reasons.pop("mixed.evil.example/acme/web:stable") == "NotFound"  # at its good address
        # What is no name, and no address as one writes it, is not connected to at all.
        assert set(reasons.values()) <= {"Refused", "InvalidAnswer", "InvalidImageReference"}, reasons


async def test_a_tag_names_a_port_that_is_no_registrys(world: World):
    ports = (22, 25, 2379, 6443, 10250)
    for port in ports:
        serve(await world.server("registry.evil.example", "203.0.113.99", port=port), A.manifest)
    stage = await world.play()
    tags = {f"t{port}": f"registry.evil.example:{port}/acme/web:stable" for port in ports}
    await stage.played(stream("web", **tags), stream("insecure", policy={"insecure": True}, **tags))
    assert {stage.reason(name, tag) for name in ("web", "insecure") for tag in tags} == {"Refused"}
    assert world.connections == []


HOSTING = {
    "Docker Hub": ("docker.io", "registry.evil.example:80"),
    "a public name": ("registry.corp.example", "registry.evil.example:80"),
    "a private address": ("10.0.0.6", "registry.evil.example:80"),
    "a name that begins so": ("localhost.evil.example:5000", "registry.evil.example:80"),
    "metadata": ("localhost:5000", METADATA),
    "metadata and its port": ("localhost:5000", f"{METADATA}:80"),
    "metadata in IPv6": ("localhost:5000", "[::ffff:169.254.169.254]:80"),
    "loopback": ("localhost:5000", "127.0.0.9:{port}"),
    "nowhere": ("localhost:5000", "0.0.0.0:{port}"),
}


async def hosted(world: World, hosting: dict[str, tuple[str, str]]) -> Stage:
    """A cluster that says of a local registry one thing after the other, and a tag at each that has a secret."""
    servers = await house(world)
    stage = await world.play()
    for number, (what, (host, address)) in enumerate(hosting.items()):
        text = f"host: {host!r}\nhostFromClusterNetwork: {inside(address, servers)!r}\n"
        await stage.apply(config_map("local-registry-hosting", "kube-public", **{"localRegistryHosting.v1": text}))
        await stage.settled()
        await stage.played(
            secret("pull", **{host: f"dev:{PASSWORD}"}),
            stream(f"web{number}", stable=f"{host}/acme/web:stable", private=f"{host}/acme/private:stable"),
        )
        # Who names a private address is led there; by a hosting he is not led elsewhere.
        assert [each for each in visits(world, servers) if not each.startswith("10.0.0.6:443")] == [], what
    return stage


async def test_local_registry_hosting_names_what_it_must_not(world: World):
    evil = await world.registry("registry.evil.example", tls=False)
    evil.add("acme/web", "stable", B)
    evil.reply(401, headers={"WWW-Authenticate": 'Basic realm="x"'}, path="private")
    for name in ("registry-1.docker.io", "registry.corp.example"):
        (await world.registry(name)).add("acme/web", "stable", A)
    stage = await hosted(world, {**HOSTING, "good": ("localhost:5001", "registry.evil.example:80")})
    # A loopback name, and only that, leads there; without a login.
    assert sorted(evil.asked()) == ["GET acme/private:stable", "GET acme/web:stable"]
    assert stage.written().count(f"localhost:5001/acme/web@{B.digest}")
    assert f"docker.io/acme/web@{A.digest}" in stage.written()
    assert f"docker.io/acme/web@{B.digest}" not in stage.written()
    assert told(PASSWORD, world.heard()) == []


async def test_local_registry_hosting_spells_a_metadata_address_otherwise(world: World):
    others = ("2852039166:80", "0xa9fea9fe:80", "0xa9.0xfe.0xa9.0xfe:80", "metadata.google.internal:80")
    await hosted(world, {address: ("localhost:5000", address) for address in others})


# --- what registries say back -----------------------------------------------------------------------------------------

CONTROL = "\x1b[31m\u202eevil\u0000\u0007"


def echoes(authorization: str) -> list[str]:
    """What a registry may make of an Authorization that it was sent."""
    _, _, value = authorization.partition(" ")
    name, password = credentials_in(authorization)
    return [each for each in (value, f"{name}:{password}" if name else "", password) if each]


Echo = Callable[[str], web.Response]
ECHOES: dict[str, Echo] = {
    "error body": lambda said: web.Response(status=400, body=json.dumps({"errors": [{"code": said, "message": said}]})),
    "error text": lambda said: web.Response(status=403, body=f"{said} {CONTROL}"),
    "unavailable": lambda said: web.Response(status=503, body=said, headers={"Retry-After": _header(said)}),
    "realm": lambda said: web.Response(
        status=401, headers={"WWW-Authenticate": f'Bearer realm="https://auth.corp.example/{_path(said)}",service="x"'}
    ),
    "service": lambda said: web.Response(
        status=401,
        headers={"WWW-Authenticate": f'Bearer realm="https://auth.corp.example/t",service="{_header(said)}"'},
    ),
    "redirect": lambda said: web.Response(status=307, headers={"Location": f"https://nowhere.example/{_path(said)}"}),
    "redirect host": lambda said: web.Response(status=307, headers={"Location": f"https://{_label(said)}.example/"}),
    "content type": lambda said: web.Response(headers={"Content-Type": f"application/vnd.{_header(said)}"}, body=b"{}"),
    "digest": lambda said: web.Response(headers={"Docker-Content-Digest": _header(said)}, body=A.manifest),
    "media type": lambda said: _manifest(mediaType=f"application/vnd.{said}"),
    "config type": lambda said: _manifest(config={"mediaType": f"a/{said}", "digest": A.digest, "size": 2}),
    "config digest": lambda said: _manifest(
        config={"mediaType": "application/vnd.oci.image.config.v1+json", "digest": f"{said}{CONTROL}", "size": 2}
    ),
    "artifact type": lambda said: _manifest(
        artifactType=f"{said}{CONTROL}",
        config={"mediaType": "application/vnd.oci.image.config.v1+json", "digest": A.digest, "size": 2},
    ),
    "unknown": lambda said: web.Response(status=418, reason=_header(said), body=said),
}


def _header(said: str) -> str:
    return re.sub(r'[^!-~]|"', "", said)


def _path(said: str) -> str:
    return re.sub(r'[^!-~]|["\\]', "", said)


def _label(said: str) -> str:
    return re.sub(r"[^A-Za-z0-9]", "", said)[:60] or "x"


def _manifest(**fields: Any) -> web.Response:
    return web.Response(body=json.dumps({"schemaVersion": 2, **fields}), headers={"Content-Type": "application/json"})


def clean(stage: Stage, *secrets: str) -> None:
    """Nothing of the secrets, no control characters and nothing without measure is anywhere for people to see."""
    shown = stage.shown()
    for each in secrets:
        assert told(each, shown) == []
    values = [*stage.world.lines, *_texts(stage)]
    assert [value for value in values if re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u202f]", value)] == []
    assert max(map(len, values)) < 2000


def _texts(stage: Stage) -> list[str]:
    """Every text of status and Events."""
    found: list[str] = []

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            for each in value.values():
                walk(each)
        elif isinstance(value, list):
            for each in value:
                walk(each)
        elif isinstance(value, str):
            found.append(value)

    for resource in (("image.openshift.io/v1", "imagestreams"), ("v1", "events")):
        for each in stage.api.all(*resource):
            walk(each.get("status", each))
    return found


async def echoing(world: World, auth: Auth, parts: Iterable[int]) -> tuple[Stage, set[str]]:
    """Import from registries that say back what they were sent, each in another way; gives all that they had to say."""
    heard: set[str] = set()
    for name in ("auth.corp.example", "nowhere.example"):
        (await world.server(name)).reply(404)

    def echo(registry: NamedRegistry, how: Echo, part: int) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def answer(request: web.Request) -> web.StreamResponse:
            said = echoes(request.headers.get("Authorization", ""))
            heard.update(said)
            return how(said[part]) if said else await registry.answer(request)

        return answer

    names: dict[str, str] = {}
    for number, (how, part) in enumerate(itertools.product(ECHOES, parts)):
        registry = await world.registry(f"r{number}.corp.example", auth=auth, users={"dev": PASSWORD})
        registry.script(echo(registry, ECHOES[how], part))
        names[f"t{number}"] = registry.name
    stage = await world.play()
    await stage.played(
        secret("pull", **{"*.corp.example": f"dev:{PASSWORD}"}),
        stream("web", **{tag: f"{name}/acme/web:stable" for tag, name in names.items()}),
        *(
            {**stream(f"all-{tag}"), "spec": {"dockerImageRepository": f"{name}/acme/web"}}
            for tag, name in names.items()
        ),
    )
    assert {stage.reason("web", tag) for tag in names}.isdisjoint({"", "Imported"})
    return stage, heard


async def test_a_registry_says_back_the_password_that_it_was_sent(world: World):
    stage, heard = await echoing(world, "htpasswd", range(3))
    assert PASSWORD in heard
    clean(stage, PASSWORD)


async def test_a_registry_says_back_the_token_that_it_was_sent(world: World):
    stage, heard = await echoing(world, "token", range(1))
    assert len(heard) >= len(ECHOES)
    clean(stage, PASSWORD, *heard)


async def test_a_token_service_says_back_the_password_that_it_was_sent(world: World):
    async def echo(request: web.Request) -> web.StreamResponse:
        said = echoes(request.headers.get("Authorization", ""))
        body = {
            "errors": [{"code": each, "message": each} for each in said],
            "details": said,
            "token": [*said, CONTROL],
        }
        status = int((request.query["scope"]).partition("/status-")[2].partition(":")[0])
        return web.Response(status=status, body=json.dumps(body), headers={"Retry-After": _header(said[-1])})

    tags = {}
    for status in (200, 400, 401, 403, 429, 500):
        corp = await world.registry(f"r{status}.corp.example", auth="token", users={"dev": PASSWORD})
        assert corp.tokens is not None
        corp.tokens.script(echo)
        tags[f"t{status}"] = f"{corp.name}/acme/status-{status}:stable"
    stage = await world.play()
    await stage.played(secret("pull", **{"*.corp.example": f"dev:{PASSWORD}"}), stream("web", **tags))
    assert told(PASSWORD, world.heard()) != []
    assert {stage.reason("web", tag) for tag in tags}.isdisjoint({"", "Imported"})
    clean(stage, PASSWORD)


async def test_an_error_has_control_characters_and_megabytes(world: World):
    message = CONTROL + "\n2026-01-05 error level=fatal" * 10
    tags = {}
    for number, (status, size) in enumerate(itertools.product((200, 400, 401, 403, 404, 429, 503), (1, 30_000))):
        evil = await world.registry(f"r{number}.evil.example")
        body = json.dumps({"errors": [{"code": message, "message": message * size}], "mediaType": message})
        realm = f'Bearer realm="https://x/{"y" * 3000}"'
        evil.reply(status, body, {"WWW-Authenticate": realm, "Content-Type": "text/x"})
        tags[f"t{number}"] = f"{evil.name}/acme/web"
    stage = await world.play()
    await stage.played(
        stream("web", **tags),
        *({**stream(f"all-{tag}"), "spec": {"dockerImageRepository": name}} for tag, name in tags.items()),
    )
    assert {stage.reason("web", tag) for tag in tags}.isdisjoint({"", "Imported"})
    assert "level=fatal" not in stage.shown()
    clean(stage)


# --- other namespaces' streams ----------------------------------------------------------------------------------------


async def test_a_tag_of_another_namespace_tells_whether_it_exists(world: World):
    """Neither in conditions, Events, logs or reviews, nor on workloads, whatever the other has; until there is a right,
    and not any more after it is gone.
    """
    good = await world.registry("good.example")
    good.add("shop/base", "stable", A)
    late = await world.registry("late.example")
    late.add("shop/base", "one", A)
    stage = await world.play({"registry_pulls": ["late.example=1/24h"]})
    await stage.teller.play({"rights": {"acme": []}})
    await stage.played(stream("first", "shop", one="late.example/shop/base:one"))
    await stage.played(
        stream(
            "base",
            "shop",
            stable="good.example/shop/base:stable",
            broken="nowhere.example/x/y:z",
            late="late.example/shop/base:late",
        ),
        follower("loop", "shop", of="acme", stable="circle:stable"),
    )
    assert (stage.tag("shop/base", "late"), stage.reason("shop/base", "broken")) == ({}, "DNS")
    world.lines.clear()
    stage.journal.ever.clear()
    names = {
        "q-there": "base:stable",
        "q-failing": "base:broken",
        "q-tagless": "base:none",
        "q-absent": "ghost:stable",
        "q-late": "base:late",
    }
    prefix = A.digest.removeprefix("sha256:")[:12]
    for name, of in names.items():
        await stage.played(follower(name, of="shop", stable=of), deployment(name, f"shop/{of}"))
    for name, of in (("found", f"base@{prefix}"), ("unfound", "base@" + "f" * 12), ("nowhere", f"ghost@{prefix}")):
        made = follower(name, of="shop", stable=of)
        made["spec"]["tags"][0]["from"]["kind"] = "ImageStreamImage"
        await stage.played(made)
    await stage.played(follower("circle", of="shop", stable="loop:stable"))
    assert A.digest not in stage.shown()

    def same(text: str, name: str, of: str) -> str:
        text = text.replace(f"shop/{of}", "shop/OF").replace(of, "OF")
        return re.sub(rf"\b{name}\b", "NAME", text)

    def seen(name: str, of: str) -> tuple[str, ...]:
        events = [each for each in stage.api.all("v1", "events") if each["involvedObject"]["name"] == name]
        lines = [line for line in world.lines if re.search(rf"=(acme/)?{name}( |$)", line)]
        tag = stage.tag(name)
        texts = [
            f"{tag['conditions'][0]['reason']} {tag['conditions'][0]['message']}",
            json.dumps(stage.stream(name)["status"].get("conditions", [])),
            *sorted(f"{each['reason']} {each['message']}" for each in events),
            *sorted(lines),
        ]
        return tuple(same(text, name, of) for text in texts)

    shown = {name: seen(name, of) for name, of in names.items()}
    assert len(set(shown.values())) == 1, shown
    assert len(shown["q-absent"]) >= 4
    images = {
        name: seen(name, of)[:2]
        for name, of in (("found", f"base@{prefix}"), ("unfound", "base@" + "f" * 12), ("nowhere", f"ghost@{prefix}"))
    }
    assert len(set(images.values())) == 1, images
    assert seen("circle", "loop:stable")[:2] == shown["q-absent"][:2]


async def test_a_right_to_pull_that_was_taken_back_is_used_again(world: World):
    good = await world.registry("good.example")
    good.add("shop/base", "stable", A)
    stage = await world.play()
    await stage.teller.play({"rights": {"acme": ["shop/base"]}})
    await stage.played(stream("base", "shop", stable="good.example/shop/base:stable"))
    await stage.played(follower("app", of="shop", stable="base:stable"), deployment("app", "shop/base:stable"))
    first = f"good.example/shop/base@{A.digest}"
    assert stage.items("app") == [first]
    await until(lambda: stage.deployed("app") == first)
    await stage.teller.play({"rights": {"acme": [], "shop": ["shop/base"]}})
    good.add("shop/base", "stable", B)
    await stage.refresh("shop/base")
    await stage.settled()
    assert stage.items("shop/base")[0] == f"good.example/shop/base@{B.digest}"
    stage.journal.ever.clear()
    for nonce in ("1", "2"):
        await stage.refresh("app", nonce)
        await stage.advance("2m")
        await stage.settled()
    await stage.teller.play({"restart": True})
    await stage.settled()
    assert stage.items("app") == [first]
    assert stage.deployed("app") == first
    written = [each for each in stage.journal.ever if each.namespace == "acme" and each.verb != "get"]
    assert B.digest not in "".join(each.body.decode() for each in written)


# --- the installation's secret ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("pull_secrets", ["namespace", "linked"])
async def test_the_installations_secret_is_had_by_a_trick(world: World, pull_secrets: str):
    users = {"everybody": PASSWORD}
    quay = await world.registry("quay.example", auth="htpasswd", users=users)
    for path in ("acme/web", "acme-evil/web", "acmeweb/web", "acme.evil/web", "evil/acme/web", "acme"):
        quay.add(path, "stable", A)
    for name in ("quay.example.evil.test", "xquay.example", "sub.quay.example"):
        (await world.registry(name, auth="htpasswd", users=users)).add("acme/web", "stable", A)
    other_port = await world.server("quay.example", *world._names["quay.example"], port=8443)
    other_port.reply(401, headers={"WWW-Authenticate": 'Basic realm="x"'})
    stage = await world.play(
        {
            "pull_secrets": pull_secrets,
            "install_secret": "everybody",
            "install_secret_namespace": ["acme", "team-*"],
            "install_secret_repository": ["quay.example/acme"],
        }
    )
    login = f"everybody:{PASSWORD}"
    keys = ("quay.example", "*.example", "quay.example.evil.test", "*.quay.example", "quay.example:8443")
    await stage.played(secret("everybody", SYSTEM, **dict.fromkeys(keys, login)))
    elsewhere = (
        "quay.example/acme-evil/web",
        "quay.example/acmeweb/web",
        "quay.example/acme.evil/web",
        "quay.example/evil/acme/web",
        "quay.example:8443/acme/web",
        "quay.example.evil.test/acme/web",
        "xquay.example/acme/web",
        "sub.quay.example/acme/web",
    )
    tags = {f"t{number}": f"{name}:stable" for number, name in enumerate(elsewhere)}
    await stage.played(stream("web", "acme", **tags))
    assert {stage.reason("web", tag) for tag in tags} == {"Unauthorized"}
    # Who is not listed does not get it by the namespace's name, the secret's, or an annotation.
    for namespace in ("acme-evil", "xacme", "steam-a", "shop", "imagestreams"):
        made = stream("web", namespace, stable="quay.example/acme/web:stable")
        names = f"everybody,{SYSTEM}/everybody,../../namespaces/{SYSTEM}/secrets/everybody,%2e%2e/{SYSTEM}/everybody"
        made["metadata"]["annotations"] = {"imagestreams.dev/pull-secrets": names}
        await stage.played(made)
        assert stage.reason(f"{namespace}/web") == "Unauthorized"
        assert "everybody" not in stage.message(f"{namespace}/web")
    # Nor through an insecure tag of one who is listed.
    await stage.played(
        stream("insecure", "acme", policy={"insecure": True}, stable="quay.example/acme/web:stable"),
    )
    assert stage.reason("insecure") == "Unauthorized"
    assert told(PASSWORD, world.heard()) == []
    read = [seen.path for seen in stage.journal.ever if seen.verb == "get" and seen.resource == "secrets"]
    assert [path for path in read if SYSTEM in path and not path.endswith(f"/{SYSTEM}/secrets/everybody")] == []
    for namespace in ("acme", "team-a"):
        await stage.played(
            stream("good", namespace, stable="quay.example/acme/web:stable", whole="quay.example/acme:stable")
        )
        assert stage.reason(f"{namespace}/good") == stage.reason(f"{namespace}/good", "whole") == "Imported"


# --- a forged status --------------------------------------------------------------------------------------------------

_FORGED = "evil.example/acme/web"


FORGED = {
    "no digest": {"dockerImageReference": f"{_FORGED}:latest", "image": ""},
    "no image": {"dockerImageReference": f"{_FORGED}:latest"},
    "a tag as digest": {"dockerImageReference": f"{_FORGED}:latest", "image": "latest"},
    "a short digest": {"dockerImageReference": f"{_FORGED}:x", "image": "sha256:abc"},
    "upper case": {"dockerImageReference": f"{_FORGED}:x", "image": f"sha256:{'A' * 64}"},
    "a space": {"dockerImageReference": f"{_FORGED} evil", "image": C.digest},
    "a URL": {"dockerImageReference": f"https://{_FORGED}", "image": C.digest},
    "a host": {"dockerImageReference": "evil.example", "image": C.digest},
    "nothing": {"dockerImageReference": "", "image": C.digest},
    "a blocked one": {"dockerImageReference": "blocked.example/a/b:c", "image": C.digest},
    "two digests": {"dockerImageReference": f"{_FORGED}:x@{B.digest}", "image": C.digest},
    "a tag with digest": {"dockerImageReference": f"{_FORGED}:latest", "image": C.digest},
}
PINNED = {"two digests", "a tag with digest"}


async def test_a_forged_status_is_deployed_unpinned(world: World):
    """What is written into a status is a claim: it is pinned by its digest, or not used at all."""
    good = await world.registry("good.example")
    good.hold()
    stage = await world.play({"blocked_registry": ["blocked.example"]})
    objects: list[dict[str, Any]] = []
    for number, item in enumerate(FORGED.values()):
        made = stream(f"web{number}", stable="good.example/acme/web:stable")
        observed = {"kind": "DockerImage", "name": "good.example/acme/web:stable", "generation": 1, "digest": A.digest}
        since = {"lastTransitionTime": "2025-01-01T00:00:00Z"}
        tag = {
            "tag": "stable",
            "items": [{"created": "2025-01-01T00:00:00Z", "generation": 1, **item}],
            "conditions": [{"type": "ImportSuccess", "status": "True", "reason": "Imported", **since}],
            "observed": observed,
        }
        made["status"] = {"dockerImageRepository": "evil.example/acme/local", "tags": [tag]}
        objects += [
            made,
            follower(f"copy{number}", stable=f"web{number}:stable"),
            follower(f"chain{number}", stable=f"copy{number}:stable"),
            follower(f"far{number}", "shop", of="acme", stable=f"web{number}:stable"),
            deployment(f"direct{number}", f"web{number}:stable"),
            deployment(f"through{number}", f"chain{number}:stable"),
            deployment(f"far{number}", f"acme/web{number}:stable", "shop"),
        ]
    await stage.apply(*objects)
    await stage.quiet()
    deployed: dict[str, set[str]] = {}
    for each in stage.api.all("apps/v1", "deployments"):
        name = each["metadata"]["name"].lstrip("adefghirtuo")
        deployed.setdefault(name, set()).add(each["spec"]["template"]["spec"]["containers"][0]["image"])
    pinned = f"{_FORGED}@{C.digest}"
    for number, what in enumerate(FORGED):
        copied = {spec for name in ("copy", "chain", "shop/far") for spec in stage.items(f"{name}{number}")}
        assert deployed[str(number)] == {pinned if what in PINNED else "harmless/web"}, what
        # A blocked image may stand in a history, pinned; it is not deployed.
        assert all(spec.endswith(f"@{C.digest}") for spec in copied), what


async def test_a_forged_observed_keeps_the_real_image_away(world: World):
    """`observed` may say that all was done: a poll, or a request, still finds what the registry has."""
    good = await world.registry("good.example")
    good.add("acme/web", "stable", A)
    stage = await world.play({"interval": "15m"})
    made = stream("web", policy={"scheduled": True}, stable="good.example/acme/web:stable")
    made["status"] = {
        "tags": [
            {
                "tag": "stable",
                "items": [
                    {"created": "2099-01-01T00:00:00Z", "dockerImageReference": f"{_FORGED}:x", "image": C.digest}
                ],
                "observed": {
                    "kind": "DockerImage",
                    "name": "good.example/acme/web:stable",
                    "generation": 1,
                    "digest": C.digest,
                },
            }
        ]
    }
    await stage.played(made, deployment("direct", "web:stable"))
    await stage.advance("16m")
    await stage.settled()
    assert stage.items("web")[0] == f"good.example/acme/web@{A.digest}"
    await until(lambda: stage.deployed("direct") == f"good.example/acme/web@{A.digest}")
    assert stage.stream("web")["status"]["tags"][0]["observed"]["digest"] == A.digest


# --- a broken edit ----------------------------------------------------------------------------------------------------

BROKEN = (
    "blocked: [",
    "blocked: null",
    "blocked: bad.example",
    "blocket: [bad.example]",
    "blocked: [bad.example]\nblocked: []",
    "blocked: []\nhosts: {'https://x': {}}",
    "blocked: []\nallowed: ['*/*:x']",
    "blocked: []\n---\nblocked: []",
    "a: &a []\nblocked: *a",
    "blocked: !!python/object/apply:os.system [id]",
    "blocked: []\nhosts: {x.example: {insecure: maybe}}",
    "blocked: []\nhosts: {x.example: {ca: '-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----'}}",
    f"blocked: [{', '.join(['x.example'] * 1001)}]",
    "- blocked",
    "{" * 30,
    "\x01",
)


async def test_a_broken_edit_opens_what_was_blocked(world: World):
    bad = await world.registry("bad.example")
    bad.add("acme/web", "stable", A)
    stage = await world.play()
    await stage.apply(registries("blocked: [bad.example]"))
    sources = stage.teller.controller._access._sources
    await until(lambda: sources.layers)
    await stage.played(stream("web", stable="bad.example/acme/web:stable"))
    assert stage.reason("web") == "Blocked"
    wholes = [{"registries.yaml": text} for text in BROKEN] + [{"registries.yml": "{}"}, {}]
    for number, data in enumerate(wholes):
        await stage.apply(config_map("imagestreams-registries", SYSTEM, **data))
        await stage.refresh("web", f"n{number}")
        await stage.settled()
        assert stage.reason("web") == "Blocked", data
        assert bad.requests == [], data
        assert "configmap" in sources.problems, data
    # Who starts with what cannot be read asks nobody at all.
    await stage.apply(registries(BROKEN[0]))
    await stage.teller._process.aclose()
    world.lines.clear()
    starting = asyncio.create_task(stage.teller._start())
    await until(lambda: any("registries not read" in line for line in world.lines))
    await asyncio.wait([starting], timeout=0.5)
    assert not starting.done()
    assert bad.requests == []
    await stage.apply(registries("blocked: [bad.example]"))
    await starting


# --- what registries answer -------------------------------------------------------------------------------------------


async def _endless(request: web.Request) -> web.StreamResponse:
    """A byte now and then, for ever."""
    answer = web.StreamResponse(headers={"Content-Type": OCI_MANIFEST})
    await answer.prepare(request)
    while True:
        await answer.write(b" ")
        await asyncio.sleep(0.05)


async def _huge(request: web.Request) -> web.StreamResponse:
    """A hundred megabytes, and not said before."""
    answer = web.StreamResponse(headers={"Content-Type": OCI_MANIFEST})
    await answer.prepare(request)
    for _ in range(1600):
        await answer.write(b" " * 65536)
    return answer


def _index_of(count: int) -> bytes:
    entry = {"mediaType": OCI_MANIFEST, "digest": A.digest, "size": len(A.manifest)}
    return json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry] * count}).encode()


async def test_an_answer_is_without_measure(world: World):
    """It fails, with few words, and nobody else waits for it."""
    deep, number = b'{"a":' * 100_000 + b"1" + b"}" * 100_000, b'{"schemaVersion":' + b"9" * 1_000_000 + b"}"
    answers: dict[str, tuple[Any, str]] = {
        "100 MB": (_huge, "TooLarge"),
        "endless": (_endless, "Timeout"),
        "an index of 10,000": (_index_of(10_000), "TooLarge"),
        "deep objects": (deep, "InvalidAnswer"),
        "deep lists": (b"[" * 1_000_000, "InvalidAnswer"),
        "a long number": (number, "InvalidAnswer"),
        "no UTF-8": (b"\xff\xfe" * 1000, "InvalidAnswer"),
        "compressed": (None, "InvalidAnswer"),
    }
    good = await world.registry("good.example")
    good.add("acme/web", "stable", A)
    names = {}
    for each, (answer, _) in answers.items():
        evil = await world.registry(f"r{len(names)}.evil.example")
        names[each] = evil
        if callable(answer):
            evil.script(answer)
        elif answer is None:
            evil.reply(200, b"\x1f\x8b" + b"\0" * 1000, {"Content-Type": OCI_MANIFEST, "Content-Encoding": "gzip"})
        else:
            serve(evil, answer, OCI_INDEX if each.startswith("an index") else OCI_MANIFEST)
    stage = await world.play({"request_timeout": "2s", "connect_timeout": "1s"})
    for mode in ("PreserveOriginal", "Legacy"):
        tags = {f"t{n}": f"{evil.name}/acme/{mode.lower()}:{n}" for n, evil in enumerate(names.values())}
        await stage.apply(stream(mode.lower(), "evil", policy={"importMode": mode}, **tags))
    await stage.apply(stream("web", "good", stable="good.example/acme/web:stable"))
    await until(lambda: stage.reason("good/web") == "Imported", seconds=2)
    await stage.settled(20)
    for mode in ("preserveoriginal", "legacy"):
        reasons = {each: stage.reason(f"evil/{mode}", f"t{number}") for number, each in enumerate(answers)}
        assert reasons == {each: reason for each, (_, reason) in answers.items()}
        assert "compressed" in stage.message(f"evil/{mode}", f"t{len(answers) - 1}")
    assert max(len(evil.requests) for evil in names.values()) == 2
    clean(stage)


@pytest.mark.parametrize("link", ["itself", "another page for ever", "another host", "empty pages"])
async def test_a_list_of_tags_has_no_end(world: World, link: str):
    evil = await world.registry("evil.example")
    stranger = await world.registry("stranger.example")
    stranger.add("acme/web", "stolen", A)
    pages = 0

    async def page(request: web.Request) -> web.StreamResponse:
        nonlocal pages
        pages += 1
        where = "https://stranger.example/v2/acme/web/tags/list" if link == "another host" else request.path
        query = {"itself": request.query_string, "another host": "n=1"}.get(link, f"n=100&last=t{pages:07}")
        tags = [] if link == "empty pages" else [f"t{pages:07}"]
        headers = {"Link": f'<{where}?{query}>; rel="next"'}
        return web.json_response({"name": "acme/web", "tags": tags}, headers=headers)

    evil.script(page, path="tags/list")
    stage = await world.play({"repository_tags": 3})
    made = {**stream("all", "evil"), "spec": {"dockerImageRepository": "evil.example/acme/web"}}
    await stage.played(made)
    assert pages <= 200
    assert stranger.requests == []
    assert len(stage.stream("evil/all")["status"].get("tags") or []) <= 3
    pages_before = pages
    await stage.advance("1m")
    await stage.settled()
    assert pages <= 2 * pages_before + 1


async def test_a_repository_has_five_thousand_tags(world: World):
    """As many as are allowed are looked up, the status stays small enough for etcd, and others do not wait for it."""
    evil, good = await world.registry("shared.example"), await world.registry("good.example")
    for number in range(5000):
        evil.add("evil/web", f"v{number:04}-{'x' * 100}", A)
    evil.add("good/web", "stable", B)
    stage = await world.play()
    made = {**stream("all", "evil"), "spec": {"dockerImageRepository": "shared.example/evil/web"}}
    await stage.apply(made)
    await until(lambda: len(evil.requests) > 20)
    await stage.apply(stream("web", "good", stable="shared.example/good/web:stable"))
    await until(lambda: stage.reason("good/web") == "Imported", seconds=5)
    assert len([asked for asked in evil.asked() if "evil/web" in asked]) < 900
    await until(lambda: stage.stream("evil/all").get("status", {}).get("repository"), seconds=60)
    await stage.settled(60)
    status = stage.stream("evil/all")["status"]
    assert len([asked for asked in evil.asked() if asked.startswith("GET evil/web")]) <= 1000
    assert len(status["tags"]) <= 1000
    assert (status["repository"]["found"], status["repository"]["limit"]) == (5000, 1000)
    assert len(json.dumps(stage.stream("evil/all"))) < 1_200_000
    assert good.requests == []


# --- everything that is said ------------------------------------------------------------------------------------------


async def test_a_secret_is_read_anywhere(world: World, caplog: pytest.LogCaptureFixture):
    """A round of everything that has a secret, good and bad, and while it is under way: no status, Event, log or metric
    holds one in any spelling.
    """
    names = ("basic", "identity", "proxied", "installed", "stale")
    basic, identity, proxied, installed, stale = (f"{name}/s3cr3t:{name}+%7E" for name in names)
    one = await world.registry("one.example", auth="htpasswd", users={"dev": basic})
    two = await world.registry("two.example", auth="token", users={"dev": basic})
    three = await world.registry("three.example", auth="token", users={"everybody": installed})
    assert two.tokens is not None
    assert three.tokens is not None
    two.tokens.identities = {identity: "dev"}
    for registry in (one, two, three):
        registry.add("acme/web", "stable", A)
        registry.add("acme/web", "held", B)
        registry.hold(path="manifests/held")
    proxy = await world.proxy("us:er".replace(":", "") + f":{OTHER}")
    refusing = await world.proxy(f"proxy:{proxied}")
    refusing.status = 502
    quoted = refusing.url
    stage = await world.play(
        {
            "registry_proxy": [f"one.example={proxy.url}", f"closed.example={quoted}"],
            "mirror": ["one.example/mirrored=two.example/acme"],
            "install_secret": "everybody",
            "install_secret_namespace": ["acme"],
            "install_secret_repository": ["three.example/acme"],
            "image_objects": "false",
        }
    )
    config = {"auths": {"two.example": {"identitytoken": identity}}}
    exchange = {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "kubernetes.io/dockerconfigjson",
        "metadata": {"name": "exchange"},
        "data": {".dockerconfigjson": base64.b64encode(json.dumps(config).encode()).decode()},
    }
    broken = {
        **exchange,
        "metadata": {"name": "broken", "annotations": {"kubectl.kubernetes.io/last-applied-configuration": stale}},
        "data": {".dockerconfigjson": base64.b64encode(f'{{"auths":{{"x":{{"auth":"{stale}"}}}}}}'.encode()).decode()},
    }
    tags = {
        "one": "one.example/acme/web:stable",
        "two": "two.example/acme/web:stable",
        "three": "three.example/acme/web:stable",
        "mirrored": "one.example/mirrored/web:stable",
        "closed": "closed.example/acme/web:stable",
        "nothing": "one.example/acme/web:nothing",
        "denied": "two.example/acme/denied:stable",
    }
    await stage.played(
        secret("a-stale", **{"one.example": f"dev:{stale}", "three.example": f"old:{stale}"}),
        secret("b-good", **{"one.example": f"dev:{basic}"}),
        secret("everybody", SYSTEM, **{"three.example": f"everybody:{installed}"}),
        exchange,
        broken,
        stream("web", **tags),
    )
    for tag in ("one", "two", "three", "mirrored"):
        assert stage.reason("web", tag) == "Imported", stage.message("web", tag)
    held_tags = {name: f"{name}.example/acme/web:held" for name in ("one", "two", "three")}
    await stage.apply(stream("held", **held_tags))
    await until(lambda: all(f"GET acme/web:held" in each.asked() for each in (one, two, three)))  # noqa: F541
    tokens = {seen.authorization for each in (two, three) for seen in each.requests if "Bearer" in seen.authorization}
    assert len(tokens) >= 2
    secrets = [basic, identity, proxied, installed, stale, OTHER, *(each.partition(" ")[2] for each in tokens)]
    heard = world.heard()
    assert all(told(each, heard) for each in (basic, installed, stale, OTHER))
    for registry in (one, two, three):
        registry.release()
    await stage.settled()
    await stage.refresh("web")
    await stage.settled()
    assert stage.reason("held", "one") == "Imported"
    shown = stage.shown() + caplog.text
    for each in secrets:
        assert told(each, shown) == []
    assert world.lines


async def test_a_repr_shows_a_secret_that_is_being_sent(world: World):
    one = await world.registry("one.corp.example", auth="htpasswd", users={"dev": PASSWORD})
    two = await world.registry("two.corp.example", auth="token", users={"dev": PASSWORD})
    for registry in (one, two):
        registry.add("acme/web", "stable", A)
    stage = await world.play()
    tags = {"one": "one.corp.example/acme/web:stable", "two": "two.corp.example/acme/web:stable"}
    await stage.played(secret("pull", **{"*.corp.example": f"dev:{PASSWORD}"}), stream("web", **tags))
    assert stage.reason("web", "one") == stage.reason("web", "two") == "Imported"
    for registry in (one, two):
        registry.requests.clear()
        registry.hold()
    await stage.apply(stream("held", **tags))
    await until(lambda: one.requests and two.requests)
    sent = {seen.authorization.partition(" ")[2] for registry in (one, two) for seen in registry.requests}
    assert len(sent) == 2
    ours = [each for each in gc.get_objects() if str(type(each).__module__).startswith("imagestreams.")]
    assert {"Lookup", "Ticket", "Credential", "Request", "Token"} <= {type(each).__name__ for each in ours}
    shown: dict[str, str] = {}
    for each in ours:
        shown[type(each).__name__] = shown.get(type(each).__name__, "") + repr(each)
    assert {name for name, text in shown.items() if any(told(it, text) for it in (PASSWORD, *sent))} == set()
