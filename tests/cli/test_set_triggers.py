"""`set-triggers` from the command line to the socket: what the annotation becomes, what is listed, what is said."""

from __future__ import annotations

import json
import re

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from imagestreams.cli.options import Failure, Misuse
from imagestreams.cli.trigger_plan import Wanted, rows, set_triggers
from imagestreams.cli.workloads import CRON_JOB, DEPLOYMENT, LOOKED_UP, STATEFUL_SET, TRIGGERED, workloads_of
from imagestreams.core.trigger import KINDS
from tests.cli.shop import command, opened, stream, tag
from tests.fakes.apiserver import disconnect, status

TRIGGERS, FOLLOW = "image.openshift.io/triggers", "imagestreams.dev/follow"


@pytest.fixture
async def world(tmp_path, monkeypatch):
    async with opened(tmp_path, monkeypatch) as world:
        yield world


@pytest.fixture
def run(capsys):
    return command("set-triggers", capsys)


# ---- objects ----


def pod(*containers, init=()):
    listed = [{"name": name, "image": f"example/{name}:1"} for name in containers or ("web",)]
    started = [{"name": name, "image": f"example/{name}:1"} for name in init]
    return {"containers": listed, **({"initContainers": started} if started else {})}


def deployment(*containers, init=(), name="web", kind="Deployment", **annotations):
    values = {key.replace("triggers", TRIGGERS).replace("follow", FOLLOW): text for key, text in annotations.items()}
    return {
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": {"name": name, "namespace": "shop", **({"annotations": values} if values else {})},
        "spec": {"replicas": 1, "template": {"metadata": {}, "spec": pod(*containers, init=init)}},
    }


def cronjob():
    template = {"spec": pod()}
    return {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": {"name": "report", "namespace": "shop"},
        "spec": {"schedule": "@daily", "jobTemplate": {"spec": {"template": template}}},
    }


def entry(container="web", name="web:stable", namespace=None, **more):
    path = f'spec.template.spec.containers[?(@.name=="{container}")].image'
    source = {"kind": "ImageStreamTag", "name": name, **({"namespace": namespace} if namespace else {})}
    return {"from": source, "fieldPath": path, **more}


def text(*entries):
    return json.dumps(entries)


def triggers(value):
    found = (value["metadata"].get("annotations") or {}).get(TRIGGERS)
    return None if found is None else json.loads(found)


# ---- what is named ----


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["deploy/web"], ["deployment.apps/web"]),
        (["deployment", "web", "db"], ["deployment.apps/web", "deployment.apps/db"]),
        (["Deployments.apps/web", "sts/db"], ["deployment.apps/web", "statefulset.apps/db"]),
        (["cronjobs.v1.batch", "report"], ["cronjob.batch/report"]),
        (["ds/log", "cj/report"], ["daemonset.apps/log", "cronjob.batch/report"]),
        (["sts"], ["statefulset.apps/"]),
    ],
)
def test_workloads(words, named):
    assert [workload.named for workload in workloads_of(words, TRIGGERED)] == named


@pytest.mark.parametrize(
    ("words", "kinds", "message"),
    [
        (
            ["is/web"],
            TRIGGERED,
            "'is' is none of deployments (deployment, deploy), statefulsets (statefulset, sts), daemonsets (d",
        ),
        (["pod", "web"], TRIGGERED, "'pod' is none of deployments"),
        (["workloads"], TRIGGERED, "'workloads' is none of deployments"),
        (["deploy", ""], TRIGGERED, "'' is no name; write deployment/NAME"),
        (["deploy/"], TRIGGERED, "have one kind and one name; seen 'deploy/'"),
        (["deploy/a/b"], TRIGGERED, "have one kind and one name; seen 'deploy/a/b'"),
        (["deploy/a:b"], TRIGGERED, "'a:b' is no name; write deployment/NAME"),
        (["deploy/web", "db"], TRIGGERED, "write 'db' as KIND/NAME"),
        (["deploy.batch/web"], LOOKED_UP, "'deploy.batch' is none of deployment, statefulset"),
    ],
)
def test_workloads_that_are_refused(words, kinds, message):
    with pytest.raises(Misuse) as caught:
        workloads_of(words, kinds)
    assert message in caught.value.message


