"""Import requests, decided: what an ImageStreamImport asks for, and what it makes of its stream.

    request = decode_request(body)                 # what is asked
    stored  = Stored.parse(body)                   # the stream as it is, or None
    edit    = edit_of(request, stored)             # which tags its spec must have
    patch   = write_of(edit, stored, ...)          # what is written so that it has them

How a request is answered is decided in `core.answering`.

Shapes and rules: OpenShift's `image.openshift.io/v1` (openshift/api, image/v1/types.go).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import msgspec

from imagestreams.core import stream as api
from imagestreams.core.importing import REPOSITORY
from imagestreams.core.lookup import ImportMode
from imagestreams.core.reference import ImageReference, InvalidReference, is_tag, quoted
from imagestreams.core.stamp import IMAGE_STREAM_ANNOTATION, REQUESTED_BY_ANNOTATION
from imagestreams.core.stream import (
    INSECURE_REPOSITORY_ANNOTATION,
    UNREADABLE,
    ImageStream,
    ImportPolicy,
    MalformedObject,
    ObjectKey,
    ObjectReference,
    ReferencePolicy,
    TagReference,
)

KIND: Final = "ImageStreamImport"
MAX_IMAGES: Final = 500  # of one request
MAX_REQUEST: Final = 768 << 10  # bytes of one without

_MAX_TAGS = 2500  # of a stream, as its schema says
# Characters of a source, and of a repository, as the stream's schema says.
_MAX_SOURCE = 600
_MAX_REPOSITORY = 512
_MAX_REASONS = 3  # that are told of what is not done
_NAME = re.compile(r"[a-z0-9]+(?:[.-][a-z0-9]+)*")
_MODES = ("", "Legacy", "PreserveOriginal")
_REFERENCE_POLICIES = ("", "Source", "Local")

Json = dict[str, Any]


# --- what is asked ----------------------------------------------------------------------------------------------------


class _Wire(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """JSON of the API: camelCase names; a null or absent field is its default."""


class LocalReference(_Wire, frozen=True):
    name: str | None = None


class _Asked(_Wire, frozen=True):
    from_: ObjectReference | None = msgspec.field(default=None, name="from")
    import_policy: ImportPolicy | None = None
    reference_policy: ReferencePolicy | None = None
    include_manifest: bool | None = None

    @property
    def kind(self) -> str:
        return (self.from_ and self.from_.kind) or ""

    @property
    def name(self) -> str:
        """The image or repository, as it was written."""
        return (self.from_ and self.from_.name) or ""

    @property
    def is_insecure(self) -> bool:
        return bool(self.import_policy and self.import_policy.insecure)

    @property
    def is_scheduled(self) -> bool:
        return bool(self.import_policy and self.import_policy.scheduled)

    @property
    def mode(self) -> str:
        """The import mode, or empty."""
        return (self.import_policy and self.import_policy.import_mode) or ""

    @property
    def policy(self) -> str:
        """The type of the reference policy, or empty."""
        return (self.reference_policy and self.reference_policy.type) or ""


class AskedImage(_Asked, frozen=True):
    """One entry of `spec.images`."""

    to: LocalReference | None = None

    @property
    def wanted(self) -> tuple[object, ...]:
        """What a tag is to have by it."""
        return self.name, self.is_insecure, self.is_scheduled, self.mode, self.policy

    @property
    def explicit_target(self) -> str | None:
        """The tag that the request says the image is for; None where it says nothing of it, empty where it is amiss."""
        return (self.to.name or "") if self.to is not None else None

    @property
    def target(self) -> str:
        """The tag that the image is for: that of the image itself where the request does not say it. Empty for none."""
        if self.to is not None:
            return self.to.name or ""
        reference = parsed(self.name)
        return reference.tag if reference and reference.name else ""


class AskedRepository(_Asked, frozen=True):
    """`spec.repository`."""


class _Spec(_Wire, frozen=True):
    import_: bool | None = msgspec.field(default=None, name="import")
    images: tuple[AskedImage, ...] | None = None
    repository: AskedRepository | None = None


class _Annotations(_Wire, frozen=True):
    requested_by: str | None = msgspec.field(default=None, name=REQUESTED_BY_ANNOTATION)
    image_stream: str | None = msgspec.field(default=None, name=IMAGE_STREAM_ANNOTATION)


class _Metadata(_Wire, frozen=True):
    name: str | None = None
    generate_name: str | None = None
    namespace: str | None = None
    resource_version: str | None = None
    annotations: _Annotations | None = None


class _Something(_Wire, frozen=True):
    """What is there, and need not be read."""


class _Answered(_Wire, frozen=True):
    images: tuple[_Something | None, ...] | None = None
    repository: _Something | None = None
    summary: _Something | None = None


class ImageStreamImport(_Wire, frozen=True):
    """A request; of its status only whether there is one."""

    metadata: _Metadata | None = None
    spec: _Spec | None = None
    status: _Answered | None = None

    @property
    def _meta(self) -> _Metadata:
        return self.metadata or _Metadata()

    @property
    def name(self) -> str:
        """Empty where the API server is still to make it."""
        return self._meta.name or ""

    @property
    def namespace(self) -> str:
        return self._meta.namespace or ""

    @property
    def key(self) -> ObjectKey:
        return ObjectKey(self.namespace, self.name)

    @property
    def resource_version(self) -> str:
        """Of a request that is created: the stream's, as its author knows it, or empty. Of a stored one: its own."""
        return self._meta.resource_version or ""

    @property
    def requested_by(self) -> str:
        """The stamp; whoever believes it has to check it first."""
        return (self._meta.annotations and self._meta.annotations.requested_by) or ""

    @property
    def image_stream(self) -> str:
        """The stream that the webhook says is meant; covered by the stamp."""
        return (self._meta.annotations and self._meta.annotations.image_stream) or ""

    @property
    def is_import(self) -> bool:
        """Whether the stream is to be changed; else the images are only looked up."""
        return bool(self.spec and self.spec.import_)

    @property
    def images(self) -> tuple[AskedImage, ...]:
        return (self.spec and self.spec.images) or ()

    @property
    def repository(self) -> AskedRepository | None:
        return self.spec.repository if self.spec else None

    @property
    def is_answered(self) -> bool:
        """Whether there is a status; the empty one that clients send is none."""
        found = self.status
        return found is not None and bool(found.images or found.repository or found.summary)


