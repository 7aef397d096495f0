"""What clients written in Go make of what we serve: OpenShift's own types and Kubernetes' own decoder read it.

`dev/gomods/openshift-api` is the reader. It fails on one wrong type, as `oc` does, and prints what `oc` prints of an
image. The rules by which other tests judge an answer (`tests.requests.openshift`) are held against it here.
"""

from __future__ import annotations

import copy
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dev.images import DOCKER_MANIFEST, Image, Index, digest_of, image, index
from imagestreams.core.answering import Questions, merged, status_of, work_of
from imagestreams.core.image import image_object
from imagestreams.core.imagestreamimport import Stored, decode_request, edit_of
from imagestreams.core.lookup import (
    Answer,
    Described,
    Description,
    Failed,
    ImportMode,
    Listed,
    Listing,
    Lookup,
    Outcome,
    Question,
    Resolved,
    Served,
)
from imagestreams.core.reference import ImageReference
from imagestreams.core.wish import ImportRules
from tests.conftest import ROOT
from tests.requests.openshift import REQUESTS, read_answer
from tests.requests.reader import Reader

pytestmark = pytest.mark.cluster  # built with what the control plane is made of

NOW = datetime(2026, 8, 1, 10, tzinfo=UTC)
V1 = "image.openshift.io/v1"
WEB = image(config={"ExposedPorts": {"8080/tcp": {}}, "Labels": {"version": "1"}, "User": "1001", "WorkingDir": "/srv"})
ARM = image(architecture="arm64", text="arm")
BOTH = index([WEB, ARM], attestations=True)
OLD = image(media="docker", text="old", config={"Volumes": {"/data": {}}, "Entrypoint": ["/bin/web"]})
CONTENT: dict[str, Image | Index] = {"stable": BOTH, "1.0": OLD, "2.0": WEB, "latest": WEB, "1.25": OLD}
BY_DIGEST: dict[str, Image | Index] = {each.digest: each for each in (WEB, ARM, BOTH, OLD)}


# --- answers to requests ----------------------------------------------------------------------------------------------


def outcome_of(asks: Question) -> Outcome:
    """What the registries of these tests have."""
    tag = asks.reference.tag or "latest"
    match asks:
        case Listing():
            return Listed(("stable", "1.0", "gone"), 3, is_complete=True)
        case Description():
            content = BY_DIGEST[str(asks.reference.digest)]
            config = content.config if isinstance(content, Image) else None
            reference, media_type = asks.reference, content.media_type
            return Described(image_object(reference, content.digest, content.manifest, media_type, config))
        case Lookup():
            found = BY_DIGEST.get(asks.reference.digest or "") or (None if asks.reference.digest else CONTENT.get(tag))
            if found is None:
                return Failed("NotFound", f'container image "{asks.reference}" not found', retryable=False)
            is_child = asks.mode is ImportMode.LEGACY and isinstance(found, Index)
            return Resolved(Served(found.digest, WEB.digest if is_child else found.digest), asks.reference)


def answered(request: dict[str, Any], stream: dict[str, Any] | None = None, *, is_late: bool = False) -> dict[str, Any]:
    """The request as it is stored once it was answered."""
    asked = decode_request(json.dumps(request).encode())
    stored = Stored.parse(json.dumps(stored_as(stream)).encode()) if stream else None
    edit = edit_of(asked, stored)
    work = work_of(asked, stored, edit, key=asked.key, api_version=V1)
    asking = Questions(work, (), rules=ImportRules(), now=NOW)
    tickets = () if is_late else asking.first()
    while tickets:
        tickets = asking.after(Answer(ticket, outcome_of(ticket.question), NOW) for ticket in tickets)
    state = merged(work, asking.answers, rules=ImportRules(), now=NOW)
    status = status_of(work, state, asking.answers, late="the registry did not answer within 25s")
    metadata = {"name": "web-x2b4z", "namespace": "shop", "creationTimestamp": "2026-08-01T10:00:00Z", "generation": 1}
    return {**request, "metadata": metadata, "status": status}


def stored_as(stream: dict[str, Any]) -> dict[str, Any]:
    ours = {"uid": "u1", "resourceVersion": "100", "generation": 1, "creationTimestamp": "2026-07-01T10:00:00Z"}
    return {
        **stream,
        "apiVersion": V1,
        "kind": "ImageStream",
        "metadata": {"name": "web", "namespace": "shop", **ours},
    }


