"""Which registries may be asked and how, and which addresses never."""

from __future__ import annotations

from datetime import timedelta
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagestreams.core.policy import (
    DIRECT,
    MAX_PLACES,
    PRESETS,
    HostRule,
    Mirror,
    MirrorRule,
    Place,
    Policy,
    Rate,
    Refused,
    Transport,
    is_proxy,
    parse_rate,
    places_for,
    proxy_for,
    refuse_address,
    refuse_image,
    refuse_port,
    rule_of,
    transport_for,
)
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


@pytest.mark.parametrize(
    "name",
    ["docker.io", "index.docker.io", "registry-1.docker.io", "Docker.io", "docker.io:443", "Index.docker.io:443"],
)
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
    ("docker.io", "docker.io:443/library/web", True, True),
    ("docker.io/library", "registry-1.docker.io:443/web", True, True),
    ("docker.io:443", "index.docker.io/acme/web", True, True),
    ("index.docker.io", "docker.io:443/acme/web", True, True),
    ("docker.io", "index.docker.io:8443/acme/web", False, True),
    ("*443", "docker.io:443/acme/web", False, False),
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
        assert allowed.reason == "NotAllowed"
    if blocks:
        assert blocked.reason == "Blocked"
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
    assert ask(policy, "quay.io/evil/web").reason == "Blocked"


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


@pytest.mark.parametrize("text", PRIVATE)
def test_private_addresses_are_refused_in_strict_mode_and_from_public_ones(text):
    address = ip_address(text)
    assert refuse_address(address, OPEN) is None
    assert refuse_address(address, OPEN, public_origin=True) == "a private address"
    assert refuse_address(address, Policy({}, strict=True)) == "a private address"


@pytest.mark.parametrize(("text", "why"), NEVER)
def test_some_addresses_are_never_contacted(text, why):
    assert refuse_address(ip_address(text), OPEN) == why


def test_the_clusters_networks_are_refused_in_every_form():
    policy = Policy({}, refused_networks=(ip_network("10.96.0.0/12"), ip_network("fd00:10::/64")))
    for text in ("10.96.0.1", "10.111.255.255", "fd00:10::5", "64:ff9b::a60:1", "2002:a60:1::1"):
        assert refuse_address(ip_address(text), policy) == "an address of a refused network"
    assert refuse_address(ip_address("10.1.0.1"), policy) is None


@pytest.mark.parametrize("port", [80, 443, 1024, 5000, 8080, 8443, 10251, 30500, 65535])
def test_ports_where_registries_are(port):
    assert refuse_port(port) is None


@pytest.mark.parametrize("port", [1, 22, 25, 53, 79, 81, 442, 444, 1023])
def test_ports_of_other_services(port):
    assert refuse_port(port) == f"port {port}, which is another service's"


@pytest.mark.parametrize("port", [2379, 2380, 6443, 10250, 10255, 10256, 10257, 10258, 10259])
def test_ports_of_kubernetes(port):
    assert refuse_port(port) == f"port {port}, which is one of Kubernetes itself"


# ---- rates ----


@pytest.mark.parametrize(
    ("text", "count", "per"),
    [
        ("10/s", 10, timedelta(seconds=1)),
        ("300/m", 300, timedelta(minutes=1)),
        ("5/h", 5, timedelta(hours=1)),
        ("100/6h", 100, timedelta(hours=6)),
        ("40/4s", 40, timedelta(seconds=4)),
        ("1/1h30m", 1, timedelta(minutes=90)),
    ],
)
def test_rates(text, count, per):
    assert parse_rate(text) == Rate(count, per)
    assert str(Rate(count, per)) == text


