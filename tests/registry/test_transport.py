"""The socket side: which addresses are contacted, what redirects and realms may do, TLS and its absence, and time.

Addresses on loopback play the parts: 127.0.0.1 is public, 127.0.0.2 private, 127.0.0.3 one that is always refused.
"""

import asyncio
import socket
import ssl
from dataclasses import replace
from ipaddress import ip_address

import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver
from yarl import URL

from dev.images import image
from imagestreams.core.keychain import Credential
from imagestreams.core.lookup import ImportMode, Lookup, Served
from imagestreams.core.policy import HostRule, Policy, Transport
from imagestreams.core.reference import ImageReference
from imagestreams.registry.errors import InvalidAnswer, Refused, RegistryError, Unauthorized, Unreachable, Untrusted
from imagestreams.registry.transport import Reach, Timeouts, redirect_target
from tests.fakes.registry import FakeRegistry, FakeServer

WEB = image()
GOOD = Credential("dev", "correct-horse", "good")
PRIVATE, FORBIDDEN = ip_address("127.0.0.2"), ip_address("127.0.0.3")


def refuse(address, *, public_origin):
    if address == FORBIDDEN:
        return "a forbidden address"
    return "a private address" if public_origin and address == PRIVATE else None


def reach(*listed):
    return Reach(refuse, frozenset(listed).__contains__)


class Names(AbstractResolver):
    """A name service from a table; counts what it was asked."""

    def __init__(self, **table):
        self.table = {name.replace("_", "."): addresses.split() for name, addresses in table.items()}
        self.asked = []

    async def resolve(self, host, port=0, family=socket.AF_INET):
        self.asked.append(host)
        if host not in self.table:
            raise OSError(socket.EAI_NONAME, "unknown")
        return [
            {"hostname": host, "host": address, "port": port, "family": socket.AF_INET, "proto": 0, "flags": 0}
            for address in self.table[host]
        ]

    async def close(self):
        pass


@pytest.fixture
async def registry():
    async with FakeRegistry() as started:
        started.add("acme/web", "latest", WEB)
        yield started


@pytest.fixture
async def other():
    """Where redirects lead: the same content at another port."""
    async with FakeRegistry() as started:
        started.add("acme/web", "latest", WEB)
        yield started


def transport(registry, name="", **changes):
    """How a user's own name for the registry is reached; no administrator has listed it."""
    host = f"{name}:{registry.host.rpartition(':')[2]}" if name else registry.host
    scheme = registry.url.partition(":")[0]
    return registry.transport(**{"host": host, "endpoint": f"{scheme}://{host}", "listed": False, **changes})


def lookup(way, *credentials, known=None):
    reference = ImageReference.parse(f"{way.host}/acme/web:latest")
    return Lookup(reference, way, credentials, ImportMode.PRESERVE_ORIGINAL, known=known)


def redirect(registry, location, status=307, **script):
    registry.reply(status, headers={"Location": location}, **script)


# --- addresses --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("127.0.0.1", "a loopback address"),
        ("169.254.169.254", "a cloud metadata address"),
        ("0.0.0.0", "an unspecified address"),
        ("10.9.0.1", "an address of a refused network"),
    ],
)
@pytest.mark.parametrize("by_name", [False, True])
async def test_the_rules_of_the_policy_hold(new_client, address, says, by_name):
    from ipaddress import ip_network

    names = Names(inside_example=address)
    policy = Policy(hosts={}, refused_networks=(ip_network("10.9.0.0/16"),))
    client = new_client(Reach.of(policy), resolver=names)
    host = "inside.example" if by_name else address
    way = Transport(host, f"https://{host}", insecure=True, credentials=False, ca_file="", listed=False)
    with pytest.raises(
        Refused, match=f"^{host} is not contacted: it resolves to {says}, and no administrator lists it$"
    ):
        await client.look_up(lookup(way))


async def test_a_listed_host_is_exempt(registry, new_client):
    names = Names(inside_example="127.0.0.3")
    client = new_client(reach(), resolver=names)
    async with FakeRegistry(host="127.0.0.3") as inside:
        inside.add("acme/web", "latest", WEB)
        with pytest.raises(Refused):
            await client.look_up(lookup(transport(inside, "inside.example")))
        assert inside.requests == []
        await client.look_up(lookup(transport(inside, "inside.example", listed=True)))
        # The connection that the listed way has opened is not there for those who are not.
        with pytest.raises(Refused):
            await client.look_up(lookup(transport(inside, "inside.example")))
        assert len(inside.requests) == 1


