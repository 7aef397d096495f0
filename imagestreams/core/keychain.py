"""Pull secrets: which credentials a namespace has for a repository, and in which order to try them.

Matching is the kubelet's with two corrections: a key's path matches on a `/` boundary (`quay.io/org` does not serve
`quay.io/organization/x`), and all that match are candidates, best first: a stale secret does not hide a good one.

Beside the secrets of its own namespace a stream may be served by one of the installation (`InstallWide`): only where an
administrator lists both the namespace and the repository, and after all that the namespace has itself.

A password or token is in no repr, message or log: errors name the secret, never what it holds.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from imagestreams.core.reference import DOCKER_HUB, host_named, quoted

if TYPE_CHECKING:
    from collections.abc import Iterable

    from imagestreams.core.reference import ImageReference

DOCKER_CONFIG_JSON: Final = "kubernetes.io/dockerconfigjson"
DOCKER_CFG: Final = "kubernetes.io/dockercfg"

MAX_ENTRIES: Final = 1000  # of one secret
MAX_CANDIDATES: Final = 8  # each may cost a request that is answered 401

_INSTEAD = "write a username and password, or an identitytoken, into auths"
_SHOWN = 5  # registries or prefixes that a message names before it counts the rest
_NAMESPACES = re.compile(r"[a-z0-9*?-]+")
_PREFIX = re.compile(r"[A-Za-z0-9._-]+(?::[0-9]+)?(?:/[a-z0-9._-]+)*/?")


class MalformedSecret(ValueError):
    """A pull secret cannot be read. The message names the secret and the fault, never its content."""


@dataclass(frozen=True, slots=True)
class Credential:
    """A username and password; `secret` is the name of the Secret that holds them, for messages.

    An `identity_token` is exchanged at a registry's token service for the tokens of requests. Where there is one, the
    password may be empty, and the username too.
    """

    username: str
    password: str = field(repr=False)
    secret: str
    identity_token: str = field(default="", repr=False)

    @property
    def fingerprint(self) -> str:
        """Hex SHA-256 over all but the secret's name: equal for equal credentials. A key for maps, not for logs."""
        username, password = self.username.encode(), self.password.encode()
        whole = (len(username), username, len(password), password, self.identity_token.encode())
        return hashlib.sha256(b"%d:%b%d:%b%b" % whole).hexdigest()


@dataclass(frozen=True, slots=True)
class Entry:
    """A credential and where it is for: a host (labels may be globs) and a path below it, or empty for all.

    `within` is set for the installation's secret only: the prefixes, `host[:port][/path]`, that it is confined to.
    """

    host: str
    path: str
    credential: Credential
    within: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Where the credential is for, as a secret names it."""
        return f"{self.host}/{self.path}" if self.path else self.host


class Logins(NamedTuple):
    """What a secret or file holds, and what people should hear of it: the parts that are ignored."""

    entries: tuple[Entry, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class InstallWide:
    """Whom the installation's own secret serves: nobody, unless both lists have something.

    `namespaces` are patterns (`*` and `?`), `repositories` prefixes `host[:port][/path]`, which end on a `/` boundary.
    Docker Hub's names are one.

    Raises:
        ValueError: naming the pattern or prefix that is malformed.
    """

    namespaces: tuple[str, ...] = ()
    repositories: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for pattern in self.namespaces:
            if _NAMESPACES.fullmatch(pattern) is None:
                raise ValueError(f"the namespace pattern {quoted(pattern)} must be a name, * and ? allowed")
        object.__setattr__(self, "repositories", tuple(map(_prefix, self.repositories)))

    def serves_namespace(self, namespace: str) -> bool:
        """Whether there may be a repository for which the namespace is served."""
        return bool(self.repositories) and any(fnmatchcase(namespace, pattern) for pattern in self.namespaces)

    def confined(self, namespace: str, entries: Iterable[Entry]) -> tuple[Entry, ...]:
        """The entries of the installation's secret as they serve a namespace: with these limits, or none of them."""
        if not self.serves_namespace(namespace):
            return ()
        return tuple(replace(entry, within=self.repositories) for entry in entries)