class _Raw(msgspec.Struct, frozen=True):
    spec: msgspec.Raw = msgspec.Raw()


_REQUEST = msgspec.json.Decoder(ImageStreamImport)
_RAW = msgspec.json.Decoder(_Raw)
_OBJECT = msgspec.json.Decoder(dict[str, Any])
_encode = msgspec.json.Encoder().encode


def decode_request(body: bytes) -> ImageStreamImport:
    """Read one ImageStreamImport; raises `MalformedObject`."""
    try:
        return _REQUEST.decode(body)
    except UNREADABLE as error:
        raise MalformedObject(f"{KIND}: {error}") from error


def spec_of(body: bytes) -> bytes:
    """The JSON of the request's spec, for its stamp; empty for none. Raises `MalformedObject`."""
    try:
        return bytes(_RAW.decode(body).spec)
    except UNREADABLE as error:
        raise MalformedObject(f"{KIND}: {error}") from error


def target_of(request: ImageStreamImport, *, is_stamped: bool) -> ObjectKey:
    """The stream that is meant; its name is empty where the request names none.

    Args:
        request: as it was sent, or as it is stored.
        is_stamped: the request is stored, and its stamp was checked: then the webhook's annotation says it. Else it is
            the object's own name.
    """
    return ObjectKey(request.namespace, request.image_stream if is_stamped else request.name)


def generate_name(name: str) -> str:
    """What the API server makes a request's own name of: the stream's, cut so that a unique part finds room."""
    return name[:57].rstrip("-.") + "-"


# --- what is amiss with it --------------------------------------------------------------------------------------------


class FieldProblem(NamedTuple):
    """What is wrong with a field, in Kubernetes' words."""

    field: str
    words: str

    def __str__(self) -> str:
        return f"{self.field}: {self.words}"