# ---- what the annotation becomes ----

SET = Wanted("web:stable")
OLD = entry(name="web:old")
STILL = (
    "container web still follows {} by the annotation imagestreams.dev/follow; to end that: kubectl annotate "
    "deployment/web imagestreams.dev/follow-"
)
ODD = {"from": {"kind": "ImageStreamImage", "name": "x"}, "fieldPath": "nowhere", "more": [1]}


@pytest.mark.parametrize(
    ("value", "wanted", "result", "said"),
    [
        pytest.param(deployment(), SET, [entry()], [], id="the only container"),
        pytest.param(
            deployment("a", "b", init=("setup",)),
            Wanted("web:stable", containers=("b", "setup")),
            [entry("b"), entry("setup")],
            [],
            id="several, and one that starts first",
        ),
        pytest.param(
            deployment(),
            Wanted("web:stable", "base", is_auto=False),
            [entry(namespace="base", paused=True)],
            [],
            id="another namespace's, not at once",
        ),
        pytest.param(deployment(), Wanted("web:stable", "shop"), [entry()], [], id="its own namespace needs no name"),
        pytest.param(
            deployment("web", "log", triggers=text(ODD, entry("log", "log:1"), OLD)),
            Wanted("web:stable", containers=("web",)),
            [ODD, entry("log", "log:1"), entry()],
            ["container web does not follow web:old any more"],
            id="another tag takes its place; others stay, also what cannot be read",
        ),
        pytest.param(
            deployment(triggers=text({**entry(), "Paused": "true", "more": 1})),
            SET,
            [{**entry(), "more": 1}],
            [],
            id="the same tag goes on",
        ),
        pytest.param(
            deployment(triggers=text({**entry(), "fieldPath": "spec.template.spec.containers[0].image"}, entry())),
            SET,
            [{**entry(), "fieldPath": "spec.template.spec.containers[0].image"}],
            [],
            id="named twice in different ways",
        ),
        pytest.param(deployment(triggers="null"), SET, [entry()], [], id="what oc leaves behind"),
        pytest.param(
            deployment("web", "log", triggers=text(entry(), entry("log", "log:1", paused=True))),
            Wanted(is_auto=False),
            [entry(paused=True), entry("log", "log:1", paused=True)],
            [],
            id="all paused",
        ),
        pytest.param(
            deployment("web", "log", triggers=text(entry(paused=True), entry("log", "log:1", paused="true"))),
            Wanted(containers=("log",), is_auto=True),
            [entry(paused=True), entry("log", "log:1")],
            [],
            id="one goes on",
        ),
        pytest.param(
            deployment("web", "log", triggers=text(entry(), entry("log"))),
            Wanted("web:stable", removes=True),
            None,
            [],
            id="a tag's triggers removed",
        ),
        pytest.param(
            deployment("web", "log", triggers=text(entry(), entry("log"))),
            Wanted("web:stable", containers=("log",), removes=True),
            [entry()],
            [],
            id="a tag's trigger of a container removed",
        ),
        pytest.param(
            deployment("web", "log", triggers=text(ODD, entry(), entry("log", "log:1"))),
            Wanted(containers=("log",), removes=True),
            [ODD, entry()],
            [],
            id="a container's removed",
        ),
        pytest.param(deployment(triggers="{broken"), Wanted(removes_all=True), None, [], id="all removed, unread"),
        pytest.param(deployment(), Wanted(removes_all=True), None, [], id="none there"),
        pytest.param(
            deployment("web", "log", follow="web=web:stable"),
            Wanted("web:stable", containers=("web", "log")),
            [entry("log")],
            ["container web follows it already, by the annotation imagestreams.dev/follow"],
            id="the short form says so already",
        ),
        pytest.param(
            deployment("web", "log", follow="web=web:stable", triggers=text(entry("log"))),
            Wanted(is_auto=False),
            [entry("log", paused=True)],
            [STILL.format("web:stable")],
            id="the short form cannot be paused",
        ),
        pytest.param(
            deployment(follow="web=base/ubi", triggers=text()),
            Wanted(removes_all=True),
            None,
            [STILL.format("base/ubi:latest")],
            id="the short form is not removed",
        ),
    ],
)
def test_the_annotation(value, wanted, result, said):
    short = (value["metadata"].get("annotations") or {}).get(FOLLOW)
    assert list(set_triggers(DEPLOYMENT, value, wanted)) == said
    assert triggers(value) == result
    assert (value["metadata"].get("annotations") or {}).get(FOLLOW) == short