@given(st.integers(1, 1_000_000), st.timedeltas(min_value=timedelta(seconds=1), max_value=timedelta(days=31)))
def test_a_rate_reads_back(count, per):
    rate = Rate(count, per // timedelta(milliseconds=1) * timedelta(milliseconds=1))
    assert parse_rate(str(rate)) == rate


@given(st.text(alphabet="0123456789/smhd.-+ \u0663", max_size=10))
def test_what_is_no_rate_is_refused(text):
    try:
        rate = parse_rate(text)
    except ValueError:
        return
    assert rate.count >= 1
    assert rate.per >= timedelta(seconds=1)
    assert text.isascii()


@pytest.mark.parametrize("text", ["", "/", "10", "/s", "10/", "0/s", "1000001/s", "10/ms", "10/0", "10/32d", "10/745h"])
def test_rates_that_are_refused(text):
    with pytest.raises(ValueError, match=r"^is no rate; "):
        parse_rate(text)


HUB = PRESETS["docker.io"]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        pytest.param(HostRule(), (HUB.requests, HUB.pulls, HUB.pulls_with_login), id="nothing said"),
        pytest.param(
            HostRule(requests=Rate(1, timedelta(1))),
            (Rate(1, timedelta(1)), HUB.pulls, HUB.pulls_with_login),
            id="requests",
        ),
        pytest.param(
            HostRule(pulls=Rate(9, timedelta(1))), (HUB.requests, Rate(9, timedelta(1)), None), id="pulls, login or not"
        ),
        pytest.param(HostRule(endpoint="https://cache.local"), (None, None, None), id="another server answers"),
    ],
)
def test_docker_hubs_limits_are_known(rule, expected):
    found = rule_of(Policy({"docker.io": rule}), "docker.io")
    assert (found.requests, found.pulls, found.pulls_with_login) == expected
    assert found.endpoint == rule.endpoint


def test_the_limits_that_are_known():
    found = rule_of(OPEN, "docker.io")
    assert (str(found.requests), str(found.pulls), str(found.pulls_with_login)) == ("40/4s", "100/6h", "200/6h")
    assert not found.listed
    assert rule_of(OPEN, "quay.io") == HostRule()


# ---- proxies ----


@pytest.mark.parametrize(
    "text",
    [
        "http://proxy",
        "https://proxy:3128/",
        "http://user:p%40ss@proxy.corp.example:8080",
        "http://user@10.0.0.1:1",
        "http://[fd00::1]:3128",
    ],
)
def test_proxies(text):
    assert is_proxy(text)
    assert HostRule(proxy=text).proxy == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "proxy:3128",
        "socks5://proxy",
        "http://",
        "http://@proxy",
        "http://proxy/path",
        "http://proxy?x",
        "http://us/er@proxy",
        "http://us er@proxy",
        "http://user:pa@ss@proxy",
        "http://user:p\u212a@proxy",
        "http://proxy:0",
        "http://proxy:99999",
        "http://[::zz]",
        "http://proxy\n",
    ],
)
def test_what_is_no_proxy(text):
    assert not is_proxy(text)
    if text:
        with pytest.raises(ValueError, match="a proxy must be") as caught:
            HostRule(proxy=text)
        assert text not in str(caught.value)


def test_no_proxys_password_is_in_a_repr():
    rule = HostRule(proxy="http://user:hunter2@proxy")
    policy = Policy({"a.example": rule}, http_proxy=rule.proxy, https_proxy=rule.proxy)
    assert "hunter2" not in repr(policy) + repr(
        transport_for(policy, ImageReference.parse("a.example/b"), insecure=False)
    )


PROXY = "http://proxy:3128"


@pytest.mark.parametrize(
    ("no_proxy", "host", "port", "direct"),
    [
        ("", "quay.io", 443, False),
        ("*", "quay.io", 443, True),
        ("quay.io", "quay.io", 443, True),
        ("QUAY.io", "Quay.IO.", 443, True),
        ("quay.io", "cdn.quay.io", 443, True),
        ("quay.io", "notquay.io", 443, False),
        ("quay.io", "quay.io.evil.example", 443, False),
        (".quay.io", "cdn.quay.io", 443, True),
        (".quay.io", "quay.io", 443, False),
        ("*.quay.io", "cdn.quay.io", 443, True),
        ("*.quay.io", "quay.io", 443, False),
        ("q*.io", "quay.io", 443, False),
        (".", "quay.io", 443, False),
        ("quay.io:8443", "quay.io", 8443, True),
        ("quay.io:8443", "quay.io", 443, False),
        (".corp.example:5000", "a.corp.example", 5000, True),
        ("10.0.0.0/8", "10.1.2.3", 443, True),
        ("10.0.0.0/8", "11.1.2.3", 443, False),
        ("10.0.0.0/8", "ten.example", 443, False),
        ("10.1.2.3", "10.1.2.3", 443, True),
        ("10.1.2.3:5000", "10.1.2.3", 5000, True),
        ("10.1.2.3:5000", "10.1.2.3", 443, False),
        ("fd00::/8", "[fd00::1]", 443, True),
        ("[fd00::1]:5000", "fd00::1", 5000, True),
        ("[fd00::1]:5000", "fd00::1", 443, False),
        ("fd00::1", "[fd00::1]", 443, True),
        ("1.2.3", "0.1.2.3", 443, False),
        ("example.com, ,quay.io", "quay.io", 443, True),
        ("<local>,garbage:x,10.0.0.0/99,:", "quay.io", 443, False),
        ("", "localhost", 5000, True),
        ("", "a.localhost", 5000, True),
        ("", "127.8.8.8", 5000, True),
        ("", "[::1]", 5000, True),
        ("", "registry.acme.svc", 443, True),
        ("", "registry.acme.svc.cluster.local", 443, True),
        ("", "registry.acme.svcs", 443, False),
    ],
)
def test_hosts_without_a_proxy(no_proxy, host, port, direct):
    policy = Policy({}, https_proxy=PROXY, no_proxy=tuple(no_proxy.split(",")))
    assert proxy_for(policy, "https", host, port) == ("" if direct else PROXY)


