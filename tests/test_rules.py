"""Settings in the words of the parts that go by them: none is lost on the way."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from imagestreams.core.lookup import ImportMode
from imagestreams.core.manifest import Platform
from imagestreams.core.policy import HostRule, Mirror, MirrorRule, Policy, Rate
from imagestreams.core.trigger import MANIFEST_MANAGERS, Drift, TriggerRules
from imagestreams.core.wish import ImportRules
from imagestreams.registry.transport import Timeouts
from imagestreams.rules import base_policy_of, import_rules_of, timeouts_of, trigger_rules_of
from imagestreams.settings import Settings, load

GIVEN = {
    "registry_endpoint": ("a.io=http://10.0.0.1:5000", "b.io=https://other.io"),
    "insecure_registry": ("b.io", "c.io"),
    "internal_registry": ("d.io",),
    "registry_ca": ("e.io=/ca.pem",),
    "registry_proxy": ("f.io=http://u:p@proxy.io:3128", "g.io=none"),
    "registry_rate": ("h.io=5/s",),
    "registry_pulls": ("i.io=100/6h",),
    "allowed_registry": ("a.io", "*.b.io/acme"),
    "blocked_registry": ("c.io/x",),
    "strict_addresses": "true",
    "refused_network": ("10.96.0.0/12", "fd00::/8"),
    "mirror": ("quay.io/acme=m1.io/q", "ghcr.io=m3.io", "quay.io/acme=m2.io"),
    "http_proxy": "http://plain.io:1",
    "https_proxy": "http://tls.io:2",
    "no_proxy": ("corp.example", ".x.io"),
    "import_mode": "Legacy",
    "legacy_platform": "linux/arm64",
    "interval": "20m",
    "min_interval": "2m",
    "refresh_floor": "3s",
    "retry_base": "4s",
    "retry_cap": "5m",
    "flap_window": "6h",
    "history_limit": "7",
    "status_budget": "512Ki",
    "repository_tags": "8",
    "drift": "enforce",
    "manifest_managers": ("argo", "flux"),
    "connect_timeout": "9s",
    "request_timeout": "11s",
}

POLICY = Policy(
    hosts={
        "a.io": HostRule(endpoint="http://10.0.0.1:5000"),
        "b.io": HostRule(endpoint="https://other.io", insecure=True),
        "c.io": HostRule(insecure=True),
        "d.io": HostRule(internal=True),
        "e.io": HostRule(ca_file="/ca.pem"),
        "f.io": HostRule(proxy="http://u:p@proxy.io:3128"),
        "g.io": HostRule(proxy="none"),
        "h.io": HostRule(requests=Rate(5, timedelta(seconds=1))),
        "i.io": HostRule(pulls=Rate(100, timedelta(hours=6))),
    },
    allowed=("a.io", "*.b.io/acme"),
    blocked=("c.io/x",),
    strict=True,
    refused_networks=(ip_network("10.96.0.0/12"), ip_network("fd00::/8"), ip_network("172.20.0.1/32")),
    mirrors=(
        MirrorRule("quay.io/acme", (Mirror("m1.io/q"), Mirror("m2.io"))),
        MirrorRule("ghcr.io", (Mirror("m3.io"),)),
    ),
    http_proxy="http://plain.io:1",
    https_proxy="http://tls.io:2",
    no_proxy=("corp.example", ".x.io"),
)
OTHER = Policy(hosts={}, blocked=("edited.io",))  # the settings' with what a document adds

IMPORTS = ImportRules(
    policy=OTHER,
    import_mode=ImportMode.LEGACY,
    legacy_platform=Platform("linux", "arm64"),
    interval=timedelta(minutes=20),
    min_interval=timedelta(minutes=2),
    refresh_floor=timedelta(seconds=3),
    retry_base=timedelta(seconds=4),
    retry_cap=timedelta(minutes=5),
    flap_window=timedelta(hours=6),
    history_limit=7,
    status_budget=512 << 10,
    repository_tags=8,
)
TRIGGERS = TriggerRules(
    drift=Drift.ENFORCE, manifest_managers=frozenset({*MANIFEST_MANAGERS, "argo", "flux"}), policy=OTHER
)
TIMEOUTS = Timeouts(connect=9.0, request=11.0, lookup=33.0)
NOT_SET = {("Timeouts", "idle")}  # what no setting says


def settings(**given: Any) -> Settings:
    return load(given, {}, lambda path: Path(path).read_text())


def _fields(made: Any) -> dict[str, Any]:
    return {each.name: getattr(made, each.name) for each in dataclasses.fields(made) if each.init}


@pytest.mark.parametrize(
    ("made", "expected", "by_default"),
    [
        pytest.param(
            lambda given: base_policy_of(given, api_server="https://172.20.0.1:443"),
            POLICY,
            Policy(hosts={}),
            id="policy",
        ),
        pytest.param(lambda given: import_rules_of(given, OTHER), IMPORTS, ImportRules(), id="imports"),
        pytest.param(lambda given: trigger_rules_of(given, OTHER), TRIGGERS, TriggerRules(), id="triggers"),
        pytest.param(timeouts_of, TIMEOUTS, Timeouts(), id="timeouts"),
    ],
)
def test_every_setting_arrives(made: Any, expected: Any, by_default: Any):
    found = _fields(made(settings(**GIVEN)))
    for name, value in _fields(expected).items():
        assert found[name] == value, name
        # Else this test would not see that it is lost.
        assert value != getattr(by_default, name) or (type(expected).__name__, name) in NOT_SET, name


def test_every_word_on_a_host_arrives():
    hosts = base_policy_of(settings(**GIVEN)).hosts.values()
    by_other_means = {"ca", "pulls_with_login"}  # of a document, and of a preset
    said = {name for rule in hosts for name, value in _fields(rule).items() if value != getattr(HostRule(), name)}
    assert said == _fields(HostRule()).keys() - by_other_means


def test_nothing_said_is_the_default():
    assert import_rules_of(settings(), OTHER) == dataclasses.replace(
        ImportRules(), policy=OTHER, legacy_platform=Platform("linux", "amd64")
    )
    assert trigger_rules_of(settings(), OTHER) == TriggerRules(policy=OTHER)
    assert timeouts_of(settings()) == Timeouts()
    assert base_policy_of(settings()) == Policy(hosts={})


@pytest.mark.parametrize(
    ("url", "refused"),
    [
        ("https://10.96.0.1:443", ["10.96.0.1/32"]),
        ("https://[fd00::1]:6443", ["fd00::1/128"]),
        ("https://k8s", []),
        ("", []),
    ],
)
def test_the_api_servers_address_is_refused(url: str, refused: list[str]):
    policy = base_policy_of(settings(), api_server=url)
    assert [str(each) for each in policy.refused_networks] == refused
