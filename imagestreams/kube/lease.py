"""Which replica works: one Lease, taken and renewed with a resourceVersion as precondition, so that two can never
both hold it.

It follows client-go's rules. A lease has expired when its record has not changed for its duration *as we have watched
it*: clocks of other machines count for nothing. A holder that cannot renew ends its work while the lease still holds.
Beside the holder the Lease keeps the watermark, from which the next holder's schedule goes on, and the identity of
the installation.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NoReturn

import msgspec
import structlog

from imagestreams.kube.cluster import JSON, MERGE_PATCH, api_path
from imagestreams.kube.errors import AlreadyExists, ApiError, Conflict, NotFound, decoded

if TYPE_CHECKING:
    from imagestreams.kube.cluster import Cluster

log = structlog.get_logger(__name__)

WATERMARK_ANNOTATION: Final = "imagestreams.dev/watermark"
INSTALL_ANNOTATION: Final = "imagestreams.dev/install"
_LEASES = "coordination.k8s.io/v1"
_RELEASE_SECONDS = 5.0

Work = Callable[[datetime | None], Awaitable[None]]
"""What the leader does, from the watermark on; it is cancelled when the lease cannot be kept."""


class OtherInstallation(Exception):
    """The Lease belongs to another installation: two would fight over the same streams."""


class _Metadata(msgspec.Struct, frozen=True, rename="camel"):
    resource_version: str = ""
    annotations: dict[str, str] | None = None


class _Spec(msgspec.Struct, frozen=True, rename="camel"):
    holder_identity: str | None = None
    lease_duration_seconds: int | None = None
    acquire_time: str | None = None
    renew_time: str | None = None
    lease_transitions: int | None = None


class _Lease(msgspec.Struct, frozen=True):
    metadata: _Metadata
    spec: _Spec = _Spec()

    def annotation(self, name: str) -> str:
        return (self.metadata.annotations or {}).get(name, "")


_LEASE = msgspec.json.Decoder(_Lease)
_encode = msgspec.json.Encoder().encode


class _Lost(Exception):
    """Somebody else has the lease, or may have it soon."""


class Leadership:
    """One contender for one Lease.

    Args:
        identity: of this process, unlike that of any other: whoever has the same is taken for us.
        watermark: the instant from which a successor must go on; written with each renewal. While it is None, what is
            there stays.
        duration: seconds (whole, at least 1) after which others take over from a silent holder.
        renew: seconds between renewals.
        retry: seconds between two looks at a lease that others hold, or attempts after a failure.
        margin: seconds before the end of the lease at which work is cancelled: what it has in which to end.
        install: identity of the installation; empty: not looked at.
        clock: monotonic seconds.
        now: aware, UTC; for the record's timestamps only.

    Attributes:
        is_leader: whether work may be done now.
    """

    def __init__(
        self,
        cluster: Cluster,
        namespace: str,
        name: str,
        identity: str,
        *,
        watermark: Callable[[], datetime | None],
        duration: float = 15.0,
        renew: float | None = None,
        retry: float = 2.0,
        margin: float | None = None,
        install: str = "",
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        if not identity:
            raise ValueError("a contender for a lease needs an identity")
        if duration < 1:
            raise ValueError("a lease lasts for at least one second")
        self._cluster = cluster
        self._collection = api_path(_LEASES, "leases", namespace)
        self._path = api_path(_LEASES, "leases", namespace, name)
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._watermark = watermark
        self._duration = int(duration)
        self._renew = renew or self._duration / 3
        self._retry = retry
        self._margin = self._duration / 3 if margin is None else margin
        self._install = install
        self._clock = clock
        self._now = now
        self._sleep = sleep
        self._lease = _Lease(_Metadata())
        self._changed_at = 0.0  # when we saw the record change
        self._renewed_at = 0.0  # when our last successful renewal was sent: the lease lives from then at least
        self._trouble = ""
        self._last_watermark = ""
        self.is_leader = False

    async def lead(self, work: Work) -> None:
        """Wait for the lease, do `work`, and again after each loss, until work ends by itself.

        However it ends, and when it is cancelled, work has ended and the lease is released before this returns.

        Raises:
            OtherInstallation: the lease is another installation's.
            Exception: what work raises.
        """
        while True:
            await self._acquire()
            log.info("lease acquired", lease=self._path, identity=self._identity)
            try:
                return await self._hold(work)
            except _Lost as error:
                log.warning("lease lost", lease=self._path, reason=str(error))

    async def _acquire(self) -> None:
        self._changed_at = self._clock()
        while True:
            try:
                if await self._try():
                    return self._say("")
                self._say("")
            except (AlreadyExists, Conflict):
                pass  # another was faster
            except ApiError as error:
                self._say(error.message)
            await self._sleep(self._retry)

    async def _try(self) -> bool:
        """Look at the lease, and take it if it is free, expired or ours already."""
        try:
            self._take_in(await self._request("GET", self._path))
        except NotFound:
            return await self._create()
        spec = self._lease.spec
        holder = spec.holder_identity
        lives_until = self._changed_at + (spec.lease_duration_seconds or self._duration)
        if holder and holder != self._identity and self._clock() < lives_until:
            return False
        if holder == self._identity:
            await self._write(self._identity, self._duration)
        else:
            transitions = (spec.lease_transitions or 0) + 1
            acquired = _micro_time(self._now())
            await self._write(self._identity, self._duration, acquireTime=acquired, leaseTransitions=transitions)
        return True

    async def _create(self) -> bool:
        now = _micro_time(self._now())
        lease = {
            "apiVersion": _LEASES,
            "kind": "Lease",
            "metadata": {"name": self._name, "namespace": self._namespace, "annotations": self._annotations()},
            "spec": {
                "holderIdentity": self._identity,
                "leaseDurationSeconds": self._duration,
                "acquireTime": now,
                "renewTime": now,
                "leaseTransitions": 0,
            },
        }
        sent = self._clock()
        try:
            created = await self._request("POST", self._collection, _encode(lease))
        except NotFound:
            await self._create_namespace()
            return False
        self._take_in(created)
        self._renewed_at = sent
        return True

    async def _create_namespace(self) -> None:
        """A controller that somebody runs from a machine of theirs may be the first to need it."""
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self._namespace}}
        try:
            await self._cluster.post(api_path("v1", "namespaces"), _encode(namespace))
        except AlreadyExists:
            return
        except ApiError as error:
            message = f"the namespace {self._namespace} of the Lease does not exist: {error.message}"
            raise ApiError(message, status=error.status, reason=error.reason) from error
        log.info("namespace created", namespace=self._namespace)

    async def _hold(self, work: Work) -> None:
        """Do the work and renew; when the lease cannot be kept, end the work first."""
        self.is_leader = True
        watermark = _read_watermark(self._lease.annotation(WATERMARK_ANNOTATION))
        working = asyncio.ensure_future(work(watermark))
        renewing = asyncio.ensure_future(self._keep())
        try:
            await asyncio.wait((working, renewing), return_when=asyncio.FIRST_COMPLETED)
            has_finished = working.done()
        except asyncio.CancelledError:
            await self._end(working, renewing)
            if not working.cancelled() and (error := working.exception()):
                log.error("work failed while it was stopped", lease=self._path, exc_info=error)
            raise
        await self._end(working, renewing)
        if has_finished or not working.cancelled():
            working.result()  # raises what went wrong, also while it was ending
        if not has_finished:
            renewing.result()  # raises why it had to end

    async def _end(self, working: asyncio.Future[None], renewing: asyncio.Future[NoReturn]) -> None:
        self.is_leader = False
        await _ended(working)  # renewed meanwhile: it may take its time
        await _ended(renewing)
        await self._release()

    async def _keep(self) -> NoReturn:
        """Renew for as long as that succeeds in time."""
        wait = self._renew
        while True:
            left = self._renewed_at + self._duration - self._margin - self._clock()
            if left <= 0:
                raise _Lost(self._trouble or "it could not be renewed in time")
            await self._sleep(min(wait, left))
            try:
                await self._renewed(self._renewed_at + self._duration - self._margin - self._clock())
                wait = self._renew
            except ApiError as error:
                self._say(error.message)
                wait = self._retry

    async def _renewed(self, left: float) -> None:
        if left <= 0:
            return
        try:
            await self._write(self._identity, self._duration, timeout=left)
            self._say("")
        except NotFound as error:
            raise _Lost("the Lease was deleted") from error
        except Conflict:
            # Our own renewal whose answer was lost, somebody's annotation, or another holder.
            self._take_in(await self._request("GET", self._path, timeout=left))
            if self._lease.spec.holder_identity != self._identity:
                raise _Lost(f"{self._lease.spec.holder_identity or 'nobody'} holds it now") from None
            await self._write(self._identity, self._duration, timeout=left)

    async def _release(self) -> None:
        """Let others take over at once. If that fails they wait for the lease's end."""
        if self._lease.spec.holder_identity != self._identity:
            return
        try:
            await self._write(None, 1, timeout=_RELEASE_SECONDS)
        except ApiError as error:
            log.info("lease not released", lease=self._path, reason=error.message)

    async def _write(self, holder: str | None, duration: int, *, timeout: float | None = None, **spec: object) -> None:
        """Change the lease if it is still as we have seen it last."""
        is_ours = self._lease.spec.holder_identity == self._identity
        if is_ours and (watermark := self._watermark()):
            self._last_watermark = watermark.astimezone(UTC).isoformat().replace("+00:00", "Z")
        patch = {
            "metadata": {"resourceVersion": self._lease.metadata.resource_version, "annotations": self._annotations()},
            "spec": {
                "holderIdentity": holder,
                "leaseDurationSeconds": duration,
                "renewTime": _micro_time(self._now()),
                **spec,
            },
        }
        sent = self._clock()
        self._take_in(await self._request("PATCH", self._path, _encode(patch), timeout=timeout))
        self._renewed_at = sent

    async def _request(
        self, method: str, path: str, body: bytes | None = None, *, timeout: float | None = None
    ) -> _Lease:
        longest = self._duration - self._margin
        seconds = longest if timeout is None else min(timeout, longest)
        content_type = MERGE_PATCH if method == "PATCH" else JSON
        answer = await self._cluster.request(method, path, body=body, content_type=content_type, timeout=seconds)
        return decoded(_LEASE, answer, f"Lease {self._name}")

    def _take_in(self, lease: _Lease) -> None:
        """This is the lease now."""
        self._check_install(lease)
        if lease.spec != self._lease.spec:
            self._changed_at = self._clock()
        self._lease = lease
        self._last_watermark = lease.annotation(WATERMARK_ANNOTATION) or self._last_watermark

    def _annotations(self) -> dict[str, str]:
        """Those that we write. A Lease that was deleted under us comes back with the watermark that it had."""
        written = {WATERMARK_ANNOTATION: self._last_watermark, INSTALL_ANNOTATION: self._install}
        return {name: value for name, value in written.items() if value}

    def _check_install(self, lease: _Lease) -> None:
        theirs = lease.annotation(INSTALL_ANNOTATION)
        if self._install and theirs and theirs != self._install:
            raise OtherInstallation(
                f"the Lease {self._namespace}/{self._name} belongs to the installation {theirs!r}, "
                f"not to {self._install!r}; two installations must not manage the same streams. "
                "If the other one is gone, delete the Lease"
            )

    @property
    def problem(self) -> str | None:
        """Why the lease cannot be asked for or kept, for people; None while it can."""
        return f"the Lease {self._namespace}/{self._name}: {self._trouble}" if self._trouble else None

    def _say(self, trouble: str) -> None:
        if trouble and trouble != self._trouble:
            log.warning("lease not reached", lease=self._path, reason=trouble)
        self._trouble = trouble


async def _ended(task: asyncio.Future[Any]) -> None:
    """Cancel a task and wait for its end, whatever that is; what it raises is for whoever asks for its result."""
    task.cancel()
    while not task.done():
        await asyncio.wait((task,))


def _micro_time(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _read_watermark(text: str) -> datetime | None:
    try:
        watermark = datetime.fromisoformat(text)
    except ValueError:
        return None
    return watermark if watermark.tzinfo else None
