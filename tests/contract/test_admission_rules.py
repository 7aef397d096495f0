"""Which writes reach our webhooks: the rules and conditions that are shipped, asked of the real API server.

The webhooks are called over TLS, by URL, and let everything pass. They are installed with failurePolicy Fail, so that a
condition that cannot be evaluated fails the test instead of passing for "does not match".
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from imagestreams.core.admission import Allowed, decode_review, encode_verdict
from imagestreams.core.trigger import KINDS
from tests.contract.shipped import CONFIGURATIONS, called_at, serving, shipped
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dev.control_plane import ControlPlane

Json = dict[str, Any]

TRIGGERS, FOLLOW = "image.openshift.io/triggers", "imagestreams.dev/follow"
RESOLVE_NAMES = "alpha.image.policy.openshift.io/resolve-names"
PINS = "imagestreams.dev/pins"
SERVED = "served.imagestreams.dev/"
DOORS = ("pinning", "resolving", "pins")


@dataclass
class Recorder:
    """Webhooks that let everything pass, and remember which of them was asked.

    `opted_in` and `plain` are namespaces in which they are called; only the first wants names to be resolved.
    """

    plane: ControlPlane
    opted_in: str
    plain: str
    owner_uid: str = ""
    asked: list[str] = field(default_factory=list)

    def let_pass(self, door: str, body: bytes) -> bytes:
        self.asked.append(door)
        return encode_verdict(decode_review(body).uid, Allowed())

    def reached(self, method: str, path: str, body: Json) -> set[str]:
        """The doors that a request comes to. It is only rehearsed."""
        self.asked.clear()
        self.plane.request(method, f"{path}?dryRun=All", body)
        return set(self.asked)

    def on_create(self, body: Json, *, namespace: str | None = None) -> set[str]:
        return self.reached("POST", path_of(body, namespace or self.opted_in), body)

    def on_update(self, body: Json, edit: Callable[[Json], object]) -> set[str]:
        """The doors that an edit of the object comes to, which is created before and deleted after."""
        path = path_of(body, self.opted_in)
        for owner in body["metadata"].get("ownerReferences", ()):
            owner["uid"] = self.owner_uid  # what nobody owns is deleted
        stored = self.plane.request("POST", path, body)
        path = f"{path}/{stored['metadata']['name']}"
        try:
            edit(stored)
            if body["kind"] != "ImageStream":  # of which a PUT must have it
                del stored["metadata"]["resourceVersion"]  # others write its status meanwhile
            return self.reached("PUT", path, stored)
        finally:
            self.plane.request("DELETE", path)


@pytest.fixture(scope="module")
def recorder(streams_api: ControlPlane) -> Iterator[Recorder]:
    """The shipped webhooks, for namespaces with the label `rules: tested`."""
    names = [f"rules-{secrets.token_hex(3)}-{kind}" for kind in ("in", "out")]
    recorder = Recorder(streams_api, *names)
    for name, labels in zip(names, ({"imagestreams.dev/resolve-names": "enabled"}, {}), strict=True):
        metadata = {"name": name, "labels": {"rules": "tested", **labels}}
        streams_api.request("POST", "/api/v1/namespaces", {"metadata": metadata})
    owner = streams_api.request("POST", f"/api/v1/namespaces/{names[0]}/configmaps", {"metadata": {"name": "owner"}})
    recorder.owner_uid = owner["metadata"]["uid"]
    with serving(recorder.let_pass) as (url, ca):
        hooks = [
            called_at(hook, f"{url}/{door}", ca, rules="tested")
            for hook, door in zip(shipped(*DOORS), DOORS, strict=True)
        ]
        streams_api.request("POST", CONFIGURATIONS, {"metadata": {"name": names[0]}, "webhooks": hooks})
        try:
            # Two of them by one object: the API server knows of the configuration, and of the namespace's labels.
            marker = deployment("web", annotations={FOLLOW: "web=app"})
            until(lambda: recorder.on_create(marker) == {"pinning", "resolving"}, seconds=30)
            yield recorder
        finally:
            streams_api.request("DELETE", f"{CONFIGURATIONS}/{names[0]}")
            for name in names:
                streams_api.request("DELETE", f"/api/v1/namespaces/{name}")


# --- objects ----------------------------------------------------------------------------------------------------------

RESOURCES = {
    "Pod": "/api/v1/namespaces/{}/pods",
    "ReplicationController": "/api/v1/namespaces/{}/replicationcontrollers",
    "Deployment": "/apis/apps/v1/namespaces/{}/deployments",
    "DaemonSet": "/apis/apps/v1/namespaces/{}/daemonsets",
    "StatefulSet": "/apis/apps/v1/namespaces/{}/statefulsets",
    "ReplicaSet": "/apis/apps/v1/namespaces/{}/replicasets",
    "Job": "/apis/batch/v1/namespaces/{}/jobs",
    "CronJob": "/apis/batch/v1/namespaces/{}/cronjobs",
    "ImageStream": "/apis/image.openshift.io/v1/namespaces/{}/imagestreams",
}
GROUPS = {"apps": "apps/v1", "batch": "batch/v1", "api": "v1"}


def path_of(body: Json, namespace: str) -> str:
    return RESOURCES[body["kind"]].format(namespace)


def metadata_of(**fields: Any) -> Json:
    given = {name: value for name, value in fields.items() if value is not None}
    return {"name": f"a{secrets.token_hex(4)}", **given}


def pod_template(image: str | None, annotations: Json | None = None, init: str | None = None) -> Json:
    container = {"name": "web"} if image is None else {"name": "web", "image": image}
    spec: Json = {"containers": [container]}
    if init is not None:
        spec["initContainers"] = [{"name": "first", "image": init}]
    metadata: Json = {"labels": {"app": "web"}}
    if annotations is not None:
        metadata["annotations"] = annotations
    return {"metadata": metadata, "spec": spec}


def workload(kind: str, image: str, *, template: Json | None = None, init: str | None = None, **metadata: Any) -> Json:
    """An object of any kind that runs this image; nothing of it ever starts."""
    pod = pod_template(image, template, init)
    selector = {"matchLabels": {"app": "web"}}
    match kind:
        case "Pod":
            pod["spec"]["schedulerName"] = "nobody"
            pod["metadata"] |= metadata_of(**{"labels": {"app": "web"}, **metadata})
            return {"kind": kind, "apiVersion": "v1", **pod}
        case "CronJob":
            pod["spec"]["restartPolicy"] = "Never"
            spec: Json = {"schedule": "0 0 1 1 *", "suspend": True, "jobTemplate": {"spec": {"template": pod}}}
        case "Job":
            pod["spec"]["restartPolicy"] = "Never"
            spec = {"suspend": True, "template": pod}
        case "ReplicationController":
            spec = {"replicas": 0, "selector": {"app": "web"}, "template": pod}
        case "DaemonSet":
            pod["spec"]["nodeSelector"] = {"no": "node"}
            spec = {"selector": selector, "template": pod}
        case "StatefulSet":
            spec = {"replicas": 0, "selector": selector, "serviceName": "web", "template": pod}
        case _:
            spec = {"replicas": 0, "selector": selector, "template": pod}
    version = next(version for word, version in GROUPS.items() if RESOURCES[kind].split("/")[1:3].count(word))
    return {"kind": kind, "apiVersion": version, "metadata": metadata_of(**metadata), "spec": spec}


def deployment(image: str = "quay.io/acme/web:1", **fields: Any) -> Json:
    return workload("Deployment", image, **fields)


def stream(annotations: Json | None = None, **fields: Any) -> Json:
    metadata = metadata_of(annotations=annotations)
    return {"apiVersion": "image.openshift.io/v1", "kind": "ImageStream", "metadata": metadata, **fields}


def controlled_by(*, controller: bool | None) -> list[Json]:
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": "none"}
    return [owner if controller is None else {**owner, "controller": controller}]


def pod_of(body: Json) -> Json:
    """The part of an object that has a pod's metadata and spec."""
    spec: Json = body["spec"]
    template: Json = spec["jobTemplate"]["spec"]["template"] if "jobTemplate" in spec else spec.get("template", body)
    return template


