"""What webhooks need in the cluster: the Secret that their replicas share, a Secret of type kubernetes.io/tls that
somebody else keeps, and the webhook configurations by which API servers find and trust them.

All are read and written one by one, by name; watches only say that one of them has changed.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Literal
from urllib.parse import urlsplit

import msgspec

from imagestreams.core.admission import DOORS, PATH_PREFIX
from imagestreams.core.certificate import KeyPair, Keys
from imagestreams.kube.cluster import JSON_PATCH, api_path
from imagestreams.kube.errors import Conflict, Invalid, NotFound, decoded
from imagestreams.kube.events import Involved
from imagestreams.kube.watch import METADATA_ONLY, Reflector, page_decoder

if TYPE_CHECKING:
    from imagestreams.kube.cluster import Cluster
    from imagestreams.kube.watch import Key

ADMISSION_GROUP: Final = "admissionregistration.k8s.io/v1"
_DOMAIN: Final = ".imagestreams.dev"  # of the webhooks' names
_TOKEN_AT: Final = "imagestreams.dev/token-rotated"  # noqa: S105 - an annotation's name
_STAMP_KEY_AT: Final = "imagestreams.dev/stamp-key-rotated"
_TIMEOUT: Final = 10.0
_DOOR = re.compile(rf"{PATH_PREFIX}(?P<door>[a-z]+)(?:/.*)?", re.DOTALL)
_encode = msgspec.json.Encoder().encode

ConfigurationKind = Literal["MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"]
CONFIGURATION_KINDS: Final[Mapping[ConfigurationKind, str]] = {
    "MutatingWebhookConfiguration": "mutatingwebhookconfigurations",
    "ValidatingWebhookConfiguration": "validatingwebhookconfigurations",
}


class NotOurs(Exception):
    """The Secret has the name, but is made for something else; it is left alone."""


# --- the Secrets


class _Annotations(msgspec.Struct, frozen=True):
    """Of a Secret's annotations no other is decoded: `last-applied-configuration` can hold the Secret itself."""

    token_at: str = msgspec.field(default="", name=_TOKEN_AT)
    stamp_key_at: str = msgspec.field(default="", name=_STAMP_KEY_AT)


class _Metadata(msgspec.Struct, frozen=True, rename="camel"):
    name: str
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    annotations: _Annotations | None = None


class _Secret(msgspec.Struct, frozen=True):
    metadata: _Metadata
    type: str = ""
    data: dict[str, str | None] | None = None

    def __repr__(self) -> str:
        return "_Secret(...)"

    def value(self, name: str) -> bytes:
        """What is stored under the name; nothing if it is not there or not readable."""
        try:
            return base64.b64decode((self.data or {}).get(name) or "", validate=True)
        except binascii.Error:
            return b""

    def text(self, name: str) -> str:
        return self.value(name).decode("ascii", errors="replace")


_SECRET = msgspec.json.Decoder(_Secret)


@dataclass(frozen=True, slots=True)
class StoredKeys:
    """Keys as they are in the Secret; `resource_version` is empty where there is no Secret yet."""

    keys: Keys
    resource_version: str = ""


class _NamedSecret:
    """One Secret."""

    def __init__(self, cluster: Cluster, namespace: str, name: str) -> None:
        self.namespace = namespace
        self.name = name
        self._cluster = cluster
        self._collection = api_path("v1", "secrets", namespace)
        self._path = api_path("v1", "secrets", namespace, name)

    @property
    def involved(self) -> Involved:
        return Involved("v1", "Secret", self.namespace, self.name, "")

    def __str__(self) -> str:
        return f"the Secret {self.namespace}/{self.name}"

    def watch(self, changed: Callable[[str], None]) -> Reflector[_Named]:
        """What tells the resourceVersion of each change, empty for its end."""
        return _watch(self._cluster, self._collection, self.name, changed)

    async def _read(self) -> _Secret | None:
        try:
            body = await self._cluster.request("GET", self._path, timeout=_TIMEOUT)
        except NotFound:
            return None
        return decoded(_SECRET, body, str(self))


