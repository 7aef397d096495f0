"""Workloads at the API server: watched by their metadata alone, read whole one by one, written by JSON patch; and the
right to pull.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from imagestreams.core.stream import MalformedObject, ObjectKey
from imagestreams.core.trigger import (
    FIELD_MANAGER,
    FOLLOW_ANNOTATION,
    ROLLOUTS_ANNOTATION,
    SERVED_LABEL,
    TRIGGERS_ANNOTATION,
    Annotated,
    Workload,
    WorkloadKind,
    decode_workload,
    has_triggers,
)
from imagestreams.kube.cluster import JSON_PATCH, Cluster, NotFound, api_path
from imagestreams.kube.watch import METADATA_ONLY, OnChange, Reflector, page_decoder


class WorkloadMetadata(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """What is watched of a workload: enough to see whether its spec or our marks on it changed."""

    name: str
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    annotations: Annotated | None = None
    labels: dict[str, str] | None = None

    @property
    def has_triggers(self) -> bool:
        return has_triggers(self.annotations or Annotated())

    @property
    def marks(self) -> Marks:
        return Marks(self.uid, self.generation, self.annotations or Annotated(), _served(self.labels))


class Marks(NamedTuple):
    """What a decision depends on; while it is the same, so is the decision for the same tags."""

    uid: str
    generation: int
    annotations: Annotated
    served: tuple[tuple[str, str], ...]


class WorkloadObject(msgspec.Struct, frozen=True, gc=False):
    """A PartialObjectMetadata."""

    metadata: WorkloadMetadata


_decode_object = msgspec.json.Decoder(WorkloadObject)
_page = page_decoder(WorkloadObject)


class Workloads:
    """Objects whose containers can follow tags; `group` is the one whose `imagestreams/layers` stands for the right to
    pull.
    """

    def __init__(self, cluster: Cluster, group: str) -> None:
        self._cluster, self._group = cluster, group

    def reflector(self, kind: WorkloadKind, on_change: OnChange[WorkloadObject]) -> Reflector[WorkloadObject]:
        """Watches the metadata of all objects of the kind."""
        return Reflector(
            self._cluster,
            api_path(kind.api_version, kind.resource),
            decode_list=_page,
            decode_object=_decode,
            key=lambda workload: (workload.metadata.namespace, workload.metadata.name),
            resource_version=lambda workload: workload.metadata.resource_version,
            accept=METADATA_ONLY,
            on_change=on_change,
        )

    async def get(self, kind: WorkloadKind, key: ObjectKey) -> Workload | None:
        """The object whole, or None when it is gone."""
        try:
            return decode_workload(kind, await self._cluster.get(_path(kind, key)))
        except NotFound:
            return None

    async def patch(self, workload: Workload, patch: bytes) -> Workload | None:
        """Apply a JSON patch; None when the object is gone.

        Raises:
            Invalid: a test in the patch failed, or the cluster refuses what it would make of the object (422 for both).
            Forbidden: a policy or webhook refuses it.
        """
        path = _path(workload.kind, workload.key)
        try:
            body = await self._cluster.patch(path, patch, JSON_PATCH, field_manager=FIELD_MANAGER)
        except NotFound:
            return None
        return decode_workload(workload.kind, body)

    async def may_pull(self, consumer: str, key: ObjectKey) -> bool:
        """Whether the service accounts of the namespace `consumer` have the right to pull from the stream.

        The right is the one that OpenShift uses for pulls across projects: `get imagestreams/layers`, given to the
        group of the namespace's service accounts.
        """
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {
                "groups": [f"system:serviceaccounts:{consumer}", "system:serviceaccounts", "system:authenticated"],
                "resourceAttributes": {
                    "verb": "get",
                    "group": self._group,
                    "resource": "imagestreams",
                    "subresource": "layers",
                    "namespace": key.namespace,
                    "name": key.name,
                },
            },
        }
        body = await self._cluster.post(
            api_path("authorization.k8s.io/v1", "subjectaccessreviews"), msgspec.json.encode(review)
        )
        return _decode_review.decode(body).status.allowed


class _ReviewStatus(msgspec.Struct, frozen=True):
    allowed: bool = False


class _Review(msgspec.Struct, frozen=True):
    status: _ReviewStatus = _ReviewStatus()


_decode_review = msgspec.json.Decoder(_Review)


def _path(kind: WorkloadKind, key: ObjectKey) -> str:
    return api_path(kind.api_version, kind.resource, key.namespace, key.name)


def _decode(body: bytes) -> WorkloadObject:
    try:
        return _decode_object.decode(body)
    except msgspec.DecodeError as error:
        raise MalformedObject(f"workload metadata: {error}") from error


def marks_of(workload: Workload) -> Marks:
    """The marks of an object that was fetched whole, equal to those of its metadata."""
    annotations = workload.annotations
    return Marks(
        workload.uid,
        workload.generation,
        Annotated(
            triggers=annotations.get(TRIGGERS_ANNOTATION),
            follow=annotations.get(FOLLOW_ANNOTATION),
            rollouts=annotations.get(ROLLOUTS_ANNOTATION),
        ),
        _served(workload.labels),
    )


def _served(labels: Mapping[str, str] | None) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((key, value) for key, value in (labels or {}).items() if key.startswith(SERVED_LABEL)))
