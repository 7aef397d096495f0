"""ImageStreams on a real API server, in both API groups.

What kubectl does with them, what OpenShift's manifests become, what bad input is told.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from imagestreams import settings

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator

    from dev.control_plane import ControlPlane
    from tests.conftest import Kubectl

ROOT = Path(__file__).parents[2]
OPENSHIFT = Path(__file__).parent / "openshift"
CRDS = dict(zip(settings.GROUPS, ["crds", "config/imagestreams.dev/crds"], strict=True))

DIGEST = "sha256:" + "1f" * 32
OLDER = "sha256:" + "2e" * 32

Object = dict[str, Any]


@pytest.fixture(scope="module", params=settings.GROUPS)
def group(request: pytest.FixtureRequest, streams_api: ControlPlane) -> Iterator[str]:
    """One of the API groups, served; image.openshift.io always is."""
    served = request.param
    crd = f"crd/imagestreams.{served}"
    streams_api.kubectl("apply", "--server-side", "-k", str(ROOT / CRDS[served]))
    streams_api.kubectl("wait", "--for=condition=Established", "--timeout=30s", crd)
    yield served
    if served != settings.DEFAULT_GROUP:
        streams_api.kubectl("delete", crd)  # or `is` would stay ambiguous for the tests that follow


@pytest.fixture
def resource(group: str) -> str:
    """What kubectl calls streams, whatever else is served."""
    return f"imagestreams.{group}"


@pytest.fixture
def path(group: str, namespace: str) -> str:
    return f"/apis/{group}/v1/namespaces/{namespace}/imagestreams"


def stream(group: str, *tags: Object, name: str = "web") -> Object:
    return {
        "apiVersion": f"{group}/v1",
        "kind": "ImageStream",
        "metadata": {"name": name},
        "spec": {"tags": list(tags)},
    }


def image(name: str = "stable", source: str = "docker.io/library/nginx:stable", **more: object) -> Object:
    return {"name": name, "from": {"kind": "DockerImage", "name": source}, **more}


def status(*, generation: int = 1, ready: str = "True", reason: str = "Imported") -> Object:
    """A status as the controller writes it."""
    return {
        "observedGeneration": generation,
        "conditions": [
            {
                "type": "Ready",
                "status": ready,
                "reason": reason,
                "message": "all tags with a source are imported: stable",
                "lastTransitionTime": "2026-08-01T10:00:00Z",
                "observedGeneration": generation,
            }
        ],
        "tags": [
            {
                "tag": "stable",
                "items": [
                    {
                        "created": "2026-08-01T10:00:00Z",
                        "dockerImageReference": f"docker.io/library/nginx@{digest}",
                        "image": digest,
                        "generation": generation,
                    }
                    for digest in (DIGEST, OLDER)
                ],
                "conditions": [
                    {
                        "type": "ImportSuccess",
                        "status": "True",
                        "lastTransitionTime": "2026-08-01T10:00:00Z",
                        "generation": generation,
                    }
                ],
                "observed": {
                    "from": {"kind": "DockerImage", "name": "docker.io/library/nginx:stable"},
                    "importMode": "PreserveOriginal",
                    "generation": generation,
                    "digest": DIGEST,
                },
            }
        ],
        "repository": {"name": "quay.io/team/app", "insecure": False, "found": 1200, "leftOut": 200, "limit": 1000},
        "handled": {"refresh": "7f3a"},
        "summary": {"tags": "stable", "scheduled": "1/1", "updated": "2026-08-01T10:00:00Z"},
    }


@pytest.fixture
def write_status(control_plane: ControlPlane, path: str) -> Callable[..., Object]:
    """One merge patch of the status with resourceVersion, as the controller writes it."""

    def write(name: str, value: Object) -> Object:
        version = control_plane.request("GET", f"{path}/{name}")["metadata"]["resourceVersion"]
        body = {"metadata": {"resourceVersion": version}, "status": value}
        patched: Object = control_plane.request(
            "PATCH", f"{path}/{name}/status", body, content_type="application/merge-patch+json"
        )
        return patched

    return write


class TestOpenShiftsManifests:
    """They apply unchanged.

    What the old server added to an export (resourceVersion, uid, managedFields) Kubernetes refuses on some ways, for
    every kind; that is not ours to change.
    """

    FILES = sorted(OPENSHIFT.glob("*.yaml"))

    @pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
    @pytest.mark.parametrize("how", [["apply"], ["create"], ["apply", "--server-side"]], ids=" ".join)
    def test_apply(self, file: Path, how: list[str], group: str, resource: str, kubectl: Kubectl) -> None:
        objects = objects_of(file, group)
        if "create" in how:
            objects = [without(each, "resourceVersion") for each in objects]
        if "--server-side" in how:
            objects = [without(each, "resourceVersion", "uid", "managedFields") for each in objects]
        kubectl(*how, "--validate=strict", "--filename=-", input=yaml.safe_dump_all(objects))
        for each in objects:
            stored = json.loads(kubectl("get", resource, each["metadata"]["name"], "--output=json").stdout)
            assert without_nulls(stored.get("spec", {})) == without_nulls(each.get("spec", {}))
            assert "status" not in stored, "only the status subresource writes status"

    @pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
    def test_apply_again_is_no_change(self, file: Path, group: str, resource: str, kubectl: Kubectl) -> None:
        objects = [without(each, "resourceVersion", "uid", "managedFields") for each in objects_of(file, group)]
        for how in (["apply"], ["apply", "--server-side", "--force-conflicts"]):
            text = yaml.safe_dump_all(objects)
            kubectl(*how, "--filename=-", input=text)
            kubectl(*how, "--filename=-", input=text)
        for each in objects:
            stored = json.loads(kubectl("get", resource, each["metadata"]["name"], "--output=json").stdout)
            assert stored["metadata"]["generation"] <= 2, (
                "nulls that one way of applying drops and the other keeps are the only change"
            )


def objects_of(file: Path, group: str) -> list[Object]:
    """The objects in a file, those of a List one by one, in the API group under test."""
    found: list[Object] = []
    for document in yaml.safe_load_all(file.read_text()):
        found += document["items"] if document["kind"] == "List" else [document]
    return [{**each, "apiVersion": f"{group}/v1"} for each in found]


def without(each: Object, *names: str) -> Object:
    return {**each, "metadata": {name: value for name, value in each["metadata"].items() if name not in names}}


def without_nulls(value: Any) -> Any:
    match value:
        case dict():
            return {key: without_nulls(item) for key, item in value.items() if item is not None}
        case list():
            return [without_nulls(item) for item in value]
        case _:
            return value


# One schema is rendered in two groups, which test_renderings.py shows; what it refuses and takes is asked once.
in_one_group = pytest.mark.parametrize("group", [settings.DEFAULT_GROUP], indirect=True)

TAG = "should match '^[A-Za-z0-9_][A-Za-z0-9_.-]*$'"


@in_one_group
@pytest.mark.parametrize(
    ("tags", "where", "words"),
    [
        pytest.param([image("-edge")], "tags[0].name", TAG, id="a tag that begins with a dash"),
        pytest.param([image("app:1")], "tags[0].name", TAG, id="a tag with a stream's name"),
        pytest.param([image("")], "tags[0].name", TAG, id="an empty tag"),
        pytest.param([image("a\n")], "tags[0].name", TAG, id="a tag with a line break"),
        pytest.param([image("a" * 129)], "tags[0].name", "Too long: may not be more than 128", id="a long tag"),
        pytest.param([{"from": {"kind": "DockerImage", "name": "x"}}], "tags[0].name", "Required value", id="no tag"),
        pytest.param([image("a"), image("a")], "tags[1]", 'Duplicate value: {"name":"a"}', id="a tag twice"),
        pytest.param(
            [{"name": "a", "from": {"kind": "istag", "name": "b"}}],
            "tags[0].from.kind",
            'Invalid value: "istag": must be DockerImage (an image in a registry), ImageStreamTag or ImageStreamImage',
            id="a kind in short",
        ),
        pytest.param(
            [{"name": "a", "from": {"name": "b"}}],
            "tags[0].from.kind",
            "Required value: write DockerImage",
            id="a source without kind",
        ),
        pytest.param(
            [{"name": "a", "from": {"kind": "", "name": "b"}}],
            "tags[0].from.kind",
            "Required value: write DockerImage",
            id="an empty kind",
        ),
        pytest.param(
            [{"name": "a", "from": {"kind": "DockerImage"}}],
            "tags[0].from.name",
            "Required value: name the source",
            id="no source's name",
        ),
        pytest.param(
            [image("a", "")], "tags[0].from.name", "Required value: name the source", id="an empty source's name"
        ),
        pytest.param(
            [{"name": "a", "from": {}}], "tags[0].from.name", "Required value: name the source", id="an empty source"
        ),
        pytest.param(
            [image("a", "https://quay.io/a/b:1")],
            "tags[0].from.name",
            "without a scheme; write registry.",
            id="a scheme",
        ),
        pytest.param(
            [image("a", "quay.io/a/b:1 ")],
            "tags[0].from.name",
            "must not hold spaces or line breaks",
            id="a space at the end",
        ),
        pytest.param(
            [image("a", "quay.io/a/b\n:1")],
            "tags[0].from.name",
            "must not hold spaces or line breaks",
            id="a line break",
        ),
        pytest.param(
            [image("a", "quay.io/acme/Web:1")],
            "tags[0].from.name",
            '"quay.io/acme/Web:1" is no image: a repository is written in lower case, as in quay.io/team/app:1.2',
            id="upper case",
        ),
        pytest.param(
            [image("a", "quay.io/a/b:")],
            "tags[0].from.name",
            '"quay.io/a/b:" is no image: write [HOST[:PORT]/]REPOSITORY[:TAG][@DIGEST], as in quay.io/team/app:1.2',
            id="a tag forgotten",
        ),
        pytest.param([image("a", "quay.io//b")], "tags[0].from.name", "is no image: write", id="two slashes"),
        pytest.param(
            [image("a", "b" * 601)],
            "tags[0].from.name",
            "Too long: may not be more than 600",
            id="a long source's name",
        ),
        pytest.param(
            [{"name": "a", "from": {"kind": "ImageStreamTag", "name": "quay.io/a/b:1"}}],
            "tags[0].from.name",
            '"quay.io/a/b:1" is no ImageStreamTag; write TAG (stable) or STREAM:TAG (app:stable), or, for an image in a'
            " registry, kind DockerImage",
            id="an image as ImageStreamTag",
        ),
        pytest.param(
            [{"name": "a", "from": {"kind": "ImageStreamTag", "name": "a:b:c"}}],
            "tags[0].from.name",
            '"a:b:c" is no ImageStreamTag',
            id="two colons",
        ),
        pytest.param(
            [{"name": "a", "from": {"kind": "ImageStreamImage", "name": "app:1"}}],
            "tags[0].from.name",
            '"app:1" is no ImageStreamImage; write STREAM@DIGEST',
            id="a tag as ImageStreamImage",
        ),
        pytest.param(
            [{"name": "a", "from": {"kind": "ImageStreamTag", "name": "b"}, "importPolicy": {"scheduled": True}}],
            "tags[0].importPolicy.scheduled",
            "only a tag with from.kind DockerImage is looked up on schedule; leave `scheduled` out here",
            id="an alias on schedule",
        ),
        pytest.param(
            [image(importPolicy={"importMode": "All"})],
            "tags[0].importPolicy.importMode",
            'supported values: "", "Legacy", "PreserveOriginal"',
            id="an unknown import mode",
        ),
        pytest.param(
            [image(referencePolicy={"type": "local"})],
            "tags[0].referencePolicy.type",
            'supported values: "", "Source", "Local"',
            id="an unknown reference policy",
        ),
        pytest.param(
            [image(reference="true")], "tags[0].reference", "must be of type boolean", id="a word for a boolean"
        ),
        pytest.param(
            [image(generation="3")], "tags[0].generation", "must be of type integer", id="a word for a number"
        ),
        pytest.param([image(form={})], "tags[0].form", "unknown field", id="a slip of the pen"),
        pytest.param(
            [image(f"v{n}") for n in range(2501)],
            "tags",
            "Too many: 2501: must have at most 2500 items",
            id="too many tags",
        ),
    ],
)
def test_bad_input_is_refused_with_words(
    tags: list[Object], where: str, words: str, group: str, kubectl: Kubectl
) -> None:
    refused = kubectl("create", "--dry-run=server", "--filename=-", input=json.dumps(stream(group, *tags)), check=False)
    assert refused.returncode == 1
    assert f"spec.{where}" in refused.stderr
    assert words in refused.stderr


@in_one_group
@pytest.mark.parametrize(
    ("repository", "words"),
    [
        ("quay.io/team/app:1.2", "must be a repository without tag and digest (quay.io/team/app)"),
        ("app:1", "must be a repository without tag and digest"),
        ("quay.io/team/app@" + DIGEST, "must be a repository without tag and digest"),
        ("quay.io:443/team/app:1", "must be a repository without tag and digest"),
        ("https://quay.io/team/app", "must be a repository without a scheme; write registry.example.com/team/app"),
        ("quay.io/team/app ", "must not hold spaces"),
        ("quay.io/" + "a" * 512, "Too long: may not be more than 512"),
        ("", ""),
        ("app", ""),
        ("localhost/app", ""),
        ("registry.example.com:5000/team/app", ""),
    ],
)
def test_a_repository(repository: str, words: str, group: str, kubectl: Kubectl) -> None:
    one = stream(group)
    one["spec"]["dockerImageRepository"] = repository
    done = kubectl("create", "--dry-run=server", "--filename=-", input=json.dumps(one), check=False)
    assert words in done.stderr
    assert done.returncode == (1 if words else 0), done.stderr
    if words:
        assert "spec.dockerImageRepository" in done.stderr
        assert done.stderr.count("spec.dockerImageRepository") == 1, "each slip is named once"


@in_one_group
def test_a_name_that_no_repository_can_have(group: str, resource: str, path: str, kubectl: Kubectl) -> None:
    refused = kubectl("create", "--filename=-", input=json.dumps(stream(group, name="my--app")), check=False)
    assert "metadata.name: Invalid value" in refused.stderr
    assert "must be lower-case letters and digits, with single dots or dashes between them" in refused.stderr
    kubectl("create", "--filename=-", input=json.dumps(stream(group, name="my-app.v2")))
    assert kubectl("get", resource, "my-app.v2", "--output=name").returncode == 0


@in_one_group
@pytest.mark.parametrize(
    "tag",
    [
        pytest.param({"name": "a"}, id="a tag without a source"),
        pytest.param({"name": "a", "importPolicy": {"scheduled": True}}, id="that is scheduled nevertheless"),
        pytest.param(image("A_.-9"), id="every kind of character"),
        pytest.param(image("a" * 128), id="the longest tag"),
        pytest.param(image(source="registry.example.com:5000/a/b:c@" + DIGEST), id="tag and digest"),
        pytest.param(
            image(source="sha256:" + "0" * 64, importPolicy={"scheduled": True}), id="what is hardly an image"
        ),
        pytest.param(image(source="Foo/bar"), id="a host in upper case"),
        pytest.param(image(source="foo@sha256:" + "0A" * 32), id="a digest in upper case"),
        pytest.param(
            {"name": "a", "from": {"kind": "DockerImage", "name": "b", "namespace": "c"}},
            id="a namespace beside an image",
        ),
        pytest.param(
            {"name": "a", "from": {"kind": "ImageStreamTag", "name": "my_app:1.0-rc_1"}},
            id="a stream that only OpenShift can have",
        ),
        pytest.param(
            {"name": "a", "from": {"kind": "ImageStreamTag", "name": "app:1", "namespace": "other"}},
            id="another project's tag",
        ),
        pytest.param(
            {"name": "a", "from": {"kind": "ImageStreamImage", "name": "app@3c335"}}, id="the beginning of a digest"
        ),
        pytest.param({"name": "a", "from": {"kind": "ImageStreamImage", "name": DIGEST}}, id="an image of this stream"),
        pytest.param(image(generation=2**63 - 1), id="any generation"),
        pytest.param(image(generation=-1), id="even a negative one"),
    ],
)
def test_what_openshift_takes_is_taken(tag: Object, group: str, kubectl: Kubectl) -> None:
    kubectl("create", "--dry-run=server", "--filename=-", input=json.dumps(stream(group, tag)))


@in_one_group
def test_every_bad_tag_is_named_at_once(group: str, kubectl: Kubectl) -> None:
    bad = stream(group, {"name": "a", "from": {"kind": "istag", "name": "x"}}, image("b"), image("c", "http://x/y"))
    refused = kubectl("create", "--filename=-", input=json.dumps(bad), check=False)
    assert re.findall(r"spec\.tags\[\d\][.\w]*", refused.stderr) == ["spec.tags[0].from.kind", "spec.tags[2].from.name"]


@in_one_group
@pytest.mark.parametrize(
    ("count", "how"),
    [(600, "apply"), (600, "apply --server-side"), (2500, "create"), (2500, "apply --server-side")],
)
def test_streams_with_many_tags(count: int, how: str, group: str, resource: str, kubectl: Kubectl) -> None:
    tags = [image(f"v{n}", f"registry.example.com/team/app:v{n}") for n in range(count)]
    kubectl(*how.split(), "--filename=-", input=json.dumps(stream(group, *tags)))
    stored = json.loads(kubectl("get", resource, "web", "--output=json").stdout)
    assert len(stored["spec"]["tags"]) == count


def test_a_status_of_many_tags_is_written_at_once(
    group: str, kubectl: Kubectl, write_status: Callable[..., Object]
) -> None:
    kubectl("create", "--filename=-", input=json.dumps(stream(group, *(image(f"v{n}") for n in range(600)))))
    (one,) = status()["tags"]
    written = write_status("web", {**status(), "tags": [{**one, "tag": f"v{n}"} for n in range(600)]})
    assert len(written["status"]["tags"]) == 600
    (ours,) = (entry for entry in written["metadata"]["managedFields"] if entry.get("subresource") == "status")
    assert len(json.dumps(ours)) < 2000, "an atomic list is one entry, however long"


class TestStatus:
    @pytest.fixture(autouse=True)
    def web(self, group: str, kubectl: Kubectl) -> None:
        kubectl("create", "--filename=-", input=json.dumps(stream(group, image(importPolicy={"scheduled": True}))))

    def test_is_stored_as_written(self, write_status: Callable[..., Object]) -> None:
        written = write_status("web", status())
        assert written["status"] == status()
        assert written["metadata"]["generation"] == 1
        assert write_status("web", status())["metadata"]["resourceVersion"] == written["metadata"]["resourceVersion"]

    def test_a_merge_patch_leaves_what_it_does_not_name(self, write_status: Callable[..., Object]) -> None:
        write_status("web", {"publicDockerImageRepository": "registry.example.com/shop/web"})
        assert write_status("web", {"handled": {"forget": "1 old"}})["status"] == {
            "publicDockerImageRepository": "registry.example.com/shop/web",
            "handled": {"forget": "1 old"},
        }

    def test_is_not_written_with_the_spec(self, group: str, resource: str, kubectl: Kubectl) -> None:
        forged = {**stream(group, image()), "status": status()}
        kubectl("replace", "--filename=-", input=json.dumps(forged))
        assert "status" not in json.loads(kubectl("get", resource, "web", "--output=json").stdout)

    def test_get(self, resource: str, kubectl: Kubectl, write_status: Callable[..., Object]) -> None:
        write_status("web", {**status(), "dockerImageRepository": "registry.example.com/shop/web"})
        header, row = table(kubectl("get", resource))
        assert header == ["NAME", "REPOSITORY", "TAGS", "SCHEDULED", "UPDATED", "READY"]
        assert row[:4] + row[5:] == ["web", "registry.example.com/shop/web", "stable", "1/1", "True"]
        assert re.fullmatch(r"\d+d|-?\d+y.*", row[4]) or row[4] == "<invalid>", (
            "an age; <invalid> where this machine's clock is behind"
        )

    def test_get_wide(self, resource: str, kubectl: Kubectl, write_status: Callable[..., Object]) -> None:
        write_status("web", status(ready="False", reason="ImportFailed"))
        header, row = table(kubectl("get", resource, "--output=wide"))
        assert header == ["NAME", "REPOSITORY", "TAGS", "SCHEDULED", "UPDATED", "READY", "REASON", "AGE"]
        assert row[-3:-1] == ["False", "ImportFailed"]

    def test_get_before_the_controller_has_come_by(self, resource: str, kubectl: Kubectl) -> None:
        _, row = table(kubectl("get", resource))
        assert row == ["web"]

    def test_describe(self, resource: str, kubectl: Kubectl, write_status: Callable[..., Object]) -> None:
        write_status("web", status())
        text = kubectl("describe", resource, "web").stdout
        for line in (
            "Docker Image Reference: docker.io/library/nginx@" + DIGEST,
            "Reason: Imported",
            "Observed Generation: 1",
            "Scheduled: 1/1",
        ):
            assert line in re.sub(r": +", ": ", text)

    def test_wait(self, resource: str, kubectl: Kubectl, write_status: Callable[..., Object]) -> None:
        once = ("wait", "--for=condition=Ready", "--timeout=0", f"{resource}/web")
        assert kubectl(*once, check=False).returncode == 1
        write_status("web", status(ready="False", reason="ImportFailed"))
        assert kubectl(*once, check=False).returncode == 1
        write_status("web", status())
        assert "condition met" in kubectl(*once).stdout

    def test_wait_does_not_take_the_last_specs_answer(
        self, group: str, resource: str, kubectl: Kubectl, write_status: Callable[..., Object]
    ) -> None:
        once = ("wait", "--for=condition=Ready", "--timeout=0", f"{resource}/web")
        write_status("web", status())
        kubectl(
            "replace", "--filename=-", input=json.dumps(stream(group, image(source="docker.io/library/nginx:1.29")))
        )
        assert kubectl(*once, check=False).returncode == 1
        write_status("web", status(generation=2))
        assert kubectl(*once).returncode == 0

    def test_annotate_asks_without_a_new_generation(self, resource: str, kubectl: Kubectl) -> None:
        kubectl("annotate", resource, "web", "imagestreams.dev/refresh=8c1d stable")
        kubectl("annotate", resource, "web", "--overwrite", "imagestreams.dev/refresh=8c1e")
        metadata = json.loads(kubectl("get", resource, "web", "--output=json").stdout)["metadata"]
        assert (metadata["annotations"]["imagestreams.dev/refresh"], metadata["generation"]) == ("8c1e", 1)

    def test_field_selectors_of_openshift(
        self, resource: str, kubectl: Kubectl, write_status: Callable[..., Object]
    ) -> None:
        write_status("web", {"dockerImageRepository": "registry.example.com/shop/web"})
        for selector, found in {
            "status.dockerImageRepository=registry.example.com/shop/web": 1,
            "status.dockerImageRepository=elsewhere": 0,
            "spec.dockerImageRepository=": 1,
        }.items():
            printed = kubectl("get", resource, f"--field-selector={selector}", "--output=name").stdout
            assert len(printed.splitlines()) == found, selector


def table(printed: subprocess.CompletedProcess[str]) -> list[list[str]]:
    return [line.split() for line in printed.stdout.splitlines()]


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ("", "An ImageStream names tags and says where each comes from: an image in a registry"),
        (".spec.tags.from.kind", "DockerImage: an image in a registry."),
        (".spec.tags.importPolicy", "True looks the tag up again and again"),
        (".spec.tags.importPolicy.importMode", 'ENUM: "" Legacy PreserveOriginal'),
        (".status.tags.items", "The first is what followers of the tag get."),
        (".status.conditions", "Ready is True when"),
        (".status.repository.leftOut", "How many of them were not taken"),
    ],
)
def test_explain(field: str, words: str, group: str, control_plane: ControlPlane) -> None:
    text = control_plane.kubectl("explain", f"imagestreams{field}", f"--api-version={group}/v1").stdout
    assert words in " ".join(text.split())


def test_the_short_name_and_no_category(group: str, control_plane: ControlPlane) -> None:
    (found,) = (
        each
        for each in control_plane.request("GET", f"/apis/{group}/v1")["resources"]
        if each["name"] == "imagestreams"
    )
    assert (found["shortNames"], found["singularName"]) == (["is"], "imagestream")
    assert "categories" not in found, "`kubectl delete all --all` spares streams"
