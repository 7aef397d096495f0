"""Lookups against a registry at a socket: what they resolve to, what they cost, and what they refuse."""

import asyncio
import gzip
import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

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
from imagestreams.core.lookup import Description, ImportMode, Listed, Listing, Lookup, Served
from imagestreams.core.manifest import ACCEPT, Platform
from imagestreams.core.policy import HostRule, Rate
from imagestreams.core.reference import ImageReference
from imagestreams.registry.errors import (
    Exhausted,
    Forbidden,
    InvalidAnswer,
    NotAnImage,
    NotFound,
    RateLimited,
    Sign,
    Timeout,
    TooLarge,
    Unauthorized,
    Unavailable,
    Unreachable,
    retry_after,
)
from imagestreams.registry.messages import Step
from imagestreams.registry.paging import MAX_PAGES, PAGE_CAP
from imagestreams.registry.quota import Quota
from imagestreams.registry.transport import BLOB_CAP, MANIFEST_CAP, TOKEN_CAP, Reach, Timeouts
from tests.fakes.registry import FakeRegistry, FakeServer, credentials_in, errors_body

WEB = image()
ARM = image(architecture="arm64", variant="v8", text="arm")
BOTH = index([WEB, ARM], attestations=True)
LEGACY = ImportMode.LEGACY
GOOD = Credential("dev", "correct-horse", "good")
BAD = Credential("dev", "wrong", "bad")
IDENTITY = Credential("", "", "identity", "refresh-me/+=")


def lookup(registry, name="acme/web:latest", *credentials, **changes):
    options = {"mode": ImportMode.PRESERVE_ORIGINAL, "prefer": None, "known": None}
    transport = changes.pop("transport", registry.transport())
    reference = ImageReference.parse(f"{registry.host}/{name}")
    return Lookup(reference, transport, credentials, **{**options, **changes})


def listing(registry, name="acme/web", *credentials, limit=1000, **changes):
    transport = changes.pop("transport", registry.transport())
    return Listing(ImageReference.parse(f"{registry.host}/{name}"), transport, credentials, limit)


def description(registry, digest, *credentials, name="acme/web", **changes):
    transport = changes.pop("transport", registry.transport())
    return Description(ImageReference.parse(f"{registry.host}/{name}@{digest}"), transport, credentials)


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
    with pytest.raises(NotFound, match="lower case") as caught:
        await client.look_up(lookup(registry, f"acme/web@sha256:{'A' * 64}"))
    assert caught.value.sign is Sign.NONE
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


@pytest.mark.parametrize("known", [WEB, ARM], ids=["the pinned one", "another"])
async def test_a_pinned_image_is_not_moved_by_a_head(registry, client, known):
    for tag, content in (("latest", WEB), ("other", ARM)):
        registry.add("acme/web", tag, content)
    registry.reply(200, headers={"Docker-Content-Digest": ARM.digest}, method="HEAD")
    with pytest.raises(InvalidAnswer, match="answers for another digest"):
        await client.look_up(lookup(registry, f"acme/web@{WEB.digest}", known=Served(known.digest, known.digest)))
    assert registry.asked() == [f"HEAD acme/web@{WEB.digest}"]


async def test_a_head_that_names_a_pinned_image_by_another_algorithm_is_no_news(registry, client):
    registry.add("acme/web", "latest", WEB)
    pinned = "sha512:" + hashlib.sha512(WEB.manifest).hexdigest()
    repository = registry.repositories["acme/web"]
    repository.manifests[pinned] = repository.manifests[WEB.digest]
    registry.reply(200, headers={"Docker-Content-Digest": WEB.digest}, method="HEAD")
    known = Served(pinned, pinned)
    assert (await client.look_up(lookup(registry, f"acme/web@{pinned}", known=known))).served == known
    assert registry.asked() == [f"HEAD acme/web@{pinned}", f"GET acme/web@{pinned}"]


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
    [(404, NotFound), (403, Forbidden), (429, RateLimited), (500, Unavailable), (503, Unavailable)],
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
    with pytest.raises(RateLimited) as caught:
        await client.look_up(lookup(registry))
    assert (caught.value.retry_after, caught.value.fingerprint) == (17.0, "")


async def test_a_throttled_credential_asks_no_more_while_others_do(guarded, client, clock):
    guarded.users["other"] = guarded.tokens.users["other"] = "pw"
    guarded.add("acme/web", "latest", WEB)
    await client.look_up(lookup(guarded, "acme/web:latest", GOOD))
    guarded.reply(429, headers={"Retry-After": "30"}, times=1)
    with pytest.raises(RateLimited) as caught:
        await client.look_up(lookup(guarded, "acme/web:latest", GOOD))
    assert caught.value.fingerprint == GOOD.fingerprint
    clock.advance(seconds=10)
    guarded.requests.clear()
    with pytest.raises(Exhausted) as caught:
        await client.look_up(lookup(guarded, "acme/api:latest", GOOD))
    assert (caught.value.until, guarded.requests) == (clock() + timedelta(seconds=20), [])
    await client.look_up(lookup(guarded, "acme/web:latest", Credential("other", "pw", "other")))
    clock.advance(seconds=20)
    await client.look_up(lookup(guarded, "acme/web:latest", GOOD))


