"""The socket side: which addresses are contacted, what redirects and realms may do, TLS and its absence, and time.

Addresses on loopback play the parts: 127.0.0.1 is public, 127.0.0.2 private, 127.0.0.3 one that is always refused.
"""

import asyncio
import contextlib
import socket
import ssl
import threading
from dataclasses import replace
from ipaddress import ip_address

import pytest
import trustme
from aiohttp import web
from aiohttp.abc import AbstractResolver
from yarl import URL

from dev.images import image
from imagestreams.core.keychain import Credential
from imagestreams.core.lookup import ImportMode, Lookup, Served
from imagestreams.core.policy import HostRule, Policy, Transport
from imagestreams.core.reference import ImageReference
from imagestreams.registry import transport as transport_module
from imagestreams.registry.errors import (
    InvalidAnswer,
    RateLimited,
    Refused,
    RegistryError,
    Sign,
    Timeout,
    TooLarge,
    Unauthorized,
    UnknownName,
    Unreachable,
    Untrusted,
)
from imagestreams.registry.transport import SITE_THREADS, Reach, Timeouts, redirect_target
from tests.fakes.proxy import FakeProxy
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
    ) as caught:
        await client.look_up(lookup(way))
    assert caught.value.sign is Sign.NONE


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
    with pytest.raises(UnknownName, match=r"^no\.example is not known to the name service$"):
        await new_client(reach(), resolver=Names()).look_up(lookup(way))


@pytest.mark.parametrize("name", ["a" * 64 + ".example", "a..example"])
@pytest.mark.parametrize("is_led", [False, True])
async def test_a_name_that_no_name_service_takes_is_unknown(registry, new_client, name, is_led):
    way = Transport(name, f"https://{name}", insecure=False, credentials=True, ca_file="", listed=False)
    if is_led:
        way = registry.transport()
        redirect(registry, f"https://{name}/x")
    question = Lookup(ImageReference("registry.example", "acme", "web"), way, (), ImportMode.LEGACY)
    with pytest.raises(UnknownName, match=r"is not known to the name service$"):
        await new_client(reach()).look_up(question)


@pytest.mark.parametrize("name", ["xn--a.example", "xn--" + "a" * 59 + ".example"])
async def test_a_name_that_decodes_to_nothing_is_unknown(registry, new_client, name):
    way = Transport(name, f"https://{name}", insecure=False, credentials=True, ca_file="", listed=False)
    with pytest.raises(UnknownName, match=f"^{name} is not known to the name service$"):
        await new_client(reach()).look_up(lookup(way))
    redirect(registry, f"https://{name}/x")
    with pytest.raises(InvalidAnswer, match="redirects to no usable URL"):
        await new_client(reach()).look_up(lookup(registry.transport()))
    registry.behave()
    challenge(registry, f"https://{name}/token")
    with pytest.raises(Unauthorized, match="no way to log in"):
        await new_client(reach()).look_up(lookup(registry.transport()))


class NameService:
    """getaddrinfo that hangs for some names until the end."""

    def __init__(self):
        self.end = threading.Event()
        self.asked = []
        self._came = threading.Condition()
        self._real = socket.getaddrinfo

    def __call__(self, host, *arguments, **options):
        with self._came:
            self.asked.append(host)
            self._came.notify_all()
        if host.endswith(".hangs.example"):
            self.end.wait(20)
            raise socket.gaierror(socket.EAI_AGAIN, "no answer")
        return self._real("127.0.0.1", *arguments, **options)

    async def until_asked(self, count):
        def wait():
            with self._came:
                assert self._came.wait_for(lambda: len(self.asked) >= count, timeout=10)

        await asyncio.to_thread(wait)


@pytest.fixture
def name_service(monkeypatch):
    service = NameService()
    monkeypatch.setattr(socket, "getaddrinfo", service)
    yield service
    service.end.set()


def hanging(number, site="hangs.example"):
    name = f"h{number}.{site}"
    return lookup(Transport(name, f"https://{name}", insecure=False, credentials=True, ca_file="", listed=True))


