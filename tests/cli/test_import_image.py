"""`import-image` from the command line to the socket: what it asks for, how it waits, what it prints, its exit code."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import click
import pytest
import yaml

from imagestreams.cli.import_image import Asked, Request, Target, parse_target, rows, table, tags_to_report
from imagestreams.cli.main import invoke
from imagestreams.cli.options import Failure
from imagestreams.core.stream import ImageStream, decode
from tests.fakes.apiserver import FakeApiServer, disconnect, html, status

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

API = "image.openshift.io/v1"
REFRESH = "imagestreams.dev/refresh"
DIGEST, OTHER = "sha256:" + "a" * 64, "sha256:" + "b" * 64
NOW = datetime.now(UTC).replace(microsecond=0)


# ---- objects ----


def tag(name: str, source: str | None = "quay.io/acme/web", kind: str = "DockerImage", **more: Any) -> dict[str, Any]:
    return {"name": name, **({} if source is None else {"from": {"kind": kind, "name": source}}), **more}


def alias(name: str, target: str, **more: Any) -> dict[str, Any]:
    return tag(name, target, "ImageStreamTag", **more)


def stream(*tags: dict[str, Any], api: str = API, **metadata: Any) -> dict[str, Any]:
    metadata = {"name": "web", "namespace": "shop", "uid": "u-1", "generation": 1, **metadata}
    return {"apiVersion": api, "kind": "ImageStream", "metadata": metadata, "spec": {"tags": list(tags)}}


def item(digest: str = DIGEST, age: timedelta = timedelta(minutes=5)) -> dict[str, Any]:
    created = (NOW - age).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"created": created, "dockerImageReference": f"quay.io/acme/web@{digest}", "image": digest, "generation": 1}


def imported(name: str, *items: dict[str, Any]) -> dict[str, Any]:
    return {"tag": name, "items": list(items or [item()]), "conditions": [{"type": "ImportSuccess", "status": "True"}]}


def failed(name: str, reason: str, message: str, *items: dict[str, Any]) -> dict[str, Any]:
    condition = {"type": "ImportSuccess", "status": "False", "reason": reason, "message": message}
    return {"tag": name, "items": list(items), "conditions": [condition]}


def decoded(value: dict[str, Any]) -> ImageStream:
    return decode(json.dumps(value).encode())


# ---- the world ----


class World:
    """The fake API server, with a controller that acts when a test says so."""

    def __init__(self, server: FakeApiServer, api: str = API) -> None:
        self.server, self.api = server, api

    @property
    def stream(self) -> dict[str, Any]:
        found = self.server.get(self.api, "imagestreams", "shop", "web")
        assert found is not None
        return found

    @property
    def request(self) -> str:
        return str(self.stream["metadata"].get("annotations", {}).get(REFRESH, ""))

    def annotate(self, value: str | None) -> None:
        """Another writer's request, or none."""
        found = self.stream
        found["metadata"]["annotations"] = {} if value is None else {REFRESH: value}
        self.server.put(found)

    def handle(self, *tags: dict[str, Any], value: str | None = None) -> None:
        """The controller's write: the tags' outcome, and the request handled."""
        found = self.stream
        found["status"] = {"observedGeneration": 1, "tags": list(tags), "handled": {"refresh": value or self.request}}
        self.server.put(found)

    def when(self, verb: str, *steps: Callable[[], None], times: int = 1) -> None:
        """Before the next requests of the kind are served, do these."""

        async def respond(_request: Any, serve: Any) -> Any:
            for step in steps:
                step()
            return await serve()

        self.server.inject(respond, verb=verb, resource="imagestreams", times=times)

    def verbs(self) -> list[str]:
        return [seen.verb for seen in self.server.requests if seen.resource == "imagestreams"]


@pytest.fixture
async def world(tmp_path, monkeypatch) -> AsyncIterator[World]:
    async with FakeApiServer() as server:
        server.define(API, "imagestreams", "ImageStream", status=True)
        monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(tmp_path / "config")))
        yield World(server)


