"""What kustomize makes of config/: complete in both API groups, and no more rights than are written down here."""

from __future__ import annotations

import json
import re
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import yaml

import imagestreams
from imagestreams import settings
from tests.config.kustomize import ROOT, render, render_text

if TYPE_CHECKING:
    from pathlib import Path

OPENSHIFT, OWN = settings.GROUPS
CRDS = [
    file.removesuffix(".yaml") for file in yaml.safe_load((ROOT / "crds/kustomization.yaml").read_text())["resources"]
]
FOLDERS = {OPENSHIFT: "config/default", OWN: "config/imagestreams.dev"}
both_groups = pytest.mark.parametrize("group", settings.GROUPS)

Object = dict[str, Any]


def find(objects: list[Object], kind: str, name: str) -> Object:
    (found,) = (each for each in objects if (each["kind"], each["metadata"]["name"]) == (kind, name))
    return found


def rules(role: Object) -> set[str]:
    """One line per rule: "VERBS group/resource [names]"."""
    lines = set()
    for rule in role["rules"]:
        names = f" {rule['resourceNames']}" if "resourceNames" in rule else ""
        lines |= {
            f"{','.join(rule['verbs'])} {group}/{resource}{names}"
            for group in rule["apiGroups"]
            for resource in rule["resources"]
        }
    return lines


@both_groups
def test_the_installation_is_complete(group):
    objects = [f"{each['kind']} {each['metadata']['name']}" for each in render(FOLDERS[group])]
    assert sorted(objects) == sorted(
        [
            *(f"CustomResourceDefinition {plural}.{group}" for plural in CRDS),
            "Namespace imagestreams-system",
            "ServiceAccount imagestreams",
            "ClusterRole imagestreams",
            "ClusterRoleBinding imagestreams",
            "Role imagestreams",
            "RoleBinding imagestreams",
            "Role imagestreams-local-registry",
            "RoleBinding imagestreams-local-registry",
            "ClusterRole imagestreams-view",
            "ClusterRole imagestreams-edit",
            f"ClusterRole {'system:image-puller' if group == OPENSHIFT else 'imagestreams-puller'}",
            "Deployment imagestreams",
        ]
    )


@both_groups
def test_the_controller_may_do_this_and_no_more(group):
    objects = render(FOLDERS[group])
    assert rules(find(objects, "ClusterRole", "imagestreams")) == {
        f"get,list,watch {group}/imagestreams",
        f"patch {group}/imagestreams/status",
        f"get apiregistration.k8s.io/apiservices ['v1.{group}']",
        f"get,list,watch,update,patch,delete {group}/imagestreamimports",
        "list,watch /secrets",
        "get,list,watch,patch apps/deployments",
        "create authorization.k8s.io/subjectaccessreviews",
        "list,watch config.openshift.io/imagedigestmirrorsets",
        "list,watch config.openshift.io/imagetagmirrorsets",
        "get,create,patch /events",
    }
    assert rules(find(objects, "Role", "imagestreams")) == {
        "get,patch coordination.k8s.io/leases ['imagestreams']",
        "create coordination.k8s.io/leases",
        "get,list,watch /configmaps ['imagestreams-registries']",
    }
    hosting = find(objects, "Role", "imagestreams-local-registry")
    assert hosting["metadata"]["namespace"] == "kube-public"
    assert rules(hosting) == {"get,list,watch /configmaps ['local-registry-hosting']"}


@both_groups
def test_users_roles_hold_no_status_and_view_no_layers(group):
    objects = render(FOLDERS[group])
    view, edit = find(objects, "ClusterRole", "imagestreams-view"), find(objects, "ClusterRole", "imagestreams-edit")
    assert rules(view) == {f"get,list,watch {group}/imagestreams"}
    assert rules(edit) == {
        f"create,update,patch,delete {group}/imagestreams",
        f"create,get,list,watch,delete {group}/imagestreamimports",
        f"get,update {group}/imagestreams/layers",
    }
    assert [key for key in view["metadata"]["labels"] if "aggregate-to" in key] == [
        "rbac.authorization.k8s.io/aggregate-to-view"
    ]
    assert sorted(key for key in edit["metadata"]["labels"] if "aggregate-to" in key) == [
        "rbac.authorization.k8s.io/aggregate-to-admin",
        "rbac.authorization.k8s.io/aggregate-to-edit",
    ]
    (puller,) = (
        each for each in objects if each["kind"] == "ClusterRole" and each["metadata"]["name"].endswith("-puller")
    )
    assert rules(puller) == {f"get {group}/imagestreams/layers"}


