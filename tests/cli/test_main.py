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
COMMANDS = module.COMMANDS
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
    loaded = {f"imagestreams.cli.{name.replace('-', '_')}" for name in COMMANDS}
    for name in loaded:
        sys.modules.pop(name, None)
    code, _, err = run("--help")
    assert (code, err) == (0, "")
    assert not loaded & set(sys.modules)


def test_the_list_of_commands_is_grouped_and_whole(run):
    _, out, _ = run("--help")
    for title, section in module._SECTIONS.items():
        assert f"\n{title}:\n" in out
        for name, lazy in section.items():
            assert re.search(rf"^  {name} +{re.escape(lazy.words)}$", out, re.MULTILINE)
    assert "__complete" not in out
    for flag in (
        "--kubeconfig",
        "--as-group",
        "--request-timeout",
        "--token",
        "--insecure-skip-tls-verify",
        "-v",
        "--api-group",
    ):
        assert flag in out
    assert "Exit codes: 0 done, 1 failed, 2 called wrongly, 130 interrupted. Those of diff are kubectl diff's." in out


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_of_the_list_exists_and_knows_its_name(run, name):
    code, out, _ = run(name, "-h", name="kubectl-imagestreams")
    assert code == 0
    assert out.startswith(f"Usage: kubectl imagestreams {name} ")


@pytest.mark.parametrize("name", sorted(set(COMMANDS) - {"run"}))
def test_every_command_shows_how_it_is_used_and_how_it_ends(run, name):
    _, out, _ = run(name, "--help")
    assert "Examples:" in out
    assert "Exit code: 0 " in " ".join(out.split())


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (("hitsory",), "history"),
        (("import-images",), "import-image"),
        (("import",), "import-image"),
        (("list",), "get"),
        (("GET",), "get"),
        (("undo", "web"), "rollback"),
        (("pin", "web"), "rollback"),
        (("unpin",), "resume"),
        (("set", "triggers", "deploy/web"), "set-triggers"),
        (("set", "image-lookup", "web"), "set-lookup"),
        (("-n", "shop", "descrbe"), "describe"),
    ],
)
def test_a_command_that_there_is_not(run, typed, meant):
    code, out, err = run(*typed)
    assert (code, out) == (2, "")
    assert re.search(rf'Error: unknown command "[^"]*"; did you mean (.* or )?{meant}( or .*)?\?$', err.strip())


def test_a_command_like_no_other(run):
    _, _, err = run("xyzzy\x1b[31m")
    assert err.rstrip().endswith("""unknown command "'xyzzy\\x1b[31m'\"""")


def test_what_people_type_elsewhere_is_here():
    assert set(module._KNOWN_ELSEWHERE.values()) <= set(COMMANDS)
    assert not set(module._KNOWN_ELSEWHERE) & set(COMMANDS)


@pytest.mark.parametrize(
    ("typed", "same"),
    [
        (("help",), ("--help",)),
        (("help", "get"), ("get", "--help")),
        (("help", "create", "imagestreamtag"), ("create", "imagestreamtag", "--help")),
        (("-n", "shop", "help", "get"), ("get", "--help")),
    ],
)
def test_help_is_a_command_too(run, typed, same):
    assert run(*typed) == run(*same)
    assert run(*typed)[0] == 0