async def test_a_name_service_that_hangs_delays_only_its_own_names(registry, new_client, name_service):
    client = new_client(reach(), timeouts=Timeouts(connect=5, idle=5, request=5, lookup=5))
    tasks = [asyncio.create_task(client.look_up(hanging(number))) for number in range(100)]
    await name_service.until_asked(SITE_THREADS)
    good = lookup(transport(registry, "good.example", listed=True))
    assert (await client.look_up(good)).served.digest == WEB.digest
    assert len(name_service.asked) == SITE_THREADS + 1
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_who_gets_no_thread_to_look_up_a_name_is_not_blamed(registry, new_client, name_service, monkeypatch):
    monkeypatch.setattr(transport_module, "_RESOLVER_THREADS", 3)
    client = new_client(reach(), timeouts=Timeouts(connect=1, idle=5, request=30, lookup=30))
    tasks = [asyncio.create_task(client.look_up(hanging(number))) for number in range(3)]
    await name_service.until_asked(3)
    good = lookup(transport(registry, "good.example", listed=True))
    with pytest.raises(
        UnknownName, match=r"^good\.example:[0-9]+ was not looked up: too many other names are$"
    ) as caught:
        await client.look_up(good)
    assert (caught.value.sign, caught.value.retryable) == (Sign.NONE, True)
    assert "good.example" not in name_service.asked
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert {(type(error), error.sign) for error in found} == {(Timeout, Sign.SILENCE)}
    # A thread is taken until the name service has answered, and not until somebody has lost patience.
    with pytest.raises(UnknownName):
        await client.look_up(good)
    name_service.end.set()
    async with asyncio.timeout(10):
        while True:
            with contextlib.suppress(UnknownName):
                assert (await client.look_up(good)).served.digest == WEB.digest
                break


async def test_who_waits_for_a_thread_has_the_next(registry, new_client, name_service, monkeypatch):
    monkeypatch.setattr(transport_module, "_RESOLVER_THREADS", 1)
    client = new_client(reach())
    tasks = [asyncio.create_task(client.look_up(hanging(0)))]
    await name_service.until_asked(1)
    way = transport(registry, "good.example", listed=True)
    tasks += [asyncio.create_task(client.look_up(lookup(way)))]
    await asyncio.sleep(0)
    name_service.end.set()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(found[0], UnknownName)
    assert found[1].served.digest == WEB.digest


@pytest.mark.parametrize("how", ["before", "as it is given"])
async def test_a_thread_that_nobody_wants_any_more_is_not_lost(name_service, monkeypatch, how):
    monkeypatch.setattr(transport_module, "_RESOLVER_THREADS", 1)
    resolver = transport_module._SystemResolver(5)
    await resolver._take("hangs.example")
    waits = asyncio.create_task(resolver.resolve("good.example", 443))
    await asyncio.sleep(0)
    if how == "as it is given":
        resolver._give_back("hangs.example")
    waits.cancel()
    await asyncio.gather(waits, return_exceptions=True)
    if how == "before":
        resolver._give_back("hangs.example")
    assert (await resolver.resolve("good.example", 443))[0]["host"] == "127.0.0.1"
    await resolver.close()


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
    assert str(redirect_target(URL(url), location, "a")) == target


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
        redirect_target(URL("https://a/v2/x"), location, "a")


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
        # Nobody listens there, but it was tried.
        with pytest.raises(Unreachable, match=r"^a host that inside\.example:[0-9]+ redirects to refused"):
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