async def test_a_credential_that_must_wait_is_passed_over(guarded, client, clock):
    guarded.add("acme/web", "latest", WEB)
    guarded.tokens.reply(429, headers={"Retry-After": "60"}, times=1)
    with pytest.raises(RateLimited):
        await client.look_up(lookup(guarded, "acme/web:latest", BAD, GOOD))
    guarded.tokens.requests.clear()
    found = await client.look_up(lookup(guarded, "acme/web:latest", BAD, GOOD))
    assert found.served.digest == WEB.digest
    assert len(guarded.tokens.requests) == 1


async def test_a_denial_is_not_the_last_word_while_a_credential_must_wait(guarded, client, clock):
    guarded.add("acme/web", "latest", WEB)
    guarded.tokens.reply(429, headers={"Retry-After": "60"}, times=1)
    with pytest.raises(RateLimited):
        await client.look_up(lookup(guarded, "acme/web:latest", GOOD))
    with pytest.raises(Exhausted) as caught:
        await client.look_up(lookup(guarded, "acme/web:latest", GOOD, BAD))
    assert caught.value.until == clock() + timedelta(seconds=60)
    clock.advance(seconds=60)
    assert (await client.look_up(lookup(guarded, "acme/web:latest", GOOD, BAD))).served.digest == WEB.digest


async def test_throttled_strangers_do_not_keep_a_credential_from_its_first_login(guarded, client):
    guarded.add("acme/web", "latest", WEB)
    guarded.reply(429, headers={"Retry-After": "30"}, times=1)
    with pytest.raises(RateLimited):
        await client.look_up(lookup(guarded))
    await client.look_up(lookup(guarded, "acme/web:latest", GOOD))
    guarded.requests.clear()
    with pytest.raises(Exhausted):
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


async def test_a_lookup_ends_in_time_however_many_logins_there_are(guarded, new_client):
    """It is our time that is over; the token service has answered before."""
    client = new_client(timeouts=Timeouts(connect=30, idle=30, request=30, lookup=0.5))
    guarded.tokens.reply(401, times=1)
    guarded.tokens.hold()
    async with asyncio.timeout(10):
        with pytest.raises(Timeout, match=r"^the token service of .* did not answer in time$") as caught:
            await client.look_up(lookup(guarded, "acme/web:latest", BAD, GOOD))
    assert caught.value.sign is Sign.NONE
    assert len(guarded.tokens.requests) == 2


async def test_who_answers_until_our_time_is_over_is_not_silent(registry, new_client):
    client = new_client(timeouts=Timeouts(connect=5, idle=5, request=5, lookup=0.4))
    registry.add("acme/web", "latest", BOTH)
    registry.hold(path=f"{WEB.digest}|{ARM.digest}")
    with pytest.raises(Timeout) as caught:
        await client.look_up(lookup(registry, mode=LEGACY))
    assert caught.value.sign is Sign.NONE
    registry.hold()
    with pytest.raises(Timeout) as caught:
        await client.look_up(lookup(registry, mode=LEGACY))
    assert caught.value.sign is Sign.SILENCE, "it has said nothing at all"


async def test_who_has_all_the_time_of_a_request_and_says_nothing_is_silent(registry, new_client):
    client = new_client(timeouts=Timeouts(connect=5, idle=5, request=0.2, lookup=5))
    registry.add("acme/web", "latest", BOTH)
    registry.hold(path=f"{WEB.digest}|{ARM.digest}")
    with pytest.raises(Timeout) as caught:
        await client.look_up(lookup(registry, mode=LEGACY))
    assert caught.value.sign is Sign.SILENCE


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


@given(st.text(max_size=70) | st.from_regex(r"-?[0-9.e]{0,30}") | st.datetimes().map(format_datetime))
def test_any_retry_after_is_a_time_or_none(value):
    wait = retry_after(value, datetime(2026, 3, 1, tzinfo=UTC))
    assert wait is None or 0 <= wait <= 3600


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


@pytest.mark.parametrize("path", ["/token", "/tags/list", "/blobs/"])
async def test_nothing_else_is_read_compressed_either(guarded, client, path):
    guarded.add("acme/web", "latest", WEB)
    answer = (200, gzip.compress(b'{"token": "x", "tags": []}'), {"Content-Encoding": "gzip"})
    (guarded.tokens if path == "/token" else guarded).reply(*answer, path=path)
    ask = client.list_tags(listing(guarded, "acme/web", GOOD))
    if path == "/blobs/":
        ask.close()
        ask = client.describe(description(guarded, WEB.digest, GOOD))
    with pytest.raises(InvalidAnswer, match="compressed"):
        await ask


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
    [(429, RateLimited), (500, Unavailable), (302, InvalidAnswer), (400, Unauthorized), (404, Unauthorized)],
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


