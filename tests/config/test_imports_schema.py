"""What the CRD of import requests promises, and that a real API server takes what clients send and we answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from imagestreams import settings
from imagestreams.core.answering import merged, status_of, work_of
from imagestreams.core.imagestreamimport import MAX_IMAGES, decode_request, edit_of, spec_of
from imagestreams.core.stamp import IMAGE_STREAM_ANNOTATION, canonical
from imagestreams.core.wish import ImportRules
from tests.config.test_schema import fields
from tests.core.imports import API, LEGACY, Case, asked, encoded, found, large_image, request, stored, tag
from tests.core.streams import NOW, digest, resolved
from tests.requests.openshift import REQUESTS, read_answer

if TYPE_CHECKING:
    from dev.control_plane import ControlPlane
    from tests.conftest import Kubectl

FILE = Path(__file__).parents[2] / "crds/imagestreamimports.yaml"
CRD = yaml.safe_load(FILE.read_text())
(VERSION,) = CRD["spec"]["versions"]
SCHEMA = VERSION["schema"]["openAPIV3Schema"]
FIELDS = dict(fields(SCHEMA))

# openshift/api, image/v1/types.go: ImageStreamImport.
OPENSHIFT = {
    "spec": "import repository images",
    "spec.images": "from to importPolicy referencePolicy includeManifest",
    "spec.repository": "from importPolicy referencePolicy includeManifest",
    "status": "import repository images",
    "status.images": "status image tag",
    "status.repository": "status images additionalTags",
}

Object = dict[str, Any]


@pytest.mark.parametrize("path", [f"{path}.{name}" for path, names in OPENSHIFT.items() for name in names.split()])
def test_every_field_of_openshift_is_listed(path):
    assert path in FIELDS


def test_kubectl_explain_has_words_for_every_field():
    assert [path for path, field in FIELDS.items() if not field.get("description")] == []


def test_the_answer_in_the_create_call_is_kept():
    """A status subresource would drop it."""
    assert "subresources" not in VERSION


def test_whatever_clients_send_is_taken():
    for path, field in FIELDS.items():
        assert "enum" not in field, f"{path}: an empty text passes"
        assert "pattern" not in field, path
        assert "minLength" not in field, path
        assert "required" not in field, path
        assert "default" not in field, path
        assert "x-kubernetes-embedded-resource" not in field, f"{path}: sha256:... is no name of an object"
        if field["type"] == "object":
            assert field["nullable"], path
            assert field["x-kubernetes-preserve-unknown-fields"], path
        if field["type"] == "array":
            assert field["nullable"], path
            assert field["x-kubernetes-list-type"] == "atomic", path


def test_managed_fields_do_not_hold_the_answer_twice():
    assert [FIELDS[path].get("x-kubernetes-map-type") for path in ("spec", "status")] == ["atomic", "atomic"]


def test_it_is_no_burden_to_those_who_list_all():
    assert not {"shortNames", "categories"} & CRD["spec"]["names"].keys()


def test_the_group_is_the_one_that_the_settings_have_by_default():
    assert (CRD["spec"]["group"], VERSION["name"]) == (settings.DEFAULT_GROUP, settings.VERSION)
    assert CRD["metadata"]["name"] == f"{CRD['spec']['names']['plural']}.{CRD['spec']['group']}"


def test_the_limit_is_the_programs():
    assert FIELDS["spec.images"]["maxItems"] == MAX_IMAGES


# --- on a real API server ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def imports_api(streams_api: ControlPlane) -> ControlPlane:
    streams_api.kubectl("apply", "--server-side", "-f", str(FILE))
    name = CRD["metadata"]["name"]
    streams_api.kubectl("wait", "--for=condition=Established", "--timeout=30s", f"crd/{name}")
    return streams_api


@pytest.fixture
def path(imports_api: ControlPlane, namespace: str) -> str:
    return f"/apis/{API}/namespaces/{namespace}/imagestreamimports"


class TestOnCluster:
    @pytest.mark.parametrize("name", REQUESTS)
    def test_what_clients_send_is_stored_and_means_the_same(
        self, name: str, path: str, namespace: str, imports_api: ControlPlane
    ) -> None:
        body = json.loads(json.dumps(REQUESTS[name]))
        body["metadata"] |= {"generateName": "web-", "namespace": namespace}
        body["metadata"].pop("name", None)
        body["metadata"].pop("resourceVersion", None)
        made = imports_api.request("POST", path, body)
        back = encoded(imports_api.request("GET", f"{path}/{made['metadata']['name']}"))
        assert canonical(spec_of(back)) == canonical(encoded(body["spec"])), "or no stamp would hold"
        read, before = decode_request(back), decode_request(encoded(body))
        assert (read.images, read.repository, read.is_import) == (before.images, before.repository, before.is_import)
        assert not read.is_answered

    def test_an_answer_comes_back_as_it_was_given(self, path: str, imports_api: ControlPlane) -> None:
        body = request(asked(to="latest", **LEGACY), asked("quay.io/acme/web:2", "two"))
        case = Case(body, stored(tag()))
        status = case.run(found("a", 100, 200, config={"Env": ["A=b"], "ExposedPorts": {"80/tcp": {}}, "Memory": 0}))
        body["metadata"] = {"generateName": "web-", "annotations": {IMAGE_STREAM_ANNOTATION: "web"}}
        made = imports_api.request("POST", path, {**body, "status": status})
        assert made["status"] == status
        assert imports_api.request("GET", f"{path}/{made['metadata']['name']}")["status"] == status
        read_answer(made["status"])
        managed = encoded(made["metadata"]["managedFields"])
        assert len(managed) < 1000, "one entry for all of the status"

    def test_500_images_and_their_answer_find_room(self, path: str, imports_api: ControlPlane) -> None:
        images = [asked(f"quay.io/acme/web:v{n}") for n in range(MAX_IMAGES)]
        case = Case(request(*images))
        big = {digest(letter): large_image(letter, 240_000, 100) for letter in "0123456789abcdef"}
        names = {image["from"]["name"]: resolved(f"{n % 16:x}") for n, image in enumerate(images)}
        status = case.run({**names, **big})
        body = {**request(*images), "metadata": {"generateName": "web-"}, "status": status}
        made = imports_api.request("POST", path, body)
        assert len(made["status"]["images"]) == MAX_IMAGES

    def test_too_many_images_are_refused(self, path: str, kubectl: Kubectl) -> None:
        body = {**request(*[asked()] * (MAX_IMAGES + 1)), "metadata": {"generateName": "web-"}}
        refused = kubectl("create", "--filename=-", input=json.dumps(body), check=False)
        assert f"spec.images: Too many: {MAX_IMAGES + 1}: must have at most {MAX_IMAGES} items" in refused.stderr

    def test_kubectl_get(self, path: str, imports_api: ControlPlane, kubectl: Kubectl) -> None:
        body = request(asked(to="latest"))
        body["metadata"] = {
            "name": "web-x8k2j",
            "annotations": {IMAGE_STREAM_ANNOTATION: "web", "imagestreams.dev/carried-out": "2026-03-01T12:00:00Z"},
        }
        read = decode_request(encoded(request(asked(to="latest"))))
        edit = edit_of(read, None)
        work = work_of(read, None, edit, key=read.key, api_version=API)
        status = status_of(work, merged(work, (), rules=ImportRules(), now=NOW), (), late="late")
        imports_api.request("POST", path, {**body, "status": status})
        header, row = (line.split() for line in kubectl("get", "imagestreamimports").stdout.splitlines())
        assert header == ["NAME", "STREAM", "IMPORT", "IMAGES", "RESULT", "CARRIED-OUT", "AGE"]
        assert row[:-1] == ["web-x8k2j", "web", "true", "0/1", "Failure", "2026-03-01T12:00:00Z"]

    @pytest.mark.parametrize(
        ("field", "words"),
        [
            ("", "An ImageStreamImport asks for images to be imported into an ImageStream"),
            (".spec.images.to", "Which tag of the stream the image is for."),
            (".status.images.status.reason", "in one word for programs"),
        ],
    )
    def test_explain(self, field: str, words: str, imports_api: ControlPlane) -> None:
        text = imports_api.kubectl("explain", f"imagestreamimports{field}").stdout
        assert words in " ".join(text.split())

    def test_strict_validation_takes_what_openshift_has(self, path: str, kubectl: Kubectl) -> None:
        body = {**REQUESTS["nulls"], "metadata": {"generateName": "web-"}}
        kubectl("create", "--validate=strict", "--filename=-", input=json.dumps(body))