class KeySecret(_NamedSecret):
    """The Secret that the webhooks' replicas share."""

    async def read(self) -> StoredKeys:
        """The keys as they are now; what is missing or unreadable is empty.

        Raises:
            NotOurs: of another type.
            ApiError: it cannot be read.
        """
        secret = await self._read()
        return StoredKeys(Keys()) if secret is None else self._stored(secret)

    async def write(self, keys: Keys, stored: StoredKeys) -> StoredKeys:
        """Store the keys, if the Secret is still as it was read.

        Raises:
            Conflict, AlreadyExists: it is not; read it again.
            ApiError: it cannot be written.
        """
        annotations = {
            name: moment.astimezone(UTC).isoformat()
            for name, moment in ((_TOKEN_AT, keys.token_at), (_STAMP_KEY_AT, keys.stamp_key_at))
            if moment is not None
        }
        metadata: dict[str, object] = {"annotations": annotations}
        secret = {"metadata": metadata, "data": _data(keys)}
        if stored.resource_version:
            metadata["resourceVersion"] = stored.resource_version
            try:
                answer = await self._cluster.patch(self._path, _encode(secret), timeout=_TIMEOUT)
            except NotFound as error:
                raise Conflict(str(error), status=409) from error
        else:
            metadata |= {"name": self.name, "namespace": self.namespace}
            metadata["labels"] = {"app.kubernetes.io/part-of": "imagestreams"}
            made = {"apiVersion": "v1", "kind": "Secret", "type": "Opaque", **secret}
            answer = await self._cluster.request("POST", self._collection, body=_encode(made), timeout=_TIMEOUT)
        return self._stored(decoded(_SECRET, answer, str(self)))

    def _stored(self, secret: _Secret) -> StoredKeys:
        if secret.type not in {"", "Opaque"}:
            raise NotOurs(
                f"{self} is of type {secret.type}, and not for our keys; name another with --webhook-secret, or this "
                "one with --webhook-tls-secret"
            )
        annotations = secret.metadata.annotations or _Annotations()
        keys = Keys(
            authorities=secret.value("ca.crt"),
            authority_key=secret.value("ca.key"),
            serving=KeyPair(secret.value("tls.crt"), secret.value("tls.key")),
            token=secret.text("token"),
            token_previous=secret.text("token-previous"),
            token_at=_moment(annotations.token_at),
            stamp_key=secret.value("stamp.key"),
            stamp_key_previous=secret.value("stamp.key-previous"),
            stamp_key_at=_moment(annotations.stamp_key_at),
        )
        return StoredKeys(keys, secret.metadata.resource_version)


def _moment(text: str) -> datetime | None:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo else None


def _data(keys: Keys) -> dict[str, str]:
    values = {
        "ca.crt": keys.authorities,
        "ca.key": keys.authority_key,
        "tls.crt": keys.serving.certificate,
        "tls.key": keys.serving.key,
        "token": keys.token.encode(),
        "token-previous": keys.token_previous.encode(),
        "stamp.key": keys.stamp_key,
        "stamp.key-previous": keys.stamp_key_previous,
    }
    return {name: base64.b64encode(value).decode() for name, value in values.items()}


@dataclass(frozen=True, slots=True)
class TlsPair:
    """A certificate that somebody else keeps; `authorities` (PEM) is empty where none comes with it."""

    pair: KeyPair
    authorities: bytes


class TlsSecret(_NamedSecret):
    """A Secret of type kubernetes.io/tls, such as cert-manager's."""

    async def read(self) -> TlsPair | None:
        """What it holds; None if it is not there.

        Raises:
            ApiError: it cannot be read.
        """
        secret = await self._read()
        if secret is None:
            return None
        return TlsPair(KeyPair(secret.value("tls.crt"), secret.value("tls.key")), secret.value("ca.crt"))


# --- webhook configurations


class _Service(msgspec.Struct, frozen=True):
    namespace: str
    name: str
    path: str | None = None


class _ClientConfig(msgspec.Struct, frozen=True, rename="camel"):
    url: str | None = None
    service: _Service | None = None
    ca_bundle: str | None = None


class _Webhook(msgspec.Struct, frozen=True, rename="camel"):
    name: str
    client_config: _ClientConfig


class _Configuration(msgspec.Struct, frozen=True):
    metadata: _Metadata
    webhooks: tuple[_Webhook, ...] | None = None


_CONFIGURATION = msgspec.json.Decoder(_Configuration)


@dataclass(frozen=True, slots=True, repr=False)
class Hook:
    """One of our webhooks in a configuration.

    Attributes:
        index: its place there.
        authorities: PEM that API servers verify it with; empty: those of their system.
        path: within its service, or its URL.
        url: of which the path is a part; empty where a service is called.
    """

    index: int
    name: str
    door: str
    authorities: bytes
    path: str
    url: str = ""

    @property
    def token(self) -> str:
        return self.path.removeprefix(PATH_PREFIX).partition("/")[2]

    @property
    def host(self) -> str:
        """Of the URL; empty where a service is called."""
        return urlsplit(self.url).hostname or ""


@dataclass(frozen=True, slots=True)
class Configuration:
    """A webhook configuration, as far as it is ours.

    Attributes:
        hooks: those of our webhooks that come to us.
        elsewhere: names of those that have one of our paths, but go to another service: they get no token.
    """

    kind: ConfigurationKind
    name: str
    uid: str
    resource_version: str
    hooks: tuple[Hook, ...]
    elsewhere: tuple[str, ...]


