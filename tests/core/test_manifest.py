"""What a registry serves, read as hostile."""

from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagestreams.core.manifest import (
    ACCEPT,
    DOCKER_LIST,
    DOCKER_MANIFEST,
    MAX_CHILDREN,
    MAX_LAYERS,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    ImageManifest,
    Index,
    InvalidManifest,
    NotAnImage,
    Platform,
    TooMany,
    choose,
    digest_of,
    parse_manifest,
)

OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
SCHEMA_1 = "application/vnd.docker.distribution.manifest.v1+prettyjws"


def digest(number=0):
    return f"sha256:{number:064x}"


def descriptor(media_type, number=0, **more):
    return {"mediaType": media_type, "digest": digest(number), "size": 10, **more}


def image(media_type=OCI_MANIFEST, config=OCI_CONFIG, layers=(OCI_LAYER,), **more):
    body = {"schemaVersion": 2, "config": descriptor(config), "layers": [descriptor(layer) for layer in layers], **more}
    return body | ({"mediaType": media_type} if media_type else {})


def index(*platforms, media_type=OCI_INDEX, **more):
    children = [
        descriptor(OCI_MANIFEST, number, **({"platform": platform} if platform else {}))
        for number, platform in enumerate(platforms)
    ]
    return {"schemaVersion": 2, "manifests": children, **more} | ({"mediaType": media_type} if media_type else {})


def on(os, architecture, variant=None):
    return {"os": os, "architecture": architecture} | ({"variant": variant} if variant else {})


def parse(body, content_type=""):
    return parse_manifest(body if isinstance(body, bytes) else json.dumps(body).encode(), content_type)


AMD64 = on("linux", "amd64")


def test_the_accept_list_is_fixed():
    assert ACCEPT.split(", ") == [DOCKER_MANIFEST, DOCKER_LIST, OCI_MANIFEST, OCI_INDEX]


def test_an_image_is_read():
    assert parse(image(), OCI_MANIFEST) == ImageManifest(
        OCI_MANIFEST, Descriptor(OCI_CONFIG, digest(), 10), (Descriptor(OCI_LAYER, digest(), 10),)
    )


def test_an_index_is_read_in_its_order():
    body = index(AMD64, on("linux", "arm", "v7"), None, on("unknown", "unknown"))
    assert parse(body, OCI_INDEX) == Index(
        OCI_INDEX,
        (
            Descriptor(OCI_MANIFEST, digest(0), 10, Platform("linux", "amd64")),
            Descriptor(OCI_MANIFEST, digest(1), 10, Platform("linux", "arm", "v7")),
            Descriptor(OCI_MANIFEST, digest(2), 10, None),
            Descriptor(OCI_MANIFEST, digest(3), 10, Platform("unknown", "unknown")),
        ),
    )


def test_an_index_may_name_an_index():
    nested = {"schemaVersion": 2, "manifests": [descriptor(OCI_INDEX)]}
    assert parse(nested) == Index(OCI_INDEX, (Descriptor(OCI_INDEX, digest(), 10),))


@pytest.mark.parametrize(
    ("body", "header", "media_type"),
    [
        pytest.param(image(), OCI_MANIFEST, OCI_MANIFEST, id="both say"),
        pytest.param(image(), f"{OCI_MANIFEST}; charset=utf-8", OCI_MANIFEST, id="parameters"),
        pytest.param(image(), f" {OCI_MANIFEST.upper()} ", OCI_MANIFEST, id="case and space"),
        pytest.param(image(), "", OCI_MANIFEST, id="no header"),
        pytest.param(image(), "application/json; charset=utf-8", OCI_MANIFEST, id="only JSON"),
        pytest.param(image(media_type=""), OCI_MANIFEST, OCI_MANIFEST, id="OCI need not say in the body"),
        pytest.param(image(media_type=""), "", OCI_MANIFEST, id="neither says"),
        pytest.param(image(media_type="", config=DOCKER_CONFIG), "", DOCKER_MANIFEST, id="neither, docker's config"),
        pytest.param(image(DOCKER_MANIFEST, DOCKER_CONFIG), DOCKER_MANIFEST, DOCKER_MANIFEST, id="docker"),
        pytest.param(image(OCI_MANIFEST, DOCKER_CONFIG), "", OCI_MANIFEST, id="mixed"),
        pytest.param(image(DOCKER_MANIFEST, "application/octet-stream"), "", DOCKER_MANIFEST, id="Docker 1.10"),
        pytest.param(image(layers=()), "", OCI_MANIFEST, id="from scratch, only labels"),
        pytest.param(image() | {"layers": None}, "", OCI_MANIFEST, id="null layers"),
        pytest.param(image(artifactType=OCI_CONFIG), "", OCI_MANIFEST, id="artifactType repeats the config's"),
        pytest.param(
            image(layers=(OCI_LAYER, "application/spdx+json")), "", OCI_MANIFEST, id="a document among layers"
        ),
        pytest.param(index(AMD64), OCI_INDEX, OCI_INDEX, id="index"),
        pytest.param(index(AMD64, media_type=""), "", OCI_INDEX, id="bare index"),
        pytest.param(index(AMD64, media_type=DOCKER_LIST), "application/json", DOCKER_LIST, id="list"),
        pytest.param(index(AMD64) | {"config": None, "layers": None}, "", OCI_INDEX, id="null is absent"),
        pytest.param(
            image(subject=descriptor(OCI_MANIFEST), annotations={"a": "b"}), "", OCI_MANIFEST, id="more fields"
        ),
    ],
)
def test_what_a_body_is(body, header, media_type):
    assert parse(body, header).media_type == media_type