class Result(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def run(capsys):
    """The command as a shell runs it, in a thread beside the server's loop."""

    async def call(*args: str) -> Result:
        code = await asyncio.to_thread(invoke, ("import-image", *args, "-n", "shop"), "imagestreams")
        return Result(code, *capsys.readouterr())

    return call


# ---- what can be named ----


@pytest.mark.parametrize(
    ("text", "all_tags", "target"),
    [
        ("web", False, Target("web", "latest")),
        ("web:1.2", False, Target("web", "1.2")),
        ("web", True, Target("web", None)),
        ("my.web-1:V_1", False, Target("my.web-1", "V_1")),
        ("is/web", False, Target("web", "latest")),
        ("imagestream.image.openshift.io/web:1", False, Target("web", "1")),
    ],
)
def test_names(text, all_tags, target):
    assert parse_target(text, all_tags=all_tags) == target


@pytest.mark.parametrize(
    ("text", "all_tags", "words"),
    [
        (f"web@{DIGEST}", False, "names a digest, and a digest never changes; name a tag, such as web:latest"),
        ("shop/web", False, "'shop/web' names a namespace; write it as: import-image web -n shop"),
        ("shop/web:1", False, "'shop/web:1' names a namespace; write it as: import-image web:1 -n shop"),
        ("Web", False, "'Web' is no name of an image stream; write NAME or NAME:TAG, such as web:latest"),
        ("", False, "'' is no name of an image stream"),
        ("web:", False, "'' is no tag; write letters, digits, '_', '.' and '-', at most 128"),
        ("web:a:b", False, "'a:b' is no tag"),
        ("web:ä", False, "'ä' is no tag"),
        ("web:1", True, "--all and the tag '1' contradict each other; leave one out"),
    ],
)
def test_names_that_are_refused(text, all_tags, words):
    with pytest.raises(click.UsageError) as caught:
        parse_target(text, all_tags=all_tags)
    assert words in caught.value.message


@pytest.mark.parametrize(
    ("tags", "wanted", "reported"),
    [
        ([tag("latest"), tag("1")], "latest", ("latest",)),
        ([alias("a", "b"), alias("b", "web:c"), tag("c")], "a", ("a", "b", "c")),
        ([alias("a", "web:"), tag("latest")], "a", ("a", "latest")),
        ([tag("a"), alias("b", "a"), tag("c", None), tag("d", reference=True)], None, ("a", "b", "d")),
    ],
)
def test_tags_to_report(tags, wanted, reported):
    assert tags_to_report(decoded(stream(*tags)), Target("web", wanted)) == reported


@pytest.mark.parametrize(
    ("tags", "wanted", "message"),
    [
        ([tag("b"), tag("a")], "x", 'error: the tag "x" does not exist on the image stream - choose one of: a, b'),
        ([], "x", 'error: the tag "x" does not exist on the image stream - it has none in its spec'),
        ([], None, "error: the image stream web has no tag with a source to import from"),
        ([tag("x", None)], "x", 'error: tag "x" has no source (from): only pushes move it'),
        (
            [tag("x", reference=True)],
            "x",
            'error: tag "x" is a reference (reference: true): "quay.io/acme/web" is never looked up',
        ),
        (
            [tag("x", "web@sha256:1", "ImageStreamImage")],
            "x",
            'error: tag "x" points to existing ImageStreamImage "web@sha256:1", it cannot be re-imported',
        ),
        (
            [alias("x", "base:1")],
            "x",
            'error: tag "x" points to an imagestreamtag from another ImageStream, "base:1"',
        ),
        (
            [{"name": "x", "from": {"kind": "ImageStreamTag", "name": "web:1", "namespace": "other"}}],
            "x",
            'error: tag "x" points to an imagestreamtag from another ImageStream, "other/web:1"',
        ),
        ([alias("x", "x")], "x", 'error: tag "x" follows itself (x -> x)'),
        ([alias("x", "y"), alias("y", "web:x")], "x", 'error: tag "x" follows itself (x -> y -> x)'),
        (
            [alias("x", "y")],
            "x",
            'error: tag "x" points to the tag "y", which does not exist on the image stream',
        ),
    ],
)
def test_tags_that_cannot_be_imported(tags, wanted, message):
    with pytest.raises(Failure) as caught:
        tags_to_report(decoded(stream(*tags)), Target("web", wanted))
    assert caught.value.message == message


def test_a_tag_that_is_history_only():
    value = {**stream(tag("a")), "status": {"tags": [imported("x")]}}
    with pytest.raises(
        Failure, match='"x" does not exist on the image stream any more; its history stays in status - '
    ):
        tags_to_report(decoded(value), Target("web", "x"))


# ---- whose request was handled ----

MINE = Asked(Request("m t", frozenset("t")), frozenset("t"), frozenset({"before t", "old"}))
ALL = Asked(Request("m", frozenset()), frozenset(), frozenset())


@pytest.mark.parametrize(
    ("asked", "handled", "is_handled"),
    [
        pytest.param(MINE, "m t", True, id="ours"),
        pytest.param(MINE, None, False, id="none"),
        pytest.param(MINE, "before t", False, id="one that ours replaced"),
        pytest.param(MINE, "old", False, id="one that was handled when we asked"),
        pytest.param(MINE, "later s t", True, id="one that ours was merged into"),
        pytest.param(MINE, "later", True, id="one for all tags"),
        pytest.param(MINE, "later s", False, id="one for other tags"),
        pytest.param(ALL, "later t", False, id="one for some, and we want all"),
        pytest.param(ALL, "later", True, id="another for all"),
    ],
)
def test_is_handled(asked, handled, is_handled):
    value = {**stream(tag("t")), "status": {"handled": {"refresh": handled}}}
    assert asked.is_handled(decoded(value)) is is_handled


@pytest.mark.parametrize(
    ("asked", "present", "is_lost"),
    [
        (MINE, "m t", False),
        (MINE, "later s t", False),
        (MINE, "later", False),
        (MINE, "later s", True),
        (MINE, None, True),
        (ALL, "later t", True),
    ],
)
def test_is_lost(asked, present, is_lost):
    value = stream(tag("t"), annotations={} if present is None else {REFRESH: present})
    assert asked.is_lost(decoded(value)) is is_lost


# ---- the command: asking and waiting ----


async def test_one_tag(world, run):
    world.server.put(stream(tag("latest"), tag("other")))
    world.when("watch", lambda: world.handle(imported("latest")))
    result = await run("web")
    nonce, *tags = world.request.split()
    assert (len(nonce), tags) == (16, ["latest"])
    assert result == (
        0,
        "imagestream.image.openshift.io/web imported\n\n"
        "TAG      SOURCE             DIGEST" + " " * 68 + "UPDATED   RESULT\n"
        f"latest   quay.io/acme/web   {DIGEST}   5m ago    imported\n",
        "",
    )
    assert world.verbs() == ["get", "patch", "watch"]
    (patch,) = (json.loads(seen.body) for seen in world.server.requests if seen.verb == "patch")
    assert set(patch["metadata"]) == {"resourceVersion", "annotations"}


async def test_a_named_tag(world, run):
    world.server.put(stream(tag("latest"), tag("1.2")))
    world.when("watch", lambda: world.handle(imported("1.2"), imported("latest")))
    result = await run("web:1.2")
    assert world.request.split()[1:] == ["1.2"]
    assert [line.split()[0] for line in result.out.splitlines()[2:]] == ["TAG", "1.2"]


async def test_all_tags(world, run):
    world.server.put(stream(tag("b"), alias("a", "b"), tag("pushed", None)))
    world.when("watch", lambda: world.handle(imported("b"), imported("a")))
    result = await run("web", "--all")
    assert world.request.split()[1:] == []
    lines = result.out.splitlines()
    assert [line.split()[0] for line in lines[3:]] == ["b", "a"]
    assert "b (ImageStreamTag)" in lines[4]


async def test_an_alias_asks_for_the_tag_that_it_follows(world, run):
    world.server.put(stream(alias("stable", "1.2"), tag("1.2")))
    world.when("watch", lambda: world.handle(imported("stable"), imported("1.2")))
    result = await run("web:stable")
    assert world.request.split()[1:] == ["1.2"]
    assert [line.split()[0] for line in result.out.splitlines()[3:]] == ["stable", "1.2"]


async def test_what_is_new_is_told_from_what_is_not(world, run):
    world.server.put({**stream(tag("moved"), tag("same")), "status": {"tags": [imported("moved"), imported("same")]}})
    world.when("watch", lambda: world.handle(imported("moved", item(OTHER), item()), imported("same")))
    result = await run("web", "--all")
    assert [line.split()[-1] for line in result.out.splitlines()[3:]] == ["updated", "unchanged"]


async def test_a_failure_is_explained_and_the_last_good_image_stays(world, run):
    world.server.put(stream(tag("good"), tag("bad")))
    world.when(
        "watch", lambda: world.handle(imported("good"), failed("bad", "NotFound", "no such\x1b[2J tag", item(OTHER)))
    )
    result = await run("web", "--all")
    assert result.code == 1
    assert result.out.startswith("imagestream.image.openshift.io/web imported with errors\n\n")
    assert result.out.splitlines()[-1].split(None, 5)[2:] == [OTHER, "5m", "ago", "NotFound: no such [2J tag"]
    assert result.err == "error: 1 of 2 tags could not be imported\n"


async def test_a_request_that_nobody_handled_yet_is_taken_in(world, run):
    world.server.put(stream(tag("a"), tag("b"), annotations={REFRESH: "theirs b"}))
    world.when("watch", lambda: world.handle(imported("a")))
    await run("web:a")
    assert world.request.split()[1:] == ["a", "b"]


@pytest.mark.parametrize(
    ("theirs", "args", "merged"),
    [("theirs", ("web:a",), []), ("theirs b", ("web", "--all"), []), ("theirs  a ", ("web:a",), ["a"])],
)
async def test_all_and_some_is_all(world, run, theirs, args, merged):
    world.server.put(stream(tag("a"), tag("b"), annotations={REFRESH: theirs}))
    world.when("watch", lambda: world.handle(imported("a"), imported("b")))
    assert (await run(*args)).code == 0
    assert world.request.split()[1:] == merged


async def test_a_handled_request_is_history(world, run):
    world.server.put(
        {**stream(tag("a"), annotations={REFRESH: "theirs b"}), "status": {"handled": {"refresh": "theirs b"}}}
    )
    world.when("watch", lambda: world.handle(imported("a")))
    await run("web:a")
    assert world.request.split()[1:] == ["a"]


async def test_the_answer_to_an_earlier_request_is_not_ours(world, run):
    world.server.put(stream(tag("a"), annotations={REFRESH: "theirs a"}))
    world.when(
        "watch",
        lambda: world.handle(imported("a", item(OTHER)), value="theirs a"),
        lambda: world.handle(imported("a")),
    )
    assert DIGEST in (await run("web:a")).out


async def test_others_write_while_we_ask(world, run):
    world.server.put(stream(tag("latest")))
    world.when("patch", lambda: world.annotate("theirs other"))
    world.when("watch", lambda: world.handle(imported("latest")))
    assert (await run("web")).code == 0
    assert world.request.split()[1:] == ["latest", "other"], "the second try took theirs in"
    assert world.verbs() == ["get", "patch", "get", "patch", "watch"]


async def test_others_write_without_end(world, run, monkeypatch):
    monkeypatch.setattr("imagestreams.cli.import_image._FIRST_PAUSE", 0.0001)
    world.server.put(stream(tag("latest")))
    world.when("patch", lambda: world.annotate(world.request + "x"), times=-1)
    result = await run("web")
    assert result == (
        1,
        "",
        (
            "error: others wrote imagestream.image.openshift.io/web each of the 10 times that the request was to be "
            "set; try again\n"
        ),
    )


async def test_another_client_takes_our_request_over(world, run):
    world.server.put(stream(tag("a"), tag("b")))
    world.when("watch", lambda: world.annotate("later a b"), lambda: world.handle(imported("a")))
    assert (await run("web:a")).code == 0
    assert world.request == "later a b"


async def test_a_request_that_somebody_removed_is_made_again(world, run):
    world.server.put(stream(tag("a")))
    world.when("watch", lambda: world.annotate(None))
    world.when("watch", lambda: world.handle(imported("a")))
    assert (await run("web:a")).code == 0
    assert world.verbs() == ["get", "patch", "watch", "get", "patch", "watch"]


async def test_a_request_that_somebody_keeps_removing(world, run):
    world.server.put(stream(tag("a")))
    world.when("watch", lambda: world.annotate(None), times=-1)
    result = await run("web:a")
    assert result.err == "error: somebody keeps removing the request (annotation imagestreams.dev/refresh)\n"
    assert result.code == 1


async def test_who_may_not_watch_asks_again(world, run):
    world.server.put(stream(tag("latest")))
    world.server.inject(status(403, "Forbidden", "no"), verb="watch", times=-1)
    world.when("get")
    world.when("get", lambda: world.handle(imported("latest")))
    assert (await run("web")).code == 0
    assert world.verbs() == ["get", "patch", "watch", "get"]


async def test_a_watch_that_ends_is_made_again(world, run):
    world.server.put(stream(tag("latest")))
    world.server.inject(html(502), verb="watch")
    world.server.inject(disconnect(), verb="watch", times=2)  # the first could be a connection that went idle
    world.server.inject(html(503), verb="get", when=lambda _: world.verbs().count("watch") == 1)
    world.when("watch", lambda: world.handle(imported("latest")))
    assert (await run("web")).code == 0
    assert world.verbs() == ["get", "patch", "watch", "get", "watch", "watch", "get", "watch"]


async def test_the_stream_is_deleted_meanwhile(world, run):
    world.server.put(stream(tag("latest")))
    world.when("watch", lambda: world.server.remove(API, "imagestreams", "shop", "web"))
    assert await run("web") == (1, "", "error: imagestream.image.openshift.io/web was deleted meanwhile\n")


async def test_the_stream_is_replaced_meanwhile(world, run):
    world.server.put(stream(tag("latest")))
    world.when("watch", lambda: world.server.put(stream(tag("latest"), uid="u-2")))
    assert await run("web") == (1, "", "error: imagestream.image.openshift.io/web was deleted and created anew\n")


async def test_the_tag_is_removed_meanwhile(world, run):
    world.server.put(stream(tag("a"), tag("b")))

    def remove() -> None:
        world.server.put(stream(tag("b"), annotations={REFRESH: world.request}))
        world.handle()

    world.when("watch", remove)
    result = await run("web:a")
    assert result == (1, "", 'error: the tag "a" does not exist on the image stream - choose one of: b\n')


@pytest.mark.parametrize(
    ("seen", "why"),
    [
        (
            None,
            "no controller has ever written the status of this image stream: is imagestreams installed and running?",
        ),
        (0, "the controller has not seen the stream's last change: is it running?"),
        (
            1,
            (
                "the controller has seen the stream, so it is down now, or a registry is slow or has told it to wait; "
                "see: kubectl describe imagestream.image.openshift.io/web"
            ),
        ),
    ],
)
async def test_the_time_runs_out(world, run, seen, why):
    value = stream(tag("latest"))
    world.server.put(value if seen is None else {**value, "status": {"observedGeneration": seen}})
    assert await run("web", "--timeout", "100ms") == (
        1,
        "",
        (
            'error: timed out after 0.1s waiting for the import of tag "latest" of imagestream.image.openshift.io/web\n'
            f"  {why}\n"
            "  Who leads: kubectl get leases,deployments --all-namespaces | grep imagestreams\n"
            "  The request stays on the stream and is carried out when the controller can.\n"
        ),
    )


async def test_the_time_runs_out_while_the_server_is_away(world, run):
    world.server.put(stream(tag("latest")))
    world.server.inject(disconnect(), verb="watch", times=-1)
    world.server.inject(disconnect(), verb="get", when=lambda _: "watch" in world.verbs(), times=-1)
    result = await run("web", "--all", "--timeout=300ms")
    assert result.code == 1
    assert result.err.startswith("error: timed out after 0.3s waiting for the import of all tags of imagestream.")


# ---- the command: output ----


async def test_only_asking(world, run):
    world.server.put(stream(tag("latest")))
    result = await run("web", "--wait=false")
    assert result == (0, "imagestream.image.openshift.io/web import requested\n", "")
    assert world.verbs() == ["get", "patch"]
    assert world.request.split()[1:] == ["latest"]


@pytest.mark.parametrize("form", ["json", "yaml"])
async def test_the_stream_as_a_document(world, run, form):
    world.server.put(stream(tag("good"), tag("bad"), managedFields=[{"manager": "me"}]))
    world.when("watch", lambda: world.handle(imported("good"), failed("bad", "Denied", "no")))
    result = await run("web", "--all", "-o", form)
    found = json.loads(result.out) if form == "json" else yaml.safe_load(result.out)
    assert found["status"] == world.stream["status"]
    assert "managedFields" not in found["metadata"]
    assert (result.code, result.err) == (1, 'error: tag "bad" failed: Denied: no\n')


async def test_the_name_only(world, run):
    world.server.put(stream(tag("latest")))
    world.when("watch", lambda: world.handle(imported("latest")))
    assert await run("web", "-o", "name") == (0, "imagestream.image.openshift.io/web\n", "")


async def test_in_the_other_group(tmp_path, monkeypatch, run):
    async with FakeApiServer() as server:
        api = "imagestreams.dev/v1"
        server.define(api, "imagestreams", "ImageStream", status=True)
        monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(tmp_path / "config")))
        world = World(server, api)
        server.put(stream(tag("latest"), api=api))
        world.when("watch", lambda: world.handle(imported("latest")))
        assert (await run("web")).out.startswith("imagestream.imagestreams.dev/web imported\n")


