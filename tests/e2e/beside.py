"""A fake registry that serves in a thread of its own, for processes that a test starts and waits for.

with RegistryBeside() as registry:
    registry.fake.add("acme/web", "1", image())
    registry.hold()
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Self

from tests.e2e.test_importing import Backstage
from tests.fakes.registry import Auth, FakeRegistry


class RegistryBeside:
    """See the module. `fake` may be filled, and its `requests` read, from any thread; what else is done to it is done
    by the methods here.
    """

    def __init__(self, auth: Auth = "none") -> None:
        self.fake = FakeRegistry(auth=auth)
        self._stage = Backstage()
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self._stage)
            self._stage.run(self.fake.start())
            stack.callback(lambda: self._stage.run(self.fake.stop()))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def hold(self) -> None:
        """Leave requests unanswered until `release`."""

        async def hold() -> None:
            self.fake.hold()

        self._stage.run(hold())

    def release(self) -> None:
        async def release() -> None:
            self.fake.release()

        self._stage.run(release())

    def wait(self, count: int = 1) -> None:
        """Until that many requests have come in, in all."""
        self._stage.run(self.fake.arrived(count))
