"""The ImageStream as we read and write it: decode, encode, and what its fields mean.

Only the fields that we use are declared; everything else passes by unread, and is untouched by our writes, since we
patch `status` and nothing else. The structs are kept by the ten thousand, so they are frozen, hold tuples and are not
tracked by the garbage collector.

Shapes and rules: OpenShift's `image.openshift.io/v1` (openshift/api, image/v1/types.go) and `crds/imagestreams.yaml`,
which adds `observed`, `handled`, `summary` and the stream's own conditions.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec

from imagestreams.core.lookup import ImportMode, Source
from imagestreams.core.reference import DEFAULT_TAG, ImageReference, InvalidReference, is_tag

IMPORT_SUCCESS = "ImportSuccess"
PINNED = "Pinned"
READY = "Ready"
REPOSITORY_IMPORTED = "RepositoryImported"
ON_SCHEDULE = "OnSchedule"
REFRESH_ANNOTATION = "imagestreams.dev/refresh"
FORGET_ANNOTATION = "imagestreams.dev/forget"
INTERVAL_ANNOTATION = "imagestreams.dev/interval"
SUSPEND_ANNOTATION = "imagestreams.dev/suspend"
PULL_SECRETS_ANNOTATION = "imagestreams.dev/pull-secrets"
PINS_ANNOTATION = "imagestreams.dev/pins"
INSECURE_REPOSITORY_ANNOTATION = "openshift.io/image.insecureRepository"

MAX_HOPS = 64
"""How many tags may lie between a tag that follows and the one at the end; so far is looked."""

_MODES = {mode.value: mode for mode in ImportMode}
_STREAM = re.compile(r"[^:@/\s]+")
_MOST_PULL_SECRETS = 16  # of one stream; each may cost a request


class ObjectKey(NamedTuple):
    """A namespaced object's identity in a queue or store."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class Istag(NamedTuple):
    """A tag of a stream: what `ImageStreamTag` names."""

    namespace: str
    stream: str
    tag: str

    @property
    def key(self) -> ObjectKey:
        """The stream that holds the tag."""
        return ObjectKey(self.namespace, self.stream)

    def __str__(self) -> str:
        return f"{self.namespace}/{self.stream}:{self.tag}"


class _Wire(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, rename="camel"):
    """JSON of the API: camelCase names; a null or absent field is its default."""


class ObjectReference(_Wire, frozen=True):
    kind: str | None = None
    name: str | None = None
    namespace: str | None = None


class ImportPolicy(_Wire, frozen=True):
    insecure: bool | None = None
    scheduled: bool | None = None
    import_mode: str | None = None


class ReferencePolicy(_Wire, frozen=True):
    type: str | None = None


class TagAnnotations(_Wire, frozen=True):
    """The two annotations of a tag that are inputs of an import in Legacy mode."""

    prefer_arch: str | None = msgspec.field(default=None, name="importer.image.openshift.io/prefer-arch")
    prefer_os: str | None = msgspec.field(default=None, name="importer.image.openshift.io/prefer-os")


class TagReference(_Wire, frozen=True):
    """One entry of `spec.tags`."""

    name: str
    from_: ObjectReference | None = msgspec.field(default=None, name="from")
    annotations: TagAnnotations | None = None
    reference: bool | None = None
    import_policy: ImportPolicy | None = None
    reference_policy: ReferencePolicy | None = None

    @property
    def is_scheduled(self) -> bool:
        return bool(self.import_policy and self.import_policy.scheduled)

    @property
    def unknown_mode(self) -> str:
        """An import mode that is none, or empty."""
        mode = (self.import_policy and self.import_policy.import_mode) or ""
        return "" if mode in _MODES else mode

    @property
    def is_local(self) -> bool:
        """Whether consumers are pointed at the stream's own repository (`referencePolicy: Local`)."""
        return bool(self.reference_policy and self.reference_policy.type == "Local")

    def source(self, namespace: str, default_mode: ImportMode) -> Source | None:
        """What the tag asks for, or None for a tag that only pushes feed. `namespace` is the stream's own, which is the
        same as naming none. A mode that is none counts as none; `wish_of` refuses it.
        """
        if self.from_ is None or not (self.from_.kind or self.from_.name):
            return None
        policy, prefer = self.import_policy or ImportPolicy(), self.annotations or TagAnnotations()
        mode = _MODES.get(policy.import_mode or "", default_mode)
        wants_platform = mode is ImportMode.LEGACY and prefer.prefer_arch and prefer.prefer_os
        other = self.from_.namespace or ""
        return Source(
            kind=self.from_.kind or "",
            name=self.from_.name or "",
            namespace="" if other == namespace else other,
            reference=bool(self.reference),
            mode=mode,
            insecure=bool(policy.insecure),
            platform=f"{prefer.prefer_os}/{prefer.prefer_arch}" if wants_platform else "",
        )


