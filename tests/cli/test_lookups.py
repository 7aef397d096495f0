"""Look-ups that store nothing: what is asked of the cluster, and how its answers are read."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest

from imagestreams.cli import kubeconfig
from imagestreams.cli.api import Client, Refused, Resource
from imagestreams.cli.lookups import Ask, NotServed, ask_server, found, look_up
from imagestreams.cli.options import Failure
from tests.cli.shop import API, DIGEST, OTHER, answer_imports, opened, refused, serve_imports, succeeded
from tests.fakes.apiserver import disconnect, status

STREAMS = Resource("image.openshift.io")
IMPORTS = "imagestreamimports"
WEB = Ask("quay.io/acme/web:1", "1")


@pytest.fixture
async def world(tmp_path, monkeypatch):
    monkeypatch.setattr("imagestreams.cli.waiting._FIRST_PAUSE", 0.001)
    async with opened(tmp_path, monkeypatch) as world:
        yield world


@pytest.fixture
def call(world):
    async def run(function=look_up, *args, **kwargs) -> Any:
        client = Client(kubeconfig.load(kubeconfig.Overrides(), os.environ))
        try:
            return await asyncio.to_thread(function, client, STREAMS, "shop", "web", *args, **kwargs)
        finally:
            client.close()

    return run


def answer(world, *entries):
    """What the controller writes later."""

    def write() -> None:
        [found] = [each for each in world.server.all(API, IMPORTS) if "status" not in each]
        world.server.put({**found, "status": {"images": list(entries)}})

    return write


async def test_what_is_asked(world, call):
    answer_imports(world, {"images": [succeeded(), refused("NotFound", "no such tag")]})
    asked = (WEB, Ask("quay.io/acme/db", is_insecure=True, import_mode="Legacy"))
    done = await call(look_up, asked)
    assert world.bodies("create", IMPORTS) == [
        {
            "apiVersion": API,
            "kind": "ImageStreamImport",
            "metadata": {"name": "web", "namespace": "shop"},
            "spec": {
                "import": False,
                "images": [
                    {"from": {"kind": "DockerImage", "name": "quay.io/acme/web:1"}, "to": {"name": "1"}},
                    {
                        "from": {"kind": "DockerImage", "name": "quay.io/acme/db"},
                        "importPolicy": {"insecure": True, "importMode": "Legacy"},
                    },
                ],
            },
        }
    ]
    assert [(each.ask, each.digest, each.failure) for each in done] == [
        (asked[0], DIGEST, ""),
        (asked[1], "", "NotFound: no such tag"),
    ]
    assert done[0].pull_spec == f"quay.io/acme/web@{DIGEST}"
    assert world.verbs(IMPORTS) == ["create"]


async def test_without_the_webhook_the_controller_answers_later(world, call):
    serve_imports(world)
    world.when("watch", answer(world, succeeded(OTHER)), resource=IMPORTS)
    [found] = await call(look_up, [WEB])
    assert found.digest == OTHER
    assert world.verbs(IMPORTS) == ["create", "watch"]


async def test_an_earlier_request_is_not_in_the_way(world, call):
    """Without the webhook a request keeps the stream's name until it is deleted."""
    serve_imports(world)
    world.server.put(
        {
            "apiVersion": API,
            "kind": "ImageStreamImport",
            "metadata": {"name": "web", "namespace": "shop"},
            "status": {"images": [succeeded(DIGEST)]},
        }
    )
    world.when("watch", answer(world, succeeded(OTHER)), resource=IMPORTS)
    [found] = await call(look_up, [WEB])
    assert found.digest == OTHER, "the answer to another request is not ours"
    assert world.bodies("create", IMPORTS)[1]["metadata"] == {"generateName": "web-", "namespace": "shop"}


@pytest.mark.parametrize(
    "fault",
    [status(403, "Forbidden", "no"), status(410, "Expired", "too old"), status(503, "Unavailable"), disconnect()],
)
async def test_what_cannot_be_watched_is_asked_for(world, call, fault):
    serve_imports(world)
    world.server.inject(fault, verb="watch", times=-1)
    world.when("get", resource=IMPORTS)
    world.when("get", answer(world, succeeded()), resource=IMPORTS)
    [found] = await call(look_up, [WEB])
    assert found.digest == DIGEST
    assert world.verbs(IMPORTS).count("get") == 2


