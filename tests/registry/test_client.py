"""Lookups against a registry at a socket: what they resolve to, what they cost, and what they refuse."""

import asyncio
import gzip
import json
from dataclasses import replace

import pytest

from dev.images import (
    DOCKER_SCHEMA1,
    OCI_INDEX,
    OCI_MANIFEST,
    digest_of,
    helm_chart,
    image,
    index,
    schema1,
)
from imagestreams.core.keychain import Credential
from imagestreams.core.lookup import ImportMode, Lookup, Served
from imagestreams.core.manifest import ACCEPT, Platform
from imagestreams.core.reference import ImageReference
from imagestreams.registry.errors import (
    Forbidden,
    InvalidAnswer,
    NotAnImage,
    NotFound,
    TooLarge,
    TooManyRequests,
    Unauthorized,
    Unavailable,
    Unreachable,
)
from imagestreams.registry.transport import MANIFEST_CAP, TOKEN_CAP, Timeouts
from tests.fakes.registry import FakeRegistry, errors_body

WEB = image()
ARM = image(architecture="arm64", variant="v8", text="arm")
BOTH = index([WEB, ARM], attestations=True)
LEGACY = ImportMode.LEGACY
GOOD = Credential("dev", "correct-horse", "good")
BAD = Credential("dev", "wrong", "bad")


def lookup(registry, name="acme/web:latest", *credentials, **changes):
    options = {"mode": ImportMode.PRESERVE_ORIGINAL, "prefer": None, "known": None}
    transport = changes.pop("transport", registry.transport())
    reference = ImageReference.parse(f"{registry.host}/{name}")
    return Lookup(reference, transport, credentials, **{**options, **changes})


@pytest.fixture
async def registry():
    async with FakeRegistry() as started:
        yield started


@pytest.fixture
async def guarded():
    """A registry that wants tokens."""
    async with FakeRegistry(auth="token") as started:
        yield started


# --- what a lookup costs ----------------------------------------------------------------------------------------------


async def test_a_tag_never_seen_is_read_at_once(registry, client):
    registry.add("acme/web", "latest", WEB)
    resolved = await client.look_up(lookup(registry))
    assert resolved.served == Served(WEB.digest, WEB.digest)
    assert registry.asked() == ["GET acme/web:latest"]
    assert registry.requests[0].headers["Accept"] == ACCEPT
    assert registry.requests[0].headers["Accept-Encoding"] == "identity"


async def test_an_unchanged_tag_costs_one_head(registry, client):
    registry.add("acme/web", "latest", BOTH)
    known = Served(BOTH.digest, ARM.digest)
    for _ in range(3):
        assert (await client.look_up(lookup(registry, known=known, mode=LEGACY))).served == known
    assert registry.asked() == ["HEAD acme/web:latest"] * 3


async def test_a_moved_tag_costs_a_head_and_a_get_by_digest(registry, client):
    registry.add("acme/web", "latest", ARM)
    resolved = await client.look_up(lookup(registry, known=Served(WEB.digest, WEB.digest)))
    assert resolved.served.digest == ARM.digest
    assert registry.asked() == ["HEAD acme/web:latest", f"GET acme/web@{ARM.digest}"]


async def test_a_digest_that_was_read_before_is_not_read_again(registry, client):
    registry.add("acme/web", "latest", BOTH)
    await client.look_up(lookup(registry, mode=LEGACY))
    registry.requests.clear()
    known = Served(WEB.digest, WEB.digest)
    resolved = await client.look_up(lookup(registry, mode=LEGACY, known=known))
    assert resolved.served == Served(BOTH.digest, WEB.digest)
    assert registry.asked() == ["HEAD acme/web:latest"]


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"prefer": Platform("linux", "arm64")}, id="another platform"),
        pytest.param({"mode": ImportMode.PRESERVE_ORIGINAL}, id="another mode"),
    ],
)
async def test_a_digest_is_read_again_for_another_rule(registry, client, changes):
    registry.add("acme/web", "latest", BOTH)
    await client.look_up(lookup(registry, mode=LEGACY))
    registry.requests.clear()
    await client.look_up(lookup(registry, **{"mode": LEGACY, "known": Served(WEB.digest, WEB.digest), **changes}))
    assert registry.asked()[:2] == ["HEAD acme/web:latest", f"GET acme/web@{BOTH.digest}"]


