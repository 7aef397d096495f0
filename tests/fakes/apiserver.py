"""A small Kubernetes API server in this process: objects, watches and faults, without etcd and without rules about
what is in an object.

    async with FakeApiServer() as api:
        api.define("image.openshift.io/v1", "imagestreams", "ImageStream", status=True)
        api.put({"apiVersion": "v1", "kind": "Secret", "metadata": {"namespace": "acme", "name": "pull"}, ...})
        cluster = await Cluster.connect(str(api.kubeconfig(tmp_path / "config")))
        api.inject(html(502), verb="watch", times=3)

It speaks what our code relies on, as kube-apiserver 1.36 does: paged lists of one snapshot, watches with bookmarks
and 410, merge and JSON patches, resourceVersion and uid preconditions, the status subresource, no-op writes that
write nothing, metadata-only answers. tests/contract runs the same tests against it and against the real one. Not
there: defaults, validation, managedFields (an object keeps those it was put with), strategic and apply patches,
namespaces' existence, garbage collection, authorization (see `inject` and `allows`).
"""

from __future__ import annotations

import asyncio
import base64
import copy
import re
import secrets
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import msgspec
from aiohttp import web

from tests.fakes.patching import NoPatchError, PatchFailedError, json_patched, merged

if TYPE_CHECKING:
    import ssl

Object = dict[str, Any]
Handle = Callable[[], Awaitable[web.StreamResponse]]
Respond = Callable[[web.Request, Handle], Awaitable[web.StreamResponse]]

_JSON = "application/json"
_encode = msgspec.json.Encoder().encode
_BUILT_IN = [  # group/version, resource, kind, namespaced, status subresource
    ("apiregistration.k8s.io/v1", "apiservices", "APIService", False, True),
    ("v1", "namespaces", "Namespace", False, True),
    ("v1", "secrets", "Secret", True, False),
    ("v1", "configmaps", "ConfigMap", True, False),
    ("v1", "events", "Event", True, False),
    ("v1", "serviceaccounts", "ServiceAccount", True, False),
    ("v1", "pods", "Pod", True, True),
    ("apps/v1", "deployments", "Deployment", True, True),
    ("apps/v1", "statefulsets", "StatefulSet", True, True),
    ("apps/v1", "daemonsets", "DaemonSet", True, True),
    ("apps/v1", "replicasets", "ReplicaSet", True, True),
    ("batch/v1", "jobs", "Job", True, True),
    ("batch/v1", "cronjobs", "CronJob", True, True),
    ("coordination.k8s.io/v1", "leases", "Lease", True, False),
]
_WITH_GENERATION = {"apps/v1", "batch/v1"}


class Refusal(Exception):
    """An answer other than the object."""

    def __init__(self, code: int, reason: str, message: str, **details: Any) -> None:
        super().__init__(message)
        self.code = code
        self.body = _status(code, reason, message, **details)


def _status(code: int, reason: str, message: str, **details: Any) -> Object:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        "details": details,
        "code": code,
    }


# --- what `inject` can answer -----------------------------------------------------------------------------------------


def status(
    code: int, reason: str, message: str = "injected", *, headers: Mapping[str, str] | None = None, **details: Any
) -> Respond:
    """A Status object, as the API server itself refuses."""

    async def respond(_: web.Request, __: Handle) -> web.StreamResponse:
        return web.Response(
            status=code, body=_encode(_status(code, reason, message, **details)), content_type=_JSON, headers=headers
        )

    return respond


def raw(body: bytes, *, code: int = 200, content_type: str = _JSON) -> Respond:
    """Any bytes: an empty body, garbage, lines of a watch."""

    async def respond(_: web.Request, __: Handle) -> web.StreamResponse:
        return web.Response(status=code, body=body, content_type=content_type)

    return respond


def html(code: int) -> Respond:
    """What a load balancer says."""
    return raw(b"<html>\n<body>\nBad Gateway\n</body>\n</html>\n", code=code, content_type="text/html")


def hang() -> Respond:
    """No answer, until the client gives up."""

    async def respond(_: web.Request, __: Handle) -> web.StreamResponse:
        return await asyncio.Future()

    return respond


