"""Certificates that clients accept, and when each of the webhook server's keys is replaced."""

from __future__ import annotations

import itertools
import ssl
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
import trustme
from cryptography import x509

from imagestreams.core.certificate import (
    Certificate,
    InvalidCertificate,
    KeyPair,
    Keys,
    authorities,
    describe,
    is_same_issuer,
    is_trusted_by,
    merged_authorities,
    new_authority,
    new_serving,
    problem_of,
    renewed,
)

if TYPE_CHECKING:
    from pathlib import Path

NOW = datetime.now(UTC).replace(microsecond=0)  # TLS libraries look at the clock
DAY = timedelta(days=1)
NAMES = ("imagestreams-webhook.imagestreams-system.svc", "10.0.0.7", "fd00::7")
TOKEN, OTHER = "a" * 64, "b" * 64


_numbers = itertools.count(1)


def unlike_all_before(size: int) -> bytes:
    return next(_numbers).to_bytes(size, "big")


def again(keys: Keys, now: datetime, *, names=NAMES, token_life=DAY):
    return renewed(keys, now=now, names=names, token_life=token_life, random=unlike_all_before)


@pytest.fixture(scope="module")
def made() -> Keys:
    return again(Keys(), NOW)[0]


def shaken(tmp_path: Path, pair: KeyPair, bundle: bytes, name: str) -> str:
    """What comes of a handshake of a strict client that asks for `name`: "" or what it says."""
    pem = tmp_path / "pair.pem"
    pem.write_bytes(pair.certificate + pair.key)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pem)
    client = ssl.create_default_context(cadata=bundle.decode())
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours, theirs = (
        client.wrap_bio(there, back, server_hostname=name),
        server.wrap_bio(back, there, server_side=True),
    )
    for _ in range(4):
        for side in (ours, theirs):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError as error:
                return error.verify_message
    assert ours.version() in {"TLSv1.2", "TLSv1.3"}
    return ""


# --- certificates


@pytest.mark.parametrize("name", NAMES)
def test_a_strict_client_accepts_every_name(made, tmp_path, name):
    assert shaken(tmp_path, made.serving, made.authorities, name) == ""


def test_a_strict_client_refuses_another_name(made, tmp_path):
    assert "Hostname mismatch" in shaken(tmp_path, made.serving, made.authorities, "other.imagestreams-system.svc")


def test_a_strict_client_refuses_another_authority(made, tmp_path):
    assert "unable to get" in shaken(tmp_path, made.serving, new_authority(NOW).certificate, NAMES[0])


def test_a_strict_client_finds_the_right_one_of_two_authorities(made, tmp_path):
    both = new_authority(NOW).certificate + made.authorities
    assert shaken(tmp_path, made.serving, both, NAMES[0]) == ""


def test_lives():
    authority = new_authority(NOW)
    assert describe(authority).not_after == NOW + 3650 * DAY
    assert describe(new_serving(authority, NAMES, NOW)).not_after == NOW + 365 * DAY
    late = NOW + 3600 * DAY
    assert describe(new_serving(authority, NAMES, late)).not_after == NOW + 3650 * DAY, "no longer than its authority's"


def test_a_clock_that_is_a_little_behind_accepts_it():
    assert describe(new_authority(NOW)).not_before < NOW - timedelta(minutes=30)


def test_keys_are_not_shown(made):
    shown = repr(made) + repr(made.serving)
    assert made.token not in shown
    assert "PRIVATE" not in shown


