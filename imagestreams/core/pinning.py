"""Pinning, decided: what a workload that follows tags is stored with, when it is created or changed.

The decisions are those of `core.trigger`, taken on the object that is about to be stored, so that a manifest whose
image is a placeholder rolls out once, with the tag's image, and not a second time when the controller has seen it.
Afterwards the controller has nothing to do.

- At creation nothing was served yet. Labels and a record that the manifest brought along are of another object, or of
  an earlier one of that name: they are replaced or removed.
- In an update a manifest that names an image again gets back what the container had; a hand's image is kept.
- A container that begins to follow a tag, or whose label was removed to make it follow again, gets the tag's image.

**A tag's move is left to the controller.** What a container was served is never exchanged here for another image of the
tag: which of the two is the newer, the controller knows best, since our watch may lag behind its writes.

What is not known (a tag without image, no right to pull it, an object that cannot be read) is left as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, NamedTuple, assert_never

import msgspec

from imagestreams.core.admission import Allowed, Review
from imagestreams.core.stream import Istag, MalformedObject, ObjectKey, TagImage
from imagestreams.core.trigger import (
    KINDS,
    ROLLOUTS_ANNOTATION,
    SERVED_LABEL,
    Acknowledge,
    Container,
    Hold,
    Roll,
    Rollout,
    Trigger,
    TriggerRules,
    Unresolved,
    Workload,
    WorkloadKind,
    decode_workload,
    disproved_labels,
    encode_record,
    is_from_manifest,
    is_same_image,
    own_record,
    parse_triggers,
    plan_rollout,
    pointer,
    served_event,
)

MAX_FOREIGN: Final = 16
"""Streams of other namespaces for which the right to pull is asked in one review; to the others the controller sees."""

_KINDS: Final[Mapping[tuple[str, str], WorkloadKind]] = {(kind.api_version, kind.resource): kind for kind in KINDS}

Resolve = Callable[[Istag], TagImage | None]


@dataclass(frozen=True, slots=True)
class Question:
    """A workload that follows tags and is about to be stored; `before` is what it was, None at its creation."""

    workload: Workload
    before: Workload | None

    @property
    def foreign(self) -> tuple[ObjectKey, ...]:
        """The streams of other namespaces that it follows, each once; at most `MAX_FOREIGN`."""
        keys = (trigger.istag.key for trigger in _followed(self.workload))
        return tuple(dict.fromkeys(key for key in keys if key.namespace != self.workload.key.namespace))[:MAX_FOREIGN]


def question_of(review: Review, *, excluded: frozenset[str]) -> Question | None:
    """What there is to decide, or None where nothing is.

    Args:
        review: of any object.
        excluded: namespaces in which nothing is changed.
    """
    kind = _KINDS.get((f"{review.group}/{review.version}", review.resource))
    if kind is None or review.subresource or review.operation not in {"CREATE", "UPDATE"}:
        return None
    if review.namespace in excluded:
        return None
    is_new = review.operation == "CREATE"
    try:
        workload = _placed(decode_workload(kind, review.object), review)
        before = None if is_new else _placed(decode_workload(kind, review.old), review)
    except MalformedObject:
        return None
    if workload.is_controlled or not _followed(workload):
        return None
    return Question(replace(workload, uid="") if is_new else workload, before)  # a manifest may bring a uid along


def _placed(workload: Workload, review: Review) -> Workload:
    return replace(workload, key=ObjectKey(review.namespace, workload.key.name))


def _followed(workload: Workload) -> tuple[Trigger, ...]:
    return tuple(trigger for trigger in parse_triggers(workload).triggers if not trigger.is_paused)


def pin(question: Question, resolve: Resolve, rules: TriggerRules, now: datetime) -> Allowed:
    """What the object is to be stored with.

    Asked again about its own answer it adds nothing; API servers may ask again.

    Args:
        question: see `question_of`.
        resolve: what a tag has now, or None where it has nothing or must not be seen from the workload's namespace.
        rules: the administrator's.
        now: aware.
    """
    if question.before is None:
        return _at_creation(question.workload, resolve, rules, now)
    return _in_update(question.workload, question.before, resolve, rules, now)


class _Settled(NamedTuple):
    """What a container is stored with, and the record's entry about it."""

    container: Container
    image: str
    event: str
    rollout: Rollout


def _at_creation(workload: Workload, resolve: Resolve, rules: TriggerRules, now: datetime) -> Allowed:
    labels = {label: text for label, text in (workload.labels or {}).items() if not label.startswith(SERVED_LABEL)}
    writes = plan_rollout(replace(workload, labels=labels), resolve, rules).writes
    known = own_record(workload)
    settled = tuple(_begun(write, workload, known, now) for write in writes)
    # An entry names the object by its name, which the API server may have still to make.
    entries = _entries(settled) if workload.key.name else {}
    return Allowed(_operations(workload, settled, labels, encode_record(entries) if entries else None))


def _begun(write: Roll | Acknowledge, workload: Workload, known: Mapping[str, Rollout], now: datetime) -> _Settled:
    container = write.trigger.container
    image = write.image.pull_spec if isinstance(write, Roll) else container.image
    rollout = known.get(container.path)
    if rollout is None or (rollout.tag, rollout.image) != (str(write.trigger.istag), image):
        rollout = Rollout.of(replace(write, why="created") if isinstance(write, Roll) else write, workload, now)
    return _Settled(container, image, write.image.event, rollout)


