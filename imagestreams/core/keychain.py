"""Pull secrets: which credentials a namespace has for a repository, and in which order to try them.

Matching is the kubelet's with two corrections: a key's path matches on a `/` boundary (`quay.io/org` does not serve
`quay.io/organization/x`), and all that match are candidates, best first: a stale secret does not hide a good one.

A password is in no repr, message or log: errors name the secret, never what it holds.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final

import msgspec

from imagestreams.core.reference import DOCKER_HUB, DOCKER_HUB_ALIASES, quoted

if TYPE_CHECKING:
    from collections.abc import Iterable

    from imagestreams.core.reference import ImageReference

DOCKER_CONFIG_JSON: Final = "kubernetes.io/dockerconfigjson"
DOCKER_CFG: Final = "kubernetes.io/dockercfg"

MAX_ENTRIES: Final = 1000  # of one secret
MAX_CANDIDATES: Final = 8  # each may cost a request that is answered 401


class MalformedSecret(ValueError):
    """A pull secret cannot be read. The message names the secret and the fault, never its content."""


@dataclass(frozen=True, slots=True)
class Credential:
    """A username and password; `secret` is the name of the Secret that holds them, for messages."""

    username: str
    password: str = field(repr=False)
    secret: str

    @property
    def fingerprint(self) -> str:
        """Hex SHA-256 over username and password: equal for equal credentials. A key for maps, not for logs."""
        username = self.username.encode()
        return hashlib.sha256(b"%d:%b%b" % (len(username), username, self.password.encode())).hexdigest()


@dataclass(frozen=True, slots=True)
class Entry:
    """A credential and where it is for: a host (labels may be globs) and a path below it, or empty for all."""

    host: str
    path: str
    credential: Credential


class _Login(msgspec.Struct, frozen=True, gc=False):
    username: str | None = None
    password: str | None = None
    auth: str | None = None


class _DockerConfig(msgspec.Struct, frozen=True, gc=False):
    auths: dict[str, _Login | None] | None = None


_CONFIG_DECODER = msgspec.json.Decoder(_DockerConfig)
_CFG_DECODER = msgspec.json.Decoder(dict[str, _Login | None])


def parse_secret(name: str, secret_type: str, payload: bytes) -> tuple[Entry, ...]:
    """Read the payload of a pull secret.

    `auth` wins over `username` and `password`, as for the kubelet. Entries without a username or a password (a
    credential helper's, an identity token's) are left out.

    Args:
        name: of the Secret, for messages.
        secret_type: `kubernetes.io/dockerconfigjson` or `kubernetes.io/dockercfg`.
        payload: the decoded value of the Secret's `.dockerconfigjson` or `.dockercfg`.

    Raises:
        MalformedSecret: if any part cannot be read. Other secrets are none the worse for it.
    """
    logins = _logins(secret_type, payload)
    if isinstance(logins, _Fault):
        raise MalformedSecret(f"secret {quoted(name)} is not usable: {logins.words}")
    if len(logins) > MAX_ENTRIES:
        raise MalformedSecret(f"secret {quoted(name)} is not usable: it names more than {MAX_ENTRIES} registries")
    entries = []
    for number, (key, login) in enumerate(logins.items(), start=1):
        pair = _pair(login)
        if isinstance(pair, _Fault):
            raise MalformedSecret(f"secret {quoted(name)} is not usable: entry {number} of {len(logins)}: {pair.words}")
        username, password = pair
        if username and password:
            host, path = _normalised(key)
            entries.append(Entry(host, path, Credential(username, password, name)))
    return tuple(entries)


def candidates(entries: Iterable[Entry], reference: ImageReference) -> tuple[Credential, ...]:
    """The credentials to try for a repository, best first and each once; at most MAX_CANDIDATES.

    A key that spells the host comes before one with globs, then a longer path before a shorter; among equals the
    order of `entries` stays. A glob stands for one label or a part of it, and a port must be the same (`quay.io` is not
    `quay.io:443`).
    """
    matching = [entry for entry in entries if _matches(entry, reference)]
    matching.sort(key=lambda entry: (_is_glob(entry.host), -len(entry.path)))
    distinct: dict[str, Credential] = {}
    for entry in matching:
        distinct.setdefault(entry.credential.fingerprint, entry.credential)
    return tuple(distinct.values())[:MAX_CANDIDATES]


@dataclass(frozen=True, slots=True)
class _Fault:
    """Why something cannot be read.

    It is returned, not raised: a decoder's exception holds the text that it failed on, and a chained one would carry
    that into a traceback.
    """

    words: str


def _logins(secret_type: str, payload: bytes) -> dict[str, _Login | None] | _Fault:
    try:
        if secret_type == DOCKER_CONFIG_JSON:
            return _CONFIG_DECODER.decode(payload).auths or {}
        if secret_type == DOCKER_CFG:
            return _CFG_DECODER.decode(payload)
    except msgspec.ValidationError:
        return _Fault("its JSON does not have the fields of a Docker configuration")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _Fault("it is not JSON")
    return _Fault(f"its type {quoted(secret_type)} is none of a pull secret")


def _pair(login: _Login | None) -> tuple[str, str] | _Fault:
    """Username and password, either empty where there is none."""
    if login is None:
        return "", ""
    if not login.auth:
        return login.username or "", login.password or ""
    auth = "".join(login.auth.split())
    try:
        # As for the kubelet, padding may be left out.
        text = base64.b64decode(auth + "=" * (-len(auth) % 4), validate=True).decode()
    except ValueError:  # of base64 and of UTF-8
        return _Fault("its auth is not base64")
    username, colon, password = text.partition(":")
    return (username, password) if colon else _Fault("its auth is not base64 of username:password")


def _normalised(key: str) -> tuple[str, str]:
    """Host and path of a key such as `quay.io/acme` or `https://index.docker.io/v1/`."""
    _, scheme, rest = key.partition("://")
    host, _, path = (rest if scheme else key).partition("/")
    host = host.lower()
    is_hub = host in DOCKER_HUB_ALIASES
    version, slash, below = path.partition("/")
    # A bare `/v1` may be an organization elsewhere; Docker Hub's is not.
    if version in {"v1", "v2"} and (slash or is_hub):
        path = below
    return DOCKER_HUB if is_hub else host, path.strip("/")


def _matches(entry: Entry, reference: ImageReference) -> bool:
    path = reference.path
    return (not entry.path or path == entry.path or path.startswith(f"{entry.path}/")) and _host_matches(
        entry.host, reference.host
    )


def _host_matches(pattern: str, host: str) -> bool:
    if pattern == host or not _is_glob(pattern):
        return pattern == host
    pattern, _, wanted_port = pattern.partition(":")
    name, _, port = host.partition(":")
    wanted, labels = pattern.split("."), name.split(".")
    return wanted_port == port and len(wanted) == len(labels) and all(map(fnmatchcase, labels, wanted))


def _is_glob(host: str) -> bool:
    return any(character in host for character in "*?[")