def problems_of(request: ImageStreamImport) -> tuple[FieldProblem, ...]:
    """What makes a request invalid, in the order of its fields."""
    found = [*_problems_of_name(request)]
    images, repository = request.images, request.repository
    if len(images) > MAX_IMAGES:
        found.append(FieldProblem("spec.images", f"Too many: {len(images)}: must have at most {MAX_IMAGES} items"))
    elif not images and repository is None:
        found.append(FieldProblem("spec.images", "Required value: name at least one image, or a repository"))
    else:
        for index in range(len(images)):
            found += _problems_of_image(request, index)
        if request.is_import:
            found += _problems_of_targets(images)
    if repository is not None:
        found += _problems_of_repository(request, repository)
    return tuple(found)


def invalid_message(request: ImageStreamImport, problems: Sequence[FieldProblem], *, group: str) -> str:
    """The message of the API server's answer 422 (Invalid)."""
    shown = [str(problem) for problem in problems[:10]]
    if len(problems) > len(shown):
        shown.append(f"and {len(problems) - len(shown)} more")
    text = shown[0] if len(shown) == 1 else f"[{', '.join(shown)}]"
    return f"{KIND}.{group} {quoted(request.name)} is invalid: {text}"


def _problems_of_name(request: ImageStreamImport) -> Iterable[FieldProblem]:
    if not request.name:
        if request.is_import:
            yield FieldProblem("metadata.name", "Required value: name the ImageStream to import into")
    elif len(request.name) > 253 or not _NAME.fullmatch(request.name):
        words = "must be lower-case letters and digits, with single dots or dashes between them (web, my-app.v2)"
        yield FieldProblem("metadata.name", f"Invalid value: {quoted(request.name)}: {words}")


def _problems_of_image(request: ImageStreamImport, index: int) -> Iterable[FieldProblem]:
    path, image = f"spec.images[{index}]", request.images[index]
    yield from _problems_of_asked(path, image)
    if image.kind == "DockerImage" and image.name and (words := _fault(image.name)):
        yield FieldProblem(f"{path}.from.name", f"Invalid value: {quoted(image.name)}: {words}")
    target = image.explicit_target
    if target is not None and not is_tag(target):
        words = "the name of a tag has 1 to 128 of the characters A-Z a-z 0-9 _ . - and starts with none of . and -"
        yield FieldProblem(f"{path}.to.name", f"Invalid value: {quoted(target)}: {words}")


def _problems_of_asked(path: str, asked: _Asked) -> Iterable[FieldProblem]:
    if asked.kind != "DockerImage":
        yield FieldProblem(f"{path}.from.kind", f"Invalid value: {quoted(asked.kind)}: only DockerImage is supported")
    elif not asked.name:
        yield FieldProblem(f"{path}.from.name", "Required value: write an image, as in quay.io/team/app:1.2")
    for name, value, supported in (
        ("importPolicy.importMode", asked.mode, _MODES),
        ("referencePolicy.type", asked.policy, _REFERENCE_POLICIES),
    ):
        if value not in supported:
            words = ", ".join(f'"{each}"' for each in supported)
            yield FieldProblem(f"{path}.{name}", f"Unsupported value: {quoted(value)}: supported values: {words}")


def _problems_of_targets(images: Sequence[AskedImage]) -> Iterable[FieldProblem]:
    """A tag has one source: of two that are asked for, nobody can say which is meant."""
    first: dict[str, AskedImage] = {}
    for index, image in enumerate(images):
        tag = image.target
        if tag and first.setdefault(tag, image).wanted != image.wanted:
            words = f"Duplicate value: {quoted(tag)}: another image of this request is for that tag"
            yield FieldProblem(f"spec.images[{index}].to.name", words)


