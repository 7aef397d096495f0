"""Pinning, decided: what a workload that follows tags is stored with. After it the controller has nothing to do."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagestreams.core.admission import Allowed, Requester, Review
from imagestreams.core.pinning import MAX_FOREIGN, pin, question_of
from imagestreams.core.policy import Policy
from imagestreams.core.stream import Istag, ObjectKey, TagImage
from imagestreams.core.trigger import (
    FOLLOW_ANNOTATION,
    ROLLOUTS_ANNOTATION,
    SERVED_LABEL,
    TRIGGERS_ANNOTATION,
    Drift,
    Hold,
    Roll,
    TriggerRules,
    patch_of,
    plan_rollout,
    read_record,
)
from tests.core.streams import NOW, digest, pinned
from tests.core.workloads import Json, deployment, owner, patched, read, trigger
from tests.fakes.patching import json_patched

RULES = TriggerRules()
ENFORCE = TriggerRules(drift=Drift.ENFORCE)
ISTAG = Istag("team", "app", "latest")
LABEL = f"{SERVED_LABEL}web"
A = TagImage(pinned("a"), digest("a"), "event-a")
B = TagImage(pinned("b"), digest("b"), "event-b")
TEXT = TagImage("quay.io/acme/app:stable", "", "event-t")
MIRRORED_A = f"mirror.example/app@{digest('a')}"
PLACEHOLDER = "example/placeholder:1"
JANE = Requester("jane")
KUBECTL, SERVER_SIDE, HELM = ("kubectl-client-side-apply", "Update"), ("kubectl", "Apply"), ("helm", "Update")
BY_HAND = ("kubectl-set", "Update")

Tags = dict[Istag, TagImage]
Edit = Callable[[Json], object]


def review(body: Json, before: Json | None = None, /, **fields: Any) -> Review:
    """As the API server asks: about an object without a uid at its creation."""
    created = copy.deepcopy(body)
    if before is None:
        created["metadata"].pop("uid", None)
        created["metadata"].pop("resourceVersion", None)
    asked = Review(
        uid="1",
        operation="CREATE" if before is None else "UPDATE",
        group="apps",
        version="v1",
        resource="deployments",
        subresource="",
        kind="Deployment",
        namespace="team",
        name=created["metadata"].get("name", ""),
        requester=JANE,
        object=json.dumps(created).encode(),
        old=b"" if before is None else json.dumps(before).encode(),
        is_dry_run=False,
    )
    return replace(asked, **fields)


def answer(asked: Review, tags: Tags, rules: TriggerRules = RULES) -> Allowed:
    question = question_of(asked, excluded=frozenset({"kube-system"}))
    return Allowed() if question is None else pin(question, tags.get, rules, NOW)


def admitted(
    body: Json, old: Json | None = None, *, tags: Tags | None = None, rules: TriggerRules = RULES, uid: str = "uid-w"
) -> Json:
    """The object as it is stored. Being asked again about it changes nothing."""
    tags = {ISTAG: A} if tags is None else tags
    asked = review(body, old)
    sent = json.loads(asked.object)
    stored = json_patched(sent, json.loads(json.dumps(answer(asked, tags, rules).patch)))
    again = answer(review(stored, old), tags, rules)
    assert again.patch == ()
    return {**stored, "metadata": {**stored["metadata"], "uid": uid}}


def image_of(body: Json, container: int = 0) -> str:
    return str(body["spec"]["template"]["spec"]["containers"][container]["image"])


def label_of(body: Json, container: str = "web") -> str | None:
    labels: dict[str, str] = body["metadata"].get("labels") or {}
    return labels.get(SERVED_LABEL + container)


def is_settled(body: Json, tags: Tags | None = None, rules: TriggerRules = RULES) -> bool:
    """Whether the controller has nothing to write, and nothing to say."""
    return plan_rollout(read(body), ({ISTAG: A} if tags is None else tags).get, rules).decisions == ()


def rolled(body: Json, tags: Tags, rules: TriggerRules = RULES) -> Json:
    """The object after the controller's own patch."""
    patch = patch_of(read(body), plan_rollout(read(body), tags.get, rules), NOW)
    return patched(body, patch) if patch else body