@pytest.mark.parametrize(
    ("location", "expected", "says"),
    [
        ("https://{secret}.{n}.example/x", UnknownName, " is not known to the name service"),
        ("https://forbidden.{n}.example/x", Refused, " is not contacted: it resolves to a forbidden address, "),
        ("https://127.0.0.1:6543{n}{n}/x", InvalidAnswer, " redirects to no usable URL"),
        ("https://other.{n}.example:102{n}/x", Refused, " is not contacted at that port, and no administrator lists"),
        ("https://{home_host}:102{n}/x", Refused, " is not contacted at that port, and no administrator lists"),
        ("https://good.{n}.example:{port}/x", Untrusted, "the certificate of a host that {home} redirects to is not "),
        ("https://good.{n}.example:{port}/ftp", InvalidAnswer, " redirects to no usable URL"),
        ("https://good.{n}.example:{port}/http", Refused, " redirects from https to plain http"),
        ("https://good.{n}.example:{port}/zip", InvalidAnswer, " sends compressed content, which was not asked for"),
        ("https://good.{n}.example:{port}/big", TooLarge, " sends more than "),
        ("https://a/x", UnknownName, " is not known to the name service"),
    ],
)
async def test_a_registry_has_no_say_in_the_words_about_where_it_leads(  # noqa: PLR0917
    registry, new_client, monkeypatch, location, expected, says
):
    """It could have the password told, or another name with each attempt."""
    messages = set()
    async with FakeServer(
        tls=certified("good.1.example", "good.2.example", trusted=says[0] == " ", patch=monkeypatch)
    ) as there:
        there.reply(307, headers={"Location": "ftp://x/"}, path="ftp")
        there.reply(307, headers={"Location": "http://x.example/"}, path="http")
        there.reply(200, b"x", headers={"Content-Encoding": "gzip"}, path="zip")
        there.reply(200, b"x" * ((4 << 20) + 1), path="big")
        for number in (1, 2):
            registry.behave()
            port = there.host.rpartition(":")[2]
            home, _, _ = registry.host.partition(":")
            redirect(registry, location.format(secret=GOOD.password, n=number, port=port, home_host=home))
            names = Names(
                **{
                    f"good_{number}_example": "127.0.0.1",
                    f"other_{number}_example": "127.0.0.1",
                    f"forbidden_{number}_example": "127.0.0.3",
                }
            )
            with pytest.raises(expected) as caught:
                await new_client(reach(), resolver=names).look_up(lookup(transport(registry), GOOD))
            messages.add(caught.value.message)
            assert caught.value.sign is not Sign.NONE, "the registry has answered"
    (message,) = messages
    assert says.format(home=registry.host) in message
    assert GOOD.password not in message
    assert message.count("a host that") <= 1


def certified(*names, trusted, patch):
    """A server's TLS, by an authority that the system may trust."""
    authority, context = trustme.CA(), ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(*names).configure_cert(context)
    if trusted:
        plain = ssl.create_default_context

        def trusting(*arguments, **options):
            made = plain(*arguments, **options)
            made.load_verify_locations(cadata=authority.cert_pem.bytes().decode())
            return made

        patch.setattr(ssl, "create_default_context", trusting)
    return context


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
        trusting = replace(reach(), authorities=lambda _: (str(registry.ca_file), ""))
        client = new_client(trusting, resolver=Names(localhost="127.0.0.1"))
        with pytest.raises(Unauthorized, match="token service of another domain"):
            await client.look_up(lookup(registry.transport(), GOOD))
        assert [request.authorization for request in registry.tokens.requests] == [""]


async def test_a_listed_token_service_gets_it(new_client):
    async with FakeRegistry(auth="token", tls=True) as registry:
        port = registry.tokens.host.rpartition(":")[2]
        challenge(registry, f"https://localhost:{port}/token")
        trusting = replace(reach(f"localhost:{port}"), authorities=lambda _: (str(registry.ca_file), ""))
        client = new_client(trusting, resolver=Names(localhost="127.0.0.3 127.0.0.1"))
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
    with pytest.raises(Untrusted, match=says) as caught:
        await new_client(reach()).look_up(lookup(secure.transport(**changes)))
    assert secure.requests == []
    assert caught.value.sign is (Sign.NONE if changes["ca_file"] else Sign.ANSWER)


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


@pytest.mark.parametrize(
    ("rules", "is_good"),
    [
        pytest.param("own", True, id="its own"),
        pytest.param("none", False, id="the registry's is none for it"),
        pytest.param("wrong", False, id="another"),
    ],
)
@pytest.mark.parametrize("how", ["redirect", "realm"])
async def test_a_certificate_is_judged_by_the_authority_of_the_host_that_shows_it(
    secure, new_client, rules, is_good, how
):
    async with FakeRegistry(tls=True, host="127.0.0.2") as other:
        other.add("acme/web", "latest", WEB)
        if how == "redirect":
            redirect(secure, f"{other.url}/v2/acme/web/manifests/latest")
        else:
            challenge(secure, f"{other.url}/token")
            other.reply(429, path="token")
        pem = {"own": other.ca_pem, "wrong": secure.ca_pem, "none": b""}[rules].decode()
        # Where one authority has signed for both hosts, it still must be named for both.
        known = secure.ca_pem.decode() + other.ca_pem.decode()
        policy = Policy(
            hosts={secure.host: HostRule(ca=known), other.host: HostRule(ca=pem, internal=True)},
        )
        question = lookup(transport(secure, ca_file="", ca=known, listed=True))
        look_up = new_client(Reach.of(policy)).look_up(question)
        if not is_good:
            with pytest.raises(Untrusted, match="its authority is not known"):
                await look_up
            assert other.requests == []
        elif how == "redirect":
            assert (await look_up).served.digest == WEB.digest
        else:
            with pytest.raises(RateLimited):
                await look_up