def _problems_of_repository(request: ImageStreamImport, repository: AskedRepository) -> Iterable[FieldProblem]:
    path = "spec.repository"
    yield from _problems_of_asked(path, repository)
    if repository.kind == "DockerImage" and repository.name:
        words = _fault(repository.name, _MAX_REPOSITORY)
        reference = parsed(repository.name)
        if reference and (reference.tag or reference.digest or not reference.name):
            words = "must be a repository, without a tag or digest, as in quay.io/team/app"
        if words:
            yield FieldProblem(f"{path}.from.name", f"Invalid value: {quoted(repository.name)}: {words}")
    if repository.is_scheduled and request.is_import:
        words = "the tags of a repository are not looked up on schedule; import those that are to be one by one"
        yield FieldProblem(f"{path}.importPolicy.scheduled", f"Invalid value: true: {words}")


def _fault(name: str, most: int = _MAX_SOURCE) -> str:
    """Why the text is no image, or empty."""
    if len(name) > most:
        return f"must have at most {most} characters"
    try:
        ImageReference.parse(name)
    except InvalidReference as error:
        return str(error)
    return ""


def parsed(name: str) -> ImageReference | None:
    try:
        return ImageReference.parse(name)
    except InvalidReference:
        return None


class Refusal(NamedTuple):
    """Why something is not done, as metav1.Status says it."""

    reason: str
    message: str
    code: int


def conflict_of(request: ImageStreamImport, stored: Stored | None, *, group: str) -> Refusal | None:
    """Why a request that is created does not fit the stream that it was made for, if it names that by its
    resourceVersion.
    """
    asked, name = request.resource_version, request.name
    if not asked:
        return None
    resource = f"imagestreams.{group} {quoted(name)}"
    if stored is None:
        return Refusal("NotFound", f"{resource} not found", 404)
    found = stored.stream.metadata.resource_version
    if asked == found:
        return None
    words = f"the image stream was updated from {quoted(asked)} to {quoted(found)}"
    return Refusal("Conflict", f"Operation cannot be fulfilled on {resource}: {words}", 409)


def tampering(old: bytes, new: bytes) -> str:
    """Why nobody but the controller may make `new` of a stored request, or empty where anybody may: labels, finalizers
    and others' annotations are not part of what was asked and answered. Raises `MalformedObject`.
    """
    before, after = _guarded(old), _guarded(new)
    changed = sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
    if not changed:
        return ""
    return f"{', '.join(changed)} cannot be changed: an {KIND} is a request that was answered; create another"


def _guarded(body: bytes) -> Json:
    try:
        value = _OBJECT.decode(body)
    except UNREADABLE as error:
        raise MalformedObject(f"{KIND}: {error}") from error
    metadata = value.get("metadata")
    annotations = (metadata.get("annotations") if isinstance(metadata, dict) else None) or {}
    ours = {name: text for name, text in annotations.items() if name.startswith("imagestreams.dev/")}
    found = {f"metadata.annotations[{name}]": text for name, text in ours.items()}
    return found | {path: _pruned(value[path]) for path in ("spec", "status") if value.get(path)}


def _pruned(value: object) -> object:
    """Without nulls, which an API server leaves out of objects."""
    if isinstance(value, dict):
        return {name: _pruned(each) for name, each in value.items() if each is not None}
    return [_pruned(each) for each in value] if isinstance(value, list) else value


# --- what it makes of the stream --------------------------------------------------------------------------------------


class Stored(NamedTuple):
    """A stream as it is stored: all of it, and what we read of it."""

    raw: Json
    stream: ImageStream

    @classmethod
    def parse(cls, body: bytes) -> Stored:
        """Raises `MalformedObject`."""
        stream = api.decode(body)
        try:
            return cls(_OBJECT.decode(body), stream)
        except UNREADABLE as error:
            raise MalformedObject(f"ImageStream: {error}") from error


@dataclass(frozen=True, slots=True)
class Edit:
    """What a request needs the stream's spec to say.

    Attributes:
        tags: the entries of spec.tags that are not there as they must be, by name, as they must be.
        repository: what spec.dockerImageRepository is to be, empty where it stays.
        is_repository_made_insecure: whether the stream's annotation must be set that allows that.
        targets: for each image the tag that it is for, empty for none.
        refused: the images that cannot be imported, by their place in the request, and why.
        repository_refused: why the repository cannot be imported.
    """

    tags: Mapping[str, Json] = field(default_factory=dict)
    repository: str = ""
    is_repository_made_insecure: bool = False
    targets: tuple[str, ...] = ()
    refused: Mapping[int, Refusal] = field(default_factory=dict)
    repository_refused: Refusal | None = None

    @property
    def is_change(self) -> bool:
        return bool(self.tags or self.repository or self.is_repository_made_insecure)

    @property
    def is_spec_changed(self) -> bool:
        return bool(self.tags or self.repository)