async def test_on_a_terminal_it_says_what_it_waits_for_and_cleans_up(world, run, monkeypatch):
    world.server.put(stream(tag("latest")))
    world.when("watch", lambda: world.handle(imported("latest")))
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    result = await run("web")
    assert result.err == "web: waiting for the controller to look up latest ...\r\033[K"


def test_a_table_without_surprises():
    value = {
        **stream(tag("a"), tag("b"), tag("r", reference=True)),
        "status": {
            "tags": [
                imported("a", item(age=timedelta(days=3))),
                imported("r", {"created": item()["created"], "dockerImageReference": "quay.io/acme/web", "image": ""}),
            ]
        },
    }
    found = rows(None, decoded(value), ("a", "b", "r", "gone"), NOW)
    assert [row[1:5] for row in found] == [
        ("quay.io/acme/web", DIGEST, "3d ago", "imported"),
        (
            "quay.io/acme/web",
            "<none>",
            "<never>",
            "Unknown: the controller wrote no outcome; was the tag removed meanwhile?",
        ),
        ("quay.io/acme/web", "quay.io/acme/web", "5m ago", "imported"),
        ("<none>", "<none>", "<never>", "Unknown: the controller wrote no outcome; was the tag removed meanwhile?"),
    ]
    assert all(not line.endswith(" ") for line in table(found).splitlines())


