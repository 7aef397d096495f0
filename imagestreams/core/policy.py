"""Which registries may be asked, at which places and how, how fast, and which addresses must never be contacted.

The rules are an administrator's. A tag can ask for an insecure connection for itself, but that never carries a
credential; only a host that the administrator lists as insecure gets one over plain http or unverified TLS.

What is said of a registry goes by its name as references have it, whatever answers for it: an endpoint or mirrors.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from datetime import timedelta
from fnmatch import fnmatchcase
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from imagestreams.core.duration import parse_duration, show_duration
from imagestreams.core.reference import (
    DOCKER_HUB,
    DOCKER_HUB_ALIASES,
    ImageReference,
    InvalidReference,
    host_named,
    quoted,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Pulls = Literal["digest", "tag", "all"]

BLOCKED: Final = "Blocked"
NOT_ALLOWED: Final = "NotAllowed"
DIRECT: Final = "none"
"""In place of a proxy's URL: connections go to the host itself."""

MAX_PLACES: Final = 16
_MAX_MIRRORS: Final = 64  # of one source that are put in order; far more than are ever asked
_MAX_COUNT: Final = 1_000_000
_MAX_PERIOD: Final = timedelta(days=31)
_DOCKER_HUB_ENDPOINT: Final = "https://registry-1.docker.io"
_PORT = r"(?::(?P<port>[1-9][0-9]{0,4}))?"
_NAME = r"[a-z0-9_](?:[a-z0-9._-]*[a-z0-9])?"
_HOST = re.compile(rf"{_NAME}{_PORT}")
_ENDPOINT = re.compile(rf"https?://(?:{_NAME}|\[(?P<ipv6>[0-9a-f:.]+)\]){_PORT}/?")
_PATTERN = re.compile(r"[a-z0-9._*?-]+(?::[0-9*?]+)?(?:/[a-z0-9._*?-]+)*/?")
_PROXY = re.compile(rf"https?://(?:[!-~]+@)?(?:{_NAME}|\[(?P<ipv6>[0-9a-f:.]+)\]){_PORT}/?")
_USER = re.compile(r"[^@/?#\[\]]+")
_SUBDOMAINS = re.compile(rf"\*\.(?P<parent>{_NAME}){_PORT}")


def _is_host(text: str) -> bool:
    parts = _HOST.fullmatch(text)
    return parts is not None and int(parts["port"] or 0) <= 65535


def _is_endpoint(text: str) -> bool:
    return _is_url(_ENDPOINT.fullmatch(text))


def _is_url(parts: re.Match[str] | None) -> bool:
    if parts is None or int(parts["port"] or 0) > 65535:
        return False
    try:
        return parts["ipv6"] is None or bool(IPv6Address(parts["ipv6"]))
    except ValueError:
        return False


def is_proxy(text: str) -> bool:
    """Whether `text` is the URL of an HTTP proxy, `http[s]://[user[:password]@]host[:port]`. Never show it: it may hold
    a password.
    """
    scheme, _, rest = text.partition("://")
    user, at, host = rest.rpartition("@")
    parts = _PROXY.fullmatch(f"{scheme}://{user}{at}{host}".lower())
    return _is_url(parts) and (not at or (user.isascii() and _USER.fullmatch(user) is not None))


@dataclass(frozen=True, slots=True)
class Rate:
    """So many in a time, and at most so many at once."""

    count: int
    per: timedelta

    def __str__(self) -> str:
        """Write what `parse_rate` reads: "10/s", "100/6h"."""
        unit = {timedelta(seconds=1): "s", timedelta(minutes=1): "m", timedelta(hours=1): "h"}.get(self.per)
        return f"{self.count}/{unit or show_duration(self.per)}"


