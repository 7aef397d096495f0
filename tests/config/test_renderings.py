"""What kustomize makes of config/: complete in both API groups, and no more rights than are written down here."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

import imagestreams
from imagestreams import settings
from tests.config.kustomize import render, render_text

OPENSHIFT, OWN = settings.GROUPS
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
            f"CustomResourceDefinition imagestreams.{group}",
            "Namespace imagestreams-system",
            "ServiceAccount imagestreams",
            "ClusterRole imagestreams",
            "ClusterRoleBinding imagestreams",
            "Role imagestreams",
            "RoleBinding imagestreams",
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
        "list,watch /secrets",
        "get,list,watch,patch apps/deployments",
        "create authorization.k8s.io/subjectaccessreviews",
        "get,create,patch /events",
    }
    assert rules(find(objects, "Role", "imagestreams")) == {
        "get,patch coordination.k8s.io/leases ['imagestreams']",
        "create coordination.k8s.io/leases",
    }


@both_groups
def test_users_roles_hold_no_status_and_view_no_layers(group):
    objects = render(FOLDERS[group])
    view, edit = find(objects, "ClusterRole", "imagestreams-view"), find(objects, "ClusterRole", "imagestreams-edit")
    assert rules(view) == {f"get,list,watch {group}/imagestreams"}
    assert rules(edit) == {
        f"create,update,patch,delete {group}/imagestreams",
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
    }
    assert not re.search(r"\bGROUP\b", text), "the patches' placeholder"
    assert "name: system:" not in text


def test_the_two_groups_differ_in_the_group_only():
    texts = {group: render_text(folder) for group, folder in FOLDERS.items()}
    assert [line for line in texts[OWN].split() if OWN in line] != []
    renamed = texts[OPENSHIFT].replace("system:image-puller", "imagestreams-puller")
    for kept in ("importer.image.openshift.io", "imagestreams.dev/"):
        renamed = renamed.replace(kept, kept.upper())
        texts[OWN] = texts[OWN].replace(kept, kept.upper())
    renamed = renamed.replace(OPENSHIFT, OWN)
    assert sorted(renamed.split()) == sorted(texts[OWN].split())


@both_groups
def test_the_crds_alone(group):
    (crd,) = render("crds" if group == OPENSHIFT else "config/imagestreams.dev/crds")
    assert (crd["metadata"]["name"], crd["spec"]["group"]) == (f"imagestreams.{group}", group)
    installed = find(render(FOLDERS[group]), "CustomResourceDefinition", f"imagestreams.{group}")
    assert installed["spec"] == crd["spec"]


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
