"""How long a command takes to start, as a multiple of `python -c "import click"` by the same interpreter. The bar is 3.

    python -m bench.cli_start [COMMAND ...]

All are measured in turns, so that a busy machine hits them alike, and each counts at its best: others' work can make a
program slower, and never faster. Measured are the help of every command, or of those that are named, and whole calls of
two to an API server in this process.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from imagestreams.cli.main import COMMANDS
from tests.fakes.apiserver import FakeApiServer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

BAR = 3.0
_TURNS = 15
_API = "image.openshift.io/v1"
_STREAM = {
    "apiVersion": _API,
    "kind": "ImageStream",
    "metadata": {"name": "web", "namespace": "default"},
    "spec": {"tags": [{"name": "latest", "from": {"kind": "DockerImage", "name": "quay.io/acme/web"}}]},
}


def main() -> None:
    """Print the ratios; exit with 1 where one is over the bar."""
    with tempfile.TemporaryDirectory() as directory:
        ratios = asyncio.run(_measure(Path(directory)))
    for name, ratio in ratios.items():
        print(f"{name:<24} {ratio:.2f} x import click   (bar {BAR})")
    sys.exit(any(ratio > BAR for ratio in ratios.values()))


async def _measure(directory: Path) -> dict[str, float]:
    # Byte code is written once, as in an installation.
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(directory / "code"), "PYTHONDONTWRITEBYTECODE": ""}
    names = sys.argv[1:] or [*COMMANDS]
    program = ("-m", "imagestreams")
    calls: dict[str, tuple[str, ...]] = {f"{name} --help": (*program, name, "--help") for name in ("", *names)}
    async with FakeApiServer() as server:
        server.define(_API, "imagestreams", "ImageStream", status=True)
        server.put(_STREAM)
        config = ("--kubeconfig", str(server.kubeconfig(directory / "config")))
        calls["import-image web"] = (*program, "import-image", "web", "--wait=false", *config)
        calls["get tags web"] = (*program, "get", "tags", "web", *config)
        return await _ratios({name: [word for word in call if word] for name, call in calls.items()}, environment)


async def _ratios(calls: Mapping[str, Sequence[str]], environment: Mapping[str, str]) -> dict[str, float]:
    best, floor = dict.fromkeys(calls, float("inf")), float("inf")
    for _ in range(_TURNS):
        for name, call in calls.items():
            best[name] = min(best[name], await asyncio.to_thread(_seconds, call, environment))
        floor = min(floor, await asyncio.to_thread(_seconds, ("-c", "import click"), environment))
    return {name.strip(): seconds / floor for name, seconds in best.items()}


def _seconds(command: Sequence[str], environment: Mapping[str, str]) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, *command], env=environment, capture_output=True, check=True, timeout=60)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
