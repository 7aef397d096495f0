"""Triggers, decided: what a workload follows, what a difference means, and the one write."""

from __future__ import annotations

import json
from datetime import timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagestreams.core.policy import Policy
from imagestreams.core.stream import Istag, MalformedObject, ObjectKey, TagImage
from imagestreams.core.trigger import (
    DEPLOYMENT,
    FIELD_MANAGER,
    FOLLOW_ANNOTATION,
    ROLLOUTS_ANNOTATION,
    SERVED_LABEL,
    TRIGGERS_ANNOTATION,
    Acknowledge,
    Annotated,
    Container,
    Decision,
    Drift,
    Hold,
    Roll,
    Rollout,
    RolloutPlan,
    TriggerRules,
    Unresolved,
    Workload,
    Writer,
    decode_workload,
    encode_record,
    has_triggers,
    parse_triggers,
    patch_of,
    plan_rollout,
    pointer,
    read_record,
    release_patch_of,
)
from tests.core.streams import NOW, digest, pinned
from tests.core.workloads import Json, deployment, owner, patched, read, trigger, workload
from tests.fakes.patching import PatchFailedError

RULES = TriggerRules()
ISTAG = Istag("team", "app", "latest")
LABEL = f"{SERVED_LABEL}web"


# --- reading a workload -----------------------------------------------------------------------------------------------


def test_a_deployment_is_read():
    found = workload(
        containers={"web": "app:1", "log": "fluent:2"},
        init={"migrate": "tool:3"},
        labels={"app": "shop"},
        annotations={"note": "x"},
        owners=[owner("helm", images=["log"])],
    )
    assert found == Workload(
        kind=DEPLOYMENT,
        key=ObjectKey("team", "shop"),
        uid="uid-w",
        resource_version="7",
        generation=3,
        annotations={"note": "x"},
        labels={"app": "shop"},
        containers=(
            Container("initContainers", 0, "migrate", "tool:3"),
            Container("containers", 0, "web", "app:1"),
            Container("containers", 1, "log", "fluent:2", (Writer("helm", "Update"),)),
        ),
        manager_entries=(("helm", "Update", ""),),
    )


@pytest.mark.parametrize(
    ("owners", "writers"),
    [
        pytest.param([], [], id="nobody"),
        pytest.param([owner("kubectl-set")], [Writer("kubectl-set", "Update")], id="one"),
        pytest.param(
            [owner("old", at="2026-03-01T09:00:00Z"), owner("new", "Apply", at="2026-03-01T10:00:00Z")],
            [Writer("new", "Apply"), Writer("old", "Update")],
            id="the latest first",
        ),
        pytest.param([owner("helm", images=["log"])], [], id="of another container"),
        pytest.param([owner("kube-controller-manager", subresource="status")], [], id="of the status"),
        pytest.param([owner("helm", list_name="initContainers")], [], id="of an init container of that name"),
        pytest.param([{"manager": "odd", "operation": "Update"}], [], id="an entry without fields"),
        pytest.param(
            [{k: v for k, v in owner("untimed").items() if k != "time"}], [Writer("untimed", "Update")], id="no time"
        ),
    ],
)
def test_who_wrote_an_image(owners: list[Json], writers: list[Writer]):
    web = workload(owners=owners).containers[0]
    assert list(web.writers) == writers


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"[]", id="no object"),
        pytest.param(b'{"metadata": {}}', id="no name"),
        pytest.param(b'{"metadata": {"name": "x"}, "spec": []}', id="spec is a list"),
        pytest.param(b'{"metadata": {"name": "x"}, "spec": {"template": {"spec": {"containers": [1]}}}}', id="numbers"),
        pytest.param(b'{"metadata": {"name": "\xff"}}', id="not UTF-8"),
        pytest.param(b'{"metadata": {"name": "x"}, "status": ' + b"[" * 9999, id="nested"),
    ],
)
def test_a_malformed_workload_is_refused(body: bytes):
    with pytest.raises(MalformedObject, match="Deployment"):
        decode_workload(DEPLOYMENT, body)


def test_a_workload_that_is_not_stored_yet_may_have_no_name():
    found = read({"metadata": {"generateName": "shop-", "namespace": "team"}})
    assert (found.key, found.uid) == (ObjectKey("team", ""), "")


@pytest.mark.parametrize(
    ("owners", "is_controlled"),
    [
        pytest.param(None, False, id="nobody"),
        pytest.param([{"name": "x"}, {"name": "y", "controller": False}], False, id="owners"),
        pytest.param([{"name": "x", "controller": True}], True, id="a controller"),
    ],
)
def test_who_controls_a_workload(owners: list[Json] | None, is_controlled: bool):
    body = deployment()
    body["metadata"]["ownerReferences"] = owners
    assert read(body).is_controlled == is_controlled


def test_a_workload_without_a_pod_has_no_containers():
    assert read({"metadata": {"name": "x"}}).containers == ()


@pytest.mark.parametrize(
    ("annotations", "follows"),
    [
        pytest.param(Annotated(), False, id="none"),
        pytest.param(Annotated(triggers=""), False, id="empty"),
        pytest.param(Annotated(rollouts="{}"), False, id="only our record"),
        pytest.param(Annotated(triggers="[]"), True, id="OpenShift's"),
        pytest.param(Annotated(follow="web=app:latest"), True, id="the short form"),
    ],
)
def test_what_makes_a_workload_ours(annotations: Annotated, follows: bool):
    assert has_triggers(annotations) == follows


