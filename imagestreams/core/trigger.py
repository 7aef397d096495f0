"""Triggers, decided: which containers of a workload follow which tags, and what a difference between the two means.

A workload says in an annotation which of its containers follow which ImageStreamTag: OpenShift's
`image.openshift.io/triggers` (JSON) or the short `imagestreams.dev/follow: "web=app:latest, log=fluent:2"`.
`plan_rollout` compares the workload with what the tags have; `patch_of` is the one write that follows.

Two things are remembered on the object. The label `served.imagestreams.dev/<container>` names the tag event that was
last served: labels survive `kubectl rollout undo` and `kubectl apply`, which put annotations back. The annotation
`imagestreams.dev/rollouts` is the record for people. They are claims, not authority: another writer can set both, and
the worst that follows is a rollout to what the tag has, or none.

With these, a difference between container and tag has one of three meanings:

- the tag has an event that was not served: roll to it;
- it was served, and a manifest was applied again that names another image: set it again;
- it was served, and a hand changed the image, or nobody knows who: hold, until the tag moves.

OpenShift's own behaviour, where the tag always wins, is `Drift.ENFORCE`.
"""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec

from imagestreams.core.policy import Policy, refuse_image
from imagestreams.core.reference import ImageReference, InvalidReference, is_tag
from imagestreams.core.stream import UNREADABLE, Istag, MalformedObject, ObjectKey, TagImage

TRIGGERS_ANNOTATION = "image.openshift.io/triggers"
FOLLOW_ANNOTATION = "imagestreams.dev/follow"
ROLLOUTS_ANNOTATION = "imagestreams.dev/rollouts"
SERVED_LABEL = "served.imagestreams.dev/"
FIELD_MANAGER = "imagestreams"

MANIFEST_MANAGERS = frozenset(
    {
        "kubectl-client-side-apply",
        "kubectl-create",
        "kubectl-replace",
        "helm",
        "Helm",
        "kustomize-controller",
        "helm-controller",
        "argocd-controller",
        "argocd-application-controller",
        "pulumi-kubernetes",
        "Terraform",
        "before-first-apply",
    }
)
"""Field managers that write what a manifest says, when they write by Update; every Apply does. A setting adds more."""

_MAX_TRIGGERS = 100
_MAX_ANNOTATION = 1 << 16  # characters


class Drift(enum.StrEnum):
    """What wins when a served image was changed by hand."""

    RESPECT = "respect"
    ENFORCE = "enforce"


# --- workloads --------------------------------------------------------------------------------------------------------


class WorkloadKind(NamedTuple):
    """A kind whose containers can follow tags; `pod_spec` is the path to its pod spec."""

    api_version: str
    kind: str
    resource: str
    pod_spec: tuple[str, ...]


DEPLOYMENT = WorkloadKind("apps/v1", "Deployment", "deployments", ("spec", "template", "spec"))
KINDS = (DEPLOYMENT,)


class Writer(NamedTuple):
    """Who owns a field by managedFields, and how it was written: "Apply" or "Update"."""

    manager: str
    operation: str


class Container(NamedTuple):
    """One container. `list_name` is "containers" or "initContainers", `index` its place there; `writers` own the image,
    the latest first.
    """

    list_name: str
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody calls on a container
    name: str
    image: str
    writers: tuple[Writer, ...] = ()

    @property
    def path(self) -> str:
        return f"{self.list_name}[{self.name}]"


@dataclass(frozen=True, slots=True)
class Workload:
    """What triggers need of an object. `manager_entries` are the managedFields entries as (manager, operation,
    subresource), in their order. An object that is not stored yet has no uid, and no name where the API server has
    still to make one.
    """

    kind: WorkloadKind
    key: ObjectKey
    uid: str
    resource_version: str
    generation: int
    annotations: dict[str, str]
    labels: dict[str, str] | None
    containers: tuple[Container, ...]
    manager_entries: tuple[tuple[str, str, str], ...] = ()
    is_controlled: bool = False  # another object is its controller

    @property
    def is_applied(self) -> bool:
        """Whether somebody owns fields by server-side apply."""
        return any(operation == "Apply" for _, operation, _ in self.manager_entries)


class _ManagedFields(msgspec.Struct, frozen=True, rename="camel"):
    manager: str = ""
    operation: str = ""
    subresource: str = ""
    time: datetime | None = None
    fields_v1: msgspec.Raw = msgspec.field(default=msgspec.Raw(b"{}"), name="fieldsV1")


