"""A clock that is set by hand, and clients that are closed at the end."""

from __future__ import annotations

import contextlib

import pytest

from imagestreams.core.policy import Policy
from imagestreams.registry.client import RegistryClient
from imagestreams.registry.transport import Reach, Timeouts
from tests.fakes.clock import Clock


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
async def new_client(clock):
    """Makes clients with the rules of an installation; by default those without any word of an administrator."""
    async with contextlib.AsyncExitStack() as stack:

        def make(reach=None, **options):
            options.setdefault("timeouts", Timeouts(connect=5, idle=5, request=5, lookup=10))
            made = RegistryClient(reach or Reach.of(Policy(hosts={})), clock=clock, **options)
            stack.push_async_callback(made.close)
            return made

        yield make


@pytest.fixture
def client(new_client):
    return new_client()