async def test_what_one_credential_has_read_serves_no_other(guarded, client):
    guarded.users["other"] = guarded.tokens.users["other"] = "pw"
    guarded.add("acme/web", "latest", WEB)
    known = Served(ARM.digest, ARM.digest)
    for credential in (GOOD, Credential("other", "pw", "other")):
        guarded.requests.clear()
        await client.look_up(lookup(guarded, "acme/web:latest", credential, known=known))
        assert f"GET acme/web@{WEB.digest}" in guarded.asked()


async def test_without_a_tag_it_is_latest(registry, client):
    registry.add("acme/web", "latest", WEB)
    await client.look_up(lookup(registry, "acme/web"))
    assert registry.asked() == ["GET acme/web:latest"]


async def test_a_digest_is_read_by_digest(registry, client):
    registry.add("acme/web", "latest", WEB)
    wanted = lookup(registry, f"acme/web:ignored@{WEB.digest}")
    assert (await client.look_up(wanted)).served == Served(WEB.digest, WEB.digest)
    assert registry.asked() == [f"GET acme/web@{WEB.digest}"]


async def test_a_known_digest_is_asked_for_whether_it_is_still_there(registry, client):
    registry.add("acme/web", "latest", WEB)
    wanted = lookup(registry, f"acme/web@{WEB.digest}", known=Served(WEB.digest, WEB.digest))
    await client.look_up(wanted)
    del registry.repositories["acme/web"]
    with pytest.raises(NotFound):
        await client.look_up(wanted)
    assert registry.asked() == [f"HEAD acme/web@{WEB.digest}"] * 2


async def test_a_digest_that_no_registry_can_have_is_not_asked_for(registry, client):
    with pytest.raises(NotFound, match="lower case"):
        await client.look_up(lookup(registry, f"acme/web@sha256:{'A' * 64}"))
    assert registry.requests == []


# --- what it resolves to ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("media", ["oci", "docker"])
@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        pytest.param({}, None, id="the index"),
        pytest.param({"mode": LEGACY}, "amd64", id="linux/amd64"),
        pytest.param({"mode": LEGACY, "prefer": Platform("linux", "arm64")}, "arm64", id="the preferred"),
        pytest.param({"mode": LEGACY, "prefer": Platform("plan9", "mips")}, "amd64", id="none is preferred"),
    ],
)
async def test_an_index_resolves_by_mode_and_platform(registry, client, media, rule, expected):
    children = {arch: image(media=media, architecture=arch, text=arch) for arch in ("arm64", "amd64")}
    both = index(list(children.values()), media=media)
    registry.add("acme/web", "latest", both)
    served = (await client.look_up(lookup(registry, **rule))).served
    assert served == Served(both.digest, children[expected].digest if expected else both.digest)
    assert len(registry.requests) == (2 if expected else 1)


def nested(depth):
    """An index in an index ...: its documents from the outside to the image."""
    documents = [(WEB.media_type, WEB.manifest)]
    for _ in range(depth):
        media_type, inner = documents[0]
        descriptor = {"mediaType": media_type, "digest": digest_of(inner), "size": len(inner)}
        outer = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [descriptor]}).encode()
        documents.insert(0, (OCI_INDEX, outer))
    return documents


async def test_an_index_may_name_an_index(registry, client):
    for media_type, body in reversed(nested(2)):
        digest = registry.put("acme/web", "latest", media_type, body)
    assert (await client.look_up(lookup(registry, mode=LEGACY))).served == Served(digest, WEB.digest)


async def test_indexes_nested_deeper_are_refused(registry, client):
    for media_type, body in reversed(nested(3)):
        registry.put("acme/web", "latest", media_type, body)
    with pytest.raises(InvalidAnswer, match="nested"):
        await client.look_up(lookup(registry, mode=LEGACY))
    assert len(registry.requests) == 3