async def test_the_authority_of_a_host_is_good_at_its_other_ports(secure, new_client):
    async with FakeRegistry(tls=True) as other:
        other.add("acme/web", "latest", WEB)
        redirect(secure, f"{other.url}/v2/acme/web/manifests/latest")
        known = secure.ca_pem.decode() + other.ca_pem.decode()
        way = transport(secure, ca_file="", ca=known, listed=True)
        assert (await new_client(reach()).look_up(lookup(way))).served.digest == WEB.digest


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
    with pytest.raises(Timeout, match="did not answer in time"):
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

    for context in (_unverified_context(), _verified_context("", "")):
        assert context.minimum_version >= ssl.TLSVersion.TLSv1_2


async def test_a_certificate_of_an_authority_that_is_given_as_text_is_good(secure, new_client):
    client = new_client(reach())
    text = secure.ca_pem.decode()
    await client.look_up(lookup(secure.transport(ca_file="", ca=text)))
    # It is good for the host that it is given for, and for no other.
    for ca, says in [
        ("", "authority is not known"),
        ("-----BEGIN", "CA certificates .* cannot be read"),
        ("\xe9", "CA"),
    ]:
        with pytest.raises(Untrusted, match=says):
            await client.look_up(lookup(secure.transport(ca_file="", ca=ca)))


async def test_a_policy_that_is_replaced_counts_at_once(new_client, clock):
    """Also where a connection is open, and a name resolved."""
    policy = Policy(hosts={}, refused_networks=())
    present = [policy]
    allowed = Reach.of(lambda: present[0])
    shown = Reach(lambda address, **_: "a refused one" if present[0] is not policy else None, *slots(allowed))
    names = Names(inside_example="127.0.0.1")
    async with FakeRegistry() as registry, FakeRegistry() as slow:
        for each in (registry, slow):
            each.add("acme/web", "latest", WEB)
        client = new_client(shown, resolver=names)
        await client.look_up(lookup(transport(registry, "inside.example")))
        slow.hold()
        late = asyncio.create_task(client.look_up(lookup(transport(slow, "inside.example"))))
        await slow.arrived(1)
        present[0] = Policy(hosts={}, strict=True)
        with pytest.raises(Refused):
            await client.look_up(lookup(transport(registry, "inside.example")))
        assert len(registry.requests) == 1
        slow.release()
        assert (await late).served.digest == WEB.digest, "what is under way is not cut off"


def slots(reach):
    return (reach.listed, reach.proxy_for, reach.rules)


def test_the_policys_proxy_is_that_of_where_a_registry_leads():
    present = [Policy(hosts={})]
    changing = Reach.of(lambda: present[0])
    assert changing.proxy_for(URL("https://cdn.example/x")) == ""
    present[0] = Policy(hosts={}, https_proxy="http://proxy.example:3128", no_proxy=("inside.example",))
    assert changing.proxy_for(URL("https://cdn.example/x")) == "http://proxy.example:3128"
    assert changing.proxy_for(URL("https://inside.example/x")) == ""
    own = Reach.of(present[0], proxy_for=lambda url: str(url.port))
    assert own.proxy_for(URL("https://cdn.example:8443/x")) == "8443"


def test_a_policy_that_is_replaced_lists_other_hosts():
    present = [Policy(hosts={})]
    changing = Reach.of(lambda: present[0])
    assert not changing.listed("quay.io")
    before = changing.rules()
    present[0] = Policy(hosts={"quay.io": HostRule(internal=True)}, strict=True)
    assert changing.listed("quay.io")
    assert changing.rules() is not before
    assert changing.refuse(ip_address("10.0.0.1"), public_origin=False)