@pytest.mark.parametrize(
    ("pair", "words"),
    [
        pytest.param(lambda made: KeyPair(b"", b""), "no certificate", id="nothing"),
        pytest.param(lambda made: KeyPair(b"\x00garbage", made.serving.key), "no certificate", id="garbage"),
        pytest.param(
            lambda made: KeyPair(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", made.serving.key),
            "no certificate",
            id="base64 of nothing",
        ),
        pytest.param(lambda made: KeyPair(made.serving.certificate, b""), "cannot be read", id="no key"),
        pytest.param(lambda made: KeyPair(made.serving.certificate, b"garbage"), "cannot be read", id="garbage as key"),
        pytest.param(
            lambda made: KeyPair(made.serving.certificate, made.authority_key), "another certificate", id="other key"
        ),
    ],
)
def test_what_cannot_be_served_with(made, pair, words):
    with pytest.raises(InvalidCertificate, match=words) as caught:
        describe(pair(made))
    assert "PRIVATE" not in str(caught.value)


def test_rsa_keys_of_others_are_read():
    leaf = trustme.CA(key_type=trustme.KeyType.RSA).issue_cert("web.example", key_type=trustme.KeyType.RSA)
    pair = KeyPair(leaf.cert_chain_pems[0].bytes(), leaf.private_key_pem.bytes())
    assert describe(pair).names == {"web.example"}


LIFE = Certificate(frozenset({"a.svc", "*.example.com", "10.0.0.7"}), NOW, NOW + 30 * DAY)


@pytest.mark.parametrize(
    ("after", "due", "problem"),
    [
        pytest.param(timedelta(seconds=-1), True, "not valid before", id="not yet valid"),
        pytest.param(timedelta(), False, None, id="its first moment"),
        pytest.param(20 * DAY - timedelta(seconds=1), False, None, id="before two thirds"),
        pytest.param(20 * DAY, True, None, id="two thirds"),
        pytest.param(30 * DAY - timedelta(seconds=1), True, None, id="its last moment"),
        pytest.param(30 * DAY, True, "has expired", id="expired"),
    ],
)
def test_the_life_of_a_certificate(after, due, problem):
    assert LIFE.is_due(NOW + after) is due
    found = problem_of(LIFE, ["a.svc"], NOW + after)
    assert (found is None) is (problem is None)
    assert (problem or "") in (found or "")


@pytest.mark.parametrize(
    ("name", "lacks"),
    [
        ("a.svc", False),
        ("b.svc", True),
        ("x.example.com", False),
        ("x.y.example.com", True),
        ("example.com", True),
        ("10.0.0.7", False),
        ("10.0.0.8", True),
    ],
)
def test_the_names_of_a_certificate(name, lacks):
    assert LIFE.lacks([name]) == ((name,) if lacks else ())
    assert (problem_of(LIFE, [name], NOW) is not None) is lacks


# --- bundles


def test_bundles():
    one, two, three = (new_authority(NOW) for _ in range(3))
    leaf = new_serving(one, NAMES, NOW).certificate
    assert is_trusted_by(leaf, two.certificate + one.certificate)
    assert not is_trusted_by(leaf, two.certificate)
    assert not is_trusted_by(leaf, b"")
    assert is_trusted_by(one.certificate, one.certificate), "signed by itself, as cert-manager's simplest"
    assert authorities(b"text\n" + one.certificate + one.certificate + b"\n" + two.certificate) == (
        one.certificate,
        two.certificate,
    )
    merged = merged_authorities(two.certificate, one.certificate + two.certificate, NOW)
    assert authorities(merged) == (two.certificate, one.certificate)
    assert authorities(merged_authorities(two.certificate, one.certificate, NOW + 4000 * DAY)) == (two.certificate,)
    many = b"".join(new_authority(NOW).certificate for _ in range(9))
    assert len(authorities(merged_authorities(three.certificate, many, NOW))) == 4
    assert authorities(merged_authorities(three.certificate, many, NOW))[0] == three.certificate
    other = new_serving(one, NAMES, NOW).certificate
    assert is_same_issuer(leaf, other, one.certificate)
    assert not is_same_issuer(leaf, new_serving(two, NAMES, NOW).certificate, one.certificate + two.certificate)


# --- what is renewed when


def test_everything_is_made_where_nothing_is():
    keys, made = again(Keys(), NOW)
    assert made == ("authority", "certificate", "token", "stamp key")
    assert describe(keys.serving).names == set(NAMES)
    assert len(bytes.fromhex(keys.token)) == len(keys.stamp_key) == 32
    assert (keys.token_previous, keys.stamp_key_previous) == ("", b"")
    assert (keys.token_at, keys.stamp_key_at) == (NOW, NOW)
    assert keys.is_usable


def test_nothing_is_made_where_all_is_well(made):
    assert again(made, NOW + timedelta(hours=23)) == (made, ())


def test_another_certificate_is_served(made):
    keys, new = again(Keys(), NOW, names=())
    assert new == ("token", "stamp key")
    assert (keys.authorities, keys.serving) == (b"", KeyPair(b"", b""))
    kept, new = again(made, NOW + 4000 * DAY, names=())
    assert (kept.serving, new) == (made.serving, ("token", "stamp key"))


@pytest.mark.parametrize(
    ("change", "made_new"),
    [
        pytest.param(lambda k: replace(k, token=""), ("token",), id="no token"),
        pytest.param(lambda k: replace(k, token="short"), ("token",), id="a token of no use"),
        pytest.param(lambda k: replace(k, token=TOKEN.upper()), ("token",), id="a token unlike ours"),
        pytest.param(lambda k: replace(k, token_at=None), ("token",), id="a token of unknown age"),
        pytest.param(lambda k: replace(k, token_at=NOW + 2 * DAY), ("token",), id="a token from the future"),
        pytest.param(lambda k: replace(k, token_at=NOW + timedelta(hours=1)), (), id="another clock is ahead"),
        pytest.param(lambda k: replace(k, stamp_key=b"short"), ("stamp key",), id="a stamp key of no use"),
        pytest.param(lambda k: replace(k, stamp_key_at=None), ("stamp key",), id="a stamp key of unknown age"),
        pytest.param(lambda k: replace(k, serving=KeyPair(b"", b"")), ("certificate",), id="no certificate"),
        pytest.param(
            lambda k: replace(k, serving=KeyPair(k.serving.certificate, k.authority_key)), ("certificate",), id="key"
        ),
        pytest.param(
            lambda k: replace(k, serving=new_serving(new_authority(NOW), NAMES, NOW)),
            ("certificate",),
            id="of another authority",
        ),
        pytest.param(lambda k: replace(k, authorities=b""), ("authority", "certificate"), id="the authority is lost"),
        pytest.param(lambda k: replace(k, authorities=b"x", authority_key=b"x"), ("authority", "certificate"), id="x"),
        pytest.param(lambda k: replace(k, authority_key=b""), ("authority",), id="the authority's key is lost"),
    ],
)
def test_what_is_broken_is_made_anew_and_no_more(made, change, made_new):
    broken = change(made)
    keys, new = again(broken, NOW)
    assert new == made_new
    assert is_trusted_by(keys.serving.certificate, keys.authorities)
    assert describe(KeyPair(authorities(keys.authorities)[0], keys.authority_key))
    assert again(keys, NOW) == (keys, ())


@pytest.mark.parametrize(
    ("age", "life", "is_replaced"),
    [
        (timedelta(minutes=59), timedelta(hours=1), False),
        (timedelta(hours=1), timedelta(hours=1), True),
        (timedelta(hours=1), None, False),
        (365 * DAY, None, False),
    ],
)
def test_a_token_grows_old(made, age, life, is_replaced):
    keys, _ = again(made, NOW + age, token_life=life)
    assert (keys.token != made.token) is is_replaced
    assert keys.token_previous == (made.token if is_replaced else "")
    assert keys.token_at == (NOW + age if is_replaced else NOW)


def test_a_broken_token_is_not_kept_as_the_previous_one(made):
    keys, _ = again(replace(made, token="x", token_previous=OTHER, stamp_key=b"x"), NOW)
    assert (keys.token_previous, keys.stamp_key_previous) == ("", b"")


def test_a_stamp_key_grows_old_and_is_known_for_one_more_round(made):
    keys, new = again(made, NOW + DAY, token_life=None)
    assert new == ("stamp key",)
    assert keys.stamp_key != made.stamp_key
    assert keys.stamp_key_previous == made.stamp_key


def test_a_certificate_is_replaced_under_the_same_authority(made):
    later = NOW + 244 * DAY
    keys, new = again(made, later, token_life=None)
    assert "certificate" in new
    assert "authority" not in new
    assert keys.authorities == made.authorities
    assert is_trusted_by(keys.serving.certificate, made.authorities)
    assert not describe(keys.serving).is_due(later)


def test_a_name_more_makes_a_certificate_with_the_others_still_in_it(made):
    keys, new = again(made, NOW, names=(*NAMES, "more.example"))
    assert new == ("certificate",)
    assert describe(keys.serving).names == {*NAMES, "more.example"}
    assert again(keys, NOW, names=("other.example", NAMES[0]))[0].serving != keys.serving
    both, _ = again(keys, NOW, names=("other.example",))
    assert again(both, NOW) == (both, ()), "replicas of two settings come to rest"


def test_an_old_authority_gets_a_successor_and_nobody_meets_what_he_cannot_verify(made):
    """From one state to the next, over twelve years: what is served is always trusted by what was published before."""
    keys, published = made, made.authorities
    replaced = []
    for day in range(0, 12 * 365, 7):
        now = NOW + day * DAY
        keys, new = again(keys, now, token_life=None)
        if "authority" in new:
            replaced.append(day // 365)
        assert is_trusted_by(keys.serving.certificate, published), f"after {day} days"
        assert problem_of(describe(keys.serving), NAMES, now) is None
        assert all(
            now < x509.load_pem_x509_certificate(each).not_valid_after_utc for each in authorities(keys.authorities)
        )
        assert len(authorities(keys.authorities)) <= 2
        published = keys.authorities
    assert replaced == [6]


def test_where_both_are_due_the_authority_that_is_known_signs(made):
    keys, new = again(made, NOW + 2500 * DAY, token_life=None)
    assert new[:2] == ("authority", "certificate")
    assert is_trusted_by(keys.serving.certificate, made.authorities), "API servers have not heard of the other yet"
    assert not is_trusted_by(keys.serving.certificate, authorities(keys.authorities)[0])


def test_an_authority_that_has_ended_is_replaced_at_once_with_what_it_signed(made):
    keys, new = again(made, NOW + 3651 * DAY, token_life=None)
    assert new[:2] == ("authority", "certificate")
    assert len(authorities(keys.authorities)) == 1
