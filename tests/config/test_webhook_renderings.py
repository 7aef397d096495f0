"""What kustomize makes of the webhooks' components: in both API groups, beside each other, and with no more rights than
are written down here.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from imagestreams import settings
from imagestreams.core.admission import DOORS
from tests.config.kustomize import ROOT, render
from tests.config.test_renderings import FOLDERS, OPENSHIFT, OWN, both_groups, find, overlaid, rules

if TYPE_CHECKING:
    from pathlib import Path

Object = dict[str, Any]
SERVICE = {"namespace": "imagestreams-system", "name": "imagestreams-webhook"}


def rendered(tmp_path: Path, group: str, *components: str) -> list[Object]:
    return overlaid(tmp_path, *components, *(["imagestreams.dev/group"] if group == OWN else []))


def configuration(objects: list[Object]) -> dict[str, Object]:
    """The webhooks by their names' first part, in their order."""
    found = find(objects, "MutatingWebhookConfiguration", "imagestreams")["webhooks"]
    return {webhook["name"].removesuffix(".imagestreams.dev"): webhook for webhook in found}


def container(objects: list[Object], deployment: str) -> Object:
    (found,) = find(objects, "Deployment", deployment)["spec"]["template"]["spec"]["containers"]
    typed: Object = found
    return typed


def loaded(objects: list[Object], deployment: str) -> settings.Settings:
    given = {each["name"]: each["value"] for each in container(objects, deployment)["env"] if "value" in each}
    return settings.load({}, given, read_file=lambda path: "")


@both_groups
def test_what_the_component_adds(group, tmp_path):
    def named(objects: list[Object]) -> set[str]:
        return {f"{each['kind']} {each['metadata']['name']}" for each in objects}

    assert named(rendered(tmp_path, group, "webhook")) - named(render(FOLDERS[group])) == {
        "MutatingWebhookConfiguration imagestreams",
        "Service imagestreams-webhook",
        "ClusterRole imagestreams-webhook",
        "ClusterRoleBinding imagestreams-webhook",
        "Role imagestreams-webhook",
        "RoleBinding imagestreams-webhook",
    }


@both_groups
def test_webhooks_need_these_rights_and_no_more(group, tmp_path):
    objects = rendered(tmp_path, group, "webhook")
    assert rules(find(objects, "ClusterRole", "imagestreams-webhook")) == {
        f"create,patch {group}/imagestreams",
        "get,list,watch,patch admissionregistration.k8s.io/mutatingwebhookconfigurations ['imagestreams']",
        "get,list,watch,patch admissionregistration.k8s.io/validatingwebhookconfigurations ['imagestreams']",
    }
    assert rules(find(objects, "Role", "imagestreams-webhook")) == {
        "get,list,watch,patch /secrets ['imagestreams-webhook']",
        "create /secrets",
    }
    assert find(objects, "Role", "imagestreams-webhook")["metadata"]["namespace"] == "imagestreams-system"
    for kind in ("ClusterRoleBinding", "RoleBinding"):
        binding = find(objects, kind, "imagestreams-webhook")
        assert binding["roleRef"]["name"] == "imagestreams-webhook"
        assert binding["subjects"] == [
            {"kind": "ServiceAccount", "name": "imagestreams", "namespace": "imagestreams-system"}
        ]