# --- ports ------------------------------------------------------------------------------------------------------------

BAD_PORTS = [22, 25, 81, 1023, 2379, 2380, 6443, 10250, 10255, 10259]


@pytest.mark.parametrize("port", BAD_PORTS)
async def test_a_port_that_is_no_registrys_is_not_contacted(registry, new_client, port):
    names = Names(some_example="127.0.0.1")
    client = new_client(reach(), resolver=names)
    way = Transport(f"some.example:{port}", f"https://some.example:{port}", True, False, "", listed=False)
    with pytest.raises(Refused, match=f"^some.example is not contacted at port {port}.*no administrator lists it$"):
        await client.look_up(lookup(way))
    for status, headers, says in [
        (307, {"Location": f"https://some.example:{port}/"}, "redirects to is not contacted at that port"),
        (401, {"WWW-Authenticate": f'Bearer realm="https://some.example:{port}/token"'}, f"port {port}"),
    ]:
        registry.behave()
        registry.reply(status, headers=headers)
        with pytest.raises(Refused, match=says):
            await client.look_up(lookup(registry.transport()))
    assert names.asked == []


@pytest.mark.parametrize("port", [80, 443, 1024, 5000, 8443, 10254])
async def test_a_port_that_may_be_a_registrys_is_contacted(new_client, port):
    names = Names()
    way = Transport(f"some.example:{port}", f"https://some.example:{port}", False, False, "", listed=False)
    with pytest.raises(UnknownName):
        await new_client(reach(), resolver=names).look_up(lookup(way))
    assert names.asked == ["some.example"]


async def test_a_listed_host_has_the_port_that_its_administrator_says(new_client):
    names = Names()
    way = Transport("some.example:22", "https://some.example:22", False, False, "", listed=True)
    with pytest.raises(UnknownName):
        await new_client(reach(), resolver=names).look_up(lookup(way))


# --- proxies ----------------------------------------------------------------------------------------------------------

WORLD = {"registry.example": "127.0.0.1", "cdn.example": "127.0.0.1", "auth.example": "127.0.0.1"}


@pytest.fixture
async def proxy():
    async with FakeProxy(WORLD, login="user:p@ss word/ö%41") as started:
        yield started


def port_of(server):
    return server.host.rpartition(":")[2]


async def test_a_proxy_opens_tunnels_and_resolves_names(secure, proxy, new_client):
    names = Names()
    client = new_client(reach(), resolver=names)
    way = transport(secure, "registry.example", proxy=proxy.url)
    for _ in range(3):
        assert (await client.look_up(lookup(way))).served.digest == WEB.digest
    assert proxy.asked() == [f"CONNECT registry.example:{port_of(secure)}"], "one tunnel is used again"
    assert names.asked == []
    assert all("Proxy-Authorization" not in request.headers for request in secure.requests)
    (asked,) = proxy.requests
    assert asked.headers["User-Agent"].startswith("imagestreams/")
    assert "Authorization" not in asked.headers


async def test_a_tunnel_is_not_there_for_another_proxy(secure, proxy, new_client):
    client = new_client(reach(), resolver=Names())
    async with FakeProxy(WORLD) as second:
        for each in (proxy, second, proxy):
            await client.look_up(lookup(transport(secure, "registry.example", proxy=each.url)))
        assert len(proxy.requests) == len(second.requests) == 1
    with pytest.raises(UnknownName):
        await client.look_up(lookup(transport(secure, "registry.example")))


async def test_plain_http_goes_through_a_proxy_too(registry, proxy, new_client):
    way = transport(registry, "registry.example", proxy=proxy.url)
    await new_client(reach(), resolver=Names()).look_up(lookup(way))
    assert proxy.asked() == [f"GET http://registry.example:{port_of(registry)}/v2/acme/web/manifests/latest"]
    assert "Proxy-Authorization" not in registry.requests[0].headers


