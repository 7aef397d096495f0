"""One suite for the fake registry and real ones: what our client takes for granted is true of all of them.

The real ones are Debian's docker-registry 2.8 and distribution v3, plain and with TLS, under each way to guard them.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import secrets
from datetime import UTC, datetime
from ipaddress import ip_address

import pytest

from dev.images import digest_of, helm_chart, image, index, push
from dev.registries import Registry, available
from imagestreams.core.keychain import Credential
from imagestreams.core.lookup import Description, ImportMode, Listed, Listing, Lookup, Served
from imagestreams.core.manifest import Platform
from imagestreams.core.policy import HostRule, Policy, Refused, transport_for
from imagestreams.core.reference import ImageReference
from imagestreams.registry.client import RegistryClient
from imagestreams.registry.errors import NotAnImage, NotFound, Unauthorized, Unreachable
from imagestreams.registry.transport import Reach
from tests.fakes.registry import FakeRegistry

FLAVOURS = ("fake", "distribution-v3", "docker-registry-2.8")
AUTHS = ("none", "htpasswd", "token")
LEGACY, PRESERVE = ImportMode.LEGACY, ImportMode.PRESERVE_ORIGINAL
WRONG = Credential("dev", "wrong", "stale")


def case(flavour, auth, tls):
    marks = () if flavour == "fake" else (pytest.mark.registries,)
    return pytest.param((flavour, auth, tls), marks=marks, id=f"{flavour}-{auth}-{'tls' if tls else 'plain'}")


@pytest.fixture(scope="module")
def started():
    """Real registries by what they are, started when first needed."""
    registries = {}
    yield registries
    for registry in registries.values():
        registry.stop()


CASES = tuple(itertools.product(FLAVOURS, AUTHS, (False, True)))


@pytest.fixture(params=[case(*each) for each in CASES])
async def registry(request, started):
    flavour, auth, tls = request.param
    if flavour == "fake":
        async with FakeRegistry(auth=auth, tls=tls) as fake:
            yield fake
        return
    if not available(flavour) and os.environ.get("CI") != "true":
        pytest.skip(f"{flavour} is not installed")
    if request.param not in started:
        real = Registry(flavour, auth=auth, tls=tls)
        await asyncio.to_thread(real.start)
        started[request.param] = real
    yield started[request.param]


class Asker:
    """Our client as an installation has it whose administrator has listed the registry; records what it asks."""

    def __init__(self, registry):
        self.registry = registry
        rule = HostRule(
            endpoint=registry.url, insecure=not registry.ca_pem, ca_file=str(registry.ca_file or ""), internal=True
        )
        self.policy = Policy(hosts={registry.host: rule})
        self.requests = []
        self.client = RegistryClient(
            Reach.of(self.policy),
            clock=lambda: datetime.now(UTC),
            on_request=lambda _, method, kind, code, seconds: self.requests.append(f"{method} {kind} {code}"),
        )

    @property
    def credential(self):
        registry = self.registry
        return (Credential(registry.username, registry.password, "good"),) if registry.username else ()

    async def list_tags(self, path, *, credentials=None, limit=1000):
        return await self.client.answer(Listing(*self._place(path, credentials), limit))

    async def describe(self, path, digest):
        """The Image object without what it is called."""
        return json.loads((await self.client.answer(Description(*self._place(f"{path}@{digest}", None)))).body)

    def _place(self, name, credentials):
        reference = ImageReference.parse(f"{self.registry.host}/{name}")
        transport = transport_for(self.policy, reference, insecure=False)
        return reference, transport, self.credential if credentials is None else credentials

    async def look_up(self, name, *, credentials=None, mode=PRESERVE, prefer=None, known=None, policy=None):
        reference = ImageReference.parse(f"{self.registry.host}/{name}")
        transport = transport_for(policy or self.policy, reference, insecure=False)
        assert not isinstance(transport, Refused)
        candidates = self.credential if credentials is None else credentials
        return (await self.client.look_up(Lookup(reference, transport, candidates, mode, prefer, known))).served


@pytest.fixture
async def asker(registry):
    made = Asker(registry)
    yield made
    await made.client.close()


@pytest.fixture
def put(registry):
    """Pushes over the wire, to a repository of the test's own below a prefix."""

    name = secrets.token_hex(4)

    async def put(content, tag="latest", prefix="acme"):
        path = f"{prefix}/{name}"
        await asyncio.to_thread(push, registry, path, tag, content)
        return path

    return put