@pytest.mark.parametrize("mode", list(ImportMode))
@pytest.mark.parametrize(
    ("media_type", "body"),
    [
        pytest.param(OCI_MANIFEST, helm_chart().manifest, id="Helm chart"),
        pytest.param(DOCKER_SCHEMA1, schema1(), id="schema 1"),
    ],
)
async def test_what_is_no_image_is_not_imported(registry, client, mode, media_type, body):
    registry.put("acme/web", "latest", media_type, body)
    with pytest.raises(NotAnImage, match="acme/web:latest: "):
        await client.look_up(lookup(registry, mode=mode))


@pytest.mark.parametrize(
    ("media_type", "body"),
    [
        pytest.param("text/html", b"<html>log in</html>", id="a login page"),
        pytest.param(OCI_INDEX, WEB.manifest, id="an image that says it is an index"),
        pytest.param(OCI_MANIFEST, b"{", id="broken JSON"),
        pytest.param(OCI_MANIFEST, b"", id="nothing"),
    ],
)
async def test_what_is_no_manifest_is_refused(registry, client, media_type, body):
    registry.put("acme/web", "latest", media_type, body)
    with pytest.raises(InvalidAnswer):
        await client.look_up(lookup(registry))


async def test_a_child_that_the_registry_does_not_have_is_told(registry, client):
    registry.put("acme/web", "latest", BOTH.media_type, BOTH.manifest)
    with pytest.raises(NotFound, match=r"does not have sha256:.*, which its index names"):
        await client.look_up(lookup(registry, mode=LEGACY))


async def test_a_child_of_another_size_is_refused(registry, client):
    liar = BOTH.manifest.replace(b'"size":%d' % len(WEB.manifest), b'"size":%d' % (len(WEB.manifest) + 1))
    registry.add("acme/web", None, WEB)
    registry.put("acme/web", "latest", BOTH.media_type, liar)
    with pytest.raises(InvalidAnswer, match="another size"):
        await client.look_up(lookup(registry, mode=LEGACY))


async def test_a_child_over_the_cap_is_not_asked_for(registry, client):
    huge = BOTH.manifest.replace(b'"size":%d' % len(WEB.manifest), b'"size":%d' % (MANIFEST_CAP + 1))
    registry.put("acme/web", "latest", BOTH.media_type, huge)
    with pytest.raises(TooLarge):
        await client.look_up(lookup(registry, mode=LEGACY))
    assert len(registry.requests) == 1


# --- digests ----------------------------------------------------------------------------------------------------------


async def test_the_bytes_must_have_the_digest_that_was_asked_for(registry, client):
    registry.reply(200, ARM.manifest, {"Content-Type": ARM.media_type})
    with pytest.raises(InvalidAnswer, match="digest"):
        await client.look_up(lookup(registry, f"acme/web@{WEB.digest}"))


async def test_the_bytes_must_have_the_digest_that_is_claimed(registry, client):
    registry.reply(200, ARM.manifest, {"Content-Type": ARM.media_type, "Docker-Content-Digest": WEB.digest})
    with pytest.raises(InvalidAnswer, match="digest"):
        await client.look_up(lookup(registry))


async def test_a_child_must_have_its_digest(registry, client):
    registry.put("acme/web", "latest", BOTH.media_type, BOTH.manifest)
    registry.reply(200, ARM.manifest, {"Content-Type": ARM.media_type}, path=WEB.digest)
    with pytest.raises(InvalidAnswer, match="digest"):
        await client.look_up(lookup(registry, mode=LEGACY))


async def test_a_head_that_lies_convinces_nobody(registry, client):
    registry.add("acme/web", "latest", WEB)
    registry.reply(200, headers={"Docker-Content-Digest": ARM.digest}, method="HEAD")
    registry.reply(200, WEB.manifest, {"Content-Type": WEB.media_type}, path=ARM.digest)
    with pytest.raises(InvalidAnswer):
        await client.look_up(lookup(registry, known=Served(WEB.digest, WEB.digest)))


