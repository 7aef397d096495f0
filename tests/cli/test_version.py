"""`version`: of the program, and of what can be seen of the cluster's side."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from imagestreams import __version__
from tests.cli.shapes import shape
from tests.cli.shop import World, command, opened
from tests.fakes.apiserver import FakeApiServer, status

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


def controller(image: str = "registry.example.com:5000/imagestreams:0.9.1", *, ready: int = 1) -> dict[str, Any]:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": "imagestreams",
            "namespace": "imagestreams-system",
            "labels": {"app.kubernetes.io/name": "imagestreams", "app.kubernetes.io/component": "controller"},
        },
        "spec": {
            "replicas": 2,
            "template": {
                "spec": {"containers": [{"name": "proxy", "image": "x:1"}, {"name": "controller", "image": image}]}
            },
        },
        "status": {"readyReplicas": ready} if ready else {},
    }


@pytest.fixture
async def world(tmp_path, monkeypatch) -> AsyncIterator[World]:
    async with opened(tmp_path, monkeypatch) as world:
        world.server.define("image.openshift.io/v1", "images", "Image", namespaced=False)
        yield world


@pytest.fixture
def version(capsys):
    return command("version", capsys)


def lines(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines()]


async def test_all(world, version):
    world.server.put(controller())
    done = await version()
    assert (done.code, done.err) == (0, "")
    assert lines(done.out) == [
        f"Client: {__version__}",
        "Controller: 0.9.1 (imagestreams-system/imagestreams, 1 of 2 ready)",
        "API: image.openshift.io/v1 (imagestreams, images)",
        "Kubernetes: v1.36.3",
    ]


@pytest.mark.parametrize(
    ("image", "shown"),
    [
        ("host:5000/imagestreams", "host:5000/imagestreams"),
        (f"host/imagestreams:1.2@sha256:{'a' * 64}", "1.2"),
        (f"host/imagestreams@sha256:{'a' * 64}", f"host/imagestreams@sha256:{'a' * 64}"),
    ],
)
async def test_the_version_is_the_images_tag(world, version, image, shown):
    world.server.put(controller(image))
    assert lines((await version()).out)[1].startswith(f"Controller: {shown} (")


async def test_who_may_see_only_its_namespace(world, version):
    world.server.put(controller())
    world.server.inject(
        status(403, "Forbidden", "no"), resource="deployments", when=lambda seen: not seen.namespace, times=-1
    )
    assert "Controller: 0.9.1 (imagestreams-system/imagestreams, 1 of 2 ready)" in lines((await version()).out)


async def test_who_may_not_see_it(world, version):
    world.server.inject(status(403, "Forbidden", "you may\x1b not"), resource="deployments", times=-1)
    done = await version()
    assert done.code == 0
    assert "Controller: not seen: you may not" in lines(done.out)


async def test_no_image_streams(tmp_path, monkeypatch, version):
    async with FakeApiServer() as server:
        monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(tmp_path / "config")))
        done = await version()
    assert done.code == 0
    assert "API: not installed" in lines(done.out)
    assert "Controller: not seen" in lines(done.out)


async def test_only_the_client(world, version):
    assert await version("--client") == (0, f"Client:      {__version__}\n", "")
    assert world.server.requests == []


SERVER = {
    "serverVersion.kubernetes": {"string"},
    "serverVersion.apiVersion": {"string"},
    "serverVersion.resources[]": {"string"},
    "serverVersion.notSeen": {"string"},
    "serverVersion.controllers[].namespace": {"string"},
    "serverVersion.controllers[].name": {"string"},
    "serverVersion.controllers[].image": {"string"},
    "serverVersion.controllers[].version": {"string"},
    "serverVersion.controllers[].replicas": {"integer"},
    "serverVersion.controllers[].ready": {"integer"},
}
CLIENT = {"clientVersion.version": {"string"}, "clientVersion.python": {"string"}}


async def test_json_and_yaml(world, version):
    world.server.put(controller())
    found = json.loads((await version("-o", "json")).out)
    assert shape(found) == {**CLIENT, **SERVER}
    assert yaml.safe_load((await version("-o", "yaml")).out) == found
    assert shape(json.loads((await version("--client", "-o", "json")).out)) == CLIENT
    assert (await version("-o", "name")).code == 2


async def test_a_cluster_that_cannot_be_asked(tmp_path, monkeypatch, version):
    async with opened(tmp_path, monkeypatch) as world:
        world.server.inject(status(401, "Unauthorized", "who are you"), times=-1)
        done = await version()
        assert (done.code, done.out) == (1, f"Client:      {__version__}\n")
        assert done.err == "error: You must be logged in to the server (who are you)\n"
        shown = await version("-o", "json")
        assert (shown.code, shape(json.loads(shown.out))) == (1, CLIENT)