@pytest.mark.parametrize("media", ["oci", "docker"])
async def test_an_image_is_what_its_tag_serves(asker, put, media):
    content = image(media=media)
    path = await put(content)
    for mode in ImportMode:
        assert await asker.look_up(path, mode=mode) == Served(content.digest, content.digest)
    assert await asker.look_up(f"{path}@{content.digest}") == Served(content.digest, content.digest)


@pytest.mark.parametrize("media", ["oci", "docker"])
async def test_an_index_is_itself_or_a_platforms_image(asker, put, media):
    amd, arm = image(media=media), image(media=media, architecture="arm64", variant="v8", text="arm")
    content = index([arm, amd], media=media, attestations=media == "oci")
    path = await put(content)
    assert await asker.look_up(path) == Served(content.digest, content.digest)
    assert await asker.look_up(path, mode=LEGACY) == Served(content.digest, amd.digest)
    prefer = Platform("linux", "arm64")
    assert await asker.look_up(path, mode=LEGACY, prefer=prefer) == Served(content.digest, arm.digest)
    assert await asker.look_up(f"{path}@{content.digest}", mode=LEGACY) == Served(content.digest, amd.digest)


async def test_an_unchanged_tag_costs_one_head(asker, put):
    content = index([image(), image(architecture="arm64", text="arm")])
    path = await put(content)
    known = await asker.look_up(path, mode=LEGACY)
    asker.requests.clear()
    for _ in range(2):
        assert await asker.look_up(path, mode=LEGACY, known=known) == known
    assert asker.requests == ["HEAD manifest 200"] * 2


async def test_a_moved_tag_is_seen_by_head_and_read_by_digest(asker, put):
    old, new = image(), image(text="new")
    path = await put(old)
    known = await asker.look_up(path)
    await put(new)
    asker.requests.clear()
    assert await asker.look_up(path, known=known) == Served(new.digest, new.digest)
    assert asker.requests == ["HEAD manifest 200", "GET manifest 200"]
    asker.requests.clear()
    assert await asker.look_up(path, known=known) == Served(new.digest, new.digest)
    assert asker.requests == ["HEAD manifest 200"]


async def test_a_login_costs_one_challenge_and_one_token(asker, put, registry):
    path = await put(image())
    for tag in "abc":
        await put(image(), tag=tag)
    await asker.look_up(path)
    first = {
        "": ["GET manifest 200"],
        "basic": ["GET manifest 401", "GET manifest 200"],
        "bearer": ["GET manifest 401", "GET token 200", "GET manifest 200"],
    }
    kind = "" if not registry.username else "bearer" if registry.tokens else "basic"
    assert asker.requests == first[kind]
    asker.requests.clear()
    for tag in "abc":
        await asker.look_up(f"{path}:{tag}")
    assert asker.requests == ["GET manifest 200"] * 3


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("acme/nothing-here:latest", id="repository"),
        pytest.param("acme/some:gone", id="tag"),
        pytest.param(f"acme/some@sha256:{'0' * 64}", id="digest"),
    ],
)
@pytest.mark.parametrize("known", [None, Served(f"sha256:{'1' * 64}", f"sha256:{'1' * 64}")], ids=["GET", "HEAD"])
async def test_what_is_not_there_is_not_found(asker, registry, name, known):
    await asyncio.to_thread(push, registry, "acme/some", "latest", image())
    with pytest.raises(NotFound, match=f'^container image "{registry.host}/{name}" not found$'):
        await asker.look_up(name, known=known)


async def test_a_helm_chart_is_no_image(asker, put):
    path = await put(helm_chart())
    with pytest.raises(NotAnImage, match="a Helm chart"):
        await asker.look_up(path)


@pytest.mark.parametrize("known", [False, True], ids=["GET", "HEAD"])
async def test_without_a_credential_only_what_is_public_is_served(asker, put, registry, known):
    content = image()
    served = Served(content.digest, content.digest)
    private, public = await put(content), await put(content, prefix="public")
    known = served if known else None
    if not registry.username:
        assert await asker.look_up(private, credentials=(), known=known) == served
        return
    with pytest.raises(Unauthorized, match="there is no credential for it"):
        await asker.look_up(private, credentials=(), known=known)
    if registry.tokens:
        assert await asker.look_up(public, credentials=(), known=known) == served


async def test_a_wrong_credential_is_named_and_the_next_one_tried(asker, put, registry):
    content = image()
    path = await put(content)
    if not registry.username:
        assert (await asker.look_up(path, credentials=(WRONG,))).digest == content.digest
        return
    with pytest.raises(Unauthorized, match='the credential of secret "stale" \\(401') as caught:
        await asker.look_up(path, credentials=(WRONG,))
    assert WRONG.password not in str(caught.value)
    assert (await asker.look_up(path, credentials=(WRONG, *asker.credential))).digest == content.digest


