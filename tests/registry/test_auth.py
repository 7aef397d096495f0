"""The handshake, without a socket: what is sent to whom, and what is made of hostile challenges."""

import json
from urllib.parse import parse_qsl, quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict
from yarl import URL

from imagestreams.core.keychain import Credential
from imagestreams.registry.auth import (
    Approach,
    Authorised,
    Basic,
    Bearer,
    Errand,
    Grant,
    Home,
    Refusal,
    Token,
    Trust,
    basic_authorization,
    challenges_of,
    handshake,
    realm_of,
    token_in,
    token_refusal,
    token_request,
    trust_in,
    without_secrets,
)
from imagestreams.registry.errors import Forbidden, InvalidAnswer, Refused, Unauthorized
from imagestreams.registry.messages import Request, Response
from tests.fakes.registry import errors_body

ASKED = URL("https://registry.example/v2/acme/web/manifests/latest")
REQUEST = Request("HEAD", ASKED, accept="application/json")
SCOPE = "repository:acme/web:pull"
FIRST = Credential("first", "pw-1", "secret-1")
SECOND = Credential("second", "pw-2", "secret-2")
IDENTITY = Credential("", "", "secret-3", "refresh&me=+ /é")
REALM = 'Bearer realm="https://auth.registry.example/token",service="registry"'
AUTH = URL("https://auth.registry.example/token")


def home(url="https://registry.example", *, insecure=False, credentials=True, listed=()):
    return Home("registry.example", URL(url), insecure, credentials, frozenset(listed).__contains__)


def errand(*candidates, **changes):
    return Errand("registry.example/acme/web:latest", SCOPE, candidates, home(**changes))


def response(status, *challenges, body=b"", url=ASKED):
    headers = CIMultiDict()
    for challenge in challenges:
        headers.add("WWW-Authenticate", challenge)
    return Response(status, headers, body, url)


def token(text="t1", *, cached=False):
    return Token(text, 300, cached=cached)


def play(talk, *replies):
    """Drive a handshake with the replies: the steps it took, and how it ended."""
    steps = [next(talk)]
    try:
        for reply in replies:
            steps.append(talk.send(reply))  # noqa: PERF401 (extend would take the end of the talk for that of the replies)
    except StopIteration as stop:
        return steps, stop.value
    except (Unauthorized, Forbidden, Refused) as error:
        return steps, error
    return steps, None


# --- challenges -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        pytest.param('Basic realm="x"', [Basic()], id="basic"),
        pytest.param("basic", [Basic()], id="basic without a realm, in lower case"),
        pytest.param(REALM, [Bearer(AUTH, "registry")], id="bearer"),
        pytest.param(
            'Bearer realm="https://a.example/token",service="s",scope="repository:x:pull,push",error="invalid_token"',
            [Bearer(URL("https://a.example/token"), "s")],
            id="a comma in quotes",
        ),
        pytest.param(
            "bearer service=s , realm=https://a.example/token",
            [Bearer(URL("https://a.example/token"), "s")],
            id="without quotes, spaces around commas",
        ),
        pytest.param(
            r'Bearer realm="https://a.example/t\oken",service="s"',
            [Bearer(URL("https://a.example/token"), "s")],
            id="an escape in quotes",
        ),
        pytest.param(
            'Negotiate, Basic realm="x", Bearer realm="https://a.example/token"',
            [Basic(), Bearer(URL("https://a.example/token"), "")],
            id="several in one header",
        ),
        pytest.param("Negotiate YII=", [], id="another scheme with its token"),
        pytest.param(
            'Bearer realm="https://a.example/one",realm="https://b.example/two"',
            [Bearer(URL("https://a.example/one"), "")],
            id="the first of two realms",
        ),
        pytest.param("Bearer", [], id="bearer without a realm"),
        pytest.param('Bearer realm=""', [], id="an empty realm"),
        pytest.param('Bearer realm="https://a.example/token', [], id="an open quote"),
        pytest.param('Bearer realm="https://a.example/\x00"', [], id="a control character"),
        pytest.param(
            'Bearer realm="https://a.example/",service="\x1b[31m"', [], id="a control character in the service"
        ),
        pytest.param(f'Bearer realm="https://a.example/",service="{"s" * 600}"', [], id="a service without end"),
        pytest.param("Basic " + "x" * 9000, [], id="a header without end"),
        pytest.param(',,,=,"",Bearer', [], id="rubbish"),
        pytest.param("", [], id="nothing"),
    ],
)
def test_challenges_are_read(header, expected):
    assert list(challenges_of([header])) == expected