def disconnect(*, after: bool = False) -> Respond:
    """The connection breaks: before the request is looked at, or after it has been carried out."""

    async def respond(request: web.Request, handle: Handle) -> web.StreamResponse:
        if after:
            await handle()
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    return respond


def held(until: asyncio.Event) -> Respond:
    """The request is carried out once `until` is set."""

    async def respond(_: web.Request, handle: Handle) -> web.StreamResponse:
        await until.wait()
        return await handle()

    return respond


# --- the server
# ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Seen:
    """A request: verb is get, list, watch, create, update, patch or delete; resource is "secrets" or
    "imagestreams/status".
    """

    verb: str
    resource: str
    namespace: str
    name: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes


@dataclass(slots=True)
class _Fault:
    respond: Respond
    matches: Callable[[Seen], bool]
    times: int


@dataclass(frozen=True, slots=True)
class _Stored:
    """An object as it is now; never changed, only replaced."""

    value: Object
    version: int

    @property
    def key(self) -> tuple[str, str]:
        metadata = self.value["metadata"]
        return metadata.get("namespace", ""), metadata["name"]


@dataclass(frozen=True, slots=True)
class _Change:
    version: int
    old: _Stored | None
    new: _Stored | None  # of a deletion: None; its event shows the old object with the deletion's version