def parse_rate(text: str) -> Rate:
    """Read "10/s", "300/m", "5000/h" or, with a duration, "100/6h".

    Raises:
        ValueError: with what to write instead.
    """
    count, slash, per = text.partition("/")
    if not slash or re.fullmatch(r"[0-9]{1,7}", count) is None or not per:
        raise ValueError("is no rate; write a number and a time, such as 10/s, 300/m or 100/6h")
    if not 1 <= int(count) <= _MAX_COUNT:
        raise ValueError(f"is no rate; its number is from 1 to {_MAX_COUNT}")
    try:
        period = parse_duration(f"1{per}" if per in {"s", "m", "h"} else per)
    except ValueError:
        raise ValueError("is no rate; after the / belongs s, m, h or a duration, such as 90s or 6h") from None
    if not timedelta(seconds=1) <= period <= _MAX_PERIOD:
        raise ValueError(f"is no rate; its time is from 1s to {show_duration(_MAX_PERIOD)}")
    return Rate(int(count), period)


@dataclass(frozen=True, slots=True)
class HostRule:
    """What an administrator says about one registry host.

    `endpoint` is where it is asked instead (`http://kind-registry:5000` for `localhost:5001`): scheme, host and port
    only. `insecure` allows unverified TLS and plain http, credentials included; an http endpoint without it is asked
    anonymously. `ca_file` and `ca` (PEM) hold further CA certificates. `internal` exempts the host's addresses from the
    address rule; so does any other of these words.

    `proxy` is a proxy's URL, DIRECT, or empty for the installation's. `requests` is the pace of requests; `pulls` how
    many manifests may be read, and `pulls_with_login` how many with a credential, None where that makes no difference.
    None of these says where the host lives.

    Raises:
        ValueError: for an endpoint or a proxy that is no such URL.
    """

    endpoint: str = ""
    insecure: bool = False
    ca_file: str = ""
    internal: bool = False
    ca: str = field(default="", repr=False)
    proxy: str = field(default="", repr=False)
    requests: Rate | None = None
    pulls: Rate | None = None
    pulls_with_login: Rate | None = None

    def __post_init__(self) -> None:
        if self.endpoint and not _is_endpoint(self.endpoint.lower()):
            # What stands before an @ may be a password.
            shown = quoted(self.endpoint.rpartition("@")[2])
            raise ValueError(
                f"the endpoint {shown} must be http://host[:port] or https://host[:port], with nothing else"
            )
        if self.proxy and self.proxy != DIRECT and not is_proxy(self.proxy):
            raise ValueError(f"a proxy must be http[s]://[user:password@]host[:port] or {DIRECT}")

    @property
    def listed(self) -> bool:
        return bool(self.endpoint or self.insecure or self.ca_file or self.ca or self.internal)


# Docker Hub's limits as published in 2025, of which an administrator who says nothing should not have to know. A login
# with a paid plan has none; its answers then name none, and what is counted for it is lifted.
# https://docs.docker.com/docker-hub/usage/
PRESETS: Final[Mapping[str, HostRule]] = MappingProxyType(
    {
        DOCKER_HUB: HostRule(
            requests=Rate(40, timedelta(seconds=4)),
            pulls=Rate(100, timedelta(hours=6)),
            pulls_with_login=Rate(200, timedelta(hours=6)),
        )
    }
)


@dataclass(frozen=True, slots=True)
class Mirror:
    """A place that has the same images: `host[:port][/path]`, and whether it is asked as an insecure host is."""

    location: str
    insecure: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "location", _location(self.location))


@dataclass(frozen=True, slots=True)
class MirrorRule:
    """Where else the images of a source are.

    `source` is a prefix of the images' full names on a `/` boundary, `host[:port][/path]`, or `*.host[:port]` for all
    hosts below one. `mirrors` are in the order to be asked, for references by `digest`, by `tag` or `all`.
    `never_contact_source` holds for every reference below the source. Where `records_mirror`, the mirror's name is what
    is recorded, else the source's.

    Raises:
        ValueError: for a source or mirror that is none.
    """

    source: str
    mirrors: tuple[Mirror, ...]
    pulls: Pulls = "all"
    never_contact_source: bool = False
    records_mirror: bool = False

    def __post_init__(self) -> None:
        source = self.source.lower()
        wildcard = _SUBDOMAINS.fullmatch(source)
        if wildcard is None:
            source = _location(self.source, what="source")
        elif int(wildcard["port"] or 0) > 65535:
            raise ValueError(f"the source {quoted(self.source)} has no port that there is")
        if any(mirror.location == source for mirror in self.mirrors):
            raise ValueError(f"the source {quoted(self.source)} is a mirror of itself")
        object.__setattr__(self, "source", source)


