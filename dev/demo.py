"""From a manifest to a rollout on this machine: `make demo`.

A real control plane, a real registry and the real controller, each a process of its own on loopback. The manifests are
those of `config/samples/`, unchanged: the controller is told by a setting to ask the registry of this demo for
docker.io. Every step is checked; the exit code is 1, with a reason, when one did not happen. `--keep` leaves everything
running until Ctrl-C and prints what to try.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dev.binaries import BuildError
from dev.control_plane import ControlPlane
from dev.controller import Controller, install
from dev.images import image, index, push
from dev.process import StartError
from dev.registries import Registry

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ROOT = Path(__file__).parents[1]
NAMESPACE = "demo"
INTERVAL = 5
_COUNTERS = ("imagestreams_imports_total", "imagestreams_tag_moves_total", "imagestreams_rollouts_total")


class StepFailed(Exception):
    """A step of the demo did not happen; the text says which."""


@dataclass
class Stage:
    """What the demo plays on."""

    plane: ControlPlane
    registry: Registry
    controller: Controller

    def kubectl(self, *args: str) -> str:
        return self.plane.kubectl("--namespace", NAMESPACE, *args).stdout

    def get(self, resource: str, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.kubectl("get", resource, name, "-o", "json"))
        return found

    def digest(self) -> str:
        """The digest that the stream records for the tag, or "" while there is none."""
        tags = self.get("imagestreams", "web").get("status", {}).get("tags", [])
        return next((item["image"] for tag in tags for item in tag.get("items", [])[:1]), "")

    def deployed(self) -> str:
        containers = self.get("deployments", "web")["spec"]["template"]["spec"]["containers"]
        return str(containers[0]["image"])

    def is_rolled_out(self) -> bool:
        """Whether all pods of the Deployment's present template are available, and no others are left."""
        found = self.get("deployments", "web")
        status, wanted = found.get("status", {}), found["spec"]["replicas"]
        counts = [status.get(name, 0) for name in ("replicas", "updatedReplicas", "availableReplicas")]
        return counts == [wanted] * 3 and status.get("observedGeneration") == found["metadata"]["generation"]


def main() -> int:
    """Play it; returns the exit code."""
    parser = argparse.ArgumentParser(prog="make demo", description="From a manifest to a rollout, on this machine.")
    parser.add_argument("--keep", action="store_true", help="leave everything running until Ctrl-C")
    options = parser.parse_args()
    try:
        with ExitStack() as stack:
            stage = _set_up(stack)
            started = time.monotonic()
            _play(stage)
            _say(f"\nDone in {time.monotonic() - started:.1f} s.")
            if options.keep:
                _keep(stage)
    except (StepFailed, StartError, BuildError) as error:
        _say(f"\nThe demo failed: {error}")
        return 1
    except KeyboardInterrupt:
        _say("\nStopped.")
    return 0


def _set_up(stack: ExitStack) -> Stage:
    started = time.monotonic()
    _say("Setting up: a Kubernetes control plane with one fake node, a registry, and the controller.")
    directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="imagestreams-demo-")))
    plane = stack.enter_context(ControlPlane())
    registry = stack.enter_context(Registry("distribution-v3"))
    kubeconfig = install(plane, kustomization=ROOT / "config" / "default")
    flags = (f"--registry-endpoint=docker.io=http://{registry.host}", f"--interval={INTERVAL}s", "--min-interval=1s")
    controller = stack.enter_context(Controller(kubeconfig, directory, *flags))
    plane.kubectl("create", "namespace", NAMESPACE)
    _say(
        f"Ready after {time.monotonic() - started:.1f} s. In this demo docker.io is the registry at {registry.host}.\n"
    )
    return Stage(plane, registry, controller)