@dataclass(slots=True)
class _Resource:
    group_version: str
    plural: str
    kind: str
    namespaced: bool
    status: bool
    built_in: bool
    objects: dict[tuple[str, str], _Stored] = field(default_factory=dict)
    changes: list[_Change] = field(default_factory=list)
    forgotten: int = 0  # how many changes are no longer in the list
    oldest: int = 0  # a watch from before this version is answered 410
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def group(self) -> str:
        return self.group_version.rpartition("/")[0]

    @property
    def qualified(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def has_generation(self) -> bool:
        return not self.built_in or self.group_version in _WITH_GENERATION


@dataclass(frozen=True, slots=True)
class _Target:
    """What a path names."""

    resource: _Resource
    namespace: str
    name: str
    subresource: str


class FakeApiServer:
    """See the module.

    Args:
        tokens: bearer tokens (or whole Authorization values) that are let in; empty lets everybody in.
        tls: of the server.
        history: changes of one resource that a watch can still be started from.
        bookmarks: seconds between two bookmarks of a watch that wants them.
        clock: for timestamps.

    Attributes:
        requests: all that were made.
        allows: decides SubjectAccessReviews by their spec.
        gone_by_status: a watch from a forgotten version is answered with HTTP 410 instead of an ERROR event.
        open_watches: how many there are.
    """

    def __init__(
        self,
        *,
        tokens: Iterable[str] = (),
        tls: ssl.SSLContext | None = None,
        history: int = 20_000,
        bookmarks: float = 60.0,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.requests: list[Seen] = []
        self.allows: Callable[[Object], bool] = lambda _: True
        self.username = "system:serviceaccount:imagestreams-system:imagestreams"
        self.gone_by_status = False
        self.open_watches = 0
        self.tokens = set(tokens)
        self._tls = tls
        self._history = history
        self._bookmarks = bookmarks
        self._clock = clock
        self._resources: dict[tuple[str, str], _Resource] = {}
        self._faults: list[_Fault] = []
        self._continued: dict[str, tuple[list[_Stored], int]] = {}
        self._version = 1000
        self._generation_of_watches = 0
        self._bookmark_now = 0
        for group_version, plural, kind, namespaced, has_status in _BUILT_IN:
            self.define(group_version, plural, kind, namespaced=namespaced, status=has_status, built_in=True)

    # --- life

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=8 << 20)
        app.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=self._tls)
        await site.start()
        self.port = self._runner.addresses[0][1]
        self.url = f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self.end_watches()
        await self._runner.cleanup()

    def kubeconfig(self, path: Path, *, user: Object | None = None, cluster: Object | None = None) -> Path:
        """Write a kubeconfig for this server; JSON is YAML."""
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "fake",
            "clusters": [{"name": "fake", "cluster": {"server": self.url, **(cluster or {})}}],
            "users": [{"name": "fake", "user": user or {}}],
            "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake"}}],
        }
        path.write_bytes(_encode(config))
        return path

    # --- objects, from the test's side

    def define(
        self,
        group_version: str,
        plural: str,
        kind: str,
        *,
        namespaced: bool = True,
        status: bool = False,
        built_in: bool = False,
    ) -> None:
        """Serve a resource, as a CRD does."""
        self._resources[group_version, plural] = _Resource(
            group_version, plural, kind, namespaced, status, built_in, oldest=self._version
        )
        group, _, version = group_version.rpartition("/")
        if group:
            self.put(_api_service(group, version))

    def undefine(self, group_version: str, plural: str) -> None:
        """Serve it no longer: 404, and watches of it end."""
        self.end_watches()
        self._resources.pop((group_version, plural))

    def put(self, value: Object) -> Object:
        """Create or replace an object whole, status included; uid and creationTimestamp are made where they are
        missing.
        """
        resource = self._of_kind(value)
        metadata = value["metadata"]
        old = resource.objects.get((metadata.get("namespace", ""), metadata["name"]))
        new = copy.deepcopy(value)
        kept = old.value["metadata"] if old else {}
        new["metadata"].setdefault("uid", kept.get("uid") or str(uuid.uuid4()))
        new["metadata"].setdefault("creationTimestamp", kept.get("creationTimestamp") or self._now())
        if resource.has_generation:
            new["metadata"].setdefault("generation", kept.get("generation", 0) + 1)
        return self._write(resource, old, new)

    def get(self, group_version: str, plural: str, namespace: str, name: str) -> Object | None:
        """A copy of the object as it is."""
        stored = self._resources[group_version, plural].objects.get((namespace, name))
        return copy.deepcopy(stored.value) if stored else None

    def all(self, group_version: str, plural: str) -> list[Object]:
        return [
            copy.deepcopy(stored.value) for _, stored in sorted(self._resources[group_version, plural].objects.items())
        ]

    def remove(self, group_version: str, plural: str, namespace: str, name: str) -> None:
        resource = self._resources[group_version, plural]
        self._delete(resource, resource.objects[namespace, name])

    # --- faults

    def inject(
        self,
        respond: Respond,
        *,
        verb: str | None = None,
        resource: str | None = None,
        when: Callable[[Seen], bool] | None = None,
        times: int = 1,
    ) -> None:
        """Answer the next `times` requests that match with `respond`; -1: all, until `heal`. Earlier injected ones
        come first.
        """

        def matches(seen: Seen) -> bool:
            return verb in {None, seen.verb} and resource in {None, seen.resource} and (when is None or when(seen))

        self._faults.append(_Fault(respond, matches, times))

    def heal(self) -> None:
        """No faults any more."""
        self._faults.clear()

    def compact(self) -> None:
        """Forget the past: watches from before now and lists in progress are answered 410."""
        self._continued.clear()
        for resource in self._resources.values():
            resource.oldest = self._version
            resource.forgotten += len(resource.changes)
            resource.changes.clear()

    def end_watches(self) -> None:
        """The server ends all watches, as it does at their timeout."""
        self._generation_of_watches += 1
        self._wake()

    def send_bookmarks(self) -> None:
        """Every watch that wants bookmarks gets one now."""
        self._bookmark_now += 1
        self._wake()

    def count(self, verb: str | None = None, resource: str | None = None) -> int:
        """How many requests there were."""
        return sum(verb in {None, seen.verb} and resource in {None, seen.resource} for seen in self.requests)

    @property
    def counts(self) -> Counter[tuple[str, str]]:
        return Counter((seen.verb, seen.resource) for seen in self.requests)

    def _wake(self) -> None:
        for resource in self._resources.values():
            resource.changed.set()

    # --- requests

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        target = self._target(request.path)
        seen = _seen(request, target, body)
        self.requests.append(seen)
        try:
            self._authenticate(request)
            for fault in self._faults:
                if fault.times and fault.matches(seen):
                    fault.times -= 1
                    return await fault.respond(request, lambda: self._carry_out(request, target, seen))
            return await self._carry_out(request, target, seen)
        except Refusal as refusal:
            return _json(refusal.body, refusal.code)

    def _authenticate(self, request: web.Request) -> None:
        shown = request.headers.get("Authorization", "")
        if self.tokens and not {shown, shown.removeprefix("Bearer ")} & self.tokens:
            raise Refusal(401, "Unauthorized", "Unauthorized")

    def _target(self, path: str) -> _Target | None:
        parts = path.strip("/").split("/")
        if parts[0] == "api":
            group_version, rest = "/".join(parts[1:2]), parts[2:]
        else:
            group_version, rest = "/".join(parts[1:3]), parts[3:]
        namespace = ""
        if len(rest) > 2 and rest[0] == "namespaces" and rest[2] != "status":
            namespace, rest = rest[1], rest[2:]
        resource = self._resources.get((group_version, rest[0])) if rest else None
        if resource is None or len(rest) > 3:
            return None
        name, subresource, *_ = [*rest[1:], "", ""]
        return _Target(resource, namespace, name, subresource)

    async def _carry_out(self, request: web.Request, target: _Target | None, seen: Seen) -> web.StreamResponse:
        if target is None:
            return self._undefined(request, seen)
        if target.subresource and not (target.subresource == "status" and target.resource.status):
            raise Refusal(404, "NotFound", "the server could not find the requested resource")
        if target.name and target.resource.namespaced and not target.namespace:
            raise Refusal(404, "NotFound", "the server could not find the requested resource")
        match seen.verb:
            case "watch":
                return await self._watch(request, target)
            case "list":
                return self._list(request, target)
            case "get":
                return self._answer(request, target.resource, self._found(target).value)
            case "create":
                return self._answer(
                    request, target.resource, self._create(target, _decoded(seen.body), seen.query), 201
                )
            case "update":
                return self._answer(request, target.resource, self._update(target, _decoded(seen.body), seen.query))
            case "patch":
                return self._answer(request, target.resource, self._patch(target, seen))
            case "delete" if target.name:
                return _json(self._remove(target, _decoded(seen.body) if seen.body else {}))
        raise Refusal(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")

    def _undefined(self, request: web.Request, seen: Seen) -> web.StreamResponse:
        path = request.path.strip("/")
        if path in {"readyz", "healthz", "livez"}:
            return web.Response(text="ok")
        if path == "version":
            return _json({"major": "1", "minor": "36", "gitVersion": "v1.36.3"})
        if path == "apis/authorization.k8s.io/v1/subjectaccessreviews" and request.method == "POST":
            review = _decoded(seen.body)
            return _json({**review, "status": {"allowed": self.allows(review["spec"])}}, 201)
        if path == "apis/authentication.k8s.io/v1/selfsubjectreviews" and request.method == "POST":
            return _json({**_decoded(seen.body), "status": {"userInfo": {"username": self.username}}}, 201)
        group_version = path.removeprefix("apis/").removeprefix("api/")
        served = [each for (known, _), each in self._resources.items() if known == group_version]
        if not served or request.method != "GET":
            return web.Response(status=404, text="404 page not found\n")
        resources = [
            {"name": each.plural, "kind": each.kind, "namespaced": each.namespaced, "verbs": ["get", "list", "watch"]}
            for each in served
        ]
        return _json(
            {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources}
        )

    def _found(self, target: _Target) -> _Stored:
        stored = target.resource.objects.get((target.namespace, target.name))
        if stored is None:
            raise _not_found(target.resource, target.name)
        return stored

    def _create(self, target: _Target, value: Object, query: Mapping[str, str]) -> Object:
        resource = target.resource
        if target.name:
            raise Refusal(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
        _check_kind(resource, value)
        new = copy.deepcopy(value)
        metadata = new.setdefault("metadata", {})
        if metadata.get("resourceVersion"):
            raise Refusal(500, "InternalError", "resourceVersion should not be set on objects to be created")
        if not metadata.get("name"):
            if not metadata.get("generateName"):
                raise Refusal(
                    422,
                    "Invalid",
                    f"{resource.kind} is invalid: metadata.name: Required value: name or generateName is required",
                )
            metadata["name"] = metadata["generateName"] + secrets.token_hex(3)[:5]
        if resource.namespaced and metadata.setdefault("namespace", target.namespace) != target.namespace:
            raise Refusal(400, "BadRequest", "the namespaces of the object and of the request differ")
        if (target.namespace, metadata["name"]) in resource.objects:
            raise Refusal(
                409, "AlreadyExists", f'{resource.qualified} "{metadata["name"]}" already exists', name=metadata["name"]
            )
        metadata["uid"], metadata["creationTimestamp"] = str(uuid.uuid4()), self._now()
        if resource.has_generation:
            metadata["generation"] = 1
        if resource.status and not resource.built_in:
            new.pop("status", None)
        return self._write(resource, None, new, dry=_is_dry(query))

    def _update(self, target: _Target, value: Object, query: Mapping[str, str]) -> Object:
        old = self._found(target)
        resource = target.resource
        _check_kind(resource, value)
        metadata = value.get("metadata") or {}
        if metadata.get("name", target.name) != target.name:
            raise Refusal(400, "BadRequest", "the name of the object does not match the name on the URL")
        if not metadata.get("resourceVersion") and not resource.built_in:
            raise Refusal(422, "Invalid", "metadata.resourceVersion: Invalid value: 0: must be specified for an update")
        return self._change(target, old, value, query)

    def _patch(self, target: _Target, seen: Seen) -> Object:
        old = self._found(target)
        content_type = seen.headers.get("Content-Type", "").partition(";")[0]
        patch = _decoded(seen.body)
        if content_type == "application/merge-patch+json":
            if not isinstance(patch, dict):
                raise Refusal(400, "BadRequest", "a merge patch must be an object")
            value = merged(old.value, patch)
        elif content_type == "application/json-patch+json":
            try:
                value = json_patched(old.value, patch)
            except NoPatchError as error:
                raise Refusal(400, "BadRequest", str(error)) from error
            except PatchFailedError as error:
                raise Refusal(422, "Invalid", str(error)) from error
        else:
            raise Refusal(
                415, "UnsupportedMediaType", f"the body of the request was in an unknown format: {content_type}"
            )
        return self._change(target, old, value, seen.query, is_patch=True)

    def _change(
        self, target: _Target, old: _Stored, value: Object, query: Mapping[str, str], *, is_patch: bool = False
    ) -> Object:
        resource = target.resource
        metadata = value.get("metadata") or {}
        kept = old.value["metadata"]
        if metadata.get("resourceVersion", "") not in {"", kept["resourceVersion"]}:
            raise _conflict(
                target, "the object has been modified; please apply your changes to the latest version and try again"
            )
        if metadata.get("uid", "") not in {"", kept["uid"]}:
            raise _other_uid(target, metadata["uid"], kept["uid"], is_patch=is_patch)
        if target.subresource == "status":
            new = (
                {**old.value, "status": value["status"]}
                if "status" in value
                else {k: v for k, v in old.value.items() if k != "status"}
            )
            new["metadata"] = dict(kept)
        else:
            new = {**value, "metadata": {**metadata, **{name: kept[name] for name in _KEPT if name in kept}}}
            if resource.status:
                new.pop("status", None)
                new |= {"status": old.value["status"]} if "status" in old.value else {}
            if resource.has_generation and _spec(resource, new) != _spec(resource, old.value):
                new["metadata"]["generation"] = kept.get("generation", 0) + 1
        new["metadata"]["resourceVersion"] = kept["resourceVersion"]
        if new == old.value:
            return new  # nothing changes: nothing is written
        stored = self._write(resource, old, copy.deepcopy(new), dry=_is_dry(query))
        if stored["metadata"].get("deletionTimestamp") and not stored["metadata"].get("finalizers"):
            self._delete(resource, resource.objects[old.key])
        return stored

    def _remove(self, target: _Target, options: Object) -> Object:
        old = self._found(target)
        metadata = old.value["metadata"]
        for name, wanted in (options.get("preconditions") or {}).items():
            if metadata[name] != wanted:
                raise _conflict(
                    target, f"Precondition failed: {name} in precondition: {wanted}, in object meta: {metadata[name]}"
                )
        if metadata.get("finalizers"):
            marked = {
                **old.value,
                "metadata": {**metadata, "deletionTimestamp": metadata.get("deletionTimestamp") or self._now()},
            }
            return old.value if marked == old.value else self._write(target.resource, old, copy.deepcopy(marked))
        self._delete(target.resource, old)
        details = {
            "name": target.name,
            "group": target.resource.group,
            "kind": target.resource.plural,
            "uid": metadata["uid"],
        }
        return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}

    def _write(self, resource: _Resource, old: _Stored | None, new: Object, *, dry: bool = False) -> Object:
        if dry:
            return new
        self._version += 1
        new["metadata"]["resourceVersion"] = str(self._version)
        # apiVersion and kind first, as the real one writes them.
        new = {"apiVersion": resource.group_version, "kind": resource.kind, **new}
        stored = _Stored(new, self._version)
        resource.objects[stored.key] = stored
        self._tell(resource, _Change(self._version, old, stored))
        return new

    def _delete(self, resource: _Resource, old: _Stored) -> None:
        self._version += 1
        del resource.objects[old.key]
        self._tell(resource, _Change(self._version, old, None))

    def _tell(self, resource: _Resource, change: _Change) -> None:
        resource.changes.append(change)
        surplus = len(resource.changes) - self._history
        if surplus > self._history // 10:
            resource.oldest = resource.changes[surplus - 1].version
            resource.forgotten += surplus
            del resource.changes[:surplus]
        resource.changed.set()

    # --- lists and watches

    def _list(self, request: web.Request, target: _Target) -> web.StreamResponse:
        query = request.query
        limit = int(query.get("limit") or 0)
        if token := query.get("continue"):
            if token not in self._continued:
                raise Refusal(
                    410, "Expired", "The provided continue parameter is too old to display a consistent list result."
                )
            found, version = self._continued.pop(token)
        else:
            selects = _selector(query, target)
            found = [stored for _, stored in sorted(target.resource.objects.items()) if selects(stored.value)]
            version = self._version
        page, rest = (found[:limit], found[limit:]) if limit else (found, [])
        metadata: Object = {"resourceVersion": str(version)}
        if rest:
            token = base64.urlsafe_b64encode(secrets.token_bytes(12)).decode()
            self._continued[token] = (rest, version)
            metadata |= {"continue": token, "remainingItemCount": len(rest)}
        if _wants_metadata(request):
            items = [{"metadata": stored.value["metadata"]} for stored in page]
            return _json(
                {
                    "kind": "PartialObjectMetadataList",
                    "apiVersion": "meta.k8s.io/v1",
                    "metadata": metadata,
                    "items": items,
                }
            )
        resource = target.resource
        # Items of built-in lists carry neither kind nor apiVersion.
        bare = {"kind", "apiVersion"} if resource.built_in else set()
        items = [{name: part for name, part in stored.value.items() if name not in bare} for stored in page]
        return _json(
            {"kind": f"{resource.kind}List", "apiVersion": resource.group_version, "metadata": metadata, "items": items}
        )

    async def _watch(self, request: web.Request, target: _Target) -> web.StreamResponse:
        resource = target.resource
        start = request.query.get("resourceVersion") or "0"
        if start != "0" and int(start) < resource.oldest:
            gone = _status(410, "Expired", f"too old resource version: {start} ({resource.oldest})")
            return _json(gone, 410) if self.gone_by_status else _lines(_event("ERROR", gone))
        response = web.StreamResponse(headers={"Content-Type": _JSON})
        await response.prepare(request)
        self.open_watches += 1
        try:
            await self._stream(
                _Watch(request, target, self._generation_of_watches, self._bookmark_now), response, start
            )
        finally:
            self.open_watches -= 1
        return response

    async def _stream(self, watch: _Watch, response: web.StreamResponse, start: str) -> None:
        resource, loop = watch.target.resource, asyncio.get_running_loop()
        ends = loop.time() + float(watch.request.query.get("timeoutSeconds") or 3600)
        next_bookmark = loop.time() + self._bookmarks
        cursor = resource.forgotten + next(
            (i for i, each in enumerate(resource.changes) if each.version > int(start)), len(resource.changes)
        )
        if start == "0":
            cursor = resource.forgotten + len(resource.changes)
            initial = [watch.event(_Change(each.version, None, each)) for _, each in sorted(resource.objects.items())]
            await response.write(b"".join(initial))
        while watch.generation == self._generation_of_watches and loop.time() < ends:
            resource.changed.clear()
            if cursor < resource.forgotten:
                await response.write(_event("ERROR", _status(410, "Expired", "too old resource version")))
                return
            waiting = resource.changes[cursor - resource.forgotten :]
            if waiting:
                cursor += len(waiting)
                await response.write(b"".join(map(watch.event, waiting)))
            if watch.wants_bookmarks and (watch.bookmarks_sent != self._bookmark_now or loop.time() >= next_bookmark):
                watch.bookmarks_sent = self._bookmark_now
                next_bookmark = loop.time() + self._bookmarks
                await response.write(watch.bookmark(self._version))
            await self._changed(resource, min(ends, next_bookmark) - loop.time())

    async def _changed(self, resource: _Resource, seconds: float) -> None:
        """Wait for a change of the resource; other watches of it wait on the same event, so each looks for itself."""
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                await resource.changed.wait()
        except TimeoutError:
            pass
        await asyncio.sleep(0)  # all that wait see it before one of them clears it

    # --- details

    def _answer(self, request: web.Request, resource: _Resource, value: Object, code: int = 200) -> web.StreamResponse:
        if _wants_metadata(request):
            value = {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": value["metadata"]}
        return _json({"apiVersion": resource.group_version, "kind": resource.kind, **value}, code)

    def _of_kind(self, value: Object) -> _Resource:
        for resource in self._resources.values():
            if (resource.group_version, resource.kind) == (value["apiVersion"], value["kind"]):
                return resource
        raise LookupError(f"{value['apiVersion']} {value['kind']} is not defined")

    def _now(self) -> str:
        return self._clock().strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(slots=True)
class _Watch:
    request: web.Request
    target: _Target
    generation: int
    bookmarks_sent: int

    def __post_init__(self) -> None:
        self.selects = _selector(self.request.query, self.target)
        self.metadata_only = _wants_metadata(self.request)
        self.wants_bookmarks = self.request.query.get("allowWatchBookmarks") in {"true", "1"}

    selects: Callable[[Object], bool] = field(init=False)
    metadata_only: bool = field(init=False)
    wants_bookmarks: bool = field(init=False)

    def event(self, change: _Change) -> bytes:
        """The event that this watch gets: an object that enters its selection is ADDED, one that leaves it DELETED."""
        before = change.old is not None and self.selects(change.old.value)
        after = change.new is not None and self.selects(change.new.value)
        if not before and not after:
            return b""
        kind = "MODIFIED" if before and after else "ADDED" if after else "DELETED"
        stored = change.new if after else change.old
        assert stored is not None
        value = stored.value
        if kind == "DELETED":
            value = {**value, "metadata": {**value["metadata"], "resourceVersion": str(change.version)}}
        if self.metadata_only:
            value = {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": value["metadata"]}
        return _event(kind, value)

    def bookmark(self, version: int) -> bytes:
        resource = self.target.resource
        kind = (
            ("PartialObjectMetadata", "meta.k8s.io/v1")
            if self.metadata_only
            else (resource.kind, resource.group_version)
        )
        return _event(
            "BOOKMARK",
            {
                "kind": kind[0],
                "apiVersion": kind[1],
                "metadata": {"resourceVersion": str(version), "creationTimestamp": None},
            },
        )


_KEPT = ("name", "namespace", "uid", "creationTimestamp", "generation", "deletionTimestamp")


def _spec(resource: _Resource, value: Object) -> Object:
    """The part of an object whose change is a new generation."""
    if resource.built_in:
        return {"spec": value.get("spec")}
    return {name: part for name, part in value.items() if name not in {"metadata", "status" if resource.status else ""}}


def _seen(request: web.Request, target: _Target | None, body: bytes) -> Seen:
    verb = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}.get(request.method, "get")
    if verb == "get" and target and not target.name:
        verb = "watch" if request.query.get("watch") in {"true", "1"} else "list"
    resource = "/".join(filter(None, (target.resource.plural, target.subresource))) if target else ""
    where = (target.namespace, target.name) if target else ("", "")
    return Seen(verb, resource, *where, request.path, dict(request.query), dict(request.headers), body)


def _selector(query: Mapping[str, str], target: _Target) -> Callable[[Object], bool]:
    labels = _requirements(query.get("labelSelector", ""))
    fields = [re.fullmatch(r"([^=!]+)(!=|==?)(.*)", each) for each in query.get("fieldSelector", "").split(",") if each]

    def selects(value: Object) -> bool:
        metadata = value["metadata"]
        if target.namespace and metadata.get("namespace") != target.namespace:
            return False
        if not all(test(metadata.get("labels") or {}) for test in labels):
            return False
        return all(each and (str(_field(value, each[1])) == each[3]) is (each[2] != "!=") for each in fields)

    return selects


def _field(value: Any, path: str) -> Any:
    for step in path.split("."):
        value = value.get(step, "") if isinstance(value, dict) else ""
    return value


def _requirements(selector: str) -> list[Callable[[Mapping[str, str]], bool]]:
    """`a=b`, `a!=b`, `a`, `!a`, `a in (b,c)`, `a notin (b)`."""
    return [_requirement(each.strip()) for each in re.findall(r"(?:[^,(]|\([^)]*\))+", selector)]


def _requirement(text: str) -> Callable[[Mapping[str, str]], bool]:
    if found := re.fullmatch(r"(\S+)\s+(in|notin)\s+\(([^)]*)\)", text):
        values = {value.strip() for value in found[3].split(",")}
        return lambda labels: (labels.get(found[1]) in values) is (found[2] == "in")
    if found := re.fullmatch(r"([^=!\s]+)\s*(!=|==?)\s*(\S*)", text):
        return lambda labels: (labels.get(found[1]) == found[3]) is (found[2] != "!=")
    return lambda labels: (text.lstrip("!") in labels) is not text.startswith("!")


def _wants_metadata(request: web.Request) -> bool:
    return "as=PartialObjectMetadata" in request.headers.get("Accept", "")


def _is_dry(query: Mapping[str, str]) -> bool:
    return query.get("dryRun") == "All"


def _check_kind(resource: _Resource, value: Object) -> None:
    if not isinstance(value, dict):
        raise Refusal(400, "BadRequest", "the object is not a map")
    assumed = (resource.group_version, resource.kind) if resource.built_in else ("", "")
    shown = (value.get("apiVersion", assumed[0]), value.get("kind", assumed[1]))
    if shown != (resource.group_version, resource.kind):
        raise Refusal(400, "BadRequest", f"{shown[0]} {shown[1]} in a request for {resource.qualified}")


def _not_found(resource: _Resource, name: str) -> Refusal:
    return Refusal(
        404,
        "NotFound",
        f'{resource.qualified} "{name}" not found',
        name=name,
        group=resource.group,
        kind=resource.plural,
    )


def _conflict(target: _Target, message: str) -> Refusal:
    return Refusal(
        409,
        "Conflict",
        f'Operation cannot be fulfilled on {target.resource.qualified} "{target.name}": {message}',
        name=target.name,
    )


def _other_uid(target: _Target, given: str, present: str, *, is_patch: bool) -> Refusal:
    if is_patch:
        name = f'{target.resource.kind}.{target.resource.group} "{target.name}"'
        return Refusal(422, "Invalid", f"{name} is invalid: metadata.uid: Invalid value: {given!r}: field is immutable")
    return _conflict(target, f"Precondition failed: UID in precondition: {given}, UID in object meta: {present}")


def _decoded(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except msgspec.DecodeError as error:
        raise Refusal(400, "BadRequest", "the body is not JSON") from error


def _json(value: Object, code: int = 200) -> web.Response:
    return web.Response(status=code, body=_encode(value), content_type=_JSON)


def _event(kind: str, value: Object) -> bytes:
    return _encode({"type": kind, "object": value}) + b"\n"


def _lines(*lines: bytes) -> web.Response:
    return web.Response(body=b"".join(lines), content_type=_JSON)


def _api_service(group: str, version: str) -> Object:
    return {
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {"name": f"{version}.{group}"},
        "spec": {"group": group, "version": version, "groupPriorityMinimum": 1000, "versionPriority": 100},
    }
