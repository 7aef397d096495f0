"""A world for import requests: an API server that calls the webhook as the real one does, registries at a socket, and
all that a controller has to do with requests, in one process that can be killed.

    web = world.registries["registry.test"]; web.add("acme/web", "1", image())
    stored = await world.create(asking("web", "registry.test/acme/web:1", to="1"), user=JANE)
    await world.settled()

Only the sockets are fakes. There are no webhooks where the world is made so: then nobody stamps a request.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Self

from imagestreams.controllers.imagestream import ImageStreamReconciler
from imagestreams.controllers.imagestreamimport import Disturbed, ImageStreamImportReconciler, RequestLimits
from imagestreams.controllers.workqueue import WorkQueue
from imagestreams.core.admission import Allowed, Denied, Requester, Review
from imagestreams.core.keychain import Entry
from imagestreams.core.policy import HostRule, Policy
from imagestreams.core.stream import ImageStream, ObjectKey, Status
from imagestreams.core.wish import ImportRules
from imagestreams.imports import Importer
from imagestreams.kube.cluster import ApiError, Cluster
from imagestreams.kube.imagestreams import ImageStreams
from imagestreams.kube.imports import ImageStreamImports, RequestMetadata
from imagestreams.registry.client import RegistryClient
from imagestreams.registry.lanes import Lanes, Limits
from imagestreams.registry.transport import Reach
from imagestreams.requests import ImportRequests, RequestKey, Room, Turns
from imagestreams.server.imports import ImportDoor
from tests.fakes.apiserver import FakeApiServer
from tests.fakes.clock import Clock
from tests.fakes.patching import json_patched
from tests.fakes.registry import FakeRegistry
from tests.fakes.waiting import until

API = "image.openshift.io/v1"
GROUP = "image.openshift.io"
CONTROLLER = "system:serviceaccount:imagestreams-system:imagestreams"
KEY, OLD_KEY = b"k" * 32, b"o" * 32
TTL = timedelta(minutes=10)
JANE = Requester("jane", "u-jane", ("dev", "system:authenticated"))
BOB = Requester("bob", "u-bob", ("system:authenticated",))

Object = dict[str, Any]


class Refused(Exception):
    """The webhook denied it."""

    def __init__(self, verdict: Denied) -> None:
        super().__init__(f"{verdict.code} {verdict.reason}: {verdict.message}")
        self.verdict = verdict


class World:
    """See the module.

    Args:
        directory: for a kubeconfig.
        hosts: of registries.
        has_webhook: whether requests are stamped and answered as they are created.
        seconds: that the webhook has for an answer.
        answering: that the controller has for one.
        settle: seconds after which lanes report what has come, while more is under way.

    Attributes:
        reviews: SubjectAccessReviews that were asked for, their specs.
        events: reason and words of Events on requests.
    """

    def __init__(
        self,
        directory: Path,
        *,
        hosts: Iterable[str] = ("registry.test", "slow.test"),
        has_webhook: bool = True,
        seconds: float = 10.0,
        answering: float = 10.0,
        settle: float = 0.02,
        room: Room | None = None,
        limits: RequestLimits | None = None,
        rules: ImportRules | None = None,
    ) -> None:
        self.clock = Clock()
        self.api = FakeApiServer(clock=self.clock)
        self.registries: dict[str, FakeRegistry] = {}
        self.reviews: list[Object] = []
        self.events: list[tuple[str, str]] = []
        self.entries: tuple[Entry, ...] = ()
        self.keys: tuple[bytes, ...] | None = (KEY,) if has_webhook else ()
        self.has_webhook, self.seconds, self.answering, self.settle = has_webhook, seconds, answering, settle
        self.room, self.limits, self.rules = room or Room(), limits or RequestLimits(), rules or ImportRules()
        self._directory, self._hosts = directory, tuple(hosts)
        self._life = AsyncExitStack()
        self._process: Process | None = None

    async def __aenter__(self) -> Self:
        await self._life.enter_async_context(self.api)
        self.api.define(API, "imagestreams", "ImageStream", status=True)
        self.api.define(API, "imagestreamimports", "ImageStreamImport")
        self.allow(lambda _: True)
        for host in self._hosts:
            self.registries[host] = await self._life.enter_async_context(FakeRegistry())
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        for registry in self.registries.values():
            registry.release()
        self.api.heal()
        await self.kill()
        await self._life.aclose()

    @property
    def process(self) -> Process:
        assert self._process is not None
        return self._process

    async def start(self) -> None:
        """A process begins; there is none."""
        self._process = Process(self)
        await self._process.start()

    async def kill(self) -> None:
        """It ends, in the midst of whatever it does."""
        process, self._process = self._process, None
        if process is not None:
            await process.kill()

    @property
    def policy(self) -> Policy:
        return Policy(hosts={host: HostRule(endpoint=each.url) for host, each in self.registries.items()})

    def allow(self, allows: Callable[[Object], bool]) -> None:
        """Whether a SubjectAccessReview (its spec) is allowed."""
        self.api.allows = lambda spec: bool(self.reviews.append(spec)) or allows(spec)

    # --- the API server's side of a webhook

    def review(
        self, value: Object, *, user: Requester = JANE, operation: str = "CREATE", old: Object | None = None
    ) -> Review:
        metadata = value["metadata"]
        return Review(
            uid="review-1",
            operation=operation,
            group=GROUP,
            version="v1",
            resource="imagestreamimports",
            subresource="",
            kind="ImageStreamImport",
            namespace=metadata.get("namespace", ""),
            name=metadata.get("name", ""),
            requester=user,
            object=json.dumps(value).encode(),
            old=json.dumps(old).encode() if old is not None else b"",
            is_dry_run=False,
        )

    async def create(self, value: Object, *, user: Requester = JANE) -> Object:
        """What `kubectl create` does; returns the stored object. Raises Refused, or what the API server says."""
        if self.has_webhook:
            value = await self.admitted(value, user=user)
        body = json.dumps(value).encode()
        path = f"/apis/{API}/namespaces/{value['metadata']['namespace']}/imagestreamimports"
        made: Object = json.loads(await self.process.cluster.post(path, body))
        return made

    async def admitted(self, value: Object, *, user: Requester = JANE) -> Object:
        """The object as the webhook lets it pass."""
        verdict = await self.process.door(self.review(value, user=user))
        if isinstance(verdict, Denied):
            raise Refused(verdict)
        assert isinstance(verdict, Allowed)
        patch = json.loads(json.dumps(verdict.patch))
        return json_patched(value, patch) if patch else value

    # --- what is there

    async def settled(self) -> None:
        """Wait until nothing is queued, asked or written any more."""
        before = -1
        while before != (before := self._activity()) or not self.process.is_idle:  # noqa: ASYNC110 - of many things at once
            await asyncio.sleep(0.03)

    def _activity(self) -> int:
        counted = [len(registry.requests) for registry in self.registries.values()]
        return len(self.api.requests) + sum(counted)

    def put_stream(
        self, name: str = "web", namespace: str = "shop", *, status: Object | None = None, **spec: Any
    ) -> Object:
        value = {
            "apiVersion": API,
            "kind": "ImageStream",
            "metadata": {"namespace": namespace, "name": name},
            "spec": spec,
        }
        return self.api.put(value | ({"status": status} if status else {}))

    def stream(self, name: str = "web", namespace: str = "shop") -> Object | None:
        return self.api.get(API, "imagestreams", namespace, name)

    def spec_tags(self, name: str = "web", namespace: str = "shop") -> dict[str, str]:
        """The sources of a stream's spec tags, by name."""
        found = self.stream(name, namespace) or {}
        return {tag["name"]: tag.get("from", {}).get("name", "") for tag in found.get("spec", {}).get("tags") or []}

    def items(self, tag: str, name: str = "web", namespace: str = "shop") -> list[str]:
        """The digests of a tag's history, newest first."""
        found = (self.stream(name, namespace) or {}).get("status", {}).get("tags") or []
        return [item["image"] for each in found if each["tag"] == tag for item in each.get("items") or []]

    def requests(self) -> list[Object]:
        return self.api.all(API, "imagestreamimports")

    def request(self, name: str, namespace: str = "shop") -> Object | None:
        return self.api.get(API, "imagestreamimports", namespace, name)

    def mark(self, name: str, namespace: str = "shop") -> str:
        found = self.request(name, namespace) or {}
        return str(found.get("metadata", {}).get("annotations", {}).get("imagestreams.dev/carried-out", ""))

    def writes(self) -> list[str]:
        """The writes to streams and requests, as "patch imagestreams"; status writes of rounds apart."""
        return [
            f"{seen.verb} {seen.resource}"
            for seen in self.api.requests
            if seen.verb in {"create", "update", "patch", "delete"} and seen.resource.startswith("imagestream")
        ]


