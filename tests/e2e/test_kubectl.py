"""What an editor of a namespace does to streams and import requests with kubectl alone, and what comes of it.

What kubectl shows of a status that is written by hand, and which manifests are refused with which words, is in
tests/config; here the controller runs.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from dev.control_plane import ControlPlane
from tests.conftest import ROOT
from tests.e2e.conftest import HOST, World, deployment
from tests.e2e.editor import edit

pytestmark = pytest.mark.usefixtures("controller")

Done = subprocess.CompletedProcess[str]
READY = ("wait", "--for=condition=Ready", "--timeout=20s", "imagestream/web")


class Jane:
    """An editor of the namespace, at her keyboard."""

    def __init__(self, world: World, plane: ControlPlane, directory: Path) -> None:
        self._world, self._plane, self._directory = world, plane, directory
        self.seen = ""
        world.kubectl("create", "rolebinding", "jane", "--clusterrole=edit", "--user=jane")
        # The controller that adds our rules to `edit` may be a moment behind.
        world.until(
            lambda: self("auth", "can-i", "create", "imagestreams.image.openshift.io", check=False).stdout == "yes\n"
        )

    def __call__(self, *args: str, stdin: object = None, check: bool = True) -> Done:
        text = stdin if isinstance(stdin, str) or stdin is None else yaml.safe_dump(stdin)
        return self._world.kubectl("--as=jane", *args, input=text, check=check)

    def edits(self, resource: str, script: str, *flags: str) -> Done:
        """`kubectl edit`, where the editor does to the file what `script` does to the object `found`.

        What it was shown, `self.seen`, has kubectl's words on what is wrong, when it opens the file a second time.
        """
        whose = ("--as=jane", f"--namespace={self._world.namespace}")
        done, self.seen = edit(self._plane, self._directory, script, *whose, resource, *flags)
        return done


@pytest.fixture
def jane(world: World, control_plane: ControlPlane, rights: Path, tmp_path: Path) -> Jane:
    return Jane(world, control_plane, tmp_path)


@pytest.fixture
def digest(world: World) -> str:
    """What web:stable is."""
    return world.push("one")


def tag(world: World, name: str, source: str) -> dict[str, Any]:
    return {"name": name, "from": {"kind": "DockerImage", "name": f"{HOST}/{world.namespace}/{source}"}}


def generation(world: World) -> int:
    return int(world.get("imagestreams")["metadata"]["generation"])


def spec_tags(world: World) -> list[str]:
    return [each["name"] for each in world.get("imagestreams")["spec"]["tags"]]


# --- writing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["apply", "apply --server-side", "create", "replace"])
def test_a_manifest_is_carried_out(world: World, jane: Jane, digest: str, how: str):
    if how == "replace":
        jane("create", "-f", "-", stdin=world.stream(stable="web:older"))
    said = jane(*how.split(), "-f", "-", stdin=world.stream())
    assert said.stdout.startswith("imagestream.image.openshift.io/web "), said.stdout
    assert said.stderr == ""
    jane(*READY)
    assert world.digests() == [digest]


@pytest.mark.parametrize("how", ["apply", "apply --server-side"])
def test_applied_again_beside_the_controllers_status_is_no_change(world: World, jane: Jane, digest: str, how: str):
    """Its fields are the controller's, who conflicts with nobody."""
    jane(*how.split(), "-f", "-", stdin=world.stream())
    jane(*READY)
    before = world.get("imagestreams")
    again = jane(*how.split(), "-f", "-", stdin=world.stream())
    assert again.stderr == ""
    difference = jane(*how.replace("apply", "diff").split(), "-f", "-", stdin=world.stream(), check=False)
    assert (difference.returncode, difference.stdout) == (0, ""), difference
    after = world.get("imagestreams")
    assert after["status"] == before["status"]
    assert after["metadata"]["generation"] == before["metadata"]["generation"]


def test_two_who_apply_server_side_share_a_stream_tag_by_tag(world: World, jane: Jane, digest: str):
    def applied(team: str, **tags: str) -> Done:
        manifest = {**world.stream(**tags), "metadata": {"name": "web"}}
        if not tags:
            manifest["spec"] = {}
        return jane("apply", "--server-side", f"--field-manager={team}", "-f", "-", stdin=manifest, check=False)

    assert applied("web-team", stable="web:stable").returncode == 0
    assert applied("base-team", base="web:stable").returncode == 0
    world.until(lambda: world.digests("stable") == world.digests("base") == [digest])
    assert spec_tags(world) == ["stable", "base"]
    refused = applied("base-team", base="web:stable", stable="web:other")
    assert refused.returncode == 1
    assert 'conflict with "web-team": .spec.tags[name="stable"].from.name' in refused.stderr
    assert applied("web-team").returncode == 0
    assert spec_tags(world) == ["base"], "what nobody applies any more is gone"


