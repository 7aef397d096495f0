"""What a command is about, in the words that people have for it: the one grammar of its arguments.

    KIND NAME..., KIND/NAME...      where all is of one namespace, which -n names
    [NAMESPACE/]NAME                where another namespace's stream may be meant

So `a/b` is one or the other by the place where it stands. In the second it is refused where `a` is a kind as well;
KIND/NAMESPACE/NAME is a stream of a namespace that is called so. With its group, as `-o name` prints it, a kind is no
namespace, and KIND.GROUP/NAME is understood in both places.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic, NamedTuple, TypeVar

from imagestreams.cli.options import NAMESPACE, Misuse

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of objects: what people call it, the plural and the singular first, and the groups that may have it. No
    groups are ours.
    """

    words: tuple[str, ...]
    groups: tuple[str, ...]


STREAM: Final = Kind(("streams", "stream", "is", "imagestreams", "imagestream"), ())
TAG: Final = Kind(("tags", "tag", "istag", "istags", "imagestreamtags", "imagestreamtag"), ())
IMAGE: Final = Kind(("images", "image", "isimage", "isimages", "imagestreamimages", "imagestreamimage"), ())

LISTED: Final = (STREAM, TAG, IMAGE)

OF_STREAM: Final = Kind(IMAGE.words[2:], ())
"""`IMAGE` where `image` and `images` mean something else: a namespace, or an image in a registry."""

OBJECT: Final = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?")
"""The name of most objects, streams too: a DNS subdomain (RFC 1123)."""

_TAG: Final = re.compile(r"\w[\w.-]{0,127}", re.ASCII)

_Kind = TypeVar("_Kind", bound=Kind)


class Target(NamedTuple, Generic[_Kind]):
    """One thing by kind and name; the name as it was typed."""

    kind: _Kind
    name: str


def kind_of(word: str, kinds: Sequence[_Kind], *, is_versioned: bool = True) -> _Kind | None:
    """The one of these kinds that a word means, also in capitals and with its group: `is`, `Deployments.apps`; where
    `is_versioned`, also with the version before that: `deployments.v1.apps`.
    """
    plain, dot, group = word.lower().partition(".")
    found = [kind for kind in kinds if plain in kind.words]
    if dot:
        from imagestreams.settings import GROUPS, VERSION  # noqa: PLC0415  # 12 ms, which `--help` has no need of

        group = group.removeprefix(f"{VERSION}.") if is_versioned else group
        found = [kind for kind in found if group in (kind.groups or GROUPS)]
    return found[0] if found else None


def targets(words: Sequence[str], kinds: Sequence[_Kind]) -> tuple[Target[_Kind], ...]:
    """`KIND`, `KIND NAME...` or `KIND/NAME...` as kubectl reads them; of `KIND` alone the name is empty.

    Raises:
        Misuse: no kind, another than `kinds`, or both ways at once.
    """
    kind = kind_of(words[0], kinds)
    for word in words[1:] if kind else ():
        namespace, _, name = word.partition("/")
        if kind_of(namespace, kinds) is None and _may_be_namespace(namespace, name):
            raise Misuse(f"error: {word!r} is no name; for another namespace write: {words[0]} {name} -n {namespace}")
    if any("/" in word for word in words):
        return tuple(_of_path(word, kinds) for word in words)
    if kind is None:
        raise Misuse(f"error: {_none_of(words[0], kinds)}")
    return tuple(Target(kind, name) for name in words[1:]) or (Target(kind, ""),)


def target(word: str, kinds: Sequence[_Kind]) -> Target[_Kind]:
    """`KIND/NAME`, or `NAME` alone, which is of the first of these kinds; raises Misuse as `targets`."""
    return _of_path(word, kinds, may_be_bare=True) if "/" in word else Target(kinds[0], word)


