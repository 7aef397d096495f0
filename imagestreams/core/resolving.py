"""Short image names, decided: what `image: web:1` means in a namespace that has a stream `web`.

A stream with `lookupPolicy.local` stands for its name, and with the annotation
`alpha.image.policy.openshift.io/resolve-names: "*"` on an object or its pod template every stream does, whatever
registry the image names. It is done once, when the image is written; a tag's later move changes nothing. The rules are
those of OpenShift's admission plugin image.openshift.io/ImagePolicy, without its denials.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from imagestreams.core.admission import Allowed, Review
from imagestreams.core.policy import Policy, refuse_image
from imagestreams.core.reference import DEFAULT_TAG, ImageReference, InvalidReference
from imagestreams.core.stream import UNREADABLE, ImageStream, ObjectKey, latest_image
from imagestreams.core.trigger import Owner, has_controller, pointer, subtree

RESOLVE_NAMES_ANNOTATION: Final = "alpha.image.policy.openshift.io/resolve-names"

_TEMPLATE: Final = ("spec", "template")
_PODS: Final[Mapping[tuple[str, str], tuple[str, ...]]] = {
    ("", "pods"): (),
    ("", "replicationcontrollers"): _TEMPLATE,
    ("apps", "deployments"): _TEMPLATE,
    ("apps", "daemonsets"): _TEMPLATE,
    ("apps", "statefulsets"): _TEMPLATE,
    ("apps", "replicasets"): _TEMPLATE,
    ("batch", "jobs"): _TEMPLATE,
    ("batch", "cronjobs"): ("spec", "jobTemplate", *_TEMPLATE),
}
"""Where a resource has what will be the pod's metadata and spec."""

_NOTHING: Final = Allowed()


class _Metadata(msgspec.Struct, frozen=True, rename="camel"):
    annotations: dict[str, str] | None = None
    owner_references: tuple[Owner, ...] | None = None


class _Container(msgspec.Struct, frozen=True):
    name: str = ""
    image: str = ""


class _PodSpec(msgspec.Struct, frozen=True, rename="camel"):
    init_containers: tuple[_Container, ...] | None = None
    containers: tuple[_Container, ...] | None = None


class _Pod(msgspec.Struct, frozen=True):
    """Also read of an object whole, for its metadata."""

    metadata: _Metadata | None = None
    spec: _PodSpec | None = None

    @property
    def containers(self) -> tuple[tuple[str, int, _Container], ...]:
        """Each with its list and place; init containers first."""
        spec = self.spec or _PodSpec()
        lists = (("initContainers", spec.init_containers), ("containers", spec.containers))
        return tuple((name, index, each) for name, listed in lists for index, each in enumerate(listed or ()))

    @property
    def wants_all(self) -> bool:
        annotations = (self.metadata and self.metadata.annotations) or {}
        return annotations.get(RESOLVE_NAMES_ANNOTATION) == "*"


class _Object(msgspec.Struct, frozen=True):
    metadata: _Metadata


_decode_object = msgspec.json.Decoder(_Object)
_decode_pod = msgspec.json.Decoder(_Pod)


def resolve_names(review: Review, streams: Callable[[ObjectKey], ImageStream | None], policy: Policy) -> Allowed:
    """What the images of the object under review are to be; what cannot be read or found stays.

    Asked again about its own answer it adds nothing; API servers may ask again.

    Args:
        review: of any object. That its namespace wants names to be resolved is for the caller to know.
        streams: as they are known here.
        policy: what it refuses is not written.
    """
    path = _PODS.get((review.group, review.resource)) if review.version == "v1" and not review.subresource else None
    is_update = review.operation == "UPDATE"
    if path is None or not (is_update or review.operation == "CREATE"):
        return _NOTHING
    if is_update and review.resource == "jobs":
        return _NOTHING  # their templates cannot be changed
    try:
        metadata, pod, wants_all = _read(review.object, path)
        old, wanted_all = _read(review.old, path)[1:] if is_update else (_Pod(), False)
    except UNREADABLE:
        return _NOTHING
    if has_controller(metadata.owner_references):
        return _NOTHING  # the controller's own template was resolved
    kept = {each.name: each.image for _, _, each in old.containers} if wants_all == wanted_all else {}
    operations: list[dict[str, object]] = []
    for name, index, container in pod.containers:
        if kept.get(container.name) == container.image:
            continue
        image = _meaning(container.image, review.namespace, streams, policy, wants_all=wants_all)
        if image is not None and image != container.image:
            where = pointer(*path, "spec", name, str(index), "image")
            operations.append({"op": "add", "path": where, "value": image})
    return Allowed(tuple(operations))


def _read(body: bytes, path: tuple[str, ...]) -> tuple[_Metadata, _Pod, bool]:
    """The object's metadata, its pod, and whether one of the two wants all names to be resolved."""
    metadata = _decode_object.decode(body).metadata
    pod = _decode_pod.decode(subtree(body, path))
    return metadata, pod, pod.wants_all or _Pod(metadata).wants_all


def _meaning(
    image: str, namespace: str, streams: Callable[[ObjectKey], ImageStream | None], policy: Policy, *, wants_all: bool
) -> str | None:
    """What an image's name means here, or None where it is no name of ours, or means nothing."""
    try:
        reference = ImageReference.parse(image)
        if reference.digest or ((reference.registry or reference.namespace) and not wants_all):
            return None
        stream = streams(ObjectKey(namespace, reference.name))
        if stream is None or not (wants_all or stream.is_looked_up_locally):
            return None
        tag = reference.tag or DEFAULT_TAG
        found = latest_image(stream, tag, streams)
        if found is not None:
            meaning = found.pull_spec
        elif repository := stream.status and stream.status.docker_image_repository:
            # Of this stream, but not there yet: it must not be looked for at Docker Hub.
            meaning = str(ImageReference.parse(repository).tagged(tag))
        else:
            return None
        return None if refuse_image(policy, ImageReference.parse(meaning)) else meaning
    except InvalidReference:
        return None