# --- OpenShift's annotation -------------------------------------------------------------------------------------------

WEB = (("web", "team/app:latest", False),)


def followed(found: Workload) -> tuple[tuple[str, str, bool], ...]:
    """Container, tag and whether it is paused."""
    return tuple((item.container.name, str(item.istag), item.is_paused) for item in parse_triggers(found).triggers)


def problems(found: Workload) -> str:
    return "\n".join(parse_triggers(found).problems)


@pytest.mark.parametrize(
    ("text", "follows", "problem"),
    [
        pytest.param(None, (), "", id="absent"),
        pytest.param("[]", (), "", id="empty list"),
        pytest.param("null", (), "", id="null, as oc set triggers --remove-all writes"),
        pytest.param("", (), "not JSON", id="empty text"),
        pytest.param("{}", (), "not a list", id="an object"),
        pytest.param("[", (), "not JSON", id="broken JSON"),
        pytest.param("[" * 9000, (), "nested too deeply", id="nested without end"),
        pytest.param("[" * 900 + "]" * 900, (), "ignored", id="nested"),
        pytest.param("[1]", (), "ignored", id="a list of numbers"),
        pytest.param(json.dumps([trigger()] * 200), (), "more than 100", id="too many"),
        pytest.param(json.dumps([trigger(note="x" * 70_000)]), (), "64 KiB", id="too long"),
        pytest.param([trigger()], WEB, "", id="one"),
        pytest.param([trigger("app:")], WEB, "", id="no tag: latest"),
        pytest.param([trigger("app")], (), 'write "stream:tag"', id="no colon"),
        pytest.param([trigger("a:b:c")], (), 'write "stream:tag"', id="two colons"),
        pytest.param([trigger("")], (), 'write "stream:tag"', id="no name"),
        pytest.param([trigger("ns/app:latest")], (), 'write "stream:tag"', id="a namespace in the name"),
        pytest.param([trigger("app:-x")], (), 'write "stream:tag"', id="a tag that is none"),
        pytest.param(
            [trigger(**{"from": {"kind": "ImageStreamTag", "name": "app:latest", "namespace": "other"}})],
            (("web", "other/app:latest", False),),
            "",
            id="another namespace",
        ),
        pytest.param(
            [trigger(**{"from": {"kind": "ImageStreamTag", "name": "app:latest", "namespace": "a b"}})],
            (),
            "in namespace 'a b'",
            id="a namespace that is none",
        ),
        pytest.param(
            [trigger(**{"from": {"kind": "ImageStreamTag", "name": "app:latest", "namespace": None}})],
            WEB,
            "",
            id="null namespace",
        ),
        pytest.param(
            [trigger(**{"from": {"apiVersion": "v1", "kind": "ImageStreamTag", "name": "app:latest"}})],
            WEB,
            "",
            id="apiVersion is the same as none",
        ),
        pytest.param([trigger(**{"from": {"kind": "DockerImage", "name": "app"}})], (), "DockerImage", id="kind"),
        pytest.param([trigger(**{"from": {"name": "app:latest"}})], (), "''", id="no kind"),
        pytest.param([trigger(lastTriggeredImage="", pause=True)], WEB, "", id="unknown keys"),
        pytest.param(
            [{"From": {"Kind": "ImageStreamTag", "NAME": "app:latest"}, "FieldPath": trigger()["fieldPath"]}],
            WEB,
            "",
            id="keys in any case",
        ),
        pytest.param([trigger(paused=False)], WEB, "", id="not paused"),
        pytest.param([trigger(paused=None)], WEB, "", id="paused null"),
        pytest.param([trigger(paused=True)], (("web", "team/app:latest", True),), "", id="paused"),
        pytest.param([trigger(paused="false")], WEB, "read as false", id='paused "false", as old manuals print'),
        pytest.param([trigger(paused="True")], (("web", "team/app:latest", True),), "read as true", id='paused "True"'),
        pytest.param(
            [trigger(paused="soon")], (("web", "team/app:latest", True),), "read as true", id="paused in doubt"
        ),
        pytest.param([trigger(paused=1)], (), "ignored", id="paused 1"),
        pytest.param([trigger(), trigger()], (), "a fieldPath twice", id="the same fieldPath twice"),
        pytest.param([trigger(container="gone")], (), "names no container", id="no such container"),
        pytest.param([trigger(container="gone"), trigger()], WEB, "names no container", id="the good ones count"),
    ],
)
def test_the_triggers_annotation(text: list[Json] | str | None, follows: tuple[Any, ...], problem: str):
    found = workload(triggers=text)
    assert followed(found) == follows
    assert problem in problems(found)
    assert bool(problem) == bool(problems(found))


BASE = "spec.template.spec."


