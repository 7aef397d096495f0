"""Pull secrets: what they hold, whom it serves, and that it is never shown."""

from __future__ import annotations

import base64
import dataclasses
import json
import pprint
import traceback

import pytest

from imagestreams.core.keychain import (
    DOCKER_CFG,
    DOCKER_CONFIG_JSON,
    MAX_CANDIDATES,
    MAX_ENTRIES,
    Credential,
    Entry,
    MalformedSecret,
    candidates,
    parse_secret,
)
from imagestreams.core.reference import ImageReference

PASSWORD = "hunter2-s3cret"


def auth(text):
    return base64.b64encode(text.encode()).decode()


def secret(auths, name="pull"):
    return parse_secret(name, DOCKER_CONFIG_JSON, json.dumps({"auths": auths}).encode())


def login(user="user", password=PASSWORD):
    return {"username": user, "password": password}


def users(auths, text):
    """The users to try for a reference, where `auths` maps keys to users."""
    entries = secret({key: login(user) for key, user in auths.items()})
    return [credential.username for credential in candidates(entries, ImageReference.parse(text))]


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param(login(), id="username and password"),
        pytest.param({"auth": auth(f"user:{PASSWORD}")}, id="auth"),
        pytest.param({"auth": auth(f"user:{PASSWORD}").rstrip("=")}, id="without padding"),
        pytest.param({"auth": auth(f"user:{PASSWORD}") + "\n"}, id="with a line break"),
        pytest.param({"auth": auth(f"user:{PASSWORD}"), **login("other", "wrong")}, id="auth wins"),
        pytest.param({"auth": "", **login()}, id="empty auth"),
        pytest.param({"auth": None, "email": "a@b", "identitytoken": None, **login()}, id="more fields, nulls"),
    ],
)
def test_a_login_is_read(entry):
    expected = (Entry("quay.io", "", Credential("user", PASSWORD, "pull")),)
    assert secret({"quay.io": entry}) == expected
    assert parse_secret("pull", DOCKER_CFG, json.dumps({"quay.io": entry}).encode()) == expected


def test_a_password_may_hold_colons_and_umlauts():
    (entry,) = secret({"quay.io": {"auth": auth("user:a:b:\u00fc")}})
    assert entry.credential.password == "a:b:\u00fc"


@pytest.mark.parametrize(
    "entry",
    [
        {},
        None,
        {"username": "user"},
        {"password": PASSWORD},
        {"username": "", "password": PASSWORD},
        {"auth": auth(":x")},
        {"auth": auth("user:")},
        {"identitytoken": "x"},
    ],
)
def test_entries_without_username_and_password_are_left_out(entry):
    assert secret({"quay.io": entry}) == ()


@pytest.mark.parametrize("payload", [b"{}", b'{"auths":null}', b'{"auths":{}}', b'{"credHelpers":{"a":"b"}}'])
def test_a_configuration_may_hold_no_logins(payload):
    assert parse_secret("pull", DOCKER_CONFIG_JSON, payload) == ()


@pytest.mark.parametrize(
    ("key", "host", "path"),
    [
        ("quay.io", "quay.io", ""),
        ("Quay.IO/", "quay.io", ""),
        ("https://quay.io", "quay.io", ""),
        ("http://reg:5000/v2/", "reg:5000", ""),
        ("https://quay.io/v1/", "quay.io", ""),
        ("https://quay.io/v2/acme", "quay.io", "acme"),
        ("quay.io/v1", "quay.io", "v1"),
        ("quay.io/acme/web/", "quay.io", "acme/web"),
        ("https://index.docker.io/v1/", "docker.io", ""),
        ("https://index.docker.io/v1", "docker.io", ""),
        ("index.docker.io", "docker.io", ""),
        ("registry-1.docker.io", "docker.io", ""),
        ("docker.io/acme", "docker.io", "acme"),
        ("*.example.com", "*.example.com", ""),
    ],
)
def test_keys_are_normalised(key, host, path):
    (entry,) = secret({key: login()})
    assert (entry.host, entry.path) == (host, path)


