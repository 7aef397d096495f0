"""Admission webhooks over HTTPS: proof of the caller, limits, deadlines, and what a door answers that cannot decide.

An API server shows no certificate by default, so it is known by a token in the path, which the webhook configuration
holds; `/admit/<door>/<token>`. Whoever does not know it gets 404, and nothing that was sent is read. A path may hold
a token: it is in no log, no metric, no answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import ssl
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal, assert_never

import structlog
from aiohttp import web
from aiohttp.http import HttpProcessingError

from imagestreams.core.admission import (
    PATH_PREFIX,
    Allowed,
    Denied,
    Handler,
    MalformedReview,
    Review,
    Tokens,
    Verdict,
    decode_review,
    encode_verdict,
    is_token,
)
from imagestreams.core.certificate import InvalidCertificate, KeyPair
from imagestreams.core.duration import parse_duration

if TYPE_CHECKING:
    from aiohttp.web_protocol import RequestHandler

log = structlog.get_logger(__name__)

Said = Literal["allowed", "patched", "denied", "failed", "refused"]
"""What came of a call: refused were those whose caller is not proven, or that were too many or too large to be read."""

OnReview = Callable[[str, str, Said, float], None]
"""Told door, operation, what was said and seconds. Door and operation are words of ours, empty where they are not
known: a closed set of labels.
"""

MAX_BODY: Final = 8 << 20  # of a review; an update's holds two objects
_UID = re.compile(rb'"request":\s*\{\s*"uid":\s*"(?P<uid>[A-Za-z0-9-]{1,128})"')
_HEAD = 4096  # bytes of a review, in which its uid is found
_OPERATIONS = frozenset({"CREATE", "UPDATE", "DELETE", "CONNECT"})
_RETRY_AFTER = 5
# Seconds.
_MARGIN = 1.0  # at most, before the API server's own deadline
_HANDSHAKE = 10.0
_UNPROVEN = 10.0  # that a connection may last whose client has proven nothing
_KEEP_ALIVE = 300.0  # longer than API servers keep theirs, lest one is closed while a call is on its way
_GRACE = 2.0  # at the end, beyond what the slowest door may take
_MAX_UNPROVEN = 256
_MAX_TOLD = 256
_FAILED: Final = "imagestreams failed to look at this object; it is taken as it is"


@dataclass(frozen=True, slots=True)
class Door:
    """One kind of webhook.

    Attributes:
        handle: decides. What it raises is logged and answered as the door can.
        seconds: it may take, if the API server waits as long.
        in_flight: calls at a time.
        fails_open: what cannot be decided in time is let pass with a warning; else it is refused, or a failed call.
        room: bytes of reviews at a time, so that no door takes the memory of the others.
        share: how many of them may be of one namespace, or of one user.
    """

    handle: Handler
    seconds: float
    in_flight: int
    fails_open: bool
    room: int = 2 * MAX_BODY
    share: int = 2 * MAX_BODY


class ServingCertificate:
    """The TLS side of a server, whose certificate can be replaced while it serves.

    Args:
        client_ca: PEM file of the authority by which clients may prove themselves; empty: none can.

    Raises:
        OSError: the file cannot be read, or holds no certificate.
    """

    def __init__(self, client_ca: str = "") -> None:
        self._client_ca = client_ca
        self._present: ssl.SSLContext | None = None
        self.context = self._new_context()
        # Loading a second certificate into a context leaves the first one there if its key is of another type.
        self.context.sni_callback = self._choose

    def use(self, pair: KeyPair) -> None:
        """Serve new connections with it; those that are open go on.

        Raises:
            InvalidCertificate: it cannot be served with; what was served before still is.
        """
        context = self._new_context()
        with _as_file(pair.certificate.rstrip() + b"\n" + pair.key) as name:
            try:
                context.load_cert_chain(name)
            except (ssl.SSLError, ValueError, OSError) as error:
                raise InvalidCertificate(f"it cannot be served with: {type(error).__name__}") from None
        self._present = context

    def _choose(self, connection: ssl.SSLSocket | ssl.SSLObject, _: str | None, __: ssl.SSLContext) -> int | None:
        """Called for each handshake, also for one that names no server."""
        if self._present is None:
            return ssl.AlertDescription.ALERT_DESCRIPTION_INTERNAL_ERROR
        connection.context = self._present
        return None

    def _new_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self._client_ca:
            context.load_verify_locations(cafile=self._client_ca)
            context.verify_mode = ssl.CERT_OPTIONAL
        return context


class Admission:
    """The webhooks' HTTP side.

    Args:
        doors: by their names in the path.
        tokens: those that prove a caller now.
        refresh: reads the tokens anew; asked before a token that looks like one is refused. It keeps itself from being
            asked too often.
        client_name: common name of a verified client certificate that is proof, too; empty: none is.
        on_exposed: told that a call failed of which the API server may tell its user, path and all.
        clock: monotonic seconds.

    Attributes:
        on_proven: told the connection of each call whose caller is proven.
    """

    def __init__(
        self,
        doors: Mapping[str, Door],
        tokens: Callable[[], Tokens],
        *,
        refresh: Callable[[], Awaitable[object]] | None = None,
        client_name: str = "",
        on_review: OnReview | None = None,
        on_exposed: Callable[[], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._doors = dict(doors)
        self._tokens = tokens
        self._refresh = refresh
        self._client_name = client_name
        self._on_review = on_review
        self._on_exposed = on_exposed
        self._clock = clock
        self._in_flight = dict.fromkeys(self._doors, 0)
        self._rooms = {name: _Room(door.room, door.share) for name, door in self._doors.items()}
        self._told: set[tuple[str, ...]] = set()
        self.on_proven: Callable[[object], object] = lambda _: None

    def __repr__(self) -> str:
        return f"Admission({', '.join(self._doors)})"

    @property
    def longest(self) -> float:
        """Seconds that a call may take."""
        return max((door.seconds for door in self._doors.values()), default=0.0)

    def application(self) -> web.Application:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._call)
        return app

    async def _call(self, request: web.Request) -> web.StreamResponse:
        began = self._clock()
        name, door = await self._proven(request)
        if door is None:
            self._say(name, "", "refused", began)
            return web.Response(status=404, text="not found\n")
        self.on_proven(request.protocol)
        call = _Call(name, door)
        try:
            body = await self._answer(call, request, asyncio.get_running_loop().time() + _seconds(door, request))
            return web.Response(body=body, content_type="application/json")
        except MalformedReview as error:
            log.warning("a review was not understood", door=name, error=str(error)[:200])
            return web.Response(status=400, text="not an AdmissionReview\n")
        except (TimeoutError, _Failed):
            self._exposed()
            return web.Response(status=500, text="the webhook failed; its log says why\n")
        except asyncio.CancelledError:
            self._exposed()  # the API server has not waited for the answer, or its connection broke
            raise
        finally:
            self._say(name, call.operation, call.said, began)

    # --- proof

    async def _proven(self, request: web.Request) -> tuple[str, Door | None]:
        """The door's name, and the door if the caller may use it."""
        name, _, token = request.path.removeprefix(PATH_PREFIX).partition("/")
        door = self._doors.get(name)
        if door is None or request.method != "POST" or not request.path.startswith(PATH_PREFIX):
            return "", None
        if not token:
            return name, door if self._is_client_known(request) else None
        if not self._tokens().accepts(token):
            if self._refresh is None or not is_token(token):
                return name, None
            await self._refresh()
            if not self._tokens().accepts(token):
                return name, None
        return name, door

    def _is_client_known(self, request: web.Request) -> bool:
        """Has the client shown a certificate, of the authority that TLS was told to ask for, with the name?"""
        shown = request.transport.get_extra_info("peercert") if request.transport else None
        if not shown or not self._client_name:
            return False
        names = [value for part in shown.get("subject", ()) for key, value in part if key == "commonName"]
        return names == [self._client_name]

    # --- the decision

    async def _answer(self, call: _Call, request: web.Request, ends: float) -> bytes:
        room = self._rooms[call.name]
        size = MAX_BODY if request.content_length is None else request.content_length
        with room.taken(size) as has_room:
            if not has_room:
                async with asyncio.timeout_at(ends):
                    return self._refuse(call, await _uid(request))
            async with asyncio.timeout_at(ends):
                review = replace(await _review(request), seconds=ends - asyncio.get_running_loop().time())
            call.operation = review.operation if review.operation in _OPERATIONS else "other"
            with room.shared(size, review) as is_share_left:
                if not is_share_left or self._in_flight[call.name] >= call.door.in_flight:
                    return self._refuse(call, review.uid)
                self._in_flight[call.name] += 1
                try:
                    return await self._decide(call, review, ends)
                finally:
                    self._in_flight[call.name] -= 1

    def _refuse(self, call: _Call, uid: str) -> bytes:
        call.said = "refused"
        return encode_verdict(uid, _busy(call.door))

    async def _decide(self, call: _Call, review: Review, ends: float) -> bytes:
        limit = asyncio.timeout_at(ends)
        try:
            async with limit:
                verdict = await call.door.handle(review)
            body = encode_verdict(review.uid, verdict)
        except Exception as error:
            if limit.expired():
                self._exposed()
                return encode_verdict(review.uid, _late(call.door))
            self._tell(call.name, review, error)
            if not call.door.fails_open:
                raise _Failed from error
            return encode_verdict(review.uid, Allowed(warnings=(_FAILED,)))
        match verdict:
            case Denied():
                call.said = "denied"
            case Allowed(patch=patch):
                call.said = "patched" if patch else "allowed"
            case _:
                assert_never(verdict)
        return body

    def _tell(self, name: str, review: Review, error: Exception) -> None:
        """Log a failure, with its traceback once for each place that it comes from."""
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        place = (name, type(error).__name__, f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else "")
        is_news = place not in self._told and len(self._told) < _MAX_TOLD
        if is_news:
            self._told.add(place)
        log.error(
            "admission failed",
            door=name,
            operation=review.operation,
            resource=review.resource,
            namespace=review.namespace,
            name=review.name,
            error=type(error).__name__,
            exc_info=error if is_news else None,
        )

    def _exposed(self) -> None:
        if self._on_exposed:
            self._on_exposed()

    def _say(self, name: str, operation: str, said: Said, began: float) -> None:
        if self._on_review:
            self._on_review(name, operation, said, self._clock() - began)