def test_it_is_written_as_oc_writes_it():
    value = deployment()
    set_triggers(DEPLOYMENT, value, Wanted("web:stable", "base", is_auto=False))
    assert value["metadata"]["annotations"][TRIGGERS] == (
        '[{"from":{"kind":"ImageStreamTag","name":"web:stable","namespace":"base"},'
        '"fieldPath":"spec.template.spec.containers[?(@.name==\\"web\\")].image","paused":true}]'
    )


_ODD = st.dictionaries(
    st.sampled_from(["from", "fieldPath", "paused", "x"]),
    st.none() | st.booleans() | st.text(max_size=5) | st.just({"kind": "ImageStreamTag", "name": "db:1"}),
    max_size=4,
)


@given(st.lists(_ODD, max_size=4), st.sampled_from(["web", "log"]), st.booleans())
def test_what_was_set_is_removed_again_and_nothing_else(others, container, is_auto):
    value = deployment("web", "log", triggers=text(*others))
    set_triggers(DEPLOYMENT, value, Wanted("web:stable", "base", (container,), is_auto))
    listed, _ = rows(DEPLOYMENT, deployment("web", "log", triggers=text(*triggers(value)[-1:])))
    assert tuple(listed[1]) == ("image", f"base/web:stable ({container})", is_auto)
    set_triggers(DEPLOYMENT, value, Wanted("web:stable", "base", (), removes=True))
    assert (triggers(value) or []) == others


def test_a_cronjobs_path():
    value = cronjob()
    set_triggers(CRON_JOB, value, SET)
    [written] = triggers(value)
    assert written["fieldPath"] == 'spec.jobTemplate.spec.template.spec.containers[?(@.name=="web")].image'


def test_what_says_so_already_is_left_as_it_is_written():
    written = '[ {"from": {"kind": "ImageStreamTag", "name": "web:stable"}, "fieldPath": "%s"} ]'
    value = deployment(triggers=written % entry()["fieldPath"].replace('"', '\\"'))
    before = json.dumps(value)
    set_triggers(DEPLOYMENT, value, SET)
    assert json.dumps(value) == before


@pytest.mark.parametrize(
    ("value", "wanted", "words"),
    [
        (
            deployment("a", "b", init=("c",)),
            SET,
            "deployment.apps/web has 2 containers; say with -c which of them are to follow web:stable: c, a, b",
        ),
        (deployment("a"), Wanted("web:stable", containers=("b", "c")), "has no container b, c; it has a"),
        (
            deployment(triggers="{broken"),
            SET,
            "To begin anew: imagestreams set-triggers deployment/web --remove-all",
        ),
        (deployment(triggers='{"a": 1}'), SET, "is no list of objects"),
        (deployment(triggers="[1]"), SET, "is no list of objects"),
        (
            deployment(follow="web=web:old"),
            SET,
            (
                "container web of deployment.apps/web follows web:old by the annotation imagestreams.dev/follow, which "
                "is for you to change\n"
                "  To have it here instead: kubectl annotate deployment/web imagestreams.dev/follow-"
            ),
        ),
        (deployment(follow="web=web:stable"), Wanted("web:stable", is_auto=False), "follows web:stable by the annotat"),
        (deployment(), Wanted(is_auto=False), "has no trigger; give it one with --from-image and -c"),
        (deployment(triggers=text(OLD)), Wanted("web:stable", removes=True), "has no such trigger"),
    ],
)
def test_what_is_refused(value, wanted, words):
    with pytest.raises(Failure) as caught:
        set_triggers(DEPLOYMENT, value, wanted)
    assert words in caught.value.message


