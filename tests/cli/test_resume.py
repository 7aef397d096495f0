"""`resume` from the command line to the socket, for tags and for workloads."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest

from imagestreams.core.stream import Istag, TagEvent, event_identity
from tests.cli.shop import World, command, imported, item, opened, stream, tag
from tests.cli.test_revisions import PINS, A, B, C, held, observed, recorded
from tests.cli.test_rollback import controller
from tests.core.workloads import owner
from tests.fakes.apiserver import disconnect, status

PINNED = {"1": {"digest": A, "by": "jane", "reason": "checkout fails"}}
SERVED = "served.imagestreams.dev/"


@pytest.fixture
async def world(tmp_path, monkeypatch):
    monkeypatch.setattr("imagestreams.cli.waiting._FIRST_PAUSE", 0.001)
    monkeypatch.setattr("imagestreams.cli.editing._FIRST_PAUSE", 0.001)
    async with opened(tmp_path, monkeypatch) as world:
        yield world


@pytest.fixture
def run(capsys):
    return command("resume", capsys)


# ---- tags ----


def put(world: World, pins: Any = PINNED, **spec: Any) -> None:
    text = pins if isinstance(pins, str) else json.dumps(pins)
    condition = None if pins == {} else held()
    status = recorded(A, B, A, condition=condition, observed=observed(B, name="quay.io/acme/web:1"))
    value = stream(tag("1", "quay.io/acme/web:1"), annotations={PINS: text, "a": "b"}, spec=spec)
    world.server.put({**value, "status": {"tags": [status]}})


def looked_up(world: World, digest: str = C):
    """The controller's next rounds: the tag is let go, and the registry answers."""

    def act() -> None:
        controller(world)()
        found = world.stream
        [recorded] = found["status"]["tags"]
        recorded["items"].insert(0, item(digest))
        recorded["observed"] = {**recorded["observed"], "digest": digest}
        world.server.put(found)

    return act


async def test_a_tag_is_let_go_and_what_its_source_has_is_waited_for(world, run):
    put(world)
    # At first the controller has only let it go: the watch shows that, too, and it is not enough.
    world.when("watch", looked_up(world))
    done = await run("web:1")
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == [
        "imagestream.image.openshift.io/web tag 1 resumed",
        f"  was held at  {A} by jane: checkout fails",
        f"  now          quay.io/acme/web@{C} (revision 4)",
    ]
    assert world.stream["metadata"]["annotations"] == {"a": "b"}


async def test_without_waiting(world, run):
    put(world)
    done = await run("web:1", "--wait=false")
    assert done.out.splitlines() == [
        "imagestream.image.openshift.io/web tag 1 will resume",
        f"  was held at  {A} by jane: checkout fails",
        "  follows      quay.io/acme/web:1",
    ]
    assert world.verbs() == ["get", "patch"]


async def test_other_pins_stay(world, run):
    put(world, {**PINNED, "2": {"digest": B, "note": "x"}, "odd": 1})
    assert (await run("web:1", "--wait=false")).code == 0
    assert json.loads(world.annotation(PINS)) == {"2": {"digest": B, "note": "x"}, "odd": 1}


async def test_a_broken_entry_is_taken_away(world, run):
    put(world, {"1": {"digest": "x"}})
    done = await run("web:1", "--wait=false")
    assert (done.code, world.annotation(PINS)) == (0, "")
    assert "was held" not in done.out


async def test_a_tag_that_is_not_pinned(world, run):
    put(world, {})
    done = await run("web:1")
    assert done == (0, "imagestream.image.openshift.io/web tag 1 is not pinned\n", "")
    assert world.verbs() == ["get"]


@pytest.mark.parametrize(
    ("pins", "name", "words"),
    [
        (PINNED, "web:2", 'error: the image stream web has no tag "2"; it has: 1'),
        ("{", "web:1", "error: the annotation imagestreams.dev/pins is no JSON"),
        (PINNED, "no:1", "Error from server (NotFound)"),
    ],
)
async def test_what_cannot_be_let_go(world, run, pins, name, words):
    put(world, pins)
    done = await run(name)
    assert (done.code, done.out) == (1, "")
    assert words in done.err
    assert not world.bodies("patch")


