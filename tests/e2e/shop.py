"""The world in which the transcripts of docs/commands are typed, always the same: a cluster, a registry, and Jane.

    namespace shop       streams `web` and `tools`, the Deployments `web` and `worker`; Jane is its admin
    namespace images     the stream `base`; shop may pull from it, and Jane may only look

    web   stable -> registry.example.com/acme/web:stable   was 1.0, and has moved to 1.1
          1.0    -> registry.example.com/acme/web:1.0
          prod   -> stable, an alias
          edge   -> registry.example.com/acme/web:edge     which the registry does not have

The registry has acme/web:1.0, 1.1, stable, and whatever a page pushes; acme/tools:2024; acme/base:latest. The
Deployment `web` follows web:stable. So did `worker`, until Jane undid its last rollout: it is held at 1.0.

Images are made of fixed bytes, so that their digests are the same on every machine.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.error
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import yaml

from dev.control_plane import ControlPlane
from dev.controller import Controller, install
from dev.images import OCI_MANIFEST, Image, Index, digest_of, index, push
from dev.registries import Registry
from tests.waiting import until

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
HOST = "registry.example.com"
NAMESPACES = ("shop", "images")
USER = "jane"

_GROUP = "image.openshift.io"
_WATCHED = (  # what a command may set in motion
    f"/apis/{_GROUP}/v1/imagestreams",
    f"/apis/{_GROUP}/v1/imagestreamimports",
    "/apis/apps/v1/deployments",
    "/apis/batch/v1/cronjobs",
)
_SYSTEM = {"default", "kube-node-lease", "kube-public", "kube-system", "imagestreams-system"}
_DELETED = {  # between pages, owners first
    f"/apis/{_GROUP}/v1": "imagestreams imagestreamimports",
    "/apis/apps/v1": "deployments statefulsets daemonsets replicasets",
    "/apis/batch/v1": "cronjobs jobs",
    "/api/v1": "replicationcontrollers pods services configmaps secrets serviceaccounts events",
    "/apis/rbac.authorization.k8s.io/v1": "rolebindings roles",
    "/apis/coordination.k8s.io/v1": "leases",
}
_KEPT = {("configmaps", "kube-root-ca.crt"), ("serviceaccounts", "default")}
_REST = 0.4  # seconds without a change, the controller idle, after which nothing more is expected
_PATIENCE = 30.0


def container(version: str, *, name: str = "web", architecture: str = "amd64") -> Image:
    """An image whose bytes depend on nothing but the arguments: compressed ones differ between versions of zlib."""
    layer = _tar(f"{name} {version} for {architecture}\n")
    platform = {"os": "linux", "architecture": architecture}
    config = _json(
        {
            "created": "2024-01-01T00:00:00Z",
            "author": "Acme",
            **platform,
            "config": {
                "User": "1001",
                "ExposedPorts": {"8080/tcp": {}},
                "Env": ["PATH=/usr/local/bin:/usr/bin:/bin", f"VERSION={version}"],
                "Entrypoint": [f"/usr/bin/{name}"],
                "Cmd": ["--port=8080"],
                "WorkingDir": "/srv",
                "Labels": {
                    "org.opencontainers.image.title": name,
                    "org.opencontainers.image.version": version,
                },
            },
            "rootfs": {"type": "layers", "diff_ids": [digest_of(layer)]},
            "history": [{"created": "2024-01-01T00:00:00Z", "created_by": f"COPY {name} /usr/bin/{name}"}],
        }
    )
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": _descriptor("application/vnd.oci.image.config.v1+json", config),
            "layers": [_descriptor("application/vnd.oci.image.layer.v1.tar", layer)],
        }
    )
    return Image(OCI_MANIFEST, manifest, config, (layer,), platform)


def release(version: str, *, name: str = "web") -> Index:
    """A version as it is published: an index of two platforms."""
    return index([container(version, name=name), container(version, name=name, architecture="arm64")])


class Shop:
    """The world, started once and made anew for each page by `begin`.

    Args:
        flags: of the controller, beside those that make it quick.
    """

    def __init__(self, *flags: str) -> None:
        self._flags = flags
        self._stack = ExitStack()
        self.plane = ControlPlane()
        self.registry = Registry()
        self.directory = Path(tempfile.mkdtemp(prefix="imagestreams-shop-"))
        self.home = self.directory / "home"
        self._at_rest: dict[str, str] = {}

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.callback(shutil.rmtree, self.directory, ignore_errors=True)
            stack.enter_context(self.plane)
            stack.enter_context(self.registry)
            self.home.mkdir()
            self._may_see_all()
            rights = install(self.plane, kustomization=ROOT / "config" / "default")
            until(self._is_served, seconds=_PATIENCE)
            self.controller = Controller(
                rights,
                self.directory,
                f"--registry-endpoint={HOST}=http://{self.registry.host}",
                f"--registry-endpoint=docker.io=http://{self.registry.host}",
                "--settle=200ms",
                "--lease-duration=3s",
                *self._flags,
            )
            stack.enter_context(self.controller)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def begin(self) -> None:
        """The world as the module says, whatever was done in it before."""
        self._clear()
        shutil.rmtree(self.home)
        self._write_home()
        self._fill_registry()
        self._let_in()
        self._apply(
            "images",
            _stream("base", latest=f"{HOST}/acme/base:latest"),
        )
        self._apply(
            "shop",
            _stream("tools", **{"2024": f"{HOST}/acme/tools:2024"}),
            _stream(
                "web",
                stable=f"{HOST}/acme/web:stable",
                **{"1.0": f"{HOST}/acme/web:1.0"},
                prod="stable",
                edge=f"{HOST}/acme/web:edge",
            ),
            _deployment("web"),
            _deployment("worker"),
        )
        old, new = release("1.0").digest, release("1.1").digest
        until(lambda: self._served("stable") == self._served("prod") == [old], seconds=_PATIENCE)
        until(lambda: self._is_rolled_out("web", old) and self._is_rolled_out("worker", old), seconds=_PATIENCE)
        push(self.registry, "acme/web", "stable", release("1.1"))
        self.plane.kubectl("annotate", "imagestream", "web", "-n", "shop", "imagestreams.dev/refresh=moved stable")
        until(lambda: self._served("prod") == [new, old], seconds=_PATIENCE)
        until(lambda: self._is_rolled_out("web", new) and self._is_rolled_out("worker", new), seconds=_PATIENCE)
        self.plane.kubectl("rollout", "undo", "deployment/worker", "-n", "shop")
        until(lambda: "ImageHeld" in self._events("worker"), seconds=_PATIENCE)
        # What was asked for to get here is no part of the world.
        self.plane.kubectl("annotate", "imagestream", "web", "-n", "shop", "imagestreams.dev/refresh-")
        self.rest()

    def type(self, command: str, *, last: int = 0) -> subprocess.CompletedProcess[str]:
        """What a shell in the project's folder does with a command, as Jane types it; `last` is `$?`.

        Returns when nothing moves any more that the command has set in motion.
        """
        shell = subprocess.Popen(
            ["bash", "-c", f"(exit {last})\n{command}"],
            cwd=ROOT,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        with shell:
            try:
                stdout, stderr = shell.communicate(timeout=_PATIENCE)
            except BaseException:
                os.killpg(shell.pid, signal.SIGKILL)  # also what runs in its background
                raise
        done = subprocess.CompletedProcess[str](command, shell.returncode, stdout, stderr)
        if self._state() != self._at_rest:
            self.rest()
        return done

    def rest(self) -> None:
        """Wait until rollouts are done, the controller has nothing to do, and nothing changes."""
        deadline = time.monotonic() + _PATIENCE
        state, since = self._state(), time.monotonic()
        while time.monotonic() - since < _REST:
            assert time.monotonic() < deadline, f"no rest within {_PATIENCE:g} s\n{self.controller.server.tail(15)}"
            time.sleep(0.1)
            seen = self._state()
            if seen != state or not self._is_idle():
                state, since = seen, time.monotonic()
        self._at_rest = state

    @property
    def stand_ins(self) -> tuple[tuple[str, str], ...]:
        """What is really there, and what pages show for it."""
        return (
            (self.plane.url, "https://127.0.0.1:6443"),
            (self.plane.url.removeprefix("https://"), "127.0.0.1:6443"),
            (self.registry.host, "127.0.0.1:5000"),
            (str(self.home), "/home/jane"),
        )

    # --- what is there

    def _served(self, tag: str) -> list[str]:
        path = f"/apis/{_GROUP}/v1/namespaces/shop/imagestreams/web"
        tags = self.plane.request("GET", path).get("status", {}).get("tags", [])
        return [item["image"] for found in tags if found["tag"] == tag for item in found.get("items") or []]

    def _is_rolled_out(self, name: str, digest: str) -> bool:
        found = self.plane.request("GET", f"/apis/apps/v1/namespaces/shop/deployments/{name}")
        [only] = found["spec"]["template"]["spec"]["containers"]
        return only["image"].endswith(digest) and _is_done(found)

    def _events(self, name: str) -> set[str]:
        found = self.plane.request("GET", "/api/v1/namespaces/shop/events")["items"]
        return {event["reason"] for event in found if event["involvedObject"]["name"] == name}

    def _state(self) -> dict[str, str]:
        return {
            f"{path} {each['metadata']['uid']}": each["metadata"]["resourceVersion"]
            for path in _WATCHED
            for each in self.plane.request("GET", path)["items"]
        }

    def _is_served(self) -> bool:
        """A new resource is answered with 429 for a moment."""
        try:
            return not self._state()
        except urllib.error.HTTPError as error:
            error.close()
            return False

    def _is_idle(self) -> bool:
        depths = [value for name, value in self.controller.metrics().items() if "_queue_depth" in name]
        rollouts = self.plane.request("GET", "/apis/apps/v1/deployments")["items"]
        return not any(depths) and all(_is_done(found) for found in rollouts if not _cannot_start(found))

    # --- making it

    def _clear(self) -> None:
        """Nothing of the page before is left. The namespaces of the world are emptied, as deleting one takes 10 s."""
        present = {each["metadata"]["name"] for each in self.plane.request("GET", "/api/v1/namespaces")["items"]}
        if others := sorted(present - _SYSTEM - set(NAMESPACES)):
            self.plane.kubectl("delete", "namespace", *others, "--timeout=60s")
        for namespace in NAMESPACES:
            if namespace not in present:
                self.plane.kubectl("create", "namespace", namespace)
            else:
                until(lambda namespace=namespace: self._is_emptied(namespace), seconds=_PATIENCE)

    def _is_emptied(self, namespace: str) -> bool:
        """Whether there was nothing left to be deleted."""
        found = 0
        for group, kinds in _DELETED.items():
            for kind in kinds.split():
                path = f"{group}/namespaces/{namespace}/{kind}"
                for each in self.plane.request("GET", path)["items"]:
                    if (kind, each["metadata"]["name"]) not in _KEPT:
                        found += 1
                        with contextlib.suppress(urllib.error.HTTPError):  # gone by itself
                            self.plane.request(
                                "DELETE", f"{path}/{each['metadata']['name']}", {"gracePeriodSeconds": 0}
                            )
        return not found

    def _fill_registry(self) -> None:
        self.registry.stop_server()
        shutil.rmtree(self.registry.directory / "storage", ignore_errors=True)
        self.registry.start_server()
        for tag, version in {"1.0": "1.0", "1.1": "1.1", "stable": "1.0"}.items():
            push(self.registry, "acme/web", tag, release(version))
        push(self.registry, "acme/tools", "2024", container("2024", name="tools"))
        push(self.registry, "acme/base", "latest", release("9", name="base"))
        push(self.registry, "library/nginx", "stable", release("1.29", name="nginx"))

    def _let_in(self) -> None:
        kubectl = self.plane.kubectl
        kubectl("create", "rolebinding", "jane", "-n", "shop", "--clusterrole=admin", f"--user={USER}")
        group = "--group=system:serviceaccounts:shop"
        kubectl("create", "rolebinding", "pull", "-n", "images", "--clusterrole=system:image-puller", group)

    def _may_see_all(self) -> None:
        self.plane.kubectl("create", "clusterrolebinding", "jane-looks", "--clusterrole=view", f"--user={USER}")

    def _apply(self, namespace: str, *objects: dict[str, Any]) -> None:
        self.plane.kubectl("apply", "--server-side", "-n", namespace, "-f", "-", input=yaml.safe_dump_all(objects))

    def _write_home(self) -> None:
        """Jane's kubeconfig, and programs that are found before others: kubectl, and a `docker` that only pushes."""
        config = yaml.safe_load(self.plane.kubeconfig.read_text())
        config["contexts"][0]["name"] = config["current-context"] = "my-cluster"
        config["contexts"][0]["context"]["namespace"] = "shop"
        config["users"][0]["user"]["as"] = USER
        config["users"][0]["user"]["as-groups"] = ["system:authenticated"]
        (self.home / ".kube").mkdir(parents=True)
        (self.home / ".kube" / "config").write_text(yaml.safe_dump(config))
        programs = self.home / "bin"
        programs.mkdir()
        (programs / "kubectl").symlink_to(self.plane.programs["kubectl"])
        docker = programs / "docker"
        docker.write_text(f'#!/bin/sh\nexec {sys.executable} -m tests.e2e.shop "{self.registry.host}" "$@"\n')
        docker.chmod(0o755)

    def _environment(self) -> dict[str, str]:
        ours = {name: value for name, value in os.environ.items() if name.startswith(("LD_", "PYTHON", "XDG_CACHE"))}
        endpoints = ",".join(f"{host}=http://{self.registry.host}" for host in (HOST, "docker.io"))
        return {
            **ours,
            "PATH": f"{self.home / 'bin'}:{BIN}:{os.environ['PATH']}",
            "HOME": str(self.home),
            "USER": USER,
            "LC_ALL": "C.UTF-8",
            "TERM": "dumb",
            "TZ": "UTC",
            "COLUMNS": "100",
            "KUBECACHEDIR": str(self.home / "cache"),
            "KUBERC": "off",
            "IMAGESTREAMS_REGISTRY_ENDPOINT": endpoints,
        }


