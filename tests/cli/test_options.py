"""Flags that the commands share, as people and kubectl write them."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios
from typing import TYPE_CHECKING, Any

import click
import pytest
import yaml
from click.testing import CliRunner

from imagestreams.cli import options
from imagestreams.cli.main import invoke
from imagestreams.cli.options import FORMS, Command, all_namespaces, dry_run_option, output_option, selector, switch
from tests.fakes.apiserver import FakeApiServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

API = "image.openshift.io/v1"


@click.command(cls=Command)
@click.argument("names", nargs=-1)
@switch("--wait", default=True, words="")
@all_namespaces
@selector
@dry_run_option
@output_option("wide", *FORMS)
@options.connection_options
def show(**given: Any) -> None:
    """Print what was understood."""
    click.echo(json.dumps(given))


def understood(*args: str) -> dict[str, Any]:
    done = CliRunner().invoke(show, args)
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.output)
    return found


@pytest.mark.parametrize(
    ("args", "name", "value"),
    [
        ((), "wait", True),
        (("--wait",), "wait", True),
        (("--wait=false",), "wait", False),
        (("--wait", "false"), "names", ["false"]),
        (("-A",), "all_namespaces", True),
        (("-A", "web"), "names", ["web"]),
        (("--all-namespaces=false",), "all_namespaces", False),
        ((), "dry_run", "none"),
        (("--dry-run",), "dry_run", "client"),
        (("--dry-run", "web"), "names", ["web"]),
        (("--dry-run=server",), "dry_run", "server"),
        ((), "verbose", False),
        (("-v",), "verbose", True),
        (("-v", "web"), "names", ["web"]),
        (("-v", "6"), "verbose", True),
        (("-v", "6"), "names", []),
        (("-v=6",), "verbose", True),
        (("-v6",), "verbose", True),
        (("--v=9",), "verbose", True),
        (("--v", "4"), "verbose", False),
        (("-v=2",), "verbose", False),
        (("--verbose",), "verbose", True),
        (("-o", "wide"), "output", "wide"),
        (("-ojson",), "output", "json"),
        (("-o=yaml",), "output", "yaml"),
        (("-o=jsonpath={.a}",), "output", "jsonpath={.a}"),
        (("-n=shop",), "namespace", "shop"),
        (("-l=", "web"), "selector", ""),
        (("-l=", "web"), "names", ["web"]),
        (("-A=false",), "all_namespaces", False),
        (("-o", "jsonpath={.a}={.b}"), "output", "jsonpath={.a}={.b}"),
        (("-l", "a=b,c"), "selector", "a=b,c"),
        (("--token", "t", "-s", "https://h"), "server", "https://h"),
        (("--request-timeout", "30s"), "request_timeout", 30.0),
        (("--insecure-skip-tls-verify",), "insecure_skip_tls_verify", True),
        (("--", "-v"), "names", ["-v"]),
        ((), "api_group", ""),
        (("--api-group=imagestreams.dev",), "api_group", "imagestreams.dev"),
    ],
)
def test_flags(args, name, value):
    assert understood(*args)[name] == value


def test_the_flags_of_a_connection_are_those_that_are_listed():
    given = understood()
    ours = {"names", "wait", "all_namespaces", "selector", "dry_run", "output"}
    assert set(given) - ours == set(options.CONNECTION_FLAGS)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("-o", "table"), "'table' is none of wide, name, json, yaml, jsonpath=TEMPLATE, jsonpath-file=FILE"),
        (("-o", "json=x"), "'json=x' is none of"),
        (("-o", "jsonpath"), "jsonpath needs a template: jsonpath=TEMPLATE"),
        (("-o", "jsonpath-file="), "jsonpath-file needs a template: jsonpath-file=FILE"),
        (("--wait=perhaps",), "'perhaps' is neither true nor false"),
        (("-v=loud",), "'loud' is neither true nor false"),
        (("--dry-run=maybe",), "'maybe' is not one of 'none', 'client', 'server'"),
        (("--request-timeout", "soon"), "'soon' is no duration"),
        (("--api-group", "apps"), "'apps' is none of image.openshift.io, imagestreams.dev"),
    ],
)
def test_flags_that_are_refused(args, words):
    done = CliRunner().invoke(show, args)
    assert done.exit_code == 2
    assert words in done.output


def test_rare_flags_do_not_crowd_the_help():
    shown = CliRunner().invoke(show, ["--help"]).output
    assert "--kubeconfig" in shown
    assert "--token" not in shown
    assert "--as-uid" not in shown


def test_the_api_group_of_the_environment(monkeypatch):
    monkeypatch.setenv("IMAGESTREAMS_API_GROUP", "imagestreams.dev")
    assert understood()["api_group"] == "imagestreams.dev"
    assert understood("--api-group", "image.openshift.io")["api_group"] == "image.openshift.io"


# ---- what goes to stderr ----


@pytest.fixture
async def server(tmp_path, monkeypatch) -> AsyncIterator[FakeApiServer]:
    async with FakeApiServer() as server:
        server.define(API, "imagestreams", "ImageStream", status=True)
        monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(tmp_path / "config")))
        yield server


async def test_requests_and_warnings_are_no_result(server, capsys):
    async def warn(_request: Any, serve: Any) -> Any:
        response = await serve()
        response.headers.add("Warning", '299 - "ä\x9b31m old API"')
        return response

    server.inject(warn, verb="list", times=-1)
    assert await asyncio.to_thread(invoke, ("get", "streams", "-o", "name", "-v"), "imagestreams") == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert "Warning: ä 31m old API\n" in err
    assert f"GET {server.url}/apis/{API}/namespaces/default/imagestreams?limit=500 200 OK in " in err
    assert await asyncio.to_thread(invoke, ("get", "streams", "-o", "name"), "imagestreams") == 0
    assert capsys.readouterr().err == "Warning: ä 31m old API\n"


async def test_what_the_server_says_steers_no_terminal(server, capsys):
    async def refuse(_request: Any, _serve: Any) -> Any:
        from aiohttp import web

        body = {"kind": "Status", "reason": "Forbidden", "message": "no\x1b[2J way\r\nat all"}
        return web.json_response(body, status=403)

    server.inject(refuse, verb="list")
    assert await asyncio.to_thread(invoke, ("get", "streams"), "imagestreams") == 1
    assert capsys.readouterr().err == "Error from server (Forbidden): no [2J way \nat all\n"


@pytest.mark.parametrize(
    ("words", "printed"),
    [
        ("error: two\nlines", "error: two\nlines\n"),
        ("error: \x1b]0;owned\x07\n  \x9b31m\u202e\r", "error:  ]0;owned \n   31m  \n"),
    ],
)
@pytest.mark.parametrize("kind", [options.Failure, options.Misuse])
def test_what_a_failure_quotes_steers_no_terminal(capsys, kind, words, printed):
    kind(words).show()
    assert capsys.readouterr().err == printed


@pytest.mark.parametrize("namespace", ["a/b", "..", "SHOP", "-shop", "shop-", "a b", "a" * 64, "x.y", "shop\n"])
async def test_a_namespace_that_can_be_none(server, capsys, namespace):
    assert await asyncio.to_thread(invoke, ("get", "streams", "-n", namespace), "imagestreams") == 2
    assert capsys.readouterr().err.startswith(f"error: {namespace!r} is no namespace")
    assert server.requests == []


async def test_a_namespace_of_the_kubeconfig_that_can_be_none(server, tmp_path, capsys):
    config = tmp_path / "config"
    value = yaml.safe_load(config.read_text())
    value["contexts"][0]["context"]["namespace"] = "a/../b"
    config.write_text(yaml.safe_dump(value))
    assert await asyncio.to_thread(invoke, ("get", "streams"), "imagestreams") == 1
    assert "'a/../b' is no namespace; name another one with -n" in capsys.readouterr().err
    assert server.requests == []
    assert await asyncio.to_thread(invoke, ("get", "streams", "-n", "shop"), "imagestreams") == 0


# ---- what is shown meanwhile ----

LONG = "web: waiting for the controller to look up a-tag-with-quite-a-long-name-that-somebody-gave-it ..."
CLEAR = "\r\033[K"


def at_a_terminal(script: str, *, columns: int, term: str) -> str:
    """What a terminal of so many columns gets on stderr."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    done = subprocess.run(
        [sys.executable, "-c", f"from imagestreams.cli.options import progress, say\n{script}"],
        env={**os.environ, "TERM": term},
        stderr=theirs,
        check=True,
        timeout=30,
    )
    assert done.returncode == 0
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):
        while part := os.read(ours, 4096):
            shown += part
    os.close(ours)
    return shown.decode().replace("\r\n", "\n")


