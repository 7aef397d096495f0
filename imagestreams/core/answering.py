"""Import requests, answered: what to ask registries for a request, and what it is told.

    work    = work_of(request, stored, edit, ...)  # the stream as it will be, and where each image will be found in it
    asking  = Questions(work, secrets, ...)
    tickets = asking.first()                       # what to ask
    tickets = asking.after(answers)                # what to ask then, for all that arrives until it is late
    state   = merged(work, asking.answers, ...)    # what the answers make of the stream
    tickets = asking.left(state)                   # what to ask about images that only this shows
    status  = status_of(work, state, asking.answers, ...)

It is the stream *as it will be* that is imported, by the rules that every stream is imported by: so what the request
is answered with is what carrying it out will write. Images for which there is no tag (`spec.import: false`, or nothing
says which tag) are imported into a stream that only lives here.

A stream has thousands of tags and a request hundreds of images, whose answers come bit by bit: so each answer is looked
at once, by what its own question wanted, and the whole stream is merged once, when no more come.

A client in Go fails on a single wrong type in an answer, and `oc` on an image without `dockerImageMetadata`: both are
always as it expects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, NamedTuple

import msgspec

from imagestreams.core import stream as api
from imagestreams.core.following import Streams, no_streams
from imagestreams.core.image import LEFT_OUT_ANNOTATION, description_of
from imagestreams.core.imagestreamimport import (
    Edit,
    ImageStreamImport,
    Json,
    Refusal,
    Stored,
    edited,
    ensured,
    parsed,
    raw_tags,
    tag_of,
)
from imagestreams.core.importing import REPOSITORY, plan_import, tickets_of
from imagestreams.core.keychain import Entry
from imagestreams.core.lookup import (
    Answer,
    Deferred,
    Described,
    Failed,
    Listed,
    Outcome,
    Resolved,
    Source,
    Ticket,
)
from imagestreams.core.merging import Update, merge_status
from imagestreams.core.reference import DEFAULT_TAG, is_digest, is_tag
from imagestreams.core.stream import ImageStream, ObjectKey, StatusTag, TagEvent, TagReference
from imagestreams.core.wish import AskRegistry, ImportRules, ListRepository, Refuse, Wish, Wishes, repository_of

MAX_BYTES: Final = 1 << 20  # of a request with its answer; etcd takes 1.5 MiB
MAX_DESCRIBED: Final = 50  # tags of a repository; the others are only named

_MAX_MESSAGE = 1000  # characters
_SHORT_MESSAGE = 100
_MAX_KEPT = 2 << 20  # bytes of descriptions of one request in memory
_SUCCESS: Final = {"metadata": {}, "status": "Success"}

_OBJECT = msgspec.json.Decoder(Json)
_encode = msgspec.json.Encoder().encode


# --- what is to be asked ----------------------------------------------------------------------------------------------


class _Place(NamedTuple):
    """Where an image's answer will be: a tag of one of the two streams of a piece of work."""

    is_aside: bool
    tag: str


@dataclass(frozen=True, slots=True)
class Work:
    """A request in the making.

    Attributes:
        request: what is asked.
        raw: the stream as it will be; None where there is none, and none will be.
        stream: the same, read. It is imported into where the request says so.
        aside: a stream that holds what is only looked up.
        places: for each image where its answer will be, or why there is none.
        repository: where that of the repository will be, or why there is none.
        is_bare: nobody knows who asks; they are told of an image no more than its digest.
    """

    request: ImageStreamImport
    raw: Json | None
    stream: ImageStream | None
    aside: ImageStream
    places: tuple[_Place | Refusal, ...]
    repository: _Place | Refusal | None
    is_bare: bool

    def names(self, *, is_aside: bool) -> tuple[str, ...]:
        """The tags of one of the two streams that are to be asked for, each once, and REPOSITORY."""
        places = (*self.places, self.repository)
        here = (place for place in places if isinstance(place, _Place) and place.is_aside is is_aside)
        return tuple(dict.fromkeys(place.tag for place in here))