def test_challenges_are_counted():
    assert len(challenges_of(["Basic"] * 1000)) == 16


@given(st.lists(st.text(alphabet=st.sampled_from('Bearsic rlmthp:/"=,\\\t\n\x00é@.#?'), max_size=200), max_size=4))
def test_any_header_is_survived(headers):
    for challenge in challenges_of(headers):
        assert isinstance(challenge, Basic) or challenge.realm.host


@pytest.mark.parametrize(
    "text",
    [
        "https://user@auth.example/token",
        "https://user:pw@auth.example/token",
        "https://auth.example@evil.example/token",
        "https://auth.example\\@evil.example/token",
        "https://auth.example\\.evil.example/token",
        "https://",
        "https:///token",
        "//auth.example/token",
        "/token",
        "ftp://auth.example/token",
        "file:///etc/passwd",
        "https://auth.example/to ken",
        "https://auth.example/\r\nX: y",
        "https://аuth.example/token",  # a Cyrillic letter
        "https://auth.example:99999/token",
        "https://[::1/token",
        "https://auth.example./token",
        "https://" + "a" * 3000,
        "javascript:alert(1)",
    ],
)
def test_a_realm_that_cannot_be_meant_is_none(text):
    assert realm_of(text) is None


def test_a_realm_keeps_its_query_and_loses_its_fragment():
    assert str(realm_of("https://auth.example/token?repo=x#frag")) == "https://auth.example/token?repo=x"


# --- whom a credential is told ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("registry", "realm", "trust"),
    [
        ("https://quay.io", "https://quay.io/v2/auth", Trust.CREDENTIALS),
        ("https://quay.io", "https://quay.io:8443/v2/auth", Trust.CREDENTIALS),
        ("https://registry-1.docker.io", "https://auth.docker.io/token", Trust.CREDENTIALS),
        ("https://registry.gitlab.com", "https://gitlab.com/jwt/auth", Trust.CREDENTIALS),
        ("https://acme.azurecr.io", "https://acme.azurecr.io/oauth2/token", Trust.CREDENTIALS),
        ("https://registry.example", "https://listed.internal/token", Trust.CREDENTIALS),
        ("https://registry.example", "https://listed.internal:8443/token", Trust.ANONYMOUS),
        ("https://registry.example", "https://ported.internal:8443/token", Trust.CREDENTIALS),
        ("https://registry.example", "https://other.test/token", Trust.ANONYMOUS),
        ("https://registry.example", "https://registry.example.evil.test/token", Trust.ANONYMOUS),
        ("https://registry.example", "https://evilexample/token", Trust.ANONYMOUS),
        ("https://shop.co.uk", "https://evil.co.uk/token", Trust.ANONYMOUS),
        ("https://registry.shop.co.uk", "https://auth.shop.co.uk/token", Trust.CREDENTIALS),
        ("https://co.uk", "https://shop.co.uk/token", Trust.ANONYMOUS),
        ("https://10.0.0.1", "https://10.1.0.1/token", Trust.ANONYMOUS),
        ("https://10.0.0.1:5000", "https://10.0.0.1:5001/token", Trust.CREDENTIALS),
        ("https://registry", "https://auth/token", Trust.ANONYMOUS),
        ("https://registry.example", "http://registry.example/token", Trust.NONE),
        ("https://registry.example", "http://other.test/token", Trust.NONE),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5001/token", Trust.CREDENTIALS),
        ("http://127.0.0.1:5000", "http://127.0.0.2:5001/token", Trust.NONE),
    ],
)
def test_a_realm_is_trusted_as_far_as_it_is_the_registrys(registry, realm, trust):
    listed = ["listed.internal", "ported.internal:8443"]
    assert trust_in(URL(realm), home(registry, listed=listed)) is trust


