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
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import structlog
import uvloop

from imagestreams import logs, metrics
from imagestreams.controllers.images import AGAIN, ImageKey, ImageLimits, ImageReconciler
from imagestreams.controllers.imagestream import ImageStreamReconciler, denied_tags, event_of
from imagestreams.controllers.schedule import Chore, Schedule, start_clock
from imagestreams.controllers.trigger import Changed, Refused, TriggerReconciler, WorkloadKey
from imagestreams.controllers.workqueue import Reconcile, WorkQueue
from imagestreams.core.keychain import Entry, InstallWide
from imagestreams.core.merging import Transition
from imagestreams.core.policy import places_for, rule_of
from imagestreams.core.registries import policy_of
from imagestreams.core.stream import ImageStream, ObjectKey, Status
from imagestreams.core.trigger import KINDS, Workload, WorkloadKind
from imagestreams.imports import Importer
from imagestreams.kube.cluster import ApiError, Cluster, ConfigurationError
from imagestreams.kube.events import EventRecorder, EventType, Involved
from imagestreams.kube.images import ImageObjects
from imagestreams.kube.imagestreams import ImageStreams, ObjectTooLarge
from imagestreams.kube.lease import Leadership
from imagestreams.kube.registries import RegistrySources, SourceName
from imagestreams.kube.secrets import Credentials, InstallSecret
from imagestreams.kube.watch import OnChange, Reflector
from imagestreams.kube.workloads import WorkloadObject, Workloads
from imagestreams.registry.client import RegistryClient
from imagestreams.registry.lanes import Lanes, Limits
from imagestreams.registry.quota import Quota
from imagestreams.registry.transport import Reach
from imagestreams.rules import base_policy_of, import_rules_of, timeouts_of, trigger_rules_of
from imagestreams.server import http
from imagestreams.settings import Settings

log = structlog.get_logger(__name__)

