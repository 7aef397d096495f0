"""What becomes of a Deployment that follows a tag when people create and change it, with our webhook in the real API
server's way and the real Deployment controller behind: one rollout, and nothing left for our controller to do.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from imagestreams.core.admission import Allowed, Review, decode_review, encode_verdict
from imagestreams.core.stream import ImageStream, Istag, ObjectKey, TagImage, decode, latest_image
from imagestreams.core.trigger import (
    DEPLOYMENT,
    FIELD_MANAGER,
    TriggerRules,
    Workload,
    decode_workload,
    patch_of,
    plan_rollout,
    read_record,
    release_patch_of,
)
from imagestreams.server.pinning import PinningDoor
from imagestreams.server.resolving import ResolvingDoor
from tests.contract.shipped import CONFIGURATIONS, called_at, serving, shipped
from tests.core.streams import digest, pinned
from tests.waiting import until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

    from dev.control_plane import ControlPlane
    from tests.conftest import Kubectl

Json = dict[str, Any]

PLACEHOLDER = "example/placeholder:1"
A, B = pinned("a"), pinned("b")
RULES = TriggerRules()


@dataclass
class Doors:
    """Our webhooks, the streams that they know, and the reviews that came to pinning."""

    streams: dict[ObjectKey, ImageStream] = field(default_factory=dict)
    reviews: list[Review] = field(default_factory=list)

    def __post_init__(self) -> None:
        known = {"streams": self.streams.get, "synced": lambda: True, "excluded": frozenset(), "is_observing": False}
        self._pinning = PinningDoor(**known, may_pull=nobody_may, rules=lambda: RULES, clock=lambda: datetime.now(UTC))
        self._resolving = ResolvingDoor(**known, policy=lambda: RULES.policy)

    def answer(self, door: str, body: bytes) -> bytes:
        review = decode_review(body)
        match door:
            case "pinning":
                self.reviews.append(review)
                verdict = asyncio.run(self._pinning(review))
            case "resolving":
                verdict = asyncio.run(self._resolving(review))
            case _:  # another's webhook, which adds to every pod
                path = "/spec/template/spec/enableServiceLinks"
                verdict = Allowed(({"op": "add", "path": path, "value": False},))
        return encode_verdict(review.uid, verdict)


async def nobody_may(_consumer: str, _key: ObjectKey) -> bool:
    return False


@pytest.fixture(scope="module")
def doors(control_plane: ControlPlane) -> Iterator[Doors]:
    """The shipped webhooks, for namespaces with the label `pinning: tested`, and one of somebody else."""
    doors, name = Doors(), f"pinning-tested-{secrets.token_hex(3)}"
    with serving(doors.answer) as (url, ca):
        hooks = [
            called_at(hook, f"{url}/{hook['name'].partition('.')[0]}", ca, pinning="tested")
            for hook in shipped("pinning", "resolving")
        ]
        # Last, and it changes what the others have seen: they are asked again.
        meddling = called_at(hooks[0], f"{url}/meddling", ca)
        meddling |= {"name": "meddling.example.com", "matchConditions": []}
        meddling["objectSelector"] = {"matchLabels": {"meddle": "please"}}
        control_plane.request("POST", CONFIGURATIONS, {"metadata": {"name": name}, "webhooks": [*hooks, meddling]})
        yield doors
        control_plane.request("DELETE", f"{CONFIGURATIONS}/{name}")


@dataclass
class World:
    """A namespace with the stream `app`, whose tag `latest` the Deployment `web` follows."""

    plane: ControlPlane
    kubectl: Kubectl
    namespace: str
    doors: Doors

    @property
    def deployments(self) -> str:
        return f"/apis/apps/v1/namespaces/{self.namespace}/deployments"

    def tag(self, letter: str, *, is_local: bool = False) -> None:
        """Where the tag is now."""
        item = {"dockerImageReference": pinned(letter), "image": digest(letter)}
        stream = {
            "metadata": {"name": "app", "namespace": self.namespace},
            "spec": {"lookupPolicy": {"local": is_local}},
            "status": {"tags": [{"tag": "latest", "items": [item]}]},
        }
        self.doors.streams[ObjectKey(self.namespace, "app")] = decode(json.dumps(stream).encode())

    def resolve(self, istag: Istag) -> TagImage | None:
        stream = self.doors.streams.get(istag.key)
        return latest_image(stream, istag.tag, self.doors.streams.get) if stream else None

    def apply(self, body: Json, *flags: str) -> subprocess.CompletedProcess[str]:
        return self.kubectl("apply", *flags, "-f", "-", input=json.dumps(body))

    def get(self, name: str = "web") -> Json:
        found: Json = self.plane.request("GET", f"{self.deployments}/{name}")
        return found

    def image(self, name: str = "web") -> str:
        return str(self.get(name)["spec"]["template"]["spec"]["containers"][0]["image"])

    def generation(self, name: str = "web") -> int:
        return int(self.get(name)["metadata"]["generation"])

    def rollouts(self, name: str = "web") -> list[str]:
        """The images that the Deployment controller has rolled out, the first first."""
        until(lambda: self.get(name)["status"].get("observedGeneration") == self.generation(name))
        sets = self.plane.request("GET", self.deployments.replace("deployments", "replicasets"))["items"]
        owned = [each for each in sets if each["metadata"]["ownerReferences"][0]["name"] == name]
        owned.sort(key=lambda each: int(each["metadata"]["annotations"]["deployment.kubernetes.io/revision"]))
        return [each["spec"]["template"]["spec"]["containers"][0]["image"] for each in owned]

    def workload(self, name: str = "web") -> Workload:
        return decode_workload(DEPLOYMENT, json.dumps(self.get(name)).encode())

    def reconcile(self) -> int:
        """What our controller does when it sees the Deployment; returns how many writes that takes."""
        before = self.generation()
        patch = patch_of(self.workload(), plan_rollout(self.workload(), self.resolve, RULES), datetime.now(UTC))
        for each in (patch, release_patch_of(self.workload()) if patch is None else None):
            if each is not None:
                path = f"{self.deployments}/web?fieldManager={FIELD_MANAGER}"
                self.plane.request("PATCH", path, json.loads(each), content_type="application/json-patch+json")
                return 1 + self.reconcile()
        assert self.generation() == before
        return 0


@pytest.fixture
def world(control_plane: ControlPlane, kubectl: Kubectl, namespace: str, doors: Doors) -> World:
    labels = {"metadata": {"labels": {"pinning": "tested"}}}
    path = f"/api/v1/namespaces/{namespace}"
    control_plane.request("PATCH", path, labels, content_type="application/merge-patch+json")
    world = World(control_plane, kubectl, namespace, doors)
    world.tag("a")

    def is_called() -> bool:
        found = control_plane.request("POST", f"{world.deployments}?dryRun=All", web())
        return bool(found["spec"]["template"]["spec"]["containers"][0]["image"] == A)

    until(is_called, seconds=30)
    doors.reviews.clear()
    return world


def web(image: str = PLACEHOLDER, *, name: str = "web", follow: str = "web=app", **template: Any) -> Json:
    labels = {"app": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "annotations": {"imagestreams.dev/follow": follow}},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "web", "image": image}]}},
            **template,
        },
    }


CLIENT_SIDE, SERVER_SIDE = (), ("--server-side",)
FLUX = ("--server-side", "--field-manager=kustomize-controller", "--force-conflicts")
HOW = pytest.mark.parametrize("how", [CLIENT_SIDE, SERVER_SIDE, FLUX], ids=["client-side", "server-side", "flux"])


# --- creation ---------------------------------------------------------------------------------------------------------


@HOW
def test_a_new_deployment_rolls_out_once(world: World, how: tuple[str, ...]):
    world.apply(web(), *how)
    assert world.rollouts() == [A]
    assert world.generation() == 1
    assert world.reconcile() == 0


def test_at_its_creation_an_object_has_a_name_and_no_uid(world: World):
    world.apply(web())
    [review] = world.doors.reviews
    metadata = json.loads(review.object)["metadata"]
    assert (review.operation, review.name, metadata["name"]) == ("CREATE", "web", "web")
    assert "uid" not in metadata
    [entry] = read_record(world.workload()).values()
    assert (entry.uid, entry.name, entry.why) == ("", f"{world.namespace}/web", "created")


def test_a_generated_name_is_not_known_yet(world: World):
    body = web()
    body["metadata"]["generateName"] = f"{body['metadata'].pop('name')}-"
    created = world.plane.request("POST", world.deployments, body)
    assert world.doors.reviews[0].name == ""
    name = created["metadata"]["name"]
    assert world.rollouts(name) == [A]
    assert plan_rollout(world.workload(name), world.resolve, RULES).decisions == ()


def test_a_copy_is_an_object_of_its_own(world: World):
    world.apply(web())
    world.kubectl("set", "image", "deployment/web", "web=example/mine:1")
    copied = world.get()
    copied["metadata"]["name"] = "copy"
    for server_side in ("resourceVersion", "managedFields", "creationTimestamp"):  # but with its uid
        del copied["metadata"][server_side]
    world.kubectl("create", "-f", "-", input=json.dumps(copied))
    assert world.image("copy") == A
    assert [entry.name for entry in read_record(world.workload("copy")).values()] == [f"{world.namespace}/copy"]
    assert plan_rollout(world.workload("copy"), world.resolve, RULES).decisions == ()


def test_who_is_asked_again_about_his_own_answer_adds_nothing(world: World):
    body = web()
    body["metadata"]["labels"] = {"meddle": "please"}
    world.apply(body)
    assert len(world.doors.reviews) == 2, "as somebody changed the object after us"
    assert world.rollouts() == [A]
    assert [entry.why for entry in read_record(world.workload()).values()] == ["created"]
    assert world.reconcile() == 0


def test_a_rehearsal_shows_what_would_be_stored(world: World):
    shown = world.apply(web(), "--dry-run=server", "-o", "json").stdout
    assert json.loads(shown)["spec"]["template"]["spec"]["containers"][0]["image"] == A
    assert not world.plane.request("GET", world.deployments)["items"]


def test_labels_that_are_null(world: World):
    body = web()
    body["metadata"]["labels"] = None
    world.plane.request("POST", world.deployments, body)
    assert world.image() == A


def written(deployment: Json) -> Json:
    """What others than its controller wrote into an object, and when: that one writes whenever it has news."""
    metadata = {key: value for key, value in deployment["metadata"].items() if key != "resourceVersion"}
    metadata["managedFields"] = [
        entry for entry in metadata["managedFields"] if entry["manager"] != "kube-controller-manager"
    ]
    metadata["annotations"].pop("deployment.kubernetes.io/revision", None)
    return {"metadata": metadata, "spec": deployment["spec"]}


# --- a manifest, again ------------------------------------------------------------------------------------------------


@HOW
@pytest.mark.parametrize("image", [PLACEHOLDER, "quay.io/acme/app:9"])
def test_the_manifest_applied_again_writes_nothing(world: World, how: tuple[str, ...], image: str):
    world.apply(web(image), *how)
    assert world.rollouts() == [A]
    before = written(world.get())
    world.apply(web(image), *how)
    assert written(world.get()) == before, "as the API server wrote nothing"
    assert world.generation() == 1
    assert world.reconcile() == 0


@HOW
def test_a_changed_manifest_rolls_out_once(world: World, how: tuple[str, ...]):
    world.apply(web(), *how)
    assert world.rollouts() == [A]
    body = web("quay.io/acme/app:9")
    body["spec"]["template"]["spec"]["containers"][0]["env"] = [{"name": "X", "value": "1"}]
    world.apply(body, *how)
    assert world.rollouts() == [A, A]
    assert world.generation() == 2
    assert world.reconcile() == 0


@HOW
def test_after_a_move_the_manifest_applies_without_conflict(world: World, how: tuple[str, ...]):
    world.apply(web(), *how)
    assert world.rollouts() == [A]
    world.tag("b")
    assert world.reconcile() == (1 if how == CLIENT_SIDE else 2), "the image; then the field goes back to its applier"
    assert world.rollouts() == [A, B]
    world.apply(web(), *(flag for flag in how if flag != "--force-conflicts"))
    assert world.rollouts() == [A, B]
    assert world.generation() == 2
    assert world.reconcile() == 0


@HOW
def test_a_manifest_while_the_tag_moves_costs_no_rollout_of_its_own(world: World, how: tuple[str, ...]):
    world.apply(web(), *how)
    assert world.rollouts() == [A]
    world.tag("b")
    world.apply(web(), *how)
    assert (world.image(), world.generation()) == (A, 1)
    world.reconcile()
    assert world.rollouts() == [A, B]


@HOW
def test_a_watch_that_lags_rolls_nothing_back(world: World, how: tuple[str, ...]):
    world.apply(web(), *how)
    assert world.rollouts() == [A]
    world.tag("b")
    world.reconcile()
    world.tag("a")  # what a replica sees that has not heard of the move
    world.apply(web(), *how)
    assert world.rollouts() == [A, B]
    world.tag("b")
    assert world.reconcile() == 0


def test_helm_upgrade(world: World):
    world.apply(web())
    patch = {"spec": {"template": {"spec": {"containers": [{"name": "web", "image": PLACEHOLDER}]}}}}
    world.kubectl("patch", "deployment", "web", "--field-manager=helm", "-p", json.dumps(patch))
    assert (world.rollouts(), world.generation(), world.reconcile()) == ([A], 1, 0)


def test_replace_loses_our_marks_and_has_them_back(world: World):
    world.apply(web())
    # kubectl replaces what it has read, and fails where that has changed: the Deployment's controller writes, too
    until(lambda: not world.kubectl("replace", "-f", "-", input=json.dumps(web()), check=False).returncode)
    assert (world.rollouts(), world.reconcile()) == ([A], 0)


def test_an_annotation_that_is_added_rolls_at_once(world: World):
    body = web()
    del body["metadata"]["annotations"]
    world.apply(body)
    world.kubectl("annotate", "deployment", "web", "imagestreams.dev/follow=web=app")
    assert world.rollouts() == [PLACEHOLDER, A]
    assert world.reconcile() == 0


# --- a hand -----------------------------------------------------------------------------------------------------------


def test_set_image_is_kept_and_warned_about(world: World):
    world.apply(web())
    assert world.rollouts() == [A]
    said = world.kubectl("set", "image", "deployment/web", "web=example/mine:1").stderr
    assert "Warning: container web follows" in said
    assert world.reconcile() == 0
    assert world.rollouts() == [A, "example/mine:1"]
    world.kubectl("label", "deployment", "web", "served.imagestreams.dev/web-")
    assert world.rollouts() == ["example/mine:1", A], "the old ReplicaSet again, which is the newest by now"
    assert world.reconcile() == 0


def test_undo_is_kept_until_the_manifest_comes_again(world: World):
    world.apply(web())
    assert world.rollouts() == [A]
    world.tag("b")
    world.reconcile()
    assert world.rollouts() == [A, B]
    said = world.kubectl("rollout", "undo", "deployment/web").stderr
    assert "Warning: container web follows" in said
    assert (world.image(), world.reconcile()) == (A, 0)
    world.apply(web())
    assert (world.image(), world.reconcile()) == (B, 0)


def test_restart_and_scale_are_not_asked_about(world: World):
    world.apply(web())
    world.doors.reviews.clear()
    world.kubectl("rollout", "restart", "deployment/web")
    world.kubectl("scale", "deployment/web", "--replicas=2")
    world.kubectl("annotate", "deployment", "web", "note=x")
    assert world.doors.reviews == []
    assert (world.rollouts(), world.reconcile()) == ([A, A], 0)


def test_what_is_paused_is_left_alone_until_it_is_not(world: World):
    trigger = {"from": {"kind": "ImageStreamTag", "name": "app:latest"}, "fieldPath": _PATH, "paused": True}
    body = web()
    body["metadata"]["annotations"] = {"image.openshift.io/triggers": json.dumps([trigger])}
    world.apply(body)
    assert world.image() == PLACEHOLDER
    running = json.dumps([{**trigger, "paused": False}])
    world.kubectl("annotate", "--overwrite", "deployment", "web", f"image.openshift.io/triggers={running}")
    assert (world.image(), world.reconcile()) == (A, 0)


_PATH = 'spec.template.spec.containers[?(@.name=="web")].image'


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def named(world: World) -> World:
    """The namespace has short names resolved, and its stream is for that."""
    labels = {"metadata": {"labels": {"imagestreams.dev/resolve-names": "enabled"}}}
    path = f"/api/v1/namespaces/{world.namespace}"
    world.plane.request("PATCH", path, labels, content_type="application/merge-patch+json")
    world.tag("a", is_local=True)
    until(lambda: _run(world, "probe", "app", "--dry-run=server") == A)
    return world


def _run(world: World, name: str, image: str, *flags: str) -> str:
    shown = world.kubectl("run", name, f"--image={image}", "-o", "json", *flags).stdout
    return str(json.loads(shown)["spec"]["containers"][0]["image"])


def test_short_names_mean_streams(named: World):
    assert _run(named, "pod", "app") == A
    assert _run(named, "other", "mysql:5") == "mysql:5"
    named.kubectl("create", "cronjob", "cron", "--image=app", "--schedule=0 0 1 1 *")
    cron = named.plane.request("GET", f"/apis/batch/v1/namespaces/{named.namespace}/cronjobs/cron")
    assert cron["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]["image"] == A
    named.kubectl("create", "job", "job", "--from=cronjob/cron")
    job = named.plane.request("GET", f"/apis/batch/v1/namespaces/{named.namespace}/jobs/job")
    assert job["spec"]["template"]["spec"]["containers"][0]["image"] == A


@HOW
def test_a_short_name_that_is_followed_too_rolls_out_once(named: World, how: tuple[str, ...]):
    named.apply(web("app"), *how)
    named.apply(web("app"), *how)
    assert (named.rollouts(), named.generation(), named.reconcile()) == ([A], 1, 0)


def test_a_short_name_is_resolved_once(named: World):
    body = web("app")
    del body["metadata"]["annotations"]
    named.apply(body)
    assert named.rollouts() == [A]
    named.tag("b", is_local=True)
    named.kubectl("rollout", "restart", "deployment/web")
    assert named.rollouts() == [A, A], "a tag that moves moves nothing"
