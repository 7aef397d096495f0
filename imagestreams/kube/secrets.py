"""Which credentials a stream has for registries: pull secrets, read when needed.

`Credentials` is the front, in one of two modes:

- namespace: all secrets of the two pull types in the stream's namespace, as on OpenShift. They are watched, but by
  their metadata alone: the watch says *that* one has changed, and only the namespaces in which streams ask have their
  secrets read. What is kept counts only if it equals, secret by secret, what the watch knows; while the watch is down
  nothing that is kept counts.
- linked: the secrets that the stream names, and those of the namespace's default service account. Each is fetched by
  its name at each use, so that the right to `get` is enough and a rotated one counts at the next use.

In both, a secret of the installation may serve those whom an administrator lists, after all that is their own.

Of a secret's annotations one name is looked at and no other is decoded: `last-applied-configuration` can hold the
secret itself.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import re
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass, field, replace
from operator import itemgetter
from typing import TYPE_CHECKING, Final, Generic, TypeVar

import msgspec
import structlog

from imagestreams.core.keychain import (
    DOCKER_CFG,
    DOCKER_CONFIG_JSON,
    Entry,
    InstallWide,
    MalformedSecret,
    parse_secret,
)
from imagestreams.core.reference import quoted
from imagestreams.kube.cluster import api_path
from imagestreams.kube.errors import Forbidden, NotFound, decoded
from imagestreams.kube.watch import METADATA_ONLY, Reflector, page_decoder

if TYPE_CHECKING:
    from imagestreams.kube.cluster import Cluster
    from imagestreams.kube.watch import Key

log = structlog.get_logger(__name__)

TYPES: Final = (DOCKER_CONFIG_JSON, DOCKER_CFG)
MAX_SECRETS: Final = 200  # of one namespace
MAX_ENTRIES: Final = 2000  # in them, about
MAX_NAMED: Final = 16  # that one stream may name, in mode linked
MAX_LINKED: Final = 32  # that and the service account's, together
_MAX_NAMESPACES = 1024
_MAX_REPORTED = 4096
_TOO_MANY = (
    f"secret {{!r}} and those after it are not looked at: a namespace may have {MAX_SECRETS} pull secrets "
    f"with {MAX_ENTRIES} logins"
)
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?")
_TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})


class _Annotations(msgspec.Struct, frozen=True, gc=False):
    exclude: str = msgspec.field(default="", name="openshift.io/image.excludeSecret")


class _Metadata(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    name: str
    namespace: str
    uid: str
    resource_version: str
    annotations: _Annotations | None = None


class _Watched(msgspec.Struct, frozen=True, gc=False):
    """What the watch knows of a secret."""

    metadata: _Metadata


class _Data(msgspec.Struct, frozen=True, gc=False):
    config_json: str = msgspec.field(default="", name=".dockerconfigjson")
    cfg: str = msgspec.field(default="", name=".dockercfg")

    def __repr__(self) -> str:
        return "_Data(...)"


class _Secret(msgspec.Struct, frozen=True, gc=False):
    metadata: _Metadata
    type: str = ""
    data: _Data | None = None


class _Named(msgspec.Struct, frozen=True, gc=False):
    name: str = ""


class _ServiceAccount(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    image_pull_secrets: tuple[_Named, ...] | None = None


_WATCHED = msgspec.json.Decoder(_Watched)
_page = page_decoder(_Watched, whole="secrets")
_SECRET = msgspec.json.Decoder(_Secret)
_SERVICE_ACCOUNT = msgspec.json.Decoder(_ServiceAccount)

_K = TypeVar("_K", bound=Hashable)
_T = TypeVar("_T")

Versions = dict[tuple[str, str], tuple[str, str]]
"""uid and resourceVersion of secrets by their type and name."""


class _Shared(Generic[_K, _T]):
    """Reads under way: whoever asks for the same meanwhile gets that answer. Nothing is kept for later."""

    def __init__(self) -> None:
        self._under_way: dict[_K, asyncio.Task[_T]] = {}

    def __len__(self) -> int:
        return len(self._under_way)

    async def get(self, key: _K, read: Callable[[], Coroutine[None, None, _T]]) -> _T:
        """The answer of the read under way, or of `read`. Who asked first may go: it is still for the others."""
        reading = self._under_way.get(key)
        if reading is None:
            reading = self._under_way[key] = asyncio.create_task(read())
            reading.add_done_callback(lambda done: self._over(key, done))
        return await asyncio.shield(reading)

    def outdate(self, key: _K) -> None:
        """What is under way may be from before a change: it is for those who wait for it already, and for no other."""
        self._under_way.pop(key, None)

    def _over(self, key: _K, reading: asyncio.Task[_T]) -> None:
        if self._under_way.get(key) is reading:
            del self._under_way[key]
        if not reading.cancelled():
            reading.exception()  # whoever asked may have gone


@dataclass(slots=True)
class _Read:
    """What a namespace's secrets hold. It is complete unless there is more in them than we are ready to keep."""

    versions: Versions = field(default_factory=dict)
    logins: list[tuple[str, tuple[Entry, ...]]] = field(default_factory=list)
    count: int = 0
    is_complete: bool = True

    def add(self, secret: _Secret, entries: tuple[Entry, ...]) -> None:
        metadata = secret.metadata
        self.versions[secret.type, metadata.name] = metadata.uid, metadata.resource_version
        self.logins.append((metadata.name, entries))
        self.count += len(entries)

    @property
    def is_full(self) -> bool:
        return len(self.versions) >= MAX_SECRETS or self.count >= MAX_ENTRIES