ARTIFACTS = [
    pytest.param(image(config="application/vnd.cncf.helm.config.v1+json"), "", "a Helm chart", id="helm"),
    pytest.param(
        image(layers=("application/vnd.dev.cosign.simplesigning.v1+json",)), "", "a signature", id="cosign signature"
    ),
    pytest.param(image(layers=("application/vnd.in-toto+json",) * 2), "", "an attestation", id="attestation"),
    pytest.param(image(layers=("text/spdx",)), "", "an artifact", id="SBOM"),
    pytest.param(image(config="application/vnd.oci.empty.v1+json", artifactType="a/b"), "", '"a/b"', id="OCI artifact"),
    pytest.param(image(artifactType="application/vnd.dev.sigstore.bundle"), "", "a signature", id="bundle"),
    pytest.param(image(config="application/vnd.docker.plugin.v1+json"), "", "a Docker plugin", id="plugin"),
    pytest.param(image(config="application/vnd.wasm.config.v0+json"), "", "a WebAssembly", id="wasm"),
    pytest.param(image(config="application/octet-stream"), "", "an artifact", id="OCI does not know Docker's slips"),
    pytest.param(image(config=""), "", "an artifact", id="no config type"),
    pytest.param(image("application/vnd.oci.artifact.manifest.v1+json"), "", "an artifact", id="artifact manifest"),
    pytest.param(index(AMD64, artifactType="application/vnd.x"), "", "application/vnd.x", id="artifact index"),
    pytest.param(
        {"schemaVersion": 2, "manifests": [descriptor(OCI_MANIFEST, artifactType="application/vnd.in-toto+json")]},
        "",
        "an attestation",
        id="referrers",
    ),
    pytest.param({"schemaVersion": 1, "fsLayers": [], "history": []}, "", "docker schema 1 is not", id="schema 1"),
    pytest.param({"schemaVersion": 1}, SCHEMA_1, "push it again with a current client", id="schema 1 by header"),
    pytest.param({"mediaType": SCHEMA_1}, "", "docker schema 1", id="schema 1 by mediaType"),
    pytest.param({"schemaVersion": 2, "fsLayers": []}, "", "docker schema 1", id="schema 1 by its fields"),
]


@pytest.mark.parametrize(("body", "header", "words"), ARTIFACTS)
def test_what_is_no_image_is_named(body, header, words):
    with pytest.raises(NotAnImage) as caught:
        parse(body, header)
    assert words in str(caught.value)


