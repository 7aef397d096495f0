"""The reconciler of ImageStreams: takes a key to its stream, the stream through a round of importing, and the next
moment to the schedule.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime

from imagestreams.core.importing import DENIALS, failed_tags
from imagestreams.core.merging import (
    PinsAmiss,
    RepositoryFailed,
    RepositoryImported,
    TagFailed,
    TagMoved,
    TagPinned,
    TagRecovered,
    TagResumed,
    Transition,
)
from imagestreams.core.stream import ImageStream, ObjectKey
from imagestreams.imports import Importer
from imagestreams.kube.events import EventType


class ImageStreamReconciler:
    """Reconciles keys of streams.

    Args:
        streams: the store; a key that is not in it belongs to a stream that is gone.
        importer: carries a stream through a round.
        schedule: is told when the key is due next.
        forget: is told of keys whose stream is gone.
    """

    def __init__(
        self,
        *,
        streams: Mapping[tuple[str, str], ImageStream],
        importer: Importer,
        schedule: Callable[[ObjectKey, datetime | None], None],
        forget: Callable[[ObjectKey], None],
    ) -> None:
        self._streams, self._importer, self._schedule, self._forget = streams, importer, schedule, forget

    async def reconcile(self, key: ObjectKey, hints: frozenset[str] = frozenset()) -> None:
        stream = self._streams.get(key)
        if stream is None:
            self._importer.forget(key)
            self._forget(key)
            return
        self._schedule(key, await self._importer.round(stream, hints))


def event_of(transition: Transition) -> tuple[EventType, str, str]:
    """The type, reason and message of the Kubernetes Event that tells people of a transition."""
    match transition:
        case TagMoved(tag=tag, old="", new=new):
            return "Normal", "TagImported", f"tag {tag} is {new}"
        case TagMoved(tag=tag, old=old, new=new):
            return "Normal", "TagMoved", f"tag {tag} moved from {old} to {new}"
        case TagFailed(tag=tag, reason=reason, message=message):
            return "Warning", "ImportFailed", f"tag {tag}: {reason}: {message}"
        case TagRecovered(tag=tag):
            return "Normal", "ImportRecovered", f"tag {tag} is imported again"
        case TagPinned(tag=tag, words=words):
            return "Normal", "TagPinned", f"tag {tag} is {words}"
        case TagResumed(tag=tag):
            return "Normal", "TagResumed", f"tag {tag} is not pinned any more and follows its source"
        case PinsAmiss(message=message):
            return "Warning", "PinsAmiss", message
        case RepositoryImported(message=message):
            return "Normal", "RepositoryImported", message
        case RepositoryFailed(repository=repository, reason=reason, message=message):
            return "Warning", "ImportFailed", f"repository {repository}: {reason}: {message}"


def denied_tags(stream: ImageStream) -> frozenset[str]:
    """The tags that failed for want of credentials, and REPOSITORY where its listing did: worth another try when a pull
    secret of the namespace changes.
    """
    return failed_tags(stream, DENIALS)