@pytest.mark.parametrize(
    ("key", "text", "serves"),
    [
        ("quay.io", "quay.io/acme/web", True),
        ("quay.io", "Quay.io/acme/web", True),
        ("quay.io", "quay.io:443/acme/web", False),
        ("quay.io:443", "quay.io/acme/web", False),
        ("reg:5000", "reg:5000/web", True),
        ("reg", "reg:5000/web", False),
        ("quay.io", "evil.quay.io/web", False),
        ("quay.io", "quay.io.evil/web", False),
        ("io", "quay.io/web", False),
        ("quay.io/acme", "quay.io/acme/web", True),
        ("quay.io/acme", "quay.io/acme", True),
        ("quay.io/acme", "quay.io/acmecorp/web", False),
        ("quay.io/acme/web", "quay.io/acme", False),
        ("*.example.com", "reg.example.com/web", True),
        ("*.example.com", "a.b.example.com/web", False),
        ("*.example.com", "example.com/web", False),
        ("*.*.example.com", "a.b.example.com/web", True),
        ("reg-?.example.com", "reg-1.example.com/web", True),
        ("reg-[12].example.com", "reg-2.example.com/web", True),
        ("reg-[12].example.com", "reg-3.example.com/web", False),
        ("*.example.com:5000", "reg.example.com:5000/web", True),
        ("*.example.com", "reg.example.com:5000/web", False),
        ("*.example.com/acme", "reg.example.com/acme/web", True),
        ("*.example.com/acme", "reg.example.com/other/web", False),
        ("https://index.docker.io/v1/", "web", True),
        ("https://index.docker.io/v1/", "acme/web", True),
        ("https://index.docker.io/v1/", "docker.io/acme/web", True),
        ("docker.io", "registry-1.docker.io/acme/web", True),
        ("registry-1.docker.io", "index.docker.io/acme/web", True),
        ("docker.io/library", "web", True),
        ("docker.io/acme", "web", False),
        ("https://index.docker.io/v1/", "quay.io/web", False),
        ("", "web", False),
        ("*", "quay.io/web", False),
        ("*", "localhost/web", True),
        ("quay.io", "quay.io", True),
        ("quay.io/acme", "quay.io", False),
    ],
)
def test_which_references_a_key_serves(key, text, serves):
    assert users({key: "user"}, text) == (["user"] if serves else [])


@pytest.mark.parametrize(
    ("auths", "text", "order"),
    [
        pytest.param(
            {"quay.io": "host", "quay.io/acme/web": "repo", "quay.io/acme": "org"},
            "quay.io/acme/web",
            ["repo", "org", "host"],
            id="longest path first",
        ),
        pytest.param(
            {"*.example.com/acme": "glob", "reg.example.com": "host"},
            "reg.example.com/acme/web",
            ["host", "glob"],
            id="the host's own name before a glob",
        ),
        pytest.param(
            {"https://index.docker.io/v1/": "one", "docker.io": "two"},
            "web",
            ["one", "two"],
            id="equals keep their order",
        ),
        pytest.param(
            {"quay.io": "same", "quay.io/acme": "same", "https://quay.io": "other"},
            "quay.io/acme/web",
            ["same", "other"],
            id="each once, at its best place",
        ),
    ],
)
def test_candidates_come_best_first(auths, text, order):
    assert users(auths, text) == order


def test_of_equal_credentials_the_best_secret_is_named():
    entries = (*secret({"quay.io": login()}, "general"), *secret({"quay.io/acme": login()}, "special"))
    (credential,) = candidates(entries, ImageReference.parse("quay.io/acme/web"))
    assert credential.secret == "special"


def test_the_number_of_candidates_is_bounded():
    entries = [Entry("quay.io", "", Credential(f"u{number}", "p", "s")) for number in range(50)]
    found = candidates(entries, ImageReference.parse("quay.io/a/b"))
    assert [credential.username for credential in found] == [f"u{number}" for number in range(MAX_CANDIDATES)]