@pytest.mark.parametrize(
    ("age", "words"),
    [
        (timedelta(seconds=-5), "0s ago"),
        (timedelta(seconds=119), "119s ago"),
        (timedelta(minutes=119), "119m ago"),
        (timedelta(hours=47), "47h ago"),
        (timedelta(days=400), "400d ago"),
    ],
)
def test_ages(age, words):
    value = {**stream(tag("a")), "status": {"tags": [imported("a", item(age=age))]}}
    assert rows(None, decoded(value), ("a",), NOW)[0].updated == words


# ---- the command: what goes wrong ----


async def test_a_stream_that_is_not_there(world, run):
    assert await run("web") == (
        1,
        "",
        'Error from server (NotFound): imagestreams.image.openshift.io "web" not found\n',
    )


async def test_who_may_not_ask(world, run):
    world.server.put(stream(tag("latest")))
    world.server.inject(status(403, "Forbidden", "you may not patch"), verb="patch")
    assert await run("web") == (1, "", "Error from server (Forbidden): you may not patch\n")


async def test_a_context_that_is_not_there(world, run):
    result = await run("web", "--context", "x")
    assert result.code == 1
    assert result.err.endswith("/config: context 'x' does not exist (there are: fake)\n")
    assert result.err.startswith("error: kubeconfig /")