def test_an_insecure_registry_may_have_its_token_service_in_plain_http():
    assert trust_in(URL("http://registry.example:5001/token"), home(insecure=True)) is Trust.CREDENTIALS
    assert trust_in(URL("http://auth.registry.example/token"), home(insecure=True)) is Trust.NONE


def test_where_no_credential_may_go_none_goes_to_the_realm_either():
    assert trust_in(URL("https://registry.example/token"), home(credentials=False)) is Trust.ANONYMOUS


# --- tokens -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("realm", "url"),
    [
        ("https://a.example/token", f"https://a.example/token?service=reg&scope={SCOPE}"),
        ("https://a.example/token?repo=x", f"https://a.example/token?repo=x&service=reg&scope={SCOPE}"),
        (
            "https://a.example/token?scope=repository:other:push&Service=evil",
            f"https://a.example/token?service=reg&scope={SCOPE}",
        ),
    ],
)
def test_a_token_is_asked_for_our_own_scope(realm, url):
    request = token_request(Grant(URL(realm), "reg", SCOPE, None))
    assert request.url.query == URL(url).query
    assert (request.method, request.authorization, request.fingerprint) == ("GET", "", "")


def test_a_service_is_encoded():
    request = token_request(Grant(AUTH, "a&scope=b c+d", SCOPE, FIRST))
    assert request.url.query.getall("scope") == [SCOPE]
    assert request.url.query["service"] == "a&scope=b c+d"
    assert request.authorization == basic_authorization(FIRST)


@pytest.mark.parametrize("realm", ["https://a.example/token", "https://a.example/token?Scope=x&refresh_token=y&keep=1"])
def test_an_identity_token_is_exchanged_by_post(realm):
    request = token_request(Grant(URL(realm), "a&scope=b", SCOPE, IDENTITY))
    assert (request.method, request.authorization, request.fingerprint) == ("POST", "", IDENTITY.fingerprint)
    assert dict(request.url.query) == ({"keep": "1"} if "keep" in realm else {})
    assert request.content_type == "application/x-www-form-urlencoded"
    assert parse_qsl(request.body.decode(), strict_parsing=True) == [
        ("grant_type", "refresh_token"),
        ("service", "a&scope=b"),
        ("client_id", "imagestreams"),
        ("scope", SCOPE),
        ("refresh_token", IDENTITY.identity_token),
    ]


@pytest.mark.parametrize(
    ("credential", "status", "says"),
    [
        (IDENTITY, 404, 'the identity token of secret "secret-3" (404 from the token service: it takes no identity'),
        (IDENTITY, 405, 'the identity token of secret "secret-3" (405 from the token service: it takes no identity'),
        (IDENTITY, 401, 'the identity token of secret "secret-3" (401 from the token service)'),
        (IDENTITY, 400, 'the identity token of secret "secret-3" (400 from the token service)'),
        (FIRST, 404, 'the credential of secret "secret-1" (404 from the token service)'),
        (None, 401, "anonymous access (401 from the token service)"),
        (FIRST, 405, None),
        (IDENTITY, 500, None),
        (IDENTITY, 307, None),
    ],
)
def test_what_a_token_service_says_of_a_credential(credential, status, says):
    refusal = token_refusal(Grant(AUTH, "", SCOPE, credential), response(status))
    assert str(refusal).startswith(says) if says else refusal is None


@pytest.mark.parametrize(
    "text",
    [
        "https://a.example/refresh&me=+ /é/token",
        "https://a.example/refresh%26me%3D%2B%20%2F%C3%A9/token",
        "https://a.example/refresh%26me=%2B%20/%c3%a9/token",
        "https://a.example/refresh%2526me%253D%252B%2520%252F%25C3%25A9/token",
    ],
)
def test_an_identity_token_is_told_however_it_is_spelt(text):
    assert without_secrets(text, (FIRST, IDENTITY)) == "https://a.example/***/token"


@given(st.text(max_size=40), st.text(min_size=4, max_size=12))
def test_no_text_shows_a_secret(text, secret):
    shown = without_secrets(f"{text}{secret}{text}{quote(secret, safe='')}", (Credential("u", "", "s", secret),))
    assert secret not in shown or secret in "*" * 99 + "..."


