"""`history` from the command line to the socket."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
import yaml

from tests.cli.shop import NOW, World, command, failed, opened, stream, tag
from tests.cli.test_revisions import PINS, A, B, C, held, observed, recorded


@pytest.fixture
async def world(tmp_path, monkeypatch):
    async with opened(tmp_path, monkeypatch) as world:
        yield world


@pytest.fixture
def run(capsys):
    return command("history", capsys)


def put(world: World, status: dict[str, Any], **metadata: Any) -> None:
    world.server.put({**stream(tag("1"), tag("new"), **metadata), "status": {"tags": [status]}})


async def test_the_table(world, run):
    put(world, recorded(C, B, A))
    done = await run("web:1")
    lines = [line.split() for line in done.out.splitlines()]
    assert lines[0] == ["REVISION", "AGE", "IMAGE", "SOURCE", "NOTE"]
    assert [(line[0], line[2:]) for line in lines[1:]] == [
        ("1", ["sha256:aaaaaaaaaaaa", "quay.io/acme/web"]),
        ("2", ["sha256:bbbbbbbbbbbb", "quay.io/acme/web"]),
        ("3", ["sha256:cccccccccccc", "quay.io/acme/web", "current"]),
    ]
    assert (done.code, done.err) == (0, "")


async def test_wide_has_the_whole_pull_specs(world, run):
    put(world, recorded(B, A))
    done = await run("web:1", "-o", "wide")
    assert [line.split()[2] for line in done.out.splitlines()] == [
        "IMAGE",
        f"quay.io/acme/web@{A}",
        f"quay.io/acme/web@{B}",
    ]


@pytest.mark.parametrize("form", [(), ("-o", "wide")])
async def test_the_table_without_its_first_line(world, run, form):
    put(world, recorded(B, A))
    whole, without = await run("web:1", *form), await run("web:1", *form, "--no-headers")
    assert [line.split() for line in without.out.splitlines()] == [line.split() for line in whole.out.splitlines()[1:]]
    assert (without.code, without.err) == (0, "")


async def test_what_holds_the_tag_is_told(world, run):
    pins = {"1": {"digest": A, "by": "jane\x1b[2J", "at": "2026-03-01T11:00:00Z", "reason": "checkout fails."}}
    status = recorded(A, B, A, condition=held(), observed=observed(C))
    put(world, status, annotations={PINS: json.dumps(pins)})
    done = await run("web:1")
    assert done.out.splitlines()[3].endswith("current, pinned")
    assert done.out.splitlines()[4:] == [
        "",
        f"Held at {A} by jane [2J since 2026-03-01T11:00:00Z: checkout fails.",
        f"Its source has {C} now.",
        "To let it go: imagestreams resume web:1",
    ]


async def test_what_a_stranger_wrote_is_whole_for_programs_and_steers_no_terminal(world, run, monkeypatch):
    put(world, {"tag": "1", "items": [{"dockerImageReference": "a\x1b[2Jb"}]})
    args = ("web:1", "-o", "jsonpath={.revisions[0].pullSpec}")
    assert (await run(*args)).out == "a\x1b[2Jb"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert (await run(*args)).out == "a [2Jb"


async def test_a_tag_without_history(world, run):
    put(world, failed("new", "NotFound", "no such tag"))
    done = await run("web:new")
    assert done == (0, "", "web:new has never had an image (NotFound: no such tag)\n")


async def test_what_there_is_not(world, run):
    done = await run("web:1")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("Error from server (NotFound): ")
    put(world, recorded(A))
    done = await run("web:2")
    assert (done.code, done.err) == (1, 'error: the image stream web has no tag "2"; it has: 1, new\n')


@pytest.mark.parametrize("args", [("shop/web:1",), ("web:1", "-o", "name"), ()])
async def test_calling_it_wrongly(world, run, args):
    assert (await run(*args)).code == 2
    assert world.verbs() == []


# ---- for programs ----


class _Pin(msgspec.Struct, forbid_unknown_fields=True):
    digest: str
    reason: str | None
    by: str | None
    at: str | None


class _Revision(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    revision: int
    image: str | None
    pull_spec: str
    created: str | None
    is_current: bool


class _History(msgspec.Struct, forbid_unknown_fields=True):
    namespace: str
    stream: str
    tag: str
    pin: _Pin | None
    served: str | None
    failure: str | None
    revisions: list[_Revision]


async def test_json(world, run):
    pins = {"1": {"digest": A, "by": "jane", "at": "2026-03-01T11:00:00Z"}}
    put(world, recorded(A, B, A, condition=held(), observed=observed(C)), annotations={PINS: json.dumps(pins)})
    done = await run("web:1", "-o", "json")
    found = msgspec.json.decode(done.out, type=_History, strict=True)
    assert (found.namespace, found.stream, found.tag, found.served) == ("shop", "web", "1", C)
    assert found.pin == _Pin(A, None, "jane", "2026-03-01T11:00:00Z")
    assert [(each.revision, each.image, each.is_current) for each in found.revisions] == [
        (1, A, False),
        (2, B, False),
        (3, A, True),
    ]
    assert found.revisions[-1].created == NOW.strftime("%Y-%m-%dT%H:%M:%SZ")
    assert yaml.safe_load((await run("web:1", "-o", "yaml")).out) == json.loads(done.out)
    done = await run("web:1", "-o", "jsonpath={.revisions[-1].image}")
    assert done.out == A


async def test_json_of_a_tag_without_history(world, run):
    put(world, failed("new", "NotFound", "no such tag"))
    found = msgspec.json.decode((await run("web:new", "-o", "json")).out, type=_History)
    assert (found.revisions, found.pin, found.failure) == ([], None, "NotFound: no such tag")