def test_help_on_a_command_that_there_is_not(run):
    code, _, err = run("help", "hitsory")
    assert code == 2
    assert "did you mean history?" in err


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
    assert (child.returncode, out) == (130, b"")
    assert b"Traceback" not in err


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


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize(
    ("args", "code"),
    [
        (("get", "streams"), 1),
        (("get", "streams", "-o", "json"), 1),
        (("describe", "is/web"), 1),
        (("completion", "bash"), 1),
        (("--help",), 1),
        (("diff", "-o", "json"), 2),  # 1 says that there are differences
        (("-A", "diff", "-o", "json"), 2),
    ],
)
async def test_a_disk_that_is_full(tmp_path, args, code):
    async with FakeApiServer() as server:
        server.define(API, "imagestreams", "ImageStream", status=True)
        server.put(stream())
        environment = {**os.environ, "KUBECONFIG": str(server.kubeconfig(tmp_path / "config"))}
        full = os.open("/dev/full", os.O_WRONLY)
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "imagestreams", *args), stdout=full, stderr=subprocess.PIPE, env=environment
        )
        os.close(full)
        _, err = await asyncio.wait_for(child.communicate(), 30)
    assert (child.returncode, err) == (code, b"error: cannot write: No space left on device\n")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize(
    ("args", "code"),
    [
        ("get streams", 0),
        ("get streams -o json", 0),
        ("get pods", 2),
        ("get streams --context nope", 1),
        ("resolve -f -", 2),
        ("--help", 0),
    ],
)
async def test_what_is_closed_is_like_nothing(tmp_path, args, code, closed):
    async with FakeApiServer() as server:
        server.define(API, "imagestreams", "ImageStream", status=True)
        server.put(stream())
        environment = {**os.environ, "KUBECONFIG": str(server.kubeconfig(tmp_path / "config"))}
        child = await asyncio.create_subprocess_shell(
            f"{sys.executable} -m imagestreams {args} {closed}",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
        )
        out, err = await asyncio.wait_for(child.communicate(), 30)
    assert (child.returncode, b"Traceback" in err) == (code, False), err
    assert bool(out) is (not code and ">&-" not in closed.replace("2>&-", "").strip()), out


@pytest.mark.parametrize(
    "args", [("get", "streams", "-n", "\udcff"), ("get", "tags", "web\udcff"), ("\udcff",), ("run", "--x=\udc80")]
)
def test_arguments_that_are_no_text(run, args):
    code, out, err = run(*args)
    assert (code, out) == (2, "")
    assert re.fullmatch(r"error: '.*\\udc(ff|80)' is no UTF-8 text\n", err)


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        (["import-image", "web", "-n", "shop"], ["import-image", "web", "-n", "shop"]),
        (["-n", "shop", "import-image", "web"], ["import-image", "-n", "shop", "web"]),
        (["--context=c", "--as", "me", "import-image", "web"], ["import-image", "--context=c", "--as", "me", "web"]),
        (["-A", "get", "tags"], ["get", "-A", "tags"]),
        (["-v", "6", "-s=https://h", "get"], ["get", "-v", "6", "-s=https://h"]),
        (["-v", "get", "tags"], ["get", "-v", "tags"]),
        (["-v6", "--token", "get", "get"], ["get", "-v6", "--token", "get"]),
        (["--api-group", "g", "get", "tags"], ["get", "--api-group", "g", "tags"]),
        (["--version"], ["--version"]),
        (["-n"], ["-n"]),
        ([], []),
    ],
)
def test_kubectls_flags_may_come_before_the_command(typed: list[str], read: list[str]):
    assert module.command_first(typed) == read


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


@pytest.mark.parametrize("command", COMMANDS)
def test_help_loads_little(command):
    """What a command needs to act is loaded when it does; `python -m bench.cli_start` says how fast that is."""
    done = process("-X", "importtime", "-m", "imagestreams", command, "--help")
    assert done.returncode == 0
    assert "imagestreams" in imported(done.stderr)
    speaks_to_a_cluster = {"import-image", "tag", "set-triggers", "set-lookup"}
    assert not imported(done.stderr) & (HEAVY | {"cryptography"})
    assert command in speaks_to_a_cluster or not imported(done.stderr) & {"yaml", "ssl"}


async def test_calls_that_read_import_nothing_heavy(tmp_path):
    async with FakeApiServer() as server:
        server.define(API, "imagestreams", "ImageStream", status=True)
        server.put(stream())
        config = str(server.kubeconfig(tmp_path / "config"))
        for call in (("get", "tags", "web"), ("describe", "web:latest"), ("version",)):
            arguments = ("-X", "importtime", "-m", "imagestreams", *call, "--kubeconfig", config)
            done = await asyncio.to_thread(process, *arguments)
            assert done.returncode == 0, done.stderr[-500:]
            assert "msgspec" in imported(done.stderr)
            assert not imported(done.stderr) & (HEAVY | {"cryptography"})
