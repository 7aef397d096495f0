"""`diff` from the command line to the socket: what differs, why, and what its exit code says."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from imagestreams.cli.following import led_by, progress_of, shown
from imagestreams.cli.listing import decoded as read
from imagestreams.core.stream import Istag
from tests.cli.shop import alias, command, imported, item, opened, stream, tag
from tests.cli.test_resume import SERVED, event
from tests.cli.test_revisions import A, B, held, recorded
from tests.core.workloads import owner
from tests.fakes.apiserver import status

if TYPE_CHECKING:
    from imagestreams.cli.listing import Stream

FAILS = {"conditions": [{"type": "Progressing", "reason": "ProgressDeadlineExceeded"}]}
DONE = {"observedGeneration": 1, "replicas": 3, "updatedReplicas": 3, "availableReplicas": 3}
OLD, NEW = f"quay.io/acme/web@{A}", f"quay.io/acme/web@{B}"


@pytest.fixture
async def world(tmp_path, monkeypatch):
    async with opened(tmp_path, monkeypatch) as world:
        value = stream(tag("1"))
        world.server.put({**value, "status": {"tags": [imported("1", item(B))]}})
        yield world


@pytest.fixture
def run(capsys):
    return command("diff", capsys)


def deployment(
    name: str = "web",
    image: str = NEW,
    *,
    follow: str | None = "web=web:1",
    served: str = event(B),
    manager: str = "kubectl-edit",
    state: dict[str, Any] | None = None,
    **metadata: Any,
) -> dict[str, Any]:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": name,
            "namespace": "shop",
            "uid": f"u-{name}",
            "annotations": {"imagestreams.dev/follow": follow} if follow else {},
            "labels": {SERVED + "web": served} if served else {},
            "managedFields": [owner(manager)],
            "generation": 1,
            **metadata,
        },
        "spec": {"replicas": 3, "template": {"spec": {"containers": [{"name": "web", "image": image}]}}},
        "status": {**DONE, **(state or {})},
    }


@pytest.mark.parametrize(
    ("value", "row"),
    [
        pytest.param(deployment(image=OLD), (OLD, NEW, "held", "set by hand (kubectl-edit)"), id="by hand"),
        pytest.param(deployment(image=OLD, manager="helm"), (OLD, NEW, "behind", "manifest applied again"), id="m"),
        pytest.param(deployment(image=OLD, served=event(A)), (OLD, NEW, "behind", "tag moved"), id="moved"),
        pytest.param(deployment(image="x/y:1", served=""), ("x/y:1", NEW, "behind", "tag moved"), id="never served"),
        pytest.param(
            deployment(follow="web=no:1"),
            (NEW, None, "waiting", "not seen: there is no image stream shop/no"),
            id="no such stream",
        ),
        pytest.param(
            deployment(state={"updatedReplicas": 1}), (NEW, NEW, "rolling out", "1 of 3 pods have it"), id="rollout"
        ),
        pytest.param(deployment(served=""), None, id="equal, to be noted"),
        pytest.param(deployment(), None, id="equal"),
        pytest.param(deployment(image=f"mirror.test/x@{B}"), None, id="equal by another name"),
    ],
)
async def test_why(world, run, value, row):
    world.server.put(value)
    done = await run("-o", "json")
    found = json.loads(done.out)
    [difference] = found["differences"] or [None]
    if row is None:
        assert (done.code, difference, found["equal"]) == (0, None, 1)
    else:
        assert difference is not None
        assert (done.code, found["equal"]) == (1, 0)
        assert (difference["running"], difference["tagHas"], difference["state"], difference["why"]) == row


async def test_a_paused_trigger(world, run):
    source = {"kind": "ImageStreamTag", "name": "web:1"}
    path = "spec.template.spec.containers[0].image"
    text = json.dumps([{"from": source, "fieldPath": path, "paused": True}])
    world.server.put(deployment(image=OLD, annotations={"image.openshift.io/triggers": text}))
    done = await run()
    assert (done.code, done.out.split()[-1]) == (1, "paused")
    world.server.put(deployment(image=NEW, annotations={"image.openshift.io/triggers": text}))
    assert (await run()).code == 0


async def test_the_table(world, run):
    world.server.put(deployment("b", OLD))
    world.server.put(deployment("a", "x/y:1", follow="web=far/web:2", served=""))
    world.server.put(deployment("c"))
    world.server.put(deployment("d", OLD, follow=None))
    done = await run()
    assert (done.code, done.err) == (1, "")
    why = "waiting: not seen: there is no image stream far/web", "held: set by hand (kubectl-edit)"
    assert done.out.splitlines() == [
        "WORKLOAD            CONTAINER   TAG         RUNNING               TAG HAS               WHY",
        f"deployment.apps/a   web         far/web:2   x/y:1                 <none>                {why[0]}",
        f"deployment.apps/b   web         web:1       sha256:aaaaaaaaaaaa   sha256:bbbbbbbbbbbb   {why[1]}",
    ]
    done = await run("-o", "wide")
    assert f"{OLD}   {NEW}   held" in done.out


async def test_all_namespaces(world, run):
    far = stream(tag("2"), namespace="far")
    world.server.put({**far, "status": {"tags": [imported("2", item(A))]}})
    world.server.put(deployment("web", OLD))
    world.server.put(deployment("a", "x/y:1", follow="web=web:2", served="", namespace="far"))
    done = await run("-A")
    assert [line.split()[:3] for line in done.out.splitlines()] == [
        ["NAMESPACE", "WORKLOAD", "CONTAINER"],
        ["far", "deployment.apps/a", "web"],
        ["shop", "deployment.apps/web", "web"],
    ]
    assert world.verbs() == ["list"], "all streams at once"


@pytest.mark.parametrize("args", [(), ("-A",), ("-o", "wide")])
async def test_the_table_without_its_first_line(world, run, args):
    world.server.put(deployment("web", OLD))
    whole, without = await run(*args), await run(*args, "--no-headers")
    assert [line.split() for line in without.out.splitlines()] == [line.split() for line in whole.out.splitlines()[1:]]
    assert (without.code, without.err) == (1, "")


async def test_a_stream_of_another_namespace(world, run):
    far = stream(tag("2"), namespace="far")
    world.server.put({**far, "status": {"tags": [imported("2", item(B))]}})
    world.server.put(deployment("a", OLD, follow="web=far/web:2", served=""))
    done = await run("-o", "json")
    [difference] = json.loads(done.out)["differences"]
    assert difference["state"] == "behind"
    assert difference["why"] == "tag moved, or may not be pulled from there"


async def test_a_stream_that_may_not_be_seen_is_not_taken_for_none(world, run):
    world.server.put(deployment("a", follow="web=far/web:2", served=""))
    world.server.inject(
        status(403, "Forbidden", "not yours"), resource="imagestreams", when=lambda seen: seen.namespace == "far"
    )
    [difference] = json.loads((await run("-o", "json")).out)["differences"]
    assert (difference["state"], difference["why"]) == ("waiting", "not seen: Forbidden: not yours")


async def test_a_server_that_fails_makes_no_difference(world, run):
    world.server.put(deployment("a", follow="web=far/web:2", served=""))
    world.server.inject(status(500, "InternalError", "etcd"), resource="imagestreams", verb="get")
    assert await run() == (2, "", "Error from server (InternalError): etcd\n")


async def test_by_label(world, run):
    world.server.put(deployment("web", OLD))
    await run("-l", "app=web")
    [seen] = [seen for seen in world.server.requests if seen.resource == "deployments"]
    assert seen.query["labelSelector"] == "app=web"


async def test_no_differences(world, run):
    world.server.put(deployment())
    done = await run()
    assert done == (0, "", "No differences: of 1 containers each has what the tag that it follows points to.\n")


async def test_nobody_follows(world, run):
    assert await run() == (0, "", "No workload of namespace shop follows a tag.\n")
    assert (await run("-A")).err == "No workload of any namespace follows a tag.\n"


async def test_what_cannot_be_read_is_told(world, run):
    broken = deployment("broken")
    broken["spec"]["template"]["spec"]["containers"] = 5
    world.server.put(broken)
    world.server.put(deployment())
    done = await run()
    assert done.code == 0
    assert "warning: a Deployment cannot be read: " in done.err


@pytest.mark.parametrize("resource", ["deployments", "imagestreams"])
async def test_a_failure_has_another_code_than_differences(world, run, resource):
    world.server.put(deployment())
    world.server.inject(status(403, "Forbidden", "not yours"), verb="list", resource=resource)
    done = await run()
    assert (done.code, done.out, done.err) == (2, "", "Error from server (Forbidden): not yours\n")


async def test_a_server_without_streams(world, run):
    world.server.undefine("image.openshift.io/v1", "imagestreams")
    assert (await run()).code == 2


async def test_calling_it_wrongly(world, run):
    assert (await run("web")).code == 2
    assert (await run("-o", "name")).code == 2


# ---- for programs ----


class _Tag(msgspec.Struct, forbid_unknown_fields=True):
    namespace: str
    stream: str
    tag: str


class _Difference(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    namespace: str
    kind: str
    name: str
    container: str
    tag: _Tag
    running: str
    tag_has: str | None
    state: str
    why: str | None


class _Diff(msgspec.Struct, forbid_unknown_fields=True):
    differences: list[_Difference]
    equal: int


async def test_json(world, run):
    world.server.put(deployment("a", OLD))
    world.server.put(deployment("b", follow="web=no:1"))
    found = msgspec.json.decode((await run("-o", "json")).out, type=_Diff)
    assert found.differences[0] == _Difference(
        "shop", "Deployment", "a", "web", _Tag("shop", "web", "1"), OLD, NEW, "held", "set by hand (kubectl-edit)"
    )
    assert found.differences[1].tag_has is None
    done = await run("-o", "jsonpath={.differences[*].name}")
    assert (done.code, done.out) == (1, "a b")


# ---- how far a rollout is ----


@pytest.mark.parametrize(
    ("change", "spec", "found"),
    [
        ({}, {}, ("done", "3 of 3 pods available")),
        ({}, {"paused": True}, ("done", "3 of 3 pods available, and paused")),
        ({"observedGeneration": 0}, {}, ("rolling out", "the cluster has not seen the last change yet")),
        ({"updatedReplicas": 2}, {}, ("rolling out", "2 of 3 pods have it")),
        ({"replicas": 4}, {}, ("rolling out", "old pods are left")),
        ({"availableReplicas": 2}, {}, ("rolling out", "2 of 3 pods are available")),
        (
            {"updatedReplicas": 0},
            {"paused": True},
            ("paused", "0 of 3 pods have it; to go on: kubectl rollout resume deployment/web"),
        ),
        ({"updatedReplicas": 1, **FAILS}, {}, ("the rollout fails", "ProgressDeadlineExceeded")),
        ({"conditions": [{"type": "Available", "status": "False"}]}, {}, ("done", "3 of 3 pods available")),
        (FAILS, {}, ("done", "3 of 3 pods available")),
    ],
)
def test_how_far_a_rollout_is(change: dict[str, Any], spec: dict[str, Any], found: tuple[str, str]):
    value = deployment(state=change)
    value["spec"] |= spec
    assert progress_of(value) == found


def test_a_rollout_of_no_pods():
    value = deployment(state={"replicas": 0, "updatedReplicas": 0, "availableReplicas": 0})
    value["spec"]["replicas"] = 0
    assert progress_of(value).is_done
    del value["status"], value["metadata"]["generation"]
    assert progress_of(value).is_done


# ---- who follows ----


def listed(value: dict[str, Any]) -> Stream:
    return read(json.dumps(value).encode())


def test_tags_that_lead_to_a_tag():
    one = listed(stream(tag("1"), alias("prod", "1"), alias("live", "web:prod"), alias("other", "2")))
    value = stream(alias("here", "web:live"), alias("far", "x:1"), name="shop")
    held_tag = {**recorded(A, condition=held()), "tag": "stop"}
    two = listed(
        {
            **value,
            "spec": {"tags": [*value["spec"]["tags"], alias("stop", "web:1"), alias("on", "stop")]},
            "status": {"tags": [held_tag]},
        }
    )
    found = led_by([one, two], Istag("shop", "web", "1"))
    assert {str(each) for each in found} == {"shop/web:1", "shop/web:prod", "shop/web:live", "shop/shop:here"}
    assert shown(Istag("shop", "web", "1"), "shop") == "web:1"
    assert shown(Istag("far", "web", "1"), "shop") == "far/web:1"


def test_tags_that_follow_each_other_come_to_an_end():
    one = listed(stream(alias("a", "b"), alias("b", "a")))
    assert {each.tag for each in led_by([one], Istag("shop", "web", "a"))} == {"a", "b"}
