"""What `a/b` means: KIND/NAME where all is of one namespace, NAMESPACE/NAME where another's stream may be meant."""

from __future__ import annotations

import pytest

from imagestreams.cli.import_plan import parse_target
from imagestreams.cli.lookup_policy import named
from imagestreams.cli.naming import LISTED, Ambiguous, split_namespace, targets
from imagestreams.cli.options import Misuse
from imagestreams.cli.revisions import named_tag
from imagestreams.cli.tag_plan import ID, IMAGE, TAG, Destination, Source, of_stream, parse_destination, parse_source
from imagestreams.cli.workloads import TRIGGERED
from tests.cli.shop import World, alias, command, opened, stream, tag


@pytest.fixture
async def world(tmp_path, monkeypatch):
    async with opened(tmp_path, monkeypatch) as world:
        yield world


# ---- KIND/NAME ----

BY_KIND = [
    *("tag/web:1", "istag/web:1", "is/web:1", "Stream/web:1"),
    *("imagestreamtag.image.openshift.io/web:1", "imagestreamtags.v1.image.openshift.io/web:1"),
]


@pytest.mark.parametrize("text", BY_KIND)
def test_a_kind_before_the_slash_is_understood_where_all_is_of_one_namespace(text):
    assert named_tag(text) == ("web", "1")
    assert parse_target(text, all_tags=False)[:2] == ("web", "1")


@pytest.mark.parametrize("text", ["is/web", "imagestream.image.openshift.io/web", "imagestream.imagestreams.dev/web"])
def test_a_stream_is_named_as_it_is_printed(text):
    assert named(text) == "web"
    assert targets([text], LISTED)[0].name == "web"


@pytest.mark.parametrize(
    ("read", "text", "words"),
    [
        (named_tag, "shop/web:1", "error: 'shop/web:1': 'shop' is none of tags (tag, istag), streams (stream, is)\n"),
        (named_tag, "shop/web:1", "\n  If it is a namespace, write: web:1 -n shop"),
        (named, "shop/web", "\n  If it is a namespace, write: web -n shop"),
        (lambda text: targets([text], LISTED), "shop/web", "\n  If it is a namespace, write: KIND/web -n shop"),
        (named_tag, "images/web:1", "\n  If it is a namespace, write: web:1 -n images"),
        (named_tag, "is/shop/web:1", "seen 'is/shop/web:1'\n  The namespace is named by -n"),
    ],
)
def test_a_namespace_before_the_slash_is_refused_there_with_the_way_out(read, text, words):
    with pytest.raises(Misuse) as caught:
        read(text)
    assert words in f"{caught.value.message}\n"


@pytest.mark.parametrize("text", ["is/web", "sts/db", "workloads/db"])
def test_what_is_another_kind_is_not_taken_for_a_namespace(text):
    with pytest.raises(Misuse) as caught:
        targets([text], LISTED[1:])
    assert "is none of tags" in caught.value.message
    assert "namespace" not in caught.value.message


def test_where_a_name_is_missing_no_namespace_is_meant():
    with pytest.raises(Misuse) as caught:
        targets(["is/"], LISTED)
    assert caught.value.message == "error: arguments of the form KIND/NAME have one kind and one name; seen 'is/'"


@pytest.mark.parametrize(
    ("kinds", "words"),
    [
        (TRIGGERED, ["db", "sts/web"]),
        (TRIGGERED, ["deploy", "deploy/web"]),
        (LISTED, ["is", "is/web"]),
        (LISTED, ["images", "images/web@4f9a"]),
        (LISTED, ["is", "sts/web"]),
        (LISTED, ["foo", "eu/web"]),
    ],
)
def test_a_kind_apart_is_told_from_a_namespace(kinds, words):
    with pytest.raises(Misuse) as caught:
        targets(words, kinds)
    assert caught.value.message == (
        f"error: there is no need to name a kind apart from those before the slashes; write {words[0]!r} as KIND/NAME"
    )


