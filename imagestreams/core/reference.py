"""Image references: what users write for an image, parsed once at the door.

The grammar is Docker's, `[host[:port]/]component(/component)*[:tag][@digest]`, read as OpenShift reads it:

- the first component is a registry if it holds a `.` or a `:` or is `localhost`;
- a single component that holds a `.` or starts with `localhost` names only a registry (its `:x` is a port);
- the namespace is the first component of the path, the name all the rest;
- everything else is Docker Hub's, where single names live in `library`.

A reference keeps the user's own spelling, so that it prints what was parsed. `host`, `path` and `repository` are the
canonical form, by which registries are asked, credentials and policy are chosen and equal lookups are shared.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from typing import Final

DOCKER_HUB: Final = "docker.io"
DOCKER_HUB_ALIASES: Final = frozenset({DOCKER_HUB, "index.docker.io", "registry-1.docker.io"})
HTTPS_PORT: Final = ":443"
DEFAULT_TAG: Final = "latest"
MAX_NAME: Final = 255  # characters of host and path together

_DIGEST_HEX: Final = {"sha256": 64, "sha384": 96, "sha512": 128}

# Every repetition is separated by a character that its parts cannot hold: no input makes the match backtrack for long.
_LABEL = r"[A-Za-z0-9]+(?:-+[A-Za-z0-9]+)*"
_HOST = rf"{_LABEL}(?:\.{_LABEL})*(?::[0-9]+)?"
_COMPONENT = r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*"
_TAG = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_DIGEST = r"[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9A-Fa-f]{32,}"
_REFERENCE = re.compile(
    rf"(?P<name>(?:{_HOST}/)?{_COMPONENT}(?:/{_COMPONENT})*)(?::(?P<tag>{_TAG}))?(?:@(?P<digest>{_DIGEST}))?"
)
_TAG_ONLY = re.compile(_TAG)
_HEX = re.compile(r"[0-9a-f]+")

_MAX_TEXT: Final = 640  # the longest name, tag and digest together are 520
_QUOTED: Final = 120
_TAG_RULE: Final = "a tag has 1 to 128 of the characters A-Z a-z 0-9 _ . - and starts with none of . and -"
_EXAMPLE: Final = "write [host[:port]/]repository[:tag][@digest], for example quay.io/acme/web:stable"


class InvalidReference(ValueError):
    """The text names no image. The message quotes it, bounded and escaped, and says what to write instead."""


@dataclass(frozen=True, slots=True)
class ImageReference:
    """A parsed reference; the fields are as the user spelt them, empty where nothing was written.

    `name` is empty only for a reference that names a registry and no repository; such a one cannot be imported.
    """

    registry: str = ""
    namespace: str = ""
    name: str = ""
    tag: str = ""
    digest: str = ""

    @classmethod
    def parse(cls, text: str) -> ImageReference:
        """Parse the whole of `text`.

        Two things are taken here that no registry serves, as OpenShift does: an upper-case first component (`Foo/bar`),
        which could be a host, and a digest in upper-case hex (see `is_digest`).

        Raises:
            InvalidReference: with words for the person who wrote it.
        """
        match = _REFERENCE.fullmatch(text) if len(text) <= _MAX_TEXT else None
        if match is None:
            raise InvalidReference(f"{quoted(text)} is not an image reference: {_why_not(text)}")
        name, tag, digest = match["name"], match["tag"] or "", match["digest"] or ""
        if len(name) > MAX_NAME:
            raise InvalidReference(
                f"{quoted(text)} is not an image reference: "
                f"host and repository have {len(name)} characters, {MAX_NAME} are allowed"
            )
        if fault := _digest_fault(digest):
            raise InvalidReference(f"{quoted(text)} is not an image reference: {fault}")
        first, slash, rest = name.partition("/")
        if not slash:
            if "." in name or name.startswith("localhost"):
                return cls(registry=f"{name}:{tag}" if tag else name, digest=digest)
            return cls(name=name, tag=tag, digest=digest)
        if not ("." in first or ":" in first or first == "localhost"):
            return cls(namespace=first, name=rest, tag=tag, digest=digest)
        if fault := _port_fault(first):
            raise InvalidReference(f"{quoted(text)} is not an image reference: {fault}")
        namespace, slash, inner = rest.partition("/")
        if not slash:
            return cls(registry=first, name=rest, tag=tag, digest=digest)
        return cls(registry=first, namespace=namespace, name=inner, tag=tag, digest=digest)

    def __str__(self) -> str:
        """Print what was parsed: `parse(str(reference)) == reference`."""
        text = "/".join(part for part in (self.registry, self.namespace, self.name) if part)
        if self.tag:
            text = f"{text}:{self.tag}"
        return f"{text}@{self.digest}" if self.digest else text

    @property
    def host(self) -> str:
        """The registry to look up, `host` or `host:port`, in lower case.

        It is `docker.io` where none is named, and for Docker Hub's other names.
        """
        return host_named(self.registry) if self.registry else DOCKER_HUB

    @property
    def path(self) -> str:
        """The repository's path at `host`: `library/foo` for Docker Hub's single names, empty for a registry alone."""
        if self.namespace:
            return f"{self.namespace}/{self.name}"
        if self.name and self.host == DOCKER_HUB:
            return f"library/{self.name}"
        return self.name

    @property
    def repository(self) -> str:
        """`host/path`: one text for one repository, however it was spelt."""
        return f"{self.host}/{self.path}"

    def pinned(self, digest: str) -> ImageReference:
        """The same repository in the user's own spelling, at `digest` and without a tag.

        Raises:
            InvalidReference: if `digest` is none, or there is no repository to pin.
        """
        if not is_digest(digest):
            raise InvalidReference(
                f"{quoted(digest)} is not a digest: write sha256: and 64 lower-case hexadecimal digits"
            )
        return replace(self._with_repository(), tag="", digest=digest)

    def tagged(self, tag: str) -> ImageReference:
        """The same repository in the user's own spelling, at `tag` and without a digest.

        Raises:
            InvalidReference: if `tag` is none, or there is no repository to tag.
        """
        if not is_tag(tag):
            raise InvalidReference(f"{quoted(tag)} is not a tag: {_TAG_RULE}")
        return replace(self._with_repository(), tag=tag, digest="")

    def defaulted(self) -> ImageReference:
        """What is pulled: registry, `library` and `latest` filled in. A digest wins over a tag, which is then dropped.

        References to the same image have equal defaulted forms, except that a host stays as it is written: Docker Hub's
        other names, upper case.
        """
        if not self.name:
            return self
        return ImageReference(
            registry=self.registry or DOCKER_HUB,
            namespace=self.namespace or ("library" if self.host == DOCKER_HUB else ""),
            name=self.name,
            tag="" if self.digest else self.tag or DEFAULT_TAG,
            digest=self.digest,
        )

    def _with_repository(self) -> ImageReference:
        if not self.name:
            raise InvalidReference(f"{quoted(str(self))} names a registry but no repository: {_EXAMPLE}")
        return self


def host_named(text: str) -> str:
    """A registry's `host` or `host:port` in one spelling: in lower case, Docker Hub by its own name.

    Only Docker Hub's names may hold https' own port: elsewhere a credential for `host` is none for `host:443`.
    """
    host = text.lower()
    return DOCKER_HUB if host.removesuffix(HTTPS_PORT) in DOCKER_HUB_ALIASES else host


def is_digest(text: str) -> bool:
    """Whether `text` is a digest that a registry can serve: sha256, sha384 or sha512, lower-case hex, exact length."""
    algorithm, _, value = text.partition(":")
    return len(value) == _DIGEST_HEX.get(algorithm) and _HEX.fullmatch(value) is not None


def is_tag(text: str) -> bool:
    """Whether `text` can be a tag's name."""
    return _TAG_ONLY.fullmatch(text) is not None


