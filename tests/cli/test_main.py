"""The command as a process: its two names, its help, how it ends, and what it imports."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from imagestreams import __version__
from imagestreams.cli import main as module
from imagestreams.cli.main import invoke, program_name
from tests.fakes.apiserver import FakeApiServer, hang

API = "image.openshift.io/v1"
HEAVY = {"aiohttp", "asyncio", "kubernetes_asyncio", "structlog", "uvloop", "prometheus_client", "apscheduler"}


def process(*args: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *args], env={**os.environ, **environ}, capture_output=True, text=True, check=False, timeout=60
    )


@pytest.fixture
def run(capsys):
    def call(*args: str, name: str = "/usr/local/bin/imagestreams") -> tuple[int, str, str]:
        return invoke(args, name), *capsys.readouterr()

    return call


def stream() -> dict[str, object]:
    tag = {"name": "latest", "from": {"kind": "DockerImage", "name": "quay.io/acme/web"}}
    return {
        "apiVersion": API,
        "kind": "ImageStream",
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"tags": [tag]},
    }


# ---- names and help ----


@pytest.mark.parametrize(
    ("called_as", "name"),
    [
        ("/usr/bin/imagestreams", "imagestreams"),
        ("/opt/bin/kubectl-imagestreams", "kubectl imagestreams"),
        ("/srv/imagestreams/__main__.py", "imagestreams"),
    ],
)
def test_the_program_is_called_what_people_typed(called_as, name):
    assert program_name(called_as) == name


def test_the_list_of_commands_needs_none_of_them(run):
    for loaded in ("run", "import_image", "resolve", "explain"):
        sys.modules.pop(f"imagestreams.cli.{loaded}", None)
    code, out, err = run("--help")
    assert (code, err) == (0, "")
    assert re.search(r"import-image +Look up the image that a tag points to, now\.", out)
    assert re.search(r"run +Run the controller\.", out)
    assert re.search(r"resolve +Resolve the tags of manifests, without a cluster\.", out)
    assert re.search(r"explain +Tell step by step how one image is looked up\.", out)
    commands = {"run", "import_image", "resolve", "explain"}
    assert not {f"imagestreams.cli.{name}" for name in commands} & set(sys.modules)


@pytest.mark.parametrize("name", sorted(module._COMMANDS))
def test_every_command_of_the_list_exists_and_knows_its_name(run, name):
    code, out, _ = run(name, "-h", name="kubectl-imagestreams")
    assert code == 0
    assert out.startswith(f"Usage: kubectl imagestreams {name} ")


def test_the_version(run):
    assert run("--version") == (0, f"imagestreams {__version__}\n", "")


@pytest.mark.parametrize("args", [("import-images",), ("--nonsense",), ("import-image",)])
def test_called_wrongly(run, args):
    code, out, err = run(*args)
    assert (code, out) == (2, "")
    assert err.startswith("Usage: imagestreams")


def test_both_names_are_installed():
    folder = Path(sys.executable).parent
    for name, shown in (("imagestreams", "imagestreams"), ("kubectl-imagestreams", "kubectl imagestreams")):
        done = subprocess.run([folder / name, "--help"], capture_output=True, text=True, check=True)
        assert done.stdout.startswith(f"Usage: {shown} ")


# ---- how it ends ----


async def test_interrupted(tmp_path):
    async with FakeApiServer() as server:
        server.define(API, "imagestreams", "ImageStream", status=True)
        server.put(stream())
        waiting = asyncio.Event()

        async def answer_never(request, serve):
            waiting.set()
            return await hang()(request, serve)

        server.inject(answer_never, verb="watch")
        config = str(server.kubeconfig(tmp_path / "config"))
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "imagestreams", "import-image", "web", "--kubeconfig", config),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        await asyncio.wait_for(waiting.wait(), 30)
        child.send_signal(signal.SIGINT)
        out, err = await asyncio.wait_for(child.communicate(), 30)
    assert (child.returncode, out, err.strip()) == (130, b"", b"")


def test_the_reader_of_the_output_is_gone():
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "imagestreams", "run", "--help"], stdout=writing, stderr=subprocess.PIPE, check=False
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        (["import-image", "web", "-n", "shop"], ["import-image", "web", "-n", "shop"]),
        (["-n", "shop", "import-image", "web"], ["import-image", "-n", "shop", "web"]),
        (["--context=c", "--as", "me", "import-image", "web"], ["import-image", "--context=c", "--as", "me", "web"]),
        (["--version"], ["--version"]),
        (["-n"], ["-n"]),
        ([], []),
    ],
)
def test_kubectls_flags_may_come_before_the_command(typed: list[str], read: list[str]):
    assert module._command_first(typed) == read


# ---- how it starts ----


def imported(importtime: str) -> set[str]:
    """The top-level packages that `-X importtime` names."""
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in importtime.splitlines() if "|" in line}


async def test_a_call_imports_nothing_heavy(tmp_path):
    """Asking for help, and a whole call over TLS or not, to an image stream that is there."""
    async with FakeApiServer() as server:
        server.define(API, "imagestreams", "ImageStream", status=True)
        server.put(stream())
        config = str(server.kubeconfig(tmp_path / "config"))
        arguments = ("-X", "importtime", "-m", "imagestreams", "import-image")
        helped = await asyncio.to_thread(process, *arguments, "--help")
        called = await asyncio.to_thread(process, *arguments, "web", "--wait=false", "--kubeconfig", config)
    assert called.stdout == "imagestream.image.openshift.io/web import requested\n"
    for done in (helped, called):
        assert done.returncode == 0
        assert "imagestreams" in imported(done.stderr)
        assert not imported(done.stderr) & HEAVY
    assert "ssl" in imported(called.stderr), "the list of imports was read right"


@pytest.mark.parametrize("command", ["resolve", "explain"])
def test_what_asks_registries_itself_loads_for_that_only_when_it_does(command):
    done = process("-X", "importtime", "-m", "imagestreams", command, "--help")
    assert done.returncode == 0
    assert "imagestreams" in imported(done.stderr)
    assert not imported(done.stderr) & (HEAVY | {"yaml"})