@dataclass(frozen=True, slots=True)
class _Kept:
    versions: Versions
    is_complete: bool
    entries: tuple[Entry, ...]

    def is_current(self, present: Versions) -> bool:
        return self.versions == present if self.is_complete else self.versions.items() <= present.items()


class _Reader:
    """Makes entries of secrets, and says what is wrong with one: once for each version of it."""

    def __init__(self, on_malformed: Callable[[str, str, str], None] | None) -> None:
        self._on_malformed = on_malformed
        self._reported: OrderedDict[tuple[str, str, str], str] = OrderedDict()

    def parsed(self, secret: _Secret) -> tuple[Entry, ...]:
        metadata = secret.metadata
        if metadata.annotations and metadata.annotations.exclude in _TRUE:
            return ()
        data = secret.data or _Data()
        payload = data.config_json if secret.type == DOCKER_CONFIG_JSON else data.cfg
        try:
            entries, notes = parse_secret(metadata.name, secret.type, base64.b64decode(payload, validate=True))
        except MalformedSecret as error:
            self._report_version(metadata, str(error))
            return ()
        except binascii.Error:
            self._report_version(metadata, f"secret {metadata.name!r} is not usable: its data is not base64")
            return ()
        if notes:
            self._report_version(metadata, "; ".join(notes))
        else:
            self.forget(metadata.namespace, metadata.name)
        return entries

    def report(self, namespace: str, name: str, version: str, message: str, *, about: str = "") -> None:
        """Tell it, unless it was the last that was told of this secret. `version` is any word for its state."""
        key = (namespace, name, about)
        if self._reported.get(key) == version:
            return
        self._reported[key] = version
        self._reported.move_to_end(key)
        if len(self._reported) > _MAX_REPORTED:
            self._reported.popitem(last=False)
        if self._on_malformed:
            self._on_malformed(namespace, name, message)

    def report_crowd(self, namespace: str, name: str, message: str) -> None:
        """Tell, once, that this secret and others are too many: whatever else there is to tell of it."""
        self.report(namespace, name, "", message, about="crowd")

    def forget(self, namespace: str, name: str) -> None:
        """All is well with it: what was told before would be news again."""
        self._reported.pop((namespace, name, ""), None)

    def _report_version(self, metadata: _Metadata, message: str) -> None:
        self.report(metadata.namespace, metadata.name, metadata.resource_version, message)


