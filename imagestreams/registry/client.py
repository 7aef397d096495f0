"""Answers questions: which image a tag serves, which tags a repository has, what an image is.

An unchanged tag costs one HEAD. A changed one is read, and so is one of which nothing is known; then the digest is
computed from the bytes, and must be the one that was asked for and the one that the registry claims. What a digest
stands for never changes, so it is remembered for whoever had the credentials to see it; the manifest itself for a
moment only, since who looks an image up often has it described next.

A list of tags is read page by page, and only the best tags are kept.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final, Literal, assert_never

from multidict import CIMultiDict, CIMultiDictProxy, MultiMapping
from yarl import URL

from imagestreams import __version__
from imagestreams.core import manifest
from imagestreams.core.image import image_object
from imagestreams.core.lookup import Described, Description, ImportMode, Listed, Listing, Lookup, Resolved, Served
from imagestreams.core.manifest import ACCEPT, ImageManifest, Index, InvalidManifest
from imagestreams.core.reference import DEFAULT_TAG, is_digest
from imagestreams.registry.auth import (
    Approach,
    Authorised,
    Bearer,
    Errand,
    Grant,
    Home,
    Refusal,
    Talk,
    Token,
    challenges_of,
    handshake,
    token_in,
    token_refusal,
    token_request,
    withheld,
    without_secrets,
)
from imagestreams.registry.errors import (
    Denied,
    Exhausted,
    InvalidAnswer,
    NotAnImage,
    NotFound,
    RateLimited,
    Refused,
    RegistryError,
    Sign,
    Timeout,
    TooLarge,
    UnknownName,
    error_of,
    known_code,
)
from imagestreams.registry.messages import Request, Step
from imagestreams.registry.paging import PAGE_CAP, PAGE_SIZE, Tally
from imagestreams.registry.recent import Recent
from imagestreams.registry.tokens import Tokens
from imagestreams.registry.transport import BLOB_CAP, MANIFEST_CAP, TOKEN_CAP, Connections, Reach, Timeouts

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from aiohttp.abc import AbstractResolver

    from imagestreams.core.keychain import Credential
    from imagestreams.core.lookup import Question
    from imagestreams.core.manifest import Descriptor, Platform
    from imagestreams.core.policy import Transport
    from imagestreams.registry.messages import Redirect, Response
    from imagestreams.registry.quota import Quota

OnRequest = Callable[[str, str, str, str, float], None]
OnStep = Callable[[Step], None]
Kind = Literal["manifest", "tags", "blob", "token"]

_MAX_DEPTH: Final = 2  # an index may name an index, which may name an image
_NO_HEAD_LIFE: Final = timedelta(hours=1)
_NO_HEAD: Final = frozenset({405, 501})
_UNCLEAR: Final = frozenset({400, 406, 415})  # a GET's body tells more; but it is the question, and not the host
_CAPS: Final[Mapping[Kind, int]] = {
    "manifest": MANIFEST_CAP,
    "tags": PAGE_CAP,
    "blob": BLOB_CAP,
    "token": TOKEN_CAP,
}
# Manifests that were just read: all of the largest import request, or what is described at its end would be pulled once
# more. Its 500 images may each stand in an index, some 3 KiB and 10 KiB; it is the bytes that keep the memory small.
_KEPT: Final = 1024
_KEPT_BYTES: Final = 8 << 20
_KEPT_LIFE: Final = timedelta(minutes=1)
_LISTING_TIME: Final = 2  # as many times that of a lookup
_OUR_QUERY: Final = frozenset({"service", "scope", "n", "last"})  # what of a URL's query people are shown
_LEFT = re.compile(r"[0-9]{1,9}(?: *; *w *= *[0-9]{1,9})?")


_NOTHING: Final[MultiMapping[str]] = CIMultiDictProxy(CIMultiDict())


@dataclass(frozen=True, slots=True)
class _Seen:
    """What makes an image of a digest: who may know it, and the rule by which a child is chosen."""

    transport: Transport
    path: str
    digest: str
    mode: ImportMode
    prefer: Platform | None
    fingerprints: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Sealed:
    """What a manifest was read by: nobody gets it otherwise. The digest stands for the bytes."""

    transport: Transport
    path: str
    digest: str
    fingerprints: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Manifest:
    digest: str
    content_type: str
    body: bytes


class RegistryClient:
    """Asks registries. It knows nothing of tags that change in the background, of limits or of streams: see `lanes`.

    Args:
        reach: which addresses may be contacted.
        clock: aware.
        quota: what a registry may still be asked; without it that is not counted.
        on_request: told of each request once it is answered or has failed: the registry's host, the method,
            "manifest", "tags", "blob" or "token", the status or "error", and the seconds it took, redirects included.
        on_step: told of each request and redirect, for people.
        resolver: how names become addresses; the system's resolver when None.
    """

    def __init__(
        self,
        reach: Reach,
        *,
        clock: Callable[[], datetime],
        timeouts: Timeouts = Timeouts(),  # noqa: B008 (frozen)
        quota: Quota | None = None,
        on_request: OnRequest | None = None,
        on_step: OnStep | None = None,
        resolver: AbstractResolver | None = None,
    ) -> None:
        self._reach = reach
        self._clock = clock
        self._timeouts = timeouts
        self._quota = quota
        self._on_request = on_request
        self._on_step = on_step
        self._connections = Connections(
            reach, clock=clock, timeouts=timeouts, user_agent=f"imagestreams/{__version__}", resolver=resolver
        )
        self._tokens = Tokens(self._fetch_token, clock=clock)
        self._seen: Recent[_Seen, str] = Recent(4096, clock=clock)
        self._manifests: Recent[_Sealed, _Manifest] = Recent(
            _KEPT, clock=clock, life=_KEPT_LIFE, weight=lambda manifest: len(manifest.body), capacity=_KEPT_BYTES
        )
        self._no_head: Recent[str, bool] = Recent(1024, clock=clock, life=_NO_HEAD_LIFE)
        self._throttled: Recent[tuple[str, str], datetime] = Recent(1024, clock=clock)  # until when, by fingerprint
        # How a registry wants its visitors: for a repository and those who asked, and for all else at that host.
        self._approaches: Recent[tuple[Transport, str, tuple[str, ...]], Approach] = Recent(8192, clock=clock)
        self._customs: Recent[Transport, Approach] = Recent(1024, clock=clock)
        self._open: Recent[tuple[Transport, str], bool] = Recent(8192, clock=clock)  # answer without a challenge
        self._homes: Recent[Transport, Home] = Recent(1024, clock=clock)

    async def close(self) -> None:
        """Abandon what is under way and close all connections."""
        await self._tokens.close()
        await self._connections.close()

    async def answer(self, question: Question) -> Resolved | Listed | Described:
        """Ask the registry; at the question's own place, whatever fallback it has.

        Raises:
            RegistryError: one of its tree; nothing else is raised for what a registry can do.
        """
        match question:
            case Lookup():
                return await self.look_up(question)
            case Listing():
                return await self.list_tags(question)
            case Description():
                return await self.describe(question)
            case _:
                assert_never(question)

    async def look_up(self, lookup: Lookup) -> Resolved:
        """Which image a tag or digest is. Raises as `answer` does."""
        served = await self._served(self._visit(lookup, self._timeouts.lookup), lookup)
        return Resolved(served, lookup.recorded or lookup.reference)

    async def list_tags(self, listing: Listing) -> Listed:
        """Which tags a repository has, the best of them. Raises as `answer` does.

        The list is left incomplete once it has had its time, or is longer than is read of any repository.
        """
        seconds = _LISTING_TIME * self._timeouts.lookup
        # A page that is under way when the time is over may still come.
        visit = self._visit(listing, seconds + self._timeouts.request)
        end = asyncio.get_running_loop().time() + seconds
        tally = Tally(visit.image, listing.limit)
        page: URL | None = visit.url("tags/list").with_query(n=PAGE_SIZE)
        while page is not None:
            if tally.is_full or (tally.pages and asyncio.get_running_loop().time() >= end):
                break
            response = await self._ask(visit, "GET", page, "tags")
            if response.status != 200:
                raise self._error(response, visit)
            # Off the event loop: to pick the best of many names takes as long as a hundred requests.
            await asyncio.to_thread(tally.add, response.body)
            page = tally.next_page(page, response.headers.getall("Link", []))
        tags = await asyncio.to_thread(tally.best)
        return Listed(tuple(tags), tally.found, is_complete=page is None and not tally.is_cut)

    async def describe(self, description: Description) -> Described:
        """What an image is, for its Image object. Raises as `answer` does."""
        visit = self._visit(description, self._timeouts.lookup)
        found = self._manifests.get(visit.sealed(visit.target)) or await self._manifest(visit, visit.target)
        content = self._parsed(visit, found)
        config = await self._blob(visit, content.config) if isinstance(content, ImageManifest) else None
        described = await asyncio.to_thread(
            image_object, description.reference, found.digest, found.body, found.content_type, config
        )
        return Described(described)

    def _visit(self, question: Question, seconds: float) -> _Visit:
        return _Visit(question, self._home(question.transport), asyncio.get_running_loop().time() + seconds)

    def _home(self, transport: Transport) -> Home:
        home = self._homes.get(transport)
        if home is None:
            url = URL(transport.endpoint)
            try:
                _ = url.host
            except ValueError:  # it is decoded: xn-- may stand before what is no name
                raise UnknownName(f"{transport.host} is not known to the name service", sign=Sign.NONE) from None
            home = Home(
                name=transport.host,
                url=url,
                insecure=transport.insecure,
                credentials=transport.credentials,
                listed=self._reach.listed,
            )
            self._homes.put(transport, home)
        return home

    async def _served(self, visit: _Visit, lookup: Lookup) -> Served:
        target = visit.target
        if lookup.known is not None and self._no_head.get(lookup.transport.endpoint) is None:
            response = await self._ask(visit, "HEAD", visit.manifest(target), "manifest")
            digest = response.headers.get("Docker-Content-Digest", "")
            if response.status == 200 and is_digest(digest):
                if is_digest(target) and digest != target:
                    # By another algorithm it may be the same content; then the bytes tell.
                    if digest.partition(":")[0] == target.partition(":")[0]:
                        raise InvalidAnswer(f"{visit.image}: the registry answers for another digest")
                elif digest == lookup.known.digest:
                    return lookup.known
                elif image := self._seen.get(visit.seen(lookup, digest)):
                    return Served(digest, image)
                else:
                    target = digest
            elif response.status == 200 or response.status in _NO_HEAD:
                self._no_head.put(lookup.transport.endpoint, value=True)
            elif response.status not in _UNCLEAR:
                raise self._error(response, visit)
        found = await self._manifest(visit, target)
        if lookup.known is not None and found.digest == lookup.known.digest:
            return lookup.known
        seen = visit.seen(lookup, found.digest)
        image = self._seen.get(seen) or await self._image(visit, lookup, found)
        self._seen.put(seen, image)
        return Served(found.digest, image)

    async def _image(self, visit: _Visit, lookup: Lookup, found: _Manifest) -> str:
        """The digest of the image that stands for a manifest: its own, or in Legacy mode that of an index's child."""
        for depth in range(_MAX_DEPTH + 1):
            content = self._parsed(visit, found)
            if isinstance(content, ImageManifest) or lookup.mode is ImportMode.PRESERVE_ORIGINAL:
                return found.digest
            if depth < _MAX_DEPTH:
                found = await self._child(visit, manifest.choose(content, lookup.prefer))
        raise InvalidAnswer(f"{visit.image}: indexes are nested more than {_MAX_DEPTH} deep")

    def _parsed(self, visit: _Visit, found: _Manifest) -> ImageManifest | Index:
        try:
            return manifest.parse_manifest(found.body, found.content_type)
        except InvalidManifest as error:
            kinds = {manifest.NotAnImage: NotAnImage, manifest.TooMany: TooLarge}
            kind = kinds.get(type(error), InvalidAnswer)
            raise kind(f"{visit.image}: {without_secrets(str(error), visit.credentials, visit.sent)}") from None

    async def _child(self, visit: _Visit, child: Descriptor) -> _Manifest:
        if child.size > MANIFEST_CAP:
            raise TooLarge(f"{visit.image}: the index names a manifest of more than {MANIFEST_CAP} bytes")
        try:
            found = await self._manifest(visit, child.digest)
        except NotFound:
            raise NotFound(f"{visit.image}: the registry does not have {child.digest}, which its index names") from None
        if len(found.body) != child.size:
            raise InvalidAnswer(f"{visit.image}: {child.digest} has another size than its index says")
        return found

    async def _manifest(self, visit: _Visit, target: str) -> _Manifest:
        """A manifest, by tag or digest, as the registry has it now; its content is that of its digest."""
        response = await self._ask(visit, "GET", visit.manifest(target), "manifest")
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
        found = _Manifest(digest, response.headers.get("Content-Type", ""), response.body)
        self._manifests.put(visit.sealed(digest), found)
        return found

    async def _blob(self, visit: _Visit, blob: Descriptor) -> bytes:
        """An image's config, checked against what its manifest says."""
        if blob.size > BLOB_CAP:
            raise TooLarge(f"{visit.image}: the image's config has more than {BLOB_CAP} bytes")
        response = await self._ask(visit, "GET", visit.url(f"blobs/{blob.digest}"), "blob")
        if response.status == 404:
            raise NotFound(f"{visit.image}: the registry does not have the image's config, {blob.digest}")
        if response.status != 200:
            raise self._error(response, visit)
        if len(response.body) != blob.size:
            raise InvalidAnswer(f"{visit.image}: the image's config has another size than its manifest says")
        if manifest.digest_of(response.body, blob.digest.partition(":")[0]) != blob.digest:
            raise InvalidAnswer(f"{visit.image}: the image's config is not that of its digest")
        return response.body

    async def _ask(self, visit: _Visit, method: str, url: URL, kind: Kind) -> Response:
        """The registry's answer, after its handshake."""
        if visit.is_hopeless:
            # A reference may spell it so, but no registry has it: nothing could be compared with it.
            raise NotFound(
                f'{visit.errand.what} "{visit.image}" not found: write the digest in lower case', sign=Sign.NONE
            )
        visit.kind, visit.is_pull = kind, kind == "manifest" and method == "GET"
        request = Request(method, url, accept=ACCEPT if kind == "manifest" else "")
        recalled = self._approaches.get(visit.place) or self._customs.get(visit.transport)
        free, until = self._free(visit)
        errand = replace(visit.errand, candidates=free) if until is not None else visit.errand
        try:
            done = await self._perform(handshake(request, errand, recalled), visit)
        except Denied:
            if until is None:
                raise
            # Whom it asks to wait may be the one that it lets in.
            raise Exhausted(f"{visit.transport.host} has had too many requests", until) from None
        visit.fingerprint = done.fingerprint
        if done.approach is not None and done.approach != recalled:
            self._approaches.put(visit.place, done.approach)
            self._customs.put(visit.transport, done.approach)
        return done.response

    def _free(self, visit: _Visit) -> tuple[tuple[Credential, ...], datetime | None]:
        """The credentials that need not wait, and until when the others must (None: there are none). Where all must, or
        none may be sent at all, they stay as they are.
        """
        host, endpoint = visit.transport.host, visit.transport.endpoint
        free, moments = [], []
        for credential in visit.credentials:
            waits = [self._throttled.get((endpoint, credential.fingerprint))]
            if self._quota is not None:
                waits.append(self._quota.held_until(host, credential.fingerprint, is_pull=visit.is_pull))
            until = max((wait for wait in waits if wait is not None), default=None)
            if until is None:
                free.append(credential)
            else:
                moments.append(until)
        return (tuple(free), min(moments)) if free and moments else (visit.credentials, None)

    async def _perform(self, talk: Talk, visit: _Visit) -> Authorised:
        try:
            step = next(talk)
            while True:
                if isinstance(step, Grant):
                    credential = step.credential
                    self._check_throttle(visit, credential.fingerprint if credential else "")
                    step = talk.send(await self._token(visit, step))
                else:
                    step = talk.send(await self._send(step, visit))
        except StopIteration as stop:
            done: Authorised = stop.value
            return done
        except (Denied, Refused) as error:
            # A challenge may repeat the token that was sent.
            error.message = without_secrets(error.message, visit.errand.candidates, visit.sent)
            error.args = (error.message,)
            raise

    async def _token(self, visit: _Visit, grant: Grant) -> Token | Refusal:
        """A token, or why there is none; others may wait for the same one, each for as long as there is time."""
        try:
            async with asyncio.timeout_at(visit.deadline):
                answer = await self._tokens.get(visit.transport, grant)
        except TimeoutError:
            words = f"the token service of {visit.transport.host} did not answer in time"
            raise Timeout(words, sign=visit.sign_of_silence) from None
        except RegistryError as error:
            # A registry names its token service, perhaps by what it was sent.
            error.message = without_secrets(error.message, visit.errand.candidates)
            error.args = (error.message,)
            raise
        visit.is_heard = True
        if isinstance(answer, Token):
            visit.sent.append(answer.text)
        return answer

    async def _send(self, request: Request, visit: _Visit) -> Response:
        """The answer to a request to the registry itself, if it may be asked."""
        try:
            response = await self._sent(request, visit)
        except Timeout as error:
            if visit.deadline <= asyncio.get_running_loop().time():
                error.sign = visit.sign_of_silence
            raise
        visit.is_heard = True
        return response

    async def _sent(self, request: Request, visit: _Visit) -> Response:
        seconds = visit.deadline - asyncio.get_running_loop().time()
        # Who has a credential asks for the challenge without it; what strangers did is not held against that. But for a
        # repository where nobody is asked for one, it is the request itself.
        is_anonymous = not request.authorization
        if is_anonymous and visit.fingerprints and not self._open.get(visit.repository):
            response = await self._exchange(request, visit.transport, visit.kind, seconds, visit.credentials)
            if response.status == 200 and self._quota is not None:
                self._quota.count(visit.transport.host, "", is_pull=visit.is_pull)
                self._tell_quota(visit, "", response)
        else:
            response = await self._counted(request, visit, seconds)
        if is_anonymous:
            if response.status == 401:
                self._open.forget(visit.repository)
            elif response.status == 200:
                self._open.put(visit.repository, value=True)
        return response

    async def _counted(self, request: Request, visit: _Visit, seconds: float) -> Response:
        transport = visit.transport
        self._check_throttle(visit, request.fingerprint)
        if self._quota is not None:
            self._quota.check(transport.host, request.fingerprint, is_pull=visit.is_pull)
        response: Response | None = None
        try:
            response = await self._exchange(request, transport, visit.kind, seconds, visit.credentials)
        finally:
            self._tell_quota(visit, request.fingerprint, response)
        return response

    def _tell_quota(self, visit: _Visit, fingerprint: str, response: Response | None) -> None:
        if self._quota is None:
            return
        own = _own_answer(response, visit.transport) if response is not None else None
        status, headers = (own.status, own.headers) if own is not None else (0, _NOTHING)
        self._quota.learn(visit.transport.host, fingerprint, is_pull=visit.is_pull, status=status, headers=headers)

    def _check_throttle(self, visit: _Visit, fingerprint: str) -> None:
        """Stop a question that was under way when its credential was told to wait."""
        if not len(self._throttled) or (not fingerprint and visit.fingerprints):
            return
        until = self._throttled.get((visit.transport.endpoint, fingerprint))
        if until is not None:
            raise Exhausted(f"{visit.transport.host} has had too many requests", until, fingerprint=fingerprint)

    def _learn(self, transport: Transport, error: RegistryError) -> RegistryError:
        if isinstance(error, RateLimited) and error.retry_after and not error.is_pull_limit:
            wait = timedelta(seconds=error.retry_after)
            self._throttled.put((transport.endpoint, error.fingerprint), self._clock() + wait, life=wait)
        return error

    async def _fetch_token(self, transport: Transport, grant: Grant) -> Token | Refusal:
        request = token_request(grant)
        who = f"the token service of {transport.host}"
        own = (grant.credential,) if grant.credential else ()
        response = await self._exchange(request, transport, "token", self._timeouts.request, own)
        if response.status == 200:
            return token_in(response, who)
        if refusal := token_refusal(grant, response):
            return refusal
        error = error_of(response, grant.scope, who, now=self._clock(), fingerprint=request.fingerprint)
        raise self._learn(transport, error)

    async def _exchange(
        self,
        request: Request,
        transport: Transport,
        kind: Kind,
        seconds: float,
        credentials: tuple[Credential, ...],
    ) -> Response:
        now = asyncio.get_running_loop().time
        begun, code = now(), "error"
        try:
            response = await self._connections.exchange(request, transport, cap=_CAPS[kind], seconds=seconds)
            code = str(response.status)
        except RegistryError as error:
            self._tell(request, request.url, error.reason, error.message, credentials)
            raise
        finally:
            if self._on_request is not None:
                self._on_request(transport.host, request.method, kind, code, now() - begun)
        if self._on_step is not None:
            hops: tuple[Response | Redirect, ...] = (*response.way, response)
            for hop in hops:
                self._tell(request, hop.url, str(hop.status), _note(hop), credentials)
        return response

    def _tell(self, request: Request, url: URL, outcome: str, note: str, credentials: tuple[Credential, ...]) -> None:
        if self._on_step is None:
            return
        scheme, _, secret = request.authorization.partition(" ")
        who = ""
        # An insecure host with which https does not come about is asked in plain http, credential included.
        if url.origin() in {request.url.origin(), request.url.with_scheme("http").origin()}:
            kind = "identity token" if request.method == "POST" else scheme
            who = f"{kind} secret {request.secret}" if request.secret else kind

        def clean(text: str) -> str:
            return without_secrets(text.replace(secret, "***") if secret else text, credentials)

        shown = clean(_shown(url, is_ours=url.path == request.url.path))
        self._on_step(Step(request.method, shown, outcome, clean(note), who))

    def _error(self, response: Response, visit: _Visit) -> RegistryError:
        transport = visit.transport
        error = error_of(
            response,
            visit.image,
            transport.host,
            now=self._clock(),
            fingerprint=visit.fingerprint,
            what=visit.errand.what,
            is_pull=visit.is_pull,
        )
        if visit.errand.candidates and not transport.credentials and isinstance(error, (NotFound, Denied)):
            # Registries call missing what is private, too.
            return type(error)(f"{error.message}; {withheld(visit.errand.candidates)}")
        return self._learn(transport, error)