# --- pinning ----------------------------------------------------------------------------------------------------------

FOLLOWING = {FOLLOW: "web=app:latest"}


@pytest.mark.parametrize(
    ("body", "reaches"),
    [
        pytest.param(deployment(annotations=FOLLOWING), True, id="the short form"),
        pytest.param(deployment(annotations={TRIGGERS: "[]"}), True, id="OpenShift's"),
        pytest.param(deployment(annotations={**FOLLOWING, TRIGGERS: ""}), True, id="one of them empty"),
        pytest.param(deployment(annotations=FOLLOWING, init="quay.io/a/b:1"), True, id="init container"),
        pytest.param(
            deployment(annotations=FOLLOWING, ownerReferences=controlled_by(controller=None)), True, id="owned"
        ),
        pytest.param(
            deployment(annotations=FOLLOWING, ownerReferences=controlled_by(controller=False)),
            True,
            id="owned, not controlled",
        ),
        pytest.param(deployment(), False, id="no annotations"),
        pytest.param(deployment(annotations={"note": "x"}), False, id="another annotation"),
        pytest.param(deployment(annotations={FOLLOW: "", TRIGGERS: ""}), False, id="empty annotations"),
        pytest.param(
            deployment(annotations=FOLLOWING, ownerReferences=controlled_by(controller=True)), False, id="controlled"
        ),
        pytest.param(workload("StatefulSet", "a/b", annotations=FOLLOWING), False, id="another kind"),
        pytest.param({**deployment(), "metadata": {"name": "x", "annotations": None}}, False, id="annotations null"),
    ],
)
def test_a_new_deployment_that_follows_a_tag_is_pinned(recorder: Recorder, body: Json, reaches: bool):
    assert recorder.on_create(body) == ({"pinning"} if reaches else set())
    assert recorder.on_create(body, namespace=recorder.plain) == ({"pinning"} if reaches else set())