MALFORMED = [
    pytest.param(b"", id="empty"),
    pytest.param(b"{" + PASSWORD.encode(), id="not JSON"),
    pytest.param(json.dumps(PASSWORD).encode(), id="not an object"),
    pytest.param(json.dumps({"auths": [PASSWORD]}).encode(), id="not a map"),
    pytest.param(json.dumps({"auths": {"q": PASSWORD}}).encode(), id="not a login"),
    pytest.param(json.dumps({"auths": {"q": {"password": [PASSWORD]}}}).encode(), id="not a text"),
    pytest.param(json.dumps({"auths": {"q": {"auth": PASSWORD}}}).encode(), id="not base64"),
    pytest.param(json.dumps({"auths": {"q": {"auth": "h\u00fcnter2" + PASSWORD}}}).encode(), id="not ASCII"),
    pytest.param(json.dumps({"auths": {"q": {"auth": auth(PASSWORD)}}}).encode(), id="no colon"),
    pytest.param(
        json.dumps({"auths": {"q": {"auth": base64.b64encode(b"u:" + PASSWORD.encode() + b"\xff").decode()}}}).encode(),
        id="not UTF-8",
    ),
    pytest.param(b'{"auths":{"q":{"password":"\xff' + PASSWORD.encode() + b'"}}}', id="JSON not UTF-8"),
    pytest.param(b'{"auths":{"q":{"password":"\\ud800' + PASSWORD.encode() + b'"}}}', id="half a character"),
    pytest.param(b'{"x":' + b"[" * 200_000, id="deep"),
    pytest.param(
        json.dumps({"auths": {f"r{n}": login() for n in range(MAX_ENTRIES + 1)}}).encode(), id="too many registries"
    ),
]


@pytest.mark.parametrize("payload", MALFORMED)
def test_a_malformed_secret_is_named_and_not_shown(payload):
    with pytest.raises(MalformedSecret, match='secret "pull" is not usable') as caught:
        parse_secret("pull", DOCKER_CONFIG_JSON, payload)
    assert "hunter2" not in "".join(traceback.format_exception(caught.value)) + repr(caught.value)
    # A chained exception of a decoder would hold the text it failed on.
    assert caught.value.__context__ is None
    assert caught.value.__cause__ is None


def test_other_types_are_no_pull_secrets():
    with pytest.raises(MalformedSecret, match=r'secret "x" is not usable: its type "Opaque"'):
        parse_secret("x", "Opaque", b"{}")


def test_the_entry_at_fault_is_counted_not_quoted():
    with pytest.raises(MalformedSecret, match="entry 2 of 2"):
        secret({"quay.io": login(), "internal.example.com": {"auth": "!"}})


def test_a_credential_never_shows_its_password():
    (entry,) = secret({"quay.io/acme": login()})
    credential = entry.credential
    shown = [
        repr(credential),
        str(credential),
        f"{credential}",
        format(credential),
        f"{credential!s} {credential!r}",
        repr(entry),
        str([entry]),
        str({"credentials": (credential,)}),
        pprint.pformat(entry),
        repr(dataclasses.replace(credential, secret="other")),
    ]
    assert not [text for text in shown if PASSWORD in text]
    assert repr(credential) == "Credential(username='user', secret='pull')"


def test_the_fingerprint_is_of_the_whole_credential():
    fingerprints = {
        Credential(username, password, "s").fingerprint
        for username, password in [("a", "bc"), ("ab", "c"), ("a", "b"), ("a:b", "c"), ("a", "b:c"), ("1:a", "b")]
    }
    assert len(fingerprints) == 6
    assert all(len(fingerprint) == 64 for fingerprint in fingerprints)
    assert Credential("a", "b", "one").fingerprint == Credential("a", "b", "two").fingerprint