# ---- what is listed ----


def test_rows():
    value = deployment(
        "a", "b", "c", "d", triggers=text(entry("a"), entry("b"), entry("c", paused=True)), follow="d=base/ubi:9"
    )
    found, problems = rows(DEPLOYMENT, value)
    assert [tuple(row) for row in found] == [
        ("config", "", True),
        ("image", "web:stable (a, b)", True),
        ("image", "web:stable (c)", False),
        ("image", "base/ubi:9 (d)", True),
    ]
    assert problems == ()


def test_what_is_wrong_is_told():
    value = deployment(triggers=text(ODD, entry()))
    value["spec"]["paused"] = True
    found, problems = rows(DEPLOYMENT, value)
    assert found[0].is_auto is False
    assert problems == ("a trigger with from.kind 'ImageStreamImage' is ignored; only ImageStreamTag can be followed",)


# ---- the command ----


@pytest.fixture
def served(world):
    world.server.put(stream(tag("stable")))
    return world


def stored(world, plural="deployments", name="web"):
    found = world.server.get("apps/v1", plural, "shop", name)
    assert found is not None
    return found


async def test_a_trigger_is_set(served, run):
    served.server.put(deployment())
    assert await run("deploy/web", "--from-image=web:stable") == (0, "deployment.apps/web triggers updated\n", "")
    assert triggers(stored(served)) == [entry()]
    [patch] = served.bodies("patch", "deployments")
    assert set(patch) == {"metadata"}
    assert set(patch["metadata"]) == {"annotations", "resourceVersion"}
    assert await run("deploy/web", "--from-image=web:stable") == (0, "deployment.apps/web triggers unchanged\n", "")
    assert served.verbs("deployments").count("patch") == 1


async def test_what_becomes_of_other_triggers_is_said(served, run):
    served.server.put(deployment(triggers=text(OLD)))
    result = await run("deploy/web", "--from-image=web:stable")
    assert result.err == "deployment.apps/web: container web does not follow web:old any more\n"


async def test_others_write_meanwhile(served, run):
    served.server.put(deployment())
    theirs = deployment("web", "log", triggers=text(entry("log")))
    served.when("patch", lambda: served.server.put(theirs), resource="deployments")
    assert (await run("deploy/web", "--from-image=web:stable", "-c", "web")).code == 0
    assert triggers(stored(served)) == [entry("log"), entry()]


async def test_the_list(world, run):
    world.server.put(deployment(triggers=text(entry(), ODD)))
    world.server.put(deployment("db", name="db"))
    result = await run("deployment", "web", "db")
    assert result.out == (
        "NAME              TYPE     VALUE              AUTO\n"
        "deployments/web   config                      true\n"
        "deployments/web   image    web:stable (web)   true\n"
        "deployments/db    config                      true\n"
    )
    words = "a trigger with from.kind 'ImageStreamImage' is ignored; only ImageStreamTag can be followed"
    assert (result.code, result.err) == (0, f"Warning: deployment.apps/web: {words}\n")
    assert {seen.verb for seen in world.server.requests} == {"get"}


async def test_all_of_a_kind(served, run):
    served.server.put(deployment())
    served.server.put(deployment(name="db"))
    served.server.put(deployment(name="other", kind="StatefulSet"))
    result = await run("deploy", "--all", "--from-image=web:stable")
    assert result.out == "deployment.apps/db triggers updated\ndeployment.apps/web triggers updated\n"
    assert triggers(stored(served, "statefulsets", "other")) is None


