"""Kill -9 at chosen points, two replicas, a signal, and every order of starting: nothing is lost and nothing is done
twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path

import pytest
import yaml

from dev.control_plane import ControlPlane
from dev.controller import Controller
from dev.process import free_port
from tests.e2e.conftest import World, deployment
from tests.e2e.proxy import ApiProxy

Start = Callable[..., Controller]


@pytest.fixture
def start(flags: tuple[str, ...], tmp_path: Path) -> Iterator[Start]:
    """Starts controllers; those that still run at the end are stopped."""
    with ExitStack() as stack:

        def start(kubeconfig: Path, *more: str, name: str = "controller", wait: bool = True) -> Controller:
            controller = Controller(kubeconfig, tmp_path, *flags, *more, name=name)
            stack.callback(controller.stop)
            return controller.start(wait=wait)

        yield start


@pytest.fixture
def proxy(control_plane: ControlPlane) -> Iterator[ApiProxy]:
    with ApiProxy(control_plane) as proxy:
        yield proxy


def test_killed_between_the_registrys_answer_and_the_status(world: World, proxy: ApiProxy, rights: Path, start: Start):
    digest = world.push("one")
    held = proxy.hold("PATCH", rf"/namespaces/{world.namespace}/imagestreams/web/status$", when="before")
    controller = start(proxy.kubeconfig(rights))
    world.apply(world.stream(), deployment())
    held.wait()
    controller.kill()
    held.release()
    assert world.digests() == []

    start(proxy.kubeconfig(rights), name="successor")

    world.until(lambda: world.images()["web"] == world.pull_spec(digest))
    assert world.digests() == [digest]
    assert world.get("deployments")["metadata"]["generation"] == 2  # created, and set once


def test_killed_after_the_status_was_written_and_before_it_knew(
    world: World, proxy: ApiProxy, rights: Path, start: Start
):
    digest = world.push("one")
    held = proxy.hold("PATCH", rf"/namespaces/{world.namespace}/imagestreams/web/status$", when="after")
    controller = start(proxy.kubeconfig(rights))
    world.apply(world.stream(), deployment())
    held.wait()
    controller.kill()
    held.release()
    assert world.digests() == [digest]

    start(proxy.kubeconfig(rights), name="successor")

    world.until(lambda: world.images()["web"] == world.pull_spec(digest))
    assert world.digests() == [digest]
    assert world.get("deployments")["metadata"]["generation"] == 2


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_around_the_deployments_patch(world: World, proxy: ApiProxy, rights: Path, start: Start, when: str):
    digest = world.push("one")
    held = proxy.hold("PATCH", rf"/namespaces/{world.namespace}/deployments/web$", when=when)  # type: ignore[arg-type]
    controller = start(proxy.kubeconfig(rights))
    world.apply(world.stream(), deployment())
    held.wait()
    controller.kill()
    held.release()
    assert (world.images()["web"] == world.pull_spec(digest)) is (when == "after")

    successor = start(proxy.kubeconfig(rights), name="successor")

    world.until(lambda: world.images()["web"] == world.pull_spec(digest))
    world.until(lambda: is_leading(successor))
    world.until(world.is_rolled_out)
    assert world.get("deployments")["metadata"]["generation"] == 2
    assert world.digests() == [digest]


def test_killed_between_the_two_patches_of_a_deployment_that_was_applied_server_side(
    world: World, proxy: ApiProxy, rights: Path, start: Start
):
    """The second gives up our ownership of the image; without it the user's next apply would be a conflict."""
    digest = world.push("one")
    held = proxy.hold("PATCH", rf"/namespaces/{world.namespace}/deployments/web$", when="before", skip=1)
    controller = start(proxy.kubeconfig(rights))
    world.apply(world.stream())
    world.apply(deployment(), flags=("--server-side",))
    held.wait()
    controller.kill()
    held.release()

    start(proxy.kubeconfig(rights), name="successor")

    def managers() -> list[str]:
        found = world.kubectl("get", "deployment", "web", "-o", "yaml", "--show-managed-fields").stdout
        return [entry["manager"] for entry in yaml.safe_load(found)["metadata"]["managedFields"]]

    world.until(lambda: "imagestreams" not in managers())
    assert world.images()["web"] == world.pull_spec(digest)
    world.apply(deployment(replicas=2), flags=("--server-side",))