def served(**fields: Any) -> Json:
    """A Deployment as the controller leaves it: it has A."""
    return rolled(deployment(PLACEHOLDER, triggers=[trigger()], **fields), {ISTAG: A})


def edited(
    body: Json,
    image: str | None = None,
    writer: tuple[str, str] = KUBECTL,
    *,
    without: str = "",
    **annotations: str,
) -> Json:
    """The object after somebody's edit, before admission: with another image, without our labels or record."""
    after = copy.deepcopy(body)
    if image is not None:
        after["spec"]["template"]["spec"]["containers"][0]["image"] = image
        after["metadata"]["managedFields"] = [owner(*writer)]
    if "labels" in without:
        del after["metadata"]["labels"]
    if "record" in without:
        after["metadata"]["annotations"].pop(ROLLOUTS_ANNOTATION, None)
    after["metadata"].setdefault("annotations", {}).update(annotations)
    return after


# --- what is asked about ----------------------------------------------------------------------------------------------


_PLAIN = json.dumps(deployment()).encode()


@pytest.mark.parametrize(
    ("fields", "is_ours"),
    [
        pytest.param({}, True, id="a Deployment"),
        pytest.param({"group": "extensions"}, False, id="another group"),
        pytest.param({"version": "v1beta1"}, False, id="another version"),
        pytest.param({"resource": "statefulsets"}, False, id="another resource"),
        pytest.param({"subresource": "scale"}, False, id="a subresource"),
        pytest.param({"operation": "DELETE", "old": _PLAIN}, False, id="another operation"),
        pytest.param({"operation": "CONNECT", "old": _PLAIN}, False, id="yet another"),
        pytest.param({"operation": "UPDATE", "old": _PLAIN}, True, id="an update"),
        pytest.param({"namespace": "kube-system"}, False, id="an excluded namespace"),
        pytest.param({"object": b""}, False, id="no object"),
        pytest.param({"object": b"[]"}, False, id="no object, but a list"),
        pytest.param({"object": b'{"metadata": {}}'}, False, id="no name"),
        pytest.param({"object": b"\xff"}, False, id="not UTF-8"),
        pytest.param({"object": b"[" * 9999}, False, id="nested"),
        pytest.param({"operation": "UPDATE"}, False, id="an update of nothing"),
    ],
)
def test_what_is_decided_here(fields: dict[str, Any], is_ours: bool):
    asked = review(deployment(PLACEHOLDER, triggers=[trigger()]), **fields)
    tags = {ISTAG: A, ISTAG._replace(namespace="kube-system"): A}
    assert bool(answer(asked, tags).patch) == is_ours


def test_a_paused_copy_keeps_even_its_marks():
    body = deployment(PLACEHOLDER, triggers=[trigger(paused=True)], labels={LABEL: "event-a"})
    assert answer(review(body), {ISTAG: A}) == Allowed()


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(deployment(PLACEHOLDER), id="follows nothing"),
        pytest.param(deployment(PLACEHOLDER, triggers="null"), id="no triggers"),
        pytest.param(deployment(PLACEHOLDER, triggers="{broken"), id="a broken annotation"),
        pytest.param(deployment(PLACEHOLDER, triggers=[trigger(paused=True)]), id="paused"),
        pytest.param(deployment(PLACEHOLDER, triggers=[trigger("absent:latest")]), id="no such tag"),
        pytest.param(deployment(PLACEHOLDER, follow="web=app:latest, web=app:other"), id="two tags"),
        pytest.param(deployment(pinned("a"), follow="gone=app:latest"), id="no such container"),
    ],
)
@pytest.mark.parametrize("is_new", [True, False])
def test_what_follows_nothing_that_is_known_is_left_alone(body: Json, is_new: bool):
    asked = review(body) if is_new else review(edited(body, "hand:1"), body)
    assert answer(asked, {ISTAG: A}) == Allowed()


