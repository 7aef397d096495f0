"""What is written of an image, whatever its publisher put into it; what a stream refers to; what nobody does."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagestreams.core.image import (
    LAYERS_ORDER_ANNOTATION,
    LEFT_OUT_ANNOTATION,
    MAX_BYTES,
    NAMESPACE_LABEL,
    Setback,
    Unreferenced,
    WantedImage,
    after_sweep,
    description_of,
    digests_of,
    encode_for_creation,
    image_object,
    images_of,
    object_name,
    places_of,
    put_off_until,
    setback_after,
)
from imagestreams.core.keychain import Credential, Entry
from imagestreams.core.manifest import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, InvalidManifest, digest_of
from imagestreams.core.policy import Place, Refused, Transport
from imagestreams.core.reference import ImageReference
from imagestreams.core.stream import decode

CONFIG_TYPE = "application/vnd.docker.container.image.v1+json"
LAYER_TYPE = "application/vnd.docker.image.rootfs.diff.tar.gzip"
WEB = ImageReference.parse("quay.io/acme/web:stable")


def digest(number: int) -> str:
    return f"sha256:{number:064x}"


def encoded(value: object) -> bytes:
    return value if isinstance(value, bytes) else json.dumps(value).encode()


def manifest(*layers, config=b"{}", media_type=DOCKER_MANIFEST):
    """Layers are (number, size) or (number, size, media type)."""
    return encoded(
        {
            "schemaVersion": 2,
            "mediaType": media_type,
            "config": {"mediaType": CONFIG_TYPE, "digest": digest_of(config), "size": len(config)},
            "layers": [
                {"mediaType": (*more, LAYER_TYPE)[0], "digest": digest(number), "size": size}
                for number, size, *more in layers
            ],
        }
    )


def described(config, *layers, reference=WEB):
    """The object of an image with this config, and its bytes."""
    config = encoded(config)
    body = manifest(*layers, config=config)
    made = image_object(reference, digest_of(body), body, DOCKER_MANIFEST, config)
    assert len(made) <= MAX_BYTES
    return json.loads(made)


def left_out(made) -> dict[str, str]:
    text = made["metadata"].get("annotations", {}).get(LEFT_OUT_ANNOTATION, "")
    return dict(each.split(": ") for each in text.split(", ") if each)


CONFIG = {
    "id": "never copied: Id is the config's digest",
    "parent": digest(9),
    "comment": "buildkit",
    "created": "2026-01-02T03:04:05.678901234+02:00",
    "container": "c0ffee",
    "container_config": {"Cmd": ["/bin/sh", "-c", "#(nop)"], "Image": ""},
    "docker_version": "27.0",
    "author": "Acme",
    "architecture": "arm64",
    "variant": "v8",
    "os": "linux",
    "config": {
        "Hostname": "",
        "User": "65532:65532",
        "Env": ["PATH=/bin", "A=b"],
        "Cmd": ["serve"],
        "Entrypoint": None,
        "ExposedPorts": {"8080/tcp": {}, "9090/tcp": None},
        "Volumes": {"/data": {}},
        "WorkingDir": "/app",
        "Labels": {"org.opencontainers.image.version": "1.2"},
        "Memory": 0,
        "CpuShares": 512,
        "Tty": True,
        "OpenStdin": False,
        "StopSignal": "SIGQUIT",
    },
    "rootfs": {"type": "layers", "diff_ids": [digest(1)]},
    "history": [{"created_by": "a secret in a build argument"}],
}


class TestTheObject:
    def test_of_an_image(self):
        config = encoded(CONFIG)
        body = manifest((1, 100), (2, 20), config=config)
        own = digest_of(body)
        assert json.loads(image_object(WEB, own, body, DOCKER_MANIFEST, config)) == {
            "metadata": {
                "name": own.replace(":", "-"),
                "annotations": {LAYERS_ORDER_ANNOTATION: "ascending"},
            },
            "digest": own,
            "dockerImageReference": f"quay.io/acme/web@{own}",
            "dockerImageMetadata": {
                "kind": "DockerImage",
                "apiVersion": "image.openshift.io/1.0",
                "Id": digest_of(config),
                "Size": len(config) + 120,
                "Parent": digest(9),
                "Comment": "buildkit",
                "Created": "2026-01-02T01:04:05Z",
                "Container": "c0ffee",
                "DockerVersion": "27.0",
                "Author": "Acme",
                "Architecture": "arm64",
                "Config": {
                    "User": "65532:65532",
                    "CpuShares": 512,
                    "ExposedPorts": {"8080/tcp": {}, "9090/tcp": {}},
                    "Tty": True,
                    "Env": ["PATH=/bin", "A=b"],
                    "Cmd": ["serve"],
                    "Volumes": {"/data": {}},
                    "WorkingDir": "/app",
                    "Labels": {"org.opencontainers.image.version": "1.2"},
                },
                "ContainerConfig": {"Cmd": ["/bin/sh", "-c", "#(nop)"]},
            },
            "dockerImageMetadataVersion": "1.0",
            "dockerImageManifestMediaType": DOCKER_MANIFEST,
            "dockerImageLayers": [
                {"name": digest(1), "size": 100, "mediaType": LAYER_TYPE},
                {"name": digest(2), "size": 20, "mediaType": LAYER_TYPE},
            ],
        }

    def test_of_a_list(self):
        def child(number, platform, media_type=OCI_MANIFEST, **extra):
            extra |= {"platform": platform} if platform else {}
            return {"mediaType": media_type, "digest": digest(number), "size": 10 * number, **extra}

        body = encoded(
            {
                "schemaVersion": 2,
                "mediaType": OCI_INDEX,
                "manifests": [
                    child(3, {"os": "linux", "architecture": "arm", "variant": "v7"}),
                    child(1, {"os": "linux", "architecture": "amd64"}),
                    child(4, {"os": "unknown", "architecture": "unknown"}),
                    child(2, None, OCI_INDEX),
                    child(5, None, "application/spdx+json"),
                    child(6, None, artifactType="application/vnd.dev.cosign.artifact.sig.v1+json"),
                    child(7, None, artifactType=CONFIG_TYPE),
                ],
            }
        )
        own = digest_of(body)
        made = json.loads(image_object(WEB, own, body, OCI_INDEX, None))
        assert made == {
            "metadata": {"name": object_name(own)},
            "digest": own,
            "dockerImageReference": f"quay.io/acme/web@{own}",
            "dockerImageMetadata": {"kind": "DockerImage", "apiVersion": "image.openshift.io/1.0", "Id": own},
            "dockerImageMetadataVersion": "1.0",
            "dockerImageManifestMediaType": OCI_INDEX,
            "dockerImageManifests": [
                {
                    "digest": digest(3),
                    "mediaType": OCI_MANIFEST,
                    "manifestSize": 30,
                    "architecture": "arm",
                    "os": "linux",
                    "variant": "v7",
                },
                {
                    "digest": digest(1),
                    "mediaType": OCI_MANIFEST,
                    "manifestSize": 10,
                    "architecture": "amd64",
                    "os": "linux",
                },
                {"digest": digest(2), "mediaType": OCI_INDEX, "manifestSize": 20, "architecture": "", "os": ""},
                # Some tools repeat the type of an image's config as its artifactType.
                {"digest": digest(7), "mediaType": OCI_MANIFEST, "manifestSize": 70, "architecture": "", "os": ""},
            ],
        }

    def test_a_layer_that_is_there_twice_is_listed_twice_and_counted_once(self):
        made = described(b"{}", (1, 100), (2, 20), (1, 100))
        assert [layer["size"] for layer in made["dockerImageLayers"]] == [100, 20, 100]
        assert made["dockerImageMetadata"]["Size"] == 2 + 120

    def test_neither_manifest_nor_config_is_stored_as_text(self):
        assert not {"dockerImageManifest", "dockerImageConfig"} & described(CONFIG, (1, 1)).keys()

    def test_an_image_without_its_config_says_so(self):
        body = manifest((1, 100))
        made = json.loads(image_object(WEB, digest_of(body), body, DOCKER_MANIFEST, None))
        assert made["dockerImageMetadata"]["Size"] == 100
        assert left_out(made) == {"Config": "not read"}

    def test_the_name_of_a_longer_digest(self):
        assert object_name("sha512:" + "ab" * 64) == "sha512-" + "ab" * 64

    def test_what_is_no_manifest_is_refused(self):
        with pytest.raises(InvalidManifest):
            image_object(WEB, digest(1), b"[]", DOCKER_MANIFEST, None)


class TestHostileConfigs:
    @pytest.mark.parametrize(
        "config",
        [
            b"",
            b"[]",
            b"null",
            b'"text"',
            b"\xff\xfe",
            b'{"config":',
            pytest.param(b'{"author":"\\ud800","architecture":"amd64"}', id="half a character"),
            pytest.param(b'{"a":' * 100_000, id="deep"),
            pytest.param(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", id="deep and sound"),
        ],
    )
    def test_what_cannot_be_read_is_left_out_whole(self, config):
        made = described(config, (1, 5))
        assert left_out(made) == {"Config": "malformed"}
        assert made["dockerImageMetadata"]["Size"] == len(config) + 5
        assert len(made["dockerImageLayers"]) == 1

    @pytest.mark.parametrize(
        ("config", "path"),
        [
            ({"author": 1}, "Author"),
            ({"architecture": ["amd64"]}, "Architecture"),
            ({"created": "yesterday"}, "Created"),
            ({"created": 5}, "Created"),
            ({"created": "0001-01-01T00:00:00+23:00"}, "Created"),
            ({"config": []}, "Config"),
            ({"config": {"Env": "A=b"}}, "Config.Env"),
            ({"config": {"Env": ["A=b", 3]}}, "Config.Env"),
            ({"config": {"Labels": {"a": 1}}}, "Config.Labels"),
            ({"config": {"Labels": ["a"]}}, "Config.Labels"),
            ({"config": {"ExposedPorts": ["80"]}}, "Config.ExposedPorts"),
            ({"config": {"ExposedPorts": {"80": 1}}}, "Config.ExposedPorts"),
            ({"config": {"Memory": 1 << 63}}, "Config.Memory"),
            ({"config": {"Memory": 1.5}}, "Config.Memory"),
            (b'{"config":{"Memory":1e999}}', "Config.Memory"),
            ({"config": {"Tty": "yes"}}, "Config.Tty"),
            (b'{"config":{"User":"\xff"}}', "Config.User"),
            ({"container_config": {"Cmd": {}}}, "ContainerConfig.Cmd"),
        ],
    )
    def test_a_field_of_another_type_is_left_out_alone(self, config, path):
        if isinstance(config, dict):
            config = config | {"docker_version": "27.0"}
            found = described(config)["dockerImageMetadata"]
            assert found["DockerVersion"] == "27.0"
        assert left_out(described(config)) == {path: "malformed"}

    def test_null_is_absent(self):
        config = {"author": None, "created": None, "config": None, "container_config": {"Env": None, "Labels": None}}
        made = described(config)
        assert left_out(made) == {}
        assert set(made["dockerImageMetadata"]) == {"kind", "apiVersion", "Id", "Size"}

    def test_control_characters_stay_what_they_are(self):
        env = ["A=\x00\x1b[31m\u2028\n", "B=\U0001f600"]
        assert described({"config": {"Env": env}})["dockerImageMetadata"]["Config"]["Env"] == env

    def test_what_calls_itself_something_else_does_not_change_the_object(self):
        made = described(
            {"kind": "Secret", "apiVersion": "v1", "metadata": {"name": "x"}, "Id": "x", "config": {"a": 1}}
        )
        assert (made["dockerImageMetadata"]["kind"], left_out(made)) == ("DockerImage", {})
        assert set(made["metadata"]) == {"name"}

    def test_sizes_beyond_what_kubernetes_can_count_are_not_added_up(self):
        most = (1 << 63) - 1
        made = described(b"{}", (1, most), (2, 1))
        assert left_out(made) == {"Size": "malformed"}
        assert "Size" not in made["dockerImageMetadata"]
        assert [layer["size"] for layer in made["dockerImageLayers"]] == [most, 1]


class TestTheLimit:
    """The least useful goes first, and what is gone is named."""

    BIG = 150_000

    @pytest.mark.parametrize(
        ("config", "expected", "kept"),
        [
            pytest.param(
                {"container_config": {"Env": ["x" * BIG]}, "config": {"Labels": {"a": "x" * BIG}}},
                ["ContainerConfig"],
                ["Labels"],
                id="what a build left behind",
            ),
            pytest.param(
                {"config": {"Labels": {"a": "x" * BIG}, "Env": ["x" * BIG], "User": "me"}},
                ["Config.Labels"],
                ["Env", "User"],
                id="labels",
            ),
            pytest.param(
                {"config": {"OnBuild": ["x" * BIG], "Env": ["x" * BIG]}}, ["Config.OnBuild"], ["Env"], id="triggers"
            ),
            pytest.param(
                {"config": {"Cmd": ["x" * BIG], "Env": ["x" * BIG]}}, ["Config.Env"], ["Cmd"], id="environment"
            ),
            pytest.param(
                {"config": {"Cmd": ["x" * BIG], "Entrypoint": ["x" * BIG], "Tty": 1}}, ["Config"], [], id="all of it"
            ),
        ],
    )
    def test_what_goes_first(self, config, expected, kept):
        made = described(config, (1, 1))
        assert left_out(made) == dict.fromkeys(expected, "too large")
        assert set(made["dockerImageMetadata"].get("Config", {})) == set(kept)
        assert "dockerImageLayers" in made

    def test_a_field_that_is_too_large_by_itself_is_not_even_decoded(self):
        made = described({"config": {"Labels": {"a": "x" * MAX_BYTES}, "User": "me"}, "author": "x" * 5000})
        assert left_out(made) == {"Author": "too large", "Config.Labels": "too large"}
        assert made["dockerImageMetadata"]["Config"] == {"User": "me"}

    def test_layers_go_last(self):
        long = "application/" + "x" * 127
        layers = [(number, 1, f"{'y' * 127}/{'x' * 127}") for number in range(1023)]
        made = described({"config": {"User": "me"}, "author": "Acme"}, (0, 1, long), *layers)
        assert left_out(made) == {"Config": "too large", "dockerImageLayers": "too large"}
        assert made["dockerImageMetadata"]["Author"] == "Acme"
        assert LAYERS_ORDER_ANNOTATION not in made["metadata"]["annotations"]

    def test_a_large_honest_image_keeps_all(self):
        layers = [(number, 1000) for number in range(127)]
        config = CONFIG | {"config": {"Labels": {f"label-{n}": "x" * 100 for n in range(200)}, "Env": ["A=b"] * 100}}
        assert left_out(described(config, *layers)) == {}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
TOP = st.sampled_from([*CONFIG, "x"])
INNER = st.sampled_from([*CONFIG["config"], "OnBuild", "x"])
CONFIGS = st.dictionaries(TOP, JSON | st.dictionaries(INNER, JSON, max_size=6), max_size=6)


@given(CONFIGS | JSON, st.lists(st.tuples(st.integers(0, 9), st.integers(0, (1 << 63) - 1)), max_size=5))
def test_whatever_a_config_holds_the_object_is_sound(config, layers):
    made = described(config, *layers)
    metadata = made["dockerImageMetadata"]
    assert metadata["Id"].startswith("sha256:")
    assert 0 <= metadata.get("Size", 0) < 1 << 63
    assert all(isinstance(value, str) for value in made["metadata"].get("annotations", {}).values())
    for name in ("Config", "ContainerConfig"):
        for key, value in metadata.get(name, {}).items():
            assert value, f"{key} is said though it says nothing"


@settings(max_examples=30)
@given(st.binary(max_size=200))
def test_bytes_that_are_no_config_are_survived(config):
    described(config)


class TestCreation:
    BODY = image_object(WEB, digest_of(manifest((1, 1))), manifest((1, 1)), DOCKER_MANIFEST, b"{}")

    def test_it_is_the_object_with_what_belongs_to_one_stream(self):
        recorded = ImageReference.parse(f"mirror.corp.example/acme/web@{digest(5)}")
        made = encode_for_creation(self.BODY, api_version="imagestreams.dev/v1", namespace="team-a", reference=recorded)
        body, made = json.loads(self.BODY), json.loads(made)
        assert (made["apiVersion"], made["kind"]) == ("imagestreams.dev/v1", "Image")
        assert made["metadata"] == body["metadata"] | {"labels": {NAMESPACE_LABEL: "team-a"}}
        assert made["dockerImageReference"] == str(recorded)
        ours = {"apiVersion", "kind", "metadata", "dockerImageReference"}
        assert {key: made[key] for key in made if key not in ours} == {
            key: body[key] for key in body if key not in ours
        }


# --- what a stream refers to ------------------------------------------------------------------------------------------


def item(number, at="2026-01-01T00:00:00Z", repository="quay.io/acme/web"):
    image = digest(number) if isinstance(number, int) else number
    return {"created": at, "dockerImageReference": f"{repository}@{image}", "image": image}


def tag(name, *items, source="quay.io/acme/web:stable", kind="DockerImage", insecure=None):
    observed = {"from": {"kind": kind, "name": source}, "insecure": insecure} if source else None
    return {"tag": name, "items": items, "observed": observed}


def stream(*tags):
    return decode(encoded({"metadata": {"name": "web", "namespace": "team-a"}, "status": {"tags": tags}}))


def numbers(found):
    return [int(each.digest.removeprefix("sha256:"), 16) for each in found]


def test_the_newest_of_each_tag_comes_first_then_what_is_older():
    found = images_of(
        stream(
            tag("a", item(1, "2026-01-05T00:00:00Z"), item(2, "2026-01-04T00:00:00Z"), item(3, "2026-01-01T00:00:00Z")),
            tag("b", item(4, "2026-01-02T00:00:00Z"), item(1, "2026-01-01T00:00:00Z")),
            tag("c", item(5, "2026-01-03T00:00:00Z"), item(6, "2026-01-02T00:00:00Z")),
        )
    )
    assert numbers(found) == [1, 5, 4, 2, 6, 3]


@pytest.mark.parametrize(
    "items",
    [
        pytest.param(
            [{"created": None, "dockerImageReference": "quay.io/acme/web:stable", "image": ""}], id="reference"
        ),
        pytest.param([{"dockerImageReference": "quay.io/acme/web:stable"}], id="no image"),
        pytest.param([item("sha256:short")], id="no digest"),
        pytest.param([item("../../secrets/x")], id="a path"),
        pytest.param([item(1, repository="quay.io/ACME/web")], id="no reference"),
        pytest.param([item(1, repository="localhost")], id="a registry only"),
        pytest.param(None, id="no items"),
    ],
)
def test_what_names_no_image_by_digest_is_passed_over(items):
    assert images_of(stream({"tag": "a", "items": items})) == ()


def test_an_image_is_pinned_by_the_items_own_digest():
    forged = item(1) | {"dockerImageReference": f"quay.io/acme/web@{digest(2)}"}
    (found,) = images_of(stream(tag("a", forged)))
    assert str(found.recorded) == f"quay.io/acme/web@{digest(1)}"


def test_a_stream_without_status_refers_to_nothing():
    empty = decode(b'{"metadata":{"name":"web","namespace":"team-a"}}')
    assert (images_of(empty), list(digests_of(empty))) == ((), [])


def test_references_count_as_they_are_written():
    assert list(digests_of(stream(tag("a", item(1), item("odd")), tag("b", item(1))))) == [digest(1), "odd", digest(1)]


# --- where it is asked for --------------------------------------------------------------------------------------------


def place(name, recorded="", *, credentials=True):
    reference = ImageReference.parse(name)
    host = reference.host
    transport = Transport(host, f"https://{host}", insecure=False, credentials=credentials, ca_file="", listed=False)
    return Place(reference, transport, ImageReference.parse(recorded or name))


class Policy:
    """Answers by repository, and remembers what it was asked."""

    def __init__(self, **answers):
        self.answers = {name.replace("_", "."): answer for name, answer in answers.items()}
        self.asked = []

    def __call__(self, reference, insecure):
        self.asked.append((str(reference), insecure))
        return self.answers.get(reference.host, (place(str(reference)),))


REFUSED = Refused("Blocked", "no")
SOURCE, MIRROR = "quay.io/acme/web", "mirror.example/acme/web"


def wanted(recorded=SOURCE, source=SOURCE, *, insecure=False):
    return WantedImage(
        ImageReference.parse(recorded).pinned(digest(1)), ImageReference.parse(source) if source else None, insecure
    )


@pytest.mark.parametrize(
    ("image", "policy", "asked"),
    [
        pytest.param(wanted(), Policy(), [(SOURCE, False)], id="at its source"),
        pytest.param(wanted(insecure=True), Policy(), [(SOURCE, True)], id="insecure there, as the tag says"),
        pytest.param(wanted(source=None), Policy(), [(SOURCE, False)], id="by its name, where no source is known"),
        pytest.param(
            wanted("old.example/web", insecure=True),
            Policy(),
            [(SOURCE, True), ("old.example/web", False)],
            id="from before the source was edited: not insecure",
        ),
        pytest.param(
            wanted(MIRROR),
            Policy(quay_io=(place(MIRROR, MIRROR), place(SOURCE, SOURCE)), mirror_example=REFUSED),
            [(SOURCE, False)],
            id="recorded under a mirror's name that nobody else may name",
        ),
        pytest.param(wanted(source="quay.io"), Policy(), [(SOURCE, False)], id="a source without a repository"),
    ],
)
def test_where_an_image_is_asked_for(image, policy, asked):
    assert not isinstance(places_of(image, policy), Refused)
    assert policy.asked == [(f"{name}@{digest(1)}", insecure) for name, insecure in asked]


def test_a_refused_source_is_refused_and_not_tried_by_another_way():
    policy = Policy(quay_io=REFUSED)
    assert places_of(wanted(insecure=True), policy) is REFUSED
    assert len(policy.asked) == 1


def test_the_question_goes_from_place_to_place_each_with_its_own_credentials():
    mine, mirrors = Credential("me", "pw", "mine"), Credential("bot", "pw", "mirrors")
    entries = [Entry("quay.io", "acme", mine), Entry("mirror.example", "", mirrors), Entry("plain.example", "", mine)]
    plain = place("plain.example/web", credentials=False)
    question = description_of(digest(1), (place(MIRROR, SOURCE), plain, place(SOURCE)), entries)
    assert str(question.reference) == f"{MIRROR}@{digest(1)}"
    assert question.credentials == (mirrors,)
    assert question.fallback.credentials == (), "none where the transport forbids it"
    assert str(question.fallback.fallback.reference) == f"{SOURCE}@{digest(1)}"
    assert question.fallback.fallback.credentials == (mine,)
    assert question.fallback.fallback.fallback is None


# --- failures ---------------------------------------------------------------------------------------------------------

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def test_retries_come_later_and_later_and_end():
    setback, waits = None, []
    while setback is None or not setback.is_final:
        setback = setback_after(setback, retryable=True, now=NOW)
        waits.append((setback.again - NOW) / timedelta(minutes=1) if setback.again else None)
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60, None]


def test_what_will_not_change_is_not_tried_again():
    assert setback_after(None, retryable=False, now=NOW) == Setback(1, None)


def test_to_be_put_off_is_no_failure_and_ends_none():
    until = NOW + timedelta(hours=6)
    failed = setback_after(None, retryable=True, now=NOW)
    put_off = put_off_until(failed, until)
    assert (put_off.again, put_off.is_put_off, failed.is_put_off) == (until, True, False)
    assert setback_after(put_off, retryable=True, now=NOW) == Setback(2, NOW + timedelta(minutes=2))
    assert put_off_until(None, until).failures == 0


def test_a_setback_holds_until_its_moment():
    setback = Setback(1, NOW)
    assert setback.holds(NOW - timedelta(seconds=1))
    assert not setback.holds(NOW)
    assert Setback(1, None).holds(NOW + timedelta(days=1000))


# --- sweeps -----------------------------------------------------------------------------------------------------------

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)


def sweeps(*steps, grace=HOUR):
    """Sweeps at (minutes, names that nobody refers to[, has streams]); what each may delete."""
    state, deleted = Unreferenced(), []
    for minutes, names, *has in steps:
        state, expired = after_sweep(
            state, set(names), now=NOW + minutes * MINUTE, grace=grace, has_streams=(*has, True)[0]
        )
        deleted.append("".join(expired))
    return deleted


def each(minutes, names, *has, start=0, step=5):
    return [(at, names, *has) for at in range(start, minutes + 1, step)]


@pytest.mark.parametrize(
    ("steps", "deleted"),
    [
        pytest.param(each(60, "a"), "a", id="after the grace time"),
        pytest.param(each(55, "a"), "", id="not before"),
        pytest.param([*each(55, "a"), (60, "")], "", id="referred to at last"),
        pytest.param([*each(30, "a"), (35, ""), *each(90, "a", start=40)], "", id="referred to in between"),
        pytest.param([*each(30, "a"), (35, ""), *each(100, "a", start=40)], "a", id="and then long enough not"),
        pytest.param([(0, "a"), (60, "a")], "", id="nobody looked meanwhile"),
        pytest.param([*each(30, "a"), *each(101, "a", start=41)], "a", id="the grace begins again after such a time"),
        pytest.param([*each(30, "a"), *each(96, "a", start=41)], "", id="and not before"),
        pytest.param([*each(30, "a"), (20, "a"), *each(70, "a", start=25)], "", id="the clock went back"),
        pytest.param(each(115, "a", False), "", id="no streams at all: twice the time"),
        pytest.param(each(120, "a", False), "a", id="and then"),
        pytest.param([*each(30, "c"), *each(60, "abc", start=35)], "c", id="each has its own time"),
    ],
)
def test_what_is_deleted_at_the_last_sweep(steps, deleted):
    found = sweeps(*steps)
    assert found[-1] == deleted
    assert not any(found[:-1]), "nothing before"


def test_without_a_grace_time_two_sweeps_must_agree():
    assert sweeps((0, "a"), (1, "a"), grace=timedelta()) == ["", "a"]


def test_those_that_nobody_wants_for_longest_go_first():
    state = Unreferenced({"a": NOW, "b": NOW - 3 * HOUR, "c": NOW - 2 * HOUR}, NOW - MINUTE)
    assert after_sweep(state, {"a", "b", "c"}, now=NOW, grace=HOUR, has_streams=True)[1] == ("b", "c")


def test_what_a_stream_refers_to_again_begins_anew():
    state = Unreferenced({"a": NOW, "b": NOW}, NOW)
    assert state.without({"a", "x"}).since == {"b": NOW}
    assert state.without({"x"}) is state


def test_a_list_of_dockers_own_kind():
    body = encoded(
        {
            "schemaVersion": 2,
            "mediaType": DOCKER_LIST,
            "manifests": [
                {
                    "mediaType": DOCKER_MANIFEST,
                    "digest": digest(1),
                    "size": 1,
                    "platform": {"os": "linux", "architecture": "s390x"},
                }
            ],
        }
    )
    made = json.loads(image_object(WEB, digest_of(body), body, "", None))
    assert made["dockerImageManifestMediaType"] == DOCKER_LIST
