"""How clients of OpenShift read the answer to an import request, and the requests that they send.

Their decoder takes unknown fields and nulls, and gives up the whole answer on one wrong type: an empty text where a
time belongs, a fraction where a whole number does, a list where an object does. `read_answer` does so, too. The types
are those of openshift/api (image/v1/types.go, image/docker10) and of apimachinery.
"""

from __future__ import annotations

import base64
import json
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec

REQUESTS = {file.stem: json.loads(file.read_text()) for file in sorted(Path(__file__).parent.glob("*.json"))}

Int64 = Annotated[int, msgspec.Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
Int32 = Annotated[int, msgspec.Meta(ge=-(1 << 31), le=(1 << 31) - 1)]
Time = datetime | None
Strings = list[str] | None
Set = dict[str, dict[str, Any] | None] | None


class _Go(msgspec.Struct, rename="camel"):
    """JSON as encoding/json reads it into a struct."""


class _Pascal(msgspec.Struct, rename="pascal"):
    """image/docker10 is written with capitals."""


class ObjectMeta(_Go):
    name: str | None = None
    namespace: str | None = None
    uid: str | None = None
    resource_version: str | None = None
    generation: Int64 | None = None
    creation_timestamp: Time = None
    deletion_timestamp: Time = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None


class ListMeta(_Go):
    resource_version: str | None = None
    continue_: str | None = msgspec.field(default=None, name="continue")
    remaining_item_count: Int64 | None = None


class StatusDetails(_Go):
    name: str | None = None
    group: str | None = None
    kind: str | None = None
    retry_after_seconds: Int32 | None = None


class Status(_Go):
    """metav1.Status."""

    status: str
    metadata: ListMeta | None = None
    message: str | None = None
    reason: str | None = None
    code: Int32 | None = None
    details: StatusDetails | None = None


class DockerConfig(_Pascal):
    hostname: str | None = None
    domainname: str | None = None
    user: str | None = None
    memory: Int64 | None = None
    memory_swap: Int64 | None = None
    cpu_shares: Int64 | None = None
    cpuset: str | None = None
    attach_stdin: bool | None = None
    tty: bool | None = None
    open_stdin: bool | None = None
    stdin_once: bool | None = None
    port_specs: Strings = None
    exposed_ports: Set = None
    env: Strings = None
    cmd: Strings = None
    dns: Strings = None
    image: str | None = None
    volumes: Set = None
    working_dir: str | None = None
    entrypoint: Strings = None
    network_disabled: bool | None = None
    security_opts: Strings = None
    on_build: Strings = None
    labels: dict[str, str] | None = None


class DockerImage(_Pascal):
    kind: str = msgspec.field(name="kind")
    api_version: str = msgspec.field(name="apiVersion")
    config: DockerConfig  # a pointer, but `oc debug` reads through it without looking
    id: str | None = None
    parent: str | None = None
    comment: str | None = None
    created: Time = None
    container: str | None = None
    container_config: DockerConfig | None = None
    docker_version: str | None = None
    author: str | None = None
    architecture: str | None = None
    size: Int64 | None = None


class ImageLayer(_Go):
    name: str
    size: Int64
    media_type: str


class ImageManifest(_Go):
    digest: str
    media_type: str
    manifest_size: Int64
    architecture: str
    os: str
    variant: str | None = None


class ImageSignature(_Go):
    type: str
    content: str | None = None


class Image(_Go):
    metadata: ObjectMeta
    docker_image_reference: str
    docker_image_metadata: DockerImage
    docker_image_metadata_version: str | None = None
    docker_image_manifest: str | None = None
    docker_image_manifest_media_type: str | None = None
    docker_image_config: str | None = None
    docker_image_layers: list[ImageLayer] | None = None
    docker_image_manifests: list[ImageManifest] | None = None
    signatures: list[ImageSignature] | None = None
    docker_image_signatures: list[str] | None = None


class ImportStatus(_Go):
    """ImageImportStatus."""

    status: Status
    image: Image | None = None
    tag: str | None = None
    manifests: list[Image] | None = None


class RepositoryImportStatus(_Go):
    status: Status
    images: list[ImportStatus] | None = None
    additional_tags: Strings = None


class ObjectReference(_Go):
    kind: str | None = None
    namespace: str | None = None
    name: str | None = None
    uid: str | None = None


class ImportPolicy(_Go):
    insecure: bool | None = None
    scheduled: bool | None = None
    import_mode: str | None = None


class ReferencePolicy(_Go):
    type: str | None = None


class TagReference(_Go):
    name: str
    annotations: dict[str, str] | None = None
    from_: ObjectReference | None = msgspec.field(default=None, name="from")
    reference: bool | None = None
    generation: Int64 | None = None
    import_policy: ImportPolicy | None = None
    reference_policy: ReferencePolicy | None = None


class LookupPolicy(_Go):
    local: bool | None = None


class StreamSpec(_Go):
    lookup_policy: LookupPolicy | None = None
    docker_image_repository: str | None = None
    tags: list[TagReference] | None = None


class TagEvent(_Go):
    created: Time
    docker_image_reference: str
    image: str | None = None
    generation: Int64 | None = None


class TagCondition(_Go):
    type: str
    status: str
    last_transition_time: Time = None
    reason: str | None = None
    message: str | None = None
    generation: Int64 | None = None


class NamedTagEvents(_Go):
    tag: str
    items: list[TagEvent] | None = None
    conditions: list[TagCondition] | None = None


class StreamStatus(_Go):
    docker_image_repository: str | None = None
    public_docker_image_repository: str | None = None
    tags: list[NamedTagEvents] | None = None


class ImageStream(_Go):
    metadata: ObjectMeta
    kind: str | None = None
    api_version: str | None = None
    spec: StreamSpec | None = None
    status: StreamStatus | None = None


class ImportsStatus(_Go):
    """ImageStreamImportStatus."""

    import_: ImageStream | None = msgspec.field(default=None, name="import")
    repository: RepositoryImportStatus | None = None
    images: list[ImportStatus] | None = None


def _no_fraction(text: str) -> float:
    raise ValueError(f"{text} is no whole number")


def read_answer(status: Any) -> ImportsStatus:
    """The status as a client in Go has it; raises ValueError where that would give it up."""
    text = json.dumps(status)
    json.loads(text, parse_float=_no_fraction)  # there is no number in an answer that may have a fraction
    read = msgspec.json.decode(text, type=ImportsStatus)
    for entry in [*(read.images or []), *((read.repository and read.repository.images) or [])]:
        for signature in (entry.image and entry.image.signatures) or []:
            base64.b64decode(signature.content or "", validate=True)
    return read