@pytest.mark.parametrize(
    ("owners", "is_ours"),
    [
        pytest.param([{"name": "x", "controller": True}], False, id="a controller"),
        pytest.param([{"name": "y"}, {"name": "x", "controller": True}], False, id="one of them"),
        pytest.param([{"name": "x", "controller": False}], True, id="an owner"),
        pytest.param([{"name": "x"}, {"name": "y", "controller": None}], True, id="owners"),
        pytest.param(None, True, id="null"),
    ],
)
def test_what_another_object_controls_is_left_to_that(owners: Json | None, is_ours: bool):
    body = deployment(PLACEHOLDER, triggers=[trigger()])
    body["metadata"]["ownerReferences"] = owners
    assert bool(answer(review(body), {ISTAG: A}).patch) == is_ours


def test_what_the_policy_refuses_is_not_set():
    rules = TriggerRules(policy=Policy(hosts={}, blocked=("quay.io",)))
    assert answer(review(deployment(PLACEHOLDER, triggers=[trigger()])), {ISTAG: A}, rules) == Allowed()


def test_other_namespaces_streams_are_named_so_that_rights_can_be_asked_for():
    foreign = [f"c{number}=other/s{number}:1" for number in range(30)]
    body = deployment(
        follow=", ".join(["web=app:latest", "log=other/s0:2", *foreign]),
        containers={"web": "x", "log": "x", **{f"c{number}": "x" for number in range(30)}},
    )
    question = question_of(review(body), excluded=frozenset())
    assert question is not None
    assert question.foreign[:2] == (ObjectKey("other", "s0"), ObjectKey("other", "s1"))
    assert len(question.foreign) == MAX_FOREIGN


def test_the_namespace_is_the_requests():
    body = deployment(PLACEHOLDER, triggers=[trigger()])
    body["metadata"]["namespace"] = ""
    assert image_of(admitted(body)) == A.pull_spec


# --- creation ---------------------------------------------------------------------------------------------------------

_FOREIGN_RECORD = {"containers[web]": {"tag": str(ISTAG), "image": pinned("c"), "uid": "another", "at": "x"}}


@pytest.mark.parametrize(
    ("fields", "image"),
    [
        pytest.param({"image": PLACEHOLDER}, A.pull_spec, id="a placeholder"),
        pytest.param({"image": " "}, A.pull_spec, id="a blank"),
        pytest.param({"image": A.pull_spec}, A.pull_spec, id="the image already"),
        pytest.param({"image": MIRRORED_A}, MIRRORED_A, id="its digest elsewhere"),
        pytest.param({"image": B.pull_spec}, A.pull_spec, id="another digest"),
        pytest.param({"image": PLACEHOLDER, "labels": {}}, A.pull_spec, id="no labels"),
        pytest.param({"image": PLACEHOLDER, "labels": {"app": "web"}}, A.pull_spec, id="other labels"),
        pytest.param({"image": PLACEHOLDER, "owners": [owner(*SERVER_SIDE)]}, A.pull_spec, id="server-side apply"),
        pytest.param(
            {"image": PLACEHOLDER, "labels": {LABEL: "event-a"}}, A.pull_spec, id="a copied label, without a record"
        ),
        pytest.param(
            {
                "image": "app:hand",
                "labels": {LABEL: "event-a"},
                "annotations": {ROLLOUTS_ANNOTATION: json.dumps(_FOREIGN_RECORD)},
                "owners": [owner("velero-server")],
            },
            A.pull_spec,
            id="a copy or restored object that was held",
        ),
        pytest.param(
            {"image": PLACEHOLDER, "annotations": {ROLLOUTS_ANNOTATION: "nonsense"}}, A.pull_spec, id="broken record"
        ),
    ],
)
def test_a_new_workload_has_its_tags_image_at_once(fields: dict[str, Any], image: str):
    image_before = fields["image"]
    body = deployment(fields["image"], triggers=[trigger()], **{k: v for k, v in fields.items() if k != "image"})
    stored = admitted(body)
    assert image_of(stored) == image
    assert label_of(stored) == A.event
    assert is_settled(stored)
    assert read_record(read(stored)).keys() == {"containers[web]"}
    entry = read_record(read(stored))["containers[web]"]
    assert (entry.tag, entry.image, entry.uid, entry.name) == (str(ISTAG), image, "", "team/shop")
    assert (entry.at, entry.why) == ("2026-03-01T12:00:00Z", "already there" if image_before == image else "created")


