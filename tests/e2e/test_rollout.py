"""From a manifest to a rollout, and what people do to Deployments meanwhile, with the real kubectl."""

from __future__ import annotations

import json

import pytest
import yaml

from dev.controller import Controller
from dev.images import image, index
from tests.e2e.conftest import HOST, World, deployment

pytestmark = pytest.mark.usefixtures("controller")


def follow(world: World, first: str = "one") -> str:
    """A stream and a Deployment that has rolled to its image; returns the digest."""
    digest = world.push(first)
    world.apply(world.stream(scheduled=True), deployment())
    world.until(lambda: world.images()["web"] == world.pull_spec(digest))
    return digest


def settled(world: World, digest: str) -> bool:
    return world.images()["web"] == world.pull_spec(digest) and world.is_rolled_out()


def test_a_tag_is_imported_and_its_move_rolls_out(world: World, controller: Controller):
    first = world.push("one", content=index([image(text="one"), image(architecture="arm64", text="one")]))
    world.apply(world.stream(scheduled=True), deployment(replicas=3))
    world.kubectl("wait", "--for=condition=Ready", "imagestream/web", "--timeout=20s")
    assert world.digests() == [first]
    world.until(lambda: settled(world, first))

    second = world.push("two")
    world.until(lambda: settled(world, second))
    assert world.digests() == [second, first]
    assert [event["message"] for event in world.events("TagMoved")] == [
        f"tag stable moved from {world.pull_spec(first)} to {world.pull_spec(second)}"
    ]
    assert len(world.events("ImageUpdated")) == 2
    record = json.loads(world.get("deployments")["metadata"]["annotations"]["imagestreams.dev/rollouts"])
    assert record["containers[web]"]["image"] == world.pull_spec(second)
    assert controller.metrics()['imagestreams_rollouts_total{kind="Deployment",result="applied"}'] >= 2


def test_openshift_annotation_two_containers_init_container_and_pause(world: World):
    web, log, migrate = world.push("w"), world.push("l", "log", "2"), world.push("m", "migrate", "1")

    def trigger(container: str, tag: str, *, paused: bool = False) -> dict[str, object]:
        path = f'spec.template.spec.containers[?(@.name=="{container}")].image'
        return {"from": {"kind": "ImageStreamTag", "name": f"app:{tag}"}, "fieldPath": path, "paused": paused}

    triggers = [
        trigger("web", "web"),
        trigger("log", "log"),
        trigger("migrate", "migrate"),
        trigger("still", "web", paused=True),
    ]
    world.apply(
        world.stream(name="app", web="web:stable", log="log:2", migrate="migrate:1", absent="absent:1"),
        deployment(
            containers={"web": "x/web:0", "log": "x/log:0", "still": "x/still:0"},
            init={"migrate": "x/migrate:0"},
            annotations={"image.openshift.io/triggers": json.dumps(triggers)},
        ),
    )
    expected = {
        "migrate": world.pull_spec(migrate, "migrate"),
        "web": world.pull_spec(web),
        "log": world.pull_spec(log, "log"),
        "still": "x/still:0",
    }
    world.until(lambda: world.images() == expected)
    assert world.get("imagestreams", "app")["status"]["conditions"][0]["reason"] == "ImportFailed"  # the absent one


@pytest.mark.parametrize(
    "how",
    [(), ("--server-side",), ("--server-side", "--field-manager=helm")],
    ids=["client-side", "server-side", "helm"],
)
@pytest.mark.parametrize("written", ["example/placeholder:1", f"{HOST}/other:9"], ids=["same tag", "another tag"])
def test_a_manifest_applied_again_is_set_right(world: World, how: tuple[str, ...], written: str):
    digest = world.push("one")
    world.apply(world.stream())
    world.apply(deployment(), flags=how)
    world.until(lambda: world.images()["web"] == world.pull_spec(digest))

    world.apply(deployment(containers={"web": written}), flags=how)  # no conflict, whoever applies

    world.until(lambda: world.images()["web"] == world.pull_spec(digest))
    assert not world.events("ImageHeld")
    assert any("manifest applied again" in event["message"] for event in world.events("ImageUpdated"))


