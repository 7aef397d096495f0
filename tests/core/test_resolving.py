"""Short image names, decided: what they mean in a namespace that has streams of these names."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagestreams.core.admission import Allowed, Requester, Review
from imagestreams.core.policy import Policy
from imagestreams.core.resolving import RESOLVE_NAMES_ANNOTATION, resolve_names
from imagestreams.core.stream import ImageStream, ObjectKey, decode
from tests.core.streams import digest, pinned
from tests.fakes.patching import json_patched

Json = dict[str, Any]

POLICY = Policy(hosts={})
ALL = {RESOLVE_NAMES_ANNOTATION: "*"}
REPOSITORY = "registry.internal:5000/team/own"
KINDS = {
    "pods": ("", ()),
    "replicationcontrollers": ("", ("spec", "template")),
    "deployments": ("apps", ("spec", "template")),
    "daemonsets": ("apps", ("spec", "template")),
    "statefulsets": ("apps", ("spec", "template")),
    "replicasets": ("apps", ("spec", "template")),
    "jobs": ("batch", ("spec", "template")),
    "cronjobs": ("batch", ("spec", "jobTemplate", "spec", "template")),
}


def stream(
    name: str,
    *,
    is_local: bool = True,
    repository: str | None = None,
    reference_policy: str | None = None,
    namespace: str = "team",
    **tags: str | None,
) -> ImageStream:
    """A stream whose tags have these images (a letter is a digest; None: nothing yet)."""
    events = [
        {"tag": tag, "items": [{"dockerImageReference": pinned(letter), "image": digest(letter)}] if letter else None}
        for tag, letter in tags.items()
    ]
    spec_tags = [{"name": tag, "referencePolicy": {"type": reference_policy}} for tag in tags]
    body = {
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"lookupPolicy": {"local": is_local}, "tags": spec_tags},
        "status": {"dockerImageRepository": repository, "tags": events},
    }
    return decode(json.dumps(body).encode())


_TEXT = {
    "metadata": {"name": "text", "namespace": "team"},
    "spec": {"lookupPolicy": {"local": True}, "tags": [{"name": "latest", "reference": True}]},
    "status": {"tags": [{"tag": "latest", "items": [{"dockerImageReference": "quay.io/acme/app:stable"}]}]},
}
_FORGED = {**_TEXT, "metadata": {"name": "forged", "namespace": "team"}, "spec": {"lookupPolicy": {"local": True}}}
STREAMS = {
    each.key: each
    for each in (
        stream("web", latest="a", v2="b", new=None),
        stream("closed", is_local=False, latest="a"),
        stream("own", repository=REPOSITORY, latest="a"),
        stream("own-closed", repository=REPOSITORY, is_local=False, latest="a"),
        stream("pulled", repository=REPOSITORY, reference_policy="Local", latest="a"),
        stream("odd", repository="not a repository"),
        stream("elsewhere", namespace="other", latest="a"),
        decode(json.dumps(_TEXT).encode()),
        decode(json.dumps(_FORGED).encode()),
    )
}


def workload(
    resource: str, *images: str, init: str | None = None, template: Json | None = None, **metadata: Any
) -> Json:
    pod: Json = {"metadata": {"annotations": template}, "spec": {"containers": []}}
    for number, image in enumerate(images):
        pod["spec"]["containers"].append({"name": f"c{number}", "image": image, "env": []})
    if init is not None:
        pod["spec"]["initContainers"] = [{"name": "first", "image": init}]
    path = KINDS[resource][1]
    if not path:
        annotations = {**(template or {}), **metadata.pop("annotations", {})}
        return {**pod, "metadata": {"name": "x", "annotations": annotations, **metadata}}
    body: Any = pod
    for part in reversed(path):
        body = {part: body}
    return {"metadata": {"name": "x", **metadata}, **body}


def review(resource: str, body: Json, before: Json | None = None, /, **fields: Any) -> Review:
    asked = Review(
        uid="1",
        operation="CREATE" if before is None else "UPDATE",
        group=KINDS[resource][0],
        version="v1",
        resource=resource,
        subresource="",
        kind="",
        namespace="team",
        name="x",
        requester=Requester("jane"),
        object=json.dumps(body).encode(),
        old=b"" if before is None else json.dumps(before).encode(),
        is_dry_run=False,
    )
    return replace(asked, **fields)


def images(resource: str, body: Json, old: Json | None = None, *, policy: Policy = POLICY, **fields: Any) -> list[str]:
    """The images that the object is stored with, its init container's first. Being asked again changes nothing."""
    found = resolve_names(review(resource, body, old, **fields), STREAMS.get, policy)
    stored = json_patched(body, list(found.patch))
    assert resolve_names(review(resource, stored, old, **fields), STREAMS.get, policy) == Allowed()
    pod: Any = stored
    for part in KINDS[resource][1]:
        pod = pod[part]
    return [each["image"] for each in (*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"])]


@pytest.mark.parametrize("resource", KINDS)
@pytest.mark.parametrize(
    ("image", "meaning", "all_names"),
    [
        pytest.param("web", pinned("a"), pinned("a"), id="a name means its latest"),
        pytest.param("web:v2", pinned("b"), pinned("b"), id="a tag"),
        pytest.param("web:new", "web:new", "web:new", id="nothing there yet"),
        pytest.param("web:gone", "web:gone", "web:gone", id="no such tag"),
        pytest.param("gone", "gone", "gone", id="no such stream"),
        pytest.param("elsewhere", "elsewhere", "elsewhere", id="another namespace's stream"),
        pytest.param("closed", "closed", pinned("a"), id="the policy is not local"),
        pytest.param(f"web@{digest('c')}", f"web@{digest('c')}", f"web@{digest('c')}", id="a digest"),
        pytest.param(f"web:v2@{digest('c')}", f"web:v2@{digest('c')}", f"web:v2@{digest('c')}", id="both"),
        pytest.param("acme/web", "acme/web", pinned("a"), id="a namespace"),
        pytest.param("docker.io/library/web:v2", "docker.io/library/web:v2", pinned("b"), id="a registry"),
        pytest.param("quay.io/a/deep/web", "quay.io/a/deep/web", "quay.io/a/deep/web", id="a longer name is another"),
        pytest.param("own:new", f"{REPOSITORY}:new", f"{REPOSITORY}:new", id="to be pushed to our registry"),
        pytest.param("own-closed:new", "own-closed:new", f"{REPOSITORY}:new", id="the same, not local"),
        pytest.param("own", pinned("a"), pinned("a"), id="what is imported is at its source"),
        pytest.param("pulled", f"{REPOSITORY}@{digest('a')}", f"{REPOSITORY}@{digest('a')}", id="reference policy"),
        pytest.param("odd:new", "odd:new", "odd:new", id="a repository that is none"),
        pytest.param("text", "quay.io/acme/app:stable", "quay.io/acme/app:stable", id="a reference tag"),
        pytest.param("forged", "forged", "forged", id="a status that claims more than spec"),
        pytest.param("Web", "Web", "Web", id="no image reference"),
        pytest.param("", "", "", id="no image"),
        pytest.param("web.local", "web.local", "web.local", id="a registry alone"),
    ],
)
def test_what_a_name_means(resource: str, image: str, meaning: str, all_names: str):
    body = workload(resource, image, "quay.io/own:1", init=image)
    assert images(resource, body) == [meaning, meaning, "quay.io/own:1"]
    for annotated in ({"annotations": ALL}, {"template": ALL}):
        assert images(resource, workload(resource, image, init=image, **annotated)) == [all_names, all_names]
    for unclear in ({"annotations": {RESOLVE_NAMES_ANNOTATION: "true"}}, {"template": {"note": "*"}}):
        assert images(resource, workload(resource, image, **unclear)) == [meaning]


@pytest.mark.parametrize("resource", KINDS)
def test_nothing_else_is_touched(resource: str):
    body = workload(resource, "web", "quay.io/acme/x:1", init="web:v2")
    patch = resolve_names(review(resource, body), STREAMS.get, POLICY).patch
    base = "/".join(("", *KINDS[resource][1], "spec"))
    assert patch == (
        {"op": "add", "path": f"{base}/initContainers/0/image", "value": pinned("b")},
        {"op": "add", "path": f"{base}/containers/0/image", "value": pinned("a")},
    )


@pytest.mark.parametrize("resource", [resource for resource in KINDS if resource != "jobs"])
def test_an_update_resolves_what_it_changes(resource: str):
    old = workload(resource, "web", "web:v2", init="web")
    assert images(resource, workload(resource, "web", "web", init="web"), old) == ["web", "web", pinned("a")]
    assert images(resource, workload(resource, "web", "web:v2", "web", init="web"), old)[-1] == pinned("a"), "a new one"
    assert images(resource, old, old) == ["web", "web", "web:v2"], "an image from before is kept"


def test_a_container_is_known_by_its_name_in_either_list():
    old = workload("deployments", "web")
    moved = workload("deployments", "gone", init="web")
    pod = moved["spec"]["template"]["spec"]
    pod["initContainers"][0]["name"], pod["containers"][0]["name"] = "c0", "c1"
    assert images("deployments", moved, old) == ["web", "gone"]


@pytest.mark.parametrize("resource", [resource for resource in KINDS if resource != "jobs"])
@pytest.mark.parametrize(
    ("before", "after", "image", "meaning"),
    [
        pytest.param({}, {"annotations": ALL}, "acme/web", pinned("a"), id="annotated by now"),
        pytest.param({}, {"template": ALL}, "acme/web", pinned("a"), id="its pod annotated by now"),
        pytest.param({"annotations": ALL}, {}, "web", pinned("a"), id="no longer annotated"),
        pytest.param({"annotations": ALL}, {"template": ALL}, "acme/web", "acme/web", id="in the other place"),
        pytest.param({"annotations": ALL}, {"annotations": ALL}, "acme/web", "acme/web", id="as before"),
    ],
)
def test_the_annotation_that_comes_or_goes_has_all_names_resolved(
    resource: str, before: Json, after: Json, image: str, meaning: str
):
    assert images(resource, workload(resource, image, **after), workload(resource, image, **before)) == [meaning]


def test_a_job_cannot_be_changed():
    assert images("jobs", workload("jobs", "web", "web"), workload("jobs", "web", "x")) == ["web", "web"]


@pytest.mark.parametrize(
    ("owners", "is_resolved"),
    [
        pytest.param([{"name": "x", "controller": True}], False, id="a controller"),
        pytest.param([{"name": "y"}, {"name": "x", "controller": True}], False, id="one of them"),
        pytest.param([{"name": "x", "controller": False}], True, id="an owner"),
        pytest.param([{"name": "x"}, {"name": "y", "controller": None}], True, id="owners"),
        pytest.param(None, True, id="null"),
    ],
)
@pytest.mark.parametrize("resource", KINDS)
def test_what_another_object_controls_was_resolved_there(resource: str, owners: Json | None, is_resolved: bool):
    body = workload(resource, "web", ownerReferences=owners)
    assert images(resource, body) == [pinned("a") if is_resolved else "web"]


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"resource": "ingresses", "group": "networking.k8s.io"}, id="another resource"),
        pytest.param({"group": "extensions"}, id="another group"),
        pytest.param({"version": "v1beta1"}, id="another version"),
        pytest.param({"subresource": "scale"}, id="a subresource"),
        pytest.param({"operation": "DELETE"}, id="another operation"),
        pytest.param({"operation": "UPDATE"}, id="an update of nothing"),
        pytest.param({"namespace": "empty"}, id="no streams there"),
        pytest.param({"object": b""}, id="nothing"),
        pytest.param({"object": b"\xff"}, id="not UTF-8"),
        pytest.param({"object": b'{"metadata": {"name": "x"}, "spec": {"template": null}}'}, id="no template"),
        pytest.param({"object": b'{"metadata": {"name": "x"}}'}, id="no spec"),
        pytest.param({"object": b'{"spec": {"template": {}}}'}, id="no metadata"),
    ],
)
def test_what_is_not_resolved(fields: Json):
    asked = review("deployments", workload("deployments", "web"), **fields)
    assert resolve_names(asked, STREAMS.get, POLICY) == Allowed()