def test_an_edit_beside_client_side_apply_goes_and_beside_server_side_apply_stays(
    world: World, jane: Jane, digest: str
):
    """kubectl knows nothing of a custom resource's lists, the API server does."""
    added = f"found['spec']['tags'].append({tag(world, 'mine', 'web:stable')!r})"
    jane("apply", "-f", "-", stdin=world.stream())
    assert jane.edits("imagestream/web", added).returncode == 0
    assert spec_tags(world) == ["stable", "mine"]
    jane("apply", "-f", "-", stdin=world.stream())
    assert spec_tags(world) == ["stable"]
    jane("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=world.stream())
    assert jane.edits("imagestream/web", added).returncode == 0
    jane("apply", "--server-side", "-f", "-", stdin=world.stream())
    assert spec_tags(world) == ["stable", "mine"]


def test_edit(world: World, jane: Jane, digest: str):
    jane("apply", "-f", "-", stdin=world.stream())
    jane(*READY)
    world.push("two", tag="next")
    edited = jane.edits("imagestream/web", f"found['spec']['tags'].append({tag(world, 'next', 'web:next')!r})")
    assert (edited.returncode, edited.stdout) == (0, "imagestream.image.openshift.io/web edited\n"), edited.stderr
    world.until(lambda: world.digests("next"))
    assert world.digests() == [digest]


def test_edit_that_changes_nothing(world: World, jane: Jane, digest: str):
    jane("apply", "-f", "-", stdin=world.stream())
    jane(*READY)
    edited = jane.edits("imagestream/web", "")
    assert (edited.returncode, edited.stdout) == (0, "")
    assert "no changes made" in edited.stderr
    assert generation(world) == 1


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("found['spec']['tags'][0]['from']['kind'] = 'istag'", "spec.tags[0].from.kind: Invalid value"),
        ("found['spec']['tags'][0]['form'] = {}", 'unknown field "spec.tags[0].form"'),
        ("found['metadata']['name'] = 'other'", "At least one of apiVersion, kind and name was changed"),
    ],
)
def test_edit_of_what_is_wrong(world: World, jane: Jane, digest: str, script: str, words: str):
    jane("apply", "-f", "-", stdin=world.stream())
    edited = jane.edits("imagestream/web", script)
    assert edited.returncode == 1
    assert words in edited.stderr + jane.seen
    assert generation(world) == 1


def test_edit_of_the_status_is_refused_to_an_editor(world: World, jane: Jane, digest: str):
    """Whoever writes it decides what followers deploy."""
    jane("apply", "-f", "-", stdin=world.stream())
    jane(*READY)
    forged = "found['status']['tags'][0]['items'][0]['image'] = 'sha256:' + '0' * 64"
    edited = jane.edits("imagestream/web", forged, "--subresource=status")
    assert edited.returncode == 1
    assert 'cannot get resource "imagestreams/status"' in edited.stderr
    jane.edits("imagestream/web", forged)
    assert world.digests() == [digest]


def test_merge_patch(world: World, jane: Jane, digest: str):
    jane("apply", "-f", "-", stdin=world.stream(stable="web:older"))
    patch = {"spec": {"tags": [tag(world, "stable", "web:stable")], "lookupPolicy": {"local": True}}}
    said = jane("patch", "imagestream", "web", "--type=merge", "-p", json.dumps(patch))
    assert said.stdout == "imagestream.image.openshift.io/web patched\n"
    jane(*READY)
    assert world.digests() == [digest]


def test_json_patch(world: World, jane: Jane, digest: str):
    jane("apply", "-f", "-", stdin=world.stream())
    add = [
        {"op": "test", "path": "/spec/tags/0/name", "value": "stable"},
        {"op": "add", "path": "/spec/tags/-", "value": tag(world, "again", "web:stable")},
    ]
    jane("patch", "imagestream", "web", "--type=json", "-p", json.dumps(add))
    world.until(lambda: world.digests("again") == [digest])
    add[0]["value"] = "other"
    refused = jane("patch", "imagestream", "web", "--type=json", "-p", json.dumps(add), check=False)
    assert refused.returncode == 1
    assert spec_tags(world) == ["stable", "again"]