async def test_the_registry_does_not_answer(world, run):
    put(world)

    def act() -> None:
        controller(world)()
        found = world.stream
        failure = {"type": "ImportSuccess", "status": "False", "reason": "Unavailable", "message": "503"}
        found["status"]["tags"][0]["conditions"] = [failure]
        world.server.put(found)

    world.when("watch", act)
    done = await run("web:1")
    assert done.code == 0
    assert done.out.splitlines()[2:] == [
        f"  now          quay.io/acme/web@{A} (revision 3)",
        "  Its source does not answer with an image: Unavailable: 503",
    ]


async def test_a_suspended_stream(world, run):
    put(world)
    found = world.stream
    found["metadata"]["annotations"]["imagestreams.dev/suspend"] = "true"
    world.server.put(found)
    world.when("watch", controller(world))
    done = await run("web:1")
    assert done.code == 0
    assert done.out.splitlines()[-1].startswith("  The stream's imports are suspended")


async def test_a_tag_without_a_source(world, run):
    put(world)
    found = world.stream
    found["spec"]["tags"] = []
    del found["status"]["tags"][0]["observed"]
    world.server.put(found)
    world.when("watch", controller(world))
    done = await run("web:1")
    assert (done.code, done.out.splitlines()[-1]) == (0, "  Nothing but pushes move this tag: it has no source.")


async def test_who_interrupts_the_waiting_is_told_what_is_done(world, run, monkeypatch):
    put(world)
    monkeypatch.setattr("imagestreams.cli.waiting.states", interrupt)
    done = await run("web:1")
    assert (done.code, world.annotation(PINS)) == (130, "")
    words = "web:1 is not pinned any more; the controller has it follow its source when it can."
    assert done.err.rstrip() == words


def interrupt(*_: Any, **__: Any) -> Any:
    raise KeyboardInterrupt


async def test_somebody_pins_it_again(world, run):
    put(world)

    def edit() -> None:
        found = world.stream
        found["metadata"]["annotations"][PINS] = json.dumps({"1": {"digest": B}})
        world.server.put(found)

    world.when("watch", edit)
    done = await run("web:1")
    assert (done.code, done.err) == (1, "error: somebody pinned web:1 again meanwhile\n")


async def test_the_time_is_up(world, run):
    put(world)
    done = await run("web:1", "--timeout=50ms")
    assert (done.code, world.annotation(PINS)) == (1, "")
    assert "error: the pin is gone, but the status of imagestream.image.openshift.io/web does not show it" in done.err


@pytest.mark.parametrize(("form", "words"), [("client", " (dry run)"), ("server", " (server dry run)")])
async def test_a_dry_run(world, run, form, words):
    put(world)
    done = await run("web:1", f"--dry-run={form}")
    assert (done.code, json.loads(world.annotation(PINS))) == (0, PINNED)
    assert done.out.splitlines()[0] == f"imagestream.image.openshift.io/web tag 1 resumed{words}"


async def test_output(world, run):
    put(world)
    done = await run("web:1", "--wait=false", "-o", "json")
    assert json.loads(done.out)["metadata"]["annotations"] == {"a": "b"}


@pytest.mark.parametrize(
    "args",
    [
        ("shop/web:1",),
        ("deploy/",),
        ("deploy/a/b",),
        ("deploy/web:1",),
        ("sts/web",),
        ("web:1", "-c", "web"),
        ("is/",),
        (),
    ],
)
async def test_calling_it_wrongly(world, run, args):
    assert (await run(*args)).code == 2
    assert world.verbs() == []


# ---- workloads ----


def event(digest: str, name: str = "1") -> str:
    return event_identity(Istag("shop", "web", name), TagEvent(docker_image_reference="x", image=digest))


def workload(image: str, *, labels: dict[str, str], managers: tuple[str, ...] = ("kubectl-edit",), **more: Any) -> Any:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": "web",
            "namespace": "shop",
            "uid": "u-w",
            "annotations": {"imagestreams.dev/follow": "web=web:1, log=web:2"},
            "labels": labels,
            "managedFields": [owner(manager, images=("web", "log")) for manager in managers],
            **more,
        },
        "spec": {
            "template": {
                "spec": {
                    "containers": [
                        {"name": "web", "image": image},
                        {"name": "log", "image": f"quay.io/acme/web@{B}"},
                        {"name": "alone", "image": "x/alone"},
                    ]
                }
            }
        },
    }


