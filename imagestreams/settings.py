"""Every setting of the controller: one table of names, defaults, units and words, and the rules by which a value is
taken or refused.

The table is the class `Settings`: each field carries its kind (unit and grammar), its default and its help. From a
field's name follow its three spellings: flag `--min-interval`, environment variable `IMAGESTREAMS_MIN_INTERVAL`, key
`minInterval` in the file that `--config` or `IMAGESTREAMS_CONFIG` names. A flag beats the environment, the environment
beats the file, the file beats the default; a list or map is replaced as a whole, never merged. What is unknown,
unreadable or contradicting is refused, all of it at once, each with its name, where it came from and the way out.

This module does no I/O: flags, environment and the reading of a file are arguments.
"""

# ruff: noqa: RUF009  # _setting() makes a dataclass field; ruff knows only dataclasses.field

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Generic, Literal, NamedTuple, TypeVar

from imagestreams.core.duration import parse_duration, show_duration

# The command line uses this module's table and must start fast: what only a given value needs (policy, YAML) is
# imported where it is read.
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from imagestreams.core.policy import Rate

# The API group of every kind that we serve. `image.openshift.io` is what OpenShift manifests, `oc` and the triggers
# annotation name; the other is for clusters where an operator takes the mere presence of the first for OpenShift.
DEFAULT_GROUP: Final = "image.openshift.io"
GROUPS: Final = (DEFAULT_GROUP, "imagestreams.dev")
VERSION: Final = "v1"

Group = Literal["image.openshift.io", "imagestreams.dev"]
Mode = Literal["PreserveOriginal", "Legacy"]
Drift = Literal["respect", "enforce"]
LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["json", "console"]
PullSecrets = Literal["namespace", "linked"]
Mirrors = tuple[tuple[str, str], ...]
"""Source and mirror, in the order given; a source may come several times."""
Network = IPv4Network | IPv6Network

PREFIX: Final = "IMAGESTREAMS_"
CONFIG_VARIABLE: Final = "IMAGESTREAMS_CONFIG"
DEFAULT_LEASE_NAMESPACE: Final = "imagestreams-system"
POD_NAMESPACE_FILE: Final = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"

T = TypeVar("T")
_Ordered = TypeVar("_Ordered", int, timedelta)
_Choice = TypeVar("_Choice", bound=str)


# ---- kinds of values: how each is written, and what is said when it is not ----


@dataclass(frozen=True, slots=True)
class Kind(Generic[T]):
    """How a value is written.

    `parse` takes its one text or, where `many`, the items, and raises ValueError with the way out; `show` writes it
    back. What is `secret` may hold a password: no message repeats it, and `show` hides that part.
    """

    metavar: str
    parse: Callable[[Sequence[str]], T]
    show: Callable[[T], str]
    many: bool = False
    secret: bool = False


class HostPort(NamedTuple):
    """Where to listen. An empty host means every address; port 0 lets the system choose."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


_SIZE_UNITS = {"": 1, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}
_SIZE = re.compile(r"(\d{1,15})(Ki|Mi|Gi)?B?", re.ASCII)


def parse_size(text: str) -> int:
    """Read bytes: "1048576", "512Ki", "1Mi" (a final B is allowed)."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError("is no size; write bytes, or a whole number with Ki, Mi or Gi, such as 1Mi")
    return int(match[1]) * _SIZE_UNITS[match[2] or ""]


def show_size(value: int) -> str:
    for unit in ("Gi", "Mi", "Ki"):
        if value and value % _SIZE_UNITS[unit] == 0:
            return f"{value // _SIZE_UNITS[unit]}{unit}"
    return str(value)


def _single(parse: Callable[[str], T]) -> Callable[[Sequence[str]], T]:
    """A kind with one value: no more may be given."""

    def read(texts: Sequence[str]) -> T:
        if len(texts) != 1:
            raise ValueError("holds more than one value")
        return parse(texts[0].strip())

    return read


def _within(value: _Ordered, low: _Ordered, high: _Ordered, show: Callable[[_Ordered], str]) -> _Ordered:
    if value < low:
        raise ValueError(f"is too small; the least is {show(low)}")
    if value > high:
        raise ValueError(f"is too large; the most is {show(high)}")
    return value


def _duration(low: str, high: str) -> Kind[timedelta]:
    least, most = parse_duration(low), parse_duration(high)
    return Kind(
        "DURATION", _single(lambda text: _within(parse_duration(text), least, most, show_duration)), show_duration
    )


def _number(low: int, high: int) -> Kind[int]:
    def read(text: str) -> int:
        if re.fullmatch(r"\d{1,9}", text, re.ASCII) is None:
            raise ValueError(f"is no whole number; write one from {low} to {high}")
        return _within(int(text), low, high, str)

    return Kind("NUMBER", _single(read), str)


def _size(low: str, high: str) -> Kind[int]:
    least, most = parse_size(low), parse_size(high)
    return Kind("SIZE", _single(lambda text: _within(parse_size(text), least, most, show_size)), show_size)


def _switch(text: str) -> bool:
    if text in {"true", "True"}:
        return True
    if text in {"false", "False"}:
        return False
    raise ValueError("is neither true nor false")