@pytest.mark.parametrize(
    ("path", "container"),
    [
        pytest.param(BASE + 'containers[?(@.name=="web")].image', "web", id="by name"),
        pytest.param(BASE + 'containers[?(@.name=="web")]image', "web", id="no dot"),
        pytest.param(BASE + "containers[?(@.name=='web')].image", "web", id="single quotes, as old manuals print"),
        pytest.param(BASE + 'containers[?(@.name == "web")].image', "web", id="spaces"),
        pytest.param(BASE + 'containers[?(@.name=="migrate")].image', "migrate", id="by name an init container"),
        pytest.param(BASE + 'initContainers[?(@.name=="web")].image', "web", id="by name the list does not count"),
        pytest.param(BASE + "containers[0].image", "web", id="by index"),
        pytest.param(BASE + "containers[1].image", "log", id="the second"),
        pytest.param(BASE + "containers[01].image", "log", id="a leading zero"),
        pytest.param(BASE + "containers[+1].image", "log", id="a sign"),
        pytest.param(BASE + "initContainers[0].image", "migrate", id="by index the list counts"),
        pytest.param(BASE + "containers[2].image", None, id="out of range"),
        pytest.param(BASE + "containers[-1].image", None, id="negative"),
        pytest.param(BASE + "containers[99999999999].image", None, id="far out of range"),
        pytest.param(BASE + "containers[٠].image", None, id="digits of another script"),
        pytest.param(BASE + 'containers[?(@.name=="")].image', None, id="no name"),
        pytest.param(BASE + 'containers[?(@.name=="we")].image', None, id="part of a name"),
        pytest.param(BASE + "containers[?(@.name=='web\")].image", None, id="mixed quotes"),
        pytest.param(BASE + 'ephemeralContainers[?(@.name=="web")].image', None, id="ephemeral"),
        pytest.param(BASE + "containers[0", None, id="no bracket"),
        pytest.param(BASE + "containers[0].name", None, id="no image"),
        pytest.param(BASE + "containers[0].image\n", None, id="a line break"),
        pytest.param(BASE + "volumes[0].image", None, id="a volume"),
        pytest.param("spec.containers[0].image", None, id="a pod's path"),
        pytest.param("containers[0].image", None, id="no base"),
        pytest.param("", None, id="empty"),
    ],
)
def test_field_path(path: str, container: str | None):
    found = workload(
        triggers=[trigger(fieldPath=path)], containers={"web": "app:1", "log": "fluent:2"}, init={"migrate": "tool:3"}
    )
    assert [name for name, _, _ in followed(found)] == ([container] if container else [])
    assert bool(problems(found)) == (container is None)


# --- the short form ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "follows", "problem"),
    [
        pytest.param("web=app:latest", WEB, "", id="one"),
        pytest.param(" web = app:latest ,", WEB, "", id="spaces and a comma too many"),
        pytest.param(
            "web=app:latest, log=fluent:2",
            (*WEB, ("log", "team/fluent:2", False)),
            "",
            id="two",
        ),
        pytest.param("web=app", WEB, "", id="no tag: latest"),
        pytest.param("web=app:", WEB, "", id="an empty tag: latest"),
        pytest.param("web=other/app:2", (("web", "other/app:2", False),), "", id="another namespace"),
        pytest.param("migrate=app:1", (("migrate", "team/app:1", False),), "", id="an init container"),
        pytest.param("", (), "", id="empty"),
        pytest.param("web", (), 'write "container=stream:tag"', id="no ="),
        pytest.param("web=", (), 'write "container=stream:tag"', id="no tag at all"),
        pytest.param("web=:latest", (), 'write "container=stream:tag"', id="no stream"),
        pytest.param("web=a:b:c", (), 'write "container=stream:tag"', id="two colons"),
        pytest.param("web=quay.io/acme/app:1", (), 'write "container=stream:tag"', id="an image"),
        pytest.param("web=/app:1", (), 'write "container=stream:tag"', id="an empty namespace"),
        pytest.param("web=app:la test", (), 'write "container=stream:tag"', id="a space in the tag"),
        pytest.param("gone=app:latest", (), "'gone'", id="no such container"),
        pytest.param("gone=app:latest, web=app:latest", WEB, "'gone'", id="the good ones count"),
        pytest.param("web=app:latest," * 101, (), "is ignored", id="too many"),
        pytest.param("web=app:latest" + " " * (1 << 16), (), "is ignored", id="too long"),
    ],
)
def test_the_follow_annotation(text: str, follows: tuple[Any, ...], problem: str):
    found = workload(follow=text, containers={"web": "app:1", "log": "fluent:2"}, init={"migrate": "tool:3"})
    assert followed(found) == follows
    assert problem in problems(found)
    assert bool(problem) == bool(problems(found))


@pytest.mark.parametrize(
    ("triggers", "follow", "follows"),
    [
        pytest.param([trigger()], "web=app:latest", WEB, id="both forms say the same"),
        pytest.param([trigger("app:1")], "web=app:2", (), id="the two forms disagree"),
        pytest.param(None, "web=app:1, web=app:2", (), id="the short form disagrees with itself"),
        pytest.param(
            [trigger("app:1"), trigger("app:2", fieldPath=BASE + "containers[0].image")],
            None,
            (),
            id="by name and by index",
        ),
    ],
)
def test_a_container_that_is_to_follow_two_tags_follows_none(
    triggers: list[Json] | None, follow: str | None, follows: tuple[Any, ...]
):
    found = workload(triggers=triggers, follow=follow)
    assert followed(found) == follows
    assert problems(found) == (
        "" if follows else "container web is to follow team/app:1 and team/app:2; it follows none of them"
    )


