"""What a cluster and a file say of registries: heard without a restart, and kept where an edit cannot be read."""

from __future__ import annotations

import asyncio
import base64
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from structlog.testing import capture_logs

from imagestreams.core.document import MAX_TEXT
from imagestreams.core.policy import Mirror, MirrorRule
from imagestreams.core.registries import Registries
from imagestreams.kube import registries as module
from imagestreams.kube.cluster import Cluster
from imagestreams.kube.registries import RegistrySources
from tests.fakes.apiserver import FakeApiServer, Respond, html, raw, status
from tests.fakes.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from dev.control_plane import ControlPlane

NAMESPACE, NAME = "imagestreams-system", "imagestreams-registries"
GROUP = "config.openshift.io/v1"
SETS = {"imagedigestmirrorsets": "ImageDigestMirrorSet", "imagetagmirrorsets": "ImageTagMirrorSet"}
HOSTING = "host: localhost:5001\nhostFromClusterNetwork: kind-registry:5000\n"


def config_map(name: str = NAME, namespace: str = NAMESPACE, **data: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"namespace": namespace, "name": name},
        "data": {key.replace("_", "."): text for key, text in data.items()},
    }


def document(text: str, **names: str) -> dict[str, Any]:
    return config_map(**names) | {"data": {"registries.yaml": text, "unrelated": "x"}}


def hosting(text: str) -> dict[str, Any]:
    return config_map("local-registry-hosting", "kube-public") | {"data": {"localRegistryHosting.v1": text}}


def mirror_set(resource: str, name: str, source: str, *mirrors: str) -> dict[str, Any]:
    key = "imageDigestMirrors" if "digest" in resource else "imageTagMirrors"
    return {
        "apiVersion": GROUP,
        "kind": SETS[resource],
        "metadata": {"name": name},
        "spec": {key: [{"source": source, "mirrors": list(mirrors)}]},
    }


def define_sets(api: FakeApiServer) -> None:
    for resource, kind in SETS.items():
        api.define(GROUP, resource, kind, namespaced=False)


class Watching:
    def __init__(self, cluster: Cluster, **options: Any) -> None:
        self.changes: list[tuple[Registries, ...]] = []
        self.told: list[tuple[str, str | None]] = []
        self.sources = RegistrySources(
            cluster,
            NAMESPACE,
            options.pop("configmap_name", NAME),
            on_change=lambda: self.changes.append(self.sources.layers),
            on_problem=lambda name, words: self.told.append((name, words)),
            **options,
        )

    @property
    def blocked(self) -> list[str]:
        return [pattern for layer in self.sources.layers for pattern in layer.blocked]


def _equal(watched: Watching, blocked: list[str]) -> bool:
    return watched.blocked == blocked


def _tells(watched: Watching, words: str) -> bool:
    return bool(watched.told) and words in (watched.told[-1][1] or "")