def edit_of(
    request: ImageStreamImport,
    stored: Stored | None,
    *,
    overtaken: Mapping[str, Refusal] = MappingProxyType({}),
    nobody: str = "",
) -> Edit:
    """Decide what carrying the request out needs the stream's spec to say.

    A tag that is there keeps its import mode, its reference policy and all that the request does not speak of. A
    request that only looks up needs nothing.

    Args:
        request: it may be one that `problems_of` objects to; then the images that it does so for are refused.
        stored: the stream as it is.
        overtaken: why a tag is not to be changed, by its name, and why the repository is not (REPOSITORY).
        nobody: why nobody knows who asks, if so: then whatever would change the spec is refused.
    """
    return _Editing(request, stored, overtaken, nobody).edit()


def refused_whole(request: ImageStreamImport, refusal: Refusal) -> Edit:
    """The edit of a request nothing of which can be done."""
    images = range(len(request.images))
    return Edit(
        targets=("",) * len(images),
        refused=dict.fromkeys(images, refusal),
        repository_refused=refusal if request.repository is not None else None,
    )


def hints_of(request: ImageStreamImport, edit: Edit) -> frozenset[str]:
    """The tags of the stream that are to be asked for once it is edited, and REPOSITORY: hints for its round."""
    if not request.is_import:
        return frozenset()
    found = {tag for index, tag in enumerate(edit.targets) if tag and index not in edit.refused}
    has_repository = request.repository is not None and edit.repository_refused is None
    return frozenset(found | ({REPOSITORY} if has_repository else set()))


def undone_of(request: ImageStreamImport, edit: Edit) -> str:
    """What of the request is not carried out by the edit, and why, for people; empty where all of it is."""
    count, images = len(edit.refused), len(request.images)
    words = _reasons(edit.refused.values())
    if words and (images > 1 or request.repository is not None):
        words = f"{count} of {images} images {'was' if count == 1 else 'were'} not imported: {words}"
    if edit.repository_refused is None:
        return words
    return "; ".join(filter(None, (words, f"the repository was not imported: {edit.repository_refused.message}")))


def _reasons(refusals: Iterable[Refusal]) -> str:
    found = list(dict.fromkeys(refusal.message for refusal in refusals))
    more = len(found) - _MAX_REASONS
    return "; ".join(found[:_MAX_REASONS]) + (f"; and {more} more" if more > 0 else "")


def way_of(request: ImageStreamImport, tag: str, source: str) -> str:
    """The command by which a person has a tag, or the repository (REPOSITORY), imported from a source."""
    # The annotation may be anybody's, and what it names is read by people.
    name = next(filter(_NAME.fullmatch, (request.image_stream, request.name)), "NAME")
    if tag == REPOSITORY:
        return f"imagestreams import-image {name} --all --from={source} --confirm"
    return f"imagestreams tag {source} {name}:{tag}"