async def test_of_several_addresses_only_the_good_are_contacted(registry, new_client):
    names = Names(mixed_example="127.0.0.3 127.0.0.1")
    async with FakeRegistry(host="127.0.0.3") as trap:
        trap._port = int(registry.host.rpartition(":")[2])
        await trap.stop()
        await trap.start()
        await new_client(reach(), resolver=names).look_up(lookup(transport(registry, "mixed.example")))
        assert trap.requests == []
    assert len(registry.requests) == 1


@pytest.mark.parametrize("host", ["127.1", "2130706433", "0177.0.0.1", "0x7f000001", "[::ffff:127.0.0.1]", "[::1]"])
async def test_odd_spellings_of_an_address_do_not_pass(new_client, host):
    way = Transport(host, f"http://{host}:1", insecure=True, credentials=False, ca_file="", listed=False)
    with pytest.raises((Refused, InvalidAnswer)):
        await new_client(Reach.of(Policy(hosts={}))).look_up(
            Lookup(ImageReference("registry.example", "acme", "web"), way, (), ImportMode.LEGACY)
        )


async def test_a_name_that_nobody_knows_is_unreachable(new_client):
    way = Transport("no.example", "https://no.example", insecure=False, credentials=True, ca_file="", listed=False)
    with pytest.raises(Unreachable, match=r"^no\.example is not known to the name service$"):
        await new_client(reach(), resolver=Names()).look_up(lookup(way))


async def test_the_system_resolver_knows_localhost(registry, new_client):
    way = transport(registry, "localhost", listed=True)
    assert (await new_client(reach()).look_up(lookup(way))).served.digest == WEB.digest


# --- redirects --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "location", "target"),
    [
        ("https://a/v2/x", "https://b/v2/y?sig=a%2Fb", "https://b/v2/y?sig=a%2Fb"),
        ("https://a/v2/x", "/v2/y", "https://a/v2/y"),
        ("https://a/v2/x", "//b/v2/y", "https://b/v2/y"),
        ("https://a/v2/x", "y#part", "https://a/v2/y"),
        ("http://a/v2/x", "https://a/v2/x", "https://a/v2/x"),
    ],
)
def test_a_redirect_leads_where_it_says(url, location, target):
    assert str(redirect_target(URL(url), location)) == target


@pytest.mark.parametrize(
    "location",
    [
        "",
        "http://b/v2/",
        "ftp://b/v2/",
        "file:///etc/passwd",
        "https://user@b/v2/",
        "https://user:pw@b/v2/",
        "https://b:99999/",
        "https://b\\@a/",
        "https://b/ x",
        "https://b/\r\nX: y",
        "https://b/" + "x" * 5000,
        "javascript:alert(1)",
    ],
)
def test_a_redirect_to_nowhere_good_is_refused(location):
    with pytest.raises((Refused, InvalidAnswer)):
        redirect_target(URL("https://a/v2/x"), location)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("known", [None, Served(WEB.digest, WEB.digest)])
async def test_a_redirect_is_followed(registry, other, new_client, status, known):
    redirect(registry, f"{other.url}/v2/acme/web/manifests/latest", status)
    client = new_client(reach(other.host))
    assert (await client.look_up(lookup(registry.transport(), known=known))).served.digest == WEB.digest
    assert other.asked() == ["HEAD acme/web:latest" if known else "GET acme/web:latest"]


@pytest.mark.parametrize(("hops", "is_good"), [(5, True), (6, False)])
async def test_five_redirects_are_enough(registry, new_client, hops, is_good):
    redirect(registry, "/v2/acme/web/manifests/latest", times=hops)
    look_up = new_client(reach()).look_up(lookup(registry.transport()))
    if is_good:
        await look_up
    else:
        with pytest.raises(InvalidAnswer, match="more than 5 times"):
            await look_up
    assert len(registry.requests) == 6


async def test_a_login_is_not_told_to_where_a_redirect_leads(other, new_client):
    async with FakeRegistry(auth="htpasswd") as registry:
        client = new_client(reach(other.host))
        redirect(registry, f"{other.url}/v2/acme/web/manifests/latest", method="HEAD", path="latest")
        registry.add("acme/web", "latest", WEB)
        await client.look_up(lookup(registry.transport(), GOOD))
        await client.look_up(lookup(registry.transport(), GOOD, known=Served(WEB.digest, WEB.digest)))
        assert registry.requests[-1].authorization.startswith("Basic ")
        assert [request.authorization for request in other.requests] == [""]