_WORDS = ("from", "fieldPath", "kind", "ImageStreamTag", "name", "app:latest", "web", "paused", "null", "true", BASE)
_fragments = st.lists(
    st.sampled_from([*'[]{}",:=0/ é\n', "\\u0000", "containers[", "].image", *_WORDS]), max_size=30
).map("".join)
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=9,
).map(json.dumps)
_almost = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "from": st.one_of(
                st.none(),
                st.fixed_dictionaries(
                    {}, optional={"kind": st.just("ImageStreamTag"), "name": _fragments, "namespace": _fragments}
                ),
            ),
            "fieldPath": st.one_of(_fragments, st.just(BASE + "containers[0].image")),
            "paused": st.one_of(st.none(), st.booleans(), st.text(max_size=5), st.integers()),
        },
    ),
    max_size=3,
).map(json.dumps)


@settings(deadline=None)
@given(
    st.none() | st.text() | _fragments | _json | _almost,
    st.none() | st.text() | _fragments | _json,
    st.none() | st.text() | _json,
)
def test_no_annotation_breaks_a_workload(triggers: str | None, follow: str | None, record: str | None):
    rollouts = {} if record is None else {ROLLOUTS_ANNOTATION: record}
    body = deployment(triggers=triggers, follow=follow, annotations=rollouts)
    found = read(body)
    parsed = parse_triggers(found)
    assert all(item.container in found.containers for item in parsed.triggers)
    assert len({item.container for item in parsed.triggers}) == len(parsed.triggers)
    assert all(0 < len(problem) < 800 for problem in parsed.problems)
    plan = plan_rollout(found, lambda _: IMAGE_B, RULES)
    assert all(decision.trigger.container in found.containers for decision in plan.decisions)
    if patch := patch_of(found, plan, NOW):
        assert image_of(patched(body, patch)) == IMAGE_B.pull_spec


# --- what a difference means ------------------------------------------------------------------------------------------

IMAGE_A = TagImage(pinned("a"), digest("a"), "event-a")
IMAGE_B = TagImage(pinned("b"), digest("b"), "event-b")
AGAIN_A = TagImage(pinned("a"), digest("a"), "event-a-again")
TEXT = TagImage("quay.io/acme/app:stable", "", "event-t")
MIRRORED_A = f"mirror.example/app@{digest('a')}"


def record(
    image: str = pinned("a"), uid: str = "uid-w", path: str = "containers[web]", name: str = ""
) -> dict[str, str]:
    """Our annotation about the last rollout."""
    at = "2026-03-01T10:00:00Z"
    rollout = {"tag": str(ISTAG), "image": image, "uid": uid, "at": at, "why": "tag moved", "name": name}
    return {ROLLOUTS_ANNOTATION: json.dumps({path: rollout})}


def shop(
    image: str,
    served: str | None = None,
    writer: tuple[str, str] | None = None,
    *,
    rollouts: dict[str, str] | None = None,
    **fields: Any,
) -> Json:
    """A Deployment whose container follows app:latest; `served` is the event in its label."""
    return deployment(
        image,
        triggers=[trigger(**fields)],
        labels={} if served is None else {LABEL: served, "app": "shop"},
        annotations=rollouts if rollouts is not None else (record() if served else None),
        owners=[owner(*writer)] if writer else [],
    )


def decide(body: Json, latest: TagImage | None, rules: TriggerRules = RULES) -> Decision | None:
    decisions = plan_rollout(read(body), {ISTAG: latest}.get, rules).decisions
    return decisions[0] if decisions else None


def _words(decision: Decision | None) -> str:
    match decision:
        case None:
            return "keep"
        case Roll(why=why):
            return f"roll: {why}"
        case Hold(writer=writer):
            return f"hold: {writer}"
        case Acknowledge():
            return "acknowledge"
        case Unresolved():
            return "unresolved"


ENFORCE = TriggerRules(drift=Drift.ENFORCE)


def test_what_the_policy_refuses_by_now_is_not_rolled_out():
    rules = TriggerRules(policy=Policy(hosts={}, blocked=("quay.io",)))
    decision = decide(shop("app:1"), IMAGE_A, rules)
    assert isinstance(decision, Unresolved)
    assert "registry quay.io blocked" in decision.why
    held = decide(shop(pinned("b"), "event-a"), IMAGE_A, rules)
    assert isinstance(held, Unresolved), "what a hand set there is not held for an image that nobody may have"


