"""What webhooks are served and proven with: a certificate and its authority, the token in their path, and the key of
stamps. Made, judged and renewed here; stored elsewhere.

Keys are ECDSA P-256. An authority that grows old gets a successor while it is still trusted; both are published for as
long as both are valid, and what is served changes only later, so that nobody ever meets a certificate that he cannot
verify.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from ipaddress import ip_address
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from imagestreams.core.admission import is_token

AUTHORITY_LIFE: Final = timedelta(days=3650)
SERVING_LIFE: Final = timedelta(days=365)
STAMP_KEY_LIFE: Final = timedelta(hours=24)
EXPIRES_SOON: Final = timedelta(days=14)
_BACKDATED: Final = timedelta(hours=1)  # clocks differ
_FUTURE: Final = timedelta(days=1)  # a moment beyond it was written by a clock that is wrong
_MAX_AUTHORITIES: Final = 4
_MAX_NAMES: Final = 32
_MAX_PEM: Final = 256 << 10  # bytes
_KEY_BYTES: Final = 32
_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----\s[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----")
_P256 = ec.SECP256R1


class InvalidCertificate(ValueError):
    """It cannot be served with; says why, and holds nothing of the key."""


@dataclass(frozen=True, slots=True, repr=False)
class KeyPair:
    """A certificate (PEM, its chain behind it) and its private key (PEM)."""

    certificate: bytes
    key: bytes


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a certificate says of itself. `names` are DNS names and addresses as text."""

    names: frozenset[str]
    not_before: datetime
    not_after: datetime

    def is_valid(self, now: datetime) -> bool:
        return self.not_before <= now < self.not_after

    def is_due(self, now: datetime) -> bool:
        """Is it time for a successor: two thirds of its life are over, or it is not valid?"""
        return not self.not_before <= now < self.not_after - (self.not_after - self.not_before) / 3

    def lacks(self, names: Iterable[str]) -> tuple[str, ...]:
        """Those of the names that it is not made out to."""
        return tuple(name for name in names if not self._covers(name))

    def _covers(self, name: str) -> bool:
        _, _, parent = name.partition(".")
        return name in self.names or (not _is_address(name) and f"*.{parent}" in self.names)


@dataclass(frozen=True, slots=True, repr=False)
class Keys:
    """All that the replicas share.

    Attributes:
        authorities: PEM; the first is `authority_key`'s, the others are trusted until they end.
        token: 64 hexadecimal digits; `token_previous` was valid before, `token_at` is when it was replaced.
        stamp_key: 32 bytes, `stamp_key_previous` and `stamp_key_at` as with the token.
    """

    authorities: bytes = b""
    authority_key: bytes = b""
    serving: KeyPair = KeyPair(b"", b"")
    token: str = ""
    token_previous: str = ""
    token_at: datetime | None = None
    stamp_key: bytes = b""
    stamp_key_previous: bytes = b""
    stamp_key_at: datetime | None = None

    @property
    def is_usable(self) -> bool:
        """Can calls be proven and stamps be made with it?"""
        return is_token(self.token) and len(self.stamp_key) == _KEY_BYTES


def renewed(
    keys: Keys,
    *,
    now: datetime,
    names: Sequence[str],
    token_life: timedelta | None,
    random: Callable[[int], bytes],
) -> tuple[Keys, tuple[str, ...]]:
    """The keys as they should be now, and what was made new, in words; nothing if all is well.

    What is missing, broken or due is made; what is good stays.

    Args:
        names: DNS names and addresses that the certificate must have; empty: another's certificate is served, and ours
            is left as it is.
        token_life: at which age the token is replaced; None keeps any that is one.
        random: gives as many bytes that nobody can guess.
    """
    made: list[str] = []
    if names:
        keys = _with_certificates(keys, names, now, made)
    if not is_token(keys.token) or (token_life is not None and _is_older(keys.token_at, token_life, now)):
        made.append("token")
        previous = keys.token if is_token(keys.token) else ""
        keys = replace(keys, token=random(_KEY_BYTES).hex(), token_previous=previous, token_at=now)
    if len(keys.stamp_key) != _KEY_BYTES or _is_older(keys.stamp_key_at, STAMP_KEY_LIFE, now):
        made.append("stamp key")
        old = keys.stamp_key if len(keys.stamp_key) == _KEY_BYTES else b""
        keys = replace(keys, stamp_key=random(_KEY_BYTES), stamp_key_previous=old, stamp_key_at=now)
    return keys, tuple(made)


def _with_certificates(keys: Keys, names: Sequence[str], now: datetime, made: list[str]) -> Keys:
    authority = _authority(keys)
    trusted = [each for each in _certificates(keys.authorities) if now < each.not_valid_after_utc]
    issuer = authority
    if authority is None or _described(_leaf(authority)).is_due(now):
        is_trusted = authority is not None and _described(_leaf(authority)).is_valid(now)
        authority = new_authority(now)
        made.append("authority")
        trusted.insert(0, _leaf(authority))
        # Until API servers know the new one, what is served is signed by the one that they know.
        issuer = issuer if is_trusted else authority
    bundle = b"".join(map(_pem, trusted[:_MAX_AUTHORITIES]))
    keys = replace(keys, authorities=bundle, authority_key=authority.key)
    try:
        present = describe(keys.serving)
    except InvalidCertificate:
        present = None
    is_good = present is not None and not present.is_due(now) and is_trusted_by(keys.serving.certificate, bundle)
    if is_good and present is not None and not present.lacks(names):
        return keys
    made.append("certificate")
    # Replicas of two settings, as during an update, would otherwise replace each other's for ever.
    kept = sorted(present.names) if is_good and present is not None else []
    wanted = list(dict.fromkeys([*names, *kept]))[: max(_MAX_NAMES, len(names))]
    return replace(keys, serving=new_serving(issuer or authority, wanted, now))


