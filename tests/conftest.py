"""The real control plane, one for the whole run, and a namespace of its own for each test that uses it.

    def test_something(kubectl, namespace):          # marked `cluster` by itself: `-m "not cluster"` leaves it out
        kubectl("create", "deployment", "web", "--image=example/web:1")

It starts with the first test that asks for it. Tests share its cluster-wide objects, so what a test creates there must
be named after its namespace.
"""

from __future__ import annotations

import re
import secrets
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest

from dev.control_plane import ControlPlane
from tests.requests.reader import Reader, reader

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]


class Kubectl(Protocol):
    """Runs kubectl as administrator in the test's namespace; with `check`, its failure raises and shows stderr."""

    def __call__(
        self,
        *args: str,
        input: str | None = None,  # noqa: A002 (subprocess.run's word)
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]: ...


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "control_plane" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.cluster)


@pytest.fixture(scope="session")
def control_plane(request: pytest.FixtureRequest) -> Iterator[ControlPlane]:
    """etcd, API server, controllers, scheduler and a fake node on which Deployments roll."""
    capture = request.config.pluginmanager.getplugin("capturemanager")

    def say(line: str) -> None:
        with capture.global_and_fixture_disabled():  # a first build takes minutes
            print(line, flush=True)

    with ControlPlane(say=say) as plane:
        yield plane


@pytest.fixture(scope="session")
def streams_api(control_plane: ControlPlane) -> ControlPlane:
    """The control plane with our CRDs in the group image.openshift.io, served."""
    control_plane.kubectl("apply", "--server-side", "-k", str(ROOT / "crds"))
    control_plane.kubectl("wait", "--for=condition=Established", "--timeout=30s", "crd/imagestreams.image.openshift.io")
    return control_plane


@pytest.fixture(scope="session")
def go() -> Reader:
    """What OpenShift's clients make of an answer."""
    return reader()


@pytest.fixture
def namespace(control_plane: ControlPlane, request: pytest.FixtureRequest) -> Iterator[str]:
    """A new namespace, named after the test and deleted behind its back."""
    words = re.sub(r"[^a-z0-9]+", "-", request.node.name.removeprefix("test_").lower())[:40].strip("-")
    name = f"{words}-{secrets.token_hex(3)}"
    control_plane.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    yield name
    control_plane.request("DELETE", f"/api/v1/namespaces/{name}")


@pytest.fixture
def kubectl(control_plane: ControlPlane, namespace: str) -> Kubectl:
    """kubectl in the test's namespace."""

    def run(*args: str, input: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:  # noqa: A002
        return control_plane.kubectl(f"--namespace={namespace}", *args, input=input, check=check)

    return run