@pytest.mark.parametrize(
    ("body", "latest", "decision"),
    [
        pytest.param(shop("app:1"), IMAGE_A, "roll: tag moved", id="never served"),
        pytest.param(shop(" "), IMAGE_A, "roll: tag moved", id="a placeholder"),
        pytest.param(shop(pinned("a")), IMAGE_A, "acknowledge", id="never served, but it is there"),
        pytest.param(shop(MIRRORED_A), IMAGE_A, "acknowledge", id="never served, but its digest is there"),
        pytest.param(shop(pinned("a"), "event-a"), IMAGE_A, "keep", id="as we left it"),
        pytest.param(shop(MIRRORED_A, "event-a"), IMAGE_A, "keep", id="served, under the name of a mirror"),
        pytest.param(shop(pinned("a"), "event-a"), IMAGE_B, "roll: tag moved", id="the tag moved"),
        pytest.param(
            shop(pinned("a"), "event-a", ("kubectl-set", "Update")), IMAGE_B, "roll: tag moved", id="whoever wrote last"
        ),
        pytest.param(shop(pinned("a"), "event-b"), AGAIN_A, "acknowledge", id="the tag moved back to what is there"),
        pytest.param(shop(pinned("b"), "event-b"), AGAIN_A, "roll: tag moved", id="the tag moved back"),
        pytest.param(shop(MIRRORED_A, "event-b"), AGAIN_A, "acknowledge", id="moved to what a mirror has"),
        pytest.param(shop("quay.io/acme/app:stable"), TEXT, "acknowledge", id="a reference that is there"),
        pytest.param(shop("quay.io/acme/app:1"), TEXT, "roll: tag moved", id="a reference that is not"),
        pytest.param(shop("app:1", "event-a"), None, "unresolved", id="the tag has nothing"),
        pytest.param(shop("app:1", paused=True), IMAGE_A, "keep", id="paused"),
        pytest.param(shop("app:1", paused=True), None, "keep", id="paused and unresolved"),
    ],
)
def test_a_tag_that_moved_is_rolled_out(body: Json, latest: TagImage | None, decision: str):
    assert _words(decide(body, latest)) == decision


@pytest.mark.parametrize(
    ("writer", "decision"),
    [
        pytest.param(("kubectl", "Apply"), "roll: manifest applied again", id="kubectl apply --server-side"),
        pytest.param(("anything", "Apply"), "roll: manifest applied again", id="any Apply"),
        pytest.param(("kubectl-client-side-apply", "Update"), "roll: manifest applied again", id="kubectl apply"),
        pytest.param(("kubectl-replace", "Update"), "roll: manifest applied again", id="kubectl replace"),
        pytest.param(("helm", "Update"), "roll: manifest applied again", id="helm upgrade"),
        pytest.param(("kustomize-controller", "Update"), "roll: manifest applied again", id="Flux"),
        pytest.param(("argocd-controller", "Update"), "roll: manifest applied again", id="Argo CD"),
        pytest.param(("our-pipeline", "Update"), "roll: manifest applied again", id="named by a setting"),
        pytest.param(("kubectl-set", "Update"), "hold: kubectl-set", id="kubectl set image"),
        pytest.param(("kubectl-rollout", "Update"), "hold: kubectl-rollout", id="kubectl rollout undo"),
        pytest.param(("kubectl-edit", "Update"), "hold: kubectl-edit", id="kubectl edit"),
        pytest.param(("kubectl-patch", "Update"), "hold: kubectl-patch", id="kubectl patch"),
        pytest.param((FIELD_MANAGER, "Update"), "hold: imagestreams", id="our name, but not our write"),
        pytest.param(("mystery", "Update"), "hold: mystery", id="somebody else"),
        pytest.param(("", "Update"), "hold: somebody unknown", id="somebody nameless"),
        pytest.param(None, "hold: somebody unknown", id="nobody knows who"),
    ],
)
def test_who_changed_a_served_image_decides(writer: tuple[str, str] | None, decision: str):
    rules = TriggerRules(manifest_managers=RULES.manifest_managers | {"our-pipeline"})
    body = shop("app:old", "event-a", writer)
    assert _words(decide(body, IMAGE_A, rules)) == decision
    enforced = decide(body, IMAGE_A, TriggerRules(drift=Drift.ENFORCE, manifest_managers=rules.manifest_managers))
    assert isinstance(enforced, Roll)
    assert enforced.why == ("manifest applied again" if "manifest" in decision else "drift enforced")


@pytest.mark.parametrize("hand_at", ["2026-03-01T10:00:00Z", "2026-03-01T12:00:00Z"])
def test_a_manifest_that_names_what_a_hand_set_wants_it_too(hand_at: str):
    body = shop("app:old", "event-a")
    body["metadata"]["managedFields"] = [
        owner("kustomize-controller", "Apply", at="2026-03-01T11:00:00Z"),
        owner("kubectl-edit", at=hand_at),  # its entry is as new as its last edit of any field
    ]
    assert _words(decide(body, IMAGE_A)) == "roll: manifest applied again"


def test_a_manifest_that_names_another_tag_by_now_is_set_again():
    body = shop("quay.io/acme/app:2.0", "event-a", ("helm", "Update"))
    assert _words(decide(body, IMAGE_A)) == "roll: manifest applied again"


def test_a_hold_ends_when_the_tag_moves_or_the_label_is_removed():
    held = shop("app:old", "event-a", ("kubectl-rollout", "Update"))
    assert _words(decide(held, IMAGE_A)) == "hold: kubectl-rollout"
    assert _words(decide(held, IMAGE_B)) == "roll: tag moved"
    del held["metadata"]["labels"][LABEL]
    assert _words(decide(held, IMAGE_A)) == "roll: tag moved"