async def test_without_a_claim_the_digest_comes_from_the_bytes(registry, client):
    registry.reply(200, WEB.manifest, {"Content-Type": WEB.media_type})
    assert (await client.look_up(lookup(registry))).served.digest == WEB.digest


async def test_a_registry_may_claim_another_algorithm(registry, client):
    import hashlib

    digest = f"sha512:{hashlib.sha512(WEB.manifest).hexdigest()}"
    registry.reply(200, WEB.manifest, {"Content-Type": WEB.media_type, "Docker-Content-Digest": digest})
    assert (await client.look_up(lookup(registry))).served == Served(digest, digest)


# --- registries that answer HEAD badly --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        pytest.param(405, {}, id="405"),
        pytest.param(501, {}, id="501"),
        pytest.param(200, {}, id="no digest"),
        pytest.param(200, {"Docker-Content-Digest": "sha256:short"}, id="no digest that could be one"),
        pytest.param(200, {"Docker-Content-Digest": f"md5:{'0' * 32}"}, id="a digest of another kind"),
    ],
)
async def test_a_registry_that_answers_head_badly_is_asked_by_get_for_a_while(registry, client, clock, status, headers):
    registry.add("acme/web", "latest", WEB)
    registry.reply(status, headers=headers, method="HEAD")
    known = Served(WEB.digest, WEB.digest)
    for _ in range(2):
        assert (await client.look_up(lookup(registry, known=known))).served == known
    assert registry.asked() == ["HEAD acme/web:latest", "GET acme/web:latest", "GET acme/web:latest"]
    clock.advance(hours=1)
    await client.look_up(lookup(registry, known=known))
    assert registry.asked()[3:] == ["HEAD acme/web:latest", "GET acme/web:latest"]


async def test_one_question_that_a_head_cannot_answer_is_not_held_against_the_host(registry, client):
    registry.add("acme/web", "latest", WEB)
    registry.reply(400, method="HEAD", path="weird")
    known = Served(WEB.digest, WEB.digest)
    with pytest.raises(NotFound):
        await client.look_up(lookup(registry, "acme/weird:latest", known=known))
    await client.look_up(lookup(registry, known=known))
    assert registry.asked() == ["HEAD acme/weird:latest", "GET acme/weird:latest", "HEAD acme/web:latest"]


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("known", [None, Served(WEB.digest, WEB.digest)])
@pytest.mark.parametrize(
    ("status", "expected"),
    [(404, NotFound), (403, Forbidden), (429, TooManyRequests), (500, Unavailable), (503, Unavailable)],
)
async def test_a_status_is_an_error(registry, client, known, status, expected):
    registry.reply(status)
    with pytest.raises(expected):
        await client.look_up(lookup(registry, known=known))
    assert len(registry.requests) == 1


async def test_a_missing_tag_is_not_found_under_its_canonical_name(registry, client):
    with pytest.raises(NotFound, match=f'^container image "{registry.host}/acme/web:latest" not found$'):
        await client.look_up(lookup(registry, "acme/web"))


async def test_retry_after_is_told(registry, client):
    registry.reply(429, headers={"Retry-After": "17"})
    with pytest.raises(TooManyRequests) as caught:
        await client.look_up(lookup(registry))
    assert (caught.value.retry_after, caught.value.fingerprint) == (17.0, "")


async def test_a_throttled_credential_asks_no_more_while_others_do(guarded, client, clock):
    guarded.users["other"] = guarded.tokens.users["other"] = "pw"
    guarded.add("acme/web", "latest", WEB)
    await client.look_up(lookup(guarded, "acme/web:latest", GOOD))
    guarded.reply(429, headers={"Retry-After": "30"}, times=1)
    with pytest.raises(TooManyRequests) as caught:
        await client.look_up(lookup(guarded, "acme/web:latest", GOOD))
    assert caught.value.fingerprint == GOOD.fingerprint
    clock.advance(seconds=10)
    guarded.requests.clear()
    with pytest.raises(TooManyRequests) as caught:
        await client.look_up(lookup(guarded, "acme/api:latest", GOOD))
    assert (caught.value.retry_after, guarded.requests) == (20.0, [])
    await client.look_up(lookup(guarded, "acme/web:latest", Credential("other", "pw", "other")))
    clock.advance(seconds=20)
    await client.look_up(lookup(guarded, "acme/web:latest", GOOD))


