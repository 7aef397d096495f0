"""Image objects: what is written of an image, which images a stream refers to, how each is asked for, and which objects
nobody refers to any more.

The shape is OpenShift's `image.openshift.io/v1` Image (openshift/api, image/v1/types.go and image/docker10), with one
field more: `digest`, as a Kubernetes name cannot hold the `:` of one. Manifest and config come from a registry that
somebody else may run. So of a config only the fields that OpenShift has are taken, each for itself: what has another
type than it should, or is too large, is left out, and an annotation says so. However large they are, the object stays
below MAX_BYTES.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from imagestreams.core.keychain import Entry, candidates
from imagestreams.core.lookup import Description, in_turn
from imagestreams.core.manifest import Descriptor, ImageManifest, Index, parse_manifest
from imagestreams.core.policy import Place, Refused
from imagestreams.core.reference import ImageReference, InvalidReference, is_digest

if TYPE_CHECKING:
    from imagestreams.core.stream import ImageStream, StatusTag

NAMESPACE_LABEL: Final = "imagestreams.dev/created-for"
"""The namespace whose stream referred to the image first. Objects without it are somebody else's: never deleted."""

LEFT_OUT_ANNOTATION: Final = "imagestreams.dev/left-out"
LAYERS_ORDER_ANNOTATION: Final = "image.openshift.io/dockerLayersOrder"

MAX_BYTES: Final = 256 << 10  # of the object; etcd takes 1.5 MiB, and there is one object for each image
_MAX_TEXT = 4 << 10  # of one string field, as JSON
_MAX_INT64 = (1 << 63) - 1

_MALFORMED = "malformed"
_TOO_LARGE = "too large"
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OverflowError)

# Dropped one after the other until the object fits: what is said least often of use comes first.
_DROPPED_FIRST: Final = (
    ("ContainerConfig", ""),
    ("Config", "Labels"),
    ("Config", "OnBuild"),
    ("Config", "Env"),
    ("Config", ""),
)


def object_name(digest: str) -> str:
    """The name of the Image object of a digest: `sha256-<hex>`."""
    return digest.replace(":", "-", 1)


# --- the object -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Field:
    """How one field of a config is read: `decoder` refuses other types, `limit` is of its JSON."""

    decoder: msgspec.json.Decoder[object]
    limit: int = MAX_BYTES


def _reads(kind: object, limit: int = MAX_BYTES) -> _Field:
    return _Field(msgspec.json.Decoder(kind), limit)


_STRING = _reads(str | None, _MAX_TEXT)
_FLAG = _reads(bool | None)
_NUMBER = _reads(int | None)
_LIST = _reads(tuple[str, ...] | None)
_NAMES = _reads(dict[str, dict[str, msgspec.Raw] | None] | None)  # a set, as Go writes one
_MAP = _reads(dict[str, str] | None)

# As image/docker10 has them; the keys are those of the config too.
_DOCKER_CONFIG: Final[Mapping[str, _Field]] = {
    **dict.fromkeys(("Hostname", "Domainname", "User"), _STRING),
    **dict.fromkeys(("Memory", "MemorySwap", "CpuShares"), _NUMBER),
    "Cpuset": _STRING,
    **dict.fromkeys(("AttachStdin", "AttachStdout", "AttachStderr"), _FLAG),
    "PortSpecs": _LIST,
    "ExposedPorts": _NAMES,
    **dict.fromkeys(("Tty", "OpenStdin", "StdinOnce"), _FLAG),
    **dict.fromkeys(("Env", "Cmd", "Dns"), _LIST),
    "Image": _STRING,
    "Volumes": _NAMES,
    **dict.fromkeys(("VolumesFrom", "WorkingDir"), _STRING),
    "Entrypoint": _LIST,
    "NetworkDisabled": _FLAG,
    **dict.fromkeys(("SecurityOpts", "OnBuild"), _LIST),
    "Labels": _MAP,
}
# The object's name of a field, and the config's.
_TEXTS: Final = (
    ("Parent", "parent"),
    ("Comment", "comment"),
    ("Container", "container"),
    ("DockerVersion", "docker_version"),
    ("Author", "author"),
    ("Architecture", "architecture"),
)
_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ABSENT = msgspec.Raw()


def _reader(name: str, keys: Iterable[str]) -> msgspec.json.Decoder[msgspec.Struct]:
    """Finds the fields of these names, undecoded; others are passed by, so that a million of them cost nothing."""
    return msgspec.json.Decoder(msgspec.defstruct(name, [(key, msgspec.Raw, _ABSENT) for key in keys], gc=False))


_CONFIG = _reader("_Config", [*(key for _, key in _TEXTS), "created", "config", "container_config"])
_CONFIG_OF_DOCKER = _reader("_DockerConfig", _DOCKER_CONFIG)
_TIME = _reads(datetime | None).decoder


