"""`set-lookup` from the command line to the socket: what it changes, lists and says."""

from __future__ import annotations

import json

import pytest

from imagestreams.cli.lookup_policy import OPT_IN, RESOLVE_NAMES, set_stream, set_workload
from imagestreams.cli.workloads import CRON_JOB, DEPLOYMENT, POD
from imagestreams.core import resolving
from tests.cli.shop import command, opened, stream, tag
from tests.fakes.apiserver import status

MARK = {RESOLVE_NAMES: "*"}


@pytest.fixture
async def world(tmp_path, monkeypatch):
    async with opened(tmp_path, monkeypatch) as world:
        world.server.put(namespace({OPT_IN: "enabled"}))
        yield world


@pytest.fixture
def run(capsys):
    return command("set-lookup", capsys)


def namespace(labels):
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "labels": labels}}


def deployment(name="web", template=None, **annotations):
    metadata = {} if template is None else {"metadata": template}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": "shop", **annotations},
        "spec": {"template": {**metadata, "spec": {"containers": [{"name": "web", "image": "web"}]}}},
    }


def local(value, enabled=True):
    return {**value, "spec": {**value["spec"], "lookupPolicy": {"local": enabled}}}


def test_the_controllers_words_are_the_same():
    assert resolving.RESOLVE_NAMES_ANNOTATION == RESOLVE_NAMES


# ---- what is changed ----


@pytest.mark.parametrize(
    ("spec", "enabled", "wanted"),
    [
        ({"tags": [1]}, True, {"tags": [1], "lookupPolicy": {"local": True}}),
        (None, True, {"lookupPolicy": {"local": True}}),
        ({"lookupPolicy": {"local": False, "other": 1}}, True, {"lookupPolicy": {"local": True, "other": 1}}),
        ({"lookupPolicy": {"local": True}}, False, {"lookupPolicy": {"local": False}}),
        ({"tags": []}, False, {"tags": []}),
        ({"lookupPolicy": None}, False, {"lookupPolicy": None}),
    ],
)
def test_a_stream(spec, enabled, wanted):
    assert set_stream({"spec": spec}, enabled=enabled)["spec"] == wanted


@pytest.mark.parametrize(
    ("value", "enabled", "wanted"),
    [
        pytest.param(deployment(), True, deployment(template={"annotations": MARK}), id="on the template"),
        pytest.param(
            deployment(template={"labels": {"a": "b"}, "annotations": {"k": "v"}}),
            True,
            deployment(template={"labels": {"a": "b"}, "annotations": {"k": "v", **MARK}}),
            id="others stay",
        ),
        pytest.param(deployment(annotations=MARK), True, deployment(annotations=MARK), id="the object has it already"),
        pytest.param(
            deployment(template={"annotations": {"k": "v", **MARK}}, annotations={**MARK, "l": "w"}),
            False,
            deployment(template={"annotations": {"k": "v"}}, annotations={"l": "w"}),
            id="taken from both",
        ),
        pytest.param(deployment(), False, deployment(), id="nothing there"),
    ],
)
def test_a_workload(value, enabled, wanted):
    assert set_workload(DEPLOYMENT, value, enabled=enabled) == wanted


def test_other_places_of_the_template():
    value = {"metadata": {"name": "a"}, "spec": {"jobTemplate": {"spec": {"template": {"spec": {}}}}}}
    set_workload(CRON_JOB, value, enabled=True)
    assert value["spec"]["jobTemplate"]["spec"]["template"]["metadata"] == {"annotations": MARK}
    value = {"metadata": {"name": "a"}, "spec": {}}
    set_workload(POD, value, enabled=True)
    assert value == {"metadata": {"name": "a", "annotations": MARK}, "spec": {}}


# ---- the command ----


async def test_streams(world, run):
    world.server.put(stream(tag("a")))
    world.server.put(local(stream(name="db")))
    assert await run("web", "is/db") == (
        0,
        (
            "imagestream.image.openshift.io/web image lookup updated\n"
            "imagestream.image.openshift.io/db image lookup unchanged\n"
        ),
        "",
    )
    assert world.stream["spec"] == {"tags": [tag("a")], "lookupPolicy": {"local": True}}
    [patch] = world.bodies("patch")
    assert patch["spec"] == {"lookupPolicy": {"local": True}}


async def test_it_can_be_taken_back(world, run):
    world.server.put(local(stream()))
    assert (await run("web", "--enabled=false")).code == 0
    assert world.stream["spec"]["lookupPolicy"] == {"local": False}


