"""`describe`: what it says of streams, tags, images and workloads, and why a container is not updated."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from imagestreams.cli import workloads
from imagestreams.cli.description import Event, verdict_of
from imagestreams.cli.following import compare
from imagestreams.cli.following import read as read_workload
from imagestreams.cli.inspection import wanted_by
from imagestreams.cli.listing import Unseen
from imagestreams.cli.listing import decoded as read
from imagestreams.cli.naming import IMAGE, STREAM, TAG, Target
from imagestreams.cli.options import Misuse
from imagestreams.core.stream import Istag, ObjectKey, TagEvent, event_identity
from imagestreams.core.trigger import DEPLOYMENT
from tests.cli.shop import DIGEST, NOW, OTHER, World, alias, command, failed, imported, item, opened, stream, tag
from tests.fakes.apiserver import status

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from imagestreams.cli.listing import Stream

SPEC = f"quay.io/acme/web@{DIGEST}"
OLD = f"quay.io/acme/web@{OTHER}"
ELSE = "sha256:" + "c" * 64
KEY = ObjectKey("shop", "web")
SERVED = event_identity(Istag("shop", "web", "stable"), TagEvent(image=DIGEST))


def deployment(
    image: str = SPEC,
    *,
    served: str | None = SERVED,
    writer: str = "imagestreams",
    follow: str | None = "web=web:stable",
    namespace: str = "shop",
    name: str = "web",
    paused: bool = False,
    **spec: Any,
) -> dict[str, Any]:
    """A Deployment with one container, whose image `writer` wrote; `served` is the label. `paused` is its trigger,
    which is OpenShift's annotation then.
    """
    trigger = {
        "from": {"kind": "ImageStreamTag", "name": "web:stable"},
        "fieldPath": 'spec.template.spec.containers[?(@.name=="web")].image',
        "paused": True,
    }
    fields = {"f:spec": {"f:template": {"f:spec": {"f:containers": {'k:{"name":"web"}': {"f:image": {}}}}}}}
    record = {
        "containers[web]": {"tag": "shop/web:stable", "image": SPEC, "uid": "d-1", "at": stamp(), "why": "tag moved"}
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": "d-1",
            "generation": 2,
            "annotations": {
                **({"imagestreams.dev/follow": follow} if follow else {}),
                **({"image.openshift.io/triggers": json.dumps([trigger])} if paused else {}),
                "imagestreams.dev/rollouts": json.dumps(record),
            },
            "labels": {"served.imagestreams.dev/web": served} if served else {},
            "managedFields": [{"manager": writer, "operation": "Update", "time": stamp(), "fieldsV1": fields}],
        },
        "spec": {
            "replicas": 1,
            "template": {"spec": {"containers": [{"name": "web", "image": image}]}},
            **spec,
        },
        "status": {"observedGeneration": 2, "replicas": 1, "updatedReplicas": 1, "availableReplicas": 1},
    }


def stamp(age: timedelta = timedelta(hours=20)) -> str:
    return (NOW - age).strftime("%Y-%m-%dT%H:%M:%SZ")


def web(*recorded: dict[str, Any], spec: tuple[dict[str, Any], ...] = (), **annotations: str) -> dict[str, Any]:
    """The stream, whose tag `stable` has DIGEST unless `recorded` says else."""
    value = stream(
        *(spec or (tag("stable"), alias("prod", "stable"))),
        annotations={f"imagestreams.dev/{name}": text for name, text in annotations.items()},
    )
    value["status"] = {
        "observedGeneration": 1,
        "tags": list(
            recorded or (imported("stable", item(DIGEST, timedelta(hours=20)), item(OTHER, timedelta(days=3))),)
        ),
    }
    return value


def pinned(status: str = "True", message: str = "held") -> dict[str, Any]:
    """What status says of the tag once the controller has seen a pin."""
    found = imported("stable", item(DIGEST, timedelta(hours=20)), item(OTHER, timedelta(days=3)))
    found["conditions"].append({"type": "Pinned", "status": status, "message": message})
    return found


def seen(value: dict[str, Any]) -> Stream:
    return read(json.dumps(value).encode())


def event(reason: str, message: str, age: timedelta = timedelta(hours=1)) -> Event:
    return Event("Normal", reason, message, "imagestreams", NOW - age, NOW - age, 1)


# ---- why a container is not updated ----

PIN = json.dumps({"stable": {"digest": DIGEST, "reason": "checkout fails", "by": "jane", "at": "2026-01-01T00:00:00Z"}})
PULL = "container web waits: shop/web:stable has no image, or this namespace may not pull it"
RUNS = "see whether the controller runs: kubectl get leases,deployments --all-namespaces | grep imagestreams"


@pytest.mark.parametrize(
    ("workload", "tags", "events", "words", "next_"),
    [
        pytest.param(deployment(), web(), (), "up to date", "", id="as it should be"),
        pytest.param(deployment(served=None), web(), (), "up to date", "", id="equal, and not noted yet"),
        pytest.param(
            deployment(OLD, writer="kubectl"),
            web(),
            (),
            f"not updated: sha256:{'b' * 12} was set by hand (kubectl) after the tag's image had been rolled out, and "
            "is kept until the tag moves",
            "to follow again at once: imagestreams resume deployment/web",
            id="held",
        ),
        pytest.param(
            deployment(OLD, follow=None, paused=True),
            web(),
            (),
            "not updated, whatever shop/web:stable has: its trigger is paused",
            "imagestreams set-triggers deployment/web --auto",
            id="paused",
        ),
        pytest.param(
            deployment(OLD, served="other"),
            web(),
            (),
            "not updated yet (tag moved), and the controller has not said why",
            RUNS,
            id="behind, and nobody says why",
        ),
        pytest.param(
            deployment(OLD, served="other"),
            web(imported("stable", item(DIGEST, timedelta(seconds=1)))),
            (),
            "about to be updated (tag moved)",
            "",
            id="only just moved",
        ),
        pytest.param(
            deployment(OLD, served="other"),
            web(),
            (event("ImageUpdateRefused", "the cluster refuses the change: too new"),),
            "not updated: the cluster refuses the change: too new",
            "change the policy or webhook that refuses it",
            id="refused by the cluster",
        ),
        pytest.param(
            deployment(OLD, served="other"),
            web(),
            (event("ImageUpdateRefused", "refused an earlier image", timedelta(days=2)),),
            "not updated yet (tag moved), and the controller has not said why",
            RUNS,
            id="what was refused before the tag moved says nothing of now",
        ),
        pytest.param(
            deployment(OLD, served="other"),
            web(),
            (event("ImageUpdateObserved", "container web: image would be set to it"),),
            "not updated: the controller only observes (--observe) and changes nothing",
            "",
            id="observed",
        ),
        pytest.param(
            deployment(OLD, served="other"),
            web(),
            (event("ImageUpdateObserved", "container other: image would be set to it"),),
            "not updated yet (tag moved), and the controller has not said why",
            RUNS,
            id="what is said of another container",
        ),
        pytest.param(
            deployment(OLD, served="other", namespace="far", follow="web=shop/web:stable"),
            web(),
            (event("TagNotResolved", PULL, timedelta(days=9)),),
            f"not updated: {PULL}",
            "if far may not pull from shop, the owner of shop gives the right: kubectl create rolebinding far-may-pull "
            "-n shop --clusterrole=system:image-puller --group=system:serviceaccounts:far",
            id="another namespace's tag",
        ),
        pytest.param(
            deployment(OLD, served="other"),
            web(),
            (event("TagNotResolved", PULL, timedelta(days=9)), event("ImageUpdated", "container web: image set to it")),
            "not updated yet (tag moved), and the controller has not said why",
            RUNS,
            id="what was resolved since",
        ),
        pytest.param(
            deployment(OLD, served="other", namespace="kube-system", follow="web=shop/web:stable"),
            web(),
            (),
            "not updated: workloads in kube-system are left alone, unless the controller's settings say else",
            "",
            id="kube-system",
        ),
        pytest.param(
            deployment(OLD),
            web(failed("stable", "NotFound", "no such tag")),
            (),
            "not updated: shop/web:stable has no image, since its import failed (NotFound): no such tag",
            "imagestreams describe tag web:stable -n shop",
            id="never imported",
        ),
        pytest.param(
            deployment(),
            web(failed("stable", "Timeout", "slow", item(DIGEST))),
            (),
            "up to date with the tag, whose last import failed (Timeout): slow",
            "imagestreams describe tag web:stable",
            id="imported once, failing now",
        ),
        pytest.param(
            deployment(OLD),
            web({"tag": "other"}, spec=(tag("other"),)),
            (),
            "not updated: the stream shop/web has no tag stable",
            "imagestreams tag IMAGE web:stable -n shop",
            id="no such tag",
        ),
        pytest.param(
            deployment(OLD),
            web({"tag": "prod"}),
            (),
            "not updated: shop/web:stable has no image yet",
            "imagestreams import-image web:stable -n shop",
            id="not imported yet",
        ),
        pytest.param(
            deployment(OLD),
            {**web({"tag": "prod"}), "status": {}},
            (),
            "not updated: shop/web:stable has no image yet, and the controller has not seen the stream's last change "
            "yet",
            RUNS,
            id="the controller has not seen the stream",
        ),
        pytest.param(
            deployment(OLD),
            web({"tag": "prod"}, suspend="true"),
            (),
            "not updated: shop/web:stable has no image, and nothing is looked up: the stream is suspended",
            "kubectl annotate imagestream web -n shop imagestreams.dev/suspend-",
            id="suspended, and without an image",
        ),
        pytest.param(
            deployment(),
            web(suspend="true"),
            (),
            "up to date with the tag, of which nothing is looked up: the stream is suspended",
            "",
            id="suspended",
        ),
        pytest.param(
            deployment(OLD),
            web({"tag": "stable"}, spec=(tag("stable", None),)),
            (),
            "not updated: nothing was pushed to shop/web:stable yet, and it has no source",
            "",
            id="fed by pushes",
        ),
        pytest.param(
            deployment(OLD),
            web({"tag": "stable", "items": [{"dockerImageReference": "quay.io/evil"}]}),
            (),
            "not updated: what shop/web:stable has is no image that could be trusted: quay.io/evil",
            "imagestreams import-image web:stable -n shop",
            id="a forged status",
        ),
        pytest.param(
            deployment(),
            web(pinned(), pins=PIN),
            (),
            f"up to date: it has the image that the tag is held at ({DIGEST} by jane since 2026-01-01T00:00:00Z: "
            "checkout fails)",
            "to let the tag follow its source again: imagestreams resume web:stable",
            id="pinned",
        ),
        pytest.param(
            deployment(),
            web(pins=PIN),
            (),
            f"up to date with the tag, which is to be held at {DIGEST} by jane since 2026-01-01T00:00:00Z: checkout "
            "fails; that is not done",
            "imagestreams describe tag web:stable",
            id="a pin that nobody has carried out",
        ),
        pytest.param(
            deployment(),
            web(pinned("False", "the image is not in its history"), pins=PIN.replace(DIGEST, ELSE)),
            (),
            f"up to date with the tag, which is to be held at {ELSE} by jane since 2026-01-01T00:00:00Z: checkout "
            "fails; that is not done",
            "imagestreams describe tag web:stable",
            id="a pin at what the tag never had",
        ),
        pytest.param(
            deployment(),
            web(pinned()),
            (),
            f"up to date: it has the image that the tag is held at ({DIGEST})",
            "to let the tag follow its source again: imagestreams resume web:stable",
            id="pinned, and the annotation is gone",
        ),
        pytest.param(
            deployment(follow=None, paused=True),
            web(),
            (),
            "up to date, and kept whatever shop/web:stable has: its trigger is paused",
            "imagestreams set-triggers deployment/web --auto",
            id="paused, and equal",
        ),
        pytest.param(
            deployment(),
            Unseen("Forbidden: you may not"),
            (),
            "unknown, since shop/web:stable could not be seen: Forbidden: you may not",
            "",
            id="the stream may not be seen",
        ),
        pytest.param(
            deployment(),
            Unseen("there is no image stream shop/web"),
            (),
            "unknown, since shop/web:stable could not be seen: there is no image stream shop/web",
            "",
            id="no stream",
        ),
        pytest.param(
            deployment(OLD, served="other"),
            web(),
            Unseen("Forbidden: no Events for you"),
            "not updated yet (tag moved), and the controller has not said why",
            RUNS,
            id="Events may not be seen",
        ),
    ],
)
def test_the_verdict(workload, tags, events, words, next_):
    known = {KEY: tags if isinstance(tags, Unseen) else seen(tags)}
    [follower] = compare(read_workload(DEPLOYMENT, json.dumps(workload).encode()), known.__getitem__)
    found = verdict_of(follower, events, NOW)
    assert found == (words, next_)


# ---- what is named ----


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (("web:stable", "web:1"), (Target(TAG, "web:stable"), Target(TAG, "web:1"))),
        (("deploy/web",), (Target(workloads.WORKLOAD, "web"),)),
        (("is", "web"), (Target(STREAM, "web"),)),
        (("tag", "web:stable"), (Target(TAG, "web:stable"),)),
        ((f"web@{DIGEST}",), (Target(IMAGE, f"web@{DIGEST}"),)),
        (("deployments",), (Target(workloads.WORKLOAD, ""),)),
        (("shazam:latest",), (Target(TAG, "shazam:latest"),)),
        (("sha256x:1", "sha:1"), (Target(TAG, "sha256x:1"), Target(TAG, "sha:1"))),
    ],
)
def test_what_is_named(words, found):
    assert wanted_by(words) == found


def test_what_is_no_name():
    with pytest.raises(Misuse, match="'pods' is none of"):
        wanted_by(("pods", "web"))


# ---- whole calls ----


@pytest.fixture
async def world(tmp_path, monkeypatch) -> AsyncIterator[World]:
    async with opened(tmp_path, monkeypatch) as world:
        world.server.define("image.openshift.io/v1", "images", "Image", namespaced=False)
        world.server.put(web())
        world.server.put(deployment())
        yield world


@pytest.fixture
def describe(capsys):
    return command("describe", capsys)


def happened(name: str, kind: str, reason: str, message: str, count: int = 1) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{name}.{reason.lower()}", "namespace": "shop"},
        "involvedObject": {"kind": kind, "name": name, "uid": "u-1" if kind == "ImageStream" else "d-1"},
        "type": "Normal",
        "reason": reason,
        "message": message,
        "source": {"component": "imagestreams"},
        "firstTimestamp": stamp(timedelta(days=3)),
        "lastTimestamp": stamp(timedelta(hours=20)),
        "count": count,
    }


def lines(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines()]


async def test_a_deployment(world, describe):
    world.server.put(happened("web", "Deployment", "ImageUpdated", "container web: image set", count=2))
    world.server.put(happened("web", "ImageStream", "TagMoved", "tag stable moved from a to b"))
    done = await describe("deploy/web")
    assert (done.code, done.err) == (0, "")
    found = lines(done.out)
    assert found[:4] == ["Name: web", "Namespace: shop", "Kind: Deployment", "Rollout: done: 1 of 1 pods available"]
    for line in (
        f"Runs: {SPEC}",
        "Follows: shop/web:stable",
        f"Tag Has: {SPEC}",
        f"Last Set: {SPEC}",
        "State: up to date",
        "Normal ImageUpdated 20h (x2 over 3d) imagestreams container web: image set",
    ):
        assert line in found
    assert "TagMoved" not in done.out


async def test_a_deployment_with_other_containers_and_mistakes(world, describe):
    value = deployment(follow="web=web:stable, gone=web:stable")
    pod = value["spec"]["template"]["spec"]
    pod["initContainers"] = [{"name": "setup", "image": "busybox"}]
    world.server.put(value)
    found = lines((await describe("deploy/web", "--show-events=false")).out)
    assert found.index("setup (init):") < found.index("web:")
    assert found[found.index("setup (init):") + 1 :][:2] == ["Runs: busybox", "Follows: no tag"]
    assert found[-2:] == [
        "Problems:",
        "imagestreams.dev/follow names the container 'gone', which this Deployment does not have",
    ]


@pytest.mark.parametrize(
    ("status_", "spec", "words"),
    [
        ({"observedGeneration": 1}, {}, "rolling out: the cluster has not seen the last change yet"),
        ({"updatedReplicas": 0}, {}, "rolling out: 0 of 1 pods have it"),
        ({"replicas": 2}, {}, "rolling out: old pods are left"),
        ({}, {"paused": True}, "done: 1 of 1 pods available, and paused"),
        (
            {"updatedReplicas": 0},
            {"paused": True},
            "paused: 0 of 1 pods have it; to go on: kubectl rollout resume deployment/web",
        ),
        (
            {
                "updatedReplicas": 0,
                "conditions": [{"type": "Progressing", "status": "False", "message": "timed out\x1b[31m"}],
            },
            {},
            "the rollout fails: timed out [31m",
        ),
    ],
)
async def test_how_far_a_rollout_is(world, describe, status_, spec, words):
    value = deployment()
    value["spec"] |= spec
    world.server.put({**value, "status": {**value["status"], **status_}})
    assert f"Rollout: {words}" in lines((await describe("deploy/web")).out)


async def test_all_deployments_that_follow(world, describe):
    world.server.put(deployment(name="plain", follow=None))
    world.server.put(deployment(name="other"))
    names = [line for line in lines((await describe("deployments")).out) if line.startswith("Name:")]
    assert names == ["Name: other", "Name: web"]


async def test_a_tag(world, describe):
    world.server.put(happened("web", "ImageStream", "TagMoved", "tag stable moved from a to b"))
    world.server.put(happened("web", "ImageStream", "TagImported", "tag prod is it"))
    world.server.put(stream(alias("live", "web:stable"), name="other", uid="u-9"))
    done = await describe("web:stable")
    found = lines(done.out)
    for line in (
        "Name: web:stable",
        f"Image: {SPEC}",
        "From: DockerImage quay.io/acme/web",
        "Looked Up: when its source changes, and on request (imagestreams import-image web:stable)",
        "it was of another source; the present one was not looked up yet",
        f"1 {OTHER} 3d",
        f"2 {DIGEST} 20h current",
        f"deployment/web web shop/web:stable sha256:{'a' * 12}",
        "other:live",
        "web:prod",
        "Normal TagMoved 20h imagestreams tag stable moved from a to b",
    ):
        assert line in found
    assert "TagImported" not in done.out


async def test_a_tag_that_is_held(world, describe):
    value = web(pinned(), pins=PIN, interval="1h30m")
    value["spec"]["tags"][0]["importPolicy"] = {"scheduled": True}
    value["status"]["tags"][0]["observed"] = {"digest": OTHER}
    world.server.put(value)
    found = lines((await describe("istag/web:stable")).out)
    for line in (
        f"Held At: {DIGEST} by jane since 2026-01-01T00:00:00Z: checkout fails",
        "it follows its source again with: imagestreams resume web:stable",
        f"Served Now: {OTHER}",
        "Looked Up: on schedule, interval: 1h30m (annotation imagestreams.dev/interval)",
    ):
        assert line in found


@pytest.mark.parametrize(
    ("recorded", "more"),
    [
        ([], ["to take that back: imagestreams resume web:stable"]),
        (
            [pinned("False", "it is not in its history")],
            ["to take that back: imagestreams resume web:stable", "Not Held: it is not in its history"],
        ),
        (
            [pinned()],
            [f"Held At: {DIGEST}", "it follows its source again with: imagestreams resume web:stable"],
        ),
    ],
)
async def test_a_pin_is_a_wish_until_it_is_carried_out(world, describe, recorded, more):
    """Anybody who may write the stream can write it."""
    world.server.put(web(*recorded, pins=PIN.replace(DIGEST, ELSE)))
    found = lines((await describe("web:stable")).out)
    assert f"To Be Held At: {ELSE} by jane since 2026-01-01T00:00:00Z: checkout fails; not done" in found
    assert [line for line in more if line not in found] == []
    assert [line for line in found if line.startswith("Held At:")] == [line for line in more if line.startswith("Held")]
    assert not [line for line in lines((await describe("deploy/web")).out) if line.startswith(f"Tag Held At: {ELSE}")]


async def test_events_of_a_stream_are_asked_for_once(world, describe):
    world.server.put(happened("web", "ImageStream", "TagMoved", "tag stable moved from a to b"))
    done = await describe("tag", "web")
    assert done.out.count("Name: ") == 2
    assert world.verbs("events") == ["list"]
    assert lines(done.out).count("Normal TagMoved 20h imagestreams tag stable moved from a to b") == 1


@pytest.mark.parametrize(
    ("spec", "recorded", "more"),
    [
        (tag("a", None), [], ["From: nothing: only pushes move it", "History: <none>", "Image: <none>"]),
        (alias("a", "b"), [], ["Looked Up: not by itself: it moves with the tag that it follows"]),
        (tag("a"), [failed("a", "NotFound", "gone")], ["Last Attempt: failed (NotFound)", "gone"]),
        (
            tag("b"),
            [imported("a")],
            ["From: nothing: spec has no such tag (any more); its history stays until it is forgotten"],
        ),
        (
            tag("a", reference=True),
            [],
            ["From: DockerImage quay.io/acme/web; the pull spec itself is recorded, and never looked up"],
        ),
    ],
)
async def test_tags_of_other_kinds(world, describe, spec, recorded, more):
    value = stream(spec)
    value["status"] = {"tags": recorded}
    world.server.put(value)
    found = lines((await describe("web:a")).out)
    for line in more:
        assert line in found


async def test_a_stream(world, describe):
    value = web(suspend="true")
    value["metadata"]["labels"] = {"team": "shop"}
    value["status"]["conditions"] = [
        {"type": "Ready", "status": "False", "reason": "ImportFailed", "message": "not imported: edge"},
        {"type": "OnSchedule", "status": "False", "reason": "Overdue", "message": "quay.io"},
    ]
    value["spec"]["lookupPolicy"] = {"local": True}
    world.server.put(value)
    found = lines((await describe("stream", "web")).out)
    for line in (
        "Labels: team=shop",
        "Annotations: imagestreams.dev/suspend=true",
        "Ready: False (ImportFailed): not imported: edge",
        "OnSchedule: False (Overdue): quay.io",
        "Local Lookup: yes",
        "Suspended: yes: nothing of it is looked up (annotation imagestreams.dev/suspend)",
        f"stable sha256:{'a' * 12} 20h Imported quay.io/acme/web",
        "prod <none> <none> Suspended stable (ImageStreamTag)",
        f"deployment/web web shop/web:stable sha256:{'a' * 12}",
        "Events: <none>",
    ):
        assert line in found


async def test_a_stream_that_nobody_has_seen(world, describe):
    world.server.put(stream(tag("a")))
    found = (await describe("is/web")).out
    assert "no controller has written its status yet; is imagestreams installed and running?" in found


IMAGE = {
    "apiVersion": "image.openshift.io/v1",
    "kind": "Image",
    "metadata": {"name": DIGEST.replace(":", "-")},
    "dockerImageLayers": [{"name": "l", "size": 1}, {"name": "m", "size": 2}],
    "dockerImageMetadata": {
        "Architecture": "amd64",
        "Os": "linux",
        "Created": "2024-01-01T00:00:00Z",
        "Size": 5 << 20,
        "Config": {"User": "1001", "Entrypoint": ["/bin/web", "-x"], "Labels": {"a": "b\x1b[31m"}},
    },
    "dockerImageManifests": [{"os": "linux", "architecture": "arm64", "variant": "v8", "digest": OTHER}],
}


async def test_an_image(world, describe):
    world.server.put(IMAGE)
    found = lines((await describe("image", "web@aaaa")).out)
    for line in (
        f"Name: web@{DIGEST}",
        f"Image: {SPEC}",
        "Tags: stable",
        "Earlier Of: <none>",
        "Built: Mon, 01 Jan 2024 00:00:00 +0000",
        "Platform: linux/amd64",
        "Size: 5.0 MiB in 2 layers",
        "User: 1001",
        "Entrypoint: /bin/web -x",
        "Labels: a=b [31m",
        f"Platforms: linux/arm64/v8 {OTHER}",
        "deployment/web web",
    ):
        assert line in found


async def test_an_image_without_an_object(world, describe):
    words = "Details: not seen: the cluster keeps no Image object of it (the controller's --image-objects)"
    assert words in lines((await describe("image", "web@aaaa")).out)
    malformed = {**IMAGE, "dockerImageMetadata": "x", "dockerImageLayers": 1, "dockerImageManifests": [1, {}]}
    world.server.put(malformed)
    assert (await describe("image", "web@aaaa")).code == 0


# ---- rights ----


async def test_what_may_not_be_seen_is_said(world, describe):
    for resource in ("deployments", "events", "images"):
        world.server.inject(status(403, "Forbidden", f"no {resource}"), resource=resource, times=-1)
    done = await describe("web:stable")
    assert done.code == 0
    assert "Followed by: not seen: Forbidden: no deployments" in lines(done.out)
    assert "Events: not seen: Forbidden: no events" in lines(done.out)
    found = lines((await describe("image", "web@aaaa")).out)
    assert (
        "Details: not seen: you may not read Image objects (images.image.openshift.io), if the cluster keeps any"
        in found
    )
    assert "Used by: not seen: Forbidden: no deployments" in found


async def test_a_stream_of_another_namespace_that_may_not_be_seen(world, describe):
    world.server.put(deployment(follow="web=far/web:stable"))
    world.server.inject(
        status(403, "Forbidden", "no far streams"),
        resource="imagestreams",
        when=lambda request: request.namespace == "far",
        times=-1,
    )
    done = await describe("deploy/web")
    assert done.code == 0
    assert "Tag Has: not seen: Forbidden: no far streams" in lines(done.out)
    assert "State: unknown, since far/web:stable could not be seen: Forbidden: no far streams" in lines(done.out)


async def test_aliases_where_only_the_stream_may_be_read(world, describe):
    world.server.inject(status(403, "Forbidden", "no lists"), verb="list", resource="imagestreams", times=-1)
    assert "web:prod" in lines((await describe("web:stable")).out)


async def test_what_is_not_there(world, describe):
    done = await describe("deploy/gone")
    assert done == (1, "", 'Error from server (NotFound): deployments.apps "gone" not found\n')
    assert (await describe("web:gone")).err.endswith('imagestreamtags.image.openshift.io "web:gone" not found\n')
    assert (await describe("is/gone")).code == 1
    assert (await describe("image", "gone@aaaa")).code == 1
    assert (await describe()).code == 2


async def test_only_reads(world, describe):
    for words in (("is",), ("tags",), ("images",), ("deployments",)):
        assert (await describe(*words)).code == 0
    assert {seen.verb for seen in world.server.requests} == {"get", "list"}


async def test_words_of_strangers_steer_no_terminal(world, describe):
    evil = "\x1b[2J\u202e\r\x07"
    value = web(
        failed("stable", f"Bad{evil}", f"no\n{evil}", item(DIGEST)),
        pins=json.dumps({"stable": {"digest": DIGEST, "reason": evil, "by": evil}}),
    )
    value["metadata"]["annotations"][f"x{evil}"] = evil
    world.server.put(value)
    world.server.put(deployment(f"quay.io/{evil}"))
    world.server.put(happened("web", "ImageStream", "TagMoved", f"tag stable {evil}"))
    world.server.put(happened("web", "Deployment", f"X{evil}", evil))
    for words in (("is/web",), ("web:stable",), ("image/web@aaaa",), ("deploy/web",)):
        out = (await describe(*words)).out
        assert out
        assert all(character == "\n" or character.isprintable() for character in out)