async def test_a_login_stays_with_a_redirect_on_the_same_host_and_port(new_client):
    async with FakeRegistry(auth="htpasswd") as registry:
        registry.add("acme/web", "real", WEB)
        redirect(registry, "/v2/acme/web/manifests/real", path="latest")
        await new_client(reach()).look_up(lookup(registry.transport(), GOOD))
        assert registry.asked() == ["GET acme/web:latest", "GET acme/web:real"] * 2
        assert registry.requests[-1].authorization.startswith("Basic ")


async def test_where_a_redirect_leads_is_given_no_login(registry, new_client):
    async with FakeRegistry(auth="htpasswd", host="127.0.0.2") as other:
        redirect(registry, f"{other.url}/v2/acme/web/manifests/latest")
        with pytest.raises(Unauthorized, match="redirects to a host that wants a login"):
            await new_client(reach(other.host)).look_up(lookup(registry.transport(), GOOD))
        assert [request.authorization for request in other.requests] == [""]


async def test_a_redirect_does_not_lead_from_public_to_private(registry, new_client):
    async with FakeRegistry(host="127.0.0.2", tls=True) as inside:
        redirect(registry, f"{inside.url}/v2/acme/web/manifests/latest")
        client = new_client(reach(), resolver=Names(public_example="127.0.0.1"))
        for name in ("", "public.example"):
            with pytest.raises(Refused, match="a private address"):
                await client.look_up(lookup(transport(registry, name)))
        assert inside.requests == []


async def test_a_private_registry_may_redirect_to_a_private_store(new_client):
    async with FakeRegistry(host="127.0.0.2", tls=True) as registry:
        redirect(registry, "https://store.example/v2/")
        names = Names(inside_example="127.0.0.2", store_example="127.0.0.2")
        way = transport(registry, "inside.example", insecure=True)
        with pytest.raises(Unreachable, match=r"^store\.example "):  # nobody listens there, but it was tried
            await new_client(reach(), resolver=names).look_up(lookup(way))


async def test_a_stranger_does_not_redirect_to_a_listed_host(registry, new_client):
    """Listing a host opens it to those who name it, not to those whom another registry sends there."""
    async with FakeRegistry(host="127.0.0.2", tls=True) as inside:
        redirect(registry, f"{inside.url}/v2/acme/web/manifests/latest")
        with pytest.raises(Refused):
            await new_client(reach(inside.host)).look_up(lookup(transport(registry)))
        assert inside.requests == []


@pytest.mark.parametrize("location", ["http://127.0.0.3:1/", "https://127.0.0.3:1/", "https://forbidden.example/"])
async def test_a_redirect_to_a_refused_address_is_refused(registry, new_client, location):
    redirect(registry, location)
    names = Names(forbidden_example="127.0.0.3")
    with pytest.raises(Refused):
        await new_client(reach(), resolver=names).look_up(lookup(transport(registry)))


async def test_a_redirect_to_plain_http_is_refused(registry, new_client):
    async with FakeRegistry(tls=True) as secure:
        redirect(secure, f"{registry.url}/v2/acme/web/manifests/latest")
        for way in (secure.transport(), secure.transport(insecure=True)):
            with pytest.raises(Refused, match="plain http"):
                await new_client(reach(registry.host)).look_up(lookup(way))
        assert registry.requests == []


async def test_a_registry_in_plain_http_does_not_lead_to_others(registry, new_client):
    async with FakeRegistry(host="127.0.0.2") as other:
        redirect(registry, f"{other.url}/v2/acme/web/manifests/latest")
        with pytest.raises(Refused, match="another host in plain http"):
            await new_client(reach()).look_up(lookup(registry.transport()))
        assert other.requests == []


@pytest.mark.parametrize("location", ["", "ftp://x/", "https://"])
async def test_a_redirect_without_a_target_is_no_answer(registry, new_client, location):
    redirect(registry, location)
    with pytest.raises(InvalidAnswer):
        await new_client(reach()).look_up(lookup(registry.transport()))


# --- realms -----------------------------------------------------------------------------------------------------------