class _Visit:
    """One question while it is answered: what is asked, in the forms in which it is needed."""

    def __init__(self, question: Question, home: Home, deadline: float) -> None:
        reference, transport = question.reference, question.transport
        self.transport = transport
        self.deadline = deadline  # by the event loop's clock
        self.target = reference.digest or reference.tag or DEFAULT_TAG
        is_list = isinstance(question, Listing)
        target = "" if is_list else f"{'@' if reference.digest else ':'}{self.target}"
        self.image = f"{reference.repository}{target}"
        self.is_hopeless = bool(reference.digest) and not is_digest(reference.digest) and not is_list
        self.credentials = question.credentials if transport.credentials else ()
        self.fingerprints = tuple(credential.fingerprint for credential in self.credentials)
        self.fingerprint = ""  # whose credential had the last answer
        self.kind: Kind = "manifest"  # of what is asked now
        self.is_pull = False
        self.repository = (transport, reference.path)
        self.place = (*self.repository, self.fingerprints)
        self.is_heard = False  # the registry, or its token service, has answered something
        self.sent: list[str] = []  # tokens; what says them back says what nobody may read
        self._path = reference.path
        self.errand = Errand(
            image=self.image,
            scope=f"repository:{reference.path}:pull",
            candidates=question.credentials,
            home=home,
            what="repository" if is_list else "container image",
        )

    @property
    def sign_of_silence(self) -> Sign:
        """What it tells of the host that all our time is over. Its answers may have used it up."""
        return Sign.NONE if self.is_heard else Sign.SILENCE

    def url(self, below: str) -> URL:
        return URL(f"{self.transport.endpoint}/v2/{self._path}/{below}", encoded=True)

    def manifest(self, target: str) -> URL:
        return self.url(f"manifests/{target}")

    def sealed(self, digest: str) -> _Sealed:
        return _Sealed(self.transport, self._path, digest, self.fingerprints)

    def seen(self, lookup: Lookup, digest: str) -> _Seen:
        return _Seen(self.transport, self._path, digest, lookup.mode, lookup.prefer, self.fingerprints)