def _set(*path: str | int, to: Any) -> Callable[[Json], object]:
    def edit(body: Json) -> None:
        *parents, last = path
        inner: Any = body
        for part in parents:
            inner = inner.setdefault(part, {}) if isinstance(part, str) else inner[part]
        if to is None:
            del inner[last]
        else:
            inner[last] = to

    return edit


CONTAINERS = ("spec", "template", "spec", "containers")
MARKED: Json = {"annotations": FOLLOWING, "labels": {f"{SERVED}web": "a", "team": "blue"}}


@pytest.mark.parametrize(
    ("fields", "edit", "reaches"),
    [
        pytest.param(MARKED, _set(*CONTAINERS, 0, "image", to="quay.io/acme/web:2"), True, id="image"),
        pytest.param(MARKED, _set(*CONTAINERS, 0, "name", to="other"), True, id="a container's name"),
        pytest.param(
            MARKED,
            _set("spec", "template", "spec", "initContainers", to=[{"name": "i", "image": "quay.io/a/b:1"}]),
            True,
            id="an init container more",
        ),
        pytest.param(
            {**MARKED, "init": "quay.io/a/b:1"},
            _set("spec", "template", "spec", "initContainers", to=None),
            True,
            id="no init containers any more",
        ),
        pytest.param(
            {**MARKED, "init": "quay.io/a/b:1"},
            _set("spec", "template", "spec", "initContainers", 0, "image", to="quay.io/a/b:2"),
            True,
            id="an init container's image",
        ),
        pytest.param(MARKED, _set("metadata", "annotations", FOLLOW, to="web=app:2"), True, id="another tag"),
        pytest.param(MARKED, _set("metadata", "annotations", TRIGGERS, to="[]"), True, id="the other form too"),
        pytest.param({}, _set("metadata", "annotations", to=FOLLOWING), True, id="follows from now on"),
        pytest.param(
            {"annotations": {"note": "x"}}, _set("metadata", "annotations", FOLLOW, to="web=a"), True, id="follows, too"
        ),
        pytest.param(MARKED, _set("metadata", "labels", f"{SERVED}web", to=None), True, id="the label removed"),
        pytest.param(MARKED, _set("metadata", "labels", f"{SERVED}web", to="b"), True, id="the label changed"),
        pytest.param(MARKED, _set("metadata", "labels", to=None), True, id="no labels any more"),
        pytest.param(MARKED, _set("metadata", "labels", "team", to="red"), False, id="another label"),
        pytest.param(MARKED, _set("metadata", "labels", "new", to="x"), False, id="a label more"),
        pytest.param(MARKED, _set("metadata", "annotations", "note", to="x"), False, id="another annotation"),
        pytest.param(MARKED, _set("metadata", "annotations", to=None), False, id="follows nothing any more"),
        pytest.param(MARKED, _set("spec", "replicas", to=1), False, id="replicas"),
        pytest.param(MARKED, _set("spec", "paused", to=True), False, id="paused"),
        pytest.param(
            MARKED,
            _set("spec", "template", "metadata", "annotations", to={"kubectl.kubernetes.io/restartedAt": "now"}),
            False,
            id="kubectl rollout restart",
        ),
        pytest.param(MARKED, lambda _: None, False, id="nothing"),
        pytest.param({}, _set(*CONTAINERS, 0, "image", to="quay.io/acme/web:2"), False, id="follows nothing"),
        pytest.param(
            {**MARKED, "ownerReferences": controlled_by(controller=True)},
            _set(*CONTAINERS, 0, "image", to="quay.io/acme/web:2"),
            False,
            id="controlled",
        ),
    ],
)
def test_an_update_is_pinned_if_it_changes_an_image_or_what_is_followed(
    recorder: Recorder,
    fields: Json,
    edit: Callable[[Json], object],
    reaches: bool,
):
    assert recorder.on_update(deployment(**fields), edit) == ({"pinning"} if reaches else set())