@pytest.mark.parametrize(
    ("rollouts", "decision"),
    [
        pytest.param(record(), "hold: kubectl-rollout", id="our record"),
        pytest.param({}, "hold: kubectl-rollout", id="no record: undo went back to before it"),
        pytest.param({ROLLOUTS_ANNOTATION: "nonsense"}, "hold: kubectl-rollout", id="a broken record"),
        pytest.param(record(path="containers[log]"), "hold: kubectl-rollout", id="of another container"),
        pytest.param(record(uid="uid-of-the-original"), "roll: tag moved", id="a copy: the record is another object's"),
        pytest.param(record(uid=""), "roll: tag moved", id="a record without an object"),
        pytest.param(record(uid="", name="team/shop"), "hold: kubectl-rollout", id="from its creation"),
        pytest.param(record(uid="", name="team/copied"), "roll: tag moved", id="a copy: another name"),
        pytest.param(record(uid="", name="other/shop"), "roll: tag moved", id="a copy: another namespace"),
        pytest.param(record(uid="other", name="team/shop"), "roll: tag moved", id="the uid counts, if there is one"),
    ],
)
def test_a_label_counts_unless_it_came_with_a_copied_manifest(rollouts: dict[str, str], decision: str):
    body = shop("app:old", "event-a", ("kubectl-rollout", "Update"), rollouts=rollouts)
    assert _words(decide(body, IMAGE_A)) == decision


def test_containers_are_decided_one_by_one():
    body = deployment(
        follow="web=app:latest, log=fluent:2, gone=x:1, side=nothing:1",
        containers={"web": pinned("a"), "log": "fluent:old", "side": "side:1", "own": "own:1"},
        labels={LABEL: "event-a"},
    )
    found = {ISTAG: IMAGE_A, Istag("team", "fluent", "2"): IMAGE_B}
    plan = plan_rollout(read(body), found.get, RULES)
    assert [(decision.trigger.container.name, _words(decision)) for decision in plan.decisions] == [
        ("log", "roll: tag moved"),
        ("side", "unresolved"),
    ]
    assert [write.trigger.container.name for write in plan.writes] == ["log"]
    assert len(plan.problems) == 1


def test_a_paused_tag_is_not_even_looked_at():
    def resolve(_: Istag) -> TagImage | None:
        pytest.fail("it is paused")

    assert plan_rollout(read(shop("app:1", paused=True)), resolve, RULES) == RolloutPlan((), ())


# --- the write --------------------------------------------------------------------------------------------------------


def written(body: Json, latest: TagImage, rules: TriggerRules = RULES) -> Json:
    """The object after our patch, which must leave nothing to do."""
    plan = plan_rollout(read(body), {ISTAG: latest}.get, rules)
    patch = patch_of(read(body), plan, NOW)
    assert patch is not None
    after = patched(body, patch)
    again = plan_rollout(read(after), {ISTAG: latest}.get, rules)
    assert again.decisions == ()
    assert patch_of(read(after), again, NOW) is None
    return after


def image_of(body: Json) -> str:
    return str(body["spec"]["template"]["spec"]["containers"][0]["image"])


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(deployment("app:1", triggers=[trigger()]), id="no labels at all"),
        pytest.param(deployment("app:1", triggers=[trigger()], labels={}), id="an empty map"),
        pytest.param(deployment("app:1", triggers=[trigger()], labels={"app": "shop"}), id="other labels"),
        pytest.param(deployment("app:1", follow="web=app:latest"), id="the short form"),
        pytest.param(shop("app:1", "event-a", ("helm", "Update")), id="served before"),
        pytest.param(shop("app:1", "event-a", rollouts={ROLLOUTS_ANNOTATION: "nonsense"}), id="a broken record"),
        pytest.param(shop("app:1", "event-a", rollouts=record(uid="other")), id="a copied record"),
    ],
)
def test_a_rollout_sets_image_label_and_record(body: Json):
    after = written(body, IMAGE_B)
    assert image_of(after) == IMAGE_B.pull_spec
    assert after["metadata"]["labels"][LABEL] == IMAGE_B.event
    assert json.loads(after["metadata"]["annotations"][ROLLOUTS_ANNOTATION]) == {
        "containers[web]": {
            "tag": "team/app:latest",
            "image": IMAGE_B.pull_spec,
            "uid": "uid-w",
            "at": "2026-03-01T12:00:00Z",
            "why": "tag moved",
        }
    }


def test_a_rollout_touches_nothing_else():
    body = shop("app:1", "event-a")
    after = written(body, IMAGE_B)
    after["spec"]["template"]["spec"]["containers"][0]["image"] = "app:1"
    after["metadata"]["labels"][LABEL] = "event-a"
    after["metadata"]["annotations"][ROLLOUTS_ANNOTATION] = body["metadata"]["annotations"][ROLLOUTS_ANNOTATION]
    assert after == body


def test_an_acknowledgement_rolls_nothing():
    body = shop(MIRRORED_A)
    after = written(body, IMAGE_A)
    assert after["spec"] == body["spec"]
    assert after["metadata"]["labels"][LABEL] == IMAGE_A.event
    rollout = read_record(read(after))["containers[web]"]
    assert (rollout.image, rollout.why) == (MIRRORED_A, "already there")


@pytest.mark.parametrize(
    ("rules", "writer", "why"),
    [
        pytest.param(RULES, ("helm", "Update"), "manifest applied again", id="manifest"),
        pytest.param(ENFORCE, ("kubectl-set", "Update"), "drift enforced", id="enforced"),
    ],
)
def test_the_record_says_why(rules: TriggerRules, writer: tuple[str, str], why: str):
    body = shop("app:1", "event-a", writer)
    patch = patch_of(read(body), plan_rollout(read(body), {ISTAG: IMAGE_A}.get, rules), NOW)
    assert patch is not None
    assert read_record(read(patched(body, patch)))["containers[web]"].why == why