async def test_the_name_of_a_token_service_does_not_bring_a_password_into_a_message(guarded, new_client):
    async def ask_for_more(request):
        basic = request.headers.get("Authorization", "")
        realm = f"https://{GOOD.password}.invalid/token"
        challenge = f'Bearer realm="{realm}",service="x"' if basic else 'Basic realm="x"'
        return web.Response(status=401, headers={"WWW-Authenticate": challenge})

    guarded.script(ask_for_more)
    with pytest.raises(Unreachable) as caught:
        await new_client().look_up(lookup(guarded, "acme/web:latest", GOOD))
    assert GOOD.password not in caught.value.message + str(caught.value)
    assert "***.invalid" in caught.value.message


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


# --- a repository's tags ----------------------------------------------------------------------------------------------


def page(*tags, more="", headers=None):
    """An answer with tags, and a link to more."""

    async def handler(_):
        link = {"Link": f'<{more}>; rel="next"'} if more else {}
        return web.json_response({"name": "acme/web", "tags": list(tags)}, headers={**link, **(headers or {})})

    return handler


async def test_the_tags_of_a_repository_are_read_page_by_page(registry, client):
    for number in range(5000):
        registry.put("acme/web", f"v1.{number}", WEB.media_type, WEB.manifest)
    assert await client.answer(listing(registry, limit=3)) == Listed(
        ("v1.4999", "v1.4998", "v1.4997"), found=5000, is_complete=True
    )
    assert registry.asked() == ["GET /v2/acme/web/tags/list"] * 5
    assert [request.query.get("n") for request in registry.requests] == ["1000"] * 5


async def test_a_list_is_asked_for_the_scope_of_its_repository(guarded, client):
    guarded.add("acme/web", "latest", WEB)
    assert (await client.list_tags(listing(guarded, "acme/web", GOOD))).tags == ("latest",)
    assert [request.query["scope"] for request in guarded.tokens.requests] == ["repository:acme/web:pull"]


@pytest.mark.parametrize(
    ("body", "tags"),
    [
        pytest.param({"tags": None}, (), id="null"),
        pytest.param({"tags": []}, (), id="none"),
        pytest.param({"tags": ["", None, "a/b", "-x", "good", "x" * 129, "\x1b[31m", "good"]}, ("good",), id="no tags"),
        pytest.param({"name": 7, "tags": ["a"], "more": {}}, ("a",), id="other fields"),
    ],
)
async def test_what_is_no_tag_is_passed_over(registry, client, body, tags):
    registry.reply(200, json.dumps(body))
    assert await client.list_tags(listing(registry)) == Listed(tags, found=len(tags), is_complete=True)


@pytest.mark.parametrize(
    "body", [b"", b"null", b"[]", b"{}", b'{"tags": "a"}', b'{"tags": [1]}', b"<html>", b'{"tags":' + b"[" * 100_000]
)
async def test_what_is_no_list_of_tags_is_no_answer(registry, client, body):
    registry.reply(200, body)
    with pytest.raises(InvalidAnswer, match=r"is no list of tags$"):
        await client.list_tags(listing(registry))


@pytest.mark.parametrize(
    ("status", "expected", "says"),
    [
        (404, NotFound, 'repository ".*/acme/web" not found'),
        (403, Forbidden, 'to the repository ".*/acme/web"'),
        (429, RateLimited, "too many requests"),
        (502, Unavailable, "failed"),
        (400, InvalidAnswer, "repository"),
    ],
)
async def test_a_list_that_is_not_given_is_an_error(registry, client, status, expected, says):
    registry.reply(status, errors_body("NAME_UNKNOWN"))
    with pytest.raises(expected, match=says):
        await client.list_tags(listing(registry))


async def test_a_list_that_is_denied_names_the_secrets(guarded, client):
    with pytest.raises(Unauthorized, match=r'to the repository "[^"]*/acme/web": .*secret "bad" \(401'):
        await client.list_tags(listing(guarded, "acme/web", BAD))


@pytest.mark.parametrize(
    "link",
    [
        pytest.param("/v2/acme/web/tags/list?last=b", id="the same page"),
        pytest.param("/v2/acme/web/tags/list?page={count}", id="the same tags under other names"),
        pytest.param("/v2/acme/web/tags/list", id="the first page"),
    ],
)
async def test_a_list_that_loops_is_left(registry, client, link):
    async def handler(request):
        return await page("a", "b", more=link.format(count=len(registry.requests)))(request)

    registry.script(handler)
    with pytest.raises(InvalidAnswer, match=r"loops$"):
        await client.list_tags(listing(registry))
    assert len(registry.requests) <= 2


