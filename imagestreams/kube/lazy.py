"""kubernetes_asyncio's configuration loader, without the rest of kubernetes_asyncio.

Any `import kubernetes_asyncio...` runs `client/__init__`, which loads every model of every API: 0.3 s and 35 MB for
classes that we never use. The loader itself needs one of them, `Configuration`. So it is imported with two nearly
empty packages in the place of `kubernetes_asyncio` and `kubernetes_asyncio.client`, which are taken out of
`sys.modules` again: we keep private copies of seven small modules, and whoever imports kubernetes_asyncio in the same
process still gets all of it.

This leans on the package's layout. Where that is no longer as expected the plain import is used; a test tells us.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_PACKAGE = "kubernetes_asyncio"


@dataclass(frozen=True, slots=True)
class Loader:
    """What we use of kubernetes_asyncio, which is untyped where it matters; `imagestreams.kube.cluster` is the only
    reader.

    `small` is False where everything had to be imported.
    """

    configuration: Callable[[], Any]
    in_cluster: Callable[..., None]
    kubeconfig: ModuleType
    error: type[Exception]
    small: bool


@functools.cache
def configuration_loader() -> Loader:
    """The loader, one for the process: its exceptions are classes of its own. The first call takes some 50 ms."""
    if _PACKAGE in sys.modules:
        return _plain()
    try:
        return _small()
    except (ImportError, AttributeError):
        return _plain()


def _plain() -> Loader:
    return _loader(
        importlib.import_module(f"{_PACKAGE}.client"), importlib.import_module(f"{_PACKAGE}.config"), small=False
    )


def _small() -> Loader:
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"No package named {_PACKAGE!r}", name=_PACKAGE)
    root = Path(spec.submodule_search_locations[0])
    try:
        _stand_in(_PACKAGE, root)
        client = _stand_in(f"{_PACKAGE}.client", root / "client")
        client.Configuration = importlib.import_module(f"{_PACKAGE}.client.configuration").Configuration  # type: ignore[attr-defined]
        client.ApiClient = _NotLoaded  # type: ignore[attr-defined]
        return _loader(client, importlib.import_module(f"{_PACKAGE}.config"), small=True)
    finally:
        for name in [name for name in sys.modules if name == _PACKAGE or name.startswith(f"{_PACKAGE}.")]:
            del sys.modules[name]


def _stand_in(name: str, directory: Path) -> ModuleType:
    """A package whose `__init__` is not run and whose submodules can be imported."""
    module = ModuleType(name)
    module.__path__ = [str(directory)]
    sys.modules[name] = module
    return module


def _loader(client: ModuleType, config: ModuleType, *, small: bool) -> Loader:
    return Loader(
        # The class itself is callable, but its metaclass would hand out a copy of a process-wide default in some
        # releases.
        configuration=lambda: type.__call__(client.Configuration),
        in_cluster=config.load_incluster_config,
        kubeconfig=importlib.import_module(f"{_PACKAGE}.config.kube_config"),
        error=config.ConfigException,
        small=small,
    )


class _NotLoaded:
    """Stands for `ApiClient`, which two functions of the loader make and we never call."""

    def __init__(self, *_: object, **__: object) -> None:
        raise NotImplementedError(
            "kubernetes_asyncio's ApiClient is not loaded; requests go through imagestreams.kube.cluster"
        )