def new_authority(now: datetime) -> KeyPair:
    """A certificate authority of its own."""
    key = ec.generate_private_key(_P256())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"imagestreams webhooks {now:%Y-%m-%d %H:%M:%S}")])
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    signed = (
        _builder(now, AUTHORITY_LIFE, name, name, key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(is_authority=True), critical=True)
        .add_extension(identifier, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
        .sign(key, hashes.SHA256())
    )
    return KeyPair(_pem(signed), _key_pem(key))


def new_serving(authority: KeyPair, names: Sequence[str], now: datetime) -> KeyPair:
    """A server's certificate, signed by the authority.

    Args:
        names: DNS names and addresses.
    """
    issuer = _leaf(authority)
    issuing = _private(authority.key)
    key = ec.generate_private_key(_P256())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "imagestreams webhooks")])
    alternatives = x509.SubjectAlternativeName([_general_name(name) for name in names])
    life = min(SERVING_LIFE, issuer.not_valid_after_utc - now)
    authority_identifier = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(
        issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    )
    signed = (
        _builder(now, life, subject, issuer.subject, key)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(is_authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(alternatives, critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(authority_identifier, critical=False)
        .sign(issuing, hashes.SHA256())
    )
    return KeyPair(_pem(signed), _key_pem(key))


def describe(pair: KeyPair) -> Certificate:
    """What the certificate says.

    Raises:
        InvalidCertificate: it is none, or its key is not there or another's.
    """
    leaf = _leaf(pair)
    try:
        key = load_pem_private_key(pair.key, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InvalidCertificate(f"its private key cannot be read: {type(error).__name__}") from None
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if key.public_key().public_bytes(*form) != leaf.public_key().public_bytes(*form):
        raise InvalidCertificate("its private key belongs to another certificate")
    return _described(leaf)


def problem_of(certificate: Certificate, names: Iterable[str], now: datetime) -> str | None:
    """Why clients that ask for one of the names will refuse it, for people."""
    if now >= certificate.not_after:
        return f"the certificate has expired at {certificate.not_after:%Y-%m-%d %H:%M} UTC"
    if now < certificate.not_before:
        return f"the certificate is not valid before {certificate.not_before:%Y-%m-%d %H:%M} UTC"
    if lacking := certificate.lacks(names):
        return f"the certificate is not made out to {', '.join(lacking[:4])}"
    return None


def authorities(pem: bytes) -> tuple[bytes, ...]:
    """The certificates in a bundle, one PEM each and alike when equal; what is none is left out."""
    return tuple(dict.fromkeys(_pem(each) for each in _certificates(pem)))


def merged_authorities(wanted: bytes, present: bytes, now: datetime) -> bytes:
    """The wanted bundle, and behind it what else is trusted at present and has not expired."""
    known = authorities(wanted)
    others = [_pem(each) for each in _certificates(present) if now < each.not_valid_after_utc]
    return b"".join(list(dict.fromkeys([*known, *others]))[: max(_MAX_AUTHORITIES, len(known))])


def is_trusted_by(chain: bytes, bundle: bytes) -> bool:
    """Is a certificate of the chain in the bundle, or signed by one in it?"""
    roots = _certificates(bundle)
    return any(each == root or _is_issued_by(each, root) for each in _certificates(chain) for root in roots)


def is_same_issuer(one: bytes, other: bytes, bundle: bytes) -> bool:
    """Is there one authority in the bundle that vouches for both chains?"""
    return any(is_trusted_by(one, root) and is_trusted_by(other, root) for root in authorities(bundle))


def _authority(keys: Keys) -> KeyPair | None:
    """The authority whose key we have."""
    known = _certificates(keys.authorities)
    pair = KeyPair(_pem(known[0]) if known else b"", keys.authority_key)
    try:
        describe(pair)
        _private(pair.key)
    except InvalidCertificate:
        return None
    return pair


def _certificates(pem: bytes) -> list[x509.Certificate]:
    found = []
    for block in _CERTIFICATE.findall(pem[:_MAX_PEM]):
        try:
            found.append(x509.load_pem_x509_certificate(block))
        except ValueError:
            continue
    return found


def _leaf(pair: KeyPair) -> x509.Certificate:
    found = _certificates(pair.certificate)
    if not found:
        raise InvalidCertificate("there is no certificate")
    return found[0]


def _private(pem: bytes) -> ec.EllipticCurvePrivateKey:
    key = load_pem_private_key(pem, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise InvalidCertificate("its private key is not one of ours")
    return key


def _described(certificate: x509.Certificate) -> Certificate:
    try:
        said = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names = [*said.get_values_for_type(x509.DNSName), *map(str, said.get_values_for_type(x509.IPAddress))]
    except (x509.ExtensionNotFound, ValueError):
        names = []
    return Certificate(frozenset(names), certificate.not_valid_before_utc, certificate.not_valid_after_utc)


def _is_issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _builder(
    now: datetime, life: timedelta, subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + life)
    )


def _usage(*, is_authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_authority,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(name: str) -> x509.GeneralName:
    return x509.IPAddress(ip_address(name)) if _is_address(name) else x509.DNSName(name)


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _is_older(moment: datetime | None, limit: timedelta, now: datetime) -> bool:
    return moment is None or now - moment >= limit or moment - now > _FUTURE