def test_a_kind_and_a_name_of_another_namespace():
    with pytest.raises(Misuse) as caught:
        targets(["is", "web", "eu/db"], LISTED)
    assert caught.value.message == "error: 'eu/db' is no name; for another namespace write: is db -n eu"


def test_many_kinds_are_listed_in_a_line():
    with pytest.raises(Misuse) as caught:
        named("eu/web")
    assert caught.value.message == (
        "error: 'eu/web': 'eu' is none of stream, deployment, statefulset, daemonset, cronjob, replicaset, "
        "replicationcontroller, job, pod\n  If it is a namespace, write: web -n eu"
    )


def test_a_host_that_is_called_like_a_kind_is_no_kind():
    target = parse_target("is.example.com/web:1", all_tags=False, confirm=True)
    assert (target.stream, target.source) == ("web", "is.example.com/web:1")
    for text in ("tags.example.com/web:1", "imagestreamtag.v1.image.openshift.io/web:1"):
        assert parse_source(text) == Source(IMAGE, text)


# ---- [NAMESPACE/]NAME ----


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("web:1", ("", "web:1")),
        ("eu/web:1", ("eu", "web:1")),
        ("images/base:latest", ("images", "base:latest")),
        ("images/base@4f9a", ("images", "base@4f9a")),  # a likely namespace, and `tag` prints it so
        ("image/base@sha256:4f9a", ("image", "base@sha256:4f9a")),
        ("tag/web@sha256:4f9a", ("tag", "web@sha256:4f9a")),
        ("istag/tag/web:1", ("tag", "web:1")),
        ("is/eu/web:1", ("eu", "web:1")),
        ("isimage/images/base@4f9a", ("images", "base@4f9a")),
        ("imagestreamtag.image.openshift.io/web:1", ("", "web:1")),
        ("imagestreamimage.imagestreams.dev/web@4f9a", ("", "web@4f9a")),
        ("IsTag/web:1", ("", "web:1")),
    ],
)
def test_a_namespace_before_the_slash(text, found):
    assert split_namespace(text) == found


AMBIGUOUS = [
    ("tag/web:stable", "web:stable", "istag/tag/web:stable"),
    ("is/web:1", "web:1", "istag/is/web:1"),
    ("isimage/web@sha256:4f9a", "web@sha256:4f9a", "isimage/isimage/web@sha256:4f9a"),
    ("imagestreamimages/web@4f9a", "web@4f9a", "isimage/imagestreamimages/web@4f9a"),
]


@pytest.mark.parametrize(("text", "plain", "sure"), AMBIGUOUS)
def test_a_namespace_that_is_a_kind_as_well_is_refused_with_both_ways_out(text, plain, sure):
    message = (
        f"error: {text!r}: a namespace stands before the slash here, and {text.partition('/')[0]!r} is a kind as well\n"
        f"  If it is the kind, write: {plain}\n"
        f"  If it is a namespace, write: {sure}"
    )
    with pytest.raises(Ambiguous) as caught:
        parse_source(text)
    assert caught.value.message == message
    assert parse_source(plain) == parse_source(sure)._replace(namespace="")
    assert parse_source(sure).namespace == text.partition("/")[0]


@pytest.mark.parametrize(
    ("kind", "text", "found"),
    [
        ("istag", "is/web:1", Source(TAG, "web:1", "is")),
        ("istag", "istag/web:1", Source(TAG, "web:1", "istag")),
        ("istag", "istag/eu/web:1", Source(TAG, "web:1", "eu")),
        ("ImageStreamTags.image.openshift.io", "tag/web:1", Source(TAG, "web:1", "tag")),
        ("imagestreamtag.v1.image.openshift.io", "web:1", Source(TAG, "web:1")),
        ("isimage", "isimage/web@4f9a", Source(ID, "web@4f9a", "isimage")),
        ("istag", "imagestreamtag.image.openshift.io/web:1", Source(TAG, "web:1")),
    ],
)
def test_a_kind_that_is_said_outright_leaves_no_doubt(kind, text, found):
    assert parse_source(text, kind) == found


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("isimage/web@4f9a", "istag", f"--source={TAG} requires a valid <name>:<tag>"),
        ("is/quay.io/acme/web", "", f"--source={TAG} requires a valid <name>:<tag>"),
        ("imagestreamtag.image.openshift.io/web@4f9a", "", f"--source={TAG} requires a valid <name>:<tag>"),
        ("imagestreamimage.image.openshift.io/web:1", "", f"--source={ID} requires a valid <name>@<id>"),
        ("imagestreamimage.image.openshift.io/web", "", f"--source={ID} requires a valid <name>@<id>"),
    ],
)
def test_a_kind_with_what_is_none_of_it(text, kind, words):
    with pytest.raises(Misuse) as caught:
        parse_source(text, kind)
    assert caught.value.message == f"error: {words} in SOURCE, and {text!r} is none"