def work_of(
    request: ImageStreamImport,
    stored: Stored | None,
    edit: Edit,
    *,
    key: ObjectKey,
    api_version: str,
    is_bare: bool = False,
) -> Work:
    """What there is to be done for the request, if the stream is edited so.

    Args:
        request: what is asked.
        stored: the stream as it is.
        edit: of `edit_of` for these two.
        key: the stream that is meant.
        api_version: the group and version of ours.
        is_bare: nobody knows who asks.
    """
    raw: Json | None = None
    if stored is not None or (request.is_import and edit.is_change):
        raw = edited(edit, stored, key=key, api_version=api_version)
    present = {str(tag.get("name")): tag for tag in raw_tags(raw)} if raw else {}
    places: list[_Place | Refusal] = []
    aside: list[TagReference] = []
    for index, image in enumerate(request.images):
        target = edit.targets[index]
        if index in edit.refused:
            places.append(edit.refused[index])
        elif request.is_import and target:
            places.append(_Place(is_aside=False, tag=target))
        else:
            before = present.get(target) if image.explicit_target else None
            # No tag is called so: neither the stream's nor a repository's is hidden by it.
            tag = tag_of(ensured(before, "", image), name=f"#{index}", reference=False)
            aside.append(tag)
            places.append(_Place(is_aside=True, tag=tag.name))
    repository: _Place | Refusal | None = edit.repository_refused
    looked_up = ""
    if request.repository is not None and repository is None:
        repository = _Place(is_aside=not request.is_import, tag=REPOSITORY)
        looked_up = "" if request.is_import else request.repository.name
    is_insecure = request.repository is not None and request.repository.is_insecure
    return Work(
        request,
        raw,
        api.decode(_encode(raw)) if raw is not None else None,
        ImageStream(
            api.Metadata(
                name=key.name,
                namespace=key.namespace,
                annotations=api.Annotations(insecure_repository="true" if is_insecure else None),
            ),
            api.Spec(docker_image_repository=looked_up or None, tags=tuple(aside)),
        ),
        tuple(places),
        repository,
        is_bare,
    )