def _location(text: str, what: str = "mirror") -> str:
    """A location in its one spelling: the host in lower case, Docker Hub by its own name, no slash at the end."""
    host, slash, path = text.removesuffix("/").partition("/")
    host = host.lower()
    # Elsewhere than in a reference, "acme/web" is more likely a forgotten host than Docker Hub's.
    is_host = _is_host(host) and ("." in host or ":" in host or host == "localhost")
    try:
        parsed = ImageReference.parse(f"{host}/{path or 'x'}") if is_host and bool(slash) == bool(path) else None
    except InvalidReference:
        parsed = None
    if parsed is None or parsed.tag or parsed.digest:
        shown = quoted(text.rpartition("@")[2])
        raise ValueError(f"the {what} {shown} must be host[:port][/path] with the registry's host first, and no tag")
    return f"{parsed.host}/{path}" if path else parsed.host


class _Mirrored(NamedTuple):
    """What all rules for one source come to."""

    by_tag: tuple[tuple[Mirror, MirrorRule], ...]
    by_digest: tuple[tuple[Mirror, MirrorRule], ...]
    never_contact_source: bool

    @classmethod
    def of(cls, rules: Iterable[MirrorRule]) -> _Mirrored:
        known = tuple(rules)
        by_tag, by_digest = (_in_order(rule for rule in known if rule.pulls in {kind, "all"}) for kind in _KINDS)
        return cls(by_tag, by_digest, any(rule.never_contact_source for rule in known))


_KINDS: Final[tuple[Pulls, Pulls]] = ("tag", "digest")


def _in_order(rules: Iterable[MirrorRule]) -> tuple[tuple[Mirror, MirrorRule], ...]:
    """The mirrors of several rules, each once: in the order of every rule, of earlier rules where two contradict, else
    as first seen.
    """
    found: dict[str, tuple[Mirror, MirrorRule]] = {}
    before: dict[str, set[str]] = {}  # all that must come before a location
    for rule in rules:
        previous = ""
        for mirror in rule.mirrors:
            location = mirror.location
            if location not in found:
                if len(found) == _MAX_MIRRORS:
                    continue
                found[location] = (mirror, rule)
                before[location] = set()
            if previous and previous != location and location not in before[previous]:
                earlier = {previous} | before[previous]
                for each, known in before.items():
                    if each == location or location in known:
                        known.update(earlier)
            previous = location
    return tuple(found[location] for location in _sorted(list(found), before))


def _sorted(locations: list[str], before: Mapping[str, set[str]]) -> list[str]:
    ordered: list[str] = []
    while locations:
        free = next(location for location in locations if before[location].isdisjoint(locations))
        locations.remove(free)
        ordered.append(free)
    return ordered


