"""A round that cannot be written whole: what etcd does not take is made smaller, and said."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import msgspec
import pytest

from imagestreams.core.importing import ImportRules
from imagestreams.core.lookup import Lookup, Resolved, Served
from imagestreams.core.stream import ImageStream, Status, encode
from imagestreams.imports import Importer
from imagestreams.kube.imagestreams import ObjectTooLarge
from imagestreams.registry.lanes import Lanes, Limits
from tests.core.streams import digest, stream, tag

NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)
ROOM = 100_000


async def test_a_status_that_does_not_fit_is_made_smaller_until_it_does():
    """The spec may take what the budget of the settings counts on, and only the API server knows how much is left."""
    present = stream(*(tag(f"t{number:03}") for number in range(400)))
    sizes: list[int] = []
    ready = asyncio.Event()

    async def publish(old: ImageStream, status: Status) -> ImageStream:
        sizes.append(len(encode(status)))
        if sizes[-1] > ROOM:
            raise ObjectTooLarge("etcdserver: request is too large")
        return msgspec.structs.replace(old, status=status)

    async def look_up(_: Lookup) -> Resolved:
        return Resolved(Served(digest("a"), digest("a")))

    async def no_credentials(_: str) -> tuple[()]:
        return ()

    lanes = Lanes(look_up, clock=lambda: NOW, ready=lambda _: ready.set(), limits=Limits(settle=0))
    importer = Importer(
        lanes=lanes,
        credentials=no_credentials,
        publish=publish,
        announce=lambda *_: None,
        clock=lambda: NOW,
        rules=ImportRules(),
        watermark=None,
    )
    working = asyncio.create_task(lanes.run())
    await importer.round(present)
    async with asyncio.timeout(10):
        while len(lanes.peek(present.key)) < 400:
            await ready.wait()
            ready.clear()

    for _ in range(10):  # what the work queue does with a key that failed
        try:
            await importer.round(present)
            break
        except ObjectTooLarge:
            continue
    else:
        pytest.fail(f"never small enough: {sizes}")

    assert sizes[0] > ROOM >= sizes[-1]
    await lanes.close()
    await working