class Questions:
    """What is to be asked for a request: the images, or the repository and then the best of its tags; and, of each that
    is found, what it is. Nothing is asked twice.

    To find that costs what the request asks for, however large the stream is.

    Args:
        work: the request.
        secrets: what may be used for the stream.
        rules: the administrator's.
        now: aware.
        request: one word that no other request has: then nothing is answered by a look-up that began before it.

    Attributes:
        answers: all that have arrived, as they are kept; in the order of arrival.
    """

    def __init__(
        self, work: Work, secrets: Iterable[Entry], *, rules: ImportRules, now: datetime, request: str = ""
    ) -> None:
        self._work, self._secrets, self._rules, self._now, self._request = work, tuple(secrets), rules, now, request
        self._wishes: dict[str, AskRegistry | ListRepository] = {}  # of what is looked up, by tag
        self._described: set[str] = set()  # digests
        self.answers: list[Answer] = []

    def first(self) -> tuple[Ticket, ...]:
        """What is to be asked before anything is known."""
        work = self._work
        found: tuple[Ticket, ...] = ()
        if work.stream is not None and work.request.is_import:
            found = self._look_up(work.stream, work.names(is_aside=False))
        return (*found, *self._look_up(work.aside, work.names(is_aside=True)))

    def after(self, answers: Iterable[Answer]) -> tuple[Ticket, ...]:
        """What is to be asked once these answers have arrived, which are new."""
        found: list[Ticket] = []
        for answer in answers:
            self.answers.append(kept(answer, self._work))
            wish = self._wishes.get(answer.ticket.tag)
            match answer.outcome:
                case Listed() as listed if isinstance(wish, ListRepository):
                    found += self._look_up_listed(answer, listed)
                case Resolved(served=served) if isinstance(wish, AskRegistry):
                    found += self._describe(answer.ticket.uid, served.image, wish)
                case _:
                    pass
        return tuple(found)

    def left(self, state: Merged) -> tuple[Ticket, ...]:
        """What is to be asked about images that tags show instead of what was found, such as those that are pinned."""
        found: list[Ticket] = []
        for place in _all_places(self._work, state):
            side, event = state.side(place), state.result(place, "")
            wish = side.wishes.get(place.tag)
            if isinstance(wish, AskRegistry) and not isinstance(event, Refusal):
                found += self._describe(side.stream.metadata.uid, event.image or "", wish)
        return tuple(found)

    def _look_up_listed(self, answer: Answer, listed: Listed) -> tuple[Ticket, ...]:
        place, work = self._work.repository, self._work
        stream = work.aside if isinstance(place, _Place) and place.is_aside else work.stream
        assert stream is not None  # noqa: S101 - as `work_of` places them
        best, _ = _ranked(listed, stream)
        # The others would be planned, too.
        return self._look_up(stream, best, replace(answer, outcome=replace(listed, tags=best)))

    def _look_up(self, stream: ImageStream, names: Iterable[str], *listing: Answer) -> tuple[Ticket, ...]:
        """What the stream's own round would ask about these tags."""
        wanted, wishes = frozenset(names), Wishes()
        if not wanted:
            return ()
        few = _narrowed(stream, wanted)
        update = merge_status(few, listing, {}, now=self._now, rules=self._rules, wishes=wishes)
        plan = plan_import(
            update.stream, update.progress, now=self._now, rules=self._rules, hints=wanted, wishes=wishes
        )
        due = tuple(each for each in plan.due if each.tag in wanted)
        self._wishes |= {each.tag: each.wish for each in due}
        tickets, _ = tickets_of(few, replace(plan, due=due), self._secrets, self._rules)
        # Neither the stream's refresh request nor a poll is answered by this.
        return tuple(replace(ticket, request=self._request, slot=0) for ticket in tickets)

    def _describe(self, uid: str, digest: str, wish: AskRegistry) -> Iterable[Ticket]:
        """What to ask about an image that was found; the answer goes by its digest."""
        if self._work.is_bare or digest in self._described or not is_digest(digest):
            return
        self._described.add(digest)
        yield Ticket(uid, digest, wish.source, "", 0, description_of(digest, wish.places, self._secrets))


def _narrowed(stream: ImageStream, names: frozenset[str]) -> ImageStream:
    """The stream as if it had no other tags."""
    status = stream.status or api.Status()
    return msgspec.structs.replace(
        stream,
        spec=msgspec.structs.replace(
            stream.spec or api.Spec(), tags=tuple(tag for tag in stream.spec_tags if tag.name in names)
        ),
        status=msgspec.structs.replace(status, tags=tuple(tag for tag in status.tags or () if tag.tag in names)),
    )


