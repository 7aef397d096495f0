"""What `import-image` makes of a stream: which tags it asks for, what it changes in spec first, and what it refuses.

Pure. The rules and the words are those of `oc import-image`, with these differences: a tag's import mode is changed
only by the flag, and `--all --from` is kept in the stream's spec.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import click

from imagestreams.cli.lookups import Ask
from imagestreams.cli.naming import STREAM, TAG, kind_of, split_tag
from imagestreams.cli.options import NAMESPACE, Failure, Misuse
from imagestreams.core.reference import DEFAULT_TAG, ImageReference, InvalidReference
from imagestreams.core.stream import INSECURE_REPOSITORY_ANNOTATION

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from imagestreams.core.stream import ImageStream, TagReference

Object = dict[str, Any]


class Target(NamedTuple):
    """A stream, and a tag of it; None means all its tags. `source` is what the stream's name was given as, if that was
    a whole image.
    """

    stream: str
    tag: str | None
    source: str = ""


class Flags(NamedTuple):
    """What the flags say; None and "" mean that they were not given."""

    source: str = ""
    confirm: bool = False
    scheduled: bool = False
    insecure: bool | None = None
    reference_policy: str = ""
    import_mode: str = ""


class Plan(NamedTuple):
    """What is to be done.

    `edited` is the stream as it should be; `asked` are the tags to look up (none: all, and the repository); `images`
    and `repository` are what registries will be asked for; `warnings` are for the user.
    """

    edited: Object
    asked: frozenset[str]
    images: tuple[Ask, ...]
    repository: Ask | None
    warnings: tuple[str, ...]


def parse_target(text: str, *, all_tags: bool, confirm: bool = False) -> Target:
    """Read NAME, NAME:TAG or, as a name and its source in one, a whole image; raises click.UsageError with what to
    write instead. `confirm` says that the stream may be new.
    """
    before, slash, rest = text.partition("/")
    has_kind = bool(slash) and kind_of(before, (STREAM, TAG)) is not None
    name = rest if has_kind else text
    if "@" in name:
        raise click.UsageError(f"{text!r} names a digest, and a digest never changes; name a tag, such as web:latest")
    source = ""
    if "/" in name:
        namespace, _, rest = name.rpartition("/")
        if has_kind and NAMESPACE.fullmatch(namespace) is None:
            raise click.UsageError(f"{text!r} is no stream; write: import-image {name}")
        if has_kind or not (confirm or _is_host(name.partition("/")[0])):
            raise click.UsageError(f"{text!r} names a namespace; write it as: import-image {rest} -n {namespace}")
        name, source = rest, _image(name)
    try:
        stream, tag = split_tag(name)
    except Misuse as error:
        raise click.UsageError(error.message.removeprefix("error: ")) from error
    if tag and all_tags:
        raise click.UsageError(f"--all and the tag {tag!r} contradict each other; leave one out")
    return Target(stream, None if all_tags else tag or DEFAULT_TAG, source)


def _is_host(text: str) -> bool:
    return "." in text or ":" in text or text == "localhost"


def _image(text: str, *, all_tags: bool = False) -> str:
    """An image as the user wrote it."""
    try:
        reference = ImageReference.parse(text)
    except InvalidReference as error:
        raise click.UsageError(str(error)) from error
    if not reference.name:
        raise click.UsageError(f"{text!r} names a registry, not an image; add a repository, as in {text}/app:1.0")
    if all_tags and (reference.tag or reference.digest):
        raise click.UsageError(f"--all imports a whole repository, and {text!r} names one image of it; leave one out")
    return text


def checked(flags: Flags, target: Target) -> Flags:
    """The flags, with the source that the stream's name gave; raises click.UsageError."""
    if flags.source and target.source and flags.source != target.source:
        raise click.UsageError(f"{target.source!r} and --from={flags.source} name two sources; leave one out")
    source = flags.source or target.source
    return flags._replace(source=_image(source, all_tags=target.tag is None) if source else "")


def plan_import(value: Object, stream: ImageStream, target: Target, flags: Flags) -> Plan:
    """Decide on one stream.

    Args:
        value: the stream's JSON, which is changed into `Plan.edited`; without a resourceVersion: it is to be created.
        stream: the same, decoded.
        target: what to import.
        flags: see `checked`.

    Raises:
        Failure: it cannot be done as the stream is.
    """
    is_new = not stream.metadata.resource_version
    if is_new and not flags.confirm:
        raise Failure(f'error: no image stream named "{target.stream}" exists, pass --confirm to create and import')
    if is_new and not flags.source:
        raise Misuse(
            f'error: no image stream named "{target.stream}" exists, and nothing says where its images come from\n'
            f"  Name the source, such as: --from=quay.io/acme/{target.stream} --confirm"
        )
    planning = _Planning(value, stream, target, flags)
    return planning.all_tags() if target.tag is None else planning.one_tag(target.tag)