@dataclass(slots=True)
class _Draft:
    """An object in the making, and what is not in it, by path, with the reason."""

    metadata: dict[str, object] = field(default_factory=dict)
    layers: list[dict[str, object]] = field(default_factory=list)
    manifests: list[dict[str, object]] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)


def image_object(
    reference: ImageReference, digest: str, manifest: bytes, media_type: str, config: bytes | None
) -> bytes:
    """What is known of an image as the JSON of an Image object without apiVersion and kind, at most MAX_BYTES of it.

    Args:
        reference: the repository that served the image.
        digest: of the manifest, checked.
        manifest: the body as received; media_type: its Content-Type.
        config: the blob that an image's manifest names, checked against it; None for an index.

    Raises:
        InvalidManifest: for what `parse_manifest` refuses.
    """
    parsed = parse_manifest(manifest, media_type)
    if isinstance(parsed, Index):
        draft = _Draft({"Id": digest}, manifests=[_child(each) for each in parsed.manifests if each.may_be_image])
    else:
        draft = _draft_of_image(parsed, config)
    return _fitted(draft, reference.pinned(digest), parsed.media_type)


def _draft_of_image(image: ImageManifest, config: bytes | None) -> _Draft:
    draft = _Draft({"Id": image.config.digest})
    draft.layers = [{"name": each.digest, "size": each.size, "mediaType": each.media_type} for each in image.layers]
    if config is None:
        draft.left_out["Config"] = "not read"
    else:
        _take_config(draft, config)
    # A layer that an image has twice is stored, and pulled, once.
    size = len(config or b"") + sum({each.digest: each.size for each in image.layers}.values())
    if size <= _MAX_INT64:
        draft.metadata["Size"] = size
    else:
        draft.left_out["Size"] = _MALFORMED
    return draft


def _take_config(draft: _Draft, config: bytes) -> None:
    try:
        found = _CONFIG.decode(config)
    except _UNREADABLE:
        draft.left_out["Config"] = _MALFORMED
        return
    for name, key in _TEXTS:
        if value := _read(draft, name, _STRING, getattr(found, key)):
            draft.metadata[name] = value
    if created := _moment(draft, getattr(found, "created", _ABSENT)):
        draft.metadata["Created"] = created
    for name, key in (("Config", "config"), ("ContainerConfig", "container_config")):
        if taken := _docker_config(draft, name, bytes(getattr(found, key))):
            draft.metadata[name] = taken


def _docker_config(draft: _Draft, name: str, body: bytes) -> dict[str, object]:
    if body in {b"", b"null"}:
        return {}
    try:
        found = _CONFIG_OF_DOCKER.decode(body)
    except _UNREADABLE:
        draft.left_out[name] = _MALFORMED
        return {}
    taken: dict[str, object] = {}
    for key, how in _DOCKER_CONFIG.items():
        value = _read(draft, f"{name}.{key}", how, getattr(found, key))
        if how is _NAMES and isinstance(value, dict):
            value = {each: {} for each in value}
        if value:
            taken[key] = value
    return taken


def _read(draft: _Draft, name: str, how: _Field, raw: msgspec.Raw) -> object:
    """The field's value; None, with a note, for what is not to be had."""
    body = bytes(raw)
    if not body:
        return None
    if len(body) > how.limit:
        draft.left_out[name] = _TOO_LARGE  # not even decoded: a small text can make large objects
        return None
    try:
        value = how.decoder.decode(body)
    except _UNREADABLE:
        draft.left_out[name] = _MALFORMED
        return None
    if isinstance(value, int) and abs(value) > _MAX_INT64:
        draft.left_out[name] = _MALFORMED
        return None
    return value


def _moment(draft: _Draft, raw: msgspec.Raw) -> str | None:
    """The time as Kubernetes writes times: UTC, whole seconds."""
    try:
        moment = _TIME.decode(raw) if bytes(raw) else None
        if not isinstance(moment, datetime):
            return None
        aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return aware.astimezone(UTC).replace(microsecond=0).isoformat().replace("+00:00", "Z")
    except _UNREADABLE:
        draft.left_out["Created"] = _MALFORMED
        return None


def _child(child: Descriptor) -> dict[str, object]:
    platform = child.platform
    entry: dict[str, object] = {
        "digest": child.digest,
        "mediaType": child.media_type,
        "manifestSize": child.size,
        # Both are required, also where the index says nothing of the platform.
        "architecture": platform.architecture if platform else "",
        "os": platform.os if platform else "",
    }
    return entry | ({"variant": platform.variant} if platform and platform.variant else {})