@pytest.mark.parametrize("subresource", ["scale", "status"])
def test_subresources_are_not_pinned(recorder: Recorder, subresource: str):
    path = path_of(deployment(), recorder.plain)
    stored = recorder.plane.request("POST", path, deployment(**MARKED))
    path = f"{path}/{stored['metadata']['name']}/{subresource}"
    body = recorder.plane.request("GET", path)
    del body["metadata"]["resourceVersion"]
    assert recorder.reached("PUT", path, body) == set()


def test_what_the_controller_itself_writes_is_not_pinned(recorder: Recorder, streams_api: ControlPlane):
    plane, body = streams_api, deployment(**MARKED)
    plane.kubectl("create", "namespace", "imagestreams-system", check=False)
    stored = plane.request("POST", path_of(body, recorder.plain), body)
    name, asked = stored["metadata"]["name"], recorder.asked
    for user, doors in (("system:serviceaccount:imagestreams-system:imagestreams", []), ("jane", ["pinning"])):
        asked.clear()
        flags = (f"--as={user}", "--as-group=system:masters", "--dry-run=server", "-n", recorder.plain)
        plane.kubectl("set", "image", f"deployment/{name}", "web=quay.io/acme/web:3", *flags)
        assert asked == doors, user


def test_it_is_for_the_kinds_that_can_follow():
    [hook] = shipped("pinning")
    [rule] = hook["rules"]
    kinds = {f"{group}/{version}" for group in rule["apiGroups"] for version in rule["apiVersions"]}
    assert kinds == {kind.api_version for kind in KINDS}
    assert set(rule["resources"]) == {kind.resource for kind in KINDS}
    assert {kind.pod_spec for kind in KINDS} == {("spec", "template", "spec")}, "as the conditions have it"


# --- resolving --------------------------------------------------------------------------------------------------------

RESOLVED_KINDS = [kind for kind in RESOURCES if kind != "ImageStream"]
ALL = {RESOLVE_NAMES: "*"}
DIGEST = "sha256:" + "0" * 64


@pytest.mark.parametrize("kind", RESOLVED_KINDS)
@pytest.mark.parametrize(
    ("image", "fields", "reaches"),
    [
        pytest.param("mysql", {}, True, id="a name"),
        pytest.param("mysql:5", {}, True, id="a name and a tag"),
        pytest.param("quay.io/acme/web:1", {"init": "mysql:5"}, True, id="of an init container"),
        pytest.param("quay.io/acme/web:1", {"annotations": ALL}, True, id="annotated"),
        pytest.param("quay.io/acme/web:1", {"template": ALL}, True, id="its pod is annotated"),
        pytest.param("mysql", {"ownerReferences": controlled_by(controller=False)}, True, id="owned"),
        pytest.param("mysql", {"annotations": {"note": "x"}, "template": {"note": "x"}}, True, id="other annotations"),
        pytest.param("acme/web", {}, False, id="a namespace"),
        pytest.param("quay.io/acme/web:1", {}, False, id="a registry"),
        pytest.param(f"mysql@{DIGEST}", {}, False, id="a digest"),
        pytest.param("quay.io/acme/web:1", {"init": "a/b"}, False, id="an init container's namespace"),
        pytest.param("acme/web", {"annotations": {RESOLVE_NAMES: "yes"}}, False, id="another value"),
        pytest.param("acme/web", {"template": {RESOLVE_NAMES: ""}}, False, id="its pod has another value"),
        pytest.param("mysql", {"ownerReferences": controlled_by(controller=True)}, False, id="controlled"),
    ],
)
def test_short_names_are_resolved_where_the_namespace_wants_it(
    recorder: Recorder,
    kind: str,
    image: str,
    fields: Json,
    reaches: bool,
):
    body = workload(kind, image, **fields)
    assert recorder.on_create(body) == ({"resolving"} if reaches else set())
    assert recorder.on_create(body, namespace=recorder.plain) == set()