async def test_those_with_a_label(served, run):
    served.server.put(deployment())
    value = deployment(name="db")
    value["metadata"]["labels"] = {"team": "a"}
    served.server.put(value)
    assert (await run("deploy", "-l", "team=a")).out.splitlines()[1:] == ["deployments/db   config           true"]
    result = await run("deploy", "-l", "team=none", "--remove-all")
    assert result == (0, "", "No resources found in shop namespace.\n")


async def test_one_that_is_not_there_does_not_stop_the_others(served, run):
    served.server.put(deployment(name="db"))
    result = await run("deploy/web", "deploy/db", "--from-image=web:stable")
    gone = 'Error from server (NotFound): deployments.apps "web" not found\n'
    assert result == (1, "deployment.apps/db triggers updated\n", gone)
    result = await run("deploy/web", "deploy/db")
    assert (result.code, result.err) == (1, gone)
    assert "deployments/db" in result.out


async def test_a_kind_that_is_not_followed_yet(served, run):
    kinds = {kind.resource for kind in KINDS}
    served.server.put(deployment(kind="StatefulSet"))
    result = await run("sts/web", "--from-image=web:stable")
    assert result.out == "statefulset.apps/web triggers updated\n"
    words = "Warning: triggers of a StatefulSet are kept, but the controller does not follow those of this kind yet\n"
    assert result.err == ("" if STATEFUL_SET.resource.plural in kinds else words)
    assert (await run("sts/web")).err == result.err


async def test_a_warning_is_said_once(served, run):
    served.server.put(deployment(kind="DaemonSet"))
    served.server.put(deployment(kind="DaemonSet", name="db"))
    result = await run("ds", "--all", "--from-image=web:stable")
    assert len(result.err.splitlines()) == ("daemonsets" not in {kind.resource for kind in KINDS})


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("web:gone", "the image stream web in shop has no tag gone yet; nothing moves until it has"),
        ("db:stable", "there is no image stream db in shop yet; nothing moves until there is"),
        ("base/ubi:9", "base/ubi:9 is followed if the service accounts of shop may pull there"),
    ],
)
async def test_a_tag_that_cannot_be_followed_yet(served, run, source, words):
    served.server.put(deployment())
    served.server.put(stream(tag("9"), name="ubi", namespace="base"))
    result = await run("deploy/web", f"--from-image={source}")
    assert (result.code, result.err) == (0, f"Warning: {words}\n")


async def test_who_may_not_see_the_stream_is_told_nothing(served, run):
    served.server.put(deployment())
    served.server.inject(status(403, "Forbidden", "no"), resource="imagestreams")
    assert await run("deploy/web", "--from-image=web:stable") == (0, "deployment.apps/web triggers updated\n", "")


async def test_latest_is_meant_where_no_tag_is_named(served, run):
    served.server.put(deployment())
    await run("deploy/web", "--from-image=base/web")
    assert triggers(stored(served)) == [entry(name="web:latest", namespace="base")]


@pytest.mark.parametrize("form", ["json", "yaml"])
async def test_the_object_as_a_document(served, run, form):
    served.server.put(deployment())
    result = await run("deploy/web", "--from-image=web:stable", "-o", form)
    found = json.loads(result.out) if form == "json" else yaml.safe_load(result.out)
    assert found == stored(served)
    assert (await run("deploy/web", "-o", "json")).out == (await run("deploy/web", "-o", "json", "--manual=false")).out


async def test_documents_of_several(served, run):
    served.server.put(deployment())
    served.server.put(deployment(name="db"))
    found = json.loads((await run("deploy", "--all", "-o", "json")).out)
    assert (found["kind"], [each["metadata"]["name"] for each in found["items"]]) == ("List", ["db", "web"])
    assert {each["kind"] for each in found["items"]} == {"Deployment"}


