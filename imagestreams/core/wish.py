"""What a stream asks for: the rules of an installation, what each tag wants, and the requests in annotations.

A tag is wanted by spec, or by the repository that spec names (`spec.dockerImageRepository`), all of whose tags are
wanted as if spec had them. Those are known by what status says that they were imported from, so that they need no
memory beyond it; see `core.merging` for how they come there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from types import MappingProxyType

from imagestreams.core import stream as api
from imagestreams.core.duration import parse_duration, show_duration
from imagestreams.core.lookup import ImportMode, Source
from imagestreams.core.manifest import Platform
from imagestreams.core.policy import Place, Policy, Refused, places_for
from imagestreams.core.reference import ImageReference, InvalidReference, is_tag, quoted
from imagestreams.core.stream import ImageStream, Istag, ObjectKey, StatusTag, TagReference, followed_tag, is_stream


@dataclass(frozen=True, slots=True)
class ImportRules:
    """What an administrator decides about importing; see `imagestreams.settings` for the meaning and the defaults."""

    policy: Policy = field(default_factory=lambda: Policy(hosts={}))
    import_mode: ImportMode = ImportMode.PRESERVE_ORIGINAL
    legacy_platform: Platform | None = None
    interval: timedelta = timedelta(minutes=15)
    min_interval: timedelta = timedelta(minutes=1)
    refresh_floor: timedelta = timedelta(seconds=1)
    retry_base: timedelta = timedelta(seconds=10)
    retry_cap: timedelta = timedelta(minutes=15)
    flap_window: timedelta = timedelta(hours=1)
    history_limit: int = 10
    status_budget: int = 1 << 20
    repository_tags: int = 1000


# --- what a tag wants -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AskRegistry:
    """The tag is looked up. `reference` is the image as the user names it, `places` where it is asked for, in order.

    Of a repository's tags there may be thousands, which share the repository's reference and places: there `tag` is
    what is still to be put in, else it is empty.
    """

    source: Source
    reference: ImageReference
    places: tuple[Place, ...]
    tag: str = ""

    @property
    def recorded_names(self) -> tuple[ImageReference, ...]:
        """The names under which the image may be recorded."""
        return tuple(place.recorded for place in self.places)


@dataclass(frozen=True, slots=True)
class ListRepository:
    """The tags of a repository are listed. `reference` and `places` name the repository alone."""

    source: Source
    reference: ImageReference
    places: tuple[Place, ...]

    def tag(self, name: str, mode: ImportMode) -> AskRegistry:
        """What one of its tags wants."""
        source = Source("DockerImage", f"{self.source.name}:{name}", mode=mode, insecure=self.source.insecure)
        return AskRegistry(source, self.reference, self.places, name)


@dataclass(frozen=True, slots=True)
class FollowTag:
    """The tag has what another tag has, of its own stream or of another."""

    source: Source
    followed: Istag
    is_own: bool


@dataclass(frozen=True, slots=True)
class FindImage:
    """The tag has an image from the history of a stream; `id` is its digest, or the begin of one."""

    source: Source
    stream: ObjectKey
    id: str


@dataclass(frozen=True, slots=True)
class RecordReference:
    """The pull spec itself is recorded, unasked (`reference: true`)."""

    source: Source
    pull_spec: str


@dataclass(frozen=True, slots=True)
class Refuse:
    """It cannot be imported as it stands; a change of the spec or of the settings is needed."""

    source: Source
    reason: str
    message: str


Wish = AskRegistry | FollowTag | FindImage | RecordReference | Refuse

_IMAGE_ID = re.compile(r"(?:sha(?:256|384|512):)?[0-9a-f]+")


def wish_of(stream: ImageStream, tag: TagReference, rules: ImportRules) -> Wish | None:
    """What is to be done for a spec tag, or None for one without a source: such a tag is fed by pushes only."""
    source = tag.source(stream.metadata.namespace, rules.import_mode)
    if source is None:
        return None
    match source.kind:
        case "DockerImage" if tag.unknown_mode:
            words = f"importPolicy.importMode {quoted(tag.unknown_mode)} is neither Legacy nor PreserveOriginal"
            return Refuse(source, "InvalidSource", words)
        case "DockerImage":
            return _wish_for_image(source, rules.policy)
        case "ImageStreamTag":
            followed = followed_tag(tag, stream.key)
            words = f"{quoted(source.name)} is no ImageStreamTag; write TAG (stable) or STREAM:TAG (app:stable)"
            if followed is None:
                return Refuse(source, "InvalidSource", words)
            return FollowTag(source, followed, is_own=followed.key == stream.key)
        case "ImageStreamImage":
            return _wish_for_id(source, stream.key)
        case _:
            return Refuse(
                source,
                "InvalidSource",
                f"from.kind {quoted(source.kind)} is none of DockerImage, ImageStreamTag and ImageStreamImage",
            )


def _wish_for_image(source: Source, policy: Policy) -> Wish:
    try:
        reference = ImageReference.parse(source.name)
    except InvalidReference as error:
        return Refuse(source, "InvalidImageReference", str(error))
    if not reference.name:
        return Refuse(
            source,
            "InvalidImageReference",
            f"{quoted(source.name)} names a registry, not an image; add a repository, as in {source.name}/app:tag",
        )
    if source.reference:
        return RecordReference(source, source.name)
    try:
        _ = source.platform and Platform.parse(source.platform)
    except ValueError as error:
        return Refuse(source, "InvalidPlatform", str(error))
    places = places_for(policy, reference, insecure=source.insecure)
    if isinstance(places, Refused):
        return Refuse(source, places.reason, places.message)
    return AskRegistry(source, reference, places)


def _wish_for_id(source: Source, key: ObjectKey) -> Wish:
    owner, at, image = source.name.rpartition("@")
    if _IMAGE_ID.fullmatch(image) is None or (at and not is_stream(owner)):
        words = "write DIGEST (sha256:..., or the begin of its hexadecimal digits) or STREAM@DIGEST"
        return Refuse(source, "InvalidSource", f"{quoted(source.name)} is no ImageStreamImage; {words}")
    return FindImage(source, ObjectKey(source.namespace or key.namespace, owner or key.name), image)


# --- what a stream wants ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Wanted:
    """All that a stream asks for.

    `tags` are those of spec, in its order, then those of its repository, which are `virtual`; `repository` is None
    where spec names none.
    """

    tags: Mapping[str, Wish | None]
    repository: ListRepository | Refuse | None = None
    virtual: frozenset[str] = frozenset()


class Wishes:
    """What the tags of one stream's spec want, remembered for as long as nothing changes that it depends on: a wish is
    worth more than all else of an idle round. Holds what the present spec has, and no more.
    """

    def __init__(self) -> None:
        self._basis: tuple[ObjectKey, Policy, ImportMode] | None = None
        self._spec: api.Spec | None = None
        self._known: dict[TagReference, Wish | None] = {}
        self._by_name: Mapping[str, Wish | None] = {}

    def of(self, stream: ImageStream, rules: ImportRules) -> Mapping[str, Wish | None]:
        """By tag, in the order of spec."""
        basis, before = (stream.key, rules.policy, rules.import_mode), self._basis
        # Rules are replaced, not changed. To compare them could take as long as to begin anew.
        is_same = before is not None and before[1] is rules.policy and before == basis
        if not is_same or stream.spec is not self._spec:
            known = self._known if is_same else {}
            self._known = {tag: known[tag] if tag in known else wish_of(stream, tag, rules) for tag in stream.spec_tags}
            self._by_name = MappingProxyType({tag.name: wish for tag, wish in self._known.items()})
            self._basis, self._spec = basis, stream.spec
        return self._by_name


def wanted_of(
    stream: ImageStream,
    rules: ImportRules,
    repository: ListRepository | Refuse | None = None,
    recorded: Mapping[str, StatusTag] = MappingProxyType({}),
    listed: Iterable[str] = (),
    *,
    wishes: Wishes | None = None,
) -> Wanted:
    """What the stream asks for.

    A tag that spec names is spec's, also where the repository has one of that name.

    Args:
        stream: its spec counts.
        rules: the administrator's.
        repository: what `repository_of` says.
        recorded: what status says, by tag.
        listed: tags of the repository that are being imported; the best come first.
        wishes: the stream's, of earlier rounds.
    """
    own = (wishes or Wishes()).of(stream, rules)
    if not isinstance(repository, ListRepository):
        return Wanted(own, repository)
    names = [name for name in listed if name not in own]
    prefix = f"{repository.source.name}:"
    names += [name for name, tag in recorded.items() if name not in own and _is_from(tag, prefix)]
    virtual = {name: repository.tag(name, rules.import_mode) for name in names}
    return Wanted({**own, **virtual}, repository, frozenset(virtual))


def _is_from(tag: StatusTag, prefix: str) -> bool:
    """Whether the tag was imported from a repository; `prefix` is "repository:"."""
    origin = tag.observed.from_ if tag.observed else None
    return (
        origin is not None
        and (origin.kind, origin.name, origin.namespace) == ("DockerImage", prefix + tag.tag, None)
        and is_tag(tag.tag)
    )


def repository_of(stream: ImageStream, rules: ImportRules) -> ListRepository | Refuse | None:
    """What is to be done for `spec.dockerImageRepository`."""
    name = stream.repository
    if not name:
        return None
    source = Source("DockerImage", name, insecure=stream.is_repository_insecure)
    try:
        reference = ImageReference.parse(name)
    except InvalidReference as error:
        return Refuse(source, "InvalidImageReference", str(error))
    if not reference.name or reference.tag or reference.digest:
        words = f"{quoted(name)} must be a repository, without a tag or digest, such as quay.io/acme/app"
        return Refuse(source, "InvalidImageReference", words)
    places = places_for(rules.policy, reference, insecure=source.insecure)
    if isinstance(places, Refused):
        return Refuse(source, places.reason, places.message)
    return ListRepository(source, reference, places)


def followed_streams(stream: ImageStream) -> frozenset[ObjectKey]:
    """The other streams whose tags and images the stream's spec names."""
    found = set()
    for tag in stream.spec_tags:
        if followed := followed_tag(tag, stream.key):
            found.add(followed.key)
        elif tag.from_ is not None and tag.from_.kind == "ImageStreamImage":
            owner, _, _ = (tag.from_.name or "").rpartition("@")
            found.add(ObjectKey(tag.from_.namespace or stream.metadata.namespace, owner or stream.metadata.name))
    return frozenset(found - {stream.key})