async def test_nobody_answers(world, call):
    serve_imports(world)
    with pytest.raises(Failure, match=r"imagestreamimport.image.openshift.io/web was not answered within 0.1s: is the"):
        await call(look_up, [WEB], timeout=0.1)


async def test_it_is_deleted_unanswered(world, call):
    serve_imports(world)
    world.when("watch", lambda: world.server.remove(API, IMPORTS, "shop", "web"), resource=IMPORTS)
    with pytest.raises(Failure, match=r"imagestreamimport.image.openshift.io/web was deleted meanwhile"):
        await call(look_up, [WEB])


async def test_where_there_are_no_requests(world, call):
    with pytest.raises(NotServed) as caught:
        await call(look_up, [WEB])
    assert caught.value.message == (
        "error: the server has no imagestreamimports.image.openshift.io, by which images are looked up without storing "
        "anything\n"
        "  An administrator installs it with: kubectl apply -k crds\n"
        "  Without the cluster: imagestreams resolve -f MANIFEST, or imagestreams explain IMAGE"
    )


@pytest.mark.parametrize(
    "fault",
    [
        status(404, "NotFound", 'namespaces "shop" not found'),
        status(403, "Forbidden", "may not create"),
        status(409, "Conflict", "it was updated"),
        status(500, "InternalError", "the webhook does not answer"),
    ],
)
async def test_a_refusal_is_the_callers(world, call, fault):
    serve_imports(world)
    world.server.inject(fault, verb="create", times=-1)
    with pytest.raises(Refused):
        await call(look_up, [WEB])
    assert world.verbs(IMPORTS) == ["create"]


@pytest.mark.parametrize("count", [0, 2])
async def test_answers_that_do_not_fit(world, call, count):
    answer_imports(world, {"images": [succeeded()] * count, "note": "so that it is not empty"})
    with pytest.raises(Failure, match=f"1 images were asked for, and {count} answers came"):
        await call(look_up, [WEB])


async def test_a_repository(world, call):
    answer_imports(world, {"repository": {"images": [succeeded()]}})
    done = await call(ask_server, {"repository": {"from": {"kind": "DockerImage", "name": "quay.io/acme/web"}}})
    assert done["status"]["repository"]["images"] == [succeeded()]
    assert world.bodies("create", IMPORTS)[0]["spec"]["import"] is False


@pytest.mark.parametrize(
    ("entry", "digest", "failure"),
    [
        pytest.param(succeeded(), DIGEST, "", id="an image"),
        pytest.param({"image": {"metadata": {"name": DIGEST}}}, DIGEST, "", id="no status"),
        pytest.param(refused("Forbidden", "no"), "", "Forbidden: no", id="a failure"),
        pytest.param({**succeeded(), **refused("Timeout", "late")}, "", "Timeout: late", id="a failure with an image"),
        pytest.param({}, "", "Failed: the server gave no message", id="nothing"),
        pytest.param(None, "", "Failed: the server gave no message", id="null"),
        pytest.param({"status": 1, "image": []}, "", "Failed: the server gave no message", id="nonsense"),
        pytest.param(
            {"status": {"status": "Success"}, "image": {"metadata": 1, "dockerImageReference": 2}},
            "",
            "InvalidAnswer: the server named an image without a digest",
            id="nonsense in an image",
        ),
    ],
)
def test_entries(entry, digest, failure):
    done = found(WEB, entry)
    assert (done.digest, done.failure) == (digest, failure)


@pytest.mark.parametrize(
    ("entry", "is_absent"),
    [(refused("NotFound", ""), True), (refused("Timeout", ""), False), (succeeded(), False)],
)
def test_only_not_found_means_that_it_is_not_there(entry, is_absent):
    assert found(WEB, entry).is_absent is is_absent