class Process:
    """What a controller has to do with requests, webhook included, wired as `imagestreams.app` does it."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        world, clock = self._world, self._world.clock
        kubeconfig = world.api.kubeconfig(world._directory / "kubeconfig")
        self.cluster = await Cluster.connect(str(kubeconfig))
        self.streams_api = ImageStreams(self.cluster, GROUP)
        self.api = ImageStreamImports(self.cluster, GROUP)
        self.stream_queue: WorkQueue[ObjectKey] = WorkQueue("imagestream", expected=(ApiError,), retry_base=0.01)
        self.queue: WorkQueue[ObjectKey] = WorkQueue("import", expected=(ApiError, Disturbed), retry_base=0.01)
        self.streams = self.streams_api.reflector(lambda key, _, __: self.stream_queue.add(ObjectKey(*key)))
        self.watched = self.api.reflector(lambda key, _, __: self.queue.add(ObjectKey(*key)))
        self.client = RegistryClient(Reach.of(lambda: world.policy), clock=clock)
        self.lanes: Lanes[Any] = Lanes(
            self.client.answer, clock=clock, ready=self._ready, limits=Limits(settle=world.settle)
        )
        rules = replace(world.rules, policy=world.policy)
        self.requests = ImportRequests(
            lanes=self.lanes,
            credentials=self._credentials,
            rules=lambda: rules,
            clock=clock,
            streams=self.streams.store.get,
        )
        self.turns = Turns(world.room)
        self.door = ImportDoor(
            api=self.api,
            requests=self.requests,
            turns=self.turns,
            key=lambda: next(iter(world.keys or ()), b""),
            group=GROUP,
            controller=CONTROLLER,
            clock=clock,
            seconds=world.seconds,
        )
        self.importer = Importer(
            lanes=self.lanes,
            credentials=self._credentials,
            publish=self._publish,
            announce=lambda *_: None,
            clock=clock,
            rules=rules,
            watermark=None,
            streams=self.streams.store.get,
        )
        rounds = ImageStreamReconciler(
            streams=self.streams.store, importer=self.importer, schedule=lambda *_: None, forget=lambda _: None
        )
        self.reconciler = ImageStreamImportReconciler(
            watched=self.watched.store,
            api=self.api,
            requests=self.requests,
            keys=lambda: world.keys,
            adopt=self.streams.adopt,
            hint=self._hint,
            announce=self._announce,
            enqueue=self.queue.add,
            group=GROUP,
            clock=clock,
            ttl=TTL,
            limits=world.limits,
            seconds=world.answering,
        )
        working = [self.queue.work(self.reconciler.reconcile) for _ in range(16)]
        working += [self.stream_queue.work(rounds.reconcile) for _ in range(4)]
        working += [self.streams.run(), self.watched.run(), self.lanes.run()]
        self._tasks = [asyncio.create_task(each) for each in working]
        await until(lambda: self.streams.store.synced.is_set() and self.watched.store.synced.is_set())

    async def kill(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.queue.clear()
        self.stream_queue.clear()
        await self.client.close()
        await self.cluster.close()

    @property
    def is_idle(self) -> bool:
        return not (len(self.queue) or len(self.stream_queue) or len(self.requests) or self.lanes.load() != (0, 0))

    def _ready(self, key: ObjectKey | RequestKey) -> None:
        if isinstance(key, RequestKey):
            self.requests.ready(key)
        else:
            self.stream_queue.add(key)

    async def _credentials(self, _: ImageStream) -> tuple[Entry, ...]:
        return self._world.entries

    async def _publish(self, stream: ImageStream, status: Status) -> ImageStream:
        written = await self.streams_api.write_status(stream, status)
        self.streams.adopt(written)
        return written

    def _hint(self, key: ObjectKey, tags: frozenset[str], since: datetime) -> None:
        self.importer.foresee(key, tags, since)
        self.stream_queue.add(key)

    def _announce(self, _: RequestMetadata, __: str, reason: str, message: str) -> None:
        self._world.events.append((reason, message))


def asked(image: str, to: str | None = None, **more: Any) -> Object:
    """One entry of spec.images."""
    found: Object = {"from": {"kind": "DockerImage", "name": image}, **more}
    return found | ({"to": {"name": to}} if to is not None else {})


def asking(
    name: str, *images: str | Object, namespace: str = "shop", is_import: bool = True, **metadata: Any
) -> Object:
    """A request as clients send it; an image is a pull spec, or `asked`."""
    return {
        "apiVersion": API,
        "kind": "ImageStreamImport",
        "metadata": {"namespace": namespace, "name": name, **metadata},
        "spec": {
            "import": is_import,
            "images": [asked(image) if isinstance(image, str) else image for image in images],
        },
        "status": {},
    }


def results(stored: Object) -> list[str]:
    """What became of each image: its digest, or the reason."""
    return [
        entry["image"]["metadata"]["name"] if "image" in entry else entry["status"]["reason"]
        for entry in stored["status"]["images"]
    ]