@dataclass(slots=True)
class _Call:
    """One call, and what has come of it so far."""

    name: str
    door: Door
    operation: str = ""
    said: Said = "failed"


class _Failed(Exception):
    """The handler raised, and the door does not fail open."""


class _Room:
    """Memory for the reviews at a door, each from its arrival until it is answered.

    Args:
        size: bytes, of all.
        share: bytes, of one namespace or user.
    """

    def __init__(self, size: int, share: int) -> None:
        self._size, self._share = size, share
        self._taken = 0
        self._shares: Counter[tuple[str, str]] = Counter()

    @contextlib.contextmanager
    def taken(self, size: int) -> Iterator[bool]:
        """Whether there is room for a review of this size; kept within the context."""
        is_free = self._taken + size <= self._size
        self._taken += size if is_free else 0
        try:
            yield is_free
        finally:
            self._taken -= size if is_free else 0

    @contextlib.contextmanager
    def shared(self, size: int, review: Review) -> Iterator[bool]:
        """Whether those whom it is from have not had their share; kept within the context."""
        whose = [("namespace", review.namespace), ("user", review.requester.username)]
        is_free = all(self._shares[each] + size <= self._share for each in whose)
        taken = Counter(dict.fromkeys(whose, size if is_free else 0))
        self._shares += taken
        try:
            yield is_free
        finally:
            self._shares -= taken  # what is 0 is forgotten