class Configurations:
    """The webhook configurations of one name.

    Args:
        namespace, service: of the Service that leads to us.
    """

    def __init__(self, cluster: Cluster, name: str, *, namespace: str, service: str) -> None:
        self.name = name
        self._cluster = cluster
        self._service = (namespace, service)

    def involved(self, kind: ConfigurationKind, uid: str = "") -> Involved:
        return Involved(ADMISSION_GROUP, kind, "", self.name, uid)

    async def read(self, kind: ConfigurationKind) -> Configuration | None:
        """The configuration, or None if there is none.

        Raises:
            ApiError: it cannot be read.
        """
        try:
            body = await self._cluster.request("GET", self._path(kind), timeout=_TIMEOUT)
        except NotFound:
            return None
        found = decoded(_CONFIGURATION, body, f"{kind} {self.name}")
        hooks, elsewhere = [], []
        for index, webhook in enumerate(found.webhooks or ()):
            hook = _hook(index, webhook)
            service = webhook.client_config.service
            if hook is not None and service is not None and (service.namespace, service.name) != self._service:
                elsewhere.append(webhook.name)
            elif hook is not None:
                hooks.append(hook)
        metadata = found.metadata
        return Configuration(kind, self.name, metadata.uid, metadata.resource_version, tuple(hooks), tuple(elsewhere))

    async def write(self, configuration: Configuration, changed: Sequence[Hook]) -> None:
        """Give webhooks their authorities and paths, if the configuration is still as it was read.

        Raises:
            Conflict: it is not; read it again.
            ApiError: it cannot be written.
        """
        operations: list[dict[str, object]] = [
            {"op": "test", "path": "/metadata/resourceVersion", "value": configuration.resource_version}
        ]
        for hook in changed:
            at = f"/webhooks/{hook.index}"
            operations.append({"op": "test", "path": f"{at}/name", "value": hook.name})
            if hook.authorities:
                value: object = base64.b64encode(hook.authorities).decode()
                operations.append({"op": "add", "path": f"{at}/clientConfig/caBundle", "value": value})
            where, value = ("url", hook.url + hook.path) if hook.url else ("service/path", hook.path)
            operations.append({"op": "add", "path": f"{at}/clientConfig/{where}", "value": value})
        try:
            await self._cluster.patch(self._path(configuration.kind), _encode(operations), JSON_PATCH, timeout=_TIMEOUT)
        except NotFound as error:
            raise Conflict(str(error), status=409) from error
        except Invalid as error:
            # A test that fails is a 422 which names none; so is what validation or a policy refuses.
            present = await self.read(configuration.kind)
            if present is not None and present.resource_version == configuration.resource_version:
                raise
            raise Conflict(f"{configuration.kind} {self.name} has changed", status=409) from error

    def watch(self, kind: ConfigurationKind, changed: Callable[[str], None]) -> Reflector[_Named]:
        """What tells the resourceVersion of each change, empty for its end."""
        return _watch(self._cluster, api_path(ADMISSION_GROUP, CONFIGURATION_KINDS[kind]), self.name, changed)

    def _path(self, kind: ConfigurationKind) -> str:
        return api_path(ADMISSION_GROUP, CONFIGURATION_KINDS[kind], name=self.name)


def _hook(index: int, webhook: _Webhook) -> Hook | None:
    """One of ours: by its path, or by its name where its service has none yet.

    Our manifests leave the path out, so that whoever applies them again neither owns it nor takes the token away.
    """
    config = webhook.client_config
    url, path = "", config.service.path or "" if config.service is not None else ""
    if config.url is not None:
        parts = urlsplit(config.url)
        url, path = f"{parts.scheme}://{parts.netloc}", parts.path
    if match := _DOOR.fullmatch(path):
        door = match["door"]
    elif path in {"", "/"} and webhook.name.endswith(_DOMAIN):
        door = webhook.name.removesuffix(_DOMAIN)
    else:
        return None
    if door not in DOORS:
        return None
    try:
        authorities = base64.b64decode(config.ca_bundle or "", validate=True)
    except binascii.Error:
        authorities = b""
    return Hook(index, webhook.name, door, authorities, path, url)


def path_of(door: str, token: str) -> str:
    """Where API servers find a door."""
    return f"{PATH_PREFIX}{door}/{token}"


# --- watches


class _Version(msgspec.Struct, frozen=True, rename="camel"):
    name: str
    namespace: str = ""
    resource_version: str = ""


class _Named(msgspec.Struct, frozen=True):
    """An object, of which only the version is looked at: a Secret's metadata may hold the secret itself."""

    metadata: _Version

    @property
    def key(self) -> Key:
        return self.metadata.namespace, self.metadata.name


_NAMED = msgspec.json.Decoder(_Named)
_page = page_decoder(_Named)


def _watch(cluster: Cluster, collection: str, name: str, changed: Callable[[str], None]) -> Reflector[_Named]:
    return Reflector(
        cluster,
        collection,
        decode_list=_page,
        decode_object=_NAMED.decode,
        key=lambda item: item.key,
        resource_version=lambda item: item.metadata.resource_version,
        on_change=lambda _, __, new: changed("" if new is None else new.metadata.resource_version),
        params={"fieldSelector": f"metadata.name={name}"},
        accept=METADATA_ONLY,
    )
