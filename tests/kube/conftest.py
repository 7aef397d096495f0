"""A fake API server and a client of it, for each test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from imagestreams.kube.cluster import Cluster
from tests.fakes.apiserver import FakeApiServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture
async def api() -> AsyncIterator[FakeApiServer]:
    async with FakeApiServer() as server:
        server.define("image.openshift.io/v1", "imagestreams", "ImageStream", status=True)
        yield server


@pytest.fixture
async def cluster(api: FakeApiServer, tmp_path: Path) -> AsyncIterator[Cluster]:
    async with await Cluster.connect(str(api.kubeconfig(tmp_path / "kubeconfig"))) as connected:
        yield connected
