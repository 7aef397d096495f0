"""The webhook of workloads that follow tags: they are stored with their tags' images. `core.pinning` decides."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime

import structlog

from imagestreams.core.admission import Allowed, Review, Verdict
from imagestreams.core.pinning import Question, pin, question_of
from imagestreams.core.reference import InvalidReference
from imagestreams.core.stream import ImageStream, Istag, ObjectKey, TagImage, latest_image
from imagestreams.core.trigger import TriggerRules
from imagestreams.kube.errors import ApiError

log = structlog.get_logger(__name__)


class PinningDoor:
    """Reviews workloads; the handler of their webhook. Where it knows too little, objects pass as they are.

    Args:
        streams: those that are known here.
        synced: whether that is all of them, and whether it is known what an administrator says of registries.
        may_pull: whether workloads of a namespace may have another's stream.
        rules: those in force.
        excluded: namespaces in which no workload is changed.
        is_observing: nothing is to be changed anywhere.
        clock: aware, UTC.
    """

    def __init__(
        self,
        *,
        streams: Callable[[ObjectKey], ImageStream | None],
        synced: Callable[[], bool],
        may_pull: Callable[[str, ObjectKey], Awaitable[bool]],
        rules: Callable[[], TriggerRules],
        excluded: frozenset[str],
        is_observing: bool,
        clock: Callable[[], datetime],
    ) -> None:
        self._streams, self._synced, self._may_pull, self._rules = streams, synced, may_pull, rules
        self._excluded, self._is_observing, self._clock = excluded, is_observing, clock

    async def __call__(self, review: Review) -> Verdict:
        """What the object is to be stored with."""
        if self._is_observing or not self._synced():
            return Allowed()
        question = question_of(review, excluded=self._excluded)
        if question is None:
            return Allowed()
        allowed = await self._allowed(question)
        own = question.workload.key.namespace
        return pin(
            question,
            lambda istag: self._image(istag) if istag.namespace == own or istag.key in allowed else None,
            self._rules(),
            self._clock(),
        )

    async def _allowed(self, question: Question) -> frozenset[ObjectKey]:
        """The streams of other namespaces that the workload may have."""
        keys, consumer = question.foreign, question.workload.key.namespace
        if not keys:
            return frozenset()
        answers = await asyncio.gather(*(self._may_have(consumer, key) for key in keys))
        return frozenset(key for key, may_have in zip(keys, answers, strict=True) if may_have)

    async def _may_have(self, consumer: str, key: ObjectKey) -> bool:
        try:
            return await self._may_pull(consumer, key)
        except ApiError as error:
            log.warning("cannot ask for the right to pull", namespace=consumer, imagestream=str(key), reason=str(error))
            return False

    def _image(self, istag: Istag) -> TagImage | None:
        stream = self._streams(istag.key)
        try:
            return latest_image(stream, istag.tag, self._streams) if stream else None
        except InvalidReference:
            return None  # the controller says why
