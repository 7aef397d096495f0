"""Images as bytes: small, valid, the same each time; and a plain client that pushes them.

    web = index([image(), image(architecture="arm64", variant="v8")])
    digest = push(registry, "acme/web", "latest", web)

An image's `text` is the content of its one file: another text is another digest.
"""

from __future__ import annotations

import base64
import functools
import gzip
import hashlib
import http.client
import io
import json
import re
import ssl
import sys
import tarfile
import urllib.parse
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Media = Literal["oci", "docker"]

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_SCHEMA1 = "application/vnd.docker.distribution.manifest.v1+prettyjws"
MANIFEST_TYPES = (DOCKER_MANIFEST, DOCKER_LIST, OCI_MANIFEST, OCI_INDEX)

_CONFIG: Mapping[Media, str] = {
    "oci": "application/vnd.oci.image.config.v1+json",
    "docker": "application/vnd.docker.container.image.v1+json",
}
_LAYER: Mapping[Media, str] = {
    "oci": "application/vnd.oci.image.layer.v1.tar+gzip",
    "docker": "application/vnd.docker.image.rootfs.diff.tar.gzip",
}


def digest_of(content: bytes) -> str:
    """sha256:<hex> of the bytes, as registries name them."""
    return "sha256:" + hashlib.sha256(content).hexdigest()


@dataclass(frozen=True, slots=True)
class Image:
    """A manifest and the blobs it names."""

    media_type: str
    manifest: bytes
    config: bytes
    blobs: tuple[bytes, ...]
    platform: Mapping[str, str]

    @property
    def digest(self) -> str:
        return digest_of(self.manifest)


@dataclass(frozen=True, slots=True)
class Index:
    """An OCI index or Docker manifest list, and the images it names."""

    media_type: str
    manifest: bytes
    images: tuple[Image, ...]

    @property
    def digest(self) -> str:
        return digest_of(self.manifest)


def image(
    *,
    media: Media = "oci",
    os: str = "linux",
    architecture: str = "amd64",
    variant: str = "",
    text: str = "hello",
    config: Mapping[str, Any] | None = None,
) -> Image:
    """A container image with one layer that holds one file, /text.

    Args:
        config: more for the configuration's `config` (Env, Labels, ExposedPorts, ...).
    """
    platform = {"os": os, "architecture": architecture, **({"variant": variant} if variant else {})}
    tar = _tar(text)
    layer = gzip.compress(tar, mtime=0)
    description: dict[str, Any] = {
        "created": "2024-01-01T00:00:00Z",
        **platform,
        "config": {"Env": ["PATH=/usr/bin:/bin"], "Cmd": ["cat", "/text"], **(config or {})},
        "rootfs": {"type": "layers", "diff_ids": [digest_of(tar)]},
        "history": [{"created": "2024-01-01T00:00:00Z", "created_by": "COPY text /text"}],
    }
    media_type = OCI_MANIFEST if media == "oci" else DOCKER_MANIFEST
    return _image(media_type, _CONFIG[media], _json(description), [(_LAYER[media], layer)], platform)


def index(images: Sequence[Image], *, media: Media = "oci", attestations: bool = False) -> Index:
    """One name for several platforms' images.

    Args:
        attestations: also, for each image, an entry of platform unknown/unknown, as buildx adds them.
    """
    contained = [*images, *(_attestation(each) for each in images if attestations)]
    entries = [_entry(each) for each in contained]
    for entry, subject in zip(entries[len(images) :], images, strict=False):
        entry["annotations"] = {
            "vnd.docker.reference.digest": subject.digest,
            "vnd.docker.reference.type": "attestation-manifest",
        }
    media_type = OCI_INDEX if media == "oci" else DOCKER_LIST
    manifest = _json({"schemaVersion": 2, "mediaType": media_type, "manifests": entries})
    return Index(media_type, manifest, tuple(contained))