def challenge(registry, realm):
    registry.reply(401, headers={"WWW-Authenticate": f'Bearer realm="{realm}",service="x"'})


async def test_a_public_registry_has_no_private_token_service(registry, new_client):
    async with FakeServer(host="127.0.0.2") as tokens:
        challenge(registry, f"https://{tokens.host}/token")
        with pytest.raises(Refused, match="a private address"):
            await new_client(reach()).look_up(lookup(transport(registry), GOOD))
        assert tokens.requests == []


@pytest.mark.parametrize("realm", ["https://127.0.0.3/token", "https://forbidden.example/token"])
async def test_a_refused_address_is_no_token_service_even_for_nobody(registry, new_client, realm):
    challenge(registry, realm)
    names = Names(forbidden_example="127.0.0.3")
    with pytest.raises(Refused, match="a forbidden address"):
        await new_client(reach(), resolver=names).look_up(lookup(transport(registry)))


async def test_a_token_service_of_strangers_gets_no_credential(new_client):
    async with FakeRegistry(auth="token", tls=True) as registry:
        registry.add("public/web", "latest", WEB)
        registry.add("acme/web", "latest", WEB)
        port = registry.tokens.host.rpartition(":")[2]
        challenge(registry, f"https://localhost:{port}/token")
        client = new_client(reach(), resolver=Names(localhost="127.0.0.1"))
        with pytest.raises(Unauthorized, match="token service of another domain"):
            await client.look_up(lookup(registry.transport(), GOOD))
        assert [request.authorization for request in registry.tokens.requests] == [""]


async def test_a_listed_token_service_gets_it(new_client):
    async with FakeRegistry(auth="token", tls=True) as registry:
        port = registry.tokens.host.rpartition(":")[2]
        challenge(registry, f"https://localhost:{port}/token")
        client = new_client(reach(f"localhost:{port}"), resolver=Names(localhost="127.0.0.3 127.0.0.1"))
        with pytest.raises(RegistryError):
            await client.look_up(lookup(registry.transport(), GOOD))
        assert registry.tokens.requests[0].authorization.startswith("Basic ")


async def test_a_token_services_redirect_takes_no_credential_along(new_client):
    async with FakeRegistry(auth="token") as registry, FakeServer() as trap:
        trap.reply(200, b'{"token":"x"}')
        redirect(registry.tokens, f"{trap.url}/token", 302)
        client = new_client(reach(registry.tokens.host, trap.host))
        with pytest.raises(Unauthorized):
            await client.look_up(lookup(registry.transport(), GOOD))
        assert registry.tokens.requests[0].authorization.startswith("Basic ")
        assert [request.authorization for request in trap.requests] == [""]


# --- TLS --------------------------------------------------------------------------------------------------------------


@pytest.fixture
async def secure():
    async with FakeRegistry(tls=True) as started:
        started.add("acme/web", "latest", WEB)
        yield started


async def test_a_certificate_of_the_hosts_own_authority_is_good(secure, new_client):
    assert (await new_client(reach()).look_up(lookup(secure.transport()))).served.digest == WEB.digest


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        pytest.param({"ca_file": ""}, "the certificate of .* is not trusted: its authority is not known", id="unknown"),
        pytest.param({"ca_file": "/nowhere.pem"}, "the CA file .* cannot be read", id="no CA file"),
    ],
)
async def test_other_certificates_are_not(secure, new_client, changes, says):
    with pytest.raises(Untrusted, match=says):
        await new_client(reach()).look_up(lookup(secure.transport(**changes)))
    assert secure.requests == []


async def test_a_certificate_for_another_host_is_not(secure, new_client):
    way = transport(secure, "other.example", listed=True)
    with pytest.raises(Untrusted, match="it is for another host"):
        await new_client(reach(), resolver=Names(other_example="127.0.0.1")).look_up(lookup(way))


async def test_an_insecure_host_needs_none(secure, new_client):
    client = new_client(reach())
    assert (await client.look_up(lookup(secure.transport(ca_file="", insecure=True)))).served.digest == WEB.digest
    # The connection that nobody verified is not there for those who want it verified.
    with pytest.raises(Untrusted, match="not trusted"):
        await client.look_up(lookup(secure.transport(ca_file="")))