class Owner(msgspec.Struct, frozen=True):
    """An entry of metadata.ownerReferences."""

    controller: bool | None = None


def has_controller(owners: Iterable[Owner] | None) -> bool:
    """Whether another object is this one's controller: then it is that one which is to be changed."""
    return any(owner.controller for owner in owners or ())


class _Metadata(msgspec.Struct, frozen=True, rename="camel"):
    name: str = ""
    generate_name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    annotations: dict[str, str] | None = None
    labels: dict[str, str] | None = None
    owner_references: tuple[Owner, ...] | None = None
    managed_fields: tuple[_ManagedFields, ...] | None = None


class _Object(msgspec.Struct, frozen=True):
    metadata: _Metadata


class _Container(msgspec.Struct, frozen=True):
    name: str
    image: str = ""


class _PodSpec(msgspec.Struct, frozen=True, rename="camel"):
    containers: tuple[_Container, ...] | None = None
    init_containers: tuple[_Container, ...] | None = None


_Tree = dict[str, msgspec.Raw]
_decode_object = msgspec.json.Decoder(_Object)
_decode_tree = msgspec.json.Decoder(_Tree)
_decode_pod_spec = msgspec.json.Decoder(_PodSpec)


def decode_workload(kind: WorkloadKind, body: bytes) -> Workload:
    """Read a workload of the kind; raises `MalformedObject`."""
    try:
        metadata = _decode_object.decode(body).metadata
        pod_spec = _decode_pod_spec.decode(subtree(body, kind.pod_spec))
        managed = metadata.managed_fields or ()
        owners = sorted(managed, key=lambda entry: entry.time.timestamp() if entry.time else 0.0, reverse=True)
        containers = tuple(
            Container(name, index, container.name, container.image, _writers(owners, kind, name, container.name))
            for name, listed in (("initContainers", pod_spec.init_containers), ("containers", pod_spec.containers))
            for index, container in enumerate(listed or ())
        )
    except UNREADABLE as error:
        raise MalformedObject(f"{kind.kind}: {error}") from error
    if not (metadata.name or metadata.generate_name):
        raise MalformedObject(f"{kind.kind}: it has no name")
    return Workload(
        kind=kind,
        key=ObjectKey(metadata.namespace, metadata.name),
        uid=metadata.uid,
        resource_version=metadata.resource_version,
        generation=metadata.generation,
        annotations=metadata.annotations or {},
        labels=metadata.labels,
        containers=containers,
        manager_entries=tuple((entry.manager, entry.operation, entry.subresource) for entry in managed),
        is_controlled=has_controller(metadata.owner_references),
    )


def subtree(body: bytes | msgspec.Raw, path: Iterable[str]) -> bytes | msgspec.Raw:
    """The JSON at the end of the path, `{}` where there is none; raises what `UNREADABLE` lists."""
    for part in path:
        body = _decode_tree.decode(body).get(part, msgspec.Raw(b"{}"))
    return body


def _writers(
    owners: Iterable[_ManagedFields], kind: WorkloadKind, list_name: str, container: str
) -> tuple[Writer, ...]:
    """Who owns the container's image, the latest writer first."""
    path = (*(f"f:{part}" for part in kind.pod_spec), f"f:{list_name}", f'k:{{"name":{json.dumps(container)}}}')
    return tuple(
        Writer(entry.manager, entry.operation)
        for entry in owners
        if not entry.subresource and "f:image" in _decode_tree.decode(subtree(entry.fields_v1, path))
    )


# --- triggers ---------------------------------------------------------------------------------------------------------


class Trigger(NamedTuple):
    """A container that follows a tag."""

    container: Container
    istag: Istag
    is_paused: bool


class Triggers(NamedTuple):
    """All that a workload's annotations ask for; `problems` are sentences for its owner about what is wrong in them."""

    triggers: tuple[Trigger, ...]
    problems: tuple[str, ...]


class _From(msgspec.Struct, frozen=True):
    kind: str = ""
    name: str = ""
    namespace: str | None = None


class _Declared(msgspec.Struct, frozen=True):
    """One element of the JSON annotation; keys in lower case, since Go reads them in any."""

    source: _From = msgspec.field(default=_From(), name="from")
    field_path: str = msgspec.field(default="", name="fieldpath")
    paused: bool | str | None = None