class _Planning:
    def __init__(self, value: Object, stream: ImageStream, target: Target, flags: Flags) -> None:
        self._value, self._stream, self._target, self._flags = value, stream, target, flags
        self._warnings: list[str] = []
        if stream.is_suspended:
            words = (
                "its imports are suspended (annotation imagestreams.dev/suspend); the request waits until they are not"
            )
            self._warnings.append(f"{target.stream}: {words}")

    def one_tag(self, tag: str) -> Plan:
        chain = self._chain(tag)
        if not chain:
            source = self._flags.source or (self._stream.repository if tag == DEFAULT_TAG else "")
            if not source:
                raise Failure(_unknown_tag(self._stream, tag, ()))
            return self._plan([self._new(tag, source)], frozenset({tag}))
        last = chain[-1]
        spec_tag = self._stream.spec_tag(last)
        given = f"{self._stream.repository}:{last}"
        present = (spec_tag.from_ and spec_tag.from_.name) or "" if spec_tag else given
        if self._flags.source and self._flags.source != present:
            way = f'points to the tag "{last}" which points to' if len(chain) > 1 else "points to"
            raise Failure(
                f'error: the tag "{tag}" {way} "{present}" - use the \'tag\' command if you want to change the source '
                f'to "{self._flags.source}"'
            )
        if spec_tag is None:  # one that only the repository gives, as long as nothing else is said of it
            if self._flags[2:] != Flags()[2:]:
                return self._plan([self._new(last, given)], frozenset({last}))
            return self._plan([], frozenset({last}), [Ask(given, last, self._stream.is_repository_insecure)])
        return self._plan([self._changed(last)], frozenset({last}))

    def _chain(self, tag: str) -> tuple[str, ...]:
        """Empty for a tag that is not there, and may be made."""
        if self._stream.spec_tag(tag) is None and not _is_of_repository(self._stream, tag):
            return ()
        return tags_to_report(self._stream, self._target)

    def all_tags(self) -> Plan:
        repository = self._stream.repository
        if self._flags.source and self._flags.source != repository:
            self._may_change_repository(repository)
            _part(self._value, "spec")["dockerImageRepository"] = repository = self._flags.source
        edited = [
            self._changed(tag.name)
            for tag in self._stream.spec_tags
            if tag.from_ and tag.from_.kind == "DockerImage" and not tag.reference
        ]
        if not repository:
            tags_to_report(self._stream, self._target)
            return self._plan(edited, frozenset())
        if self._flags.insecure:
            _part(self._value, "metadata", "annotations")[INSECURE_REPOSITORY_ANNOTATION] = "true"
        if self._flags.scheduled:
            self._warnings.append(
                f"--scheduled: tags that only the repository {repository} gives are not looked up on schedule"
            )
        is_insecure = bool(self._flags.insecure) or self._stream.is_repository_insecure
        asked = Ask(repository, is_insecure=is_insecure, import_mode=self._flags.import_mode)
        return self._plan(edited, frozenset(), repository=asked)

    def _may_change_repository(self, repository: str) -> None:
        if self._flags.confirm:
            return
        words = "does not currently import an entire container image repository"
        if repository:
            words = f'has a different import spec "{repository}"'
        raise Failure(f"error: the image stream {words}, pass --confirm to update")

    def _plan(
        self,
        tags: Sequence[Object],
        asked: frozenset[str],
        images: Sequence[Ask] = (),
        *,
        repository: Ask | None = None,
    ) -> Plan:
        found = (*(_ask(tag) for tag in tags), *images)
        return Plan(self._value, asked, found, repository, tuple(self._warnings))

    def _new(self, name: str, source: str) -> Object:
        flags = self._flags
        is_insecure = self._stream.is_repository_insecure if flags.insecure is None else flags.insecure
        policy: Object = {}
        if is_insecure:
            policy["insecure"] = True
        if flags.scheduled:
            policy["scheduled"] = True
        if flags.import_mode:
            policy["importMode"] = flags.import_mode
        tag: Object = {"name": name, "from": {"kind": "DockerImage", "name": source}}
        if policy:
            tag["importPolicy"] = policy
        if flags.reference_policy:
            tag["referencePolicy"] = {"type": flags.reference_policy}
        spec = _part(self._value, "spec")
        spec["tags"] = [*(spec.get("tags") or ()), tag]
        return tag

    def _changed(self, name: str) -> Object:
        """The tag of the stream's JSON, changed as the flags say."""
        flags = self._flags
        tag: Object = next(tag for tag in self._value["spec"]["tags"] if tag["name"] == name)
        policy = {**(tag.get("importPolicy") or {})}
        policy |= {
            **({"insecure": True} if flags.insecure else {}),
            **({"scheduled": True} if flags.scheduled else {}),
            **({"importMode": flags.import_mode} if flags.import_mode else {}),
        }
        if policy:
            tag["importPolicy"] = policy
        present = (tag.get("referencePolicy") or {}).get("type")
        if flags.reference_policy and not present:
            tag["referencePolicy"] = {"type": flags.reference_policy}
        elif flags.reference_policy and present != flags.reference_policy:
            self._warnings.append(
                f"{self._target.stream}:{name} keeps its reference policy, {present}; an import never changes that of "
                "a tag that has one, the `tag` command does"
            )
        return tag