@asynccontextmanager
async def watching(cluster: Cluster, *, synced: bool = True, **options: Any) -> AsyncIterator[Watching]:
    made = Watching(cluster, **options)
    running = asyncio.create_task(made.sources.run())
    try:
        if synced:
            await until(made.sources.synced.is_set)
        yield made
    finally:
        running.cancel()
        await asyncio.wait([running])
        assert running.cancelled()


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look again in a moment, not in a minute."""
    for name in ("_LOOK_AGAIN", "_LOOK_AGAIN_SOON", "_RETRY", "_REREAD"):
        monkeypatch.setattr(module, name, 0.02)


async def test_a_cluster_that_says_nothing(api: FakeApiServer, cluster: Cluster) -> None:
    async with watching(cluster) as watched:
        assert watched.sources.layers == ()
        assert (watched.sources.problems, watched.sources.unread, watched.sources.obstacle) == ({}, frozenset(), None)
    assert (watched.changes, watched.told) == ([], [])


async def test_the_configmap_is_heard(api: FakeApiServer, cluster: Cluster) -> None:
    api.put(document("blocked: [a.io]"))
    api.put(document("blocked: [other.io]", name="other"))
    api.put(document("blocked: [elsewhere.io]", namespace="other"))
    async with watching(cluster) as watched:
        assert watched.blocked == ["a.io"]
        assert watched.changes == [(Registries(blocked=("a.io",)),)], "what is known at last is told once"
        for text, blocked in (("blocked: [a.io, b.io]", ["a.io", "b.io"]), ("", []), ("blocked: [c.io]", ["c.io"])):
            api.put(document(text))
            await until(partial(_equal, watched, blocked))
        assert len(watched.changes) == 4
        api.put(document("blocked:\n- c.io # the same\n"))
        api.put(document("blocked: [d.io]", name="other"))
        api.remove("v1", "configmaps", NAMESPACE, NAME)
        await until(lambda: watched.sources.layers == ())
        assert len(watched.changes) == 5, "what says the same is no change"
    assert watched.told == []
    lists = [seen for seen in api.requests if seen.resource == "configmaps" and seen.namespace == NAMESPACE]
    assert {seen.query["fieldSelector"] for seen in lists} == {f"metadata.name={NAME}"}


async def test_a_broken_edit_keeps_the_last_good_one_and_says_so(api: FakeApiServer, cluster: Cluster) -> None:
    api.put(document("blocked: [a.io]"))
    async with watching(cluster) as watched:
        broken = [
            ("blocked: [a b]", 'blocked[0]: "a b" is no pattern'),
            ("blocked: [", "line 2: no valid YAML"),
            ("hosts: {a.io: {proxy: 'http://u:hunter2@p/x'}}", "hosts.a.io.proxy: is no proxy"),
        ]
        for text, words in broken:
            api.put(document(text))
            await until(partial(_tells, watched, words))
            assert watched.told[-1][0] == "configmap"
            assert watched.sources.problems == {"configmap": watched.told[-1][1]}
            assert f"ConfigMap {NAMESPACE}/{NAME}: " in watched.sources.problems["configmap"]
            assert watched.sources.obstacle is None, "the last good one counts"
            assert watched.blocked == ["a.io"]
        api.put(config_map(registries="x"))
        await until(lambda: "has no key registries.yaml" in (watched.told[-1][1] or ""))
        assert watched.blocked == ["a.io"]
        assert len(watched.changes) == 1
        assert watched.sources.unread == frozenset()
        told = len(watched.told)
        api.put(config_map(registries="y"))
        api.put(document("blocked: [b.io]"))
        await until(lambda: watched.blocked == ["b.io"])
        assert watched.told[told:] == [("configmap", None)], "the same problem is told once"
        assert watched.sources.problems == {}
    assert "hunter2" not in str(watched.told)


async def test_a_document_that_was_never_good(api: FakeApiServer, cluster: Cluster) -> None:
    api.put(document("blocked: a.io"))
    async with watching(cluster) as watched:
        assert watched.sources.layers == ()
        assert watched.sources.unread == {"configmap"}
        assert watched.told == [("configmap", f"ConfigMap {NAMESPACE}/{NAME}: blocked: must be a list")]
        assert watched.sources.problems == dict(watched.told)
        assert watched.sources.obstacle == watched.told[0][1]
        waiting = asyncio.create_task(watched.sources.wait_until_read())
        api.remove("v1", "configmaps", NAMESPACE, NAME)
        await asyncio.sleep(0)
        assert not waiting.done()
        await until(lambda: not watched.sources.unread)
        await asyncio.wait_for(waiting, 10)
        assert watched.sources.problems == {}
    assert watched.changes == []


async def test_a_certificate_that_cannot_be_used_is_a_broken_edit(api: FakeApiServer, cluster: Cluster) -> None:
    good = trustme.CA().cert_pem.bytes().decode()
    bad = "-----BEGIN CERTIFICATE-----\n" + base64.b64encode(b"\x30\x03abc").decode() + "\n-----END CERTIFICATE-----\n"
    async with watching(cluster) as watched:
        api.put(document("hosts: {a.io: {ca: " + repr(bad).replace("'", '"') + "}}"))
        await until(lambda: watched.told)
        assert "hosts.a.io.ca: holds a certificate that cannot be used" in (watched.told[0][1] or "")
        api.put(document("hosts: {a.io: {ca: " + repr(good).replace("'", '"') + "}}"))
        await until(lambda: watched.sources.layers)
        assert watched.sources.layers[0].hosts["a.io"].ca == good


async def test_all_sources_in_their_order(api: FakeApiServer, cluster: Cluster, tmp_path: Path) -> None:
    file = tmp_path / "registries.yaml"
    file.write_text("allowed: [file.io]")
    define_sets(api)
    api.put(hosting(HOSTING))
    api.put(mirror_set("imagetagmirrorsets", "a", "tag.io", "m.io"))
    api.put(mirror_set("imagedigestmirrorsets", "b", "digest.io", "m.io"))
    api.put(document("allowed: [configmap.io]"))
    async with watching(cluster, registries_file=str(file)) as watched:
        in_file, in_configmap, sets, local = watched.sources.layers
        assert (in_file.allowed, in_configmap.allowed) == (("file.io",), ("configmap.io",))
        assert sets.mirrors == (
            MirrorRule("tag.io", (Mirror("m.io"),), pulls="tag"),
            MirrorRule("digest.io", (Mirror("m.io"),), pulls="digest"),
        )
        assert local.yields
        assert local.hosts["localhost:5001"].endpoint == "http://kind-registry:5000"
        assert len(watched.changes) == 1
        api.remove("v1", "configmaps", "kube-public", "local-registry-hosting")
        api.remove(GROUP, "imagetagmirrorsets", "", "a")
        await until(lambda: len(watched.changes) == 3)
        assert [len(layer.mirrors) for layer in watched.sources.layers] == [0, 0, 1]


async def test_what_is_not_wanted_is_not_asked_for(api: FakeApiServer, cluster: Cluster) -> None:
    define_sets(api)
    api.put(hosting(HOSTING))
    wanted = {"local_registry_hosting": False, "mirror_sets": False}
    async with watching(cluster, synced=True, configmap_name="", **wanted) as watched:
        assert watched.sources.layers == ()
    assert api.requests == []


async def test_a_broken_mirror_set_spoils_no_other(api: FakeApiServer, cluster: Cluster) -> None:
    define_sets(api)
    api.put(mirror_set("imagedigestmirrorsets", "a", "acme", "m.io"))
    api.put(mirror_set("imagedigestmirrorsets", "b", "b.io", "m.io"))
    async with watching(cluster) as watched:
        assert [rule.source for rule in watched.sources.layers[0].mirrors] == ["b.io"]
        ((name, words),) = watched.told
        assert name == "mirror-sets"
        assert words is not None
        assert words.startswith('a: spec.imageDigestMirrors[0]: the source "acme" must be')
        api.put(mirror_set("imagedigestmirrorsets", "a", "a.io", "m.io"))
        await until(lambda: len(watched.sources.layers[0].mirrors) == 2)
        assert watched.told[1:] == [("mirror-sets", None)]


async def test_a_thousand_mirror_sets_are_read_at_once(api: FakeApiServer, cluster: Cluster) -> None:
    define_sets(api)
    for number in range(1000):
        api.put(mirror_set("imagedigestmirrorsets", f"a{number}", f"a{number}.io", "m.io"))
    async with watching(cluster) as watched:
        assert len(watched.sources.layers[0].mirrors) == 1000
        assert len(watched.changes) == 1
        for number in range(0, 1000, 2):
            api.remove(GROUP, "imagedigestmirrorsets", "", f"a{number}")
        await until(lambda: len(watched.sources.layers[0].mirrors) == 500)


async def test_a_local_registry_that_cannot_be_read(api: FakeApiServer, cluster: Cluster) -> None:
    api.put(hosting(HOSTING))
    async with watching(cluster) as watched:
        before = watched.sources.layers
        api.put(hosting("- a"))
        await until(lambda: watched.told)
        assert watched.told == [
            (
                "local-registry-hosting",
                "ConfigMap kube-public/local-registry-hosting: the document: must be a mapping",
            )
        ]
        assert watched.sources.layers == before
        assert watched.sources.unread == frozenset()
        api.put(config_map("local-registry-hosting", "kube-public", other="x"))
        await until(lambda: watched.sources.layers == ())
        assert watched.sources.problems == {}


@pytest.mark.usefixtures("soon")
async def test_rights_that_are_missing_are_no_failure_and_may_come(api: FakeApiServer, cluster: Cluster) -> None:
    define_sets(api)
    api.put(document("blocked: [a.io]"))
    api.put(hosting(HOSTING))
    api.put(mirror_set("imagetagmirrorsets", "a", "tag.io", "m.io"))
    api.inject(status(403, "Forbidden", "no"), when=lambda seen: seen.namespace != NAMESPACE, times=-1)
    async with watching(cluster) as watched:
        assert watched.blocked == ["a.io"]
        assert (watched.sources.problems, watched.sources.obstacle) == ({}, None)
        seen = len(api.requests)
        await until(lambda: len(api.requests) > seen + 8)  # it asks again
        api.heal()
        await until(lambda: len(watched.sources.layers) == 3)
    assert watched.told == []


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("is_there", [False, True])
@pytest.mark.parametrize(
    ("fault", "way_out"),
    [
        pytest.param(
            status(403, "Forbidden", "no"), "; allow the controller to list and watch it, or set", id="no right"
        ),
        pytest.param(status(404, "NotFound", "no"), "; set", id="not served"),
        pytest.param(status(400, "BadRequest", "no"), "; set", id="refused"),
    ],
)
async def test_a_configmap_that_cannot_be_asked_for_may_forbid_anything(
    api: FakeApiServer, cluster: Cluster, is_there: bool, fault: Respond, way_out: str
) -> None:
    if is_there:
        api.put(document("blocked: [a.io]"))
    api.inject(fault, when=lambda seen: seen.namespace == NAMESPACE, times=-1)
    async with watching(cluster) as watched:
        sources = watched.sources
        assert (sources.layers, sources.unread) == ((), {"configmap"})
        words = (
            f"ConfigMap {NAMESPACE}/{NAME} cannot be read: no{way_out} --registries-configmap= (empty) if there is none"
        )
        assert (sources.obstacle, watched.told) == (words, [("configmap", words)])
        waiting = asyncio.create_task(sources.wait_until_read())
        seen = len(api.requests)
        await until(lambda: len(api.requests) > seen + 4)  # it asks again
        assert not waiting.done()
        api.heal()
        await asyncio.wait_for(waiting, 10)
        assert watched.blocked == (["a.io"] if is_there else [])
        assert (sources.problems, sources.obstacle) == ({}, None)
        assert watched.told == [("configmap", words), ("configmap", None)]


@pytest.mark.usefixtures("soon")
async def test_an_api_server_that_does_not_answer_is_waited_for(
    api: FakeApiServer, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PATIENCE", 0.02)
    api.put(document("blocked: [a.io]"))
    api.inject(html(502), times=-1)
    with capture_logs() as logs:
        async with watching(cluster, synced=False) as watched:
            await until(lambda: len(api.requests) > 40)
            assert not watched.sources.synced.is_set(), "what is blocked is not known yet"
            assert f"ConfigMap {NAMESPACE}/{NAME} cannot be read: " in (watched.sources.obstacle or "")
            assert "502" in (watched.sources.obstacle or "")
            said = [each["resource"] for each in logs if each["event"] == "not read"]
            assert len(said) == len(set(said)) == 4, "each once"
            api.heal()
            await until(watched.sources.synced.is_set)
            assert watched.blocked == ["a.io"]
            assert watched.sources.obstacle is None


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("fault", [status(503, "ServiceUnavailable"), status(429, "TooManyRequests"), raw(b"{}")])
async def test_what_an_administrator_did_not_write_is_not_waited_for_without_end(
    api: FakeApiServer, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, fault: Respond
) -> None:
    monkeypatch.setattr(module, "_PATIENCE", 0.5)
    define_sets(api)
    api.put(document("blocked: [a.io]"))
    api.put(mirror_set("imagedigestmirrorsets", "a", "a.io", "m.io"))
    api.inject(fault, resource="imagedigestmirrorsets", times=-1)
    with capture_logs() as logs:
        async with watching(cluster, synced=False) as watched:
            sources = watched.sources
            await until(lambda: watched.blocked)
            await until(lambda: api.count("list", "imagedigestmirrorsets") > 2)
            assert not sources.synced.is_set(), "it may come in a moment"
            assert (sources.obstacle or "").startswith("imagedigestmirrorsets cannot be read: ")
            await until(sources.synced.is_set)
            assert sources.obstacle is None
            done_without = [each["resource"] for each in logs if "done without" in each["event"]]
            assert done_without == [f"/apis/{GROUP}/imagedigestmirrorsets"]
            api.heal()
            await until(lambda: len(sources.layers) == 2)
            assert [rule.source for rule in sources.layers[1].mirrors] == ["a.io"]


@pytest.mark.usefixtures("soon")
async def test_a_list_of_the_configmap_that_fails_is_named(api: FakeApiServer, cluster: Cluster) -> None:
    api.put(document("blocked: [a.io]"))
    is_list = lambda seen: seen.namespace == NAMESPACE and seen.query.get("limit") != "1"  # noqa: E731
    api.inject(status(500, "InternalError", "etcd is ill"), when=is_list, times=-1)
    async with watching(cluster, synced=False) as watched:
        await until(lambda: "etcd is ill" in (watched.sources.obstacle or ""))
        assert not watched.sources.synced.is_set()
        api.heal()
        await until(watched.sources.synced.is_set)
        assert (watched.blocked, watched.sources.obstacle) == (["a.io"], None)


async def _nap(seconds: float) -> None:
    await asyncio.sleep(min(seconds, 0.01))


async def test_a_kind_may_come_and_go(api: FakeApiServer, cluster: Cluster) -> None:
    async with watching(cluster, sleep=_nap) as watched:
        assert watched.sources.layers == ()
        define_sets(api)
        api.put(mirror_set("imagetagmirrorsets", "a", "tag.io", "m.io"))
        await until(lambda: len(watched.changes) == 1)
        for resource in SETS:
            api.undefine(GROUP, resource)
        await until(lambda: watched.sources.layers == ())
        define_sets(api)
        api.put(mirror_set("imagedigestmirrorsets", "b", "b.io", "m.io"))
        await until(lambda: watched.sources.layers)
        assert [rule.source for rule in watched.sources.layers[0].mirrors] == ["b.io"]
    assert watched.told == []


async def test_a_right_that_is_taken_away_takes_nothing_with_it(api: FakeApiServer, cluster: Cluster) -> None:
    define_sets(api)
    api.put(document("blocked: [a.io]"))
    api.put(mirror_set("imagetagmirrorsets", "a", "tag.io", "m.io"))
    async with watching(cluster, sleep=_nap) as watched:
        await until(lambda: api.open_watches == 4)
        api.inject(status(403, "Forbidden", "no"), times=-1)
        api.end_watches()
        seen = len(api.requests)
        await until(lambda: len(api.requests) > seen + 20)
        assert [len(layer.mirrors) for layer in watched.sources.layers] == [0, 1]
        assert "configmap" in watched.sources.problems
        assert watched.sources.obstacle is None, "what was known holds on"
        api.heal()
        api.put(document("blocked: [b.io]"))
        await until(lambda: watched.blocked == ["b.io"])
        await until(lambda: not watched.sources.problems)


async def test_a_balancers_404_takes_no_rule_away(api: FakeApiServer, cluster: Cluster) -> None:
    api.put(document("blocked: [a.io]"))
    async with watching(cluster, sleep=_nap, mirror_sets=False, local_registry_hosting=False) as watched:
        await until(lambda: api.open_watches == 1)
        api.inject(html(404), times=-1)
        api.end_watches()
        await until(lambda: "configmap" in watched.sources.problems)
        assert watched.blocked == ["a.io"]
        api.heal()
        await until(lambda: not watched.sources.problems)
        assert (watched.blocked, len(watched.changes)) == (["a.io"], 1)


@pytest.mark.usefixtures("soon")
async def test_the_file_is_kept_fresh(api: FakeApiServer, cluster: Cluster, tmp_path: Path) -> None:
    file = tmp_path / "registries.yaml"
    file.write_text("blocked: [")
    async with watching(cluster, registries_file=str(file)) as watched:
        assert watched.sources.unread == {"file"}
        assert str(file) in (watched.sources.obstacle or "")
        for name in ("a.io", "b.io"):
            file.write_text(f"blocked: [{name}]")
            await until(partial(_equal, watched, [name]))
            assert watched.sources.obstacle is None


async def test_a_document_of_a_size_that_nobody_needs(api: FakeApiServer, cluster: Cluster) -> None:
    api.put(document("blocked: [a.io]"))
    async with watching(cluster) as watched:
        api.put(document("blocked: [b.io]\n" + "#" * MAX_TEXT))
        await until(lambda: watched.told)
        assert f"has more than {MAX_TEXT} characters" in (watched.told[0][1] or "")
        assert watched.blocked == ["a.io"]
        text = "blocked: [c.io]\n"
        api.put(document(text + "#" * (MAX_TEXT - len(text))))
        await until(lambda: watched.blocked == ["c.io"])


async def test_the_file_is_read_again(api: FakeApiServer, cluster: Cluster, tmp_path: Path) -> None:
    file = tmp_path / "registries.yaml"
    async with watching(cluster, registries_file=str(file)) as watched:
        sources = watched.sources
        assert watched.told == [("file", f"{file} cannot be read: No such file or directory")]
        assert sources.unread == {"file"}
        assert not sources.reload_file()
        file.write_text("blocked: [a.io]")
        assert sources.reload_file()
        assert not sources.reload_file()
        assert (watched.blocked, sources.problems, len(watched.changes)) == (["a.io"], {}, 1)
        file.write_text("blocked: [b.io")
        assert not sources.reload_file()
        assert not sources.reload_file()
        assert watched.blocked == ["a.io"]
        assert sources.problems["file"].startswith(f"{file}: line 2: no valid YAML")
        for content, words in ((b"\xff", "it is not UTF-8"), (b"#" * (5 << 20), "has more than")):
            file.write_bytes(content)
            assert not sources.reload_file()
            assert words in sources.problems["file"]
        file.unlink()
        assert not sources.reload_file()
        assert watched.blocked == ["a.io"]
        file.write_text("blocked: [a.io]")
        assert not sources.reload_file()
        assert sources.problems == {}, "it says what it said, and that is well"
        file.write_text("blocked: [c.io]")
        assert sources.reload_file()
        assert (watched.blocked, len(watched.changes)) == (["c.io"], 2)


async def test_no_file(cluster: Cluster) -> None:
    assert not RegistrySources(cluster, NAMESPACE, NAME, on_change=lambda: None).reload_file()


async def test_a_real_api_server(control_plane: ControlPlane, namespace: str) -> None:
    def put(method: str, text: str) -> None:
        path = f"/api/v1/namespaces/{namespace}/configmaps"
        body = {"metadata": {"name": NAME}, "data": {"registries.yaml": text}}
        control_plane.request(method, path if method == "POST" else f"{path}/{NAME}", body)

    put("POST", "blocked: [a.io]")
    changes: list[int] = []
    async with await Cluster.connect(str(control_plane.kubeconfig)) as cluster:
        sources = RegistrySources(cluster, namespace, NAME, on_change=lambda: changes.append(1))
        running = asyncio.create_task(sources.run())
        await until(sources.synced.is_set)
        assert [layer.blocked for layer in sources.layers] == [("a.io",)]
        put("PUT", "blocked: [b.io]")
        await until(lambda: [layer.blocked for layer in sources.layers] == [("b.io",)])
        running.cancel()
        await asyncio.wait([running])