@both_groups
def test_the_controller_is_told_what_is_installed(group):
    (container,) = find(render(FOLDERS[group]), "Deployment", "imagestreams")["spec"]["template"]["spec"]["containers"]
    given = {each["name"]: each.get("value", "from the pod") for each in container["env"]}
    loaded = settings.load(
        {}, {name: value for name, value in given.items() if value != "from the pod"}, read_file=lambda path: ""
    )
    assert loaded.api_group == group
    assert {settings.PREFIX + "LEASE_NAMESPACE"} == {name for name, value in given.items() if value == "from the pod"}
    assert [port["containerPort"] for port in container["ports"]] == [settings.Settings().http_address.port]
    assert container["image"].endswith(f":{imagestreams.__version__}")


@pytest.mark.parametrize(
    "folder", ["config/imagestreams.dev", "config/imagestreams.dev/crds", "config/imagestreams.dev/samples"]
)
def test_the_other_group_leaves_nothing_of_openshifts_but_annotations(folder):
    text = render_text(folder)
    kept = {found[0] for found in re.finditer(r"[\w.:-]*openshift\.io[\w/.-]*", text)}
    assert kept <= {
        "image.openshift.io/triggers",
        "importer.image.openshift.io/prefer-arch",
        "importer.image.openshift.io/prefer-os",
        "openshift.io/image.insecureRepository",
        "image.openshift.io/dockerLayersOrder",
        "config.openshift.io",
    }
    assert not re.search(r"\bGROUP\b", text), "the patches' placeholder"
    assert "name: system:" not in text


def test_the_two_groups_differ_in_the_group_only():
    texts = {group: render_text(folder) for group, folder in FOLDERS.items()}
    assert [line for line in texts[OWN].split() if OWN in line] != []
    renamed = texts[OPENSHIFT].replace("system:image-puller", "imagestreams-puller")
    for kept in (
        "importer.image.openshift.io",
        "openshift.io/image.insecureRepository",
        "image.openshift.io/docker",
        "imagestreams.dev/",
    ):
        renamed = renamed.replace(kept, kept.upper())
        texts[OWN] = texts[OWN].replace(kept, kept.upper())
    renamed = renamed.replace(OPENSHIFT, OWN)
    assert sorted(renamed.split()) == sorted(texts[OWN].split())


@both_groups
def test_the_crds_alone(group):
    crds = render("crds" if group == OPENSHIFT else "config/imagestreams.dev/crds")
    names = [(crd["metadata"]["name"], crd["spec"]["group"]) for crd in crds]
    assert sorted(names) == sorted((f"{plural}.{group}", group) for plural in CRDS)
    installation = render(FOLDERS[group])
    for crd in crds:
        assert find(installation, "CustomResourceDefinition", crd["metadata"]["name"])["spec"] == crd["spec"]


@both_groups
def test_the_samples_belong_together(group):
    objects = render("config/samples" if group == OPENSHIFT else "config/imagestreams.dev/samples")
    stream, deployment = find(objects, "ImageStream", "web"), find(objects, "Deployment", "web")
    assert stream["apiVersion"] == f"{group}/v1"
    (trigger,) = json.loads(deployment["metadata"]["annotations"]["image.openshift.io/triggers"])
    (tag,) = stream["spec"]["tags"]
    assert trigger["from"] == {"kind": "ImageStreamTag", "name": f"{stream['metadata']['name']}:{tag['name']}"}
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert trigger["fieldPath"] == f'spec.template.spec.containers[?(@.name=="{container["name"]}")].image'


@both_groups
def test_nobody_may_read_image_objects_unless_they_are_wanted(group):
    named = {
        resource
        for each in render(FOLDERS[group])
        if each["kind"] in {"ClusterRole", "Role"}
        for rule in each["rules"]
        for resource in rule["resources"]
    }
    assert "imagestreams" in named
    assert "images" not in named