def test_a_replica_whose_watch_lags_takes_over_and_rolls_nothing_back(
    world: World, proxy: ApiProxy, rights: Path, start: Start
):
    first = world.push("one")
    leader = start(rights, name="leader")
    world.until(lambda: is_leading(leader))
    world.apply(world.stream(scheduled=True), deployment())
    world.until(lambda: world.images()["web"] == world.pull_spec(first))
    standby = start(proxy.kubeconfig(rights), name="standby")
    proxy.freeze("/imagestreams$")
    second = world.push("two")
    world.until(lambda: world.images()["web"] == world.pull_spec(second))
    generation = world.get("deployments")["metadata"]["generation"]

    leader.stop()

    world.until(lambda: is_leading(standby))
    third = world.push("three")  # found by the schedule, long after the first rounds
    world.until(lambda: world.images()["web"] == world.pull_spec(third))
    assert world.get("deployments")["metadata"]["generation"] == generation + 1


def is_leading(controller: Controller) -> bool:
    return controller.metrics().get("imagestreams_leader") == 1


def test_a_second_replica_waits_and_takes_over(world: World, rights: Path, start: Start):
    first = start(rights, name="first")
    world.until(lambda: is_leading(first))
    second = start(rights, name="second")
    assert not is_leading(second)
    world.push("one")
    world.apply(world.stream())
    world.until(world.digests)

    first.kill()
    digest = world.push("two")
    world.kubectl("annotate", "imagestream", "web", "imagestreams.dev/refresh=now")
    world.until(lambda: world.digests()[0] == digest)
    assert is_leading(second)


def test_a_move_while_it_was_down_is_seen_at_its_start(world: World, rights: Path, start: Start):
    first = world.push("one")
    controller = start(rights)
    world.apply(world.stream(scheduled=True), deployment())
    world.until(lambda: world.images()["web"] == world.pull_spec(first))
    controller.kill()

    second = world.push("two")
    start(rights, name="successor")
    world.until(lambda: world.images()["web"] == world.pull_spec(second))


def test_sigterm_ends_it_soon_and_gives_the_lease_back(
    world: World, control_plane: ControlPlane, rights: Path, start: Start
):
    controller = start(rights)
    world.until(lambda: is_leading(controller))
    began = time.monotonic()
    controller.stop()
    assert time.monotonic() - began < 10
    assert any(entry["event"] == "stopped" for entry in controller.log())
    path = "/apis/coordination.k8s.io/v1/namespaces/imagestreams-system/leases/imagestreams"
    assert not control_plane.request("GET", path)["spec"].get("holderIdentity")

    def watermark() -> datetime:
        lease = control_plane.request("GET", path)
        return datetime.fromisoformat(lease["metadata"]["annotations"]["imagestreams.dev/watermark"])

    began_at = watermark()
    again = start(rights)  # a second life: what it gives back is its own, not what it was given
    world.until(lambda: watermark() > began_at)  # once it has looked at every stream, also those of other tests
    own = watermark()
    again.stop()
    assert watermark() >= own


def test_it_may_start_before_the_api_server(world: World, control_plane: ControlPlane, rights: Path, start: Start):
    proxy = ApiProxy(control_plane, free_port())  # nobody listens there yet
    controller = start(proxy.kubeconfig(rights), name="early", wait=False)
    world.until(lambda: "[-] api-server" in controller.readiness())
    digest = world.push("one")
    world.apply(world.stream())
    with proxy:
        world.until(lambda: world.digests() == [digest], seconds=40)
        assert controller.is_ready()
        controller.stop()


def test_it_may_start_before_the_crds(world: World, control_plane: ControlPlane, start: Start):
    """With a group whose CRDs nobody has installed yet."""
    flags = ("--api-group=imagestreams.dev", "--lease-name=early")
    controller = start(control_plane.kubeconfig, *flags, name="early", wait=False)
    world.until(lambda: "CRDs installed" in controller.readiness())
    control_plane.kubectl("apply", "--server-side", "-k", "config/imagestreams.dev/crds")
    try:
        world.until(controller.is_ready, seconds=40)
    finally:
        controller.stop()
        control_plane.kubectl("delete", "-k", "config/imagestreams.dev/crds", "--wait=false")
