"""The wiring: settings become objects, the objects run in one TaskGroup, and a signal ends them in order. No rule about
tags is here.

Every replica watches and serves health and metrics; the one that holds the Lease does the work. The story of its start:
caches are synced, the lease is won and its watermark read, every key is enqueued once; from then on watch events, the
schedule and the lanes enqueue.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
from collections.abc import Callable, Coroutine, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, assert_never

import structlog
import uvloop

from imagestreams import logs, metrics
from imagestreams.access import RegistryAccess
from imagestreams.controllers.images import AGAIN, ImageKey, ImageLimits, ImageReconciler
from imagestreams.controllers.imagestream import ImageStreamReconciler, denied_tags, event_of
from imagestreams.controllers.imagestreamimport import Disturbed, ImageStreamImportReconciler, KeysUnknown
from imagestreams.controllers.schedule import Chore, Schedule, start_clock
from imagestreams.controllers.trigger import Changed, Refused, TriggerReconciler, WorkloadKey
from imagestreams.controllers.workqueue import Reconcile, WorkQueue
from imagestreams.core.merging import Transition
from imagestreams.core.policy import places_for
from imagestreams.core.stream import ImageStream, ObjectKey, Status
from imagestreams.core.trigger import KINDS, Workload, WorkloadKind
from imagestreams.imports import Importer
from imagestreams.kube.cluster import ApiError, Cluster, ConfigurationError
from imagestreams.kube.events import EventRecorder, EventType, Involved
from imagestreams.kube.images import ImageObjects
from imagestreams.kube.imagestreams import ImageStreams, ObjectTooLarge
from imagestreams.kube.imports import ImageStreamImports, ImportRequest, RequestMetadata
from imagestreams.kube.lease import Leadership
from imagestreams.kube.skew import Skew
from imagestreams.kube.watch import OnChange, Reflector
from imagestreams.kube.workloads import WorkloadObject, Workloads
from imagestreams.requests import ImportRequests, RequestKey
from imagestreams.rules import import_rules_of, trigger_rules_of
from imagestreams.server import http
from imagestreams.settings import HostPort, Settings

if TYPE_CHECKING:
    from imagestreams.webhooks import Webhooks

log = structlog.get_logger(__name__)

# In seconds.
_GROUP_RETRY = 5.0
_LOOK_AGAIN = 60.0  # at a tag of another namespace that must not be pulled yet
_FIRST_ROUND = 600.0  # that the rounds after winning the lease may take before one that fails counts no longer

_REQUEST_WORKERS = 16  # more than requests that may wait for registries, so that the others find one


def run(settings: Settings) -> int:
    """Run the controller until a signal ends it; returns the exit code."""
    logs.configure(settings.log_level, settings.log_format)
    # What is loaded lives as long as we do, and what the caches hold is not tracked; with Python's own thresholds the
    # collector would stop the loop for tens of milliseconds, again and again, while ten thousand streams load.
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    return uvloop.run(_run(settings))


async def _run(settings: Settings) -> int:
    try:
        cluster = await Cluster.connect(
            settings.kubeconfig or None, settings.context or None, on_request=_count_request
        )
    except ConfigurationError as error:
        log.error("no cluster to work for", reason=str(error))
        return 1
    try:
        await Controller(cluster, settings, clock=lambda: datetime.now(UTC)).run(_stop_signal())
    except GroupTaken as error:
        log.error("refusing to work", reason=str(error))
        return 1
    except CannotListen as error:
        log.error("cannot serve", reason=str(error))
        return 1
    finally:
        await cluster.close()
    log.info("stopped")
    return 0


def _stop_signal() -> asyncio.Event:
    """Set by the first SIGTERM or SIGINT."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


class GroupTaken(Exception):
    """The API group is served by another API server; on OpenShift by its own, and both would write the same objects."""


class CannotListen(Exception):
    """The address to serve at is taken, or is not this machine's."""