async def test_a_list_of_empty_pages_is_left(registry, client):
    async def handler(request):
        return await page(more=f"/v2/acme/web/tags/list?page={len(registry.requests)}")(request)

    registry.script(handler)
    with pytest.raises(InvalidAnswer, match=r"loops$"):
        await client.list_tags(listing(registry))
    assert len(registry.requests) == 2


@pytest.mark.parametrize("where", ["http://127.0.0.2:{port}", "http://localhost:{port}", "http://127.0.0.1:1", "//x"])
async def test_a_list_leads_to_no_other_host(registry, client, where):
    port = registry.host.rpartition(":")[2]
    registry.script(page("a", more=f"{where.format(port=port)}/v2/acme/web/tags/list?last=a"))
    with pytest.raises(InvalidAnswer, match=r"at another host$"):
        await client.list_tags(listing(registry))
    assert len(registry.requests) == 1


@pytest.mark.parametrize("path", ["/v2/other/web/tags/list?last=a", "/v2/_catalog?last=a", "../../x/tags/list?last=a"])
async def test_a_list_leads_to_nothing_else(registry, client, path):
    registry.script(page("a", more=path))
    with pytest.raises(InvalidAnswer, match=r"something else$"):
        await client.list_tags(listing(registry))
    assert len(registry.requests) == 1


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_registry_may_misspell_its_own_scheme(client, scheme):
    """Behind a proxy that ends TLS some write http:// into their links: a link is judged by its host and port."""
    async with FakeRegistry(tls=True) as registry:
        query = {"a": "b", "b": ""}

        async def handler(request):
            tag = "b" if request.query.get("last") else "a"
            more = f"{scheme}://{registry.host}/v2/acme/web/tags/list?last={tag}" if query[tag] else ""
            return await page(tag, more=more)(request)

        registry.script(handler)
        assert (await client.list_tags(listing(registry))).tags == ("a", "b")


async def test_a_list_without_end_is_cut(registry, client):
    async def handler(request):
        number = int(request.query.get("last", "t0")[1:])
        return await page(*(f"t{number + step}" for step in range(1, 4)), more=f"{request.path}?last=t{number + 3}")(
            request
        )

    registry.script(handler)
    listed = await client.list_tags(listing(registry, limit=5))
    assert (len(listed.tags), listed.found, listed.is_complete) == (5, 3 * MAX_PAGES, False)
    assert len(registry.requests) == MAX_PAGES


async def test_a_page_over_the_cap_is_not_read(registry, client):
    registry.reply(200, b'{"tags":["a"]}'.ljust(PAGE_CAP + 1))
    with pytest.raises(TooLarge):
        await client.list_tags(listing(registry))


async def test_a_page_of_more_names_than_are_read_is_not_decoded(registry, client):
    registry.reply(200, json.dumps({"tags": ["a"] * 200_002}, separators=(",", ":")))
    with pytest.raises(TooLarge, match="names more than 200000"):
        await client.list_tags(listing(registry))


async def test_a_list_ends_in_time(registry, new_client):
    """What has come in twice a lookup's time is the list; it is not begun again for ever."""
    client = new_client(timeouts=Timeouts(connect=5, idle=5, request=5, lookup=0))

    async def handler(request):
        number = len(registry.requests)
        return await page(f"t{number}", more=f"{request.path}?page={number}")(request)

    registry.script(handler)
    assert await client.list_tags(listing(registry)) == Listed(("t1",), found=1, is_complete=False)


async def test_a_page_that_does_not_come_is_no_list(registry, new_client):
    client = new_client(timeouts=Timeouts(connect=5, idle=0.05, request=5, lookup=5))
    registry.script(page("a", more="/v2/acme/web/tags/list?last=a"), times=1)
    registry.hold()
    with pytest.raises(Timeout):
        await client.list_tags(listing(registry))


# --- what an image is -------------------------------------------------------------------------------------------------


async def test_an_image_is_described_by_its_config(registry, client):
    registry.add("acme/web", "latest", WEB)
    body = json.loads((await client.answer(description(registry, WEB.digest))).body)
    assert body["dockerImageReference"] == f"{registry.host}/acme/web@{WEB.digest}"
    assert body["dockerImageMetadata"]["Architecture"] == "amd64"
    assert registry.asked() == [f"GET acme/web@{WEB.digest}", f"GET /v2/acme/web/blobs/{digest_of(WEB.config)}"]


async def test_an_index_is_described_without_a_look_at_its_images(registry, client):
    registry.add("acme/web", "latest", BOTH)
    body = json.loads((await client.describe(description(registry, BOTH.digest))).body)
    assert [child["architecture"] for child in body["dockerImageManifests"]] == ["amd64", "arm64"]
    assert len(registry.requests) == 1


