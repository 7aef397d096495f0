"""What the import of kubernetes_asyncio's loader costs, and what it leaves behind. In processes of their own: imports
cannot be undone.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap


def _python(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_the_models_are_not_imported() -> None:
    modules = _python("""
        import sys
        from imagestreams.kube.lazy import configuration_loader
        loader = configuration_loader()
        assert loader.small
        assert loader.configuration().verify_ssl
        assert not [name for name in sys.modules if name.startswith("kubernetes_asyncio")]
        print(len(sys.modules))
    """)
    assert int(modules) < 600  # 1260 with all of it


def test_all_of_it_can_still_be_imported() -> None:
    assert (
        _python("""
        from imagestreams.kube.lazy import configuration_loader
        loader = configuration_loader()
        import kubernetes_asyncio
        import kubernetes_asyncio.config
        print(kubernetes_asyncio.client.V1Lease(kind="Lease").kind, kubernetes_asyncio.config.load_kube_config.__name__)
    """)
        == "Lease load_kube_config"
    )


def test_what_is_imported_already_is_used() -> None:
    assert (
        _python("""
        import kubernetes_asyncio.config
        from imagestreams.kube.lazy import configuration_loader
        loader = configuration_loader()
        print(loader.small, loader.error is kubernetes_asyncio.config.ConfigException)
    """)
        == "False True"
    )


def test_a_package_laid_out_differently_is_imported_plainly() -> None:
    assert (
        _python("""
        import importlib, sys
        real = importlib.import_module
        def moved(name, *rest):
            is_stand_in = "kubernetes_asyncio.client.models" not in sys.modules
            if name == "kubernetes_asyncio.client.configuration" and is_stand_in:
                raise ModuleNotFoundError(name)
            return real(name, *rest)
        importlib.import_module = moved
        from imagestreams.kube.lazy import configuration_loader
        loader = configuration_loader()
        print(loader.small, loader.configuration().verify_ssl, loader.kubeconfig.KubeConfigLoader.__name__)
    """)
        == "False True KubeConfigLoader"
    )