@pytest.mark.parametrize("how", [[], ["--type=strategic"]], ids=["by default", "said"])
def test_a_strategic_patch_is_refused_with_the_way_out(world: World, jane: Jane, digest: str, how: list[str]):
    """No custom resource takes one; kubectl sends it unless it is told otherwise."""
    jane("apply", "-f", "-", stdin=world.stream())
    refused = jane("patch", "imagestream", "web", *how, "-p", '{"spec": {"tags": []}}', check=False)
    assert refused.returncode == 1
    assert "application/merge-patch+json" in refused.stderr
    assert generation(world) == 1


def test_a_slip_is_named_or_only_warned_of(world: World, jane: Jane, digest: str):
    slip = world.stream()
    slip["spec"]["tags"][0]["importPolicy"] = {"sheduled": True}
    refused = jane("apply", "-f", "-", stdin=slip, check=False)
    assert refused.returncode == 1
    assert 'unknown field "spec.tags[0].importPolicy.sheduled"' in refused.stderr
    warned = jane("apply", "--validate=warn", "-f", "-", stdin=slip)
    assert 'Warning: unknown field "spec.tags[0].importPolicy.sheduled"' in warned.stderr
    jane(*READY)
    assert "sheduled" not in json.dumps(world.get("imagestreams")["spec"])


# --- labels and annotations -------------------------------------------------------------------------------------------


def test_a_label_is_no_reason_to_do_anything(world: World, jane: Jane, digest: str):
    jane("apply", "-f", "-", stdin=world.stream())
    jane(*READY)
    status = world.get("imagestreams")["status"]
    assert jane("label", "imagestream", "web", "team=shop").stdout == "imagestream.image.openshift.io/web labeled\n"
    assert jane("get", "imagestreams", "-l", "team=shop", "-o", "name").stdout == "imagestream.image.openshift.io/web\n"
    jane("annotate", "imagestream", "web", "example.com/note=ours")
    # Events of one watch come in order: when what came after it is carried out, this was seen.
    jane("apply", "-f", "-", stdin=world.stream(name="later"))
    jane(*READY[:-1], "imagestream/later")
    found = world.get("imagestreams")
    assert found["status"] == status
    assert found["metadata"]["generation"] == 1
    jane("label", "imagestream", "web", "team-")
    assert jane("get", "imagestreams", "-l", "team=shop", "-o", "name").stdout == ""


def test_an_annotation_asks_now_and_the_answer_can_be_waited_for(world: World, jane: Jane, digest: str):
    jane("apply", "-f", "-", stdin=world.stream())
    jane(*READY)
    moved = world.push("two")
    jane("annotate", "imagestream", "web", "imagestreams.dev/refresh=mine stable")
    path = "--for=jsonpath={.status.handled.refresh}=mine stable"
    jane("wait", path, "imagestream/web", "--timeout=20s")
    assert world.digests() == [moved, digest]


# --- reading ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def imported(world: World, jane: Jane, digest: str) -> str:
    """A stream with a tag that has an image, and one that has none."""
    jane("apply", "-f", "-", stdin=world.stream(stable="web:stable", gone="web:gone"))
    world.until(lambda: world.digests() == [digest])
    jane("wait", "--for=condition=Ready=false", "--timeout=20s", "imagestream/web")
    return digest


def test_get(jane: Jane, imported: str):
    header, row = jane("get", "is", "web", "-o", "wide").stdout.splitlines()
    assert header.split() == ["NAME", "REPOSITORY", "TAGS", "SCHEDULED", "UPDATED", "READY", "REASON", "AGE"]
    start = {name: header.index(name) for name in header.split()}
    cells = {name: row[at:].partition("   ")[0] for name, at in start.items()}
    assert cells["TAGS"] == "gone, stable"
    assert (cells["SCHEDULED"], cells["READY"], cells["REASON"]) == ("0/2", "False", "ImportFailed")


