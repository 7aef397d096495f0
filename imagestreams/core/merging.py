"""What answers, and the tags that need none, make of a stream's status: history, conditions, Ready.

A tag that follows another stream of its own namespace simply has what that one has. What is another namespace's is
shown only by right: whatever would change here by it counts as absent until the key of that stream is in `may_pull`,
and `Update.rights` names the keys that this was decided by. Nothing is asked for while nothing would change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import assert_never

import msgspec

from imagestreams.core import stream as api
from imagestreams.core.duration import show_duration
from imagestreams.core.flap import judge
from imagestreams.core.following import Chains, ImageIndex, Recorded, Streams, copy_of, no_streams
from imagestreams.core.importing import (
    FLAPPING,
    IMPORTING,
    REPOSITORY,
    Progress,
    Selection,
    TagProgress,
    listing_attempt,
    selection_of,
)
from imagestreams.core.lookup import Answer, Deferred, Described, Failed, Listed, Listing, Resolved, Served, Source
from imagestreams.core.pins import parse_pins
from imagestreams.core.reference import is_tag, quoted
from imagestreams.core.stream import MAX_HOPS, ImageStream, ObjectKey, TagEvent
from imagestreams.core.wish import (
    AskRegistry,
    FindImage,
    FollowTag,
    ImportRules,
    ListRepository,
    RecordReference,
    Refuse,
    Wanted,
    Wish,
    Wishes,
    annotation_problems,
    asked_for,
    handled,
    interval_of,
    open_forget,
    open_refresh,
    parse_request,
    repository_of,
    wanted_of,
)

LOOK_AGAIN = timedelta(seconds=60)
"""When to look again at what another namespace did not give: nobody tells when a right is given."""

_REINDEX = timedelta(hours=1)
"""How often at most another index with the same image is written down."""

_NAMED = 5  # how many tags or hosts a message or the TAGS column names before it counts the rest
_NOBODYS = frozenset({"NotFound", "NotAnImage"})
"""Failures that do not keep a stream from being ready where only its repository gives the tag: nobody named it."""


# --- what people hear of ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TagMoved:
    """A tag points to a new image; `old` is empty at its first import. Both are pull specs."""

    tag: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class TagFailed:
    """A tag began to fail, or fails for another reason than before."""

    tag: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class TagRecovered:
    """A tag that failed is imported again, unchanged."""

    tag: str


@dataclass(frozen=True, slots=True)
class TagPinned:
    """A tag is held from now on; `words` say at what, by whom and why."""

    tag: str
    words: str


@dataclass(frozen=True, slots=True)
class TagResumed:
    """A tag that was held follows its source again."""

    tag: str


@dataclass(frozen=True, slots=True)
class PinsAmiss:
    """Something is wrong with the stream's pins that was not wrong before, or was not the same."""

    message: str


@dataclass(frozen=True, slots=True)
class RepositoryImported:
    """All that is wanted of a repository was looked up. What its tags are at first is not told one by one."""

    repository: str
    message: str


@dataclass(frozen=True, slots=True)
class RepositoryFailed:
    """A repository's tags cannot be listed, or not for another reason than before."""

    repository: str
    reason: str
    message: str


Transition = (
    TagMoved | TagFailed | TagRecovered | TagPinned | TagResumed | PinsAmiss | RepositoryImported | RepositoryFailed
)


@dataclass(frozen=True, slots=True)
class Update:
    """What a round makes of a stream: its status to be, whether that must be written, what people should hear of, and
    the memory after the write.

    `rights` are the streams of other namespaces whose tags would change something here, or do; `look_again` is when to
    ask anew for a right that was not given (aware).
    """

    stream: ImageStream
    is_changed: bool
    transitions: tuple[Transition, ...]
    progress: Progress
    rights: frozenset[ObjectKey] = frozenset()
    look_again: datetime | None = None


def merge_status(
    stream: ImageStream,
    answers: Iterable[Answer],
    progress: Progress,
    *,
    now: datetime,
    rules: ImportRules,
    streams: Streams = no_streams,
    may_pull: frozenset[ObjectKey] = frozenset(),
    unasked: frozenset[ObjectKey] = frozenset(),
    wishes: Wishes | None = None,
) -> Update:
    """Decide what the answers, and the tags that need none, make of the stream's status.

    An answer counts only for the stream (uid) and the source that it was asked for: for another one it is dropped.
    Nothing is changed when nothing happened, so that an idle poll writes nothing.

    Args:
        stream: as it is in the cluster, status included.
        answers: what has arrived for it.
        progress: what earlier rounds of this process left.
        now: dates events and conditions (aware); the status keeps whole seconds.
        rules: the administrator's.
        streams: the other streams, as they are now.
        may_pull: the streams of other namespaces that the stream's namespace may pull from.
        unasked: those of which that is not known yet: nothing is said of a tag that has something of one of them. A new
            one is not there as far as is known, in the same words as always.
        wishes: the stream's, of earlier rounds.
    """
    arrived = tuple(answer for answer in answers if answer.ticket.uid == stream.metadata.uid)
    others = _Others(stream, streams, may_pull, unasked)
    merge = _Merge(stream, dict(progress), api.whole_seconds(now), rules, others, wishes=wishes)
    merge.forget()
    merge.hold()
    merge.take_listing(arrived)
    merge.release()
    merge.take(arrived)
    merge.settle_unasked()
    merge.mark_pins()
    status = merge.status()
    return Update(
        stream.with_status(status),
        merge.is_worth_writing(status),
        tuple(merge.transitions),
        merge.progress,
        frozenset(merge.others.rights),
        now + LOOK_AGAIN if merge.others.is_blind else None,
    )


