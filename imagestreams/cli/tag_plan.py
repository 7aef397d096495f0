"""What `tag` makes of a stream: where a tag comes from, and what becomes of the entry that it had.

Pure. Sources are guessed, and words are chosen, as by `oc tag`; the entry of an existing tag keeps its notes, its
import mode and its reference policy unless flags say otherwise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from imagestreams.cli import naming
from imagestreams.cli.naming import (
    OBJECT,
    OF_STREAM,
    Ambiguous,
    Kind,
    is_image,
    is_kind,
    kind_of,
    split_image,
    split_namespace,
    split_tag,
)
from imagestreams.cli.options import NAMESPACE, Failure, Misuse
from imagestreams.cli.pinning import unpinned
from imagestreams.cli.request import forget
from imagestreams.core.reference import ImageReference, InvalidReference, is_digest
from imagestreams.core.stream import FORGET_ANNOTATION

if TYPE_CHECKING:
    from imagestreams.core.stream import ImageStream

Object = dict[str, Any]

IMAGE: Final = "DockerImage"
TAG: Final = "ImageStreamTag"
ID: Final = "ImageStreamImage"

_SOURCES: Final = {naming.TAG: TAG, OF_STREAM: ID, Kind(("docker", "dockerimage"), ()): IMAGE}


class Source(NamedTuple):
    """Where a tag is to come from: `name` as `from.name` has it, `namespace` as the user wrote it, or empty."""

    kind: str
    name: str
    namespace: str = ""

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


class Destination(NamedTuple):
    """A tag that is written; `text` is how the user named it, without the namespace."""

    namespace: str
    stream: str
    tag: str

    @property
    def text(self) -> str:
        return f"{self.stream}:{self.tag}"


class Entry(NamedTuple):
    """What the flags make of a tag; "" means that the flag was not given."""

    is_reference: bool = False
    is_scheduled: bool = False
    is_insecure: bool = False
    reference_policy: str = ""
    import_mode: str = ""


def parse_source(text: str, kind: str = "") -> Source:
    """Read SRC; `kind` is the flag --source, or empty: guessed. Raises Misuse."""
    if kind:
        said = kind_of(kind, list(_SOURCES))
        if said is None:
            raise Misuse(
                f"error: --source={kind} is none of istag (imagestreamtag), isimage (imagestreamimage) and docker"
            )
        wanted = _SOURCES[said]
    else:
        wanted = _guessed(text)
    if wanted == IMAGE:
        return Source(IMAGE, _image(text))
    try:
        return of_stream(text, wanted, is_sure=bool(kind))
    except Ambiguous:
        raise
    except Misuse as error:
        example = "<name>:<tag>" if wanted == TAG else "<name>@<id>"
        raise Misuse(f"error: --source={wanted} requires a valid {example} in SOURCE, and {text!r} is none") from error


def of_stream(text: str, kind: str, *, is_sure: bool = False) -> Source:
    """Read [NAMESPACE/]STREAM:TAG or [NAMESPACE/]STREAM@DIGEST, of which the begin will do; `is_sure` is that of
    `split_namespace`. Raises Misuse.
    """
    namespace, name = split_namespace(text, is_sure=is_sure)
    stream, rest = split_tag(name) if kind == TAG else split_image(name)
    if not stream or not rest:
        form = "STREAM:TAG" if kind == TAG else "STREAM@DIGEST"
        raise Misuse(f"error: {text!r} is not of the form [NAMESPACE/]{form}")
    return Source(kind, f"{stream}{':' if kind == TAG else '@'}{rest}", namespace)


def check(source: Source, *, is_alias: bool, is_scheduled: bool) -> None:
    """Whether the flags fit the source; raises Misuse."""
    if is_alias and source.kind != TAG:
        raise Misuse(f"error: --alias follows a tag of a stream, and {source} is none; write [NAMESPACE/]STREAM:TAG")
    if is_scheduled and source.kind != IMAGE:
        raise Misuse(
            f"error: only an image in a registry is looked up on schedule, and {source} is of a stream\n"
            "  To follow a tag as it moves: --alias. If it is an image of Docker Hub: --source=docker"
        )


def _guessed(text: str) -> str:
    """As `oc` guesses: what names a registry is an image, and so is what could be a stream without a tag. Raises
    Ambiguous for a stream by its kind that has no tag.
    """
    first, slash, rest = text.partition("/")
    if slash and is_kind(first, rest):
        namespace, inner, stream = rest.rpartition("/")
        if OBJECT.fullmatch(stream) and (not inner or NAMESPACE.fullmatch(namespace)):
            raise Ambiguous(
                f"error: {text!r}: {first!r} is a kind, and a tag is missing\n"
                f"  Write the tag: {rest}:latest\n"
                "  If it is an image of Docker Hub: --source=docker"
            )
        return ID if "@" in rest else TAG
    named = kind_of(first, naming.LISTED, is_versioned=False) if slash and "." in first else None
    if named:  # no registry is called so, and it is no name of that kind
        return ID if named is naming.IMAGE else TAG
    if slash and ("/" in rest or "." in first or ":" in first or first == "localhost"):
        return IMAGE
    if "@" in text:
        return ID
    return TAG if ":" in text else IMAGE


def _image(text: str) -> str:
    try:
        reference = ImageReference.parse(text)
    except InvalidReference as error:
        raise Misuse(f"error: {error}") from error
    if not reference.name:
        raise Misuse(f"error: {text!r} names a registry, not an image; add a repository, as in {text}/app:1.0")
    return text


def parse_destination(text: str, namespace: str) -> Destination:
    """Read [NAMESPACE/]STREAM:TAG; `namespace` is the present one. Raises Misuse."""
    if not all(text.rpartition("/")[2].partition(":")):
        raise Misuse(f'error: "{text}" must be of the form <stream_name>:<tag>')
    owner, name = split_namespace(text)
    return Destination(owner or namespace, *split_tag(name))


def refuse_itself(source: Source, destination: Destination, namespace: str) -> None:
    """A tag that is given itself would lose where it comes from. `namespace` is the present one. Raises Misuse."""
    is_same = source.kind == TAG and source.name == destination.text
    if is_same and (source.namespace or namespace) == destination.namespace:
        raise Misuse(
            f"error: {destination.text} would be its own source, and lose the one that it has; nothing is changed\n"
            f"  To hold it at the image that it has: imagestreams rollback {destination.text} --to DIGEST\n"
            f"  What that is: imagestreams history {destination.text}"
        )


def is_whole(source: Source) -> bool:
    """Whether a source is an image by its whole digest."""
    return source.kind == ID and is_digest(source.name.rpartition("@")[2])


def frozen(source: Source, stream: ImageStream) -> Source:
    """The image that a tag has now, so that the new tag does not move with it; or that a begin of a digest means.

    Args:
        source: a tag or an image of `stream`.
        stream: as it is now.

    Raises:
        Failure: there is none, or there are several.
    """
    if source.kind == ID:
        return _whole(source, stream)
    recorded = stream.status_tag(source.name.partition(":")[2])
    newest = recorded.newest if recorded else None
    if newest is None:
        known = sorted(tag.tag for tag in (stream.status and stream.status.tags) or () if tag.newest)
        others = f"; these tags are: {', '.join(known)}" if known else ""
        raise Failure(
            f'error: "{source}" is not currently pointing to an image, cannot use it as the source of a tag{others}'
        )
    if newest.image:
        return source._replace(kind=ID, name=f"{stream.metadata.name}@{newest.image}")
    try:
        return Source(IMAGE, str(ImageReference.parse(newest.docker_image_reference)))
    except InvalidReference as error:
        raise Failure(
            f'error: the image stream tag "{source}" has an invalid pull spec and cannot be used to tag: {error}'
        ) from error


def _whole(source: Source, stream: ImageStream) -> Source:
    owner, _, begin = source.name.rpartition("@")
    events = [event for tag in (stream.status and stream.status.tags) or () for event in tag.items or ()]
    digests = {event.image for event in events if event.image and is_image(event.image, begin)}
    if len(digests) != 1:
        found = " and ".join(sorted(digests)[:3])
        words = f"could be {found}; write more of it" if found else f"is not in the history of {owner}"
        raise Failure(f"error: the image {source} {words}")
    return source._replace(name=f"{owner}@{digests.pop()}")


def set_tag(value: Object, destination: Destination, source: Source, entry: Entry, namespace: str) -> tuple[str, ...]:
    """Point the tag to the source, in the stream's JSON; gives what the user should be told of it.

    `namespace` is the present one, which a source without one is in.

    Raises:
        Failure: the tag would follow itself.
    """
    tags = _tags(value)
    old = next((tag for tag in tags if tag.get("name") == destination.tag), None)
    new = {"name": destination.tag, **(old or {})}
    new["from"] = reference_to(source, destination, namespace)
    new.pop("reference", None)
    if entry.is_reference:
        new["reference"] = True
    policy = {**(new.pop("importPolicy", None) or {})}
    was_scheduled = bool(policy.pop("scheduled", False))
    policy.pop("insecure", None)
    policy |= {
        **({"insecure": True} if entry.is_insecure else {}),
        **({"scheduled": True} if entry.is_scheduled else {}),
        **({"importMode": entry.import_mode} if entry.import_mode else {}),
    }
    if policy:
        new["importPolicy"] = policy
    if entry.reference_policy:
        new["referencePolicy"] = {"type": entry.reference_policy}
    if old is None:
        tags.append(new)
    else:
        tags[tags.index(old)] = new
    value["spec"] = {**(value.get("spec") or {}), "tags": tags}
    refuse_circle(value, destination)
    said = list[str]()
    if old is not None and old.get("from") and old["from"] != new["from"]:
        said.append(f"its source was {_shown(old['from'])}")
    if was_scheduled and not entry.is_scheduled:
        said.append("it is not looked up on schedule any more; --scheduled keeps that")
    return tuple(said)


def _shown(reference: Object) -> str:
    kind, name, owner = (str(reference.get(field) or "") for field in ("kind", "name", "namespace"))
    return f"{'' if kind == IMAGE else f'{kind} '}{f'{owner}/' if owner else ''}{name}"


def reference_to(source: Source, destination: Destination, namespace: str) -> Object:
    """The source as the tag's `from` has it; without a namespace it is of the present one."""
    if source.kind == IMAGE:
        return {"kind": IMAGE, "name": source.name}
    owner = source.namespace or namespace
    other = {} if owner == destination.namespace else {"namespace": owner}
    return {"kind": source.kind, "name": source.name, **other}