class Annotated(msgspec.Struct, frozen=True, gc=False):
    """The annotations that make an object a workload of ours."""

    triggers: str | None = msgspec.field(default=None, name=TRIGGERS_ANNOTATION)
    follow: str | None = msgspec.field(default=None, name=FOLLOW_ANNOTATION)
    rollouts: str | None = msgspec.field(default=None, name=ROLLOUTS_ANNOTATION)


def has_triggers(annotations: Annotated) -> bool:
    """Whether the object's annotations ask for anything."""
    return bool(annotations.triggers or annotations.follow)


def parse_triggers(workload: Workload) -> Triggers:
    """Read both annotations. What is wrong is a problem and is left out; the rest counts. A container that is to follow
    two tags follows none.
    """
    found: list[Trigger] = []
    problems: list[str] = []
    text = workload.annotations.get(TRIGGERS_ANNOTATION)
    if text is not None:
        _read_json(workload, text, found, problems)
    short = workload.annotations.get(FOLLOW_ANNOTATION)
    if short is not None:
        _read_follow(workload, short, found, problems)
    kept: list[Trigger] = []
    for trigger in found:
        rivals = {other.istag for other in found if other.container == trigger.container}
        if len(rivals) > 1:
            names = " and ".join(sorted(map(str, rivals)))
            problems.append(f"container {trigger.container.name} is to follow {names}; it follows none of them")
        elif all(trigger.container != other.container for other in kept):
            kept.append(trigger)
    return Triggers(tuple(kept), tuple(dict.fromkeys(problems)))


def _read_json(workload: Workload, text: str, found: list[Trigger], problems: list[str]) -> None:
    try:
        declared = _declared(text)
    except ValueError as error:
        problems.append(f"the annotation {TRIGGERS_ANNOTATION} is ignored: {error}")
        return
    paths = [trigger.field_path for trigger in declared]
    if len(set(paths)) < len(paths):
        problems.append(f"the annotation {TRIGGERS_ANNOTATION} is ignored: it names a fieldPath twice")
        return
    for trigger in declared:
        if isinstance(trigger.paused, str):
            read_as = "true" if _is_paused(trigger) else "false"
            problems.append(
                f'"paused" should be true or false without quotes, not {trigger.paused[:20]!r}; it is read as {read_as}'
            )
        if trigger.source.kind != "ImageStreamTag":
            problems.append(
                f"a trigger with from.kind {trigger.source.kind[:60]!r} is ignored; only ImageStreamTag can be followed"
            )
            continue
        namespace = trigger.source.namespace or workload.key.namespace
        istag = _istag(trigger.source.name, namespace)
        if istag is None:
            where = f" in namespace {namespace[:63]!r}" if trigger.source.namespace else ""
            problems.append(f'from.name {trigger.source.name[:120]!r}{where} is ignored; write "stream:tag"')
            continue
        container = _select(workload, trigger.field_path)
        if container is None:
            problems.append(f"fieldPath {trigger.field_path[:200]!r} names no container of this {workload.kind.kind}")
            continue
        found.append(Trigger(container, istag, _is_paused(trigger)))


def _declared(text: str) -> tuple[_Declared, ...]:
    """The elements of the JSON annotation; raises ValueError. `null`, which `oc set triggers --remove-all` writes,
    means none.
    """
    if len(text) > _MAX_ANNOTATION:
        raise ValueError("it is longer than 64 KiB")
    try:
        value = _lower_keys(msgspec.json.decode(text))
    except msgspec.DecodeError as error:
        raise ValueError(f"it is not JSON ({error})") from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if value is None:
        return ()
    if not isinstance(value, list):
        raise ValueError("it is not a list")
    if len(value) > _MAX_TRIGGERS:
        raise ValueError(f"it has more than {_MAX_TRIGGERS} triggers")
    try:
        return msgspec.convert(value, type=tuple[_Declared, ...])
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from error


def _lower_keys(value: object) -> object:
    if isinstance(value, dict):
        return {str(key).lower(): _lower_keys(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_lower_keys(item) for item in value]
    return value


def _is_paused(trigger: _Declared) -> bool:
    """Old documentation printed the text "false"; a text that is not understood pauses, since a rollout that nobody
    wanted is the worse surprise.
    """
    if isinstance(trigger.paused, str):
        return trigger.paused.strip().lower() not in {"false", "no", "0", ""}
    return bool(trigger.paused)


_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,251}[a-z0-9])?", re.ASCII)


