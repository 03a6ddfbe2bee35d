"""The real client against one real daemon with the sandbox driver, and its own home."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import structlog

from anvild.cli import client
from tests.daemon import Daemon

CONFIG = """
[drivers.microvm]
enabled = false
"""


@pytest.fixture(scope="session")
def lab(daemon_factory: Callable[..., Daemon]) -> Daemon:
    """A daemon with a first user, whose sandbox driver is ready."""
    made = daemon_factory(CONFIG)
    made.bootstrap()
    made.start()
    made.wait_for_driver("sandbox")
    return made


@pytest.fixture
def environ(lab: Daemon, tmp_path: Path) -> dict[str, str]:
    """The environment of a person who uses the lab."""
    own = {"HOME": str(tmp_path), "ANVIL_URL": lab.url, "ANVIL_API_KEY": lab.keys["live_key"]}
    return {**os.environ, **own, "ANVIL_DATA_DIR": str(tmp_path / "none")}


@pytest.fixture
def anvil(environ: Mapping[str, str]) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """Run the client to its end, in this process: its imports take longer than its work. What it configures is put
    back. The program itself is started by the tests that are about signals, terminals and streams."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level

    def run(*arguments: object, stdin: str = "", **changed: str) -> subprocess.CompletedProcess[str]:
        out, err = (io.TextIOWrapper(io.BytesIO(), write_through=True) for _ in range(2))
        words = [str(each) for each in arguments]
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            for name, value in {**environ, **changed}.items():
                patch.setenv(name, value)
            patch.setattr(sys, "stdin", io.StringIO(stdin))
            code = client.run(words)
        texts = [stream.buffer.getvalue().decode() for stream in (out, err)]
        return subprocess.CompletedProcess(words, code, *texts)

    yield run
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.fixture
def told(anvil: Callable[..., subprocess.CompletedProcess[str]]) -> Callable[..., Any]:
    """Run the client with ``--json`` and return its document; it must have worked."""

    def run(*arguments: object) -> Any:
        done = anvil("--json", *arguments)
        assert done.returncode == 0, f"{arguments}: {done.stderr}"
        return json.loads(done.stdout)

    return run