class _Login(msgspec.Struct, frozen=True, gc=False):
    username: str | None = None
    password: str | None = None
    auth: str | None = None
    identitytoken: str | None = None
    registrytoken: str | None = None

    def __repr__(self) -> str:
        return "_Login(...)"


class _DockerConfig(msgspec.Struct, frozen=True, gc=False):
    auths: dict[str, _Login | None] | None = None
    # Of any shape: what is not used must not spoil the rest.
    cred_helpers: msgspec.Raw = msgspec.field(default=msgspec.Raw(b""), name="credHelpers")
    creds_store: msgspec.Raw = msgspec.field(default=msgspec.Raw(b""), name="credsStore")


_CONFIG_DECODER = msgspec.json.Decoder(_DockerConfig)
_CFG_DECODER = msgspec.json.Decoder(dict[str, _Login | None])


def parse_secret(name: str, secret_type: str, payload: bytes) -> Logins:
    """Read the payload of a pull secret.

    `auth` wins over `username` and `password`, as for the kubelet. Entries with neither a username and password nor an
    `identitytoken` are left out. Notes count entries and quote none: who reads an Event may not read secrets.

    Args:
        name: of the Secret, for messages.
        secret_type: `kubernetes.io/dockerconfigjson` or `kubernetes.io/dockercfg`.
        payload: the decoded value of the Secret's `.dockerconfigjson` or `.dockercfg`.

    Raises:
        MalformedSecret: if any part cannot be read. Other secrets are none the worse for it.
    """
    source = f"secret {quoted(name)}"
    config = _config(source, secret_type, payload)
    entries, auths = _entries(source, name, config), config.auths or {}
    tokens = sum(1 for login in auths.values() if login and login.registrytoken)
    notes = []
    if tokens:
        notes.append(f"{source}: the registrytoken of {tokens} of {len(auths)} entries is ignored; {_INSTEAD}")
    if _is_said(config.cred_helpers) or _is_said(config.creds_store):
        notes.append(f"{source}: its credential helpers are ignored, they cannot be run here; {_INSTEAD}")
    return Logins(entries, tuple(notes))


def parse_docker_config(name: str, payload: bytes) -> Logins:
    """Read a Docker configuration (`~/.docker/config.json`) that somebody named on the command line.

    What such a file has beside logins is ignored, and each such part noted by name.

    Args:
        name: of the file, for messages.
        payload: its content.

    Raises:
        MalformedSecret: if any part cannot be read.
    """
    source = f"file {quoted(name)}"
    config = _config(source, DOCKER_CONFIG_JSON, payload)
    entries, auths = _entries(source, name, config), config.auths or {}
    served = {(entry.host, entry.path) for entry in entries}
    notes = []
    if tokens := [key for key, login in auths.items() if login and login.registrytoken]:
        notes.append(f"{source}: the registrytoken for {_listed(tokens)} is ignored; {_INSTEAD}")
    if empty := [key for key in auths if _normalised(key) not in served]:
        notes.append(f"{source}: there is no login for {_listed(empty)}")
    if _is_said(config.creds_store):
        notes.append(f"{source}: its credsStore is ignored, credential helpers are not run; {_INSTEAD}")
    if _is_said(config.cred_helpers):
        try:
            helped = list(msgspec.json.decode(config.cred_helpers, type=dict[str, msgspec.Raw]))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            helped = []
        whom = f" for {_listed(helped)}" if helped else ""
        notes.append(f"{source}: its credHelpers{whom} are ignored, credential helpers are not run; {_INSTEAD}")
    if not auths and not notes:
        notes.append(f"{source}: it holds no logins; {_INSTEAD}")
    return Logins(entries, tuple(notes))