async def _uid(request: web.Request) -> str:
    """That of the review in the body, of which nothing else is kept. API servers write it first.

    Raises:
        MalformedReview: it holds none, or is too large.
    """
    found = _UID.search(await _body(request, _HEAD))
    if found is None:
        raise MalformedReview("its uid is not at its begin")
    return found["uid"].decode()


async def _review(request: web.Request) -> Review:
    """The review in the body.

    Raises:
        MalformedReview: it holds none, or is too large.
    """
    if request.headers.get("Content-Encoding", "identity") != "identity":
        raise MalformedReview("its body is compressed, which API servers do not do")
    return decode_review(await _body(request, MAX_BODY))


async def _body(request: web.Request, kept: int) -> bytes:
    """So many bytes of the body, which is read to its end: else its sender may never see the answer.

    Raises:
        MalformedReview: it is too large.
    """
    body, size = bytearray(), 0
    async for chunk in request.content.iter_any():
        body += chunk[: kept - len(body)]
        if (size := size + len(chunk)) > MAX_BODY:
            raise MalformedReview(f"its body has more than {MAX_BODY} bytes")
    return bytes(body)


def _seconds(door: Door, request: web.Request) -> float:
    """How long the call may take: a little less than the API server waits, which it says."""
    try:
        waits = parse_duration(request.query.get("timeout", "")).total_seconds()
    except ValueError:
        return door.seconds
    return max(0.05, min(door.seconds, waits - min(_MARGIN, waits / 10)))


