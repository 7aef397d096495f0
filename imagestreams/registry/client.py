"""Answers lookups: which digest a tag serves, and which image that is.

An unchanged tag costs one HEAD. A changed one is read, and so is one of which nothing is known; then the digest is
computed from the bytes, and must be the one that was asked for and the one that the registry claims. What a digest
stands for never changes, so it is remembered for whoever had the credentials to see it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final, assert_never

from yarl import URL

from imagestreams import __version__
from imagestreams.core import manifest
from imagestreams.core.lookup import ImportMode, Resolved, Served
from imagestreams.core.manifest import ACCEPT, ImageManifest, Index, InvalidManifest
from imagestreams.core.reference import DEFAULT_TAG, is_digest
from imagestreams.registry.auth import (
    Approach,
    Authorised,
    Errand,
    Grant,
    Home,
    Refusal,
    Talk,
    Token,
    handshake,
    token_in,
    token_request,
)
from imagestreams.registry.errors import (
    InvalidAnswer,
    NotAnImage,
    NotFound,
    RegistryError,
    TooLarge,
    TooManyRequests,
    error_of,
    known_code,
    scrubbed,
)
from imagestreams.registry.messages import Request
from imagestreams.registry.recent import Recent
from imagestreams.registry.tokens import Tokens
from imagestreams.registry.transport import MANIFEST_CAP, TOKEN_CAP, Connections, Reach, Timeouts

if TYPE_CHECKING:
    from datetime import datetime

    from aiohttp.abc import AbstractResolver

    from imagestreams.core.lookup import Lookup
    from imagestreams.core.manifest import Descriptor, Platform
    from imagestreams.core.policy import Transport
    from imagestreams.registry.messages import Response

OnRequest = Callable[[str, str, str, str, float], None]

_MAX_DEPTH: Final = 2  # an index may name an index, which may name an image
_NO_HEAD_LIFE: Final = timedelta(hours=1)
_NO_HEAD: Final = frozenset({405, 501})
_UNCLEAR: Final = frozenset({400, 406, 415})  # a GET's body tells more; but it is the question, and not the host
_TOKEN_DENIALS: Final = frozenset({400, 401, 403, 404})


@dataclass(frozen=True, slots=True)
class _Seen:
    """What makes an image of a digest: who may know it, and the rule by which a child is chosen."""

    transport: Transport
    path: str
    digest: str
    mode: ImportMode
    prefer: Platform | None
    fingerprints: tuple[str, ...]


class RegistryClient:
    """Asks registries. It knows nothing of tags that change in the background, of limits or of streams: see `lanes`.

    Args:
        reach: which addresses may be contacted.
        clock: aware.
        on_request: told of each request once it is answered or has failed: the registry's host, the method,
            "manifest" or "token", the status or "error", and the seconds it took, redirects included.
        resolver: how names become addresses; the system's resolver when None.
    """

    def __init__(
        self,
        reach: Reach,
        *,
        clock: Callable[[], datetime],
        timeouts: Timeouts = Timeouts(),  # noqa: B008 (frozen)
        on_request: OnRequest | None = None,
        resolver: AbstractResolver | None = None,
    ) -> None:
        self._reach = reach
        self._clock = clock
        self._timeouts = timeouts
        self._on_request = on_request
        self._connections = Connections(
            reach, clock=clock, timeouts=timeouts, user_agent=f"imagestreams/{__version__}", resolver=resolver
        )
        self._tokens = Tokens(self._fetch_token, clock=clock)
        self._seen: Recent[_Seen, str] = Recent(4096, clock=clock)
        self._no_head: Recent[str, bool] = Recent(1024, clock=clock, life=_NO_HEAD_LIFE)
        self._throttled: Recent[tuple[str, str], datetime] = Recent(1024, clock=clock)  # until when, by fingerprint
        # How a registry wants its visitors: for a repository and those who asked, and for all else at that host.
        self._approaches: Recent[tuple[Transport, str, tuple[str, ...]], Approach] = Recent(8192, clock=clock)
        self._customs: Recent[Transport, Approach] = Recent(1024, clock=clock)
        self._homes: Recent[Transport, Home] = Recent(1024, clock=clock)

    async def close(self) -> None:
        """Abandon what is under way and close all connections."""
        await self._tokens.close()
        await self._connections.close()

    async def look_up(self, lookup: Lookup) -> Resolved:
        """Ask the registry.

        Raises:
            RegistryError: one of its tree; nothing else is raised for what a registry can do.
        """
        deadline = asyncio.get_running_loop().time() + self._timeouts.lookup
        return Resolved(await self._served(_Visit(lookup, self._home(lookup.transport), deadline)))

    def _home(self, transport: Transport) -> Home:
        home = self._homes.get(transport)
        if home is None:
            home = Home(
                name=transport.host,
                url=URL(transport.endpoint),
                insecure=transport.insecure,
                credentials=transport.credentials,
                listed=self._reach.listed,
            )
            self._homes.put(transport, home)
        return home

    async def _served(self, visit: _Visit) -> Served:
        lookup, target = visit.lookup, visit.target
        if lookup.reference.digest and not is_digest(target):
            # A reference may spell it so, but no registry has it: nothing could be compared with it.
            raise NotFound(f'container image "{visit.image}" not found: write the digest in lower case')
        if lookup.known is not None and self._no_head.get(lookup.transport.endpoint) is None:
            response = await self._ask(visit, "HEAD", target)
            digest = response.headers.get("Docker-Content-Digest", "")
            if response.status == 200 and is_digest(digest):
                if digest == lookup.known.digest:
                    return lookup.known
                if image := self._seen.get(visit.seen(digest)):
                    return Served(digest, image)
                target = digest
            elif response.status == 200 or response.status in _NO_HEAD:
                self._no_head.put(lookup.transport.endpoint, value=True)
            elif response.status not in _UNCLEAR:
                raise self._error(response, visit)
        digest, content_type, body = await self._manifest(visit, target)
        if lookup.known is not None and digest == lookup.known.digest:
            return lookup.known
        image = self._seen.get(visit.seen(digest)) or await self._image(visit, digest, content_type, body)
        self._seen.put(visit.seen(digest), image)
        return Served(digest, image)

    async def _image(self, visit: _Visit, digest: str, content_type: str, body: bytes) -> str:
        """The digest of the image that stands for a manifest: its own, or in Legacy mode that of an index's child."""
        for depth in range(_MAX_DEPTH + 1):
            try:
                content = manifest.parse_manifest(body, content_type)
                match content:
                    case ImageManifest():
                        return digest
                    case Index():
                        if visit.lookup.mode is ImportMode.PRESERVE_ORIGINAL:
                            return digest
                        child = manifest.choose(content, visit.lookup.prefer)
                    case _:
                        assert_never(content)
            except InvalidManifest as error:
                kind = NotAnImage if isinstance(error, manifest.NotAnImage) else InvalidAnswer
                raise kind(f"{visit.image}: {scrubbed(str(error), visit.credentials)}") from None
            if depth < _MAX_DEPTH:
                digest, content_type, body = await self._child(visit, child)
        raise InvalidAnswer(f"{visit.image}: indexes are nested more than {_MAX_DEPTH} deep")

    async def _child(self, visit: _Visit, child: Descriptor) -> tuple[str, str, bytes]:
        if child.size > MANIFEST_CAP:
            raise TooLarge(f"{visit.image}: the index names a manifest of more than {MANIFEST_CAP} bytes")
        try:
            digest, content_type, body = await self._manifest(visit, child.digest)
        except NotFound:
            raise NotFound(f"{visit.image}: the registry does not have {child.digest}, which its index names") from None
        if len(body) != child.size:
            raise InvalidAnswer(f"{visit.image}: {child.digest} has another size than its index says")
        return digest, content_type, body

    async def _manifest(self, visit: _Visit, target: str) -> tuple[str, str, bytes]:
        """Digest, media type and bytes of a manifest, by tag or digest."""
        response = await self._ask(visit, "GET", target)
        if response.status != 200:
            raise self._error(response, visit)
        claimed = response.headers.get("Docker-Content-Digest", "")
        wanted = [target] if is_digest(target) else []
        # Only a well-formed digest is a claim; a registry that sends something else has made none.
        wanted += [claimed] if is_digest(claimed) else []
        for digest in wanted:
            if manifest.digest_of(response.body, digest.partition(":")[0]) != digest:
                raise InvalidAnswer(f"{visit.image}: the content is not that of its digest")
        digest = wanted[0] if wanted else manifest.digest_of(response.body)
        return digest, response.headers.get("Content-Type", ""), response.body

    async def _ask(self, visit: _Visit, method: str, target: str) -> Response:
        """The registry's answer to a request for a manifest, after its handshake."""
        transport = visit.lookup.transport
        request = Request(method, visit.url(target), accept=ACCEPT)
        recalled = self._approaches.get(visit.place) or self._customs.get(transport)
        talk = handshake(request, visit.errand, recalled)
        done = await self._perform(talk, visit)
        visit.fingerprint = done.fingerprint
        if done.approach is not None and done.approach != recalled:
            self._approaches.put(visit.place, done.approach)
            self._customs.put(transport, done.approach)
        return done.response

    async def _perform(self, talk: Talk, visit: _Visit) -> Authorised:
        transport = visit.lookup.transport
        try:
            step = next(talk)
            while True:
                self._check_throttle(visit, step)
                if isinstance(step, Grant):
                    step = talk.send(await self._tokens.get(transport, step))
                else:
                    seconds = visit.deadline - asyncio.get_running_loop().time()
                    step = talk.send(await self._exchange(step, transport, "manifest", MANIFEST_CAP, seconds))
        except StopIteration as stop:
            done: Authorised = stop.value
            return done

    def _check_throttle(self, visit: _Visit, step: Request | Grant) -> None:
        """Stop a lookup that was under way when its credential was told to wait."""
        if not len(self._throttled):
            return
        if isinstance(step, Grant):
            fingerprint = step.credential.fingerprint if step.credential else ""
        else:
            fingerprint = step.fingerprint
        # Who has a credential asks for the challenge without it; others' anonymous requests are not held against that.
        if not fingerprint and visit.fingerprints:
            return
        transport = visit.lookup.transport
        until = self._throttled.get((transport.endpoint, fingerprint))
        if until is not None:
            raise TooManyRequests(
                f"{transport.host} has had too many requests",
                retry_after=(until - self._clock()).total_seconds(),
                fingerprint=fingerprint,
            )

    def _learn(self, transport: Transport, error: RegistryError) -> RegistryError:
        if isinstance(error, TooManyRequests) and error.retry_after:
            wait = timedelta(seconds=error.retry_after)
            self._throttled.put((transport.endpoint, error.fingerprint), self._clock() + wait, life=wait)
        return error

    async def _fetch_token(self, transport: Transport, grant: Grant) -> Token | Refusal:
        request = token_request(grant)
        who = f"the token service of {transport.host}"
        response = await self._exchange(request, transport, "token", TOKEN_CAP, self._timeouts.request)
        if response.status == 200:
            return token_in(response, who)
        if response.status in _TOKEN_DENIALS:
            return Refusal(grant.credential, response.status, known_code(response.body), by_service=True)
        error = error_of(response, grant.scope, who, now=self._clock(), fingerprint=request.fingerprint)
        raise self._learn(transport, error)

    async def _exchange(self, request: Request, transport: Transport, kind: str, cap: int, seconds: float) -> Response:
        now = asyncio.get_running_loop().time
        begun, code = now(), "error"
        try:
            response = await self._connections.exchange(request, transport, cap=cap, seconds=seconds)
            code = str(response.status)
        finally:
            if self._on_request is not None:
                self._on_request(transport.host, request.method, kind, code, now() - begun)
        return response

    def _error(self, response: Response, visit: _Visit) -> RegistryError:
        transport = visit.lookup.transport
        error = error_of(response, visit.image, transport.host, now=self._clock(), fingerprint=visit.fingerprint)
        return self._learn(transport, error)


class _Visit:
    """One lookup while it is answered: what is asked, in the forms in which it is needed."""

    def __init__(self, lookup: Lookup, home: Home, deadline: float) -> None:
        reference, transport = lookup.reference, lookup.transport
        self.lookup = lookup
        self.deadline = deadline  # by the event loop's clock
        self.target = reference.digest or reference.tag or DEFAULT_TAG
        self.image = f"{reference.repository}{'@' if reference.digest else ':'}{self.target}"
        self.credentials = lookup.credentials if transport.credentials else ()
        self.fingerprints = tuple(credential.fingerprint for credential in self.credentials)
        self.fingerprint = ""  # whose credential had the last answer
        self.place = (transport, reference.path, self.fingerprints)
        self._base = f"{transport.endpoint}/v2/{reference.path}/manifests/"
        self.errand = Errand(
            image=self.image,
            scope=f"repository:{reference.path}:pull",
            candidates=lookup.credentials,
            home=home,
        )

    def url(self, target: str) -> URL:
        return URL(self._base + target, encoded=True)

    def seen(self, digest: str) -> _Seen:
        lookup = self.lookup
        return _Seen(lookup.transport, lookup.reference.path, digest, lookup.mode, lookup.prefer, self.fingerprints)
