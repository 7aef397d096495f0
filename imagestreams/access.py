"""All by which this process asks registries: the administrator's rules, the credentials, the client, the lanes.

It lives as long as the process. Webhooks ask through it on every replica, the controller only while it leads; in one
process they share tokens, limits and what was just answered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

import structlog

from imagestreams import metrics
from imagestreams.core.keychain import Entry, InstallWide
from imagestreams.core.policy import Policy, rule_of
from imagestreams.core.registries import policy_of
from imagestreams.kube.events import EventRecorder, Involved
from imagestreams.kube.registries import RegistrySources, SourceName
from imagestreams.kube.secrets import Credentials, InstallSecret
from imagestreams.registry.client import RegistryClient
from imagestreams.registry.lanes import Lanes, Limits
from imagestreams.registry.quota import Quota
from imagestreams.registry.transport import Reach
from imagestreams.rules import base_policy_of, timeouts_of

if TYPE_CHECKING:
    from imagestreams.core.stream import ImageStream
    from imagestreams.kube.cluster import Cluster
    from imagestreams.settings import Settings

log = structlog.get_logger(__name__)

_CREDENTIALS_PATIENCE = (
    10.0  # seconds, with the first list of pull secrets; without it they are read for each namespace
)


class RegistryAccess:
    """Made by `Controller`, within its event loop.

    Args:
        cluster: the API server.
        settings: checked.
        clock: aware, UTC.
        recorder: of Events.
        on_answers: told a key of the lanes when there are answers for it.
        on_policy: what is said of registries is another.
        on_secrets: pull secrets of a namespace have changed; the installation's, where none is named.
        on_quota: how many pulls a host leaves to a kind of account.
    """

    def __init__(
        self,
        cluster: Cluster,
        settings: Settings,
        *,
        clock: Callable[[], datetime],
        recorder: EventRecorder,
        on_answers: Callable[[Any], None],
        on_policy: Callable[[], None],
        on_secrets: Callable[[str | None], None],
        on_quota: Callable[[str, str, int], None],
    ) -> None:
        self._settings, self._recorder = settings, recorder
        self._on_policy, self._on_quota = on_policy, on_quota
        self._base_policy = self._policy = base_policy_of(settings, api_server=cluster.url)
        self._sources = RegistrySources(
            cluster,
            settings.lease_namespace,
            settings.registries_configmap,
            on_change=self._policy_changed,
            on_problem=self._note_problem,
            registries_file=settings.registries_file,
            local_registry_hosting=settings.local_registry_hosting,
            mirror_sets=settings.mirror_sets,
        )
        self._credentials = Credentials(
            cluster,
            is_linked=settings.pull_secrets == "linked",
            install=_install_secret_of(settings),
            on_malformed=self._note_malformed,
            on_change=on_secrets,
        )
        quota = Quota(clock, lambda host: rule_of(self._policy, host), self._note_quota)
        self._client = RegistryClient(
            Reach.of(lambda: self._policy),
            clock=clock,
            timeouts=timeouts_of(settings),
            quota=quota,
            on_request=_count_request,
        )
        self.lanes: Lanes[Any] = Lanes(
            self._client.answer,
            clock=clock,
            ready=on_answers,
            quota=quota,
            limits=Limits(
                concurrency=settings.lane_concurrency,
                lanes=settings.max_lanes,
                settle=settings.settle.total_seconds(),
            ),
            on_throttle=_count_throttle,
        )

    @property
    def policy(self) -> Policy:
        """The administrator's words as they are now."""
        return self._policy

    def tasks(self) -> Mapping[str, Coroutine[Any, Any, None]]:
        """What is to run as long as the process does, by name."""
        return {
            "secrets": self._credentials.run(),
            "registries": self._sources.run(),
            "lanes": self.lanes.run(),
        }

    async def close(self) -> None:
        await self._client.close()

    def credentials_of(self, stream: ImageStream) -> Awaitable[tuple[Entry, ...]]:
        """The pull secrets that the stream may use, decoded."""
        return self._credentials.entries(stream.metadata.namespace, stream.pull_secrets)

    async def wait_until_known(self) -> None:
        """Wait until it is known what an administrator says of registries, as what cannot be read may forbid some; and
        a while for the pull secrets, lest the first round of each stream reads them by itself.
        """
        await self._sources.synced.wait()
        self._sources.reload_file()  # it may have been edited a moment ago
        if self._sources.unread:
            log.warning("nothing is imported yet", reason=self._sources.obstacle)
        await self._sources.wait_until_read()
        try:
            async with asyncio.timeout(_CREDENTIALS_PATIENCE):
                await self._credentials.synced()
        except TimeoutError:
            log.warning("pull secrets are not known yet, and read when needed", seconds=_CREDENTIALS_PATIENCE)

    @property
    def is_known(self) -> bool:
        """Whether it is known what an administrator says of registries."""
        return self._sources.synced.is_set() and not self._sources.unread

    def problems(self) -> Iterable[tuple[str, str | None]]:
        """What keeps registries from being asked, by readiness check."""
        return ("registries", self._sources.obstacle), ("pull-secrets", self._credentials.problem)

    def _policy_changed(self) -> None:
        self._policy = policy_of(self._base_policy, *self._sources.layers)
        self._on_policy()

    def _note_problem(self, source: SourceName, problem: str | None) -> None:
        metrics.registries_config_valid.labels(source).set(0 if problem else 1)
        if problem and source == "configmap":
            settings = self._settings
            involved = Involved("v1", "ConfigMap", settings.lease_namespace, settings.registries_configmap, "")
            self._recorder.record(involved, "Warning", "RegistriesNotRead", problem)

    def _note_malformed(self, namespace: str, name: str, message: str) -> None:
        log.warning("pull secret ignored", namespace=namespace, secret=name, reason=message)
        self._recorder.record(Involved("v1", "Secret", namespace, name, ""), "Warning", "MalformedPullSecret", message)

    def _note_quota(self, host: str, account: str, remaining: int) -> None:
        metrics.registry_quota.labels(metrics.registry_label(host), account).set(remaining)
        self._on_quota(host, account, remaining)


def _install_secret_of(settings: Settings) -> InstallSecret | None:
    if not settings.install_secret:
        return None
    whom = InstallWide(settings.install_secret_namespace, settings.install_secret_repository)
    return InstallSecret(settings.lease_namespace, settings.install_secret, whom)


def _count_request(host: str, method: str, kind: str, code: str, seconds: float) -> None:
    registry = metrics.registry_label(host)
    metrics.registry_requests.labels(registry, method, kind, code).inc()
    metrics.registry_request_duration.labels(registry, kind).observe(seconds)
    if kind == "token":
        metrics.token_fetches.labels(registry).inc()


def _count_throttle(host: str, cause: str) -> None:
    metrics.registry_throttled.labels(metrics.registry_label(host), cause).inc()