HELD = {SERVED + "web": event(B), SERVED + "log": event(B, "2"), "app": "web"}


def put_held(world: World, image: str = f"quay.io/acme/web@{A}", labels: Any = None, **more: Any) -> None:
    value = stream(tag("1"), tag("2"))
    world.server.put({**value, "status": {"tags": [imported("1", item(B)), imported("2", item(B))]}})
    world.server.put(workload(image, labels=HELD if labels is None else labels, **more))


def labels(world: World) -> dict[str, str]:
    found = world.server.get("apps/v1", "deployments", "shop", "web")
    assert found is not None
    return dict(found["metadata"]["labels"])


def serve(world: World):
    """The controller serves the container again."""

    def act() -> None:
        found = world.server.get("apps/v1", "deployments", "shop", "web")
        assert found is not None
        found["metadata"]["labels"][SERVED + "web"] = event(B)
        found["spec"]["template"]["spec"]["containers"][0]["image"] = f"quay.io/acme/web@{B}"
        world.server.put(found)

    return act


async def test_a_held_container_follows_again(world, run):
    put_held(world)
    world.when("watch", serve(world), resource="deployments")
    done = await run("deploy/web")
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == [
        "deployment.apps/web resumed",
        f"  container web: from  quay.io/acme/web@{A}",
        f"                 to    quay.io/acme/web@{B}",
        "  container log: has what web:2 points to",
    ]
    [patch] = world.bodies("patch", "deployments")
    label = "/metadata/labels/served.imagestreams.dev~1web"
    assert patch == [
        {"op": "test", "path": "/metadata/uid", "value": "u-w"},
        {"op": "test", "path": label, "value": event(B)},
        {"op": "remove", "path": label},
    ]


@pytest.mark.parametrize("name", ["deployment/web", "deployments.v1.apps/web", "Deploy/web", "workload/web"])
async def test_the_ways_to_name_it(world, run, name):
    put_held(world)
    assert (await run(name, "--wait=false")).code == 0
    assert SERVED + "web" not in labels(world)
    assert labels(world)["app"] == "web"


async def test_one_container_of_several(world, run):
    put_held(world)
    done = await run("deploy/web", "-c", "log", "--wait=false")
    assert (done.code, labels(world)) == (0, HELD)
    assert done.out.splitlines() == [
        "deployment.apps/web has no container that is held",
        "  container log: has what web:2 points to",
    ]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        pytest.param({"labels": {}}, "the controller is about to set it (tag moved: web:1)", id="not served yet"),
        pytest.param({"managers": ("helm",)}, "the controller is about to set it (manifest applied", id="manifest"),
        pytest.param({"image": f"quay.io/acme/web@{B}"}, "has what web:1 points to", id="equal"),
    ],
)
async def test_what_is_not_held_is_left_alone(world, run, more, words):
    put_held(world, **more)
    done = await run("deploy/web", "-c", "web")
    assert done.code == 0
    assert words in done.out
    assert not world.bodies("patch", "deployments")


async def test_a_stream_that_must_not_be_seen(world, run):
    put_held(world)
    world.server.inject(status(403, "Forbidden", "no"), verb="get", resource="imagestreams", times=-1)
    done = await run("deploy/web", "-c", "web")
    assert (done.code, labels(world)) == (0, HELD)
    assert "container web: web:1 has no image, or this namespace may not pull it" in done.out


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("deploy/web", "-c", "alone"), "has no container 'alone' that follows a tag; those that do: web, log"),
        (("deploy/no",), "Error from server (NotFound)"),
    ],
)
async def test_what_does_not_follow(world, run, args, words):
    put_held(world)
    done = await run(*args)
    assert (done.code, done.out) == (1, "")
    assert words in done.err


