"""What dev.images makes is well-formed, and the same each time."""

import gzip
import io
import json
import tarfile

import pytest

from dev.images import digest_of, helm_chart, image, index, schema1


@pytest.mark.parametrize("media", ["oci", "docker"])
def test_an_image_hangs_together(media):
    content = image(media=media, architecture="arm", variant="v7", text="moin", config={"Labels": {"a": "b"}})
    manifest, config = json.loads(content.manifest), json.loads(content.config)
    assert manifest["mediaType"] == content.media_type
    assert manifest["config"]["digest"] == digest_of(content.config)
    assert manifest["config"]["size"] == len(content.config)
    assert [layer["digest"] for layer in manifest["layers"]] == [digest_of(blob) for blob in content.blobs]
    assert config["rootfs"]["diff_ids"] == [digest_of(gzip.decompress(blob)) for blob in content.blobs]
    assert (config["os"], config["architecture"], config["variant"]) == ("linux", "arm", "v7")
    assert config["config"]["Labels"] == {"a": "b"}
    with tarfile.open(fileobj=io.BytesIO(content.blobs[0])) as layer:
        assert layer.extractfile("text").read() == b"moin"


def test_the_same_words_make_the_same_digest():
    assert image(text="a").digest == image(text="a").digest != image(text="b").digest
    assert helm_chart().digest == helm_chart().digest


@pytest.mark.parametrize("media", ["oci", "docker"])
def test_an_index_names_its_images_and_their_attestations(media):
    images = [image(media=media), image(media=media, architecture="arm64", variant="v8")]
    plain, attested = index(images, media=media), index(images, media=media, attestations=True)
    entries = json.loads(attested.manifest)["manifests"]
    assert json.loads(plain.manifest)["manifests"] == entries[:2]
    assert [entry["digest"] for entry in entries] == [each.digest for each in attested.images]
    assert entries[1]["platform"] == {"os": "linux", "architecture": "arm64", "variant": "v8"}
    assert [entry["platform"]["os"] for entry in entries[2:]] == ["unknown", "unknown"]
    assert [entry["annotations"]["vnd.docker.reference.digest"] for entry in entries[2:]] == [
        each.digest for each in images
    ]


def test_schema_1_is_json_with_its_version():
    assert json.loads(schema1("library/old", "1"))["schemaVersion"] == 1
