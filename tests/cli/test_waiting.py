"""Waiting for an object to change: by watch, by asking again, until the time is up, and never for another object."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
from typing import Any

import pytest
from aiohttp import web

from imagestreams.cli import kubeconfig
from imagestreams.cli.api import Client, Refused, Resource
from imagestreams.cli.options import Failure
from imagestreams.cli.revisions import read_stream
from imagestreams.cli.waiting import explained, states
from tests.cli.shop import API, opened, stream
from tests.fakes.apiserver import disconnect, status

STREAMS = Resource("image.openshift.io")


@pytest.fixture
async def world(tmp_path, monkeypatch):
    async with opened(tmp_path, monkeypatch) as world:
        world.server.put(stream(labels={"n": "0"}))
        yield world


@pytest.fixture
def watch(world):
    """The labels `n` that are seen, at most so many; pauses cost no time, but bring the deadline nearer."""

    async def run(most: int, timeout: float | None = 60, uid: str = "u-1", seen: bytes = b"") -> list[str]:
        client = Client(kubeconfig.load(kubeconfig.Overrides(), os.environ))
        now = itertools.count()

        def collect() -> list[str]:
            found = states(
                client,
                STREAMS,
                "shop",
                "web",
                timeout,
                uid=uid,
                seen=seen,
                clock=lambda: next(now) / 10,
                sleep=lambda _: None,
            )
            return [label(read(body)) for body in itertools.islice(found, most)]

        try:
            return await asyncio.to_thread(collect)
        finally:
            client.close()

    return run


def read(body: bytes) -> Any:
    assert read_stream(body).metadata.name == "web"
    return json.loads(body)


def label(value: Any) -> str:
    return str(value["metadata"]["labels"]["n"])


def change(world: Any, *numbers: int):
    def act() -> None:
        for number in numbers:
            found = world.stream
            found["metadata"]["labels"]["n"] = str(number)
            world.server.put(found)

    return act


async def test_it_is_seen_as_it_is_and_as_it_changes(world, watch):
    world.when("watch", change(world, 1, 2))
    assert await watch(3) == ["0", "1", "2"]
    assert world.verbs() == ["get", "watch"]


async def test_what_was_just_read_is_not_read_again(world, watch):
    seen = json.dumps(world.stream).encode()
    change(world, 1)()
    assert await watch(2, seen=seen) == ["0", "1"], "what came after it is not missed"
    assert world.verbs() == ["watch"]


async def test_what_was_just_read_is_read_again_when_the_watch_breaks(world, watch):
    world.server.inject(disconnect, verb="watch")
    world.when("get", change(world, 1))
    assert await watch(2, seen=json.dumps(world.stream).encode()) == ["0", "1"]


def test_who_interrupts_is_told_what_stays(capsys):
    with pytest.raises(KeyboardInterrupt), explained("the pin is written"):
        raise KeyboardInterrupt
    assert capsys.readouterr() == ("", "the pin is written\n")
    with explained("the pin is written"):
        pass
    assert capsys.readouterr() == ("", "")


async def test_no_change_is_missed_between_two_watches(world, watch):
    async def end(_request: Any, _serve: Any) -> Any:
        change(world, 1)()
        return web.Response(body=b"")

    world.server.inject(end, verb="watch")
    assert await watch(2) == ["0", "1"]


@pytest.mark.parametrize("fault", [disconnect, status(500, "InternalError", "x"), status(410, "Expired", "too old")])
async def test_a_watch_that_breaks_is_taken_up_again(world, watch, fault):
    world.server.inject(fault, verb="watch")
    world.when("watch", change(world, 1))
    assert await watch(3) == ["0", "0", "1"]


async def test_a_server_that_is_away_for_a_moment_is_asked_again(world, watch):
    world.server.inject(disconnect, verb="get", times=2)
    assert await watch(1) == ["0"]


async def test_where_watching_is_not_allowed_it_is_asked_again(world, watch):
    world.server.inject(status(403, "Forbidden", "no"), verb="watch", times=-1)
    assert await watch(3) == ["0", "0", "0"]
    assert world.verbs().count("watch") == 1


async def test_the_time_is_up(world, watch):
    world.server.inject(status(403, "Forbidden", "no"), verb="watch", times=-1)
    assert 1 <= len(await watch(1000, timeout=3)) < 30


async def test_a_stream_that_goes_away(world, watch):
    world.when("watch", lambda: world.server.remove(API, "imagestreams", "shop", "web"))
    with pytest.raises(Failure, match=r"imagestream.image.openshift.io/web was deleted meanwhile"):
        await watch(2)


async def test_another_stream_of_the_name(world, watch):
    with pytest.raises(Failure, match="was deleted and created anew meanwhile"):
        await watch(1, uid="u-0")


async def test_a_stream_that_must_not_be_read(world, watch):
    world.server.inject(status(403, "Forbidden", "no"), verb="get", times=-1)
    with pytest.raises(Refused, match="no"):
        await watch(1)