STREAM = {
    "spec": {
        "lookupPolicy": {"local": False},
        "tags": [
            {
                "name": "latest",
                "annotations": None,
                "from": {"kind": "DockerImage", "name": "quay.io/acme/web:stable"},
                "generation": 1,
                "importPolicy": {"importMode": "Legacy"},
                "referencePolicy": {"type": "Source"},
            }
        ],
    }
}


@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.parametrize("stream", [None, STREAM], ids=["new stream", "known stream"])
@pytest.mark.parametrize("is_late", [False, True], ids=["in time", "late"])
def test_what_clients_ask_they_can_read_the_answer_of(
    go: Reader, name: str, stream: dict[str, Any] | None, *, is_late: bool
):
    found = answered(REQUESTS[name], stream, is_late=is_late)
    read = go(found)
    entries = [*found["status"].get("images", []), found["status"].get("repository")]
    has_failed = any(entry["status"]["status"] == "Failure" for entry in entries if entry)
    assert read.code == int(has_failed), read
    assert ("imported" in read.lines) is not has_failed
    assert not [line for line in read.errors if "metadata" in line or "unmarshal" in line], read
    assert not is_late or has_failed
    if is_late and found["status"].get("images"):
        assert any("did not answer within 25s" in line for line in read.errors), read


def test_an_image_is_printed_as_a_whole(go: Reader):
    read = go(answered(REQUESTS["oc-import-image-first"]))
    assert read.code == 0, read
    [size] = [line for line in read.lines if line.startswith("Image Size: ")]
    assert int(size.split()[2]) > 0
    assert size.endswith("in 1 layers")
    for line in (
        "Image Name: web:stable",  # the tag that was read, as OpenShift has it
        f"Name: {WEB.digest}",
        f"Docker Image: quay.io/acme/web@{WEB.digest}",
        "Image Created: 2024-01-01T00:00:00Z",
        "Arch: amd64",
        "Command: cat /text",
        "Working Dir: /srv",
        "User: 1001",
        "Exposes Ports: 8080/tcp",
        "Docker Label: version=1",
        "Environment: PATH=/usr/bin:/bin",
        "Spec Tag: latest from DockerImage quay.io/acme/web:stable",
        "Condition: latest ImportSuccess=True Imported",
        f"Status Tag: latest is quay.io/acme/web@{WEB.digest} since 2026-08-01T10:00:00Z",
    ):
        assert line in read.lines, read


def test_an_index_is_printed_with_its_images(go: Reader):
    asked = copy.deepcopy(REQUESTS["oc-import-image-first"])
    asked["spec"]["images"][0]["importPolicy"] = {"importMode": "PreserveOriginal"}
    read = go(answered(asked))
    assert read.code == 0, read
    assert f"Name: {BOTH.digest}" in read.lines
    assert [line.split()[1:3] for line in read.lines if line.startswith("Manifest: ")] == [
        ["linux/amd64", WEB.digest],
        ["linux/arm64", ARM.digest],
    ]


def test_of_a_repository_each_tag_is_told_and_its_failures_are_none_of_the_request(go: Reader):
    read = go(answered(REQUESTS["oc-import-image-all-of-a-repository"]))
    assert read.code == 0, read
    assert [line for line in read.lines if line.startswith("Image Name")] == [
        "Image Name: web:stable",
        "Image Name: web:1.0",
    ]
    assert any(line.startswith("error: repository tag gone failed: ") for line in read.errors), read


# --- images -----------------------------------------------------------------------------------------------------------


def described(config: Any) -> dict[str, Any]:
    """The Image object of an image with that configuration."""
    blob = config if isinstance(config, bytes) else json.dumps(config).encode()
    descriptors = {"mediaType": "application/vnd.docker.container.image.v1+json", "digest": digest_of(blob)}
    layer = {"mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip", "digest": digest_of(b""), "size": 7}
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": DOCKER_MANIFEST,
            "config": {**descriptors, "size": len(blob)},
            "layers": [layer],
        }
    ).encode()
    reference = ImageReference.parse("quay.io/acme/web")
    body = image_object(reference, digest_of(manifest), manifest, DOCKER_MANIFEST, blob)
    return {"apiVersion": V1, "kind": "Image", **json.loads(body)}