def test_a_new_workload_keeps_everything_else():
    body = deployment(PLACEHOLDER, triggers=[trigger()], labels={"app": "shop"}, annotations={"note": "x"})
    stored = admitted(body)
    stored["spec"]["template"]["spec"]["containers"][0]["image"] = PLACEHOLDER
    del stored["metadata"]["labels"][LABEL], stored["metadata"]["annotations"][ROLLOUTS_ANNOTATION]
    del body["metadata"]["resourceVersion"]
    assert stored == body


def test_labels_may_be_null():
    body = deployment(PLACEHOLDER, triggers=[trigger()])
    body["metadata"]["labels"] = None
    assert label_of(admitted(body)) == A.event


def test_a_new_workload_without_a_name_has_no_record():
    body = deployment(PLACEHOLDER, triggers=[trigger()])
    body["metadata"]["generateName"] = f"{body['metadata'].pop('name')}-"
    stored = admitted(body)
    assert image_of(stored) == A.pull_spec
    assert ROLLOUTS_ANNOTATION not in stored["metadata"]["annotations"]
    stored["metadata"]["name"] = "shop-x7z"
    assert is_settled(stored)


def test_marks_of_another_object_go_even_where_nothing_is_known_of_the_tag():
    record = json.dumps(_FOREIGN_RECORD)
    body = deployment(
        PLACEHOLDER,
        triggers=[trigger()],
        labels={LABEL: "event-a", f"{SERVED_LABEL}log": "event-x", "app": "shop"},
        annotations={ROLLOUTS_ANNOTATION: record},
    )
    stored = admitted(body, tags={})
    assert image_of(stored) == PLACEHOLDER
    assert stored["metadata"]["labels"] == {"app": "shop"}
    assert stored["metadata"]["annotations"].keys() == {TRIGGERS_ANNOTATION}
    assert image_of(rolled(stored, {ISTAG: A})) == A.pull_spec, "the controller follows when the tag is there"


def test_a_uid_that_a_manifest_brings_along_is_not_the_objects():
    body = deployment(PLACEHOLDER, triggers=[trigger()])
    asked = review(body)
    asked = replace(asked, object=json.dumps(body).encode())
    stored = json_patched(body, list(answer(asked, {ISTAG: A}).patch))
    stored["metadata"]["uid"] = "uid-new"
    assert is_settled(stored)


def test_a_copy_that_nobody_pinned_is_not_believed():
    """Stored while the webhook was away: the record is another object's by its name."""
    stored = admitted(deployment(PLACEHOLDER, triggers=[trigger()]))
    copied = edited(stored, "app:hand", ("velero-server", "Update"))
    assert isinstance(plan_rollout(read(copied), {ISTAG: A}.get, RULES).decisions[0], Hold)
    copied["metadata"] |= {"name": "shop-copy", "uid": "uid-copy"}
    assert isinstance(plan_rollout(read(copied), {ISTAG: A}.get, RULES).decisions[0], Roll)


def test_an_entry_of_an_earlier_object_of_that_name_is_replaced():
    stored = admitted(deployment(PLACEHOLDER, triggers=[trigger()]), tags={ISTAG: B})
    again = admitted(edited(stored, PLACEHOLDER))
    [entry] = read_record(read(again)).values()
    assert (entry.image, entry.why) == (A.pull_spec, "created")


def test_containers_are_settled_one_by_one():
    body = deployment(
        follow="web=app:latest, log=fluent:2, migrate=app:latest, side=nothing:1",
        containers={"web": "x", "own": "own:1", "log": "x", "side": "side:1"},
        init={"migrate": "x"},
    )
    tags = {ISTAG: A, Istag("team", "fluent", "2"): B}
    stored = admitted(body, tags=tags)
    pod = stored["spec"]["template"]["spec"]
    assert [each["image"] for each in pod["containers"]] == [A.pull_spec, "own:1", B.pull_spec, "side:1"]
    assert pod["initContainers"][0]["image"] == A.pull_spec
    assert read_record(read(stored)).keys() == {"containers[web]", "containers[log]", "initContainers[migrate]"}
    assert plan_rollout(read(stored), tags.get, RULES).writes == ()