OTHER = "https://user:pw@other:1"


@pytest.mark.parametrize(
    ("hosts", "scheme", "host", "port", "proxy"),
    [
        pytest.param({}, "http", "quay.io", 80, "http://plain:1", id="by the scheme"),
        pytest.param({"quay.io": HostRule(proxy=OTHER)}, "https", "quay.io", 443, OTHER, id="the host's own"),
        pytest.param({"quay.io": HostRule(proxy=OTHER)}, "https", "quay.io", 8443, PROXY, id="not at another port"),
        pytest.param({"reg:5000": HostRule(proxy=OTHER)}, "https", "reg", 5000, OTHER, id="with its port"),
        pytest.param({"quay.io": HostRule(proxy=DIRECT)}, "https", "quay.io", 443, "", id="none"),
        pytest.param({"quay.io": HostRule(insecure=True)}, "https", "quay.io", 443, PROXY, id="nothing said of it"),
        pytest.param({"exempt.io": HostRule(proxy=OTHER)}, "https", "exempt.io", 443, OTHER, id="beats the exceptions"),
        pytest.param(
            {"docker.io": HostRule(proxy=OTHER)}, "https", "registry-1.docker.io", 443, OTHER, id="Docker Hub"
        ),
        pytest.param(
            {"docker.io": HostRule(proxy=OTHER)}, "https", "auth.docker.io", 443, PROXY, id="its token service"
        ),
    ],
)
def test_a_hosts_own_proxy(hosts, scheme, host, port, proxy):
    policy = Policy(hosts, http_proxy="http://plain:1", https_proxy=PROXY, no_proxy=("exempt.io",))
    assert proxy_for(policy, scheme, host, port) == proxy


@pytest.mark.parametrize(
    ("rule", "proxy"),
    [
        pytest.param(HostRule(), PROXY, id="the installation's"),
        pytest.param(HostRule(proxy=OTHER), OTHER, id="its own"),
        pytest.param(HostRule(proxy=DIRECT), "", id="none"),
        pytest.param(HostRule(endpoint="http://cache"), "http://plain:1", id="the endpoint's scheme"),
        pytest.param(HostRule(endpoint="https://cache.exempt:444/"), "", id="the endpoint's name"),
        pytest.param(HostRule(endpoint="https://other.exempt"), PROXY, id="the endpoint's port"),
        pytest.param(HostRule(endpoint="https://[fd00::1]:5000"), "", id="the endpoint's address"),
        pytest.param(HostRule(endpoint="https://[fd00::1]"), "", id="an address without a port"),
        pytest.param(HostRule(endpoint="https://reg.acme.svc:5000"), "", id="a service of the cluster"),
    ],
)
def test_the_proxy_of_a_registry_is_that_of_where_it_is_asked(rule, proxy):
    policy = Policy(
        {"quay.io": rule}, http_proxy="http://plain:1", https_proxy=PROXY, no_proxy=(".exempt:444", "fd00::/8")
    )
    transport = ask(policy, "quay.io/acme/web")
    assert transport.proxy == proxy
    assert transport.listed == bool(rule.endpoint), "a proxy says nothing about where a host lives"


def test_a_ca_lists_its_host():
    transport = ask(Policy({"reg:5000": HostRule(ca="PEM")}), "reg:5000/web")
    assert (transport.ca, transport.listed, transport.credentials) == ("PEM", True, True)