class _Editing:
    """One edit in the making."""

    def __init__(
        self, request: ImageStreamImport, stored: Stored | None, overtaken: Mapping[str, Refusal], nobody: str
    ) -> None:
        self._request, self._overtaken, self._nobody = request, overtaken, nobody
        self._stream = stored.stream if stored else None
        self._namespace = request.namespace
        self._raw = {str(tag.get("name")): tag for tag in raw_tags(stored.raw)} if stored else {}
        self._tags: dict[str, Json] = {}
        self._amiss = _amiss(request)

    def edit(self) -> Edit:
        request = self._request
        targets = tuple(image.target if is_tag(image.target) else "" for image in request.images)
        refused: dict[int, Refusal] = {}
        for index, image in enumerate(request.images):
            refusal = self._amiss.get(f"spec.images[{index}]") or self._amiss.get("")
            if refusal is None and targets[index]:
                refusal = self._ensure(image, targets[index])
            if refusal is not None:
                refused[index] = refusal
        repository, is_made_insecure = "", False
        repository_refused = self._amiss.get("spec.repository") or self._amiss.get("")
        if request.repository is not None and request.is_import and repository_refused is None:
            repository, is_made_insecure, repository_refused = self._repository(request.repository)
        return Edit(
            self._tags,
            repository,
            is_made_insecure,
            targets,
            refused,
            repository_refused if request.repository is not None else None,
        )

    def _ensure(self, image: AskedImage, tag: str) -> Refusal | None:
        """Have the tag in spec as the request wants it, or say why not."""
        present, raw = self._stream.spec_tag(tag) if self._stream else None, self._raw.get(tag)
        is_explicit = image.explicit_target is not None
        if not self._request.is_import and not is_explicit:
            return None  # looked up for itself
        if present is not None and (refusal := _cannot_be_imported(present)):
            return refusal
        if not self._request.is_import:
            return None
        wanted = ensured(raw, tag, image)
        if self._nobody:
            return None if self._is_source(present, wanted) else self._nobody_knows(tag, image.name)
        if wanted != raw and tag in self._overtaken:
            return self._overtaken[tag]
        if raw is None and len(self._raw.keys() | self._tags.keys()) >= _MAX_TAGS and tag not in self._tags:
            return Refusal("Invalid", f"the image stream has {_MAX_TAGS} tags, which is the most; remove some", 422)
        if wanted != raw:
            self._tags[tag] = wanted
        return None

    def _is_source(self, present: TagReference | None, wanted: Json) -> bool:
        if present is None:
            return False
        before, after = (tag.source(self._namespace, ImportMode.PRESERVE_ORIGINAL) for tag in (present, tag_of(wanted)))
        return before == after

    def _repository(self, asked: AskedRepository) -> tuple[str, bool, Refusal | None]:
        present = self._stream.repository if self._stream else ""
        if present and present != asked.name:
            words = (
                f"the image stream imports the repository {quoted(present)}, not {quoted(asked.name)}; change its "
                "spec.dockerImageRepository, or use another image stream"
            )
            return "", False, Refusal("Conflict", words, 409)
        is_insecure = bool(self._stream and self._stream.is_repository_insecure)
        repository = "" if present else asked.name
        is_made_insecure = asked.is_insecure and not is_insecure
        refusal = None
        if repository or is_made_insecure:
            refusal = self._nobody_knows(REPOSITORY, asked.name) if self._nobody else self._overtaken.get(REPOSITORY)
        return ("", False, refusal) if refusal else (repository, is_made_insecure, None)

    def _nobody_knows(self, tag: str, source: str) -> Refusal:
        what = "the image stream" if tag == REPOSITORY else f"tag {quoted(tag)}"
        words = (
            f"{what} does not have the source {quoted(source)}, and nobody knows who asks for it: {self._nobody}; edit "
            f"the image stream yourself, for instance: {way_of(self._request, tag, source)}"
        )
        return Refusal("Forbidden", words, 403)


def _amiss(request: ImageStreamImport) -> dict[str, Refusal]:
    """What `problems_of` objects to, by the image or repository that it is about; all of it under the empty path."""
    found: dict[str, Refusal] = {}
    for problem in problems_of(request):
        match = re.match(r"spec\.images\[\d+\]|spec\.repository", problem.field)
        found.setdefault(match[0] if match else "", Refusal("Invalid", str(problem), 422))
    return found


def _cannot_be_imported(tag: TagReference) -> Refusal | None:
    """Why a tag that is there does not take an image from a registry."""
    source = tag.from_
    name = quoted(tag.name)
    if source is not None and (source.kind or source.name) and source.kind != "DockerImage":
        follows = f"{source.kind} {quoted(source.name or '')}"
        return Refusal("Invalid", f"tag {name} follows {follows}; change it with imagestreams tag", 422)
    if tag.reference:
        words = "only records its source (reference: true); change it with imagestreams tag"
        return Refusal("Invalid", f"tag {name} {words}", 422)
    return None


