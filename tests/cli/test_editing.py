"""Edits of objects: what is sent, and what happens when others write meanwhile."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagestreams.cli import kubeconfig
from imagestreams.cli.api import Client, Refused, Resource
from imagestreams.cli.editing import CONFLICTS, edit, merge_patch
from imagestreams.cli.options import Failure
from tests.cli.shop import API, opened, stream, tag
from tests.fakes.apiserver import disconnect, status
from tests.fakes.patching import merged

STREAMS = Resource("image.openshift.io")
PATH, NAMED = STREAMS.path("shop", "web"), STREAMS.named("web")


@pytest.fixture
async def world(tmp_path, monkeypatch):
    async with opened(tmp_path, monkeypatch) as world:
        yield world


@pytest.fixture
def call(world):
    """A function of the client, in a thread beside the server's loop."""

    async def run(function, *args, **kwargs) -> Any:
        client = Client(kubeconfig.load(kubeconfig.Overrides(), os.environ))
        try:
            return await asyncio.to_thread(function, client, *args, **kwargs)
        finally:
            client.close()

    return run


def add(value):
    value["spec"].setdefault("tags", []).append({"name": "new"})
    return value


def leave(_value):
    return None


async def test_only_what_differs_is_sent(world, call):
    world.server.put({**stream(tag("a")), "unknown": {"kept": True}})
    done = await call(edit, PATH, NAMED, add)
    [patch] = world.bodies("patch")
    assert patch == {
        "metadata": {"resourceVersion": patch["metadata"]["resourceVersion"]},
        "spec": {"tags": [tag("a"), {"name": "new"}]},
    }
    assert done.after == world.stream
    assert done.after["unknown"] == {"kept": True}


async def test_the_controllers_name_is_not_used_for_what_people_write(world, call):
    """Its fields are told from people's by it."""
    world.server.put(stream())
    await call(edit, PATH, NAMED, add)
    assert world.server.requests[-1].query["fieldManager"] == "imagestreams-cli"


@pytest.mark.parametrize("change", [leave, lambda value: value])
async def test_what_stays_is_not_written(world, call, change):
    world.server.put(stream(tag("a")))
    done = await call(edit, PATH, NAMED, change)
    assert (done.before, done.is_written, done.is_changed) == (done.after, False, False)
    assert world.verbs() == ["get"]


async def test_the_change_is_made_anew_of_what_another_wrote(world, call):
    world.server.put(stream(tag("a")))
    world.when("patch", lambda: world.server.put({**stream(tag("a"), tag("theirs"))}))
    pauses = []
    await call(edit, PATH, NAMED, add, sleep=pauses.append)
    assert list(world.tags) == ["a", "theirs", "new"]
    assert world.verbs() == ["get", "patch", "get", "patch"]
    assert pauses == [0.1]


async def test_others_write_without_end(world, call):
    world.server.put(stream())
    world.when("patch", lambda: world.annotate(world.request + "x"), times=-1)
    pauses = []
    with pytest.raises(Failure, match=f"others wrote {NAMED} each of the 10 times that it was to be changed; try aga"):
        await call(edit, PATH, NAMED, add, sleep=pauses.append)
    assert world.verbs().count("patch") == CONFLICTS
    assert max(pauses) == 2.0


# ---- an answer that is lost ----


def remove(name):
    def change(value):
        left = [each for each in value["spec"]["tags"] if each["name"] != name]
        if len(left) == len(value["spec"]["tags"]):
            raise Failure(f"there is no {name}")
        return {**value, "spec": {"tags": left}}

    return change


def label(value):
    value["metadata"]["annotations"] = {"a": "b", **(value["metadata"].get("annotations") or {})}
    return value


@pytest.mark.parametrize(
    ("change", "names"),
    [
        pytest.param(add, ["a", "b", "new"], id="a list"),
        pytest.param(remove("a"), ["b"], id="what can be done once"),
        pytest.param(label, ["a", "b"], id="nothing there before"),
        pytest.param(lambda value: {**value, "spec": {}}, [], id="a field taken away"),
    ],
)
async def test_what_was_done_is_done_though_the_answer_was_lost(world, call, change, names):
    """The second PATCH comes late to its own resourceVersion."""
    world.server.put(stream(tag("a"), tag("b")))
    world.server.inject(disconnect(after=True), verb="patch")
    done = await call(edit, PATH, NAMED, change, sleep=lambda _: None)
    assert (done.is_written, done.is_changed, done.after) == (True, True, world.stream)
    assert list(world.tags) == names
    assert world.verbs() == ["get", "patch", "patch", "get"]


async def test_the_controller_writes_status_after_the_answer_was_lost(world, call):
    world.server.put(stream(tag("a")))
    world.server.inject(disconnect(after=True), verb="patch")
    world.when("patch", world.handle)
    done = await call(edit, PATH, NAMED, remove("a"), sleep=lambda _: None)
    assert done.is_written
    assert "status" in done.after