async def test_an_insecure_host_is_found_to_speak_plain_http_behind_a_proxy(registry, proxy, new_client):
    way = transport(registry, "registry.example", proxy=proxy.url, insecure=True)
    way = replace(way, endpoint=f"https://{way.host}")
    await new_client(reach(), resolver=Names()).look_up(lookup(way))
    assert [request.method for request in proxy.requests] == ["CONNECT", "GET"]


async def test_tls_is_verified_through_a_proxy(secure, proxy, new_client):
    client = new_client(reach(), resolver=Names())
    way = transport(secure, "registry.example", proxy=proxy.url, ca_file="")
    with pytest.raises(Untrusted, match=r"^the certificate of registry\.example:\d+ is not trusted: its authority"):
        await client.look_up(lookup(way))
    with pytest.raises(Untrusted, match="it is for another host"):
        await client.look_up(lookup(transport(secure, "cdn.example", proxy=proxy.url)))
    assert secure.requests == []
    await client.look_up(lookup(replace(way, insecure=True)))


@pytest.fixture
def trusted_tls(monkeypatch, tmp_path):
    """A TLS context for a proxy at 127.0.0.1, of an authority that the whole system trusts."""
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "system.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "system.pem"))
    return context


@pytest.mark.parametrize("insecure", [False, True])
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_proxy_may_speak_tls_itself(trusted_tls, new_client, insecure, scheme):
    async with FakeRegistry(tls=scheme == "https") as registry, FakeProxy(WORLD, tls=trusted_tls) as proxy:
        registry.add("acme/web", "latest", WEB)
        way = transport(registry, "registry.example", proxy=proxy.url, insecure=insecure)
        await new_client(reach(), resolver=Names()).look_up(lookup(way))
        assert len(proxy.requests) == 1


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_proxy_that_cannot_be_verified_gets_no_login_though_the_host_is_insecure(secure, new_client, scheme):
    async with (
        FakeRegistry(tls=scheme == "https") as registry,
        FakeProxy(WORLD, login="user:pass-word", tls=secure._tls) as proxy,
    ):
        way = transport(registry, "registry.example", proxy=proxy.url, insecure=True, ca_file="")
        with pytest.raises(Unreachable, match=r"^the certificate of the proxy 127\.0\.0\.1:\d+ is not trusted"):
            await new_client(reach(), resolver=Names()).look_up(lookup(way))
        assert proxy.requests == []


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(
    ("how", "says"),
    [
        pytest.param("gone", "the proxy {proxy} refused the connection", id="gone"),
        pytest.param("unknown", "the proxy no.example:3128 is not known to the name service", id="unknown"),
        pytest.param("no login", r"the proxy {proxy} wants another login \(407\)", id="no login"),
        pytest.param("no TLS", "the proxy {proxy} does not speak TLS", id="no TLS"),
        pytest.param("no proxy", "is not contacted: the proxy that is configured", id="no proxy"),
    ],
)
async def test_a_proxy_that_fails_is_named_and_nothing_of_its_login(new_client, how, says, scheme):
    async with FakeRegistry(tls=scheme == "https") as registry, FakeProxy(WORLD, login="user:pass-word") as proxy:
        url = {
            "gone": proxy.url,
            "unknown": "http://user:pass-word@no.example:3128",
            "no login": f"http://user:pass-wort@{proxy.host}",
            "no TLS": proxy.url.replace("http:", "https:"),
            "no proxy": "socks5://user:pass-word@no.example",
        }[how]
        if how == "gone":
            proxy._server.close()
        way = transport(registry, "registry.example", proxy=url)
        with pytest.raises((Unreachable, Refused), match=says.format(proxy=proxy.host)) as caught:
            await new_client(reach(), resolver=Names()).look_up(lookup(way))
        assert type(caught.value) in {Unreachable, Refused}
        assert "pass-wor" not in f"{caught.value}{way}"
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize("status", [403, 502, 503])
async def test_a_proxy_that_opens_no_tunnel_is_named(secure, proxy, new_client, status):
    proxy.status = status
    way = transport(secure, "registry.example", proxy=proxy.url)
    expected = f"^the proxy {proxy.host} answered {status} when it was asked for {way.host}$"
    with pytest.raises(Unreachable, match=expected):
        await new_client(reach(), resolver=Names()).look_up(lookup(way))