def _busy(door: Door) -> Verdict:
    if door.fails_open:
        return Allowed(warnings=("imagestreams has too much to look at just now; this object is taken as it is",))
    return Denied(429, "TooManyRequests", "too many requests of this kind are under way; try again", _RETRY_AFTER)


def _late(door: Door) -> Verdict:
    if door.fails_open:
        return Allowed(warnings=("imagestreams did not look at this object in time; it is taken as it is",))
    return Denied(504, "Timeout", "the request could not be answered in time; try again")


async def deny_image_stream_tags(review: Review) -> Verdict:
    """What makes `oc tag` edit the image stream itself: a creation that is forbidden, whoever asks."""
    if review.operation != "CREATE":
        return Allowed()
    return Denied(
        403, "Forbidden", "image stream tags are not stored as such: use `imagestreams tag`, or edit the image stream"
    )


# --- listening


class Listener:
    """What `serve_admission` has started."""

    def __init__(self, server: asyncio.Server, runner: web.AppRunner) -> None:
        self._server = server
        self._runner = runner

    async def cleanup(self) -> None:
        """Take no more connections, answer the calls under way, and end."""
        self._server.close()
        serving = self._runner.server
        open_ = [connection.transport for connection in serving.connections] if serving else []
        await self._runner.cleanup()
        for transport in open_:
            if transport is not None:
                transport.abort()  # all is said; TLS would wait for the other side to agree that it ends
        await asyncio.sleep(0)


async def serve_admission(admission: Admission, host: str, port: int, tls: ServingCertificate) -> tuple[Listener, int]:
    """Listen; returns what to clean up and the port, chosen by the system if 0 was asked for.

    Connections whose client proves nothing are few, and last for seconds: nobody else may keep API servers out.

    Raises:
        OSError: the address is taken, or not ours.
    """
    runner = web.AppRunner(
        admission.application(),
        access_log=None,
        handle_signals=False,
        handler_cancellation=True,  # nobody waits for the answer any more
        auto_decompress=False,
        keepalive_timeout=_KEEP_ALIVE,
        shutdown_timeout=admission.longest + _GRACE,
        lingering_time=1.0,
        logger=_logger(),
    )
    await runner.setup()
    made = runner.server
    if made is None:
        raise RuntimeError("the server was not set up")
    visitors = _Visitors()
    admission.on_proven = visitors.discard

    def connection() -> RequestHandler:
        protocol = made()
        visitors.add(protocol)
        return protocol

    try:
        server = await asyncio.get_running_loop().create_server(
            connection, host or None, port, ssl=tls.context, ssl_handshake_timeout=_HANDSHAKE
        )
    except OSError:
        await runner.cleanup()
        raise
    return Listener(server, runner), server.sockets[0].getsockname()[1]


class _Visitors:
    """Connections whose client has not proven itself yet, the oldest first."""

    def __init__(self) -> None:
        self._waiting: dict[object, tuple[RequestHandler, asyncio.TimerHandle]] = {}

    def add(self, protocol: RequestHandler) -> None:
        timer = asyncio.get_running_loop().call_later(_UNPROVEN, self._expel, protocol)
        self._waiting[protocol] = protocol, timer
        if len(self._waiting) > _MAX_UNPROVEN:
            self._expel(next(iter(self._waiting)))

    def discard(self, protocol: object) -> RequestHandler | None:
        """It has proven itself, or is over."""
        found, timer = self._waiting.pop(protocol, (None, None))
        if timer is not None:
            timer.cancel()
        return found

    def _expel(self, protocol: object) -> None:
        visitor = self.discard(protocol)
        if visitor is not None and visitor.transport is not None:
            visitor.transport.abort()


@contextlib.contextmanager
def _as_file(content: bytes) -> Iterator[str]:
    """A name under which OpenSSL, which reads only files, finds the content; on Linux no disk ever sees it."""
    if hasattr(os, "memfd_create"):
        number = os.memfd_create("certificate")
        try:
            os.write(number, content)
            yield f"/proc/self/fd/{number}"
        finally:
            os.close(number)
    else:
        with tempfile.NamedTemporaryFile(buffering=0) as named:
            named.write(content)
            yield named.name


def _logger() -> logging.Logger:
    logger = logging.getLogger("imagestreams.server.admission.http")
    logger.addFilter(_is_ours)
    return logger


def _is_ours(record: logging.LogRecord) -> bool:
    """Anybody can send what is no HTTP, and what is logged of it may hold its first line."""
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))