def _play(stage: Stage) -> None:
    first = index([image(text="web 1"), image(architecture="arm64", text="web 1")])
    second = index([image(text="web 2"), image(architecture="arm64", text="web 2")])

    _say("1. An image is pushed as docker.io/library/nginx:stable, for two platforms.")
    push(stage.registry, "library/nginx", "stable", first)

    _say("2. kubectl apply -k config/samples: an ImageStream that follows it, a Deployment that follows the stream.")
    stage.kubectl("apply", "-k", str(ROOT / "config" / "samples"))
    took = _until(lambda: stage.digest() == first.digest, "the digest of the tag in the stream's status", stage)
    _say(f"   The stream has its digest after {took:.1f} s.")
    took = _until(lambda: stage.deployed().endswith(first.digest), "the digest in the Deployment", stage)
    _until(stage.is_rolled_out, "the rollout of the first image", stage)
    _show(stage)

    _say("3. Another image is pushed under the same tag. Nobody tells the cluster.")
    push(stage.registry, "library/nginx", "stable", second)
    pushed = time.monotonic()
    _until(lambda: stage.digest() == second.digest, "the new digest in the stream's status", stage)
    seen = time.monotonic() - pushed
    _until(lambda: stage.deployed().endswith(second.digest), "the new digest in the Deployment", stage)
    patched = time.monotonic() - pushed
    _until(stage.is_rolled_out, "the rollout of the new image", stage)
    rolled = time.monotonic() - pushed
    _say(f"   In the status after {seen:.1f} s (polled every {INTERVAL} s), in the Deployment after {patched:.1f} s,")
    _say(f"   rolled out after {rolled:.1f} s.")
    _show(stage)

    _say("4. What kubectl and /metrics say.")
    _say(_indented(stage.kubectl("get", "imagestreams,deployments")))
    samples = stage.controller.metrics()
    counters = {name: value for name, value in samples.items() if name.startswith(_COUNTERS)}
    _say(_indented(_table([("METRIC", "VALUE"), *((name, f"{value:g}") for name, value in sorted(counters.items()))])))
    if counters.get('imagestreams_imports_total{outcome="resolved"}', 0) < 2:
        raise StepFailed(f"/metrics counts no imports: {counters}")


def _show(stage: Stage) -> None:
    """Tag, digest and history of the stream, and what the Deployment runs."""
    tags = [("TAG", "DIGEST", "SINCE", "")]
    for tag in stage.get("imagestreams", "web")["status"]["tags"]:
        for position, item in enumerate(tag["items"]):
            tags.append((tag["tag"], item["image"][:19] + "...", item["created"], "before" if position else "now"))
    deployments = [("DEPLOYMENT", "IMAGE"), ("web", stage.deployed()[:49] + "...")]
    _say(f"{_indented(_table(tags))}\n\n{_indented(_table(deployments))}\n")


def _until(is_so: Callable[[], bool], what: str, stage: Stage, *, seconds: float = 30) -> float:
    """Wait for a condition; returns the seconds it took, raises StepFailed when it does not come."""
    started = time.monotonic()
    while not is_so():
        if time.monotonic() - started > seconds:
            raise StepFailed(f"{what} did not come within {seconds:g} s.\n{stage.controller.server.tail(15)}")
        time.sleep(0.05)
    return time.monotonic() - started


def _keep(stage: Stage) -> None:
    program = Path(sys.executable).parent / "imagestreams"
    _say(
        f"""
Everything is left running. In another terminal:

  export KUBECONFIG={stage.plane.kubeconfig}
  export IMAGESTREAMS_REGISTRY_ENDPOINT=docker.io=http://{stage.registry.host}    # for resolve and explain
  kubectl -n {NAMESPACE} get is,deploy
  kubectl -n {NAMESPACE} describe is web
  {program} -n {NAMESPACE} import-image web:stable
  {program} explain docker.io/library/nginx:stable
  kubectl -n {NAMESPACE} set image deploy/web web=example/other    # by hand: held, see `kubectl describe deploy web`
  kubectl -n {NAMESPACE} rollout undo deploy/web
  {sys.executable} -m dev.images {stage.registry.host} library/nginx stable "web 3"    # push again
  curl {stage.controller.url}/metrics

kubectl 1.36 is at {stage.plane.programs["kubectl"]}. Ctrl-C ends it all."""
    )
    while True:
        time.sleep(3600)


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = ("   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def _indented(text: str) -> str:
    return "\n".join(f"   {line}" for line in text.rstrip().splitlines())


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