def _istag(name: str, namespace: str) -> Istag | None:
    """The tag that "stream:tag" names ("stream:" means latest), or None where one of the words is no name."""
    stream, colon, tag = name.partition(":")
    istag = Istag(namespace, stream, tag or "latest")
    is_named = colon and _NAME.fullmatch(stream) and _NAME.fullmatch(namespace) and is_tag(istag.tag)
    return istag if is_named else None


_FIELD_PATH = re.compile(
    r"""(?P<list>containers|initContainers)\[(?:(?P<index>\+?[0-9]{1,4})|\?\(@\.name\s*==\s*(?P<quote>["'])(?P<name>[^"']+)(?P=quote)\))\]\.?image""",
    re.ASCII,
)


def _select(workload: Workload, field_path: str) -> Container | None:
    """The container that a fieldPath names. By index its list counts; by name it does not, and init containers come
    first, as `oc set triggers` relies on.
    """
    base = ".".join(workload.kind.pod_spec) + "."
    path = _FIELD_PATH.fullmatch(field_path.removeprefix(base)) if field_path.startswith(base) else None
    if path is None:
        return None
    if path["name"]:
        return next((container for container in workload.containers if container.name == path["name"]), None)
    return next(
        (
            container
            for container in workload.containers
            if (container.list_name, container.index) == (path["list"], int(path["index"]))
        ),
        None,
    )


def _read_follow(workload: Workload, text: str, found: list[Trigger], problems: list[str]) -> None:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if len(text) > _MAX_ANNOTATION or len(parts) > _MAX_TRIGGERS:
        problems.append(
            f"the annotation {FOLLOW_ANNOTATION} is ignored: it is longer than 64 KiB, or has more than "
            f"{_MAX_TRIGGERS} parts"
        )
        return
    for part in parts:
        name, equals, target = (word.strip() for word in part.partition("="))
        namespace, slash, rest = target.rpartition("/")
        istag = _istag(rest if ":" in rest else f"{rest}:latest", namespace if slash else workload.key.namespace)
        container = next((container for container in workload.containers if container.name == name), None)
        if not equals or not rest or istag is None:
            problems.append(f'{part[:120]!r} in {FOLLOW_ANNOTATION} is ignored; write "container=stream:tag"')
        elif container is None:
            problems.append(
                f"{FOLLOW_ANNOTATION} names the container {name[:63]!r}, which this {workload.kind.kind} does not have"
            )
        else:
            found.append(Trigger(container, istag, is_paused=False))


# --- the decision -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TriggerRules:
    """What an administrator decides about rollouts. An image that the policy refuses by now is not rolled out."""

    drift: Drift = Drift.RESPECT
    manifest_managers: frozenset[str] = MANIFEST_MANAGERS
    policy: Policy = field(default_factory=lambda: Policy(hosts={}))


@dataclass(frozen=True, slots=True)
class Roll:
    """The container gets the tag's image. `why` is one of "tag moved", "manifest applied again", "drift enforced"."""

    trigger: Trigger
    image: TagImage
    why: str


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """The container has the tag's image already: the event is noted as served, and nothing rolls."""

    trigger: Trigger
    image: TagImage


@dataclass(frozen=True, slots=True)
class Hold:
    """The image was changed by hand after the tag was served: it stays until the tag moves or the label is removed."""

    trigger: Trigger
    image: TagImage
    writer: str


@dataclass(frozen=True, slots=True)
class Unresolved:
    """The tag has no image, or it is not ours to see, or the policy refuses it; the container stays as it is."""

    trigger: Trigger
    why: str


Decision = Roll | Acknowledge | Hold | Unresolved


@dataclass(frozen=True, slots=True)
class RolloutPlan:
    """What a pass over one workload decided; containers that need nothing are not in it."""

    decisions: tuple[Decision, ...]
    problems: tuple[str, ...]

    @property
    def writes(self) -> tuple[Roll | Acknowledge, ...]:
        return tuple(decision for decision in self.decisions if isinstance(decision, Roll | Acknowledge))