def test_a_record_is_dated_in_utc():
    body = shop("app:1")
    now = NOW.astimezone(timezone(timedelta(hours=5, minutes=30)))
    patch = patch_of(read(body), plan_rollout(read(body), {ISTAG: IMAGE_A}.get, RULES), now)
    assert patch is not None
    assert read_record(read(patched(body, patch)))["containers[web]"].at == "2026-03-01T12:00:00Z"


def test_several_containers_are_one_write():
    body = deployment(
        follow="migrate=app:latest, log=app:latest",
        containers={"web": "web:1", "log": "app:1"},
        init={"first": "x:1", "migrate": "app:1"},
    )
    after = written(body, IMAGE_B)
    pod_spec = after["spec"]["template"]["spec"]
    assert [container["image"] for container in pod_spec["containers"]] == ["web:1", IMAGE_B.pull_spec]
    assert [container["image"] for container in pod_spec["initContainers"]] == ["x:1", IMAGE_B.pull_spec]
    assert read_record(read(after)).keys() == {"initContainers[migrate]", "containers[log]"}
    assert after["metadata"]["labels"].keys() == {f"{SERVED_LABEL}migrate", f"{SERVED_LABEL}log"}


def test_the_record_keeps_what_is_still_true():
    rollouts = json.loads(record(path="containers[log]")[ROLLOUTS_ANNOTATION])
    rollouts |= json.loads(record(path="containers[gone]")[ROLLOUTS_ANNOTATION])
    rollouts |= json.loads(record(path="containers[side]", uid="another")[ROLLOUTS_ANNOTATION])
    body = deployment(
        follow="web=app:latest",
        containers={"web": "app:1", "log": "x:1", "side": "x:1"},
        annotations={ROLLOUTS_ANNOTATION: json.dumps(rollouts)},
    )
    assert read_record(read(written(body, IMAGE_B))).keys() == {"containers[web]", "containers[log]"}


def test_a_label_goes_with_the_record_that_disproves_it():
    """Else it would be believed as soon as the record is written anew."""
    rollouts = json.loads(record(path="containers[log]", uid="another")[ROLLOUTS_ANNOTATION])
    body = deployment(
        follow="web=app:latest, log=fluent:2",
        containers={"web": "app:1", "log": "log:hand", "own": "own:1"},
        labels={f"{SERVED_LABEL}log": "event-b", f"{SERVED_LABEL}own": "x", "app": "shop"},
        annotations={ROLLOUTS_ANNOTATION: json.dumps(rollouts)},
    )
    patch = patch_of(read(body), plan_rollout(read(body), {ISTAG: IMAGE_A}.get, RULES), NOW)
    assert patch is not None
    after = patched(body, patch)
    assert after["metadata"]["labels"] == {LABEL: "event-a", f"{SERVED_LABEL}own": "x", "app": "shop"}
    tags = {ISTAG: IMAGE_A, Istag("team", "fluent", "2"): IMAGE_B}
    assert [_words(each) for each in plan_rollout(read(after), tags.get, RULES).decisions] == ["roll: tag moved"]
    after["metadata"]["labels"][f"{SERVED_LABEL}log"] = "event-b"
    assert _words(plan_rollout(read(after), tags.get, RULES).decisions[0]).startswith("hold"), "what it prevents"
    body["metadata"]["labels"][f"{SERVED_LABEL}log"] = "event-x"
    with pytest.raises(PatchFailedError):
        patched(body, patch)


def test_an_entry_from_the_creation_is_made_complete():
    rollouts = json.loads(record(path="containers[log]", uid="", name="team/shop")[ROLLOUTS_ANNOTATION])
    body = deployment(
        follow="web=app:latest",
        containers={"web": "app:1", "log": "x:1"},
        annotations={ROLLOUTS_ANNOTATION: json.dumps(rollouts)},
    )
    assert {entry.uid for entry in read_record(read(written(body, IMAGE_B))).values()} == {"uid-w"}


@given(
    st.dictionaries(
        st.text(max_size=20), st.builds(Rollout, *[st.text(max_size=20)] * 5, name=st.text(max_size=9)), max_size=3
    )
)
def test_a_record_is_read_as_it_was_written(entries: dict[str, Rollout]):
    body = deployment(annotations={ROLLOUTS_ANNOTATION: encode_record(entries)})
    assert read_record(read(body)) == entries


@pytest.mark.parametrize(
    "latest",
    [
        pytest.param(None, id="unresolved"),
        pytest.param(IMAGE_A, id="held"),
    ],
)
def test_without_a_rollout_there_is_no_write(latest: TagImage | None):
    body = shop("app:old", "event-a", ("kubectl-set", "Update"))
    assert patch_of(read(body), plan_rollout(read(body), {ISTAG: latest}.get, RULES), NOW) is None


