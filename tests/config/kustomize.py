"""Renders what config/ holds, without a cluster."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

from dev import binaries

ROOT = Path(__file__).parents[2]


def render(folder: str) -> list[dict[str, Any]]:
    """The objects of `kubectl kustomize FOLDER`, in its order."""
    return list(yaml.safe_load_all(render_text(folder)))


def render_text(folder: str) -> str:
    kubectl = binaries.find("kubectl") or shutil.which("kubectl") or binaries.ensure(["kubectl"])["kubectl"]
    done = subprocess.run([kubectl, "kustomize", ROOT / folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, "kustomize warns of what it will refuse later"
    return done.stdout