@pytest.mark.parametrize(
    ("answer", "expected", "says"),
    [
        pytest.param((200, WEB.config[:-1]), InvalidAnswer, "another size", id="shorter"),
        pytest.param((200, WEB.config[:-1] + b" "), InvalidAnswer, "not that of its digest", id="other bytes"),
        pytest.param((404, b""), NotFound, "does not have the image's config", id="missing"),
        pytest.param((500, b""), Unavailable, "failed", id="broken"),
    ],
)
async def test_a_config_is_what_its_manifest_says(registry, client, answer, expected, says):
    registry.add("acme/web", "latest", WEB)
    registry.reply(*answer, path="/blobs/")
    with pytest.raises(expected, match=says):
        await client.describe(description(registry, WEB.digest))


async def test_a_config_over_the_cap_is_not_asked_for(registry, client):
    huge = WEB.manifest.replace(b'"size":%d' % len(WEB.config), b'"size":%d' % (BLOB_CAP + 1), 1)
    assert huge != WEB.manifest
    digest = registry.put("acme/web", None, WEB.media_type, huge)
    with pytest.raises(TooLarge):
        await client.describe(description(registry, digest))
    assert len(registry.requests) == 1


async def test_what_is_no_image_is_not_described(registry, client):
    chart = helm_chart()
    registry.add("acme/web", "latest", chart)
    with pytest.raises(NotAnImage):
        await client.describe(description(registry, chart.digest))


async def test_where_a_config_is_stored_gets_no_login(new_client):
    async with FakeRegistry(auth="htpasswd") as registry, FakeServer() as store:
        client = new_client(Reach(lambda *_, **__: None, {store.host}.__contains__))
        registry.add("acme/web", "latest", WEB)
        registry.reply(307, headers={"Location": f"{store.url}/blob?signature=s3cret"}, path="/blobs/")
        store.reply(200, WEB.config)
        await client.describe(description(registry, WEB.digest, GOOD))
        assert [request.authorization for request in store.requests] == [""]


# --- manifests without measure ----------------------------------------------------------------------------------------


async def test_an_index_of_ten_thousand_is_refused_and_not_asked_for_again_and_again(registry, client):
    child = {"mediaType": OCI_MANIFEST, "digest": WEB.digest, "size": len(WEB.manifest)}
    body = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [child] * 10_000}).encode()
    registry.put("acme/web", "latest", OCI_INDEX, body)
    with pytest.raises(TooLarge, match="names 10000 manifests; 128 are allowed") as caught:
        await client.look_up(lookup(registry))
    assert not caught.value.retryable


async def test_a_manifest_of_a_hundred_megabytes_is_not_read(registry, client):
    sent = 0

    async def handler(request):
        nonlocal sent
        response = web.StreamResponse(headers={"Content-Length": str(100 << 20)})
        await response.prepare(request)
        while sent < 100 << 20:
            await response.write(b" " * 65536)
            sent += 65536
        return response

    registry.script(handler)
    with pytest.raises(TooLarge):
        await client.look_up(lookup(registry))
    assert sent < 50 << 20


# --- identity tokens --------------------------------------------------------------------------------------------------


@pytest.fixture
async def exchanging():
    """A registry whose token service takes IDENTITY."""
    async with FakeRegistry(auth="token") as started:
        started.tokens.identities[IDENTITY.identity_token] = "dev"
        started.add("acme/web", "latest", WEB)
        yield started


async def test_an_identity_token_is_exchanged(exchanging, client):
    for _ in range(2):
        await client.look_up(lookup(exchanging, "acme/web:latest", IDENTITY))
    (asked,) = exchanging.tokens.requests
    assert (asked.method, asked.authorization, asked.query) == ("POST", "", {})
    assert asked.form == {
        "grant_type": "refresh_token",
        "service": exchanging.service,
        "client_id": "imagestreams",
        "scope": "repository:acme/web:pull",
        "refresh_token": IDENTITY.identity_token,
    }
    assert all(IDENTITY.identity_token not in str(request) for request in exchanging.requests)


async def test_a_rotated_identity_token_is_not_taken_up(exchanging, client):
    for _ in range(2):
        exchanging.tokens.revoke()
        await client.look_up(lookup(exchanging, "acme/web:latest", IDENTITY))
    assert [request.form["refresh_token"] for request in exchanging.tokens.requests] == [IDENTITY.identity_token] * 2