def test_the_controller_makes_an_entry_complete():
    stored = admitted(deployment(follow="web=app:latest, log=fluent:2", containers={"web": "x", "log": "x"}))
    after = rolled(stored, {ISTAG: A, Istag("team", "fluent", "2"): B})
    entries = read_record(read(after))
    assert {entry.uid for entry in entries.values()} == {"uid-w"}
    assert {entry.name for entry in entries.values()} == {""}
    assert entries["containers[web]"].why == "created"


# --- updates ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("writer", [KUBECTL, SERVER_SIDE, HELM, ("kustomize-controller", "Apply")])
@pytest.mark.parametrize("image", [PLACEHOLDER, B.pull_spec, "quay.io/acme/app:9"])
@pytest.mark.parametrize("without", ["", "labels", "record", "labels and record"])
def test_a_manifest_applied_again_changes_nothing(writer: tuple[str, str], image: str, without: str):
    before = served(owners=[owner(*writer)])
    stored = admitted(edited(before, image, writer, without=without), before)
    assert image_of(stored) == A.pull_spec
    assert is_settled(stored)
    assert stored == edited(before, A.pull_spec, writer), "not even a label or record: nothing is written"


@pytest.mark.parametrize("image", [A.pull_spec, MIRRORED_A])
def test_what_ran_under_another_name_does_so_again(image: str):
    before = rolled(deployment(image, triggers=[trigger()]), {ISTAG: A})
    stored = admitted(edited(before, PLACEHOLDER), before)
    assert image_of(stored) == image
    assert is_settled(stored)


def test_other_changes_of_the_manifest_are_kept():
    before = served()
    body = edited(before, PLACEHOLDER)
    body["spec"]["replicas"] = 9
    body["spec"]["template"]["spec"]["containers"].append({"name": "side", "image": "side:1"})
    stored = admitted(body, before)
    assert stored["spec"]["replicas"] == 9
    assert (image_of(stored), image_of(stored, 1)) == (A.pull_spec, "side:1")


@pytest.mark.parametrize("writer", [BY_HAND, ("kubectl-edit", "Update"), ("kubectl-rollout", "Update"), ("", "Update")])
def test_a_hands_image_is_kept_and_it_is_told_for_how_long(writer: tuple[str, str]):
    before = served()
    found = answer(review(edited(before, "app:hand", writer), before), {ISTAG: A})
    assert found.patch == ()
    [warning] = found.warnings
    assert warning == (
        "container web follows team/app:latest, but keeps this image until the tag moves, or the label "
        "served.imagestreams.dev/web is removed"
    )
    assert len(warning) < 256


def test_a_rollout_that_is_undone_stays_undone():
    first = served()
    second = rolled(first, {ISTAG: B})
    undone = edited(second, A.pull_spec, ("kubectl-rollout", "Update"))
    undone["metadata"]["annotations"] = first["metadata"]["annotations"]  # undo puts them back, labels it leaves
    assert admitted(undone, second, tags={ISTAG: B}) == undone
    assert isinstance(plan_rollout(read(undone), {ISTAG: B}.get, RULES).decisions[0], Hold)


def test_a_held_image_is_not_told_of_again():
    held = edited(served(), "app:hand", BY_HAND)
    touched = edited(held)
    touched["spec"]["template"]["spec"]["containers"].append({"name": "side", "image": "side:1"})
    assert answer(review(touched, held), {ISTAG: A}) == Allowed()


def test_a_manifest_ends_a_hold():
    held = edited(served(), "app:hand", BY_HAND)
    stored = admitted(edited(held, PLACEHOLDER), held)
    assert image_of(stored) == A.pull_spec
    assert read_record(read(stored))["containers[web]"].why == "manifest applied again"
    assert is_settled(stored)


def test_removing_the_label_ends_a_hold_at_once():
    held = edited(served(), "app:hand", BY_HAND)
    stored = admitted(edited(held, without="labels"), held)
    assert (image_of(stored), label_of(stored)) == (A.pull_spec, A.event)
    assert is_settled(stored)


