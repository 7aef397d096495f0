"""Image objects at the API server: what is known of them, what is created, and what is not deleted by mistake."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import yaml

from imagestreams import settings
from imagestreams.core.image import NAMESPACE_LABEL, image_object, object_name
from imagestreams.core.manifest import DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, digest_of
from imagestreams.core.reference import ImageReference
from imagestreams.kube.cluster import Cluster, Forbidden
from imagestreams.kube.images import ImageObjects
from tests.fakes.apiserver import status
from tests.fakes.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from dev.control_plane import ControlPlane
    from tests.fakes.apiserver import FakeApiServer

ROOT = Path(__file__).parents[2]
API = "image.openshift.io/v1"
CONFIG = json.dumps(
    {
        "created": "2026-01-02T03:04:05Z",
        "architecture": "amd64",
        "config": {"Env": ["A=\u0000\u001b"], "Labels": {"a": "b"}, "ExposedPorts": {"80/tcp": {}}, "Memory": 1 << 62},
    }
).encode()


def image(number: int = 1) -> tuple[ImageReference, bytes]:
    """An image, pinned, and what is known of it."""
    layer = "application/vnd.docker.image.rootfs.diff.tar.gzip"
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": DOCKER_MANIFEST,
            "config": {
                "mediaType": "application/vnd.docker.container.image.v1+json",
                "digest": digest_of(CONFIG),
                "size": len(CONFIG),
            },
            "layers": [{"mediaType": layer, "digest": f"sha256:{number:064x}", "size": number}],
        }
    ).encode()
    reference = ImageReference.parse("quay.io/acme/web").pinned(digest_of(manifest))
    return reference, image_object(reference, reference.digest, manifest, DOCKER_MANIFEST, CONFIG)


def index() -> tuple[ImageReference, bytes]:
    platform = {"os": "linux", "architecture": "arm", "variant": "v7"}
    child = {"mediaType": OCI_MANIFEST, "digest": f"sha256:{1:064x}", "size": 500}
    manifests = [child | {"platform": platform}, child]
    body = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests}).encode()
    reference = ImageReference.parse("quay.io/acme/web").pinned(digest_of(body))
    return reference, image_object(reference, reference.digest, body, OCI_INDEX, None)


def foreign(name: str, **labels: str) -> dict[str, Any]:
    return {"apiVersion": API, "kind": "Image", "metadata": {"name": name, "labels": labels}}


@pytest.fixture
def served(api: FakeApiServer) -> FakeApiServer:
    api.define(API, "images", "Image", namespaced=False)
    return api


@asynccontextmanager
async def watching(cluster: Cluster, counts: list[int] | None = None) -> AsyncIterator[ImageObjects]:
    images = ImageObjects(cluster, "image.openshift.io", on_count=counts.append if counts is not None else None)
    running = asyncio.create_task(images.run())
    try:
        await until(lambda: images.live)
        yield images
    finally:
        running.cancel()
        await asyncio.wait([running])


async def test_only_names_and_labels_are_fetched(served: FakeApiServer, cluster: Cluster) -> None:
    served.put(foreign("sha256-" + "0" * 64) | {"dockerImageMetadata": {"Config": {"Env": ["SECRET=1"]}}})
    async with watching(cluster) as images:
        assert len(images) == 1
    assert [seen.verb for seen in served.requests] == ["list", "watch"]
    assert all("as=PartialObjectMetadata" in seen.headers["Accept"] for seen in served.requests)


async def test_what_is_created(served: FakeApiServer, cluster: Cluster) -> None:
    reference, body = image()
    async with watching(cluster) as images:
        assert not images.has(reference.digest)
        assert await images.create(body, namespace="team-a", reference=reference)
        # At once, before the watch can have brought it.
        assert images.has(reference.digest)
        assert images.count("team-a") == 1
    (made,) = served.all(API, "images")
    assert made["metadata"]["name"] == object_name(reference.digest)
    assert made["metadata"]["labels"] == {NAMESPACE_LABEL: "team-a"}
    assert made["dockerImageReference"] == str(reference)
    (request,) = (seen for seen in served.requests if seen.verb == "create")
    assert request.query == {"fieldManager": "imagestreams"}


async def test_one_that_is_there_stays_as_it_is(served: FakeApiServer, cluster: Cluster) -> None:
    reference, body = image()
    theirs = served.put(foreign(object_name(reference.digest)) | {"dockerImageReference": "elsewhere.example/web"})
    async with watching(cluster) as images:
        assert not await images.create(body, namespace="team-a", reference=reference)
        assert images.count("team-a") == 0
    assert served.all(API, "images") == [theirs]


async def test_a_refusal_is_raised(served: FakeApiServer, cluster: Cluster) -> None:
    served.inject(status(403, "Forbidden"), verb="create")
    reference, body = image()
    async with watching(cluster) as images:
        with pytest.raises(Forbidden):
            await images.create(body, namespace="team-a", reference=reference)
        assert not images.has(reference.digest)


async def test_objects_are_counted_by_the_namespace_that_had_them_first(
    served: FakeApiServer, cluster: Cluster
) -> None:
    counts: list[int] = []
    for number, namespace in enumerate(["team-a", "team-a", "team-b"]):
        served.put(foreign(f"sha256-{number:064x}", **{NAMESPACE_LABEL: namespace}))
    served.put(foreign("sha256-" + "f" * 64))
    async with watching(cluster, counts) as images:
        assert (images.count("team-a"), images.count("team-b"), images.count("")) == (2, 1, 0)
        assert len(images) == counts[-1] == 4
        assert {found.name for found in images.ours()} == {f"sha256-{number:064x}" for number in range(3)}
        served.put(foreign(f"sha256-{0:064x}", **{NAMESPACE_LABEL: "team-b"}))
        served.remove(API, "images", "", f"sha256-{1:064x}")
        served.put(foreign(f"sha256-{2:064x}"))  # somebody took our label away
        await until(lambda: images.count("team-b") == 1 and images.count("team-a") == 0)
        await until(lambda: [found.name for found in images.ours()] == [f"sha256-{0:064x}"])
        assert counts[-1] == 3
        await images._reflector.relist()
        assert (images.count("team-a"), images.count("team-b")) == (0, 1)


class TestDeletion:
    NAME = f"sha256-{1:064x}"

    async def known(self, served: FakeApiServer, images: ImageObjects) -> Any:
        served.put(foreign(self.NAME, **{NAMESPACE_LABEL: "team-a"}))
        await until(lambda: images.find(self.NAME))
        return images.find(self.NAME)

    async def test_of_what_was_seen(self, served: FakeApiServer, cluster: Cluster) -> None:
        async with watching(cluster) as images:
            assert await images.delete(await self.known(served, images))
            assert served.all(API, "images") == []
            await until(lambda: images.count("team-a") == 0)

    @pytest.mark.parametrize("is_new", [True, False], ids=["another of that name", "changed"])
    async def test_not_of_what_is_something_else_by_now(
        self, served: FakeApiServer, cluster: Cluster, *, is_new: bool
    ) -> None:
        async with watching(cluster) as images:
            seen = await self.known(served, images)
            if is_new:
                served.remove(API, "images", "", self.NAME)
            served.put(foreign(self.NAME, kept="yes"))
            assert not await images.delete(seen)
            assert len(served.all(API, "images")) == 1

    async def test_of_what_is_gone(self, served: FakeApiServer, cluster: Cluster) -> None:
        async with watching(cluster) as images:
            seen = await self.known(served, images)
            served.remove(API, "images", "", self.NAME)
            assert not await images.delete(seen)

    async def test_what_is_being_deleted_is_not_ours_to_delete(self, served: FakeApiServer, cluster: Cluster) -> None:
        async with watching(cluster) as images:
            held = foreign(self.NAME, **{NAMESPACE_LABEL: "team-a"})
            held["metadata"] |= {"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["example.com/hold"]}
            served.put(held)
            await until(lambda: images.find(self.NAME))
            assert list(images.ours()) == []
            assert images.count("team-a") == 1, "it is there until it is gone"


async def test_a_cluster_without_the_crd_is_said_and_waited_for(api: FakeApiServer, cluster: Cluster) -> None:
    images = ImageObjects(cluster, "image.openshift.io")
    running = asyncio.create_task(images.run())
    await until(lambda: images.problem)
    assert "are its CRDs installed?" in (images.problem or "")
    assert not images.synced.is_set()
    api.define(API, "images", "Image", namespaced=False)
    await until(images.synced.is_set)
    running.cancel()
    await asyncio.wait([running])


# --- the schema -------------------------------------------------------------------------------------------------------

CRD = yaml.safe_load((ROOT / "crds/images.yaml").read_text())
(VERSION,) = CRD["spec"]["versions"]
SCHEMA = VERSION["schema"]["openAPIV3Schema"]

# openshift/api, image/v1/types.go: Image, ImageLayer, ImageManifest.
OPENSHIFT = {
    "": "dockerImageReference dockerImageMetadata dockerImageMetadataVersion dockerImageManifest dockerImageLayers "
    "signatures dockerImageSignatures dockerImageManifestMediaType dockerImageConfig dockerImageManifests",
    "dockerImageLayers": "name size mediaType",
    "dockerImageManifests": "digest mediaType manifestSize architecture os variant",
}


def at(path: str) -> dict[str, Any]:
    schema: dict[str, Any] = SCHEMA["properties"][path]["items"] if path else SCHEMA
    return schema


def fields(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for child in schema.get("properties", {}).values():
        yield child
        yield from fields(child)
    if "items" in schema:
        yield from fields(schema["items"])


@pytest.mark.parametrize(
    ("path", "name"), [(path, name) for path, names in OPENSHIFT.items() for name in names.split()]
)
def test_every_field_of_openshift_is_listed(path: str, name: str) -> None:
    assert name in at(path)["properties"]


def test_kubectl_explain_has_words_for_every_field_and_nothing_has_a_default() -> None:
    assert [field for field in fields(SCHEMA) if not field.get("description") or "default" in field] == []


def test_it_is_cluster_wide_and_spared_by_delete_all() -> None:
    assert CRD["spec"]["scope"] == "Cluster"
    assert {"categories", "shortNames"}.isdisjoint(CRD["spec"]["names"])
    assert (CRD["spec"]["group"], VERSION["name"]) == (settings.DEFAULT_GROUP, settings.VERSION)


@pytest.mark.parametrize("make", [image, index])
def test_all_that_we_write_is_listed_with_all_that_is_required(make: Any) -> None:
    def check(value: dict[str, Any], schema: dict[str, Any]) -> None:
        assert set(schema.get("required", ())) <= value.keys() <= schema["properties"].keys()
        for name, inner in value.items():
            if isinstance(inner, list):
                for element in inner:
                    check(element, schema["properties"][name]["items"])

    _, body = make()
    made = msgspec.json.decode(body)
    del made["metadata"]
    check(made, SCHEMA)


# --- on a real API server ---------------------------------------------------------------------------------------------


@pytest.fixture
def images_api(control_plane: ControlPlane) -> Iterator[ControlPlane]:
    """The CRD, served for one test."""
    control_plane.kubectl("apply", "--server-side", "-f", str(ROOT / "crds/images.yaml"))
    control_plane.kubectl("wait", "--for=condition=Established", "--timeout=30s", f"crd/{CRD['metadata']['name']}")
    yield control_plane
    control_plane.kubectl("delete", f"crd/{CRD['metadata']['name']}")


async def test_a_life_on_a_real_server(images_api: ControlPlane) -> None:
    async with await Cluster.connect(str(images_api.kubeconfig)) as cluster, watching(cluster) as images:
        for reference, body in (image(), index()):
            assert await images.create(body, namespace="team-a", reference=reference)
            assert not await images.create(body, namespace="team-b", reference=reference)
            stored = images_api.request("GET", f"/apis/{API}/images/{object_name(reference.digest)}")
            written = {name: stored[name] for name in msgspec.json.decode(body) if name != "metadata"}
            assert written == {k: v for k, v in msgspec.json.decode(body).items() if k != "metadata"}, "nothing pruned"
        assert images.count("team-a") == 2
        shown = images_api.kubectl("get", "images.image.openshift.io").stdout
        assert "quay.io/acme/web@sha256:" in shown
        wrong = {"apiVersion": API, "kind": "Image", "metadata": {"name": "web"}, "digest": "sha256:" + "0" * 64}
        refused = images_api.kubectl("apply", "-f", "-", input=json.dumps(wrong), check=False)
        assert "belongs into an object with the name sha256-000" in refused.stderr
        for found in list(images.ours()):
            assert await images.delete(found)
        await until(lambda: len(images) == 0)
