"""Manifests as registries serve them: media types, descriptors, digests, and the choice of one platform from an index.

A body comes from a registry that somebody else may run, so it is read as hostile: what is ambiguous is refused rather
than guessed, and what enters a message is quoted and bounded. The size of the body is the caller's to limit.

https://github.com/opencontainers/image-spec/blob/v1.1.1/manifest.md
https://distribution.github.io/distribution/spec/manifest-v2-2/
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Final

import msgspec

from imagestreams.core.reference import is_digest, quoted

DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
IMAGE_TYPES: Final = frozenset({DOCKER_MANIFEST, OCI_MANIFEST})
INDEX_TYPES: Final = frozenset({DOCKER_LIST, OCI_INDEX})

# The order is fixed, since caches in front of registries take the whole header for their key.
ACCEPT: Final = f"{DOCKER_MANIFEST}, {DOCKER_LIST}, {OCI_MANIFEST}, {OCI_INDEX}"

MAX_CHILDREN: Final = 128
MAX_LAYERS: Final = 1024

_SCHEMA_1 = frozenset(
    {
        "application/vnd.docker.distribution.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
    }
)
_NO_SCHEMA_1 = "docker schema 1 is not supported; push it again with a current client"
_OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
_DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
_CONFIG_TYPES = frozenset({_OCI_CONFIG, _DOCKER_CONFIG})
# Docker 1.10 pushed images whose config has one of these types; Docker Hub still serves them, and nodes pull them.
# https://github.com/distribution/distribution/issues/1621
_DOCKER_CONFIG_SLIPS = frozenset({"application/octet-stream", "application/json", "text/html", ""})

_KNOWN_ARTIFACTS: Final = (
    ("application/vnd.cncf.helm.", "a Helm chart"),
    ("application/vnd.docker.plugin.", "a Docker plugin"),
    ("application/vnd.dev.cosign.", "a signature"),
    ("application/vnd.cncf.notary.", "a signature"),
    ("application/vnd.dev.sigstore.", "a signature"),
    ("application/vnd.in-toto", "an attestation"),
    ("application/vnd.dsse.", "an attestation"),
    ("application/vnd.docker.attestation.", "an attestation"),
    ("application/vnd.wasm.", "a WebAssembly module"),
)
_MEDIA_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}")
_PLATFORM_WORD = re.compile(r"[A-Za-z0-9._-]{1,64}")
_DEFAULT_VARIANTS = {"arm": "v7", "arm64": "v8", "amd64": "v1"}


class InvalidManifest(ValueError):
    """The body is no manifest that we would act on.

    InvalidManifest
    ├── NotAnImage      a sound manifest of something that no container runs: a Helm chart, a signature, schema 1
    └── TooMany         it names more manifests or layers than we would act on
    """


class NotAnImage(InvalidManifest):
    """The manifest is of something else than a container image; the message says of what."""


class TooMany(InvalidManifest):
    """The manifest may be sound; the message says how much of it there is, and how much is allowed."""


@dataclass(frozen=True, slots=True)
class Platform:
    """What an image runs on, in Go's words: `linux`, `amd64`, and for ARM a variant such as `v7`."""

    os: str
    architecture: str
    variant: str = ""

    @classmethod
    def parse(cls, text: str) -> Platform:
        """Read `os/architecture[/variant]`.

        Raises:
            ValueError: quoting the text.
        """
        words = text.split("/")
        if len(words) not in {2, 3} or not all(_PLATFORM_WORD.fullmatch(word) for word in words):
            raise ValueError(f"{quoted(text)} is not a platform: write os/architecture[/variant], such as linux/arm64")
        return cls(*words)

    def __str__(self) -> str:
        return "/".join(word for word in (self.os, self.architecture, self.variant) if word)

    def serves(self, wanted: Platform) -> bool:
        """Whether this is the wanted operating system and architecture, and the variant if one is asked for."""
        if (self.os, self.architecture) != (wanted.os, wanted.architecture):
            return False
        default = _DEFAULT_VARIANTS.get(self.architecture, "")
        return not wanted.variant or (self.variant or default) == wanted.variant


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A reference by digest from a manifest to other content. The digest is well-formed, the size not negative, the
    artifact type whatever the manifest says.
    """

    media_type: str
    digest: str
    size: int
    platform: Platform | None = None
    artifact_type: str = ""

    @property
    def may_be_image(self) -> bool:
        """Whether it can lead to an image: not to an attestation, a signature, or what is no manifest at all."""
        # BuildKit's provenance stands beside the images of an index, as a manifest for unknown/unknown.
        is_attestation = self.platform is not None and self.platform.os == self.platform.architecture == "unknown"
        is_manifest = self.media_type in IMAGE_TYPES or self.media_type in INDEX_TYPES
        return is_manifest and not is_attestation and not _is_artifact(self.artifact_type)


@dataclass(frozen=True, slots=True)
class ImageManifest:
    """One platform's image; the layers are oldest first."""

    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]


