"""What our code relies on in a Kubernetes API server, asked of the fake one and of the real one alike, so that the
fake cannot drift.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from imagestreams.kube.cluster import (
    JSON_PATCH,
    METADATA,
    METADATA_LIST,
    AlreadyExists,
    ApiError,
    Cluster,
    Conflict,
    Forbidden,
    Gone,
    Invalid,
    NotFound,
    Unauthorized,
    api_path,
    error_of,
    split_page,
)
from tests.fakes.apiserver import FakeApiServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from dev.control_plane import ControlPlane

GROUP = "contract.imagestreams.dev"
THINGS = f"{GROUP}/v1"
CRD = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": f"things.{GROUP}"},
    "spec": {
        "group": GROUP,
        "scope": "Namespaced",
        "names": {"plural": "things", "singular": "thing", "kind": "Thing", "listKind": "ThingList"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
            }
        ],
    },
}


@dataclass
class Api:
    """An API server with the resource `things` and a namespace for the test."""

    cluster: Cluster
    namespace: str
    anonymous: Cluster

    def path(self, resource: str = "things", name: str = "", subresource: str = "") -> str:
        group_version = {"things": THINGS, "deployments": "apps/v1", "leases": "coordination.k8s.io/v1"}.get(
            resource, "v1"
        )
        return api_path(group_version, resource, self.namespace, name, subresource)

    async def create(self, name: str = "a", resource: str = "things", **fields: Any) -> dict[str, Any]:
        fields["metadata"] = {"name": name, **fields.get("metadata", {})}
        if resource == "things":  # the kinds of built-in resources may be left out
            fields |= {"apiVersion": THINGS, "kind": "Thing"}
        return json.loads(await self.cluster.post(self.path(resource), _json(fields)))

    async def get(self, name: str = "a", resource: str = "things") -> dict[str, Any]:
        return json.loads(await self.cluster.get(self.path(resource, name)))

    async def merge(
        self, patch: object, name: str = "a", resource: str = "things", subresource: str = ""
    ) -> dict[str, Any]:
        return json.loads(await self.cluster.patch(self.path(resource, name, subresource), _json(patch)))

    async def json_patch(self, *operations: object, name: str = "a", resource: str = "things") -> dict[str, Any]:
        return json.loads(await self.cluster.patch(self.path(resource, name), _json(operations), JSON_PATCH))

    async def version(self, resource: str = "things") -> str:
        """The resourceVersion of now."""
        return json.loads(await self.cluster.get(self.path(resource)))["metadata"]["resourceVersion"]

    async def events(self, since: str, count: int, resource: str = "things", **params: str) -> list[dict[str, Any]]:
        """The next events of a watch."""
        found: list[dict[str, Any]] = []
        params = {"resourceVersion": since, "timeoutSeconds": "20"} | params
        accept = params.pop("accept", "application/json")
        async with self.cluster.open_watch(
            self.path(resource), params=params, accept=accept, read_timeout=20
        ) as batches:
            async for lines in batches:
                found += map(json.loads, lines)
                if len(found) >= count:
                    return found
        return found


def _json(value: object) -> bytes:
    return msgspec.json.encode(value)


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.cluster)])
async def api(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Api]:
    if request.param == "fake":
        async with FakeApiServer(tokens={"good"}) as server:
            server.define(THINGS, "things", "Thing", status=True)
            good = server.kubeconfig(tmp_path / "good", user={"token": "good"})
            bad = server.kubeconfig(tmp_path / "bad", user={"token": "bad"})
            async with await Cluster.connect(str(good)) as cluster, await Cluster.connect(str(bad)) as anonymous:
                yield Api(cluster, "contract", anonymous)
        return
    plane: ControlPlane = request.getfixturevalue("control_plane")
    bad = tmp_path / "bad"
    user = {"name": "bad", "user": {"token": "bad"}}
    where = {"name": "real", "cluster": {"server": plane.url, "certificate-authority": str(plane.ca_file)}}
    context = {"name": "c", "context": {"cluster": "real", "user": "bad"}}
    bad.write_text(json.dumps({"clusters": [where], "users": [user], "contexts": [context], "current-context": "c"}))
    async with await Cluster.connect(str(plane.kubeconfig)) as cluster, await Cluster.connect(str(bad)) as anonymous:
        _define(plane)
        namespace = f"contract-{secrets.token_hex(4)}"
        await cluster.post(api_path("v1", "namespaces"), _json({"metadata": {"name": namespace}}))
        yield Api(cluster, namespace, anonymous)
        await cluster.delete(api_path("v1", "namespaces", name=namespace))


def _define(plane: ControlPlane) -> None:
    """Let the real one serve `things`."""
    plane.kubectl("apply", "--server-side", "-f", "-", input=json.dumps(CRD))
    plane.kubectl("wait", "--for=condition=Established", "--timeout=30s", f"crd/things.{GROUP}")


# --- objects
# -------------------------------------------------------------------------------------------------------------


async def test_a_created_object_has_identity_and_no_status(api: Api) -> None:
    made = await api.create(spec={"a": 1}, status={"forged": True})
    assert made["apiVersion"] == THINGS
    assert made["kind"] == "Thing"
    assert made["metadata"]["generation"] == 1
    assert made["metadata"]["uid"]
    assert made["metadata"]["creationTimestamp"].endswith("Z")
    assert int(made["metadata"]["resourceVersion"]) > 0
    assert "status" not in made
    assert await api.get() == made


async def test_a_generated_name(api: Api) -> None:
    made = json.loads(
        await api.cluster.post(
            api.path(), _json({"apiVersion": THINGS, "kind": "Thing", "metadata": {"generateName": "x-"}})
        )
    )
    assert made["metadata"]["name"].startswith("x-")
    assert len(made["metadata"]["name"]) > 4


async def test_creating_twice(api: Api) -> None:
    await api.create()
    with pytest.raises(AlreadyExists) as caught:
        await api.create()
    assert caught.value.status == 409
    assert f'things.{GROUP} "a" already exists' in caught.value.message


async def test_creating_with_a_resource_version_is_refused(api: Api) -> None:
    with pytest.raises(ApiError, match="resourceVersion"):
        await api.create(metadata={"resourceVersion": "1"})


async def test_what_is_not_there(api: Api) -> None:
    with pytest.raises(NotFound, match=f'things.{GROUP} "a" not found'):
        await api.get()
    with pytest.raises(NotFound, match="was answered with HTTP status 404"):
        await api.cluster.get(api_path(THINGS, "others", api.namespace))
    with pytest.raises(NotFound):
        await api.merge({}, subresource="nothing")


async def test_a_dry_run_stores_nothing(api: Api) -> None:
    await api.cluster.post(
        api.path(), _json({"apiVersion": THINGS, "kind": "Thing", "metadata": {"name": "a"}}), params={"dryRun": "All"}
    )
    with pytest.raises(NotFound):
        await api.get()


async def test_a_wrong_credential(api: Api) -> None:
    with pytest.raises(Unauthorized) as caught:
        await api.anonymous.get(api.path())
    assert caught.value.reason == "Unauthorized"


async def test_discovery(api: Api) -> None:
    assert await api.cluster.serves(THINGS, "things")
    assert await api.cluster.serves("v1", "secrets")
    assert not await api.cluster.serves(THINGS, "others")
    assert not await api.cluster.serves("nobody.example/v1", "things")
    assert not await api.cluster.aggregated(GROUP)
    assert not await api.cluster.aggregated("nobody.example")


async def test_a_subject_access_review(api: Api) -> None:
    review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview"}
    spec = {
        "user": "root",
        "groups": ["system:masters"],
        "resourceAttributes": {"verb": "get", "resource": "secrets", "namespace": api.namespace},
    }
    answer = await api.cluster.post(
        "/apis/authorization.k8s.io/v1/subjectaccessreviews", _json({**review, "spec": spec})
    )
    assert json.loads(answer)["status"]["allowed"] is True


# --- writes
# --------------------------------------------------------------------------------------------------------------


async def test_a_merge_patch(api: Api) -> None:
    made = await api.create(spec={"keep": 1, "drop": 2, "list": [1, 2]}, metadata={"annotations": {"a/b": "c"}})
    patched = await api.merge(
        {"spec": {"drop": None, "list": [3], "new": {"x": None, "y": 1}}, "metadata": {"annotations": {"d": "e"}}}
    )
    assert patched["spec"] == {"keep": 1, "list": [3], "new": {"y": 1}}
    assert patched["metadata"]["annotations"] == {"a/b": "c", "d": "e"}
    assert int(patched["metadata"]["resourceVersion"]) > int(made["metadata"]["resourceVersion"])


async def test_a_patch_of_an_older_version_is_a_conflict(api: Api) -> None:
    made = await api.create(spec={"a": 1})
    version = made["metadata"]["resourceVersion"]
    newer = await api.merge({"metadata": {"resourceVersion": version}, "spec": {"a": 2}})
    with pytest.raises(Conflict) as caught:
        await api.merge({"metadata": {"resourceVersion": version}, "spec": {"a": 3}})
    assert caught.value.reason == "Conflict"
    assert await api.get() == newer


async def test_a_write_to_another_uid(api: Api) -> None:
    made = await api.create()
    made["metadata"]["uid"] = "00000000-0000-0000-0000-000000000000"
    with pytest.raises(Invalid, match="immutable"):
        await api.merge({"metadata": {"uid": made["metadata"]["uid"]}, "spec": {"a": 3}})
    with pytest.raises(Conflict):
        await api.cluster.put(api.path(name="a"), _json({**made, "spec": {"a": 3}}))


async def test_a_write_that_changes_nothing_is_none(api: Api) -> None:
    made = await api.create(spec={"a": 1})
    assert (await api.merge({"spec": {"a": 1}}))["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]
    assert await api.version() >= made["metadata"]["resourceVersion"]


async def test_spec_and_status_are_written_apart(api: Api) -> None:
    await api.create(spec={"a": 1})
    main = await api.merge({"spec": {"a": 2}, "status": {"x": 1}})
    assert "status" not in main
    assert main["metadata"]["generation"] == 2
    written = await api.merge(
        {"spec": {"a": 3}, "status": {"x": 1}, "metadata": {"annotations": {"n": "o"}}}, subresource="status"
    )
    assert written["spec"] == {"a": 2}
    assert written["status"] == {"x": 1}
    assert written["metadata"]["generation"] == 2
    assert "annotations" not in written["metadata"]
    assert (await api.merge({"metadata": {"annotations": {"a": "b"}}}))["metadata"]["generation"] == 2


async def test_a_status_patch_has_the_same_precondition(api: Api) -> None:
    made = await api.create()
    await api.merge({"spec": {"a": 2}})
    with pytest.raises(Conflict):
        await api.merge(
            {"metadata": {"resourceVersion": made["metadata"]["resourceVersion"]}, "status": {"x": 1}},
            subresource="status",
        )


async def test_a_json_patch_with_tests(api: Api) -> None:
    made = await api.create(spec={"list": [{"name": "web", "image": "old"}]}, metadata={"annotations": {"a/b": "1"}})
    patched = await api.json_patch(
        {"op": "test", "path": "/metadata/uid", "value": made["metadata"]["uid"]},
        {"op": "test", "path": "/spec/list/0/name", "value": "web"},
        {"op": "test", "path": "/spec/list/0/image", "value": "old"},
        {"op": "test", "path": "/metadata/annotations/a~1b", "value": "1"},
        {"op": "test", "path": "/metadata/annotations/absent", "value": None},
        {"op": "test", "path": "/metadata/labels", "value": None},
        {"op": "add", "path": "/metadata/labels", "value": {"served": "x"}},
        {"op": "add", "path": "/metadata/annotations/a~1b", "value": "2"},
        {"op": "replace", "path": "/spec/list/0/image", "value": "new"},
        {"op": "add", "path": "/spec/list/-", "value": {"name": "log"}},
    )
    assert patched["spec"]["list"] == [{"name": "web", "image": "new"}, {"name": "log"}]
    assert patched["metadata"]["annotations"]["a/b"] == "2"
    assert patched["metadata"]["labels"] == {"served": "x"}


@pytest.mark.parametrize(
    "operation",
    [
        pytest.param({"op": "test", "path": "/spec/a", "value": 2}, id="a test fails"),
        pytest.param({"op": "test", "path": "/spec/b", "value": "x"}, id="a test of what is absent"),
        pytest.param({"op": "test", "path": "/spec/list/1", "value": "x"}, id="a test beyond a list"),
        pytest.param({"op": "replace", "path": "/spec/list/1", "value": 1}, id="replaces beyond a list"),
        pytest.param({"op": "replace", "path": "/spec/b/c", "value": 1}, id="replaces within what is absent"),
        pytest.param({"op": "remove", "path": "/spec/b"}, id="removes what is absent"),
        pytest.param({"op": "add", "path": "/metadata/labels/x", "value": "y"}, id="adds to an absent map"),
        pytest.param({"op": "add", "path": "/spec/list/2", "value": "y"}, id="adds beyond a list"),
    ],
)
async def test_a_json_patch_that_does_not_fit_changes_nothing(api: Api, operation: object) -> None:
    made = await api.create(spec={"a": 1, "list": ["x"]})
    with pytest.raises(Invalid) as caught:
        await api.json_patch({"op": "add", "path": "/spec/c", "value": 1}, operation)
    assert caught.value.status == 422
    assert await api.get() == made


async def test_a_json_patch_replaces_also_what_is_absent(api: Api) -> None:
    await api.create(spec={"a": 1})
    patched = await api.json_patch({"op": "replace", "path": "/spec/b", "value": 2})
    assert patched["spec"] == {"a": 1, "b": 2}


@pytest.mark.parametrize(
    "patch",
    [
        pytest.param({"op": "add", "path": "/spec/a", "value": 1}, id="not a list"),
        pytest.param([{"op": "add", "path": 1, "value": 1}], id="a path that is no text"),
    ],
)
async def test_what_is_no_json_patch_is_refused(api: Api, patch: object) -> None:
    await api.create()
    with pytest.raises(ApiError) as caught:
        await api.cluster.patch(api.path(name="a"), _json(patch), JSON_PATCH)
    assert caught.value.status == 400


async def test_a_strategic_patch_of_a_custom_resource_is_refused(api: Api) -> None:
    await api.create()
    with pytest.raises(ApiError) as caught:
        await api.cluster.patch(api.path(name="a"), b"{}", "application/strategic-merge-patch+json")
    assert caught.value.status == 415


async def test_put(api: Api) -> None:
    made = await api.create(spec={"a": 1})
    stale = {**made, "spec": {"a": 2}}
    replaced = json.loads(await api.cluster.put(api.path(name="a"), _json(stale)))
    assert replaced["spec"] == {"a": 2}
    with pytest.raises(Conflict):
        await api.cluster.put(api.path(name="a"), _json({**stale, "spec": {"a": 3}}))
    del stale["metadata"]["resourceVersion"]
    with pytest.raises(Invalid, match="resourceVersion"):
        await api.cluster.put(api.path(name="a"), _json(stale))


async def test_a_custom_resource_must_say_its_kind(api: Api) -> None:
    with pytest.raises(ApiError) as caught:
        await api.cluster.post(api.path(), b'{"metadata":{"name":"a"}}')
    assert caught.value.status == 400


async def test_not_json(api: Api) -> None:
    with pytest.raises(ApiError) as caught:
        await api.cluster.post(api.path(), b"{")
    assert caught.value.status == 400


async def test_delete(api: Api) -> None:
    made = await api.create()
    with pytest.raises(Conflict):
        await api.cluster.delete(api.path(name="a"), body=_json({"preconditions": {"uid": "another"}}))
    await api.cluster.delete(api.path(name="a"), body=_json({"preconditions": {"uid": made["metadata"]["uid"]}}))
    with pytest.raises(NotFound):
        await api.cluster.delete(api.path(name="a"))


async def test_a_finalizer_holds_a_deletion_up(api: Api) -> None:
    await api.create(metadata={"finalizers": ["example.com/hold"]})
    await api.cluster.delete(api.path(name="a"))
    assert (await api.get())["metadata"]["deletionTimestamp"]
    await api.merge({"metadata": {"finalizers": None}})
    with pytest.raises(NotFound):
        await api.get()


# --- lists
# ---------------------------------------------------------------------------------------------------------------


async def _names(api: Api, page: bytes) -> list[str]:
    return [json.loads(bytes(item))["metadata"]["name"] for item in split_page(page, "things").items or ()]


async def test_pages_are_one_snapshot(api: Api) -> None:
    for name in "abcde":
        await api.create(name)
    first = await api.cluster.get(api.path(), {"limit": "2"})
    await api.create("c2")
    head = split_page(first, "things").metadata
    second = await api.cluster.get(api.path(), {"limit": "3", "continue": head.continue_})
    assert await _names(api, first) == ["a", "b"]
    assert await _names(api, second) == ["c", "d", "e"]
    assert split_page(second, "things").metadata.resource_version == head.resource_version
    assert not split_page(second, "things").metadata.continue_


async def test_an_empty_list(api: Api) -> None:
    page = json.loads(await api.cluster.get(api.path()))
    assert page["items"] == []
    assert page["kind"] == "ThingList"
    assert int(page["metadata"]["resourceVersion"]) > 0


@pytest.mark.parametrize(
    ("params", "names"),
    [
        pytest.param({"labelSelector": "team=a"}, ["x", "y"], id="label equals"),
        pytest.param({"labelSelector": "team!=a"}, ["z"], id="label differs"),
        pytest.param({"labelSelector": "team in (b, c)"}, ["z"], id="label in"),
        pytest.param({"labelSelector": "!odd,team"}, ["x", "z"], id="label absent, label present"),
        pytest.param({"fieldSelector": "metadata.name=x"}, ["x"], id="name"),
        pytest.param({"fieldSelector": "metadata.name!=x"}, ["y", "z"], id="not the name"),
    ],
)
async def test_selectors(api: Api, params: dict[str, str], names: list[str]) -> None:
    for name, labels in {"x": {"team": "a"}, "y": {"team": "a", "odd": ""}, "z": {"team": "b"}}.items():
        await api.create(name, metadata={"labels": labels})
    assert await _names(api, await api.cluster.get(api.path(), params)) == names


async def test_secrets_by_type_and_their_metadata_alone(api: Api) -> None:
    await api.create("pull", "secrets", type="kubernetes.io/dockerconfigjson", data={".dockerconfigjson": "e30="})
    await api.create("other", "secrets", type="Opaque")
    selector = {"fieldSelector": "type=kubernetes.io/dockerconfigjson"}
    full = json.loads(await api.cluster.get(api.path("secrets"), selector))
    assert [item["metadata"]["name"] for item in full["items"]] == ["pull"]
    assert full["items"][0]["data"] == {".dockerconfigjson": "e30="}
    assert "kind" not in full["items"][0]
    partial = json.loads(await api.cluster.get(api.path("secrets"), selector, accept=METADATA_LIST))
    assert partial["kind"] == "PartialObjectMetadataList"
    assert partial["metadata"]["resourceVersion"]
    assert "data" not in partial["items"][0]
    assert partial["items"][0]["metadata"]["uid"] == full["items"][0]["metadata"]["uid"]
    assert partial["items"][0]["metadata"]["namespace"] == api.namespace


# --- watches
# -------------------------------------------------------------------------------------------------------------


async def test_a_watch_tells_what_happened_since(api: Api) -> None:
    since = await api.version()
    made = await api.create(spec={"a": 1})
    changed = await api.merge({"spec": {"a": 2}})
    await api.merge({"spec": {"a": 2}})
    await api.cluster.delete(api.path(name="a"))
    events = await api.events(since, 3)
    assert [event["type"] for event in events] == ["ADDED", "MODIFIED", "DELETED"]
    assert events[0]["object"] == made
    assert events[1]["object"] == changed
    assert int(events[2]["object"]["metadata"]["resourceVersion"]) > int(changed["metadata"]["resourceVersion"])


async def test_a_watch_goes_on_from_the_middle(api: Api) -> None:
    made = await api.create(spec={"a": 1})
    await api.merge({"spec": {"a": 2}})
    events = await api.events(made["metadata"]["resourceVersion"], 1)
    assert [event["type"] for event in events] == ["MODIFIED"]


async def test_a_watch_tells_what_happens_while_it_is_open(api: Api) -> None:
    since = await api.version()
    async with asyncio.TaskGroup() as group:
        watching = group.create_task(api.events(since, 2))
        await api.create("a")
        await api.create("b")
    assert [event["object"]["metadata"]["name"] for event in watching.result()] == ["a", "b"]


async def test_a_selected_watch_tells_of_entering_and_leaving(api: Api) -> None:
    since = await api.version()
    await api.create("a", metadata={"labels": {"follow": ""}})
    await api.create("b")
    await api.merge({"metadata": {"labels": {"follow": ""}}}, "b")
    left = await api.merge({"metadata": {"labels": None}}, "a")
    events = await api.events(since, 3, labelSelector="follow")
    assert [(event["type"], event["object"]["metadata"]["name"]) for event in events] == [
        ("ADDED", "a"),
        ("ADDED", "b"),
        ("DELETED", "a"),
    ]
    assert events[2]["object"]["metadata"]["resourceVersion"] == left["metadata"]["resourceVersion"]


async def test_a_watch_of_metadata_alone(api: Api) -> None:
    since = await api.version()
    await api.create(spec={"a": 1}, metadata={"annotations": {"a": "b"}})
    (event,) = await api.events(since, 1, accept=METADATA)
    assert event["object"]["kind"] == "PartialObjectMetadata"
    assert event["object"]["metadata"]["annotations"] == {"a": "b"}
    assert "spec" not in event["object"]


async def test_a_watch_from_too_long_ago(api: Api) -> None:
    await api.create()
    (event,) = await api.events("1", 1)
    assert event["type"] == "ERROR"
    assert isinstance(error_of(0, _json(event["object"])), Gone)


async def test_a_watch_ends_at_its_timeout(api: Api) -> None:
    since = await api.version()
    events = await asyncio.wait_for(api.events(since, 1, timeoutSeconds="1", allowWatchBookmarks="true"), 15)
    assert {event["type"] for event in events} <= {"BOOKMARK"}


async def test_a_watch_of_what_is_not_served(api: Api) -> None:
    with pytest.raises(NotFound):
        async with api.cluster.open_watch(api_path(THINGS, "others"), params={}, read_timeout=5):
            pass


# --- what our adapters write
# ---------------------------------------------------------------------------------------------


async def test_a_lease_is_let_go_and_taken(api: Api) -> None:
    spec = {
        "holderIdentity": "one",
        "leaseDurationSeconds": 15,
        "renewTime": "2026-11-01T00:00:00.000000Z",
        "leaseTransitions": 0,
    }
    made = await api.create("l", "leases", spec=spec)
    version = made["metadata"]["resourceVersion"]
    released = await api.merge(
        {"metadata": {"resourceVersion": version}, "spec": {"holderIdentity": None, "leaseDurationSeconds": 1}},
        "l",
        "leases",
    )
    assert "holderIdentity" not in released["spec"]
    with pytest.raises(Conflict):
        await api.merge({"metadata": {"resourceVersion": version}, "spec": {"holderIdentity": "two"}}, "l", "leases")


async def test_an_event_counts_up(api: Api) -> None:
    about = {"apiVersion": THINGS, "kind": "Thing", "namespace": api.namespace, "name": "a", "uid": "1"}
    await api.create("a.1", "events", involvedObject=about, type="Normal", reason="Tested", message="hello", count=1)
    assert (await api.merge({"count": 2, "lastTimestamp": "2026-11-01T00:00:00Z"}, "a.1", "events"))["count"] == 2


async def test_a_deployments_status_is_apart(api: Api) -> None:
    template = {
        "metadata": {"labels": {"app": "a"}},
        "spec": {"containers": [{"name": "web", "image": "example/web:1"}]},
    }
    made = await api.create(
        resource="deployments", spec={"replicas": 0, "selector": {"matchLabels": {"app": "a"}}, "template": template}
    )
    assert made["metadata"]["generation"] == 1
    changed = await api.json_patch(
        {"op": "test", "path": "/spec/template/spec/containers/0/image", "value": "example/web:1"},
        {"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": "example/web:2"},
        resource="deployments",
    )
    assert changed["metadata"]["generation"] == 2


# The fake one refuses only what a test injects.
@pytest.mark.parametrize("api", [pytest.param("real", marks=pytest.mark.cluster)], indirect=True)
async def test_forbidden_says_which_right_is_missing(request: pytest.FixtureRequest, api: Api) -> None:
    plane: ControlPlane = request.getfixturevalue("control_plane")
    await api.create("nobody", "serviceaccounts")
    kubeconfig = plane.service_account_kubeconfig(api.namespace, "nobody")
    async with await Cluster.connect(str(kubeconfig)) as cluster:
        with pytest.raises(Forbidden, match=f'nobody.* cannot list resource "things" in API group "{GROUP}"'):
            await cluster.get(api.path())