def test_where_drift_is_not_tolerated_a_hand_is_told_so():
    before = served()
    asked = review(edited(before, "app:hand", BY_HAND), before)
    found = answer(asked, {ISTAG: A}, ENFORCE)
    assert image_of(json_patched(json.loads(asked.object), list(found.patch))) == A.pull_spec
    assert found.warnings == ("container web follows team/app:latest: its image was set back to the tag's",)
    assert answer(review(edited(before, PLACEHOLDER), before), {ISTAG: A}, ENFORCE).warnings == ()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param({}, {"follow": "web=app:latest"}, id="it follows from now on"),
        pytest.param({"follow": "web=app:other"}, {"follow": "web=app:latest"}, id="it follows another tag"),
        pytest.param({"triggers": [trigger(paused=True)]}, {"triggers": [trigger()]}, id="no longer paused"),
        pytest.param({"follow": "log=app:latest"}, {"follow": "web=app:latest"}, id="another container follows"),
    ],
)
@pytest.mark.parametrize("image", [PLACEHOLDER, B.pull_spec])
def test_what_begins_to_follow_has_the_image_at_once(before: Json, after: Json, image: str):
    tags = {ISTAG: A, Istag("team", "app", "other"): B}
    containers = {"web": image, "log": "log:1"}
    old = rolled(deployment(containers=containers, **before), tags)
    body = deployment(containers=containers, labels=old["metadata"].get("labels"), **after)
    stored = admitted(body, old, tags=tags)
    assert image_of(stored) == A.pull_spec
    assert is_settled(stored, tags)


def test_a_container_that_is_new_has_its_image_at_once():
    before = served(containers={"web": PLACEHOLDER})
    body = edited(before, PLACEHOLDER, **{FOLLOW_ANNOTATION: "log=fluent:2"})
    body["spec"]["template"]["spec"]["containers"].insert(0, {"name": "log", "image": "x"})
    tags = {ISTAG: A, Istag("team", "fluent", "2"): B}
    stored = admitted(body, before, tags=tags)
    assert (image_of(stored, 0), image_of(stored, 1)) == (B.pull_spec, A.pull_spec)
    assert is_settled(stored, tags)


def test_an_init_container_of_old_is_another_one():
    before = rolled(deployment(follow="web=app:latest", containers={"x": "x"}, init={"web": MIRRORED_A}), {ISTAG: A})
    body = edited(before, "x")
    pod = body["spec"]["template"]["spec"]
    pod["containers"], pod["initContainers"] = pod["initContainers"], pod["containers"]
    pod["containers"][0]["image"] = PLACEHOLDER
    assert image_of(admitted(body, before)) == A.pull_spec


def test_what_is_no_longer_paused_has_the_tags_image_at_once():
    """Whatever it was served before it was paused."""
    before = served()
    before["metadata"]["annotations"][TRIGGERS_ANNOTATION] = json.dumps([trigger(paused=True)])
    body = edited(before, PLACEHOLDER, **{TRIGGERS_ANNOTATION: json.dumps([trigger()])})
    stored = admitted(body, before, tags={ISTAG: B})
    assert image_of(stored) == B.pull_spec
    assert is_settled(stored, {ISTAG: B})


def test_a_manifest_that_names_a_mirror_of_the_image_has_its_way():
    before = served()
    stored = admitted(edited(before, MIRRORED_A, without="labels"), before)
    assert image_of(stored) == MIRRORED_A
    assert is_settled(stored)


def test_where_there_was_no_record_one_is_written_of_what_runs():
    before = edited(rolled(deployment(MIRRORED_A, triggers=[trigger()]), {ISTAG: A}), without="record")
    stored = admitted(edited(before, PLACEHOLDER), before)
    [entry] = read_record(read(stored)).values()
    assert (entry.image, entry.why, entry.uid) == (MIRRORED_A, "manifest applied again", "uid-w")


