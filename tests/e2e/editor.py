"""`kubectl edit`, typed by somebody whose editor is a few lines of Python."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

from dev.control_plane import ControlPlane


def edit(plane: ControlPlane, directory: Path, script: str, *args: str) -> tuple[subprocess.CompletedProcess[str], str]:
    """`kubectl edit ARGS`, where the editor does to the file what `script` does to the object `found`.

    Returns what kubectl made of it, and all that the editor was shown: when kubectl opens the file a second time, it
    says there what is wrong. `directory` is for files of the editor's and of kubectl's.
    """
    editor, seen = directory / "editor.py", directory / "seen"
    seen.unlink(missing_ok=True)
    editor.write_text(
        "import pathlib, sys, yaml\n"
        "path = pathlib.Path(sys.argv[1])\n"
        f"pathlib.Path({str(seen)!r}).open('a').write(path.read_text())\n"
        "found = yaml.safe_load(path.read_text())\n"
        f"{script}\n"
        "path.write_text(yaml.safe_dump(found))\n"
    )
    environment = {
        **os.environ,
        "KUBE_EDITOR": shlex.join([sys.executable, str(editor)]),
        "KUBECACHEDIR": str(plane.directory / "kubectl-cache"),
        "KUBERC": "off",
        "TMPDIR": str(directory),
    }
    done = subprocess.run(
        [plane.programs["kubectl"], f"--kubeconfig={plane.kubeconfig}", "edit", *args],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done, seen.read_text() if seen.exists() else ""