BROKEN = [
    pytest.param(b"", "", "not JSON", id="empty"),
    pytest.param(b"<html>", "", "not JSON", id="HTML"),
    pytest.param(b'{"schemaVersion":2,"mediaType":"\xff"}', "", "not JSON", id="not UTF-8"),
    pytest.param(b"[]", "", "malformed", id="array"),
    pytest.param(b"null", "", "malformed", id="null"),
    pytest.param(b"{}", "", "schemaVersion is not 2", id="empty object"),
    pytest.param(b"<html>", "text/html", '"text/html", which is no manifest', id="login page"),
    pytest.param(image(), "text/plain", "which is no manifest", id="plain text"),
    pytest.param({"schemaVersion": 2}, "", "neither a config nor manifests", id="neither"),
    pytest.param({"schemaVersion": 2, "layers": []}, "", "neither a config nor manifests", id="layers only"),
    pytest.param(image() | {"schemaVersion": 3}, "", "schemaVersion", id="schema 3"),
    pytest.param(image() | {"schemaVersion": "2"}, "", "malformed", id="schema as text"),
    pytest.param(image() | {"manifests": []}, "", "both an index and an image", id="image and index"),
    pytest.param(index(AMD64) | {"layers": []}, "", "both an index and an image", id="index and layers"),
    pytest.param(index(AMD64) | {"config": descriptor(OCI_CONFIG)}, "", "both an index and an image", id="both"),
    pytest.param(image(), DOCKER_MANIFEST, "by its Content-Type but", id="header disagrees"),
    pytest.param(image(), OCI_INDEX, "by its Content-Type but", id="header says index"),
    pytest.param(image(OCI_INDEX), "", "does not have the fields", id="mediaType says index"),
    pytest.param(image(""), OCI_INDEX, "does not have the fields", id="only the header says, and wrong"),
    pytest.param(index(AMD64, media_type=OCI_MANIFEST), "", "does not have the fields", id="mediaType says image"),
    pytest.param(index(), "", "names no image", id="empty index"),
    pytest.param(index(on("unknown", "unknown")), "", "names no image", id="attestations only"),
    pytest.param({"schemaVersion": 2, "manifests": [descriptor("a/b")]}, "", "names no image", id="foreign children"),
    pytest.param(image() | {"config": {"mediaType": OCI_CONFIG}}, "", "malformed", id="no digest"),
    pytest.param(image() | {"config": descriptor(OCI_CONFIG, digest="sha256:x")}, "", "not a digest", id="bad digest"),
    pytest.param(
        image() | {"config": descriptor(OCI_CONFIG, digest=digest().upper())}, "", "not a digest", id="upper digest"
    ),
    pytest.param(image() | {"config": descriptor(OCI_CONFIG, size=-1)}, "", "out of range", id="negative size"),
    pytest.param(image() | {"config": descriptor(OCI_CONFIG, size=1 << 63)}, "", "out of range", id="huge size"),
    pytest.param(image() | {"config": descriptor(OCI_CONFIG, size="1")}, "", "malformed", id="size as text"),
    pytest.param(image(layers=("x",)), "", "not a media type", id="layer's media type"),
    pytest.param(image(layers=("",)), "", "not a media type", id="layer without a media type"),
    pytest.param(index(on("linux", "amd 64")), "", "not a platform's name", id="platform"),
    pytest.param(index(on("linux\u001b[31m", "amd64")), "", "not a platform's name", id="escape sequence"),
    pytest.param(b'{"x":' + b"[" * 200_000, "", "nested too deeply", id="deep"),
    pytest.param(b'{"schemaVersion":' + b"9" * 10_000 + b"}", "", "manifest", id="huge number"),
]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        pytest.param(index(*[AMD64] * (MAX_CHILDREN + 1)), "names 129 manifests; 128 are allowed", id="one child more"),
        pytest.param(index(*[AMD64] * 10_000), "names 10000 manifests; 128 are allowed", id="10,000 children"),
        pytest.param(
            image(layers=[OCI_LAYER] * (MAX_LAYERS + 1)), "has 1025 layers; 1024 are allowed", id="one layer more"
        ),
    ],
)
def test_what_is_without_measure_is_refused_as_that(body, words):
    with pytest.raises(TooMany, match=words):
        parse(body)


@pytest.mark.parametrize("body", [index(*[AMD64] * MAX_CHILDREN), image(layers=[OCI_LAYER] * MAX_LAYERS)])
def test_what_is_large_is_read(body):
    parse(body)


@pytest.mark.parametrize(("body", "header", "words"), BROKEN)
def test_what_is_broken_or_ambiguous_is_refused(body, header, words):
    with pytest.raises(InvalidManifest) as caught:
        parse(body, header)
    assert not isinstance(caught.value, NotAnImage)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "body",
    [
        image(config="application/vnd.\u001b[31m\n" + "x" * 9999),
        image("application/vnd.\u202e" + "y" * 9999),
        image() | {"config": descriptor(OCI_CONFIG, digest="\u0000" * 9999)},
        index(on("linux", "\u0007" * 9999)),
        image(layers=("\u001b/",)),
    ],
)
def test_hostile_text_reaches_messages_bounded_and_escaped(body):
    with pytest.raises(InvalidManifest) as caught:
        parse(body)
    assert str(caught.value).isprintable()
    assert str(caught.value).isascii()
    assert len(str(caught.value)) < 1000


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.sampled_from(["", digest(), OCI_MANIFEST, OCI_INDEX, OCI_CONFIG]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["schemaVersion", "mediaType", "config", "layers", "manifests", "digest", "size", "platform"]
                ),
                inner,
            )
        ),
        max_leaves=12,
    ),
    st.sampled_from(["", OCI_MANIFEST, OCI_INDEX, "application/json"]),
)
def test_any_json_is_a_manifest_or_refused(body, header):
    refusal = None
    try:
        parse(body, header)
    except InvalidManifest as error:
        refusal = error
    assert str(refusal).isprintable()