def helm_chart(name: str = "chart", version: str = "0.1.0") -> Image:
    """An artifact that is no container image: what `helm push` makes, more or less."""
    config = _json({"apiVersion": "v2", "name": name, "version": version, "type": "application"})
    layer = gzip.compress(_tar(f"name: {name}\n"), mtime=0)
    layers = [("application/vnd.cncf.helm.chart.content.v1.tar+gzip", layer)]
    return _image(OCI_MANIFEST, "application/vnd.cncf.helm.config.v1+json", config, layers, {})


def schema1(repository: str = "library/old", tag: str = "latest") -> bytes:
    """A Docker schema 1 manifest, for fakes only: no registry here takes it any more. Its signature is none."""
    layer = gzip.compress(_tar("old"), mtime=0)
    v1 = {"id": "0" * 64, "os": "linux", "architecture": "amd64", "created": "2014-01-01T00:00:00Z"}
    manifest = {
        "schemaVersion": 1,
        "name": repository,
        "tag": tag,
        "architecture": "amd64",
        "fsLayers": [{"blobSum": digest_of(layer)}],
        "history": [{"v1Compatibility": json.dumps(v1)}],
        "signatures": [{"header": {"alg": "ES256"}, "signature": "AA", "protected": "e30"}],
    }
    return _json(manifest)


class Target(Protocol):
    """A registry as a pusher sees it; dev.registries.Registry is one.

    Attributes:
        host: "127.0.0.1:5000".
        ca_pem: the authority that signed its certificate; None for plain HTTP.
        username: empty for anonymous access.
    """

    @property
    def host(self) -> str: ...
    @property
    def ca_pem(self) -> bytes | None: ...
    @property
    def username(self) -> str: ...
    @property
    def password(self) -> str: ...


class PushError(Exception):
    """A registry or its token service answered with another status than the protocol has for success."""


def push(registry: Target, repository: str, tag: str | None, content: Image | Index) -> str:
    """Push an image, or an index with all its images, and return its digest.

    Args:
        tag: None pushes by digest only.

    Raises:
        PushError: the registry did not take it.
    """
    with Session(registry, f"repository:{repository}:pull,push") as session:
        images = content.images if isinstance(content, Index) else ()
        for each in images:
            _push_image(session, repository, each, each.digest)
        if isinstance(content, Image):
            _push_image(session, repository, content, tag or content.digest)
        else:
            _put_manifest(session, repository, content.media_type, content.manifest, tag or content.digest)
    return content.digest