HOSTILE: dict[str, Any] = {
    "no object": [1],
    "no JSON": b"\x00",
    "nothing": {},
    "empty time": {"created": ""},
    "time of no zone": {"created": "2024-01-01T00:00:00"},
    "time of no sense": {"created": "yesterday"},
    "time before year one": {"created": "-0001-01-01T00:00:00Z"},
    "time after all": {"created": "10000-01-01T00:00:00Z"},
    "leap second": {"created": "2016-12-31T23:59:60Z"},
    "lower case time": {"created": "2024-01-01t00:00:00z"},
    "space in a time": {"created": "2024-01-01 00:00:00Z"},
    "comma in a time": {"created": "2024-01-01T00:00:00,5Z"},
    "zone far away": {"created": "2024-01-01T00:00:00+23:59"},
    "zone too far away": {"created": "2024-01-01T00:00:00+24:00"},
    "many digits of a second": {"created": "2024-01-01T00:00:00.1234567891234Z"},
    "size as text": {"Size": "7", "config": {"Memory": "7"}},
    "size as fraction": {"Size": 7.5, "config": {"Memory": 7.0, "CpuShares": 1e3}},
    "size beyond all": {"Size": 1 << 63, "config": {"Memory": 1 << 70}},
    "command as text": {"config": {"Cmd": "sh -c", "Entrypoint": {}, "Env": [1, None], "OnBuild": [[]]}},
    "ports as list": {"config": {"ExposedPorts": ["80"], "Volumes": {"/a": 1, "/b": "x"}}},
    "ports with null": {"config": {"ExposedPorts": {"80/tcp": None, "81/tcp": {"x": 1}}}},
    "labels of numbers": {"config": {"Labels": {"a": 1, "b": None}}},
    "switches as text": {"config": {"Tty": "true", "OpenStdin": 1, "AttachStdin": None}},
    "configuration as list": {"config": [], "container_config": "none"},
    "other spelling": {"Config": {"env": 7, "ENV": 7, "cMD": "x"}, "architecture": 7, "AUTHOR": []},
    "all null": dict.fromkeys(["created", "config", "architecture", "author", "os", "Size", "container_config"]),
    "half a character": b'{"author": "\\ud800", "config": {"User": "\\udfff\\ud800"}}',
}


@pytest.mark.parametrize("config", HOSTILE.values(), ids=HOSTILE)
def test_whatever_an_image_says_of_itself_can_be_read(go: Reader, config: Any):
    read = go(described(config))
    assert read.code == 0, read
    assert "Image Size" in "".join(read.lines)


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
_INNER = st.sampled_from(
    [
        *(
            "Cmd",
            "Env",
            "Entrypoint",
            "ExposedPorts",
            "Volumes",
            "Labels",
            "User",
            "WorkingDir",
            "Memory",
            "cmd",
            "ENV",
        ),
        *("MemorySwap", "CpuShares", "Cpuset", "Tty", "OpenStdin", "StdinOnce", "OnBuild", "Dns", "Hostname", "Image"),
        *("Domainname", "PortSpecs", "SecurityOpts", "NetworkDisabled", "Healthcheck"),
    ]
)
_TOP = st.sampled_from(
    ["created", "architecture", "author", "comment", "container", "docker_version", "parent", "id", "os", "Size"]
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(_TOP, _VALUES, max_size=5),
    st.dictionaries(_INNER, _VALUES, max_size=8),
    st.dictionaries(_INNER, _VALUES, max_size=4),
)
def test_no_configuration_makes_an_image_unreadable(go: Reader, top: Any, config: Any, container_config: Any):
    read = go(described({**top, "config": config, "container_config": container_config}))
    assert read.code == 0, read


# --- streams ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", sorted((ROOT / "tests" / "config" / "openshift").glob("*.yaml")), ids=lambda path: path.stem
)
def test_streams_as_openshift_has_them_are_read(go: Reader, path: Path):
    """So that this reader's types are those which the manifests were written for."""
    found = [each for each in yaml.load_all(path.read_text(), _Texts) if each]
    streams = [item for each in found for item in each.get("items", [each]) if item["kind"] == "ImageStream"]
    assert streams, "nothing to read"
    read = go({"apiVersion": V1, "kind": "ImageStreamList", "metadata": {}, "items": streams})
    assert read.code == 0, read
    names = [line.rpartition("/")[2] for line in read.lines if line.startswith("Stream: ")]
    assert names == [each["metadata"]["name"] for each in streams]


class _Texts(yaml.SafeLoader):
    """Reads times as the texts that they are in JSON."""


_Texts.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


# --- the rules by which other tests judge -----------------------------------------------------------------------------

GOOD = answered(REQUESTS["oc-import-image-first"], STREAM)
IMAGE = "status.images.0.image"
STATUS = "status.images.0.status"
TAG = "status.import.status.tags.0"


