"""What a reference may look like, what it means, and what the writer of a wrong one is told."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagestreams.core.reference import ImageReference, InvalidReference, is_digest, is_tag, quoted

HEX = "0123456789abcdef" * 4
SHA256 = f"sha256:{HEX}"
SHA384 = f"sha384:{'a' * 96}"
SHA512 = f"sha512:{'b' * 128}"
UPPER = f"sha256:{HEX.upper()}"


def ref(registry="", namespace="", name="", tag="", digest=""):
    return ImageReference(registry, namespace, name, tag, digest)


PARSED = [
    ("foo", ref(name="foo"), "docker.io/library/foo:latest"),
    ("foo:t", ref(name="foo", tag="t"), "docker.io/library/foo:t"),
    ("foo:5000", ref(name="foo", tag="5000"), "docker.io/library/foo:5000"),
    ("bar/foo/baz:t", ref("", "bar", "foo/baz", "t"), "docker.io/bar/foo/baz:t"),
    ("docker.io/foo", ref("docker.io", "", "foo"), "docker.io/library/foo:latest"),
    ("docker.io/acme/foo", ref("docker.io", "acme", "foo"), "docker.io/acme/foo:latest"),
    ("index.docker.io/foo", ref("index.docker.io", "", "foo"), "index.docker.io/library/foo:latest"),
    ("registry-1.docker.io/foo", ref("registry-1.docker.io", "", "foo"), "registry-1.docker.io/library/foo:latest"),
    ("localhost/bar", ref("localhost", "", "bar"), "localhost/bar:latest"),
    ("localhost:5000/bar", ref("localhost:5000", "", "bar"), "localhost:5000/bar:latest"),
    ("bar:5000/baz", ref("bar:5000", "", "baz"), "bar:5000/baz:latest"),
    ("bar:5000/a/baz:1", ref("bar:5000", "a", "baz", "1"), "bar:5000/a/baz:1"),
    ("quay.io/a/b/c:t", ref("quay.io", "a", "b/c", "t"), "quay.io/a/b/c:t"),
    ("10.0.0.1:80/foo", ref("10.0.0.1:80", "", "foo"), "10.0.0.1:80/foo:latest"),
    ("Reg.Example.COM/foo", ref("Reg.Example.COM", "", "foo"), "Reg.Example.COM/foo:latest"),
    (f"foo@{SHA256}", ref(name="foo", digest=SHA256), f"docker.io/library/foo@{SHA256}"),
    (f"foo@{SHA384}", ref(name="foo", digest=SHA384), f"docker.io/library/foo@{SHA384}"),
    (f"foo@{SHA512}", ref(name="foo", digest=SHA512), f"docker.io/library/foo@{SHA512}"),
    (f"h:5000/n:t@{SHA256}", ref("h:5000", "", "n", "t", SHA256), f"h:5000/n@{SHA256}"),
    (f"sha256:{HEX}", ref(name="sha256", tag=HEX), f"docker.io/library/sha256:{HEX}"),
    ("localhostfoo/bar", ref("", "localhostfoo", "bar"), "docker.io/localhostfoo/bar:latest"),
    ("host_name/foo", ref("", "host_name", "foo"), "docker.io/host_name/foo:latest"),
    ("Foo/bar", ref("", "Foo", "bar"), "docker.io/Foo/bar:latest"),
    (f"foo@{UPPER}", ref(name="foo", digest=UPPER), f"docker.io/library/foo@{UPPER}"),
    ("a--b", ref(name="a--b"), "docker.io/library/a--b:latest"),
    ("a__b", ref(name="a__b"), "docker.io/library/a__b:latest"),
    (f"a/b:{'t' * 128}", ref("", "a", "b", "t" * 128), f"docker.io/a/b:{'t' * 128}"),
    (f"a/{'b' * 253}", ref("", "a", "b" * 253), f"docker.io/a/{'b' * 253}:latest"),
]

REGISTRIES = ["quay.io", "localhost", "localhost:5000", "my.image:1.0", "localhostfoo:1"]

# text, and words that its writer must be told
REFUSED = [
    ("foo/Bar", 'lowercase; write "foo/bar"'),
    ("FOO", 'lowercase; write "foo"'),
    ("Foo/Bar:Tag", 'write "foo/bar:Tag"'),
    ("QUAY.io", 'lowercase; write "quay.io"'),
    ("", "empty"),
    ("a___b", "invalid format"),
    ("a..b", "invalid format"),
    ("-foo", "invalid format"),
    ("foo-", "invalid format"),
    ("foo:", "a tag has 1 to 128"),
    ("foo:.x", "a tag has 1 to 128"),
    ("foo:-x", "a tag has 1 to 128"),
    ("/foo", "invalid format"),
    ("foo/", "invalid format"),
    ("x////y", "invalid format"),
    ("https://quay.io/acme/web", 'without the scheme, as "quay.io/acme/web"'),
    (f"@{SHA256}", "invalid format"),
    (":tag", "invalid format"),
    ("[::1]:5000/x", "IPv6"),
    ("host_name:5000/x", "is no host and port"),
    ("host:port/x", "is no host and port"),
    ("host:0/x", "is no port"),
    ("host:05000/x", "is no port"),
    ("host:65536/x", "is no port"),
    (f"host:{'1' * 200}/x", "is no port"),
    ("foo\n", "line break"),
    ("foo:latest\n", "line break"),
    (" foo", "space"),
    ("fo\u00f6", "not ASCII"),
    ("foo:\u0661", "not ASCII"),  # an Arabic digit is \w and \d to Unicode
    (f"foo:{'t' * 129}", "a tag has 1 to 128"),
    (f"foo@{SHA256}:tag", "before the @"),
    ("foo@latest", "after @ belongs a digest"),
    ("user:secret@quay.io/x", "after @ belongs a digest"),
    (f"foo@md5:{'a' * 32}", 'unsupported digest algorithm "md5"'),
    (f"foo@SHA256:{HEX}", "unsupported digest algorithm"),
    (f"foo@sha256:{'a' * 32}", "wrong digest length: sha256 has 64 hexadecimal digits, here are 32"),
    (f"foo@sha512:{HEX}", "wrong digest length"),
    (f"a/{'b' * 254}", "256 characters, 255 are allowed"),
    ("x" * 5000, "5000 characters"),
]


@pytest.mark.parametrize(("text", "expected", "pulled"), PARSED, ids=[text[:40] for text, _, _ in PARSED])
def test_a_reference_is_split_and_knows_what_is_pulled(text, expected, pulled):
    reference = ImageReference.parse(text)
    assert reference == expected
    assert str(reference) == text
    assert str(reference.defaulted()) == pulled


@pytest.mark.parametrize("text", REGISTRIES)
def test_a_single_component_can_name_a_registry_alone(text):
    reference = ImageReference.parse(text)
    assert reference == ref(registry=text)
    assert str(reference) == text
    assert (reference.path, reference.defaulted()) == ("", reference)
    with pytest.raises(InvalidReference, match="no repository"):
        reference.pinned(SHA256)
    with pytest.raises(InvalidReference, match="no repository"):
        reference.tagged("latest")


def test_a_registry_alone_keeps_a_digest():
    reference = ImageReference.parse(f"my.image:1.0@{SHA256}")
    assert reference == ref("my.image:1.0", digest=SHA256)
    assert ImageReference.parse(str(reference)) == reference


@pytest.mark.parametrize(("text", "told"), REFUSED, ids=[repr(text[:40]) for text, _ in REFUSED])
def test_what_is_refused_is_quoted_and_explained(text, told):
    with pytest.raises(InvalidReference) as caught:
        ImageReference.parse(text)
    message = str(caught.value)
    assert told in message
    assert message.startswith(quoted(text))
    assert len(message) < 1000
    assert message.isprintable()


@pytest.mark.parametrize(
    ("text", "host", "path"),
    [
        ("foo", "docker.io", "library/foo"),
        ("docker.io/foo", "docker.io", "library/foo"),
        ("index.docker.io/foo", "docker.io", "library/foo"),
        ("registry-1.docker.io/library/foo", "docker.io", "library/foo"),
        ("Docker.IO/foo", "docker.io", "library/foo"),
        ("docker.io:443/foo", "docker.io", "library/foo"),
        ("INDEX.docker.io:443/acme/foo", "docker.io", "acme/foo"),
        ("registry-1.docker.io:443/library/foo", "docker.io", "library/foo"),
        ("docker.io:80/foo", "docker.io:80", "foo"),
        ("docker.io:4433/foo", "docker.io:4433", "foo"),
        ("quay.io:443/foo", "quay.io:443", "foo"),
        ("acme/foo/x", "docker.io", "acme/foo/x"),
        ("quay.io/foo", "quay.io", "foo"),
        ("Quay.io/a/b/c", "quay.io", "a/b/c"),
        ("Reg:5000/a/b", "reg:5000", "a/b"),
        ("localhost/a", "localhost", "a"),
    ],
)
def test_all_spellings_of_a_repository_have_one_canonical_form(text, host, path):
    reference = ImageReference.parse(text)
    assert (reference.host, reference.path) == (host, path)
    assert reference.repository == f"{host}/{path}"


def test_pinning_and_tagging_keep_the_users_spelling():
    assert str(ImageReference.parse("test:busybox").pinned(SHA256)) == f"test@{SHA256}"
    assert str(ImageReference.parse(f"quay.io/acme/web@{SHA256}").tagged("v1")) == "quay.io/acme/web:v1"


@pytest.mark.parametrize("digest", ["", "sha256:", UPPER, "md5:abc", SHA256 + "0", SHA256 + "\n"])
def test_only_a_digest_pins(digest):
    assert not is_digest(digest)
    with pytest.raises(InvalidReference, match="is not a digest"):
        ImageReference.parse("foo").pinned(digest)


@pytest.mark.parametrize("tag", ["", ".x", "a b", "a\n", "t" * 129, "\u0661"])
def test_only_a_tag_tags(tag):
    assert not is_tag(tag)
    with pytest.raises(InvalidReference, match="is not a tag"):
        ImageReference.parse("foo").tagged(tag)


def test_equal_images_have_equal_defaulted_forms():
    spellings = ["foo", "foo:latest", "docker.io/foo", "library/foo", "docker.io/library/foo:latest"]
    assert len({ImageReference.parse(text).defaulted() for text in spellings}) == 1
    assert ImageReference.parse(f"foo:x@{SHA256}").defaulted() == ImageReference.parse(f"foo@{SHA256}").defaulted()


def test_hostile_texts_are_refused_at_once():
    # Any of these would run for hours if the grammar could match it in more than one way.
    for text in ("a" * 600 + "!", "a-" * 300 + "!", "a.a_" * 150 + "!", "a/" * 300 + "!", "A-a." * 150 + ":/"):
        with pytest.raises(InvalidReference):
            ImageReference.parse(text)


LOWER, WORD = string.ascii_lowercase + string.digits, string.ascii_letters + string.digits
run = st.text(LOWER, min_size=1, max_size=5)
component = st.builds(
    lambda first, rest: first + "".join(sep + more for sep, more in rest),
    run,
    st.lists(st.tuples(st.sampled_from([".", "_", "__", "-", "---"]), run), max_size=2),
)
label = st.builds("".join, st.lists(st.text(WORD, min_size=1, max_size=4), min_size=1, max_size=2))
host = st.builds(
    lambda labels, port: ".".join(labels) + (f":{port}" if port else ""),
    st.lists(label, min_size=1, max_size=3),
    st.none() | st.integers(1, 65535),
)
tag = st.builds(str.__add__, st.sampled_from(WORD + "_"), st.text(WORD + "_.-", max_size=127))
digest = st.sampled_from([("sha256", 64), ("sha384", 96), ("sha512", 128)]).flatmap(
    lambda algorithm: st.text("0123456789abcdef", min_size=algorithm[1], max_size=algorithm[1]).map(
        lambda value: f"{algorithm[0]}:{value}"
    )
)
written = st.builds(
    lambda host, path, tag, digest: (
        (f"{host}/" if host else "") + "/".join(path) + (f":{tag}" if tag else "") + (f"@{digest}" if digest else "")
    ),
    st.none() | host,
    st.lists(component, min_size=1, max_size=4),
    st.none() | tag,
    st.none() | digest,
)


@given(written)
def test_printing_is_the_inverse_of_parsing(text):
    reference = ImageReference.parse(text)
    assert str(reference) == text
    assert ImageReference.parse(str(reference)) == reference
    if not reference.name:
        return
    derived = [reference.pinned(SHA256), reference.tagged("x")]
    if reference.namespace == reference.namespace.lower():
        derived.append(reference.defaulted())
        assert reference.defaulted().defaulted() == reference.defaulted()
    for other in derived:
        assert ImageReference.parse(str(other)) == other
        assert other.repository == reference.repository


@given(st.text(max_size=40) | st.text("aB0./:@-_", max_size=40))
def test_any_text_is_parsed_or_refused_with_words(text):
    try:
        shown = str(ImageReference.parse(text))
    except InvalidReference as error:
        shown, text = str(error), str(error) if str(error).isprintable() else "not printable"
    assert shown == text


@given(st.text())
def test_a_quoted_text_is_one_bounded_printable_line(text):
    shown = quoted(text)
    assert shown.isascii()
    assert shown.isprintable()
    assert len(shown) <= 12 * 120 + 5