class TagEvent(_Wire, frozen=True):
    """What a tag pointed to from `created` (aware, whole seconds) on. `image` is a digest, or empty for a tag that is
    only a reference.
    """

    created: datetime | None = None
    docker_image_reference: str = ""
    image: str | None = None
    generation: int | None = None


class TagCondition(_Wire, frozen=True):
    """How the last attempt to import a tag ended. Others read these too, so `type` and `status` are always written."""

    type: str = ""
    status: str = ""
    reason: str | None = None
    message: str | None = None
    last_transition_time: datetime | None = None
    generation: int | None = None


class Observed(_Wire, frozen=True):
    """The source of the last attempt, and the digest that the tag served then (in Legacy mode the recorded image is a
    child of it).
    """

    from_: ObjectReference | None = msgspec.field(default=None, name="from")
    import_mode: str | None = None
    reference: bool | None = None
    insecure: bool | None = None
    platform: str | None = None
    generation: int | None = None
    digest: str | None = None

    @classmethod
    def of(cls, source: Source, *, generation: int | None, digest: str | None) -> Observed:
        return cls(
            from_=ObjectReference(
                kind=source.kind or None, name=source.name or None, namespace=source.namespace or None
            ),
            import_mode=source.mode.value,
            reference=source.reference or None,
            insecure=source.insecure or None,
            platform=source.platform or None,
            generation=generation,
            digest=digest or None,
        )

    def is_of(self, source: Source) -> bool:
        """Whether the attempt was made at this very source."""
        return self == Observed.of(source, generation=self.generation, digest=self.digest)


class StatusTag(_Wire, frozen=True):
    """One entry of `status.tags`; items newest first. `revision` is there once items were dropped by their number."""

    tag: str
    items: tuple[TagEvent, ...] | None = None
    conditions: tuple[TagCondition, ...] | None = None
    observed: Observed | None = None
    revision: int | None = None

    @property
    def newest(self) -> TagEvent | None:
        return self.items[0] if self.items else None

    @property
    def newest_revision(self) -> int:
        """The newest item's number: how many items the tag has had. Those after it have the numbers before."""
        return max(self.revision or 0, len(self.items or ()))

    def with_items(self, items: tuple[TagEvent, ...], *, newest_revision: int) -> StatusTag:
        """This with other items, of which the newest has this number."""
        revision = newest_revision if newest_revision > len(items) else None
        return msgspec.structs.replace(self, items=items, revision=revision)

    def observed_at(self, source: Source) -> Observed | None:
        """The last attempt, if it was made at this source."""
        return self.observed if self.observed and self.observed.is_of(source) else None

    @property
    def outcome(self) -> TagCondition | None:
        """The condition of the last attempt to import."""
        return self._condition(IMPORT_SUCCESS)

    @property
    def pinned(self) -> TagCondition | None:
        """The condition of a tag that is held: True at an image, False where the image was never the tag's. Either way
        it moves only to what it is pinned to.
        """
        return self._condition(PINNED)

    def _condition(self, type_: str) -> TagCondition | None:
        return next((condition for condition in self.conditions or () if condition.type == type_), None)


class Condition(_Wire, frozen=True):
    """A metav1.Condition of the stream. Its reason and message must be written back as they were, also when empty: the
    schema requires both, and those of other writers are not ours to drop.
    """

    type: str
    status: str
    reason: str | None = None
    message: str | None = None
    last_transition_time: datetime | None = None
    observed_generation: int | None = None


class Handled(_Wire, frozen=True):
    """The requests (annotations' whole values) that have been carried out."""

    refresh: str | None = None
    forget: str | None = None


class Repository(_Wire, frozen=True):
    """The last complete listing of `spec.dockerImageRepository`: how many tags the registry named, how many of them
    are not in the stream, and the limit that was in force.
    """

    name: str
    insecure: bool = False
    found: int = 0
    left_out: int = 0
    limit: int = 0


class Summary(_Wire, frozen=True):
    """Scalars for `kubectl get`: a printer column cannot join a list."""

    tags: str | None = None
    updated: datetime | None = None
    scheduled: str | None = None


class Status(_Wire, frozen=True):
    docker_image_repository: str | None = None
    public_docker_image_repository: str | None = None
    observed_generation: int | None = None
    conditions: tuple[Condition, ...] | None = None
    tags: tuple[StatusTag, ...] | None = None
    handled: Handled | None = None
    summary: Summary | None = None
    repository: Repository | None = None

    def tag(self, name: str) -> StatusTag | None:
        return next((tag for tag in self.tags or () if tag.tag == name), None)

    def condition(self, type_: str) -> Condition | None:
        return next((condition for condition in self.conditions or () if condition.type == type_), None)

    @property
    def ready(self) -> Condition | None:
        return self.condition(READY)