@pytest.mark.parametrize(
    ("identities", "says"),
    [
        pytest.param(None, "405 UNSUPPORTED|405 from the token service: it takes no identity tokens", id="no POST"),
        pytest.param({}, r"\(401 from the token service\)", id="not its own"),
    ],
)
async def test_an_identity_token_that_is_not_taken_is_told(exchanging, client, identities, says):
    exchanging.tokens.identities = identities
    with pytest.raises(Unauthorized, match=says) as caught:
        await client.look_up(lookup(exchanging, "acme/web:latest", IDENTITY))
    assert 'the identity token of secret "identity"' in str(caught.value)
    await client.look_up(lookup(exchanging, "acme/web:latest", IDENTITY, GOOD))


async def test_an_identity_token_answers_no_basic_challenge(client):
    async with FakeRegistry(auth="htpasswd") as registry:
        registry.add("acme/web", "latest", WEB)
        with pytest.raises(Unauthorized, match=r'"identity" \(the registry wants a username and password\)'):
            await client.look_up(lookup(registry, "acme/web:latest", IDENTITY))
        assert [request.authorization for request in registry.requests] == [""]
        await client.look_up(lookup(registry, "acme/web:latest", IDENTITY, GOOD))


async def test_an_identity_token_is_redirected_nowhere(exchanging, client):
    async with FakeServer() as trap:
        trap.reply(200, b'{"access_token":"x"}')
        for status in (301, 302, 303, 307, 308):
            exchanging.tokens.behave()
            exchanging.tokens.reply(status, headers={"Location": f"{trap.url}/token"})
            with pytest.raises(InvalidAnswer, match=f"answered {status}"):
                await client.look_up(lookup(exchanging, "acme/web:latest", IDENTITY))
        assert trap.requests == []


@pytest.mark.parametrize("credential", [IDENTITY, GOOD], ids=["identity", "password"])
async def test_what_may_not_be_sent_is_not_and_that_is_said(exchanging, client, credential):
    transport = exchanging.transport(credentials=False)
    with pytest.raises(Unauthorized, match=f'secret "{credential.secret}" is not sent to an insecure host'):
        await client.look_up(lookup(exchanging, "acme/web:latest", credential, transport=transport))
    with pytest.raises(NotFound, match=f'not found; .*secret "{credential.secret}" is not sent to an insecure host'):
        await client.look_up(lookup(exchanging, "public/web:gone", credential, transport=transport))
    assert {request.method for request in exchanging.tokens.requests} == {"GET"}
    for request in [*exchanging.requests, *exchanging.tokens.requests]:
        assert not request.authorization.startswith("Basic")


@pytest.mark.parametrize("how", ["close", "abort"])
async def test_a_connection_that_the_token_service_has_closed_is_replaced(exchanging, client, how):
    async def hang_up(request):
        getattr(request.transport, how)()
        return web.Response()

    exchanging.tokens.script(hang_up, times=1)
    await client.look_up(lookup(exchanging, "acme/web:latest", IDENTITY))
    assert [request.method for request in exchanging.tokens.requests] == ["POST"] * 2
    exchanging.tokens.revoke()
    exchanging.tokens.script(hang_up)
    with pytest.raises(Unreachable):
        await client.look_up(lookup(exchanging, "acme/web:latest", IDENTITY))
    assert len(exchanging.tokens.requests) == 4, "once is enough"


async def test_a_token_services_words_do_not_bring_an_identity_token_into_a_message(exchanging, client):
    leak = f'Bearer realm="{exchanging.tokens.url}/refresh-me%2F%2B%3D/token"'
    exchanging.reply(401, b"", {"WWW-Authenticate": leak})
    exchanging.tokens.reply(401)
    with pytest.raises(Unauthorized) as caught:
        await client.look_up(lookup(exchanging, "acme/web:latest", IDENTITY))
    assert "refresh-me" not in str(caught.value)
    assert "/***/token" in str(caught.value)


# --- quotas -----------------------------------------------------------------------------------------------------------


class Counter:
    """A quota that lets pass what it is told to, and records what it is asked and told."""

    def __init__(self, until=None):
        self.until = until
        self.events = []

    def check(self, host, fingerprint, *, is_pull):
        self.events.append(("check", fingerprint[:4], is_pull))
        if self.until and is_pull:
            raise Exhausted("no more", self.until)

    def held_until(self, host, fingerprint, *, is_pull):
        return None

    def count(self, host, fingerprint, *, is_pull):
        self.events.append(("count", fingerprint[:4], is_pull))

    def learn(self, host, fingerprint, *, is_pull, status, headers):
        self.events.append(("learn", fingerprint[:4], is_pull, status, headers.get("RateLimit-Remaining", "")))


