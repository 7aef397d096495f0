"""Which registries may be asked and how, and which addresses never."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from imagestreams.core.policy import HostRule, Policy, Refused, Transport, is_public, refuse_address, transport_for
from imagestreams.core.reference import ImageReference

OPEN = Policy(hosts={})


def ask(policy, text, *, insecure=False):
    return transport_for(policy, ImageReference.parse(text), insecure=insecure)


@pytest.mark.parametrize(
    ("text", "host", "endpoint"),
    [
        ("web", "docker.io", "https://registry-1.docker.io"),
        ("index.docker.io/acme/web", "docker.io", "https://registry-1.docker.io"),
        ("quay.io/acme/web", "quay.io", "https://quay.io"),
        ("Quay.IO/acme/web", "quay.io", "https://quay.io"),
        ("reg:5000/web", "reg:5000", "https://reg:5000"),
        ("localhost/web", "localhost", "https://localhost"),
    ],
)
def test_an_unlisted_registry_is_asked_by_https_with_credentials(text, host, endpoint):
    assert ask(OPEN, text) == Transport(host, endpoint, insecure=False, credentials=True, ca_file="", listed=False)


@pytest.mark.parametrize(
    ("rule", "tag_insecure", "insecure", "credentials"),
    [
        pytest.param(HostRule(), False, False, True, id="verified https"),
        pytest.param(HostRule(), True, True, False, id="the tag's own wish carries no credential"),
        pytest.param(HostRule(insecure=True), False, True, True, id="the administrator lists it as insecure"),
        pytest.param(HostRule(insecure=True), True, True, True, id="both"),
        pytest.param(HostRule(ca_file="/ca.pem"), False, False, True, id="own CA"),
        pytest.param(HostRule(ca_file="/ca.pem"), True, True, False, id="own CA, but the tag does not want it"),
        pytest.param(HostRule(internal=True), True, True, False, id="internal is not insecure"),
        pytest.param(HostRule(endpoint="https://other"), False, False, True, id="endpoint"),
        pytest.param(HostRule(endpoint="http://other"), False, False, False, id="http endpoint, anonymous"),
        pytest.param(HostRule(endpoint="http://other", insecure=True), False, True, True, id="http endpoint, insecure"),
    ],
)
def test_only_an_administrator_sends_credentials_over_an_unverified_connection(
    rule, tag_insecure, insecure, credentials
):
    transport = ask(Policy({"reg": rule, "reg:5000": rule}), "reg:5000/web", insecure=tag_insecure)
    assert isinstance(transport, Transport)
    assert (transport.insecure, transport.credentials) == (insecure, credentials)
    assert transport.listed == (rule != HostRule())
    assert transport.ca_file == rule.ca_file


def test_an_endpoint_answers_for_its_host_only():
    policy = Policy({"localhost:5001": HostRule(endpoint="HTTP://kind-registry:5000/")})
    answer = ask(policy, "localhost:5001/web")
    assert answer == Transport("localhost:5001", "http://kind-registry:5000", False, False, "", True)
    assert ask(policy, "localhost:5002/web").endpoint == "https://localhost:5002"


@pytest.mark.parametrize("name", ["docker.io", "index.docker.io", "registry-1.docker.io", "Docker.io"])
def test_docker_hubs_names_are_one_host(name):
    transport = ask(Policy({name: HostRule(endpoint="https://mirror.local")}), "web")
    assert (transport.host, transport.endpoint) == ("docker.io", "https://mirror.local")


def test_transports_are_hashable():
    assert len({ask(OPEN, "quay.io/a/b"), ask(OPEN, "quay.io/c/d"), ask(OPEN, "quay.io/a/b", insecure=True)}) == 2


@pytest.mark.parametrize(
    "endpoint",
    ["https://reg", "http://127.0.0.1:5000", "https://reg.example.com:443/", "http://[fd00::1]:5000", "http://my_reg"],
)
def test_an_endpoint_is_scheme_host_and_port(endpoint):
    assert HostRule(endpoint=endpoint).listed


@pytest.mark.parametrize(
    "endpoint",
    [
        "reg:5000",
        "ftp://reg",
        "https://",
        "https://reg/v2/",
        "https://reg?x=1",
        "https://reg:0",
        "https://reg:99999",
        "https://[::zz]",
        "https://reg\n",
        "https:// reg",
    ],
)
def test_other_endpoints_are_refused_by_name(endpoint):
    with pytest.raises(ValueError, match="must be http://host") as caught:
        HostRule(endpoint=endpoint)
    assert endpoint.strip() in str(caught.value)


def test_a_refused_endpoint_shows_no_password():
    with pytest.raises(ValueError, match="reg") as caught:
        HostRule(endpoint="https://user:hunter2@reg")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("host", ["", "https://quay.io", "quay.io/acme", "quay.io:", "a b", "quay.io:70000"])
def test_rules_are_for_hosts(host):
    with pytest.raises(ValueError, match="must be host or host:port"):
        Policy({host: HostRule(insecure=True)})


def test_one_host_has_one_rule():
    with pytest.raises(ValueError, match="two different rules"):
        Policy({"docker.io": HostRule(insecure=True), "index.docker.io": HostRule()})


@pytest.mark.parametrize("pattern", ["", "a:b:c", "https://quay.io", "quay.io/a b", "[a]", "quay.io:x", "/acme"])
def test_malformed_patterns_are_refused(pattern):
    for lists in ({"allowed": (pattern,)}, {"blocked": (pattern,)}):
        with pytest.raises(ValueError, match="registry pattern"):
            Policy({}, **lists)


# pattern, reference, covered as an allowed pattern, covered as a blocked one
COVERED = [
    ("quay.io", "quay.io/acme/web", True, True),
    ("quay.io", "Quay.io/acme/web", True, True),
    ("QUAY.io", "quay.io/acme/web", True, True),
    ("quay.io", "quay.io:443/acme/web", True, True),
    ("quay.io", "quay.io:8443/acme/web", False, True),
    ("quay.io", "notquay.io/acme/web", False, False),
    ("quay.io", "quay.io.evil.example/acme/web", False, False),
    ("quay.io:8443", "quay.io:8443/acme/web", True, True),
    ("quay.io:8443", "quay.io/acme/web", False, False),
    ("quay.io:443", "quay.io/acme/web", True, True),
    ("quay.io:80", "quay.io/acme/web", False, False),
    ("reg:*", "reg:5000/web", True, True),
    ("reg:50??", "reg:5001/web", True, True),
    ("reg:50??", "reg:500/web", False, False),
    ("*.example.com", "a.b.example.com/web", True, True),
    ("*.example.com", "example.com/web", False, False),
    ("*", "quay.io/acme/web", True, True),
    ("*", "reg:5000/web", False, True),
    ("*:*", "reg:5000/web", True, True),
    ("docker.io", "web", True, True),
    ("index.docker.io", "web", True, True),
    ("docker.io", "registry-1.docker.io/acme/web", True, True),
    ("*.docker.io", "web", True, True),
    ("docker.io/library", "web", True, True),
    ("docker.io/library", "acme/web", False, False),
    ("quay.io/acme", "quay.io/acme/web", True, True),
    ("quay.io/acme/", "quay.io/acme/web", True, True),
    ("quay.io/acme", "quay.io/acme", True, True),
    ("quay.io/acme", "quay.io/acmecorp/web", False, False),
    ("quay.io/acme/web", "quay.io/acme/web/ui", True, True),
    ("quay.io/acme/web", "quay.io/acme", False, False),
    ("quay.io/acme/*", "quay.io/acme/web", True, True),
    ("quay.io/acme/*", "quay.io/acme", False, False),
    ("quay.io/*/web", "quay.io/acme/web", True, True),
    ("quay.io/*/web", "quay.io/a/b/web", False, False),
]


@pytest.mark.parametrize(("pattern", "text", "allows", "blocks"), COVERED)
def test_patterns(pattern, text, allows, blocks):
    allowed, blocked = ask(Policy({}, allowed=(pattern,)), text), ask(Policy({}, blocked=(pattern,)), text)
    assert isinstance(allowed, Transport) == allows
    assert isinstance(blocked, Refused) == blocks
    if not allows:
        assert allowed.reason == "RegistryNotAllowed"
    if blocks:
        assert blocked.reason == "RegistryBlocked"
        assert f"registry {ImageReference.parse(text).host} blocked" in blocked.message


@pytest.mark.parametrize(
    ("pattern", "text", "allows", "blocks"),
    [
        pytest.param("reg.io", "reg.io:80/web", True, True, id="no port means 80 too"),
        pytest.param("reg.io", "reg.io/web", True, True, id="no port on either side"),
        pytest.param("reg.io:443", "reg.io/web", False, True, id="https may fall back to port 80"),
        pytest.param("reg.io:80", "reg.io/web", False, True, id="https is tried first"),
    ],
)
def test_ports_of_insecure_tags(pattern, text, allows, blocks):
    assert isinstance(ask(Policy({}, allowed=(pattern,)), text, insecure=True), Transport) == allows
    assert isinstance(ask(Policy({}, blocked=(pattern,)), text, insecure=True), Refused) == blocks


def test_blocked_wins_over_allowed():
    policy = Policy({}, allowed=("quay.io",), blocked=("quay.io/evil",))
    assert isinstance(ask(policy, "quay.io/good/web"), Transport)
    assert ask(policy, "quay.io/evil/web").reason == "RegistryBlocked"


def test_the_refusal_lists_what_is_allowed():
    assert ask(Policy({}, allowed=("a.io", "b.io")), "quay.io/a/b").message == (
        'registry "quay.io" not allowed by whitelist: "a.io", "b.io"'
    )
    many = ask(Policy({}, allowed=tuple(f"r{n}.io" for n in range(9))), "quay.io/a/b").message
    assert many.endswith('"r3.io", and 5 more ...')


PUBLIC = ["1.1.1.1", "203.0.113.5", "2606:4700::1", "64:ff9b::101:101", "2002:101:101::1", "100.63.255.255"]
PRIVATE = [
    "10.0.0.1",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "100.64.0.1",
    "100.127.255.255",
    "198.18.0.1",
    "fc00::1",
    "fd12::1",
    "fec0::1",
    "64:ff9b::a00:1",
    "64:ff9b:1::1",
    "2002:a00:1::1",
    "2002:c0a8:101::1",
]
NEVER = [
    ("127.0.0.1", "a loopback address"),
    ("127.255.255.254", "a loopback address"),
    ("::1", "a loopback address"),
    ("0.0.0.0", "an unspecified address"),
    ("0.1.2.3", "an unspecified address"),
    ("::", "an unspecified address"),
    ("169.254.0.1", "a link-local address"),
    ("fe80::1", "a link-local address"),
    ("fe80::1%eth0", "a link-local address"),
    ("169.254.169.254", "a cloud metadata address"),
    ("fd00:ec2::254", "a cloud metadata address"),
    ("100.100.100.200", "a cloud metadata address"),
    ("168.63.129.16", "a cloud metadata address"),
    ("192.0.0.192", "a cloud metadata address"),
    ("fd20:ce::254", "a cloud metadata address"),
    ("fd00:42::42", "a cloud metadata address"),
    ("224.0.0.1", "a multicast address"),
    ("239.255.255.255", "a multicast address"),
    ("ff02::1", "a multicast address"),
    ("240.0.0.1", "a reserved address"),
    ("255.255.255.255", "a reserved address"),
    ("192.0.0.8", "a reserved address"),
    ("::ffff:127.0.0.1", "an IPv4-mapped IPv6 address"),
    ("::ffff:1.1.1.1", "an IPv4-mapped IPv6 address"),
    ("::127.0.0.1", "an IPv4-compatible IPv6 address"),
    ("2001::1", "a tunnel address"),
    ("64:ff9b::7f00:1", "a loopback address"),
    ("64:ff9b::a9fe:a9fe", "a cloud metadata address"),
    ("2002:7f00:1::1", "a loopback address"),
    ("2002:a9fe:a9fe::", "a cloud metadata address"),
]


@pytest.mark.parametrize("text", PUBLIC)
@pytest.mark.parametrize("strict", [False, True])
def test_public_addresses_are_contacted(text, strict):
    policy = Policy({}, strict=strict)
    assert refuse_address(ip_address(text), policy, public_origin=True) is None
    assert is_public(ip_address(text))


@pytest.mark.parametrize("text", PRIVATE)
def test_private_addresses_are_refused_in_strict_mode_and_from_public_ones(text):
    address = ip_address(text)
    assert refuse_address(address, OPEN) is None
    assert refuse_address(address, OPEN, public_origin=True) == "a private address"
    assert refuse_address(address, Policy({}, strict=True)) == "a private address"
    assert not is_public(address)


@pytest.mark.parametrize(("text", "why"), NEVER)
def test_some_addresses_are_never_contacted(text, why):
    assert refuse_address(ip_address(text), OPEN) == why
    assert not is_public(ip_address(text))


def test_the_clusters_networks_are_refused_in_every_form():
    policy = Policy({}, refused_networks=(ip_network("10.96.0.0/12"), ip_network("fd00:10::/64")))
    for text in ("10.96.0.1", "10.111.255.255", "fd00:10::5", "64:ff9b::a60:1", "2002:a60:1::1"):
        assert refuse_address(ip_address(text), policy) == "an address of a refused network"
    assert refuse_address(ip_address("10.1.0.1"), policy) is None