async def test_the_tags_of_a_repository_are_listed_best_first(asker, put, registry):
    for tag in ("8.3", "8.4", "edge", "latest", "v8.4.1"):
        path = await put(image(), tag=tag)
    asker.requests.clear()
    assert await asker.list_tags(path) == Listed(("latest", "8.4", "8.3", "v8.4.1", "edge"), found=5, is_complete=True)
    assert asker.requests[-1] == "GET tags 200"
    assert (await asker.list_tags(path, limit=2)).tags == ("latest", "8.4")
    with pytest.raises(NotFound, match=f'^repository "{registry.host}/acme/nothing-here" not found$'):
        await asker.list_tags("acme/nothing-here")
    if registry.username:
        with pytest.raises(Unauthorized, match=r'to the repository ".*there is no credential for it'):
            await asker.list_tags(path, credentials=())


async def test_a_list_of_tags_comes_in_pages(asker, put, monkeypatch):
    """Also from 2.8, which knows no pages and says all at once."""
    monkeypatch.setattr("imagestreams.registry.client.PAGE_SIZE", 2)
    for tag in "abcde":
        path = await put(image(), tag=tag)
    assert await asker.list_tags(path) == Listed(tuple("abcde"), found=5, is_complete=True)


@pytest.mark.parametrize("media", ["oci", "docker"])
async def test_an_image_is_described_by_manifest_and_config(asker, put, media, registry):
    content = image(media=media, config={"Labels": {"a": "b"}})
    path = await put(content)
    await put(image(text="another"), "other")
    await asker.look_up(f"{path}:other")  # so that the way to the registry is known, and this image is not
    asker.requests.clear()
    described = await asker.describe(path, content.digest)
    assert asker.requests == ["GET manifest 200", "GET blob 200"]
    assert described["dockerImageReference"] == f"{registry.host}/{path}@{content.digest}"
    assert described["dockerImageMetadata"]["Id"] == digest_of(content.config)
    assert described["dockerImageMetadata"]["Config"]["Labels"] == {"a": "b"}


async def test_what_was_just_looked_up_is_described_without_another_pull(asker, put):
    content = image()
    path = await put(content)
    await asker.look_up(path)
    asker.requests.clear()
    await asker.describe(path, content.digest)
    assert asker.requests == ["GET blob 200"]


async def test_an_index_is_described_by_itself(asker, put):
    content = index([image(), image(architecture="arm64", text="arm")])
    path = await put(content)
    await put(image(text="another"), "other")
    await asker.look_up(f"{path}:other")
    asker.requests.clear()
    described = await asker.describe(path, content.digest)
    assert asker.requests == ["GET manifest 200"]
    assert [each["architecture"] for each in described["dockerImageManifests"]] == ["amd64", "arm64"]


@pytest.mark.parametrize("registry", [case(*each) for each in CASES if each[1] == "token"], indirect=True)
async def test_a_token_is_asked_for_our_own_scope(asker, put, registry):
    path = await put(image())
    registry.tokens.requests.clear()
    await asker.look_up(path)
    (request,) = registry.tokens.requests
    scopes = getattr(request, "scopes", None) or (request.query["scope"],)
    assert tuple(scopes) == (f"repository:{path}:pull",)


@pytest.mark.parametrize("registry", [case(*each) for each in CASES if each[2]], indirect=True)
async def test_a_certificate_of_an_unknown_authority_is_refused(asker, put, registry):
    path = await put(image())
    stranger = Policy(hosts={registry.host: HostRule(endpoint=registry.url, internal=True)})
    with pytest.raises(Unreachable, match="certificate"):
        await asker.look_up(path, policy=stranger)
    careless = Policy(hosts={registry.host: HostRule(endpoint=registry.url, insecure=True)})
    await asker.look_up(path, policy=careless)


async def test_an_insecure_host_is_found_to_speak_plain_http(asker, put, registry):
    path = await put(image())
    insecure = Policy(hosts={registry.host: HostRule(insecure=True)})
    for _ in range(2):
        await asker.look_up(path, policy=insecure)
    if registry.ca_pem is None:
        secure = Policy(hosts={registry.host: HostRule(internal=True)})
        with pytest.raises(Unreachable, match="TLS"):
            await asker.look_up(path, policy=secure)


def test_the_rules_that_stand_aside_here_would_refuse_loopback():
    assert Reach.of(Policy(hosts={})).refuse(ip_address("127.0.0.1"), public_origin=False)