@pytest.mark.parametrize(
    "timeouts", [Timeouts(connect=0.1, idle=5, request=5, lookup=5), Timeouts(connect=5, idle=5, request=0.1, lookup=5)]
)
async def test_a_proxy_that_says_nothing_is_named(secure, proxy, new_client, timeouts):
    proxy.is_silent = True
    way = transport(secure, "registry.example", proxy=proxy.url)
    with pytest.raises(Timeout, match=f"registry.example.* did not answer in time through the proxy {proxy.host}$"):
        await new_client(reach(), resolver=Names(), timeouts=timeouts).look_up(lookup(way))


@pytest.mark.parametrize(
    ("host", "says"),
    [
        ("localhost", "a forbidden address"),
        ("Localhost.", "a forbidden address"),
        ("www.localhost", "a forbidden address"),
        ("127.0.0.3", "a forbidden address"),
        ("127.3", "a forbidden address"),
        ("2130706435", "a forbidden address"),
        ("0177.0.0.3", "a forbidden address"),
        ("0x7f000003", "a forbidden address"),
        ("0x7f.1.", "a forbidden address"),
        ("1.2.3.4.5", "neither a name nor an address"),
        ("0x", "neither a name nor an address"),
        ("metadata.google.internal", "a forbidden address"),
        ("[::1]", "a forbidden address"),
    ],
)
async def test_what_a_proxy_would_take_for_an_address_is_judged(proxy, new_client, host, says):
    bad = {ip_address(text) for text in ("127.0.0.1", "127.0.0.3", "::1", "169.254.169.254")}
    judged = Reach(lambda address, **_: "a forbidden address" if address in bad else None, lambda _: False)
    way = Transport(host, f"https://{host}", insecure=True, credentials=False, ca_file="", listed=False)
    way = replace(way, proxy=proxy.url)
    with pytest.raises(Refused, match=says):
        await new_client(judged, resolver=Names()).look_up(
            Lookup(ImageReference("registry.example", "acme", "web"), way, (), ImportMode.LEGACY)
        )
    assert proxy.requests == []


async def test_a_listed_name_of_the_proxys_own_world_is_good(secure, proxy, new_client):
    way = transport(secure, "localhost", listed=True, proxy=proxy.url)
    await new_client(reach(), resolver=Names()).look_up(lookup(way))
    assert len(proxy.requests) == 1


async def test_a_proxy_for_the_registry_is_not_one_for_where_it_leads(secure, proxy, new_client):
    """Each host has the proxy that is configured for it."""
    async with FakeRegistry(tls=True) as cdn, FakeProxy(WORLD) as other:
        cdn.add("acme/web", "latest", WEB)
        redirect(secure, f"https://cdn.example:{port_of(cdn)}/v2/acme/web/manifests/latest")
        way = transport(secure, "registry.example", proxy=proxy.url)
        asked = []

        def proxy_for(url):
            asked.append(url.host)
            return other.url

        with pytest.raises(UnknownName, match=r"^a host that registry\.example:[0-9]+ redirects to is not known"):
            await new_client(reach(), resolver=Names()).look_up(lookup(way))
        # The certificate is for another name, which is enough to see that it was there.
        with pytest.raises(Untrusted, match=r"redirects to is not trusted: .*(for another host|authority)"):
            await new_client(replace(reach(), proxy_for=proxy_for), resolver=Names()).look_up(lookup(way))
        assert asked == ["cdn.example"]
        assert other.asked() == [f"CONNECT cdn.example:{port_of(cdn)}"]
        assert set(proxy.asked()) == {f"CONNECT registry.example:{port_of(secure)}"}


async def test_a_registry_behind_a_proxy_does_not_lead_into_the_house(secure, proxy, new_client):
    async with FakeRegistry(tls=True, host="127.0.0.2") as inside:
        redirect(secure, f"{inside.url}/v2/acme/web/manifests/latest")
        way = transport(secure, "registry.example", proxy=proxy.url)
        for everywhere in ("", proxy.url):
            client = new_client(replace(reach(), proxy_for=lambda _, url=everywhere: url), resolver=Names())
            with pytest.raises(Refused, match="a private address"):
                await client.look_up(lookup(way))
        assert inside.requests == []
