"""Builders for tests of import requests: what clients send, streams as they are stored, and `Case`, which carries a
request to its answer.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from imagestreams.core.answering import Merged, Questions, Work, kept, merged, status_of, work_of
from imagestreams.core.following import Streams, no_streams
from imagestreams.core.image import image_object
from imagestreams.core.imagestreamimport import Edit, Stored, decode_request, edit_of, write_of
from imagestreams.core.keychain import Entry
from imagestreams.core.lookup import Answer, Described, Description, Listing, Lookup, Outcome, Ticket
from imagestreams.core.manifest import DOCKER_MANIFEST, digest_of
from imagestreams.core.reference import ImageReference
from imagestreams.core.stream import ObjectKey
from imagestreams.core.wish import ImportRules
from tests.core.streams import NOW, answer, digest, resolved
from tests.fakes.patching import merged as patched
from tests.requests.openshift import read_answer

GROUP = "image.openshift.io"
API = f"{GROUP}/v1"
WEB = ObjectKey("shop", "web")
LATE = "the registry did not answer within 25s; the controller goes on"
STABLE = "quay.io/acme/web:stable"
RULES = ImportRules()
LEGACY = {"importPolicy": {"importMode": "Legacy"}, "referencePolicy": {"type": "Source"}}

Json = dict[str, Any]


def encoded(value: object) -> bytes:
    return json.dumps(value).encode()


def size_of(value: object) -> int:
    return len(json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode())


def asked(name: str = STABLE, to: str | None = None, **more: Any) -> Json:
    """An entry of spec.images."""
    target = {} if to is None else {"to": {"name": to}}
    return {"from": {"kind": "DockerImage", "name": name}, **target, **more}


def request(*images: Json, name: str = "web", is_import: bool = True, **more: Any) -> Json:
    spec: Json = {"import": is_import, **more}
    if images:
        spec["images"] = list(images)
    return {
        "apiVersion": API,
        "kind": "ImageStreamImport",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": spec,
    }


def repository(name: str = "quay.io/acme/web", **policy: Any) -> Json:
    return {"from": {"kind": "DockerImage", "name": name}, "importPolicy": policy}


def tag(name: str = "latest", image: str = STABLE, *, kind: str = "DockerImage", **more: Any) -> Json:
    """An entry of spec.tags."""
    return {"name": name, "from": {"kind": kind, "name": image}, **more}


def stored(*tags: Json, status: Json | None = None, annotations: Json | None = None, **spec: Any) -> Json:
    """The stream as it is in the cluster, with things in it that we know nothing of."""
    return {
        "apiVersion": API,
        "kind": "ImageStream",
        "metadata": {
            "name": "web",
            "namespace": "shop",
            "uid": "u-1",
            "resourceVersion": "100",
            "generation": 3,
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {"team": "acme"},
            "annotations": annotations or {},
            "managedFields": [{"manager": "kubectl"}],
        },
        "spec": {"lookupPolicy": {"local": True}, "tags": list(tags), **spec},
        **({"status": status} if status else {}),
    }


class Case:
    """A request on its way to its answer: `registry` are outcomes by the reference that is asked for, of listings by
    the repository, of images by their digest; without one a question stays unanswered.
    """

    def __init__(
        self,
        body: Json,
        stream: Json | None = None,
        *,
        may_edit: bool = True,
        rules: ImportRules = RULES,
        entries: Iterable[Entry] = (),
    ) -> None:
        self.request = decode_request(encoded(body))
        self.stored = Stored.parse(encoded(stream)) if stream else None
        self.rules, self.entries = rules, tuple(entries)
        self.key = ObjectKey(self.request.namespace or "shop", self.request.name)
        nobody = "" if may_edit else "the webhook is not installed"
        self.edit: Edit = edit_of(self.request, self.stored, nobody=nobody)
        self.work: Work = work_of(
            self.request, self.stored, self.edit, key=self.key, api_version=API, is_bare=not may_edit
        )
        self.asking = Questions(self.work, self.entries, rules=rules, now=NOW)
        self.asked: dict[str, Ticket] = {}
        self.answers: list[Answer] = []
        self._is_begun = False

    def questions(self) -> tuple[Ticket, ...]:
        """What is to be asked now that there are these answers."""
        if self._is_begun:
            new = self.answers[len(self.asking.answers) :]
            found = self.asking.after(new) or self.asking.left(self.merged())
        else:
            self._is_begun, found = True, self.asking.first()
        for ticket in found:
            assert ticket.tag not in self.asked, "asked once"
            self.asked[ticket.tag] = ticket
        return found

    def run(self, registry: Mapping[str, Outcome] | None = None) -> Json:
        """Ask until nothing more is to be asked; returns the status."""
        while tickets := self.questions():
            for ticket in tickets:
                outcome = (registry or {}).get(asked_for(ticket))
                if outcome is not None:
                    self.answers.append(kept(answer(ticket, outcome), self.work))
        return self.status()

    def merged(self, streams: Streams = no_streams) -> Merged:
        return merged(self.work, self.answers, rules=self.rules, now=NOW, streams=streams)

    def status(self, *, streams: Streams = no_streams, **more: Any) -> Json:
        status = status_of(self.work, self.merged(streams), self.answers, late=LATE, **more)
        read_answer(status)
        assert len(status.get("images", [])) == len(self.request.images), "one for each, in the order asked"
        return status

    @property
    def write(self) -> Json | None:
        body = write_of(self.edit, self.stored, key=self.key, api_version=API)
        return None if body is None else json.loads(body)

    def written(self) -> Json:
        """The stream once the write is made."""
        patch = self.write
        if self.stored is None:
            assert patch is not None
            return patch
        return patched(self.stored.raw, patch or {})


def asked_for(ticket: Ticket) -> str:
    match ticket.question:
        case Description(reference=reference):
            return reference.digest
        case Listing(reference=reference):
            return f"{reference}"
        case Lookup(reference=reference):
            return str(reference)


def image(letter: str, *layers: int, config: Json | None = None, recorded: str = "quay.io/acme/web") -> Described:
    """The object of an image, as if its digest were that of the letter."""
    content = encoded({"architecture": "amd64", "created": "2026-02-01T10:00:00.5Z", "config": config or {}})
    manifest = {
        "schemaVersion": 2,
        "mediaType": DOCKER_MANIFEST,
        "config": {
            "mediaType": "application/vnd.docker.container.image.v1+json",
            "digest": digest_of(content),
            "size": len(content),
        },
        "layers": [
            {
                "mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip",
                "digest": f"sha256:{number:064x}",
                "size": size,
            }
            for number, size in enumerate(layers)
        ],
    }
    reference = ImageReference.parse(recorded)
    return Described(image_object(reference, digest(letter), encoded(manifest), DOCKER_MANIFEST, content))


def large_image(letter: str, size: int, layers: int = 3) -> Described:
    """One whose configuration has about so many bytes."""
    env = [f"V{n}={'x' * 3900}" for n in range(size // 3900)]
    return image(letter, *[100] * layers, config={"Env": env})


def found(letter: str, *layers: int, **more: Any) -> dict[str, Outcome]:
    """A registry where the stable tag is the image of the letter."""
    return {STABLE: resolved(letter), digest(letter): image(letter, *layers, **more)}


def outcomes(status: Json) -> list[str]:
    """What became of each image: the digest's letter, or reason and code."""
    return [
        entry["image"]["metadata"]["name"].removeprefix("sha256:")[:1]
        if "image" in entry
        else f"{entry['status']['reason']} {entry['status']['code']}"
        for entry in status["images"]
    ]