async def test_somebody_writes_the_label_meanwhile(world, run):
    put_held(world)

    def edit() -> None:
        found = world.server.get("apps/v1", "deployments", "shop", "web")
        assert found is not None
        found["metadata"]["labels"] = {"app": "other"}
        world.server.put(found)

    world.when("patch", edit, resource="deployments")
    done = await run("deploy/web", "--wait=false")
    assert (done.code, labels(world)) == (0, {"app": "other"})
    assert "the controller is about to set it" in done.out


def touch(world: World, **labels: str):
    """Others write the object: a status, or labels."""
    count = itertools.count()

    def act() -> None:
        found = world.server.get("apps/v1", "deployments", "shop", "web")
        assert found is not None
        found["status"] = {"observedGeneration": next(count)}
        found["metadata"]["labels"] |= {name: str(next(count)) for name in labels}
        world.server.put(found)

    return act


@pytest.mark.parametrize("is_busy", [False, True])
async def test_the_cluster_refuses(world, run, is_busy):
    put_held(world)
    refusal = status(422, "Invalid", "a policy says no")
    if is_busy:
        world.when("get", touch(world), times=-1, resource="deployments")
    world.server.inject(refusal, verb="patch", resource="deployments", times=-1)
    done = await run("deploy/web")
    assert (done.code, done.err) == (1, "Error from server (Invalid): a policy says no\n")
    assert world.verbs("deployments") == ["get", "patch", "get"]


async def test_others_write_its_labels_without_end(world, run, monkeypatch):
    pauses: list[int] = []
    monkeypatch.setattr("imagestreams.cli.editing.pause", pauses.append)
    put_held(world)
    refusal = status(422, "Invalid", "testing value failed")
    world.when("get", touch(world, app="a"), times=-1, resource="deployments")
    world.server.inject(refusal, verb="patch", resource="deployments", times=-1)
    done = await run("deploy/web")
    assert done.code == 1
    assert done.err == (
        "error: others wrote deployment.apps/web each of the 10 times that it was to be resumed; try again\n"
        "  The server said last: Error from server (Invalid): testing value failed\n"
    )
    assert pauses == list(range(10)), "each longer than the one before"


@pytest.mark.parametrize("is_served", [False, True])
async def test_an_answer_that_is_lost_is_no_failure_of_a_workload(world, run, is_served):
    put_held(world)
    world.server.inject(disconnect(after=True), verb="patch", resource="deployments")
    world.server.inject(status(422, "Invalid", "no such path"), verb="patch", resource="deployments")
    if is_served:  # meanwhile, with the same label as before
        world.when("get", resource="deployments")
        world.when("get", serve(world), resource="deployments")
    done = await run("deploy/web", "--wait=false")
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines()[:2] == ["deployment.apps/web resumed", f"  container web: from  quay.io/acme/web@{A}"]


async def test_who_interrupts_the_waiting_for_a_workload(world, run, monkeypatch):
    put_held(world)
    monkeypatch.setattr("imagestreams.cli.waiting.states", interrupt)
    done = await run("deploy/web")
    words = "deployment.apps/web is not held any more; the controller sets its image when it can."
    assert (done.code, done.err.rstrip()) == (130, words)


async def test_an_empty_container_is_not_all_of_them(world, run):
    put_held(world)
    done = await run("deploy/web", "-c", "")
    assert (done.code, labels(world)) == (2, HELD)


async def test_the_controller_does_not_set_it(world, run):
    put_held(world)
    done = await run("deploy/web", "--timeout=50ms")
    assert done.code == 1
    assert "error: deployment.apps/web is not held any more, but its image was not set within 0.05s" in done.err


@pytest.mark.parametrize(("form", "words"), [("client", " (dry run)"), ("server", " (server dry run)")])
async def test_a_dry_run_of_a_workload(world, run, form, words):
    put_held(world)
    done = await run("deploy/web", f"--dry-run={form}")
    assert (done.code, labels(world)) == (0, HELD)
    assert done.out.splitlines()[0] == f"deployment.apps/web resumed{words}"


async def test_output_of_a_workload(world, run):
    put_held(world)
    done = await run("deploy/web", "--wait=false", "-o", "json")
    assert SERVED + "web" not in json.loads(done.out)["metadata"]["labels"]
