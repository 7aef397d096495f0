"""`import-image` from the command line to the socket: what it asks for, how it waits, what it prints, its exit code."""

from __future__ import annotations

import json
import re
from datetime import timedelta

import click
import pytest
import yaml

from imagestreams.cli.import_plan import Flags, Target, checked, parse_target, plan_import, tags_to_report
from imagestreams.cli.import_report import rows, table
from imagestreams.cli.lookups import Ask
from imagestreams.cli.options import Failure
from imagestreams.cli.request import Asked, Request
from tests.cli.shop import (
    API,
    DIGEST,
    NOW,
    OTHER,
    REFRESH,
    World,
    alias,
    answer_imports,
    command,
    decoded,
    failed,
    imported,
    item,
    opened,
    refused,
    serve_imports,
    stream,
    succeeded,
    tag,
)
from tests.fakes.apiserver import FakeApiServer, disconnect, html, status

IMPORTS = "imagestreamimports"
NO_TAG = 'error: the tag "x" does not exist on the image stream - {}; or say with --from where its image comes from'
INSECURE = "openshift.io/image.insecureRepository"


@pytest.fixture
async def world(tmp_path, monkeypatch):
    async with opened(tmp_path, monkeypatch) as world:
        yield world


@pytest.fixture
def run(capsys):
    return command("import-image", capsys)


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
        ("imagestreams.v1.image.openshift.io/web:1", False, Target("web", "1")),
        ("quay.io/acme/web", False, Target("web", "latest", "quay.io/acme/web")),
        ("localhost:5000/web:1", False, Target("web", "1", "localhost:5000/web:1")),
        ("quay.io/acme/sub/web", True, Target("web", None, "quay.io/acme/sub/web")),
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
        ("Web", False, "'Web' is no name of an image stream; write STREAM or STREAM:TAG, such as web:latest"),
        ("", False, "'' is no name of an image stream"),
        ("istag/", False, "'' is no name of an image stream"),
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


@pytest.mark.parametrize("confirm", [True, False])
@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("istag/eu/new:1", "'istag/eu/new:1' names a namespace; write it as: import-image new:1 -n eu"),
        ("is/quay.io/acme/new:1", "'is/quay.io/acme/new:1' is no stream; write: import-image quay.io/acme/new:1"),
    ],
)
def test_what_has_a_kind_is_no_image(text, advice, confirm):
    with pytest.raises(click.UsageError) as caught:
        parse_target(text, all_tags=False, confirm=confirm)
    assert caught.value.message == advice


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
        (
            [tag("b"), tag("a")],
            "x",
            NO_TAG.format("choose one of: a, b"),
        ),
        (
            [],
            "x",
            NO_TAG.format("it has none in its spec"),
        ),
        ([], None, "error: the image stream web has no tag with a source to import from"),
        (
            [tag("x", None)],
            "x",
            'error: tag "x" has no source (from): only pushes move it; the `tag` command gives it one',
        ),
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


# ---- what is changed first ----

REPOSITORY = "quay.io/acme/web"
VIRTUAL = {**imported("2.0"), "observed": {"from": {"kind": "DockerImage", "name": f"{REPOSITORY}:2.0"}}}


def planned(value, wanted="latest", source="", **flags):
    value = {**value, "metadata": {"resourceVersion": "7", **value["metadata"]}}
    target = Target("web", wanted, source)
    return plan_import(value, decoded(value), target, checked(Flags(**flags), target))