@pytest.mark.parametrize(("mode", "words"), [("client", " (dry run)"), ("server", " (server dry run)")])
async def test_a_dry_run(served, run, mode, words):
    before = served.server.put(deployment())
    result = await run("deploy/web", "--from-image=web:stable", f"--dry-run={mode}")
    assert result == (0, f"deployment.apps/web triggers updated{words}\n", "")
    result = await run("deploy/web", "--from-image=web:stable", f"--dry-run={mode}", "-o", "json")
    assert triggers(json.loads(result.out)) == [entry()]
    assert stored(served) == before


async def test_a_refusal(served, run):
    served.server.put(deployment())
    served.server.inject(status(403, "Forbidden", "you may not"), verb="patch")
    assert await run("deploy/web", "--from-image=web:stable") == (1, "", "Error from server (Forbidden): you may not\n")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((), "one or more resources must be specified as KIND/NAME"),
        (("deploy",), "name the deployments, or say which with --all or -l"),
        (("deploy/web", "--all"), "a name, and --all or -l, cannot be given together"),
        (("deploy/web", "--auto", "--manual"), "--auto and --manual contradict each other"),
        (("deploy/web", "--remove"), "--remove needs --from-image or -c"),
        (("deploy/web", "--remove-all", "--remove"), "--remove-all removes all triggers; to remove some"),
        (("deploy/web", "--remove-all", "--auto"), "are of no use to triggers that are removed"),
        (("deploy/web", "-c", "web"), "-c needs --from-image"),
        (("deploy/web", "--from-image=quay.io/acme/web:1"), "'quay.io/acme' is no namespace"),
        (("deploy/web", "--from-image=Web:1"), "'Web' is no name of an image stream"),
        (("is/web",), "'is' is none of deployments"),
    ],
)
async def test_called_wrongly(world, run, args, words):
    result = await run(*args)
    assert (result.code, result.out) == (2, "")
    assert words in result.err
    assert world.server.requests == []


async def test_containers_that_are_not_named_are_known_only_then(served, run):
    served.server.put(deployment("a", "b"))
    served.server.put(deployment(name="db"))
    result = await run("deploy/web", "deploy/db", "--from-image=web:stable")
    assert (result.code, result.out) == (1, "deployment.apps/db triggers updated\n"), "the others are done"
    assert re.search(r"say with -c which of them are to follow web:stable: a, b\n$", result.err)


@pytest.mark.parametrize(
    "flags",
    [
        ("--remove", "-c", " "),
        ("--remove", "-c", ","),
        ("--remove", "--from-image=web:stable", "-c", ""),
        ("--remove", "-c", "web", "--from-image="),
        ("--manual", "-c", ""),
    ],
)
async def test_an_empty_value_does_not_mean_all(served, run, flags):
    """In a script it is a variable that is not set."""
    before = served.server.put(deployment("web", "log", triggers=text(entry(), entry("log"))))
    result = await run("deploy/web", *flags)
    assert (result.code, result.out, stored(served)) == (2, "", before)
    assert "it is empty" in result.err or "it names no container" in result.err


async def test_the_annotation_may_come_before_image_streams(served, run):
    served.server.put(deployment())
    served.server.undefine("image.openshift.io/v1", "imagestreams")
    result = await run("deploy/web", "--from-image=web:stable")
    assert (result.code, triggers(stored(served))) == (0, [entry()])
    assert result.err == "Warning: the server has no ImageStreams yet; nothing moves until it has\n"


@pytest.mark.parametrize("flags", [("--remove", "--from-image=web:stable"), ("--remove-all",)])
async def test_an_answer_that_is_lost_is_no_failure(served, run, flags):
    served.server.put(deployment(triggers=text(entry())))
    served.server.inject(disconnect(after=True), verb="patch")
    assert await run("deploy/web", *flags) == (0, "deployment.apps/web triggers updated\n", "")