# In seconds.
_GROUP_RETRY = 5.0
_LOOK_AGAIN = 60.0  # at a tag of another namespace that must not be pulled yet
_CREDENTIALS_PATIENCE = 10.0  # with the first list of pull secrets; without it they are read for each namespace
_FIRST_ROUND = 600.0  # that the rounds after winning the lease may take before one that fails counts no longer


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
        self._api = ImageStreams(cluster, settings.api_group)
        self._workloads = Workloads(cluster, settings.api_group)
        self._recorder = EventRecorder(cluster, clock=clock, on_drop=metrics.events_dropped.inc)
        self._streams = self._api.reflector(self._stream_changed)
        self._watched: dict[WorkloadKind, Reflector[WorkloadObject]] = {
            kind: self._workloads.reflector(kind, self._workload_changed(kind)) for kind in KINDS
        }
        self._images = (
            ImageObjects(cluster, settings.api_group, on_count=metrics.images.set) if settings.image_objects else None
        )
        self._credentials = Credentials(
            cluster,
            is_linked=settings.pull_secrets == "linked",
            install=_install_secret_of(settings),
            on_malformed=self._malformed_secret,
            on_change=self._secrets_changed,
        )
        self._base_policy = self._policy = base_policy_of(settings, api_server=cluster.url)
        self._registries = RegistrySources(
            cluster,
            settings.lease_namespace,
            settings.registries_configmap,
            on_change=self._registries_changed,
            on_problem=self._registries_problem,
            registries_file=settings.registries_file,
            local_registry_hosting=settings.local_registry_hosting,
            mirror_sets=settings.mirror_sets,
        )
        expected = (ApiError, Changed, ObjectTooLarge, Refused)
        self._stream_queue: WorkQueue[ObjectKey] = WorkQueue("imagestream", expected=expected)
        self._workload_queue: WorkQueue[WorkloadKey] = WorkQueue("workload", expected=expected)
        self._image_queue: WorkQueue[ImageKey] = WorkQueue("image", expected=expected)
        self._schedule: Schedule[ObjectKey] = Schedule(self._stream_queue.add, clock=clock)
        # In the controller's own namespace a mistake could end the controller itself.
        self._excluded = frozenset({*settings.excluded_namespaces, settings.lease_namespace})
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

    async def run(self, stop: asyncio.Event) -> None:
        """Serve and, when leading, work, until `stop` is set; then finish or abandon within the grace time."""
        settings = self._settings
        app = http.application(("caches", "api-server", "registries", "pull-secrets"), self.problems)
        try:
            server, port = await http.serve(app, settings.http_address.host, settings.http_address.port)
        except OSError as error:
            raise CannotListen(f"http-address {settings.http_address}: {error}; set another, or port 0") from error
        log.info("serving", address=f"{settings.http_address.host or '0.0.0.0'}:{port}", observe=settings.observe)  # noqa: S104 - shown, not bound
        background: list[asyncio.Task[None]] = [
            asyncio.create_task(runner, name=name)
            for name, runner in (
                ("group", self._watch_group()),
                ("streams", self._streams.run()),
                *((kind.resource, reflector.run()) for kind, reflector in self._watched.items()),
                ("secrets", self._credentials.run()),
                ("registries", self._registries.run()),
                *((("images", self._images.run()),) if self._images else ()),
                ("events", self._recorder.run()),
                ("leadership", self._leadership.lead(self._work)),
            )
        ]
        stopping = asyncio.create_task(stop.wait(), name="stop")
        try:
            done, _ = await asyncio.wait([*background, stopping], return_when=asyncio.FIRST_COMPLETED)
            for task in done - {stopping}:
                task.result()
                raise RuntimeError(f"{task.get_name()} ended")
        finally:
            stopping.cancel()
            await self._end(background, server)

    async def _end(self, background: list[asyncio.Task[None]], server: http.Runner) -> None:
        """First the work and its lease, so that another replica takes over; then Events that wait; then the rest."""
        *watching, recording, leading = background
        grace = self._settings.shutdown_grace.total_seconds()
        try:
            async with asyncio.timeout(grace):
                await _cancelled(leading)
                await self._recorder.flush()
        except TimeoutError:
            log.warning("not everything could be finished in time", seconds=grace)
        await _cancelled(*watching, recording, leading)
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
        await self._registries_read()
        await self._credentials_known()
        # Another process has written until now. A watch that lags would show us yesterday's digests, and roll back to
        # them; from here on we are the only writer, and keep what we write.
        await self._streams.relist()
        self._leading_since = self._clock()
        self._unplanned = {ObjectKey(*key) for key in self._streams.store}
        quota = Quota(self._clock, lambda host: rule_of(self._policy, host), self._note_quota)
        client = RegistryClient(
            Reach.of(lambda: self._policy),
            clock=self._clock,
            timeouts=timeouts_of(self._settings),
            quota=quota,
            on_request=_count_registry_request,
        )
        lanes: Lanes[Any] = Lanes(
            client.answer,
            clock=self._clock,
            ready=self._answered,
            quota=quota,
            limits=Limits(
                concurrency=self._settings.lane_concurrency,
                lanes=self._settings.max_lanes,
                settle=self._settings.settle.total_seconds(),
            ),
            on_throttle=_count_throttle,
        )
        importer = self._importer = Importer(
            lanes=lanes,
            credentials=self._credentials_of,
            publish=self._publish,
            announce=self._announce_stream,
            clock=self._clock,
            rules=import_rules_of(self._settings, self._policy),
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
            rules=trigger_rules_of(self._settings, self._policy),
            is_observing=self._settings.observe,
            later=lambda key: self._workload_queue.add_later(key, _LOOK_AGAIN),
        )
        describer = self._describer = self._new_describer(lanes)
        clock = start_clock(self._schedule, self._chores(importer, describer))
        metrics.leader.set(1)
        log.info("working", identity=self._identity, watermark=watermark and watermark.isoformat())
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(lanes.run(), name="lanes")
                for _ in range(self._settings.workers):
                    tasks.create_task(self._stream_queue.work(self._reconcile_stream(streams)))
                    tasks.create_task(self._workload_queue.work(triggers.reconcile))
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
            self._schedule.clear()
            metrics.overdue.clear()
            metrics.registry_quota.clear()
            await client.close()

    async def _registries_read(self) -> None:
        """Wait until it is known what an administrator says of registries: what cannot be read may forbid some."""
        await self._registries.synced.wait()
        self._registries.reload_file()  # it may have been edited a moment ago
        if self._registries.unread:
            log.warning("nothing is imported yet", reason=self._registries.obstacle)
        await self._registries.wait_until_read()

    async def _credentials_known(self) -> None:
        """Wait a while for the pull secrets to be known, lest the first round of each stream reads them by itself."""
        try:
            async with asyncio.timeout(_CREDENTIALS_PATIENCE):
                await self._credentials.synced()
        except TimeoutError:
            log.warning("pull secrets are not known yet, and read when needed", seconds=_CREDENTIALS_PATIENCE)

    def _new_describer(self, lanes: Lanes[Any]) -> ImageReconciler | None:
        if self._images is None:
            return None
        settings = self._settings
        return ImageReconciler(
            streams=self._streams,
            images=self._images,
            lanes=lanes,
            places=lambda reference, insecure: places_for(self._policy, reference, insecure=insecure),
            credentials=self._credentials_of,
            announce=self._announce_on_stream,
            enqueue=self._image_queue.add,
            later=self._image_queue.add_later,
            clock=self._clock,
            limits=ImageLimits(settings.image_object_budget, settings.image_object_grace),
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

    def _credentials_of(self, stream: ImageStream) -> Awaitable[tuple[Entry, ...]]:
        return self._credentials.entries(stream.metadata.namespace, stream.pull_secrets)

    def _answered(self, key: ObjectKey | ImageKey) -> None:
        """The lanes have answers for the key."""
        if isinstance(key, ImageKey):
            self._image_queue.add(key)
        else:
            self._stream_queue.add(key)

    def _note_quota(self, host: str, account: str, remaining: int) -> None:
        metrics.registry_quota.labels(metrics.registry_label(host), account).set(remaining)
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

    def _registries_changed(self) -> None:
        """What is said of registries is another: everything is looked at again with it."""
        self._policy = policy_of(self._base_policy, *self._registries.layers)
        if self._importer is None or self._triggers is None:
            return
        self._importer.use(import_rules_of(self._settings, self._policy))
        self._triggers.use(trigger_rules_of(self._settings, self._policy))
        self._enqueue_everything(AGAIN)

    def _registries_problem(self, source: SourceName, problem: str | None) -> None:
        metrics.registries_config_valid.labels(source).set(0 if problem else 1)
        if problem and source == "configmap":
            settings = self._settings
            involved = Involved("v1", "ConfigMap", settings.lease_namespace, settings.registries_configmap, "")
            self._recorder.record(involved, "Warning", "RegistriesNotRead", problem)

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

    def _announce_workload(self, workload: Workload, type_: EventType, reason: str, message: str) -> None:
        kind, key = workload.kind, workload.key
        involved = Involved(
            kind.api_version, kind.kind, key.namespace, key.name, workload.uid, workload.resource_version
        )
        self._recorder.record(involved, type_, reason, message)

    def _malformed_secret(self, namespace: str, name: str, message: str) -> None:
        log.warning("pull secret ignored", namespace=namespace, secret=name, reason=message)
        self._recorder.record(Involved("v1", "Secret", namespace, name, ""), "Warning", "MalformedPullSecret", message)

    # --- health ---

    def problems(self) -> dict[str, str]:
        """What keeps this replica from being ready, by check. One that waits for the lease is ready to take over."""
        found = {
            "caches": self._caches_problem(),
            "api-server": self._api_problem(),
            "registries": self._registries.obstacle,
            "pull-secrets": self._credentials.problem,
        }
        return {check: problem for check, problem in found.items() if problem}

    def _caches_problem(self) -> str | None:
        """Why the caches are not synced, in the words of the first that is not."""
        stores = [(self._streams.store.synced, self._streams.problem)]
        stores += [(reflector.store.synced, reflector.problem) for reflector in self._watched.values()]
        return next((problem or "not synced yet" for synced, problem in stores if not synced.is_set()), None)

    def _api_problem(self) -> str | None:
        # The Lease is asked every few seconds, a watch may be silent for minutes.
        problems = [self._leadership.problem, self._streams.problem]
        problems += [reflector.problem for reflector in self._watched.values()]
        return next((problem for problem in problems if problem), None)


def _install_secret_of(settings: Settings) -> InstallSecret | None:
    if not settings.install_secret:
        return None
    whom = InstallWide(settings.install_secret_namespace, settings.install_secret_repository)
    return InstallSecret(settings.lease_namespace, settings.install_secret, whom)


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


def _count_registry_request(host: str, method: str, kind: str, code: str, seconds: float) -> None:
    registry = metrics.registry_label(host)
    metrics.registry_requests.labels(registry, method, kind, code).inc()
    metrics.registry_request_duration.labels(registry, kind).observe(seconds)
    if kind == "token":
        metrics.token_fetches.labels(registry).inc()


def _count_throttle(host: str, cause: str) -> None:
    metrics.registry_throttled.labels(metrics.registry_label(host), cause).inc()
