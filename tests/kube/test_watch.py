"""The store's rules, and a reflector among all that an API server, or what stands before it, can do to a watch."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from imagestreams.kube import watch as watch_module
from imagestreams.kube.cluster import Cluster, api_path
from imagestreams.kube.watch import METADATA_ONLY, Page, Reflector, Store
from tests.fakes.apiserver import FakeApiServer, Respond, disconnect, held, html, raw, status
from tests.fakes.waiting import Naps, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from dev.control_plane import ControlPlane
    from imagestreams.kube.watch import Key


class Metadata(msgspec.Struct, frozen=True, rename="camel"):
    name: str
    namespace: str
    resource_version: str


class Thing(msgspec.Struct, frozen=True):
    metadata: Metadata
    data: dict[str, str] = {}

    @property
    def key(self) -> Key:
        return self.metadata.namespace, self.metadata.name


class ListMetadata(msgspec.Struct, rename="camel"):
    resource_version: str
    continue_: str = msgspec.field(name="continue", default="")


class Things(msgspec.Struct):
    metadata: ListMetadata
    items: list[Thing]


def thing(name: str, version: int, **data: str) -> Thing:
    return Thing(Metadata(name, "ns", str(version)), data)


def page(body: bytes) -> Page[Thing]:
    listed = msgspec.json.decode(body, type=Things)
    return Page(listed.items, listed.metadata.resource_version, listed.metadata.continue_)


Changes = list[tuple[str, str | None, str | None]]
"""Name, and the versions before and after."""


def versions(value: Thing | None) -> str | None:
    return value.metadata.resource_version if value else None


# --- the store --------------------------------------------------------------------------------------------------------


class Kept:
    """A store with `a` at version 10, and what it told."""

    def __init__(self) -> None:
        self.changes: Changes = []
        self.store: Store[Thing] = Store(lambda it: it.key, lambda it: it.metadata.resource_version, self._changed)
        self.store.replace({("ns", "a"): thing("a", 10)}, 20)
        self.changes.clear()

    def _changed(self, key: Key, old: Thing | None, new: Thing | None) -> None:
        self.changes.append((key[1], versions(old), versions(new)))

    @property
    def present(self) -> dict[str, str]:
        return {name: value.metadata.resource_version for (_, name), value in self.store.items()}


def test_a_store_is_a_mapping() -> None:
    store = Kept().store
    assert list(store) == [("ns", "a")]
    assert len(store) == 1
    assert ("ns", "a") in store
    assert store["ns", "a"].metadata.resource_version == "10"
    assert store.get(("ns", "a")) is store["ns", "a"]
    assert store.get(("ns", "b")) is None
    assert store.get(("ns", "b"), 1) == 1


@pytest.mark.parametrize(
    ("name", "version", "adopted"),
    [
        pytest.param("a", 30, True, id="newer"),
        pytest.param("a", 15, True, id="newer than what is held, though the list was later"),
        pytest.param("a", 10, False, id="the same"),
        pytest.param("a", 9, False, id="older"),
        pytest.param("b", 30, True, id="new"),
        pytest.param("b", 15, False, id="gone since"),
    ],
)
def test_the_answer_to_our_own_write(name: str, version: int, *, adopted: bool) -> None:
    kept = Kept()
    before = kept.present
    assert kept.store.adopt(thing(name, version)) is adopted
    assert kept.present == (before | {name: str(version)} if adopted else before)
    assert kept.changes == ([(name, before.get(name), str(version))] if adopted else [])


def test_the_watchs_older_news_of_what_was_adopted_are_no_news() -> None:
    kept = Kept()
    kept.store.adopt(thing("a", 30))
    kept.changes.clear()
    for version in (25, 30):
        kept.store.apply(thing("a", version))
    kept.store.drop(("ns", "a"), 27)  # of an object that had the name before
    assert kept.changes == []
    kept.store.apply(thing("a", 31))
    kept.store.drop(("ns", "a"), 32)
    assert kept.changes == [("a", "30", "31"), ("a", "31", None)]


def test_an_answer_that_comes_after_the_deletion() -> None:
    kept = Kept()
    kept.store.drop(("ns", "a"), 40)
    assert not kept.store.adopt(thing("a", 35))
    assert kept.store.adopt(thing("a", 45))


def test_a_list_replaces_all_and_tells_the_differences() -> None:
    kept = Kept()
    kept.store.apply(thing("b", 21))
    kept.store.apply(thing("c", 22))
    kept.changes.clear()
    listed = {("ns", name): thing(name, version) for name, version in {"a": 10, "b": 25, "d": 26}.items()}
    seen: list[dict[str, str]] = []
    kept.store._on_change = lambda key, old, new: (seen.append(kept.present), kept._changed(key, old, new))
    kept.store.replace(listed, 30)
    assert kept.changes == [("b", "21", "25"), ("d", None, "26"), ("c", "22", None)]
    assert all(present == {"a": "10", "b": "25", "d": "26"} for present in seen)


def test_what_is_adopted_while_a_list_is_read_is_not_lost() -> None:
    kept = Kept()
    kept.store.begin()
    kept.store.adopt(thing("a", 31))
    kept.store.adopt(thing("new", 32))
    kept.store.adopt(thing("old", 29))
    kept.changes.clear()
    kept.store.replace({("ns", "a"): thing("a", 10)}, 30)
    assert kept.present == {"a": "31", "new": "32"}
    assert kept.changes == [("old", "29", None)]


def test_after_a_restored_backup_versions_start_lower() -> None:
    kept = Kept()
    kept.store.replace({("ns", "a"): thing("a", 3)}, 5)
    assert kept.present == {"a": "3"}
    assert kept.store.adopt(thing("b", 6))


def test_versions_that_are_no_numbers_are_taken_as_they_come() -> None:
    kept = Kept()
    kept.store.apply(Thing(Metadata("a", "ns", "opaque")))
    assert kept.present == {"a": "opaque"}
    assert not kept.store.adopt(Thing(Metadata("a", "ns", "other")))


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_module, "_SETTLE_SECONDS", 0.02)


# --- the reflector ----------------------------------------------------------------------------------------------------

PATH = api_path("v1", "configmaps")


class Following:
    """A running reflector of ConfigMaps and what it told."""

    def __init__(self, cluster: Cluster, naps: Naps, **options: Any) -> None:
        self.changes: Changes = []
        self.problems: list[str | None] = []
        self.undecodable: list[Key] = []
        self.naps = naps
        self.reflector = Reflector(
            cluster,
            options.pop("path", PATH),
            decode_list=page,
            decode_object=lambda body: msgspec.json.decode(body, type=Thing),
            key=lambda it: it.key,
            resource_version=lambda it: it.metadata.resource_version,
            on_change=lambda key, old, new: self.changes.append((key[1], versions(old), versions(new))),
            on_problem=self.problems.append,
            on_undecodable=lambda key, _: self.undecodable.append(key),
            clock=naps.clock,
            chance=lambda: 0.5,
            sleep=naps.sleep,
            **options,
        )

    @property
    def names(self) -> set[str]:
        return {name for _, name in self.reflector.store}


@asynccontextmanager
async def following(cluster: Cluster, naps: Naps | None = None, **options: Any) -> AsyncIterator[Following]:
    follows = Following(cluster, naps or Naps(), **options)
    running = asyncio.create_task(follows.reflector.run())
    try:
        yield follows
    finally:
        assert not running.done() or running.cancelled()
        running.cancel()
        await asyncio.wait([running])


def put(api: FakeApiServer, name: str, **data: object) -> str:
    """Returns the version."""
    value = api.put(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": "ns", "name": name}, "data": data}
    )
    return str(value["metadata"]["resourceVersion"])


def remove(api: FakeApiServer, name: str) -> None:
    api.remove("v1", "configmaps", "ns", name)


async def test_it_follows(api: FakeApiServer, cluster: Cluster) -> None:
    first = put(api, "a")
    async with following(cluster) as follows:
        await follows.reflector.store.synced.wait()
        assert follows.names == {"a"}
        await until(lambda: follows.reflector.live)
        second = put(api, "b")
        third = put(api, "a", x="y")
        remove(api, "b")
        await until(lambda: follows.names == {"a"} and len(follows.changes) == 4)
        assert follows.changes == [("a", None, first), ("b", None, second), ("a", first, third), ("b", second, None)]
        assert follows.reflector.store["ns", "a"].data == {"x": "y"}
    assert api.counts == {("list", "configmaps"): 1, ("watch", "configmaps"): 1}
    assert follows.problems == []
    (watch,) = [seen for seen in api.requests if seen.verb == "watch"]
    assert watch.query["allowWatchBookmarks"] == "true"
    assert 261 <= int(watch.query["timeoutSeconds"]) <= 319
    assert watch.query["resourceVersion"] == first


async def test_it_ends_its_watch(api: FakeApiServer, cluster: Cluster) -> None:
    async with following(cluster):
        await until(lambda: api.open_watches == 1)
    await until(lambda: api.open_watches == 0)


async def test_many_pages(api: FakeApiServer, cluster: Cluster) -> None:
    for number in range(1100):
        put(api, f"c{number}")
    async with following(cluster) as follows:
        await until(lambda: follows.reflector.live)
        assert len(follows.names) == 1100
        assert len(follows.changes) == 1100
    assert api.count("list") == 3


async def test_selectors_and_metadata_alone(api: FakeApiServer, cluster: Cluster) -> None:
    api.put(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"namespace": "ns", "name": "a", "labels": {"x": ""}},
            "data": {"s": "t"},
        }
    )
    put(api, "b")
    async with following(cluster, params={"labelSelector": "x"}, accept=METADATA_ONLY) as follows:
        await until(lambda: follows.reflector.live)
        assert follows.names == {"a"}
        assert follows.reflector.store["ns", "a"].data == {}
        put(api, "c")
        api.put(
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"namespace": "ns", "name": "d", "labels": {"x": ""}},
                "data": {"s": "t"},
            }
        )
        await until(lambda: "d" in follows.names)
        assert follows.names == {"a", "d"}
        assert follows.reflector.store["ns", "d"].data == {}


async def test_the_end_that_every_watch_has(api: FakeApiServer, cluster: Cluster) -> None:
    put(api, "a")
    naps = Naps()
    async with following(cluster, naps) as follows:
        for number in range(1, 6):
            await until(lambda n=number: api.count("watch") == n and api.open_watches == 1 and follows.reflector.live)
            naps.now += 290
            api.end_watches()
        await until(lambda: api.count("watch") == 6 and follows.reflector.live)
        assert naps.naps == [0.1875] * 5
        put(api, "b")
        await until(lambda: "b" in follows.names)
    assert api.count("list") == 1
    assert follows.problems == []


TOO_LARGE = {"kind": "Status", "code": 504, "reason": "Timeout", "message": "Too large resource version"}


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        pytest.param(html(502), "HTTP status 502", id="a proxy's 502"),
        pytest.param(html(200), "not what a Kubernetes API server answers", id="a page of HTML"),
        pytest.param(raw(b""), None, id="nothing"),
        pytest.param(disconnect(), "fail", id="a broken connection"),
        pytest.param(raw(b'{"type":"MODIFIED","obj'), None, id="half a line"),
        pytest.param(raw(b'{"type":"MODIFIED","object":{}}\n'), "not what", id="an object without metadata"),
        pytest.param(raw(b'{"type":"NEWS","object":{}}\n'), "type 'NEWS'", id="an unknown event"),
        pytest.param(raw(b'{"type":"BOOKMARK","object":[]}\n'), "not what", id="a bookmark that is none"),
        pytest.param(raw(b"[" * 100_000 + b"\n"), "not what", id="deep nesting"),
        pytest.param(raw(b"\xff\xfe\n"), "not what", id="no UTF-8"),
        pytest.param(
            raw(json.dumps({"type": "ERROR", "object": TOO_LARGE}).encode() + b"\n"), "Too large", id="an error event"
        ),
        pytest.param(status(500, "InternalError", "etcd is slow"), "etcd is slow", id="an internal error"),
        pytest.param(status(401, "Unauthorized", "who?"), "who?", id="a refused credential"),
        pytest.param(
            status(403, "Forbidden", "user x cannot watch y"),
            "not allowed: user x cannot watch y",
            id="a missing right",
        ),
    ],
)
async def test_a_watch_that_fails_is_tried_ever_more_rarely(
    api: FakeApiServer, cluster: Cluster, fault: Respond, named: str | None
) -> None:
    put(api, "a")
    naps = Naps(limit=11)
    api.inject(fault, verb="watch", times=-1)
    async with following(cluster, naps) as follows:
        await until(lambda: naps.is_asleep)
        assert naps.naps == [0.375, 0.75, 1.5, 3, 6, 12, 22.5, 22.5, 22.5, 22.5, 22.5, 22.5]
        assert api.count("watch") <= 24  # a GET on a connection that broke is repeated at once, once
        assert api.count("list") <= 12
        assert follows.names == {"a"}
        if named:
            assert follows.reflector.problem
            assert named in follows.reflector.problem
        assert not follows.reflector.live
        put(api, "b")
        api.heal()
        naps.more(1)
        await until(lambda: "b" in follows.names and follows.reflector.live)
        assert follows.reflector.problem is None
        assert follows.problems[-1:] == ([None] if named else [])
        assert len(follows.problems) < 20


async def test_a_list_that_is_asked_for_does_not_wait_for_a_watch_that_lags(
    api: FakeApiServer, cluster: Cluster
) -> None:
    put(api, "a")
    frozen = asyncio.Event()
    api.inject(held(frozen), verb="watch", times=1)
    async with following(cluster) as follows:
        await until(lambda: api.count("watch") == 1)
        put(api, "b")
        assert follows.names == {"a"}
        await follows.reflector.relist()
        assert follows.names == {"a", "b"}
        put(api, "c")
        await until(lambda: "c" in follows.names)
        assert follows.problems == []
    frozen.set()
    assert api.count("list") == 2


async def test_a_list_that_is_asked_for_ends_a_nap(api: FakeApiServer, cluster: Cluster) -> None:
    put(api, "a")
    async with following(cluster, Naps(0)) as follows:
        api.inject(html(502), verb="watch")
        await until(lambda: follows.naps.naps)
        await follows.reflector.relist()
        assert follows.names == {"a"}


async def test_a_temporary_failure_needs_no_list(api: FakeApiServer, cluster: Cluster) -> None:
    put(api, "a")
    async with following(cluster) as follows:
        await until(lambda: follows.reflector.live)
        for fault in (html(502), disconnect(), raw(b""), status(429, "TooManyRequests", headers={"Retry-After": "7"})):
            api.inject(fault, verb="watch")
        api.end_watches()
        await until(lambda: api.count("watch") == 6 and follows.reflector.live)
        put(api, "b")
        await until(lambda: "b" in follows.names)
        assert follows.naps.naps[-1] > 7
    assert api.count("list") == 1


async def test_a_position_that_the_server_never_heard_of_is_given_up(api: FakeApiServer, cluster: Cluster) -> None:
    """After a backup was restored the server's versions are lower than ours, and our watch waits for what comes much
    later.
    """
    put(api, "a")
    api.inject(status(504, "Timeout", "Too large resource version"), verb="watch", times=5)
    async with following(cluster) as follows:
        await until(lambda: api.count("list") == 2 and follows.reflector.live)


@pytest.mark.parametrize("by_status", [True, False])
async def test_after_too_long_an_absence_it_lists_again(
    api: FakeApiServer, cluster: Cluster, *, by_status: bool
) -> None:
    api.gone_by_status = by_status
    old = put(api, "a")
    gone = put(api, "b")
    async with following(cluster) as follows:
        await until(lambda: follows.reflector.live)
        follows.changes.clear()
        released = asyncio.Event()

        async def away(request, handle):
            await released.wait()
            return await handle()

        api.inject(away, verb="watch")
        api.end_watches()
        await until(lambda: api.count("watch") == 2)
        new = put(api, "c")
        remove(api, "b")
        api.compact()
        released.set()
        await until(lambda: follows.names == {"a", "c"} and follows.reflector.live)
        assert follows.changes == [("c", None, new), ("b", gone, None)]
        assert follows.reflector.store["ns", "a"].metadata.resource_version == old
        assert follows.problems == []
    assert api.count("list") == 2


async def test_a_list_whose_snapshot_goes_away_starts_again(api: FakeApiServer, cluster: Cluster) -> None:
    for number in range(600):
        put(api, f"c{number}")
    api.inject(status(410, "Expired"), verb="list", when=lambda seen: "continue" in seen.query)
    async with following(cluster) as follows:
        await until(lambda: follows.reflector.live)
        assert len(follows.names) == 600
        assert len(follows.changes) == 600
    assert api.count("list") == 4


async def test_a_bookmark_spares_a_list(api: FakeApiServer, cluster: Cluster) -> None:
    put(api, "a")
    async with following(cluster) as follows:
        await until(lambda: follows.reflector.live)
        for _ in range(3):
            api.put({"apiVersion": "v1", "kind": "Secret", "metadata": {"namespace": "ns", "name": "other"}})
        api.send_bookmarks()
        other = api.get("v1", "secrets", "ns", "other")
        assert other
        await until(lambda: follows.reflector._position == other["metadata"]["resourceVersion"])
        api.compact()
        api.end_watches()
        await until(lambda: api.count("watch") == 2 and follows.reflector.live)
    assert api.count("list") == 1


@pytest.mark.parametrize(
    ("fault", "problem"),
    [
        pytest.param(
            status(404, "NotFound"),
            "/api/v1/configmaps is not served by this cluster; are its CRDs installed?",
            id="not served",
        ),
        pytest.param(
            status(403, "Forbidden", 'User "me" cannot list resource "configmaps"'),
            'list and watch of /api/v1/configmaps are not allowed: User "me" cannot list resource "configmaps"',
            id="not allowed",
        ),
        pytest.param(
            status(503, "ServiceUnavailable", "starting"),
            "list and watch of /api/v1/configmaps fail: starting",
            id="not ready",
        ),
    ],
)
async def test_what_cannot_be_listed_is_waited_for(
    api: FakeApiServer, cluster: Cluster, fault: Respond, problem: str
) -> None:
    put(api, "a")
    naps = Naps(limit=9)
    api.inject(fault, verb="list", times=-1)
    async with following(cluster, naps) as follows:
        await until(lambda: naps.is_asleep)
        assert follows.reflector.problem == problem
        assert follows.problems == [problem]
        assert api.count() == 10
        assert max(naps.naps) == 22.5
        assert not follows.reflector.store.synced.is_set()
        api.heal()
        naps.more(1)
        await follows.reflector.store.synced.wait()
        await until(lambda: follows.reflector.live)
        assert follows.problems == [problem, None]


async def test_what_was_known_stays_while_the_resource_is_not_served(api: FakeApiServer, cluster: Cluster) -> None:
    api.define("example.com/v1", "things", "Thing")
    api.put({"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"namespace": "ns", "name": "a"}})
    naps = Naps(limit=3)
    async with following(cluster, naps, path=api_path("example.com/v1", "things")) as follows:
        await until(lambda: follows.reflector.live)
        api.undefine("example.com/v1", "things")
        await until(lambda: follows.reflector.problem)
        assert follows.names == {"a"}
        api.define("example.com/v1", "things", "Thing")
        naps.more(3)
        await until(lambda: follows.reflector.live and not follows.names)
        assert follows.changes[-1][0::2] == ("a", None)


async def test_one_object_that_is_not_understood(api: FakeApiServer, cluster: Cluster) -> None:
    good = put(api, "good")
    put(api, "bad", x=1)
    async with following(cluster) as follows:
        await until(lambda: follows.reflector.live)
        assert follows.names == {"good"}
        assert follows.undecodable == [("ns", "bad")]
        assert follows.reflector.unread == {("ns", "bad")}
        put(api, "good", x=1)
        better = put(api, "other")
        await until(lambda: "other" in follows.names)
        assert follows.undecodable == [("ns", "bad"), ("ns", "good")]
        assert follows.reflector.unread == {("ns", "bad"), ("ns", "good")}
        assert follows.reflector.store["ns", "good"].metadata.resource_version == good  # what we had of it stays
        assert follows.reflector._position == better
        api.compact()
        api.end_watches()
        await until(lambda: api.count("watch") == 2 and follows.reflector.live)
        assert follows.names == {"good", "other"}
        assert follows.reflector.unread == {("ns", "bad"), ("ns", "good")}
        remove(api, "good")
        await until(lambda: follows.names == {"other"})
        assert follows.reflector.unread == {("ns", "bad")}
        put(api, "bad", x="y")
        await until(lambda: follows.names == {"other", "bad"})
        assert follows.reflector.unread == set()
    assert follows.problems == []


async def test_one_that_is_not_understood_and_goes_while_nobody_watches(api: FakeApiServer, cluster: Cluster) -> None:
    put(api, "bad", x=1)
    async with following(cluster) as follows:
        await until(lambda: follows.reflector.live)
        remove(api, "bad")
        await until(lambda: not follows.reflector.unread)
        put(api, "worse", x=1)
        await until(lambda: follows.reflector.unread)
        api.end_watches()
        remove(api, "worse")
        api.compact()
        await until(lambda: not follows.reflector.unread)


async def test_our_own_writes_can_be_read_at_once(api: FakeApiServer, cluster: Cluster) -> None:
    put(api, "a")
    async with following(cluster) as follows:
        await until(lambda: follows.reflector.live)
        follows.changes.clear()
        answer = await cluster.patch(api_path("v1", "configmaps", "ns", "a"), b'{"data":{"x":"y"}}')
        ours = msgspec.json.decode(answer, type=Thing)
        follows.reflector.adopt(ours)
        assert follows.reflector.store["ns", "a"].data == {"x": "y"}
        put(api, "b")
        await until(lambda: "b" in follows.names)
        assert [change[0] for change in follows.changes] == ["a", "b"]


async def test_an_error_of_ours_is_not_swallowed(api: FakeApiServer, cluster: Cluster) -> None:
    put(api, "a")
    follows = Following(cluster, Naps())

    def fail(key: Key, *_: object) -> None:
        if key[1] == "b":
            raise FileNotFoundError

    follows.reflector.store._on_change = fail
    running = asyncio.create_task(follows.reflector.run())
    await until(lambda: follows.reflector.live)
    put(api, "b")
    with pytest.raises(FileNotFoundError):
        await running


async def test_a_real_api_server_that_restarts(control_plane: ControlPlane, namespace: str) -> None:
    def put_real(name: str) -> None:
        control_plane.request("POST", f"/api/v1/namespaces/{namespace}/configmaps", {"metadata": {"name": name}})

    async with await Cluster.connect(str(control_plane.kubeconfig)) as cluster:
        follows = Following(cluster, Naps(), path=api_path("v1", "configmaps", namespace))
        follows.reflector._sleep = asyncio.sleep
        running = asyncio.create_task(follows.reflector.run())
        put_real("before")
        await until(lambda: "before" in follows.names)
        await asyncio.to_thread(control_plane.restart_apiserver)
        put_real("after")
        await until(lambda: "after" in follows.names and follows.reflector.live, seconds=60)
        assert follows.reflector.problem is None
        running.cancel()
        await asyncio.wait([running])