@pytest.mark.parametrize("text", ["istag/", "istag//"])
def test_a_kind_with_nothing(text):
    with pytest.raises(Misuse, match="is not an image reference"):
        parse_source(text)
    with pytest.raises(Misuse, match="is no name"):
        of_stream(f"{text}:latest", TAG)  # as `create istag --from`


@pytest.mark.parametrize("kind", ["tag.apps", "docker.apps", "istag.image", "image"])
def test_what_no_source_is_called(kind):
    with pytest.raises(Misuse, match="is none of istag"):
        parse_source("web:1", kind)


def test_so_are_tags_that_are_written():
    with pytest.raises(Ambiguous):
        parse_destination("tag/web:stable", "shop")
    assert parse_destination("istag/tag/web:1", "shop") == Destination("tag", "web", "1")


def test_an_image_of_docker_hub_is_meant_where_it_is_said():
    assert parse_source("tag/web:1", "docker") == Source(IMAGE, "tag/web:1")
    assert parse_source("acme/web") == Source(IMAGE, "acme/web")
    assert parse_source("image/web") == Source(IMAGE, "image/web")


@pytest.mark.parametrize("text", ["is/web", "istag/web", "imagestream.image.openshift.io/web"])
def test_a_stream_by_its_kind_is_no_image_of_docker_hub(text):
    with pytest.raises(Ambiguous) as caught:
        parse_source(text)
    kind = text.partition("/")[0]
    assert caught.value.message == (
        f"error: {text!r}: {kind!r} is a kind, and a tag is missing\n"
        "  Write the tag: web:latest\n"
        "  If it is an image of Docker Hub: --source=docker"
    )
    assert parse_source(text, "docker").kind == IMAGE


async def test_what_is_printed_as_a_name_can_be_given_to_tag(world: World, capsys):
    world.server.put(stream(tag("1"), status={}))
    done = await command("get", capsys)("tags", "web", "-o", "name")
    assert done.out == "imagestreamtag.image.openshift.io/web:1\n"
    done = await command("tag", capsys)("--alias", done.out.strip(), "web:2")
    assert (done.code, world.tags["2"]) == (0, alias("2", "web:1"))


@pytest.mark.parametrize(
    "words",
    [
        ("tag", "tag/web:1", "web:2"),
        ("tag", "--alias", "web:1", "is/web:2"),
        ("tag", "-d", "tag/web:1"),
        ("create", "istag", "web:2", "--from=tag/web:1"),
        ("set-triggers", "deploy/web", "--from-image=tag/web:1"),
    ],
)
async def test_what_may_be_a_kind_is_refused_before_anything_is_asked(world: World, capsys, words):
    name, *args = words
    done = await command(name, capsys)(*args)
    assert (done.code, done.out, world.server.requests) == (2, "", [])
    assert "is a kind as well\n" in done.err


async def test_a_namespace_that_is_called_like_a_kind_is_reached(world: World, capsys):
    world.server.put(stream(tag("1"), name="web", namespace="tag"))
    done = await command("tag", capsys)("--alias", "istag/tag/web:1", "mine:1")
    assert done.code == 0, done.err
    source = {"kind": TAG, "name": "web:1", "namespace": "tag"}
    assert world.named("mine")["spec"]["tags"][0]["from"] == source