@pytest.mark.parametrize(
    "theirs",
    [
        pytest.param(stream(tag("a"), tag("b"), tag("theirs")), id="another's edit"),
        pytest.param(stream(tag("b"), uid="u-2"), id="another object of the name"),
    ],
)
async def test_what_was_lost_with_the_answer_is_done_anew(world, call, theirs):
    world.server.put(stream(tag("a"), tag("b")))
    world.server.inject(disconnect(), verb="patch")
    world.when("patch", lambda: world.server.put(theirs))
    changed = []

    def change(value):
        changed.append(value)
        return {**value, "spec": {"tags": [each for each in value["spec"]["tags"] if each["name"] != "a"]}}

    done = await call(edit, PATH, NAMED, change, sleep=lambda _: None)
    assert len(changed) == 2
    assert "a" not in world.tags
    assert done.after == world.stream


async def test_what_is_still_there_was_not_taken_away(world, call):
    world.server.put(stream(annotations={"a": "b"}))
    world.server.inject(disconnect(), verb="patch")
    world.when("patch", lambda: world.server.put(stream(tag("theirs"), annotations={"a": "b"})))

    def change(value):
        return {**value, "metadata": {**value["metadata"], "annotations": {}}}

    await call(edit, PATH, NAMED, change, sleep=lambda _: None)
    assert (world.annotation("a"), list(world.tags)) == ("", ["theirs"])


async def test_an_ordinary_conflict_is_no_success(world, call):
    """Somebody else did the same: it is the caller's to say what that means."""
    world.server.put(stream(tag("a"), tag("b")))
    world.when("patch", lambda: world.server.put(stream(tag("b"))))
    with pytest.raises(Failure, match="there is no a"):
        await call(edit, PATH, NAMED, remove("a"), sleep=lambda _: None)


async def test_a_refusal_is_the_callers(world, call):
    world.server.put(stream())
    world.server.inject(status(403, "Forbidden", "no"), verb="patch")
    with pytest.raises(Refused, match="Forbidden"):
        await call(edit, PATH, NAMED, add)


async def test_what_is_not_there_is_an_error_or_is_created(world, call):
    with pytest.raises(Refused, match='"web" not found'):
        await call(edit, PATH, NAMED, add)
    new = {"apiVersion": API, "kind": "ImageStream", "metadata": {"name": "web", "namespace": "shop"}, "spec": {}}
    done = await call(edit, PATH, NAMED, add, create=new, collection=STREAMS.path("shop"))
    assert done.after == world.stream
    assert new["spec"] == {}, "what was given is not written into"
    assert list(world.tags) == ["new"]


async def test_somebody_else_creates_it_first(world, call):
    world.when("create", lambda: world.server.put(stream(tag("theirs"))))
    new = {"apiVersion": API, "kind": "ImageStream", "metadata": {"name": "web", "namespace": "shop"}, "spec": {}}
    pauses = []
    done = await call(edit, PATH, NAMED, add, create=new, collection=STREAMS.path("shop"), sleep=pauses.append)
    assert list(world.tags) == ["theirs", "new"]
    assert done.before is not None


@pytest.mark.parametrize(("mode", "verbs"), [("client", ["get"]), ("server", ["get", "patch"])])
async def test_a_dry_run_writes_nothing(world, call, mode, verbs):
    before = world.server.put(stream(tag("a")))
    done = await call(edit, PATH, NAMED, add, dry_run=mode)
    assert [found["name"] for found in done.after["spec"]["tags"]] == ["a", "new"]
    assert done.is_changed
    assert world.stream == before
    assert world.verbs() == verbs


@pytest.mark.parametrize("mode", ["client", "server"])
async def test_a_dry_run_creates_nothing(world, call, mode):
    new = {"apiVersion": API, "kind": "ImageStream", "metadata": {"name": "web", "namespace": "shop"}, "spec": {}}
    done = await call(edit, PATH, NAMED, add, create=new, collection=STREAMS.path("shop"), dry_run=mode)
    assert done.is_changed
    assert done.after["spec"] == {"tags": [{"name": "new"}]}
    assert world.server.all(API, "imagestreams") == []


@pytest.mark.parametrize("body", [b"[]", b"{", b'{"metadata": 1}', b"[" * 100_000])
async def test_an_answer_that_is_no_object(world, call, body):
    async def respond(_request, _serve):
        from aiohttp import web

        return web.Response(body=body, content_type="application/json")

    world.server.inject(respond, verb="get")
    with pytest.raises(Failure, match=f"the server's {NAMED} is malformed: "):
        await call(edit, PATH, NAMED, add)


_JSON = st.recursive(
    st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=12,
)
_OBJECTS = st.dictionaries(st.sampled_from("abc"), _JSON, max_size=3)


@given(_OBJECTS, _OBJECTS)
def test_the_patch_makes_the_one_of_the_other(old, new):
    assert merged(old, merge_patch(old, new)) == new
    assert merge_patch(new, new) == {}
