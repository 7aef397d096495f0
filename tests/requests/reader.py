"""The reader of answers that is written in Go, with OpenShift's own types: `dev/gomods/openshift-api`."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from typing import Any

from dev import binaries


class Read:
    """What the reader printed, and how it ended."""

    def __init__(self, done: subprocess.CompletedProcess[bytes]) -> None:
        self.code = done.returncode
        self.lines = done.stdout.decode().splitlines()
        self.errors = done.stderr.decode().splitlines()

    def __repr__(self) -> str:
        return "\n".join([f"ended with {self.code}", *self.lines, *self.errors])


Reader = Callable[[Any], Read]


def reader() -> Reader:
    """The program, built where it is not there yet."""
    program = binaries.ensure(["openshift-api"])["openshift-api"]

    def read(found: Any) -> Read:
        body = found if isinstance(found, bytes) else json.dumps(found).encode()
        return Read(subprocess.run([program, "web"], input=body, capture_output=True, timeout=30, check=False))

    return read
