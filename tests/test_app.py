"""What the wiring decides by itself: when the process is ready, and when it must not go on."""

from __future__ import annotations

import asyncio
import socket
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path

import pytest

from imagestreams.app import CannotListen, Controller, GroupTaken
from imagestreams.core.policy import refuse_address
from imagestreams.kube.cluster import Cluster
from imagestreams.rules import base_policy_of
from imagestreams.settings import load
from tests.fakes.apiserver import FakeApiServer, hang
from tests.fakes.waiting import until
from tests.storyteller import Storyteller


async def run(api: FakeApiServer, directory: Path, **flags: str) -> None:
    """A controller, until it ends by itself."""
    settings = load(
        {"kubeconfig": str(api.kubeconfig(directory / "kubeconfig")), "http_address": "127.0.0.1:0", **flags},
        {},
        lambda path: Path(path).read_text(),
    )
    async with await Cluster.connect(settings.kubeconfig) as cluster, asyncio.timeout(10):
        await Controller(cluster, settings, clock=lambda: datetime.now(UTC)).run(asyncio.Event())


async def test_an_address_that_is_taken_is_named(tmp_path: Path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        async with FakeApiServer() as api:
            with pytest.raises(CannotListen, match=f"http-address {address}"):
                await run(api, tmp_path, http_address=address)


async def test_a_group_of_another_api_server_is_left_alone(tmp_path: Path):
    async with FakeApiServer() as api:
        api.put(
            {
                "apiVersion": "apiregistration.k8s.io/v1",
                "kind": "APIService",
                "metadata": {"name": "v1.image.openshift.io"},
                "spec": {"group": "image.openshift.io", "version": "v1", "service": {"name": "api", "namespace": "os"}},
            }
        )
        with pytest.raises(GroupTaken, match=r"imagestreams\.dev"):
            await run(api, tmp_path)
        assert api.count("patch") == 0


@pytest.mark.parametrize(
    ("url", "refused"),
    [
        pytest.param("https://10.96.0.1:443", True, id="by address, as in a pod"),
        pytest.param("https://[fd00::1]:6443", False, id="another address"),
        pytest.param("https://kubernetes.example.com", False, id="by name"),
    ],
)
def test_the_api_server_is_no_registry(url: str, refused: bool):
    policy = base_policy_of(load({}, {}, lambda path: Path(path).read_text()), api_server=url)
    assert bool(refuse_address(ip_address("10.96.0.1"), policy)) is refused
    assert refuse_address(ip_address("10.96.0.2"), policy) is None, "its neighbours may be registries"


async def test_an_api_server_that_hangs_ends_readiness(tmp_path: Path):
    async with Storyteller(tmp_path, {"lease_duration": "3s"}) as teller:
        controller = teller.controller
        assert controller.problems() == {}
        teller.api.inject(hang(), resource="leases", times=-1)
        await until(lambda: "api-server" in controller.problems())
        assert "Lease" in controller.problems()["api-server"]
        teller.api.heal()
        await until(lambda: controller.problems() == {})
