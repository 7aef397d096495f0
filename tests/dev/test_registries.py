"""Each registry takes what dev.images makes, under each way to guard it, and gives back the same bytes."""

import base64
import itertools
import json
import os
import shutil
import subprocess
import urllib.request

import pytest

from dev.images import MANIFEST_TYPES, OCI_INDEX, Image, PushError, Session, digest_of, helm_chart, image, index, push
from dev.registries import Registry, available

pytestmark = pytest.mark.registries

FLAVOURS = ("distribution-v3", "docker-registry-2.8")
ACCEPT = {"Accept": ", ".join(MANIFEST_TYPES)}


def registry_or_skip(flavour, **options):
    if not available(flavour) and os.environ.get("CI") != "true":
        pytest.skip(f"{flavour} is not installed")
    return Registry(flavour, **options)


@pytest.fixture(
    scope="module", params=itertools.product(FLAVOURS, ("none", "htpasswd", "token"), (False, True)), ids=str
)
def registry(request):
    flavour, auth, tls = request.param
    with registry_or_skip(flavour, auth=auth, tls=tls) as started:
        yield started


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(image(), id="OCI image"),
        pytest.param(image(media="docker"), id="Docker image"),
        pytest.param(index([image(), image(architecture="arm64", variant="v8")], attestations=True), id="OCI index"),
        pytest.param(
            index([image(media="docker"), image(media="docker", os="windows")], media="docker"), id="Docker list"
        ),
        pytest.param(helm_chart(), id="Helm chart"),
    ],
)
def test_what_is_pushed_is_served_with_its_digest(registry, content):
    assert push(registry, "acme/web", "latest", content) == content.digest
    with Session(registry, "repository:acme/web:pull") as session:
        head = session.request("HEAD", "/v2/acme/web/manifests/latest", headers=ACCEPT)
        got = session.request("GET", f"/v2/acme/web/manifests/{content.digest}", headers=ACCEPT)
        assert head.headers["Docker-Content-Digest"] == content.digest
        assert got.headers["Content-Type"] == content.media_type
        assert got.body == content.manifest
        if isinstance(content, Image):
            blob = session.request("GET", f"/v2/acme/web/blobs/{digest_of(content.config)}")
            assert blob.body == content.config


def test_only_the_user_may_push(registry):
    class Stranger:
        host, ca_pem, username, password = registry.host, registry.ca_pem, "", ""

    if registry.username:
        with pytest.raises(PushError):
            push(Stranger, "acme/web", "latest", image())
    else:
        assert push(Stranger, "acme/web", "latest", image())


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_anybody_pulls_what_is_public_and_tokens_are_counted(flavour):
    with registry_or_skip(flavour, auth="token", tls=True) as registry:
        for repository in ("public/web", "acme/web"):
            push(registry, repository, "1", image())
        assert [request.username for request in registry.tokens.requests] == ["dev", "dev"]
        registry.tokens.requests.clear()
        registry.username = ""
        for repository, status in [("public/web", 200), ("acme/web", 401)]:
            with Session(registry, f"repository:{repository}:pull") as session:
                assert session.request("GET", f"/v2/{repository}/manifests/1", headers=ACCEPT).status == status
                assert session.request("GET", f"/v2/{repository}/manifests/1", headers=ACCEPT).status == status
        assert [request.scopes for request in registry.tokens.requests] == [
            ("repository:public/web:pull",),
            ("repository:acme/web:pull",),
        ]


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_a_registry_comes_back_with_what_it_had(flavour):
    with registry_or_skip(flavour) as registry:
        digest = push(registry, "acme/web", "1", image())
        registry.stop_server()
        with pytest.raises(ConnectionRefusedError):
            push(registry, "acme/web", "1", image())
        registry.start_server()
        with urllib.request.urlopen(
            urllib.request.Request(f"{registry.url}/v2/acme/web/manifests/1", headers=ACCEPT)
        ) as response:
            assert response.headers["Docker-Content-Digest"] == digest


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("delete", [False, True])
def test_deletion_is_an_option(flavour, delete):
    with registry_or_skip(flavour, delete=delete) as registry:
        digest = push(registry, "acme/web", None, image())
        with Session(registry, "") as session:
            assert session.request("DELETE", f"/v2/acme/web/manifests/{digest}").status == (202 if delete else 405)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_skopeo_copies_an_index(flavour, tmp_path):
    skopeo = shutil.which("skopeo")
    if skopeo is None and os.environ.get("CI") != "true":
        pytest.skip("skopeo is not installed")
    web = index([image(), image(architecture="arm64")])
    with registry_or_skip(flavour, auth="token", tls=True) as registry:
        push(registry, "acme/web", "1", web)
        credentials = base64.b64encode(f"{registry.username}:{registry.password}".encode()).decode()
        (tmp_path / "auth.json").write_text(json.dumps({"auths": {registry.host: {"auth": credentials}}}))
        copy = [skopeo, "--insecure-policy", "copy", "--all", f"--authfile={tmp_path}/auth.json"]
        certificates = [f"--src-cert-dir={registry.directory}/skopeo", f"--dest-cert-dir={registry.directory}/skopeo"]
        (registry.directory / "skopeo").mkdir()
        (registry.directory / "skopeo" / "ca.crt").write_bytes(registry.ca_pem)
        subprocess.run(
            [*copy, *certificates, f"docker://{registry.host}/acme/web:1", f"docker://{registry.host}/acme/copy:1"],
            check=True,
        )
        with Session(registry, "repository:acme/copy:pull") as session:
            head = session.request("HEAD", "/v2/acme/copy/manifests/1", headers={"Accept": OCI_INDEX})
            assert head.headers["Docker-Content-Digest"] == web.digest