class Controller:
    """Everything that runs, and the order in which it starts and ends.

    Args:
        cluster: the API server.
        settings: checked.
        clock: aware, UTC.
    """

    def __init__(self, cluster: Cluster, settings: Settings, *, clock: Callable[[], datetime]) -> None:
        self._cluster, self._settings, self._clock = cluster, settings, clock
        self._skew = Skew()
        cluster.on_date = self._compare_clocks
        metrics.clock_skew.set_function(lambda: self._skew.seconds)
        self._api = ImageStreams(cluster, settings.api_group)
        self._workloads = Workloads(cluster, settings.api_group)
        self._recorder = EventRecorder(cluster, clock=clock, on_drop=metrics.events_dropped.inc)
        self._streams = self._api.reflector(self._stream_changed)
        self._watched: dict[WorkloadKind, Reflector[WorkloadObject]] = {
            kind: self._workloads.reflector(kind, self._workload_changed(kind))
            for kind in (() if settings.webhooks_only else KINDS)
        }
        self._imports = ImageStreamImports(cluster, settings.api_group)
        self._import_requests = self._imports.reflector(self._import_changed)
        self._images = (
            ImageObjects(cluster, settings.api_group, on_count=metrics.images.set)
            if settings.image_objects and not settings.webhooks_only
            else None
        )
        self._access = RegistryAccess(
            cluster,
            settings,
            clock=clock,
            recorder=self._recorder,
            on_answers=self._answered,
            on_policy=self._policy_changed,
            on_secrets=self._secrets_changed,
            on_quota=self._quota_said,
        )
        self._requests = ImportRequests(
            lanes=self._access.lanes,
            credentials=self._access.credentials_of,
            rules=lambda: import_rules_of(settings, self._access.policy),
            clock=clock,
            streams=self._streams.store.get,
        )
        expected = (ApiError, Changed, Disturbed, KeysUnknown, ObjectTooLarge, Refused)
        self._stream_queue: WorkQueue[ObjectKey] = WorkQueue("imagestream", expected=expected)
        self._workload_queue: WorkQueue[WorkloadKey] = WorkQueue("workload", expected=expected)
        self._image_queue: WorkQueue[ImageKey] = WorkQueue("image", expected=expected)
        self._import_queue: WorkQueue[ObjectKey] = WorkQueue("import", expected=expected)
        self._schedule: Schedule[ObjectKey] = Schedule(self._stream_queue.add, clock=clock)
        # In the controller's own namespace a mistake could end the controller itself.
        self._excluded = frozenset({*settings.excluded_namespaces, settings.lease_namespace})
        self._webhooks = self._new_webhooks(settings.webhook_address) if settings.webhook_address else None
        self._is_our_group = asyncio.Event()
        self._unplanned: set[ObjectKey] = set()  # streams that were not reconciled since the lease was won
        self._watermark: datetime | None = None
        self._publishing: ObjectKey | None = None
        self._leading_since = clock()
        self._importer: Importer | None = None
        self._triggers: TriggerReconciler | None = None
        self._describer: ImageReconciler | None = None
        self._identity = settings.identity or f"{socket.gethostname()}_{os.getpid()}"
        self._leadership = Leadership(
            cluster,
            settings.lease_namespace,
            settings.lease_name,
            self._identity,
            duration=settings.lease_duration.total_seconds(),
            watermark=self._present_watermark,
        )

    def _new_webhooks(self, address: HostPort) -> Webhooks:
        from imagestreams.webhooks import Webhooks  # noqa: PLC0415  # 8 MB that only those need who serve any

        return Webhooks(
            self._cluster,
            self._settings,
            address,
            access=self._access,
            streams=self._streams,
            workloads=self._workloads,
            imports=self._imports,
            requests=self._requests,
            recorder=self._recorder,
            excluded=self._excluded,
            clock=self._clock,
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Serve and, when leading, work, until `stop` is set; then finish or abandon within the grace time."""
        server = await self._serve()
        background = [asyncio.create_task(runner, name=name) for name, runner in self._background().items()]
        leading = [] if self._settings.webhooks_only else [asyncio.create_task(self._lead(), name="leadership")]
        stopping = asyncio.create_task(stop.wait(), name="stop")
        try:
            done, _ = await asyncio.wait([*background, *leading, stopping], return_when=asyncio.FIRST_COMPLETED)
            for task in done - {stopping}:
                task.result()
                raise RuntimeError(f"{task.get_name()} ended")
        finally:
            stopping.cancel()
            await self._end(background, leading, server)

    async def _serve(self) -> http.Runner:
        """Listen for everything that is served. Raises CannotListen."""
        settings = self._settings
        checks = ("caches", "api-server", *(name for name, _ in self._conditions()))
        app = http.application(checks, self.problems, self._warnings)
        try:
            server, port = await http.serve(app, settings.http_address.host, settings.http_address.port)
        except OSError as error:
            raise CannotListen(f"http-address {settings.http_address}: {error}; set another, or port 0") from error
        log.info("serving", address=f"{settings.http_address.host or '0.0.0.0'}:{port}", observe=settings.observe)  # noqa: S104 - shown, not bound
        if self._webhooks is not None:
            try:
                port = await self._webhooks.start()
            except OSError as error:
                await server.cleanup()
                raise CannotListen(f"webhook-address {settings.webhook_address}: {error}; set another") from error
            log.info("serving webhooks", port=port)
        return server

    def _background(self) -> dict[str, Coroutine[Any, Any, None]]:
        """What runs as long as the process does, by name."""
        tasks: dict[str, Coroutine[Any, Any, None]] = {"group": self._watch_group(), "streams": self._streams.run()}
        tasks |= {kind.resource: reflector.run() for kind, reflector in self._watched.items()}
        tasks |= self._access.tasks()
        if self._images is not None:
            tasks["images"] = self._images.run()
        if not self._settings.webhooks_only:
            tasks["imports"] = self._import_requests.run()
        if self._webhooks is not None:
            tasks |= self._webhooks.tasks()
        return tasks | {"events": self._recorder.run()}

    async def _lead(self) -> None:
        await self._leadership.lead(self._work)

    async def _end(
        self, background: list[asyncio.Task[None]], leading: list[asyncio.Task[None]], server: http.Runner
    ) -> None:
        """First the work and its lease, so that another replica takes over; the calls of webhooks that are under way;
        then Events that wait; then the rest.
        """
        grace = self._settings.shutdown_grace.total_seconds()
        closing = asyncio.create_task(self._webhooks.close(), name="webhooks") if self._webhooks else None
        try:
            async with asyncio.timeout(grace):
                await _cancelled(*leading)
                await self._recorder.flush()
        except TimeoutError:
            log.warning("not everything could be finished in time", seconds=grace)
        if closing is not None:
            await closing  # it has a limit of its own: what API servers wait for an answer
        await _cancelled(*background, *leading)
        await self._access.close()
        await server.cleanup()

    async def _watch_group(self) -> None:
        """Ask whose API group it is, until there is an answer: without one nothing is done. Raises GroupTaken."""
        group = self._settings.api_group
        while not self._is_our_group.is_set():
            try:
                if await self._cluster.aggregated(group):
                    raise GroupTaken(
                        f"the group {group} is served by another API server (OpenShift's own); "
                        "install with the group imagestreams.dev and set --api-group=imagestreams.dev"
                    )
                self._is_our_group.set()
            except ApiError as error:
                log.warning("cannot ask who serves the API group", group=group, reason=str(error))
                await asyncio.sleep(_GROUP_RETRY)
        await asyncio.Event().wait()

    # --- the work of the leader ---

    async def _work(self, watermark: datetime | None) -> None:
        """What is done while the lease is held; cancelled when it is lost or the process ends."""
        self._watermark = watermark
        await self._is_our_group.wait()
        for reflector in self._watched.values():
            await reflector.store.synced.wait()
        await self._access.wait_until_known()
        # Another process has written until now. A watch that lags would show us yesterday's digests, and roll back to
        # them; from here on we are the only writer, and keep what we write.
        await self._streams.relist()
        self._leading_since = self._clock()
        self._unplanned = {ObjectKey(*key) for key in self._streams.store}
        importer = self._importer = Importer(
            lanes=self._access.lanes,
            credentials=self._access.credentials_of,
            publish=self._publish,
            announce=self._announce_stream,
            clock=self._clock,
            rules=import_rules_of(self._settings, self._access.policy),
            watermark=watermark,
            streams=self._streams.store.get,
            may_pull=self._workloads.may_pull,
        )
        streams = ImageStreamReconciler(
            streams=self._streams.store, importer=importer, schedule=self._schedule.set, forget=self._forget_stream
        )
        triggers = self._triggers = TriggerReconciler(
            workloads=self._workloads,
            watched={kind: reflector.store for kind, reflector in self._watched.items()},
            streams=self._streams.store,
            announce=self._announce_workload,
            clock=self._clock,
            rules=trigger_rules_of(self._settings, self._access.policy),
            is_observing=self._settings.observe,
            later=lambda key: self._workload_queue.add_later(key, _LOOK_AGAIN),
        )
        describer = self._describer = self._new_describer()
        requests = self._new_request_reconciler(importer)
        clock = start_clock(self._schedule, {requests.sweep: 60, **self._chores(importer, describer)})
        metrics.leader.set(1)
        log.info("working", identity=self._identity, watermark=watermark and watermark.isoformat())
        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(self._settings.workers):
                    tasks.create_task(self._stream_queue.work(self._reconcile_stream(streams)))
                    tasks.create_task(self._workload_queue.work(triggers.reconcile))
                for _ in range(_REQUEST_WORKERS):
                    tasks.create_task(self._import_queue.work(requests.reconcile))
                if describer is not None:
                    tasks.create_task(self._image_queue.work(describer.reconcile))
                self._enqueue_everything()
        finally:
            metrics.leader.set(0)
            # What is given up now is what a successor must begin with; the Lease is released after this.
            self._watermark = self._present_watermark()
            self._importer = self._triggers = self._describer = None
            clock.shutdown(wait=False)
            self._stream_queue.clear()
            self._workload_queue.clear()
            self._image_queue.clear()
            self._import_queue.clear()
            self._schedule.clear()
            importer.close()
            if describer is not None:
                describer.close()
            metrics.overdue.clear()
            metrics.held.clear()

    def _new_describer(self) -> ImageReconciler | None:
        if self._images is None:
            return None
        settings = self._settings
        return ImageReconciler(
            streams=self._streams,
            images=self._images,
            lanes=self._access.lanes,
            places=lambda reference, insecure: places_for(self._access.policy, reference, insecure=insecure),
            credentials=self._access.credentials_of,
            announce=self._announce_on_stream,
            enqueue=self._image_queue.add,
            later=self._image_queue.add_later,
            clock=self._clock,
            limits=ImageLimits(settings.image_object_budget, settings.image_object_grace),
        )

    def _new_request_reconciler(self, importer: Importer) -> ImageStreamImportReconciler:
        def hint(key: ObjectKey, tags: frozenset[str], since: datetime) -> None:
            importer.foresee(key, tags, since)
            self._stream_queue.add(key)  # without hints: those are of others, and mean what came since

        return ImageStreamImportReconciler(
            watched=self._import_requests.store,
            api=self._imports,
            requests=self._requests,
            keys=self._webhooks.stamp_keys if self._webhooks else tuple,
            adopt=self._streams.adopt,
            hint=hint,
            announce=self._announce_request,
            enqueue=self._import_queue.add,
            group=self._settings.api_group,
            clock=self._clock,
            ttl=self._settings.import_ttl,
        )

    def _chores(self, importer: Importer, describer: ImageReconciler | None) -> dict[Chore, int]:
        """What is done again and again, and after how many seconds."""

        async def show_overdue() -> None:
            metrics.overdue.clear()
            for host, tags in importer.overdue().items():
                metrics.overdue.labels(metrics.registry_label(host)).inc(tags)

        chores: dict[Chore, int] = {show_overdue: 15}
        if describer is not None:
            chores[describer.sweep] = 60
        return chores

    def _answered(self, key: ObjectKey | ImageKey | RequestKey) -> None:
        """The lanes have answers for the key."""
        match key:
            case ImageKey():
                self._image_queue.add(key)
            case RequestKey():
                self._requests.ready(key)
            case ObjectKey():
                self._stream_queue.add(key)
            case _:
                assert_never(key)

    def _quota_said(self, host: str, account: str, remaining: int) -> None:
        if self._describer is not None:
            self._describer.heed(host, account, remaining)

    def _enqueue_everything(self, image_hints: frozenset[str] = frozenset()) -> None:
        for key in self._streams.store:
            self._stream_queue.add(ObjectKey(*key))
            if self._describer is not None:
                self._image_queue.add(ImageKey.of(key), image_hints)
        for kind, reflector in self._watched.items():
            for key, workload in reflector.store.items():
                self._add_workload(kind, key, workload)
        for key in self._import_requests.store:
            self._import_queue.add(ObjectKey(*key))

    def _reconcile_stream(self, reconciler: ImageStreamReconciler) -> Reconcile[ObjectKey]:
        async def reconcile(key: ObjectKey, hints: frozenset[str]) -> None:
            await reconciler.reconcile(key, hints)
            self._unplanned.discard(key)

        return reconcile

    def _present_watermark(self) -> datetime | None:
        """The begin of the oldest polling slot not served: what a successor is to begin with.

        It stays the predecessor's until every stream was reconciled once, since until then nobody knows what is due.
        """
        if self._importer is None:
            return self._watermark
        is_young = (self._clock() - self._leading_since).total_seconds() < _FIRST_ROUND
        if self._unplanned and is_young:
            return self._watermark
        moments = (self._importer.oldest_unserved(), self._schedule.oldest_unserved(), self._clock())
        return min(moment for moment in moments if moment is not None)

    # --- what happens, and whom it concerns ---

    def _stream_changed(self, key: tuple[str, str], old: ImageStream | None, new: ImageStream | None) -> None:
        metrics.streams.set(len(self._streams.store))
        if self._importer is None or self._triggers is None:
            return
        stream = ObjectKey(*key)
        if stream != self._publishing:
            self._stream_queue.add(stream)
        if old is not None and new is not None and (old.status, old.spec) == (new.status, new.spec):
            return
        for other in self._importer.followers(stream):
            self._stream_queue.add(other)
        if self._describer is not None:
            if new is not None:
                self._describer.note(new)
            self._image_queue.add(ImageKey.of(key))
        if new is not None:
            for follower in self._triggers.followers(stream):
                self._workload_queue.add(follower)

    def _workload_changed(self, kind: WorkloadKind) -> OnChange[WorkloadObject]:
        def changed(key: tuple[str, str], old: WorkloadObject | None, new: WorkloadObject | None) -> None:
            if self._triggers is None:
                return
            if old is not None and new is not None and old.metadata.marks == new.metadata.marks:
                return
            self._add_workload(kind, key, new or old)

        return changed

    def _add_workload(self, kind: WorkloadKind, key: tuple[str, str], workload: WorkloadObject | None) -> None:
        """Only what follows a tag, or did, and only where workloads may be changed at all."""
        namespace, name = key
        if namespace in self._excluded:
            return
        target = WorkloadKey(kind, namespace, name)
        if (workload is not None and workload.metadata.has_triggers) or (
            self._triggers and self._triggers.knows(target)
        ):
            self._workload_queue.add(target)

    def _import_changed(self, key: tuple[str, str], _: ImportRequest | None, __: ImportRequest | None) -> None:
        if self._importer is not None:
            self._import_queue.add(ObjectKey(*key))

    def _secrets_changed(self, namespace: str | None) -> None:
        """A pull secret came, went or changed, the installation's where no namespace is named: what failed for want of
        one is tried again.
        """
        if self._importer is None:
            return
        for key, stream in self._streams.store.items():
            if namespace not in {None, key[0]}:
                continue
            # What is under way may be asked without it: it is asked once more when it has landed.
            if tags := denied_tags(stream) | self._importer.under_way(ObjectKey(*key)):
                self._stream_queue.add(ObjectKey(*key), tags)
            if self._describer is not None:
                self._image_queue.add(ImageKey.of(key), AGAIN)

    def _policy_changed(self) -> None:
        """What is said of registries is another: everything is looked at again with it."""
        if self._importer is None or self._triggers is None:
            return
        self._importer.use(import_rules_of(self._settings, self._access.policy))
        self._triggers.use(trigger_rules_of(self._settings, self._access.policy))
        self._enqueue_everything(AGAIN)

    def _forget_stream(self, key: ObjectKey) -> None:
        self._stream_queue.forget(key)
        self._schedule.forget(key)

    async def _publish(self, stream: ImageStream, status: Status) -> ImageStream:
        written = await self._api.write_status(stream, status)
        self._publishing = stream.key  # followers must hear of it now; the stream's own round goes on by itself
        self._streams.adopt(written)
        self._publishing = None
        return written

    def _announce_stream(self, stream: ImageStream, transition: Transition) -> None:
        self._announce_on_stream(stream, *event_of(transition))

    def _announce_on_stream(self, stream: ImageStream, type_: EventType, reason: str, message: str) -> None:
        meta = stream.metadata
        api_version = f"{self._settings.api_group}/v1"
        involved = Involved(api_version, "ImageStream", meta.namespace, meta.name, meta.uid, meta.resource_version)
        self._recorder.record(involved, type_, reason, message)

    def _announce_request(self, meta: RequestMetadata, type_: EventType, reason: str, message: str) -> None:
        api_version = f"{self._settings.api_group}/v1"
        involved = Involved(api_version, "ImageStreamImport", meta.namespace, meta.name, meta.uid)
        self._recorder.record(involved, type_, reason, message)

    def _announce_workload(self, workload: Workload, type_: EventType, reason: str, message: str) -> None:
        kind, key = workload.kind, workload.key
        involved = Involved(
            kind.api_version, kind.kind, key.namespace, key.name, workload.uid, workload.resource_version
        )
        self._recorder.record(involved, type_, reason, message)

    # --- health ---

    def problems(self) -> dict[str, str]:
        """What keeps this replica from being ready, by check. One that waits for the lease is ready to take over."""
        found = {
            "caches": self._caches_problem(),
            "api-server": self._api_problem(),
            **dict(self._conditions()),
        }
        return {check: problem for check, problem in found.items() if problem}

    def _warnings(self) -> dict[str, str]:
        """What people must be told, and is no reason yet not to be ready, by check."""
        found = {"api-server": self._skew.warning, "webhooks": self._webhooks.warning if self._webhooks else None}
        return {check: warning for check, warning in found.items() if warning}

    def _compare_clocks(self, date: str, sent: float, arrived: float) -> None:
        """The API server has answered, and said what its clock says."""
        if not self._skew.note(date, sent, arrived):
            return
        if self._skew.warning:
            log.warning("the clocks differ", reason=self._skew.warning)
        else:
            log.info("the clocks agree again", seconds=self._skew.seconds)

    def _conditions(self) -> Iterator[tuple[str, str | None]]:
        """The checks of the parts, and why each fails, if it does."""
        yield from self._access.problems()
        if self._webhooks is not None:
            yield "webhooks", self._webhooks.problem
            if not self._settings.webhooks_only:
                yield "import-requests", self._requests_problem()

    def _requests_problem(self) -> str | None:
        """Why answered requests are not carried out, if so. Without webhooks nobody has been promised anything."""
        problem = self._import_requests.problem
        return problem or (None if self._import_requests.store.synced.is_set() else "not synced yet")

    def _caches_problem(self) -> str | None:
        """Why the caches are not synced, in the words of the first that is not."""
        stores = [(self._streams.store.synced, self._streams.problem)]
        stores += [(reflector.store.synced, reflector.problem) for reflector in self._watched.values()]
        return next((problem or "not synced yet" for synced, problem in stores if not synced.is_set()), None)

    def _api_problem(self) -> str | None:
        # The Lease is asked every few seconds, a watch may be silent for minutes.
        problems = [None if self._settings.webhooks_only else self._leadership.problem, self._streams.problem]
        problems += [reflector.problem for reflector in self._watched.values()]
        return next((problem for problem in problems if problem), None)


async def _cancelled(*tasks: asyncio.Task[None]) -> None:
    """Cancel the tasks and wait until they have ended; what they raise in their end is logged."""
    for task in tasks:
        task.cancel()
    for task, result in zip(tasks, await asyncio.gather(*tasks, return_exceptions=True), strict=True):
        if isinstance(result, Exception):
            log.error("a task failed", task=task.get_name(), exc_info=result)


# --- metrics ---


def _count_request(verb: str, resource: str, status: int) -> None:
    metrics.kube_requests.labels(verb, resource, str(status)).inc()
