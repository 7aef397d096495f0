"""`tag` from the command line to the socket: what it takes for what, what it writes, what it says."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagestreams.cli.naming import is_kind
from imagestreams.cli.options import Failure, Misuse
from imagestreams.cli.tag_plan import (
    Destination,
    Entry,
    Source,
    delete_tag,
    frozen,
    is_whole,
    parse_destination,
    parse_source,
    set_tag,
)
from tests.cli.shop import (
    API,
    DIGEST,
    FORGET,
    OTHER,
    alias,
    command,
    decoded,
    imported,
    item,
    opened,
    stream,
    tag,
)
from tests.fakes.apiserver import disconnect, status

PINS = "imagestreams.dev/pins"
WEB = Destination("shop", "web", "prod")
IMAGE = Source("DockerImage", "quay.io/acme/web:1.0")


@pytest.fixture
async def world(tmp_path, monkeypatch):
    async with opened(tmp_path, monkeypatch) as world:
        yield world


@pytest.fixture
def run(capsys):
    return command("tag", capsys)


# ---- what can be named ----


@pytest.mark.parametrize(
    ("text", "kind", "source"),
    [
        ("quay.io/acme/web:1.0", "", Source("DockerImage", "quay.io/acme/web:1.0")),
        ("localhost:5000/web", "", Source("DockerImage", "localhost:5000/web")),
        ("localhost/web:1", "", Source("DockerImage", "localhost/web:1")),
        (f"quay.io/acme/web@{DIGEST}", "", Source("DockerImage", f"quay.io/acme/web@{DIGEST}")),
        ("nginx", "", Source("DockerImage", "nginx")),
        ("acme/web", "", Source("DockerImage", "acme/web")),
        ("a/b/c:1", "", Source("DockerImage", "a/b/c:1")),
        ("web:1.0", "", Source("ImageStreamTag", "web:1.0")),
        ("my.web:1.0", "", Source("ImageStreamTag", "my.web:1.0")),
        ("base/ubi:9", "", Source("ImageStreamTag", "ubi:9", "base")),
        (f"web@{DIGEST}", "", Source("ImageStreamImage", f"web@{DIGEST}")),
        ("base/web@4f9a", "", Source("ImageStreamImage", "web@4f9a", "base")),
        ("nginx:1.25", "docker", Source("DockerImage", "nginx:1.25")),
        ("web:1.0", "istag", Source("ImageStreamTag", "web:1.0")),
        ("web:1.0", "ImageStreamTag", Source("ImageStreamTag", "web:1.0")),
        ("web:1.0", "imagestreamtags.image.openshift.io", Source("ImageStreamTag", "web:1.0")),
        ("web@sha256:abcd", "isimage", Source("ImageStreamImage", "web@sha256:abcd")),
        ("web@sha256-abcd", "imagestreamimage", Source("ImageStreamImage", "web@sha256:abcd")),
    ],
)
def test_sources(text, kind, source):
    assert parse_source(text, kind) == source


_NAMES = st.from_regex(r"[a-z0-9](?:[a-z0-9.-]{0,20}[a-z0-9])?", fullmatch=True)
_TAGS = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True)
_NAMESPACES = st.from_regex(r"[a-z0-9](?:[a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True).filter(
    lambda owner: not is_kind(owner, "web:1")
)


@given(_NAMES, _TAGS, st.just("") | _NAMESPACES)
def test_what_is_printed_is_read_again(name, tagged, owner):
    source = Source("ImageStreamTag", f"{name}:{tagged}", owner)
    assert parse_source(str(source), "istag") == source
    place = Destination(owner or "shop", name, tagged)
    assert parse_destination(str(source), "shop") == place
    assert parse_destination(f"{place.namespace}/{place.text}", "x") == place


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("web", "istag", "--source=ImageStreamTag requires a valid <name>:<tag> in SOURCE, and 'web' is none"),
        ("quay.io/acme/web:1", "istag", "--source=ImageStreamTag requires a valid <name>:<tag> in SOURCE"),
        ("Base/web:1", "", "--source=ImageStreamTag requires a valid <name>:<tag> in SOURCE"),
        ("/web:1", "", "--source=ImageStreamTag requires a valid <name>:<tag> in SOURCE"),
        ("web:", "", "--source=ImageStreamTag requires a valid <name>:<tag> in SOURCE"),
        ("web:1", "isimage", "--source=ImageStreamImage requires a valid <name>@<id> in SOURCE"),
        ("web@4f9", "", "--source=ImageStreamImage requires a valid <name>@<id> in SOURCE"),
        ("a/b@c@4f9a", "isimage", "--source=ImageStreamImage requires a valid <name>@<id> in SOURCE"),
        ("web@latest", "", "--source=ImageStreamImage requires a valid <name>@<id> in SOURCE"),
        ("Web", "", '"Web" is not an image reference: repository names must be lowercase'),
        ("quay.io", "docker", "'quay.io' names a registry, not an image; add a repository"),
        ("web:1", "image", "--source=image is none of istag (imagestreamtag), isimage (imagestreamimage) and docker"),
    ],
)
def test_sources_that_are_refused(text, kind, words):
    with pytest.raises(Misuse) as caught:
        parse_source(text, kind)
    assert words in caught.value.message


@pytest.mark.parametrize(
    ("text", "place"),
    [("web:1", Destination("shop", "web", "1")), ("eu/my.web:V_1", Destination("eu", "my.web", "V_1"))],
)
def test_destinations(text, place):
    assert parse_destination(text, "shop") == place


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("web", '"web" must be of the form <stream_name>:<tag>'),
        ("web:", '"web:" must be of the form <stream_name>:<tag>'),
        (":1", '":1" must be of the form <stream_name>:<tag>'),
        ("Web:1", "'Web' is no name of an image stream"),
        ("quay.io/web:1", "'quay.io' is no namespace"),
        ("a/b/web:1", "'a/b' is no namespace"),
        ("/web:1", "'' is no namespace"),
        ("web:1:2", "'1:2' is no tag"),
        (f"web@{DIGEST}", "'web@sha256' is no name of an image stream"),
    ],
)
def test_destinations_that_are_refused(text, words):
    with pytest.raises(Misuse) as caught:
        parse_destination(text, "shop")
    assert words in caught.value.message


# ---- what a tag is frozen to ----


@pytest.mark.parametrize(
    ("items", "source", "wanted"),
    [
        ([item(OTHER), item()], Source("ImageStreamTag", "web:a"), Source("ImageStreamImage", f"web@{OTHER}")),
        ([item()], Source("ImageStreamTag", "web:a", "eu"), Source("ImageStreamImage", f"web@{DIGEST}", "eu")),
        (
            [{"dockerImageReference": "quay.io/acme/web:1", "image": ""}],
            Source("ImageStreamTag", "web:a", "eu"),
            Source("DockerImage", "quay.io/acme/web:1"),
        ),
        ([item(OTHER), item()], Source("ImageStreamImage", "web@aaa"), Source("ImageStreamImage", f"web@{DIGEST}")),
        ([item(OTHER)], Source("ImageStreamImage", "web@sha256:b"), Source("ImageStreamImage", f"web@{OTHER}")),
    ],
)
def test_frozen(items, source, wanted):
    value = {**stream(), "status": {"tags": [imported("a", *items), imported("z", *items[-1:])]}}
    assert frozen(source, decoded(value)) == wanted


@pytest.mark.parametrize(
    ("tags", "source", "words"),
    [
        ([], Source("ImageStreamTag", "web:a"), '"web:a" is not currently pointing to an image, cannot use it as the '),
        ([imported("b")], Source("ImageStreamTag", "web:a"), "source of a tag; these tags are: b"),
        (
            [{"tag": "a", "items": [{"dockerImageReference": "Web!", "image": ""}]}],
            Source("ImageStreamTag", "web:a"),
            'the image stream tag "web:a" has an invalid pull spec and cannot be used to tag',
        ),
        ([imported("b")], Source("ImageStreamImage", "web@ffff"), "web@ffff is not in the history of web"),
        (
            [imported("b", item("sha256:aa" + "0" * 62), item("sha256:aa" + "1" * 62))],
            Source("ImageStreamImage", "web@aa"),
            "; write more of it",
        ),
    ],
)
def test_what_cannot_be_frozen(tags, source, words):
    with pytest.raises(Failure) as caught:
        frozen(source, decoded({**stream(), "status": {"tags": tags}}))
    assert words in caught.value.message


def test_a_whole_digest():
    assert is_whole(Source("ImageStreamImage", f"web@{DIGEST}"))
    assert not is_whole(Source("ImageStreamImage", "web@sha256:aaaa"))
    assert not is_whole(Source("ImageStreamTag", "web:a"))


# ---- what becomes of the entry ----


@pytest.mark.parametrize(
    ("old", "source", "entry", "wanted"),
    [
        pytest.param(None, IMAGE, Entry(), tag("prod", IMAGE.name), id="a new tag"),
        pytest.param(
            None,
            IMAGE,
            Entry(True, True, True, "Local", "Legacy"),
            tag(
                "prod",
                IMAGE.name,
                reference=True,
                importPolicy={"insecure": True, "scheduled": True, "importMode": "Legacy"},
                referencePolicy={"type": "Local"},
            ),
            id="all flags",
        ),
        pytest.param(
            tag(
                "prod",
                "old",
                reference=True,
                importPolicy={"insecure": True, "scheduled": False, "importMode": "Legacy", "other": 1},
                referencePolicy={"type": "Local"},
                annotations={"k": "v"},
                unknown=1,
            ),
            IMAGE,
            Entry(),
            tag(
                "prod",
                IMAGE.name,
                importPolicy={"importMode": "Legacy", "other": 1},
                referencePolicy={"type": "Local"},
                annotations={"k": "v"},
                unknown=1,
            ),
            id="what is not about the source stays",
        ),
        pytest.param(
            tag("prod", None),
            Source("ImageStreamTag", "web:stable"),
            Entry(import_mode="PreserveOriginal"),
            alias("prod", "web:stable", importPolicy={"importMode": "PreserveOriginal"}),
            id="a tag that only pushes moved",
        ),
        pytest.param(
            None,
            Source("ImageStreamTag", "web:stable", "shop"),
            Entry(),
            alias("prod", "web:stable"),
            id="its own namespace needs no name",
        ),
        pytest.param(
            None,
            Source("ImageStreamImage", f"ubi@{DIGEST}", "base"),
            Entry(),
            {
                "name": "prod",
                "from": {"kind": "ImageStreamImage", "name": f"ubi@{DIGEST}", "namespace": "base"},
            },
            id="another namespace's",
        ),
    ],
)
def test_entries(old, source, entry, wanted):
    value = stream(tag("a"), *([old] if old else []), tag("z"))
    set_tag(value, WEB, source, entry, "shop")
    names = ["a", "prod", "z"] if old else ["a", "z", "prod"]
    assert [found["name"] for found in value["spec"]["tags"]] == names
    assert next(found for found in value["spec"]["tags"] if found["name"] == "prod") == wanted


@pytest.mark.parametrize(
    ("old", "said"),
    [
        (None, ()),
        (tag("prod", None), ()),
        (tag("prod", IMAGE.name), ()),
        (tag("prod", "quay.io/old"), ("its source was quay.io/old",)),
        (alias("prod", "stable"), ("its source was ImageStreamTag stable",)),
        (
            {"name": "prod", "from": {"kind": "ImageStreamTag", "name": "ubi:9", "namespace": "base"}},
            ("its source was ImageStreamTag base/ubi:9",),
        ),
    ],
)
def test_the_source_that_is_lost_is_told(old, said):
    assert set_tag(stream(*([old] if old else [])), WEB, IMAGE, Entry(), "shop") == said


def test_a_source_without_a_namespace_is_of_the_present_one():
    value = stream()
    set_tag(value, Destination("eu", "web", "prod"), Source("ImageStreamTag", "web:a"), Entry(), "shop")
    assert value["spec"]["tags"][0]["from"]["namespace"] == "shop"


@pytest.mark.parametrize("value", [{"metadata": {}}, {"metadata": {}, "spec": None}, stream()])
def test_a_stream_without_tags(value):
    set_tag(value, WEB, IMAGE, Entry(), "shop")
    assert value["spec"]["tags"] == [tag("prod", IMAGE.name)]


@pytest.mark.parametrize(
    ("others", "source", "way"),
    [
        ([], "web:prod", "web:prod -> web:prod"),
        ([alias("a", "b"), alias("b", "web:prod")], "web:a", "web:prod -> web:a -> web:b -> web:prod"),
    ],
)
def test_a_tag_that_would_follow_itself(others, source, way):
    with pytest.raises(Failure) as caught:
        set_tag(stream(*others), WEB, Source("ImageStreamTag", source), Entry(), "shop")
    assert caught.value.message == f"error: web:prod would follow itself ({way}); nothing is changed"


def test_the_same_name_elsewhere_is_no_circle():
    for source in (Source("ImageStreamTag", "web:prod", "eu"), Source("ImageStreamTag", "db:prod")):
        set_tag(stream(), WEB, source, Entry(), "shop")


# ---- what is deleted ----


def test_a_tag_goes_with_its_history_and_pin():
    pins = {"prod": {"digest": DIGEST}, "a": {"digest": OTHER, "reason": "<ä>"}}
    value = {
        **stream(tag("a"), tag("prod"), annotations={"k": "v", PINS: json.dumps(pins), FORGET: "old gone"}),
        "status": {"tags": [imported("prod")]},
    }
    assert delete_tag(value, decoded(value), WEB, "mark") == (
        "its history goes as soon as the controller has seen this",
    )
    assert value["spec"]["tags"] == [tag("a")]
    annotations = value["metadata"]["annotations"]
    assert annotations[FORGET] == "mark gone prod", "a request that is not carried out yet is taken in"
    assert json.loads(annotations[PINS]) == {"a": pins["a"]}
    assert annotations["k"] == "v"


@pytest.mark.parametrize("pins", ["{", "[]", "[" * 100_000, '{"a": 1}', '{"prod": null}'])
def test_only_its_own_pin_goes(pins):
    value = stream(tag("prod"), annotations={PINS: pins})
    delete_tag(value, decoded(value), WEB, "mark")
    assert value["metadata"]["annotations"] == ({} if "prod" in pins else {PINS: pins})


def test_without_history_nothing_is_to_be_forgotten():
    value = stream(tag("prod"), annotations={"k": "v"})
    assert delete_tag(value, decoded(value), WEB, "mark") == ()
    assert value["metadata"]["annotations"] == {"k": "v"}


def test_history_alone_can_be_deleted():
    value = {**stream(tag("a")), "status": {"tags": [imported("prod")]}}
    delete_tag(value, decoded(value), WEB, "mark")
    assert value["metadata"]["annotations"] == {FORGET: "mark prod"}
    assert value["spec"]["tags"] == [tag("a")]


def test_a_request_that_was_carried_out_is_history():
    value = {
        **stream(tag("prod"), annotations={FORGET: "old gone"}),
        "status": {"tags": [imported("prod")], "handled": {"forget": "old gone"}},
    }
    delete_tag(value, decoded(value), WEB, "mark")
    assert value["metadata"]["annotations"] == {FORGET: "mark prod"}


def test_followers_are_named():
    value = stream(tag("prod"), alias("a", "prod"), alias("b", "web:prod"), alias("c", "db:prod"))
    assert delete_tag(value, decoded(value), WEB, "mark") == (
        "web:a follows it, and stays what it was",
        "web:b follows it, and stays what it was",
    )


def test_a_tag_of_the_repository_would_come_back():
    recorded = {**imported("prod"), "observed": {"from": {"kind": "DockerImage", "name": "quay.io/acme/web:prod"}}}
    value = {**stream(spec={"dockerImageRepository": "quay.io/acme/web"}), "status": {"tags": [recorded]}}
    with pytest.raises(Failure, match=r"comes from the repository quay.io/acme/web .* and would come back"):
        delete_tag(value, decoded(value), WEB, "mark")


def test_a_tag_that_is_not_there():
    value = stream(tag("a"))
    with pytest.raises(Failure, match="destination tag shop/web:prod does not exist"):
        delete_tag(value, decoded(value), WEB, "mark")


# ---- the command ----


async def test_an_image_gets_a_tag(world, run):
    world.server.put(stream(tag("a")))
    assert await run("quay.io/acme/web:1.0", "web:prod") == (
        0,
        "Tag web:prod set to quay.io/acme/web:1.0.\n",
        "web:prod: the controller gets the image now; see: imagestreams describe tag web:prod\n",
    )
    assert world.tags == {"a": tag("a"), "prod": tag("prod", "quay.io/acme/web:1.0")}
    assert world.verbs() == ["get", "patch"]


async def test_a_stream_is_made_where_there_is_none(world, run):
    assert (await run("quay.io/acme/web:1.0", "web:prod", "--scheduled")).out == (
        "Tag web:prod set to import quay.io/acme/web:1.0 periodically.\n"
    )
    assert world.stream["spec"] == {"tags": [tag("prod", "quay.io/acme/web:1.0", importPolicy={"scheduled": True})]}
    assert world.verbs() == ["get", "create"]


async def test_a_tag_is_frozen_at_the_image_that_it_has(world, run):
    world.server.put({**stream(tag("stable")), "status": {"tags": [imported("stable", item(OTHER), item())]}})
    result = await run("web:stable", "web:prod", "eu/web:prod")
    assert result.out == f"Tag web:prod set to web@{OTHER}.\nTag eu/web:prod set to web@{OTHER}.\n"
    assert world.tags["prod"] == tag("prod", f"web@{OTHER}", "ImageStreamImage")
    [other] = world.named("web", "eu")["spec"]["tags"]
    assert other["from"] == {"kind": "ImageStreamImage", "name": f"web@{OTHER}", "namespace": "shop"}
    assert result.err.splitlines()[1:] == [
        "eu/web:prod: it gets the image if the service accounts of eu may pull from shop",
        "eu/web:prod: the controller gets the image now; see: imagestreams describe tag web:prod -n eu",
    ]


@pytest.mark.parametrize(
    ("source", "place"),
    [("web:stable", "web:stable"), ("shop/web:stable", "web:stable"), ("web:stable", "shop/web:stable")],
)
@pytest.mark.parametrize("more", [(), ("web:prod",)])
async def test_a_tag_that_is_given_itself_keeps_its_source(world, run, source, place, more):
    before = world.server.put({**stream(tag("stable")), "status": {"tags": [imported("stable")]}})
    done = await run(source, *more, place)
    assert (done.code, done.out, world.stream) == (2, "", before)
    assert done.err.startswith("error: web:stable would be its own source, and lose the one that it has; nothing is ch")


async def test_the_same_tag_of_another_stream_is_another(world, run):
    world.server.put({**stream(tag("stable")), "status": {"tags": [imported("stable")]}})
    assert (await run("web:stable", "eu/web:stable", "db:stable")).code == 0


async def test_a_lost_source_is_told_also_in_a_dry_run(world, run):
    world.server.put(stream(tag("prod", "quay.io/old")))
    done = await run(IMAGE.name, "web:prod", "--dry-run=client")
    assert (done.code, done.err) == (0, "web:prod: its source was quay.io/old\n")


async def test_a_reference_is_not_waited_for(world, run):
    done = await run("--reference", IMAGE.name, "web:prod")
    assert (done.code, done.err) == (0, "web:prod: it is recorded as it is written, and no registry is asked for it\n")


@pytest.mark.parametrize("args", [("-d", "web:stable"), (IMAGE.name, "web:stable")])
async def test_an_answer_that_is_lost_is_no_failure(world, run, args):
    world.server.put(stream(tag("stable")))
    world.server.inject(disconnect(after=True), verb="patch")
    done = await run(*args)
    assert (done.code, "error" in done.err) == (0, False)


async def test_an_empty_kind_is_not_guessed(world, run):
    done = await run("--source=", "web:1", "web:2")
    assert (done.code, world.server.requests) == (2, [])
    assert "it is empty" in done.err


async def test_an_alias(world, run):
    world.server.put(stream(tag("stable")))
    assert (await run("--alias", "web:stable", "web:prod")).out == "Tag web:prod set up to track web:stable.\n"
    assert world.tags["prod"] == alias("prod", "web:stable")
    assert world.verbs() == ["get", "patch"], "what it has now is not asked for"


async def test_the_begin_of_a_digest_is_made_whole(world, run):
    world.server.put({**stream(tag("stable")), "status": {"tags": [imported("stable", item(OTHER), item())]}})
    assert (await run("web@aaaa", "web:prod")).out == f"Tag web:prod set to web@{DIGEST}.\n"


async def test_what_is_so_already_is_not_written(world, run):
    world.server.put(stream(tag("prod", IMAGE.name)))
    assert await run(IMAGE.name, "web:prod") == (0, f"Tag web:prod set to {IMAGE.name}.\n", "")
    assert world.verbs() == ["get"]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (
            stream(tag("prod", "x", importPolicy={"scheduled": True})),
            "it is not looked up on schedule any more; --scheduled keeps that",
        ),
        (stream(annotations={"imagestreams.dev/suspend": "true"}), "imports are suspended"),
        (
            {
                **stream(tag("prod", "x")),
                "status": {"tags": [{"tag": "prod", "conditions": [{"type": "Pinned", "status": "True"}]}]},
            },
            "it is held where it is; to let it go: imagestreams resume web:prod",
        ),
    ],
)
async def test_what_the_user_should_know(world, run, value, words):
    world.server.put(value)
    result = await run(IMAGE.name, "web:prod")
    assert result.code == 0
    assert f"web:prod: {words}" in result.err


async def test_tags_are_deleted(world, run):
    world.server.put({**stream(tag("old"), tag("older"), tag("a")), "status": {"tags": [imported("old")]}})
    assert await run("-d", "web:old", "web:none", "web:older") == (
        1,
        "Deleted tag shop/web:old.\nDeleted tag shop/web:older.\n",
        (
            "web:old: its history goes as soon as the controller has seen this\n"
            "error: destination tag shop/web:none does not exist\n"
        ),
    )
    assert list(world.tags) == ["a"]
    assert world.annotation(FORGET).split()[1:] == ["old"]
    patches = world.bodies("patch")
    assert set(patches[0]) == {"metadata", "spec"}, "both in one write"


async def test_what_was_deleted_meanwhile_is_not_there(world, run):
    world.server.put(stream(tag("old"), tag("a")))
    world.when("patch", lambda: world.server.put(stream(tag("a"))))
    result = await run("-d", "web:old")
    assert (result.code, result.err) == (1, "error: destination tag shop/web:old does not exist\n")


async def test_another_namespaces_tag_is_deleted(world, run):
    world.server.put(stream(tag("old"), namespace="eu"))
    assert (await run("-d", "eu/web:old")).out == "Deleted tag eu/web:old.\n"


async def test_one_refusal_does_not_stop_the_others(world, run):
    world.server.put(stream())
    world.server.inject(status(403, "Forbidden", "no"), verb="patch")
    result = await run(IMAGE.name, "web:a", "web:b")
    assert (result.code, result.out) == (1, f"Tag web:b set to {IMAGE.name}.\n")
    assert result.err.startswith("Error from server (Forbidden): no\n")


@pytest.mark.parametrize(("mode", "words"), [("client", " (dry run)"), ("server", " (server dry run)")])
@pytest.mark.parametrize(
    ("args", "out"),
    [((IMAGE.name, "web:b"), f"Tag web:b set to {IMAGE.name}."), (("-d", "web:a"), "Deleted tag shop/web:a.")],
)
async def test_a_dry_run(world, run, mode, words, args, out):  # noqa: PLR0917
    before = world.server.put(stream(tag("a")))
    assert await run(*args, f"--dry-run={mode}") == (0, f"{out}{words}\n", "")
    assert world.stream == before


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((), "you must specify a source and at least one destination, or -d and one or more tags"),
        (("web:1",), "you must specify a source and at least one destination"),
        (("-d",), "-d and one or more tags"),
        (("-d", "web:1", "--scheduled", "--import-mode=legacy"), "has no use for --scheduled, --import-mode"),
        (("quay.io/x", "web"), '"web" must be of the form <stream_name>:<tag>'),
        (("--alias", "quay.io/x", "web:1"), "--alias follows a tag of a stream, and quay.io/x is none"),
        (("--scheduled", "web:1", "web:2"), "only an image in a registry is looked up on schedule"),
        (("--reference-policy=x", "quay.io/x", "web:2"), "'x' is neither source nor local"),
    ],
)
async def test_called_wrongly(world, run, args, words):
    result = await run(*args)
    assert (result.code, result.out) == (2, "")
    assert words in result.err
    assert world.server.requests == []


async def test_a_stream_that_is_not_there(world, run):
    gone = 'Error from server (NotFound): imagestreams.image.openshift.io "web" not found\n'
    assert await run("web:1", "web:2") == (1, "", gone)
    assert await run("-d", "web:1") == (1, "", gone)
    assert world.server.all(API, "imagestreams") == []