def candidates(entries: Iterable[Entry], reference: ImageReference) -> tuple[Credential, ...]:
    """The credentials to try for a repository, best first and each once; at most MAX_CANDIDATES.

    The installation's come last. A key that spells the host comes before one with globs, then a longer path before a
    shorter; among equals the order of `entries` stays. A glob stands for one label or a part of it, and a port must be
    the same (`quay.io` is not `quay.io:443`).
    """
    distinct: dict[str, Credential] = {}
    for entry in _ranked(entries, reference):
        distinct.setdefault(entry.credential.fingerprint, entry.credential)
    return tuple(distinct.values())[:MAX_CANDIDATES]


class Explanation(NamedTuple):
    """Why an entry is tried for a repository, or is not; `why` shows keys, but nothing that is secret."""

    entry: Entry
    why: str
    is_tried: bool


def explain(entries: Iterable[Entry], reference: ImageReference) -> tuple[Explanation, ...]:
    """What `candidates` makes of the entries, for people: first those that match, in the order in which they are tried,
    then those that do not although they are for a host of the same domain. Others are left out.
    """
    every = tuple(entries)
    explained: list[Explanation] = []
    seen: set[str] = set()
    for entry in _ranked(every, reference):
        fingerprint = entry.credential.fingerprint
        if fingerprint in seen:
            explained.append(Explanation(entry, "it holds the same login as one before it", is_tried=False))
        elif len(seen) >= MAX_CANDIDATES:
            explained.append(Explanation(entry, f"only the best {MAX_CANDIDATES} logins are tried", is_tried=False))
        else:
            explained.append(Explanation(entry, _why(entry, reference), is_tried=True))
            seen.add(fingerprint)
    site = _site(reference.host)
    explained += (
        Explanation(entry, why, is_tried=False)
        for entry in every
        if _site(entry.host) == site and (why := _why_not(entry, reference))
    )
    return tuple(explained)


@dataclass(frozen=True, slots=True)
class _Fault:
    """Why something cannot be read.

    It is returned, not raised: a decoder's exception holds the text that it failed on, and a chained one would carry
    that into a traceback.
    """

    words: str


def _config(source: str, secret_type: str, payload: bytes) -> _DockerConfig:
    config = _decoded(secret_type, payload)
    if isinstance(config, _Fault):
        raise MalformedSecret(f"{source} is not usable: {config.words}")
    return config


def _decoded(secret_type: str, payload: bytes) -> _DockerConfig | _Fault:
    try:
        if secret_type == DOCKER_CONFIG_JSON:
            return _CONFIG_DECODER.decode(payload)
        if secret_type == DOCKER_CFG:
            return _DockerConfig(auths=_CFG_DECODER.decode(payload))
    except msgspec.ValidationError:
        return _Fault("its JSON does not have the fields of a Docker configuration")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _Fault("it is not JSON")
    return _Fault(f"its type {quoted(secret_type)} is none of a pull secret")


def _entries(source: str, name: str, config: _DockerConfig) -> tuple[Entry, ...]:
    auths = config.auths or {}
    if len(auths) > MAX_ENTRIES:
        raise MalformedSecret(f"{source} is not usable: it names more than {MAX_ENTRIES} registries")
    entries = []
    for number, (key, login) in enumerate(auths.items(), start=1):
        if login is None:
            continue
        pair = _pair(login)
        if isinstance(pair, _Fault):
            raise MalformedSecret(f"{source} is not usable: entry {number} of {len(auths)}: {pair.words}")
        username, password = pair
        token = login.identitytoken or ""
        if token or (username and password):
            entries.append(Entry(*_normalised(key), Credential(username, password, name, token)))
    return tuple(entries)


def _pair(login: _Login) -> tuple[str, str] | _Fault:
    """Username and password, either empty where there is none."""
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


def _is_said(part: msgspec.Raw) -> bool:
    """Whether a part of a configuration holds anything."""
    return bytes(part).strip() not in {b"", b"null", b"{}", b'""'}


def _listed(keys: list[str]) -> str:
    shown = ", ".join(quoted(key) for key in keys[:_SHOWN])
    return f"{shown} and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else shown