class _Others:
    """What the other streams have, and for which of it the stream's namespace has the right.

    `rights` are the streams that it was asked for; `is_blind` says that something is kept from us, or may be, of which
    nobody tells when it comes.
    """

    def __init__(
        self, stream: ImageStream, streams: Streams, may_pull: frozenset[ObjectKey], unasked: frozenset[ObjectKey]
    ) -> None:
        self._namespace, self._streams, self._may_pull = stream.metadata.namespace, streams, may_pull
        self.unasked = unasked
        self._indexes: dict[ObjectKey, ImageIndex] = {}
        self._tags: dict[ObjectKey, dict[str, api.StatusTag]] = {}
        self._seen: set[ObjectKey] = set()  # a tag of them was asked for
        self.chains = Chains(stream, streams)
        self.rights: set[ObjectKey] = set()
        self.is_blind = False

    def get(self, key: ObjectKey) -> ImageStream | None:
        return self._streams(key)

    def tag(self, key: ObjectKey, name: str) -> api.StatusTag | None:
        """What a stream's status says of a tag. Who asks for one tag is not worth an index of them all."""
        found = self._tags.get(key)
        if found is not None:
            return found.get(name)
        stream = self._streams(key)
        if key not in self._seen:
            self._seen.add(key)
            return stream.status_tag(name) if stream else None
        self._tags[key] = {tag.tag: tag for tag in _tags_of(stream)}
        return self._tags[key].get(name)

    def images(self, key: ObjectKey) -> ImageIndex:
        """The images of a stream's history."""
        if key not in self._indexes:
            self._indexes[key] = ImageIndex(_tags_of(self._streams(key)))
        return self._indexes[key]

    def is_own_namespace(self, key: ObjectKey) -> bool:
        return key.namespace == self._namespace

    def allows(self, key: ObjectKey) -> bool:
        """Whether what the stream `key` has may change something here."""
        if self.is_own_namespace(key):
            return True
        self.rights.add(key)
        return key in self._may_pull


def _tags_of(stream: ImageStream | None) -> tuple[api.StatusTag, ...]:
    return (stream and stream.status and stream.status.tags) or ()


def _is_marked(tag: api.StatusTag) -> bool:
    """Whether the status says that the tag is pinned. Nearly all have one condition of another type: a quick no."""
    conditions = tag.conditions or ()
    is_plain = len(conditions) == 1 and conditions[0].type == api.IMPORT_SUCCESS
    return bool(conditions) and not is_plain and tag.pinned is not None