def changed(path: str, value: object) -> dict[str, Any]:
    found = copy.deepcopy(GOOD)
    *way, last = path.split(".")
    inner: Any = found
    for step in way:
        inner = inner[int(step)] if isinstance(inner, list) else inner.setdefault(step, {})
    inner[int(last) if isinstance(inner, list) else last] = value
    return found


WRONG = [
    (f"{IMAGE}.metadata.creationTimestamp", ""),
    (f"{IMAGE}.metadata.creationTimestamp", "yesterday"),
    (f"{IMAGE}.metadata.generation", "1"),
    (f"{IMAGE}.dockerImageLayers.0.size", "7"),
    (f"{IMAGE}.dockerImageLayers.0.size", 7.5),
    (f"{IMAGE}.dockerImageLayers.0.size", 1 << 63),
    (f"{IMAGE}.dockerImageLayers", {}),
    (
        f"{IMAGE}.dockerImageManifests",
        [{**dict.fromkeys(["digest", "mediaType", "architecture", "os"], ""), "manifestSize": ""}],
    ),
    (f"{IMAGE}.signatures", [{"type": "atomic", "content": "no base64!"}]),
    (f"{STATUS}.code", "404"),
    (f"{STATUS}.metadata", []),
    ("status.images", {}),
    ("status.images.0.tag", 1),
    ("status.repository", {"status": {"status": "Success"}, "additionalTags": "a"}),
    ("status.import.metadata.creationTimestamp", ""),
    ("status.import.spec.tags.0.generation", "1"),
    ("status.import.spec.tags.0.importPolicy.scheduled", "true"),
    (f"{TAG}.items.0.created", ""),
    (f"{TAG}.items.0.generation", 1.5),
    (f"{TAG}.conditions.0.lastTransitionTime", ""),
]
UNDESCRIBED = [
    (f"{IMAGE}.dockerImageMetadata.Created", ""),
    (f"{IMAGE}.dockerImageMetadata.Size", "7"),
    (f"{IMAGE}.dockerImageMetadata.Config", {"Env": "A=b"}),
    (f"{IMAGE}.dockerImageMetadata.Config", {"ExposedPorts": ["80/tcp"]}),
    (f"{IMAGE}.dockerImageMetadata.Config", {"Labels": {"a": 1}}),
    (f"{IMAGE}.dockerImageMetadata.Config", {"Memory": 1.5}),
    (f"{IMAGE}.dockerImageMetadata", None),
]
HARMLESS = [
    (f"{IMAGE}.metadata.creationTimestamp", None),
    (f"{IMAGE}.metadata.generation", None),
    (f"{IMAGE}.metadata.unknown", {"a": 1}),
    (f"{IMAGE}.dockerImageLayers", None),
    (f"{IMAGE}.signatures", [{"type": "atomic", "content": "aGVsbG8="}]),
    (f"{IMAGE}.dockerImageMetadata.Created", None),
    (f"{IMAGE}.dockerImageMetadata.Unknown", [1]),
    (f"{IMAGE}.dockerImageMetadata.Config", {"Env": None, "ExposedPorts": {"80/tcp": None}}),
    (f"{STATUS}.code", None),
    ("status.import.spec.tags.0.importPolicy", None),
    ("status.summary", {"images": "1/1"}),
    ("status.import", None),
    ("status.repository", None),
]


def test_the_answer_that_is_changed_here_is_good(go: Reader):
    assert go(GOOD).code == 0
    read_answer(GOOD["status"])


@pytest.mark.parametrize(("path", "value"), WRONG)
def test_one_wrong_type_loses_the_whole_answer(go: Reader, path: str, value: object):
    read = go(changed(path, value))
    assert (read.code, read.lines) == (1, []), read
    with pytest.raises(ValueError, match=r"."):
        read_answer(changed(path, value)["status"])


@pytest.mark.parametrize(("path", "value"), UNDESCRIBED)
def test_wrong_metadata_lose_the_description(go: Reader, path: str, value: object):
    read = go(changed(path, value))
    assert read.code == 0
    assert any(line.startswith("error: tag stable failed: ") for line in read.errors), read
    with pytest.raises(ValueError, match=r"."):
        read_answer(changed(path, value)["status"])


@pytest.mark.parametrize(("path", "value"), HARMLESS)
def test_what_is_unknown_or_null_loses_nothing(go: Reader, path: str, value: object):
    read = go(changed(path, value))
    assert (read.code, read.errors) == (0, []), read
    read_answer(changed(path, value)["status"])