@dataclass(frozen=True, slots=True)
class Policy:
    """The rules of an installation.

    `hosts` maps `host` or `host:port`, as references name it, to its rule. `allowed` (empty means all) and `blocked`
    are patterns `host[:port][/path]`: `*` and `?` match within host, port or one component of the path, which is a
    prefix on a `/` boundary. An allowed pattern without a port means the standard port (443, or 80 too for an
    insecure tag), a blocked one every port. Docker Hub's names are one.

    `mirrors` say where else images are; for an image the rules with the longest source count, and only those. A host
    counts as longer than `*.` and its parent.

    `http_proxy` and `https_proxy` are for hosts whose rule names no proxy, by the scheme of the request; `no_proxy`
    lists those that get none, see `proxy_for`.

    `strict` refuses private addresses too; `refused_networks` are the cluster's own ranges.

    Raises:
        ValueError: naming the host or pattern that is malformed.
    """

    hosts: Mapping[str, HostRule]
    allowed: tuple[str, ...] = ()
    blocked: tuple[str, ...] = ()
    strict: bool = False
    refused_networks: tuple[Network, ...] = ()
    mirrors: tuple[MirrorRule, ...] = ()
    http_proxy: str = field(default="", repr=False)
    https_proxy: str = field(default="", repr=False)
    no_proxy: tuple[str, ...] = ()
    _sources: Mapping[str, _Mirrored] = field(init=False, repr=False, compare=False)
    _recorded: frozenset[str] = field(init=False, repr=False, compare=False)  # locations whose names are recorded

    def __post_init__(self) -> None:
        hosts: dict[str, HostRule] = {}
        for host, rule in self.hosts.items():
            name = canonical_host(host)
            if name in hosts and hosts[name] != rule:
                raise ValueError(f"the registry host {quoted(host)} has two different rules (under two of its names)")
            hosts[name] = rule
        object.__setattr__(self, "hosts", MappingProxyType(hosts))
        for pattern in (*self.allowed, *self.blocked):
            check_pattern(pattern)
        if not all(not proxy or is_proxy(proxy) for proxy in (self.http_proxy, self.https_proxy)):
            raise ValueError("a proxy must be http[s]://[user:password@]host[:port]")
        rules: dict[str, list[MirrorRule]] = {}
        for mirrors in self.mirrors:
            rules.setdefault(mirrors.source, []).append(mirrors)
        sources = {source: _Mirrored.of(each) for source, each in rules.items()}
        recorded = frozenset(mirror.location for rule in self.mirrors if rule.records_mirror for mirror in rule.mirrors)
        object.__setattr__(self, "_sources", MappingProxyType(sources))
        object.__setattr__(self, "_recorded", recorded)

    def mirrored(self, reference: ImageReference) -> tuple[str, _Mirrored] | None:
        """The longest source that the reference is below, and what is said of it."""
        source = reference.repository
        while source not in self._sources:
            source, slash, _ = source.rpartition("/")
            if not slash:
                return self._mirrored_below(reference.host)
        return source, self._sources[source]

    def _mirrored_below(self, host: str) -> tuple[str, _Mirrored] | None:
        while host:
            host = host.partition(".")[2]
            if (source := f"*.{host}") in self._sources:
                return source, self._sources[source]
        return None

    def records(self, reference: ImageReference) -> bool:
        """Whether the reference is below a mirror whose name is recorded."""
        name = reference.repository
        while name and name not in self._recorded:
            name = name.rpartition("/")[0]
        return bool(name)


def canonical_host(text: str) -> str:
    """A registry host as references have it: in lower case, Docker Hub by its own name.

    Raises:
        ValueError: it is none.
    """
    name = text.lower()
    if not _is_host(name):
        raise ValueError(f"the registry host {quoted(text)} must be host or host:port")
    return host_named(name)


def check_pattern(text: str) -> None:
    """See `Policy.allowed`.

    Raises:
        ValueError: it is no pattern.
    """
    if _PATTERN.fullmatch(text.lower()) is None:
        raise ValueError(f"the registry pattern {quoted(text)} must be host[:port][/path], * and ? allowed")


def rule_of(policy: Policy, host: str) -> HostRule:
    """What holds for a host, as references name it: the administrator's words, and the presets' where it is asked at
    its own endpoint and nothing was said of its rates.
    """
    rule = policy.hosts.get(host, HostRule())
    preset = PRESETS.get(host)
    if preset is None or rule.endpoint:
        return rule
    if rule.requests is None:
        rule = replace(rule, requests=preset.requests)
    if rule.pulls is None:
        rule = replace(rule, pulls=preset.pulls, pulls_with_login=preset.pulls_with_login)
    return rule