class _Merge:
    """The working copy of one merge; `merge_status` tells the order of its steps."""

    def __init__(
        self,
        stream: ImageStream,
        progress: dict[str, TagProgress],
        now: datetime,
        rules: ImportRules,
        others: _Others,
        *,
        wishes: Wishes | None,
    ) -> None:
        self._stream, self._now, self._rules, self.others, self._wishes = stream, now, rules, others, wishes
        self._old = stream.status or api.Status()
        self._tags: dict[str, api.StatusTag] = {tag.tag: tag for tag in self._old.tags or ()}
        self._repository = repository_of(stream, rules)
        self._wanted = Wanted({})
        self._forgotten: str | None = None
        self._listing_failure: tuple[str, str] | None = None
        self._imported: Selection | None = None  # the listing that is complete with this merge
        self._crowded: set[str] = set()
        self._awaited: set[str] = set()  # tags that follow one whose first answer has not come
        self._pins = parse_pins(stream.annotations.pins)
        self._held: dict[str, str | None] = {}  # the image that a tag is held at; None: at nothing at all
        self._pin_problems: list[str] = []
        self._marked = {tag.tag: tag for tag in self._tags.values() if _is_marked(tag)}
        self.progress = progress
        self.transitions: list[Transition] = []

    def forget(self) -> None:
        """Drop the history of tags that a forget request names and spec does not have."""
        request = open_forget(self._stream)
        if request is None:
            return
        for tag in request.tags - {tag.name for tag in self._stream.spec_tags}:
            self._tags.pop(tag, None)
        self._forgotten = request.value

    # --- pins

    def hold(self) -> None:
        """Put the images that are pinned on top of their tags' history, before anybody reads it."""
        for name in self._pins.pins.keys() & self._tags.keys():
            tag, image = self._tags[name], self._pins.pins[name].digest
            pinned = next((item for item in tag.items or () if item.image == image), None)
            if pinned is not None and pinned is not tag.newest:
                event = TagEvent(
                    created=self._now,
                    docker_image_reference=pinned.docker_image_reference,
                    image=pinned.image,
                    generation=self._stream.metadata.generation,
                )
                items = (event, *(tag.items or ()))[: self._rules.history_limit]
                self._tags[name] = tag.with_items(items, newest_revision=tag.newest_revision + 1)
        self._held.update({name: pin.digest for name, pin in self._pins.pins.items()})
        for name, tag in self._marked.items():
            if name not in self._held and self._pins.is_unclear(name):
                self._held[name] = (tag.newest.image or None) if tag.newest else None

    def release(self) -> None:
        """Have the registry asked what the tags are that are not pinned any more. Until it has answered, the status
        says nothing of what it serves: a process that begins in between asks, too.
        """
        for name in self._marked.keys() - self._held.keys():
            tag, wish = self._tags.get(name), self._wanted.tags.get(name)
            observed = tag.observed_at(wish.source) if tag and isinstance(wish, AskRegistry) else None
            if tag is None or observed is None or (tag.newest and tag.newest.image == observed.digest):
                continue
            self._tags[name] = msgspec.structs.replace(tag, observed=msgspec.structs.replace(observed, digest=None))
            if memory := self.progress.get(name):
                self.progress[name] = replace(memory, is_hinted=True, steady=None, beside=None, resumed=self._now)

    def mark_pins(self) -> None:
        """Say of each tag whether it is held, and of the pins what is wrong with them."""
        self._pin_problems += self._pins.problems
        for name in sorted(self._pins.pins.keys() - self._tags.keys()):
            if name not in self._wanted.tags and not self._is_unlisted(self._stream, self._repository):
                self._pin_problems.append(f"tag {quoted(name)} is pinned, but the stream does not have it")
        for name in sorted((self._held.keys() | self._marked.keys()) & self._tags.keys()):
            tag, before = self._tags[name], self._marked[name].pinned if name in self._marked else None
            condition = self._pin_condition(name, tag, before)
            others = tuple(each for each in tag.conditions or () if each.type != api.PINNED)
            self._tags[name] = msgspec.structs.replace(tag, conditions=others + ((condition,) if condition else ()))
            if condition is None and before is not None and before.status == "True":
                self.transitions.append(TagResumed(name))
            elif condition is not None and condition.status == "True" and condition != before:
                self.transitions.append(TagPinned(name, condition.message or ""))
        said = (self._old.ready.message if self._old.ready else None) or ""
        if self._pin_problems and self._problems_of_pins() not in said:
            self.transitions.append(PinsAmiss(self._problems_of_pins().removeprefix("; ")))

    def _pin_condition(self, name: str, tag: api.StatusTag, before: api.TagCondition | None) -> api.TagCondition | None:
        pin = self._pins.pins.get(name)
        if pin is None:
            return before if name in self._held else None
        if tag.newest is not None and tag.newest.image == pin.digest:
            status, reason, message = "True", "Pinned", f"held at {pin}"
        else:
            words = f"{pin.digest} is not in its history"
            status, reason, message = "False", "NotInHistory", f"{words}; the tag stays as it is"
            self._pin_problems.append(f"tag {quoted(name)} is pinned, but {words}; it stays as it is")
        if before is not None and (before.status, before.reason, before.message) == (status, reason, message):
            return before
        return api.TagCondition(
            type=api.PINNED,
            status=status,
            reason=reason,
            message=message,
            last_transition_time=before.last_transition_time if before and before.status == status else self._now,
            generation=self._stream.metadata.generation,
        )

    def _problems_of_pins(self) -> str:
        """Each remark begun with "; ", as those of the other annotations."""
        problems = self._pin_problems
        more = [f"{len(problems) - _NAMED} more pins are amiss"] if len(problems) > _NAMED else []
        return "".join(f"; {problem}" for problem in [*problems[:_NAMED], *more])

    # --- what registries answered

    def take_listing(self, answers: Iterable[Answer]) -> None:
        """Take what was answered for the repository, so that it is known which tags are wanted."""
        wish = self._repository
        for answer in answers:
            if answer.ticket.tag != REPOSITORY or not isinstance(wish, ListRepository):
                continue
            if answer.ticket.source != wish.source or self._stream.is_suspended:
                continue
            memory = (self.progress.get(REPOSITORY) or TagProgress(wish.source)).after(answer, self._rules)
            match answer.outcome, answer.ticket.question:
                case Listed() as listed, Listing(limit=limit):
                    memory = replace(memory, selected=self._selection(listed, limit))
                case Failed(reason=reason, message=message), _:
                    self._listing_failure = reason, message
                case _:
                    pass  # nothing is known yet
            self.progress[REPOSITORY] = memory
        names = selected.tags if (selected := self._selected) else ()
        self._wanted = wanted_of(self._stream, self._rules, wish, self._tags, names, wishes=self._wishes)

    def _selection(self, listed: Listed, limit: int) -> Selection:
        spec = {tag.name for tag in self._stream.spec_tags}
        usable = tuple(tag for tag in dict.fromkeys(listed.tags[:limit]) if is_tag(tag))
        found = max(listed.found, len(usable))
        return Selection(
            tags=tuple(tag for tag in usable if tag not in spec),
            found=found,
            left_out=found - len(usable),
            limit=limit,
            is_complete=listed.is_complete,
        )

    def take(self, answers: Iterable[Answer]) -> None:
        """Take what was answered for tags. While imports are suspended no answer counts; it is asked for again."""
        for answer in answers:
            tag, wish = answer.ticket.tag, self._wanted.tags.get(answer.ticket.tag)
            if self._stream.is_suspended:
                if tag in self.progress:
                    self.progress[tag] = self.progress[tag].withdrawn()
                continue
            if not isinstance(wish, AskRegistry) or wish.source != answer.ticket.source:
                continue
            memory = self.progress.get(tag) or TagProgress(wish.source)
            self.progress[tag] = memory.after(answer, self._rules)
            match answer.outcome:
                case Resolved() as resolved:
                    self._take_image(tag, wish, resolved, answer, memory)
                case Failed(reason=reason, message=message):
                    self._fail(tag, wish.source, reason, message)
                case Deferred() | Listed() | Described():
                    pass  # nothing is known yet, or something else was answered than was asked: the status stays
                case _:
                    assert_never(answer.outcome)

    def _take_image(self, tag: str, wish: AskRegistry, resolved: Resolved, answer: Answer, memory: TagProgress) -> None:
        image = resolved.served.image
        old = self._tags.get(tag)
        before = old.observed_at(wish.source) if old else None
        if tag in self._held:
            self.progress[tag] = replace(self.progress[tag], steady=None, beside=resolved.served)
        elif old is not None and before is not None and before.digest and not _is_named(answer, tag):
            verdict = judge(
                _since(old.items or (), memory.resumed),
                image,
                steady=memory.steady,
                was_flapping=_is_kept(old, memory),
                now=answer.at,
                window=self._rules.flap_window,
            )
            memory = replace(self.progress[tag], steady=verdict.steady)
            if verdict.keep and old.newest:
                spec_tag = self._stream.spec_tag(tag)
                if not (spec_tag and spec_tag.is_scheduled):
                    memory = replace(memory, retry_at=answer.at + self._rules.flap_window / 4)
                self.progress[tag] = memory
                self._fail(tag, wish.source, FLAPPING, self._flapping(wish, old.newest))
                return
            self.progress[tag] = memory
        else:
            self.progress[tag] = replace(self.progress[tag], steady=None)
        digest = self._digest_to_record(tag, wish.source, resolved.served, answer.at)
        self._succeed(tag, wish.source, digest, str(resolved.recorded.pinned(image)), image)

    def _digest_to_record(self, tag: str, source: Source, served: Served, now: datetime) -> str:
        """What to say that the tag serves. Another index with the image that the tag has already is no news, and only
        saves a request when it is asked for again: it is written now and then, not whenever the registry changes it.
        """
        old, memory = self._tags.get(tag), self.progress[tag]
        before = old.observed_at(source) if old else None
        if old is None or before is None or not before.digest or before.digest == served.digest:
            return served.digest
        if old.newest is None or old.newest.image != served.image:
            return served.digest
        if memory.reindexed is not None and now - memory.reindexed < _REINDEX:
            return before.digest
        self.progress[tag] = replace(memory, reindexed=now)
        return served.digest

    def _flapping(self, wish: AskRegistry, newest: TagEvent) -> str:
        window = show_duration(self._rules.flap_window)
        return (
            f"{newest.image} is kept: {wish.reference.host} keeps answering with digests that the tag had left, as a "
            "stale replica or mirror does; the tag follows again when a digest is answered that it never had, or the "
            f"same one for {window}, or when a refresh request names it"
        )

    # --- tags that no registry is asked for

    def settle_unasked(self) -> None:
        """Decide the tags that no registry is asked for.

        Whoever has an image of this stream by its id comes after those that bring images into it, and tags that follow
        come after what they follow.
        """
        if self._stream.is_suspended:
            return
        wishes = self._wanted.tags
        own_images: dict[str, FindImage] = {}
        for tag, wish in wishes.items():
            match wish:
                case RecordReference(source=source, pull_spec=pull_spec):
                    self._succeed(tag, source, "", pull_spec, "")
                case Refuse(source=source, reason=reason, message=message):
                    self._fail(tag, source, reason, message)
                case FindImage(stream=key) if key == self._stream.key:
                    own_images[tag] = wish
                case FindImage():
                    self._find(tag, wish, self.others.images)
                case _:
                    pass
        settled: set[str] = set()
        waiting = set(own_images)
        for tag, wish in wishes.items():
            if isinstance(wish, FollowTag) and tag not in settled:
                self._follow(tag, wish, settled, waiting)
        if own_images:
            self._settle_own_images(own_images, settled)

    def _settle_own_images(self, own_images: Mapping[str, FindImage], settled: set[str]) -> None:
        index = ImageIndex(self._tags.values())
        for tag, image in own_images.items():
            self._find(tag, image, lambda _: index)
        for tag, wish in self._wanted.tags.items():
            if isinstance(wish, FollowTag) and tag not in settled:
                self._follow(tag, wish, settled, set())

    def _follow(self, tag: str, wish: FollowTag, settled: set[str], waiting: set[str]) -> None:
        """Settle the chain of this stream's tags that starts here, from its far end; or let it wait with that."""
        chain: dict[str, FollowTag] = {}
        current: Wish | None = wish
        while isinstance(current, FollowTag) and not (tag in settled or tag in chain or tag in waiting):
            chain[tag] = current
            if not current.is_own:
                break
            tag = current.followed.tag
            current = self._wanted.tags.get(tag)
        if tag in waiting:
            waiting.update(chain)
            return
        settled.update(chain)
        for member in reversed(chain):
            self._copy(member, chain[member])

    def _copy(self, tag: str, wish: FollowTag) -> None:
        """Give a tag what the one that it follows has. One that follows itself fails; one that only leads to such tags
        has what the tag that it follows had before.
        """
        if tag in self._held and self._is_had(tag, wish.source):
            return  # nothing that the other one has would change anything here
        key, chains = wish.followed.key, self.others.chains
        followed = self._followed(wish)
        is_reference = followed is not None and not followed.image and chains.is_reference(tag)
        copied = copy_of(followed, is_reference=is_reference) if followed else None
        if chains.is_circular(tag) and (self._says(tag, wish.source, "CircularReference") or self.others.allows(key)):
            through = f"follows itself through {_named(wish.source)}"
            if chains.is_too_far(tag):
                self.others.is_blind = True
                through += f", or leads through more than {MAX_HOPS} tags of other streams"
            self._fail(tag, wish.source, "CircularReference", f"tag {quoted(tag)} {through}")
        elif copied is not None and self._may_have(tag, wish.source, key, copied):
            self._succeed(tag, wish.source, copied.image, copied.pull_spec, copied.image)
        elif self._is_awaited(wish):
            self._awaited.add(tag)
        else:
            self._fail_without_image(tag, wish)

    def _followed(self, wish: FollowTag) -> TagEvent | None:
        """The newest item of the tag that is followed."""
        if wish.is_own:
            recorded = self._tags.get(wish.followed.tag)
        else:
            recorded = self.others.tag(wish.followed.key, wish.followed.tag)
        return recorded.newest if recorded else None

    def _may_have(self, tag: str, source: Source, key: ObjectKey, copied: Recorded) -> bool:
        """Whether the tag may have an image of the stream `key`; it keeps what it has without being asked."""
        recorded = self._tags.get(tag)
        newest = recorded.newest if recorded else None
        if recorded is not None and newest is not None and recorded.observed_at(source) is not None:
            has_it = (newest.docker_image_reference, newest.image or "") == (copied.pull_spec, copied.image)
            if has_it and recorded.outcome is not None and recorded.outcome.status == "True":
                return True
        return self.others.allows(key)

    def _fail_without_image(self, tag: str, wish: FollowTag | FindImage) -> None:
        """Say that what a tag names is not there; in the same words where it must not be seen."""
        key = wish.followed.key if isinstance(wish, FollowTag) else wish.stream
        recorded = self._tags.get(tag)
        if key in self.others.unasked and recorded is not None and recorded.observed_at(wish.source) is not None:
            self.others.is_blind = True
            return
        reason = "TagNotFound" if isinstance(wish, FollowTag) else "ImageNotFound"
        if isinstance(wish, FollowTag) and wish.is_own:
            message = f"tag {quoted(wish.followed.tag)} of this stream has no image yet"
        elif not self.others.is_own_namespace(key):
            self.others.is_blind = True
            message = (
                f"{wish.source.kind} {_named(wish.source)} is not there, or must not be pulled from this namespace "
                "(its owner allows that by the right to get imagestreams/layers)"
            )
        else:
            message = f"{wish.source.kind} {_named(wish.source)} is not there" + (
                " yet" if isinstance(wish, FollowTag) else ""
            )
        self._fail(tag, wish.source, reason, message)

    def _says(self, tag: str, source: Source, reason: str) -> bool:
        """Whether this is already said of the tag at its present source."""
        recorded = self._tags.get(tag)
        outcome = recorded.outcome if recorded and recorded.observed_at(source) else None
        return outcome is not None and outcome.reason == reason

    def _is_awaited(self, wish: FollowTag) -> bool:
        """Whether an answer for the followed tag's present source, or for that of the tag that it follows, is still to
        come. Of another namespace nothing is awaited: that would tell what is there.
        """
        name = wish.followed.tag
        if wish.is_own:
            followed, recorded = self._wanted.tags.get(name), self._tags.get(name)
            if isinstance(followed, AskRegistry):
                return recorded is None or recorded.observed_at(followed.source) is None
            is_unknown = name not in self._wanted.tags and self._is_unlisted(self._stream, self._repository)
            return name in self._awaited or is_unknown
        stream = self.others.get(wish.followed.key) if self.others.is_own_namespace(wish.followed.key) else None
        if stream is None or stream.is_suspended:
            return False
        spec_tag = stream.spec_tag(name)
        if spec_tag is None:
            return self._is_unlisted(stream, repository_of(stream, self._rules))
        source = spec_tag.source(stream.metadata.namespace, self._rules.import_mode)
        recorded = self.others.tag(wish.followed.key, name)
        return source is not None and (recorded is None or recorded.observed_at(source) is None)

    def _is_unlisted(self, stream: ImageStream, repository: ListRepository | Refuse | None) -> bool:
        """Whether a stream's repository was not listed yet, so that it may have any tag."""
        if not isinstance(repository, ListRepository) or (stream is self._stream and self._listing_failure is not None):
            return False
        memory = self.progress.get(REPOSITORY) if stream is self._stream else None
        return listing_attempt(stream, memory, repository, self._rules) is None

    def _find(self, tag: str, wish: FindImage, images: Callable[[ObjectKey], ImageIndex]) -> None:
        """Give a tag the image that it names. Once it has it, it is never looked for again: history forgets, tags do
        not.
        """
        recorded = self._tags.get(tag)
        if recorded is not None and recorded.newest is not None and self._is_had(tag, wish.source):
            image = recorded.newest.image or ""
            if image.startswith(wish.id) or image.rpartition(":")[2].startswith(wish.id):
                return
            # It is, or was, pinned to another one, and the one that it names is in its own history.
            found = ImageIndex((recorded,)).find(wish.id)
            if len(found) == 1:
                self._succeed(tag, wish.source, found[0].image, found[0].pull_spec, found[0].image)
                return
        found = images(wish.stream).find(wish.id)
        is_told = len(found) > 1 and self._says(tag, wish.source, "AmbiguousImage")
        if not found or not (is_told or self.others.allows(wish.stream)):
            self._fail_without_image(tag, wish)
        elif len(found) > 1:
            words = f"{quoted(wish.id)} in {_named(wish.source)} begins several images; write more of its digits"
            self._fail(tag, wish.source, "AmbiguousImage", words)
        else:
            self._succeed(tag, wish.source, found[0].image, found[0].pull_spec, found[0].image)

    def _is_had(self, tag: str, source: Source) -> bool:
        """Whether what the tag names at its present source was found, the last time that it was looked at."""
        recorded = self._tags.get(tag)
        outcome = recorded.outcome if recorded and recorded.observed_at(source) else None
        return outcome is not None and outcome.status == "True"

    # --- what becomes of one tag

    def _succeed(self, tag: str, source: Source, digest: str, pull_spec: str, image: str) -> None:
        old = self._tags.get(tag) or api.StatusTag(tag=tag)
        newest = old.newest
        event = TagEvent(
            created=self._now,
            docker_image_reference=pull_spec,
            image=image,
            generation=self._stream.metadata.generation,
        )
        # That a spec has a new generation says nothing of a tag whose source is as it was: polling it writes nothing.
        is_same = newest is not None and old.observed_at(source) is not None and _is_same(newest, event)
        is_kept_out = tag in self._held and image != self._held[tag]
        items, moved = (old.items or (), False) if is_same or is_kept_out else record_event(old.items or (), event)
        if moved and (newest or tag not in self._wanted.virtual):
            self.transitions.append(TagMoved(tag, newest.docker_image_reference if newest else "", pull_spec))
        elif not moved and old.outcome and old.outcome.status == "False":
            self.transitions.append(TagRecovered(tag))
        recorded = api.StatusTag(
            tag=tag,
            conditions=(self._condition(old, source, "True", "Imported", None),),
            observed=self._observed(old, source, digest),
        )
        revision = old.newest_revision + moved
        self._tags[tag] = recorded.with_items(items[: self._rules.history_limit], newest_revision=revision)

    def _fail(self, tag: str, source: Source, reason: str, message: str) -> None:
        old = self._tags.get(tag) or api.StatusTag(tag=tag)
        before = old.outcome
        is_news = before is None or before.status != "False" or before.reason != reason
        if (is_news or old.observed_at(source) is None) and (before or tag not in self._wanted.virtual):
            self.transitions.append(TagFailed(tag, reason, message))
        self._tags[tag] = api.StatusTag(
            tag=tag,
            items=old.items,
            conditions=(self._condition(old, source, "False", reason, message),),
            observed=old.observed_at(source) or self._observed(old, source, ""),
            revision=old.revision,
        )

    def _observed(self, old: api.StatusTag, source: Source, digest: str) -> api.Observed:
        before = old.observed_at(source)
        generation = before.generation if before else self._stream.metadata.generation
        return api.Observed.of(source, generation=generation, digest=digest)

    def _condition(
        self, old: api.StatusTag, source: Source, status: str, reason: str, message: str | None
    ) -> api.TagCondition:
        before = old.outcome
        if (
            before
            and old.observed_at(source) is not None
            and (before.status, before.reason, before.message) == (status, reason, message)
        ):
            return before
        since = before.last_transition_time if before and before.status == status else self._now
        return api.TagCondition(
            type=api.IMPORT_SUCCESS,
            status=status,
            reason=reason,
            message=message,
            last_transition_time=since or self._now,
            generation=self._stream.metadata.generation,
        )

    # --- the whole status

    def status(self) -> api.Status:
        """The whole status; entries sorted by tag, those with neither items nor conditions dropped."""
        tags = self._within_budget(
            tuple(
                self._tags[name] for name in sorted(self._tags) if self._tags[name].items or self._tags[name].conditions
            )
        )
        by_name = {tag.tag: tag for tag in tags}
        listed = self._settle_repository(by_name)
        forgotten = self._forgotten or handled(self._stream).forget
        done = api.Handled(refresh=self._handled_refresh(), forget=forgotten)
        return api.Status(
            docker_image_repository=self._old.docker_image_repository,
            public_docker_image_repository=self._old.public_docker_image_repository,
            observed_generation=self._stream.metadata.generation,
            conditions=self._conditions(by_name, listed),
            tags=tags,
            handled=done if done != api.Handled() else None,
            summary=self._summary(tags),
            repository=listed,
        )

    def _handled_refresh(self) -> str | None:
        """The present request, once everything that it names and that can be asked for has its answer, the tags of a
        new listing included; else the one handled before.
        """
        done = handled(self._stream).refresh
        request = open_refresh(self._stream)
        if request is None or self._stream.is_suspended:
            return done
        asked = asked_for(request, self._wanted) - self._crowded
        is_answered = all(
            (memory := self.progress.get(tag)) is not None and memory.answered == request.value for tag in asked
        )
        return request.value if is_answered and not (REPOSITORY in asked and self._selected) else done

    @property
    def _selected(self) -> Selection | None:
        """What is still being imported of the repository."""
        return selection_of(self.progress, self._repository)

    def _settle_repository(self, tags: Mapping[str, api.StatusTag]) -> api.Repository | None:
        """What to say of the last complete listing, once what was chosen of one is in the status, or has no room there.

        It is complete only then: a process that ends before lists again, and finds what is missing.
        """
        wish, memory, selected = self._repository, self.progress.get(REPOSITORY), self._selected
        if not isinstance(wish, ListRepository) or memory is None or selected is None:
            return self._old.repository if wish is not None else None
        dropped = {tag for tag in selected.tags if tag in self._crowded}
        awaited = {tag for tag in selected.tags if tag not in dropped and self._is_missing(tag, tags)}
        if dropped:
            selected = replace(selected, is_crowded=True)
        if selected.is_crowded:
            # What is not under way would find no room either; it is not asked for at all.
            dropped |= {tag for tag in awaited if (asked := self.progress.get(tag)) is None or asked.asked is None}
            awaited -= dropped
        if dropped:
            self._crowded |= dropped
            kept = tuple(tag for tag in selected.tags if tag not in dropped)
            selected = replace(selected, tags=kept, left_out=selected.left_out + len(dropped))
        if awaited:
            self.progress[REPOSITORY] = replace(memory, selected=selected)
            return self._old.repository
        self.progress[REPOSITORY] = replace(memory, selected=None)
        self._imported = selected
        return api.Repository(
            name=wish.source.name,
            insecure=wish.source.insecure,
            found=selected.found,
            left_out=selected.left_out,
            limit=selected.limit,
        )

    def _is_missing(self, name: str, tags: Mapping[str, api.StatusTag]) -> bool:
        """Whether a tag of the repository has no answer yet."""
        wish, tag = self._wanted.tags.get(name), tags.get(name)
        if name not in self._wanted.virtual or not isinstance(wish, AskRegistry):
            return False
        return tag is None or tag.observed_at(wish.source) is None

    def _within_budget(self, tags: tuple[api.StatusTag, ...]) -> tuple[api.StatusTag, ...]:
        """Make the status fit etcd: new tags of the repository give way first, the worst before the better, then the
        oldest history, that of the repository's tags before that of others, then other new tags. The newest item of a
        recorded tag is never dropped.
        """
        budget = self._rules.status_budget
        size = sum(len(api.encode(tag)) + 1 for tag in tags)
        if size <= budget:
            return tags
        kept = {tag.tag: tag for tag in tags}
        new = kept.keys() - {tag.tag for tag in self._old.tags or ()}
        size = self._drop(kept, self._least_wanted(new & self._wanted.virtual), size)
        epoch = datetime.fromtimestamp(0, UTC)
        history = sorted(
            (name not in self._wanted.virtual, (tag.items or ())[depth].created or epoch, name, depth)
            for name, tag in kept.items()
            for depth in range(1, len(tag.items or ()))
        )
        # Items are newest first and sorted by age here, so that those of one tag come off its end.
        for _, _, name, _ in history:
            if size <= budget:
                break
            # What is left is numbered anew where it has no numbers yet: they would take the room that is to be made.
            items = kept[name].items or ()
            size -= len(api.encode(items[-1])) + 1
            kept[name] = msgspec.structs.replace(kept[name], items=items[:-1])
        self._drop(kept, sorted(new - self._wanted.virtual, reverse=True), size)
        return tuple(kept[name] for name in sorted(kept))

    def _drop(self, kept: dict[str, api.StatusTag], names: Iterable[str], size: int) -> int:
        """Refuse tags in this order until the rest fits; returns its size."""
        for name in names:
            if size <= self._rules.status_budget:
                break
            size -= len(api.encode(kept.pop(name))) + 1
            self._refuse_room(name)
        return size

    def _least_wanted(self, names: Iterable[str]) -> list[str]:
        """Tags of the repository in the order in which they give way: the worst first, those that the listing does not
        rank last.
        """
        selected = self._selected
        ranks = {tag: rank for rank, tag in enumerate(selected.tags if selected else (), start=1)}
        return sorted(names, key=lambda name: (ranks.get(name, 0), name), reverse=True)

    def _refuse_room(self, tag: str) -> None:
        """What is not recorded has not happened: nobody hears of it, and it is asked for again later."""
        self._crowded.add(tag)
        self.transitions = [step for step in self.transitions if not (isinstance(step, _OfTag) and step.tag == tag)]
        if tag in self.progress:
            self.progress[tag] = replace(self.progress[tag], no_room=True)

    # --- the stream's conditions

    def _conditions(
        self, tags: Mapping[str, api.StatusTag], listed: api.Repository | None
    ) -> tuple[api.Condition, ...]:
        repository = self._repository_condition(listed)
        status, reason, message = self._readiness(tags, repository)
        remarks = annotation_problems(self._stream, self._rules) + self._problems_of_pins()
        ready = self._dated(api.READY, status, reason, message + remarks)
        ours = {api.READY, api.REPOSITORY_IMPORTED, api.ON_SCHEDULE}
        others = [condition for condition in self._old.conditions or () if condition.type not in ours]
        return tuple(filter(None, (ready, repository, self._punctuality(), *others)))

    def _dated(self, type_: str, status: str, reason: str, message: str) -> api.Condition:
        before = self._old.condition(type_)
        return api.Condition(
            type=type_,
            status=status,
            reason=reason,
            message=message,
            last_transition_time=before.last_transition_time if before and before.status == status else self._now,
            observed_generation=self._stream.metadata.generation,
        )

    def _repository_condition(self, listed: api.Repository | None) -> api.Condition | None:
        """How the import of `spec.dockerImageRepository` goes."""
        wish, type_ = self._repository, api.REPOSITORY_IMPORTED
        if wish is None:
            return None
        before = self._old.condition(type_)
        if isinstance(wish, Refuse):
            return self._repository_failed(wish.reason, wish.message)
        if self._listing_failure is not None:
            return self._repository_failed(*self._listing_failure)
        name, memory = quoted(wish.source.name), self.progress.get(REPOSITORY)
        is_failing = memory is not None and memory.source == wish.source and memory.failures > 0
        # What was selected before comes to its end, but the listing after it fails: that is what is said on.
        if self._imported is not None and listed is not None and not is_failing:
            reason, message = ("LeftOut" if listed.left_out else "Imported"), _imported(listed, self._imported)
            if before is None or (before.status, before.message) != ("True", message):
                self.transitions.append(RepositoryImported(wish.source.name, message))
            return self._dated(type_, "True", reason, message)
        attempt = listing_attempt(self._stream, memory, wish, self._rules)
        is_failed = attempt is not None and not attempt.is_good
        is_complete = listed is not None and (listed.name, listed.insecure) == (wish.source.name, wish.source.insecure)
        # What was imported once stays so while it is listed again.
        if before is not None and (is_failed or (is_complete and before.status == "True")):
            return self._dated(type_, before.status, before.reason or "", before.message or "")
        if listed is None or not is_complete or self._selected is not None:
            return self._dated(type_, "False", IMPORTING, f"the tags of {name} are being imported")
        return self._dated(type_, "True", "LeftOut" if listed.left_out else "Imported", _imported(listed, None))

    def _repository_failed(self, reason: str, message: str) -> api.Condition:
        before = self._old.condition(api.REPOSITORY_IMPORTED)
        if before is None or (before.status, before.reason) != ("False", reason):
            self.transitions.append(RepositoryFailed(self._stream.repository, reason, message))
        return self._dated(api.REPOSITORY_IMPORTED, "False", reason, message)

    def _punctuality(self) -> api.Condition | None:
        """Whether the schedule is kept. It is said at the moment when that changes, and not in other words later."""
        before = self._old.condition(api.ON_SCHEDULE)
        was_late = before is not None and before.status == "False"
        if self._stream.is_suspended:
            return before
        interval = interval_of(self._stream, self._rules)
        late = [memory for tag, memory in self.progress.items() if memory.late and tag in self._wanted.tags]
        hosts = {memory.host for memory in late if memory.is_overdue(self._now, interval)}
        if hosts and not was_late:
            shown = ", ".join(sorted(hosts)[:_NAMED]) + (" and others" if len(hosts) > _NAMED else "")
            message = f"tags at {shown} could not be looked up in time; their slot began more than an interval ago"
            return self._dated(api.ON_SCHEDULE, "False", "Overdue", message)
        if was_late and not hosts and all(self._is_served(name) for name in self._polled()):
            return self._dated(api.ON_SCHEDULE, "True", "OnTime", "all scheduled tags are looked up in time")
        return before

    def _is_served(self, name: str) -> bool:
        """Whether the tag is known to be in time: a process that has just begun does not know for how long it waits."""
        memory = self.progress.get(name)
        return memory is not None and (memory.answered_at is not None or not memory.late)

    def _polled(self) -> list[str]:
        """The tags that are looked up on schedule."""
        found = []
        for tag in self._stream.spec_tags:
            wish = self._wanted.tags[tag.name]
            if tag.is_scheduled and isinstance(wish, AskRegistry) and not wish.reference.digest:
                found.append(tag.name)
        return found

    def _readiness(self, tags: Mapping[str, api.StatusTag], repository: api.Condition | None) -> tuple[str, str, str]:
        left_out = self._crowded & self._wanted.virtual
        wishes = {name: wish for name, wish in self._wanted.tags.items() if wish is not None and name not in left_out}
        failing: list[str] = []
        waiting: list[str] = []
        for name, wish in wishes.items():
            tag = tags.get(name)
            if tag is None or tag.observed_at(wish.source) is None:
                waiting.append(name)
            elif not self._is_well(name, tag):
                failing.append(name)
        crowded = [name for name in waiting if self._has_no_room(name)]
        if repository is not None and repository.status != "True":
            (waiting if repository.reason == IMPORTING else failing).append("spec.dockerImageRepository")
        if self._stream.is_suspended and (failing or waiting):
            return "False", "Suspended", f"imports are suspended; not imported: {_listed([*failing, *waiting])}"
        if crowded:
            return (
                "False",
                "StatusTooLarge",
                f"no room is left to record {_listed(crowded)}; remove tags or split the stream",
            )
        if failing:
            return "False", "ImportFailed", f"not imported: {_listed(failing)}; the conditions of status.tags say why"
        if waiting:
            return "False", "Importing", f"being imported: {_listed(waiting)}"
        suspended = "; imports are suspended" if self._stream.is_suspended else ""
        if not wishes and repository is None:
            return "True", "NothingToImport", f"no tag of this stream has a source{suspended}"
        more = "; some of the repository are left out" if repository and repository.reason == "LeftOut" else ""
        return "True", "Imported", f"all tags with a source are imported: {_listed(wishes)}{more}{suspended}"

    def _is_well(self, name: str, tag: api.StatusTag) -> bool:
        """Whether a tag that was tried does not keep the stream from being ready."""
        outcome = tag.outcome
        if outcome is not None and outcome.status == "True":
            return True
        return name in self._wanted.virtual and outcome is not None and outcome.reason in _NOBODYS

    def _has_no_room(self, tag: str) -> bool:
        """Whether the tag's answer was refused for want of room, in this merge or in one before."""
        wish, memory = self._wanted.tags[tag], self.progress.get(tag)
        return tag in self._crowded or bool(wish and memory and memory.no_room and memory.source == wish.source)

    def _summary(self, tags: tuple[api.StatusTag, ...]) -> api.Summary:
        names = {tag.tag for tag in tags if tag.items} | {tag.name for tag in self._stream.spec_tags}
        created = [tag.newest.created for tag in tags if tag.newest and tag.newest.created]
        sourced = [tag for tag in self._stream.spec_tags if self._wanted.tags[tag.name] is not None]
        scheduled = sum(tag.is_scheduled for tag in sourced)
        return api.Summary(
            tags=_listed(names) or None,
            updated=max(created, default=None),
            scheduled="suspended" if self._stream.is_suspended else f"{scheduled}/{len(sourced)}",
        )

    def is_worth_writing(self, status: api.Status) -> bool:
        """Whether anything happened. That a first answer is still awaited is not news: it is written with the answer,
        which saves a write for each stream.
        """
        old = self._old
        if status == old:
            return False
        only_waiting = (
            status.ready is not None
            and status.ready.reason == "Importing"
            and not (old.ready and old.ready.reason == "Importing")
        )
        return not only_waiting or self._is_refuted(status) or _happened(status) != _happened(old)

    def _is_refuted(self, status: api.Status) -> bool:
        """Whether the failure that is said of the repository is not true any more. It must not outlive its truth: it
        would be taken for one of what spec names now.
        """
        before, after = self._old.condition(api.REPOSITORY_IMPORTED), status.condition(api.REPOSITORY_IMPORTED)
        was_failed = before is not None and before.status != "True" and before.reason != IMPORTING
        return was_failed and after is not None and (after.status == "True" or after.reason == IMPORTING)