def test_a_label_goes_with_the_record_that_disproves_it():
    before = deployment(
        follow="web=app:latest, log=gone:1",
        containers={"web": PLACEHOLDER, "log": "x"},
        labels={f"{SERVED_LABEL}log": "event-x"},
        annotations={ROLLOUTS_ANNOTATION: json.dumps({"containers[log]": {"uid": "another"}})},
    )
    stored = admitted(edited(before, "quay.io/other"), before)
    assert (label_of(stored), label_of(stored, "log")) == (A.event, None)
    assert read_record(read(stored)).keys() == {"containers[web]"}


# --- what only the controller does ------------------------------------------------------------------------------------


@pytest.mark.parametrize("writer", [KUBECTL, SERVER_SIDE, HELM])
@pytest.mark.parametrize("without", ["", "labels"])
@pytest.mark.parametrize("ours", [B, TEXT])
def test_a_tag_that_moved_as_we_see_it_does_not_move_a_workload(writer: tuple[str, str], without: str, ours: TagImage):
    """Nobody here can tell whether we are ahead of the controller, or behind it: it served A when we still see B."""
    before = served()
    stored = admitted(edited(before, PLACEHOLDER, writer, without=without), before, tags={ISTAG: ours})
    assert stored == edited(before, A.pull_spec, writer)


def by_us(body: Json, tags: Tags) -> Json:
    """The object as our controller's patch would have it stored: whose image it sets, that is its own by then."""
    after = rolled(body, tags)
    for each in json.loads(patch_of(read(body), plan_rollout(read(body), tags.get, RULES), NOW) or b"[]"):
        if each["op"] == "replace":
            after["metadata"]["managedFields"] = [owner("imagestreams")]
    return after


@pytest.mark.parametrize(
    "before",
    [
        pytest.param(served(owners=[owner(*SERVER_SIDE)]), id="a move"),
        pytest.param(deployment(PLACEHOLDER, triggers=[trigger()], owners=[owner(*KUBECTL)]), id="the first"),
        pytest.param(
            deployment(B.pull_spec, triggers=[trigger()], labels={LABEL: "event-a"}, owners=[owner(*KUBECTL)]),
            id="no move but of the label",
        ),
        pytest.param(deployment(B.pull_spec, triggers=[trigger()], owners=[owner(*KUBECTL)]), id="only the label"),
    ],
)
@pytest.mark.parametrize("rules", [RULES, ENFORCE])
def test_what_the_controller_writes_stays_though_we_see_less(before: Json, rules: TriggerRules):
    """Also where it is not known by its name."""
    after = by_us(before, {ISTAG: B})
    assert (image_of(after), label_of(after)) == (B.pull_spec, B.event)
    assert answer(review(after, before), {ISTAG: A}, rules) == Allowed()


def test_a_label_that_was_exported_with_a_manifest_is_not_believed():
    before = rolled(served(), {ISTAG: B})
    body = edited(before, PLACEHOLDER, SERVER_SIDE)
    body["metadata"]["labels"][LABEL] = "event-a"
    assert admitted(body, before, tags={ISTAG: B}) == edited(before, B.pull_spec, SERVER_SIDE)


def test_a_hands_image_is_no_business_of_ours_while_the_tag_moves():
    before = served()
    found = answer(review(edited(before, B.pull_spec, BY_HAND), before), {ISTAG: B})
    assert found == Allowed()
    assert answer(review(edited(before, "app:hand", BY_HAND), before), {ISTAG: B}, ENFORCE) == Allowed()


def test_a_manifest_during_a_move_costs_no_rollout_of_its_own():
    before = served()
    stored = admitted(edited(before, PLACEHOLDER), before, tags={ISTAG: B})
    after = rolled(stored, {ISTAG: B})
    assert [image_of(each) for each in (before, stored, after)] == [A.pull_spec, A.pull_spec, B.pull_spec]


# --- in general -------------------------------------------------------------------------------------------------------

_images = st.sampled_from([PLACEHOLDER, A.pull_spec, B.pull_spec, MIRRORED_A, "app:hand", TEXT.pull_spec, " "])
_events = st.sampled_from([None, "event-a", "event-b", "event-t", "event-x"])
_writers = st.sampled_from([KUBECTL, SERVER_SIDE, HELM, BY_HAND, ("", "Update")])
_follows = st.sampled_from(
    ["web=app:latest", "web=app:latest, log=fluent:2", "log=app:latest", "web=fluent:2", "web=app:gone"]
)
_records = st.sampled_from(["uid-w", "another", "", "none", "broken"])