# ---- mirrors ----

DIGEST = "sha256:" + "0" * 64


def rule(source, *mirrors, **words):
    return MirrorRule(source, tuple(Mirror(each) if isinstance(each, str) else each for each in mirrors), **words)


def places(policy, text, *, insecure=False):
    found = places_for(policy, ImageReference.parse(text), insecure=insecure)
    return found if isinstance(found, Refused) else [str(place.reference) for place in found]


def test_without_mirrors_the_source_is_the_place():
    reference = ImageReference.parse("nginx:1")
    (place,) = places_for(OPEN, reference, insecure=True)
    assert place == Place(reference, transport_for(OPEN, reference, insecure=True), reference)
    assert places(Policy({}, blocked=("docker.io",)), "nginx").reason == "Blocked"


@pytest.mark.parametrize(
    ("source", "text", "expected"),
    [
        pytest.param("quay.io", "quay.io/acme/web:1", "m.example/x/acme/web:1", id="a host"),
        pytest.param("quay.io/acme", "quay.io/acme/web:1", "m.example/x/web:1", id="a namespace"),
        pytest.param("quay.io/acme/", "quay.io/acme/web:1", "m.example/x/web:1", id="with a slash"),
        pytest.param("quay.io/acme/web", "quay.io/acme/web:1", "m.example/x:1", id="a repository"),
        pytest.param("quay.io/acme/web", "quay.io/acme/web/ui:1", "m.example/x/ui:1", id="below a repository"),
        pytest.param("quay.io/acme", "quay.io/acmecorp/web:1", None, id="not in the middle of a name"),
        pytest.param("quay.io/acme/web", "quay.io/acme:1", None, id="not above"),
        pytest.param("Quay.IO", "quay.io/acme/web:1", "m.example/x/acme/web:1", id="the source in upper case"),
        pytest.param("quay.io", "QUAY.io/acme/web:1", "m.example/x/acme/web:1", id="the reference in upper case"),
        pytest.param("quay.io", "quay.io:8443/acme/web:1", None, id="another port"),
        pytest.param("quay.io:8443", "quay.io:8443/acme/web:1", "m.example/x/acme/web:1", id="its port"),
        pytest.param("docker.io", "nginx:1", "m.example/x/library/nginx:1", id="a short name"),
        pytest.param("index.docker.io/library", "nginx", "m.example/x/nginx", id="Docker Hub by another name"),
        pytest.param("docker.io/acme", "registry-1.docker.io/acme/web:1", "m.example/x/web:1", id="and another"),
        pytest.param("localhost", "localhost/web:1", "m.example/x/web:1", id="localhost"),
        pytest.param("*.corp.example", "a.corp.example/acme/web:1", "m.example/x/acme/web:1", id="below a domain"),
        pytest.param("*.corp.example", "b.a.corp.example/web:1", "m.example/x/web:1", id="further below"),
        pytest.param("*.Corp.example", "a.corp.EXAMPLE/web:1", "m.example/x/web:1", id="a domain in upper case"),
        pytest.param("*.corp.example", "corp.example/web:1", None, id="not the domain itself"),
        pytest.param("*.corp.example", "a.notcorp.example/web:1", None, id="a label is whole"),
        pytest.param("*.corp.example", "a.corp.example:5000/web:1", None, id="a domain at another port"),
        pytest.param("*.corp.example:5000", "a.corp.example:5000/web:1", "m.example/x/web:1", id="a domain's port"),
        pytest.param("quay.io", f"quay.io/a/b@{DIGEST}", f"m.example/x/a/b@{DIGEST}", id="a digest"),
        pytest.param("quay.io", f"quay.io/a/b:1@{DIGEST}", f"m.example/x/a/b:1@{DIGEST}", id="tag and digest"),
        pytest.param("quay.io", "quay.io/a/b", "m.example/x/a/b", id="neither"),
    ],
)
def test_a_source_is_a_prefix_and_a_mirror_keeps_the_rest(source, text, expected):
    found = places(Policy({}, mirrors=(rule(source, "m.example/x"),)), text)
    assert found == ([expected] if expected else []) + [str(ImageReference.parse(text))]