async def test_what_the_registry_itself_is_asked_and_says_is_counted(guarded, new_client):
    quota = Counter()
    client = new_client(quota=quota)
    guarded.add("acme/web", "latest", WEB)
    guarded.tokens.reply(500, headers={"RateLimit-Remaining": "1"}, times=1)
    mark = GOOD.fingerprint[:4]
    with pytest.raises(Unavailable):
        await client.look_up(lookup(guarded, "acme/web:latest", GOOD))
    assert quota.events == [], "neither the question for a challenge nor a token is held against anybody"
    await client.look_up(lookup(guarded, "acme/web:latest", GOOD))
    assert quota.events == [("check", mark, True), ("learn", mark, True, 200, "")]
    quota.events.clear()
    guarded.reply(200, headers={"RateLimit-Remaining": "7", "Docker-Content-Digest": WEB.digest}, method="HEAD")
    await client.look_up(lookup(guarded, "acme/web:latest", GOOD, known=Served(WEB.digest, WEB.digest)))
    assert quota.events == [("check", mark, False), ("learn", mark, False, 200, "7")]


async def test_what_is_used_up_is_not_asked_for(registry, new_client, clock):
    registry.add("acme/web", "latest", WEB)
    client = new_client(quota=Counter(until=clock()))
    with pytest.raises(Exhausted):
        await client.look_up(lookup(registry))
    assert registry.requests == []
    known = Served(WEB.digest, WEB.digest)
    assert (await client.look_up(lookup(registry, known=known))).served == known


async def test_a_credential_that_nobody_asks_for_is_no_way_around_a_quota(registry, new_client):
    quota = Counter()
    client = new_client(quota=quota)
    registry.add("acme/web", "latest", WEB)
    for _ in range(3):
        await client.look_up(lookup(registry, "acme/web:latest", GOOD))
    asked = [event[:2] for event in quota.events if event[0] != "learn"]
    assert asked == [("count", "")] + [("check", "")] * 2, "the first was taken for a question for a challenge"
    assert [event for event in quota.events if event[0] == "learn"] == [("learn", "", True, 200, "")] * 3


@pytest.fixture
async def half_open():
    """A registry where some repositories want a login and some do not."""
    async with FakeRegistry() as started:
        for path in ("open/web", "closed/web"):
            started.add(path, "latest", WEB)

        async def guard(request):
            if credentials_in(request.headers.get("Authorization", "")) == (GOOD.username, GOOD.password):
                return await started.answer(request)
            return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="x"'})

        started.guard = guard
        started.script(guard, path="closed/")
        yield started


def pulls_of(clock, count):
    rule = HostRule(insecure=True, pulls=Rate(count, timedelta(minutes=30)))
    return Quota(clock, lambda host: rule)


async def test_strangers_without_pulls_do_not_keep_a_login_out(half_open, new_client, clock):
    client = new_client(quota=pulls_of(clock, 2))
    for _ in range(2):
        await client.look_up(lookup(half_open, "open/web"))
    with pytest.raises(Exhausted):
        await client.look_up(lookup(half_open, "open/web"))
    assert (await client.look_up(lookup(half_open, "closed/web", GOOD))).served.digest == WEB.digest


async def test_a_login_is_no_way_around_what_strangers_have_left(half_open, new_client, clock):
    """Where none is wanted the question is one of theirs, whoever asks."""
    quota = pulls_of(clock, 2)
    client = new_client(quota=quota)
    half_open.add("open/api", "latest", WEB)
    for _ in range(2):
        await client.look_up(lookup(half_open, "open/web"))
    until = quota.held_until(half_open.host, "", is_pull=True)
    with pytest.raises(Exhausted):
        await client.look_up(lookup(half_open, "open/web", GOOD))
    # Of another repository that cannot be known before.
    await client.look_up(lookup(half_open, "open/api", GOOD))
    assert quota.held_until(half_open.host, "", is_pull=True) > until, "it is counted all the same"
    with pytest.raises(Exhausted):
        await client.look_up(lookup(half_open, "open/api", replace(GOOD, username="other")))
    assert len(half_open.requests) == 3


async def test_a_repository_that_was_closed_is_asked_for_its_challenge_again(half_open, new_client, clock):
    client = new_client(quota=pulls_of(clock, 3))
    await client.look_up(lookup(half_open, "open/web", GOOD))
    half_open.behave()
    half_open.script(half_open.guard, path="open/web/")
    with pytest.raises(Unauthorized):
        await client.look_up(lookup(half_open, "open/web", BAD))
    for _ in range(2):
        await client.look_up(lookup(half_open, "closed/web"))
    with pytest.raises(Exhausted):
        await client.look_up(lookup(half_open, "closed/web"))
    assert (await client.look_up(lookup(half_open, "open/web", GOOD))).served.digest == WEB.digest


async def test_every_counted_request_is_told_of_whatever_becomes_of_it(registry, new_client):
    quota = Counter()
    client = new_client(quota=quota, timeouts=Timeouts(connect=5, idle=0.05, request=5, lookup=5))
    registry.hold()
    with pytest.raises(Timeout):
        await client.look_up(lookup(registry))
    task = asyncio.create_task(client.look_up(lookup(registry)))
    await registry.arrived(2)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert [event[0] for event in quota.events] == ["check", "learn"] * 2
    assert quota.events[-1] == ("learn", "", True, 0, "")