def plan_rollout(workload: Workload, resolve: Callable[[Istag], TagImage | None], rules: TriggerRules) -> RolloutPlan:
    """Compare a workload with the tags that it follows.

    Args:
        workload: as it is in the cluster.
        resolve: what a tag has now, or None where it has nothing or must not be seen from the workload's namespace.
        rules: the administrator's.
    """
    triggers, problems = parse_triggers(workload)
    record = read_record(workload)
    decisions: list[Decision] = []
    for trigger in triggers:
        if trigger.is_paused:
            continue
        image = resolve(trigger.istag)
        if image is None:
            decision: Decision | None = Unresolved(trigger, "has no image, or this namespace may not pull it")
        elif refused := _refused(image, rules.policy):
            decision = Unresolved(trigger, refused)
        else:
            decision = _decide(workload, trigger, image, record, rules)
        if decision is not None:
            decisions.append(decision)
    return RolloutPlan(tuple(decisions), problems)


def _decide(
    workload: Workload, trigger: Trigger, image: TagImage, record: dict[str, Rollout], rules: TriggerRules
) -> Decision | None:
    container = trigger.container
    is_same = is_same_image(container.image, image)
    if served_event(workload, container, record) != image.event:
        return Acknowledge(trigger, image) if is_same else Roll(trigger, image, "tag moved")
    if is_same:
        return None
    if is_from_manifest(container, rules):
        return Roll(trigger, image, "manifest applied again")
    if rules.drift is Drift.ENFORCE:
        return Roll(trigger, image, "drift enforced")
    return Hold(trigger, image, (container.writers and container.writers[0].manager) or "somebody unknown")


def is_from_manifest(container: Container, rules: TriggerRules) -> bool:
    """Whether a manifest names the container's image; in doubt a hand does.

    Who changes a field becomes its one owner. Several own it only where all of them want what it holds: a manifest
    among them names the image, whoever wrote last.
    """
    return any(writer.operation == "Apply" or writer.manager in rules.manifest_managers for writer in container.writers)


def _refused(image: TagImage, policy: Policy) -> str | None:
    """Why the policy refuses the image, which was parsed and imported when it may have been another."""
    refused = refuse_image(policy, ImageReference.parse(image.pull_spec))
    return f"has {image.pull_spec}: {refused.message}" if refused else None


def is_same_image(current: str, wanted: TagImage) -> bool:
    """Whether a container has the image already: an equal digest under another pull spec (a mirror, the internal
    registry) never rolls by itself.
    """
    if current == wanted.pull_spec:
        return True
    if not wanted.digest:
        return False
    try:
        return ImageReference.parse(current).digest == wanted.digest
    except InvalidReference:
        return False


def served_event(workload: Workload, container: Container, record: Mapping[str, Rollout] | None = None) -> str:
    """The tag event that the container was last given, by the object's label and its `record` (which is read where it
    is not given); empty for none.

    A label that came with a copied manifest is no proof: its record is of another object.
    """
    rollout = (read_record(workload) if record is None else record).get(container.path)
    if rollout is not None and not rollout.is_of(workload):
        return ""
    return (workload.labels or {}).get(SERVED_LABEL + container.name, "")


# --- the record and the write -----------------------------------------------------------------------------------------


class Rollout(msgspec.Struct, frozen=True, omit_defaults=True):
    """One entry of the record: who was given what, when (RFC 3339, UTC) and why.

    It names the object by its uid; an entry that was written while the object was being created, and had none yet, by
    `name`, as namespace/name.
    """

    tag: str = ""
    image: str = ""
    uid: str = ""
    at: str = ""
    why: str = ""
    name: str = ""

    @classmethod
    def of(cls, write: Roll | Acknowledge, workload: Workload, now: datetime) -> Rollout:
        """The entry about a write."""
        why = write.why if isinstance(write, Roll) else "already there"
        image = write.image.pull_spec if isinstance(write, Roll) else write.trigger.container.image
        at = now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        name = "" if workload.uid else str(workload.key)
        return cls(str(write.trigger.istag), image, workload.uid, at, why, name)

    def is_of(self, workload: Workload) -> bool:
        """Whether the entry is about this object, and did not come with another's manifest."""
        return self.uid == workload.uid if self.uid else self.name == str(workload.key)


_decode_record = msgspec.json.Decoder(dict[str, Rollout])


def read_record(workload: Workload) -> dict[str, Rollout]:
    """The record by container path; empty where there is none or somebody broke it, which costs nothing: it is written
    anew at the next rollout.
    """
    text = workload.annotations.get(ROLLOUTS_ANNOTATION)
    try:
        return _decode_record.decode(text) if text else {}
    except UNREADABLE:
        return {}