@pytest.mark.parametrize(
    ("text", "mirror"),
    [
        ("quay.io/a/b/c/d", "four.example/d"),
        ("quay.io/a/b/c", "three.example"),
        ("quay.io/a/b", "host.example/a/b"),
        ("x.quay.io/a", "deep.example/a"),
        ("y.x.quay.io/a", "deeper.example/a"),
        ("exact.quay.io/a", "exact.example/a"),
    ],
)
def test_the_longest_source_counts_alone(text, mirror):
    sources = {
        "quay.io": "host.example",
        "quay.io/a/b/c": "three.example",
        "quay.io/a/b/c/d": "four.example/d",
        "*.quay.io": "deep.example",
        "*.x.quay.io": "deeper.example",
        "exact.quay.io": "exact.example",
    }
    if text == "quay.io/a/b/c":
        sources["quay.io/a/b/c"] = "three.example/c"
        mirror = "three.example/c"
    policy = Policy({}, mirrors=tuple(rule(*each) for each in sources.items()))
    assert places(policy, text) == [mirror, text]


@pytest.mark.parametrize(
    ("pulls", "by_tag", "by_digest"), [("tag", True, False), ("digest", False, True), ("all", True, True)]
)
def test_a_mirror_may_be_for_tags_or_digests_alone(pulls, by_tag, by_digest):
    policy = Policy({}, mirrors=(rule("quay.io", "m.example", pulls=pulls),))
    assert (len(places(policy, "quay.io/a/b:1")) == 2) == by_tag
    assert (len(places(policy, "quay.io/a/b")) == 2) == by_tag
    assert (len(places(policy, f"quay.io/a/b@{DIGEST}")) == 2) == by_digest
    assert (len(places(policy, f"quay.io/a/b:1@{DIGEST}")) == 2) == by_digest


@pytest.mark.parametrize(
    ("rules", "order"),
    [
        pytest.param(["abc"], "abc", id="one rule"),
        pytest.param(["ab", "cd"], "abcd", id="as first seen"),
        pytest.param(["b", "ab"], "ab", id="a later rule may put one before"),
        pytest.param(["ac", "abc"], "abc", id="or between"),
        pytest.param(["ab", "ba"], "ab", id="who contradicts the first is not heard"),
        pytest.param(["abc", "ca", "d"], "abcd", id="nor does a circle lose one"),
        pytest.param(["aab"], "ab", id="each once"),
    ],
)
def test_rules_for_one_source_are_joined(rules, order):
    policy = Policy({}, mirrors=tuple(rule("quay.io", *(f"{name}.example" for name in each)) for each in rules))
    assert places(policy, "quay.io/x") == [*(f"{name}.example/x" for name in order), "quay.io/x"]


@given(st.lists(st.lists(st.sampled_from("abcdefgh"), unique=True, max_size=5), max_size=6))
def test_no_mirror_is_lost_and_the_first_rule_is_kept(rules):
    mirrors = tuple(rule("quay.io", *(f"{name}.example" for name in each)) for each in rules)
    found = [place[0] for place in places(Policy({}, mirrors=mirrors), "quay.io/x")[:-1]]
    assert sorted(found) == sorted({name for each in rules for name in each})
    first = next((each for each in rules if each), [])
    assert [name for name in found if name in first] == first


def test_rules_of_the_other_kind_do_not_order():
    policy = Policy(
        {}, mirrors=(rule("q.io", "a.io", "b.io", pulls="tag"), rule("q.io", "b.io", "a.io", pulls="digest"))
    )
    assert places(policy, "q.io/x:1") == ["a.io/x:1", "b.io/x:1", "q.io/x:1"]
    assert places(policy, f"q.io/x@{DIGEST}")[:2] == [f"b.io/x@{DIGEST}", f"a.io/x@{DIGEST}"]


def test_so_many_places_and_no_more():
    mirrors = [f"m{number}.example" for number in range(40)]
    found = places(Policy({}, mirrors=(rule("quay.io", *mirrors),)), "quay.io/x")
    assert found == [*(f"{mirror}/x" for mirror in mirrors[: MAX_PLACES - 1]), "quay.io/x"]
    never = Policy({}, mirrors=(rule("quay.io", *mirrors, never_contact_source=True),))
    assert places(never, "quay.io/x") == [f"{mirror}/x" for mirror in mirrors[:MAX_PLACES]]


def test_a_host_of_countless_mirrors_costs_no_minutes():
    policy = Policy({}, mirrors=tuple(rule("quay.io", f"m{n}.example", f"m{n + 1}.example") for n in range(20_000)))
    assert len(places(policy, "quay.io/x")) == MAX_PLACES