def _happened(status: api.Status) -> tuple[object, ...]:
    """What a status says of things that have happened, and not of what is awaited."""
    return status.tags or (), status.handled, status.repository, status.condition(api.ON_SCHEDULE)


_OfTag = (TagMoved, TagFailed, TagRecovered, TagPinned, TagResumed)


def _is_kept(old: api.StatusTag, memory: TagProgress) -> bool:
    """Whether the flap guard keeps the tag. A failure of another kind may have taken the condition's place meanwhile;
    it ends nothing.
    """
    outcome = old.outcome
    is_failing = outcome is not None and outcome.status == "False"
    return is_failing and (memory.steady is not None or (outcome is not None and outcome.reason == FLAPPING))


def _is_named(answer: Answer, tag: str) -> bool:
    """Whether the answer is to a request that names the tag: somebody wants what the registry has now."""
    request = parse_request(answer.ticket.request)
    return request is not None and tag in request.tags


def _imported(listed: api.Repository, selected: Selection | None) -> str:
    """What to say of a complete import, with the reasons for what was left out where they are still known."""
    name = quoted(listed.name)
    if not listed.left_out:
        return f"all tags of {name} are imported: {listed.found}"
    said = f"{listed.left_out} of the {listed.found} tags of {name} are left out"
    reasons = []
    if listed.found > listed.limit:
        reasons.append(f"the limit of one repository is {listed.limit} tags, the most important ones")
    if selected and selected.is_crowded:
        reasons.append("the status of the stream has no room for more")
    if selected and not selected.is_complete:
        reasons.append("the registry has more than are read")
    return f"{said}; " + "; ".join(reasons or ["they could not be tags here"])


