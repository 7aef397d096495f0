"""The real controller as a process of its own, for the demo and the end-to-end tests: started, asked over HTTP, killed.

It runs with a service account's token and just the rights that `config/rbac` gives, so a missing right fails here.
"""

from __future__ import annotations

import json
import shutil
import signal
import sys
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Self

import yaml

from dev.process import Server

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dev.control_plane import ControlPlane

_ROOT = Path(__file__).parents[1]
NAMESPACE = "imagestreams-system"
SERVICE_ACCOUNT = "imagestreams"
WEBHOOK_ACCOUNT = "imagestreams-webhook"


class Controller:
    """One `imagestreams run`.

    Args:
        kubeconfig: whose rights it has.
        directory: for its log.
        flags: of `imagestreams run`.
        name: distinguishes the logs of several.
        environment: added to ours.
    """

    def __init__(
        self,
        kubeconfig: Path,
        directory: Path,
        *flags: str,
        name: str = "controller",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        command = [sys.executable, "-m", "imagestreams", "run", "--kubeconfig", str(kubeconfig)]
        self._command = [*command, "--http-address", "127.0.0.1:0", "--log-level", "debug", *flags]
        self._directory, self._name, self._environment = directory, name, environment
        self._server: Server | None = None
        self._log_offset = 0

    def start(self, *, wait: bool = True) -> Self:
        """Start it, and with `wait` return when it is ready (caches synced, API server answers)."""
        log = self._directory / f"{self._name}.log"
        self._log_offset = log.stat().st_size if log.exists() else 0
        self._server = Server(self._name, self._command, self._directory, self._environment)
        if wait:
            self._server.wait_until(self.is_ready, "readiness", seconds=30)
        return self

    @property
    def server(self) -> Server:
        if self._server is None:
            raise RuntimeError("the controller is not started")
        return self._server

    def log(self) -> list[dict[str, object]]:
        """What the running process has logged, one object a line; other lines (a traceback) are left out."""
        with self.server.log.open(encoding="utf-8", errors="replace") as file:
            file.seek(self._log_offset)
            return [json.loads(line) for line in file if line.startswith("{") and line.endswith("}\n")]

    @property
    def url(self) -> str:
        """Where it serves health and metrics; OSError while it does not yet."""
        for entry in self.log():
            if entry.get("event") == "serving":
                return f"http://{entry['address']}"
        raise ConnectionRefusedError("the controller does not serve yet")

    def get(self, path: str) -> str:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(self.url + path, timeout=5) as answer:
            return str(answer.read().decode())

    def readiness(self) -> str:
        """What /readyz says, whatever its status; empty while nothing is served."""
        try:
            return self.get("/readyz")
        except urllib.error.HTTPError as error:
            with error:
                return str(error.read().decode())
        except OSError:
            return ""

    def is_ready(self) -> bool:
        checks = self.readiness()
        return bool(checks) and "[-]" not in checks

    def metrics(self) -> dict[str, float]:
        """The samples of /metrics by name and labels, as they stand in the text format."""
        lines = (line for line in self.get("/metrics").splitlines() if line and not line.startswith("#"))
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}

    def kill(self) -> None:
        """Kill -9."""
        self.server.signal(signal.SIGKILL)
        self.server.stop()

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop(seconds=15)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


def install_webhooks(plane: ControlPlane, *, port: int) -> Path:
    """Apply `config/default` with `config/webhook` and `config/webhook-process`, the webhooks called at a port of this
    machine.

    Returns a kubeconfig with the rights of the controller's service account; `webhook_rights` gives those of a process
    that serves webhooks alone. What is to answer them needs `webhook_flags`.
    """
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        for source in ("config", "crds"):
            shutil.copytree(_ROOT / source, folder / source)
        overlay = folder / "config" / "local"
        overlay.mkdir()
        (overlay / "kustomization.yaml").write_text(
            "resources: [../default]\ncomponents: [../webhook, ../webhook-process]\n"
        )
        objects = list(yaml.safe_load_all(plane.kubectl("kustomize", str(overlay)).stdout))
        for value in objects:
            if value["kind"] == "MutatingWebhookConfiguration":
                for webhook in value["webhooks"]:
                    door = webhook["name"].partition(".")[0]
                    webhook["clientConfig"] = {"url": f"https://127.0.0.1:{port}/admit/{door}"}
        (folder / "all.yaml").write_text(yaml.safe_dump_all(objects))
        plane.kubectl("apply", "--server-side", "-f", str(folder / "all.yaml"))
    plane.kubectl("delete", "deployment", WEBHOOK_ACCOUNT, "--namespace", NAMESPACE)
    return _ready(plane)


def webhook_rights(plane: ControlPlane) -> Path:
    """A kubeconfig with the rights of a process that serves webhooks alone."""
    return plane.service_account_kubeconfig(NAMESPACE, WEBHOOK_ACCOUNT)


def webhook_flags(port: int) -> tuple[str, ...]:
    """What the controller that `install_webhooks` is for is started with."""
    return (f"--webhook-address=127.0.0.1:{port}", "--webhook-name=127.0.0.1")


def install(plane: ControlPlane, *, kustomization: Path) -> Path:
    """Apply what is shipped, but for the controller's own Deployment, whose image no node here could run.

    Returns a kubeconfig with the rights of the controller's service account.
    """
    plane.kubectl("apply", "--server-side", "-k", str(kustomization))
    return _ready(plane)


def _ready(plane: ControlPlane) -> Path:
    plane.kubectl("delete", "deployment", "imagestreams", "--namespace", NAMESPACE)
    plane.kubectl("wait", "--for=condition=Established", "--timeout=30s", "crd", "--all")
    return plane.service_account_kubeconfig(NAMESPACE, SERVICE_ACCOUNT)
