"""What is said of registries outside the settings: the registries document, a cluster's mirror sets, and its word on a
local registry; each becomes a `Registries`, and all together with the settings one `Policy`.

A document is taken as a whole or refused as a whole, with every fault at once: where it is and what to write instead. A
proxy's password never shows.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from types import MappingProxyType
from typing import Final, Literal, NamedTuple, TypeVar

from imagestreams.core.document import InvalidDocument, below, read_document, shown
from imagestreams.core.policy import (
    DIRECT,
    HostRule,
    Mirror,
    MirrorRule,
    Policy,
    Pulls,
    Rate,
    canonical_host,
    check_pattern,
    is_proxy,
    parse_rate,
    refuse_address,
)

T = TypeVar("T")
_Word = TypeVar("_Word", bound=str)

DOCUMENT_KEY: Final = "registries.yaml"
HOSTING_KEY: Final = "localRegistryHosting.v1"

MAX_PATTERNS: Final = 1000  # each is compared with every reference
MAX_HOSTS: Final = 2000
MAX_RULES: Final = 2000
MAX_MIRRORS: Final = 64  # of one rule
_MAX_CERTIFICATES = 100
_MAX_SHOWN = 10


class InvalidRegistries(ValueError):
    """The document cannot be used. `problems` has each fault, the place first; the text is all of them, bounded."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        more = len(self.problems) - _MAX_SHOWN
        super().__init__("; ".join(self.problems[:_MAX_SHOWN]) + (f"; and {more} more" if more > 0 else ""))


@dataclass(frozen=True, slots=True)
class HostEntry:
    """What a document says of a host, see `HostRule`; None where it says nothing."""

    endpoint: str | None = None
    insecure: bool | None = None
    ca_file: str | None = None
    internal: bool | None = None
    ca: str | None = field(default=None, repr=False)
    proxy: str | None = field(default=None, repr=False)
    requests: Rate | None = None
    pulls: Rate | None = None

    def over(self, rule: HostRule) -> HostRule:
        """The rule with what is said here in place of what it said."""
        said = {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}
        if self.pulls is not None:
            said["pulls_with_login"] = None
            return dataclasses.replace(rule, **_without_none(said), pulls_with_login=None)
        return dataclasses.replace(rule, **_without_none(said))


def _without_none(said: Mapping[str, T | None]) -> dict[str, T]:
    return {name: value for name, value in said.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Registries:
    """What one source says. Where it `yields`, its hosts count only if no other source lists them."""

    allowed: tuple[str, ...] = ()
    blocked: tuple[str, ...] = ()
    hosts: Mapping[str, HostEntry] = field(default_factory=lambda: MappingProxyType({}))
    mirrors: tuple[MirrorRule, ...] = ()
    yields: bool = False


def policy_of(base: Policy, *layers: Registries) -> Policy:
    """The policy of the settings with what other sources add. A later layer's words on a host replace an earlier's,
    field by field; its lists are appended.
    """
    hosts = dict(base.hosts)
    for layer in sorted(layers, key=lambda layer: layer.yields):
        for host, entry in layer.hosts.items():
            rule = hosts.get(host, HostRule())
            if not (layer.yields and rule.listed):
                hosts[host] = entry.over(rule)
    return dataclasses.replace(
        base,
        hosts=hosts,
        allowed=_appended(base.allowed, (layer.allowed for layer in layers)),
        blocked=_appended(base.blocked, (layer.blocked for layer in layers)),
        mirrors=_appended(base.mirrors, (layer.mirrors for layer in layers)),
    )


def _appended(first: tuple[T, ...], others: Iterable[tuple[T, ...]]) -> tuple[T, ...]:
    return tuple(dict.fromkeys((*first, *(each for other in others for each in other))))


# ---- the document ----


def parse_registries(text: str) -> Registries:
    """Read a registries document (YAML).

    Raises:
        InvalidRegistries: with every fault.
    """
    reading = _Reading()
    document = reading.mapping("", _load(text), ("allowed", "blocked", "hosts", "mirrors"))
    registries = Registries(
        allowed=reading.patterns("allowed", document),
        blocked=reading.patterns("blocked", document),
        hosts=MappingProxyType(reading.hosts("hosts", document.get("hosts", {}))),
        mirrors=reading.rules("mirrors", document.get("mirrors", [])),
    )
    _check_together(registries, reading.problems)
    if reading.problems:
        raise InvalidRegistries(reading.problems)
    return registries


class _Reading:
    """Reads values of the document; what is wrong goes into `problems`, and something harmless is returned for it."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def refuse(self, path: str, words: object) -> None:
        self.problems.append(f"{path or 'the document'}: {words}")

    def mapping(self, path: str, value: object, known: Sequence[str]) -> dict[str, object]:
        if not isinstance(value, dict):
            self.refuse(path, _no_value(value) or f"must be a mapping with {', '.join(known)}")
            return {}
        for key in sorted(value.keys() - set(known))[:_MAX_SHOWN]:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
            self.refuse(below(path, key), f"is not known; {hint}")
        return {key: each for key, each in value.items() if key in known}

    def sequence(self, path: str, value: object, most: int) -> list[object]:
        if not isinstance(value, list):
            self.refuse(path, _no_value(value) or "must be a list")
            return []
        if len(value) > most:
            self.refuse(path, f"has {len(value)} entries; {most} are allowed")
            return []
        return value

    def text(self, path: str, value: object) -> str:
        if isinstance(value, str):
            return value
        self.refuse(path, _no_value(value) or "must be a single value")
        return ""

    def read(self, path: str, within: Mapping[str, object], key: str, parse: Callable[[str], T]) -> T | None:
        """A field that may be absent; `parse` raises ValueError with what to write instead."""
        if key not in within:
            return None
        where, faults = below(path, key), len(self.problems)
        text = self.text(where, within[key])
        if len(self.problems) > faults:
            return None
        try:
            return parse(text)
        except ValueError as error:
            self.refuse(where, error)
            return None

    def patterns(self, path: str, document: Mapping[str, object]) -> tuple[str, ...]:
        found = []
        for number, value in enumerate(self.sequence(path, document.get(path, []), MAX_PATTERNS)):
            where = f"{path}[{number}]"
            pattern = self.text(where, value).lower()
            try:
                if pattern:
                    check_pattern(pattern)
                    found.append(pattern)
                elif isinstance(value, str):
                    self.refuse(where, "is empty; write host[:port][/path], * and ? match within a part")
            except ValueError:
                self.refuse(
                    where, f"{shown(pattern)} is no pattern; write host[:port][/path], * and ? match within a part"
                )
        return tuple(found)

    def hosts(self, path: str, value: object) -> dict[str, HostEntry]:
        if not isinstance(value, dict):
            self.refuse(path, _no_value(value) or "must be a mapping from host or host:port to what holds for it")
            return {}
        if len(value) > MAX_HOSTS:
            self.refuse(path, f"has {len(value)} hosts; {MAX_HOSTS} are allowed")
            return {}
        found: dict[str, HostEntry] = {}
        for name, words in value.items():
            where = below(path, name)
            try:
                host = canonical_host(name)
            except ValueError:
                self.refuse(where, "is no registry host; write host or host:port, without https:// and path")
                continue
            if host in found:
                self.refuse(where, f"is {host} again, by another spelling; keep one")
            found[host] = self.host(where, words)
        return found

    def host(self, path: str, value: object) -> HostEntry:
        words = self.mapping(path, value, tuple(_HOST_FIELDS))
        entry = HostEntry(
            endpoint=self.read(path, words, "endpoint", _endpoint),
            insecure=self.read(path, words, "insecure", _switch),
            ca_file=self.read(path, words, "caFile", _path),
            internal=self.read(path, words, "internal", _switch),
            ca=self.read(path, words, "ca", _certificates),
            proxy=self.read(path, words, "proxy", _proxy),
            requests=self.read(path, words, "requests", _rate),
            pulls=self.read(path, words, "pulls", _rate),
        )
        if entry.insecure and (entry.ca or entry.ca_file):
            self.refuse(path, "names a CA to trust, and insecure: true checks no certificate; keep one of the two")
        return entry

    def rules(self, path: str, value: object) -> tuple[MirrorRule, ...]:
        each = enumerate(self.sequence(path, value, MAX_RULES))
        found = [self.rule(f"{path}[{number}]", words) for number, words in each]
        return tuple(rule for rule in found if rule is not None)

    def rule(self, path: str, value: object) -> MirrorRule | None:
        words = self.mapping(path, value, ("source", "mirrors", "pulls", "neverContactSource", "record"))
        faults = len(self.problems)
        for key in ("source", "mirrors"):
            if words.keys() and key not in words:
                self.refuse(path, f"has no {key}")
        source = self.read(path, words, "source", str) or ""
        listed = self.sequence(below(path, "mirrors"), words.get("mirrors", []), MAX_MIRRORS)
        mirrors = [self.mirror(f"{path}.mirrors[{number}]", mirror) for number, mirror in enumerate(listed)]
        if "mirrors" in words and words["mirrors"] == []:
            self.refuse(below(path, "mirrors"), "is empty; name a mirror, or list the source under blocked")
        pulls = self.read(path, words, "pulls", _choice(_PULLS))
        never = self.read(path, words, "neverContactSource", _switch)
        record = self.read(path, words, "record", _choice(_RECORDS))
        if len(self.problems) > faults or not words:
            return None
        try:
            return MirrorRule(
                source=source,
                mirrors=tuple(mirror for mirror in mirrors if mirror),
                pulls=pulls or "all",
                never_contact_source=bool(never),
                records_mirror=record == "mirror",
            )
        except ValueError as error:
            self.refuse(below(path, "source"), error)
            return None

    def mirror(self, path: str, value: object) -> Mirror | None:
        if isinstance(value, str):
            value, where = {"location": value}, path
        else:
            where = below(path, "location")
        words = self.mapping(path, value, ("location", "insecure"))
        if words and "location" not in words:
            self.refuse(path, "has no location")
        insecure = self.read(path, words, "insecure", _switch)
        location = self.text(where, words["location"]) if "location" in words else ""
        try:
            return Mirror(location, insecure=bool(insecure)) if location else None
        except ValueError as error:
            self.refuse(where, error)
            return None


_HOST_FIELDS: Final = ("insecure", "endpoint", "ca", "caFile", "proxy", "internal", "requests", "pulls")
_PULLS: Final[tuple[Pulls, ...]] = ("digest", "tag", "all")
_RECORDS: Final[tuple[Literal["source", "mirror"], ...]] = ("source", "mirror")


def _check_together(registries: Registries, problems: list[str]) -> None:
    """What is fine alone and cannot hold together."""
    blocked = set(registries.blocked)
    problems += [
        f"blocked: lists {host}, of which hosts speaks; keep one" for host in sorted(registries.hosts.keys() & blocked)
    ]
    locations = {mirror.location for rule in registries.mirrors for mirror in rule.mirrors}
    problems += [f"blocked: lists {location}, which is a mirror; keep one" for location in sorted(locations & blocked)]


def _no_value(value: object) -> str:
    return "has no value; give one, or remove the line" if value is None else ""


def _switch(text: str) -> bool:
    if text not in {"true", "True", "false", "False"}:
        raise ValueError("is neither true nor false")
    return text in {"true", "True"}


def _choice(options: Sequence[_Word]) -> Callable[[str], _Word]:
    def read(text: str) -> _Word:
        for option in options:
            if option == text:
                return option
        raise ValueError(f"{shown(text)} is not known; write {', '.join(options[:-1])} or {options[-1]}")

    return read


def _rate(text: str) -> Rate:
    try:
        return parse_rate(text)
    except ValueError as error:
        raise ValueError(f"{shown(text)} {error}") from None


def _endpoint(text: str) -> str:
    if not text:
        raise ValueError("is empty; write http://host[:port] or https://host[:port], or remove the line")
    return HostRule(endpoint=text).endpoint


def _proxy(text: str) -> str:
    if text != DIRECT and not is_proxy(text):
        raise ValueError(
            f"is no proxy; write http[s]://[user:password@]host[:port], with @ in the password as %40, or {DIRECT} for "
            "direct connections"
        )
    return text


def _path(text: str) -> str:
    if not text.startswith("/") or not text.isprintable():
        raise ValueError(f"{shown(text)} is no path; write the absolute path of a PEM file")
    return text


_PEM = re.compile(r"-----BEGIN CERTIFICATE-----\s([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----")


def _certificates(text: str) -> str:
    """CA certificates in PEM. Whether they can be used is seen when they are; a cut or pasted-over one is seen here."""
    if "PRIVATE KEY" in text:
        raise ValueError("holds a private key; write certificates only, and replace that key: others can read this")
    found = _PEM.findall(text)
    if not found or len(found) != text.count("-----BEGIN"):
        raise ValueError("is no PEM; write whole -----BEGIN CERTIFICATE----- blocks (a path belongs into caFile)")
    if len(found) > _MAX_CERTIFICATES:
        raise ValueError(f"has {len(found)} certificates; {_MAX_CERTIFICATES} are allowed")
    for number, block in enumerate(found, start=1):
        if not _is_der("".join(block.split())):
            raise ValueError(f"has a certificate, number {number}, that is damaged")
    return text


def _is_der(encoded: str) -> bool:
    """Whether it is one DER sequence, whole."""
    try:
        data = base64.b64decode(encoded, validate=True)
    except binascii.Error:
        return False
    if len(data) < 2 or data[0] != 0x30:
        return False
    if data[1] < 0x80:
        return len(data) == 2 + data[1]
    octets = data[1] & 0x7F
    return 1 <= octets <= 3 and len(data) == 2 + octets + int.from_bytes(data[2 : 2 + octets], "big")


def _load(text: str) -> object:
    """Raises InvalidRegistries."""
    try:
        return read_document(text)
    except InvalidDocument as error:
        raise InvalidRegistries([str(error)]) from None


# ---- mirror sets of config.openshift.io ----


class MirrorSets(NamedTuple):
    """What the cluster's mirror sets say, and what in them could not be used."""

    registries: Registries
    problems: tuple[str, ...]


_SETS: Final[tuple[tuple[str, Pulls], ...]] = (("imageDigestMirrors", "digest"), ("imageTagMirrors", "tag"))
_SOURCE_POLICIES: Final[Mapping[object, bool]] = MappingProxyType(
    {None: False, "": False, "AllowContactingSource": False, "NeverContactSource": True}
)


def mirror_sets(objects: Iterable[Mapping[str, object]]) -> MirrorSets:
    """Read ImageDigestMirrorSets and ImageTagMirrorSets of config.openshift.io/v1, as JSON.

    What cannot be used is left out and told, and the rest holds: another's objects are no document of ours. Where it is
    not clear whether the source may be contacted, it may not.
    """
    rules: list[MirrorRule] = []
    problems: list[str] = []
    for value in sorted(objects, key=_name_of):
        spec = value.get("spec")
        for key, pulls in _SETS:
            entries = spec.get(key) if isinstance(spec, dict) else None
            for number, entry in enumerate(entries if isinstance(entries, list) else ()):
                where = f"{_name_of(value)}: spec.{key}[{number}]"
                if len(rules) >= MAX_RULES:
                    return MirrorSets(
                        Registries(mirrors=tuple(rules)), (*problems, f"{where} and what follows: too many")
                    )
                rules += _rule_of(entry, pulls, where, problems)
    return MirrorSets(Registries(mirrors=tuple(rules)), tuple(problems))


def _name_of(value: Mapping[str, object]) -> str:
    metadata = value.get("metadata")
    return str(metadata.get("name", "")) if isinstance(metadata, dict) else ""


def _rule_of(entry: object, pulls: Pulls, where: str, problems: list[str]) -> tuple[MirrorRule, ...]:
    if not isinstance(entry, dict):
        problems.append(f"{where}: is no mapping")
        return ()
    source, listed = entry.get("source"), entry.get("mirrors") or []
    policy = entry.get("mirrorSourcePolicy")
    is_known = isinstance(policy, str | None) and policy in _SOURCE_POLICIES
    if not is_known:
        problems.append(f"{where}.mirrorSourcePolicy: is not known; the source is not contacted")
    never = _SOURCE_POLICIES[policy] if is_known else True
    if not isinstance(source, str) or not isinstance(listed, list):
        problems.append(f"{where}: needs a source and a list of mirrors")
        return ()
    if len(listed) > MAX_MIRRORS:
        problems.append(f"{where}.mirrors: has {len(listed)} entries, of which {MAX_MIRRORS} are used")
    mirrors = []
    try:
        canonical = MirrorRule(source, ()).source
    except ValueError as error:
        problems.append(f"{where}: {error}")
        return ()
    for location in listed[:MAX_MIRRORS]:
        try:
            mirror = Mirror(location if isinstance(location, str) else "")
        except ValueError as error:
            problems.append(f"{where}: {error}")
            continue
        if mirror.location != canonical:
            mirrors.append(mirror)
    if not mirrors and not never:
        return ()
    return (MirrorRule(source, tuple(mirrors), pulls=pulls, never_contact_source=never),)


# ---- a local registry ----

_LOOPBACK_HOST = re.compile(r"(?:localhost|127\.0\.0\.1)(?::[1-9][0-9]{0,4})?")


def local_registry_hosting(text: str) -> Registries:
    """Read what a development cluster says of its local registry, under the key `localRegistryHosting.v1` of the
    ConfigMap kube-public/local-registry-hosting.

    Only loopback names are taken from it: under such a name no other registry can be meant. Without
    `hostFromClusterNetwork` the registry is not for us.
    https://github.com/kubernetes/enhancements/tree/master/keps/sig-cluster-lifecycle/generic/1755-communicating-a-local-registry

    Raises:
        InvalidRegistries: it cannot be read.
    """
    value = _load(text)
    if not isinstance(value, dict):
        raise InvalidRegistries(["the document: must be a mapping"])
    host, address = value.get("host"), value.get("hostFromClusterNetwork")
    if not isinstance(host, str) or _LOOPBACK_HOST.fullmatch(host) is None or address is None:
        return Registries()
    if not isinstance(address, str) or "@" in address:
        raise InvalidRegistries(["hostFromClusterNetwork: must be host or host:port"])
    endpoint = f"http://{address}"
    try:
        HostRule(endpoint=endpoint)
        name = canonical_host(host)
    except ValueError:
        raise InvalidRegistries([f"hostFromClusterNetwork: {shown(address)} must be host or host:port"]) from None
    if why := _never(address):
        raise InvalidRegistries([f"hostFromClusterNetwork: {shown(address)} is {why}"])
    # Anonymous, since plain http is not granted to credentials here.
    entry = HostEntry(endpoint=endpoint, internal=True, proxy=DIRECT)
    return Registries(hosts=MappingProxyType({name: entry}), yields=True)


def _never(address: str) -> str | None:
    """Why an address is none for a registry.

    Being listed, a name may live anywhere, and is judged by nobody after this: so what reads like a number, which the
    system's resolver takes for an address, is none, nor is the name that clouds give their metadata service.
    """
    host = address.rpartition("]")[0].lstrip("[") if address.startswith("[") else address.partition(":")[0]
    try:
        return refuse_address(ip_address(host), Policy(hosts={}))
    except ValueError:
        name = host.lower().rstrip(".")
        if re.fullmatch(r"[0-9]+|0x[0-9a-f]*", name.rpartition(".")[2]):
            return "neither a name nor an address"
        return "a cloud metadata address" if name == "metadata.google.internal" else None