@given(st.binary(max_size=200))
def test_any_bytes_are_a_manifest_or_refused(body):
    with pytest.raises(InvalidManifest):
        parse_manifest(body, "")


@pytest.mark.parametrize("algorithm", ["sha256", "sha384", "sha512"])
def test_the_digest_is_of_the_bytes(algorithm):
    assert digest_of(b"{}\n", algorithm) == f"{algorithm}:{hashlib.new(algorithm, b'{}' + bytes([10])).hexdigest()}"


def test_only_registries_algorithms_make_digests():
    assert digest_of(b"") == "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    with pytest.raises(ValueError, match="md5"):
        digest_of(b"", "md5")


ARM, ARM64, WINDOWS, UNKNOWN = (
    on("linux", "arm", "v6"),
    on("linux", "arm64"),
    on("windows", "amd64"),
    on("unknown", "unknown"),
)


@pytest.mark.parametrize(
    ("prefer", "children", "chosen"),
    [
        pytest.param("linux/arm64", [AMD64, ARM64], 1, id="preferred"),
        pytest.param("linux/arm64/v8", [AMD64, ARM64], 1, id="v8 is what arm64 means"),
        pytest.param("linux/arm64/v9", [ARM64, AMD64], 1, id="another variant is not it"),
        pytest.param("linux/arm/v7", [AMD64, ARM, on("linux", "arm", "v7")], 2, id="variant"),
        pytest.param("linux/arm", [AMD64, ARM, on("linux", "arm", "v7")], 1, id="any variant, the first"),
        pytest.param("linux/s390x", [ARM64, AMD64], 1, id="not there: linux/amd64"),
        pytest.param("windows/amd64", [AMD64, WINDOWS], 1, id="operating system counts"),
        pytest.param(None, [ARM64, AMD64], 1, id="no preference: linux/amd64"),
        pytest.param(None, [ARM64, WINDOWS], 0, id="else the first"),
        pytest.param("linux/s390x", [UNKNOWN, ARM64, WINDOWS], 1, id="attestations are passed over"),
        pytest.param(None, [None, ARM64], 0, id="no platform given"),
        pytest.param("linux/arm64", [None, ARM64], 1, id="a platform is better than none"),
    ],
)
def test_the_choice_from_an_index(prefer, children, chosen):
    parsed = parse(index(*children))
    assert choose(parsed, Platform.parse(prefer) if prefer else None).digest == digest(chosen)


@pytest.mark.parametrize(
    ("child", "is_one"),
    [
        pytest.param(descriptor(OCI_MANIFEST), True, id="an image"),
        pytest.param(descriptor(OCI_INDEX), True, id="an index"),
        pytest.param(descriptor(OCI_MANIFEST, artifactType=OCI_CONFIG), True, id="artifactType repeats the config's"),
        pytest.param(descriptor(OCI_MANIFEST, platform=on("linux", "unknown")), True, id="half unknown"),
        pytest.param(descriptor(OCI_MANIFEST, platform=UNKNOWN), False, id="an attestation of BuildKit's"),
        pytest.param(descriptor(OCI_MANIFEST, artifactType="application/vnd.in-toto+json"), False, id="an attestation"),
        pytest.param(descriptor(OCI_MANIFEST, artifactType="\x1b[31m"), False, id="who knows what"),
        pytest.param(descriptor("application/vnd.in-toto+json"), False, id="a document"),
        pytest.param(descriptor(SCHEMA_1), False, id="schema 1"),
    ],
)
@pytest.mark.parametrize("is_first", [False, True])
def test_what_may_be_chosen_from_an_index(child, is_one, is_first):
    other = descriptor(OCI_MANIFEST, 7)
    children = [child, other] if is_first else [other, child]
    parsed = parse({"schemaVersion": 2, "manifests": children})
    assert [each.may_be_image for each in parsed.manifests] == ([is_one, True] if is_first else [True, is_one])
    assert choose(parsed, None).digest == digest(0 if is_one and is_first else 7)


@pytest.mark.parametrize("children", [(), (Descriptor(OCI_MANIFEST, digest(), 1, Platform("unknown", "unknown")),)])
def test_nothing_to_choose_from(children):
    with pytest.raises(InvalidManifest, match="names no image"):
        choose(Index(OCI_INDEX, children), None)


@pytest.mark.parametrize("text", ["linux/amd64", "linux/arm/v7"])
def test_platforms_print_what_they_parsed(text):
    assert str(Platform.parse(text)) == text


@pytest.mark.parametrize("text", ["", "linux", "linux/", "/amd64", "linux/arm/v7/x", "linux/am d64", "linux/amd64\n"])
def test_other_platforms_are_refused(text):
    with pytest.raises(ValueError, match="is not a platform"):
        Platform.parse(text)