def patch_of(workload: Workload, plan: RolloutPlan, now: datetime) -> bytes | None:
    """The one write of a pass: a JSON patch (RFC 6902) with the images, labels and record, or None where there is
    nothing to write.

    It tests all that the decision rests on (uid, what is followed, container names, old images, old record, old
    labels), so that it lands whole on the object that was read or not at all: the API server answers 422 when a test
    fails. Nobody's concurrent edit of another field is lost or refused.
    """
    writes = plan.writes
    if not writes:
        return None
    operations: list[dict[str, object]] = [_test("/metadata/uid", workload.uid)]
    for annotation in (TRIGGERS_ANNOTATION, FOLLOW_ANNOTATION):
        path = pointer("metadata", "annotations", annotation)
        operations.append(_test(path, workload.annotations.get(annotation)))
    for write in writes:
        container = write.trigger.container
        path = pointer(*workload.kind.pod_spec, container.list_name, str(container.index))
        operations += [_test(f"{path}/name", container.name), _test(f"{path}/image", container.image)]
        if isinstance(write, Roll):
            operations.append({"op": "replace", "path": f"{path}/image", "value": write.image.pull_spec})
    if workload.labels is None:
        operations += [_test("/metadata/labels", None), {"op": "add", "path": "/metadata/labels", "value": {}}]
    for write in writes:
        label = SERVED_LABEL + write.trigger.container.name
        path = pointer("metadata", "labels", label)
        operations += [
            _test(path, (workload.labels or {}).get(label)),
            {"op": "add", "path": path, "value": write.image.event},
        ]
    written = {SERVED_LABEL + write.trigger.container.name for write in writes}
    for label, value in disproved_labels(workload).items():
        if label not in written:
            path = pointer("metadata", "labels", label)
            operations += [_test(path, value), {"op": "remove", "path": path}]
    path = pointer("metadata", "annotations", ROLLOUTS_ANNOTATION)
    operations += [
        _test(path, workload.annotations.get(ROLLOUTS_ANNOTATION)),
        {"op": "add", "path": path, "value": _next_record(workload, writes, now)},
    ]
    return msgspec.json.encode(operations)


def _next_record(workload: Workload, writes: Iterable[Roll | Acknowledge], now: datetime) -> str:
    new = {write.trigger.container.path: Rollout.of(write, workload, now) for write in writes}
    return encode_record({**own_record(workload), **new})


def disproved_labels(workload: Workload) -> dict[str, str]:
    """Labels of ours that came with another object's manifest: they must go with its record, which alone tells so."""
    foreign = {path for path, rollout in read_record(workload).items() if not rollout.is_of(workload)}
    names = {SERVED_LABEL + container.name for container in workload.containers if container.path in foreign}
    return {label: value for label, value in (workload.labels or {}).items() if label in names}


def own_record(workload: Workload) -> dict[str, Rollout]:
    """What the record says of this object and of containers that it has; by uid, where the object has one."""
    paths = {container.path for container in workload.containers}
    uid, name = workload.uid, "" if workload.uid else str(workload.key)
    return {
        path: msgspec.structs.replace(rollout, uid=uid, name=name)
        for path, rollout in read_record(workload).items()
        if path in paths and rollout.is_of(workload)
    }


def encode_record(record: Mapping[str, Rollout]) -> str:
    """The annotation's text, always the same for the same record."""
    return msgspec.json.encode(record, order="sorted").decode()


def release_patch_of(workload: Workload) -> bytes | None:
    """A JSON patch that gives up our ownership of fields, or None where it is not needed.

    Our write takes the image's field from whoever applied it server-side, and that applier's next apply would then fail
    with a conflict. Dropping our own entry of managedFields lets both go on; the object's generation does not change.
    """
    entry = (FIELD_MANAGER, "Update", "")
    if not workload.is_applied or entry not in workload.manager_entries:
        return None
    path = f"/metadata/managedFields/{workload.manager_entries.index(entry)}"
    tests = [
        _test("/metadata/uid", workload.uid),
        _test(f"{path}/manager", FIELD_MANAGER),
        _test(f"{path}/operation", "Update"),
        _test(f"{path}/subresource", None),
    ]
    return msgspec.json.encode([*tests, {"op": "remove", "path": path}])


def _test(path: str, value: str | None) -> dict[str, object]:
    return {"op": "test", "path": path, "value": value}


def pointer(*keys: str) -> str:
    """The JSON pointer (RFC 6901) to what these keys lead to."""
    return "".join(f"/{key.replace('~', '~0').replace('/', '~1')}" for key in keys)
