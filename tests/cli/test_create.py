"""`create`: a stream, and a tag of one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import yaml

from tests.cli.shapes import shape
from tests.cli.shop import DIGEST, OTHER, World, alias, command, imported, item, opened, stream, tag
from tests.fakes.apiserver import status

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

NAMED = "imagestreamtag.image.openshift.io"


@pytest.fixture
async def world(tmp_path, monkeypatch) -> AsyncIterator[World]:
    async with opened(tmp_path, monkeypatch) as world:
        yield world


@pytest.fixture
def create(capsys):
    return command("create", capsys)


# ---- streams ----


@pytest.mark.parametrize("kind", ["imagestream", "is", "stream", "ImageStream", "imagestreams.v1.image.openshift.io"])
async def test_a_stream(world, create, kind):
    assert await create(kind, "web") == (0, "imagestream.image.openshift.io/web created\n", "")
    assert "spec" not in world.stream or world.stream["spec"] == {}
    assert world.server.requests[-1].query == {"fieldManager": "imagestreams-cli"}


async def test_a_stream_that_pods_may_name(world, create):
    await create("is", "web", "--lookup-local")
    assert world.stream["spec"] == {"lookupPolicy": {"local": True}}


async def test_a_stream_that_is_there(world, create):
    world.server.put(stream(tag("a")))
    done = await create("is", "web")
    assert (done.code, done.out) == (1, "")
    assert done.err == 'Error from server (AlreadyExists): imagestreams.image.openshift.io "web" already exists\n'


@pytest.mark.parametrize(
    ("flag", "words", "verbs"), [("client", "dry run", []), ("server", "server dry run", ["create"])]
)
async def test_a_dry_run_stores_nothing(world, create, flag, words, verbs):
    done = await create("is", "web", f"--dry-run={flag}")
    assert done.out == f"imagestream.image.openshift.io/web created ({words})\n"
    assert world.verbs() == verbs
    assert world.server.get(world.api, "imagestreams", "shop", "web") is None


async def test_the_object_is_printed(world, create):
    done = await create("is", "web", "--dry-run", "-o", "yaml")
    assert yaml.safe_load(done.out) == {
        "apiVersion": "image.openshift.io/v1",
        "kind": "ImageStream",
        "metadata": {"name": "web", "namespace": "shop"},
    }
    assert (await create("is", "web", "-o", "name")).out == "imagestream.image.openshift.io/web\n"
    shown = json.loads((await create("is", "other", "-o", "json")).out)
    assert {"apiVersion", "kind", "metadata"} <= set(shown)
    assert shown["metadata"]["name"] == "other"


async def test_the_group_is_found_out(tmp_path, monkeypatch, create):
    async with opened(tmp_path, monkeypatch, "imagestreams.dev/v1") as world:
        assert (await create("is", "web")).out == "imagestream.imagestreams.dev/web created\n"
        assert world.stream["apiVersion"] == "imagestreams.dev/v1"


# ---- tags ----


@pytest.mark.parametrize(
    ("flags", "made"),
    [
        ((), {}),
        (("--from-image=quay.io/acme/web:1",), {"from": {"kind": "DockerImage", "name": "quay.io/acme/web:1"}}),
        (("--from=base:1",), {"from": {"kind": "ImageStreamTag", "name": "base:1"}}),
        (("--from", "base"), {"from": {"kind": "ImageStreamTag", "name": "base:latest"}}),
        (
            ("--from=images/base:1",),
            {"from": {"kind": "ImageStreamTag", "name": "base:1", "namespace": "images"}},
        ),
        ((f"--from=base@{DIGEST}",), {"from": {"kind": "ImageStreamImage", "name": f"base@{DIGEST}"}}),
        (("--scheduled", "--insecure"), {"importPolicy": {"scheduled": True, "insecure": True}}),
        (("--reference",), {"reference": True}),
        (("--reference-policy=Local",), {"referencePolicy": {"type": "Local"}}),
        (("--annotation=a=b=c", "--annotation", "d="), {"annotations": {"a": "b=c", "d": ""}}),
    ],
)
async def test_a_tag(world, create, flags, made):
    world.server.put(stream(tag("old", extra="kept")))
    assert await create("istag", "web:new", *flags) == (0, f"{NAMED}/web:new created\n", "")
    expected = {"name": "new", "importPolicy": {}, "referencePolicy": {"type": "Source"}, **made}
    assert world.stream["spec"]["tags"] == [tag("old", extra="kept"), expected]


@pytest.mark.parametrize("digest", [DIGEST[7:11], DIGEST[:20], DIGEST.replace(":", "-")])
async def test_an_image_is_kept_by_its_whole_digest(world, create, digest):
    world.server.put({**stream(tag("a"), name="base"), "status": {"tags": [imported("a", item(OTHER), item())]}})
    assert (await create("istag", "web:new", f"--from=base@{digest}")).code == 0
    assert world.tags["new"]["from"] == {"kind": "ImageStreamImage", "name": f"base@{DIGEST}"}


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("web:self", "--from=web:self"), "error: web:self would follow itself (web:self -> web:self)"),
        (("web:b", "--from=shop/web:a"), "error: web:b would follow itself (web:b -> web:a -> web:b)"),
        (("web:b", "--from=base@4f9a"), 'imagestreams.image.openshift.io "base" not found'),
        (("web:b", "--from=web@4f9a"), "error: the image web@4f9a is not in the history of web"),
    ],
)
async def test_a_source_that_cannot_be(world, create, args, words):
    world.server.put(stream(alias("a", "b")))
    done = await create("istag", *args)
    assert (done.code, done.out, list(world.tags)) == (1, "", ["a"])
    assert words in done.err


async def test_a_tag_of_a_stream_that_is_not_there(world, create):
    await create("imagestreamtag", "web:new", "--from-image=quay.io/acme/web")
    assert [found["name"] for found in world.stream["spec"]["tags"]] == ["new"]
    assert world.stream["kind"] == "ImageStream"


@pytest.mark.parametrize("where", ["spec", "status"])
async def test_a_tag_that_is_there_is_not_changed(world, create, where):
    value = stream(*([tag("a")] if where == "spec" else []))
    value["status"] = {"tags": [imported("a")] if where == "status" else []}
    world.server.put(value)
    done = await create("istag", "web:a", "--from-image=quay.io/other")
    assert (done.code, done.out) == (1, "")
    assert done.err == (
        'Error from server (AlreadyExists): imagestreamtags.image.openshift.io "web:a" already exists; to change it: '
        "imagestreams tag SOURCE web:a\n"
    )
    assert "patch" not in world.verbs()


async def test_two_create_tags_at_once(world, create):
    world.server.put(stream(tag("a")))

    def other() -> None:
        value = world.stream
        value["spec"]["tags"].append(tag("b"))
        world.server.put(value)

    world.when("patch", other)
    assert (await create("istag", "web:c")).code == 0
    assert list(world.tags) == ["a", "b", "c"]


async def test_the_tag_is_printed(world, create):
    flags = ("--from-image=quay.io/acme/web:1", "--dry-run=client", "-o", "json")
    found = json.loads((await create("istag", "web:new", *flags)).out)
    assert world.server.get(world.api, "imagestreams", "shop", "web") is None
    assert shape(found) == {
        "apiVersion": {"string"},
        "kind": {"string"},
        "metadata.name": {"string"},
        "metadata.namespace": {"string"},
        "metadata.creationTimestamp": {"null"},
        "tag.name": {"string"},
        "tag.from.kind": {"string"},
        "tag.from.name": {"string"},
        "tag.importPolicy": {"object"},
        "tag.referencePolicy.type": {"string"},
        "generation": {"integer"},
        "lookupPolicy.local": {"boolean"},
        "conditions": {"array"},
        "image.metadata": {"object"},
    }
    assert (await create("istag", "web:new", "-o", "name")).out == f"{NAMED}/web:new\n"
    assert (await create("istag", "web:x", "--dry-run=server")).out == f"{NAMED}/web:x created (server dry run)\n"
    assert list(world.tags) == ["new"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("istag", "web"), "'web' has no tag; write STREAM:TAG, such as web:latest"),
        (("is", "web:a"), "'web:a' is a tag; write: imagestreams create imagestreamtag web:a"),
        (("istag", "web:a", "--from=b:1", "--from-image=c"), "--from and --from-image contradict each other"),
        (("istag", "web:a", "--from-image=Quay.io/A b"), "--from-image: "),
        (("istag", "web:a", "--from-image=quay.io:5000/"), "--from-image: "),
        (("istag", "web:a", "--from=UP:1"), "'UP' is no name of an image stream"),
        (("istag", "web:a", "--from=base@latest"), "'base@latest' is no image"),
        (("istag", "web:a", "--from=a/b/web:x"), "'a/b' is no namespace"),
        (("istag", "web:a", "--from=NO/web:x"), "'NO' is no namespace"),
        (("istag", "web:a", "--from=NO/web@4f9a"), "'NO' is no namespace"),
        (("istag", "web:a", "--from=@4f9a"), "'@4f9a' is no"),
        (("istag", "web:a", "--from="), "Invalid value for '--from': it is empty"),
        (("istag", "web:a", "--from-image", ""), "Invalid value for '--from-image': it is empty"),
        (("istag", "web:a", "--annotation=x"), "--annotation 'x' is no annotation; write KEY=VALUE"),
        (("istags", "web"), "'web' has no tag"),
        (("is.apps", "web"), "'is.apps' cannot be created here"),
        (("pod", "web"), "'pod' cannot be created here; write imagestream or imagestreamtag"),
        (("is",), "Missing argument"),
    ],
)
async def test_called_wrongly(world, create, args, message):
    done = await create(*args)
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert "create" not in world.verbs()


async def test_refused(world, create):
    world.server.inject(status(403, "Forbidden", "you may not"), verb="create", times=-1)
    for args in (("is", "web"), ("istag", "web:a")):
        assert await create(*args) == (1, "", "Error from server (Forbidden): you may not\n")