class LookupPolicy(_Wire, frozen=True):
    local: bool | None = None


class Spec(_Wire, frozen=True):
    lookup_policy: LookupPolicy | None = None
    docker_image_repository: str | None = None
    tags: tuple[TagReference, ...] | None = None


class Annotations(_Wire, frozen=True):
    """The stream's annotations that we act on; the others are not kept."""

    refresh: str | None = msgspec.field(default=None, name=REFRESH_ANNOTATION)
    forget: str | None = msgspec.field(default=None, name=FORGET_ANNOTATION)
    interval: str | None = msgspec.field(default=None, name=INTERVAL_ANNOTATION)
    suspend: str | None = msgspec.field(default=None, name=SUSPEND_ANNOTATION)
    pull_secrets: str | None = msgspec.field(default=None, name=PULL_SECRETS_ANNOTATION)
    pins: str | None = msgspec.field(default=None, name=PINS_ANNOTATION)
    insecure_repository: str | None = msgspec.field(default=None, name=INSECURE_REPOSITORY_ANNOTATION)


class Metadata(_Wire, frozen=True):
    name: str
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    annotations: Annotations | None = None


class ImageStream(_Wire, frozen=True):
    metadata: Metadata
    spec: Spec | None = None
    status: Status | None = None

    @property
    def key(self) -> ObjectKey:
        return ObjectKey(self.metadata.namespace, self.metadata.name)

    @property
    def spec_tags(self) -> tuple[TagReference, ...]:
        return (self.spec and self.spec.tags) or ()

    @property
    def annotations(self) -> Annotations:
        return self.metadata.annotations or Annotations()

    @property
    def repository(self) -> str:
        """The repository all of whose tags are wanted, or empty."""
        return (self.spec and self.spec.docker_image_repository) or ""

    @property
    def is_looked_up_locally(self) -> bool:
        """Whether short image names of the namespace's pods may mean this stream (`lookupPolicy.local`)."""
        return bool(self.spec and self.spec.lookup_policy and self.spec.lookup_policy.local)

    @property
    def is_repository_insecure(self) -> bool:
        """Whether the repository may be listed, and its tags be imported, insecurely."""
        return self.annotations.insecure_repository == "true"

    @property
    def is_suspended(self) -> bool:
        """Whether nothing of the stream is to be asked."""
        return self.annotations.suspend == "true"

    @property
    def pull_secrets(self) -> tuple[str, ...]:
        """The secrets that the stream's annotation names, in that order, each once; at most 16."""
        names = (name.strip() for name in (self.annotations.pull_secrets or "").split(","))
        return tuple(dict.fromkeys(name for name in names if name))[:_MOST_PULL_SECRETS]

    def spec_tag(self, name: str) -> TagReference | None:
        return next((tag for tag in self.spec_tags if tag.name == name), None)

    def status_tag(self, name: str) -> StatusTag | None:
        return self.status.tag(name) if self.status else None

    def with_status(self, status: Status) -> ImageStream:
        return msgspec.structs.replace(self, status=status)


class _ListMetadata(_Wire, frozen=True):
    resource_version: str = ""
    continue_: str = msgspec.field(default="", name="continue")


class ImageStreamList(_Wire, frozen=True):
    metadata: _ListMetadata
    items: tuple[ImageStream, ...] | None = None  # Go writes an empty list as null


class MalformedObject(ValueError):
    """JSON from the API server that is not what its schema promises; the text says where."""


UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding bytes of unknown origin can raise."""

_decode_stream = msgspec.json.Decoder(ImageStream)
_decode_list = msgspec.json.Decoder(ImageStreamList)
_encode = msgspec.json.Encoder()


def decode(body: bytes) -> ImageStream:
    """Read one ImageStream; raises `MalformedObject`."""
    try:
        return _decode_stream.decode(body)
    except UNREADABLE as error:
        raise MalformedObject(f"ImageStream: {error}") from error


def decode_list(body: bytes) -> ImageStreamList:
    """Read a page of ImageStreams; raises `MalformedObject`."""
    try:
        return _decode_list.decode(body)
    except UNREADABLE as error:
        raise MalformedObject(f"ImageStreamList: {error}") from error


def encode(value: msgspec.Struct) -> bytes:
    """The JSON of a stream or of a part of one; what `decode` reads back is equal."""
    return _encode.encode(value)


def encode_status_patch(stream: ImageStream, status: Status) -> bytes:
    """A merge patch (RFC 7396) that makes `status` the stream's, and only if the stream is still as we read it.

    `tags` and `conditions` are replaced whole, the way the schema's atomic list wants it; fields of others survive.
    """
    return _encode.encode(
        {
            "metadata": {"resourceVersion": stream.metadata.resource_version, "uid": stream.metadata.uid},
            "status": _explicit(status, stream.status or Status()),
        }
    )


def _explicit(status: Status, old: Status) -> dict[str, object]:
    """The status with its empty fields written out: in a merge patch an absent one would keep its old value."""
    fields = {
        name: getattr(status, attribute)
        for attribute, name in zip(status.__struct_fields__, status.__struct_encode_fields__, strict=True)
    }
    written = {name: value for name, value in fields.items() if value is not None}
    written["tags"] = status.tags or ()
    if status.summary is not None:
        summary = status.summary
        written["summary"] = {"tags": summary.tags, "updated": summary.updated, "scheduled": summary.scheduled}
    if status.repository is not None:
        listed = status.repository
        written["repository"] = {
            "name": listed.name,
            "insecure": listed.insecure,
            "found": listed.found,
            "leftOut": listed.left_out,
            "limit": listed.limit,
        }
    elif old.repository is not None:
        written["repository"] = None
    return written


def whole_seconds(moment: datetime) -> datetime:
    """The moment as the API keeps times: UTC, no fractions."""
    return moment.astimezone(UTC).replace(microsecond=0)


class TagImage(NamedTuple):
    """What consumers of a tag get: the string to write into a workload, the digest in it ("" for reference tags), and a
    short name of both the tag and the image.
    """

    pull_spec: str
    digest: str
    event: str


def latest_image(stream: ImageStream, tag: str, streams: Callable[[ObjectKey], ImageStream | None]) -> TagImage | None:
    """Resolve a tag for a consumer, or None where nothing was recorded yet.

    The newest item counts, whatever later attempts said. What is written is always pinned by the item's own digest, so
    that text in a status cannot name another image. An item without a digest is taken as written, but only where spec
    says that it is a reference (`is_reference`); `streams` are the others, for a tag that follows one of theirs. Raises
    `InvalidReference` for an item that is no image.
    """
    recorded = stream.status_tag(tag)
    event = recorded.newest if recorded else None
    if event is None:
        return None
    reference = ImageReference.parse(event.docker_image_reference)
    if not reference.name:
        raise InvalidReference(f"{event.docker_image_reference!r} names a registry, not an image")
    digest, istag = event.image or "", Istag(*stream.key, tag)

    def spec_of(other: Istag) -> TagReference | None:
        owner = stream if other.key == stream.key else streams(other.key)
        return owner.spec_tag(other.tag) if owner else None

    if not digest and not is_reference(istag, spec_of):
        raise InvalidReference(
            f"{event.docker_image_reference!r} has no digest, and the tag is not a reference in spec"
        )
    repository, spec_tag = stream.status.docker_image_repository if stream.status else None, stream.spec_tag(tag)
    if digest and spec_tag and spec_tag.is_local and repository:
        reference = ImageReference.parse(repository)
    pull_spec = str(reference.pinned(digest)) if digest else event.docker_image_reference
    return TagImage(pull_spec, digest, event_identity(istag, event))


def is_stream(text: str) -> bool:
    """Whether `text` can stand for a stream's name where one is followed."""
    return _STREAM.fullmatch(text) is not None


def followed_tag(tag: TagReference, key: ObjectKey) -> Istag | None:
    """The tag that a spec tag of the stream `key` follows, or None where it follows none, or names it amiss."""
    if tag.from_ is None or tag.from_.kind != "ImageStreamTag" or not tag.from_.name:
        return None
    owner, colon, name = tag.from_.name.rpartition(":")
    name = name or DEFAULT_TAG
    if (colon and not is_stream(owner)) or not is_tag(name):
        return None
    return Istag(tag.from_.namespace or key.namespace, owner or key.name, name)


def is_reference(istag: Istag, spec_of: Callable[[Istag], TagReference | None]) -> bool:
    """Whether spec says of a tag, or of the tag at the end of its chain, that it is a pull spec and no more. Only of
    such a tag an item without a digest is believed.
    """
    passed: set[Istag] = set()
    node: Istag | None = istag
    while node is not None and node not in passed and len(passed) <= MAX_HOPS:
        passed.add(node)
        found = spec_of(node)
        if found is None or found.reference:
            return found is not None
        node = followed_tag(found, node.key)
    return False


def event_identity(istag: Istag, event: TagEvent) -> str:
    """A short stable name of what a tag has, fit for a label that says what was served last.

    The event's time is not in it: a stream that is created again, or restored without its status, has the same images
    at other times, and nothing has moved. A -> B -> A is seen all the same, since in between B was served.
    """
    image = event.image or event.docker_image_reference
    return hashlib.sha256(f"{istag}|{image}".encode()).hexdigest()[:16]