async def test_a_replaced_ca_file_is_noticed(secure, new_client, clock, tmp_path):
    async with FakeRegistry(tls=True) as renewed:
        renewed.add("acme/web", "latest", WEB)
        ca_file = tmp_path / "ca.pem"
        ca_file.write_bytes(secure.ca_pem)
        client = new_client(reach())
        await client.look_up(lookup(secure.transport(ca_file=str(ca_file))))
        with pytest.raises(Unreachable):
            await client.look_up(lookup(renewed.transport(ca_file=str(ca_file))))
        ca_file.write_bytes(renewed.ca_pem + b"\n")
        clock.advance(minutes=1)
        await client.look_up(lookup(renewed.transport(ca_file=str(ca_file))))


async def test_an_insecure_registrys_other_hosts_are_verified(secure, new_client):
    async with FakeRegistry(tls=True, host="127.0.0.2") as other:
        redirect(secure, f"{other.url}/v2/acme/web/manifests/latest")
        way = secure.transport(insecure=True, ca_file="")
        with pytest.raises(Unreachable, match="certificate"):
            await new_client(reach(other.host)).look_up(lookup(way))


# --- plain http -------------------------------------------------------------------------------------------------------


def as_https(registry, **changes):
    return registry.transport(endpoint=f"https://{registry.host}", **changes)


async def test_plain_http_is_not_tried_unless_insecure(registry, new_client):
    with pytest.raises(Untrusted, match="does not speak TLS"):
        await new_client(reach()).look_up(lookup(as_https(registry)))
    assert registry.requests == []


async def test_plain_http_is_tried_for_an_insecure_host_and_remembered(registry, new_client, clock):
    client = new_client(reach())
    way = as_https(registry, insecure=True)
    connections = count_connections(registry)
    for _ in range(3):
        await client.look_up(lookup(way))
    assert registry.asked() == ["GET acme/web:latest"] * 3
    tried = connections()
    clock.advance(minutes=11)
    await client.look_up(lookup(way))
    assert connections() == tried + 1  # https again, for the host may have learnt it


def count_connections(server):
    """How many connections a server has been made, TLS hellos that it did not understand included."""
    protocol, count = server._runner.server, [0]
    made = protocol.connection_made

    def connection_made(handler, transport):
        count[0] += 1
        made(handler, transport)

    protocol.connection_made = connection_made
    return lambda: count[0]


async def test_a_remembered_way_that_is_gone_is_forgotten(secure, new_client):
    client = new_client(reach())
    plain = FakeRegistry()
    plain._port = int(secure.host.rpartition(":")[2])
    plain.add("acme/web", "latest", WEB)
    await secure.stop()
    await plain.start()
    way = as_https(plain, insecure=True)
    await client.look_up(lookup(way))
    await plain.stop()
    await secure.start()
    with pytest.raises(Unreachable):
        await client.look_up(lookup(way))
    await client.look_up(lookup(way))
    assert secure.asked() == ["GET acme/web:latest"]


@pytest.mark.parametrize("status", [400, 301])
async def test_what_a_server_for_https_says_in_plain_http_is_not_believed(registry, new_client, status):
    registry.reply(status, headers={"Location": "https://elsewhere.example/"})
    with pytest.raises(Unreachable, match="TLS"):
        await new_client(reach()).look_up(lookup(as_https(registry, insecure=True)))


async def test_an_insecure_tags_credential_does_not_go_over_plain_http(new_client):
    async with FakeRegistry(auth="htpasswd") as registry:
        registry.add("acme/web", "latest", WEB)
        own = as_https(registry, insecure=True, credentials=False)
        with pytest.raises(Unauthorized):
            await new_client(reach()).look_up(lookup(own, GOOD))
        assert not any(request.authorization for request in registry.requests)
        by_administrator = as_https(registry, insecure=True)
        await new_client(reach()).look_up(lookup(by_administrator, GOOD))


async def test_an_insecure_registry_may_have_its_token_service_in_plain_http(new_client):
    async with FakeRegistry(auth="token") as registry:
        registry.add("acme/web", "latest", WEB)
        way = as_https(registry, insecure=True)
        assert (await new_client(reach()).look_up(lookup(way, GOOD))).served.digest == WEB.digest


# --- what is no HTTP, and time ----------------------------------------------------------------------------------------