@dataclass(frozen=True, slots=True)
class Transport:
    """How a registry is spoken to. It is a part of what makes two lookups equal.

    Attributes:
        host: the registry as references name it; credentials, limits and messages go by it.
        endpoint: base URL without a trailing slash.
        insecure: TLS is not verified, and where https fails at transport level plain http may be tried.
        credentials: whether a credential may be sent there at all.
        ca_file: further CA certificates, or empty.
        listed: an administrator named the host; its addresses are exempt from the address rule.
        ca: the same certificates as PEM, or empty.
        proxy: URL of the HTTP proxy that connections go through, or empty. It may hold a password.
    """

    host: str
    endpoint: str
    insecure: bool
    credentials: bool
    ca_file: str
    listed: bool
    ca: str = ""
    proxy: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Refused:
    """The policy forbids the registry. `reason` becomes the condition's reason, `message` is for people."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Place:
    """One place to ask for an image: its source, or a mirror of it.

    `reference` is the image's name there, by which credentials are chosen; `recorded` the name that is written into
    status when this place answers.
    """

    reference: ImageReference
    transport: Transport
    recorded: ImageReference


def places_for(policy: Policy, reference: ImageReference, *, insecure: bool) -> tuple[Place, ...] | Refused:
    """Where to ask for an image, in the order to try: at least one place, or why none may be asked. Mirrors come first,
    in their order, and the source last.

    The source must be allowed, and a blocked one is not contacted, but its mirrors are: they need not be allowed, since
    an administrator named them. A blocked mirror is left out.

    Args:
        policy: what the administrator allows.
        reference: as the user wrote it.
        insecure: the tag's own wish; it counts for the source, not for its mirrors.
    """
    transport = transport_for(policy, reference, insecure=insecure)
    mirrored = policy.mirrored(reference) if reference.path else None
    if mirrored is None:
        return transport if isinstance(transport, Refused) else (Place(reference, transport, reference),)
    source, mirrors = mirrored
    unverified = insecure or _host_rule(policy, reference).insecure
    if refused := _not_allowed(policy, reference, insecure=unverified):
        return refused
    found = _mirror_places(policy, reference, source, mirrors.by_digest if reference.digest else mirrors.by_tag)
    if mirrors.never_contact_source:
        transport = Refused(
            BLOCKED,
            f"forbidden: registry {reference.host} is not to be contacted for {source}, and no mirror of it may be "
            f"asked for {'a digest' if reference.digest else 'a tag'}",
        )
    if isinstance(transport, Refused):
        return found[:MAX_PLACES] or transport
    return (*found[: MAX_PLACES - 1], Place(reference, transport, reference))


def _mirror_places(
    policy: Policy, reference: ImageReference, source: str, mirrors: Iterable[tuple[Mirror, MirrorRule]]
) -> tuple[Place, ...]:
    # Below `*.parent` it is the host that the mirror's location stands for.
    rest = f"/{reference.path}" if source.startswith("*") else reference.repository[len(source) :]
    places = []
    for mirror, rule in mirrors:
        at_mirror = _renamed(reference, mirror.location + rest)
        if at_mirror is None or at_mirror.repository == reference.repository:
            continue
        insecure = mirror.insecure or _host_rule(policy, at_mirror).insecure
        if _blocked(policy, at_mirror, insecure=insecure):
            continue
        transport = _transport(policy, at_mirror, wished=False, granted=mirror.insecure, named=True)
        places.append(Place(at_mirror, transport, at_mirror if rule.records_mirror else reference))
    return tuple(places)


def _renamed(reference: ImageReference, repository: str) -> ImageReference | None:
    """The reference's tag or digest in another repository; None where there can be no such one: a host alone, a name
    that is too long.
    """
    try:
        renamed = ImageReference.parse(repository)
    except InvalidReference:
        return None
    return replace(renamed, tag=reference.tag, digest=reference.digest) if renamed.name and not renamed.tag else None


def refuse_image(policy: Policy, reference: ImageReference) -> Refused | None:
    """Why an image that was imported must not be used by now, or None; `reference` is the name that was recorded."""
    if policy.records(reference):
        return _blocked(policy, reference, insecure=True)
    transport = transport_for(policy, reference, insecure=True)
    if isinstance(transport, Transport) or transport.reason != BLOCKED:
        return transport if isinstance(transport, Refused) else None
    if (mirrored := policy.mirrored(reference)) is not None:
        source, mirrors = mirrored
        # By which of the two it was imported is no longer known.
        if _mirror_places(policy, reference, source, (*mirrors.by_tag, *mirrors.by_digest)):
            return _not_allowed(policy, reference, insecure=True)
    return transport


def transport_for(policy: Policy, reference: ImageReference, *, insecure: bool) -> Transport | Refused:
    """How to reach the reference's own registry, or why it must not be asked; of mirrors it knows nothing.

    Args:
        policy: what the administrator allows.
        reference: as the user wrote it: policy goes by its name, also where an endpoint answers for it.
        insecure: the tag's own wish.
    """
    unverified = insecure or _host_rule(policy, reference).insecure
    refused = _blocked(policy, reference, insecure=unverified) or _not_allowed(policy, reference, insecure=unverified)
    return refused or _transport(policy, reference, wished=insecure)


def _host_rule(policy: Policy, reference: ImageReference) -> HostRule:
    return policy.hosts.get(reference.host, HostRule())


def _transport(
    policy: Policy, reference: ImageReference, *, wished: bool, granted: bool = False, named: bool = False
) -> Transport:
    """How a host is spoken to.

    Args:
        policy: the administrator's words.
        reference: its host is meant.
        wished: a tag asks for an insecure connection.
        granted: the administrator does, elsewhere than in the host's rule.
        named: the administrator names the host elsewhere.
    """
    rule = _host_rule(policy, reference)
    if rule.endpoint:
        endpoint = rule.endpoint.rstrip("/").lower()
    elif reference.host == DOCKER_HUB:
        endpoint = _DOCKER_HUB_ENDPOINT
    else:
        endpoint = f"https://{reference.host}"
    insecure = rule.insecure or granted
    return Transport(
        host=reference.host,
        endpoint=endpoint,
        insecure=insecure or wished,
        credentials=insecure or (endpoint.startswith("https://") and not wished),
        ca_file=rule.ca_file,
        listed=rule.listed or named,
        ca=rule.ca,
        proxy=_proxy(rule, policy, endpoint),
    )


def _proxy(rule: HostRule, policy: Policy, endpoint: str) -> str:
    if rule.proxy:
        return "" if rule.proxy == DIRECT else rule.proxy
    scheme, _, authority = endpoint.partition("://")
    host, colon, port = authority.rpartition(":") if not authority.endswith("]") else (authority, "", "")
    return _general_proxy(policy, scheme, host if colon else authority, int(port) if colon else _STANDARD_PORTS[scheme])


_STANDARD_PORTS: Final = {"http": 80, "https": 443}
_LOCAL: Final = ("localhost", "svc", "cluster.local")


def proxy_for(policy: Policy, scheme: str, host: str, port: int) -> str:
    """The URL of the proxy for requests to a host, or empty; it may hold a password.

    The host's own rule decides, else the installation's proxy for the scheme, unless `no_proxy` has: the host's name or
    a domain above it; `.domain` or `*.domain` for what is below; an address, or a network of addresses, for a host that
    is written as an address; any of these (but a network) with `:port`; or `*` for all. Names of the cluster's own
    services, `localhost` and loopback addresses are never asked for at a proxy, which cannot know ours.

    Args:
        policy: the administrator's words.
        scheme: http or https.
        host: a name or an address, in brackets or not.
        port: of the request.
    """
    name = host.lower().rstrip(".")
    by_port = policy.hosts.get(f"{name}:{port}")
    if by_port is None and port == _STANDARD_PORTS.get(scheme):
        by_port = policy.hosts.get(host_named(name))
    if by_port is not None and by_port.proxy:
        return "" if by_port.proxy == DIRECT else by_port.proxy
    return _general_proxy(policy, scheme, name, port)


def _general_proxy(policy: Policy, scheme: str, host: str, port: int) -> str:
    proxy = policy.http_proxy if scheme == "http" else policy.https_proxy
    name = host.lower().strip("[]").rstrip(".")
    if not proxy or any(_is_below(name, local) for local in _LOCAL):
        return ""
    try:
        address = ip_address(name)
    except ValueError:
        address = None
    if address is not None and any(address in network for network in _LOOPBACK):
        return ""
    return "" if any(_is_exempt(entry.strip().lower(), name, address, port) for entry in policy.no_proxy) else proxy


def _is_below(name: str, domain: str) -> bool:
    return name == domain or name.endswith(f".{domain}")


def _is_exempt(entry: str, name: str, address: Address | None, port: int) -> bool:
    if entry == "*":
        return True
    entry_name, wanted = _split_port(entry)
    if wanted and wanted != str(port):
        return False
    if address is not None:
        try:
            return address in ip_network(entry_name.strip("[]"), strict=False)
        except ValueError:
            return False
    domain = entry_name.removeprefix("*").rstrip(".")
    if domain.startswith("."):
        return len(domain) > 1 and name.endswith(domain)
    return bool(domain) and "*" not in entry_name and _is_below(name, domain)


def _split_port(entry: str) -> tuple[str, str]:
    """A host and its port; an IPv6 address has one only after brackets."""
    host, colon, port = entry.rpartition(":")
    if not colon or not port.isdecimal() or (":" in host and not host.endswith("]")):
        return entry, ""
    return host, port


def _blocked(policy: Policy, reference: ImageReference, *, insecure: bool) -> Refused | None:
    for pattern in policy.blocked:
        if _matches(pattern, reference, insecure=insecure, blocks=True):
            return Refused(BLOCKED, f"forbidden: registry {reference.host} blocked by the pattern {quoted(pattern)}")
    return None


def _not_allowed(policy: Policy, reference: ImageReference, *, insecure: bool) -> Refused | None:
    if not policy.allowed or any(_matches(p, reference, insecure=insecure, blocks=False) for p in policy.allowed):
        return None
    shown = policy.allowed if len(policy.allowed) <= 5 else policy.allowed[:4]
    names = ", ".join(quoted(pattern) for pattern in shown)
    more = "" if len(shown) == len(policy.allowed) else f", and {len(policy.allowed) - len(shown)} more ..."
    return Refused(NOT_ALLOWED, f'registry "{reference.host}" not allowed by whitelist: {names}{more}')


def _matches(pattern: str, reference: ImageReference, *, insecure: bool, blocks: bool) -> bool:
    wanted, _, wanted_path = pattern.lower().rstrip("/").partition("/")
    wanted_host, _, wanted_port = wanted.partition(":")
    host, _, port = reference.host.partition(":")
    names = DOCKER_HUB_ALIASES if host in DOCKER_HUB_ALIASES else {host}
    return (
        any(fnmatchcase(name, wanted_host) for name in names)
        and _port_matches(wanted_port, port, insecure=insecure, blocks=blocks)
        and _path_matches(wanted_path, reference.path.lower())
    )


def _port_matches(pattern: str, port: str, *, insecure: bool, blocks: bool) -> bool:
    standard = ("443", "80") if insecure else ("443",)
    if not pattern:
        return blocks or not port or port in standard
    asked = (port,) if port else standard
    # What may end at several ports must be allowed at all of them, and is blocked by one.
    matched = [fnmatchcase(candidate, pattern) for candidate in asked]
    return any(matched) if blocks else all(matched)


def _path_matches(pattern: str, path: str) -> bool:
    wanted, components = pattern.split("/") if pattern else [], path.split("/")
    return len(wanted) <= len(components) and all(map(fnmatchcase, components, wanted))


# Own tables rather than `ipaddress.is_private` and its like, whose answers have changed between releases of Python.
_ALWAYS_REFUSED: Final[tuple[tuple[Network, str], ...]] = (
    (IPv4Network("169.254.169.254/32"), "a cloud metadata address"),
    (IPv4Network("100.100.100.200/32"), "a cloud metadata address"),  # Alibaba
    (IPv4Network("168.63.129.16/32"), "a cloud metadata address"),  # Azure
    (IPv4Network("192.0.0.192/32"), "a cloud metadata address"),  # Oracle
    (IPv6Network("fd00:ec2::/32"), "a cloud metadata address"),  # AWS
    (IPv6Network("fd20:ce::254/128"), "a cloud metadata address"),  # Google
    (IPv6Network("fd00:42::42/128"), "a cloud metadata address"),  # Scaleway
    (IPv4Network("0.0.0.0/8"), "an unspecified address"),
    (IPv6Network("::/128"), "an unspecified address"),
    (IPv4Network("127.0.0.0/8"), "a loopback address"),
    (IPv6Network("::1/128"), "a loopback address"),
    (IPv4Network("169.254.0.0/16"), "a link-local address"),
    (IPv6Network("fe80::/10"), "a link-local address"),
    (IPv4Network("224.0.0.0/4"), "a multicast address"),
    (IPv6Network("ff00::/8"), "a multicast address"),
    (IPv4Network("240.0.0.0/4"), "a reserved address"),
    (IPv4Network("192.0.0.0/24"), "a reserved address"),
    (IPv6Network("::ffff:0:0/96"), "an IPv4-mapped IPv6 address"),
    (IPv6Network("::/96"), "an IPv4-compatible IPv6 address"),
    (IPv6Network("2001::/32"), "a tunnel address"),  # Teredo holds another host's IPv4 address
)
_LOOPBACK: Final[tuple[Network, ...]] = (IPv4Network("127.0.0.0/8"), IPv6Network("::1/128"))
_PRIVATE: Final[tuple[Network, ...]] = (
    IPv4Network("10.0.0.0/8"),
    IPv4Network("172.16.0.0/12"),
    IPv4Network("192.168.0.0/16"),
    IPv4Network("100.64.0.0/10"),  # carrier-grade NAT; several clouds use it for pods
    IPv4Network("198.18.0.0/15"),
    IPv6Network("fc00::/7"),
    IPv6Network("fec0::/10"),
    IPv6Network("64:ff9b:1::/48"),  # NAT64 with an operator's own prefix length: what it embeds cannot be told
)
_NAT64: Final = IPv6Network("64:ff9b::/96")
_6TO4: Final = IPv6Network("2002::/16")


def refuse_address(address: Address, policy: Policy, *, public_origin: bool = False) -> str | None:
    """Why an address must not be contacted, or None. Hosts with a listed transport are not asked about here.

    The answer completes "it resolves to ..." and holds no address, so that a retry gives the same message.

    Args:
        address: what a name resolved to; an IPv6 form that embeds an IPv4 address is judged by that too.
        policy: the installation's networks and strictness.
        public_origin: a public address led here (a redirect, a token realm); then private ones are refused as well.
    """
    for candidate in _meanings(address):
        for network, what in _ALWAYS_REFUSED:
            if candidate in network:
                return what
        if any(candidate in network for network in policy.refused_networks):
            return "an address of a refused network"
        if (policy.strict or public_origin) and any(candidate in network for network in _PRIVATE):
            return "a private address"
    return None


def _meanings(address: Address) -> tuple[Address, ...]:
    """The address, and the IPv4 address that a translator would make of it."""
    if isinstance(address, IPv4Address):
        return (address,)
    if address in _NAT64:
        return (address, IPv4Address(int(address) & 0xFFFFFFFF))
    if address in _6TO4:
        return (address, IPv4Address((int(address) >> 80) & 0xFFFFFFFF))
    return (address,)


_WEB_PORTS: Final = frozenset({80, 443})
# Where a cluster's own parts listen: etcd, the API server, kubelet, kube-proxy, scheduler, controller managers.
_CLUSTER_PORTS: Final = frozenset({2379, 2380, 6443, 10250, *range(10255, 10260)})


def refuse_port(port: int) -> str | None:
    """Why a port must not be contacted, or None. Hosts with a listed transport are not asked about here.

    The answer completes "it is not contacted at ...".
    """
    if port in _CLUSTER_PORTS:
        return f"port {port}, which is one of Kubernetes itself"
    if port < 1024 and port not in _WEB_PORTS:
        return f"port {port}, which is another service's"
    return None