def _ranked(listed: Listed, stream: ImageStream) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The tags of a repository that are asked for, the best first, and those that are only named. Those that spec has
    are spec's.
    """
    own = {tag.name for tag in stream.spec_tags}
    tags = tuple(tag for tag in dict.fromkeys(listed.tags) if is_tag(tag) and tag not in own)
    return tags[:MAX_DESCRIBED], tags[MAX_DESCRIBED:]


def _all_places(work: Work, state: Merged) -> Iterable[_Place]:
    yield from (place for place in work.places if isinstance(place, _Place))
    if isinstance(work.repository, _Place):
        for tag in state.side(work.repository).best:
            yield _Place(work.repository.is_aside, tag)


@dataclass(frozen=True, slots=True)
class _Side:
    """One of the two streams of a piece of work, with what the answers make of it.

    Attributes:
        update: what has been merged.
        wishes: what each of them, and of the repository's, wants.
        recorded: what the status says, by tag.
        repository: what is to be done for the repository; None where none is asked for.
        best: the tags of the repository that are asked for, the best first; `others` are only named.
    """

    update: Update
    wishes: Mapping[str, Wish | None]
    recorded: Mapping[str, StatusTag]
    repository: ListRepository | Refuse | None
    best: tuple[str, ...]
    others: tuple[str, ...]

    @property
    def stream(self) -> ImageStream:
        return self.update.stream


@dataclass(frozen=True, slots=True)
class Merged:
    """What the answers make of the stream as it will be (None where nothing is imported into it), and of what is only
    looked up; `at` is when (aware).
    """

    imported: _Side | None
    aside: _Side
    outcomes: Mapping[tuple[str, Source], Outcome]
    at: datetime

    @property
    def update(self) -> Update | None:
        """What the next round of the stream will write."""
        return self.imported.update if self.imported else None

    def side(self, place: _Place) -> _Side:
        side = self.aside if place.is_aside else self.imported
        assert side is not None  # noqa: S101 - as `work_of` places them
        return side

    def result(self, place: _Place | Refusal, late: str) -> Refusal | TagEvent:
        """What became of an image: the tag event that its tag has now, or why it is not imported. `late` is what to say
        of it where there is no answer.
        """
        if isinstance(place, Refusal):
            return place
        side = self.side(place)
        wish, recorded = side.wishes.get(place.tag), side.recorded.get(place.tag)
        said = recorded.outcome if recorded and wish and recorded.observed_at(wish.source) else None
        if side.stream.is_suspended:
            return _suspended()
        if isinstance(wish, AskRegistry):
            match self.outcomes.get((place.tag, wish.source)):
                case None:
                    return Refusal("Timeout", late, 504)
                case Deferred(why=why):
                    return _refusal("RateLimited", why)
                case Failed(reason=reason, message=message) if said is None:
                    return _refusal(reason, message)
                case _:
                    pass  # the status says what became of it
        if recorded is None or said is None:
            return _refusal("StatusTooLarge", "the image stream has no room for it; remove tags or split the stream")
        if said.status != "True" or recorded.newest is None:
            return _refusal(said.reason or "", said.message or "unknown error prevented import")
        return recorded.newest

    def listing(self, place: _Place, late: str) -> Refusal | None:
        """Why the tags of the repository are not known."""
        side = self.side(place)
        if side.stream.is_suspended:
            return _suspended()
        if not isinstance(side.repository, ListRepository):
            wish = side.repository
            return _refusal(wish.reason, wish.message) if wish else _refusal("Invalid", "no repository is named")
        match self.outcomes.get((REPOSITORY, side.repository.source)):
            case Listed():
                return None
            case Failed(reason=reason, message=message):
                return _refusal(reason, message)
            case Deferred(why=why):
                return _refusal("RateLimited", why)
            case _:
                return Refusal("Timeout", late, 504)


def merged(
    work: Work, answers: Iterable[Answer], *, rules: ImportRules, now: datetime, streams: Streams = no_streams
) -> Merged:
    """What the answers make of the stream.

    Tags that follow other namespaces' streams stay as they are: whether they may be followed is asked for in the
    stream's own round.
    """
    arrived = tuple(answers)
    merging = _Merging(work, arrived, rules, now)
    imported = None
    if work.stream is not None and work.request.is_import:
        imported = merging.side(work.stream, streams, is_aside=False)
    outcomes = {(answer.ticket.tag, answer.ticket.source): answer.outcome for answer in arrived}
    return Merged(imported, merging.side(work.aside, no_streams, is_aside=True), outcomes, now)


class _Merging:
    """One merge of all that has arrived."""

    def __init__(self, work: Work, answers: tuple[Answer, ...], rules: ImportRules, now: datetime) -> None:
        self._work, self._answers, self._rules, self._now = work, answers, rules, now

    def side(self, stream: ImageStream, streams: Streams, *, is_aside: bool) -> _Side:
        names, known = self._work.names(is_aside=is_aside), Wishes()
        wishes: dict[str, Wish | None] = dict(known.of(stream, self._rules))
        repository = repository_of(stream, self._rules) if REPOSITORY in names else None
        best: tuple[str, ...] = ()
        others: tuple[str, ...] = ()
        if isinstance(repository, ListRepository) and (listed := self._listed(repository.source)):
            best, others = _ranked(listed, stream)
            wishes |= {tag: repository.tag(tag, self._rules.import_mode) for tag in best}
        update = self._merged(stream, streams, frozenset((*names, *best)), known)
        status = update.stream.status or api.Status()
        recorded = {tag.tag: tag for tag in status.tags or ()}
        return _Side(update, wishes, recorded, repository, best, others)

    def _listed(self, source: Source) -> Listed | None:
        for answer in self._answers:
            ticket, outcome = answer.ticket, answer.outcome
            if isinstance(outcome, Listed) and (ticket.tag, ticket.source) == (REPOSITORY, source):
                return outcome
        return None

    def _merged(self, stream: ImageStream, streams: Streams, names: frozenset[str], wishes: Wishes) -> Update:
        taken = [answer for answer in self._answers if answer.ticket.tag in names]
        unasked: frozenset[ObjectKey] = frozenset()
        while True:
            update = merge_status(
                stream, taken, {}, now=self._now, rules=self._rules, streams=streams, unasked=unasked, wishes=wishes
            )
            if update.rights <= unasked:
                return update
            unasked |= update.rights


def kept(answer: Answer, work: Work) -> Answer:
    """The answer as it is kept until the request is answered: what is known of an image shrinks where there are many,
    so that a request does not fill the memory.
    """
    outcome = answer.outcome
    count = len(work.places) + (MAX_DESCRIBED if work.repository is not None else 0)
    limit = max(8 << 10, _MAX_KEPT // max(1, count))
    if not isinstance(outcome, Described) or len(outcome.body) <= limit:
        return answer
    image = _OBJECT.decode(outcome.body)
    for step in _STEPS:
        step(image)
        if len(_encode(image)) <= limit:
            break
    return replace(answer, outcome=Described(_encode(image)))


# --- the answer -------------------------------------------------------------------------------------------------------

_CODES: Final[Mapping[str, tuple[str, int]]] = {
    **dict.fromkeys(("Forbidden", "Blocked", "NotAllowed", "Refused"), ("Forbidden", 403)),
    **dict.fromkeys(
        ("InvalidImageReference", "InvalidPlatform", "InvalidSource", "NotAnImage", "Invalid"), ("Invalid", 422)
    ),
    "NotFound": ("NotFound", 404),
    "Unauthorized": ("Unauthorized", 401),
    "Timeout": ("Timeout", 504),
    "RateLimited": ("TooManyRequests", 429),
    **{reason: (reason, 503) for reason in ("Unavailable", "Unreachable", "DNS", "TLS")},
}
_NOBODYS = frozenset({"NotFound", "Invalid"})
"""Reasons that do not make the import of a repository fail: beside its images it has signatures and the like."""

_MINIMUM: Final = {"kind": "DockerImage", "apiVersion": "image.openshift.io/1.0"}


def _refusal(reason: str, message: str) -> Refusal:
    word, code = _CODES.get(reason, (reason or "InternalError", 500))
    return Refusal(word, message, code)


def status_of(work: Work, state: Merged, answers: Iterable[Answer], *, late: str, room: int = MAX_BYTES) -> Json:
    """The request's `status`, whatever has arrived.

    It has an entry for each image, in the order asked. An image that was found and not described in time is there with
    its digest alone.

    Args:
        work: the request.
        state: what the answers make of the stream.
        answers: all that have arrived; those that describe images may be younger than `state`.
        late: what to say of an image for which there is no answer.
        room: bytes; what has to give way so that the status is not larger are configurations of images first, the
            largest before the others, then layers; never what became of an image.
    """
    telling = _Telling(
        state, late, {each.ticket.tag: each.outcome.body for each in answers if isinstance(each.outcome, Described)}
    )
    status: Json = {}
    if work.places:
        status["images"] = [
            telling.image(place, _source_tag(image.name))
            for place, image in zip(work.places, work.request.images, strict=True)
        ]
    if work.repository is not None:
        status["repository"] = telling.repository(work.repository)
    if work.request.is_import and work.raw is not None and not work.is_bare:
        status["import"] = _imported_stream(work.raw, work.stream, state)
    status["summary"] = _summary(status)
    return _fitted(status, room)


@dataclass(frozen=True, slots=True)
class _Telling:
    """What is told of images; `described` are their objects, by digest."""

    state: Merged
    late: str
    described: Mapping[str, bytes]

    def image(self, place: _Place | Refusal, tag: str) -> Json:
        result = self.state.result(place, self.late)
        entry: Json
        if isinstance(result, Refusal):
            entry = {"status": _failure(result)}
        else:
            entry = {"status": dict(_SUCCESS), "image": _image(result, self.described.get(result.image or ""))}
        return entry | ({"tag": tag} if tag else {})

    def repository(self, place: _Place | Refusal) -> Json:
        refusal = place if isinstance(place, Refusal) else self.state.listing(place, self.late)
        if isinstance(place, Refusal) or refusal is not None:
            return {"status": _failure(refusal or _suspended())}
        side = self.state.side(place)
        images = [self.image(_Place(place.is_aside, tag), tag) for tag in side.best]
        failed = sum(each["status"].get("reason") not in {None, *_NOBODYS} for each in images)
        status = dict(_SUCCESS)
        if failed:
            count = "one" if failed == 1 else str(failed)
            words = f"{count} of the images from this repository failed to import"
            status = _failure(Refusal("ImportFailed", words, 500))
        entry: Json = {"status": status, "images": images}
        return entry | ({"additionalTags": list(side.others)} if side.others else {})


def _suspended() -> Refusal:
    words = f"imports of the image stream are suspended; remove its annotation {api.SUSPEND_ANNOTATION}"
    return Refusal("Suspended", words, 503)


def _source_tag(name: str) -> str:
    """The tag that an image is asked for by, as OpenShift tells it; empty for a digest."""
    reference = parsed(name)
    return "" if reference is None or reference.digest or not reference.name else reference.tag or DEFAULT_TAG


def _failure(refusal: Refusal) -> Json:
    text = refusal.message if len(refusal.message) <= _MAX_MESSAGE else f"{refusal.message[: _MAX_MESSAGE - 3]}..."
    return {
        "metadata": {},
        "status": "Failure",
        "message": text,
        "reason": refusal.reason,
        "code": refusal.code,
    }


def _image(event: TagEvent, described: bytes | None) -> Json:
    """The Image as a client of OpenShift expects it: by its true digest, with metadata and, in these, a config, without
    which `oc debug` ends in a panic.
    """
    digest = event.image or ""
    image: Json = _OBJECT.decode(described) if described is not None else {}
    image.pop("digest", None)
    metadata = {**image.get("metadata", {}), "name": digest}
    inner = image.get("dockerImageMetadata") or {**_MINIMUM, "Id": digest}
    inner.setdefault("Config", {})
    return {
        **image,
        "metadata": metadata,
        "dockerImageReference": event.docker_image_reference,
        "dockerImageMetadata": inner,
        "dockerImageMetadataVersion": "1.0",
    }


def _imported_stream(raw: Json, stream: ImageStream | None, state: Merged) -> Json:
    """The stream with the status that its next round will write."""
    whole = {**raw, "metadata": {name: each for name, each in raw["metadata"].items() if name != "managedFields"}}
    whole["metadata"].setdefault("creationTimestamp", _moment(state.at))
    if stream is not None and state.update is not None and state.update.stream.status is not None:
        patch = _OBJECT.decode(api.encode_status_patch(stream, state.update.stream.status))["status"]
        whole["status"] = _patched(raw.get("status"), patch)
    return whole


def _patched(target: object, patch: object) -> Any:
    """RFC 7396."""
    if not isinstance(patch, dict):
        return patch
    found = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        found[name] = _patched(found.get(name), value)
    return {name: value for name, value in found.items() if value is not None}


def _moment(now: datetime) -> str:
    return api.whole_seconds(now).isoformat().replace("+00:00", "Z")


def _summary(status: Json) -> Json:
    """Scalars for `kubectl get`: a printer column prints the first of a list."""
    repository = status.get("repository", {})
    whole = [*status.get("images", ()), *([repository] if repository else [])]
    found = sum(entry["status"]["status"] == "Success" for entry in whole)
    images = [*status.get("images", ()), *repository.get("images", ())]
    good = sum(entry["status"]["status"] == "Success" for entry in images)
    result = "Success" if found == len(whole) else "Partial" if good else "Failure"
    return {"result": result, "images": f"{good}/{len(images)}"}


# --- so that it fits --------------------------------------------------------------------------------------------------


def _drop_config(image: Json) -> None:
    metadata = image.get("dockerImageMetadata") or {}
    if metadata.pop("ContainerConfig", None):
        _leave_out(image, "ContainerConfig")
    if metadata.get("Config"):
        metadata["Config"] = {}
        _leave_out(image, "Config")


def _drop_layers(image: Json) -> None:
    if image.pop("dockerImageLayers", None):
        _leave_out(image, "dockerImageLayers")


def _drop_manifests(image: Json) -> None:
    if image.pop("dockerImageManifests", None):
        _leave_out(image, "dockerImageManifests")


def _drop_texts(image: Json) -> None:
    """All of the metadata that is not as small as it is bound to be."""
    metadata = image.get("dockerImageMetadata") or {}
    kept_ = {name: metadata[name] for name in (*_MINIMUM, "Id", "Created", "Size", "Config") if name in metadata}
    if kept_ != metadata:
        image["dockerImageMetadata"] = kept_
        _leave_out(image, "dockerImageMetadata")


_STEPS: Final = (_drop_config, _drop_layers, _drop_manifests, _drop_texts)


def _leave_out(image: Json, path: str) -> None:
    """Say so, as `core.image` does."""
    metadata = image.setdefault("metadata", {})
    annotations = metadata["annotations"] = dict(metadata.get("annotations") or {})
    said = annotations.get(LEFT_OUT_ANNOTATION)
    annotations[LEFT_OUT_ANNOTATION] = f"{said}, {path}: too large" if said else f"{path}: too large"


def _fitted(status: Json, room: int) -> Json:
    """The status with as little left out as must be."""
    size = len(_encode(status))
    if size <= room:
        return status
    stream = len(_encode(status["import"])) if "import" in status else 0
    if stream > room // 2:
        size -= stream
        del status["import"]
    entries = [*status.get("images", ()), *status.get("repository", {}).get("images", ())]
    images = [entry["image"] for entry in entries if "image" in entry]
    for drop in _STEPS:
        size = _dropped(images, drop, size, room)
    if size > room:
        status.pop("import", None)
        for entry in (*entries, status.get("repository", {"status": {}})):
            message = entry["status"].get("message", "")
            if len(message) > _SHORT_MESSAGE:
                entry["status"]["message"] = f"{message[: _SHORT_MESSAGE - 3]}..."
    if len(_encode(status)) > room and "repository" in status:
        status["repository"].pop("additionalTags", None)
    return status


def _dropped(images: list[Json], drop: Callable[[Json], None], size: int, room: int) -> int:
    """Drop something of one image after the other, the largest first, until the rest fits; returns the new size."""
    for before, image in sorted(((len(_encode(image)), image) for image in images), key=lambda each: -each[0]):
        if size <= room:
            break
        drop(image)
        size -= before - len(_encode(image))
    return size
