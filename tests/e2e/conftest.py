"""The whole path: the real API server with RBAC, a real registry, the controller as a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from dev.control_plane import ControlPlane
from dev.controller import Controller, install, install_webhooks
from dev.images import Image, Index, image, push
from dev.process import free_port
from dev.registries import Registry
from tests.conftest import ROOT, Kubectl
from tests.e2e.hooked import Hooked, People, Somebody
from tests.waiting import until

BIN = Path(sys.executable).parent
Cli = Callable[..., subprocess.CompletedProcess[str]]
HOST = "registry.test"  # what manifests name; the controller's endpoint setting says where it is


@pytest.fixture(scope="session")
def registry() -> Iterator[Registry]:
    with Registry("distribution-v3") as registry:
        yield registry


@pytest.fixture(scope="session")
def rights(control_plane: ControlPlane) -> Path:
    """A kubeconfig with the controller's service account, after `config/default` was applied."""
    return install(control_plane, kustomization=ROOT / "config" / "default")


@pytest.fixture(scope="session")
def flags(registry: Registry) -> tuple[str, ...]:
    """Settings that make waiting short."""
    return (
        f"--registry-endpoint={HOST}=http://{registry.host}",
        "--interval=2s",
        "--min-interval=1s",
        "--retry-base=1s",
        "--lease-duration=3s",
        "--settle=50ms",
    )


@pytest.fixture(scope="module")
def controller(rights: Path, flags: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Controller]:
    """One controller for the module."""
    with Controller(rights, tmp_path_factory.mktemp("controller"), *flags) as controller:
        yield controller


@pytest.fixture(scope="session")
def hooked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hooked]:
    port = free_port()
    with ControlPlane() as plane, Registry("distribution-v3") as registry:
        yield Hooked(plane, install_webhooks(plane, port=port), port, registry, tmp_path_factory.mktemp("hooked"))


@pytest.fixture(scope="module")
def hooked_controller(hooked: Hooked) -> Iterator[Controller]:
    with hooked.controller() as controller:
        until(hooked.is_reached, seconds=30)
        until(lambda: controller.metrics()["imagestreams_leader"] == 1, seconds=30)
        yield controller


@pytest.fixture
def people(hooked: Hooked, request: pytest.FixtureRequest) -> People:
    """Makes users of a namespace of the test's own, with a role there."""
    plane = hooked.plane
    namespace = request.node.name.removeprefix("test_").split("[")[0].replace("_", "-")[:50].strip("-")
    namespace += f"-{time.monotonic_ns() % 100_000}"
    plane.kubectl("create", "namespace", namespace)

    def make(name: str = "jane", role: str = "edit") -> Somebody:
        asked = ("auth", "can-i", "--list", "--no-headers", "-n", namespace, f"--as={name}")
        without = plane.kubectl(*asked).stdout
        plane.kubectl("create", "rolebinding", name, f"--clusterrole={role}", f"--user={name}", "-n", namespace)
        until(lambda: plane.kubectl(*asked).stdout != without)
        return Somebody(hooked, name, namespace)

    return make


@pytest.fixture
def path(request: pytest.FixtureRequest) -> str:
    return f"tests/{request.node.name.split('[')[0].replace('_', '-')}"


@dataclass
class World:
    """What a test sees and does; everything in the test's own namespace and its own repositories."""

    kubectl: Kubectl
    namespace: str
    registry: Registry

    def push(self, text: str, name: str = "web", tag: str = "stable", content: Image | Index | None = None) -> str:
        """Push an image (another text, another digest); returns the digest."""
        return push(self.registry, f"{self.namespace}/{name}", tag, content or image(text=text))

    def pull_spec(self, digest: str, name: str = "web") -> str:
        return f"{HOST}/{self.namespace}/{name}@{digest}"

    def apply(self, *objects: dict[str, Any], flags: tuple[str, ...] = ()) -> str:
        text = yaml.safe_dump_all(objects)
        return self.kubectl("apply", *flags, "-f", "-", input=text).stdout

    def get(self, resource: str, name: str = "web") -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.kubectl("get", resource, name, "-o", "json").stdout)
        return found

    def stream(
        self, *, name: str = "web", scheduled: bool = False, annotations: dict[str, str] | None = None, **tags: str
    ) -> dict[str, Any]:
        """A stream whose tags come from tags of this test's repositories: `stable="web:stable"`."""
        return {
            "apiVersion": "image.openshift.io/v1",
            "kind": "ImageStream",
            "metadata": {"name": name, "annotations": annotations or {}},
            "spec": {
                "tags": [
                    {
                        "name": tag,
                        "from": {"kind": "DockerImage", "name": f"{HOST}/{self.namespace}/{source}"},
                        "importPolicy": {"scheduled": scheduled},
                    }
                    for tag, source in (tags or {"stable": "web:stable"}).items()
                ]
            },
        }

    def digests(self, tag: str = "stable", name: str = "web") -> list[str]:
        """The tag's history, newest first."""
        tags = self.get("imagestreams", name).get("status", {}).get("tags", [])
        return [item["image"] for found in tags if found["tag"] == tag for item in found.get("items", [])]

    def images(self, name: str = "web") -> dict[str, str]:
        """What each container of the Deployment is to run."""
        pod = self.get("deployments", name)["spec"]["template"]["spec"]
        return {each["name"]: each["image"] for each in [*pod.get("initContainers", []), *pod["containers"]]}

    def events(self, reason: str) -> list[dict[str, Any]]:
        found = json.loads(self.kubectl("get", "events", "-o", "json").stdout)["items"]
        return [event for event in found if event["reason"] == reason]

    def is_rolled_out(self, name: str = "web") -> bool:
        found = self.get("deployments", name)
        status, wanted = found.get("status", {}), found["spec"]["replicas"]
        counts = [status.get(count, 0) for count in ("replicas", "updatedReplicas", "availableReplicas")]
        return counts == [wanted] * 3 and status.get("observedGeneration") == found["metadata"]["generation"]

    def until(self, condition: Callable[[], object], seconds: float = 20) -> None:
        until(condition, seconds=seconds)


@pytest.fixture
def world(kubectl: Kubectl, namespace: str, registry: Registry) -> World:
    return World(kubectl, namespace, registry)


@pytest.fixture
def cli(control_plane: ControlPlane, namespace: str) -> Cli:
    def run(*args: str, program: str = "imagestreams") -> subprocess.CompletedProcess[str]:
        command = [str(BIN / program), *args]
        if program == "kubectl":
            command = [str(control_plane.programs["kubectl"]), "imagestreams", *args]
        environment = {**os.environ, "KUBECONFIG": str(control_plane.kubeconfig), "PATH": f"{BIN}:{os.environ['PATH']}"}
        return subprocess.run(
            [*command, "-n", namespace], env=environment, capture_output=True, text=True, timeout=90, check=False
        )

    return run


def deployment(
    follow: str = "web=web:stable",
    *,
    containers: dict[str, str] | None = None,
    init: dict[str, str] | None = None,
    replicas: int = 1,
    annotations: dict[str, str] | None = None,
) -> dict[str, Any]:
    """A Deployment `web` whose containers follow tags."""
    labels = {"app": "web"}
    pod: dict[str, Any] = {
        "containers": [
            {"name": name, "image": image} for name, image in (containers or {"web": "example/placeholder:1"}).items()
        ]
    }
    if init:
        pod["initContainers"] = [{"name": name, "image": image} for name, image in init.items()]
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": "web",
            "annotations": annotations if annotations is not None else {"imagestreams.dev/follow": follow},
        },
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }
