"""Settings, in the words of the parts that go by them."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from imagestreams.core.lookup import ImportMode
from imagestreams.core.manifest import Platform
from imagestreams.core.policy import HostRule, Mirror, MirrorRule, Policy
from imagestreams.core.trigger import MANIFEST_MANAGERS, Drift, TriggerRules
from imagestreams.core.wish import ImportRules
from imagestreams.registry.transport import Timeouts

if TYPE_CHECKING:
    from imagestreams.settings import Settings


def base_policy_of(settings: Settings, *, api_server: str = "") -> Policy:
    """What the settings say of registries; documents and the cluster's own words come over it.

    The API server (a URL) is no registry: where it is named by address, as it is in a pod, no image reference leads
    there.
    """
    hosts = {
        *settings.registry_endpoint,
        *settings.insecure_registry,
        *settings.internal_registry,
        *settings.registry_ca,
        *settings.registry_proxy,
        *settings.registry_rate,
        *settings.registry_pulls,
    }
    mirrors: dict[str, tuple[Mirror, ...]] = {}
    for source, location in settings.mirror:
        mirrors[source] = (*mirrors.get(source, ()), Mirror(location))
    return Policy(
        hosts={
            host: HostRule(
                endpoint=settings.registry_endpoint.get(host, ""),
                insecure=host in settings.insecure_registry,
                ca_file=settings.registry_ca.get(host, ""),
                internal=host in settings.internal_registry,
                proxy=settings.registry_proxy.get(host, ""),
                requests=settings.registry_rate.get(host),
                pulls=settings.registry_pulls.get(host),
            )
            for host in hosts
        },
        allowed=settings.allowed_registry,
        blocked=settings.blocked_registry,
        strict=settings.strict_addresses,
        refused_networks=(*settings.refused_network, *_network_of(api_server)),
        mirrors=tuple(MirrorRule(source, locations) for source, locations in mirrors.items()),
        http_proxy=settings.http_proxy,
        https_proxy=settings.https_proxy,
        no_proxy=settings.no_proxy,
    )


def _network_of(url: str) -> tuple[IPv4Network | IPv6Network, ...]:
    try:
        return (ip_network(urlsplit(url).hostname or ""),)
    except ValueError:
        return ()


def import_rules_of(settings: Settings, policy: Policy) -> ImportRules:
    return ImportRules(
        policy=policy,
        import_mode=ImportMode(settings.import_mode),
        legacy_platform=Platform.parse(settings.legacy_platform),
        interval=settings.interval,
        min_interval=settings.min_interval,
        refresh_floor=settings.refresh_floor,
        retry_base=settings.retry_base,
        retry_cap=settings.retry_cap,
        flap_window=settings.flap_window,
        history_limit=settings.history_limit,
        status_budget=settings.status_budget,
        repository_tags=settings.repository_tags,
    )


def trigger_rules_of(settings: Settings, policy: Policy) -> TriggerRules:
    return TriggerRules(
        drift=Drift(settings.drift),
        manifest_managers=MANIFEST_MANAGERS | frozenset(settings.manifest_managers),
        policy=policy,
    )


def timeouts_of(settings: Settings) -> Timeouts:
    request = settings.request_timeout.total_seconds()
    return Timeouts(connect=settings.connect_timeout.total_seconds(), request=request, lookup=3 * request)
