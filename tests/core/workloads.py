"""Builders for tests of triggers: a Deployment as the API server gives it, and what it is after a patch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from imagestreams.core.trigger import DEPLOYMENT, FOLLOW_ANNOTATION, TRIGGERS_ANNOTATION, Workload, decode_workload
from tests.fakes.patching import json_patched

Json = dict[str, Any]


def trigger(name: str = "app:latest", container: str = "web", **fields: Any) -> Json:
    """One element of the JSON annotation, as `oc set triggers` writes it."""
    return {
        "from": {"kind": "ImageStreamTag", "name": name},
        "fieldPath": f'spec.template.spec.containers[?(@.name=="{container}")].image',
        **fields,
    }


def owner(
    manager: str,
    operation: str = "Update",
    *,
    at: str = "2026-03-01T11:00:00Z",
    images: Sequence[str] = ("web",),
    list_name: str = "containers",
    subresource: str = "",
) -> Json:
    """An entry of managedFields that owns the images of these containers."""
    fields = {f"f:{list_name}": {f'k:{{"name":"{name}"}}': {".": {}, "f:image": {}, "f:name": {}} for name in images}}
    entry = {
        "manager": manager,
        "operation": operation,
        "apiVersion": "apps/v1",
        "time": at,
        "fieldsType": "FieldsV1",
        "fieldsV1": {"f:metadata": {"f:labels": {}}, "f:spec": {"f:template": {"f:spec": fields}}},
    }
    return {**entry, "subresource": subresource} if subresource else entry


def deployment(
    image: str = "quay.io/acme/app:1",
    *,
    triggers: Sequence[Json] | str | None = None,
    follow: str | None = None,
    annotations: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    containers: Mapping[str, str] | None = None,
    init: Mapping[str, str] | None = None,
    owners: Sequence[Json] = (),
    uid: str = "uid-w",
) -> Json:
    """A Deployment with the container `web`, or with these `containers` and init containers (name to image)."""
    marks = dict(annotations or {})
    if triggers is not None:
        marks[TRIGGERS_ANNOTATION] = triggers if isinstance(triggers, str) else json.dumps(triggers)
    if follow is not None:
        marks[FOLLOW_ANNOTATION] = follow
    metadata = {
        "name": "shop",
        "namespace": "team",
        "uid": uid,
        "resourceVersion": "7",
        "generation": 3,
        "annotations": marks or None,
        "labels": None if labels is None else dict(labels),
        "managedFields": list(owners) or None,
    }
    pod_spec = {
        "containers": [
            {"name": name, "image": value, "terminationMessagePath": "/dev/termination-log"}
            for name, value in (containers or {"web": image}).items()
        ],
        "initContainers": [{"name": name, "image": value} for name, value in (init or {}).items()] or None,
        "restartPolicy": "Always",
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _without_nulls(metadata),
        "spec": {
            "replicas": 3,
            "template": {"metadata": {"labels": {"app": "shop"}}, "spec": _without_nulls(pod_spec)},
        },
        "status": {"availableReplicas": 3},
    }


def _without_nulls(fields: Json) -> Json:
    return {name: value for name, value in fields.items() if value is not None}


def read(body: Json) -> Workload:
    return decode_workload(DEPLOYMENT, json.dumps(body).encode())


def workload(*args: Any, **kwargs: Any) -> Workload:
    return read(deployment(*args, **kwargs))


def patched(body: Json, patch: bytes) -> Json:
    """The object after a JSON patch; raises `PatchFailedError` where the API server would answer 422."""
    return json_patched(body, json.loads(patch))
