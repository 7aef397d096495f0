"""config/default and config/imagestreams.dev, applied: the pod is admitted, and everybody may do what the roles say.

Both are installed over each other, image.openshift.io last, and left to the tests that follow.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from imagestreams import settings
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dev.control_plane import ControlPlane

ROOT = Path(__file__).parents[2]
OPENSHIFT, OWN = settings.GROUPS
CONTROLLER = (
    "system:serviceaccount:imagestreams-system:imagestreams",
    ("system:serviceaccounts", "system:authenticated"),
)


@pytest.fixture(scope="module", params=[OWN, OPENSHIFT])
def group(request: pytest.FixtureRequest, control_plane: ControlPlane) -> Iterator[str]:
    folder = {OPENSHIFT: "config/default", OWN: "config/imagestreams.dev"}[request.param]
    applied = control_plane.kubectl("apply", "--server-side", "--force-conflicts", "-k", str(ROOT / folder))
    assert "Warning" not in applied.stderr, "PodSecurity warns of a pod that it will not admit"
    until(lambda: Caller(control_plane, *CONTROLLER).may("list", f"{request.param}/imagestreams"))
    yield request.param
    if request.param == OWN:
        control_plane.kubectl("delete", f"crd/imagestreams.{OWN}", f"clusterrole/{puller(OWN)}")


def puller(group: str) -> str:
    return "system:image-puller" if group == OPENSHIFT else "imagestreams-puller"


@dataclass(frozen=True)
class Caller:
    """Somebody whose rights are asked for."""

    plane: ControlPlane
    user: str = ""
    groups: tuple[str, ...] = ()

    def may(self, verb: str, what: str, namespace: str = "", name: str = "") -> bool:
        """`what` is "group/resource" or "group/resource/subresource"."""
        group, resource, subresource = (*what.split("/"), "")[:3]
        attributes = {"verb": verb, "group": group, "resource": resource, "subresource": subresource}
        spec = {
            "user": self.user,
            "groups": list(self.groups),
            "resourceAttributes": {**attributes, "namespace": namespace, "name": name},
        }
        review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}
        answer = self.plane.request("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
        return bool(answer["status"]["allowed"])


def test_the_pod_is_admitted_and_runs(group, control_plane):
    control_plane.kubectl(
        "--namespace=imagestreams-system", "rollout", "status", "deployment/imagestreams", "--timeout=60s"
    )
    pods = control_plane.kubectl("--namespace=imagestreams-system", "get", "pods", "--output=json").stdout
    assert any(
        {"name": "IMAGESTREAMS_API_GROUP", "value": group} in pod["spec"]["containers"][0]["env"]
        for pod in json.loads(pods)["items"]
    )


def test_installing_again_changes_nothing(group, control_plane):
    folder = {OPENSHIFT: "config/default", OWN: "config/imagestreams.dev"}[group]
    assert control_plane.kubectl("diff", "--server-side", "--force-conflicts", "-k", str(ROOT / folder)).stdout == ""


@pytest.mark.parametrize(
    ("verb", "what", "namespace", "name", "allowed"),
    [
        ("list", "GROUP/imagestreams", "", "", True),
        ("watch", "GROUP/imagestreams", "", "", True),
        ("patch", "GROUP/imagestreams/status", "shop", "web", True),
        ("patch", "GROUP/imagestreams", "shop", "web", False),
        ("update", "GROUP/imagestreams/status", "shop", "web", False),
        ("delete", "GROUP/imagestreams", "shop", "web", False),
        ("get", "apiregistration.k8s.io/apiservices", "", "v1.GROUP", True),
        ("get", "apiregistration.k8s.io/apiservices", "", "v1.apps", False),
        ("list", "/secrets", "shop", "", True),
        ("watch", "/secrets", "", "", True),
        ("get", "/secrets", "shop", "pull", False),
        ("create", "/secrets", "shop", "", False),
        ("patch", "apps/deployments", "shop", "web", True),
        ("create", "apps/deployments", "shop", "", False),
        ("delete", "apps/deployments", "shop", "web", False),
        ("create", "authorization.k8s.io/subjectaccessreviews", "", "", True),
        ("create", "/events", "shop", "", True),
        ("get", "/events", "shop", "web.1", True),
        ("patch", "/events", "shop", "web.1", True),
        ("list", "/events", "shop", "", False),
        ("create", "coordination.k8s.io/leases", "imagestreams-system", "", True),
        ("patch", "coordination.k8s.io/leases", "imagestreams-system", "imagestreams", True),
        ("patch", "coordination.k8s.io/leases", "imagestreams-system", "another", False),
        ("patch", "coordination.k8s.io/leases", "kube-system", "imagestreams", False),
    ],
)
def test_what_the_controller_may_do(verb, what, namespace, name, allowed, group, control_plane):  # noqa: PLR0917 (a table)
    caller = Caller(control_plane, *CONTROLLER)
    assert caller.may(verb, what.replace("GROUP", group), namespace, name.replace("GROUP", group)) is allowed


@pytest.mark.parametrize(
    ("role", "allowed"),
    [
        ("view", {"imagestreams": {"get", "list", "watch"}}),
        (
            "edit",
            {
                "imagestreams": {"get", "list", "watch", "create", "update", "patch", "delete"},
                "imagestreams/layers": {"get", "update"},
            },
        ),
        (
            "admin",
            {
                "imagestreams": {"get", "list", "watch", "create", "update", "patch", "delete"},
                "imagestreams/layers": {"get", "update"},
            },
        ),
        ("PULLER", {"imagestreams/layers": {"get"}}),
    ],
)
def test_what_users_may_do_in_their_namespace(role, allowed, group, control_plane, namespace):
    role = role.replace("PULLER", puller(group))
    caller = Caller(control_plane, f"{role}@{namespace}")
    bound = f"--clusterrole={role}", f"--user={caller.user}"
    control_plane.kubectl(f"--namespace={namespace}", "create", "rolebinding", "test", *bound)
    # The aggregation into `view`, `edit` and `admin` is a controller's work.
    first = next(iter(allowed))
    until(lambda: caller.may("get", f"{group}/{first}", namespace))
    for resource in ("imagestreams", "imagestreams/status", "imagestreams/layers"):
        verbs = {"get", "list", "watch", "create", "update", "patch", "delete"}
        granted = {verb for verb in verbs if caller.may(verb, f"{group}/{resource}", namespace)}
        assert granted == allowed.get(resource, set()), resource
    assert not caller.may("get", f"{group}/{first}", "elsewhere")


def test_a_namespace_lets_another_one_follow_its_streams(group, control_plane, namespace):
    bound = f"--clusterrole={puller(group)}", "--group=system:serviceaccounts:shop"
    control_plane.kubectl(f"--namespace={namespace}", "create", "rolebinding", "shop-pulls", *bound)
    shop, other = (
        Caller(
            control_plane, "", (f"system:serviceaccounts:{consumer}", "system:serviceaccounts", "system:authenticated")
        )
        for consumer in ("shop", "other")
    )
    ask = ("get", f"{group}/imagestreams/layers", namespace, "web")
    until(lambda: shop.may(*ask))
    assert not other.may(*ask)


def test_the_samples_apply(group, kubectl):
    kubectl("apply", "-k", str(ROOT / ("config/samples" if group == OPENSHIFT else "config/imagestreams.dev/samples")))
    kubectl("rollout", "status", "deployment/web", "--timeout=60s")
    assert kubectl("get", f"imagestreams.{group}/web", "--output=jsonpath={.spec.tags[0].name}").stdout == "stable"