class NamespaceCredentials:
    """The credentials that namespaces' pull secrets hold; `run` keeps them fresh.

    Args:
        on_malformed: told namespace, name and what is wrong (never content) of a secret that cannot be read, once per
            version of it. It is ignored.
        on_change: told the namespace of a pull secret that is new, changed or gone.
    """

    def __init__(
        self,
        cluster: Cluster,
        *,
        on_malformed: Callable[[str, str, str], None] | None = None,
        on_change: Callable[[str], None] | None = None,
    ) -> None:
        self._cluster = cluster
        self._reader = _Reader(on_malformed)
        self._on_change = on_change
        self._troubled = asyncio.Event()
        self._watches = {secret_type: self._reflector(secret_type) for secret_type in TYPES}
        self._watched: dict[str, Versions] = {}
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._reading: _Shared[str, _Kept] = _Shared()
        self._read_early: set[str] = set()  # namespaces that were read before the watch knew them

    @property
    def problem(self) -> str | None:
        """Why secrets are read anew each time, for people; None while they are watched."""
        return next((watch.problem for watch in self._watches.values() if watch.problem), None)

    async def run(self) -> None:
        """Watch, until cancelled."""
        async with asyncio.TaskGroup() as group:
            for watch in self._watches.values():
                group.create_task(watch.run())
            await self._all_known()
            self._read_early.clear()

    async def synced(self) -> None:
        """Wait until all pull secrets are known, or that they cannot be watched; until then `entries` reads them each
        time.
        """
        either = [asyncio.ensure_future(self._all_known()), asyncio.ensure_future(self._troubled.wait())]
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in either:
                each.cancel()

    async def _all_known(self) -> None:
        for watch in self._watches.values():
            await watch.store.synced.wait()

    async def entries(self, namespace: str) -> tuple[Entry, ...]:
        """All credentials of a namespace, in the order of the secrets' names.

        Raises:
            ApiError: the secrets cannot be read.
        """
        return (await self._present(namespace)).entries

    async def of_secret(self, namespace: str, name: str) -> tuple[Entry, ...] | None:
        """The credentials of one pull secret; None if there is none of that name."""
        present = await self._present(namespace)
        if not any(name == known for _, known in present.versions):
            return None
        return tuple(entry for entry in present.entries if entry.credential.secret == name)

    async def _present(self, namespace: str) -> _Kept:
        kept = self._kept.get(namespace)
        if kept and self._is_live() and kept.is_current(self._watched.get(namespace, {})):
            self._kept.move_to_end(namespace)
            return kept
        if not all(watch.store.synced.is_set() for watch in self._watches.values()):
            self._read_early.add(namespace)
        return await self._reading.get(namespace, lambda: self._read_to_keep(namespace))

    async def _read_to_keep(self, namespace: str) -> _Kept:
        read = await self._read(namespace)
        entries = tuple(entry for _, entries in sorted(read.logins, key=itemgetter(0)) for entry in entries)
        kept = _Kept(read.versions, read.is_complete, entries)
        self._keep(namespace, kept)
        return kept

    def _is_live(self) -> bool:
        return all(watch.live and watch.store.synced.is_set() for watch in self._watches.values())

    def _keep(self, namespace: str, kept: _Kept) -> None:
        self._kept[namespace] = kept
        self._kept.move_to_end(namespace)
        if len(self._kept) > _MAX_NAMESPACES:
            self._kept.popitem(last=False)

    async def _read(self, namespace: str) -> _Read:
        path, read = api_path("v1", "secrets", namespace), _Read()
        for secret_type in TYPES:
            listed = self._cluster.objects(path, params={"fieldSelector": f"type={secret_type}"})
            async with contextlib.aclosing(listed):
                async for body in listed:
                    secret = decoded(_SECRET, body, "secrets")
                    if read.is_full:
                        read.is_complete = False
                        name = secret.metadata.name
                        self._reader.report_crowd(namespace, name, _TOO_MANY.format(name))
                        return read
                    read.add(secret, self._reader.parsed(secret))
        return read

    def _reflector(self, secret_type: str) -> Reflector[_Watched]:
        def changed(key: Key, _: _Watched | None, new: _Watched | None) -> None:
            self._changed(secret_type, key, new)

        return Reflector(
            self._cluster,
            api_path("v1", "secrets"),
            params={"fieldSelector": f"type={secret_type}"},
            accept=METADATA_ONLY,
            decode_list=_page,
            decode_object=_WATCHED.decode,
            key=lambda watched: (watched.metadata.namespace, watched.metadata.name),
            resource_version=lambda watched: watched.metadata.resource_version,
            on_change=changed,
            on_problem=lambda problem: self._troubled.set() if problem else None,
        )

    def _changed(self, secret_type: str, key: Key, new: _Watched | None) -> None:
        namespace, name = key
        known = self._watched.setdefault(namespace, {})
        if new is None:
            known.pop((secret_type, name), None)
        else:
            known[secret_type, name] = (new.metadata.uid, new.metadata.resource_version)
        if not known:
            del self._watched[namespace]
        kept = self._kept.get(namespace)
        is_read = kept is not None and kept.versions.get((secret_type, name)) == known.get((secret_type, name))
        if not is_read:
            self._kept.pop(namespace, None)
            self._reading.outdate(namespace)
        if not self._watches[secret_type].store.synced.is_set():
            # The first list tells of everything: only what was not there when somebody asked is news, once.
            if is_read or namespace not in self._read_early:
                return
            self._read_early.discard(namespace)
        if self._on_change:
            self._on_change(namespace)