@st.composite
def _objects(draw: st.DrawFn) -> Json:
    events = {name: draw(_events) for name in ("web", "log")}
    labels = {f"{SERVED_LABEL}{name}": event for name, event in events.items() if event}
    rollouts: dict[str, str] = {}
    match draw(_records):
        case "none":
            pass
        case "broken":
            rollouts = {ROLLOUTS_ANNOTATION: "{"}
        case uid:
            entry = {"tag": str(ISTAG), "image": draw(_images), "uid": uid, "name": "" if uid else "team/shop"}
            rollouts = {ROLLOUTS_ANNOTATION: json.dumps({f"containers[{draw(st.sampled_from(list(events)))}]": entry})}
    return deployment(
        containers={"web": draw(_images), "log": draw(_images), "own": "own:1"},
        follow=draw(_follows),
        annotations=rollouts,
        labels=draw(st.sampled_from([labels, labels or None])),
        owners=[owner(*draw(_writers), images=["web"]), owner(*draw(_writers), images=["log"])],
    )


@settings(deadline=None, max_examples=400)
@given(_objects(), st.none() | _objects(), st.sampled_from([A, B, TEXT]), st.sampled_from([RULES, ENFORCE]))
def test_whatever_is_sent(body: Json, old: Json | None, latest: TagImage, rules: TriggerRules):
    tags = {ISTAG: latest, Istag("team", "fluent", "2"): A}
    stored = admitted(body, old, tags=tags, rules=rules)

    sent, kept = _images_of(body), _images_of(old) if old else {}
    for name, image in _images_of(stored).items():
        assert image in {sent[name], kept.get(name), latest.pull_spec, A.pull_spec}
    assert _images_of(stored)["own"] == "own:1"
    for each in (stored, body):
        for container in each["spec"]["template"]["spec"]["containers"]:
            del container["image"]
    assert stored["spec"] == body["spec"]
    assert stored["metadata"].keys() - {"labels"} == body["metadata"].keys() - {"labels", "resourceVersion"} | (
        {"resourceVersion"} if old else set()
    )


@settings(deadline=None, max_examples=400)
@given(_objects(), st.none() | _objects(), st.sampled_from([A, B]), st.sampled_from([RULES, ENFORCE]))
def test_afterwards_the_controller_moves_at_most_what_the_tag_moved(
    body: Json, old: Json | None, latest: TagImage, rules: TriggerRules
):
    tags = {ISTAG: latest, Istag("team", "fluent", "2"): A}
    stored = admitted(body, old, tags=tags, rules=rules)
    for write in plan_rollout(read(stored), tags.get, rules).writes:
        assert old is not None, "after a creation there is nothing to do"
        container = write.trigger.container.name
        if label_of(body, container) not in {None, label_of(old, container)}:
            continue  # who sets our label is believed to be the controller
        assert label_of(old, container) not in {None, write.image.event}
        assert not isinstance(write, Roll) or write.why == "tag moved"


@settings(deadline=None, max_examples=200)
@given(st.binary() | _objects().map(lambda body: json.dumps(body).encode()[:-1]), st.booleans())
def test_what_cannot_be_read_is_let_pass(body: bytes, is_new: bool):
    asked = replace(review(deployment()), object=body, old=body, operation="CREATE" if is_new else "UPDATE")
    assert answer(asked, {ISTAG: A}) == Allowed()


def _images_of(body: Json) -> dict[str, str]:
    return {each["name"]: each["image"] for each in body["spec"]["template"]["spec"]["containers"]}


def test_the_record_is_dated_in_utc():
    question = question_of(review(deployment(PLACEHOLDER, triggers=[trigger()])), excluded=frozenset())
    assert question is not None
    found = pin(question, {ISTAG: A}.get, RULES, NOW + timedelta(seconds=0.9))
    assert '"at":"2026-03-01T12:00:00Z"' in str(found.patch[-1]["value"])
