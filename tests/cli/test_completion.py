"""Completion, as shells ask for it: the answers, and the scripts in the shells themselves."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import select
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from dev import binaries
from imagestreams.cli import completion, main
from imagestreams.cli.completion import SCRIPTS, completed
from tests.cli.shop import DIGEST, World, alias, command, imported, opened, stream, tag
from tests.fakes.apiserver import hang, status

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

BIN = Path(sys.executable).parent


@pytest.fixture
async def world(tmp_path, monkeypatch) -> AsyncIterator[World]:
    async with opened(tmp_path, monkeypatch) as world:
        value = stream(tag("stable"), alias("prod", "stable"), namespace="default")
        value["status"] = {"tags": [imported("stable")]}
        world.server.put(value)
        world.server.put(stream(tag("2024"), name="tools", namespace="default", uid="u-2"))
        world.server.put(stream(tag("latest"), name="base", namespace="images", uid="u-3"))
        for name in ("default", "images"):
            world.server.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        for api, kind, name in (
            ("apps/v1", "Deployment", "front"),
            ("apps/v1", "StatefulSet", "store"),
            ("batch/v1", "CronJob", "nightly"),
        ):
            metadata = {"name": name, "namespace": "default"}
            world.server.put({"apiVersion": api, "kind": kind, "metadata": metadata, "spec": {}})
        yield world


async def asked(*words: str) -> tuple[list[str], int]:
    """The candidates for the last word, and the directive."""
    found, directive = completed(main.group, words)
    return [value for value, _ in found], directive


@pytest.fixture
def complete(world) -> Callable[..., Any]:
    async def call(*words: str) -> tuple[list[str], int]:
        done = await asyncio.create_subprocess_exec(
            *(BIN / "imagestreams", "__complete", *words), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        out, err = await asyncio.wait_for(done.communicate(), 30)
        assert (done.returncode, err) == (0, b"")
        *lines, last = out.decode().splitlines()
        assert re.fullmatch(r":[0-9]+", last)
        return [line.partition("\t")[0] for line in lines], int(last[1:])

    return call


# ---- answers ----


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (("",), [*main.COMMANDS]),
        (("import",), ["import-image"]),
        (("x",), []),
        (("completion", ""), ["bash", "zsh", "fish", "kubectl"]),
        (("completion", "z"), ["zsh"]),
        (("create", ""), ["imagestream", "imagestreamtag"]),
        (("get", ""), ["streams", "tags", "images"]),
        (("get", "-A", ""), ["streams", "tags", "images"]),
        (("describe", "d"), ["deployment"]),
        (("get", "-o", "js"), ["json", "jsonpath=", "jsonpath-file=", "jsonpath-as-json="]),
        (("get", "-o", "w"), ["wide"]),
        (("history", "-o", ""), ["wide", "json", "yaml", "jsonpath=", "jsonpath-file="]),
        (("diff", "-o", ""), ["wide", "json", "yaml", "jsonpath=", "jsonpath-file="]),
        (("version", "-o", ""), ["json", "yaml"]),
        (("rollback", "-o", ""), ["name", "json", "yaml", "jsonpath=", "jsonpath-file=", "jsonpath-as-json="]),
        (("resolve", "-o", "t"), ["table"]),
        (("explain", "-o", ""), ["text", "json"]),
        (("set-triggers", ""), ["deployment/", "statefulset/", "daemonset/", "cronjob/"]),
        (("set-triggers", "secret/"), []),
        (("create", "is", "x", "--dry-run=s"), ["server"]),
        (("explain", "--mode", "L"), ["Legacy"]),
        (("get", "--all-n"), ["--all-namespaces"]),
        (("nonsense", ""), []),
        (("get", "nonsense", ""), ["streams", "tags", "images"]),
    ],
)
async def test_what_needs_no_cluster(words, found):
    assert (await asked(*words))[0] == found


async def test_a_template_of_a_file_is_not_read():
    """As of a pipe that nobody writes to yet."""
    reader, writer = os.pipe()
    os.write(writer, b"{.kind}")
    os.close(writer)
    found, _ = await asked("get", "-o", f"jsonpath-file=/dev/fd/{reader}", "")
    assert (found, os.read(reader, 9)) == (["streams", "tags", "images"], b"{.kind}")
    os.close(reader)


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (("get", "streams", ""), ["tools", "web"]),
        (("get", "streams", "w"), ["web"]),
        (("get", "is/w"), ["is/web"]),
        (("get", "tags", "web"), ["web:stable", "web:prod"]),
        (("get", "tags", "web:s"), ["web:stable"]),
        (("get", "-A", "tags", "web:s"), ["web:stable"]),
        (("get", "images", "w"), [f"web@{DIGEST}"]),
        (("get", "streams", "-n", "images", ""), ["base"]),
        (("-n", "images", "get", "streams", ""), ["base"]),
        (("get", "streams", "--namespace=images", ""), ["base"]),
        (("get", "streams", "-n", ""), ["default", "images"]),
        (("get", "streams", "--namespace=im"), ["images"]),
        (("describe", "web:p"), ["web:prod"]),
        (("describe", "deploy", ""), ["front"]),
        (("describe", "deploy/f"), ["deploy/front"]),
        (("import-image", "web"), ["web:stable", "web:prod"]),
        (("history", "too"), ["tools:2024"]),
        (("rollback", "web:s"), ["web:stable"]),
        (("set-lookup", "w"), ["web"]),
        (("set-lookup", "po"), ["pod/"]),
        (("set-lookup", "cj/"), ["cj/nightly"]),
        (("resume", "web:p"), ["web:prod"]),
        (("resume", "de"), ["deployment/"]),
        (("resume", "deploy/"), ["deploy/front"]),
        (("set-triggers", "de"), ["deployment/"]),
        (("set-triggers", "sts/"), ["sts/store"]),
        (("set-triggers", "daemonsets.apps/"), []),
        (("set-triggers", "cronjob/n"), ["cronjob/nightly"]),
        (("set-triggers", "deployment/"), ["deployment/front"]),
        (("get", "tags", "--context", ""), ["fake"]),
        (("create", "is", "-n", "im"), ["images"]),
        (("set-triggers", "deploy/front", "--from-image", "web:s"), ["web:stable"]),
    ],
)
async def test_names_of_the_cluster(complete, words, found):
    assert (await complete(*words))[0] == found


async def test_what_the_shell_is_told_beside(complete):
    assert (await complete("get", "streams", "w"))[1] == 4  # no files
    assert (await complete("set-triggers", "de"))[1] == 6  # nor a space
    assert (await complete("get", "--kubeconfig", ""))[1] == 0  # files
    assert (await complete("resolve", "-f", ""))[1] == 0


@pytest.mark.parametrize("fault", [status(403, "Forbidden"), status(500, "InternalError")])
async def test_what_fails_gives_nothing(world, complete, fault):
    world.server.inject(fault, times=-1)
    assert await complete("get", "streams", "") == ([], 4)
    assert await complete("--kubeconfig=/nonexistent", "get", "streams", "") == ([], 4)


async def test_nobody_waits_for_a_cluster_that_is_silent(world, complete, monkeypatch):
    world.server.inject(hang(), times=-1)
    began = time.monotonic()
    assert await complete("get", "streams", "") == ([], 4)
    assert time.monotonic() - began < completion._PATIENCE + 10


async def test_what_could_mean_something_to_a_shell_is_left_out(world, complete):
    for name in ("$(reboot)", "a b", "`x`", "web;ls", "\x1b[2J", "-rf"):
        value = stream(tag("t"), name="x", namespace="default", uid=f"u-{name}")
        value["metadata"]["name"] = name
        world.server.put(value)
    assert (await complete("get", "streams", ""))[0] == ["tools", "web"]


async def test_candidates_have_an_end(world, complete):
    world.server.put(
        stream(*(tag(f"t{number}") for number in range(1000)), name="many", namespace="default", uid="u-5")
    )
    assert len((await complete("get", "tags", "many"))[0]) == 500


# ---- bash ----


BASH = shutil.which("bash") or ""


async def bash(line: str, breaks: str = " \t\n\"'><=;|&(:@") -> list[str]:
    """What bash would show for a line at whose end the tab key is hit."""
    script = f"""
        {SCRIPTS["bash"]}
        COMP_WORDBREAKS={shlex.quote(breaks)}
        COMP_LINE={shlex.quote(line)} COMP_POINT={len(line)}
        __imagestreams_complete
        ((${{#COMPREPLY[@]}})) && printf '%s\\n' "${{COMPREPLY[@]}}"
        exit 0
    """
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
    done = await asyncio.create_subprocess_exec(
        *(BASH, "--norc", "--noprofile", "-c", script),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    )
    out, err = await asyncio.wait_for(done.communicate(), 30)
    assert (done.returncode, err) == (0, b"")
    return out.decode().splitlines()


@pytest.mark.skipif(not BASH, reason="no bash")
@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("imagestreams hist", ["history"]),
        ("imagestreams get ", ["streams", "tags", "images"]),
        ("imagestreams get tags web", ["web:stable", "web:prod"]),
        ("imagestreams get tags web:", ["stable", "prod"]),  # bash replaces what follows the colon
        ("imagestreams get tags web:st", ["stable"]),
        ("imagestreams get images web@sha256:aa", ["a" * 64]),
        ("imagestreams get streams --namespace=im", ["images"]),
        ("imagestreams get -o jsonpa", ["jsonpath=", "jsonpath-file=", "jsonpath-as-json="]),
        ("imagestreams -n images  get   is b", ["base"]),
        ("kubectl-imagestreams get is w", ["web"]),
    ],
)
@pytest.mark.usefixtures("world")
async def test_bash(line, shown):
    assert await bash(line) == shown


@pytest.mark.skipif(not BASH, reason="no bash")
@pytest.mark.usefixtures("world")
async def test_bash_that_does_not_part_words_at_colons():
    assert await bash("imagestreams get tags web:st", breaks=" \t\n") == ["web:stable"]
    assert await bash("imagestreams get is --namespace=im", breaks=" \t\n") == ["--namespace=images"]


@pytest.mark.skipif(not BASH, reason="no bash")
@pytest.mark.usefixtures("world")
async def test_the_tab_key(tmp_path):
    """A real, interactive bash at a terminal."""
    rc = tmp_path / "bashrc"
    rc.write_text("PS1='ready> '\nbind 'set bell-style none'\nsource <(imagestreams completion bash)\n")
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "TERM": "dumb", "HOME": str(tmp_path)}

    def type_() -> str:
        child, terminal = pty.fork()
        if child == 0:
            os.execve(BASH, [BASH, "--noprofile", "--rcfile", str(rc), "-i"], environment)
        try:
            shown = read(terminal, "ready> ")
            os.write(terminal, b"imagestreams get ta\t")
            shown = read(terminal, "get tags ")
            os.write(terminal, b"web:st\t")
            shown = read(terminal, "web:stable ")
            os.write(terminal, b"-o name\n")
            shown = read(terminal, "ready> ")
            os.write(terminal, b"exit\n")
        finally:
            os.close(terminal)
            os.waitpid(child, 0)
        return shown

    assert "imagestreamtag.image.openshift.io/web:stable" in await asyncio.to_thread(type_)


def read(terminal: int, until: str) -> str:
    """What appears at a terminal until a text does."""
    shown, deadline = "", time.monotonic() + 30
    while until not in shown:
        assert time.monotonic() < deadline, f"{until!r} did not appear: {shown!r}"
        if select.select([terminal], [], [], 1)[0]:
            shown += os.read(terminal, 4096).decode(errors="replace")
    return shown


# ---- the others ----


@pytest.mark.parametrize(
    ("shell", "check"), [("bash", ["bash", "-n"]), ("zsh", ["zsh", "-n"]), ("fish", ["fish", "-n"])]
)
def test_the_syntax_of_the_scripts(tmp_path, shell, check):
    if shutil.which(check[0]) is None:
        pytest.skip(f"no {shell}")
    (tmp_path / "script").write_text(SCRIPTS[shell])
    done = subprocess.run([*check, tmp_path / "script"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


async def test_the_command_prints_them(capsys):
    call = command("completion", capsys)
    del call
    for shell, script in SCRIPTS.items():
        assert main.invoke(("completion", shell), "imagestreams") == 0
        assert capsys.readouterr().out == script
    assert main.invoke(("completion", "tcsh"), "imagestreams") == 2
    assert "'bash', 'zsh', 'fish', 'kubectl'" in capsys.readouterr().err


@pytest.mark.usefixtures("world")
@pytest.mark.parametrize("is_installed", [True, False], ids=["as pip installs it", "as the command prints it"])
async def test_kubectl_asks_the_plugin(tmp_path, is_installed):
    """By its own hidden command, which its scripts for shells call."""
    kubectl = binaries.find("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not built: python -m dev.binaries kubectl")
    file = tmp_path / "bin" / "kubectl_complete-imagestreams"
    file.parent.mkdir()
    if is_installed:
        file.symlink_to(BIN / file.name)
    else:
        file.write_text(SCRIPTS["kubectl"])
        file.chmod(0o755)
    environment = {**os.environ, "PATH": f"{file.parent}:{BIN}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    for words, found in (
        (("get", ""), "streams\timage streams\n"),
        (("get", "tags", "web:s"), "web:stable\tImported\n"),
    ):
        done = await asyncio.create_subprocess_exec(
            *(kubectl, "__complete", "imagestreams", *words),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
        )
        out, _ = await asyncio.wait_for(done.communicate(), 30)
        assert out.decode().startswith(found)
        assert out.decode().endswith(":4\n")


# ---- the tables ----


def test_every_argument_and_flag_that_is_known_exists():
    assert set(completion._ARGUMENTS) <= set(main.COMMANDS)
    context = main.click.Context(main.group)
    names = {
        parameter.name
        for name in main.COMMANDS
        for parameter in getattr(main.group.get_command(context, name), "params", [])
    }
    assert set(completion._FLAGS) <= names


def test_a_kubeconfig_with_several_contexts(tmp_path, monkeypatch):
    config = {"contexts": [{"name": name} for name in ("one", "two")], "users": [{"name": "me"}]}
    (tmp_path / "config").write_text(yaml.safe_dump(config))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    assert completed(main.group, ("get", "--context", "t"))[0] == [("two", "")]
    assert completed(main.group, ("get", "--user", ""))[0] == [("me", "")]
    (tmp_path / "config").write_text("{")
    assert completed(main.group, ("get", "--context", "t"))[0] == []


def test_the_answer_is_lines():
    assert json.dumps(completed(main.group, ("com",))) == json.dumps(
        [[["completion", main._SECTIONS["Others"]["completion"].words]], 4]
    )
