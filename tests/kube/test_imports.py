"""Requests and the streams that they name, at the API server: what is watched, written under which conditions, and who
is asked about.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from imagestreams.core.admission import Requester
from imagestreams.core.stream import MalformedObject, ObjectKey
from imagestreams.kube.cluster import AlreadyExists, Conflict, Forbidden, Invalid, NotFound
from imagestreams.kube.imports import CARRIED_OUT_ANNOTATION, ImageStreamImports, RequestMetadata
from tests.fakes.apiserver import raw, status
from tests.fakes.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from imagestreams.kube.cluster import Cluster
    from tests.fakes.apiserver import FakeApiServer

API = "image.openshift.io/v1"
KEY = ObjectKey("shop", "web")
JANE = Requester("jane", "u-1", ("dev", "system:authenticated"), {"scopes.example/x": ("a", "b")})


@pytest.fixture
def served(api: FakeApiServer) -> FakeApiServer:
    api.define(API, "imagestreamimports", "ImageStreamImport")
    return api


@pytest.fixture
def imports(served: FakeApiServer, cluster: Cluster) -> ImageStreamImports:
    return ImageStreamImports(cluster, "image.openshift.io")


def request(name: str = "web", **annotations: str) -> dict[str, Any]:
    return {
        "apiVersion": API,
        "kind": "ImageStreamImport",
        "metadata": {"namespace": "shop", "name": name, "annotations": annotations},
        "spec": {"import": True, "images": [{"from": {"kind": "DockerImage", "name": "quay.io/acme/web:1"}}]},
    }


def stream(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": API,
        "kind": "ImageStream",
        "metadata": {"namespace": "shop", "name": "web"},
        "spec": spec or {"lookupPolicy": {"local": True}},
    }


@asynccontextmanager
async def watching(imports: ImageStreamImports, changes: list[tuple[str, str]]) -> AsyncIterator[Any]:
    reflector = imports.reflector(lambda key, _, __: changes.append(key))
    running = asyncio.create_task(reflector.run())
    try:
        await until(lambda: reflector.live)
        yield reflector.store
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


# --- requests ---------------------------------------------------------------------------------------------------------


async def test_requests_are_watched_by_their_metadata_alone(served: FakeApiServer, imports: ImageStreamImports) -> None:
    served.put(request("first") | {"status": {"import": "x" * 1000}})
    changes: list[tuple[str, str]] = []
    async with watching(imports, changes) as store:
        served.put(request("second", **{CARRIED_OUT_ANNOTATION: "2026-01-05T12:00:00Z"}))
        await until(lambda: len(store) == 2)
        first, second = store[("shop", "first")].metadata, store[("shop", "second")].metadata
        assert not hasattr(second, "annotations"), "anybody may write them, and as much as they like"
        assert first.creation_timestamp is not None
        assert first.creation_timestamp.tzinfo is not None
        assert first.uid
        served.remove(API, "imagestreamimports", "shop", "first")
        await until(lambda: len(store) == 1)
    assert changes == [("shop", "first"), ("shop", "second"), ("shop", "first")]
    reads = [seen for seen in served.requests if seen.resource == "imagestreamimports"]
    assert reads
    assert all("as=PartialObjectMetadata" in seen.headers["Accept"] for seen in reads)


async def test_a_request_is_read_whole(served: FakeApiServer, imports: ImageStreamImports) -> None:
    served.put(request())
    found = await imports.get(KEY)
    assert found is not None
    assert json.loads(found.body)["spec"] == request()["spec"]
    assert (found.metadata.key, found.is_carried_out) == (KEY, False)
    await imports.mark(KEY, found.metadata.uid, "failed: x")
    found = await imports.get(KEY)
    assert found is not None
    assert found.is_carried_out
    assert await imports.get(ObjectKey("shop", "gone")) is None


async def test_a_request_is_replaced_only_as_it_was_read(served: FakeApiServer, imports: ImageStreamImports) -> None:
    served.put(request() | {"status": {"forged": True}})
    found = await imports.get(KEY)
    assert found is not None
    body = json.loads(found.body)
    await imports.replace(KEY, json.dumps(body | {"status": {"images": []}}).encode())
    stored = served.get(API, "imagestreamimports", *KEY)
    assert stored is not None
    assert stored["status"] == {"images": []}, "nothing of what was there is left"
    with pytest.raises(Conflict):
        await imports.replace(KEY, json.dumps(body | {"status": {"again": True}}).encode())
    served.remove(API, "imagestreamimports", *KEY)
    with pytest.raises(NotFound):
        await imports.replace(KEY, json.dumps(body).encode())


async def test_a_mark_is_for_the_very_request_and_leaves_the_rest(
    served: FakeApiServer, imports: ImageStreamImports
) -> None:
    uid = served.put(request(theirs="stays"))["metadata"]["uid"]
    await imports.mark(KEY, uid, "2026-01-05T12:00:00Z")
    stored = served.get(API, "imagestreamimports", *KEY)
    assert stored is not None
    assert stored["metadata"]["annotations"] == {"theirs": "stays", CARRIED_OUT_ANNOTATION: "2026-01-05T12:00:00Z"}
    assert stored["spec"] == request()["spec"]
    with pytest.raises(Invalid):
        await imports.mark(KEY, "another", "failed: x")
    served.remove(API, "imagestreamimports", *KEY)
    await imports.mark(KEY, uid, "2026-01-05T12:00:00Z")


@pytest.mark.parametrize("annotations", [{}, {"theirs": "stays"}, None])
async def test_a_request_is_refused_without_a_look_at_it(
    served: FakeApiServer, imports: ImageStreamImports, annotations: dict[str, str] | None
) -> None:
    value = request() | {"status": {"images": [{"status": {"status": "Success"}}]}}
    value["metadata"]["annotations"] = annotations
    uid = served.put(value)["metadata"]["uid"]
    status = {"summary": {"result": "Failure", "images": "0/0"}}
    await imports.refuse(KEY, uid, status, "failed: x")
    stored = served.get(API, "imagestreamimports", *KEY)
    assert stored is not None
    assert stored["status"] == status, "nothing of what was there is left"
    assert stored["metadata"]["annotations"] == {**(annotations or {}), CARRIED_OUT_ANNOTATION: "failed: x"}
    assert stored["spec"] == request()["spec"]
    with pytest.raises(Invalid):
        await imports.refuse(KEY, "another", {}, "failed: y")
    assert served.get(API, "imagestreamimports", *KEY) == stored
    served.remove(API, "imagestreamimports", *KEY)
    await imports.refuse(KEY, uid, status, "failed: x")


async def test_only_the_very_request_is_deleted(served: FakeApiServer, imports: ImageStreamImports) -> None:
    def known(uid: str) -> RequestMetadata:
        return RequestMetadata(name=KEY.name, namespace=KEY.namespace, uid=uid)

    uid = served.put(request())["metadata"]["uid"]
    assert await imports.delete(known("another")) is False
    assert served.get(API, "imagestreamimports", *KEY) is not None
    assert await imports.delete(known(uid)) is True
    assert served.get(API, "imagestreamimports", *KEY) is None
    assert await imports.delete(known(uid)) is False


# --- streams ----------------------------------------------------------------------------------------------------------


async def test_a_stream_is_read_as_it_is_and_as_we_see_it(served: FakeApiServer, imports: ImageStreamImports) -> None:
    assert await imports.stream(KEY) is None
    served.put(stream(lookupPolicy={"local": True}, tags=[{"name": "1"}]))
    found = await imports.stream(KEY)
    assert found is not None
    assert found.raw["spec"]["lookupPolicy"] == {"local": True}, "also what we have no field for"
    assert [tag.name for tag in found.stream.spec_tags] == ["1"]


async def test_a_stream_that_is_nested_too_deep_is_malformed(
    served: FakeApiServer, imports: ImageStreamImports
) -> None:
    served.inject(raw(b'{"metadata": {"name": "web"}, "more": ' + b"[" * 2000 + b"]" * 2000 + b"}"))
    with pytest.raises(MalformedObject, match="ImageStream: "):
        await imports.stream(KEY)


async def test_a_stream_is_created_once(served: FakeApiServer, imports: ImageStreamImports) -> None:
    body = json.dumps(stream(tags=[{"name": "1"}])).encode()
    made = await imports.create_stream("shop", body)
    assert made.stream.metadata.uid
    with pytest.raises(AlreadyExists):
        await imports.create_stream("shop", body)


async def test_a_streams_spec_is_patched_as_it_was_read_or_not_at_all(
    served: FakeApiServer, imports: ImageStreamImports
) -> None:
    served.put(stream(lookupPolicy={"local": True}, tags=[{"name": "1"}]))
    found = await imports.stream(KEY)
    assert found is not None
    meta = found.stream.metadata
    conditions = {"uid": meta.uid, "resourceVersion": meta.resource_version}
    patch = json.dumps({"metadata": conditions, "spec": {"tags": [{"name": "1"}, {"name": "2"}]}}).encode()
    written = await imports.patch_stream(KEY, patch)
    assert [tag.name for tag in written.stream.spec_tags] == ["1", "2"]
    assert written.raw["spec"]["lookupPolicy"] == {"local": True}
    with pytest.raises(Conflict):
        await imports.patch_stream(KEY, patch)
    served.remove(API, "imagestreams", *KEY)
    with pytest.raises(NotFound):
        await imports.patch_stream(KEY, patch)


# --- rights -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["create", "update"])
async def test_the_right_is_asked_for_with_all_that_is_known_of_the_requester(
    served: FakeApiServer, imports: ImageStreamImports, verb: str
) -> None:
    asked: list[dict[str, Any]] = []
    served.allows = lambda spec: bool(asked.append(spec)) or verb == "update"
    assert await imports.may_write(JANE, verb, KEY) is (verb == "update")
    assert asked == [
        {
            "user": "jane",
            "uid": "u-1",
            "groups": ["dev", "system:authenticated"],
            "extra": {"scopes.example/x": ["a", "b"]},
            "resourceAttributes": {
                "verb": verb,
                "group": "image.openshift.io",
                "version": "v1",
                "resource": "imagestreams",
                "namespace": "shop",
                "name": "web",
            },
        }
    ]


async def test_who_cannot_be_asked_about_has_no_right(served: FakeApiServer, imports: ImageStreamImports) -> None:
    path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
    served.inject(status(403, "Forbidden"), when=lambda seen: seen.path == path)
    with pytest.raises(Forbidden):
        await imports.may_write(JANE, "update", KEY)
