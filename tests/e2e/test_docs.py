"""Every command of the README and the tutorial, typed as it stands there, and what it must print."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from dev.control_plane import ControlPlane
from dev.controller import Controller
from dev.images import image, index, push
from dev.registries import Registry
from tests.conftest import ROOT
from tests.e2e.conftest import BIN
from tests.waiting import until


def commands(document: str) -> list[tuple[str, list[str]]]:
    """The lines after `$ ` in the document's console blocks, each with the output lines that follow it."""
    found: list[tuple[str, list[str]]] = []
    for block in re.findall(r"```console\n(.*?)```", (ROOT / document).read_text(), re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line[2:].split("    #")[0].strip(), []))
            elif line.strip():
                found[-1][1].append(line)
    return found


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """For the kubeconfig, the log, and a `kubectl` of the control plane's version to be found on PATH."""
    return tmp_path


@pytest.fixture
def shell(control_plane: ControlPlane, namespace: str, directory: Path):
    """Types a command in the project's folder; the kubeconfig's context `my-cluster` has the test's namespace."""
    config = yaml.safe_load(control_plane.kubeconfig.read_text())
    config["contexts"][0]["name"] = config["current-context"] = "my-cluster"
    config["contexts"][0]["context"]["namespace"] = namespace
    kubeconfig = directory / "kubeconfig"
    kubeconfig.write_text(yaml.safe_dump(config))
    (directory / "kubectl").symlink_to(control_plane.programs["kubectl"])
    environment = {**os.environ, "KUBECONFIG": str(kubeconfig), "PATH": f"{directory}:{BIN}:{os.environ['PATH']}"}

    def run(command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=90, check=False
        )

    return run


@pytest.fixture
def hub() -> Iterator[Registry]:
    """What docker.io is in these tests."""
    with Registry("distribution-v3") as registry:
        yield registry


def test_tutorial(shell, control_plane: ControlPlane, rights: Path, hub: Registry, directory: Path):
    for name in ("images", "shop"):
        control_plane.kubectl("create", "namespace", name)
    push(hub, "library/nginx", "stable", index([image(text="1"), image(architecture="arm64", text="1")]))
    flags = (f"--registry-endpoint=docker.io=http://{hub.host}", "--lease-duration=3s")
    typed = commands("docs/tutorial.md")
    assert len(typed) >= 10
    try:
        with Controller(rights, directory, *flags):
            for command, output in typed:
                if "import-image" in command:
                    push(hub, "library/nginx", "stable", image(text=command))
                if "rollout undo" in command:  # the move before it must have arrived
                    generation = "kubectl get deployment web -o jsonpath='{.metadata.generation}'"
                    until(lambda: shell(generation).stdout == "3")  # noqa: B023 (called before the loop goes on)
                # What needs no cluster is told where docker.io is, as the demo tells it.
                done = shell(f"export IMAGESTREAMS_REGISTRY_ENDPOINT=docker.io=http://{hub.host}; {command}")
                assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
                for line in output:
                    assert line in done.stdout, f"{command}\n{done.stdout}"
                if command.endswith("deployment.yaml"):
                    until(lambda: "sha256" in shell("kubectl get deployment web -o yaml").stdout)
                if "rollout undo" in command:
                    until(lambda: "ImageHeld" in shell("kubectl describe deployment web").stdout)
    finally:
        control_plane.kubectl("delete", "namespace", "images", "shop", "--wait=false")


def test_readme(shell, control_plane: ControlPlane, directory: Path):
    makefile = (ROOT / "Makefile").read_text()
    for command, _ in commands("README.md"):
        if command.startswith("make "):
            target = command.split()[1]
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), command
        elif command.startswith("imagestreams run"):
            words = command.removeprefix("imagestreams run").split()
            with Controller(directory / "kubeconfig", directory, *words) as controller:
                until(lambda: controller.metrics()["imagestreams_leader"] == 1)
        else:
            done = shell(command)
            assert done.returncode == 0, f"{command}\n{done.stderr}"


@pytest.mark.cluster
def test_the_demo_shows_a_rollout():
    """A control plane and a registry of its own; the exit code says whether every step happened."""
    done = subprocess.run([sys.executable, "-m", "dev.demo"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"In the status after \d+\.\d s", done.stdout)
    assert 'imagestreams_rollouts_total{kind="Deployment",result="applied"}   2' in done.stdout


@pytest.mark.cluster
def test_the_demo_says_which_step_did_not_happen():
    """Here the controller: it refuses to start with a setting that does not exist."""
    environment = {**os.environ, "IMAGESTREAMS_INTERVALL": "1m"}
    command = [sys.executable, "-m", "dev.demo"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "The demo failed: controller ended" in done.stdout
    assert "IMAGESTREAMS_INTERVALL" in done.stdout