@pytest.mark.parametrize(
    ("body", "life"),
    [
        ({"token": "t"}, 60),
        ({"access_token": "t", "expires_in": 300}, 300),
        ({"token": "t", "access_token": "t", "expires_in": 5}, 60),
        ({"token": "t", "expires_in": 1e12}, 3600),
        ({"token": "t", "expires_in": -7}, 60),
        ({"token": "t", "expires_in": "300"}, 300),
        ({"token": "t", "expires_in": None, "issued_at": 12}, 60),
        ({"token": "", "access_token": "t"}, 60),
    ],
)
def test_a_token_lives_as_long_as_it_says_within_bounds(body, life):
    assert token_in(response(200, body=json.dumps(body).encode()), "the service") == Token("t", life)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"<html>",
        b"{}",
        b'{"token": ""}',
        b'{"token": 7}',
        b'{"token": "two words"}',
        b'{"token": "line\\nbreak"}',
        b'{"token": "\\u00e9"}',
        b"[" * 60_000,
    ],
)
def test_what_is_no_token_is_refused(body):
    with pytest.raises(InvalidAnswer, match=r"^the service "):
        token_in(response(200, body=body), "the service")


def test_secrets_are_not_in_reprs():
    shown = repr([token("s3cret"), Grant(AUTH, "", SCOPE, FIRST, rejected="s3cret")])
    shown += repr(token_request(Grant(AUTH, "", SCOPE, Credential("u", "", "s", "s3cret"))))
    shown += repr(Request("GET", ASKED, authorization="Bearer s3cret"))
    assert "s3cret" not in shown
    assert "pw-1" not in shown


# --- the handshake ----------------------------------------------------------------------------------------------------


def test_an_open_registry_is_asked_once():
    steps, done = play(handshake(REQUEST, errand(FIRST)), response(200))
    assert steps == [REQUEST]
    assert done == Authorised(response(200), None, "")


@pytest.mark.parametrize("status", [200, 307, 404, 429, 500, 403])
def test_what_is_no_401_is_the_answer(status):
    _, done = play(handshake(REQUEST, errand(FIRST)), response(status))
    assert done.response.status == status


def test_basic_tries_the_credentials_in_turn():
    steps, done = play(handshake(REQUEST, errand(FIRST, SECOND)), response(401, "Basic"), response(403), response(200))
    assert [step.authorization for step in steps] == ["", basic_authorization(FIRST), basic_authorization(SECOND)]
    assert done.approach == Approach(Basic(), SECOND.fingerprint)
    assert done.fingerprint == SECOND.fingerprint


def test_bearer_asks_for_a_token_and_comes_back():
    steps, done = play(handshake(REQUEST, errand(FIRST)), response(401, REALM), token(), response(200))
    assert steps[1] == Grant(AUTH, "registry", SCOPE, FIRST)
    assert steps[2].authorization == "Bearer t1"
    assert steps[2].url == ASKED
    assert done.approach == Approach(Bearer(AUTH, "registry"), FIRST.fingerprint)


def test_bearer_without_credentials_is_anonymous():
    steps, done = play(handshake(REQUEST, errand()), response(401, REALM), token(), response(200))
    assert steps[1].credential is None
    assert done.fingerprint == ""


def test_a_token_service_that_refuses_a_credential_is_asked_with_the_next():
    steps, done = play(
        handshake(REQUEST, errand(FIRST, SECOND)),
        response(401, REALM),
        Refusal(FIRST, 401, by_service=True),
        token("t2"),
        response(200),
    )
    assert [getattr(step, "credential", None) for step in steps] == [None, FIRST, SECOND, None]
    assert done.fingerprint == SECOND.fingerprint


def test_a_revoked_token_is_fetched_again_once():
    steps, done = play(
        handshake(REQUEST, errand(FIRST)),
        response(401, REALM),
        token("old", cached=True),
        response(401, REALM),
        token("new", cached=True),
        response(401, REALM),
    )
    grants = [step for step in steps if isinstance(step, Grant)]
    assert [grant.rejected for grant in grants] == ["", "old"]
    assert isinstance(done, Unauthorized)


