"""What registries have now, asked through the cluster: an ImageStreamImport that looks up and stores nothing.

The registries are asked by the controller, with the credentials that the namespace has there; a command has none of
them. With the webhook the answer comes with the creation, without it the controller writes it soon after.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from imagestreams.cli.api import Refused
from imagestreams.cli.editing import decoded, encoded
from imagestreams.cli.options import Failure
from imagestreams.cli.waiting import NO_LEADER, states
from imagestreams.core.reference import is_digest
from imagestreams.settings import VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from imagestreams.cli.api import Client, Resource

Object = dict[str, Any]

TIMEOUT: Final = 60.0
"""Seconds to wait for a controller's answer."""


class Ask(NamedTuple):
    """One image: what is to be looked up, and the tag that it would be for ("": for none)."""

    source: str
    tag: str = ""
    is_insecure: bool = False
    import_mode: str = ""


class Found(NamedTuple):
    """The answer: `digest` and `pull_spec` of the image, or the `reason` and `message` of the failure.

    `image` is OpenShift's Image object, as far as the server fills it in.
    """

    ask: Ask
    digest: str = ""
    pull_spec: str = ""
    reason: str = ""
    message: str = ""
    image: Object = {}  # noqa: RUF012  # nobody writes into it

    @property
    def failure(self) -> str:
        """In words; empty where there is an image."""
        return f"{self.reason}: {self.message}" if self.reason else ""

    @property
    def is_absent(self) -> bool:
        """Whether the registry says that there is no such image; other failures leave it open."""
        return self.reason == "NotFound"


class NotServed(Failure):
    """The server has no ImageStreamImports."""


def look_up(
    client: Client,
    resource: Resource,
    namespace: str,
    stream: str,
    images: Sequence[Ask],
    *,
    timeout: float | None = TIMEOUT,
) -> tuple[Found, ...]:
    """Ask for images as the stream would; one answer for each, in their order. Stores nothing.

    Args:
        client: of the cluster.
        resource: the group's imagestreams.
        namespace: whose credentials are used.
        stream: as which is asked; it need not exist.
        images: what to look up.
        timeout: seconds to wait for the answer; None: forever.

    Raises:
        NotServed: there are no ImageStreamImports here.
        Failure: no answer in time, or one that is none.
        Refused: the server says no.
    """
    answer = ask_server(client, resource, namespace, stream, spec_of(images), timeout=timeout)
    return read_images(images, answer)


def spec_of(images: Sequence[Ask]) -> Object:
    """The part of a request that names images."""
    return {"images": [{"from": {"kind": "DockerImage", "name": ask.source}, **_more(ask)} for ask in images]}


def spec_of_repository(ask: Ask) -> Object:
    """The part of a request that names a repository, all of whose tags are asked for."""
    return {"repository": {"from": {"kind": "DockerImage", "name": ask.source}, **_more(ask._replace(tag=""))}}


def read_images(images: Sequence[Ask], answer: Object) -> tuple[Found, ...]:
    """The answers to `spec_of`, one for each; raises Failure where they do not fit."""
    entries = _list(_mapping(answer, "status"), "images")
    if len(entries) != len(images):
        raise Failure(f"error: {len(images)} images were asked for, and {len(entries)} answers came")
    return tuple(found(ask, entry) for ask, entry in zip(images, entries, strict=True))


def read_repository(ask: Ask, answer: Object) -> tuple[Found, ...]:
    """The answers to `spec_of_repository`: the tags that were looked up, or one failure for all of it, as tag "*"."""
    whole = _mapping(_mapping(answer, "status"), "repository")
    if _mapping(whole, "status").get("status") == "Failure" or not whole:
        return (found(ask._replace(tag="*"), whole),)
    made: list[Found] = []
    for entry in _list(whole, "images"):
        tag = _text(entry, "tag") if isinstance(entry, dict) else ""
        made.append(found(ask._replace(source=f"{ask.source}:{tag}", tag=tag), entry))
    return tuple(made)


def ask_server(
    client: Client,
    resource: Resource,
    namespace: str,
    stream: str,
    spec: Object,
    *,
    timeout: float | None = TIMEOUT,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Object:
    """Create an ImageStreamImport that stores nothing, and give it with its status. `spec` has `images` or
    `repository`; the rest as `look_up`.
    """
    imports = resource.of("imagestreamimports")
    value = {
        "apiVersion": f"{resource.group}/{VERSION}",
        "kind": "ImageStreamImport",
        "metadata": {"name": stream, "namespace": namespace},
        "spec": {"import": False, **spec},
    }
    created = _create(client, imports, namespace, value)
    answer = decoded(created, imports.plural)
    name, uid = str(answer["metadata"].get("name", "")), str(answer["metadata"].get("uid", ""))
    named = imports.named(name)
    for body in states(client, imports, namespace, name, timeout, uid=uid, seen=created, clock=clock, sleep=sleep):
        answer = decoded(body, named)
        if answer.get("status"):
            return answer
    raise Failure(
        f"error: {named} was not answered within {timeout or 0:g}s: is the controller running, and new enough to know "
        "ImageStreamImports?\n"
        f"{NO_LEADER}"
    )


def found(ask: Ask, answer: Any) -> Found:
    """One entry of `status.images` or `status.repository.images`."""
    entry = answer if isinstance(answer, dict) else {}
    status, image = _mapping(entry, "status"), _mapping(entry, "image")
    if status.get("status") == "Success" or (image and status.get("status") != "Failure"):
        digest = _text(_mapping(image, "metadata"), "name")
        if not is_digest(digest):
            return Found(ask, reason="InvalidAnswer", message="the server named an image without a digest", image=image)
        return Found(ask, digest, _text(image, "dockerImageReference"), image=image)
    reason = _text(status, "reason") or "Failed"
    return Found(ask, reason=reason, message=_text(status, "message") or "the server gave no message", image=image)


def _mapping(value: Object, name: str) -> Object:
    inner = value.get(name)
    return inner if isinstance(inner, dict) else {}


def _text(value: Object, name: str) -> str:
    inner = value.get(name)
    return inner if isinstance(inner, str) else ""


def _list(value: Object, name: str) -> list[Any]:
    inner = value.get(name)
    return inner if isinstance(inner, list) else []


def _more(ask: Ask) -> Object:
    policy = {
        **({"insecure": True} if ask.is_insecure else {}),
        **({"importMode": ask.import_mode} if ask.import_mode else {}),
    }
    return {**({"to": {"name": ask.tag}} if ask.tag else {}), **({"importPolicy": policy} if policy else {})}


def _create(client: Client, imports: Resource, namespace: str, value: Object) -> bytes:
    path = imports.path(namespace)
    try:
        return client.post(path, encoded(value))
    except Refused as refused:
        if refused.status == 404 and not client.serves(value["apiVersion"], imports.plural):
            raise NotServed(
                f"error: the server has no {imports.plural}.{imports.group}, by which images are looked up without "
                "storing anything\n"
                "  An administrator installs it with: kubectl apply -k crds\n"
                "  Without the cluster: imagestreams resolve -f MANIFEST, or imagestreams explain IMAGE"
            ) from refused
        if refused.reason != "AlreadyExists":
            raise
    # Without the webhook, which gives each request a name of its own, an answered one is still there under this name.
    stream = value["metadata"]["name"]
    value["metadata"] = {"generateName": f"{stream[:50].rstrip('.-')}-", "namespace": namespace}
    return client.post(path, encoded(value))
