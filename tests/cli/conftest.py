"""What the commands that ask registries have in common."""

from __future__ import annotations

import pytest
import structlog

from imagestreams.settings import TABLE


@pytest.fixture
def environment(monkeypatch):
    """Nothing of the machine's, and nothing left behind."""
    for row in TABLE:
        monkeypatch.delenv(row.variable, raising=False)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    yield
    structlog.reset_defaults()