@pytest.mark.parametrize(
    ("words", "blocked", "allowed", "found"),
    [
        pytest.param({}, (), (), ["m.io/x", "n.io/x", "q.io/x"], id="nothing"),
        pytest.param({"never_contact_source": True}, (), (), ["m.io/x", "n.io/x"], id="never the source"),
        pytest.param({}, ("q.io",), (), ["m.io/x", "n.io/x"], id="a blocked source's mirrors are asked"),
        pytest.param({}, ("m.io",), (), ["n.io/x", "q.io/x"], id="a blocked mirror is not"),
        pytest.param({}, ("*.io",), (), "Blocked", id="all are blocked"),
        pytest.param({}, (), ("q.io",), ["m.io/x", "n.io/x", "q.io/x"], id="mirrors need not be allowed"),
        pytest.param({}, (), ("m.io",), "NotAllowed", id="a source must be"),
        pytest.param({}, ("q.io",), ("m.io",), "NotAllowed", id="also a blocked one"),
        pytest.param({"never_contact_source": True}, ("m.io", "n.io"), (), "Blocked", id="none is left"),
        pytest.param({"never_contact_source": True, "pulls": "digest"}, (), (), "Blocked", id="none for tags"),
        pytest.param({"pulls": "digest"}, (), (), ["q.io/x"], id="only the source for tags"),
    ],
)
def test_who_may_be_contacted(words, blocked, allowed, found):
    policy = Policy({}, blocked=blocked, allowed=allowed, mirrors=(rule("q.io", "m.io", "n.io", **words),))
    answer = places(policy, "q.io/x")
    assert (answer.reason if isinstance(answer, Refused) else answer) == found


def test_never_is_said_with_its_source():
    policy = Policy({}, mirrors=(rule("q.io/a", "m.io", pulls="digest", never_contact_source=True),))
    assert places(policy, "q.io/a/b:1").message == (
        "forbidden: registry q.io is not to be contacted for q.io/a, and no mirror of it may be asked for a tag"
    )
    assert places(policy, "q.io/c:1") == ["q.io/c:1"]
    block = Policy({}, mirrors=(rule("q.io", never_contact_source=True),))
    assert "may be asked for a digest" in places(block, f"q.io/b@{DIGEST}").message


def test_never_of_one_rule_holds_for_all_of_the_source():
    policy = Policy({}, mirrors=(rule("q.io", "m.io", pulls="digest", never_contact_source=True), rule("q.io", "n.io")))
    assert places(policy, "q.io/x:1") == ["n.io/x:1"]


@pytest.mark.parametrize(
    ("hosts", "mirror", "wish", "expected"),
    [
        pytest.param({}, Mirror("m.io"), False, ("https://m.io", False, True), id="verified"),
        pytest.param({}, Mirror("m.io"), True, ("https://m.io", False, True), id="a tag's wish does not reach it"),
        pytest.param({}, Mirror("m.io", insecure=True), False, ("https://m.io", True, True), id="its own flag"),
        pytest.param(
            {"m.io": HostRule(insecure=True)}, Mirror("m.io"), True, ("https://m.io", True, True), id="its host"
        ),
        pytest.param(
            {"m.io": HostRule(endpoint="http://10.0.0.1:5000")},
            Mirror("m.io"),
            False,
            ("http://10.0.0.1:5000", False, False),
            id="its endpoint, anonymous",
        ),
        pytest.param(
            {"q.io": HostRule(insecure=True, ca_file="/q")},
            Mirror("m.io"),
            False,
            ("https://m.io", False, True),
            id="not the source's",
        ),
    ],
)
def test_a_mirror_is_spoken_to_by_its_own_rules(hosts, mirror, wish, expected):
    policy = Policy(hosts, mirrors=(rule("q.io", mirror),), https_proxy=PROXY)
    first, source = places_for(policy, ImageReference.parse("q.io/x"), insecure=wish)
    transport = first.transport
    assert (transport.endpoint, transport.insecure, transport.credentials) == expected
    assert (transport.host, transport.listed, transport.ca_file) == ("m.io", True, "")
    assert source.transport == transport_for(policy, ImageReference.parse("q.io/x"), insecure=wish)