@pytest.mark.parametrize("kind", [kind for kind in RESOLVED_KINDS if kind != "Job"])
@pytest.mark.parametrize(
    ("image", "edit", "reaches"),
    [
        pytest.param("mysql", lambda pod: pod["spec"]["containers"][0].update(image="mysql:6"), True, id="image"),
        pytest.param("a/b", lambda pod: pod["spec"]["containers"][0].update(image="mysql"), True, id="a name by now"),
        pytest.param("mysql", lambda pod: pod["spec"]["containers"][0].update(image="a/b"), False, id="no name now"),
        pytest.param("mysql", lambda pod: pod["metadata"]["labels"].update(new="x"), False, id="a label"),
        pytest.param("mysql", lambda pod: pod["metadata"].update(annotations=ALL), True, id="the annotation"),
        pytest.param("mysql", lambda pod: pod["metadata"].update(annotations={"x": "y"}), False, id="another one"),
    ],
)
def test_an_update_is_resolved_if_it_changes_an_image_or_the_annotation(
    recorder: Recorder,
    kind: str,
    image: str,
    edit: Callable[[Json], object],
    reaches: bool,
):
    body = workload(kind, image)
    assert recorder.on_update(body, lambda stored: edit(pod_of(stored))) == ({"resolving"} if reaches else set())


@pytest.mark.parametrize(
    ("before", "edit"),
    [
        pytest.param({}, _set("metadata", "annotations", to=ALL), id="added"),
        pytest.param({"annotations": ALL}, _set("metadata", "annotations", RESOLVE_NAMES, to="no"), id="changed"),
        pytest.param({"template": ALL}, _set("spec", "template", "metadata", "annotations", to=None), id="pod's"),
    ],
)
def test_the_annotation_that_comes_or_goes_counts(recorder: Recorder, before: Json, edit: Callable[[Json], object]):
    assert recorder.on_update(deployment("mysql", **before), edit) == {"resolving"}


def test_jobs_are_not_resolved_again(recorder: Recorder):
    body = workload("Job", "mysql")
    assert recorder.on_update(body, lambda job: job["metadata"].update(annotations=ALL)) == set()


def test_pinning_comes_before_resolving(recorder: Recorder):
    recorder.on_create(deployment("mysql", annotations=FOLLOWING))
    assert recorder.asked == ["pinning", "resolving"]


# --- pins -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "reaches"),
    [
        pytest.param(stream({PINS: "{}"}), True, id="pins"),
        pytest.param(stream({PINS: ""}), True, id="empty"),
        pytest.param(stream({"note": "x"}), False, id="other annotations"),
        pytest.param(stream(), False, id="no annotations"),
        pytest.param({**stream(), "metadata": {"name": "x", "annotations": None}}, False, id="annotations null"),
    ],
)
def test_a_new_stream_with_pins_is_signed(recorder: Recorder, body: Json, reaches: bool):
    assert recorder.on_create(body) == ({"pins"} if reaches else set())


@pytest.mark.parametrize(
    ("annotations", "edit", "reaches"),
    [
        pytest.param(None, _set("metadata", "annotations", to={PINS: "{}"}), True, id="the first pin"),
        pytest.param({"note": "x"}, _set("metadata", "annotations", PINS, to="{}"), True, id="the first, annotated"),
        pytest.param({PINS: "{}"}, _set("metadata", "annotations", PINS, to='{"a": 1}'), True, id="changed"),
        pytest.param({PINS: "{}"}, _set("metadata", "annotations", PINS, to=None), False, id="removed"),
        pytest.param({PINS: "{}"}, _set("metadata", "annotations", to=None), False, id="no annotations any more"),
        pytest.param({PINS: "{}"}, _set("metadata", "annotations", "note", to="x"), False, id="another"),
        pytest.param({PINS: "{}"}, _set("spec", to={"tags": [{"name": "x"}]}), False, id="spec"),
    ],
)
def test_changed_pins_are_signed(
    recorder: Recorder,
    annotations: Json | None,
    edit: Callable[[Json], object],
    reaches: bool,
):
    assert recorder.on_update(stream(annotations), edit) == ({"pins"} if reaches else set())


# --- size -------------------------------------------------------------------------------------------------------------


def test_a_large_object_does_not_exceed_what_conditions_may_cost(recorder: Recorder):
    """API servers stop a condition that takes too long; with failurePolicy Ignore nobody would be told."""
    body = deployment("mysql", annotations=FOLLOWING, labels={f"l{number}": "x" for number in range(500)})
    variables = [{"name": f"V{number}", "value": "x" * 50} for number in range(100)]
    containers = [{"name": f"c{number}", "image": f"quay.io/acme/c{number}", "env": variables} for number in range(100)]
    body["spec"]["template"]["spec"]["containers"] += containers
    body["metadata"]["annotations"] |= {f"a{number}": "x" for number in range(500)}
    assert len(json.dumps(body)) > 700_000
    assert recorder.on_create(body) == {"pinning", "resolving"}
    assert recorder.on_update(body, _set("spec", "replicas", to=1)) == set()
    assert recorder.on_update(body, _set(*CONTAINERS, 100, "image", to="mysql")) == {"pinning", "resolving"}