@pytest.mark.parametrize(
    ("value", "wanted", "flags", "tags", "asked", "images"),
    [
        pytest.param(
            stream(tag("a", "x")), "a", {}, [tag("a", "x")], {"a"}, [Ask("x", "a")], id="nothing is changed unasked"
        ),
        pytest.param(
            stream(tag("a", "x")), "a", {"source": "x"}, [tag("a", "x")], {"a"}, [Ask("x", "a")], id="the same source"
        ),
        pytest.param(
            stream(alias("a", "b"), tag("b", "x")),
            "a",
            {"scheduled": True},
            [alias("a", "b"), tag("b", "x", importPolicy={"scheduled": True})],
            {"b"},
            [Ask("x", "b")],
            id="an alias stands for what it follows",
        ),
        pytest.param(
            stream(tag("a", "x", importPolicy={"scheduled": True, "insecure": True, "importMode": "Legacy"})),
            "a",
            {"scheduled": False, "insecure": False},
            [tag("a", "x", importPolicy={"scheduled": True, "insecure": True, "importMode": "Legacy"})],
            {"a"},
            [Ask("x", "a", True, "Legacy")],
            id="scheduled, insecure and the mode stay",
        ),
        pytest.param(
            stream(tag("a", "x", importPolicy={"importMode": "Legacy", "other": 1}, annotations={"k": "v"})),
            "a",
            {"insecure": True, "import_mode": "PreserveOriginal", "reference_policy": "Local"},
            [
                tag(
                    "a",
                    "x",
                    importPolicy={"importMode": "PreserveOriginal", "other": 1, "insecure": True},
                    annotations={"k": "v"},
                    referencePolicy={"type": "Local"},
                )
            ],
            {"a"},
            [Ask("x", "a", True, "PreserveOriginal")],
            id="flags are added, what is unknown stays",
        ),
        pytest.param(
            stream(tag("a", "x")),
            "b",
            {"source": "y", "scheduled": True, "import_mode": "Legacy", "reference_policy": "Source"},
            [
                tag("a", "x"),
                tag(
                    "b",
                    "y",
                    importPolicy={"scheduled": True, "importMode": "Legacy"},
                    referencePolicy={"type": "Source"},
                ),
            ],
            {"b"},
            [Ask("y", "b", False, "Legacy")],
            id="a new tag needs no --confirm",
        ),
        pytest.param(
            stream(annotations={INSECURE: "true"}),
            "b",
            {"source": "y"},
            [tag("b", "y", importPolicy={"insecure": True})],
            {"b"},
            [Ask("y", "b", True)],
            id="the stream's annotation counts for a new tag",
        ),
        pytest.param(
            stream(annotations={INSECURE: "true"}),
            "b",
            {"source": "y", "insecure": False},
            [tag("b", "y")],
            {"b"},
            [Ask("y", "b")],
            id="the flag wins over the annotation",
        ),
        pytest.param(
            stream(spec={"dockerImageRepository": REPOSITORY}),
            "latest",
            {},
            [tag("latest", REPOSITORY)],
            {"latest"},
            [Ask(REPOSITORY, "latest")],
            id="latest of the stream's repository",
        ),
        pytest.param(
            {**stream(spec={"dockerImageRepository": REPOSITORY}), "status": {"tags": [VIRTUAL]}},
            "2.0",
            {},
            [],
            {"2.0"},
            [Ask(f"{REPOSITORY}:2.0", "2.0")],
            id="a tag that only the repository gives",
        ),
        pytest.param(
            {**stream(spec={"dockerImageRepository": REPOSITORY}), "status": {"tags": [VIRTUAL]}},
            "2.0",
            {"scheduled": True},
            [tag("2.0", f"{REPOSITORY}:2.0", importPolicy={"scheduled": True})],
            {"2.0"},
            [Ask(f"{REPOSITORY}:2.0", "2.0")],
            id="such a tag gets an entry when something is said of it",
        ),
        pytest.param(
            stream(tag("a", "x"), alias("b", "a"), tag("c", None), tag("d", "y", reference=True)),
            None,
            {"scheduled": True},
            [
                tag("a", "x", importPolicy={"scheduled": True}),
                alias("b", "a"),
                tag("c", None),
                tag("d", "y", reference=True),
            ],
            set(),
            [Ask("x", "a")],
            id="all that are looked up",
        ),
    ],
)
def test_the_plan(value, wanted, flags, tags, asked, images):  # noqa: PLR0917
    plan = planned(value, wanted, **flags)
    assert plan.edited["spec"].get("tags", []) == tags
    assert (plan.asked, list(plan.images), plan.repository) == (asked, images, None)
    assert plan.warnings == ()


@pytest.mark.parametrize(
    ("present", "flags", "repository", "is_insecure"),
    [
        (REPOSITORY, {}, REPOSITORY, False),
        (REPOSITORY, {"source": REPOSITORY}, REPOSITORY, False),
        (REPOSITORY, {"source": "quay.io/x/y", "confirm": True}, "quay.io/x/y", False),
        (None, {"source": "quay.io/x/y", "confirm": True, "insecure": True}, "quay.io/x/y", True),
    ],
)
def test_the_plan_of_a_repository(present, flags, repository, is_insecure):
    value = stream(spec={"dockerImageRepository": present} if present else {})
    plan = planned(value, None, **flags)
    assert plan.edited["spec"]["dockerImageRepository"] == repository
    assert plan.repository == Ask(repository, is_insecure=is_insecure)
    assert plan.edited["metadata"].get("annotations", {}) == ({INSECURE: "true"} if is_insecure else {})
    assert plan.asked == frozenset()