class LinkedCredentials:
    """The credentials of secrets that somebody has named for the use: streams, and namespaces' service accounts.

    Args:
        on_malformed: told namespace, name and what is wrong (never content) of a secret that cannot be used: absent,
            not to be read by us, of another type, malformed. Once, until that changes. It is ignored.
    """

    def __init__(self, cluster: Cluster, *, on_malformed: Callable[[str, str, str], None] | None = None) -> None:
        self._cluster = cluster
        self._reader = _Reader(on_malformed)
        self._reading: _Shared[tuple[str, ...], tuple[Entry, ...] | None] = _Shared()
        self._is_said = False

    async def entries(self, namespace: str, names: tuple[str, ...] = ()) -> tuple[Entry, ...]:
        """The credentials of the named secrets, then those of the default service account's.

        Whoever asks the same while it is being read gets that answer; nothing is kept for later.

        Raises:
            ApiError: the API server does not answer. What it refuses, or does not have, is told and left out.
        """
        return await self._reading.get(("entries", namespace, *names), lambda: self._read(namespace, names)) or ()

    async def of_secret(self, namespace: str, name: str) -> tuple[Entry, ...] | None:
        """The credentials of one secret; None if there is none that we can read."""
        return await self._reading.get(("secret", namespace, name), lambda: self._read_secret(namespace, name))

    async def _read(self, namespace: str, names: tuple[str, ...]) -> tuple[Entry, ...]:
        # Those that the stream names have their own limit: whoever names many hides none of the service account's.
        linked = await self._of_service_account(namespace)
        wanted = tuple(dict.fromkeys((*names[:MAX_NAMED], *linked)))
        for unread, limit in ((names[MAX_NAMED:], MAX_NAMED), (wanted[MAX_LINKED:], MAX_LINKED)):
            if unread:
                words = f"secret {quoted(unread[0])} and those named after it are not looked at: {limit} are allowed"
                self._reader.report_crowd(namespace, unread[0], words)
        entries: list[Entry] = []
        for name in wanted[:MAX_LINKED]:
            entries += await self.of_secret(namespace, name) or ()
            if len(entries) >= MAX_ENTRIES:
                words = f"secrets named after {quoted(name)} are not looked at: {MAX_ENTRIES} logins are allowed"
                self._reader.report_crowd(namespace, name, words)
                break
        return tuple(entries)

    async def _read_secret(self, namespace: str, name: str) -> tuple[Entry, ...] | None:
        if _NAME.fullmatch(name) is None:
            self._reader.report(namespace, name, "no name", f"{quoted(name)} cannot be the name of a secret")
            return None
        try:
            body = await self._cluster.get(api_path("v1", "secrets", namespace, name))
        except NotFound:
            self._reader.report(namespace, name, "absent", f"secret {quoted(name)} is named for pulls, but not there")
            return None
        except Forbidden as error:
            words = f"secret {quoted(name)} is named for pulls, but the controller may not read it: {error}"
            self._reader.report(namespace, name, "forbidden", words)
            return None
        return self._reader.parsed(decoded(_SECRET, body, "secrets"))

    async def _of_service_account(self, namespace: str) -> tuple[str, ...]:
        try:
            body = await self._cluster.get(api_path("v1", "serviceaccounts", namespace, "default"))
        except NotFound:
            return ()
        except Forbidden as error:
            if not self._is_said:
                log.warning(
                    "service accounts cannot be read; only secrets that streams name are used", reason=str(error)
                )
            self._is_said = True
            return ()
        linked = decoded(_SERVICE_ACCOUNT, body, "serviceaccounts").image_pull_secrets or ()
        return tuple(each.name for each in linked if each.name)