async def test_what_another_host_says_is_not_held_for_the_registrys_word(registry, new_client):
    quota = Counter()
    async with FakeRegistry(host="127.0.0.2") as other:
        other.reply(200, WEB.manifest, {"Content-Type": WEB.media_type, "RateLimit-Remaining": "0"})
        registry.reply(307, headers={"Location": f"{other.url}/x", "RateLimit-Remaining": "5"})
        reach = Reach(lambda *_, **__: None, {other.host}.__contains__)
        await new_client(reach, quota=quota).look_up(lookup(registry))
    assert quota.events == [("check", "", True), ("learn", "", True, 307, "5")]


# --- steps ------------------------------------------------------------------------------------------------------------


async def test_people_are_told_each_step(exchanging, new_client):
    told = []
    client = new_client(on_step=told.append)
    manifest = f"{exchanging.url}/v2/acme/web/manifests/latest"
    token = f"{exchanging.tokens.url}/token"
    ours = f"?service={exchanging.service}&scope=repository:acme/web:pull"
    await client.look_up(lookup(exchanging, "acme/web:latest", IDENTITY))
    await client.look_up(lookup(exchanging, "acme/web:latest", GOOD))
    assert told == [
        Step("GET", manifest, "401", f"wants a token of {token}; UNAUTHORIZED"),
        Step("POST", token, "200", "", "identity token secret identity"),
        Step("GET", manifest, "200", WEB.digest, "Bearer secret identity"),
        Step("GET", f"{token}{ours}", "200", "", "Basic secret good"),
        Step("GET", manifest, "200", WEB.digest, "Bearer secret good"),
    ]


async def test_a_step_that_fails_and_one_that_leads_away_are_told(registry, new_client):
    told = []
    async with FakeServer() as store:
        client = new_client(Reach(lambda *_, **__: None, {store.host}.__contains__), on_step=told.append)
        registry.reply(307, headers={"Location": f"{store.url}/x?signature=s3cret", "RateLimit-Remaining": "5;w=60"})
        store.reply(403, errors_body("DENIED"))
        with pytest.raises(Forbidden):
            await client.look_up(lookup(registry))
    await registry.stop()
    with pytest.raises(Unreachable):
        await client.look_up(lookup(registry))
    manifest = f"{registry.url}/v2/acme/web/manifests/latest"
    assert told == [
        Step("GET", manifest, "307", "RateLimit-Remaining 5;w=60"),
        Step("GET", f"{store.url}/x", "403", "DENIED"),
        Step("GET", manifest, "Unreachable", f"{registry.host} refused the connection"),
    ]


async def test_a_step_in_plain_http_says_whose_credential_it_carried(new_client):
    told = []
    async with FakeRegistry(auth="htpasswd") as plain:
        plain.add("acme/web", "latest", WEB)
        https = replace(plain.transport(insecure=True), endpoint=plain.url.replace("http:", "https:"))
        await new_client(on_step=told.append).look_up(lookup(plain, "acme/web:latest", GOOD, transport=https))
    last = told[-1]
    assert (last.url.partition("://")[0], last.outcome, last.authorization) == ("http", "200", "Basic secret good")


@pytest.mark.parametrize("credential", [GOOD, IDENTITY], ids=["password", "identity"])
@pytest.mark.parametrize("auth", ["token", "htpasswd"])
async def test_steps_hold_nothing_secret_whatever_a_registry_sends_back(new_client, credential, auth):
    told, heard = [], set()
    async with FakeRegistry(auth=auth) as registry:

        async def echo(request):
            """Leads to a place that is named after what was sent."""
            scheme, _, word = request.headers.get("Authorization", "").partition(" ")
            if not scheme:
                secret = credential.identity_token or credential.password
                realm = f"{registry.tokens.url}/{secret}" if registry.tokens else ""
                challenge = f'Bearer realm="{realm}"' if realm else "Basic"
                return web.Response(status=401, headers={"WWW-Authenticate": challenge})
            heard.add(word)
            return web.Response(status=404 if word in request.path else 307, headers={"Location": f"/{word}"})

        registry.script(echo)
        if registry.tokens:
            registry.tokens.reply(200, b'{"token": "s3cret-token"}')
        client = new_client(on_step=told.append)
        with pytest.raises((NotFound, Unauthorized)):
            await client.look_up(lookup(registry, "acme/web:latest", credential))
    shown = str(told)
    assert len(told) >= 3 or (auth, credential) == ("htpasswd", IDENTITY)
    for secret in {credential.password, credential.identity_token, *heard} - {""}:
        assert secret not in shown
    assert "/***" in shown or (auth, credential) == ("htpasswd", IDENTITY)