@pytest.mark.parametrize(
    ("value", "wanted", "flags", "message"),
    [
        pytest.param(
            stream(tag("a", "x")),
            "a",
            {"source": "y", "confirm": True},
            'the tag "a" points to "x" - use the \'tag\' command if you want to change the source to "y"',
            id="another source",
        ),
        pytest.param(
            stream(alias("a", "b"), tag("b", "x")),
            "a",
            {"source": "y"},
            'the tag "a" points to the tag "b" which points to "x" - use the \'tag\' command if you want to change the '
            'source to "y"',
            id="another source, by an alias",
        ),
        pytest.param(
            stream(spec={"dockerImageRepository": "quay.io/x"}),
            None,
            {"source": "quay.io/y"},
            'the image stream has a different import spec "quay.io/x", pass --confirm to update',
            id="another repository",
        ),
        pytest.param(
            stream(tag("a")),
            None,
            {"source": "quay.io/y"},
            "the image stream does not currently import an entire container image repository, pass --confirm to update",
            id="a repository at all",
        ),
        pytest.param(
            stream(spec={"dockerImageRepository": REPOSITORY}),
            "2.0",
            {},
            'the tag "2.0" does not exist on the image stream - it has none in its spec; or say with --from where its '
            "image comes from",
            id="of a repository only latest is known by itself",
        ),
    ],
)
def test_what_is_refused(value, wanted, flags, message):
    with pytest.raises(Failure) as caught:
        planned(value, wanted, **flags)
    assert caught.value.message == f"error: {message}"