@dataclass(frozen=True, slots=True)
class InstallSecret:
    """The installation's own pull secret, and whom it serves."""

    namespace: str
    name: str
    whom: InstallWide


class Credentials:
    """The credentials that a stream has, its own and the installation's.

    Args:
        is_linked: only secrets that are named for it count, not all of the namespace.
        install: the installation's secret, if there is one.
        on_malformed: told namespace, name and what is wrong (never content) of a secret that is ignored, once per
            version of it.
        on_change: told the namespace of a pull secret that is new, changed or gone; None when it may be the
            installation's. In mode linked nothing is watched: only the installation's is told of, at its next use.
    """

    def __init__(
        self,
        cluster: Cluster,
        *,
        is_linked: bool = False,
        install: InstallSecret | None = None,
        on_malformed: Callable[[str, str, str], None] | None = None,
        on_change: Callable[[str | None], None] | None = None,
    ) -> None:
        self._install = install
        self._on_change = on_change
        self._reader = _Reader(on_malformed)
        self._source: NamespaceCredentials | LinkedCredentials = (
            LinkedCredentials(cluster, on_malformed=on_malformed)
            if is_linked
            else NamespaceCredentials(cluster, on_malformed=on_malformed, on_change=self._changed)
        )
        self._installed: tuple[Entry, ...] | None = None

    @property
    def problem(self) -> str | None:
        """Why secrets are not watched, for people; None while all is well.

        In mode linked rights may differ from one namespace to the next: what is missing in one is told there.
        """
        return self._source.problem if isinstance(self._source, NamespaceCredentials) else None

    async def run(self) -> None:
        """Keep what is known fresh, until cancelled."""
        if isinstance(self._source, NamespaceCredentials):
            await self._source.run()
        await asyncio.Event().wait()

    async def synced(self) -> None:
        """Wait until all pull secrets are known, where they are watched, or that they cannot be."""
        if isinstance(self._source, NamespaceCredentials):
            await self._source.synced()

    async def entries(self, namespace: str, names: tuple[str, ...] = ()) -> tuple[Entry, ...]:
        """All credentials for streams of a namespace, the installation's last.

        Args:
            namespace: the stream's.
            names: of secrets that the stream names, in its order; they count in mode linked.

        Raises:
            ApiError: secrets cannot be read.
        """
        if isinstance(self._source, LinkedCredentials):
            own = await self._source.entries(namespace, names)
        else:
            own = await self._source.entries(namespace)
        return (*own, *await self._of_installation(namespace))

    async def _of_installation(self, namespace: str) -> tuple[Entry, ...]:
        install = self._install
        if install is None or not install.whom.serves_namespace(namespace):
            return ()
        read = await self._source.of_secret(install.namespace, install.name)
        if read is None and isinstance(self._source, NamespaceCredentials):
            words = f"secret {quoted(install.name)} is the installation's, but not there, or of no pull type"
            self._reader.report(install.namespace, install.name, "absent", words)
        elif read is not None:
            self._reader.forget(install.namespace, install.name)
        known, self._installed = self._installed, read or ()
        # Where nothing is watched, this is how its rotation is noticed.
        is_news = isinstance(self._source, LinkedCredentials) and known is not None and known != self._installed
        if is_news and self._on_change:
            self._on_change(None)
        # Its name alone would be looked for in the namespace of whoever reads it in a message.
        whole = f"{install.namespace}/{install.name}"
        named = (replace(entry, credential=replace(entry.credential, secret=whole)) for entry in self._installed)
        return install.whom.confined(namespace, named)

    def _changed(self, namespace: str) -> None:
        if self._on_change is None:
            return
        self._on_change(namespace)
        if self._install is not None and namespace == self._install.namespace:
            self._on_change(None)