def test_what_the_policy_refuses_is_not_written():
    assert images("pods", workload("pods", "web"), policy=Policy(hosts={}, blocked=("quay.io",))) == ["web"]


_image = st.sampled_from(["web", "web:v2", "own:new", "closed", "acme/web", "Web", "", "x" * 700]) | st.text(
    max_size=20
)
_annotations = st.sampled_from([None, {}, ALL, {"note": "x"}])


@settings(deadline=None)
@given(
    st.sampled_from(list(KINDS)),
    st.lists(_image, max_size=3),
    st.none() | st.lists(_image, max_size=3),
    st.lists(_annotations, min_size=4, max_size=4),
)
def test_whatever_is_named(resource: str, names: list[str], before: list[str] | None, marks: list[Json | None]):
    old = None if before is None else workload(resource, *before, annotations=marks[0] or {}, template=marks[1])
    body = workload(resource, *names, annotations=marks[2] or {}, template=marks[3])
    known = {pinned("a"), pinned("b"), f"{REPOSITORY}:new"}
    found = images(resource, copy.deepcopy(body), old)
    assert all(new == name or new in known for new, name in zip(found, names, strict=True))


@given(st.binary(), st.booleans())
def test_what_cannot_be_read_is_let_pass(body: bytes, is_new: bool):
    asked = review("pods", {}, object=body, old=body, operation="CREATE" if is_new else "UPDATE")
    assert resolve_names(asked, STREAMS.get, POLICY) == Allowed()


def test_streams_are_asked_for_in_the_requests_namespace_only():
    asked: list[ObjectKey] = []

    def streams(key: ObjectKey) -> ImageStream | None:
        asked.append(key)
        return None

    resolve_names(review("pods", workload("pods", "web", "docker.io/a/own", annotations=ALL)), streams, POLICY)
    assert asked == [ObjectKey("team", "web"), ObjectKey("team", "own")]