def _named(source: Source) -> str:
    """What a source names, as its writer named it."""
    return quoted(source.name) + (f" of namespace {quoted(source.namespace)}" if source.namespace else "")


# --- history ----------------------------------------------------------------------------------------------------------


def record_event(items: tuple[TagEvent, ...], event: TagEvent) -> tuple[tuple[TagEvent, ...], bool]:
    """Put a tag event on top of a history (newest first), and say whether the tag moved.

    Only an event that differs from the newest in both pull spec and image is a new one; a difference in one of them
    corrects the newest in place and keeps its date, and an equal one of a later generation takes that generation.
    """
    if not items:
        return (event,), True
    newest, rest = items[0], items[1:]
    if _is_same(newest, event):
        if (newest.generation or 0) >= (event.generation or 0):
            return items, False
        return (_corrected(newest, event), *rest), False
    same_reference = newest.docker_image_reference == event.docker_image_reference
    if same_reference or (event.image and newest.image == event.image):
        return (_corrected(newest, event), *rest), False
    return (event, *items), True


def _is_same(newest: TagEvent, event: TagEvent) -> bool:
    return (newest.docker_image_reference, newest.image or "") == (event.docker_image_reference, event.image or "")


def _corrected(newest: TagEvent, event: TagEvent) -> TagEvent:
    return TagEvent(
        created=newest.created,
        docker_image_reference=event.docker_image_reference,
        image=event.image,
        generation=event.generation,
    )


def _since(items: tuple[TagEvent, ...], moment: datetime | None) -> tuple[TagEvent, ...]:
    """The items that came after the moment (newest first), and the newest in any case."""
    if moment is None:
        return items
    return items[: max(1, sum(item.created is not None and item.created > moment for item in items))]


def _listed(names: Iterable[str]) -> str:
    ordered = sorted(names)
    shown = ", ".join(ordered[:_NAMED])
    return f"{shown} and {len(ordered) - _NAMED} more" if len(ordered) > _NAMED else shown