def _fitted(draft: _Draft, reference: ImageReference, media_type: str) -> bytes:
    body = _encoded(draft, reference, media_type)
    for name, key in _DROPPED_FIRST:
        if len(body) <= MAX_BYTES:
            return body
        owner = draft.metadata.get(name)
        if key and isinstance(owner, dict) and owner.pop(key, None):
            draft.left_out[f"{name}.{key}"] = _TOO_LARGE
        elif not key and draft.metadata.pop(name, None):
            draft.left_out = {path: why for path, why in draft.left_out.items() if not path.startswith(f"{name}.")}
            draft.left_out[name] = _TOO_LARGE
        else:
            continue
        body = _encoded(draft, reference, media_type)
    if len(body) > MAX_BYTES:
        draft.layers = []
        draft.left_out["dockerImageLayers"] = _TOO_LARGE
        body = _encoded(draft, reference, media_type)
    return body


def _encoded(draft: _Draft, reference: ImageReference, media_type: str) -> bytes:
    annotations = {}
    if draft.layers:
        annotations[LAYERS_ORDER_ANNOTATION] = "ascending"
    if draft.left_out:
        annotations[LEFT_OUT_ANNOTATION] = ", ".join(f"{path}: {why}" for path, why in draft.left_out.items())
    body: dict[str, object] = {
        "metadata": {"name": object_name(reference.digest)} | ({"annotations": annotations} if annotations else {}),
        "digest": reference.digest,
        "dockerImageReference": str(reference),
        # What is embedded says its own kind, in OpenShift's words whatever the group of the object itself.
        "dockerImageMetadata": {"kind": "DockerImage", "apiVersion": "image.openshift.io/1.0", **draft.metadata},
        "dockerImageMetadataVersion": "1.0",
        "dockerImageManifestMediaType": media_type,
    }
    if draft.layers:
        body["dockerImageLayers"] = draft.layers
    if draft.manifests:
        body["dockerImageManifests"] = draft.manifests
    return msgspec.json.encode(body)


def encode_for_creation(body: bytes, *, api_version: str, namespace: str, reference: ImageReference) -> bytes:
    """The object as it is created.

    Args:
        body: of `image_object`. It may have been made for several streams at once, so what belongs to one comes here.
        api_version: the group and version of ours.
        namespace: whose stream refers to the image; it is what budgets count.
        reference: the image as that stream's history has it, pinned.
    """
    fields = _FIELDS.decode(body)
    metadata = _FIELDS.decode(bytes(fields["metadata"]))
    labels = {NAMESPACE_LABEL: namespace}
    return msgspec.json.encode(
        {
            **fields,
            "apiVersion": api_version,
            "kind": "Image",
            "metadata": {**metadata, "labels": labels},
            "dockerImageReference": str(reference),
        }
    )


# --- what a stream refers to, and how it is asked for -----------------------------------------------------------------


class WantedImage(NamedTuple):
    """An image in a stream's history. `recorded` is its name there, pinned; `source` the repository that the tag is
    imported from, where that is known, and `insecure` what the tag allows there.
    """

    recorded: ImageReference
    source: ImageReference | None
    insecure: bool

    @property
    def digest(self) -> str:
        return self.recorded.digest


Places = Callable[[ImageReference, bool], tuple[Place, ...] | Refused]
"""Where to ask for a reference, in the order to try; the flag is the tag's own wish to be insecure."""


def images_of(stream: ImageStream) -> tuple[WantedImage, ...]:
    """The images of the stream's history, each once: the newest of every tag first, then the older ones, newest first.

    Items that name no image by digest are passed over: tags that are only references, and whatever else a status may
    hold.
    """
    found: list[tuple[int, float, WantedImage]] = []
    for tag in (stream.status and stream.status.tags) or ():
        source, insecure = _source_of(tag)
        for age, item in enumerate(tag.items or ()):
            if recorded := _recorded(item.docker_image_reference, item.image or ""):
                created = item.created.timestamp() if item.created else 0.0
                found.append((age, -created, WantedImage(recorded, source, insecure)))
    found.sort(key=lambda each: each[:2])
    distinct: dict[str, WantedImage] = {}
    for _, _, wanted in found:
        distinct.setdefault(wanted.digest, wanted)
    return tuple(distinct.values())


def digests_of(stream: ImageStream) -> Iterable[str]:
    """What the stream's history refers to, as it is written there."""
    for tag in (stream.status and stream.status.tags) or ():
        for item in tag.items or ():
            if item.image:
                yield item.image


def _recorded(text: str, digest: str) -> ImageReference | None:
    if not is_digest(digest):
        return None
    try:
        return ImageReference.parse(text).pinned(digest)
    except InvalidReference:
        return None