async def test_a_workload_is_marked(world, run):
    world.server.put(deployment())
    assert await run("deploy/web") == (0, "deployment.apps/web image lookup updated\n", "")
    found = world.server.get("apps/v1", "deployments", "shop", "web")
    assert found["spec"]["template"]["metadata"] == {"annotations": MARK}
    assert (await run("deploy/web", "--enabled=false")).code == 0
    found = world.server.get("apps/v1", "deployments", "shop", "web")
    assert not found["spec"]["template"]["metadata"].get("annotations")


@pytest.mark.parametrize("args", [(), ("--list",)])
async def test_the_list(world, run, args):
    world.server.put(stream())
    world.server.put(local(stream(name="db")))
    assert await run(*args) == (0, "NAME   LOCAL\ndb     true\nweb    false\n", "")
    assert {seen.verb for seen in world.server.requests if seen.resource} == {"list"}


async def test_the_list_of_what_is_named(world, run):
    world.server.put(stream())
    world.server.put(deployment(template={"annotations": MARK}))
    result = await run("--list", "deploy/web", "web", "none")
    assert result.out == "NAME              LOCAL\ndeployments/web   true\nweb               false\n"
    assert (result.code, result.err) == (
        1,
        'Error from server (NotFound): imagestreams.image.openshift.io "none" not found\n',
    )


async def test_all_streams_and_those_with_a_label(world, run):
    world.server.put(stream())
    world.server.put(stream(name="db", labels={"team": "a"}))
    assert (await run("-l", "team=a")).out == "imagestream.image.openshift.io/db image lookup updated\n"
    assert (await run("--all")).out == (
        "imagestream.image.openshift.io/db image lookup unchanged\n"
        "imagestream.image.openshift.io/web image lookup updated\n"
    )
    assert (await run("-l", "team=a", "--list")).out == "NAME   LOCAL\ndb     true\n"


@pytest.mark.parametrize("args", [("--all",), ()])
async def test_nothing_there(world, run, args):
    assert await run(*args) == (0, "", "No resources found in shop namespace.\n")


@pytest.mark.parametrize("labels", [{}, {OPT_IN: "disabled"}])
async def test_a_namespace_that_does_not_ask_for_it(world, run, labels):
    world.server.put(namespace(labels))
    world.server.put(stream())
    result = await run("web")
    assert (result.code, result.err) == (
        0,
        (
            "Warning: names are not looked up in shop until it asks for that: kubectl label namespace shop "
            "imagestreams.dev/resolve-names=enabled\n"
        ),
    )
    assert (await run("web", "--enabled=false")).err == ""


async def test_who_may_not_see_the_namespace_is_told_nothing(world, run):
    world.server.put(stream())
    world.server.inject(status(403, "Forbidden", "no"), resource="namespaces")
    assert (await run("web")).err == ""


async def test_others_write_meanwhile(world, run):
    world.server.put(stream())
    world.when("patch", lambda: world.server.put(stream(tag("theirs"))))
    assert (await run("web")).code == 0
    assert world.stream["spec"] == {"tags": [tag("theirs")], "lookupPolicy": {"local": True}}


@pytest.mark.parametrize(("mode", "words"), [("client", " (dry run)"), ("server", " (server dry run)")])
async def test_a_dry_run(world, run, mode, words):
    before = world.server.put(stream())
    assert await run("web", f"--dry-run={mode}") == (
        0,
        f"imagestream.image.openshift.io/web image lookup updated{words}\n",
        "",
    )
    assert json.loads((await run("web", f"--dry-run={mode}", "-o", "json")).out)["spec"]["lookupPolicy"] == {
        "local": True
    }
    assert world.stream == before


async def test_documents(world, run):
    world.server.put(stream())
    world.server.put(deployment())
    assert json.loads((await run("web", "-o", "json")).out) == world.stream
    found = json.loads((await run("web", "deploy/web", "-o", "json")).out)
    assert [each["kind"] for each in found["items"]] == ["ImageStream", "Deployment"]
    assert (await run("--list", "-o", "name")).out == "imagestream.image.openshift.io/web\n"


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("web", "--all"), "names, and --all or -l, cannot be given together"),
        (("web:1",), "'web:1' is no name of an image stream; write NAME, or KIND/NAME of a workload"),
        (("svc/web",), "'svc' is none of stream, deployment, statefulset, "),
        (("deploy/a:b",), "'a:b' is no name; write deployment/NAME"),
        (("workload/web",), "'workload' is none of stream, deployment, "),
        (("web", "--enabled=maybe"), "'maybe' is neither true nor false"),
    ],
)
async def test_called_wrongly(world, run, args, words):
    result = await run(*args)
    assert (result.code, result.out) == (2, "")
    assert words in result.err
    assert world.server.requests == []
