"""Pull secrets: what they hold, whom it serves, and that it is never shown."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import pprint
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagestreams.core.keychain import (
    DOCKER_CFG,
    DOCKER_CONFIG_JSON,
    MAX_CANDIDATES,
    MAX_ENTRIES,
    Credential,
    Entry,
    InstallWide,
    MalformedSecret,
    candidates,
    explain,
    parse_docker_config,
    parse_secret,
)
from imagestreams.core.reference import ImageReference

PASSWORD = "hunter2-s3cret"
TOKEN = "hunter2-identity"


def auth(text):
    return base64.b64encode(text.encode()).decode()


def secret(auths, name="pull"):
    return parse_secret(name, DOCKER_CONFIG_JSON, json.dumps({"auths": auths}).encode()).entries


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
    assert parse_secret("pull", DOCKER_CFG, json.dumps({"quay.io": entry}).encode()) == (expected, ())


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
        {"identitytoken": "", "auth": auth("user:")},
        {"registrytoken": "x"},
    ],
)
def test_entries_without_a_login_are_left_out(entry):
    assert secret({"quay.io": entry}) == ()


@pytest.mark.parametrize("payload", [b"{}", b'{"auths":null}', b'{"auths":{}}', b'{"credHelpers":{},"credsStore":""}'])
def test_a_configuration_may_hold_no_logins(payload):
    assert parse_secret("pull", DOCKER_CONFIG_JSON, payload) == ((), ())


@pytest.mark.parametrize(
    ("entry", "username", "password"),
    [
        pytest.param({"identitytoken": TOKEN}, "", "", id="alone"),
        pytest.param({"auth": auth("user:"), "identitytoken": TOKEN}, "user", "", id="as docker login writes it"),
        pytest.param({"username": "user", "identitytoken": TOKEN}, "user", "", id="with a username"),
        pytest.param({**login(), "identitytoken": TOKEN}, "user", PASSWORD, id="beside a password"),
    ],
)
def test_an_identity_token_is_read(entry, username, password):
    (found,) = secret({"quay.io": entry})
    assert found.credential == Credential(username, password, "pull", TOKEN)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        pytest.param(
            {"auths": {"quay.io": {"registrytoken": TOKEN}, "ghcr.io": login()}},
            "the registrytoken of 1 of 2 entries is ignored",
            id="registrytoken",
        ),
        pytest.param(
            {"auths": {}, "credHelpers": {"gcr.io": "gcloud"}}, "its credential helpers are ignored", id="helpers"
        ),
        pytest.param({"credsStore": "desktop"}, "its credential helpers are ignored", id="store"),
        pytest.param({"credHelpers": ["of another shape"]}, "its credential helpers are ignored", id="any shape"),
    ],
)
def test_what_a_secret_holds_in_vain_is_noted_and_not_shown(config, words):
    (note,) = parse_secret("pull", DOCKER_CONFIG_JSON, json.dumps(config).encode()).notes
    assert note.startswith(f'secret "pull": {words}')
    assert "write a username and password" in note
    assert not [text for text in (TOKEN, "quay.io", "gcr.io", "gcloud", "desktop") if text in note]


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
        ("https://index.docker.io:443/v1/", "docker.io", ""),
        ("docker.io:443/acme", "docker.io", "acme"),
        ("docker.io:8443", "docker.io:8443", ""),
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
        ("docker.io", "docker.io:443/acme/web", True),
        ("docker.io:443", "acme/web", True),
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
    pytest.param(json.dumps({"auths": {"q": {"identitytoken": [PASSWORD]}}}).encode(), id="a token that is no text"),
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


def read_as_secret(payload):
    return parse_secret("pull", DOCKER_CONFIG_JSON, payload)


def read_as_file(payload):
    return parse_docker_config("pull", payload)


@pytest.mark.parametrize("payload", MALFORMED)
@pytest.mark.parametrize(("read", "what"), [(read_as_secret, "secret"), (read_as_file, "file")])
def test_what_is_malformed_is_named_and_not_shown(payload, read, what):
    with pytest.raises(MalformedSecret, match=f'{what} "pull" is not usable') as caught:
        read(payload)
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
    (entry,) = secret({"quay.io/acme": {"identitytoken": TOKEN}})
    assert TOKEN not in pprint.pformat(entry)


def test_the_fingerprint_is_of_the_whole_credential():
    fingerprints = {
        Credential(username, password, "s").fingerprint
        for username, password in [("a", "bc"), ("ab", "c"), ("a", "b"), ("a:b", "c"), ("a", "b:c"), ("1:a", "b")]
    }
    fingerprints |= {
        Credential(username, password, "s", token).fingerprint
        for username, password, token in [("a", "", "bc"), ("a", "b", "c"), ("", "a", "bc"), ("", "", "abc")]
    }
    assert len(fingerprints) == 10
    assert all(len(fingerprint) == 64 for fingerprint in fingerprints)
    assert Credential("a", "b", "one").fingerprint == Credential("a", "b", "two").fingerprint


# --- a file on the command line ---------------------------------------------------------------------------------------


def test_a_docker_configuration_is_read():
    config = {"auths": {"quay.io": login(), "https://index.docker.io/v1/": {"auth": auth(f"me:{PASSWORD}")}}}
    entries, notes = parse_docker_config("config.json", json.dumps({**config, "HttpHeaders": {"a": 1}}).encode())
    assert [(entry.host, entry.credential.username, entry.credential.secret) for entry in entries] == [
        ("quay.io", "user", "config.json"),
        ("docker.io", "me", "config.json"),
    ]
    assert notes == ()


@pytest.mark.parametrize(
    ("config", "notes"),
    [
        pytest.param({}, ["it holds no logins"], id="empty"),
        pytest.param(
            {"auths": {"quay.io": {}, "ghcr.io": None, "docker.io": login()}, "credsStore": "desktop"},
            ['there is no login for "quay.io", "ghcr.io"', "its credsStore is ignored, credential helpers are not run"],
            id="as Docker Desktop writes it",
        ),
        pytest.param(
            {"auths": {"quay.io": login()}, "credHelpers": {"gcr.io": "gcloud", "eu.gcr.io": "gcloud"}},
            ['its credHelpers for "gcr.io", "eu.gcr.io" are ignored, credential helpers are not run'],
            id="helpers for some",
        ),
        pytest.param({"credHelpers": "x"}, ["its credHelpers are ignored"], id="helpers of another shape"),
        pytest.param(
            {"auths": {"quay.io": {"registrytoken": TOKEN, **login()}}},
            ['the registrytoken for "quay.io" is ignored'],
            id="a registry token",
        ),
        pytest.param(
            {"auths": {f"{n}.io": {} for n in range(7)}},
            ['there is no login for "0.io", "1.io", "2.io", "3.io", "4.io" and 2 more'],
            id="many",
        ),
    ],
)
def test_what_a_file_holds_in_vain_is_named(config, notes):
    said = parse_docker_config("config.json", json.dumps(config).encode()).notes
    assert [
        note.partition('file "config.json": ')[2][: len(words)] for note, words in zip(said, notes, strict=True)
    ] == (notes)
    assert TOKEN not in str(said)


@given(st.dictionaries(st.text(max_size=20), st.none() | st.text() | st.integers() | st.lists(st.text(), max_size=2)))
def test_any_json_is_read_or_malformed(config):
    for payload in (json.dumps(config).encode(), json.dumps({"auths": {"quay.io": config}, **config}).encode()):
        for read in (read_as_secret, read_as_file):
            try:
                entries, notes = read(payload)
            except MalformedSecret:
                continue
            assert all(isinstance(entry, Entry) for entry in entries)
            assert all(isinstance(note, str) for note in notes)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_malformed(payload):
    for read in (read_as_secret, read_as_file):
        with contextlib.suppress(MalformedSecret):
            read(payload)


@given(username=st.text(min_size=1).filter(lambda text: ":" not in text), password=st.text(min_size=1))
def test_what_docker_login_writes_is_read_back(username, password):
    (entry,) = secret({"quay.io": {"auth": auth(f"{username}:{password}")}})
    assert (entry.credential.username, entry.credential.password) == (username, password)


# --- the installation's secret ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("namespaces", "prefixes", "namespace", "text", "serves"),
    [
        pytest.param([], [], "shop", "quay.io/acme/web", False, id="nobody by default"),
        pytest.param(["*"], [], "shop", "quay.io/acme/web", False, id="no repository"),
        pytest.param([], ["quay.io"], "shop", "quay.io/acme/web", False, id="no namespace"),
        pytest.param(["shop"], ["quay.io"], "shop", "quay.io/acme/web", True, id="a host"),
        pytest.param(["shop"], ["quay.io"], "shop2", "quay.io/acme/web", False, id="another namespace"),
        pytest.param(["shop-*"], ["quay.io"], "shop-a", "quay.io/acme/web", True, id="a pattern"),
        pytest.param(["shop-*"], ["quay.io"], "workshop-a", "quay.io/acme/web", False, id="the whole name"),
        pytest.param(["other", "*"], ["ghcr.io", "quay.io/acme"], "x", "quay.io/acme/web", True, id="any of several"),
        pytest.param(["*"], ["quay.io/acme"], "x", "quay.io/acme", True, id="the prefix itself"),
        pytest.param(["*"], ["quay.io/acme/"], "x", "quay.io/acme/web", True, id="a slash at the end"),
        pytest.param(["*"], ["quay.io/acme"], "x", "quay.io/acmecorp/web", False, id="half a component"),
        pytest.param(["*"], ["quay.io/acme/web"], "x", "quay.io/acme", False, id="above the prefix"),
        pytest.param(["*"], ["quay.io"], "x", "quay.io.evil.example/web", False, id="half a host"),
        pytest.param(["*"], ["quay.io"], "x", "quay.io:443/web", False, id="another port"),
        pytest.param(["*"], ["Quay.IO/acme"], "x", "quay.io/acme/web", True, id="any case of the host"),
        pytest.param(["*"], ["index.docker.io/acme"], "x", "acme/web", True, id="Docker Hub's names"),
        pytest.param(["*"], ["docker.io:443/acme"], "x", "acme/web", True, id="Docker Hub's port"),
        pytest.param(["*"], ["docker.io/library"], "x", "nginx", True, id="Docker Hub's library"),
        pytest.param(["*"], ["quay.io/v2/acme"], "x", "quay.io/v2/acme", True, id="an organization v2"),
        pytest.param(["*"], ["quay.io/v2/acme"], "x", "quay.io/acme", False, id="that is not left out"),
        pytest.param(["*"], ["localhost:5000"], "x", "localhost:5000/web", True, id="a host without a dot"),
    ],
)
def test_whom_the_installations_secret_serves(namespaces, prefixes, namespace, text, serves):
    whom, reference = InstallWide(tuple(namespaces), tuple(prefixes)), ImageReference.parse(text)
    everywhere = tuple(
        entry for key in (reference.host, "*.*", "*.*.*.*") for entry in secret({key: login()}, name="install")
    )
    assert bool(candidates(whom.confined(namespace, everywhere), reference)) is serves


@pytest.mark.parametrize(
    ("namespaces", "prefixes", "words"),
    [
        (["Shop"], [], 'namespace pattern "Shop" must be a name'),
        (["a,b"], [], 'namespace pattern "a,b"'),
        ([""], [], "namespace pattern"),
        ([], [""], "repository prefix"),
        ([], ["acme/web"], 'repository prefix "acme/web" must be .*, as in docker.io/acme: with the host'),
        ([], ["https://quay.io/acme"], "without scheme"),
        ([], ["quay.io/*"], "and wildcards"),
        ([], ["*.example.com"], "and wildcards"),
        ([], ["quay.io/acme/web:1"], "tag"),
        ([], ["quay.io//acme"], "repository prefix"),
    ],
)
def test_a_malformed_list_for_the_installations_secret_is_refused(namespaces, prefixes, words):
    with pytest.raises(ValueError, match=words):
        InstallWide(tuple(namespaces), tuple(prefixes))


def test_the_installations_secret_comes_last_and_within_its_limits():
    own = secret({"*.io": login("glob"), "quay.io": login("host")})
    everywhere = secret({"quay.io/acme/web": login("exact"), "ghcr.io": login("elsewhere")}, name="system/install")
    entries = (*InstallWide(("shop",), ("quay.io/acme",)).confined("shop", everywhere), *own)

    def tried(text):
        return [credential.username for credential in candidates(entries, ImageReference.parse(text))]

    assert tried("quay.io/acme/web") == ["host", "glob", "exact"]
    assert tried("quay.io/acme/other") == ["host", "glob"]
    assert tried("ghcr.io/acme/web") == ["glob"], "the secret has a login there, and nobody listed it"


# --- why, for people --------------------------------------------------------------------------------------------------


def test_explained_are_the_candidates_in_their_order_and_their_neighbours():
    entries = (
        *secret({"quay.io": login("host"), "quay.io/acme": login("org"), "*.io": login("glob")}, name="a"),
        *secret({"quay.io/acme": login("org"), "quay.io/acmecorp": login("x"), "quay.io:443": login("x")}, name="b"),
        *secret({"cdn.quay.io": login("x"), "*.quay.io": login("x"), "ghcr.io": login("x")}, name="c"),
        *InstallWide(("*",), ("quay.io/acme",)).confined("shop", secret({"quay.io": login("last")}, name="s/d")),
        *InstallWide(("*",), ("quay.io/other",)).confined("shop", secret({"quay.io": login("no")}, name="s/e")),
    )
    reference = ImageReference.parse("quay.io/acme/web:1")
    explained = explain(entries, reference)
    assert [(each.entry.credential.secret, each.entry.key, each.is_tried, each.why) for each in explained] == [
        ("a", "quay.io/acme", True, '"quay.io/acme" is for the host, and its path is above the repository\'s'),
        ("b", "quay.io/acme", False, "it holds the same login as one before it"),
        ("a", "quay.io", True, '"quay.io" is for the host'),
        ("a", "*.io", True, '"*.io" matches the host'),
        (
            "s/d",
            "quay.io",
            True,
            "\"quay.io\" is for the host; it is the installation's, tried after the namespace's own",
        ),
        (
            "b",
            "quay.io/acmecorp",
            False,
            'its path "acmecorp" is neither the repository "acme/web" nor a folder above it',
        ),
        ("b", "quay.io:443", False, "it names port 443 and the image no port; both must name the same"),
        ("c", "cdn.quay.io", False, 'it is for the host "cdn.quay.io", the image is at "quay.io"'),
        (
            "c",
            "*.quay.io",
            False,
            '"*.quay.io" does not match "quay.io": a wildcard stands for one label or a part of it',
        ),
        ("s/e", "quay.io", False, 'the installation\'s secret serves only "quay.io/other"'),
    ]
    assert PASSWORD not in repr(explained)
    tried = tuple(each.entry.credential for each in explained if each.is_tried)
    assert tried == candidates(entries, reference)


def test_explained_is_also_that_too_many_match():
    entries = secret({"quay.io" + "/a" * n: login(f"user{n}") for n in range(MAX_CANDIDATES + 2)})
    explained = explain(entries, ImageReference.parse("quay.io" + "/a" * (MAX_CANDIDATES + 2)))
    assert [each.is_tried for each in explained] == [True] * MAX_CANDIDATES + [False] * 2
    assert explained[-1].why == f"only the best {MAX_CANDIDATES} logins are tried"


KEYS = ["quay.io", "quay.io/a", "quay.io/a/b", "*.io", "quay.io:443", "x.quay.io", "ghcr.io", "docker.io", "10.0.0.1"]


@given(
    keys=st.lists(st.sampled_from(KEYS), unique=True),
    text=st.sampled_from(["quay.io/a/b", "quay.io:443/a", "ghcr.io/a", "web", "10.0.0.1/a", "10.0.0.1:80/a"]),
)
def test_what_is_explained_as_tried_is_what_is_tried(keys, text):
    entries, reference = secret({key: login(key) for key in keys}), ImageReference.parse(text)
    explained = explain(entries, reference)
    assert tuple(each.entry.credential for each in explained if each.is_tried) == candidates(entries, reference)
    assert len(explained) == len({each.entry for each in explained})
    assert all(each.why for each in explained)
