"""What a cluster and a file say of registries, kept fresh: the ConfigMap and the file of an administrator, the mirror
sets that OpenShift's nodes go by, and what a development cluster says of its local registry.

An edit that cannot be read changes nothing: what was read last holds on, and `problems` says so. What the cluster does
not have, or does not let us read, is as if it said nothing; but not the administrator's ConfigMap, which may forbid
registries: until it is known, no registry may be asked.
"""

from __future__ import annotations

import asyncio
import random
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

import msgspec
import structlog

from imagestreams.core.document import MAX_TEXT
from imagestreams.core.registries import (
    DOCUMENT_KEY,
    HOSTING_KEY,
    InvalidRegistries,
    Registries,
    local_registry_hosting,
    mirror_sets,
    parse_registries,
)
from imagestreams.kube.cluster import api_path
from imagestreams.kube.errors import ApiError, Forbidden, NotFound
from imagestreams.kube.watch import Page, Reflector, page_decoder

if TYPE_CHECKING:
    from imagestreams.kube.cluster import Cluster
    from imagestreams.kube.watch import Key, OnChange

log = structlog.get_logger(__name__)

SourceName = Literal["file", "configmap", "mirror-sets", "local-registry-hosting"]
"""Where it is said; a closed set, fit for a metric's label."""

_ORDER: Final[tuple[SourceName, ...]] = ("file", "configmap", "mirror-sets", "local-registry-hosting")

CONFIG_GROUP: Final = "config.openshift.io/v1"
MIRROR_SETS: Final = ("imagedigestmirrorsets", "imagetagmirrorsets")
HOSTING: Final = ("kube-public", "local-registry-hosting")

# In seconds.
_LOOK_AGAIN = 60.0  # at what was not there or not allowed
_LOOK_AGAIN_SOON = 10.0  # at that without which nothing is imported
_RETRY = 2.0
_PATIENCE = 30.0  # with what may be missing, once it is known what the administrator says
_REREAD = 5.0  # the file

Read = Callable[[str], str]
Sleep = Callable[[float], Awaitable[object]]


