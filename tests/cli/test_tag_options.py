"""What holds for the flags of all commands that have them."""

from __future__ import annotations

import os

import pytest

from tests.cli.shop import command, opened

ALL = [
    ("rollback", "web:1"),
    ("resume", "web:1"),
    ("import-image", "web:1"),
    ("create", "is", "web"),
    ("create", "istag", "web:1"),
    ("set-triggers", "deploy/web"),
    ("set-lookup", "web"),
    ("get", "tags"),
    ("history", "web:1"),
    ("diff",),
]


@pytest.fixture
async def world(tmp_path, monkeypatch):
    async with opened(tmp_path, monkeypatch) as world:
        yield world


@pytest.mark.parametrize("words", ALL)
@pytest.mark.parametrize("form", ["jsonpath={.x", "jsonpath-file=/nowhere/at/all"])
async def test_a_template_that_cannot_be_read_is_told_before_anything_is_asked(world, capsys, words, form):
    name, *args = words
    done = await command(name, capsys)(*args, "-o", form)
    assert (done.code, done.out, world.server.requests) == (2, "", [])
    assert "error pars" in done.err or "error reading" in done.err


@pytest.mark.parametrize(
    "form", ["jsonpath={.metadata.name}", "jsonpath={.items[0].x}", "jsonpath={.spec.tags[0].name}"]
)
async def test_a_template_for_one_object_is_no_mistake(world, capsys, form):
    done = await command("create", capsys)("is", "web", "--dry-run=client", "-o", form)
    assert done.code != 2


async def test_a_template_is_read_once_from_what_can_be_read_only_once(world, capsys):
    reader, writer = os.pipe()
    os.write(writer, b"{.metadata.name}")
    os.close(writer)
    done = await command("create", capsys)("is", "web", "--dry-run=client", "-o", f"jsonpath-file=/dev/fd/{reader}")
    os.close(reader)
    assert done == (0, "web", "")
