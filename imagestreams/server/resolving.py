"""The webhook of objects that name images, in namespaces where short names mean streams. `core.resolving` decides."""

from __future__ import annotations

from collections.abc import Callable

from imagestreams.core.admission import Allowed, Review, Verdict
from imagestreams.core.policy import Policy
from imagestreams.core.resolving import resolve_names
from imagestreams.core.stream import ImageStream, ObjectKey


class ResolvingDoor:
    """Reviews pods and what makes pods; the handler of their webhook, which the API server calls for namespaces that
    want it.

    Args:
        streams: those that are known here.
        synced: whether that is all of them, and whether it is known what an administrator says of registries.
        policy: the one in force.
        excluded: namespaces in which no workload is changed.
        is_observing: nothing is to be changed anywhere.
    """

    def __init__(
        self,
        *,
        streams: Callable[[ObjectKey], ImageStream | None],
        synced: Callable[[], bool],
        policy: Callable[[], Policy],
        excluded: frozenset[str],
        is_observing: bool,
    ) -> None:
        self._streams, self._synced, self._policy = streams, synced, policy
        self._excluded, self._is_observing = excluded, is_observing

    async def __call__(self, review: Review) -> Verdict:
        """What the object's images are to be."""
        if self._is_observing or not self._synced() or review.namespace in self._excluded:
            return Allowed()
        return resolve_names(review, self._streams, self._policy())