async def test_a_malformed_object(world, run):
    world.server.put({**stream(), "spec": {"tags": "none"}})
    result = await run("web")
    assert result.err.startswith("error: the server's imagestream.image.openshift.io/web is malformed: ")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((), "Missing argument 'NAME[:TAG]'"),
        (("shop/web",), "'shop/web' names a namespace; write it as: import-image web -n shop"),
        (("web", "--wait=maybe"), "'maybe' is neither true nor false"),
        (("web", "--timeout", "soon"), "'soon' is no duration; write a number with a unit"),
        (("web", "-o", "wide"), "'wide' is not one of 'name', 'json', 'yaml'"),
        (("web", "--confirm"), "No such option"),
        (("web", "api"), "Got unexpected extra argument"),
    ],
)
async def test_called_wrongly(world, run, args, words):
    result = await run(*args)
    assert (result.code, result.out) == (2, "")
    assert words in result.err
    assert world.server.requests == []


async def test_flags_are_written_as_kubectls(world, run):
    """`--all` and `--all=true`; a switch never takes the next word."""
    world.server.put(stream(tag("latest")))
    world.when("watch", lambda: world.handle(imported("latest")), times=-1)
    for args in (("--all=true", "web"), ("--all", "web"), ("--wait", "web"), ("--request-timeout=30", "web")):
        assert (await run(*args)).code == 0