def _change(body: Json, where: str) -> None:
    """Somebody else's edit between our reading and our patch."""
    metadata, containers = body["metadata"], body["spec"]["template"]["spec"]["containers"]
    match where:
        case "uid":
            metadata["uid"] = "uid-of-a-new-one"
        case "image":
            containers[0]["image"] = "app:hand"
        case "order":
            containers.insert(0, {"name": "side", "image": containers[0]["image"]})
        case "gone":
            containers[0] = {"name": "renamed", "image": containers[0]["image"]}
        case "empty":
            containers.clear()
        case "label":
            metadata["labels"][LABEL] = "event-x"
        case "label removed":
            del metadata["labels"][LABEL]
        case "record":
            metadata["annotations"][ROLLOUTS_ANNOTATION] = "{}"
        case "paused":
            metadata["annotations"][TRIGGERS_ANNOTATION] = json.dumps([trigger(paused=True)])
        case "another tag":
            metadata["annotations"][TRIGGERS_ANNOTATION] = json.dumps([trigger("app:other")])
        case "the short form too":
            metadata["annotations"][FOLLOW_ANNOTATION] = "web=app:other"
        case "nothing followed":
            del metadata["annotations"][TRIGGERS_ANNOTATION]
        case _:
            pytest.fail(where)


@pytest.mark.parametrize(
    "where",
    [
        *("uid", "image", "order", "gone", "empty", "label", "label removed", "record", "paused", "another tag"),
        *("the short form too", "nothing followed"),
    ],
)
@pytest.mark.parametrize("image", ["app:1", MIRRORED_A])
def test_the_patch_does_not_land_on_another_object_than_was_decided_on(where: str, image: str):
    body = shop(image, "event-b")
    patch = patch_of(read(body), plan_rollout(read(body), {ISTAG: AGAIN_A}.get, RULES), NOW)
    assert patch is not None
    _change(body, where)
    with pytest.raises(PatchFailedError):
        patched(body, patch)


def test_labels_that_appear_meanwhile_are_not_overwritten():
    body = deployment("app:1", triggers=[trigger()])
    patch = patch_of(read(body), plan_rollout(read(body), {ISTAG: IMAGE_A}.get, RULES), NOW)
    assert patch is not None
    body["metadata"]["labels"] = {"team": "blue"}
    with pytest.raises(PatchFailedError):
        patched(body, patch)


def test_edits_of_other_fields_are_neither_refused_nor_lost():
    body = shop("app:1", "event-a")
    patch = patch_of(read(body), plan_rollout(read(body), {ISTAG: IMAGE_B}.get, RULES), NOW)
    assert patch is not None
    body["spec"]["replicas"] = 9
    body["metadata"]["labels"]["new"] = "label"
    body["metadata"]["annotations"]["new"] = "annotation"
    body["spec"]["template"]["spec"]["containers"].append({"name": "side", "image": "side:1"})
    after = patched(body, patch)
    assert image_of(after) == IMAGE_B.pull_spec
    assert after["spec"]["replicas"] == 9
    assert after["metadata"]["labels"]["new"] == "label"
    assert after["metadata"]["annotations"]["new"] == "annotation"
    assert len(after["spec"]["template"]["spec"]["containers"]) == 2


def test_keys_are_escaped():
    patch = patch_of(read(shop("app:1")), plan_rollout(read(shop("app:1")), {ISTAG: IMAGE_A}.get, RULES), NOW)
    assert patch is not None
    paths = {operation["path"] for operation in json.loads(patch)}
    assert "/metadata/labels/served.imagestreams.dev~1web" in paths
    assert "/metadata/annotations/imagestreams.dev~1rollouts" in paths
    assert "/metadata/annotations/image.openshift.io~1triggers" in paths


@given(st.lists(st.text(max_size=5), max_size=3))
def test_a_pointer_leads_to_what_it_was_made_of(keys: list[str]):
    parts = pointer(*keys).split("/")[1:]
    assert [part.replace("~1", "/").replace("~0", "~") for part in parts] == keys


# --- giving the field back --------------------------------------------------------------------------------------------

OURS = owner(FIELD_MANAGER)


@pytest.mark.parametrize(
    ("owners", "left"),
    [
        pytest.param([owner("kustomize-controller", "Apply"), OURS], ["kustomize-controller"], id="an applier"),
        pytest.param(
            [owner("helm"), OURS, owner("kubectl", "Apply")], ["helm", "kubectl"], id="an applier among others"
        ),
        pytest.param([owner("helm"), OURS], None, id="nobody applies"),
        pytest.param([owner("kubectl", "Apply")], None, id="nothing is ours"),
        pytest.param([owner("kubectl", "Apply"), owner(FIELD_MANAGER, subresource="status")], None, id="not our spec"),
        pytest.param([owner(FIELD_MANAGER, "Apply")], None, id="our name applied by somebody"),
        pytest.param([], None, id="no managedFields"),
    ],
)
def test_our_ownership_is_given_up_where_somebody_applies(owners: list[Json], left: list[str] | None):
    body = shop(pinned("a"), "event-a")
    body["metadata"]["managedFields"] = owners
    patch = release_patch_of(read(body))
    if left is None:
        assert patch is None
        return
    assert patch is not None
    after = patched(body, patch)
    assert [entry["manager"] for entry in after["metadata"]["managedFields"]] == left
    assert release_patch_of(read(after)) is None


def test_nobody_elses_ownership_is_given_up():
    body = shop(pinned("a"), "event-a")
    body["metadata"]["managedFields"] = [owner("kubectl", "Apply"), OURS]
    patch = release_patch_of(read(body))
    assert patch is not None
    body["metadata"]["managedFields"].insert(0, owner("helm"))
    with pytest.raises(PatchFailedError):
        patched(body, patch)