def test_a_new_token_that_is_not_taken_is_an_answer():
    steps, done = play(handshake(REQUEST, errand(FIRST)), response(401, REALM), token(), response(401, REALM))
    assert len(steps) == 3
    assert isinstance(done, Unauthorized)


def test_a_denial_names_the_secrets_and_what_was_asked_and_nothing_secret():
    _, error = play(
        handshake(REQUEST, errand(FIRST, SECOND)),
        response(401, REALM),
        Refusal(FIRST, 401, "UNAUTHORIZED", by_service=True),
        token(),
        response(403, body=errors_body("DENIED")),
    )
    assert str(error) == (
        'you may not have access to the container image "registry.example/acme/web:latest": registry.example refuses '
        'the credential of secret "secret-1" (401 UNAUTHORIZED from the token service), '
        'the credential of secret "secret-2" (403 DENIED); '
        "asked https://auth.registry.example/token for repository:acme/web:pull"
    )
    assert error.reason == "Unauthorized"


def test_an_identity_token_is_for_a_token_service_only():
    steps, error = play(handshake(REQUEST, errand(IDENTITY)), response(401, "Basic"))
    assert [step.authorization for step in steps] == [""]
    assert 'the identity token of secret "secret-3" (the registry wants a username and password)' in str(error)
    assert isinstance(error, Unauthorized)
    steps, done = play(handshake(REQUEST, errand(IDENTITY, SECOND)), response(401, "Basic"), response(200))
    assert [step.authorization for step in steps] == ["", basic_authorization(SECOND)]
    assert done.fingerprint == SECOND.fingerprint


def test_a_password_beside_an_identity_token_answers_a_basic_challenge():
    both = Credential("u", "pw", "secret-4", "refresh")
    steps, _ = play(handshake(REQUEST, errand(both)), response(401, "Basic"), response(200))
    assert [step.authorization for step in steps] == ["", basic_authorization(both)]


@pytest.mark.parametrize(
    ("realm", "changes"),
    [
        pytest.param("https://evil.test/token", {}, id="strangers"),
        pytest.param("https://registry.example/token", {"credentials": False}, id="no credential may be sent"),
    ],
)
def test_an_identity_token_is_not_exchanged_where_no_credential_may_go(realm, changes):
    challenge = f'Bearer realm="{realm}",service="registry"'
    steps, error = play(
        handshake(REQUEST, errand(IDENTITY, **changes)), response(401, challenge), token(), response(401)
    )
    assert [step.credential for step in steps if isinstance(step, Grant)] == [None]
    assert 'the credential of secret "secret-3" is not sent to' in str(error)


def test_several_secrets_that_may_not_be_sent_are_named_once_each():
    _, error = play(handshake(REQUEST, errand(FIRST, SECOND, FIRST, credentials=False)), response(401, "Basic"))
    assert 'the credentials of secrets "secret-1", "secret-2" are not sent to an insecure host' in str(error)


def test_only_403_is_forbidden():
    _, error = play(handshake(REQUEST, errand(FIRST)), response(401, "Basic"), response(403))
    assert isinstance(error, Forbidden)


def test_without_a_credential_a_denial_says_so():
    _, error = play(handshake(REQUEST, errand()), response(401, "Basic"))
    assert "there is no credential for it" in str(error)


def test_refused_credentials_are_not_replaced_by_anonymous_access():
    steps, error = play(handshake(REQUEST, errand(FIRST)), response(401, REALM), Refusal(FIRST, 401, by_service=True))
    assert len(steps) == 2
    assert 'secret "secret-1" (401 from the token service)' in str(error)


def test_a_strange_realm_is_asked_without_the_credential():
    strange = 'Bearer realm="https://evil.test/token",service="registry"'
    steps, error = play(handshake(REQUEST, errand(FIRST)), response(401, strange), token(), response(401, strange))
    assert [step.credential for step in steps if isinstance(step, Grant)] == [None]
    assert 'the credential of secret "secret-1" is not sent to a token service of another domain' in str(error)