@both_groups
def test_the_controller_serves_where_the_service_leads(group, tmp_path):
    objects = rendered(tmp_path, group, "webhook")
    defaults = settings.Settings()
    service = find(objects, "Service", defaults.webhook_service)
    labels = find(objects, "Deployment", "imagestreams")["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    (port,) = service["spec"]["ports"]
    assert port["port"] == 443, "which API servers call if nothing else is said"
    found = loaded(objects, "imagestreams")
    ports = {each["name"]: each["containerPort"] for each in container(objects, "imagestreams")["ports"]}
    assert found.webhook_address is not None
    assert ports[port["targetPort"]] == found.webhook_address.port
    assert (found.webhooks_only, found.api_group) == (False, group)
    assert ports["metrics"] == found.http_address.port
    assert defaults.webhook_configuration == "imagestreams"
    role = find(objects, "Role", "imagestreams-webhook")
    assert role["rules"][0]["resourceNames"] == [defaults.webhook_secret]


DECIDED = {  # failurePolicy, seconds, side effects, reinvocation
    "imports": ("Fail", 30, "NoneOnDryRun", "Never"),
    "pinning": ("Ignore", 2, "None", "IfNeeded"),
    "resolving": ("Ignore", 2, "None", "IfNeeded"),
    "pins": ("Ignore", 2, "None", "Never"),
}


@both_groups
def test_the_configuration(group, tmp_path):
    webhooks = configuration(rendered(tmp_path, group, "webhook"))
    assert list(webhooks) == list(DECIDED), "what is pinned has a digest before names are resolved"
    assert webhooks.keys() < set(DOORS)
    for name, webhook in webhooks.items():
        assert webhook["clientConfig"] == {"service": SERVICE}, "path and caBundle are the controller's"
        found = tuple(webhook[key] for key in ("failurePolicy", "timeoutSeconds", "sideEffects", "reinvocationPolicy"))
        assert found == DECIDED[name]
        assert webhook["matchPolicy"] == "Equivalent"
        assert webhook["admissionReviewVersions"] == ["v1"]
        assert all(rule["scope"] == "Namespaced" for rule in webhook["rules"])
        assert {rule["apiGroups"][0] for rule in webhook["rules"]} <= {group, "", "apps", "batch"}
    (rule,) = webhooks["imports"]["rules"]
    assert (rule["apiGroups"], rule["resources"], rule["operations"]) == (
        [group],
        ["imagestreamimports"],
        ["CREATE", "UPDATE"],
    )
    (rule,) = webhooks["pins"]["rules"]
    assert (rule["apiGroups"], rule["resources"]) == ([group], ["imagestreams"])


@pytest.mark.parametrize("name", ["pinning", "resolving"])
def test_workloads_of_the_cluster_and_of_ours_are_never_held_up(name, tmp_path):
    selector = configuration(rendered(tmp_path, OPENSHIFT, "webhook"))[name]["namespaceSelector"]
    assert {
        "key": "kubernetes.io/metadata.name",
        "operator": "NotIn",
        "values": ["kube-system", "imagestreams-system"],
    } in selector["matchExpressions"]


def test_import_requests_of_every_namespace_are_answered(tmp_path):
    assert "namespaceSelector" not in configuration(rendered(tmp_path, OPENSHIFT, "webhook"))["imports"]


@both_groups
def test_the_other_group_leaves_nothing_of_openshifts_but_annotations(group, tmp_path):
    text = yaml.safe_dump_all(rendered(tmp_path, group, "webhook", "webhook/network-policy", "webhook-process"))
    assert not re.search(r"\bGROUP\b", text)
    if group == OWN:
        kept = {found[0] for found in re.finditer(r"[\w.:-]*openshift\.io[\w/.-]*", text)}
        assert not {each for each in kept if re.fullmatch(r"(\w+\.)?image\.openshift\.io(/v1)?", each)}


@both_groups
def test_a_process_of_their_own(group, tmp_path):
    objects = rendered(tmp_path, group, "webhook", "webhook-process")
    found, controller = loaded(objects, "imagestreams-webhook"), loaded(objects, "imagestreams")
    assert (found.webhooks_only, found.api_group, found.webhook_address) == (True, group, controller.webhook_address)
    assert not controller.webhooks_only
    assert controller.webhook_address is not None, "it goes on keeping the keys"
    template = find(objects, "Deployment", "imagestreams-webhook")["spec"]["template"]
    selector = find(objects, "Service", "imagestreams-webhook")["spec"]["selector"]
    assert selector.items() <= template["metadata"]["labels"].items()
    others = find(objects, "Deployment", "imagestreams")["spec"]["template"]["metadata"]["labels"]
    assert not selector.items() <= others.items()
    budget = find(objects, "PodDisruptionBudget", "imagestreams-webhook")["spec"]["selector"]["matchLabels"]
    assert budget.items() <= template["metadata"]["labels"].items()
    assert not budget.items() <= others.items()
    assert find(objects, "Deployment", "imagestreams-webhook")["spec"]["replicas"] > 1


PROCESS = "imagestreams-webhook-process"


@both_groups
def test_the_process_of_their_own_may_do_this_and_no_more(group, tmp_path):
    """It writes nothing of users; and where it runs, a fault in it is not one with the controller's rights."""
    objects = rendered(tmp_path, group, "webhook", "webhook-process")
    account = {"kind": "ServiceAccount", "name": "imagestreams-webhook", "namespace": "imagestreams-system"}
    assert find(objects, "ServiceAccount", account["name"])["metadata"]["namespace"] == account["namespace"]
    pod = find(objects, "Deployment", "imagestreams-webhook")["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == account["name"]
    bound = {
        (each["metadata"].get("namespace", ""), each["roleRef"]["kind"], each["roleRef"]["name"])
        for each in objects
        if each["kind"] in {"ClusterRoleBinding", "RoleBinding"} and account in each["subjects"]
    }
    assert bound == {
        ("", "ClusterRole", PROCESS),
        ("imagestreams-system", "Role", PROCESS),
        ("imagestreams-system", "Role", "imagestreams-webhook"),
        ("kube-public", "Role", "imagestreams-local-registry"),
    }
    assert rules(find(objects, "ClusterRole", PROCESS)) == {
        f"get,list,watch {group}/imagestreams",
        f"get apiregistration.k8s.io/apiservices ['v1.{group}']",
        "list,watch /secrets",
        "create authorization.k8s.io/subjectaccessreviews",
        "list,watch config.openshift.io/imagedigestmirrorsets",
        "list,watch config.openshift.io/imagetagmirrorsets",
        "get,create,patch /events",
        "get,list,watch,patch admissionregistration.k8s.io/mutatingwebhookconfigurations ['imagestreams']",
        "get,list,watch,patch admissionregistration.k8s.io/validatingwebhookconfigurations ['imagestreams']",
    }
    assert rules(find(objects, "Role", PROCESS)) == {"get,list,watch /configmaps ['imagestreams-registries']"}


def test_the_process_of_their_own_lists_no_secrets_where_the_controller_lists_none(tmp_path):
    objects = overlaid(tmp_path, "webhook", "webhook-process", "linked")
    assert loaded(objects, "imagestreams-webhook").pull_secrets == "linked"
    found = rules(find(objects, "ClusterRole", PROCESS))
    assert {each for each in found if each.endswith(("/secrets", "/serviceaccounts"))} == {
        "get /secrets",
        "get /serviceaccounts",
    }


def test_the_process_of_their_own_knows_who_the_controller_is(tmp_path):
    objects = rendered(tmp_path, OPENSHIFT, "webhook", "webhook-process")
    name = find(objects, "Deployment", "imagestreams")["spec"]["template"]["spec"]["serviceAccountName"]
    expected = f"system:serviceaccount:imagestreams-system:{name}"
    assert loaded(objects, "imagestreams-webhook").webhook_controller == expected
    assert not loaded(objects, "imagestreams").webhook_controller, "it is itself"
    conditions = configuration(objects)["imports"]["matchConditions"]
    assert f"!= '{expected}'" in conditions[0]["expression"]


@pytest.mark.parametrize("name", ["imagestreams", "imagestreams-webhook"])
def test_a_pod_that_ends_has_time_to_answer_the_calls_under_way(name, tmp_path):
    pod = find(rendered(tmp_path, OPENSHIFT, "webhook", "webhook-process"), "Deployment", name)["spec"]["template"][
        "spec"
    ]
    (only,) = pod["containers"]
    answers = max(each[1] for each in DECIDED.values())
    before = only["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] >= before + answers + 10


def test_the_process_of_their_own_is_as_confined_as_the_controller(tmp_path):
    objects = rendered(tmp_path, OPENSHIFT, "webhook", "webhook-process")
    pods = [
        find(objects, "Deployment", name)["spec"]["template"]["spec"]
        for name in ("imagestreams-webhook", "imagestreams")
    ]
    for key in ("securityContext", "enableServiceLinks"):
        assert pods[0][key] == pods[1][key]
    containers = [container(objects, name) for name in ("imagestreams-webhook", "imagestreams")]
    for key in ("image", "command", "securityContext", "resources", "lifecycle", "livenessProbe", "readinessProbe"):
        assert containers[0][key] == containers[1][key]
    assert sorted(containers[0]["ports"], key=str) == sorted(containers[1]["ports"], key=str)


def test_the_network_policy_names_ports_that_both_have_and_no_real_address(tmp_path):
    objects = rendered(tmp_path, OPENSHIFT, "webhook", "webhook/network-policy", "webhook-process")
    spec = find(objects, "NetworkPolicy", "imagestreams-webhook")["spec"]
    for name in ("imagestreams", "imagestreams-webhook"):
        labels = find(objects, "Deployment", name)["spec"]["template"]["metadata"]["labels"]
        assert spec["podSelector"]["matchLabels"].items() <= labels.items()
        ports = {each["name"] for each in container(objects, name)["ports"]}
        assert {port["port"] for rule in spec["ingress"] for port in rule["ports"]} == ports
    (limited,) = (rule for rule in spec["ingress"] if "from" in rule)
    assert [port["port"] for port in limited["ports"]] == ["webhooks"]
    assert limited["from"] == [{"ipBlock": {"cidr": "192.0.2.1/32"}}]


def test_image_stream_tags_are_off_unless_they_are_wanted(tmp_path):
    objects = rendered(tmp_path, OPENSHIFT, "webhook")
    assert "imagestreamtags" not in yaml.safe_dump_all(objects)


def test_image_stream_tags_when_they_are_wanted(tmp_path):
    objects = rendered(tmp_path, OPENSHIFT, "webhook", "imagestreamtags")
    crd = find(objects, "CustomResourceDefinition", f"imagestreamtags.{OPENSHIFT}")
    assert crd["spec"]["group"] == OPENSHIFT
    webhook = configuration(objects)["imagestreamtags"]
    assert webhook["failurePolicy"] == "Fail"
    assert webhook["rules"][0]["operations"] == ["CREATE"]
    assert webhook["rules"][0]["resources"] == [crd["spec"]["names"]["plural"]]
    granted = [
        resource
        for each in objects
        if each["kind"] in {"ClusterRole", "Role"}
        for rule in each["rules"]
        for resource in rule["resources"]
    ]
    assert not [resource for resource in granted if "imagestreamtags" in resource], "`oc tag` would try no further"


def test_every_door_that_is_installed_is_one_of_the_servers():
    named = set()
    for file in [*(ROOT / "config" / "webhook").glob("*.yaml"), *(ROOT / "config" / "imagestreamtags").glob("*.yaml")]:
        named |= set(re.findall(r"name: (\w+)\.imagestreams\.dev", file.read_text()))
    assert named == set(DOORS)