def _own_answer(response: Response, transport: Transport) -> Response | Redirect | None:
    """The last answer that the registry gave itself; those of other hosts to which it led say nothing of it."""
    host = URL(transport.endpoint).host
    hops: tuple[Response | Redirect, ...] = (response, *reversed(response.way))
    return next((hop for hop in hops if hop.url.host == host), None)


def _shown(url: URL, *, is_ours: bool) -> str:
    """A URL without what may be a secret in it, such as the signature of one that a redirect leads to."""
    query = [(name, value) for name, value in url.query.items() if is_ours and name in _OUR_QUERY]
    bare = url.with_user(None).with_query(None).human_repr()
    return f"{bare}?{'&'.join(f'{name}={value}' for name, value in query)}" if query else bare


def _note(answer: Response | Redirect) -> str:
    """What is worth knowing of an answer, in words that the registry has not chosen."""
    said = []
    if answer.status == 401:
        for challenge in challenges_of(answer.headers.getall("WWW-Authenticate", [])):
            realm = _shown(challenge.realm, is_ours=False) if isinstance(challenge, Bearer) else ""
            said.append(f"wants a token of {realm}" if realm else "wants a login")
    if body := getattr(answer, "body", b""):
        said.append(known_code(body) if answer.status >= 400 else "")
    digest = answer.headers.get("Docker-Content-Digest", "")
    said.append(digest if is_digest(digest) else "")
    left = answer.headers.get("RateLimit-Remaining", "")
    said.append(f"RateLimit-Remaining {left}" if _LEFT.fullmatch(left) else "")
    return "; ".join(filter(None, said))