def _entries(settled: Iterable[_Settled]) -> dict[str, Rollout]:
    return {each.container.path: each.rollout for each in settled}


def _in_update(workload: Workload, before: Workload, resolve: Resolve, rules: TriggerRules, now: datetime) -> Allowed:
    settled: list[_Settled] = []
    warnings: list[str] = []
    for decision in plan_rollout(workload, resolve, rules).decisions:
        match decision:
            case Roll() | Acknowledge():
                found = _settle(decision, workload, before, rules, now)
                settled += found
                if found and isinstance(decision, Roll) and decision.why == "drift enforced":
                    warnings.append(_set_back(decision))
            case Hold(trigger=trigger) if _image_of(before, trigger.container) != trigger.container.image:
                warnings.append(_held(decision))
            case Hold() | Unresolved():
                pass
            case _:
                assert_never(decision)
    record = own_record(workload)
    entries = {**record, **_entries(settled)}
    labels, text = workload.labels or {}, workload.annotations.get(ROLLOUTS_ANNOTATION)
    if entries != record:
        disproved = disproved_labels(workload)
        labels, text = {label: labels[label] for label in labels if label not in disproved}, encode_record(entries)
    return Allowed(_operations(workload, settled, labels, text), tuple(warnings))


class _Past(NamedTuple):
    """By which event of its tag a container was served last, what it had then, and the record's entry about it."""

    event: str
    image: str
    rollout: Rollout | None


def _settle(
    write: Roll | Acknowledge, workload: Workload, before: Workload, rules: TriggerRules, now: datetime
) -> tuple[_Settled, ...]:
    """What becomes of a container that the plan would write; nothing where that is the controller's to do."""
    container, event = write.trigger.container, write.image.event
    image = write.image.pull_spec if isinstance(write, Roll) else container.image
    if _is_served_by_request(workload, before, container, rules):
        return ()
    new = _Settled(container, image, event, Rollout.of(write, workload, now))
    past = _past(before, write.trigger)
    if past is None:
        return (new,)
    if past.event == event and isinstance(write, Roll) and not is_same_image(past.image, write.image):
        return (new,)  # until now a hand's image was held
    if past.event == event and isinstance(write, Acknowledge):
        return (_kept(new, past, image),)
    if past.event == event or (container.image != past.image and is_from_manifest(container, rules)):
        return (_kept(new, past, past.image),)
    return ()


def _is_served_by_request(workload: Workload, before: Workload, container: Container, rules: TriggerRules) -> bool:
    """Whether the request itself says what the container is served, as the controller's own do; not so a manifest that
    once was exported with a label of ours, and names an image again.
    """
    said = served_event(workload, container)
    if not said or said == (before.labels or {}).get(SERVED_LABEL + container.name):
        return False
    return _image_of(before, container) == container.image or not is_from_manifest(container, rules)


def _kept(new: _Settled, past: _Past, image: str) -> _Settled:
    rollout = past.rollout or msgspec.structs.replace(new.rollout, image=image)
    return _Settled(new.container, image, past.event, rollout)


def _past(before: Workload, trigger: Trigger) -> _Past | None:
    """What the container was served of the tag that it follows now; None where it was nothing, or followed another."""
    followed = (each for each in _followed(before) if each.container.path == trigger.container.path)
    same = next((each for each in followed if each.istag == trigger.istag), None)
    if same is None or not (event := served_event(before, same.container)):
        return None
    return _Past(event, same.container.image, own_record(before).get(same.container.path))


def _image_of(workload: Workload, container: Container) -> str | None:
    return next((each.image for each in workload.containers if each.path == container.path), None)


def _held(hold: Hold) -> str:
    container = hold.trigger.container
    return (
        f"container {container.name} follows {hold.trigger.istag}, but keeps this image until the tag moves, or the "
        f"label {SERVED_LABEL}{container.name} is removed"
    )


def _set_back(roll: Roll) -> str:
    return f"container {roll.trigger.container.name} follows {roll.trigger.istag}: its image was set back to the tag's"


def _operations(
    workload: Workload, settled: Iterable[_Settled], labels: Mapping[str, str], record: str | None
) -> tuple[dict[str, object], ...]:
    """The JSON patch that brings the object there: to these images, these `labels` and the events of what is settled,
    and this record.

    It holds nothing that could fail on the object that was sent: an API server refuses the whole write then, whatever
    the failurePolicy.
    """
    operations: list[dict[str, object]] = []
    wanted = {**labels}
    for container, image, event, _ in settled:
        wanted[SERVED_LABEL + container.name] = event
        if image != container.image:
            path = pointer(*workload.kind.pod_spec, container.list_name, str(container.index), "image")
            operations.append({"op": "add", "path": path, "value": image})
    if workload.labels is None:
        if wanted:
            operations.append({"op": "add", "path": "/metadata/labels", "value": wanted})
    else:
        for label in sorted(workload.labels.keys() | wanted.keys()):
            path = pointer("metadata", "labels", label)
            if label not in wanted:
                operations.append({"op": "remove", "path": path})
            elif workload.labels.get(label) != wanted[label]:
                operations.append({"op": "add", "path": path, "value": wanted[label]})
    path = pointer("metadata", "annotations", ROLLOUTS_ANNOTATION)
    if record is not None and record != workload.annotations.get(ROLLOUTS_ANNOTATION):
        operations.append({"op": "add", "path": path, "value": record})
    elif record is None and ROLLOUTS_ANNOTATION in workload.annotations:
        operations.append({"op": "remove", "path": path})
    return tuple(operations)
