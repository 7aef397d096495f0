"""Which credentials a namespace has for registries: its secrets of the two pull types, read when needed and kept
while they are unchanged.

All pull secrets are watched, but by their metadata alone: the watch says *that* one has changed, and only the
namespaces in which streams ask have their secrets read. What is kept counts only if it equals, secret by secret, what
the watch knows; while the watch is down nothing that is kept counts.

Of a secret's annotations one name is looked at and no other is decoded: `last-applied-configuration` can hold the
secret itself.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from operator import itemgetter
from typing import TYPE_CHECKING, Final

import msgspec

from imagestreams.core.keychain import DOCKER_CFG, DOCKER_CONFIG_JSON, Entry, MalformedSecret, parse_secret
from imagestreams.kube.cluster import ListMetadata, api_path
from imagestreams.kube.errors import decoded
from imagestreams.kube.watch import METADATA_ONLY, Page, Reflector

if TYPE_CHECKING:
    from imagestreams.kube.cluster import Cluster
    from imagestreams.kube.watch import Key

TYPES: Final = (DOCKER_CONFIG_JSON, DOCKER_CFG)
MAX_SECRETS: Final = 200  # of one namespace
MAX_ENTRIES: Final = 2000  # in them, about
_MAX_NAMESPACES = 1024
_MAX_REPORTED = 4096
_TOO_MANY = (
    f"secret {{!r}} and those after it are not looked at: a namespace may have {MAX_SECRETS} pull secrets "
    f"with {MAX_ENTRIES} logins"
)
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


class _WatchedList(msgspec.Struct, frozen=True):
    metadata: ListMetadata
    items: tuple[_Watched, ...] | None = None


class _Data(msgspec.Struct, frozen=True, gc=False):
    config_json: str = msgspec.field(default="", name=".dockerconfigjson")
    cfg: str = msgspec.field(default="", name=".dockercfg")

    def __repr__(self) -> str:
        return "_Data(...)"


class _Secret(msgspec.Struct, frozen=True, gc=False):
    metadata: _Metadata
    type: str
    data: _Data | None = None


_WATCHED = msgspec.json.Decoder(_Watched)
_WATCHED_LIST = msgspec.json.Decoder(_WatchedList)
_SECRET = msgspec.json.Decoder(_Secret)

Versions = dict[tuple[str, str], tuple[str, str]]
"""uid and resourceVersion of secrets by their type and name."""


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
        self._on_malformed = on_malformed
        self._on_change = on_change
        self._watches = {secret_type: self._reflector(secret_type) for secret_type in TYPES}
        self._watched: dict[str, Versions] = {}
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._reported: OrderedDict[tuple[str, str], str] = OrderedDict()

    @property
    def problem(self) -> str | None:
        """Why secrets are read anew each time, for people; None while they are watched."""
        return next((watch.problem for watch in self._watches.values() if watch.problem), None)

    async def run(self) -> None:
        """Watch, until cancelled."""
        async with asyncio.TaskGroup() as group:
            for watch in self._watches.values():
                group.create_task(watch.run())

    async def synced(self) -> None:
        """Wait until all pull secrets are known; before that, `entries` reads them each time."""
        for watch in self._watches.values():
            await watch.store.synced.wait()

    async def entries(self, namespace: str) -> tuple[Entry, ...]:
        """All credentials of a namespace, in the order of the secrets' names.

        Raises:
            ApiError: the secrets cannot be read.
        """
        kept = self._kept.get(namespace)
        if kept and self._is_live() and kept.is_current(self._watched.get(namespace, {})):
            self._kept.move_to_end(namespace)
            return kept.entries
        read = await self._read(namespace)
        entries = tuple(entry for _, entries in sorted(read.logins, key=itemgetter(0)) for entry in entries)
        self._keep(namespace, _Kept(read.versions, read.is_complete, entries))
        return entries

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
                        self._report(secret.metadata, _TOO_MANY.format(secret.metadata.name))
                        return read
                    read.add(secret, self._parsed(secret))
        return read

    def _parsed(self, secret: _Secret) -> tuple[Entry, ...]:
        metadata = secret.metadata
        if metadata.annotations and metadata.annotations.exclude in _TRUE:
            return ()
        data = secret.data or _Data()
        payload = data.config_json if secret.type == DOCKER_CONFIG_JSON else data.cfg
        try:
            return parse_secret(metadata.name, secret.type, base64.b64decode(payload, validate=True))
        except MalformedSecret as error:
            self._report(metadata, str(error))
        except binascii.Error:
            self._report(metadata, f"secret {metadata.name!r} is not usable: its data is not base64")
        return ()

    def _report(self, metadata: _Metadata, message: str) -> None:
        key, version = (metadata.namespace, metadata.name), metadata.resource_version
        if self._reported.get(key) == version:
            return
        self._reported[key] = version
        self._reported.move_to_end(key)
        if len(self._reported) > _MAX_REPORTED:
            self._reported.popitem(last=False)
        if self._on_malformed:
            self._on_malformed(metadata.namespace, metadata.name, message)

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
        self._kept.pop(namespace, None)
        # The first list tells of everything: that is no news.
        if self._on_change and self._watches[secret_type].store.synced.is_set():
            self._on_change(namespace)


def _page(body: bytes) -> Page[_Watched]:
    listed = decoded(_WATCHED_LIST, body, "secrets")
    return Page(listed.items or (), listed.metadata.resource_version, listed.metadata.continue_)