def ensured(raw: Mapping[str, Any] | None, name: str, asked: AskedImage) -> Json:
    """An entry of spec.tags that has the source that is asked for; equal to `raw`, the present one, where that has it
    already. What the request does not speak of stays.
    """
    tag: Json = dict(raw) if raw is not None else {"name": name}
    source = tag.get("from") or {}
    if (source.get("kind"), source.get("name")) != ("DockerImage", asked.name):
        tag["from"] = {"kind": "DockerImage", "name": asked.name}
    policy = dict(tag.get("importPolicy") or {})
    for field_name, wanted in (("insecure", asked.is_insecure), ("scheduled", asked.is_scheduled)):
        if bool(policy.get(field_name)) != wanted:
            policy[field_name] = wanted
    if raw is None and asked.mode:
        policy["importMode"] = asked.mode
    if policy != (tag.get("importPolicy") or {}):
        tag["importPolicy"] = policy
    present = (tag.get("referencePolicy") or {}).get("type")
    # Where nothing is said it is Source: to write that into a stream that Git knows would be a change for nothing.
    if not present and asked.policy and (raw is None or asked.policy != "Source"):
        tag["referencePolicy"] = {"type": asked.policy}
    return tag


def tag_of(raw: Mapping[str, Any], **fields: object) -> TagReference:
    return msgspec.convert({**raw, **fields}, TagReference)


def raw_tags(raw: Json) -> list[Json]:
    return (raw.get("spec") or {}).get("tags") or []


def edited(edit: Edit, stored: Stored | None, *, key: ObjectKey, api_version: str) -> Json:
    """The stream as it will be, its status as it is. Whatever else it holds stays."""
    if stored is None:
        new: Json = {"namespace": key.namespace, "name": key.name, "generation": 1}
        raw: Json = {"apiVersion": api_version, "kind": "ImageStream", "metadata": new}
    else:
        raw = dict(stored.raw)
        if edit.is_spec_changed:
            raw["metadata"] = {**raw["metadata"], "generation": stored.stream.metadata.generation + 1}
    if edit.is_spec_changed:
        raw["spec"] = _edited_spec(edit, raw)
    if edit.is_repository_made_insecure:
        metadata = raw["metadata"]
        annotations = {**(metadata.get("annotations") or {}), INSECURE_REPOSITORY_ANNOTATION: "true"}
        raw["metadata"] = {**metadata, "annotations": annotations}
    return raw


def _edited_spec(edit: Edit, raw: Json) -> Json:
    spec = dict(raw.get("spec") or {})
    tags = raw_tags(raw)
    present = {tag.get("name") for tag in tags}
    if edit.tags:
        new = [tag for name, tag in edit.tags.items() if name not in present]
        spec["tags"] = [edit.tags.get(str(tag.get("name")), tag) for tag in tags] + new
    if edit.repository:
        spec["dockerImageRepository"] = edit.repository
    return spec


def write_of(edit: Edit, stored: Stored | None, *, key: ObjectKey, api_version: str) -> bytes | None:
    """What is to be written so that the stream is as the edit wants it, or None where it is.

    Where there is no stream it is the object to be created, else a merge patch that only counts for the stream as it
    was read.
    """
    if not edit.is_change:
        return None
    raw = edited(edit, stored, key=key, api_version=api_version)
    if stored is None:
        del raw["metadata"]["generation"]
        return _encode(raw)
    metadata: Json = {"resourceVersion": stored.stream.metadata.resource_version, "uid": stored.stream.metadata.uid}
    if edit.is_repository_made_insecure:
        metadata["annotations"] = {INSECURE_REPOSITORY_ANNOTATION: "true"}
    patch: Json = {"metadata": metadata}
    if edit.is_spec_changed:
        names = (["tags"] if edit.tags else []) + (["dockerImageRepository"] if edit.repository else [])
        patch["spec"] = {name: raw["spec"][name] for name in names}
    return _encode(patch)
