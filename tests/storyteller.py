"""Plays a story of `tests/stories/*.yaml`: the whole controller in this process, between a fake API server and fake
registries.

A story is a YAML document: `story` (its name), `settings` (of the controller) and `steps`, each with one of these keys:

    push: {web:stable: A}       an image with the text A as registry.test/acme/web:stable; `$A` is its digest from then
                                on. Two texts, [A, A-arm], make an index (amd64, arm64): `$index(A, A-arm)`. A name may
                                begin with another registry, slow.test/
    registry: {registry.test: down}     down, up, hang, deny, throttle (429, Retry-After: 60), behave
    apply: [objects]            as kubectl would; in the namespace acme where none is said
    annotate: {ImageStream/web: {...}}
    edit: {Deployment/web: {images: {web: x}, manager: kubectl-set, operation: Update}}
    undo: Deployment/web        what `kubectl rollout undo` does: image and annotations of the beginning; labels stay
    delete: ImageStream/web
    advance: 15m                the clock goes on
    restart: true               another process takes over, with the lease's watermark and no memory
    expect:                     waits until all of it is so and nothing moves any more
      ImageStream/web: {tags: {stable: [$B, $A]}, conditions: {stable: True Imported}, ready: True Imported, status: {}}
      Deployment/web: {images: {web: registry.test/acme/web@$B}, metadata: {}}      status, metadata, spec: a part of it
      events: [TagMoved]        reasons of Events, in any order
      requests: [HEAD acme/web:stable]    to registries, in any order
      writes: {imagestreams/status: 1}    to the API server, Events and Leases apart; {} is none
      reads: {deployments: 1}   from the API server, watches and Leases apart

The last four count what has happened since the last `expect`.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from dev.images import image, index
from imagestreams.app import Controller
from imagestreams.core.duration import parse_duration
from imagestreams.kube.cluster import Cluster
from imagestreams.settings import load
from tests.fakes.apiserver import FakeApiServer
from tests.fakes.registry import FakeRegistry, errors_body

NAMESPACE = "acme"
KINDS = {
    "ImageStream": ("image.openshift.io/v1", "imagestreams"),
    "Deployment": ("apps/v1", "deployments"),
    "Secret": ("v1", "secrets"),
}
_QUIET = 0.08  # seconds without a request that count as "nothing moves"
_PATIENCE = 6.0


class Storyteller:
    """One story being played."""

    def __init__(self, directory: Path, settings: dict[str, Any]) -> None:
        self._directory, self._settings = directory, settings
        self.now = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)
        self.api = FakeApiServer(clock=lambda: self.now)
        self._registries: dict[str, FakeRegistry] = {}
        self._digests: dict[str, str] = {}
        self._originals: dict[str, dict[str, Any]] = {}
        self._events_seen: Counter[str] = Counter()
        self._controller: Controller | None = None
        self._life = AsyncExitStack()
        self._process = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._life.enter_async_context(self.api)
        self.api.define("image.openshift.io/v1", "imagestreams", "ImageStream", status=True)
        for host in ("registry.test", "slow.test"):
            self._registries[host] = await self._life.enter_async_context(FakeRegistry())
        await self._start()
        return self

    @property
    def controller(self) -> Controller:
        assert self._controller is not None
        return self._controller

    async def __aexit__(self, *_: object) -> None:
        for registry in self._registries.values():
            registry.release()
        await self._process.aclose()
        await self._life.aclose()

    async def play(self, step: dict[str, Any]) -> None:
        [(name, value)] = step.items()
        await getattr(self, f"_do_{name}")(value)

    # --- the controller

    async def _start(self) -> None:
        endpoints = [f"{host}={registry.url}" for host, registry in self._registries.items()]
        flags = {
            "kubeconfig": str(self.api.kubeconfig(self._directory / "kubeconfig")),
            "http_address": "127.0.0.1:0",
            "registry_endpoint": tuple(endpoints),
            "settle": "20ms",
            "request_timeout": "30s",
            **{name: str(value) for name, value in self._settings.items()},
        }
        settings = load(flags, {}, lambda path: Path(path).read_text())
        cluster = await self._process.enter_async_context(await Cluster.connect(settings.kubeconfig))
        self._controller = Controller(cluster, settings, clock=lambda: self.now)
        stop = asyncio.Event()
        running = asyncio.create_task(self._controller.run(stop))

        async def end() -> None:
            stop.set()
            await running

        self._process.push_async_callback(end)
        async with asyncio.timeout(_PATIENCE):
            while self._controller._importer is None:
                assert not running.done(), running.exception()
                await asyncio.sleep(0.005)

    async def _do_restart(self, _: bool) -> None:
        await self._process.aclose()
        self._process = AsyncExitStack()
        await self._start()

    async def _do_advance(self, text: str) -> None:
        self.now += parse_duration(text)
        await self.controller._schedule.tick()

    # --- the world

    async def _do_push(self, pushed: dict[str, str | list[str]]) -> None:
        for name, text in pushed.items():
            repository, _, tag = name.rpartition(":")
            host, slash, path = repository.partition("/")
            registry = self._registries[host if slash else "registry.test"]
            texts = [text] if isinstance(text, str) else text
            platforms = zip(texts, ("amd64", "arm64"), strict=False)
            images = [image(text=each, architecture=architecture) for each, architecture in platforms]
            content = images[0] if isinstance(text, str) else index(images)
            digest = registry.add(f"{NAMESPACE}/{path if slash else repository}", tag, content)
            for each, made in zip(texts, images, strict=True):
                self._digests[f"${each}"] = made.digest
            self._digests[f"${text}" if isinstance(text, str) else f"$index({', '.join(texts)})"] = digest

    async def _do_registry(self, behaviours: dict[str, str]) -> None:
        for host, behaviour in behaviours.items():
            registry = self._registries[host]
            match behaviour:
                case "down":
                    await registry.stop()
                case "up":
                    await registry.start()
                case "hang":
                    registry.hold()
                case "deny":
                    registry.reply(401, errors_body("UNAUTHORIZED"), {"WWW-Authenticate": 'Basic realm="x"'})
                case "throttle":
                    registry.reply(429, errors_body("TOOMANYREQUESTS"), {"Retry-After": "60"})
                case "behave":
                    registry.release()
                case _:
                    raise ValueError(behaviour)

    async def _do_apply(self, objects: list[dict[str, Any]]) -> None:
        for value in objects:
            value["metadata"].setdefault("namespace", NAMESPACE)
            group_version, plural = KINDS[value["kind"]]
            old = self.api.get(group_version, plural, value["metadata"]["namespace"], value["metadata"]["name"])
            metadata = {**(old or {}).get("metadata", {}), **value["metadata"]}
            is_changed = old is not None and old.get("spec") != value.get("spec")
            if value["kind"] == "ImageStream":
                metadata["generation"] = (old["metadata"]["generation"] + is_changed) if old else 1
            elif is_changed:
                metadata.pop("generation", None)
            merged = {**(old or {}), **value, "metadata": metadata}
            self.api.put(merged)
            if old is None:
                self._originals[f"{value['kind']}/{value['metadata']['name']}"] = merged

    async def _do_annotate(self, changes: dict[str, dict[str, str]]) -> None:
        for name, added in changes.items():
            found = self._get(name)
            found["metadata"]["annotations"] = {**found["metadata"].get("annotations", {}), **added}
            self.api.put(found)

    async def _do_edit(self, edits: dict[str, dict[str, Any]]) -> None:
        for name, edit in self._with_digests(edits).items():
            found = self._get(name)
            self._write_images(found, edit["images"], edit["manager"], edit.get("operation", "Update"))

    def _write_images(self, found: dict[str, Any], images: dict[str, str], manager: str, operation: str) -> None:
        owned = {f'k:{{"name":"{container}"}}': {"f:image": {}} for container in images}
        for container in found["spec"]["template"]["spec"]["containers"]:
            container["image"] = images.get(container["name"], container["image"])
        fields = {"f:spec": {"f:template": {"f:spec": {"f:containers": owned}}}}
        stamp = self.now.strftime("%Y-%m-%dT%H:%M:%SZ")
        entry = {
            "manager": manager,
            "operation": operation,
            "time": stamp,
            "fieldsType": "FieldsV1",
            "fieldsV1": fields,
        }
        found["metadata"]["managedFields"] = [entry]
        found["metadata"].pop("generation")
        self.api.put(found)

    async def _do_undo(self, name: str) -> None:
        found, original = self._get(name), self._originals[name]
        found["metadata"]["annotations"] = original["metadata"].get("annotations", {})
        containers = original["spec"]["template"]["spec"]["containers"]
        self._write_images(found, {each["name"]: each["image"] for each in containers}, "kubectl", "Update")

    async def _do_delete(self, name: str) -> None:
        kind, _, object_name = name.partition("/")
        self.api.remove(*KINDS[kind], NAMESPACE, object_name)

    def _get(self, name: str) -> dict[str, Any]:
        kind, _, object_name = name.partition("/")
        found = self.api.get(*KINDS[kind], NAMESPACE, object_name)
        assert found is not None, f"there is no {name}"
        return found

    # --- expectations

    async def _do_expect(self, expected: dict[str, Any]) -> None:
        wanted = self._with_digests(expected)
        for name in {"events", "requests"} & wanted.keys():
            wanted[name] = sorted(wanted[name])
        seen: dict[str, Any] = {}
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _PATIENCE
        while loop.time() < deadline:
            await self._quiet()
            seen = {name: self._seen(name, value) for name, value in wanted.items()}
            if all(_is_part(value, seen[name]) for name, value in wanted.items()):
                break
        else:
            for name, value in wanted.items():
                assert _is_part(value, seen[name]), f"{name}\nexpected {_shown(value)}\nfound    {_shown(seen[name])}"
        self._events_seen = self._events()
        self.api.requests.clear()
        for registry in self._registries.values():
            registry.requests.clear()

    async def _quiet(self) -> None:
        """Wait until nothing is queued and no request was made for a moment."""
        controller = self.controller
        before, now = -1, self._activity()
        while before != now or len(controller._stream_queue) or len(controller._workload_queue):
            await asyncio.sleep(_QUIET)
            before, now = now, self._activity()

    def _activity(self) -> int:
        made = sum(1 for request in self.api.requests if request.resource != "leases")
        return made + sum(len(registry.requests) for registry in self._registries.values())

    def _seen(self, name: str, wanted: Any) -> Any:
        match name:
            case "events":
                return sorted((self._events() - self._events_seen).elements())
            case "requests":
                return sorted(str(request) for registry in self._registries.values() for request in registry.requests)
            case "writes":
                quiet = {"events", "leases", "subjectaccessreviews"}
                writes = [each for each in self.api.requests if each.verb in {"create", "update", "patch", "delete"}]
                return dict(Counter(each.resource for each in writes if each.resource not in quiet))
            case "reads":
                reads = [each for each in self.api.requests if each.verb in {"get", "list"}]
                return dict(Counter(each.resource for each in reads if each.resource != "leases"))
        return {key: self._part(name, key) for key in wanted}

    def _part(self, name: str, key: str) -> Any:
        found = self._get(name)
        status = found.get("status", {})
        match key:
            case "tags":
                return {
                    tag["tag"]: [item.get("image") for item in tag.get("items", [])] for tag in status.get("tags", [])
                }
            case "conditions":
                return {
                    tag["tag"]: " ".join(f"{each['status']} {each.get('reason')}" for each in tag.get("conditions", []))
                    for tag in status.get("tags", [])
                }
            case "ready":
                return "".join(f"{each['status']} {each['reason']}" for each in status.get("conditions", []))
            case "images":
                pod = found["spec"]["template"]["spec"]
                return {each["name"]: each["image"] for each in [*pod.get("initContainers", []), *pod["containers"]]}
        return found.get(key)

    def _events(self) -> Counter[str]:
        counted: Counter[str] = Counter()
        for event in self.api.all("v1", "events"):
            counted[event["reason"]] += event.get("count", 1)
        return counted

    def _with_digests(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: self._with_digests(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self._with_digests(item) for item in value]
        if not isinstance(value, str):
            return value
        return re.sub(r"\$(?:index\([^)]*\)|[\w-]+)", lambda match: self._digests[match[0]], value)


def _is_part(wanted: Any, found: Any) -> bool:
    """Whether `found` has all that is wanted; lists are compared whole and in their order."""
    if isinstance(wanted, dict) and isinstance(found, dict) and wanted:
        return all(key in found and _is_part(value, found[key]) for key, value in wanted.items())
    if isinstance(wanted, list) and isinstance(found, list):
        return len(wanted) == len(found) and all(_is_part(one, other) for one, other in zip(wanted, found, strict=True))
    return bool(wanted == found)


def _shown(value: Any) -> str:
    return json.dumps(value, indent=1, default=str)
