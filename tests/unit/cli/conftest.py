"""The client in this process, with a home of its own and no daemon."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog

from anvild.cli import client

Call = Callable[..., int]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty home; nothing of the real one, or of the environment, is seen. What a call configures is put back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    for name in ("ANVIL_URL", "ANVIL_API_KEY", "ANVIL_LISTEN", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("ANVIL_DATA_DIR", str(tmp_path / "data"))
    yield tmp_path
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.fixture
def anvil() -> Call:
    """Run ``anvil`` with these arguments and return its exit code."""
    return lambda *arguments: client.run([str(each) for each in arguments])
