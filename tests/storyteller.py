"""Plays a story of `tests/stories/*.yaml`: the whole controller in this process, between a fake API server and fake
registries.

A story is a YAML document: `story` (its name), `settings` (of the controller; a list is one with several values),
`registries` (hosts beside registry.test and slow.test), `kinds` (that the cluster serves beside the usual ones) and
`steps`, each with one of these keys:

    push: {web:stable: A}       an image with the text A as registry.test/acme/web:stable; `$A` is its digest from then
                                on, `$hex(A, 12)` the first 12 hex digits. Two texts, [A, A-arm], make an index (amd64,
                                arm64): `$index(A, A-arm)`. A name may begin with another registry, slow.test/, and
                                /other/web is the repository other/web instead of acme/web
    registry: {registry.test: down}     down, up, hang, deny (401), fail (503), throttle (429, Retry-After: 60), behave;
                                {deny: web/manifests/2} only where the path has the regular expression;
                                {login: {user: password}} wants a login, {login: {}} none any more
    apply: [objects]            as kubectl would; in the namespace acme where none is said. A Secret's `login`,
                                {registry.test: "user:password"}, is written as Docker does
    annotate: {ImageStream/web: {...}}    null takes an annotation away
    edit: {Deployment/web: {images: {web: x}, manager: kubectl-set, operation: Update}}
    undo: Deployment/web        what `kubectl rollout undo` does: image and annotations of the beginning; labels stay
    delete: ImageStream/web     Namespace/acme: with all that is in it
    rights: {acme: [shop/base]} which streams may be pulled from a namespace; without this step all may, everywhere
    advance: 15m                the clock goes on
    restart: true               another process takes over, with the lease's watermark and no memory
    expect:                     waits until all of it is so and nothing moves any more
      ImageStream/web: {tags: {stable: [$B, $A]}, conditions: {stable: True Imported}, ready: True Imported, status: {}}
                                messages: {stable: ...} of the tags' conditions; all: {RepositoryImported: True LeftOut}
                                are the stream's conditions, says: {Ready: ...} their messages
      Deployment/web: {images: {web: registry.test/acme/web@$B}, metadata: {}}      status, metadata, spec: a part of it
      events: [TagMoved]        reasons of Events, in any order
      requests: [HEAD acme/web:stable]    to registries, in any order; GET slow.test/acme/web:1 to another than
                                registry.test
      logins: [user:password]   that registries were shown, each once
      writes: {imagestreams/status: 1}    to the API server, Events and Leases apart; {} is none
      reads: {deployments: 1}   from the API server, watches and Leases apart
      reviews: 1                SubjectAccessReviews

The last six count what has happened since the last `expect`. An object in another namespace is Kind/namespace/name. A
text that begins with ~ must be in what is found, one that begins with !~ must not; null means that nothing is there.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
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
from tests.fakes.registry import FakeRegistry, credentials_in, errors_body

NAMESPACE = "acme"
KINDS = {
    "ImageStream": ("image.openshift.io/v1", "imagestreams"),
    "Deployment": ("apps/v1", "deployments"),
    "Secret": ("v1", "secrets"),
    "ConfigMap": ("v1", "configmaps"),
    "ServiceAccount": ("v1", "serviceaccounts"),
    "ImageDigestMirrorSet": ("config.openshift.io/v1", "imagedigestmirrorsets"),
    "ImageTagMirrorSet": ("config.openshift.io/v1", "imagetagmirrorsets"),
}
CLUSTER_SCOPED = {"ImageDigestMirrorSet", "ImageTagMirrorSet"}
HOSTS = ("registry.test", "slow.test")  # a request to the first is shown without its host
_QUIET = 0.08  # seconds without a request that count as "nothing moves"
_PATIENCE = 6.0


class Storyteller:
    """One story being played."""

    def __init__(
        self, directory: Path, settings: dict[str, Any], *, registries: Sequence[str] = (), kinds: Sequence[str] = ()
    ) -> None:
        self._directory, self._settings = directory, settings
        self._hosts, self._kinds = (*HOSTS, *registries), kinds
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
        try:
            await self._set_the_stage()
        except BaseException:
            await self._life.aclose()
            raise
        return self

    async def _set_the_stage(self) -> None:
        await self._life.enter_async_context(self.api)
        self.api.define("image.openshift.io/v1", "imagestreams", "ImageStream", status=True)
        for kind in self._kinds:
            self.api.define(*KINDS[kind], kind, namespaced=kind not in CLUSTER_SCOPED)
        for host in self._hosts:
            self._registries[host] = await self._life.enter_async_context(FakeRegistry())
        await self._start()

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
            **{name: _given(value) for name, value in self._settings.items()},
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
            # What falls due is measured from the first look at each stream: it must not come after a later `advance`.
            while self._controller._importer is None or self._controller._unplanned:
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
            host, path = (host, path) if slash and host else ("registry.test", repository)
            registry = self._registries[host]
            texts = [text] if isinstance(text, str) else text
            platforms = zip(texts, ("amd64", "arm64"), strict=False)
            images = [image(text=each, architecture=architecture) for each, architecture in platforms]
            content = images[0] if isinstance(text, str) else index(images)
            digest = registry.add(path[1:] if path.startswith("/") else f"{NAMESPACE}/{path}", tag, content)
            for each, made in zip(texts, images, strict=True):
                self._digests[f"${each}"] = made.digest
            self._digests[f"${text}" if isinstance(text, str) else f"$index({', '.join(texts)})"] = digest

    async def _do_registry(self, behaviours: dict[str, str | dict[str, Any]]) -> None:
        for host, behaviour in behaviours.items():
            for name, detail in (behaviour if isinstance(behaviour, dict) else {behaviour: ""}).items():
                await self._behave(self._registries[host], name, detail)

    async def _behave(self, registry: FakeRegistry, behaviour: str, detail: Any) -> None:
        match behaviour:
            case "down":
                await registry.stop()
            case "up":
                await registry.start()
            case "hang":
                registry.hold(path=detail)
            case "deny":
                challenge = {"WWW-Authenticate": 'Basic realm="x"'}
                registry.reply(401, errors_body("UNAUTHORIZED"), challenge, path=detail)
            case "fail":
                registry.reply(503, errors_body("UNAVAILABLE"), path=detail)
            case "throttle":
                registry.reply(429, errors_body("TOOMANYREQUESTS"), {"Retry-After": "60"}, path=detail)
            case "behave":
                registry.release()
            case "login":
                registry.auth, registry.users = "htpasswd" if detail else "none", detail
            case _:
                raise ValueError(behaviour)

    async def _do_apply(self, objects: list[dict[str, Any]]) -> None:
        for value in self._with_digests(objects):
            if value["kind"] not in CLUSTER_SCOPED:
                value["metadata"].setdefault("namespace", NAMESPACE)
            if value["kind"] == "Secret" and "login" in value:
                value |= {"type": "kubernetes.io/dockerconfigjson", "data": _docker_config(value.pop("login"))}
            group_version, plural = KINDS[value["kind"]]
            where = value["metadata"].get("namespace", "")
            old = self.api.get(group_version, plural, where, value["metadata"]["name"])
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

    async def _do_annotate(self, changes: dict[str, dict[str, str | None]]) -> None:
        for name, added in self._with_digests(changes).items():
            found = self._get(name)
            annotations = {**found["metadata"].get("annotations", {}), **added}
            found["metadata"]["annotations"] = {key: value for key, value in annotations.items() if value is not None}
            self.api.put(found)

    async def _do_rights(self, rights: dict[str, list[str]]) -> None:
        def allows(review: dict[str, Any]) -> bool:
            wanted = review["resourceAttributes"]
            streams = {name for consumer, names in rights.items() for name in names if _speaks_for(review, consumer)}
            asked = (wanted["verb"], wanted["resource"], wanted["subresource"])
            return asked == ("get", "imagestreams", "layers") and f"{wanted['namespace']}/{wanted['name']}" in streams

        self.api.allows = allows

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
        kind, namespace, object_name = _named(name)
        if kind != "Namespace":
            self.api.remove(*KINDS[kind], namespace, object_name)
            return
        for resource in (KINDS[kind] for kind in ("Deployment", "ImageStream", "Secret")):
            for found in self.api.all(*resource):
                if found["metadata"]["namespace"] == object_name:
                    self.api.remove(*resource, object_name, found["metadata"]["name"])

    def _get(self, name: str) -> dict[str, Any]:
        kind, namespace, object_name = _named(name)
        found = self.api.get(*KINDS[kind], namespace, object_name)
        assert found is not None, f"there is no {name}"
        return found

    # --- expectations

    async def _do_expect(self, expected: dict[str, Any]) -> None:
        wanted = self._with_digests(expected)
        for name in {"events", "requests", "logins"} & wanted.keys():
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
                return sorted(self._shown_requests())
            case "logins":
                seen = (each for registry in self._registries.values() for each in registry.requests)
                return sorted({":".join(credentials_in(each.authorization)) for each in seen if each.authorization})
            case "reviews":
                return sum(request.path.endswith("/subjectaccessreviews") for request in self.api.requests)
            case "writes":
                quiet = {"events", "leases", ""}  # the last are reviews and discovery
                writes = [each for each in self.api.requests if each.verb in {"create", "update", "patch", "delete"}]
                return dict(Counter(each.resource for each in writes if each.resource not in quiet))
            case "reads":
                reads = [each for each in self.api.requests if each.verb in {"get", "list"}]
                return dict(Counter(each.resource for each in reads if each.resource not in {"leases", ""}))
        return {key: self._part(name, key) for key in wanted}

    def _shown_requests(self) -> Iterator[str]:
        for host, registry in self._registries.items():
            for request in registry.requests:
                method, _, rest = str(request).partition(" ")
                yield str(request) if host == HOSTS[0] else f"{method} {host}/{rest.removeprefix('/')}"

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
            case "messages":
                return {
                    tag["tag"]: "".join(each.get("message") or "" for each in tag.get("conditions", []))
                    for tag in status.get("tags", [])
                }
            case "all":
                return {each["type"]: f"{each['status']} {each['reason']}" for each in status.get("conditions", [])}
            case "says":
                return {each["type"]: each["message"] for each in status.get("conditions", [])}
            case "ready":
                return self._part(name, "all").get("Ready")
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
        value = re.sub(r"\$hex\(([\w-]+), (\d+)\)", lambda match: self._hex(match[1], int(match[2])), value)
        return re.sub(r"\$(?:index\([^)]*\)|[\w-]+)", lambda match: self._digests[match[0]], value)

    def _hex(self, text: str, length: int) -> str:
        return self._digests[f"${text}"].removeprefix("sha256:")[:length]


def _given(value: Any) -> str | tuple[str, ...]:
    """A setting as the command line gives it."""
    return tuple(map(str, value)) if isinstance(value, list) else str(value)


def _named(name: str) -> tuple[str, str, str]:
    """Kind, namespace and name of "Kind/name" and "Kind/namespace/name"."""
    kind, *where, object_name = name.split("/")
    return kind, "" if kind in CLUSTER_SCOPED else "".join(where) or NAMESPACE, object_name


def _speaks_for(review: dict[str, Any], namespace: str) -> bool:
    """Whether a review is about the service accounts of the namespace, and about nobody with more rights."""
    groups = {f"system:serviceaccounts:{namespace}", "system:serviceaccounts", "system:authenticated"}
    return not review.get("user") and set(review.get("groups", [])) == groups


def _docker_config(logins: dict[str, str]) -> dict[str, str]:
    auths = {host: {"auth": base64.b64encode(login.encode()).decode()} for host, login in logins.items()}
    return {".dockerconfigjson": base64.b64encode(json.dumps({"auths": auths}).encode()).decode()}


def _is_part(wanted: Any, found: Any) -> bool:
    """Whether `found` has all that is wanted; lists are compared whole and in their order."""
    if isinstance(wanted, dict) and isinstance(found, dict) and wanted:
        return all(_is_part(value, found.get(key)) for key, value in wanted.items())
    if isinstance(wanted, list) and isinstance(found, list):
        return len(wanted) == len(found) and all(_is_part(one, other) for one, other in zip(wanted, found, strict=True))
    if isinstance(wanted, str) and wanted.startswith(("~", "!~")):
        return isinstance(found, str) and (wanted.lstrip("!~") in found) is wanted.startswith("~")
    return bool(wanted == found)


def _shown(value: Any) -> str:
    return json.dumps(value, indent=1, default=str)