def test_helm_upgrade_by_patch_is_a_manifest_applied_again(world: World):
    digest = follow(world)
    patch = {"spec": {"template": {"spec": {"containers": [{"name": "web", "image": "example/placeholder:2"}]}}}}
    world.kubectl("patch", "deployment", "web", "--field-manager=helm", "-p", json.dumps(patch))
    world.until(lambda: world.images()["web"] == world.pull_spec(digest))
    world.until(lambda: any("manifest applied again" in event["message"] for event in world.events("ImageUpdated")))


def test_rollout_undo_is_held_until_the_tag_moves(world: World):
    first = follow(world)
    second = world.push("two")
    world.until(lambda: settled(world, second))

    world.kubectl("rollout", "undo", "deployment/web")

    world.until(lambda: world.events("ImageHeld"))
    assert world.images()["web"] == world.pull_spec(first)
    third = world.push("three")
    world.until(lambda: settled(world, third))


def test_set_image_by_hand_is_held_and_released_by_removing_the_label(world: World):
    digest = follow(world)
    world.kubectl("set", "image", "deployment/web", "web=example/mine:1")
    world.until(lambda: world.events("ImageHeld"))
    [event] = world.events("ImageHeld")
    assert "example/mine:1 was set by hand" in event["message"]
    assert world.images()["web"] == "example/mine:1"

    world.kubectl("label", "deployment", "web", "served.imagestreams.dev/web-")
    world.until(lambda: world.images()["web"] == world.pull_spec(digest))


def test_an_equal_digest_under_another_pull_spec_does_not_roll(world: World):
    digest = follow(world)
    mirrored = f"mirror.example/copy@{digest}"
    world.kubectl("set", "image", "deployment/web", f"web={mirrored}")
    second = world.push("two")
    world.until(lambda: world.images()["web"] == world.pull_spec(second))  # a pass later than the one that let it be
    assert not world.events("ImageHeld")
    images = [event["message"] for event in world.events("ImageUpdated")]
    assert not any("drift" in message or "manifest" in message for message in images)


def test_an_unresolved_tag_leaves_its_container_alone(world: World):
    digest = world.push("one")
    world.apply(
        world.stream(), deployment("web=web:stable, side=web:absent", containers={"web": "x/a:1", "side": "x/b:1"})
    )
    world.until(lambda: world.images() == {"web": world.pull_spec(digest), "side": "x/b:1"})
    world.until(lambda: world.events("TagNotResolved"))


def test_another_namespaces_tag_needs_the_right_to_pull(world: World, control_plane, namespace: str):
    source = f"{namespace}-src"
    control_plane.request("POST", "/api/v1/namespaces", {"metadata": {"name": source}})
    digest = world.push("one")
    stream = world.stream()
    control_plane.kubectl("apply", "-n", source, "-f", "-", input=yaml.safe_dump(stream))
    world.apply(deployment(f"web={source}/web:stable"))
    world.until(lambda: world.events("TagNotResolved"))
    assert world.images()["web"] == "example/placeholder:1"

    group = f"--group=system:serviceaccounts:{namespace}"
    control_plane.kubectl("-n", source, "create", "rolebinding", "pull", "--clusterrole=system:image-puller", group)
    control_plane.kubectl("-n", source, "annotate", "imagestream", "web", "imagestreams.dev/refresh=again")
    world.until(lambda: world.images()["web"] == world.pull_spec(digest))


def test_broken_annotation_is_said_and_nothing_is_done(world: World):
    world.push("one")
    world.apply(world.stream(), deployment(annotations={"image.openshift.io/triggers": "{broken"}))
    world.until(lambda: world.events("TriggerInvalid"))
    assert world.images()["web"] == "example/placeholder:1"
