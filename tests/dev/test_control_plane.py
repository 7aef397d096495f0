"""The control plane for development does what the product and its tests count on."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
from pathlib import Path

import pytest

from dev.control_plane import ControlPlane
from dev.process import StartError

pytestmark = pytest.mark.cluster

ROLLED = "--timeout=60s"


@pytest.fixture(scope="module")
def plane():
    with ControlPlane() as started:
        yield started


def images(plane, app):
    pods = plane.request("GET", f"/api/v1/namespaces/default/pods?labelSelector=app={app}")["items"]
    return {pod["spec"]["containers"][0]["image"] for pod in pods if "deletionTimestamp" not in pod["metadata"]}


def test_kubectl_and_server_are_of_one_version(plane):
    versions = json.loads(plane.kubectl("version", "--output=json").stdout)
    assert versions["clientVersion"]["gitVersion"] == versions["serverVersion"]["gitVersion"]


def test_a_deployment_rolls_and_goes_back(plane):
    def rolls_to(image):
        plane.kubectl("rollout", "status", "deployment/web", ROLLED)
        assert images(plane, "web") == {image}

    plane.kubectl("create", "deployment", "web", "--image=example/web:1", "--replicas=2")
    rolls_to("example/web:1")
    plane.kubectl("set", "image", "deployment/web", "web=example/web:2")
    rolls_to("example/web:2")
    plane.kubectl("rollout", "undo", "deployment/web")
    rolls_to("example/web:1")


def test_a_deleted_namespace_goes(plane):
    plane.kubectl("create", "namespace", "short-lived")
    plane.kubectl("delete", "namespace", "short-lived", ROLLED)  # 5 s: Kubernetes waits that long before it looks


@pytest.mark.parametrize(
    ("image", "annotations"),
    [
        pytest.param("example/crash:1", {}, id="by its image"),
        pytest.param("example/web:1", {"imagestreams.dev/dev-fail": "true"}, id="by annotation"),
    ],
)
def test_a_pod_fails_when_told_to(plane, image, annotations):
    pod = {"metadata": {"generateName": "fails-", "annotations": annotations}}
    pod["spec"] = {"containers": [{"name": "web", "image": image}]}
    name = plane.request("POST", "/api/v1/namespaces/default/pods", pod)["metadata"]["name"]
    reason = "jsonpath={.status.containerStatuses[0].state.waiting.reason}=CrashLoopBackOff"
    plane.kubectl("wait", f"pod/{name}", f"--for={reason}", ROLLED)
    assert plane.kubectl("get", "pod", name, "--output=jsonpath={.status.containerStatuses[0].ready}").stdout == "false"


def test_a_job_completes(plane):
    plane.kubectl("create", "job", "once", "--image=example/once:1")
    plane.kubectl("wait", "job/once", "--for=condition=complete", ROLLED)


def test_a_service_account_may_do_what_its_role_says(plane):
    plane.kubectl("create", "serviceaccount", "reader")
    plane.kubectl("create", "role", "reader", "--verb=list", "--resource=configmaps")
    plane.kubectl("create", "rolebinding", "reader", "--role=reader", "--serviceaccount=default:reader")
    reader = plane.service_account_kubeconfig("default", "reader")
    whoami = plane.kubectl("auth", "whoami", "--output=jsonpath={.status.userInfo.username}", kubeconfig=reader)
    assert whoami.stdout == "system:serviceaccount:default:reader"
    assert plane.kubectl("get", "configmaps", kubeconfig=reader).returncode == 0
    assert "Forbidden" in plane.kubectl("get", "secrets", kubeconfig=reader, check=False).stderr


def test_roles_aggregate(plane):
    plane.kubectl("create", "clusterrole", "more-view", "--verb=get", "--resource=leases.coordination.k8s.io")
    plane.kubectl("label", "clusterrole", "more-view", "rbac.authorization.k8s.io/aggregate-to-view=true")
    holds = "jsonpath={.rules[?(@.resources[0]=='leases')].resources[0]}=leases"
    plane.kubectl("wait", "clusterrole/view", f"--for={holds}", ROLLED)


def test_an_idle_cluster_writes_nothing_to_its_node(plane):
    before = plane.request("GET", "/api/v1/nodes/fake")
    plane.kubectl("create", "job", "meanwhile", "--image=example/once:1")
    plane.kubectl("wait", "job/meanwhile", "--for=condition=complete", ROLLED)
    assert plane.request("GET", "/api/v1/nodes/fake") == before
    assert plane.request("GET", "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases")["items"] == []


def test_a_restarted_api_server_has_the_same_objects(plane):
    uid = plane.request("GET", "/api/v1/namespaces/default")["metadata"]["uid"]
    plane.stop_apiserver()
    with pytest.raises(urllib.error.URLError):
        plane.request("GET", "/api/v1/namespaces/default")
    plane.start_apiserver()
    assert plane.request("GET", "/api/v1/namespaces/default")["metadata"]["uid"] == uid
    plane.kubectl("create", "deployment", "after", "--image=example/web:1")
    plane.kubectl("rollout", "status", "deployment/after", ROLLED)


def test_a_failed_start_quotes_the_log_and_leaves_nothing():
    plane = ControlPlane(workloads=False)
    with socket.socket() as other:
        other.bind(("127.0.0.1", int(plane.url.rpartition(":")[2])))
        with pytest.raises(StartError, match=r"kube-apiserver ended(?s:.*)address already in use"):
            plane.start()
    assert running(str(plane.directory)) == set()
    assert not plane.directory.exists()


PARENT = """
import pathlib, sys
from dev.control_plane import ControlPlane
ControlPlane(workloads=False, directory=pathlib.Path(sys.argv[1])).start()
print("ready", flush=True)
input()
"""


def test_servers_end_with_their_parent(tmp_path):
    command = [sys.executable, "-c", PARENT, tmp_path / "plane"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout.readline() == "ready\n"
        assert {"etcd", "kube-apiserver"} <= running(str(tmp_path))
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 20
    while running(str(tmp_path)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert running(str(tmp_path)) == set()


def running(directory):
    """Names of the programs that have `directory` in their command line."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_text().split("\0")
            except OSError:
                continue
            if any(directory in argument for argument in command):
                found.add(Path(command[0]).name)
    return found