def _normalised(key: str) -> tuple[str, str]:
    """Host and path of a key such as `quay.io/acme` or `https://index.docker.io/v1/`."""
    _, scheme, rest = key.partition("://")
    host, _, path = (rest if scheme else key).partition("/")
    host = host_named(host)
    version, slash, below = path.partition("/")
    # A bare `/v1` may be an organization elsewhere; Docker Hub's is not.
    if version in {"v1", "v2"} and (slash or host == DOCKER_HUB):
        path = below
    return host, path.strip("/")


def _ranked(entries: Iterable[Entry], reference: ImageReference) -> list[Entry]:
    """The entries that match, in the order in which they are tried."""
    matching = [entry for entry in entries if _matches(entry, reference)]
    matching.sort(key=lambda entry: (bool(entry.within), _is_glob(entry.host), -len(entry.path)))
    return matching


def _matches(entry: Entry, reference: ImageReference) -> bool:
    return (
        _path_matches(entry.path, reference.path)
        and _host_matches(entry.host, reference.host)
        and (not entry.within or _is_within(entry.within, reference))
    )


def _prefix(text: str) -> str:
    """A prefix of repositories as `ImageReference.repository` spells them."""
    host, slash, path = text.rstrip("/").partition("/")
    if _PREFIX.fullmatch(text) is None or not (host == "localhost" or {".", ":"} & set(host)):
        raise ValueError(
            f"the repository prefix {quoted(text)} must be host[:port][/path], as in docker.io/acme: "
            "with the host, without scheme, tag and wildcards"
        )
    return f"{host_named(host)}{slash}{path}"


def _path_matches(path: str, wanted: str) -> bool:
    return not path or wanted == path or wanted.startswith(f"{path}/")


def _is_within(prefixes: Iterable[str], reference: ImageReference) -> bool:
    repository = reference.repository
    return any(repository == prefix or repository.startswith(f"{prefix}/") for prefix in prefixes)


def _host_matches(pattern: str, host: str) -> bool:
    if pattern == host or not _is_glob(pattern):
        return pattern == host
    pattern, _, wanted_port = pattern.partition(":")
    name, _, port = host.partition(":")
    return wanted_port == port and _labels_match(pattern, name)


def _labels_match(pattern: str, name: str) -> bool:
    wanted, labels = pattern.split("."), name.split(".")
    return len(wanted) == len(labels) and all(map(fnmatchcase, labels, wanted))


def _is_glob(host: str) -> bool:
    return any(character in host for character in "*?[")


def _why(entry: Entry, reference: ImageReference) -> str:
    words = f"{quoted(entry.key)} {'matches' if _is_glob(entry.host) else 'is for'} the host"
    if entry.path:
        words += f", and its path is {'' if entry.path == reference.path else 'above '}the repository's"
    return f"{words}; it is the installation's, tried after the namespace's own" if entry.within else words


def _why_not(entry: Entry, reference: ImageReference) -> str:
    """Why an entry does not match; empty if it does."""
    if not _host_matches(entry.host, reference.host):
        pattern, _, wanted_port = entry.host.partition(":")
        name, _, port = reference.host.partition(":")
        if _labels_match(pattern, name):
            theirs, asked = (f"port {number}" if number else "no port" for number in (wanted_port, port))
            return f"it names {theirs} and the image {asked}; both must name the same"
        if _is_glob(pattern):
            return f"{quoted(pattern)} does not match {quoted(name)}: a wildcard stands for one label or a part of it"
        return f"it is for the host {quoted(pattern)}, the image is at {quoted(name)}"
    if not _path_matches(entry.path, reference.path):
        return f"its path {quoted(entry.path)} is neither the repository {quoted(reference.path)} nor a folder above it"
    if entry.within and not _is_within(entry.within, reference):
        return f"the installation's secret serves only {_listed(list(entry.within))}"
    return ""


def _site(host: str) -> str:
    """The last two labels of a host name, and an address or a short name whole: hosts whose entries somebody may have
    mistaken for each other.
    """
    name = host.partition(":")[0]
    labels = name.split(".")
    return name if labels[-1].isdecimal() else ".".join(labels[-2:])