def _choice(*options: _Choice) -> Kind[_Choice]:
    def read(text: str) -> _Choice:
        for option in options:
            if option == text:
                return option
        raise ValueError(f"is not known; write {' or '.join(options)}")

    return Kind("|".join(options), _single(read), str)


def _matching(pattern: str, words: str) -> Callable[[str], str]:
    expression = re.compile(pattern, re.ASCII)

    def read(text: str) -> str:
        if expression.fullmatch(text) is None:
            raise ValueError(words)
        return text

    return read


def _host_port(text: str) -> HostPort:
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError("has an IPv6 address without brackets; write [::]:8080")
    if not colon or re.fullmatch(r"\d{1,5}", port, re.ASCII) is None or int(port) > 65535:
        raise ValueError("is no address to listen on; write HOST:PORT, such as 0.0.0.0:8080 or :8080")
    return HostPort(host, int(port))


def _certificate_name(text: str) -> str:
    if re.fullmatch(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?", text, re.ASCII):
        return text
    try:
        return str(ip_address(text))
    except ValueError:
        raise ValueError("is no DNS name and no address; write it as the API server's URL has it") from None


_HUB_ALIASES = frozenset({"index.docker.io", "registry-1.docker.io"})
_HOST = re.compile(r"(?P<name>[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:.]+\])(?::(?P<port>[1-9]\d{0,4}))?", re.ASCII)


def _is_host(text: str, *, brackets: bool) -> bool:
    """Whether it is host or host:port; an IPv6 address, which references cannot hold, needs `brackets` allowed."""
    match = _HOST.fullmatch(text)
    if match is None or int(match["port"] or 0) > 65535:
        return False
    if not match["name"].startswith("["):
        return True
    try:
        return brackets and ip_address(match["name"].strip("[]")).version == 6
    except ValueError:
        return False


def _registry_host(text: str) -> str:
    if text in _HUB_ALIASES:
        raise ValueError("is another name of Docker Hub; write docker.io")
    if not _is_host(text, brackets=False):
        raise ValueError(
            "is no registry host; write host or host:port in lower case, as image references do, without https://"
        )
    return text


def _endpoint(text: str) -> str:
    if "@" in text:
        raise ValueError("must not hold a user or password; registry credentials come from Secrets")
    scheme, separator, host = text.rstrip("/").partition("://")
    if scheme not in {"http", "https"} or not _is_host(host, brackets=True):
        raise ValueError(
            "is no endpoint; write http:// or https://, a host and at most a port, such as https://mirror.example:5000"
        )
    return f"{scheme}{separator}{host}"


def _file_name(text: str) -> str:
    if not text:
        raise ValueError("names no file")
    return text


def _network(text: str) -> Network:
    try:
        return ip_network(text)
    except ValueError as error:
        raise ValueError(
            "is no network; write an address and a prefix length without host bits, such as 10.0.0.0/8"
        ) from error


def _items(kind: str, parse: Callable[[str], T], *, skip_empty: bool = False) -> Kind[tuple[T, ...]]:
    def read(texts: Sequence[str]) -> tuple[T, ...]:
        found: dict[T, None] = {}
        for text in texts:
            if text.strip() or not skip_empty:
                found[_naming(text.strip(), parse)] = None
        return tuple(found)

    return Kind(kind, read, lambda values: ",".join(map(str, values)), many=True)


def _pairs(
    metavar: str, parse: Callable[[str], T], show: Callable[[T], str] = str, *, secret: bool = False
) -> Kind[Mapping[str, T]]:
    def read(texts: Sequence[str]) -> Mapping[str, T]:
        found: dict[str, T] = {}
        for text in texts:
            name, value = _pair(text, metavar, secret=secret)
            host = _hiding("a host", name, _registry_host) if secret else _naming(name, _registry_host)
            taken = _hiding(f"a value for {host}", value, parse) if secret else _naming(value, parse)
            if found.setdefault(host, taken) != taken:
                raise ValueError(f'gives "{host}" twice, with different values; keep one')
        return MappingProxyType(found)

    def shown(pairs: Mapping[str, T]) -> str:
        return ",".join(f"{name}={show(value)}" for name, value in pairs.items())

    return Kind(metavar, read, shown, many=True, secret=secret)


def _pair(text: str, metavar: str, *, secret: bool = False) -> tuple[str, str]:
    name, equals, value = (part.strip() for part in text.partition("="))
    if not equals:
        item = "an item" if secret else f'"{_quotable(name)}"'
        raise ValueError(f'has {item}, which lacks "="; write {metavar}')
    return name, value


def _hiding(what: str, text: str, parse: Callable[[str], T]) -> T:
    """A part of a pair that is not to be repeated: a comma in a password makes its rest look like anything."""
    try:
        return parse(text)
    except ValueError as error:
        raise ValueError(f"has {what} which {error}") from None


def _read_mirrors(texts: Sequence[str]) -> Mirrors:
    from imagestreams.core.policy import Mirror, MirrorRule  # noqa: PLC0415

    found: dict[tuple[str, str], None] = {}
    for text in texts:
        source, location = _pair(text, "SOURCE=MIRROR")
        try:
            mirror = Mirror(location)
            found[MirrorRule(source, (mirror,)).source, mirror.location] = None
        except ValueError as error:
            raise ValueError(f'has "{_quotable(text)}", where {error}') from None
    return tuple(found)


def _rate(text: str) -> Rate:
    from imagestreams.core.policy import parse_rate  # noqa: PLC0415

    return parse_rate(text)


def _proxy(text: str) -> str:
    """A proxy's URL, or "none". As other programs read these variables, a URL may lack its scheme."""
    from imagestreams.core.policy import DIRECT, is_proxy  # noqa: PLC0415

    url = text if text in {"", DIRECT} or "://" in text else f"http://{text}"
    if url not in {"", DIRECT} and not is_proxy(url):
        raise ValueError(
            "is no proxy; write http[s]://[user:password@]host[:port], with @ and comma in the password as %40 and "
            "%2C, or none for direct connections"
        )
    return url


def _own_proxy(text: str) -> str:
    return _proxy(text) or "none"


def _general_proxy(text: str) -> str:
    url = _proxy(text)
    return "" if url == "none" else url


def _without_password(url: str) -> str:
    scheme, separator, rest = url.rpartition("://")
    _, at, host = rest.rpartition("@")
    return f"{scheme}{separator}***@{host}" if at else url


def _naming(text: str, parse: Callable[[str], T]) -> T:
    """One of many: the message must say which."""
    try:
        return parse(text)
    except ValueError as error:
        raise ValueError(f'has "{_quotable(text)}", which {error}') from error


def _quotable(text: str) -> str:
    """A value as a message may show it: on one line, not endless, and without what may be a password."""
    _, at, rest = " ".join(text.split()).rpartition("@")
    return f"***@{rest}"[:200] if at else rest[:200]


_NAMESPACE = _matching(
    r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", "is no namespace; write lower-case letters, digits and dashes, at most 63"
)
_OBJECT_NAME = _matching(
    r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?",
    "is no name of an object; write lower-case letters, digits, dashes and dots",
)
_PATTERN = _matching(
    r"[a-z0-9._*?-]+(?::[0-9*?]+)?(?:/[a-z0-9._*?-]+)*/?",
    "is no pattern of registries; write host[:port][/path] in lower case, * and ? match within a part",
)
_MANAGER = _matching(
    r"[\x21-\x2b\x2d-\x7e]{1,128}",
    "is no field manager; write its name as `kubectl get -o yaml --show-managed-fields` shows it",
)
_NAMESPACES = _matching(
    r"[a-z0-9*?](?:[a-z0-9*?-]{0,61}[a-z0-9*?])?",
    "is no pattern of namespaces; write lower-case letters, digits and dashes, * and ? allowed",
)


def _prefix(text: str) -> str:
    from imagestreams.core.keychain import InstallWide  # noqa: PLC0415

    try:
        (prefix,) = InstallWide(repositories=(text,)).repositories
    except ValueError:
        raise ValueError(
            "is no prefix of repositories; write host[:port][/path] with the host, such as docker.io/acme"
        ) from None
    return prefix


_EXEMPTED = _matching(r"[^\s,@]{1,255}", "is none; write a host, a .domain, host:port, an address or network, or *")
_PLATFORM = _matching(
    r"[a-z0-9]+/[a-z0-9_]+(?:/[a-z0-9._]+)?",
    "is no platform; write os/architecture, such as linux/amd64 or linux/arm/v7",
)

_TEXT: Final[Kind[str]] = Kind("TEXT", _single(str), str)
_FILE: Final[Kind[str]] = Kind("FILE", _single(str), str)
_SWITCH: Final[Kind[bool]] = Kind("true|false", _single(_switch), lambda value: "true" if value else "false")
_PROXY: Final[Kind[str]] = Kind("TEXT", _single(_general_proxy), _without_password, secret=True)
_PULL_SECRETS: Final[Kind[PullSecrets]] = _choice("namespace", "linked")
_RATES: Final[Kind[Mapping[str, Rate]]] = _pairs("HOST=N/UNIT", _rate)
_GROUP: Final[Kind[Group]] = _choice("image.openshift.io", "imagestreams.dev")
_MODE: Final[Kind[Mode]] = _choice("PreserveOriginal", "Legacy")
_DRIFT: Final[Kind[Drift]] = _choice("respect", "enforce")
_LOG_LEVEL: Final[Kind[LogLevel]] = _choice("debug", "info", "warning", "error")
_LOG_FORMAT: Final[Kind[LogFormat]] = _choice("json", "console")
_OPTIONAL_NAME: Final[Kind[str]] = Kind("NAME", _single(lambda text: _OBJECT_NAME(text) if text else ""), str)
_HOSTS: Final = _items("HOST", _registry_host)
_PATTERNS: Final = _items("PATTERN", _PATTERN)

_NONE: Final[Mapping[str, str]] = MappingProxyType({})
_NO_RATES: Final[Mapping[str, Rate]] = MappingProxyType({})


# ---- the table ----


def _setting(kind: Kind[T], default: T, section: str, words: str, *, shown: str | None = None) -> T:
    """A row: `shown` is printed in place of a default that is only known at start."""
    row = {"kind": kind, "section": section, "help": words, "shown": shown if shown is not None else kind.show(default)}
    return dataclasses.field(default_factory=lambda: default, metadata=row, repr=not kind.secret)


_CLUSTER = "Cluster"
_WRITES = "What it writes"
_WHEN = "When it looks"
_REGISTRIES = "Registries"
_CREDENTIALS = "Credentials"
_STATUS = "Imports"
_WEBHOOKS = "Webhooks"
_PROCESS = "Process"
_LEASE = "Lease"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The controller's settings, checked. Durations are timedelta, sizes bytes; an empty text means "not set"."""

    kubeconfig: str = _setting(
        _FILE,
        "",
        _CLUSTER,
        "Kubeconfig file.",
        shown="the pod's service account; outside a pod $KUBECONFIG or ~/.kube/config",
    )
    context: str = _setting(_TEXT, "", _CLUSTER, "Context of the kubeconfig.", shown="its current context")
    api_group: Group = _setting(_GROUP, DEFAULT_GROUP, _CLUSTER, "API group that the installed CRDs have.")

    observe: bool = _setting(
        _SWITCH,
        False,
        _WRITES,
        "Write the status of image streams but change no workload; say in log and Events what would have been done.",
    )
    drift: Drift = _setting(
        _DRIFT,
        "respect",
        _WRITES,
        "When somebody changed a followed image by hand: respect it until the tag moves, or enforce the tag's image.",
    )
    manifest_managers: tuple[str, ...] = _setting(
        _items("MANAGER", _MANAGER),
        (),
        _WRITES,
        "Further field managers whose write means that a manifest was applied again.",
    )
    excluded_namespaces: tuple[str, ...] = _setting(
        _items("NAMESPACE", _NAMESPACE),
        ("kube-system",),
        _WRITES,
        "Namespaces in which no workload is ever changed; the controller's own is always one.",
    )

    interval: timedelta = _setting(
        _duration("1s", "720h"), timedelta(minutes=15), _WHEN, "How often a scheduled tag is looked up."
    )
    min_interval: timedelta = _setting(
        _duration("1s", "720h"),
        timedelta(minutes=1),
        _WHEN,
        "Shortest interval that an annotation of a stream or --interval may ask for.",
    )
    refresh_floor: timedelta = _setting(
        _duration("0", "1h"), timedelta(seconds=1), _WHEN, "Shortest time between two look-ups of one tag by request."
    )
    retry_base: timedelta = _setting(
        _duration("100ms", "1h"), timedelta(seconds=10), _WHEN, "First delay before a failed look-up is tried again."
    )
    retry_cap: timedelta = _setting(
        _duration("1s", "24h"), timedelta(minutes=15), _WHEN, "Longest delay, up to which it doubles."
    )
    settle: timedelta = _setting(
        _duration("0", "1m"),
        timedelta(milliseconds=200),
        _WHEN,
        "How long a stream's first answer waits for its others, to be written together.",
    )

    import_mode: Mode = _setting(
        _MODE,
        "PreserveOriginal",
        _STATUS,
        "What a tag records that does not say: the digest that it serves, or the image of one platform.",
    )
    legacy_platform: str = _setting(
        Kind("OS/ARCH", _single(_PLATFORM), str), "linux/amd64", _STATUS, "Platform that Legacy mode records."
    )
    history_limit: int = _setting(_number(1, 1000), 10, _STATUS, "Images kept in the history of a tag.")
    status_budget: int = _setting(
        _size("64Ki", "1400Ki"),
        1 << 20,
        _STATUS,
        "Size of a stream's status; beyond it the oldest history goes first. etcd takes 1.5Mi an object.",
    )

    repository_tags: int = _setting(
        _number(1, 20_000),
        1000,
        _STATUS,
        "Tags that the import of a whole repository takes; the newest versions come first.",
    )
    flap_window: timedelta = _setting(
        _duration("0", "24h"),
        timedelta(hours=1),
        _STATUS,
        "Time in which a tag that returns to images it has left, again and again, keeps the newest; 0 follows at once.",
    )
    import_ttl: timedelta = _setting(
        _duration("10s", "720h"),
        timedelta(minutes=10),
        _STATUS,
        "Time after which an ImageStreamImport that is done is deleted.",
    )
    image_objects: bool = _setting(
        _SWITCH, False, _STATUS, "Write an Image object for each image that a stream's status names."
    )
    image_object_budget: int = _setting(
        _number(0, 100_000), 500, _STATUS, "Image objects that one namespace's streams may cause."
    )
    image_object_grace: timedelta = _setting(
        _duration("1m", "8760h"),
        timedelta(hours=24),
        _STATUS,
        "Time after which an Image object that no stream names any more is deleted.",
    )

    lane_concurrency: int = _setting(_number(1, 128), 8, _REGISTRIES, "Look-ups at one registry at a time.")
    max_lanes: int = _setting(
        _number(1, 65536), 256, _REGISTRIES, "Registry hosts asked side by side; further hosts wait for a free place."
    )
    connect_timeout: timedelta = _setting(
        _duration("100ms", "10m"), timedelta(seconds=10), _REGISTRIES, "Limit for connecting to a registry."
    )
    request_timeout: timedelta = _setting(
        _duration("100ms", "1h"),
        timedelta(seconds=30),
        _REGISTRIES,
        "Limit for one request to a registry, connecting included.",
    )
    registry_endpoint: Mapping[str, str] = _setting(
        _pairs("HOST=URL", _endpoint),
        _NONE,
        _REGISTRIES,
        "Ask URL for what references name HOST, e.g. localhost:5001=http://kind-registry:5000.",
    )
    insecure_registry: tuple[str, ...] = _setting(
        _HOSTS,
        (),
        _REGISTRIES,
        "Hosts that may be asked over plain http or with an unverified certificate, credentials included.",
    )
    internal_registry: tuple[str, ...] = _setting(
        _HOSTS,
        (),
        _REGISTRIES,
        "Hosts that may live at loopback, link-local or cluster addresses, which are refused otherwise.",
    )
    registry_ca: Mapping[str, str] = _setting(
        _pairs("HOST=FILE", _file_name),
        _NONE,
        _REGISTRIES,
        "PEM file with the certificate authorities to trust for HOST.",
    )
    registry_proxy: Mapping[str, str] = _setting(
        _pairs("HOST=URL|none", _own_proxy, _without_password, secret=True),
        _NONE,
        _REGISTRIES,
        "Ask HOST through this HTTP proxy, or through none, whatever the three settings below say.",
    )
    http_proxy: str = _setting(_PROXY, "", _REGISTRIES, "Proxy for registries at http.", shown="$HTTP_PROXY")
    https_proxy: str = _setting(_PROXY, "", _REGISTRIES, "Proxy for registries at https.", shown="$HTTPS_PROXY")
    no_proxy: tuple[str, ...] = _setting(
        _items("TEXT", _EXEMPTED, skip_empty=True),
        (),
        _REGISTRIES,
        "Hosts that are asked directly: a host with all below it, .domain, host:port, an address or network, or *.",
        shown="$NO_PROXY",
    )
    registry_rate: Mapping[str, Rate] = _setting(
        _RATES,
        _NO_RATES,
        _REGISTRIES,
        "Requests that HOST gets at most, e.g. quay.io=5/s; the unit is s, m, h or a duration.",
        shown="docker.io=40/4s",
    )
    registry_pulls: Mapping[str, Rate] = _setting(
        _RATES,
        _NO_RATES,
        _REGISTRIES,
        "Manifests that are read of HOST at most, with each credential, e.g. registry.example=100/6h.",
        shown="docker.io=100/6h, with a login 200/6h",
    )
    mirror: Mirrors = _setting(
        Kind(
            "SOURCE=MIRROR",
            _read_mirrors,
            lambda pairs: ",".join(f"{source}={location}" for source, location in pairs),
            many=True,
        ),
        (),
        _REGISTRIES,
        "Ask MIRROR, host[:port][/path], first for images below SOURCE, a prefix of their names or *.host.",
    )
    registries_file: str = _setting(
        _FILE, "", _REGISTRIES, "YAML file of hosts, mirrors, allowed and blocked; it is read again when it changes."
    )
    registries_configmap: str = _setting(
        _OPTIONAL_NAME,
        "imagestreams-registries",
        _REGISTRIES,
        "ConfigMap in the Lease's namespace with the same under registries.yaml; empty reads none.",
    )
    local_registry_hosting: bool = _setting(
        _SWITCH,
        True,
        _REGISTRIES,
        "Find a development cluster's registry at localhost by the ConfigMap kube-public/local-registry-hosting.",
    )
    mirror_sets: bool = _setting(
        _SWITCH,
        True,
        _REGISTRIES,
        "Use ImageDigestMirrorSets and ImageTagMirrorSets where the cluster has them.",
    )
    allowed_registry: tuple[str, ...] = _setting(
        _PATTERNS, (), _REGISTRIES, "Only these may be asked.", shown="every registry"
    )
    blocked_registry: tuple[str, ...] = _setting(
        _PATTERNS, (), _REGISTRIES, "These are never asked, even where allowed."
    )
    refused_network: tuple[Network, ...] = _setting(
        _items("CIDR", _network),
        (),
        _REGISTRIES,
        "Further networks in which no registry is contacted, such as the cluster's pods and services.",
    )
    strict_addresses: bool = _setting(
        _SWITCH, False, _REGISTRIES, "Refuse all private addresses, unless the host is listed in a setting above."
    )

    pull_secrets: PullSecrets = _setting(
        _PULL_SECRETS,
        "namespace",
        _CREDENTIALS,
        "Use all pull secrets of a stream's namespace, or only those linked to its default service account or named by "
        "the stream.",
    )
    install_secret: str = _setting(
        _OPTIONAL_NAME,
        "",
        _CREDENTIALS,
        "Pull secret in the Lease's namespace for those that the two settings below list, after their own.",
    )
    install_secret_namespace: tuple[str, ...] = _setting(
        _items("NAMESPACE", _NAMESPACES), (), _CREDENTIALS, "Namespaces that it serves; * and ? allowed."
    )
    install_secret_repository: tuple[str, ...] = _setting(
        _items("PREFIX", _prefix), (), _CREDENTIALS, "Repositories that it serves: host[:port][/path]."
    )

    webhook_address: HostPort | None = _setting(
        Kind("HOST:PORT", _single(lambda text: _host_port(text) if text else None), lambda value: str(value or "")),
        None,
        _WEBHOOKS,
        "Where admission webhooks are served, over TLS, such as 0.0.0.0:9443; empty serves none.",
    )
    webhooks_only: bool = _setting(
        _SWITCH, False, _WEBHOOKS, "Serve webhooks and do nothing else: a process of their own beside the controller's."
    )
    webhook_configuration: str = _setting(
        Kind("NAME", _single(_OBJECT_NAME), str),
        "imagestreams",
        _WEBHOOKS,
        "MutatingWebhookConfiguration whose certificate authority and paths are kept right.",
    )
    webhook_secret: str = _setting(
        Kind("NAME", _single(_OBJECT_NAME), str),
        "imagestreams-webhook",
        _WEBHOOKS,
        "Secret in the Lease's namespace with the webhooks' keys; it is made where there is none.",
    )
    webhook_tls_secret: str = _setting(
        _OPTIONAL_NAME,
        "",
        _WEBHOOKS,
        "Secret there of type kubernetes.io/tls, such as cert-manager's, to serve with instead of a certificate of our "
        "own.",
    )
    webhook_service: str = _setting(
        Kind("NAME", _single(_OBJECT_NAME), str),
        "imagestreams-webhook",
        _WEBHOOKS,
        "Service there by which the API server reaches the webhooks; the certificate is made out to it.",
    )
    webhook_name: tuple[str, ...] = _setting(
        _items("NAME", _certificate_name),
        (),
        _WEBHOOKS,
        "Further DNS names and addresses in the certificate, where the API server uses a URL.",
    )
    webhook_controller: str = _setting(
        _TEXT,
        "",
        _WEBHOOKS,
        "User name by which the API server knows the controller: it alone may change import requests.",
        shown="the user that this process is",
    )
    webhook_client_ca: str = _setting(
        _FILE, "", _WEBHOOKS, "PEM file with the authority of the API server's client certificate, to know it by that."
    )
    webhook_client_name: str = _setting(_TEXT, "", _WEBHOOKS, "Common name in that certificate.")

    http_address: HostPort = _setting(
        Kind("HOST:PORT", _single(_host_port), str),
        HostPort("0.0.0.0", 8080),  # noqa: S104  # probes and Prometheus come from outside the pod
        _PROCESS,
        "Where metrics and health are served; port 0 takes a free one.",
    )
    workers: int = _setting(_number(1, 256), 8, _PROCESS, "Streams, and workloads, reconciled at a time.")
    shutdown_grace: timedelta = _setting(
        _duration("0", "10m"), timedelta(seconds=10), _PROCESS, "Time to finish what was begun when told to stop."
    )
    log_level: LogLevel = _setting(_LOG_LEVEL, "info", _PROCESS, "Least important messages that are logged.")
    log_format: LogFormat = _setting(
        _LOG_FORMAT, "json", _PROCESS, "One JSON object per line, or coloured lines for people."
    )

    lease_name: str = _setting(
        Kind("NAME", _single(_OBJECT_NAME), str),
        "imagestreams",
        _LEASE,
        "Lease by which replicas agree on the one that works.",
    )
    lease_namespace: str = _setting(
        Kind("NAMESPACE", _single(_NAMESPACE), str),
        DEFAULT_LEASE_NAMESPACE,
        _LEASE,
        "Namespace of the Lease.",
        shown=f"the pod's namespace; outside a pod {DEFAULT_LEASE_NAMESPACE}",
    )
    lease_duration: timedelta = _setting(
        _duration("3s", "10m"),
        timedelta(seconds=15),
        _LEASE,
        "Time after which another replica takes over from a silent one.",
    )
    identity: str = _setting(_TEXT, "", _LEASE, "This process's name in the Lease.", shown="host name and process id")


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the table, with its spellings. `shown` is the default in words."""

    name: str
    kind: Kind[object]
    section: str
    help: str
    shown: str

    @property
    def title(self) -> str:
        """As messages name it: "min-interval"."""
        return _title(self.name)

    @property
    def flag(self) -> str:
        return f"--{self.title}"

    @property
    def variable(self) -> str:
        return PREFIX + self.name.upper()

    @property
    def key(self) -> str:
        """In the file: "minInterval"."""
        first, *rest = self.name.split("_")
        return first + "".join(word.capitalize() for word in rest)


TABLE: Final[tuple[Setting, ...]] = tuple(
    Setting(
        field.name, field.metadata["kind"], field.metadata["section"], field.metadata["help"], field.metadata["shown"]
    )
    for field in dataclasses.fields(Settings)
)


def show(settings: Settings) -> dict[str, str]:
    """Every setting as it would be written, by name; `load` reads the same settings back from it, except that passwords
    of proxies are hidden.
    """
    return {row.name: row.kind.show(getattr(settings, row.name)) for row in TABLE}


# ---- taking values ----


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a setting is refused: its name, where the value came from, the value (None: not to be shown), what to do."""

    setting: str
    origin: str
    value: str | None
    words: str

    def __str__(self) -> str:
        value = "" if self.value is None else f' "{self.value}"'
        return f"{self.setting}:{value} from {self.origin} {self.words}"


class InvalidSettings(ValueError):
    """The settings cannot be used as they are. The text has one line per problem."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


class _Given(NamedTuple):
    """What one source says about one setting."""

    origin: str
    texts: tuple[str, ...]


def load(flags: Mapping[str, object], environ: Mapping[str, str], read_file: Callable[[str], str]) -> Settings:
    """The settings that flags, environment and file give together.

    Args:
        flags: by field name, and "config"; None or an empty tuple means that the flag was not given. Texts, tuples of
            texts, or booleans.
        environ: the process's environment.
        read_file: gives a file's text or raises OSError or UnicodeDecodeError; asked for the configuration file and,
            in a pod, for its namespace.

    Raises:
        InvalidSettings: with every problem that was found.
    """
    problems: list[Problem] = []
    sources = (
        _from_flags(flags, problems),
        _from_environment(environ, problems),
        _from_file(_config_file(flags, environ), read_file, problems),
    )
    values: dict[str, object] = {}
    origins: dict[str, str] = {}
    fallback = _from_usual_variables(environ)
    for row in TABLE:
        given = next((source[row.name] for source in (*sources, fallback) if row.name in source), None)
        if given is None:
            continue
        origins[row.name] = given.origin
        try:
            values[row.name] = row.kind.parse(given.texts)
        except ValueError as error:
            value = None if row.kind.secret else _quotable(",".join(given.texts))
            problems.append(Problem(row.title, given.origin, value, str(error)))
    if "lease_namespace" not in origins and not values.get("kubeconfig") and not values.get("context"):
        values["lease_namespace"] = _pod_namespace(environ, read_file) or DEFAULT_LEASE_NAMESPACE
    if problems:
        raise InvalidSettings(problems)
    settings = Settings(**values)  # type: ignore[arg-type]  # each was parsed by its own row's kind
    if contradictions := _contradictions(settings, origins):
        raise InvalidSettings(contradictions)
    return settings


def _config_file(flags: Mapping[str, object], environ: Mapping[str, str]) -> _Given | None:
    if path := flags.get("config"):
        return _Given("flag --config", (str(path),))
    if path := environ.get(CONFIG_VARIABLE):
        return _Given(f"environment variable {CONFIG_VARIABLE}", (path,))
    return None


def _texts(row: Setting, text: str) -> tuple[str, ...]:
    """A list in one text is separated by commas; an empty text is an empty list."""
    if not row.kind.many:
        return (text,)
    return tuple(text.split(",")) if text.strip() else ()


def _from_flags(flags: Mapping[str, object], problems: list[Problem]) -> dict[str, _Given]:
    rows = {row.name: row for row in TABLE}
    found: dict[str, _Given] = {}
    for name, value in flags.items():
        if value is None or value == () or name == "config":
            continue
        row = rows.get(name)
        if row is None:
            problems.append(Problem(name, "flags", _quotable(str(value)), f"is not known{_nearest(name, rows)}"))
            continue
        many = value if isinstance(value, (tuple, list)) else (value,)
        given = [str(item).lower() if isinstance(item, bool) else str(item) for item in many]
        found[name] = _Given(f"flag {row.flag}", tuple(text for item in given for text in _texts(row, item)))
    return found


# With service links on, Kubernetes sets these in every pod for each Service of the namespace, and one named
# "imagestreams" is likely.
_SERVICE_LINK = re.compile(
    r"IMAGESTREAMS(?:_[A-Z0-9_]+)?_"
    r"(?:SERVICE_HOST|SERVICE_PORT(?:_[A-Z0-9_]+)?|PORT(?:_\d+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)?)"
)


def _from_environment(environ: Mapping[str, str], problems: list[Problem]) -> dict[str, _Given]:
    rows = {row.variable: row for row in TABLE}
    found: dict[str, _Given] = {}
    for variable, text in environ.items():
        row = rows.get(variable)
        if row is not None:
            found[row.name] = _Given(f"environment variable {variable}", _texts(row, text))
        elif variable.startswith(PREFIX) and variable != CONFIG_VARIABLE and _SERVICE_LINK.fullmatch(variable) is None:
            problems.append(
                Problem(
                    variable,
                    "the environment",
                    None,
                    f"is no setting{_nearest(variable, rows)}; unset it, or correct its name",
                )
            )
    return found


_USUAL_VARIABLES: Final = {"http_proxy": "HTTP_PROXY", "https_proxy": "HTTPS_PROXY", "no_proxy": "NO_PROXY"}


def _from_usual_variables(environ: Mapping[str, str]) -> dict[str, _Given]:
    """What the variables say that other programs go by, too."""
    found: dict[str, _Given] = {}
    for row in TABLE:
        name = _USUAL_VARIABLES.get(row.name, "")
        variable = next((each for each in (name, name.lower()) if environ.get(each)), None)
        if variable is not None:
            found[row.name] = _Given(f"environment variable {variable}", _texts(row, environ[variable]))
    return found


def _from_file(config: _Given | None, read_file: Callable[[str], str], problems: list[Problem]) -> dict[str, _Given]:
    if config is None:
        return {}
    path = config.texts[0]
    try:
        content = _parse_yaml(read_file(path))
    except (OSError, UnicodeDecodeError, ValueError) as error:
        problems.append(Problem("config", config.origin, path, f"cannot be read: {_reason(error)}"))
        return {}
    rows = {row.key: row for row in TABLE}
    found: dict[str, _Given] = {}
    for key, value in content.items():
        row = rows.get(key)
        if row is None:
            problems.append(
                Problem(key, path, None, f"is no setting{_nearest(key, rows)}; remove it, or correct its name")
            )
            continue
        origin = f"{key} in {path}"
        try:
            found[row.name] = _Given(origin, _file_texts(row, value))
        except ValueError as error:
            problems.append(Problem(row.title, origin, None, str(error)))
    return found


def _reason(error: Exception) -> str:
    return error.strerror if isinstance(error, OSError) and error.strerror else " ".join(str(error).split())


def _file_texts(row: Setting, value: object) -> tuple[str, ...]:
    """A value of the file as the kinds read it: a sequence or, for pairs, a mapping stands for the list."""
    match value:
        case str():
            return _texts(row, value)
        case list() if row.kind.many and all(isinstance(item, str) for item in value):
            return tuple(value)
        case dict() if row.kind.many and "=" in row.kind.metavar and all(map(_is_texts, value.values())):
            return tuple(
                f"{name}={item}"
                for name, items in value.items()
                for item in ([items] if isinstance(items, str) else items)
            )
        case None:
            raise ValueError("has no value; give one, or remove the line for the default")
        case _:
            raise ValueError(
                f"has the wrong shape; write {row.kind.metavar}" + (" or a list of them" if row.kind.many else "")
            )


def _is_texts(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(item, str) for item in value))


def _parse_yaml(text: str) -> dict[str, object]:
    """The mapping that the file holds; scalars stay texts, as in the environment, except null.

    Raises:
        ValueError: with the place.
    """
    from imagestreams.core.document import read_document  # noqa: PLC0415

    content = read_document(text)
    if not isinstance(content, dict):
        raise ValueError("the file holds no mapping; write one setting per line, such as interval: 15m")
    return content


def _nearest(name: str, known: Mapping[str, object]) -> str:
    import difflib  # noqa: PLC0415  # only for a mistake's message

    tails = {word.removeprefix(PREFIX): word for word in known}
    near = difflib.get_close_matches(name.removeprefix(PREFIX), tails, n=1, cutoff=0.7)
    return f" (did you mean {tails[near[0]]}?)" if near else ""


def _pod_namespace(environ: Mapping[str, str], read_file: Callable[[str], str]) -> str | None:
    """The namespace that this process runs in, where it runs in a pod."""
    if "KUBERNETES_SERVICE_HOST" not in environ:
        return None
    try:
        return read_file(POD_NAMESPACE_FILE).strip() or None
    except OSError:
        return None  # a pod without a service account's token: the default holds


def _contradictions(settings: Settings, origins: Mapping[str, str]) -> list[Problem]:
    """Settings that are fine alone and cannot hold together."""
    shown = show(settings)
    found: list[tuple[str, str, str, str]] = []  # a setting, how it relates to another, and the way out
    for long, short in (
        ("interval", "min_interval"),
        ("retry_cap", "retry_base"),
        ("request_timeout", "connect_timeout"),
    ):
        if getattr(settings, long) < getattr(settings, short):
            found.append((long, "is shorter than", short, f"raise {_title(long)} or lower {_title(short)}"))
    either = "keep one of the two"
    listed = (
        "registry_endpoint",
        "insecure_registry",
        "internal_registry",
        "registry_ca",
        "registry_proxy",
        "registry_rate",
        "registry_pulls",
    )
    found += [
        (name, f"lists {both}, which is refused by", "blocked_registry", either)
        for name in ("allowed_registry", *listed)
        if (both := _both(settings, name, "blocked_registry"))
    ]
    # A blocked source with mirrors is fine: it is asked for at these.
    if both := ", ".join(sorted({location for _, location in settings.mirror} & set(settings.blocked_registry))):
        found.append(("mirror", f"asks {both}, which is refused by", "blocked_registry", either))
    found += _idle(settings)
    found += _webhooks(settings)
    if both := _both(settings, "registry_ca", "insecure_registry"):
        found.append(
            (
                "registry_ca",
                f"says what to trust for {both}, whose certificate is not checked because of",
                "insecure_registry",
                either,
            )
        )

    def origin(name: str) -> str:
        return origins.get(name, "the default")

    return [
        Problem(
            _title(name),
            origin(name),
            shown[name],
            f'{relation} {_title(other)} "{shown[other]}" from {origin(other)}; {remedy}',
        )
        for name, relation, other, remedy in found
    ]


def _idle(settings: Settings) -> list[tuple[str, str, str, str]]:
    """The installation's secret and whom it serves: each is nothing without the others."""
    lists = ("install_secret_namespace", "install_secret_repository")
    if settings.install_secret:
        return [
            ("install_secret", "serves nobody with", name, f"list in {_title(name)} whom it serves")
            for name in lists
            if not getattr(settings, name)
        ]
    return [
        (name, "says whom a secret serves, and there is none with", "install_secret", "name one, or list nobody")
        for name in lists
        if getattr(settings, name)
    ]


def _webhooks(settings: Settings) -> list[tuple[str, str, str, str]]:
    found = []
    if settings.webhooks_only and settings.webhook_address is None:
        found.append(("webhooks_only", "serves nothing with", "webhook_address", "set webhook-address"))
    client = ("webhook_client_ca", "webhook_client_name")
    for one, other in (client, client[::-1]):
        if getattr(settings, one) and not getattr(settings, other):
            found.append((one, "proves nothing with", other, f"set {_title(other)}, too"))
    return found


def _title(name: str) -> str:
    return name.replace("_", "-")


def _both(settings: Settings, one: str, other: str) -> str:
    """What two lists, or maps by their keys, have in common."""
    return ", ".join(sorted(set(getattr(settings, one)) & set(getattr(settings, other))))
