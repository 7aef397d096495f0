"""Tokens kept until most of their life is over, and asked for once however many want one."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from imagestreams.registry.auth import Grant, Refusal, Token
from imagestreams.registry.recent import Recent

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from datetime import datetime

    from yarl import URL

    from imagestreams.core.policy import Transport

_USED_LIFE: Final = 0.8  # the rest is for clocks that differ and requests that take time
_LIMIT: Final = 4096


@dataclass(frozen=True, slots=True)
class _Key:
    """What makes two tokens the same. The transport is one part: what came over unverified TLS serves nobody else."""

    transport: Transport
    realm: URL
    service: str
    scope: str
    fingerprint: str


class Tokens:
    """Args:
    fetch: asks the token service; its errors go to everybody who waits for that token.
    """

    def __init__(
        self,
        fetch: Callable[[Transport, Grant], Coroutine[None, None, Token | Refusal]],
        *,
        clock: Callable[[], datetime],
    ) -> None:
        self._fetch = fetch
        self._kept: Recent[_Key, Token] = Recent(_LIMIT, clock=clock)
        self._flights: dict[_Key, asyncio.Task[Token | Refusal]] = {}

    async def get(self, transport: Transport, grant: Grant) -> Token | Refusal:
        """A token for the grant, from memory if there is one that was not rejected."""
        fingerprint = grant.credential.fingerprint if grant.credential else ""
        key = _Key(transport, grant.realm, grant.service, grant.scope, fingerprint)
        kept = self._kept.get(key)
        if kept is not None and kept.text != grant.rejected:
            return kept
        flight = self._flights.get(key)
        if flight is None:
            flight = asyncio.create_task(self._fly(key, transport, replace(grant, rejected="")))
            self._flights[key] = flight
            flight.add_done_callback(lambda done: self._landed(key, done))
        # The first to ask may be cancelled; the others still want the token.
        return await asyncio.shield(flight)

    async def close(self) -> None:
        flights = tuple(self._flights.values())
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)

    async def _fly(self, key: _Key, transport: Transport, grant: Grant) -> Token | Refusal:
        answer = await self._fetch(transport, grant)
        if isinstance(answer, Token):
            kept = replace(answer, cached=True)
            self._kept.put(key, kept, life=timedelta(seconds=answer.life * _USED_LIFE))
        return answer

    def _landed(self, key: _Key, flight: asyncio.Task[Token | Refusal]) -> None:
        del self._flights[key]
        if not flight.cancelled():
            flight.exception()  # seen, also where everybody who waited has been cancelled