def _of_path(word: str, kinds: Sequence[_Kind], *, may_be_bare: bool = False) -> Target[_Kind]:
    before, slash, name = word.partition("/")
    if not slash:
        raise Misuse(
            f"error: there is no need to name a kind apart from those before the slashes; write {word!r} as KIND/NAME"
        )
    kind = kind_of(before, kinds)
    if kind is None:
        form = f"{'' if may_be_bare else 'KIND/'}{name} -n {before}"
        hint = f"\n  If it is a namespace, write: {form}" if _may_be_namespace(before, name) else ""
        raise Misuse(f"error: {word!r}: {_none_of(before, kinds)}{hint}")
    if not name or "/" in name:
        hint = "\n  The namespace is named by -n" if name else ""
        raise Misuse(f"error: arguments of the form KIND/NAME have one kind and one name; seen {word!r}{hint}")
    return Target(kind, name)


def _may_be_namespace(word: str, name: str) -> bool:
    """Whether the user may have meant a namespace by the word before a name, and no kind that others know."""
    from imagestreams.cli.workloads import LOOKED_UP, WORKLOAD  # noqa: PLC0415  # which imports us

    is_path = bool(name) and "/" not in name and NAMESPACE.fullmatch(word) is not None
    return is_path and not is_kind(word, name) and kind_of(word, (WORKLOAD, *LOOKED_UP)) is None


def _none_of(word: str, kinds: Sequence[Kind]) -> str:
    known = (f"{kind.words[0]} ({', '.join(kind.words[1:3])})" for kind in kinds)
    return f"{word!r} is none of {', '.join(known if len(kinds) <= _FEW else (kind.words[1] for kind in kinds))}"


_FEW: Final = 4  # kinds that a line has room for with all their words


class Ambiguous(Misuse):
    """A name with what may be its kind or something else before it. The message has what to write for either."""


def is_kind(word: str, name: str) -> bool:
    """Whether a word is a kind that a name, of a stream, a tag or an image, may have before it."""
    kinds = (OF_STREAM,) if "@" in name else (STREAM, TAG)
    return OBJECT.match(name) is not None and kind_of(word, kinds, is_versioned=False) is not None


def split_namespace(text: str, *, is_sure: bool = False) -> tuple[str, str]:
    """The namespace, or none, and the rest of [NAMESPACE/]STREAM:TAG or [NAMESPACE/]STREAM@DIGEST. `is_sure` says that
    it is known which of them it is, so that what can be a namespace is one.

    Raises:
        Ambiguous: it may as well be the kind of what follows.
        Misuse: it is no namespace.
    """
    namespace, slash, name = text.rpartition("/")
    if not slash:
        return "", name
    kind, _, owner = namespace.rpartition("/")
    if is_kind(kind, name):
        namespace = owner
    elif is_kind(namespace, name):
        if NAMESPACE.fullmatch(namespace) is None:
            return "", name
        if is_sure:
            return namespace, name
        raise Ambiguous(
            f"error: {text!r}: a namespace stands before the slash here, and {namespace!r} is a kind as well\n"
            f"  If it is the kind, write: {name}\n"
            f"  If it is a namespace, write: {'isimage' if '@' in name else 'istag'}/{namespace}/{name}"
        )
    if NAMESPACE.fullmatch(namespace) is None:
        raise Misuse(f"error: {namespace!r} is no namespace; write [NAMESPACE/]STREAM:TAG, such as shop/web:latest")
    return namespace, name


def split_tag(name: str) -> tuple[str, str]:
    """The stream and the tag of STREAM or STREAM:TAG; no tag is an empty one. Raises Misuse."""
    stream, colon, tag = name.partition(":")
    if OBJECT.fullmatch(stream) is None:
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
    if (at and OBJECT.fullmatch(stream) is None) or _ID.fullmatch(digest) is None:
        raise Misuse(
            f"error: {name!r} is no image; write STREAM@DIGEST or DIGEST, such as web@sha256:4f9a; four digits or more "
            "of its begin will do"
        )
    return stream, re.sub(r"^(sha[0-9]+)-", r"\1:", digest)


def is_image(digest: str, wanted: str) -> bool:
    """Whether a digest is, or begins as, what was asked for."""
    return digest.startswith(wanted) or digest.partition(":")[2].startswith(wanted)