def _part(value: Object, *path: str) -> Object:
    """The mapping at a path, made where there is none."""
    for name in path:
        if not isinstance(value.get(name), dict):
            value[name] = {}
        value = value[name]
    return value


def _ask(tag: Object) -> Ask:
    policy = tag.get("importPolicy") or {}
    return Ask(tag["from"]["name"], tag["name"], bool(policy.get("insecure")), policy.get("importMode") or "")


# ---- which tags of a stream an import is about ----


def tags_to_report(stream: ImageStream, target: Target) -> tuple[str, ...]:
    """The tags whose outcome is printed: all that have a source, or the one asked for and the tags that it follows, the
    last of which is looked up.

    Raises:
        Failure: there is nothing that could be imported.
    """
    if target.tag is None:
        tags = tuple(tag.name for tag in stream.spec_tags if tag.from_ is not None)
        if not tags and not stream.repository:
            raise Failure(f"error: the image stream {target.stream} has no tag with a source to import from")
        return (*tags, *_repository_tags(stream))
    if stream.spec_tag(target.tag) is None and _is_of_repository(stream, target.tag):
        return (target.tag,)
    chain: list[str] = []
    followed: str | None = target.tag
    while followed is not None:
        if followed in chain:
            raise Failure(f'error: tag "{target.tag}" follows itself ({" -> ".join([*chain, followed])})')
        tag = stream.spec_tag(followed)
        if tag is None:
            raise Failure(_unknown_tag(stream, followed, chain))
        chain.append(followed)
        followed = _followed(stream, tag)
    return tuple(chain)


def _is_of_repository(stream: ImageStream, tag: str) -> bool:
    return bool(stream.repository) and any(name == tag for name in _repository_tags(stream))


def _repository_tags(stream: ImageStream) -> Iterator[str]:
    """The tags that only the stream's repository gives, as far as status has them."""
    named = {tag.name for tag in stream.spec_tags}
    for recorded in (stream.status and stream.status.tags) or ():
        source = recorded.observed and recorded.observed.from_ and recorded.observed.from_.name
        if recorded.tag not in named and stream.repository and source == f"{stream.repository}:{recorded.tag}":
            yield recorded.tag


def _unknown_tag(stream: ImageStream, tag: str, chain: Sequence[str]) -> str:
    if chain:
        return f'error: tag "{chain[-1]}" points to the tag "{tag}", which does not exist on the image stream'
    known = ", ".join(sorted(tag.name for tag in stream.spec_tags))
    remedy = f"choose one of: {known}" if known else "it has none in its spec"
    recorded = " any more; its history stays in status" if stream.status_tag(tag) else ""
    return (
        f'error: the tag "{tag}" does not exist on the image stream{recorded} - {remedy}; or say with --from where its '
        "image comes from"
    )


def _followed(stream: ImageStream, tag: TagReference) -> str | None:
    """The tag of the same stream that `tag` points to, or None for one that is looked up itself."""
    source = tag.from_
    if source is None or not source.name:
        raise Failure(
            f'error: tag "{tag.name}" has no source (from): only pushes move it; the `tag` command gives it one'
        )
    if source.kind == "DockerImage":
        if tag.reference:
            raise Failure(
                f'error: tag "{tag.name}" is a reference (reference: true): "{source.name}" is never looked up'
            )
        return None
    if source.kind != "ImageStreamTag":
        raise Failure(
            f'error: tag "{tag.name}" points to existing {source.kind} "{source.name}", it cannot be re-imported'
        )
    owner, colon, name = source.name.rpartition(":")
    is_own = not source.namespace or source.namespace == stream.metadata.namespace
    if not is_own or (colon and owner != stream.metadata.name):
        place = f"{source.namespace}/{source.name}" if source.namespace else source.name
        raise Failure(f'error: tag "{tag.name}" points to an imagestreamtag from another ImageStream, "{place}"')
    return name or DEFAULT_TAG