@dataclass(frozen=True, slots=True)
class Index:
    """Several manifests under one digest, in the publisher's order; one may itself be an index, or an attestation."""

    media_type: str
    manifests: tuple[Descriptor, ...]


class _WirePlatform(msgspec.Struct, frozen=True, gc=False):
    os: str = ""
    architecture: str = ""
    variant: str = ""


class _WireDescriptor(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    digest: str
    size: int
    media_type: str = ""
    artifact_type: str = ""
    platform: _WirePlatform | None = None


class _WireManifest(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """Any of the manifests that registries serve; which one it is shows in the fields that are there."""

    schema_version: int = 0
    media_type: str = ""
    artifact_type: str = ""
    config: _WireDescriptor | None = None
    layers: list[_WireDescriptor] | None = None
    manifests: list[_WireDescriptor] | None = None
    fs_layers: msgspec.Raw = msgspec.Raw()


_DECODER = msgspec.json.Decoder(_WireManifest)


def parse_manifest(body: bytes, content_type: str) -> ImageManifest | Index:
    """Read a manifest or index.

    Args:
        body: the bytes as received.
        content_type: the response's header, with or without parameters. Where it is absent or only says JSON, the
            body's own mediaType decides, or else its fields.

    Raises:
        NotAnImage: for what no container runs.
        TooMany: for an index or image without measure.
        InvalidManifest: for what is malformed, or is one thing by one sign and another by the next.
    """
    header = content_type.partition(";")[0].strip().lower()
    header = "" if header == "application/json" else header
    _check_type(header)
    wire = _decode(body)
    _check_type(wire.media_type)
    if wire.schema_version == 1 or bytes(wire.fs_layers):
        raise NotAnImage(_NO_SCHEMA_1)
    if wire.schema_version != 2:
        raise InvalidManifest("the manifest's schemaVersion is not 2")
    if header and wire.media_type and header != wire.media_type:
        raise InvalidManifest(f"the manifest is {header} by its Content-Type but {wire.media_type} by its mediaType")
    declared = header or wire.media_type
    is_index, is_image = wire.manifests is not None, wire.config is not None or wire.layers is not None
    if is_index and is_image:
        raise InvalidManifest("the manifest is both an index and an image; which one is meant cannot be told")
    if declared and (declared in INDEX_TYPES) != is_index:
        raise InvalidManifest(f"the manifest does not have the fields of its media type {declared}")
    if wire.manifests is not None:
        return _index(wire, wire.manifests, declared or OCI_INDEX)
    if wire.config is None:
        raise InvalidManifest("the manifest has neither a config nor manifests")
    return _image(wire, wire.config, declared)


def digest_of(body: bytes, algorithm: str = "sha256") -> str:
    """The digest of the bytes, for sha256, sha384 or sha512."""
    if algorithm not in {"sha256", "sha384", "sha512"}:
        raise ValueError(f"{quoted(algorithm)} is not a digest algorithm of registries")
    return f"{algorithm}:{hashlib.new(algorithm, body).hexdigest()}"


def choose(index: Index, prefer: Platform | None) -> Descriptor:
    """The child that stands for an index in Legacy mode.

    The first that serves the preferred platform, else the first for linux/amd64, else the first. Attestations and what
    is no manifest are passed over. The child may be an index again.

    Raises:
        InvalidManifest: if there is nothing to choose from.
    """
    images = [child for child in index.manifests if child.may_be_image]
    if not images:
        raise InvalidManifest("the index names no image")
    for wanted in (prefer, Platform("linux", "amd64")):
        for child in images:
            if wanted is not None and child.platform is not None and child.platform.serves(wanted):
                return child
    return images[0]


def _decode(body: bytes) -> _WireManifest:
    try:
        return _DECODER.decode(body)
    except msgspec.ValidationError as error:
        # The library's words name types and the place, never a value.
        raise InvalidManifest(f"the manifest is malformed: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise InvalidManifest("the manifest is not JSON") from None
    except RecursionError:
        raise InvalidManifest("the manifest is nested too deeply") from None


def _check_type(declared: str) -> None:
    """Refuse a media type, of header or body, that is said and is no manifest's of ours."""
    if not declared or declared in IMAGE_TYPES or declared in INDEX_TYPES:
        return
    if declared in _SCHEMA_1:
        raise NotAnImage(_NO_SCHEMA_1)
    if declared.startswith("application/vnd."):
        raise _not_an_image(declared)
    raise InvalidManifest(f"the registry serves {quoted(declared)}, which is no manifest")


def _image(wire: _WireManifest, config: _WireDescriptor, declared: str) -> ImageManifest:
    media_type = declared or (DOCKER_MANIFEST if config.media_type == _DOCKER_CONFIG else OCI_MANIFEST)
    layers = wire.layers or []
    if len(layers) > MAX_LAYERS:
        raise TooMany(f"the manifest has {len(layers)} layers; {MAX_LAYERS} are allowed")
    if _is_artifact(wire.artifact_type):
        raise _not_an_image(wire.artifact_type)
    slips = _DOCKER_CONFIG_SLIPS if media_type == DOCKER_MANIFEST else frozenset[str]()
    if config.media_type not in _CONFIG_TYPES and config.media_type not in slips:
        raise _not_an_image(config.media_type)
    # Signatures and attestations borrow the config type of images; what they carry are documents, never a filesystem.
    if layers and all(_is_document(layer.media_type) for layer in layers):
        raise _not_an_image(layers[0].media_type)
    return ImageManifest(
        media_type, _descriptor(config, required=not slips), tuple(_descriptor(layer) for layer in layers)
    )


def _index(wire: _WireManifest, children: list[_WireDescriptor], media_type: str) -> Index:
    if len(children) > MAX_CHILDREN:
        raise TooMany(f"the index names {len(children)} manifests; {MAX_CHILDREN} are allowed")
    if _is_artifact(wire.artifact_type):
        raise _not_an_image(wire.artifact_type)
    # So look the lists of signatures and the like that belong to an image (the "referrers" tag).
    if children and all(_is_artifact(child.artifact_type) for child in children):
        raise _not_an_image(children[0].artifact_type)
    index = Index(media_type, tuple(_descriptor(child) for child in children))
    if not any(child.may_be_image for child in index.manifests):
        raise InvalidManifest("the index names no image")
    return index


def _descriptor(wire: _WireDescriptor, *, required: bool = True) -> Descriptor:
    if not is_digest(wire.digest):
        raise InvalidManifest(f"{quoted(wire.digest)} in the manifest is not a digest")
    if not 0 <= wire.size < 1 << 63:
        raise InvalidManifest("a size in the manifest is out of range")
    if (required or wire.media_type) and _MEDIA_TYPE.fullmatch(wire.media_type) is None:
        raise InvalidManifest(f"{quoted(wire.media_type)} in the manifest is not a media type")
    return Descriptor(wire.media_type, wire.digest, wire.size, _platform(wire.platform), wire.artifact_type)


def _platform(wire: _WirePlatform | None) -> Platform | None:
    if wire is None or not (wire.os or wire.architecture):
        return None
    for word in (wire.os, wire.architecture, wire.variant):
        if word and _PLATFORM_WORD.fullmatch(word) is None:
            raise InvalidManifest(f"{quoted(word)} in the manifest is not a platform's name")
    return Platform(wire.os, wire.architecture, wire.variant)


def _is_artifact(artifact_type: str) -> bool:
    """Whether an artifactType says "no image"; some tools repeat the config's type there, which says nothing."""
    return artifact_type not in _CONFIG_TYPES and artifact_type != ""


def _is_document(media_type: str) -> bool:
    return media_type.startswith("text/") or media_type.endswith(("+json", "+xml", "/json", "/xml"))


def _not_an_image(media_type: str) -> NotAnImage:
    what = next((words for prefix, words in _KNOWN_ARTIFACTS if media_type.startswith(prefix)), "an artifact")
    return NotAnImage(f"the registry serves {what} ({quoted(media_type)}), not a container image")