def quoted(text: str) -> str:
    """`text` of unknown origin, made fit for a message: in double quotes, printable ASCII, bounded."""
    return json.dumps(text if len(text) <= _QUOTED else f"{text[:_QUOTED]}...")


def _digest_fault(digest: str) -> str:
    if not digest:
        return ""
    algorithm, _, value = digest.partition(":")
    length = _DIGEST_HEX.get(algorithm)
    if length is None:
        return f"unsupported digest algorithm {quoted(algorithm)}; write a sha256, sha384 or sha512 digest"
    if len(value) != length:
        return f"wrong digest length: {algorithm} has {length} hexadecimal digits, here are {len(value)}"
    return ""


def _port_fault(host: str) -> str:
    _, colon, port = host.partition(":")
    # A leading zero would be a second name for the same registry, which policy and credentials would not recognise.
    if colon and (port.startswith("0") or len(port) > 5 or int(port) > 65535):
        return f"{quoted(port)} is no port; write a number from 1 to 65535"
    return ""


def _why_not(text: str) -> str:
    """What to tell the writer of a text that does not match the grammar; the likeliest slip first."""
    if not text:
        return f"it is empty; {_EXAMPLE}"
    if len(text) > _MAX_TEXT:
        return f"it has {len(text)} characters; {_EXAMPLE}"
    if any(not "!" <= character <= "~" for character in text):
        return f"it holds a space, a line break or a character that is not ASCII; {_EXAMPLE}"
    if "://" in text:
        return f"write it without the scheme, as {quoted(text.partition('://')[2])}"
    if (lowered := _REFERENCE.fullmatch(text.lower())) is not None:
        end = lowered.end("name")
        return f"repository names must be lowercase; write {quoted(text[:end].lower() + text[end:])}"
    return f"invalid format: {_why_not_in_part(text)}"


def _why_not_in_part(text: str) -> str:
    name, at, digest = text.partition("@")
    if at and re.fullmatch(_DIGEST, digest) is None:
        return "after @ belongs a digest, sha256: and 64 hexadecimal digits (a tag goes before the @)"
    if "[" in name:
        return f"an IPv6 address cannot be a registry's host here; use a host name; {_EXAMPLE}"
    colon = name.rfind(":")
    if colon > name.rfind("/") and not is_tag(name[colon + 1 :]):
        return _TAG_RULE
    host = name.partition("/")[0]
    if ":" in host and "/" in name and re.fullmatch(_HOST, host) is None:
        return f"{quoted(host)} is no host and port; a host has letters, digits, - and dots; {_EXAMPLE}"
    return f"parts are lowercase letters and digits, joined by one of . _ __ or dashes; {_EXAMPLE}"
