"""Servers that this Python process starts: free ports, log files, readiness, and an end that leaves nothing behind.

They live in one process group of their own, so that Ctrl-C in a terminal reaches only us and we stop them in order.
The group's leader is a small shell that reads from a pipe whose other end only we hold: when we are gone, however we
went, it ends the others. (PR_SET_PDEATHSIG would be shorter, but it fires when the *thread* that forked ends, and
needs code between fork and exec, which Python calls unsafe beside threads.)
"""

from __future__ import annotations

import atexit
import contextlib
import os
import random
import socket
import subprocess
import time
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

_leader: subprocess.Popen[bytes] | None = None
_started: set[Server] = set()
_WATCH = "trap '' TERM; read _; kill -TERM 0; sleep 3; kill -KILL 0"


class StartError(Exception):
    """A server did not become ready, or did not end; the message quotes the end of its log."""


def free_port() -> int:
    """A TCP port that is free on 127.0.0.1 at this moment.

    Below the ephemeral range (from 32768 on Linux), so that no outgoing connection takes it before the server does, nor
    while a server is stopped to be started again on the same port.
    """
    while True:
        port = random.randrange(12000, 32000)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return port


class Server:
    """One started program with its log file.

    Args:
        name: for messages and the log's file name.
        command: program and arguments; the program by its path.
        directory: where `<name>.log` is written; a log that is there is appended to.
        environment: added to ours.
    """

    def __init__(
        self, name: str, command: Sequence[str | Path], directory: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.log = directory / f"{name}.log"
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                cwd=directory,
                env={**os.environ, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                process_group=_process_group(),
            )
        _started.add(self)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def wait_until(self, is_ready: Callable[[], bool], what: str, *, seconds: float = 60) -> None:
        """Ask `is_ready` until it says yes; an OSError it raises (connection refused) means "not yet".

        Raises:
            StartError: the program has ended, or `seconds` have passed.
        """
        deadline = time.monotonic() + seconds
        while True:
            with contextlib.suppress(OSError):
                if is_ready():
                    return
            if not self.running:
                raise StartError(f"{self.name} ended with code {self._process.returncode}\n{self.tail()}")
            if time.monotonic() > deadline:
                raise StartError(f"{self.name}: no {what} after {seconds:g} s\n{self.tail()}")
            time.sleep(0.02)

    def tail(self, lines: int = 20) -> str:
        """The end of the log, headed by its path."""
        text = self.log.read_text(errors="replace").splitlines()[-lines:]
        return "\n".join([f"the end of {self.log}:", *(f"  {line}" for line in text)])

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; without effect when the program has ended."""
        self._process.send_signal(number)

    def stop(self, *, seconds: float = 10) -> None:
        """SIGTERM, SIGKILL after `seconds`; returns when the program has ended. Stopping twice is fine."""
        self._process.terminate()
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        _started.discard(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _process_group() -> int:
    """The process group of our servers; its leader ends them when we are gone."""
    global _leader  # noqa: PLW0603 (one per Python process, like the process itself)
    if _leader is None or _leader.poll() is not None:
        _leader = subprocess.Popen(["/bin/sh", "-c", _WATCH], stdin=subprocess.PIPE, process_group=0)
        atexit.register(_end, _leader)
    return _leader.pid


def _end(leader: subprocess.Popen[bytes]) -> None:
    for server in tuple(_started):
        server.stop()
    leader.kill()
    leader.communicate()