@pytest.mark.parametrize(
    ("script", "columns", "shown"),
    [
        pytest.param("with progress('a ...'): pass", 80, f"{CLEAR}a ...{CLEAR}", id="short"),
        pytest.param(f"with progress({LONG!r}): pass", 40, f"{CLEAR}{LONG[:35]} ...{CLEAR}", id="cut to one line"),
        pytest.param("with progress('a\\x1b[2Jb'): pass", 80, f"{CLEAR}a [2Jb{CLEAR}", id="of strangers"),
        pytest.param(
            "with progress('a') as show: show('b')", 80, f"{CLEAR}a{CLEAR}b{CLEAR}", id="others in their place"
        ),
        pytest.param(
            "with progress('a'): say('GET /')\nsay('x')",
            80,
            f"{CLEAR}a{CLEAR}GET /\n{CLEAR}a{CLEAR}x\n",
            id="another line meanwhile",
        ),
    ],
)
def test_progress(script, columns, shown):
    assert at_a_terminal(script, columns=columns, term="xterm") == shown


@pytest.mark.parametrize("term", ["dumb", ""])
def test_progress_where_nothing_can_be_taken_away(term):
    script = "with progress('a') as show:\n  say('GET /')\n  show('b')"
    assert at_a_terminal(script, columns=80, term=term) == "a\nGET /\nb\n"


def test_progress_of_a_script(capsys):
    with options.progress("a") as show:
        show("b")
    assert capsys.readouterr() == ("", "")