@pytest.mark.parametrize(
    ("value", "wanted", "flags", "words"),
    [
        (
            stream(tag("a", "x", referencePolicy={"type": "Source"})),
            "a",
            {"reference_policy": "Local"},
            "web:a keeps its reference policy, Source; ",
        ),
        (stream(tag("a"), annotations={"imagestreams.dev/suspend": "true"}), "a", {}, "its imports are suspended"),
        (
            stream(spec={"dockerImageRepository": REPOSITORY}),
            None,
            {"scheduled": True},
            "--scheduled: tags that only the repository quay.io/acme/web gives are not looked up on schedule",
        ),
    ],
)
def test_what_is_warned_of(value, wanted, flags, words):
    [warning] = planned(value, wanted, **flags).warnings
    assert words in warning


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
        f"latest   quay.io/acme/web   {DIGEST}   15h ago   imported\n",
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
    assert result.out.splitlines()[-1].split(None, 5)[2:] == [OTHER, "15h", "ago", "NotFound: no such [2J tag"]
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
    monkeypatch.setattr("imagestreams.cli.editing._FIRST_PAUSE", 0.0001)
    world.server.put(stream(tag("latest")))
    world.when("patch", lambda: world.annotate(world.request + "x"), times=-1)
    result = await run("web")
    assert result == (
        1,
        "",
        (
            "error: others wrote imagestream.image.openshift.io/web each of the 10 times that it was to be changed; "
            "try again\n"
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
    assert world.verbs() == ["get", "patch", "watch", "get", "get", "watch", "watch", "get", "watch"]


async def test_the_stream_is_deleted_meanwhile(world, run):
    world.server.put(stream(tag("latest")))
    world.when("watch", lambda: world.server.remove(API, "imagestreams", "shop", "web"))
    assert await run("web") == (1, "", "error: imagestream.image.openshift.io/web was deleted meanwhile\n")


async def test_the_stream_is_replaced_meanwhile(world, run):
    world.server.put(stream(tag("latest")))
    world.when("watch", lambda: world.server.put(stream(tag("latest"), uid="u-2")))
    assert await run("web") == (
        1,
        "",
        "error: imagestream.image.openshift.io/web was deleted and created anew meanwhile\n",
    )


async def test_the_tag_is_removed_meanwhile(world, run):
    world.server.put(stream(tag("a"), tag("b")))

    def remove() -> None:
        world.server.put(stream(tag("b"), annotations={REFRESH: world.request}))
        world.handle()

    world.when("watch", remove)
    result = await run("web:a")
    words = "choose one of: b; or say with --from where its image comes from"
    assert result == (1, "", f'error: the tag "a" does not exist on the image stream - {words}\n')


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
    monkeypatch.setenv("TERM", "xterm")
    result = await run("web")
    assert result.err == "\r\033[Kweb: waiting for the controller to look up latest ...\r\033[K"


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
        ("quay.io/acme/web", "quay.io/acme/web", "15h ago", "imported"),
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
        'error: no image stream named "web" exists, pass --confirm to create and import\n',
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
        (("web", "-o", "wide"), "'wide' is none of name, json, yaml"),
        (("web", "--reference-policy=remote"), "'remote' is neither source nor local"),
        (("web", "--import-mode=all"), "'all' is neither Legacy nor PreserveOriginal"),
        (("web", "--from=quay.io"), "'quay.io' names a registry, not an image; add a repository"),
        (("web", "--from=Quay/x y"), "is not an image reference"),
        (("web", "--all", "--from=quay.io/acme/web:1"), "--all imports a whole repository"),
        (("quay.io/acme/web", "--from=quay.io/acme/db"), "name two sources; leave one out"),
        (("acme/Web:1", "--confirm"), "repository names must be lowercase"),
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


# ---- the command: streams and tags that are made ----


async def test_a_new_stream(world, run):
    world.when("watch", lambda: world.handle(imported("1")))
    result = await run("web:1", "--from=quay.io/acme/web:1", "--scheduled", "--confirm")
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith("imagestream.image.openshift.io/web imported\n\n")
    assert world.stream["spec"] == {"tags": [tag("1", "quay.io/acme/web:1", importPolicy={"scheduled": True})]}
    assert world.request.split()[1:] == ["1"]
    assert world.verbs() == ["get", "create", "watch"], "one write makes it, and asks"


async def test_a_whole_image_is_a_name_and_a_source(world, run):
    world.when("watch", lambda: world.handle(imported("1")))
    assert (await run("quay.io/acme/web:1", "--confirm")).code == 0
    assert world.stream["spec"] == {"tags": [tag("1", "quay.io/acme/web:1")]}


async def test_a_new_stream_of_a_repository(world, run):
    world.when("watch", lambda: world.handle(VIRTUAL))
    result = await run("web", "--all", "--from=quay.io/acme/web", "--confirm")
    assert result.code == 0
    assert world.stream["spec"] == {"dockerImageRepository": REPOSITORY}
    assert result.out.splitlines()[3].split()[:3] == ["2.0", f"{REPOSITORY}:2.0", DIGEST]


@pytest.mark.parametrize(
    ("condition", "code", "words", "err"),
    [
        (
            {"status": "False", "reason": "NotFound", "message": "no such thing"},
            1,
            "imported with errors",
            f"error: the repository {REPOSITORY} could not be listed: NotFound: no such thing\n",
        ),
        ({"status": "False", "reason": "Importing", "message": "some are missing"}, 0, "imported", ""),
        ({"status": "True", "reason": "LeftOut", "message": "there are more"}, 0, "imported", ""),
    ],
)
async def test_how_the_listing_of_a_repository_went(world, run, condition, code, words, err):  # noqa: PLR0917
    def handle() -> None:
        found = world.stream
        conditions = [{"type": "RepositoryImported", **condition}]
        found["status"] = {"conditions": conditions, "handled": {"refresh": world.request}}
        world.server.put(found)

    world.server.put(stream(spec={"dockerImageRepository": REPOSITORY}))
    world.when("watch", handle)
    assert await run("web", "--all") == (code, f"imagestream.image.openshift.io/web {words}\n", err)


async def test_a_new_stream_needs_a_source(world, run):
    result = await run("web", "--confirm")
    assert (result.code, result.out) == (2, "")
    assert result.err.endswith("  Name the source, such as: --from=quay.io/acme/web --confirm\n")
    assert world.verbs() == ["get"]


async def test_a_flag_is_written_in_the_same_write_as_the_request(world, run):
    world.server.put(stream(tag("latest"), tag("b")))
    world.when("watch", lambda: world.handle(imported("latest")))
    assert (await run("web", "--scheduled")).code == 0
    [patch] = world.bodies("patch")
    assert patch["spec"] == {"tags": [tag("latest", importPolicy={"scheduled": True}), tag("b")]}
    assert REFRESH in patch["metadata"]["annotations"]


async def test_warnings_go_to_stderr(world, run):
    world.server.put(stream(tag("latest", referencePolicy={"type": "Source"})))
    world.when("watch", lambda: world.handle(imported("latest")))
    result = await run("web", "--reference-policy=local")
    assert result.err.startswith("Warning: web:latest keeps its reference policy, Source; ")
    assert result.code == 0


def observed(digest, mode="", kind="DockerImage"):
    return {"from": {"kind": kind, "name": "quay.io/acme/web"}, "importMode": mode, "digest": digest}


@pytest.mark.parametrize(
    ("before", "status", "served", "words"),
    [
        pytest.param(DIGEST, "True", None, "pinned", id="not asked yet"),
        pytest.param(DIGEST, "True", observed(DIGEST), "pinned; the registry has the same", id="the same"),
        pytest.param(DIGEST, "True", observed(OTHER), f"pinned; the registry has {OTHER}", id="another"),
        pytest.param(
            DIGEST,
            "True",
            observed(OTHER, "Legacy"),
            f"pinned; the registry has {OTHER} (the image, or an index of it)",
            id="of an index",
        ),
        pytest.param(DIGEST, "True", observed(OTHER, kind="ImageStreamTag"), "pinned", id="follows a tag"),
        pytest.param(OTHER, "True", observed(OTHER), f"updated, pinned; the registry has {OTHER}", id="pinned now"),
        pytest.param(
            DIGEST,
            "False",
            observed(OTHER),
            f"unchanged; held, since its pin cannot be carried out; the registry has {OTHER}",
            id="a pin at what it never had",
        ),
    ],
)
async def test_a_tag_that_is_pinned_says_so_and_what_the_registry_has(world, run, before, status, served, words):  # noqa: PLR0917
    held = imported("latest")
    held["conditions"].append({"type": "Pinned", "status": status})
    held["observed"] = served
    world.server.put({**stream(tag("latest")), "status": {"tags": [imported("latest", item(before))]}})
    world.when("watch", lambda: world.handle(held))
    assert (await run("web")).out.splitlines()[-1].endswith(f"   {words}")


async def test_a_dry_run_says_that_a_pinned_tag_would_stay(world, run):
    held = imported("latest")
    held["conditions"].append({"type": "Pinned", "status": "True"})
    world.server.put({**stream(tag("latest")), "status": {"tags": [held]}})
    for digest, words in ((OTHER, f"pinned; would stay at {DIGEST}"), (DIGEST, "unchanged")):
        world.server.heal()
        answer_imports(world, {"images": [succeeded(digest)]})
        done = await run("web", "--dry-run")
        assert re.split(r" {3,}", done.out.splitlines()[-1])[2:] == [digest, "15h ago", words]


async def test_who_interrupts_is_told_that_the_request_stays(world, run, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    world.server.put(stream(tag("latest")))
    monkeypatch.setattr("imagestreams.cli.importing.states", interrupt)
    done = await run("web")
    assert (done.code, done.out) == (130, "")
    assert "web: The request stays on the stream and is carried out when the controller can." in done.err
    assert world.request


@pytest.mark.parametrize("flag", ["--from="])
async def test_a_value_that_is_empty_is_no_missing_flag(world, run, flag):
    """In a script it is a variable that is not set."""
    world.server.put(stream(tag("latest")))
    done = await run("web", "--all", "--confirm", flag)
    assert (done.code, world.verbs()) == (2, [])
    assert "it is empty" in done.err


async def test_a_suspended_stream_that_times_out_says_why(world, run):
    world.server.put(stream(tag("latest"), annotations={"imagestreams.dev/suspend": "true"}))
    result = await run("web", "--timeout=100ms")
    assert result.err.startswith("Warning: web: its imports are suspended")
    assert "\n  its imports are suspended: annotation imagestreams.dev/suspend\n" in result.err


# ---- the command: dry run ----


async def test_a_dry_run_writes_nothing(world, run):
    answer_imports(world, {"images": [succeeded(OTHER), succeeded(DIGEST), refused("NotFound", "no such tag")]})
    before = world.server.put(
        {
            **stream(tag("moved", "x"), tag("same", "y"), tag("gone", "z"), alias("a", "same")),
            "status": {"tags": [imported("moved"), imported("same")]},
        }
    )
    result = await run("web", "--all", "--dry-run")
    assert world.stream == before
    assert result.code == 1
    assert result.err == "error: 1 of 3 tags could not be imported\n"
    lines = result.out.splitlines()
    assert lines[0] == "imagestream.image.openshift.io/web imported with errors (dry run)"
    assert [re.split(r" {3,}", line) for line in lines[2:]] == [
        ["TAG", "SOURCE", "DIGEST", "UPDATED", "RESULT"],
        ["moved", "x", OTHER, "15h ago", "would be updated"],
        ["same", "y", DIGEST, "15h ago", "unchanged"],
        ["gone", "z", "<none>", "<never>", "NotFound: no such tag"],
    ]
    assert world.verbs() == ["get"]


async def test_a_dry_run_of_what_is_not_there_yet(world, run):
    answer_imports(world, {"images": [succeeded()]})
    result = await run("web:1", "--from=quay.io/acme/web:1", "--insecure", "--confirm", "--dry-run")
    assert result.code == 0
    assert result.out.splitlines()[-1].split()[2] == DIGEST
    [asked] = world.bodies("create", "imagestreamimports")
    assert asked["spec"] == {
        "import": False,
        "images": [
            {
                "from": {"kind": "DockerImage", "name": "quay.io/acme/web:1"},
                "to": {"name": "1"},
                "importPolicy": {"insecure": True},
            }
        ],
    }
    assert world.server.all(API, "imagestreams") == []


async def test_a_dry_run_of_a_repository(world, run):
    entries = [{**succeeded(), "tag": "1"}, {**refused("Timeout", "late"), "tag": "2"}]
    answer_imports(world, {"repository": {"status": {"status": "Success"}, "images": entries}})
    world.server.put(stream(spec={"dockerImageRepository": REPOSITORY}))
    result = await run("web", "--all", "--dry-run")
    assert [line.split()[:3] for line in result.out.splitlines()[3:]] == [
        ["1", f"{REPOSITORY}:1", DIGEST],
        ["2", f"{REPOSITORY}:2", "<none>"],
    ]
    assert result.code == 1


async def test_a_dry_run_of_a_repository_that_is_not_there(world, run):
    answer_imports(world, {"repository": refused("NotFound", "no such repository")})
    world.server.put(stream(spec={"dockerImageRepository": REPOSITORY}))
    result = await run("web", "--all", "--dry-run")
    assert result.out.splitlines()[-1].split(None, 4)[:2] == ["*", REPOSITORY]
    assert result.code == 1


async def test_many_images_are_asked_for_in_portions(world, run, monkeypatch):
    monkeypatch.setattr("imagestreams.cli.importing._PORTION", 2)
    answer_imports(world, {"images": [succeeded(), succeeded()]})
    world.server.put(stream(*(tag(f"t{number}") for number in range(4))))
    result = await run("web", "--all", "--dry-run")
    assert [line.split()[0] for line in result.out.splitlines()[3:]] == ["t0", "t1", "t2", "t3"]
    asked = [[image["to"]["name"] for image in body["spec"]["images"]] for body in world.bodies("create", IMPORTS)]
    assert asked == [["t0", "t1"], ["t2", "t3"]]


async def test_a_dry_run_as_a_document_is_what_the_server_answered(world, run):
    answer_imports(world, {"images": [succeeded()]})
    world.server.put(stream(tag("latest")))
    result = await run("web", "--dry-run", "-o", "json")
    assert json.loads(result.out) == world.server.all(API, IMPORTS)[0]
    assert json.loads(result.out)["status"] == {"images": [succeeded()]}


async def test_a_dry_run_where_nobody_looks_up(world, run):
    world.server.put(stream(tag("latest")))
    result = await run("web", "--dry-run")
    assert (result.code, result.out) == (1, "")
    assert "imagestreams resolve -f MANIFEST" in result.err


async def test_a_dry_run_that_nobody_answers(world, run):
    serve_imports(world)
    world.server.put(stream(tag("latest")))
    result = await run("web", "--dry-run", "--timeout=100ms")
    assert result.code == 1
    assert "was not answered within 0.1s" in result.err
