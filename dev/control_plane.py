"""A real Kubernetes control plane on loopback, for tests and for developers.

    python -m dev.control_plane

etcd, kube-apiserver (RBAC, service account tokens, client certificates), and for workloads kube-controller-manager,
kube-scheduler and kwok: one fake node whose pods "run" as soon as they are scheduled, so Deployments roll, and
nothing executes. A pod with the annotation `imagestreams.dev/dev-fail: "true"`, or with "crash" in an image's name,
never becomes ready (dev/kwok/stages.yaml).

    with ControlPlane() as plane:
        plane.kubectl("create", "deployment", "web", "--image=example/web:1")
        plane.kubectl("rollout", "status", "deployment/web", "--timeout=30s")

Everything it writes is in one temporary folder, logs included; nothing outlives `stop`, nor us.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import ssl
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import trustme

from dev import binaries
from dev.process import Server, free_port

if TYPE_CHECKING:
    from types import FrameType

_KWOK = Path(__file__).parent / "kwok"
_API = ("etcd", "kube-apiserver", "kubectl")
_WORKLOADS = ("kube-controller-manager", "kube-scheduler", "kwok")
_CONTROLLERS = (
    "clusterrole-aggregation-controller",
    "cronjob-controller",
    "daemonset-controller",
    "deployment-controller",
    "garbage-collector-controller",
    "job-controller",
    "namespace-controller",
    "replicaset-controller",
    "root-ca-certificate-publisher-controller",
    "serviceaccount-controller",
    "serviceaccount-token-controller",
    "statefulset-controller",
)
_ADMISSION_OFF = ("TaintNodesByCondition",)  # the controller that lifts the taint from a ready node does not run
_RATE = ("--kube-api-qps=500", "--kube-api-burst=1000")


class ControlPlane:
    """etcd and the Kubernetes programs, started together and stopped together.

    Args:
        workloads: also controllers, scheduler and a fake node. Without them a start is faster, but Deployments do not
            roll, namespaces have no default service account and stay Terminating, and roles do not aggregate.
        directory: where certificates, kubeconfigs, logs and etcd's data go, and stay; if not given, a temporary one
            that `stop` removes.
        say: told what is built, where something must be built.

    Attributes:
        url: of the API server, https://127.0.0.1:<port>.
        ca_file: the certificate authority to verify it with.
        kubeconfig: an administrator's, with a client certificate (group system:masters).
        programs: paths by name, kubectl's among them.
    """

    def __init__(
        self, *, workloads: bool = True, directory: Path | None = None, say: binaries.Say = binaries.tell
    ) -> None:
        self._workloads = workloads
        self.programs = binaries.ensure([*_API, *(_WORKLOADS if workloads else ())], say=say)
        self._temporary = directory is None
        self.directory = directory or Path(tempfile.mkdtemp(prefix="imagestreams-control-plane-"))
        self.ca_file = self.directory / "ca.pem"
        self.kubeconfig = self.directory / "admin.kubeconfig"
        self._port, self._etcd_port = free_port(), free_port()
        self.url = f"https://127.0.0.1:{self._port}"
        self._servers: dict[str, Server] = {}
        self._tls = ssl.create_default_context()

    def start(self) -> Self:
        """Start everything, and return when it works.

        Raises:
            StartError: one of the programs did not get ready; quotes the end of its log.
        """
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._certify()
            self._start_etcd()
            self.start_apiserver()
            if self._workloads:
                self._start_workloads()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop everything in order, each program's exit awaited. Stopping twice is fine."""
        with (
            contextlib.ExitStack() as stack
        ):  # last in, first out: etcd ends after the API server, which would wait for it
            if self._temporary:
                stack.callback(shutil.rmtree, self.directory, ignore_errors=True)
            for server in self._servers.values():
                stack.callback(server.stop)
            for name, server in self._servers.items():
                if name in _WORKLOADS:
                    server.signal(signal.SIGTERM)
        self._servers.clear()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def kubectl(
        self,
        *args: str,
        input: str | None = None,  # noqa: A002 (the word of subprocess.run)
        check: bool = True,
        kubeconfig: Path | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl of the API server's version as administrator, or as whom `kubeconfig` says.

        Raises:
            subprocess.CalledProcessError: with `check`, when kubectl fails; its `stderr` is shown with the error.
        """
        result = subprocess.run(
            [self.programs["kubectl"], f"--kubeconfig={kubeconfig or self.kubeconfig}", *args],
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            capture_output=True,
            text=True,
            check=False,
            env=self._kubectl_environment(),
        )
        if check and result.returncode:
            error = subprocess.CalledProcessError(result.returncode, ["kubectl", *args], result.stdout, result.stderr)
            error.add_note(result.stderr)
            raise error
        return result

    def request(self, method: str, path: str, body: object = None, *, content_type: str = "application/json") -> Any:
        """One API request as administrator, faster than kubectl; returns the decoded JSON.

        Raises:
            urllib.error.HTTPError: any status that is not 2xx.
        """
        encoded = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, encoded, {"Content-Type": content_type}, method=method)
        with self._open(request) as response:
            return json.load(response)

    def service_account_kubeconfig(self, namespace: str, name: str, *, duration: str = "24h") -> Path:
        """A kubeconfig with a token of an existing service account, made by a TokenRequest."""
        token = self.kubectl(
            "create", "token", name, f"--namespace={namespace}", f"--duration={duration}"
        ).stdout.strip()
        return self._write_kubeconfig(f"{namespace}.{name}", {"token": token}, namespace)

    def start_apiserver(self) -> None:
        """Start the API server, on the same port each time, and wait until it is ready."""
        pem = self.directory
        server = self._start(
            "kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{self._etcd_port}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            f"--secure-port={self._port}",
            f"--tls-cert-file={pem}/server.pem",
            f"--tls-private-key-file={pem}/server.key",
            f"--client-ca-file={self.ca_file}",
            "--authorization-mode=RBAC",
            f"--disable-admission-plugins={','.join(_ADMISSION_OFF)}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={pem}/service-accounts.key",
            f"--service-account-signing-key-file={pem}/service-accounts.key",
            "--service-cluster-ip-range=10.0.0.0/24",
            "--endpoint-reconciler-type=none",  # a loopback address is refused as an endpoint
            "--allow-privileged=true",
            "--shutdown-watch-termination-grace-period=1s",  # without it, it waits for watches that nothing ends
        )
        server.wait_until(lambda: self._answers("/readyz") and self._answers("/api/v1/namespaces/default"), "readiness")

    def stop_apiserver(self) -> None:
        """Stop the API server and wait for its exit; etcd and its port stay ours."""
        self._servers.pop("kube-apiserver").stop()

    def restart_apiserver(self) -> None:
        """As in an upgrade: watches end, connections are refused, then a new server has the same objects."""
        self.stop_apiserver()
        self.start_apiserver()

    def _start_etcd(self) -> None:
        url = f"http://127.0.0.1:{self._etcd_port}"
        self._start(
            "etcd",
            f"--data-dir={self.directory}/etcd",
            f"--listen-client-urls={url}",
            f"--advertise-client-urls={url}",
            "--listen-peer-urls=http://127.0.0.1:0",
            "--unsafe-no-fsync",
            "--log-level=warn",
        )

    def _start_workloads(self) -> None:
        config = f"--kubeconfig={self.kubeconfig}"
        manager = self._start(
            "kube-controller-manager",
            config,
            f"--controllers={','.join(_CONTROLLERS)}",
            f"--service-account-private-key-file={self.directory}/service-accounts.key",
            f"--root-ca-file={self.ca_file}",
            "--leader-elect=false",
            "--secure-port=0",
            *_RATE,
        )
        self._start("kube-scheduler", config, "--leader-elect=false", "--secure-port=0", *_RATE)
        kwok = self._start(
            "kwok",
            config,
            f"--config={_KWOK}/stages.yaml",
            "--manage-all-nodes",
            "--node-port=0",
            "--node-lease-duration-seconds=0",
            "--cidr=10.1.0.0/16",
        )
        self.kubectl("apply", "--server-side", "-f", str(_KWOK / "node.yaml"))
        kwok.wait_until(self._node_is_ready, "ready node")
        manager.wait_until(
            lambda: self._answers("/api/v1/namespaces/default/serviceaccounts/default"), "default service account"
        )

    def _node_is_ready(self) -> bool:
        conditions = self.request("GET", "/api/v1/nodes/fake")["status"].get("conditions", [])
        return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)

    def _start(self, name: str, *args: str) -> Server:
        server = Server(name, [self.programs[name], *args], self.directory)
        self._servers[name] = server
        return server

    def _answers(self, path: str) -> bool:
        try:
            with self._open(urllib.request.Request(self.url + path), seconds=5):
                return True
        except urllib.error.HTTPError as error:
            error.close()
            return False

    def _open(self, request: urllib.request.Request, *, seconds: float = 60) -> Any:
        handlers = (urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=self._tls))
        return urllib.request.build_opener(*handlers).open(request, timeout=seconds)

    def _certify(self) -> None:
        """One authority for server and clients; the other programs of the control plane are administrators too."""
        authority = trustme.CA()
        authority.cert_pem.write_to_path(self.ca_file)
        server = authority.issue_cert("127.0.0.1", "localhost", "kubernetes.default.svc", "10.0.0.1")
        admin = authority.issue_cert("admin", common_name="admin", organization_name="system:masters")
        service_accounts = authority.issue_cert("service-accounts")
        for name, leaf in {"server": server, "admin": admin, "service-accounts": service_accounts}.items():
            leaf.cert_chain_pems[0].write_to_path(self.directory / f"{name}.pem")
            leaf.private_key_pem.write_to_path(self.directory / f"{name}.key")
        certificate, key = self.directory / "admin.pem", self.directory / "admin.key"
        self._write_kubeconfig("admin", {"client-certificate": str(certificate), "client-key": str(key)}, "default")
        self._tls = ssl.create_default_context(cafile=self.ca_file)
        self._tls.load_cert_chain(certificate, key)

    def _write_kubeconfig(self, name: str, user: dict[str, str], namespace: str) -> Path:
        path = self.directory / f"{name}.kubeconfig"
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "dev", "cluster": {"server": self.url, "certificate-authority": str(self.ca_file)}}],
            "users": [{"name": name, "user": user}],
            "contexts": [{"name": name, "context": {"cluster": "dev", "user": name, "namespace": namespace}}],
            "current-context": name,
        }
        path.write_text(json.dumps(config, indent=1))  # JSON is YAML
        path.chmod(0o600)
        return path

    def _kubectl_environment(self) -> dict[str, str]:
        # kubectl caches discovery by host and port, and our ports return with another server behind them.
        return {**os.environ, "KUBECACHEDIR": str(self.directory / "kubectl-cache"), "KUBERC": "off"}


def main() -> None:
    """Build what is missing, start, say how to use it, and wait for Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog="python -m dev.control_plane", description="A Kubernetes control plane on loopback, with a fake node."
    )
    parser.add_argument("--no-workloads", action="store_true", help="API server and etcd only")
    options = parser.parse_args()
    ended = threading.Event()

    def end(_number: int, _frame: FrameType | None) -> None:
        ended.set()

    plane = ControlPlane(workloads=not options.no_workloads)
    signal.signal(signal.SIGINT, end)
    signal.signal(signal.SIGTERM, end)
    started = time.monotonic()
    with plane:
        print(f"ready after {time.monotonic() - started:.1f} s at {plane.url}; logs in {plane.directory}\n")
        print(f"  export KUBECONFIG={plane.kubeconfig} PATH={plane.programs['kubectl'].parent}:$PATH\n", flush=True)
        print("Ctrl-C ends it.", flush=True)
        ended.wait()


if __name__ == "__main__":
    main()