def refuse_circle(value: Object, destination: Destination) -> None:
    """Raises Failure where a tag of the stream's JSON follows itself; of tags in other streams the controller tells."""
    sources = {tag.get("name"): tag.get("from") or {} for tag in _tags(value)}
    passed: list[str] = []
    followed: str | None = destination.tag
    while followed is not None and followed not in passed:
        passed.append(followed)
        followed = _own_tag(sources.get(followed) or {}, destination)
    if followed is not None:
        way = " -> ".join(f"{destination.stream}:{tag}" for tag in (*passed, followed))
        raise Failure(f"error: {destination.text} would follow itself ({way}); nothing is changed")


def _own_tag(source: Object, destination: Destination) -> str | None:
    """The tag of the same stream that a source names, if it does."""
    if source.get("kind") != TAG or (source.get("namespace") or destination.namespace) != destination.namespace:
        return None
    owner, colon, name = str(source.get("name") or "").rpartition(":")
    return None if colon and owner != destination.stream else name


def delete_tag(value: Object, stream: ImageStream, destination: Destination, mark: str) -> tuple[str, ...]:
    """Take a tag and its history out of the stream's JSON, as far as it is ours to write: the entry of spec, its pin,
    and a request to drop the history. `mark` is a nonce. Gives what the user should be told.

    Raises:
        Failure: there is no such tag, or it would come back.
    """
    tags = _tags(value)
    left = [tag for tag in tags if tag.get("name") != destination.tag]
    recorded = stream.status_tag(destination.tag)
    name = f"{destination.namespace}/{destination.text}"
    if len(left) == len(tags) and recorded is None:
        raise Failure(f"error: destination tag {name} does not exist")
    origin = recorded.observed.from_.name if recorded and recorded.observed and recorded.observed.from_ else None
    if len(left) == len(tags) and stream.repository and origin == f"{stream.repository}:{destination.tag}":
        raise Failure(
            f"error: {name} comes from the repository {stream.repository} (spec.dockerImageRepository) and would come "
            "back; take it out of the registry, or list the tags that you want instead of the repository"
        )
    value["metadata"] = metadata = unpinned(value, destination.tag)["metadata"]
    if recorded is not None:
        request = forget(stream, frozenset({destination.tag}), mark).value
        metadata["annotations"] = {**(metadata.get("annotations") or {}), FORGET_ANNOTATION: request}
    if len(left) < len(tags):
        value["spec"]["tags"] = left
    followers = [
        str(tag.get("name")) for tag in left if _own_tag(tag.get("from") or {}, destination) == destination.tag
    ]
    said = [f"{destination.stream}:{follower} follows it, and stays what it was" for follower in followers]
    if recorded is not None:
        said.append("its history goes as soon as the controller has seen this")
    return tuple(said)


def _tags(value: Object) -> list[Object]:
    return list((value.get("spec") or {}).get("tags") or ())