def test_get_as_yaml_is_a_manifest_that_changes_nothing(world: World, jane: Jane, imported: str):
    before = world.get("imagestreams")
    text = jane("get", "imagestream", "web", "-o", "yaml").stdout
    jane("replace", "-f", "-", stdin=text)
    written = without_server_fields(text)
    assert jane("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=written).stderr == ""
    after = world.get("imagestreams")
    assert (after["spec"], after["status"]) == (before["spec"], before["status"])
    assert after["metadata"]["generation"] == 1


def without_server_fields(text: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.load(text, yaml.BaseLoader)
    metadata = {name: value for name, value in found["metadata"].items() if name in {"name", "annotations", "labels"}}
    spec = json.loads(json.dumps(found["spec"]).replace('"false"', "false").replace('"true"', "true"))
    return {"apiVersion": found["apiVersion"], "kind": found["kind"], "metadata": metadata, "spec": spec}


@pytest.mark.parametrize(
    ("form", "printed"),
    [
        ("name", "imagestream.image.openshift.io/web\n"),
        ('jsonpath={.status.tags[?(@.tag=="stable")].items[0].image}', "{digest}"),
        ('jsonpath={.status.tags[?(@.tag=="gone")].conditions[0].reason}', "NotFound"),
        ("jsonpath={.spec.tags[*].name}", "stable gone"),
        ("go-template={{range .status.conditions}}{{.type}}={{.status}}{{end}}", "Ready=False"),
        ("custom-columns=TAGS:.status.summary.tags", "TAGS\ngone, stable\n"),
    ],
)
def test_get_as_programs_want_it(jane: Jane, imported: str, form: str, printed: str):
    assert jane("get", "imagestream", "web", "-o", form).stdout == printed.format(digest=imported)


def test_describe_has_the_digest_the_reason_and_the_events(world: World, jane: Jane, imported: str):
    world.until(lambda: world.events("ImportFailed") and world.events("TagImported"))
    text = jane("describe", "imagestream", "web").stdout
    for words in (
        f"{HOST}/{world.namespace}/web@{imported}",
        f'container image "{HOST}/{world.namespace}/web:gone" not found',
        "not imported: gone",
        "Warning  ImportFailed",
        "Normal   TagImported",
    ):
        assert words in text, text
    events = jane("events", "--for=imagestream/web").stdout
    assert "ImportFailed" in events
    assert "TagImported" in events


def test_wait_for_a_digest(world: World, jane: Jane, digest: str):
    jane("apply", "-f", "-", stdin=world.stream())
    jane("wait", f"--for=jsonpath={{.status.tags[0].items[0].image}}={digest}", "imagestream/web", "--timeout=20s")


# --- deleting ---------------------------------------------------------------------------------------------------------


def test_a_deleted_stream_leaves_its_followers_alone_and_a_new_one_begins_anew(world: World, jane: Jane, digest: str):
    jane("apply", "-f", "-", stdin=yaml.safe_dump_all([world.stream(), deployment()]))
    world.until(lambda: world.images()["web"] == world.pull_spec(digest))
    assert jane("delete", "all", "--all", "--wait=false").returncode == 0
    assert world.digests() == [digest], "`all` is not streams: their history is not there to be made again"
    jane("apply", "-f", "-", stdin=deployment())
    world.until(lambda: world.images()["web"] == world.pull_spec(digest))

    said = jane("delete", "imagestream", "web", "--timeout=10s")
    assert said.stdout == f'imagestream.image.openshift.io "web" deleted from {world.namespace} namespace\n'
    assert world.images()["web"] == world.pull_spec(digest)

    world.push("two", tag="next")
    moved = world.push("three")
    jane("apply", "-f", "-", stdin=world.stream())
    jane(*READY)
    assert world.digests() == [moved], "another stream, with a history of its own"
    world.until(lambda: world.images()["web"] == world.pull_spec(moved))


def test_a_stream_that_is_deleted_while_it_is_imported(world: World, jane: Jane, digest: str):
    jane("create", "-f", "-", stdin=world.stream())
    jane("delete", "imagestream", "web")
    jane("wait", "--for=delete", "imagestream/web", "--timeout=10s")
    jane("create", "-f", "-", stdin=world.stream())
    jane(*READY)
    assert world.digests() == [digest]


# --- import requests --------------------------------------------------------------------------------------------------


@pytest.fixture
def ask(world: World, control_plane: ControlPlane, jane: Jane) -> Callable[..., str]:
    """Creates an import request; gives its name."""
    control_plane.kubectl("apply", "--server-side", "-f", str(ROOT / "crds" / "imagestreamimports.yaml"))
    control_plane.kubectl(
        "wait", "--for=condition=Established", "--timeout=30s", "crd/imagestreamimports.image.openshift.io"
    )
    world.until(
        lambda: jane("auth", "can-i", "create", "imagestreamimports.image.openshift.io", check=False).stdout == "yes\n"
    )

    def ask(how: str = "create", **changes: Any) -> str:
        done = jane(*how.split(), "-f", "-", "-o", "name", stdin={**request(world), **changes})
        return done.stdout.strip()

    return ask


def request(world: World, *, is_import: bool = False) -> dict[str, Any]:
    images = [{"from": {"kind": "DockerImage", "name": f"{HOST}/{world.namespace}/web:stable"}, "to": {"name": "a"}}]
    return {
        "apiVersion": "image.openshift.io/v1",
        "kind": "ImageStreamImport",
        "metadata": {"generateName": "web-"},
        "spec": {"import": is_import, "images": images},
    }


@pytest.mark.parametrize("how", ["create", "apply"])
def test_a_request_is_stored_can_be_read_and_goes(
    world: World, jane: Jane, digest: str, ask: Callable[..., str], how: str
):
    name = ask(how, **({"metadata": {"name": "web"}} if how == "apply" else {}))
    assert name.startswith("imagestreamimport.image.openshift.io/web")
    assert jane("get", name, "-o", "jsonpath={.spec.images[0].to.name}").stdout == "a"
    assert jane("get", "imagestreamimports", "-o", "name").stdout.strip() == name
    assert "To:" in jane("describe", name).stdout
    jane("delete", name, "--timeout=10s")
    jane("wait", "--for=delete", name, "--timeout=10s")
    assert jane("get", "imagestreamimports", "-o", "name").stdout == ""


@pytest.mark.parametrize(
    "change",
    [
        "label {} team=shop",
        "annotate {} example.com/note=ours",
        "patch {} --type=merge -p {{}}",
        "apply --server-side -f -",
    ],
)
def test_an_editor_asks_anew_and_changes_no_request(
    world: World, jane: Jane, digest: str, ask: Callable[..., str], change: str
):
    name = ask()
    changed = {**request(world), "metadata": {"name": name.partition("/")[2]}}
    refused = jane(*change.format(name).split(), stdin=changed, check=False)
    assert refused.returncode == 1
    assert 'cannot patch resource "imagestreamimports"' in refused.stderr


def test_an_administrator_may_mark_requests(world: World, jane: Jane, digest: str, ask: Callable[..., str]):
    name = ask()
    world.kubectl("label", name, "team=shop")
    world.kubectl("annotate", name, "example.com/note=ours")
    world.kubectl("patch", name, "--type=merge", "-p", '{"metadata": {"labels": {"a": "b"}}}')
    world.kubectl("patch", name, "--type=json", "-p", '[{"op": "remove", "path": "/metadata/labels/team"}]')
    found = json.loads(jane("get", name, "-o", "json").stdout)["metadata"]
    assert found["labels"] == {"a": "b"}
    assert found["annotations"]["example.com/note"] == "ours"
    refused = world.kubectl("patch", name, "-p", '{"metadata": {"labels": {"a": "c"}}}', check=False)
    assert refused.returncode == 1
    assert "application/merge-patch+json" in refused.stderr


def test_a_slip_in_a_request_is_taken_as_openshifts_clients_may_be_younger(
    world: World, jane: Jane, digest: str, ask: Callable[..., str]
):
    """Below spec everything is kept; beside it a slip is named."""
    asked = request(world)
    refused = jane("create", "-f", "-", stdin={**asked, "specs": {}}, check=False)
    assert refused.returncode == 1
    assert 'unknown field "specs"' in refused.stderr
    asked["spec"]["images"][0]["younger"] = {"field": [1]}
    name = jane("create", "-f", "-", "-o", "name", stdin=asked).stdout.strip()
    assert jane("get", name, "-o", "jsonpath={.spec.images[0].younger}").stdout == '{"field":[1]}'


@pytest.mark.parametrize("kind", ["imagestreams", "imagestreamimports"])
def test_explain_knows_every_field(control_plane: ControlPlane, ask: Callable[..., str], kind: str):
    """All that the API server publishes has words, and `--recursive` lists it."""
    text = control_plane.kubectl("explain", kind, "--recursive").stdout
    published = control_plane.request("GET", "/openapi/v3/apis/image.openshift.io/v1")["components"]["schemas"]
    [schema] = [
        each
        for each in published.values()
        if any(
            found["kind"].lower() + "s" == kind and found["group"] == "image.openshift.io"
            for found in each.get("x-kubernetes-group-version-kind", [])
        )
    ]
    fields = dict(described(schema))
    assert len(fields) > 20
    assert [path for path, words in fields.items() if not words] == []
    for path in fields:
        assert f"{path.rpartition('.')[2]}\t" in text, path


def described(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    """Each field below spec and status, and its description."""
    for name, field in schema.get("properties", {}).items():
        if path or name in {"spec", "status"}:
            yield f"{path}.{name}", field.get("description", "")
            yield from described(field, f"{path}.{name}")
    if isinstance(schema.get("items"), dict):
        yield from described(schema["items"], path)
