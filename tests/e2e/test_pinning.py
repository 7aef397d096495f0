"""One rollout, not two: Deployments that follow tags, with the webhooks and the controller of a real process, a real
API server, and the real kubectl.
"""

from __future__ import annotations

import json
import secrets
import subprocess
from collections.abc import Iterator

import pytest

from dev.controller import Controller
from tests.e2e.conftest import HOST, World, deployment
from tests.e2e.hooked import Hooked
from tests.waiting import until

pytestmark = pytest.mark.cluster

HOW = pytest.mark.parametrize(
    "how",
    [(), ("--server-side",), ("--server-side", "--field-manager=helm")],
    ids=["client-side", "server-side", "helm"],
)


def _controller(hooked: Hooked, *flags: str) -> Controller:
    endpoint = f"--registry-endpoint={HOST}=http://{hooked.registry.host}"
    return hooked.controller(endpoint, "--interval=2s", "--min-interval=1s", "--retry-base=1s", *flags)


@pytest.fixture(scope="module")
def pinning(hooked: Hooked) -> Iterator[Controller]:
    with _controller(hooked) as controller:
        until(lambda: hooked.is_reached() and controller.metrics().get("imagestreams_leader") == 1, seconds=30)
        yield controller


@pytest.fixture
def world(hooked: Hooked) -> Iterator[World]:
    """A new namespace of the control plane with webhooks."""
    namespace = f"pinning-{secrets.token_hex(4)}"
    hooked.plane.kubectl("create", "namespace", namespace)

    def kubectl(*args: str, input: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:  # noqa: A002
        return hooked.plane.kubectl(f"--namespace={namespace}", *args, input=input, check=check)

    yield World(kubectl, namespace, hooked.registry)
    hooked.plane.kubectl("delete", "namespace", namespace, "--wait=false")


def imported(world: World) -> str:
    """What a Deployment is to run: the image of a tag that is imported."""
    digest = world.push("one")
    world.apply(world.stream(scheduled=True))
    world.until(lambda: world.digests() == [digest])
    return world.pull_spec(digest)


def moved(world: World) -> str:
    """What it is to run when the tag has moved."""
    return world.pull_spec(world.push("two"))


def rollouts(world: World) -> list[str]:
    """The images that the Deployment controller has rolled out, the last last."""
    world.until(world.is_rolled_out)
    sets = json.loads(world.kubectl("get", "replicasets", "-o", "json").stdout)["items"]
    sets.sort(key=lambda each: int(each["metadata"]["annotations"]["deployment.kubernetes.io/revision"]))
    return [each["spec"]["template"]["spec"]["containers"][0]["image"] for each in sets]


def written(world: World) -> list[str]:
    """What the controller itself has written to Deployments, in its words, once the tag has moved to the image `two`.

    The move comes after all else in its queue: what it had to do before is done.
    """
    image = moved(world)
    world.until(lambda: world.images()["web"] == image)
    world.until(lambda: any(image in event["message"] for event in world.events("ImageUpdated")))
    return [event["message"].partition("(")[2].partition(":")[0] for event in world.events("ImageUpdated")]


@HOW
def test_a_manifest_rolls_out_once_however_often_it_is_applied(world: World, pinning: Controller, how: tuple[str, ...]):
    image = imported(world)
    world.apply(deployment(), flags=how)
    assert rollouts(world) == [image]
    world.apply(deployment(), flags=how)
    assert world.get("deployments")["metadata"]["generation"] == 1
    world.apply(deployment(containers={"web": f"{HOST}/other:9"}), flags=how)
    assert rollouts(world) == [image]
    assert written(world) == ["tag moved"]
    world.apply(deployment(), flags=how)  # no conflict with what the controller wrote
    assert rollouts(world) == [image, moved(world)]


def test_a_changed_manifest_rolls_out_once(world: World, pinning: Controller):
    image = imported(world)
    world.apply(deployment())
    assert rollouts(world) == [image]
    body = deployment()
    body["spec"]["template"]["spec"]["containers"][0]["env"] = [{"name": "X", "value": "1"}]
    world.apply(body)
    assert rollouts(world) == [image, image]
    assert written(world) == ["tag moved"]


def test_helm_upgrade_by_patch(world: World, pinning: Controller):
    image = imported(world)
    world.apply(deployment())
    patch = {"spec": {"template": {"spec": {"containers": [{"name": "web", "image": "example/placeholder:2"}]}}}}
    world.kubectl("patch", "deployment", "web", "--field-manager=helm", "-p", json.dumps(patch))
    assert rollouts(world) == [image]
    assert written(world) == ["tag moved"]


def test_an_undone_rollout_is_held_until_the_tag_moves(world: World, pinning: Controller):
    image = imported(world)
    world.apply(deployment())
    assert rollouts(world) == [image]
    assert written(world) == ["tag moved"]
    assert rollouts(world) == [image, moved(world)]

    said = world.kubectl("rollout", "undo", "deployment/web").stderr
    assert "Warning: container web follows" in said
    world.until(lambda: world.events("ImageHeld"))
    assert world.images()["web"] == image
    third = world.pull_spec(world.push("three"))
    world.until(lambda: world.images()["web"] == third)


def test_a_hand_scales_and_restarts_as_ever(world: World, pinning: Controller):
    image = imported(world)
    world.apply(deployment())
    assert rollouts(world) == [image]
    world.kubectl("scale", "deployment/web", "--replicas=2")
    world.kubectl("rollout", "restart", "deployment/web")
    assert rollouts(world) == [image, image]
    assert written(world) == ["tag moved"]


def test_a_rehearsal_shows_the_image_and_stores_nothing(world: World, pinning: Controller):
    image = imported(world)
    shown = world.kubectl("apply", "--dry-run=server", "-o", "json", "-f", "-", input=json.dumps(deployment())).stdout
    assert json.loads(shown)["spec"]["template"]["spec"]["containers"][0]["image"] == image
    assert world.kubectl("get", "deployments", "-o", "name").stdout == ""


def test_a_tag_that_is_imported_later_rolls_later(world: World, pinning: Controller):
    world.apply(deployment())
    assert rollouts(world) == ["example/placeholder:1"]
    image = imported(world)
    world.until(lambda: world.images()["web"] == image)


def test_where_nobody_answers_manifests_are_applied_all_the_same(world: World, hooked: Hooked, pinning: Controller):
    image = imported(world)
    pinning.stop()
    try:
        world.apply(deployment())
        assert world.images()["web"] == "example/placeholder:1"
    finally:
        pinning.start()
    world.until(lambda: world.images()["web"] == image)
    until(hooked.is_reached, seconds=30)


def test_a_short_name_means_a_stream_where_the_namespace_wants_it(world: World, pinning: Controller):
    image = imported(world)
    world.kubectl("patch", "imagestream", "web", "--type=merge", "-p", '{"spec": {"lookupPolicy": {"local": true}}}')

    def run(*flags: str) -> str:
        shown = world.kubectl("run", "pod", "--image=web:stable", "--dry-run=server", "-o", "json", *flags).stdout
        return str(json.loads(shown)["spec"]["containers"][0]["image"])

    assert run() == "web:stable"
    world.kubectl("label", "namespace", world.namespace, "imagestreams.dev/resolve-names=enabled")
    world.until(lambda: run() == image)


def test_a_pin_is_signed_by_who_wrote_it(world: World, pinning: Controller):
    digest = imported(world).partition("@")[2]
    pins = {"stable": {"digest": digest, "reason": "checkout fails", "by": "somebody else"}}
    world.kubectl("annotate", "imagestream", "web", f"imagestreams.dev/pins={json.dumps(pins)}")
    stored = json.loads(world.get("imagestreams")["metadata"]["annotations"]["imagestreams.dev/pins"])["stable"]
    me = json.loads(world.kubectl("auth", "whoami", "-o", "json").stdout)["status"]["userInfo"]["username"]
    assert (stored["digest"], stored["by"]) == (digest, me)
    assert stored["at"]
    refused = world.kubectl(
        "annotate", "--overwrite", "imagestream", "web", "imagestreams.dev/pins=broken", check=False
    )
    assert "is no JSON" in refused.stderr


def test_observing_changes_nothing(world: World, hooked: Hooked, pinning: Controller):
    imported(world)
    pinning.stop()
    try:
        with _controller(hooked, "--observe"):
            until(hooked.is_reached, seconds=30)
            world.apply(deployment())
            assert world.images()["web"] == "example/placeholder:1"
            world.until(lambda: world.events("ImageUpdateObserved"))
    finally:
        pinning.start()
    until(hooked.is_reached, seconds=30)


def test_webhooks_as_a_process_of_their_own(world: World, hooked: Hooked, pinning: Controller):
    """It sees the tag by its own watch, and is asked while no controller works."""
    image = imported(world)
    pinning.stop()
    try:
        with _controller(hooked, "--webhooks-only"):
            until(hooked.is_reached, seconds=30)
            world.apply(deployment())
            assert rollouts(world) == [image]
    finally:
        pinning.start()
    until(hooked.is_reached, seconds=30)
    assert written(world) == ["tag moved"]