def _is_done(found: dict[str, Any]) -> bool:
    status, wanted = found.get("status", {}), found["spec"]["replicas"]
    counts = [status.get(count, 0) for count in ("replicas", "updatedReplicas", "availableReplicas")]
    return counts == [wanted] * 3 and status.get("observedGeneration") == found["metadata"]["generation"]


def _cannot_start(found: dict[str, Any]) -> bool:
    template = found["spec"]["template"]
    annotations = template["metadata"].get("annotations", {})
    images = [each["image"] for each in template["spec"]["containers"]]
    is_paused = found["spec"].get("paused", False)
    return is_paused or "imagestreams.dev/dev-fail" in annotations or any("crash" in image for image in images)


def _stream(name: str, **tags: str) -> dict[str, Any]:
    """Tags from their sources: of another registry's image, or of a tag of this stream where there is no slash."""
    return {
        "apiVersion": f"{_GROUP}/v1",
        "kind": "ImageStream",
        "metadata": {"name": name},
        "spec": {
            "tags": [
                {"name": tag, "from": {"kind": "DockerImage" if "/" in source else "ImageStreamTag", "name": source}}
                for tag, source in tags.items()
            ]
        },
    }


def _deployment(name: str) -> dict[str, Any]:
    labels = {"app": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "annotations": {"imagestreams.dev/follow": f"{name}=web:stable"}},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": name, "image": f"{HOST}/acme/web:stable"}]},
            },
        },
    }


def _descriptor(media_type: str, content: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest_of(content), "size": len(content)}


def _tar(text: str) -> bytes:
    entry = tarfile.TarInfo("text")
    entry.size, entry.mode, entry.mtime = len(text), 0o644, 0
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        archive.addfile(entry, io.BytesIO(text.encode()))
    return output.getvalue()


def _json(content: object) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode()


class _Open:
    """The registry as `push` wants it."""

    ca_pem = None
    username = password = ""

    def __init__(self, host: str) -> None:
        self.host = host


def docker(arguments: list[str]) -> None:
    """`docker push --quiet registry.example.com/acme/web:TAG`, for what Jane has built: version 1.2, whatever TAG."""
    host, *words = arguments
    if len(words) != 3 or words[:2] not in (["push", "--quiet"], ["push", "-q"]) or not words[2].startswith(f"{HOST}/"):
        sys.exit(f"here docker only knows: docker push --quiet {HOST}/PATH:TAG")
    repository, _, tag = words[2].removeprefix(f"{HOST}/").rpartition(":")
    push(_Open(host), repository, tag, release("1.2", name=repository.rpartition("/")[2]))
    print(words[2])


if __name__ == "__main__":
    docker(sys.argv[1:])
