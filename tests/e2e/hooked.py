"""A control plane whose webhooks are answered by a real controller, and people who use it.

It is one of its own: where a webhook's failurePolicy is Fail, other tests' writes would fail while nobody answers.
"""

from __future__ import annotations

import json
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dev.control_plane import ControlPlane
from dev.controller import Controller, webhook_flags
from dev.registries import Registry
from tests.requests.openshift import REQUESTS

GROUP = "/apis/image.openshift.io/v1"
HOST = "quay.io"
HOSTS = (HOST, "docker.io", "registry.example.com:5000", "registry.invalid")  # what the requests name; all are one
STAMP, TARGET = "imagestreams.dev/requested-by", "imagestreams.dev/image-stream"


@dataclass
class Hooked:
    """A control plane whose webhooks are answered at `port`, and what a controller needs to answer them."""

    plane: ControlPlane
    rights: Path
    port: int
    registry: Registry
    directory: Path

    def controller(
        self, *flags: str, kubeconfig: Path | None = None, name: str = "controller", port: int = 0, lease: str = "3s"
    ) -> Controller:
        """One that is called, or, at another `port`, one beside the one that is.

        `lease` is short, so that one that is killed has a successor soon.
        """
        given = (
            *(f"--registry-endpoint={host}=http://{self.registry.host}" for host in HOSTS),
            f"--lease-duration={lease}",
            "--settle=50ms",
            *webhook_flags(port or self.port),
            *flags,
        )
        return Controller(kubeconfig or self.rights, self.directory, *given, name=name)

    def is_reached(self) -> bool:
        """Whether the API server has the webhook's address, and gets an answer."""
        try:
            self.plane.request("POST", f"{GROUP}/namespaces/default/imagestreamimports?dryRun=All", LOOK_UP)
        except urllib.error.HTTPError:
            return False
        return True


LOOK_UP = {
    "apiVersion": "image.openshift.io/v1",
    "kind": "ImageStreamImport",
    "metadata": {"generateName": "is-it-there-"},
    "spec": {"images": [{"from": {"kind": "DockerImage", "name": "registry.invalid/nothing:none"}}]},
}


class Refused(Exception):
    """The API server's Status."""

    def __init__(self, status: dict[str, Any]) -> None:
        super().__init__(status["message"])
        self.code, self.reason, self.message = status["code"], status.get("reason"), status["message"]


@dataclass
class Somebody:
    """A user of one namespace."""

    hooked: Hooked
    name: str
    namespace: str

    def request(self, method: str, path: str, body: object = None, **query: str) -> dict[str, Any]:
        plane = self.hooked.plane
        tail = "?" + "&".join(f"{key}={value}" for key, value in query.items()) if query else ""
        headers = {"Content-Type": "application/json", "Impersonate-User": self.name}
        encoded = None if body is None else json.dumps(body).encode()
        url = f"{plane.url}{GROUP}/namespaces/{self.namespace}/{path}{tail}"
        try:
            with plane._open(urllib.request.Request(url, encoded, headers, method=method)) as response:
                found: dict[str, Any] = json.load(response)
                return found
        except urllib.error.HTTPError as error:
            with error:
                raise Refused(json.load(error)) from None

    def kubectl(self, *args: str, stdin: object = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        text = None if stdin is None else json.dumps(stdin)
        whose = (f"--namespace={self.namespace}", f"--as={self.name}")
        return self.hooked.plane.kubectl(*whose, *args, input=text, check=check)

    def post(self, request: dict[str, Any], **query: str) -> dict[str, Any]:
        metadata = {**request["metadata"], "namespace": self.namespace}
        return self.request("POST", "imagestreamimports", {**request, "metadata": metadata}, **query)

    def stream(self, name: str = "web") -> dict[str, Any]:
        return self.request("GET", f"imagestreams/{name}")

    def digests(self, tag: str = "latest", name: str = "web") -> list[str]:
        try:
            tags = self.stream(name).get("status", {}).get("tags", [])
        except Refused as refused:
            if refused.code != 404:
                raise
            return []
        return [item["image"] for found in tags if found["tag"] == tag for item in found.get("items", [])]


def recorded(name: str, *, path: str = "acme/web", version: str | None = None) -> dict[str, Any]:
    """A recorded request, about images of a repository of the test's own."""
    text = json.dumps(REQUESTS[name]).replace("quay.io/acme/web", f"{HOST}/{path}")
    found: dict[str, Any] = json.loads(text)
    found["metadata"].pop("resourceVersion", None)
    if version is not None:
        found["metadata"]["resourceVersion"] = version
    return found


People = Callable[..., Somebody]


def mark(somebody: Somebody, answer: dict[str, Any]) -> str:
    found = somebody.request("GET", f"imagestreamimports/{answer['metadata']['name']}")
    return str(found["metadata"]["annotations"].get("imagestreams.dev/carried-out", ""))