def test_an_insecure_host_gets_no_credential_unless_listed():
    talk = handshake(REQUEST, errand(FIRST, credentials=False, insecure=True))
    steps, error = play(talk, response(401, "Basic"))
    assert [step.authorization for step in steps] == [""]
    assert 'the credential of secret "secret-1" is not sent to an insecure host' in str(error)


def test_a_plain_http_realm_is_not_asked():
    steps, error = play(handshake(REQUEST, errand()), response(401, 'Bearer realm="http://registry.example/token"'))
    assert len(steps) == 1
    assert isinstance(error, Refused)


@pytest.mark.parametrize("challenges", [(), ("Negotiate",), ('Bearer realm="ftp://x"',)])
def test_a_401_that_names_no_way_in_is_a_denial(challenges):
    steps, error = play(handshake(REQUEST, errand(FIRST)), response(401, *challenges))
    assert len(steps) == 1
    assert "no way to log in" in str(error)


def test_a_host_that_a_redirect_led_to_gets_no_login():
    steps, error = play(handshake(REQUEST, errand(FIRST)), response(401, "Basic", url=URL("https://other.example/v2/")))
    assert len(steps) == 1
    assert "redirects to a host that wants a login" in str(error)


def test_bearer_goes_before_basic():
    steps, _ = play(handshake(REQUEST, errand(FIRST)), response(401, "Basic", REALM))
    assert isinstance(steps[1], Grant)


# --- what is remembered -----------------------------------------------------------------------------------------------

KNOWN = Approach(Bearer(AUTH, "registry"), SECOND.fingerprint)


def test_a_remembered_way_saves_the_401():
    steps, done = play(handshake(REQUEST, errand(FIRST, SECOND), KNOWN), token("kept", cached=True), response(200))
    assert [type(step) for step in steps] == [Grant, Request]
    assert steps[0].credential == SECOND
    assert done.approach == KNOWN


def test_a_remembered_way_in_by_another_credential_is_a_hint_only():
    steps, _ = play(handshake(REQUEST, errand(FIRST), KNOWN))
    assert steps == [Grant(AUTH, "registry", SCOPE, FIRST)]


def test_a_token_service_that_has_moved_is_found_again():
    moved = 'Bearer realm="https://new.registry.example/token",service="registry"'
    steps, done = play(
        handshake(REQUEST, errand(FIRST), KNOWN),
        Refusal(FIRST, 404, by_service=True),
        response(401, moved),
        token("t2"),
        response(200),
    )
    assert [type(step) for step in steps] == [Grant, Request, Grant, Request]
    assert steps[1] == REQUEST
    assert done.approach.challenge.realm.host == "new.registry.example"


def test_a_registry_that_has_changed_its_mind_is_followed_once():
    steps, done = play(
        handshake(REQUEST, errand(FIRST), KNOWN),
        token("kept", cached=True),
        response(401, "Basic"),
        token("new"),
        response(401, "Basic"),
        response(200),
    )
    assert steps[-1].authorization == basic_authorization(FIRST)
    assert done.approach == Approach(Basic(), FIRST.fingerprint)


def test_a_remembered_refusal_is_confirmed_by_the_registry_and_not_repeated():
    steps, error = play(
        handshake(REQUEST, errand(FIRST), KNOWN), Refusal(FIRST, 401, by_service=True), response(401, REALM)
    )
    assert [type(step) for step in steps] == [Grant, Request]
    assert 'secret "secret-1"' in str(error)


def test_a_registry_that_wants_no_login_any_more_is_believed():
    steps, done = play(handshake(REQUEST, errand(FIRST), KNOWN), Refusal(FIRST, 401, by_service=True), response(200))
    assert done == Authorised(response(200), None, "")
    assert len(steps) == 2


def test_a_registry_that_always_has_another_realm_is_left_in_the_end():
    talk = handshake(REQUEST, errand(FIRST))
    replies = (token() if number % 2 else response(401, realm_number(number)) for number in range(100))
    steps, error = play(talk, *replies)
    assert isinstance(error, Unauthorized)
    assert len(steps) < 10


def realm_number(number):
    return f'Bearer realm="https://auth{number}.registry.example/token"'
