"""`get`: what is listed, as tables and as objects."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from imagestreams.cli.listing import decoded as read
from imagestreams.cli.listing import images_of, state_of, tags_of
from imagestreams.cli.naming import IMAGE, LISTED, STREAM, TAG, Target, kind_of, split_image, split_tag, targets
from imagestreams.cli.options import Misuse
from imagestreams.cli.workloads import WORKLOAD
from tests.cli.shapes import shape
from tests.cli.shop import DIGEST, NOW, OTHER, World, alias, command, failed, imported, item, opened, stream, tag
from tests.fakes.apiserver import status

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SHORT, SHORT_OTHER = f"sha256:{'a' * 12}", f"sha256:{'b' * 12}"


@pytest.fixture
async def world(tmp_path, monkeypatch) -> AsyncIterator[World]:
    async with opened(tmp_path, monkeypatch) as world:
        world.server.put(web())
        world.server.put(stream(tag("2024"), name="tools", labels={"team": "tools"}, uid="u-2"))
        world.server.put(stream(tag("latest"), name="base", namespace="images", uid="u-3"))
        yield world


def web() -> dict[str, Any]:
    value = stream(
        tag("stable", importPolicy={"scheduled": True}, annotations={"who": "me"}),
        alias("prod", "stable"),
        tag("edge"),
        tag("new"),
        labels={"team": "shop"},
        creationTimestamp=(NOW - timedelta(hours=30)).strftime("%Y-%m-%dT%H:%M:%SZ"),
    )
    value["status"] = {
        "observedGeneration": 1,
        "summary": {"tags": "stable", "updated": item(age=timedelta(hours=20))["created"], "scheduled": "1 of 4"},
        "conditions": [{"type": "Ready", "status": "False", "reason": "ImportFailed", "message": "edge"}],
        "tags": [
            imported("stable", item(OTHER, timedelta(hours=20)), item(DIGEST, timedelta(days=3))),
            imported("prod", item(OTHER, timedelta(hours=20))),
            failed("edge", "NotFound", "no such tag"),
            {"tag": "pushed", "items": [item(DIGEST, timedelta(days=1))]},
        ],
    }
    return value


@pytest.fixture
def get(capsys):
    return command("get", capsys)


# ---- what is named ----


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (("streams", "stream", "is", "imagestreams", "imagestream", "IS", "is.v1.image.openshift.io"), STREAM),
        (("tags", "tag", "istag", "imagestreamtags", "ImageStreamTag"), TAG),
        (("images", "image", "isimage", "imagestreamimage"), IMAGE),
        (("deployments", "deploy", "deployment.apps", "deployments.v1.apps", "workload"), WORKLOAD),
        (("pods", "", "i", "is.v2.image.openshift.io", "deployment.image.openshift.io"), None),
    ],
)
def test_kinds(words, kind):
    for word in words:
        assert kind_of(word, (*LISTED, WORKLOAD)) is kind


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (("is",), (Target(STREAM, ""),)),
        (("tags", "a:1", "b"), (Target(TAG, "a:1"), Target(TAG, "b"))),
        (("is/a", "istag/b:1"), (Target(STREAM, "a"), Target(TAG, "b:1"))),
    ],
)
def test_targets(words, found):
    assert targets(words, LISTED) == found


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("pods",), "'pods' is none of streams (stream, is), tags (tag, istag), images (image, isimage)"),
        (("deploy/web",), "'deploy' is none of streams"),
        (("is/a", "b"), "write 'b' as KIND/NAME"),
        (("is/",), "have one kind and one name; seen 'is/'"),
        (("is/a/b",), "have one kind and one name; seen 'is/a/b'"),
    ],
)
def test_targets_that_are_none(words, message):
    with pytest.raises(Misuse) as caught:
        targets(words, LISTED)
    assert message in caught.value.message


def test_names_of_tags_and_images():
    assert split_tag("web:1.0") == ("web", "1.0")
    assert split_tag("web") == ("web", "")
    assert split_image("web@sha256:4f9a") == ("web", "sha256:4f9a")
    assert split_image("4f9a") == ("", "4f9a")
    assert split_image("sha256-4f9a") == ("", "sha256:4f9a")
    for text in ("Web", "", "web:", "web:a b", "a/b"):
        with pytest.raises(Misuse):
            split_tag(text)
    for text in ("web", "web@", "web@4f9", "Web@4f9a", "web@sha256:xyz1"):
        with pytest.raises(Misuse):
            split_image(text)


# ---- tables ----


async def test_streams(world, get):
    done = await get("streams")
    assert (done.code, done.err) == (0, "")
    assert done.out == (
        "NAME    TAGS                          UPDATED   READY\n"
        "tools   2024                          <none>    Unknown\n"
        "web     stable,prod,edge,new,pushed   20h       False\n"
    )


async def test_streams_wide_everywhere(world, get):
    done = await get("is", "-A", "-o", "wide")
    lines = [line.split() for line in done.out.splitlines()]
    assert lines[0] == ["NAMESPACE", "NAME", "TAGS", "UPDATED", "READY", "REASON", "SCHEDULED", "REPOSITORY", "AGE"]
    assert lines[1] == ["images", "base", "latest", "<none>", "Unknown", "<none>", "<none>", "<none>", lines[1][-1]]
    assert lines[3][:6] == ["shop", "web", "stable,prod,edge,new,pushed", "20h", "False", "ImportFailed"]
    assert lines[3][-1] == "30h"


async def test_tags(world, get):
    done = await get("tags", "web")
    assert [line.split() for line in done.out.splitlines()] == [
        ["NAME", "IMAGE", "UPDATED", "STATE"],
        ["web:stable", f"quay.io/acme/web@{SHORT_OTHER}", "20h", "Imported"],
        ["web:prod", f"quay.io/acme/web@{SHORT_OTHER}", "20h", "Imported"],
        ["web:edge", "<none>", "<none>", "NotFound"],
        ["web:new", "<none>", "<none>", "Pending"],
        ["web:pushed", f"quay.io/acme/web@{SHORT}", "24h", "Recorded"],
    ]


async def test_tags_wide(world, get):
    done = await get("tags", "web:stable", "web:prod", "-o", "wide", "--no-headers")
    assert [line.split() for line in done.out.splitlines()] == [
        ["web:stable", f"quay.io/acme/web@{OTHER}", "20h", "Imported", "quay.io/acme/web", "true", "2"],
        ["web:prod", f"quay.io/acme/web@{OTHER}", "20h", "Imported", "stable", "false", "1"],
    ]


async def test_images(world, get):
    done = await get("images")
    assert [line.split() for line in done.out.splitlines()] == [
        ["NAME", "TAGS", "EARLIER", "AGE"],
        [f"web@{SHORT_OTHER}", "stable,prod", "<none>", "20h"],
        [f"web@{SHORT}", "pushed", "stable", "3d"],
    ]
    assert (await get("images", "web:prod", "-o", "name")).out == f"imagestreamimage.image.openshift.io/web@{OTHER}\n"
    for name in (f"web@{OTHER}", "web@bbbb", "bbbbb", OTHER, OTHER.replace(":", "-")):
        assert (await get("image", name, "-o", "jsonpath={.image.metadata.name}")).out == OTHER


async def test_a_stream_may_look_like_a_digest(world, get):
    world.server.put({**web(), "metadata": {**web()["metadata"], "name": "cafe"}})
    assert len((await get("images", "cafe", "-o", "name")).out.splitlines()) == 2
    done = await get("images", "deed")
    assert done.err == 'Error from server (NotFound): imagestreamimages.image.openshift.io "deed" not found\n'


async def test_two_kinds_are_two_tables(world, get):
    done = await get("is/tools", "istag/web:stable")
    assert done.out.count("NAME") == 2
    assert "\n\nNAME" in done.out


async def test_labels(world, get):
    assert (await get("streams", "-l", "team=tools", "-o", "name")).out == "imagestream.image.openshift.io/tools\n"
    assert (await get("tags", "-l", "team!=shop", "-o", "name")).out == "imagestreamtag.image.openshift.io/tools:2024\n"


async def test_images_of_a_tag_that_there_is_not(world, get):
    done = await get("images", "web:nope", "web:prod", "-o", "name")
    assert (done.code, done.out) == (1, f"imagestreamimage.image.openshift.io/web@{OTHER}\n")
    assert done.err == 'Error from server (NotFound): imagestreamtags.image.openshift.io "web:nope" not found\n'


async def test_images_of_a_tag_that_has_none(world, get):
    assert await get("images", "web:edge") == (0, "", "No resources found in shop namespace.\n")


async def test_one_of_several_that_may_not_be_seen(world, get):
    words = "not\x1b[2J yours"
    world.server.inject(
        status(403, "Forbidden", words), verb="get", resource="imagestreams", when=lambda seen: seen.name == "web"
    )
    done = await get("streams", "web", "tools", "-o", "name")
    assert done == (1, "imagestream.image.openshift.io/tools\n", "Error from server (Forbidden): not [2J yours\n")


# ---- objects ----


ISTAG = {
    "apiVersion": {"string"},
    "kind": {"string"},
    "metadata.name": {"string"},
    "metadata.namespace": {"string"},
    "metadata.uid": {"string"},
    "metadata.resourceVersion": {"string"},
    "metadata.creationTimestamp": {"string"},
    "metadata.labels.*": {"string"},
    "metadata.annotations.*": {"string"},
    "tag.name": {"string"},
    "tag.from.kind": {"string"},
    "tag.from.name": {"string"},
    "tag.importPolicy.scheduled": {"boolean"},
    "tag.annotations.*": {"string"},
    "generation": {"integer"},
    "lookupPolicy.local": {"boolean"},
    "conditions[].type": {"string"},
    "conditions[].status": {"string"},
    "image.metadata.name": {"string"},
    "image.dockerImageReference": {"string"},
}
MAPS = ("metadata.labels", "metadata.annotations", "tag.annotations")


async def test_a_tag_is_an_image_stream_tag(world, get):
    found = json.loads((await get("tag", "web:stable", "-o", "json")).out)
    assert shape(found, maps=MAPS) == ISTAG
    assert (found["kind"], found["metadata"]["name"], found["image"]["metadata"]["name"]) == (
        *("ImageStreamTag", "web:stable"),
        OTHER,
    )
    assert found["metadata"]["annotations"] == {"who": "me"}
    assert found["metadata"]["creationTimestamp"] == item(OTHER, timedelta(hours=20))["created"]


async def test_a_tag_without_an_image_and_one_without_spec(world, get):
    new = json.loads((await get("tag", "web:new", "-o", "json")).out)
    assert (new["image"], new["conditions"], new["generation"]) == ({"metadata": {}}, [], 0)
    pushed = yaml.safe_load((await get("tag", "web:pushed", "-o", "yaml")).out)
    assert pushed["tag"] is None


async def test_an_image_is_an_image_stream_image(world, get):
    found = json.loads((await get("image", f"web@{DIGEST}", "-o", "json")).out)
    assert shape(found, maps=("metadata.labels",)) == {
        "apiVersion": {"string"},
        "kind": {"string"},
        "metadata.name": {"string"},
        "metadata.namespace": {"string"},
        "metadata.uid": {"string"},
        "metadata.resourceVersion": {"string"},
        "metadata.creationTimestamp": {"string"},
        "metadata.labels.*": {"string"},
        "image.metadata.name": {"string"},
        "image.dockerImageReference": {"string"},
    }
    assert found["metadata"]["name"] == f"web@{DIGEST}"


async def test_a_stream_is_the_servers(world, get):
    found = json.loads((await get("stream", "web", "-o", "json")).out)
    assert found == {**world.stream, "metadata": found["metadata"]}


async def test_one_is_an_object_and_many_are_a_list(world, get):
    assert json.loads((await get("tags", "tools", "-o", "json")).out)["kind"] == "ImageStreamTag"
    for words in (("tags", "web"), ("tags",), ("streams", "-l", "team=tools"), ("tags", "web:prod", "web:new")):
        found = json.loads((await get(*words, "-o", "json")).out)
        assert (found["kind"], found["apiVersion"]) == ("List", "v1")
    assert json.loads((await get("streams", "-l", "x", "-o", "json")).out)["items"] == []


# ---- what is not there, and what may not be seen ----


async def test_nothing(world, get):
    assert await get("streams", "-l", "none") == (0, "", "No resources found in shop namespace.\n")
    assert await get("streams", "-A", "-l", "none") == (0, "", "No resources found.\n")


async def test_some_are_not_there(world, get):
    done = await get("tags", "gone:1", "web:gone", "web:prod", "-o", "name")
    assert done == (
        1,
        "imagestreamtag.image.openshift.io/web:prod\n",
        (
            'Error from server (NotFound): imagestreams.image.openshift.io "gone" not found\n'
            'Error from server (NotFound): imagestreamtags.image.openshift.io "web:gone" not found\n'
        ),
    )
    only = await get("stream", "gone", "-o", "json")
    assert (only.code, only.out) == (1, "")


async def test_forbidden(world, get):
    world.server.inject(status(403, "Forbidden", "you may not"), verb="list")
    assert await get("streams") == (1, "", "Error from server (Forbidden): you may not\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "say what to get: streams, tags or images"),
        (("streams", "web", "-A"), "a name cannot be looked for in all namespaces"),
        (("streams", "web", "-l", "a"), "a name and a selector (-l) cannot be given together"),
        (("streams", "web:1"), "'web:1' is a tag; write: get tags web:1"),
        (("tags", "a/b:c"), "'a/b:c' is no name; for another namespace write: tags b:c -n a"),
    ],
)
async def test_called_wrongly(world, get, words, message):
    done = await get(*words)
    assert (done.code, done.out) == (2, "")
    assert message in done.err


async def test_words_of_strangers_steer_no_terminal(world, get):
    value = web()
    value["status"]["tags"][0]["items"][0]["dockerImageReference"] = "quay.io/\x1b[2J\u202e"
    value["status"]["tags"][2]["conditions"][0]["reason"] = "Bad\r\n\x07"
    world.server.put(value)
    for words in (
        ("tags", "web"),
        ("tags", "web", "-o", "wide"),
        ("images", "-o", "wide"),
        ("tags", "web", "-o", "json"),
    ):
        done = await get(*words)
        assert all(character == "\n" or character.isprintable() for character in done.out)


# ---- states ----


@pytest.mark.parametrize(
    ("spec", "recorded", "annotations", "state"),
    [
        (tag("a"), imported("a"), {}, "Imported"),
        (tag("a"), None, {}, "Pending"),
        (tag("a"), None, {"imagestreams.dev/suspend": "true"}, "Suspended"),
        (tag("a"), imported("a"), {"imagestreams.dev/suspend": "true"}, "Imported"),
        (tag("a"), failed("a", "NotFound", "m"), {}, "NotFound"),
        (tag("a"), failed("a", "Timeout", "m", item()), {}, "Timeout"),
        (tag("a", None), None, {}, "Empty"),
        (tag("a", None), {"tag": "a", "items": [item()]}, {}, "Recorded"),
        (None, {"tag": "a", "items": [item()]}, {}, "Recorded"),
        (
            tag("a"),
            {**imported("a"), "conditions": [{"type": "Pinned", "status": "True", "reason": "Pinned"}]},
            {},
            "Pinned",
        ),
    ],
)
def test_the_state_of_a_tag(spec, recorded, annotations, state):
    value = stream(*([spec] if spec else []), annotations=annotations)
    value["status"] = {"tags": [recorded] if recorded else []}
    [found] = tags_of(read(json.dumps(value).encode()))
    assert state_of(found) == state


def test_many_tags_are_read_once():
    names = [f"t{number}" for number in range(3000)]
    value = stream(*map(tag, names))
    value["status"] = {"tags": [imported(name) for name in names]}
    found = tags_of(read(json.dumps(value).encode()))
    assert [each.name for each in found] == names
    assert len(images_of(found[0].stream)) == 1
