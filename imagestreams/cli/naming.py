"""What a command is about: streams, tags, images and workloads, in the words that people have for them."""

from __future__ import annotations

import enum
import re
from typing import TYPE_CHECKING, Final, NamedTuple

from imagestreams.cli.options import Misuse

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Kind(enum.Enum):
    STREAM = "stream"
    TAG = "tag"
    IMAGE = "image"
    DEPLOYMENT = "deployment"


_WORDS: Final[Mapping[Kind, tuple[str, ...]]] = {
    Kind.STREAM: ("streams", "stream", "is", "imagestreams", "imagestream"),
    Kind.TAG: ("tags", "tag", "istag", "istags", "imagestreamtags", "imagestreamtag"),
    Kind.IMAGE: ("images", "image", "isimage", "isimages", "imagestreamimages", "imagestreamimage"),
    Kind.DEPLOYMENT: ("deployments", "deployment", "deploy", "workloads", "workload"),
}
_KINDS: Final = {word: kind for kind, words in _WORDS.items() for word in words}

LISTED: Final = (Kind.STREAM, Kind.TAG, Kind.IMAGE)

_STREAM: Final = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?")
_TAG: Final = re.compile(r"\w[\w.-]{0,127}", re.ASCII)


class Target(NamedTuple):
    """One thing by kind and name; the name as it was typed."""

    kind: Kind
    name: str


def kind_of(word: str) -> Kind | None:
    """The kind that a word means, also in capitals and with its group: `is`, `Tags`, `deployments.apps`."""
    return _KINDS.get(word.lower().partition(".")[0])


def targets(words: Sequence[str], kinds: Sequence[Kind]) -> tuple[Target, ...]:
    """`KIND`, `KIND NAME...` or `KIND/NAME...` as kubectl reads them; of `KIND` alone the name is empty.

    Raises:
        Misuse: no kind, another than `kinds`, or both ways at once.
    """
    if "/" not in words[0]:
        for word in words[1:]:
            namespace, slash, name = word.rpartition("/")
            if slash:
                raise Misuse(
                    f"error: {word!r} is no name; for another namespace write: {words[0]} {name} -n {namespace}"
                )
    if any("/" in word for word in words):
        return tuple(_of_path(word, kinds) for word in words)
    kind = _known(words[0], kinds)
    return tuple(Target(kind, name) for name in words[1:]) or (Target(kind, ""),)


def _of_path(word: str, kinds: Sequence[Kind]) -> Target:
    kind, slash, name = word.partition("/")
    if not slash:
        raise Misuse(
            f"error: there is no need to name a kind apart from those before the slashes; write {word!r} as KIND/NAME"
        )
    if not name or "/" in name:
        raise Misuse(f"error: arguments of the form KIND/NAME have one kind and one name; seen {word!r}")
    return Target(_known(kind, kinds), name)


def _known(word: str, kinds: Sequence[Kind]) -> Kind:
    kind = kind_of(word)
    if kind is not None and kind in kinds:
        return kind
    known = ", ".join(f"{_WORDS[kind][0]} ({', '.join(_WORDS[kind][1:3])})" for kind in kinds)
    raise Misuse(f"error: {word!r} is none of {known}")


def split_tag(name: str) -> tuple[str, str]:
    """The stream and the tag of STREAM or STREAM:TAG; no tag is an empty one. Raises Misuse."""
    stream, colon, tag = name.partition(":")
    if _STREAM.fullmatch(stream) is None:
        raise Misuse(f"error: {stream!r} is no name of an image stream; write STREAM or STREAM:TAG, such as web:latest")
    if colon and _TAG.fullmatch(tag) is None:
        raise Misuse(f"error: {tag!r} is no tag; write letters, digits, '_', '.' and '-', at most 128")
    return stream, tag


_ID: Final = re.compile(r"(?:sha(?:256|384|512)[:-])?[0-9a-f]{4,128}")


def may_be_image(name: str) -> bool:
    """Whether a name without a stream can be a digest, or the begin of one."""
    return _ID.fullmatch(name) is not None


def split_image(name: str) -> tuple[str, str]:
    """The stream and the digest of DIGEST or STREAM@DIGEST; no stream is an empty one. Of the digest the begin will do,
    with or without `sha256:` (or as an Image's name has it, `sha256-`). Raises Misuse.
    """
    stream, at, digest = name.rpartition("@")
    if (at and _STREAM.fullmatch(stream) is None) or _ID.fullmatch(digest) is None:
        raise Misuse(
            f"error: {name!r} is no image; write STREAM@DIGEST or DIGEST, such as web@sha256:4f9a; four digits or more "
            "of its begin will do"
        )
    return stream, re.sub(r"^(sha[0-9]+)-", r"\1:", digest)


def is_image(digest: str, wanted: str) -> bool:
    """Whether a digest is, or begins as, what was asked for."""
    return digest.startswith(wanted) or digest.partition(":")[2].startswith(wanted)