class _Metadata(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    name: str
    namespace: str = ""
    resource_version: str = ""


class _ConfigMap(msgspec.Struct, frozen=True, gc=False):
    metadata: _Metadata
    data: dict[str, str] | None = None

    def __repr__(self) -> str:
        return "_ConfigMap(...)"  # a proxy's password may be in it


class _MirrorSet(msgspec.Struct, frozen=True):
    metadata: _Metadata
    spec: dict[str, object] | None = None


_CONFIG_MAP = msgspec.json.Decoder(_ConfigMap)
_config_maps = page_decoder(_ConfigMap, whole="configmaps")
_MIRROR_SET = msgspec.json.Decoder(_MirrorSet)
_mirror_sets = page_decoder(_MirrorSet, whole="mirror sets")

_T = TypeVar("_T", _ConfigMap, _MirrorSet)


class RegistrySources:
    """What is said of registries now: `layers`; `run` keeps it fresh.

    Args:
        cluster: the API server.
        namespace: of the ConfigMap.
        configmap_name: of the administrator's ConfigMap, empty for none.
        on_change: told after `layers` have changed, from the moment that `synced` is set.
        on_problem: told the source, and in words why what it says now is not used, or None once it is again. They hold
            no secret.
        registries_file: the administrator's file, empty for none; read again every few seconds.
        local_registry_hosting, mirror_sets: whether the cluster's own words are read.
        read_file: gives a file's text; raises OSError or UnicodeDecodeError.

    Attributes:
        synced: set once every source has been read, or is known not to be there. What an administrator did not write
            counts as not there when it cannot be read for a while.
    """

    def __init__(
        self,
        cluster: Cluster,
        namespace: str,
        configmap_name: str,
        *,
        on_change: Callable[[], None],
        on_problem: Callable[[SourceName, str | None], None] | None = None,
        registries_file: str = "",
        local_registry_hosting: bool = True,
        mirror_sets: bool = True,
        read_file: Read | None = None,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self.synced = asyncio.Event()
        self._cluster = cluster
        self._on_change = on_change
        self._on_problem = on_problem
        self._file = registries_file
        self._read_file = read_file or _read
        self._clock, self._chance, self._sleep = clock, chance, sleep
        self._layers: dict[SourceName, Registries] = {}
        self._faults: dict[SourceName, str] = {}  # of what a source says
        self._denied: dict[SourceName, str] = {}  # why it cannot be asked
        self._told: dict[SourceName, str] = {}
        self._is_read = asyncio.Event()
        self._seen: str | None = None
        self._sets: dict[tuple[str, str], Mapping[str, object]] = {}
        self._sets_are_due = False
        self._watches: list[_Watch] = []
        if configmap_name:
            self._watch_config_map(namespace, configmap_name, self._configmap_changed, is_required=True)
        if local_registry_hosting:
            self._watch_config_map(*HOSTING, self._hosting_changed)
        if mirror_sets:
            for resource in MIRROR_SETS:
                self._watch_mirror_sets(resource)

    @property
    def layers(self) -> tuple[Registries, ...]:
        """What is said, the least important first: file, ConfigMap, mirror sets, local registry."""
        return tuple(self._layers[name] for name in _ORDER if name in self._layers)

    @property
    def problems(self) -> Mapping[SourceName, str]:
        """Why what a source says now is not used, for people."""
        return {**self._faults, **self._denied}

    @property
    def unread(self) -> frozenset[SourceName]:
        """The administrator's documents that are there, or may be, and could never be read: what they block is not
        blocked.
        """
        documents: tuple[SourceName, ...] = ("file", "configmap")
        return frozenset(name for name in documents if name in self.problems and name not in self._layers)

    @property
    def obstacle(self) -> str | None:
        """Why it is not known what is said of registries, so that nothing may be imported, for people."""
        unread = [self.problems[name] for name in sorted(self.unread)]
        waiting = [watch.waits_for for watch in self._watches if not watch.known.is_set()]
        return "; ".join(unread + waiting) or (None if self.synced.is_set() else "not read yet")

    async def wait_until_read(self) -> None:
        """Return when `synced` is set and nothing is `unread`."""
        await self._is_read.wait()

    async def run(self) -> None:
        """Watch, until cancelled."""
        self.reload_file()
        async with asyncio.TaskGroup() as group:
            for watch in self._watches:
                group.create_task(watch.run())
            if self._file:
                group.create_task(self._keep_file_fresh())
            await self._all_known()
            self.synced.set()
            self._note_whether_read()
            if self._layers:
                self._on_change()
            await asyncio.Event().wait()

    async def _all_known(self) -> None:
        for watch in self._watches:
            if watch.is_required:
                await watch.known.wait()
        try:
            async with asyncio.timeout(_PATIENCE):
                for watch in self._watches:
                    await watch.known.wait()
        except TimeoutError:
            for watch in self._watches:
                watch.do_without()

    async def _keep_file_fresh(self) -> None:
        while True:
            await self._sleep(_REREAD)
            self.reload_file()

    def reload_file(self) -> bool:
        """Read the file again if it has changed; returns whether `layers` did. `run` does so every few seconds."""
        if not self._file:
            return False
        try:
            text = self._read_file(self._file)
        except (OSError, UnicodeDecodeError) as error:
            self._seen = None
            words = error.strerror if isinstance(error, OSError) and error.strerror else "it is not UTF-8"
            self._say("file", f"{self._file} cannot be read: {words}")
            return False
        if text == self._seen:
            return False
        self._seen = text
        return self._take("file", lambda: _document(text), self._file)

    # --- what has changed

    def _configmap_changed(self, data: Mapping[str, str] | None, what: str) -> None:
        if data is None:
            self._gone("configmap")
        elif DOCUMENT_KEY not in data:
            self._say("configmap", f"{what} has no key {DOCUMENT_KEY}; add it, or delete the ConfigMap")
        else:
            self._take("configmap", lambda: _document(data[DOCUMENT_KEY]), what)

    def _hosting_changed(self, data: Mapping[str, str] | None, what: str) -> None:
        if data is None or HOSTING_KEY not in data:
            self._gone("local-registry-hosting")
        else:
            self._take("local-registry-hosting", lambda: local_registry_hosting(data[HOSTING_KEY]), what)

    def _sets_changed(self) -> None:
        self._sets_are_due = False
        read = mirror_sets(self._sets.values())
        self._say("mirror-sets", "; ".join(read.problems[:10]) or None)
        self._set("mirror-sets", read.registries if read.registries.mirrors else None)

    def _take(self, name: SourceName, read: Callable[[], Registries], what: str) -> bool:
        try:
            registries = read()
        except InvalidRegistries as error:
            self._say(name, f"{what}: {error}")
            return False
        self._say(name, None)
        return self._set(name, registries)

    def _gone(self, name: SourceName) -> None:
        self._say(name, None)
        self._set(name, None)

    def _set(self, name: SourceName, registries: Registries | None) -> bool:
        if self._layers.get(name) == registries:
            return False
        if registries is None:
            del self._layers[name]
        else:
            self._layers[name] = registries
        self._note_whether_read()
        if self.synced.is_set():
            log.info("registries changed", source=name)
            self._on_change()
        return True

    def _say(self, name: SourceName, fault: str | None) -> None:
        """What a source says cannot be used, or can."""
        _put(self._faults, name, fault)
        self._tell(name)

    def _say_denied(self, name: SourceName, words: str | None) -> None:
        """The source cannot be asked, or can."""
        _put(self._denied, name, words)
        self._tell(name)

    def _tell(self, name: SourceName) -> None:
        problem = self.problems.get(name)
        self._note_whether_read()
        if problem == self._told.get(name):
            return
        _put(self._told, name, problem)
        if problem is None:
            log.info("registries are read again", source=name)
        else:
            log.warning("registries not read", source=name, reason=problem, kept=name in self._layers)
        if self._on_problem:
            self._on_problem(name, problem)

    def _note_whether_read(self) -> None:
        if self.synced.is_set() and not self.unread:
            self._is_read.set()
        else:
            self._is_read.clear()

    # --- watches

    def _watch_config_map(
        self,
        namespace: str,
        name: str,
        changed: Callable[[Mapping[str, str] | None, str], None],
        *,
        is_required: bool = False,
    ) -> None:
        what = f"ConfigMap {namespace}/{name}"

        def denied(error: ApiError | None) -> None:
            if error is None:
                self._say_denied("configmap", None)
                return
            way_out = "set --registries-configmap= (empty) if there is none"
            if isinstance(error, Forbidden):
                way_out = f"allow the controller to list and watch it, or {way_out}"
            self._say_denied("configmap", f"{what} cannot be read: {error}; {way_out}")

        def on_change(key: Key, _: _ConfigMap | None, new: _ConfigMap | None) -> None:
            if key == (namespace, name):
                changed(None if new is None else new.data or {}, what)

        def reflector(on_problem: Callable[[str | None], None]) -> Reflector[_ConfigMap]:
            return self._reflector(
                path,
                params,
                decode_list=_config_maps,
                decode_object=_CONFIG_MAP.decode,
                on_change=on_change,
                on_problem=on_problem,
            )

        path, params = api_path("v1", "configmaps", namespace), {"fieldSelector": f"metadata.name={name}"}
        on_denied = denied if is_required else None
        self._watches.append(
            _Watch(self._cluster, path, params, reflector, what=what, on_denied=on_denied, sleep=self._sleep)
        )

    def _watch_mirror_sets(self, resource: str) -> None:
        def on_change(key: Key, _: _MirrorSet | None, new: _MirrorSet | None) -> None:
            name = resource, key[1]
            if new is None:
                self._sets.pop(name, None)
            else:
                self._sets[name] = {"metadata": {"name": key[1]}, "spec": new.spec or {}}
            if not self._sets_are_due:  # once for all that a list or a batch of events brings
                self._sets_are_due = True
                asyncio.get_running_loop().call_soon(self._sets_changed)

        def reflector(on_problem: Callable[[str | None], None]) -> Reflector[_MirrorSet]:
            return self._reflector(
                path,
                {},
                decode_list=_mirror_sets,
                decode_object=_MIRROR_SET.decode,
                on_change=on_change,
                on_problem=on_problem,
            )

        path = api_path(CONFIG_GROUP, resource)
        self._watches.append(_Watch(self._cluster, path, {}, reflector, what=resource, sleep=self._sleep))

    def _reflector(
        self,
        path: str,
        params: Mapping[str, str],
        *,
        decode_list: Callable[[bytes], Page[_T]],
        decode_object: Callable[[bytes], _T],
        on_change: OnChange[_T],
        on_problem: Callable[[str | None], None],
    ) -> Reflector[_T]:
        return Reflector(
            self._cluster,
            path,
            params=params,
            decode_list=decode_list,
            decode_object=decode_object,
            key=lambda each: (each.metadata.namespace, each.metadata.name),
            resource_version=lambda each: each.metadata.resource_version,
            on_change=on_change,
            on_problem=on_problem,
            clock=self._clock,
            chance=self._chance,
            sleep=self._sleep,
        )


class _Watch:
    """Watches one collection where the cluster has it and lets us, and looks again every minute where not.

    Args:
        what: is read, for people.
        on_denied: where it is required, told the error that keeps us from reading it for good, or None once it is read.

    Attributes:
        known: set once it was read, or is known not to be readable.
    """

    def __init__(
        self,
        cluster: Cluster,
        path: str,
        params: Mapping[str, str],
        reflector: Callable[[Callable[[str | None], None]], Reflector[Any]],
        *,
        what: str,
        on_denied: Callable[[ApiError | None], None] | None = None,
        sleep: Sleep,
    ) -> None:
        self.known = asyncio.Event()
        self._cluster = cluster
        self._path = path
        self._params = params
        self._reflector = reflector
        self._what = what
        self._on_denied = on_denied
        self._sleep = sleep
        self._said = ""
        self._trouble: str | None = None

    @property
    def is_required(self) -> bool:
        return self._on_denied is not None

    @property
    def waits_for(self) -> str:
        """What keeps it from being known, for people."""
        return f"{self._what} cannot be read: {self._trouble}" if self._trouble else f"{self._what} is not read yet"

    def do_without(self) -> None:
        """Not to be waited for any longer: unless it is known, count it as not there until it can be read."""
        if not self.known.is_set():
            log.warning("not read, done without until it can be", resource=self._path, reason=self._trouble)
            self.known.set()

    async def run(self) -> None:
        while True:
            error = await self._ask()
            if error is None:
                self._said = ""
                await self._watch()
            elif error.retryable:
                self._say(error)
                await self._sleep(max(_RETRY, error.retry_after or 0.0))
            else:
                self._say(error)
                self._deny(error)
                await self._sleep(_LOOK_AGAIN_SOON if self.is_required else _LOOK_AGAIN)

    def _say(self, error: ApiError) -> None:
        """Log it once; again only if it comes to be another that does not pass by itself."""
        self._trouble = str(error)
        if not self._said or (self._said != self._trouble and not error.retryable):
            self._said = self._trouble
            say = log.warning if error.retryable else log.info
            say("not read", resource=self._path, reason=self._said)

    def _deny(self, error: ApiError) -> None:
        if self._on_denied:
            self._on_denied(error)
        self.known.set()

    async def _ask(self) -> ApiError | None:
        """What keeps us from listing, if anything does."""
        try:
            await self._cluster.get(self._path, {**self._params, "limit": "1"})
        except ApiError as error:
            return error
        return None

    async def _watch(self) -> None:
        """Watch until the cluster has no such kind any more; then nothing of it is there either."""
        troubled = asyncio.Event()

        def on_problem(problem: str | None) -> None:
            self._trouble = problem
            if problem:
                troubled.set()
            elif self._on_denied:
                self._on_denied(None)

        reflector = self._reflector(on_problem)
        tasks = [
            asyncio.create_task(reflector.run()),
            asyncio.create_task(self._when_synced(reflector)),
            asyncio.create_task(self._when_gone(reflector, troubled)),
        ]
        running, _, gone = tasks
        try:
            await asyncio.wait((running, gone), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        for task in (running, gone):
            if not task.cancelled():
                task.result()
        reflector.store.replace({}, 0)

    async def _when_synced(self, reflector: Reflector[Any]) -> None:
        await reflector.store.synced.wait()
        if self._on_denied:
            self._on_denied(None)
        self.known.set()

    async def _when_gone(self, reflector: Reflector[Any], troubled: asyncio.Event) -> None:
        while True:
            await troubled.wait()
            troubled.clear()
            while reflector.problem:
                error = await self._ask()
                if isinstance(error, NotFound) and not self.is_required:
                    return
                if error is not None and not error.retryable:
                    self._deny(error)  # what was known before, say before the right was taken away, holds on
                await self._sleep(_LOOK_AGAIN)


def _put(texts: dict[SourceName, str], name: SourceName, text: str | None) -> None:
    if text is None:
        texts.pop(name, None)
    else:
        texts[name] = text


def _document(text: str) -> Registries:
    """The document, with its certificates tried.

    Raises:
        InvalidRegistries: with every fault.
    """
    registries = parse_registries(text)
    faults = [
        f"hosts.{host}.ca: holds a certificate that cannot be used"
        for host, entry in registries.hosts.items()
        if entry.ca and not _is_usable(entry.ca)
    ]
    if faults:
        raise InvalidRegistries(faults)
    return registries


def _is_usable(certificates: str) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=certificates)
    except (ssl.SSLError, ValueError):
        return False
    return True


def _read(name: str) -> str:
    with Path(name).open("rb") as file:
        return file.read(4 * MAX_TEXT + 1).decode()
