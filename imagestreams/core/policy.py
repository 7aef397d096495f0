"""Which registries may be asked, at which endpoint, how, and which addresses must never be contacted.

The rules are an administrator's. A tag can ask for an insecure connection for itself, but that never carries a
credential; only a host that the administrator lists as insecure gets one over plain http or unverified TLS.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from imagestreams.core.reference import DOCKER_HUB, DOCKER_HUB_ALIASES, ImageReference, quoted

if TYPE_CHECKING:
    from collections.abc import Mapping

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

BLOCKED: Final = "RegistryBlocked"
NOT_ALLOWED: Final = "RegistryNotAllowed"

_DOCKER_HUB_ENDPOINT: Final = "https://registry-1.docker.io"
_PORT = r"(?::(?P<port>[1-9][0-9]{0,4}))?"
_NAME = r"[a-z0-9_](?:[a-z0-9._-]*[a-z0-9])?"
_HOST = re.compile(rf"{_NAME}{_PORT}")
_ENDPOINT = re.compile(rf"https?://(?:{_NAME}|\[(?P<ipv6>[0-9a-f:.]+)\]){_PORT}/?")
_PATTERN = re.compile(r"[a-z0-9._*?-]+(?::[0-9*?]+)?(?:/[a-z0-9._*?-]+)*/?")


def _is_host(text: str) -> bool:
    parts = _HOST.fullmatch(text)
    return parts is not None and int(parts["port"] or 0) <= 65535


def _is_endpoint(text: str) -> bool:
    parts = _ENDPOINT.fullmatch(text)
    if parts is None or int(parts["port"] or 0) > 65535:
        return False
    try:
        return parts["ipv6"] is None or bool(IPv6Address(parts["ipv6"]))
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class HostRule:
    """What an administrator says about one registry host.

    `endpoint` is where it is asked instead (`http://kind-registry:5000` for `localhost:5001`): scheme, host and port
    only. `insecure` allows unverified TLS and plain http, credentials included; an http endpoint without it is asked
    anonymously. `ca_file` holds further CA certificates. `internal` exempts the host's addresses from the address rule;
    so does any other word here.

    Raises:
        ValueError: for an endpoint that is no such URL.
    """

    endpoint: str = ""
    insecure: bool = False
    ca_file: str = ""
    internal: bool = False

    def __post_init__(self) -> None:
        if self.endpoint and not _is_endpoint(self.endpoint.lower()):
            # What stands before an @ may be a password.
            shown = quoted(self.endpoint.rpartition("@")[2])
            raise ValueError(
                f"the endpoint {shown} must be http://host[:port] or https://host[:port], with nothing else"
            )

    @property
    def listed(self) -> bool:
        return bool(self.endpoint or self.insecure or self.ca_file or self.internal)


@dataclass(frozen=True, slots=True)
class Policy:
    """The rules of an installation.

    `hosts` maps `host` or `host:port`, as references name it, to its rule. `allowed` (empty means all) and `blocked`
    are patterns `host[:port][/path]`: `*` and `?` match within host, port or one component of the path, which is a
    prefix on a `/` boundary. An allowed pattern without a port means the standard port (443, or 80 too for an
    insecure tag), a blocked one every port. Docker Hub's names are one.

    `strict` refuses private addresses too; `refused_networks` are the cluster's own ranges.

    Raises:
        ValueError: naming the host or pattern that is malformed.
    """

    hosts: Mapping[str, HostRule]
    allowed: tuple[str, ...] = ()
    blocked: tuple[str, ...] = ()
    strict: bool = False
    refused_networks: tuple[Network, ...] = ()

    def __post_init__(self) -> None:
        hosts: dict[str, HostRule] = {}
        for host, rule in self.hosts.items():
            name = host.lower()
            if not _is_host(name):
                raise ValueError(f"the registry host {quoted(host)} must be host or host:port")
            name = DOCKER_HUB if name in DOCKER_HUB_ALIASES else name
            if name in hosts and hosts[name] != rule:
                raise ValueError(f"the registry host {quoted(host)} has two different rules (under two of its names)")
            hosts[name] = rule
        object.__setattr__(self, "hosts", MappingProxyType(hosts))
        for pattern in (*self.allowed, *self.blocked):
            if _PATTERN.fullmatch(pattern.lower()) is None:
                raise ValueError(f"the registry pattern {quoted(pattern)} must be host[:port][/path], * and ? allowed")


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
    """

    host: str
    endpoint: str
    insecure: bool
    credentials: bool
    ca_file: str
    listed: bool


@dataclass(frozen=True, slots=True)
class Refused:
    """The policy forbids the registry. `reason` becomes the condition's reason, `message` is for people."""

    reason: str
    message: str


def transport_for(policy: Policy, reference: ImageReference, *, insecure: bool) -> Transport | Refused:
    """How to reach the reference's registry, or why it must not be asked.

    Args:
        policy: what the administrator allows.
        reference: as the user wrote it: policy goes by its name, also where an endpoint or mirror answers for it.
        insecure: the tag's own wish.
    """
    rule = policy.hosts.get(reference.host, HostRule())
    unverified = insecure or rule.insecure
    if refused := _refused(policy, reference, insecure=unverified):
        return refused
    if rule.endpoint:
        endpoint = rule.endpoint.rstrip("/").lower()
    elif reference.host == DOCKER_HUB:
        endpoint = _DOCKER_HUB_ENDPOINT
    else:
        endpoint = f"https://{reference.host}"
    return Transport(
        host=reference.host,
        endpoint=endpoint,
        insecure=unverified,
        credentials=rule.insecure or (endpoint.startswith("https://") and not insecure),
        ca_file=rule.ca_file,
        listed=rule.listed,
    )


def _refused(policy: Policy, reference: ImageReference, *, insecure: bool) -> Refused | None:
    for pattern in policy.blocked:
        if _matches(pattern, reference, insecure=insecure, blocks=True):
            return Refused(BLOCKED, f"forbidden: registry {reference.host} blocked by the pattern {quoted(pattern)}")
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
    names = DOCKER_HUB_ALIASES if reference.host == DOCKER_HUB else {host}
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


def is_public(address: Address) -> bool:
    """Whether an address belongs to the internet at large, so that it must not lead to a private one."""
    return not any(
        candidate in network
        for candidate in _meanings(address)
        for network in (*_PRIVATE, *(network for network, _ in _ALWAYS_REFUSED))
    )


def _meanings(address: Address) -> tuple[Address, ...]:
    """The address, and the IPv4 address that a translator would make of it."""
    if isinstance(address, IPv4Address):
        return (address,)
    if address in _NAT64:
        return (address, IPv4Address(int(address) & 0xFFFFFFFF))
    if address in _6TO4:
        return (address, IPv4Address((int(address) >> 80) & 0xFFFFFFFF))
    return (address,)