async def test_throttled_strangers_do_not_keep_a_credential_from_its_first_login(guarded, client):
    guarded.add("acme/web", "latest", WEB)
    guarded.reply(429, headers={"Retry-After": "30"}, times=1)
    with pytest.raises(TooManyRequests):
        await client.look_up(lookup(guarded))
    await client.look_up(lookup(guarded, "acme/web:latest", GOOD))
    guarded.requests.clear()
    with pytest.raises(TooManyRequests):
        await client.look_up(lookup(guarded))
    assert guarded.requests == []


async def test_a_registry_that_is_not_there_is_unreachable(client, registry):
    gone = lookup(registry)
    await registry.stop()
    with pytest.raises(Unreachable, match="refused the connection"):
        await client.look_up(gone)


async def test_a_lookup_ends_in_time(registry, new_client):
    client = new_client(timeouts=Timeouts(connect=5, idle=5, request=5, lookup=0.05))
    registry.hold()
    with pytest.raises(Unreachable, match="in time"):
        await client.look_up(lookup(registry))


async def test_a_cancelled_lookup_closes_its_connection(registry, client):
    registry.hold()
    task = asyncio.create_task(client.look_up(lookup(registry)))
    await registry.arrived(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    registry.release()
    registry.add("acme/web", "latest", WEB)
    assert (await client.look_up(lookup(registry))).served.digest == WEB.digest


# --- caps -------------------------------------------------------------------------------------------------------------


async def test_a_manifest_of_the_cap_is_read(registry, client):
    padded = WEB.manifest.ljust(MANIFEST_CAP)
    registry.put("acme/web", "latest", WEB.media_type, padded)
    assert (await client.look_up(lookup(registry))).served.digest == digest_of(padded)


async def test_a_manifest_over_the_cap_is_not(registry, client):
    registry.put("acme/web", "latest", WEB.media_type, WEB.manifest.ljust(MANIFEST_CAP + 1))
    with pytest.raises(TooLarge):
        await client.look_up(lookup(registry))


async def test_a_manifest_without_end_is_given_up(registry, client):
    from aiohttp import web

    async def endless(request):
        response = web.StreamResponse(headers={"Content-Type": WEB.media_type})
        await response.prepare(request)
        while True:
            await response.write(b" " * 65536)

    registry.script(endless)
    with pytest.raises(TooLarge):
        await client.look_up(lookup(registry))


async def test_a_compressed_manifest_is_refused(registry, client):
    packed = gzip.compress(WEB.manifest)
    registry.reply(200, packed, {"Content-Type": WEB.media_type, "Content-Encoding": "gzip"})
    with pytest.raises(InvalidAnswer, match="compressed"):
        await client.look_up(lookup(registry))


async def test_an_error_of_any_size_is_an_error(registry, client):
    registry.reply(404, b"x" * (1 << 20))
    with pytest.raises(NotFound):
        await client.look_up(lookup(registry))


async def test_a_token_over_the_cap_is_refused(guarded, client):
    guarded.tokens.reply(200, b'{"token":"%s"}' % (b"x" * TOKEN_CAP))
    with pytest.raises(TooLarge):
        await client.look_up(lookup(guarded))


# --- credentials ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("auth", ["htpasswd", "token"])
async def test_a_login_is_remembered(client, auth):
    async with FakeRegistry(auth=auth) as registry:
        registry.add("acme/web", "latest", WEB)
        wanted = lookup(registry, "acme/web:latest", GOOD, known=Served(WEB.digest, WEB.digest))
        await client.look_up(wanted)
        assert registry.asked() == ["HEAD acme/web:latest"] * 2
        registry.requests.clear()
        await client.look_up(wanted)
        assert registry.asked() == ["HEAD acme/web:latest"]
        if registry.tokens:
            assert registry.tokens.asked() == ["GET /token"]


async def test_what_one_repository_taught_serves_the_next(guarded, client):
    for path in ("acme/web", "acme/api"):
        guarded.add(path, "latest", WEB)
    await client.look_up(lookup(guarded, "acme/web:latest", GOOD))
    guarded.requests.clear()
    await client.look_up(lookup(guarded, "acme/api:latest", GOOD))
    assert guarded.asked() == ["GET acme/api:latest"]
    scopes = [request.query["scope"] for request in guarded.tokens.requests]
    assert scopes == ["repository:acme/web:pull", "repository:acme/api:pull"]


async def test_the_next_credential_is_tried(guarded, client):
    guarded.add("acme/web", "latest", WEB)
    assert (await client.look_up(lookup(guarded, "acme/web:latest", BAD, GOOD))).served.digest == WEB.digest
    guarded.tokens.requests.clear()
    guarded.tokens.revoke()
    await client.look_up(lookup(guarded, "acme/web:latest", BAD, GOOD))
    assert len(guarded.tokens.requests) == 1  # the one that worked goes first


async def test_the_credential_that_worked_goes_first_whatever_others_use(guarded, client):
    guarded.users["other"] = guarded.tokens.users["other"] = "pw"
    for path in ("acme/web", "acme/api"):
        guarded.add(path, "latest", WEB)
    await client.look_up(lookup(guarded, "acme/web:latest", BAD, GOOD))
    await client.look_up(lookup(guarded, "acme/api:latest", Credential("other", "pw", "other")))
    guarded.tokens.revoke()
    guarded.tokens.requests.clear()
    await client.look_up(lookup(guarded, "acme/web:latest", BAD, GOOD))
    assert len(guarded.tokens.requests) == 1


async def test_refused_credentials_are_named(guarded, client):
    guarded.add("acme/web", "latest", WEB)
    guarded.add("public/web", "latest", WEB)
    with pytest.raises(Unauthorized) as caught:
        await client.look_up(lookup(guarded, "public/web:latest", BAD))
    assert 'the credential of secret "bad" (401 UNAUTHORIZED from the token service)' in str(caught.value)
    assert "wrong" not in str(caught.value)
    assert all(request.authorization for request in guarded.tokens.requests)


async def test_without_credentials_what_is_public_is_read_and_the_rest_is_denied(guarded, client):
    guarded.add("acme/web", "latest", WEB)
    guarded.add("public/web", "latest", WEB)
    assert (await client.look_up(lookup(guarded, "public/web:latest"))).served.digest == WEB.digest
    with pytest.raises(Unauthorized, match="there is no credential for it"):
        await client.look_up(lookup(guarded, "acme/web:latest"))
    assert not any(request.authorization for request in guarded.tokens.requests)


async def test_a_token_lives_for_most_of_its_life(guarded, client, clock):
    guarded.add("acme/web", "latest", WEB)
    guarded.tokens.life = 100
    wanted = lookup(guarded, "acme/web:latest", GOOD)
    for seconds, tokens in [(0, 1), (79, 1), (1, 2)]:
        clock.advance(seconds=seconds)
        await client.look_up(wanted)
        assert len(guarded.tokens.requests) == tokens


async def test_a_revoked_token_is_fetched_again(guarded, client):
    guarded.add("acme/web", "latest", WEB)
    wanted = lookup(guarded, "acme/web:latest", GOOD)
    await client.look_up(wanted)
    guarded.tokens.revoke()
    guarded.requests.clear()
    await client.look_up(wanted)
    assert guarded.asked() == ["GET acme/web:latest"] * 2
    assert len(guarded.tokens.requests) == 2


async def test_a_token_is_asked_for_once_however_many_want_it(guarded, client):
    for tag in range(20):
        guarded.add("acme/web", f"v{tag}", WEB)
    guarded.tokens.hold()
    wanted = [client.look_up(lookup(guarded, f"acme/web:v{tag}", GOOD)) for tag in range(20)]
    tasks = [asyncio.create_task(each) for each in wanted]
    await guarded.arrived(20)
    await guarded.tokens.arrived(1)
    tasks[0].cancel()  # the first to ask; the others still get theirs
    guarded.tokens.release()
    done = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(done[0], asyncio.CancelledError)
    assert all(each.served.digest == WEB.digest for each in done[1:])
    assert len(guarded.tokens.requests) == 1


@pytest.mark.parametrize(
    ("status", "expected"),
    [(429, TooManyRequests), (500, Unavailable), (302, InvalidAnswer), (400, Unauthorized), (404, Unauthorized)],
)
async def test_a_token_service_that_fails_is_told(guarded, client, status, expected):
    guarded.tokens.reply(status, errors_body("UNKNOWN"), {"Retry-After": "7"})
    with pytest.raises(expected) as caught:
        await client.look_up(lookup(guarded, "acme/web:latest", GOOD))
    if status in {429, 500}:
        assert caught.value.retry_after == 7
        assert caught.value.fingerprint == GOOD.fingerprint
        assert "the token service of" in str(caught.value)


async def test_a_token_service_that_is_gone_is_unreachable(guarded, client):
    await guarded.tokens.stop()
    with pytest.raises(Unreachable):
        await client.look_up(lookup(guarded, "acme/web:latest", GOOD))


async def test_a_credential_does_not_go_where_none_may(guarded, client):
    transport = guarded.transport(credentials=False)
    guarded.add("public/web", "latest", WEB)
    await client.look_up(lookup(guarded, "public/web:latest", GOOD, transport=transport))
    with pytest.raises(Unauthorized, match="insecure host"):
        await client.look_up(lookup(guarded, "acme/web:latest", GOOD, transport=transport))
    for request in [*guarded.requests, *guarded.tokens.requests]:
        assert not request.authorization.startswith("Basic")


async def test_a_token_got_over_an_insecure_way_serves_no_other(guarded, client):
    guarded.add("public/web", "latest", WEB)
    for transport in (guarded.transport(), replace(guarded.transport(), insecure=True)):
        await client.look_up(lookup(guarded, "public/web:latest", transport=transport))
    assert len(guarded.tokens.requests) == 2


async def test_a_registrys_words_do_not_bring_a_password_into_a_message(guarded, client):
    leak = f'Bearer realm="{guarded.tokens.url}/{BAD.password}/token",error="{BAD.password}"'
    guarded.reply(401, errors_body(BAD.password), {"WWW-Authenticate": leak})
    guarded.tokens.reply(401, errors_body(BAD.password))
    with pytest.raises(Unauthorized) as caught:
        await client.look_up(lookup(guarded, "acme/web:latest", BAD))
    assert BAD.password not in str(caught.value)
    assert "/***/token" in str(caught.value)


# --- what it tells ----------------------------------------------------------------------------------------------------


async def test_each_request_is_told(guarded, new_client):
    told = []
    client = new_client(on_request=lambda *event: told.append(event))
    guarded.add("acme/web", "latest", WEB)
    wanted = lookup(guarded, "acme/web:latest", GOOD)
    await client.look_up(wanted)
    assert [event[:4] for event in told] == [
        (guarded.host, "GET", "manifest", "401"),
        (guarded.host, "GET", "token", "200"),
        (guarded.host, "GET", "manifest", "200"),
    ]
    assert all(event[4] >= 0 for event in told)
    await guarded.stop()
    told.clear()
    with pytest.raises(Unreachable):
        await client.look_up(wanted)
    assert told[0][:4] == (guarded.host, "GET", "manifest", "error")


def test_a_client_shows_no_secret():
    shown = repr(Lookup(ImageReference.parse("a/b"), None, (GOOD,), LEGACY))
    assert GOOD.password not in shown