def _source_of(tag: StatusTag) -> tuple[ImageReference | None, bool]:
    observed = tag.observed
    if observed is None or observed.from_ is None or observed.from_.kind != "DockerImage":
        return None, False
    try:
        return ImageReference.parse(observed.from_.name or ""), bool(observed.insecure)
    except InvalidReference:
        return None, False


def places_of(wanted: WantedImage, places: Places) -> tuple[Place, ...] | Refused:
    """Where an image is asked for: where its tag is imported from, if that is where its name in the history comes from
    (a mirror's may be one that policy knows only by its source), and else by that name.

    A tag's wish to be insecure counts at its own source and nowhere else.
    """
    if wanted.source is not None and wanted.source.name:
        found = places(wanted.source.pinned(wanted.digest), wanted.insecure)
        repository = wanted.recorded.repository
        is_own = wanted.source.repository == repository
        if isinstance(found, Refused):
            if is_own:
                return found
        elif is_own or any(place.recorded.repository == repository for place in found):
            return found
    return places(wanted.recorded, False)


def description_of(digest: str, places: tuple[Place, ...], entries: Iterable[Entry]) -> Description:
    """The question for an image at each of its places in turn, with the credentials that `entries` have for it.

    Raises:
        ValueError: there is no place.
    """
    secrets = tuple(entries)

    def ask(place: Place, fallback: Description | None) -> Description:
        credentials = candidates(secrets, place.reference) if place.transport.credentials else ()
        return Description(place.reference.pinned(digest), place.transport, credentials, fallback)

    return in_turn(places, ask)


# --- failures ---------------------------------------------------------------------------------------------------------

_FIRST_RETRY = timedelta(minutes=1)
_LAST_RETRY = timedelta(hours=1)
_MAX_FAILURES = 10


@dataclass(frozen=True, slots=True)
class Setback:
    """An image that could not be described: how often in a row, and when it is tried again (aware), None for never.

    `is_put_off`: it was not the last failure that set the time, but somebody who must not be asked before.
    """

    failures: int
    again: datetime | None
    is_put_off: bool = False

    @property
    def is_final(self) -> bool:
        return self.again is None

    def holds(self, now: datetime) -> bool:
        """Whether the image is still left alone."""
        return self.again is None or self.again > now


def setback_after(before: Setback | None, *, retryable: bool, now: datetime) -> Setback:
    """What follows from one more failure: another try after a minute, then after twice as long each time up to an hour;
    none after ten in a row, or after an answer that will not change by itself.
    """
    failures = (before.failures if before else 0) + 1
    if not retryable or failures >= _MAX_FAILURES:
        return Setback(failures, None)
    return Setback(failures, now + min(_FIRST_RETRY * 2 ** (failures - 1), _LAST_RETRY))


def put_off_until(before: Setback | None, until: datetime) -> Setback:
    """What follows where nobody may be asked before `until` (aware): no failure, and no end of those there were."""
    return Setback(before.failures if before else 0, until, is_put_off=True)


# --- what nobody refers to any more -----------------------------------------------------------------------------------

_SWEEPS_APART = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class Unreferenced:
    """What sweeps have found so far: since when each object (by name) is referred to by no stream, without a break, and
    when the last sweep was.
    """

    since: Mapping[str, datetime] = field(default_factory=dict)
    swept: datetime | None = None

    def without(self, names: Collection[str]) -> Unreferenced:
        """These are referred to again."""
        if self.since.keys().isdisjoint(names):
            return self
        return replace(self, since={name: since for name, since in self.since.items() if name not in names})


def after_sweep(
    before: Unreferenced, unreferenced: Collection[str], *, now: datetime, grace: timedelta, has_streams: bool
) -> tuple[Unreferenced, tuple[str, ...]]:
    """What is known after a sweep, and the names that may be deleted, those first that nobody wants for longest.

    An object is deleted when sweep after sweep nobody referred to it for the grace time. Where there is no stream at
    all the time is twice as long: the streams may be on their way back, after a restore or with a CRD that is created
    anew. Who has not looked for ten minutes knows nothing of the time between: the grace begins again.

    Args:
        before: of the sweep before; what a process starts with is `Unreferenced()`.
        unreferenced: names of objects that are ours and that no stream refers to now.
        has_streams: whether there is any stream.
    """
    is_fresh = before.swept is not None and timedelta() <= now - before.swept <= _SWEEPS_APART
    known = before.since if is_fresh else {}
    since = {name: known.get(name, now) for name in unreferenced}
    patience = grace if has_streams else 2 * grace
    expired = [name for name, begin in since.items() if name in known and now - begin >= patience]
    return Unreferenced(since, now), tuple(sorted(expired, key=lambda name: (since[name], name)))