@pytest.fixture
async def raw():
    """A server that says, to each connection, the bytes it is given; None leaves it open."""
    servers = []

    async def start(answer):
        async def serve(reader, writer):
            if answer is None:
                await reader.read()
            else:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(answer)
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1")
        servers.append(server)
        port = server.sockets[0].getsockname()[1]
        return Transport(f"127.0.0.1:{port}", f"http://127.0.0.1:{port}", False, True, "", True)

    yield start
    for server in servers:
        server.close()


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        pytest.param(b"220 smtp ready\r\n", InvalidAnswer, id="another protocol"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n", InvalidAnswer, id="a header without end"
        ),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{", Unreachable, id="less than it promised"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", InvalidAnswer, id="broken chunks"),
        pytest.param(b"", Unreachable, id="nothing"),
    ],
)
async def test_what_is_no_http_is_no_answer(raw, new_client, answer, expected):
    with pytest.raises(expected) as caught:
        await new_client(reach()).look_up(lookup(await raw(answer)))
    assert caught.value.retryable


@pytest.mark.parametrize(
    "timeouts",
    [
        pytest.param(Timeouts(connect=5, idle=0.05, request=5, lookup=5), id="idle"),
        pytest.param(Timeouts(connect=5, idle=5, request=0.05, lookup=5), id="request"),
        pytest.param(Timeouts(connect=5, idle=5, request=5, lookup=0.05), id="lookup"),
    ],
)
async def test_who_says_nothing_is_unreachable(raw, new_client, timeouts):
    with pytest.raises(Unreachable, match="did not answer in time"):
        await new_client(reach(), timeouts=timeouts).look_up(lookup(await raw(None)))


async def test_who_never_finishes_tls_is_unreachable(raw, new_client):
    way = await raw(None)
    way = replace(way, endpoint=f"https://{way.host}")
    with pytest.raises(Unreachable, match="did not answer in time"):
        await new_client(reach(), timeouts=Timeouts(connect=0.1, idle=5, request=5, lookup=5)).look_up(lookup(way))


async def test_a_byte_now_and_then_is_not_enough(registry, new_client):
    async def drip(request):
        response = web.StreamResponse(headers={"Content-Type": WEB.media_type})
        await response.prepare(request)
        while True:
            await response.write(b" ")
            await asyncio.sleep(0.01)

    registry.script(drip)
    timeouts = Timeouts(connect=5, idle=0.2, request=0.3, lookup=5)
    with pytest.raises(Unreachable, match="did not answer in time"):
        await new_client(reach(), timeouts=timeouts).look_up(lookup(registry.transport()))


async def test_an_idle_connection_that_the_registry_closed_is_replaced(registry, new_client):
    client = new_client(reach())
    await client.look_up(lookup(registry.transport()))
    await registry.stop()
    await registry.start()
    await client.look_up(lookup(registry.transport()))


async def test_a_cookie_is_not_sent_back(registry, new_client):
    client = new_client(reach())
    registry.reply(404, headers={"Set-Cookie": "track=1; Path=/"}, times=1)
    for _ in range(2):
        try:
            await client.look_up(lookup(registry.transport()))
        except RegistryError:
            continue
    assert [request.headers.get("Cookie") for request in registry.requests] == [None, None]


async def test_the_environments_proxy_is_not_used(registry, new_client, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    await new_client(reach()).look_up(lookup(registry.transport()))


async def test_an_error_keeps_no_authorization(new_client):
    async with FakeRegistry(auth="htpasswd") as registry:
        registry.script(vanish, path="latest")
        with pytest.raises(Unreachable) as caught:
            await new_client(reach()).look_up(lookup(registry.transport(), GOOD))
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__


async def vanish(request):
    request.transport.abort()
    return web.Response()


def test_listed_hosts_are_those_of_the_policy():
    policy = Policy(
        hosts={
            "harbor.internal": HostRule(internal=True),
            "plain.internal:5000": HostRule(insecure=True),
            "docker.io": HostRule(endpoint="https://mirror.internal"),
            "quay.io": HostRule(),
        }
    )
    listed = Reach.of(policy).listed
    assert listed("harbor.internal")
    assert listed("plain.internal:5000")
    assert listed("registry-1.docker.io")
    assert not any(listed(host) for host in ("quay.io", "plain.internal", "harbor.internal:5000", ""))


def test_tls_of_today_is_asked_for(clock):
    from imagestreams.registry.transport import _unverified_context, _verified_context

    for context in (_unverified_context(), _verified_context("")):
        assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
