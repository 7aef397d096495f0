"""The namespace `shop` of a fake API server, for the commands that write: objects, a controller that acts when a test
says so, and the command as a shell runs it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from imagestreams.cli.main import invoke
from imagestreams.core.stream import ImageStream, decode
from tests.fakes.apiserver import FakeApiServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

API = "image.openshift.io/v1"
REFRESH = "imagestreams.dev/refresh"
FORGET = "imagestreams.dev/forget"
DIGEST, OTHER = "sha256:" + "a" * 64, "sha256:" + "b" * 64
NOW = datetime.now(UTC).replace(microsecond=0)

Object = dict[str, Any]


# ---- objects ----


def tag(name: str, source: str | None = "quay.io/acme/web", kind: str = "DockerImage", **more: Any) -> Object:
    return {"name": name, **({} if source is None else {"from": {"kind": kind, "name": source}}), **more}


def alias(name: str, target: str, **more: Any) -> Object:
    return tag(name, target, "ImageStreamTag", **more)


def stream(*tags: Object, api: str = API, spec: Object | None = None, **metadata: Any) -> Object:
    metadata = {"name": "web", "namespace": "shop", "uid": "u-1", "generation": 1, **metadata}
    return {
        "apiVersion": api,
        "kind": "ImageStream",
        "metadata": metadata,
        "spec": {"tags": list(tags), **(spec or {})},
    }


def item(digest: str = DIGEST, age: timedelta = timedelta(hours=15, minutes=30)) -> Object:
    # By default far from where its age is shown as another: commands look at the clock, a long run of tests later.
    created = (NOW - age).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"created": created, "dockerImageReference": f"quay.io/acme/web@{digest}", "image": digest, "generation": 1}


def imported(name: str, *items: Object) -> Object:
    return {"tag": name, "items": list(items or [item()]), "conditions": [{"type": "ImportSuccess", "status": "True"}]}


def failed(name: str, reason: str, message: str, *items: Object) -> Object:
    condition = {"type": "ImportSuccess", "status": "False", "reason": reason, "message": message}
    return {"tag": name, "items": list(items), "conditions": [condition]}


def decoded(value: Object) -> ImageStream:
    return decode(json.dumps(value).encode())


# ---- the world ----


class World:
    """The fake API server, with a controller that acts when a test says so."""

    def __init__(self, server: FakeApiServer, api: str = API) -> None:
        self.server, self.api = server, api

    @property
    def stream(self) -> Object:
        return self.named("web")

    def named(self, name: str, namespace: str = "shop") -> Object:
        found = self.server.get(self.api, "imagestreams", namespace, name)
        assert found is not None
        return found

    @property
    def tags(self) -> dict[str, Object]:
        """The stream's spec tags by name."""
        return {found["name"]: found for found in self.stream["spec"].get("tags") or ()}

    def annotation(self, name: str) -> str:
        return str((self.stream["metadata"].get("annotations") or {}).get(name, ""))

    @property
    def request(self) -> str:
        return self.annotation(REFRESH)

    def annotate(self, value: str | None) -> None:
        """Another writer's request, or none."""
        found = self.stream
        found["metadata"]["annotations"] = {} if value is None else {REFRESH: value}
        self.server.put(found)

    def handle(self, *tags: Object, value: str | None = None) -> None:
        """The controller's write: the tags' outcome, and the request handled."""
        found = self.stream
        found["status"] = {"observedGeneration": 1, "tags": list(tags), "handled": {"refresh": value or self.request}}
        self.server.put(found)

    def when(self, verb: str, *steps: Callable[[], None], times: int = 1, resource: str = "imagestreams") -> None:
        """Before the next requests of the kind are served, do these."""

        async def respond(_request: Any, serve: Any) -> Any:
            for step in steps:
                step()
            return await serve()

        self.server.inject(respond, verb=verb, resource=resource, times=times)

    def verbs(self, resource: str = "imagestreams") -> list[str]:
        return [seen.verb for seen in self.server.requests if seen.resource == resource]

    def bodies(self, verb: str, resource: str = "imagestreams") -> list[Object]:
        """What was sent."""
        return [
            json.loads(seen.body) for seen in self.server.requests if (seen.verb, seen.resource) == (verb, resource)
        ]


@contextlib.asynccontextmanager
async def opened(tmp_path: Any, monkeypatch: Any, api: str = API) -> AsyncIterator[World]:
    """A cluster with ImageStreams, which the environment names."""
    async with FakeApiServer() as server:
        server.define(api, "imagestreams", "ImageStream", status=True)
        monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(tmp_path / "config")))
        yield World(server, api)


class Result(NamedTuple):
    code: int
    out: str
    err: str


def command(name: str, capsys: Any) -> Any:
    """The command as a shell runs it, in a thread beside the server's loop."""

    async def call(*args: str) -> Result:
        code = await asyncio.to_thread(invoke, (name, *args, "-n", "shop"), "imagestreams")
        return Result(code, *capsys.readouterr())

    return call


# ---- looking up ----


def succeeded(digest: str = DIGEST, **more: Any) -> Object:
    """An entry of an ImageStreamImport's status."""
    image = {"metadata": {"name": digest}, "dockerImageReference": f"quay.io/acme/web@{digest}", **more}
    return {"status": {"metadata": {}, "status": "Success"}, "image": image}


def refused(reason: str, message: str, code: int = 404) -> Object:
    return {"status": {"metadata": {}, "status": "Failure", "reason": reason, "message": message, "code": code}}


def serve_imports(world: World) -> None:
    """ImageStreamImports are there, and nobody answers them."""
    world.server.define(world.api, "imagestreamimports", "ImageStreamImport")


def answer_imports(world: World, status: Object) -> None:
    """As with the webhook: each is answered when it is created, under a name of its own."""
    serve_imports(world)

    async def respond(request: Any, _serve: Any) -> Any:
        from aiohttp import web

        value = json.loads(await request.read())
        assert value["metadata"].get("resourceVersion", "") == ""
        value["metadata"]["name"] = f"{value['metadata']['name']}-x7k2p"
        return web.json_response(world.server.put({**value, "status": status}), status=201)

    world.server.inject(respond, verb="create", resource="imagestreamimports", times=-1)
