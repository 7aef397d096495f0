"""The controller's other ways: observing, enforcing, the other API group, and where it refuses to start."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from dev.control_plane import ControlPlane
from dev.controller import Controller, install
from tests.conftest import ROOT
from tests.e2e.conftest import Cli, World, deployment
from tests.waiting import until


def test_observe_writes_status_but_no_workload(world: World, rights: Path, flags: tuple[str, ...], tmp_path: Path):
    digest = world.push("one")
    with Controller(rights, tmp_path, *flags, "--observe") as controller:
        world.apply(world.stream(), deployment())
        world.until(lambda: world.events("ImageUpdateObserved"))
        [event] = world.events("ImageUpdateObserved")
        assert world.pull_spec(digest) in event["message"]
        assert world.digests() == [digest]
        assert world.get("deployments")["metadata"]["generation"] == 1
        assert any(entry.get("reason") == "ImageUpdateObserved" for entry in controller.log())


def test_drift_enforce_sets_back_what_a_hand_changed(
    world: World, rights: Path, flags: tuple[str, ...], tmp_path: Path
):
    digest = world.push("one")
    with Controller(rights, tmp_path, *flags, "--drift=enforce"):
        world.apply(world.stream(), deployment())
        world.until(lambda: world.images()["web"] == world.pull_spec(digest))
        world.kubectl("set", "image", "deployment/web", "web=example/mine:1")
        world.until(lambda: any("drift enforced" in event["message"] for event in world.events("ImageUpdated")))
        assert world.images()["web"] == world.pull_spec(digest)


@pytest.fixture
def other_group(control_plane: ControlPlane) -> Iterator[Path]:
    """The whole product in the group imagestreams.dev; its rights are those that its overlay ships."""
    yield install(control_plane, kustomization=ROOT / "config" / "imagestreams.dev")
    control_plane.kubectl("delete", "-k", str(ROOT / "config/imagestreams.dev/crds"))
    install(control_plane, kustomization=ROOT / "config" / "default")


def test_the_other_group(world: World, other_group: Path, flags: tuple[str, ...], tmp_path: Path):
    digest = world.push("one")
    stream = {**world.stream(), "apiVersion": "imagestreams.dev/v1"}
    with Controller(other_group, tmp_path, *flags, "--api-group=imagestreams.dev"):
        world.kubectl("apply", "-f", "-", input=yaml.safe_dump(stream))
        world.apply(deployment())
        world.until(lambda: world.images()["web"] == world.pull_spec(digest))
        world.kubectl("wait", "--for=condition=Ready", "imagestreams.imagestreams.dev/web", "--timeout=5s")


def test_it_refuses_to_start_where_another_api_server_has_the_group(control_plane: ControlPlane, tmp_path: Path):
    """As on OpenShift, where image.openshift.io is aggregated; here the other group plays that part."""
    service = {
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {"name": "v1.imagestreams.dev"},
        "spec": {
            "group": "imagestreams.dev",
            "version": "v1",
            "groupPriorityMinimum": 100,
            "versionPriority": 100,
            "insecureSkipTLSVerify": True,
            "service": {"name": "api", "namespace": "default"},
        },
    }
    control_plane.kubectl("apply", "-f", "-", input=yaml.safe_dump(service))
    controller = Controller(control_plane.kubeconfig, tmp_path, "--api-group=imagestreams.dev")
    try:
        controller.start(wait=False)
        until(lambda: not controller.server.running)
        [line] = [entry for entry in controller.log() if entry["event"] == "refusing to work"]
        assert "another API server" in str(line["reason"])
    finally:
        controller.stop()
        control_plane.kubectl("delete", "apiservice", "v1.imagestreams.dev")


@pytest.mark.usefixtures("rights")
def test_import_image_without_a_controller_times_out_and_says_so(world: World, cli: Cli):
    world.push("one")
    world.apply(world.stream())
    done = cli("import-image", "web:stable", "--timeout=2s")
    assert done.returncode == 1
    assert "controller" in done.stderr