# --- requests by annotation -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Request:
    """A wish in an annotation, `"<nonce> [TAG ...]"`; no tags means all. `value` is the annotation's whole text."""

    value: str
    tags: frozenset[str]

    def names(self, tag: str) -> bool:
        return not self.tags or tag in self.tags


def parse_request(value: str | None) -> Request | None:
    words = (value or "").split()
    return Request(value or "", frozenset(words[1:])) if words else None


def open_refresh(stream: ImageStream) -> Request | None:
    """The refresh request that is not handled yet."""
    return _open(stream.annotations.refresh, handled(stream).refresh)


def open_forget(stream: ImageStream) -> Request | None:
    """The request to forget tags that is not handled yet."""
    request = _open(stream.annotations.forget, handled(stream).forget)
    return request if request and request.tags else None


def asked_for(request: Request | None, wanted: Wanted) -> frozenset[str]:
    """The tags that a request has looked up at a registry. A tag that follows another of its stream means the one at
    the end. One that names all tags has the repository listed, too, which the empty name stands for.
    """
    if request is None:
        return frozenset()
    asked = {""} if not request.tags and isinstance(wanted.repository, ListRepository) else set()
    ends: dict[str, str | None] = {}
    for tag in request.tags & wanted.tags.keys() if request.tags else wanted.tags:
        if end := _end_of(tag, wanted.tags, ends):
            asked.add(end)
    return frozenset(asked)


def _end_of(tag: str, wishes: Mapping[str, Wish | None], ends: dict[str, str | None]) -> str | None:
    """The tag that is looked up for this one, if any; `ends` remembers it for all on the way."""
    passed: dict[str, None] = {}
    end, wish = tag, wishes.get(tag)
    while isinstance(wish, FollowTag) and end not in passed and end not in ends:
        passed[end] = None
        end, wish = (wish.followed.tag, wishes.get(wish.followed.tag)) if wish.is_own else (end, None)
    found = ends[end] if end in ends else end if isinstance(wish, AskRegistry) else None
    ends.update(dict.fromkeys(passed, found))
    return found


def _open(value: str | None, done: str | None) -> Request | None:
    request = parse_request(value)
    return request if request and request.value != done else None


def handled(stream: ImageStream) -> api.Handled:
    return (stream.status and stream.status.handled) or api.Handled()


# --- what annotations say of the whole stream -------------------------------------------------------------------------


_LONGEST = timedelta(days=365)  # beyond it an interval is the same as none, and too much of it is no time at all


def interval_of(stream: ImageStream, rules: ImportRules) -> timedelta:
    """The stream's own polling interval (annotation), not below the floor; the installation's where none is set, or
    none that can be read.
    """
    try:
        wanted = parse_duration(stream.annotations.interval or "")
    except ValueError:
        return rules.interval
    return min(max(wanted, rules.min_interval), max(_LONGEST, rules.min_interval))


def annotation_problems(stream: ImageStream, rules: ImportRules) -> str:
    """What is to be said of the stream's annotations, each remark begun with "; ", or nothing."""
    return _interval_problem(stream, rules) + _suspend_problem(stream)


def _interval_problem(stream: ImageStream, rules: ImportRules) -> str:
    text = stream.annotations.interval
    if text is None:
        return ""
    used = show_duration(interval_of(stream, rules))
    try:
        is_short = parse_duration(text) < rules.min_interval
    except ValueError as error:
        return f"; the annotation {api.INTERVAL_ANNOTATION} {quoted(text)} {error}; {used} is used"
    return f"; the annotation {api.INTERVAL_ANNOTATION} is below the floor; {used} is used" if is_short else ""


def _suspend_problem(stream: ImageStream) -> str:
    text = stream.annotations.suspend
    if text in {None, "", "true", "false"}:
        return ""
    words = 'is neither "true" nor "false"; imports are not suspended'
    return f"; the annotation {api.SUSPEND_ANNOTATION} {quoted(text or '')} {words}"