def test_what_is_recorded():
    policy = Policy({}, mirrors=(rule("q.io", "m.io"), rule("q.io", "n.io", records_mirror=True)))
    found = places_for(policy, ImageReference.parse("Q.io/x:1"), insecure=False)
    assert [str(place.recorded) for place in found] == ["Q.io/x:1", "n.io/x:1", "Q.io/x:1"]


@pytest.mark.parametrize(
    ("mirror", "text"),
    [
        pytest.param("m.io", "quay.io/acme/web", id="a host alone"),
        pytest.param("quay.io/acme/web", "quay.io/acme/web", id="the source itself"),
        pytest.param("m.io/" + "/".join("x" * 40 for _ in range(6)), "quay.io/acme/web/ui-of-it", id="too long"),
    ],
)
def test_a_place_that_cannot_be_is_left_out(mirror, text):
    source = "*.io" if mirror.startswith("quay") else "quay.io/acme/web"
    mirror = "quay.io" if mirror.startswith("quay") else mirror
    assert places(Policy({}, mirrors=(rule(source, mirror),)), text) == [text]


def test_a_registry_without_a_repository_has_no_mirror():
    assert places(Policy({}, mirrors=(rule("quay.io", "m.io"),)), "quay.io") == ["quay.io"]


@pytest.mark.parametrize(
    "location",
    [
        "",
        "m",
        "acme/web",
        "m.io/a:1",
        f"m.io/a@{DIGEST}",
        "https://m.io",
        "m.io/A",
        "m.io//a",
        "m.io/a//",
        "*.m.io",
        "m.io:0",
    ],
)
def test_mirrors_that_are_refused(location):
    with pytest.raises(ValueError, match=r"the mirror .* must be host"):
        Mirror(location)


@pytest.mark.parametrize("source", ["", "quay", "*", "*.", "*.a/b", "a.*.b", "*.a:99999", "quay.io/a:1", "quay.io/*"])
def test_sources_that_are_refused(source):
    with pytest.raises(ValueError, match="the source "):
        MirrorRule(source, (Mirror("m.io"),))


def test_nothing_mirrors_itself():
    with pytest.raises(ValueError, match="is a mirror of itself"):
        rule("index.docker.io/acme/", "m.io", "docker.io/acme")


# ---- images that were imported ----


@pytest.mark.parametrize(
    ("policy", "text", "reason"),
    [
        pytest.param(Policy({}), "q.io/x", None, id="anything"),
        pytest.param(Policy({}, blocked=("q.io",)), "q.io/x", "Blocked", id="blocked"),
        pytest.param(Policy({}, allowed=("a.io",)), "q.io/x", "NotAllowed", id="not allowed"),
        pytest.param(
            Policy({}, blocked=("q.io",), mirrors=(rule("q.io", "m.io", pulls="tag"),)), "q.io/x", None, id="mirrored"
        ),
        pytest.param(
            Policy({}, blocked=("q.io", "m.io"), mirrors=(rule("q.io", "m.io"),)),
            "q.io/x",
            "Blocked",
            id="no mirror left",
        ),
        pytest.param(
            Policy({}, allowed=("a.io",), blocked=("q.io",), mirrors=(rule("q.io", "m.io"),)),
            "q.io/x",
            "NotAllowed",
            id="mirrored, not allowed",
        ),
        pytest.param(
            Policy({}, allowed=("q.io",), mirrors=(rule("q.io", "m.io/sub", records_mirror=True),)),
            "m.io/sub/x",
            None,
            id="a mirror's name, recorded",
        ),
        pytest.param(
            Policy({}, allowed=("q.io",), mirrors=(rule("q.io", "m.io/sub", records_mirror=True),)),
            "m.io/other/x",
            "NotAllowed",
            id="elsewhere at the mirror",
        ),
        pytest.param(
            Policy({}, allowed=("q.io",), mirrors=(rule("q.io", "m.io/sub"),)),
            "m.io/sub/x",
            "NotAllowed",
            id="never recorded",
        ),
        pytest.param(
            Policy({}, blocked=("m.io",), mirrors=(rule("q.io", "m.io", records_mirror=True),)),
            "m.io/x",
            "Blocked",
            id="a mirror that is blocked by now",
        ),
    ],
)
def test_images_that_may_be_used_on(policy, text, reason):
    found = refuse_image(policy, ImageReference.parse(f"{text}@{DIGEST}"))
    assert (found.reason if found else None) == reason
