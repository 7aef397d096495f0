"""Two hundred image streams as OpenShift ships and exports them: applied as they are, imported from registries that
stand for docker.io, quay.io and registry.redhat.io, and applied again.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from dev.control_plane import ControlPlane
from dev.controller import Controller
from dev.images import push
from dev.registries import Registry, available
from tests.e2e.conftest import World
from tests.e2e.proxy import ApiProxy
from tests.e2e.samples import Sample, content_of, make_samples, sources, write_manifests

STREAMS = "/apis/image.openshift.io/v1/namespaces/{}/imagestreams"
_REQUESTS = "imagestreams_registry_requests_total"


@pytest.fixture(scope="module")
def hosts() -> Iterator[Mapping[str, Registry]]:
    """The registries by the names in the manifests, with all that the manifests name. Red Hat's asks for a login."""
    old = "docker-registry-2.8" if available("docker-registry-2.8") else "distribution-v3"
    with ExitStack() as stack:
        served = {
            "docker.io": stack.enter_context(Registry("distribution-v3")),
            "quay.io": stack.enter_context(Registry(old)),  # type: ignore[arg-type]
            "registry.redhat.io": stack.enter_context(Registry("distribution-v3", auth="token", tls=True)),
        }

        def fill(repository: str) -> None:
            host, _, path = repository.partition("/")
            for name in names[repository]:
                push(served[host], path, name.rpartition(":")[2], content_of(name))

        names: dict[str, list[str]] = {}
        for name in sorted(sources(make_samples())):
            names.setdefault(name.rpartition(":")[0], []).append(name)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(fill, names))
        yield served


def flags_for(hosts: Mapping[str, Registry]) -> tuple[str, ...]:
    """Slots so long that none begins meanwhile; and however slow this machine is, a stream's answers are written
    together. What is not said is as people have it, the Lease too: one that a stall of some seconds can lose would
    have questions asked twice.
    """
    return (
        *(f"--registry-endpoint={name}={registry.url}" for name, registry in hosts.items()),
        f"--registry-ca=registry.redhat.io={hosts['registry.redhat.io'].ca_file}",
        "--interval=720h",
        "--settle=2s",
    )


def test_two_hundred_streams_of_openshift(
    world: World, control_plane: ControlPlane, rights: Path, hosts: Mapping[str, Registry], tmp_path: Path
):
    samples, manifests = make_samples(), tmp_path / "manifests"
    manifests.mkdir()
    write_manifests(samples, manifests)
    red_hat = hosts["registry.redhat.io"]
    login = (f"--docker-username={red_hat.username}", f"--docker-password={red_hat.password}")
    world.kubectl("create", "secret", "docker-registry", "red-hat", "--docker-server=registry.redhat.io", *login)

    with (
        ApiProxy(control_plane) as proxy,
        Controller(proxy.kubeconfig(rights), tmp_path, *flags_for(hosts)) as controller,
    ):
        applied = world.kubectl("apply", "-f", str(manifests))
        assert applied.stderr == ""
        assert Counter(line.split()[1] for line in applied.stdout.splitlines()) == {"created": len(samples)}

        def streams() -> dict[str, dict[str, Any]]:
            found = control_plane.request("GET", STREAMS.format(world.namespace))["items"]
            return {stream["metadata"]["name"]: stream for stream in found}

        def unready() -> dict[str, str]:
            return {name: _ready(stream) for name, stream in streams().items() if _ready(stream) != "True Imported"}

        world.until(lambda: not unready(), seconds=75)

        imported = streams()
        for sample in samples:
            assert _seen(imported[sample.name]) == {
                name: (wanted.recorded, wanted.digest) for name, wanted in sample.wanted.items()
            }, sample.name
        writes = _status_writes(proxy, world.namespace)
        assert set(writes) == {sample.name for sample in samples}
        assert max(writes.values()) <= 3, writes.most_common(5)
        asked = _requests(controller)
        assert asked["manifest 200"] <= _questions(samples), "equal questions are asked once"
        assert asked["manifest 401"] <= len(_repositories(samples, "registry.redhat.io/"))
        assert asked["token 200"] == len(_repositories(samples, "registry.redhat.io/"))
        assert set(asked) == {"manifest 200", "manifest 401", "token 200"}, asked

        again = world.kubectl("apply", "-f", str(manifests))
        assert again.stderr == ""
        # Events of one watch come in order: when the sentinel is imported, all that was applied before has been seen.
        world.apply(_sentinel())
        world.until(lambda: _ready(world.get("imagestreams", "sentinel")) == "True Imported")

        assert _status_writes(proxy, world.namespace) - writes == {"sentinel": 1}
        assert _requests(controller) - asked == {"manifest 200": 1}
        applied_again = streams()
        for name, before in imported.items():
            assert applied_again[name]["status"] == before["status"]
            assert applied_again[name]["metadata"]["generation"] == before["metadata"]["generation"]


def _sentinel() -> dict[str, Any]:
    source = {"kind": "DockerImage", "name": "quay.io/all/python:3.0"}
    return {
        "apiVersion": "image.openshift.io/v1",
        "kind": "ImageStream",
        "metadata": {"name": "sentinel"},
        "spec": {"tags": [{"name": "last", "from": source}]},
    }


def _ready(stream: dict[str, Any]) -> str:
    conditions = stream.get("status", {}).get("conditions", [])
    return "".join(f"{each['status']} {each['reason']}" for each in conditions if each["type"] == "Ready")


def _seen(stream: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """The one item of each tag: pull spec and digest. An export's history and failures are another cluster's."""
    found = {}
    for tag in stream["status"]["tags"]:
        [item] = tag["items"]
        [condition] = tag["conditions"]
        assert (condition["type"], condition["status"]) == ("ImportSuccess", "True"), tag
        found[tag["tag"]] = (item["dockerImageReference"], item.get("image", ""))
    return found


def _status_writes(proxy: ApiProxy, namespace: str) -> Counter[str]:
    path = re.compile(re.escape(STREAMS.format(namespace)) + "/([^/]+)/status")
    matches = (path.fullmatch(path_) for method, path_ in list(proxy.requests) if method == "PATCH")
    return Counter(match[1] for match in matches if match)


def _requests(controller: Controller) -> Counter[str]:
    """Requests to registries by class and code: "manifest 200"."""
    found: Counter[str] = Counter()
    for name, value in controller.metrics().items():
        if name.startswith(f"{_REQUESTS}{{"):
            labels = dict(re.findall(r'(\w+)="([^"]*)"', name))
            found[f"{labels['class']} {labels['code']}"] += int(value)
    return found


def _questions(samples: list[Sample]) -> int:
    """How many different things there are to be asked: a source in a mode, and for Legacy the platform's image."""
    asked: set[tuple[str, ...]] = set()
    for sample in samples:
        for tag in sample.manifest["spec"]["tags"]:
            wanted, source = sample.wanted.get(tag["name"]), tag.get("from") or {}
            if wanted is None or source["kind"] != "DockerImage" or not wanted.image:
                continue
            is_legacy = tag.get("importPolicy", {}).get("importMode") == "Legacy"
            asked.add((source["name"] if "@" in source["name"] else wanted.image, f"legacy {is_legacy}"))
            if is_legacy and wanted.digest != content_of(wanted.image).digest:
                asked.add((wanted.image, wanted.digest))
    return len(asked)


def _repositories(samples: list[Sample], prefix: str) -> set[str]:
    return {name.rpartition(":")[0] for name in sources(samples) if name.startswith(prefix)}