def overlaid(tmp_path: Path, *components: str) -> list[Object]:
    """config/default with components, as an overlay of somebody's own has them."""
    shutil.copytree(ROOT / "config", tmp_path / "config")
    shutil.copytree(ROOT / "crds", tmp_path / "crds")
    every = sorted(file.name for file in (tmp_path / "crds").glob("image*.yaml"))
    (tmp_path / "crds" / "kustomization.yaml").write_text(yaml.safe_dump({"resources": every}))
    folder = tmp_path / "config" / "own"
    folder.mkdir()
    own = {"resources": ["../default"], "components": [f"../{name}" for name in components]}
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(own))
    return render(str(folder))


def environment(objects: list[Object]) -> dict[str, str]:
    (container,) = find(objects, "Deployment", "imagestreams")["spec"]["template"]["spec"]["containers"]
    return {each["name"]: each["value"] for each in container["env"] if "value" in each}


def test_pull_secrets_by_name_only(tmp_path):
    objects = overlaid(tmp_path, "linked")
    found = rules(find(objects, "ClusterRole", "imagestreams"))
    assert {"get /secrets", "get /serviceaccounts"} <= found
    assert not [rule for rule in found if "secrets" in rule and "list" in rule]
    loaded = settings.load({}, environment(objects), read_file=lambda path: "")
    assert loaded.pull_secrets == "linked"


@both_groups
def test_image_objects_when_they_are_wanted(group, tmp_path):
    objects = overlaid(tmp_path, "images", *(["imagestreams.dev/group"] if group == OWN else []))
    assert rules(find(objects, "ClusterRole", "imagestreams-images")) == {f"list,watch,create,delete {group}/images"}
    assert find(objects, "ClusterRoleBinding", "imagestreams-images")["roleRef"]["name"] == "imagestreams-images"
    for plural in ("images", "imagestreams"):
        assert find(objects, "CustomResourceDefinition", f"{plural}.{group}")["spec"]["group"] == group
    loaded = settings.load({}, environment(objects), read_file=lambda path: "")
    assert (loaded.image_objects, loaded.api_group) == (True, group)


def sample(name: str) -> Object:
    parsed: Object = yaml.safe_load((ROOT / "config" / "samples" / name).read_text())
    return parsed


def test_the_sample_that_follows_follows_the_sample():
    followed, following = sample("imagestream.yaml"), sample("following.yaml")
    tags = {tag["name"]: tag["from"] for tag in following["spec"]["tags"]}
    assert tags == {
        "staging": {"kind": "ImageStreamTag", "name": f"{followed['metadata']['name']}:stable"},
        "production": {"kind": "ImageStreamTag", "name": "staging"},
    }
    assert [tag["name"] for tag in followed["spec"]["tags"]] == ["stable"]


def test_the_sample_of_a_repository():
    spec = sample("repository.yaml")["spec"]
    assert [tag["from"]["name"] for tag in spec["tags"]] == [f"{spec['dockerImageRepository']}:latest"]


def test_the_sample_of_registries_is_where_and_what_the_controller_reads():
    from imagestreams.core.registries import parse_registries

    found = sample("registries.yaml")
    assert found["metadata"] == {
        "name": settings.Settings().registries_configmap,
        "namespace": find(render("config/default"), "Deployment", "imagestreams")["metadata"]["namespace"],
    }
    (text,) = (found["data"][key] for key in ("registries.yaml",))
    commented = re.sub(r"(?m)^# (?=allowed:)", "", text)
    assert commented != text
    for each in (text, commented):
        assert parse_registries(each)


def test_the_pod_is_restricted():
    pod = find(render("config/default"), "Deployment", "imagestreams")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["enableServiceLinks"] is False, "it would add variables that look like settings"


def test_the_settings_that_the_manifest_suggests_are_settings():
    text = (ROOT / "config" / "manager" / "manager.yaml").read_text()
    named = {name.removeprefix(settings.PREFIX).lower() for name in re.findall(rf"{settings.PREFIX}[A-Z_]+\w", text)}
    assert "install_secret_repository" in named
    assert named - settings.Settings.__dataclass_fields__.keys() == set()
