"""The wiring of the admission webhooks: doors, keys and server, beside the controller or in a process of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, assert_never

import structlog

from imagestreams import metrics
from imagestreams.controllers.webhooks import WebhookKeeper
from imagestreams.core.admission import DOORS, Denied, DoorName, Review, Verdict
from imagestreams.kube.cluster import ApiError, Cluster
from imagestreams.kube.webhooks import Configurations, KeySecret, TlsSecret
from imagestreams.requests import Turns
from imagestreams.rules import trigger_rules_of
from imagestreams.server.admission import (
    Admission,
    Door,
    Listener,
    ServingCertificate,
    deny_image_stream_tags,
    serve_admission,
)
from imagestreams.server.imports import SECONDS as IMPORT_SECONDS
from imagestreams.server.imports import ImportDoor
from imagestreams.server.pinning import PinningDoor
from imagestreams.server.pins import PinsDoor
from imagestreams.server.resolving import ResolvingDoor

if TYPE_CHECKING:
    from imagestreams.access import RegistryAccess
    from imagestreams.core.stream import ImageStream
    from imagestreams.kube.events import EventRecorder, Involved
    from imagestreams.kube.imports import ImageStreamImports
    from imagestreams.kube.watch import Reflector
    from imagestreams.kube.workloads import Workloads
    from imagestreams.requests import ImportRequests
    from imagestreams.server.admission import Said
    from imagestreams.settings import HostPort, Settings

log = structlog.get_logger(__name__)

# In seconds.
_QUICK = 2.0  # what a workload, or a stream, may wait
_NAME_RETRY = 5.0

_QUICK_CALLS = 256  # of one door at a time
_IMPORT_CALLS = 1152  # who waits for a turn is under way, too; see `requests.Room`
_IMPORT_ROOM = 32 << 20  # bytes of their reviews at a time
_IMPORT_SHARE = 8 << 20  # of those, of one namespace or user


class Webhooks:
    """All webhooks of this process.

    Args:
        cluster: the API server.
        settings: checked, with an address.
        address: where to listen.
        access: to registries, for import requests.
        streams: all streams.
        workloads: says who may pull what.
        imports: reads the streams that requests name, and asks for rights.
        requests: answers import requests.
        recorder: of Events.
        excluded: namespaces in which no workload is changed.
        clock: aware, UTC.
    """

    def __init__(
        self,
        cluster: Cluster,
        settings: Settings,
        address: HostPort,
        *,
        access: RegistryAccess,
        streams: Reflector[ImageStream],
        workloads: Workloads,
        imports: ImageStreamImports,
        requests: ImportRequests,
        recorder: EventRecorder,
        excluded: frozenset[str],
        clock: Callable[[], datetime],
    ) -> None:
        self._cluster, self._settings, self._address, self._clock = cluster, settings, address, clock
        self._access, self._streams, self._workloads = access, streams, workloads
        self._imports, self._requests, self._recorder, self._excluded = imports, requests, recorder, excluded
        self._certificate = ServingCertificate(settings.webhook_client_ca)
        self._keeper = self._new_keeper()
        self._admission = Admission(
            {name: self._door(name) for name in DOORS},
            self._keeper.tokens,
            refresh=self._keeper.refresh,
            client_name=settings.webhook_client_name,
            on_review=_count_review,
            on_exposed=self._keeper.exposed,
        )
        self._listener: Listener | None = None
        self._import_door: ImportDoor | None = None
        metrics.webhook_certificate_expiry.set_function(self._expiry)

    async def start(self) -> int:
        """Listen; returns the port. Nobody is served before there is a certificate. Raises OSError."""
        host, port = self._address
        self._listener, bound = await serve_admission(self._admission, host, port, self._certificate)
        return bound

    async def close(self) -> None:
        """Answer the calls under way, and take no more."""
        if self._listener is not None:
            await self._listener.cleanup()
        metrics.webhook_certificate_expiry.set_function(lambda: 0.0)

    def tasks(self) -> dict[str, Coroutine[Any, Any, None]]:
        """What is to run as long as the process does, by name."""
        return {"webhook keys": self._keeper.run(), "import webhook": self._open_imports()}

    @property
    def problem(self) -> str | None:
        """Why API servers cannot call them, if so."""
        return self._keeper.problem or (None if self._import_door else "it is not known yet as whom we are logged in")

    @property
    def warning(self) -> str | None:
        """Why that will come to pass within days, if so."""
        return self._keeper.warning

    def stamp_keys(self) -> Sequence[bytes] | None:
        """With which of them a request may have been stamped; None while that is not known."""
        return self._keeper.stamp_keys() or None

    # --- doors

    def _door(self, name: DoorName) -> Door:
        settings = self._settings
        match name:
            case DoorName.IMPORTS:
                return Door(
                    self._review_import,
                    IMPORT_SECONDS + 2,
                    _IMPORT_CALLS,
                    fails_open=False,
                    room=_IMPORT_ROOM,
                    share=_IMPORT_SHARE,
                )
            case DoorName.PINNING:
                pinning = PinningDoor(
                    streams=self._streams.store.get,
                    synced=self._knows_all,
                    may_pull=self._workloads.may_pull,
                    rules=lambda: trigger_rules_of(settings, self._access.policy),
                    excluded=self._excluded,
                    is_observing=settings.observe,
                    clock=self._clock,
                )
                return Door(pinning, _QUICK, _QUICK_CALLS, fails_open=True)
            case DoorName.RESOLVING:
                resolving = ResolvingDoor(
                    streams=self._streams.store.get,
                    synced=self._knows_all,
                    policy=lambda: self._access.policy,
                    excluded=self._excluded,
                    is_observing=settings.observe,
                )
                return Door(resolving, _QUICK, _QUICK_CALLS, fails_open=True)
            case DoorName.PINS:
                pins = PinsDoor(group=settings.api_group, clock=self._clock)
                return Door(pins, _QUICK, _QUICK_CALLS, fails_open=True)
            case DoorName.IMAGE_STREAM_TAGS:
                return Door(deny_image_stream_tags, _QUICK, _QUICK_CALLS, fails_open=False)
            case _:
                assert_never(name)

    def _knows_all(self) -> bool:
        """Whether the streams, and what an administrator says of registries, are known."""
        return self._streams.store.synced.is_set() and self._access.is_known

    async def _review_import(self, review: Review) -> Verdict:
        if self._import_door is None or not self._access.is_known:
            return Denied(503, "ServiceUnavailable", "the webhook has just started; try again in a moment", 2)
        return await self._import_door(review)

    async def _open_imports(self) -> None:
        """Ask who the controller is: nobody else may change a request that was answered."""
        name = await self._controller_name()
        self._import_door = ImportDoor(
            api=self._imports,
            requests=self._requests,
            turns=Turns(),
            key=self._keeper.stamp_key,
            group=self._settings.api_group,
            controller=name,
            clock=self._clock,
        )
        await asyncio.Event().wait()

    async def _controller_name(self) -> str:
        """As whom the API server knows the controller."""
        while not (name := self._settings.webhook_controller):
            try:
                return await self._cluster.whoami()
            except ApiError as error:
                log.warning("cannot ask as whom we are logged in", reason=str(error))
                await asyncio.sleep(_NAME_RETRY)
        return name

    # --- keys

    def _new_keeper(self) -> WebhookKeeper:
        settings, cluster = self._settings, self._cluster
        namespace, service = settings.lease_namespace, settings.webhook_service
        names = (f"{service}.{namespace}.svc", f"{service}.{namespace}.svc.cluster.local", *settings.webhook_name)
        tls = settings.webhook_tls_secret
        return WebhookKeeper(
            KeySecret(cluster, namespace, settings.webhook_secret),
            Configurations(cluster, settings.webhook_configuration, namespace=namespace, service=service),
            names=names,
            use=self._certificate.use,
            announce=self._announce,
            clock=self._clock,
            tls_secret=TlsSecret(cluster, namespace, tls) if tls else None,
        )

    def _announce(self, involved: Involved, reason: str, message: str) -> None:
        self._recorder.record(involved, "Warning", reason, message)

    def _expiry(self) -> float:
        return self._keeper.expires.timestamp() if self._keeper.expires else 0.0


def _count_review(door: str, operation: str, said: Said, seconds: float) -> None:
    metrics.admission_reviews.labels(door, operation, said).inc()
    if said != "refused":
        metrics.admission_duration.labels(door).observe(seconds)