@dataclass(frozen=True, slots=True)
class Answer:
    """A response, read to its end."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes


class Session:
    """A connection to a registry that answers its challenge, Basic or Bearer, once.

    Args:
        scope: asked of the token service, whatever the challenge says.
    """

    def __init__(self, registry: Target, scope: str) -> None:
        self._registry, self._scope = registry, scope
        self._connection = _connect(registry.host, registry.ca_pem)
        self._authorization = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def request(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Answer:
        """Send a request; with credentials or a token when the registry asks for them."""
        answer = self._send(method, path, body, headers or {})
        if answer.status == 401 and not self._authorization:
            self._authorization = self._authorize(answer.headers["WWW-Authenticate"] or "")
            answer = self._send(method, path, body, headers or {})
        return answer

    def _send(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        authorization = {"Authorization": self._authorization} if self._authorization else {}
        self._connection.request(method, path, body, {**authorization, **headers})
        response = self._connection.getresponse()
        return Answer(response.status, response.headers, response.read())

    def _authorize(self, challenge: str) -> str:
        registry = self._registry
        pair = base64.b64encode(f"{registry.username}:{registry.password}".encode()).decode()
        basic = f"Basic {pair}" if registry.username else ""
        if not challenge.lower().startswith("bearer "):
            return basic
        given = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
        realm = urllib.parse.urlsplit(given["realm"])
        query = urllib.parse.urlencode({"service": given.get("service", ""), "scope": self._scope})
        connection = _connect(realm.netloc, registry.ca_pem if realm.scheme == "https" else None)
        try:
            connection.request("GET", f"{realm.path}?{query}", headers={"Authorization": basic} if basic else {})
            response = connection.getresponse()
            body = response.read()
        finally:
            connection.close()
        if response.status != 200:
            raise PushError(f"token service: {response.status} {body[:200]!r}")
        return f"Bearer {json.loads(body)['token']}"


def _push_image(session: Session, repository: str, content: Image, reference: str) -> None:
    for blob in (content.config, *content.blobs):
        _push_blob(session, repository, blob)
    _put_manifest(session, repository, content.media_type, content.manifest, reference)


def _push_blob(session: Session, repository: str, blob: bytes) -> None:
    digest = digest_of(blob)
    if session.request("HEAD", f"/v2/{repository}/blobs/{digest}").status == 200:
        return
    begun = _expect(202, session.request("POST", f"/v2/{repository}/blobs/uploads/"), "upload")
    location = urllib.parse.urlsplit(begun.headers["Location"])
    query = f"{location.query}&" if location.query else ""
    path = f"{location.path}?{query}digest={urllib.parse.quote(digest)}"
    _expect(201, session.request("PUT", path, blob, {"Content-Type": "application/octet-stream"}), "blob")


def _put_manifest(session: Session, repository: str, media_type: str, manifest: bytes, reference: str) -> None:
    path = f"/v2/{repository}/manifests/{reference}"
    _expect(201, session.request("PUT", path, manifest, {"Content-Type": media_type}), "manifest")


def _expect(status: int, answer: Answer, what: str) -> Answer:
    if answer.status != status:
        raise PushError(f"{what}: {answer.status} {answer.body[:300]!r}")
    return answer


def _connect(host: str, ca_pem: bytes | None) -> http.client.HTTPConnection:
    if ca_pem is None:
        return http.client.HTTPConnection(host, timeout=30)
    return http.client.HTTPSConnection(host, timeout=30, context=_context(ca_pem))


@functools.lru_cache(maxsize=8)
def _context(ca_pem: bytes) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=ca_pem.decode())


def _image(
    media_type: str, config_type: str, config: bytes, layers: Sequence[tuple[str, bytes]], platform: Mapping[str, str]
) -> Image:
    manifest = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": _descriptor(config_type, config),
        "layers": [_descriptor(layer_type, layer) for layer_type, layer in layers],
    }
    return Image(media_type, _json(manifest), config, tuple(layer for _, layer in layers), platform)


def _attestation(subject: Image) -> Image:
    platform = {"os": "unknown", "architecture": "unknown"}
    sha256 = subject.digest.removeprefix("sha256:")
    statement = _json({"_type": "https://in-toto.io/Statement/v0.1", "subject": [{"digest": {"sha256": sha256}}]})
    config = _json({**platform, "config": {}, "rootfs": {"type": "layers", "diff_ids": [digest_of(statement)]}})
    return _image(OCI_MANIFEST, _CONFIG["oci"], config, [("application/vnd.in-toto+json", statement)], platform)


def _entry(content: Image) -> dict[str, Any]:
    return {**_descriptor(content.media_type, content.manifest), "platform": dict(content.platform)}


def _descriptor(media_type: str, content: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest_of(content), "size": len(content)}


def _tar(text: str) -> bytes:
    content = text.encode()
    entry = tarfile.TarInfo("text")
    entry.size, entry.mode, entry.mtime = len(content), 0o644, 0
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w") as archive:
        archive.addfile(entry, io.BytesIO(content))
    return output.getvalue()


def _json(content: object) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode()


def main() -> None:
    """Push a new two-platform image to a registry that asks for no password: HOST REPOSITORY TAG TEXT."""
    if len(sys.argv) != 5:
        sys.exit("usage: python -m dev.images HOST[:PORT] REPOSITORY TAG TEXT")
    host, repository, tag, text = sys.argv[1:]
    content = index([image(text=text), image(architecture="arm64", text=text)])
    print(push(_Open(host), repository, tag, content))


@dataclass(frozen=True, slots=True)
class _Open:
    """A registry over plain HTTP, for anyone."""

    host: str
    ca_pem: bytes | None = None
    username: str = ""
    password: str = ""


if __name__ == "__main__":
    main()
